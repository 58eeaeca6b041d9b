"""Backends around a backend: one counts requests, one is slow, one fails as networks do.

Each writes out all verbs: a default that passes a new verb through would let it by uncounted and unharmed.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final, NoReturn, TypeVar

from chunkstore import waiting
from chunkstore.backends import ANY, Backend, Blob, Condition, Entry, Guarantees
from chunkstore.errors import BackendUnavailableError, ConflictError, WriteStateUnknownError

PAGE: Final = 1_000
"""Entries of one listing request."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Request:
    """One request that a backend was asked for; `key` is the prefix of a listing, empty for the folders."""

    verb: str
    key: str


class CountingBackend:
    """Writes down each request: `get`, `put`, `delete` one; `get_many` one per key; `list`, `folders` one per 1,000.

    Requests that the inner backend makes of itself (a probe, a read-back) are not seen. A pickled or forked copy counts
    for itself.
    """

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        # Only ever appended to and swapped, both atomic: a lock could be held by another thread at a fork.
        self._log: list[Request] = []

    def __repr__(self) -> str:
        return f"CountingBackend({self.inner!r})"

    def __reduce__(self) -> tuple[type[CountingBackend], tuple[Backend]]:
        return CountingBackend, (self.inner,)

    @property
    def log(self) -> tuple[Request, ...]:
        """All requests since the last `reset`, in order."""
        return tuple(self._log)

    @property
    def requests(self) -> int:
        """How many requests since the last `reset`."""
        return len(self._log)

    @property
    def by_verb(self) -> dict[str, int]:
        """How many requests of each verb that was used."""
        return dict(Counter(request.verb for request in self.log))

    def keys(self, verb: str) -> list[str]:
        """The keys that this verb was asked for, in order."""
        return [request.key for request in self.log if request.verb == verb]

    def reset(self) -> tuple[Request, ...]:
        """Forgets what was counted, and returns it."""
        log, self._log = self._log, []
        return tuple(log)

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
        self._count("get", key)
        return self.inner.get(key)

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        def counted() -> Iterator[str]:
            for key in keys:
                self._count("get_many", key)
                yield key

        return self.inner.get_many(counted())

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        self._count("put", key)
        return self.inner.put(key, data, condition, barrier=barrier)

    def delete(self, key: str, condition: Condition = ANY) -> None:
        self._count("delete", key)
        self.inner.delete(key, condition)

    def list(self, prefix: str) -> Iterator[Entry]:
        return _by_page(self.inner.list(prefix), lambda: self._count("list", prefix))

    def folders(self) -> Iterator[str]:
        return _by_page(self.inner.folders(), lambda: self._count("folders", ""))

    def close(self) -> None:
        self.inner.close()

    def _count(self, verb: str, key: str) -> None:
        self._log.append(Request(verb, key))


class SlowBackend:
    """Each request takes `latency` seconds more, before it reaches the inner backend.

    `get_many` waits once per `concurrency` keys, as if that many were under way at once. Pickles if `sleep` does.
    A `sleep` of one's own must not block where the inner backend is `asynchronous`.
    """

    def __init__(
        self,
        inner: Backend,
        latency: float,
        sleep: Callable[[float], object] = waiting.sleep,
        *,
        concurrency: int | None = None,
    ) -> None:
        self.inner = inner
        self.latency = latency
        self.sleep = sleep
        self.concurrency = concurrency or inner.concurrency

    def __repr__(self) -> str:
        return f"SlowBackend({self.inner!r}, {self.latency!r})"

    @property
    def place(self) -> str:
        return self.inner.place

    @property
    def asynchronous(self) -> bool:
        return self.inner.asynchronous

    @property
    def guarantees(self) -> Guarantees:
        return self.inner.guarantees

    def get(self, key: str) -> Blob:
        self.sleep(self.latency)
        return self.inner.get(key)

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        return self.inner.get_many(_every(self.concurrency, keys, self._wait))

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        self.sleep(self.latency)
        return self.inner.put(key, data, condition, barrier=barrier)

    def delete(self, key: str, condition: Condition = ANY) -> None:
        self.sleep(self.latency)
        self.inner.delete(key, condition)

    def list(self, prefix: str) -> Iterator[Entry]:
        return _by_page(self.inner.list(prefix), self._wait)

    def folders(self) -> Iterator[str]:
        return _by_page(self.inner.folders(), self._wait)

    def close(self) -> None:
        self.inner.close()

    def _wait(self) -> None:
        self.sleep(self.latency)


