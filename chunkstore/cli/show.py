"""`chunkstore show`: one run as a tree, with what failed and what is not well in the store."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

import typer
from pydantic import Field
from rich.text import Text

from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.findings import ShownFinding, is_damaged, show_findings, shown_findings
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, JsonOption, RunArgument, StoreOption
from chunkstore.cli.output import Output, printable, shown_time
from chunkstore.models import BranchLog, RunLog, StepLog
from chunkstore.naming import resolve
from chunkstore.outcomes import Work, duration_of, failures_of, kind_of, reason_of, span_of, value_of
from chunkstore.reading import Reading
from chunkstore.show import tree


class ShownParameter(Document):
    """A parameter of the run or of a branch."""

    name: str
    kind: str
    value: Any


class ShownAttempt(Document):
    """One try of a step or of the job."""

    attempt_number: int
    status: str
    start_time: str
    end_time: str
    duration_seconds: float | None
    message: str


class ShownStep(Document):
    """A step with its branches, or the job without any."""

    name: str
    internal_name: str
    step_type: str
    status: str
    duration_seconds: float | None
    reason: str
    """The first line of the last message."""
    attempts: list[ShownAttempt]
    branches: list[ShownBranch]


class ShownBranch(Document):
    """A branch with its steps."""

    internal_name: str
    status: str
    duration_seconds: float | None
    parameters: list[ShownParameter]
    steps: list[ShownStep]


class ShownFailure(Document):
    """A step that failed, not because of one below it; the job has no name."""

    internal_name: str
    attempts: int
    reason: str


class Run(Document):
    """What `chunkstore show --json` prints: one run."""

    schema_id: Literal["chunkstore/show/1"] = Field(default="chunkstore/show/1", serialization_alias="schema")
    store: str
    run_id: str
    status: str
    tag: str
    created_at: datetime | None
    dag_hash: str
    original_run_id: str
    duration_seconds: float | None
    parameters: list[ShownParameter]
    job: ShownStep | None
    steps: list[ShownStep]
    failures: list[ShownFailure]
    findings: list[ShownFinding]


def show(
    run: RunArgument,
    store: StoreOption = "",
    config: ConfigOption = None,
    depth: Annotated[
        int | None,
        typer.Option(min=0, help="Steps and branches down to this level; deeper ones are counted.", show_default=False),
    ] = None,
    json: JsonOption = False,
) -> None:
    """Show a run: its steps, branches and attempts with durations, its parameters, and what failed and why.

    The exit code is 1 for a run that failed, and where chunks of it are damaged.
    """
    output = Output(json=json)
    with open_store_of(store, config) as opened:
        reading = opened.read_run_log(resolve(opened, run))
        place = opened.backend.place
    if json:
        output.document(_document(reading, place))
    else:
        _show(output, reading, depth)
    if reading.run_log.status == "FAIL" or is_damaged(reading):
        raise Exit(Code.FOUND)


def _show(output: Output, reading: Reading, depth: int | None) -> None:
    run_log = reading.run_log
    output.show(tree(run_log, attempts=True, depth=depth))
    facts = {
        "created": shown_time(run_log.created_at),
        "tag": run_log.tag or "",
        "original run": run_log.original_run_id or "",
    }
    known = [f"{name} {fact}" for name, fact in facts.items() if fact]
    if known:
        output.line(Text(printable(", ".join(known)), "dim"))
    for failure in failures_of(run_log):
        times = "" if failure.attempts < 2 else f", {failure.attempts} times"
        output.line(
            Text.assemble(
                (f"{printable(failure.name or 'the job')} failed{times}", "red"),
                f": {printable(failure.reason or 'no message')}",
            )
        )
    show_findings(output, reading)


def _document(reading: Reading, place: str) -> Run:
    run_log = reading.run_log
    return Run(
        store=place,
        run_id=run_log.run_id,
        status=run_log.status,
        tag=run_log.tag or "",
        created_at=run_log.created_at,
        dag_hash=run_log.dag_hash or "",
        original_run_id=run_log.original_run_id or "",
        duration_seconds=_seconds(run_log),
        parameters=_parameters(run_log.parameters),
        job=None if run_log.job is None else _work("job", "", "job", run_log.job, []),
        steps=[_step(step) for step in run_log.steps.values()],
        failures=[
            ShownFailure(internal_name=each.name, attempts=each.attempts, reason=each.reason)
            for each in failures_of(run_log)
        ],
        findings=shown_findings(reading),
    )


def _step(step: StepLog) -> ShownStep:
    branches = [_branch(branch) for branch in step.branches.values()]
    return _work(step.name, step.internal_name, step.step_type, step, branches)


def _work(name: str, internal_name: str, step_type: str, work: Work, branches: list[ShownBranch]) -> ShownStep:
    attempts = [
        ShownAttempt(
            attempt_number=attempt.attempt_number,
            status=attempt.status,
            start_time=attempt.start_time,
            end_time=attempt.end_time,
            duration_seconds=_in_seconds(span_of([attempt])),
            message=attempt.message,
        )
        for attempt in work.attempts
    ]
    return ShownStep(
        name=name,
        internal_name=internal_name,
        step_type=step_type,
        status=work.status,
        duration_seconds=_seconds(work),
        reason=reason_of(work),
        attempts=attempts,
        branches=branches,
    )


def _branch(branch: BranchLog) -> ShownBranch:
    return ShownBranch(
        internal_name=branch.internal_name,
        status=branch.status,
        duration_seconds=_seconds(branch),
        parameters=_parameters(branch.parameters),
        steps=[_step(step) for step in branch.steps.values()],
    )


def _seconds(log: RunLog | BranchLog | Work) -> float | None:
    return _in_seconds(duration_of(log))


def _in_seconds(duration: timedelta | None) -> float | None:
    return None if duration is None else duration.total_seconds()


def _parameters(parameters: Mapping[str, object]) -> list[ShownParameter]:
    return [
        ShownParameter(name=name, kind=kind_of(parameter), value=value_of(parameter))
        for name, parameter in parameters.items()
    ]
