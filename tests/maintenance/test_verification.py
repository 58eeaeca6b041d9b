"""verify: every sort of damage is named, writers at work are not, and nothing is written."""

from __future__ import annotations

import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkstore import (
    BackendUnavailableError,
    BranchLog,
    ChunkedRunLogStore,
    InvalidInputError,
    RunLogNotFoundError,
    StepLog,
    codec,
    keys,
    packs,
    waiting,
)
from chunkstore.backends import ANY, Backend, Blob, Condition
from chunkstore.backends.local import LocalBackend
from chunkstore.maintenance import Finding, Kind, Progress, verify
from chunkstore.packs import Packing
from chunkstore.testing import CountingBackend
from places import between, in_bucket, meanwhile, memory, place


def fill(store: ChunkedRunLogStore, run_id: str = "r", status: str = "SUCCESS") -> ChunkedRunLogStore:
    """A run with a chunk of every kind: 1 header, 1 job, 4 steps, 1 branch, 4 parameters."""
    store.create_run_log(run_id, tag="t")
    store.set_parameters(run_id, {"p": 1, "Grüße / a.b": float("nan")})
    store.add_job_log(run_id, store.create_job_log())
    for name in "ab":
        store.add_step_log(StepLog(name=name, internal_name=name), run_id)
    branch = BranchLog(internal_name="m.x", parameters={"q": 1, "long " + "n" * 300: 2})
    branch.steps["m.x.t"] = StepLog(name="t", internal_name="m.x.t")
    store.add_step_log(StepLog(name="m", internal_name="m", branches={"m.x": branch}), run_id)
    store.update_run_log_status(run_id, status)
    return store


CHUNKS = 11


def found(store: ChunkedRunLogStore, *run_ids: str) -> list[Finding]:
    return list(verify(store, run_ids or None, settle_seconds=0))


def kinds(store: ChunkedRunLogStore) -> list[tuple[str, str, str]]:
    return [(one.kind.value, one.severity, one.key) for one in found(store)]


def change(store: ChunkedRunLogStore, key: str, how: Callable[[bytes], bytes]) -> None:
    store.backend.put(key, how(store.backend.get(key).data), ANY)


class ReadsOnly(CountingBackend):
    """Refuses every write; also the probe, which would write, is never asked for."""

    @property
    def guarantees(self) -> Any:
        raise AssertionError("asking for guarantees may write")

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        raise AssertionError(f"a put of {key}")

    def delete(self, key: str, condition: Condition = ANY) -> None:
        raise AssertionError(f"a delete of {key}")


