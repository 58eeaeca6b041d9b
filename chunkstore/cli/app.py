"""The table of all commands, and how one is run: its errors become messages and exit codes here, and nowhere else."""

from __future__ import annotations

import functools
import logging
import os
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from io import TextIOWrapper
from typing import Annotated, Any, Final

import typer
from typing_extensions import override

from chunkstore.cli import (
    cat,
    compact,
    config_check,
    cp,
    demo,
    diff,
    doctor,
    export,
    gc,
    import_,
    ls,
    metrics,
    params,
    reindex,
    repair,
    restore,
    rm,
    schema,
    show,
    timeline,
    trash,
    verify,
    watch,
)
from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, code_of
from chunkstore.cli.output import Output, show_error
from chunkstore.errors import ChunkStoreError

LOOK: Final = "Look at runs"
KEEP: Final = "Keep a store"
MOVE: Final = "Move runs"
HELP: Final = "Help"
PANELS: Final = (LOOK, KEEP, MOVE, HELP)


@dataclass(frozen=True, slots=True)
class Command:
    """One command: the words that call it (`config check`), its function, where the help lists it, and its `--json` document."""

    name: str
    function: Callable[..., None]
    panel: str
    document: type[Document] | None = None


COMMANDS: Final[tuple[Command, ...]] = (
    Command("ls", ls.ls, LOOK, ls.Runs),
    Command("show", show.show, LOOK, show.Run),
    Command("timeline", timeline.timeline, LOOK, timeline.Times),
    Command("diff", diff.diff, LOOK, diff.Differences),
    Command("watch", watch.watch, LOOK, watch.Change),
    Command("params", params.params, LOOK, params.Parameters),
    Command("metrics", metrics.metrics, LOOK, metrics.Metrics),
    Command("cat", cat.cat, LOOK, cat.Objects),
    Command("compact", compact.compact, KEEP, compact.Packings),
    Command("reindex", reindex.reindex, KEEP, reindex.Reindexed),
    Command("verify", verify.verify, KEEP, verify.Verified),
    Command("repair", repair.repair, KEEP, repair.Repaired),
    Command("gc", gc.gc, KEEP, gc.Collection),
    Command("rm", rm.rm, KEEP, rm.Removal),
    Command("trash", trash.trash, KEEP, trash.Trash),
    Command("restore", restore.restore, KEEP, restore.Restoration),
    Command("cp", cp.cp, MOVE, cp.Copies),
    Command("export", export.export, MOVE, export.Exported),
    Command("import", import_.import_, MOVE, import_.Import),
    Command("doctor", doctor.doctor, HELP, doctor.Examined),
    Command("config check", config_check.check, HELP, config_check.Configuration),
    Command("schema", schema.schema, HELP, schema.Schemas),
    Command("demo", demo.demo, HELP, demo.Demo),
)
"""All commands, in the order of the help."""

GROUPS: Final = {"config": "The configuration file."}
"""What stands before the second word of a command."""


def documents() -> Mapping[str, type[Document]]:
    """The `--json` documents by the names of their commands."""
    return {command.name: command.document for command in COMMANDS if command.document is not None}


def _version(*, wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"chunkstore {_installed_version()}\n")
        raise typer.Exit


def _installed_version() -> str:
    try:
        return metadata.version("chunkstore")
    except metadata.PackageNotFoundError:
        return "from a source tree that is not installed"


def _all(
    context: typer.Context,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=lambda wanted: _version(wanted=wanted), is_eager=True, help="Show the version."
        ),
    ] = False,
) -> None:
    """See, compare, keep and move the run logs of data pipelines.

    The store is given by --store, by CHUNKSTORE_URL, or by chunkstore.toml. Exit codes: 0 ok, 1 a failed run, differences or
    damage, 2 usage, 3 not found, 4 conflict or lease, 5 store unreachable.
    """
    del version
    context.obj = documents()


def made() -> typer.Typer:
    """The application, with all commands of the table."""
    text = _flowing(_all.__doc__ or "")
    app = _typer("chunkstore", text)
    app.callback(help=text)(_all)
    groups = {name: _typer(name, text) for name, text in GROUPS.items()}
    for command in COMMANDS:
        group, _, last = command.name.rpartition(" ")
        (groups[group] if group else app).command(last, rich_help_panel=command.panel)(command.function)
    for name, group_app in groups.items():
        if group_app.registered_commands:
            app.add_typer(group_app, name=name, rich_help_panel=HELP)
    return app


@functools.cache
def program() -> Callable[..., Any]:
    """What typer made of the application. It takes more time than most commands, so a process that calls several makes it once."""
    return typer.main.get_command(made())


def _flowing(text: str) -> str:
    """Paragraphs without the ends of the source's lines, which typer keeps."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _typer(name: str, text: str | None) -> typer.Typer:
    return typer.Typer(
        name=name,
        help=text,
        no_args_is_help=True,
        rich_markup_mode="rich",
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )


def execute(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    _prepare_streams()
    handler = _Warnings()
    logger = logging.getLogger("chunkstore")
    logger.addHandler(handler)
    propagates, logger.propagate = logger.propagate, False  # or a root logger would print the same, unescaped
    try:
        return _executed(arguments)
    finally:
        logger.propagate = propagates
        logger.removeHandler(handler)


def _executed(arguments: Sequence[str] | None) -> int:
    try:
        return _called(arguments)
    except ChunkStoreError as error:
        code = code_of(error)
        show_error(str(error), code)
        return code
    except BrokenPipeError:
        _drop_what_is_left_to_print()
        return Code.PIPE_CLOSED
    except OSError as error:
        # Those of the store are errors of the library; this one is of what we print, or of a file that was given.
        if error.filename is None:
            _drop_what_is_left_to_print()
        show_error(f"{error.filename or 'the output'}: {error.strerror or error}", Code.UNREACHABLE)
        return Code.UNREACHABLE
    except KeyboardInterrupt:
        return Code.INTERRUPTED
    except Exception:  # noqa: BLE001  Python's own code for it is 1, which says that a run failed
        traceback.print_exc()
        return Code.BROKEN


def _drop_what_is_left_to_print() -> None:
    """Or the interpreter tries once more at its end, fails, and ends with a code of its own, 120."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)


def _called(arguments: Sequence[str] | None) -> int:
    try:
        program()(args=None if arguments is None else list(arguments), prog_name="chunkstore")
    except SystemExit as end:  # that is how typer ends, always
        return end.code if isinstance(end.code, int) else Code.OK if end.code is None else Code.BROKEN
    return Code.OK


def _prepare_streams() -> None:
    """Names may be in any script; a terminal's encoding, or that of a pipe on Windows, may lack them. And a stream may be closed."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, PTH123  for as long as we run
        elif isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


class _Warnings(logging.Handler):
    """The library's warnings, as notes."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    @override
    def emit(self, record: logging.LogRecord) -> None:
        Output().warn(record.getMessage())
