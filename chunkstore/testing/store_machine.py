"""A Hypothesis machine that drives several stores on one backend beside a plain nested dict. Needs hypothesis.

    TestMyStores = store_machine(lambda: MyBackend(...)).TestCase

Each store is one process to chunkstore: it has its own cache and sessions. The dict is built here, from what was asked of
the stores, and never by `chunkstore.assembly`. Names whose dots leave it open which step a branch belongs to are not used.

A subclass may add rules of its own, and what goes wrong: every call of a store goes through one of `_ask`, `_write`, `_refused`,
`_create` and `_delete`.
"""

from __future__ import annotations

import copy
import math
import pickle
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from itertools import islice
from typing import Any, ClassVar, Final, NamedTuple, TypeAlias, TypeVar, cast

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, multiple, precondition, rule
from pydantic import BaseModel

from chunkstore import (
    TERMINAL,
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
    StoreSettings,
    keys,
)
from chunkstore.backends import Backend
from chunkstore.models import JobLog

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

LATE = "comes too late: "
"""How names begin that are written to a run that is gone, and no others: longer than texts, as hypothesis tries what it finds here."""

STORE = st.integers(0, STORES - 1)
FEW_NAMES = st.sampled_from(["train", "Train", "a.b/🎉"])
"""So that stores meet on them."""
NAMES = (
    FEW_NAMES
    | FEW_NAMES
    | st.sampled_from(SOME_NAMES)
    | st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=8)
)
SOME = st.lists(NAMES, min_size=1, max_size=3)
RUN_IDS = st.sampled_from(
    ["run", "run1", "run10", "Run", "run.1", "run 1", "run%2F1", "数据", "🎉", ".r", "r.", "x" * 150]
)
BAD_RUN_IDS = st.sampled_from(["", " ", ".", "..", "a/b", "../x", "a\\b", "a\nb", "\x00", "x" * 300, "\ud800"])
STATUSES = st.sampled_from(["CREATED", "TRIGGERED", "PROCESSING", "SUCCESS", "FAIL", "success", "Fail", "a newer one"])
TEXTS = st.text(max_size=8)
ODD_NUMBERS = st.sampled_from([0, -0.0, 0.0, 1, 1.0, True, 2**53 + 1, 2**64, -(10**30), 5e-324, math.nan, math.inf])
PLAIN = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(), max_size=6) | ODD_NUMBERS
DEEP = st.builds(lambda levels, value: nested(levels, value), st.integers(1, 100), PLAIN)  # noqa: PLW0108  defined below
LONG = st.integers(30, 3999).map(lambda digits: 10**digits)
VALUES = (
    DEEP
    | LONG
    | ODD_NUMBERS
    | st.recursive(
        PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3), max_leaves=6
    )
)
TYPED = (
    st.builds(JsonParameter, value=VALUES)
    | st.builds(MetricParameter, value=VALUES)
    | st.builds(ObjectParameter, value=TEXTS)
)
PARAMETERS = st.dictionaries(NAMES, VALUES | TYPED, max_size=4)
WHICH = st.integers(0, 1_000)
"""Picks one of however many there are."""
TREES = st.dictionaries(
    NAMES,
    st.recursive(
        st.just(cast("dict[str, Any]", {})),
        lambda inner: st.dictionaries(NAMES, st.dictionaries(NAMES, inner, max_size=2), max_size=2),
        max_leaves=5,
    ),
    max_size=3,
)
"""Steps by their names: in each its branches by their values, in each of those its steps."""


Logged: TypeAlias = RunLog | StepLog | BranchLog | JobLog


@dataclass(frozen=True)
class Edit:
    """What somebody changes in an object before writing it back. None, 0 or nothing changes nothing."""

    status: str | None
    message: str | None
    attempts: int
    records: int
    """Code identities and data."""
    value: object
    """Noted in each attempt."""
    parameters: dict[str, object]
    """Of the run or the branch itself."""
    below: bool
    """In a run log: the job and the steps too."""


EDITS = st.builds(
    Edit,
    status=st.none() | STATUSES,
    message=st.none() | TEXTS,
    attempts=st.integers(0, 2),
    records=st.integers(0, 2),
    value=VALUES,
    parameters=st.just(cast("dict[str, object]", {})) | PARAMETERS,
    below=st.booleans(),
)


class Lost(Enum):
    """What `_ask` returns where there was no answer; never in this machine itself."""

    LOST = "lost"


LOST = Lost.LOST

FULL: Final = ("run", "snapshot")
"""The sorts of reading that give all of a run."""


class Put(NamedTuple):
    """A parameter that is written; where that is not sure, nobody can tell whether the process still knew the value."""

    scope: str
    name: str
    value: str
    sure: bool


class Doubt(NamedTuple):
    """A field of an object that a call which failed may have written already: then the next call does not write it again."""

    sort: str
    name: str
    field: str


@dataclass(eq=False)
class Held:
    """A model object in somebody's hands, and the store of which it was read; it may be stale."""

    store: ChunkedRunLogStore
    run_id: str
    life: int
    thing: Logged
    fields: dict[tuple[str, str], Tree]
    """What each object in it was when it was read or written, by sort and internal name."""
    parameters: dict[str, dict[str, str]]
    """The same of the parameters that it holds, by scope."""
    tried: list[tuple[dict[tuple[str, str], Tree], dict[str, dict[str, str]]]] = field(default_factory=list)
    """The same of both, as they were in each call since then that failed, and that may have written any of it."""


@dataclass(eq=False)
class HeldParameters:
    """Parameters in somebody's hands, what they were when they were read, and of which store."""

    store: ChunkedRunLogStore
    run_id: str
    life: int
    scope: str
    parameters: Parameters
    seen: dict[str, str]


NOT_SEEN: frozenset[str | None] = frozenset({None})


