"""Leases: taken by one at a time, noticed when lost, and nothing is written under one that is; time is injected."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import pickle
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from chunkstore import (
    AsyncChunkedRunLogStore,
    BackendUnavailableError,
    ChunkedRunLogStore,
    FormatError,
    InvalidInputError,
    Lease,
    LeaseHeldError,
    LeaseLostError,
    NewerFormatError,
    NotSupportedError,
    RunLogNotFoundError,
    WorkerLease,
    WriteStateUnknownError,
    keys,
)
from chunkstore.backends import ANY, CREATE, FOUND, Backend, Condition, Excluding, Guarantees
from chunkstore.backends.local import LocalBackend
from chunkstore.leases import LeaseClock, boot_seconds, take
from chunkstore.maintenance import copy_runs, list_leases, sweep_leases, verify, written_under
from chunkstore.testing import CountingBackend
from chunkstore.testing.wrappers import Fault, FlakyBackend
from databases import Postgres
from places import again, at_once, in_database, in_file, memory, place
from sql_wire import SqlWire, When
from twins import Awaited

KEY = ".leases/r@executor.json"
WATCHDOG = 60.0


class Time:
    """A clock that goes on when somebody sleeps, and when it is told to."""

    def __init__(self) -> None:
        self.at = 1000.0

    def on(self, seconds: float) -> None:
        self.at += seconds

    @property
    def clock(self) -> LeaseClock:
        return LeaseClock(lambda: self.at, self.on)


class Hooked(CountingBackend):
    """Does something else right before a put of a key arrives, once; and promises what it is told to. Never exclusive, as a server is not."""

    def __init__(self, inner: Backend, **promises: bool) -> None:
        super().__init__(inner)
        self.before: dict[str, Callable[[], object]] = {}
        self.after: dict[str, Callable[[], object]] = {}
        self._promises = promises

    @property
    def guarantees(self) -> Guarantees:
        return dataclasses.replace(self.inner.guarantees, **self._promises)

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        self.before.pop(key, bool)()
        version = super().put(key, data, condition, barrier=barrier)
        self.after.pop(key, bool)()
        return version


@pytest.fixture
def passing() -> Time:
    return Time()


@pytest.fixture
def backend() -> Hooked:
    return Hooked(memory())


@pytest.fixture(params=["memory", "local", "sqlite", "postgres"])
def exclusive(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """A place that keeps others out while a lease is looked at and a chunk written."""
    return place(request.param, request, tmp_path)


@pytest.fixture
def exclusive_file(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    """One that other processes see too."""
    return place(request.param, request, tmp_path)


@pytest.fixture
def store(backend: Hooked) -> ChunkedRunLogStore:
    store = ChunkedRunLogStore(backend)
    store.create_run_log("r")
    backend.reset()
    return store


def taken(backend: Backend, passing: Time, name: str = "executor", ttl: float = 30.0, **others: Any) -> Lease:
    return take(backend, "r", name, ttl, clock=passing.clock, heartbeat=False, **others)


class TestTaking:
    def test_one_has_it_and_the_other_is_told_who(self, backend: Hooked, passing: Time) -> None:
        lease = taken(backend, passing, holder="first [red] \x1b[31m")
        with pytest.raises(
            LeaseHeldError,
            match=r"'executor' of run 'r' .* held by 'first \[red\] \\x1b\[31m' \('.*, process \d+'\) since 20",
        ) as told:
            taken(backend, passing)
        assert (told.value.holder, told.value.generation, told.value.run_id) == (lease.holder, 1, "r")
        assert (told.value.name, told.value.key) == ("executor", KEY)
        assert pickle.loads(pickle.dumps(told.value)).since == told.value.since

    def test_generations_rise_over_releases(self, backend: Hooked, passing: Time) -> None:
        seen = []
        for _ in range(5):
            with taken(backend, passing) as lease:
                seen.append(lease.generation)
        assert seen == [1, 2, 3, 4, 5]

    def test_names_and_runs_have_leases_of_their_own(self, backend: Hooked, passing: Time) -> None:
        names = ["executor", "a/b", "..", "[red]", "</script>", "ü@☃", "x" * 200, "x" * 199 + "y"]
        held = [taken(backend, passing, name) for name in names]
        held += [take(backend, "r" * 200, name, heartbeat=False) for name in names]
        assert all(not lease.lost for lease in held)
        assert all(len(key) <= 255 + len(".leases/") and key.isascii() for key in backend.inner._space.objects)
        with pytest.raises(LeaseHeldError):
            taken(backend, passing, "x" * 200)

    @pytest.mark.parametrize("ttl", [0, -1, float("nan"), float("inf"), "30", None])
    def test_a_ttl_that_is_none_is_refused(self, backend: Hooked, passing: Time, ttl: Any) -> None:
        with pytest.raises(InvalidInputError, match="ttl of a lease"):
            taken(backend, passing, ttl=ttl)

    @pytest.mark.parametrize(("name", "said"), [("", "empty"), ("x" * 201, "200 characters"), ("\ud800", "unicode")])
    def test_a_name_that_is_none_is_refused(self, backend: Hooked, passing: Time, name: str, said: str) -> None:
        with pytest.raises(InvalidInputError, match=said):
            taken(backend, passing, name)
        with pytest.raises(InvalidInputError, match="wait"):
            taken(backend, passing, wait=-1)

    def test_where_the_place_keeps_only_threads_or_one_host_apart_it_says_so(
        self, tmp_path: Path, passing: Time
    ) -> None:
        host = "processes of one host"
        for one, said in (
            (memory(), "threads of one process"),
            (LocalBackend(tmp_path), host),
            (in_file(tmp_path), host),
        ):
            assert not taken(one, passing).across_hosts
            with pytest.raises(NotSupportedError, match=said):
                taken(one, passing, across_hosts=True)
        with pytest.raises(NotSupportedError, match="conditional writes"):
            taken(Hooked(memory(), conditional_update=False), passing)

    def test_a_damaged_record_is_named_and_a_newer_one_too(self, backend: Hooked, passing: Time) -> None:
        taken(backend, passing).release()
        whole = backend.get(KEY).data
        for damaged in (b"", b"{}", whole[:-9], whole.replace(b'"generation":1', b'"generation":9'), b"[1]"):
            backend.put(KEY, damaged, ANY)
            with pytest.raises(FormatError, match=KEY):
                taken(backend, passing)
        backend.put(KEY, json.dumps({**json.loads(whole), "format": 2}).encode(), ANY)
        with pytest.raises(NewerFormatError, match="format 2"):
            taken(backend, passing)

    def test_what_it_costs(self, backend: Hooked, passing: Time) -> None:
        lease = taken(backend, passing)
        assert [(one.verb, one.key) for one in backend.reset()] == [
            ("get", KEY),
            ("put", KEY),
            ("get", ".leases/highest.json"),
            ("put", KEY),
        ]
        lease.renew()
        assert [one.verb for one in backend.reset()] == ["put"]
        with pytest.raises(LeaseHeldError):
            taken(backend, passing)
        assert [one.verb for one in backend.reset()] == ["get"]
        assert not lease.lost
        assert lease.seconds_left > 0
        assert lease.check() is None
        assert backend.requests == 0
        lease.release()
        assert [one.verb for one in backend.reset()] == ["put"]
        lease.release()
        assert backend.requests == 0
        taken(backend, passing)
        assert [one.verb for one in backend.reset()] == ["get", "put"]


class TestTakingOver:
    def test_not_before_the_record_was_the_same_for_its_ttl_and_then_at_once(
        self, backend: Hooked, passing: Time
    ) -> None:
        lease = taken(backend, passing, ttl=30)
        with pytest.raises(LeaseHeldError):
            taken(backend, passing, ttl=1, wait=29.9)
        assert passing.at == pytest.approx(1029.9)
        assert not lease.lost
        began = passing.at
        after = taken(backend, passing, wait=100)
        assert 30 <= passing.at - began < 31
        assert (lease.lost, after.generation, after.lost) == (True, 2, False)

    def test_a_renewal_begins_the_wait_anew(self, backend: Hooked, passing: Time) -> None:
        lease = taken(backend, passing, ttl=30)
        began = passing.at

        def sleep(seconds: float) -> None:
            before, _ = passing.at, passing.on(seconds)
            if before < began + 20 <= passing.at:
                lease.renew()

        take(backend, "r", wait=1000, heartbeat=False, clock=LeaseClock(lambda: passing.at, sleep))
        assert 50 <= passing.at - began < 52
        assert lease.lost

    def test_how_long_it_stood_before_it_was_looked_at_counts_for_nothing(self, backend: Hooked, passing: Time) -> None:
        taken(backend, passing, ttl=30)
        passing.on(10_000)
        with pytest.raises(LeaseHeldError):
            taken(backend, passing, wait=29)

    def test_the_holder_counts_from_before_its_request_was_sent(self, backend: Hooked, passing: Time) -> None:
        # At the second of its two writes.
        backend.before[KEY] = lambda: backend.before.update({KEY: lambda: passing.on(7)})
        lease = taken(backend, passing, ttl=30)
        assert lease.seconds_left == 23
        backend.before[KEY] = lambda: passing.on(11)
        backend.after[KEY] = lambda: passing.on(8)
        lease.renew()
        assert lease.seconds_left == 11
        passing.on(11)
        assert lease.lost

    def test_the_waiter_counts_from_after_its_look(self, backend: Hooked, passing: Time) -> None:
        taken(backend, passing, ttl=30)
        read, slow = backend.get, iter([5])
        backend.get = lambda key: (read(key), passing.on(next(slow, 0)))[0]  # type: ignore[method-assign]
        began = passing.at
        taken(backend, passing, wait=100)
        assert passing.at - began >= 5 + 30

    def test_the_time_of_day_means_nothing(
        self, backend: Hooked, passing: Time, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        lease, real = taken(backend, passing, ttl=30), time.time_ns
        for jump in (-(10**15), 10**15):
            monkeypatch.setattr(time, "time_ns", lambda jump=jump: real() + jump)
            monkeypatch.setattr(time, "time", lambda: time.time_ns() / 1e9)
            lease.renew()
            assert lease.seconds_left == 30
            with pytest.raises(LeaseHeldError):
                taken(backend, passing, wait=29)
        lease.release()

    def test_a_renewal_that_comes_too_late_is_refused_and_changes_nothing(self, backend: Hooked, passing: Time) -> None:
        lease = taken(backend, passing)
        passing.on(31)
        with pytest.raises(LeaseLostError, match="could not be renewed for 30 s"):
            lease.renew()
        after = taken(backend, passing, wait=60)
        lease.release()
        after.renew()
        assert after.generation == 2

    def test_who_holds_it_by_his_clock_and_was_overtaken_all_the_same_is_told(
        self, backend: Hooked, passing: Time
    ) -> None:
        lease = taken(backend, passing)
        fast = Time()
        after = taken(backend, fast, wait=60)  # a clock that runs away
        with pytest.raises(LeaseLostError, match="at generation 2"):
            lease.renew()
        assert lease.lost
        after.renew()


class TestLostReplies:
    @pytest.mark.parametrize("fault", list(Fault))
    @pytest.mark.parametrize("at", range(6))
    def test_taking_and_renewing_and_releasing_go_on(self, fault: Fault, at: int, passing: Time) -> None:
        inner = memory()
        flaky = FlakyBackend(inner, [*[None] * at, fault])
        try:
            lease = taken(flaky, passing)
        except BackendUnavailableError:  # of the first look, where nothing had been done
            assert at in (0, 2)
            lease = taken(flaky, passing, wait=60)
        for _ in range(2):
            lease.renew()
        assert not lease.lost
        assert lease.generation == 1
        flaky._script = iter([fault])
        lease.release()
        assert taken(inner, passing).generation == 2

    def test_a_release_that_fails_is_no_error_and_the_lease_expires(
        self, passing: Time, caplog: pytest.LogCaptureFixture
    ) -> None:
        inner = memory()
        flaky = FlakyBackend(inner, [])
        with taken(flaky, passing) as lease:
            flaky._script = iter([Fault.REFUSED] * 99)
        assert "expires in 30 s" in caplog.text
        assert lease.lost
        assert taken(inner, passing, wait=60).generation == 2


class TestLoss:
    def test_it_is_told_once(self, backend: Hooked, passing: Time, caplog: pytest.LogCaptureFixture) -> None:
        told: list[Lease] = []
        lease = taken(backend, passing, on_loss=told.append)
        passing.on(30)
        for _ in range(3):
            assert lease.lost
        assert told == [lease]
        assert caplog.text == ""
        with pytest.raises(LeaseLostError), taken(backend, passing, wait=60) as lease:
            passing.on(30)
        assert caplog.text.count("is lost") == 1  # nobody asked to be told

    def test_one_that_fails_when_it_is_told_hides_nothing(self, backend: Hooked, passing: Time) -> None:
        lease = taken(backend, passing, on_loss=lambda _: 1 / 0)
        passing.on(30)
        with pytest.raises(LeaseLostError):
            lease.check()

    def test_the_end_of_a_block_tells_unless_the_block_failed(self, backend: Hooked, passing: Time) -> None:
        with pytest.raises(LeaseLostError, match="30 s"), taken(backend, passing):
            passing.on(30)
        with pytest.raises(ZeroDivisionError), taken(backend, passing, wait=60):
            fail_late(passing)
        with taken(backend, passing, wait=60) as lease:
            lease.release()
        with pytest.raises(LeaseLostError, match="was released"):
            lease.check()

    def test_a_thread_renews_it_and_ends_with_it(self) -> None:
        inner = memory()
        lease = take(inner, "r", ttl=0.3)
        renewed = until(lambda: json.loads(inner.get(KEY).data)["beat"] >= 5)
        assert renewed
        assert not lease.lost
        lease.release()
        assert until(lambda: not any("chunkstore-lease" in thread.name for thread in threading.enumerate()))

    def test_a_lease_that_nobody_has_any_more_is_not_renewed(self) -> None:
        inner = memory()
        lease = take(inner, "r", ttl=0.2)
        assert until(lambda: json.loads(inner.get(KEY).data)["beat"] >= 3)
        del lease
        assert take(inner, "r", wait=WATCHDOG, heartbeat=False).generation == 2

    def test_it_is_noticed_while_a_renewal_hangs(self) -> None:
        hanging, gone = threading.Event(), threading.Event()
        backend = Hooked(memory())
        lease = take(backend, "r", ttl=0.3, on_loss=lambda _: gone.set())
        backend.before[KEY] = lambda: hanging.wait(WATCHDOG)
        assert gone.wait(WATCHDOG)
        assert not hanging.is_set()
        assert lease.lost
        hanging.set()


def fail_late(passing: Time) -> None:
    passing.on(30)
    raise ZeroDivisionError


def until(done: Callable[[], bool]) -> bool:
    """Whether it comes true."""
    end = boot_seconds() + WATCHDOG
    while not done():
        if boot_seconds() > end:
            return False
        time.sleep(0.01)
    return True


def step(store: ChunkedRunLogStore, name: str = "s") -> None:
    store.add_step_log(store.create_step_log(name, name), "r")


WRITES: dict[str, Callable[[ChunkedRunLogStore], object]] = {
    "create_run_log": lambda store: store.create_run_log("r"),
    "status": lambda store: store.update_run_log_status("r", "SUCCESS"),
    "config": lambda store: store.set_run_config("r", {"a": 1}),
    "parameters": lambda store: store.set_parameters("r", {"new": 1}),
    "step": step,
    "branch": lambda store: store.add_branch_log(store.create_branch_log("b.c"), "r"),
    "job": lambda store: store.add_job_log("r", store.create_job_log()),
    "delete": lambda store: store.delete_run_log("r"),
}


class TestFencedWrites:
    @pytest.mark.parametrize("name", WRITES)
    def test_each_is_refused_after_the_loss_and_changes_nothing(
        self, store: ChunkedRunLogStore, backend: Hooked, passing: Time, name: str
    ) -> None:
        fenced = store.fenced(lease := taken(backend, passing))
        if name == "create_run_log":
            store.delete_run_log("r")
        passing.on(30)
        before = dict(backend.inner._space.objects)
        with pytest.raises(LeaseLostError, match="'executor' of run 'r'"):
            WRITES[name](fenced)
        assert backend.inner._space.objects == before
        assert lease.lost
        if name != "create_run_log":
            assert fenced.get_run_log_by_id("r").status == "CREATED"

    def test_a_delete_is_refused_too(self, store: ChunkedRunLogStore, backend: Hooked, passing: Time) -> None:
        fenced = store.fenced(taken(backend, passing))
        step(fenced)
        passing.on(30)
        with pytest.raises(LeaseLostError):
            fenced.backend.delete("r/step.s.json")
        assert list(again(store).get_run_log_by_id("r").steps) == ["s"]

    @pytest.mark.parametrize("name", WRITES)
    def test_each_works_before_it(self, store: ChunkedRunLogStore, backend: Hooked, passing: Time, name: str) -> None:
        if name == "create_run_log":
            store.delete_run_log("r")
        WRITES[name](store.fenced(taken(backend, passing)))

    def test_they_cost_what_others_cost(self, store: ChunkedRunLogStore, backend: Hooked, passing: Time) -> None:
        lease = taken(backend, passing)
        backend.reset()
        fenced = store.fenced(lease)
        assert [(one.verb, one.key) for one in backend.reset()] == [("get", "r/run.json"), ("put", "r/run.json")]
        step(fenced)
        fenced.set_parameters("r", {"a": 1, "b": 2})
        fenced.update_run_log_status("r", "RUNNING")
        assert [one.verb for one in backend.reset()] == ["put"] * 4
        ours = store.fenced(WorkerLease(*lease.__reduce__()[1]))
        assert backend.requests == 0
        ours.update_run_log_status("r", "RUNNING")
        assert [(one.verb, one.key) for one in backend.reset()] == [
            ("get", "r/run.json"),
            ("get", KEY),
            ("put", "r/run.json"),
        ]

    def test_other_runs_and_other_places_are_refused(
        self, store: ChunkedRunLogStore, backend: Hooked, passing: Time
    ) -> None:
        fenced = store.fenced(taken(backend, passing))
        with pytest.raises(InvalidInputError, match="not of run 'r'"):
            fenced.create_run_log("r2")
        with pytest.raises(InvalidInputError, match="not of run 'r'"):
            fenced.create_run_log("r.json")
        with pytest.raises(InvalidInputError, match="is one of memory://"):
            store.fenced(taken(memory(), passing))

    def test_others_write_what_they_like(self, store: ChunkedRunLogStore, backend: Hooked, passing: Time) -> None:
        fenced = store.fenced(taken(backend, passing))
        step(fenced)
        plain = again(store)
        plain.set_run_config("r", {"plain": True})
        step(plain, "t")
        fenced.set_run_config("r", {"fenced": True})
        assert plain.get_run_config("r") == {"plain": True, "fenced": True}
        assert written_under(store, "r") == {"r/run.json": 1, "r/step.s.json": 1, "r/step.t.json": 0}

    def test_a_finished_run_is_packed_under_it_and_keeps_its_generations(
        self, store: ChunkedRunLogStore, backend: Hooked, passing: Time
    ) -> None:
        fenced = store.fenced(taken(backend, passing))
        step(fenced)
        fenced.update_run_log_status("r", "SUCCESS")
        assert fenced.compact("r").removed == 1
        assert written_under(store, "r") == {"r/run.json": 1, "r/step.s.json": 1}


class TestStoppedBetweenCheckAndWrite:
    """The holder's check is over, its put is on its way, and meanwhile another takes the lease."""

    def other_takes_over(
        self, backend: Hooked, passing: Time, work: Callable[[ChunkedRunLogStore], object]
    ) -> Callable[[], None]:
        def act() -> None:
            passing.on(30)
            other = ChunkedRunLogStore(backend)
            work(other.fenced(taken(backend, passing, wait=60)))

        return act

    def test_the_header_is_not_written_even_where_the_new_holder_wrote_nothing(
        self, store: ChunkedRunLogStore, backend: Hooked, passing: Time
    ) -> None:
        fenced = store.fenced(taken(backend, passing))
        backend.before["r/run.json"] = self.other_takes_over(backend, passing, bool)
        with pytest.raises(LeaseLostError, match=r"run\.json was written under generation 2"):
            fenced.update_run_log_status("r", "FAIL")
        assert again(store).get_run_log_by_id("r").status == "CREATED"

    def test_no_chunk_of_the_new_holder_is_replaced_nor_merged_with(
        self, store: ChunkedRunLogStore, backend: Hooked, passing: Time
    ) -> None:
        fenced = store.fenced(taken(backend, passing))
        fenced.set_parameters("r", {"a": "old"})
        backend.before["r/parameter.a.json"] = self.other_takes_over(
            backend, passing, lambda other: other.set_parameters("r", {"a": "new"})
        )
        with pytest.raises(LeaseLostError, match="generation 2"):
            fenced.set_parameters("r", {"a": "late"})
        backend.before["r/step.s.json"] = self.other_takes_over(backend, passing, step)
        again_fenced = store.fenced(taken(backend, passing, wait=60))
        with pytest.raises(LeaseLostError, match="generation 4"):
            step(again_fenced)
        assert again(store).get_parameter("r", "a") == "new"

    def test_a_chunk_that_was_made_is_taken_back(
        self, store: ChunkedRunLogStore, backend: Hooked, passing: Time
    ) -> None:
        fenced = store.fenced(taken(backend, passing))
        backend.before["r/step.late.json"] = self.other_takes_over(backend, passing, step)
        with pytest.raises(LeaseLostError):
            step(fenced, "late")
        assert list(again(store).get_run_log_by_id("r").steps) == ["s"]

    def test_where_deletes_have_no_condition_it_stays_and_is_found(
        self, passing: Time, caplog: pytest.LogCaptureFixture
    ) -> None:
        backend = Hooked(memory(), conditional_delete=False)
        store = ChunkedRunLogStore(backend)
        store.create_run_log("r")
        fenced = store.fenced(taken(backend, passing))
        before: dict[str, int] = {}
        backend.before["r/step.late.json"] = self.other_takes_over(
            backend, passing, lambda other: before.update(written_under(other, "r"))
        )
        with pytest.raises(LeaseLostError):
            step(fenced, "late")
        late = {key for key, at in written_under(store, "r").items() if at < 2 and before.get(key) != at}
        assert late == {"r/step.late.json"}
        assert "and stays" in caplog.text

    def test_a_worker_looks_again_where_its_write_took_long(
        self, store: ChunkedRunLogStore, backend: Hooked, passing: Time
    ) -> None:
        lease = taken(backend, passing)
        record = lease.__reduce__()[1][1]
        fenced = store.fenced(WorkerLease(backend, record, passing.clock))
        fenced.get_run_config("r")
        backend.before["r/step.late.json"] = self.other_takes_over(backend, passing, step)
        with pytest.raises(LeaseLostError, match="holds it, at generation 2"):
            step(fenced, "late")
        assert list(again(store).get_run_log_by_id("r").steps) == ["s"]

    def test_where_the_place_keeps_others_out_nobody_can_take_it_meanwhile(
        self, exclusive: Backend, passing: Time, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        backend, put = exclusive, exclusive.put
        found: list[str] = []

        def slow(key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
            if key == "r/step.s.json":
                passing.on(31)
                taker.start()
                found.append("taken" if taken_over.wait(0.2) else "waits")
            return put(key, data, condition, barrier=barrier)

        def take_over() -> None:
            lease = taken(backend, passing, wait=60)
            taken_over.set()
            later = ChunkedRunLogStore(backend).fenced(lease)
            found.extend(later.get_run_log_by_id("r").steps)

        monkeypatch.setattr(backend, "put", slow)
        store = ChunkedRunLogStore(backend)
        store.create_run_log("r")
        fenced = store.fenced(taken(backend, passing))
        taken_over, taker = threading.Event(), threading.Thread(target=take_over)
        step(fenced)
        taker.join(WATCHDOG)
        assert found == ["waits", "s"]
        with pytest.raises(LeaseLostError):
            step(fenced, "t")

    def test_there_it_is_looked_at_whatever_the_holder_believes(self, exclusive: Backend, passing: Time) -> None:
        backend = exclusive
        store = ChunkedRunLogStore(backend)
        store.create_run_log("r")
        fenced = store.fenced(lease := taken(backend, passing))
        taken(backend, Time(), wait=60)  # a clock that runs away
        with pytest.raises(LeaseLostError, match="at generation 2"):
            step(fenced)
        assert lease.lost
        assert again(store).get_run_log_by_id("r").steps == {}

    def test_there_a_renewal_waits_for_nobody_who_writes_under_it(self, exclusive: Backend, passing: Time) -> None:
        lease = taken(exclusive, passing)
        with lease.standing():
            assert at_once_in_a_thread(lease.renew) is None
        lease.release()


class TestKeepingOthersOut:
    """What `chunkstore.backends.Excluding` says, place by place."""

    def test_nobody_else_is_in_a_block_of_the_same_key(self, exclusive: Backend) -> None:
        assert isinstance(exclusive, Excluding)
        assert exclusive.excludes()
        exclusive.put("r/n.json", b"{}", FOUND)
        inside, most, done = [], [], []

        def enter() -> None:
            for _ in range(10):
                with exclusive.excluding("k"):
                    inside.append(1)
                    most.append(len(inside))
                    exclusive.put("r/n.json", b"{}", ANY)
                    inside.pop()
            done.append(True)

        threads = [threading.Thread(target=enter) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(WATCHDOG)
        assert (max(most), len(done)) == (1, 3)

    def test_who_waits_longer_than_the_deadline_is_told_and_no_connection_is_lost(
        self, postgres_server: Postgres
    ) -> None:
        table = postgres_server.new_table()
        with (
            closing(in_database(postgres_server.url(), table_name=table)) as first,
            closing(in_database(postgres_server.url(), table_name=table, deadline=1.0, max_connections=1)) as second,
        ):
            with first.excluding(KEY):
                with pytest.raises(BackendUnavailableError, match=r"cannot lock .*others held") as told:
                    second.excluding(KEY, shared=True).__enter__()
                assert told.value.transient
                with second.excluding("another", shared=True):
                    second.put("r/n.json", b"{}", ANY)
            with first.excluding(KEY, shared=True), second.excluding(KEY, shared=True):
                assert second.get("r/n.json").data == b"{}"
            assert locks(postgres_server) == 0

    @pytest.mark.parametrize("when", ["before", "after"])
    @pytest.mark.parametrize("at", range(3))
    def test_where_the_connection_breaks_nothing_is_written_outside_and_nobody_is_kept_out(
        self, postgres_server: Postgres, at: int, when: When
    ) -> None:
        """At the lock, at the write, at the unlock."""
        table = postgres_server.new_table()
        with (
            SqlWire(postgres_server) as wire,
            closing(in_database(wire.url(), table_name=table)) as backend,
            closing(in_database(postgres_server.url(), table_name=table)) as other,
        ):
            assert list(backend.folders()) == []
            assert backend.excludes()
            wire.reset()
            wire.strike(at, when)
            try:
                with backend.excluding(KEY):
                    backend.put("r/n.json", b"{}", CREATE)
                assert at != 1
            except WriteStateUnknownError:
                assert at == 1
            assert wire.struck == 1
            with other.excluding(KEY):
                assert bool([*other.list("r/")]) is (at != 1 or when == "after")
            assert locks(postgres_server) == 0

    def test_after_its_session_was_ended_nothing_is_written_any_more(self, postgres_server: Postgres) -> None:
        table = postgres_server.new_table()
        with (
            closing(in_database(postgres_server.url(), table_name=table, deadline=2.0)) as backend,
            closing(in_database(postgres_server.url(), table_name=table)) as other,
        ):
            with (
                backend.excluding(KEY, shared=True),
                other.excluding(KEY),
            ):  # once the server has ended the first session
                for said in ("the connection broke", "session .* has ended", "session .* has ended"):
                    with pytest.raises(BackendUnavailableError, match=said):
                        backend.put("r/late.json", b"{}", ANY)
            backend.put("r/early.json", b"{}", ANY)
            assert [entry.key for entry in other.list("r/")] == ["r/early.json"]

    def test_behind_a_pooler_postgresql_is_as_any_other_server(self, postgres_server: Postgres, passing: Time) -> None:
        with (
            SqlWire(postgres_server, pools=True) as wire,
            closing(in_database(wire.url(), table_name=postgres_server.new_table())) as backend,
        ):
            assert not backend.excludes()
            store = ChunkedRunLogStore(backend)
            store.create_run_log("r")
            fenced = store.fenced(lease := taken(backend, passing))
            wire.reset()
            step(fenced)
            assert [one.split()[0] for one in wire.statements] == ["INSERT"]
            passing.on(31)
            taken(backend, passing, wait=60)
            with pytest.raises(LeaseLostError):
                step(fenced, "t")
            assert lease.lost

    def test_what_it_costs_in_statements(self, postgres_server: Postgres, passing: Time) -> None:
        with (
            SqlWire(postgres_server) as wire,
            closing(in_database(wire.url(), table_name=postgres_server.new_table())) as backend,
        ):
            store = ChunkedRunLogStore(backend)
            store.create_run_log("r")
            fenced = store.fenced(lease := taken(backend, passing))
            wire.reset()
            step(fenced)
            assert [one.split()[0] for one in wire.statements] == ["SELECT", "SELECT", "INSERT", "SELECT"]
            wire.reset()
            step(store, "t")
            assert [one.split()[0] for one in wire.statements] == ["INSERT"]
            wire.reset()
            lease.renew()
            assert [one.split()[0] for one in wire.statements] == ["UPDATE"]


def locks(server: Postgres) -> int:
    """How many advisory locks there are, once the server has taken note of what was closed."""
    asked = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'"
    until(lambda: server.run(asked) == [(0,)])
    return int(server.run(asked)[0][0])


def at_once_in_a_thread(work: Callable[[], object]) -> object:
    found: list[object] = []
    thread = threading.Thread(target=lambda: found.append(work()))
    thread.start()
    thread.join(WATCHDOG)
    return found[0]


class TestWorkers:
    @pytest.mark.parametrize("exclusive_file", ["local", "postgres"], indirect=True)
    def test_one_in_another_process_writes_as_long_as_it_is_held(self, exclusive_file: Backend) -> None:
        store = ChunkedRunLogStore(exclusive_file)
        store.create_run_log("r")
        lease = store.lease("r")
        sent = pickle.dumps(store.fenced(lease))
        assert at_once(write_as_worker, [(sent, "a"), (sent, "b")], "spawn") == ["a", "b"]
        lease.release()
        with store.lease("r"):
            assert at_once(write_as_worker, [(sent, "c")]) == ["LeaseLostError"]
        assert sorted(store.get_parameters("r")) == ["a", "b"]

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
    @pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
    @pytest.mark.parametrize("exclusive_file", ["local", "sqlite", "postgres"], indirect=True)
    def test_a_forked_child_writes_under_it_and_neither_holds_nor_releases_it(self, exclusive_file: Backend) -> None:
        store = ChunkedRunLogStore(exclusive_file)
        store.create_run_log("r")
        with store.lease("r") as lease:
            fenced = store.fenced(lease)
            fenced.set_run_config("r", {"parent": 1})
            assert at_once(use_inherited, [(lease, fenced)]) == ["not mine to renew"]
            lease.check()
            assert store.get_run_config("r") == {"parent": 1, "child": 1}
        assert at_once(use_inherited, [(lease, fenced)]) == ["lost"]

    def test_what_travels_tells_what_it_is(self, store: ChunkedRunLogStore, backend: Hooked, passing: Time) -> None:
        lease = taken(backend, passing)
        worker = pickle.loads(pickle.dumps(pickle.loads(pickle.dumps(lease))))
        for name in ("run_id", "name", "ttl", "holder", "token", "generation", "place"):
            assert getattr(worker, name) == getattr(lease, name)
        assert "generation 1" in repr(worker)
        assert "generation 1, held" in repr(lease)


def write_as_worker(sent: bytes, name: str) -> str:
    try:
        pickle.loads(sent).set_parameters("r", {name: 1})
    except LeaseLostError as error:
        return type(error).__name__
    return name


def use_inherited(lease: Lease, fenced: ChunkedRunLogStore) -> str:
    if lease.lost:
        with pytest.raises(LeaseLostError):
            fenced.set_run_config("r", {"late": 1})
        return "lost"
    with lease:
        fenced.set_run_config("r", {"child": 1})
    lease.release()
    with pytest.raises(InvalidInputError, match="forked off"):
        lease.renew()
    return "not mine to renew"


class TestOnALoop:
    @pytest.mark.parametrize("sort", ["carried", "in threads"])
    def test_one_has_it_and_writes_under_it(self, sort: str, tmp_path: Path) -> None:
        if sort == "carried":
            pytest.importorskip("greenlet")
        backend = Awaited() if sort == "carried" else LocalBackend(tmp_path / "runs")

        async def work() -> None:
            async with AsyncChunkedRunLogStore(ChunkedRunLogStore(backend)) as store:
                lease = await store.lease("r", ttl=60)
                with pytest.raises(LeaseHeldError):
                    await store.lease("r", wait=0.05)
                fenced = await store.fenced(lease)
                await fenced.create_run_log("r")
                await asyncio.gather(*(fenced.set_parameters("r", {f"{number}": number}) for number in range(20)))
                await asyncio.to_thread(lease.release)
                with pytest.raises(LeaseLostError):
                    await fenced.update_run_log_status("r", "SUCCESS")
                assert len(await store.get_parameters("r")) == 20

        asyncio.run(work())


class TestBesideRuns:
    def test_no_reader_listing_check_or_copy_meets_it(self, tmp_path: Path) -> None:
        store = ChunkedRunLogStore(LocalBackend(tmp_path / "runs"))
        with store.lease("r") as lease, store.lease("r2"):
            fenced = store.fenced(lease)
            fenced.create_run_log("r")
            step(fenced)
            assert store.list_run_ids() == ["r"]
            assert [one.run_id for one in store.get_run_logs()] == ["r"]
            assert list(verify(store)) == []
            fenced.update_run_log_status("r", "SUCCESS")
            target = ChunkedRunLogStore(memory())
            assert [one.run_id for one in copy_runs(store, target).runs] == ["r"]
            assert list(target.backend.list(keys.LEASES)) == []
            assert [(one.run_id, one.held) for one in list_leases(store)] == [("r", True), ("r2", True)]
        store.delete_run_log("r")
        with pytest.raises(RunLogNotFoundError):
            store.get_run_log_by_id("r")
        assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == [".index", ".leases", ".locks"]

    def test_a_copied_run_can_be_driven_where_it_is(
        self, store: ChunkedRunLogStore, backend: Hooked, passing: Time
    ) -> None:
        for _ in range(3):
            with taken(backend, passing) as lease:
                step(store.fenced(lease))
        store.update_run_log_status("r", "SUCCESS")  # only runs that ended are copied
        target = ChunkedRunLogStore(memory())
        copy_runs(store, target)
        lease = taken(target.backend, passing)
        assert lease.generation == 1
        fenced = target.fenced(lease)
        assert lease.generation == 4
        late = fenced.get_step_log("s", "r")
        late.status = "SUCCESS"
        fenced.add_step_log(late, "r")
        lease.release()
        assert taken(target.backend, passing).generation == 5

    def test_a_run_can_be_made_under_its_lease(self, backend: Hooked, passing: Time) -> None:
        store = ChunkedRunLogStore(backend)
        fenced = store.fenced(taken(backend, passing))
        fenced.create_run_log("r")
        assert written_under(store, "r") == {"r/run.json": 1}


class TestSweeping:
    def test_the_records_of_runs_that_are_gone_go_and_generations_do_not_begin_anew(
        self, store: ChunkedRunLogStore, backend: Hooked, passing: Time
    ) -> None:
        for _ in range(7):
            taken(backend, passing).release()
        held = taken(backend, passing, "other")
        assert sweep_leases(store).gone == ()
        store.delete_run_log("r")
        dry = sweep_leases(store, dry_run=True)
        swept = sweep_leases(store)
        assert dry == swept
        assert [(one.name, one.generation) for one in swept.gone] == [("executor", 7)]
        assert [one.name for one in swept.kept] == ["other"]
        assert [one.name for one in list_leases(store)] == ["other"]
        assert taken(backend, passing).generation == 8
        held.renew()

    @pytest.mark.parametrize("name", ["local", "sqlite", "postgres"])
    def test_a_run_that_is_deleted_and_made_again_has_higher_generations(
        self, name: str, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        store, seen = ChunkedRunLogStore(place(name, request, tmp_path)), []
        for _ in range(3):
            with store.lease("r") as lease:
                seen.append(lease.generation)
                store.fenced(lease).create_run_log("r")
            store.delete_run_log("r")
            with store.lease("r") as lease:
                seen.append(lease.generation)
            assert [one.run_id for one in sweep_leases(store).gone] == ["r"]
        assert seen == [1, 2, 3, 4, 5, 6]

    def test_what_it_costs(self, store: ChunkedRunLogStore, backend: Hooked, passing: Time) -> None:
        for name in "abc":
            taken(backend, passing, name).release()
        store.delete_run_log("r")
        backend.reset()
        assert len(sweep_leases(store).gone) == 3
        assert backend.by_verb == {"list": 1, "folders": 1, "get_many": 3, "get": 1, "put": 1, "delete": 3}

    def test_with_patience_what_a_dead_holder_left_goes_too(self, backend: Hooked) -> None:
        take(backend, "r", ttl=0.1, heartbeat=False)
        alive = take(backend, "r", "alive", ttl=0.3)
        swept = sweep_leases(ChunkedRunLogStore(backend), patience=0.6)
        assert [one.name for one in swept.gone] == ["executor"]
        assert [one.name for one in swept.kept] == ["alive"]
        alive.check()
        alive.release()

    def test_what_is_damaged_stays_and_is_named(self, backend: Hooked) -> None:
        store = ChunkedRunLogStore(backend)
        take(backend, "r", heartbeat=False).release()
        backend.put(KEY, b"{}", ANY)
        assert sweep_leases(store).damaged == (KEY,)
        with pytest.raises(FormatError, match=KEY):
            list_leases(store)

    def test_where_deletes_have_no_condition_it_is_refused(self) -> None:
        with pytest.raises(NotSupportedError, match="stay"):
            sweep_leases(ChunkedRunLogStore(Hooked(memory(), conditional_delete=False)))

    @pytest.mark.parametrize("at", range(4))
    def test_beside_who_takes_one_no_generation_comes_twice(self, at: int, passing: Time) -> None:
        """Another takes, releases and sweeps, complete, before each request of the taking."""
        backend = Hooked(memory())
        store = ChunkedRunLogStore(backend)
        seen: list[int] = []

        def meanwhile() -> None:
            try:
                with taken(backend, passing) as other:
                    seen.append(other.generation)
            except LeaseHeldError:
                pass
            sweep_leases(store)

        requests = iter(range(9))
        get, put = backend.get, backend.put

        def turn(verb: Callable[..., Any]) -> Callable[..., Any]:
            def asked(*arguments: Any, **others: Any) -> Any:
                if next(requests) == at:
                    backend.get, backend.put = get, put  # type: ignore[method-assign]
                    meanwhile()
                return verb(*arguments, **others)

            return asked

        backend.get, backend.put = turn(get), turn(put)  # type: ignore[method-assign]
        lease = taken(backend, passing, wait=0)
        seen.append(lease.generation)
        lease.release()
        sweep_leases(store)
        seen.append(taken(backend, passing).generation)
        assert seen == sorted(set(seen))
        assert len(seen) >= 2


@pytest.mark.parametrize("name", ["lease", "fenced"])
def test_the_face_says_what_it_costs(name: str) -> None:
    assert "request" in (getattr(ChunkedRunLogStore, name).__doc__ or "")


def test_the_keys_of_leases_are_told_from_all_others() -> None:
    assert keys.run_of_lease(keys.lease(".odd run%", "a@b")) == ".odd run%"
    for key in (".leases/highest.json", "r/run.json", ".leases/r@x.txt", ".leases/a b /@x.json", ".index/r@x.json"):
        assert keys.run_of_lease(key) is None
    assert not keys.is_chunk(keys.lease("r", "step.a"))


class Contenders(RuleBasedStateMachine):
    """Three that take, renew, release and write, while the time passes as it likes; what one writes is never another's."""

    who = st.integers(0, 2)

    def __init__(self) -> None:
        super().__init__()
        self.passing = Time()
        self.backend = Hooked(memory())
        self.store = ChunkedRunLogStore(self.backend)
        self.store.create_run_log("r")
        self.held: dict[int, Lease] = {}
        self.fenced: dict[int, ChunkedRunLogStore] = {}
        self.generations: list[int] = []
        self.written: dict[str, object] = {}

    @rule(who=who, wait=st.sampled_from([0.0, 5.0, 40.0]), ttl=st.sampled_from([1.0, 10.0, 30.0]))
    def take(self, who: int, wait: float, ttl: float) -> None:
        others = [lease for lease in self.held.values() if not lease.lost]
        try:
            lease = taken(self.backend, self.passing, wait=wait, ttl=ttl)
        except LeaseHeldError:
            return
        assert all(other.lost for other in others)
        self.generations.append(lease.generation)
        self.held[who], self.fenced[who] = lease, self.store.fenced(lease)

    @rule(seconds=st.sampled_from([0.5, 3.0, 11.0, 31.0]))
    def wait(self, seconds: float) -> None:
        self.passing.on(seconds)

    @rule(who=who)
    def renew(self, who: int) -> None:
        if who in self.held:
            was_lost = self.held[who].lost
            try:
                self.held[who].renew()
                assert not was_lost
            except LeaseLostError:
                assert was_lost

    @rule(who=who)
    def release(self, who: int) -> None:
        if who in self.held:
            self.held[who].release()

    @rule(who=who, value=st.integers())
    def write(self, who: int, value: int) -> None:
        if who in self.held:
            was_lost = self.held[who].lost
            try:
                self.fenced[who].set_run_config("r", {"value": [who, value]})
                assert not was_lost
                self.written["value"] = [who, value]
            except LeaseLostError:
                assert was_lost

    @rule()
    def sweep(self) -> None:
        sweep_leases(self.store)

    @invariant()
    def one_at_most(self) -> None:
        assert sum(not lease.lost for lease in self.held.values()) <= 1
        assert self.generations == sorted(set(self.generations))
        assert again(self.store).get_run_config("r") == self.written


TestContenders = Contenders.TestCase
TestContenders.settings = hypothesis_settings(max_examples=25, stateful_step_count=25, deadline=None)


@pytest.fixture(autouse=True)
def no_lease_is_left_renewing() -> Iterator[None]:
    yield
    assert until(lambda: not any("chunkstore-lease-renewing" in thread.name for thread in threading.enumerate()))


def test_a_lease_that_a_fenced_store_takes_keeps_others_out_as_any_other(tmp_path: Path) -> None:
    store = ChunkedRunLogStore(LocalBackend(tmp_path))
    with (
        store.lease("r", "executor", heartbeat=False) as first,
        store.fenced(first).lease("r", "other", heartbeat=False) as second,
        second.standing(),
        pytest.raises(BackendUnavailableError),
        LocalBackend(tmp_path, deadline=0.05).excluding(keys.lease("r", "other")),
    ):
        pass
