"""repair: damage is moved away byte for byte, what was begun is finished, nothing is guessed, and a kill loses nothing."""

from __future__ import annotations

import functools
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from chunkstore import (
    BackendUnavailableError,
    ChunkedRunLogStore,
    InvalidInputError,
    NotFoundError,
    StepLog,
    keys,
)
from chunkstore.backends import ANY, Backend, Condition, Entry, Guarantees
from chunkstore.backends.local import LocalBackend
from chunkstore.maintenance import (
    Kind,
    RepairReport,
    discard_quarantined,
    export_quarantined,
    quarantined,
    repair,
    verify,
)
from chunkstore.testing import CountingBackend
from places import again, in_bucket, memory, place

FORK = multiprocessing.get_context("fork")
HALF = b'{"_chunkstore":{"digest":"cut sh'


def fill(store: ChunkedRunLogStore, run_id: str = "r") -> ChunkedRunLogStore:
    store.create_run_log(run_id, tag="t")
    store.set_parameters(run_id, {"p": 1})
    for name in "abc":
        store.add_step_log(StepLog(name=name, internal_name=name), run_id)
    store.update_run_log_status(run_id, "SUCCESS")
    return store


def mended(store: ChunkedRunLogStore, *run_ids: str, **settings: object) -> RepairReport:
    return repair(store, run_ids or None, settle_seconds=0, **settings)  # type: ignore[arg-type]


def told(report: RepairReport) -> list[tuple[str, str]]:
    return [(one.outcome, one.finding.key) for one in report.actions]


def kinds(store: ChunkedRunLogStore) -> list[Kind]:
    return [one.kind for one in verify(store, settle_seconds=0)]


def objects(backend: Backend) -> dict[str, bytes]:
    """Everything, by key, also what `folders` leaves out."""
    prefixes = [*backend.folders(), ".index", ".quarantine"]
    return {entry.key: backend.get(entry.key).data for name in prefixes for entry in backend.list(f"{name}/")}


