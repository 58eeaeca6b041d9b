"""The settings of a store in a folder."""

from __future__ import annotations

from typing import ClassVar, Literal

from chunkstore.settings.general import Settings


class LocalSettings(Settings):
    """Of a folder: `runs/`, `file:///folder`."""

    place_name: ClassVar[str] = "a folder"

    durability: Literal["process", "barrier", "power"] = "barrier"
    """Which acknowledged writes survive. See `docs/concepts.md`."""
