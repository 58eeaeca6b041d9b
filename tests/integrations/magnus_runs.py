"""Pipelines of magnus in real processes: a folder with definitions and configurations, and what came of each command."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

from pipeline_runs import Outcome, Place, run

PIPELINES: Final = Path(__file__).parent / "magnus_pipelines"
MAGNUS: Final = str(Path(sys.executable).parent / "magnus")

_VARY: Final = ("start_time", "end_time", "duration", "configuration_file", "run_log_store", "variables")


class MagnusProject:
    """A folder as a user of magnus has it."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder = folder
        self.place = place
        self.outputs: list[str] = []
        shutil.copytree(PIPELINES, folder, dirs_exist_ok=True)
        self.configure("config", {"url": place.url, **place.settings})

    def configure(self, name: str, config: Mapping[str, str], *, type_: str = "chunkstore", **more: object) -> None:
        """Writes a configuration: a store, the catalog, and whatever else."""
        store = {"type": type_, "config": dict(config)}
        services = {"run_log_store": store, "catalog": {"type": "file-system"}, **more}
        (self.folder / f"{name}.yaml").write_text(json.dumps(services))

    def execute(self, definition: str, run_id: str = "", *options: str, config: str = "config") -> Outcome:
        """Runs a definition, as a run of its name."""
        run_id = run_id or definition
        return self.magnus("execute", "-f", f"{definition}.yaml", "-c", f"{config}.yaml", "--run-id", run_id, *options)

    def magnus(self, *arguments: str) -> Outcome:
        """One command of magnus."""
        # Its command line imports pkg_resources, which warns of its own end.
        return self.command([MAGNUS, *arguments], PYTHONWARNINGS="ignore")

    def in_turn(self, commands: Sequence[Sequence[str]]) -> None:
        """Commands of magnus that must succeed, one after the other."""
        for command in commands:
            succeeded(self.magnus(*command))

    def at_once(self, chains: Sequence[Sequence[Sequence[str]]]) -> None:
        """Several such series, all at the same time."""
        with ThreadPoolExecutor(len(chains)) as pool:
            list(pool.map(self.in_turn, chains))

    def command(self, command: list[str], **environment: str) -> Outcome:
        """Runs any command in the folder."""
        outcome = run(command, self.folder, **environment)
        self.outputs.append(outcome.output)
        return outcome


def succeeded(outcome: Outcome) -> None:
    assert outcome.code == 0, outcome.output[-4000:]


def comparable(value: Any) -> Any:
    """A dump without what differs between two runs of the same pipeline."""
    if isinstance(value, list):
        return [comparable(item) for item in value]
    if not isinstance(value, dict):
        return value
    printed = str(value.get("name")).endswith("execution.log")  # what a task printed: times, too
    return {
        key: comparable(item)
        for key, item in value.items()
        if key not in _VARY and not (printed and key == "data_hash")
    }
