"""Writers, reindexers and readers in every order of their requests: at each moment the index says what the headers say."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pytest

from chunkstore import ChunkedRunLogStore, ConflictError, RunLogNotFoundError, codec, index, keys, reindexing
from chunkstore.backends import Backend, Blob, Condition, Entry
from chunkstore.chunks import Chunks
from chunkstore.codec import Chunk
from chunkstore.index import Index
from chunkstore.testing import CountingBackend
from places import between, memory

pytestmark = pytest.mark.slow

Act = Callable[[ChunkedRunLogStore], Any]
Truth = dict[str, tuple[str, str | None, dict[str, Any]]]
"""For each run its status, its tag and its configuration."""


class Killed(BaseException):
    """Ends an actor in the midst of what it does."""


class Actor:
    """A process of its own, which makes one request whenever it is its turn."""

    def __init__(self, backend: Backend, act: Act, *, page: int) -> None:
        self.ended = False
        self.result: Any = None
        self._killed = False
        self._go, self._stopped = threading.Semaphore(0), threading.Semaphore(0)
        store = ChunkedRunLogStore(Stepped(backend, self.turn, page))
        self._thread = threading.Thread(target=self._run, args=(act, store))
        self._thread.start()
        self.step()  # up to its first request

    def step(self) -> None:
        """Makes the request that it stands before, and stops before the next."""
        self._go.release()
        self._stopped.acquire()

    def kill(self) -> None:
        self._killed = True
        while not self.ended:
            self.step()
        self._thread.join()

    def turn(self) -> None:
        self._stopped.release()
        self._go.acquire()
        if self._killed:
            raise Killed

    def _run(self, act: Act, store: ChunkedRunLogStore) -> None:
        self._go.acquire()
        try:
            if not self._killed:
                self.result = act(store)
        except Killed:
            pass
        except BaseException as error:  # noqa: BLE001  whatever it is, the test must hear of it
            self.result = error
        self.ended = True
        self._stopped.release()


class Stepped(CountingBackend):
    """Asks for its turn before each request. A listing is made page by page, in any order, as a disk does."""

    def __init__(self, inner: Backend, turn: Callable[[], None], page: int) -> None:
        super().__init__(inner)
        self._turn = turn
        self._page = page

    def get(self, key: str) -> Blob:
        self._turn()
        return self.inner.get(key)

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        for key in keys:
            self._turn()
            yield from self.inner.get_many([key])

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        self._turn()
        return self.inner.put(key, data, condition, barrier=barrier)

    def delete(self, key: str) -> None:
        self._turn()
        self.inner.delete(key)

    def list(self, prefix: str) -> Iterator[Entry]:
        last = ""
        while True:
            self._turn()
            rest = [entry for entry in self.inner.list(prefix) if entry.key[::-1] > last]
            rest.sort(key=lambda entry: entry.key[::-1])
            yield from rest[: self._page]
            if len(rest) <= self._page:
                return
            last = rest[self._page - 1].key[::-1]

    def folders(self) -> Iterator[str]:
        self._turn()
        return self.inner.folders()


def truth(backend: Backend) -> Truth:
    """What the headers say at this moment."""
    found = {}
    for folder in backend.folders():
        for _, blob in backend.get_many([f"{folder}/run.json"]):
            chunk = codec.decode(blob.data, folder)
            if not chunk.envelope.deleted:
                fields = index.values.decode(chunk.content)
                found[chunk.envelope.run] = (fields["status"], fields["tag"], fields["run_config"])
    return found  # type: ignore[return-value]


def shown(run_logs: Iterable[Any]) -> Truth:
    return {run.run_id: (run.status, run.tag, run.run_config) for run in run_logs}


def seen_by(backend: Backend) -> Truth:
    """What a process that knows nothing finds at this moment."""
    return shown(ChunkedRunLogStore(backend).get_run_logs())


def reads(store: ChunkedRunLogStore) -> Truth:
    return shown(store.iter_run_logs())


@dataclass
class Scene:
    """What happens at once; `readers` are the numbers of the acts that read."""

    acts: Sequence[Act]
    page: int = 1_000
    kills: float = 0.0
    readers: tuple[int, ...] = ()
    backend: Backend = field(default_factory=memory)

    def prepare(self) -> None:
        store = ChunkedRunLogStore(self.backend)
        for run_id, status in {"a": "SUCCESS", "b": "FAIL", "c": "PROCESSING"}.items():
            store.create_run_log(run_id, tag="old", status=status)
        store.reindex()
        store.create_run_log("d", tag="old", status="SUCCESS")
        store.set_run_config("b", {"doubted": True})

    def play(self, choose: Callable[[int], int], chance: random.Random | None = None) -> None:
        self.prepare()
        actors = [Actor(self.backend, act, page=self.page) for act in self.acts]
        began: dict[int, int] = {}
        past = [truth(self.backend)]
        try:
            while living := [number for number, actor in enumerate(actors) if not actor.ended]:
                number = living[choose(len(living))]
                began.setdefault(number, len(past) - 1)
                if chance is not None and number not in self.readers and chance.random() < self.kills:
                    actors[number].kill()
                else:
                    actors[number].step()
                past.append(truth(self.backend))
                assert seen_by(self.backend) == past[-1]
                if actors[number].ended and number in self.readers:
                    assert_was_true_meanwhile(actors[number].result, past[began[number] :])
        finally:
            for actor in actors:
                actor.kill()
        for actor in actors:
            if isinstance(actor.result, BaseException) and not isinstance(
                actor.result, RunLogNotFoundError | ConflictError
            ):
                raise actor.result
        self.settle(past[-1])

    def settle(self, last: Truth) -> None:
        """Whatever happened, the next reindex makes it good, and takes away what is not needed."""
        report = ChunkedRunLogStore(self.backend).reindex()
        finished = [run_id for run_id, (status, *_) in last.items() if status in ("SUCCESS", "FAIL")]
        assert (report.runs, seen_by(self.backend)) == (len(finished), last)
        listing = Index(self.backend).listing()
        assert (listing.notes, len(listing.segments)) == ([], report.segments)
        counting = CountingBackend(self.backend)
        assert shown(ChunkedRunLogStore(counting).get_run_logs()) == last
        others = [keys.header(run_id).key for run_id in self.backend.folders() if run_id not in finished]
        assert sorted(counting.keys("get_many")) == sorted([*listing.segments, *others])


def assert_was_true_meanwhile(found: Any, truths: list[Truth]) -> None:
    if isinstance(found, BaseException):
        raise found
    for run_id in {run_id for one in truths for run_id in one} | set(found):
        assert found.get(run_id) in [one.get(run_id) for one in truths]


def every_order(scene: Callable[[], Scene], at_most: int = 100_000) -> int:
    """Plays the scene in each order that there is; how many those are."""
    choices: list[list[int]] = []
    for played in range(1, at_most + 1):
        turn = iter(range(at_most))

        def choose(options: int, turn: Iterator[int] = turn) -> int:
            at = next(turn)
            if at == len(choices):
                choices.append([0, options])
            assert choices[at][1] == options, "the same choices must lead to the same place"
            return choices[at][0]

        scene().play(choose)
        while choices and choices[-1][0] + 1 == choices[-1][1]:
            choices.pop()
        if not choices:
            return played
        choices[-1][0] += 1
    raise AssertionError(f"there are more than {at_most} orders")


def some_orders(scene: Callable[[], Scene], count: int) -> None:
    for seed in range(count):
        chance = random.Random(seed)
        try:
            scene().play(chance.randrange, chance)
        except AssertionError as error:
            raise AssertionError(f"seed {seed}: {error}") from error


def made_anew(store: ChunkedRunLogStore) -> None:
    store.delete_run_log("a")
    store.create_run_log("a", tag="new")
    store.update_run_log_status("a", "SUCCESS")
    store.set_run_config("a", {"new": True})


def back_and_forth(store: ChunkedRunLogStore) -> None:
    store.update_run_log_status("a", "PROCESSING")
    store.update_run_log_status("a", "SUCCESS")


WRITES: Final[Mapping[str, Act]] = {
    "another status": lambda store: store.update_run_log_status("a", "FAIL"),
    "not finished any more": lambda store: store.update_run_log_status("a", "PROCESSING"),
    "finished": lambda store: store.update_run_log_status("c", "SUCCESS"),
    "changed, and not indexed yet": lambda store: store.set_run_config("d", {"x": 1}),
    "changed, and in doubt": lambda store: store.set_run_config("b", {"x": 1}),
    "deleted": lambda store: store.delete_run_log("a"),
    "deleted while in doubt": lambda store: store.delete_run_log("b"),
}
LONG_WRITES: Final[Mapping[str, Act]] = {
    **WRITES,
    "deleted and made anew": made_anew,
    "unfinished and finished": back_and_forth,
    "finished and changed": lambda store: (
        store.update_run_log_status("c", "SUCCESS"),
        store.update_run_log_status("c", "FAIL"),
    ),
}


def incremental(store: ChunkedRunLogStore) -> object:
    return store.reindex()


def rebuilt(store: ChunkedRunLogStore) -> object:
    return store.reindex(full=True)


@pytest.mark.parametrize("reindex", [incremental, rebuilt])
def test_a_writer_beside_a_reindex_is_seen_at_once_in_every_order(reindex: Act) -> None:
    assert every_order(lambda: Scene([WRITES["another status"], reindex])) > 100


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
@pytest.mark.parametrize("reindex", [incremental, rebuilt])
def test_a_writer_beside_a_reindex_is_seen_at_once_in_many_orders(write: Act, reindex: Act) -> None:
    some_orders(lambda: Scene([write, reindex]), between(10, 2_000))


@pytest.mark.parametrize("write", LONG_WRITES.values(), ids=LONG_WRITES.keys())
def test_writers_and_two_that_reindex_are_seen_at_once_and_may_be_killed_anywhere(write: Act) -> None:
    acts = [write, incremental, rebuilt, incremental]
    some_orders(lambda: Scene(acts, kills=0.02), between(20, 3_000))


@pytest.mark.parametrize("write", LONG_WRITES.values(), ids=LONG_WRITES.keys())
def test_two_writers_of_one_run_beside_a_reindex_may_be_killed_anywhere(write: Act) -> None:
    acts = [write, LONG_WRITES["another status"], incremental]
    some_orders(lambda: Scene(acts, kills=0.04), between(20, 3_000))


@pytest.mark.parametrize("write", LONG_WRITES.values(), ids=LONG_WRITES.keys())
def test_a_reader_whose_listings_are_no_snapshots_finds_what_was_true_meanwhile(write: Act) -> None:
    acts = [write, incremental, rebuilt, reads, reads]
    some_orders(lambda: Scene(acts, page=1, kills=0.01, readers=(3, 4)), between(20, 3_000))


# The same with a safeguard taken out: the orders above must find it.


def first(requests: int) -> Callable[[int], int]:
    """The first actor makes so many requests, then the second all of its own, then the first goes on."""
    turn = iter(range(1_000))
    return lambda options: 0 if next(turn) < requests or options == 1 else 1


def finds(acts: Sequence[Act], readers: tuple[int, ...] = ()) -> None:
    with pytest.raises(AssertionError):
        some_orders(lambda: Scene(acts, page=1, kills=0.02, readers=readers), 3_000)


def test_without_notes_a_stale_header_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "doubt", lambda *_: None)
    finds([WRITES["another status"], incremental])


def test_without_the_fence_a_slow_writer_would_be_overlooked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Chunks, "rewrite", lambda _self, stored: stored)
    with pytest.raises(AssertionError):
        Scene([WRITES["another status"], incremental]).play(first(2))  # its note stands, its write is under way


def test_a_slow_writer_is_made_to_look_again_by_the_fence() -> None:
    Scene([WRITES["another status"], incremental]).play(first(2))


def test_with_a_note_only_after_the_write_a_stale_header_would_be_found(monkeypatch: pytest.MonkeyPatch) -> None:
    put_as = Chunks._put_as

    def late(self: Chunks, session: Any, chunk: Chunk, *rest: Any) -> Any:
        *others, replaced = rest
        outcome = put_as(self, session, chunk, *others, None)
        if replaced is not None and outcome.landed and (note := index.doubt(replaced, chunk, session.name, 1)):
            self.put_new(*note)
        return outcome

    monkeypatch.setattr(Chunks, "_put_as", late)
    finds([WRITES["another status"], incremental])


def test_if_the_manifest_were_not_swapped_under_a_condition_two_would_spoil_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reindexing, "unchanged", lambda _version: Condition("any"))
    finds([made_anew, incremental, incremental, incremental])


def test_if_notes_went_before_the_manifest_is_swapped_a_stale_header_would_be_found(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    swap = reindexing._Attempt._swap

    def early(self: Any, segments: Any) -> bool:
        self._chunks.delete_many([note.key for note in self._listing.notes])
        return swap(self, segments)

    monkeypatch.setattr(reindexing._Attempt, "_swap", early)
    finds([WRITES["another status"], incremental])


def test_if_readers_got_the_manifest_before_the_listing_they_would_find_what_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def look(self: Index) -> index.View:
        manifest = self.manifest()
        return index.View(self, frozenset(note.run_id for note in self.listing().notes), manifest)

    monkeypatch.setattr(Index, "look", look)
    finds([WRITES["another status"], incremental, reads], readers=(2,))
