"""What a header says of its run beside its status: that it stands; or why there is no run of the id, and what finishes that.

A header that is marked as deleted hides its run from all readers, and keeps the id taken. Who copies, moves or restores a run marks its header so,
too, and says in the body what is going on: each of these is finished in its own way, and never as a deletion.

    {"copying":"<fingerprint>","by":"…"}                   a claim: the first object of a copy, see `maintenance.transfer`
    {…,"_chunkstore_moved_to":"<name of the copy>"}        on its way into the trash, see `maintenance.moving`
    {…,"_chunkstore_emptied_to":"<name of the copy>"}      the same, and nothing but this header is left
    {…,"_chunkstore_restored_from":"<name of the copy>"}   on its way back
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from typing import Final, Literal, NamedTuple, TypeAlias

from chunkstore import values
from chunkstore.codec import Chunk
from chunkstore.values import Content

State: TypeAlias = Literal["stands", "deleted", "copying", "moving", "emptied", "restoring"]

_CLAIMED: Final = "copying"
_CLAIM: Final = f'{{"{_CLAIMED}":'.encode()
_TRASH: Final[Mapping[str, State]] = {
    "_chunkstore_emptied_to": "emptied",
    "_chunkstore_moved_to": "moving",
    "_chunkstore_restored_from": "restoring",
}
_FIELDS: Final[Mapping[State, str]] = {state: field for field, state in _TRASH.items()}


class Mark(NamedTuple):
    """What a header says of its run; of a move or its way back the name of the copy, of a claim the fingerprint of what is to come."""

    state: State
    name: str = ""

    @property
    def what(self) -> str:
        """What is going on, for people; begins with a verb."""
        return _TOLD[self.state][0]

    @property
    def next_step(self) -> str:
        """What to do about it where nobody is at it any more."""
        return _TOLD[self.state][1].format(name=self.name)


_TRASHING: Final = (
    "is being moved to the trash",
    "chunkstore gc, or rm of this run, finishes that (maintenance.remove_runs), and restore brings it back",
)
_TOLD: Final[Mapping[State, tuple[str, str]]] = {
    "stands": ("stands there", "nothing is to be done"),
    "deleted": ("is being deleted", "call delete_run_log again to finish that"),
    "copying": (
        "is being copied there",
        "copy or import it again to finish that, or delete_run_log takes away what came of it (chunkstore rm)",
    ),
    "moving": _TRASHING,
    "emptied": _TRASHING,
    "restoring": ("is being restored from the trash", "restore it again to finish that: chunkstore restore {name}"),
}


def mark_of(header: Chunk) -> Mark:
    """The header's mark. Raises `FormatError` where it is marked as deleted, and holds no run."""
    if not header.envelope.deleted:
        return Mark("stands")
    fields = values.decode(header.content)
    if header.content.body.startswith(_CLAIM):
        return Mark("copying", str(fields[_CLAIMED]))
    for field, state in _TRASH.items():
        if isinstance(name := fields.get(field), str):
            return Mark(state, name)
    return Mark("deleted")


def claim_of(fingerprint: str) -> Content:
    """The body of a claim; no two are alike, or their versions might be."""
    return values.encode({_CLAIMED: fingerprint, "by": secrets.token_hex(6)})


def marked(header: Chunk, state: Literal["moving", "emptied", "restoring"], name: str) -> Chunk:
    """The header with the name of a copy in the trash. It goes on to hold the run's own fields: who has only this knows what it was."""
    return Chunk(header.envelope._replace(deleted=True), values.encode({**_own_fields(header), _FIELDS[state]: name}))


def deleted(header: Chunk) -> Chunk:
    """The header of a run that is being deleted, whatever else was going on: nobody finishes that any more."""
    if not header.envelope.deleted:
        return header._replace(envelope=header.envelope._replace(deleted=True))
    state = mark_of(header).state
    if state == "deleted":
        return header
    return header._replace(content=Content(b"{}") if state == "copying" else values.encode(_own_fields(header)))


def _own_fields(header: Chunk) -> dict[str, values.Json]:
    return {key: value for key, value in values.decode(header.content).items() if key not in _TRASH}
