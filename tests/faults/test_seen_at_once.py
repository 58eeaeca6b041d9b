"""Whatever another process was acknowledged before a read began is in it, for every read call and a reader that knows older versions."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

import sabotage
from chunkstore import BranchLog, ChunkedRunLogStore, JobLog, RunLog, StepLog
from chunkstore.errors import NotFoundError
from places import again, between, finish, place, start
from rigs import Tally

Read = Callable[[ChunkedRunLogStore, int], Any]


class Pair(NamedTuple):
    """A write of the number `n`, and the calls that must show it: their name, and how to read the number."""

    write: Callable[[ChunkedRunLogStore, int], object]
    reads: Mapping[str, Read]


def number(value: object) -> int:
    """A step's message, a status: `S17`."""
    return int(str(value)[1:])


def step_of(run_log: RunLog) -> int:
    return number(run_log.steps["a"].message)


def branch_of(run_log: RunLog) -> BranchLog:
    return run_log.steps["m"].branches["m.x"]


def job_of(run_log: RunLog) -> int:
    assert run_log.job is not None
    return number(run_log.job.message)


def put(store: ChunkedRunLogStore, n: int) -> None:
    run_log = store.get_run_log_by_id("r", full=False)
    run_log.tag = f"T{n}"
    store.put_run_log(run_log)


def make_and_delete(store: ChunkedRunLogStore, n: int) -> None:
    """The run before goes, the next one comes; a reader that knew the old one must not find it."""
    store.create_run_log(f"passing {n + 1}")
    store.delete_run_log(f"passing {n}")


def gone(found: Callable[[ChunkedRunLogStore, str], object]) -> Read:
    """The number of the run, once it is no more."""

    def read(store: ChunkedRunLogStore, n: int) -> int | None:
        try:
            return None if found(store, f"passing {n}") else n
        except NotFoundError:
            return n

    return read


