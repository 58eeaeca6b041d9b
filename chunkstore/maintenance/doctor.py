"""Examines a place: what it really does with conditions, listings, clocks and rights, and what follows from that for whoever stores there.

Everything is tried out in a folder of the examination's own, `.doctor/`, and removed again; what a killed examination left, the next one removes.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import secrets
import socket
import statistics
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, TypeVar

from chunkstore.backends import ANY, CREATE, FOUND, Backend, Entry, unchanged
from chunkstore.backends.local import LocalBackend
from chunkstore.backends.s3faults import REFUSED, fault_of
from chunkstore.config import checked_settings, open_backend
from chunkstore.errors import (
    BackendUnavailableError,
    ChunkStoreError,
    ConflictError,
    NotSupportedError,
    ObjectNotFoundError,
)
from chunkstore.maintenance.checks import Check, Outcome
from chunkstore.maintenance.localprobes import examine_disk, probing_folder, shown_ms
from chunkstore.store import ChunkedRunLogStore

T = TypeVar("T")

Writers = Literal["nobody", "one process", "one host", "many hosts"]

FOLDER: Final = ".doctor"
_RACERS: Final = 8
_OTHERS_AFTER: Final = 600
"""Seconds after which another host's examination is taken for dead."""
_SKEW: Final = 2.0
_GHOST: Final = "0" * 32


@dataclass(frozen=True, slots=True)
class Examination:
    """What a place does, and what follows."""

    place: str
    checks: tuple[Check, ...]
    writers: Writers
    """Who may write at the same time without losing each other's work."""
    advice: tuple[str, ...]
    """What to do, or which setting to choose."""

    @property
    def is_usable(self) -> bool:
        """Whether runs can be written here at all."""
        return self.writers != "nobody"

    def outcome(self, name: str) -> Outcome:
        """Of the check of this name; unknown where it was not tried here."""
        return next((check.outcome for check in self.checks if check.name == name), "unknown")


def examine(target: str | os.PathLike[str] | Backend | ChunkedRunLogStore, **settings: object) -> Examination:
    """What a place really does: a URL or folder with the settings of `chunkstore.open`, a backend, or an open store.

    Writes, reads and deletes some thirty small objects below `.doctor/`, and removes them; on a local disk in files of its own. At most
    120 requests to an object store. A folder that does not exist is made for as long as it takes.

    Raises `BackendUnavailableError` where the place does not answer or lets nobody in at all, and `InvalidInputError` for a URL or setting that cannot be
    used. What is refused for a lack of rights is told in the examination. No secret is shown.
    """
    if isinstance(target, ChunkedRunLogStore):
        return _examined(target.backend)
    if isinstance(target, Backend):
        return _examined(target)
    backend = open_backend(target, checked_settings(target, settings))
    try:
        return _examined(backend)
    finally:
        backend.close()


def _examined(backend: Backend) -> Examination:
    notes = _Notes()
    if isinstance(backend, LocalBackend):
        _examine_local(backend, notes)
        writers = notes.writers()
        return Examination(
            backend.place, tuple(notes.checks), "one host" if writers == "many hosts" else writers, tuple(notes.advice)
        )
    _Trial(backend, f"{FOLDER}/{_token()}", notes).run()
    if notes.can("write"):
        _state_guarantees(backend, notes)
        s3 = sys.modules.get("chunkstore.backends.s3")
        if s3 is not None and isinstance(backend, s3.S3Backend):
            from chunkstore.maintenance.s3probes import examine_bucket

            examine_bucket(backend, f"{FOLDER}/{_token()}-", notes)
        sql = sys.modules.get("chunkstore.backends.sql")
        if sql is not None and isinstance(backend, sql.SqlBackend):
            from chunkstore.maintenance.sqlprobes import examine_table

            examine_table(backend, notes)
    return Examination(backend.place, tuple(notes.checks), notes.writers(), tuple(notes.advice))