@dataclass
class Process:
    """A store, and the parameters that it last saw: what it is given again unchanged, it does not write."""

    store: ChunkedRunLogStore
    forgets: bool = False
    """Whether its cache is so small that nobody can tell what is in it."""
    saw: dict[tuple[str, str, str], frozenset[str | None]] = field(default_factory=dict)
    """By run, scope and name: what it may have seen last; None is for nothing."""

    def sees(self, run_id: str, scope: str, name: str, value: str) -> None:
        """It has just read or written this."""
        self.saw[run_id, scope, name] = frozenset({value, None}) if self.forgets else frozenset({value})

    def may_have_seen(self, run_id: str, scope: str, name: str, value: str | None) -> None:
        """It may have; or not."""
        place = (run_id, scope, name)
        self.saw[place] = self.saw.get(place, NOT_SEEN) | {value}


class StoreMachine(RuleBasedStateMachine):
    """Stores and the dict that they should be like; `store_machine` fills in the first two."""

    held = Bundle("held")
    held_parameters = Bundle("held_parameters")

    settings: ClassVar[StoreSettings] = StoreSettings()
    ids_come_again: ClassVar[bool] = False
    """Whether ids of deleted runs are used again, while stores still know chunks of the runs that are gone."""
    thrifty: ClassVar[bool] = False
    """Whether a step is followed by reading only what it touched; the rest is read in the end."""

    def make(self) -> Backend:
        """A new backend on an empty place."""
        raise NotImplementedError

    def clean_up(self) -> None:
        """Takes the place away."""
        raise NotImplementedError

    def __init__(self) -> None:
        super().__init__()
        self.backend = self.make()
        self.runs: dict[str, Tree] = {}
        self.deleted: set[str] = set()
        self.lives: dict[str, int] = {}
        self.touched: set[str] = set()
        self.numbers = 0
        self.processes = [self._new_process(number) for number in range(STORES)]

    # Runs.

    @initialize()
    def first_run(self) -> None:
        self._create(self.processes[0], "run", lambda: self.processes[0].store.create_run_log("run"), new_run())

    @rule(number=STORE, run_id=RUN_IDS, tag=TEXTS, status=STATUSES)
    def create_run(self, number: int, run_id: str, tag: str, status: str) -> None:
        process = self.processes[number]
        if run_id in self.runs:
            self._refused(process, RunLogExistsError, lambda: process.store.create_run_log(run_id, tag=tag))
        elif run_id not in self.deleted or self.ids_come_again:
            fields = {"tag": tag, "dag_hash": "hash", "original_run_id": "before"}
            after = new_run(**fields, status=status.upper())

            def create() -> None:
                made = process.store.create_run_log(run_id, **cast(Any, fields), status=status)
                assert picture(made) == after

            self._create(process, run_id, create, after)

    @rule(number=STORE, run_id=RUN_IDS, bad=BAD_RUN_IDS, name=NAMES)
    def look_for_a_run_that_is_not_there(self, number: int, run_id: str, bad: str, name: str) -> None:
        process = self.processes[number]
        store = process.store
        self._refused(process, InvalidInputError, lambda: store.create_run_log(bad))
        if run_id in self.runs or (self.ids_come_again and run_id in self.deleted):
            return
        reads: list[Callable[[], object]] = [
            lambda: store.get_run_log_by_id(run_id),
            lambda: store.get_run_log_by_id(run_id, full=False),
            lambda: store.read_run_log(run_id),
            lambda: store.get_branch_log("", run_id),
            lambda: store.get_parameters(run_id),
            lambda: store.get_run_config(run_id),
            lambda: store.update_run_log_status(run_id, "FAIL"),
        ]
        for read in reads:
            self._refused(process, RunLogNotFoundError, read)
        # A process that has seen the run does not ask for it again before each write; a new one does.
        new = ChunkedRunLogStore(self.backend)
        writes: list[Callable[[], object]] = [
            lambda: new.set_run_config(run_id, {"a": 1}),
            lambda: new.get_step_log(name, run_id),
            lambda: new.get_branch_log(name, run_id),
            lambda: new.get_job_log(run_id),
            lambda: new.get_parameter(run_id, name),
            lambda: new.set_parameters(run_id, {name: 1}),
            lambda: new.add_step_log(new.create_step_log(name, name), run_id),
            lambda: new.add_branch_log(new.create_branch_log(f"a.{name}"), run_id),
            lambda: new.add_job_log(run_id, new.create_job_log()),
            lambda: new.delete_run_log(run_id),
        ]
        for write in writes:
            with pytest.raises(RunLogNotFoundError):
                write()

    @rule(number=STORE, which=WHICH)
    def delete_run(self, number: int, which: int) -> None:
        if len(self.runs) == 1:
            return
        run_id = self._run(which)
        self._delete(self.processes[number], run_id)

    @precondition(lambda self: self.ids_come_again and self.deleted)
    @rule(number=STORE, which=WHICH, name=NAMES, again=st.booleans())
    def write_to_a_run_that_is_gone(self, number: int, which: int, name: str, again: bool) -> None:
        """Where stores hold no folders it may land; no later run of the same id may take it for its own."""
        run_id = pick(sorted(self.deleted - self.runs.keys()) or [""], which)
        if not run_id:
            return
        process = self.processes[number]
        store = process.store
        late = f"{LATE}{name}"
        with suppress(RunLogNotFoundError):
            store.add_step_log(store.create_step_log(late, late), run_id)
        with suppress(RunLogNotFoundError):
            store.set_parameters(run_id, {late: 1})
        process.may_have_seen(run_id, "", late, "1")
        if again:
            self._create(process, run_id, lambda: store.create_run_log(run_id, tag="again"), new_run(tag="again"))

    @rule(number=STORE, which=WHICH, status=STATUSES)
    def set_status(self, number: int, which: int, status: str) -> None:
        run_id = self._run(which)
        process = self.processes[number]
        after = {**copied(self.runs[run_id]), "status": status.upper()}
        self._write(process, run_id, lambda: process.store.update_run_log_status(run_id, status), after)

    @rule(number=STORE, which=WHICH, end=st.booleans())
    def pack_a_run(self, number: int, which: int, end: bool) -> None:
        """Nothing changes for anybody, whatever stores know of the run or hold of it."""
        run_id = self._run(which)
        process = self.processes[number]
        if self.runs[run_id]["status"] not in TERMINAL and end:
            after = {**copied(self.runs[run_id]), "status": "SUCCESS"}
            self._write(process, run_id, lambda: process.store.update_run_log_status(run_id, "SUCCESS"), after)
        if self.runs[run_id]["status"] in TERMINAL:
            self._write(process, run_id, lambda: process.store.compact(run_id), copied(self.runs[run_id]))
        else:
            self._refused(process, InvalidInputError, lambda: process.store.compact(run_id))

    @rule(number=STORE, which=WHICH, config=st.dictionaries(TEXTS, VALUES, max_size=3))
    def set_config(self, number: int, which: int, config: dict[str, object]) -> None:
        run_id = self._run(which)
        process = self.processes[number]
        after = copied(self.runs[run_id])
        after["run_config"] |= shown_all(config)
        self._write(process, run_id, lambda: process.store.set_run_config(run_id, config), after)
        found = self._ask(process, lambda: process.store.get_run_config(run_id))
        assert found is LOST or shown_all(found) == self.runs[run_id]["run_config"]

    @rule(number=STORE, tree=TREES, data=PARAMETERS)
    def put_a_run_made_by_hand(self, number: int, tree: Tree, data: dict[str, object]) -> None:
        run_id = f"by hand {len(self.runs) + len(self.deleted)}"
        if run_id in self.runs or run_id in self.deleted:
            return
        process = self.processes[number]
        after = new_run(tag="by hand", parameters=shown_all(data))
        made = RunLog(run_id=run_id, tag="by hand")
        made.parameters = cast(Any, data)
        self._grow(made, after, after, "", tree, data)
        if self._create(process, run_id, lambda: process.store.put_run_log(made), after):
            self._saw_all(process, run_id)

    @rule(
        number=STORE,
        run_ids=st.none() | st.lists(RUN_IDS, unique=True, max_size=5),
        tag=st.just("") | st.sampled_from(["by hand"]) | TEXTS,
        status=st.just("") | STATUSES,
        limit=st.none() | st.integers(0, 3),
    )
    def find_runs(self, number: int, run_ids: list[str] | None, tag: str, status: str, limit: int | None) -> None:
        process = self.processes[number]
        found = self._ask(process, lambda: process.store.get_run_logs(run_ids, tag, status, limit))
        if found is not LOST:
            self._check_headers(found, self._wanted(run_ids, tag, status), limit)

    @rule(number=STORE, tag=st.just("") | TEXTS, status=st.just("") | STATUSES, limit=st.integers(1, 3))
    def page_and_stream_through_runs(self, number: int, tag: str, status: str, limit: int) -> None:
        store, paged, cursor = self.processes[number].store, list[RunLog](), ""
        while True:
            page = self._ask(
                self.processes[number],
                lambda cursor=cursor: store.find_runs(tag=tag, status=status, limit=limit, cursor=cursor),  # type: ignore[misc]
            )
            if page is LOST:
                return
            paged += page.runs
            cursor = page.cursor
            if not cursor:
                break
        streamed = self._ask(self.processes[number], lambda: list(store.iter_run_logs(tag=tag, status=status)))
        run_ids = self._ask(self.processes[number], lambda: sorted(store.iter_run_ids()))
        for found in (paged, streamed):
            if found is not LOST:
                self._check_headers(found, self._wanted(None, tag, status), None)
        assert run_ids is LOST or self._are_all_runs(run_ids)

    def _wanted(self, run_ids: list[str] | None, tag: str, status: str) -> list[str]:
        """The runs that match, the newest first."""
        return [
            run_id
            for run_id, run in reversed(self.runs.items())
            if (run_ids is None or run_id in run_ids)
            and (not tag or run["tag"] == tag)
            and (not status or run["status"] == status.upper())
        ]

    def _check_headers(self, found: list[RunLog], wanted: list[str], limit: int | None) -> None:
        self._check_found(wanted, [run.run_id for run in found], limit)
        for run in found:
            assert picture(run) == {**self.runs[run.run_id], "parameters": {}, "steps": {}, "job": None}

    @rule(number=STORE, full=st.booleans())
    def reindex_the_runs(self, number: int, full: bool) -> None:
        process = self.processes[number]
        report = self._ask(process, lambda: process.store.reindex(full=full))
        finished = [run_id for run_id, run in self.runs.items() if run["status"] in TERMINAL]
        assert report is LOST or report.runs <= len(finished)  # one that is damaged, or odd, is not in it

    # Steps and branches.

    @rule(target=held, numbers=st.tuples(STORE, STORE, STORE), which=WHICH, where=WHICH, names=SOME, edit=EDITS)
    def add_steps(self, numbers: tuple[int, ...], which: int, where: int, names: list[str], edit: Edit) -> object:
        """Side by side, one after the other, each by another store."""
        run_id = self._run(which)
        held = [
            self._add_step(self.processes[number], run_id, where, name, edit)
            for number, name in zip(numbers, names, strict=False)
        ]
        return multiple(*(one for one in held if isinstance(one, Held)))

    def _add_step(self, process: Process, run_id: str, where: int, name: str, edit: Edit) -> object:
        after = copied(self.runs[run_id])
        scope, steps = self._holder(after, where)
        internal_name = f"{scope}.{name}" if scope else name
        if not fits_step(after, scope, name, internal_name):
            return multiple()
        step = process.store.create_step_log(name, internal_name)
        self._edit(process, step, edit)
        steps[internal_name] = {**new_step(name), **fields_of(step)}
        return self._stored(process, run_id, step, after, lambda: process.store.add_step_log(step, run_id))

    @rule(target=held, number=STORE, which=WHICH, where=WHICH, tree=TREES, data=PARAMETERS)
    def add_a_composite_step(self, number: int, which: int, where: int, tree: Tree, data: dict[str, object]) -> object:
        run_id = self._run(which)
        after = copied(self.runs[run_id])
        scope, steps = self._holder(after, where)
        made = BranchLog(internal_name=scope or "none")
        first = dict(list(tree.items())[:1])
        self._grow(made, after, {"steps": steps}, scope, first, data)
        if not made.steps:
            return multiple()
        process, (step,) = self.processes[number], made.steps.values()
        held = self._stored(process, run_id, step, after, lambda: process.store.add_step_log(step, run_id))
        if isinstance(held, Held):
            for branch in all_branches([step]):
                self._saw(process, run_id, branch.internal_name)
        return held

    @rule(target=held, number=STORE, which=WHICH, where=WHICH, value=NAMES, data=PARAMETERS)
    def add_branch(self, number: int, which: int, where: int, value: str, data: dict[str, object]) -> object:
        run_id = self._run(which)
        after = copied(self.runs[run_id])
        steps = dict(steps_of(after))
        if not steps:
            return multiple()
        parent, step = pick(list(steps.items()), where)
        name = f"{parent}.{value}"
        if not fits_branch(after, parent, name):
            return multiple()
        process = self.processes[number]
        branch = process.store.create_branch_log(name, data)
        step["branches"][name] = {**new_branch(), "parameters": shown_all(data)}
        held = self._stored(process, run_id, branch, after, lambda: process.store.add_branch_log(branch, run_id))
        if isinstance(held, Held):
            self._saw(process, run_id, name)
        return held

    @rule(which=WHICH, where=WHICH, edit=EDITS)
    def a_new_process_adds_a_step_that_is_there(self, which: int, where: int, edit: Edit) -> None:
        """It made its step log by hand: what it says holds, what it has in lists comes in addition."""
        run_id = self._run(which)
        after = copied(self.runs[run_id])
        steps = dict(steps_of(after))
        if not steps:
            return
        internal_name, model = pick(list(steps.items()), where)
        process = self._new_process(0)
        step = process.store.create_step_log(model["name"], internal_name)
        self._edit(process, step, edit)
        mine = fields_of(step)
        model |= {name: model[name] + value if isinstance(value, list) else value for name, value in mine.items()}
        self._write(process, run_id, lambda: process.store.add_step_log(step, run_id), after)
        process.store.close()

    @rule(target=held, number=STORE, which=WHICH, where=WHICH)
    def read_something(self, number: int, which: int, where: int) -> object:
        run_id = self._run(which)
        held = self._read(self.processes[number], run_id, pick(self._readable(run_id), where))
        return multiple() if held is LOST else held

    @rule(number=STORE, which=WHICH)
    def follow_a_run(self, number: int, which: int) -> None:
        run_id = self._run(which)
        run, process = self.runs[run_id], self.processes[number]
        there = {("step", "", name) for name, _ in steps_of(run)} | {
            ("branch", "", name) for name, _ in branches_of(run)
        }
        scopes = {"": run["parameters"], **{name: branch["parameters"] for name, branch in branches_of(run)}}
        there |= {("parameter", scope, name) for scope, found in scopes.items() for name in found}
        there |= {("run", "", "")} | ({("job", "", "")} if run["job"] is not None else set())
        # After the first look comes a pause.
        for look in (
            lambda: list(islice(process.store.follow(run_id), len(there))),
            lambda: list(process.store.iter_chunks(run_id)),
        ):
            looked = self._ask(process, look)
            if looked is LOST:
                return
            assert sorted((change.kind, change.scope, change.name) for change in looked) == sorted(there)
            assert {change.sort for change in looked} == {"new"}
        self._saw_all(process, run_id)
        self._seen(process, run_id, self._names(run))

    @rule(number=STORE, which=WHICH, name=NAMES)
    def look_for_what_is_not_there(self, number: int, which: int, name: str) -> None:
        run_id = self._run(which)
        run, process = self.runs[run_id], self.processes[number]
        store = process.store
        if name not in dict(steps_of(run)):
            self._refused(process, StepLogNotFoundError, lambda: store.get_step_log(name, run_id))
        if name not in dict(branches_of(run)):
            self._refused(process, BranchLogNotFoundError, lambda: store.get_branch_log(name, run_id))
            self._refused(process, BranchLogNotFoundError, lambda: store.get_parameters(run_id, name))
        if name not in run["parameters"]:
            self._refused(process, ParameterNotFoundError, lambda: store.get_parameter(run_id, name))
        if run["job"] is None:
            self._refused(process, JobLogNotFoundError, lambda: store.get_job_log(run_id))

    # Writing what was read, maybe long ago: what its holder changed is written, and nothing else.

    @rule(held=held, edit=EDITS)
    def write_back(self, held: Held, edit: Edit) -> None:
        if self._is_alive(held):
            self._change(held, edit)

    @rule(numbers=st.tuples(STORE, STORE), which=WHICH, where=WHICH, edits=st.tuples(EDITS, EDITS, EDITS))
    def two_change_the_same(
        self, numbers: tuple[int, int], which: int, where: int, edits: tuple[Edit, Edit, Edit]
    ) -> None:
        run_id = self._run(which)
        what = pick(self._readable(run_id), where)
        ours, theirs = (self._read(self.processes[number], run_id, what) for number in numbers)
        for held, edit in zip((theirs, ours, theirs), edits, strict=True):
            if held is not LOST:
                self._change(held, edit)

    @rule(target=held, number=STORE, which=WHICH, edit=EDITS)
    def add_a_job(self, number: int, which: int, edit: Edit) -> object:
        run_id = self._run(which)
        process = self.processes[number]
        if self.runs[run_id]["job"] is None:
            job = process.store.create_job_log()
            self._edit(process, job, edit)
            after = copied(self.runs[run_id])
            after["job"] = fields_of(job)
            after["status"] = job.status.upper()
            return self._stored(process, run_id, job, after, lambda: process.store.add_job_log(run_id, job))
        held = self._read(process, run_id, ("job", ""))
        if held is LOST:
            return multiple()
        self._change(held, edit)
        return held

    # Parameters.

    @rule(number=STORE, which=WHICH, where=WHICH, data=PARAMETERS)
    def set_parameters(self, number: int, which: int, where: int, data: dict[str, object]) -> None:
        run_id = self._run(which)
        process = self.processes[number]
        after = copied(self.runs[run_id])
        scope, model = self._scope(after, where)
        given = shown_all(copy.deepcopy(data))
        puts = self._put_in(process, run_id, scope, model, given, {})
        self._write(process, run_id, lambda: process.store.set_parameters(run_id, data, scope), after, puts)
        assert shown_all(data) == given

    @rule(target=held_parameters, number=STORE, which=WHICH, where=WHICH)
    def get_parameters(self, number: int, which: int, where: int) -> object:
        run_id = self._run(which)
        process = self.processes[number]
        scope, model = self._scope(self.runs[run_id], where)
        found = self._ask(process, lambda: process.store.get_parameters(run_id, scope))
        if found is LOST:
            return multiple()
        if self.ids_come_again:  # a process that has not met this run cannot tell what an earlier run of its id left
            for name in [name for name in found if name.startswith(LATE)]:
                del found[name]
        assert shown_all(found) == model
        self._saw(process, run_id, scope)
        return HeldParameters(process.store, run_id, self.lives[run_id], scope, found, dict(model))

    @rule(held=held_parameters, data=PARAMETERS)
    def hand_parameters_back(self, held: HeldParameters, data: dict[str, object]) -> None:
        process = self._process_of(held.store)
        if process is None or not self._is_alive(held):
            return
        store, run_id, scope = process.store, held.run_id, held.scope
        held.parameters.update(data)
        after = copied(self.runs[run_id])
        model = dict(branches_of(after))[scope]["parameters"] if scope else after["parameters"]
        mine = shown_all(held.parameters)
        puts = self._put_in(process, run_id, scope, model, mine, held.seen)
        if self._write(process, run_id, lambda: store.set_parameters(run_id, held.parameters, scope), after, puts):
            held.seen |= mine

    @rule(numbers=st.tuples(STORE, STORE), which=WHICH, where=WHICH, data=PARAMETERS, value=VALUES)
    def one_hands_all_back_that_another_set_meanwhile(
        self, numbers: tuple[int, int], which: int, where: int, data: dict[str, object], value: object
    ) -> None:
        self.set_parameters(numbers[0], which, where, data)
        held = self.get_parameters(numbers[0], which, where)
        if isinstance(held, HeldParameters):
            self.set_parameters(numbers[1], which, where, dict.fromkeys(held.parameters, value))
            self.hand_parameters_back(held, {})

    @rule(number=STORE, which=WHICH, where=WHICH, name=WHICH)
    def get_one_parameter(self, number: int, which: int, where: int, name: int) -> None:
        run_id = self._run(which)
        scope, model = self._scope(self.runs[run_id], where)
        if model:
            wanted, expected = pick(list(model.items()), name)
            process = self.processes[number]
            found = self._ask(process, lambda: process.store.get_parameter(run_id, wanted, scope))
            if found is not LOST:
                assert shown(found) == expected
                process.sees(run_id, scope, wanted, expected)

    # Other processes, other times.

    @rule(number=STORE)
    def a_process_ends_and_another_begins(self, number: int) -> None:
        self.processes[number].store.close()
        self.processes[number] = self._new_process(number)

    @rule(number=STORE)
    def a_pickled_copy_goes_on(self, number: int) -> None:
        before = self.processes[number]
        self.processes[number] = Process(pickle.loads(pickle.dumps(before.store)), before.forgets)

    @rule(number=STORE)
    def a_store_is_closed_and_used_again(self, number: int) -> None:
        process = self.processes[number]
        process.store.close()
        assert process.store.supports_parallel_writes is self.backend.guarantees.across_processes
        assert self.backend.place in str(process.store.get_summary()["Location"])
        found = self._ask(process, process.store.list_run_ids)
        assert found is LOST or self._are_all_runs(found)

    @invariant()
    def a_new_process_reads_what_is_in_the_model(self) -> None:
        if self.touched or not self.thrifty:
            self._check(self.touched if self.thrifty else self.runs)

    def teardown(self) -> None:
        try:
            self._check(self.runs)
        finally:
            for process in self.processes:
                process.store.close()
            self.clean_up()

    # What a subclass may change: how stores are made and called, and what is known of the order of what they made.

    def _new_process(self, number: int) -> Process:
        """One that knows nothing; `number` is the place that it takes."""
        forgets = self.settings.known_bytes < StoreSettings().known_bytes
        return Process(ChunkedRunLogStore(self.backend, settings=self.settings), forgets)

    def _ask(self, process: Process, call: Callable[[], T]) -> T | Lost:
        """The answer of a process's store."""
        return call()

    def _refused(self, process: Process, error: type[Exception], call: Callable[[], object]) -> None:
        """A call that must fail."""
        with pytest.raises(error):
            call()

    def _write(
        self,
        process: Process,
        run_id: str,
        call: Callable[[], object],
        after: Tree,
        puts: Iterable[Put] = (),
        doubts: Iterable[Doubt] = (),
    ) -> bool:
        """A call that makes `after` of the run; whether it was acknowledged."""
        if (
            self.lives[run_id] > 1
        ):  # who knows but an earlier run of this id writes to that one, and what it writes is left over
            process.store.get_run_config(run_id)
        call()
        self._settle(process, run_id, after, puts, doubts)
        return True

    def _create(self, process: Process, run_id: str, call: Callable[[], object], after: Tree) -> bool:
        """A call that makes the run; whether it was acknowledged."""
        call()
        self._began(run_id, after)
        self._made(process, run_id, self._names(after))
        return True

    def _delete(self, process: Process, run_id: str) -> None:
        process.store.delete_run_log(run_id)
        self._ended(run_id)

    def _made(self, process: Process, run_id: str, names: Iterable[str]) -> None:
        """The process made these steps and branches, after all that it had seen."""

    def _seen(self, process: Process, run_id: str, names: Iterable[str]) -> None:
        """The process read these steps and branches."""

    def _check_order(self, run_id: str, found: Tree) -> None:
        assert order_of(found) == order_of(self.runs[run_id])

    def _check_found(self, wanted: list[str], found: list[str], limit: int | None) -> None:
        assert found == wanted[:limit]

    # Inside.

    def _check(self, run_ids: Iterable[str]) -> None:
        store = ChunkedRunLogStore(self.backend)
        assert self._are_all_runs(store.list_run_ids())
        for run_id in [run_id for run_id in self.runs if run_id in run_ids]:
            reading = store.read_run_log(run_id)
            assert {(one.sort, one.name) for one in reading.findings} == self._left_over(run_id)
            found = picture(reading.run_log)
            assert found == self.runs[run_id]
            self._check_order(run_id, found)
        store.close()
        self.touched = set()

    def _left_over(self, run_id: str) -> set[tuple[str, str]]:
        """The findings that late writers to an earlier run of this id are the reason of."""
        if not self.ids_come_again:
            return set()
        listed = [entry.key for entry in self.backend.list(keys.prefix_of_run(run_id))]
        chunks = [(key, keys.parse(key)) for key in listed]
        return {("left over", key) for key, chunk in chunks if chunk is not None and chunk.name.startswith(LATE)}

    def _are_all_runs(self, found: list[str]) -> bool:
        if self.ids_come_again:  # what a late writer left of a run that is gone may be listed
            found = [run_id for run_id in found if run_id in self.runs or run_id not in self.deleted]
        return found == sorted(self.runs)

    def _began(self, run_id: str, after: Tree) -> None:
        self.runs[run_id] = after
        self.lives[run_id] = self.lives.get(run_id, 0) + 1
        self.touched.add(run_id)
        if run_id in self.deleted:
            for process in self.processes:
                for _, scope, name in [place for place in process.saw if place[0] == run_id]:
                    process.may_have_seen(run_id, scope, name, None)

    def _ended(self, run_id: str) -> None:
        del self.runs[run_id]
        self.deleted.add(run_id)
        self.touched.add(run_id)

    def _settle(
        self, process: Process, run_id: str, after: Tree, puts: Iterable[Put], doubts: Iterable[Doubt] = ()
    ) -> None:
        """The write is done: `after` is what there is, but for what it may have left alone."""
        before = self.runs[run_id]
        for doubt in doubts:
            self._find_out_field(run_id, doubt, before, after)
        for put in puts:
            if not put.sure:
                self._find_out(run_id, put, parameters_of(before, put.scope), parameters_of(after, put.scope))
            process.sees(run_id, put.scope, put.name, put.value)
        self.runs[run_id] = after
        self.touched.add(run_id)
        self._made(process, run_id, self._names(after) - self._names(before))

    def _find_out(self, run_id: str, put: Put, before: Tree, after: Tree) -> None:
        """Whether it was written."""
        found = shown_all(ChunkedRunLogStore(self.backend).get_parameters(run_id, put.scope)).get(put.name)
        assert found in (before.get(put.name), put.value)
        if found is None:
            del after[put.name]
        else:
            after[put.name] = found

    def _find_out_field(self, run_id: str, doubt: Doubt, before: Tree, after: Tree) -> None:
        """Whether it was written."""
        sort, name, field = doubt
        found = picture(ChunkedRunLogStore(self.backend).get_run_log_by_id(run_id))
        value, model = model_of(found, sort, name)[field], model_of(after, sort, name)
        assert value in (model_of(before, sort, name)[field], model[field])
        model[field] = value

    def _put_in(
        self,
        process: Process,
        run_id: str,
        scope: str,
        model: Tree,
        given: dict[str, str],
        base: Mapping[str, str],
        tried: Iterable[Mapping[str, str]] = (),
    ) -> list[Put]:
        """Sets in the model what the process writes of the parameters given; returns those."""
        puts = []
        for name, value in given.items():
            possible = frozenset({base[name]}) if name in base else process.saw.get((run_id, scope, name), NOT_SEEN)
            possible |= {one[name] for one in tried if name in one}
            if possible != {value}:
                puts.append(Put(scope, name, value, value not in possible))
                model[name] = value
        return puts

    def _stored(self, process: Process, run_id: str, thing: Logged, after: Tree, call: Callable[[], object]) -> object:
        """Stores a thing that is new, for the bundle."""
        acknowledged = self._write(process, run_id, call, after)
        return self._held(process, run_id, thing) if acknowledged else multiple()

    def _held(self, process: Process, run_id: str, thing: Logged) -> Held:
        """The thing, which has just been read or written as it is."""
        held = Held(process.store, run_id, self.lives[run_id], thing, {}, {})
        self._is_as_written(held)
        return held

    def _is_as_written(self, held: Held) -> None:
        held.fields, held.parameters, held.tried = all_fields(held.thing), all_parameters(held.thing), []

    def _is_alive(self, held: Held | HeldParameters) -> bool:
        return (
            held.run_id in self.runs
            and self.lives[held.run_id] == held.life
            and self._process_of(held.store) is not None
        )

    @staticmethod
    def _names(run: Tree) -> set[str]:
        return {f"step {name}" for name, _ in steps_of(run)} | {f"branch {name}" for name, _ in branches_of(run)}

    def _run(self, which: int) -> str:
        """The first one half of the time, so that it grows."""
        return pick(list(self.runs), which // 2 if which % 2 else 0)

    def _holder(self, run: Tree, where: int) -> tuple[str, Tree]:
        """A branch's name and its steps; or the run's own steps."""
        return pick([("", run["steps"]), *((name, branch["steps"]) for name, branch in branches_of(run))], where)

    def _scope(self, run: Tree, where: int) -> tuple[str, Tree]:
        scope = pick(["", *dict(branches_of(run))], where)
        return scope, parameters_of(run, scope)

    def _grow(
        self, holder: RunLog | BranchLog, run: Tree, model: Tree, scope: str, tree: Tree, data: dict[str, object]
    ) -> None:
        """Steps with branches with steps, in the holder and in its model; names that would be unclear are left out."""
        for name, branches in tree.items():
            internal_name = f"{scope}.{name}" if scope else name
            if not fits_step(run, scope, name, internal_name):
                continue
            step = holder.steps[internal_name] = StepLog(name=name, internal_name=internal_name)
            step_model = model["steps"][internal_name] = new_step(name)
            for value, inner in branches.items():
                branch_name = f"{internal_name}.{value}"
                if fits_branch(run, internal_name, branch_name):
                    branch = BranchLog(internal_name=branch_name, parameters=cast(Any, dict(data)))
                    step.branches[branch_name] = branch
                    below = step_model["branches"][branch_name] = {**new_branch(), "parameters": shown_all(data)}
                    self._grow(branch, run, below, branch_name, inner, data)

    def _process_of(self, store: ChunkedRunLogStore) -> Process | None:
        return next((process for process in self.processes if process.store is store), None)

    def _readable(self, run_id: str) -> list[tuple[str, str]]:
        """Sort and name of all that can be read of a run."""
        run = self.runs[run_id]
        job = [("job", "")] if run["job"] is not None else []
        steps = [("step", name) for name, _ in steps_of(run)]
        branches = [("branch", name) for name, _ in branches_of(run)]
        return [("run", ""), ("snapshot", ""), ("header", ""), ("header as a branch", ""), *job, *steps, *branches]

    def _read(self, process: Process, run_id: str, what: tuple[str, str]) -> Held | Lost:
        """Reads it, and compares it with the model."""
        store, (sort, name) = process.store, what
        reads: dict[str, Callable[[], Logged]] = {
            "step": lambda: store.get_step_log(name, run_id),
            "branch": lambda: store.get_branch_log(name, run_id),
            "job": lambda: store.get_job_log(run_id),
            "run": lambda: store.get_run_log_by_id(run_id),
            "snapshot": lambda: store.get_run_log_by_id(run_id, consistency="snapshot"),
            "header": lambda: store.get_run_log_by_id(run_id, full=False),
            "header as a branch": lambda: store.get_branch_log("", run_id),
        }
        found = self._ask(process, reads[sort])
        if found is LOST:
            return LOST
        run = self.runs[run_id]
        if isinstance(found, StepLog):
            assert picture_of_step(found) == {**dict(steps_of(run))[name], "branches": {}}
        elif isinstance(found, BranchLog):
            assert picture_of_branch(found) == {**dict(branches_of(run))[name], "steps": {}, "parameters": {}}
        elif isinstance(found, JobLog):
            assert fields_of(found) == run["job"]
        else:
            assert picture(found) == (run if sort in FULL else {**run, "steps": {}})
            self._saw(process, run_id, "")
        if sort in FULL:
            self._saw_all(process, run_id)
            self._seen(process, run_id, self._names(run))
        elif name:
            self._seen(process, run_id, [f"{sort} {name}"])
        return self._held(process, run_id, found)

    def _change(self, held: Held, edit: Edit) -> None:
        """Changes what is held, writes it back, and changes just that in the model."""
        process = self._process_of(held.store)
        assert process is not None
        for (sort, _), part in parts_of(held.thing):
            if part is held.thing or (edit.below and sort in ("step", "job")):
                self._edit(process, part, edit)
        if isinstance(held.thing, RunLog | BranchLog):
            held.thing.parameters.update(cast(Any, edit.parameters))
        after = copied(self.runs[held.run_id])
        puts: list[Put] = []
        doubts: list[Doubt] = []
        for (sort, name), part in parts_of(held.thing):
            bases = [held.fields[sort, name], *(fields[sort, name] for fields, _ in held.tried)]
            unsure = bring_over(bases, fields_of(part), model_of(after, sort, name))
            doubts += [Doubt(sort, name, one) for one in unsure]
            if isinstance(part, RunLog | BranchLog):
                given, base = shown_all(part.parameters), held.parameters[name]
                tried = [parameters[name] for _, parameters in held.tried]
                puts += self._put_in(process, held.run_id, name, parameters_of(after, name), given, base, tried)
        if isinstance(held.thing, JobLog):
            after["status"] = held.thing.status.upper()
        if self._write(process, held.run_id, lambda: write(held.store, held.run_id, held.thing), after, puts, doubts):
            self._is_as_written(held)
        else:
            held.tried.append((all_fields(held.thing), all_parameters(held.thing)))

    def _edit(self, process: Process, thing: Logged, edit: Edit) -> None:
        """Changes the object alone. Each attempt is like no other: its message is its number."""
        if edit.status is not None:
            thing.status = edit.status
        if isinstance(thing, StepLog | JobLog):
            if edit.message is not None:
                thing.message = edit.message
            for _ in range(edit.attempts):
                self.numbers += 1
                attempt = process.store.create_attempt_log()
                attempt.attempt_number, attempt.message = self.numbers, str(self.numbers)
                attempt.output_parameters["out"] = cast(Any, copy.deepcopy(edit.value))
                thing.attempts.append(attempt)
            for _ in range(edit.records):
                self.numbers += 1
                code = process.store.create_code_identity()
                code.code_identifier = str(self.numbers)
                thing.code_identities.append(code)
                thing.add_data_catalogs([process.store.create_data_catalog(str(self.numbers))])

    def _saw(self, process: Process, run_id: str, scope: str) -> None:
        """The process has just read or written all parameters of the scope."""
        for name, value in parameters_of(self.runs[run_id], scope).items():
            process.sees(run_id, scope, name, value)

    def _saw_all(self, process: Process, run_id: str) -> None:
        for scope in ["", *dict(branches_of(self.runs[run_id]))]:
            self._saw(process, run_id, scope)


def store_machine(
    new_backend: Callable[[], Backend],
    *,
    remove: Callable[[Backend], object] = lambda backend: None,
    examples: int = 60,
    steps: int = 40,
    store_settings: StoreSettings = StoreSettings(),  # noqa: B008  frozen
) -> type[StoreMachine]:
    """A machine on the backends that `new_backend` gives, each on an empty place that `remove` takes away again."""

    class Machine(StoreMachine):
        settings = store_settings

        def make(self) -> Backend:
            return new_backend()

        def clean_up(self) -> None:
            remove(self.backend)

    Machine.TestCase.settings = machine_settings(examples, steps)
    return Machine


def machine_settings(examples: int, steps: int, **more: Any) -> settings:
    """So many examples of so many steps; never too slow, and what fails prints how to run it again."""
    return settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        report_multiple_bugs=False,
        print_blob=True,
        **more,
    )


