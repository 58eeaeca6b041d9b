"""Moving to the trash and back, cut short or met by others between any two requests: nothing is lost, the next call finishes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final

import pytest

import interruptions
from chunkstore import ChunkStoreError, NotFoundError, StepLog, maintenance
from chunkstore.backends import Backend
from etags import Between
from interruptions import (
    PLACES,
    RULE,
    TOMORROW,
    KilledError,
    Store,
    collect,
    killed,
    requests_of,
    restore,
    stands,
    whole,
)


def filled(backend: Backend, *, packed: bool) -> Store:
    """With a pack there is also a chunk that was changed since."""
    store = interruptions.filled(backend, packed=packed)
    if packed:
        store.add_step_log(StepLog(name="x", internal_name="x", message="changed since"), "r")
    return store


def move(store: Store) -> object:
    return collect(store)


def empty(store: Store) -> object:
    return maintenance.empty_trash(store, timedelta(0))


def in_trash(store: Store) -> list[str]:
    return [entry.run_id for entry in maintenance.list_trash(store)]


def leftovers(store: Store) -> list[str]:
    """What is in the trash once it is emptied."""
    empty(store)
    return [entry.key for entry in store.backend.list(".trash/")]


@pytest.mark.parametrize("packed", [False, True], ids=["loose", "packed"])
@pytest.mark.parametrize("place", PLACES)
def test_a_move_that_is_killed_leaves_the_run_where_it_was_or_in_the_trash(place: str, packed: bool) -> None:
    expected = whole(filled(PLACES[place](), packed=packed))
    for at, after in cuts(requests_of(move, filled(PLACES[place](), packed=packed).backend)):
        store = filled(PLACES[place](), packed=packed)
        expected = whole(store)
        with pytest.raises(KilledError):
            move(Store(Between(store.backend, at, killed, after=after)))
        if stands(store):
            assert whole(store) == expected
        else:
            assert "r" in in_trash(store)
        collect(Store(store.backend))
        assert not stands(store)
        assert list(store.backend.list("r/")) == []
        assert restore(Store(store.backend))
        assert whole(store) == expected
        assert leftovers(store) == []
        assert whole(store) == expected


def cuts(requests: int) -> Iterator[tuple[int, bool]]:
    return ((at, after) for at in range(1, requests + 1) for after in (False, True) if at < requests or not after)


@pytest.mark.parametrize("packed", [False, True], ids=["loose", "packed"])
@pytest.mark.parametrize("place", PLACES)
def test_restoring_that_is_killed_leaves_the_run_in_the_trash_until_it_stands(place: str, packed: bool) -> None:
    store = filled(PLACES[place](), packed=packed)
    move(store)
    for at, after in cuts(requests_of(restore, store.backend)):
        store = filled(PLACES[place](), packed=packed)
        expected = whole(store)
        move(store)
        with pytest.raises(KilledError):
            restore(Store(Between(store.backend, at, killed, after=after)))
        assert stands(store) or in_trash(store) == ["r"]
        empty_is_harmless = Store(store.backend)
        if not stands(store):
            assert collect(empty_is_harmless).finished == ()  # a collector leaves it to whoever restores
            restore(Store(store.backend))
        assert whole(store) == expected
        assert leftovers(store) == []
        assert whole(store) == expected


@pytest.mark.parametrize("place", PLACES)
def test_emptying_that_is_killed_is_finished_by_the_next(place: str) -> None:
    store = filled(PLACES[place](), packed=False)
    move(store)
    for at, after in cuts(requests_of(empty, store.backend)):
        store = filled(PLACES[place](), packed=False)
        move(store)
        with pytest.raises(KilledError):
            empty(Store(Between(store.backend, at, killed, after=after)))
        assert leftovers(store) == []
        assert not stands(store)


def _step(name: str) -> Callable[[Store], object]:
    return lambda store: store.add_step_log(StepLog(name=name, internal_name=name, message="late"), "r")


LATE: Final[dict[str, Callable[[Store], object]]] = {
    "a step that it knows": _step("x"),
    "a new step": _step("new"),
    "a parameter that it knows": lambda store: store.set_parameters("r", {"a": "late"}),
    "a new parameter": lambda store: store.set_parameters("r", {"new": "late"}),
    "the status": lambda store: store.update_run_log_status("r", "PROCESSING"),
    "the configuration": lambda store: store.set_run_config("r", {"by": "late"}),
}


def is_in(name: str, run: dict[str, Any]) -> bool:
    if name == "the status":
        return run["status"] == "PROCESSING"
    if name == "the configuration":
        return run["run_config"] == {"by": "late"}
    if "parameter" in name:
        return "late" in run["parameters"].values()
    return any(step["message"] == "late" for step in run["steps"].values())


@pytest.mark.parametrize("knows", [False, True], ids=["knows the header alone", "has read the run"])
@pytest.mark.parametrize("name", LATE)
@pytest.mark.parametrize("place", PLACES)
def test_a_write_that_comes_between_any_two_requests_of_a_move_is_refused_or_kept(
    place: str, name: str, knows: bool
) -> None:
    """A step or parameter that was acknowledged is in the run where it stands, or comes back with it from the trash."""
    kept = 0
    for at in range(1, requests_of(move, filled(PLACES[place](), packed=False).backend) + 1):
        store = filled(PLACES[place](), packed=False)
        writer, acknowledged = Store(store.backend), []
        writer.get_run_log_by_id("r") if knows else writer.get_run_config("r")

        def write(writer: Store = writer, acknowledged: list[bool] = acknowledged) -> None:
            with suppress(ChunkStoreError):
                LATE[name](writer)
                acknowledged.append(True)

        removed = collect(Store(Between(store.backend, at, write)))
        if not stands(store):
            assert removed.runs == ("r",)
            if knows and "new" not in name:  # what is made anew behind the last look stays where it is
                assert list(store.backend.list("r/")) == [], at
            restore(store)
        assert is_in(name, whole(store)) == bool(acknowledged), at
        kept += bool(acknowledged)
        run = whole(store)
        assert set(run["steps"]) >= {"x", "y"}
        assert "a" in run["parameters"]
        assert leftovers(store) == []
    assert kept >= 3


def anew(store: Store) -> None:
    with suppress(NotFoundError):
        store.delete_run_log("r")
    with suppress(ChunkStoreError):
        store.create_run_log("r", tag="anew", status="SUCCESS")
        store.add_step_log(StepLog(name="x", internal_name="x", message="anew"), "r")
        store.add_step_log(StepLog(name="other", internal_name="other", message="anew"), "r")


def restored(store: Store) -> None:
    with suppress(ChunkStoreError):
        restore(store)


def moved_and_restored(store: Store) -> None:
    move(store)
    restored(store)


def moved_and_used_again(store: Store) -> None:
    move(store)
    anew(store)


OTHERS: Final[dict[str, Callable[[Store], object]]] = {
    "another collector": move,
    "another who empties the trash": empty,
    "another who restores": restored,
    "one who moves it and restores it": moved_and_restored,
}


UNSAFE: Final = ("no conditional deletes", "one who moves it and restores it")
"""A third party restores what a second has moved, or uses its id again, while the first still has deletes under way: see `restore`."""


@pytest.mark.parametrize(
    ("place", "name"), [(place, name) for place in PLACES for name in OTHERS if (place, name) != UNSAFE]
)
def test_whatever_others_do_between_two_requests_of_a_move_the_run_stands_or_is_in_the_trash(
    place: str, name: str
) -> None:
    for at in range(1, requests_of(move, filled(PLACES[place](), packed=True).backend) + 1):
        store = filled(PLACES[place](), packed=True)
        expected = whole(store)
        stood: list[bool] = []

        def act(store: Store = store, stood: list[bool] = stood) -> None:
            stood.append(stands(store))
            OTHERS[name](Store(store.backend))

        with suppress(ChunkStoreError):
            collect(Store(Between(store.backend, at, act)))
        if name == "another who empties the trash" and stood == [False] and not stands(store) and not in_trash(store):
            continue  # it was gone from the store by then, and emptying is what was asked for
        if not stands(store):
            collect(Store(store.backend))
            restore(Store(store.backend))
        assert len(stood) == 1
        assert whole(store) == expected, at
        assert leftovers(store) == []
        assert whole(store) == expected, at


@pytest.mark.parametrize("place", [place for place in PLACES if place != UNSAFE[0]])
def test_a_run_that_is_made_anew_while_the_old_one_is_moved_keeps_what_it_has(place: str) -> None:
    lost = []
    example = filled(PLACES[place](), packed=False)
    requests = requests_of(planned(example), example.backend)
    assert requests > 10
    for at in range(1, requests + 1):
        store = filled(PLACES[place](), packed=False)
        carry_out = planned(store)
        with suppress(ChunkStoreError):
            carry_out(Store(Between(store.backend, at, lambda store=store: moved_and_used_again(Store(store.backend)))))
        run = whole(store) if stands(store) else {"tag": "gone", "steps": {}}
        steps = {name: step["message"] for name, step in run["steps"].items()}
        if (run["tag"], steps) != ("anew", {"x": "anew", "other": "anew"}):
            lost.append((at, run["tag"], steps))
    assert lost == []


def planned(store: Store) -> Callable[[Store], object]:
    plan = maintenance.plan_gc(store, RULE, TOMORROW)
    return lambda again: maintenance.remove_planned(again, plan)


MEANWHILE: Final[dict[str, Callable[[Store], object]]] = {
    "a collector": move,
    "another who restores": restored,
    "one who restores it and moves it again": lambda store: (restored(store), move(store)),
    "one who deletes what he finds half restored": lambda store: suppressed(lambda: store.delete_run_log("r")),
    "one who creates a run of that id": lambda store: suppressed(lambda: store.create_run_log("r", tag="theirs")),
}


def suppressed(call: Callable[[], object]) -> None:
    with suppress(ChunkStoreError):
        call()


@pytest.mark.parametrize("name", MEANWHILE)
@pytest.mark.parametrize("place", PLACES)
def test_whatever_others_do_between_two_requests_of_restoring_the_run_stands_or_is_in_the_trash(
    place: str, name: str
) -> None:
    store = filled(PLACES[place](), packed=True)
    move(store)
    for at in range(1, requests_of(restore, store.backend) + 1):
        store = filled(PLACES[place](), packed=True)
        expected = whole(store)
        move(store)
        other = Store(store.backend)
        with suppress(ChunkStoreError):
            restore(Store(Between(store.backend, at, lambda other=other: MEANWHILE[name](other))))
        if stands(store) and whole(store)["tag"] == "theirs":
            assert whole(store)["steps"] == {}, at
            assert in_trash(store) == ["r"], at
            store.delete_run_log("r")
        if stands(store) and name == "one who deletes what he finds half restored":
            assert whole(store) == expected, at
            continue
        if not stands(store):
            if name == "one who deletes what he finds half restored" and not in_trash(store):
                continue  # it stood already, and he deleted it
            collect(Store(store.backend))
            restore(Store(store.backend))
        assert whole(store) == expected, at
        assert leftovers(store) == []
        assert whole(store) == expected, at
