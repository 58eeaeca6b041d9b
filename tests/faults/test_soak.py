"""A mixed load for as long as one has time: nothing that a process holds grows with the work that it did."""

from __future__ import annotations

import gc
import os
import random
import threading
import traceback
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from chunkstore import ChunkedRunLogStore, NotFoundError, StoreSettings
from chunkstore.backends.hostlock import STRIPES
from chunkstore.known import KnownChunks
from places import again, between, finish, place, start
from rigs import Tally

SECONDS = between(10, 1800) / 2
"""For each place."""

SAMPLES = round(between(15, 300))
THREADS = 3
KNOWN_BYTES = 200_000
LIVING = 4
"""So many runs are there at once; the eldest goes when another comes."""

pytestmark = [
    pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="there is no /proc that tells what a process holds"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.timeout(2 * SECONDS + 120),
]


@dataclass
class Load:
    """Threads that do everything that a store can do, to runs that come and go."""

    store: ChunkedRunLogStore
    done: int = 0
    rounds: int = 0
    failures: list[str] = field(default_factory=list)
    ended: threading.Event = field(default_factory=threading.Event)

    def use(self, me: int) -> None:
        """One thread's life: a run is made, filled, read, and the eldest deleted."""
        chance = random.Random(me)
        runs: list[str] = []
        number = 0
        try:
            while not self.ended.is_set():
                number += 1
                runs.append(f"run {me} {number}")
                live(self.store, runs[-1], chance)
                if len(runs) > LIVING:
                    self.store.delete_run_log(runs.pop(0))
                self.done += 1
        except BaseException:  # noqa: BLE001  asserted when the load ends
            self.failures.append(traceback.format_exc())
            self.ended.set()

    def fork(self) -> None:
        """One worker after the other is forked beside the threads, works on a run of its own and deletes it."""
        try:
            while not self.ended.is_set():
                self.rounds += 1
                finish([start(in_a_child, (self.store, f"forked {self.rounds}"))], 60)
        except BaseException:  # noqa: BLE001  asserted when the load ends
            self.failures.append(traceback.format_exc())
            self.ended.set()


def live(store: ChunkedRunLogStore, run_id: str, chance: random.Random) -> None:
    store.create_run_log(run_id)
    store.set_parameters(run_id, {f"p {number}": "x" * chance.randrange(2000) for number in range(5)})
    for name in ("a", "b", "m"):
        store.add_step_log(store.create_step_log(name, name), run_id)
    with_missing_branch(store, run_id)
    step = store.get_step_log("a", run_id)
    step.attempts.append(store.create_attempt_log())
    step.status = "SUCCESS"
    store.add_step_log(step, run_id)
    store.set_run_config(run_id, {"a": chance.random()})
    run = store.get_run_log_by_id(run_id)
    run.tag = "put back"
    store.put_run_log(run)
    again(store).get_run_log_by_id(run_id)
    store.get_parameters(run_id)
    store.get_run_logs(limit=5)
    store.update_run_log_status(run_id, "SUCCESS")


def with_missing_branch(store: ChunkedRunLogStore, run_id: str) -> None:
    """A branch that is asked for, and then made, as executors do."""
    try:
        store.get_branch_log("m.x", run_id)
    except NotFoundError:
        store.add_branch_log(store.create_branch_log("m.x", {"p": 1}), run_id)


def warm_up(store: ChunkedRunLogStore) -> None:
    """As many threads and connections as there can be at once."""
    store.create_run_log("warm")
    store.set_parameters("warm", {f"p {number}": number for number in range(2 * store.backend.concurrency)})
    again(store).get_run_log_by_id("warm")
    store.delete_run_log("warm")


def in_a_child(store: ChunkedRunLogStore, run_id: str) -> None:
    live(store, run_id, random.Random(run_id))
    store.delete_run_log(run_id)


@dataclass(frozen=True)
class Sample:
    """What this process holds, and what lies on its disk."""

    descriptors: int
    threads: int
    megabytes: float
    staging: int
    locks: int
    idle_sessions: int
    known_bytes: int
    known_chunks: int
    origins: int
    runs_known: int
    branches_missed: int


def sample(store: ChunkedRunLogStore, folder: Path) -> Sample:
    gc.collect()
    chunks = store._chunks
    return Sample(
        descriptors=len(list(Path("/proc/self/fd").iterdir())),
        threads=threading.active_count(),
        megabytes=int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6,
        staging=sum(name.startswith(".t-") for _, _, names in os.walk(folder) for name in names),
        locks=sum(name.endswith(".lock") for _, _, names in os.walk(folder) for name in names),
        idle_sessions=len(chunks._idle_sessions.get()),
        known_bytes=chunks.known._bytes,
        known_chunks=len(chunks.known._chunks),
        origins=len(store._reader._origins._noted),
        runs_known=len(chunks.known._foundings),
        branches_missed=len(store._branches_missed),
    )


MAY_GROW = {
    "descriptors": 6,
    "threads": 2,
    "megabytes": 12 + SECONDS / 100,
    "staging": THREADS + 2,  # those of the writes under way
    "idle_sessions": 64,  # as many as there ever were writes at once
    "origins": 60 * THREADS,
    "branches_missed": THREADS,
}
"""By how much the last third's middle may be above that of the third after the warm-up."""


def middle(samples: list[Sample], name: str) -> float:
    values = sorted(float(getattr(one, name)) for one in samples)
    return values[len(values) // 2]


def growth(samples: list[Sample]) -> dict[str, tuple[float, float]]:
    """What grew by more than it may: before and after."""
    third = len(samples) // 3
    second, last = samples[third : 2 * third], samples[2 * third :]
    found = {name: (middle(second, name), middle(last, name)) for name in MAY_GROW}
    return {name: (before, after) for name, (before, after) in found.items() if after - before > MAY_GROW[name]}


@pytest.mark.parametrize("name", ["local", "minio"])
def test_nothing_grows_under_a_mixed_load(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    settings = StoreSettings(known_bytes=KNOWN_BYTES)
    store = ChunkedRunLogStore(place(name, request, tmp_path), settings=settings)
    warm_up(store)
    load = Load(store)
    threads = [threading.Thread(target=load.use, args=(me,)) for me in range(THREADS)]
    threads.append(threading.Thread(target=load.fork))
    samples: list[Sample] = []
    for thread in threads:
        thread.start()
    try:
        for _ in range(SAMPLES):
            load.ended.wait(SECONDS / SAMPLES)
            samples.append(sample(store, tmp_path))
    finally:
        load.ended.set()
        for thread in threads:
            thread.join()
    assert load.failures == []
    assert growth(samples) == {}
    assert max(one.known_bytes for one in samples) <= KNOWN_BYTES + 10_000
    assert max(one.locks for one in samples) <= STRIPES
    assert max(one.known_chunks for one in samples) <= KNOWN_BYTES / KnownChunks._OVERHEAD
    # Those that others delete are forgotten by number only: whoever lists runs meets them.
    assert max(one.runs_known for one in samples) <= KnownChunks._MAX_RUNS
    store.close()
    gc.collect()
    assert sample(store, tmp_path).staging == 0
    tally("seconds of soak", round(SECONDS))
    tally(f"runs made, read and deleted in the soak, {name}", load.done + load.rounds)
    tally(f"forks, soak on {name}", load.rounds)
