"""The places that tests of the store run on, and how large the tests are."""

from __future__ import annotations

import math
import multiprocessing
import os
import shutil
import time
import traceback
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Final

import pytest

from chunkstore import ChunkedRunLogStore
from chunkstore.backends import Backend
from chunkstore.backends.local import LocalBackend
from chunkstore.backends.memory import MemoryBackend
from chunkstore.errors import ObjectNotFoundError

SCALE: Final = max(1, int(os.environ.get("CHUNKSTORE_TEST_SCALE", "1")))
"""1 for each commit, 10 for the full sizes that are promised."""

HANGS: Final = 120.0 * SCALE
"""Seconds after which a group of processes hangs."""


def sized(full: int) -> int:
    """A tenth of the full size for each commit, and never more than all of it."""
    return min(full, math.ceil(full * SCALE / 10))


def between(small: int, full: int) -> int:
    """For tests that try a number of times: the small number for each commit, the full one at the full size, in proportion beyond."""
    return max(1, round(small + (full - small) * (SCALE - 1) / 9))


def memory() -> MemoryBackend:
    """A place of its own in this process."""
    return MemoryBackend(f"test-{uuid.uuid4().hex}")


def engine() -> Any:
    """The S3 engine that the fixture `engine` has set for this test, its children included; else what the library chooses."""
    return os.environ.get("CHUNKSTORE_TEST_ENGINE", "auto")


def in_bucket(server: Any, folder: Path, **settings: Any) -> Backend:
    """A bucket of its own on a server; all but `bucket` passes on."""
    settings.setdefault("engine", engine())
    pytest.importorskip("s3fs")
    from chunkstore.backends.s3 import S3Backend

    return S3Backend(
        bucket=settings.pop("bucket", None) or server.new_bucket(),
        prefix=settings.pop("prefix", "some/runs"),
        endpoint_url=server.endpoint_url,
        key=server.key,
        secret=server.secret,
        region=server.region,
        lock_folder=str(folder / "locks"),
        **settings,
    )


def in_database(connection_string: str, *, made: bool = True, **settings: Any) -> Backend:
    """A table of a database; made where it is missing, unless it shall not be."""
    pytest.importorskip("sqlalchemy")
    from chunkstore.backends.sql import SqlBackend, create_tables

    if made:
        create_tables(connection_string, **{key: value for key, value in settings.items() if key == "table_name"})
    return SqlBackend(connection_string, **settings)


def in_file(folder: Path, **settings: Any) -> Backend:
    """An SQLite database."""
    return in_database(f"sqlite:///{folder / 'runs.db'}", **settings)


def table_for(name: str, request: pytest.FixtureRequest, folder: Path) -> Backend:
    """A table for a test, whose connections end with it."""
    if name == "sqlite":
        made = in_file(folder)
    else:
        server = request.getfixturevalue("postgres_server")
        made = in_database(server.url(), table_name=server.new_table())
    request.addfinalizer(made.close)
    return made


def remove_file(backend: Backend) -> None:
    """What `in_file` has made, with its folder."""
    backend.close()
    shutil.rmtree(Path(backend.place.removeprefix("sqlite:///")).parent)


def place(name: str, request: pytest.FixtureRequest, folder: Path) -> Backend:
    """The place of this name, empty; skips where its server is missing."""
    if name == "memory":
        return memory()
    if name == "local":
        return LocalBackend(folder / "runs")
    if name in {"sqlite", "postgres"}:
        return table_for(name, request, folder)
    return in_bucket(request.getfixturevalue(f"{name}_server"), folder)


def again(store: ChunkedRunLogStore) -> ChunkedRunLogStore:
    """Another store on the same place, as another process would have it: it knows nothing."""
    return ChunkedRunLogStore(store.backend, settings=store.settings, schema=store.schema)


def raw(backend: Backend, key: str) -> bytes | None:
    """The bytes that stand there; None for nothing."""
    try:
        return backend.get(key).data
    except ObjectNotFoundError:
        return None


Work = Callable[..., Any]


def _report(work: Work, pipe: Connection, arguments: tuple[Any, ...]) -> None:
    try:
        pipe.send((True, work(*arguments)))
    except BaseException:  # noqa: BLE001  whatever it is, the parent must hear of it
        pipe.send((False, traceback.format_exc()))


def start(work: Work, arguments: tuple[Any, ...], method: str = "fork") -> tuple[BaseProcess, Connection]:
    """A process that does the work, and where its result arrives."""
    context = multiprocessing.get_context(method)
    ours, theirs = context.Pipe(duplex=False)
    process = context.Process(target=_report, args=(work, theirs, arguments))  # type: ignore[attr-defined]
    process.start()
    theirs.close()
    return process, ours


def finish(started: Sequence[tuple[BaseProcess, Connection]], seconds: float = HANGS) -> list[Any]:
    """Their results; fails with the traceback of one that failed, and kills those that hang."""
    until = time.monotonic() + seconds
    results, failures = [], []
    for process, pipe in started:
        try:
            if wait([pipe], timeout=max(0.0, until - time.monotonic())):
                done, result = pipe.recv()
                (results if done else failures).append(result)
            else:
                failures.append(f"process {process.pid} hangs")
                process.kill()
        except EOFError:
            failures.append(f"process {process.pid} ended without a result")
        process.join()
        pipe.close()
    assert not failures, "\n".join(failures)
    return results


def at_once(work: Work, each: Sequence[tuple[Any, ...]], method: str = "fork") -> list[Any]:
    """What so many processes return that do the work at the same time."""
    return finish([start(work, arguments, method) for arguments in each])


@contextmanager
def meanwhile(work: Work, each: Sequence[tuple[Any, ...]]) -> Iterator[Callable[[], bool]]:
    """Processes that do the work while the block runs; yields whether one of them is still at it."""
    started = [start(work, arguments) for arguments in each]

    def busy() -> bool:
        return any(not pipe.poll() and process.is_alive() for process, pipe in started)

    try:
        yield busy
    except BaseException:
        for process, _ in started:
            process.kill()
            process.join()
        raise
    finish(started)