@pytest.fixture(params=["memory", "local", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ChunkedRunLogStore:
    return fill(ChunkedRunLogStore(place(request.param, request, tmp_path)))


@pytest.fixture
def local(tmp_path: Path) -> ChunkedRunLogStore:
    return fill(ChunkedRunLogStore(LocalBackend(tmp_path / "runs")))


def test_a_whole_store_is_left_as_it_is(store: ChunkedRunLogStore) -> None:
    store.reindex()
    before = objects(store.backend)
    report = mended(store)
    assert (report.actions, report.kept, report.checked.runs) == ((), (), 1)
    assert objects(store.backend) == before


@pytest.mark.parametrize("key", ["r/step.b.json", "r/parameter.p.json", "packed/whole.pack"])
def test_damage_goes_into_the_quarantine_byte_for_byte_and_the_rest_is_read(
    store: ChunkedRunLogStore, tmp_path: Path, key: str
) -> None:
    fill(store, "packed")
    store.compact("packed")
    store.backend.put(key, HALF, ANY)
    version = store.backend.get(key).version
    before = objects(store.backend)
    assert told(mended(again(store))) == [("isolated", key)]
    (one,) = quarantined(store)
    assert (one.key, one.kind, one.version, one.size) == (key, "damaged", version, len(HALF))
    after = objects(store.backend)
    assert after.pop(f".quarantine/{one.id}.bytes") == HALF
    assert b'"isolated_at"' in after.pop(f".quarantine/{one.id}.json")
    assert after == {name: data for name, data in before.items() if name != key}
    run_id = key.partition("/")[0]
    again(store).get_run_log_by_id(run_id)
    assert told(mended(store)) in ([], [("kept", "packed/whole.pack")])
    assert kinds(store)[-1:] == [Kind.QUARANTINED]
    (path,) = export_quarantined(store, tmp_path / "out")
    assert path == tmp_path / "out" / key
    assert path.read_bytes() == HALF


def test_a_misplaced_chunk_and_what_a_deleted_run_left_go_there_too(store: ChunkedRunLogStore) -> None:
    left = store.backend.get("r/step.a.json").data
    store.delete_run_log("r")
    fill(store)
    store.backend.put("r/step.a.json", left, ANY)
    fill(store, "other")
    store.backend.put("other/step.z.json", store.backend.get("other/step.b.json").data, ANY)
    assert (
        sorted(told(mended(again(store)))) == [("isolated", "other/step.z.json"), ("isolated", "r/step.a.json")]
        or sorted(one for one in told(mended(again(store))) if one[0] != "kept") == []
    )
    assert {one.kind for one in quarantined(store)} == {"misplaced", "left over"}
    assert list(again(store).get_run_log_by_id("r").steps) == ["b", "c"]


def test_a_damaged_header_stays_where_others_need_it_and_goes_where_it_is_alone(store: ChunkedRunLogStore) -> None:
    store.create_run_log("alone")
    for run_id in ("r", "alone"):
        store.backend.put(f"{run_id}/run.json", b"", ANY)
    report = mended(store)
    assert sorted(told(report)) == [("isolated", "alone/run.json"), ("kept", "r/run.json")]
    assert [one.finding.key for one in report.kept] == ["r/run.json"]
    assert store.backend.get("r/run.json").data == b""
    store.create_run_log("alone")


def test_nothing_is_guessed_what_is_newer_foreign_missing_or_misfit_stays(store: ChunkedRunLogStore) -> None:
    fill(store, "headerless")
    store.backend.delete("headerless/run.json")
    newer = store.backend.get("r/step.a.json").data.replace(b'"format":1', b'"format":7', 1)
    store.backend.put("r/step.a.json", newer, ANY)
    store.backend.put("r/notes.txt", b"mine", ANY)
    before = objects(store.backend)
    report = mended(store)
    assert {outcome for outcome, _ in told(report)} == {"kept"}
    assert all(one.detail for one in report.actions)
    assert objects(store.backend) == before


def test_a_dry_run_says_the_same_and_writes_nothing(store: ChunkedRunLogStore) -> None:
    store.backend.put("r/step.a.json", HALF, ANY)
    fill(store, "gone")
    store._chunks.mark_deleted(keys.header("gone"))
    before = objects(store.backend)
    report = mended(again(store), dry_run=True)
    assert objects(store.backend) == before
    assert report.dry_run
    assert told(report)[:2] == told(mended(again(store)))[:2]


def test_what_it_costs_to_isolate_one_object() -> None:
    backend = CountingBackend(memory())
    fill(ChunkedRunLogStore(backend))
    backend.put("r/step.a.json", HALF, ANY)
    backend.reset()
    list(verify(ChunkedRunLogStore(backend), settle_seconds=0))
    looking = backend.requests
    backend.reset()
    mended(ChunkedRunLogStore(backend))
    # Read it, put two and read them back, delete; and what is in the quarantine now: its facts, and its bytes against their digest.
    assert backend.requests - looking == 6 + 1 + 3
    assert backend.by_verb["put"] == 2
    assert backend.by_verb["delete"] == 1


class Meanwhile(CountingBackend):
    """Somebody else does something just before the first request of this verb whose key begins so."""

    def __init__(self, inner: Backend, verb: str, start: str, work: Callable[[], object]) -> None:
        super().__init__(inner)
        self._when = (verb, start, work)

    def _count(self, verb: str, key: str) -> None:
        super()._count(verb, key)
        wanted, start, work = self._when
        if verb == wanted and key.startswith(start):
            self._before = (verb, start)
            self._when = ("", "", work)
            work()

    def list(self, prefix: str) -> Iterator[Entry]:
        self._count("list", prefix)  # before what is there is taken down
        return self.inner.list(prefix)


def after_looks(backend: Meanwhile, looks: Iterator[int], work: Callable[[], None]) -> None:
    """The work, once no more looks are to come."""
    if next(looks, None) is None:
        work()
    else:
        backend._when = (*backend._before, functools.partial(after_looks, backend, looks, work))


class TestBesideOthers:
    def test_what_is_mended_before_it_is_taken_away_stays(self, store: ChunkedRunLogStore) -> None:
        whole = store.backend.get("r/step.a.json").data
        store.backend.put("r/step.a.json", HALF, ANY)
        for verb, start in (("get", "r/step.a"), ("put", ".quarantine/"), ("delete", "r/step.a")):
            store.backend.put("r/step.a.json", HALF, ANY)
            backend = Meanwhile(store.backend, verb, start, lambda: store.backend.put("r/step.a.json", whole, ANY))
            report = mended(ChunkedRunLogStore(backend))
            assert told(report) == [("kept", "r/step.a.json")], verb
            assert store.backend.get("r/step.a.json").data == whole, verb

    def test_a_new_run_under_the_id_of_a_deleted_one_is_never_touched(self, store: ChunkedRunLogStore) -> None:
        def others() -> None:
            again(store).delete_run_log("gone")
            fill(again(store), "gone")

        for verb, start in (
            ("get", "gone/run.json"),
            ("list", "gone/"),
            ("delete", "gone/step"),
            ("delete", "gone/run"),
        ):
            if "gone" in store.list_run_ids():
                store.delete_run_log("gone")
            fill(store, "gone")
            store._chunks.mark_deleted(keys.header("gone"))
            # The two looks of the check list it first.
            looks = iter(range(2 if verb == "list" else 0))
            backend = Meanwhile(store.backend, verb, start, lambda: None)

            backend._when = (verb, start, functools.partial(after_looks, backend, looks, others))
            mended(ChunkedRunLogStore(backend), "gone")
            assert list(again(store).get_run_log_by_id("gone").steps) == ["a", "b", "c"], (verb, start)
            assert again(store).get_parameters("gone") == {"p": 1}


class NoConditionalDelete(CountingBackend):
    @property
    def guarantees(self) -> Guarantees:
        import dataclasses

        return dataclasses.replace(self.inner.guarantees, conditional_delete=False)

    def delete(self, key: str, condition: Condition = ANY) -> None:
        assert condition == ANY
        super().delete(key, condition)


class TestWhereDeletesHaveNoConditions:
    def test_it_copies_and_says_what_is_not_promised(self) -> None:
        store = fill(ChunkedRunLogStore(NoConditionalDelete(memory())))
        store.backend.put("r/step.a.json", HALF, ANY)
        report = mended(store)
        assert told(report) == [("kept", "r/step.a.json")]
        assert "unconditional=True" in report.actions[0].detail
        assert store.backend.get("r/step.a.json").data == HALF
        assert [one.key for one in quarantined(store)] == ["r/step.a.json"]

    def test_unconditionally_it_takes_away_what_is_still_so(self) -> None:
        store = fill(ChunkedRunLogStore(NoConditionalDelete(memory())))
        store.backend.put("r/step.a.json", HALF, ANY)
        assert told(mended(store, unconditional=True)) == [("isolated", "r/step.a.json")]
        assert list(again(store).get_run_log_by_id("r").steps) == ["b", "c"]

    def test_not_what_was_mended_while_it_was_copied(self) -> None:
        backend = NoConditionalDelete(memory())
        whole = fill(ChunkedRunLogStore(backend)).backend.get("r/step.a.json").data
        backend.put("r/step.a.json", HALF, ANY)
        mending = Meanwhile(backend, "put", ".quarantine/", lambda: backend.put("r/step.a.json", whole, ANY))
        assert told(mended(ChunkedRunLogStore(mending), unconditional=True)) == [("kept", "r/step.a.json")]
        assert backend.get("r/step.a.json").data == whole

    def test_a_deletion_is_finished_as_by_deleting_the_run(self) -> None:
        store = fill(ChunkedRunLogStore(NoConditionalDelete(memory())))
        store._chunks.mark_deleted(keys.header("r"))
        assert ("finished", "r/run.json") in told(mended(again(store)))
        assert store.list_run_ids() == []


def test_a_deletion_that_was_cut_short_is_finished_and_what_is_foreign_stays(store: ChunkedRunLogStore) -> None:
    store.compact("r")
    fill(store, "other")
    store._chunks.mark_deleted(keys.header("r"))
    store.backend.delete("r/parameter.p.json")
    store.backend.put("r/notes.txt", b"mine", ANY)
    assert ("finished", "r/run.json") in told(mended(again(store)))
    assert [entry.key for entry in store.backend.list("r/")] == ["r/notes.txt"]
    assert [run.run_id for run in again(store).get_run_logs()] == ["other"]
    assert list(again(store).get_run_log_by_id("other").steps) == ["a", "b", "c"]


def test_a_damaged_or_lying_index_is_made_anew(store: ChunkedRunLogStore) -> None:
    store.reindex()
    before = store.backend.get("r/run.json").data
    (segment,) = [entry.key for entry in store.backend.list(".index/segment.")]
    store.backend.put(segment, b"", ANY)
    assert told(mended(again(store))) == [("reindexed", segment)]
    store.update_run_log_status("r", "FAIL")
    store.reindex()
    store.backend.put("r/run.json", before, ANY)
    assert ("reindexed", "r/run.json") in told(mended(again(store)))
    assert [run.status for run in again(store).find_runs(status="SUCCESS").runs] == ["SUCCESS"]
    assert kinds(again(store)) == []


class TestOnADisk:
    def littered(self, root: Path) -> list[Path]:
        old, young = root / "r" / ".t-0badcafe-1-1", root / "r" / ".t-0badcafe-1-2"
        empty, half = root / "empty", root / "half" / ".t-0badcafe-1-3"
        for folder in (empty, half.parent):
            folder.mkdir()
        for path in (old, young, half):
            path.write_bytes(b"half a chu")
        for path in (old, half, half.parent, empty):
            os.utime(path, (1, 1))
        return [old, young, empty, half.parent]

    def test_old_staging_files_and_empty_folders_go_and_young_ones_stay(
        self, local: ChunkedRunLogStore, tmp_path: Path
    ) -> None:
        old, young, empty, half = self.littered(tmp_path / "runs")
        assert {outcome for outcome, _ in told(mended(local))} == {"removed"}
        assert [path.exists() for path in (old, young, empty, half)] == [False, True, False, False]
        assert ("removed", "r/.t-0badcafe-1-2") in told(mended(local, remove_staging_after=0))
        assert not young.exists()

    def test_one_of_middle_age_is_kept_and_says_until_when(self, local: ChunkedRunLogStore, tmp_path: Path) -> None:
        path = tmp_path / "runs" / "r" / ".t-0badcafe-1-1"
        path.write_bytes(b"")
        import time

        os.utime(path, (time.time() - 100, time.time() - 100))
        (action,) = mended(local).actions
        assert (action.outcome, path.exists()) == ("kept", True)
        assert "3600 s old" in action.detail
        with pytest.raises(InvalidInputError):
            mended(local, remove_staging_after=-1)

    def test_links_and_pipes_stay(self, local: ChunkedRunLogStore, tmp_path: Path) -> None:
        root = tmp_path / "runs"
        outside = tmp_path / "outside.json"
        outside.write_bytes(b"precious")
        (root / "r" / "step.link.json").symlink_to(outside)
        (root / "linked").symlink_to(tmp_path)
        (root / ".quarantine").symlink_to(tmp_path / "elsewhere")
        local.backend.put("r/step.a.json", HALF, ANY)
        report = mended(local)
        assert {outcome for outcome, _ in told(report)} == {"kept"}
        assert outside.read_bytes() == b"precious"
        assert (root / "r" / "step.a.json").read_bytes() == HALF


class CutShort(CountingBackend):
    """Breaks off before the n-th request, as a killed process does."""

    def __init__(self, inner: Backend, after: int, how: Callable[[], None]) -> None:
        super().__init__(inner)
        self.left = after
        self.how = how

    def _count(self, verb: str, key: str) -> None:
        self.left -= 1
        if self.left < 0:
            self.how()
        super()._count(verb, key)


class Killed(BaseException):
    """Like a kill: nothing that catches errors catches it."""


def break_off() -> None:
    raise Killed


def kill_myself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def broken(backend: Backend) -> ChunkedRunLogStore:
    store = fill(fill(ChunkedRunLogStore(backend)), "gone")
    store.reindex()
    store._chunks.mark_deleted(keys.header("gone"))
    backend.put("r/step.a.json", HALF, ANY)
    backend.put("r/parameter.p.json", b"", ANY)
    return store


def assert_nothing_is_lost(backend: Backend) -> None:
    there = set(objects(backend).values())
    assert HALF in there
    assert b"" in there


def assert_repaired(backend: Backend, tmp_path: Path) -> None:
    store = ChunkedRunLogStore(backend)
    assert {Kind.QUARANTINED} >= set(kinds(store)) - {Kind.DOUBT, Kind.INDEX_LEFT_OVER}
    assert {one.key for one in quarantined(store)} == {"r/step.a.json", "r/parameter.p.json"}
    assert sorted(path.read_bytes() for path in export_quarantined(store, tmp_path)) == [b"", HALF]
    assert store.list_run_ids() == ["r"]
    assert list(store.get_run_log_by_id("r").steps) == ["b", "c"]


def test_cut_short_before_any_request_nothing_is_lost_and_the_next_call_finishes_it(tmp_path: Path) -> None:
    number = 0
    while True:
        backend = memory()
        broken(backend)
        try:
            mended(ChunkedRunLogStore(CutShort(backend, number, break_off)))
        except Killed:
            assert_nothing_is_lost(backend)
            mended(ChunkedRunLogStore(backend))
            assert_repaired(backend, tmp_path / str(number))
            number += 1
            continue
        break
    assert number > 40


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")
def test_killed_on_a_disk_nothing_is_lost_and_the_next_call_finishes_it(tmp_path: Path) -> None:
    for number in range(20, 60, 3):
        backend = LocalBackend(tmp_path / f"runs {number}", durability="process")
        broken(backend)
        killed = FORK.Process(
            target=lambda n=number, b=backend: mended(ChunkedRunLogStore(CutShort(b, n, kill_myself)))
        )
        killed.start()
        killed.join()
        assert killed.exitcode in (0, -signal.SIGKILL)
        assert_nothing_is_lost(backend)
        mended(ChunkedRunLogStore(backend))
        assert_repaired(backend, tmp_path / f"out {number}")


def test_two_repairs_at_once_do_each_thing_once() -> None:
    backend = memory()
    broken(backend)
    number = 0
    for verb, start in (("put", ".quarantine/"), ("delete", "r/"), ("get", ".quarantine/"), ("delete", "gone/")):
        backend = memory()
        broken(backend)
        first = Meanwhile(backend, verb, start, lambda backend=backend: mended(ChunkedRunLogStore(backend)))  # type: ignore[misc]
        mended(ChunkedRunLogStore(first))
        assert {one.key for one in quarantined(ChunkedRunLogStore(backend))} == {"r/step.a.json", "r/parameter.p.json"}
        assert ChunkedRunLogStore(backend).list_run_ids() == ["r"]
        number += 1
    assert number == 4


def test_a_place_that_refuses_is_told_for_that_object_and_one_that_is_gone_is_an_error(
    store: ChunkedRunLogStore,
) -> None:
    class Refusing(CountingBackend):
        transient = False

        def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
            raise BackendUnavailableError("read only", key=key, transient=self.transient)

    store.backend.put("r/step.a.json", HALF, ANY)
    report = mended(ChunkedRunLogStore(Refusing(store.backend)))
    assert told(report) == [("kept", "r/step.a.json")]
    assert "read only" in report.actions[0].detail
    assert store.backend.get("r/step.a.json").data == HALF


class TestTheQuarantine:
    @pytest.fixture
    def isolated(self, store: ChunkedRunLogStore) -> ChunkedRunLogStore:
        store.backend.put("r/step.a.json", HALF, ANY)
        mended(store)
        return store

    def test_an_export_overwrites_nothing(self, isolated: ChunkedRunLogStore, tmp_path: Path) -> None:
        (tmp_path / "r").mkdir()
        (tmp_path / "r" / "step.a.json").write_bytes(b"mine")
        (one,) = quarantined(isolated)
        for _ in range(2):
            assert export_quarantined(isolated, tmp_path) == [tmp_path / "r" / f"step.a.json.{one.id}"]
        assert (tmp_path / "r" / "step.a.json").read_bytes() == b"mine"
        (tmp_path / "r" / f"step.a.json.{one.id}").write_bytes(b"mine too")
        with pytest.raises(InvalidInputError, match="other bytes"):
            export_quarantined(isolated, tmp_path)

    def test_facts_that_somebody_forged_lead_nowhere_else(self, isolated: ChunkedRunLogStore, tmp_path: Path) -> None:
        (one,) = quarantined(isolated)
        key = f".quarantine/{one.id}.json"
        facts = isolated.backend.get(key).data
        for forged in (b"../../escaped.json", b"/etc/step.a.json", b"r/../../x"):
            isolated.backend.put(key, facts.replace(b"r/step.a.json", forged), ANY)
            assert export_quarantined(isolated, tmp_path / "out") == [tmp_path / "out" / "other" / one.id]
        isolated.backend.put(key, b"no facts", ANY)
        assert "damaged" in next(quarantined(isolated)).what
        assert export_quarantined(isolated, tmp_path / "out") == [tmp_path / "out" / "other" / one.id]

    def test_what_is_discarded_is_gone_and_nothing_else(self, isolated: ChunkedRunLogStore) -> None:
        isolated.backend.put("r/step.b.json", HALF, ANY)
        mended(isolated)
        first, second = quarantined(isolated)
        assert discard_quarantined(isolated, [first.id]) == 1
        assert [one.id for one in quarantined(isolated)] == [second.id]
        assert list(quarantined(isolated, "other")) == []
        with pytest.raises(NotFoundError, match="list it"):
            discard_quarantined(isolated, [first.id])
        assert discard_quarantined(isolated, [second.id]) == 1
        assert kinds(isolated) == []

    def test_it_is_no_run(self, isolated: ChunkedRunLogStore) -> None:
        assert isolated.list_run_ids() == ["r"]


def test_on_minio_damage_is_copied_and_on_wish_moved(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    backend = in_bucket(request.getfixturevalue("minio_server"), tmp_path)
    store = fill(ChunkedRunLogStore(backend))
    backend.put("r/step.a.json", HALF, ANY)
    kept = told(mended(store))
    expected = "isolated" if backend.guarantees.conditional_delete else "kept"
    assert kept == [(expected, "r/step.a.json")]
    mended(store, unconditional=True)
    assert list(again(store).get_run_log_by_id("r").steps) == ["b", "c"]
    assert [path.read_bytes() for path in export_quarantined(store, tmp_path / "out")] == [HALF]
