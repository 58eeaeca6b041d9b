"""`chunkstore repair`: asks before it takes anything away, and shows where that is."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

from chunkstore import ChunkedRunLogStore
from commands import damage, run

KEY = "nightly-2/step.load.json"


@pytest.fixture
def damaged(nightly: ChunkedRunLogStore) -> tuple[str, ...]:
    damage(nightly, KEY)
    return ("-s", nightly.backend.place, "--settle", "0")


def test_nothing_to_repair(nightly: ChunkedRunLogStore) -> None:
    done = run("repair", "-s", nightly.backend.place)
    assert (done.code, done.out, done.err) == (0, "nothing to repair\n", "")


def test_without_a_terminal_it_needs_yes_and_shows_what_it_would_take_away(
    damaged: tuple[str, ...], nightly: ChunkedRunLogStore
) -> None:
    before = nightly.backend.get(KEY)
    done = run("repair", *damaged)
    assert done.code == 2
    assert "1 run" in done.err
    assert nightly.backend.place in done.err
    assert "--yes" in done.err
    assert nightly.backend.get(KEY) == before


@pytest.mark.parametrize(("answer", "code"), [("y\n", 0), ("n\n", 1), ("", 1)])
def test_at_a_terminal_it_asks(damaged: tuple[str, ...], answer: str, code: int) -> None:
    assert run("repair", *damaged, answer=answer, terminal=True).code == code


def test_a_dry_run_changes_nothing(damaged: tuple[str, ...], nightly: ChunkedRunLogStore) -> None:
    done = run("repair", *damaged, "--dry-run")
    assert done.code == 1
    assert done.lines[0].startswith(f"isolated  {KEY}")
    assert "--dry-run" in done.err
    assert list(nightly.backend.list(".quarantine/")) == []


def test_what_was_isolated_is_listed_exported_and_discarded(
    damaged: tuple[str, ...], nightly: ChunkedRunLogStore, tmp_path: Path
) -> None:
    data = nightly.backend.get(KEY).data
    done = run("repair", *damaged, "--yes")
    assert done.code == 0
    assert done.lines[0].startswith(f"isolated  {KEY}")
    assert done.lines[-1] == "1 repaired, 0 kept as they are"
    listed = run("repair", *damaged, "--list")
    assert KEY in listed.lines[1]
    identity = listed.lines[1].split()[0]
    assert run("repair", *damaged, "--export", tmp_path / "out").out == f"{tmp_path}/out/{KEY}\n"
    assert (tmp_path / "out" / KEY).read_bytes() == data
    assert run("repair", *damaged, "--discard", identity).code == 2
    assert run("repair", *damaged, "--discard", identity, "--yes").code == 0
    assert len(run("repair", *damaged, "--list").lines) == 1
    assert run("repair", *damaged, "--discard", identity, "--yes").code == 3
    assert run("repair", *damaged, "--discard", "x", "--list").code == 2


def test_what_needs_a_person_is_kept_and_ends_with_1(nightly: ChunkedRunLogStore) -> None:
    nightly.backend.delete("nightly-1/run.json")
    done = run("repair", "-s", nightly.backend.place, "--settle", "0")
    assert done.code == 1
    assert done.lines[0].startswith("kept      nightly-1/run.json is missing")


def test_the_document(damaged: tuple[str, ...]) -> None:
    document = run("repair", *damaged, "--yes", "--json").document
    assert (document["schema"], document["dry_run"]) == ("chunkstore/repair/1", False)
    assert [(one["outcome"], one["key"]) for one in document["actions"]] == [("isolated", KEY)]
    assert [one["key"] for one in document["quarantine"]] == [KEY]
