"""What a check of a store finds: one value for each thing that a person should know of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, Literal

Severity = Literal["damage", "warning", "notice"]
"""Something is lost or cannot be read; a person should look; left lying about, and does no harm."""


class Kind(StrEnum):
    """The sorts of finding."""

    DAMAGED = "damaged"
    """The bytes are no whole chunk or pack."""
    MISPLACED = "misplaced"
    """A whole chunk or pack under the key of another."""
    UNREADABLE = "unreadable"
    """The place does not hand it out: rights, a bad sector, something else in its place."""
    NEWER = "newer"
    """Written in a format, or with a package, that is not known here."""
    MISFIT = "misfit"
    """A whole chunk whose body does not fit the model of this client."""
    ORPHAN = "orphan"
    """A step or branch that is not stored, although others are below it."""
    HEADERLESS = "headerless"
    """Chunks of a run whose header is gone."""
    PACK_LOST = "pack lost"
    """The header says that the run is packed, and there is neither a pack nor a loose step."""
    PACK_DISAGREES = "pack disagrees"
    """Pack, manifest and loose chunks contradict each other."""
    PACKING_UNFINISHED = "packing unfinished"
    """Marked to be packed, and not packed; nothing is lost."""
    DELETION_UNFINISHED = "deletion unfinished"
    """Marked as deleted, and still there."""
    COPY_UNFINISHED = "copy unfinished"
    """A copy or an import that is under way, or was cut short."""
    MOVE_UNFINISHED = "move unfinished"
    """On its way into the trash; damage where its copy there is gone."""
    RESTORE_UNFINISHED = "restore unfinished"
    """On its way back from the trash; damage where its copy there is gone."""
    LEFT_OVER = "left over"
    """Of a deleted run of the same id; in no run log."""
    CASE = "case"
    """Two names that differ only in upper and lower case."""
    FOREIGN = "foreign"
    """Not ours."""
    STAGING = "staging"
    """A file that a killed writer left."""
    EMPTY_FOLDER = "empty folder"
    """A run's folder without objects, as a killed writer leaves it."""
    INDEX_DAMAGED = "index damaged"
    """A part of the index is damaged or missing; runs are found all the same, only slower."""
    INDEX_WRONG = "index wrong"
    """The index says of a run what its header does not say."""
    INDEX_LEFT_OVER = "index left over"
    """Parts of the index that do not count any more."""
    DOUBT = "doubt"
    """Notes of doubt, which make lists slower."""
    QUARANTINED = "quarantined"
    """What an earlier repair has isolated."""
    QUARANTINE_DAMAGED = "quarantine damaged"
    """What a repair has isolated, and is not there any more as it was."""
    TRASH_DAMAGED = "trash damaged"
    """A copy in the trash cannot be brought back."""


SEVERITY: Final[Mapping[Kind, Severity]] = {
    Kind.DAMAGED: "damage",
    Kind.MISPLACED: "damage",
    Kind.UNREADABLE: "damage",
    Kind.NEWER: "warning",
    Kind.MISFIT: "damage",
    Kind.ORPHAN: "damage",
    Kind.HEADERLESS: "damage",
    Kind.PACK_LOST: "damage",
    Kind.PACK_DISAGREES: "damage",
    Kind.PACKING_UNFINISHED: "notice",
    Kind.DELETION_UNFINISHED: "warning",
    Kind.COPY_UNFINISHED: "warning",
    Kind.MOVE_UNFINISHED: "warning",
    Kind.RESTORE_UNFINISHED: "warning",
    Kind.LEFT_OVER: "notice",
    Kind.CASE: "warning",
    Kind.FOREIGN: "notice",
    Kind.STAGING: "notice",
    Kind.EMPTY_FOLDER: "notice",
    Kind.INDEX_DAMAGED: "warning",
    Kind.INDEX_WRONG: "damage",
    Kind.INDEX_LEFT_OVER: "notice",
    Kind.DOUBT: "notice",
    Kind.QUARANTINED: "warning",
    Kind.QUARANTINE_DAMAGED: "damage",
    Kind.TRASH_DAMAGED: "damage",
}
"""As a rule. An orphan of a run that has not ended is a warning: its parent may still come."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that a check found: where it is, what it is, and what to do about it."""

    kind: Kind
    severity: Severity
    run_id: str
    """Empty for what belongs to no run."""
    key: str
    """The object, or on a local disk the path below the store's folder."""
    what: str
    next_step: str
    version: str = ""
    """The object's, as it was looked at; empty where it has none."""
    size: int = 0
    age_seconds: float | None = field(default=None, compare=False)
    """Of a staging file or an empty folder: since it was changed last, by this host's clock."""


def finding(
    kind: Kind,
    key: str,
    what: str,
    next_step: str,
    *,
    run_id: str = "",
    severity: Severity | None = None,
    version: str = "",
    size: int = 0,
    age_seconds: float | None = None,
) -> Finding:
    """A finding, with the severity that its kind has as a rule."""
    return Finding(kind, severity or SEVERITY[kind], run_id, key, what, next_step, version, size, age_seconds)