class Fault(Enum):
    """What goes wrong with one call."""

    REFUSED = "refused"
    """The call never reaches the inner backend: a transient `BackendUnavailableError`."""
    LOST_REPLY = "lost reply"
    """It is done, but nobody hears of it: `WriteStateUnknownError` of a put, else a transient `BackendUnavailableError`.
    A listing, or `get_many`, breaks off in the middle."""
    ECHO = "echo"
    """A conditional put is done, its reply is lost, and the retry of some layer below meets it: `ConflictError` of one's
    own write. Anything else: as `LOST_REPLY`."""


class FlakyBackend:
    """Fails as a script says, one entry a call, None for no fault (none after its end), or at random from a seed.

    A call that fails by itself (a real conflict, a missing object) fails as it would without faults. The faults that
    happened are in `faults`, in order. A pickled copy goes on from where the script (of a list, say, not of a generator) or the random numbers stood.
    """

    def __init__(self, inner: Backend, script: Iterable[Fault | None] | random.Random, *, rate: float = 0.2) -> None:
        self.inner = inner
        self.rate = rate
        self.faults: list[tuple[str, str, Fault]] = []
        self._random = script if isinstance(script, random.Random) else None
        self._script: Iterator[Fault | None] = iter(()) if isinstance(script, random.Random) else iter(script)

    def __repr__(self) -> str:
        return f"FlakyBackend({self.inner!r})"

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
        fault = self._next("get", key, conditional=False)
        if fault is Fault.REFUSED:
            self._refuse(key)
        blob = self.inner.get(key)
        if fault:
            self._lose(key)
        return blob

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        asked = list(keys)
        yield from self._broken_off("get_many", asked[0] if asked else "", lambda: self.inner.get_many(asked))

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        fault = self._next("put", key, conditional=condition.kind != "any")
        if fault is Fault.REFUSED:
            self._refuse(key)
        version = self.inner.put(key, data, condition, barrier=barrier)
        if fault is Fault.LOST_REPLY:
            raise WriteStateUnknownError(f"the reply to the put of {key!r} in {self.place} was lost", key=key)
        if fault is Fault.ECHO:
            raise ConflictError(f"{key!r} in {self.place} was changed meanwhile", key=key)
        return version

    def delete(self, key: str, condition: Condition = ANY) -> None:
        fault = self._next("delete", key, conditional=False)
        if fault is Fault.REFUSED:
            self._refuse(key)
        self.inner.delete(key, condition)
        if fault:
            self._lose(key)

    def list(self, prefix: str) -> Iterator[Entry]:
        return self._broken_off("list", prefix, lambda: self.inner.list(prefix))

    def folders(self) -> Iterator[str]:
        return self._broken_off("folders", "", self.inner.folders)

    def close(self) -> None:
        self.inner.close()

    def _broken_off(self, verb: str, key: str, ask: Callable[[], Iterator[T]]) -> Iterator[T]:
        fault = self._next(verb, key, conditional=False)
        if fault is Fault.REFUSED:
            self._refuse(key)
        if not fault:
            yield from ask()
            return
        found = list(ask())
        yield from found[: len(found) // 2]
        self._lose(key)

    def _next(self, verb: str, key: str, *, conditional: bool) -> Fault | None:
        fault = self._drawn() if self._random else next(self._script, None)
        if fault is Fault.ECHO and not conditional:
            fault = Fault.LOST_REPLY
        if fault:
            self.faults.append((verb, key, fault))
        return fault

    def _drawn(self) -> Fault | None:
        assert self._random is not None
        # Both numbers each time, so that the rate does not shift which fault comes when.
        happens, which = self._random.random(), self._random.choice(list(Fault))
        return which if happens < self.rate else None

    def _refuse(self, key: str) -> NoReturn:
        raise BackendUnavailableError(f"cannot reach {self.place} for {key!r}; try again", transient=True, key=key)

    def _lose(self, key: str) -> NoReturn:
        raise BackendUnavailableError(f"the reply of {self.place} for {key!r} was lost", transient=True, key=key)


def _by_page(found: Iterator[T], ask: Callable[[], None]) -> Iterator[T]:
    """`found`, with a call of `ask` before each page; also for the one that is empty."""
    ask()
    for number, item in enumerate(found):
        if number and number % PAGE == 0:
            ask()
        yield item


def _every(count: int, items: Iterable[T], ask: Callable[[], None]) -> Iterator[T]:
    """`items`, with a call of `ask` before the first of each `count`."""
    for number, item in enumerate(items):
        if number % count == 0:
            ask()
        yield item
