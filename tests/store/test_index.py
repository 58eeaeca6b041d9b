"""The index of finished runs is never authoritative: damaged, old, or gone, it changes what finding runs costs, not what is found."""

from __future__ import annotations

import gzip
import json
import logging
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import pytest

from chunkstore import (
    BackendUnavailableError,
    ChunkedRunLogStore,
    ConflictError,
    NewerFormatError,
    NotFoundError,
    RunLogExistsError,
    StorageFullError,
    index,
)
from chunkstore.backends import ANY, FOUND, Backend, Blob, Condition, Entry
from chunkstore.backends.local import LocalBackend
from chunkstore.backends.memory import MemoryBackend
from chunkstore.index import MANIFEST, MAX_INLINE, Index, Row, decode_segment, encode_segment
from chunkstore.testing import CountingBackend, FlakyBackend
from chunkstore.values import Content
from places import again, between, memory

COUNT: Final = 12


def shown(store: ChunkedRunLogStore) -> dict[str, Any]:
    return {run.run_id: (run.status, run.tag, run.run_config) for run in store.find_runs().runs}


@pytest.fixture
def store() -> ChunkedRunLogStore:
    """Twelve runs in two segments."""
    store = ChunkedRunLogStore(memory())
    for number in range(COUNT):
        store.create_run_log(f"r{number:02d}", tag=f"t{number % 3}", status="SUCCESS")
        if number == 8:
            store.reindex()
    store.reindex()
    assert len(Index(store.backend).manifest().segments) == 2
    return store


def segments_of(backend: Backend) -> list[str]:
    return Index(backend).listing().segments


# Damage.

