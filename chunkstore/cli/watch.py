"""`chunkstore watch`: a run as it goes on, until its end."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import UTC, datetime
from typing import Annotated, Any, Final, Literal

import typer
from pydantic import BaseModel, Field
from rich.console import Console, ConsoleOptions, RenderResult
from rich.text import Text

from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, JsonOption, RunArgument, StoreOption
from chunkstore.cli.output import Output, printable, shown_duration
from chunkstore.following import RunChange
from chunkstore.live import LiveRun
from chunkstore.models import JobLog, RunLog, Status, StepLog
from chunkstore.naming import awaited, resolve
from chunkstore.outcomes import steps_of
from chunkstore.store import ChunkedRunLogStore
from chunkstore.timeline import timeline_of
from chunkstore.timeline_chart import Chart

_TOLD_APART: Final = {"run": {"steps", "parameters", "job"}, "step": {"branches"}, "branch": {"steps", "parameters"}}
"""What is not within a value, since it has changes of its own."""
_OTHER_LINES: Final = 6  # of the view, beside the chart's
_LONGEST_VALUE: Final = 80  # characters


class Change(Document):
    """What `chunkstore watch --json` prints: one such document in each line."""

    schema_id: Literal["chunkstore/watch/1"] = Field(default="chunkstore/watch/1", serialization_alias="schema")
    run_id: str
    sort: Literal["new", "changed", "removed", "damaged"]
    kind: str
    name: str
    scope: str
    status: str
    value: Any
    message: str


def watch(
    run: RunArgument,
    store: StoreOption = "",
    config: ConfigOption = None,
    wait: Annotated[bool, typer.Option("--wait", help="Wait for a run of that very id, if there is none yet.")] = False,
    timeout: Annotated[
        float | None,
        typer.Option("--timeout", metavar="SECONDS", show_default=False, help="Give up after so long: exit code 124."),
    ] = None,
    every: Annotated[
        float, typer.Option("--every", metavar="SECONDS", help="Pause between two looks; each costs one listing.")
    ] = 1.0,
    json: JsonOption = False,
) -> None:
    """Watch a run until it ends. Exit code 0 when it succeeded, 1 when it failed.

    Damage is shown, and does not change how the run ended.
    """
    output = Output(json=json)
    with open_store_of(store, config, new=wait) as opened:
        run_id = awaited(run) if wait else resolve(opened, run)
        changes = opened.follow(run_id, poll_seconds=every, wait=wait, timeout=timeout)
        try:
            status = _followed(output, opened, run_id, changes)
        except TimeoutError as error:
            output.note(f"error: {error}")
            raise Exit(Code.TIMED_OUT) from error
    output.note(f"run {run_id!r} ended: {status}")
    raise Exit(Code.OK if status == Status.SUCCESS else Code.FOUND)


def _followed(output: Output, store: ChunkedRunLogStore, run_id: str, changes: Iterator[RunChange]) -> str:
    """The status at the end."""
    is_live = output.is_terminal and not output.json
    view = _View(run_id, store.backend.place)
    status = ""
    with output.live(view) if is_live else nullcontext():
        for change in changes:
            if isinstance(change.value, RunLog):
                status = change.value.status.upper()
            if output.json:
                output.document_line(_document(run_id, change))
            elif is_live:
                view.take(change)
            else:
                output.line(_line(change))
    return status


class _View:
    """What a terminal shows; drawn by another thread than the one that takes the changes."""

    def __init__(self, run_id: str, place: str) -> None:
        self._title = f"{run_id} in {place}"
        self._lock = threading.Lock()
        self._live = LiveRun(run_id)
        self._run_log: RunLog | None = None
        self._is_there = False
        self._damaged: dict[tuple[str, str, str], str] = {}

    def take(self, change: RunChange) -> None:
        """Takes note of a change."""
        with self._lock:
            self._is_there = True
            self._live.take(change)
            self._run_log = None
            about = (change.kind, change.name, change.scope)
            self._damaged.pop(about, None)
            if change.sort == "damaged":
                self._damaged[about] = change.message

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        with self._lock:
            self._run_log = self._run_log or self._live.run_log()
            run_log, damaged, is_there = self._run_log, list(self._damaged.values()), self._is_there
        if not is_there:
            yield Text(f"{printable(self._title)}: not there yet", "dim")
            return
        steps = list(steps_of(run_log))
        yield Text(printable(self._title), "bold", no_wrap=True, overflow="ellipsis")
        yield Text(_counted(steps), no_wrap=True, overflow="ellipsis")
        for message in damaged[:2]:
            yield Text(printable(message), "red", no_wrap=True, overflow="ellipsis")
        room = max(3, options.size.height - _OTHER_LINES - len(damaged[:2]))
        yield Chart(timeline_of(run_log, now=datetime.now(UTC)), room)


def _counted(steps: list[StepLog]) -> str:
    """How many steps stand where: `12 steps: 9 SUCCESS, 2 PROCESSING, 1 FAIL`."""
    counts: dict[str, int] = {}
    for step in steps:
        counts[step.status] = counts.get(step.status, 0) + 1
    told = ", ".join(f"{count:,} {printable(status)}" for status, count in counts.items())
    return f"{len(steps):,} {'step' if len(steps) == 1 else 'steps'}" + (f": {told}" if told else "")


def _line(change: RunChange) -> str:
    """A change for people who read a log."""
    name = f"{change.scope} {change.name}".strip()
    parts = [datetime.now().astimezone().strftime("%H:%M:%S"), f"{change.sort:8}", f"{change.kind:9}", name]
    parts += [_status(change), _duration(change), _told(change)]
    return " ".join(part for part in parts if part)


def _status(change: RunChange) -> str:
    return str(getattr(change.value, "status", ""))


def _duration(change: RunChange) -> str:
    last = change.value.attempts[-1] if isinstance(change.value, StepLog | JobLog) and change.value.attempts else None
    return "" if last is None else shown_duration(last.elapsed)


def _told(change: RunChange) -> str:
    """The value of a parameter, and the first line of what went wrong."""
    if change.sort == "damaged":
        return change.message
    if change.kind == "parameter" and change.sort != "removed":
        value = repr(getattr(change.value, "value", change.value))
        return f"= {value if len(value) <= _LONGEST_VALUE else value[: _LONGEST_VALUE - 1] + '…'}"
    if isinstance(change.value, StepLog | JobLog) and change.value.status == Status.FAIL:
        messages = [change.value.message, *(attempt.message for attempt in change.value.attempts)]
        return next((message.strip().splitlines()[0] for message in reversed(messages) if message.strip()), "")
    return ""


def _document(run_id: str, change: RunChange) -> Change:
    value = change.value
    if isinstance(value, BaseModel):
        value = value.model_dump(mode="json", exclude=_TOLD_APART.get(change.kind))
    return Change(
        run_id=run_id,
        sort=change.sort,
        kind=change.kind,
        name=change.name,
        scope=change.scope,
        status=_status(change),
        value=value,
        message=change.message,
    )
