"""Chores on whole stores: what keeps one tidy and moves its runs. One file per chore; this is their public face.

Every function takes an open store first, changes only what it says, and returns a report.
"""

from chunkstore.maintenance.checks import Check
from chunkstore.maintenance.copying import CopyReport, RunCopy, copy_runs
from chunkstore.maintenance.doctor import Examination, examine
from chunkstore.maintenance.exporting import ExportReport, Unexported, export
from chunkstore.maintenance.findings import Finding, Kind, Severity
from chunkstore.maintenance.import_report import ImportReport, Refusal
from chunkstore.maintenance.imports import import_runs
from chunkstore.maintenance.leasekeeping import LeaseFound, SweptLeases, list_leases, sweep_leases, written_under
from chunkstore.maintenance.moving import Trashed
from chunkstore.maintenance.packing import Unpacked, compact_runs, ended_runs, measure_runs
from chunkstore.maintenance.progress import Progress, Watcher
from chunkstore.maintenance.quarantine import Quarantined, discard_quarantined, export_quarantined, quarantined
from chunkstore.maintenance.removal import Removed, plan_removal, remove_planned, remove_runs
from chunkstore.maintenance.repair import Action, RepairReport, repair
from chunkstore.maintenance.retention import Kept, Plan, Planned, Retention, plan_gc
from chunkstore.maintenance.trash import GRACE, Emptied, Restored, empty_trash, find_trashed, list_trash, restore_run
from chunkstore.maintenance.verification import Checked, Verification, verify

__all__ = [
    "GRACE",
    "Action",
    "Check",
    "Checked",
    "CopyReport",
    "Emptied",
    "Examination",
    "ExportReport",
    "Finding",
    "ImportReport",
    "Kept",
    "Kind",
    "LeaseFound",
    "Plan",
    "Planned",
    "Progress",
    "Quarantined",
    "Refusal",
    "Removed",
    "RepairReport",
    "Restored",
    "Retention",
    "RunCopy",
    "Severity",
    "SweptLeases",
    "Trashed",
    "Unexported",
    "Unpacked",
    "Verification",
    "Watcher",
    "compact_runs",
    "copy_runs",
    "discard_quarantined",
    "empty_trash",
    "ended_runs",
    "examine",
    "export",
    "export_quarantined",
    "find_trashed",
    "import_runs",
    "list_leases",
    "list_trash",
    "measure_runs",
    "plan_gc",
    "plan_removal",
    "quarantined",
    "remove_planned",
    "remove_runs",
    "repair",
    "restore_run",
    "sweep_leases",
    "verify",
    "written_under",
]
