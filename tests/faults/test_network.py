"""Every operation under every fault of the network, at each of its requests: right, or a fitting error and then right."""

from __future__ import annotations

import json
import multiprocessing
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

import pytest

import places
from chunkstore import (
    BackendUnavailableError,
    ChunkedRunLogStore,
    ChunkStoreError,
    RunLogExistsError,
    RunLogNotFoundError,
    StepLog,
    WriteStateUnknownError,
    packs,
)
from chunkstore.backends import FOUND, Backend
from chunkstore.backends.probe import remember
from chunkstore.chunks import Change
from chunkstore.keys import PACK, header, stays_loose
from chunkstore.store import StoreSettings
from chunkstore.values import Content, decode, encode
from fault_server import FAULTS, FOREVER, FaultServer, Rule, Seen, fault_server
from places import again, at_once, between, in_bucket, memory
from rigs import Tally
from servers import S3Server
from tcp_faults import TcpFaults

pytest.importorskip("s3fs")

pytestmark = pytest.mark.usefixtures("engine")

PREFIX: Final = "some/runs/"
SECONDS: Final = 2.0
"""The deadline of what waits for it; `test_deadlines` holds it to that. Here it must only end."""

WORKERS: Final = 16
WRITING: Final = {"PUT", "DELETE"}
READING: Final = {"GET", "LIST", "HEAD"}
ONLY: Final = {
    "409": {"PUT"},
    "412_false": {"PUT"},
    "412_echo": {"PUT"},
    "412_echo_bare": {"PUT"},
    "412_echo_empty": {"PUT"},
    "zombie_cut": {"PUT"},
    "zombie_hang": {"PUT"},
    "bad_xml": {"LIST"},
    "cut_body": READING,
}
"""Faults that only these verbs can meet."""

FALSEHOODS: Final = {"empty_200", "page_200", "page_200_false"}
"""No fault of the network: a gateway says that all is well. They have tests of their own."""

HANGS: Final = {"hang", "hang_after", "zombie_hang"}


@pytest.fixture(scope="module")
def faults() -> Iterator[FaultServer]:
    with fault_server() as server:
        yield server


@pytest.fixture(autouse=True)
def calm(faults: FaultServer) -> Iterator[None]:
    yield
    faults.calm()
    faults.quirks()
    faults.release()
    faults.requests(forget=True)


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses between tries are short: the matrix is about what is tried, not how long one waits."""
    monkeypatch.setattr("chunkstore.backends.s3server.PAUSES", (0.001, 0.002, 0.004))


def backend_on(server: S3Server, folder: Path, **settings: Any) -> Any:
    """A backend on a new bucket whose probe is already answered: its requests are not the operation's."""
    backend: Any = in_bucket(server, folder, **settings)
    remember(backend.settings.root, "all")
    return backend


# The operations.

Store = ChunkedRunLogStore
Act = Callable[[Store, Any], Any]


@dataclass(frozen=True, slots=True)
class Operation:
    """What is done, on a store that `before` has made ready; `again` are the errors that a repetition may end with."""

    act: Act
    before: Callable[[Store], Any] = lambda _store: None
    again: tuple[type[ChunkStoreError], ...] = ()
    writes: bool = True
    elsewhere: bool = False
    """Repeat it as a process would that was started again."""


def known_step(store: Store) -> StepLog:
    return store.get_step_log("known", "r")


def with_another_attempt(store: Store) -> StepLog:
    step = known_step(store)
    step.attempts.append(store.create_attempt_log())
    step.status = "SUCCESS"
    return step


def nothing(_store: Store) -> None:
    """Not ready at all."""


def whole_run(store: Store) -> Any:
    run_log = store.get_run_log_by_id("r")
    run_log.tag = "put back"
    run_log.steps["known"].message = "changed"
    run_log.steps["more"] = store.create_step_log("more", "more")
    return run_log


def run_that_ended(store: Store) -> None:
    store.update_run_log_status("r", "SUCCESS")


def packed_step(store: Store) -> StepLog:
    run_that_ended(store)
    store.compact("r")
    return with_another_attempt(store)


def _nothing(_report: Any) -> None:
    """What it says of bytes is never the same twice."""


def job(store: Store) -> Any:
    job = store.create_job_log()
    job.status = "SUCCESS"
    return job


def read(act: Act, before: Callable[[Store], Any] = nothing) -> Operation:
    return Operation(act, before, writes=False)


