"""What differs between two run logs: parameters, code, data, statuses, durations, steps that only one has. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final, Literal, TypeAlias, TypeVar, cast, get_args

from pydantic import BaseModel

from chunkstore import values
from chunkstore.errors import InvalidInputError
from chunkstore.models import (
    BranchLog,
    CodeIdentity,
    DataCatalog,
    JobLog,
    JsonParameter,
    MetricParameter,
    ObjectParameter,
    RunLog,
    StepLog,
)
from chunkstore.timeline import timeline_of
from chunkstore.values import Json

DifferenceKind = Literal[
    "run",
    "status",
    "step",
    "branch",
    "parameter",
    "metric",
    "code",
    "data",
    "attempts",
    "duration",
    "config",
    "variable",
]
"""Of what two runs may differ, in the order in which a comparison gives it."""

Change = Literal["changed", "only left", "only right"]

KINDS: Final[tuple[DifferenceKind, ...]] = get_args(DifferenceKind)

JOB: Final = "(job)"
"""The name under which a difference of the job is told."""

_RUN_FIELDS: Final = ("tag", "dag_hash", "use_cached", "original_run_id")
_STEP_FIELDS: Final = ("step_type", "mock")
_CODE_FIELDS: Final = (
    "code_identifier",
    "code_identifier_dependable",
    "code_identifier_url",
    "code_identifier_message",
)
_TYPED: Final = (JsonParameter, MetricParameter, ObjectParameter)
_EMPTY: Final = (None, "")
_ANY_MOMENT: Final = datetime(1970, 1, 1, tzinfo=UTC)

_Name = TypeVar("_Name", bound=Hashable)
_Log = TypeVar("_Log")
_Scalar: TypeAlias = str | int | bool | None


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that is not the same in both runs."""

    kind: DifferenceKind
    name: str
    """The internal name of the step or branch that it is about; empty for the run, `JOB` for its job."""
    field: str
    """What of it: a parameter's, metric's or field's name; `stage name` of a file; the type and field of a code identity."""
    change: Change
    left: object
    """As it stands in the left run, in full; None where only the right one has it. A duration is in seconds."""
    right: object


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two runs, kind by kind, and in each in the order of the left run."""

    left: str
    """The id of the left run."""
    right: str
    differences: tuple[Difference, ...]

    @property
    def is_same(self) -> bool:
        """Whether nothing differs of what is compared."""
        return not self.differences

    def of(self, kind: DifferenceKind) -> tuple[Difference, ...]:
        """The differences of one kind."""
        return tuple(each for each in self.differences if each.kind == kind)


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far two durations may be apart and still count as the same: by `seconds`, or by `share`, whichever is more.

    `share` is a part of the shorter one. Raises `InvalidInputError` for what is no such number.
    """

    seconds: float = 1.0
    share: float = 0.2

    def __post_init__(self) -> None:
        for name in ("seconds", "share"):
            if not getattr(self, name) >= 0:  # also NaN
                raise InvalidInputError(
                    f"a tolerance's {name} must be 0 or more, not {getattr(self, name)!r}", name=name
                )

    def allows(self, left: timedelta, right: timedelta) -> bool:
        """Whether two durations count as the same."""
        apart = abs(left - right).total_seconds()
        return apart <= max(self.seconds, self.share * min(left, right).total_seconds())


_TOLERANCE: Final = Tolerance()


def compare(left: RunLog, right: RunLog, *, tolerance: Tolerance = _TOLERANCE) -> Comparison:
    """What differs between two run logs that were read in full, of one store or of two.

    Values are compared as JSON: 1 and 1.0 are one number, true is none, NaN equals itself. Code is that of the last attempt,
    else the step's own; of files the hashes are compared, stage by stage. A duration is compared where both are known and
    ended. Of a step or branch that only one run has, what is below it is not told again.

    Not compared, since they always differ or tell nothing new: ids, times, places of files, messages, and what an attempt
    recorded of its parameters. Raises nothing and sends nothing.
    """
    found = [*_of_run(left, right), *_of_job(left.job, right.job), *_of_scope("", left, right)]
    found += _of_durations(left, right, tolerance)
    found.sort(key=lambda each: KINDS.index(each.kind))  # keeps the order within a kind
    return Comparison(left.run_id, right.run_id, tuple(found))


