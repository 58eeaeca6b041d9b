"""Ways to break the library, each in a process of its own: what a check does not notice then, it does not watch."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from chunkstore import keys, writing
from chunkstore.backends import ANY, Condition, Entry
from chunkstore.backends.hostlock import HostLocks
from chunkstore.backends.local import LocalBackend
from chunkstore.chunks import Chunks
from chunkstore.keys import ChunkId
from chunkstore.known import Stored


def stale_cache() -> None:
    """A reader is served what it saw last."""
    read = Chunks.read

    def cached(self: Chunks, chunk: ChunkId) -> Stored:
        return self.known.get(keys.key_of(chunk)) or read(self, chunk)

    Chunks.read = cached  # type: ignore[method-assign]


def stale_listing() -> None:
    """A listing remembers what it said of an object, as s3fs's own cache does."""
    listed = LocalBackend.list
    said: dict[str, Entry] = {}

    def cached(self: LocalBackend, prefix: str) -> Iterator[Entry]:
        return (said.setdefault(one.key, one) for one in listed(self, prefix))

    LocalBackend.list = cached  # type: ignore[method-assign]


def put_without_condition() -> None:
    """An update replaces whatever is there."""
    put = LocalBackend.put

    def blind(self: LocalBackend, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        return put(self, key, data, ANY if condition.kind == "unchanged" else condition, barrier=barrier)

    LocalBackend.put = blind  # type: ignore[method-assign]


def no_locks() -> None:
    """Compare and replace, with nobody kept out in between."""

    @contextmanager
    def holding(self: HostLocks, key: str) -> Iterator[None]:
        yield

    HostLocks.holding = holding  # type: ignore[method-assign]


def write_in_place() -> None:
    """A reader may come between the halves."""

    def replace(self: LocalBackend, key: str, data: bytes, condition: Condition) -> str:
        with self._locks.holding(key):
            if condition.kind == "unchanged":
                self._expect(key, condition.version)
            with open(self._path(key), "wb", buffering=0) as file:  # noqa: PTH123  as it is often written
                return self._fill(file.fileno(), data)

    LocalBackend._replace = replace  # type: ignore[method-assign]


def forget_writes() -> None:
    """One write in twenty is acknowledged and not made."""
    chance = random.Random()
    put = LocalBackend._replace

    def forgetful(self: LocalBackend, key: str, data: bytes, condition: Condition) -> str:
        return "made" if chance.random() < 0.05 else put(self, key, data, condition)

    LocalBackend._replace = forgetful  # type: ignore[method-assign]


def overwrite_as_a_whole() -> None:
    """After a conflict, ours as it is, instead of a merge."""
    writing.merge_objects = lambda base, mine, theirs: mine


def create_by_looking_first() -> None:
    """Create where nothing was a moment ago."""

    def create(self: LocalBackend, key: str, data: bytes) -> str:
        path = Path(self._path(key))
        if path.exists():
            raise FileExistsError(path)
        staging, version = self._stage(str(path), data)
        Path(staging).replace(path)
        return version

    LocalBackend._create = create  # type: ignore[method-assign]
