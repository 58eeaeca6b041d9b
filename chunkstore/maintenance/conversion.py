"""A foreign run → the objects of a run of ours: checked value by value, put together once to see that it will be, and stamped in its order.

The same record always becomes the same bytes: so a second import finds what the first one left. Pure, but for the clock of the host, whose
time zone holds for times without one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final, TypeAlias, cast

from pydantic import ValidationError

from chunkstore import codec, keys, values
from chunkstore.assembly import Branch, Parts, Run, Step, assemble
from chunkstore.clock import stamp_of
from chunkstore.codec import Chunk, Envelope
from chunkstore.errors import FormatError, InvalidInputError
from chunkstore.keys import ChunkId, Kind
from chunkstore.maintenance.foreign import TYPED, Fields, Piece, Record, started
from chunkstore.models import BranchLog, RunLog, StepLog
from chunkstore.schema import MAX_PARAMETER_DEPTH, OWN
from chunkstore.values import Content, Json

_WRITER: Final[Mapping[str, int]] = {"imported": 1}
"""Not of a session, which would be another one each time."""

Contents: TypeAlias = dict[ChunkId, Content]


def objects_of(record: Record, *, compress_above: int | None) -> dict[str, bytes]:
    """The run's objects by their keys, the header's too.

    Raises `FormatError` where the record is damaged or would not come back as it is, and `InvalidInputError` for names and values that cannot
    be stored; nothing is left out.
    """
    contents = _contents(record)
    stamps = dict(_stamps(record, _put_together(record)))
    header = keys.header(record.run_id)
    founded = stamps[header]
    found = {}
    for chunk, content in contents.items():
        belongs = "" if chunk.kind is Kind.HEADER else founded
        kind = str.__str__(chunk.kind)
        envelope = Envelope(chunk.run_id, kind, chunk.name, chunk.scope, stamps[chunk], dict(_WRITER), founded=belongs)
        if chunk.key in found:
            raise InvalidInputError(f"{chunk} of run {record.run_id!r} is there twice", run_id=record.run_id)
        found[chunk.key] = codec.encode(Chunk(envelope, content), compress_above=compress_above)
    return found


# Values.


def _contents(record: Record) -> Contents:
    """What each chunk holds."""
    run_id = record.run_id
    found = {keys.header(run_id): _content(Kind.HEADER, record.header, record.place, record.typed)}
    if record.job is not None:
        found[keys.job(run_id)] = _content(Kind.JOB, record.job, record.place, record.typed)
    for name, piece in record.steps.items():
        found[keys.step(run_id, name)] = _content(Kind.STEP, piece.fields, piece.place, record.typed)
    for name, piece in record.branches.items():
        found[keys.branch(run_id, name)] = _content(Kind.BRANCH, piece.fields, piece.place, record.typed)
    for (scope, name), value in record.parameters.items():
        found[keys.parameter(run_id, name, scope)] = _parameter(name, value, record)
    return found


def _content(kind: Kind, fields: Fields, place: str, typed: bool) -> Content:
    """The chunk's JSON, in which every value of the fields is kept."""
    try:
        content = OWN.write(kind, OWN.class_of(kind).model_validate(fields))
    except ValidationError as error:
        wrong = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, wrong["loc"])) or "it"
        raise FormatError(f"{place} holds no {kind.value} log: {where}: {wrong['msg']}") from error
    except InvalidInputError as error:
        raise InvalidInputError(f"{place} cannot be stored as it is: {error}") from error
    lost = next(_lost(fields, values.decode(content), typed), None)
    if lost is not None:
        raise FormatError(
            f"{place} cannot be kept as it is: the value at {lost or 'the top'} would come back as another"
        )
    return content


