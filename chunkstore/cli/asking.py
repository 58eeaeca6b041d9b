"""The question before anything is deleted: what, how much, and where."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Final

from chunkstore.cli.exits import Code, Exit
from chunkstore.cli.output import Output, shown_bytes
from chunkstore.store import ChunkedRunLogStore

_SHOWN: Final = 10  # ids


def confirm_deletion(
    output: Output,
    store: ChunkedRunLogStore,
    runs: Sequence[str],
    size: int,
    *,
    yes: bool,
    dry_run: bool,
    verb: str = "delete",
) -> bool:
    """Shows the store addressed, the runs and their size; then whether to go on.

    Not with `dry_run`, and where there is nothing to do; with `yes` without a question; otherwise as the person answers.
    `verb` is what happens to the runs, such as "move to the trash". Raises `Exit(2)` where nobody is there to answer.
    """
    number = f"{len(runs):,} {'run' if len(runs) == 1 else 'runs'}"
    if not runs:
        output.note(f"nothing to {verb} in {store.backend.place}")
        return False
    output.note(f"{verb}: {number}, {shown_bytes(size)}, in {store.backend.place}")
    for run_id in runs[:_SHOWN]:
        output.note(f"  {run_id}")
    if len(runs) > _SHOWN:
        output.note(f"  and {len(runs) - _SHOWN:,} more")
    if dry_run:
        output.note("nothing was changed: --dry-run")
        return False
    return yes or _answer(output, verb, number)


def _answer(output: Output, verb: str, number: str) -> bool:
    if not (sys.stdin is not None and sys.stdin.isatty()):
        output.note(f"error: nobody is at a terminal to be asked whether to {verb}; say --yes, or look with --dry-run")
        raise Exit(Code.USAGE)
    sys.stderr.write(f"Really {verb} {number}? [y/N] ")
    sys.stderr.flush()
    if sys.stdin.readline().strip().lower() in ("y", "yes"):
        return True
    output.note("nothing was changed")
    return False
