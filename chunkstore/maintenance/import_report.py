"""What an import came to, whatever the source."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Refusal:
    """A run that was not imported, where it is in the source, and why.

    `damaged`: it is not whole, or would not come back as it is. `conflict`: the store has another run of this id, of which nothing was changed.
    """

    run_id: str
    place: str
    sort: Literal["damaged", "conflict"]
    message: str


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What an import came to, by run ids; `skipped` stood in the store already, with the same contents."""

    source: str
    target: str
    imported: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    dry_run: bool = False

    @property
    def conflicts(self) -> tuple[Refusal, ...]:
        """Those that were refused because the store has another run of their id."""
        return tuple(refusal for refusal in self.refused if refusal.sort == "conflict")
