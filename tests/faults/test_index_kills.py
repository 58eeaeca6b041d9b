"""Writers and reindexers as real processes, killed at any moment: what is found is what the headers say, and nothing acknowledged is missed."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import pytest

from chunkstore import ChunkedRunLogStore, ConflictError
from chunkstore.backends.local import LocalBackend
from chunkstore.index import Index
from places import again, between, in_bucket
from rigs import Tally

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")

FORK: Final = multiprocessing.get_context("fork")
RUNS: Final = ("a", "b", "c")


def write_for_ever(store: ChunkedRunLogStore, run_id: str, began: int, acks: Connection) -> None:
    """Changes a finished run in every way, and tells the number of each change once the store has acknowledged it."""
    chance = random.Random(f"{run_id} {began}")
    for number in itertools.count(began):
        store.set_run_config(run_id, {"n": number})
        acks.send(number)
        if chance.random() < 0.3:
            store.update_run_log_status(run_id, chance.choice(["PROCESSING", "FAIL", "SUCCESS"]))
        if chance.random() < 0.1:
            store.delete_run_log(run_id)
            store.create_run_log(run_id, status="SUCCESS", run_config={"n": number})


def reindex_for_ever(store: ChunkedRunLogStore, full: bool, acks: Connection) -> None:
    for number in itertools.count():
        with suppress(ConflictError):
            store.reindex(full=full)
        acks.send(number)


@contextmanager
def at_work(store: ChunkedRunLogStore, began: int) -> Iterator[dict[str, tuple[BaseProcess, Connection]]]:
    """A writer for each run and two that reindex; all are killed when the block ends."""
    jobs: dict[str, Any] = {run_id: (write_for_ever, run_id, began) for run_id in RUNS}
    jobs |= {"reindex": (reindex_for_ever, False), "anew": (reindex_for_ever, True)}
    started = {}
    for name, (work, *arguments) in jobs.items():
        ours, theirs = FORK.Pipe(duplex=False)
        process = FORK.Process(target=work, args=(again(store), *arguments, theirs))
        process.start()
        theirs.close()
        started[name] = (process, ours)
    try:
        yield started
    finally:
        for process, pipe in started.values():
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            pipe.close()


def heard(pipe: Connection, before: int) -> int:
    """The last number that was acknowledged so far."""
    with suppress(EOFError):
        while pipe.poll():
            before = pipe.recv()
    return before


def found(store: ChunkedRunLogStore) -> dict[str, Any]:
    return {run.run_id: (run.status, run.run_config, run.created_at) for run in store.find_runs().runs}


def direct(store: ChunkedRunLogStore) -> dict[str, Any]:
    runs = store.get_run_logs(store.list_run_ids())
    return {run.run_id: (run.status, run.run_config, run.created_at) for run in runs}


def assert_the_same(store: ChunkedRunLogStore) -> None:
    """What is found is what the headers say; a write of somebody who was killed may still come while we look."""
    while True:
        before, seen, after = direct(again(store)), found(store), direct(again(store))
        if before == after:
            assert seen == before
            return


def rounds_of_kills(store: ChunkedRunLogStore, rounds: int, reads: int) -> tuple[int, int]:
    """How many changes were acknowledged, and how many reindexes were made meanwhile."""
    chance, acks = random.Random(rounds), dict.fromkeys(RUNS, 0)
    indexed = 0
    for run_id in RUNS:
        store.create_run_log(run_id, status="SUCCESS", run_config={"n": 0})
    reader = again(store)
    for _ in range(rounds):
        for run_id in RUNS:  # a delete that was cut short is finished, and its id used again
            if run_id not in found(store):
                with suppress(LookupError):
                    store.delete_run_log(run_id)
                store.create_run_log(run_id, status="SUCCESS", run_config={"n": acks[run_id]})
        began = max(acks.values()) + 1
        with at_work(store, began) as working:
            working["reindex"][1].recv()
            for run_id in RUNS:
                acks[run_id] = max(acks[run_id], working[run_id][1].recv())
            for _ in range(reads):
                for run_id in RUNS:
                    acks[run_id] = heard(working[run_id][1], acks[run_id])
                seen = found(reader if chance.random() < 0.5 else again(store))
                # One that is being deleted and made anew may be missing at the moment.
                assert all(seen[run_id][1]["n"] >= acks[run_id] for run_id in seen)
            indexed += 1 + heard(working["reindex"][1], 0) + heard(working["anew"][1], 0)
            time.sleep(chance.random() * 0.01)  # so that the kill comes anywhere
        assert_the_same(again(store))
        assert_the_same(reader)
    report = store.reindex()
    finished = [run_id for run_id, (status, *_) in direct(store).items() if status in ("SUCCESS", "FAIL")]
    assert report.runs == len(finished)
    listing = Index(store.backend).listing()
    assert (listing.notes, len(listing.segments)) == ([], report.segments)
    assert found(again(store)) == direct(again(store))
    return sum(acks.values()), indexed


def test_on_a_disk_nothing_acknowledged_is_missed_whoever_is_killed(tmp_path: Path, tally: Tally) -> None:
    store = ChunkedRunLogStore(LocalBackend(tmp_path / "runs", durability="process"))
    rounds = between(12, 300)
    changes, indexed = rounds_of_kills(store, rounds, 5)
    assert changes > rounds
    assert indexed >= rounds
    tally("kills beside a reindex, local disk", rounds * (len(RUNS) + 2))


def test_on_minio_nothing_acknowledged_is_missed_whoever_is_killed(
    request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    backend = in_bucket(request.getfixturevalue("minio_server"), tmp_path)
    rounds = between(2, 40)
    changes, indexed = rounds_of_kills(ChunkedRunLogStore(backend), rounds, 3)
    assert changes > rounds
    assert indexed >= rounds
    tally("kills beside a reindex, minio", rounds * (len(RUNS) + 2))
