"""`chunkstore verify` on whole, empty and damaged stores."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

from chunkstore import ChunkedRunLogStore
from commands import damage, run


def test_a_whole_store_is_well(nightly: ChunkedRunLogStore) -> None:
    done = run("verify", "-s", nightly.backend.place)
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("3 runs, ")
    assert done.out.endswith(": all is well\n")


def test_an_empty_store_is_well(empty: ChunkedRunLogStore) -> None:
    assert run("verify", "-s", empty.backend.place).out == "0 runs, 0 chunks, 0 bytes: all is well\n"


def test_damage_is_named_with_the_next_step_and_ends_with_1(nightly: ChunkedRunLogStore) -> None:
    damage(nightly, "nightly-2/step.load.json")
    done = run("verify", "-s", nightly.backend.place, "--settle", "0")
    assert done.code == 1
    assert done.lines[0].startswith("damage  nightly-2/step.load.json is damaged")
    assert "restore it from a backup" in done.lines[1]
    assert "1 damaged, 0 warnings, 0 notices" in done.lines[-1]


def test_a_notice_is_no_failure(nightly: ChunkedRunLogStore) -> None:
    (Path(nightly.backend.place) / "nightly-1" / "[red]notes\x1b[31m.txt").write_bytes(b"")
    done = run("verify", "-s", nightly.backend.place, "--settle", "0")
    assert done.code == 0
    assert "[red]notes\\x1b[31m.txt" in done.out
    assert "\x1b" not in done.out


def test_only_some_runs_by_their_names(nightly: ChunkedRunLogStore) -> None:
    damage(nightly, "nightly-2/step.load.json")
    store = ("-s", nightly.backend.place, "--settle", "0")
    assert run("verify", "nightly-1", "last", *store).code == 0
    assert run("verify", "last:failed", *store).code == 1
    assert run("verify", "nope", *store).code == 3


def test_the_document(nightly: ChunkedRunLogStore) -> None:
    damage(nightly, "nightly-2/step.load.json")
    done = run("verify", "-s", nightly.backend.place, "--settle", "0", "--json")
    document = done.document
    assert (done.code, document["schema"], document["runs"], document["damage"]) == (1, "chunkstore/verify/1", 3, 1)
    (found,) = document["findings"]
    assert (found["kind"], found["key"]) == ("damaged", "nightly-2/step.load.json")


def test_a_folder_that_is_not_there_is_not_found() -> None:
    assert run("verify", "-s", "nowhere").code == 3
