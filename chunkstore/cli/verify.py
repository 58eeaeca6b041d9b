"""`chunkstore verify`: whether all that is stored is whole."""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from rich.text import Text

from chunkstore.cli.documents import Document
from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.opening import open_store_of
from chunkstore.cli.options import ConfigOption, JsonOption, OnlyRunsArgument, SettleOption, StoreOption
from chunkstore.cli.output import Output, printable, shown_bytes
from chunkstore.maintenance import Checked, Finding
from chunkstore.maintenance import verify as verify_store
from chunkstore.naming import resolve

_COLOURS = {"damage": "red", "warning": "yellow", "notice": "dim"}


class VerifyFinding(Document):
    """One thing that a person should know of."""

    kind: str
    severity: Literal["damage", "warning", "notice"]
    run_id: str
    key: str
    what: str
    next_step: str
    size: int
    age_seconds: float | None


class Verified(Document):
    """What `chunkstore verify --json` prints."""

    schema_id: Literal["chunkstore/verify/1"] = Field(default="chunkstore/verify/1", serialization_alias="schema")
    store: str
    runs: int
    chunks: int
    bytes: int
    damage: int
    warnings: int
    notices: int
    findings: list[VerifyFinding]


def verify(
    runs: OnlyRunsArgument = None,
    store: StoreOption = "",
    config: ConfigOption = None,
    settle: SettleOption = 1.0,
    json: JsonOption = False,
) -> None:
    """Check that all that is stored is whole: reads everything, changes nothing. Exit 1 where something is damaged."""
    output = Output(json=json)
    found: list[VerifyFinding] = []
    with open_store_of(store, config) as opened, output.progress("verifying") as progress:
        run_ids = [resolve(opened, name) for name in runs] if runs else None
        checked = verify_store(opened, run_ids, progress=progress, settle_seconds=settle)
        for one in checked:
            if json:
                found.append(_document_of(one))
            else:
                _show(output, one)
        place = opened.backend.place
    if json:
        output.document(_verified(place, checked.checked, found))
    else:
        output.line(_summary(checked.checked))
    if not checked.checked.is_whole:
        raise Exit(Code.FOUND)


def _document_of(one: Finding) -> VerifyFinding:
    return VerifyFinding(
        kind=one.kind.value,
        severity=one.severity,
        run_id=one.run_id,
        key=one.key,
        what=one.what,
        next_step=one.next_step,
        size=one.size,
        age_seconds=one.age_seconds,
    )


def _verified(place: str, checked: Checked, found: list[VerifyFinding]) -> Verified:
    return Verified(
        store=place,
        runs=checked.runs,
        chunks=checked.chunks,
        bytes=checked.bytes,
        damage=checked.damage,
        warnings=checked.warnings,
        notices=checked.notices,
        findings=found,
    )


def _show(output: Output, one: Finding) -> None:
    severity = Text(f"{one.severity:8}", _COLOURS[one.severity])
    output.line(Text.assemble(severity, printable(f"{one.key} {one.what}")))
    output.line(Text.assemble(" " * 8, (printable(f"→ {one.next_step}"), "dim")))


def _summary(checked: Checked) -> str:
    looked = f"{checked.runs:,} runs, {checked.chunks:,} chunks, {shown_bytes(checked.bytes)}"
    if not (checked.damage or checked.warnings or checked.notices):
        return f"{looked}: all is well"
    return f"{looked}: {checked.damage:,} damaged, {_many(checked.warnings, 'warning')}, {_many(checked.notices, 'notice')}"


def _many(count: int, word: str) -> str:
    return f"{count:,} {word}" if count == 1 else f"{count:,} {word}s"
