"""What fault tests need of the machine, beside servers."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

Tally = Callable[[str, int], None]
"""Adds so many things tried to the row of the summary that its name says."""


@contextmanager
def mounted(folder: Path, *arguments: str) -> Iterator[Path]:
    """A file system mounted on the folder until the block ends; skips where that is not allowed."""
    folder.mkdir(exist_ok=True)
    tried = subprocess.run(["mount", *arguments, str(folder)], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"nothing can be mounted here: {tried.stderr.decode(errors='replace').strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)
