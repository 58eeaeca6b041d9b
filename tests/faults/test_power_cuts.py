"""Power cuts keep what each durability promises: what the disk held at that moment is copied, mounted and read."""

from __future__ import annotations

import ctypes
import itertools
import multiprocessing
import os
import random
import shutil
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from chunkstore import BranchLog, ChunkedRunLogStore, JobLog, RunLog, RunLogNotFoundError, StepLog
from chunkstore.backends import localsync
from chunkstore.backends.local import LocalBackend
from loop_disk import ForgetfulDisk, LoopDisk, Luck, loop_disk
from places import HANGS, between
from rigs import Tally

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts images as Linux does")

FORK = multiprocessing.get_context("fork") if hasattr(os, "fork") else None
SHARED = "shared"
STATUSES = ["CREATED", "RUNNING", "SUCCESS"]

What = tuple[str, str, str]
"""Sort, run and name of something that was written; its number rises with each write."""
Broken = Callable[[], None]
"""Makes the writer that calls it forget a part of its duty."""


class Call(NamedTuple):
    """A call that the store acknowledged, and when it began and ended."""

    begin: int
    end: int
    barrier: bool
    wrote: dict[What, int]


class Teller:
    """Makes calls and tells of each, once the store has acknowledged it."""

    def __init__(self, acks: Connection) -> None:
        self._acks = acks

    def __call__(self, call: Callable[[], object], wrote: dict[What, int], *, barrier: bool = False) -> None:
        begin = time.monotonic_ns()
        call()
        self._acks.send(Call(begin, time.monotonic_ns(), barrier, wrote))

    def announce(self, what: What) -> None:
        """Told before it begins: whatever comes of it, it is known."""
        self._acks.send(Call(0, 0, False, {what: 1}))


class Writer:
    """Writes everything that a run can have, time and again."""

    def __init__(self, store: ChunkedRunLogStore, worker: int, tell: Teller, chance: random.Random) -> None:
        self.store, self.worker, self.tell, self.chance = store, worker, tell, chance

    def one_round(self, number: int) -> None:
        self.new_run(f"{self.worker} {number}", number)
        self.touch_what_is_hot(number)
        self.run_made_by_hand(f"{self.worker} by hand {number}", number)
        if number % 2 == 0:
            self.delete(f"{self.worker} {number - 1}")

    def new_run(self, run: str, number: int) -> None:
        store, tell = self.store, self.tell
        tell(lambda: store.create_run_log(run, tag=str(number)), {("run", run, ""): number}, barrier=True)
        tell(lambda: store.update_run_log_status(run, "RUNNING"), {("status", run, ""): 1})
        values = {f"p{i}": self.value(1) for i in range(3)}
        tell(lambda: store.set_parameters(run, values), {("parameter", run, name): 1 for name in values})
        for name in ("a", "b", "c"):
            self.step(run, name, 1)
        self.step(run, "a", 2)
        self.branch(run, "map.x")
        tell(lambda: store.add_job_log(run, JobLog(status="RUNNING", message="1 ")), {("job", run, ""): 1})
        tell(lambda: store.update_run_log_status(run, "SUCCESS"), {("status", run, ""): 2}, barrier=True)
        self.step(run, "late", 1)

    def branch(self, run: str, name: str) -> None:
        self.step(run, "map", 1)
        branch = BranchLog(internal_name=name)
        self.tell(lambda: self.store.add_branch_log(branch, run), {("branch", run, name): 0})
        wrote: dict[What, int] = {("parameter", run, f"{name} p"): 1}
        self.tell(lambda: self.store.set_parameters(run, {"p": self.value(1)}, name), wrote)
        self.step(run, f"{name}.train", 1)
        branch.status = "SUCCESS"
        self.tell(lambda: self.store.add_branch_log(branch, run), {("branch", run, name): 2})

    def touch_what_is_hot(self, number: int) -> None:
        self.step(SHARED, f"hot {self.worker}", number)
        name = f"hot {self.worker}"
        values = {name: self.value(number)}
        self.tell(lambda: self.store.set_parameters(SHARED, values), {("parameter", SHARED, name): number})
        self.tell(lambda: self.store.set_run_config(SHARED, {name: number}), {("config", SHARED, name): number})

    def run_made_by_hand(self, run: str, number: int) -> None:
        steps = {name: StepLog(name=name, internal_name=name, message=self.text(1)) for name in ("a", "b")}
        run_log = RunLog(run_id=run, tag=str(number), status="RUNNING", steps=steps)
        wrote: dict[What, int] = {("run", run, ""): number, ("status", run, ""): 1}
        wrote |= {("step", run, name): 1 for name in steps}
        self.tell(lambda: self.store.put_run_log(run_log), wrote)

    def delete(self, run: str) -> None:
        self.tell.announce(("going", run, ""))
        self.tell(lambda: self.store.delete_run_log(run), {("gone", run, ""): 1})

    def step(self, run: str, name: str, number: int) -> None:
        log = StepLog(name=name.rpartition(".")[2], internal_name=name, message=self.text(number))
        self.tell(lambda: self.store.add_step_log(log, run), {("step", run, name): number})

    def text(self, number: int) -> str:
        return f"{number} " + "x" * self.chance.choice([0, 1_000, 1_000, 9_000])

    def value(self, number: int) -> dict[str, Any]:
        return {"number": number, "padding": "y" * self.chance.choice([0, 1_000, 9_000])}


