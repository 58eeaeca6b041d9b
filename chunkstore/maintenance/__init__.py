"""Chores on whole stores: what keeps one tidy and moves its runs. One file per chore; this is their public face.

Every function takes an open store first, changes only what it says, and returns a report.
"""

from chunkstore.maintenance.copying import CopyReport, RunCopy, copy_runs
from chunkstore.maintenance.exporting import ExportReport, Unexported, export
from chunkstore.maintenance.import_report import ImportReport, Refusal
from chunkstore.maintenance.imports import import_runs
from chunkstore.maintenance.moving import Trashed
from chunkstore.maintenance.packing import Unpacked, compact_runs, ended_runs, measure
from chunkstore.maintenance.progress import Progress, Watcher
from chunkstore.maintenance.removal import Removed, carry_out, plan_of, remove
from chunkstore.maintenance.retention import Kept, Plan, Planned, Retention, age, plan
from chunkstore.maintenance.trash import GRACE, Emptied, Restored, empty, find_trashed, list_trash, restore

__all__ = [
    "GRACE",
    "CopyReport",
    "Emptied",
    "ExportReport",
    "ImportReport",
    "Kept",
    "Plan",
    "Planned",
    "Progress",
    "Refusal",
    "Removed",
    "Restored",
    "Retention",
    "RunCopy",
    "Trashed",
    "Unexported",
    "Unpacked",
    "Watcher",
    "age",
    "carry_out",
    "compact_runs",
    "copy_runs",
    "empty",
    "ended_runs",
    "export",
    "find_trashed",
    "import_runs",
    "list_trash",
    "measure",
    "plan",
    "plan_of",
    "remove",
    "restore",
]