# The model: what a run is, in plain dicts.


def new_run(**fields: object) -> Tree:
    """A run without anything in it."""
    run = {"tag": "", "dag_hash": "", "original_run_id": "", "status": "CREATED", "job": None}
    return {**run, "parameters": {}, "run_config": {}, "steps": {}, **fields}


def new_step(name: str) -> Tree:
    """A step without branches."""
    return {"name": name, **new_job(), "branches": {}}


def new_branch() -> Tree:
    """A branch without anything in it."""
    return {"status": "CREATED", "parameters": {}, "steps": {}}


def new_job() -> Tree:
    """A job without attempts; the same fields are a step's."""
    return {"status": "CREATED", "message": "", "attempts": [], "code": [], "data": []}


def copied(tree: Tree) -> Tree:
    """The same again, to be changed."""
    return {name: copied(item) if isinstance(item, dict) else item for name, item in tree.items()}


def bring_over(bases: list[Tree], mine: Tree, model: Tree) -> list[str]:
    """Changes in the model what is not as it was: items that were appended to a list come behind those that are there.

    The first base is what was read or written; the others were sent since by calls that failed. Where not all of them say the same,
    nobody can tell whether a field is written; returns those fields.
    """
    doubtful = []
    for name, value in mine.items():
        if isinstance(value, list):
            model[name] = model[name] + [item for item in value[len(bases[0][name]) :] if item not in model[name]]
        elif any(base[name] != value for base in bases):
            if model[name] != value and any(base[name] == value for base in bases):
                doubtful.append(name)
            model[name] = value
    return doubtful


