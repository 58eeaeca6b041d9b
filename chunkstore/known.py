"""What this process knows: runs, the chunks that it last saw, and from what each model object in its hands was made."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

from chunkstore import keys
from chunkstore.codec import Chunk
from chunkstore.packs import Pack
from chunkstore.process import ProcessLocal
from chunkstore.values import Content


class Stored(NamedTuple):
    """A chunk as it stands in the backend, with the version it has there."""

    key: str
    chunk: Chunk
    version: str
    packed: bool = False
    """It stands in the run's pack and nowhere else; then the version is that pack's token."""
    merged: bool = False
    """What stands there was made anew beside the pack, and this is more than that: merged with the packed chunk."""


class HeldPack(NamedTuple):
    """A run's pack, with the version that it had."""

    pack: Pack
    version: str


class KnownPacks:
    """Which runs are known to be packed, and their packs as last seen, bounded in bytes; the longest unused goes first.

    The one used last is kept however large it is: else each chunk of it would cost the whole pack again.
    """

    _MAX_RUNS = 10_000

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._packs: dict[str, HeldPack] = {}
        self._runs: dict[str, None] = {}
        self._lock = ProcessLocal(threading.Lock)

    def knows(self, run_id: str) -> bool:
        """Whether the run is known to be packed, or to have been about to be."""
        return run_id in self._runs

    def get(self, run_id: str) -> HeldPack | None:
        """The pack as it was seen last, which may not be as it is."""
        return self._packs.get(run_id)

    def note(self, run_id: str) -> None:
        """Remembers that the run is packed."""
        with self._lock.get():
            self._note(run_id)

    def put(self, run_id: str, held: HeldPack) -> None:
        """Remembers a pack that was read or made."""
        with self._lock.get():
            self._note(run_id)
            self._drop(run_id)
            self._packs[run_id] = held
            self._bytes += held.pack.size
            while self._bytes > self._max_bytes and len(self._packs) > 1:
                self._drop(next(iter(self._packs)))

    def drop(self, run_id: str) -> None:
        """Lets the pack go, and remembers that the run is packed."""
        with self._lock.get():
            self._drop(run_id)

    def forget(self, run_id: str) -> None:
        """Forgets the run."""
        if run_id in self._runs:
            with self._lock.get():
                self._runs.pop(run_id, None)
                self._drop(run_id)

    def _note(self, run_id: str) -> None:
        self._runs[run_id] = None
        while len(self._runs) > self._MAX_RUNS:
            gone = next(iter(self._runs))
            del self._runs[gone]
            self._drop(gone)

    def _drop(self, run_id: str) -> None:
        held = self._packs.pop(run_id, None)
        if held is not None:
            self._bytes -= held.pack.size


