"""Forks at the worst moments: beside busy threads, under held locks, inside loops, and children that leave in every way."""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn, Self

import pytest

from chunkstore import ChunkedRunLogStore
from chunkstore.backends.hostlock import HostLocks
from chunkstore.backends.local import LocalBackend
from places import again, between, finish, memory, place, start
from rigs import Tally

WATCHDOG = 8
"""Seconds after which a child hangs; the kernel's alarm then ends it, whatever its interpreter waits for."""

METHODS = ["fork", "spawn", "forkserver"]
FORKS = {"local": between(11, 80), "minio": between(4, 60), "moto": between(3, 40), "memory": between(4, 20)}
FORKS |= {"sqlite": between(4, 60), "postgres": between(4, 60)}

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ChunkedRunLogStore:
    """Used before anybody forks, so that connections, threads and caches are there."""
    made = ChunkedRunLogStore(place(request.param, request, tmp_path))
    made.create_run_log("r")
    made.set_parameters("r", {f"before {number}": number for number in range(8)})
    made.get_run_log_by_id("r")
    return made


def on(*names: str) -> Any:
    return pytest.mark.parametrize("store", names, indirect=True)


class Child:
    """A child of `os.fork` itself, without what multiprocessing does around it."""

    def __init__(self, work: Callable[[], object]) -> None:
        read, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            os.close(read)
            _live_and_die(work, write)
        os.close(write)
        self._said = os.fdopen(read)

    def end(self) -> None:
        """Waits for it; fails with what it said where it failed, and when the alarm had to end it."""
        with self._said:
            said = self._said.read()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        assert code != -signal.SIGALRM, f"child {self.pid} hung for {WATCHDOG} s"
        assert code == 0, f"child {self.pid} ended with {code}: {said}"


def _live_and_die(work: Callable[[], object], said: int) -> NoReturn:
    watched()
    code = 1
    try:
        work()
        code = 0
    except BaseException:  # noqa: BLE001  the parent hears of it
        os.write(said, traceback.format_exc().encode())
    finally:
        os._exit(code)


def watched() -> None:
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # the test's own timeout has a handler there, which a hang never runs
    signal.alarm(WATCHDOG)


def work(store: ChunkedRunLogStore, me: str) -> int:
    """A bit of everything, and what was written is there."""
    store.set_parameters("r", {f"a {me}": me, f"b {me}": me})
    store.add_step_log(store.create_step_log(f"s {me}", f"s {me}"), "r")
    store.set_run_config("r", {f"c {me}": me})
    found = store.get_run_log_by_id("r")
    assert found.run_config[f"c {me}"] == me
    assert found.parameters[f"a {me}"] == me
    assert {f"before {number}" for number in range(8)} <= set(found.parameters)
    return os.getpid()


def check(store: ChunkedRunLogStore, names: list[str]) -> None:
    reading = again(store).read_run_log("r")
    found = reading.run_log
    assert reading.findings == ()
    assert {f"s {me}" for me in names} <= set(found.steps)
    assert {f"c {me}" for me in names} <= set(found.run_config)
    assert {f"{letter} {me}" for letter in "ab" for me in names} <= set(found.parameters)


class Busy:
    """Threads of this process in the middle of puts, gets and lists, and how far they got."""

    def __init__(self, store: ChunkedRunLogStore) -> None:
        self.store = store
        self.done = [0] * 4
        self.failures: list[str] = []
        self._ended = threading.Event()
        self._moved = threading.Condition()

    def _use(self, me: int) -> None:
        calls: list[Callable[[int], object]] = [
            lambda number: self.store.set_run_config("r", {f"busy {me}": number}),
            lambda number: self.store.set_parameters("r", {f"busy {me} {letter}": number for letter in "xyz"}),
            lambda number: again(self.store).get_run_log_by_id("r"),
            lambda number: self.store.add_step_log(
                self.store.create_step_log(f"busy {number % 9}", f"busy {number % 9}"), "r"
            ),
        ]
        try:
            for number in itertools.count(1):
                if self._ended.is_set():
                    return
                calls[me](number)
                with self._moved:
                    self.done[me] = number
                    self._moved.notify_all()
        except BaseException:  # noqa: BLE001  asserted when the block ends
            self.failures.append(traceback.format_exc())

    def until(self, more: int) -> None:
        """Returns after so many more calls, in the middle of the next ones."""
        with self._moved:
            goal = sum(self.done) + more
            assert self._moved.wait_for(lambda: sum(self.done) >= goal or self.failures, 60)

    def __enter__(self) -> Self:
        self._threads = [threading.Thread(target=self._use, args=(me,)) for me in range(4)]
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()
        assert self.failures == []

    def check(self, store: ChunkedRunLogStore) -> None:
        found = again(store).get_run_log_by_id("r")
        assert found.run_config["busy 0"] == self.done[0]
        assert [found.parameters[f"busy 1 {letter}"] for letter in "xyz"] == [self.done[1]] * 3


