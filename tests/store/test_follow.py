"""Who follows a run sees each change of it once, for one listing a look and what changed, until the run has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkstore import ChunkedRunLogStore, InvalidInputError, RunChange, RunLogNotFoundError, StoreSettings
from chunkstore.backends import ANY
from chunkstore.chunks import Timing
from chunkstore.testing import CountingBackend
from places import again, meanwhile, memory, place, sized

Turn = Callable[[], object]


@pytest.fixture
def store() -> ChunkedRunLogStore:
    made = ChunkedRunLogStore(memory())
    made.create_run_log("r", tag="nightly")
    return made


def following(store: ChunkedRunLogStore, turns: Iterable[Turn], **settings: Any) -> ChunkedRunLogStore:
    """A store that knows nothing; whenever it pauses, somebody else takes the next turn. After the last one the run ends."""
    left = iter([*turns, lambda: store.update_run_log_status("r", "SUCCESS")])

    def sleep(_seconds: float) -> None:
        next(left, lambda: None)()

    timing = Timing(sleep=sleep)
    return ChunkedRunLogStore(CountingBackend(store.backend), settings=StoreSettings(**settings), timing=timing)


def told(changes: Iterator[RunChange]) -> list[tuple[str, str, str]]:
    return [(change.sort, change.kind, f"{change.scope}/{change.name}".strip("/")) for change in changes]


def add_step(store: ChunkedRunLogStore, name: str, message: str = "") -> None:
    step = store.create_step_log(name, name)
    step.message = message
    store.add_step_log(step, "r")


END = ("changed", "run", "")


def test_first_comes_all_that_is_there_then_what_is_new_until_the_end(store: ChunkedRunLogStore) -> None:
    add_step(store, "b")
    add_step(store, "a")
    store.set_parameters("r", {"p": 1})
    follower = following(store, [lambda: add_step(store, "c"), lambda: add_step(store, "b", "done")])
    assert told(follower.follow("r")) == [
        ("new", "run", ""),
        ("new", "step", "b"),
        ("new", "step", "a"),
        ("new", "parameter", "p"),
        ("new", "step", "c"),
        ("changed", "step", "b"),
        END,
    ]


def test_each_change_brings_the_value(store: ChunkedRunLogStore) -> None:
    store.set_parameters("r", {"p": [1, 2]})
    store.add_job_log("r", store.create_job_log())
    changes = {change.kind: change.value for change in following(store, []).follow("r")}
    assert changes["parameter"] == [1, 2]
    assert type(changes["job"]) is type(store.create_job_log())
    run_log: Any = changes["run"]
    assert (run_log.run_id, run_log.tag, run_log.status) == ("r", "nightly", "SUCCESS")


def test_parameters_of_a_branch_come_with_their_scope(store: ChunkedRunLogStore) -> None:
    store.add_branch_log(store.create_branch_log("m.x", {"p": 1}), "r")
    assert ("new", "parameter", "m.x/p") in told(following(store, []).follow("r"))


def test_what_comes_after_the_end_is_seen_too(store: ChunkedRunLogStore) -> None:
    store.update_run_log_status("r", "FAIL")
    seen = told(following(store, [lambda: add_step(store, "late"), lambda: add_step(store, "later")]).follow("r"))
    assert seen == [("new", "run", ""), ("new", "step", "late"), ("new", "step", "later"), END]


def test_a_look_costs_one_listing_and_what_changed(store: ChunkedRunLogStore) -> None:
    for number in range(20):
        add_step(store, f"s {number}")
    # Also where the process can remember nothing.
    follower = following(store, [lambda: add_step(store, "s 7", "done")], known_bytes=1)
    backend = follower.backend
    assert isinstance(backend, CountingBackend)
    assert len(list(follower.follow("r"))) == 23
    assert backend.by_verb == {"list": 4, "get_many": 21 + 1 + 1}


def test_chunks_that_are_taken_away_are_told(store: ChunkedRunLogStore) -> None:
    store.set_parameters("r", {"p": 1})
    follower = following(store, [lambda: store.backend.delete("r/parameter.p.json")])
    assert told(follower.follow("r")) == [
        ("new", "run", ""),
        ("new", "parameter", "p"),
        ("removed", "parameter", "p"),
        END,
    ]


def test_damage_is_told_once_and_so_is_its_repair(store: ChunkedRunLogStore) -> None:
    add_step(store, "a")
    whole = store.backend.get("r/step.a.json").data
    follower = following(
        store,
        [
            lambda: store.backend.put("r/step.a.json", whole[:-7], ANY),
            lambda: add_step(store, "b"),
            lambda: store.backend.put("r/step.a.json", whole, ANY),
        ],
    )
    changes = list(follower.follow("r"))
    assert told(iter(changes)) == [
        ("new", "run", ""),
        ("new", "step", "a"),
        ("damaged", "step", "a"),
        ("new", "step", "b"),
        ("changed", "step", "a"),
        END,
    ]
    assert "r/step.a.json" in changes[2].message


def test_a_run_that_is_not_there_cannot_be_followed(store: ChunkedRunLogStore) -> None:
    with pytest.raises(RunLogNotFoundError, match="'nowhere'"):
        list(store.follow("nowhere"))


@pytest.mark.parametrize("anew", [False, True], ids=["gone", "made anew"])
def test_a_run_that_is_deleted_meanwhile_is_reported(store: ChunkedRunLogStore, *, anew: bool) -> None:
    def delete() -> None:
        again(store).delete_run_log("r")
        if anew:
            again(store).create_run_log("r")

    changes = following(store, [delete]).follow("r")
    assert next(changes).kind == "run"
    with pytest.raises(RunLogNotFoundError):
        next(changes)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_pause_that_is_none_is_refused_at_once(store: ChunkedRunLogStore, seconds: float) -> None:
    with pytest.raises(InvalidInputError, match="poll_seconds must be above 0"):
        store.follow("r", poll_seconds=seconds)


def write(store: ChunkedRunLogStore, count: int) -> None:
    for number in range(count):
        add_step(store, f"s {number}", "begun")
        add_step(store, f"s {number}", "done")
    store.update_run_log_status("r", "SUCCESS")


@pytest.mark.parametrize("where", ["local", "minio", "faults"])
def test_beside_a_writing_process_every_step_is_seen_and_seen_done(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store = ChunkedRunLogStore(place(where, request, tmp_path))
    store.create_run_log("r")
    count = sized(200)
    last: dict[str, str] = {}
    news: list[str] = []
    with meanwhile(write, [(again(store), count)]):
        for change in again(store).follow("r", poll_seconds=0.01):
            if change.kind == "step":
                step: Any = change.value
                last[change.name] = step.message
                news += [change.name] if change.sort == "new" else []
    assert last == {f"s {number}": "done" for number in range(count)}
    assert len(news) == len(set(news)) == count
