"""Many writers at once lose nothing: real processes on disk and servers, threads in memory and in one store."""

from __future__ import annotations

import itertools
import multiprocessing
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chunkstore import BranchLog, ChunkedRunLogStore, RunLogExistsError, StepAttempt, StepLog
from chunkstore.backends import Backend, Blob, Condition, Entry
from chunkstore.testing import CountingBackend, SlowBackend
from places import again, at_once, in_bucket, meanwhile, memory, place, sized

WRITERS = 8
# Not moto: its own check and its write are two steps, and under load a plain client too sees two winners.
PLACES = ["memory", "local", "faults", "minio", "sqlite", "postgres"]


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ChunkedRunLogStore:
    """A store that was used before it is forked, as pipeline executors do."""
    made = ChunkedRunLogStore(place(request.param, request, tmp_path))
    made.create_run_log("r")
    return made


def everywhere(test: Any) -> Any:
    return pytest.mark.parametrize("store", PLACES, indirect=True)(test)


def race(store: ChunkedRunLogStore, work: Callable[..., Any], each: Sequence[tuple[Any, ...]]) -> list[Any]:
    """In processes; where the place is one process's own, in threads, each with a store of its own."""
    if store.backend.guarantees.across_processes:
        return at_once(work, [(store, *arguments) for arguments in each])
    with ThreadPoolExecutor(len(each)) as pool:
        return list(pool.map(lambda arguments: work(again(store), *arguments), each))


# What one writer does, at the top level so that spawned processes find it.


def write_parameters(store: ChunkedRunLogStore, me: int, count: int) -> None:
    for number in range(count):
        store.set_parameters("r", {f"p {me} {number}": [me, number]})


def write_steps(store: ChunkedRunLogStore, me: int, count: int) -> None:
    for number in range(count):
        store.add_step_log(store.create_step_log(f"s {me} {number}", f"s {me} {number}"), "r")


def configure(store: ChunkedRunLogStore, me: int, count: int) -> None:
    for number in range(count):
        store.set_run_config("r", {f"c {me} {number}": number})


def put_fields(store: ChunkedRunLogStore, me: int, count: int) -> None:
    """Puts back one and the same run log, read once and ever more stale."""
    run_log = store.get_run_log_by_id("r", full=False)
    for number in range(count):
        setattr(run_log, f"x_{me}_{number}", number)
        store.put_run_log(run_log)


def put_fresh_fields(store: ChunkedRunLogStore, me: int, count: int) -> None:
    for number in range(count):
        run_log = store.get_run_log_by_id("r", full=False)
        setattr(run_log, f"y_{me}_{number}", number)
        store.put_run_log(run_log)


def set_status(store: ChunkedRunLogStore, me: int, count: int) -> None:
    for number in range(count):
        store.update_run_log_status("r", f"status {me} {number}")


def append_attempts(store: ChunkedRunLogStore, me: int, count: int) -> None:
    for number in range(count):
        step = store.get_step_log("a", "r")
        step.attempts.append(StepAttempt(attempt_number=number, message=f"{me}"))
        store.add_step_log(step, "r")


def create_all(store: ChunkedRunLogStore, me: int, count: int, gate: Any) -> list[int]:
    won = []
    for number in range(count):
        gate.wait(60)
        try:
            store.create_run_log(f"id {number}", tag=f"by {me}")
            won.append(number)
        except RunLogExistsError as error:
            assert error.run_id == f"id {number}"  # noqa: PT017  losing is no failure
    return won


def write_branches(store: ChunkedRunLogStore, me: int, count: int) -> None:
    store.add_step_log(StepLog(name=f"map{me}", internal_name=f"map{me}"), "r")
    for number in range(count):
        scope = f"map{me}.{number}.5"
        store.add_branch_log(BranchLog(internal_name=scope), "r")
        store.set_parameters("r", {"x": number, "y": number}, scope)
        for name in ("load", "train"):
            step = StepLog(name=name, internal_name=f"{scope}.{name}")
            store.add_step_log(step, "r")
            step.status = "SUCCESS"
            store.add_step_log(step, "r")


