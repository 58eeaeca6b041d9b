"""Chores on whole stores: what keeps one tidy and moves its runs. One file per chore; this is their public face.

Every function takes an open store first, changes only what it says, and returns a report.
"""

from chunkstore.maintenance.copying import CopyReport, RunCopy, copy_runs
from chunkstore.maintenance.exporting import ExportReport, Unexported, export
from chunkstore.maintenance.import_report import ImportReport, Refusal
from chunkstore.maintenance.imports import import_runs
from chunkstore.maintenance.packing import Unpacked, compact_runs, ended_runs, measure
from chunkstore.maintenance.progress import Progress, Watcher

__all__ = [
    "CopyReport",
    "ExportReport",
    "ImportReport",
    "Progress",
    "Refusal",
    "RunCopy",
    "Unexported",
    "Unpacked",
    "Watcher",
    "compact_runs",
    "copy_runs",
    "ended_runs",
    "export",
    "import_runs",
    "measure",
]
