"""Requests are a contract: what each call costs, exactly, on a counting backend and on MinIO's wire."""

from __future__ import annotations

import itertools
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from chunkstore import (
    BranchLog,
    BranchLogNotFoundError,
    ChunkedRunLogStore,
    InvalidInputError,
    JobLogNotFoundError,
    ParameterNotFoundError,
    RunLog,
    RunLogExistsError,
    RunLogNotFoundError,
    StepLog,
    StepLogNotFoundError,
)
from chunkstore.backends import Backend
from chunkstore.testing import CountingBackend, SlowBackend
from chunkstore.testing.proxy import CountingProxy
from places import in_bucket, memory

_RUNS = itertools.count(1)
_VERBS = {"get": "read", "get_many": "read", "put": "write", "folders": "list"}


class Counted:
    """A place, and what it was asked for since the last question."""

    def __init__(self, backend: Backend, asked: Callable[[], Counter[str]], forget: Callable[[], object]) -> None:
        self.backend = backend
        self.asked = asked
        self.forget = forget


def in_memory() -> Counted:
    counting = CountingBackend(memory())

    def asked() -> Counter[str]:
        return Counter(_VERBS.get(request.verb, request.verb) for request in counting.log)

    return Counted(counting, asked, counting.reset)


def on_wire(backend: Backend, proxy: CountingProxy) -> Counted:
    def sort_of(method: str, query: str) -> str:
        if method == "GET":
            return "list" if "list-type=2" in query else "read"
        return {"PUT": "write", "DELETE": "delete"}.get(method, method)

    def asked() -> Counter[str]:
        return Counter(sort_of(request.method, request.query) for request in proxy.requests)

    return Counted(backend, asked, proxy.reset)


@pytest.fixture(scope="module")
def proxy(request: pytest.FixtureRequest) -> Iterator[CountingProxy]:
    with CountingProxy(request.getfixturevalue("minio_server").endpoint_url) as proxy:
        yield proxy


@pytest.fixture(scope="module")
def wire(request: pytest.FixtureRequest, proxy: CountingProxy, tmp_path_factory: pytest.TempPathFactory) -> Counted:
    server = request.getfixturevalue("minio_server").through(proxy.url)
    backend = in_bucket(server, tmp_path_factory.mktemp("locks"))
    store = ChunkedRunLogStore(backend)
    store.create_run_log("first")  # the probe of the server's conditions happens here, once for this process and root
    store.delete_run_log("first")
    return on_wire(backend, proxy)


@pytest.fixture(params=["memory", "minio"])
def counted(request: pytest.FixtureRequest) -> Counted:
    return in_memory() if request.param == "memory" else request.getfixturevalue("wire")


@dataclass
class Scene:
    """A run, a store that knows it, and one as another process would have it, which knows nothing."""

    run: str
    store: ChunkedRunLogStore
    other: ChunkedRunLogStore
    kept: dict[str, Any] = field(default_factory=dict)

    def step(self, name: str = "a") -> StepLog:
        return self.store.create_step_log(name, name)

    def add_step(self, name: str = "a") -> StepLog:
        step = self.step(name)
        self.store.add_step_log(step, self.run)
        return step


@pytest.fixture
def scene(counted: Counted) -> Scene:
    run = f"run {next(_RUNS)}"
    store, other = ChunkedRunLogStore(counted.backend), ChunkedRunLogStore(counted.backend)
    store.create_run_log(run)
    return Scene(run, store, other)


@dataclass(frozen=True)
class Row:
    """One call and its cost; `before` is not counted."""

    method: str
    when: str
    act: Callable[[Scene], object]
    cost: dict[str, int]
    before: Callable[[Scene], object] = lambda _scene: None
    error: type[Exception] | None = None


def composite(scene: Scene) -> StepLog:
    step = scene.step("map")
    for value in ("1.5", "2.5"):
        branch = BranchLog(internal_name=f"map.{value}", parameters={"x": value})
        child = StepLog(name="train", internal_name=f"map.{value}.train")
        branch.steps[child.internal_name] = child
        step.branches[branch.internal_name] = branch
    return step


def by_hand(scene: Scene) -> RunLog:
    step = composite(scene)
    return RunLog(run_id=f"{scene.run} by hand", steps={"map": step}, parameters={"a": 1, "b": 2})


