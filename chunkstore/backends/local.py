"""Objects as files on a local disk: atomic by staging and rename, exclusive by link, compare-and-swap under a file lock.

fsspec's own local writes are not used: its `pipe_file` writes in place (a reader beside it gets torn files) and its
create is check-then-write (two processes win).
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import itertools
import os
import secrets
import stat
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final, Literal

from chunkstore.backends.contract import Blob, Condition, Entry, Guarantees
from chunkstore.backends.hostlock import HostLocks
from chunkstore.errors import BackendUnavailableError, ChunkStoreError, ConflictError, ObjectNotFoundError

Durability = Literal["process", "barrier", "power"]
"""Which acknowledged writes survive: a kill (`process`); power loss, from each barrier on (`barrier`); power loss (`power`)."""

# O_NONBLOCK: opening a named pipe that stands where a chunk should be would wait for a writer without end.
_READ: Final = sum(getattr(os, flag, 0) for flag in ("O_RDONLY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
_STAGE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NAMELESS: Final = os.O_WRONLY | getattr(os, "O_TMPFILE", 0) | getattr(os, "O_CLOEXEC", 0)

_STAGING: Final = ".t-"
_FOUNDINGS: Final = 100
_CAN_STAMP: Final = os.utime in os.supports_fd

_ADVICE: Final = {
    errno.ENOSPC: (False, "the disk is full; free some space and repeat the call"),
    errno.EDQUOT: (False, "the disk quota is used up; free some space and repeat the call"),
    errno.EACCES: (False, "permission denied; make the folder readable and writable for this user"),
    errno.EPERM: (False, "not permitted; make the folder readable and writable for this user"),
    errno.EROFS: (False, "the file system is read-only; choose another folder or remount it writable"),
    errno.ENOTDIR: (False, "a part of the path is a file, not a folder; choose another folder"),
    errno.EISDIR: (False, "a folder stands where a chunk should be; move it away"),
    errno.ELOOP: (False, "a symbolic link stands where a chunk should be; links are not followed, move it away"),
    errno.EMFILE: (True, "too many open files; raise the limit (ulimit -n) or use fewer threads"),
    errno.ENFILE: (True, "too many open files on this host"),
}


class LocalBackend:
    """Objects as files under `root`; each folder of the keys is a folder there.

    Names that start with a dot are ours (staging files, locks) and are never listed.
    """

    concurrency = 1

    def __init__(self, root: str | os.PathLike[str], *, durability: Durability = "barrier") -> None:
        self.root = os.path.abspath(root)
        self.durability = durability
        self._token = secrets.token_hex(4)  # with the process id: no two writers share a staging file, on any host
        self._numbers = itertools.count()
        self._locks = HostLocks(Path(self.root, ".locks"))
        self._syncfs = _find_syncfs()

    @property
    def place(self) -> str:
        return self.root

    @property
    def guarantees(self) -> Guarantees:
        return Guarantees(
            conditional_create=True,
            conditional_update=True,
            across_processes=True,
            across_hosts=False,
            atomic=True,
            durable=self._syncs_each_write,
        )

    def __repr__(self) -> str:
        return f"LocalBackend({self.root!r}, durability={self.durability!r})"

    def __reduce__(self) -> tuple[Callable[..., LocalBackend], tuple[str, Durability]]:
        return _unpickled, (self.root, self.durability)

    def get(self, key: str) -> Blob:
        try:
            return self._read(key)
        except OSError as error:
            raise self._translated(key, error) from error

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        for key in keys:
            try:
                blob = self._read(key)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._translated(key, error) from error
            yield key, blob

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        try:
            if condition.founding:
                version = self._found(key, data)
            elif condition.kind == "absent":
                version = self._create(key, data)
            else:
                version = self._replace(key, data, condition)
            if barrier and self.durability == "barrier":
                self._sync_everything()
        except OSError as error:
            raise self._translated(key, error) from error
        return version

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            with self._locks.holding(key):
                os.unlink(path)
                with suppress(OSError):  # other objects are still in it
                    _remove_folder(_folder_of(path))
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._translated(key, error) from error

    def list(self, prefix: str) -> Iterator[Entry]:
        folder, _, start = prefix.rpartition("/")
        found = []
        try:
            with os.scandir(self._path(folder)) as entries:
                for entry in entries:
                    name = entry.name
                    if name.startswith(start) and not name.startswith("."):
                        with suppress(FileNotFoundError):  # deleted between the listing and the look at it
                            status = entry.stat(follow_symlinks=False)
                            if stat.S_ISREG(status.st_mode):
                                found.append(Entry(f"{folder}/{name}", _stamp(status), status.st_size))
        except FileNotFoundError:
            return iter(())
        except OSError as error:
            raise self._translated(prefix, error) from error
        return iter(found)

    def folders(self) -> Iterator[str]:
        try:
            with os.scandir(self.root) as entries:
                return iter([e.name for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)])
        except FileNotFoundError:
            return iter(())
        except OSError as error:
            raise self._translated("", error) from error

    def close(self) -> None:
        """Nothing is held between calls."""

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}"

    def _read(self, key: str) -> Blob:
        fd = os.open(self._path(key), _READ)
        try:
            status = os.fstat(fd)
            data = _read_all(fd, status.st_size)
        finally:
            os.close(fd)
        return Blob(data, _version(status, data))

    def _found(self, key: str, data: bytes) -> str:
        for _ in range(_FOUNDINGS):
            self._make_folder_of(key)
            try:
                return self._create(key, data)
            except FileNotFoundError:
                continue  # a delete found the folder empty, and removed it
            except PermissionError as error:
                if error.errno != errno.EPERM:
                    raise  # EPERM is also what Linux says of a nameless file in a folder that is being removed
        return self._create(key, data)

    def _make_folder_of(self, key: str) -> None:
        folder = _folder_of(self._path(key))
        try:
            os.makedirs(folder, exist_ok=True)
        except FileExistsError as error:
            if os.path.lexists(folder):  # otherwise a delete removed it between the two looks of makedirs
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from error
        if self._syncs_each_write:
            _sync_folder(self.root)

    def _create(self, key: str, data: bytes) -> str:
        path = self._path(key)
        version = self._create_nameless(path, data)
        if version is None:
            version = self._create_staged(path, data)
        if self._syncs_each_write:
            _sync_folder(_folder_of(path))
        return version

    def _create_nameless(self, path: str, data: bytes) -> str | None:
        """Links a file that never had another name, so a kill leaves nothing behind; None where that is not possible."""
        if not hasattr(os, "O_TMPFILE"):
            return None
        try:
            fd = os.open(_folder_of(path), _NAMELESS, 0o666)
        except OSError as error:
            if error.errno in (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL):
                return None
            if error.errno == errno.EPERM and not os.path.lexists(_folder_of(path)):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path) from error
            raise
        try:
            version = self._fill(fd, data)
            # The descriptor of the folder is not looked at for an absolute path; it makes Python call linkat, and
            # only linkat can follow the link in /proc.
            os.link(f"/proc/self/fd/{fd}", path, src_dir_fd=fd, follow_symlinks=True)
        except FileNotFoundError:
            if os.path.isdir("/proc/self/fd"):
                raise
            return None
        finally:
            os.close(fd)
        return version

    def _create_staged(self, path: str, data: bytes) -> str:
        staging, version = self._stage(path, data)
        try:
            os.link(staging, path)
        finally:
            os.unlink(staging)
        return version

    def _replace(self, key: str, data: bytes, condition: Condition) -> str:
        path = self._path(key)
        staging, version = self._stage(path, data)
        try:
            with self._locks.holding(key):
                if condition.kind == "unchanged":
                    self._expect(key, condition.version)
                os.replace(staging, path)
        except BaseException:
            _remove(staging)
            raise
        if self._syncs_each_write:
            _sync_folder(_folder_of(path))
        return version

    def _expect(self, key: str, version: str) -> None:
        try:
            status = os.lstat(self._path(key))
            current = _stamp(status) or self._read(key).version
        except FileNotFoundError:
            current = ""
        if current != version:
            raise ConflictError(f"{key!r} in {self.root} was changed meanwhile", key=key)

    def _stage(self, path: str, data: bytes) -> tuple[str, str]:
        """A staging file beside `path` with the data in it, and the version it will have."""
        staging = f"{_folder_of(path)}/{_STAGING}{self._token}-{os.getpid()}-{next(self._numbers)}"
        fd = os.open(staging, _STAGE, 0o666)
        try:
            version = self._fill(fd, data)
        except BaseException:
            _remove(staging)
            raise
        finally:
            os.close(fd)
        return staging, version

    def _fill(self, fd: int, data: bytes) -> str:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        if _CAN_STAMP:
            now = _fresh_stamp()
            os.utime(fd, ns=(now, now))
        if self._syncs_each_write:
            os.fsync(fd)
        return _version(os.fstat(fd), data)

    @property
    def _syncs_each_write(self) -> bool:
        return self.durability == "power" or (self.durability == "barrier" and self._syncfs is None)

    def _sync_everything(self) -> None:
        if self._syncfs is None:
            return
        fd = os.open(self.root, os.O_RDONLY)
        try:
            if self._syncfs(fd) != 0:
                number = ctypes.get_errno()
                raise OSError(number, os.strerror(number), self.root)
        finally:
            os.close(fd)

    def _translated(self, key: str, error: OSError) -> ChunkStoreError:
        """The border where the operating system's errors become ours."""
        if isinstance(error, FileExistsError):
            return ConflictError(f"{self.root} holds {key!r} already", key=key)
        if isinstance(error, FileNotFoundError):
            return ObjectNotFoundError(f"{self.root} holds no object {key!r}", key=key)
        transient, advice = _ADVICE.get(error.errno or 0, (False, "look at the disk and the system's log"))
        what = f"{key!r} in {self.root}" if key else self.root
        message = f"cannot work on {what}: {error.strerror or error}; {advice}"
        return BackendUnavailableError(message, key=key, transient=transient)


