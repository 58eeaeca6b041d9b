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
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final, NamedTuple, Protocol, TypeVar

from chunkstore import codec, keys, marks, packs, waiting
from chunkstore.backends import CREATE, FOUND, Backend, Blob, Condition, Entry, unchanged
from chunkstore.clock import HybridClock
from chunkstore.codec import NO_WRITERS, Chunk, Envelope
from chunkstore.errors import (
    AlreadyExistsError,
    BackendUnavailableError,
    ChunkStoreError,
    ConflictError,
    FormatError,
    InvalidInputError,
    NotSupportedError,
    ObjectNotFoundError,
    WriteStateUnknownError,
)
from chunkstore.keys import ChunkId
from chunkstore.known import KnownChunks, Stored
from chunkstore.packs import Pack
from chunkstore.process import ProcessLocal
from chunkstore.unpacking import Unpacker
from chunkstore.values import Content

log = logging.getLogger(__name__)

Edit = Callable[[Content], Content]
Announce = Callable[[Stored, Chunk, str, int], "tuple[str, bytes] | None"]
"""Called with what is about to be replaced, what takes its place, and the session and number of that write: the key and bytes of a
note that must stand before; None for no note."""
T = TypeVar("T")
R = TypeVar("R")

_HEADER: Final = keys.Kind.HEADER.value
_WINDOW: Final = 1_000  # chunks in memory, where a run is streamed
_MAX_WRITERS: Final = 64
_NONE_SEEN: Final[Mapping[str, str]] = {}
_REREADS: Final = (0.005, 0.02, 0.08, 0.3)  # seconds; only where a reader may meet half an object


