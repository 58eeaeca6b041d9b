"""The objects of a run, as bytes: those that stand loose and those that are in its pack. Decodes nothing but the pack."""

from __future__ import annotations

from dataclasses import dataclass

from chunkstore import keys, packs
from chunkstore.backends import Entry
from chunkstore.errors import InvalidInputError, ObjectNotFoundError
from chunkstore.keys import ChunkId, Kind
from chunkstore.packs import Pack
from chunkstore.store import ChunkedRunLogStore


@dataclass(frozen=True, slots=True)
class RawObject:
    """The bytes under a key."""

    key: str
    data: bytes
    packed: bool = False
    """It does not stand under its key; the run's pack holds it."""


def keys_of(store: ChunkedRunLogStore, run_id: str) -> tuple[Entry, ...]:
    """What stands in the folder of a run, by name, also what is not ours. One listing."""
    return tuple(sorted(store.backend.list(keys.prefix_of_run(run_id))))


def raw_object(store: ChunkedRunLogStore, run_id: str, key: str) -> RawObject:
    """The bytes under a key of the run: `run.json`, or with the run's folder before it. Of a damaged one too.

    One request; one more where the object is not there, for the pack that may hold it. Raises `ObjectNotFoundError`, and `FormatError`
    where the pack is damaged.
    """
    folder = keys.prefix_of_run(run_id)
    key = key if key.startswith(folder) else folder + key
    try:
        return RawObject(key, store.backend.get(key).data)
    except ObjectNotFoundError:
        pack = _pack_of(store, run_id)
        if pack is None or key not in pack.members:
            raise
        return RawObject(key, pack.data_of(key), packed=True)


def _pack_of(store: ChunkedRunLogStore, run_id: str) -> Pack | None:
    key = keys.pack(run_id)
    try:
        return packs.decode(store.backend.get(key).data, key)
    except ObjectNotFoundError:
        return None


def chunk_named(run_id: str, kind: str, name: str = "", scope: str = "") -> ChunkId:
    """The chunk of a kind and a name, as a person gives them. Raises `InvalidInputError` that says what is missing or too much."""
    word = "run" if kind == "header" else kind
    if not keys.is_kind(word):
        known = ", ".join(each.value for each in Kind)
        raise InvalidInputError(f"there is no kind of chunk {kind!r}; there are: {known}", name=kind)
    if word in ("run", "job") and name:
        raise InvalidInputError(f"a run has one {word} chunk, which has no name; leave out {name!r}", name=name)
    if word not in ("run", "job") and not name:
        raise InvalidInputError(f"which {kind}? Give its name too", name=kind)
    if scope and word != "parameter":
        raise InvalidInputError(f"only a parameter is one of a branch; leave out {scope!r}", name=scope)
    return ChunkId(run_id, Kind(word), name, scope)
