"""A run as one JSON object, for files that leave the store and come back: all that its chunks say, nested as people read it.

    {"_chunkstore":{"export":1,"created_at":{"run.json":"2026-…Z","step.map.json":"2026-…Z",…},"exact":{"/parameters/loss":"float:nan"}},
     "run_id":"nightly","status":"SUCCESS",…,"created_at":"2026-…","parameters":{…},"job":{…},"steps":{"map":{…,"branches":{"map.eu":{…}}}}}

The fields are those that the chunks hold, whatever client wrote them, and not those that a model makes of them. What JSON cannot hold stands in
`exact`, as in a chunk. Everything under `created_at` of the first key is a chunk, and nothing else is: a placeholder of a step that was
never stored is no step when it comes back.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, TypeAlias, cast

from pydantic_core import from_json

from chunkstore import codec, keys, values
from chunkstore.clock import as_datetime, is_stamp
from chunkstore.codec import Chunk, Envelope
from chunkstore.errors import FormatError, InvalidInputError
from chunkstore.keys import ChunkId, Kind
from chunkstore.known import Stored
from chunkstore.models import BranchLog, RunLog, StepLog
from chunkstore.schema import MAX_PARAMETER_DEPTH, OWN
from chunkstore.values import Content, Json

FORMAT: Final = 1

OURS: Final = "_chunkstore"
"""The first key of each run."""
_CHILDREN: Final[Mapping[Kind, frozenset[str]]] = {
    Kind.HEADER: frozenset({"job", "parameters", "steps", "created_at"}),
    Kind.JOB: frozenset(),
    Kind.STEP: frozenset({"branches"}),
    Kind.BRANCH: frozenset({"parameters", "steps"}),
}
"""What stands in the object and is no field of the chunk."""
Fields: TypeAlias = dict[str, Json]


def write(run_log: RunLog, chunks: Iterable[Stored]) -> bytes:
    """One line of JSON for a run that was read in full. Raises `InvalidInputError` where it is nested too deep for one object."""
    return _Written(run_log.run_id, chunks).line(run_log)


class _Written:
    """The fields of a run's chunks, by key."""

    def __init__(self, run_id: str, chunks: Iterable[Stored]) -> None:
        self._run_id = run_id
        found = sorted(chunks, key=lambda stored: stored.chunk.envelope.created_at)
        self._fields = {stored.key: values.decode(stored.chunk.content) for stored in found}
        self._stamps = {stored.key: stored.chunk.envelope.created_at for stored in found}
        self._unlike: list[str] = []

    def line(self, run_log: RunLog) -> bytes:
        """All of it."""
        try:
            content = values.encode(self._tree(run_log))
        except (InvalidInputError, RecursionError) as error:
            raise InvalidInputError(
                f"run {self._run_id!r} cannot be one JSON object: {error}. cp takes it to another store as it is",
                run_id=self._run_id,
            ) from error
        first = values.encode({OURS: self._facts(content)}).body
        return first[:-1] + b"," + content.body[1:]

    def _tree(self, run_log: RunLog) -> Fields:
        header = keys.key_of(keys.header(self._run_id))
        tree: Fields = dict(self._fields[header])
        tree["created_at"] = as_datetime(self._stamps[header]).isoformat()
        tree["parameters"] = self._parameters(run_log.parameters, "")
        job = self._fields.get(keys.key_of(keys.job(self._run_id)))
        if job is not None:
            tree["job"] = job
        tree["steps"] = self._steps(run_log.steps)
        return tree

    def _facts(self, content: Content) -> dict[str, object]:
        stamps = {key.partition("/")[2]: stamp for key, stamp in self._stamps.items()}
        facts: dict[str, object] = {"export": FORMAT, "created_at": stamps}
        if content.exact:
            facts["exact"] = dict(content.exact)
        if self._unlike:
            facts["unlike"] = self._unlike
        return facts

    def _parameters(self, named: Mapping[str, object], scope: str) -> Json:
        found: Fields = {}
        for name in named:
            key = keys.key_of(keys.parameter(self._run_id, name, scope))
            fields = self._fields[key]
            is_plain = fields.keys() == {"value"}
            found[name] = fields["value"] if is_plain else fields
            if is_plain == _looks_typed(found[name]):
                self._unlike.append(key.partition("/")[2])
        return found

    def _steps(self, steps: Mapping[str, StepLog]) -> Json:
        return {name: self._step(step) for name, step in steps.items()}

    def _step(self, step: StepLog) -> Json:
        key = keys.key_of(keys.step(self._run_id, step.internal_name))
        tree = dict(self._fields[key]) if key in self._fields else _placeholder(step)
        if step.branches:
            tree["branches"] = {name: self._branch(branch) for name, branch in step.branches.items()}
        return tree

    def _branch(self, branch: BranchLog) -> Json:
        key = keys.key_of(keys.branch(self._run_id, branch.internal_name))
        tree = dict(self._fields[key]) if key in self._fields else _placeholder(branch)
        tree["parameters"] = self._parameters(branch.parameters, branch.internal_name)
        tree["steps"] = self._steps(branch.steps)
        return tree


def _looks_typed(value: Json) -> bool:
    """Whether a parameter stands there with its kind; `unlike` lists those for which this is wrong."""
    return isinstance(value, dict) and {"kind", "value"} <= value.keys()


