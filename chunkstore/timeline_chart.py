"""A timeline drawn for the terminal, as wide as that is. Needs `rich`, the extra `show`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from rich.cells import cell_len, set_cell_size
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from chunkstore.models import Status
from chunkstore.show import printable, status_text
from chunkstore.timeline import Span, Timeline, select

_NARROWEST_BAR: Final = 10  # columns
_USUAL_BAR: Final = 60  # columns, where no terminal says how wide it is
_INDENT: Final = "  "
_LONGEST_STATUS: Final = 12  # of a newer client


@dataclass(frozen=True, slots=True)
class _Marks:
    """What a bar is drawn with; told apart without colours, too."""

    done: str
    failed: str
    running: str
    assumed: str
    other: str
    point: str


_MARKS: Final = _Marks("━", "╳", "╍", "┄", "─", "◆")  # noqa: RUF001  no letter
_ASCII: Final = _Marks("=", "x", "~", ".", "-", "*")


@dataclass(frozen=True, slots=True)
class Chart:
    """Prints as one line for each span: name, status, duration, and a bar in the time of the whole run.

    Of more than `limit` spans (0: no limit) those that `timeline.select` prefers, and a line says how many are not shown. Names are cut where
    the terminal is too narrow for them, never elsewhere.
    """

    timeline: Timeline
    limit: int = 0

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        marks = _MARKS if options.encoding.startswith("utf") else _ASCII
        selection = select(self.timeline.spans, self.limit)
        width = options.max_width if options.is_terminal else 0
        yield from _lines(self.timeline, selection.spans, width, marks)
        if selection.left_out:
            yield Text(
                f"{selection.left_out:,} of {len(self.timeline.spans):,} lines are not shown: those kept failed, are running, or "
                "are the outermost and longest. Limit 0 shows all",
                "dim",
            )


def _lines(timeline: Timeline, spans: Sequence[Span], width: int, marks: _Marks) -> Iterator[Text]:
    """As wide as told; with 0 as wide as need be."""
    names = [f"{_INDENT * span.depth}{printable(span.label)}" for span in spans]
    facts = [_facts(span) for span in spans]
    facts_width = max(fact.cell_len for fact in facts)
    names_width = max(map(cell_len, names))
    if width:
        names_width = min(names_width, width * 2 // 5, max(6, width - facts_width - _NARROWEST_BAR - 4))
    bars_width = max(_NARROWEST_BAR, width - names_width - facts_width - 4) if width else _USUAL_BAR
    scale = _Scale(timeline.start, timeline.end, bars_width)
    yield _row(Text(" " * names_width), Text(" " * facts_width), Text(scale.head(), "dim"))
    for span, name, fact in zip(spans, names, facts, strict=True):
        fact.pad_right(facts_width - fact.cell_len)
        yield _row(Text(_fitted(name, names_width), _style_of_name(span)), fact, scale.bar(span, marks))


def _row(*parts: Text) -> Text:
    line = Text("  ", no_wrap=True, overflow="crop", end="").join(parts)
    line.rstrip()
    line.end = "\n"
    return line


def _fitted(name: str, width: int) -> str:
    """The name, so many columns wide; what is too long is cut in the middle: ends of names differ."""
    if cell_len(name) <= width:
        return set_cell_size(name, width)
    kept = width - 1
    head = set_cell_size(name, kept // 2)
    tail = name[-(kept - kept // 2) :]
    while cell_len(tail) > kept - kept // 2:
        tail = tail[1:]
    return set_cell_size(f"{head}…{tail}", width)


def _style_of_name(span: Span) -> str:
    return {"branch": "italic", "attempt": "dim"}.get(span.kind, "bold" if span.kind == "run" else "")


def _facts(span: Span) -> Text:
    """Status and duration."""
    status = status_text(span.status)
    status.truncate(_LONGEST_STATUS, overflow="ellipsis")
    status.pad_right(max(0, 10 - status.cell_len))
    about = "≤" if span.is_start_assumed else ""
    duration = "?" if span.duration is None else f"{about}{shown(span.duration)}"
    return Text.assemble(status, " ", (f"{duration:>8}", "dim"))


def shown(duration: timedelta) -> str:
    """A duration in a few columns: `12 ms`, `1.25 s`, `3:20 min`, `2:05 h`, `3 d 4 h`."""
    seconds = duration.total_seconds()
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.2f} s" if seconds < 10 else f"{seconds:.1f} s"
    minutes = int(seconds / 60)
    if minutes < 60:
        return f"{minutes}:{int(seconds % 60):02} min"
    hours = minutes // 60
    return f"{hours}:{minutes % 60:02} h" if hours < 48 else f"{hours // 24} d {hours % 24} h"


class _Scale:
    """Where a time is in the bar's columns."""

    def __init__(self, start: datetime | None, end: datetime | None, width: int) -> None:
        self._start = start
        self._length = (end - start).total_seconds() if start is not None and end is not None else 0.0
        self._width = width

    def head(self) -> str:
        """The axis: its beginning and its end."""
        if self._start is None:
            return ""
        start = self._start.astimezone()
        length = f"+{shown(timedelta(seconds=self._length))}"
        room = self._width - len(length) - 1
        times = (start.strftime(form) for form in ("%Y-%m-%d %H:%M:%S", "%H:%M:%S", ""))
        return f"{next(time for time in times if len(time) <= max(room, 0)):{max(room, 0)}} {length}"

    def bar(self, span: Span, marks: _Marks) -> Text:
        """The bar of a span, at least one column."""
        if span.start is None:
            return Text("")
        first = min(self._width - 1, int(self._column(span.start)))
        mark, style = _drawn(span, marks)
        if span.end is None or span.is_skewed:
            return Text.assemble(" " * first, (marks.point, style))
        columns = max(1, min(self._width, round(self._column(span.end))) - first)
        return Text.assemble(" " * first, (mark * columns, style))

    def _column(self, moment: datetime) -> float:
        assert self._start is not None
        return (moment - self._start).total_seconds() / self._length * self._width if self._length else 0.0


def _drawn(span: Span, marks: _Marks) -> tuple[str, str]:
    """The character and the colour of a bar."""
    if span.is_start_assumed:
        return marks.assumed, "yellow"
    if span.is_running:
        return marks.running, "yellow"
    status = span.status.upper()
    if status == Status.FAIL:
        return marks.failed, "red"
    return (marks.done, "green") if status == Status.SUCCESS else (marks.other, "yellow")
