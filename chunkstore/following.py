"""A live run, change by change: what a person or a program sees who watches it until its end."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from chunkstore import keys
from chunkstore.chunks import Chunks
from chunkstore.errors import FormatError, RunLogNotFoundError
from chunkstore.keys import Kind
from chunkstore.known import Stored
from chunkstore.models import TERMINAL, RunLog
from chunkstore.reading import Reader, age
from chunkstore.watching import Sight, Watch


@dataclass(frozen=True, slots=True)
class RunChange:
    """One chunk of a run that is new, changed, gone or damaged since the last look."""

    sort: Literal["new", "changed", "removed", "damaged"]
    kind: str
    """`run` (the header), `job`, `step`, `branch`, `parameter`; or `pack`, where that is damaged."""
    name: str
    """The step's or branch's internal name, the parameter's name; empty for the run and the job."""
    scope: str = ""
    """The branch that a parameter belongs to; empty for the run's own."""
    value: object = None
    """The run log without steps, the job, step or branch log, or the parameter's value; None for what is gone or damaged."""
    message: str = ""
    """What is damaged, and what to do about it."""


class Follower:
    """One reader's way through a run, from what is there to its end."""

    def __init__(self, chunks: Chunks, reader: Reader, run_id: str) -> None:
        self._run_id = run_id
        self._reader = reader
        self._chunks = chunks
        self._watch = Watch(chunks, run_id)
        self._was_there = False
        self._met: set[str] = set()
        self._damaged: set[str] = set()
        self._status = ""

    def changes(self, poll_seconds: float, *, wait: bool, timeout: float | None) -> Iterator[RunChange]:
        """The changes, look by look; ends when the run has ended and one more look finds nothing new."""
        until = math.inf if timeout is None else self._chunks.now() + timeout
        while True:
            ended = self._has_ended()
            found = self._look_or_wait() if wait and not self._was_there else self._look()
            yield from found
            if ended and self._has_ended() and not found:
                return
            left = until - self._chunks.now()
            if left <= 0:
                raise TimeoutError(self._not_in_time(timeout))
            self._chunks.pause(min(poll_seconds, left))

    def _not_in_time(self, timeout: float | None) -> str:
        missed = "has not ended" if self._was_there else "was not there"
        return f"run {self._run_id!r} {missed} within {timeout:g} s; follow it again, or for longer"

    def _look_or_wait(self) -> list[RunChange]:
        """As `_look`; nothing as long as there is no such run, also where one of its id is being deleted."""
        try:
            return self._look()
        except RunLogNotFoundError:
            self._watch = Watch(self._chunks, self._run_id)
            self._met.clear()
            return []

    def _has_ended(self) -> bool:
        return self._status in TERMINAL

    def _look(self) -> list[RunChange]:
        sight = self._watch.look()
        header = keys.key_of(keys.header(self._run_id))
        if sight.anew or header in sight.removed or (not self._was_there and not _shows(sight, header)):
            raise self._reader.no_run(self._run_id)
        changed = [self._changed(stored) for stored in sorted(sight.changed, key=age)]
        self._was_there = True
        return [*changed, *self._newly_damaged(sight), *map(self._removed, sight.removed)]

    def _changed(self, stored: Stored) -> RunChange:
        envelope = stored.chunk.envelope
        if envelope.deleted:
            raise self._reader.no_run(self._run_id)
        sort: Literal["new", "changed"] = "changed" if stored.key in self._met else "new"
        self._met.add(stored.key)
        self._damaged.discard(stored.key)
        change = _told(self._reader, stored, sort)
        if isinstance(change.value, RunLog):
            self._status = change.value.status.upper()
        return change

    def _newly_damaged(self, sight: Sight) -> list[RunChange]:
        """Damage is found again at each look, and told once."""
        new = [error for error in sight.damaged if error.key not in self._damaged]
        self._damaged = {error.key for error in sight.damaged}
        return [_about("damaged", error.key, str(error)) for error in new]

    def _removed(self, key: str) -> RunChange:
        self._met.discard(key)
        return _about("removed", key)


def streamed(chunks: Chunks, reader: Reader, run_id: str) -> Iterator[RunChange]:
    """All chunks of a run as they stand, one after the other, the header first."""
    header = keys.key_of(keys.header(run_id))
    is_there = False
    for scan in chunks.stream(run_id):
        found = {stored.key: stored for stored in scan.chunks}
        if header in found and found[header].chunk.envelope.deleted:
            raise reader.no_run(run_id)
        is_there = is_there or header in found or any(error.key == header for error in scan.damaged)
        if found and not is_there:
            raise reader.no_run(run_id)
        first = [found.pop(header)] if header in found else []
        yield from (_told(reader, stored, "new") for stored in (*first, *found.values()))
        yield from (_about("damaged", error.key, str(error)) for error in scan.damaged)
    if not is_there:
        raise reader.no_run(run_id)


def _told(reader: Reader, stored: Stored, sort: Literal["new", "changed"]) -> RunChange:
    """A chunk with its value."""
    envelope = stored.chunk.envelope
    try:
        value = _value(reader, stored)
    except FormatError as error:  # whole bytes, and not what a step or a run consists of
        return RunChange("damaged", envelope.kind, envelope.name, envelope.scope, message=str(error))
    return RunChange(sort, envelope.kind, envelope.name, envelope.scope, value)


def _value(reader: Reader, stored: Stored) -> object:
    kind = Kind(stored.chunk.envelope.kind)
    if kind is Kind.HEADER:
        return reader.header(stored)
    return reader.parameter(stored) if kind is Kind.PARAMETER else reader.model(stored)


def _about(sort: Literal["removed", "damaged"], key: str, message: str = "") -> RunChange:
    """A change of which only the key is known: of a very long name that is its head."""
    chunk = keys.parse(key)
    if chunk is None:  # what cannot be read of it cannot be told apart
        return RunChange(sort, "pack", "", message=message)
    return RunChange(sort, chunk.kind.value, chunk.name, chunk.scope, message=message)


def _shows(sight: Sight, key: str) -> bool:
    return any(stored.key == key for stored in sight.changed) or any(error.key == key for error in sight.damaged)
