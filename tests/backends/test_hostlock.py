"""Locks of one host exclude threads and processes, end with their holder, and never wait for ever."""

from __future__ import annotations

import errno
import multiprocessing
import os
import pickle
import shutil
import signal
import threading
import time
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from chunkstore.backends import hostlock
from chunkstore.backends.hostlock import STRIPES, HostLocks, _stripe_of
from chunkstore.errors import BackendUnavailableError, StorageFullError

KEY = "run/step.a.json"
fork = pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this platform cannot fork")


def count_up(locks: HostLocks, counter: Path, times: int) -> None:
    for _ in range(times):
        with locks.holding(KEY):
            counter.write_text(str(int(counter.read_text()) + 1))


def hold(locks: HostLocks, held: Event, end: Connection) -> None:
    with locks.holding(KEY):
        held.set()
        end.recv()


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_processes_with_threads_count_exactly(tmp_path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot {method}")
    counter = tmp_path / "counter"
    counter.write_text("0")
    locks = HostLocks(tmp_path / "locks")
    count_up(locks, counter, 1)
    context = multiprocessing.get_context(method)
    workers = [context.Process(target=count_up, args=(locks, counter, 50)) for _ in range(4)]
    for worker in workers:
        worker.start()
    # After the fork: Python 3.12 warns of one beside threads.
    threads = [threading.Thread(target=count_up, args=(locks, counter, 50)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for waiting in [*workers, *threads]:
        waiting.join(60)
    assert counter.read_text() == "401"


def test_two_sets_of_locks_on_one_folder_exclude_each_other(tmp_path: Path) -> None:
    other = HostLocks(tmp_path, timeout=0.05)
    with HostLocks(tmp_path).holding(KEY), pytest.raises(BackendUnavailableError), other.holding(KEY):
        pytest.fail("two were let in")


@pytest.mark.parametrize("same", [True, False])
def test_a_lock_held_too_long_is_a_transient_error_that_names_key_folder_and_seconds(
    tmp_path: Path, same: bool
) -> None:
    locks = HostLocks(tmp_path, timeout=0.1)
    holder = locks if same else HostLocks(tmp_path)
    begin = time.monotonic()
    with holder.holding(KEY), pytest.raises(BackendUnavailableError) as caught, locks.holding(KEY):
        pytest.fail("two were let in")
    assert time.monotonic() - begin < 1.0
    assert caught.value.transient
    assert caught.value.key == KEY
    for part in (KEY, str(tmp_path), "0.1 s"):
        assert part in str(caught.value)


@fork
def test_a_lock_ends_with_the_process_that_was_killed_while_it_held_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    locks = HostLocks(tmp_path, timeout=5.0)
    held = context.Event()
    ours, theirs = context.Pipe()
    holder = context.Process(target=hold, args=(locks, held, theirs))
    holder.start()
    assert held.wait(10)
    assert holder.pid is not None
    os.kill(holder.pid, signal.SIGKILL)
    holder.join(10)
    begin = time.monotonic()
    with locks.holding(KEY):
        assert time.monotonic() - begin < 1.0
    ours.close()
    theirs.close()


@fork
def test_a_child_forked_while_a_lock_is_held_neither_holds_it_nor_keeps_it(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    locks = HostLocks(tmp_path, timeout=5.0)
    begin, end = context.Event(), context.Event()

    def child() -> None:
        begin.wait(10)
        with locks.holding(KEY):
            end.set()

    with locks.holding(KEY):
        waiting = context.Process(target=child)
        waiting.start()
    with locks.holding(KEY):  # although the child has a copy of the descriptor
        pass
    begin.set()
    assert end.wait(10)
    waiting.join(10)


def test_the_folder_is_made_when_it_is_needed_and_again_when_somebody_removed_it(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "locks"
    locks = HostLocks(folder)
    assert not folder.exists()
    for _ in range(2):
        with locks.holding(KEY):
            assert len(list(folder.iterdir())) == STRIPES
        shutil.rmtree(folder)


def test_a_lock_file_that_is_removed_between_opening_and_locking_is_not_the_lock(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lock, removed = hostlock.lock_descriptor, []

    def remove_and_lock(file: int, *, blocking: bool) -> bool:
        if not removed:
            removed.append(Path(f"/proc/self/fd/{file}").readlink())
            removed[0].unlink()
        return lock(file, blocking=blocking)

    monkeypatch.setattr(hostlock, "lock_descriptor", remove_and_lock)
    with HostLocks(tmp_path).holding(KEY):
        assert removed[0].exists()  # the one that everybody else will find
        with pytest.raises(BackendUnavailableError), HostLocks(tmp_path, timeout=0).holding(KEY):
            pytest.fail("two were let in")


def test_a_folder_that_cannot_be_used_is_an_error_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendUnavailableError, match="file") as caught, HostLocks(tmp_path / "file").holding(KEY):
        pytest.fail("there is no lock")
    assert not caught.value.transient
    assert isinstance(caught.value.__cause__, OSError)


def test_an_error_under_the_lock_lets_it_go(tmp_path: Path) -> None:
    locks = HostLocks(tmp_path, timeout=0.1)
    for _ in range(2):
        with pytest.raises(KeyError), locks.holding(KEY):
            raise KeyError


def test_there_are_never_more_files_than_stripes_and_all_are_used(tmp_path: Path) -> None:
    locks = HostLocks(tmp_path)
    assert {_stripe_of(f"run/step.{number}.json") for number in range(2000)} == set(range(STRIPES))
    for number in range(2000):
        with locks.holding(f"run/step.{number}.json"):
            pass
    assert len(list(tmp_path.iterdir())) == STRIPES


def test_one_that_has_no_room_on_the_disk_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def full(*_arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "open", full)
        with pytest.raises(StorageFullError, match="Free some space"), HostLocks(tmp_path).holding(KEY):
            pytest.fail("there is no lock")


def test_a_key_has_the_same_stripe_in_every_process() -> None:
    # Written down: a change would let an old and a new version of the library in at once.
    assert [_stripe_of(key) for key in (KEY, "run/run.json", "")] == [59, 2, 49]


def test_locks_pickle(tmp_path: Path) -> None:
    locks = pickle.loads(pickle.dumps(HostLocks(tmp_path, timeout=0.1)))
    assert locks.folder == tmp_path
    with locks.holding(KEY):
        pass
