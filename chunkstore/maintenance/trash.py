"""The trash of a store: what is in it, taking a run out of it, and emptying it. How a run gets there stands in `moving`."""

from __future__ import annotations

import logging
import secrets
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from chunkstore import codec, keys, packs, values
from chunkstore.chunks import Change, chunk_of
from chunkstore.codec import Chunk
from chunkstore.errors import (
    ConflictError,
    FormatError,
    InvalidInputError,
    ObjectNotFoundError,
    RunLogExistsError,
    RunLogNotFoundError,
)
from chunkstore.known import Stored
from chunkstore.maintenance.moving import Mover, Trashed, decode_copy, entries
from chunkstore.maintenance.progress import Progress, Watcher
from chunkstore.marks import Mark, mark_of
from chunkstore.merge import merge_objects
from chunkstore.packs import Pack, Packing
from chunkstore.store import ChunkedRunLogStore
from chunkstore.values import Content

log = logging.getLogger(__name__)

GRACE: Final = timedelta(days=7)
"""For how long a run stays in the trash at the least, unless asked for otherwise."""

_AT_ONCE: Final = 500  # copies
_STANDS: Final = Mark("stands")


@dataclass(frozen=True, slots=True)
class Restored:
    """A run that is back."""

    run_id: str
    name: str
    """Of the copy that it came from."""
    objects: int
    """How many were written."""


@dataclass(frozen=True, slots=True)
class Emptied:
    """What emptying the trash came to."""

    runs: tuple[Trashed, ...]
    """Gone for good; with `dry_run` those that would be."""
    kept: int
    """Copies that are too young, or that a run which is being moved or restored needs."""

    @property
    def bytes(self) -> int:
        """Of the copies that are gone."""
        return sum(entry.bytes for entry in self.runs)


def list_trash(store: ChunkedRunLogStore) -> list[Trashed]:
    """What is in the trash, oldest first. One listing: one request per 500 runs."""
    return entries(store)[0]


def restore_run(store: ChunkedRunLogStore, name: str) -> Restored:
    """Brings a run back from the trash, complete, as it was; `name` is its id, the start of one, or the name of a copy.

    Readers find the run once all of it is back. A call that is cut short has taken nothing away, and the next one finishes it. What somebody
    wrote to the run while it was moved there is in it too.

    Where the place cannot delete under a condition (`guarantees.conditional_delete`; MinIO), call it when nobody moves that run any more: what a
    mover is about to delete, and did not yet, could be what was put back. One that is still being moved is refused there with `ConflictError`.

    Raises `RunLogNotFoundError` where it is not in the trash, `RunLogExistsError` where a run of that id is there, `InvalidInputError`
    where several copies have the id, `FormatError` where the copy is damaged. Costs two listings, a get and a put of the copy, a get and
    two puts of the header, one for each other object, and two to take the copy away.
    """
    entry, superseded = _chosen(store, name)
    mover = Mover(store)
    reserved = _freed(mover, entry)
    # Nobody adds to the copy from here on, and where deletes have conditions nobody empties it.
    pack = _claimed(mover, entry)
    header = _header_in(pack, entry)
    if reserved is None:
        reserved = mover.reserve(header, entry.name)
    if reserved is None:
        raise _taken(mover, entry)
    written = _put_back(mover, pack, header)
    if not _opened(mover, reserved, header):
        raise ConflictError(
            f"run {entry.run_id!r} in {store.backend.place} was changed by somebody else while it was being restored; "
            "it is in the trash as before: look what stands there now, and restore it again",
            run_id=entry.run_id,
        )
    for copy in (*superseded, entry):
        _take_away(mover, copy)
    return Restored(entry.run_id, entry.name, written + 1)


def find_trashed(store: ChunkedRunLogStore, name: str) -> Trashed:
    """The copy that `restore_run` would take for this name, and raises what it raises then. One listing."""
    return _chosen(store, name)[0]


def _chosen(store: ChunkedRunLogStore, name: str) -> tuple[Trashed, list[Trashed]]:
    """The copy that is meant, and older ones of the same run, left by calls that were cut short."""
    everything = list_trash(store)
    named = [entry for entry in everything if entry.name == name]
    of_run = [entry for entry in everything if entry.run_id == name]
    # One that is not complete may be what a killed mover left; it counts where there is no other.
    found = named or _counting(of_run) or _counting([one for one in everything if name and one.run_id.startswith(name)])
    if not found:
        raise RunLogNotFoundError(f"run {name!r} is not in the trash of {store.backend.place}", run_id=name)
    if len(found) > 1 and len({one.run_id for one in found}) == 1:
        found, superseded = _without_superseded(store, found)
    else:
        superseded = []
    if len(found) > 1:
        raise InvalidInputError(
            f"{name!r} is in the trash {len(found)} times; name one of them: {', '.join(one.name for one in found[:10])}",
            run_id=name,
        )
    return found[0], superseded


