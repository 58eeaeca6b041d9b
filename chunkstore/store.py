"""The door: the whole run log API over one backend.

Every step, branch, parameter, job and header is one chunk. A write that replaces is a compare-and-swap with the version that
this process saw last; what somebody else wrote in between is merged in, never overwritten as a whole.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from typing import Final, Literal, Unpack, cast

from chunkstore import index, keys, values
from chunkstore.assembly import collector_paused, parent_branch
from chunkstore.backends import Backend
from chunkstore.chunks import Change, Chunks, Timing
from chunkstore.clock import HybridClock
from chunkstore.compaction import Compaction, Compactor, Removal
from chunkstore.errors import (
    AlreadyExistsError,
    BranchLogNotFoundError,
    ChunkStoreError,
    ConflictError,
    FormatError,
    InvalidInputError,
    JobLogNotFoundError,
    NotFoundError,
    ObjectNotFoundError,
    ParameterNotFoundError,
    RunLogExistsError,
    StepLogNotFoundError,
    StorageFullError,
)
from chunkstore.fencing import FencedBackend, fence_of, unfenced
from chunkstore.following import Follower, RunChange, streamed
from chunkstore.keys import ChunkId, Kind
from chunkstore.known import Origins, Stored
from chunkstore.leases import Lease, WorkerLease, take
from chunkstore.marks import Mark, mark_of
from chunkstore.models import (
    TERMINAL,
    BranchLog,
    CodeIdentity,
    DataCatalog,
    JobLog,
    RunLog,
    Status,
    StepAttempt,
    StepLog,
)
from chunkstore.queries import FilterKeywords, Order, Queries, RunFilter, RunPage
from chunkstore.reading import Parameters, Reader, Reading
from chunkstore.reindexing import Reindexer, ReindexReport
from chunkstore.schema import OWN, Schema
from chunkstore.values import Content, Json
from chunkstore.writing import Writer

log = logging.getLogger(__name__)

Consistency = Literal["chunk", "snapshot"]
"""What a reader gets beside writers: each chunk whole, or all chunks as they stood at one moment."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """How a store works on its backend; where the backend is, is the backend's own matter."""

    retention_days: int = 90
    compress_above: int | None = 1_000_000
    timeout_seconds: float = 30.0
    known_bytes: int = 64 << 20
    compact_at_end: bool = False
    parallel_writes: bool = True
    """Whether parallel writers are wanted; where they are not safe, they are not supported in any case."""
    known_for_seconds: float = 0.0
    """How old what this process knows of a single step, branch or job may be to be given out without asking."""


_DEFAULT: Final = StoreSettings()


