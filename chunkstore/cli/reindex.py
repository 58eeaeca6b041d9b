"""`chunkstore reindex`: brings finished runs into the index, so that `ls` need not read their headers."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from pydantic import Field

from chunkstore.cli.documents import Document
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, JsonOption, StoreOption
from chunkstore.cli.output import Output


class Reindexed(Document):
    """What `chunkstore reindex --json` prints."""

    schema_id: Literal["chunkstore/reindex/1"] = Field(default="chunkstore/reindex/1", serialization_alias="schema")
    store: str
    runs: int
    """Finished runs in the index now."""
    segments: int
    read: int
    """Headers that were read for it."""
    settled: int
    """Notes of doubt that are gone."""


def reindex(
    store: StoreOption = "",
    config: ConfigOption = None,
    full: Annotated[
        bool,
        typer.Option(
            "--full", help="Make it anew from all headers: after something else than chunkstore changed the store."
        ),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Bring finished runs into the index, which makes ls fast. It changes nothing of the runs, and may run at any time."""
    output = Output(json=json)
    with open_store_of(store, config) as opened:
        report = opened.reindex(full=full)
        place = opened.backend.place
    if json:
        output.document(
            Reindexed(store=place, runs=report.runs, segments=report.segments, read=report.read, settled=report.settled)
        )
    else:
        output.line(f"{report.runs:,} finished runs are in the index of {place}; {report.read:,} headers were read")
