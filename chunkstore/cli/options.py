"""The arguments and options that many commands have, each written once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from chunkstore.cli.completing import complete_run, complete_store

StoreOption: TypeAlias = Annotated[
    str,
    typer.Option(
        "--store",
        "-s",
        metavar="URL|NAME",
        envvar="CHUNKSTORE_URL",
        show_default=False,
        autocompletion=complete_store,
        help="The store: a folder, s3://bucket/prefix, sqlite:///runs.db, postgresql://user@host/db, or a name from the configuration file.",
    ),
]
ConfigOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        envvar="CHUNKSTORE_CONFIG",
        show_default=False,
        help="The configuration file, instead of chunkstore.toml from here upwards and the user's own.",
    ),
]
JsonOption: TypeAlias = Annotated[
    bool, typer.Option("--json", help="Print one JSON document; `chunkstore schema` describes it.")
]
YesOption: TypeAlias = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]
DryRunOption: TypeAlias = Annotated[
    bool, typer.Option("--dry-run", "-n", help="Say what would be done, and do nothing.")
]
RunArgument: TypeAlias = Annotated[
    str,
    typer.Argument(
        metavar="RUN",
        show_default=False,
        autocompletion=complete_run,
        help="An id or the start of one, last, last~1, last:failed, or tag:NAME.",
    ),
]
OnlyRunsArgument: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(metavar="[RUN]...", show_default=False, autocompletion=complete_run, help="Only these runs."),
]
SettleOption: TypeAlias = Annotated[
    float,
    typer.Option("--settle", min=0, metavar="SECONDS", help="The pause before what looks wrong is looked at again."),
]
