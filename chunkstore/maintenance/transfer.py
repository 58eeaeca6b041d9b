"""Whole runs as the objects that they are: read at one moment from one store, put whole or not at all into another.

A copy that is under way must not be taken for a run. So the first object that is put is the header with a *claim*: marked as deleted,
so that everybody finds no run there and nobody can found one, with a fingerprint of all that is to come. Only when
everything else stands there as it should does the true header replace the claim, on the condition that nobody touched that. A copy that is
cut short is to readers a run that is not there; `delete_run_log` takes it away, and nobody who tidies up does. Whoever copies the same
contents finds the claim to be the one that he would have put, and goes on.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple

from chunkstore import codec, keys, packs, waiting
from chunkstore.backends import CREATE, FOUND, Backend, Blob, Condition, Entry, unchanged
from chunkstore.chunks import Timing
from chunkstore.codec import Chunk, Envelope
from chunkstore.errors import (
    BackendUnavailableError,
    ConflictError,
    FormatError,
    ObjectNotFoundError,
    RunLogNotFoundError,
    WriteStateUnknownError,
)
from chunkstore.known import Stored
from chunkstore.marks import Mark, claim_of, mark_of
from chunkstore.reading import has_ended

LOOKS: Final = 10
"""How often a run is looked at again, until it stands still for one look."""

_BATCH_KEYS: Final = 1_000
_BATCH_BYTES: Final = 16 << 20
"""Of the objects that are asked for or sent at once; one that is larger goes alone."""
_GOING: Final = "is being deleted there; copy it once more when that is done"
_PAUSES: Final = (0.005, 0.02, 0.08, 0.3)


class Part(NamedTuple):
    """One object of a run: its size, the digest of its bytes, and the version that it has where it was read."""

    size: int
    digest: bytes
    version: str = ""


@dataclass(frozen=True, slots=True)
class Cut:
    """A run as all of its objects stood at one moment; each was decoded, and is whole."""

    run_id: str
    header: Chunk
    header_data: bytes
    parts: Mapping[str, Part]
    """All objects, the header's too, by key."""
    meaning: bytes
    """The same for two cuts that say the same: compressed or not, packed or loose, and whoever wrote them."""
    held: Mapping[str, bytes]
    """The bytes of those objects that there was room for."""
    foreign: int = 0
    """Files in the run's folder that are none of ours."""

    @property
    def header_key(self) -> str:
        """The key of the header."""
        return keys.key_of(keys.header(self.run_id))

    @property
    def has_ended(self) -> bool:
        """Whether the run's status is a terminal one. Raises `FormatError` where the header holds no run."""
        return has_ended(Stored(self.header_key, self.header, ""))

    @property
    def fingerprint(self) -> str:
        """Of all keys and bytes."""
        return _digest(*(part for key, one in sorted(self.parts.items()) for part in (key.encode(), one.digest))).hex()

    def claim(self) -> bytes:
        """What stands in the header's place until all else is there; no two are alike, or their versions might be.

        A copy whose claim was deleted must not end with another one's.
        """
        envelope = self.header.envelope
        claimed = Envelope(envelope.run, envelope.kind, "", "", envelope.created_at, deleted=True)
        return codec.encode(Chunk(claimed, claim_of(self.fingerprint)))


# Reading.


def cut_of(backend: Backend, run_id: str, *, room: int, looks: int = LOOKS) -> Cut:
    """The run as it stands; bytes are held as far as there is room.

    Two listings, and one request for each object, where nobody writes. With `looks=1` one listing, and what is read is not known to have
    stood there at one moment. Raises `RunLogNotFoundError`, also where it is being deleted or copied; `FormatError` that
    names what is damaged; `ConflictError` where others did not stop writing.
    """
    looking = _Looking(backend, run_id, room)
    for number in range(looks):
        still = not looking.look()
        if looks == 1 or (number and still and not looking.may_be_half_there):
            break
        if looking.may_be_half_there:
            waiting.sleep(_PAUSES[min(number, len(_PAUSES) - 1)])
    else:
        if not looking.damaged:
            raise ConflictError(
                f"run {run_id!r} in {backend.place} changed during each of {looks} looks at it; copy it when its writers rest",
                run_id=run_id,
            )
    return looking.found()


class _Meaning(NamedTuple):
    """What a chunk says, and to which run of its id it belongs."""

    founded: str
    digest: bytes