class Fence(Protocol):
    """A lease under which chunks are written: each carries its generation, and one that carries a later one is not replaced."""

    @property
    def name(self) -> str:
        """Of the lease; generations of other names say nothing about this one."""
        ...

    @property
    def generation(self) -> int:
        """How often the lease was taken before, and once more."""
        ...

    def overtaken(self, key: str, generation: int) -> ChunkStoreError:
        """The error to raise where a chunk was written under a later generation: the lease is lost."""
        ...


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
    met: bool = False
    """Whoever made `edit` has seen the chunk, be it that this process has forgotten it since: it is not begun anew unread."""


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
        known_for_seconds: float = 0.0,
        fence: Fence | None = None,
    ) -> None:
        self.backend = backend
        self._announce = announce
        self._fence = fence
        self._compress_above = compress_above
        self._timing = timing or Timing()
        self._known_for_seconds = known_for_seconds
        self.known = KnownChunks(known_bytes, self._timing.now if known_for_seconds else None)
        self._clock = clock or HybridClock()
        self.unpacker = Unpacker(backend, self.known, self._clock, self._rereads)
        self._idle_sessions: ProcessLocal[list[_Session]] = ProcessLocal(list)
        self._workers = ProcessLocal(self._make_workers)

    def last_seen(self, chunk: ChunkId) -> Stored | None:
        """The chunk as this process saw it last; None where its run was deleted and made anew since, as far as that is known."""
        stored = self.known.get(keys.key_of(chunk))
        return stored if stored is not None and self.stands(stored) else None

    def recent(self, chunk: ChunkId) -> Stored | None:
        """The chunk as this process saw it, where that is not longer ago than a caller allowed; None otherwise. No request."""
        if not self._known_for_seconds:
            return None
        since = self.known.since(keys.key_of(chunk))
        if since is None or self._timing.now() - since > self._known_for_seconds:
            return None
        return self.last_seen(chunk)

    def create(self, chunk: ChunkId, content: Content) -> Stored:
        """Founds a run: the first chunk of its folder. Raises `AlreadyExistsError`. One request, durable at once."""
        key = keys.key_of(chunk)
        outcome = self._put(self._new(chunk, content), key, FOUND, True, self.pauses(key))
        if not outcome.landed:
            raise AlreadyExistsError(f"{chunk} exists in {self.backend.place}", run_id=chunk.run_id, key=key)
        return outcome.stored

    def change(self, change: Change) -> Stored:
        """Makes one change by compare-and-swap, and repeats it on top of other writers' until it holds.

        One request where this process knows the chunk or it is new; one more per conflict, and a read for each; a read first
        where the chunk was met and forgotten. Raises `ObjectNotFoundError` where nothing is and there is no `initial`, or where the run is gone.
        """
        key = keys.key_of(change.chunk)
        stored = self.known.get(key)
        if stored is None:
            stored = self._looked_up(change)
        pauses = self.pauses(key)
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
            self._fences(stored)  # a later holder of the lease wrote the very same, perhaps
            return _Outcome(landed=True, stored=stored)
        return self._replace(stored, Chunk(stored.chunk.envelope, content), change.barrier, pauses)

    def _looked_up(self, change: Change) -> Stored | None:
        """What a change of a chunk that this process does not know is made of; None where the chunk is to be begun.

        To begin it would tell who was overtaken, by the conflict, only where it stands loose: in a pack, it would be taken for the work
        of somebody who had never seen it, all of which is new.
        """
        if change.initial is None:
            return self.read(change.chunk)
        if not change.met:
            return self._known_packed(change.chunk)
        try:
            return self.read(change.chunk)
        except ObjectNotFoundError:
            self._require_header(change.chunk.run_id)
            return None  # only this chunk was taken away; its run is there

    def _known_packed(self, chunk: ChunkId) -> Stored | None:
        """What the pack holds of a chunk that is to be written, where this process knows that the run is packed. At most one request."""
        if keys.stays_loose(keys.key_of(chunk)) or not self.unpacker.is_packed(chunk.run_id):
            return None
        pack = self.unpacker.held(chunk.run_id) or self._newest_pack(chunk.run_id)
        return None if pack is None else self.unpacker.stored(pack, keys.key_of(chunk))

    def _replace_left_over(self, change: Change, stored: Stored, pauses: Iterator[None]) -> _Outcome:
        """What a deleted run left is nothing to build on: the chunk begins anew in its place."""
        self.known.forget(stored.key)
        if change.initial is None:
            raise self._belongs_to_a_deleted_run(stored.key)
        new = self._new(change.chunk, change.initial, change.created_at)
        return self._put(new, stored.key, _condition_over(stored), change.barrier, pauses)

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
            found = [
                one if one.initial is None or one.created_at else one._replace(created_at=self._clock.stamp())
                for one in found
            ]
        return self._at_once(self.change, found)

    def mark_deleted(self, chunk: ChunkId) -> Stored:
        """Marks a header, so that its run is gone for readers at once. Two requests, one where it is known.

        One that says that its run is being copied, moved or restored is changed too: whoever is at that cannot go on with it.
        """
        key = keys.key_of(chunk)
        stored = self.known.get(key) or self.read(chunk)
        pauses = self.pauses(key)
        while marks.mark_of(stored.chunk).state not in ("deleted", "emptied"):  # of an emptied one nothing is left
            stored = self._marked(stored, marks.deleted(stored.chunk), pauses)
        return stored

    def mark_packed(self, chunk: ChunkId, check: Callable[[Stored], object]) -> Stored:
        """Marks a header whose run is to be packed, so that readers look for the pack. Two requests, one where it is marked.

        `check` raises where the run, as it stands at that moment, must not be packed.
        """
        stored = self.read(chunk)
        pauses = self.pauses(stored.key)
        check(stored)
        while not stored.chunk.envelope.packed:
            packed = stored.chunk._replace(envelope=stored.chunk.envelope._replace(packed=True))
            stored = self._marked(stored, packed, pauses)
            check(stored)
        return stored

    def _marked(self, stored: Stored, chunk: Chunk, pauses: Iterator[None]) -> Stored:
        """What stands there after one try to put a header with a mark."""
        return self._replace(stored, chunk, False, pauses).stored

    def rewrite(self, stored: Stored) -> Stored:
        """Writes a chunk again as it is, so that no write that was made of it can land any more. One request.

        Returns what stands there afterwards, which may be another writer's. Raises `ObjectNotFoundError`.
        """
        return self._replace(stored, stored.chunk, False, self.pauses(stored.key)).stored

    def replace(self, stored: Stored, chunk: Chunk) -> Stored | None:
        """Puts a chunk in the place of one, durable as with a barrier; None where another one stands there by now. One request.

        Raises `ObjectNotFoundError` where nothing does.
        """
        outcome = self._replace(stored, chunk, True, self.pauses(stored.key))
        return outcome.stored if outcome.landed else None

    def put_back(self, chunk: Chunk, *, founding: bool = False) -> tuple[bool, Stored]:
        """Puts a chunk with the age that it has, where nothing stands: whether it did, and what stands there now. One request."""
        key = keys.key_of(chunk_of(chunk.envelope))
        outcome = self._put(chunk, key, FOUND if founding else CREATE, founding, self.pauses(key))
        return outcome.landed, outcome.stored

    def at_once(self, work: Callable[[T], R], items: list[T]) -> list[R]:
        """The results, in order; as many at once as the backend has use for."""
        return self._at_once(work, items)

    def put_new(self, key: str, data: bytes, *, barrier: bool = True) -> None:
        """Puts an object that is no chunk, under a name that nobody else has. One request, durable as with a barrier if wanted."""
        self._put_new(key, data, self.pauses(key), barrier=barrier)

    def delete_many(self, found: Iterable[str]) -> None:
        """Removes the objects under these keys. One request each."""
        names = list(found)
        self._at_once(self.backend.delete, names)
        for key in names:
            self.known.forget(key)

    def delete_unchanged(self, found: Iterable[tuple[str, str]]) -> list[str]:
        """Removes objects, each only in the version that is named with it. Returns the keys of those that stay. One request each."""
        kept = self._at_once(self._delete_unchanged, list(found))
        return [key for key in kept if key]

    def _delete_unchanged(self, one: tuple[str, str]) -> str:
        key, version = one
        try:
            self.backend.delete(key, unchanged(version))
        except (ConflictError, NotSupportedError) as error:
            log.debug("%s", error)
            return key
        known = self.known.get(key)
        if known is not None and known.version == version:
            self.known.forget(key)
        return ""

    def read(self, chunk: ChunkId) -> Stored:
        """The chunk as it is now. Raises `ObjectNotFoundError`, `FormatError`.

        One request. Where it does not stand loose: one for the header, to know whether the run is packed; where it is known to be, one for its
        pack, or to know that it is still the one that this process holds.
        """
        key = keys.key_of(chunk)
        try:
            stored = self._read(key)
        except ObjectNotFoundError as error:
            self.known.forget(key)
            return self._read_packed(chunk, error)
        except InvalidInputError as error:  # another name in another case, on a case-blind file system
            raise ObjectNotFoundError(f"{self.backend.place} holds no {chunk}", key=key) from error
        if self._is_left_over(stored):
            self.known.forget(key)
            return self._read_packed(chunk, self._belongs_to_a_deleted_run(key))
        if keys.stays_loose(key) or not self.unpacker.is_packed(chunk.run_id):
            return stored
        with suppress(
            ObjectNotFoundError, FormatError
        ):  # the header is gone, or the pack damaged: this one can be read
            stored = self.unpacker.over(stored, self.unpacker.held(chunk.run_id) or self._newest_pack(chunk.run_id))
        return stored

    def _read_packed(self, chunk: ChunkId, missing: ObjectNotFoundError) -> Stored:
        """The chunk as its run's pack holds it; raises `missing`, or that the header is, where there is none."""
        key = keys.key_of(chunk)
        pack = None if keys.stays_loose(key) else self._newest_pack(chunk.run_id)
        stored = None if pack is None else self.unpacker.stored(pack, key)
        if stored is None:
            raise missing
        self._remember(stored, None)
        return stored

    def _newest_pack(self, run_id: str) -> Pack | None:
        """The run's pack as it is now; None where it has none. Raises `ObjectNotFoundError` where its header is gone.

        One request where the run is known to be packed; else one to know that, and one more where it is.
        """
        if not self.unpacker.is_packed(run_id):
            with suppress(FormatError):  # the header is damaged, and nobody can say
                if not self._read(keys.key_of(keys.header(run_id))).chunk.envelope.packed:
                    return None
        pack = self.unpacker.newest(run_id)
        if pack is None or self.unpacker.stands(pack):
            return pack
        self._read(
            keys.key_of(keys.header(run_id))
        )  # of the two runs, the one that this process knew may be the deleted one
        return pack if self.unpacker.stands(pack) else None

    def read_many(self, chunks: Iterable[ChunkId]) -> Scan:
        """The chunks that are there. One request each, all at once; one for the pack of a run that is known to be packed by then."""
        wanted = {keys.key_of(chunk): chunk.run_id for chunk in chunks}
        scan = self._without_left_overs(self._fetch(list(wanted), Scan()))
        for run_id in {wanted[key] for key in scan.vanished if not keys.stays_loose(key)}:
            if self.unpacker.is_packed(run_id):
                self._add_packed(scan, self._pack_or_damage(self._newest_pack, run_id, scan), scan.vanished)
        return scan

    def take_many(self, wanted: list[str]) -> tuple[list[tuple[Stored, Blob]], list[FormatError], list[str]]:
        """The objects under these keys, as chunks and as the bytes that they are; what is damaged; and what is not there.

        One request each, all at once.
        """
        # None of them is remembered: nobody has seen them, and what a caller writes by hand is no change of what he has not seen.
        taken, damaged, missing = [], [], dict.fromkeys(wanted)
        for key, blob in self.backend.get_many(wanted):
            missing.pop(key, None)
            try:
                taken.append((self._decoded(key, blob), blob))
            except InvalidInputError as error:  # another name in another case: not the chunk of this key
                log.debug("%s", error)
            except FormatError as error:
                damaged.append(error)
        return taken, damaged, list(missing)

    def look_for_pack(self, run_id: str) -> bool:
        """Whether the run is packed, as its header says now. One request where this process does not know it yet."""
        if not self.unpacker.is_packed(run_id):
            self.read(keys.header(run_id))
        return self.unpacker.is_packed(run_id)

    def _pack_or_damage(self, ask: Callable[[str], Pack | None], run_id: str, scan: Scan) -> Pack | None:
        try:
            return ask(run_id)
        except ObjectNotFoundError:
            return None  # with the header gone
        except FormatError as error:
            scan.damaged.append(error)
            return None

    def _add_packed(
        self, scan: Scan, pack: Pack | None, wanted: Iterable[str], seen: Mapping[str, str] = _NONE_SEEN
    ) -> None:
        """Adds those of the wanted chunks that the pack holds, and that are not there."""
        if pack is None:
            return
        for key in list(wanted):
            if key in seen and key in pack.members and seen[key] in (pack.token, pack.members[key].version):
                scan.unchanged.append(key)  # as it stood loose, or in this very pack
                continue
            known = self.known.get(key)
            if known is not None and known.packed and known.version == pack.token:
                scan.chunks.append(known)
                continue
            try:
                stored = self.unpacker.stored(pack, key)
            except FormatError as error:
                scan.damaged.append(error)
                continue
            if stored is not None:
                scan.chunks.append(stored)
                self._remember(stored, known if known is not None and known.packed else None)
        gone = [key for key in scan.vanished if keys.stays_loose(key) or key not in pack.members]
        scan.vanished[:] = gone

    def scan(self, prefix: str, seen: Mapping[str, str] = _NONE_SEEN) -> Scan:
        """All chunks whose key starts with the prefix, less those that still have the version in which the caller has seen them.

        One listing, and one request for each chunk that changed since this process last saw it. Of a whole run that is packed: one listing
        and one request for the pack, at the same time where the run is known to be packed; and one for each loose chunk that the pack
        does not hold as it stands.
        """
        run_id = keys.run_of_prefix(prefix)
        while True:
            scan = self._scan(prefix, seen) if run_id is None else self._scan_run(run_id, prefix, seen)
            if all(self.stands(stored) for stored in scan.chunks if _is_header(stored)):
                return scan
            # The run was deleted and made anew meanwhile: what was read of the first one goes with no other chunk.

    def _scan(self, prefix: str, seen: Mapping[str, str]) -> Scan:
        return self._without_left_overs(self._take_listed(self._listed(prefix), None, Scan(), seen))

    def _listed(self, prefix: str) -> dict[str, Entry]:
        """By key: a name that is being replaced may come twice."""
        return {entry.key: entry for entry in self.backend.list(prefix)}

    def _take_listed(self, listed: dict[str, Entry], pack: Pack | None, scan: Scan, seen: Mapping[str, str]) -> Scan:
        """The loose chunks: those that this process knows as they stand, those that the pack holds so, and the rest asked for."""
        fetch = []
        for entry in listed.values():
            known = self.known.get(entry.key)
            if entry.version and seen.get(entry.key) == entry.version:
                scan.unchanged.append(entry.key)
            elif known is not None and entry.version and known.version == entry.version:
                scan.chunks.append(known)
            elif pack is not None and self._is_packed_so(entry, pack):
                scan.chunks.append(self._take_packed(entry, pack, known))
            elif keys.is_chunk(entry.key):
                if entry.size > codec.MAX_OBJECT_BYTES:
                    scan.damaged.append(codec.too_large_to_be_one(entry.key, entry.size))
                else:
                    fetch.append(entry.key)
        return self._fetch(fetch, scan)

    def _is_packed_so(self, entry: Entry, pack: Pack) -> bool:
        member = pack.members.get(entry.key)
        return member is not None and bool(entry.version) and member.version == entry.version

    def _take_packed(self, entry: Entry, pack: Pack, before: Stored | None) -> Stored:
        """A loose chunk that the pack holds too, as it stands."""
        stored = Stored(entry.key, self.unpacker.chunk(pack, entry.key), entry.version)
        self._remember(stored, before)
        return stored

    def _scan_run(self, run_id: str, prefix: str, seen: Mapping[str, str]) -> Scan:
        scan = Scan()
        listed, pack = self._listed_with_pack(run_id, prefix, scan)
        self._take_listed(listed, pack, scan, seen)
        pack = self._pack_since(run_id, listed, scan, pack)
        self._without_left_overs(scan)
        if pack is not None and self.unpacker.stands(pack):
            scan.chunks[:] = [self._over(stored, pack) for stored in scan.chunks]
            there = {stored.key for stored in scan.chunks} | {error.key for error in scan.damaged}
            there.update(scan.unchanged)
            self._add_packed(scan, pack, (key for key in pack.members if key not in there), seen)
        return scan

    def stream(self, run_id: str) -> Iterator[Scan]:
        """All chunks of a run, a thousand at a time, the header with the first; each once. Costs as `scan`.

        In memory are the listing, about 400 bytes for each chunk, a thousand chunks, and the pack of a packed run.
        """
        start = Scan()
        listed, pack = self._listed_with_pack(run_id, keys.prefix_of_run(run_id), start)
        yield start
        header = keys.key_of(keys.header(run_id))
        for some in _windows(sorted(listed, key=lambda key: (key != header, key)), _WINDOW):
            scan = self._take_listed({key: listed[key] for key in some}, pack, Scan(), _NONE_SEEN)
            pack = self._pack_since(run_id, listed, scan, pack)
            self._without_left_overs(scan)
            if pack is not None and self.unpacker.stands(pack):
                scan.chunks[:] = [self._over(stored, pack) for stored in scan.chunks]
                self._add_packed(scan, pack, scan.vanished)
            yield scan
        packed = (
            [] if pack is None or not self.unpacker.stands(pack) else [key for key in pack.members if key not in listed]
        )
        for some in _windows(packed, _WINDOW):
            scan = Scan()
            self._add_packed(scan, pack, some)
            yield scan

    def _listed_with_pack(self, run_id: str, prefix: str, scan: Scan) -> tuple[dict[str, Entry], Pack | None]:
        """What is listed, and the pack that is; what went, and a damaged pack, are told to the scan."""
        listed = self._listed_beside_the_pack(run_id, prefix)
        scan.vanished.extend(self._drop_missing(prefix, listed))
        return listed, self._pack_or_damage(lambda run: self._listed_pack(run, listed), run_id, scan)

    def _listed_beside_the_pack(self, run_id: str, prefix: str) -> dict[str, Entry]:
        """The listing; at the same time the pack comes, where there is likely to be one that this process does not hold."""
        alone = self.backend.concurrency < 2 or not self.unpacker.is_packed(run_id)
        if alone or self.unpacker.held(run_id) is not None:
            return self._listed(prefix)
        listed: dict[str, Entry] = {}

        def bring_pack() -> None:
            with suppress(FormatError):  # damaged: where the listing shows it, it is asked for again, and that is told
                self.unpacker.fetch(run_id)

        waiting.at_once(_call, [bring_pack, lambda: listed.update(self._listed(prefix))], self._workers.get)
        return listed

    def _listed_pack(self, run_id: str, listed: dict[str, Entry]) -> Pack | None:
        entry = listed.get(keys.pack(run_id))
        if entry is None:
            return None
        if entry.size > packs.MAX_PACK_BYTES:
            raise packs.too_large_to_be_one(entry.key, entry.size)
        return self.unpacker.at(run_id, entry.version)

    def _pack_since(self, run_id: str, listed: dict[str, Entry], scan: Scan, pack: Pack | None) -> Pack | None:
        """The listed pack, or the newest, where chunks may have gone into one since they were listed."""
        if self._may_have_been_packed(run_id, listed, scan, pack):
            return self._pack_or_damage(self.unpacker.newest, run_id, scan)
        return pack

    def _may_have_been_packed(self, run_id: str, listed: dict[str, Entry], scan: Scan, pack: Pack | None) -> bool:
        """Whether chunks may have gone into a pack while they were listed and read, which the listing came too early to show.

        The header, read since, says so: it is marked before anything is removed. Or a chunk is missing; or it is another one than the one
        listed, perhaps made by somebody who knew nothing of that one. Not where the run is gone, or its pack is damaged.
        """
        if keys.key_of(keys.header(run_id)) not in listed or any(
            error.key == keys.pack(run_id) for error in scan.damaged
        ):
            return False
        if pack is None and self.unpacker.is_packed(run_id):
            return True
        other = [one.key for one in scan.chunks if one.version != listed[one.key].version != ""]
        members = {} if pack is None else pack.members
        return any(not keys.stays_loose(key) and key not in members for key in (*scan.vanished, *other))

    def _over(self, stored: Stored, pack: Pack) -> Stored:
        merged = self.unpacker.over(stored, pack)
        if merged is not stored:
            self.known.put_unless_overtaken(merged, stored)
        return merged

    def _drop_missing(self, prefix: str, listed: Container[str]) -> list[str]:
        """What this process knew of a run and a listing did not show. Listing takes time, in which somebody may delete the run."""
        missing = [
            key for key in self.known.keys_of_run(prefix) if key not in listed and not self._is_known_packed(key)
        ]
        for key in missing:
            self.known.forget(key)
        return missing

    def _is_known_packed(self, key: str) -> bool:
        known = self.known.get(key)
        return known is not None and known.packed

    def pause(self, seconds: float) -> None:
        """Waits, before a place is asked again what is new there."""
        self._timing.sleep(seconds)

    def now(self) -> float:
        """Seconds of the clock that pauses and deadlines are measured by."""
        return self._timing.now()

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

    def stands(self, stored: Stored) -> bool:
        """Whether the chunk belongs to the run that was last seen under its id, as far as that is known."""
        envelope = stored.chunk.envelope
        founded = envelope.created_at if envelope.kind == _HEADER else envelope.founded
        return not founded or (self.known.founding(envelope.run) or founded) == founded

    def _is_left_over(self, stored: Stored) -> bool:
        """Whether the chunk belongs to a deleted run of the same id. One request where it looks so: ours may be the deleted one."""
        if _is_header(stored) or self.stands(stored):
            return False
        try:
            self._read(keys.key_of(keys.header(stored.chunk.envelope.run)))
        except ObjectNotFoundError:
            return True
        except FormatError:
            return False  # nobody can say
        return not self.stands(stored)

    def _without_left_overs(self, scan: Scan) -> Scan:
        """Sets apart what a deleted run left. One request more where there is such a chunk."""
        doubtful = next((one for one in scan.chunks if not self.stands(one) and not _is_header(one)), None)
        if doubtful is None:
            return scan
        self._is_left_over(doubtful)  # of the two runs, the one that this process knew may be the deleted one
        found, scan.chunks[:] = scan.chunks[:], []
        for stored in found:
            if _is_header(stored) or self.stands(stored):
                scan.chunks.append(stored)
            else:
                self.known.forget(stored.key)
                scan.left_over.append(stored)
        return scan

    def _belongs_to_a_deleted_run(self, key: str) -> ObjectNotFoundError:
        return ObjectNotFoundError(f"{key} in {self.backend.place} is left over from a deleted run of this id", key=key)

    def _replace(self, stored: Stored, chunk: Chunk, barrier: bool, pauses: Iterator[None]) -> _Outcome:
        return self._put(chunk, stored.key, _condition_over(stored), barrier, pauses, stored)

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
        chunk = Chunk(_signed(chunk.envelope, session.name, number, self._fences(replaced)), chunk.content)
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
                current = self._read_back(key, failure, condition)
            else:
                return self._landed(Stored(key, chunk, version), before)
            if current is not None and current.chunk.envelope.writers.get(session.name, 0) >= number:
                log.debug("%s landed although its reply said otherwise", key)
                return _Outcome(landed=True, stored=current)
            if late is not None:  # a place that fails is reported as that, and not as one where others were faster
                raise failure if isinstance(failure, BackendUnavailableError) else late
            if current is not None and _stands_in_the_way(current, chunk, condition):
                return _Outcome(landed=False, stored=current)
            if current is None and condition.kind == "unchanged":
                self.known.forget(key)
                raise ObjectNotFoundError(f"{key} was deleted from {self.backend.place} meanwhile", key=key)
            # Nothing changed there: a passing fault, or a conflict with a write that then failed.

    def _fences(self, replaced: Stored | None) -> Mapping[str, int]:
        """What a chunk is marked with that is written now. Raises where what it takes the place of was written by a later holder of the lease."""
        fence = self._fence
        if fence is None:
            return codec.NO_FENCES
        if replaced is not None:
            later = replaced.chunk.envelope.fences.get(fence.name, 0)
            if later > fence.generation:
                raise fence.overtaken(replaced.key, later)
        return {fence.name: fence.generation}

    def _put_note(self, replaced: Stored, chunk: Chunk, session: str, number: int, pauses: Iterator[None]) -> None:
        """Announces a write, where somebody must know of it before it happens."""
        note = self._announce(replaced, chunk, session, number) if self._announce is not None else None
        if note is not None:
            self._put_new(*note, pauses)

    def _put_new(self, key: str, data: bytes, pauses: Iterator[None], *, barrier: bool = True) -> None:
        while True:
            try:
                self.backend.put(key, data, FOUND, barrier=barrier)
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
        if envelope.packed:
            self.known.packs.note(envelope.run)
        self.known.put_unless_overtaken(stored, before)

    def _read_back(self, key: str, failure: Exception, condition: Condition) -> Stored | None:
        """What stands there after a put that did not clearly succeed; also where that was packed meanwhile."""
        try:
            try:
                return self._read(key)
            except ObjectNotFoundError:
                return self._packed_meanwhile(key, condition)
        except ObjectNotFoundError:  # of the header
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

    def _packed_meanwhile(self, key: str, condition: Condition) -> Stored | None:
        run_id = keys.run_id_of(key.partition("/")[0])
        if run_id is None or keys.stays_loose(key):
            return None
        if condition.kind == "absent" and not self.unpacker.is_packed(run_id):
            return None  # nothing stood there before either
        pack = self._newest_pack(run_id)
        return None if pack is None else self.unpacker.stored(pack, key)

    def _read(self, key: str) -> Stored:
        before = self.known.get(key)
        try:
            return self._take(key, self.backend.get(key), before)
        except FormatError:
            if self._is_atomic():
                raise
        except ObjectNotFoundError:
            if not self._may_be_there(key) or self._is_atomic():
                raise
        return self._read_again(key)

    def _may_be_there(self, key: str) -> bool:
        """Whether the object may be being replaced, and not missing: this process has met it, or it is a header.

        A header that is missing means that there is no run, and all writers replace it: also who never met the run must not be told so.
        """
        if key in self.known:
            return True
        chunk = keys.parse(key)
        return chunk is not None and chunk.kind is keys.Kind.HEADER

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

    def _rereads(self) -> Iterator[None]:
        """Waits before each of them; there are some only where a reader may meet half an object."""
        for pause in () if self._is_atomic() else _REREADS:
            self._timing.sleep(pause)
            yield

    def _is_atomic(self) -> bool:
        """Asked only in doubt: it may cost requests, and a reader may have no right to make them."""
        try:
            return self.backend.guarantees.atomic
        except BackendUnavailableError:
            return True

    def _take(self, key: str, blob: Blob, before: Stored | None) -> Stored:
        """Decodes an object, checks that it is what its key says, and remembers it."""
        stored = self._decoded(key, blob)
        self._clock.saw(stored.chunk.envelope.created_at)
        self._remember(stored, before)
        return stored

    def _decoded(self, key: str, blob: Blob) -> Stored:
        chunk = codec.decode(blob.data, key)
        self._check_name(key, chunk.envelope)
        return self.unpacker.over(Stored(key, chunk, blob.version), self.unpacker.held(chunk.envelope.run))

    def _check_name(self, key: str, envelope: Envelope) -> None:
        if not keys.is_kind(envelope.kind):
            raise FormatError(f"{key} names a chunk that cannot be: there is no kind {envelope.kind!r}", key=key)
        try:
            actual = keys.made_of(envelope.run, envelope.kind, envelope.name, envelope.scope)
        except ValueError as error:
            raise FormatError(f"{key} names a chunk that cannot be: {error}", key=key) from error
        if (
            envelope.deleted or envelope.packed
        ) and envelope.kind != keys.Kind.HEADER:  # writers would try until their deadline
            raise FormatError(f"{key} says that its run is being deleted, or packed; only a header says that", key=key)
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

    def pauses(self, key: str) -> Iterator[None]:
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


