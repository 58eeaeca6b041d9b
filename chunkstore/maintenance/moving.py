"""The way of a run into the trash and out of it, step by step: what stands where, and what a kill between two steps leaves.

    .trash/run.20261121T231713026114Z-6fd05e3d.nightly-1      all of the run's objects as they stood, in one; the bytes of a pack
    .trash/moved.20261121T231713026114Z-6fd05e3d.nightly-1    says that the run is gone, and this copy is what counts

A run that is moved goes through these states, each of them one conditional write of its header:

* It stands. A copy of all its objects is put into the trash first, under a name that nobody else has.
* It moves: the header is marked as deleted and names the copy, in the place of the very version that was copied. So of any number of movers
  one marks it; the others' copies count for nothing, and a run whose header anybody changed since is left alone. Readers find it no more.
* Each object is removed in the version that the copy holds. What somebody wrote since is added to the copy first, never removed without
  that. Whoever adds reads the copy, lists the run after that, and replaces the copy he read: so of each object the copy only ever gets newer.
* All is in the copy; a note says so; the header goes.

Any number of movers may do the same work, and any later call goes on where one was killed, since the header names the copy. A copy is taken
away only when no header names it and none can come to name it: see `trash`.

Restoring goes the same way back: a marked header that names the copy takes the id, the chunks are put back, and then the header is written as
it was. All of them are signed anew: they have versions that never were, so no write and no removal that was made of an old one can land.

Where a place cannot delete under a condition, an object is first replaced, under a condition, by one that says that it is gone, and this is
deleted then. A writer who meets that is refused, so nothing acknowledged is lost there either.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

from chunkstore import codec, index, keys, packs
from chunkstore.backends import Backend, Blob, Entry, unchanged
from chunkstore.chunks import Chunks, Timing, chunk_of
from chunkstore.codec import Chunk
from chunkstore.errors import (
    BackendUnavailableError,
    ConflictError,
    FormatError,
    InvalidInputError,
    ObjectNotFoundError,
    WriteStateUnknownError,
)
from chunkstore.known import Stored
from chunkstore.marks import Mark, mark_of, marked
from chunkstore.packs import Pack, Packing
from chunkstore.store import ChunkedRunLogStore

log = logging.getLogger(__name__)

PREFIX: Final = ".trash/"
_COPY: Final = ".trash/run."
_NOTE: Final = ".trash/moved."
_TIME: Final = "%Y%m%dT%H%M%S%fZ"

_GONE: Final = b'{"_chunkstore_gone":"it is in the trash, or being moved there"}\n'
"""Stands for a moment in the place of an object that is removed, where a place cannot delete under a condition."""


# What stands in a run.


@dataclass(frozen=True, slots=True)
class Weight:
    """What a listing shows of a run."""

    objects: int
    bytes: int
    state: str
    """The same as long as nothing in the run changes."""


def listed(store: ChunkedRunLogStore, run_id: str) -> dict[str, Entry]:
    """Our objects in a run. One listing."""
    found = {entry.key: entry for entry in store.backend.list(keys.prefix_of_run(run_id))}
    return {key: entry for key, entry in found.items() if keys.parse(key) is not None or key == keys.pack(run_id)}


def weigh(found: Mapping[str, Entry]) -> Weight:
    """How much these are, and their state."""
    lines = sorted(f"{entry.key}\0{entry.version}\0{entry.size}" for entry in found.values())
    state = hashlib.blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()
    return Weight(len(found), sum(entry.size for entry in found.values()), state)


# What stands in the trash.


@dataclass(frozen=True, slots=True, order=True)
class Trashed:
    """A copy in the trash."""

    moved_at: datetime
    name: str
    """Of the copy: no other has it."""
    run_id: str
    bytes: int
    complete: bool
    """Whether the run is gone, and this copy is what counts. Otherwise a move was cut short, or is under way."""
    version: str = field(default="", repr=False, compare=False)
    """Of the copy, as it was listed."""

    @property
    def key(self) -> str:
        """The copy's object key."""
        return f"{_COPY}{self.name}"

    @property
    def note(self) -> str:
        """The object key of the note that says that the run is gone."""
        return f"{_NOTE}{self.name}"


