"""What many processes do to one run at the same time, some of them killed, written down call by call as histories of registers.

A register is one field of one chunk: writers of a field that others wrote too are the last or not, but never half. Each process
writes its own file, one line at a time, which outlives a kill. What the histories prove is not here.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection, Pipe
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final, NamedTuple

from chunkstore import BranchLog, ChunkedRunLogStore, JobLog, RunLog, RunLogExistsError, StepLog, keys
from chunkstore.backends import ANY, CREATE, Backend, Condition, unchanged
from chunkstore.chunks import Change
from chunkstore.errors import ConflictError, FormatError, ObjectNotFoundError
from chunkstore.values import Content, decode, encode
from linearizable import NEVER, Kind, Operation, Violation, violation
from places import again, finish, start

RUN: Final = "r"
FIRST: Final = "0"
"""What stands in every register at the start."""

REGISTERS: Final = ("step", "parameter", "scoped", "config", "tag", "status", "job", "branch")
_BEAT: Final = 4
"""Calls between two signs of life."""

Errors = tuple[type[Exception], ...]
Found = dict[str, Any]
Work = Callable[["Worker"], None]


class MixedError(Exception):
    """A chunk with one field from one write and one from another, where each write sets both."""


class Recorder:
    """Writes down calls before they are made and after they returned, so that a kill loses no call that may have had an effect."""

    def __init__(self, path: Path, allowed: Errors) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._numbers = itertools.count()
        self.allowed = allowed

    def read(self, see: Callable[[], Found]) -> None:
        """A call that returns what stands in some registers."""

        def seen() -> None:
            invoked = time.monotonic_ns()
            found = see()
            self._say("read", invoked, time.monotonic_ns(), found)

        self.attempt(seen)

    def attempt(self, call: Callable[[], object]) -> None:
        """A call, and its failure."""
        try:
            call()
        except (FormatError, MixedError) as error:
            self._say("damaged", repr(error))
        except self.allowed as error:
            self._say("unknown", type(error).__name__)

    def write(self, kind: Kind, values: Found, call: Callable[[], str | int | None]) -> None:
        """A call that changes some registers. It returns nothing; or as what kind, or with what value, it has to count."""
        number = next(self._numbers)
        self._say("call", number, kind, time.monotonic_ns(), values)
        self.attempt(lambda: self._say("returned", number, call(), time.monotonic_ns()))  # arguments in their order

    def _say(self, *line: Any) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


@dataclass
class Histories:
    """What was recorded, by register."""

    operations: dict[str, list[Operation]] = field(default_factory=dict)
    calls: int = 0
    killed: int = 0
    unknown: Counter[str] = field(default_factory=Counter)
    damaged: list[str] = field(default_factory=list)

    def violations(self, initial: Callable[[str], Any]) -> list[tuple[str, Violation]]:
        """The registers whose history cannot have happened one call after the other."""
        found = ((name, violation(history, initial(name))) for name, history in self.operations.items())
        return [(name, one) for name, one in found if one is not None]

    def open_calls(self) -> int:
        """Writes that were under way when their process was killed, or whose fate nobody knows."""
        return sum(one.returned == NEVER for history in self.operations.values() for one in history)

    def load(self, path: Path) -> None:
        """Adds what one process wrote."""
        calls: dict[int, list[tuple[str, Operation]]] = {}
        for line in path.read_bytes().split(b"\n")[
            :-1
        ]:  # a last line without its end was never acknowledged to anybody
            what, *rest = json.loads(line)
            if what == "read":
                invoked, returned, found = rest
                self.calls += 1
                for register, value in found.items():
                    self._add(register, Operation("read", value, invoked, returned, who=path.name))
            elif what == "call":
                number, kind, invoked, values = rest
                self.calls += 1
                calls[number] = [(r, _called(kind, v, invoked, path.name)) for r, v in values.items()]
            elif what == "returned":
                number, outcome, returned = rest
                calls[number] = [(register, _returned(one, returned, outcome)) for register, one in calls[number]]
            elif what == "unknown":
                self.unknown[rest[0]] += 1
            else:
                self.damaged.append(rest[0])
        for register, one in itertools.chain.from_iterable(calls.values()):
            self._add(register, one)

    def _add(self, register: str, one: Operation) -> None:
        self.operations.setdefault(register, []).append(one)


def _called(kind: Kind, value: Any, invoked: int, who: str) -> Operation:
    expected = None
    if kind == "swap":
        expected, value = value
    return Operation(kind, value, invoked, NEVER, expected, who)


def _returned(one: Operation, returned: int, outcome: Any) -> Operation:
    if isinstance(outcome, str):
        return replace(one, kind=outcome, returned=returned)
    return replace(one, returned=returned, value=one.value if outcome is None else outcome)


class Worker:
    """One process: its own store, its own record, and values that nobody else writes."""

    def __init__(self, store: ChunkedRunLogStore, recorder: Recorder, beat: Connection, who: str, calls: int) -> None:
        self.knowing = again(store)
        self.recorder = recorder
        self.calls = calls
        self.chance = random.Random(who)
        self._beat = beat
        self._who = who
        self._numbers = itertools.count()

    def rounds(self) -> Iterator[int]:
        """The numbers of its calls; gives a sign of life from time to time."""
        for number in range(self.calls):
            if number % _BEAT == 0:
                self._beat.send_bytes(b".")
            yield number

    def store(self) -> ChunkedRunLogStore:
        """Its own store, which knows what it saw; now and then one that knows nothing."""
        return self.knowing if self.chance.random() < 0.7 else again(self.knowing)

    def value(self) -> str:
        """In capitals, because a status is."""
        return f"{self._who}-{next(self._numbers)}"


def _work(
    store: ChunkedRunLogStore, path: Path, beat: Connection, who: str, calls: int, work: Work, allowed: Errors
) -> None:
    work(Worker(store, Recorder(path, allowed), beat, who, calls))


class _Running(NamedTuple):
    process: BaseProcess
    pipe: Connection
    beats: Connection


class Crowd:
    """Processes that work and are killed and replaced."""

    def __init__(self, store: ChunkedRunLogStore, folder: Path, work: Work, calls: int, allowed: Errors = ()) -> None:
        self.store = store
        self.folder = folder
        self.work = work
        self.calls = calls
        self.allowed = allowed
        self.numbers = itertools.count()
        self.running: list[_Running] = []
        self.killed = 0

    def run(self, processes: int, kills: int) -> Histories:
        """Runs so many, kills so many of them midway and replaces each; what they recorded."""
        self.folder.mkdir()
        chance = random.Random(kills)
        try:
            for _ in range(processes):
                self._start()
            while self.killed < kills and (victims := [one for one in self.running if one.process.is_alive()]):
                self._kill(chance.choice(victims), chance)
            finish([(one.process, one.pipe) for one in self.running])
        finally:
            for one in self.running:
                if one.process.is_alive():
                    one.process.kill()
                one.process.join()
                one.beats.close()
        histories = Histories(killed=self.killed)
        for path in sorted(self.folder.iterdir()):
            histories.load(path)
        return histories

    def _start(self) -> None:
        who = f"W{next(self.numbers)}"
        ours, theirs = Pipe(duplex=False)
        arguments = (self.store, self.folder / who, theirs, who, self.calls, self.work, self.allowed)
        process, pipe = start(_work, arguments)
        theirs.close()
        self.running.append(_Running(process, pipe, ours))

    def _kill(self, victim: _Running, chance: random.Random) -> None:
        with suppress(EOFError):  # it is at its end, or failed: `finish` will tell
            while victim.beats.poll():
                victim.beats.recv_bytes()
            for _ in range(chance.randint(1, 2)):
                victim.beats.recv_bytes()
        victim.process.join(chance.uniform(0, 0.02))  # somewhere in a call, not always right after the sign of life
        if victim.process.is_alive():
            os.kill(victim.process.pid or 0, signal.SIGKILL)
            victim.process.join()
            self.running.remove(victim)
            victim.pipe.close()
            victim.beats.close()
            self.killed += 1
            self._start()


# The whole API of one run, as calls on registers.


def found(store: ChunkedRunLogStore) -> None:
    """Makes the run whose registers are all at their first value."""
    store.create_run_log(RUN, tag=FIRST, status=FIRST, run_config={"c": FIRST})
    store.set_parameters(RUN, {"p": FIRST})
    store.add_step_log(_step(FIRST), RUN)
    store.add_step_log(StepLog(name="m", internal_name="m", step_type="map"), RUN)
    store.add_branch_log(BranchLog(internal_name="m.x", status=FIRST), RUN)
    store.set_parameters(RUN, {"q": FIRST}, "m.x")
    store.add_job_log(RUN, JobLog(status=FIRST, message=FIRST))


def _step(value: str) -> StepLog:
    return StepLog(name="a", internal_name="a", status=value, message=value)


def _whole(log: StepLog | JobLog) -> str:
    """The value that its last writer set in both fields."""
    if log.status != log.message:
        raise MixedError(f"{log.status} beside {log.message}")
    return log.message


def _text(value: object) -> str:
    assert isinstance(value, str)
    return value


def seen_in(run_log: RunLog, *, steps: bool = True) -> Found:
    """All registers that a run log shows."""
    assert run_log.job is not None
    seen: Found = {
        "tag": run_log.tag,
        "status": run_log.status,
        "config": _text(run_log.run_config["c"]),
        "parameter": _text(run_log.parameters["p"]),
        "job": _whole(run_log.job),
    }
    if steps:
        branch = run_log.steps["m"].branches["m.x"]
        seen |= {"step": _whole(run_log.steps["a"]), "branch": branch.status, "scoped": _text(branch.parameters["q"])}
    return seen


def _header(store: ChunkedRunLogStore) -> Found:
    found = store.get_run_logs([RUN])
    if not found:  # as a damaged one is left out
        raise MixedError(f"no header of {RUN}")
    run_log = found[0]
    return {"tag": run_log.tag, "status": run_log.status, "config": _text(run_log.run_config["c"])}


READS: Final[Mapping[str, Callable[[ChunkedRunLogStore], Found]]] = {
    "get_step_log": lambda store: {"step": _whole(store.get_step_log("a", RUN))},
    "get_branch_log": lambda store: {"branch": store.get_branch_log("m.x", RUN).status},
    "get_job_log": lambda store: {"job": _whole(store.get_job_log(RUN))},
    "get_parameter": lambda store: {"parameter": _text(store.get_parameter(RUN, "p"))},
    "get_parameters": lambda store: {"parameter": _text(store.get_parameters(RUN)["p"])},
    "get_parameters of a branch": lambda store: {"scoped": _text(store.get_parameters(RUN, "m.x")["q"])},
    "get_run_config": lambda store: {"config": _text(store.get_run_config(RUN)["c"])},
    "get_run_logs": _header,
    "get_run_log_by_id": lambda store: seen_in(store.get_run_log_by_id(RUN)),
    "without steps": lambda store: seen_in(store.get_run_log_by_id(RUN, full=False), steps=False),
}


def _write_step(worker: Worker, store: ChunkedRunLogStore, value: str) -> None:
    worker.recorder.write("write", {"step": value}, lambda: store.add_step_log(_step(value), RUN))


def _rewrite_step(worker: Worker, store: ChunkedRunLogStore, value: str) -> None:
    step = store.get_step_log("a", RUN)
    step.status = step.message = value
    worker.recorder.write("write", {"step": value}, lambda: store.add_step_log(step, RUN))


def _write_branch(worker: Worker, store: ChunkedRunLogStore, value: str) -> None:
    branch = BranchLog(internal_name="m.x", status=value)
    worker.recorder.write("write", {"branch": value}, lambda: store.add_branch_log(branch, RUN))


def _write_parameter(worker: Worker, store: ChunkedRunLogStore, value: str) -> None:
    worker.recorder.write("write", {"parameter": value}, lambda: store.set_parameters(RUN, {"p": value}))


def _hand_parameters_back(worker: Worker, store: ChunkedRunLogStore, value: str) -> None:
    parameters = store.get_parameters(RUN, "m.x")
    parameters["q"] = value
    worker.recorder.write("write", {"scoped": value}, lambda: store.set_parameters(RUN, parameters, "m.x"))


def _write_config(worker: Worker, store: ChunkedRunLogStore, value: str) -> None:
    worker.recorder.write("write", {"config": value}, lambda: store.set_run_config(RUN, {"c": value}))


def _write_status(worker: Worker, store: ChunkedRunLogStore, value: str) -> None:
    worker.recorder.write("write", {"status": value}, lambda: store.update_run_log_status(RUN, value))


def _write_job(worker: Worker, store: ChunkedRunLogStore, value: str) -> None:
    job = JobLog(status=value, message=value)
    worker.recorder.write("write", {"job": value, "status": value}, lambda: store.add_job_log(RUN, job))


def _put_header_back(worker: Worker, store: ChunkedRunLogStore, value: str) -> None:
    run_log = store.get_run_log_by_id(RUN, full=False)
    run_log.tag = value
    worker.recorder.write("write", {"tag": value}, lambda: store.put_run_log(run_log))


def _put_all_back(worker: Worker, store: ChunkedRunLogStore, value: str) -> None:
    run_log = store.get_run_log_by_id(RUN)
    run_log.tag = run_log.parameters["p"] = value
    run_log.steps["a"].status = run_log.steps["a"].message = value
    run_log.steps["m"].branches["m.x"].status = value
    values: Found = dict.fromkeys(("tag", "parameter", "step", "branch"), value)
    worker.recorder.write("write", values, lambda: store.put_run_log(run_log))


WRITES: Final = (
    _write_step,
    _rewrite_step,
    _write_branch,
    _write_parameter,
    _hand_parameters_back,
    _write_config,
    _write_status,
    _write_job,
    _put_header_back,
    _put_all_back,
)


def mixed(worker: Worker) -> None:
    """Reads and writes of everything, in any order."""
    reads = tuple(READS.values())
    for number in worker.rounds():
        store, sort = worker.store(), worker.chance.random()
        if sort < 0.45:
            see = worker.chance.choice(reads)
            worker.recorder.read(lambda: see(store))  # noqa: B023  called at once
        elif sort < 0.85:
            worker.recorder.attempt(lambda: worker.chance.choice(WRITES)(worker, store, worker.value()))  # noqa: B023
        else:
            _create(worker, store, f"run {number // 16}")


def _create(worker: Worker, store: ChunkedRunLogStore, run_id: str) -> None:
    """Creates a run that others create too, or looks whose it is."""
    value = worker.value()

    def create() -> str | None:
        try:
            store.create_run_log(run_id, tag=value)
        except RunLogExistsError:
            return "refused create"
        return None

    def look() -> Found:
        found = store.get_run_logs([run_id])
        return {run_id: found[0].tag if found else None}

    if worker.chance.random() < 0.5:
        worker.recorder.write("create", {run_id: value}, create)
    else:
        worker.recorder.read(look)


# One number, and one object.

NUMBER: Final = "number"


def counting(*, exactly: bool) -> Work:
    """Adding one over and over, and looking. `exactly`: what a change returns is what it made, and no later state."""

    def work(worker: Worker) -> None:
        for _ in worker.rounds():
            chunks = worker.store()._chunks

            def add() -> int | None:
                made = _number(chunks.change(Change(_COUNTER, _plus_one, _content(1))).chunk.content)  # noqa: B023
                return made if exactly else None

            def look() -> Found:
                return {NUMBER: _number(chunks.read(_COUNTER).chunk.content)}  # noqa: B023

            if worker.chance.random() < 0.7:
                worker.recorder.write("add", {NUMBER: None}, add)
            else:
                worker.recorder.read(look)

    return work


def number_in(store: ChunkedRunLogStore) -> int:
    """How far they counted."""
    return _number(again(store)._chunks.read(_COUNTER).chunk.content)


_COUNTER: Final = keys.parameter(RUN, NUMBER)


def start_to_count(store: ChunkedRunLogStore) -> None:
    """Puts the number 0 in the run."""
    store._chunks.change(Change(_COUNTER, _plus_one, _content(0)))


def _content(number: int) -> Content:
    return encode({"number": number})


def _number(content: Content) -> int:
    number = decode(content)["number"]
    assert isinstance(number, int)
    return number


def _plus_one(content: Content) -> Content:
    return _content(_number(content) + 1)


def raw(worker: Worker) -> None:
    """The backend's own verbs on a few objects, with every condition."""
    backend = worker.knowing.backend
    for _ in worker.rounds():
        key = f"{RUN}/raw{worker.chance.randrange(4)}.json"
        RAW[worker.chance.choice(tuple(RAW))](worker, backend, key)