def sessions(store: ChunkedRunLogStore, mine: Callable[[str], bool]) -> set[str]:
    """Who wrote the chunks whose name is mine."""
    chunks = again(store)._chunks.scan("r/").chunks
    return {name for one in chunks if mine(one.chunk.envelope.name) for name in one.chunk.envelope.writers}


@on("local", "minio", "moto", "sqlite", "postgres")
def test_children_forked_at_random_moments_beside_busy_threads_neither_hang_nor_lose_nor_write_as_another(
    store: ChunkedRunLogStore, request: pytest.FixtureRequest, tally: Tally
) -> None:
    name = request.node.callspec.params["store"]
    chance = random.Random(name)
    names: list[str] = []
    children: list[Child] = []

    def and_a_grandchild(me: str) -> None:
        work(store, me)
        Child(lambda: work(store, f"{me} grandchild")).end()

    with Busy(store) as busy:
        for number in range(FORKS[name]):
            busy.until(chance.randrange(1, 12))
            me = f"child {number}"
            names.append(me)
            if number % 4 == 3:
                names.append(f"{me} grandchild")
                children.append(Child(lambda me=me: and_a_grandchild(me)))  # type: ignore[misc]
            else:
                children.append(Child(lambda me=me: work(store, me)))  # type: ignore[misc]
            if len(children) == 4:
                children.pop(0).end()
        for child in children:
            child.end()
    busy.check(store)
    check(store, names)
    everyone = [sessions(store, lambda other, me=me: other == f"s {me}") for me in names]  # type: ignore[misc]
    everyone.append(sessions(store, lambda other: other.startswith(("busy", "before"))))
    assert all(everyone)
    assert len(set.union(*everyone)) == sum(map(len, everyone))
    tally(f"forks, {name}", len(names))


def test_in_memory_a_child_has_all_that_was_acknowledged_before_the_fork_and_its_own_copy(tally: Tally) -> None:
    store = ChunkedRunLogStore(memory())
    store.create_run_log("r")
    store.set_parameters("r", {f"before {number}": number for number in range(8)})

    def look(at_least: int) -> None:
        work(store, "child")
        assert int(str(store.get_run_config("r")["busy 0"])) >= at_least

    with Busy(store) as busy:
        for _ in range(FORKS["memory"]):
            busy.until(500)
            Child(lambda at_least=busy.done[0]: look(at_least)).end()  # type: ignore[misc]
    busy.check(store)
    assert "s child" not in store.get_run_log_by_id("r").steps
    tally("forks, memory", FORKS["memory"])


@on("local", "minio", "sqlite", "postgres")
def test_a_pool_that_forks_a_new_worker_for_each_task_works_beside_busy_threads(
    store: ChunkedRunLogStore, tally: Tally
) -> None:
    names = [f"task {number}" for number in range(between(6, 40))]
    with Busy(store) as busy, multiprocessing.get_context("fork").Pool(4, watched, maxtasksperchild=1) as pool:
        found = pool.starmap_async(work, [(store, me) for me in names], chunksize=1)
        pids = found.get(60)
        pool.close()
        pool.join()
    assert len(set(pids)) == len(names)  # forked by a thread of the pool, one after the other
    busy.check(store)
    check(store, names)
    tally("forks, by a pool", len(names))


@pytest.mark.parametrize("method", METHODS)
@on("local")
def test_every_kind_of_pool_works_beside_busy_threads(store: ChunkedRunLogStore, method: str, tally: Tally) -> None:
    context = multiprocessing.get_context(method)
    workers = 4 if method == "fork" else between(2, 4)
    names = [f"task {number}" for number in range(8)]
    with Busy(store) as busy, context.Pool(workers) as pool:
        pool.starmap_async(work, [(store, me) for me in names], chunksize=1).get(60)
    busy.check(store)
    check(store, names)
    tally(f"processes of pools, {method}", workers)


