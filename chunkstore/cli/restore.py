"""`chunkstore restore`: bring a run back from the trash."""

from __future__ import annotations

from typing import Annotated, Literal

import typer
from pydantic import Field

from chunkstore.cli.documents import Document
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, DryRunOption, JsonOption, StoreOption
from chunkstore.cli.output import Output
from chunkstore.maintenance import find_trashed, restore_run


class Restoration(Document):
    """What `chunkstore restore --json` prints."""

    schema_id: Literal["chunkstore/restore/1"] = Field(default="chunkstore/restore/1", serialization_alias="schema")
    store: str
    dry_run: bool
    run_id: str
    name: str
    objects: int


def restore(
    run: Annotated[
        str,
        typer.Argument(
            metavar="RUN",
            show_default=False,
            help="Its id or the start of it, or a name that `chunkstore trash` shows.",
        ),
    ],
    store: StoreOption = "",
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Bring a run back from the trash, as it was."""
    output = Output(json=json)
    with open_store_of(store, config) as opened:
        place, objects = opened.backend.place, 0
        found = find_trashed(opened, run)
        if not dry_run:
            objects = restore_run(opened, found.name).objects
    if json:
        output.document(
            Restoration(store=place, dry_run=dry_run, run_id=found.run_id, name=found.name, objects=objects)
        )
    elif dry_run:
        output.note(f"would bring back run {found.run_id!r} to {place}; nothing was changed: --dry-run")
    else:
        output.line(f"run {found.run_id!r} is back in {place}: {objects:,} objects")
