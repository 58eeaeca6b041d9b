"""Executors fork after the parent has used the store: nothing hangs, and no two processes write as one."""

from __future__ import annotations

import gc
import multiprocessing
import os
import threading
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import pytest

from chunkstore import ChunkedRunLogStore, keys
from chunkstore.backends.memory import MemoryBackend
from places import again, finish, memory, place, start

WATCHDOG = 60.0

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture(params=["local", "moto", "rclone", "minio", "sqlite", "postgres"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ChunkedRunLogStore:
    """Used by several threads before anybody forks, so that connections and threads are there."""
    made = ChunkedRunLogStore(place(request.param, request, tmp_path))
    made.create_run_log("r")
    made.set_parameters("r", {f"before {number}": number for number in range(8)})
    made.get_run_log_by_id("r")
    return made


def work(store: ChunkedRunLogStore, me: int) -> int:
    store.set_parameters("r", {f"a {me}": me, f"b {me}": me})
    store.add_step_log(store.create_step_log(f"s {me}", f"s {me}"), "r")
    store.set_run_config("r", {f"c {me}": me})
    assert store.get_parameters("r")[f"a {me}"] == me
    return os.getpid()


def check(store: ChunkedRunLogStore, count: int) -> None:
    found = again(store).get_run_log_by_id("r")
    assert {f"s {me}" for me in range(count)} <= set(found.steps)
    assert {f"c {me}" for me in range(count)} <= set(found.run_config)
    assert {f"{letter} {me}" for letter in "ab" for me in range(count)} <= set(found.parameters)


@pytest.mark.parametrize("method", ["fork", "spawn", "forkserver"])
def test_a_pool_works_after_the_parent_has_used_the_store(store: ChunkedRunLogStore, method: str) -> None:
    count = 6
    with ProcessPoolExecutor(2, mp_context=multiprocessing.get_context(method)) as pool:
        done = [pool.submit(work, store, me) for me in range(count)]
        assert os.getpid() not in {one.result(WATCHDOG) for one in done}
    work(store, count)
    check(store, count + 1)


@contextmanager
def busy(store: ChunkedRunLogStore) -> Iterator[None]:
    """Three threads of this process use the store while the block runs."""
    ended = threading.Event()
    failures: list[BaseException] = []

    def use(me: int) -> None:
        number = 0
        try:
            while not ended.is_set():
                number += 1
                store.set_parameters("r", {f"busy {me}": number})
                store.get_run_log_by_id("r")
                store.set_run_config("r", {f"busy {me}": number})
        except BaseException as error:  # noqa: BLE001  asserted below
            failures.append(error)

    threads = [threading.Thread(target=use, args=(me,)) for me in range(3)]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        ended.set()
        for thread in threads:
            thread.join()
    assert failures == []


def test_children_that_are_forked_beside_busy_threads_do_not_hang(store: ChunkedRunLogStore) -> None:
    count = 6
    with busy(store):
        children = [start(work, (store, me)) for me in range(count)]
        finish(children, WATCHDOG)
    check(store, count)


def test_a_child_that_forks_again_works(store: ChunkedRunLogStore) -> None:
    finish([start(fork_on, (store,))], WATCHDOG)
    check(store, 2)


def fork_on(store: ChunkedRunLogStore) -> None:
    work(store, 0)
    finish([start(work, (store, 1))], WATCHDOG)


def own_sessions(store: ChunkedRunLogStore, name: str) -> set[str]:
    """The sessions of a new chunk that this process writes."""
    store.add_step_log(store.create_step_log(name, name), "r")
    return set(store._chunks.read(keys.step("r", name)).chunk.envelope.writers)


def test_every_process_writes_under_a_session_of_its_own(store: ChunkedRunLogStore) -> None:
    mine = own_sessions(store, "parent")
    theirs = finish([start(own_sessions, (store, f"child {number}")) for number in range(3)], WATCHDOG)
    sessions = [mine, *theirs]
    assert all(len(one) == 1 for one in sessions)
    assert len(set.union(*sessions)) == len(sessions)
    assert own_sessions(store, "parent again") == mine


def create(store: ChunkedRunLogStore) -> None:
    store.create_run_log("in the child")
    store.set_parameters("in the child", {"a": 1, "b": 2})
    assert store.get_run_log_by_id("in the child").parameters == {"a": 1, "b": 2}
    assert gc.isenabled()


def test_locks_that_other_threads_hold_at_the_fork_do_not_stop_the_child(store: ChunkedRunLogStore) -> None:
    held = [store._chunks._clock._lock.get(), store._chunks.known._lock.get()]
    locks = getattr(store.backend, "_locks", None)
    if locks is not None:
        held += locks._stripes.get()
    with held_elsewhere(held):
        child = start(create, (store,))
        finish([child], WATCHDOG)


def test_memory_too_works_in_a_child_that_was_forked_while_another_thread_held_its_lock() -> None:
    backend = memory()
    store = ChunkedRunLogStore(backend)
    with held_elsewhere([backend._space.lock.get()]):
        finish([start(create, (store,))], WATCHDOG)
    assert ChunkedRunLogStore(MemoryBackend(backend.name)).list_run_ids() == []  # a child's memory is its own


def test_the_collector_runs_again_in_a_child_that_was_forked_during_a_read(tmp_path: Path) -> None:
    from chunkstore.assembly import collector_paused

    paused, done = threading.Event(), threading.Event()

    def pause() -> None:
        with collector_paused():
            paused.set()
            done.wait(WATCHDOG)

    thread = threading.Thread(target=pause)
    thread.start()
    try:
        assert paused.wait(WATCHDOG)
        assert finish([start(gc.isenabled, ())], WATCHDOG) == [True]
    finally:
        done.set()
        thread.join()


@contextmanager
def held_elsewhere(locks: list[threading.Lock]) -> Iterator[None]:
    """Another thread holds the locks while the block runs."""
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        for lock in locks:
            lock.acquire()
        held.set()
        done.wait(WATCHDOG)
        for lock in locks:
            lock.release()

    thread = threading.Thread(target=hold)
    thread.start()
    assert held.wait(WATCHDOG)
    try:
        yield
    finally:
        done.set()
        thread.join()