def _of_run(left: RunLog, right: RunLog) -> Iterator[Difference]:
    yield from _of_fields("run", "", left, right, _RUN_FIELDS)
    yield from _of_each("run", "", left.model_extra or {}, right.model_extra or {})
    yield from _of_field("status", "", "status", left.status, right.status)
    yield from _of_tree("config", left.run_config, right.run_config)
    yield from _of_tree("variable", left.variables, right.variables)


def _of_job(left: JobLog | None, right: JobLog | None) -> Iterator[Difference]:
    if left is None or right is None:
        if left is not right:
            yield _one_sided("step", JOB, "status", left and left.status, right and right.status)
        return
    yield from _of_field("status", JOB, "status", left.status, right.status)
    yield from _of_field("step", JOB, "mock", left.mock, right.mock)
    yield from _of_work(JOB, left, right)


def _of_scope(name: str, left: RunLog | BranchLog, right: RunLog | BranchLog) -> Iterator[Difference]:
    """Of the run's or a branch's own parameters, and of its steps."""
    yield from _of_each("parameter", name, left.parameters, right.parameters)
    for step, ours, theirs in _pairs(left.steps, right.steps):
        if ours is None or theirs is None:
            yield _one_sided("step", step, "status", ours and ours.status, theirs and theirs.status)
        else:
            yield from _of_step(step, ours, theirs)


def _of_step(name: str, left: StepLog, right: StepLog) -> Iterator[Difference]:
    yield from _of_field("status", name, "status", left.status, right.status)
    yield from _of_fields("step", name, left, right, _STEP_FIELDS)
    yield from _of_each("metric", name, _metrics(left), _metrics(right))
    yield from _of_work(name, left, right)
    for branch, ours, theirs in _pairs(left.branches, right.branches):
        if ours is None or theirs is None:
            yield _one_sided("branch", branch, "status", ours and ours.status, theirs and theirs.status)
        else:
            yield from _of_field("status", branch, "status", ours.status, theirs.status)
            yield from _of_scope(branch, ours, theirs)


def _of_work(name: str, left: StepLog | JobLog, right: StepLog | JobLog) -> Iterator[Difference]:
    """Of what steps and the job have in common."""
    yield from _of_code(name, _codes(left), _codes(right))
    yield from _of_each("data", name, _hashes(left.data_catalog), _hashes(right.data_catalog))
    yield from _of_field("attempts", name, "attempts", len(left.attempts), len(right.attempts))


# Durations.


def _of_durations(left: RunLog, right: RunLog, tolerance: Tolerance) -> Iterator[Difference]:
    for (_, name), ours, theirs in _pairs(_durations(left), _durations(right)):
        if ours is not None and theirs is not None and not tolerance.allows(ours, theirs):
            yield Difference("duration", name, "seconds", "changed", ours.total_seconds(), theirs.total_seconds())


def _durations(run_log: RunLog) -> dict[tuple[str, str], timedelta]:
    """Those of the run, its job, steps and branches that ended, by their kinds and names."""
    # Neither the moment nor the zone counts: what is running is left out, and of the rest only differences are taken.
    spans = timeline_of(run_log, now=_ANY_MOMENT, zone=UTC).spans
    ended = [span for span in spans if span.kind != "attempt" and not span.is_running]
    named = {(span.kind, JOB if span.kind == "job" else span.name): span.duration for span in ended}
    return {name: duration for name, duration in named.items() if duration is not None}


# Code, data and metrics.


def _codes(work: StepLog | JobLog) -> Sequence[CodeIdentity]:
    """The code of the last attempt that recorded any, else that of the step."""
    of_attempts = (attempt.code_identities for attempt in reversed(work.attempts))
    return next((codes for codes in of_attempts if codes), work.code_identities)


def _of_code(name: str, left: Sequence[CodeIdentity], right: Sequence[CodeIdentity]) -> Iterator[Difference]:
    """Identities of the same type with each other: a git commit with a git commit, an image with an image."""
    for sort, ours, theirs in _pairs(_by_type(left), _by_type(right)):
        if ours is None or theirs is None:
            identifiers = (ours and (ours.code_identifier or ""), theirs and (theirs.code_identifier or ""))
            yield _one_sided("code", name, f"{sort} identifier", *identifiers)
        else:
            for field in _CODE_FIELDS:
                told = f"{sort} {field.removeprefix('code_').removeprefix('identifier_')}"
                yield from _of_field("code", name, told, getattr(ours, field), getattr(theirs, field))