def model_of(run: Tree, sort: str, name: str) -> Tree:
    """The part of the model that an object's fields are in."""
    if sort == "step":
        return dict(steps_of(run))[name]
    if sort == "branch":
        return dict(branches_of(run))[name]
    job: Tree = run["job"]
    return job if sort == "job" else run


def parameters_of(run: Tree, scope: str) -> Tree:
    """The parameters of a scope, none where it is not there."""
    if not scope:
        own: Tree = run["parameters"]
        return own
    found: Tree = dict(branches_of(run)).get(scope, new_branch())["parameters"]
    return found


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
        status=run_log.status.upper(),
        job=None if run_log.job is None else fields_of(run_log.job),
        parameters=shown_all(run_log.parameters),
        run_config=shown_all(run_log.run_config),
        steps={name: picture_of_step(step) for name, step in run_log.steps.items()},
    )


def picture_of_step(step: StepLog) -> Tree:
    """The step's part of the model, with all that is below it."""
    branches = {name: picture_of_branch(branch) for name, branch in step.branches.items()}
    return {"name": step.name, **fields_of(step), "branches": branches}


def picture_of_branch(branch: BranchLog) -> Tree:
    """The branch's part of the model, with all that is below it."""
    steps = {name: picture_of_step(step) for name, step in branch.steps.items()}
    return {**fields_of(branch), "parameters": shown_all(branch.parameters), "steps": steps}