PAIRS: Final[Mapping[str, Pair]] = {
    "a step": Pair(
        lambda store, n: store.add_step_log(StepLog(name="a", internal_name="a", message=f"M{n}"), "r"),
        {
            "get_step_log": lambda store, n: number(store.get_step_log("a", "r").message),
            "get_run_log_by_id": lambda store, n: step_of(store.get_run_log_by_id("r")),
            "read_run_log": lambda store, n: step_of(store.read_run_log("r").run_log),
        },
    ),
    "a parameter": Pair(
        lambda store, n: store.set_parameters("r", {"p": n}),
        {
            "get_parameter": lambda store, n: store.get_parameter("r", "p"),
            "get_parameters": lambda store, n: store.get_parameters("r")["p"],
            "get_run_log_by_id": lambda store, n: store.get_run_log_by_id("r").parameters["p"],
            "get_run_log_by_id without steps": lambda store, n: store.get_run_log_by_id("r", full=False).parameters[
                "p"
            ],
            "get_branch_log of the run": lambda store, n: store.get_branch_log("", "r").parameters["p"],
        },
    ),
    "a parameter of a branch": Pair(
        lambda store, n: store.set_parameters("r", {"p": n}, "m.x"),
        {
            "get_parameter": lambda store, n: store.get_parameter("r", "p", "m.x"),
            "get_parameters": lambda store, n: store.get_parameters("r", "m.x")["p"],
            "get_run_log_by_id": lambda store, n: branch_of(store.get_run_log_by_id("r")).parameters["p"],
        },
    ),
    "a branch": Pair(
        lambda store, n: store.add_branch_log(BranchLog(internal_name="m.x", status=f"S{n}"), "r"),
        {
            "get_branch_log": lambda store, n: number(store.get_branch_log("m.x", "r").status),
            "get_run_log_by_id": lambda store, n: number(branch_of(store.get_run_log_by_id("r")).status),
        },
    ),
    "the configuration": Pair(
        lambda store, n: store.set_run_config("r", {"c": n}),
        {
            "get_run_config": lambda store, n: store.get_run_config("r")["c"],
            "get_run_logs": lambda store, n: store.get_run_logs(["r"])[0].run_config["c"],
            "get_run_log_by_id": lambda store, n: store.get_run_log_by_id("r").run_config["c"],
            "get_run_log_by_id without steps": lambda store, n: store.get_run_log_by_id("r", full=False).run_config[
                "c"
            ],
        },
    ),
    "the status": Pair(
        lambda store, n: store.update_run_log_status("r", f"P{n}"),
        {
            "get_run_logs": lambda store, n: len(store.get_run_logs(status=f"P{n}")) * n,
            "read_run_log": lambda store, n: store.read_run_log("r", full=False).run_log.status == f"P{n}" and n,
        },
    ),
    "the job": Pair(
        lambda store, n: store.add_job_log("r", JobLog(status=f"S{n}", message=f"M{n}")),
        {
            "get_job_log": lambda store, n: number(store.get_job_log("r").message),
            "get_run_log_by_id": lambda store, n: job_of(store.get_run_log_by_id("r")),
            "get_run_log_by_id without steps": lambda store, n: (
                store.get_run_log_by_id("r", full=False).status == f"S{n}" and n
            ),
        },
    ),
    "a run log put back": Pair(
        put,
        {
            "get_run_logs": lambda store, n: len(store.get_run_logs(tag=f"T{n}")) * n,
            "get_run_log_by_id": lambda store, n: number(store.get_run_log_by_id("r").tag),
        },
    ),
    "a new step": Pair(
        lambda store, n: store.add_step_log(StepLog(name=f"new {n}", internal_name=f"m.x.new {n}"), "r"),
        {
            "get_step_log": lambda store, n: store.get_step_log(f"m.x.new {n}", "r") and n,
            "get_run_log_by_id": lambda store, n: f"m.x.new {n}" in branch_of(store.get_run_log_by_id("r")).steps and n,
        },
    ),
    "a new parameter": Pair(
        lambda store, n: store.set_parameters("r", {f"new {n}": n}),
        {
            "get_parameter": lambda store, n: store.get_parameter("r", f"new {n}"),
            "get_parameters": lambda store, n: store.get_parameters("r").get(f"new {n}"),
        },
    ),
    "a new branch": Pair(
        lambda store, n: store.add_branch_log(store.create_branch_log(f"m.new {n}", {"n": n}), "r"),
        {
            "get_branch_log": lambda store, n: store.get_branch_log(f"m.new {n}", "r") and n,
            "get_parameters": lambda store, n: store.get_parameters("r", f"m.new {n}")["n"],
        },
    ),
    "a new run": Pair(
        lambda store, n: store.create_run_log(f"run {n}", run_config={"n": n}),
        {
            "list_run_ids": lambda store, n: f"run {n}" in store.list_run_ids() and n,
            "get_run_logs": lambda store, n: len(store.get_run_logs([f"run {n}"])) * n,
            "get_run_log_by_id": lambda store, n: store.get_run_log_by_id(f"run {n}").run_config["n"],
            "get_run_config": lambda store, n: store.get_run_config(f"run {n}")["n"],
        },
    ),
    "a deleted run": Pair(
        make_and_delete,
        {
            "list_run_ids": gone(lambda store, run_id: run_id in store.list_run_ids()),
            "get_run_logs": gone(lambda store, run_id: store.get_run_logs([run_id])),
            "get_run_log_by_id": gone(lambda store, run_id: store.get_run_log_by_id(run_id)),
            "get_run_config": gone(lambda store, run_id: store.get_run_config(run_id) or [True]),
        },
    ),
}
ROUNDS: Final = [(pair, call) for pair, one in PAIRS.items() for call in one.reads]


