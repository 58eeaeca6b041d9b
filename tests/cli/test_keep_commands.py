"""What `compact`, `reindex`, `demo` and `schema` do."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

import chunkstore
from commands import damage, run


def test_runs_that_ended_are_packed(nightly: chunkstore.ChunkedRunLogStore) -> None:
    place = nightly.backend.place
    looked = run("compact", "--all", "--dry-run", "-s", place)
    assert [line.split()[:2] for line in looked.lines[1:]] == [["nightly-1", "14"], ["nightly-2", "13"]]
    assert not list(Path(place).glob("*/whole.pack"))
    done = run("compact", "--all", "-s", place)
    assert [line.split()[:4] for line in done.lines[1:]] == [
        ["nightly-1", "24", "14", "0"],
        ["nightly-2", "21", "13", "0"],
    ]
    assert len(list(Path(place).glob("*/whole.pack"))) == 2
    again = run("compact", "last:failed", "-s", place, "--json").document
    assert [(each["run_id"], each["removed"]) for each in again["runs"]] == [("nightly-2", 0)]


def test_what_cannot_be_packed_is_said(nightly: chunkstore.ChunkedRunLogStore) -> None:
    place = nightly.backend.place
    for words in ([], ["nightly-1", "--all"], ["nightly-1", "--remove", "some"], ["nightly-3"]):
        assert run("compact", *words, "-s", place).code == 2
    assert run("compact", "nope", "-s", place).code == 3
    damage(nightly, "nightly-1/step.load.json")
    result = run("compact", "nightly-1", "-s", place)
    assert result.code == 1
    assert "1 damaged" in result.out


def test_finished_runs_come_into_the_index(nightly: chunkstore.ChunkedRunLogStore) -> None:
    place = nightly.backend.place
    assert run("reindex", "-s", place).out == f"2 finished runs are in the index of {place}; 3 headers were read\n"
    assert run("reindex", "-s", place, "--json").document["read"] == 1  # the one that is going on
    assert run("reindex", "-s", place, "--full", "--json").document["read"] == 3


def test_the_demo_writes_a_new_folder_and_says_what_to_try() -> None:
    first = run("demo")
    assert first.code == 0
    assert {file.name for file in Path("chunkstore-demo").iterdir()} >= {"nightly-1", "nightly-2", "nightly-3"}
    for line in first.err.splitlines()[1:]:
        assert run(*line.split()[1:]).code in (0, 1)
    assert run("demo").code == 4
    assert run("demo", "--name", "other", "--json").document["runs"] == ["other-1", "other-2", "other-3"]


def test_every_schema_is_one_and_every_document_fits_its_own(nightly: chunkstore.ChunkedRunLogStore) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed; moto brings it")
    place = nightly.backend.place
    names = run("schema", "--json").document
    for name in [*names["chunks"], *names["documents"]]:
        jsonschema.Draft202012Validator.check_schema(run("schema", name).document)
    asked = {
        "ls": ["ls", "--fields", "run,duration,param.regions"],
        "show": ["show", "nightly-2"],
        "params": ["params", "nightly-1", "--all"],
        "metrics": ["metrics", "nightly-1"],
        "cat": ["cat", "nightly-1", "run"],
        "reindex": ["reindex"],
        "compact": ["compact", "--all"],
        "config check": ["config", "check"],
    }
    for name, words in asked.items():
        jsonschema.validate(run(*words, "-s", place, "--json").document, run("schema", name).document)
    jsonschema.validate(names, run("schema", "schema").document)


def test_a_schema_that_there_is_not_is_answered_with_the_nearest() -> None:
    result = run("schema", "stpe")
    assert result.code == 3
    assert "did you mean 'step'?" in result.err
