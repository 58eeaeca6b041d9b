"""Where a repair puts what it takes away: the bytes as they were, and beside them what they were and when.

    .quarantine/9f86d081884c7d659a2feaa0c55ad015.bytes     the object's bytes, unchanged
    .quarantine/9f86d081884c7d659a2feaa0c55ad015.json      its key, version, size, digest, when and why

The name is the digest of key and bytes: whoever is killed on the way and begins anew puts the same object under the same name, and nothing
is ever overwritten. The facts come second, so where they are, the bytes are.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Final

import orjson

from chunkstore import keys
from chunkstore.backends import Backend
from chunkstore.chunks import Chunks
from chunkstore.clock import HybridClock
from chunkstore.errors import (
    BackendUnavailableError,
    ConflictError,
    FormatError,
    InvalidInputError,
    NotFoundError,
    ObjectNotFoundError,
)
from chunkstore.maintenance.findings import Finding
from chunkstore.store import ChunkedRunLogStore

PREFIX: Final = ".quarantine/"
FORMAT: Final = 1

_BYTES: Final = ".bytes"
_FACTS: Final = ".json"


@dataclass(frozen=True, slots=True)
class Quarantined:
    """One object that a repair took away."""

    id: str
    key: str
    """Where it stood."""
    run_id: str
    kind: str
    """The kind of the finding for which it was taken away."""
    what: str
    version: str
    size: int
    isolated_at: str
    digest: str = field(default="", compare=False)
    """Of the bytes; empty where it is not known."""

    @property
    def key_of_bytes(self) -> str:
        """Where the bytes stand now."""
        return f"{PREFIX}{self.id}{_BYTES}"


def quarantined(store: ChunkedRunLogStore, run_id: str = "") -> Iterator[Quarantined]:
    """What is in the quarantine, of one run or of all, in any order. One listing, and one request for each. Writes nothing.

    What was cut short before the original was taken away may be in it, too; the next repair finishes it.
    """
    return (one for one in _listed(store.backend) if run_id in ("", one.run_id))


def export_quarantined(store: ChunkedRunLogStore, folder: str | Path, ids: Iterable[str] | None = None) -> list[Path]:
    """Writes quarantined objects, all or those of these ids, as files of a local folder, byte for byte; returns their paths.

    `folder/run/object`, with the id behind it where a file of that name is there: nothing is overwritten, and what is there with the same bytes
    counts as written. Costs as `quarantined`, and one request for each. Raises `NotFoundError` for an id that is not there.
    """
    written = []
    for one in _wanted(store.backend, ids):
        data = _data(store.backend, one)
        folder_name, file = _path_of(one)
        inside = Path(folder) / folder_name
        inside.mkdir(parents=True, exist_ok=True)
        path = inside / file
        if not _write_new(path, data):
            path = inside / f"{file}.{one.id}"
            if not _write_new(path, data):
                raise InvalidInputError(
                    f"{path} is there already, with other bytes; choose another folder", name=one.id
                )
        written.append(path)
    return written


def discard_quarantined(store: ChunkedRunLogStore, ids: Iterable[str]) -> int:
    """Deletes quarantined objects for ever; returns how many. Costs as `quarantined`, and two requests for each.

    Raises `NotFoundError` for an id that is not there.
    """
    gone = 0
    for one in list(_wanted(store.backend, list(ids))):
        # The bytes first: without the facts nobody would find them any more.
        store.backend.delete(f"{PREFIX}{one.id}{_BYTES}")
        store.backend.delete(f"{PREFIX}{one.id}{_FACTS}")
        gone += 1
    return gone


def count_by_run(backend: Backend) -> dict[str, tuple[int, int]]:
    """How many objects, and bytes, of each run are in the quarantine. One listing, and one request for each."""
    found: dict[str, tuple[int, int]] = {}
    for one in _listed(backend):
        count, size = found.get(one.run_id, (0, 0))
        found[one.run_id] = (count + 1, size + one.size)
    return found


def damaged_in(backend: Backend) -> Iterator[tuple[Quarantined, str]]:
    """Those whose bytes are not there as they were, and what is wrong. One listing, and two requests for each."""
    for one in _listed(backend):
        try:
            data = backend.get(one.key_of_bytes).data
        except ObjectNotFoundError:
            try:
                backend.get(f"{PREFIX}{one.id}{_FACTS}")  # being discarded: the bytes go first
            except ObjectNotFoundError:
                continue
            yield one, f"is missing: somebody took away the bytes of {one.key}"
            continue
        if one.digest and _digest(data) != one.digest:
            yield one, f"is not what was isolated as {one.key}: its digest is another one"


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def isolate(chunks: Chunks, found: Finding, data: bytes, clock: HybridClock) -> str:
    """Puts a copy into the quarantine and reads it back; its id. Four requests. What is there already is kept, and compared.

    Raises `ConflictError` where something else stands under the name: then nothing may be taken away.
    """
    name = hashlib.blake2b(found.key.encode() + b"\0" + data, digest_size=16).hexdigest()
    _put_once(chunks, f"{PREFIX}{name}{_BYTES}", data)
    one = Quarantined(
        name, found.key, found.run_id, found.kind.value, found.what, found.version, len(data), clock.stamp()
    )
    facts = {**asdict(one), "format": FORMAT, "digest": _digest(data)}
    key = f"{PREFIX}{name}{_FACTS}"
    chunks.put_new(key, orjson.dumps(facts, option=orjson.OPT_INDENT_2) + b"\n")
    _read_facts(
        key, chunks.backend.get(key).data
    )  # those of an earlier try, where they are there: the time of the first stays
    return name


def _put_once(chunks: Chunks, key: str, data: bytes) -> None:
    chunks.put_new(key, data)
    if chunks.backend.get(key).data != data:  # half a copy, or somebody's file: the original must stay
        raise ConflictError(
            f"{key} in {chunks.backend.place} holds other bytes than were put there; look at it and move it away",
            key=key,
        )


def _listed(backend: Backend) -> Iterator[Quarantined]:
    found = [entry.key for entry in backend.list(PREFIX) if entry.key.endswith(_FACTS)]
    for key, blob in backend.get_many(found):
        yield _read_facts(key, blob.data)


def _read_facts(key: str, data: bytes) -> Quarantined:
    name = key.removeprefix(PREFIX).removesuffix(_FACTS)
    try:
        facts = orjson.loads(data)
        texts = [facts[field] for field in ("key", "run_id", "kind", "what", "version", "isolated_at")]
        size = facts["size"]
        digest = str(facts.get("digest", ""))
        whole = all(isinstance(text, str) for text in texts) and type(size) is int
    except (ValueError, KeyError, TypeError, AttributeError):
        texts, size, digest, whole = [""] * 6, 0, "", False
    if not whole:
        # The bytes stand beside it all the same.
        return Quarantined(
            name, key, "", "damaged", "the facts about it are damaged; its bytes stand beside them", "", 0, ""
        )
    original, run_id, kind, what, version, at = texts
    return Quarantined(name, original, run_id, kind, what, version, size, at, digest)


def _wanted(backend: Backend, ids: Iterable[str] | None) -> Iterator[Quarantined]:
    known = {one.id: one for one in _listed(backend)}
    for name in known if ids is None else dict.fromkeys(ids):
        if name not in known:
            raise NotFoundError(
                f"the quarantine of {backend.place} holds no {name!r}; list it to see what is there", name=name
            )
        yield known[name]


def _data(backend: Backend, one: Quarantined) -> bytes:
    key = one.key_of_bytes
    try:
        return backend.get(key).data
    except ObjectNotFoundError as error:
        raise FormatError(f"{key} is missing in {backend.place}: somebody took it away", key=key) from error


def _path_of(one: Quarantined) -> tuple[str, str]:
    """A folder and a file that never lead out of where they are put, whatever the facts say."""
    folder, _, file = one.key.partition("/")
    safe = keys.run_id_of(folder) is not None and (file == keys.PACK or keys.is_chunk(one.key))
    return (folder, file) if safe else ("other", one.id)


def _write_new(path: Path, data: bytes) -> bool:
    """Whether the file holds these bytes now; one with others stays."""
    try:
        with path.open("xb") as file:
            file.write(data)
    except FileExistsError:
        return path.is_file() and path.read_bytes() == data
    except OSError as error:
        raise BackendUnavailableError(
            f"cannot write {path}: {error.strerror or error}; choose another folder"
        ) from error
    return True
