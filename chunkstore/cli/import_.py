"""`chunkstore import`: runs that runnable, magnus or export wrote, into this store."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from pydantic import Field

from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, DryRunOption, JsonOption, StoreOption
from chunkstore.cli.output import Output
from chunkstore.maintenance.import_report import ImportReport
from chunkstore.maintenance.imports import NAMES, import_runs

_AUTO = "auto"


class RefusedRun(Document):
    """A run that was not imported. `damaged`: it is not whole in the source; `conflict`: the store has another run of its id."""

    run_id: str
    place: str
    sort: Literal["damaged", "conflict"]
    message: str


class Import(Document):
    """What `chunkstore import --json` prints. With `dry_run` it is what would be."""

    schema_id: Literal["chunkstore/import/1"] = Field(default="chunkstore/import/1", serialization_alias="schema")
    store: str
    source: str
    dry_run: bool
    imported: list[str]
    skipped: list[str]
    """Those that stood in the store already, with the same contents."""
    refused: list[RefusedRun]


def import_(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE",
            show_default=False,
            help="A log_folder of runnable or magnus, a file that export wrote, an SQLite file with the table db_log, or a database's SQLAlchemy URL.",
        ),
    ],
    sort: Annotated[
        str,
        typer.Option(
            "--from", metavar="|".join([*NAMES, _AUTO]), help="What wrote the source; json is an export of ours."
        ),
    ] = _AUTO,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart", help="Begin anew what an earlier import left unfinished, where the source changed since."
        ),
    ] = False,
    store: StoreOption = "",
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Import runs that runnable, magnus or export wrote: lossless, in order, and as often as you like."""
    output = Output(json=json)
    with open_store_of(store, config, new=True) as opened, output.progress("importing") as progress:
        report = import_runs(
            opened,
            source,
            format=None if sort == _AUTO else sort,
            restart=restart,
            dry_run=dry_run,
            progress=progress,
        )
    if json:
        output.document(_document(report))
    else:
        _show(output, report)
    if report.refused:
        raise Exit(Code.CONFLICT if report.conflicts else Code.FOUND)


def _document(report: ImportReport) -> Import:
    refused = [
        RefusedRun(run_id=one.run_id, place=one.place, sort=one.sort, message=one.message) for one in report.refused
    ]
    return Import(
        store=report.target,
        source=report.source,
        dry_run=report.dry_run,
        imported=list(report.imported),
        skipped=list(report.skipped),
        refused=refused,
    )


def _show(output: Output, report: ImportReport) -> None:
    verb = "would import" if report.dry_run else "imported"
    skipped = f"; {_runs(len(report.skipped))} there already" if report.skipped else ""
    output.line(f"{verb} {_runs(len(report.imported))} from {report.source} into {report.target}{skipped}")
    if report.refused:
        output.warn(f"{_runs(len(report.refused))} refused; nothing of the source or the store was changed for them")
        output.table(("run", "why", "message"), [(one.run_id, one.sort, one.message) for one in report.refused])


def _runs(count: int) -> str:
    return "1 run" if count == 1 else f"{count:,} runs"
