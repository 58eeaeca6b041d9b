"""Runs from any store to any other, byte for byte: `copy_runs`. How one run goes over safely stands in `transfer`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass
from typing import Final, Literal, Self, TypeAlias

from chunkstore import index, keys
from chunkstore.backends import FOUND
from chunkstore.chunks import Chunks, Timing
from chunkstore.errors import ConflictError, FormatError, InvalidInputError, ObjectNotFoundError, RunLogNotFoundError
from chunkstore.maintenance.deletion import take_away
from chunkstore.maintenance.progress import Progress, Watcher
from chunkstore.maintenance.transfer import Cut, Placed, Placer, Standing, cut_of, is_as_it_was, same_by_size, standing
from chunkstore.queries import RunFilter
from chunkstore.store import ChunkedRunLogStore

log = logging.getLogger(__name__)

Outcome: TypeAlias = Literal["copied", "same", "conflict", "unfinished", "damaged", "missing"]
"""What became of one run: it is there now; it was there already; another one stands there; it has not ended; it cannot be read whole; it is
not in the source."""

_RUNS_AT_ONCE: Final = 8
_TRIES: Final = 3
_ROOM: Final = 64 << 20
"""Bytes of objects that are held for all runs under way; the others are read twice."""


@dataclass(frozen=True, slots=True)
class RunCopy:
    """What became of one run."""

    run_id: str
    outcome: Outcome
    message: str = ""
    """Why it was not copied, and what to do about it."""
    sent: int = 0
    """Objects that were put at the target."""
    there: int = 0
    """Objects that stood there from an earlier call."""
    bytes: int = 0
    """Of the objects that were sent."""
    foreign: int = 0
    """Files in the run's folder that are none of ours, and were left there."""


@dataclass(frozen=True, slots=True)
class CopyReport:
    """What a copy came to, run by run."""

    source: str
    target: str
    runs: tuple[RunCopy, ...]
    dry_run: bool = False

    def of(self, outcome: Outcome) -> tuple[RunCopy, ...]:
        """The runs that came to this."""
        return tuple(run for run in self.runs if run.outcome == outcome)

    @property
    def sent(self) -> int:
        """Objects that were put at the target."""
        return sum(run.sent for run in self.runs)

    @property
    def bytes(self) -> int:
        """Of the objects that were put."""
        return sum(run.bytes for run in self.runs)

    @property
    def is_complete(self) -> bool:
        """Whether all runs that were asked for stand at the target."""
        return all(run.outcome in ("copied", "same") for run in self.runs)


def copy_runs(
    source: ChunkedRunLogStore,
    target: ChunkedRunLogStore,
    runs: Sequence[str] | RunFilter | None = None,
    *,
    unfinished: bool = False,
    restart: bool = False,
    quick: bool = False,
    dry_run: bool = False,
    progress: Watcher | None = None,
) -> CopyReport:
    """Copies runs to another store: those of these ids, those that match the filter, or all. What stands there is never overwritten.

    Only runs are copied: what is in the trash or in the quarantine of the source stays there, and so does its index.

    A run is copied as it stood at one moment, each object byte for byte, loose chunks and pack alike. Every chunk is decoded before the first
    is written, and all that stands at the target is read back and compared before its header makes it a run there. So a call that is cut
    short, also by kill -9, leaves no half run; the next one sends what is missing. Two that copy the same at once help each other.

    A run that has not ended is left out, since it would be another one by the next call: with `unfinished` it is copied as it stands. One that
    stands at the target with other contents is a conflict, one with damaged chunks is refused by name; the others go on. An unfinished
    copy of what the run was before is a conflict too: with `restart` it is deleted and the run copied anew, which is for
    when nobody else is at it. With `quick` a run that is there is taken for the same where its header is, and the names and sizes of all
    objects are, at both ends; else all bytes are compared. With `dry_run` nothing is written, and the report says what would be.

    Requests, for each run of n objects: at the source two listings and n gets (n more for what is over 64 MB of all runs under way); at the
    target two listings, n + 1 puts and n gets. Where it is there already: two listings and n + 1 gets there; with `quick` one listing and one get at each end. Besides,
    once: the listing of the source's runs, or what `find_runs` costs, and a look at the target's index: a run whose id stands in that gets a
    note of doubt first, one put more. Up to eight runs go at once, and as many requests as the two backends have use for.

    Raises `BackendUnavailableError` where one of the places fails; what was copied until then stays. `reindex` brings the runs into the
    target's index; they are found there without it, too.
    """
    if source.backend.place == target.backend.place:
        raise InvalidInputError(f"source and target are the same place: {source.backend.place}")
    options = _Options(unfinished, restart, quick, dry_run)
    with _Copier(source, target, options) as copier:
        found = copier.run(_chosen(source, runs), progress)
    return CopyReport(source.backend.place, target.backend.place, found, dry_run)