def updated(scene: Scene, step: StepLog) -> None:
    step.status = "SUCCESS"
    scene.store.add_step_log(step, scene.run)


def changed_elsewhere(scene: Scene) -> None:
    scene.kept["step"] = scene.add_step()
    theirs = scene.other.get_step_log("a", scene.run)
    theirs.message = "theirs"
    scene.other.add_step_log(theirs, scene.run)


def set_five(scene: Scene, scope: str = "") -> None:
    scene.store.set_parameters(scene.run, dict.fromkeys("abcde", 1), scope)


def hand_back(scene: Scene, **changes: object) -> None:
    parameters = scene.kept["parameters"]
    parameters.update(changes)
    scene.other.set_parameters(scene.run, parameters)


def read_five(scene: Scene) -> None:
    set_five(scene)
    scene.other.get_run_config(scene.run)
    scene.kept["parameters"] = scene.other.get_parameters(scene.run)


def known_branch(scene: Scene) -> None:
    scene.store.add_branch_log(BranchLog(internal_name="map.x"), scene.run)


def missed_branch(scene: Scene) -> None:
    with pytest.raises(BranchLogNotFoundError):
        scene.store.get_branch_log("map.x", scene.run)


def with_job(scene: Scene, store: str = "store") -> None:
    job = scene.store.create_job_log()
    job.status = "SUCCESS"
    getattr(scene, store).add_job_log(scene.run, job)


def full_run(scene: Scene) -> None:
    """Header, job, five parameters, and a map step of two branches with a parameter and a step each."""
    set_five(scene)
    with_job(scene)
    scene.store.add_step_log(composite(scene), scene.run)


def first_look(scene: Scene) -> None:
    """All that is there: after the last of it comes the pause."""
    list(itertools.islice(scene.other.follow(scene.run), FULL_RUN))


FULL_RUN = 1 + 1 + 5 + 1 + 2 * 3


def unfinished_run(scene: Scene) -> None:
    """The same without a job, whose status would be the run's."""
    set_five(scene)
    scene.store.add_step_log(composite(scene), scene.run)


def read_unfinished_run(scene: Scene) -> None:
    unfinished_run(scene)
    scene.kept["run"] = scene.other.get_run_log_by_id(scene.run)


def read_full_run(scene: Scene) -> None:
    full_run(scene)
    scene.kept["run"] = scene.other.get_run_log_by_id(scene.run)


def put_back(scene: Scene, **changes: object) -> None:
    for name, value in changes.items():
        setattr(scene.kept["run"], name, value)
    scene.other.put_run_log(scene.kept["run"])


def packed(scene: Scene) -> None:
    """The full run, packed by another process, and nothing loose that need not be; nobody here has read it since."""
    full_run(scene)
    ChunkedRunLogStore(scene.store.backend).compact(scene.run, remove="always")


def packed_and_read(scene: Scene) -> None:
    packed(scene)
    scene.kept["step"] = scene.other.get_step_log("map", scene.run)


LOOSE = 1 + 5 + 2
"""What of the full run is never packed away: header and parameters."""

MISSING = "no such run"

