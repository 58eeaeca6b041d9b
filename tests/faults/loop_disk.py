"""Disks that lose their power: a file system in an image on tmpfs, whose copy is what it held; and the most forgetful disk.

The first is as real as it gets, but a file system keeps more than it must. The second is a model of one that keeps nothing
but what was synced, and as much of the rest as luck wants.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

from rigs import mounted

_SIZES: Final = {"ext4": "160M", "xfs": "320M", "btrfs": "320M"}  # XFS takes no less than 300 MB
_FORMAT: Final = {"ext4": ("-q", "-F"), "xfs": ("-q", "-f"), "btrfs": ("-q", "-f")}
_COPY_OPTIONS: Final = {"xfs": ("nouuid",)}  # the copy has the name of the disk that is still mounted


@dataclass(frozen=True)
class LoopDisk:
    """A mounted file system, and the file that is its disk."""

    folder: Path
    image: Path
    kind: str

    @contextmanager
    def after_power_cut(self) -> Iterator[Path]:
        """What is there when the power is back. Whoever writes must have been stopped: a copy takes a moment."""
        copy = self.image.with_suffix(".copy")
        self._copy(copy)
        options = ",".join(("loop", *_COPY_OPTIONS.get(self.kind, ())))
        try:
            with mounted(self.image.with_suffix(".cut"), "-t", self.kind, "-o", options, str(copy)) as folder:
                yield folder
        finally:
            copy.unlink()

    def _copy(self, copy: Path) -> None:
        while True:
            before = self._traffic()
            subprocess.run(["cp", "--sparse=always", str(self.image), str(copy)], check=True)
            if self._traffic() == before:
                return  # otherwise the kernel wrote back meanwhile, and the copy is of no single moment

    def _traffic(self) -> tuple[str, ...]:
        """Writes and flushes that were completed, and how many requests are under way."""
        device = self.folder.stat().st_dev
        if not os.major(device):  # btrfs invents a device for each subvolume
            device = _device_of(self.folder)
        numbers = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text(encoding="ascii").split()
        return numbers[4], numbers[8], *numbers[15:16]


@contextmanager
def loop_disk(rooms: Path, kind: str = "ext4", options: str = "", size: str = "") -> Iterator[LoopDisk]:
    """A fresh file system with these mount options; its disk is in memory. Skips where the machine does not allow it."""
    maker = shutil.which(f"mkfs.{kind}")
    if maker is None:
        pytest.skip(f"mkfs.{kind} is not installed")
    with mounted(rooms / "memory", "-t", "tmpfs", "-o", "size=700m", "tmpfs") as memory:
        image = memory / "disk.image"
        with image.open("wb") as file:
            file.truncate(int((size or _SIZES[kind])[:-1]) << 20)
        subprocess.run([maker, *_FORMAT[kind], str(image)], check=True, capture_output=True)
        wanted = ",".join(("loop", options) if options else ("loop",))
        with mounted(rooms / "disk", "-t", kind, "-o", wanted, str(image)) as folder:
            yield LoopDisk(folder, image, kind)


def _device_of(folder: Path) -> int:
    source = subprocess.run(["findmnt", "-n", "-o", "SOURCE", str(folder)], check=True, capture_output=True, text=True)
    return Path(source.stdout.strip()).stat().st_rdev


@dataclass(eq=False)
class _File:
    data: bytes = b""
    kept: bytes = b""

    def sync(self) -> None:
        self.kept = self.data


@dataclass(eq=False)
class _Folder:
    entries: dict[str, _File | _Folder] = field(default_factory=dict)
    kept: dict[str, _File | _Folder] = field(default_factory=dict)

    def sync(self) -> None:
        self.kept = dict(self.entries)


Luck = Callable[[str], bool]
"""Whether a change that was not synced was kept: of a "name" in a folder, or of the "data" of a file."""


class ForgetfulDisk:
    """Follows what this process does below a folder, and knows what may be left of it after a power cut.

    A file's data is kept by an fsync of the file, its name by an fsync of its folder, all of both by syncfs: what POSIX
    promises, and no more. `happened` is called after each change.
    """

    def __init__(self, top: Path) -> None:
        self._top = top
        self._all = _Folder()
        self._descriptors: dict[int, _File | _Folder] = {}
        self.happened: Callable[[], None] = lambda: None

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("open", "close", "write", "fsync", "fdatasync", "link", "replace", "unlink", "mkdir", "rmdir"):
            monkeypatch.setattr(os, name, self._watched(getattr(os, name), getattr(self, f"_{name}")))

    def sync_everything(self, _descriptor: int = -1) -> int:
        """Stands in for syncfs."""
        _sync_all(self._all)
        self.happened()
        return 0

    def after_power_cut(self, folder: Path, lucky: Luck) -> Path:
        """Writes what is left into a new folder."""
        _restore(self._all, folder, lucky)
        return folder

    def _watched(self, real: Callable[..., Any], follow: Callable[..., bool]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            result = real(*arguments, **options)
            if follow(result, *arguments):
                self.happened()
            return result

        return call

    def _place(self, path: object) -> tuple[dict[str, _File | _Folder], str] | None:
        """The entries of its folder, and its name there; None for what is not on this disk."""
        if not isinstance(path, str | Path) or not Path(path).is_relative_to(self._top):
            return None
        *folders, name = Path(path).relative_to(self._top.parent).parts
        entries: dict[str, _File | _Folder] = {self._top.name: self._all}
        for folder in folders:
            found = entries[folder]
            assert isinstance(found, _Folder)
            entries = found.entries
        return entries, name

    def _open(self, descriptor: int, path: object, flags: int, *_mode: int) -> bool:
        place = self._place(path)
        if place is None:
            return False
        entries, name = place
        if flags & os.O_TMPFILE == os.O_TMPFILE:
            self._descriptors[descriptor] = _File()
            return False
        new = name not in entries
        self._descriptors[descriptor] = entries.setdefault(name, _File())
        return new

    def _close(self, _result: None, descriptor: int) -> bool:
        self._descriptors.pop(descriptor, None)
        return False

    def _write(self, written: int, descriptor: int, data: bytes) -> bool:
        file = self._descriptors.get(descriptor)
        if isinstance(file, _File):
            file.data += bytes(data[:written])
        return isinstance(file, _File)

    def _fsync(self, _result: None, descriptor: int) -> bool:
        synced = self._descriptors.get(descriptor)
        if synced is not None:
            synced.sync()
        return synced is not None

    _fdatasync = _fsync

    def _link(self, _result: None, source: str, target: str) -> bool:
        place = self._place(target)
        if place is None:
            return False
        entries, name = place
        if source.startswith("/proc/self/fd/"):
            entries[name] = self._descriptors[int(source.rpartition("/")[2])]
        else:
            of_source, old_name = self._place(source) or ({}, "")
            entries[name] = of_source[old_name]
        return True

    def _replace(self, result: None, source: str, target: str) -> bool:
        return self._link(result, source, target) and self._unlink(result, source)

    def _unlink(self, _result: None, path: object, **_folder: int) -> bool:
        place = self._place(path)
        if place is not None:
            del place[0][place[1]]
        return place is not None

    _rmdir = _unlink

    def _mkdir(self, _result: None, path: object, *_mode: int) -> bool:
        place = self._place(path)
        if place is not None:
            place[0][place[1]] = _Folder()
        return place is not None


def _sync_all(folder: _Folder) -> None:
    folder.sync()
    for entry in folder.entries.values():
        _sync_all(entry) if isinstance(entry, _Folder) else entry.sync()


def _restore(folder: _Folder, target: Path, lucky: Luck) -> None:
    target.mkdir()
    for name in folder.kept.keys() | folder.entries.keys():
        kept, now = folder.kept.get(name), folder.entries.get(name)
        entry = kept if kept is now or not lucky("name") else now
        if isinstance(entry, _Folder):
            _restore(entry, target / name, lucky)
        elif entry is not None:
            synced = entry.data == entry.kept or not lucky("data")
            (target / name).write_bytes(entry.kept if synced else entry.data)
