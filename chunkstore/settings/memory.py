"""The settings of a store in memory."""

from __future__ import annotations

from typing import ClassVar

from chunkstore.settings.general import Settings


class MemorySettings(Settings):
    """Of a store in memory, `memory://name`: there are only the general ones."""

    place_name: ClassVar[str] = "memory"
    of_one_process: ClassVar[bool] = True
