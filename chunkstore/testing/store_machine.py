"""A Hypothesis machine that drives several stores on one backend beside a plain nested dict. Needs hypothesis.

    TestMyStores = store_machine(lambda: MyBackend(...)).TestCase

Each store is one process to chunkstore: it has its own cache and sessions. The dict is built here, from what was asked of
the stores, and never by `chunkstore.assembly`. Names whose dots leave it open which step a branch belongs to are not used.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias, TypeVar, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, rule
from pydantic import BaseModel

from chunkstore import (
    BranchLog,
    BranchLogNotFoundError,
    ChunkedRunLogStore,
    InvalidInputError,
    JobLogNotFoundError,
    JsonParameter,
    MetricParameter,
    ObjectParameter,
    ParameterNotFoundError,
    Parameters,
    RunLog,
    RunLogExistsError,
    RunLogNotFoundError,
    StepLog,
    StepLogNotFoundError,
)
from chunkstore.backends import Backend
from chunkstore.models import JobLog, StepAttempt

T = TypeVar("T")
Tree: TypeAlias = dict[str, Any]

STORES = 3

SOME_NAMES = (
    "train",
    "Train",
    "TRAIN",
    "a.b",
    "a.b/c.csv",
    "1.5",
    ".",
    "..",
    ".hidden",
    "ends.",
    "run.json",
    "step.a.json",
    "m.geojson",
    "parameter@x@y",
    "50%",
    "%2F",
    "%~",
    "a/b",
    "../x",
    "a b",
    " ",
    "a+b",
    "a\nb",
    "\x00",
    'quo"te',
    "[*?]",
    "naïve",
    "nai\u0308ve",
    "数据集",
    "🎉.🎉",
    "x" * 300,
    "x" * 301,
    "数" * 300,
)

STORE = st.integers(0, STORES - 1)
NAMES = st.sampled_from(SOME_NAMES) | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
RUN_IDS = st.sampled_from(
    ["run", "run1", "run10", "Run", "run.1", "run 1", "run%2F1", "数据", "🎉", ".r", "r.", "x" * 150]
)
BAD_RUN_IDS = st.sampled_from(["", " ", ".", "..", "a/b", "../x", "a\\b", "a\nb", "\x00", "x" * 300, "\ud800"])
STATUSES = st.sampled_from(["CREATED", "TRIGGERED", "PROCESSING", "SUCCESS", "FAIL", "success", "Fail", "a newer one"])
TEXTS = st.text(max_size=8)
ODD_NUMBERS = st.sampled_from([0, -0.0, 0.0, 1, 1.0, True, 2**53 + 1, 2**64, -(10**30), 1e308, 5e-324])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6) | ODD_NUMBERS
VALUES = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
)
TYPED = (
    st.builds(JsonParameter, value=VALUES)
    | st.builds(MetricParameter, value=VALUES)
    | st.builds(ObjectParameter, value=TEXTS)
)
PARAMETERS = st.dictionaries(NAMES, VALUES | TYPED, max_size=4)
WHICH = st.integers(0, 1_000)
"""Picks one of however many there are."""


Logged: TypeAlias = RunLog | StepLog | BranchLog | JobLog


@dataclass(frozen=True)
class Edit:
    """What somebody changes in an object before writing it back. None, or 0, changes nothing."""

    status: str | None
    message: str | None
    attempts: int
    below: bool
    """In a run log: the steps too."""


EDITS = st.builds(
    Edit, status=st.none() | STATUSES, message=st.none() | TEXTS, attempts=st.integers(0, 2), below=st.booleans()
)


@dataclass(eq=False)
class Held:
    """A model object in somebody's hands, and the store of which it was read; it may be stale."""

    store: ChunkedRunLogStore
    run_id: str
    thing: Logged


@dataclass(eq=False)
class HeldParameters:
    """Parameters in somebody's hands, what they were when they were read, and of which store."""

    store: ChunkedRunLogStore
    run_id: str
    scope: str
    parameters: Parameters
    seen: dict[str, str]


