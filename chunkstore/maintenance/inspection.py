"""One look at a run: what is wrong in it as it stands at this moment. Writers at work may make it look wrong; whoever asks looks twice."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import Final

from pydantic import BaseModel

from chunkstore import assembly, codec, keys, packs
from chunkstore.backends import Blob, Entry
from chunkstore.codec import Chunk
from chunkstore.errors import FormatError, NewerFormatError
from chunkstore.index import row_of
from chunkstore.keys import Kind as ChunkKind
from chunkstore.known import Stored
from chunkstore.maintenance.findings import Finding, Kind, finding
from chunkstore.marks import State, mark_of
from chunkstore.models import TERMINAL
from chunkstore.packs import Pack
from chunkstore.schema import Schema

_RESTORE: Final = "restore it from a backup, or let repair move it into the quarantine, where its bytes are kept, and go on without it"
_UPGRADE: Final = "upgrade chunkstore here, with its extra: pip install -U 'chunkstore[fast]'"
_UNFINISHED: Final[Mapping[State, Kind]] = {
    "deleted": Kind.DELETION_UNFINISHED,
    "copying": Kind.COPY_UNFINISHED,
    "moving": Kind.MOVE_UNFINISHED,
    "emptied": Kind.MOVE_UNFINISHED,
    "restoring": Kind.RESTORE_UNFINISHED,
}
_LEFT_OVER: Final = "belongs to a deleted run of the same id, and is in no run log"


@dataclass(slots=True)
class _Node:
    """A step, branch or run, with as much of it as tells where it belongs."""

    name: str = ""
    internal_name: str = ""
    steps: MutableMapping[str, assembly.Step] = field(default_factory=dict)
    branches: MutableMapping[str, assembly.Branch] = field(default_factory=dict)
    parameters: MutableMapping[str, object] = field(default_factory=dict)


class _Nodes:
    """Stand where a chunk is missing."""

    def step(self, name: str, internal_name: str) -> assembly.Step:
        return _Node(name, internal_name)

    def branch(self, internal_name: str) -> assembly.Branch:
        return _Node(internal_name=internal_name)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a whole chunk belongs, without its body."""

    kind: str
    name: str
    scope: str
    founded: str
    version: str
    size: int
    digest: bytes
    """Of the object's bytes; empty where nothing is to be compared."""
    said: str = ""
    """The last name that a step's body says."""


