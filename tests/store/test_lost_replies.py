"""A lost reply is not a conflict: what landed is recognised, what did not is repeated, and what nobody knows is said."""

from __future__ import annotations

import itertools
import pickle
import random
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkstore import (
    BackendUnavailableError,
    ChunkedRunLogStore,
    ChunkStoreError,
    ConflictError,
    RunLogExistsError,
    WriteStateUnknownError,
)
from chunkstore.backends import Backend, Condition
from chunkstore.chunks import Change, Timing
from chunkstore.keys import header
from chunkstore.testing import CountingBackend, Fault, FlakyBackend
from chunkstore.values import Content, decode, encode
from places import again, memory, place, sized

REFUSED, LOST, ECHO = Fault.REFUSED, Fault.LOST_REPLY, Fault.ECHO


class Clock:
    """Time that passes only when somebody sleeps."""

    def __init__(self) -> None:
        self.time = 0.0
        self.slept: list[float] = []

    def timing(self, deadline: float = 30.0) -> Timing:
        return Timing(
            deadline=deadline,
            first_pause=0.002,
            longest_pause=0.5,
            now=lambda: self.time,
            sleep=self.sleep,
            random=lambda: 0.5,
        )

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.time += seconds


@pytest.fixture(params=["memory", "local"])
def inner(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    backend = place(request.param, request, tmp_path)
    ChunkedRunLogStore(backend).create_run_log("r", tag="first")
    return backend


def flaky(inner: Backend, script: Iterable[Fault | None] | random.Random, **more: Any) -> ChunkedRunLogStore:
    return ChunkedRunLogStore(FlakyBackend(inner, script, **more), timing=Clock().timing())


WRITES = {
    "a new step": lambda store: store.add_step_log(store.create_step_log("a", "a"), "r"),
    "a status": lambda store: store.update_run_log_status("r", "FAIL"),
    "a configuration": lambda store: store.set_run_config("r", {"a": 1}),
    "a parameter": lambda store: store.set_parameters("r", {"a": 1}),
}


def state(inner: Backend) -> dict[str, Any]:
    found = ChunkedRunLogStore(inner).get_run_log_by_id("r").model_dump()
    found.pop("created_at")
    return found


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
@pytest.mark.parametrize(
    "faults", [[REFUSED], [LOST], [ECHO], [REFUSED, None, LOST], [REFUSED, None, REFUSED, None, ECHO]], ids=str
)
def test_a_write_succeeds_in_spite_of_a_fault(inner: Backend, write: Any, faults: list[Fault | None]) -> None:
    store = flaky(inner, [None, *faults])  # the first call reads the header
    write(store)
    undisturbed = memory()
    ChunkedRunLogStore(undisturbed).create_run_log("r", tag="first")
    write(ChunkedRunLogStore(undisturbed))
    assert state(inner) == state(undisturbed)
    assert [fault for _, _, fault in store.backend.faults] == [fault for fault in faults if fault]  # type: ignore[attr-defined]


@pytest.mark.parametrize("fault", [LOST, ECHO, REFUSED])
def test_the_winner_of_a_create_learns_that_it_won(inner: Backend, fault: Fault) -> None:
    flaky(inner, [fault]).create_run_log("new", tag="mine")
    assert ChunkedRunLogStore(inner).get_run_log_by_id("new").tag == "mine"


@pytest.mark.parametrize("fault", [LOST, ECHO, REFUSED])
def test_the_loser_of_a_create_learns_that_it_lost(inner: Backend, fault: Fault) -> None:
    with pytest.raises(RunLogExistsError):
        flaky(inner, [fault]).create_run_log("r", tag="second")
    assert ChunkedRunLogStore(inner).get_run_log_by_id("r").tag == "first"


class Overtaking(CountingBackend):
    """Somebody else writes between a put that landed and its read-back."""

    def __init__(self, inner: Backend, then: Any) -> None:
        super().__init__(inner)
        self.then = then

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        version = super().put(key, data, condition, barrier=barrier)
        then, self.then = self.then, None
        if then is not None:
            then()
            raise ConflictError("the echo of one's own first try", key=key)
        return version


def test_a_write_that_landed_is_recognised_below_another_writers(inner: Backend) -> None:
    other = ChunkedRunLogStore(inner)
    theirs = lambda: other.set_run_config("r", {"theirs": 1})  # noqa: E731
    store = ChunkedRunLogStore(Overtaking(inner, theirs), timing=Clock().timing())
    store.set_run_config("r", {"mine": 1})
    assert len(store.backend.keys("put")) == 1  # type: ignore[attr-defined]
    assert again(other).get_run_config("r") == {"mine": 1, "theirs": 1}
    store.set_run_config("r", {"more": 1})
    assert again(other).get_run_config("r") == {"mine": 1, "theirs": 1, "more": 1}


class TestUnknown:
    @pytest.mark.parametrize("fault", [LOST, ECHO])
    @pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
    def test_nobody_can_say_whether_it_landed_and_the_error_does(
        self, inner: Backend, write: Any, fault: Fault
    ) -> None:
        store = flaky(inner, [None, fault, REFUSED])
        with pytest.raises(
            WriteStateUnknownError, match=r"nobody can say whether r/.*was written to .*Repeat the call"
        ) as caught:
            write(store)
        assert caught.value.transient
        assert caught.value.key.startswith("r/")
        assert inner.place in str(caught.value)
        assert isinstance(caught.value.__cause__, ChunkStoreError)
        assert type(pickle.loads(pickle.dumps(caught.value))) is WriteStateUnknownError

    @pytest.mark.parametrize("fault", [LOST, ECHO, REFUSED])
    @pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
    def test_repeating_the_call_does_no_harm(self, inner: Backend, write: Any, fault: Fault) -> None:
        store = flaky(inner, [None, fault, REFUSED])
        with pytest.raises(BackendUnavailableError):
            write(store)
        write(store)
        undisturbed = memory()
        ChunkedRunLogStore(undisturbed).create_run_log("r", tag="first")
        write(ChunkedRunLogStore(undisturbed))
        assert state(inner) == state(undisturbed)

    def test_a_create_whose_fate_is_unknown_says_exists_when_repeated(self, inner: Backend) -> None:
        store = flaky(inner, [LOST, REFUSED])
        with pytest.raises(WriteStateUnknownError):
            store.create_run_log("new", tag="mine")
        with pytest.raises(RunLogExistsError):
            store.create_run_log("new", tag="mine")
        assert again(store).get_run_log_by_id("new").tag == "mine"

    def test_appended_attempts_are_not_doubled_by_a_repeated_call(self, inner: Backend) -> None:
        store = flaky(inner, [None, None, LOST, REFUSED])
        step = store.create_step_log("a", "a")
        store.add_step_log(step, "r")
        step.attempts.append(store.create_attempt_log())
        with pytest.raises(WriteStateUnknownError):
            store.add_step_log(step, "r")
        store.add_step_log(step, "r")
        assert len(ChunkedRunLogStore(inner).get_step_log("a", "r").attempts) == 1

    def test_a_repeated_call_undoes_nothing_of_what_its_first_try_read_for_a_step_made_by_hand(
        self, inner: Backend
    ) -> None:
        script: list[Fault | None] = []
        store, other = flaky(inner, in_turn(script)), ChunkedRunLogStore(inner)
        store.add_step_log(store.create_step_log("a", "a"), "r")
        theirs = other.get_step_log("a", "r")
        theirs.message = "theirs"
        other.add_step_log(theirs, "r")
        mine = store.create_step_log("a", "a")
        mine.status = "FAIL"
        script += [None, None, REFUSED, REFUSED]  # a conflict, what stands there; the next put, and its read-back
        with pytest.raises(BackendUnavailableError):
            store.add_step_log(mine, "r")
        store.add_step_log(mine, "r")
        found = again(other).get_step_log("a", "r")
        assert (found.status, found.message) == ("FAIL", "theirs")

    def test_a_run_log_made_by_hand_is_as_durable_by_the_repeated_call_as_by_the_first(self, inner: Backend) -> None:
        script: list[Fault | None] = []
        store = ChunkedRunLogStore(NotingBarriers(inner, in_turn(script)), timing=Clock().timing())
        store.update_run_log_status("r", "PROCESSING")  # the header is known, and is as it shall be
        mine = store.get_run_log_by_id("r").model_copy(deep=True)
        script += [REFUSED, REFUSED]
        with pytest.raises(BackendUnavailableError):
            store.put_run_log(mine)
        barriers = store.backend.barriers  # type: ignore[attr-defined]
        barriers.clear()
        store.put_run_log(mine)
        assert barriers == [("r/run.json", True)]


class NotingBarriers(FlakyBackend):
    """Writes down which puts came with a barrier."""

    def __init__(self, inner: Backend, script: Iterable[Fault | None]) -> None:
        super().__init__(inner, script)
        self.barriers: list[tuple[str, bool]] = []

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        self.barriers.append((key, barrier))
        return super().put(key, data, condition, barrier=barrier)


def in_turn(script: list[Fault | None]) -> Iterator[Fault | None]:
    """The faults that are in the list by then, and none while it is empty."""
    while True:
        yield script.pop(0) if script else None


def increment(content: Content) -> Content:
    fields = decode(content)
    count = fields.get("count", 0)
    assert isinstance(count, int)
    return encode({**fields, "count": count + 1})


@pytest.mark.parametrize("seed", range(10))
def test_a_counter_of_several_stores_under_faults_is_exact(inner: Backend, seed: int) -> None:
    stores = [flaky(inner, random.Random(f"{seed} {number}"), rate=0.4) for number in range(4)]
    turns = random.Random(seed)
    done = unknown = 0
    for _ in range(sized(1_000)):
        try:
            turns.choice(stores)._chunks.change(Change(header("r"), increment, always=True))
            done += 1
        except WriteStateUnknownError:
            unknown += 1
        except BackendUnavailableError:
            pass  # refused before it was sent, so that it never landed
    count = decode(ChunkedRunLogStore(inner)._chunks.read(header("r")).chunk.content)["count"]
    assert isinstance(count, int)
    assert done <= count <= done + unknown
    assert done > 0
    assert any(store.backend.faults for store in stores)  # type: ignore[attr-defined]


@pytest.mark.parametrize("seed", range(10))
def test_a_counter_is_exact_to_the_last_one_where_only_puts_fail(inner: Backend, seed: int) -> None:
    stores = [
        ChunkedRunLogStore(FlakyPuts(inner, random.Random(f"{seed} {number}"), rate=0.5), timing=Clock().timing())
        for number in range(4)
    ]
    turns = random.Random(seed)
    rounds = sized(1_000)
    for _ in range(rounds):
        turns.choice(stores)._chunks.change(Change(header("r"), increment, always=True))
    assert decode(ChunkedRunLogStore(inner)._chunks.read(header("r")).chunk.content)["count"] == rounds


class FlakyPuts(FlakyBackend):
    """Only puts fail: every read-back succeeds."""

    def _next(self, verb: str, key: str, *, conditional: bool) -> Fault | None:
        return super()._next(verb, key, conditional=conditional) if verb == "put" else None


class Never(CountingBackend):
    """No put ever holds: somebody else is always faster, or the place takes none."""

    def __init__(self, inner: Backend, failure: Exception | None = None) -> None:
        super().__init__(inner)
        self.failure = failure
        self.others = itertools.count()

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        self._count("put", key)
        if self.failure is not None:
            raise self.failure
        other = ChunkedRunLogStore(self.inner)
        other.set_run_config("r", {"theirs": next(self.others)})
        return self.inner.put(key, data, condition, barrier=barrier)


class TestDeadline:
    @pytest.mark.parametrize("deadline", [1.0, 30.0])
    def test_a_writer_that_is_always_overtaken_gives_up_in_time(self, inner: Backend, deadline: float) -> None:
        clock = Clock()
        store = ChunkedRunLogStore(Never(inner), timing=clock.timing(deadline))
        with pytest.raises(
            ConflictError, match=r"gave up writing r/run.json to .* after \d+ tries in .* repeat the call"
        ):
            store.set_run_config("r", {"mine": 1})
        assert deadline / 2 <= clock.time < deadline / 2 + 0.5  # the last try begins in the first half
        assert 5 < len(clock.slept) < 20 * deadline + 20  # pauses grow, and are bounded
        assert max(clock.slept) <= 0.5

    def test_a_place_that_takes_no_puts_is_unavailable_and_no_conflict(self, inner: Backend) -> None:
        clock = Clock()
        failure = BackendUnavailableError("the server is busy", transient=True)
        store = ChunkedRunLogStore(Never(inner, failure), timing=clock.timing())
        with pytest.raises(BackendUnavailableError, match="the server is busy"):
            store.set_run_config("r", {"mine": 1})
        assert 15.0 <= clock.time < 15.5

    def test_a_failure_that_will_not_pass_is_raised_at_once(self, inner: Backend) -> None:
        clock = Clock()
        store = ChunkedRunLogStore(Never(inner, BackendUnavailableError("access was refused")), timing=clock.timing())
        with pytest.raises(BackendUnavailableError, match="access was refused"):
            store.set_run_config("r", {"mine": 1})
        assert store.backend.keys("put") == ["r/run.json"]  # type: ignore[attr-defined]
        assert clock.slept == []

    def test_a_short_pause_is_enough_where_a_conflict_is_over(self, inner: Backend) -> None:
        clock = Clock()
        store = ChunkedRunLogStore(inner, timing=clock.timing())
        store.set_run_config("r", {"a": 1})
        ChunkedRunLogStore(inner).set_run_config("r", {"b": 1})
        store.set_run_config("r", {"c": 1})
        assert clock.time < 0.01


def test_a_reader_reports_a_fault_with_its_type_and_reads_on_afterwards(inner: Backend) -> None:
    for fault in (REFUSED, LOST):
        store = flaky(inner, [fault])
        with pytest.raises(BackendUnavailableError) as caught:
            store.get_run_log_by_id("r")
        assert caught.value.transient
        assert not isinstance(caught.value, WriteStateUnknownError)
        assert store.get_run_log_by_id("r").tag == "first"


def test_of_many_parameters_at_once_each_is_written_or_reported(inner: Backend) -> None:
    wanted = {f"p{number}": number for number in range(40)}
    store = flaky(inner, random.Random(1), rate=0.3)
    for _ in range(50):
        try:
            store.set_parameters("r", wanted)
            break
        except BackendUnavailableError:
            continue
    assert ChunkedRunLogStore(inner).get_parameters("r") == wanted


@pytest.mark.parametrize("seed", range(20))
def test_any_calls_under_faults_lose_no_acknowledged_write(inner: Backend, seed: int) -> None:
    chance = random.Random(seed)
    stores = [flaky(inner, random.Random(f"{seed} {number}"), rate=0.3) for number in range(3)]
    kept: dict[str, int] = {}
    steps: list[str] = []
    for number in range(sized(300)):
        store = chance.choice(stores)
        try:
            if chance.random() < 0.5:
                store.set_run_config("r", {f"c{number % 7}": number})
                kept[f"c{number % 7}"] = number
            else:
                store.add_step_log(store.create_step_log(f"s{number}", f"s{number}"), "r")
                steps.append(f"s{number}")
        except BackendUnavailableError:
            kept.pop(f"c{number % 7}", None)  # nobody knows which of the two stands there
    found = ChunkedRunLogStore(inner).get_run_log_by_id("r")
    assert set(steps) <= set(found.steps)
    assert kept.items() <= found.run_config.items()


def test_a_chunk_names_its_latest_writers_only(inner: Backend) -> None:
    for number in range(80):
        ChunkedRunLogStore(inner).set_run_config("r", {"n": number})
    stored = ChunkedRunLogStore(inner)._chunks.read(header("r"))
    assert len(stored.chunk.envelope.writers) == 64
