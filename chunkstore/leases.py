"""Leases: locks that expire, for whoever drives a run. Taken, renewed, lost and released here; `chunkstore.fencing` checks them at the write.

    with store.lease("nightly-1", "executor", ttl=30) as lease:     # LeaseHeldError where another process has it
        run = store.fenced(lease)                                   # a store whose writes are refused once the lease is lost
        run.update_run_log_status("nightly-1", "RUNNING")

* A lease is one record, changed by compare-and-swap only (`chunkstore.leaserecords`), so of many that take it one has it.
* The holder renews it every third of its `ttl`. It counts it as lost once its own clock says that the `ttl` has passed since *before* the last
  renewal that succeeded was sent: whether the network is cut, the process was stopped, or the laptop slept.
* Who waits for it takes it over once the record was the same for the whole `ttl`, by its own clock, from *after* it was first seen so. That is never
  earlier than the holder's end, if the clocks of both run at the same rate to one part in fifty. Nobody compares two hosts' clocks, and what the time of day is does not matter.
* Each holding has a generation, higher than every one before, also where the record was taken away meanwhile.

A check that comes before a write says nothing about the moment when the write arrives: the process may be stopped in between. What is made certain
nevertheless, and where, is told in `chunkstore.fencing`.
"""

from __future__ import annotations

import atexit
import dataclasses
import functools
import getpass
import logging
import math
import os
import secrets
import socket
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import TracebackType
from typing import Final, Self

from chunkstore import waiting
from chunkstore.backends import Backend
from chunkstore.errors import (
    BackendUnavailableError,
    ChunkStoreError,
    InvalidInputError,
    LeaseHeldError,
    LeaseLostError,
    NotSupportedError,
)
from chunkstore.leaserecords import Record, Records, Seen
from chunkstore.process import ProcessLocal

log = logging.getLogger(__name__)

_DRIFT: Final = 1.02
"""How much longer than the `ttl` a waiter waits: the rates of two hosts' clocks differ."""
_LONGEST_LOOK: Final = 1.0
_LONGEST_NAME: Final = 200


def boot_seconds() -> float:
    """Seconds of a clock that nobody sets, and that goes on while the machine sleeps, where the system has one."""
    clock = getattr(time, "CLOCK_BOOTTIME", None)
    return time.monotonic() if clock is None else time.clock_gettime(clock)


@dataclass(frozen=True, slots=True)
class LeaseClock:
    """What leases measure time with, and how they wait for one; injected, so that tests need not wait."""

    now: Callable[[], float] = boot_seconds
    sleep: Callable[[float], None] = waiting.sleep


_CLOCK: Final = LeaseClock()


