"""One chunk's life: create, change, read, read many, delete. Knows no model and no run log.

Every write has one of three outcomes: it happened; it conflicts with somebody else's; or nobody can say, because the reply was
lost and the object could not be read back (`WriteStateUnknownError`). A lost reply is not a conflict: each chunk carries,
for every session that wrote it, the number of its last write, so reading the object tells whether ours is in it.
"""

from __future__ import annotations

import itertools
import logging
import random
import secrets
import time
from collections.abc import Callable, Container, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, NamedTuple, TypeVar

from chunkstore import codec, keys, waiting
from chunkstore.backends import CREATE, FOUND, Backend, Blob, Condition, unchanged
from chunkstore.clock import HybridClock
from chunkstore.codec import NO_WRITERS, Chunk, Envelope
from chunkstore.errors import (
    AlreadyExistsError,
    BackendUnavailableError,
    ConflictError,
    FormatError,
    InvalidInputError,
    ObjectNotFoundError,
    WriteStateUnknownError,
)
from chunkstore.keys import ChunkId
from chunkstore.known import KnownChunks, Stored
from chunkstore.process import ProcessLocal
from chunkstore.values import Content

log = logging.getLogger(__name__)

Edit = Callable[[Content], Content]
Announce = Callable[[Stored, Chunk, str, int], "tuple[str, bytes] | None"]
"""Called with what is about to be replaced, what takes its place, and the session and number of that write: the key and bytes of a
note that must stand before; None for no note."""
T = TypeVar("T")
R = TypeVar("R")

_HEADER: Final = keys.Kind.HEADER.value
_MAX_WRITERS: Final = 64
_NONE_SEEN: Final[Mapping[str, str]] = {}
_REREADS: Final = (0.005, 0.02, 0.08, 0.3)  # seconds; only where a reader may meet half an object


@dataclass(frozen=True, slots=True)
class Timing:
    """How long an operation may take and how it waits between tries; injected, so that tests need not wait.

    Pauses that are long beside one write let a few sleepers hold up everybody: they are for a place that answers at once, and
    `of` has longer ones for a place that does not.
    """

    deadline: float = 60.0
    first_pause: float = 0.0002
    longest_pause: float = 0.01
    now: Callable[[], float] = time.monotonic
    sleep: Callable[[float], None] = waiting.sleep
    random: Callable[[], float] = random.random

    @classmethod
    def of(cls, backend: Backend, deadline: float) -> Timing:
        """The timing for a backend, by how it answers."""
        if backend.concurrency == 1:
            return cls(deadline)
        return cls(deadline, first_pause=0.01, longest_pause=0.3)


class Change(NamedTuple):
    """A write to be made: `edit` turns what stands there into what shall stand there; `initial` is for when nothing does."""

    chunk: ChunkId
    edit: Edit
    initial: Content | None = None
    barrier: bool = False
    always: bool = False
    """Write even what this process believes to stand there already: somebody may have changed it since."""
    founding: bool = False
    """Where nothing is, the chunk is the first of its run."""
    created_at: str = ""
    """The stamp of a new chunk; empty for that of the moment when it is written."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a listing led to: the chunks by key, and what could not be read of them."""

    chunks: list[Stored] = field(default_factory=list)
    damaged: list[FormatError] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    """Keys that were asked for or listed, and not there: never written, or deleted meanwhile."""
    left_over: list[Stored] = field(default_factory=list)
    """Chunks of a deleted run of the same id, written by somebody who did not know that it was gone."""
    unchanged: list[str] = field(default_factory=list)
    """Keys of chunks that the caller has seen as they still are."""


class _Session:
    """One writer of one store in one process, and how many writes it has numbered.

    Writes that are under way at the same time belong to different sessions: of two threads that share one, the later
    number would stand in the object for both, and the one that lost the race would take it for its own.
    """

    def __init__(self) -> None:
        self.name = secrets.token_hex(6)
        self.numbers = itertools.count(1)


