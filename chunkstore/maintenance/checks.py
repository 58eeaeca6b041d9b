"""What an examination of a place writes down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol

Outcome = Literal["yes", "no", "unknown"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was tried out."""

    name: str
    outcome: Outcome
    what: str
    """What was seen."""
    follows: str = ""
    """What that means for whoever stores here; empty where all is as it should be."""


class Notes(Protocol):
    """Where probes write down what they saw."""

    def note(self, name: str, outcome: Outcome, what: str, follows: str = "") -> None:
        """One check; of two with the same name the first stays."""
        ...

    def advise(self, text: str) -> None:
        """What to do, or which setting to choose."""
        ...
