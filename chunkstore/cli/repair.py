"""`chunkstore repair`: what needs no guess is put in order, and damage is moved into the quarantine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer
from pydantic import Field
from rich.text import Text

from chunkstore.cli.asking import confirm_deletion
from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import (
    ConfigOption,
    DryRunOption,
    JsonOption,
    OnlyRunsArgument,
    SettleOption,
    StoreOption,
    YesOption,
)
from chunkstore.cli.output import Output, printable, shown_bytes
from chunkstore.errors import InvalidInputError
from chunkstore.maintenance import (
    Action,
    Quarantined,
    RepairReport,
    discard_quarantined,
    export_quarantined,
    quarantined,
)
from chunkstore.maintenance import repair as repair_store
from chunkstore.naming import resolve
from chunkstore.store import ChunkedRunLogStore

_TAKES_AWAY = ("isolated", "finished")


class RepairAction(Document):
    """What was done about one finding, or would be done."""

    outcome: Literal["isolated", "finished", "removed", "reindexed", "kept"]
    kind: str
    severity: Literal["damage", "warning", "notice"]
    run_id: str
    key: str
    what: str
    detail: str


class QuarantinedObject(Document):
    """An object in the quarantine."""

    id: str
    key: str
    run_id: str
    kind: str
    what: str
    size: int
    isolated_at: str


class Repaired(Document):
    """What `chunkstore repair --json` prints."""

    schema_id: Literal["chunkstore/repair/1"] = Field(default="chunkstore/repair/1", serialization_alias="schema")
    store: str
    dry_run: bool
    actions: list[RepairAction]
    quarantine: list[QuarantinedObject]
    """What is in the quarantine afterwards; with `--list` and `--discard` too."""
    exported: list[str]
    """The files that `--export` wrote."""


def repair(
    runs: OnlyRunsArgument = None,
    store: StoreOption = "",
    config: ConfigOption = None,
    staging_older_than: Annotated[
        float,
        typer.Option(
            "--staging-older-than", min=0, metavar="SECONDS", help="Remove what killed writers left on a local disk."
        ),
    ] = 3600.0,
    unconditional: Annotated[
        bool,
        typer.Option(
            "--unconditional",
            help="Also where the place cannot delete one version and no other; for stores that nobody writes to just now.",
        ),
    ] = False,
    settle: SettleOption = 1.0,
    list_: Annotated[bool, typer.Option("--list", help="Only list what is in the quarantine.")] = False,
    export: Annotated[
        Path | None, typer.Option("--export", metavar="FOLDER", help="Only write what is in the quarantine to files.")
    ] = None,
    discard: Annotated[
        list[str] | None,
        typer.Option("--discard", metavar="ID", help="Only delete this from the quarantine, for ever."),
    ] = None,
    yes: YesOption = False,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Move damage into a quarantine, and finish what was begun. Never guesses. Exit 1 where damage is left."""
    output = Output(json=json)
    if sum((list_, export is not None, bool(discard))) > 1:
        raise InvalidInputError("--list, --export and --discard are three things to do; give one of them")
    with open_store_of(store, config) as opened:
        if list_ or export is not None or discard:
            _keep_quarantine(output, opened, export, discard or [], yes=yes, dry_run=dry_run)
            return
        run_ids = [resolve(opened, name) for name in runs] if runs else None

        def repaired(*, only_say: bool) -> RepairReport:
            with output.progress("checking" if only_say else "repairing") as progress:
                return repair_store(
                    opened,
                    run_ids,
                    dry_run=only_say,
                    remove_staging_after=staging_older_than,
                    unconditional=unconditional,
                    settle_seconds=settle,
                    progress=progress,
                )

        report = repaired(only_say=True)
        if not dry_run and _is_to_be_done(output, opened, report, yes=yes):
            report = repaired(only_say=False)
        _show(output, opened, report, dry_run=dry_run)
    if any(one.finding.severity == "damage" for one in report.actions if dry_run or one.outcome == "kept"):
        raise Exit(Code.FOUND)


def _is_to_be_done(output: Output, store: ChunkedRunLogStore, report: RepairReport, *, yes: bool) -> bool:
    taken = [one.finding for one in report.actions if one.outcome in _TAKES_AWAY]
    if not taken:
        return any(one.outcome != "kept" for one in report.actions)
    runs = sorted({one.run_id for one in taken})
    size = sum(one.size for one in taken)
    verb = "move damage into the quarantine, and finish deletions and moves"
    if confirm_deletion(output, store, runs, size, yes=yes, dry_run=False, verb=verb):
        return True
    raise Exit(Code.FOUND)  # nothing was changed, and what is wrong is still there


def _show(output: Output, store: ChunkedRunLogStore, report: RepairReport, *, dry_run: bool) -> None:
    if output.json:
        actions = [_document_of(one) for one in report.actions]
        _print_document(output, store, actions, dry_run=dry_run)
        return
    for one in report.actions:
        outcome = Text(f"{one.outcome:10}", "red" if one.outcome == "kept" and one.finding.severity == "damage" else "")
        output.line(Text.assemble(outcome, printable(f"{one.finding.key} {one.finding.what}")))
        output.line(Text.assemble(" " * 10, (printable(f"→ {one.detail}"), "dim")))
    if not report.actions:
        output.line("nothing to repair")
    elif dry_run:
        output.note("nothing was changed: --dry-run")
    else:
        done = sum(one.outcome != "kept" for one in report.actions)
        output.line(f"{done:,} repaired, {len(report.actions) - done:,} kept as they are")


def _keep_quarantine(
    output: Output, store: ChunkedRunLogStore, export: Path | None, discard: list[str], *, yes: bool, dry_run: bool
) -> None:
    exported: list[str] = []
    if export is not None and not dry_run:
        exported = [str(path) for path in export_quarantined(store, export)]
    if discard and not dry_run:
        if not yes:
            raise InvalidInputError("what is discarded is gone for ever; say --yes, or look with --list first")
        discard_quarantined(store, discard)
    if output.json:
        _print_document(output, store, [], exported, dry_run=dry_run)
        return
    for path in exported:
        output.line(path)
    if export is None:
        rows = [(one.id, one.key, shown_bytes(one.size), one.isolated_at[:19], one.what) for one in _sorted(store)]
        output.table(("id", "key", "size", "since", "why"), rows)


def _sorted(store: ChunkedRunLogStore) -> list[Quarantined]:
    return sorted(quarantined(store), key=lambda one: (one.isolated_at, one.id))


def _print_document(
    output: Output,
    store: ChunkedRunLogStore,
    actions: list[RepairAction],
    exported: list[str] | None = None,
    *,
    dry_run: bool,
) -> None:
    inside = [
        QuarantinedObject(
            id=one.id,
            key=one.key,
            run_id=one.run_id,
            kind=one.kind,
            what=one.what,
            size=one.size,
            isolated_at=one.isolated_at,
        )
        for one in _sorted(store)
    ]
    place = store.backend.place
    output.document(Repaired(store=place, dry_run=dry_run, actions=actions, quarantine=inside, exported=exported or []))


def _document_of(action: Action) -> RepairAction:
    one = action.finding
    return RepairAction(
        outcome=action.outcome,
        kind=one.kind.value,
        severity=one.severity,
        run_id=one.run_id,
        key=one.key,
        what=one.what,
        detail=action.detail,
    )
