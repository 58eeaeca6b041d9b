"""What `show` tells about a run."""

from __future__ import annotations

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

import chunkstore
from commands import damage, run


def test_a_failed_run_is_shown_with_what_failed_and_why_and_ends_with_1(nightly: chunkstore.ChunkedRunLogStore) -> None:
    result = run("show", "last:failed", "-s", nightly.backend.place)
    assert result.code == 1
    assert "├── load  SUCCESS  4.500 s" in result.lines
    assert "    │   └── fit  FAIL  4.500 s  2 attempts" in result.lines
    assert sum("attempt " in line for line in result.lines) == 2
    assert (
        result.lines[-1] == "train.us.fit failed, 2 times: ValueError: region 'us' has 0 rows, and training needs 100"
    )


def test_a_good_run_and_one_that_is_going_on_end_with_0(nightly: chunkstore.ChunkedRunLogStore) -> None:
    for name in ("last:succeeded", "last", "nightly-3"):
        result = run("show", name, "-s", nightly.backend.place)
        assert (result.code, result.err) == (0, "")


def test_the_document_has_all_of_it(nightly: chunkstore.ChunkedRunLogStore) -> None:
    shown = run("show", "nightly-2", "-s", nightly.backend.place, "--json").document
    assert shown["duration_seconds"] == 30.75
    assert shown["failures"] == [
        {
            "internal_name": "train.us.fit",
            "attempts": 2,
            "reason": "ValueError: region 'us' has 0 rows, and training needs 100",
        }
    ]
    train = next(step for step in shown["steps"] if step["name"] == "train")
    assert [branch["internal_name"] for branch in train["branches"]] == ["train.eu", "train.us", "train.asia.south"]
    attempts = train["branches"][1]["steps"][0]["attempts"]
    assert [(each["attempt_number"], each["duration_seconds"]) for each in attempts] == [(1, 1.5), (2, 1.5)]
    assert attempts[0]["message"].count("\n") == 4
    assert {"name": "learning_rate", "kind": "json", "value": 0.2} in shown["parameters"]


def test_damage_and_orphans_are_shown_beside_what_can_be_read_and_damage_ends_with_1(
    nightly: chunkstore.ChunkedRunLogStore,
) -> None:
    nightly.backend.delete("nightly-3/step.train.json")
    orphaned = run("show", "nightly-3", "-s", nightly.backend.place)
    assert orphaned.code == 0
    assert "orphan: 'train' has children" in orphaned.err
    damage(nightly, "nightly-1/step.load.json")
    damaged = run("show", "nightly-1", "-s", nightly.backend.place)
    assert damaged.code == 1
    assert "nightly-1/step.load.json is damaged" in damaged.err
    assert "report  SUCCESS" in damaged.out
    assert [
        each["sort"] for each in run("show", "nightly-1", "-s", nightly.backend.place, "--json").document["findings"]
    ] == ["damaged"]


def test_a_damaged_header_is_not_passed_off_as_a_status(nightly: chunkstore.ChunkedRunLogStore) -> None:
    damage(nightly, "nightly-1/run.json")
    result = run("show", "nightly-1", "-s", nightly.backend.place)
    assert result.code == 1
    assert "its status, tag and times are not known" in result.err


def test_deep_runs_can_be_cut(nightly: chunkstore.ChunkedRunLogStore) -> None:
    assert "3 branches" in run("show", "nightly-1", "-s", nightly.backend.place, "--depth", "1").out


def test_the_tree_fits_a_terminal_and_is_not_cut_elsewhere(nightly: chunkstore.ChunkedRunLogStore) -> None:
    nightly.create_run_log("x" * 150)
    narrow = run("show", "xx", "-s", nightly.backend.place, terminal=True, width=40)
    assert max(map(len, narrow.lines)) <= 40
    assert run("show", "xx", "-s", nightly.backend.place).lines[0].startswith("x" * 150)


def test_odd_names_and_messages_are_shown_escaped(nightly: chunkstore.ChunkedRunLogStore) -> None:
    evil = "[red]a\x1b[2J</script>\u202e🎉.b"
    nightly.create_run_log("evil", tag=evil, status="FAIL")
    step = nightly.create_step_log(evil, evil)
    step.status, step.message = "FAIL", evil
    nightly.add_step_log(step, "evil")
    nightly.set_parameters("evil", {evil: evil})
    for command in ("show", "params", "metrics"):
        result = run(command, "evil", "-s", nightly.backend.place, terminal=True, width=300)
        assert not {"\x1b", "\u202e"} & set(result.out + result.err)
    assert "[red]a\\x1b[2J</script>\\u202e🎉.b" in run("show", "evil", "-s", nightly.backend.place).out
    assert run("show", "evil", "-s", nightly.backend.place, "--json").document["steps"][0]["name"] == evil
