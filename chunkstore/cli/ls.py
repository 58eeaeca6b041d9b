"""`chunkstore ls`: which runs there are, by filter and order."""

from __future__ import annotations

import json as jsons
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Annotated, Any, Final, Literal, TypeAlias, cast

import typer
from pydantic import Field
from rich.text import Text

from chunkstore.cli.documents import Document
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, JsonOption, StoreOption
from chunkstore.cli.output import Cell, Output, shown_duration, shown_time
from chunkstore.errors import InvalidInputError
from chunkstore.models import RunLog
from chunkstore.moments import moment, span
from chunkstore.naming import nearest, status_of
from chunkstore.outcomes import duration_of, failures_of, steps_of, value_of
from chunkstore.queries import Order, RunFilter, RunPage
from chunkstore.store import ChunkedRunLogStore

_DEFAULT: Final = "run,status,tag,created"
_SHORT: Final = ("newest", "oldest", "status", "tag", "created")
_PARAMETER: Final = "param."
_Field: TypeAlias = Callable[[RunLog], Any]


def _seconds(run: RunLog) -> float | None:
    duration = duration_of(run)
    return None if duration is None else duration.total_seconds()


_OF_HEADER: Final[Mapping[str, _Field]] = {
    "run": lambda run: run.run_id,
    "status": lambda run: run.status,
    "tag": lambda run: run.tag or "",
    "created": lambda run: run.created_at,
    "dag_hash": lambda run: run.dag_hash or "",
    "original": lambda run: run.original_run_id or "",
}
_OF_WHOLE: Final[Mapping[str, _Field]] = {
    "duration": _seconds,
    "steps": lambda run: sum(1 for _ in steps_of(run)),
    "failed": lambda run: ", ".join(failure.name or "job" for failure in failures_of(run)),
}
"""These need all chunks of each run that is shown."""


class ListedRun(Document):
    """One run: what its header says, and of other fields those that were asked for."""

    run_id: str
    status: str
    tag: str
    created_at: datetime | None
    fields: dict[str, Any]
    """What `--fields` and `--sort` asked for beside those above, by name; null where the run has no such thing."""


class Runs(Document):
    """What `chunkstore ls --json` prints: the runs that match, in their order."""

    schema_id: Literal["chunkstore/ls/1"] = Field(default="chunkstore/ls/1", serialization_alias="schema")
    store: str
    runs: list[ListedRun]
    cursor: str
    """What `--cursor` takes to go on behind the last; empty where there are no more."""


def ls(
    store: StoreOption = "",
    config: ConfigOption = None,
    status: Annotated[str, typer.Option(help="Of this status: failed, succeeded, running, or as it is stored.")] = "",
    tag: Annotated[str, typer.Option(help="With this tag.")] = "",
    text: Annotated[str, typer.Option(help="With this text in the id.")] = "",
    param: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=VALUE", help="Whose own parameter has this value, which is JSON or else text. Repeatable."
        ),
    ] = None,
    since: Annotated[
        str, typer.Option(metavar="TIME", help="Created at or after: 2026-11-20, 2026-11-20T18:30, or 7d ago.")
    ] = "",
    until: Annotated[str, typer.Option(metavar="TIME", help="Created before.")] = "",
    last: Annotated[str, typer.Option(metavar="SPAN", help="Created within: 7d, 12h, 1h30m.")] = "",
    fields: Annotated[
        str,
        typer.Option(
            metavar="NAMES",
            help="Columns, with commas: run, status, tag, created, dag_hash, original; and duration, steps, failed, param.NAME, "
            "which read the whole run.",
        ),
    ] = _DEFAULT,
    sort: Annotated[
        str, typer.Option(metavar="ORDER", help="newest, oldest, or a field; with - before it the largest first.")
    ] = "newest",
    limit: Annotated[int, typer.Option(min=1, help="How many runs at the most.")] = 50,
    cursor: Annotated[str, typer.Option(help="Go on behind the page that ended with this cursor.")] = "",
    json: JsonOption = False,
) -> None:
    """List runs, the newest first."""
    output = Output(json=json)
    columns = _fields(fields)
    wanted = RunFilter(
        status=status_of(status),
        tag=tag,
        text=text,
        parameters=_parameters(param or []),
        since=_since(since, last),
        until=moment(until) if until else None,
    )
    with open_store_of(store, config) as opened:
        page = _page(opened, wanted, sort, limit, cursor, columns)
        place = opened.backend.place
    if json:
        extra = [name for name in [*columns, sort.removeprefix("-")] if name not in ("run", *_SHORT)]
        output.document(Runs(store=place, runs=[_listed(run, extra) for run in page.runs], cursor=page.cursor))
        return
    _show(output, page, columns, place, is_all=wanted == RunFilter() and not cursor)