def _placeholder(log: StepLog | BranchLog) -> Fields:
    return values.decode(values.encode(log.model_dump(exclude={"branches", "steps", "parameters"}, warnings=False)))


def read(line: bytes, place: str) -> Fields:
    """The object in a line. Raises `FormatError` that names the place, for what is no run that we exported."""
    try:
        tree = from_json(line, allow_inf_nan=False)
    except ValueError as error:
        raise FormatError(f"{place} is no JSON: {error}. Was the file cut off?") from error
    facts = tree.get(OURS) if isinstance(tree, dict) else None
    if not isinstance(facts, dict) or not isinstance(tree.get("run_id"), str):
        raise FormatError(f"{place} is no run that chunkstore exported: it has no {OURS!r} and run_id")
    if facts.get("export") != FORMAT:
        raise FormatError(
            f"{place} is an export of format {facts.get('export')!r}; this chunkstore reads {FORMAT}: upgrade it"
        )
    exact = facts.get("exact")
    if not exact:
        return cast(Fields, tree)
    try:
        return values.decode(Content(line, cast(Mapping[str, str], exact)))
    except (FormatError, AttributeError, TypeError) as error:
        raise FormatError(f"{place} is no whole run: {error}") from error


def objects_of(tree: Fields, place: str, *, compress_above: int | None) -> dict[str, bytes]:
    """The run's objects by their keys, always the same bytes. Raises `FormatError`, `InvalidInputError`."""
    try:
        return dict(_Read(tree, compress_above).objects())
    except (KeyError, TypeError, AttributeError, IndexError) as error:
        raise FormatError(f"{place} is no whole run: {type(error).__name__}: {error}") from error
    except FormatError as error:
        raise FormatError(f"{place} is no whole run: {error}") from error


class _Read:
    """A run's tree, taken apart into chunks."""

    def __init__(self, tree: Fields, compress_above: int | None) -> None:
        facts = cast(Fields, tree[OURS])
        self._tree = tree
        self._stamps = cast(Mapping[str, str], facts["created_at"])
        self._unlike = frozenset(cast(list[str], facts.get("unlike", [])))
        self._compress_above = compress_above
        self._run_id = cast(str, tree["run_id"])
        self._founded = self._stamps["run.json"]
        self._seen: set[str] = set()

    def objects(self) -> Iterator[tuple[str, bytes]]:
        """Key and bytes of each chunk. Raises `FormatError` where one is missing that the first key names."""
        tree = self._tree
        yield from self._chunk(keys.header(self._run_id), tree)
        if tree.get("job") is not None:
            yield from self._chunk(keys.job(self._run_id), cast(Fields, tree["job"]))
        yield from self._parameters(cast(Fields, tree["parameters"]), "")
        yield from self._steps(cast(Fields, tree["steps"]))
        missing = self._stamps.keys() - self._seen
        if missing:
            raise FormatError(f"it lacks {', '.join(sorted(missing)[:3])}")

    def _steps(self, steps: Fields) -> Iterator[tuple[str, bytes]]:
        for name, step in cast(dict[str, Fields], steps).items():
            yield from self._chunk(keys.step(self._run_id, name), step)
            for branch_name, branch in cast(dict[str, Fields], step.get("branches", {})).items():
                yield from self._chunk(keys.branch(self._run_id, branch_name), branch)
                yield from self._parameters(cast(Fields, branch["parameters"]), branch_name)
                yield from self._steps(cast(Fields, branch["steps"]))

    def _parameters(self, parameters: Fields, scope: str) -> Iterator[tuple[str, bytes]]:
        for name, value in parameters.items():
            chunk = keys.parameter(self._run_id, name, scope)
            file = chunk.key.partition("/")[2]
            is_typed = _looks_typed(value) != (file in self._unlike)
            yield from self._chunk(chunk, cast(Fields, value) if is_typed else {"value": value})

    def _chunk(self, chunk: ChunkId, fields: Fields) -> Iterator[tuple[str, bytes]]:
        file = chunk.key.partition("/")[2]
        if file not in self._stamps:  # a placeholder
            return
        stamp = self._stamps[file]
        if not is_stamp(stamp):
            raise FormatError(f"{file} was created at {stamp!r}, which is no time")
        self._seen.add(file)
        content = _content(chunk.kind, fields)
        _require_that_it_can_be_read(chunk, content)
        founded = "" if chunk.kind is Kind.HEADER else self._founded
        envelope = Envelope(chunk.run_id, str.__str__(chunk.kind), chunk.name, chunk.scope, stamp, founded=founded)
        yield chunk.key, codec.encode(Chunk(envelope, content), compress_above=self._compress_above)


def _require_that_it_can_be_read(chunk: ChunkId, content: Content) -> None:
    if chunk.kind is Kind.PARAMETER:
        OWN.read_parameter(content, chunk.key)
    else:
        OWN.read(chunk.kind, content, chunk.key)


def _content(kind: Kind, fields: Fields) -> Content:
    if kind is Kind.PARAMETER:
        return values.encode_strictly(fields, max_depth=MAX_PARAMETER_DEPTH)
    return values.encode({name: value for name, value in fields.items() if name not in {OURS, *_CHILDREN[kind]}})