class Chunks:
    """The chunks in one backend, as this process sees them."""

    def __init__(
        self,
        backend: Backend,
        *,
        compress_above: int | None = None,
        known_bytes: int = 64 << 20,
        timing: Timing | None = None,
        clock: HybridClock | None = None,
        announce: Announce | None = None,
    ) -> None:
        self.backend = backend
        self._announce = announce
        self.known = KnownChunks(known_bytes)
        self._compress_above = compress_above
        self._timing = timing or Timing()
        self._clock = clock or HybridClock()
        self._idle_sessions: ProcessLocal[list[_Session]] = ProcessLocal(list)
        self._workers = ProcessLocal(self._make_workers)

    def last_seen(self, chunk: ChunkId) -> Stored | None:
        """The chunk as this process saw it last; None where its run was deleted and made anew since, as far as that is known."""
        stored = self.known.get(keys.key_of(chunk))
        return stored if stored is not None and self._stands(stored) else None

    def create(self, chunk: ChunkId, content: Content) -> Stored:
        """Founds a run: the first chunk of its folder. Raises `AlreadyExistsError`. One request, durable at once."""
        key = keys.key_of(chunk)
        outcome = self._put(self._new(chunk, content), key, FOUND, True, self._pauses(key))
        if not outcome.landed:
            raise AlreadyExistsError(f"{chunk} exists in {self.backend.place}", run_id=chunk.run_id, key=key)
        return outcome.stored

    def change(self, change: Change) -> Stored:
        """Makes one change by compare-and-swap, and repeats it on top of other writers' until it holds.

        One request where this process knows the chunk or it is new; one more per conflict, and a read for each.
        Raises `ObjectNotFoundError` where nothing is and there is no `initial`, or where the run is gone.
        """
        key = keys.key_of(change.chunk)
        stored = self.known.get(key)
        if stored is None and change.initial is None:
            stored = self.read(change.chunk)
        pauses = self._pauses(key)
        while True:
            try:
                outcome = self._try(change, key, stored, pauses)
            except ObjectNotFoundError:
                if stored is None or change.initial is None or change.chunk.kind is keys.Kind.HEADER:
                    raise
                self._require_header(change.chunk.run_id)
                stored = None  # only this chunk was taken away; its run is there
                continue
            if outcome.landed:
                return outcome.stored
            stored = outcome.stored

    def _try(self, change: Change, key: str, stored: Stored | None, pauses: Iterator[None]) -> _Outcome:
        """One try to make a change on top of what stood there last."""
        if stored is None:
            assert change.initial is not None
            condition = FOUND if change.founding else CREATE
            new = self._new(change.chunk, change.initial, change.created_at)
            return self._put(new, key, condition, change.barrier, pauses)
        if self._is_left_over(stored):
            return self._replace_left_over(change, stored, pauses)
        if stored.chunk.envelope.deleted:
            raise ObjectNotFoundError(f"{key} is being deleted from {self.backend.place}", key=key)
        content = _edited(change.edit, stored)
        if content == stored.chunk.content and not (change.always or change.barrier):
            return _Outcome(landed=True, stored=stored)
        return self._replace(stored, Chunk(stored.chunk.envelope, content), change.barrier, pauses)

    def _replace_left_over(self, change: Change, stored: Stored, pauses: Iterator[None]) -> _Outcome:
        """What a deleted run left is nothing to build on: the chunk begins anew in its place."""
        self.known.forget(stored.key)
        if change.initial is None:
            raise self._belongs_to_a_deleted_run(stored.key)
        new = self._new(change.chunk, change.initial, change.created_at)
        return self._put(new, stored.key, unchanged(stored.version), change.barrier, pauses)

    def _require_header(self, run_id: str) -> None:
        header = self.read(keys.header(run_id))
        if header.chunk.envelope.deleted:
            raise ObjectNotFoundError(f"{header.key} is being deleted from {self.backend.place}", key=header.key)

    def change_many(self, changes: Iterable[Change]) -> list[Stored]:
        """Makes independent changes, as many at once as the backend has use for.

        The first error is raised; changes after it may have been made, or not.
        """
        # Stamped in turn: threads would take their stamps in any order, and the steps of one call come back in another.
        found = list(changes)
        if len(found) > 1:
            found = [one if one.initial is None else one._replace(created_at=self._clock.stamp()) for one in found]
        return self._at_once(self.change, found)

    def mark_deleted(self, chunk: ChunkId) -> Stored:
        """Marks a header, so that its run is gone for readers at once. Two requests, one where it is known."""
        key = keys.key_of(chunk)
        stored = self.known.get(key) or self.read(chunk)
        pauses = self._pauses(key)
        while not stored.chunk.envelope.deleted:
            marked = stored.chunk._replace(envelope=stored.chunk.envelope._replace(deleted=True))
            stored = self._replace(stored, marked, False, pauses).stored
        return stored

    def rewrite(self, stored: Stored) -> Stored:
        """Writes a chunk again as it is, so that no write that was made of it can land any more. One request.

        Returns what stands there afterwards, which may be another writer's. Raises `ObjectNotFoundError`.
        """
        return self._replace(stored, stored.chunk, False, self._pauses(stored.key)).stored

    def put_new(self, key: str, data: bytes) -> None:
        """Puts an object that is no chunk, under a name that nobody else has. One request, durable as with a barrier."""
        self._put_new(key, data, self._pauses(key))

    def delete_many(self, found: Iterable[str]) -> None:
        """Removes the objects under these keys. One request each."""
        names = list(found)
        self._at_once(self.backend.delete, names)
        for key in names:
            self.known.forget(key)

    def read(self, chunk: ChunkId) -> Stored:
        """The chunk as it is now. Raises `ObjectNotFoundError`, `FormatError`. One request."""
        key = keys.key_of(chunk)
        try:
            stored = self._read(key)
        except ObjectNotFoundError:
            self.known.forget(key)
            raise
        except InvalidInputError as error:  # another name in another case, on a case-blind file system
            raise ObjectNotFoundError(f"{self.backend.place} holds no {chunk}", key=key) from error
        if self._is_left_over(stored):
            self.known.forget(key)
            raise self._belongs_to_a_deleted_run(key)
        return stored

    def read_many(self, chunks: Iterable[ChunkId]) -> Scan:
        """The chunks that are there. One request each, all at once."""
        return self._without_left_overs(self._fetch([keys.key_of(chunk) for chunk in chunks], Scan()))

    def scan(self, prefix: str, seen: Mapping[str, str] = _NONE_SEEN) -> Scan:
        """All chunks whose key starts with the prefix, less those that still have the version in which the caller has seen them.

        One listing, and one request for each chunk that changed since this process last saw it.
        """
        while True:
            scan = self._without_left_overs(self._scan(prefix, seen))
            if all(self._stands(stored) for stored in scan.chunks if _is_header(stored)):
                return scan
            # The run was deleted and made anew meanwhile: what was read of the first one goes with no other chunk.

    def _scan(self, prefix: str, seen: Mapping[str, str]) -> Scan:
        scan, fetch = Scan(), []
        # By key: a name that is being replaced may come twice.
        listed = {entry.key: entry for entry in self.backend.list(prefix)}
        if prefix.endswith("/"):
            scan.vanished.extend(self._drop_missing(prefix, listed))
        for entry in listed.values():
            known = self.known.get(entry.key)
            if entry.version and seen.get(entry.key) == entry.version:
                scan.unchanged.append(entry.key)
            elif known is not None and entry.version and known.version == entry.version:
                scan.chunks.append(known)
            elif keys.is_chunk(entry.key):
                if entry.size > codec.MAX_OBJECT_BYTES:
                    scan.damaged.append(codec.too_large_to_be_one(entry.key, entry.size))
                else:
                    fetch.append(entry.key)
        return self._fetch(fetch, scan)

    def _drop_missing(self, prefix: str, listed: Container[str]) -> list[str]:
        """What this process knew of a run and a listing did not show. Listing takes time, in which somebody may delete the run."""
        missing = [key for key in self.known.keys_of_run(prefix) if key not in listed]
        for key in missing:
            self.known.forget(key)
        return missing

    def pause(self, seconds: float) -> None:
        """Waits, before a place is asked again what is new there."""
        self._timing.sleep(seconds)

    def saw(self, stamp: str) -> None:
        """Takes note of the age of a chunk that came another way: what is made from now on is younger."""
        self._clock.saw(stamp)

    def close(self) -> None:
        """Lets threads and connections go; both come again when they are needed."""
        self._workers.get().shutdown()
        self._workers = ProcessLocal(self._make_workers)
        self.backend.close()

    def _make_workers(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self.backend.concurrency, thread_name_prefix="chunkstore")

    def _at_once(self, work: Callable[[T], R], items: list[T]) -> list[R]:
        if len(items) < 2 or self.backend.concurrency < 2:
            return [work(item) for item in items]
        return waiting.at_once(work, items, self._workers.get)

    def _new(self, chunk: ChunkId, content: Content, created_at: str = "") -> Chunk:
        founded = "" if chunk.kind is keys.Kind.HEADER else self.known.founding(chunk.run_id) or ""
        at = created_at or self._clock.stamp()
        kind = str.__str__(chunk.kind)  # its value, without the property of the enum
        return Chunk(Envelope(chunk.run_id, kind, chunk.name, chunk.scope, at, NO_WRITERS, False, founded), content)

    def _stands(self, stored: Stored) -> bool:
        """Whether the chunk belongs to the run that was last seen under its id, as far as that is known."""
        envelope = stored.chunk.envelope
        founded = envelope.created_at if envelope.kind == _HEADER else envelope.founded
        return not founded or (self.known.founding(envelope.run) or founded) == founded

    def _is_left_over(self, stored: Stored) -> bool:
        """Whether the chunk belongs to a deleted run of the same id. One request where it looks so: ours may be the deleted one."""
        if _is_header(stored) or self._stands(stored):
            return False
        try:
            self._read(keys.key_of(keys.header(stored.chunk.envelope.run)))
        except ObjectNotFoundError:
            return True
        except FormatError:
            return False  # nobody can say
        return not self._stands(stored)

    def _without_left_overs(self, scan: Scan) -> Scan:
        """Sets apart what a deleted run left. One request more where there is such a chunk."""
        doubtful = next((one for one in scan.chunks if not self._stands(one) and not _is_header(one)), None)
        if doubtful is None:
            return scan
        self._is_left_over(doubtful)  # of the two runs, the one that this process knew may be the deleted one
        found, scan.chunks[:] = scan.chunks[:], []
        for stored in found:
            if _is_header(stored) or self._stands(stored):
                scan.chunks.append(stored)
            else:
                self.known.forget(stored.key)
                scan.left_over.append(stored)
        return scan

    def _belongs_to_a_deleted_run(self, key: str) -> ObjectNotFoundError:
        return ObjectNotFoundError(f"{key} in {self.backend.place} is left over from a deleted run of this id", key=key)

    def _replace(self, stored: Stored, chunk: Chunk, barrier: bool, pauses: Iterator[None]) -> _Outcome:
        return self._put(chunk, stored.key, unchanged(stored.version), barrier, pauses, stored)

    def _put(
        self,
        chunk: Chunk,
        key: str,
        condition: Condition,
        barrier: bool,
        pauses: Iterator[None],
        replaced: Stored | None = None,
    ) -> _Outcome:
        """Puts a chunk until it landed or somebody else's stands there instead."""
        idle = self._idle_sessions.get()
        try:
            session = idle.pop()  # nobody else writes with it until it is put back
        except IndexError:  # not asked before: another thread may take the last one in between
            session = _Session()
        try:
            return self._put_as(session, chunk, key, condition, barrier, pauses, replaced)
        finally:
            idle.append(session)

    def _put_as(
        self,
        session: _Session,
        chunk: Chunk,
        key: str,
        condition: Condition,
        barrier: bool,
        pauses: Iterator[None],
        replaced: Stored | None,
    ) -> _Outcome:
        number = next(session.numbers)
        chunk = Chunk(_signed(chunk.envelope, session.name, number), chunk.content)
        data = codec.encode(chunk, compress_above=self._compress_above)
        if replaced is not None:
            self._put_note(replaced, chunk, session.name, number, pauses)
        while True:
            before = self.known.get(key)
            failure: ConflictError | BackendUnavailableError
            try:
                version = self.backend.put(key, data, condition, barrier=barrier)
            except (ConflictError, BackendUnavailableError) as error:
                failure = error
                if isinstance(failure, BackendUnavailableError) and not _may_have_landed(failure):
                    raise
                # Before the object is read, not after: what was read before a pause is old when the next try is made of it.
                late = _wait(pauses)
                current = self._read_back(key, failure)
            else:
                return self._landed(Stored(key, chunk, version), before)
            if current is not None and current.chunk.envelope.writers.get(session.name, 0) >= number:
                log.debug("%s landed although its reply said otherwise", key)
                return _Outcome(landed=True, stored=current)
            if late is not None:  # a place that fails is reported as that, and not as one where others were faster
                raise failure if isinstance(failure, BackendUnavailableError) else late
            if current is not None and current.version != condition.version:
                return _Outcome(landed=False, stored=current)
            if current is None and condition.kind == "unchanged":
                self.known.forget(key)
                raise ObjectNotFoundError(f"{key} was deleted from {self.backend.place} meanwhile", key=key)
            # Nothing changed there: a passing fault, or a conflict with a write that then failed.

    def _put_note(self, replaced: Stored, chunk: Chunk, session: str, number: int, pauses: Iterator[None]) -> None:
        """Announces a write, where somebody must know of it before it happens."""
        note = self._announce(replaced, chunk, session, number) if self._announce is not None else None
        if note is not None:
            self._put_new(*note, pauses)

    def _put_new(self, key: str, data: bytes, pauses: Iterator[None]) -> None:
        while True:
            try:
                self.backend.put(key, data, FOUND, barrier=True)
            except (ConflictError, BackendUnavailableError) as failure:
                if isinstance(failure, BackendUnavailableError) and not _may_have_landed(failure):
                    raise
                if isinstance(failure, ConflictError) and self._stands_already(key):
                    return  # an earlier try of ours: nobody else has the name
                if _wait(pauses) is not None:
                    raise
            else:
                return

    def _stands_already(self, key: str) -> bool:
        try:
            self.backend.get(key)
        except ObjectNotFoundError:
            return False
        return True

    def _landed(self, stored: Stored, before: Stored | None) -> _Outcome:
        self._remember(stored, before)
        return _Outcome(True, stored)

    def _remember(self, stored: Stored, before: Stored | None) -> None:
        envelope = stored.chunk.envelope
        if _is_header(stored) and self.known.found(envelope.run, envelope.created_at):
            before = None
        self.known.put_unless_overtaken(stored, before)

    def _read_back(self, key: str, failure: Exception) -> Stored | None:
        """What stands there after a put that did not clearly succeed."""
        try:
            return self._read(key)
        except ObjectNotFoundError:
            return None
        except BackendUnavailableError as error:
            if isinstance(failure, BackendUnavailableError) and not isinstance(failure, WriteStateUnknownError):
                raise failure from error  # the place was not reached at all, neither time
            if isinstance(failure, ConflictError) and not error.transient:
                raise  # refused, and what stands there cannot be read: no link, no right
            raise WriteStateUnknownError(
                f"nobody can say whether {key} was written to {self.backend.place}: {failure}, and then it could not be "
                f"read back: {error}. Repeat the call when the place answers again; it does no harm",
                transient=True,
                key=key,
            ) from failure

    def _read(self, key: str) -> Stored:
        before = self.known.get(key)
        try:
            return self._take(key, self.backend.get(key), before)
        except FormatError:
            if self._is_atomic():
                raise
        except ObjectNotFoundError:
            if not self._was_there(key) or self._is_atomic():
                raise
        return self._read_again(key)

    def _was_there(self, key: str) -> bool:
        """Whether this process has met the object, so that it may be being replaced, and not missing."""
        if key in self.known:
            return True
        chunk = keys.parse(key)
        return chunk is not None and chunk.kind is keys.Kind.HEADER and self.known.founding(chunk.run_id) is not None

    def _read_again(self, key: str) -> Stored:
        """Reads an object that was half there, on a place where replacing is not atomic."""
        before = self.known.get(key)
        for pause in _REREADS:
            self._timing.sleep(pause)
            try:
                return self._take(key, self.backend.get(key), before)
            except (FormatError, ObjectNotFoundError):
                continue
        return self._take(key, self.backend.get(key), before)

    def _is_atomic(self) -> bool:
        """Asked only in doubt: it may cost requests, and a reader may have no right to make them."""
        try:
            return self.backend.guarantees.atomic
        except BackendUnavailableError:
            return True

    def _take(self, key: str, blob: Blob, before: Stored | None) -> Stored:
        """Decodes an object, checks that it is what its key says, and remembers it."""
        chunk = codec.decode(blob.data, key)
        self._check_name(key, chunk.envelope)
        stored = Stored(key, chunk, blob.version)
        self._clock.saw(chunk.envelope.created_at)
        self._remember(stored, before)
        return stored

    def _check_name(self, key: str, envelope: Envelope) -> None:
        if not keys.is_kind(envelope.kind):
            raise FormatError(f"{key} names a chunk that cannot be: there is no kind {envelope.kind!r}", key=key)
        try:
            actual = keys.made_of(envelope.run, envelope.kind, envelope.name, envelope.scope)
        except ValueError as error:
            raise FormatError(f"{key} names a chunk that cannot be: {error}", key=key) from error
        if envelope.deleted and envelope.kind != keys.Kind.HEADER:  # writers would try until their deadline
            raise FormatError(f"{key} says that its run is being deleted; only a header says that", key=key)
        if actual == key:
            return
        if actual.casefold() == key.casefold():
            raise InvalidInputError(
                f"{key} and {actual} differ only in upper and lower case, and {self.backend.place} does not tell them apart; "
                "rename one of the two",
                key=key,
            )
        raise FormatError(f"{key} holds the chunk that belongs to {actual}; somebody moved it: move it back", key=key)

    def _fetch(self, wanted: list[str], scan: Scan) -> Scan:
        doubtful: dict[str, FormatError | None] = dict.fromkeys(wanted)
        before = {key: self.known.get(key) for key in wanted}
        for key, blob in self.backend.get_many(wanted):
            try:
                scan.chunks.append(self._take(key, blob, before[key]))
            except InvalidInputError as error:  # another name in another case: nobody asked for that one
                log.debug("%s", error)
            except FormatError as error:
                doubtful[key] = error
                continue
            del doubtful[key]
        if doubtful:
            self._settle(doubtful, scan)
        return scan

    def _settle(self, doubtful: dict[str, FormatError | None], scan: Scan) -> None:
        """Listed, but not there or not whole: deleted or damaged; or just being replaced, where that is not atomic."""
        atomic = self._is_atomic()
        for key, error in doubtful.items():
            self.known.forget(key)
            try:
                if not atomic:
                    scan.chunks.append(self._read_again(key))
                elif error is not None:
                    scan.damaged.append(error)
                else:
                    scan.vanished.append(key)
            except ObjectNotFoundError:
                scan.vanished.append(key)
            except FormatError as damage:
                scan.damaged.append(damage)

    def _pauses(self, key: str) -> Iterator[None]:
        """Waits a random while, longer from time to time, until the deadline; the first time not at all."""
        # Not in the generator: it begins with the first `next`, when the first try may have taken long. The last try begins
        # in the first half, so that it and its read-back end in time.
        now = self._timing.now()
        return self._waits(key, now, now + self._timing.deadline / 2)

    def _waits(self, key: str, start: float, end: float) -> Iterator[None]:
        timing = self._timing
        pause = timing.first_pause
        for tries in itertools.count(1):
            yield
            if timing.now() >= end:
                raise ConflictError(
                    f"gave up writing {key} to {self.backend.place} after {tries} tries in {timing.now() - start:.3g} s, each one "
                    "overtaken by another writer; repeat the call, or raise timeout_seconds",
                    key=key,
                )
            timing.sleep(pause * timing.random())
            pause = min(2 * pause, timing.longest_pause)