def new_name(run_id: str, now: datetime) -> str:
    """A name for a copy, which no other has."""
    return f"{now.astimezone(UTC):{_TIME}}-{secrets.token_hex(4)}.{keys.folder_of(run_id)}"


def key_of(name: str) -> str:
    """The object key of the copy of this name."""
    return f"{_COPY}{name}"


def entries(store: ChunkedRunLogStore) -> tuple[list[Trashed], list[str]]:
    """The copies, oldest first, and the keys of notes whose copies are gone. One listing: one request per 500 runs."""
    return entries_of(store.backend)


def entries_of(backend: Backend) -> tuple[list[Trashed], list[str]]:
    """As `entries`."""
    copies: dict[str, Entry] = {}
    notes: set[str] = set()
    for entry in backend.list(PREFIX):
        if entry.key.startswith(_COPY):
            copies[entry.key.removeprefix(_COPY)] = entry
        elif entry.key.startswith(_NOTE):
            notes.add(entry.key.removeprefix(_NOTE))
    found = [_trashed(name, one.size, name in notes, one.version) for name, one in copies.items()]
    return sorted(one for one in found if one is not None), sorted(f"{_NOTE}{name}" for name in notes - set(copies))


def _trashed(name: str, size: int, complete: bool, version: str = "") -> Trashed | None:
    mark, _, folder = name.partition(".")
    run_id = keys.run_id_of(folder)
    try:
        at = datetime.strptime(mark.partition("-")[0], _TIME).replace(tzinfo=UTC)
    except ValueError:
        return None  # not ours
    return None if run_id is None else Trashed(at, name, run_id, size, complete, version)


def decode_copy(entry_key: str, run_id: str, data: bytes) -> Pack:
    """The objects in a copy, by the keys that they had. Raises `FormatError` with the copy's key."""
    try:
        pack = packs.decode(data, keys.pack(run_id))
    except FormatError as error:
        raise FormatError(f"{entry_key} in the trash cannot be read: {error}", run_id=run_id, key=entry_key) from error
    if pack.run != run_id:
        raise FormatError(f"{entry_key} holds run {pack.run!r}; somebody renamed it", run_id=run_id, key=entry_key)
    return pack


# Moving.