OPERATIONS: Final[Mapping[str, Operation]] = {
    "create a run": Operation(lambda store, _: store.create_run_log("new", tag="mine"), again=(RunLogExistsError,)),
    "add a new step": Operation(lambda store, _: store.add_step_log(store.create_step_log("new", "new"), "r")),
    "add a known step": Operation(lambda store, step: store.add_step_log(step, "r"), with_another_attempt),
    "add a step blindly": Operation(
        lambda store, step: store.add_step_log(step, "r"),
        lambda _: StepLog(name="known", internal_name="known", status="FAIL"),
        elsewhere=True,
    ),
    "set new parameters": Operation(lambda store, _: store.set_parameters("r", {f"n{n}": n for n in range(4)})),
    "set known parameters": Operation(
        lambda store, known: store.set_parameters("r", {**known, "a": 10, "b": 20, "c": 3}),
        lambda store: store.get_parameters("r"),
    ),
    "set a branch's parameters": Operation(lambda store, _: store.set_parameters("r", {"x": 1, "y": 2}, "map.eu")),
    "update the status": Operation(
        lambda store, _: store.update_run_log_status("r", "SUCCESS"), lambda store: store.get_run_config("r")
    ),
    "update the status blindly": Operation(lambda store, _: store.update_run_log_status("r", "FAIL")),
    "set the configuration": Operation(lambda store, _: store.set_run_config("r", {"b": {"c": 1}})),
    "add a branch": Operation(lambda store, _: store.add_branch_log(store.create_branch_log("map.us"), "r")),
    "add a job": Operation(lambda store, job: store.add_job_log("r", job), job),
    "put a whole run": Operation(lambda store, run_log: store.put_run_log(run_log), whole_run),
    "delete a run": Operation(lambda store, _: store.delete_run_log("r"), again=(RunLogNotFoundError,)),
    "pack a run": Operation(lambda store, _: _nothing(store.compact("r")), run_that_ended),
    "change a packed step": Operation(lambda store, step: store.add_step_log(step, "r"), packed_step),
    "read a packed run": Operation(
        lambda store, _: dumped(again(store).get_run_log_by_id("r")), packed_step, writes=False
    ),
    "get a packed step": Operation(
        lambda store, _: dumped(again(store).get_step_log("known", "r")), packed_step, writes=False
    ),
    "get parameters": read(lambda store, _: dict(store.get_parameters("r"))),
    "get a step": read(lambda store, _: dumped(store.get_step_log("known", "r"))),
    "get a job": read(lambda store, _: dumped(store.get_job_log("r"))),
    "read in full": read(lambda store, _: dumped(store.get_run_log_by_id("r"))),
    "read again": read(lambda store, _: dumped(store.get_run_log_by_id("r")), known_step),
    "read without steps": read(lambda store, _: dumped(store.get_run_log_by_id("r", full=False))),
    "list the runs": read(lambda store, _: store.list_run_ids()),
    "get run logs": read(lambda store, _: [dumped(run_log) for run_log in store.get_run_logs()]),
}


def dumped(model: Any) -> Any:
    """As JSON, without the time that every store makes anew."""
    tree = model.model_dump(mode="json")
    tree.pop("created_at", None)
    return tree


def baseline() -> dict[str, bytes]:
    """What stands there before each operation: a run with one of everything, as bytes by key."""
    store = Store(memory())
    store.create_run_log("r", tag="first")
    step = store.create_step_log("known", "known")
    step.attempts.append(store.create_attempt_log())
    step.attempts[0].message = "the first"
    store.add_step_log(step, "r")
    store.add_step_log(store.create_step_log("map", "map"), "r")
    store.add_branch_log(store.create_branch_log("map.eu"), "r")
    store.add_step_log(store.create_step_log("train", "map.eu.train"), "r")
    store.set_parameters("r", {"a": 1, "b": 2, "c": 3})
    store.set_run_config("r", {"a": 1})
    store.add_job_log("r", store.create_job_log())
    return everything(store.backend)


def everything(backend: Backend) -> dict[str, bytes]:
    return {
        entry.key: backend.get(entry.key).data for folder in backend.folders() for entry in backend.list(f"{folder}/")
    }


def bodies(objects: Mapping[str, bytes]) -> dict[str, Any]:
    """What the chunks say, loose or packed, without our own facts: those name sessions and times."""
    return {
        key: {name: value for name, value in json.loads(data).items() if name != "_chunkstore"}
        for key, data in {**packed_in(objects), **objects}.items()
        if not key.endswith(PACK)
    }


