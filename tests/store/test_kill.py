"""kill -9 of a writer leaves no damaged chunk and loses no acknowledged write."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from chunkstore import ChunkedRunLogStore, StepLog
from chunkstore.backends import Backend
from chunkstore.backends.local import LocalBackend
from places import again, in_file, sized

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")

FORK = multiprocessing.get_context("fork")
LARGE = "x" * 20_000


def write_for_ever(store: ChunkedRunLogStore, round_number: int, acks: Connection) -> None:
    """Tells what it is about to write and, once the store has acknowledged it, that it did."""
    number = 0
    while True:
        number += 1
        name = f"{round_number} {number}"
        step = StepLog(name=name, internal_name=name, message=LARGE)
        store.add_step_log(step, "r")
        acks.send(("step", name, "CREATED"))
        store.set_parameters("r", {"shared": name, f"p {name}": LARGE})
        acks.send(("parameter", name, ""))
        step.status = "SUCCESS"
        store.add_step_log(step, "r")
        acks.send(("step", name, "SUCCESS"))
        store.set_run_config("r", {f"c {name}": number})
        acks.send(("config", name, number))
        store.create_run_log(f"run {name}", tag=name)
        acks.send(("run", name, ""))


def acknowledged(pipe: Connection, enough: int) -> list[tuple[str, str, object]]:
    """So many acknowledgements at least; the writer is at it when this returns."""
    return [pipe.recv() for _ in range(enough)]


def rest_of(pipe: Connection) -> list[tuple[str, str, object]]:
    found = []
    try:
        while True:
            found.append(pipe.recv())
    except EOFError:
        return found


PLACES: dict[str, Callable[[Path], Backend]] = {
    "process": lambda folder: LocalBackend(folder / "runs", durability="process"),
    "barrier": lambda folder: LocalBackend(folder / "runs", durability="barrier"),
    "sqlite": in_file,
}


@pytest.mark.parametrize("place", PLACES)
def test_no_chunk_is_damaged_and_no_acknowledged_write_is_lost(tmp_path: Path, place: str) -> None:
    store = ChunkedRunLogStore(PLACES[place](tmp_path))
    store.create_run_log("r")
    chance = random.Random(place)
    acks: dict[tuple[str, str], object] = {}
    for round_number in range(sized(200) // 2):
        ours, theirs = FORK.Pipe(duplex=False)
        writer = FORK.Process(target=write_for_ever, args=(store, round_number, theirs))
        writer.start()
        theirs.close()
        try:
            new = acknowledged(ours, chance.randrange(1, 60))
        finally:
            os.kill(writer.pid or 0, signal.SIGKILL)
            writer.join()
        new += rest_of(ours)
        ours.close()
        acks |= {(sort, name): value for sort, name, value in new}
        check(again(store), {(sort, name): value for sort, name, value in new})
        again(store).set_run_config("r", {"the lock": "is free"})
    check(again(store), acks)


def check(store: ChunkedRunLogStore, acks: dict[tuple[str, str], object]) -> None:
    reading = store.read_run_log("r")
    assert reading.findings == ()
    found = reading.run_log
    for (sort, name), value in acks.items():
        if sort == "step":
            assert found.steps[name].message == LARGE
            assert value == "CREATED" or found.steps[name].status == "SUCCESS"
        elif sort == "parameter":
            assert found.parameters[f"p {name}"] == LARGE
        elif sort == "config":
            assert found.run_config[f"c {name}"] == value
        else:
            assert store.get_run_log_by_id(f"run {name}").tag == name


def test_what_a_killed_writer_left_is_never_listed_and_goes_with_the_run(tmp_path: Path) -> None:
    store = ChunkedRunLogStore(LocalBackend(tmp_path / "runs"))
    store.create_run_log("r")
    (tmp_path / "runs" / "r" / ".t-0badcafe-1-1").write_bytes(b"half a chu")
    (tmp_path / "runs" / ".t-0badcafe-1-2").write_bytes(b"half a chu")
    reader = again(store)
    assert reader.read_run_log("r").findings == ()
    assert reader.list_run_ids() == ["r"]
    reader.delete_run_log("r")
    assert reader.list_run_ids() == []


def test_a_folder_that_a_kill_left_without_a_header_is_no_run_and_can_become_one(tmp_path: Path) -> None:
    store = ChunkedRunLogStore(LocalBackend(tmp_path / "runs"))
    (tmp_path / "runs" / "r").mkdir(parents=True)
    assert store.get_run_logs() == []
    store.create_run_log("r", tag="t")
    assert store.get_run_log_by_id("r").tag == "t"