class Lease:
    """A lease that this process holds, until it is released or lost. `store.lease` makes one; use it in a `with` block.

    Leaving the block releases it, and raises `LeaseLostError` where it was lost meanwhile, unless the block ends with an error of its own. A process that is
    forked off, or that unpickles it, does not hold it: what it has is a `WorkerLease`, and it may write under the lease as long as it is held here.
    """

    def __init__(
        self, records: Records, held: Seen, until: float, clock: LeaseClock, on_loss: Callable[[Lease], object] | None
    ) -> None:
        self._records = records
        self._held = held
        self._until = until
        self._clock = clock
        self._on_loss = on_loss
        self._reason = ""
        self._process = os.getpid()
        self._changing = ProcessLocal(threading.Lock)  # held across requests that change the record
        self._losing = ProcessLocal(threading.Lock)
        self._ended = threading.Event()
        self._worker = ProcessLocal(functools.partial(WorkerLease, records.backend, held.record))
        _LIVING.add(self)

    def __repr__(self) -> str:
        state = "lost" if self.lost else "held"
        return f"<Lease {self.name!r} of run {self.run_id!r}, generation {self.generation}, {state}>"

    def __reduce__(self) -> tuple[type[WorkerLease], tuple[Backend, Record]]:
        return WorkerLease, (self._records.backend, self._held.record)

    @property
    def run_id(self) -> str:
        """The run that it is about."""
        return self._records.run_id

    @property
    def name(self) -> str:
        """Which of the run's leases it is."""
        return self._records.name

    @property
    def place(self) -> str:
        """Where its record is."""
        return self._records.backend.place

    @property
    def ttl(self) -> float:
        """Seconds without a renewal after which it is lost."""
        return self._held.record.ttl

    @property
    def holder(self) -> str:
        """Who holds it, for people."""
        return self._held.record.holder

    @property
    def token(self) -> str:
        """Of this holding and no other."""
        return self._held.record.token

    @property
    def generation(self) -> int:
        """How often the lease was taken, this time included: higher than any before."""
        return self._held.record.generation

    @property
    def across_hosts(self) -> bool:
        """Whether it keeps other hosts out; else only what `guarantees` of the place says: processes of this host, or threads."""
        return self._records.backend.guarantees.across_hosts

    @property
    def seconds_left(self) -> float:
        """How long it is held if it is not renewed any more; 0 once it is lost. Asks nobody."""
        return 0.0 if self.lost else max(0.0, self._until - self._clock.now())

    @property
    def lost(self) -> bool:
        """Whether it is not held any more, as far as this process knows: expired, taken over, released. Asks nobody.

        In a forked child: whether its parent does not hold it, by what stands in the place. One request.
        """
        if self._is_elsewhere:
            return self._worker.get().lost
        if not self._reason and self._clock.now() >= self._until:
            self._lose(f"it could not be renewed for {self.ttl:g} s, or this process was stopped that long")
        return bool(self._reason)

    def check(self) -> None:
        """Raises `LeaseLostError` where it is not held any more. Asks nobody; in a forked child one request."""
        if self._is_elsewhere:
            self._worker.get().check()
        elif self.lost:
            raise self._lost_error()

    def renew(self) -> None:
        """Renews it now. Raises `LeaseLostError`; `BackendUnavailableError` where nobody answered, and it is held as long as before. One request."""
        self._require_here("renew")
        self.check()
        with waiting.holding(self._changing.get()):
            self.check()
            self._write(self._held.record)

    def release(self) -> None:
        """Lets others have it. Never raises: where that could not be said, it expires. One request; none where it is lost."""
        if self._is_elsewhere or self._ended.is_set():
            return
        self._ended.set()
        taken: list[bool] = []
        try:
            # Not longer than the lease lasts: a renewal may be under way, in a network that is cut.
            waiting.take(self._changing.get(), max(0.0, self._until - self._clock.now()), taken)
            if taken[0] and not self.lost:
                self._reason = "it was released"  # before that is known to others
                self._release()
        except ChunkStoreError as error:
            log.warning("%s was not released, and expires in %g s: %s", self._what, self.ttl, error)
        finally:
            if taken and taken[0]:
                self._changing.get().release()
            self._reason = self._reason or "it was released"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._is_elsewhere:
            return
        lost = self.lost and not self._ended.is_set()
        self.release()
        if lost and error is None:
            raise self._lost_error()

    # For `chunkstore.fencing`

    @contextmanager
    def standing(self) -> Iterator[None]:
        """A block in which the lease is held: raises `LeaseLostError` where it is not. Where the place is exclusive, nobody can take it meanwhile.

        There one request more; in a forked child one request everywhere.
        """
        if self._is_elsewhere:
            with self._worker.get().standing():
                yield
            return
        self.check()
        with self._records.alone(shared=True):
            if self._records.is_exclusive:
                self._look()
            yield

    def require_since(self, started: float) -> None:
        """Raises `LeaseLostError` where it was lost while something was written that had begun then; asked after that."""
        if self._is_elsewhere:
            self._worker.get().require_since(started)
        elif not self._records.is_exclusive:  # else nobody could take it meanwhile
            self.check()

    def now(self) -> float:
        """Seconds of the clock that it is measured with."""
        return self._clock.now()

    def overtaken(self, key: str, generation: int) -> ChunkStoreError:
        """The error for a chunk that somebody wrote who has it later; it is lost from then on."""
        if not self._is_elsewhere:
            self._lose(f"{key} was written under generation {generation} of it")
        return _lost(
            self._records, f"{key} was written under generation {generation} of it, and this is {self.generation}"
        )

    def rise_above(self, generation: int) -> None:
        """Makes its generation higher than this one, which a run brought with it from elsewhere. One request."""
        self._require_here("change")
        with waiting.holding(self._changing.get()):
            self.check()
            if self.generation <= generation:
                self._write(dataclasses.replace(self._held.record, generation=generation + 1))

    # Inside

    @property
    def _is_elsewhere(self) -> bool:
        return os.getpid() != self._process

    @property
    def _what(self) -> str:
        return f"the lease {self.name!r} of run {self.run_id!r} in {self.place}"

    def _require_here(self, verb: str) -> None:
        if self._is_elsewhere:
            raise InvalidInputError(
                f"only the process that took it may {verb} {self._what}; this one was forked off that", name=self.name
            )

    def _lost_error(self) -> LeaseLostError:
        return _lost(self._records, self._reason)

    def _write(self, record: Record) -> None:
        """Writes the record again under this token, and holds the lease from when that was sent."""
        sent = self._clock.now()
        written = dataclasses.replace(record, beat=self._held.record.beat + 1)
        there = self._records.write(written, self._held)
        if there is None or there.record != written:
            self._lose(_told(there))
            raise self._lost_error()
        self._held, self._until = there, sent + record.ttl

    def _release(self) -> None:
        record = dataclasses.replace(self._held.record, token="", beat=self._held.record.beat + 1)
        there = self._records.write(record, self._held)
        if there is None or there.record != record:
            log.warning("%s was lost before it was released: %s", self._what, _told(there))

    def _look(self) -> None:
        """Looks whether the record is this holding's."""
        there = self._records.read()
        if there is None or there.record.token != self.token:
            self._lose(_told(there))
            raise self._lost_error()

    def _lose(self, reason: str) -> None:
        """Once; told to whoever asked to be told, or as a warning in the log."""
        with self._losing.get():
            if self._reason:
                return
            self._reason = reason
        if self._on_loss is None:
            log.warning("%s is lost: %s", self._what, reason)
            return
        log.info("%s is lost: %s", self._what, reason)
        try:
            self._on_loss(self)
        except Exception:
            log.exception("what should be done at the loss of %s failed", self._what)

    def _start(self) -> None:
        """Starts what renews it, and what notices the loss while a renewal hangs. Both end when nobody has the lease any more."""
        for work in (_renewing, _watching):
            name = f"chunkstore-lease-{work.__name__.strip('_')}"
            threading.Thread(target=work, args=(weakref.ref(self), self._ended), name=name, daemon=True).start()

    def _renew_quietly(self) -> float:
        """One renewal; after how many seconds the next is due."""
        try:
            self.renew()
        except LeaseLostError:
            pass  # told already
        except ChunkStoreError as error:
            log.info("%s could not be renewed yet: %s", self._what, error)
            return self.ttl / 20
        return self.ttl / 3