def packed_in(objects: Mapping[str, bytes]) -> dict[str, bytes]:
    """What packs show where it does not stand loose."""
    whole = [packs.decode(data, key) for key, data in objects.items() if key.endswith(PACK)]
    return {key: pack.data_of(key) for pack in whole for key in pack.members if not stays_loose(key)}


@dataclass(frozen=True, slots=True)
class Expected:
    """What an operation leaves and returns where nothing fails, and how many requests it takes on S3."""

    after: dict[str, Any]
    result: Any
    requests: tuple[str, ...]


class Rig:
    """A bucket of its own, filled anew for each try."""

    def __init__(self, faults: FaultServer, folder: Path) -> None:
        self.faults = faults
        self.backends = {
            hangs: backend_on(faults.s3, folder, deadline=seconds / 2, max_connections=8)
            for hangs, seconds in ((False, 20.0), (True, SECONDS))
        }
        self.before = baseline()
        for backend in self.backends.values():
            backend._server._run(backend._server.engine.opened())
            list(backend.folders())  # the first request takes longer than the short deadline, where many begin

    def ready(self, *, hangs: bool = False) -> tuple[Store, str]:
        """A store that knows nothing, on the baseline; and its bucket."""
        backend = self.backends[hangs]
        bucket = backend.settings.bucket
        self.faults.calm(bucket)
        self.faults.fill(bucket, {PREFIX + key: data for key, data in self.before.items()})
        return Store(backend, settings=StoreSettings(timeout_seconds=SECONDS if hangs else 20.0)), bucket

    def found(self, bucket: str) -> dict[str, bytes]:
        return {key.removeprefix(PREFIX): data for key, data in self.faults.objects(bucket).items()}

    def expected(self, operation: Operation) -> Expected:
        """By the same operation undisturbed, in memory and here: they must agree."""
        plain = memory()
        for key, data in self.before.items():
            plain.put(key, data, FOUND)
        store = Store(plain)
        result = plainly(operation.act(store, operation.before(store)))
        after = bodies(everything(plain))
        here, bucket = self.ready()
        about = operation.before(here)
        self.faults.requests(bucket, forget=True)
        assert plainly(operation.act(here, about)) == result
        assert bodies(self.found(bucket)) == after
        return Expected(after, result, tuple(seen.verb for seen in self.faults.requests(bucket)))

    def close(self) -> None:
        for backend in self.backends.values():
            backend.close()


def plainly(result: Any) -> Any:
    return dumped(result) if hasattr(result, "model_dump") else result


# The matrix.


@dataclass(frozen=True, slots=True)
class Case:
    """One operation, one fault, from which of its requests on, and how many of them."""

    operation: str
    fault: str
    position: int
    times: int

    def __str__(self) -> str:
        often = "for ever" if self.times == FOREVER else f"{self.times} times"
        return f"{self.operation}: {self.fault} at request {self.position}, {often}"


def cases(expected: Mapping[str, Expected]) -> list[Case]:
    """The whole matrix. Positions go one beyond the undisturbed requests: to the read-back of the last."""
    found = []
    for name, about in expected.items():
        for fault in sorted(FAULTS.keys() - FALSEHOODS):
            fitting = [verb for verb in [*about.requests, "GET"] if verb in ONLY.get(fault, READING | WRITING)]
            for position in range(len(fitting)):
                found += [Case(name, fault, position, times) for times in (1, 2, 3, FOREVER)]
    # A server that refuses for ever what it should do is no network that fails.
    return [case for case in found if (case.fault, case.times) != ("412_false", FOREVER)]


def sampled(whole: list[Case], number: int) -> list[Case]:
    """So many, with every operation and every fault among them, and then as many pairs of the two as there is room for."""
    shuffled = random.Random(20261121).sample(whole, len(whole))
    first: dict[Any, Case] = {}
    for about in (lambda case: case.fault, lambda case: case.operation, lambda case: (case.operation, case.fault)):
        for case in shuffled:
            first.setdefault(about(case), case)
    return list(dict.fromkeys([*first.values(), *shuffled]))[:number]


def slow(case: Case) -> bool:
    """Does it wait for a deadline?"""
    return case.fault in HANGS or case.times == FOREVER


def rules(case: Case) -> list[Rule]:
    seconds = 0.05 if case.fault in {"slow", "delay"} else 0.0
    verbs = " ".join(ONLY.get(case.fault, READING | WRITING))
    return [Rule(case.fault, verb=verbs, skip=case.position, times=case.times, seconds=seconds)]


