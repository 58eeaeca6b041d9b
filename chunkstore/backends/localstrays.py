"""What lies in a local store and no listing shows: staging files that killed writers left, links, pipes, folders, empty folders."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Literal

from chunkstore.backends.local import STAGING

Sort = Literal["staging file", "empty folder", "link", "folder", "special file", "hidden file", "file"]

_OURS: Final = frozenset({".locks"})
"""Folders beside the runs that hold no objects."""


@dataclass(frozen=True, slots=True)
class Stray:
    """Something that is no object: its path below the root, what it is, its size, and when it was changed last."""

    path: str
    sort: Sort
    size: int
    modified: float


def strays(root: str) -> Iterator[Stray]:
    """All there are, as they are found; nothing is followed and nothing opened. Raises `OSError` where the root cannot be read."""
    try:
        with os.scandir(root) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    if entry.name not in _OURS:
                        yield from strays_in(root, entry.name)
                else:
                    yield from _seen(entry, entry.name, files_too=True)
    except FileNotFoundError:
        return


def strays_in(root: str, folder: str) -> Iterator[Stray]:
    """Those in one folder of the root; itself, where it holds no object."""
    try:
        changed = os.lstat(f"{root}/{folder}").st_mtime  # before anybody tidies up what is found in it
        with os.scandir(f"{root}/{folder}") as entries:
            found = list(entries)
    except (FileNotFoundError, NotADirectoryError, PermissionError):  # gone, or a listing tells
        return
    for entry in found:
        yield from _seen(entry, f"{folder}/{entry.name}", files_too=False)
    if not folder.startswith(".") and all(entry.name.startswith(STAGING) for entry in found):
        yield Stray(folder, "empty folder", 0, changed)


def remove(root: str, stray: Stray) -> bool:
    """Removes a staging file, or an empty folder; False where it is gone, or has changed since, or is not empty any more."""
    path = f"{root}/{stray.path}"
    try:
        if os.lstat(path).st_mtime != stray.modified and stray.sort == "staging file":
            return False
        if stray.sort == "empty folder":
            os.rmdir(path)  # never what somebody has put into it meanwhile
        elif stray.sort == "staging file":
            os.unlink(path)
        else:
            return False
    except OSError:
        return False
    return True


def _seen(entry: os.DirEntry[str], path: str, *, files_too: bool) -> Iterator[Stray]:
    try:
        status = entry.stat(follow_symlinks=False)
    except FileNotFoundError:  # finished its work meanwhile
        return
    sort = _sort_of(entry.name, status.st_mode, files_too=files_too)
    if sort is not None:
        yield Stray(path, sort, status.st_size, status.st_mtime)


def _sort_of(name: str, mode: int, *, files_too: bool) -> Sort | None:
    if stat.S_ISLNK(mode):
        return "link"
    if stat.S_ISDIR(mode):
        return "folder"
    if not stat.S_ISREG(mode):
        return "special file"
    if name.startswith(STAGING):
        return "staging file"
    if name.startswith("."):
        return "hidden file"
    return "file" if files_too else None