@pytest.fixture(params=["memory", "local", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ChunkedRunLogStore:
    return fill(ChunkedRunLogStore(place(request.param, request, tmp_path)))


@pytest.fixture
def local(tmp_path: Path) -> ChunkedRunLogStore:
    return fill(ChunkedRunLogStore(LocalBackend(tmp_path / "runs")))


def test_an_empty_store_is_well(tmp_path: Path) -> None:
    for backend in (memory(), LocalBackend(tmp_path / "not there")):
        checked = verify(ChunkedRunLogStore(backend))
        assert list(checked) == []
        assert checked.checked.is_whole
    assert not (tmp_path / "not there").exists()


def test_whole_runs_loose_packed_running_and_indexed_have_no_findings_and_are_counted(
    store: ChunkedRunLogStore,
) -> None:
    fill(store, "packed")
    fill(store, "running", "PROCESSING")
    store.compact("packed")
    store.add_step_log(StepLog(name="late", internal_name="late"), "packed")
    store.reindex()
    checked = verify(store, settle_seconds=0)
    assert list(checked) == []
    # The header and the four parameters of the packed run stand loose too.
    assert (checked.checked.runs, checked.checked.chunks) == (3, 3 * CHUNKS + 1 + 5)


def test_what_it_costs_in_requests() -> None:
    backend = CountingBackend(memory())
    store = fill(fill(ChunkedRunLogStore(backend)), "second")
    store.compact("second")
    store.reindex()
    backend.reset()
    assert list(verify(ChunkedRunLogStore(backend))) == []
    # Runs; each run, the index, the quarantine and the trash; chunks and a pack; the manifest and one segment.
    assert backend.by_verb == {"folders": 1, "list": 2 + 3, "get_many": CHUNKS + 5 + 1, "get": 2}
    backend.reset()
    assert list(verify(ChunkedRunLogStore(backend), ["second"])) == []
    assert backend.by_verb == {"list": 1, "get_many": 6}


def test_a_run_where_something_is_wrong_costs_twice_as_much() -> None:
    backend = CountingBackend(memory())
    store = fill(fill(ChunkedRunLogStore(backend)), "second")
    change(store, "second/step.a.json", lambda _: b"")
    backend.reset()
    assert len(found(store)) == 1
    assert backend.by_verb == {"folders": 1, "list": 3 + 3, "get_many": 3 * CHUNKS}


def test_it_writes_nothing_whatever_it_finds(store: ChunkedRunLogStore) -> None:
    store.reindex()
    change(store, "r/step.a.json", lambda _: b"")
    change(store, ".index/manifest.json", lambda _: b"")
    store.backend.put("r/notes.txt", b"", ANY)
    reader = ChunkedRunLogStore(ReadsOnly(store.backend))
    assert {one.kind for one in found(reader)} >= {Kind.DAMAGED, Kind.INDEX_DAMAGED, Kind.FOREIGN}


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "zero bytes": lambda _data: b"",
    "a page of zeros": lambda data: bytes(len(data)),
    "cut short": lambda data: data[: len(data) // 2],
    "the last byte cut": lambda data: data[:-1],
    "a byte more": lambda data: data + b" ",
    "a flipped bit": lambda data: (
        data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]
    ),
    "other JSON": lambda _data: b'{"name": "b"}\n',
}


@pytest.mark.parametrize("how", DAMAGES.values(), ids=DAMAGES.keys())
def test_every_damaged_object_is_named_with_the_next_step(
    store: ChunkedRunLogStore, how: Callable[[bytes], bytes]
) -> None:
    loose = [entry.key for entry in store.backend.list("r/")]
    fill(store, "packed")
    store.compact("packed")
    assert len(loose) == CHUNKS
    for key in (*loose, "packed/whole.pack"):
        before = store.backend.get(key).data
        change(store, key, how)
        damaged = [one for one in found(store) if one.kind is Kind.DAMAGED]
        assert [(one.key, one.severity, one.version) for one in damaged] == [
            (key, "damage", store.backend.get(key).version)
        ]
        assert "restore" in damaged[0].next_step
        assert key not in damaged[0].what
        store.backend.put(key, before, ANY)
    assert [one for one in found(store) if one.severity == "damage"] == []


def test_a_chunk_of_a_newer_format_is_no_damage(store: ChunkedRunLogStore) -> None:
    change(store, "r/step.a.json", lambda data: data.replace(b'"format":1', b'"format":7', 1))
    (one,) = found(store)
    assert (one.kind, one.severity) == (Kind.NEWER, "warning")
    assert "upgrade" in one.next_step


def test_chunks_and_packs_under_another_key_are_told_with_both_names(store: ChunkedRunLogStore) -> None:
    fill(store, "q")
    store.compact("q")
    fill(store, "s")
    store.backend.put("r/step.z.json", store.backend.get("r/step.a.json").data, ANY)
    store.backend.put("s/whole.pack", store.backend.get("q/whole.pack").data, ANY)
    misplaced = {one.key: one.what for one in found(store)}
    assert set(misplaced) == {"r/step.z.json", "s/whole.pack"}
    assert "r/step.a.json" in misplaced["r/step.z.json"]
    assert "'q'" in misplaced["s/whole.pack"]


@pytest.mark.parametrize("body", [b'{"status": {"is": "no text"}, "name": 5}', b'{"name": "b", "internal_name": "b"}'])
def test_a_whole_chunk_whose_body_does_not_fit_is_told(store: ChunkedRunLogStore, body: bytes) -> None:
    chunk = codec.decode(store.backend.get("r/step.a.json").data, "r/step.a.json")
    store.backend.put("r/step.a.json", codec.encode(codec.Chunk(chunk.envelope, codec.Content(body))), ANY)
    assert kinds(store) == [("misfit", "damage", "r/step.a.json")]


@pytest.mark.parametrize(("status", "severity"), [("SUCCESS", "damage"), ("PROCESSING", "warning")])
@pytest.mark.parametrize("key", ["r/branch.m.x.json", "r/step.m.json"])
def test_what_is_below_something_missing_is_an_orphan(
    store: ChunkedRunLogStore, status: str, severity: str, key: str
) -> None:
    store.update_run_log_status("r", status)
    store.backend.delete(key)
    assert [one for one in kinds(store) if one[0] != "doubt"] == [("orphan", severity, key)]


def test_what_is_below_a_damaged_parent_is_no_orphan(store: ChunkedRunLogStore) -> None:
    change(store, "r/branch.m.x.json", lambda _: b"")
    assert kinds(store) == [("damaged", "damage", "r/branch.m.x.json")]


def test_chunks_without_a_header_are_told(store: ChunkedRunLogStore) -> None:
    store.backend.delete("r/run.json")
    assert kinds(store) == [("headerless", "damage", "r/run.json")]


class TestPacks:
    def test_a_lost_pack_is_damage(self, store: ChunkedRunLogStore) -> None:
        store.compact("r")
        store.backend.delete("r/whole.pack")
        assert kinds(store) == [("pack lost", "damage", "r/whole.pack")]

    def test_packing_that_was_cut_short_is_told_and_no_damage(self, store: ChunkedRunLogStore) -> None:
        store.compact("r", remove="never")
        store.backend.delete("r/whole.pack")
        assert kinds(store) == [("packing unfinished", "notice", "r/run.json")]

    def test_a_header_that_does_not_know_of_its_pack_is_told(self, store: ChunkedRunLogStore) -> None:
        before = store.backend.get("r/run.json").data
        store.compact("r")
        store.backend.put("r/run.json", before, ANY)
        assert kinds(store) == [("pack disagrees", "damage", "r/run.json")]

    def test_a_manifest_that_names_another_version_than_it_holds_is_told(self, store: ChunkedRunLogStore) -> None:
        store.compact("r", remove="never")
        pack = packs.decode(store.backend.get("r/whole.pack").data, "r/whole.pack")
        other = store.backend.get("r/step.b.json").version
        members = [
            Packing(one.key, other if one.key == "r/step.b.json" else one.version, pack.data_of(one.key))
            for one in pack.members.values()
        ]
        chunk = codec.decode(pack.data_of("r/step.b.json"), "r/step.b.json")
        wrong = codec.encode(
            codec.Chunk(chunk.envelope, codec.Content(b'{"name":"b","internal_name":"b","status":"FAIL"}'))
        )
        members = [one._replace(data=wrong) if one.key == "r/step.b.json" else one for one in members]
        store.backend.put("r/whole.pack", packs.encode("r", pack.founded, "token", members), ANY)
        (one,) = found(ChunkedRunLogStore(store.backend))
        assert (one.kind, one.key) == (Kind.PACK_DISAGREES, "r/whole.pack")
        assert "r/step.b.json" in one.what

    def test_a_damaged_chunk_in_a_whole_pack_is_told(self, store: ChunkedRunLogStore) -> None:
        store.compact("r")
        pack = packs.decode(store.backend.get("r/whole.pack").data, "r/whole.pack")
        members = [
            Packing(
                one.key, one.version, b"?" + pack.data_of(one.key)[1:] if "step.a" in one.key else pack.data_of(one.key)
            )
            for one in pack.members.values()
        ]
        store.backend.put("r/whole.pack", packs.encode("r", pack.founded, "token", members), ANY)
        (one,) = found(ChunkedRunLogStore(store.backend))
        assert (one.kind, one.key, one.severity) == (Kind.PACK_DISAGREES, "r/whole.pack", "damage")
        assert "r/step.a.json" in one.what

    def test_a_pack_for_which_a_package_is_missing_is_no_damage(
        self, store: ChunkedRunLogStore, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pytest.importorskip("zstandard")
        store.compact("r")
        monkeypatch.setattr(packs, "_zstd", lambda: None)
        (one,) = found(ChunkedRunLogStore(store.backend))
        assert (one.kind, one.severity, one.key) == (Kind.NEWER, "warning", "r/whole.pack")


def test_an_unfinished_deletion_is_one_finding_whatever_else_is_wrong_there(store: ChunkedRunLogStore) -> None:
    store._chunks.mark_deleted(keys.header("r"))
    change(store, "r/step.a.json", lambda _: b"")
    store.backend.delete("r/step.m.json")
    assert [one for one in kinds(store) if one[0] != "doubt"] == [("deletion unfinished", "warning", "r/run.json")]


def test_what_a_deleted_run_left_under_a_used_id_is_told(store: ChunkedRunLogStore) -> None:
    left = store.backend.get("r/step.a.json").data
    store.delete_run_log("r")
    fill(store)
    store.backend.put("r/step.a.json", left, ANY)
    assert [one for one in kinds(store) if one[0] != "doubt"] == [("left over", "notice", "r/step.a.json")]


def test_names_that_differ_only_in_case_are_told(store: ChunkedRunLogStore) -> None:
    fill(store, "R")
    store.add_step_log(StepLog(name="A", internal_name="A"), "r")
    assert [one for one in kinds(store) if one[0] != "doubt"] == [
        ("case", "warning", "r/step.A.json"),
        ("case", "warning", "R/"),
    ]


def test_an_object_that_the_place_refuses_is_a_finding_and_the_rest_is_checked() -> None:
    class Refusing(CountingBackend):
        def get_many(self, wanted: Any) -> Iterator[tuple[str, Blob]]:
            for key in wanted:
                yield key, self.get(key)

        def get(self, key: str) -> Blob:
            if key == "r/step.a.json":
                raise BackendUnavailableError("permission denied", key=key)
            return super().get(key)

    backend = memory()
    store = fill(ChunkedRunLogStore(backend))
    change(store, "r/step.b.json", lambda _: b"")
    told = kinds(ChunkedRunLogStore(Refusing(backend)))
    assert sorted(told) == [("damaged", "damage", "r/step.b.json"), ("unreadable", "damage", "r/step.a.json")]


def test_a_folder_that_the_place_refuses_is_a_finding_and_a_place_that_refuses_all_is_an_error() -> None:
    class Refusing(CountingBackend):
        start = "r/"

        def list(self, prefix: str) -> Any:
            if prefix.startswith(self.start):
                raise BackendUnavailableError("permission denied", key=prefix)
            return super().list(prefix)

        def folders(self) -> Iterator[str]:
            if not self.start:
                raise BackendUnavailableError("permission denied")
            return super().folders()

    backend = Refusing(fill(fill(ChunkedRunLogStore(memory())), "second").backend)
    store = ChunkedRunLogStore(backend)
    assert kinds(store) == [("unreadable", "damage", "r/")]
    assert [one.key for one in found(store, "r")] == ["r/"]
    backend.start = ".index/"
    assert kinds(store) == [("unreadable", "damage", ".index/")]
    backend.start = ""
    with pytest.raises(BackendUnavailableError):
        found(store)


def test_a_place_that_does_not_answer_is_an_error_and_no_finding() -> None:
    class Gone(CountingBackend):
        def get_many(self, wanted: Any) -> Iterator[tuple[str, Blob]]:
            raise BackendUnavailableError("no answer", transient=True)

    backend = memory()
    fill(ChunkedRunLogStore(backend))
    with pytest.raises(BackendUnavailableError):
        found(ChunkedRunLogStore(Gone(backend)))


class TestTheIndex:
    @pytest.fixture
    def indexed(self, store: ChunkedRunLogStore) -> ChunkedRunLogStore:
        fill(store, "second", "FAIL")
        store.reindex()
        return store

    def segment(self, store: ChunkedRunLogStore) -> str:
        (key,) = [entry.key for entry in store.backend.list(".index/segment.")]
        return key

    def test_a_damaged_manifest_is_told(self, indexed: ChunkedRunLogStore) -> None:
        change(indexed, ".index/manifest.json", lambda data: data[:-1])
        assert {one[0] for one in kinds(indexed)} == {"index damaged", "index left over"}

    def test_a_damaged_segment_is_told(self, indexed: ChunkedRunLogStore) -> None:
        change(indexed, self.segment(indexed), lambda data: data[:-1])
        assert kinds(indexed) == [("index damaged", "warning", self.segment(indexed))]

    def test_a_missing_segment_is_told(self, indexed: ChunkedRunLogStore) -> None:
        key = self.segment(indexed)
        indexed.backend.delete(key)
        assert kinds(indexed) == [("index damaged", "warning", key)]

    def test_notes_of_doubt_are_counted_in_one_finding(self, indexed: ChunkedRunLogStore) -> None:
        for number in range(3):
            indexed.set_run_config("r", {"n": number})
        (one,) = found(indexed)
        assert (one.kind, one.severity) == (Kind.DOUBT, "notice")
        assert "3 notes" in one.what

    def test_a_header_that_was_changed_behind_the_indexs_back_is_told(self, indexed: ChunkedRunLogStore) -> None:
        before = indexed.backend.get("r/run.json").data
        indexed.update_run_log_status("r", "FAIL")
        indexed.reindex()
        indexed.backend.put("r/run.json", before, ANY)
        told = [one for one in found(indexed) if one.kind is not Kind.DOUBT]
        assert [(one.kind, one.key, one.severity) for one in told] == [(Kind.INDEX_WRONG, "r/run.json", "damage")]
        assert "'SUCCESS'" in told[0].what
        assert "'FAIL'" in told[0].what

    def test_a_run_that_is_gone_is_no_finding(self, indexed: ChunkedRunLogStore) -> None:
        for entry in list(indexed.backend.list("r/")):
            indexed.backend.delete(entry.key)
        assert kinds(indexed) == []


class TestOnADisk:
    def test_what_no_listing_shows_is_told(self, local: ChunkedRunLogStore, tmp_path: Path) -> None:
        root = tmp_path / "runs"
        (root / "r" / ".t-0badcafe-1-1").write_bytes(b"half a chu")
        (root / "empty").mkdir()
        (root / "half").mkdir()
        (root / "half" / ".t-0badcafe-1-2").write_bytes(b"")
        for path in (root / "r" / ".t-0badcafe-1-1", root / "half" / ".t-0badcafe-1-2", root / "empty", root / "half"):
            os.utime(path, (1, 1))
        (root / "r" / "step.link.json").symlink_to("step.a.json")
        os.mkfifo(root / "r" / "step.pipe.json")
        (root / "r" / "sub").mkdir()
        (root / "r" / ".hidden").write_bytes(b"")
        (root / "r" / "notes.txt").write_bytes(b"")
        (root / "not%20ours").mkdir()
        (root / "not%20ours" / "run.json").write_bytes(b"")
        (root / "linked").symlink_to(root / "r")
        (root / "file").write_bytes(b"")
        assert sorted(kinds(local)) == [
            ("empty folder", "notice", "empty"),
            ("empty folder", "notice", "half"),
            ("foreign", "notice", "file"),
            ("foreign", "notice", "not%20ours/"),
            ("foreign", "notice", "r/.hidden"),
            ("foreign", "notice", "r/notes.txt"),
            ("foreign", "notice", "r/sub"),
            ("foreign", "warning", "linked"),
            ("foreign", "warning", "r/step.link.json"),
            ("foreign", "warning", "r/step.pipe.json"),
            ("staging", "notice", "half/.t-0badcafe-1-2"),
            ("staging", "notice", "r/.t-0badcafe-1-1"),
        ]
        (staging, *_) = [one for one in found(local) if one.kind is Kind.STAGING]
        assert (staging.age_seconds or 0) > 1e9

    def test_a_young_staging_file_or_folder_may_be_a_writers(self, local: ChunkedRunLogStore, tmp_path: Path) -> None:
        (tmp_path / "runs" / "r" / ".t-0badcafe-1-1").write_bytes(b"half a chu")
        (tmp_path / "runs" / "new").mkdir()
        assert found(local) == []
        assert len(list(verify(local, stale_seconds=0, settle_seconds=0))) == 2

    def test_a_file_that_is_too_large_is_not_read(self, local: ChunkedRunLogStore, tmp_path: Path) -> None:
        with (tmp_path / "runs" / "r" / "step.huge.json").open("wb") as file:
            file.truncate(100 << 30)
        (one,) = found(local)
        assert (one.kind, one.key) == (Kind.DAMAGED, "r/step.huge.json")


class TestOfSomeRuns:
    def test_only_they_are_looked_at(self, store: ChunkedRunLogStore) -> None:
        fill(store, "other")
        change(store, "r/step.a.json", lambda _: b"")
        assert found(store, "other") == []
        assert [one.key for one in found(store, "r", "r")] == ["r/step.a.json"]

    def test_one_that_is_not_there_is_an_error(self, store: ChunkedRunLogStore) -> None:
        with pytest.raises(RunLogNotFoundError, match="'nope'"):
            found(store, "nope")
        with pytest.raises(InvalidInputError):
            verify(store, ["../etc"])
        with pytest.raises(InvalidInputError):
            verify(store, settle_seconds=-1)


def test_progress_is_told_run_by_run(store: ChunkedRunLogStore) -> None:
    told: list[Progress] = []
    fill(store, "second")
    assert list(verify(store, progress=told.append)) == []
    assert [one.done for one in told] == [1, 2]
    assert {one.what for one in told} == {"r", "second"}


class TestBesideWriters:
    """What two looks do not see alike is somebody's work."""

    @pytest.fixture
    def at_pause(self, monkeypatch: pytest.MonkeyPatch) -> list[Callable[[], None]]:
        """What others do while it waits, one after the other."""
        work: list[Callable[[], None]] = []
        monkeypatch.setattr(waiting, "sleep", lambda _seconds: work.pop(0)() if work else None)
        return work

    def test_a_parent_that_comes_later_is_no_finding(self, at_pause: list[Callable[[], None]]) -> None:
        store = fill(ChunkedRunLogStore(memory()), status="PROCESSING")
        branch = store.backend.get("r/branch.m.x.json").data
        store.backend.delete("r/branch.m.x.json")
        at_pause.append(lambda: store.backend.put("r/branch.m.x.json", branch, ANY) and None)
        assert found(store) == []

    def test_a_deletion_that_goes_on_is_no_finding(self, at_pause: list[Callable[[], None]]) -> None:
        store = fill(ChunkedRunLogStore(memory()))
        store._chunks.mark_deleted(keys.header("r"))
        rest = sorted(entry.key for entry in store.backend.list("r/"))
        at_pause += [lambda key=key: store.backend.delete(key) for key in rest]  # type: ignore[misc]
        assert [one.kind for one in found(store)] in ([], [Kind.DOUBT])

    def test_damage_that_is_mended_is_no_finding_and_other_damage_is_looked_at_again(
        self, at_pause: list[Callable[[], None]]
    ) -> None:
        store = fill(ChunkedRunLogStore(memory()))
        whole = store.backend.get("r/step.a.json").data

        def mend_and_break() -> None:
            store.backend.put("r/step.a.json", whole, ANY)
            store.backend.put("r/step.b.json", b"", ANY)

        change(store, "r/step.a.json", lambda _: b"")
        at_pause.append(mend_and_break)
        assert [one.key for one in found(store)] == ["r/step.b.json"]

    def test_damage_in_a_run_that_changes_all_the_time_is_told_once(self, at_pause: list[Callable[[], None]]) -> None:
        store = fill(ChunkedRunLogStore(memory()))
        change(store, "r/step.b.json", lambda _: b"")
        put = store.backend.put
        at_pause += [lambda number=number: put("r/step.a.json", b"?" * number, ANY) and None for number in range(10)]  # type: ignore[misc]
        assert [one.key for one in found(store)] == ["r/step.b.json"]


def work_on(backend: Backend, number: int, rounds: int) -> int:
    """Runs that are made, grow, end, are packed, indexed, deleted, and made again."""
    store = ChunkedRunLogStore(backend)
    chance = random.Random(number)
    for _ in range(rounds):
        run_id = f"run {number} {chance.randrange(2)}"
        if run_id in store.list_run_ids():
            store.delete_run_log(run_id)
        fill(store, run_id, "PROCESSING")
        store.update_run_log_status(run_id, "SUCCESS")
        store.set_run_config(run_id, {"n": chance.random()})
        store.compact(run_id)
        store.add_step_log(StepLog(name="late", internal_name="late"), run_id)
        store.reindex()
        store.compact(run_id)
    return rounds


def check_beside(backend: Backend, writers: int, rounds: int, settle: float) -> int:
    checks = 0
    false: list[Finding] = []
    store = ChunkedRunLogStore(backend)
    with meanwhile(work_on, [(backend, number, rounds) for number in range(writers)]) as busy:
        while busy():
            false += [one for one in verify(store, settle_seconds=settle) if one.severity != "notice"]
            checks += 1
    assert false == [], Counter(one.kind for one in false)
    assert found(store) == []
    return checks


def test_writers_on_a_disk_make_no_finding(tmp_path: Path) -> None:
    backend = LocalBackend(tmp_path / "runs", durability="process")
    assert check_beside(backend, 2, between(40, 400), 0.3) > 0


def test_writers_on_minio_make_no_finding(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    backend = in_bucket(request.getfixturevalue("minio_server"), tmp_path)
    assert check_beside(backend, 2, between(1, 20), 0.5) > 0


def test_damage_on_minio_is_named(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    backend = in_bucket(request.getfixturevalue("minio_server"), tmp_path)
    store = fill(ChunkedRunLogStore(backend))
    for number in range(70):
        store.create_run_log(f"small {number}")
    change(store, "r/step.a.json", lambda data: data[:50])
    backend.put("r/sub/x.json", b"", ANY)
    checked = verify(store, settle_seconds=0)
    assert sorted((one.kind, one.key) for one in checked) == [("damaged", "r/step.a.json"), ("foreign", "r/sub/x.json")]
    assert checked.checked.runs == 71
