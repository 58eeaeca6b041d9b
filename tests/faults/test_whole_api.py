"""The whole store API beside a plain dict, while all goes wrong that can: other processes, clocks, damage, faults."""

from __future__ import annotations

import itertools
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase
from hypothesis.stateful import run_state_machine_as_test

from chunkstore import BranchLog, ChunkedRunLogStore, ChunkStoreError, RunLog, StepLog, keys
from chunkstore.backends import ANY
from chunkstore.backends.local import LocalBackend
from chunkstore.backends.memory import MemoryBackend
from chunkstore.clock import HybridClock
from chunkstore.testing.store_machine import machine_settings, store_machine
from places import again, between, in_bucket, memory
from rigs import Tally
from whole_api_machine import WholeApiMachine, whole_api
from whole_api_processes import Peer, spawned
from whole_api_sabotage import FOUND_ANYWHERE, FOUND_UNDER_FAULTS, Break

pytestmark = [
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
    pytest.mark.timeout(3600),
]


@pytest.fixture(scope="module")
def peer() -> Iterator[Peer]:
    """One process for all stores that live elsewhere: it is slow to start."""
    with spawned() as process:
        yield process


NEVER_SHRUNK = (Phase.explicit, Phase.reuse, Phase.generate)
"""To shrink and to explain a failure of some fifty steps takes minutes and gigabytes: its steps and its blob are printed as they are."""


def run(machine: type[WholeApiMachine], where: str, tally: Tally, examples: int, steps: int) -> None:
    try:
        run_state_machine_as_test(machine, settings=machine_settings(examples, steps, phases=NEVER_SHRUNK))
    finally:
        for what, number in machine.counted.items():
            tally(f"{what} of the whole-API machine, {where}", number)


def test_stores_in_memory_are_like_a_dict(tally: Tally) -> None:
    run(whole_api(memory), "memory", tally, between(60, 2_000), between(50, 200))


def test_stores_on_disk_are_like_a_dict(tally: Tally, tmp_path: Path, peer: Peer) -> None:
    folders = (tmp_path / str(number) for number in itertools.count())
    machine = whole_api(
        lambda: LocalBackend(next(folders), durability="process"),
        remove=lambda one: shutil.rmtree(one.place, ignore_errors=True),  # nothing may have been written
        process=peer,
    )
    run(machine, "local disk", tally, between(40, 2_000), between(50, 200))


@pytest.mark.parametrize("name", ["moto", "minio"])
def test_stores_on_a_server_are_like_a_dict(
    name: str, tally: Tally, request: pytest.FixtureRequest, tmp_path: Path, peer: Peer
) -> None:
    server = request.getfixturevalue(f"{name}_server")
    bucket, prefixes = server.new_bucket(), (f"runs/{number}" for number in itertools.count())
    machine = whole_api(lambda: in_bucket(server, tmp_path, bucket=bucket, prefix=next(prefixes)), process=peer)
    run(machine, name, tally, between(2, 100), between(10, 50))


@pytest.mark.parametrize("where", ["memory", "local disk"])
def test_faults_under_each_call_change_nothing_but_what_is_acknowledged(
    where: str, tally: Tally, tmp_path: Path
) -> None:
    folders = (tmp_path / str(number) for number in itertools.count())
    machine = whole_api(
        lambda: memory() if where == "memory" else LocalBackend(next(folders), durability="process"), faults=True
    )
    examples = between(60, 1_000) if where == "memory" else between(20, 1_000)
    run(machine, f"{where} with faults", tally, examples, between(30, 100))


def test_a_run_that_is_made_anew_is_like_a_dict(tally: Tally) -> None:
    run(whole_api(memory, anew=True), "memory with ids that come again", tally, between(20, 1_000), between(40, 100))


BELIEVED = (
    "a change is not sent where this process believes that it stands there already, as another object of its wrote it"
)


@pytest.mark.parametrize("status", ["SUCCESS", "TRIGGERED"])
def test_a_status_that_this_process_wrote_once_is_written_again_after_somebody_changed_it(status: str) -> None:
    ours, theirs = two_stores()
    held = ours.get_run_log_by_id("r")
    ours.update_run_log_status("r", status)
    theirs.update_run_log_status("r", "PROCESSING")
    held.status = status
    ours.put_run_log(held)
    assert theirs.get_run_log_by_id("r").status == status


def test_a_parameter_that_this_process_wrote_once_is_written_again_after_somebody_changed_it() -> None:
    ours, theirs = two_stores()
    ours.set_parameters("r", {"x": 1})
    read = ours.get_parameters("r")
    ours.set_parameters("r", {"x": 2})
    theirs.set_parameters("r", {"x": 3})
    read["x"] = 2
    ours.set_parameters("r", read)
    assert theirs.get_parameter("r", "x") == 2


