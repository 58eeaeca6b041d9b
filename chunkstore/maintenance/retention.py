"""The rule which runs a store keeps, and what it means for the runs that are there. Nothing is deleted here: see `removal`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final

from chunkstore import keys, values
from chunkstore.chunks import Chunks
from chunkstore.clock import as_datetime
from chunkstore.errors import FormatError, InvalidInputError
from chunkstore.known import Stored
from chunkstore.maintenance.moving import Mover, Weight, listed, weigh
from chunkstore.maintenance.progress import Progress, Watcher
from chunkstore.marks import mark_of
from chunkstore.models import TERMINAL, RunLog, Status
from chunkstore.store import ChunkedRunLogStore, StoreSettings

_AT_ONCE: Final = 500  # runs
_AHEAD: Final = timedelta(hours=12)
"""How much later than it looks in UTC a time without a zone may be, on any clock on earth."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """Which runs go: finished ones that are older than `older_than`, or not among the newest `keep_last`, or both where both are given.

    A run is as old as its creation. Those with one of `keep_tags` or `keep_statuses` stay in any case. Runs that have not ended stay, unless
    `abandoned_after` is given and nothing was added to them for that long: no chunk, and no attempt started or ended.

    Raises `InvalidInputError` for a rule that cannot be meant.
    """

    older_than: timedelta | None = None
    keep_last: int | None = None
    keep_tags: AbstractSet[str] = frozenset()
    keep_statuses: AbstractSet[str] = frozenset()
    abandoned_after: timedelta | None = None

    def __post_init__(self) -> None:
        if self.older_than is None and self.keep_last is None and self.abandoned_after is None:
            raise InvalidInputError(
                "the rule does not say which runs go; give older_than (90d), keep_last (50) or abandoned_after (30d)"
            )
        for name in ("older_than", "abandoned_after"):
            given = getattr(self, name)
            if given is not None and given <= timedelta(0):
                raise InvalidInputError(f"{name} must be more than nothing, not {given}; for example 90d", name=name)
        if self.keep_last is not None and self.keep_last < 1:
            raise InvalidInputError(
                f"keep_last must be 1 or more, not {self.keep_last}; or leave it out", name="keep_last"
            )
        object.__setattr__(self, "keep_tags", _texts("keep_tags", self.keep_tags))
        statuses = frozenset(status.upper() for status in _texts("keep_statuses", self.keep_statuses))
        for status in statuses - set(Status):
            raise InvalidInputError(f"there is no status {status!r}; {_nearest(status)}", name=status)
        object.__setattr__(self, "keep_statuses", statuses)

    @classmethod
    def of_settings(cls, settings: StoreSettings) -> Retention:
        """The rule that a store's settings name, `retention_days`. It is never applied by itself."""
        return cls(older_than=timedelta(days=settings.retention_days))


def _texts(name: str, given: Iterable[str]) -> frozenset[str]:
    if isinstance(given, str):
        raise InvalidInputError(f"{name} must be several texts, not one: {given!r}; give a list", name=name)
    found = frozenset(given)
    if "" in found:
        raise InvalidInputError(f"{name} has an empty text; leave it out", name=name)
    return found


def _nearest(status: str) -> str:
    close = difflib.get_close_matches(status, list(Status), n=1, cutoff=0.5)
    return f"did you mean {str(close[0])!r}?" if close else f"there are {', '.join(Status)}"


@dataclass(frozen=True, slots=True)
class Planned:
    """A run that is to go, as it was looked at."""

    run_id: str
    status: str
    tag: str
    created_at: datetime
    objects: int
    """How many there are; all chunks in a pack are one."""
    bytes: int
    reason: str
    state: str
    """The same as long as nothing in the run changes; where it is another one, the run stays."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A run that stays, and why."""

    run_id: str
    reason: str
    damaged: bool = False
    """Whether that is because it cannot be read."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Which runs are to go, and which stay."""

    runs: tuple[Planned, ...]
    kept: tuple[Kept, ...] = ()
    unfinished: tuple[str, ...] = ()
    """Runs that are gone for readers already, but a move to the trash or a delete was cut short; it is finished."""
    unknown_tags: tuple[str, ...] = ()
    """Tags to keep that no run has: misspelt, perhaps."""
    copies: tuple[str, ...] = ()
    """Runs that were named, and are half copied: what came of the copy is taken away. A rule leaves such a run alone."""

    @property
    def bytes(self) -> int:
        """Of all runs that are to go."""
        return sum(run.bytes for run in self.runs)


