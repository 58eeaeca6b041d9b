"""`chunkstore cp`: runs from one store to another."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Final, Literal

import typer
from pydantic import Field

from chunkstore.cli.choosing import (
    Choice,
    LastOption,
    ParamOption,
    RunsArgument,
    SinceOption,
    StatusOption,
    TagOption,
    TextOption,
    UntilOption,
)
from chunkstore.cli.completing import complete_store
from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, DryRunOption, JsonOption
from chunkstore.cli.output import Output, shown_bytes
from chunkstore.maintenance.copying import CopyReport, Outcome, RunCopy, copy_runs


class CopiedRun(Document):
    """What became of one run."""

    run_id: str
    outcome: Outcome
    message: str
    sent: int
    """Objects that were put at the target."""
    there: int
    """Objects that stood there from an earlier call."""
    bytes: int
    """Of the objects that were sent."""
    foreign: int
    """Files in the run's folder that are none of chunkstore's, and were left there."""


class Copies(Document):
    """What `chunkstore cp --json` prints."""

    schema_id: Literal["chunkstore/cp/1"] = Field(default="chunkstore/cp/1", serialization_alias="schema")
    source: str
    target: str
    dry_run: bool
    runs: list[CopiedRun]


_TOLD: Final = 20
_STORE: Final = (
    "A folder, s3://bucket/prefix, sqlite:///runs.db, postgresql://user@host/db, or a name from the configuration file."
)


def cp(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", show_default=False, autocompletion=complete_store, help=f"From here. {_STORE}"
        ),
    ],
    target: Annotated[
        str,
        typer.Argument(metavar="TARGET", show_default=False, autocompletion=complete_store, help=f"To here. {_STORE}"),
    ],
    runs: RunsArgument = None,
    status: StatusOption = "",
    tag: TagOption = "",
    text: TextOption = "",
    param: ParamOption = None,
    since: SinceOption = "",
    until: UntilOption = "",
    last: LastOption = "",
    unfinished: Annotated[
        bool, typer.Option("--unfinished", help="Also runs that have not ended, as they stand at one moment.")
    ] = False,
    quick: Annotated[
        bool,
        typer.Option("--quick", help="Take a run that is there for the same by its header, and its names and sizes."),
    ] = False,
    restart: Annotated[
        bool,
        typer.Option(
            "--restart", help="Begin anew where an unfinished copy of other contents stands; nobody else may be at it."
        ),
    ] = False,
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Copy runs to another store, byte for byte; what is there already is compared, and never overwritten.

    A call that is cut short leaves no half run, and the next one goes on. Exit code 4 where another run of the same id stands at
    the target, 1 where a run is damaged; all others are copied.
    """
    output = Output(json=json)
    choice = Choice(runs or [], status, tag, text, param or [], since, until, last)
    with open_store_of(source, config) as opened, open_store_of(target, config, new=True) as there:
        chosen = choice.of(opened)
        with output.progress("copying") as progress:
            report = copy_runs(
                opened,
                there,
                chosen,
                unfinished=unfinished,
                restart=restart,
                quick=quick,
                dry_run=dry_run,
                progress=progress,
            )
    if json:
        output.document(_document(report))
    else:
        _show(output, report)
    code = _code(report, named=bool(runs))
    if code:
        raise Exit(code)


def _document(report: CopyReport) -> Copies:
    runs = [
        CopiedRun(
            run_id=run.run_id,
            outcome=run.outcome,
            message=run.message,
            sent=run.sent,
            there=run.there,
            bytes=run.bytes,
            foreign=run.foreign,
        )
        for run in report.runs
    ]
    return Copies(source=report.source, target=report.target, dry_run=report.dry_run, runs=runs)


def _show(output: Output, report: CopyReport) -> None:
    copied, same = report.of("copied"), report.of("same")
    verb = "would copy" if report.dry_run else "copied"
    output.line(
        f"{verb} {_counted(copied)} ({report.sent} objects, {shown_bytes(report.bytes)}) from {report.source} to {report.target}"
    )
    if same:
        output.line(f"{_counted(same)} stood there already, the same")
    foreign = sum(run.foreign for run in report.runs)
    if foreign:
        output.warn(f"{foreign} files in the folders of runs are none of chunkstore's, and stayed behind")
    left = [run for run in report.runs if run.outcome not in ("copied", "same")]
    for run in left[:_TOLD]:
        output.warn(run.message)
    if len(left) > _TOLD:
        output.warn(f"and {len(left) - _TOLD} runs more were not copied; --json tells of each")


def _counted(runs: Sequence[RunCopy]) -> str:
    return f"{len(runs)} run" if len(runs) == 1 else f"{len(runs)} runs"


def _code(report: CopyReport, *, named: bool) -> Code:
    """Runs that have not ended are nothing wrong, unless somebody asked for just these."""
    if report.of("conflict") or (named and report.of("unfinished")):
        return Code.CONFLICT
    if report.of("damaged"):
        return Code.FOUND
    return Code.NOT_FOUND if named and report.of("missing") else Code.OK