def _examine_local(backend: LocalBackend, notes: _Notes) -> None:
    """In a folder of the examination's own on the same disk, so that no lock file or folder of the store is made by it."""
    try:
        with probing_folder(Path(backend.root), FOLDER, _token(), _is_dead) as folder:
            # What a sync costs is told by its own check; here it would only make the races slow.
            inner = LocalBackend(folder / "place", durability="process", deadline=backend.deadline)
            _list_of(backend, notes)
            _Trial(inner, f"{FOLDER}/trial", notes).run()
            _state_guarantees(backend, notes)
            examine_disk(backend, folder, notes)
    except OSError as error:
        if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise BackendUnavailableError(
                f"cannot examine {backend.root}: {error.strerror or error}; choose another folder, or look at the disk"
            ) from error
        _list_of(backend, notes)
        notes.note(
            "write",
            "no",
            f"refused: {error.strerror or error}",
            "make the folder writable for this user; reading works all the same",
        )


def _list_of(backend: LocalBackend, notes: _Notes) -> None:
    try:
        count = sum(1 for _ in backend.folders())
    except BackendUnavailableError as error:
        if not _is_refusal(error):
            raise
        notes.note("list", "no", "refused", "make the folder readable for this user")
    else:
        notes.note("list", "yes", f"{count:,} runs")


class _Notes:
    """What was seen so far."""

    def __init__(self) -> None:
        self.checks: list[Check] = []
        self.advice: list[str] = []
        self.across_processes = False
        self.across_hosts = False

    def note(self, name: str, outcome: Outcome, what: str, follows: str = "") -> None:
        if all(check.name != name for check in self.checks):
            self.checks.append(Check(name, outcome, what, follows))

    def advise(self, text: str) -> None:
        if text not in self.advice:
            self.advice.append(text)

    def can(self, name: str) -> bool:
        return any(check.name == name and check.outcome == "yes" for check in self.checks)

    def writers(self) -> Writers:
        """Who may write at once, by what was seen and what the backend promises: the lesser of the two."""
        if not (self.can("write") and self.can("read")):
            return "nobody"
        if not (self.can("create race") and self.can("update race") and self.across_processes):
            return "one process"
        if any(check.name == "locks between processes" and check.outcome == "no" for check in self.checks):
            return "one process"
        return "many hosts" if self.across_hosts else "one host"


def _state_guarantees(backend: Backend, notes: _Notes) -> None:
    try:
        guarantees = backend.guarantees
    except NotSupportedError as error:
        notes.note(
            "guarantees", "no", str(error), "set conditional_writes='auto', or use a server that honours conditions"
        )
        return
    except BackendUnavailableError as error:
        if error.transient:
            raise
        notes.note("guarantees", "unknown", str(error))
        return
    notes.across_processes, notes.across_hosts = guarantees.across_processes, guarantees.across_hosts
    if not guarantees.across_processes:
        notes.advise("The objects live in this process and end with it: for tests and examples only.")


@dataclass(slots=True)
class _Times:
    """How long each sort of request took, in seconds."""

    taken: dict[str, list[float]] = field(default_factory=dict)

    def of(self, verb: str, work: Callable[[], T]) -> T:
        began = time.perf_counter()
        done = work()
        self.taken.setdefault(verb, []).append(time.perf_counter() - began)
        return done

    def __str__(self) -> str:
        return ", ".join(f"{verb} {shown_ms(statistics.median(taken))}" for verb, taken in self.taken.items())