def _chosen(source: ChunkedRunLogStore, runs: Sequence[str] | RunFilter | None) -> list[str]:
    if runs is None:
        return source.list_run_ids()  # also those that a filter would not find, as their headers are damaged
    if isinstance(runs, RunFilter):
        return [run.run_id for run in source.iter_run_logs(runs, order="oldest")]
    if isinstance(runs, str):
        raise InvalidInputError(f"runs must be a list of run ids, not one text: {runs!r}", run_id=runs)
    for run_id in runs:
        keys.folder_of(run_id)
    return list(dict.fromkeys(runs))


@dataclass(frozen=True, slots=True)
class _Options:
    unfinished: bool
    restart: bool
    quick: bool
    dry_run: bool


class _Copier:
    """Copies runs of one store to another."""

    def __init__(self, source: ChunkedRunLogStore, target: ChunkedRunLogStore, options: _Options) -> None:
        self._source = source.backend
        self._target = target
        self._options = options
        self._at_once = min(_RUNS_AT_ONCE, max(source.backend.concurrency, target.backend.concurrency))
        self._room = _ROOM // self._at_once
        self._placer = Placer(target.backend, Timing.of(target.backend, target.settings.timeout_seconds))
        self._indexed: frozenset[str] = frozenset()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._placer.close()

    def run(self, run_ids: list[str], progress: Watcher | None) -> tuple[RunCopy, ...]:
        """Copies them, and tells of each in the order given."""
        self._indexed = indexed(self._target) if run_ids and not self._options.dry_run else frozenset()
        done: dict[str, RunCopy] = {}
        for copied in self._each(run_ids):
            done[copied.run_id] = copied
            if progress is not None:
                progress(Progress(len(done), len(run_ids), copied.run_id))
        return tuple(done[run_id] for run_id in run_ids)

    def _each(self, run_ids: list[str]) -> Iterator[RunCopy]:
        """As they are done. The first error of a place ends it, once those under way are done."""
        if self._at_once == 1:
            yield from map(self._copy, run_ids)
            return
        left = iter(run_ids)
        under_way: set[Future[RunCopy]] = set()
        workers = ThreadPoolExecutor(self._at_once, thread_name_prefix="copier")
        try:
            while True:
                for run_id in left:
                    under_way.add(workers.submit(self._copy, run_id))
                    if len(under_way) == self._at_once:
                        break
                if not under_way:
                    return
                ended, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                yield from (future.result() for future in ended)
        finally:
            workers.shutdown(cancel_futures=True)

    def _copy(self, run_id: str) -> RunCopy:
        try:
            there = same_by_size(self._source, self._target.backend, run_id) if self._options.quick else 0
            if there:
                return RunCopy(run_id, "same", there=there)
            cut = cut_of(self._source, run_id, room=self._room)
            if not cut.has_ended and not self._options.unfinished:
                return RunCopy(run_id, "unfinished", _not_ended(run_id, self._source.place))
            return self._copied(cut)
        except RunLogNotFoundError as error:
            return RunCopy(run_id, "missing", str(error))
        except FormatError as error:
            return RunCopy(run_id, "damaged", f"{error}. Nothing of it was copied; verify and repair the source")
        except ConflictError as error:
            return RunCopy(run_id, "conflict", str(error))

    def _copied(self, cut: Cut) -> RunCopy:
        """What came of it. Whoever came in between may have copied the same, so what stands there is looked at again."""
        for _ in range(_TRIES - 1):
            with suppress(ConflictError):
                return self._tried(cut)
        return self._tried(cut)

    def _tried(self, cut: Cut) -> RunCopy:
        found = self._found(cut)
        if found.sort == "same":
            return RunCopy(cut.run_id, "same", there=len(cut.parts), foreign=cut.foreign)
        if found.sort == "other":
            return RunCopy(cut.run_id, "conflict", found.message)
        placed = self._would_be(cut, found) if self._options.dry_run else self._placed(cut, found)
        return RunCopy(cut.run_id, "copied", "", placed.sent, placed.there, placed.bytes, cut.foreign)

    def _found(self, cut: Cut) -> Standing:
        found = standing(self._target.backend, cut)
        if not (found.abandoned and self._options.restart):
            return found
        if self._options.dry_run:
            return Standing("nothing")
        self._give_up_other_copy(cut.run_id, found.claim)
        return standing(self._target.backend, cut)

    def _give_up_other_copy(self, run_id: str, claim: str) -> None:
        """Takes away what came of another copy; not where that was finished meanwhile."""
        timing = Timing.of(self._target.backend, self._target.settings.timeout_seconds)
        chunks = Chunks(self._target.backend, known_bytes=0, timing=timing)
        with suppress(ObjectNotFoundError):
            header = chunks.read(keys.header(run_id))
            if header.version == claim:
                take_away(chunks, header)

    def _placed(self, cut: Cut, found: Standing) -> Placed:
        if cut.run_id in self._indexed:
            self._placer.put(note_about(cut), index.NOTE, FOUND, barrier=True)
        return self._placer.place(cut, found, lambda some: self._fetch(cut, some))

    def _would_be(self, cut: Cut, found: Standing) -> Placed:
        missing = [part.size for key, part in cut.parts.items() if key not in found.there]
        return Placed(len(missing), len(found.there), sum(missing))

    def _fetch(self, cut: Cut, some: Sequence[str]) -> Iterator[tuple[str, bytes]]:
        """From memory, or once more from the source, and then the same as before."""
        yield from ((key, cut.held[key]) for key in some if key in cut.held)
        missing = {key for key in some if key not in cut.held}
        for key, blob in self._source.get_many(sorted(missing)):
            if is_as_it_was(cut, key, blob.data):
                missing.discard(key)
                yield key, blob.data
        if missing:
            raise ConflictError(
                f"run {cut.run_id!r} in {self._source.place} changed while it was copied ({min(missing)}); copy it once more",
                run_id=cut.run_id,
            )


def indexed(store: ChunkedRunLogStore) -> frozenset[str]:
    """The runs that the store's index believes to know: of these ids it may tell of a run that is long gone.

    One listing, one request for the manifest and one for each segment.
    """
    view = index.Index(store.backend).look()
    return frozenset(run for _, segment in view.segments() for run in segment.runs) - view.doubted


def note_about(cut: Cut) -> str:
    """The key of a note of doubt, so that nobody believes the index about this id until somebody reindexes.

    It names a write that the header tells of: a reindex sees that this one landed, and need not write the header again.
    """
    writers = cut.header.envelope.writers
    session = next(iter(writers), "")
    return index.doubt_about(cut.run_id, session, writers.get(session, 0))


def _not_ended(run_id: str, place: str) -> str:
    return (
        f"run {run_id!r} in {place} has not ended, and would be another one by the next call; copy it when it has, or as it stands "
        "with unfinished"
    )
