"""Model objects → the changes that store them: what differs from what they were made of, parents before children."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final, NamedTuple

from pydantic import BaseModel

from chunkstore import keys, values
from chunkstore.chunks import Change, Chunks
from chunkstore.keys import ChunkId, Kind
from chunkstore.known import UNSEEN, Origin, Origins
from chunkstore.merge import merge_objects
from chunkstore.models import TERMINAL, BranchLog, JobLog, RunLog, StepLog
from chunkstore.schema import Schema
from chunkstore.values import Content

_NO_PARAMETERS: Final[Mapping[str, Content]] = {}


class _Write(NamedTuple):
    """A change, and which model object is known to be stored once it is made."""

    change: Change
    model: BaseModel
    mine: Content
    origin: Origin | None
    base: Content
    """What was known of the chunk."""


class Writer:
    """Stores model objects with all that is in them. What is as it was read costs nothing and erases nothing."""

    def __init__(self, chunks: Chunks, schema: Schema, origins: Origins) -> None:
        self._chunks = chunks
        self._schema = schema
        self._origins = origins

    def run_log(self, run_log: RunLog) -> None:
        """The header, the job, the parameters, then all steps; one that was made by hand founds its run."""
        run_id = run_log.run_id
        header = keys.header(run_id)
        origin = self._origin(run_log, keys.key_of(header))
        new = origin is None or origin.tried
        ended = run_log.status.upper() in TERMINAL
        job = self._job_in(run_log)
        if new or not ended:
            self._make(self._log(header, run_log, create=new, founding=True, barrier=new))
        if job is not None:
            self.job(run_id, job)
        self._owned_parameters(run_id, [(run_log, run_log.parameters, "")])
        self.steps(run_id, run_log.steps.values())
        if ended and not new:  # last: its barrier covers what is above, and who sees the end sees all of the run
            self._make(self._log(header, run_log, create=False, barrier=True))
        elif ended and (job is not None or run_log.parameters or run_log.steps):
            self._chunks.change(Change(header, lambda stored: stored, barrier=True, always=True))

    def job(self, run_id: str, job: JobLog) -> None:
        """The job log."""
        self._make(self._log(keys.job(run_id), job))

    def _job_in(self, run_log: RunLog) -> JobLog | None:
        return run_log.job if self._schema.knows(Kind.HEADER, "job") else None

    def steps(self, run_id: str, steps: Iterable[StepLog]) -> None:
        """Steps, then the branches in them."""
        steps = list(steps)
        writes: list[_Write] = []
        branches: list[BranchLog] = []
        for step in steps:
            writes += self._log(keys.step(run_id, step.internal_name), step)
            branches += step.branches.values()
        self._make(writes)
        if branches:
            self.branches(run_id, branches)

    def branches(self, run_id: str, branches: Iterable[BranchLog]) -> None:
        """Branches, then the parameters and steps in them."""
        branches = list(branches)
        self._make([write for one in branches for write in self._log(keys.branch(run_id, one.internal_name), one)])
        if self._schema.knows(Kind.BRANCH, "parameters"):
            self._owned_parameters(run_id, [(one, one.parameters, one.internal_name) for one in branches])
        steps = [step for branch in branches for step in branch.steps.values()]
        if steps:
            self.steps(run_id, steps)

    def parameters(
        self, run_id: str, parameters: Mapping[str, object], scope: str, seen: Mapping[str, Content]
    ) -> dict[str, Content]:
        """Those of the parameters that are not as they were seen; for what was not seen: as this process knows them.

        Returns how the caller has seen all of them from now on, by key.
        """
        mine = self._written(parameters)
        self._chunks.change_many(self._parameter_changes(run_id, mine, scope, seen))
        return {keys.key_of(keys.parameter(run_id, name, scope)): content for name, content in mine.items()}

    def _owned_parameters(self, run_id: str, owners: Iterable[tuple[BaseModel, Mapping[str, object], str]]) -> None:
        """The parameters that run logs and branch logs carry."""
        changes, notes = [], []
        for owner, parameters, scope in owners:
            origin = self._origins.of(owner)
            if parameters and origin is not None:
                mine = self._written(parameters)
                changes += self._parameter_changes(run_id, mine, scope, origin.parameters)
                stored = {keys.key_of(keys.parameter(run_id, name, scope)): content for name, content in mine.items()}
                notes.append((owner, origin._replace(parameters={**origin.parameters, **stored})))
        self._chunks.change_many(changes)
        for owner, origin in notes:
            self._origins.note(owner, origin)

    def _written(self, parameters: Mapping[str, object]) -> dict[str, Content]:
        return {name: self._schema.write_parameter(name, value) for name, value in parameters.items()}

    def _parameter_changes(
        self, run_id: str, parameters: Mapping[str, Content], scope: str, seen: Mapping[str, Content]
    ) -> list[Change]:
        changes = []
        for name, mine in parameters.items():
            chunk = keys.parameter(run_id, name, scope)
            before = seen.get(keys.key_of(chunk)) or self._last_seen(chunk)
            if mine != before and (before is None or mine != self._schema.seen_parameter(chunk, before)):
                changed = (
                    keys.key_of(chunk) in seen
                )  # against what was read: this process may believe it stands there already
                changes.append(Change(chunk, _replacing(mine), mine, always=changed))
        return changes

    def _log(
        self, chunk: ChunkId, model: BaseModel, *, create: bool = True, founding: bool = False, barrier: bool = False
    ) -> list[_Write]:
        """The write that stores one model object; none where it is as it was read."""
        mine = self._schema.write(chunk.kind, model)
        key = keys.key_of(chunk)
        origin = self._origin(model, key)
        base = origin.content if origin is not None else self._last_seen(chunk)
        seen = None if base is None or base is UNSEEN else self._schema.seen(chunk.kind, base, key)
        read = origin is not None and not origin.tried
        if read and mine == seen and self._chunks.last_seen(chunk) is not None:
            return []
        initial = mine if create else None
        changed = origin is not None and mine != seen  # even where this process believes that it stands there already
        edit = _merging(base, seen, mine)
        met = seen is not None
        change = Change(chunk, edit, initial, barrier=barrier, always=changed, founding=founding, met=met)
        return [_Write(change, model, mine, origin, UNSEEN if base is None else base)]

    def _make(self, writes: list[_Write]) -> None:
        try:
            self._chunks.change_many([write.change for write in writes])
        except BaseException:
            # What a first try that fails reads of others' work must not pass for what the caller saw when it is repeated.
            for write in writes:
                if write.origin is None:
                    self._origins.note(write.model, Origin(write.change.chunk.key, write.base, tried=True))
            raise
        for change, model, mine, origin, _ in writes:
            parameters = _NO_PARAMETERS if origin is None else origin.parameters
            self._origins.note(model, Origin(change.chunk.key, mine, parameters))

    def _origin(self, model: BaseModel, key: str) -> Origin | None:
        """From what a model object was made; None where it was read under another key: of another run, or by another name."""
        origin = self._origins.of(model)
        return origin if origin is not None and origin.key == key else None

    def _last_seen(self, chunk: ChunkId) -> Content | None:
        stored = self._chunks.last_seen(chunk)
        return None if stored is None else stored.chunk.content


def _replacing(mine: Content) -> Callable[[Content], Content]:
    return lambda _theirs: mine


def _merging(base: Content | None, seen: Content | None, mine: Content) -> Callable[[Content], Content]:
    """The edit that brings what I changed, `mine` against `seen`, to whatever stands there."""

    def edit(theirs: Content) -> Content:
        if base is not None and theirs == base == seen:
            return mine
        before = {} if seen is None else values.decode(seen)
        return values.encode(merge_objects(before, values.decode(mine), values.decode(theirs)))

    return edit