class _Looking:
    """What one reader has seen of a run so far."""

    def __init__(self, backend: Backend, run_id: str, room: int) -> None:
        self._backend = backend
        self._run_id = run_id
        self._room = room
        self._header: tuple[Chunk, bytes] | None = None
        self._parts: dict[str, Part] = {}
        self._held: dict[str, bytes] = {}
        self._loose: dict[str, _Meaning] = {}
        self._packed: dict[str, _Meaning] = {}
        self._foreign = 0
        self.damaged: dict[str, FormatError] = {}

    @property
    def may_be_half_there(self) -> bool:
        """Whether what looks damaged may be an object that is just being replaced."""
        try:
            return bool(self.damaged) and not self._backend.guarantees.atomic
        except BackendUnavailableError:  # only who may write can ask
            return False

    def look(self) -> bool:
        """Looks at the run once more; whether anything was not as it had been."""
        listed = {entry.key: entry for entry in self._backend.list(keys.prefix_of_run(self._run_id))}
        ours = {key: entry for key, entry in listed.items() if is_ours(key)}
        self._foreign = len(listed) - len(ours)
        gone = [key for key in (*self._parts, *self.damaged) if key not in ours]
        for key in gone:
            self._forget(key)
        wanted = [entry for entry in ours.values() if not self._has(entry)]
        changed = bool(gone)
        for some in batches((entry.key, entry.size) for entry in wanted):
            missing = set(some)
            for key, blob in self._backend.get_many(some):
                missing.discard(key)
                changed = self._take(key, blob) or changed
            for key in missing:
                self._forget(key)
            changed = changed or bool(missing)
        return changed

    def found(self) -> Cut:
        """All that was seen. Raises `FormatError`, `RunLogNotFoundError`."""
        place = self._backend.place
        if self.damaged:
            told = "; ".join(str(error) for error in list(self.damaged.values())[:5])
            raise FormatError(
                f"run {self._run_id!r} in {place} has {len(self.damaged)} damaged chunks: {told}",
                run_id=self._run_id,
                key=next(iter(self.damaged)),
            )
        if self._header is None or self._header[0].envelope.deleted:
            also = f": it {_mark(self._header[0]).what}" if self._header is not None else ""
            raise RunLogNotFoundError(f"run {self._run_id!r} is not in {place}{also}", run_id=self._run_id)
        header, data = self._header
        return Cut(self._run_id, header, data, self._parts, self._meaning(header), self._held, self._foreign)

    def _has(self, entry: Entry) -> bool:
        known = self._parts.get(entry.key)
        return known is not None and bool(entry.version) and known.version == entry.version

    def _take(self, key: str, blob: Blob) -> bool:
        """Decodes an object and remembers what it says; whether it is another than the one known."""
        before = self._parts.get(key)
        try:
            self._read(key, blob.data)
        except FormatError as error:
            is_new = key not in self.damaged
            self._forget(key)
            self.damaged[key] = error
            return is_new
        was_damaged = self.damaged.pop(key, None) is not None
        self._drop(key)
        self._parts[key] = Part(len(blob.data), _digest(blob.data), blob.version)
        if len(blob.data) <= self._room:
            self._held[key] = blob.data
            self._room -= len(blob.data)
        return was_damaged or before != self._parts[key]

    def _read(self, key: str, data: bytes) -> None:
        if key == keys.pack(self._run_id):
            self._packed = dict(_meanings_in_pack(packs.decode(data, key), self._run_id))
            return
        chunk = checked(key, data)
        self._loose[key] = _meaning_of(chunk)
        if chunk.envelope.kind == keys.Kind.HEADER:
            self._header = (chunk, data)

    def _forget(self, key: str) -> None:
        self._drop(key)
        self._parts.pop(key, None)
        self.damaged.pop(key, None)
        self._loose.pop(key, None)
        if key == keys.pack(self._run_id):
            self._packed = {}
        if key == keys.key_of(keys.header(self._run_id)):
            self._header = None

    def _drop(self, key: str) -> None:
        data = self._held.pop(key, None)
        if data is not None:
            self._room += len(data)

    def _meaning(self, header: Chunk) -> bytes:
        """Of what readers see: a loose chunk hides the packed one, and what belongs to a deleted run of the id is not there."""
        founded = header.envelope.created_at
        seen = {key: one.digest for key, one in self._packed.items() if one.founded == founded}
        seen |= {key: one.digest for key, one in self._loose.items() if one.founded in ("", founded)}
        return _digest(*(part for key, digest in sorted(seen.items()) for part in (key.encode(), digest)))


