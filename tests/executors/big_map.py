"""A map of many branches: what a worker writes for each of them, and the tree that must stand there in the end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pytest

import chunkstore
from chunkstore import ChunkedRunLogStore, StepLogNotFoundError
from servers import S3Server

RUN: Final = "big map"
STEPS: Final = ("load", "train")


def store_on(server: S3Server, prefix: str) -> ChunkedRunLogStore:
    """A new store, with its credentials in it."""
    return chunkstore.open(
        f"s3://{server.new_bucket()}/{prefix}",
        endpoint_url=server.endpoint_url,
        key=server.key,
        secret=server.secret,
        region=server.region,
    )


def begin(store: ChunkedRunLogStore) -> None:
    """The run with the map's step, as the driver makes it."""
    store.create_run_log(RUN, status="PROCESSING")
    store.add_step_log(store.create_step_log("map", "map"), RUN)


def work(store: ChunkedRunLogStore, number: int) -> int:
    """One branch, as a task writes it; its number."""
    name = f"map.{number}"
    branch = store.create_branch_log(name)
    branch.status = "PROCESSING"
    store.add_branch_log(branch, RUN)
    for step_name in STEPS:
        step = store.create_step_log(step_name, f"{name}.{step_name}")
        attempt = store.create_attempt_log()
        attempt.attempt_number, attempt.status = 1, "SUCCESS"
        step.attempts.append(attempt)
        step.status = "SUCCESS"
        store.add_step_log(step, RUN)
    store.set_parameters(RUN, {"seed": number, "score": number / 7}, name)
    if number % 50 == 0:
        store.set_run_config(RUN, {name: "was here"})  # workers meet in one chunk
    branch.status = "SUCCESS"
    store.add_branch_log(branch, RUN)
    return number


def expected(count: int) -> dict[str, Any]:
    """What all of that leads to, written down here and by no code of the library."""
    return {
        "config": {f"map.{number}": "was here" for number in range(0, count, 50)},
        "branches": {
            f"map.{number}": {
                "status": "SUCCESS",
                "steps": {name: ("SUCCESS", [(1, "SUCCESS")]) for name in STEPS},
                "parameters": {"seed": number, "score": number / 7},
            }
            for number in range(count)
        },
    }


def found(store: ChunkedRunLogStore) -> dict[str, Any]:
    """What a full read finds."""
    run = store.get_run_log_by_id(RUN)
    return {
        "config": run.run_config,
        "branches": {
            name: {
                "status": branch.status,
                "steps": {
                    step.name: (step.status, [(attempt.attempt_number, attempt.status) for attempt in step.attempts])
                    for step in branch.steps.values()
                },
                "parameters": {key: getattr(value, "value", value) for key, value in branch.parameters.items()},
            }
            for name, branch in run.steps["map"].branches.items()
        },
    }


def assert_verified(store: ChunkedRunLogStore, server: S3Server, monkeypatch: pytest.MonkeyPatch, chunks: int) -> None:
    """`chunkstore verify` finds so many chunks and nothing to tell about."""
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    url = store.backend.place.partition(" at ")[0]
    command = [sys.executable, "-m", "chunkstore", "verify", "--store", url, "--json"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    verified = json.loads(said.stdout)
    assert (verified["chunks"], verified["findings"]) == (chunks, [])


def attempt(store: ChunkedRunLogStore, folder: Path, number: int, deadly: int) -> None:
    """A branch that tells a witness of each attempt before and after it is written; the deadly one takes its worker along, once."""
    name = f"map.{number}"
    store.add_branch_log(store.create_branch_log(name), RUN)
    try:
        step = store.get_step_log(f"{name}.train", RUN)
    except StepLogNotFoundError:
        step = store.create_step_log("train", f"{name}.train")
    if step.status == "SUCCESS":
        return  # an executor runs a task again when its result was lost with its worker
    begun = store.create_attempt_log()
    begun.attempt_number = len(step.attempts) + 1
    begun.status = step.status = "PROCESSING"
    step.attempts.append(begun)
    with (folder / str(number)).open("a", buffering=1) as witness:
        print("begun", file=witness)
        store.add_step_log(step, RUN)
        print("acknowledged", file=witness)
    if number == deadly and begun.attempt_number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    begun.status = step.status = "SUCCESS"
    store.add_step_log(step, RUN)


def assert_attempts(store: ChunkedRunLogStore, folder: Path, tasks: int, deadly: int) -> None:
    """Each attempt that was acknowledged stands there once, in order, and none that nobody began; the deadly task has two."""
    branches = store.get_run_log_by_id(RUN).steps["map"].branches
    assert sorted(branches) == sorted(f"map.{number}" for number in range(tasks))
    for number in range(tasks):
        step = branches[f"map.{number}"].steps[f"map.{number}.train"]
        witnessed = (folder / str(number)).read_text().split()
        there = len(step.attempts)
        assert witnessed.count("acknowledged") <= there <= witnessed.count("begun")
        assert [attempt.attempt_number for attempt in step.attempts] == list(range(1, there + 1))
        assert [attempt.status for attempt in step.attempts] == ["PROCESSING"] * (there - 1) + ["SUCCESS"]
        assert number != deadly or there == 2
