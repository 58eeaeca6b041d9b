"""`chunkstore cp`: what a person sees, what a script reads, and the exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

from chunkstore import ChunkedRunLogStore
from chunkstore import open as open_store
from commands import damage, run

Store = ChunkedRunLogStore


def test_the_runs_that_have_ended_go_over_and_the_next_call_finds_them(nightly: Store, tmp_path: Path) -> None:
    first = run("cp", nightly.backend.place, "there")
    assert first.code == 0
    assert first.out.startswith("copied 2 runs (")
    assert "'nightly-3'" in first.err
    assert "has not ended" in first.err
    again = run("cp", nightly.backend.place, "there")
    assert again.code == 0
    assert "copied 0 runs" in again.out
    assert "2 runs stood there already" in again.out
    there = open_store("there")
    assert there.list_run_ids() == ["nightly-1", "nightly-2"]
    assert repr(there.get_run_log_by_id("nightly-2")) == repr(nightly.get_run_log_by_id("nightly-2"))


def test_runs_are_named_or_filtered_and_not_both(nightly: Store) -> None:
    place = nightly.backend.place
    assert [one["run_id"] for one in run("cp", place, "a", "last:failed", "nightly-1", "--json").document["runs"]] == [
        "nightly-2",
        "nightly-1",
    ]
    assert [one["run_id"] for one in run("cp", place, "b", "--status", "failed", "--json").document["runs"]] == [
        "nightly-2"
    ]
    assert run("cp", place, "c", "--last", "1s", "--until", "2020-01-01", "--json").document["runs"] == []
    assert run("cp", place, "d", "last", "--tag", "nightly").code == 2
    assert run("cp", place, "d", "nightly-9").code == 3
    assert not Path("c").exists()
    assert not Path("d").exists()


def test_a_run_that_has_not_ended_is_copied_when_it_is_asked_for_so(nightly: Store) -> None:
    assert run("cp", nightly.backend.place, "there", "nightly-3").code == 4
    done = run("cp", nightly.backend.place, "there", "nightly-3", "--unfinished", "--json")
    assert (done.code, [one["outcome"] for one in done.document["runs"]]) == (0, ["copied"])


def test_a_dry_run_writes_nothing(nightly: Store) -> None:
    done = run("cp", nightly.backend.place, "there", "--dry-run")
    assert done.out.startswith("would copy 2 runs (")
    assert not Path("there").exists()


def test_another_run_of_the_id_is_exit_code_4_and_the_others_go_on(nightly: Store) -> None:
    there = open_store("there")
    there.create_run_log("nightly-1", tag="mine")
    done = run("cp", nightly.backend.place, "there", "--json")
    assert done.code == 4
    assert {one["run_id"]: one["outcome"] for one in done.document["runs"]} == {
        "nightly-1": "conflict",
        "nightly-2": "copied",
        "nightly-3": "unfinished",
    }
    assert there.get_run_log_by_id("nightly-1").tag == "mine"


def test_a_damaged_run_is_exit_code_1_and_named(nightly: Store) -> None:
    damage(nightly, "nightly-1/step.load.json")
    done = run("cp", nightly.backend.place, "there")
    assert done.code == 1
    assert "nightly-1/step.load.json" in done.err
    assert open_store("there").list_run_ids() == ["nightly-2"]


def test_many_that_are_left_out_are_told_as_a_number(empty: Store) -> None:
    for number in range(23):
        empty.create_run_log(f"r{number:02}")
    done = run("cp", empty.backend.place, "there")
    assert done.err.count("has not ended") == 20
    assert "and 3 runs more" in done.err


def test_an_empty_store_and_one_that_is_not_there(empty: Store) -> None:
    done = run("cp", empty.backend.place, "there")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("copied 0 runs")
    assert run("cp", "nowhere", "there").code == 3
    assert run("cp", empty.backend.place, empty.backend.place).code == 2


def test_a_terminal_is_shown_a_bar_and_names_are_shown_escaped(empty: Store) -> None:
    empty.create_run_log("[red]x\x9b5m", status="SUCCESS")
    empty.create_run_log("[red]live\x9b5m")
    done = run("cp", empty.backend.place, "there", terminal=True)
    assert done.code == 0
    assert "copying" in done.err
    assert "[red]live\\x9b5m" in done.err
    assert "\x9b" not in done.err + done.out
