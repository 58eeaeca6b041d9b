"""What a local disk can do of what the local backend asks for: links, renames, locks, syncs, names, times, room."""

from __future__ import annotations

import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from chunkstore.backends.hostlock import HostLocks
from chunkstore.backends.local import LocalBackend
from chunkstore.backends.localsync import fresh_stamp, is_fine, sync_folder
from chunkstore.maintenance.checks import Notes

_NETWORK: Final = (
    "nfs",
    "cifs",
    "smb",
    "9p",
    "fuse",
    "ceph",
    "glusterfs",
    "lustre",
    "gpfs",
    "beegfs",
    "afs",
    "vboxsf",
    "virtiofs",
)
_IN_MEMORY: Final = ("tmpfs", "ramfs")
_LITTLE_ROOM: Final = 1 << 30
_FEW_INODES: Final = 100_000
_LOCK_PROGRAM: Final = (
    "import sys\n"
    "from chunkstore.backends.hostlock import HostLocks\n"
    "from chunkstore.errors import BackendUnavailableError\n"
    "try:\n"
    "    with HostLocks(sys.argv[1], timeout=0.05).holding('key'):\n"
    "        print('taken')\n"
    "except BackendUnavailableError as error:\n"
    "    print('held' if error.transient else 'unusable')\n"
)


@contextlib.contextmanager
def probing_folder(root: Path, name: str, token: str, is_dead: Callable[[str], bool]) -> Iterator[Path]:
    """A folder `root/name/token` for as long as the block runs; what dead ones left is removed.

    The root is made where it is missing, and removed again with it. Its name tells how many folders above were made, so
    that another can remove them. Raises `OSError`.
    """
    missing = [folder for folder in (root, *root.parents) if not folder.exists()]
    above = root / name
    if above.is_symlink():
        raise NotADirectoryError(
            20, "a symbolic link stands where the examination would work; move it away", str(above)
        )
    folder = above / f"{token}-{len(missing)}"
    folder.mkdir(parents=True)
    made = len(missing)
    try:
        for other in list(above.iterdir()):
            if other != folder and is_dead(other.name):
                made = max(made, _made_for(other))
                shutil.rmtree(other, ignore_errors=True)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _remove_empty(above, made)


def _made_for(folder: Path) -> int:
    """How many folders above were made for an examination, as the name of its own says."""
    made = folder.name.rpartition("-")[2]
    return int(made) if made.isdecimal() else 0


def _remove_empty(above: Path, made: int) -> None:
    """The folder of all examinations, and so many above it."""
    with contextlib.suppress(OSError):  # another examination is at work, or a store was made there meanwhile
        above.rmdir()
        for folder, _ in zip(above.parents, range(made), strict=False):
            folder.rmdir()


def examine_disk(backend: LocalBackend, folder: Path, notes: Notes) -> None:
    """Everything, in a folder of the same disk that exists and is removed afterwards."""
    note_file_system(folder, notes)
    _links(folder, notes)
    _replace(folder, notes)
    _nameless(folder, notes)
    _locks(folder, notes)
    _syncs(backend, folder, notes)
    _names(folder, notes)
    _times(folder, notes)
    _room(folder, notes)


def note_file_system(folder: Path, notes: Notes) -> None:
    """Whether it is one whose locks hold, and that lasts."""
    kind = file_system_of(folder)
    if not kind:
        notes.note("file system", "unknown", "not told by this system")
    elif kind.startswith(_NETWORK):
        follows = "locks and listings depend on the server: write from one host, and prefer an object store for several"
        notes.note("file system", "no", f"{kind}, over a network", follows)
        notes.advise("Write from one host only: locks of a network file system are not to be relied on between hosts.")
    elif kind.startswith(_IN_MEMORY):
        notes.note("file system", "no", f"{kind}, in memory", "all runs are gone after a restart of the host")
        notes.advise("Choose a folder on a disk for runs that are to stay.")
    else:
        notes.note("file system", "yes", kind)


