"""What a process knows is bounded, safe in threads and forks, and gone when its object is."""

from __future__ import annotations

import gc
import os
import pickle
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkstore.codec import Chunk, Envelope
from chunkstore.known import KnownChunks, Origin, Origins, Stored
from chunkstore.models import StepLog
from chunkstore.values import Content

# A busy machine is slow, not wrong.
unhurried = settings(deadline=None)

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
in_threads = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")


def stored(key: str, size: int = 0, version: str = "1", exact: int = 0) -> Stored:
    content = Content(b"x" * size, {f"/{number}": "float:nan" for number in range(exact)})
    return Stored(key, Chunk(Envelope("r", "step", key, "", "now"), content), version)


def in_child(work: Callable[[], bool]) -> bool:
    """Whether `work` is true in a forked child, which has 30 seconds for it."""
    child = os.fork()
    if child == 0:
        threading.Timer(30, os._exit, [2]).start()
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_the_version_seen_last_is_known() -> None:
    known = KnownChunks(1 << 20)
    known.put(stored("a", version="1"))
    known.put(stored("a", version="2"))
    found = known.get("a")
    assert found is not None
    assert (found.version, "a" in known) == ("2", True)


def test_what_was_never_seen_or_was_forgotten_is_not_known() -> None:
    known = KnownChunks(1 << 20)
    known.put(stored("a"))
    known.forget("a")
    known.forget("never")
    assert (known.get("a"), known.get("never"), "a" in known) == (None, None, False)


def test_all_of_a_run_are_forgotten_at_once_and_no_others() -> None:
    known = KnownChunks(1 << 20)
    for key in ("r/a", "r/b", "r2/a"):
        known.put(stored(key))
    known.forget_run("r")
    assert [key in known for key in ("r/a", "r/b", "r2/a")] == [False, False, True]


class TestRuns:
    def test_a_run_that_was_not_met_has_no_founding(self) -> None:
        assert KnownChunks(1).founding("r") is None

    def test_the_founding_is_that_of_the_run_seen_last(self) -> None:
        known = KnownChunks(1)
        assert [known.found("r", stamp) for stamp in ("1", "1", "2", "")] == [False, False, True, False]
        assert known.founding("r") == "2"

    def test_one_with_a_damaged_header_is_known_without_its_founding(self) -> None:
        known = KnownChunks(1 << 20)
        known.found("r")
        known.put(stored("r/a"))
        assert known.founding("r") == ""
        assert not known.found("r", "1")
        assert (known.founding("r"), "r/a" in known) == ("1", True)

    def test_chunks_of_a_run_go_when_another_of_its_id_is_met(self) -> None:
        known = KnownChunks(1 << 20)
        known.found("r", "1")
        known.put(stored("r/a"))
        known.put(stored("r2/a"))
        known.found("r", "2")
        assert ["r/a" in known, "r2/a" in known] == [False, True]

    def test_a_run_can_be_forgotten(self) -> None:
        known = KnownChunks(1 << 20)
        known.found("r", "1")
        known.forget_run("r")
        assert known.founding("r") is None

    def test_those_met_last_are_kept(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(KnownChunks, "_MAX_RUNS", 3)
        known = KnownChunks(1)
        for number in range(5):
            known.found(f"r{number}", "1")
        assert [known.founding(f"r{number}") for number in range(5)] == [None, None, "1", "1", "1"]


@unhurried
@given(
    st.lists(
        st.tuples(st.sampled_from("abcdefgh"), st.integers(0, 30_000) | st.none(), st.integers(0, 20)), max_size=60
    )
)
def test_what_is_known_never_takes_more_than_its_bytes(steps: list[tuple[str, int | None, int]]) -> None:
    known = KnownChunks(40_000)
    for key, size, exact in steps:
        if size is None:
            known.forget(key)
            assert key not in known
            continue
        known.put(stored(key, size, exact=exact))
        assert key in known
        held = [known._size(known._chunks[other]) for other in "abcdefgh" if other in known]
        assert sum(held) == known._bytes
        assert sum(held) <= 40_000 or len(held) == 1


def test_what_came_back_late_is_not_taken_for_what_stands_there() -> None:
    known = KnownChunks(1 << 20)
    known.put_unless_overtaken(stored("a", version="1"), None)
    before = known.get("a")
    assert before is not None
    known.put_unless_overtaken(stored("a", version="2"), before)
    assert known.get("a") == stored("a", version="2")
    known.put_unless_overtaken(stored("a", version="late"), before)
    assert "a" not in known
    known.put_unless_overtaken(stored("a", version="late"), before)
    assert "a" not in known
    assert known._bytes == 0


def test_the_longest_unseen_goes_first() -> None:
    known = KnownChunks(3 * 2100)
    for key in "abc":
        known.put(stored(key, 1000))
    known.put(stored("a", 1000))
    known.put(stored("d", 1000))
    assert [key in known for key in "abcd"] == [True, False, True, True]


def test_with_no_bytes_at_all_only_the_last_is_known() -> None:
    known = KnownChunks(0)
    for key in "abc":
        known.put(stored(key, 1_000_000))
    assert [key in known for key in "abc"] == [False, False, True]


def test_exact_values_count_too() -> None:
    known = KnownChunks(100_000)
    known.put(stored("a", exact=300))
    known.put(stored("b", exact=300))
    assert [key in known for key in "ab"] == [False, True]


def test_threads_keep_the_books_right() -> None:
    known = KnownChunks(50_000)

    def work(number: int) -> None:
        for turn in range(300):
            known.put(stored(f"{turn % 17}", number * 100 + turn))
            known.forget(f"{(turn + number) % 17}")
            known.forget_run("1")

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(work, range(8)))
    assert known._bytes == sum(map(known._size, known._chunks.values()))


