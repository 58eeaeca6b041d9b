"""Locks between the processes and threads of one host. Nothing here reaches another host."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from filelock import lock_descriptor, unlock_descriptor

from chunkstore.errors import BackendUnavailableError, StorageFullError
from chunkstore.process import ProcessLocal

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
        if not threads.acquire(timeout=max(0.0, self._timeout)):
            raise self._held_too_long(key)
        try:
            file = self._locked(self._path(stripe), key, until)
            try:
                yield
            finally:
                _let_go(file)
        finally:
            threads.release()

    def _path(self, stripe: int) -> str:
        return f"{self._folder}{os.sep}{stripe:02d}.lock"

    def _locked(self, path: str, key: str, until: float) -> int:
        """The descriptor of the locked file."""
        pause = _FIRST_POLL
        try:
            while (file := self._try(path)) is None:
                if time.monotonic() >= until:
                    raise self._held_too_long(key)
                time.sleep(pause * random.uniform(0.5, 1.0))
                pause = min(pause * 2, POLL)
        except OSError as error:
            unusable = f"cannot lock {key!r}: the lock folder {self._folder} cannot be used ({error.strerror or error})"
            if error.errno in FULL:
                raise StorageFullError(f"{unusable}. Free some space and repeat the call.", key=key) from error
            raise BackendUnavailableError(
                f"{unusable}. Make it writable, or choose a folder on a local disk that is.", key=key
            ) from error
        return file

    def _try(self, path: str) -> int | None:
        file = self._open(path)
        try:
            # A file that was unlinked between opening and locking guards no name: others lock its successor.
            if lock_descriptor(file, blocking=False) and os.fstat(file).st_nlink:
                return file
        except BaseException:
            os.close(file)
            raise
        os.close(file)
        return None

    def _open(self, path: str) -> int:
        try:
            # Without O_CREAT first: in a sticky folder Linux refuses O_CREAT on another user's file.
            return os.open(path, _OPENING)
        except FileNotFoundError:
            with suppress(FileExistsError):  # if it is no folder, opening the file says so better
                self.prepare()
            return os.open(path, _OPENING | os.O_CREAT, 0o666)

    def prepare(self) -> None:
        """Makes all files at once: on a disk that is full later, a delete that makes room still needs its lock."""
        os.makedirs(self._folder, exist_ok=True)
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


def _let_go(file: int) -> None:
    # What was done under the lock is done: an error here would hide what came of it, or undo its acknowledgement.
    with suppress(OSError):
        # A child that was forked meanwhile has a copy of the descriptor, and closing ours would not unlock it.
        unlock_descriptor(file)
    with suppress(OSError):
        os.close(file)
