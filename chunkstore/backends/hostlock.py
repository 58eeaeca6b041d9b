"""Locks between the processes and threads of one host. Nothing here reaches another host."""

from __future__ import annotations

import errno
import functools
import hashlib
import logging
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import lock_descriptor, unlock_descriptor

from chunkstore import waiting
from chunkstore.errors import BackendUnavailableError, StorageFullError
from chunkstore.process import NO_FORK, ProcessLocal

log = logging.getLogger(__name__)

STRIPES: Final = 64
"""How many lock files there are: enough that two keys seldom meet, few enough to leave lying about."""

POLL: Final = 0.002
"""The longest pause, in seconds, between two looks at a lock that another process holds."""

FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
"""How the system says that there is no room."""

_FIRST_POLL: Final = 0.0002
_OPENING: Final = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)


class HostLocks:
    """Mutual exclusion by key, for every process and thread of this host that names the same folder.

    The lock is the operating system's (`flock`, on Windows `LockFileEx`): it ends with the process that holds it, also
    by kill -9. A holder never takes a second key: both may share a lock file. The folder is made when it is first
    needed, with all its files, and they stay: unlinking one would let two in.
    """

    __slots__ = ("_folder", "_stripes", "_timeout")

    def __init__(self, folder: str | os.PathLike[str], *, timeout: float = 30.0) -> None:
        self._folder = os.fspath(folder)
        self._timeout = timeout
        # A thread waits for its own process here and only one thread of each process polls the file.
        self._stripes = ProcessLocal(_thread_locks)

    @property
    def folder(self) -> Path:
        """Where the lock files are."""
        return Path(self._folder)

    @contextmanager
    def holding(self, key: str) -> Iterator[None]:
        """Holds the key's lock.

        Raises `BackendUnavailableError`: transient when others held it for `timeout` seconds, not transient when the
        folder cannot be used.
        """
        until = time.monotonic() + self._timeout
        stripe = _stripe_of(key)
        threads = self._stripes.get()[stripe]
        turn: list[bool] = []
        file: list[int] = []
        try:
            waiting.take(threads, max(0.0, self._timeout), turn)
            if not turn[0]:
                raise self._held_too_long(key)
            self._lock(self._path(stripe), key, until, file)
            yield
        finally:
            # Python looks for signals after a call and at the start of a function, so each step that must happen is the first call.
            try:
                try:
                    _OPEN.pop(id(file), None)
                    for one in file:
                        # A child that an extension module forked meanwhile has a copy, and closing ours would not unlock it.
                        unlock_descriptor(one)
                finally:
                    for one in file:
                        os.close(one)
            except OSError as error:
                # What was done under the lock is done: an error here would hide what came of it, or undo its acknowledgement.
                log.warning("a lock file in %s could not be closed: %s", self._folder, error)
            finally:
                if turn and turn[0]:
                    threads.release()

    def _path(self, stripe: int) -> str:
        return f"{self._folder}{os.sep}{stripe:02d}.lock"

    def _lock(self, path: str, key: str, until: float, file: list[int]) -> None:
        """Puts the descriptor of the locked file into `file`."""
        pause = _FIRST_POLL
        try:
            while not waiting.apart(functools.partial(self._try, path, file)):
                if time.monotonic() >= until:
                    raise self._held_too_long(key)
                waiting.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, POLL)
        except OSError as error:
            unusable = f"cannot lock {key!r}: the lock folder {self._folder} cannot be used ({error.strerror or error})"
            if error.errno in FULL:
                raise StorageFullError(f"{unusable}. Free some space and repeat the call.", key=key) from error
            raise BackendUnavailableError(
                f"{unusable}. Make it writable, or choose a folder on a local disk that is.", key=key
            ) from error

    def _try(self, path: str, file: list[int]) -> bool:
        with NO_FORK:  # a child must not have a descriptor that it does not know of
            _OPEN[id(file)] = file
            self._open(path, file)
        # A file that was unlinked between opening and locking guards no name: others lock its successor.
        if lock_descriptor(file[0], blocking=False) and os.fstat(file[0]).st_nlink:
            return True
        _OPEN.pop(id(file), None)
        os.close(file.pop())
        return False

    def _open(self, path: str, file: list[int]) -> None:
        try:
            # Without O_CREAT first: in a sticky folder Linux refuses O_CREAT on another user's file.
            file.extend(map(os.open, (path,), (_OPENING,)))
        except FileNotFoundError:
            with suppress(FileExistsError):  # if it is no folder, opening the file says so better
                self.prepare()
            file.extend(map(os.open, (path,), (_OPENING | os.O_CREAT,), (0o666,)))

    def prepare(self) -> None:
        """Makes all files at once: on a disk that is full later, a delete that makes room still needs its lock."""
        os.makedirs(self._folder, exist_ok=True)
        if os.path.islink(self._folder):  # whoever made it would have us make files elsewhere
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), self._folder)
        for stripe in range(STRIPES):
            os.close(os.open(self._path(stripe), _OPENING | os.O_CREAT, 0o666))

    def _held_too_long(self, key: str) -> BackendUnavailableError:
        return BackendUnavailableError(
            f"cannot lock {key!r}: others held its lock in {self._folder} for {self._timeout:g} s. "
            "Try again; if it stays so, look for a process that hangs while it writes.",
            transient=True,
            key=key,
        )

    def __repr__(self) -> str:
        return f"HostLocks({self._folder!r})"


def _thread_locks() -> tuple[threading.Lock, ...]:
    return tuple(threading.Lock() for _ in range(STRIPES))


def _stripe_of(key: str) -> int:
    # Not hash(): it differs from process to process.
    return hashlib.blake2b(key.encode(), digest_size=2).digest()[0] % STRIPES


_OPEN: Final[dict[int, list[int]]] = {}
"""The lock files that are open in this process, by the identity of the list that the holder looks into."""


def _close_inherited() -> None:
    """In a forked child: its copies would keep a lock that its parent holds, when the parent is killed."""
    while _OPEN:
        _, file = _OPEN.popitem()
        while file:  # emptied: a child that was forked by the holder itself lets go of nothing
            os.close(file.pop())


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_inherited)