def _get(worker: Worker, backend: Backend, key: str) -> None:
    worker.recorder.read(lambda: {key: _look(backend, key)[0]})


def _look(backend: Backend, key: str) -> tuple[str | None, str]:
    try:
        blob = backend.get(key)
    except ObjectNotFoundError:
        return None, ""
    lines = set(blob.data.decode().splitlines())
    if len(lines) != 1:
        raise MixedError(f"{key}: {lines}")
    return lines.pop(), blob.version


def _put(worker: Worker, backend: Backend, key: str) -> None:
    value = worker.value()
    worker.recorder.write("write", {key: value}, lambda: _put_if(backend, key, value, ANY, ""))


def _create_raw(worker: Worker, backend: Backend, key: str) -> None:
    value = worker.value()
    worker.recorder.write("create", {key: value}, lambda: _put_if(backend, key, value, CREATE, "refused create"))


def _swap(worker: Worker, backend: Backend, key: str) -> None:
    (before, version), value = _look(backend, key), worker.value()
    if before is not None:
        call = lambda: _put_if(backend, key, value, unchanged(version), "refused swap")  # noqa: E731
        worker.recorder.write("swap", {key: (before, value)}, call)


def _delete(worker: Worker, backend: Backend, key: str) -> None:
    if worker.chance.random() < 0.1:
        worker.recorder.write("write", {key: None}, lambda: backend.delete(key))


def _put_if(backend: Backend, key: str, value: str, condition: Condition, refused: str) -> str | None:
    try:
        backend.put(key, f"{value}\n".encode() * 2_000, condition)
    except ConflictError:
        return refused
    return None


RAW: Final[Mapping[str, Callable[[Worker, Backend, str], None]]] = {
    "get": _get,
    "look": _get,
    "put": _put,
    "create": _create_raw,
    "swap": _swap,
    "swap again": _swap,
    "delete": _delete,
}


def first_value(register: str) -> str | int | None:
    """What stands in a register before anybody writes."""
    if register == NUMBER:
        return 0
    return FIRST if register in REGISTERS else None