class TestProcesses:
    @everywhere
    def test_parameters_of_eight_writers_are_all_kept(self, store: ChunkedRunLogStore) -> None:
        count = sized(200)
        race(store, write_parameters, [(me, count) for me in range(WRITERS)])
        expected = {f"p {me} {number}": [me, number] for me in range(WRITERS) for number in range(count)}
        assert again(store).get_parameters("r") == expected
        assert store.get_run_log_by_id("r").parameters == expected

    @everywhere
    def test_root_steps_of_eight_writers_are_all_kept(self, store: ChunkedRunLogStore) -> None:
        count = sized(200)
        race(store, write_steps, [(me, count) for me in range(WRITERS)])
        found = list(again(store).get_run_log_by_id("r").steps)
        assert sorted(found) == sorted(f"s {me} {number}" for me in range(WRITERS) for number in range(count))
        for me in range(WRITERS):  # each writer's own are in the order in which it wrote them
            own = [name for name in found if name.startswith(f"s {me} ")]
            assert own == [f"s {me} {number}" for number in range(count)]

    @everywhere
    def test_fields_of_one_header_from_eight_writers_are_all_kept(self, store: ChunkedRunLogStore) -> None:
        count = sized(50)
        race(store, configure, [(me, count) for me in range(WRITERS)])
        assert len(again(store).get_run_config("r")) == WRITERS * count

    @everywhere
    def test_a_header_that_all_kinds_of_calls_change_keeps_every_change(self, store: ChunkedRunLogStore) -> None:
        count = sized(50)
        calls = [configure, put_fields, put_fresh_fields, set_status]
        race(store, call_by_name, [(calls[me % 4].__name__, me, count) for me in range(WRITERS)])
        found = again(store).get_run_log_by_id("r")
        extra = found.model_extra or {}
        assert len(found.run_config) == 2 * count
        assert len([name for name in extra if name.startswith("x_")]) == 2 * count
        assert len([name for name in extra if name.startswith("y_")]) == 2 * count
        assert found.status in {f"STATUS {me} {count - 1}" for me in (3, 7)}

    @everywhere
    def test_attempts_that_writers_append_to_one_step_are_all_kept(self, store: ChunkedRunLogStore) -> None:
        count = sized(50)
        store.add_step_log(store.create_step_log("a", "a"), "r")
        race(store, append_attempts, [(me, count) for me in range(3)])
        attempts = [(one.message, one.attempt_number) for one in again(store).get_step_log("a", "r").attempts]
        assert sorted(attempts) == [(f"{me}", number) for me in range(3) for number in range(count)]

    # Not on moto: its own check and its write are two steps, and under load a plain client too sees two winners.
    @pytest.mark.parametrize("store", ["memory", "local", "minio"], indirect=True)
    def test_a_run_that_eight_create_has_one_winner_and_its_header(self, store: ChunkedRunLogStore) -> None:
        count = sized(1_000)
        threads = not store.backend.guarantees.across_processes
        gate = threading.Barrier(WRITERS) if threads else multiprocessing.get_context("fork").Barrier(WRITERS)
        won = race(store, create_all, [(me, count, gate) for me in range(WRITERS)])
        winner = {number: me for me in range(WRITERS) for number in won[me]}
        assert sorted(number for one in won for number in one) == list(range(count))
        found = {
            run_log.run_id: run_log.tag for run_log in again(store).get_run_logs([f"id {n}" for n in range(count)])
        }
        assert found == {f"id {number}": f"by {winner[number]}" for number in range(count)}
        assert len({me for me, one in enumerate(won) if one}) > 1  # or it was no race

    @pytest.mark.parametrize("store", ["local", "minio"], indirect=True)
    @pytest.mark.parametrize("method", ["spawn", "forkserver"])
    def test_a_store_travels_to_processes_that_are_not_forked(self, store: ChunkedRunLogStore, method: str) -> None:
        at_once(write_parameters, [(store, me, 5) for me in range(2)], method)
        assert len(store.get_parameters("r")) == 10


def call_by_name(store: ChunkedRunLogStore, name: str, me: int, count: int) -> None:
    globals()[name](store, me, count)


