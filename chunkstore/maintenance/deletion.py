"""Taking away for good what is left of one run whose header says, in just this version, that there is no run. Used by all who finish a deletion."""

from __future__ import annotations

from chunkstore import keys, marks
from chunkstore.backends import Entry
from chunkstore.chunks import Chunks
from chunkstore.errors import ConflictError, ObjectNotFoundError
from chunkstore.known import Stored


def take_away(chunks: Chunks, header: Stored) -> int:
    """Deletes all objects of the run, the header last; returns how many those were.

    A header that says anything else than that the run is being deleted is changed first, in this very version: whoever was at it cannot go on.
    Nothing is deleted while another header stands there: a run of this id that was made, copied or restored meanwhile stays. Where the place
    cannot delete under a condition, one that is made between the look and the delete is not safe, as with `delete_run_log`.

    Raises `ConflictError` where another header stands there, `ObjectNotFoundError` where none does. Two listings, two requests for the header and
    one for each object; a put more where the header is changed.
    """
    deleted = marks.deleted(header.chunk)
    if deleted != header.chunk:
        replaced = chunks.replace(header, deleted)
        if replaced is None:
            raise _changed(chunks, header)
        header = replaced
    rest = _rest(chunks, header)
    # The pack before the rest: behind a loose chunk it may hold an older one.
    count = len(rest)
    pauses = chunks.pauses(header.key)
    while rest:
        next(pauses)
        pack = keys.pack(header.chunk.envelope.run)
        _delete(chunks, [entry for entry in rest if entry.key == pack])
        _delete(chunks, [entry for entry in rest if entry.key != pack])
        # What was written meanwhile goes with the run; where it cannot be told, there is nothing that a delete has left.
        rest = _rest(chunks, header) if chunks.backend.guarantees.conditional_delete else []
    if _delete(chunks, [Entry(header.key, header.version, 0)]):
        raise _changed(chunks, header)
    return count + 1


def _rest(chunks: Chunks, header: Stored) -> list[Entry]:
    """All that is in the run but its header, which stood there when it had been listed: nothing of it belongs to another run.

    The header goes last, and no run of this id can be made before it is gone.
    """
    run_id = header.chunk.envelope.run
    listed = {entry.key: entry for entry in chunks.backend.list(keys.prefix_of_run(run_id))}
    if chunks.read(keys.header(run_id)).version != header.version:
        raise _changed(chunks, header)
    ours = (key for key in listed if key == keys.pack(run_id) or keys.parse(key) is not None)
    return [listed[key] for key in sorted(ours) if key != header.key]


def _delete(chunks: Chunks, found: list[Entry]) -> list[str]:
    """Deletes them as they are listed; the keys of those that stay."""
    if not chunks.backend.guarantees.conditional_delete:
        chunks.delete_many(entry.key for entry in found)
        return []
    versions = ((entry.key, entry.version or _version(chunks, entry.key)) for entry in found)
    return chunks.delete_unchanged((key, version) for key, version in versions if version)


def _version(chunks: Chunks, key: str) -> str:
    """Read, where the place cannot tell it without; empty for what is gone."""
    try:
        return chunks.backend.get(key).version
    except ObjectNotFoundError:
        return ""


def _changed(chunks: Chunks, header: Stored) -> ConflictError:
    run_id = header.chunk.envelope.run
    return ConflictError(
        f"run {run_id!r} in {chunks.backend.place} was changed meanwhile, and is left alone", run_id=run_id
    )
