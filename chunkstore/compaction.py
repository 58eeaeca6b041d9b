"""Makes packs: all chunks of a run that has ended in one object, and then takes away those that stand in it as they are.

The order of the steps is what keeps a run readable when they are cut short, and when others read and write meanwhile: the header is marked,
so that readers who miss a chunk look for the pack; the pack is written, under the condition that nobody else wrote one; only then is
anything removed, and only in the version that the pack holds.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Literal, TypeAlias, get_args

from chunkstore import codec, keys, packs
from chunkstore.backends import CREATE, Entry, unchanged
from chunkstore.chunks import Change, Chunks, chunk_of
from chunkstore.errors import (
    BackendUnavailableError,
    ConflictError,
    FormatError,
    InvalidInputError,
    NotSupportedError,
    ObjectNotFoundError,
    WriteStateUnknownError,
)
from chunkstore.known import HeldPack, Stored
from chunkstore.packs import Pack, Packing
from chunkstore.reading import Finding, has_ended

log = logging.getLogger(__name__)

Removal: TypeAlias = Literal["unchanged", "always", "never"]
"""What to remove once the pack is written: what is unchanged, where the place can do that; everything that is in it; nothing."""


@dataclass(frozen=True, slots=True)
class Compaction:
    """What came of packing a run."""

    run_id: str
    packed: int
    """Chunks in the pack; 0 where the run has none."""
    removed: int
    """Chunks that stood loose and are in the pack alone now."""
    kept: int
    """Steps, branches and job logs that stand loose beside the pack: written since or again, or the place cannot remove them safely."""
    damaged: tuple[Finding, ...]
    """Loose chunks that cannot be read; they are not in the pack and stay where they are."""
    bytes_before: int
    bytes_after: int
    too_large: bool = False
    """The run has more than a pack can hold and was not packed."""


@dataclass(slots=True)
class _Found:
    """What stands in a run, before it is packed."""

    listed: dict[str, Entry]
    old: Pack | None = None
    """The pack that it has; None also for one of an earlier run of this id."""
    old_version: str = ""
    """Of the object in the pack's place, whatever it is."""
    loose: dict[str, Packing] = field(default_factory=dict)
    damaged: list[FormatError] = field(default_factory=list)
    made_anew: list[Stored] = field(default_factory=list)
    """Loose chunks of writers who knew nothing of the packed ones under the same keys, merged with those."""
    vanished: list[str] = field(default_factory=list)
    too_large: bool = False

    @property
    def bytes(self) -> int:
        return sum(entry.size for entry in self.listed.values())

    def members(self) -> list[Packing]:
        """All that the new pack shall hold: what is loose, and of the old pack what is not."""
        members = dict(self.loose)
        for key, member in ({} if self.old is None else self.old.members).items():
            assert self.old is not None
            if key in members:
                again = member.stays or member.version != members[key].version
                members[key] = members[key]._replace(stays=again)
            elif not keys.stays_loose(key):
                members[key] = Packing(key, member.version, self.old.data_of(key), member.stays)
        return [members[key] for key in sorted(members)]


