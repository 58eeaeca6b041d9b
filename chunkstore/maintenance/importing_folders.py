"""Folders as the file stores of runnable and of its ancestor magnus write them: one JSON file for each run, or one folder with chunks.

    nightly.json                                   `file-system`, of both
    nightly/RunLog.json                            `chunked-fs`, of both
    nightly/BranchLog-map.eu.json                  runnable: a branch with its steps and parameters
    nightly/StepLog-map.eu.train-1795303501.json   magnus: a step, and when it was created
    nightly/BranchLog-map.eu-1795303501.json       magnus: a branch alone
    nightly/Parameter-alpha.json                   magnus: {"alpha": 1}

Both use the same folder by default, so each run is looked at on its own. Only magnus writes `use_cached` into a run log.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, Literal, TypeAlias

from chunkstore.errors import FormatError, InvalidInputError
from chunkstore.maintenance.foreign import Fields, ForeignRun, Record, read_object

Tool: TypeAlias = Literal["runnable", "magnus"]
TakeFolder: TypeAlias = Callable[["Folder", Fields, Record], None]
"""Takes the files of one run's folder into a record; given are the run log's own fields."""

RUN_LOG: Final = "RunLog.json"
_HEAD: Final = 4_096  # bytes

PREFIXES: Final = ("StepLog-", "BranchLog-", "Parameter-")


class Folder:
    """The files of one run, read once each."""

    def __init__(self, path: Path, names: list[str]) -> None:
        self.path = path
        self.names = names
        self.latest = 0

    def place(self, name: str) -> str:
        """The file, for people."""
        return shown(self.path / name)

    def read(self, name: str) -> Fields:
        """The JSON object in a file. Raises `FormatError`."""
        fields, changed = read_file(self.path / name)
        self.latest = max(self.latest, changed)
        return fields


def is_run_store(source: str) -> bool:
    """Whether this is a folder with runs, or an empty one."""
    folder = Path(source)
    if not folder.is_dir():
        return False
    entries = [entry for entry in entries_of(folder) if not entry.name.startswith(".")]
    return not entries or any(_is_run(folder / entry.name) for entry in entries)


def _is_run(path: Path) -> bool:
    """Whether this looks like a run of one of the tools, perhaps a damaged one: both write the id first."""
    try:
        if path.is_dir():
            return is_run_folder([entry.name for entry in path.iterdir()])
        if not (path.name.endswith(".json") and path.is_file()):
            return False
        with path.open("rb") as file:
            return b'"run_id"' in file.read(_HEAD)
    except OSError:
        return False


def runs_in(folder: Path, take: dict[Tool, TakeFolder]) -> Iterator[ForeignRun]:
    """The runs that a folder holds, by name; those of other tools are there too, and refuse to be read.

    Raises `InvalidInputError` where it is no folder.
    """
    for entry in entries_of(folder):
        if entry.name.startswith("."):
            continue
        path = folder / entry.name
        if entry.is_dir():
            yield from _in_subfolder(path, take)
        elif entry.name.endswith(".json") and entry.is_file():
            yield _in_file(path, take)


def is_run_folder(names: list[str]) -> bool:
    """Whether these are the files of a run, or of what is left of one."""
    return RUN_LOG in names or any(name.startswith(PREFIXES) for name in names)


def tool_of(run_log: Fields) -> Tool:
    """Which tool wrote a run log."""
    return "magnus" if run_log.keys() & {"use_cached", "original_run_id"} else "runnable"


def entries_of(folder: Path) -> list[os.DirEntry[str]]:
    """What is in a folder, by name. Raises `InvalidInputError`."""
    try:
        with os.scandir(folder) as found:
            return sorted(found, key=lambda entry: entry.name)
    except OSError as error:
        raise InvalidInputError(f"{shown(folder)} cannot be read: {error.strerror}") from error


def read_file(path: Path) -> tuple[Fields, int]:
    """The JSON object in a file, and when the file was last changed. Raises `FormatError`."""
    try:
        data = path.read_bytes()
        changed = path.stat().st_mtime_ns
    except OSError as error:
        raise FormatError(f"{shown(path)} cannot be read: {error.strerror}") from error
    return read_object(data, shown(path)), max(0, min(changed, time.time_ns()))


def shown(path: Path | str) -> str:
    """A path for people; one may have bytes that are no text."""
    return str(path).encode("utf-8", "backslashreplace").decode()


def _in_file(path: Path, take: dict[Tool, TakeFolder]) -> ForeignRun:
    run_id = path.name.removesuffix(".json")

    def read() -> Record:
        run_log, changed = read_file(path)
        if "run_id" not in run_log:
            raise FormatError(f"{shown(path)} is no run log: it has no run_id")
        tool = _wanted(run_log, shown(path), take)
        record = Record(run_id, shown(path), changed, typed=tool == "runnable")
        record.take_run(run_log, shown(path))
        return record

    return ForeignRun(run_id, shown(path), read)


def _in_subfolder(path: Path, take: dict[Tool, TakeFolder]) -> Iterator[ForeignRun]:
    try:
        names = [entry.name for entry in entries_of(path)]
    except InvalidInputError as error:  # nobody can say whether it is a run
        yield ForeignRun(path.name, shown(path), _refusing(str(error)))
        return
    if is_run_folder(names):
        yield _in_folder(Folder(path, names), take)


def _refusing(message: str) -> Callable[[], Record]:
    def read() -> Record:
        raise FormatError(message)

    return read


def _in_folder(folder: Folder, take: dict[Tool, TakeFolder]) -> ForeignRun:
    run_id = folder.path.name

    def read() -> Record:
        if RUN_LOG not in folder.names:
            raise FormatError(f"{shown(folder.path)} has parts of a run, but no {RUN_LOG}")
        run_log = folder.read(RUN_LOG)
        tool = _wanted(run_log, folder.place(RUN_LOG), take)
        record = Record(run_id, shown(folder.path), 0, typed=tool == "runnable")
        take[tool](folder, run_log, record)
        record.latest = folder.latest
        return record

    return ForeignRun(run_id, shown(folder.path), read)


def _wanted(run_log: Fields, place: str, take: dict[Tool, TakeFolder]) -> Tool:
    tool = tool_of(run_log)
    if tool not in take:
        raise FormatError(f"{place} was written by {tool}; import it with the format {tool}, or auto")
    return tool