def write_for_ever(root: Path, durability: str, worker: int, acks: Connection, broken: Broken | None) -> None:
    try:
        if broken is not None:
            broken()
        store = ChunkedRunLogStore(LocalBackend(root, durability=durability))  # type: ignore[arg-type]
        writer = Writer(store, worker, Teller(acks), random.Random(worker))
        for number in itertools.count(1):
            writer.one_round(number)
    except BaseException:  # noqa: BLE001  whatever it is, the parent must hear of it
        acks.send(traceback.format_exc())


class Fleet:
    """Writers that are at it."""

    def __init__(self, writers: Sequence[tuple[BaseProcess, Connection]]) -> None:
        self._writers = writers

    def listen(self, enough: int) -> list[Call]:
        """So many acknowledgements, as they come; the writers are at it when this returns."""
        calls: list[Call] = []
        until = time.monotonic() + HANGS
        while len(calls) < enough:
            assert time.monotonic() < until, "the writers hang"
            calls += [_told(pipe) for pipe in wait([pipe for _, pipe in self._writers], timeout=1.0)]  # type: ignore[arg-type]
        return calls

    def rest(self) -> list[Call]:
        """What was told before they were stopped."""
        return [_told(pipe) for _, pipe in self._writers for _ in iter(pipe.poll, False)]

    @contextmanager
    def stopped(self) -> Iterator[None]:
        pids = [process.pid or 0 for process, _ in self._writers]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        for pid in pids:  # none of them is in a system call any more
            assert os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1])
        yield
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def _told(pipe: Connection) -> Call:
    told = pipe.recv()
    assert isinstance(told, Call), told
    return told


@contextmanager
def writing(root: Path, durability: str, workers: int, broken: Broken | None) -> Iterator[Fleet]:
    assert FORK is not None
    ChunkedRunLogStore(LocalBackend(root, durability=durability)).create_run_log(SHARED)  # type: ignore[arg-type]
    writers = []
    try:
        for worker in range(workers):
            ours, theirs = FORK.Pipe(duplex=False)
            process = FORK.Process(target=write_for_ever, args=(root, durability, worker, theirs, broken))
            process.start()
            theirs.close()
            writers.append((process, ours))
        yield Fleet(writers)
    finally:
        for process, pipe in writers:
            process.kill()
            process.join()
            pipe.close()


