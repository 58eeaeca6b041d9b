"""Runs that other tools wrote, taken apart: header, job, steps, branches and parameters as they were found, each with its place and time.

Nothing here knows how a tool lays out its files, nor how chunkstore stores a run: see `importing_…` and `conversion`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Final, TypeAlias

from chunkstore.errors import FormatError
from chunkstore.values import Json, same

Fields: TypeAlias = dict[str, Json]

TYPED: Final = frozenset({"json", "metric", "object"})
"""The kinds of parameter that runnable has."""


@dataclass(frozen=True, slots=True)
class ForeignRun:
    """A run that a source holds. `place` is the file, folder or table where, for people.

    `read` raises `FormatError` or `InvalidInputError` where the run is damaged or cannot be kept as it is, naming the file.
    """

    run_id: str
    place: str
    read: Callable[[], Record]


@dataclass(frozen=True, slots=True)
class Piece:
    """One step or branch, without what is inside it."""

    fields: Fields
    place: str
    at: int | None = None
    """When it was created, in nanoseconds since 1970; None where nothing tells."""
    holder: str | None = None
    """The branch of a step, or the step of a branch, where the source tells; empty for the run itself. None where only the names do."""


@dataclass(slots=True)
class Record:
    """Everything that a source holds of one run, in its order."""

    run_id: str
    place: str
    latest: int
    """No part of the run is younger, in nanoseconds since 1970, whatever its times say."""
    typed: bool
    """Whether parameters have a kind, as runnable's; otherwise they are plain values, as magnus's."""
    header: Fields = field(default_factory=dict)
    job: Fields | None = None
    at: int | None = None
    """When the run was created, where the source tells."""
    steps: dict[str, Piece] = field(default_factory=dict)
    branches: dict[str, Piece] = field(default_factory=dict)
    parameters: dict[tuple[str, str], Json] = field(default_factory=dict)
    """By scope and name; the scope is empty for the run's own."""

    def take_run(self, run: Fields, place: str, elsewhere: Mapping[str, tuple[Fields, str]] | None = None) -> None:
        """Takes the run log, with all that is nested in it; a branch that stands elsewhere too, in a file of its own, is taken from there."""
        if run.get("run_id") != self.run_id:
            raise FormatError(
                f"{place} says that it is run {run.get('run_id')!r}, and its name says {self.run_id!r}; "
                "somebody renamed it: give it its own name back",
                run_id=self.run_id,
            )
        inner = {"steps", "parameters", "job", "created_at"}
        self.header = {name: value for name, value in run.items() if name not in inner}
        created_at = run.get("created_at")
        if created_at is not None:  # neither tool writes one, but it is what ours means by it
            self.at = nanoseconds_of(created_at)
            if self.at is None:
                raise FormatError(f"{place} has a created_at that is no time: {created_at!r}", run_id=self.run_id)
        job = run.get("job")
        if job is not None:
            self.job = object_in(job, "job", place)
        self.take_parameters(object_in(run.get("parameters", {}), "parameters", place), "")
        self.take_steps(object_in(run.get("steps", {}), "steps", place), "", place, elsewhere or {})

    def take_steps(self, steps: Fields, holder: str, place: str, elsewhere: Mapping[str, tuple[Fields, str]]) -> None:
        """Takes steps by their internal names, with the branches in them."""
        for name, found in steps.items():
            fields = object_in(found, f"step {name!r}", place)
            self.take_step(Piece(without(fields, "branches"), place, started(fields), holder), name)
            for inner, branch in object_in(fields.get("branches", {}), f"branches of step {name!r}", place).items():
                theirs, where = elsewhere.get(inner, (branch, place))
                self.take_branch(object_in(theirs, f"branch {inner!r}", where), where, inner, name, elsewhere)

    def take_step(self, piece: Piece, name: str) -> None:
        """Takes one step. Raises `FormatError` where there is one of this name already."""
        require_name(piece.fields, name, "step", piece.place)
        if name in self.steps:
            raise FormatError(f"step {name!r} is in {self.steps[name].place} and in {piece.place}; only one can hold")
        self.steps[name] = piece

    def take_branch(
        self,
        fields: Fields,
        place: str,
        name: str,
        holder: str | None,
        elsewhere: Mapping[str, tuple[Fields, str]],
        at: int | None = None,
    ) -> None:
        """Takes one branch, with its parameters and steps. Raises `FormatError` where there is one of this name already."""
        require_name(fields, name, "branch", place)
        if name in self.branches:
            raise FormatError(f"branch {name!r} is in {self.branches[name].place} and in {place}; only one can hold")
        self.branches[name] = Piece(without(fields, "steps", "parameters"), place, at, holder)
        self.take_parameters(object_in(fields.get("parameters", {}), f"parameters of {name!r}", place), name)
        self.take_steps(object_in(fields.get("steps", {}), f"steps of {name!r}", place), name, place, elsewhere)

    def take_parameters(self, parameters: Fields, scope: str) -> None:
        """Takes the parameters of a scope; one that is there already is replaced."""
        self.parameters.update({(scope, name): value for name, value in parameters.items()})


