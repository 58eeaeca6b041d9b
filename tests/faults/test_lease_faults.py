"""Leases of real processes that are stopped, killed, cut off or have another time of day: one holder at any moment, and nothing written by one that was."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from chunkstore import ChunkedRunLogStore, ChunkStoreError, Lease, LeaseHeldError, LeaseLostError, NotSupportedError
from chunkstore.backends import Backend, Condition
from chunkstore.backends.local import LocalBackend
from chunkstore.leases import boot_seconds, take
from chunkstore.maintenance import sweep_leases
from chunkstore.testing import CountingBackend
from places import again, at_once, between, in_bucket, in_database, table_for
from rigs import Tally
from tcp_faults import TcpFaults

TTL = 1.0
WATCHDOG = 60.0
FORK = multiprocessing.get_context("fork")

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


@pytest.fixture
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    if request.param in ("minio", "rclone"):
        return in_bucket(request.getfixturevalue(f"{request.param}_server"), tmp_path)
    if request.param in ("sqlite", "postgres"):
        return table_for(request.param, request, tmp_path)
    local = LocalBackend(tmp_path / "runs")
    return local if request.param == "local" else Elsewhere(local)


def on(*names: str) -> Any:
    return pytest.mark.parametrize("backend", names, indirect=True)


class Elsewhere(CountingBackend):
    """A disk as a place that other hosts use too: what a lease says and a write are two steps. Stops its process right before a put of a key."""

    stops_at = ""

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        stop_at(self.stops_at, key)
        return super().put(key, data, condition, barrier=barrier)


def stopping(backend: Backend) -> Backend:
    """A place as it is, which stops its process right before a put of the key `stops_at`."""
    put = backend.put

    def stopped(key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        stop_at(backend.stops_at, key)  # type: ignore[attr-defined]
        return put(key, data, condition, barrier=barrier)

    backend.stops_at = ""  # type: ignore[attr-defined]
    backend.put = stopped  # type: ignore[method-assign]
    return backend


def stop_at(where: str, key: str) -> None:
    if where and key == where:
        os.kill(os.getpid(), signal.SIGSTOP)


@contextmanager
def holder(backend: Backend, *, wall_clock: float = 0.0, ttl: float = TTL) -> Iterator[tuple[int, Connection]]:
    """A process that holds the lease and does what the pipe says, one thing after the other; its id, and the pipe."""
    ours, theirs = FORK.Pipe()
    process = FORK.Process(target=_hold, args=(backend, theirs, wall_clock, ttl))
    process.start()
    theirs.close()
    assert process.pid is not None
    try:
        assert said(ours) == "held"
        yield process.pid, ours
    finally:
        process.kill()
        process.join()
        ours.close()


def said(pipe: Connection) -> Any:
    assert pipe.poll(WATCHDOG), "the holder says nothing"
    return pipe.recv()


def _hold(backend: Backend, pipe: Connection, wall_clock: float, ttl: float) -> None:
    if wall_clock:
        real, real_ns = time.time, time.time_ns
        time.time, time.time_ns = lambda: real() + wall_clock, lambda: real_ns() + int(wall_clock * 1e9)
    store = ChunkedRunLogStore(backend)
    lost_at: list[float] = []
    lease = store.lease("r", ttl=ttl, on_loss=lambda _: lost_at.append(boot_seconds()))
    fenced = store.fenced(lease)
    pipe.send("held")
    while True:
        verb, *arguments = pipe.recv()
        try:
            if verb == "lost at":
                pipe.send(lost_at)
                continue
            if verb == "stop at":
                backend.stops_at = arguments[0]  # type: ignore[attr-defined]
            else:
                write(fenced, verb, *arguments)
            pipe.send("done")
        except ChunkStoreError as error:
            pipe.send(type(error).__name__)


def write(store: ChunkedRunLogStore, verb: str, name: str) -> None:
    if verb == "step":
        store.add_step_log(store.create_step_log(name, name), "r")
    elif verb == "status":
        store.update_run_log_status("r", name)
    else:
        store.set_parameters("r", {name: verb})


def stopped(pid: int) -> None:
    """Returns once the process is stopped."""
    found, status = os.waitpid(pid, os.WUNTRACED)
    assert found == pid
    assert os.WIFSTOPPED(status)


def content(backend: Backend) -> dict[str, bytes]:
    return dict(backend.get_many([entry.key for entry in backend.list("r/")]))


def founded(backend: Backend) -> ChunkedRunLogStore:
    store = ChunkedRunLogStore(backend)
    store.create_run_log("r")
    return store


@on("local", "elsewhere", "minio", "sqlite", "postgres")
def test_a_holder_that_was_stopped_past_its_ttl_writes_nothing_any_more(backend: Backend, tally: Tally) -> None:
    store = founded(backend)
    with holder(backend) as (pid, pipe):
        for verb in ("step", "status", "parameter"):
            pipe.send((verb, "FIRST"))
            assert said(pipe) == "done"
        os.kill(pid, signal.SIGSTOP)
        stopped(pid)
        with store.lease("r", ttl=30, wait=WATCHDOG) as lease:
            fenced = store.fenced(lease)
            write(fenced, "status", "SECOND")
            write(fenced, "step", "mine")
            before = content(backend)
            for verb in ("step", "status", "parameter"):
                pipe.send((verb, "LATE"))
            os.kill(pid, signal.SIGCONT)
            assert [said(pipe) for _ in range(3)] == ["LeaseLostError"] * 3
            assert content(backend) == before
            lease.check()
            pipe.send(("lost at",))
            assert len(said(pipe)) == 1
    tally("holders stopped past the ttl of their lease", 1)


@on("elsewhere")
@pytest.mark.parametrize(("verb", "key"), [("status", "r/run.json"), ("step", "r/step.LATE.json")])
def test_one_that_is_stopped_between_its_check_and_its_write_leaves_nothing(
    backend: Backend, verb: str, key: str
) -> None:
    store = founded(backend)
    with holder(backend) as (pid, pipe):
        pipe.send(("stop at", key))
        assert said(pipe) == "done"
        pipe.send((verb, "LATE"))
        stopped(pid)
        with store.lease("r", ttl=30, wait=WATCHDOG) as lease:
            write(store.fenced(lease), "step", "mine")
            before = content(backend)
            os.kill(pid, signal.SIGCONT)
            assert said(pipe) == "LeaseLostError"
            assert content(backend) == before


@on("local", "sqlite")
def test_on_a_disk_one_that_is_stopped_in_its_write_keeps_the_lease_until_it_goes_on(backend: Backend) -> None:
    store = founded(stopping(backend))
    with holder(backend) as (pid, pipe):
        pipe.send(("stop at", "r/step.last.json"))
        assert said(pipe) == "done"
        pipe.send(("step", "last"))
        stopped(pid)
        found: list[Lease] = []
        taker = threading.Thread(target=lambda: found.append(store.lease("r", ttl=30, wait=WATCHDOG)))
        taker.start()
        taker.join(2 * TTL)
        assert found == []
        os.kill(pid, signal.SIGCONT)
        assert said(pipe) == "done"  # nobody could have had it
        taker.join(WATCHDOG)
        assert list(again(store).get_run_log_by_id("r").steps) == ["last"]
        pipe.send(("step", "late"))
        assert said(pipe) == "LeaseLostError"
        found[0].release()


def test_in_postgresql_the_write_of_one_that_is_stopped_in_it_is_lost_and_others_go_on(
    request: pytest.FixtureRequest,
) -> None:
    server = request.getfixturevalue("postgres_server")
    backend = stopping(in_database(server.url(), table_name=server.new_table(), deadline=3.0))
    request.addfinalizer(backend.close)
    store = founded(backend)
    with holder(backend) as (pid, pipe):
        pipe.send(("stop at", "r/run.json"))
        assert said(pipe) == "done"
        pipe.send(("status", "LATE"))
        stopped(pid)
        with store.lease("r", ttl=30, wait=WATCHDOG) as lease:  # the server has ended its session
            before = content(backend)  # nothing is written by the new holder that would stand in its way
            os.kill(pid, signal.SIGCONT)
            assert said(pipe) == "LeaseLostError"
            assert content(backend) == before
            lease.check()


@on("postgres")
def test_one_that_is_killed_in_its_write_keeps_nobody_out(backend: Backend) -> None:
    store = founded(stopping(backend))
    with holder(backend) as (pid, pipe):
        pipe.send(("stop at", "r/step.last.json"))
        assert said(pipe) == "done"
        pipe.send(("step", "last"))
        stopped(pid)
        os.kill(pid, signal.SIGKILL)
        with store.lease("r", wait=WATCHDOG) as lease:
            write(store.fenced(lease), "step", "mine")
    assert list(again(store).get_run_log_by_id("r").steps) == ["mine"]


@on("local", "minio")
def test_that_of_a_killed_holder_is_taken_over_after_its_ttl_and_not_before(backend: Backend) -> None:
    store = founded(backend)
    with holder(backend) as (pid, _):
        os.kill(pid, signal.SIGKILL)
        began = boot_seconds()
        with pytest.raises(LeaseHeldError, match=f"process {pid}"):
            store.lease("r")
        with store.lease("r", wait=WATCHDOG) as lease:
            assert boot_seconds() - began >= TTL
            assert lease.generation == 2
            write(store.fenced(lease), "status", "FAIL")


@pytest.mark.parametrize("jump", [-90_000.0, 90_000.0])
def test_another_time_of_day_changes_nothing(tmp_path: Path, jump: float) -> None:
    backend = LocalBackend(tmp_path / "runs")
    store = founded(backend)
    with holder(backend, wall_clock=jump) as (_, pipe):
        with pytest.raises(LeaseHeldError):
            store.lease("r", wait=2.5 * TTL)
        pipe.send(("status", "RUNNING"))
        assert said(pipe) == "done"
        pipe.send(("lost at",))
        assert said(pipe) == []


@pytest.mark.parametrize("cut", ["closed", "silent"])
def test_a_holder_whose_network_is_cut_notices_before_another_has_it(
    request: pytest.FixtureRequest, tmp_path: Path, cut: str
) -> None:
    server = request.getfixturevalue("minio_server")
    near = in_bucket(server, tmp_path)
    store = founded(near)
    with TcpFaults(server.endpoint_url) as tcp:
        far = in_bucket(server.through(tcp.url), tmp_path, bucket=near.settings.bucket, deadline=5.0)  # type: ignore[attr-defined]
        with holder(far, ttl=2.0) as (_, pipe):
            pipe.send(("status", "FIRST"))
            assert said(pipe) == "done"
            if cut == "closed":
                tcp.cut("request", 0, times=1_000_000)
            else:
                tcp.delay(3600)
            with store.lease("r", ttl=30, wait=WATCHDOG) as lease:
                taken_at = boot_seconds()
                write(store.fenced(lease), "status", "SECOND")
                pipe.send(("lost at",))
                (lost_at,) = said(pipe)
                assert lost_at <= taken_at
                tcp.calm()
                before = content(near)
                for verb in ("step", "status"):
                    pipe.send((verb, "LATE"))
                    assert said(pipe) == "LeaseLostError"
                assert content(near) == before


def contend(backend: Backend, times: int, seed: int) -> list[tuple[int, float, float]]:
    """When it held which generation: from when it had it until when it last knew so."""
    chance, held = random.Random(seed), []
    store = ChunkedRunLogStore(backend)
    for _ in range(times):
        lease = take(backend, "r", ttl=0.4, wait=WATCHDOG)
        began = last = boot_seconds()
        try:
            fenced = store.fenced(lease)
            for _ in range(chance.randrange(3)):
                fenced.set_run_config("r", {"last": lease.generation, f"by {lease.generation}": True})
                now = boot_seconds()
                lease.check()
                last = now
            if chance.random() < 0.1:
                lease._ended.set()  # as if it died: it is never renewed, nor released
            else:
                lease.release()
        except LeaseLostError:
            pass  # the machine was busy
        held.append((lease.generation, began, last))
    return held


@on("local", "elsewhere", "minio", "sqlite", "postgres")
def test_of_eight_contenders_one_has_it_at_any_moment_and_generations_rise(backend: Backend, tally: Tally) -> None:
    store = founded(backend)
    held = sorted(
        one for some in at_once(contend, [(backend, between(3, 25), seed) for seed in range(8)]) for one in some
    )
    generations = [generation for generation, _, _ in held]
    assert len(set(generations)) == len(generations) == 8 * between(3, 25)
    assert all(before[2] <= after[1] for before, after in itertools.pairwise(held))
    config = again(store).get_run_config("r")
    written = sorted(int(name.removeprefix("by ")) for name in config if name.startswith("by "))
    assert config.get("last", 0) == max(written, default=0)  # nobody wrote over a later one
    tally("holdings of leases by contending processes", len(held))


def drive(backend: Backend, name: str) -> str:
    """An executor: everything under the lease, or nothing at all."""
    store = ChunkedRunLogStore(backend)
    try:
        with store.lease("pipeline") as lease:
            run = store.fenced(lease)
            run.create_run_log("pipeline", tag=name)
            for number in range(5):
                run.add_step_log(run.create_step_log(f"{number}", f"{number}"), "pipeline")
            run.update_run_log_status("pipeline", "SUCCESS")
            GATE.wait(WATCHDOG)  # until all others have tried
    except LeaseHeldError:
        GATE.wait(WATCHDOG)
        return "held"
    return name


GATE = FORK.Barrier(4)


def test_of_four_executors_one_drives_the_run(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "runs")
    found = at_once(drive, [(backend, name) for name in "abcd"])
    (winner,) = set(found) - {"held"}
    assert found.count("held") == 3
    run = ChunkedRunLogStore(backend).get_run_log_by_id("pipeline")
    assert (run.tag, run.status, sorted(run.steps)) == (winner, "SUCCESS", list("01234"))


@on("rclone")
def test_where_a_server_ignores_conditions_it_keeps_the_processes_of_this_host_apart_and_says_so(
    backend: Backend,
) -> None:
    store = founded(backend)
    with store.lease("r") as lease:
        assert not lease.across_hosts
        with pytest.raises(LeaseHeldError):
            store.lease("r")
        write(store.fenced(lease), "status", "FIRST")
    with pytest.raises(NotSupportedError, match="processes of one host"):
        store.lease("r", across_hosts=True)
    assert store.lease("r", heartbeat=False).generation == 2


@on("minio")
def test_on_minio_it_reaches_other_hosts_and_its_record_stays(backend: Backend) -> None:
    store = founded(backend)
    with store.lease("r", across_hosts=True) as lease:
        assert lease.across_hosts
    store.delete_run_log("r")
    with pytest.raises(NotSupportedError, match="leases stay"):
        sweep_leases(store)