@dataclass
class Process:
    """A store, and the parameters that it last saw: what it is given again unchanged, it does not write."""

    store: ChunkedRunLogStore
    saw: dict[tuple[str, str, str], str] = field(default_factory=dict)


class StoreMachine(RuleBasedStateMachine):
    """Stores and the dict that they should be like; `store_machine` fills in the first two."""

    held = Bundle("held")
    held_parameters = Bundle("held_parameters")

    def make(self) -> Backend:
        """A new backend on an empty place."""
        raise NotImplementedError

    def clean_up(self) -> None:
        """Takes the place away."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.backend = self.make()
        self.processes = [Process(ChunkedRunLogStore(self.backend)) for _ in range(STORES)]
        self.runs: dict[str, Tree] = {}
        self.deleted: set[str] = set()
        self.attempts = 0

    # Runs.

    @initialize()
    def first_run(self) -> None:
        self.processes[0].store.create_run_log("run")
        self.runs["run"] = new_run()

    @rule(number=STORE, run_id=RUN_IDS, tag=TEXTS, status=STATUSES)
    def create_run(self, number: int, run_id: str, tag: str, status: str) -> None:
        store = self.processes[number].store
        if run_id in self.runs:
            with pytest.raises(RunLogExistsError):
                store.create_run_log(run_id, tag=tag)
        elif run_id not in self.deleted:
            made = store.create_run_log(run_id, dag_hash="hash", tag=tag, status=status, original_run_id="before")
            self.runs[run_id] = new_run(tag=tag, status=status.upper(), dag_hash="hash", original_run_id="before")
            assert picture(made) == self.runs[run_id]

    @rule(number=STORE, run_id=BAD_RUN_IDS)
    def create_a_run_that_cannot_be(self, number: int, run_id: str) -> None:
        with pytest.raises(InvalidInputError):
            self.processes[number].store.create_run_log(run_id)

    @rule(number=STORE, run_id=RUN_IDS, name=NAMES)
    def look_for_a_run_that_is_not_there(self, number: int, run_id: str, name: str) -> None:
        if run_id in self.runs:
            return
        store = self.processes[number].store
        reads: dict[str, Callable[[], object]] = {
            "run": lambda: store.get_run_log_by_id(run_id),
            "header": lambda: store.get_run_log_by_id(run_id, full=False),
            "parameters": lambda: store.get_parameters(run_id),
            "config": lambda: store.get_run_config(run_id),
            "status": lambda: store.update_run_log_status(run_id, "FAIL"),
        }
        # A process that has seen the run does not ask for it again before each write; a new one does.
        new = ChunkedRunLogStore(self.backend)
        writes: dict[str, Callable[[], object]] = {
            "set config": lambda: new.set_run_config(run_id, {"a": 1}),
            "get step": lambda: new.get_step_log(name, run_id),
            "get branch": lambda: new.get_branch_log(name, run_id),
            "get job": lambda: new.get_job_log(run_id),
            "set parameters": lambda: new.set_parameters(run_id, {name: 1}),
            "add step": lambda: new.add_step_log(new.create_step_log(name, name), run_id),
            "add branch": lambda: new.add_branch_log(new.create_branch_log(f"a.{name}"), run_id),
            "add job": lambda: new.add_job_log(run_id, new.create_job_log()),
            "delete": lambda: new.delete_run_log(run_id),
        }
        for what, call in [*reads.items(), *writes.items()]:
            try:
                call()
            except RunLogNotFoundError:
                continue
            pytest.fail(f"{what}: the run is not there, and no RunLogNotFoundError says so")

    @rule(number=STORE, which=WHICH)
    def delete_run(self, number: int, which: int) -> None:
        if len(self.runs) == 1:
            return
        run_id = self._run(which)
        self.processes[number].store.delete_run_log(run_id)
        del self.runs[run_id]
        # A run of the same id again is another machine's: here a store may still know chunks of the one that is gone.
        self.deleted.add(run_id)

    @rule(number=STORE, which=WHICH, status=STATUSES)
    def set_status(self, number: int, which: int, status: str) -> None:
        run_id = self._run(which)
        self.processes[number].store.update_run_log_status(run_id, status)
        self.runs[run_id]["status"] = status.upper()

    @rule(number=STORE, which=WHICH, config=st.dictionaries(TEXTS, VALUES, max_size=3))
    def set_config(self, number: int, which: int, config: dict[str, object]) -> None:
        run_id = self._run(which)
        store = self.processes[number].store
        store.set_run_config(run_id, config)
        self.runs[run_id]["run_config"] |= {name: shown(value) for name, value in config.items()}
        found = store.get_run_config(run_id)
        assert {name: shown(value) for name, value in found.items()} == self.runs[run_id]["run_config"]

    @rule(
        number=STORE,
        tree=st.dictionaries(NAMES, st.dictionaries(NAMES, NAMES, max_size=2), max_size=3),
        data=PARAMETERS,
    )
    def put_a_run_made_by_hand(self, number: int, tree: dict[str, dict[str, str]], data: dict[str, object]) -> None:
        run_id = f"by hand {len(self.runs) + len(self.deleted)}"
        if run_id in self.runs or run_id in self.deleted:
            return
        model = new_run(tag="by hand")
        made = RunLog(run_id=run_id, tag="by hand")
        made.parameters = cast(Any, data)
        model["parameters"] = {name: shown(value) for name, value in data.items()}
        for step_name, branches in tree.items():
            if not fits_step(model, "", step_name, step_name):
                continue
            step = made.steps[step_name] = StepLog(name=step_name, internal_name=step_name)
            model["steps"][step_name] = new_step(step_name)
            for value, inner in branches.items():
                name, inner_name = f"{step_name}.{value}", f"{step_name}.{value}.{inner}"
                if not fits_branch(model, step_name, name):
                    continue
                branch = step.branches[name] = BranchLog(internal_name=name, parameters=cast(Any, data))
                model["steps"][step_name]["branches"][name] = new_branch()
                model["steps"][step_name]["branches"][name]["parameters"] = dict(model["parameters"])
                if fits_step(model, name, inner, inner_name):
                    branch.steps[inner_name] = StepLog(name=inner, internal_name=inner_name)
                    model["steps"][step_name]["branches"][name]["steps"][inner_name] = new_step(inner)
        self.processes[number].store.put_run_log(made)
        self.runs[run_id] = model
        self._saw_all(self.processes[number], run_id)

    # Steps and branches.

    @rule(target=held, number=STORE, which=WHICH, where=WHICH, name=NAMES, status=STATUSES)
    def add_step(self, number: int, which: int, where: int, name: str, status: str) -> object:
        run_id = self._run(which)
        run = self.runs[run_id]
        scope, steps = pick(
            [("", run["steps"]), *((name, branch["steps"]) for name, branch in branches_of(run))], where
        )
        internal_name = f"{scope}.{name}" if scope else name
        if not fits_step(run, scope, name, internal_name):
            return multiple()
        store = self.processes[number].store
        step = store.create_step_log(name, internal_name)
        step.status = status
        step.attempts.append(self._attempt())
        store.add_step_log(step, run_id)
        steps[internal_name] = new_step(name, status=status.upper(), attempts=[step.attempts[0].message])
        return Held(store, run_id, step)

    @rule(target=held, number=STORE, which=WHICH, where=WHICH, value=NAMES, data=PARAMETERS)
    def add_branch(self, number: int, which: int, where: int, value: str, data: dict[str, object]) -> object:
        run_id = self._run(which)
        steps = dict(steps_of(self.runs[run_id]))
        if not steps:
            return multiple()
        parent, step = pick(list(steps.items()), where)
        name = f"{parent}.{value}"
        if not fits_branch(self.runs[run_id], parent, name):
            return multiple()
        process = self.processes[number]
        branch = process.store.create_branch_log(name, data)
        process.store.add_branch_log(branch, run_id)
        step["branches"][name] = new_branch()
        step["branches"][name]["parameters"] = {key: shown(value) for key, value in data.items()}
        self._saw(process, run_id, name)
        return Held(process.store, run_id, branch)

    @rule(target=held, number=STORE, which=WHICH, where=WHICH)
    def read_something(self, number: int, which: int, where: int) -> Held:
        run_id = self._run(which)
        return self._read(self.processes[number], run_id, pick(self._readable(run_id), where))

    @rule(number=STORE, which=WHICH, name=NAMES)
    def look_for_what_is_not_there(self, number: int, which: int, name: str) -> None:
        run_id = self._run(which)
        run, store = self.runs[run_id], self.processes[number].store
        if name not in dict(steps_of(run)):
            with pytest.raises(StepLogNotFoundError):
                store.get_step_log(name, run_id)
        if name not in dict(branches_of(run)):
            with pytest.raises(BranchLogNotFoundError):
                store.get_branch_log(name, run_id)
            with pytest.raises(BranchLogNotFoundError):
                store.get_parameters(run_id, name)
        if name not in run["parameters"]:
            with pytest.raises(ParameterNotFoundError):
                store.get_parameter(run_id, name)
        if run["job"] is None:
            with pytest.raises(JobLogNotFoundError):
                store.get_job_log(run_id)

    # Writing what was read, maybe long ago: what its holder changed is written, and nothing else.

    @rule(held=held, edit=EDITS)
    def write_back(self, held: Held, edit: Edit) -> None:
        if held.run_id in self.runs and self._process_of(held.store) is not None:
            self._change(held, edit)

    @rule(numbers=st.tuples(STORE, STORE), which=WHICH, where=WHICH, edits=st.tuples(EDITS, EDITS, EDITS))
    def two_change_the_same(
        self, numbers: tuple[int, int], which: int, where: int, edits: tuple[Edit, Edit, Edit]
    ) -> None:
        run_id = self._run(which)
        what = pick(self._readable(run_id), where)
        ours, theirs = (self._read(self.processes[number], run_id, what) for number in numbers)
        self._change(theirs, edits[0])
        self._change(ours, edits[1])
        self._change(theirs, edits[2])

    @rule(target=held, number=STORE, which=WHICH, status=STATUSES)
    def add_a_job(self, number: int, which: int, status: str) -> object:
        run_id = self._run(which)
        run, store = self.runs[run_id], self.processes[number].store
        if run["job"] is None:
            job = store.create_job_log()
            run["job"] = new_job()
        else:
            job = store.get_job_log(run_id)
            assert picture_of_job(job) == run["job"]
        job.status = status
        store.add_job_log(run_id, job)
        run["job"]["status"] = run["status"] = status.upper()
        return Held(store, run_id, job)

    # Parameters.

    @rule(number=STORE, which=WHICH, where=WHICH, data=PARAMETERS)
    def set_parameters(self, number: int, which: int, where: int, data: dict[str, object]) -> None:
        run_id = self._run(which)
        process = self.processes[number]
        scope, model = self._scope(run_id, where)
        before = copy.deepcopy(data)
        process.store.set_parameters(run_id, data, scope)
        assert {name: shown(value) for name, value in data.items()} == {name: shown(v) for name, v in before.items()}
        for name, value in data.items():
            if process.saw.get((run_id, scope, name)) != shown(value):
                model[name] = shown(value)
            process.saw[run_id, scope, name] = model[name] if (run_id, scope, name) not in process.saw else shown(value)

    @rule(target=held_parameters, number=STORE, which=WHICH, where=WHICH)
    def get_parameters(self, number: int, which: int, where: int) -> HeldParameters:
        run_id = self._run(which)
        process = self.processes[number]
        scope, model = self._scope(run_id, where)
        found = process.store.get_parameters(run_id, scope)
        assert {name: shown(value) for name, value in found.items()} == model
        self._saw(process, run_id, scope)
        return HeldParameters(process.store, run_id, scope, found, dict(model))

    @rule(held=held_parameters, data=PARAMETERS)
    def hand_parameters_back(self, held: HeldParameters, data: dict[str, object]) -> None:
        process = self._process_of(held.store)
        if process is None or held.run_id not in self.runs:
            return
        held.parameters.update(data)
        process.store.set_parameters(held.run_id, held.parameters, held.scope)
        model = self.runs[held.run_id]["parameters"]
        if held.scope:
            model = dict(branches_of(self.runs[held.run_id]))[held.scope]["parameters"]
        for name, value in held.parameters.items():
            place = (held.run_id, held.scope, name)
            if held.seen.get(name, process.saw.get(place)) != shown(value):
                model[name] = process.saw[place] = shown(value)

    @rule(number=STORE, which=WHICH, where=WHICH, name=WHICH)
    def get_one_parameter(self, number: int, which: int, where: int, name: int) -> None:
        run_id = self._run(which)
        scope, model = self._scope(run_id, where)
        if model:
            wanted, expected = pick(list(model.items()), name)
            process = self.processes[number]
            assert shown(process.store.get_parameter(run_id, wanted, scope)) == expected
            process.saw[run_id, scope, wanted] = expected

    # Other processes, other times.

    @rule(number=STORE)
    def a_process_ends_and_another_begins(self, number: int) -> None:
        self.processes[number].store.close()
        self.processes[number] = Process(ChunkedRunLogStore(self.backend))

    @rule(number=STORE)
    def a_pickled_copy_goes_on(self, number: int) -> None:
        self.processes[number] = Process(pickle.loads(pickle.dumps(self.processes[number].store)))

    @rule(number=STORE)
    def a_store_is_closed_and_used_again(self, number: int) -> None:
        self.processes[number].store.close()

    @invariant()
    def a_new_process_reads_what_is_in_the_model(self) -> None:
        store = ChunkedRunLogStore(self.backend)
        assert store.list_run_ids() == sorted(self.runs)
        for run_id, model in self.runs.items():
            reading = store.read_run_log(run_id)
            assert reading.findings == ()
            found = picture(reading.run_log)
            assert found == model
            assert order_of(found) == order_of(model)
        store.close()

    def teardown(self) -> None:
        for process in self.processes:
            process.store.close()
        self.clean_up()

    # Inside.

    def _run(self, which: int) -> str:
        return pick(list(self.runs), which)

    def _scope(self, run_id: str, where: int) -> tuple[str, Tree]:
        run = self.runs[run_id]
        scopes = [("", run["parameters"]), *((name, branch["parameters"]) for name, branch in branches_of(run))]
        return pick(scopes, where)

    def _attempt(self) -> StepAttempt:
        """One that is like no other: its message is its number."""
        self.attempts += 1
        return StepAttempt(attempt_number=self.attempts, message=str(self.attempts))

    def _process_of(self, store: ChunkedRunLogStore) -> Process | None:
        return next((process for process in self.processes if process.store is store), None)

    def _readable(self, run_id: str) -> list[tuple[str, str]]:
        """Sort and name of all that can be read of a run."""
        run = self.runs[run_id]
        job = [("job", "")] if run["job"] is not None else []
        steps = [("step", name) for name, _ in steps_of(run)]
        return [("run", ""), ("header", ""), *job, *steps, *(("branch", name) for name, _ in branches_of(run))]

    def _read(self, process: Process, run_id: str, what: tuple[str, str]) -> Held:
        """Reads it, and compares it with the model."""
        store, run, (sort, name) = process.store, self.runs[run_id], what
        if sort == "step":
            step = store.get_step_log(name, run_id)
            assert picture_of_step(step) == {**dict(steps_of(run))[name], "branches": {}}
            return Held(store, run_id, step)
        if sort == "branch":
            branch = store.get_branch_log(name, run_id)
            assert isinstance(branch, BranchLog)
            assert picture_of_branch(branch) == {**new_branch(), "status": dict(branches_of(run))[name]["status"]}
            return Held(store, run_id, branch)
        if sort == "job":
            job = store.get_job_log(run_id)
            assert picture_of_job(job) == run["job"]
            return Held(store, run_id, job)
        run_log = store.get_run_log_by_id(run_id, full=sort == "run")
        assert picture(run_log) == (run if sort == "run" else {**run, "steps": {}})
        self._saw(process, run_id, "")
        if sort == "run":
            self._saw_all(process, run_id)
        return Held(store, run_id, run_log)

    def _change(self, held: Held, edit: Edit) -> None:
        """Changes what is held, writes it back, and changes just that in the model."""
        run = self.runs[held.run_id]
        if isinstance(held.thing, RunLog):
            self._edit(held.thing, run, edit)
            for step in all_steps(held.thing):
                if edit.below:
                    self._edit(step, dict(steps_of(run))[step.internal_name], edit)
            held.store.put_run_log(held.thing)
        elif isinstance(held.thing, StepLog):
            self._edit(held.thing, dict(steps_of(run))[held.thing.internal_name], edit)
            held.store.add_step_log(held.thing, held.run_id)
        elif isinstance(held.thing, BranchLog):
            self._edit(held.thing, dict(branches_of(run))[held.thing.internal_name], edit)
            held.store.add_branch_log(held.thing, held.run_id)
        else:
            self._edit(held.thing, run["job"], edit)
            held.store.add_job_log(held.run_id, held.thing)
            run["status"] = held.thing.status.upper()

    def _edit(self, thing: Logged, model: Tree, edit: Edit) -> None:
        if edit.status is not None:
            if thing.status.upper() != edit.status.upper():
                model["status"] = edit.status.upper()
            thing.status = edit.status
        if isinstance(thing, StepLog | JobLog):
            if edit.message is not None:
                if thing.message != edit.message:
                    model["message"] = edit.message
                thing.message = edit.message
            for _ in range(edit.attempts):
                thing.attempts.append(self._attempt())
                model["attempts"].append(thing.attempts[-1].message)

    def _saw(self, process: Process, run_id: str, scope: str) -> None:
        """The process has just read or written all parameters of the scope."""
        run = self.runs[run_id]
        model = dict(branches_of(run))[scope]["parameters"] if scope else run["parameters"]
        process.saw |= {(run_id, scope, name): value for name, value in model.items()}

    def _saw_all(self, process: Process, run_id: str) -> None:
        for scope in ["", *dict(branches_of(self.runs[run_id]))]:
            self._saw(process, run_id, scope)


def store_machine(
    new_backend: Callable[[], Backend],
    *,
    remove: Callable[[Backend], object] = lambda backend: None,
    examples: int = 60,
    steps: int = 40,
) -> type[StoreMachine]:
    """A machine on the backends that `new_backend` gives, each on an empty place that `remove` takes away again."""

    class Machine(StoreMachine):
        def make(self) -> Backend:
            return new_backend()

        def clean_up(self) -> None:
            remove(self.backend)

    Machine.TestCase.settings = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
    )
    return Machine


# The model: what a run is, in plain dicts.


def new_run(**fields: object) -> Tree:
    """A run without anything in it."""
    run = {"tag": "", "dag_hash": "", "original_run_id": "", "status": "CREATED", "job": None}
    return {**run, "parameters": {}, "run_config": {}, "steps": {}, **fields}


def new_step(name: str, **fields: object) -> Tree:
    """A step without branches."""
    return {"name": name, "status": "CREATED", "message": "", "attempts": [], "branches": {}, **fields}


def new_branch() -> Tree:
    """A branch without anything in it."""
    return {"status": "CREATED", "parameters": {}, "steps": {}}


def new_job() -> Tree:
    """A job without attempts."""
    return {"status": "CREATED", "message": "", "attempts": []}


def steps_of(holder: Tree) -> Iterator[tuple[str, Tree]]:
    """All steps of a run or branch, also those in branches."""
    for name, step in holder["steps"].items():
        yield name, step
        for branch in step["branches"].values():
            yield from steps_of(branch)


def branches_of(run: Tree) -> Iterator[tuple[str, Tree]]:
    """All branches of a run, also those in branches."""
    for _, step in steps_of(run):
        yield from step["branches"].items()


def fits_step(run: Tree, scope: str, name: str, internal_name: str) -> bool:
    """Whether a step of this name would be new, and leave it clear whose child everything is."""
    return (
        internal_name not in dict(steps_of(run))
        and not any(branch.startswith(f"{internal_name}.") for branch, _ in branches_of(run))
        and not any(internal_name.startswith(f"{branch}.") and branch != scope for branch, _ in branches_of(run))
    )


def fits_branch(run: Tree, parent: str, name: str) -> bool:
    """Whether a branch of this name would be new, and leave it clear whose child everything is."""
    return (
        name not in dict(branches_of(run))
        and not any(len(step) > len(parent) and name.startswith(f"{step}.") for step, _ in steps_of(run))
        and not any(step.startswith(f"{name}.") for step, _ in steps_of(run))
    )


# The same picture of what a store returned.


def picture(run_log: RunLog) -> Tree:
    """The dict that the model should have."""
    return new_run(
        tag=run_log.tag,
        dag_hash=run_log.dag_hash or "",
        original_run_id=run_log.original_run_id,
        status=run_log.status,
        job=None if run_log.job is None else picture_of_job(run_log.job),
        parameters=shown_all(run_log.parameters),
        run_config=shown_all(run_log.run_config),
        steps={name: picture_of_step(step) for name, step in run_log.steps.items()},
    )


def picture_of_step(step: StepLog) -> Tree:
    """The step's part of the model, with all that is below it."""
    return new_step(
        step.name,
        status=step.status,
        message=step.message,
        attempts=[attempt.message for attempt in step.attempts],
        branches={name: picture_of_branch(branch) for name, branch in step.branches.items()},
    )


