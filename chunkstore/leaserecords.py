"""What stands in the place about a lease: its record, changed by compare-and-swap only. Who may change it, and when, is not decided here.

    .leases/nightly-1@executor.json    the record of the lease `executor` of run `nightly-1`
    .leases/highest.json               the highest generation of all records that were ever taken away

A record is never twice the same, so its version tells whether anybody was at it. Generations rise for ever: a record that is released keeps
its generation, and one may be taken away only after `highest.json` says at least as much. Who finds no record first puts one of
generation 0, which nobody takes away, and only then asks what the highest is: it goes on above that.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple

import orjson

from chunkstore import keys
from chunkstore.backends import FOUND, Backend, Excluding, unchanged
from chunkstore.errors import (
    BackendUnavailableError,
    ConflictError,
    FormatError,
    InvalidInputError,
    NewerFormatError,
    ObjectNotFoundError,
    WriteStateUnknownError,
)

FORMAT: Final = 1
HIGHEST: Final = f"{keys.LEASES}highest.json"

_START: Final = b'{"digest":"'
_PAUSES: Final = (0.02, 0.1, 0.5)
"""Seconds before a put is sent again that did not land and met nobody else."""


@dataclass(frozen=True, slots=True)
class Record:
    """What a lease's object says."""

    run: str
    name: str
    generation: int
    """How often the lease was taken; 0 where that is being found out."""
    token: str
    """Of this holding and no other; empty once it is released."""
    beat: int
    """How often this holding wrote the record."""
    ttl: float
    """Seconds after which others may take the lease over, unless the record changed meanwhile."""
    holder: str
    """Who it is, for people, as he calls himself."""
    process: str
    """User, host and process, for people."""
    since: str
    """When it was taken, by the holder's clock, for people."""

    @property
    def who(self) -> str:
        """Holder and process, for messages."""
        return repr(self.holder) if self.holder == self.process else f"{self.holder!r} ({self.process!r})"

    @property
    def is_held(self) -> bool:
        """Whether somebody holds the lease, or did when he died."""
        return bool(self.token)


class Seen(NamedTuple):
    """A record as it stands, and its version."""

    record: Record
    version: str


def encode(record: Record) -> bytes:
    """A record's bytes, one JSON object."""
    return _signed({"format": FORMAT, **asdict(record)})


def decode(data: bytes, key: str) -> Record:
    """The record in these bytes. Raises `FormatError`."""
    facts = _checked(data, key)
    try:
        record = Record(
            str(facts["run"]),
            str(facts["name"]),
            int(facts["generation"]),
            str(facts["token"]),
            int(facts["beat"]),
            float(facts["ttl"]),
            str(facts["holder"]),
            str(facts["process"]),
            str(facts["since"]),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise _damage(key) from error
    return record


def _signed(facts: dict[str, object]) -> bytes:
    rest = b'",' + orjson.dumps(facts)[1:] + b"\n"
    return _START + _digest(rest) + rest


def _checked(data: bytes, key: str) -> dict[str, Any]:
    end = len(_START) + 32
    try:
        facts: dict[str, Any] = orjson.loads(data)
        newer = facts["format"] > FORMAT
    except (ValueError, KeyError, TypeError) as error:
        raise _damage(key) from error
    if newer:
        raise NewerFormatError(
            f"{key} has format {facts['format']}, this chunkstore reads up to {FORMAT}; upgrade chunkstore to use the lease",
            key=key,
        )
    if not data.startswith(_START) or data[len(_START) : end] != _digest(data[end:]):
        raise _damage(key)
    return facts


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=16).hexdigest().encode("ascii")


def _damage(key: str) -> FormatError:
    return FormatError(
        f"{key} is damaged: it is no record of a lease; make sure that nobody works under the lease, then delete it",
        key=key,
    )


