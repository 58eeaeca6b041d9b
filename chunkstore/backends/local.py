"""Objects as files on a local disk: atomic by staging and rename, exclusive by link, compare-and-swap under a file lock.

fsspec's own local writes are not used: its `pipe_file` writes in place (a reader beside it gets torn files) and its
create is check-then-write (two processes win).
"""

from __future__ import annotations

import errno
import hashlib
import itertools
import os
import secrets
import stat
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Final

from chunkstore.backends.contract import ANY, Blob, Condition, Entry, Guarantees
from chunkstore.backends.hostlock import FULL, HostLocks
from chunkstore.backends.localsync import Durability, Syncs, fresh_stamp, is_fine
from chunkstore.errors import (
    BackendUnavailableError,
    ChunkStoreError,
    ConflictError,
    ObjectNotFoundError,
    StorageFullError,
)

# O_NONBLOCK: opening a named pipe that stands where a chunk should be would wait for a writer without end.
_READ: Final = sum(getattr(os, flag, 0) for flag in ("O_RDONLY", "O_CLOEXEC", "O_NOFOLLOW", "O_NONBLOCK", "O_BINARY"))
_STAGE: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_NAMELESS: Final = sum(getattr(os, flag, 0) for flag in ("O_WRONLY", "O_TMPFILE", "O_CLOEXEC", "O_NOFOLLOW"))

MAX_OBJECT_BYTES: Final = 1 << 30
"""A larger file is nothing that was put here; reading it would take all memory."""

STAGING: Final = ".t-"
"""How the names of staging files begin."""
_USUAL: Final = "run.json"
"""An object that most folders have. Nothing depends on it."""
_FOUNDINGS: Final = 100
_CAN_STAMP: Final = os.utime in os.supports_fd

_ADVICE: Final = {
    errno.ENOSPC: (False, "the disk is full; free some space and repeat the call"),
    errno.EDQUOT: (False, "the disk quota is used up; free some space and repeat the call"),
    errno.EACCES: (False, "permission denied; make the folder readable and writable for this user"),
    errno.EPERM: (False, "not permitted; make the folder readable and writable for this user"),
    errno.EROFS: (False, "the file system is read-only; choose another folder or remount it writable"),
    errno.ENOTDIR: (False, "a part of the path is a file, not a folder; choose another folder"),
    errno.EISDIR: (False, "a folder, pipe or device stands where a chunk should be; move it away"),
    errno.ENXIO: (False, "a socket or pipe stands where a chunk should be; move it away"),
    errno.EFBIG: (False, "the file is larger than any chunk; move it away"),
    errno.ELOOP: (
        False,
        "a symbolic link stands where a run or a chunk should be; links are not followed, move it away",
    ),
    errno.EMFILE: (True, "too many open files; raise the limit (ulimit -n) or use fewer threads"),
    errno.ENFILE: (True, "too many open files on this host"),
}


