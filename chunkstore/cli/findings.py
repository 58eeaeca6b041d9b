"""What is not well in a run that was read: how commands that look at runs say so."""

from __future__ import annotations

from typing import Final

from chunkstore import keys
from chunkstore.cli.documents import Document
from chunkstore.cli.output import Output
from chunkstore.reading import Reading

_SHOWN: Final = 20


class ShownFinding(Document):
    """What a person should look at in the store: `damaged`, `orphan` or `left over`."""

    sort: str
    name: str
    message: str


def shown_findings(reading: Reading) -> list[ShownFinding]:
    """The findings as documents have them."""
    return [ShownFinding(sort=each.sort, name=each.name, message=each.message) for each in reading.findings]


def is_damaged(reading: Reading) -> bool:
    """Whether chunks could not be read, so that what is shown is not all."""
    return any(finding.sort == "damaged" for finding in reading.findings)


def show_findings(output: Output, reading: Reading) -> None:
    """Warns of each finding, of many of the first ones."""
    if _is_header_damaged(reading):
        output.warn("the run's header is damaged: its status, tag and times are not known, whatever is shown")
    for finding in reading.findings[:_SHOWN]:
        output.warn(f"{finding.sort}: {finding.message}")
    if len(reading.findings) > _SHOWN:
        output.warn(f"{len(reading.findings) - _SHOWN:,} findings more; show --json has them all")


def _is_header_damaged(reading: Reading) -> bool:
    header = keys.key_of(keys.header(reading.run_log.run_id))
    return any(finding.sort == "damaged" and finding.name == header for finding in reading.findings)