class KnownChunks:
    """The chunks last seen, by key, bounded in bytes; the longest unseen goes first.

    A forked child starts with what its parent knew: versions mean the same everywhere.
    """

    _OVERHEAD = 1000  # bytes of Python objects around one body, about
    _OVERHEAD_EXACT = 200  # and for each value that JSON could not hold
    _MAX_RUNS = 10_000

    def __init__(self, max_bytes: int, now: Callable[[], float] | None = None) -> None:
        self._max_bytes = max_bytes
        self._now = now
        self._bytes = 0
        self._since: dict[str, float] = {}
        self._chunks: dict[str, Stored] = {}
        self._of_run: dict[str, set[str]] = {}
        self._foundings: dict[str, str] = {}
        self._lock = ProcessLocal(threading.Lock)
        self.packs = KnownPacks(max_bytes)

    def __contains__(self, key: str) -> bool:
        return key in self._chunks

    def get(self, key: str) -> Stored | None:
        """The chunk as it was seen last, which may not be as it is."""
        return self._chunks.get(key)

    def since(self, key: str) -> float | None:
        """When the chunk was seen last; None where that is not kept, or it is not known."""
        return self._since.get(key)

    def put(self, stored: Stored) -> None:
        """Remembers a chunk that was read or written."""
        with self._lock.get():
            self._keep(stored)

    def put_unless_overtaken(self, stored: Stored, before: Stored | None) -> None:
        """Remembers a chunk, where it is still known as it was when it was asked for or sent: as `before`.

        Otherwise another thread was faster, and nobody can say which of the two is the newer. An old one must not pass
        for what stands there, so neither is kept.
        """
        with self._lock.get():
            if self._chunks.get(stored.key) is before:
                self._keep(stored)
            else:
                self._drop(stored.key)

    def forget(self, key: str) -> None:
        """Drops one chunk."""
        with self._lock.get():
            self._drop(key)

    def founding(self, run_id: str) -> str | None:
        """The stamp of the run that was last seen under this id; empty where only its header was damaged; None for no run."""
        return self._foundings.get(run_id)

    def found(self, run_id: str, stamp: str = "") -> bool:
        """Remembers a run. Whether another one was known under its id, deleted since: what is known of that one's chunks goes."""
        before = self._foundings.get(run_id)
        if before is not None and stamp in {before, ""}:
            return False
        with self._lock.get():
            self._foundings[run_id] = stamp
            while len(self._foundings) > self._MAX_RUNS:
                del self._foundings[next(iter(self._foundings))]
            if before:
                self._drop_run(run_id)
        return bool(before)

    def forget_run(self, run_id: str) -> None:
        """Drops a run and its chunks."""
        with self._lock.get():
            self._foundings.pop(run_id, None)
            self._drop_run(run_id)

    def keys_of_run(self, prefix: str) -> list[str]:
        """The keys of the known chunks of a run, by the start that they all have."""
        with self._lock.get():
            return list(self._of_run.get(prefix, ()))

    def _drop_run(self, run_id: str) -> None:
        self.packs.forget(run_id)
        for key in list(self._of_run.get(keys.prefix_of_run(run_id), ())):
            self._drop(key)

    def _keep(self, stored: Stored) -> None:
        key = stored.key
        if key in self._chunks:
            self._bytes -= self._size(self._chunks.pop(key))  # to the end: it is the one seen last
        else:
            run = _run_of(key)
            if run not in self._of_run:
                self._of_run[run] = set()
            self._of_run[run].add(key)
        self._chunks[key] = stored
        if self._now is not None:
            self._since[key] = self._now()
        self._bytes += self._size(stored)
        while self._bytes > self._max_bytes and len(self._chunks) > 1:
            self._drop(next(iter(self._chunks)))

    def _drop(self, key: str) -> None:
        stored = self._chunks.pop(key, None)
        self._since.pop(key, None)
        if stored is not None:
            self._bytes -= self._size(stored)
            run = self._of_run[_run_of(key)]
            run.remove(key)
            if not run:
                del self._of_run[_run_of(key)]

    def _size(self, stored: Stored) -> int:
        content = stored.chunk.content
        return len(content.body) + len(stored.key) + self._OVERHEAD + self._OVERHEAD_EXACT * len(content.exact)


def _run_of(key: str) -> str:
    return key[: key.find("/") + 1]


_NO_PARAMETERS: Final[Mapping[str, Content]] = {}


class Origin(NamedTuple):
    """From what a model object was made: its own chunk, and the parameters that it carries, both by their keys."""

    key: str
    content: Content
    parameters: Mapping[str, Content] = _NO_PARAMETERS
    tried: bool = False
    """The object was made by hand, and no call that writes it has succeeded; the content is what was known of its chunk before."""


UNSEEN: Final = Content(b"{}")
"""The content in the origin of an object that was tried while nothing was known of its chunk."""


class _Noted(weakref.ref[object]):
    """A model object that may go, and its origin. One object, not three: a store notes many."""

    __slots__ = ("number", "origin")

    number: int
    origin: Origin


class Origins:
    """The origin of each model object that was handed out or written, for as long as the object lives.

    The version that the process saw last is not enough to know what a caller changed: with two threads, the object in
    one's hands may be older than what the other read meanwhile.
    """

    def __init__(self) -> None:
        self._noted: dict[int, _Noted] = {}

    def of(self, thing: object) -> Origin | None:
        """The object's origin; None for one that was made by hand, or copied."""
        noted = self._noted.get(id(thing))
        return noted.origin if noted is not None and noted() is thing else None

    def note(self, thing: object, origin: Origin) -> None:
        """Remembers it until the object goes."""
        noted = _Noted(thing, self._forget)
        noted.number = id(thing)
        noted.origin = origin
        self._noted[noted.number] = noted

    def _forget(self, gone: weakref.ref[object]) -> None:
        assert isinstance(gone, _Noted)
        if self._noted.get(gone.number) is gone:  # the number may be another object's by now
            del self._noted[gone.number]
