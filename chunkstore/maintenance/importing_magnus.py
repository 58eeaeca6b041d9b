"""Runs of magnus, as its store `chunked-fs` writes them: each step, branch and parameter in a file of its own.

magnus looks for a file by the start of its name, and so writes `step` over `step-1`. That is seen, and the run refused.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

from chunkstore.errors import FormatError
from chunkstore.maintenance.foreign import Fields, Piece, Record, object_in, require_name, the_same, without
from chunkstore.maintenance.importing_folders import Folder

_NAMED: Final = re.compile(r"(StepLog|BranchLog)-(.+)-([0-9]{1,19})\.json", re.DOTALL)
_PARAMETER: Final = "Parameter-"


class Found(NamedTuple):
    """One step or branch log of a chunked store of magnus, and when it was created, in nanoseconds since 1970."""

    name: str
    fields: Fields
    place: str
    at: int | None


def take_folder(folder: Folder, run_log: Fields, record: Record) -> None:
    """Takes a run of `chunked-fs`."""
    place = folder.place("RunLog.json")
    take_run(record, run_log, place, _logs_in(folder, "StepLog"), _logs_in(folder, "BranchLog"), _parameters_in(folder))


def take_run(
    record: Record,
    run_log: Fields,
    place: str,
    steps: list[Found],
    branches: list[Found],
    parameters: Iterable[tuple[Fields, str]],
) -> None:
    """Takes a run whose steps, branches and parameters have chunks of their own, in their order in time.

    Older versions of magnus repeat them in the run log as they once were. Raises `FormatError` where there is something in it that has no
    chunk: that was lost, and what the run log has may be old.
    """
    repeated = Record(record.run_id, record.place, record.latest, record.typed)
    repeated.take_run(run_log, place)
    record.header, record.job, record.at = repeated.header, repeated.job, repeated.at or record.at
    for found in _in_order(branches):
        record.branches[found.name] = _piece(found, "steps", "parameters")
    for found in _in_order(steps):
        record.steps[found.name] = _piece(found, "branches")
    _take_parameters(record, parameters)
    for kind in ("steps", "branches", "parameters"):
        lost = next((name for name in getattr(repeated, kind) if name not in getattr(record, kind)), None)
        if lost is not None:
            what = lost[-1] if isinstance(lost, tuple) else lost
            raise FormatError(f"{place} repeats {what!r} of its {kind}, of which there is nothing else; it was lost")


def _take_parameters(record: Record, found: Iterable[tuple[Fields, str]]) -> None:
    """Takes the run's parameters. Raises `FormatError` where two chunks say two things of one."""
    places: dict[str, str] = {}
    for parameters, place in found:
        for name, value in parameters.items():
            if name in places:
                what = f"parameter {name!r} is in {places[name]} and in {place}"
                the_same({name: record.parameters["", name]}, {name: value}, what)
            places[name] = place
            record.parameters["", name] = value


def _logs_in(folder: Folder, kind: str) -> list[Found]:
    found = []
    for name in folder.names:
        if name.startswith(f"{kind}-"):
            match = _NAMED.fullmatch(name)
            if match is None:
                raise FormatError(f"{folder.place(name)} has no time of creation in its name; somebody renamed it")
            found.append(Found(match[2], folder.read(name), folder.place(name), int(match[3])))
    return found


def _parameters_in(folder: Folder) -> Iterator[tuple[Fields, str]]:
    for name in folder.names:
        if name.startswith(_PARAMETER):
            yield folder.read(name), folder.place(name)


def _in_order(found: list[Found]) -> list[Found]:
    """The oldest first; of one that is there twice, and says the same, the older one."""
    by_name: dict[str, Found] = {}
    for one in sorted(found, key=lambda one: (one.at or 0, one.place)):
        require_name(one.fields, one.name, "log", one.place)
        first = by_name.setdefault(one.name, one)
        the_same(first.fields, one.fields, f"{one.name!r} is in {first.place} and in {one.place}")
    return list(by_name.values())


def _piece(found: Found, *inner: str) -> Piece:
    """The piece of a chunk. Raises where it repeats what has chunks of its own: nobody can say which one is the newer."""
    for name in inner:
        if object_in(found.fields.get(name, {}), name, found.place):
            raise FormatError(f"{found.place} repeats {name} that have chunks of their own; magnus itself never does")
    return Piece(without(found.fields, *inner), found.place, found.at)
