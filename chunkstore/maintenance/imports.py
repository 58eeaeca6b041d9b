"""Runs of other tools into a store: `import_runs`, and the table of the formats that it knows.

Each run is made in memory first, as it shall stand, and then copied as `copy_runs` copies: whole or not at all.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from chunkstore import keys
from chunkstore.assembly import collector_paused
from chunkstore.backends import CREATE
from chunkstore.backends.memory import MemoryBackend
from chunkstore.backends.sqlrow import TABLE
from chunkstore.errors import FormatError, InvalidInputError
from chunkstore.maintenance import import_json, importing_db_log, importing_magnus, importing_runnable
from chunkstore.maintenance.conversion import objects_of
from chunkstore.maintenance.copying import RunCopy, copy_runs
from chunkstore.maintenance.foreign import ForeignRun
from chunkstore.maintenance.import_json import import_exported
from chunkstore.maintenance.import_report import ImportReport, Refusal
from chunkstore.maintenance.importing_folders import TakeFolder, Tool, is_run_store, runs_in, shown
from chunkstore.maintenance.progress import Progress, Watcher
from chunkstore.store import ChunkedRunLogStore

_RUNS_AT_ONCE: Final = 64
_BYTES_AT_ONCE: Final = 16 << 20
"""Of the runs that are made in memory before they are copied; a larger one goes alone."""


@dataclass(frozen=True, slots=True)
class Format:
    """One sort of source."""

    recognises: Callable[[str], bool]
    """Whether a source is likely to be of this sort; changes nothing."""
    runs: Callable[[str], Iterable[ForeignRun]]
    """The runs that it holds, not read yet. Raises `InvalidInputError` where it is none of this sort."""


_TAKE: Final[dict[Tool, TakeFolder]] = {
    "runnable": importing_runnable.take_folder,
    "magnus": importing_magnus.take_folder,
}


def _never(_source: str) -> bool:
    return False


FORMATS: Final[Mapping[str, Format]] = {
    "runnable": Format(_never, lambda source: runs_in(Path(source), {"runnable": _TAKE["runnable"]})),
    "magnus": Format(_never, lambda source: runs_in(Path(source), {"magnus": _TAKE["magnus"]})),
    "db-log": Format(importing_db_log.recognises, importing_db_log.runs_in),
}
"""By the name that a caller gives, each with its own way to read what a tool wrote."""

_OWN: Final = "json"
NAMES: Final = (*FORMATS, _OWN)
"""All names that a caller may give; `json` is what `export` writes."""

_FOLDER: Final = Format(is_run_store, lambda source: runs_in(Path(source), _TAKE))
"""The folder of either tool, or of both: they have the same one by default."""


def import_runs(
    store: ChunkedRunLogStore,
    source: str | Path,
    *,
    format: str | None = None,  # noqa: A002  what is asked for is the format
    restart: bool = False,
    dry_run: bool = False,
    progress: Watcher | None = None,
) -> ImportReport:
    """Imports all runs of a source: what `export` wrote as JSON, a folder of runnable or magnus (`file-system`, `chunked-fs`), or magnus's `db_log`.

    Nothing of the source is changed, and nothing of it is lost: what our models do not know stays, steps and branches keep their order, and
    their times become `created_at`. A run that cannot come back as it is (a torn file, two files for one step, a step without its
    branch) is refused by name, and so is one whose id has other contents in the store; the others go on. A run that is
    there with the same contents is skipped, so a second import does nothing.

    A call that is cut short, also by kill -9, leaves no half run, and the next one finishes it. Where the source changed since, that is a
    conflict: with `restart` the unfinished run is deleted and imported anew, which is for when nobody else is at it. With
    `dry_run` everything is read, converted and compared, and nothing written.

    Costs as `copy_runs` at its target: for each run of n objects two listings, n + 1 puts and n gets, or two listings and n + 1 gets where it
    is there already; and for every 64 runs a look at the index. In memory are at most 64 runs, or 16 MB and one. Raises
    `InvalidInputError` where the source holds no run of the format, or none that we know, and `BackendUnavailableError` where the store or
    the database fails; what was imported until then stays.
    """
    text = str(source)
    if format == _OWN or (format is None and import_json.recognises(text)):
        return import_exported(store, text, restart=restart, dry_run=dry_run, progress=progress)
    found = list(_format_of(text, format).runs(text))
    outcome = _Outcome(total=len(found), watcher=progress)
    staging = ChunkedRunLogStore(MemoryBackend(f"import-{uuid.uuid4().hex}"))
    for runs in _made(_without_doubles(found, outcome), staging, outcome, store.settings.compress_above):
        names = [run.run_id for run in runs]
        copies = copy_runs(
            staging, store, names, unfinished=True, restart=restart, dry_run=dry_run, progress=outcome.copied
        )
        outcome.add_copies(copies.runs, runs)
        for run_id in names:
            _forget(staging, run_id)
    return outcome.report(shown(importing_db_log.without_password(text)), store.backend.place, dry_run=dry_run)


class _Outcome:
    """What became of the runs so far."""

    def __init__(self, total: int, watcher: Watcher | None) -> None:
        self._total = total
        self._watcher = watcher
        self._imported: list[str] = []
        self._skipped: list[str] = []
        self._refused: list[Refusal] = []

    def refuse(self, run: ForeignRun, message: str) -> None:
        """Takes note of a run that cannot be made."""
        self._refused.append(Refusal(shown(run.run_id), run.place, "damaged", shown(message)))

    def add_copies(self, copies: Iterable[RunCopy], runs: list[ForeignRun]) -> None:
        """Takes note of runs that were made."""
        for copy, run in zip(copies, runs, strict=True):
            if copy.outcome == "copied":
                self._imported.append(copy.run_id)
            elif copy.outcome == "same":
                self._skipped.append(copy.run_id)
            else:
                self._refused.append(Refusal(copy.run_id, run.place, "conflict", copy.message))

    def copied(self, copying: Progress) -> None:
        """Tells the caller how far all of the import is."""
        if self._watcher is not None:
            done = len(self._imported) + len(self._skipped) + len(self._refused) + copying.done
            self._watcher(Progress(done, self._total, copying.what))

    def report(self, source: str, target: str, *, dry_run: bool) -> ImportReport:
        """All of it."""
        refused = sorted(self._refused, key=lambda refusal: (refusal.run_id, refusal.place))
        return ImportReport(source, target, tuple(self._imported), tuple(self._skipped), tuple(refused), dry_run)


def _format_of(source: str, name: str | None) -> Format:
    if name is not None:
        if name not in FORMATS:
            raise InvalidInputError(f"there is no format {name!r}; known are: {', '.join(NAMES)}", name=name)
        return FORMATS[name]
    for known in (_FOLDER, *FORMATS.values()):
        if known.recognises(source):
            return known
    raise InvalidInputError(_unknown(Path(source)))


def _unknown(path: Path) -> str:
    if not path.exists():
        return f"there is nothing at {shown(path)}; give a folder of runs, a file that export wrote, a database file, or the URL of a database"
    if path.is_dir() and any(path.glob("*/run.json")):
        return f"{shown(path)} is a store of chunkstore already; copy its runs with cp"
    return (
        f"{shown(path)} holds no runs that we know: a folder has RUN.json or RUN/RunLog.json, as runnable and magnus write them, a database the "
        f"table {TABLE}. Where it should, name the format: {', '.join(NAMES)}"
    )


def _without_doubles(found: list[ForeignRun], outcome: _Outcome) -> Iterator[ForeignRun]:
    """Runs of one id are two runs, of which nobody can say which one is meant: both are refused."""
    places: dict[str, list[str]] = {}
    for run in found:
        places.setdefault(run.run_id, []).append(run.place)
    for run in found:
        if len(places[run.run_id]) == 1:
            yield run
        else:
            both = " and ".join(places[run.run_id])
            outcome.refuse(run, f"run {run.run_id!r} is there twice: {both}; move one of them away, and import again")


def _made(
    found: Iterable[ForeignRun], staging: ChunkedRunLogStore, outcome: _Outcome, compress_above: int | None
) -> Iterator[list[ForeignRun]]:
    """Makes runs in memory, some at a time; those that cannot be made are refused."""
    runs: list[ForeignRun] = []
    size = 0
    for run in found:
        try:
            with collector_paused():
                objects = objects_of(run.read(), compress_above=compress_above)
        except (FormatError, InvalidInputError) as error:
            outcome.refuse(run, str(error))
            continue
        for key, data in objects.items():
            staging.backend.put(key, data, CREATE)
            size += len(data)
        runs.append(run)
        if len(runs) == _RUNS_AT_ONCE or size >= _BYTES_AT_ONCE:
            yield runs
            runs, size = [], 0
    if runs:
        yield runs


def _forget(staging: ChunkedRunLogStore, run_id: str) -> None:
    """Makes room for the next runs."""
    for entry in staging.backend.list(keys.prefix_of_run(run_id)):
        staging.backend.delete(entry.key)