class TestReaderBesideWriters:
    @pytest.mark.parametrize("store", ["local", "faults", "minio"], indirect=True)
    @pytest.mark.parametrize("knowing", [True, False], ids=["one store", "a new store each time"])
    def test_it_sees_whole_chunks_no_orphans_and_one_order(self, store: ChunkedRunLogStore, knowing: bool) -> None:
        count = sized(60)
        before: dict[str, list[str]] = {}
        reads = 0
        with meanwhile(write_branches, [(again(store), me, count) for me in range(WRITERS)]) as busy:
            reader = again(store)
            while busy() or reads == 0:
                reading = (reader if knowing else again(store)).read_run_log("r")
                assert reading.findings == ()
                now = orders(reading.run_log.steps)
                for holder, names in before.items():
                    still = set(names)
                    assert [name for name in now[holder] if name in still] == names
                before = now
                reads += 1
        found = again(store).read_run_log("r")
        assert found.findings == ()
        assert len(found.run_log.steps) == WRITERS
        for step in found.run_log.steps.values():
            assert len(step.branches) == count
            for branch in step.branches.values():
                assert len(branch.parameters) == 2
                assert [child.status for child in branch.steps.values()] == ["SUCCESS", "SUCCESS"]

    @pytest.mark.parametrize("store", ["local", "minio"], indirect=True)
    def test_what_was_acknowledged_before_the_read_is_in_it(self, store: ChunkedRunLogStore) -> None:
        reader = again(store)
        with meanwhile(write_steps, [(again(store), me, sized(100)) for me in range(3)]) as busy:
            for number in itertools.count():
                store.set_parameters("r", {"mine": number, f"mine {number}": number})
                found = reader.get_run_log_by_id("r")
                assert found.parameters["mine"] == number
                assert f"mine {number}" in found.parameters
                if not busy():
                    break


def orders(steps: dict[str, StepLog]) -> dict[str, list[str]]:
    """The order of the children of everything that has children."""
    found = {"": list(steps)}
    for step in steps.values():
        found[step.internal_name] = list(step.branches)
        for branch in step.branches.values():
            found[branch.internal_name] = list(branch.steps)
    return found


class PartOfTheListing(CountingBackend):
    """A listing that misses some objects although they were there before: many pages are no snapshot, nor is a large folder."""

    def __init__(self, inner: Backend, hidden: set[str]) -> None:
        super().__init__(inner)
        self.hidden = hidden

    def list(self, prefix: str) -> Iterator[Entry]:
        return (entry for entry in super().list(prefix) for _ in range(2) if entry.key not in self.hidden)


def test_parents_that_a_listing_misses_are_found_in_their_place() -> None:
    inner = memory()
    store = ChunkedRunLogStore(inner)
    store.create_run_log("r")
    for name in ("m1", "m2"):
        store.add_step_log(store.create_step_log(name, name), "r")
        for value in ("x", "y", "z"):
            store.add_branch_log(store.create_branch_log(f"{name}.{value}", {"p": value}), "r")
            store.add_step_log(store.create_step_log("t", f"{name}.{value}.t"), "r")
    whole = store.get_run_log_by_id("r")
    hidden = {"r/step.m1.json", "r/branch.m1.x.json", "r/branch.m2.y.json"}
    reading = ChunkedRunLogStore(PartOfTheListing(inner, hidden)).read_run_log("r")
    assert reading.findings == ()
    assert reading.run_log == whole
    assert orders(reading.run_log.steps) == orders(whole.steps)