def power_cuts(
    disk: LoopDisk, durability: str, cuts: int, *, workers: int = 1, broken: Broken | None = None
) -> Iterator[tuple[list[Call], ChunkedRunLogStore]]:
    """At so many random moments: all that was acknowledged until then, and a new store on what the disk held."""
    chance = random.Random(f"{durability} {workers} {cuts}")
    calls: list[Call] = []
    root = Path("deep", "er", "runs")
    with writing(disk.folder / root, durability, workers, broken) as fleet:
        for number in range(cuts):
            calls += fleet.listen(chance.randrange(20, 220))
            with fleet.stopped():
                calls += fleet.rest()
                if number % 2:
                    commit_the_journal(disk.folder)
                with disk.after_power_cut() as folder:
                    yield calls, ChunkedRunLogStore(LocalBackend(folder / root, durability=durability))  # type: ignore[arg-type]


def kept(calls: Sequence[Call], durability: str) -> Iterator[Call]:
    """The calls that must survive; and what was announced."""
    last = max((call.begin for call in calls if call.barrier), default=0)
    for call in calls:
        before_barrier = durability == "barrier" and (call.barrier or call.end <= last)
        if durability == "power" or before_barrier or call.end == 0:
            yield call


def commit_the_journal(folder: Path) -> None:
    """As any other program does that syncs a file of its own: names come to the disk, and their data need not."""
    with (folder / "of another program").open("wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file.fileno())


def promised(calls: Sequence[Call], durability: str) -> dict[What, int]:
    """What must be there, and the number that it has at least."""
    expected: dict[What, int] = {}
    for call in kept(calls, durability):
        for what, number in call.wrote.items():
            expected[what] = max(number, expected.get(what, 0))
    going = {run for sort, run, _ in expected if sort == "going"}
    return {what: number for what, number in expected.items() if what[0] == "gone" or what[1] not in going}


def there(run_log: RunLog) -> dict[What, int]:
    """All that can be found in a run log, with its numbers."""
    run = run_log.run_id
    found: dict[What, int] = {("run", run, ""): int(run_log.tag or 0)}
    found["status", run, ""] = STATUSES.index(run_log.status)
    found |= {("config", run, name): int(str(value)) for name, value in run_log.run_config.items()}
    if run_log.job is not None:
        found["job", run, ""] = 1
    _add(found, run, "", run_log)
    return found


def _add(found: dict[What, int], run: str, scope: str, log: RunLog | BranchLog) -> None:
    for name, value in log.parameters.items():
        found["parameter", run, f"{scope} {name}".strip()] = value["number"]  # type: ignore[index,call-overload]
    for step in log.steps.values():
        found["step", run, step.internal_name] = int(step.message.split()[0]) if step.message[:1].isdigit() else -1
        for branch in step.branches.values():
            found["branch", run, branch.internal_name] = STATUSES.index(branch.status)
            _add(found, run, branch.internal_name, branch)


class Result(NamedTuple):
    """What a reader met after a power cut."""

    checked: int
    lost: list[str]
    damaged: list[str]


def read_all(store: ChunkedRunLogStore, expected: dict[What, int]) -> Result:
    """Compares everything that is there with what was promised."""
    found: dict[What, int] = {}
    damaged: list[str] = []
    runs = {run for _, run, _ in expected} | set(store.list_run_ids())
    for run in sorted(runs):
        with suppress(RunLogNotFoundError):
            reading = store.read_run_log(run)
            damaged += [finding.message for finding in reading.findings if finding.sort == "damaged"]
            found |= there(reading.run_log)
    lost = [
        f"{what}: {number}, found {found.get(what)}" for what, number in expected.items() if _lost(what, number, found)
    ]
    return Result(len(expected), lost, damaged)


def _lost(what: What, number: int, found: dict[What, int]) -> bool:
    if what[0] == "gone":
        return ("run", what[1], "") in found
    return found.get(what, -1) < number


def read_again(store: ChunkedRunLogStore) -> None:
    """Whatever happened, these never raise."""
    for run in store.list_run_ids():
        with suppress(RunLogNotFoundError):
            found = store.get_run_log_by_id(run, strict=False)
            assert found == ChunkedRunLogStore(store.backend).read_run_log(run).run_log
            store.get_run_log_by_id(run, full=False, strict=False)
    store.get_run_logs()


def work_on(store: ChunkedRunLogStore) -> None:
    """After a power cut new runs can be made, and every old one deleted, damaged or not."""
    store.create_run_log("after the cut")
    store.add_step_log(StepLog(name="s", internal_name="s"), "after the cut")
    for run in store.list_run_ids():
        with suppress(RunLogNotFoundError):
            store.delete_run_log(run)
        with pytest.raises(RunLogNotFoundError):
            store.read_run_log(run)


HARD = "commit=300"  # seconds: the journal does not save anything by chance

RESCUING = [HARD, "commit=1", f"{HARD},data=journal", f"{HARD},data=writeback"]
"""With them ext4 writes the data of a file before it takes over the name of another."""
FORGETFUL = f"{HARD},data=writeback,noauto_da_alloc"
"""Without: a name can come back with nothing in it, which POSIX allows."""


@pytest.mark.parametrize("options", [*RESCUING, FORGETFUL])
def test_power_keeps_every_acknowledged_write(tmp_path: Path, tally: Tally, options: str) -> None:
    with loop_disk(tmp_path, options=options) as disk:
        keeps_its_promise(disk, "power", between(2, 22), tally)


@pytest.mark.parametrize("options", RESCUING)
def test_barrier_keeps_what_all_writers_wrote_before_it(tmp_path: Path, tally: Tally, options: str) -> None:
    with loop_disk(tmp_path, options=options) as disk:
        keeps_its_promise(disk, "barrier", between(2, 26), tally)


@pytest.mark.parametrize("kind", ["xfs", "btrfs"])
def test_power_holds_on_other_file_systems(tmp_path: Path, tally: Tally, kind: str) -> None:
    with loop_disk(tmp_path, kind) as disk:
        keeps_its_promise(disk, "power", between(2, 22), tally)


@pytest.mark.parametrize(("kind", "options"), [("ext4", HARD), ("ext4", FORGETFUL), ("xfs", ""), ("btrfs", HARD)])
def test_a_header_that_a_barrier_kept_survives_its_next_status(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, options: str
) -> None:
    with loop_disk(tmp_path, kind, options) as disk:
        store = ChunkedRunLogStore(LocalBackend(disk.folder / "runs", durability="barrier"))
        store.create_run_log("r", tag="kept")
        store.update_run_log_status("r", "RUNNING")
        commit_the_journal(disk.folder)
        with disk.after_power_cut() as folder:
            reading = ChunkedRunLogStore(LocalBackend(folder / "runs")).read_run_log("r")
            assert (reading.run_log.tag, reading.findings) == ("kept", ())


@pytest.mark.parametrize("options", [*RESCUING, FORGETFUL])
def test_process_stays_readable_though_it_loses_writes(tmp_path: Path, tally: Tally, options: str) -> None:
    with loop_disk(tmp_path, options=options) as disk:
        damaged = keeps_its_promise(disk, "process", between(2, 22), tally)
        assert damaged or "data=journal" in options, "there was nothing that a reader could stumble over"


def keeps_its_promise(disk: LoopDisk, durability: str, cuts: int, tally: Tally) -> list[str]:
    """Returns the damage of what was not promised."""
    calls: list[Call] = []
    damaged: list[str] = []
    for calls, store in power_cuts(disk, durability, cuts, workers=3):
        result = read_all(store, promised(calls, durability))
        assert result.lost == []
        assert result.damaged == [] or durability != "power"
        damaged += result.damaged
        read_again(store)
        work_on(store)
        tally(f"power cuts, durability {durability}, {disk.kind}", 1)
    if durability != "process":
        name = f"acknowledged writes checked after a power cut, durability {durability}, {disk.kind}"
        tally(name, sum(len(call.wrote) for call in kept(calls, durability) if call.end))
    return damaged


# A test that can't fail is a defect: the same harness on writers that forget a part of their duty.


def never_sync() -> None:
    os.fsync = lambda _descriptor: None
    ctypes.CDLL = NoSyncfs  # type: ignore[assignment,misc]


class NoSyncfs:
    """A C library whose syncfs does nothing."""

    def __init__(self, *_arguments: object, **_options: object) -> None: ...

    def syncfs(self, _descriptor: int) -> int:
        return 0


def forget_the_data() -> None:
    sync = os.fsync
    os.fsync = lambda descriptor: sync(descriptor) if stat.S_ISDIR(os.fstat(descriptor).st_mode) else None


@pytest.mark.parametrize(
    ("durability", "broken"),
    [("power", never_sync), ("power", forget_the_data), ("barrier", never_sync)],
)
def test_the_harness_sees_the_loss_where_a_sync_is_missing(
    tmp_path: Path, tally: Tally, durability: str, broken: Broken
) -> None:
    with loop_disk(tmp_path, options=FORGETFUL) as disk:
        lost: list[str] = []
        for calls, store in power_cuts(disk, durability, 4, workers=2, broken=broken):
            lost += read_all(store, promised(calls, durability)).lost
        assert len(lost) > 20


def test_process_loses_what_it_does_not_promise_to_keep(tmp_path: Path) -> None:
    with loop_disk(tmp_path, options=HARD) as disk:
        lost: list[str] = []
        for calls, store in power_cuts(disk, "process", 3):
            lost += read_all(store, promised(calls, "power")).lost
        assert len(lost) > 50


# What a file system may lose, and ext4 does not: the disk that keeps what was synced, and of the rest what luck wants.


class Told(Teller):
    """Tells nobody, and remembers."""

    def __init__(self) -> None:
        self.calls: list[Call] = []

    def __call__(self, call: Callable[[], object], wrote: dict[What, int], *, barrier: bool = False) -> None:
        begin = time.monotonic_ns()
        call()
        self.calls.append(Call(begin, time.monotonic_ns(), barrier, wrote))

    def announce(self, what: What) -> None:
        self.calls.append(Call(0, 0, False, {what: 1}))


LUCK: dict[str, Luck] = {
    "nothing is kept": lambda _sort: False,
    "names are kept, data is not": lambda sort: sort == "name",
    "half is kept": lambda _sort: random.random() < 0.5,
}


class Forgetting:
    """One writer on the forgetful disk, and a look at what is left of it after each of its system calls."""

    def __init__(self, top: Path, durability: str, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.durability, self.root, self.cuts, self.lost = durability, root, 0, []
        self._pictures = top / "pictures"
        self._pictures.mkdir()
        self.disk = ForgetfulDisk(top / "disk")
        (top / "disk").mkdir()
        backend = LocalBackend(top / "disk" / root, durability=durability)  # type: ignore[arg-type]
        if backend._syncs._syncfs is not None:
            backend._syncs._syncfs = self.disk.sync_everything
        self.disk.watch(monkeypatch)
        self.store, self.told = ChunkedRunLogStore(backend), Told()
        self.writer = Writer(self.store, 0, self.told, random.Random(durability))

    def look(self, luck: str) -> Result:
        """What would be left if the power went now."""
        self.cuts += 1
        picture = self.disk.after_power_cut(self._pictures / str(self.cuts), LUCK[luck])
        store = ChunkedRunLogStore(LocalBackend(picture / self.root))
        result = read_all(store, promised(self.told.calls, self.durability))
        self.lost += [f"{luck}: {loss}" for loss in result.lost]
        shutil.rmtree(picture)
        return result

    def look_at_every_change(self, *lucky: str) -> None:
        lucks = itertools.cycle(lucky or LUCK)
        self.disk.happened = lambda: self.look(next(lucks))

    def rounds(self, enough: int) -> None:
        self.told(lambda: self.store.create_run_log(SHARED), {}, barrier=True)
        for number in range(1, enough + 1):
            self.writer.one_round(number)
        for luck in LUCK:
            self.look(luck)


@pytest.fixture
def forgetting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Forgetting]:
    random.seed(0)

    def start(durability: str, root: Path = Path()) -> Forgetting:
        return Forgetting(tmp_path, durability, root, monkeypatch)

    return start


def test_power_holds_on_a_disk_that_keeps_only_what_was_synced(
    forgetting: Callable[..., Forgetting], tally: Tally
) -> None:
    writer = forgetting("power")
    writer.look_at_every_change()
    writer.rounds(between(2, 12))
    assert writer.lost == []
    tally("power cuts at each system call, durability power, forgetful disk", writer.cuts)


def test_power_holds_where_the_prefix_is_new_too(forgetting: Callable[..., Forgetting]) -> None:
    writer = forgetting("power", Path("deep", "er", "runs"))
    writer.rounds(1)
    assert writer.lost == []


def test_barrier_holds_on_a_disk_that_keeps_nothing_else(forgetting: Callable[..., Forgetting], tally: Tally) -> None:
    writer = forgetting("barrier")
    writer.look_at_every_change("nothing is kept")
    writer.rounds(between(2, 12))
    assert [loss for loss in writer.lost if loss.startswith("nothing")] == []
    tally("power cuts at each system call, durability barrier, forgetful disk", writer.cuts)


REWRITES: dict[str, Callable[[Writer, int], None]] = {
    "header": lambda writer, number: writer.store.set_run_config("r", {"later": number}),
    "step": lambda writer, number: writer.step("r", "a", number),
    "parameter": lambda writer, number: writer.store.set_parameters("r", {"p": {"number": number}}),
}


@pytest.mark.parametrize("rewrite", REWRITES.values(), ids=REWRITES.keys())
def test_what_a_barrier_kept_is_not_lost_by_later_writes(forgetting: Callable[..., Forgetting], rewrite: Any) -> None:
    writer = forgetting("barrier")
    kept_by_barrier(writer)
    for number in (2, 3, 4):  # also not by one over a later write that was promised nothing itself
        rewrite(writer.writer, number)
        assert writer.look("names are kept, data is not").lost == []


def kept_by_barrier(writer: Forgetting) -> None:
    store, tell = writer.store, writer.told
    tell(lambda: store.create_run_log("r", tag="1"), {("run", "r", ""): 1}, barrier=True)
    writer.writer.step("r", "a", 1)
    tell(lambda: store.set_parameters("r", {"p": {"number": 1}}), {("parameter", "r", "p"): 1})
    tell(lambda: store.update_run_log_status("r", "SUCCESS"), {("status", "r", ""): 2}, barrier=True)
    assert writer.look("nothing is kept").lost == []


@pytest.mark.parametrize("luck", LUCK)
def test_barrier_holds_for_a_finished_run_that_is_put_as_a_whole(
    forgetting: Callable[..., Forgetting], luck: str
) -> None:
    writer = forgetting("barrier")
    steps = {name: StepLog(name=name, internal_name=name, message="1 ") for name in "ab"}
    run_log = RunLog(run_id="r", tag="1", status="SUCCESS", steps=steps, parameters={"p": {"number": 1}})
    wrote: dict[What, int] = {
        ("status", "r", ""): 2,
        ("step", "r", "a"): 1,
        ("step", "r", "b"): 1,
        ("parameter", "r", "p"): 1,
    }
    writer.told(lambda: writer.store.put_run_log(run_log), wrote, barrier=True)
    assert writer.look(luck).lost == []


@pytest.mark.parametrize("forgotten", ["sync_folder", "fsync"])
def test_the_forgetful_disk_shows_a_sync_that_is_missing(
    forgetting: Callable[..., Forgetting], monkeypatch: pytest.MonkeyPatch, forgotten: str
) -> None:
    writer = forgetting("power")
    monkeypatch.setattr(localsync if forgotten == "sync_folder" else os, forgotten, lambda _what: None)
    writer.rounds(1)
    assert len(writer.lost) > 10