class _Trial:
    """Tries out what every backend promises, on objects whose keys begin with `start`."""

    def __init__(self, backend: Backend, start: str, notes: _Notes) -> None:
        self._backend = backend
        self._start = start
        self._notes = notes
        self._times = _Times()
        self._made: set[str] = set()

    def run(self) -> None:
        """All, one after the other; what is refused ends it. What was made is removed, whatever happens."""
        refused = self._listed()
        try:
            refused += self._written()
            if self._notes.can("write") and self._notes.can("read"):
                self._conditions()
                self._races()
        finally:
            left = self._removed()
        if len(refused) == 2 and not self._notes.can("write"):  # neither listing nor writing: nobody is let in
            raise refused[0]
        self._judge_delete(left)
        if self._times.taken:
            self._notes.note("latency", "yes", str(self._times))

    def _key(self, name: str) -> str:
        key = f"{self._start}-{name}"
        self._made.add(key)
        return key

    def _listed(self) -> list[BackendUnavailableError]:
        """Whether listing is allowed; removes what dead examinations left."""
        try:
            found = list(self._backend.list(f"{FOLDER}/"))
        except BackendUnavailableError as error:
            if not _is_refusal(error):
                raise
            self._notes.note(
                "list",
                "no",
                f"refused: {_said(error)}",
                "allow listing (s3:ListBucket): runs cannot be found without it",
            )
            return [error]
        self._notes.note("list", "yes", "allowed")
        for entry in found:
            if _is_dead(entry.key.partition("/")[2]):
                with contextlib.suppress(BackendUnavailableError):
                    self._backend.delete(entry.key)
        return []

    def _written(self) -> list[BackendUnavailableError]:
        key, data = self._key("write"), secrets.token_bytes(100)
        try:
            version = self._times.of("put", lambda: self._backend.put(key, data, FOUND))
        except NotSupportedError as error:
            self._notes.note(
                "write", "no", str(error), "set conditional_writes='auto', or use a server that honours conditions"
            )
            return []
        except BackendUnavailableError as error:
            if not _is_refusal(error):
                raise
            self._notes.note(
                "write",
                "no",
                f"refused: {_said(error)}",
                "allow writing (s3:PutObject), or use this place for reading only",
            )
            return [error]
        self._notes.note("write", "yes", "allowed")
        self._read(key, data, version)
        return []

    def _read(self, key: str, data: bytes, version: str) -> None:
        try:
            blob = self._times.of("get", lambda: self._backend.get(key))
        except BackendUnavailableError as error:
            if not _is_refusal(error):
                raise
            self._notes.note("read", "no", f"refused: {_said(error)}", "allow reading (s3:GetObject)")
            return
        if blob.data != data:
            self._notes.note("read", "no", "other bytes came back than were written", "do not store here")
            return
        self._notes.note("read", "yes", "allowed, and the bytes are those that were written")
        self._after_put(key, version)

    def _after_put(self, key: str, version: str) -> None:
        """A listing shows what was put, replaced and deleted before it, in its version."""
        if not self._notes.can("list"):
            return
        entry = self._times.of("list", lambda: self._entry(key))
        seen = [entry is not None]
        for _ in range(3):
            version = self._backend.put(key, secrets.token_bytes(100), ANY)
            entry = self._entry(key)
            seen.append(entry is not None and entry.version in ("", version))
        other = self._key("gone")
        self._backend.put(other, b"{}", FOUND)
        with contextlib.suppress(BackendUnavailableError):
            self._backend.delete(other)
            seen.append(self._entry(other) is None)
        if all(seen):
            self._notes.note("listing after put", "yes", "shows at once what was put, replaced and deleted")
        else:
            self._notes.note(
                "listing after put",
                "no",
                "showed what was not so any more",
                "readers may miss what was just written: do not store here",
            )
        if entry is not None and not entry.version:
            self._notes.note(
                "versions in listings", "no", "listings tell no versions", "each read fetches all chunks of a run again"
            )

    def _entry(self, key: str) -> Entry | None:
        return next((entry for entry in self._backend.list(f"{FOLDER}/") if entry.key == key), None)

    def _conditions(self) -> None:
        key = self._key("conditions")
        first = self._backend.put(key, b"1", CREATE)
        self._note(
            "conditional create",
            [self._refuses(key, b"2", CREATE)],
            "a second create of one key",
            "two writers may both believe to have made a run",
        )
        second = self._backend.put(key, b"22", unchanged(first))
        stale = self._refuses(key, b"333", unchanged(first))
        gone = self._key("never-there")
        missing = self._refuses(gone, b"{}", unchanged(_GHOST))
        right = second != first and self._backend.get(key).data == b"22"
        self._note(
            "conditional update",
            [stale, missing, right],
            "an update of an older version, or of nothing",
            "writers may undo each other's work",
        )
        self._conditional_delete(key, second)

    def _refuses(self, key: str, data: bytes, condition: object) -> bool:
        try:
            self._backend.put(key, data, condition)  # type: ignore[arg-type]
        except (ConflictError, ObjectNotFoundError):
            return True
        return False

    def _conditional_delete(self, key: str, version: str) -> None:
        follows = (
            "packing leaves the chunks beside the pack, and repair leaves damage in its place, unless told otherwise"
        )
        try:
            self._backend.delete(key, unchanged(_GHOST))
        except ConflictError:
            there = self._backend.get(key).version == version
            self._notes.note("conditional delete", "yes" if there else "no", "a delete of another version is refused")
        except NotSupportedError:
            self._notes.note("conditional delete", "no", "conditions of deletes are not honoured", follows)
        except BackendUnavailableError as error:
            if not _is_refusal(error):
                raise
        else:
            self._notes.note("conditional delete", "no", "a delete of another version was done", follows)

    def _note(self, name: str, held: list[bool], what: str, follows: str) -> None:
        if all(held):
            self._notes.note(name, "yes", f"{what} is refused")
        else:
            self._notes.note(name, "no", f"{what} was done", follows)

    def _races(self) -> None:
        """Several writers at once: exactly one creates, and no update is lost."""
        created = self._key("created")
        won = self._at_once(lambda number: not self._refuses(created, str(number).encode(), CREATE))
        self._note_race("create race", sum(won), 1, f"{_RACERS} at once create one key")
        counted = self._key("counted")
        self._backend.put(counted, b"0", FOUND)
        done = sum(self._at_once(lambda _: self._count_one(counted)))
        got = int(self._backend.get(counted).data)
        self._note_race("update race", got, done, f"{done} at once add one to a number")

    def _count_one(self, key: str) -> bool:
        until = time.monotonic() + 30
        while time.monotonic() < until:
            blob = self._backend.get(key)
            try:
                self._backend.put(key, str(int(blob.data) + 1).encode(), unchanged(blob.version))
            except ConflictError:
                time.sleep(0.001 * secrets.randbelow(20))
                continue
            return True
        return False

    def _at_once(self, work: Callable[[int], bool]) -> list[bool]:
        start = threading.Barrier(_RACERS)

        def one(number: int) -> bool:
            start.wait(30)
            return work(number)

        with ThreadPoolExecutor(_RACERS, "chunkstore-doctor") as pool:
            return list(pool.map(one, range(_RACERS)))

    def _note_race(self, name: str, got: int, right: int, what: str) -> None:
        if got == right:
            self._notes.note(name, "yes", f"{what}: {got}, as it must be")
        else:
            self._notes.note(name, "no", f"{what}: {got} instead of {right}", "one writer at a time only")

    def _removed(self) -> list[str]:
        """Removes what was made; the keys of what stays."""
        left = []
        for key in sorted(self._made):
            try:
                self._backend.delete(key)
            except BackendUnavailableError:
                left.append(key)
        return left

    def _judge_delete(self, left: list[str]) -> None:
        if not self._notes.can("write"):
            return
        if not left:
            self._notes.note("delete", "yes", "allowed")
            return
        what = f"refused; {len(left)} small objects stay below {FOLDER}/"
        self._notes.note(
            "delete", "no", what, "allow deleting (s3:DeleteObject): runs cannot be deleted, nor packed, without it"
        )


def _is_refusal(error: ChunkStoreError) -> bool:
    """Whether it is rights that are missing, and not the place."""
    cause = error.__cause__
    if isinstance(cause, OSError) and cause.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return True
    return isinstance(cause, BaseException) and fault_of(cause) is REFUSED


def _said(error: ChunkStoreError) -> str:
    return str(error)


def _token() -> str:
    """A name that tells who is at work: host, process, time."""
    return f"{_host()}-{os.getpid()}-{int(time.time())}-{secrets.token_hex(4)}"


def _host() -> str:
    boot = ""
    with contextlib.suppress(OSError):
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii")
    return hashlib.blake2b(f"{socket.gethostname()} {boot}".encode(), digest_size=4).hexdigest()


def _is_dead(name: str) -> bool:
    """Whether the examination of which this is a trace has ended: its process is gone; of another host's, it is long ago."""
    parts = name.split("-")
    if len(parts) < 4 or not (parts[1].isdecimal() and parts[2].isdecimal()):
        return False  # not ours
    if abs(time.time() - int(parts[2])) > _OTHERS_AFTER:
        return True
    return parts[0] == _host() and int(parts[1]) != os.getpid() and not _is_alive(int(parts[1]))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True