@forks
@in_threads
def test_a_forked_child_knows_what_its_parent_knew_and_waits_for_no_lock_of_its_threads() -> None:
    known = KnownChunks(1 << 20)
    known.put(stored("a", version="7"))

    def work() -> bool:
        found = known.get("a")
        known.put(stored("b"))
        return found is not None and found.version == "7" and "b" in known

    locked, forked = threading.Event(), threading.Event()

    def hold() -> None:
        with known._lock.get():
            locked.set()
            forked.wait(60)

    thread = threading.Thread(target=hold)
    thread.start()
    locked.wait(60)
    assert in_child(work)
    forked.set()
    thread.join()
    assert "b" not in known


def step(name: str = "a") -> StepLog:
    return StepLog(name=name, internal_name=name)


def test_an_object_has_the_origin_that_was_noted_last() -> None:
    origins, thing = Origins(), step()
    assert origins.of(thing) is None
    origins.note(thing, Origin("r/step.a.json", Content(b"1")))
    origins.note(thing, Origin("r/step.a.json", Content(b"2")))
    found = origins.of(thing)
    assert found is not None
    assert found.content == Content(b"2")


def test_an_equal_object_has_no_origin_of_anothers() -> None:
    origins, thing = Origins(), step()
    origins.note(thing, Origin("r/step.a.json", Content(b"1")))
    assert origins.of(step()) is None
    assert origins.of(thing.model_copy(deep=True)) is None
    assert origins.of(pickle.loads(pickle.dumps(thing))) is None
    assert origins.of(None) is None


def test_an_origin_is_forgotten_with_its_object() -> None:
    origins = Origins()
    things = [step(str(number)) for number in range(100)]
    for _ in range(3):
        for thing in things:
            origins.note(thing, Origin("r/step.a.json", Content(b"1")))
    assert len(origins._noted) == 100
    del thing
    things.clear()
    gc.collect()
    assert not origins._noted


def test_a_new_object_in_the_place_of_a_dead_one_has_no_origin() -> None:
    origins = Origins()
    reused = 0
    for _ in range(200):
        thing = step()
        number = id(thing)
        origins.note(thing, Origin("r/step.a.json", Content(b"1")))
        del thing
        successor = step()
        reused += id(successor) == number
        assert origins.of(successor) is None
    assert reused, "the allocator never reused an id: this proves nothing"


def test_the_late_death_of_an_object_does_not_take_its_successors_origin() -> None:
    origins, thing, successor = Origins(), step(), step()
    origins.note(thing, Origin("r/step.a.json", Content(b"1")))
    origins.note(successor, Origin("r/step.a.json", Content(b"2")))
    # As when the number of an object that died was given to another before the news of the death came.
    late = origins._noted[id(thing)]
    late.number = id(successor)
    origins._forget(late)
    assert origins.of(successor) == Origin("r/step.a.json", Content(b"2"))


def test_origins_are_safe_in_threads() -> None:
    origins = Origins()

    def work(number: int) -> bool:
        right = True
        for turn in range(300):
            thing = step()
            mine = Origin("r/step.a.json", Content(f"{number}.{turn}".encode()))
            origins.note(thing, mine)
            right &= origins.of(thing) is mine
        return right

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(8)))
    gc.collect()
    assert not origins._noted
