"""`chunkstore trash`: what is in the trash, and emptying it."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Literal

import typer
from pydantic import Field

from chunkstore.cli.asking import confirm_deletion
from chunkstore.cli.documents import Document
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, DryRunOption, JsonOption, StoreOption, YesOption
from chunkstore.cli.output import Output, shown_bytes, shown_time
from chunkstore.maintenance import GRACE, Trashed, empty_trash, list_trash
from chunkstore.moments import span
from chunkstore.store import ChunkedRunLogStore


class Action(StrEnum):
    """What to do with the trash."""

    LIST = "list"
    EMPTY = "empty"


class TrashedRun(Document):
    """One run in the trash."""

    run_id: str
    name: str
    moved_at: datetime
    bytes: int
    complete: bool


class Trash(Document):
    """What `chunkstore trash --json` prints: what is in the trash, and what was emptied, or would be with `dry_run`."""

    schema_id: Literal["chunkstore/trash/1"] = Field(default="chunkstore/trash/1", serialization_alias="schema")
    store: str
    dry_run: bool
    runs: list[TrashedRun]
    emptied: list[TrashedRun]


def trash(
    action: Annotated[
        Action, typer.Argument(metavar="[list|empty]", help="List it, or delete for good what is old.")
    ] = Action.LIST,
    older_than: Annotated[
        str, typer.Option(metavar="TIME", help="empty: what came into the trash longer ago. 0d is all.")
    ] = f"{GRACE.days}d",
    store: StoreOption = "",
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """List what is in the trash; with `empty` delete for good what is there longer than a week."""
    output = Output(json=json)
    with open_store_of(store, config) as opened:
        emptied: Sequence[Trashed] = ()
        if action is Action.EMPTY:
            emptied = _emptied(output, opened, older_than, yes=yes, dry_run=dry_run)
        found = list_trash(opened)
        place = opened.backend.place
    if json:
        output.document(Trash(store=place, dry_run=dry_run, runs=_rows(found), emptied=_rows(emptied)))
    elif action is Action.LIST:
        _show(output, found, place)
    elif emptied and not dry_run:
        output.line(
            f"{len(emptied):,} gone for good, {shown_bytes(sum(one.bytes for one in emptied))}; {len(found):,} stay"
        )


def _emptied(
    output: Output, opened: ChunkedRunLogStore, older_than: str, *, yes: bool, dry_run: bool
) -> Sequence[Trashed]:
    now, grace = datetime.now(UTC), span(older_than)
    would = empty_trash(opened, grace, now, dry_run=True)
    ids = [one.run_id for one in would.runs]
    wanted = confirm_deletion(
        output, opened, ids, would.bytes, yes=yes, dry_run=dry_run, verb="delete from the trash for good"
    )
    if dry_run:
        return would.runs
    if not wanted:
        return ()
    with output.progress("emptying") as watch:
        return empty_trash(opened, grace, now, progress=watch).runs


def _show(output: Output, found: Sequence[Trashed], place: str) -> None:
    if not found:
        output.note(f"the trash of {place} is empty")
        return
    rows = [
        (one.run_id, shown_time(one.moved_at), shown_bytes(one.bytes), "" if one.complete else "not complete", one.name)
        for one in found
    ]
    output.table(("run", "moved", "size", "state", "name"), rows)


def _rows(found: Sequence[Trashed]) -> list[TrashedRun]:
    return [
        TrashedRun(run_id=one.run_id, name=one.name, moved_at=one.moved_at, bytes=one.bytes, complete=one.complete)
        for one in found
    ]
