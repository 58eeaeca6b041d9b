"""What a run came to."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from chunkstore import BranchLog, JobLog, JsonParameter, MetricParameter, RunLog, StepAttempt, StepLog
from chunkstore.outcomes import (
    Failure,
    Metric,
    attempts_of,
    branches_of,
    duration_of,
    failures_of,
    first_line,
    kind_of,
    metrics_of,
    reason_of,
    span_of,
    steps_of,
    value_of,
)


def attempt(start: int, end: int | None, **fields: Any) -> StepAttempt:
    ended = "" if end is None else f"2026-01-01 12:00:{end:02}"
    return StepAttempt(start_time=f"2026-01-01 12:00:{start:02}", end_time=ended, **fields)


def step(internal_name: str, *attempts: StepAttempt, **fields: Any) -> StepLog:
    return StepLog(
        name=internal_name.rpartition(".")[2], internal_name=internal_name, attempts=list(attempts), **fields
    )


def branch(internal_name: str, *steps: StepLog, **fields: Any) -> BranchLog:
    return BranchLog(internal_name=internal_name, steps={each.internal_name: each for each in steps}, **fields)


def run(*steps: StepLog, **fields: Any) -> RunLog:
    return RunLog(run_id="r", steps={each.internal_name: each for each in steps}, **fields)


def mapped(*branches: BranchLog, **fields: Any) -> StepLog:
    return step("m", branches={each.internal_name: each for each in branches}, **fields)


def test_a_duration_is_from_the_first_start_to_the_last_end_below() -> None:
    left = branch("m.a", step("m.a.x", attempt(3, 9)))
    right = branch("m.b", step("m.b.x", attempt(1, 2), attempt(4, 5)))
    whole = run(step("s", attempt(2, 3)), mapped(left, right))
    assert duration_of(whole) == timedelta(seconds=8)
    assert duration_of(right) == timedelta(seconds=4)
    assert duration_of(JobLog(attempts=[attempt(1, 3)])) == timedelta(seconds=2)


@pytest.mark.parametrize(
    "attempts",
    [[], [attempt(1, None)], [attempt(1, 2), attempt(3, None)], [StepAttempt(start_time="soon", end_time="later")]],
)
def test_a_duration_that_nobody_can_tell_is_none(attempts: list[StepAttempt]) -> None:
    assert span_of(attempts) is None


def test_all_steps_branches_and_attempts_come_in_the_order_of_the_run() -> None:
    inner = step("m.a.n", branches={"m.a.n.z": branch("m.a.n.z", step("m.a.n.z.x", attempt(1, 2, attempt_number=3)))})
    whole = run(step("s", attempt(1, 2)), mapped(branch("m.a", inner), branch("m.b", step("m.b.x"))), step("t"))
    assert [each.internal_name for each in steps_of(whole)] == ["s", "m", "m.a.n", "m.a.n.z.x", "m.b.x", "t"]
    assert [each.internal_name for each in branches_of(whole)] == ["m.a", "m.b", "m.a.n.z"]
    assert [each.attempt_number for each in attempts_of(whole)] == [1, 3]


def test_a_deeply_nested_run_has_a_duration_too() -> None:
    deepest = step("x", attempt(1, 2))
    for _ in range(1_200):
        deepest = StepLog.model_construct(
            name="m",
            internal_name="m",
            status="FAIL",
            attempts=[],
            branches={"b": BranchLog.model_construct(internal_name="b", steps={"s": deepest}, parameters={})},
        )
    assert duration_of(deepest) == timedelta(seconds=1)


def test_what_failed_is_the_innermost_with_its_last_reason() -> None:
    tries = [attempt(1, 2, message="first"), attempt(2, 3, message="\n  ValueError: no rows \nTraceback")]
    failed = mapped(
        branch("m.a", step("m.a.x", *tries, status="FAIL"), status="FAIL"),
        branch("m.b", step("m.b.x", status="SUCCESS")),
        status="FAIL",
    )
    alone = step("t", status="FAIL", message="told by the step")
    assert failures_of(run(step("s", status="SUCCESS"), failed, alone, status="FAIL")) == (
        Failure("m.a.x", 2, "ValueError: no rows"),
        Failure("t", 0, "told by the step"),
    )
    assert failures_of(run(job=JobLog(status="FAIL", attempts=[attempt(1, 2, message="why")]))) == (
        Failure("", 1, "why"),
    )


def test_a_reason_is_the_first_line_that_says_something() -> None:
    assert [first_line(text) for text in ("", None, " \n\n a \nb", "one")] == ["", "", "a", "one"]
    assert reason_of(step("s", attempt(1, 2, message="told"), attempt(2, 3, message="  \n"), message="own")) == "told"
    assert reason_of(attempt(1, 2, message="x\ny")) == "x"


def test_metrics_are_those_of_parameters_steps_and_attempts() -> None:
    measured = attempt(1, 2, attempt_number=2, user_defined_metrics={"loss": MetricParameter(value=0.5), "plain": [1]})
    inner = branch(
        "m.a",
        step("m.a.x", measured, user_defined_metrics={"rows": 7}),
        parameters={"score": MetricParameter(value=float("inf")), "no": JsonParameter(value=1)},
    )
    whole = run(mapped(inner), parameters={"total": MetricParameter(value=3), "plain": {"kind": "metric"}})
    assert metrics_of(whole) == (
        Metric("total", 3, "", "parameter"),
        Metric("score", float("inf"), "m.a", "parameter"),
        Metric("rows", 7, "m.a.x", "step"),
        Metric("loss", 0.5, "m.a.x", "attempt", 2),
        Metric("plain", [1], "m.a.x", "attempt", 2),
    )
    assert metrics_of(run(job=JobLog(attempts=[attempt(1, 2, user_defined_metrics={"a": 1})]))) == (
        Metric("a", 1, "", "attempt", 1),
    )


def test_a_plain_value_is_what_it_is() -> None:
    plain = {"kind": "metric", "value": 1, "more": 2}
    assert (value_of(plain), kind_of(plain)) == (plain, "json")
    assert (value_of(MetricParameter(value=1)), kind_of(MetricParameter(value=1))) == (1, "metric")
