"""What a run's pack holds, as chunks: fetched at most once a version, and put together with what late writers left beside it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress

from chunkstore import codec, keys, packs, values
from chunkstore.backends import Backend
from chunkstore.clock import HybridClock
from chunkstore.codec import Chunk, Envelope
from chunkstore.errors import FormatError, ObjectNotFoundError
from chunkstore.known import HeldPack, KnownChunks, Stored
from chunkstore.merge import merge_objects
from chunkstore.packs import Pack


class Unpacker:
    """The packs of one backend, as this process sees them."""

    def __init__(
        self, backend: Backend, known: KnownChunks, clock: HybridClock, rereads: Callable[[], Iterable[object]]
    ) -> None:
        self._backend = backend
        self._known = known
        self._clock = clock
        self._rereads = rereads
        """Waits before each item; there are some only where a reader may meet half an object."""

    def is_packed(self, run_id: str) -> bool:
        """Whether this process knows that the run has a pack, or was about to get one."""
        return self._known.packs.knows(run_id)

    def held(self, run_id: str) -> Pack | None:
        """The pack as this process saw it last. No request."""
        held = self._known.packs.get(run_id)
        return held.pack if held is not None and self.stands(held.pack) else None

    def stands(self, pack: Pack) -> bool:
        """Whether it is the pack of the run that was last seen under its id, as far as that is known."""
        return (self._known.founding(pack.run) or pack.founded) == pack.founded

    def newest(self, run_id: str) -> Pack | None:
        """The pack as it is now. One request; one more where this process holds an older one. Raises `FormatError`."""
        if self._known.packs.get(run_id) is None:
            return self.fetch(run_id)
        key = keys.pack(run_id)
        version = next((entry.version for entry in self._backend.list(key) if entry.key == key), None)
        if version is None:
            self._known.packs.drop(run_id)
            return None
        return self.at(run_id, version)

    def at(self, run_id: str, version: str) -> Pack | None:
        """The pack, which was listed with this version. One request where it is not the one that this process holds."""
        held = self._known.packs.get(run_id)
        return held.pack if held is not None and version and held.version == version else self.fetch(run_id)

    def fetch(self, run_id: str) -> Pack | None:
        """The pack; None where there is none. It may be that of an earlier run of this id. One request. Raises `FormatError`."""
        try:
            return self._fetch(run_id)
        except FormatError:
            for _ in self._rereads():
                with suppress(FormatError):
                    return self._fetch(run_id)
            raise

    def _fetch(self, run_id: str) -> Pack | None:
        key = keys.pack(run_id)
        try:
            blob = self._backend.get(key)
        except ObjectNotFoundError:
            self._known.packs.drop(run_id)
            return None
        pack = packs.decode(blob.data, key)
        if pack.run != run_id:
            raise FormatError(f"{key} holds the pack of run {pack.run!r}; somebody moved it: move it back", key=key)
        self._known.packs.put(run_id, HeldPack(pack, blob.version))
        return pack

    def stored(self, pack: Pack, key: str) -> Stored | None:
        """A chunk that the pack holds for where it does not stand loose; None for any other."""
        if key not in pack.members or keys.stays_loose(key):
            return None
        return Stored(key, self.chunk(pack, key), pack.token, packed=True)

    def chunk(self, pack: Pack, key: str) -> Chunk:
        """One of the pack's chunks, with the envelope that it had."""
        chunk = codec.decode(pack.data_of(key), key)
        self._clock.saw(chunk.envelope.created_at)
        return chunk

    def over(self, stored: Stored, pack: Pack | None) -> Stored:
        """A loose chunk, with what the pack holds under its key where whoever made it knew nothing of that.

        Such a writer created it anew, with a time of creation of its own. Had the packed chunk still stood there, the writer had met it and
        merged: that is done here. Whoever knew the packed chunk has carried its time of creation on, and what he wrote stands.
        """
        if pack is None or stored.packed or keys.stays_loose(stored.key) or not self.stands(pack):
            return stored
        member = pack.members.get(stored.key)
        if member is None or member.version == stored.version:
            return stored
        packed = self.chunk(pack, stored.key)
        envelope = stored.chunk.envelope
        if envelope.created_at == packed.envelope.created_at or (envelope.founded or pack.founded) != pack.founded:
            return stored
        return stored._replace(chunk=_merged(packed, stored), merged=True)


def _merged(packed: Chunk, loose: Stored) -> Chunk:
    try:
        mine, theirs = values.decode(loose.chunk.content), values.decode(packed.content)
    except FormatError as error:
        raise FormatError(f"{loose.key} cannot be merged with its pack: {error}", key=loose.key) from error
    return Chunk(_both(packed.envelope, loose.chunk.envelope), values.encode(merge_objects({}, mine, theirs)))


def _both(packed: Envelope, loose: Envelope) -> Envelope:
    """The first one's envelope, with the writers and fences of both."""
    last = {name: max(number, packed.writers.get(name, 0)) for name, number in loose.writers.items()}
    fences = {name: max(number, packed.fences.get(name, 0)) for name, number in loose.fences.items()}
    return packed._replace(writers={**packed.writers, **last}, fences={**packed.fences, **fences})
