"""A snapshot shows a run as it stood at one moment, or says that there was none."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkstore import ChunkedRunLogStore, ConflictError, InvalidInputError, RunLogNotFoundError, StoreSettings
from chunkstore.backends import Backend, Blob
from chunkstore.testing import CountingBackend
from chunkstore.watching import ROUNDS
from places import again, meanwhile, memory, place, sized

PAIR = ("first", "second")


class Interrupted(CountingBackend):
    """Before each chunk of a bulk read, somebody else gets a turn."""

    def __init__(self, inner: Backend, turn: Callable[[], object]) -> None:
        super().__init__(inner)
        self.turn = turn

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        for key in keys:
            self.turn()
            yield from super().get_many([key])


def written(store: ChunkedRunLogStore, number: int) -> None:
    """The first of the pair, then the second: who sees the second must see the first."""
    for name in PAIR:
        step = store.create_step_log(name, name)
        step.message = str(number)
        store.add_step_log(step, "r")


def nothing() -> None:
    """A turn that is let go by."""


def numbers(run_log: Any) -> tuple[int, int]:
    first, second = (int(run_log.steps[name].message) for name in PAIR)
    return first, second


@pytest.fixture
def store() -> ChunkedRunLogStore:
    made = ChunkedRunLogStore(memory())
    made.create_run_log("r")
    written(made, 0)
    return made


def beside(store: ChunkedRunLogStore, turns: Iterable[Callable[[], object]], **settings: Any) -> ChunkedRunLogStore:
    """A store that knows nothing, with a writer beside it that takes these turns."""
    left = iter(turns)

    def turn() -> None:
        next(left, lambda: None)()

    backend = Interrupted(store.backend, turn)
    return ChunkedRunLogStore(backend, settings=StoreSettings(**settings))


def calls(store: ChunkedRunLogStore) -> CountingBackend:
    backend = store.backend
    assert isinstance(backend, CountingBackend)
    return backend


def test_beside_a_writer_a_plain_read_may_mix_two_moments_and_a_snapshot_does_not(store: ChunkedRunLogStore) -> None:
    assert numbers(beside(store, [nothing, nothing, lambda: written(store, 1)]).get_run_log_by_id("r")) == (0, 1)
    reader = beside(store, [nothing, nothing, lambda: written(store, 2), lambda: written(store, 3)])
    assert numbers(reader.get_run_log_by_id("r", consistency="snapshot")) == (3, 3)
    assert calls(reader).by_verb["list"] == 4


def test_it_costs_one_listing_more_where_nobody_writes(store: ChunkedRunLogStore) -> None:
    reader = beside(store, [])
    reader.get_run_log_by_id("r", consistency="snapshot")
    assert calls(reader).by_verb == {"list": 2, "get_many": 3}


def test_only_what_changed_is_read_again_also_where_the_process_can_remember_nothing(store: ChunkedRunLogStore) -> None:
    reader = beside(store, [nothing, nothing, lambda: written(store, 1)], known_bytes=1)
    found = reader.get_run_log_by_id("r", consistency="snapshot")
    assert numbers(found) == (1, 1)
    assert calls(reader).by_verb["list"] == 3
    assert calls(reader).by_verb["get_many"] == 3 + 1  # of the pair the second was read when it was written already


def test_a_run_that_never_stands_still_is_no_snapshot_and_that_is_said(store: ChunkedRunLogStore) -> None:
    def for_ever() -> Iterator[Callable[[], object]]:
        for number in range(1, 10_000):
            yield lambda number=number: again(store).set_run_config("r", {"n": number})  # type: ignore[misc]
            yield lambda number=number: written(store, number)  # type: ignore[misc]

    reader = beside(store, for_ever())
    with pytest.raises(ConflictError, match="no snapshot"):
        reader.get_run_log_by_id("r", consistency="snapshot")
    assert calls(reader).by_verb["list"] == ROUNDS
    findings = reader.read_run_log("r", consistency="snapshot").findings
    assert [finding.sort for finding in findings] == ["unsettled"]


def test_a_chunk_that_is_taken_away_meanwhile_is_not_in_it(store: ChunkedRunLogStore) -> None:
    store.set_parameters("r", {"p": 1})

    def take_away() -> None:
        store.backend.delete("r/parameter.p.json")

    reader = beside(store, [nothing, take_away, lambda: written(store, 1)])
    found = reader.get_run_log_by_id("r", consistency="snapshot")
    assert found.parameters == store.get_run_log_by_id("r").parameters


def test_a_run_that_is_deleted_and_made_anew_meanwhile_is_the_new_one_alone(store: ChunkedRunLogStore) -> None:
    def make_anew() -> None:
        other = again(store)
        other.delete_run_log("r")
        other.create_run_log("r", tag="new")
        other.set_parameters("r", {"p": 1})

    def then_read(*turns: Callable[[], object]) -> Any:
        return beside(store, turns).get_run_log_by_id("r", consistency="snapshot")

    found = then_read(nothing, nothing, lambda: written(store, 1), make_anew)
    assert (found.tag, dict(found.steps), list(found.parameters)) == ("new", {}, ["p"])


def test_a_run_that_is_deleted_meanwhile_is_not_found(store: ChunkedRunLogStore) -> None:
    reader = beside(store, [lambda: again(store).delete_run_log("r")])
    with pytest.raises(RunLogNotFoundError):
        reader.get_run_log_by_id("r", consistency="snapshot")


def test_damage_hides_nothing_else_and_keeps_nobody_waiting(store: ChunkedRunLogStore) -> None:
    from chunkstore.backends import ANY

    store.backend.put("r/step.broken.json", b"{", ANY)
    reading = beside(store, []).read_run_log("r", consistency="snapshot")
    assert [finding.sort for finding in reading.findings] == ["damaged"]
    assert set(reading.run_log.steps) >= set(PAIR)


def test_without_steps_it_is_the_same_moment(store: ChunkedRunLogStore) -> None:
    store.set_parameters("r", {"p": 1})
    found = again(store).get_run_log_by_id("r", full=False, consistency="snapshot")
    assert found.steps == {}
    assert list(found.parameters) == ["p"]


def test_another_word_for_consistency_is_refused(store: ChunkedRunLogStore) -> None:
    with pytest.raises(InvalidInputError, match="'chunk' or 'snapshot', not 'eventual'"):
        store.get_run_log_by_id("r", consistency="eventual")  # type: ignore[arg-type]


def write_in_bursts(store: ChunkedRunLogStore, count: int) -> None:
    chance = random.Random(count)
    for number in range(1, count):
        written(store, number)
        if chance.random() < 0.1:
            time.sleep(0.05)  # a run stands still now and then


@pytest.mark.parametrize("where", ["local", "minio", "faults"])
def test_beside_a_writing_process_each_snapshot_is_of_one_moment(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store = ChunkedRunLogStore(place(where, request, tmp_path))
    store.create_run_log("r")
    written(store, 0)
    seen = []
    with meanwhile(write_in_bursts, [(again(store), sized(400))]) as busy:
        while busy():
            try:
                seen.append(numbers(again(store).get_run_log_by_id("r", consistency="snapshot")))
            except ConflictError:
                continue
    assert seen
    assert all(first - second in (0, 1) for first, second in seen), seen