def read_json(data: bytes | str, place: str) -> Json:
    """The JSON that a tool of Python wrote: with NaN and infinities. Raises `FormatError` that names the place."""
    try:
        found: Json = json.loads(data)
    except (ValueError, RecursionError) as error:
        told = "it is empty" if not data else str(error) or "nested too deep"
        raise FormatError(f"{place} is no whole JSON ({told}); a writer was cut short, or two wrote at once") from error
    return found


def read_object(data: bytes | str, place: str) -> Fields:
    """As `read_json`, where it must be an object."""
    return object_in(read_json(data, place), "all of it", place)


def object_in(value: Json, what: str, place: str) -> Fields:
    """The value, where it is a JSON object. Raises `FormatError`."""
    if not isinstance(value, dict):
        raise FormatError(f"{place} is no part of a run log: {what} is {_kind_of(value)}, and should be an object")
    return value


def _kind_of(value: Json) -> str:
    return "null" if value is None else f"of type {type(value).__name__}"


def require_name(fields: Fields, name: str, kind: str, place: str) -> None:
    """Raises `FormatError` where a step or branch says another internal name than the place where it was found."""
    said = fields.get("internal_name")
    if said != name:
        raise FormatError(
            f"{place} has the {kind} {said!r} where {name!r} should be; one was written over the other, whose record is lost",
            name=name,
        )


def without(fields: Fields, *names: str) -> Fields:
    """A copy without these fields."""
    return {name: value for name, value in fields.items() if name not in names}


def the_same(first: Fields, second: Fields, what: str) -> None:
    """Raises `FormatError` where what was found twice says two things."""
    if not same(first, second):
        raise FormatError(f"{what}, and they differ; nobody can say which one holds")


def started(fields: Fields) -> int | None:
    """When the first attempt of a step or job began."""
    return min(_starts(fields), default=None)


def _starts(fields: Fields) -> Iterator[int]:
    attempts = fields.get("attempts")
    for attempt in attempts if isinstance(attempts, list) else ():
        at = nanoseconds_of(attempt.get("start_time")) if isinstance(attempt, dict) else None
        if at is not None:
            yield at


def nanoseconds_of(time: object) -> int | None:
    """Nanoseconds since 1970 of a time as Python writes it; one without a time zone is this host's own. None where it is no time."""
    try:
        found = time if isinstance(time, datetime) else datetime.fromisoformat(time) if isinstance(time, str) else None
        seconds = None if found is None else int(found.replace(microsecond=0).timestamp())
    except (ValueError, OverflowError, OSError):
        return None
    if found is None or seconds is None or seconds < 0:
        return None
    return (seconds * 1_000_000 + found.microsecond) * 1_000
