"""Which runs `ls` lists, in which order and columns."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

import chunkstore
from commands import run, run_process


@pytest.fixture
def store(nightly: chunkstore.ChunkedRunLogStore, monkeypatch: pytest.MonkeyPatch) -> chunkstore.ChunkedRunLogStore:
    """The demo's runs, and one of another tag; `ls` is about them."""
    nightly.create_run_log("by-hand", tag="hand", status="SUCCESS")
    nightly.set_parameters("by-hand", {"learning_rate": 0.1, "region": "eu", "flag": "1"})
    monkeypatch.setenv("CHUNKSTORE_URL", nightly.backend.place)
    return nightly


def listed(*arguments: str) -> list[str]:
    return [each["run_id"] for each in run("ls", *arguments, "--json").document["runs"]]


def test_runs_are_listed_the_newest_first_with_status_tag_and_time(store: chunkstore.ChunkedRunLogStore) -> None:
    result = run("ls")
    assert (result.code, result.err) == (0, "")
    assert [line.split()[:3] for line in result.lines] == [
        ["run", "status", "tag"],
        ["by-hand", "SUCCESS", "hand"],
        ["nightly-3", "PROCESSING", "nightly"],
        ["nightly-2", "FAIL", "nightly"],
        ["nightly-1", "SUCCESS", "nightly"],
    ]


@pytest.mark.parametrize(
    ("arguments", "runs"),
    [
        (["--status", "failed"], ["nightly-2"]),
        (["--status", "Success"], ["by-hand", "nightly-1"]),
        (["--status", "running", "--tag", "nightly"], ["nightly-3"]),
        (["--tag", "hand"], ["by-hand"]),
        (["--text", "ght"], ["nightly-3", "nightly-2", "nightly-1"]),
        (["--param", "learning_rate=0.1"], ["by-hand", "nightly-1"]),
        (["--param", "learning_rate=0.10", "--param", "region=eu"], ["by-hand"]),
        (["--param", 'flag="1"'], ["by-hand"]),
        (["--param", "flag=1"], []),
        (["--last", "7d"], ["by-hand", "nightly-3", "nightly-2", "nightly-1"]),
        (["--since", "2020-01-01", "--until", "1h"], []),
        (["--since", "1h", "--limit", "1"], ["by-hand"]),
        (["--sort", "oldest"], ["nightly-1", "nightly-2", "nightly-3", "by-hand"]),
        (["--sort", "run"], ["by-hand", "nightly-1", "nightly-2", "nightly-3"]),
        (["--sort", "-duration", "--tag", "nightly"], ["nightly-3", "nightly-1", "nightly-2"]),
        (["--sort", "param.learning_rate", "--limit", "3"], ["nightly-1", "by-hand", "nightly-2"]),
    ],
)
def test_filters_orders_and_limits(store: chunkstore.ChunkedRunLogStore, arguments: list[str], runs: list[str]) -> None:
    if arguments[1] == "param.learning_rate":
        assert set(listed(*arguments)[:2]) == {"by-hand", "nightly-1"}
    else:
        assert listed(*arguments) == runs


def test_pages_go_on_by_the_cursor(store: chunkstore.ChunkedRunLogStore) -> None:
    first = run("ls", "--limit", "3")
    assert first.lines[-1].startswith("nightly-2")
    cursor = first.err.split("--cursor ")[1].split()[0]
    second = run("ls", "--limit", "3", "--cursor", cursor)
    assert [line.split()[0] for line in second.lines] == ["run", "nightly-1"]
    assert second.err == ""
    assert run("ls", "--status", "fail", "--cursor", cursor).code == 2
    assert run("ls", "--sort", "tag", "--cursor", cursor).code == 2


def test_columns_are_chosen_also_of_the_whole_run(store: chunkstore.ChunkedRunLogStore) -> None:
    shown = run("ls", "--fields", "run,duration,steps,failed,param.learning_rate,param.regions", "--tag", "nightly")
    assert shown.lines[2].split() == [
        "nightly-2",
        "30.750",
        "s",
        "8",
        "train.us.fit",
        "0.2",
        "['eu',",
        "'us',",
        "'asia.south']",
    ]
    (found,) = run("ls", "--fields", "run,duration,param.region", "--tag", "hand", "--json").document["runs"]
    assert found["fields"] == {"duration": None, "param.region": "eu"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--fields", "run,stauts"], "there is no field 'stauts'; did you mean 'status'?"),
        (["--sort", "size"], "there is no field 'size'"),
        (["--param", "alpha"], "not NAME=VALUE"),
        (["--param", "a=1", "--param", "a=2"], "given twice"),
        (["--last", "soon"], "'soon' is no span of time"),
        (["--since", "soon"], "'soon' is no time"),
        (["--since", "7d", "--last", "7d"], "give one of them"),
        (["--last", "9999999w"], "longer than time goes back"),
        (["--cursor", "x"], "the cursor is damaged"),
        (["--limit", "0"], "--limit"),
    ],
)
def test_what_cannot_be_asked_is_said(store: chunkstore.ChunkedRunLogStore, arguments: list[str], said: str) -> None:
    result = run("ls", *arguments)
    assert result.code == 2
    assert said in result.err


def test_an_empty_store_lists_nothing_and_says_so(empty: chunkstore.ChunkedRunLogStore) -> None:
    place = empty.backend.place
    assert run("ls", "-s", place) == type(run())(0, "", f"no run in {place}\n")
    assert run("ls", "-s", place, "--tag", "x").err == f"no run in {place} is as asked for\n"
    assert run("ls", "-s", place, "--json").document["runs"] == []


def test_times_in_json_have_a_zone(store: chunkstore.ChunkedRunLogStore) -> None:
    created = datetime.fromisoformat(run("ls", "--json").document["runs"][0]["created_at"])
    assert timedelta(0) <= datetime.now(UTC) - created < timedelta(hours=1)


def test_times_are_shown_in_the_persons_own_zone(store: chunkstore.ChunkedRunLogStore) -> None:
    utc, here = (run_process("ls", env={"TZ": zone}).lines[1].split()[-2:] for zone in ("UTC", "XYZ-5"))
    assert datetime.fromisoformat(" ".join(here)) - datetime.fromisoformat(" ".join(utc)) == timedelta(hours=5)
