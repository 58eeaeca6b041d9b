"""What the entry points of the group `run_log_store` name: a factory for each type, which gives the class of the tool that asks."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from collections.abc import Iterator
from types import FrameType
from typing import Any, Final

from chunkstore.errors import NotSupportedError

_TOOLS: Final = ("runnable", "magnus")
"""Each has a module of its own here, with its classes by their types in `STORES`."""


def chunkstore(**keys: object) -> object:
    """Type `chunkstore`: a `url`, and the settings of its place."""
    return _store("chunkstore", keys)


def chunkstore_fs(**keys: object) -> object:
    """Type `chunkstore-fs`: the keys of `chunked-fs` and `file-system`."""
    return _store("chunkstore-fs", keys)


def chunkstore_s3(**keys: object) -> object:
    """Type `chunkstore-s3`: the keys of magnus's `s3`."""
    return _store("chunkstore-s3", keys)


def chunkstore_minio(**keys: object) -> object:
    """Type `chunkstore-minio`: the keys of `chunked-minio` and `minio`."""
    return _store("chunkstore-minio", keys)


def chunkstore_db(**keys: object) -> object:
    """Type `chunkstore-db`: the keys of magnus's `db`."""
    return _store("chunkstore-db", keys)


def _store(kind: str, keys: dict[str, object]) -> object:
    tool: Any = importlib.import_module(f"chunkstore.integrations.{_asking()}")
    return tool.STORES[kind](**keys)


def _asking() -> str:
    """The tool that asks: the one that is imported; of both, the one that calls; of none, the one that is installed."""
    imported = [tool for tool in _TOOLS if f"{tool}.datastore" in sys.modules]
    if len(imported) == 1:
        return imported[0]
    candidates = _callers() if imported else (tool for tool in _TOOLS if importlib.util.find_spec(tool) is not None)
    found = next(iter(candidates), None)
    if found is None:
        raise NotSupportedError(
            'a run log store of chunkstore needs the pipeline tool that it is for: pip install "chunkstore[runnable]" or '
            '"chunkstore[magnus]"; without one, use chunkstore.open'
        )
    return found


def _callers() -> Iterator[str]:
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001  nothing else tells who calls
    while frame is not None:
        top = str(frame.f_globals.get("__name__", "")).partition(".")[0]
        if top in _TOOLS:
            yield top
        frame = frame.f_back
