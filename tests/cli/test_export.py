"""`chunkstore export`: files and pipes, formats, and the exit codes."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

from chunkstore import ChunkedRunLogStore
from chunkstore import open as open_store
from chunkstore.maintenance import import_runs
from commands import damage, run, run_process

Store = ChunkedRunLogStore


def test_the_file_comes_back_as_the_same_runs(nightly: Store) -> None:
    done = run("export", "-s", nightly.backend.place, "-o", "runs.json")
    assert done.code == 0
    assert done.out.startswith("exported 3 runs from")
    there = open_store("there")
    assert import_runs(there, "runs.json").imported == ("nightly-1", "nightly-2", "nightly-3")
    for run_id in nightly.list_run_ids():
        assert repr(there.get_run_log_by_id(run_id)) == repr(nightly.get_run_log_by_id(run_id))


def test_the_import_command_takes_the_file_by_what_is_in_it(nightly: Store) -> None:
    run("export", "-s", nightly.backend.place, "-o", "runs")  # a name that says nothing
    assert run("export", "-s", nightly.backend.place, "-o", "runs", "-f", "jsonl").code == 0
    for arguments in ((), ("--from", "json")):
        done = run("import", "runs", "-s", "there", "--json", *arguments)
        assert done.code == 0
        assert done.document["imported"] + done.document["skipped"] == ["nightly-1", "nightly-2", "nightly-3"]
    Path("cut").write_bytes(Path("runs").read_bytes()[:-10])
    done = run("import", "cut", "-s", "elsewhere", "--json")
    assert done.code == 1
    assert [one["place"] for one in done.document["refused"]] == ["cut, line 3"]


def test_without_a_file_it_goes_to_stdout_a_run_a_line(nightly: Store) -> None:
    done = run_process("export", "-s", nightly.backend.place, "--status", "failed")
    assert done.code == 0
    assert [json.loads(line)["run_id"] for line in done.lines] == ["nightly-2"]
    assert done.err == ""


def test_a_table_has_a_row_for_each_run_or_attempt(nightly: Store) -> None:
    runs = run("export", "-s", nightly.backend.place, "-f", "csv")
    assert [row["run_id"] for row in csv.DictReader(io.StringIO(runs.out))] == ["nightly-1", "nightly-2", "nightly-3"]
    steps = run("export", "-s", nightly.backend.place, "-f", "csv", "--rows", "steps", "nightly-2")
    rows = list(csv.DictReader(io.StringIO(steps.out)))
    assert [row["attempt"] for row in rows if row["step"] == "train.us.fit"] == ["1", "2"]


def test_the_format_comes_from_the_name_and_a_file_that_is_there_stays(nightly: Store) -> None:
    place = nightly.backend.place
    assert run("export", "-s", place, "-o", "a.csv", "last").code == 0
    assert Path("a.csv").read_text().startswith("run_id,")
    assert run("export", "-s", place, "-o", "a.csv").code == 4
    assert run("export", "-s", place, "-o", "a.csv", "--force", "-f", "jsonl").code == 0
    assert len(Path("a.csv").read_text().splitlines()) == 3
    done = run("export", "-s", place, "-o", "a.txt")
    assert done.code == 2
    assert "--format" in done.err
    assert run("export", "-s", place, "-f", "xml").code == 2
    assert run("export", "-s", place, "-f", "csv", "--rows", "cells").code == 2


def test_with_json_the_result_is_told_and_the_runs_are_in_the_file(nightly: Store) -> None:
    done = run("export", "-s", nightly.backend.place, "-o", "a.jsonl", "--json")
    assert done.document["runs"] == ["nightly-1", "nightly-2", "nightly-3"]
    assert done.document["bytes"] == Path("a.jsonl").stat().st_size
    assert run("export", "-s", nightly.backend.place, "--json").code == 2


def test_a_damaged_run_is_left_out_with_exit_code_1(nightly: Store) -> None:
    damage(nightly, "nightly-1/step.load.json")
    done = run("export", "-s", nightly.backend.place, "-o", "a.json", "--json")
    assert done.code == 1
    assert [(one["run_id"], one["sort"]) for one in done.document["refused"]] == [("nightly-1", "damaged")]
    assert len(json.loads(Path("a.json").read_text())) == 2


def test_an_empty_store_and_runs_that_are_not_there(empty: Store) -> None:
    done = run("export", "-s", empty.backend.place, "-f", "json")
    assert (done.code, json.loads(done.out)) == (0, [])
    assert run("export", "-s", empty.backend.place, "nothing").code == 3
    assert run("export", "-s", "nowhere").code == 3


def test_a_terminal_obeys_nothing_that_stands_in_a_run(empty: Store) -> None:
    empty.create_run_log("r", tag="\x1b[31m\x9b5m", status="SUCCESS")
    done = run("export", "-s", empty.backend.place, "-f", "csv", terminal=True)
    assert "\x1b[31m" not in done.out
    assert "\x9b" not in done.out
    assert "\\x1b[31m" in done.out
    assert run("export", "-s", empty.backend.place, "-f", "parquet", terminal=True).code == 2
