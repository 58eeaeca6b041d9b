"""Chunks → model objects: a run log in full or without its steps, with what is wrong in it."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, cast

from pydantic import BaseModel

from chunkstore import keys, values
from chunkstore.assembly import Branch, Parts, Run, Step, assemble, missing_parents, possible_parents
from chunkstore.chunks import Chunks, Scan
from chunkstore.clock import as_datetime
from chunkstore.errors import FormatError, ObjectNotFoundError, RunLogNotFoundError
from chunkstore.keys import ChunkId, Kind
from chunkstore.known import Origin, Origins, Stored
from chunkstore.models import TERMINAL, BranchLog, JobLog, RunLog, Status
from chunkstore.schema import Schema
from chunkstore.values import Content
from chunkstore.watching import ROUNDS, snapshot

log = logging.getLogger(__name__)

_LEFT_OVER: Final = (
    "belongs to a deleted run of this id; it is not in the run log, and delete_run_log removes it with the run"
)


class Parameters(dict[str, object]):
    """The parameters of a scope, and what each of them was when it was read, by its key: clients hand them to other scopes.

    A plain dict in all else. Handing it back to `set_parameters` writes what was changed in it, and nothing else.
    """

    def __init__(
        self, items: Mapping[str, object] | Iterable[tuple[str, object]] = (), seen: Mapping[str, Content] | None = None
    ) -> None:
        super().__init__(items)
        self.seen: Mapping[str, Content] = seen or {}

    def copy(self) -> Parameters:
        """A shallow copy that remembers the same."""
        return Parameters(self, self.seen)

    __repr__ = dict.__repr__


@dataclass(frozen=True, slots=True)
class Finding:
    """Something in a run that a person should look at.

    `sort` is `damaged`; `orphan`, whose parent was not there; `left over` from a deleted run of the same id, and not in the run
    log; or `unsettled`, where a snapshot was asked for and others did not stop writing.
    """

    sort: str
    name: str
    message: str


@dataclass(frozen=True, slots=True)
class Reading:
    """A run log as far as it can be read, and what is wrong with it."""

    run_log: RunLog
    findings: tuple[Finding, ...] = ()


class Reader:
    """Makes model objects of chunks, and notes of each from what it was made."""

    def __init__(self, chunks: Chunks, schema: Schema, origins: Origins) -> None:
        self._chunks = chunks
        self._schema = schema
        self._origins = origins

    def without_steps(self, run_id: str) -> Reading:
        """Header, job and the run's own parameters."""
        scan = self._chunks.read_many([keys.header(run_id), keys.job(run_id)])
        found = {stored.chunk.envelope.kind: stored for stored in scan.chunks}
        header = found.get(Kind.HEADER.value)
        if header is None and not scan.damaged:
            raise self.no_run(run_id)
        parameters = self._chunks.scan(keys.prefix_of_parameters(run_id))
        damaged = [*scan.damaged, *parameters.damaged]
        job = found.get(Kind.JOB.value) or self._job_packed_meanwhile(run_id, header, scan)
        run_log = self._run_log(run_id, header, parameters.chunks, job, damaged)
        return Reading(run_log, _findings(damaged, [], [*scan.left_over, *parameters.left_over]))

    def _job_packed_meanwhile(self, run_id: str, header: Stored | None, scan: Scan) -> Stored | None:
        """The job log, where the header was read before and the job after it went into a pack; only runs that ended are packed."""
        if header is None or header.chunk.envelope.packed or scan.damaged:
            return None
        with suppress(ObjectNotFoundError, FormatError):
            if has_ended(header) and self._chunks.look_for_pack(run_id):
                return self._chunks.read(keys.job(run_id))
        return None

    def full(self, run_id: str) -> Reading:
        """Everything, put together."""
        return self.put_together(run_id, self._chunks.scan(keys.prefix_of_run(run_id)))

    def snapshot(self, run_id: str) -> Reading:
        """Everything as it stood at one moment; where there was none, a finding says so."""
        scan, settled = snapshot(self._chunks, run_id)
        reading = self.put_together(run_id, scan)
        if settled:
            return reading
        message = f"run {run_id!r} changed during each of {ROUNDS} looks at it, so this is no snapshot; read it again"
        return replace(reading, findings=(*reading.findings, Finding("unsettled", run_id, message)))

    def put_together(self, run_id: str, scan: Scan) -> Reading:
        """The run log of these chunks, which are all of its run. Raises `RunLogNotFoundError`."""
        self._require_that_it_is_there(run_id, scan)
        damaged = scan.damaged
        by_kind: dict[str, list[Stored]] = {kind.value: [] for kind in Kind}
        for stored in sorted(scan.chunks, key=age):
            by_kind[stored.chunk.envelope.kind].append(stored)
        header = next(iter(by_kind[Kind.HEADER]), None)
        if header is None and not any(keys.parse(error.key) == keys.header(run_id) for error in damaged):
            raise self.no_run(run_id, leftovers=len(scan.chunks) + len(damaged))
        scoped = [stored for stored in by_kind[Kind.PARAMETER] if stored.chunk.envelope.scope]
        own = [stored for stored in by_kind[Kind.PARAMETER] if not stored.chunk.envelope.scope]
        run_log = self._run_log(run_id, header, own, next(iter(by_kind[Kind.JOB]), None), damaged)
        parts = Parts()
        found = [*by_kind[Kind.STEP], *by_kind[Kind.BRANCH]]
        self._add(parts, found, damaged)
        self._add_parameters(parts, scoped, damaged)
        late = self._complete(run_id, parts, damaged)
        if late:
            _put_in_order(parts, sorted([*found, *late], key=age))
        if damaged:  # from names to keys, as in a key there may be only the digest of a name
            by_key = {error.key for error in damaged}
            names = possible_parents(parts)
            parts.damaged_steps = {name for name in names if keys.key_of(keys.step(run_id, name)) in by_key}
            parts.damaged_branches = {name for name in names if keys.key_of(keys.branch(run_id, name)) in by_key}
        placeholders = assemble(cast(Run, run_log), parts, Placeholders(self._schema))
        return Reading(run_log, _findings(damaged, placeholders, scan.left_over))

    def _require_that_it_is_there(self, run_id: str, scan: Scan) -> None:
        """Where listed chunks were gone when they were read, somebody may be deleting the run: no part of it may pass for all."""
        if scan.vanished and self.is_gone(run_id):
            raise self.no_run(run_id)

    def is_gone(self, run_id: str) -> bool:
        """Whether the run was deleted, or is being deleted. One request."""
        try:
            return self._chunks.read(keys.header(run_id)).chunk.envelope.deleted
        except ObjectNotFoundError:
            return True
        except FormatError:
            return False

    def model(self, stored: Stored) -> BaseModel:
        """The model object of a step, branch or job chunk."""
        model = self._schema.read(Kind(stored.chunk.envelope.kind), stored.chunk.content, stored.key)
        self._origins.note(model, Origin(stored.key, stored.chunk.content))
        return model

    def header(self, stored: Stored) -> RunLog:
        """The run log of a header, without parameters, job and steps."""
        return self.noted(cast(RunLog, self._schema.read(Kind.HEADER, stored.chunk.content, stored.key)), stored)

    def headers(self, found: Iterable[Stored]) -> Iterator[RunLog]:
        """The run logs of headers; one that cannot be read is left out and logged."""
        for stored in found:
            try:
                yield self.header(stored)
            except FormatError as error:
                log.warning("%s", error)

    def noted(self, run_log: RunLog, stored: Stored, parameters: Mapping[str, Content] | None = None) -> RunLog:
        """The run log, with its creation time and with a note of its origin."""
        if "created_at" in type(run_log).model_fields:
            run_log.created_at = as_datetime(stored.chunk.envelope.created_at)
        self._origins.note(run_log, Origin(stored.key, stored.chunk.content, parameters or {}))
        return run_log

    def parameter(self, stored: Stored) -> object:
        """The value of one parameter."""
        return self._schema.read_parameter(stored.chunk.content, stored.key)

    def parameters(self, found: Iterable[Stored], damaged: list[FormatError]) -> Parameters:
        """The parameters of one scope; what cannot be read is added to `damaged`."""
        parameters, seen = {}, {}
        for stored in sorted(found, key=age):
            name = stored.chunk.envelope.name
            try:
                parameters[name] = self.parameter(stored)
            except FormatError as error:
                damaged.append(error)
            seen[stored.key] = stored.chunk.content
        return Parameters(parameters, seen)

    def no_run(self, run_id: str, leftovers: int = 0) -> RunLogNotFoundError:
        """The error for a run that is not there; what this process knew of it is forgotten."""
        self._chunks.known.forget_run(run_id)
        also = f"; {leftovers} chunks without a header are, which delete_run_log removes" if leftovers else ""
        return RunLogNotFoundError(f"run {run_id!r} is not in {self._chunks.backend.place}{also}", run_id=run_id)

    def _run_log(
        self, run_id: str, header: Stored | None, own: list[Stored], job: Stored | None, damaged: list[FormatError]
    ) -> RunLog:
        if header is not None and header.chunk.envelope.deleted:
            raise self.no_run(run_id)
        parameters = self.parameters(own, damaged)
        run_log = self._header_or_its_id(run_id, header, damaged)
        origin = self._origins.of(run_log)
        if origin is not None:
            self._origins.note(run_log, Origin(origin.key, origin.content, parameters.seen))
        run_log.parameters.update(parameters)  # type: ignore[arg-type]  # a client's parameters are its own
        if job is not None and self._schema.knows(Kind.HEADER, "job"):
            try:
                run_log.job = cast(JobLog, self.model(job))
            except FormatError as error:
                damaged.append(error)
        return run_log

    def _header_or_its_id(self, run_id: str, header: Stored | None, damaged: list[FormatError]) -> RunLog:
        if header is not None:
            try:
                return self.header(header)
            except FormatError as error:
                damaged.append(error)
        return cast(RunLog, self._schema.run_log(run_id=run_id))

    def _add(self, parts: Parts, found: Iterable[Stored], damaged: list[FormatError]) -> None:
        for stored in found:
            try:
                model = self.model(stored)
            except FormatError as error:
                damaged.append(error)
                continue
            if stored.chunk.envelope.kind == Kind.STEP:
                parts.steps[stored.chunk.envelope.name] = cast(Step, model)
            else:
                parts.branches[stored.chunk.envelope.name] = cast(Branch, model)

    def _add_parameters(self, parts: Parts, scoped: Iterable[Stored], damaged: list[FormatError]) -> None:
        by_scope: dict[str, list[Stored]] = {}
        for stored in scoped:
            by_scope.setdefault(stored.chunk.envelope.scope, []).append(stored)
        for scope, found in by_scope.items():
            parameters = self.parameters(found, damaged)
            if not self._schema.knows(Kind.BRANCH, "parameters"):
                continue
            parts.parameters += [(scope, name, value) for name, value in parameters.items()]
            origin = self._origins.of(parts.branches.get(scope))
            if origin is not None:
                self._origins.note(parts.branches[scope], Origin(origin.key, origin.content, parameters.seen))

    def _complete(self, run_id: str, parts: Parts, damaged: list[FormatError]) -> list[Stored]:
        """Asks by name for parents that the listing did not show: they may have come after its page. Returns those found."""
        late: list[Stored] = []
        asked: set[ChunkId] = set()
        known_damaged = {error.key for error in damaged}
        while True:
            branches, steps = missing_parents(parts)
            wanted = {keys.branch(run_id, name) for name in branches} | {keys.step(run_id, name) for name in steps}
            wanted = {chunk for chunk in wanted if keys.key_of(chunk) not in known_damaged}
            if not wanted - asked:
                return late
            scan = self._chunks.read_many(wanted - asked)
            if scan.vanished and self._were_packed_meanwhile(run_id):
                scan = self._chunks.read_many(wanted - asked)
            asked |= wanted
            damaged += [error for error in scan.damaged if error.key not in known_damaged]
            self._add(parts, scan.chunks, damaged)
            late += scan.chunks

    def _were_packed_meanwhile(self, run_id: str) -> bool:
        """Whether chunks that are not there may have gone into a pack since the run was listed."""
        if self._chunks.unpacker.is_packed(run_id):
            return False  # then they were looked for in it
        with suppress(ObjectNotFoundError, FormatError):
            return self._chunks.look_for_pack(run_id)
        return False


