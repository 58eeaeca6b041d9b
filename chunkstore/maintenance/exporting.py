"""Runs out of a store into one file: `export`. JSON holds all of them and can be imported again; CSV and Parquet are for tables."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, Protocol, TypeAlias, get_args

from chunkstore import keys
from chunkstore.assembly import collector_paused
from chunkstore.chunks import Chunks
from chunkstore.errors import (
    AlreadyExistsError,
    BackendUnavailableError,
    ChunkStoreError,
    FormatError,
    InvalidInputError,
    RunLogNotFoundError,
    StorageFullError,
)
from chunkstore.known import Origins, Stored
from chunkstore.maintenance import documents, tabular
from chunkstore.maintenance.progress import Progress, Watcher
from chunkstore.maintenance.tabular import Row, Rows
from chunkstore.models import RunLog
from chunkstore.queries import RunFilter
from chunkstore.reading import Reader
from chunkstore.store import ChunkedRunLogStore
from chunkstore.watching import ROUNDS, snapshot

Format: TypeAlias = Literal["json", "jsonl", "csv", "parquet"]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_NAMING: Final = (FileNotFoundError, NotADirectoryError, IsADirectoryError, PermissionError)


class Sink(Protocol):
    """Takes the bytes of an export, as they come; a binary stream is one."""

    def write(self, data: bytes, /) -> object:
        """Takes some more."""
        ...


@dataclass(frozen=True, slots=True)
class Unexported:
    """A run that is not in the file, and why."""

    run_id: str
    sort: Literal["damaged", "missing", "unsettled", "too deep"]
    message: str


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What an export came to."""

    format: Format
    runs: tuple[str, ...]
    """The runs in the file, in its order: the oldest first, or as they were asked for."""
    refused: tuple[Unexported, ...]
    bytes: int
    """Of the file."""


def export(
    store: ChunkedRunLogStore,
    target: str | os.PathLike[str] | Sink,
    format: Format,  # noqa: A002  what is asked for is the format
    runs: Sequence[str] | RunFilter | None = None,
    *,
    rows: Rows = "runs",
    force: bool = False,
    progress: Watcher | None = None,
) -> ExportReport:
    """Writes runs to a file, or to a binary stream or the like: those of these ids, those that match the filter, or all.

    `json` is one list of run logs, `jsonl` one run log a line: every field, value and time comes back by `import_runs`, also NaN, infinities
    and integers of any size. `csv` and `parquet` have one row for each run (`rows="runs"`, with a column for each parameter and metric) or
    for each attempt of a step (`rows="steps"`); they are for tables and do not come back. In CSV a text that a spreadsheet would take for
    a formula gets an apostrophe before it; NaN is `nan`, lists and objects are JSON. In Parquet a column is as narrow a type as all of its
    values allow, without rounding any, or text.

    A file appears under its name when it is whole, and one that is there is an `AlreadyExistsError` unless `force` says to replace it. A run
    that is damaged, that is written all the time, or that is nested too deep for one JSON object is refused by name, and the others go on.

    For each run two listings, and one request for each chunk; before, the cost of `find_runs`. In memory is one run at a time, with CSV and
    Parquet all rows. Raises `NotSupportedError` where Parquet is asked for and pyarrow is missing, `InvalidInputError` for what cannot be
    asked, and `BackendUnavailableError` where the store or the disk fails; then no file is there.
    """
    if format not in get_args(Format):
        raise InvalidInputError(
            f"there is no format {format!r}; known are: {', '.join(get_args(Format))}", name="format"
        )
    if rows not in get_args(Rows):
        raise InvalidInputError(f"rows must be 'runs' or 'steps', not {rows!r}", name="rows")
    with _opened(target, force=force) as out, collector_paused():
        exporter = _Exporter(store, _Counted(out), progress)
        exporter.run(_WRITERS[format], _chosen(store, runs), rows, named=runs is not None)
    return ExportReport(format, tuple(exporter.written), tuple(exporter.refused), exporter.out.size)


def _chosen(store: ChunkedRunLogStore, runs: Sequence[str] | RunFilter | None) -> list[str]:
    if isinstance(runs, str):
        raise InvalidInputError(f"runs must be a list of run ids, not one text: {runs!r}", run_id=runs)
    if runs is not None and not isinstance(runs, RunFilter):
        for run_id in runs:
            keys.folder_of(run_id)
        return list(dict.fromkeys(runs))
    wanted = RunFilter() if runs is None else runs
    found = [run.run_id for run in store.iter_run_logs(wanted, order="oldest")]
    # Also those that no filter finds, as their headers are damaged: they are refused by name.
    return found if runs is not None else [*found, *sorted(set(store.iter_run_ids()) - set(found))]


class _Counted:
    """A sink that counts what goes into it."""

    def __init__(self, out: Sink) -> None:
        self._out = out
        self.size = 0

    def write(self, data: bytes) -> int:
        self.size += len(data)
        self._out.write(data)
        return len(data)