class Mover:
    """Moves runs of one store into its trash."""

    def __init__(self, store: ChunkedRunLogStore, now: Callable[[], datetime] | None = None) -> None:
        self.store = store
        self.backend = store.backend
        timing = Timing.of(store.backend, store.settings.timeout_seconds)
        # Apart from what the store knows: what is read here nobody has seen, and it is not to be kept.
        self.chunks = Chunks(
            store.backend,
            compress_above=store.settings.compress_above,
            known_bytes=1 << 20,
            timing=timing,
            announce=index.doubt,
        )
        self._now = now or _now

    def header(self, run_id: str) -> Stored:
        """The header as it is now. Raises `ObjectNotFoundError`, `FormatError`. One request."""
        return self.chunks.read(keys.header(run_id))

    def move(
        self, run_id: str, state: str, is_as_wanted: Callable[[Stored], bool], *, even_damaged: bool
    ) -> Trashed | None:
        """Moves a run that is still in this state; None where somebody else did so meanwhile.

        Raises `ConflictError` where it changed, `FormatError` where it is damaged, `InvalidInputError` where it is too large,
        `ObjectNotFoundError` where it is gone; nothing of it was changed then.
        """
        found = listed(self.store, run_id)
        header_key = keys.key_of(keys.header(run_id))
        if header_key not in found:
            raise ObjectNotFoundError(f"run {run_id!r} is gone from {self.backend.place}", run_id=run_id)
        if weigh(found).state != state:
            return self._changed(run_id)
        if sum(entry.size for entry in found.values()) > packs.MAX_PLAIN_BYTES:
            raise self._too_large(run_id)
        header, members = self._read(run_id, found, even_damaged=even_damaged)
        if not is_as_wanted(header):
            return self._changed(run_id)
        name = new_name(run_id, self._now())
        pack = self._copy(header, members, name)
        return self._complete(self._mark(header, name), name, pack)

    def finish(self, header: Stored) -> Trashed | None:
        """Finishes a move that this header says has begun. Raises `FormatError` where the copy is gone or damaged."""
        mark = mark_of(header.chunk)
        if mark.state == "emptied":
            self._take_header_away(header, mark.name)
            return None
        return self._complete(header, mark.name, None)

    def _changed(self, run_id: str) -> Trashed | None:
        """Raises that the run changed; where that was another mover, goes on with his work."""
        header = self.header(run_id)
        if mark_of(header.chunk).state in ("moving", "emptied"):
            return self.finish(header)
        raise ConflictError(
            f"run {run_id!r} in {self.backend.place} was changed since it was looked at, and is left alone",
            run_id=run_id,
        )

    def _too_large(self, run_id: str) -> InvalidInputError:
        return InvalidInputError(
            f"run {run_id!r} in {self.backend.place} is too large for the trash, which takes {packs.MAX_PLAIN_BYTES >> 20} MiB, "
            f"{packs.MAX_PACK_BYTES >> 20} MiB compressed; it can be deleted without it",
            run_id=run_id,
        )

    def _read(self, run_id: str, found: Mapping[str, Entry], *, even_damaged: bool) -> tuple[Stored, list[Packing]]:
        """The header, and all objects as the bytes that they are. One request each."""
        pack_key, header_key = keys.pack(run_id), keys.key_of(keys.header(run_id))
        blobs = dict(self.backend.get_many(sorted(found)))
        changed = [key for key, entry in found.items() if key not in blobs or not _is(blobs[key], entry)]
        if changed:
            raise ConflictError(
                f"run {run_id!r} in {self.backend.place} is being written: {changed[0]} was changed just now; it is left alone",
                run_id=run_id,
            )
        header = _decoded_header(header_key, blobs[header_key])
        if not even_damaged:
            for key, blob in blobs.items():
                _ = packs.decode(blob.data, key) if key == pack_key else codec.decode(blob.data, key)
        # An empty file holds nothing to be kept, and a pack can hold none.
        return header, [Packing(key, blob.version, blob.data) for key, blob in sorted(blobs.items()) if blob.data]

    def _copy(self, header: Stored, members: list[Packing], name: str) -> Pack:
        """Puts the copy. One request."""
        envelope = header.chunk.envelope
        data = _encoded(envelope.run, envelope.created_at, members)
        if data is None:
            raise self._too_large(envelope.run)
        pack = decode_copy(f"{_COPY}{name}", envelope.run, data)  # as whoever restores it will
        self.chunks.put_new(f"{_COPY}{name}", data, barrier=False)  # the mark has one, and nothing is removed before
        return pack

    def _mark(self, header: Stored, name: str) -> Stored:
        """Marks the header; where it is another one by now, the copy goes, which no header names or can come to name."""
        run_id = header.chunk.envelope.run
        try:
            standing = self.chunks.replace(header, marked(header.chunk, "moving", name))
        except ObjectNotFoundError:
            self.chunks.delete_many([f"{_COPY}{name}"])
            raise
        if standing is not None and mark_of(standing.chunk).name == name:
            return standing
        if standing is None:
            self.chunks.delete_many([f"{_COPY}{name}"])
        raise ConflictError(
            f"run {run_id!r} in {self.backend.place} was changed just now, and is left alone", run_id=run_id
        )

    def _complete(self, header: Stored, name: str, pack: Pack | None) -> Trashed:
        """Removes what the copy holds, adds what it does not, and takes the header away at the end."""
        run_id = header.chunk.envelope.run
        size = self._empty(run_id, name, pack)
        # Where a power cut takes it the copy counts all the same: there is no other, and no header.
        self.chunks.put_new(f"{_NOTE}{name}", index.NOTE, barrier=False)
        self._take_header_away(header, name)
        entry = _trashed(name, size, complete=True)
        assert entry is not None
        return entry

    def _empty(self, run_id: str, name: str, pack: Pack | None) -> int:
        """Removes all but the header. Returns the size of the objects in the copy."""
        pauses = self.chunks.pauses(f"{_COPY}{name}")
        version = ""  # of the copy, where it was read or written here before the run was listed
        while True:
            next(pauses)
            if pack is None:
                pack, version = self._copy_as_it_is(run_id, name)
            found = {key: entry for key, entry in listed(self.store, run_id).items() if not _is_header(key)}
            odd = [key for key, entry in found.items() if not _holds(pack, entry)]
            if odd and not version:
                pack = None  # read before the run is listed: what is added to it is newer than what it held
                continue
            if odd and not self._still_moves(run_id, name):
                return len(pack.chunks)
            late, buried, held = self._sorted(odd, pack)
            if late:
                pack, version = self._widened(run_id, name, pack, version, late)
                continue
            self.chunks.delete_many(buried)
            held += [(key, pack.members[key].version) for key in found if key not in odd]
            if not self._remove(held):
                return len(pack.chunks)

    def _still_moves(self, run_id: str, name: str) -> bool:
        """Whether the header names this copy. If not, others have finished, and what was listed may be of a run that stands."""
        try:
            return mark_of(self.header(run_id).chunk) == Mark("moving", name)
        except ObjectNotFoundError:
            return False

    def _copy_as_it_is(self, run_id: str, name: str) -> tuple[Pack, str]:
        key = f"{_COPY}{name}"
        try:
            blob = self.backend.get(key)
        except ObjectNotFoundError as error:
            raise FormatError(
                f"run {run_id!r} in {self.backend.place} was being moved to {key}, which somebody took away; what is left of "
                "the run stays: look at its files, or delete it for good (delete_run_log; chunkstore rm --no-trash)",
                run_id=run_id,
                key=key,
            ) from error
        return decode_copy(key, run_id, blob.data), blob.version

    def _sorted(self, odd: list[str], pack: Pack) -> tuple[list[Packing], list[str], list[tuple[str, str]]]:
        """Of what may not be in the copy as it stands: what is to be added to it, what is gone but for its name, and what is in it.

        The rest stays, with a warning: a chunk that was made anew by somebody who knew nothing of the one that was removed before. Restoring
        puts the two together.
        """
        late, buried, held = [], [], []
        for key, blob in self.backend.get_many(odd):
            if blob.data == _GONE or not blob.data:
                buried.append(key)
            elif key in pack.members and pack.members[key].version == blob.version:
                held.append((key, blob.version))
            elif key in pack.members and _is_made_anew(blob.data, pack.data_of(key), key):
                log.warning("%s was written while its run was moved to the trash; it stays beside it", key)
            else:
                late.append(Packing(key, blob.version, blob.data))
        return late, buried, held

    def _widened(
        self, run_id: str, name: str, pack: Pack, version: str, late: list[Packing]
    ) -> tuple[Pack | None, str]:
        """Adds to the copy; None where it is another one by now, or nobody can say."""
        members = {one.key: Packing(one.key, one.version, pack.data_of(one.key)) for one in pack.members.values()}
        members |= {one.key: one for one in late}
        data = _encoded(run_id, pack.founded, [members[key] for key in sorted(members)])
        if data is None:
            raise self._too_large(run_id)
        try:
            version = self.backend.put(f"{_COPY}{name}", data, unchanged(version), barrier=True)
        except ConflictError:
            return None, ""
        except BackendUnavailableError as error:
            if not (error.transient or isinstance(error, WriteStateUnknownError)):
                raise
            return None, ""
        return decode_copy(f"{_COPY}{name}", run_id, data), version

    def _remove(self, found: list[tuple[str, str]]) -> list[str]:
        """Removes objects, each only in this version. Returns the keys of those that stay."""
        if self.backend.guarantees.conditional_delete:
            return self.chunks.delete_unchanged(found)
        kept = [key for key in self.chunks.at_once(self._bury, found) if key]
        self.chunks.delete_many(key for key, _ in found if key not in kept)
        return kept

    def _bury(self, one: tuple[str, str]) -> str:
        key, version = one
        try:
            self.backend.put(key, _GONE, unchanged(version))
        except (ConflictError, BackendUnavailableError) as error:
            if isinstance(error, BackendUnavailableError) and not (
                error.transient or isinstance(error, WriteStateUnknownError)
            ):
                raise
            return "" if self._is_gone(key) else key
        return ""

    def _is_gone(self, key: str) -> bool:
        """Whether nothing stands there, or what a burial left: its reply may have been lost."""
        try:
            return self.backend.get(key).data == _GONE
        except ObjectNotFoundError:
            return True

    def _take_header_away(self, header: Stored, name: str) -> None:
        """Deletes the header that names this copy; nothing where there is another one by now."""
        pauses = self.chunks.pauses(header.key)
        while True:
            next(pauses)
            if self.backend.guarantees.conditional_delete:
                kept = self.chunks.delete_unchanged([(header.key, header.version)])
                if not kept:
                    return
            elif self._emptied(header, name):
                self.chunks.delete_many([header.key])
                return
            try:
                header = self.header(header.chunk.envelope.run)
            except ObjectNotFoundError:
                return
            if mark_of(header.chunk) not in (Mark("moving", name), Mark("emptied", name)):
                return

    def _emptied(self, header: Stored, name: str) -> bool:
        """Whether the header says that nothing but itself is left to remove: then nobody changes it any more."""
        if mark_of(header.chunk).state == "emptied":
            return True
        try:
            return self.chunks.replace(header, marked(header.chunk, "emptied", name)) is not None
        except ObjectNotFoundError:
            return True

    # And back.

    def claim(self, entry: Trashed) -> Pack:
        """The copy, which no mover adds to any more: the version that he has read is not there any more. Two requests."""
        pauses = self.chunks.pauses(entry.key)
        while True:
            next(pauses)
            blob = self.backend.get(entry.key)
            pack = decode_copy(entry.key, entry.run_id, blob.data)
            again = _encoded(
                pack.run, pack.founded, [Packing(m.key, m.version, pack.data_of(m.key)) for m in pack.members.values()]
            )
            if again is None:
                raise self._too_large(entry.run_id)
            try:
                self.backend.put(entry.key, again, unchanged(blob.version), barrier=True)
            except ConflictError:
                continue
            except BackendUnavailableError as error:
                if not (error.transient or isinstance(error, WriteStateUnknownError)):
                    raise
                continue
            return pack

    def reserve(self, header: Chunk, name: str) -> Stored | None:
        """Takes the id of a run that is to be restored, which readers do not find yet. One request; None where it is taken."""
        done, stored = self.chunks.put_back(marked(header, "restoring", name), founding=True)
        return stored if done else None

    def open(self, reserved: Stored, header: Chunk) -> bool:
        """Writes the header of a run as it was, once all its chunks are back. One request."""
        return self.chunks.replace(reserved, header) is not None


