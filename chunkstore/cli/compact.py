"""`chunkstore compact`: packs runs that have ended."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import typer
from pydantic import Field

from chunkstore.cli.completing import complete_run
from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, DryRunOption, JsonOption, StoreOption
from chunkstore.cli.output import Output, shown_bytes
from chunkstore.compaction import Compaction, Removal
from chunkstore.errors import InvalidInputError
from chunkstore.maintenance.packing import Unpacked, compact_runs, ended_runs, measure_runs
from chunkstore.naming import resolve
from chunkstore.store import ChunkedRunLogStore


class PackedRun(Document):
    """What came of one run; with `--dry-run` what would."""

    run_id: str
    packed: int
    removed: int
    kept: int
    damaged: list[str]
    """Keys of chunks that cannot be read; they stay where they are."""
    bytes_before: int
    bytes_after: int
    too_large: bool


class Packings(Document):
    """What `chunkstore compact --json` prints."""

    schema_id: Literal["chunkstore/compact/1"] = Field(default="chunkstore/compact/1", serialization_alias="schema")
    store: str
    dry_run: bool
    runs: list[PackedRun]


def compact(
    runs: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[RUN]...", show_default=False, autocompletion=complete_run, help="Runs that have ended."
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All runs that have ended.")] = False,
    remove: Annotated[
        str,
        typer.Option(
            metavar="unchanged|always|never", help="What is removed once it is in the pack; see docs/how-to/packs.md."
        ),
    ] = "unchanged",
    store: StoreOption = "",
    config: ConfigOption = None,
    dry_run: DryRunOption = False,
    json: JsonOption = False,
) -> None:
    """Pack runs that have ended, each into one object, so that they are read with one request.

    Nothing is lost when it is cut short, and nothing when somebody writes meanwhile, except with --remove always.
    """
    output = Output(json=json)
    if bool(runs) == everything:
        raise InvalidInputError("which runs? Name them, or say --all")
    removal = _removal(remove)
    with open_store_of(store, config) as opened:
        run_ids = ended_runs(opened) if everything else [resolve(opened, run) for run in runs or ()]
        if dry_run:
            done = [_would(found) for found in measure_runs(opened, run_ids)]
        else:
            done = _packed(output, opened, run_ids, removal)
        place = opened.backend.place
    if json:
        output.document(Packings(store=place, dry_run=dry_run, runs=done))
    else:
        _show(output, done, place, dry_run=dry_run)
    if any(run.damaged for run in done):
        raise Exit(Code.FOUND)


def _removal(remove: str) -> Removal:
    for known in ("unchanged", "always", "never"):
        if remove == known:
            return known
    raise InvalidInputError(f"--remove is {remove!r}; it must be one of unchanged, always, never", name="remove")


def _packed(output: Output, store: ChunkedRunLogStore, run_ids: Sequence[str], removal: Removal) -> list[PackedRun]:
    with output.progress("packing") as watch:
        return [_of(done) for done in compact_runs(store, run_ids, remove=removal, progress=watch)]


def _of(done: Compaction) -> PackedRun:
    return PackedRun(
        run_id=done.run_id,
        packed=done.packed,
        removed=done.removed,
        kept=done.kept,
        damaged=[finding.name for finding in done.damaged],
        bytes_before=done.bytes_before,
        bytes_after=done.bytes_after,
        too_large=done.too_large,
    )


def _would(found: Unpacked) -> PackedRun:
    return PackedRun(
        run_id=found.run_id,
        packed=found.loose,
        removed=0,
        kept=found.loose,
        damaged=[],
        bytes_before=found.size,
        bytes_after=found.size,
        too_large=False,
    )


def _show(output: Output, done: list[PackedRun], place: str, *, dry_run: bool) -> None:
    if not done:
        output.note(f"no run in {place} has ended")
        return
    if dry_run:
        rows = [(run.run_id, str(run.packed), shown_bytes(run.bytes_before)) for run in done]
        output.table(("run", "loose", "size"), rows)
        output.note("nothing was changed: --dry-run")
        return
    heads = ("run", "packed", "removed", "kept", "before", "after", "")
    output.table(heads, [_row(run) for run in done])


def _row(run: PackedRun) -> list[str]:
    counts = [str(run.packed), str(run.removed), str(run.kept)]
    word = "too large" if run.too_large else f"{len(run.damaged)} damaged" if run.damaged else ""
    return [run.run_id, *counts, shown_bytes(run.bytes_before), shown_bytes(run.bytes_after), word]