@dataclass(frozen=True, slots=True)
class Judged:
    """What the rule says of a run. `goes` is None where that depends on how long nothing was added to it."""

    goes: bool | None
    reason: str


def judge(runs: Iterable[RunLog], rule: Retention, now: datetime) -> dict[str, Judged]:
    """What the rule says of each of all runs of a store. Pure."""
    ordered = sorted(runs, key=lambda run: (_created(run), run.run_id), reverse=True)
    return {run.run_id: _judged(run, number, rule, now) for number, run in enumerate(ordered)}


def _judged(run: RunLog, number: int, rule: Retention, now: datetime) -> Judged:
    spared = _spared(run, number, rule)
    if spared:
        return Judged(False, spared)
    if run.status not in TERMINAL:
        return Judged(None if rule.abandoned_after else False, f"it has not ended: {run.status}")
    if rule.older_than is not None:
        old = now - _created(run) > rule.older_than
        return Judged(old, f"it is {'' if old else 'not '}older than {_shown(rule.older_than)}")
    if rule.keep_last is not None:
        return Judged(True, f"it is not one of the last {rule.keep_last}")
    return Judged(False, "it has ended")


def _spared(run: RunLog, number: int, rule: Retention) -> str:
    """Why the rule keeps a run however old it is; empty where it does not."""
    if run.tag and run.tag in rule.keep_tags:
        return f"its tag is {run.tag!r}"
    if run.status in rule.keep_statuses:
        return f"its status is {run.status}"
    if rule.keep_last is not None and number < rule.keep_last:
        return f"it is one of the last {rule.keep_last}"
    return ""


def _created(run: RunLog) -> datetime:
    return run.created_at or datetime.max.replace(tzinfo=UTC)


def _shown(time: timedelta) -> str:
    days, seconds = time.days, time.seconds
    return f"{days} days" if days and not seconds else f"{time.total_seconds() / 3600:g} hours"


def plan_gc(
    store: ChunkedRunLogStore, rule: Retention, now: datetime | None = None, *, progress: Watcher | None = None
) -> Plan:
    """What the rule means for the runs of a store at this time. Changes nothing.

    Costs a look for all runs (as `iter_run_logs`), one listing of the ids, one listing for each run that is to go, one request for each run
    that cannot be found so, and a full read for each that may be abandoned. Runs whose header cannot be read stay.
    """
    now = now or datetime.now(UTC)
    # Also where the store has models of its own, which may leave out when a run was created.
    own = ChunkedRunLogStore(store.backend, settings=store.settings)
    runs = {run.run_id: run for run in own.iter_run_logs()}
    chunks = Mover(store).chunks
    kept: list[Kept] = []
    reasons: dict[str, str] = {}
    for run_id, one in judge(runs.values(), rule, now).items():
        judged = one if one.goes is not None else _abandoned(chunks, runs[run_id], rule, now, one)
        if judged.goes:
            reasons[run_id] = judged.reason
        else:
            kept.append(Kept(run_id, judged.reason))
    planned = [
        _planned(runs[run_id], weight, reasons[run_id])
        for run_id, weight in _weights(chunks, store, list(reasons), progress)
        if weight.objects
    ]
    rest = [run_id for run_id in own.list_run_ids() if run_id not in runs]
    unfinished, unreadable = _unfinished(store, rest)
    unknown = rule.keep_tags - {run.tag for run in runs.values() if run.tag}
    return Plan(tuple(planned), (*kept, *unreadable), tuple(unfinished), tuple(sorted(unknown)))


