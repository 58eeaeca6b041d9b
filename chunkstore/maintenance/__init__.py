"""Chores on whole stores: what keeps one tidy and moves its runs. One file per chore; this is their public face.

Every function takes an open store first, changes only what it says, and returns a report.
"""

from chunkstore.maintenance.checks import Check
from chunkstore.maintenance.doctor import Examination, examine
from chunkstore.maintenance.findings import Finding, Kind, Severity
from chunkstore.maintenance.packing import Unpacked, compact_runs, ended_runs, measure
from chunkstore.maintenance.progress import Progress, Watcher
from chunkstore.maintenance.quarantine import (
    Quarantined,
    discard_quarantined,
    export_quarantined,
    quarantined,
)
from chunkstore.maintenance.repair import Action, RepairReport, repair
from chunkstore.maintenance.verification import Checked, Verification, verify

__all__ = [
    "Action",
    "Check",
    "Checked",
    "Examination",
    "Finding",
    "Kind",
    "Progress",
    "Quarantined",
    "RepairReport",
    "Severity",
    "Unpacked",
    "Verification",
    "Watcher",
    "compact_runs",
    "discard_quarantined",
    "ended_runs",
    "examine",
    "export_quarantined",
    "measure",
    "quarantined",
    "repair",
    "verify",
]
