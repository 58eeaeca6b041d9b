"""A client whose run logs have no job, and whose branches no parameters, as magnus's: it works, and loses neither for others."""

from __future__ import annotations

import dataclasses
import uuid
from typing import Any

import pytest
from pydantic import BaseModel, Field

import chunkstore
from chunkstore import ChunkedRunLogStore
from chunkstore.backends.memory import MemoryBackend
from chunkstore.schema import OWN


class Step(BaseModel):
    """A step log."""

    name: str
    internal_name: str
    status: str = "CREATED"
    branches: dict[str, Branch] = Field(default_factory=dict)


class Branch(BaseModel):
    """A branch log without parameters."""

    internal_name: str
    status: str = "CREATED"
    steps: dict[str, Step] = Field(default_factory=dict)


class Run(BaseModel):
    """A run log without a job, and without the time of its creation."""

    run_id: str
    status: str = "CREATED"
    steps: dict[str, Step] = Field(default_factory=dict)
    parameters: dict[str, Any] = Field(default_factory=dict)


LEAN = dataclasses.replace(OWN, run_log=Run, step_log=Step, branch_log=Branch)


@pytest.fixture
def backend() -> MemoryBackend:
    return MemoryBackend(uuid.uuid4().hex)


@pytest.fixture
def lean(backend: MemoryBackend) -> ChunkedRunLogStore:
    return ChunkedRunLogStore(backend, schema=LEAN)


@pytest.fixture
def own(backend: MemoryBackend) -> ChunkedRunLogStore:
    """Another program, with chunkstore's own models."""
    store = ChunkedRunLogStore(backend)
    store.create_run_log("r")
    store.add_job_log("r", chunkstore.JobLog(status="PROCESSING", message="a job"))
    branch = chunkstore.BranchLog(internal_name="m.a", parameters={"y": 1})
    store.add_step_log(chunkstore.StepLog(name="m", internal_name="m", branches={"m.a": branch}), "r")
    return store


@pytest.mark.parametrize("full", [True, False])
def test_a_run_is_read_without_what_the_client_does_not_know(
    own: ChunkedRunLogStore, lean: ChunkedRunLogStore, full: bool
) -> None:
    run_log = lean.get_run_log_by_id("r", full=full)
    assert type(run_log) is Run
    assert run_log.status == "PROCESSING"
    assert [*run_log.steps] == (["m"] if full else [])


def test_what_the_client_does_not_know_survives_its_rewrites(own: ChunkedRunLogStore, lean: ChunkedRunLogStore) -> None:
    run_log = lean.get_run_log_by_id("r")
    run_log.status = "SUCCESS"
    run_log.steps["m"].branches["m.a"].status = "SUCCESS"
    lean.put_run_log(run_log)
    kept = own.get_run_log_by_id("r")
    branch = kept.steps["m"].branches["m.a"]
    assert (kept.status, branch.status, branch.parameters) == ("SUCCESS", "SUCCESS", {"y": 1})
    assert kept.job is not None
    assert kept.job.message == "a job"


def test_a_run_log_made_by_hand_is_stored_whole(lean: ChunkedRunLogStore) -> None:
    branch = Branch(internal_name="m.a", steps={"m.a.s": Step(name="s", internal_name="m.a.s")})
    made = Run(run_id="s", status="SUCCESS", parameters={"x": 1})
    made.steps["m"] = Step(name="m", internal_name="m", branches={"m.a": branch})
    lean.put_run_log(made)  # type: ignore[arg-type]
    assert lean.get_run_log_by_id("s") == made


def test_parameters_of_a_branch_that_nobody_stored_are_no_branch_of_the_client(lean: ChunkedRunLogStore) -> None:
    lean.create_run_log("t")
    lean.set_parameters("t", {"y": 1}, "m.gone")
    assert lean.get_run_log_by_id("t").steps == {}