def _weights(
    chunks: Chunks, store: ChunkedRunLogStore, run_ids: list[str], progress: Watcher | None
) -> Iterator[tuple[str, Weight]]:
    """How much each run is. One listing each, as many at once as the place has use for."""
    for start in range(0, len(run_ids), _AT_ONCE):
        if progress is not None:
            progress(Progress(start, len(run_ids), "at runs"))
        some = run_ids[start : start + _AT_ONCE]
        yield from zip(some, chunks.at_once(lambda run_id: weigh(listed(store, run_id)), some), strict=True)


def _planned(run: RunLog, weight: Weight, reason: str) -> Planned:
    return Planned(
        run.run_id,
        run.status,
        run.tag or "",
        _created(run),
        weight.objects,
        weight.bytes,
        reason,
        weight.state,
    )


def is_as_planned(planned: Planned, header: Stored) -> bool:
    """Whether a header says what the decision was made of."""
    try:
        fields = values.decode(header.chunk.content)
    except FormatError:
        return False
    status, tag = str(fields.get("status", Status.CREATED.value)).upper(), fields.get("tag") or ""
    created_at = as_datetime(header.chunk.envelope.created_at)
    return not header.chunk.envelope.deleted and (status, tag, created_at) == (
        planned.status,
        planned.tag,
        planned.created_at,
    )


def _abandoned(chunks: Chunks, run: RunLog, rule: Retention, now: datetime, otherwise: Judged) -> Judged:
    assert rule.abandoned_after is not None
    if now - _created(run) <= rule.abandoned_after:  # without reading it
        return otherwise
    newest = newest_change(chunks, run.run_id)
    if newest is None or now - newest <= rule.abandoned_after:
        return otherwise
    return Judged(True, f"it has not ended, and nothing was added to it for {_shown(rule.abandoned_after)}")


def newest_change(chunks: Chunks, run_id: str) -> datetime | None:
    """The latest time that anything in a run tells of: a chunk's creation, an attempt's start or end. None where not all can be read.

    No place tells when an object was changed. Costs a full read.
    """
    scan = chunks.scan(keys.prefix_of_run(run_id))
    if scan.damaged or scan.vanished:
        return None
    found = [as_datetime(stored.chunk.envelope.created_at) for stored in scan.chunks]
    for stored in scan.chunks:
        try:
            found += _times(values.decode(stored.chunk.content))
        except FormatError:
            return None
    return max(found, default=None)


def _times(tree: object) -> Iterator[datetime]:
    """The starts and ends of all attempts in a chunk. A time without a zone counts as the latest that it may be."""
    if isinstance(tree, Mapping):
        for name, value in tree.items():
            if name in ("start_time", "end_time") and isinstance(value, str):
                yield from _time(value)
            else:
                yield from _times(value)
    elif isinstance(tree, list):
        for item in tree:
            yield from _times(item)


def _time(text: str) -> Iterator[datetime]:
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return
    yield found if found.tzinfo is not None else found.replace(tzinfo=UTC) + _AHEAD


def _unfinished(store: ChunkedRunLogStore, run_ids: list[str]) -> tuple[list[str], list[Kept]]:
    """Of runs that are listed and not found: those that are half gone, and those that nobody can read. One request each."""
    mover = Mover(store)
    unfinished, kept = [], []
    scan = mover.chunks.read_many(keys.header(run_id) for run_id in run_ids)
    for header in scan.chunks:
        run_id = header.chunk.envelope.run
        try:
            mark = mark_of(header.chunk)
        except FormatError as error:
            kept.append(Kept(run_id, str(error), damaged=True))
            continue
        if mark.state in ("restoring", "copying"):
            kept.append(Kept(run_id, f"it {mark.what}, or that was cut short; {mark.next_step}"))
        elif mark.state == "stands":
            kept.append(Kept(run_id, "it came meanwhile, or its header holds no run"))
        else:
            unfinished.append(run_id)
    kept += [Kept(_run_of(damage), f"its header is damaged: {damage}", damaged=True) for damage in scan.damaged]
    return sorted(unfinished), kept


def _run_of(damage: FormatError) -> str:
    chunk = keys.parse(damage.key)
    return damage.key if chunk is None else chunk.run_id
