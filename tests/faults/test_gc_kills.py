"""kill -9 at the system calls of a collector, of who restores and who empties the trash: nothing is lost, the next call finishes."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Final

import pytest

from chunkstore import ChunkedRunLogStore, ChunkStoreError, RunLogNotFoundError, StepLog, maintenance
from chunkstore.backends import Backend
from chunkstore.backends.local import LocalBackend
from places import again, between, finish, in_bucket, start
from rigs import Tally

RUNS: Final = ("a", "b", "c")
RULE: Final = maintenance.Retention(older_than=timedelta(days=1))
LATER: Final = timedelta(days=2)

FORK: Final = multiprocessing.get_context("fork")

WORK: Final[dict[str, Callable[[ChunkedRunLogStore], object]]] = {
    "gc": lambda store: maintenance.remove_planned(store, maintenance.plan_gc(store, RULE, datetime.now(UTC) + LATER)),
    "restore": lambda store: [maintenance.restore_run(store, run_id) for run_id in RUNS],
    "empty": lambda store: maintenance.empty_trash(store, timedelta(0)),
    "rm": lambda store: maintenance.remove_runs(store, RUNS, trash=False),
}


def filled(backend: Backend) -> ChunkedRunLogStore:
    store = ChunkedRunLogStore(backend)
    for run_id in RUNS:
        store.create_run_log(run_id, tag="t")
        store.set_parameters(run_id, {"p": run_id})
        store.add_step_log(StepLog(name="s", internal_name="s", message=run_id), run_id)
        store.update_run_log_status(run_id, "SUCCESS")
    store.compact("b")
    return store


def runs_in(store: ChunkedRunLogStore) -> dict[str, Any]:
    fresh = again(store)
    found = {}
    for run_id in RUNS:
        with suppress(RunLogNotFoundError):
            found[run_id] = fresh.get_run_log_by_id(run_id).model_dump()
    return found


def collect(store: ChunkedRunLogStore) -> maintenance.Removed:
    return maintenance.remove_planned(store, maintenance.plan_gc(store, RULE, datetime.now(UTC) + LATER))


def trashed(store: ChunkedRunLogStore) -> set[str]:
    return {entry.run_id for entry in maintenance.list_trash(store)}


def prepared(root: Path, work: str) -> tuple[ChunkedRunLogStore, dict[str, Any]]:
    store = filled(LocalBackend(root, durability="process"))
    runs = runs_in(store)
    if work in ("restore", "empty"):
        collect(store)
    return store, runs


def work_once_watched(work: str, root: Path, gate: Connection) -> None:
    store = ChunkedRunLogStore(LocalBackend(root, durability="barrier"))
    gate.recv()
    WORK[work](store)


def traced(strace: str, work: str, root: Path, trace: Path, inject: str = "") -> int | None:
    """Does the work in a process of its own, under strace. Its exit code."""
    theirs, ours = FORK.Pipe(duplex=False)
    worker = FORK.Process(target=work_once_watched, args=(work, root, theirs))
    worker.start()
    options = [strace, "-p", str(worker.pid), "-o", str(trace), "-e", f"trace={CALLS}", "-e", "signal=none"]
    options += ["-e", f"inject={inject}"] if inject else []
    with subprocess.Popen(options, stderr=subprocess.PIPE) as watcher:
        assert watcher.stderr is not None
        said = watcher.stderr.readline()
        if b"attached" not in said:
            worker.kill()
            pytest.skip(f"strace may not attach to a process here: {said!r}")
        ours.send("go")
        worker.join(timeout=60)
        watcher.communicate(timeout=60)
    return worker.exitcode


CHANGING: Final = ("link", "linkat", "rename", "unlink", "rmdir", "mkdir")
CALLS: Final = ",".join((*CHANGING, "write", "syncfs", "fsync", "flock"))


def points(trace: Path) -> list[tuple[str, int]]:
    """Each system call by its name and its number among those of that name."""
    seen: dict[str, int] = {}
    found = []
    for line in trace.read_text(errors="replace").splitlines():
        name = line.partition("(")[0]
        if name in CALLS.split(","):
            seen[name] = seen.get(name, 0) + 1
            found.append((name, seen[name]))
    return found


@pytest.mark.parametrize("work", ["gc", "restore", "empty", "rm"])
def test_a_kill_at_any_system_call_loses_nothing_and_the_next_call_finishes(
    work: str, strace: str, tmp_path: Path, tally: Tally
) -> None:
    prepared(tmp_path / "whole", work)
    assert traced(strace, work, tmp_path / "whole", tmp_path / "trace") == 0
    everywhere = points(tmp_path / "trace")
    assert len(everywhere) > 10
    changing = [point for point in everywhere if point[0] in CHANGING]
    chosen = random.Random(work).sample(changing, between(4, len(changing)))
    chosen += random.Random(work).sample(everywhere, between(1, len(everywhere)))
    for number, (name, count) in enumerate(dict.fromkeys(chosen)):
        root = tmp_path / f"{number}"
        store, runs = prepared(root, work)
        status = traced(strace, work, root, tmp_path / "trace", f"{name}:signal=KILL:when={count}")
        assert status == -9, (name, count)
        assert_nothing_is_lost(store, runs, work)
        tally("kill points of a collector, local disk", 1)


def assert_nothing_is_lost(store: ChunkedRunLogStore, runs: dict[str, Any], work: str) -> None:
    stands = runs_in(store)
    assert all(stands[run_id] == runs[run_id] for run_id in stands)
    if work in ("gc", "restore"):
        assert set(stands) | trashed(store) == set(RUNS)
        if work == "restore":
            for run_id in sorted(set(RUNS) - set(stands)):
                maintenance.restore_run(again(store), run_id)
            assert runs_in(store) == runs
        collect(again(store))
        assert (store.list_run_ids(), runs_in(store)) == ([], {})
        for run_id in RUNS:
            maintenance.restore_run(again(store), run_id)
        assert runs_in(store) == runs
    elif work == "rm":
        collect(again(store))
        assert store.list_run_ids() == []
    maintenance.empty_trash(again(store), timedelta(0))
    assert list(store.backend.list(".trash/")) == []
    assert runs_in(store) == (runs if work in ("gc", "restore") else {})


# Real processes beside each other.


def collect_for_ever(backend: Backend) -> None:
    store = ChunkedRunLogStore(backend)
    while True:
        with suppress(ChunkStoreError):
            collect(store)


def restore_for_ever(backend: Backend) -> None:
    store = ChunkedRunLogStore(backend)
    while True:
        for run_id in RUNS:
            with suppress(ChunkStoreError):
                maintenance.restore_run(store, run_id)


@pytest.mark.parametrize("place", ["local", "minio"])
def test_collectors_that_are_killed_beside_each_other_lose_no_run(
    place: str, request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    """On local disk also beside others who restore all the time; MinIO cannot delete under a condition, so they wait there."""
    if place == "local":
        backend: Backend = LocalBackend(tmp_path / "runs", durability="process")
    else:
        backend = in_bucket(request.getfixturevalue("minio_server"), tmp_path)
    store = filled(backend)
    runs = runs_in(store)
    jobs = [collect_for_ever, collect_for_ever, *([restore_for_ever] * 2 if place == "local" else [])]
    chance = random.Random(place)
    for _ in range(between(6, 200) if place == "local" else between(2, 40)):
        working = [start(job, (backend,)) for job in jobs]
        time.sleep(chance.random() * (0.05 if place == "local" else 0.3))  # so that the kill comes anywhere
        for process, pipe in working:
            os.kill(process.pid or 0, signal.SIGKILL)
            process.join()
            pipe.close()
        stands = runs_in(store)
        assert all(stands[run_id] == runs[run_id] for run_id in stands)
        assert set(stands) | trashed(store) == set(RUNS)
        collect(again(store))
        for run_id in {*RUNS} - set(runs_in(store)):
            bring_back(store, run_id)
        assert runs_in(store) == runs
        maintenance.empty_trash(store, timedelta(0))
        assert list(backend.list(".trash/")) == []
        tally(f"kills of collectors beside each other, {place}", len(jobs))


def bring_back(store: ChunkedRunLogStore, run_id: str) -> None:
    maintenance.restore_run(again(store), run_id)
    assert maintenance.remove_runs(again(store), [run_id]).runs == (run_id,)
    maintenance.restore_run(again(store), run_id)


def collect_thrice(store: ChunkedRunLogStore) -> None:
    for _ in range(3):
        collect(again(store))


def take_up(backend: Backend, run_id: str, pipe_path: str) -> list[str]:
    """Takes up finished runs again and ends them again; returns what was acknowledged."""
    store, acknowledged = ChunkedRunLogStore(backend), []
    Path(pipe_path).touch()
    for number in range(40):
        try:
            store.update_run_log_status(run_id, "PROCESSING")
            store.add_step_log(StepLog(name=f"n{number}", internal_name=f"n{number}"), run_id)
            acknowledged.append(f"n{number}")
            store.update_run_log_status(run_id, "SUCCESS")
        except RunLogNotFoundError:
            break
    return acknowledged


def test_what_a_writer_acknowledged_who_took_the_run_up_again_is_in_the_run_or_comes_back_with_it(
    tmp_path: Path, tally: Tally
) -> None:
    for number in range(between(2, 60)):
        backend = LocalBackend(tmp_path / f"{number}", durability="process")
        store = filled(backend)
        writers = [start(take_up, (backend, run_id, str(tmp_path / f"{number}-{run_id}"))) for run_id in RUNS]
        while not all((tmp_path / f"{number}-{run_id}").exists() for run_id in RUNS):
            time.sleep(0.001)
        threads = [threading.Thread(target=collect_thrice, args=(store,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        while set(runs_in(store)) - trashed(store):
            with suppress(ChunkStoreError):
                collect(again(store))
        acknowledged = dict(zip(RUNS, finish(writers), strict=True))
        for run_id in RUNS:
            with suppress(ChunkStoreError):
                maintenance.restore_run(again(store), run_id)
        found = runs_in(store)
        for run_id in RUNS:
            missing = set(acknowledged[run_id]) - set(found[run_id]["steps"])
            assert missing == set(), json.dumps({"run": run_id, "missing": sorted(missing)})
        tally("runs taken up again while they were collected", len(RUNS))