def _mark(header: Chunk) -> Mark:
    try:
        return mark_of(header)
    except FormatError:
        return Mark("deleted")


def is_as_it_was(cut: Cut, key: str, data: bytes) -> bool:
    """Whether these are the bytes that the object had when the run was cut."""
    return _digest(data) == cut.parts[key].digest


def is_ours(key: str) -> bool:
    """Whether a key in a run's folder is that of a chunk or of the run's pack."""
    return keys.is_chunk(key) or key.rpartition("/")[2] == keys.PACK


def checked(key: str, data: bytes) -> Chunk:
    """The chunk in these bytes. Raises `FormatError` where it is damaged, or another key's."""
    if len(data) > codec.MAX_OBJECT_BYTES:
        raise codec.too_large_to_be_one(key, len(data))
    chunk = codec.decode(data, key)
    run, kind, name, scope, *_ = chunk.envelope
    try:
        actual = keys.made_of(run, kind, name, scope) if keys.is_kind(kind) else ""
    except ValueError as error:
        raise FormatError(f"{key} names a chunk that cannot be: {error}", key=key) from error
    if actual != key:
        raise FormatError(f"{key} holds the chunk that belongs to {actual or kind}; move it back", key=key)
    return chunk


def _meanings_in_pack(pack: packs.Pack, run_id: str) -> Iterator[tuple[str, _Meaning]]:
    """What a pack adds to a run. Every chunk in it is decoded."""
    key = keys.pack(run_id)
    if pack.run != run_id:
        raise FormatError(f"{key} holds the pack of run {pack.run!r}; move it back", key=key)
    for member in pack.members:
        meaning = _meaning_of(checked(member, pack.data_of(member)))
        if not keys.stays_loose(member):
            yield member, meaning._replace(founded=pack.founded)


def _meaning_of(chunk: Chunk) -> _Meaning:
    envelope, content = chunk
    exact = "\n".join(f"{pointer} {value}" for pointer, value in sorted(content.exact.items()))
    founded = envelope.created_at if envelope.kind == keys.Kind.HEADER else envelope.founded
    return _Meaning(founded, _digest(envelope.created_at.encode(), exact.encode(), content.body))


def batches(sized: Iterable[tuple[str, int]]) -> Iterator[list[str]]:
    """Keys in groups that are not too many and not too large; one that is too large alone stands alone."""
    some: list[str] = []
    total = 0
    for key, size in sized:
        if some and (len(some) == _BATCH_KEYS or total + size > _BATCH_BYTES):
            yield some
            some, total = [], 0
        some.append(key)
        total += size
    if some:
        yield some


def _digest(*parts: bytes) -> bytes:
    found = hashlib.blake2b(digest_size=16)
    for part in parts:
        found.update(len(part).to_bytes(8, "big"))
        found.update(part)
    return found.digest()


# Writing.


Fetch = Callable[[Sequence[str]], Iterator[tuple[str, bytes]]]
"""Brings objects of a run, in any order."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What stands at the target under a run's id, before anything is put there.

    `nothing`, perhaps a part of it; `unfinished`: a copy of these very contents; `same`: a whole run that says the same; `other`: anything
    else, with a message. `abandoned` says that it is an unfinished copy of other contents.
    """

    sort: Literal["nothing", "unfinished", "same", "other"]
    there: frozenset[str] = frozenset()
    """Keys of what stands there as it should."""
    wrong: Mapping[str, str] = field(default_factory=dict)
    """Versions of what an unfinished copy has and a power cut spoiled, by key."""
    claim: str = ""
    """The version of the claim."""
    message: str = ""
    abandoned: bool = False


def same_by_size(source: Backend, target: Backend, run_id: str) -> int:
    """How many objects the run has, where it stands in both with the same header and the same names and sizes; else 0.

    One listing of each, and one request for each header. What the other objects say is not looked at.
    """
    listed = [_sizes(backend, run_id) for backend in (source, target)]
    header = keys.key_of(keys.header(run_id))
    if listed[0] != listed[1] or header not in listed[0]:
        return 0
    try:
        ours, theirs = source.get(header).data, target.get(header).data
        return len(listed[0]) if ours == theirs and not checked(header, ours).envelope.deleted else 0
    except (ObjectNotFoundError, FormatError):
        return 0