def _unpickled(root: str, durability: Durability) -> LocalBackend:
    return LocalBackend(root, durability=durability)


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]  # of the key, whose parts are always parted by a slash


def _read_all(fd: int, size: int) -> bytes:
    data = os.read(fd, size + 1)
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            break
        data += more
    return data


def _fresh_stamp() -> int:
    """A modification time that no other write has: the kernel's own has steps of milliseconds, and inodes are reused."""
    now = time.time_ns() // 100 * 100
    return now if now % 1000 else now + 100


def _stamp(status: os.stat_result) -> str:
    """The version that a file's status tells; empty where the file system keeps no time finer than microseconds."""
    if status.st_mtime_ns % 1000 == 0:
        return ""
    return f"{status.st_mtime_ns:x}-{status.st_ino:x}-{status.st_size:x}"


def _version(status: os.stat_result, data: bytes) -> str:
    return _stamp(status) or hashlib.blake2b(data, digest_size=16).hexdigest()


def _remove(staging: str) -> None:
    with suppress(OSError):  # the disk fails, and the first error says so
        os.unlink(staging)


def _remove_folder(folder: str) -> None:
    """Removes a folder without objects, and the staging files in it that killed writers left."""
    try:
        os.rmdir(folder)
    except OSError:
        with os.scandir(folder) as entries:
            if all(entry.name.startswith(_STAGING) for entry in entries):  # ends at the first that is no staging file
                for name in os.listdir(folder):
                    _remove(f"{folder}/{name}")
        os.rmdir(folder)


def _sync_folder(folder: str) -> None:
    if os.name == "nt":
        return  # Windows has no handle of a folder to sync
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _find_syncfs() -> Callable[[int], int] | None:
    if not sys.platform.startswith("linux"):
        return None
    try:
        return ctypes.CDLL(None, use_errno=True).syncfs
    except (OSError, AttributeError):
        return None
