"""What `cat` prints."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

import chunkstore
from commands import damage, run, run_process


def test_without_a_chunk_the_keys_are_listed(nightly: chunkstore.ChunkedRunLogStore) -> None:
    result = run("cat", "nightly-1", "-s", nightly.backend.place)
    keys = [line.split()[0] for line in result.lines[1:]]
    assert keys == sorted(entry.key for entry in nightly.backend.list("nightly-1/"))
    objects = run("cat", "nightly-1", "-s", nightly.backend.place, "--json").document["objects"]
    assert [each["key"] for each in objects] == keys


def test_the_bytes_are_those_of_the_file(nightly: chunkstore.ChunkedRunLogStore) -> None:
    place = nightly.backend.place
    raw = (Path(place) / "nightly-1" / "step.train.eu.fit.json").read_bytes()
    for words in (["step", "train.eu.fit"], ["step.train.eu.fit.json"], ["nightly-1/step.train.eu.fit.json"]):
        assert run("cat", "nightly-1", *words, "-s", place).out.encode() == raw
    nightly.compact("nightly-1")
    assert run_process("cat", "nightly-1", "step", "train.eu.fit", "-s", place).out.encode() == raw
    assert "cat finds it there" in run("cat", "nightly-1", "-s", place).err


def test_a_parameter_of_a_branch_is_found_and_decoded(nightly: chunkstore.ChunkedRunLogStore) -> None:
    chunk = run(
        "cat", "nightly-1", "parameter", "score", "--branch", "train.eu", "-s", nightly.backend.place, "--json"
    ).document["chunk"]
    assert chunk["body"] == {"kind": "metric", "value": 0.91}
    assert chunk["envelope"]["scope"] == "train.eu"


def test_damaged_bytes_are_printed_as_they_are_and_not_decoded(nightly: chunkstore.ChunkedRunLogStore) -> None:
    damage(nightly, "nightly-1/run.json")
    assert run("cat", "nightly-1", "run", "-s", nightly.backend.place).code == 0
    assert run("cat", "nightly-1", "run", "-s", nightly.backend.place, "--json").code == 1


def test_a_terminal_is_shown_what_it_cannot_obey(empty: chunkstore.ChunkedRunLogStore) -> None:
    empty.create_run_log("r", tag="\x9b31m\u202e")
    shown = run("cat", "r", "run", "-s", empty.backend.place, terminal=True, width=1000)
    assert "\\x9b31m\\u202e" in shown.out
    assert run("cat", "r", "run", "-s", empty.backend.place).out.count("\x9b31m\u202e") == 1


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["nope"], 2, "no kind of chunk 'nope'"),
        (["step"], 2, "which step"),
        (["run", "x"], 2, "has no name"),
        (["run.json", "x"], 2, "is a key"),
        (["job"], 3, "job.json"),
        (["step", "nope"], 3, "step.nope.json"),
    ],
)
def test_what_is_not_there_or_no_chunk_is_said(
    nightly: chunkstore.ChunkedRunLogStore, words: list[str], code: int, said: str
) -> None:
    result = run("cat", "nightly-1", *words, "-s", nightly.backend.place)
    assert result.code == code
    assert said in result.err
