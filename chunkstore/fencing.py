"""A backend whose writes are refused once a lease is lost. It takes the place of another, so whatever a store does is fenced.

What a lease lost means for a write, by where it is lost:

* before the write is begun: refused, everywhere. The holder asks its own clock and nobody else; a worker asks the place (one request).
* between that check and the write's arrival (the process was stopped there, or the request took long):
  - on a place that keeps others out (local disk, memory, SQLite, PostgreSQL without a pooler) there is no such moment: the record is looked at and the chunk written
    in one block that keeps takers of the lease out. Who is stopped inside keeps them out until it goes on or is killed; in PostgreSQL for a third of the deadline only:
    then the server ends the session that keeps them out, and as the write goes by that session, it does not happen;
  - anywhere else, a header is never written: a new holder's `fenced` puts its generation into it, so that no compare-and-swap of an earlier one can succeed. Nor is
    any chunk that the new holder wrote: each carries its generation;
  - a chunk that the new holder has not written since may still be, and a new one made. The writer that goes on then finds its lease lost, raises `LeaseLostError` and takes back what
    it made where the place deletes under conditions; what it replaced, and all on other places (MinIO), stays. It carries the older generation:
    `written_under` shows it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

from chunkstore import keys
from chunkstore.backends import ANY, Backend, Blob, Condition, Entry, Guarantees, unchanged
from chunkstore.chunks import Fence
from chunkstore.errors import ChunkStoreError, InvalidInputError, LeaseLostError
from chunkstore.leases import Lease, WorkerLease

log = logging.getLogger(__name__)


class FencedBackend:
    """Passes reads on, and writes only while a lease is held. Pickles with what a worker may write under."""

    def __init__(self, inner: Backend, lease: Lease | WorkerLease) -> None:
        self.inner = inner
        self.lease = lease
        self._own = keys.prefix_of_run(lease.run_id)

    def __repr__(self) -> str:
        return f"FencedBackend({self.inner!r}, {self.lease!r})"

    def __reduce__(self) -> tuple[type[FencedBackend], tuple[Backend, Lease | WorkerLease]]:
        return FencedBackend, (self.inner, self.lease)

    @property
    def place(self) -> str:
        return self.inner.place

    @property
    def concurrency(self) -> int:
        return self.inner.concurrency

    @property
    def asynchronous(self) -> bool:
        return self.inner.asynchronous

    @property
    def guarantees(self) -> Guarantees:
        return self.inner.guarantees

    def get(self, key: str) -> Blob:
        return self.inner.get(key)

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        return self.inner.get_many(keys)

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        self._require_own(key)
        started = self.lease.now()
        with self.lease.standing():
            version = self.inner.put(key, data, condition, barrier=barrier)
        try:
            self.lease.require_since(started)
        except LeaseLostError:
            if condition.kind == "absent":
                self._take_back(key, version)
            raise
        return version

    def delete(self, key: str, condition: Condition = ANY) -> None:
        self._require_own(key)
        with self.lease.standing():
            self.inner.delete(key, condition)

    def list(self, prefix: str) -> Iterator[Entry]:
        return self.inner.list(prefix)

    def folders(self) -> Iterator[str]:
        return self.inner.folders()

    def close(self) -> None:
        self.inner.close()

    def _require_own(self, key: str) -> None:
        """What belongs to no run, such as a note of doubt, goes with the run's own."""
        if not key.startswith((self._own, ".")):
            raise InvalidInputError(
                f"{key} is not of run {self.lease.run_id!r}, which the lease {self.lease.name!r} is about; "
                "write it by the store that is not fenced",
                key=key,
            )

    def _take_back(self, key: str, version: str) -> None:
        """Removes what was made after the lease was lost, in the very version that was made."""
        try:
            if self.guarantees.conditional_delete:
                self.inner.delete(key, unchanged(version))
                return
        except ChunkStoreError as error:
            log.debug("%s", error)
        log.warning("%s in %s was written after the lease under which it was made was lost, and stays", key, self.place)


def fence_of(backend: Backend) -> Fence | None:
    """What chunks written to this backend are fenced by; None for a plain backend."""
    return backend.lease if isinstance(backend, FencedBackend) else None


def unfenced(backend: Backend) -> Backend:
    """The backend that writes under no lease: where the records of leases are changed, and where a place is asked for what only it can do."""
    return backend.inner if isinstance(backend, FencedBackend) else backend
