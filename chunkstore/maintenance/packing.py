"""Packing many runs, one after the other: those that have ended. What packing one does is told by `ChunkedRunLogStore.compact`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from chunkstore import keys
from chunkstore.compaction import Compaction, Removal
from chunkstore.errors import RunLogNotFoundError
from chunkstore.maintenance.progress import Progress, Watcher
from chunkstore.models import TERMINAL
from chunkstore.store import ChunkedRunLogStore


@dataclass(frozen=True, slots=True)
class Unpacked:
    """A run that can be packed, as it stands."""

    run_id: str
    loose: int
    """Steps, branches and job logs that stand loose."""
    size: int
    """Bytes of all that the run has."""
    packed: bool
    """It has a pack already, from before."""


def ended_runs(store: ChunkedRunLogStore) -> tuple[str, ...]:
    """The ids of all runs that have ended, the oldest first. Costs as `find_runs` without a filter."""
    return tuple(run.run_id for run in store.iter_run_logs(order="oldest") if run.status in TERMINAL)


def measure_runs(store: ChunkedRunLogStore, run_ids: Sequence[str]) -> Iterator[Unpacked]:
    """What packing would find. One listing for each run; one that is gone is left out."""
    for run_id in run_ids:
        listed = {entry.key: entry for entry in store.backend.list(keys.prefix_of_run(run_id))}
        loose = [key for key in listed if keys.is_chunk(key) and not keys.stays_loose(key)]
        if listed:
            size = sum(entry.size for entry in listed.values())
            yield Unpacked(run_id, len(loose), size, keys.pack(run_id) in listed)


def compact_runs(
    store: ChunkedRunLogStore, run_ids: Sequence[str], *, remove: Removal = "unchanged", progress: Watcher | None = None
) -> Iterator[Compaction]:
    """Packs one run after the other, and gives what came of each at once; a run that is deleted meanwhile is left out.

    Each run costs as `compact`. A call that is cut short leaves readable runs, and the next one goes on. Raises what `compact` raises.
    """
    for number, run_id in enumerate(run_ids):
        if progress is not None:
            progress(Progress(number, len(run_ids), run_id))
        try:
            yield store.compact(run_id, remove=remove)
        except RunLogNotFoundError:
            if len(run_ids) == 1:
                raise
    if progress is not None:
        progress(Progress(len(run_ids), len(run_ids)))
