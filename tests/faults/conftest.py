"""What all fault tests share: what they need of the machine, and the tally of what they tried."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rigs import Tally
from servers import used_servers

tallies = pytest.StashKey[Counter[str]]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[tallies] = Counter()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that shared out the tests what was tried here."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["tried"] = dict(session.config.stash[tallies])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Add what a process has tried that tests were shared out to."""
    node.config.stash[tallies].update(getattr(node, "workeroutput", {}).get("tried", {}))


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
        rows[name] += number

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
