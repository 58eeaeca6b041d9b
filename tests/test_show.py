"""A run log drawn as a tree."""

from __future__ import annotations

from io import StringIO
from textwrap import dedent
from typing import Any

import pytest

pytest.importorskip("rich")

from rich.console import Console

from chunkstore import (
    BranchLog,
    JobLog,
    JsonParameter,
    MetricParameter,
    ObjectParameter,
    RunLog,
    StepAttempt,
    StepLog,
)
from chunkstore.show import tree


def drawn(run_log: RunLog, **how: Any) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(tree(run_log, **how))
    written: Any = console.file
    return "\n".join(line.rstrip() for line in written.getvalue().splitlines())


def attempt(start: str, end: str, **fields: Any) -> StepAttempt:
    return StepAttempt(start_time=f"2026-01-01 12:00:{start}", end_time=f"2026-01-01 12:00:{end}", **fields)


def step(internal_name: str, *attempts: StepAttempt, **fields: Any) -> StepLog:
    name = internal_name.rpartition(".")[2]
    return StepLog(name=name, internal_name=internal_name, attempts=list(attempts), **{"status": "SUCCESS", **fields})


def test_steps_and_branches_are_nested_with_status_duration_and_parameters() -> None:
    branches = {
        "m.a.b": BranchLog(
            internal_name="m.a.b",
            status="SUCCESS",
            parameters={"loss": MetricParameter(value=0.5), "model": ObjectParameter(value="model")},
            steps={"m.a.b.fit": step("m.a.b.fit", attempt("02", "03.25"))},
        ),
        "m.c": BranchLog(internal_name="m.c", status="PROCESSING"),
    }
    steps = {"give": step("give", attempt("00", "01")), "m": step("m", branches=branches, status="PROCESSING")}
    parameters = {"xs": JsonParameter(value=["a.b", "c"]), "plain": 1}
    run_log = RunLog(run_id="nightly", status="PROCESSING", steps=steps, parameters=parameters)
    expected = """\
        nightly  PROCESSING  3.250 s
        ├── xs = ['a.b', 'c']
        ├── plain = 1
        ├── give  SUCCESS  1.000 s
        └── m  PROCESSING  1.250 s
            ├── a.b  SUCCESS  1.250 s
            │   ├── loss = 0.5  metric
            │   ├── model = 'model'  object
            │   └── fit  SUCCESS  1.250 s
            └── c  PROCESSING"""
    assert drawn(run_log) == dedent(expected)


def test_a_step_that_failed_says_why_and_how_often_it_was_tried() -> None:
    tries = [attempt("00", "01", message="out of memory\n"), attempt("05", "06", message="out of disk")]
    failed = step("fit", *tries, status="FAIL")
    assert drawn(RunLog(run_id="r", status="FAIL", steps={"fit": failed})) == dedent("""\
        r  FAIL  6.000 s
        └── fit  FAIL  6.000 s  2 attempts  out of disk""")


def test_attempts_are_drawn_of_what_was_tried_again_or_failed_with_the_first_line_of_their_messages() -> None:
    tries = [
        attempt("00", "01", message="out of memory\nTraceback"),
        attempt("05", "06", attempt_number=2, status="SUCCESS"),
    ]
    steps = {"one": step("one", attempt("00", "01")), "fit": step("fit", *tries)}
    assert drawn(RunLog(run_id="r", status="SUCCESS", steps=steps), attempts=True) == dedent("""\
        r  SUCCESS  6.000 s
        ├── one  SUCCESS  1.000 s
        └── fit  SUCCESS  6.000 s  2 attempts
            ├── attempt 1  CREATED  1.000 s  out of memory
            └── attempt 2  SUCCESS  1.000 s""")


@pytest.mark.parametrize(
    ("depth", "lines"),
    [
        (0, ["r  CREATED", "└── 1 step"]),
        (1, ["r  CREATED", "└── m  SUCCESS", "    └── 2 branches"]),
        (2, ["r  CREATED", "└── m  SUCCESS", "    ├── a  CREATED", "    │   └── 1 step", "    └── b  CREATED"]),
    ],
)
def test_what_is_deeper_is_counted(depth: int, lines: list[str]) -> None:
    branches = {
        "m.a": BranchLog(internal_name="m.a", steps={"m.a.x": step("m.a.x")}),
        "m.b": BranchLog(internal_name="m.b"),
    }
    assert drawn(RunLog(run_id="r", steps={"m": step("m", branches=branches)}), depth=depth).splitlines() == lines


def test_a_step_that_succeeded_in_the_end_keeps_its_failures_to_itself() -> None:
    mended = step("fit", attempt("00", "01", message="out of memory"), attempt("01", "02"))
    assert "out of memory" not in drawn(RunLog(run_id="r", steps={"fit": mended}))


def test_a_job_is_drawn_as_the_only_work_of_its_run() -> None:
    job = JobLog(status="SUCCESS", attempts=[attempt("00", "02")])
    assert drawn(RunLog(run_id="r", status="SUCCESS", job=job)) == dedent("""\
        r  SUCCESS  2.000 s
        └── job  SUCCESS  2.000 s""")


@pytest.mark.parametrize("end", ["", "later", "2026-01-01T12:00:01+00:00"])
def test_a_duration_that_nobody_can_tell_is_left_out(end: str) -> None:
    running = StepAttempt(start_time="2026-01-01 12:00:00", end_time=end)
    assert drawn(RunLog(run_id="r", status="PROCESSING", steps={"fit": step("fit", running)})) == dedent("""\
        r  PROCESSING
        └── fit  SUCCESS""")


def test_a_long_value_is_cut_short() -> None:
    line = drawn(RunLog(run_id="r", parameters={"text": "x" * 1000})).splitlines()[1]
    assert line.endswith("x…")
    assert len(line) < 80


def test_names_and_values_can_neither_command_the_terminal_nor_be_taken_for_markup() -> None:
    evil = "[red]a\x1b[2J\nb"
    text = drawn(
        RunLog(run_id=evil, status=evil, parameters={evil: evil}, steps={"s": step("s", message=evil, status="FAIL")})
    )
    assert "\x1b" not in text
    assert len(text.splitlines()) == 3
    assert "[red]a\\x1b[2J\\nb" in text
