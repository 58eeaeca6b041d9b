"""`chunkstore ls`: which runs there are."""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from pydantic import Field

from chunkstore.cli.documents import Document
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, JsonOption, StoreOption
from chunkstore.cli.output import Output, shown_time


class ListedRun(Document):
    """One run."""

    run_id: str
    status: str
    tag: str
    created_at: datetime | None


class Runs(Document):
    """What `chunkstore ls --json` prints."""

    schema_id: Literal["chunkstore/ls/1"] = Field(default="chunkstore/ls/1", serialization_alias="schema")
    store: str
    runs: list[ListedRun]
    cursor: str


def ls(store: StoreOption = "", config: ConfigOption = None, json: JsonOption = False) -> None:
    """List runs, the newest first."""
    output = Output(json=json)
    with open_store_of(store, config) as opened:
        page = opened.find_runs()
        place = opened.backend.place
    runs = [
        ListedRun(run_id=run.run_id, status=run.status, tag=run.tag or "", created_at=run.created_at)
        for run in page.runs
    ]
    if json:
        output.document(Runs(store=place, runs=runs, cursor=page.cursor))
        return
    rows = [(run.run_id, output.status(run.status), run.tag, shown_time(run.created_at)) for run in runs]
    output.table(("run", "status", "tag", "created"), rows)
