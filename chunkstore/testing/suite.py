"""The suite that every backend passes, also the one that you bring.

    class TestMine(BackendSuite):
        @pytest.fixture
        def backend(self, tmp_path): return MyBackend(tmp_path)
        @pytest.fixture
        def witness(self, tmp_path): return MyWitness(tmp_path)      # raw access that bypasses the backend

Each test's name is the sentence that it proves. What a backend does not state in its `guarantees` is skipped, with the
reason. Two guarantees cannot be proven from inside one running host: `durable` (cut the power), and `across_hosts`
beyond two backends that share nothing local (the fixture `elsewhere`).

`CHUNKSTORE_TEST_SCALE` multiplies the rounds of every race; 1 is meant for each commit, 20 for a night.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import pickle
import random
import sys
import threading
import time
import traceback
import warnings
from collections.abc import Awaitable, Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeVar

import pytest

from chunkstore.backends import ANY, CREATE, FOUND, Backend, Blob, Condition, Guarantees, unchanged
from chunkstore.errors import (
    BackendUnavailableError,
    ChunkStoreError,
    ConflictError,
    NotSupportedError,
    ObjectNotFoundError,
)

if TYPE_CHECKING:
    from chunkstore.greenlets import Calls

T = TypeVar("T")

WATCHDOG_SECONDS = 8.0
"""A call that should return at once and has not after this long hangs."""

RACE_SECONDS = 60.0
"""A whole race that has not ended after this long hangs."""

PAUSE_CHANCE = 0.05
LONGEST_PAUSE_SECONDS = 2e-3
"""How often a racer pauses between two lines of the backend, and how long at most: most pauses are far shorter, a few
long enough for another racer's whole call."""

ODD_NAMES = (
    "run.json",
    "step.Parallel.Branch A.Child Step.json",
    "step.a..b.json",
    "step.1.5.json",
    "step.-dash_and-.json",
    "step.100%.json",
    "step.%2F.json",
    "step.%25.json",
    "step.%.json",
    "step.me@host.json",
    "step.k=v.json",
    "step.a+b.json",
    "step.a,b.json",
    "step.~tilde~.json",
    "step. @=+,~%20 .json",
    "parameter@map.eu(1)@al.pha.json",
    "step.json.json",
    "step.packed.json.zst",
    "step." + "x" * 230 + ".json",
    "step." + "x" * 245 + ".json",
)
"""What `chunkstore.keys` makes of people's names: letters, digits and `._- %@=+,~()`, up to 255 bytes."""

EASILY_MIXED_UP = ("a b.json", "a+b.json", "a%20b.json", "a%2Bb.json", "a%2520b.json", "a_b.json", "a.b.json")
"""Names that one step of URL encoding too many, or too few, turns into each other."""

SIZES = (0, 1, 64 * 1024, 5 * 1024 * 1024)


class Witness(Protocol):
    """Raw access to a backend's place that goes round the backend, so that the suite need not believe it."""

    def get(self, key: str) -> bytes | None:
        """The object's bytes, or None where there is none."""
        ...

    def put(self, key: str, data: bytes) -> None:
        """Writes the object as somebody else's program would; makes its folder, where the place has folders."""
        ...

    def keys(self) -> set[str]:
        """The keys of all that lies in the place's folders, staging files and other left-overs too."""
        ...

    def remove_folder(self, folder: str) -> None:
        """Removes the folder with all that is in it. Asked only where `BackendSuite.has_folders`."""
        ...


class Gate(Protocol):
    """A barrier of threads or of processes."""

    def wait(self, timeout: float | None = None) -> int: ...

    def abort(self) -> None: ...


Role = Callable[[Backend, Gate, int, int], list[str]]
"""What one racer does: (backend, gate, own number, rounds) → per round the version that it wrote, "" if refused."""


def scale() -> int:
    """How many times the small defaults."""
    return max(1, int(os.environ.get("CHUNKSTORE_TEST_SCALE", "1")))


# Roles. At the top level of the module, so that spawned processes find them.


def race_key(turn: int) -> str:
    """The object that is raced for in this round."""
    return f"race/round.{turn}.json"


def founding_key(turn: int) -> str:
    """The object of a folder of its own that is raced for in this round."""
    return f"race{turn}/run.json"


def mark(me: int, turn: int) -> bytes:
    """The bytes of one racer in one round: same length for all, never twice the same."""
    return b"racer %04d round %06d" % (me, turn)


def _put_or_refused(backend: Backend, key: str, data: bytes, condition: Condition) -> str:
    try:
        return backend.put(key, data, condition)
    except ConflictError:
        return ""


def create_each_round(backend: Backend, gate: Gate, me: int, rounds: int) -> list[str]:
    """Tries to create each round's object."""
    won = []
    for turn in range(rounds):
        gate.wait(RACE_SECONDS)
        won.append(_put_or_refused(backend, race_key(turn), mark(me, turn), CREATE))
    return won


def found_each_round(backend: Backend, gate: Gate, me: int, rounds: int) -> list[str]:
    """Tries to create the first object of each round's folder."""
    won = []
    for turn in range(rounds):
        gate.wait(RACE_SECONDS)
        won.append(_put_or_refused(backend, founding_key(turn), mark(me, turn), FOUND))
    return won


def update_each_round(backend: Backend, gate: Gate, me: int, rounds: int) -> list[str]:
    """Reads each round's object before the race begins, then tries to replace just that version."""
    won = []
    for turn in range(rounds):
        seen = backend.get(race_key(turn)).version
        gate.wait(RACE_SECONDS)
        won.append(_put_or_refused(backend, race_key(turn), mark(me, turn), unchanged(seen)))
    return won


def _late_rounds(gate: Gate, rounds: int) -> Iterator[int]:
    """Each round, a random part of a round's time after its start.

    So that what comes next does not always hit the beginning of the others' calls.
    """
    chance = random.Random(rounds)
    length, begin = 0.0, time.monotonic()
    for turn in range(rounds):
        gate.wait(RACE_SECONDS)
        if turn > 0:
            length = time.monotonic() - begin
        begin = time.monotonic()
        time.sleep(length * chance.random())
        yield turn


def put_each_round(backend: Backend, gate: Gate, me: int, rounds: int) -> list[str]:
    """Puts each round's object, whatever is there."""
    return [backend.put(race_key(turn), mark(me, turn), ANY) for turn in _late_rounds(gate, rounds)]


def delete_what_was_seen_each_round(backend: Backend, gate: Gate, me: int, rounds: int) -> list[str]:
    """Reads each round's object before the race begins, then tries to delete just that version."""
    for turn in range(rounds):
        seen = backend.get(race_key(turn)).version
        gate.wait(RACE_SECONDS)
        with suppress(ConflictError):
            backend.delete(race_key(turn), unchanged(seen))
    return [""] * rounds


