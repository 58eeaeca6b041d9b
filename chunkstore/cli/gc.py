"""`chunkstore gc`: move the runs that a rule does not keep to the trash."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal

import typer
from pydantic import Field

from chunkstore.cli.asking import confirm_deletion
from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, DryRunOption, JsonOption, StoreOption, YesOption
from chunkstore.cli.output import Output, shown_bytes, shown_time
from chunkstore.errors import InvalidInputError
from chunkstore.maintenance import Kept, Plan, Planned, Removed, Retention, plan_gc, remove_planned
from chunkstore.moments import span
from chunkstore.store import ChunkedRunLogStore


class CollectedRun(Document):
    """One run that goes."""

    run_id: str
    status: str
    tag: str
    created_at: datetime
    objects: int
    bytes: int
    reason: str


class KeptRun(Document):
    """One run that stays."""

    run_id: str
    reason: str
    damaged: bool


class Collection(Document):
    """What `chunkstore gc --json` prints: what went, or what would go with `dry_run`."""

    schema_id: Literal["chunkstore/gc/1"] = Field(default="chunkstore/gc/1", serialization_alias="schema")
    store: str
    dry_run: bool
    trash: bool
    removed: list[CollectedRun]
    finished: list[str]
    kept: list[KeptRun]


def gc(
    older_than: Annotated[str, typer.Option(metavar="TIME", help="Runs created longer ago go: 90d, 12h, 2w.")] = "",
    keep_last: Annotated[
        int | None, typer.Option(metavar="N", show_default=False, help="The newest N runs stay, however old they are.")
    ] = None,
    keep_tag: Annotated[
        list[str] | None,
        typer.Option(metavar="TAG", show_default=False, help="Runs with this tag stay. May be repeated."),
    ] = None,
    keep_status: Annotated[
        list[str] | None,
        typer.Option(metavar="STATUS", show_default=False, help="Runs with this status stay. May be repeated."),
    ] = None,
    abandoned_after: Annotated[
        str,
        typer.Option(metavar="TIME", help="Runs that never ended go too, once nothing was added to them for so long."),
    ] = "",
    by_settings: Annotated[bool, typer.Option("--by-settings", help="Older than the store's retention_days.")] = False,
    no_trash: Annotated[bool, typer.Option("--no-trash", help="Delete for good.")] = False,
    store: StoreOption = "",
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Move old runs to the trash, by a rule; never those being written.

    Exit code 1 where runs are damaged: they stay, and `chunkstore verify` says what is wrong with them.
    """
    output = Output(json=json)
    with open_store_of(store, config) as opened:
        rule = Retention(
            older_than=_older_than(opened, older_than, by_settings=by_settings),
            keep_last=keep_last,
            keep_tags=frozenset(keep_tag or ()),
            keep_statuses=frozenset(keep_status or ()),
            abandoned_after=span(abandoned_after) if abandoned_after else None,
        )
        with output.progress("looking") as watch:
            found = plan_gc(opened, rule, progress=watch)
        _tell(output, found, dry_run=dry_run)
        removed = _removed(output, opened, found, yes=yes, dry_run=dry_run, trash=not no_trash)
        place = opened.backend.place
    kept = [*found.kept, *(removed.kept if removed else ())]
    gone = set(removed.runs) if removed else set()
    if json:
        rows = [_row(run) for run in found.runs if run.run_id in gone or (dry_run and not removed)]
        finished = list(found.unfinished if dry_run else removed.finished if removed else ())
        stays = [KeptRun(run_id=one.run_id, reason=one.reason, damaged=one.damaged) for one in kept]
        output.document(
            Collection(store=place, dry_run=dry_run, trash=not no_trash, removed=rows, finished=finished, kept=stays)
        )
    elif removed:
        output.line(f"{len(removed.runs):,} gone, {shown_bytes(removed.bytes)}; {len(kept):,} stay")
    for one in removed.kept if removed else ():
        if not one.damaged:
            output.note(f"run {one.run_id!r} stays: {one.reason}")
    if _warned(output, kept):
        raise Exit(Code.FOUND)


def _older_than(opened: ChunkedRunLogStore, older_than: str, *, by_settings: bool) -> timedelta | None:
    if by_settings and older_than:
        raise InvalidInputError("--by-settings and --older-than say the same in two ways; give one of them")
    if by_settings:
        return Retention.of_settings(opened.settings).older_than
    return span(older_than) if older_than else None


def _tell(output: Output, found: Plan, *, dry_run: bool) -> None:
    for tag in found.unknown_tags:
        output.warn(f"no run has the tag {tag!r} that is to be kept")
    if dry_run and not output.json and found.runs:  # before anything is removed the question shows the first of them
        rows = [
            (
                run.run_id,
                output.status(run.status),
                run.tag,
                shown_time(run.created_at),
                shown_bytes(run.bytes),
                run.reason,
            )
            for run in found.runs
        ]
        output.table(("run", "status", "tag", "created", "size", "why it goes"), rows)


def _removed(
    output: Output, opened: ChunkedRunLogStore, found: Plan, *, yes: bool, dry_run: bool, trash: bool
) -> Removed | None:
    """What came of it; None where nothing was to be done."""
    ids = [run.run_id for run in found.runs]
    verb = "move to the trash" if trash else "delete for good"
    wanted = confirm_deletion(output, opened, ids, found.bytes, yes=yes, dry_run=dry_run, verb=verb)
    if found.unfinished:
        output.note(f"{len(found.unfinished):,} runs are gone but for what an earlier call left; that is finished")
    if dry_run or not (wanted or (found.unfinished and not ids)):
        return None
    with output.progress("moving" if trash else "deleting") as watch:
        return remove_planned(opened, found, trash=trash, progress=watch)


def _row(run: Planned) -> CollectedRun:
    return CollectedRun(
        run_id=run.run_id,
        status=run.status,
        tag=run.tag,
        created_at=run.created_at,
        objects=run.objects,
        bytes=run.bytes,
        reason=run.reason,
    )


def _warned(output: Output, kept: list[Kept]) -> bool:
    """Tells of runs that are damaged; whether there are any."""
    damaged = [one for one in kept if one.damaged]
    for one in damaged:
        output.warn(f"run {one.run_id!r} stays: {one.reason}")
    return bool(damaged)
