"""Connections that backends with equal settings share within one process: an executor's worker unpickles a store for each task."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Final, Generic, Protocol, TypeVar
from weakref import WeakSet

_IDLE: Final = 4


class Closable(Protocol):
    """What can be shared."""

    def close(self) -> None:
        """Lets its connections go."""
        ...


T = TypeVar("T", bound=Closable)


class Share(Generic[T]):
    """One user's part in a value. Dropping it is as good as giving it back, except that the value stays open for the next user."""

    __slots__ = ("__weakref__", "key", "value")

    def __init__(self, key: Hashable, value: T) -> None:
        self.key = key
        self.value = value


@dataclass(slots=True)
class _Shared(Generic[T]):
    value: T
    users: WeakSet[Share[T]] = field(default_factory=WeakSet)


class Sharing(Generic[T]):
    """Values by what they are made from, one of each. For one process: hold it in a `ProcessLocal`.

    A value is closed when its last user gives it back. One whose users were all collected is kept, because the next task's user
    comes soon; of those the oldest are closed when there are more than `idle`.
    """

    def __init__(self, idle: int = _IDLE) -> None:
        self._idle = idle
        # Entered again by its own thread, where the collector runs somebody's finaliser in here and that closes a store.
        self._lock = threading.RLock()
        self._shared: OrderedDict[Hashable, _Shared[T]] = OrderedDict()

    def join(self, key: Hashable, make: Callable[[], T]) -> Share[T]:
        """A share in the value of this key, which `make` makes where there is none. It opens nothing: a second one is dropped."""
        share = self._joined(key)
        if share is None:
            self._add(key, make())  # without the lock: it may import for a second
            share = self._joined(key)
        return share if share is not None else self.join(key, make)

    def leave(self, share: Share[T]) -> None:
        """Gives a share back, and closes the value if nobody else has one. Nothing happens the second time."""
        with self._lock:
            shared = self._shared.get(share.key)
            if shared is None or share not in shared.users:
                return
            shared.users.discard(share)
            if shared.users:
                return
            # Out of reach before it is closed: whoever joins now gets another one, not one that is being closed.
            del self._shared[share.key]
        shared.value.close()

    def _joined(self, key: Hashable) -> Share[T] | None:
        with self._lock:
            shared = self._shared.get(key)
            if shared is None:
                return None
            self._shared.move_to_end(key)
            share = Share(key, shared.value)
            shared.users.add(share)
            return share

    def _add(self, key: Hashable, value: T) -> None:
        with self._lock:
            self._shared.setdefault(key, _Shared(value))
            unused = [old for old, shared in self._shared.items() if not shared.users and old != key]
            closing = [self._shared.pop(old).value for old in unused[: max(0, len(unused) - self._idle)]]
        for old_value in closing:
            old_value.close()
