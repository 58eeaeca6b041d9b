"""`chunkstore rm`: remove runs by name."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from pydantic import Field

from chunkstore.cli.asking import confirm_deletion
from chunkstore.cli.completing import complete_run
from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, DryRunOption, JsonOption, StoreOption, YesOption
from chunkstore.cli.output import Output, shown_bytes
from chunkstore.maintenance import Plan, Removed, plan_removal, remove_planned
from chunkstore.naming import resolve
from chunkstore.store import ChunkedRunLogStore


class RemainingRun(Document):
    """One run that stays."""

    run_id: str
    reason: str


class Removal(Document):
    """What `chunkstore rm --json` prints: what went, or what would go with `dry_run`."""

    schema_id: Literal["chunkstore/rm/1"] = Field(default="chunkstore/rm/1", serialization_alias="schema")
    store: str
    dry_run: bool
    trash: bool
    removed: list[str]
    bytes: int
    kept: list[RemainingRun]


def rm(
    runs: Annotated[
        list[str],
        typer.Argument(
            metavar="RUN...",
            show_default=False,
            autocompletion=complete_run,
            help="Ids or the starts of some, last, last~1, last:failed, or tag:NAME.",
        ),
    ],
    no_trash: Annotated[bool, typer.Option("--no-trash", help="Delete for good.")] = False,
    store: StoreOption = "",
    config: ConfigOption = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Move runs to the trash; `restore` brings them back.

    A run that has not ended may be being written, and is refused. Exit code 4 where one changed meanwhile, and stays.
    """
    output = Output(json=json)
    with open_store_of(store, config) as opened:
        there = set(
            opened.iter_run_ids()
        )  # also those that readers do not find any more, since their removal was cut short
        found = plan_removal(opened, [run if run in there else resolve(opened, run) for run in runs])
        removed = _removed(output, opened, found, yes=yes, dry_run=dry_run, trash=not no_trash)
        place = opened.backend.place
    gone = [*removed.runs, *removed.finished] if removed else []
    kept = removed.kept if removed else ()
    if json:
        wanted = [*found.unfinished, *found.copies, *(run.run_id for run in found.runs)] if dry_run else gone
        output.document(
            Removal(
                store=place,
                dry_run=dry_run,
                trash=not no_trash,
                removed=wanted,
                bytes=found.bytes if dry_run else removed.bytes if removed else 0,
                kept=[RemainingRun(run_id=one.run_id, reason=one.reason) for one in kept],
            )
        )
    elif removed:
        output.line(f"{len(gone):,} gone, {shown_bytes(removed.bytes)}")
    for one in kept:
        output.warn(f"run {one.run_id!r} stays: {one.reason}")
    if kept:
        raise Exit(Code.FOUND if any(one.damaged for one in kept) else Code.CONFLICT)


def _removed(
    output: Output, opened: ChunkedRunLogStore, found: Plan, *, yes: bool, dry_run: bool, trash: bool
) -> Removed | None:
    ids = [*found.unfinished, *found.copies, *(run.run_id for run in found.runs)]
    verb = "move to the trash" if trash else "delete for good"
    if not confirm_deletion(output, opened, ids, found.bytes, yes=yes, dry_run=dry_run, verb=verb):
        return None
    with output.progress("moving" if trash else "deleting") as watch:
        return remove_planned(opened, found, trash=trash, even_damaged=True, progress=watch)