class Records:
    """The record of one lease, as this process sees and changes it."""

    def __init__(self, backend: Backend, run_id: str, name: str, sleep: Callable[[float], None]) -> None:
        self.backend = backend
        self.run_id = run_id
        self.name = name
        self.key = keys.lease(run_id, name)
        self._sleep = sleep

    @property
    def is_exclusive(self) -> bool:
        """Whether looking at the record, and a write that depends on it, can be one step."""
        return isinstance(self.backend, Excluding) and self.backend.excludes()

    def alone(self, *, shared: bool = False) -> AbstractContextManager[None]:
        """A block in which nobody else takes or releases the lease, where that `is_exclusive`; elsewhere any block. With `shared` others may be in such a one too."""
        if isinstance(self.backend, Excluding) and self.backend.excludes():
            return self.backend.excluding(self.key, shared=shared)
        return nullcontext()

    def read(self) -> Seen | None:
        """The record as it is now; None for none. Raises `FormatError`, `InvalidInputError`. One request."""
        try:
            blob = self.backend.get(self.key)
        except ObjectNotFoundError:
            return None
        record = decode(blob.data, self.key)
        if (record.run, record.name) != (self.run_id, self.name):
            if keys.lease(record.run, record.name).casefold() != self.key.casefold():
                raise _damage(self.key)
            raise InvalidInputError(
                f"the leases {self.name!r} of run {self.run_id!r} and {record.name!r} of run {record.run!r} differ only in upper and "
                f"lower case, and {self.backend.place} does not tell them apart; choose another name",
                run_id=self.run_id,
                name=self.name,
                key=self.key,
            )
        return Seen(record, blob.version)

    def write(self, record: Record, over: Seen | None) -> Seen | None:
        """Puts the record where this one still stands, or none; returns what stands there then: this record, or somebody else's. One request.

        A lost reply is no conflict: what stands there is read. Raises `BackendUnavailableError`, where nobody can say what came of it too.
        """
        condition = FOUND if over is None else unchanged(over.version)
        data = encode(record)
        # A renewal changes nothing for those who write under the lease, so it waits for none of them: one may have been stopped.
        renewed = over is not None and over.record.token == record.token
        with nullcontext() if renewed else self.alone():
            for pause in (*_PAUSES, None):
                try:
                    return Seen(record, self.backend.put(self.key, data, condition))
                except (ConflictError, BackendUnavailableError) as failure:
                    if isinstance(failure, BackendUnavailableError) and not _may_have_landed(failure):
                        raise
                    there = self.read()
                    if there != over:
                        return there  # ours, after all, or somebody else's
                    if pause is None:
                        raise
                    self._sleep(pause)
        raise AssertionError("the last try returns or raises")

    def highest(self) -> int:
        """The highest generation that was taken away. One request."""
        return read_highest(self.backend)[0]


def _may_have_landed(failure: BackendUnavailableError) -> bool:
    return failure.transient or isinstance(failure, WriteStateUnknownError)


def read_highest(backend: Backend) -> tuple[int, str]:
    """The highest generation of a record that was taken away, and the version of the object that says so; 0 for none."""
    try:
        blob = backend.get(HIGHEST)
    except ObjectNotFoundError:
        return 0, ""
    try:
        return int(_checked(blob.data, HIGHEST)["generation"]), blob.version
    except (ValueError, KeyError, TypeError) as error:
        raise _damage(HIGHEST) from error


def raise_highest(backend: Backend, generation: int, pauses: Iterator[None]) -> None:
    """Sees to it that the highest generation is at least this one, before a record of it is taken away. Two requests."""
    while True:
        next(pauses)
        highest, version = read_highest(backend)
        if highest >= generation:
            return
        facts: dict[str, object] = {"format": FORMAT, "generation": generation, "token": secrets.token_hex(8)}
        try:
            backend.put(HIGHEST, _signed(facts), unchanged(version) if version else FOUND, barrier=True)
        except (ConflictError, BackendUnavailableError) as failure:
            if isinstance(failure, BackendUnavailableError) and not _may_have_landed(failure):
                raise
        else:
            return