def _now() -> datetime:
    return datetime.now(UTC)


def _encoded(run_id: str, founded: str, members: list[Packing]) -> bytes | None:
    """The bytes of a copy; None where there is too much for one."""
    if sum(len(one.data) + len(one.key) + len(one.version) + 20 for one in members) > packs.MAX_PLAIN_BYTES:
        return None
    data = packs.encode(run_id, founded, secrets.token_hex(8), members)
    return data if len(data) <= packs.MAX_PACK_BYTES else None


def _decoded_header(key: str, blob: Blob) -> Stored:
    chunk = codec.decode(blob.data, key)
    if keys.key_of(chunk_of(chunk.envelope)) != key:
        raise FormatError(f"{key} holds another chunk; somebody moved it: move it back", key=key)
    return Stored(key, chunk, blob.version)


def _is(blob: Blob, entry: Entry) -> bool:
    """Whether this is the object as it was listed."""
    return blob.version == entry.version if entry.version else len(blob.data) == entry.size


def _is_header(key: str) -> bool:
    return key.endswith(f"/{keys.Kind.HEADER.value}{keys.SUFFIX}")


def _holds(pack: Pack, entry: Entry) -> bool:
    """Whether the copy holds an object as it is listed; where the place cannot tell the version, no."""
    member = pack.members.get(entry.key)
    return member is not None and member.version == entry.version != ""


def _is_made_anew(now: bytes, before: bytes, key: str) -> bool:
    """Whether a chunk is not the one that the copy holds, changed since, but was created another time."""
    try:
        return codec.decode(now, key).envelope.created_at != codec.decode(before, key).envelope.created_at
    except FormatError:
        return False
