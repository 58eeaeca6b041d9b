"""A timeline in the terminal: it fits, it stays readable, and it can be read without colours."""

# ruff: noqa: RUF001  a failed bar's mark looks like a letter

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from io import BytesIO, StringIO, TextIOWrapper
from typing import Any

import pytest

pytest.importorskip("rich")

from rich.cells import cell_len
from rich.console import Console

from chunkstore import BranchLog, RunLog, StepAttempt, StepLog
from chunkstore.timeline import timeline_of
from chunkstore.timeline_chart import Chart, shown

DAY = datetime(2026, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Any:
    import time

    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def step(internal_name: str, start: float, end: float | None, status: str = "SUCCESS") -> StepLog:
    times = ["" if each is None else (DAY + timedelta(seconds=each)).isoformat() for each in (start, end)]
    tries = [StepAttempt(start_time=times[0], end_time=times[1], status=status)]
    name = internal_name.rpartition(".")[2]
    return StepLog(name=name, internal_name=internal_name, status=status, attempts=tries)


def run(*steps: StepLog, status: str = "SUCCESS", run_id: str = "nightly") -> RunLog:
    return RunLog(run_id=run_id, status=status, steps={each.internal_name: each for each in steps})


def drawn(run_log: RunLog, limit: int = 0, *, width: int = 60, terminal: bool = True) -> list[str]:
    console = Console(file=StringIO(), width=width, force_terminal=terminal, color_system=None)
    console.print(Chart(timeline_of(run_log, now=DAY + timedelta(seconds=100)), limit), soft_wrap=not terminal)
    written: Any = console.file
    return [str(line) for line in written.getvalue().splitlines()]


def test_each_span_is_a_line_with_a_bar_in_the_time_of_the_run() -> None:
    composite = StepLog(name="m", internal_name="m", status="FAIL")
    composite.branches["m.eu"] = BranchLog(
        internal_name="m.eu", status="FAIL", steps={"m.eu.fit": step("m.eu.fit", 5, 10, "FAIL")}
    )
    assert drawn(run(step("load", 0, 5), composite, status="FAIL"), width=64) == [
        "                                2026-01-01 12:00:00      +10.0 s",
        "nightly    FAIL         10.0 s  ╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳",
        "  load     SUCCESS      5.00 s  ━━━━━━━━━━━━━━━━",
        "  m        FAIL         5.00 s                  ╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳",
        "    eu     FAIL         5.00 s                  ╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳",
        "      fit  FAIL         5.00 s                  ╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳╳",
    ]


def test_what_runs_what_is_assumed_and_what_is_not_known_look_different() -> None:
    unknown = StepLog(name="d", internal_name="d", status="SUCCESS")
    assumed = StepLog(name="c", internal_name="c", status="PROCESSING")
    lines = drawn(
        run(step("a", 0, 50), step("b", 50, None, "PROCESSING"), assumed, unknown, status="PROCESSING"), width=60
    )
    assert "╍" in lines[3]
    assert "┄" in lines[4]
    assert "≤50.0 s" in lines[4]
    assert lines[5].split() == ["d", "SUCCESS", "?"]


@pytest.mark.parametrize("width", [40, 60, 80, 200])
def test_it_is_never_wider_than_the_terminal(width: int) -> None:
    names = ["x" * 300, "日本語" * 50, "a.b/c 🎉", "end"]
    lines = drawn(run(*(step(name, number, number + 1) for number, name in enumerate(names))), width=width)
    assert len(lines) == 6
    assert all(cell_len(line) <= width for line in lines)
    assert "━" in lines[-1]


def test_a_long_name_keeps_its_beginning_and_its_end() -> None:
    line = drawn(run(step(f"first{'x' * 300}last", 0, 1)))[2].split()[0]
    assert line.startswith("first")
    assert line.endswith("last")
    assert "…" in line


def test_where_no_terminal_is_no_name_is_cut() -> None:
    name = "x" * 300
    lines = drawn(run(step(name, 0, 1)), width=100_000, terminal=False)
    assert name in lines[2]
    assert cell_len(lines[2]) < 400


def test_names_and_statuses_cannot_command_the_terminal() -> None:
    evil = "[red]a\x1b[2J\nb\u202e"
    text = "\n".join(drawn(run(step(evil, 0, 1, evil), run_id=evil), width=160))
    assert "\x1b" not in text
    assert "\u202e" not in text
    assert "[red]a\\x1b[2J\\nb\\u202e" in text
    assert len(text.splitlines()) == 3


def test_of_thousands_of_steps_the_failed_and_the_longest_are_shown_and_a_line_says_so() -> None:
    steps = [
        step(f"s{number}", number, number + 1 + (number == 77), "FAIL" if number == 900 else "SUCCESS")
        for number in range(2_000)
    ]
    lines = drawn(run(*steps, status="FAIL"), 20, width=160)
    assert len(lines) == 1 + 20 + 1
    assert any(line.startswith("  s900 ") for line in lines)
    assert any(line.startswith("  s77 ") for line in lines)
    assert lines[-1].startswith("1,981 of 2,001 lines are not shown")


def test_a_terminal_that_knows_no_such_characters_gets_others() -> None:
    file = TextIOWrapper(BytesIO(), encoding="ascii")
    console = Console(file=file, width=60, force_terminal=True, color_system=None)
    console.print(Chart(timeline_of(run(step("a", 0, 1)), now=DAY)))
    file.flush()
    assert "====" in file.buffer.getvalue().decode("ascii")  # type: ignore[attr-defined]


def test_a_run_without_times_is_drawn_without_bars() -> None:
    assert [line.split() for line in drawn(run(StepLog(name="a", internal_name="a"), status="CREATED"))] == [
        [],
        ["nightly", "CREATED", "?"],
        ["a", "CREATED", "?"],
    ]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 ms"),
        (0.0125, "12 ms"),
        (1.254, "1.25 s"),
        (12.34, "12.3 s"),
        (200, "3:20 min"),
        (7500, "2:05 h"),
        (3 * 86400 + 4 * 3600, "3 d 4 h"),
    ],
)
def test_a_duration_takes_few_columns(seconds: float, text: str) -> None:
    assert shown(timedelta(seconds=seconds)) == text