class TestRclone:
    """A server that ignores conditions: the writers of one host are kept apart by lock files.

    The run's folder is made first: rclone answers 500 or garbage where objects arrive in a folder that is being made.
    """

    @pytest.fixture
    def store(self, request: pytest.FixtureRequest, tmp_path: Path) -> ChunkedRunLogStore:
        made = ChunkedRunLogStore(in_bucket(request.getfixturevalue("rclone_server"), tmp_path))
        made.create_run_log("r")
        made.set_parameters("r", {})
        return made

    def test_it_says_that_hosts_are_not_kept_apart(self, store: ChunkedRunLogStore) -> None:
        guarantees = store.backend.guarantees
        assert (guarantees.across_processes, guarantees.across_hosts, guarantees.atomic) == (True, False, False)
        assert store.supports_parallel_writes

    def test_parameters_and_steps_of_eight_writers_are_all_kept(self, store: ChunkedRunLogStore) -> None:
        count = sized(200)
        at_once(write_parameters, [(store, me, count) for me in range(WRITERS)])
        at_once(write_steps, [(store, me, count) for me in range(WRITERS)])
        found = again(store).get_run_log_by_id("r")
        assert (len(found.parameters), len(found.steps)) == (WRITERS * count, WRITERS * count)

    def test_fields_of_one_header_from_eight_writers_are_all_kept(self, store: ChunkedRunLogStore) -> None:
        count = sized(50)
        at_once(configure, [(store, me, count) for me in range(WRITERS)])
        assert len(again(store).get_run_config("r")) == WRITERS * count

    def test_attempts_that_writers_append_to_one_step_are_all_kept(self, store: ChunkedRunLogStore) -> None:
        count = sized(50)
        store.add_step_log(store.create_step_log("a", "a"), "r")
        at_once(append_attempts, [(store, me, count) for me in range(3)])
        assert len(again(store).get_step_log("a", "r").attempts) == 3 * count


class Together(CountingBackend):
    """The first puts wait for each other: they are sent at the same time."""

    def __init__(self, inner: Backend, parties: int) -> None:
        super().__init__(inner)
        self._numbers = itertools.count()
        self._gate = threading.Barrier(parties)

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        if next(self._numbers) < self._gate.parties:
            self._gate.wait(10)
        return super().put(key, data, condition, barrier=barrier)


class LateReply(CountingBackend):
    """While it is armed, a reply to a get is held back until somebody lets it go."""

    def __init__(self, inner: Backend) -> None:
        super().__init__(inner)
        self.armed = False
        self.read = threading.Event()
        self.go = threading.Event()

    def get(self, key: str) -> Blob:
        held, self.armed = self.armed, False
        blob = super().get(key)
        if held:
            self.read.set()
            assert self.go.wait(10)
        return blob


def created(store: ChunkedRunLogStore, tag: str) -> str:
    """The tag, where this call made the run."""
    try:
        store.create_run_log("r", tag=tag)
    except RunLogExistsError:
        return ""
    return tag


