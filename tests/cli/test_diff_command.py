"""`chunkstore diff`: what changed, in a table that can be read, and in full as JSON."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

import chunkstore
from chunkstore import ChunkedRunLogStore
from commands import damage, run


def put(store: ChunkedRunLogStore, run_id: str, **parameters: object) -> None:
    store.create_run_log(run_id, status="SUCCESS")
    store.set_parameters(run_id, parameters)


def test_two_runs_that_differ_are_told_kind_by_kind_with_exit_code_1(nightly: ChunkedRunLogStore) -> None:
    result = run("diff", "nightly-1", "nightly-2", "-s", nightly.backend.place)
    assert result.code == 1
    assert result.lines[0].split() == ["what", "where", "which", "nightly-1", "nightly-2"]
    rows = [line.split() for line in result.lines[1:]]
    assert ["status", "train.us.fit", "status", "SUCCESS", "FAIL"] in rows
    assert ["parameter", "(run)", "learning_rate", "0.1", "0.2"] in rows
    assert ["step", "report", "status", "SUCCESS", "-"] in rows
    assert ["data", "load", "put", "sales.parquet", "9f86d081884c7d65", "60303ae22b998861"] in rows
    kinds = [row[0] for row in rows]
    assert kinds == sorted(kinds, key=list(dict.fromkeys(kinds)).index)
    assert result.err == f"{len(rows)} differences\n"


def test_a_run_and_itself_do_not_differ(nightly: ChunkedRunLogStore) -> None:
    result = run("diff", "last~1", "nightly-2", "-s", nightly.backend.place)
    assert (result.code, result.out, result.err) == (0, "nightly-2 and nightly-2 do not differ\n", "")


def test_the_document_has_every_difference_in_full(empty: ChunkedRunLogStore) -> None:
    long = "x" * 5000
    put(empty, "a", long=f"{long}a", nan=math.nan, gone=None, big=10**30, odd="\ud800", same=1)
    put(empty, "b", long=f"{long}b", nan=1, big=10**30 + 1, odd="", same=1.0)
    result = run("diff", "a", "b", "-s", empty.backend.place, "--json")
    assert result.code == 1
    assert (result.document["schema"], result.document["same"]) == ("chunkstore/diff/1", False)
    assert result.document["left"] == {"store": empty.backend.place, "run_id": "a", "findings": []}
    found = {each["field"]: (each["change"], each["left"], each["right"]) for each in result.document["differences"]}
    assert found == {
        "long": ("changed", f"{long}a", f"{long}b"),
        "nan": ("changed", "NaN", 1),
        "gone": ("only left", None, None),
        "big": ("changed", 10**30, 10**30 + 1),
        "odd": ("changed", "\ud800", ""),
    }


@pytest.mark.parametrize(("terminal", "longest"), [(True, 48), (False, 200)])
def test_of_a_large_value_the_part_is_shown_that_differs(
    empty: ChunkedRunLogStore, *, terminal: bool, longest: int
) -> None:
    put(empty, "a", p=f"{'x' * 5000}old{'y' * 5000}")
    put(empty, "b", p=f"{'x' * 5000}new{'y' * 5000}")
    result = run("diff", "a", "b", "-s", empty.backend.place, terminal=terminal, width=200)
    row = next(line for line in result.lines if line.startswith("parameter"))
    _, _, _, left, right = row.split()
    assert left.startswith("…xxxxxxxxold")
    assert right.startswith("…xxxxxxxxnew")
    assert left.endswith("y…")
    assert len(left) == len(right) == longest


def test_texts_that_look_like_other_values_are_quoted(empty: ChunkedRunLogStore) -> None:
    put(empty, "a", number=1, nothing=None, empty="", word="null", text="plain")
    put(empty, "b", number="1", nothing="null", empty=" ", word="-", text="other")
    rows = [
        line.split()[2:] for line in run("diff", "a", "b", "-s", empty.backend.place).lines if line.startswith("par")
    ]
    assert rows == [
        ["number", "1", '"1"'],
        ["nothing", "null", '"null"'],
        ["empty", '""', '"', '"'],
        ["word", '"null"', '"-"'],
        ["text", "plain", "other"],
    ]


def test_steps_that_changed_in_the_same_way_are_one_row_on_a_terminal_and_all_rows_elsewhere(
    empty: ChunkedRunLogStore,
) -> None:
    for run_id, status in (("a", "SUCCESS"), ("b", "FAIL")):
        put(empty, run_id)
        for number in range(10):
            step = empty.create_step_log(f"s{number}", f"s{number}")
            step.status = status
            empty.add_step_log(step, run_id)
    shown = run("diff", "a", "b", "-s", empty.backend.place, terminal=True)
    assert [line.split()[:5] for line in shown.lines if line.startswith("status")] == [
        ["status", "s0", "and", "9", "more"]
    ]
    assert shown.err == "10 differences\n"
    elsewhere = run("diff", "a", "b", "-s", empty.backend.place)
    assert sum(line.startswith("status") for line in elsewhere.lines) == 10


def test_runs_of_two_stores_are_compared_and_told_apart(nightly: ChunkedRunLogStore, tmp_path: Path) -> None:
    other = chunkstore.open(tmp_path / "other")
    put(other, "nightly-1")
    result = run("diff", "nightly-1", "nightly-1", "-s", nightly.backend.place, "--store-b", other.backend.place)
    assert result.code == 1
    assert f"nightly-1 in {nightly.backend.place}" in result.lines[0]
    assert f"nightly-1 in {other.backend.place}" in result.lines[0]
    assert (
        run("diff", "nightly-2", "nightly-2", "-s", nightly.backend.place, "--store-b", other.backend.place).code == 3
    )


def test_durations_differ_beyond_what_is_told(nightly: ChunkedRunLogStore) -> None:
    arguments = ("diff", "nightly-1", "nightly-2", "-s", nightly.backend.place)
    assert "duration" in run(*arguments).out
    assert "duration" not in run(*arguments, "--seconds", "60").out
    assert "duration" not in run(*arguments, "--percent", "10000").out
    wrong = run(*arguments, "--percent", "-1")
    assert wrong.code == 2
    assert "share" in wrong.err


def test_what_is_damaged_is_said_and_cannot_pass_for_the_same(nightly: ChunkedRunLogStore) -> None:
    damage(nightly, "nightly-1/step.load.json")
    result = run("diff", "nightly-1", "nightly-1", "-s", nightly.backend.place)
    assert result.code == 1
    assert "nightly-1/step.load.json" in result.err
    document = run("diff", "nightly-1", "nightly-1", "-s", nightly.backend.place, "--json")
    assert document.code == 1
    assert len(document.document["left"]["findings"]) == 1


def test_a_run_that_is_not_there_is_exit_code_3(empty: ChunkedRunLogStore) -> None:
    assert run("diff", "last", "last~1", "-s", empty.backend.place).code == 3
    assert run("diff", "a").code == 2
