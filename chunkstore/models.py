"""What a run log is made of: the run, its steps, branches and attempts, their code, data and parameters.

Nothing here knows how or where they are stored. Every model takes what magnus 0.5 and runnable 0.50 write.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetPydanticSchema,
    SerializeAsAny,
    StrictStr,
    StringConstraints,
)
from pydantic import JsonValue as _CheckedJsonValue
from typing_extensions import override

from chunkstore.errors import BranchLogNotFoundError, InvalidInputError, StepLogNotFoundError


class Status(StrEnum):
    """The statuses that chunkstore knows. A model's `status` is a plain `str`: a newer client may have more."""

    CREATED = "CREATED"
    TRIGGERED = "TRIGGERED"
    PROCESSING = "PROCESSING"
    SUCCESS = "SUCCESS"
    FAIL = "FAIL"


TERMINAL = frozenset({Status.SUCCESS, Status.FAIL})

StatusName: TypeAlias = Annotated[str, StringConstraints(to_upper=True)]
"""A status in upper case, whatever case it came in. An assignment to a model's field is not checked."""

JsonValue: TypeAlias = Annotated[_CheckedJsonValue, GetPydanticSchema(lambda _source, schema_of: schema_of(Any))]
"""Any JSON value: the very object that was given, neither copied nor coerced nor looked into."""


class _TypedParameter(BaseModel):
    # forbid, where all others allow: an object with more keys is a plain value that looks alike, or a newer version's
    # parameter. As a plain value it survives a rewrite; as a typed one it would lose those keys.
    model_config = ConfigDict(extra="forbid", ser_json_inf_nan="constants")


# runnable dumps a shortened copy of the value under this name, which would be stale once the value changes.
_Dropped: TypeAlias = Annotated[None, BeforeValidator(lambda _given: None), Field(exclude=True, repr=False)]


class JsonParameter(_TypedParameter):
    """A parameter that a task returned as JSON."""

    kind: Literal["json"] = "json"
    value: JsonValue
    description: _Dropped = None

    def get_value(self) -> JsonValue:
        """The value itself."""
        return self.value


class MetricParameter(_TypedParameter):
    """A parameter that is also a measure of the run."""

    kind: Literal["metric"] = "metric"
    value: JsonValue
    description: _Dropped = None

    def get_value(self) -> JsonValue:
        """The value itself."""
        return self.value


class ObjectParameter(_TypedParameter):
    """A Python object that was pickled elsewhere; `value` is its name there."""

    kind: Literal["object"] = "object"
    value: StrictStr
    description: _Dropped = None

    def get_value(self) -> str:
        """The name of the pickled object; chunkstore never loads it."""
        return self.value


_ByKind: TypeAlias = Annotated[JsonParameter | MetricParameter | ObjectParameter, Field(discriminator="kind")]

# SerializeAsAny: every value is dumped as what it is, without trying the kinds one by one (a third faster).
Parameter: TypeAlias = SerializeAsAny[Annotated[_ByKind | JsonValue, Field(union_mode="left_to_right")]]
"""A typed parameter, or any JSON value exactly as given.

A dict becomes typed when it says `kind` and `value` as a typed parameter does, and nothing else except runnable's
`description`, which is dropped.
"""


class _Log(BaseModel):
    # constants: pydantic's default writes NaN and the infinities as null without a word.
    model_config = ConfigDict(extra="allow", ser_json_inf_nan="constants")


class CodeIdentity(_Log):
    """The code or the container that ran: a git commit, or the digest of a docker image."""

    code_identifier: str | None = ""
    code_identifier_type: str | None = ""
    code_identifier_dependable: bool | None = False
    code_identifier_url: str | None = ""
    code_identifier_message: str | None = ""


class DataCatalog(_Log):
    """One file that a step got from the catalog or put there. Equal, and hashed, by its name alone."""

    name: str
    stored_at: str = ""
    catalog_relative_path: str = ""
    catalog_handler_location: str = ""
    data_hash: str = ""
    stage: str = ""

    @override
    def __eq__(self, other: object) -> bool:
        if not isinstance(other, DataCatalog):
            return NotImplemented
        return self.name == other.name

    @override
    def __hash__(self) -> int:
        return hash(self.name)


class StepAttempt(_Log):
    """One try to run a step. magnus fills `parameters` and `duration`, runnable the two typed dicts."""

    attempt_number: int = 1
    start_time: str = ""
    end_time: str = ""
    duration: str | None = None
    status: StatusName = Status.CREATED.value
    message: str = ""
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    input_parameters: dict[str, Parameter] = Field(default_factory=dict)
    output_parameters: dict[str, Parameter] = Field(default_factory=dict)
    user_defined_metrics: dict[str, Parameter] = Field(default_factory=dict)
    retry_indicator: str = ""
    code_identities: list[CodeIdentity] = Field(default_factory=list)

    @property
    def elapsed(self) -> timedelta | None:
        """The time from start to end. None while one of them is missing, or when they cannot be compared."""
        try:
            return datetime.fromisoformat(self.end_time) - datetime.fromisoformat(self.start_time)
        except (ValueError, TypeError):  # no ISO time; or one with a time zone and one without
            return None