def fields_of(thing: Logged) -> Tree:
    """What the model has of an object that its holder may change, without what is below it."""
    if isinstance(thing, RunLog | BranchLog):
        return {"status": thing.status.upper()}
    return {
        "status": thing.status.upper(),
        "message": thing.message,
        "attempts": [f"{one.message} {shown_all(one.output_parameters)}" for one in thing.attempts],
        "code": [code.code_identifier for code in thing.code_identities],
        "data": [data.name for data in thing.data_catalog],
    }


def parts_of(thing: Logged) -> Iterator[tuple[tuple[str, str], Logged]]:
    """The object and all that is in it, each with its sort and internal name."""
    if isinstance(thing, JobLog):
        yield ("job", ""), thing
    elif isinstance(thing, StepLog):
        yield ("step", thing.internal_name), thing
        for branch in thing.branches.values():
            yield from parts_of(branch)
    else:
        yield ("run", "") if isinstance(thing, RunLog) else ("branch", thing.internal_name), thing
        if isinstance(thing, RunLog) and thing.job is not None:
            yield from parts_of(thing.job)
        for step in thing.steps.values():
            yield from parts_of(step)


def all_fields(thing: Logged) -> dict[tuple[str, str], Tree]:
    """The fields of the object and of all that is in it, by sort and internal name."""
    return {place: fields_of(part) for place, part in parts_of(thing)}


def all_parameters(thing: Logged) -> dict[str, dict[str, str]]:
    """The parameters that the object and all that is in it hold, by scope."""
    return {
        scope: shown_all(part.parameters)
        for (_, scope), part in parts_of(thing)
        if isinstance(part, RunLog | BranchLog)
    }


def all_branches(steps: Iterable[StepLog]) -> Iterator[BranchLog]:
    """All branches below the steps."""
    for step in steps:
        for _, part in parts_of(step):
            if isinstance(part, BranchLog):
                yield part


def write(store: ChunkedRunLogStore, run_id: str, thing: Logged) -> None:
    """Writes an object by the call that is made for it."""
    if isinstance(thing, RunLog):
        store.put_run_log(thing)
    elif isinstance(thing, StepLog):
        store.add_step_log(thing, run_id)
    elif isinstance(thing, BranchLog):
        store.add_branch_log(thing, run_id)
    else:
        store.add_job_log(run_id, thing)


def nested(levels: int, value: object) -> object:
    """The value within so many lists and dicts."""
    for level in range(levels):
        value = [value] if level % 2 else {"": value}
    return value


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