@on("local")
def test_an_executor_that_forks_when_it_needs_a_worker_works_beside_busy_threads(
    store: ChunkedRunLogStore, tally: Tally
) -> None:
    names = [f"task {number}" for number in range(8)]
    with Busy(store) as busy, ProcessPoolExecutor(4, mp_context=multiprocessing.get_context("fork")) as executor:
        for one in [executor.submit(work, store, me) for me in names]:
            one.result(60)
    busy.check(store)
    check(store, names)
    tally("forks, by an executor", 4)


@on("local", "minio", "sqlite", "postgres")
def test_a_fork_inside_a_thread_and_inside_a_running_loop_works(store: ChunkedRunLogStore, tally: Tally) -> None:
    failures: list[BaseException] = []

    def in_thread() -> None:
        try:
            Child(lambda: work(store, "from a thread")).end()
            asyncio.run(in_loop())
        except BaseException as error:  # noqa: BLE001  asserted below
            failures.append(error)

    async def in_loop() -> None:
        work(store, "in the loop")
        Child(lambda: work(store, "from a loop")).end()
        Child(lambda: asyncio.run(in_childs_loop())).end()

    async def in_childs_loop() -> None:
        work(store, "in the child's loop")

    thread = threading.Thread(target=in_thread)
    thread.start()
    thread.join()
    assert failures == []
    check(store, ["from a thread", "in the loop", "from a loop", "in the child's loop"])
    tally("forks, in threads and loops", 3)


