"""Runs from store to store: byte for byte, whole or not at all, whoever is killed or writes meanwhile."""

from __future__ import annotations

import multiprocessing
import os
import random
import shutil
import signal
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from chunkstore import (
    BackendUnavailableError,
    BranchLog,
    ChunkedRunLogStore,
    InvalidInputError,
    RunFilter,
    RunLogExistsError,
    RunLogNotFoundError,
    StepLog,
    keys,
)
from chunkstore.backends import ANY, Backend, Blob, Condition, Entry
from chunkstore.backends.local import LocalBackend
from chunkstore.maintenance import copying
from chunkstore.maintenance.copying import CopyReport, copy_runs
from chunkstore.maintenance.progress import Progress
from chunkstore.store import StoreSettings
from chunkstore.testing import CountingBackend, FlakyBackend
from places import again, at_once, between, in_bucket, memory
from twins import Awaited

FORK = multiprocessing.get_context("fork")
Store = ChunkedRunLogStore


def local(folder: Path, **settings: object) -> Store:
    return Store(LocalBackend(folder), settings=StoreSettings(**settings))  # type: ignore[arg-type]


def filled(store: Store, run_id: str = "r", status: str = "SUCCESS", steps: int = 2) -> None:
    """A run with something of every kind, and values that JSON cannot hold."""
    store.create_run_log(run_id, tag="nightly")
    for number in range(steps):
        store.add_step_log(StepLog(name=f"s{number}", internal_name=f"s{number}", message="m" * number), run_id)
    step = StepLog(name="map", internal_name="map")
    branch = BranchLog(internal_name="map.a/b 😀.1", parameters={"x": float("inf")})
    branch.steps["map.a/b 😀.1.t"] = StepLog(name="t", internal_name="map.a/b 😀.1.t")
    step.branches[branch.internal_name] = branch
    store.add_step_log(step, run_id)
    store.set_parameters(run_id, {"loss": float("nan"), "big": 10**30, "[red]": "\x1b[31m"})
    job = store.create_job_log()
    job.status = status
    store.add_job_log(run_id, job)


def objects(store: Store) -> dict[str, bytes]:
    """All that stands in a place, but for the index."""
    backend = store.backend
    found = [entry.key for folder in backend.folders() for entry in backend.list(f"{folder}/")]
    return {key: blob.data for key, blob in backend.get_many(found)}


def outcomes(report: CopyReport) -> dict[str, str]:
    return {run.run_id: run.outcome for run in report.runs}


@pytest.fixture
def source() -> Store:
    store = Store(memory())
    filled(store)
    return store


@pytest.fixture
def target() -> Store:
    return Store(memory())


# Byte for byte.


def test_from_a_disk_to_minio_and_back_to_a_disk_every_byte_is_the_same(tmp_path: Path, minio_server: object) -> None:
    first = local(tmp_path / "first", compress_above=300)
    for run_id in ("a", "ünï %", "x y", "A=1,b=2"):
        filled(first, run_id)
    first.compact("a")
    first.add_step_log(StepLog(name="late", internal_name="late"), "a")
    filled(first, "failed", "FAIL")
    away = Store(in_bucket(minio_server, tmp_path))
    second = local(tmp_path / "second")
    assert copy_runs(first, away).is_complete
    assert copy_runs(again(away), second).is_complete
    assert objects(second) == objects(away) == objects(first)
    for run_id in first.list_run_ids():
        ours, theirs = first.read_run_log(run_id), again(away).read_run_log(run_id)
        assert ours.findings == theirs.findings == ()
        assert repr(ours.run_log) == repr(theirs.run_log)
    assert outcomes(copy_runs(second, away)) == dict.fromkeys(first.list_run_ids(), "same")


def test_a_place_with_many_requests_at_once_gets_the_same_bytes() -> None:
    source = Store(memory())
    for number in range(20):
        filled(source, f"r{number}")
    target = Store(Awaited(memory()))
    seen: list[Progress] = []
    report = copy_runs(source, target, progress=seen.append)
    assert [run.run_id for run in report.runs] == source.list_run_ids()
    assert objects(target) == objects(source)
    assert [one.done for one in seen] == list(range(1, 21))
    assert {one.what for one in seen} == set(source.list_run_ids())