# fmt: off  one row a line
TABLE = [
    Row("create_run_log", "new", lambda s: s.store.create_run_log(f"{s.run} more"), {"write": 1}),
    Row(
        "create_run_log",
        "it exists",
        lambda s: s.other.create_run_log(s.run),
        {"write": 1, "read": 1},
        error=RunLogExistsError,
    ),
    # Steps
    Row("add_step_log", "new", lambda s: s.store.add_step_log(s.step(), s.run), {"write": 1}),
    Row(
        "add_step_log",
        "known and changed",
        lambda s: updated(s, s.kept["step"]),
        {"write": 1},
        lambda s: s.kept.update(step=s.add_step()),
    ),
    Row(
        "add_step_log",
        "read and changed",
        lambda s: updated(s, s.kept["step"]),
        {"write": 1},
        lambda s: (s.add_step(), s.kept.update(step=s.store.get_step_log("a", s.run))),
    ),
    Row(
        "add_step_log",
        "handed back unchanged",
        lambda s: s.store.add_step_log(s.kept["step"], s.run),
        {},
        lambda s: s.kept.update(step=s.add_step()),
    ),
    Row(
        "add_step_log",
        "first write to a run that is not known",
        lambda s: s.other.add_step_log(s.step(), s.run),
        {"read": 1, "write": 1},
    ),
    Row(
        "add_step_log",
        "second write to that run",
        lambda s: s.other.add_step_log(s.step("b"), s.run),
        {"write": 1},
        lambda s: s.other.add_step_log(s.step(), s.run),
    ),
    Row(
        "add_step_log",
        "somebody changed it meanwhile",
        lambda s: updated(s, s.kept["step"]),
        {"write": 2, "read": 1},
        changed_elsewhere,
    ),
    Row("add_step_log", "with all that is in it", lambda s: s.store.add_step_log(composite(s), s.run), {"write": 7}),
    Row(
        "add_step_log",
        "no such run",
        lambda s: s.store.add_step_log(s.step(), MISSING),
        {"read": 1},
        error=RunLogNotFoundError,
    ),
    Row(
        "add_step_log",
        "its branch was looked for in vain",
        lambda s: s.store.add_step_log(s.store.create_step_log("t", "map.x.t"), s.run),
        {"read": 2},
        missed_branch,
        BranchLogNotFoundError,
    ),
    Row(
        "add_step_log",
        "its branch has come since",
        lambda s: s.store.add_step_log(s.store.create_step_log("t", "map.x.t"), s.run),
        {"write": 1},
        lambda s: (missed_branch(s), known_branch(s)),
    ),
    Row("get_step_log", "there", lambda s: s.store.get_step_log("a", s.run), {"read": 1}, Scene.add_step),
    Row(
        "get_step_log",
        "there, in a run that is not known",
        lambda s: s.other.get_step_log("a", s.run),
        {"read": 1},
        Scene.add_step,
    ),
    Row(
        "get_step_log",
        "missing in a known run",
        lambda s: s.store.get_step_log("a", s.run),
        {"read": 2},
        error=StepLogNotFoundError,
    ),
    Row(
        "get_step_log",
        "missing in a run that is not known",
        lambda s: s.other.get_step_log("a", s.run),
        {"read": 2},
        error=StepLogNotFoundError,
    ),
    Row(
        "get_step_log",
        "no such run",
        lambda s: s.store.get_step_log("a", MISSING),
        {"read": 2},
        error=RunLogNotFoundError,
    ),
    # Branches
    Row("add_branch_log", "new", known_branch, {"write": 1}),
    Row(
        "add_branch_log",
        "with its parameters",
        lambda s: s.store.add_branch_log(s.store.create_branch_log("map.x", {"a": 1, "b": 2}), s.run),
        {"write": 3},
    ),
    Row(
        "add_branch_log",
        "read and changed",
        lambda s: s.store.add_branch_log(s.kept["branch"].model_copy(update={"status": "FAIL"}), s.run),
        {"write": 1},
        lambda s: (known_branch(s), s.kept.update(branch=s.store.get_branch_log("map.x", s.run))),
    ),
    Row(
        "add_branch_log",
        "handed back unchanged",
        lambda s: s.store.add_branch_log(s.kept["branch"], s.run),
        {},
        lambda s: (known_branch(s), s.kept.update(branch=s.store.get_branch_log("map.x", s.run))),
    ),
    Row(
        "add_branch_log",
        "a run log, unchanged",
        lambda s: s.other.add_branch_log(s.kept["run"], s.run),
        {},
        read_full_run,
    ),
    Row("get_branch_log", "there", lambda s: s.store.get_branch_log("map.x", s.run), {"read": 1}, known_branch),
    Row("get_branch_log", "missing in a known run", missed_branch, {"read": 2}),
    Row(
        "get_branch_log",
        "no such run",
        lambda s: s.store.get_branch_log("map.x", MISSING),
        {"read": 2},
        error=RunLogNotFoundError,
    ),
    Row(
        "get_branch_log",
        "the run itself",
        lambda s: s.other.get_branch_log("", s.run),
        {"read": 7, "list": 1},
        full_run,
    ),
    # Parameters
    Row("set_parameters", "new", set_five, {"write": 5}),
    Row("set_parameters", "of a branch", lambda s: set_five(s, "map.x"), {"write": 5}),
    Row(
        "set_parameters",
        "two of five changed",
        lambda s: s.store.set_parameters(s.run, {"a": 1, "b": 1, "c": 1, "d": 2, "e": 3}),
        {"write": 2},
        set_five,
    ),
    Row("set_parameters", "as they are known", set_five, {}, set_five),
    Row("set_parameters", "handed back unchanged", hand_back, {}, read_five),
    Row(
        "set_parameters",
        "handed back unchanged, in a run that is not known",
        lambda s: s.other.set_parameters(s.run, s.kept["parameters"]),
        {"read": 1},
        lambda s: (set_five(s), s.kept.update(parameters=s.other.get_parameters(s.run))),
    ),
    Row(
        "set_parameters",
        "handed back, one changed and one new",
        lambda s: hand_back(s, a=2, f=1),
        {"write": 2},
        read_five,
    ),
    Row(
        "set_parameters",
        "handed back, changed elsewhere",
        hand_back,
        {},
        lambda s: (read_five(s), s.store.set_parameters(s.run, {"a": 2})),
    ),
    Row(
        "set_parameters",
        "first write to a run that is not known",
        lambda s: s.other.set_parameters(s.run, {"x": 1, "y": 2}),
        {"read": 1, "write": 2},
    ),
    Row(
        "set_parameters",
        "no such run",
        lambda s: s.store.set_parameters(MISSING, {"x": 1}),
        {"read": 1},
        error=RunLogNotFoundError,
    ),
    Row("get_parameters", "not known", lambda s: s.other.get_parameters(s.run), {"list": 1, "read": 5}, set_five),
    Row("get_parameters", "known", lambda s: s.store.get_parameters(s.run), {"list": 1}, set_five),
    Row(
        "get_parameters",
        "two of five changed",
        lambda s: s.other.get_parameters(s.run),
        {"list": 1, "read": 2},
        lambda s: (read_five(s), s.store.set_parameters(s.run, {"a": 2, "b": 2})),
    ),
    Row(
        "get_parameters",
        "of a branch",
        lambda s: s.other.get_parameters(s.run, "map.1.5"),
        {"list": 1, "read": 1},
        full_run,
    ),
    Row("get_parameters", "none in a known run", lambda s: s.store.get_parameters(s.run), {"list": 1}),
    Row(
        "get_parameters",
        "none in a run that is not known",
        lambda s: s.other.get_parameters(s.run),
        {"list": 1, "read": 1},
    ),
    Row(
        "get_parameters",
        "none in a known branch",
        lambda s: s.store.get_parameters(s.run, "map.x"),
        {"list": 1},
        known_branch,
    ),
    Row(
        "get_parameters",
        "no such branch",
        lambda s: s.store.get_parameters(s.run, "map.x"),
        {"list": 1, "read": 2},
        error=BranchLogNotFoundError,
    ),
    Row(
        "get_parameters",
        "no such run",
        lambda s: s.store.get_parameters(MISSING),
        {"list": 1, "read": 1},
        error=RunLogNotFoundError,
    ),
    Row("get_parameter", "there", lambda s: s.other.get_parameter(s.run, "a"), {"read": 1}, set_five),
    Row(
        "get_parameter",
        "missing in a known run",
        lambda s: s.store.get_parameter(s.run, "a"),
        {"read": 1},
        error=ParameterNotFoundError,
    ),
    Row(
        "get_parameter",
        "missing in a run that is not known",
        lambda s: s.other.get_parameter(s.run, "a"),
        {"read": 2},
        error=ParameterNotFoundError,
    ),
    # The header
    Row("update_run_log_status", "known", lambda s: s.store.update_run_log_status(s.run, "SUCCESS"), {"write": 1}),
    Row(
        "update_run_log_status",
        "again the same",
        lambda s: s.store.update_run_log_status(s.run, "SUCCESS"),
        {"write": 1},
        lambda s: s.store.update_run_log_status(s.run, "SUCCESS"),
    ),
    Row(
        "update_run_log_status",
        "not known",
        lambda s: s.other.update_run_log_status(s.run, "SUCCESS"),
        {"read": 1, "write": 1},
    ),
    Row(
        "update_run_log_status",
        "no such run",
        lambda s: s.store.update_run_log_status(MISSING, "FAIL"),
        {"read": 1},
        error=RunLogNotFoundError,
    ),
    Row(
        "update_run_log_status",
        "finished with another status, known",
        lambda s: s.store.update_run_log_status(s.run, "FAIL"),
        {"write": 2},
        lambda s: s.store.update_run_log_status(s.run, "SUCCESS"),
    ),
    Row(
        "update_run_log_status",
        "finished with another status, not known",
        lambda s: s.other.update_run_log_status(s.run, "FAIL"),
        {"read": 1, "write": 2},
        lambda s: s.store.update_run_log_status(s.run, "SUCCESS"),
    ),
    Row(
        "update_run_log_status",
        "somebody finished it meanwhile",
        lambda s: s.other.update_run_log_status(s.run, "FAIL"),
        {"write": 3, "read": 1},
        lambda s: (s.other.get_run_config(s.run), s.store.update_run_log_status(s.run, "SUCCESS")),
    ),
    Row(
        "set_run_config",
        "of a finished run",
        lambda s: s.store.set_run_config(s.run, {"a": 1}),
        {"write": 2},
        lambda s: s.store.update_run_log_status(s.run, "SUCCESS"),
    ),
    Row("set_run_config", "known", lambda s: s.store.set_run_config(s.run, {"a": 1, "b": 2}), {"write": 1}),
    Row(
        "set_run_config",
        "not known",
        lambda s: s.other.set_run_config(s.run, {"a": 1, "b": 2}),
        {"read": 1, "write": 1},
    ),
    Row("get_run_config", "known or not", lambda s: s.store.get_run_config(s.run), {"read": 1}),
    Row(
        "get_run_config",
        "no such run",
        lambda s: s.store.get_run_config(MISSING),
        {"read": 1},
        error=RunLogNotFoundError,
    ),
    # Jobs
    Row("add_job_log", "new", with_job, {"write": 2}),
    Row("add_job_log", "in a run that is not known", lambda s: with_job(s, "other"), {"read": 1, "write": 2}),
    Row("get_job_log", "there", lambda s: s.store.get_job_log(s.run), {"read": 1}, with_job),
    Row("get_job_log", "missing", lambda s: s.store.get_job_log(s.run), {"read": 2}, error=JobLogNotFoundError),
    # Whole runs
    Row(
        "get_run_log_by_id",
        "not known",
        lambda s: s.other.get_run_log_by_id(s.run),
        {"list": 1, "read": FULL_RUN},
        full_run,
    ),
    Row("get_run_log_by_id", "known", lambda s: s.other.get_run_log_by_id(s.run), {"list": 1}, read_full_run),
    Row(
        "get_run_log_by_id",
        "one chunk changed",
        lambda s: s.other.get_run_log_by_id(s.run),
        {"list": 1, "read": 1},
        lambda s: (read_full_run(s), s.store.set_parameters(s.run, {"a": 9})),
    ),
    Row(
        "get_run_log_by_id",
        "no such run",
        lambda s: s.store.get_run_log_by_id(MISSING),
        {"list": 1},
        error=RunLogNotFoundError,
    ),
    Row(
        "get_run_log_by_id",
        "without steps",
        lambda s: s.other.get_run_log_by_id(s.run, full=False),
        {"list": 1, "read": 2 + 5},
        full_run,
    ),
    Row(
        "get_run_log_by_id",
        "without steps, again",
        lambda s: s.other.get_run_log_by_id(s.run, full=False),
        {"list": 1, "read": 2},
        read_full_run,
    ),
    Row(
        "get_run_log_by_id",
        "without steps, no such run",
        lambda s: s.store.get_run_log_by_id(MISSING, full=False),
        {"read": 2},
        error=RunLogNotFoundError,
    ),
    Row("read_run_log", "not known", lambda s: s.other.read_run_log(s.run), {"list": 1, "read": FULL_RUN}, full_run),
    Row("put_run_log", "as it was read", put_back, {}, read_full_run),
    Row("put_run_log", "its status changed", lambda s: put_back(s, status="FAIL"), {"write": 1}, read_unfinished_run),
    Row(
        "put_run_log",
        "the status of a finished run changed",
        lambda s: put_back(s, status="FAIL"),
        {"write": 2},
        read_full_run,
    ),
    Row("put_run_log", "made by hand", lambda s: s.store.put_run_log(by_hand(s)), {"write": 1 + 2 + 7}),
    Row(
        "put_run_log",
        "without its steps",
        lambda s: s.other.put_run_log(s.kept["run"]),
        {},
        lambda s: (full_run(s), s.kept.update(run=s.other.get_run_log_by_id(s.run, full=False))),
    ),
    Row("get_run_logs", "by ids", lambda s: s.other.get_run_logs([s.run, MISSING]), {"read": 2}, full_run),
    Row("list_run_ids", "up to 1,000", lambda s: s.other.list_run_ids(), {"list": 1}),
    Row("iter_run_ids", "up to 1,000", lambda s: list(s.other.iter_run_ids()), {"list": 1}),
    Row(
        "delete_run_log",
        "known",
        lambda s: s.store.delete_run_log(s.run),
        {"list": 1, "write": 1, "delete": FULL_RUN - 1},
        unfinished_run,
    ),
    Row(
        "delete_run_log",
        "not known",
        lambda s: s.other.delete_run_log(s.run),
        {"list": 1, "read": 1, "write": 1, "delete": FULL_RUN - 1},
        unfinished_run,
    ),
    Row(
        "delete_run_log",
        "finished, known",
        lambda s: s.store.delete_run_log(s.run),
        {"list": 1, "write": 2, "delete": FULL_RUN},
        full_run,
    ),
    Row(
        "delete_run_log",
        "finished, not known",
        lambda s: s.other.delete_run_log(s.run),
        {"list": 1, "read": 1, "write": 2, "delete": FULL_RUN},
        full_run,
    ),
    Row(
        "delete_run_log",
        "no such run",
        lambda s: s.store.delete_run_log(MISSING),
        {"list": 1, "read": 1},
        error=RunLogNotFoundError,
    ),
    # Packs
    Row(
        "compact",
        "a run that ended",
        lambda s: s.store.compact(s.run, remove="never"),
        {"list": 1, "read": 1 + FULL_RUN + 1, "write": 2},
        full_run,
    ),
    Row(
        "compact",
        "again, by another process",
        lambda s: s.other.compact(s.run),
        {"list": 1, "read": 1 + 1 + LOOSE + 1},
        packed,
    ),
    Row("compact", "a run that has not ended", lambda s: s.store.compact(s.run), {"read": 1}, error=InvalidInputError),
    Row("compact", "no such run", lambda s: s.store.compact(MISSING), {"read": 1}, error=RunLogNotFoundError),
    Row("get_run_log_by_id", "packed", lambda s: s.other.get_run_log_by_id(s.run), {"list": 1, "read": 1}, packed),
    Row(
        "get_run_log_by_id",
        "packed, and nothing removed",
        lambda s: s.other.get_run_log_by_id(s.run),
        {"list": 1, "read": 1},
        lambda s: (full_run(s), s.store.compact(s.run, remove="never")),
    ),
    Row(
        "get_run_log_by_id",
        "packed, again",
        lambda s: s.other.get_run_log_by_id(s.run),
        {"list": 1},
        lambda s: (packed(s), s.other.get_run_log_by_id(s.run)),
    ),
    Row(
        "get_run_log_by_id",
        "packed, one chunk changed since",
        lambda s: s.other.get_run_log_by_id(s.run),
        {"list": 1, "read": 2},
        lambda s: (packed(s), updated(s, s.store.get_step_log("map", s.run))),
    ),
    Row(
        "get_run_log_by_id",
        "packed, without steps",
        lambda s: s.other.get_run_log_by_id(s.run, full=False),
        {"list": 1, "read": 2 + 1 + 5},
        packed,
    ),
    Row("get_step_log", "packed", lambda s: s.other.get_step_log("map", s.run), {"read": 1 + 1 + 1}, packed),
    Row(
        "get_step_log",
        "packed, another of that run",
        lambda s: s.other.get_step_log("map.1.5.train", s.run),
        {"read": 1, "list": 1},
        packed_and_read,
    ),
    Row(
        "get_step_log",
        "missing in a packed run",
        lambda s: s.other.get_step_log("a", s.run),
        {"read": 1, "list": 1},
        packed_and_read,
        StepLogNotFoundError,
    ),
    Row("get_branch_log", "packed", lambda s: s.other.get_branch_log("map.1.5", s.run), {"read": 3}, packed),
    Row("get_job_log", "packed", lambda s: s.other.get_job_log(s.run), {"read": 3}, packed),
    Row(
        "add_step_log",
        "packed, read and changed",
        lambda s: s.other.add_step_log(s.kept["step"].model_copy(update={"status": "FAIL"}), s.run),
        {"write": 1},
        packed_and_read,
    ),
    Row(
        "add_step_log",
        "packed, in a run that is not known",
        lambda s: s.other.add_step_log(s.step("map").model_copy(update={"status": "FAIL"}), s.run),
        {"read": 1 + 1, "write": 1},
        packed,
    ),
    Row("get_parameters", "packed", lambda s: s.other.get_parameters(s.run), {"list": 1, "read": 5}, packed),
    Row(
        "delete_run_log",
        "packed",
        lambda s: s.other.delete_run_log(s.run),
        {"list": 1, "read": 1, "write": 2, "delete": LOOSE + 1},
        packed,
    ),
    # Nothing is asked
    Row("create_step_log", "always", lambda s: s.store.create_step_log("a", "a"), {}),
    Row("create_branch_log", "always", lambda s: s.store.create_branch_log("a.b", {"x": 1}), {}),
    Row("create_job_log", "always", lambda s: s.store.create_job_log(), {}),
    Row("create_attempt_log", "always", lambda s: s.store.create_attempt_log(), {}),
    Row("create_code_identity", "always", lambda s: s.store.create_code_identity(), {}),
    Row("create_data_catalog", "always", lambda s: s.store.create_data_catalog("a"), {}),
    Row("get_summary", "always", lambda s: s.store.get_summary(), {}),
    Row("iter_chunks", "always", lambda s: list(s.other.iter_chunks(s.run)), {"list": 1, "read": FULL_RUN}, full_run),
    Row("follow", "the first look", first_look, {"list": 1, "read": FULL_RUN}, full_run),
    Row(
        "get_run_log_by_id",
        "a snapshot",
        lambda s: s.other.get_run_log_by_id(s.run, consistency="snapshot"),
        {"list": 2, "read": FULL_RUN},
        full_run,
    ),
    Row("close", "always", lambda s: s.store.close(), {}),
]
# fmt: on


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.method}: {row.when}")
def test_each_call_costs_what_it_says(row: Row, scene: Scene, counted: Counted) -> None:
    check_cost(row, scene, counted)