class Verdict:
    """What one case came to; every complaint names the case and the requests."""

    def __init__(self, rig: Rig, case: Case, expected: Expected) -> None:
        self.rig = rig
        self.case = case
        self.operation = OPERATIONS[case.operation]
        self.expected = expected
        self.complaints: list[str] = []
        self.failed = False

    def run(self) -> Verdict:
        case, rig = self.case, self.rig
        store, bucket = rig.ready(hangs=slow(case))
        about = self.operation.before(store)
        rig.faults.requests(bucket, forget=True)
        rig.faults.plan(rules(case), within=bucket)
        error = self.attempt(store, about, bucket)
        rig.faults.calm(bucket)
        zombie_first = (case.position + case.times) % 2 == 0
        if zombie_first:
            rig.faults.release(bucket)
        if error is not None:
            self.repeat(store, about, bucket)
        rig.faults.release(bucket)
        self.check(bodies(rig.found(bucket)) == self.expected.after, "in the end", bucket)
        return self

    def attempt(self, store: Store, about: Any, bucket: str) -> Exception | None:
        began = time.monotonic()
        try:
            result = plainly(self.operation.act(store, about))
        except Exception as error:  # noqa: BLE001 - whatever comes is judged
            self.failed = True
            self.judge(error, bucket)
            self.in_time(began, bucket)
            return error
        self.in_time(began, bucket)
        self.check(result == self.expected.result, f"returned {result}", bucket)
        self.check(bodies(self.rig.found(bucket)) == self.expected.after, "after success", bucket)
        return None

    def in_time(self, began: float, bucket: str) -> None:
        took = time.monotonic() - began
        limit = (3 * SECONDS if slow(self.case) else 20.0) + 1
        self.check(took <= limit, f"took {took:.1f} s, {limit:g} s are the most", bucket)

    def judge(self, error: Exception, bucket: str) -> None:
        """The errors that fit: a transient failure of the place, or nobody's knowledge of a write."""
        case = self.case
        said = f"{type(error).__name__}: {error}"
        self.check(isinstance(error, BackendUnavailableError) and error.transient, f"raised {said}", bucket)
        self.check(case.times >= 3 or case.fault in HANGS, f"was not tried again: {said}", bucket)
        if isinstance(error, WriteStateUnknownError):
            self.check(self.operation.writes, f"only reads, and raised {said}", bucket)
            refused = {
                (seen.verb, seen.key) for seen in self.rig.faults.requests(bucket) if seen.fault or seen.status == 412
            }
            key = PREFIX + error.key
            self.check(("PUT", key) in refused, f"no write of {key} failed, and raised {said}", bucket)
        before, now = bodies(self.rig.before), bodies(self.rig.found(bucket))
        for key in before.keys() | now.keys() | self.expected.after.keys():
            legal = [before.get(key), self.expected.after.get(key)]
            self.check(now.get(key) in legal, f"{key} is {now.get(key)} after {said}", bucket)

    def repeat(self, store: Store, about: Any, bucket: str) -> None:
        """The same call once more: it does no harm, and brings what the first did not."""
        store = places.again(store) if self.operation.elsewhere else store
        try:
            result = plainly(self.operation.act(store, about))
        except self.operation.again as error:
            self.check(self.landed(bucket), f"repeated, it did not happen and raised {error!r}", bucket)
        except Exception as error:  # noqa: BLE001 - whatever comes is judged
            self.check(False, f"repeated, raised {error!r}", bucket)
        else:
            self.check(result == self.expected.result, f"repeated, returned {result}", bucket)

    def landed(self, bucket: str) -> bool:
        return bodies(self.rig.found(bucket)) == self.expected.after

    def check(self, holds: bool, complaint: str, bucket: str) -> None:
        if not holds:
            requests = [brief(seen) for seen in self.rig.faults.requests(bucket)]
            self.complaints.append(f"{self.case}: {complaint}\n      {requests}")


def brief(seen: Seen) -> str:
    fault = f" {seen.fault}" if seen.fault else ""
    return f"{seen.verb} {seen.key.removeprefix(PREFIX)} {seen.status}{fault}"