def test_what_there_is_no_room_for_is_read_twice(source: Store, target: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(copying, "_ROOM", 0)
    counting = CountingBackend(source.backend)
    assert copy_runs(Store(counting), target, ["r"]).is_complete
    assert objects(target) == objects(source)
    assert counting.by_verb["get_many"] == 2 * len(objects(source)) - 1


def test_a_pack_and_a_later_chunk_beside_it_keep_their_meaning(source: Store, target: Store) -> None:
    source.compact("r")
    for number in range(20):  # so that the versions of one place come to those that the pack of the other names
        again(source).add_step_log(StepLog(name="s0", internal_name="s0", message=f"late {number}"), "r")
    copy_runs(source, target)
    assert again(target).get_run_log_by_id("r").steps["s0"].message == "late 19"
    assert objects(target) == objects(source)


def test_a_run_that_was_packed_at_one_end_is_still_the_same(source: Store, target: Store) -> None:
    copy_runs(source, target)
    source.compact("r")
    assert outcomes(copy_runs(source, target)) == {"r": "same"}
    target.compact("r")
    assert outcomes(copy_runs(source, target)) == {"r": "same"}


def test_files_that_are_none_of_ours_stay_behind_and_are_told(tmp_path: Path, target: Store) -> None:
    source = local(tmp_path / "runs")
    filled(source)
    (tmp_path / "runs" / "r" / "notes.txt").write_text("mine")
    report = copy_runs(source, target)
    assert report.runs[0].foreign == 1
    assert set(objects(source)) - set(objects(target)) == {"r/notes.txt"}


# What it costs.


def test_the_requests_of_a_copy_are_as_promised(source: Store) -> None:
    n = len(objects(source))
    ours, theirs = CountingBackend(source.backend), CountingBackend(memory())
    copy_runs(Store(ours), Store(theirs), ["r"])
    assert ours.by_verb == {"list": 2, "get_many": n}
    index = 1
    assert theirs.by_verb == {"list": index + 2, "put": n + 1, "get_many": n - 1, "get": 1}
    ours.reset()
    theirs.reset()
    copy_runs(Store(ours), Store(theirs), ["r"])
    assert ours.by_verb == {"list": 2, "get_many": n}
    assert theirs.by_verb == {"list": index + 2, "get": 1, "get_many": n}
    ours.reset()
    theirs.reset()
    copy_runs(Store(ours), Store(theirs), ["r"], quick=True)
    assert ours.by_verb == {"list": 1, "get": 1}
    assert theirs.by_verb == {"list": index + 1, "get": 1}
    theirs.reset()
    copy_runs(Store(ours), Store(theirs), ["r"], dry_run=True)
    assert theirs.by_verb == {"list": 2, "get": 1, "get_many": n}


def test_a_chunk_that_is_there_is_not_sent_again(source: Store) -> None:
    theirs = CountingBackend(memory())
    with pytest.raises(StopError):
        copy_runs(source, Store(Stopping(theirs, 8)))
    there = len(theirs.keys("put")) - 1  # the claim
    assert there > 0
    theirs.reset()
    report = copy_runs(source, Store(theirs))
    assert (report.runs[0].there, report.runs[0].sent) == (there, len(objects(source)) - there)
    assert len(theirs.keys("put")) == len(objects(source)) - there


# Cut short.


class StopError(Exception):
    """What ends a copy in the middle."""


class Passing(ABC):
    """A backend that is asked about each request before and after it is made."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.concurrency = inner.concurrency
        self.asynchronous = inner.asynchronous
        self.place = inner.place

    @property
    def guarantees(self) -> object:
        return self.inner.guarantees

    @abstractmethod
    def at(self) -> None: ...

    def get(self, key: str) -> Blob:
        self.at()
        blob = self.inner.get(key)
        self.at()
        return blob

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        for found in self.inner.get_many(keys):
            self.at()
            yield found

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        self.at()
        version = self.inner.put(key, data, condition, barrier=barrier)
        self.at()
        return version

    def delete(self, key: str, condition: Condition = ANY) -> None:
        self.at()
        self.inner.delete(key, condition)
        self.at()

    def list(self, prefix: str) -> Iterator[Entry]:
        self.at()
        found = list(self.inner.list(prefix))
        self.at()
        return iter(found)

    def folders(self) -> Iterator[str]:
        self.at()
        return self.inner.folders()

    def close(self) -> None:
        self.inner.close()


class Stopping(Passing):
    """Fails at one moment, before or after a request."""

    def __init__(self, inner: Backend, moment: int) -> None:
        super().__init__(inner)
        self.left = moment

    def at(self) -> None:
        self.left -= 1
        if self.left == 0:
            self.stop()

    def stop(self) -> None:
        raise StopError


class Killed(Stopping):
    def stop(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Meanwhile(Passing):
    """Somebody else does something at each moment."""

    def __init__(self, inner: Backend, work: Callable[[], object]) -> None:
        super().__init__(inner)
        self.work = work
        self.busy = False

    def at(self) -> None:
        if not self.busy:
            self.busy = True
            self.work()
            self.busy = False


def moments(source: Store, folder: Path) -> int:
    counting = Stopping(LocalBackend(folder), -1)
    copy_runs(source, Store(counting))  # type: ignore[arg-type]
    return -1 - counting.left


def killed_at(source: Store, folder: Path, moment: int) -> None:
    store = Store(Killed(LocalBackend(folder), moment))  # type: ignore[arg-type]
    process = FORK.Process(target=copy_runs, args=(source, store))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_killed_at_any_request_no_reader_sees_half_a_run_and_the_next_call_finishes(tmp_path: Path) -> None:
    source = local(tmp_path / "source")
    filled(source, "one", steps=1)
    filled(source, "packed")
    source.compact("packed")
    source.add_step_log(StepLog(name="late", internal_name="late"), "packed")
    everything = objects(source)
    all_moments = range(1, moments(source, tmp_path / "undisturbed") + 1)
    chosen = sorted(random.Random("kills").sample(all_moments, between(24, len(all_moments))))
    for moment in [*chosen, all_moments[-1]]:
        folder = tmp_path / f"at {moment}"
        killed_at(source, folder, moment)
        reader = local(folder)
        whole = {run.run_id for run in reader.find_runs(limit=10).runs}
        for run_id in ("one", "packed"):
            if run_id in whole:
                assert repr(reader.get_run_log_by_id(run_id)) == repr(source.get_run_log_by_id(run_id))
            else:
                with pytest.raises(RunLogNotFoundError):
                    reader.get_run_log_by_id(run_id)
                with suppress(RunLogNotFoundError):
                    reader.compact(run_id)
        report = copy_runs(source, local(folder))
        assert report.is_complete
        assert objects(local(folder)) == everything
        shutil.rmtree(folder)


def test_killed_again_and_again_the_copy_comes_to_its_end(tmp_path: Path) -> None:
    source = local(tmp_path / "source")
    filled(source, steps=between(6, 60))
    folder, chance = tmp_path / "target", random.Random("again")
    for _ in range(between(8, 80)):
        store = Store(Killed(LocalBackend(folder), chance.randrange(1, 60)))  # type: ignore[arg-type]
        process = FORK.Process(target=copy_runs, args=(source, store))
        process.start()
        process.join()
    assert copy_runs(source, local(folder)).is_complete
    assert objects(local(folder)) == objects(source)


def test_an_unfinished_copy_is_no_run_and_keeps_its_id_and_a_delete_takes_it_away(source: Store, target: Store) -> None:
    with pytest.raises(StopError):
        copy_runs(source, Store(Stopping(target.backend, 12)))  # type: ignore[arg-type]
    assert objects(target)
    assert target.find_runs().runs == ()
    with pytest.raises(RunLogNotFoundError):
        again(target).get_run_log_by_id("r")
    with pytest.raises(RunLogNotFoundError):
        again(target).add_step_log(StepLog(name="x", internal_name="x"), "r")
    with pytest.raises(RunLogExistsError):
        again(target).create_run_log("r")
    assert target.reindex().runs == 0
    target.delete_run_log("r")
    assert objects(target) == {}


def test_what_a_power_cut_spoiled_of_an_unfinished_copy_is_sent_again(tmp_path: Path) -> None:
    source = local(tmp_path / "source")
    filled(source)
    with pytest.raises(StopError):
        copy_runs(source, Store(Stopping(LocalBackend(tmp_path / "target"), 16)))  # type: ignore[arg-type]
    chunk = next(path for path in (tmp_path / "target" / "r").iterdir() if path.name != "run.json")
    chunk.write_bytes(b"")
    target = local(tmp_path / "target")
    assert copy_runs(source, target).is_complete
    assert objects(target) == objects(source)


def test_an_unfinished_copy_of_what_the_run_was_before_is_a_conflict_until_it_is_begun_anew(
    source: Store, target: Store
) -> None:
    with pytest.raises(StopError):
        copy_runs(source, Store(Stopping(target.backend, 12)))  # type: ignore[arg-type]
    source.add_step_log(StepLog(name="s0", internal_name="s0", message="changed since"), "r")
    before = objects(target)
    report = copy_runs(source, target)
    assert outcomes(report) == {"r": "conflict"}
    assert "restart" in report.runs[0].message
    assert objects(target) == before
    assert outcomes(copy_runs(source, target, restart=True, dry_run=True)) == {"r": "copied"}
    assert objects(target) == before
    assert copy_runs(source, target, restart=True).is_complete
    assert objects(target) == objects(source)


def test_on_a_network_that_fails_the_copy_is_whole_or_not_there(source: Store) -> None:
    filled(source, "r2")
    chance = random.Random("faults")
    for _ in range(between(30, 300)):
        target = Store(memory())
        flaky = Store(FlakyBackend(target.backend, chance, rate=0.08))
        while True:
            with suppress(BackendUnavailableError):
                assert copy_runs(source, flaky).is_complete
                break
            for run in target.find_runs().runs:
                assert repr(target.get_run_log_by_id(run.run_id)) == repr(source.get_run_log_by_id(run.run_id))
        assert objects(target) == objects(source)


# What is in the way.


def test_another_run_of_the_id_is_never_overwritten_and_the_others_go_on(source: Store, target: Store) -> None:
    filled(source, "z")
    filled(target, "r")
    before = objects(target)
    report = copy_runs(source, target)
    assert outcomes(report) == {"r": "conflict", "z": "copied"}
    assert "'r'" in report.of("conflict")[0].message
    assert "other contents" in report.of("conflict")[0].message
    assert not report.is_complete
    assert {key: data for key, data in objects(target).items() if key in before} == before
    assert outcomes(copy_runs(source, target, quick=True)) == {"r": "conflict", "z": "same"}


def test_a_change_at_the_target_is_a_conflict(source: Store, target: Store) -> None:
    copy_runs(source, target)
    again(target).add_step_log(StepLog(name="s0", internal_name="s0", message="mine"), "r")
    assert outcomes(copy_runs(source, target)) == {"r": "conflict"}
    assert target.get_run_log_by_id("r").steps["s0"].message == "mine"


def test_chunks_without_a_header_are_in_the_way(source: Store, target: Store) -> None:
    copy_runs(source, target)
    target.backend.delete("r/run.json")
    assert copy_runs(source, target).is_complete  # they are as they should be
    again(target).add_step_log(StepLog(name="extra", internal_name="extra"), "r")
    target.backend.delete("r/run.json")
    report = copy_runs(source, target)
    assert outcomes(report) == {"r": "conflict"}
    assert "step.extra.json" in report.runs[0].message
    target.delete_run_log("r")
    assert copy_runs(source, target).is_complete


def test_a_run_that_is_being_deleted_there_is_a_conflict(source: Store, target: Store) -> None:
    copy_runs(source, target)
    target._chunks.mark_deleted(keys.header("r"))
    report = copy_runs(source, target, restart=True)
    assert outcomes(report) == {"r": "conflict"}
    assert "deleted" in report.runs[0].message


def test_a_damaged_header_at_the_target_is_a_conflict(source: Store, target: Store) -> None:
    copy_runs(source, target)
    target.backend.put("r/run.json", b"{}", ANY)
    assert "damaged header" in copy_runs(source, target).runs[0].message
    assert target.backend.get("r/run.json").data == b"{}"


@pytest.mark.parametrize("packed", [False, True])
def test_a_damaged_run_is_refused_by_name_and_nothing_of_it_is_there(
    source: Store, target: Store, packed: bool
) -> None:
    filled(source, "z")
    if packed:
        source.compact("r")
    key = keys.pack("r") if packed else "r/step.s1.json"
    data = bytearray(source.backend.get(key).data)
    data[-5] ^= 1
    source.backend.put(key, bytes(data), ANY)
    report = copy_runs(source, target)
    assert outcomes(report) == {"r": "damaged", "z": "copied"}
    assert key in report.of("damaged")[0].message
    assert target.list_run_ids() == ["z"]


def test_a_chunk_that_somebody_moved_is_refused(source: Store, target: Store) -> None:
    source.backend.put("r/step.other.json", source.backend.get("r/step.s0.json").data, ANY)
    assert "step.s0.json" in copy_runs(source, target).of("damaged")[0].message


def test_a_run_that_has_not_ended_is_left_out_unless_it_is_asked_for(source: Store, target: Store) -> None:
    filled(source, "live", "PROCESSING")
    report = copy_runs(source, target)
    assert outcomes(report) == {"r": "copied", "live": "unfinished"}
    assert target.list_run_ids() == ["r"]
    assert copy_runs(source, target, ["live"], unfinished=True).is_complete
    assert objects(target) == objects(source)


@pytest.mark.parametrize("run_id", ["nowhere", "gone"])
def test_a_run_that_is_not_in_the_source_is_told(source: Store, target: Store, run_id: str) -> None:
    source.create_run_log("gone")
    source._chunks.mark_deleted(keys.header("gone"))
    assert outcomes(copy_runs(source, target, [run_id, "r"])) == {run_id: "missing", "r": "copied"}


def test_an_empty_store_is_copied_at_once(target: Store) -> None:
    report = copy_runs(Store(memory()), target)
    assert report.runs == ()
    assert report.is_complete


def test_a_filter_chooses_the_runs(source: Store, target: Store) -> None:
    filled(source, "failed", "FAIL")
    assert outcomes(copy_runs(source, target, RunFilter(status="fail"))) == {"failed": "copied"}


def test_a_dry_run_says_the_same_and_writes_nothing(source: Store, target: Store) -> None:
    would = copy_runs(source, target, dry_run=True)
    assert objects(target) == {}
    assert would.dry_run
    assert copy_runs(source, target).runs == would.runs


def test_what_cannot_be_meant_is_refused(source: Store, target: Store) -> None:
    with pytest.raises(InvalidInputError, match="same place"):
        copy_runs(source, again(source))
    with pytest.raises(InvalidInputError, match="list of run ids"):
        copy_runs(source, target, "r")
    with pytest.raises(InvalidInputError, match="folder"):
        copy_runs(source, target, ["../r"])


# Others at work.


def test_a_run_that_changes_while_it_is_read_is_copied_as_it_stood_at_one_moment(source: Store, target: Store) -> None:
    writer = again(source)
    numbers = iter(range(4))

    def change() -> None:
        number = next(numbers, None)
        if number is not None:  # each on top of the one before: no cut has the second without the first
            writer.set_parameters("r", {"first": number})
            writer.set_parameters("r", {"second": number})

    moving = Store(Meanwhile(source.backend, change))  # type: ignore[arg-type]
    assert copy_runs(moving, target).is_complete
    found = target.get_run_log_by_id("r").parameters
    assert found["first"] == found["second"] == 3
    assert objects(target) == objects(source)


def test_a_run_that_never_stands_still_is_a_conflict(source: Store, target: Store) -> None:
    writer = again(source)
    numbers = iter(range(10_000))
    moving = Store(Meanwhile(source.backend, lambda: writer.set_parameters("r", {"x": next(numbers)})))  # type: ignore[arg-type]
    report = copy_runs(moving, target)
    assert outcomes(report) == {"r": "conflict"}
    assert "changed during each" in report.runs[0].message
    assert objects(target) == {}


def test_a_run_that_is_packed_while_it_is_read_is_copied_whole(source: Store, target: Store) -> None:
    packer, calls = again(source), iter([0, 1, 2])

    def pack() -> None:
        if next(calls, None) == 1:
            packer.compact("r")

    assert copy_runs(Store(Meanwhile(source.backend, pack)), target).is_complete  # type: ignore[arg-type]
    assert repr(target.get_run_log_by_id("r")) == repr(again(source).get_run_log_by_id("r"))


def test_a_run_that_is_deleted_at_the_target_while_it_is_copied_is_whole_or_gone(source: Store, target: Store) -> None:
    seen = set()
    for moment in range(6, 60):
        calls = iter(range(1, 1000))

        def delete(calls: Iterator[int] = calls, moment: int = moment) -> None:
            if next(calls) == moment:
                with suppress(RunLogNotFoundError):
                    again(target).delete_run_log("r")

        outcome = copy_runs(source, Store(Meanwhile(target.backend, delete))).runs[0].outcome  # type: ignore[arg-type]
        seen.add(outcome)
        if outcome == "copied":  # once more from the beginning, or deleted once it was there
            assert objects(target) in (objects(source), {})
        with suppress(RunLogNotFoundError):
            assert repr(again(target).get_run_log_by_id("r")) == repr(source.get_run_log_by_id("r"))
        with suppress(RunLogNotFoundError):
            again(target).delete_run_log("r")
        assert objects(target) == {}
    assert "copied" in seen


def test_a_delete_that_is_cut_short_while_it_is_copied_leaves_no_half_run(source: Store) -> None:
    seen = set()
    for moment in range(3, 50):
        for left in (4, 12, 24, 27):  # requests, each of which has a moment before and one after it
            target = Store(memory())
            calls = iter(range(1, 1000))

            def delete(
                calls: Iterator[int] = calls, moment: int = moment, left: int = left, target: Store = target
            ) -> None:
                if next(calls) == moment:
                    with suppress(RunLogNotFoundError, StopError):
                        Store(Stopping(target.backend, left)).delete_run_log("r")  # type: ignore[arg-type]

            report = copy_runs(source, Store(Meanwhile(target.backend, delete)))  # type: ignore[arg-type]
            with suppress(RunLogNotFoundError):
                assert repr(again(target).get_run_log_by_id("r")) == repr(source.get_run_log_by_id("r"))
                seen.add(report.runs[0].outcome)
    assert seen == {"copied"}


def test_what_somebody_else_puts_there_while_it_is_copied_is_not_overwritten(source: Store, target: Store) -> None:
    other = Store(memory())
    filled(other)
    theirs = other.backend.get("r/step.s1.json").data
    seen = set()
    for moment in range(1, 60):
        calls = iter(range(1, 1000))

        def put(calls: Iterator[int] = calls, moment: int = moment) -> None:
            if next(calls) == moment:
                target.backend.put("r/step.s1.json", theirs, ANY)

        outcome = copy_runs(source, Store(Meanwhile(target.backend, put))).runs[0].outcome  # type: ignore[arg-type]
        seen.add(outcome)
        if target.backend.get("r/step.s1.json").data == theirs and outcome == "conflict":
            with pytest.raises(RunLogNotFoundError):
                again(target).get_run_log_by_id("r")
        elif next(calls) > moment:  # it happened: once all was compared
            assert target.backend.get("r/step.s1.json").data == theirs
        for key in objects(target):
            target.backend.delete(key)
    assert seen == {"conflict", "copied"}


def copied_by(source: Store, folder: Path) -> dict[str, str]:
    return outcomes(copy_runs(source, local(folder)))


def test_two_that_copy_the_same_at_once_both_come_to_the_end(tmp_path: Path) -> None:
    source = local(tmp_path / "source")
    for number in range(between(6, 40)):
        filled(source, f"r{number}", steps=6)
    both = at_once(copied_by, [(source, tmp_path / "target")] * 3)
    assert {outcome for found in both for outcome in found.values()} <= {"copied", "same"}
    assert objects(local(tmp_path / "target")) == objects(source)


def test_two_that_copy_different_runs_of_one_id_never_mix_them(tmp_path: Path) -> None:
    sources = [local(tmp_path / name) for name in ("a", "b")]
    for number in range(between(6, 40)):
        for store in sources:
            filled(store, f"r{number}", steps=6)
    found = at_once(copied_by, [(store, tmp_path / "target") for store in sources])
    target = objects(local(tmp_path / "target"))
    for run_id in sources[0].list_run_ids():
        mine = {key: data for key, data in target.items() if key.startswith(f"{run_id}/")}
        won = [
            number
            for number, store in enumerate(sources)
            if mine == {key: data for key, data in objects(store).items() if key.startswith(f"{run_id}/")}
        ]
        assert len(won) == 1
        assert found[won[0]][run_id] == "copied"
        assert found[1 - won[0]][run_id] == "conflict"


# The target's index.


def test_the_copies_are_found_before_and_after_the_index_is_made(source: Store, target: Store) -> None:
    target.create_run_log("old", status="SUCCESS")
    target.reindex()
    copy_runs(source, target)
    assert {run.run_id for run in again(target).find_runs(status="SUCCESS").runs} == {"old", "r"}
    assert target.reindex().runs == 2
    assert {run.run_id for run in again(target).find_runs(status="SUCCESS").runs} == {"old", "r"}
    assert objects(source).items() <= objects(target).items()


@pytest.mark.parametrize("how", ["deleted", "removed by another tool"])
def test_the_index_is_not_believed_about_a_run_that_had_the_id_before(source: Store, target: Store, how: str) -> None:
    target.create_run_log("r", tag="old", status="FAIL")
    target.reindex()
    if how == "deleted":
        target.delete_run_log("r")
    else:
        target.backend.delete("r/run.json")
    copy_runs(source, target)
    for _ in range(2):
        assert [(run.status, run.tag) for run in again(target).find_runs().runs] == [("SUCCESS", "nightly")]
        assert again(target).find_runs(status="FAIL").runs == ()
        target.reindex()
    if how != "deleted":
        assert objects(target) == objects(source)  # the note named a write that the header tells of
    assert outcomes(copy_runs(source, target)) == {"r": "same"}
