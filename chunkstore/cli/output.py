"""What a command shows: results on stdout, all else on stderr. Text that comes from a store is shown escaped, always."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from datetime import datetime, timedelta
from typing import Final, Literal, TextIO, TypeAlias

from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, SpinnerColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text
from typing_extensions import override

from chunkstore.cli.documents import Document, written
from chunkstore.cli.exits import Code
from chunkstore.maintenance.progress import Progress, Watcher
from chunkstore.show import printable, status_text

__all__ = ["Cell", "Output", "printable", "shown_bytes", "shown_duration", "shown_time", "shown_value"]

Cell: TypeAlias = str | Text
"""Text as it came, which is escaped, or rich's own, which was made of escaped text."""

_UNITS: Final = ("KiB", "MiB", "GiB", "TiB")
_GAP: Final = 2  # between the columns of a table
_NARROWEST: Final = 8  # a column of a table, before the first one is folded
_WIDEST: Final = 100_000  # columns where no terminal is: nothing is cut or wrapped


class Output:
    """Where one command shows things. Made once in each, with its `--json`."""

    def __init__(self, *, json: bool = False) -> None:
        self.json = json
        self._out = _console(sys.stdout)
        self._err = _console(sys.stderr)

    @property
    def is_terminal(self) -> bool:
        """Whether a person looks at the results."""
        return _is_terminal(sys.stdout)

    @property
    def width(self) -> int:
        """Columns for results; very many where no terminal is."""
        return self._out.width

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[Cell]]) -> None:
        """Rows under their heads. It fits the terminal, where only the first column is never cut but folded; elsewhere nothing is cut."""
        cells = [[_text(cell) for cell in row] for row in rows]
        if not self.is_terminal:
            self._print_plain(columns, cells)
            return
        table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
        lengths = [max(map(cell_len, column)) for column in zip(columns, *_plain(cells), strict=True)]
        for number, (column, width) in enumerate(zip(columns, _fitted(lengths, self.width), strict=True)):
            table.add_column(column, width=width, overflow="ellipsis" if number else "fold", no_wrap=number > 0)
        for row in cells:
            table.add_row(*row)
        self._out.print(table)

    def _print_plain(self, columns: Sequence[str], cells: list[list[Text]]) -> None:
        lines = [list(columns), *_plain(cells)]
        widths = [max(map(cell_len, column)) for column in zip(*lines, strict=True)]
        for line in lines:
            padded = (cell + " " * (width - cell_len(cell)) for cell, width in zip(line, widths, strict=True))
            self.line("  ".join(padded).rstrip())

    def line(self, text: Cell = "") -> None:
        """One line of the result, not wrapped where no terminal is."""
        self._out.print(_text(text), soft_wrap=not self.is_terminal)

    def show(self, renderable: RenderableType) -> None:
        """Anything of rich's, made of escaped text: a tree, a panel."""
        self._out.print(renderable)

    def raw(self, data: bytes) -> None:
        """Bytes as they are. The only thing that is not escaped."""
        sys.stdout.flush()
        buffer = getattr(sys.stdout, "buffer", None)
        if buffer is None:
            sys.stdout.write(data.decode("utf-8", "backslashreplace"))
        else:
            try:
                buffer.write(data)
                buffer.flush()
            except BrokenPipeError:  # with its number typer would take it for its own business, and end with 1
                raise BrokenPipeError from None

    def document(self, document: Document) -> None:
        """The `--json` document."""
        self._out.out(written(document), highlight=False)

    def note(self, text: Cell) -> None:
        """A word to whoever runs the command, on stderr; nothing that a script reads."""
        self._err.print(_text(text), soft_wrap=True)

    def warn(self, text: Cell) -> None:
        """A note about what a person should look at."""
        self.note(Text.assemble(("warning: ", "yellow"), _text(text)))

    @contextmanager
    def progress(self, what: str) -> Iterator[Watcher | None]:
        """What to hand a long chore as `progress`: a bar on stderr while that is a terminal, otherwise None and nothing is shown."""
        if not _is_terminal(sys.stderr):
            yield None
            return
        columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), BarColumn(), MofNCompleteColumn())
        with Bar(*columns, TimeRemainingColumn(), console=self._err, transient=True) as bar:
            task = bar.add_task(printable(what), total=None)

            def watch(progress: Progress) -> None:
                described = f"{what} {progress.what}" if progress.what else what
                bar.update(task, completed=progress.done, total=progress.total, description=printable(described)[:60])

            yield watch

    @staticmethod
    def status(status: str) -> Text:
        """A status in its colour."""
        return status_text(status)


class _Console(Console):
    """rich's, but for the exit code where the reader of a pipe goes away: 1 says that a run failed."""

    @override
    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


def _console(stream: TextIO) -> Console:
    width = None if _is_terminal(stream) else _WIDEST
    colours: Literal["auto"] | None = None if os.environ.get("NO_COLOR") else "auto"  # rich would still write bold
    return _Console(file=stream, width=width, color_system=colours, highlight=False, markup=False, emoji=False)


def _is_terminal(stream: TextIO) -> bool:
    try:
        return stream.isatty()
    except ValueError:  # closed
        return False


def _plain(cells: list[list[Text]]) -> list[list[str]]:
    return [[cell.plain for cell in row] for row in cells]


def _fitted(lengths: Sequence[int], width: int) -> list[int]:
    """The widths of columns, so that they fit: the widest gives way first, and the first keeps half of the terminal."""
    available = width - _GAP * len(lengths)
    widths = [min(length, available) for length in lengths]
    floors = [min(length, _NARROWEST if number else available // 2) for number, length in enumerate(widths)]
    while sum(widths) > available:
        wide = [number for number, each in enumerate(widths) if each > floors[number]]
        if not wide:  # too many columns for this terminal; rich cuts them all
            break
        widths[max(wide, key=widths.__getitem__)] -= 1
    return widths


def _text(cell: Cell) -> Text:
    return cell if isinstance(cell, Text) else Text(printable(cell))


def shown_bytes(count: int) -> str:
    """A size for people: `999 bytes`, `1.5 MiB`."""
    if count < 1024:
        return f"{count} bytes" if count != 1 else "1 byte"
    size = float(count)
    for unit in _UNITS:
        size /= 1024
        if size < 1024 or unit == _UNITS[-1]:
            return f"{size:.1f} {unit}"
    raise AssertionError


def shown_duration(duration: timedelta | None) -> str:
    """A duration for people: `1.250 s`, `3 min 20 s`, `2 h 05 min`, `3 d 04 h`; nothing for None."""
    if duration is None:
        return ""
    seconds = duration.total_seconds()
    if abs(seconds) < 60:
        return f"{seconds:.3f} s"
    minutes, rest = divmod(round(seconds), 60)
    if abs(minutes) < 60:
        return f"{minutes} min {rest:02d} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if abs(hours) < 48 else f"{hours // 24} d {hours % 24:02d} h"


def shown_time(time: datetime | None) -> str:
    """A time for people, in their own time zone, to the second; nothing for None."""
    return "" if time is None else time.astimezone().strftime("%Y-%m-%d %H:%M:%S")


def shown_value(value: object) -> str:
    """A parameter's value for people: the JSON of it, with NaN and the infinities by their names."""
    return json.dumps(value, ensure_ascii=False, default=repr)


def show_error(message: str, code: int) -> None:
    """The error that ends a command, on stderr. Lines stay lines; all else is escaped."""
    style = "yellow" if code == Code.USAGE else "red"
    text = "\n".join(map(printable, message.splitlines() or [""]))
    _console(sys.stderr).print(Text.assemble(("error: ", style), text), soft_wrap=True)
