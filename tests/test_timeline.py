"""When the parts of a run log went on: in the attempts' own times, until now where they still run, and without a guess unsaid."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkstore import BranchLog, InvalidInputError, JobLog, RunLog, StepAttempt, StepLog
from chunkstore.comparison import compare
from chunkstore.timeline import Span, Timeline, select, timeline_of
from places import between

DAY = datetime(2026, 1, 1, 12, tzinfo=UTC)
NOW = DAY + timedelta(seconds=100)


def at(seconds: float) -> str:
    """A time as clients write it, without a zone."""
    return str((DAY + timedelta(seconds=seconds)).replace(tzinfo=None))


def attempt(start: float | str | None, end: float | str | None = None, **fields: Any) -> StepAttempt:
    times = ["" if time is None else time if isinstance(time, str) else at(time) for time in (start, end)]
    return StepAttempt(start_time=times[0], end_time=times[1], **fields)


def step(internal_name: str, *attempts: StepAttempt, **fields: Any) -> StepLog:
    name = internal_name.rpartition(".")[2]
    return StepLog(name=name, internal_name=internal_name, attempts=list(attempts), **{"status": "SUCCESS", **fields})


def branch(internal_name: str, *steps: StepLog, status: str = "SUCCESS") -> BranchLog:
    return BranchLog(internal_name=internal_name, status=status, steps={each.internal_name: each for each in steps})


def run(*steps: StepLog, **fields: Any) -> RunLog:
    given_: dict[str, Any] = {"run_id": "r", "status": "SUCCESS", "steps": {each.internal_name: each for each in steps}}
    return RunLog(**given_ | fields)


def line(run_log: RunLog, **settings: Any) -> Timeline:
    return timeline_of(run_log, **{"now": NOW, "zone": UTC, **settings})


def seconds(moment: datetime | None) -> float | None:
    return None if moment is None else (moment - DAY).total_seconds()


def told(timeline: Timeline) -> list[tuple[Any, ...]]:
    return [(span.depth, span.kind, span.label, seconds(span.start), seconds(span.end)) for span in timeline.spans]


def span_of(timeline: Timeline, name: str) -> Span:
    return next(span for span in timeline.spans if span.name == name)


def test_each_thing_has_its_span_and_what_holds_others_reaches_over_them() -> None:
    inner = [
        branch("m.a.b", step("m.a.b.fit", attempt(2, 9)), step("m.a.b.test", attempt(9, 10))),
        branch("m.c", step("m.c.fit", attempt(1, 3))),
    ]
    composite = step("m", branches={each.internal_name: each for each in inner})
    timeline = line(run(step("give", attempt(0, 1)), composite))
    assert told(timeline) == [
        (0, "run", "r", 0, 10),
        (1, "step", "give", 0, 1),
        (1, "step", "m", 1, 10),
        (2, "branch", "a.b", 2, 10),
        (3, "step", "fit", 2, 9),
        (3, "step", "test", 9, 10),
        (2, "branch", "c", 1, 3),
        (3, "step", "fit", 1, 3),
    ]
    assert [span.name for span in timeline.spans][:5] == ["", "give", "m", "m.a.b", "m.a.b.fit"]
    assert (seconds(timeline.start), seconds(timeline.end), timeline.notes) == (0, 10, ())
    assert timeline.spans[2].duration == timedelta(seconds=9)


def test_several_attempts_have_a_span_each_in_that_of_their_step() -> None:
    tries = [attempt(0, 2, status="FAIL", message="no room"), attempt(5, 9, status="SUCCESS", attempt_number=2)]
    timeline = line(run(step("fit", *tries)))
    assert told(timeline)[1:] == [
        (1, "step", "fit", 0, 9),
        (2, "attempt", "attempt 1", 0, 2),
        (2, "attempt", "attempt 2", 5, 9),
    ]
    assert [(span.status, span.attempt, span.attempts, span.message) for span in timeline.spans[1:]] == [
        ("SUCCESS", 2, 2, ""),
        ("FAIL", 1, 1, "no room"),
        ("SUCCESS", 2, 1, ""),
    ]


def test_a_step_that_failed_says_why() -> None:
    failed = step("fit", attempt(0, 2, message="no room"), attempt(3, 4), status="FAIL", message="failed")
    assert span_of(line(run(failed)), "fit").message == "no room"
    assert span_of(line(run(step("fit", status="FAIL", message="failed"))), "fit").message == "failed"


def test_a_job_is_a_span_of_its_run() -> None:
    timeline = line(run(job=JobLog(status="SUCCESS", attempts=[attempt(0, 2), attempt(4, 5, attempt_number=2)])))
    assert told(timeline) == [
        (0, "run", "r", 0, 5),
        (1, "job", "job", 0, 5),
        (2, "attempt", "attempt 1", 0, 2),
        (2, "attempt", "attempt 2", 4, 5),
    ]


def test_what_is_running_lasts_until_now() -> None:
    running = step("fit", attempt(40), status="PROCESSING")
    timeline = line(run(step("give", attempt(0, 1)), running, status="PROCESSING"))
    assert told(timeline) == [
        (0, "run", "r", 0, 100),
        (1, "step", "give", 0, 1),
        (1, "step", "fit", 40, 100),
    ]
    assert [span.is_running for span in timeline.spans] == [True, False, True]
    assert not any(span.is_start_assumed for span in timeline.spans)


def test_an_attempt_that_runs_makes_its_step_and_all_around_it_running() -> None:
    inner = step("m.a.fit", attempt(10, 20, status="FAIL"), attempt(30, attempt_number=2), status="CREATED")
    composite = step("m", branches={"m.a": branch("m.a", inner, status="CREATED")}, status="TRIGGERED")
    timeline = line(run(composite, status="CREATED"))
    assert [(span.label, span.is_running) for span in timeline.spans] == [
        ("r", True),
        ("m", True),
        ("a", True),
        ("fit", True),
        ("attempt 1", False),
        ("attempt 2", True),
    ]
    assert seconds(timeline.spans[3].end) == 100


def test_nothing_runs_in_what_has_ended() -> None:
    inner = step("m.a.fit", attempt(30), status="PROCESSING")
    composite = step("m", branches={"m.a": branch("m.a", inner, status="PROCESSING")}, status="FAIL")
    for run_log in (run(composite, status="PROCESSING"), run(inner, status="FAIL")):
        fit = span_of(line(run_log), "m.a.fit")
        assert (seconds(fit.start), fit.end, fit.duration, fit.is_running) == (30, None, None, False)


def test_a_step_whose_last_attempt_never_ended_has_no_end_whatever_the_first_one_said() -> None:
    fit = span_of(
        line(run(step("fit", attempt(0, 2), attempt(5, attempt_number=2), status="FAIL"), status="FAIL")), "fit"
    )
    assert (seconds(fit.start), fit.end, fit.duration) == (0, None, None)


def test_what_was_created_and_not_begun_is_not_running() -> None:
    timeline = line(run(step("fit", status="CREATED"), step("test", status="TRIGGERED"), status="CREATED"))
    assert [(span.start, span.is_running) for span in timeline.spans] == [(None, False)] * 3
    assert (timeline.start, timeline.end, timeline.notes) == (None, None, ())


def test_a_running_step_without_a_start_began_after_what_came_before_it() -> None:
    branches = {
        "m.a": branch("m.a", step("m.a.fit", status="PROCESSING"), status="PROCESSING"),
        "m.b": branch(
            "m.b", step("m.b.fit", attempt(5, 9)), step("m.b.test", status="PROCESSING"), status="PROCESSING"
        ),
    }
    composite = step("m", branches=branches, status="PROCESSING")
    timeline = line(run(step("give", attempt(0, 3)), composite, status="PROCESSING"))
    assert [(*row, span.is_start_assumed) for row, span in zip(told(timeline), timeline.spans, strict=True)] == [
        (0, "run", "r", 0, 100, False),
        (1, "step", "give", 0, 3, False),
        (1, "step", "m", 3, 100, True),
        (2, "branch", "a", 3, 100, True),
        (3, "step", "fit", 3, 100, True),
        (2, "branch", "b", 5, 100, False),
        (3, "step", "fit", 5, 9, False),
        (3, "step", "test", 9, 100, True),
    ]
    assert "3 running steps recorded no start yet" in timeline.notes[0]


def test_the_first_running_step_began_after_its_run_was_created() -> None:
    timeline = line(run(step("give", status="PROCESSING"), status="PROCESSING", created_at=DAY + timedelta(seconds=90)))
    assert told(timeline) == [(0, "run", "r", 90, 100), (1, "step", "give", 90, 100)]
    assert all(span.is_start_assumed for span in timeline.spans)


@pytest.mark.parametrize("time", ["", "yesterday", "1700000000.5", "0001-01-01 00:00:00", "9999-12-31 23:59:59"])
def test_a_time_that_is_none_is_left_out(time: str) -> None:
    timeline = line(
        run(step("fit", attempt(time, time))), zone=timezone(timedelta(hours=-14 if "9999" in time else 14))
    )
    assert told(timeline) == [(0, "run", "r", None, None), (1, "step", "fit", None, None)]
    assert timeline.notes == ("1 step recorded no time",)


def test_a_clock_that_was_set_back_makes_a_point_and_no_negative_time() -> None:
    timeline = line(run(step("fit", attempt(50, 20)), step("test", attempt(60, 61))))
    fit = span_of(timeline, "fit")
    assert (seconds(fit.start), seconds(fit.end), fit.is_skewed, fit.duration) == (50, 50, True, None)
    assert timeline.spans[0].duration == timedelta(seconds=11)
    assert timeline.notes == ("1 span ended before the start, or started in the future: clocks differ, or one was set",)


def test_what_starts_in_the_future_is_a_point_too() -> None:
    timeline = line(run(step("fit", attempt(101), status="PROCESSING"), status="PROCESSING"))
    fit = span_of(timeline, "fit")
    assert (seconds(fit.start), seconds(fit.end), fit.is_running, fit.is_skewed) == (101, 101, True, True)


def test_times_with_and_without_a_zone_stand_together() -> None:
    east = timezone(timedelta(hours=2))
    steps = [
        step("here", attempt("2026-01-01 14:00:00", "2026-01-01 14:00:05")),
        step("there", attempt(f"{at(5)}Z", f"{at(6)}+00:00")),
    ]
    assert told(line(run(*steps), zone=east))[1:] == [(1, "step", "here", 0, 5), (1, "step", "there", 5, 6)]


def test_the_zone_of_this_host_is_taken_where_none_is_given(monkeypatch: pytest.MonkeyPatch) -> None:
    import time

    monkeypatch.setenv("TZ", "Etc/GMT-3")  # which is three hours east
    time.tzset()
    try:
        assert told(line(run(step("fit", attempt("2026-01-01 15:00:00", "2026-01-01 15:00:01"))), zone=None))[1][
            3:
        ] == (0, 1)
    finally:
        monkeypatch.undo()
        time.tzset()


@pytest.mark.parametrize(("hours", "cannot"), [(2, "2:00 h before the run was created"), (-5, "4:58 h in the future")])
def test_a_zone_in_which_the_times_cannot_have_been_written_is_noted(hours: int, cannot: str) -> None:
    there = timezone(timedelta(hours=hours))
    fit = step("fit", attempt(0), status="PROCESSING")
    timeline = line(run(fit, status="PROCESSING", created_at=DAY), zone=there)
    assert any(cannot in note and "give the zone" in note for note in timeline.notes)
    assert line(run(fit, status="PROCESSING", created_at=DAY)).notes == ()


def test_now_needs_a_zone() -> None:
    with pytest.raises(InvalidInputError, match="time zone"):
        timeline_of(run(), now=datetime(2026, 1, 1))  # noqa: DTZ001


def nested(count: int) -> Timeline:
    """A run with so many branches of two steps; the one before the last failed, the last is running."""
    branches = {}
    for number in range(count):
        status = {count - 1: "PROCESSING", count - 2: "FAIL"}.get(number, "SUCCESS")
        name = f"m.{number}"
        inside = [step(f"{name}.a", attempt(0, 1)), step(f"{name}.b", attempt(1, 2 + number % 7), status=status)]
        branches[name] = branch(name, *inside, status=status)
    return line(
        run(step("give", attempt(0, 1)), step("m", branches=branches, status="PROCESSING"), status="PROCESSING")
    )


def test_a_selection_keeps_what_failed_and_runs_with_all_that_it_stands_in() -> None:
    timeline = nested(1_000)
    selection = select(timeline.spans, 20)
    assert (len(selection.spans), selection.left_out) == (20, len(timeline.spans) - 20)
    kept = [span.name for span in selection.spans]
    assert {"", "give", "m", "m.998", "m.998.b", "m.999", "m.999.b"} <= set(kept)
    assert kept == [span.name for span in timeline.spans if span.name in kept]
    others = [span for span in selection.spans if span.kind == "branch" and span.status == "SUCCESS"]
    assert len(others) == 13
    assert {span.duration for span in others} == {timedelta(seconds=8)}


def test_a_selection_of_enough_is_all() -> None:
    timeline = nested(3)
    assert select(timeline.spans, 0) == select(timeline.spans, len(timeline.spans)) == select(timeline.spans, 10**6)
    assert select(timeline.spans, 0).left_out == 0
    with pytest.raises(InvalidInputError, match="limit"):
        select(timeline.spans, -1)


def test_maps_in_maps_a_hundred_deep_have_their_timeline_and_are_compared() -> None:
    inner = step("m" + ".b.m" * 100, attempt(0, 1))
    for depth in reversed(range(100)):
        name = "m" + ".b.m" * depth
        inner = step(name, branches={f"{name}.b": branch(f"{name}.b", inner)})
    timeline = line(run(inner))
    assert (len(timeline.spans), timeline.spans[-1].depth) == (202, 201)
    assert {span.duration for span in timeline.spans} == {timedelta(seconds=1)}
    assert compare(run(inner), run(inner, status="FAIL")).differences[0].kind == "status"


@st.composite
def run_logs(draw: st.DrawFn) -> RunLog:
    times = st.one_of(st.none(), st.integers(-50, 150), st.sampled_from(["never", "2026-01-01T12:00:07+01:00"]))
    statuses = st.sampled_from(["CREATED", "PROCESSING", "SUCCESS", "FAIL", "PAUSED"])
    attempts = st.lists(st.builds(attempt, times, times, status=statuses, attempt_number=st.integers(1, 3)), max_size=3)

    def steps(above: str, depth: int) -> dict[str, StepLog]:
        made = {}
        for number in range(draw(st.integers(0, 3))):
            name = f"{above}s{number}"
            made[name] = step(name, *draw(attempts), status=draw(statuses))
            for inner in range(draw(st.integers(0, 2)) if depth else 0):
                inside = f"{name}.b{inner}"
                made[name].branches[inside] = BranchLog(
                    internal_name=inside, status=draw(statuses), steps=steps(f"{inside}.", depth - 1)
                )
        return made

    created = draw(st.none() | st.just(DAY))
    return RunLog(run_id="r", status=draw(statuses), steps=steps("", 2), created_at=created)


@settings(max_examples=between(40, 400))
@given(run_logs(), st.integers(0, 12))
def test_whatever_was_recorded_no_span_ends_before_it_starts_nor_leaves_the_one_that_it_stands_in(
    run_log: RunLog, limit: int
) -> None:
    timeline = line(run_log)
    path: list[Span] = []
    for span in timeline.spans:
        assert span.depth <= len(path)
        del path[span.depth :]
        assert span.end is None or (span.start is not None and span.start <= span.end) or span.start is None
        if path and span.start is not None:
            assert path[-1].start is not None
            assert path[-1].start <= span.start
        if path and span.is_running:
            assert path[-1].is_running
        assert not span.is_start_assumed or span.is_running
        path.append(span)
    selection = select(timeline.spans, limit)
    assert len(selection.spans) + selection.left_out == len(timeline.spans)
    depths = [span.depth for span in selection.spans]
    assert all(later <= earlier + 1 for earlier, later in itertools.pairwise(depths))