@pytest.mark.usefixtures("quick")
def test_every_operation_is_right_or_says_so_whatever_happens_to_any_of_its_requests(
    faults: FaultServer, tmp_path: Path, tally: Tally
) -> None:
    rigs = [Rig(faults, tmp_path) for _ in range(WORKERS)]
    expected = {name: rigs[0].expected(operation) for name, operation in OPERATIONS.items()}
    whole = cases(expected)
    chosen = sampled(whole, between(240, len(whole)))
    assert {case.operation for case in chosen} == OPERATIONS.keys()
    assert {case.fault for case in chosen} == FAULTS.keys() - FALSEHOODS
    mine = threading.local()

    def one(case: Case) -> Verdict:
        if not hasattr(mine, "rig"):
            mine.rig = rigs.pop()
        return Verdict(mine.rig, case, expected[case.operation]).run()

    # The waiting ones first, so that no worker is left with all of them.
    ordered = sorted(chosen, key=slow, reverse=True)
    left = [*rigs]
    with ThreadPoolExecutor(WORKERS) as pool:
        verdicts = list(pool.map(one, ordered))
    for rig in left:
        rig.close()
    complaints = [complaint for verdict in verdicts for complaint in verdict.complaints]
    assert not complaints, f"{len(complaints)} of {len(verdicts)}:\n" + "\n".join(complaints[:40])
    assert sum(verdict.failed for verdict in verdicts) > len(verdicts) / 10
    tally("network faults: operation x fault x position", len(verdicts))


def test_a_repeated_call_erases_nothing_that_others_wrote(faults: FaultServer, tmp_path: Path) -> None:
    rig = Rig(faults, tmp_path)
    store, bucket = rig.ready(hangs=True)
    step = StepLog(name="known", internal_name="known", status="FAIL")
    # The create finds their step, the update on top of it is lost, and so is the answer to whether it was.
    faults.plan([Rule("500", verb="PUT", skip=1), Rule("500", verb="GET", skip=2, times=4)], within=bucket)
    with pytest.raises(WriteStateUnknownError):
        store.add_step_log(step, "r")
    faults.calm(bucket)
    store.add_step_log(step, "r")
    found = places.again(store).get_step_log("known", "r")
    assert (found.status, [attempt.message for attempt in found.attempts]) == ("FAIL", ["the first"])
    rig.close()


# Writers at once.

PUT_FAULTS: Final = sorted(
    fault for fault in FAULTS if fault not in FALSEHOODS | HANGS | {"cut_body", "bad_xml", "412_false"}
)


def increment(content: Content) -> Content:
    fields = decode(content)
    count = fields.get("count", 0)
    assert isinstance(count, int)
    return encode({**fields, "count": count + 1})


def count_up(server: S3Server, bucket: str, folder: Path, turns: int) -> tuple[int, int]:
    """How many increments were acknowledged, and of how many nobody knows."""
    backend = backend_on(server, folder, bucket=bucket, deadline=20.0, max_connections=4)
    store = Store(backend)
    done = unknown = 0
    with closing(backend):
        for _ in range(turns):
            try:
                store._chunks.change(Change(header("r"), increment, always=True))
                done += 1
            except WriteStateUnknownError:
                unknown += 1
    return done, unknown


def counted(faults: FaultServer, bucket: str) -> int:
    count: int = json.loads(faults.objects(bucket)[f"{PREFIX}r/run.json"])["count"]
    return count


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", range(between(2, 20)))
def test_increments_by_eight_processes_are_exact_when_nearly_every_write_fails(
    faults: FaultServer, tmp_path: Path, tally: Tally, seed: int
) -> None:
    backend = backend_on(faults.s3, tmp_path)
    bucket = backend.settings.bucket
    Store(backend).create_run_log("r")
    backend.close()
    turns = between(8, 25)
    faults.requests(forget=True)
    faults.random(seed, 0.6, PUT_FAULTS, seconds=0.05)
    results = at_once(count_up, [(faults.s3, bucket, tmp_path, turns)] * 8)
    faults.calm()
    faults.release()
    # Every read-back was answered, so nobody was left in doubt.
    assert results == [(turns, 0)] * 8
    assert counted(faults, bucket) == 8 * turns
    struck = [seen.fault for seen in faults.requests(bucket) if seen.fault in FAULTS]
    assert len(struck) > 4 * turns
    tally("increments under network faults", 8 * turns)
    tally("network faults among writers at once", len(struck))


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("seed", range(between(1, 10)))
def test_increments_are_within_bounds_when_reads_fail_too(
    faults: FaultServer, tmp_path: Path, tally: Tally, seed: int
) -> None:
    backend = backend_on(faults.s3, tmp_path)
    Store(backend).create_run_log("r")
    turns = between(8, 25)

    def count_up_or_fail(store: Store) -> tuple[int, int]:
        done = unknown = 0
        for _ in range(turns):
            try:
                store._chunks.change(Change(header("r"), increment, always=True))
                done += 1
            except WriteStateUnknownError:
                unknown += 1
            except BackendUnavailableError:
                pass  # a read that failed before anything was sent
        return done, unknown

    faults.random(seed, 0.75, ["lost_reply", "500", "500_after", "504", "dropped"], verbs=["PUT", "GET"])
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(count_up_or_fail, [Store(backend) for _ in range(8)]))
    faults.calm()
    backend.close()
    done, unknown = (sum(column) for column in zip(*results, strict=True))
    assert done <= counted(faults, backend.settings.bucket) <= done + unknown
    assert done > turns
    assert unknown > 0
    tally("increments under network faults", done + unknown)


