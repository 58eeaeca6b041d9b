"""Objects in this process's memory: for tests, examples and runs that nobody needs afterwards."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from chunkstore import waiting
from chunkstore.backends.contract import ANY, Blob, Condition, Entry, Guarantees
from chunkstore.errors import ConflictError, ObjectNotFoundError
from chunkstore.process import ProcessLocal

_GUARANTEES = Guarantees(
    conditional_create=True,
    conditional_update=True,
    across_processes=False,
    across_hosts=False,
    atomic=True,
    durable=False,
    conditional_delete=True,
)


class _Space:
    """One named set of objects, with the lock that guards it."""

    def __init__(self) -> None:
        self.lock = ProcessLocal(threading.Lock)  # another thread may hold it at the moment of a fork
        self.exclusion = ProcessLocal(threading.Lock)  # one for all keys: its holders do little
        self.objects: dict[str, Blob] = {}
        self.puts = 0
        # In each version: a pack keeps those of its chunks, and may be copied to where others have counted as far.
        self.token = secrets.token_hex(4)


# Shared by name, as files are: two stores opened on `memory://runs` in one process see each other's objects,
# and an unpickled backend finds its own again.
_SPACES: dict[str, _Space] = {}


class MemoryBackend:
    """The objects under one name in this process. A forked child has its own copy, a spawned one starts empty."""

    concurrency = 1
    asynchronous = False
    guarantees = _GUARANTEES

    def __init__(self, name: str = "") -> None:
        self.name = name
        self._space = _SPACES.setdefault(name, _Space())

    @property
    def place(self) -> str:
        return f"memory://{self.name}"

    def __repr__(self) -> str:
        return f"MemoryBackend({self.name!r})"

    def __reduce__(self) -> tuple[type[MemoryBackend], tuple[str]]:
        return MemoryBackend, (self.name,)

    def get(self, key: str) -> Blob:
        blob = self._space.objects.get(key)
        if blob is None:
            raise ObjectNotFoundError(f"{self.place} holds no object {key!r}", key=key)
        return blob

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        for key in keys:
            blob = self._space.objects.get(key)
            if blob is not None:
                yield key, blob

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        space = self._space
        with space.lock.get():
            there = space.objects.get(key)
            if condition.kind == "absent" and there is not None:
                raise ConflictError(f"{self.place} holds {key!r} already", key=key)
            if condition.kind == "unchanged" and (there is None or there.version != condition.version):
                raise ConflictError(f"{key!r} in {self.place} was changed meanwhile", key=key)
            space.puts += 1
            version = f"{space.puts}-{space.token}"
            space.objects[key] = Blob(bytes(data), version)
        return version

    def delete(self, key: str, condition: Condition = ANY) -> None:
        space = self._space
        with space.lock.get():
            there = space.objects.get(key)
            if there is not None and condition != ANY and there.version != condition.version:
                raise ConflictError(f"{key!r} in {self.place} was changed meanwhile", key=key)
            space.objects.pop(key, None)

    def list(self, prefix: str) -> Iterator[Entry]:
        with self._space.lock.get():
            found = [(key, blob) for key, blob in self._space.objects.items() if key.startswith(prefix)]
        return (Entry(key, blob.version, len(blob.data)) for key, blob in found)

    def folders(self) -> Iterator[str]:
        with self._space.lock.get():
            names = {key.partition("/")[0] for key in self._space.objects}
        return iter(sorted(name for name in names if not name.startswith(".")))

    def close(self) -> None:
        """Nothing to let go; the objects stay."""

    def excludes(self) -> bool:
        """See `chunkstore.backends.Excluding`."""
        return True

    @contextmanager
    def excluding(self, key: str, *, shared: bool = False) -> Iterator[None]:
        """See `chunkstore.backends.Excluding`. One at a time, shared or not."""
        with waiting.holding(self._space.exclusion.get()):
            yield