class WorkerLease:
    """A lease that another process holds, under which this one writes: what a `Lease` becomes that is pickled, or that a fork inherits.

    It asks what stands in the place at each check, so it costs one request for each fenced write. It can neither renew nor release the lease.
    """

    def __init__(self, backend: Backend, record: Record, clock: LeaseClock = _CLOCK) -> None:
        self._records = Records(backend, record.run, record.name, clock.sleep)
        self._record = record
        self._clock = clock

    def __repr__(self) -> str:
        return f"<WorkerLease {self.name!r} of run {self.run_id!r}, generation {self.generation}>"

    def __reduce__(self) -> tuple[type[WorkerLease], tuple[Backend, Record]]:
        return WorkerLease, (self._records.backend, self._record)

    @property
    def run_id(self) -> str:
        """The run that it is about."""
        return self._records.run_id

    @property
    def name(self) -> str:
        """Which of the run's leases it is."""
        return self._records.name

    @property
    def place(self) -> str:
        """Where its record is."""
        return self._records.backend.place

    @property
    def ttl(self) -> float:
        """Seconds without a renewal after which others may take it over."""
        return self._record.ttl

    @property
    def holder(self) -> str:
        """Who holds it, for people."""
        return self._record.holder

    @property
    def token(self) -> str:
        """Of this holding and no other."""
        return self._record.token

    @property
    def generation(self) -> int:
        """How often the lease was taken, this time included."""
        return self._record.generation

    @property
    def lost(self) -> bool:
        """Whether another has it by now, or it was released. One request."""
        try:
            self.check()
        except LeaseLostError:
            return True
        return False

    def check(self) -> None:
        """Raises `LeaseLostError` where another has it by now, or it was released. One request."""
        there = self._records.read()
        if there is None or there.record.token != self.token:
            raise _lost(self._records, _told(there))
        self._record = there.record  # its generation may have been raised

    @contextmanager
    def standing(self) -> Iterator[None]:
        """A block in which the lease is held: raises `LeaseLostError` where it is not. One request."""
        with self._records.alone(shared=True):
            self.check()
            yield

    def require_since(self, started: float) -> None:
        """Raises `LeaseLostError` where it was lost while something was written that took suspiciously long. No request where it did not."""
        if not self._records.is_exclusive and self._clock.now() - started > self.ttl / 3:
            self.check()

    def now(self) -> float:
        """Seconds of the clock that it is measured with."""
        return self._clock.now()

    def overtaken(self, key: str, generation: int) -> ChunkStoreError:
        """The error for a chunk that somebody wrote who has it later."""
        return _lost(
            self._records, f"{key} was written under generation {generation} of it, and this is {self.generation}"
        )


