"""From what a command was given to an open store: the option, else the environment, else the configuration file."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from chunkstore.backends.local import LocalBackend
from chunkstore.cli.configuration import ConfigFile, Place, find_files, names, place_of, read
from chunkstore.config import has_scheme, open_store
from chunkstore.errors import NotFoundError
from chunkstore.naming import nearest
from chunkstore.store import ChunkedRunLogStore


def config_files(config: Path | None) -> tuple[ConfigFile, ...]:
    """The configuration files that count, the nearest first."""
    return tuple(read(path) for path in find_files(config))


def place_meant(store: str, config: Path | None) -> tuple[Place, tuple[ConfigFile, ...]]:
    """The place that a command is about, and the configuration files that count. Nothing is opened."""
    files = config_files(config)
    is_from_environment = store and store == os.environ.get("CHUNKSTORE_URL")
    return place_of(store, files, "CHUNKSTORE_URL" if is_from_environment else "--store"), files


@contextmanager
def open_store_of(store: str, config: Path | None = None, *, new: bool = False) -> Iterator[ChunkedRunLogStore]:
    """The store that a command is about, closed at the end. A folder must be there, except with `new`: most misspelt ones are not.

    Raises `InvalidInputError` for a configuration that cannot be used, or where nobody says which store; `NotFoundError` for a
    folder that is not there.
    """
    place, files = place_meant(store, config)
    opened = open_place(place)
    try:
        if not new:
            _require_folder(opened, place, files)
        yield opened
    finally:
        opened.close()


def open_place(place: Place) -> ChunkedRunLogStore:
    """The store at a place, with the settings that the place has in its configuration file."""
    settings: dict[str, Any] = dict(place.settings)
    return open_store(place.url, **settings)


def _require_folder(store: ChunkedRunLogStore, place: Place, files: tuple[ConfigFile, ...]) -> None:
    file = getattr(store.backend, "file", None)  # of an SQLite database
    if isinstance(file, str) and not Path(file).exists():
        raise NotFoundError(f"there is no file {file} (from {place.source})", name=place.url)
    if not isinstance(store.backend, LocalBackend) or Path(store.backend.place).is_dir():
        return
    known = list(names(files))
    is_maybe_a_name = not (has_scheme(place.url) or place.name or os.sep in place.url)
    hint = f"; of the names of stores, {nearest(place.url, known)}" if known and is_maybe_a_name else ""
    raise NotFoundError(f"there is no folder {store.backend.place} (from {place.source}){hint}", name=place.url)
