"""`chunkstore diff`: what changed from one run to another."""

from __future__ import annotations

import json as json_text
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from pydantic import Field

from chunkstore.cli.completing import complete_run, complete_store
from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.findings import ShownFinding, is_damaged, show_findings, shown_findings
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, JsonOption, StoreOption
from chunkstore.cli.output import Cell, Output, shown_duration
from chunkstore.comparison import Change, Comparison, Difference, DifferenceKind, Tolerance, compare
from chunkstore.naming import resolve
from chunkstore.reading import Reading

_SHORT: Final = 48  # characters of a value, on a terminal
_LONG: Final = 200
_ALIKE: Final = 4  # as many steps that changed in the same way are told together
_BEFORE: Final = 8  # characters that are shown before the first one that differs


class ComparedRun(Document):
    """One of the two."""

    store: str
    run_id: str
    findings: list[ShownFinding]


class FoundDifference(Document):
    """One thing that is not the same; values in full, durations in seconds."""

    kind: DifferenceKind
    internal_name: str
    field: str
    change: Change
    left: Any
    right: Any


class Differences(Document):
    """What `chunkstore diff --json` prints."""

    schema_id: Literal["chunkstore/diff/1"] = Field(default="chunkstore/diff/1", serialization_alias="schema")
    left: ComparedRun
    right: ComparedRun
    same: bool
    differences: list[FoundDifference]


def diff(
    left: Annotated[
        str,
        typer.Argument(
            metavar="A", show_default=False, autocompletion=complete_run, help="A run: an id, last~1, tag:NAME, …"
        ),
    ],
    right: Annotated[
        str, typer.Argument(metavar="B", show_default=False, autocompletion=complete_run, help="The run to compare.")
    ],
    store: StoreOption = "",
    config: ConfigOption = None,
    store_b: Annotated[
        str,
        typer.Option(
            "--store-b",
            metavar="URL|NAME",
            show_default=False,
            autocompletion=complete_store,
            help="The store of run B, if it is another one.",
        ),
    ] = "",
    seconds: Annotated[
        float, typer.Option("--seconds", help="Durations differ when they are apart by more than so many seconds …")
    ] = 1.0,
    percent: Annotated[
        float, typer.Option("--percent", help="… and by more than so many percent of the shorter one.")
    ] = 20.0,
    json: JsonOption = False,
) -> None:
    """Show what differs between two runs, and nothing else. Exit code 1 when something does."""
    output = Output(json=json)
    tolerance = Tolerance(seconds=seconds, share=percent / 100)
    ours = _read(store, config, left)
    theirs = _read(store_b or store, config, right)
    compared = compare(ours[1].run_log, theirs[1].run_log, tolerance=tolerance)
    sides = [_compared(*ours), _compared(*theirs)]
    if json:
        found = [_found(each) for each in compared.differences]
        output.document(Differences(left=sides[0], right=sides[1], same=compared.is_same, differences=found))
    else:
        _show(output, compared, sides, (ours[1], theirs[1]))
    if not compared.is_same or is_damaged(ours[1]) or is_damaged(theirs[1]):
        raise Exit(Code.FOUND)


def _read(store: str, config: Path | None, run: str) -> tuple[str, Reading]:
    with open_store_of(store, config) as opened:
        return opened.backend.place, opened.read_run_log(resolve(opened, run))


def _compared(place: str, reading: Reading) -> ComparedRun:
    return ComparedRun(store=place, run_id=reading.run_log.run_id, findings=shown_findings(reading))


def _found(each: Difference) -> FoundDifference:
    return FoundDifference(
        kind=each.kind, internal_name=each.name, field=each.field, change=each.change, left=each.left, right=each.right
    )


def _show(output: Output, compared: Comparison, sides: Sequence[ComparedRun], readings: Sequence[Reading]) -> None:
    for reading in readings:
        show_findings(output, reading)
    if compared.is_same:
        output.line(f"{compared.left} and {compared.right} do not differ")
        return
    differences = compared.differences
    heads = [side.run_id for side in sides]
    if heads[0] == heads[1]:
        heads = [f"{side.run_id} in {side.store}" for side in sides]
    longest = _SHORT if output.is_terminal else _LONG
    alike = _ALIKE if output.is_terminal else len(differences) + 1
    rows = [_row(group, longest) for group in _groups(differences, alike)]
    output.table(("what", "where", "which", *heads), rows)
    output.note(f"{len(differences):,} {'difference' if len(differences) == 1 else 'differences'}")


def _groups(differences: Sequence[Difference], alike: int) -> Iterator[list[Difference]]:
    """Each difference alone; or, where so many steps or more changed in the same way, those together."""
    groups: dict[str, list[Difference]] = {}
    for each in differences:
        seal = repr((each.kind, each.field, each.change, each.left, each.right))
        groups.setdefault(seal, []).append(each)
    for group in groups.values():
        yield from [group] if len(group) >= alike else ([each] for each in group)


def _row(group: Sequence[Difference], longest: int) -> Sequence[Cell]:
    each = group[0]
    where = each.name if len(group) == 1 else f"{each.name} and {len(group) - 1:,} more"
    left, right = _values(each, longest)
    return each.kind, where or "(run)", each.field, left, right


def _values(each: Difference, longest: int) -> tuple[str, str]:
    if each.kind == "duration" and isinstance(each.left, float) and isinstance(each.right, float):
        return shown_duration(timedelta(seconds=each.left)), shown_duration(timedelta(seconds=each.right))
    left = "-" if each.change == "only right" else _text(each.left)
    right = "-" if each.change == "only left" else _text(each.right)
    same = next((number for number, pair in enumerate(zip(left, right, strict=False)) if pair[0] != pair[1]), 0)
    return _cut(left, same, longest), _cut(right, same, longest)


def _text(value: object) -> str:
    """A text as it is, where it cannot be taken for anything else; all other values as JSON."""
    if isinstance(value, str) and value and value == value.strip() and value not in {"-", "null", "true", "false"}:
        return value if not _is_number(value) else json_text.dumps(value)
    return json_text.dumps(value, ensure_ascii=False, default=repr)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _cut(text: str, differs_at: int, longest: int) -> str:
    """What is too long, from shortly before where it differs."""
    if len(text) <= longest:
        return text
    start = 0 if differs_at < longest - _BEFORE else differs_at - _BEFORE
    end = start + longest - 1 - (start > 0)
    return ("…" if start else "") + text[start:end] + ("…" if end < len(text) else "")