def prepare(store: ChunkedRunLogStore) -> None:
    store.create_run_log("r", tag="T0", status="S0", run_config={"c": 0})
    store.set_parameters("r", {"p": 0})
    store.add_step_log(StepLog(name="a", internal_name="a", message="M0"), "r")
    store.add_step_log(StepLog(name="m", internal_name="m", step_type="map"), "r")
    store.add_branch_log(store.create_branch_log("m.x", {"p": 0}), "r")
    store.add_job_log("r", JobLog(status="S0", message="M0"))
    PAIRS["a branch"].write(store, 0)
    store.create_run_log("passing 1")


def serve(store: ChunkedRunLogStore, asked: Connection, answers: Connection) -> None:
    """The other process: writes what it is asked to, and says when that was acknowledged."""
    knowing = again(store)
    while (order := asked.recv()) is not None:
        pair, n = order
        PAIRS[pair].write(knowing, n)
        answers.send(order)


@contextmanager
def other_process(store: ChunkedRunLogStore) -> Iterator[Callable[[str, int], None]]:
    """Makes a write there; it was acknowledged when this returns."""
    asked, ask = Pipe(duplex=False)
    answer, answers = Pipe(duplex=False)
    process, pipe = start(serve, (store, asked, answers))

    def write(pair: str, n: int) -> None:
        ask.send((pair, n))
        assert answer.poll(60), f"no answer to {pair} {n}"
        assert answer.recv() == (pair, n)

    try:
        yield write
        ask.send(None)
        finish([(process, pipe)])
    finally:
        if process.is_alive():
            process.kill()
        process.join()
        for end in (asked, ask, answer, answers):
            end.close()


def look(read: Read, store: ChunkedRunLogStore, n: int) -> Any:
    try:
        return read(store, n)
    except NotFoundError:
        return None


def stale_reads(
    store: ChunkedRunLogStore, count: int, write: Callable[[str, int], None], breaking: Callable[[], None] | None = None
) -> list[str]:
    """So many writes of another process, and each that a read did not show at once."""
    if breaking:
        breaking()
    knowing = again(store)
    numbers = dict.fromkeys(PAIRS, 0)
    stale = []
    for index in range(count):
        pair, call = ROUNDS[index % len(ROUNDS)]
        numbers[pair] += 1
        n, read = numbers[pair], PAIRS[pair].reads[call]
        assert look(read, knowing, n) != n, f"{call} shows {pair} {n} before it was written"
        write(pair, n)
        for name, reader in (("one that knew older versions", knowing), ("one that knew nothing", again(store))):
            found = look(read, reader, n)
            if found != n:
                stale.append(f"{pair} {n}: {call} of {name} shows {found}")
    return stale


@pytest.mark.parametrize("name", ["local", "minio"])
def test_what_another_process_was_acknowledged_is_in_every_read_that_begins_after(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    store = ChunkedRunLogStore(place(name, request, tmp_path))
    prepare(store)
    count = between(400, 2_000) if name == "local" else between(100, 1_000)
    with other_process(store) as write:
        assert stale_reads(store, count, write) == []
    tally(f"foreign writes read, {'local disk' if name == 'local' else name}", count)


@pytest.mark.parametrize("breaking", [sabotage.stale_cache, sabotage.stale_listing])
def test_a_reader_with_a_cache_is_noticed(
    breaking: Callable[[], None], request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store = ChunkedRunLogStore(place("local", request, tmp_path))
    prepare(store)
    with other_process(store) as write:
        (stale,) = finish([start(stale_reads, (store, len(ROUNDS), write, breaking))])
    assert len(stale) >= 2
    assert all("one that knew older versions" in one for one in stale)


def test_every_call_that_reads_is_tried() -> None:
    public = {name for name, _ in inspect.getmembers(ChunkedRunLogStore, callable) if not name.startswith("_")}
    reading = {name for name in public if name.startswith(("get_", "read_", "list_"))} - {"get_summary"}
    assert {call.split()[0] for _, call in ROUNDS} == reading
