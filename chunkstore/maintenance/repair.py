"""Repairs a store as far as that needs no guess: damage goes into the quarantine, and what was begun is finished.

It can be cut short between any two steps: an object is taken away only when its copy stands in the quarantine and was read back, and only in
the version that was copied; the next call begins anew and ends in the same place.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final, Literal

from chunkstore import codec, keys, packs
from chunkstore.backends import ANY, Backend, Blob, unchanged
from chunkstore.backends.local import LocalBackend
from chunkstore.backends.localstrays import Stray, remove, strays, strays_in
from chunkstore.chunks import Chunks, Timing
from chunkstore.clock import HybridClock
from chunkstore.errors import (
    BackendUnavailableError,
    ConflictError,
    FormatError,
    InvalidInputError,
    ObjectNotFoundError,
)
from chunkstore.known import Stored
from chunkstore.maintenance.deletion import take_away
from chunkstore.maintenance.findings import Finding, Kind
from chunkstore.maintenance.moving import Mover
from chunkstore.maintenance.progress import Watcher
from chunkstore.maintenance.quarantine import isolate
from chunkstore.maintenance.verification import Checked, stray_finding, verify
from chunkstore.marks import State, mark_of
from chunkstore.store import ChunkedRunLogStore

log = logging.getLogger(__name__)

Outcome = Literal["isolated", "finished", "removed", "reindexed", "kept"]
"""Moved into the quarantine; an interrupted deletion or move done; a left-over gone; the index made anew; left as it is."""

_HOUR: Final = 3600.0
_ISOLATED: Final = frozenset({Kind.DAMAGED, Kind.MISPLACED, Kind.LEFT_OVER})
_REINDEXED: Final[Mapping[Kind, bool]] = {
    Kind.INDEX_DAMAGED: False,
    Kind.INDEX_LEFT_OVER: False,
    Kind.INDEX_WRONG: True,
}
"""And whether all headers have to be read for it."""


@dataclass(frozen=True, slots=True)
class Action:
    """What was done about a finding, or with `dry_run` would be done."""

    finding: Finding
    outcome: Outcome
    detail: str
    """What that means: where the bytes are, or why it was kept and what to do."""


@dataclass(frozen=True, slots=True)
class RepairReport:
    """What a repair did, in the order in which it did it."""

    actions: tuple[Action, ...]
    checked: Checked
    """What the check said that the repair was made of."""
    dry_run: bool

    @property
    def kept(self) -> tuple[Action, ...]:
        """Damage that is still there: it needs a person."""
        return tuple(one for one in self.actions if one.outcome == "kept" and one.finding.severity == "damage")


def repair(
    store: ChunkedRunLogStore,
    run_ids: Iterable[str] | None = None,
    *,
    dry_run: bool = False,
    remove_staging_after: float = _HOUR,
    unconditional: bool = False,
    settle_seconds: float = 1.0,
    progress: Watcher | None = None,
) -> RepairReport:
    """Checks the store, or these runs, as `verify` does, and repairs what needs no guess. With `dry_run` only says what it would do.

    * Damaged and misplaced chunks and packs, and what a deleted run of the same id left, go into the quarantine: their bytes are kept as
      they are, with their key and the time. A damaged header stays where others are beside it, since nobody would find them without it.
    * A deletion that was cut short is finished, and so is a move to the trash: what somebody wrote to the run since goes there, too.
      The index is made anew where it is damaged.
    * On a local disk, staging files and empty folders are removed that nobody has touched for `remove_staging_after` seconds.

    All else is kept and told: a copy or a restore that is under way or was cut short, what has a newer format, does not fit a model, cannot be read, is missing, or is not ours.

    Nothing is taken away but in the very version that was looked at. Where the place cannot delete under a condition
    (`guarantees.conditional_delete`), objects are copied into the quarantine and kept; with `unconditional=True` they are taken away all the
    same, after one more look: what somebody puts in their place in that moment would be lost.

    Reading a run whose damage was isolated no longer fails, and it is read without what was isolated: `verify` goes on to name such runs.
    A call that is cut short loses nothing; the next one finishes it. Costs as `verify`, seven requests for each object that is isolated, and as
    `delete_run_log` for each deletion that is finished. Raises as `verify`.
    """
    if remove_staging_after < 0:
        raise InvalidInputError("remove_staging_after must not be negative")
    stale = min(60.0, remove_staging_after)
    checked = verify(store, run_ids, progress=progress, settle_seconds=settle_seconds, stale_seconds=stale)
    work = _Work(store, dry_run=dry_run, staging_after=remove_staging_after, unconditional=unconditional)
    actions = [action for found in checked for action in work.about(found)]
    actions += work.reindexed()
    return RepairReport(tuple(actions), checked.checked, dry_run)


class _Work:
    """One repair."""

    def __init__(self, store: ChunkedRunLogStore, *, dry_run: bool, staging_after: float, unconditional: bool) -> None:
        self._store = store
        self._backend: Backend = store.backend
        # A cache of its own, and none: what stands there counts, not what this process saw.
        self._chunks = Chunks(
            store.backend, known_bytes=0, timing=Timing.of(store.backend, store.settings.timeout_seconds)
        )
        self._clock = HybridClock()
        self._dry_run = dry_run
        self._staging_after = staging_after
        self._unconditional = unconditional
        self._index: list[Finding] = []
        self._can_expect: bool | None = None

    def about(self, found: Finding) -> Iterator[Action]:
        """What is done about a finding."""
        if found.kind in _REINDEXED:
            self._index.append(found)
        elif found.kind is Kind.QUARANTINED:
            return
        elif found.kind in _ISOLATED:
            yield self._done(found, self._isolated)
        elif found.kind is Kind.DELETION_UNFINISHED:
            yield self._done(found, self._finished)
        elif found.kind is Kind.MOVE_UNFINISHED and found.severity != "damage":
            yield self._done(found, self._moved)
        elif found.kind in (Kind.STAGING, Kind.EMPTY_FOLDER):
            yield self._done(found, self._removed)
        else:
            yield Action(found, "kept", found.next_step)

    def reindexed(self) -> Iterator[Action]:
        """The index, once for all that is wrong with it."""
        if not self._index:
            return
        full = any(_REINDEXED[found.kind] for found in self._index)
        detail = "the index is made anew from all headers" if full else "the index is brought up to date"
        if not self._dry_run:
            report = self._store.reindex(full=full)
            detail = f"{detail}: {report.runs:,} finished runs are in it"
        for found in self._index:
            yield Action(found, "reindexed", detail)

    def _done(self, found: Finding, work: Callable[[Finding], Action]) -> Action:
        """One repair that fails does not keep the others from being made; a place that does not answer does."""
        try:
            return work(found)
        except (ConflictError, ObjectNotFoundError):
            return Action(found, "kept", "somebody changed it meanwhile; check again")
        except BackendUnavailableError as error:
            if error.transient:
                raise
            return Action(found, "kept", f"it could not be done: {error}")

    # Isolating

    def _isolated(self, found: Finding) -> Action:
        reason = self._stays_because(found)
        if reason:
            return Action(found, "kept", reason)
        if self._dry_run:  # without asking what the place can do: that may take a write
            return Action(found, "isolated", "its bytes would be moved into the quarantine")
        takes_away = self._expects() or self._unconditional
        blob = self._backend.get(found.key)
        if found.version and blob.version != found.version:
            raise ConflictError(f"{found.key} was changed meanwhile", key=found.key)
        name = isolate(self._chunks, found, blob.data, self._clock)
        if not takes_away:
            return self._copied_only(found)
        self._take_away(found.key, blob)
        log.info(
            "%s was moved into the quarantine of %s as %s: it %s", found.key, self._backend.place, name, found.what
        )
        return Action(found, "isolated", f"its bytes are in the quarantine as {name}")

    def _stays_because(self, found: Finding) -> str:
        """Why an object must not be taken away; empty where it may be."""
        if found.key.endswith(f"/{keys.PACK}"):
            too_large = found.size > packs.MAX_PACK_BYTES
        else:
            too_large = found.size > codec.MAX_OBJECT_BYTES
        if too_large:
            return "it is too large for the quarantine; move it away by hand"
        chunk = keys.parse(found.key)
        if chunk is None or chunk.kind is not keys.Kind.HEADER:
            return ""
        others = [entry.key for entry in self._backend.list(keys.prefix_of_run(chunk.run_id)) if entry.key != found.key]
        if any(keys.is_chunk(key) or key == keys.pack(chunk.run_id) for key in others):
            return "without its header nobody finds the rest of the run: restore it from a backup, or export the run and delete it"
        return ""

    def _copied_only(self, found: Finding) -> Action:
        return Action(
            found,
            "kept",
            f"a copy is in the quarantine; {self._backend.place} cannot delete one version and no other, so nobody can promise that "
            "nothing newer is deleted. When no writer is at work, repair with unconditional=True (--unconditional)",
        )

    def _take_away(self, key: str, blob: Blob) -> None:
        """Deletes the very bytes that were copied. Raises `ConflictError` where others stand there."""
        if self._expects():
            self._backend.delete(key, unchanged(blob.version))
            return
        if self._backend.get(key).data != blob.data:
            raise ConflictError(f"{key} was changed meanwhile", key=key)
        self._backend.delete(key, ANY)

    def _expects(self) -> bool:
        """Whether the place deletes under a condition. Asked once, and only where something is to be deleted."""
        if self._can_expect is None:
            self._can_expect = self._backend.guarantees.conditional_delete
        return self._can_expect

    # What was cut short

    def _finished(self, found: Finding) -> Action:
        if self._dry_run:
            count = sum(1 for _ in self._backend.list(keys.prefix_of_run(found.run_id)))
            return Action(found, "finished", f"{count} objects of the run would be deleted")
        count = take_away(self._chunks, self._header_as_found(found, "deleted"))
        return Action(found, "finished", f"{count} objects of the run were deleted")

    def _moved(self, found: Finding) -> Action:
        """Nothing is deleted that is not in the copy: what somebody wrote since goes there first."""
        if self._dry_run:
            return Action(found, "finished", "what is left of it would be moved to the trash")
        try:
            Mover(self._store).finish(self._header_as_found(found, "moving", "emptied"))
        except FormatError as error:
            return Action(replace(found, severity="damage"), "kept", f"it could not be done: {error}")
        return Action(found, "finished", "the run is in the trash: chunkstore restore brings it back")

    def _header_as_found(self, found: Finding, *states: State) -> Stored:
        header = self._chunks.read(keys.header(found.run_id))
        if header.version != found.version or mark_of(header.chunk).state not in states:
            raise ConflictError(f"{found.key} was changed meanwhile", key=found.key)
        return header

    # Left-overs

    def _removed(self, found: Finding) -> Action:
        age = found.age_seconds or 0.0
        if age < self._staging_after:
            return Action(
                found,
                "kept",
                f"it is {age:.0f} s old, and may be a writer's; it is removed once it is {self._staging_after:.0f} s old",
            )
        if self._dry_run:
            return Action(found, "removed", "it would be removed")
        assert isinstance(self._backend, LocalBackend)
        root = self._backend.root
        folder = found.key.partition("/")[0]
        inside = found.kind is Kind.EMPTY_FOLDER or "/" in found.key
        for stray in strays_in(root, folder) if inside else strays(root):
            if stray.path == found.key and self._is_still(found, stray) and remove(root, stray):
                return Action(found, "removed", "it was removed")
        raise ConflictError(f"{found.key} was changed meanwhile", key=found.key)

    def _is_still(self, found: Finding, stray: Stray) -> bool:
        """Whether it is as it was found. An empty folder may have lost a staging file just now, to us."""
        now = stray_finding(stray, time.time())
        return now == found and (found.kind is Kind.EMPTY_FOLDER or (now.age_seconds or 0.0) >= self._staging_after)