def delete_each_round(backend: Backend, gate: Gate, me: int, rounds: int) -> list[str]:
    """Deletes each round's object."""
    for turn in _late_rounds(gate, rounds):
        backend.delete(race_key(turn))
    return [""] * rounds


def found_and_delete(backend: Backend, gate: Gate, me: int, rounds: int) -> list[str]:
    """Founds one and the same folder and deletes its only object, over and over."""
    gate.wait(RACE_SECONDS)
    won = []
    for turn in range(rounds):
        won.append(_put_or_refused(backend, founding_key(0), mark(me, turn), FOUND))
        backend.delete(founding_key(0))
    return won


def _get_whole(backend: Backend, key: str) -> Blob:
    """The object; asked for again where it is missing for a moment, on a place whose puts are not atomic and say so."""
    for pause in () if backend.guarantees.atomic else (0.005, 0.02, 0.1, 0.5):
        with suppress(ObjectNotFoundError):
            return backend.get(key)
        time.sleep(pause)
    return backend.get(key)


def increment(backend: Backend, gate: Gate, me: int, rounds: int) -> list[str]:
    """Adds `rounds` to a counter, one by one, each by compare-and-swap.

    Goes on from the version that its own put returned, as the store does: a put that returns another writer's version
    loses that writer's increment here.
    """
    key = race_key(0)
    gate.wait(RACE_SECONDS)
    blob = _get_whole(backend, key)
    for _ in range(rounds):
        while True:
            data = b"%d" % (int(blob.data) + 1)
            version = _put_or_refused(backend, key, data, unchanged(blob.version))
            if version:
                blob = Blob(data, version)
                break
            blob = _get_whole(backend, key)
    return [blob.version]


def use_every_verb(backend: Backend, gate: Gate, me: int, rounds: int) -> list[str]:
    """Uses all verbs on keys of its own; leaves one object behind."""
    folder = f"user{me}"
    gate.wait(RACE_SECONDS)
    kept = f"{folder}/run.json"
    first = backend.put(kept, mark(me, 0), FOUND)
    backend.put(f"{folder}/gone.json", b"gone", CREATE)
    backend.delete(f"{folder}/gone.json")
    version = backend.put(kept, mark(me, rounds), unchanged(first))
    assert backend.get(kept) == Blob(mark(me, rounds), version)
    assert dict(backend.get_many([kept, f"{folder}/gone.json"])) == {kept: Blob(mark(me, rounds), version)}
    assert [entry.key for entry in backend.list(f"{folder}/")] == [kept]
    assert folder in set(backend.folders())
    return [version]


# Running roles.


def _calls_of(backend: Backend) -> Calls:
    """What runs its verbs on an event loop; skips where it does not say that it is made for that."""
    if not backend.asynchronous:
        pytest.skip("the backend does not state `asynchronous`")
    pytest.importorskip("greenlet")
    from chunkstore.greenlets import Calls

    return Calls(backend.concurrency)


async def _turns_of_the_loop(run: Callable[[Callable[[], int]], Awaitable[int]], verb: Callable[[], object]) -> int:
    """How often an event loop came round while the verb was at work on it."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    def measured() -> int:
        before = turns
        verb()
        return turns - before

    counting = asyncio.ensure_future(count())
    await asyncio.sleep(0)  # its first turn counts nothing yet
    try:
        return await run(measured)
    finally:
        counting.cancel()


@dataclass(frozen=True)
class Racer:
    """One who takes part in a race."""

    backend: Backend
    role: Role


def _race_of(racer: Racer, gate: Gate, me: int, rounds: int) -> list[str]:
    """The racer's race; one who fails lets nobody wait at the gate."""
    try:
        with _restless(racer.backend, me):
            return racer.role(racer.backend, gate, me, rounds)
    except BaseException:
        gate.abort()
        raise


def race_in_threads(racers: Sequence[Racer], rounds: int) -> list[list[str]]:
    """Runs the racers in threads."""
    gate = threading.Barrier(len(racers))
    races = [_start(partial(_race_of, racer, gate, me, rounds)) for me, racer in enumerate(racers)]
    return _results(races, RACE_SECONDS)


def _tell(reply: Connection, race: Callable[[], list[str]]) -> None:
    """The whole life of a racing process."""
    try:
        reply.send((race(), ""))
    except BaseException as error:  # noqa: BLE001  # whatever it was, the parent must hear of it
        reply.send(([], "" if isinstance(error, threading.BrokenBarrierError) else traceback.format_exc()))


def race_in_processes(
    method: str, racers: Sequence[Racer], rounds: int, seconds: float = RACE_SECONDS
) -> list[list[str]]:
    """Runs the racers in processes made by this start method; kills and reports those that hang."""
    context = multiprocessing.get_context(method)
    gate = context.Barrier(len(racers))
    pipes = [context.Pipe(duplex=False) for _ in racers]
    processes = [
        # The contexts that `get_context` can return all have it; the base class that typeshed names has not.
        context.Process(  # type: ignore[attr-defined]
            target=_tell, args=(reply, partial(_race_of, racer, gate, me, rounds))
        )
        for me, (racer, (_, reply)) in enumerate(zip(racers, pipes, strict=True))
    ]
    deadline = time.monotonic() + seconds
    try:
        with _fork_beside_threads_allowed():
            for process in processes:
                process.start()
        for _, reply in pipes:
            reply.close()
        answers = [_answer(answer, deadline) for answer, _ in pipes]
    finally:
        for process in processes:
            _end(process, deadline)
        for answer, _ in pipes:
            answer.close()
    broken = [text for _, text in answers if text]
    if broken:
        pytest.fail(f"a racer failed:\n{broken[0]}")
    return [won for won, _ in answers]


def _answer(answer: Connection, deadline: float) -> tuple[list[str], str]:
    if not answer.poll(max(0.0, deadline - time.monotonic())):
        pytest.fail("a process hangs")
    try:
        told: tuple[list[str], str] = answer.recv()
    except EOFError:
        return [], "the process died without a word"
    return told


def _end(process: BaseProcess, deadline: float) -> None:
    if process.pid is None:
        return
    process.join(max(0.1, deadline - time.monotonic()))
    if process.is_alive():
        process.kill()
        process.join()


