"""SQLite whose writers are killed, whose disk is full, whose file is held, read-only or damaged: nothing acknowledged is lost."""

from __future__ import annotations

import multiprocessing
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Final

import pytest
from test_sql_server import (
    ALL_OF_THEM,
    DEADLINE,
    READS,
    TURN,
    check,
    ended,
    filled,
    hasty,
    judged,
    sure,
    warm,
    write_until_killed,
)

from chunkstore import BackendUnavailableError, ChunkedRunLogStore, RunLogNotFoundError, StepLog, StorageFullError
from chunkstore.backends import ANY, FOUND, Backend
from places import again, between, in_file
from rigs import Tally, mounted

Store = ChunkedRunLogStore


def undamaged(file: Path) -> bool:
    """Says SQLite itself, from outside."""
    with closing(sqlite3.connect(file)) as connection:
        return bool(connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)])


# Kills.


@pytest.mark.parametrize("durability", ["process", "barrier", "power"])
def test_whichever_writers_are_killed_nothing_is_damaged_or_lost_and_the_others_go_on(
    tmp_path: Path, tally: Tally, durability: str
) -> None:
    """SQLite takes the lock of the dead from them at once."""
    store = Store(in_file(tmp_path, durability=durability))
    store.create_run_log("r")
    store.close()
    fork, chance, acks = multiprocessing.get_context("fork"), random.Random(durability), []
    rounds = between(3, 20)
    for turn in range(rounds):
        pipes = [fork.Pipe(duplex=False) for _ in range(4)]
        each = [(f"sqlite:///{tmp_path / 'runs.db'}", "db_log", 10 * turn + me) for me in range(4)]
        processes = [
            fork.Process(target=write_until_killed, args=(*one, theirs))
            for one, (_, theirs) in zip(each, pipes, strict=True)
        ]
        for process, (_, theirs) in zip(processes, pipes, strict=True):
            process.start()
            theirs.close()
        living = [ours for ours, _ in pipes]
        for process in processes:
            acks += [living[0].recv() for _ in range(1 + chance.randrange(4))]
            process.kill()
            process.join()
            acks += rest_of(living.pop(0))
        check(each[0][0], "db_log", acks)
        assert undamaged(tmp_path / "runs.db")
    tally("kills of writers on SQLite", 4 * rounds)


def rest_of(pipe: Connection) -> list[str]:
    """What a process that ended had still to say."""
    found = []
    with closing(pipe), suppress(EOFError):
        while True:
            found.append(pipe.recv())
    return found


# Somebody else's lock.


@contextmanager
def held(file: Path) -> Iterator[None]:
    """Another program's transaction that writes."""
    with closing(sqlite3.connect(file, isolation_level=None, timeout=30)) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        yield
        connection.execute("ROLLBACK")


def test_a_file_that_another_program_holds_beyond_the_deadline_is_a_clear_transient_error(
    tmp_path: Path, tally: Tally
) -> None:
    filled(in_file(tmp_path)).close()
    backends = [in_file(tmp_path, deadline=TURN) for _ in ALL_OF_THEM]
    for backend in backends:
        warm(backend)
    writes = {name: act for name, act in ALL_OF_THEM.items() if name not in READS}
    with held(tmp_path / "runs.db"), ThreadPoolExecutor(len(writes)) as pool:
        outcomes = list(pool.map(ended, map(hasty, backends), writes.values()))
    for name, backend, (error, seconds) in zip(writes, backends, outcomes, strict=False):
        judged(name, backend, error, seconds)
        assert "lock" in str(error), error
    for backend in backends:
        sure(backend.put, "later/run.json", b"x", ANY)
        backend.close()
    tally("operations that a deadline ended", len(outcomes))


def test_a_write_waits_for_another_programs_lock_no_longer_than_that_is_held(tmp_path: Path) -> None:
    with closing(in_file(tmp_path, deadline=30.0)) as backend, ThreadPoolExecutor(1) as pool:
        store = filled(backend)
        with held(tmp_path / "runs.db"):
            writing = pool.submit(store.set_run_config, "r", {"a": 1})
            time.sleep(0.3)  # it has met the lock by now
            assert not writing.done()
        began = time.monotonic()
        writing.result(30)
        assert time.monotonic() - began < 5
        assert again(store).get_run_config("r") == {"a": 1}


# The disk.

TEXT: Final = "x" * 6_000


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts as Linux does")
@pytest.mark.parametrize("durability", ["process", "barrier", "power"])
def test_a_full_disk_refuses_a_write_and_nothing_else(tmp_path: Path, tally: Tally, durability: str) -> None:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=1m", "tmpfs") as folder:
        store = filled(in_file(folder, durability=durability))
        written = fill_up(store)
        assert written
        with pytest.raises(StorageFullError, match=r"runs\.db"):
            store.add_step_log(StepLog(name="more", internal_name="more", message=TEXT * 10), "r")
        found = again(store).get_run_log_by_id("r")
        assert set(found.steps) - {"more"} == {"a", *written}
        assert all(found.steps[name].message == TEXT for name in written)
        store.close()
        assert undamaged(folder / "runs.db")
        # Where there is room, the same call succeeds.
        subprocess.run(["mount", "-o", "remount,size=8m", str(folder)], check=True)
        store.add_step_log(StepLog(name="more", internal_name="more", message=TEXT * 10), "r")
        assert again(store).get_step_log("more", "r").message == TEXT * 10
        store.close()
        tally("writes on a full disk", len(written))