DAMAGE: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "empty": lambda data: b"",
    "cut short": lambda data: data[:-7],
    "its half": lambda data: data[: len(data) // 2],
    "longer": lambda data: data + b"x",
    "other bytes": lambda data: b"{}",
    "one bit at the start": lambda data: bytes([data[0] ^ 1]) + data[1:],
    "one bit in the middle": lambda data: data[:60] + bytes([data[60] ^ 4]) + data[61:],
    "one bit at the end": lambda data: data[:-1] + bytes([data[-1] ^ 1]),
    "null": lambda data: b"null",
    "numbers": lambda data: b'{"format":"x","segments":[]}',
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
@pytest.mark.parametrize("what", ["manifest", "segment", "all segments"])
def test_what_is_damaged_is_logged_and_ignored_and_repaired_by_reindex(
    store: ChunkedRunLogStore, damage: Callable[[bytes], bytes], what: str, caplog: pytest.LogCaptureFixture
) -> None:
    expected = shown(store)
    keys = {
        "manifest": [MANIFEST],
        "segment": segments_of(store.backend)[:1],
        "all segments": segments_of(store.backend),
    }
    for key in keys[what]:
        store.backend.put(key, damage(store.backend.get(key).data), ANY)
    assert shown(again(store)) == expected
    assert keys[what][0] in caplog.text
    assert again(store).reindex().runs == COUNT
    caplog.clear()
    counting = CountingBackend(store.backend)
    assert shown(ChunkedRunLogStore(counting)) == expected
    assert not [key for key in counting.keys("get_many") if key.endswith("run.json")]
    assert caplog.text == ""
    assert len(segments_of(store.backend)) == len(Index(store.backend).manifest().segments)


def test_any_bit_of_manifest_and_segments_may_flip(store: ChunkedRunLogStore) -> None:
    expected, chance = shown(store), random.Random(3)
    for key in [MANIFEST, *segments_of(store.backend)]:
        data = store.backend.get(key).data
        for _ in range(between(20, 400)):
            at = chance.randrange(len(data))
            store.backend.put(key, data[:at] + bytes([data[at] ^ 1 << chance.randrange(8)]) + data[at + 1 :], ANY)
            assert shown(again(store)) == expected
        store.backend.put(key, data, ANY)


def test_segments_that_are_gone_are_read_from_the_headers_and_made_anew(store: ChunkedRunLogStore) -> None:
    expected = shown(store)
    for key in segments_of(store.backend)[:1]:
        store.backend.delete(key)
    assert shown(again(store)) == expected
    assert again(store).reindex().runs == COUNT
    store.backend.delete(MANIFEST)
    assert shown(again(store)) == expected
    report = again(store).reindex()
    assert (report.runs, report.read, report.segments) == (COUNT, COUNT, 1)
    assert len(segments_of(store.backend)) == 1


def test_an_index_of_a_newer_format_is_left_alone(store: ChunkedRunLogStore, caplog: pytest.LogCaptureFixture) -> None:
    expected = shown(store)
    newer = {**json.loads(store.backend.get(MANIFEST).data), "format": 2}
    store.backend.put(MANIFEST, json.dumps(newer).encode(), ANY)
    assert shown(again(store)) == expected
    assert "has format 2, this chunkstore reads up to 1" in caplog.text
    before = {key: store.backend.get(key) for key in [MANIFEST, *segments_of(store.backend)]}
    for full in (False, True):
        with pytest.raises(NewerFormatError, match="upgrade chunkstore"):
            again(store).reindex(full=full)
    assert {key: store.backend.get(key) for key in [MANIFEST, *segments_of(store.backend)]} == before


def test_a_segment_that_lies_about_itself_is_ignored() -> None:
    rows = [Row(f"r{n}", "2026-11-21T00:00:00.000000000Z", "SUCCESS", "t", Content(b'{"a":1}')) for n in range(3)]
    listed, data = encode_segment(rows)
    assert decode_segment(listed, data).runs == ["r0", "r1", "r2"]
    for lie in ({"runs": 4}, {"columns": listed.columns - 1}, {"columns": 0}, {"digest": "0" * 32}):
        with pytest.raises(index.FormatError, match=r"segment\."):
            decode_segment(listed._replace(**lie), data)
    bomb = gzip.compress(b" " * (65 << 20))
    with pytest.raises(index.FormatError):
        decode_segment(listed._replace(columns=len(bomb), digest=index._digest(bomb)), bomb)


def test_what_others_put_into_the_folder_of_the_index_does_no_harm_and_stays(store: ChunkedRunLogStore) -> None:
    expected = shown(store)
    for name in (
        "doubt",
        "doubt.",
        "doubt.x.",
        "doubt.x-1.%2F",
        "manifest.json.bak",
        "notes.txt",
        "doubt.-.r01",
        "doubt.x-\u0661.r02",
    ):
        store.backend.put(f".index/{name}", b"?", FOUND)
    assert shown(again(store)) == expected
    store.reindex()
    assert shown(again(store)) == expected
    kept = {entry.key for entry in store.backend.list(".index/")}
    assert {".index/doubt", ".index/manifest.json.bak", ".index/notes.txt"} <= kept


def test_a_person_reads_a_segment_with_their_own_tools(store: ChunkedRunLogStore) -> None:
    key = segments_of(store.backend)[0]
    first, *headers = gzip.decompress(store.backend.get(key).data).splitlines()
    assert json.loads(first)["run"] == [json.loads(header)["run_id"] for header in headers]


# What is not in it.


def test_a_header_too_large_for_the_index_is_read_when_its_run_is_wanted() -> None:
    store = ChunkedRunLogStore(memory())
    store.create_run_log("large", tag="l", status="SUCCESS", more="x" * MAX_INLINE)
    store.create_run_log("small", status="SUCCESS")
    assert store.reindex().runs == 2
    assert sum(len(store.backend.get(key).data) for key in segments_of(store.backend)) < 2_000
    counting = CountingBackend(store.backend)
    other = ChunkedRunLogStore(counting)
    assert [run.run_id for run in other.find_runs(text="s").runs] == ["small"]
    assert not [key for key in counting.keys("get_many") if key.endswith("run.json")]
    (large,) = other.find_runs(tag="l").runs
    assert large.model_extra == {"more": "x" * MAX_INLINE}
    assert [key for key in counting.keys("get_many") if key.endswith("run.json")] == ["large/run.json"]
    store.set_run_config("small", {"a": 1})
    assert store.reindex(full=True).runs == 2  # also where it is taken from one segment into the next
    store.create_run_log("third", status="FAIL")
    assert store.reindex().runs == 3
    assert len(again(store).find_runs(tag="l").runs) == 1


def test_a_tag_that_json_cannot_hold_keeps_its_run_out_of_the_index_and_not_out_of_sight() -> None:
    store = ChunkedRunLogStore(memory())
    store.create_run_log("odd", status="SUCCESS")
    run_log = store.get_run_log_by_id("odd")
    run_log.tag = "t\ud800"
    store.put_run_log(run_log)
    assert store.reindex().runs == 0
    assert [run.tag for run in again(store).find_runs(tag="t\ud800").runs] == ["t\ud800"]


def test_a_run_may_be_called_as_the_index_is() -> None:
    store = ChunkedRunLogStore(memory())
    store.create_run_log(".index", status="SUCCESS")
    store.reindex()
    store.set_run_config(".index", {"a": 1})
    assert (store.list_run_ids(), [*shown(again(store))]) == ([".index"], [".index"])
    store.delete_run_log(".index")
    assert shown(again(store)) == {}


# Deleted, and made anew.


def test_runs_whose_folders_somebody_removed_are_gone_and_a_reindex_forgets_them(tmp_path: Path) -> None:
    store = ChunkedRunLogStore(LocalBackend(tmp_path / "runs"))
    for run_id in ("a", "b"):
        store.create_run_log(run_id, tag="old", status="SUCCESS")
    store.reindex()
    shutil.rmtree(tmp_path / "runs" / "a")
    assert [*shown(again(store))] == ["b"]
    assert again(store).reindex().runs == 1
    again(store).create_run_log("a", tag="new")
    assert shown(again(store))["a"][:2] == ("CREATED", "new")


def test_a_finished_run_whose_damaged_header_is_deleted_is_not_taken_for_the_next_of_its_id() -> None:
    store = ChunkedRunLogStore(memory())
    store.create_run_log("r", tag="old", status="SUCCESS")
    store.reindex()
    store.backend.put("r/run.json", b"{", ANY)
    again(store).delete_run_log("r")
    again(store).create_run_log("r", tag="new")
    assert shown(again(store)) == {"r": ("CREATED", "new", {})}


class FullForHeaders(CountingBackend):
    """Has no room for anything any more."""

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if any(entry.key.endswith("run.json") for entry in self.inner.list("r/")):
            raise StorageFullError("the disk is full", key=key)
        return super().put(key, data, condition, barrier=barrier)


def test_nor_is_one_that_could_not_be_marked_since_the_disk_was_full() -> None:
    store = ChunkedRunLogStore(memory())
    store.create_run_log("r", tag="old", status="SUCCESS")
    store.set_parameters("r", {"p": 1})
    store.reindex()
    ChunkedRunLogStore(FullForHeaders(store.backend)).delete_run_log("r")
    again(store).create_run_log("r", tag="new")
    assert shown(again(store)) == {"r": ("CREATED", "new", {})}


def test_a_note_about_a_header_that_nobody_can_read_stays(caplog: pytest.LogCaptureFixture) -> None:
    store = ChunkedRunLogStore(memory())
    store.create_run_log("r", status="SUCCESS")
    store.reindex()
    store.set_run_config("r", {"a": 1})
    whole = store.backend.get("r/run.json").data
    store.backend.put("r/run.json", whole[:-3], ANY)
    assert store.reindex().runs == 0
    assert "r/run.json is damaged" in caplog.text
    assert [note.run_id for note in Index(store.backend).listing().notes] == ["r"]
    store.backend.put("r/run.json", whole, ANY)
    assert store.reindex().runs == 1
    assert Index(store.backend).listing().notes == []


# Places that fail.


@pytest.mark.parametrize("seed", range(between(15, 300)))
def test_lost_replies_and_refusals_spoil_nothing(seed: int) -> None:
    inner, chance = memory(), random.Random(seed)
    ChunkedRunLogStore(inner).create_run_log("r0", status="SUCCESS")
    for number in range(1, 30):
        store = ChunkedRunLogStore(FlakyBackend(inner, random.Random(f"{seed} {number}"), rate=0.25))
        run_id = f"r{chance.randrange(4)}"
        call = chance.choice(
            [
                lambda store: store.reindex(),
                lambda store: store.reindex(full=True),
                lambda store, run_id=run_id: store.update_run_log_status(run_id, chance.choice(["FAIL", "SUCCESS"])),
                lambda store, run_id=run_id, number=number: store.set_run_config(run_id, {"n": number}),
                lambda store, run_id=run_id: store.create_run_log(run_id, status="SUCCESS"),
                lambda store, run_id=run_id: store.delete_run_log(run_id),
            ]
        )
        with suppress(BackendUnavailableError, ConflictError, NotFoundError, RunLogExistsError):  # it says so
            call(store)
        direct = ChunkedRunLogStore(inner)
        expected = {
            run.run_id: (run.status, run.tag, run.run_config) for run in direct.get_run_logs(direct.list_run_ids())
        }
        assert shown(ChunkedRunLogStore(inner)) == expected


class WithoutRights(CountingBackend):
    """Lets nobody look into the index."""

    def list(self, prefix: str) -> Iterator[Entry]:
        if prefix.startswith(".index"):
            raise BackendUnavailableError("permission denied", key=prefix)
        return super().list(prefix)


def test_who_may_not_read_the_index_reads_the_headers(
    store: ChunkedRunLogStore, caplog: pytest.LogCaptureFixture
) -> None:
    backend = WithoutRights(store.backend)
    assert shown(ChunkedRunLogStore(backend)) == shown(store)
    assert "the index of memory://" in caplog.text
    assert len(backend.keys("get_many")) == COUNT
    with pytest.raises(BackendUnavailableError):
        ChunkedRunLogStore(backend).reindex()


class NotWritable(CountingBackend):
    """Lets nobody write into the index."""

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if key.startswith(".index"):
            raise BackendUnavailableError("permission denied", key=key)
        return super().put(key, data, condition, barrier=barrier)


def test_who_cannot_leave_a_note_does_not_change_a_finished_run(store: ChunkedRunLogStore) -> None:
    before = store.backend.get("r03/run.json")
    other = ChunkedRunLogStore(NotWritable(store.backend))
    for call in (
        lambda: other.update_run_log_status("r03", "FAIL"),
        lambda: other.set_run_config("r03", {"a": 1}),
        lambda: other.delete_run_log("r03"),
    ):
        with pytest.raises(BackendUnavailableError, match="permission denied"):
            call()
    assert store.backend.get("r03/run.json") == before
    other.create_run_log("new", status="PROCESSING")
    other.update_run_log_status("new", "SUCCESS")


class Overtaken(CountingBackend):
    """Another process swaps the manifest before each swap of ours."""

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if key == MANIFEST:
            ChunkedRunLogStore(self.inner).reindex(full=True)
        return super().put(key, data, condition, barrier=barrier)


def test_a_reindex_that_is_overtaken_all_the_time_says_so_and_leaves_the_others_work(store: ChunkedRunLogStore) -> None:
    store.create_run_log("new", status="SUCCESS")
    with pytest.raises(ConflictError, match="overtaken by another reindex"):
        ChunkedRunLogStore(Overtaken(store.backend)).reindex(full=True)
    assert Index(store.backend).manifest().segments
    assert len(shown(again(store))) == COUNT + 1
    assert store.reindex().runs == COUNT + 1
    assert len(segments_of(store.backend)) == len(Index(store.backend).manifest().segments)


# In one process.


class TakenAway(CountingBackend):
    """A reindex makes everything anew right after the manifest was read, once."""

    done = False

    def get(self, key: str) -> Blob:
        blob = super().get(key)
        if key == MANIFEST and not self.done:
            self.done = True
            ChunkedRunLogStore(self.inner).reindex(full=True)
        return blob


def test_segments_that_a_reindex_takes_away_meanwhile_are_found_under_their_new_names(
    store: ChunkedRunLogStore, caplog: pytest.LogCaptureFixture
) -> None:
    backend = TakenAway(store.backend)
    assert shown(ChunkedRunLogStore(backend)) == shown(store)
    assert not [key for key in backend.keys("get_many") if key.endswith("run.json")]
    assert [one for one in caplog.records if one.levelno >= logging.WARNING] == []


def test_what_a_process_keeps_of_segments_is_bounded(store: ChunkedRunLogStore) -> None:
    counting = CountingBackend(store.backend)
    small = Index(counting, cache_bytes=1)
    for _ in range(3):
        view = small.look()
        assert sorted(run_id for _, segment in view.segments() for run_id in segment.runs) == sorted(shown(store))
    assert len(counting.keys("get_many")) >= 3
    large = Index(counting)
    counting.reset()
    for _ in range(3):
        assert len(list(large.look().segments())) == 2
    assert len(counting.keys("get_many")) == 2


def test_a_stream_goes_on_when_its_segments_were_taken_away_and_forgotten(store: ChunkedRunLogStore) -> None:
    other = again(store)
    stream = other.iter_run_logs()
    other._index._decoded._values.clear()
    store.set_run_config("r03", {"changed": True})
    store.reindex(full=True)
    assert {run.run_id: bool(run.run_config) for run in stream} == {run_id: run_id == "r03" for run_id in shown(store)}


def test_the_folder_of_the_index_is_no_run_on_any_place(tmp_path: Path) -> None:
    for backend in (MemoryBackend("dots"), LocalBackend(tmp_path)):
        store = ChunkedRunLogStore(backend)
        store.create_run_log("r", status="SUCCESS")
        store.reindex()
        assert list(backend.folders()) == ["r"]
        assert [*again(store).iter_run_ids()] == ["r"]
        assert {entry.key for entry in backend.list(".index/")} > {MANIFEST}
