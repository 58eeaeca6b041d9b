"""`chunkstore timeline`: when the parts of a run went on."""

from __future__ import annotations

from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Annotated, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import typer
from pydantic import Field

from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.findings import ShownFinding, is_damaged, show_findings, shown_findings
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, JsonOption, RunArgument, StoreOption
from chunkstore.cli.output import Output
from chunkstore.errors import InvalidInputError
from chunkstore.naming import resolve
from chunkstore.timeline import Span, SpanKind, Timeline, timeline_of
from chunkstore.timeline_chart import Chart
from chunkstore.timeline_page import page_of


class TimedSpan(Document):
    """One line of the timeline; times are in UTC."""

    internal_name: str
    label: str
    kind: SpanKind
    depth: int
    status: str
    start: datetime | None
    end: datetime | None
    duration_seconds: float | None
    attempt: int
    attempts: int
    running: bool
    start_assumed: bool
    skewed: bool
    message: str


class Times(Document):
    """What `chunkstore timeline --json` prints."""

    schema_id: Literal["chunkstore/timeline/1"] = Field(default="chunkstore/timeline/1", serialization_alias="schema")
    store: str
    run_id: str
    now: datetime
    spans: list[TimedSpan]
    notes: list[str]
    findings: list[ShownFinding]


def timeline(
    run: RunArgument,
    store: StoreOption = "",
    config: ConfigOption = None,
    output_file: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", show_default=False, help="Write one self-contained HTML page."),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", min=0, help="Show at most so many lines; 0 shows all.")] = 200,
    zone: Annotated[
        str,
        typer.Option(
            "--zone",
            metavar="NAME",
            show_default=False,
            help="The time zone of the hosts that ran the steps, for times that were written without one, such as UTC or "
            "Europe/Berlin; this host's if not given.",
        ),
    ] = "",
    json: JsonOption = False,
) -> None:
    """Show when each step, branch and attempt went on: a chart, or a page with -o.

    The exit code is 1 where chunks of the run are damaged: there may be more than is shown.
    """
    output = Output(json=json)
    of_naive = _zone(zone) if zone else None
    with open_store_of(store, config) as opened:
        reading = opened.read_run_log(resolve(opened, run))
        place = opened.backend.place
    made = timeline_of(reading.run_log, now=datetime.now(UTC), zone=of_naive)
    if output_file is not None:
        _write(output_file, page_of(made))
        output.note(f"{len(made.spans):,} lines are in {output_file}")
    if json:
        output.document(_document(place, made, shown_findings(reading)))
    else:
        show_findings(output, reading)
        for note in made.notes:
            output.note(f"note: {note}")
        if output_file is None:
            output.show(Chart(made, limit))
    if is_damaged(reading):
        raise Exit(Code.FOUND)


def _zone(name: str) -> tzinfo:
    if name.upper() == "UTC":
        return UTC  # also where the host has no list of zones
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise InvalidInputError(
            f"there is no time zone {name!r} on this host; give a name such as UTC or Europe/Berlin", name=name
        ) from error


def _write(file: Path, page: str) -> None:
    try:
        file.write_text(page, encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(f"{file} cannot be written: {error.strerror}", name=str(file)) from error


def _document(place: str, made: Timeline, findings: list[ShownFinding]) -> Times:
    return Times(
        store=place,
        run_id=made.run_id,
        now=made.now,
        spans=[_span(span) for span in made.spans],
        notes=list(made.notes),
        findings=findings,
    )


def _span(span: Span) -> TimedSpan:
    return TimedSpan(
        internal_name=span.name,
        label=span.label,
        kind=span.kind,
        depth=span.depth,
        status=span.status,
        start=span.start,
        end=span.end,
        duration_seconds=None if span.duration is None else span.duration.total_seconds(),
        attempt=span.attempt,
        attempts=span.attempts,
        running=span.is_running,
        start_assumed=span.is_start_assumed,
        skewed=span.is_skewed,
        message=span.message,
    )