def two_stores() -> tuple[ChunkedRunLogStore, ChunkedRunLogStore]:
    backend = memory()
    stores = ChunkedRunLogStore(backend), ChunkedRunLogStore(backend)
    stores[0].create_run_log("r")
    return stores


@pytest.mark.parametrize("inner", ["c", "1.5", "x" * 300])
def test_what_is_below_damaged_chunks_stays_in_its_place_whichever_of_them_are_damaged(inner: str) -> None:
    """Otherwise the branches of a damaged step would pass for those of the step further out, and nothing would say so."""
    named = [("a", "a"), (inner, f"a.x.{inner}"), ("d", f"a.x.{inner}.y.d"), ("e", f"a.x.{inner}.y.d.z.e")]
    branches = ["a.x", f"a.x.{inner}.y", f"a.x.{inner}.y.d.z"]
    steps = [keys.step("r", internal_name) for _, internal_name in named]
    parents = [*steps[:-1], *(keys.branch("r", name) for name in branches)]
    for lost in itertools.chain.from_iterable(itertools.combinations(parents, number) for number in range(1, 7)):
        backend = memory()
        knows = ChunkedRunLogStore(backend)
        knows.create_run_log("r")
        for name, internal_name in named:
            knows.add_step_log(knows.create_step_log(name, internal_name), "r")
        for name in branches:
            knows.add_branch_log(knows.create_branch_log(name), "r")
        whole = nesting(knows.get_run_log_by_id("r"))
        for chunk in lost:
            backend.put(keys.key_of(chunk), b"?", ANY)
        for store in (knows, again(knows)):
            reading = store.read_run_log("r")
            assert nesting(reading.run_log) == whole
            assert {one.name for one in reading.findings if one.sort == "orphan"} == {chunk.name for chunk in lost}


def nesting(holder: RunLog | BranchLog) -> dict[str, Any]:
    """The internal names, each with those below it."""
    return {
        name: {inner: nesting(branch) for inner, branch in step.branches.items()} for name, step in holder.steps.items()
    }


class SeveralAtOnce(MemoryBackend):
    concurrency = 2


class SecondFirst(HybridClock):
    """Of the threads of a store, the second one that asks is the first to get a stamp."""

    def __init__(self) -> None:
        super().__init__()
        self.asked = itertools.count()
        self.given = threading.Event()

    def stamp(self) -> str:
        if threading.current_thread() is threading.main_thread():
            return super().stamp()
        if next(self.asked) == 0:
            assert self.given.wait(60)
        stamp = super().stamp()
        self.given.set()
        return stamp


def test_steps_that_are_put_at_once_keep_the_order_that_they_were_given_in() -> None:
    backend = SeveralAtOnce(memory().name)
    store = ChunkedRunLogStore(backend, clock=SecondFirst())
    made = RunLog(run_id="r", steps={name: StepLog(name=name, internal_name=name) for name in "ab"})
    store.put_run_log(made)
    store.close()
    assert list(again(store).get_run_log_by_id("r").steps) == ["a", "b"]


def test_every_public_method_of_a_store_is_used_by_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    elsewhere = {"service_name", "service_type"} | {
        "lease",
        "fenced",
    }  # leases have a machine of their own, in test_leases
    public = {name for name in vars(ChunkedRunLogStore) if not name.startswith("_")} - elsewhere
    used: set[str] = set()
    for name in public:
        watch(monkeypatch, name, used)
    run_state_machine_as_test(
        store_machine(memory), settings=machine_settings(20, 40, derandomize=True, phases=[Phase.generate])
    )
    assert used == public


def watch(monkeypatch: pytest.MonkeyPatch, name: str, used: set[str]) -> None:
    """Notes a method that is called by somebody else than the store itself."""
    real = vars(ChunkedRunLogStore)[name]
    inner = real.fget if isinstance(real, property) else real

    def watched(*arguments: Any, **keywords: Any) -> Any:
        if sys._getframe(1).f_globals["__name__"] != "chunkstore.store":
            used.add(name)
        return inner(*arguments, **keywords)

    monkeypatch.setattr(ChunkedRunLogStore, name, property(watched) if isinstance(real, property) else watched)


SABOTAGES = [
    *(pytest.param(broken, False, id=name) for name, broken in FOUND_ANYWHERE.items()),
    *(pytest.param(broken, True, id=name) for name, broken in FOUND_UNDER_FAULTS.items()),
]


@pytest.mark.parametrize(("broken", "faults"), SABOTAGES)
def test_the_machine_finds(broken: Break, faults: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    broken(monkeypatch)
    machine = whole_api(memory, faults=faults)
    # Most are found within ten examples. The first failure is enough: nobody wants to see it in its smallest form.
    size = machine_settings(600, 50, derandomize=True, phases=[Phase.generate])
    with pytest.raises((AssertionError, ChunkStoreError, pytest.fail.Exception)):
        run_state_machine_as_test(machine, settings=size)