def _by_type(codes: Sequence[CodeIdentity]) -> dict[str, CodeIdentity]:
    return _numbered((code.code_identifier_type or "code", code) for code in codes)


def _hashes(catalogs: Sequence[DataCatalog]) -> dict[str, str]:
    """The hashes of the files of a step, by stage and name."""
    return _numbered((f"{catalog.stage} {catalog.name}".strip(), catalog.data_hash) for catalog in catalogs)


def _numbered(items: Iterable[tuple[str, _Log]]) -> dict[str, _Log]:
    """By their names; the second of the same name is `name #2`."""
    seen: Counter[str] = Counter()
    found: dict[str, _Log] = {}
    for name, item in items:
        seen[name] += 1
        found[name if seen[name] == 1 else f"{name} #{seen[name]}"] = item
    return found


def _metrics(step: StepLog) -> dict[str, object]:
    """The step's own, and those of its last attempt."""
    of_attempt = step.attempts[-1].user_defined_metrics if step.attempts else {}
    return {**of_attempt, **step.user_defined_metrics}


# Values.


def _of_fields(
    kind: DifferenceKind, name: str, left: BaseModel, right: BaseModel, fields: Iterable[str]
) -> Iterator[Difference]:
    for field in fields:
        yield from _of_field(kind, name, field, getattr(left, field), getattr(right, field))


def _of_field(kind: DifferenceKind, name: str, field: str, left: _Scalar, right: _Scalar) -> Iterator[Difference]:
    """A field that every log has: what is empty in the one and None in the other is as good as the same."""
    if left != right and (left not in _EMPTY or right not in _EMPTY):
        yield Difference(kind, name, field, "changed", left, right)


def _of_each(
    kind: DifferenceKind, name: str, left: Mapping[str, object], right: Mapping[str, object]
) -> Iterator[Difference]:
    """Values by their names, each of which one side may lack."""
    for field in dict.fromkeys([*left, *right]):
        if field not in left or field not in right:
            yield _alone(kind, name, field, left, right)
            continue
        ours, theirs = _plain(left[field], right[field])
        if not _are_equal(ours, theirs):
            yield Difference(kind, name, field, "changed", ours, theirs)


def _of_tree(
    kind: DifferenceKind, left: Mapping[str, object], right: Mapping[str, object], above: str = ""
) -> Iterator[Difference]:
    """Objects within objects: only the innermost that differ, by their JSON pointers."""
    for key in dict.fromkeys([*left, *right]):
        field = f"{above}/{key.replace('~', '~0').replace('/', '~1')}"
        ours, theirs = left.get(key), right.get(key)
        if isinstance(ours, dict) and isinstance(theirs, dict):
            yield from _of_tree(kind, ours, theirs, field)
        elif key not in left or key not in right:
            yield Difference(kind, "", field, "only left" if key in left else "only right", ours, theirs)
        elif not _are_equal(ours, theirs):
            yield Difference(kind, "", field, "changed", ours, theirs)


def _alone(
    kind: DifferenceKind, name: str, field: str, left: Mapping[str, object], right: Mapping[str, object]
) -> Difference:
    if field in left:
        return Difference(kind, name, field, "only left", _value(left[field]), None)
    return Difference(kind, name, field, "only right", None, _value(right[field]))


def _one_sided(kind: DifferenceKind, name: str, field: str, left: object, right: object) -> Difference:
    """What one side has and the other, which is None, has not."""
    return Difference(kind, name, field, "only left" if right is None else "only right", left, right)


def _plain(left: object, right: object) -> tuple[object, object]:
    """Two parameters as their values; with their kinds where only those would differ."""
    ours, theirs = _value(left), _value(right)
    kinds = tuple(getattr(each, "kind", "json") for each in (left, right))
    if kinds[0] != kinds[1] and _are_equal(ours, theirs):
        return {"kind": kinds[0], "value": ours}, {"kind": kinds[1], "value": theirs}
    return ours, theirs


def _value(parameter: object) -> object:
    return parameter.value if isinstance(parameter, _TYPED) else parameter


def _are_equal(left: object, right: object) -> bool:
    return values.equal(cast(Json, left), cast(Json, right))


def _pairs(left: Mapping[_Name, _Log], right: Mapping[_Name, _Log]) -> Iterator[tuple[_Name, _Log | None, _Log | None]]:
    """What has the same name on both sides, in the order of the left one; None where one has it not."""
    for name in dict.fromkeys([*left, *right]):
        yield name, left.get(name), right.get(name)
