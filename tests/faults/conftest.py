"""What all fault tests share: what they need of the machine, and the tally of what they tried."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from rigs import Tally
from servers import used_servers

tallies = pytest.StashKey[dict[str, int]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[tallies] = {}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One environment of tox runs the fault tests; the others need not."""
    here = Path(__file__).parent
    for item in items:
        if item.path.is_relative_to(here):
            item.add_marker("slow")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say how much was tried; as JSON too, in the file that `CHUNKSTORE_TEST_TALLY` names."""
    rows = dict(sorted(config.stash[tallies].items()))
    if not rows:
        return
    terminalreporter.section("faults tried")
    for name, number in rows.items():
        terminalreporter.line(f"{number:>12,}  {name}")
    if path := os.environ.get("CHUNKSTORE_TEST_TALLY"):
        Path(path).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


@pytest.fixture
def tally(request: pytest.FixtureRequest) -> Tally:
    """Counts what was tried, for the summary: `tally("kill points, local", 56)`."""
    rows = request.config.stash[tallies]

    def add(name: str, number: int) -> None:
        rows[name] = rows.get(name, 0) + number

    return add


@pytest.fixture(scope="session")
def strace(request: pytest.FixtureRequest) -> str:
    """The path of strace, which can trace here."""
    found = shutil.which("strace")
    if found is None:
        pytest.skip("strace is not installed")
    tried = subprocess.run([found, "-o", os.devnull, sys.executable, "-c", ""], capture_output=True, check=False)
    if tried.returncode:
        pytest.skip(f"strace may not trace here: {tried.stderr.decode(errors='replace')[-200:]}")
    request.config.stash[used_servers].add("strace")
    return found
