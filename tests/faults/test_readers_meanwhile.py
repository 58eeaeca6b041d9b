"""Readers beside writers and deleters: all that was acknowledged, nothing torn, no child without its parents."""

from __future__ import annotations

import contextlib
import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkstore import (
    BranchLog,
    ChunkedRunLogStore,
    NotFoundError,
    RunLog,
    RunLogNotFoundError,
    StepLog,
)
from chunkstore.backends import Backend, Blob
from chunkstore.testing import CountingBackend
from places import again, between, meanwhile, place
from rigs import Tally

WRITERS = 3
ROUNDS = {"local": between(60, 800), "minio": between(8, 300)}
FILL = 1010
"""Parameters that are there before: in a listing they stand between branches and steps, which so are on different pages."""

FORK = multiprocessing.get_context("fork") if hasattr(os, "fork") else None

pytestmark = [
    pytest.mark.skipif(FORK is None, reason="there is no fork on this system"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def body(number: int) -> str:
    return f"{number}:" + "x" * (number * 37 % 3000)


def write(store: ChunkedRunLogStore, me: int, count: int, acked: Any) -> None:
    """Parents before children, each acknowledged before the next; tells in shared memory how far it is."""
    for number in range(count):
        step, branch = f"map {me} {number}", f"map {me} {number}.x"
        store.add_step_log(StepLog(name=step, internal_name=step), "r")
        store.add_branch_log(BranchLog(internal_name=branch), "r")
        child = StepLog(name="t", internal_name=f"{branch}.t")
        store.add_step_log(child, "r")
        store.set_parameters("r", {f"last {me}": [number, body(number)], "p": number}, branch)
        child.status, child.message = f"{number}", body(number)
        store.add_step_log(child, "r")
        store.set_parameters("r", {f"last {me}": [number, body(number)]})
        store.set_run_config("r", {f"last {me}": number, f"same {me}": body(number)})
        acked[me] = number


def whole(run: RunLog, before: list[int]) -> None:
    """All that was acknowledged before the read, and no chunk of two writes."""
    for me, last in enumerate(before):
        for number in range(last + 1):
            branch = run.steps[f"map {me} {number}"].branches[f"map {me} {number}.x"]
            child = branch.steps[f"map {me} {number}.x.t"]
            assert (child.status, child.message) == (f"{number}", body(number))
            assert branch.parameters == {f"last {me}": [number, body(number)], "p": number}
        if last >= 0:
            shown, text = run.parameters[f"last {me}"]  # type: ignore[misc]  # a list that we wrote
            assert shown >= last
            assert text == body(shown)
            config: dict[str, Any] = run.run_config
            assert config[f"last {me}"] >= last
            assert config[f"same {me}"] == body(config[f"last {me}"])
    for step in run.steps.values():
        for branch in step.branches.values():
            for child in branch.steps.values():
                assert child.status == "CREATED" or child.message == body(int(child.status))


def look_at_parts(store: ChunkedRunLogStore, me: int, last: int) -> None:
    parameters: dict[str, Any] = store.get_parameters("r")
    shown, text = parameters[f"last {me}"]
    assert shown >= last
    assert text == body(shown)
    assert store.get_parameter("r", "p", f"map {me} {last}.x") == last
    child = store.get_step_log(f"map {me} {last}.x.t", "r")
    assert (child.status, child.message) == (f"{last}", body(last))
    config: dict[str, Any] = store.get_run_config("r")
    assert config[f"last {me}"] >= last
    assert config[f"same {me}"] == body(config[f"last {me}"])


@pytest.mark.parametrize("name", ROUNDS)
def test_a_full_read_beside_writers_has_all_that_was_acknowledged_and_no_orphan(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    """Over listings of more than one page; by a reader that knows the run, and on local disk by new ones too."""
    assert FORK is not None
    store = ChunkedRunLogStore(place(name, request, tmp_path))
    store.create_run_log("r")
    store.set_parameters("r", {f"fill {number}": number for number in range(FILL)})
    acked = FORK.Array("l", [-1] * WRITERS, lock=False)
    reads = 0
    with meanwhile(write, [(again(store), me, ROUNDS[name], acked) for me in range(WRITERS)]) as busy:
        while busy() or not reads:
            before = list(acked)
            new = name == "local" and reads % 5 == 4
            reading = (again(store) if new else store).read_run_log("r")
            assert reading.findings == ()
            assert len(reading.run_log.parameters) >= FILL
            whole(reading.run_log, before)
            me = reads % WRITERS
            if (last := acked[me]) >= 0:
                look_at_parts(store, me, last)
            reads += 1
    whole((again(store) if name == "local" else store).get_run_log_by_id("r"), [ROUNDS[name] - 1] * WRITERS)
    assert reads > 1
    tally(f"full reads beside writers, {name}", reads)


# Deleting beside readers and writers


def found_and_delete(store: ChunkedRunLogStore, rounds: int, current: Any) -> None:
    """Runs come and go. An id is never used twice, as the docs ask."""
    for number in range(rounds):
        run_id = f"d{number}"
        store.create_run_log(run_id, tag="whole")
        store.set_parameters(run_id, {f"p {index}": number for index in range(SIZE)})
        for index in range(SIZE):
            store.add_step_log(StepLog(name=f"s {index}", internal_name=f"s {index}"), run_id)
        current.value = number
        store.delete_run_log(run_id)


SIZE = 12


def write_late(store: ChunkedRunLogStore, rounds: int, current: Any) -> int:
    """Writes into runs that are being deleted: it happens, or the run is not there."""
    writes: list[Callable[[str, int], object]] = [
        lambda run_id, number: store.update_run_log_status(run_id, f"S{number}"),
        lambda run_id, number: store.set_run_config(run_id, {"late": number}),
        lambda run_id, number: store.add_step_log(
            StepLog(name="s 0", internal_name="s 0", message=f"{number}"), run_id
        ),
        lambda run_id, number: store.set_parameters(run_id, {"p 0": number}),
        lambda run_id, number: put_back(store, run_id),
    ]
    refused = 0
    for number in itertools.count():
        if current.value >= rounds - 1:
            return refused
        try:
            writes[number % len(writes)](f"d{current.value}", number)
        except RunLogNotFoundError:
            refused += 1
    raise AssertionError


def put_back(store: ChunkedRunLogStore, run_id: str) -> None:
    run = store.get_run_log_by_id(run_id)
    run.dag_hash = "late"
    for step in run.steps.values():
        step.status = "LATE"
    store.put_run_log(run)


@pytest.mark.parametrize("name", ["local", "minio"])
def test_reads_beside_a_delete_end_with_a_run_or_with_not_found(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    assert FORK is not None
    store = ChunkedRunLogStore(place(name, request, tmp_path))
    store.create_run_log("stays")
    rounds = {"local": between(60, 600), "minio": between(5, 80)}[name]
    current = FORK.Value("l", -1, lock=False)
    outcomes: dict[str, int] = {"whole": 0, "part": 0, "gone": 0}
    work = [(found_and_delete, again(store), rounds, current), (write_late, again(store), rounds, current)]
    with meanwhile(call, work) as busy:
        reader = again(store)
        for number in itertools.count():
            if not busy():
                break
            if current.value < 0:
                continue  # the first one is still being filled
            run_id = f"d{current.value}"
            outcomes[look(reader if number % 2 else again(store), run_id, number)] += 1
    assert store.get_run_log_by_id("stays").run_id == "stays"
    tally(f"reads beside deletes, {name}", sum(outcomes.values()))
    assert outcomes["part"] == 0
    assert outcomes["gone"] > 0
    assert outcomes["whole"] > 0


def call(work: Callable[..., Any], *arguments: Any) -> Any:
    return work(*arguments)


def look(store: ChunkedRunLogStore, run_id: str, number: int) -> str:
    """What a reader got of a run that comes and goes; any other error than that it is not there escapes."""
    try:
        if number % 6 == 0:
            run = store.read_run_log(run_id).run_log
            return "whole" if len(run.steps) >= SIZE and len(run.parameters) >= SIZE else "part"
        if number % 6 == 1:
            store.get_step_log("s 3", run_id)
        elif number % 6 == 2:
            store.get_parameters(run_id)
        elif number % 6 == 3:
            assert "stays" in [run.run_id for run in store.get_run_logs()]
        elif number % 6 == 4:
            store.get_run_log_by_id(run_id, full=False)
        else:
            store.get_parameter(run_id, "p 3")
    except NotFoundError:
        return "gone"
    return "whole"


class DeletedMeanwhile(CountingBackend):
    """Somebody else deletes the run after it was listed and its header was read, before the rest is."""

    def __init__(self, inner: Backend, run_id: str) -> None:
        super().__init__(inner)
        self._run_id = run_id
        self._place = inner

    def get_many(self, keys: Any) -> Iterator[tuple[str, Blob]]:
        wanted = sorted(keys, key=lambda key: not key.endswith("/run.json"))
        for number, found in enumerate(super().get_many(wanted)):
            yield found
            if number == 0:
                with contextlib.suppress(RunLogNotFoundError):
                    ChunkedRunLogStore(self._place).delete_run_log(self._run_id)


def filled(backend: Backend) -> ChunkedRunLogStore:
    store = ChunkedRunLogStore(backend)
    store.create_run_log("r")
    store.set_parameters("r", {"p": 1, "q": 2})
    for name in "abc":
        store.add_step_log(StepLog(name=name, internal_name=name), "r")
    return store


DELETED = "what a delete takes away between the listing and the reads is left out without a word"


@pytest.mark.parametrize("name", ["memory", "local"])
def test_a_full_read_of_a_run_that_is_deleted_meanwhile_is_whole_or_not_found(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    backend = place(name, request, tmp_path)
    filled(backend)
    try:
        found = ChunkedRunLogStore(DeletedMeanwhile(backend, "r")).get_run_log_by_id("r")
    except RunLogNotFoundError:
        return
    assert sorted(found.steps) == ["a", "b", "c"]
    assert found.parameters == {"p": 1, "q": 2}
