"""`chunkstore timeline`: a chart in the terminal, a page in a file, a document as JSON."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from zoneinfo import TZPATH

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

from chunkstore import ChunkedRunLogStore, StepAttempt
from commands import damage, run


def test_the_chart_shows_each_step_branch_and_attempt(nightly: ChunkedRunLogStore) -> None:
    result = run("timeline", "nightly-2", "-s", nightly.backend.place, terminal=True, width=90)
    assert result.code == 0
    labels = [line[:18].strip() for line in result.lines[1:]]
    assert labels[:5] == ["nightly-2", "load", "check", "columns", "compare"]
    assert labels[-5:] == ["fit", "attempt 1", "attempt 2", "asia.south", "fit"]
    assert all(len(line) <= 90 for line in result.lines)


def test_few_lines_are_shown_where_few_are_wanted(nightly: ChunkedRunLogStore) -> None:
    result = run("timeline", "nightly-2", "-s", nightly.backend.place, "--limit", "6")
    assert [line.split()[0] for line in result.lines[1:-1]] == ["nightly-2", "load", "check", "train", "us", "fit"]
    assert result.lines[-1].startswith("10 of 16 lines are not shown")
    assert len(run("timeline", "nightly-2", "-s", nightly.backend.place, "--limit", "0").lines) == 17
    assert run("timeline", "nightly-2", "-s", nightly.backend.place, "--limit", "-1").code == 2


def test_the_document_has_all_spans(nightly: ChunkedRunLogStore) -> None:
    document = run("timeline", "nightly-3", "-s", nightly.backend.place, "--json", "--limit", "1").document
    assert document["schema"] == "chunkstore/timeline/1"
    spans = {span["internal_name"]: span for span in document["spans"]}
    assert len(document["spans"]) == 14
    assert (spans["load"]["duration_seconds"], spans["load"]["running"]) == (4.5, False)
    assert spans["train.us.fit"]["running"]
    assert spans["train.us.fit"]["end"] == document["now"]


def test_the_page_is_written_and_nothing_else_printed(nightly: ChunkedRunLogStore) -> None:
    result = run("timeline", "last~1", "-s", nightly.backend.place, "-o", "out.html")
    assert (result.code, result.out, result.err) == (0, "", "16 lines are in out.html\n")
    page = Path("out.html").read_text(encoding="utf-8")
    assert page.startswith("<!DOCTYPE html>")
    assert "nightly-2 · timeline" in page


def test_a_file_that_cannot_be_written_is_said_to_be(nightly: ChunkedRunLogStore) -> None:
    result = run("timeline", "nightly-1", "-s", nightly.backend.place, "-o", "no/such/folder.html")
    assert result.code == 2
    assert result.err == "error: no/such/folder.html cannot be written: No such file or directory\n"


def test_times_without_a_zone_are_read_as_told(empty: ChunkedRunLogStore) -> None:
    empty.create_run_log("r", status="SUCCESS")
    step = empty.create_step_log("fit", "fit")
    step.attempts = [StepAttempt(start_time="2026-01-01 12:00:00", end_time="2026-01-01 12:00:01")]
    empty.add_step_log(step, "r")
    arguments = ("timeline", "r", "-s", empty.backend.place, "--json")
    assert run(*arguments, "--zone", "UTC").document["spans"][1]["start"] == "2026-01-01T12:00:00Z"
    if TZPATH or importlib.util.find_spec("tzdata"):
        assert run(*arguments, "--zone", "Europe/Berlin").document["spans"][1]["start"] == "2026-01-01T11:00:00Z"
    for zone in ("Mars/Base", "../../etc/passwd", "/etc/passwd"):
        wrong = run(*arguments, "--zone", zone)
        assert wrong.code == 2
        assert "no time zone" in wrong.err


def test_what_is_damaged_is_said_and_the_rest_is_shown(nightly: ChunkedRunLogStore) -> None:
    damage(nightly, "nightly-1/step.load.json")
    result = run("timeline", "nightly-1", "-s", nightly.backend.place)
    assert result.code == 1
    assert "nightly-1/step.load.json" in result.err
    assert "report" in result.out
    assert len(run("timeline", "nightly-1", "-s", nightly.backend.place, "--json").document["findings"]) == 1


def test_a_run_that_is_not_there_is_exit_code_3(empty: ChunkedRunLogStore) -> None:
    assert run("timeline", "last", "-s", empty.backend.place).code == 3
