"""What `params` and `metrics` show."""

from __future__ import annotations

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

import chunkstore
from commands import damage, run


def test_parameters_are_the_runs_own_as_json(nightly: chunkstore.ChunkedRunLogStore) -> None:
    result = run("params", "nightly-1", "-s", nightly.backend.place)
    assert [line.split(maxsplit=1) for line in result.lines[1:]] == [
        ["learning_rate", "0.1                         json"],
        ["regions", '["eu", "us", "asia.south"]  json'],
        ["score", "0.89                        metric"],
    ]


def test_those_of_a_branch_and_of_all(nightly: chunkstore.ChunkedRunLogStore) -> None:
    place = nightly.backend.place
    assert [
        each["name"]
        for each in run("params", "nightly-1", "-s", place, "--branch", "train.eu", "--json").document["parameters"]
    ] == ["region", "score"]
    every = run("params", "nightly-1", "-s", place, "--all", "--json").document["parameters"]
    assert [each["branch"] for each in every] == [
        *[""] * 3,
        *["train.eu"] * 2,
        *["train.us"] * 2,
        *["train.asia.south"] * 2,
    ]
    assert run("params", "nightly-1", "-s", place, "--branch", "train.x").code == 3
    assert run("params", "nightly-1", "-s", place, "--branch", "train.eu", "--all").code == 2
    assert (
        "branch 'check.rows' has no parameters" in run("params", "nightly-1", "-s", place, "--branch", "check.rows").err
    )


def test_numbers_that_json_lacks_are_named(empty: chunkstore.ChunkedRunLogStore) -> None:
    empty.create_run_log("r")
    empty.set_parameters("r", {"nan": float("nan"), "big": 10**300, "deep": {"inf": [float("-inf")]}})
    assert "NaN" in run("params", "r", "-s", empty.backend.place).out
    values = {
        each["name"]: each["value"]
        for each in run("params", "r", "-s", empty.backend.place, "--json").document["parameters"]
    }
    assert values == {"nan": "NaN", "big": 10**300, "deep": {"inf": ["-Infinity"]}}


def test_metrics_are_those_of_parameters_steps_and_attempts(nightly: chunkstore.ChunkedRunLogStore) -> None:
    result = run("metrics", "last:succeeded", "-s", nightly.backend.place)
    assert [line.split() for line in result.lines] == [
        ["metric", "value", "where", "source"],
        ["score", "0.89", "parameter"],
        ["score", "0.91", "train.eu", "parameter"],
        ["score", "0.87", "train.us", "parameter"],
        ["score", "0.89", "train.asia.south", "parameter"],
        ["loss", "0.09", "train.eu.fit", "attempt", "1"],
        ["loss", "0.13", "train.us.fit", "attempt", "1"],
        ["loss", "0.11", "train.asia.south.fit", "attempt", "1"],
    ]
    document = run("metrics", "nightly-1", "-s", nightly.backend.place, "--json").document["metrics"]
    assert document[-1] == {
        "name": "loss",
        "value": 0.11,
        "where": "train.asia.south.fit",
        "source": "attempt",
        "attempt_number": 1,
    }


def test_where_there_are_none_that_is_said(empty: chunkstore.ChunkedRunLogStore) -> None:
    empty.create_run_log("r")
    assert run("metrics", "r", "-s", empty.backend.place).err == "run 'r' measured nothing\n"
    assert run("params", "r", "-s", empty.backend.place).err.startswith("run 'r' has no parameters")


def test_of_a_damaged_run_what_can_be_read_is_shown_and_the_code_is_1(nightly: chunkstore.ChunkedRunLogStore) -> None:
    damage(nightly, "nightly-1/parameter.regions.json")
    for command in ("params", "metrics"):
        result = run(command, "nightly-1", "-s", nightly.backend.place)
        assert result.code == 1
        assert "score" in result.out
        assert "nightly-1/parameter.regions.json is damaged" in result.err