def picture_of_branch(branch: BranchLog) -> Tree:
    """The branch's part of the model, with all that is below it."""
    return {
        "status": branch.status,
        "parameters": shown_all(branch.parameters),
        "steps": {name: picture_of_step(step) for name, step in branch.steps.items()},
    }


def picture_of_job(job: JobLog) -> Tree:
    """The job's part of the model."""
    return {"status": job.status, "message": job.message, "attempts": [attempt.message for attempt in job.attempts]}


def all_steps(holder: RunLog | BranchLog) -> Iterator[StepLog]:
    """All steps below, in branches too."""
    for step in holder.steps.values():
        yield step
        for branch in step.branches.values():
            yield from all_steps(branch)


def shown(value: object) -> str:
    """The value as text that tells 1, 1.0 and True apart, and in which NaN equals NaN."""
    if isinstance(value, BaseModel):
        return f"{type(value).__name__} {value.model_dump()!r}"
    return repr(value)


def shown_all(values: Mapping[str, object]) -> dict[str, str]:
    """Each value as text."""
    return {name: shown(value) for name, value in values.items()}


def order_of(run: Tree) -> list[list[str]]:
    """The names of all steps and branches in their order, which two equal dicts may not share."""
    holders = [run, *(branch for _, branch in branches_of(run))]
    return [[*holder["steps"]] for holder in holders] + [[*step["branches"]] for _, step in steps_of(run)]


def pick(things: list[T], which: int) -> T:
    """One of them."""
    return things[which % len(things)]