def append(server: S3Server, bucket: str, folder: Path, who: int, turns: int) -> list[str]:
    """The attempts that one process appended to a step that all of them write."""
    backend = backend_on(server, folder, bucket=bucket, deadline=20.0, max_connections=4)
    store = Store(backend)
    messages = [f"{who} {turn}" for turn in range(turns)]
    with closing(backend):
        step = store.get_step_log("known", "r")
        for message in messages:
            step.attempts.append(store.create_attempt_log())
            step.attempts[-1].message = message
            store.add_step_log(step, "r")
    return messages


@pytest.mark.usefixtures("quick")
def test_attempts_that_many_append_are_there_once_each(faults: FaultServer, tmp_path: Path, tally: Tally) -> None:
    rig = Rig(faults, tmp_path)
    _, bucket = rig.ready()
    turns = between(5, 25)
    faults.random(7, 0.6, PUT_FAULTS, seconds=0.05)
    appended = at_once(append, [(faults.s3, bucket, tmp_path, who, turns) for who in range(4)])
    faults.calm()
    attempts = json.loads(faults.objects(bucket)[f"{PREFIX}r/step.known.json"])["attempts"]
    assert sorted(attempt["message"] for attempt in attempts) == sorted(["the first", *chain(*appended)])
    tally("attempts appended under network faults", 4 * turns)
    rig.close()


def race(server: S3Server, bucket: str, folder: Path, who: int, ids: int, gate: Any) -> list[str]:
    """The runs that one process created."""
    backend = backend_on(server, folder, bucket=bucket, deadline=20.0, max_connections=4)
    store = Store(backend)
    won = []
    with closing(backend):
        list(backend.folders())
        for number in range(ids):
            gate.wait(60)
            try:
                store.create_run_log(f"run {number}", tag=f"made by {who}")
                won.append(f"run {number}")
            except RunLogExistsError:
                continue
    return won


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("racers", [2, 5])
def test_of_many_that_create_a_run_under_faults_exactly_one_wins_and_it_is_its_run(
    faults: FaultServer, tmp_path: Path, tally: Tally, racers: int
) -> None:
    bucket = faults.s3.new_bucket()
    ids = between(25, 300)
    gate = multiprocessing.get_context("fork").Barrier(racers)
    faults.random(racers, 0.5, PUT_FAULTS, seconds=0.05)
    won = at_once(race, [(faults.s3, bucket, tmp_path, who, ids, gate) for who in range(racers)])
    faults.calm()
    faults.release()
    assert sorted(chain(*won)) == sorted(f"run {number}" for number in range(ids))
    objects = faults.objects(bucket)
    for who, theirs in enumerate(won):
        for run_id in theirs:
            assert json.loads(objects[f"{PREFIX}{run_id}/run.json"])["tag"] == f"made by {who}"
    tally("creates raced under network faults", racers * ids)


# Zombies: a write whose connection died, and which is done after its repetition.


WRITE_PATHS: Final[Mapping[str, Callable[[Store, Any], Any]]] = {
    "header": lambda store, value: store.set_run_config("r", {"a": value}),
    "status": lambda store, value: store.update_run_log_status("r", value),
    "step": lambda store, value: store.add_step_log(changed(store.get_step_log("known", "r"), value), "r"),
    "branch": lambda store, value: store.add_branch_log(changed(store.get_branch_log("map.eu", "r"), value), "r"),
    "job": lambda store, value: store.add_job_log("r", changed(store.get_job_log("r"), value)),
    "parameter": lambda store, value: store.set_parameters("r", {"a": value}),
    "new step": lambda store, value: store.add_step_log(StepLog(name="new", internal_name="new", status=value), "r"),
    "new parameter": lambda store, value: store.set_parameters("r", {"new": value}),
}


