"""The wrappers pass the suite as the backend in them does, count exactly, and fail as they were told."""

from __future__ import annotations

import itertools
import pickle
import random
from collections.abc import Callable

import pytest

from chunkstore.backends import ANY, CREATE, FOUND, Backend, unchanged
from chunkstore.backends.memory import MemoryBackend
from chunkstore.errors import BackendUnavailableError, ChunkStoreError, ConflictError, WriteStateUnknownError
from chunkstore.testing import BackendSuite, CountingBackend, Fault, FlakyBackend, Request, SlowBackend, Witness
from chunkstore.testing.machine import backend_machine

NAMES = (f"wrapped-{number}" for number in itertools.count())


@pytest.fixture
def memory() -> MemoryBackend:
    return MemoryBackend(next(NAMES))


class BackendAsWitness:
    """The memory backend itself, which is in the wrapper."""

    def __init__(self, inner: MemoryBackend) -> None:
        self.inner = inner

    def get(self, key: str) -> bytes | None:
        return next((blob.data for _, blob in self.inner.get_many([key])), None)

    def put(self, key: str, data: bytes) -> None:
        self.inner.put(key, data, ANY)

    def keys(self) -> set[str]:
        return {entry.key for entry in self.inner.list("")}

    def remove_folder(self, folder: str) -> None:
        raise NotImplementedError


class TestWrapped(BackendSuite):
    @pytest.fixture(
        params=[CountingBackend, lambda inner: SlowBackend(inner, 0.0), lambda inner: FlakyBackend(inner, [])],
        ids=["counting", "slow", "flaky"],
    )
    def backend(self, request: pytest.FixtureRequest, memory: MemoryBackend) -> Backend:
        wrap: Callable[[Backend], Backend] = request.param
        return wrap(memory)

    @pytest.fixture
    def witness(self, memory: MemoryBackend) -> Witness:
        return BackendAsWitness(memory)


TestCountingMachine = backend_machine(lambda: CountingBackend(MemoryBackend(next(NAMES))), examples=10).TestCase


def test_each_verb_is_counted_with_its_key(memory: MemoryBackend) -> None:
    backend = CountingBackend(memory)
    version = backend.put("run/run.json", b"1", FOUND)
    with pytest.raises(ConflictError):
        backend.put("run/run.json", b"2", CREATE)
    backend.put("run/run.json", b"2", unchanged(version))
    backend.get("run/run.json")
    list(backend.get_many(["run/run.json", "run/gone.json"]))
    list(backend.list("run/"))
    list(backend.folders())
    backend.delete("run/run.json")
    assert backend.by_verb == {"put": 3, "get": 1, "get_many": 2, "list": 1, "folders": 1, "delete": 1}
    assert backend.keys("get_many") == ["run/run.json", "run/gone.json"]
    assert backend.requests == 9
    assert backend.reset()[-1] == Request("delete", "run/run.json")
    assert backend.requests == 0


@pytest.mark.parametrize(("entries", "requests"), [(0, 1), (1, 1), (1_000, 1), (1_001, 2), (2_000, 2), (2_001, 3)])
def test_a_listing_costs_one_request_per_started_thousand(memory: MemoryBackend, entries: int, requests: int) -> None:
    backend = CountingBackend(memory)
    for number in range(entries):
        memory.put(f"run/step.{number}.json", b"", ANY)
    assert len(list(backend.list("run/"))) == entries
    assert backend.by_verb == {"list": requests}


def test_a_slow_backend_waits_once_per_request_and_once_per_batch(memory: MemoryBackend) -> None:
    waits: list[float] = []
    backend = SlowBackend(memory, 0.02, waits.append, concurrency=4)
    backend.put("run/run.json", b"", FOUND)
    backend.get("run/run.json")
    list(backend.list("run/"))
    backend.delete("run/run.json")
    assert waits == [0.02] * 4
    waits.clear()
    list(backend.get_many(f"run/step.{number}.json" for number in range(9)))
    assert waits == [0.02] * 3


@pytest.mark.parametrize(
    ("fault", "error", "landed"),
    [
        (Fault.REFUSED, BackendUnavailableError, False),
        (Fault.LOST_REPLY, WriteStateUnknownError, True),
        (Fault.ECHO, ConflictError, True),
    ],
)
def test_a_put_fails_before_or_after_it_landed(
    memory: MemoryBackend, fault: Fault, error: type[ChunkStoreError], *, landed: bool
) -> None:
    backend = FlakyBackend(memory, [None, fault])
    backend.put("run/run.json", b"", FOUND)
    with pytest.raises(error) as caught:
        backend.put("run/step.a.json", b"", CREATE)
    assert type(caught.value) is error
    assert {entry.key for entry in memory.list("run/step")} == ({"run/step.a.json"} if landed else set())
    assert backend.faults == [("put", "run/step.a.json", fault)]
    backend.put("run/step.b.json", b"", CREATE)


@pytest.mark.parametrize("fault", Fault)
def test_reads_and_deletes_fail_as_something_to_try_again(memory: MemoryBackend, fault: Fault) -> None:
    for key in ("run/a.json", "run/b.json"):
        memory.put(key, b"", ANY)
    backend = FlakyBackend(memory, itertools.repeat(fault))
    for call in (
        lambda: backend.get("run/a.json"),
        lambda: list(backend.get_many(["run/a.json", "run/b.json"])),
        lambda: list(backend.list("run/")),
        lambda: list(backend.folders()),
        lambda: backend.delete("run/a.json"),
    ):
        with pytest.raises(BackendUnavailableError) as caught:
            call()
        assert caught.value.transient
    assert len(list(memory.list("run/"))) == (2 if fault is Fault.REFUSED else 1)


def test_the_same_seed_gives_the_same_faults(memory: MemoryBackend) -> None:
    def faults(backend: FlakyBackend) -> list[tuple[str, str, Fault]]:
        for number in range(200):
            try:
                backend.put(f"run/step.{number}.json", b"", ANY)
                list(backend.list("run/"))
            except ChunkStoreError:
                continue
        return backend.faults

    first = faults(FlakyBackend(memory, random.Random(7), rate=0.3))
    assert first == faults(FlakyBackend(memory, random.Random(7), rate=0.3))
    assert first == faults(pickle.loads(pickle.dumps(FlakyBackend(memory, random.Random(7), rate=0.3))))
    assert first != faults(FlakyBackend(memory, random.Random(8), rate=0.3))
    assert {fault for _, _, fault in first} == {Fault.REFUSED, Fault.LOST_REPLY}
