"""`chunkstore doctor`: what a place really does, and what follows from that."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from pydantic import Field
from rich.text import Text

from chunkstore.cli.completing import complete_store
from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, JsonOption, StoreOption
from chunkstore.cli.output import Output, printable
from chunkstore.maintenance import Examination, examine

_COLOURS = {"yes": "green", "no": "red", "unknown": "yellow"}
_WRITERS = {
    "nobody": "nobody can write here",
    "one process": "one process at a time may write here",
    "one host": "any number of processes of one host may write here at once",
    "many hosts": "any number of processes on any number of hosts may write here at once",
}


class DoctorCheck(Document):
    """One thing that was tried out."""

    name: str
    outcome: Literal["yes", "no", "unknown"]
    what: str
    follows: str


class Examined(Document):
    """What `chunkstore doctor --json` prints."""

    schema_id: Literal["chunkstore/doctor/1"] = Field(default="chunkstore/doctor/1", serialization_alias="schema")
    store: str
    writers: Literal["nobody", "one process", "one host", "many hosts"]
    checks: list[DoctorCheck]
    advice: list[str]


def doctor(
    url: Annotated[
        str,
        typer.Argument(
            metavar="[URL|NAME]",
            show_default=False,
            autocompletion=complete_store,
            help="The place, instead of --store.",
        ),
    ] = "",
    store: StoreOption = "",
    config: ConfigOption = None,
    json: JsonOption = False,
) -> None:
    """Try out what a place really does, and say what follows. Exit 1 where nobody can write."""
    output = Output(json=json)
    with open_store_of(url or store, config, new=True) as opened:
        found = examine(opened)
    if json:
        checks = [
            DoctorCheck(name=one.name, outcome=one.outcome, what=one.what, follows=one.follows) for one in found.checks
        ]
        output.document(Examined(store=found.place, writers=found.writers, checks=checks, advice=list(found.advice)))
    else:
        _show(output, found)
    if not found.is_usable:
        raise Exit(Code.FOUND)


def _show(output: Output, found: Examination) -> None:
    output.line(found.place)
    width = max(len(check.name) for check in found.checks)
    for check in found.checks:
        outcome = Text(f"{check.outcome:8}", _COLOURS[check.outcome])
        output.line(Text.assemble(f"  {check.name:{width}}  ", outcome, printable(check.what)))
        if check.follows:
            output.line(Text.assemble(" " * (width + 12), (printable(f"→ {check.follows}"), "yellow")))
    output.line(Text(f"So {_WRITERS[found.writers]}.", "bold"))
    for advice in found.advice:
        output.line(f"  {advice}")
