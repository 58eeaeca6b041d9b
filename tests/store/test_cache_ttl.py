"""`cache_ttl_seconds`: for how long a single chunk that this store saw is given out without asking, and what is never taken from there."""

from __future__ import annotations

import uuid
from dataclasses import dataclass

import pytest

from chunkstore import ChunkedRunLogStore, RunLogNotFoundError, StepLog, StoreSettings
from chunkstore.backends.memory import MemoryBackend
from chunkstore.chunks import Timing
from chunkstore.testing import CountingBackend


@dataclass
class Clock:
    now: float = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def backend() -> CountingBackend:
    return CountingBackend(MemoryBackend(f"ttl-{uuid.uuid4()}"))


@pytest.fixture
def store(backend: CountingBackend, clock: Clock) -> ChunkedRunLogStore:
    """A store that may give out what it saw in the last ten seconds; it has a run with a step."""
    store = ChunkedRunLogStore(backend, settings=StoreSettings(known_for_seconds=10), timing=Timing(now=clock))
    store.create_run_log("r")
    step(store, "PROCESSING")
    return store


@pytest.fixture
def other(backend: CountingBackend, store: ChunkedRunLogStore) -> ChunkedRunLogStore:
    """Another process on the same place."""
    return ChunkedRunLogStore(backend.inner)


def step(store: ChunkedRunLogStore, status: str) -> None:
    store.add_step_log(StepLog(name="s", internal_name="s", status=status), "r")


def test_what_was_written_or_read_lately_is_given_out_without_a_request(
    store: ChunkedRunLogStore, backend: CountingBackend
) -> None:
    before = backend.requests
    assert [store.get_step_log("s", "r").status for _ in range(3)] == ["PROCESSING"] * 3
    assert backend.requests == before


def test_it_is_asked_for_again_when_the_time_is_over(
    store: ChunkedRunLogStore, other: ChunkedRunLogStore, clock: Clock, backend: CountingBackend
) -> None:
    step(other, "SUCCESS")
    clock.now += 10
    assert store.get_step_log("s", "r").status == "PROCESSING"
    clock.now += 0.1
    before = backend.requests
    assert [store.get_step_log("s", "r").status for _ in range(2)] == ["SUCCESS"] * 2
    assert backend.requests == before + 1


def test_by_default_every_read_asks(backend: CountingBackend, store: ChunkedRunLogStore) -> None:
    plain = ChunkedRunLogStore(backend)
    before = backend.requests
    for _ in range(3):
        plain.get_step_log("s", "r")
    assert backend.requests == before + 3


def test_a_write_on_top_of_an_old_chunk_keeps_what_others_wrote(
    store: ChunkedRunLogStore, other: ChunkedRunLogStore
) -> None:
    theirs = other.get_step_log("s", "r")
    theirs.message = "by another"
    other.add_step_log(theirs, "r")
    ours = store.get_step_log("s", "r")
    assert ours.message == ""
    ours.status = "SUCCESS"
    store.add_step_log(ours, "r")
    found = other.get_step_log("s", "r")
    assert (found.status, found.message) == ("SUCCESS", "by another")


def test_what_this_store_wrote_is_read_at_once(store: ChunkedRunLogStore) -> None:
    step(store, "SUCCESS")
    assert store.get_step_log("s", "r").status == "SUCCESS"


def test_a_full_read_and_the_header_are_never_old(store: ChunkedRunLogStore, other: ChunkedRunLogStore) -> None:
    step(other, "SUCCESS")
    other.update_run_log_status("r", "FAIL")
    run_log = store.get_run_log_by_id("r")
    assert (run_log.status, run_log.steps["s"].status) == ("FAIL", "SUCCESS")
    assert store.get_step_log("s", "r").status == "SUCCESS"


def test_a_run_that_is_gone_is_noticed_at_the_latest_when_the_time_is_over(
    store: ChunkedRunLogStore, other: ChunkedRunLogStore, clock: Clock
) -> None:
    other.delete_run_log("r")
    assert store.get_step_log("s", "r").status == "PROCESSING"
    with pytest.raises(RunLogNotFoundError):
        store.get_run_log_by_id("r")
    clock.now += 11
    with pytest.raises(RunLogNotFoundError):
        store.get_step_log("s", "r")