def _start(work: Callable[[], T]) -> Future[T]:
    """Runs it in a daemon thread: one that hangs must fail its test, and not keep pytest from ending."""
    future: Future[T] = Future()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001  # raised where the result is asked for
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def _results(futures: Sequence[Future[T]], seconds: float) -> list[T]:
    """What came out; fails if one hangs, or with the first error that is not just another's."""
    done, late = wait(futures, seconds)
    errors = [future.exception() for future in done]
    for error in sorted(filter(None, errors), key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error
    if late:
        pytest.fail(f"a thread hangs: not back after {seconds:g} s")
    return [future.result() for future in futures]


def _at_once(work: Callable[[], T]) -> T:
    """What it returns; fails if it hangs."""
    return _results([_start(work)], WATCHDOG_SECONDS)[0]


class _Pauses:
    """A trace function that pauses between the lines of a backend, at random but the same for the same seed.

    Without it a racer is through the gap between a check and a write before the next one has left the gate: of eight
    `if not exists: write` in threads one won in 40 of 40 rounds.
    """

    def __init__(self, backend: Backend, seed: int) -> None:
        self._packages = {base.__module__.partition(".")[0] for base in type(backend).__mro__} - {"builtins"}
        self._random = random.Random(seed)

    def __call__(self, frame: FrameType, event: str, argument: object) -> _Pauses | None:
        if event == "call" and frame.f_globals.get("__name__", "").partition(".")[0] not in self._packages:
            return None
        if event == "line" and self._random.random() < PAUSE_CHANCE:
            time.sleep(LONGEST_PAUSE_SECONDS * self._random.random() ** 4)
        return self


@contextmanager
def _restless(backend: Backend, seed: int) -> Iterator[None]:
    """Lets this thread pause now and then between two lines of the backend, so that others come in between."""
    before = sys.gettrace()
    sys.settrace(_Pauses(backend, seed))
    try:
        yield
    finally:
        sys.settrace(before)


@contextmanager
def _fork_beside_threads_allowed() -> Iterator[None]:
    """Python 3.12 warns of a fork beside threads; that it works is what is tested."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*multi-threaded.*", category=DeprecationWarning)
        yield


@contextmanager
def _busy(backend: Backend, count: int, work: Callable[[int], object]) -> Iterator[None]:
    """Repeats `work` in `count` threads while the block runs; then raises what it raised."""
    stop = threading.Event()

    def repeat(number: int) -> None:
        with _restless(backend, number):
            while not stop.is_set():
                work(number)

    threads = [_start(partial(repeat, number)) for number in range(count)]
    try:
        yield
    finally:
        stop.set()
        _results(threads, WATCHDOG_SECONDS)


def _need(guarantees: Guarantees, *names: str) -> None:
    for name in names:
        if not getattr(guarantees, name):
            pytest.skip(f"the backend does not state `{name}`")


def _error_of(name: str, verb: Callable[[], object]) -> BackendUnavailableError:
    try:
        verb()
    except BackendUnavailableError as error:
        return error
    pytest.fail(f"{name} hides that the place is out of reach")


def _only_winner(results: list[list[str]], turn: int) -> int:
    """Who won this round; fails unless it was exactly one."""
    winners = [me for me, won in enumerate(results) if won[turn]]
    assert len(winners) == 1, f"round {turn} of the race has {len(winners)} winners: {winners}"
    return winners[0]


def _entries(backend: Backend, prefix: str) -> set[str]:
    """The keys that a listing gives; fails if it gives one twice."""
    keys = [entry.key for entry in backend.list(prefix)]
    assert len(keys) == len(set(keys)), f"the listing of {prefix!r} gives a key twice"
    return set(keys)


class BackendSuite:
    """Subclass it, name the subclass `Test…`, and give it the fixtures `backend` and `witness`."""

    has_folders: ClassVar[bool] = False
    """Must a folder be founded before anything can be put into it?"""

    many: ClassVar[int] = 1_100
    """Objects for the test of long listings: more than one page of the place (S3: 1,000)."""

    rounds: ClassVar[int] = 40
    """Rounds of a race; fewer for a slow server. The races against a plain put take four times as many."""

    secrets: ClassVar[tuple[str, ...]] = ()
    """What the backend was given and must never show."""

    @pytest.fixture
    def backend(self) -> Backend:
        """The backend under test, on an empty place."""
        raise NotImplementedError("give the suite a fixture `backend`")

    @pytest.fixture
    def witness(self) -> Witness:
        """Raw access to the same place."""
        raise NotImplementedError("give the suite a fixture `witness`")

    @pytest.fixture
    def unreachable(self) -> Backend:
        """The same kind of backend on a place that cannot be reached; it should give up within a second or so."""
        pytest.skip("the suite was given no fixture `unreachable`")

    @pytest.fixture
    def elsewhere(self) -> Backend:
        """A second backend on the place of `backend` that shares nothing local with it: as if on another host."""
        pytest.skip("the suite was given no fixture `elsewhere`")

    # The contract's face.

    def test_it_is_a_backend_and_says_where_it_is(self, backend: Backend) -> None:
        assert isinstance(backend, Backend)
        assert backend.place
        assert backend.concurrency >= 1
        assert isinstance(backend.guarantees, Guarantees)

    def test_guarantees_do_not_contradict_each_other(self, backend: Backend) -> None:
        stated = backend.guarantees
        assert stated == backend.guarantees, "guarantees change from one question to the next"
        assert stated.across_processes or not stated.across_hosts, "across hosts, but not across processes of one"

    def test_secrets_are_never_shown(self, backend: Backend) -> None:
        if not self.secrets:
            pytest.skip("the suite was told no `secrets`")
        with pytest.raises(ObjectNotFoundError) as caught:
            backend.get("nothing/here.json")
        shown = [repr(backend), str(backend), backend.place, repr(caught.value), str(caught.value)]
        assert not [secret for secret in self.secrets for text in shown if secret in text]

    # Reading one's own writes.

    def test_what_was_put_is_read(self, backend: Backend, witness: Witness) -> None:
        version = backend.put("run/run.json", b"first", FOUND)
        assert version
        assert backend.get("run/run.json") == Blob(b"first", version)
        assert witness.get("run/run.json") == b"first"

    def test_what_somebody_else_wrote_is_read_at_once(self, backend: Backend, witness: Witness) -> None:
        backend.put("run/run.json", b"ours", FOUND)
        assert _entries(backend, "run/") == {"run/run.json"}
        for turn in range(5):
            theirs = b"theirs, and longer each time" * (turn + 1)
            witness.put("run/run.json", theirs)
            witness.put(f"run/step.{turn}.json", theirs)
            assert backend.get("run/run.json").data == theirs
            assert backend.get(f"run/step.{turn}.json").data == theirs
            assert f"run/step.{turn}.json" in _entries(backend, "run/")

    def test_a_missing_object_is_an_error_that_names_key_and_place(self, backend: Backend) -> None:
        backend.put("run/run.json", b"x", FOUND)
        for key in ("run/step.a.json", "nowhere/run.json"):
            with pytest.raises(ObjectNotFoundError) as caught:
                backend.get(key)
            assert caught.value.key == key
            assert key in str(caught.value)
            assert backend.place in str(caught.value)

    @pytest.mark.parametrize("size", SIZES)
    def test_bytes_of_any_size_come_back(self, backend: Backend, witness: Witness, size: int) -> None:
        data = (bytes(range(256)) * (size // 256 + 1))[:size]
        version = backend.put("run/big.json", data, FOUND)
        assert backend.get("run/big.json") == Blob(data, version)
        assert [blob.data for _, blob in backend.get_many(["run/big.json"])] == [data]
        assert [entry.size for entry in backend.list("run/big.json")] == [size]
        assert witness.get("run/big.json") == data

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_every_name_that_keys_are_made_of_works_with_every_verb(
        self, backend: Backend, witness: Witness, name: str
    ) -> None:
        key = f"run @=+,~%20 1/{name}"
        first = backend.put(key, b"first", FOUND)
        assert backend.get(key) == Blob(b"first", first)
        second = backend.put(key, b"second", unchanged(first))
        assert dict(backend.get_many([key])) == {key: Blob(b"second", second)}
        assert _entries(backend, key) == _entries(backend, "run @=+,~%20 1/") == {key}
        assert list(backend.folders()) == ["run @=+,~%20 1"]
        assert witness.keys() == {key}
        backend.delete(key)
        assert witness.keys() == set()

    def test_names_that_encoding_could_mix_up_stay_apart(self, backend: Backend, witness: Witness) -> None:
        keys = {f"run/{name}": name.encode() for name in EASILY_MIXED_UP}
        backend.put("run/run.json", b"", FOUND)
        for key, data in keys.items():
            backend.put(key, data, CREATE)
        assert {key: backend.get(key).data for key in keys} == keys
        assert {key: blob.data for key, blob in backend.get_many(keys)} == keys
        assert _entries(backend, "run/") == witness.keys() == {*keys, "run/run.json"}

    def test_a_put_with_a_barrier_is_a_put(self, backend: Backend) -> None:
        first = backend.put("run/run.json", b"first", FOUND, barrier=True)
        second = backend.put("run/run.json", b"second", unchanged(first), barrier=True)
        third = backend.put("run/run.json", b"third", ANY, barrier=True)
        assert len({first, second, third}) == 3
        assert backend.get("run/run.json") == Blob(b"third", third)

    # Conditions.

    def test_an_object_is_created_once(self, backend: Backend, witness: Witness) -> None:
        _need(backend.guarantees, "conditional_create")
        backend.put("run/run.json", b"first", FOUND)
        backend.put("run/step.a.json", b"first", CREATE)
        for key in ("run/run.json", "run/step.a.json"):
            for condition in (CREATE, FOUND):
                with pytest.raises(ConflictError) as caught:
                    backend.put(key, b"second", condition)
                assert caught.value.key == key
                assert key in str(caught.value)
            assert witness.get(key) == b"first"

    def test_creating_does_not_overwrite_what_somebody_else_wrote(self, backend: Backend, witness: Witness) -> None:
        _need(backend.guarantees, "conditional_create")
        witness.put("run/run.json", b"theirs")
        with pytest.raises(ConflictError):
            backend.put("run/run.json", b"ours", FOUND)
        assert witness.get("run/run.json") == b"theirs"

    def test_an_update_of_the_present_version_is_written(self, backend: Backend, witness: Witness) -> None:
        version = backend.put("run/run.json", b"0", FOUND)
        for turn in range(1, 20):
            version = backend.put("run/run.json", b"%d" % turn, unchanged(version))
            assert backend.get("run/run.json") == Blob(b"%d" % turn, version)
        assert witness.get("run/run.json") == b"19"

    def test_a_version_that_get_returned_is_good_for_an_update(self, backend: Backend, witness: Witness) -> None:
        witness.put("run/run.json", b"theirs")
        version = backend.put("run/run.json", b"ours", unchanged(backend.get("run/run.json").version))
        ((_, blob),) = backend.get_many(["run/run.json"])
        assert blob == Blob(b"ours", version)
        backend.put("run/run.json", b"again", unchanged(blob.version))
        assert witness.get("run/run.json") == b"again"

    def test_an_update_of_a_stale_version_is_refused(self, backend: Backend, witness: Witness) -> None:
        _need(backend.guarantees, "conditional_update")
        first = backend.put("run/run.json", b"first", FOUND)
        backend.put("run/run.json", b"second", unchanged(first))
        with pytest.raises(ConflictError) as caught:
            backend.put("run/run.json", b"third", unchanged(first))
        assert caught.value.key == "run/run.json"
        assert "run/run.json" in str(caught.value)
        assert witness.get("run/run.json") == b"second"

    def test_an_update_is_refused_after_a_plain_put_of_as_many_bytes(self, backend: Backend, witness: Witness) -> None:
        _need(backend.guarantees, "conditional_update")
        backend.put("run/run.json", b"start", FOUND)
        for turn in range(50 * scale()):
            seen = backend.get("run/run.json").version
            backend.put("run/run.json", b"%05d" % (2 * turn), ANY)
            backend.put("run/run.json", b"%05d" % (2 * turn + 1), ANY)
            with pytest.raises(ConflictError):
                backend.put("run/run.json", b"stale", unchanged(seen))
        assert witness.get("run/run.json") == b"%05d" % (100 * scale() - 1)

    def test_an_update_is_refused_after_somebody_else_wrote(self, backend: Backend, witness: Witness) -> None:
        _need(backend.guarantees, "conditional_update")
        version = backend.put("run/run.json", b"ours", FOUND)
        witness.put("run/run.json", b"them")
        with pytest.raises(ConflictError):
            backend.put("run/run.json", b"lost", unchanged(version))
        assert witness.get("run/run.json") == b"them"

    def test_an_update_where_nothing_is_is_refused(self, backend: Backend, witness: Witness) -> None:
        _need(backend.guarantees, "conditional_update")
        version = backend.put("run/run.json", b"x", FOUND)
        with pytest.raises(ConflictError):
            backend.put("run/step.a.json", b"y", unchanged(version))
        backend.delete("run/run.json")
        backend.put("run/step.b.json", b"keeps the folder", FOUND)
        with pytest.raises(ConflictError):
            backend.put("run/run.json", b"y", unchanged(version))
        assert witness.keys() == {"run/step.b.json"}

    def test_an_update_with_the_version_of_another_object_is_refused(self, backend: Backend, witness: Witness) -> None:
        _need(backend.guarantees, "conditional_update")
        backend.put("run/run.json", b"here", FOUND)
        foreign = backend.put("run/step.a.json", b"else", CREATE)
        with pytest.raises(ConflictError):
            backend.put("run/run.json", b"lost", unchanged(foreign))
        assert witness.get("run/run.json") == b"here"

    @pytest.mark.parametrize("version", ["", "*", '"', "0", "no such version"])
    def test_an_update_with_a_version_that_never_was_is_refused(
        self, backend: Backend, witness: Witness, version: str
    ) -> None:
        # The empty one comes from listings that cannot tell; `*` means "whatever is there" to S3.
        _need(backend.guarantees, "conditional_update")
        backend.put("run/run.json", b"here", FOUND)
        with pytest.raises(ChunkStoreError):
            backend.put("run/run.json", b"lost", unchanged(version))
        assert witness.get("run/run.json") == b"here"

    def test_a_version_does_not_come_back_to_life_with_a_new_object(self, backend: Backend, witness: Witness) -> None:
        _need(backend.guarantees, "conditional_update")
        backend.put("run/run.json", b"keeps the folder", FOUND)
        for turn in range(20):
            old = backend.put("run/step.a.json", b"%05d old" % turn, CREATE)
            backend.delete("run/step.a.json")
            backend.put("run/step.a.json", b"%05d new" % turn, CREATE)
            with pytest.raises(ConflictError):
                backend.put("run/step.a.json", b"lost", unchanged(old))
            assert witness.get("run/step.a.json") == b"%05d new" % turn
            backend.delete("run/step.a.json")

    def test_different_bytes_have_different_versions_however_fast_they_follow(self, backend: Backend) -> None:
        backend.put("run/run.json", b"start", FOUND)
        count = 200 * scale()
        versions = {backend.put("run/run.json", b"%05d" % turn, ANY) for turn in range(count)}
        assert len(versions) == count

    def test_a_plain_put_needs_nothing_and_minds_nothing(self, backend: Backend, witness: Witness) -> None:
        backend.put("run/run.json", b"x", FOUND)
        assert backend.put("run/step.a.json", b"new", ANY) == backend.get("run/step.a.json").version
        assert witness.get("run/step.a.json") == b"new"
        assert backend.put("run/step.a.json", b"newer", ANY) == backend.get("run/step.a.json").version
        assert witness.get("run/step.a.json") == b"newer"

    # Deleting.

    def test_deleting_twice_is_deleting_once(self, backend: Backend, witness: Witness) -> None:
        backend.put("run/run.json", b"x", FOUND)
        backend.put("run/step.a.json", b"x", CREATE)
        backend.delete("run/step.a.json")
        backend.delete("run/step.a.json")
        backend.delete("nowhere/run.json")
        with pytest.raises(ObjectNotFoundError):
            backend.get("run/step.a.json")
        assert _entries(backend, "run/") == witness.keys() == {"run/run.json"}

    def test_a_deleted_object_can_be_created_again(self, backend: Backend, witness: Witness) -> None:
        backend.put("run/run.json", b"first", FOUND)
        backend.delete("run/run.json")
        version = backend.put("run/run.json", b"second", FOUND)
        assert backend.get("run/run.json") == Blob(b"second", version)
        assert witness.keys() == {"run/run.json"}

    def test_a_conditional_delete_removes_the_version_that_it_names_and_no_other(
        self, backend: Backend, witness: Witness
    ) -> None:
        _need(backend.guarantees, "conditional_delete")
        backend.put("run/run.json", b"x", FOUND)
        first = backend.put("run/step.a.json", b"first", CREATE)
        second = backend.put("run/step.a.json", b"second", unchanged(first))
        with pytest.raises(ConflictError):
            backend.delete("run/step.a.json", unchanged(first))
        assert witness.get("run/step.a.json") == b"second"
        backend.delete("run/step.a.json", unchanged(second))
        backend.delete("run/step.a.json", unchanged(second))
        backend.delete("nowhere/run.json", unchanged(second))
        assert _entries(backend, "run/") == witness.keys() == {"run/run.json"}

    def test_without_the_guarantee_a_conditional_delete_is_refused_and_removes_nothing(
        self, backend: Backend, witness: Witness
    ) -> None:
        version = backend.put("run/run.json", b"x", FOUND)
        if backend.guarantees.conditional_delete:
            pytest.skip("the backend guarantees conditional deletes")
        with pytest.raises(NotSupportedError):
            backend.delete("run/run.json", unchanged(version))
        assert witness.get("run/run.json") == b"x"

    # Listing.

    def test_a_listing_goes_by_string_prefix(self, backend: Backend) -> None:
        keys = {
            "run1/run.json",
            "run1/step.a.json",
            "run1/step.a.b.json",
            "run1/step.a.b.c.json",
            "run1/step.ab.json",
            "run1/step-a.json",
            "run1/step a.json",
        }
        for key in sorted(keys):
            backend.put(key, key.encode(), FOUND)
        backend.put("run10/step.a.json", b"", FOUND)
        backend.put("run1.step.a/step.a.json", b"", FOUND)
        for prefix in (
            "run1/",
            "run1/s",
            "run1/step",
            "run1/step.",
            "run1/step.a",
            "run1/step.a.",
            "run1/step.a.b",
            "run1/step.a.b.",
            "run1/step.a.b.c.json",
            "run1/step-",
            "run1/step ",
        ):
            assert _entries(backend, prefix) == {key for key in keys if key.startswith(prefix)}, prefix

    def test_a_listing_of_nothing_is_empty(self, backend: Backend) -> None:
        assert list(backend.list("nowhere/")) == []
        assert list(backend.folders()) == []
        backend.put("run1/run.json", b"x", FOUND)
        for prefix in ("run1/step", "run1/run.json.", "run/", "run10/"):
            assert list(backend.list(prefix)) == [], prefix

    def test_a_listing_has_the_sizes_and_versions_that_get_has(self, backend: Backend, witness: Witness) -> None:
        keys = [f"run/step.{number}.json" for number in range(10)]
        for number, key in enumerate(keys):
            backend.put(key, b"x" * number, FOUND)
            backend.put(key, b"y" * number, ANY)
        witness.put("run/theirs.json", b"theirs")
        for entry in backend.list("run/"):
            blob = backend.get(entry.key)
            assert entry.size == len(blob.data)
            assert entry.version in ("", blob.version)
        assert _entries(backend, "run/") == {*keys, "run/theirs.json"}

    def test_a_long_listing_is_complete(self, backend: Backend) -> None:
        keys = {f"run/step.{number}.json" for number in range(self.many)}
        backend.put("run/run.json", b"x", FOUND)
        with ThreadPoolExecutor(min(16, backend.concurrency)) as pool:
            list(pool.map(lambda key: backend.put(key, b"x", ANY), sorted(keys)))
        assert _entries(backend, "run/step.") == keys
        assert {key for key, _ in backend.get_many(sorted(keys))} == keys
        assert list(backend.folders()) == ["run"]

    def test_objects_may_be_deleted_and_put_while_they_are_listed(self, backend: Backend) -> None:
        keys = {f"run/step.{number}.json" for number in range(50)}
        backend.put("run/run.json", b"x", FOUND)
        for key in keys:
            backend.put(key, b"x", CREATE)
        seen = set()
        for entry in backend.list("run/step."):
            seen.add(entry.key)
            backend.put(f"run/new.{len(seen)}.json", b"x", CREATE)
            backend.delete(entry.key)
        assert seen == keys
        assert _entries(backend, "run/step.") == set()

    def test_a_half_read_listing_holds_nobody_up(self, backend: Backend) -> None:
        for number in range(5):
            backend.put(f"run/step.{number}.json", b"x", FOUND)
            backend.put(f"run{number}/run.json", b"x", FOUND)
        keys = [f"run/step.{number}.json" for number in range(5)]
        half_read: list[Iterator[object]] = [backend.list("run/"), backend.get_many(keys), backend.folders()]
        for iterator in half_read:
            next(iterator)
        _at_once(lambda: backend.put("run/step.0.json", b"y", ANY))
        assert backend.get("run/step.0.json").data == b"y"

    def test_folders_are_the_first_parts_of_all_keys(self, backend: Backend, witness: Witness) -> None:
        for folder in ("run1", "run10", "run 2", "run.json", "RUN.d"):
            backend.put(f"{folder}/run.json", b"x", FOUND)
            backend.put(f"{folder}/step.a.json", b"x", CREATE)
        witness.put("theirs/run.json", b"x")
        folders = list(backend.folders())
        assert len(folders) == len(set(folders))
        assert set(folders) == {"run1", "run10", "run 2", "run.json", "RUN.d", "theirs"}

    def test_a_folder_that_starts_with_a_dot_is_kept_and_not_shown(self, backend: Backend) -> None:
        backend.put(".index/manifest.json", b"x", FOUND)
        assert list(backend.folders()) == []
        backend.put("run.1/run.json", b"x", FOUND)
        assert list(backend.folders()) == ["run.1"]
        assert [entry.key for entry in backend.list(".index/")] == [".index/manifest.json"]
        assert backend.get(".index/manifest.json").data == b"x"
        backend.delete(".index/manifest.json")
        assert list(backend.list(".index/")) == []

    def test_a_folder_is_gone_with_its_last_object(self, backend: Backend) -> None:
        backend.put("run1/run.json", b"x", FOUND)
        backend.put("run2/run.json", b"x", FOUND)
        backend.delete("run1/run.json")
        assert set(backend.folders()) == {"run2"}
        backend.put("run1/run.json", b"again", FOUND)
        assert set(backend.folders()) == {"run1", "run2"}

    # Many at once.

    def test_get_many_gives_what_is_there_and_leaves_out_what_is_not(self, backend: Backend) -> None:
        there = {f"run/step.{number}.json": b"%d" % number for number in range(0, 100, 2)}
        asked = [f"run/step.{number}.json" for number in range(100)] + ["nowhere/run.json"]
        backend.put("run/run.json", b"x", FOUND)
        versions = {key: backend.put(key, data, CREATE) for key, data in there.items()}
        got = list(backend.get_many(iter(asked)))
        assert len(got) == len(there)
        assert dict(got) == {key: Blob(data, versions[key]) for key, data in there.items()}
        assert list(backend.get_many([])) == []
        assert list(backend.get_many(["run/not there.json"])) == []

    def test_get_many_takes_a_key_asked_twice(self, backend: Backend) -> None:
        blob = Blob(b"x", backend.put("run/run.json", b"x", FOUND))
        got = list(backend.get_many(["run/run.json", "run/gone.json", "run/run.json", "run/gone.json"]))
        assert set(got) == {("run/run.json", blob)}

    def test_the_backend_may_be_used_while_get_many_is_read(self, backend: Backend) -> None:
        keys = [f"run/step.{number}.json" for number in range(20)]
        for key in keys:
            backend.put(key, b"old", FOUND)
        for key, blob in backend.get_many(keys):
            assert blob.data in (b"old", b"new")
            backend.put(keys[-1], b"new", ANY)
            assert backend.get(key).data in (b"old", b"new")
        assert backend.get(keys[-1]).data == b"new"

    # Folders.

    def test_nothing_but_founding_makes_a_folder(self, backend: Backend, witness: Witness) -> None:
        if not self.has_folders:
            backend.put("run1/step.a.json", b"x", CREATE)
            backend.put("run2/step.a.json", b"x", ANY)
            assert witness.keys() == {"run1/step.a.json", "run2/step.a.json"}
            return
        for condition in (CREATE, ANY, unchanged("a version")):
            with pytest.raises(ObjectNotFoundError) as caught:
                backend.put("run/step.a.json", b"x", condition)
            assert caught.value.key == "run/step.a.json"
        assert witness.keys() == set()
        assert list(backend.folders()) == []

    def test_a_folder_that_disappeared_is_never_silently_made_anew(self, backend: Backend, witness: Witness) -> None:
        if not self.has_folders:
            pytest.skip("the place has no folders")
        backend.put("run/run.json", b"x", FOUND)
        version = backend.put("run/step.a.json", b"x", CREATE)
        witness.remove_folder("run")
        for condition in (CREATE, ANY, unchanged(version)):
            with pytest.raises(ObjectNotFoundError):
                backend.put("run/step.a.json", b"y", condition)
        with pytest.raises(ObjectNotFoundError):
            backend.get("run/run.json")
        backend.delete("run/run.json")
        assert list(backend.get_many(["run/run.json"])) == []
        assert list(backend.list("run/")) == []
        assert list(backend.folders()) == []
        assert witness.keys() == set()
        backend.put("run/run.json", b"founded again", FOUND)
        assert witness.keys() == {"run/run.json"}

    # Races.

    @pytest.mark.parametrize("crew", ["threads", "fork", "spawn"])
    def test_of_eight_creators_one_wins(self, backend: Backend, witness: Witness, crew: str) -> None:
        _need(backend.guarantees, "conditional_create")
        backend.put("race/run.json", b"begin", FOUND)
        rounds = self._rounds(crew)
        results = self._race(crew, [Racer(backend, create_each_round)] * self._crowd(crew, 8), rounds)
        self._assert_one_winner_each(backend, results, rounds, race_key)
        assert witness.keys() == {"race/run.json", *map(race_key, range(rounds))}, "left-overs"

    @pytest.mark.parametrize("crew", ["threads", "fork"])
    def test_of_eight_founders_one_wins(self, backend: Backend, witness: Witness, crew: str) -> None:
        _need(backend.guarantees, "conditional_create")
        rounds = self._rounds(crew)
        results = self._race(crew, [Racer(backend, found_each_round)] * 8, rounds)
        self._assert_one_winner_each(backend, results, rounds, founding_key)
        assert witness.keys() == set(map(founding_key, range(rounds))), "left-overs"

    @pytest.mark.parametrize("crew", ["threads", "fork"])
    def test_of_eight_updaters_of_one_version_one_wins(self, backend: Backend, witness: Witness, crew: str) -> None:
        _need(backend.guarantees, "conditional_update")
        rounds = self._rounds(crew)
        self._lay_out(backend, rounds)
        results = self._race(crew, [Racer(backend, update_each_round)] * 8, rounds)
        self._assert_one_winner_each(backend, results, rounds, race_key)
        assert witness.keys() == {"race/run.json", *map(race_key, range(rounds))}, "left-overs"

    @pytest.mark.parametrize("crew", ["threads", "fork", "spawn"])
    def test_five_times_ten_increments_are_fifty(self, backend: Backend, witness: Witness, crew: str) -> None:
        _need(backend.guarantees, "conditional_update")
        each = 10 * scale()
        backend.put(race_key(0), b"0", FOUND)
        crowd = self._crowd(crew, 5)
        self._race(crew, [Racer(backend, increment)] * crowd, each)
        assert witness.get(race_key(0)) == b"%d" % (crowd * each)

    @pytest.mark.parametrize("crew", ["threads", "fork"])
    def test_a_plain_put_is_never_lost_to_updaters(self, backend: Backend, witness: Witness, crew: str) -> None:
        # All updaters hold the version from before the race. One that wins was before the plain put; all others are
        # refused. So the plain put's bytes are there in the end: anything else was compared before and written after it.
        # More rounds than elsewhere: the put must hit the gap of a single updater.
        _need(backend.guarantees, "conditional_update")
        rounds = 4 * self._rounds(crew)
        self._lay_out(backend, rounds)
        self._race(crew, [Racer(backend, put_each_round), *[Racer(backend, update_each_round)] * 3], rounds)
        lost = [turn for turn in range(rounds) if witness.get(race_key(turn)) != mark(0, turn)]
        assert not lost, f"an updater replaced a plain put that it had not read, in {len(lost)} of {rounds} rounds"

    @pytest.mark.parametrize("crew", ["threads", "fork"])
    def test_a_plain_put_is_never_lost_to_creators(self, backend: Backend, witness: Witness, crew: str) -> None:
        _need(backend.guarantees, "conditional_create")
        backend.put("race/run.json", b"begin", FOUND)
        rounds = 4 * self._rounds(crew)
        self._race(crew, [Racer(backend, put_each_round), *[Racer(backend, create_each_round)] * 3], rounds)
        lost = [turn for turn in range(rounds) if witness.get(race_key(turn)) != mark(0, turn)]
        assert not lost, f"a creator replaced a plain put in {len(lost)} of {rounds} rounds"

    @pytest.mark.parametrize("crew", ["threads", "fork"])
    def test_a_delete_is_never_undone_by_updaters(self, backend: Backend, witness: Witness, crew: str) -> None:
        # As above: whoever wins with the old version was before the delete.
        _need(backend.guarantees, "conditional_update")
        rounds = 4 * self._rounds(crew)
        self._lay_out(backend, rounds)
        self._race(crew, [Racer(backend, delete_each_round), *[Racer(backend, update_each_round)] * 3], rounds)
        back = witness.keys() & set(map(race_key, range(rounds)))
        assert not back, f"an updater undid a delete in {len(back)} of {rounds} rounds"

    @pytest.mark.parametrize("crew", ["threads", "fork"])
    def test_an_update_is_never_removed_by_conditional_deletes(
        self, backend: Backend, witness: Witness, crew: str
    ) -> None:
        _need(backend.guarantees, "conditional_update")
        _need(backend.guarantees, "conditional_delete")
        rounds = 4 * self._rounds(crew)
        self._lay_out(backend, rounds)
        won, *_ = self._race(
            crew, [Racer(backend, update_each_round), *[Racer(backend, delete_what_was_seen_each_round)] * 3], rounds
        )
        there = witness.keys()
        gone = [turn for turn, version in enumerate(won) if version and race_key(turn) not in there]
        assert not gone, f"a conditional delete removed a later version in {len(gone)} of {rounds} rounds"

    @pytest.mark.parametrize("crew", ["threads", "fork"])
    def test_founding_never_misses_the_folder_that_a_delete_emptied(self, backend: Backend, crew: str) -> None:
        results = self._race(crew, [Racer(backend, found_and_delete)] * 4, self._rounds(crew))
        assert any(version for won in results for version in won)
        assert list(backend.folders()) == []

    @pytest.mark.parametrize("crew", ["threads", "fork"])
    def test_racing_puts_each_return_the_version_of_their_own_bytes(self, backend: Backend, crew: str) -> None:
        rounds = self._rounds(crew)
        self._lay_out(backend, rounds)
        results = self._race(crew, [Racer(backend, put_each_round)] * 4, rounds)
        for turn in range(rounds):
            versions = [won[turn] for won in results]
            assert len(set(versions)) == len(versions), "two puts of different bytes were given one version"
            blob = backend.get(race_key(turn))
            assert blob.version == versions[[mark(me, turn) for me in range(4)].index(blob.data)]

    def test_creators_and_updaters_on_two_hosts_have_one_winner(self, backend: Backend, elsewhere: Backend) -> None:
        _need(backend.guarantees, "conditional_create", "conditional_update", "across_hosts")
        backend.put("race/run.json", b"begin", FOUND)
        rounds = self._rounds("threads")
        for role in (create_each_round, update_each_round):
            results = self._race("threads", [Racer(backend, role), Racer(elsewhere, role)] * 4, rounds)
            self._assert_one_winner_each(backend, results, rounds, race_key)
            # Bytes that no updater writes: the versions of equal bytes may be equal.
            for turn in range(rounds):
                backend.put(race_key(turn), b"laid out", ANY)

    def test_readers_beside_a_writer_never_see_half_an_object(self, backend: Backend, witness: Witness) -> None:
        _need(backend.guarantees, "atomic")
        key = "run/run.json"
        # Sizes differ, so that a version or a size of one with the bytes of the other shows too.
        bodies = [bytes([65 + number]) * (20_000 + 30_000 * number) for number in range(4)]
        versions: dict[str, bytes] = {backend.put(key, bodies[0], FOUND): bodies[0]}
        seen: set[Blob] = set()
        listed: set[tuple[str, int]] = set()

        def read(number: int) -> None:
            seen.add(backend.get(key))
            seen.update(blob for _, blob in backend.get_many([key, "run/gone.json"]))
            entries = list(backend.list("run/"))
            assert [entry.key for entry in entries] == [key], "the listing shows something else, or misses the object"
            listed.update((entry.version, entry.size) for entry in entries)

        with _restless(backend, 3), _busy(backend, 3, read):
            for turn in range(200 * scale()):
                body = bodies[turn % len(bodies)]
                versions[backend.put(key, body, ANY)] = body
        torn = [len(blob.data) for blob in seen if blob.data not in bodies]
        assert not torn, f"half an object was read, of {torn[:3]} bytes"
        wrong = [blob.version for blob in seen if versions.get(blob.version) != blob.data]
        assert not wrong, f"bytes were read with the version of others: {wrong[:3]}"
        sizes = {version: len(body) for version, body in versions.items()}
        assert not [(version, size) for version, size in listed if version and sizes.get(version) != size]
        assert witness.keys() == {key}, "left-overs"

    # Threads, processes, event loops.

    def test_a_pickled_copy_works(self, backend: Backend) -> None:
        version = backend.put("run/run.json", b"x", FOUND)
        copy: Backend = pickle.loads(pickle.dumps(backend))
        assert copy.place == backend.place
        assert copy.guarantees == backend.guarantees
        with closing(copy):
            if backend.guarantees.across_processes:
                assert copy.get("run/run.json") == Blob(b"x", version)
                copy.put("run/run.json", b"copied", unchanged(version))
                assert backend.get("run/run.json").data == b"copied"
            use_every_verb(copy, threading.Barrier(1), 0, 1)

    def test_a_pickled_copy_of_a_copy_in_a_new_process_sees_the_same_objects(self, backend: Backend) -> None:
        _need(backend.guarantees, "across_processes")
        copy: Backend = pickle.loads(pickle.dumps(backend))
        ((version,),) = self._race("spawn", [Racer(copy, use_every_verb)], 1)
        assert backend.get("user0/run.json") == Blob(mark(0, 1), version)

    def test_a_forked_child_can_use_what_its_parent_has_used(self, backend: Backend) -> None:
        use_every_verb(backend, threading.Barrier(1), 7, 1)
        for _ in range(2):
            ((version,),) = self._fork(backend)
            if backend.guarantees.across_processes:
                assert backend.get("user0/run.json") == Blob(mark(0, 1), version)
                backend.delete("user0/run.json")
        assert backend.get("user7/run.json").data == mark(7, 1)

    def test_a_child_forked_while_threads_are_busy_can_use_it(self, backend: Backend) -> None:
        backend.put("busy/run.json", b"x", FOUND)

        def work(number: int) -> None:
            backend.put(f"busy/step.{number}.json", os.urandom(8), ANY)
            backend.get(f"busy/step.{number}.json")
            list(backend.list("busy/"))

        for _ in range(10 * scale()):
            with _busy(backend, 3, work):
                self._fork(backend)
            if backend.guarantees.across_processes:
                backend.delete("user0/run.json")

    def test_sixteen_threads_can_use_it_at_once(self, backend: Backend, witness: Witness) -> None:
        results = race_in_threads([Racer(backend, use_every_verb)] * 16, 1)
        for me, (version,) in enumerate(results):
            assert backend.get(f"user{me}/run.json") == Blob(mark(me, 1), version)
        assert witness.keys() == {f"user{me}/run.json" for me in range(16)}

    def test_it_can_be_used_inside_a_running_event_loop(self, backend: Backend) -> None:
        async def pipeline() -> list[str]:
            return use_every_verb(backend, threading.Barrier(1), 0, 1)

        (version,) = _at_once(lambda: asyncio.run(pipeline()))
        assert backend.get("user0/run.json").version == version

    def test_where_it_is_asynchronous_every_verb_lets_the_event_loop_run(self, backend: Backend) -> None:
        calls = _calls_of(backend)
        backend.put("run/run.json", b"x", FOUND)
        verbs: dict[str, Callable[[], object]] = {
            "get": lambda: backend.get("run/run.json"),
            "get_many": lambda: list(backend.get_many(["run/run.json"])),
            "put": lambda: backend.put("run/run.json", b"y", ANY),
            "delete": lambda: backend.delete("run/step.a.json"),
            "list": lambda: list(backend.list("run/")),
            "folders": lambda: list(backend.folders()),
        }
        for name, verb in verbs.items():
            assert asyncio.run(_turns_of_the_loop(calls.run, verb)), f"{name} keeps the loop to itself"

    def test_where_it_is_asynchronous_calls_of_one_loop_never_wait_for_each_other_for_ever(
        self, backend: Backend
    ) -> None:
        calls = _calls_of(backend)
        backend.put("run/run.json", b"x", FOUND)

        async def all_at_once() -> None:
            keys = ["run/run.json", "run/step.a.json"] * 8
            await asyncio.gather(*(calls.run(backend.put, key, key.encode(), ANY) for key in keys))

        async def in_time() -> None:
            await asyncio.wait_for(all_at_once(), WATCHDOG_SECONDS)

        asyncio.run(in_time())
        assert backend.get("run/step.a.json").data == b"run/step.a.json"

    def test_it_can_be_used_again_after_it_was_closed(self, backend: Backend) -> None:
        version = backend.put("run/run.json", b"x", FOUND)
        backend.close()
        backend.close()
        assert backend.get("run/run.json") == Blob(b"x", version)
        backend.put("run/run.json", b"y", unchanged(version))
        backend.close()

    # A place out of reach.

    def test_every_verb_says_when_the_place_is_out_of_reach(self, unreachable: Backend) -> None:
        verbs: dict[str, Callable[[], object]] = {
            "get": lambda: unreachable.get("run/run.json"),
            "get_many": lambda: list(unreachable.get_many(["run/run.json", "run/step.a.json"])),
            "put": lambda: unreachable.put("run/run.json", b"x", FOUND),
            "plain put": lambda: unreachable.put("run/run.json", b"x", ANY),
            "delete": lambda: unreachable.delete("run/run.json"),
            "list": lambda: list(unreachable.list("run/")),
            "folders": lambda: list(unreachable.folders()),
        }
        for name, verb in verbs.items():
            error = _error_of(name, verb)
            assert unreachable.place in str(error), name
            assert not [secret for secret in self.secrets if secret in str(error)], name
            again: BackendUnavailableError = pickle.loads(pickle.dumps(error))
            assert (type(again), str(again), again.transient) == (type(error), str(error), error.transient)

    # How the tests above run their races.

    def _rounds(self, crew: str) -> int:
        return (min(10, self.rounds) if crew == "spawn" else self.rounds) * scale()

    def _crowd(self, crew: str, many: int) -> int:
        """Fewer where each starts a Python of its own."""
        return 2 if crew == "spawn" else many

    def _race(self, crew: str, racers: Sequence[Racer], rounds: int) -> list[list[str]]:
        if crew == "threads":
            return race_in_threads(racers, rounds)
        for racer in racers:
            _need(racer.backend.guarantees, "across_processes")
        if crew not in multiprocessing.get_all_start_methods():
            pytest.skip(f"this platform cannot {crew}")
        return race_in_processes(crew, racers, rounds)

    def _fork(self, backend: Backend) -> list[list[str]]:
        """One forked child that uses every verb; fails if it hangs."""
        if "fork" not in multiprocessing.get_all_start_methods():
            pytest.skip("this platform cannot fork")
        return race_in_processes("fork", [Racer(backend, use_every_verb)], 1, WATCHDOG_SECONDS)

    def _lay_out(self, backend: Backend, rounds: int) -> None:
        """Puts the objects that are raced for."""
        backend.put("race/run.json", b"keeps the folder", FOUND)
        for turn in range(rounds):
            backend.put(race_key(turn), b"as it was before round %06d" % turn, FOUND)

    def _assert_one_winner_each(
        self, backend: Backend, results: list[list[str]], rounds: int, key_of: Callable[[int], str]
    ) -> None:
        """In every round one won, and what is there is what it wrote, under the version that it was given."""
        for turn in range(rounds):
            winner = _only_winner(results, turn)
            assert backend.get(key_of(turn)) == Blob(mark(winner, turn), results[winner][turn])
