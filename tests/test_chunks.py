"""One chunk's life: create, change, read, read many, delete, without any model."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkstore import codec, keys
from chunkstore.backends import ANY, Backend, Blob, Guarantees
from chunkstore.backends.local import LocalBackend
from chunkstore.backends.memory import MemoryBackend
from chunkstore.chunks import Change, Chunks, Timing
from chunkstore.clock import HybridClock
from chunkstore.errors import AlreadyExistsError, FormatError, ObjectNotFoundError
from chunkstore.testing import CountingBackend, SlowBackend
from chunkstore.values import Content, decode, encode

HEADER = keys.header("r")
STEP = keys.step("r", "a")


@pytest.fixture(params=["memory", "local"])
def counting(request: pytest.FixtureRequest, tmp_path: Path) -> CountingBackend:
    inner: Backend = LocalBackend(tmp_path) if request.param == "local" else MemoryBackend(str(tmp_path))
    return CountingBackend(inner)


@pytest.fixture
def chunks(counting: CountingBackend) -> Chunks:
    made = Chunks(counting)
    made.create(HEADER, content(0))
    counting.reset()
    return made


def content(number: int) -> Content:
    return encode({"number": number})


def number_of(found: Content) -> int:
    number = decode(found)["number"]
    assert isinstance(number, int)
    return number


def plus_one(found: Content) -> Content:
    return content(number_of(found) + 1)


def set_to(chunk: keys.ChunkId, number: int) -> Change:
    return Change(chunk, lambda _theirs: content(number), content(number))


def test_a_chunk_is_created_once(chunks: Chunks, counting: CountingBackend) -> None:
    with pytest.raises(AlreadyExistsError, match="run exists in") as caught:
        Chunks(counting).create(HEADER, content(1))
    assert (caught.value.run_id, caught.value.key) == ("r", "r/run.json")
    assert number_of(chunks.read(HEADER).chunk.content) == 0


def test_what_is_created_anywhere_in_the_run_needs_its_folder_or_its_header(counting: CountingBackend) -> None:
    if isinstance(counting.inner, LocalBackend):
        with pytest.raises(ObjectNotFoundError):
            Chunks(counting).change(set_to(STEP, 1))
        assert list(counting.folders()) == []


def test_a_change_starts_from_initial_where_nothing_is(chunks: Chunks, counting: CountingBackend) -> None:
    assert number_of(chunks.change(Change(STEP, plus_one, content(5))).chunk.content) == 5
    assert number_of(chunks.change(Change(STEP, plus_one, content(5))).chunk.content) == 6
    assert counting.by_verb == {"put": 2}


def test_a_change_without_initial_needs_something_there(chunks: Chunks) -> None:
    with pytest.raises(ObjectNotFoundError):
        chunks.change(Change(STEP, plus_one))


def test_a_change_is_made_on_top_of_what_others_wrote(chunks: Chunks, counting: CountingBackend) -> None:
    other = Chunks(counting)
    for _ in range(3):
        other.change(Change(HEADER, plus_one))
        chunks.change(Change(HEADER, plus_one))
    assert number_of(other.read(HEADER).chunk.content) == 6


def test_an_edit_that_changes_nothing_is_not_written_unless_always(chunks: Chunks, counting: CountingBackend) -> None:
    chunks.change(Change(HEADER, lambda theirs: theirs))
    assert counting.requests == 0
    chunks.change(Change(HEADER, lambda theirs: theirs, always=True))
    assert counting.by_verb == {"put": 1}


def test_an_edit_that_fails_writes_nothing(chunks: Chunks, counting: CountingBackend) -> None:
    def fail(_theirs: Content) -> Content:
        raise RuntimeError("the edit")

    with pytest.raises(RuntimeError, match="the edit"):
        chunks.change(Change(HEADER, fail))
    assert counting.requests == 0


def test_its_creation_time_survives_every_rewrite(chunks: Chunks, counting: CountingBackend) -> None:
    created = chunks.read(HEADER).chunk.envelope.created_at
    chunks.change(Change(HEADER, plus_one))
    Chunks(counting).change(Change(HEADER, plus_one))
    assert chunks.read(HEADER).chunk.envelope.created_at == created


def test_what_is_created_after_a_read_is_later_whatever_the_clock_says(
    chunks: Chunks, counting: CountingBackend
) -> None:
    late = Chunks(counting, clock=HybridClock(lambda: 0))
    seen = late.read(HEADER).chunk.envelope.created_at
    assert late.change(set_to(STEP, 1)).chunk.envelope.created_at > seen


def test_each_session_numbers_its_writes(chunks: Chunks, counting: CountingBackend) -> None:
    chunks.change(Change(HEADER, plus_one))
    Chunks(counting).change(Change(HEADER, plus_one))
    writers = dict(chunks.read(HEADER).chunk.envelope.writers)
    assert sorted(writers.values()) == [1, 2]


def test_a_chunk_that_was_taken_away_is_written_again_where_its_run_is(
    chunks: Chunks, counting: CountingBackend
) -> None:
    chunks.change(set_to(STEP, 1))
    counting.inner.delete(STEP.key)
    assert number_of(chunks.change(set_to(STEP, 2)).chunk.content) == 2
    counting.inner.delete(STEP.key)
    counting.inner.delete(HEADER.key)
    with pytest.raises(ObjectNotFoundError):
        chunks.change(set_to(STEP, 3))
    assert chunks.scan("r/").chunks == []


def test_a_scan_fetches_only_what_changed_since(chunks: Chunks, counting: CountingBackend) -> None:
    for name in "abc":
        chunks.change(set_to(keys.step("r", name), 1))
    other = Chunks(counting)
    assert len(other.scan("r/").chunks) == 4
    chunks.change(set_to(keys.step("r", "b"), 2))
    chunks.change(set_to(keys.step("r", "d"), 2))
    counting.reset()
    assert len(other.scan("r/").chunks) == 5
    assert sorted(counting.keys("get_many")) == ["r/step.b.json", "r/step.d.json"]


def test_a_scan_by_the_start_of_keys_takes_no_siblings(chunks: Chunks) -> None:
    for name, scope in [("a", ""), ("ab", ""), ("x", "m.1"), ("x", "m.10")]:
        chunks.change(set_to(keys.parameter("r", name, scope), 1))
    found = chunks.scan(keys.prefix_of_parameters("r", "m.1")).chunks
    assert [stored.chunk.envelope.scope for stored in found] == ["m.1"]
    assert len(chunks.scan(keys.prefix_of_parameters("r")).chunks) == 2


def test_read_many_leaves_out_what_is_missing_and_reports_what_is_damaged(
    chunks: Chunks, counting: CountingBackend
) -> None:
    chunks.change(set_to(STEP, 1))
    counting.put("r/step.b.json", b"garbage", ANY)
    scan = chunks.read_many([HEADER, STEP, keys.step("r", "b"), keys.step("r", "none")])
    assert {stored.key for stored in scan.chunks} == {"r/run.json", "r/step.a.json"}
    assert [error.key for error in scan.damaged] == ["r/step.b.json"]
    assert chunks.read_many([]).chunks == []


def test_a_marked_header_is_never_changed_again(chunks: Chunks, counting: CountingBackend) -> None:
    other = Chunks(counting)
    other.change(Change(HEADER, plus_one))  # so that the first try to mark it conflicts
    assert chunks.mark_deleted(HEADER).chunk.envelope.deleted
    for writer in (chunks, other, Chunks(counting)):
        with pytest.raises(ObjectNotFoundError, match="being deleted"):
            writer.change(Change(HEADER, plus_one))
    assert Chunks(counting).mark_deleted(HEADER).chunk.envelope.deleted


def test_what_was_deleted_is_not_known_any_more(chunks: Chunks) -> None:
    chunks.change(set_to(STEP, 1))
    chunks.delete_many([STEP.key, "r/step.never.json"])
    assert STEP.key not in chunks.known
    with pytest.raises(ObjectNotFoundError):
        chunks.read(STEP)


def test_many_changes_report_the_first_error_after_all_have_ended(tmp_path: Path) -> None:
    inner = MemoryBackend(str(tmp_path))
    chunks = Chunks(SlowBackend(inner, 0.0, lambda _latency: None, concurrency=8))
    chunks.create(HEADER, content(0))
    inner.put("r/step.3.json", b"garbage", ANY)
    with pytest.raises(FormatError, match=r"r/step\.3\.json"):
        chunks.change_many(set_to(keys.step("r", str(number)), number) for number in range(8))
    assert len(chunks.scan("r/step.").chunks) == 7


def test_many_chunks_under_a_small_memory_are_all_written_and_read(counting: CountingBackend) -> None:
    chunks = Chunks(counting, known_bytes=3_000)
    chunks.create(HEADER, content(0))
    for _ in range(2):
        chunks.change_many(set_to(keys.step("r", str(number)), number) for number in range(50))
    assert sorted(number_of(stored.chunk.content) for stored in chunks.scan("r/step.").chunks) == list(range(50))


class TestAChunkThatWasMetAndForgotten:
    """What its writer has seen is read again before it is written: as little as a conflict would cost, and less."""

    met = Change(STEP, plus_one, content(100), met=True)

    def forgetful(self, counting: CountingBackend) -> Chunks:
        chunks = Chunks(counting, known_bytes=1)
        chunks.change(set_to(STEP, 1))
        chunks.read(HEADER)
        assert chunks.last_seen(STEP) is None
        counting.reset()
        return chunks

    def test_is_read_and_changed(self, chunks: Chunks, counting: CountingBackend) -> None:
        forgetful = self.forgetful(counting)
        assert number_of(forgetful.change(self.met).chunk.content) == 2
        assert counting.by_verb == {"get": 1, "put": 1}

    def test_is_begun_anew_where_only_it_was_taken_away(self, chunks: Chunks, counting: CountingBackend) -> None:
        forgetful = self.forgetful(counting)
        counting.delete(keys.key_of(STEP))
        assert number_of(forgetful.change(self.met).chunk.content) == 100

    @pytest.mark.parametrize("marked", [False, True], ids=["gone", "being deleted"])
    def test_is_not_begun_anew_where_its_run_is_deleted(
        self, marked: bool, chunks: Chunks, counting: CountingBackend
    ) -> None:
        forgetful = self.forgetful(counting)
        chunks.mark_deleted(HEADER)
        counting.delete(keys.key_of(STEP))
        if not marked:
            counting.delete(keys.key_of(HEADER))
        with pytest.raises(ObjectNotFoundError):
            forgetful.change(self.met)
        assert list(counting.list("r/step.")) == []


def test_stamps_that_are_given_are_kept_however_many_are_written_at_once(chunks: Chunks) -> None:
    stamps = ["2026-01-01T00:00:00.000001Z", "2026-01-01T00:00:00.000002Z"]
    changes = [set_to(keys.step("r", stamp), 1)._replace(created_at=stamp) for stamp in stamps]
    assert [stored.chunk.envelope.created_at for stored in chunks.change_many(changes)] == stamps


class HalfThere(CountingBackend):
    """Replacing is not atomic: the first reads get half an object."""

    def __init__(self, inner: Backend, halves: int) -> None:
        super().__init__(inner)
        self.halves = halves

    @property
    def guarantees(self) -> Guarantees:
        inner = self.inner.guarantees
        return Guarantees(
            inner.conditional_create,
            inner.conditional_update,
            inner.across_processes,
            inner.across_hosts,
            False,
            inner.durable,
        )

    def get(self, key: str) -> Blob:
        blob = super().get(key)
        self.halves -= 1
        return Blob(blob.data[:20], "half") if self.halves >= 0 else blob

    def get_many(self, wanted: object) -> Iterator[tuple[str, Blob]]:
        return ((key, self.get(key)) for key in wanted)  # type: ignore[attr-defined]


@pytest.mark.parametrize("halves", [1, 4])
def test_half_an_object_is_read_again_where_replacing_is_not_atomic(
    chunks: Chunks, counting: CountingBackend, halves: int
) -> None:
    slept: list[float] = []
    timing = Timing(sleep=slept.append)
    assert number_of(Chunks(HalfThere(counting.inner, halves), timing=timing).read(HEADER).chunk.content) == 0
    assert len(slept) == halves
    scan = Chunks(HalfThere(counting.inner, halves), timing=timing).scan("r/")
    assert (len(scan.chunks), scan.damaged) == (1, [])


class AwayForAMoment(HalfThere):
    """Replacing is not atomic: the first reads find nothing."""

    def get(self, key: str) -> Blob:
        blob = super().get(key)
        if blob.version == "half":
            raise ObjectNotFoundError(f"{key} is not there", key=key)
        return blob


@pytest.mark.parametrize("known_bytes", [1 << 20, 1], ids=["the chunk is known", "its run is known"])
def test_an_object_that_was_there_is_looked_for_again_where_replacing_is_not_atomic(
    chunks: Chunks, counting: CountingBackend, known_bytes: int
) -> None:
    backend = AwayForAMoment(counting.inner, 0)
    reader = Chunks(backend, timing=Timing(sleep=lambda _seconds: None), known_bytes=known_bytes)
    reader.read(HEADER)
    backend.halves = 2
    assert number_of(reader.read(HEADER).chunk.content) == 0


def test_a_header_that_was_never_met_is_looked_for_again_too_as_without_it_there_is_no_run(
    chunks: Chunks, counting: CountingBackend
) -> None:
    backend = AwayForAMoment(counting.inner, 2)
    reader = Chunks(backend, timing=Timing(sleep=lambda _seconds: None))
    assert number_of(reader.read(HEADER).chunk.content) == 0


def test_any_other_object_that_was_never_met_is_missing_at_once(chunks: Chunks, counting: CountingBackend) -> None:
    chunks.change(Change(keys.step("r", "a"), lambda content: content, Content(b"{}")))
    backend = AwayForAMoment(counting.inner, 0)
    reader = Chunks(backend, timing=Timing(sleep=lambda _seconds: None))
    reader.read(HEADER)
    backend.halves = 1
    with pytest.raises(ObjectNotFoundError):
        reader.read(keys.step("r", "a"))
    assert backend.halves <= 0


def test_an_object_that_stays_half_is_damage(chunks: Chunks, counting: CountingBackend) -> None:
    timing = Timing(sleep=lambda _seconds: None)
    with pytest.raises(FormatError):
        Chunks(HalfThere(counting.inner, 99), timing=timing).read(HEADER)
    assert len(Chunks(HalfThere(counting.inner, 99), timing=timing).scan("r/").damaged) == 1


def test_threads_of_one_store_never_take_each_others_write_for_their_own(tmp_path: Path) -> None:
    together = threading.Barrier(2)
    inner = MemoryBackend(str(tmp_path))
    Chunks(inner).create(HEADER, content(0))
    turns = iter([True, True])

    def wait(_latency: float) -> None:
        if next(turns, False):
            together.wait(10)

    chunks = Chunks(SlowBackend(inner, 1.0, wait, concurrency=2))
    chunks.known.put(Chunks(inner).read(HEADER))
    chunks.change_many([Change(HEADER, plus_one), Change(HEADER, plus_one)])
    assert number_of(Chunks(inner).read(HEADER).chunk.content) == 2


def test_bytes_above_the_threshold_are_compressed_under_the_same_key(counting: CountingBackend) -> None:
    chunks = Chunks(counting, compress_above=100)
    chunks.create(HEADER, encode({"text": "x" * 10_000}))
    data = counting.inner.get(HEADER.key).data
    assert len(data) < 1_000
    assert decode(codec.decode(data, HEADER.key).content) == {"text": "x" * 10_000}
    assert decode(Chunks(counting).read(HEADER).chunk.content) == {"text": "x" * 10_000}