def check_cost(row: Row, scene: Scene, counted: Counted) -> None:
    row.before(scene)
    counted.forget()
    if row.error is None:
        row.act(scene)
    else:
        with pytest.raises(row.error):
            row.act(scene)
    assert dict(counted.asked()) == row.cost


def test_every_public_method_is_in_the_table() -> None:
    public = {
        name for name, member in vars(ChunkedRunLogStore).items() if callable(member) and not name.startswith("_")
    }
    assert public == {row.method for row in TABLE} | OF_THE_INDEX | OF_LEASES


OF_THE_INDEX = {"find_runs", "iter_run_logs", "reindex"}
"""Their cost depends on all runs of a place: see `test_index_requests`."""

OF_LEASES = {"lease", "fenced"}
"""See `test_leases`."""


def test_what_is_packed_is_removed_by_one_request_each() -> None:
    counted = in_memory()
    store = ChunkedRunLogStore(counted.backend)
    scene = Scene("r", store, ChunkedRunLogStore(counted.backend))
    store.create_run_log("r")
    full_run(scene)
    counted.forget()
    store.compact("r")
    assert counted.asked() == {"list": 1, "read": 1 + FULL_RUN + 1, "write": 2, "delete": FULL_RUN - LOOSE}


def test_the_pack_of_a_run_that_is_known_to_be_packed_is_asked_for_beside_the_listing() -> None:
    inner = memory()
    store = ChunkedRunLogStore(inner)
    store.create_run_log("r")
    store.add_step_log(store.create_step_log("a", "a"), "r")
    store.update_run_log_status("r", "SUCCESS")
    store.compact("r")
    both = threading.Barrier(2)
    waits: list[Callable[[], object]] = [lambda: None]
    other = ChunkedRunLogStore(SlowBackend(inner, 1.0, lambda _latency: waits[0](), concurrency=2))
    assert [run.run_id for run in other.get_run_logs()] == ["r"]  # its header says that it is packed
    waits[0] = lambda: both.wait(10)
    assert list(other.get_run_log_by_id("r").steps) == ["a"]
    assert not both.broken