def _windows(found: list[str], size: int) -> Iterator[list[str]]:
    return (found[start : start + size] for start in range(0, len(found), size))


def _call(work: Callable[[], None]) -> None:
    work()


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


def _condition_over(stored: Stored) -> Condition:
    """The condition of a put on top of this chunk. A packed one comes back as a loose one, which wins.

    Nobody can have brought it back and removed it again since: what was packed, removed and written again stays. See `Member.stays`.
    """
    return CREATE if stored.packed else unchanged(stored.version)


def _stands_in_the_way(current: Stored, chunk: Chunk, condition: Condition) -> bool:
    """Whether what stands there is something else than what the put was made for."""
    if not current.packed:
        return current.version != condition.version
    # Packed and removed since; or there before, and only the put of it as a loose chunk, as it is sent again, did not land.
    return condition.kind == "unchanged" or current.chunk.envelope.created_at != chunk.envelope.created_at


def _may_have_landed(failure: BackendUnavailableError) -> bool:
    return failure.transient or isinstance(failure, WriteStateUnknownError)


def _signed(envelope: Envelope, session: str, number: int, fences: Mapping[str, int]) -> Envelope:
    """With this session's last write; of more than `_MAX_WRITERS` sessions the one that wrote longest ago goes."""
    writers = {name: last for name, last in envelope.writers.items() if name != session}
    while len(writers) >= _MAX_WRITERS:
        del writers[next(iter(writers))]
    writers[session] = number
    run, kind, name, scope, created_at, _, deleted, founded, packed, before = envelope
    if fences:
        fences = {**before, **fences}
    return Envelope(run, kind, name, scope, created_at, writers, deleted, founded, packed, fences or before)
