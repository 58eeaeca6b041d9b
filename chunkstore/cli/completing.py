"""What the shell offers when Tab is pressed. It never fails aloud, and asks no server: that would take seconds at each key."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from pathlib import Path
from typing import Final

import typer

from chunkstore.backends.local import LocalBackend
from chunkstore.cli.configuration import find_files, names, read
from chunkstore.cli.opening import open_store_of
from chunkstore.errors import ChunkStoreError

_OFFERED: Final = 100
_WORDS: Final = ("last", "last:failed", "last:running")


def complete_store(incomplete: str) -> list[str]:
    """The names of stores in the configuration."""
    with suppress(ChunkStoreError):
        known = names([read(path) for path in find_files(None)])
        return [name for name in known if name.startswith(incomplete)]
    return []


def complete_run(context: typer.Context, incomplete: str) -> list[str]:
    """Ids of runs on local disk, and the words for the last one."""
    offered = [word for word in _WORDS if word.startswith(incomplete)]
    with suppress(ChunkStoreError):
        return [*offered, *islice(_ids(context, incomplete), _OFFERED)]
    return offered


def _ids(context: typer.Context, incomplete: str) -> Iterator[str]:
    store, config = context.params.get("store") or "", context.params.get("config")
    with open_store_of(store, Path(config) if config else None) as opened:
        if isinstance(opened.backend, LocalBackend):
            yield from sorted(run_id for run_id in opened.iter_run_ids() if run_id.startswith(incomplete))
