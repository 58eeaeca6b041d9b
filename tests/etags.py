"""A place in memory whose versions are digests of the bytes, as ETags are: what was there before can come back with its version."""

from __future__ import annotations

import dataclasses
import hashlib
import uuid
from collections.abc import Callable

from chunkstore.backends import ANY, Backend, Blob, Condition, Guarantees
from chunkstore.backends.memory import MemoryBackend
from chunkstore.errors import ConflictError, NotSupportedError
from chunkstore.testing import CountingBackend


class EtagMemory(MemoryBackend):
    """As S3; with `deletes=False` as MinIO, which cannot delete under a condition."""

    def __init__(self, *, deletes: bool) -> None:
        super().__init__(f"etags-{uuid.uuid4().hex}")
        self.guarantees: Guarantees = dataclasses.replace(MemoryBackend.guarantees, conditional_delete=deletes)

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        there = self._space.objects.get(key)
        if condition.kind == "unchanged" and (there is None or there.version != condition.version):
            raise ConflictError(f"{key!r} was changed meanwhile", key=key)
        if condition.kind == "absent" and there is not None:
            raise ConflictError(f"{key!r} is there already", key=key)
        version = hashlib.md5(data, usedforsecurity=False).hexdigest()
        self._space.objects[key] = Blob(bytes(data), version)
        return version

    def delete(self, key: str, condition: Condition = ANY) -> None:
        if condition != ANY and not self.guarantees.conditional_delete:
            raise NotSupportedError("no deletes under a condition here")
        super().delete(key, condition)


class Between(CountingBackend):
    """Something happens before, or right after, the request with this number; what it raises is the end of whoever made it."""

    def __init__(self, inner: Backend, at: int, happens: Callable[[], object], *, after: bool = False) -> None:
        super().__init__(inner)
        self.at = at
        self.happens = happens
        self.after = after
        self.dead: BaseException | None = None

    @property
    def concurrency(self) -> int:
        return 1

    def _count(self, verb: str, key: str) -> None:
        if self.dead is not None:
            raise self.dead
        super()._count(verb, key)
        if self.requests == self.at + self.after:
            try:
                self.happens()
            except BaseException as error:
                self.dead = error
                raise