class _Outcome(NamedTuple):
    """What a put came to: ours stands there (perhaps with later changes on top), or somebody else's."""

    landed: bool
    stored: Stored


def _edited(edit: Edit, stored: Stored) -> Content:
    try:
        return edit(stored.chunk.content)
    except FormatError as error:
        if error.key:
            raise
        raise FormatError(f"{stored.key} cannot be changed: {error}", key=stored.key) from error


def chunk_of(envelope: Envelope) -> ChunkId:
    """The chunk that an envelope names."""
    return ChunkId(envelope.run, keys.Kind(envelope.kind), envelope.name, envelope.scope)


def _is_header(stored: Stored) -> bool:
    return stored.chunk.envelope.kind == _HEADER


def _wait(pauses: Iterator[None]) -> ConflictError | None:
    """The next pause; what to raise when there is no time for another try."""
    try:
        next(pauses)
    except ConflictError as error:
        return error
    return None


def _may_have_landed(failure: BackendUnavailableError) -> bool:
    return failure.transient or isinstance(failure, WriteStateUnknownError)


def _signed(envelope: Envelope, session: str, number: int) -> Envelope:
    """With this session's last write; of more than `_MAX_WRITERS` sessions the one that wrote longest ago goes."""
    writers = {name: last for name, last in envelope.writers.items() if name != session}
    while len(writers) >= _MAX_WRITERS:
        del writers[next(iter(writers))]
    writers[session] = number
    run, kind, name, scope, created_at, _, deleted, founded = envelope
    return Envelope(run, kind, name, scope, created_at, writers, deleted, founded)