def test_all_runs_cost_two_listings_and_one_read_each() -> None:
    counted = in_memory()
    store = ChunkedRunLogStore(counted.backend)
    for number in range(7):
        store.create_run_log(f"run {number}")
    counted.forget()
    assert len(store.get_run_logs()) == 7
    assert counted.asked() == {"list": 2, "read": 7}  # of the runs, and of the index, which nobody made


def test_a_listing_is_one_request_per_thousand_chunks(scene: Scene, counted: Counted) -> None:
    scene.store.set_parameters(scene.run, {f"p{number}": number for number in range(1_000)})
    counted.forget()
    assert len(scene.store.get_run_log_by_id(scene.run).parameters) == 1_000  # and the header: 1,001 chunks
    assert len(scene.other.get_parameters(scene.run)) == 1_000  # exactly 1,000
    assert counted.asked() == {"list": 2 + 1, "read": 1_000}


def test_thousands_of_runs_are_listed_by_thousands() -> None:
    counted = in_memory()
    store = ChunkedRunLogStore(counted.backend)
    for number in range(2_001):
        store.create_run_log(f"run {number}")
    counted.forget()
    assert len(store.list_run_ids()) == 2_001
    assert counted.asked() == {"list": 3}


@pytest.mark.parametrize("sort", ["parameters", "branches"])
def test_many_chunks_of_one_call_are_under_way_at_the_same_time(sort: str) -> None:
    count = 16
    everybody = threading.Barrier(count)
    inner = memory()
    first = ChunkedRunLogStore(inner)
    first.create_run_log("r")
    slow = SlowBackend(inner, 1.0, lambda _latency: everybody.wait(10), concurrency=count)
    store = ChunkedRunLogStore(slow)
    store._chunks.known.found(
        "r", first._chunks.known.founding("r") or ""
    )  # so that only the writes wait for each other
    if sort == "parameters":
        store.set_parameters("r", {f"p{number}": number for number in range(count)})
        assert len(ChunkedRunLogStore(inner).get_parameters("r")) == count
    else:
        store._writer.branches("r", [BranchLog(internal_name=f"m.{number}") for number in range(count)])
    assert not everybody.broken