class Look:
    """One look at one folder: it is given the listing and the objects, and then says what is wrong."""

    def __init__(self, folder: str, schema: Schema, listed: Iterable[Entry]) -> None:
        self.folder = folder
        self.run_id = keys.run_id_of(folder) or ""
        self.listed = {entry.key: entry for entry in listed}  # a name that is being replaced may come twice
        self.wanted: list[str] = []
        """The keys of the objects to read, the pack first."""
        self.chunks = 0
        self.bytes = sum(entry.size for entry in self.listed.values())
        self.header: Stored | None = None
        self._schema = schema
        self._found: list[Finding] = []
        self._places: dict[str, _Place] = {}
        self._pack: Pack | None = None
        self._packed: dict[str, _Place] = {}
        self._bad: set[str] = set()
        self._sort()

    def _sort(self) -> None:
        """Sorts what is listed by its name: the pack, chunks, and what is not ours."""
        self._pack_key = f"{self.folder}/{keys.PACK}"
        if not self.run_id:
            return  # one finding for all of it
        for key, entry in self.listed.items():
            if key == self._pack_key:
                too_large = entry.size > packs.MAX_PACK_BYTES
            elif keys.is_chunk(key):
                too_large = entry.size > codec.MAX_OBJECT_BYTES
            else:
                self._say(
                    Kind.FOREIGN,
                    key,
                    "is not ours: no chunk has such a name",
                    "move it away, or leave it: nobody reads it",
                )
                continue
            if too_large:
                self._bad.add(key)
                what = f"has {entry.size:,} bytes; nothing of ours is as large"
                self._say(Kind.DAMAGED, key, what, "move it away by hand: it is too large for the quarantine")
            else:
                self.wanted.append(key)
        self.wanted.sort(key=lambda key: key != self._pack_key)

    @property
    def is_gone(self) -> bool:
        """Whether there is nothing of such a run, as far as the place says."""
        return not self.listed and not self._bad

    def take(self, key: str, blob: Blob) -> None:
        """One of the wanted objects."""
        if key == self._pack_key:
            self._take_pack(key, blob)
            return
        self.chunks += 1
        chunk = self._decoded(key, blob.data, blob.version)
        if chunk is None:
            return
        place = self._place(key, chunk, blob)
        if place is not None:
            self._places[key] = place
        if chunk.envelope.kind == ChunkKind.HEADER:
            self.header = Stored(key, chunk, blob.version)

    def refused(self, key: str, error: Exception) -> None:
        """One of the wanted objects, or the folder itself, that the place does not hand out."""
        self._bad.add(key)
        self._say(Kind.UNREADABLE, key, f"cannot be read: {error}", "see to it that it can be read, then verify again")

    def findings(self) -> list[Finding]:
        """What is wrong, once all objects were given."""
        self._judge_folder()
        if self.header is None:
            self._judge_headerless()
        elif self.header.chunk.envelope.deleted:
            about = (self._judge_mark_of_deletion(self.header), Kind.FOREIGN)  # what is half there need not be whole
            return [one for one in self._found if one.kind in about]
        else:
            self._judge_pack(self.header)
            self._judge_left_overs(self.header)
            self._judge_orphans(self.header)
        self._judge_case()
        return self._found

    # Each object by itself

    def _decoded(self, key: str, data: bytes, version: str, inside: str = "") -> Chunk | None:
        """The chunk; None where the bytes are none, or another's, which is said."""
        try:
            chunk = codec.decode(data, key)
        except NewerFormatError as error:
            self._bad.add(key)
            self._say(Kind.NEWER, key, _fact(str(error), key), _UPGRADE, version=version)
            return None
        except FormatError as error:
            self._bad.add(key)
            self._say_damaged(key, str(error), version, inside)
            return None
        wrong = _misplaced(key, chunk)
        if wrong is not None:
            self._bad.add(key)
            kind, what, advice = wrong
            if inside:
                kind, what = Kind.PACK_DISAGREES, f"lists {key}, which {what}"
            self._say(kind, inside or key, what, advice, version=version)
            return None
        return chunk

    def _say_damaged(self, key: str, what: str, version: str, inside: str) -> None:
        if inside:
            self._say(Kind.PACK_DISAGREES, inside, f"holds a chunk that is none: {what}", _RESTORE, version=version)
        else:
            self._say(Kind.DAMAGED, key, _fact(what, key), self._advice(key), version=version)

    def _advice(self, key: str) -> str:
        if key.endswith(f"/{ChunkKind.HEADER.value}{keys.SUFFIX}"):
            return "restore it from a backup: without its header nobody finds the rest of the run, so repair leaves it where it is"
        return _RESTORE

    def _place(self, key: str, chunk: Chunk, blob: Blob) -> _Place | None:
        """Where a chunk belongs; None where its body does not fit the model, which is said."""
        envelope = chunk.envelope
        said = ""
        try:
            if envelope.kind == ChunkKind.PARAMETER:
                self._schema.read_parameter(chunk.content, key)
            else:
                said = _own_name(self._schema.read(ChunkKind(envelope.kind), chunk.content, key), envelope.name, key)
        except FormatError as error:
            self._say(
                Kind.MISFIT,
                key,
                _fact(str(error), key),
                "read it with the client that wrote it, or restore it",
                version=blob.version,
            )
        digest = hashlib.blake2b(blob.data, digest_size=16).digest() if self._pack_key in self.listed else b""
        founded = envelope.founded
        return _Place(envelope.kind, envelope.name, envelope.scope, founded, blob.version, len(blob.data), digest, said)

    def _take_pack(self, key: str, blob: Blob) -> None:
        try:
            pack = packs.decode(blob.data, key)
        except NewerFormatError as error:
            self._bad.add(key)
            self._say(Kind.NEWER, key, _fact(str(error), key), _UPGRADE, version=blob.version)
            return
        except FormatError as error:
            self._bad.add(key)
            self._say(Kind.DAMAGED, key, _fact(str(error), key), _RESTORE, version=blob.version)
            return
        if pack.run != self.run_id:
            self._bad.add(key)
            self._say(
                Kind.MISPLACED,
                key,
                f"is the pack of run {pack.run!r}; somebody moved it",
                "move it back",
                version=blob.version,
            )
            return
        self._pack = pack
        for member in pack.members.values():
            self._take_member(member.key, pack, blob.version)

    def _take_member(self, key: str, pack: Pack, version: str) -> None:
        self.chunks += 1
        if not keys.is_chunk(key):
            self._say(
                Kind.PACK_DISAGREES, self._pack_key, f"lists {key}, which is no chunk's name", _RESTORE, version=version
            )
            return
        data = pack.data_of(key)
        chunk = self._decoded(key, data, version, inside=self._pack_key)
        if chunk is not None:
            place = self._place(key, chunk, Blob(data, pack.members[key].version))
            if place is not None:
                self._packed[key] = place

    # The run as a whole

    def _judge_folder(self) -> None:
        if not self.run_id:
            what = "is no folder of ours: no run id is written like this"
            self._say(Kind.FOREIGN, f"{self.folder}/", what, "move it away, or leave it: nobody reads it")

    def _judge_headerless(self) -> None:
        key = f"{self.folder}/{ChunkKind.HEADER.value}{keys.SUFFIX}"
        ours = [one for one in self.listed if one == self._pack_key or keys.is_chunk(one)]
        if key in self._bad or not ours:
            return  # said already; or nothing of a run is here
        what = f"is missing, and {len(ours)} objects of the run are there"
        self._say(Kind.HEADERLESS, key, what, "restore it from a backup, or delete what is left: delete_run_log")

    def _judge_mark_of_deletion(self, header: Stored) -> Kind:
        """Says why there is no run, and returns of which kind that is."""
        try:
            mark = mark_of(header.chunk)
        except FormatError:
            return Kind.MISFIT  # said already; nobody can know whose work it is
        kind = _UNFINISHED[mark.state]
        if kind is Kind.DELETION_UNFINISHED:
            what = f"says that the run is deleted, and {len(self.listed)} objects of it are still there; nobody is at it just now"
            advice = "let repair finish it, or delete the run again"
        else:
            by_name = f", as {mark.name}" if mark.state != "copying" else ""
            beside = f"{len(self.listed) - 1} objects beside it, and between two looks that did not change"
            what = f"says that the run {mark.what}{by_name}: {beside}"
            advice = f"let repair finish it; or {mark.next_step}" if kind is Kind.MOVE_UNFINISHED else mark.next_step
        self._say(kind, header.key, what, advice, version=header.version)
        return kind

    def _judge_pack(self, header: Stored) -> None:
        envelope = header.chunk.envelope
        if self._pack_key in self._bad:
            return
        if self._pack is None:
            if envelope.packed:
                self._judge_mark(header)
            return
        entry = self.listed[self._pack_key]
        if self._pack.founded != envelope.created_at:
            self._say(
                Kind.LEFT_OVER,
                self._pack_key,
                _LEFT_OVER,
                "let repair move it into the quarantine",
                version=entry.version,
            )
            self._packed.clear()
            self._pack = None
            return
        if not envelope.packed:
            what = "does not say that the run is packed, and it is: who asks for one step does not look into the pack"
            self._say(
                Kind.PACK_DISAGREES, header.key, what, "pack the run again: chunkstore compact", version=header.version
            )
        self._judge_members(self._pack, entry)

    def _judge_mark(self, header: Stored) -> None:
        loose = any(not keys.stays_loose(key) for key in self._places)
        if loose:
            what = "is marked to be packed, and has no pack: packing was cut short, or somebody is at it just now. Nothing is lost"
            self._say(
                Kind.PACKING_UNFINISHED,
                header.key,
                what,
                "pack the run again: chunkstore compact",
                version=header.version,
            )
        elif self._has_ended(header):
            self._bad.add(self._pack_key)
            what = "is missing: the header says that the run is packed, and no step stands beside it"
            self._say(
                Kind.PACK_LOST,
                self._pack_key,
                what,
                "restore it from a backup or the quarantine; or, if the run had no steps, pack it again",
            )

    def _judge_members(self, pack: Pack, entry: Entry) -> None:
        """A chunk that still stands loose in the version that the manifest names has the packed bytes."""
        for key, place in self._places.items():
            member = pack.members.get(key)
            if member is None or member.version != place.version or not place.version:
                continue
            if hashlib.blake2b(pack.data_of(key), digest_size=16).digest() != place.digest:
                what = f"says that it holds version {place.version} of {key}, and holds something else"
                self._say(Kind.PACK_DISAGREES, self._pack_key, what, _RESTORE, version=entry.version)

    def _judge_left_overs(self, header: Stored) -> None:
        at = header.chunk.envelope.created_at
        for key, place in list(self._places.items()):
            if place.founded and place.founded != at:
                del self._places[key]
                self._say(
                    Kind.LEFT_OVER,
                    key,
                    _LEFT_OVER,
                    "let repair move it into the quarantine",
                    version=place.version,
                    size=place.size,
                )

    def _judge_orphans(self, header: Stored) -> None:
        if self._pack_key in self._bad:
            return  # which holds the parents, as far as anybody knows
        parts = self._parts()
        names = assembly.possible_parents(parts) if self._bad else set()
        parts.damaged_steps = {name for name in names if keys.key_of(keys.step(self.run_id, name)) in self._bad}
        parts.damaged_branches = {name for name in names if keys.key_of(keys.branch(self.run_id, name)) in self._bad}
        ended = self._has_ended(header)
        made = assembly.assemble(_Node(), parts, _Nodes())
        damaged = parts.damaged_steps | parts.damaged_branches
        for name in made:
            if name in damaged:
                continue
            what = f"is missing: {name!r} is not stored, and others are below it"
            advice = "restore it from a backup; what is below it is kept, and shown below a placeholder"
            if not ended:
                advice = f"wait for the run to end: its parent may still come. Otherwise {advice}"
            key = keys.key_of((keys.branch if name in parts.branches else keys.step)(self.run_id, name))
            self._say(Kind.ORPHAN, key, what, advice, severity=None if ended else "warning")

    def _parts(self) -> assembly.Parts:
        parts = assembly.Parts()
        for place in (
            {key: one for key, one in self._packed.items() if not keys.stays_loose(key)} | self._places
        ).values():
            if place.kind == ChunkKind.STEP:
                parts.steps[place.name] = _Node(place.said or place.name, place.name)
            elif place.kind == ChunkKind.BRANCH:
                parts.branches[place.name] = _Node(internal_name=place.name)
            elif place.kind == ChunkKind.PARAMETER:
                parts.parameters.append((place.scope, place.name, None))
        return parts

    def _has_ended(self, header: Stored) -> bool:
        try:
            return row_of(header).status in TERMINAL
        except FormatError:
            return False

    def _judge_case(self) -> None:
        alike: defaultdict[str, list[str]] = defaultdict(list)
        for key in self.listed:
            if not key.islower():
                alike[key.casefold()].append(key)
        for key in self.listed:
            if key in alike:
                alike[key].append(key)
        for several in alike.values():
            if len(several) > 1:
                first, *others = sorted(several)
                what = f"differs from {', '.join(others)} only in upper and lower case"
                self._say(
                    Kind.CASE,
                    first,
                    what,
                    "do not copy the run to a disk of a Mac or Windows; give them other names next time",
                )

    def _say(self, kind: Kind, key: str, what: str, advice: str, **more: object) -> None:
        entry = self.listed.get(key)
        facts = {"size": 0 if entry is None else entry.size, **more}
        self._found.append(finding(kind, key, what, advice, run_id=self.run_id, **facts))  # type: ignore[arg-type]


