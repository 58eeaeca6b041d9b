"""Where the library waits: for a request, a pause, a lock, for several calls at once.

Everywhere else these block their thread, as ever. In a call that runs on an event loop (`chunkstore.greenlets`) they let
the loop run on meanwhile. A lock that is held across such a wait is taken by `take` or `holding`, and by nothing else:
two calls of one thread would wait for each other.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import Final, Generic, Protocol, TypeVar

from chunkstore.process import ProcessLocal

T = TypeVar("T")
R = TypeVar("R")

_FIRST_LOOK: Final = 0.0005
_LONGEST_LOOK: Final = 0.01
"""Seconds between two looks at a lock that another call holds; only on an event loop."""


class Carrier(Protocol):
    """What carries on with other work of this thread while a call waits."""

    def wait(self, future: Future[T], timeout: float | None) -> None:
        """Returns once the future is done, or the time is up; in any case others have had a turn."""
        ...

    def sleep(self, seconds: float) -> None:
        """Returns after so many seconds."""
        ...

    def apart(self, work: Callable[[], T]) -> T:
        """The result of work that would block, done in another thread, and done to its end even where nobody wants it any more."""
        ...

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> Sequence[Future[R]]:
        """Does the work for each item, many at once; the futures are done."""
        ...


class _Here(threading.local):
    """Who carries the call that this thread is at."""

    # Not a context variable: those are copied into threads and tasks that nobody carries.
    carrier: Carrier | None = None


_HERE: Final = _Here()


def carried(carrier: Carrier, step: Callable[..., T], *arguments: object) -> T:
    """A step of a call, during which waits are the carrier's."""
    before, _HERE.carrier = _HERE.carrier, carrier
    try:
        return step(*arguments)
    finally:
        _HERE.carrier = before


def result(future: Future[T], timeout: float | None = None) -> T:
    """The future's result. Raises what it raises, and `TimeoutError` where it is not done in time."""
    carrier = _HERE.carrier
    if carrier is None:
        return future.result(timeout)
    carrier.wait(future, timeout)
    return future.result(0)


def sleep(seconds: float) -> None:
    """Lets the time pass."""
    carrier = _HERE.carrier
    if carrier is None:
        time.sleep(seconds)
    else:
        carrier.sleep(seconds)


def apart(work: Callable[[], T]) -> T:
    """The result of work that may block in the system: a file of a network disk, an import."""
    carrier = _HERE.carrier
    return work() if carrier is None else carrier.apart(work)


def value_of(local: ProcessLocal[T]) -> T:
    """This process's value, where making it may block."""
    return local.get() if _HERE.carrier is None or local.is_made else apart(local.get)


def at_once(work: Callable[[T], R], items: Sequence[T], workers: Callable[[], Executor]) -> list[R]:
    """The results of all, in order; all have ended when the first error is raised. In threads, or as calls on the loop."""
    carrier = _HERE.carrier
    futures: Sequence[Future[R]]
    futures = [workers().submit(work, item) for item in items] if carrier is None else carrier.each(work, items)
    errors = [error for error in (future.exception() for future in futures) if error is not None]
    if errors:
        raise errors[0]
    return [future.result() for future in futures]


def take(lock: threading.Lock, timeout: float, taken: list[bool]) -> None:
    """Puts into the empty list whether the lock was taken within so many seconds; -1 for ever.

    Whatever interrupts it, the list tells.
    """
    # By map: no signal handler runs inside it. After a plain call Ctrl-C could come between the lock's being taken and our
    # knowing it, and the lock would stay taken as long as this process lives.
    if _HERE.carrier is None:
        taken.extend(map(lock.acquire, (True,), (timeout,)))
        return
    until = time.monotonic() + timeout if timeout >= 0 else float("inf")
    pause = _FIRST_LOOK
    while True:
        # Never waited for: its holder may be another call of this very thread.
        taken[:] = map(lock.acquire, (False,))
        if taken[0] or time.monotonic() >= until:
            return
        sleep(pause)
        pause = min(2 * pause, _LONGEST_LOOK)


@contextmanager
def holding(lock: threading.Lock) -> Iterator[None]:
    """Holds a lock, also across waits."""
    taken: list[bool] = []
    try:
        take(lock, -1, taken)
        yield
    finally:
        if taken and taken[0]:
            lock.release()


class Arrivals(Generic[T]):
    """What other threads hand to one reader, who waits for it here."""

    def __init__(self) -> None:
        self._items: queue.SimpleQueue[T] = queue.SimpleQueue()
        self._bell: Future[None] | None = None  # only the reader hangs it up

    def put(self, item: T) -> None:
        """Hands over an item."""
        self._items.put(item)
        bell = self._bell
        if bell is not None and not bell.done():
            with suppress(InvalidStateError):  # another thread rang it just now
                bell.set_result(None)

    def get(self, timeout: float) -> T:
        """The next item. Raises `TimeoutError` where none comes in time."""
        try:
            carrier = _HERE.carrier
            return self._items.get(timeout=timeout) if carrier is None else self._carried_get(carrier, timeout)
        except queue.Empty as error:
            raise TimeoutError(f"nothing arrived for {timeout:g} s") from error

    def _carried_get(self, carrier: Carrier, timeout: float) -> T:
        carrier.sleep(0)  # or a reader for whom all is there already would keep the loop to itself
        with suppress(queue.Empty):
            return self._items.get_nowait()
        bell: Future[None] = Future()
        self._bell = bell
        # Looked at again, now that the bell hangs: what came in between rang nothing.
        with suppress(queue.Empty):
            return self._items.get_nowait()
        carrier.wait(bell, timeout)
        return self._items.get_nowait()
