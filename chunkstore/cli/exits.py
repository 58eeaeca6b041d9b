"""Exit codes, and which error means which: one table, which a test keeps complete."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from typing import Final

from typer import Exit

from chunkstore.errors import (
    AlreadyExistsError,
    BackendUnavailableError,
    ChunkStoreError,
    ConflictError,
    FormatError,
    InvalidInputError,
    LeaseError,
    NotFoundError,
    NotSupportedError,
)

__all__ = ["CODES", "Code", "Exit", "code_of"]


class Code(IntEnum):
    """What a command comes to. Commands `raise Exit(Code.FOUND)`; errors of the library become codes by themselves."""

    OK = 0
    FOUND = 1
    """What was asked about is not well: the run failed, the two differ, something is damaged."""
    USAGE = 2
    """The arguments, the configuration or the installed extras cannot do it; nothing was changed."""
    NOT_FOUND = 3
    CONFLICT = 4
    """Somebody else holds it or was faster, or it exists already."""
    UNREACHABLE = 5
    """The store did not answer, or not as it should: network, server, disk, permissions."""
    BROKEN = 70
    """A fault of chunkstore itself, as sysexits.h has it: a script must not take it for a failed run."""
    TIMED_OUT = 124
    """`--timeout` was over before what was waited for, as of `timeout` of the coreutils: a script must not take it for a failed run."""
    INTERRUPTED = 130
    PIPE_CLOSED = 141
    """Whoever read the output went away, as of a program that SIGPIPE ends."""


CODES: Final[Mapping[type[ChunkStoreError], Code]] = {
    FormatError: Code.FOUND,
    InvalidInputError: Code.USAGE,
    NotSupportedError: Code.USAGE,
    NotFoundError: Code.NOT_FOUND,
    ConflictError: Code.CONFLICT,
    AlreadyExistsError: Code.CONFLICT,
    LeaseError: Code.CONFLICT,
    BackendUnavailableError: Code.UNREACHABLE,
}
"""Subclasses have the code of the class that they come from, unless they are here themselves."""


def code_of(error: ChunkStoreError) -> Code:
    """The exit code of an error that the library raised."""
    return next((CODES[kind] for kind in type(error).__mro__ if kind in CODES), Code.BROKEN)