def _sizes(backend: Backend, run_id: str) -> dict[str, int]:
    return {entry.key: entry.size for entry in backend.list(keys.prefix_of_run(run_id)) if is_ours(entry.key)}


def standing(backend: Backend, cut: Cut) -> Standing:
    """What stands at the target. Writes nothing.

    One listing where there is nothing. For an unfinished copy one request for each object that it has; for a whole run one for the header,
    one listing more and one request for each object.
    """
    listed = {entry.key: entry for entry in backend.list(keys.prefix_of_run(cut.run_id)) if is_ours(entry.key)}
    header = listed.pop(cut.header_key, None)
    if header is None:
        return _beside(backend, cut, listed, Standing("nothing"))
    try:
        blob = backend.get(cut.header_key)
    except ObjectNotFoundError:
        return _other(cut, backend, _GOING)
    try:
        return _under(backend, cut, listed, checked(cut.header_key, blob.data), blob.version)
    except FormatError as error:
        return _other(cut, backend, f"stands there with a damaged header: {error}")


def _under(backend: Backend, cut: Cut, listed: Mapping[str, Entry], header: Chunk, version: str) -> Standing:
    """What stands there under this header. Raises `FormatError` where nobody can say."""
    if not header.envelope.deleted:
        return _compared(backend, cut)
    mark = mark_of(header)
    if mark.state != "copying":
        return _other(cut, backend, f"{mark.what}; {mark.next_step}. Copy it once more when that is done")
    if mark.name != cut.fingerprint:
        return _abandoned(cut, backend, version)
    return _beside(backend, cut, listed, Standing("unfinished", claim=version))


def _beside(backend: Backend, cut: Cut, listed: Mapping[str, Entry], found: Standing) -> Standing:
    """With what stands there beside the header, or without one."""
    extra = sorted(key for key in listed if key not in cut.parts)
    there, wrong = set(), {}
    for some in batches((key, entry.size) for key, entry in listed.items() if key in cut.parts):
        for key, blob in backend.get_many(some):
            if is_as_it_was(cut, key, blob.data):
                there.add(key)
            elif found.sort == "unfinished" and _is_spoiled(key, blob.data):
                wrong[key] = blob.version
            else:
                extra.append(key)
    if extra:
        return _other(
            cut,
            backend,
            f"is no run there, but has other chunks ({', '.join(sorted(extra)[:3])}); delete_run_log there removes them, then copy "
            "it again",
        )
    return Standing(found.sort, frozenset(there), wrong, found.claim)


def _is_spoiled(key: str, data: bytes) -> bool:
    try:
        if key.endswith(keys.PACK):
            packs.decode(data, key)
        else:
            checked(key, data)
    except FormatError:
        return True
    return False


def _compared(backend: Backend, cut: Cut) -> Standing:
    try:
        theirs = cut_of(backend, cut.run_id, room=0, looks=1)
    except FormatError as error:
        return _other(cut, backend, f"exists there and is damaged: {error}")
    except RunLogNotFoundError:
        return _other(cut, backend, _GOING)
    if theirs.meaning == cut.meaning:
        return Standing("same")
    return _other(cut, backend, "exists there with other contents; nothing of it was changed")


def _abandoned(cut: Cut, backend: Backend, version: str) -> Standing:
    message = (
        f"run {cut.run_id!r} in {backend.place} is an unfinished copy of other contents than these: they changed since, or come from "
        "another store. Finish that copy, or where nobody is at it any more copy with restart"
    )
    return Standing("other", claim=version, message=message, abandoned=True)


def _other(cut: Cut, backend: Backend, what: str) -> Standing:
    return Standing("other", message=f"run {cut.run_id!r} in {backend.place} {what}")


@dataclass(frozen=True, slots=True)
class Placed:
    """What putting a run came to."""

    sent: int
    """Objects that were put, without the claim."""
    there: int
    """Objects that stood there already."""
    bytes: int
    """Of the objects that were sent."""