class _Exporter:
    """One export."""

    def __init__(self, store: ChunkedRunLogStore, out: _Counted, progress: Watcher | None) -> None:
        self._place = store.backend.place
        self._chunks = Chunks(store.backend)  # of its own: what is exported is nothing that the store's user has seen
        self._reader = Reader(self._chunks, store.schema, Origins())
        self._progress = progress
        self.out = out
        self.written: list[str] = []
        self.refused: list[Unexported] = []

    def run(self, write: _Write, run_ids: list[str], rows: Rows, *, named: bool) -> None:
        """Writes them all."""
        write(self, self._each(run_ids, named=named), rows)

    def _each(self, run_ids: list[str], *, named: bool) -> Iterator[_Read]:
        """The runs that can be read, as they are asked for."""
        for number, run_id in enumerate(run_ids, 1):
            try:
                yield self._read(run_id)
            except RunLogNotFoundError as error:
                if named:
                    self._refuse(run_id, "missing", str(error))
            except FormatError as error:
                self._refuse(run_id, "damaged", str(error))
            except _UnsettledError as error:
                self._refuse(run_id, "unsettled", str(error))
            if self._progress is not None:
                self._progress(Progress(number, len(run_ids), run_id))

    def _read(self, run_id: str) -> _Read:
        scan, settled = snapshot(self._chunks, run_id)
        reading = self._reader.put_together(run_id, scan)
        damaged = [finding.message for finding in reading.findings if finding.sort == "damaged"]
        if damaged:
            raise FormatError(
                f"run {run_id!r} in {self._place} has {len(damaged)} damaged chunks: {'; '.join(damaged[:5])}",
                run_id=run_id,
            )
        if not settled:
            raise _UnsettledError(
                f"run {run_id!r} changed during each of {ROUNDS} looks at it; export it when its writers rest"
            )
        self._chunks.known.forget_run(run_id)
        return _Read(reading.run_log, scan.chunks)

    def _refuse(self, run_id: str, sort: Literal["damaged", "missing", "unsettled", "too deep"], message: str) -> None:
        self.refused.append(Unexported(run_id, sort, message))

    def lines(self, found: Iterator[_Read]) -> Iterator[bytes]:
        """One line of JSON each."""
        for read in found:
            try:
                yield documents.write(read.run_log, read.chunks)
            except InvalidInputError as error:
                self._refuse(read.run_log.run_id, "too deep", str(error))
            else:
                self.written.append(read.run_log.run_id)

    def rows(self, found: Iterator[_Read], rows: Rows) -> list[Row]:
        """All rows."""
        made: list[Row] = []
        for read in found:
            made += tabular.rows_of(read.run_log, rows)
            self.written.append(read.run_log.run_id)
        return made


@dataclass(frozen=True, slots=True)
class _Read:
    """One run."""

    run_log: RunLog
    chunks: list[Stored] = field(repr=False)


class _UnsettledError(Exception):
    """A run that its writers change all the time."""


_Write: TypeAlias = Callable[[_Exporter, Iterator[_Read], Rows], None]


def _write_json(exporter: _Exporter, found: Iterator[_Read], _rows: Rows) -> None:
    start = b"[\n"
    for line in exporter.lines(found):
        exporter.out.write(start + line)
        start = b",\n"
    exporter.out.write(b"\n]\n" if start != b"[\n" else b"[]\n")


def _write_lines(exporter: _Exporter, found: Iterator[_Read], _rows: Rows) -> None:
    for line in exporter.lines(found):
        exporter.out.write(line + b"\n")


def _write_csv(exporter: _Exporter, found: Iterator[_Read], rows: Rows) -> None:
    tabular.write_csv(exporter.rows(found, rows), exporter.out.write)


def _write_parquet(exporter: _Exporter, found: Iterator[_Read], rows: Rows) -> None:
    tabular.write_parquet(exporter.rows(found, rows), exporter.out.write)


_WRITERS: Final[dict[Format, _Write]] = {
    "json": _write_json,
    "jsonl": _write_lines,
    "csv": _write_csv,
    "parquet": _write_parquet,
}


@contextmanager
def _opened(target: str | os.PathLike[str] | Sink, *, force: bool) -> Iterator[Sink]:
    """Where to write to; a file gets its name when the block is done."""
    if not isinstance(target, str | os.PathLike):
        yield target
        return
    path = Path(target)
    if path.exists() and not force:
        raise _exists(path)
    staging = path.with_name(f".{path.name[:100]}.{secrets.token_hex(4)}.part")
    try:
        with staging.open("xb") as out:
            yield out
            out.flush()
            os.fsync(out.fileno())
        _give_name(staging, path, force=force)
    except OSError as error:
        raise _kind_of(error)(
            f"{path} cannot be written: {error.strerror or error}; choose another file or folder"
        ) from error
    finally:
        with suppress(OSError):
            staging.unlink(missing_ok=True)


def _kind_of(error: OSError) -> type[ChunkStoreError]:
    if error.errno in _FULL:
        return StorageFullError
    return InvalidInputError if isinstance(error, _NAMING) else BackendUnavailableError


def _give_name(staging: Path, path: Path, *, force: bool) -> None:
    if force:
        staging.replace(path)
        return
    try:
        os.link(staging, path)  # unlike a rename it never replaces what somebody else put there meanwhile
    except FileExistsError as error:
        raise _exists(path) from error


def _exists(path: Path) -> AlreadyExistsError:
    return AlreadyExistsError(f"{path} exists, and is not overwritten; choose another name, or say force")
