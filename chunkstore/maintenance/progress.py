"""How far a long chore has come, for whoever wants to show it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias


@dataclass(frozen=True, slots=True)
class Progress:
    """One step of a chore."""

    done: int
    total: int | None
    """None while it is not known."""
    what: str = ""
    """What is being done, or to which run: a few words, as they are, also foreign ones."""


Watcher: TypeAlias = Callable[[Progress], None]
"""Called between the steps of a chore, in its thread; what it raises ends the chore there."""