def take(
    backend: Backend,
    run_id: str,
    name: str = "executor",
    ttl: float = 30.0,
    *,
    wait: float = 0.0,
    holder: str = "",
    on_loss: Callable[[Lease], object] | None = None,
    across_hosts: bool = False,
    heartbeat: bool = True,
    clock: LeaseClock = _CLOCK,
) -> Lease:
    """Takes a lease; see `ChunkedRunLogStore.lease`."""
    _require_usable(backend, run_id, name, ttl, wait, across_hosts=across_hosts)
    records = Records(backend, run_id, name, clock.sleep)
    record = Record(run_id, name, 0, secrets.token_hex(8), 1, float(ttl), holder or _who(), _who(), _now())
    sent, held = _Taking(records, record, clock).taken(wait)
    lease = Lease(records, held, sent + record.ttl, clock, on_loss)
    if heartbeat:
        lease._start()  # noqa: SLF001 - of this module
    return lease


def _require_usable(backend: Backend, run_id: str, name: str, ttl: float, wait: float, *, across_hosts: bool) -> None:
    if not (_is_number(ttl) and 0 < ttl < math.inf):
        raise InvalidInputError(f"the ttl of a lease must be a number of seconds above 0, not {ttl!r}", name="ttl")
    if not (_is_number(wait) and wait >= 0):
        raise InvalidInputError(f"wait must be a number of seconds, 0 or more, not {wait!r}", name="wait")
    if len(name) > _LONGEST_NAME:
        raise InvalidInputError(
            f"the name of a lease has {_LONGEST_NAME} characters at the most, not {len(name)}: {name[:80]!r}…",
            name="name",
        )
    holds = backend.guarantees
    if not (holds.conditional_create and holds.conditional_update) or (across_hosts and not holds.across_hosts):
        reach = "processes of one host" if holds.across_processes else "threads of one process"
        raise NotSupportedError(
            f"a lease in {backend.place} keeps only {reach} apart; use a place with conditional writes, "
            "or ask for no lease across hosts",
            run_id=run_id,
            name=name,
        )


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


