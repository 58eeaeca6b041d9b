"""`chunkstore export`: runs into one file, or to stdout."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, cast, get_args

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
from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, JsonOption, StoreOption
from chunkstore.cli.output import Output, shown_bytes
from chunkstore.errors import InvalidInputError
from chunkstore.maintenance.exporting import ExportReport, Format
from chunkstore.maintenance.exporting import export as export_runs
from chunkstore.maintenance.tabular import Rows


class RefusedRun(Document):
    """A run that is not in the file, and why."""

    run_id: str
    sort: Literal["damaged", "missing", "unsettled", "too deep"]
    message: str


class Exported(Document):
    """What `chunkstore export --json` prints; the runs themselves are in the file."""

    schema_id: Literal["chunkstore/export/1"] = Field(default="chunkstore/export/1", serialization_alias="schema")
    store: str
    file: str
    format: Format
    bytes: int
    runs: list[str]
    refused: list[RefusedRun]


def export(
    runs: RunsArgument = None,
    format: Annotated[  # noqa: A002  so is the option called
        str,
        typer.Option(
            "--format",
            "-f",
            metavar="FORMAT",
            help="json, jsonl, csv or parquet; without it, what the file's name says.",
        ),
    ] = "",
    file: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", show_default=False, help="The file; stdout without it."),
    ] = None,
    rows: Annotated[
        str,
        typer.Option(
            "--rows", metavar="ROWS", help="csv and parquet: a row for each of the runs, or of their steps' attempts."
        ),
    ] = "runs",
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    status: StatusOption = "",
    tag: TagOption = "",
    text: TextOption = "",
    param: ParamOption = None,
    since: SinceOption = "",
    until: UntilOption = "",
    last: LastOption = "",
    store: StoreOption = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Write runs to one file: JSON that can be imported again, or a table as CSV or Parquet.

    The file appears when it is whole. A damaged run is left out and named, with exit code 1.
    """
    output = Output(json=json)
    form = _format(format, file)
    if json and file is None:
        raise InvalidInputError(
            "with --json the result of the export is printed, so the export itself needs a file; give -o FILE"
        )
    if form == "parquet" and file is None and output.is_terminal:
        raise InvalidInputError("Parquet is nothing for a terminal; give -o FILE")
    choice = Choice(runs or [], status, tag, text, param or [], since, until, last)
    with open_store_of(store, config) as opened:
        chosen = choice.of(opened)
        with output.progress("exporting") as progress:
            report = export_runs(
                opened,
                _Stdout(output) if file is None else file,
                form,
                chosen,
                rows=cast(Rows, rows),
                force=force,
                progress=progress,
            )
        place = opened.backend.place
    if json:
        output.document(_document(report, place, str(file)))
    elif file is not None:
        what = "1 run" if len(report.runs) == 1 else f"{len(report.runs)} runs"
        output.line(f"exported {what} from {place} to {file} ({form}, {shown_bytes(report.bytes)})")
    _end(output, report, json=json)


def _end(output: Output, report: ExportReport, *, json: bool) -> None:
    for refused in report.refused if not json else ():
        output.warn(refused.message)
    sorts = {refused.sort for refused in report.refused}
    if sorts & {"damaged", "too deep"}:
        raise Exit(Code.FOUND)
    if sorts:
        raise Exit(Code.CONFLICT if "unsettled" in sorts else Code.NOT_FOUND)


def _document(report: ExportReport, place: str, file: str) -> Exported:
    refused = [RefusedRun(run_id=one.run_id, sort=one.sort, message=one.message) for one in report.refused]
    return Exported(
        store=place, file=file, format=report.format, bytes=report.bytes, runs=list(report.runs), refused=refused
    )


def _format(given: str, file: Path | None) -> Format:
    """The format that was asked for; else the one that the file's name says; else JSON lines for a pipe."""
    known = get_args(Format)
    said = given or ("jsonl" if file is None else file.suffix.removeprefix(".").lower())
    if said not in known:
        ask = f"there is no format {said!r}" if given else f"the name of {file} does not say the format"
        raise InvalidInputError(f"{ask}; give --format {', '.join(known[:-1])} or {known[-1]}", name=said)
    return cast(Format, said)


class _Stdout:
    """The bytes of an export, as they come; a terminal gets them escaped, as it would obey what stands in a message."""

    def __init__(self, output: Output) -> None:
        self._output = output

    def write(self, data: bytes) -> None:
        if not self._output.is_terminal:
            self._output.raw(data)
            return
        for line in data.decode("utf-8", "replace").rstrip("\r\n").split("\n"):
            self._output.line(line.rstrip("\r"))