def changed(model: Any, status: str) -> Any:
    model.status = status
    return model


@pytest.mark.parametrize("fault", ["zombie_cut", "zombie_hang"])
def test_a_write_that_comes_back_late_undoes_nothing_that_was_acknowledged_after_it(
    faults: FaultServer, tmp_path: Path, tally: Tally, fault: str
) -> None:
    rigs = [Rig(faults, tmp_path) for _ in WRITE_PATHS]

    def one(rig: Rig, path: str) -> tuple[str, list[int], bool]:
        store, bucket = rig.ready(hangs=True)
        # The client sends a dropped request again by itself: both of them come back.
        faults.plan([Rule(fault, verb="PUT", times=2 if fault == "zombie_cut" else 1)], within=bucket)
        WRITE_PATHS[path](store, "FIRST")
        faults.calm(bucket)
        WRITE_PATHS[path](places.again(store), "SECOND")
        acknowledged = rig.found(bucket)
        assert "SECOND" in str(bodies(acknowledged)), path
        return path, faults.release(bucket), rig.found(bucket) == acknowledged

    with ThreadPoolExecutor(len(rigs)) as pool:
        outcomes = list(pool.map(one, rigs, WRITE_PATHS))
    late = [412] * (2 if fault == "zombie_cut" else 1)
    assert outcomes == [(path, late, True) for path in WRITE_PATHS]
    tally("writes that came back late", len(late) * len(outcomes))
    for rig in rigs:
        rig.close()


def test_a_create_that_comes_back_after_the_run_was_deleted_brings_an_empty_run_that_can_be_deleted(
    faults: FaultServer, tmp_path: Path
) -> None:
    """The limit of an object store, where nothing is left of a deleted run that could refuse."""
    rig = Rig(faults, tmp_path)
    store, bucket = rig.ready()
    faults.plan([Rule("zombie_cut", verb="PUT", times=1)], within=bucket)
    store.create_run_log("new", tag="mine")
    store.delete_run_log("new")
    assert faults.release(bucket) == [200]
    late = places.again(store)
    assert late.get_run_log_by_id("new").steps == {}
    late.delete_run_log("new")
    assert late.list_run_ids() == ["r"]
    rig.close()


# Real servers behind a wire that is cut at any byte.


def life(run_id: str) -> list[Act]:
    """A run from its creation to its end, call by call."""
    attempt = {"message": "once"}

    def with_attempt(store: Store, _: Any) -> Any:
        step = store.get_step_log("a", run_id)
        if not step.attempts:
            step.attempts.append(store.create_attempt_log().model_copy(update=attempt))
        store.add_step_log(step, run_id)

    return [
        lambda store, _: store.create_run_log(run_id, tag="mine"),
        lambda store, _: store.add_step_log(store.create_step_log("a", "a"), run_id),
        with_attempt,
        lambda store, _: store.set_parameters(run_id, {"p": 1, "q": [1, 2]}),
        lambda store, _: store.get_parameters(run_id),
        lambda store, _: store.add_branch_log(store.create_branch_log("a.b"), run_id),
        lambda store, _: store.get_run_log_by_id(run_id),
        lambda store, _: store.update_run_log_status(run_id, "SUCCESS"),
    ]


def lived(store: Store, run_id: str) -> int:
    """Lives it, and repeats what failed; how many errors there were, which must fit."""
    errors: list[tuple[int, BackendUnavailableError]] = []
    for number, act in enumerate(life(run_id)):
        try:
            act(store, None)
        except BackendUnavailableError as error:
            errors.append((number, error))
            try:
                act(store, None)
            except RunLogExistsError:
                if number:
                    raise
    assert all(error.transient for _, error in errors), errors
    return len(errors)


def cuts(number: int, ways: Sequence[str]) -> list[dict[str, Any]]:
    """Cuts at random bytes of what one life sends and receives."""
    dice = random.Random(20261121)
    ends = {"request": 9_000, "reply": 7_000}
    return [
        {
            "way": way,
            "after": dice.randrange(ends[way]),
            "reset": dice.random() < 0.5,
            "times": dice.choice([1, 1, 2, 9]),
        }
        for way in dice.choices(ways, k=number)
    ]


