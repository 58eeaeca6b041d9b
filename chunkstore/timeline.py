"""When each step, branch and attempt of a run log began and ended, as spans. Pure: the present moment is given to it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Final, Literal, NamedTuple

from chunkstore.errors import InvalidInputError
from chunkstore.models import TERMINAL, BranchLog, JobLog, RunLog, Status, StepAttempt, StepLog

SpanKind = Literal["run", "job", "step", "branch", "attempt"]

_SUSPICIOUS: Final = timedelta(minutes=15)  # the smallest difference between two zones
_ZONES_APART: Final = timedelta(hours=26)  # and the largest


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One thing of a run, and when it went on. A step's and a branch's span reaches over all that is below it."""

    name: str
    """The internal name; of an attempt that of its step; empty for the run and the job."""
    label: str
    """The last part of the name, as a tree shows it."""
    kind: SpanKind
    depth: int
    """How many spans it stands in; 0 for the run."""
    status: str
    start: datetime | None = None
    """In UTC; None where nothing of it tells a time."""
    end: datetime | None = None
    """In UTC, never before the start; the present moment while it is running; None where it is not known."""
    attempt: int = 0
    """The number of the attempt, or of the step's last one; 0 where none is recorded."""
    attempts: int = 0
    """How many attempts are recorded of the step or job itself. Each has a span of its own where there are more than one."""
    is_running: bool = False
    is_start_assumed: bool = False
    """Whether no start is recorded, and it is that of the latest thing which must have ended before. Only while it is running."""
    is_skewed: bool = False
    """Whether it ends before it starts, or starts in the future: clocks differ, or one was set. Its end is then its start."""
    message: str = ""

    @property
    def duration(self) -> timedelta | None:
        """From start to end, or until now; None where that cannot be told. At most so long where the start is assumed."""
        if self.start is None or self.end is None or self.is_skewed:
            return None
        return self.end - self.start


@dataclass(frozen=True, slots=True)
class Timeline:
    """The spans of a run, each before those in it, in the order of the run log. The first is the run itself."""

    run_id: str
    now: datetime
    spans: tuple[Span, ...]
    notes: tuple[str, ...] = ()
    """What a person should know who looks at it."""

    @property
    def start(self) -> datetime | None:
        """When the first thing began."""
        return min((span.start for span in self.spans if span.start is not None), default=None)

    @property
    def end(self) -> datetime | None:
        """When the last thing ended that did, or the present moment while the run goes on."""
        ends = [moment for span in self.spans for moment in (span.end, span.start) if moment is not None]
        return max(ends, default=None)


@dataclass(frozen=True, slots=True)
class Selection:
    """Some spans of a timeline, in its order, and how many were left out."""

    spans: tuple[Span, ...]
    left_out: int


def timeline_of(run_log: RunLog, *, now: datetime, zone: tzinfo | None = None) -> Timeline:
    """The timeline of a run log that was read in full; what is still running lasts until `now`, which needs a time zone.

    The times are those of the attempts: a step without attempts has none of its own, only those of what is below it. Of a
    running step that has recorded none yet (runnable writes its attempts when they have ended) the start is assumed.
    Clients write times without a zone, in that of the host that ran the step: they are read as times of `zone`, by default of
    this host's. Where that cannot be right, a note says so.
    """
    if now.utcoffset() is None:
        raise InvalidInputError(f"now needs a time zone: {now}; for example datetime.now(UTC)", name="now")
    maker = _Maker(now.astimezone(UTC), zone)
    spans = maker.run(run_log)
    return Timeline(run_log.run_id, maker.now, tuple(spans), tuple(_notes(run_log, spans, maker)))


def select(spans: Sequence[Span], limit: int) -> Selection:
    """At most so many spans (0: all), and those that they stand in, which may be a few more: for a place with little room.

    What failed or is running comes first, then the outer before the inner, then the longer before the shorter.
    """
    if limit < 0:
        raise InvalidInputError(f"the limit must be a number of spans, or 0 for all, not {limit!r}", name="limit")
    if limit in {0, len(spans)} or limit > len(spans):
        return Selection(tuple(spans), 0)
    above = _above(spans)
    kept: set[int] = {0}
    for number in sorted(range(len(spans)), key=lambda number: (_rank(spans[number]), number)):
        if len(kept) >= limit:
            break
        while number not in kept:
            kept.add(number)
            number = above[number]  # noqa: PLW2901  up to what is kept already
    return Selection(tuple(spans[number] for number in sorted(kept)), len(spans) - len(kept))