def fill_up(store: Store) -> list[str]:
    """The steps that were acknowledged before the first was refused."""
    written: list[str] = []
    while True:
        name = f"s{len(written)}"
        try:
            store.add_step_log(StepLog(name=name, internal_name=name, message=TEXT), "r")
        except StorageFullError as error:
            assert not error.transient  # noqa: PT017  the loop ends with it
            return written
        written.append(name)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts as Linux does")
def test_a_file_on_a_disk_that_is_read_only_is_read_and_refuses_writes_with_the_next_step(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "tmpfs") as folder:
        store = filled(in_file(folder))
        store.close()
        subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True)
        with closing(in_file(folder, made=False, deadline=DEADLINE)) as backend:
            for name in READS:
                ALL_OF_THEM[name](Store(backend))
            for name, act in ALL_OF_THEM.items():
                if name in READS:
                    continue
                with pytest.raises(BackendUnavailableError, match="writable") as refused:
                    act(Store(backend))
                assert not refused.value.transient, name
                assert "runs.db" in str(refused.value)
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True)
        assert again(store).get_run_log_by_id("r").steps["a"].message == "old"
        store.close()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts as Linux does")
def test_who_has_the_disk_read_only_reads_what_others_write_to_it_meanwhile(tmp_path: Path) -> None:
    """As a container does, whose volume is read-only."""
    with mounted(tmp_path / "disk", "-t", "tmpfs", "tmpfs") as folder:
        store = filled(in_file(folder))
        with (
            mounted(tmp_path / "volume", "--bind", "-o", "ro", str(folder)) as volume,
            closing(in_file(volume, made=False, deadline=DEADLINE)) as backend,
        ):
            for message in ("ONE", "TWO"):
                store.update_run_log_status("r", message)
                assert Store(backend).get_run_log_by_id("r", full=False).status == message
                store.close()  # the last one takes the log away
                assert Store(backend).get_run_log_by_id("r", full=False).status == message
            with pytest.raises(BackendUnavailableError, match="writable"):
                backend.put("r/x.json", b"{}", ANY)


@pytest.mark.parametrize("what", ["no database", "cut", "overwritten"])
def test_a_file_that_is_no_database_or_damaged_is_named_and_not_overwritten(tmp_path: Path, what: str) -> None:
    file = tmp_path / "runs.db"
    if what == "no database":
        file.write_bytes(b"a letter to a friend, long enough to be no empty file" * 100)
    else:
        store = filled(in_file(tmp_path))
        fill = "y" * 5_000
        for number in range(20):
            store.add_step_log(StepLog(name=f"{number}", internal_name=f"{number}", message=fill), "r")
        store.close()
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        data = file.read_bytes()
        file.write_bytes(data[: len(data) // 2] if what == "cut" else data[:100] + b"\xff" * 8_000 + data[8_100:])
    before = file.read_bytes()
    with closing(in_file(tmp_path, made=False, deadline=DEADLINE)) as backend:
        with pytest.raises(BackendUnavailableError, match=r"runs\.db") as refused:
            read_and_write(backend)
        assert not refused.value.transient
    assert file.read_bytes() == before or what == "cut"


def read_and_write(backend: Backend) -> None:
    """Some damage is met by readers, some by writers only."""
    Store(backend).read_run_log("r")
    backend.put("r/run.json", b"x" * 100_000, ANY)


def test_a_file_that_was_removed_under_an_open_store_is_said_and_never_silently_made_anew(tmp_path: Path) -> None:
    """What is acknowledged is written where the next process finds it, or refused."""
    store = filled(in_file(tmp_path))
    for file in tmp_path.iterdir():
        file.unlink()
    try:
        store.set_run_config("r", {"a": 1})
    except (BackendUnavailableError, RunLogNotFoundError) as error:
        assert "runs.db" in str(error)  # noqa: PT017  a refusal is one of two good ends
    else:
        store.close()
        assert Store(in_file(tmp_path)).get_run_config("r") == {"a": 1}


def test_a_run_of_one_is_not_the_run_of_another_file(tmp_path: Path) -> None:
    """Two stores of one process on two files, with one pool each."""
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    one, other = in_file(tmp_path / "a"), in_file(tmp_path / "b")
    one.put("r/run.json", b"one", FOUND)
    other.put("r/run.json", b"other", FOUND)
    assert (one.get("r/run.json").data, other.get("r/run.json").data) == (b"one", b"other")
    one.close()
    other.close()
