"""What of a local disk survives power loss: what is synced, and when. Knows no locks and no object's bytes."""

from __future__ import annotations

import ctypes
import os
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

Durability = Literal["process", "barrier", "power"]
"""Which acknowledged writes survive: a kill (`process`); power loss, from each barrier on (`barrier`); power loss (`power`)."""

_MOST_NOTES: Final = 10_000


class Syncs:
    """The syncs that a durability asks for, below one root.

    After a barrier everything that stood there is promised to survive. To rename a file whose data is not on the disk yet
    over a promised one would break that: of the two, a power cut may leave the name of the new one and the data of none. Only
    ext4 with its usual options syncs such a file by itself. So each barrier, of whatever process, sets a new time on the file
    `barrier`, and a writer syncs what it writes over an object, unless it has itself made that object since the last barrier.
    """

    def __init__(self, root: str, durability: Durability, barrier: str) -> None:
        self._root = root
        self._barrier = barrier
        self._durability = durability
        self._syncfs = _find_syncfs() if durability == "barrier" else None
        self._anchored = False
        self._since_barrier: dict[str, tuple[str, int]] = {}

    @property
    def each_write(self) -> bool:
        """Whether every acknowledged write is on the disk."""
        return self._durability == "power" or (self._durability == "barrier" and self._syncfs is None)

    def last_barrier(self) -> int:
        """Which barrier was the last; 0 for none, -1 where the file system's times cannot tell."""
        if self._syncfs is None:
            return 0
        try:
            at = os.stat(self._barrier).st_mtime_ns
        except OSError:
            return 0
        return at if is_fine(at) else -1

    def note(self, key: str, version: str, barrier: int, replaced: str | None) -> None:
        """Notes a version that this process wrote after this barrier, as long as no barrier has promised anything below it."""
        if self._syncfs is None:
            return
        if replaced is None or self._since_barrier.get(key) == (replaced, barrier):
            if len(self._since_barrier) >= _MOST_NOTES:
                self._since_barrier.clear()
            self._since_barrier[key] = (version, barrier)
        else:
            self._since_barrier.pop(key, None)

    def file(self, fd: int, over: tuple[str, str] | None) -> None:
        """Before a written file gets its name: syncs it where that is needed. `over` is the key and version that it replaces."""
        if self.each_write or (over is not None and self._syncfs is not None and self._is_promised(*over)):
            os.fsync(fd)

    def name(self, folder: str, *, barrier: bool) -> None:
        """After an object got its name: syncs the folder, at a barrier everything, where that is needed."""
        if self.each_write:
            sync_folder(folder)
        elif barrier and self._syncfs is not None:
            self._everything(self._syncfs)

    def anchor(self) -> None:
        """After a folder was made below the root: syncs the folders above it."""
        if not self.each_write:
            return
        sync_folder(self._root)
        if not self._anchored:  # whoever made them may have been stopped before it could
            with suppress(PermissionError):  # not ours, so nobody made it for us
                for folder in _folders_above(self._root):
                    sync_folder(folder)
            self._anchored = True

    def _is_promised(self, key: str, version: str) -> bool:
        # Read when the new data is written already: a barrier that comes later syncs that data with all else.
        barrier = self.last_barrier()
        return barrier < 0 or self._since_barrier.get(key) != (version, barrier)

    def _everything(self, syncfs: Callable[[int], int]) -> None:
        self._announce()
        fd = os.open(self._root, os.O_RDONLY)
        try:
            if syncfs(fd) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), self._root)
        finally:
            os.close(fd)

    def _announce(self) -> None:
        """Before the sync: from now on nobody takes what it wrote before for unpromised."""
        now = fresh_stamp()
        try:
            os.utime(self._barrier, ns=(now, now))
        except FileNotFoundError:
            os.makedirs(os.path.dirname(self._barrier), exist_ok=True)
            os.close(os.open(self._barrier, os.O_WRONLY | os.O_CREAT, 0o666))
            os.utime(self._barrier, ns=(now, now))


def fresh_stamp() -> int:
    """A modification time that no other write has: the kernel's own has steps of milliseconds, and inodes are reused."""
    now = time.time_ns() // 100 * 100
    return now if now % 1000 else now + 100


def is_fine(stamp: int) -> bool:
    """Whether the file system kept a fresh stamp as it was set."""
    return stamp % 1000 != 0


def sync_folder(folder: str) -> None:
    """Puts the names in a folder on the disk."""
    if os.name == "nt":
        return  # Windows has no handle of a folder to sync
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _folders_above(folder: str) -> list[str]:
    """Those of the same file system."""
    found: list[str] = []
    while not os.path.ismount(folder) and (above := os.path.dirname(folder)) != folder:
        found.append(above)
        folder = above
    return found


def _find_syncfs() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
