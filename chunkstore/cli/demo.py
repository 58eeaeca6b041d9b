"""`chunkstore demo`: a few runs to look at."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer
from pydantic import Field

from chunkstore.cli.documents import Document
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, JsonOption, StoreOption
from chunkstore.cli.output import Output
from chunkstore.demonstration import write_demo

_FOLDER = "chunkstore-demo"


class Demo(Document):
    """What `chunkstore demo --json` prints: the runs that it wrote."""

    schema_id: Literal["chunkstore/demo/1"] = Field(default="chunkstore/demo/1", serialization_alias="schema")
    store: str
    runs: list[str]


def demo(
    store: StoreOption = "",
    config: ConfigOption = None,
    name: Annotated[str, typer.Option(help="What the ids of the runs start with, and their tag.")] = "nightly",
    json: JsonOption = False,
) -> None:
    """Write three small runs to look at: into the store, or into a new folder chunkstore-demo."""
    output = Output(json=json)
    chosen = store or _FOLDER
    with open_store_of(chosen, config, new=True) as opened:
        runs = write_demo(opened, name)
        place = opened.backend.place
    if json:
        output.document(Demo(store=place, runs=list(runs)))
        return
    output.line(f"{len(runs)} runs are in {place}: {', '.join(runs)}")
    option = "" if os.environ.get("CHUNKSTORE_URL") == chosen else f" -s {chosen}"
    output.note("Try:")
    for words in ("ls", "show last:failed", "metrics last:succeeded", "params last"):
        output.note(f"  chunkstore {words}{option}")
