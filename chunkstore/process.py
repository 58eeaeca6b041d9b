"""One value per process: what a fork must never share (connections, locks, event loops, session ids, caches)."""

from __future__ import annotations

import ctypes
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

T = TypeVar("T")


class ProcessLocal(Generic[T]):
    """Holds `make()`, and makes it anew in a forked child.

    Executors fork after the parent has used the store. A connection that both sides use mixes two conversations on one
    socket, and a lock that another thread held at the moment of the fork stays locked for ever. So the child never uses
    what it inherited, and never finalises it, not even at its exit: closing an inherited connection takes its socket
    out of the epoll set, which both processes share, and the parent then waits for an answer that it can no longer see.

    `make` opens nothing by itself: two threads that ask at once may both call it, one result wins and both get it.
    Pickles as its maker: settings travel, values do not.
    """

    __slots__ = ("__weakref__", "_make", "_values")

    def __init__(self, make: Callable[[], T]) -> None:
        self._make = make
        self._values: dict[int, T] = {}
        _LIVING.add(self)

    def get(self) -> T:
        """This process's value."""
        # Asked each time: a fork by an extension module runs no hook.
        process = os.getpid()
        try:
            return self._values[process]
        except KeyError:
            # setdefault is one atomic step, so of two threads right after a fork both return the same value.
            return self._values.setdefault(process, self._make())

    @property
    def is_made(self) -> bool:
        """Whether this process has its value already."""
        return os.getpid() in self._values

    def abandon(self) -> None:
        """Puts the values out of reach and keeps them from ever being finalised. For the child, right after a fork."""
        for value in self._values.values():
            # One reference that nobody owns. Any other kind goes away when the interpreter clears its modules.
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(value))
        self._values.clear()

    def __reduce__(self) -> tuple[type[ProcessLocal[T]], tuple[Callable[[], T]]]:
        return ProcessLocal, (self._make,)


_LIVING: Final[weakref.WeakSet[ProcessLocal[Any]]] = weakref.WeakSet()


NO_FORK: Final = threading.RLock()
"""Held while something is half done that a child must not inherit: a fork by Python waits for it. Never for long."""


def was_inherited(module: str) -> bool:
    """Whether a module was loaded already when this process was forked off its parent."""
    process = os.getpid()
    if process not in _INHERITED:  # a fork by an extension module, which runs no hook
        _INHERITED[process] = frozenset(sys.modules)
    return module in _INHERITED[process]


def _forked() -> bool:
    """Whether this process is a fork that runs no program of its own, as far as the system tells."""
    try:
        with open("/proc/self/stat", encoding="ascii", errors="replace") as stat:  # noqa: PTH123 - one line, at import
            flags = int(stat.read().rpartition(")")[2].split()[6])
    except (OSError, ValueError, IndexError):
        return False
    return bool(flags & _FORKED_WITHOUT_EXEC)


_FORKED_WITHOUT_EXEC: Final = 0x40  # PF_FORKNOEXEC of the kernel

_INHERITED: Final[dict[int, frozenset[str]]] = {os.getpid(): frozenset(sys.modules if _forked() else ())}


def _abandon_inherited() -> None:
    _INHERITED.clear()
    _INHERITED[os.getpid()] = frozenset(sys.modules)
    NO_FORK._at_fork_reinit()  # type: ignore[attr-defined]  # noqa: SLF001 - its holder, who forked, is another thread by number
    for local in list(_LIVING):
        local.abandon()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=NO_FORK.acquire, after_in_parent=NO_FORK.release, after_in_child=_abandon_inherited)
