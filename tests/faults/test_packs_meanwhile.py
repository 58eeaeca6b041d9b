"""Packers beside writers, readers and other packers, as processes of their own: nothing acknowledged is ever missing."""

from __future__ import annotations

import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any, Final

import pytest

from chunkstore import ChunkedRunLogStore, ConflictError, StepAttempt, StepLog, keys
from chunkstore.backends import FOUND, Backend, unchanged
from chunkstore.backends.local import LocalBackend
from places import again, at_once, between, meanwhile, place
from rigs import Tally

WRITERS: Final = 8
PLACES: Final = ("local", "faults")
"""Where deletes have conditions and processes race; moto is no place for races."""
ROUNDS: Final = 5
"""How often a run is packed at the least while others read it."""


def ended(store: ChunkedRunLogStore, run_id: str = "r") -> None:
    store.create_run_log(run_id)
    store.add_step_log(StepLog(name="shared", internal_name="shared"), run_id)
    store.update_run_log_status(run_id, "SUCCESS")


def write(store: ChunkedRunLogStore, me: int, count: int, gate: Any) -> None:
    """Appends to the step that all share, adds steps of its own, changes them, and sets parameters."""
    shared = store.get_step_log("shared", "r")
    gate.wait(60)
    for number in range(count):
        name = f"{me}-{number}"
        shared.attempts.append(StepAttempt(message=name))
        store.add_step_log(shared, "r")
        own = StepLog(name=name, internal_name=name)
        store.add_step_log(own, "r")
        own.status = "SUCCESS"
        store.add_step_log(own, "r")
        assert store.get_step_log(name, "r").status == "SUCCESS"
        store.set_parameters("r", {name: number})


def pack(store: ChunkedRunLogStore, me: int, count: int, gate: Any) -> int:
    """Packs for as long as others write; how many chunks it removed."""
    gate.wait(60)
    removed = 0
    for _ in range(count):
        try:
            removed += store.compact("r").removed
        except ConflictError:  # the writers were faster each time
            continue
    return removed


def work(store: ChunkedRunLogStore, me: int, count: int, gate: Any) -> int:
    """The last one packs, the others write."""
    if me == WRITERS:
        return pack(store, me, count, gate)
    write(store, me, count, gate)
    return 0