@pytest.mark.parametrize("name", ["memory", "local", "minio"])
def test_a_store_that_threads_with_running_loops_use_first_works_for_all(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store = ChunkedRunLogStore(place(name, request, tmp_path))
    again(store).create_run_log("r")
    gate = threading.Barrier(4)
    failures: list[BaseException] = []

    async def use(me: int) -> None:
        gate.wait(10)
        store.set_parameters("r", {f"{me} {number}": number for number in range(3)})
        await asyncio.sleep(0)
        assert store.get_run_log_by_id("r").parameters[f"{me} 2"] == 2

    def run(me: int) -> None:
        try:
            asyncio.run(use(me))
        except BaseException as error:  # noqa: BLE001  asserted below
            failures.append(error)

    threads = [threading.Thread(target=run, args=(me,)) for me in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert len(store.get_parameters("r")) == 12


WAYS = ["os._exit", "sys.exit", "exception", "end", "exec", "daemon", "closed", "killed"]

LEAVING = """
    import os, signal, sys
    from chunkstore import ChunkedRunLogStore
    import pickle
    store = pickle.loads(bytes.fromhex(sys.argv[1]))
    def use(me):
        store.set_parameters("r", {f"{me} {number}": number for number in range(3)})
        store.set_run_config("r", {me: 1})
        assert me in store.get_run_config("r")
        assert store.get_parameters("r")[f"{me} 2"] == 2
    use("parent")
    signal.alarm(40)
    for way in sys.argv[2:]:
        read, write = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(%d)
            if way == "daemon":
                if os.fork():
                    os._exit(0)
                os.setsid()
                os.close(read)
            use(way)
            if way == "os._exit":
                os._exit(0)
            if way == "sys.exit":
                sys.exit(0)
            if way == "exception":
                raise KeyError("on purpose")
            if way == "exec":
                os.execv(sys.executable, [sys.executable, "-c", ""])
            if way == "closed":
                store.close()
            if way == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            break
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        expected = {"exception": 1, "killed": -9}.get(way, 0)
        assert code == expected, (way, code)
        os.close(write)
        assert os.read(read, 1) == b""  # the daemon has ended too
        use(f"parent after {way}")
"""


@on("local", "minio", "sqlite", "postgres")
def test_whichever_way_a_child_leaves_its_parents_connections_stay_usable(
    store: ChunkedRunLogStore, tally: Tally
) -> None:
    import pickle

    program = textwrap.dedent(LEAVING) % WATCHDOG
    command = [sys.executable, "-W", "error", "-W", "ignore::DeprecationWarning", "-c", program]
    done = subprocess.run(
        [*command, pickle.dumps(store).hex(), *WAYS],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("Traceback") == 1  # the one that was raised on purpose: no child complains as it leaves
    expected = {"parent", *WAYS, *(f"parent after {way}" for way in WAYS)}
    assert set(again(store).get_run_config("r")) == expected
    tally("forks, ways of a child to leave", len(WAYS))


@on("local", "minio")
def test_a_program_that_is_started_inherits_neither_locks_nor_connections(store: ChunkedRunLogStore) -> None:
    program = "import os; print([os.readlink(f'/proc/self/fd/{fd}') for fd in os.listdir('/proc/self/fd') if os.path.exists(f'/proc/self/fd/{fd}')])"
    locks: HostLocks = store.backend._locks  # type: ignore[attr-defined]
    with locks.holding("r/run.json"):
        done = subprocess.run(
            [sys.executable, "-c", program], close_fds=False, stdin=subprocess.DEVNULL, capture_output=True, check=True
        )
    assert b".lock" not in done.stdout
    assert b"socket:" not in done.stdout


@contextmanager
def killed_holder(locks: HostLocks, survivor: Callable[[], object]) -> Iterator[int]:
    """A process that was killed while it held the key's lock, and its child, forked meanwhile, that lives on."""
    read, write = os.pipe()
    stay, leave = os.pipe()

    def hold() -> None:
        with locks.holding("key"):
            child = os.fork()
            if child == 0:
                watched()
                os.close(leave)
                os.read(stay, 1)
                code = 1
                try:
                    survivor()
                    code = 0
                finally:
                    os._exit(code)
            os.write(write, str(child).encode())
            signal.pause()

    holder, pipe = start(hold, ())
    child = int(os.read(read, 20))
    os.kill(holder.pid or 0, signal.SIGKILL)
    holder.join()
    pipe.close()
    try:
        yield child
    finally:
        for fd in (read, write, stay, leave):
            os.close(fd)


INHERITED = "a forked child keeps the descriptor of a lock that its parent held when it was killed"


def test_a_lock_ends_with_its_killed_holder_although_a_child_was_forked_meanwhile(tmp_path: Path) -> None:
    locks = HostLocks(tmp_path, timeout=1.0)
    with killed_holder(locks, lambda: None), locks.holding("key"):
        pass


def test_a_child_that_was_forked_under_a_lock_can_take_it_when_its_parent_was_killed(tmp_path: Path) -> None:
    locks = HostLocks(tmp_path, timeout=1.0)
    outcome = tmp_path / "taken"

    def take() -> None:
        with locks.holding("key"):
            outcome.touch()

    with killed_holder(locks, take) as child:
        pass
    wait_for_end(child)
    assert outcome.exists()


def wait_for_end(pid: int) -> None:
    """Waits for a process that is not ours to wait for."""
    try:
        handle = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        import select

        assert select.select([handle], [], [], WATCHDOG + 1)[0]
    finally:
        os.close(handle)


DURING_IMPORT = """
    import importlib.abc, os, signal, sys, threading
    from chunkstore import ChunkedRunLogStore
    from chunkstore.backends.s3 import S3Backend
    from chunkstore.errors import BackendUnavailableError

    importing, forked = threading.Event(), threading.Event()

    class Watch(importlib.abc.MetaPathFinder):
        def find_spec(self, name, path, target=None):
            if name == "s3fs.core" and threading.current_thread() is not threading.main_thread():
                importing.set()
                forked.wait(2)
            return None

    sys.meta_path.insert(0, Watch())
    backend = S3Backend(bucket="b", endpoint_url="http://127.0.0.1:9", key="k", secret="s", deadline=2)
    store = ChunkedRunLogStore(backend)

    def use():
        try:
            store.create_run_log("r")
        except BackendUnavailableError:
            done.append(True)

    done = []
    first = threading.Thread(target=use)
    first.start()
    importing.wait(3)
    child = os.fork()
    if child == 0:
        signal.alarm(%d)
        use()
        os._exit(0 if done else 1)
    forked.set()
    first.join()
    assert done
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == 0, f"the child ended with {code}"
"""


def test_a_child_that_was_forked_during_the_first_request_of_its_parent_does_not_hang() -> None:
    pytest.importorskip("s3fs")
    program = textwrap.dedent(DURING_IMPORT) % WATCHDOG
    done = subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", program],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr


def test_a_child_forked_while_an_object_is_written_shares_nothing_with_the_writer(tmp_path: Path) -> None:
    """Its own staging files have names of their own, also those of a child of the child."""
    backend = LocalBackend(tmp_path / "runs")
    store = ChunkedRunLogStore(backend)
    store.create_run_log("r")

    def staged() -> str:
        return Path(backend._stage(f"{backend.root}/r/run.json", b"")[0]).name

    def child() -> list[str]:
        return [staged(), *finish([start(staged, ())], WATCHDOG)]

    names = [staged(), *finish([start(child, ())], WATCHDOG)[0]]
    assert len(set(names)) == 3