def _rank(span: Span) -> tuple[bool, int, float]:
    asked_for = span.is_running or (span.status == Status.FAIL and span.kind != "attempt")
    return not asked_for, span.depth, -(span.duration or timedelta()).total_seconds()


def _above(spans: Sequence[Span]) -> list[int]:
    """The number of the span that each stands in; of the first its own."""
    above: list[int] = []
    path: list[int] = []
    for number, span in enumerate(spans):
        del path[span.depth :]
        above.append(path[-1] if path else number)
        path.append(number)
    return above


class _Times(NamedTuple):
    """When something went on, as far as it is known."""

    start: datetime | None = None
    end: datetime | None = None
    is_skewed: bool = False


class _Maker:
    """Makes the spans of one run log."""

    def __init__(self, now: datetime, zone: tzinfo | None) -> None:
        self.now = now
        self.zone = zone
        self.first_without_zone: datetime | None = None
        self.last_without_zone: datetime | None = None

    def run(self, run_log: RunLog) -> list[Span]:
        """All spans of the run, itself first."""
        goes_on = run_log.status.upper() not in TERMINAL
        since = None if run_log.created_at is None else run_log.created_at.astimezone(UTC)
        below = [] if run_log.job is None else self._job(run_log.job, goes_on=goes_on, since=since)
        below += self._steps(run_log.steps.values(), 1, goes_on=goes_on, since=since)
        top = Span(name="", label=run_log.run_id, kind="run", depth=0, status=run_log.status)
        return [self._reaching(top, [], below, goes_on=goes_on, since=since), *below]

    def _job(self, job: JobLog, *, goes_on: bool, since: datetime | None) -> list[Span]:
        top = Span(name="", label="job", kind="job", depth=1, status=job.status, message=job.message)
        return self._work(top, job.attempts, [], goes_on=goes_on, since=since)

    def _steps(self, steps: Iterable[StepLog], depth: int, *, goes_on: bool, since: datetime | None) -> list[Span]:
        """The spans of steps that follow each other."""
        spans: list[Span] = []
        for step in steps:
            some = self._step(step, depth, goes_on=goes_on, since=since)
            spans += some
            if some[0].end is not None and not some[0].is_running:
                since = some[0].end if since is None else max(since, some[0].end)
        return spans

    def _step(self, step: StepLog, depth: int, *, goes_on: bool, since: datetime | None) -> list[Span]:
        goes_on = goes_on and step.status.upper() not in TERMINAL
        below: list[Span] = []
        for branch in step.branches.values():
            label = branch.internal_name.removeprefix(f"{step.internal_name}.")
            below += self._branch(branch, label, depth + 1, goes_on=goes_on, since=since)
        top = Span(
            name=step.internal_name, label=step.name, kind="step", depth=depth, status=step.status, message=step.message
        )
        return self._work(top, step.attempts, below, goes_on=goes_on, since=since)

    def _branch(
        self, branch: BranchLog, label: str, depth: int, *, goes_on: bool, since: datetime | None
    ) -> list[Span]:
        goes_on = goes_on and branch.status.upper() not in TERMINAL
        below = self._steps(branch.steps.values(), depth + 1, goes_on=goes_on, since=since)
        top = Span(name=branch.internal_name, label=label, kind="branch", depth=depth, status=branch.status)
        return [self._reaching(top, [], below, goes_on=goes_on, since=since), *below]

    def _work(
        self, top: Span, attempts: list[StepAttempt], below: list[Span], *, goes_on: bool, since: datetime | None
    ) -> list[Span]:
        """The span of a step or job with its attempts, and what is in it."""
        tries = [self._attempt(top, attempt, goes_on=goes_on) for attempt in attempts]
        message = next((one.message for one in reversed(tries) if one.message), "") if top.status != "SUCCESS" else ""
        last = tries[-1].attempt if tries else 0
        top = replace(top, attempt=last, attempts=len(tries), message=message or top.message)
        whole = self._reaching(top, tries, below, goes_on=goes_on, since=since)
        return [whole, *(tries if len(tries) > 1 else []), *below]

    def _attempt(self, step: Span, attempt: StepAttempt, *, goes_on: bool) -> Span:
        """An attempt that has not ended is running where its step may still be."""
        start, end = self._moment(attempt.start_time), self._moment(attempt.end_time)
        is_running = goes_on and start is not None and not attempt.end_time and attempt.status.upper() not in TERMINAL
        times = self._checked(start, self.now if is_running else end)
        return Span(
            name=step.name,
            label=f"attempt {attempt.attempt_number}",
            kind="attempt",
            depth=step.depth + 1,
            status=attempt.status,
            attempt=attempt.attempt_number,
            attempts=1,
            is_running=is_running,
            message=attempt.message,
            **times._asdict(),
        )

    def _reaching(
        self, top: Span, own: list[Span], below: list[Span], *, goes_on: bool, since: datetime | None
    ) -> Span:
        """The span over its own attempts and all that is below."""
        inner = [*own, *(span for span in below if span.depth == top.depth + 1)]
        is_running = goes_on and (top.status.upper() == Status.PROCESSING or any(span.is_running for span in inner))
        first = min((span for span in inner if span.start is not None), key=_start, default=None)
        start = first.start if first is not None else since if is_running else None
        is_assumed = is_running and start is not None and (first is None or first.is_start_assumed)
        times = self._checked(start, self.now if is_running else _last_end(own, inner))
        is_skewed = times.is_skewed or (bool(inner) and all(span.is_skewed for span in inner))
        return replace(
            top,
            start=times.start,
            end=times.end,
            is_running=is_running,
            is_start_assumed=is_assumed,
            is_skewed=is_skewed,
        )

    @staticmethod
    def _checked(start: datetime | None, end: datetime | None) -> _Times:
        if start is None or end is None:
            return _Times(start, end)
        return _Times(start, start, is_skewed=True) if end < start else _Times(start, end)

    def _moment(self, text: str) -> datetime | None:
        """The time that a client wrote, in UTC; None for what is none."""
        try:
            moment = datetime.fromisoformat(text)
            if moment.utcoffset() is not None:
                return moment.astimezone(UTC)
            there = moment.astimezone(UTC) if self.zone is None else moment.replace(tzinfo=self.zone).astimezone(UTC)
        except (ValueError, TypeError, OverflowError, OSError):  # no ISO time; or a year that the zone cannot tell
            return None
        self.first_without_zone = min(there, self.first_without_zone or there)
        self.last_without_zone = max(there, self.last_without_zone or there)
        return there


