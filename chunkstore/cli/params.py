"""`chunkstore params`: the parameters of a run, or of its branches."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

import typer
from pydantic import Field

from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.findings import is_damaged, show_findings
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, JsonOption, RunArgument, StoreOption
from chunkstore.cli.output import Output, shown_value
from chunkstore.errors import InvalidInputError
from chunkstore.models import BranchLog, RunLog
from chunkstore.naming import resolve
from chunkstore.outcomes import branches_of, kind_of, value_of


class NamedParameter(Document):
    """One parameter; `branch` is empty for the run's own."""

    branch: str
    name: str
    kind: str
    value: Any


class Parameters(Document):
    """What `chunkstore params --json` prints."""

    schema_id: Literal["chunkstore/params/1"] = Field(default="chunkstore/params/1", serialization_alias="schema")
    store: str
    run_id: str
    parameters: list[NamedParameter]


def params(
    run: RunArgument,
    store: StoreOption = "",
    config: ConfigOption = None,
    branch: Annotated[
        str, typer.Option(help="Of this branch, by its internal name, such as train.eu.", show_default=False)
    ] = "",
    everywhere: Annotated[bool, typer.Option("--all", help="Of the run and of all its branches.")] = False,
    json: JsonOption = False,
) -> None:
    """Show the parameters of a run: its own, or those of one branch or of all.

    The exit code is 1 where chunks of the run are damaged: there may be more than is shown.
    """
    output = Output(json=json)
    if branch and everywhere:
        raise InvalidInputError("--all has the parameters of every branch; leave out --branch, or --all")
    with open_store_of(store, config) as opened:
        run_id = resolve(opened, run)
        reading = opened.read_run_log(run_id, full=everywhere or bool(branch))
        place = opened.backend.place
    found = list(
        _everywhere(reading.run_log) if everywhere else _of(branch, _branch(reading.run_log, branch).parameters)
    )
    if json:
        output.document(Parameters(store=place, run_id=run_id, parameters=found))
    elif not found:
        output.note(
            f"{f'branch {branch!r}' if branch else f'run {run_id!r}'} has no parameters; --all looks into all branches"
        )
    else:
        _show(output, found, everywhere=everywhere)
    show_findings(output, reading)
    if is_damaged(reading):
        raise Exit(Code.FOUND)


def _show(output: Output, found: list[NamedParameter], *, everywhere: bool) -> None:
    heads = ("name", "value", "kind", *(["branch"] if everywhere else []))
    rows = [[each.name, shown_value(each.value), each.kind, *([each.branch] if everywhere else [])] for each in found]
    output.table(heads, rows)


def _branch(run_log: RunLog, name: str) -> RunLog | BranchLog:
    return run_log.search_branch_by_internal_name(name)[0]


def _everywhere(run_log: RunLog) -> Iterator[NamedParameter]:
    yield from _of("", run_log.parameters)
    for branch in branches_of(run_log):
        yield from _of(branch.internal_name, branch.parameters)


def _of(branch: str, parameters: dict[str, Any]) -> Iterator[NamedParameter]:
    for name, parameter in parameters.items():
        yield NamedParameter(branch=branch, name=name, kind=kind_of(parameter), value=value_of(parameter))
