"""Files that `export` wrote as JSON, back into a store: each run is made in memory, and then copied as `copy_runs` copies."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Final, Literal

from pydantic_core import from_json, to_json

from chunkstore.backends import FOUND
from chunkstore.backends.memory import MemoryBackend
from chunkstore.errors import FormatError, InvalidInputError
from chunkstore.maintenance import documents
from chunkstore.maintenance.copying import RunCopy, copy_runs
from chunkstore.maintenance.import_report import ImportReport, Refusal
from chunkstore.maintenance.progress import Progress, Watcher
from chunkstore.store import ChunkedRunLogStore

_RUNS_AT_ONCE: Final = 64
_BYTES_AT_ONCE: Final = 16 << 20


@dataclass(frozen=True, slots=True)
class ExportedRun:
    """A run in a file: its id, its line, and its objects by their keys; or what is wrong with it."""

    run_id: str
    place: str
    objects: dict[str, bytes]
    error: str = ""


def import_exported(
    store: ChunkedRunLogStore,
    source: str | os.PathLike[str],
    *,
    restart: bool = False,
    dry_run: bool = False,
    progress: Watcher | None = None,
) -> ImportReport:
    """Imports all runs of a file that `export` wrote as `json` or `jsonl`, with their ids, their values, their times and their order.

    A run that is there with the same contents is skipped, so a second import does nothing; one with other contents is refused by name, and so
    is what cannot be read, also behind a place where the file was cut off. The others go on. A call that is cut short, also by
    kill -9, leaves no half run, and the next one finishes it.

    Costs as `copy_runs` at its target: for each run of n chunks two listings, n + 1 puts and n gets. In memory are at most 64 runs, or 16 MB
    and one; the whole file where another program has put it on other lines. Raises `InvalidInputError` where there is no such file, and
    `BackendUnavailableError` where the store fails; what was imported until then stays.
    """
    path = Path(source)
    results: list[RunCopy | Refusal] = []
    staging = MemoryBackend(f"import-{uuid.uuid4().hex}")
    for some in _batches(exported_runs(path, compress_above=store.settings.compress_above)):
        results += _imported(store, some, staging, restart=restart, dry_run=dry_run)
        if progress is not None:
            progress(Progress(len(results), None, some[-1].run_id))
    copies = [one for one in results if isinstance(one, RunCopy)]
    imported = tuple(one.run_id for one in copies if one.outcome == "copied")
    skipped = tuple(one.run_id for one in copies if one.outcome == "same")
    refused = tuple(one for one in results if isinstance(one, Refusal))
    return ImportReport(str(path), store.backend.place, imported, skipped, refused, dry_run)


def recognises(source: str | os.PathLike[str]) -> bool:
    """Whether this is likely to be a file that `export` wrote; reads its beginning, and changes nothing."""
    try:
        with Path(source).open("rb") as file:
            start = file.read(1_000).lstrip(b"[ \r\n\t")
    except OSError:
        return False
    return start.startswith(b"{") and documents.OURS.encode() in start


def exported_runs(source: Path, *, compress_above: int | None) -> Iterator[ExportedRun]:
    """The runs in a file, in its order, one after the other. Raises `InvalidInputError` where it cannot be read."""
    try:
        for place, line in _lines(source):
            yield _run_in(line, place, compress_above)
    except OSError as error:
        raise InvalidInputError(
            f"{source} cannot be read: {error.strerror or error}; give a file that export wrote"
        ) from error


def _run_in(line: bytes, place: str, compress_above: int | None) -> ExportedRun:
    if not line:
        return ExportedRun(
            "", place, {}, f"{place}: the list has no end; the file was cut off, and runs may be missing"
        )
    run_id = ""
    try:
        tree = documents.read(line, place)
        run_id = str(tree["run_id"])
        return ExportedRun(run_id, place, documents.objects_of(tree, place, compress_above=compress_above))
    except (FormatError, InvalidInputError) as error:
        return ExportedRun(run_id, place, {}, str(error))


def _lines(source: Path) -> Iterator[tuple[str, bytes]]:
    """Each run's JSON, and where it stands. An empty one stands for the end that a list lacks."""
    with source.open("rb") as lines:
        first = lines.readline().strip()
        if first == b"[":
            yield from _listed(source, lines)
            return
        if first == b"{" or (first and not first.startswith(b"{")):
            yield from _made_up(source, source.read_bytes())
            return
        for number, line in enumerate(chain([first], lines), 1):
            if line.strip():
                yield f"{source}, line {number}", line.strip()


def _listed(source: Path, lines: Iterator[bytes]) -> Iterator[tuple[str, bytes]]:
    """The items of a list that has one on each line, as we write it."""
    number, line = 1, b""
    for number, raw in enumerate(lines, 2):
        line = raw.strip()
        if line in (b"", b"]"):
            continue
        if not (line.startswith(b"{") and line.removesuffix(b",").endswith(b"}")):
            whole = source.read_bytes()
            if number == 2 and _is_whole(whole):  # the same JSON, on other lines
                yield from _made_up(source, whole)
                return
        yield f"{source}, line {number}", line.removesuffix(b",")
    if line != b"]":
        yield f"{source}, line {number}", b""


def _is_whole(data: bytes) -> bool:
    try:
        from_json(data)
    except ValueError:
        return False
    return True


def _made_up(source: Path, data: bytes) -> Iterator[tuple[str, bytes]]:
    """The items of a list that another program wrote."""
    try:
        found = from_json(data)
    except ValueError as error:
        raise InvalidInputError(f"{source} is no JSON: {error}; give a file that export wrote") from error
    if not isinstance(found, list):
        found = [found]
    for number, item in enumerate(found, 1):
        yield f"{source}, run {number}", to_json(item)


def _batches(runs: Iterator[ExportedRun]) -> Iterator[list[ExportedRun]]:
    some: list[ExportedRun] = []
    size = 0
    for run in runs:
        some.append(run)
        size += sum(map(len, run.objects.values()))
        if len(some) == _RUNS_AT_ONCE or size > _BYTES_AT_ONCE:
            yield some
            some, size = [], 0
    if some:
        yield some


def _imported(
    store: ChunkedRunLogStore, some: list[ExportedRun], staging: MemoryBackend, *, restart: bool, dry_run: bool
) -> Iterator[RunCopy | Refusal]:
    """What came of each."""
    places: dict[str, str] = {}
    for run in some:
        if run.error:
            yield Refusal(run.run_id, run.place, "damaged", run.error)
        elif run.run_id in places:
            yield Refusal(
                run.run_id,
                run.place,
                "conflict",
                f"{run.place} has run {run.run_id!r} once more; only the first counts",
            )
        else:
            places[run.run_id] = run.place
            for key, data in run.objects.items():
                staging.put(key, data, FOUND)
    copied = copy_runs(
        ChunkedRunLogStore(staging), store, list(places), unfinished=True, restart=restart, dry_run=dry_run
    )
    for copy in copied.runs:
        if copy.outcome in ("copied", "same"):
            yield copy
        else:
            sort: Literal["damaged", "conflict"] = "conflict" if copy.outcome == "conflict" else "damaged"
            yield Refusal(copy.run_id, places[copy.run_id], sort, copy.message)
    for key in [key for run in some for key in run.objects]:
        staging.delete(key)