class TestThreadsOfOneStore:
    def test_two_that_create_one_run_have_one_winner(self) -> None:
        for _ in range(20):
            backend = memory()
            store = ChunkedRunLogStore(Together(backend, 2))

            with ThreadPoolExecutor(2) as pool:
                won = list(filter(None, pool.map(lambda tag: created(store, tag), ["a", "b"])))  # noqa: B023
            assert won == [ChunkedRunLogStore(backend).get_run_log_by_id("r").tag]

    def test_two_that_change_one_header_both_keep_their_change(self) -> None:
        for _ in range(20):
            backend = memory()
            ChunkedRunLogStore(backend).create_run_log("r")
            store = ChunkedRunLogStore(Together(backend, 2))
            with ThreadPoolExecutor(2) as pool:
                list(pool.map(store.set_run_config, ["r", "r"], [{"a": 1}, {"b": 1}]))
            assert ChunkedRunLogStore(backend).get_run_config("r") == {"a": 1, "b": 1}

    def test_eight_that_change_one_header_keep_every_change(self) -> None:
        store = ChunkedRunLogStore(SlowBackend(memory(), 0.001, concurrency=8))
        store.create_run_log("r")
        count = sized(200)
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda me: configure(store, me, count), range(WRITERS)))
        assert len(again(store).get_run_config("r")) == WRITERS * count

    @pytest.mark.parametrize("name", ["local", "minio"])
    def test_eight_that_do_all_kinds_of_things_lose_nothing(
        self, name: str, request: pytest.FixtureRequest, tmp_path: Path
    ) -> None:
        store = ChunkedRunLogStore(place(name, request, tmp_path))
        store.create_run_log("r")
        count = sized(50)
        calls = [configure, put_fields, write_parameters, write_steps]
        with ThreadPoolExecutor(WRITERS) as pool:
            list(pool.map(lambda me: calls[me % 4](store, me, count), range(WRITERS)))
        found = again(store).get_run_log_by_id("r")
        assert (len(found.run_config), len(found.parameters), len(found.steps)) == (2 * count, 2 * count, 2 * count)
        assert len([name for name in found.model_extra or {} if name.startswith("x_")]) == 2 * count

    def test_an_older_step_in_hand_undoes_nothing_that_was_read_later(self) -> None:
        store, other = two_stores()
        store.add_step_log(store.create_step_log("a", "a"), "r")
        older = store.get_step_log("a", "r")
        theirs = other.get_step_log("a", "r")
        theirs.message = "theirs"
        theirs.attempts.append(StepAttempt(attempt_number=1))
        other.add_step_log(theirs, "r")
        assert store.get_step_log("a", "r").message == "theirs"  # another thread reads it: the store knows it now
        older.status = "SUCCESS"
        older.attempts.append(StepAttempt(attempt_number=2))
        store.add_step_log(older, "r")
        found = other.get_step_log("a", "r")
        assert (found.status, found.message) == ("SUCCESS", "theirs")
        assert [attempt.attempt_number for attempt in found.attempts] == [1, 2]

    def test_an_older_run_log_in_hand_undoes_nothing_that_was_read_later(self) -> None:
        store, other = two_stores()
        store.set_parameters("r", {"p": 1, "q": 1})
        older = store.get_run_log_by_id("r")
        other.set_run_config("r", {"theirs": 1})
        other.update_run_log_status("r", "PROCESSING")
        other.set_parameters("r", {"p": 2})
        store.get_run_log_by_id("r")
        older.tag = "mine"
        older.parameters["q"] = 2
        store.put_run_log(older)
        found = again(other).get_run_log_by_id("r")
        assert (found.tag, found.status, found.run_config) == ("mine", "PROCESSING", {"theirs": 1})
        assert found.parameters == {"p": 2, "q": 2}

    def test_older_parameters_in_hand_undo_nothing_that_was_read_later(self) -> None:
        store, other = two_stores()
        store.set_parameters("r", {"p": 1, "q": 1})
        older = store.get_parameters("r")
        copied = older.copy()
        other.set_parameters("r", {"p": 2})
        assert store.get_parameters("r")["p"] == 2
        older["q"] = 2
        store.set_parameters("r", older)
        assert again(other).get_parameters("r") == {"p": 2, "q": 2}
        store.set_parameters("r", copied)
        assert again(other).get_parameters("r") == {"p": 2, "q": 2}

    def test_an_older_branch_in_hand_undoes_nothing_that_was_read_later(self) -> None:
        store, other = two_stores()
        store.add_branch_log(store.create_branch_log("m.x", {"p": 1}), "r")
        older = store.get_run_log_by_id("r").steps["m"].branches["m.x"]
        theirs = other.get_branch_log("m.x", "r")
        theirs.status = "SUCCESS"
        other.add_branch_log(theirs, "r")
        other.set_parameters("r", {"p": 2}, "m.x")
        store.get_run_log_by_id("r")
        older.mine = 1  # type: ignore[attr-defined]
        store.add_branch_log(older, "r")
        found = again(other).get_run_log_by_id("r").steps["m"].branches["m.x"]
        assert (found.status, found.parameters, found.model_extra) == ("SUCCESS", {"p": 2}, {"mine": 1})

    def test_a_reply_that_comes_late_does_not_hide_what_was_written_since(self) -> None:
        late = LateReply(memory())
        store = ChunkedRunLogStore(late)
        store.create_run_log("r")
        again(store).set_parameters("r", {"p": 1})
        late.armed = True
        with ThreadPoolExecutor(1) as pool:
            reading = pool.submit(store.get_parameter, "r", "p")
            assert late.read.wait(10)
            store.set_parameters("r", {"p": 2})
            late.go.set()
            assert reading.result(10) == 1
        store.set_parameters("r", {"p": 1})
        assert again(store).get_parameters("r") == {"p": 1}


def two_stores() -> tuple[ChunkedRunLogStore, ChunkedRunLogStore]:
    """Two on one place, with the run there: one for the threads of a process, one for another process."""
    store = ChunkedRunLogStore(memory())
    store.create_run_log("r")
    return store, again(store)
