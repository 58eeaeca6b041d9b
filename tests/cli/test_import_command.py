"""What `chunkstore import` prints and comes to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

import chunkstore
from commands import run, run_process

MAGNUS = Path(__file__).parent.parent / "data" / "magnus-0.5.1"
DB_LOG = Path(__file__).parent.parent / "data" / "magnus-db-log"
NASTY = "a[red]b\x1b[31m<x>"
ESCAPED = "a[red]b\\x1b[31m<x>"


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return Path(shutil.copytree(MAGNUS / "chunked-fs", tmp_path / "source"))


def test_runs_come_in_once_and_are_there(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "new" / "runs"
    first = run_process("import", source, "-s", target)
    assert (first.code, first.err) == (0, "")
    assert first.out == f"imported 3 runs from {source} into {target}\n"
    again = run("import", source, "-s", target)
    assert again.out == f"imported 0 runs from {source} into {target}; 3 runs there already\n"
    assert {line.split()[0] for line in run("ls", "-s", target).lines[1:]} == {"nightly", "fails", "mended"}
    assert run("show", "fails", "-s", target).code == 1


def test_the_document_says_it_all(source: Path, empty: chunkstore.ChunkedRunLogStore) -> None:
    (source / "mended" / "RunLog.json").write_text("{")
    empty.create_run_log("fails")
    result = run("import", source, "-s", empty.backend.place, "--json")
    assert result.code == 4
    assert result.document | {"refused": []} == {
        "schema": "chunkstore/import/1",
        "store": empty.backend.place,
        "source": str(source),
        "dry_run": False,
        "imported": ["nightly 1"],
        "skipped": [],
        "refused": [],
    }
    refused = result.document["refused"]
    assert [(one["run_id"], one["sort"], one["place"]) for one in refused] == [
        ("fails", "conflict", str(source / "fails")),
        ("mended", "damaged", str(source / "mended")),
    ]
    assert str(source / "mended" / "RunLog.json") in refused[1]["message"]


def test_a_damaged_run_is_told_and_the_others_come_in(source: Path, empty: chunkstore.ChunkedRunLogStore) -> None:
    (source / "mended" / "RunLog.json").write_text("{")
    result = run("import", source, "-s", empty.backend.place)
    assert result.code == 1
    assert "1 run refused" in result.err
    assert result.lines[0].startswith("imported 2 runs from ")
    assert [line.split()[:2] for line in result.lines[1:]] == [["run", "why"], ["mended", "damaged"]]


def test_a_dry_run_writes_nothing(source: Path, empty: chunkstore.ChunkedRunLogStore) -> None:
    result = run("import", source, "-s", empty.backend.place, "--dry-run")
    assert (result.code, result.lines[0].split()[:4]) == (0, ["would", "import", "3", "runs"])
    assert empty.list_run_ids() == []


def test_what_is_no_source_is_usage(tmp_path: Path, empty: chunkstore.ChunkedRunLogStore) -> None:
    place = empty.backend.place
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "package.json").write_text("{}")
    told = {tmp_path / "code": "holds no runs", tmp_path / "nowhere": "there is nothing at", place: ""}
    for given, message in told.items():
        result = run("import", given, "-s", place)
        assert (result.code, message in result.err) == (0 if given == place else 2, True)
    result = run("import", tmp_path, "--from", "mlflow", "-s", place)
    assert (result.code, "known are: runnable, magnus, db-log" in result.err) == (2, True)
    assert run("import", "-s", place).code == 2


def test_a_database_comes_in(empty: chunkstore.ChunkedRunLogStore) -> None:
    result = run("import", DB_LOG / "runs.db", "--from", "db-log", "-s", empty.backend.place)
    assert (result.code, empty.list_run_ids()) == (0, ["fails", "nightly 1"])


def test_foreign_text_is_shown_escaped(tmp_path: Path, empty: chunkstore.ChunkedRunLogStore) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source" / f"{NASTY}.json").write_text(json.dumps({"run_id": NASTY, "tag": 7}))
    result = run("import", tmp_path / "source", "-s", empty.backend.place)
    assert result.code == 1
    assert "\x1b" not in result.out + result.err
    assert ESCAPED in result.out


def test_at_a_terminal_a_bar_shows_how_far_it_is(source: Path, empty: chunkstore.ChunkedRunLogStore) -> None:
    result = run("import", source, "-s", empty.backend.place, terminal=True)
    assert result.code == 0
    assert "3/3" in result.out + result.err