class LocalBackend:
    """Objects as files under `root`; each folder of the keys is a folder there.

    Files that start with a dot are ours (staging files, locks) and are never listed.
    """

    concurrency = 1
    asynchronous = False

    def __init__(
        self, root: str | os.PathLike[str], *, durability: Durability = "barrier", deadline: float = 15.0
    ) -> None:
        self.root = os.path.abspath(root)
        self.durability = durability
        self._token = secrets.token_hex(4)  # with the process id: no two writers share a staging file, on any host
        self._numbers = itertools.count()
        self.deadline = deadline
        self._locks = HostLocks(Path(self.root, ".locks"), timeout=deadline)
        # Apart from the others, and always taken before them: a block of `excluding` puts, which takes one of those.
        self._exclusions = HostLocks(Path(self.root, ".locks", "leases"), timeout=deadline)
        self._syncs = Syncs(self.root, durability, f"{self.root}/.locks/barrier")

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
            durable=self._syncs.each_write,
            conditional_delete=True,
        )

    def __repr__(self) -> str:
        return f"LocalBackend({self.root!r}, durability={self.durability!r})"

    def __reduce__(self) -> tuple[Callable[..., LocalBackend], tuple[str, Durability, float]]:
        return _unpickled, (self.root, self.durability, self.deadline)

    def get(self, key: str) -> Blob:
        try:
            _refuse_linked_folder(self._path(key))
            return self._read(key)
        except OSError as error:
            raise self._translated(key, error) from error

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        trusted = ""
        for key in keys:
            folder = _folder_of(key)
            try:
                if folder != trusted:  # of ten thousand chunks of a run the first is enough
                    _refuse_linked_folder(self._path(key))
                    trusted = folder
                blob = self._read(key)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise self._translated(key, error) from error
            yield key, blob

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        last_barrier = self._syncs.last_barrier()
        try:
            version = self._named(key, data, condition)
        except ConflictError:
            # Who finds in the winner's object what it wanted to write takes that for written, so it must last.
            self._sync_name(key, barrier=False)
            raise
        replaced = None if condition.kind == "absent" else condition.version
        self._syncs.note(key, version, last_barrier, replaced)
        if barrier or self._syncs.each_write:
            self._sync_name(key, barrier=barrier)
        return version

    def _named(self, key: str, data: bytes, condition: Condition) -> str:
        try:
            if condition.founding:
                _refuse_linked_folder(self._path(key))
                return self._found(key, data)
            if condition.kind == "absent":
                return self._create(key, data)  # refuses it by itself
            _refuse_linked_folder(self._path(key))
            return self._replace(key, data, condition)
        except OSError as error:
            raise self._translated(key, error) from error

    def _sync_name(self, key: str, *, barrier: bool) -> None:
        """The object stands there already. A failure is never transient: it would be read back, and taken for landed."""
        try:
            self._syncs.name(_folder_of(self._path(key)), barrier=barrier)
        except FileNotFoundError as error:
            raise self._translated(key, error) from error
        except OSError as error:
            raise BackendUnavailableError(
                f"{key!r} is written to {self.root} but may not survive power loss, since the disk could not be synced: "
                f"{error.strerror or error}; look at the disk and the system's log, then write it again",
                key=key,
            ) from error

    def delete(self, key: str, condition: Condition = ANY) -> None:
        path = self._path(key)
        try:
            _refuse_linked_folder(path)
            with self._locks.holding(key):
                if condition != ANY and os.path.lexists(path):
                    self._expect(key, condition.version)
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
            _refuse_linked_folder(self._path(prefix))
            with os.scandir(self._path(folder)) as entries:
                # All names first: who misses an object that was removed meanwhile sees the other ones as they are after that.
                for entry in list(entries):
                    name = entry.name
                    if name.startswith(start) and not name.startswith("."):
                        try:
                            status = entry.stat(follow_symlinks=False)
                        except FileNotFoundError:  # deleted between the listing and the look at it
                            continue
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
                names = [e.name for e in entries if not e.name.startswith(".") and e.is_dir(follow_symlinks=False)]
                return iter([name for name in names if self._holds_an_object(name)])
        except FileNotFoundError:
            return iter(())
        except OSError as error:
            raise self._translated("", error) from error

    def _holds_an_object(self, folder: str) -> bool:
        """Not so where a writer was stopped between making the folder and linking its first object, or a delete half way."""
        try:
            # A look at the name that nearly every folder has costs a third of a listing, and there may be 100,000.
            os.lstat(self._path(f"{folder}/{_USUAL}"))
        except (FileNotFoundError, NotADirectoryError):
            return self._lists_an_object(folder)
        return True

    def _lists_an_object(self, folder: str) -> bool:
        try:
            with os.scandir(self._path(folder)) as entries:
                return any(not entry.name.startswith(".") for entry in entries)
        except (FileNotFoundError, NotADirectoryError):
            return False

    def close(self) -> None:
        """Nothing is held between calls."""

    def excludes(self) -> bool:
        """See `chunkstore.backends.Excluding`."""
        return True

    def excluding(self, key: str, *, shared: bool = False) -> AbstractContextManager[None]:
        """See `chunkstore.backends.Excluding`. One at a time, shared or not."""
        return self._exclusions.holding(key)

    def _path(self, key: str) -> str:
        return f"{self.root}/{key}"

    def _read(self, key: str) -> Blob:
        path = self._path(key)
        fd = os.open(path, _READ)
        try:
            status = os.fstat(fd)
            size = status.st_size
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EISDIR, os.strerror(errno.EISDIR), path)
            if size > MAX_OBJECT_BYTES:
                raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), path)
            data = os.read(fd, size + 1)
            if len(data) < size:
                data = _read_rest(fd, data, size)
        finally:
            os.close(fd)
        return Blob(data, _version(status, data))

    def _found(self, key: str, data: bytes) -> str:
        try:
            return self._create_in_new_folder(key, data)
        except OSError:
            with suppress(OSError):  # there are objects in it
                os.rmdir(_folder_of(self._path(key)))
            raise

    def _create_in_new_folder(self, key: str, data: bytes) -> str:
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
            # Where nothing is, a delete removed it between the two looks of makedirs.
            if os.path.lexists(folder) and not _is_folder(folder):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from error
        if not os.path.isdir(self._locks.folder) or os.path.islink(self._locks.folder):
            self._locks.prepare()
        self._syncs.anchor()

    def _create(self, key: str, data: bytes) -> str:
        path = self._path(key)
        version = self._create_nameless(path, data)
        if version is None:
            _refuse_linked_folder(path)
            version = self._create_staged(path, data)
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
            if error.errno == errno.ENOTDIR:
                _refuse_linked_folder(path)  # says better what is wrong
            if error.errno == errno.EPERM and _vanishes(_folder_of(path)):
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
            _close(fd)
        return version

    def _create_staged(self, path: str, data: bytes) -> str:
        staging, version = self._stage(path, data)
        try:
            os.link(staging, path)
        finally:
            _remove(staging)
        return version

    def _replace(self, key: str, data: bytes, condition: Condition) -> str:
        path = self._path(key)
        staging, version = self._stage(path, data, over=(key, condition.version))
        try:
            with self._locks.holding(key):
                if condition.kind == "unchanged":
                    self._expect(key, condition.version)
                os.replace(staging, path)
        except BaseException:
            _remove(staging)
            raise
        return version

    def _expect(self, key: str, version: str) -> None:
        try:
            status = os.lstat(self._path(key))
            current = _stamp(status) or self._read(key).version
        except FileNotFoundError:
            current = ""
        if current != version:
            raise ConflictError(f"{key!r} in {self.root} was changed meanwhile", key=key)

    def _stage(self, path: str, data: bytes, over: tuple[str, str] | None = None) -> tuple[str, str]:
        """A staging file beside `path` with the data in it, and the version it will have; `over` is what it will replace."""
        staging = f"{_folder_of(path)}/{STAGING}{self._token}-{os.getpid()}-{next(self._numbers)}"
        fd = os.open(staging, _STAGE, 0o666)
        try:
            try:
                version = self._fill(fd, data, over)
            finally:
                _close(fd)
        except BaseException:
            _remove(staging)
            raise
        return staging, version

    def _fill(self, fd: int, data: bytes, over: tuple[str, str] | None = None) -> str:
        written = os.write(fd, data)
        while written < len(data):
            written += os.write(fd, memoryview(data)[written:])
        if _CAN_STAMP:
            now = fresh_stamp()
            os.utime(fd, ns=(now, now))
        self._syncs.file(fd, over)
        return _version(os.fstat(fd), data)

    def _translated(self, key: str, error: OSError) -> ChunkStoreError:
        """The border where the operating system's errors become ours."""
        if isinstance(error, FileExistsError):
            return ConflictError(f"{self.root} holds {key!r} already", key=key)
        if isinstance(error, FileNotFoundError):
            return ObjectNotFoundError(f"{self.root} holds no object {key!r}", key=key)
        transient, advice = _ADVICE.get(error.errno or 0, (False, "look at the disk and the system's log"))
        what = f"{key!r} in {self.root}" if key else self.root
        message = f"cannot work on {what}: {error.strerror or error}; {advice}"
        kind = StorageFullError if error.errno in FULL else BackendUnavailableError
        return kind(message, key=key, transient=transient)