class Compactor:
    """Packs runs of one store."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._backend = chunks.backend

    def compact(self, run_id: str, remove: Removal) -> Compaction:
        """See `ChunkedRunLogStore.compact`. Raises `ObjectNotFoundError` where the run is gone."""
        if remove not in get_args(Removal):
            raise InvalidInputError(
                f"remove is {remove!r}; it must be one of {', '.join(get_args(Removal))}", name="remove"
            )
        pauses = self._chunks.pauses(keys.pack(run_id))
        while True:
            next(pauses)
            header = self._chunks.mark_packed(keys.header(run_id), _require_that_it_ended)
            found = self._look(run_id)
            if self._is_unsettled(found):
                continue
            made = self._made(header, found)
            if made is None:
                log.warning("run %r in %s is too large to be packed", run_id, self._backend.place)
                return self._report(run_id, found, found.old, [], too_large=True)
            if made.version or self._put(run_id, made, found.old_version):
                break
        self._require_that_it_stands(header, made)
        return self._report(run_id, found, made.pack, self._remove(found, made.pack, remove), size=made.size)

    def _look(self, run_id: str) -> _Found:
        """The pack first: what another packer removes after that is read again, as the pack cannot be written then."""
        found = _Found({entry.key: entry for entry in self._backend.list(keys.prefix_of_run(run_id))})
        key = keys.pack(run_id)
        if key in found.listed:
            entry = found.listed[key]
            if entry.size > packs.MAX_PACK_BYTES:
                raise packs.too_large_to_be_one(key, entry.size)
            pack = self._chunks.unpacker.at(run_id, entry.version)
            held = self._chunks.known.packs.get(run_id)
            found.old_version = entry.version if held is None else held.version
            found.old = pack if pack is not None and self._chunks.unpacker.stands(pack) else None
        self._read_loose(found)
        return found

    def _read_loose(self, found: _Found) -> None:
        chunks = sorted(entry for entry in found.listed.values() if keys.is_chunk(entry.key))
        if sum(entry.size for entry in chunks) > packs.MAX_PLAIN_BYTES:
            found.too_large = True
            return
        too_large = [entry for entry in chunks if entry.size > codec.MAX_OBJECT_BYTES]
        wanted = [entry.key for entry in chunks if entry.size <= codec.MAX_OBJECT_BYTES]
        taken, found.damaged, found.vanished = self._chunks.take_many(wanted)
        found.damaged += [codec.too_large_to_be_one(entry.key, entry.size) for entry in too_large]
        for stored, blob in taken:
            if not self._chunks.stands(stored):
                continue  # a deleted run of this id left it
            if stored.merged:
                found.made_anew.append(stored)
            found.loose[stored.key] = Packing(stored.key, blob.version, blob.data)

    def _is_unsettled(self, found: _Found) -> bool:
        """Whether the run has to be looked at once more: somebody removes chunks, or some had to be put together first."""
        for stored in found.made_anew:
            # Back to its place: readers who do not know of the pack see all of it then, too.
            self._chunks.change(Change(chunk_of(stored.chunk.envelope), lambda content: content, always=True))
            self._chunks.known.forget(stored.key)  # see `take_many`
        gone = [key for key in found.vanished if found.old is None or key not in found.old.members]
        return bool(found.made_anew or gone)

    def _made(self, header: Stored, found: _Found) -> _Made | None:
        """The new pack; the old one where that is as it should be; None where there is too much for one."""
        if found.too_large:
            return None
        members = found.members()
        if found.old is not None and _holds(found.old, members):
            return _Made(found.old, b"", found.old_version, found.listed[keys.pack(found.old.run)].size)
        envelope = header.chunk.envelope
        if sum(len(one.data) + len(one.key) + len(one.version) + 20 for one in members) > packs.MAX_PLAIN_BYTES:
            return None
        data = packs.encode(envelope.run, envelope.created_at, secrets.token_hex(8), members)
        if len(data) > packs.MAX_PACK_BYTES:
            return None
        # As readers will: nothing is removed for a pack that could not be read.
        return _Made(packs.decode(data, keys.pack(envelope.run)), data, "", len(data))

    def _put(self, run_id: str, made: _Made, old_version: str) -> bool:
        """Writes the pack; False where somebody else wrote one meanwhile, or nobody can reach the place just now."""
        key = keys.pack(run_id)
        condition = unchanged(old_version) if old_version else CREATE
        try:
            # With a barrier: what is removed afterwards may have been promised to survive power loss.
            made.version = self._backend.put(key, made.data, condition, barrier=True)
        except (ConflictError, BackendUnavailableError) as error:
            if isinstance(error, BackendUnavailableError) and not (
                error.transient or isinstance(error, WriteStateUnknownError)
            ):
                raise
            made.version = self._version_if_ours(run_id, made.pack)
            if not made.version:
                return False
        self._chunks.known.packs.put(run_id, HeldPack(made.pack, made.version))
        return True

    def _version_if_ours(self, run_id: str, pack: Pack) -> str:
        """The version of the pack that stands there, where it is this one: the reply to its put may have been lost."""
        there = self._chunks.unpacker.fetch(run_id)
        held = self._chunks.known.packs.get(run_id)
        return held.version if there is not None and held is not None and there.token == pack.token else ""

    def _require_that_it_stands(self, header: Stored, made: _Made) -> None:
        """Takes the pack away again where the run was deleted meanwhile: whoever deleted it may have listed it before."""
        envelope = header.chunk.envelope
        try:
            now = self._chunks.read(keys.header(envelope.run))
        except ObjectNotFoundError:
            self._take_back(envelope.run, made)
            raise
        except FormatError:
            return  # damaged since; nobody can say
        if now.chunk.envelope.deleted or now.chunk.envelope.created_at != envelope.created_at:
            self._take_back(envelope.run, made)
            raise ObjectNotFoundError(f"{now.key} was deleted from {self._backend.place} meanwhile", key=now.key)

    def _take_back(self, run_id: str, made: _Made) -> None:
        try:
            self._chunks.delete_unchanged([(keys.pack(run_id), made.version)])
        except (BackendUnavailableError, NotSupportedError) as error:
            log.warning("the pack of run %r, which was deleted meanwhile, is left over: %s", run_id, error)
        self._chunks.known.packs.forget(run_id)

    def _remove(self, found: _Found, pack: Pack, remove: Removal) -> list[str]:
        """Removes what stands in the pack as it stands loose. Returns the keys of what was removed."""
        loose = [key for key in found.loose if not keys.stays_loose(key)]
        if remove == "never" or not loose:
            return []
        if not self._backend.guarantees.conditional_delete:
            if remove == "always":
                self._chunks.delete_many(loose)
                return loose
            return []
        wanted = [key for key in loose if remove == "always" or not pack.members[key].stays]
        kept = set(self._chunks.delete_unchanged((key, pack.members[key].version) for key in wanted))
        return [key for key in wanted if key not in kept]

    def _report(
        self,
        run_id: str,
        found: _Found,
        pack: Pack | None,
        removed: list[str],
        *,
        size: int = 0,
        too_large: bool = False,
    ) -> Compaction:
        loose = [key for key in found.listed if keys.is_chunk(key) and not keys.stays_loose(key)]
        was = found.listed[keys.pack(run_id)].size if keys.pack(run_id) in found.listed else 0
        saved = sum(found.listed[key].size for key in removed)
        return Compaction(
            run_id=run_id,
            packed=0 if pack is None else len(pack.members),
            removed=len(removed),
            kept=len(set(loose) - set(removed) - set(found.vanished)),
            damaged=tuple(Finding("damaged", error.key, str(error)) for error in found.damaged),
            bytes_before=found.bytes,
            bytes_after=found.bytes - saved + (size - was if size else 0),
            too_large=too_large,
        )


@dataclass(slots=True)
class _Made:
    """A pack, its bytes, and its version once it is written."""

    pack: Pack
    data: bytes
    version: str
    size: int


def _require_that_it_ended(header: Stored) -> None:
    envelope = header.chunk.envelope
    if envelope.deleted:
        raise ObjectNotFoundError(f"{header.key} is being deleted", key=header.key)
    if not has_ended(header):
        raise InvalidInputError(
            f"run {envelope.run!r} has not ended, and only a run that has is packed; set a terminal status first",
            run_id=envelope.run,
        )


def _holds(pack: Pack, members: Iterable[Packing]) -> bool:
    """Whether the pack holds just these, as they are."""
    members = list(members)
    held = ((one.version, one.stays) for one in (pack.members.get(member.key) for member in members) if one is not None)
    return len(pack.members) == len(members) and list(held) == [(one.version, one.stays) for one in members]