def file_system_of(folder: Path, mounts: str = "/proc/self/mountinfo") -> str:
    """The type of the file system that a folder is on, as Linux names it; empty where nobody says."""
    try:
        lines = Path(mounts).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    path = os.path.realpath(folder)
    best, kind = "", ""
    for line in lines:
        fields, _, rest = line.partition(" - ")
        parts = fields.split(" ")
        if len(parts) < 5 or not rest:
            continue
        point = parts[4].encode().decode("unicode_escape")  # blanks are written as \040
        if (path == point or path.startswith(point.rstrip("/") + "/")) and len(point) >= len(best):
            best, kind = point, rest.split(" ")[0]
    return kind


def _links(folder: Path, notes: Notes) -> None:
    first, second = folder / "linked", folder / "link"
    first.write_bytes(b"1")
    try:
        os.link(first, second)
        os.link(first, second)
    except FileExistsError:
        notes.note("link", "yes", "a second link of one name is refused: of many creators one wins")
    except OSError as error:
        notes.note(
            "link",
            "no",
            f"hard links are not possible: {error.strerror}",
            "runs cannot be created safely: choose another disk",
        )
        notes.advise("This disk has no hard links, which creating a run needs: choose another one.")
    else:
        notes.note("link", "no", "a second link of one name was made", "two creators may both win: choose another disk")


def _replace(folder: Path, notes: Notes) -> None:
    old, new = folder / "old", folder / "new"
    old.write_bytes(b"old")
    new.write_bytes(b"new")
    with old.open("rb") as reader:
        new.replace(old)
        kept = reader.read() == b"old"
    if kept and old.read_bytes() == b"new" and not new.exists():
        notes.note("replace", "yes", "a reader keeps the old file while a new one takes its place")
    else:
        notes.note(
            "replace",
            "no",
            "a replaced file changed under its reader",
            "readers may see half a chunk: choose another disk",
        )


def _nameless(folder: Path, notes: Notes) -> None:
    flag = getattr(os, "O_TMPFILE", 0)
    follows = "a writer that is killed leaves a staging file, which repair removes"
    if not flag:
        notes.note("O_TMPFILE", "no", "this system has no nameless files", follows)
        return
    try:
        fd = os.open(folder, os.O_WRONLY | flag, 0o666)
        try:
            os.link(f"/proc/self/fd/{fd}", folder / "nameless", src_dir_fd=fd, follow_symlinks=True)
        finally:
            os.close(fd)
    except OSError as error:
        notes.note("O_TMPFILE", "no", f"nameless files are not possible: {error.strerror}", follows)
    else:
        notes.note("O_TMPFILE", "yes", "a new chunk has no name before it is whole: a kill leaves nothing behind")


def _locks(folder: Path, notes: Notes) -> None:
    """Another process, as locks within one prove nothing about two."""
    name = "locks between processes"
    locks = folder / "locks"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    with HostLocks(locks, timeout=5).holding("key"):
        while_held = _lock_elsewhere(locks, environment)
    after = _lock_elsewhere(locks, environment)
    if (while_held, after) == ("held", "taken"):
        notes.note(name, "yes", "flock keeps another process out, and lets it in afterwards")
    else:
        follows = "processes that update one chunk may undo each other's work: one writer at a time"
        notes.note(
            name, "no", f"another process found it {while_held or 'broken'}, and then {after or 'broken'}", follows
        )
        notes.advise("Let only one process write here, or choose a disk whose locks hold.")


def _lock_elsewhere(locks: Path, environment: dict[str, str]) -> str:
    command = [sys.executable, "-c", _LOCK_PROGRAM, str(locks)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment, timeout=60)
    return done.stdout.strip()