class StepLog(_Log):
    """What was recorded of one step; `branches` holds those of a parallel, map or dag step by their internal names."""

    name: str
    internal_name: str
    status: StatusName = Status.CREATED.value
    step_type: str = "task"
    message: str = ""
    mock: bool = False
    code_identities: list[CodeIdentity] = Field(default_factory=list)
    attempts: list[StepAttempt] = Field(default_factory=list)
    user_defined_metrics: dict[str, Parameter] = Field(default_factory=dict)
    branches: dict[str, BranchLog] = Field(default_factory=dict)
    data_catalog: list[DataCatalog] = Field(default_factory=list)

    def get_data_catalogs_by_stage(self, stage: str = "put") -> list[DataCatalog]:
        """The step's own data of a stage, then its branches'.

        Raises InvalidInputError for a stage other than "get" and "put".
        """
        return _of_stage(self.data_catalog, stage) + _of_all(self.branches.values(), stage)

    def add_data_catalogs(self, data_catalogs: Iterable[DataCatalog]) -> None:
        """Append to `data_catalog`."""
        self.data_catalog.extend(data_catalogs)


class BranchLog(_Log):
    """What was recorded of one branch; `steps` holds its steps by their internal names, in order."""

    internal_name: str
    status: StatusName = Status.CREATED.value
    steps: dict[str, StepLog] = Field(default_factory=dict)
    parameters: dict[str, Parameter] = Field(default_factory=dict)

    def get_data_catalogs_by_stage(self, stage: str = "put") -> list[DataCatalog]:
        """The data of a stage of all steps, nested ones included, in their order.

        Raises InvalidInputError for a stage other than "get" and "put".
        """
        _check_stage(stage)
        return _of_all(self.steps.values(), stage)


# Otherwise the first use completes it, which threads of an executor would do all at once.
StepLog.model_rebuild()


class JobLog(_Log):
    """What was recorded of a run that is a single job without steps."""

    status: StatusName = Status.CREATED.value
    message: str = ""
    mock: bool = False
    code_identities: list[CodeIdentity] = Field(default_factory=list)
    attempts: list[StepAttempt] = Field(default_factory=list)
    data_catalog: list[DataCatalog] = Field(default_factory=list)

    def add_data_catalogs(self, data_catalogs: Iterable[DataCatalog]) -> None:
        """Append to `data_catalog`."""
        self.data_catalog.extend(data_catalogs)


class RunLog(_Log):
    """All that was recorded of a run; `steps` holds the outermost steps by their internal names, in order.

    `created_at` is filled when a store reads the run; it has a time zone.
    """

    run_id: str
    dag_hash: str | None = None
    use_cached: bool = False
    tag: str | None = ""
    original_run_id: str | None = ""
    status: StatusName = Status.CREATED.value
    steps: dict[str, StepLog] = Field(default_factory=dict)
    parameters: dict[str, Parameter] = Field(default_factory=dict)
    run_config: dict[str, JsonValue] = Field(default_factory=dict)
    variables: dict[str, JsonValue] = Field(default_factory=dict)
    job: JobLog | None = None
    created_at: AwareDatetime | None = None

    def search_step_by_internal_name(self, name: str) -> tuple[StepLog, BranchLog | None]:
        """The step, and the branch that holds it (None for the run's own steps).

        Names may hold dots. Raises StepLogNotFoundError.
        """
        for holder, _ in self._branches_towards(name):
            step = holder.steps.get(name)
            if step is not None:
                return step, holder if isinstance(holder, BranchLog) else None
        raise StepLogNotFoundError(_not_found("step", name, self.run_id), run_id=self.run_id, name=name)

    def search_branch_by_internal_name(self, name: str) -> tuple[BranchLog | RunLog, StepLog | None]:
        """The branch, and the step that holds it; for an empty name the run log itself and None.

        Names may hold dots. Raises BranchLogNotFoundError.
        """
        if not name:
            return self, None
        for holder, parent in self._branches_towards(name):
            if parent is not None and parent.branches.get(name) is holder:
                return holder, parent
        raise BranchLogNotFoundError(_not_found("branch", name, self.run_id), run_id=self.run_id, name=name)

    def get_data_catalogs_by_stage(self, stage: str = "put") -> list[DataCatalog]:
        """The data of a stage of all steps, nested ones included, then the job's; each name once, where first seen.

        Raises InvalidInputError for a stage other than "get" and "put".
        """
        _check_stage(stage)
        job = [] if self.job is None else _of_stage(self.job.data_catalog, stage)
        return list(dict.fromkeys(_of_all(self.steps.values(), stage) + job))

    def _branches_towards(self, name: str) -> Iterator[tuple[BranchLog | RunLog, StepLog | None]]:
        """The run, then every branch that is `name` or a dotted start of it, each once, with its step."""
        starts = [name[:end] for end, character in enumerate(name) if character == "."]
        visited: set[int] = set()
        pending: list[tuple[BranchLog | RunLog, StepLog | None]] = [(self, None)]
        while pending:
            holder, parent = pending.pop()
            if id(holder) in visited:
                continue
            visited.add(id(holder))
            yield holder, parent
            for step in (holder.steps[start] for start in starts if start in holder.steps):
                pending += [(step.branches[end], step) for end in [*starts, name] if end in step.branches]


def _not_found(kind: str, name: str, run_id: str) -> str:
    return (
        f"run log {run_id!r} has no {kind} {name!r}; ask by the full internal name, such as 'map.eu.train', "
        "of a run log that was read in full"
    )


def _check_stage(stage: str) -> None:
    if stage not in ("get", "put"):
        raise InvalidInputError(f"data has no stage {stage!r}; ask for 'get' or 'put'", name=stage)


def _of_stage(catalogs: Iterable[DataCatalog], stage: str) -> list[DataCatalog]:
    _check_stage(stage)
    return [catalog for catalog in catalogs if catalog.stage == stage]


def _of_all(logs: Iterable[StepLog | BranchLog], stage: str) -> list[DataCatalog]:
    return [catalog for log in logs for catalog in log.get_data_catalogs_by_stage(stage)]