def _show(output: Output, page: RunPage, columns: Sequence[str], place: str, *, is_all: bool) -> None:
    if page.runs:
        output.table(columns, ([_cell(output, name, run) for name in columns] for run in page.runs))
    else:
        output.note(f"no run in {place}{'' if is_all else ' is as asked for'}")
    if page.cursor:
        output.note(f"there are more; go on with --cursor {page.cursor}")


def _page(
    store: ChunkedRunLogStore, wanted: RunFilter, sort: str, limit: int, cursor: str, columns: Sequence[str]
) -> RunPage:
    if sort in ("newest", "oldest"):
        return store.find_runs(wanted, order=cast(Order, sort), limit=limit, cursor=cursor, full=_is_whole(columns))
    (by,) = _fields(sort.removeprefix("-"))
    if cursor:
        raise InvalidInputError("a cursor goes on in an order of time; leave out --cursor, or --sort by a field")
    found = sorted(store.iter_run_logs(wanted, full=_is_whole([*columns, by])), key=lambda run: _rank(by, run))
    runs = tuple(islice(reversed(found) if sort.startswith("-") else found, limit))
    return RunPage(runs, "")


def _rank(name: str, run: RunLog) -> tuple[int, float, str]:
    """What orders the runs by a field: those that lack it last, then numbers, then all else as text."""
    value = _value(name, run)
    if value is None or value == "":
        return (2, 0.0, "")
    if isinstance(value, datetime):
        return (0, value.timestamp(), "")
    if isinstance(value, int | float) and value == value:  # noqa: PLR0124  NaN is in no order
        return (0, float(value) if abs(value) < 1e300 else float("inf") if value > 0 else -float("inf"), "")
    return (1, 0.0, value if isinstance(value, str) else repr(value))


def _fields(names: str) -> list[str]:
    asked = [name.strip() for name in names.split(",")]
    known = [*_OF_HEADER, *_OF_WHOLE]
    for name in asked:
        if name not in known and not name.startswith(_PARAMETER):
            raise InvalidInputError(f"there is no field {name!r}; {nearest(name, [*known, 'param.NAME'])}", name=name)
    return asked


def _is_whole(names: Sequence[str]) -> bool:
    return any(name not in _OF_HEADER for name in names)


def _value(name: str, run: RunLog) -> Any:
    if name.startswith(_PARAMETER):
        parameter = run.parameters.get(name.removeprefix(_PARAMETER))
        return None if parameter is None else value_of(parameter)
    field = _OF_HEADER.get(name) or _OF_WHOLE[name]
    return field(run)


def _cell(output: Output, name: str, run: RunLog) -> Cell:
    if name == "status":
        return output.status(run.status)
    if name == "created":
        return shown_time(run.created_at)
    if name == "duration":
        return Text(shown_duration(duration_of(run)))
    value = _value(name, run)
    return "" if value is None else value if isinstance(value, str) else repr(value)


def _listed(run: RunLog, extra: Sequence[str]) -> ListedRun:
    return ListedRun(
        run_id=run.run_id,
        status=run.status,
        tag=run.tag or "",
        created_at=run.created_at,
        fields={name: _value(name, run) for name in extra},
    )


def _since(since: str, last: str) -> datetime | None:
    if since and last:
        raise InvalidInputError("--since and --last say the same thing; give one of them")
    if last:
        return _ago(last)
    return moment(since) if since else None


def _ago(last: str) -> datetime:
    try:
        return datetime.now(UTC) - span(last)
    except OverflowError as error:
        raise InvalidInputError(f"{last!r} is longer than time goes back") from error


def _parameters(given: Sequence[str]) -> dict[str, object]:
    parameters: dict[str, object] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InvalidInputError(f"--param {text!r} is not NAME=VALUE, such as alpha=0.5 or region=eu", name=text)
        if name in parameters:
            raise InvalidInputError(f"--param {name} is given twice; a run has one value of it", name=name)
        parameters[name] = _parsed(value)
    return parameters


def _parsed(value: str) -> object:
    try:
        return jsons.loads(value)
    except (ValueError, RecursionError):
        return value