class Placeholders:
    """What stands in a run log where a chunk is missing."""

    def __init__(self, schema: Schema) -> None:
        self._schema = schema

    def step(self, name: str, internal_name: str) -> Step:
        message = "placeholder of chunkstore: this step has children, but it is not stored itself"
        status = Status.CREATED.value
        return cast(Step, self._schema.step_log(name=name, internal_name=internal_name, status=status, message=message))

    def branch(self, internal_name: str) -> Branch:
        made = cast(BranchLog, self._schema.branch_log(internal_name=internal_name, status=Status.CREATED.value))
        return cast(Branch, made)


def age(stored: Stored) -> tuple[str, str]:
    """What orders chunks: their creation."""
    return stored.chunk.envelope.created_at, stored.key


def has_ended(header: Stored) -> bool:
    """Whether a header says that its run has ended."""
    try:
        return str(values.decode(header.chunk.content).get("status")).upper() in TERMINAL
    except FormatError as error:
        raise FormatError(f"{header.key} holds no run: {error}", key=header.key) from error


def _put_in_order(parts: Parts, found: Iterable[Stored]) -> None:
    """Those that were asked for by name came last, whenever they were made."""
    names = [(stored.chunk.envelope.kind, stored.chunk.envelope.name) for stored in found]
    parts.steps = {name: parts.steps[name] for kind, name in names if kind == Kind.STEP and name in parts.steps}
    parts.branches = {
        name: parts.branches[name] for kind, name in names if kind == Kind.BRANCH and name in parts.branches
    }


def _findings(damaged: list[FormatError], placeholders: list[str], left_over: list[Stored]) -> tuple[Finding, ...]:
    return (
        *(Finding("damaged", error.key, str(error)) for error in damaged),
        *(Finding("orphan", name, f"{name!r} has children but is not stored itself") for name in placeholders),
        *(Finding("left over", stored.key, f"{stored.key} {_LEFT_OVER}") for stored in left_over),
    )
