"""Pipelines of runnable in real processes: a folder with definitions and a configuration, and what came of each command."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

import chunkstore
from chunkstore import RunLog
from servers import S3Server

PIPELINES: Final = Path(__file__).parent / "pipelines"
WATCHDOG: Final = 120.0
"""Seconds after which a command hangs: a store that shares connections with its forks does."""


@dataclass(frozen=True)
class Place:
    """Where the runs of a project go: a URL and settings."""

    url: str
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def on(cls, server: S3Server, **settings: str) -> Place:
        """A bucket of its own on a server."""
        access = {"endpoint_url": server.endpoint_url, "key": server.key, "secret": server.secret}
        return cls(f"s3://{server.new_bucket()}/pipelines", {**access, "region": server.region, **settings})

    def read(self, run_id: str) -> RunLog:
        """The whole run log, by chunkstore's own models; nothing may be wrong in it."""
        with closing(chunkstore.open(self.url, **self.settings)) as store:
            reading = store.read_run_log(run_id)
        assert reading.findings == ()
        return reading.run_log


@dataclass(frozen=True)
class Outcome:
    """How a command ended and what it printed."""

    code: int
    output: str


class Project:
    """A folder as a user of runnable has it."""

    def __init__(self, folder: Path, place: Place, *, executor: str = "local") -> None:
        self.folder = folder
        self.place = place
        self.outputs: list[str] = []
        shutil.copytree(PIPELINES, folder, dirs_exist_ok=True)
        executors = {
            "pipeline-executor": {"type": executor, "config": {"enable_parallel": True} if executor == "local" else {}},
            "job-executor": {"type": executor},
        }
        store = {"type": "chunkstore", "config": {"url": place.url, **place.settings}}
        (folder / "config.yaml").write_text(json.dumps({"run-log-store": store, **executors}))

    def execute(self, definition: str, **environment: str) -> Outcome:
        """Runs a definition by Python, as a run of its name."""
        return self.command([sys.executable, f"{definition}.py"], **{"RUNNABLE_RUN_ID": definition, **environment})

    def command(self, command: list[str], **environment: str) -> Outcome:
        """Runs any command in the folder."""
        outcome = run(command, self.folder, RUNNABLE_CONFIGURATION_FILE="config.yaml", **environment)
        self.outputs.append(outcome.output)
        return outcome


def run(command: list[str], folder: Path, **environment: str) -> Outcome:
    """Runs a command in a folder; one that hangs is ended together with its workers, and fails the test."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(("RUNNABLE_", "AWS_"))}
    # A file, not a pipe: a worker that outlives its parent would keep a pipe open.
    with tempfile.TemporaryFile("w+", encoding="utf-8") as printed:
        process = subprocess.Popen(
            command,
            cwd=folder,
            env={**inherited, "COLUMNS": "200", "PYTHONUTF8": "1", **environment},
            stdin=subprocess.DEVNULL,
            stdout=printed,
            stderr=printed,
            start_new_session=True,
        )
        try:
            code: int | None = process.wait(WATCHDOG)
        except subprocess.TimeoutExpired:
            code = None
        finally:
            end_session(process)
        printed.seek(0)
        output = printed.read()
    if code is None:
        pytest.fail(f"{' '.join(command)} hangs; it printed:\n{output[-4000:]}")
    return Outcome(code, output)


def end_session(process: subprocess.Popen[bytes]) -> None:
    """Ends a process and the workers that it left behind."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def outline(steps: Mapping[str, Any], indent: str = "") -> str:
    """Steps and branches in their order, each with its status and the number of its attempts."""
    return "\n".join(_lines(steps, indent))


def _lines(steps: Mapping[str, Any], indent: str) -> Iterable[str]:
    for name, step in steps.items():
        yield f"{indent}{name} {step.status} {len(step.attempts) or ''}".rstrip()
        for branch_name, branch in step.branches.items():
            yield f"{indent}  [{branch_name}] {branch.status}"
            yield from _lines(branch.steps, f"{indent}    ")


def plain(parameters: Mapping[str, Any]) -> dict[str, tuple[str, Any]]:
    """Each parameter's kind and value."""
    return {name: (parameter.kind, parameter.value) for name, parameter in parameters.items()}
