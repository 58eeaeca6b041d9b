"""Deleting runs, by a plan or by name: into the trash, or for good. Never one that is being written, nor one that changed since it was looked at."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from chunkstore.clock import as_datetime
from chunkstore.errors import (
    ConflictError,
    FormatError,
    InvalidInputError,
    NotFoundError,
    ObjectNotFoundError,
    RunLogNotFoundError,
)
from chunkstore.index import Row, row_of
from chunkstore.known import Stored
from chunkstore.maintenance.deletion import take_away
from chunkstore.maintenance.moving import Mover, listed, weigh
from chunkstore.maintenance.progress import Progress, Watcher
from chunkstore.maintenance.retention import Kept, Plan, Planned, is_as_planned
from chunkstore.marks import Mark, deleted, mark_of
from chunkstore.models import TERMINAL
from chunkstore.store import ChunkedRunLogStore

_AT_ONCE: Final = 8  # runs; each of them makes several requests at once
_LARGE: Final = 8 << 20  # bytes; of these only one is in memory


@dataclass(frozen=True, slots=True)
class Removed:
    """What came of a plan."""

    runs: tuple[str, ...]
    """Gone, in the trash unless asked for otherwise."""
    bytes: int
    """What they took in the store."""
    kept: tuple[Kept, ...]
    """Runs of the plan that stay: changed or taken up again since, damaged, or too large for the trash."""
    finished: tuple[str, ...]
    """Runs whose move or delete had been cut short."""


def plan_removal(store: ChunkedRunLogStore, run_ids: Iterable[str]) -> Plan:
    """A plan that removes these runs, with their sizes. Changes nothing. One listing and one request for each.

    Raises `RunLogNotFoundError` where one is not there, `ConflictError` where one has not ended: it may be being written. One whose header
    is damaged is in the plan; only removing it for good is possible then.
    """
    mover = Mover(store)
    planned: list[Planned] = []
    unfinished: list[str] = []
    copies: list[str] = []
    for run_id in dict.fromkeys(run_ids):
        found = listed(store, run_id)  # before the header: what changes after that is seen by the state
        try:
            header = mover.header(run_id)
            mark = mark_of(header.chunk)
            row = row_of(header)
        except ObjectNotFoundError as error:
            also = f"; {len(found)} objects without a header are, which delete_run_log removes" if found else ""
            raise RunLogNotFoundError(f"run {run_id!r} is not in {store.backend.place}{also}", run_id=run_id) from error
        except FormatError:
            mark, row = Mark("stands"), Row(run_id, "", "", "", None)
        if mark.state == "restoring":
            raise ConflictError(f"run {run_id!r} in {store.backend.place} {mark.what}; {mark.next_step}", run_id=run_id)
        if mark.state != "stands":
            (copies if mark.state == "copying" else unfinished).append(run_id)
            continue
        if row.created_at and row.status not in TERMINAL:
            raise ConflictError(
                f"run {run_id!r} in {store.backend.place} is {row.status} and may be being written, so it is not removed; "
                "set a terminal status first, or use the rule for abandoned runs",
                run_id=run_id,
            )
        weight = weigh(found)
        created_at = as_datetime(row.created_at) if row.created_at else datetime.max.replace(tzinfo=UTC)
        planned.append(
            Planned(run_id, row.status, row.tag, created_at, weight.objects, weight.bytes, "it was named", weight.state)
        )
    return Plan(tuple(planned), unfinished=tuple(unfinished), copies=tuple(copies))


def remove_runs(
    store: ChunkedRunLogStore, run_ids: Iterable[str], *, trash: bool = True, progress: Watcher | None = None
) -> Removed:
    """Moves runs into the trash, or deletes them for good. See `plan_removal` and `remove_planned` for what it raises and costs.

    A damaged chunk goes into the trash as it is, and comes back as it was.
    """
    return remove_planned(store, plan_removal(store, run_ids), trash=trash, even_damaged=True, progress=progress)


def remove_planned(
    store: ChunkedRunLogStore,
    plan: Plan,
    *,
    trash: bool = True,
    even_damaged: bool = False,
    progress: Watcher | None = None,
) -> Removed:
    """Removes the runs of a plan that are still as they were then, and finishes what was cut short earlier. The others are reported.

    Damaged runs stay, unless asked for otherwise. A call that is cut short leaves each run where it was or in the trash, never neither, and
    the next one finishes it. For each run two listings, one request for each object to read it and one to remove it (two where the place cannot
    delete under a condition), and five for copy, mark and notes; without the trash one listing and four requests, and one for each object.
    """
    removal = _Removal(store, trash=trash, even_damaged=even_damaged)
    gone, kept, finished = [], [], []
    for done, (what, outcome) in enumerate(removal.outcomes(plan)):
        if progress is not None:
            name = what if isinstance(what, str) else what.run_id
            progress(Progress(done + 1, len(plan.runs) + len(plan.unfinished) + len(plan.copies), name))
        if isinstance(outcome, Kept):
            kept.append(outcome)
        elif isinstance(what, str):
            finished.append(what)
        else:
            gone.append(what)
    return Removed(tuple(run.run_id for run in gone), sum(run.bytes for run in gone), tuple(kept), tuple(finished))


class _Removal:
    """One way to remove runs."""

    def __init__(self, store: ChunkedRunLogStore, *, trash: bool, even_damaged: bool) -> None:
        self._store = store
        self._trash = trash
        self._even_damaged = even_damaged
        self._mover = Mover(store)

    def outcomes(self, plan: Plan) -> Iterator[tuple[Planned | str, Kept | None]]:
        """What is done, and None, or why it stays."""
        small = [run for run in plan.runs if run.bytes < _LARGE]
        large = [run for run in plan.runs if run.bytes >= _LARGE]
        for run_id in (*plan.unfinished, *plan.copies):
            yield run_id, self._outcome(run_id, even_a_copy=run_id in plan.copies)
        if self._store.backend.concurrency == 1:
            yield from ((run, self._outcome(run)) for run in small)
        else:
            yield from self._at_once(small)
        yield from ((run, self._outcome(run)) for run in large)

    def _at_once(self, runs: list[Planned]) -> Iterator[tuple[Planned, Kept | None]]:
        workers = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="chunkstore-removal")
        try:
            yield from zip(runs, workers.map(self._outcome, runs), strict=True)
        finally:
            workers.shutdown(cancel_futures=True)  # Ctrl-C ends with the runs that are under way

    def _outcome(self, what: Planned | str, *, even_a_copy: bool = False) -> Kept | None:
        run_id = what if isinstance(what, str) else what.run_id
        try:
            if isinstance(what, str):
                self._finish(what, even_a_copy=even_a_copy)
            elif self._trash:
                self._mover.move(
                    run_id, what.state, lambda header: is_as_planned(what, header), even_damaged=self._even_damaged
                )
            else:
                self._delete(what)
        except NotFoundError:
            return Kept(run_id, "it is gone already")
        except (ConflictError, FormatError, InvalidInputError) as error:
            return Kept(run_id, str(error), damaged=isinstance(error, FormatError))
        return None

    def _finish(self, run_id: str, *, even_a_copy: bool) -> None:
        header = self._mover.header(run_id)
        mark = mark_of(header.chunk)
        if mark.state == "deleted" or (mark.state == "copying" and even_a_copy):
            take_away(self._mover.chunks, header)
        elif mark.state in ("moving", "emptied"):
            self._finish_move(header)
        else:
            what = "is there again" if mark.state == "stands" else mark.what
            raise ConflictError(f"run {run_id!r} {what}, and is left alone", run_id=run_id)

    def _finish_move(self, header: Stored) -> None:
        """Where the copy in the trash is gone or damaged, what is left is all there is: it goes only by name, and without the trash."""
        try:
            self._mover.finish(header)
        except FormatError:
            if self._trash or not self._even_damaged:
                raise
            take_away(self._mover.chunks, header)

    def _delete(self, planned: Planned) -> None:
        """Deletes a run for good."""
        found = listed(self._store, planned.run_id)
        if weigh(found).state != planned.state:
            raise self._changed(planned)
        try:
            header = self._mover.header(planned.run_id)
        except FormatError:
            if not self._even_damaged:
                raise
            self._store.delete_run_log(planned.run_id)
        else:
            take_away(self._mover.chunks, self._marked(planned, header, found[header.key].version))

    def _marked(self, planned: Planned, header: Stored, version: str) -> Stored:
        """The header, marked in the version that was looked at: whoever changed it since keeps his run."""
        stands = version in ("", header.version) and is_as_planned(planned, header)
        marked = self._mover.chunks.replace(header, deleted(header.chunk)) if stands else None
        if marked is None:
            raise self._changed(planned)
        return marked

    def _changed(self, planned: Planned) -> ConflictError:
        return ConflictError(
            f"run {planned.run_id!r} in {self._store.backend.place} was changed since it was looked at, and is left alone",
            run_id=planned.run_id,
        )
