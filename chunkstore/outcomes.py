"""What a run came to: how long it took, what failed and why, and what was measured. Pure; of run logs that were read in full.

runnable's own models will do as well as those of the library.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from chunkstore.models import BranchLog, JobLog, RunLog, StepAttempt, StepLog

Work = StepLog | JobLog
"""What has attempts of its own."""


@dataclass(frozen=True, slots=True)
class Failure:
    """A step or job that failed, not because of one below it."""

    name: str
    """The internal name; empty for the job."""
    attempts: int
    reason: str
    """The first line of its last message."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One measured value."""

    name: str
    value: object
    where: str
    """The internal name of the step or branch; empty for the run and its job."""
    source: Literal["parameter", "step", "attempt"]
    attempt: int | None = None


def duration_of(log: RunLog | BranchLog | Work) -> timedelta | None:
    """From the first start to the last end of all attempts below; None where one has not ended, or times cannot be compared."""
    return span_of(attempts_of(log))


def span_of(attempts: Iterable[StepAttempt]) -> timedelta | None:
    """From the first start to the last end; None where one has not ended, or times cannot be compared."""
    every = list(attempts)
    try:
        starts = [datetime.fromisoformat(attempt.start_time) for attempt in every]
        return max(datetime.fromisoformat(attempt.end_time) for attempt in every) - min(starts)
    except (ValueError, TypeError):  # none; one that has not ended; or one with a time zone and one without
        return None


def attempts_of(log: RunLog | BranchLog | Work) -> Iterator[StepAttempt]:
    """All attempts of a log and of what is below it."""
    if isinstance(attempts := getattr(log, "attempts", None), list):
        yield from attempts
    if (job := getattr(log, "job", None)) is not None:
        yield from job.attempts
    for step in steps_of(log):
        yield from step.attempts


def steps_of(log: RunLog | BranchLog | Work) -> Iterator[StepLog]:
    """All steps below a log, each before those of its branches."""
    pending = _steps_of(log)[::-1]
    while pending:  # no recursion: branches may be nested deeply
        step = pending.pop()
        yield step
        pending += _steps_of(step)[::-1]


def _steps_of(log: RunLog | BranchLog | Work) -> list[StepLog]:
    """The steps of a run or branch; of a step those of its branches."""
    branches: Mapping[str, BranchLog] = getattr(log, "branches", {})
    steps: Mapping[str, StepLog] = getattr(log, "steps", {})
    return [*steps.values(), *(step for branch in branches.values() for step in branch.steps.values())]


def branches_of(log: RunLog | BranchLog | StepLog) -> Iterator[BranchLog]:
    """All branches below a log, those of a step before those within them."""
    yield from getattr(log, "branches", {}).values()
    for step in steps_of(log):
        yield from step.branches.values()


def reason_of(work: Work | StepAttempt) -> str:
    """The first line of the last message of its attempts, or else of its own; empty where nobody said anything."""
    messages = [attempt.message for attempt in reversed(getattr(work, "attempts", []))]
    return next(filter(None, map(first_line, [*messages, work.message])), "")


def first_line(message: str | None) -> str:
    """The first line that says something."""
    return next(filter(None, map(str.strip, (message or "").splitlines())), "")


def failures_of(run_log: RunLog) -> tuple[Failure, ...]:
    """What failed, innermost only, in the order of the run."""
    failed = [step for step in steps_of(run_log) if step.status == "FAIL" and not _fails_below(step)]
    found = [Failure(step.internal_name, len(step.attempts), reason_of(step)) for step in failed]
    if run_log.job is not None and run_log.job.status == "FAIL":
        found.append(Failure("", len(run_log.job.attempts), reason_of(run_log.job)))
    return tuple(found)


def _fails_below(step: StepLog) -> bool:
    return any(below.status == "FAIL" for below in steps_of(step))


def metrics_of(run_log: RunLog) -> tuple[Metric, ...]:
    """What was measured: metric parameters of the run and its branches, and the metrics of steps and their attempts."""
    return tuple(_metrics(run_log))


def _metrics(run_log: RunLog) -> Iterator[Metric]:
    yield from _metric_parameters("", run_log.parameters)
    if run_log.job is not None:
        yield from _metrics_of_attempts("", run_log.job)
    for step in steps_of(run_log):
        for name, value in getattr(step, "user_defined_metrics", {}).items():
            yield Metric(name, value_of(value), step.internal_name, "step")
        yield from _metrics_of_attempts(step.internal_name, step)
        for branch in step.branches.values():
            yield from _metric_parameters(branch.internal_name, branch.parameters)


def _metric_parameters(where: str, parameters: Mapping[str, object]) -> Iterator[Metric]:
    for name, parameter in parameters.items():
        if getattr(parameter, "kind", "") == "metric":
            yield Metric(name, value_of(parameter), where, "parameter")


def _metrics_of_attempts(where: str, work: Work) -> Iterator[Metric]:
    for attempt in work.attempts:
        for name, value in attempt.user_defined_metrics.items():
            yield Metric(name, value_of(value), where, "attempt", attempt.attempt_number)


def value_of(parameter: object) -> object:
    """What a parameter holds: of a typed one its value, any other is the value."""
    return getattr(parameter, "value", parameter) if hasattr(parameter, "kind") else parameter


def kind_of(parameter: object) -> str:
    """`json`, `metric` or `object`; a plain value is `json`."""
    return str(getattr(parameter, "kind", "json"))