class ChunkedRunLogStore:
    """Run logs as chunks in a backend, for any number of writing threads, processes and hosts.

    `chunkstore.open(url)` makes one. Costs are given in requests to the backend; a chunk that this process has read or
    written is *known* to it.
    """

    service_name = "chunkstore"
    service_type = "run_log_store"

    def __init__(
        self,
        backend: Backend,
        *,
        settings: StoreSettings = _DEFAULT,
        schema: Schema = OWN,
        timing: Timing | None = None,
        clock: HybridClock | None = None,
    ) -> None:
        self.backend = backend
        self.settings = settings
        self.schema = schema
        self._timing = timing or Timing.of(backend, settings.timeout_seconds)
        self._clock = clock or HybridClock()
        self._chunks = Chunks(
            backend,
            compress_above=settings.compress_above,
            known_bytes=settings.known_bytes,
            timing=self._timing,
            clock=self._clock,
            announce=index.doubt,
            known_for_seconds=settings.known_for_seconds,
            fence=fence_of(backend),
        )
        origins = Origins()
        self._index = index.Index(backend)
        self._reader = Reader(self._chunks, schema, origins)
        self._queries = Queries(self._chunks, self._reader, schema, self._index)
        self._writer = Writer(self._chunks, schema, origins)
        self._compactor = Compactor(self._chunks)
        self._branches_missed: set[tuple[str, str]] = set()

    def __repr__(self) -> str:
        return f"ChunkedRunLogStore({self.backend.place!r})"

    def __reduce__(self) -> tuple[Callable[..., ChunkedRunLogStore], tuple[Backend, StoreSettings, Schema]]:
        return _unpickled, (self.backend, self.settings, self.schema)

    @property
    def supports_parallel_writes(self) -> bool:
        """Whether several processes may write at once; not in memory, which is one process's own, nor where the settings forbid it."""
        return self.settings.parallel_writes and self.backend.guarantees.across_processes

    def get_summary(self) -> dict[str, object]:
        """Type, location without secrets, retention, compression and guarantees, for people."""
        above = self.settings.compress_above
        return {
            "Type": self.service_name,
            "Location": self.backend.place,
            "Retention": f"{self.settings.retention_days} days",
            "Compression": "off" if above is None else f"above {above:,} bytes",
            "Guarantees": self._guarantees(),
        }

    def _guarantees(self) -> str:
        """For people. Only the server itself can tell, and who may not write there may not ask it."""
        try:
            stated = dataclasses.asdict(self.backend.guarantees)
        except ChunkStoreError as error:
            return f"not known: {error}"
        return ", ".join(name.replace("_", " ") for name, holds in stated.items() if holds)

    def close(self) -> None:
        """Lets threads and connections go. The store may be used again afterwards."""
        self._chunks.close()

    # Runs

    def create_run_log(
        self,
        /,
        run_id: str,
        dag_hash: str | None = "",
        use_cached: bool = False,
        tag: str | None = "",
        original_run_id: str | None = "",
        status: str = Status.CREATED.value,
        **kwargs: object,
    ) -> RunLog:
        """Creates and stores a run; of many that create the same id, exactly one succeeds. One request, two where it exists.

        Further keywords become fields of the run log. Raises `RunLogExistsError`; nothing is overwritten.
        """
        fields: dict[str, object] = {"run_id": run_id, "dag_hash": dag_hash, "use_cached": use_cached, "tag": tag}
        fields |= {"original_run_id": original_run_id, "status": status.upper(), **kwargs}
        header = keys.header(run_id)
        run_log = self.schema.run_log.model_validate(fields)
        content = _with_fields(self.schema.write(Kind.HEADER, run_log), fields)
        try:
            stored = self._chunks.create(header, content)
        except AlreadyExistsError as error:
            raise RunLogExistsError(self._exists(run_id), run_id=run_id) from error
        return self._reader.noted(cast(RunLog, run_log), stored)

    def get_run_log_by_id(
        self, run_id: str, full: bool = True, *, strict: bool = True, consistency: Consistency = "chunk"
    ) -> RunLog:
        """The run log: complete, or with `full=False` its header, job and parameters without steps.

        Complete: one listing (one request per 1,000 chunks) and one request for each chunk that changed since this process
        last saw it, all at once. Every write that returned before the call is in it, and no step without its parents.
        Of a packed run one listing and one request, side by side where this process knows that it is packed; none where it has the pack.
        Without steps: two requests for header and job, then as `get_parameters`.

        Each chunk is whole, but writes during the call may be in it or not, a later one and not an earlier one of another writer. With
        `consistency="snapshot"` all chunks stood there at one moment: the run is listed until nothing changed between two listings, at
        most ten times; one listing more where nobody writes. Raises `ConflictError` where it never stood still.

        Raises `RunLogNotFoundError`. Raises `FormatError` where chunks are damaged, naming them; with `strict=False` they are left out
        and logged: see `read_run_log`.
        """
        reading = self.read_run_log(run_id, full=full, consistency=consistency)
        unsettled = [finding for finding in reading.findings if finding.sort == "unsettled"]
        if unsettled:
            raise ConflictError(f"{unsettled[0].message}, or without consistency='snapshot'", run_id=run_id)
        damaged = [finding for finding in reading.findings if finding.sort == "damaged"]
        for finding in reading.findings:
            log.warning("run %r: %s", run_id, finding.message)
        if damaged and strict:
            raise FormatError(
                f"run {run_id!r} in {self.backend.place} has {len(damaged)} damaged chunks: "
                f"{'; '.join(finding.message for finding in damaged[:5])}. The rest can be read with strict=False",
                run_id=run_id,
                key=damaged[0].name,
            )
        return reading.run_log

    def read_run_log(self, run_id: str, full: bool = True, *, consistency: Consistency = "chunk") -> Reading:
        """The run log as far as it can be read, and what is damaged or has no parent. Costs as `get_run_log_by_id`.

        A snapshot without steps is read in full. Raises `RunLogNotFoundError`; with a damaged header the run log is there with its
        id alone.
        """
        if consistency not in ("chunk", "snapshot"):
            raise InvalidInputError(f"consistency must be 'chunk' or 'snapshot', not {consistency!r}", run_id=run_id)
        with collector_paused():
            reading = self._read_run(run_id, full=full, consistency=consistency)
        self._chunks.known.found(run_id)  # also where its header is damaged
        return reading

    def _read_run(self, run_id: str, *, full: bool, consistency: Consistency) -> Reading:
        if consistency == "chunk":
            return self._reader.full(run_id) if full else self._reader.without_steps(run_id)
        reading = self._reader.snapshot(run_id)
        if not full:
            reading.run_log.steps = {}
        return reading

    def iter_chunks(self, run_id: str) -> Iterator[RunChange]:
        """All that is in a run, chunk by chunk, the header first: for runs that are too large to be in memory at once.

        Costs as `get_run_log_by_id`. In memory are about 400 bytes for each chunk, a thousand chunks, the cache of known chunks, and
        the pack of a packed run. Raises `RunLogNotFoundError`; a damaged chunk is told as such.
        """
        return streamed(self._chunks, self._reader, run_id)

    def follow(
        self, run_id: str, *, poll_seconds: float = 1.0, wait: bool = False, timeout: float | None = None
    ) -> Iterator[RunChange]:
        """The changes of a run as they come: first all that is there, oldest first, then what is new; until the run has ended.

        Each look costs one listing, and one request for each chunk that changed; there is a pause between two. After the terminal
        status it looks until it finds nothing new. Raises `RunLogNotFoundError` where the run is not there (with `wait` it looks
        until it is), or is deleted meanwhile; `TimeoutError` where it has not ended after `timeout` seconds.
        """
        if not poll_seconds > 0:
            raise InvalidInputError(f"poll_seconds must be above 0, not {poll_seconds!r}", run_id=run_id)
        if timeout is not None and not timeout >= 0:
            raise InvalidInputError(f"timeout must be a number of seconds, 0 or more, not {timeout!r}", run_id=run_id)
        return Follower(self._chunks, self._reader, run_id).changes(poll_seconds, wait=wait, timeout=timeout)

    def put_run_log(self, run_log: RunLog) -> None:
        """Stores a run log with all that is in it: what changed since it was read, and what is new. Erases nothing.

        A run log that was read without its steps, or long ago, can be put back: steps, parameters and fields that others wrote
        meanwhile stay. A run log made by hand creates its run. One request for each chunk that changed.
        """
        with self._in_run(run_log.run_id):
            self._writer.run_log(run_log)
        self._at_end(run_log.run_id, run_log.status)

    def get_run_logs(
        self,
        run_ids: Sequence[str] | None = None,
        tag: str = "",
        status: str = "",
        limit: int | None = None,
        *,
        since: datetime | None = None,
        until: datetime | None = None,
        text: str = "",
        parameters: Mapping[str, object] | None = None,
    ) -> list[RunLog]:
        """The headers of the runs that match, without steps and parameters, the newest first.

        Ids that do not exist are left out. The filters are those of `RunFilter`. Costs as `find_runs`; with `run_ids` one request
        for each of them.
        """
        if limit is not None and limit < 0:
            raise InvalidInputError(f"the limit must not be negative: {limit}", name="limit")
        wanted = RunFilter(
            tag=tag,
            status=status,
            since=since,
            until=until,
            text=text,
            parameters={} if parameters is None else parameters,
        )
        with collector_paused():
            return list(islice(self._queries.runs(wanted, "newest", run_ids=run_ids, limit=limit or 0), limit))

    def find_runs(
        self,
        wanted: RunFilter | None = None,
        *,
        order: Order = "newest",
        limit: int = 100,
        cursor: str = "",
        full: bool = False,
        **filters: Unpack[FilterKeywords],
    ) -> RunPage:
        """A page of the runs that match a filter, or the same as keywords: headers only, or with `full` as `read_run_log`.

        The page's cursor goes on behind it, with the same filter and order; runs that come meanwhile shift no page. One that
        belongs to another filter or order, or is damaged, is an `InvalidInputError`. A run that cannot be read is left out and logged.

        Listing the runs: one request per 1,000. The index of finished runs: one listing (one request per 1,000 runs that were
        changed after they were finished and indexed), one for its manifest, and one for each segment that this process has not read yet
        (up to 10,000 runs each). Then one for each run that is not in the index, not finished, or in doubt, and for each parameter in the
        filter one for each run that matches otherwise, until the page is full (up to 64 too many at once on an object store).
        `reindex` brings runs into the index; it changes what this costs, never what it finds.
        """
        return self._queries.page(self._filter(wanted, filters), order, limit, cursor, full=full)

    def iter_run_logs(
        self,
        wanted: RunFilter | None = None,
        *,
        order: Order = "newest",
        full: bool = False,
        **filters: Unpack[FilterKeywords],
    ) -> Iterator[RunLog]:
        """All runs that match, one after the other, as `find_runs` without pages: what there is is looked up once, at the call.

        In memory are about 600 bytes for each run, and the models that the caller keeps.
        """
        return self._queries.runs(self._filter(wanted, filters), order, full=full)

    def iter_run_ids(self) -> Iterator[str]:
        """The ids of all runs, in any order, as they are listed. One request per 1,000."""
        return self._queries.run_ids()

    def list_run_ids(self) -> list[str]:
        """The ids of all runs, sorted. One request per 1,000."""
        return sorted(self._queries.run_ids())

    def reindex(self, *, full: bool = False) -> ReindexReport:
        """Brings finished runs into the index that `find_runs` asks; with `full`, makes it anew from all headers.

        Any number of processes may call it at any time, beside writers too; now and then (daily, say) is enough. With `full` after
        headers were changed or run folders removed by something else than chunkstore. Costs as `find_runs` without a filter, and where there
        is something to do one for each new segment, one for the new manifest, one for each note of doubt and each old segment to take it
        away, and one for each write that was announced and never came. Raises `ConflictError` where others do the same all the time.
        """
        return Reindexer(self._chunks, self._index).run(full=full)

    def delete_run_log(self, run_id: str) -> None:
        """Deletes a run. Readers stop finding it at once; a call that is cut short is finished by the next one.

        Raises `RunLogNotFoundError`. One listing and one request per chunk or pack, and two for the header, three where the run is not known;
        one more for a run that is finished.
        """
        header = keys.header(run_id)
        missing = self._mark_deleted(header)
        # Listed after the mark: whoever writes and then sees the mark takes that back himself; all else is in the listing.
        rest = self._rest_of(run_id)
        if missing is not None and not rest:
            raise self._reader.no_run(run_id) from missing
        # The pack before the rest: behind a loose chunk it may hold an older one.
        self._chunks.delete_many(key for key in rest if key == keys.pack(run_id))
        self._chunks.delete_many(key for key in rest if key != keys.pack(run_id))
        self._chunks.delete_many([keys.key_of(header)])
        self._chunks.known.forget_run(run_id)

    def _mark_deleted(self, header: ChunkId) -> ObjectNotFoundError | None:
        """Marks the header; the error where there is none. On a full disk the mark has no room until some chunk is gone."""
        rest: list[str] | None = None
        while True:
            try:
                self._chunks.mark_deleted(header)
            except ObjectNotFoundError as error:
                return error
            except FormatError:
                log.warning("the header of run %r is damaged; the run is deleted all the same", header.run_id)
                self._doubt(header.run_id)
            except StorageFullError as error:
                log.warning("run %r cannot be marked as deleted yet: %s", header.run_id, error)
                rest = self._rest_of(header.run_id) if rest is None else rest
                if rest:
                    self._chunks.delete_many([rest.pop()])
                    continue
                self._chunks.delete_many([keys.key_of(header)])
                self._doubt(header.run_id)
            return None

    def _rest_of(self, run_id: str) -> list[str]:
        """The keys of all that is in a run but its header. One listing."""
        listed = {entry.key for entry in self.backend.list(keys.prefix_of_run(run_id))}
        ours = {key for key in listed if keys.parse(key) is not None or key == keys.pack(run_id)}
        if listed != ours:
            log.warning(
                "run %r is deleted, but %d files in its folder are not ours and stay", run_id, len(listed - ours)
            )
        return sorted(ours - {keys.key_of(keys.header(run_id))})

    def _doubt(self, run_id: str) -> None:
        """The index must not be believed about a run of this id that comes later."""
        self._chunks.put_new(index.doubt_about(run_id), index.NOTE)

    def update_run_log_status(self, run_id: str, status: str) -> None:
        """Sets the run's status and nothing else. One request, two where the run is not known.

        One more where the run stands finished and this changes it, as for `set_run_config` and `put_run_log`: what the index says of
        it no longer holds.
        """
        status = status.upper()
        self._change_header(run_id, lambda header: {**header, "status": status}, barrier=status in TERMINAL)
        self._at_end(run_id, status)

    def compact(self, run_id: str, *, remove: Removal = "unchanged") -> Compaction:
        """Packs a finished run: all its chunks in one object, so that it is read with one listing and one request.

        Steps, branches and the job log are then removed, each only in the version that is in the pack; header and parameters stay. A
        chunk that somebody writes later stands beside the pack and wins. Where the place cannot delete under a condition
        (`guarantees.conditional_delete`) they stay too, and are not read: with `remove="always"` they are removed all the same, which loses
        what is written meanwhile and is for runs that have no writer left. `remove="never"` removes nothing.

        A call that is cut short leaves a readable run, and the next one finishes it. Costs a read of the header, two writes, one
        listing, one request for each chunk to read it and one for each that is removed, all at once; one more to see that the run is still
        there. Raises `RunLogNotFoundError`, `InvalidInputError` where the run has not ended, `FormatError` where its pack is damaged.
        """
        try:
            return self._compactor.compact(run_id, remove)
        except ObjectNotFoundError as error:
            raise self._reader.no_run(run_id) from error

    def _at_end(self, run_id: str, status: str) -> None:
        """Packs a run that has just ended, where the settings say so. What was asked for is done: nothing of this may fail it."""
        if not self.settings.compact_at_end or status.upper() not in TERMINAL:
            return
        try:
            self.compact(run_id)
        except ChunkStoreError as error:
            log.warning("run %r was not packed: %s. compact does it at any time", run_id, error)

    def get_run_config(self, run_id: str) -> dict[str, object]:
        """The configuration of the run. One request."""
        stored = self._read_header(run_id)
        try:
            config = values.decode(stored.chunk.content).get("run_config")
        except FormatError as error:
            raise FormatError(f"{stored.key} holds no run: {error}", run_id=run_id, key=stored.key) from error
        return dict(config) if isinstance(config, dict) else {}

    def set_run_config(self, run_id: str, run_config: Mapping[str, object]) -> None:
        """Sets the keys given and keeps the others. One request, two where the run is not known; one more for a finished run."""
        given = values.decode(values.encode(run_config))

        def merge(header: dict[str, Json]) -> dict[str, Json]:
            before = header.get("run_config")
            return {**header, "run_config": {**(before if isinstance(before, dict) else {}), **given}}

        self._change_header(run_id, merge)

    # Parameters

    def get_parameters(self, run_id: str, internal_branch_name: str = "") -> Parameters:
        """The parameters of the run, or of one branch.

        One listing, and one request for each parameter that changed since this process last saw it, all at once.
        Raises `RunLogNotFoundError`, `BranchLogNotFoundError`, where this process has not met the run or the branch yet: of a
        run that another process deleted since, there are none.
        """
        scope = internal_branch_name or ""
        scan = self._chunks.scan(keys.prefix_of_parameters(run_id, scope))
        if scan.vanished and self._reader.is_gone(run_id):
            raise self._reader.no_run(run_id)
        if not scan.chunks and not scan.damaged:
            self._require_owner(run_id, scope)
        parameters = self._reader.parameters(scan.chunks, scan.damaged)
        if scan.damaged:
            raise scan.damaged[0]
        return parameters

    def get_parameter(self, run_id: str, name: str, internal_branch_name: str = "") -> object:
        """One parameter. One request. Raises `ParameterNotFoundError`."""
        chunk = keys.parameter(run_id, name, internal_branch_name or "")
        stored = self._read(chunk, ParameterNotFoundError)
        return self.schema.read_parameter(stored.chunk.content, stored.key)

    def set_parameters(self, run_id: str, parameters: Mapping[str, object], internal_branch_name: str = "") -> None:
        """Sets the parameters given and keeps the others. One request for each that changed, all at once.

        A value that is the same as when it was read is not written: what `get_parameters` returned can be handed back whole
        without undoing what others set meanwhile. For any other mapping, "read" is what this process saw last.
        """
        self._require_run(run_id)
        seen = parameters.seen if isinstance(parameters, Parameters) else {}
        with self._in_run(run_id):
            written = self._writer.parameters(run_id, parameters, internal_branch_name or "", seen)
        if isinstance(parameters, Parameters):  # or one that is set back to what was read would not be written
            parameters.seen = {**seen, **written}

    # Steps

    def create_step_log(self, name: str, internal_name: str) -> StepLog:
        """A step log that is not stored yet."""
        return cast(StepLog, self.schema.step_log(name=name, internal_name=internal_name, status=Status.CREATED.value))

    def get_step_log(self, internal_name: str, run_id: str) -> StepLog:
        """The step log, without the branches below it. Raises `StepLogNotFoundError`.

        One request. Of a packed run three, two once this process has read its pack; two where there is none.
        """
        stored = self._read(keys.step(run_id, internal_name), StepLogNotFoundError)
        return cast(StepLog, self._reader.model(stored))

    def add_step_log(self, step_log: StepLog, run_id: str) -> None:
        """Stores a step log, and the branches and steps that are in it. A composite step without its branches erases none.

        One request for each chunk that changed. A step keeps its place when it is stored again. Raises `BranchLogNotFoundError` where
        this process has looked for the branch in vain; otherwise reading the run reports the orphan.
        """
        self._require_run(run_id)
        self._require_missed_branch(run_id, parent_branch(step_log.name, step_log.internal_name))
        with self._in_run(run_id):
            self._writer.steps(run_id, [step_log])

    # Branches

    def create_branch_log(self, internal_branch_name: str, parameters: Mapping[str, object] | None = None) -> BranchLog:
        """A branch log that is not stored yet."""
        branch = cast(
            BranchLog, self.schema.branch_log(internal_name=internal_branch_name, status=Status.CREATED.value)
        )
        branch.parameters.update(parameters or {})  # type: ignore[arg-type]  # a client's parameters are its own
        return branch

    def get_branch_log(self, internal_branch_name: str, run_id: str) -> BranchLog | RunLog:
        """The branch log, without its steps and parameters; for an empty name the run log without steps.

        Costs as `get_step_log`; for the run log as `get_run_log_by_id(full=False)`. Raises `BranchLogNotFoundError`.
        """
        if not internal_branch_name:
            return self.get_run_log_by_id(run_id, full=False)
        try:
            stored = self._read(keys.branch(run_id, internal_branch_name), BranchLogNotFoundError)
        except BranchLogNotFoundError:
            self._branches_missed.add((run_id, internal_branch_name))
            raise
        return cast(BranchLog, self._reader.model(stored))

    def add_branch_log(self, branch_log: BranchLog | RunLog, run_id: str) -> None:
        """Stores a branch log and the steps and parameters that are in it, or a run log as `put_run_log`. Erases nothing.

        One request for each chunk that changed.
        """
        if isinstance(branch_log, self.schema.run_log):
            self.put_run_log(cast(RunLog, branch_log))
            return
        branch = cast(BranchLog, branch_log)
        self._require_run(run_id)
        with self._in_run(run_id):
            self._writer.branches(run_id, [branch])
        self._branches_missed.discard((run_id, branch.internal_name))

    # Jobs

    def create_job_log(self) -> JobLog:
        """A job log that is not stored yet."""
        return cast(JobLog, self.schema.job_log(status=Status.CREATED.value))

    def get_job_log(self, run_id: str) -> JobLog:
        """The job log of the run. Costs as `get_step_log`. Raises `JobLogNotFoundError`."""
        stored = self._read(keys.job(run_id), JobLogNotFoundError)
        return cast(JobLog, self._reader.model(stored))

    def add_job_log(self, run_id: str, job_log: JobLog) -> None:
        """Stores the job log and makes its status the run's. Two requests."""
        self._require_run(run_id)
        with self._in_run(run_id):
            self._writer.job(run_id, job_log)
        self.update_run_log_status(run_id, job_log.status)

    # Leases

    def lease(
        self,
        run_id: str,
        name: str = "executor",
        ttl: float = 30.0,
        *,
        wait: float = 0.0,
        holder: str = "",
        on_loss: Callable[[Lease], object] | None = None,
        across_hosts: bool = False,
        heartbeat: bool = True,
    ) -> Lease:
        """Takes a lease of a run, which need not be there yet: two that ask for the same name never hold it at once. See `chunkstore.leases`.

        It is renewed by a thread every third of `ttl` seconds; with `heartbeat=False` by `Lease.renew`, called by you. Where another process holds it, it is waited for
        `wait` seconds: until it is released, or was not renewed for its whole `ttl`. `on_loss` is called once, in the thread that notices; without it the loss is logged as a warning.
        `holder` is told to others, with user, host and process.

        Raises `LeaseHeldError`; `NotSupportedError` where the place has no conditional writes, or `across_hosts` is asked for and it keeps
        only one host's processes apart. Two requests, four the first time; one for each look while it waits, five in a `ttl`; one for each renewal.
        """
        return take(
            unfenced(self.backend),
            run_id,
            name,
            ttl,
            wait=wait,
            holder=holder,
            on_loss=on_loss,
            across_hosts=across_hosts,
            heartbeat=heartbeat,
        )

    def fenced(self, lease: Lease | WorkerLease) -> ChunkedRunLogStore:
        """A store for the lease's run whose writes raise `LeaseLostError` once the lease is lost; `chunkstore.fencing` says exactly what is certain.

        A new holder's generation is put into the run's header, so that no earlier holder can write that any more: two requests, one where there is no run yet; three for one
        that was copied from elsewhere. None for a `WorkerLease`. The store's writes cost what they cost, and on local disk and in a database one request more each, as a worker's do everywhere. Pickled, it writes under a `WorkerLease`.
        It has a cache of its own, and writes no other run (`InvalidInputError`). A store that is fenced already becomes one fenced by this lease alone.
        """
        if lease.place != self.backend.place:
            raise InvalidInputError(
                f"the lease {lease.name!r} is one of {lease.place}, and this store is {self.backend.place}",
                name=lease.name,
            )
        store = ChunkedRunLogStore(
            FencedBackend(unfenced(self.backend), lease),
            settings=self.settings,
            schema=self.schema,
            timing=self._timing,
            clock=self._clock,
        )
        if isinstance(lease, Lease):
            store._take_run(lease)
        return store

    def _take_run(self, lease: Lease) -> None:
        """Writes the header as it is, with the lease's generation."""
        header = keys.header(lease.run_id)
        try:
            before = self._chunks.read(header).chunk.envelope.fences.get(lease.name, 0)
            if before > lease.generation:  # the run was copied, or its lease's record removed by hand
                lease.rise_above(before)
            self._chunks.change(Change(header, lambda content: content, always=True))
        except ObjectNotFoundError:
            log.debug("run %r is not there yet, or goes", lease.run_id)
        except FormatError as error:
            log.warning("%s; an earlier holder of the lease %r may still write it", error, lease.name)

    # Parts that are not stored on their own

    def create_attempt_log(self) -> StepAttempt:
        """An attempt that is not stored yet; append it to a step log's attempts."""
        return cast(StepAttempt, self.schema.step_attempt())

    def create_code_identity(self) -> CodeIdentity:
        """A code identity that is not stored yet."""
        return cast(CodeIdentity, self.schema.code_identity())

    def create_data_catalog(self, name: str) -> DataCatalog:
        """A data catalog entry that is not stored yet."""
        return cast(DataCatalog, self.schema.data_catalog(name=name))

    # Inside

    def _filter(self, wanted: RunFilter | None, filters: FilterKeywords) -> RunFilter:
        if wanted is None:
            return RunFilter(**filters)
        if filters:
            raise InvalidInputError(f"give a RunFilter, or {', '.join(filters)} as keywords, not both")
        return wanted

    def _change_header(
        self, run_id: str, edit: Callable[[dict[str, Json]], dict[str, Json]], *, barrier: bool = False
    ) -> None:
        def edited(theirs: Content) -> Content:
            return values.encode(edit(values.decode(theirs)))

        with self._in_run(run_id):
            self._chunks.change(Change(keys.header(run_id), edited, barrier=barrier, always=True))

    def _read(self, chunk: ChunkId, missing: type[NotFoundError]) -> Stored:
        """Reads one chunk; whether the chunk is missing or its whole run is found out where it is not known."""
        try:
            return self._chunks.recent(chunk) or self._chunks.read(chunk)
        except ObjectNotFoundError as error:
            if error.key == keys.key_of(keys.header(chunk.run_id)):
                raise self._reader.no_run(chunk.run_id) from error
            self._require_run(chunk.run_id)
            message = f"run {chunk.run_id!r} in {self.backend.place} has no {chunk}"
            raise missing(message, run_id=chunk.run_id, name=chunk.name) from error

    def _read_header(self, run_id: str) -> Stored:
        try:
            stored = self._chunks.read(keys.header(run_id))
        except ObjectNotFoundError as error:
            raise self._reader.no_run(run_id) from error
        if stored.chunk.envelope.deleted:
            raise self._reader.no_run(run_id)
        return stored

    def _require_run(self, run_id: str) -> None:
        """Asks once for the header of a run that this process neither created nor read: an object store takes orphans."""
        founding = self._chunks.known.founding(run_id)
        if founding is None:
            self._read_header(run_id)
        elif not founding:  # only its damaged header was met: it may have been mended since, or the run deleted
            with suppress(FormatError):
                self._read_header(run_id)

    def _require_owner(self, run_id: str, scope: str) -> None:
        self._require_run(run_id)
        if scope and self._chunks.last_seen(keys.branch(run_id, scope)) is None:
            self._read(keys.branch(run_id, scope), BranchLogNotFoundError)

    def _require_missed_branch(self, run_id: str, branch: str) -> None:
        if (run_id, branch) in self._branches_missed:
            self.get_branch_log(branch, run_id)
            self._branches_missed.discard((run_id, branch))

    def _in_run(self, run_id: str) -> _InRun:
        """Where a run's folder or header turns out to be gone, the run is."""
        return _InRun(self._reader, run_id)

    def _exists(self, run_id: str) -> str:
        known = self._chunks.last_seen(keys.header(run_id))
        with suppress(FormatError):
            mark = mark_of(known.chunk) if known is not None else Mark("stands")
            if mark.state != "stands":
                return f"run {run_id!r} in {self.backend.place} {mark.what}; {mark.next_step}"
        return f"run {run_id!r} exists in {self.backend.place}; choose another id, or read it with get_run_log_by_id"


class _InRun:
    """Turns the error of a missing object into that of a missing run; a class, as each write enters it."""

    __slots__ = ("_reader", "_run_id")

    def __init__(self, reader: Reader, run_id: str) -> None:
        self._reader = reader
        self._run_id = run_id

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, ObjectNotFoundError):
            raise self._reader.no_run(self._run_id) from error


def _unpickled(backend: Backend, settings: StoreSettings, schema: Schema) -> ChunkedRunLogStore:
    return ChunkedRunLogStore(backend, settings=settings, schema=schema)


def _with_fields(content: Content, fields: Mapping[str, object]) -> Content:
    """The content with fields that the client's class does not have."""
    tree = values.decode(content)
    missing = {name: value for name, value in fields.items() if name not in tree}
    return values.encode({**tree, **missing}) if missing else content