class Placer:
    """Puts whole runs into one backend; for any number of threads."""

    def __init__(self, backend: Backend, timing: Timing) -> None:
        self._backend = backend
        self._timing = timing
        many = backend.concurrency > 1
        self._workers = ThreadPoolExecutor(backend.concurrency, thread_name_prefix="placer") if many else None

    def close(self) -> None:
        """Lets the threads go."""
        if self._workers is not None:
            self._workers.shutdown(cancel_futures=True)

    def place(self, cut: Cut, found: Standing, fetch: Fetch) -> Placed:
        """Puts the run, of which `found` stands there. All other objects first, each read back, then the header.

        For n objects of which m are missing: m + 1 puts (one more where the copy begins), one listing, and n requests to read back.
        Raises `ConflictError` where somebody else put something there, or deleted it; what was put stays unseen.
        """
        claim = found.claim or self.put(cut.header_key, cut.claim(), FOUND, barrier=True)
        missing = [(key, part.size) for key, part in cut.parts.items() if key not in {cut.header_key, *found.there}]
        for some in batches(missing):
            self._put_all(some, found, fetch)
        self._require_that_all_stands(cut)
        self._put_header(cut, claim)
        sent = sum(size for _, size in missing) + len(cut.header_data)
        return Placed(len(missing) + 1, len(found.there), sent)

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        """Puts an object until it stands there, whoever put it; its version. Raises `ConflictError` where another one does."""
        timing = self._timing
        until, pause = timing.now() + timing.deadline / 2, timing.first_pause
        while True:
            try:
                return self._backend.put(key, data, condition, barrier=barrier)
            except ObjectNotFoundError as error:
                raise self._gone(key) from error
            except (ConflictError, BackendUnavailableError) as error:
                _require_that_it_may_have_landed(error)
                version = self._version_if_there(key, data, condition, error)
                if version:
                    return version
                if timing.now() >= until:
                    raise
            timing.sleep(pause * timing.random())
            pause = min(2 * pause, timing.longest_pause)

    def _version_if_there(self, key: str, data: bytes, condition: Condition, failure: Exception) -> str:
        """The version of just these bytes; empty where nothing changed, and the put can be tried again."""
        try:
            blob = self._backend.get(key)
        except ObjectNotFoundError as error:
            if condition.kind == "unchanged":
                raise self._gone(key) from error
            return ""
        except BackendUnavailableError as error:
            if error.transient:
                return ""
            raise failure from error
        if blob.data == data:
            return blob.version
        if condition.kind == "unchanged" and blob.version == condition.version:
            return ""
        raise ConflictError(f"somebody else put {key} into {self._backend.place} meanwhile; copy it once more", key=key)

    def _put_all(self, some: list[str], found: Standing, fetch: Fetch) -> None:
        def put(one: tuple[str, bytes]) -> str:
            key, data = one
            return self.put(key, data, unchanged(found.wrong[key]) if key in found.wrong else CREATE)

        items = list(fetch(some))
        if self._workers is None or len(items) < 2:
            for one in items:
                put(one)
        else:
            waiting.at_once(put, items, self._pool)

    def _pool(self) -> ThreadPoolExecutor:
        assert self._workers is not None
        return self._workers

    def _require_that_all_stands(self, cut: Cut) -> None:
        """Reads back what stands there now, but for the header, and compares."""
        listed = {entry.key for entry in self._backend.list(keys.prefix_of_run(cut.run_id)) if is_ours(entry.key)}
        if cut.header_key not in listed:
            raise self._gone(cut.header_key)
        wrong = set(cut.parts) ^ listed
        for some in batches((key, part.size) for key, part in cut.parts.items() if key != cut.header_key):
            there = {key: _digest(blob.data) for key, blob in self._backend.get_many(some)}
            wrong.update(key for key in some if there.get(key) != cut.parts[key].digest)
        if wrong:
            raise ConflictError(
                f"what stands of run {cut.run_id!r} in {self._backend.place} is not what was sent: {', '.join(sorted(wrong)[:3])}; "
                "somebody writes there meanwhile. Copy it once more",
                run_id=cut.run_id,
            )

    def _put_header(self, cut: Cut, claim: str) -> None:
        key, data = cut.header_key, cut.header_data
        self.put(key, data, unchanged(claim), barrier=True)
        try:
            stands = self._backend.get(key).data == data
        except ObjectNotFoundError as error:
            raise self._gone(key) from error
        if not stands:
            raise ConflictError(f"somebody changed {key} in {self._backend.place} meanwhile", key=key)

    def _gone(self, key: str) -> ConflictError:
        return ConflictError(
            f"the run of {key} was deleted from {self._backend.place} meanwhile; copy it once more", key=key
        )


def _require_that_it_may_have_landed(error: ConflictError | BackendUnavailableError) -> None:
    if isinstance(error, BackendUnavailableError) and not (
        error.transient or isinstance(error, WriteStateUnknownError)
    ):
        raise error