@pytest.mark.usefixtures("quick")
# moto takes half a body for all of it, where the connection ends within it.
@pytest.mark.parametrize(
    ("name", "ways"), [("minio", ["request", "reply"]), ("moto", ["reply"])], ids=["minio", "moto"]
)
def test_a_wire_that_is_cut_at_any_byte_before_a_real_server_loses_and_doubles_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, tally: Tally, name: str, ways: list[str]
) -> None:
    server: S3Server = request.getfixturevalue(f"{name}_server")
    plain = Store(memory())
    lived(plain, "r")
    expected = bodies(everything(plain.backend))
    with TcpFaults(server.endpoint_url) as tcp:
        direct = backend_on(server, tmp_path)
        wired = backend_on(server.through(tcp.url), tmp_path, bucket=direct.settings.bucket, deadline=5.0)
        errors = 0
        lives = between(20 if name == "minio" else 3, 200)
        for number, cut in enumerate(cuts(lives, ways)):
            run_id = f"run-{number}"
            tcp.cut(**cut)
            errors += lived(Store(wired), run_id)
            tcp.calm()
            found = {entry.key: direct.get(entry.key).data for entry in direct.list(f"{run_id}/")}
            got = {key.replace(run_id, "r"): body for key, body in bodies(found).items()}
            assert json.loads(json.dumps(got).replace(run_id, "r")) == expected, cut
        direct.close()
        wired.close()
        assert tcp.cuts >= lives / 3
        tally(f"connections cut at a random byte, {name}", tcp.cuts)


# A gateway that says 200 and means nothing by it.


LISTING: Final = [
    "list the runs",
    "get run logs",
    "get parameters",
    "read in full",
    "read without steps",
    "delete a run",
]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("fault", ["empty_200", "page_200_false"])
@pytest.mark.parametrize("name", LISTING)
def test_a_200_that_is_no_listing_is_not_an_empty_one(
    faults: FaultServer, tmp_path: Path, name: str, fault: str
) -> None:
    operation = OPERATIONS[name]
    rig = Rig(faults, tmp_path)
    with closing(rig):
        expected = rig.expected(operation)
        store, bucket = rig.ready()
        about = operation.before(store)
        faults.plan([Rule(fault, verb="LIST")], within=bucket)
        try:
            result = plainly(operation.act(store, about))
        except ChunkStoreError as error:
            result = error
        assert result == expected.result
        assert bodies(rig.found(bucket)) == expected.after


@pytest.mark.usefixtures("quick")
def test_a_200_without_a_version_is_no_acknowledged_write(faults: FaultServer, tmp_path: Path) -> None:
    rig = Rig(faults, tmp_path)
    with closing(rig):
        store, bucket = rig.ready()
        faults.plan([Rule("page_200_false", verb="PUT")], within=bucket)
        store.set_run_config("r", {"mine": 1})
        assert places.again(store).get_run_config("r") == {"a": 1, "mine": 1}


def test_a_write_without_a_version_does_not_take_another_writers_for_its_own(
    faults: FaultServer, tmp_path: Path
) -> None:
    rig = Rig(faults, tmp_path)
    with closing(rig):
        store, bucket = rig.ready()
        # Theirs lands between my write, whose reply names no version, and my look at what version it has.
        store.get_run_config("r")
        faults.plan([Rule("empty_200", verb="PUT"), Rule("delay", verb="HEAD GET", seconds=1.0)], within=bucket)
        mine = threading.Thread(target=store.set_run_config, args=("r", {"mine": 1}))
        mine.start()
        while not any(seen.fault == "delay" for seen in faults.requests(bucket)):
            assert mine.is_alive()
        places.again(store).set_run_config("r", {"theirs": 1})
        mine.join()
        store.set_run_config("r", {"more": 1})
        assert places.again(store).get_run_config("r") == {"a": 1, "mine": 1, "theirs": 1, "more": 1}


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("name", ["get a step", "read in full", "get parameters", "add a known step"])
def test_a_200_that_is_no_object_is_not_a_damaged_one(faults: FaultServer, tmp_path: Path, name: str) -> None:
    operation = OPERATIONS[name]
    rig = Rig(faults, tmp_path)
    with closing(rig):
        expected = rig.expected(operation)
        store, bucket = rig.ready()
        about = operation.before(store)
        # The update of the step fails in passing, so that it is read back.
        faults.plan([Rule("500", verb="PUT"), Rule("page_200", verb="GET")], within=bucket)
        assert plainly(operation.act(store, about)) == expected.result
        assert bodies(rig.found(bucket)) == expected.after