def _syncs(backend: LocalBackend, folder: Path, notes: Notes) -> None:
    taken = []
    try:
        for number in range(5):
            began = time.perf_counter()
            with (folder / f"synced-{number}").open("wb") as file:
                file.write(b"1" * 1000)
                file.flush()
                os.fsync(file.fileno())
            sync_folder(str(folder))
            taken.append(time.perf_counter() - began)
    except OSError as error:
        follows = "nobody can promise that writes survive power loss: set durability='process', or choose another disk"
        notes.note("fsync", "no", f"cannot be synced: {error.strerror}", follows)
        return
    each = shown_ms(statistics.median(taken))
    notes.note("fsync", "yes", f"a file and its folder in {each}")
    if backend.durability == "process":
        notes.advise(
            "durability is 'process': power loss may take the last writes. 'barrier' makes every finished run last."
        )
    elif backend.durability == "barrier":
        notes.advise(
            f"durability is 'barrier': a finished run survives power loss. 'power' makes each write last, for {each} more each."
        )


def shown_ms(seconds: float) -> str:
    """A short time for people: `0.35 ms`, `110 ms`."""
    ms = 1000 * seconds
    return f"{ms:.2f} ms" if ms < 10 else f"{ms:,.0f} ms"


def _names(folder: Path, notes: Notes) -> None:
    (folder / "Case").write_bytes(b"")
    if (folder / "case").exists():
        follows = "steps or runs whose names differ only in case are refused"
        notes.note("case", "no", "upper and lower case are one", follows)
    else:
        notes.note("case", "yes", "upper and lower case are told apart")
    try:
        (folder / ("n" * 255)).write_bytes(b"")
    except OSError as error:
        notes.note(
            "long names",
            "no",
            f"names of 255 bytes are refused: {error.strerror}",
            "steps with long names cannot be stored: choose another disk",
        )
        notes.advise(
            "This disk refuses names of 255 bytes (an encrypted folder?): steps with long names cannot be stored."
        )
    else:
        notes.note("long names", "yes", "names of 255 bytes are kept")


def _times(folder: Path, notes: Notes) -> None:
    path = folder / "time"
    before = time.time()
    path.write_bytes(b"")
    after = time.time()
    at = path.stat().st_mtime
    skew = 0.0 if before - 0.1 <= at <= after + 0.1 else at - after
    note_skew(skew, notes)
    stamp = fresh_stamp()
    os.utime(path, ns=(stamp, stamp))
    if is_fine(path.stat().st_mtime_ns):
        notes.note("time stamps", "yes", "kept to the nanosecond: versions cost no read")
    else:
        notes.note(
            "time stamps", "no", "times are coarse", "each update reads what it replaces, and lists tell no versions"
        )


def note_skew(skew: float, notes: Notes, exact: str = "") -> None:
    """How far the place's clock is ahead of ours, in seconds."""
    if abs(skew) < 2:
        notes.note("clock", "yes", f"agrees with this host's{exact}")
        return
    way = "ahead of" if skew > 0 else "behind"
    follows = "ages and --older-than are wrong by as much; S3 refuses requests at 15 minutes: set the clock (NTP)"
    notes.note("clock", "no", f"{abs(skew):,.0f} s {way} this host's", follows)
    notes.advise(
        "Set the clocks: what one process read and then wrote stays in order, but times and ages do not agree."
    )


def _room(folder: Path, notes: Notes) -> None:
    if not hasattr(os, "statvfs"):
        return
    found = os.statvfs(folder)
    room = found.f_bavail * found.f_frsize
    few = room < _LITTLE_ROOM
    notes.note(
        "free space",
        "no" if few else "yes",
        f"{room / (1 << 30):,.1f} GiB",
        "free some: writers stop when the disk is full" if few else "",
    )
    if not found.f_files:
        notes.note("free inodes", "yes", "not counted by this file system")
        return
    few = found.f_favail < _FEW_INODES
    follows = "each chunk takes one: delete old runs, or pack finished ones (chunkstore compact)" if few else ""
    notes.note("free inodes", "no" if few else "yes", f"{found.f_favail:,} of {found.f_files:,}", follows)