def test_many_chunks_are_under_way_on_the_wire_at_the_same_time(wire: Counted, proxy: CountingProxy) -> None:
    store, other = ChunkedRunLogStore(wire.backend), ChunkedRunLogStore(wire.backend)
    store.create_run_log("concurrent")
    parameters = {f"p{number}": number for number in range(48)}
    proxy.set_latency(0.2)  # one after the other they would take 9.6 s, twice
    try:
        began = time.monotonic()
        store.set_parameters("concurrent", parameters)
        written = time.monotonic()
        assert other.get_parameters("concurrent") == parameters
        read = time.monotonic()
    finally:
        proxy.set_latency(0)
    assert written - began < 4.8
    assert read - written < 4.8


def test_the_probe_of_a_server_costs_at_most_eight_requests_once(
    request: pytest.FixtureRequest, proxy: CountingProxy, tmp_path: Path
) -> None:
    server = request.getfixturevalue("minio_server").through(proxy.url)
    backend = in_bucket(server, tmp_path, prefix="never/seen")
    proxy.reset()
    ChunkedRunLogStore(backend).create_run_log("one")
    first = len(proxy.requests)
    proxy.reset()
    ChunkedRunLogStore(in_bucket(server, tmp_path, bucket=backend.settings.bucket, prefix="never/seen")).create_run_log(
        "two"
    )
    assert first <= 8 + 1
    assert len(proxy.requests) == 1
