"""Runs of runnable, as its stores `file-system` and `chunked-fs` write them: the run log with its steps, branches in files of their own.

runnable's own reader takes a file for no branch whose name ends in `json`, and drops a branch whose map value has a dot. Both are whole in
their files, and are imported.
"""

from __future__ import annotations

import math
from typing import Final

from chunkstore.errors import FormatError
from chunkstore.maintenance.foreign import Fields, Record, started
from chunkstore.maintenance.importing_folders import PREFIXES, Folder

_BRANCH: Final = "BranchLog-"


def take_folder(folder: Folder, run_log: Fields, record: Record) -> None:
    """Takes a run of `chunked-fs`."""
    files: dict[str, tuple[Fields, str]] = {}
    for name in folder.names:
        if name.startswith(_BRANCH):
            branch, fields = _branch_in(folder, name)
            files[branch] = (fields, folder.place(name))
        elif name.startswith(PREFIXES):
            raise FormatError(f"{folder.place(name)} is magnus's, in a run of runnable; two runs share one folder")
    record.take_run(run_log, folder.place("RunLog.json"), files)
    for branch, (fields, place) in sorted(files.items(), key=lambda file: _first_start(file[1][0])):
        if branch not in record.branches:
            record.take_branch(fields, place, branch, None, files)


def _first_start(branch: Fields) -> float:
    """What orders branches: their files say no time, but their steps do. runnable itself takes them as the disk lists them."""
    steps = branch.get("steps")
    found = (started(step) for step in steps.values() if isinstance(step, dict)) if isinstance(steps, dict) else ()
    return min((at for at in found if at is not None), default=math.inf)


def _branch_in(folder: Folder, name: str) -> tuple[str, Fields]:
    """The branch in a file. runnable adds no `.json` to a name that ends in `json`, so two names may have had the one file."""
    fields = folder.read(name)
    stem = name.removeprefix(_BRANCH)
    said = fields.get("internal_name")
    if not isinstance(said, str) or stem not in {said, f"{said}.json"}:
        raise FormatError(
            f"{folder.place(name)} holds the branch {said!r}; somebody renamed the file, or wrote over it"
        )
    return said, fields