def _lost(before: Json, after: Json, typed: bool, pointer: str = "") -> Iterator[str]:
    """Where a value is not kept. Statuses are stored in upper case, and what runnable computes of a parameter is not stored."""
    if isinstance(before, dict) and isinstance(after, dict):
        computed = {"description"} if typed and _is_typed(before) else set()
        for name in before.keys() - computed:
            if name not in after:
                yield f"{pointer}/{name}"
            elif not (name == "status" and _is_that_status(before[name], after[name])):
                yield from _lost(before[name], after[name], typed, f"{pointer}/{name}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (first, second) in enumerate(zip(before, after, strict=True)):
            yield from _lost(first, second, typed, f"{pointer}/{index}")
    elif not values.same(before, after):
        yield pointer


def _is_that_status(before: Json, after: Json) -> bool:
    return isinstance(before, str) and before.upper() == after


def _is_typed(value: Json) -> bool:
    """Whether this is a parameter of runnable, as runnable writes it."""
    return isinstance(value, dict) and value.get("kind") in TYPED and value.keys() == {"kind", "value", "description"}


def _parameter(name: str, value: Json, record: Record) -> Content:
    fields: Mapping[str, Json] = {"value": value}
    if record.typed and isinstance(value, dict) and {"kind", "value"} <= value.keys():
        fields = {key: item for key, item in value.items() if key != "description" or not _is_typed(value)}
    try:
        content = values.encode_strictly(fields, max_depth=MAX_PARAMETER_DEPTH)
        OWN.read_parameter(content, name)
    except (InvalidInputError, FormatError) as error:
        raise type(error)(f"{record.place} has a parameter {name!r} that cannot be stored: {error}") from error
    return content


# Nesting.


def _put_together(record: Record) -> RunLog:
    """The run as it will be read, without what its steps and branches hold themselves. Raises `FormatError` where that is not as it was found."""
    parts = Parts()
    for name, step in record.steps.items():
        last = step.fields.get("name")
        parts.steps[name] = cast(Step, StepLog(name=last if isinstance(last, str) else name, internal_name=name))
    for name in record.branches:
        parts.branches[name] = cast(Branch, BranchLog(internal_name=name))
    parts.parameters = [(scope, name, None) for scope, name in record.parameters if scope]
    run = RunLog(run_id=record.run_id)
    assemble(cast(Run, run), parts, _Missing(record))
    for kind, name, holder in _holders(run.steps, ""):
        piece = (record.steps if kind is Kind.STEP else record.branches)[name]
        if piece.holder is not None and piece.holder != holder:
            raise FormatError(
                f"{piece.place} has the {kind.value} {name!r} in {piece.holder or 'the run'!r}, and its name says {holder or 'the run'!r}"
            )
    return run


def _holders(steps: Mapping[str, StepLog], branch: str) -> Iterator[tuple[Kind, str, str]]:
    """Each step and branch, and what holds it."""
    for name, step in steps.items():
        yield Kind.STEP, name, branch
        for inner, found in step.branches.items():
            yield Kind.BRANCH, inner, name
            yield from _holders(found.steps, inner)


class _Missing:
    """Refuses what has no parent: no placeholder may stand for what a tool lost."""

    def __init__(self, record: Record) -> None:
        self._record = record

    def step(self, name: str, internal_name: str) -> Step:
        del name
        raise self._error("step", internal_name)

    def branch(self, internal_name: str) -> Branch:
        raise self._error("branch", internal_name)

    def _error(self, kind: str, name: str) -> FormatError:
        return FormatError(
            f"{self._record.place} has no {kind} {name!r}, but something that belongs to it; it was lost"
        )


# Order.


def _stamps(record: Record, run: RunLog) -> Iterator[tuple[ChunkId, str]]:
    """The creation time of each chunk: what the source tells, as far as it is later than what stands before it in the same branch."""
    run_id = record.run_id
    at = _began(record)
    of_scope: dict[str, list[str]] = {}
    for scope, name in record.parameters:
        of_scope.setdefault(scope, []).append(name)

    def parameters(scope: str, at: int) -> Iterator[tuple[ChunkId, str]]:
        for number, name in enumerate(of_scope.get(scope, ()), 1):
            yield keys.parameter(run_id, name, scope), stamp_of(at + number)

    def steps(found: Mapping[str, StepLog], last: int) -> Iterator[tuple[ChunkId, str]]:
        for name, step in found.items():
            last = _later(record.steps[name], last, record.latest)
            yield keys.step(run_id, name), stamp_of(last)
            inner = last
            for branch, log in step.branches.items():
                inner = _later(record.branches[branch], inner, record.latest)
                yield keys.branch(run_id, branch), stamp_of(inner)
                yield from parameters(branch, inner)
                yield from steps(log.steps, inner)

    yield keys.header(run_id), stamp_of(at)
    if record.job is not None:
        yield keys.job(run_id), stamp_of(at + 1)
    yield from parameters("", at)
    yield from steps(run.steps, at)


def _began(record: Record) -> int:
    """When the run was created, as far as anything tells."""
    if record.at is not None:
        return min(record.at, record.latest)
    known = [piece.at for piece in (*record.steps.values(), *record.branches.values())]
    known += [] if record.job is None else [started(record.job)]
    return min((at for at in known if at is not None and at < record.latest), default=record.latest)


def _later(piece: Piece, last: int, latest: int) -> int:
    return last + 1 if piece.at is None else max(last + 1, min(piece.at, latest))
