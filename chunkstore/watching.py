"""What one reader has seen of a run, so that to look again costs a listing and what changed. Makes no model objects."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

from chunkstore import keys
from chunkstore.chunks import Chunks, Scan
from chunkstore.errors import FormatError
from chunkstore.keys import Kind
from chunkstore.known import Stored

ROUNDS: Final = 10
"""How often a run is looked at again, until it stands still for one round."""


@dataclass(frozen=True, slots=True)
class Sight:
    """What changed between two looks at a run."""

    changed: list[Stored] = field(default_factory=list)
    """Chunks that are new, or not as they were."""
    removed: list[str] = field(default_factory=list)
    """Keys of chunks that are no longer there."""
    damaged: list[FormatError] = field(default_factory=list)
    """What cannot be read, again at each look: nobody knows whether it changed."""
    left_over: list[Stored] = field(default_factory=list)
    vanished: list[str] = field(default_factory=list)
    anew: bool = False
    """Whether this is another run under the same id: what was seen before belongs to a deleted one."""

    @property
    def is_still(self) -> bool:
        """Whether nothing changed, as far as it can be read."""
        return not (self.changed or self.removed or self.anew)


class Watch:
    """Looks at one run, over and over. Holds the versions that it has seen, and none of the chunks."""

    def __init__(self, chunks: Chunks, run_id: str) -> None:
        self._chunks = chunks
        self._prefix = keys.prefix_of_run(run_id)
        self._seen: dict[str, str] = {}
        self._founded = ""

    def look(self) -> Sight:
        """What changed since the last look. One listing, and one request for each chunk that this process has not seen as it is."""
        scan = self._chunks.scan(self._prefix, self._seen)
        founded = next((_stamp(stored) for stored in scan.chunks if _is_header(stored)), self._founded)
        anew = bool(self._founded) and founded != self._founded
        if anew:  # also what this look left out as unchanged: it may be the other run's
            self._seen = {}
            scan = self._chunks.scan(self._prefix)
        self._founded = founded
        return self._sight(scan, anew=anew)

    def _sight(self, scan: Scan, *, anew: bool) -> Sight:
        unchanged = {key: self._seen[key] for key in scan.unchanged}
        now = {stored.key: stored.version for stored in scan.chunks}
        there = unchanged | now
        damaged = {error.key for error in scan.damaged}
        removed = [key for key in self._seen if key not in there and key not in damaged]
        # A place that cannot tell versions without reading gives all chunks each time.
        changed = [stored for stored in scan.chunks if self._seen.get(stored.key) != stored.version]
        self._seen = there
        return Sight(changed, removed, scan.damaged, scan.left_over, scan.vanished, anew)


def snapshot(chunks: Chunks, run_id: str) -> tuple[Scan, bool]:
    """The chunks of a run as they all stood at one moment, and whether there was such a moment.

    A listing of many pages, and the requests after it, take time, in which others write: a later write may be in it and an
    earlier one not. So the run is looked at until nothing changed between two looks: what the first of them had found by
    its end stood there when the second began. Two listings and one request for each chunk, where nobody writes.
    """
    watch = Watch(chunks, run_id)
    held: dict[str, Stored] = {}
    sight = _looked(watch, held)
    for _ in range(ROUNDS - 1):
        before = {error.key for error in sight.damaged}
        sight = _looked(watch, held)
        if sight.is_still and {error.key for error in sight.damaged} == before:
            return _scan(held, sight), True
    return _scan(held, sight), False


def _looked(watch: Watch, held: dict[str, Stored]) -> Sight:
    """One more look, with what is held brought up to it."""
    sight = watch.look()
    if sight.anew:
        held.clear()
    held.update((stored.key, stored) for stored in sight.changed)
    for key in (*sight.removed, *(error.key for error in sight.damaged)):
        held.pop(key, None)
    return sight


def _scan(held: dict[str, Stored], sight: Sight) -> Scan:
    return Scan(list(held.values()), sight.damaged, sight.vanished, sight.left_over)


def _is_header(stored: Stored) -> bool:
    return stored.chunk.envelope.kind == Kind.HEADER


def _stamp(stored: Stored) -> str:
    return stored.chunk.envelope.created_at