class _Taking:
    """One attempt to get a lease, from the first look until it is held."""

    def __init__(self, records: Records, record: Record, clock: LeaseClock) -> None:
        self._records = records
        self._record = record
        self._clock = clock
        self._version = ""
        self._since = 0.0

    def taken(self, wait: float) -> tuple[float, Seen]:
        """From when on it is held, and the record. Raises `LeaseHeldError`."""
        until = self._clock.now() + wait
        while True:
            try:
                seen = self._records.read()
                pause = self._pause(seen)
                taken = self._try(seen) if pause <= 0 else None
            except BackendUnavailableError as error:
                if not error.transient or self._clock.now() >= until:
                    raise
                seen, taken, pause = None, None, _LONGEST_LOOK
            if taken is not None:
                return taken
            left = until - self._clock.now()
            if seen is not None and pause > 0 and left <= 0:
                raise self._held(seen.record)
            if pause > 0:
                self._clock.sleep(max(0.0, min(pause, left, _LONGEST_LOOK, self._record.ttl / 5)))

    def _pause(self, seen: Seen | None) -> float:
        """For how long the record has to be left alone; 0 where it may be taken."""
        now = self._clock.now()  # after it was read: it was renewed before that
        if seen is None or not seen.record.is_held:
            return 0.0
        if seen.version != self._version:
            self._version, self._since = seen.version, now
        return self._since + seen.record.ttl * _DRIFT - now

    def _try(self, seen: Seen | None) -> tuple[float, Seen] | None:
        """Takes it over what was seen; None where somebody else was faster."""
        before = 0 if seen is None else seen.record.generation
        record = dataclasses.replace(self._record, generation=before + 1 if before else 0)
        sent = self._clock.now()
        there = self._records.write(record, seen)
        if there is None or there.record != record:
            return None
        if record.generation:
            return sent, there
        # Asked only now: whoever takes records away does not take this one, and has said before how high the others were.
        highest = self._records.highest()
        record = dataclasses.replace(record, generation=highest + 1, beat=record.beat + 1)
        sent = self._clock.now()
        there = self._records.write(record, there)
        return None if there is None or there.record != record else (sent, there)

    def _held(self, record: Record) -> LeaseHeldError:
        return LeaseHeldError(
            f"the lease {record.name!r} of run {record.run!r} in {self._records.backend.place} is held by {record.who} since "
            f"{record.since}; wait for it (wait=…), or end that process: it is taken over once it was not renewed for {record.ttl:g} s",
            holder=record.holder,
            process=record.process,
            since=record.since,
            generation=record.generation,
            run_id=record.run,
            name=record.name,
            key=self._records.key,
        )


def _renewing(lease: weakref.ref[Lease], ended: threading.Event) -> None:
    """Renews the lease until it ends. A lease that nobody has any more is not renewed."""
    held = lease()
    pause = 0.0 if held is None else held.ttl / 3
    del held
    while not ended.wait(pause):
        held = lease()
        if held is None or held.lost:
            return
        pause = held._renew_quietly()  # noqa: SLF001 - of this module
        del held


def _watching(lease: weakref.ref[Lease], ended: threading.Event) -> None:
    """Notices when the lease ran out, whatever a renewal waits for."""
    pause = 0.0
    while not ended.wait(pause):
        held = lease()
        if held is None or held.lost:
            return
        pause = max(0.001, held.seconds_left)
        del held


_LIVING: Final[weakref.WeakSet[Lease]] = weakref.WeakSet()


@atexit.register
def _stop_renewing() -> None:
    """A renewal that begins while the interpreter goes away would find half of it."""
    for lease in list(_LIVING):
        lease._ended.set()  # noqa: SLF001 - of this module


def _lost(records: Records, reason: str) -> LeaseLostError:
    return LeaseLostError(
        f"the lease {records.name!r} of run {records.run_id!r} in {records.backend.place} is lost: {reason}; "
        "stop this work, or take the lease again and look at what was done meanwhile",
        run_id=records.run_id,
        name=records.name,
        key=records.key,
    )


def _told(there: Seen | None) -> str:
    if there is None:
        return "its record is gone"
    record = there.record
    if not record.is_held:
        return f"it was released, at generation {record.generation}"
    return f"{record.who} holds it, at generation {record.generation}, since {record.since}"


def _who() -> str:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container whose user has no name
        user = str(os.getuid()) if hasattr(os, "getuid") else "?"
    return f"{user}@{socket.gethostname()}, process {os.getpid()}"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