def check(store: ChunkedRunLogStore, count: int) -> None:
    names = {f"{me}-{number}" for me in range(WRITERS) for number in range(count)}
    for _ in range(2):
        reading = again(store).read_run_log("r")
        assert reading.findings == ()
        run = reading.run_log
        assert set(run.steps) == {"shared", *names}
        assert {run.steps[name].status for name in names} == {"SUCCESS"}
        assert sorted(one.message for one in run.steps["shared"].attempts) == sorted(names)
        assert set(run.parameters) == names
        reader = again(store)
        for name in sorted(names)[:: max(1, len(names) // 20)]:
            assert reader.get_step_log(name, "r").model_dump() == run.steps[name].model_dump()
        store.compact("r")


@pytest.mark.parametrize("name", PLACES)
def test_eight_writers_beside_a_packer_lose_nothing(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    store = ChunkedRunLogStore(place(name, request, tmp_path))
    assert store.backend.guarantees.conditional_delete
    ended(store)
    count = between(6, 60)
    gate = multiprocessing.get_context("fork").Barrier(WRITERS + 1)
    removed = at_once(work, [(again(store), me, count, gate) for me in range(WRITERS + 1)])
    assert max(removed) > 0, "nothing was packed while they wrote"
    check(store, count)
    tally(f"writes beside a packer, {name}", WRITERS * count * 4)
    store.close()


def read(store: ChunkedRunLogStore, count: int, packed: Any) -> int:
    """Full and single reads of what was there from the beginning: it is in each of them. At least so many, and until it was packed."""
    done = 0
    while done < count or not packed.is_set():
        done += 1
        for reader in (store, again(store)):
            reading = reader.read_run_log("r")
            assert reading.findings == ()
            assert {f"s{number}" for number in range(40)} <= set(reading.run_log.steps), reading.run_log.steps.keys()
            assert reader.get_step_log("s7", "r").name == "s7"
    return done


@pytest.mark.parametrize("name", PLACES)
def test_readers_beside_packers_miss_nothing(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    """Each round writes the chunks anew, and packs and removes them under the readers' eyes."""
    store = ChunkedRunLogStore(place(name, request, tmp_path))
    rounds = 0
    ended(store)
    for number in range(40):
        store.add_step_log(StepLog(name=f"s{number}", internal_name=f"s{number}"), "r")
    count = between(10, 200)
    packed = multiprocessing.get_context("fork").Event()
    with meanwhile(read, [(again(store), count, packed), (again(store), count, packed)]) as busy:
        while busy():
            store.add_step_log(StepLog(name=f"n{rounds}", internal_name=f"n{rounds}"), "r")
            again(store).compact("r")
            rounds += 1
            if rounds == ROUNDS:
                packed.set()
    assert rounds >= ROUNDS
    tally(f"reads beside a packer, {name}", 2 * count * 4)
    store.close()


def pack_until_killed(root: str) -> None:
    store = ChunkedRunLogStore(LocalBackend(root))
    while True:
        store.compact("r")


def test_a_packer_that_is_killed_again_and_again_leaves_a_run_that_reads_the_same(tmp_path: Path, tally: Tally) -> None:
    store = ChunkedRunLogStore(LocalBackend(tmp_path / "runs"))
    ended(store)
    context = multiprocessing.get_context("fork")
    names = {"shared"}
    for number in range(between(6, 100)):
        for part in range(20):
            names.add(f"{number}-{part}")
            store.add_step_log(StepLog(name=f"{number}-{part}", internal_name=f"{number}-{part}"), "r")
        process = context.Process(target=pack_until_killed, args=(str(tmp_path / "runs"),))
        process.start()
        # Whenever it is hit, it is right; what varies is where.
        until = time.monotonic() + 0.004 * (number % 12)
        while time.monotonic() < until:
            assert set(again(store).get_run_log_by_id("r").steps) == names
        assert process.pid is not None
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert set(again(store).get_run_log_by_id("r").steps) == names
        tally("packers killed", 1)
    done = store.compact("r")
    assert done.kept == 0
    assert [entry.key for entry in store.backend.list("r/step")] == []
    assert set(again(store).get_run_log_by_id("r").steps) == names


def swap(backend: Backend, me: int, rounds: int, gate: Any) -> list[str]:
    """All but the first update the object of each round, the first deletes it, all in the version that it was made with."""
    won = []
    for number in range(rounds):
        gate.wait(60)
        key = keys.key_of(keys.step("r", f"s{number}"))
        version = backend.get("r/version.json").data.decode().split()[number]
        try:
            if me == 0:
                backend.delete(key, unchanged(version))
            else:
                backend.put(key, f"{me} {number}".encode(), unchanged(version))
        except ConflictError:
            continue
        won.append(f"{me} {number}")
    return won


@pytest.mark.parametrize("name", PLACES)
def test_of_one_that_deletes_and_many_that_update_the_same_version_one_wins(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    backend = place(name, request, tmp_path)
    rounds = between(20, 300)
    versions = [backend.put(keys.key_of(keys.step("r", f"s{number}")), b"first", FOUND) for number in range(rounds)]
    backend.put("r/version.json", " ".join(versions).encode(), FOUND)
    gate = multiprocessing.get_context("fork").Barrier(4)
    won = at_once(swap, [(backend, me, rounds, gate) for me in range(4)])
    left = {entry.key: backend.get(entry.key).data.decode() for entry in backend.list("r/step")}
    deleted = 0
    for number in range(rounds):
        now = left.get(keys.key_of(keys.step("r", f"s{number}")), f"0 {number}")
        winners = [one for process in won for one in process if one.split()[1] == str(number)]
        # A delete of what is gone already, or a repeated one, may succeed too: it took nothing away.
        assert [one for one in winners if one != f"0 {number}"] == ([] if now == f"0 {number}" else [now])
        assert now in winners
        deleted += now == f"0 {number}"
    tally(f"deletes raced with updates, {name}", rounds)
    assert len(left) + deleted == rounds
    backend.close()