def _fact(message: str, key: str) -> str:
    """What an error says of its key, without the key and without its advice: those have places of their own."""
    return message.removeprefix(f"{key} ").partition("; ")[0].partition(": restore")[0]


def _misplaced(key: str, chunk: Chunk) -> tuple[Kind, str, str] | None:
    """What is wrong with a chunk under this key; None where it belongs there."""
    envelope = chunk.envelope
    advice = "move it back, or let repair move it into the quarantine"
    if not keys.is_kind(envelope.kind):
        return Kind.MISPLACED, f"names a chunk that cannot be: there is no kind {envelope.kind!r}", advice
    try:
        actual = keys.made_of(envelope.run, envelope.kind, envelope.name, envelope.scope)
    except ValueError as error:
        return Kind.MISPLACED, f"names a chunk that cannot be: {error}", advice
    if actual.casefold() == key.casefold() != actual != key:
        return Kind.CASE, f"is {actual} in another case", "give one of the two another name next time"
    if actual != key:
        return Kind.MISPLACED, f"holds the chunk that belongs to {actual}; somebody moved it", advice
    if (envelope.deleted or envelope.packed) and envelope.kind != ChunkKind.HEADER:
        return Kind.MISPLACED, "says that its run is deleted, or packed; only a header says that", advice
    return None


def _own_name(model: BaseModel, name: str, key: str) -> str:
    """The last name that a step's body says. Raises `FormatError` where the body is another step's."""
    internal = getattr(model, "internal_name", None)
    if internal is not None and internal != name:
        raise FormatError(f"{key} says inside that it is {internal!r}", key=key)
    return str(getattr(model, "name", ""))


def windows(found: Iterable[Entry], most: int, most_bytes: int) -> Iterator[list[str]]:
    """The keys of objects, so many and so large at once as fit into memory."""
    some: list[str] = []
    size = 0
    for entry in found:
        if some and (len(some) >= most or size + entry.size > most_bytes):
            yield some
            some, size = [], 0
        some.append(entry.key)
        size += entry.size
    if some:
        yield some
