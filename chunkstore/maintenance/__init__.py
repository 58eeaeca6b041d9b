"""Chores on whole stores: what keeps one tidy and moves its runs. One file per chore; this is their public face.

Every function takes an open store first, changes only what it says, and returns a report.
"""

from chunkstore.maintenance.moving import Trashed
from chunkstore.maintenance.progress import Progress, Watcher
from chunkstore.maintenance.removal import Removed, carry_out, plan_of, remove
from chunkstore.maintenance.retention import Kept, Plan, Planned, Retention, age, plan
from chunkstore.maintenance.trash import GRACE, Emptied, Restored, empty, find_trashed, list_trash, restore

__all__ = [
    "GRACE",
    "Emptied",
    "Kept",
    "Plan",
    "Planned",
    "Progress",
    "Removed",
    "Restored",
    "Retention",
    "Trashed",
    "Watcher",
    "age",
    "carry_out",
    "empty",
    "find_trashed",
    "list_trash",
    "plan",
    "plan_of",
    "remove",
    "restore",
]
