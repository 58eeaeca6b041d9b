"""Chores on whole stores: what keeps one tidy and moves its runs. One file per chore; this is their public face.

Every function takes an open store first, changes only what it says, and returns a report.
"""

from chunkstore.maintenance.packing import Unpacked, compact_runs, ended_runs, measure
from chunkstore.maintenance.progress import Progress, Watcher

__all__ = ["Progress", "Unpacked", "Watcher", "compact_runs", "ended_runs", "measure"]