def _without_superseded(store: ChunkedRunLogStore, found: list[Trashed]) -> tuple[list[Trashed], list[Trashed]]:
    """Those that no other copy of the same run follows, and the rest. One request each.

    Of two copies of one run the one whose header knows every write that the other's knows is the later one: no clock is asked.
    """
    headers = {entry.name: _header_of(store, entry) for entry in found}
    latest: list[Trashed] = []
    for entry in sorted(found, reverse=True):
        if not any(_follows(headers[other.name], headers[entry.name]) for other in found if other != entry) and not any(
            _is_the_same(headers[other.name], headers[entry.name]) for other in latest
        ):
            latest.append(entry)
    return sorted(latest), [entry for entry in found if entry not in latest]


def _header_of(store: ChunkedRunLogStore, entry: Trashed) -> Chunk | None:
    """The header in a copy; None where it is damaged, or gone meanwhile."""
    try:
        return _header_in(decode_copy(entry.key, entry.run_id, store.backend.get(entry.key).data), entry)
    except (FormatError, ObjectNotFoundError):
        return None


def _follows(later: Chunk | None, earlier: Chunk | None) -> bool:
    return _knows_all_of(later, earlier) and not _knows_all_of(earlier, later)


def _is_the_same(one: Chunk | None, other: Chunk | None) -> bool:
    return _knows_all_of(one, other) and _knows_all_of(other, one)


def _knows_all_of(later: Chunk | None, earlier: Chunk | None) -> bool:
    if later is None or earlier is None or later.envelope.created_at != earlier.envelope.created_at:
        return False
    writers = later.envelope.writers
    return all(writers.get(session, 0) >= number for session, number in earlier.envelope.writers.items())


def _counting(copies: list[Trashed]) -> list[Trashed]:
    """Those that are complete, or all where none is."""
    return [entry for entry in copies if entry.complete] or copies


def _freed(mover: Mover, entry: Trashed) -> Stored | None:
    """None where the id is free, after finishing a move that was cut short; the header where restoring had begun."""
    try:
        header = mover.header(entry.run_id)
    except ObjectNotFoundError:
        return None
    except FormatError as error:
        raise _exists(mover.store, entry.run_id) from error
    mark = mark_of(header.chunk)
    if mark == Mark("restoring", entry.name):
        return header
    if mark not in (Mark("moving", entry.name), Mark("emptied", entry.name)):
        raise _exists(mover.store, entry.run_id, mark)
    if not mover.backend.guarantees.conditional_delete:
        # Whoever moves it may be about to delete, without a condition, what would be put back.
        raise ConflictError(
            f"run {entry.run_id!r} in {mover.backend.place} is still being moved to the trash; if nobody is at it any more, "
            "collecting again (chunkstore gc, or rm of this run) finishes that, and then it can be restored",
            run_id=entry.run_id,
        )
    mover.finish(header)
    return None


def _exists(store: ChunkedRunLogStore, run_id: str, mark: Mark = _STANDS) -> RunLogExistsError:
    if mark != _STANDS:
        message = f"run {run_id!r} in {store.backend.place} {mark.what}, so the one in the trash is not restored; {mark.next_step}"
        return RunLogExistsError(message, run_id=run_id)
    return RunLogExistsError(
        f"a run {run_id!r} is in {store.backend.place} already, so the one in the trash is not restored; remove that one first",
        run_id=run_id,
    )


def _taken(mover: Mover, entry: Trashed) -> RunLogExistsError:
    """Why the id is taken by now."""
    try:
        return _exists(mover.store, entry.run_id, mark_of(mover.header(entry.run_id).chunk))
    except (ObjectNotFoundError, FormatError):
        return _exists(mover.store, entry.run_id)


def _opened(mover: Mover, reserved: Stored, header: Chunk) -> bool:
    """Whether the run stands; not so where somebody changed the header that took the id, or deleted the run."""
    try:
        return mover.open(reserved, header)
    except ObjectNotFoundError:
        return False


def _claimed(mover: Mover, entry: Trashed) -> Pack:
    try:
        return mover.claim(entry)
    except ObjectNotFoundError as error:
        raise RunLogNotFoundError(
            f"run {entry.run_id!r} is not in the trash of {mover.backend.place} any more", run_id=entry.run_id
        ) from error


def _header_in(pack: Pack, entry: Trashed) -> Chunk:
    key = keys.key_of(keys.header(entry.run_id))
    if key not in pack.members:
        raise FormatError(f"{entry.key} holds no header of run {entry.run_id!r}", run_id=entry.run_id, key=entry.key)
    return codec.decode(pack.data_of(key), key)