def _start(span: Span) -> datetime:
    assert span.start is not None
    return span.start


def _last_end(own: list[Span], inner: list[Span]) -> datetime | None:
    """When the last of it ended; unknown where the last attempt did not say."""
    if own and own[-1].end is None:
        return None
    return max((span.end for span in inner if span.end is not None), default=None)


def _notes(run_log: RunLog, spans: list[Span], maker: _Maker) -> Iterable[str]:
    untimed = sum(span.kind == "step" and span.start is None and span.status.upper() in TERMINAL for span in spans)
    if untimed:
        yield f"{_many(untimed, 'step')} recorded no time"
    skewed = sum(span.is_skewed and span.kind != "attempt" for span in spans)
    if skewed:
        yield f"{_many(skewed, 'span')} ended before the start, or started in the future: clocks differ, or one was set"
    assumed = sum(span.is_start_assumed and span.kind == "step" for span in spans)
    if assumed:
        yield f"{_many(assumed, 'running step')} recorded no start yet: the end of what came before is taken for it"
    yield from _zone_note(run_log, maker)


def _zone_note(run_log: RunLog, maker: _Maker) -> Iterable[str]:
    """Whether times without a zone cannot have been written in the one that they are read in."""
    first, last = maker.first_without_zone, maker.last_without_zone
    if first is None or last is None:
        return
    early = timedelta() if run_log.created_at is None else run_log.created_at - first
    late = last - maker.now
    off = max(early, late)
    if _SUSPICIOUS <= off <= _ZONES_APART:
        zone = maker.zone or "this host's zone"
        cannot = "before the run was created" if early >= late else "in the future"
        yield (
            f"the times have no zone and were read as {zone}, by which some are {_hours(off)} {cannot}: "
            "give the zone of the hosts that ran it"
        )


def _many(number: int, thing: str) -> str:
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def _hours(time: timedelta) -> str:
    minutes = round(time.total_seconds() / 60)
    return f"{minutes // 60}:{minutes % 60:02} h"