def _unpickled(root: str, durability: Durability, deadline: float) -> LocalBackend:
    return LocalBackend(root, durability=durability, deadline=deadline)


def _refuse_linked_folder(path: str) -> None:
    """A link in a run's place would lead readers, writers and deletes out of the root; `folders` does not show it either."""
    folder = _folder_of(path)
    try:
        linked = stat.S_ISLNK(os.lstat(folder).st_mode)
    except FileNotFoundError:
        return
    if linked:
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), folder)


def _folder_of(path: str) -> str:
    return path.rpartition("/")[0]  # of the key, whose parts are always parted by a slash


def _vanishes(folder: str) -> bool:
    """Whether a folder is gone, or will be in a moment: of one that is being removed Linux says EPERM, and still shows it."""
    for pause in (0.0, 0.001, 0.01):
        time.sleep(pause)
        if not os.path.lexists(folder):
            return True
    return False


def _is_folder(path: str) -> bool:
    """Unlike `os.path.isdir` it does not take a look that failed for a no."""
    try:
        return stat.S_ISDIR(os.stat(path).st_mode)
    except FileNotFoundError:
        return False


def _close(fd: int) -> None:
    """Closes a file that was written. NFS and quotas may say only here what a write could not do; the rest is no loss."""
    try:
        os.close(fd)
    except OSError as error:
        if error.errno in (errno.EIO, errno.ENOSPC, errno.EDQUOT):
            raise


def _read_rest(fd: int, data: bytes, size: int) -> bytes:
    while len(data) < size:
        more = os.read(fd, size - len(data))
        if not more:
            break
        data += more
    return data


def _stamp(status: os.stat_result) -> str:
    """The version that a file's status tells; empty where the file system keeps no time finer than microseconds."""
    at = status.st_mtime_ns
    return f"{at:x}-{status.st_ino:x}-{status.st_size:x}" if is_fine(at) else ""


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
            if all(entry.name.startswith(STAGING) for entry in entries):  # ends at the first that is no staging file
                for name in os.listdir(folder):
                    _remove(f"{folder}/{name}")
        os.rmdir(folder)