def _put_back(mover: Mover, pack: Pack, header: Chunk) -> int:
    """Writes all but the header. Returns how many objects those are."""
    run_id = header.envelope.run
    inner = _pack_in(pack, header)
    if inner is not None:
        # Made anew, so that it has a version that never was, as all that is put back.
        again = [Packing(one.key, one.version, inner.data_of(one.key), one.stays) for one in inner.members.values()]
        mover.chunks.put_new(keys.pack(run_id), packs.encode(run_id, inner.founded, secrets.token_hex(8), again))
    written = {keys.key_of(keys.header(run_id))} | ({keys.pack(run_id)} if inner is not None else set())
    wanted = [key for key in pack.members if key not in written and not _is_packed(key, pack, inner)]
    mover.chunks.at_once(lambda key: _put_one(mover, key, pack.data_of(key)), wanted)
    return len(wanted) + (inner is not None)


def _pack_in(copy: Pack, header: Chunk) -> Pack | None:
    """The run's own pack; None where it has none, or none that readers would use."""
    key = keys.pack(header.envelope.run)
    if key not in copy.members or not header.envelope.packed:
        return None
    try:
        inner = packs.decode(copy.data_of(key), key)
    except FormatError:
        return None
    return inner if inner.founded == header.envelope.created_at else None


def _is_packed(key: str, copy: Pack, inner: Pack | None) -> bool:
    """Whether a chunk that stood loose is in the run's own pack as it stood: it would have another version than there."""
    member = None if inner is None or keys.stays_loose(key) else inner.members.get(key)
    return member is not None and not member.stays and member.version == copy.members[key].version


def _put_one(mover: Mover, key: str, data: bytes) -> None:
    """Puts one object back; what somebody wrote in its place meanwhile is kept, and put together with it."""
    try:
        chunk = codec.decode(data, key)
    except FormatError:
        mover.chunks.put_new(key, data)  # as damaged as it was
        return
    named = chunk_of(chunk.envelope) if keys.is_kind(chunk.envelope.kind) else None
    if named is None or keys.key_of(named) != key:
        mover.chunks.put_new(key, data)
        return
    done, standing = mover.chunks.put_back(chunk)
    if not done and standing.chunk.envelope.created_at == chunk.envelope.created_at:
        mover.chunks.rewrite(standing)  # a mover may still be about to remove it in the version that it has
    elif not done:
        mover.chunks.change(Change(named, lambda theirs: _both(chunk.content, theirs)))


def _both(before: Content, since: Content) -> Content:
    return values.encode(merge_objects({}, values.decode(since), values.decode(before)))


def _take_away(mover: Mover, entry: Trashed) -> None:
    mover.chunks.delete_many([entry.key])
    mover.chunks.delete_many([entry.note])


def empty_trash(
    store: ChunkedRunLogStore,
    older_than: timedelta = GRACE,
    now: datetime | None = None,
    *,
    dry_run: bool = False,
    progress: Watcher | None = None,
) -> Emptied:
    """Deletes for good what came into the trash longer than so ago. What a run needs that is being moved or restored stays.

    Raises `InvalidInputError` for a negative time. Costs two listings and two requests for each run; one or two more where a run of that id
    is in the store.
    """
    if older_than < timedelta(0):
        raise InvalidInputError(f"older_than must not be negative: {older_than}", name="older_than")
    now = now or datetime.now(UTC)
    everything, stale = entries(store)
    old = [entry for entry in everything if now - entry.moved_at >= older_than]
    if dry_run or not (old or stale):
        return Emptied(tuple(old), len(everything) - len(old))
    there = set(store.iter_run_ids()) if old else set()
    mover = Mover(store)
    gone: list[Trashed] = []
    for start in range(0, len(old), _AT_ONCE):
        if progress is not None:
            progress(Progress(start, len(old), "emptying"))
        some = old[start : start + _AT_ONCE]
        gone += _deleted(mover, [entry for entry in some if entry.run_id not in there or _is_free(mover, entry)])
    mover.chunks.delete_many(stale)
    return Emptied(tuple(gone), len(everything) - len(gone))


def _deleted(mover: Mover, found: list[Trashed]) -> list[Trashed]:
    """Deletes copies; not those that somebody has begun to restore, or has added to. Returns those that are gone."""
    if mover.backend.guarantees.conditional_delete:
        kept = set(mover.chunks.delete_unchanged((entry.key, entry.version) for entry in found if entry.version))
        found = [entry for entry in found if entry.key not in kept]
        mover.chunks.delete_many(entry.key for entry in found if not entry.version)
    else:
        mover.chunks.delete_many(entry.key for entry in found)
    mover.chunks.delete_many(entry.note for entry in found)
    return found


def _is_free(mover: Mover, entry: Trashed) -> bool:
    """Whether no header names the copy, and none can come to."""
    try:
        header = mover.header(entry.run_id)
        mark = mark_of(header.chunk)
        if mark == Mark("stands") and not entry.complete:
            mover.chunks.rewrite(header)  # a mover who put this copy, and is about to mark the header, is refused
        elif mark.name == entry.name and mark.state == "restoring":
            return False
        elif mark.name == entry.name:
            mover.finish(header)
    except ObjectNotFoundError:
        return True
    except FormatError as error:
        log.warning("%s stays in the trash: %s", entry.key, error)
        return False
    return True
