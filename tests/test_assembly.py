"""Chunks in any order come together as the tree that they were, and nothing that lacks a parent is dropped."""

from __future__ import annotations

import gc
import itertools
import os
import random
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chunkstore.assembly import _PAUSE, Parts, assemble, collector_paused, missing_parents

# A busy machine is slow, not wrong.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


@dataclass
class Step:
    name: str
    internal_name: str
    branches: dict[str, Any] = field(default_factory=dict)
    is_placeholder: bool = False


@dataclass
class Branch:
    internal_name: str
    steps: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, object] = field(default_factory=dict)
    is_placeholder: bool = False


@dataclass
class Run:
    steps: dict[str, Any] = field(default_factory=dict)
    parameters: dict[str, object] = field(default_factory=dict)


class Placeholders:
    def step(self, name: str, internal_name: str) -> Step:
        return Step(name, internal_name, is_placeholder=True)

    def branch(self, internal_name: str) -> Branch:
        return Branch(internal_name, is_placeholder=True)


Tree = dict[str, Any]
"""Names of steps, each with the trees of its branches by the branches' own names."""


def flattened(tree: Tree, holder: str = "") -> tuple[list[tuple[str, str]], list[str]]:
    """The (name, internal name) of all steps and the internal names of all branches, parents first."""
    steps: list[tuple[str, str]] = []
    branches: list[str] = []
    for name, below in tree.items():
        internal = f"{holder}.{name}" if holder else name
        steps.append((name, internal))
        for branch, inside in below.items():
            branches.append(f"{internal}.{branch}")
            more_steps, more_branches = flattened(inside, f"{internal}.{branch}")
            steps += more_steps
            branches += more_branches
    return steps, branches


def expected(tree: Tree, holder: str = "") -> Tree:
    """The same with internal names, as an assembled run shows it."""
    nested = {}
    for name, below in tree.items():
        internal = f"{holder}.{name}" if holder else name
        nested[internal] = {
            f"{internal}.{branch}": expected(inside, f"{internal}.{branch}") for branch, inside in below.items()
        }
    return nested


def shape(holder: Run | Branch) -> Tree:
    return {
        name: {branch: shape(inside) for branch, inside in step.branches.items()} for name, step in holder.steps.items()
    }


def assembled(
    steps: list[tuple[str, str]],
    branches: list[str] | None = None,
    parameters: list[tuple[str, str, object]] | None = None,
) -> tuple[Run, list[str]]:
    run = Run()
    parts = Parts(
        {internal: Step(name, internal) for name, internal in steps},
        {name: Branch(name) for name in branches or []},
        parameters or [],
    )
    return run, assemble(run, parts, Placeholders())


ODD = [
    "train",
    "a",
    "b",
    "1.5",
    "0.1",
    "a.b",
    "a.b/c.csv",
    "eu/west",
    "ü.json",
    "a b",
    "x" * 300,
    ".",
    "..",
    "a.",
    ".a",
]
plain_names = st.sampled_from(["a", "b", "train", "ü x", "eu/west", "é"])
branch_names = st.sampled_from(["eu", "1.5", "a/b.csv", "a b", "-1", "2", "x", "ü.json"])
plain_trees: st.SearchStrategy[Tree] = st.recursive(
    st.dictionaries(plain_names, st.just({}), min_size=1, max_size=3),
    lambda inside: st.dictionaries(
        plain_names, st.dictionaries(branch_names, inside, max_size=3), min_size=1, max_size=3
    ),
    max_leaves=12,
)


@unhurried
@given(plain_trees, st.randoms(use_true_random=False))
def test_a_whole_run_comes_together_in_whatever_order_its_parts_arrive(tree: Tree, chance: random.Random) -> None:
    steps, branches = flattened(tree)
    chance.shuffle(steps)
    chance.shuffle(branches)
    run, made = assembled(steps, branches)
    assert made == []
    assert shape(run) == expected(tree)


@unhurried
@given(plain_trees, st.randoms(use_true_random=False), st.data())
def test_what_comes_together_does_not_depend_on_the_order_even_where_parents_are_missing(
    tree: Tree, chance: random.Random, data: st.DataObject
) -> None:
    steps, branches = flattened(tree)
    steps = [step for step in steps if data.draw(st.integers(0, 3))]
    branches = [branch for branch in branches if data.draw(st.integers(0, 3))]
    first, first_made = assembled(steps, branches)
    chance.shuffle(steps)
    chance.shuffle(branches)
    second, second_made = assembled(steps, branches)
    assert shape(first) == shape(second)
    assert sorted(first_made) == sorted(second_made)
    everything = set(names_in(first))
    assert everything == {internal for _, internal in steps} | set(branches) | set(first_made)


def names_in(holder: Run | Branch) -> Iterator[str]:
    for name, step in holder.steps.items():
        yield name
        for branch, inside in step.branches.items():
            yield branch
            yield from names_in(inside)


def test_every_order_of_a_small_nested_run_gives_the_same() -> None:
    tree = {"map": {"a": {"in": {"1.5": {"t": {}}}}}, "end": {}}
    steps, branches = flattened(tree)
    for some_steps in itertools.permutations(steps):
        for some_branches in itertools.permutations(branches):
            run, made = assembled(list(some_steps), list(some_branches))
            assert (shape(run), made) == (expected(tree), [])


@pytest.mark.parametrize(
    "values",
    [["0.1", "1.5", "2.5"], ["eu/west", "a b", "ü.json", "a.b"], ["x" * 300, "ü" * 300], ["a", "a.b", "a.b.c"]],
)
def test_maps_five_levels_deep_keep_every_branch(values: list[str]) -> None:
    def level(depth: int) -> Tree:
        return {"before": {}, f"map{depth}": {value: level(depth - 1) for value in values}} if depth else {"train": {}}

    tree = level(5 if len(values) < 3 else 4)
    run, made = assembled(*flattened(tree))
    assert made == []
    assert shape(run) == expected(tree)


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("name", [name for name in ODD if name.strip(".") == name])
def test_dots_and_slashes_in_names_and_values_keep_every_step(name: str, value: str) -> None:
    tree = {"map": {value: {name: {value: {name: {}}}, "other": {}}}, name: {}}
    run, made = assembled(*flattened(tree))
    assert (shape(run), made) == (expected(tree), [])


@pytest.mark.parametrize("others", [[], ["v1"], ["v1", "v1.2"], ["v1.2.3.4"]])
def test_a_step_of_the_run_itself_may_have_dots_in_its_name(others: list[str]) -> None:
    run, made = assembled([(name, name) for name in ["v1.2.3", *others]])
    assert shape(run) == {name: {} for name in ["v1.2.3", *others]}
    assert made == []


def test_steps_and_branches_keep_the_order_in_which_they_are_given() -> None:
    names = ["z", "a", "m.x", "b"]
    run, _ = assembled(
        [*((name, name) for name in names), *((f"t{n}", f"a.v.t{n}") for n in (3, 1, 2))], ["a.w", "a.v"]
    )
    assert list(run.steps) == names
    assert list(run.steps["a"].branches) == ["a.w", "a.v"]
    assert list(run.steps["a"].branches["a.v"].steps) == ["a.v.t3", "a.v.t1", "a.v.t2"]


def test_the_longest_known_step_is_a_branchs_parent() -> None:
    run, made = assembled([("map", "map"), ("map.a", "map.a")], ["map.a.b", "map.c"])
    assert shape(run) == {"map": {"map.c": {}}, "map.a": {"map.a.b": {}}}
    assert made == []


def test_a_step_whose_names_say_nothing_belongs_to_the_longest_known_branch() -> None:
    # As magnus writes: the internal name has `%` where the name has a space.
    steps = [("Parallel", "Parallel"), ("Child Step", "Parallel.Branch%A.b.Child%Step")]
    run, made = assembled(steps, ["Parallel.Branch%A", "Parallel.Branch%A.b"])
    assert shape(run) == {
        "Parallel": {"Parallel.Branch%A": {}, "Parallel.Branch%A.b": {"Parallel.Branch%A.b.Child%Step": {}}}
    }
    assert made == []


def test_a_step_whose_names_say_nothing_and_whose_branch_is_missing_is_an_orphan_of_its_composite() -> None:
    run, made = assembled([("Parallel", "Parallel"), ("Child Step", "Parallel.A.Child%Step")])
    assert shape(run) == {"Parallel": {"Parallel.A": {"Parallel.A.Child%Step": {}}}}
    assert made == ["Parallel.A"]


def test_an_orphan_step_stands_under_placeholders_that_are_reported() -> None:
    run, made = assembled([("train", "map.eu.train")])
    assert shape(run) == {"map": {"map.eu": {"map.eu.train": {}}}}
    assert made == ["map.eu", "map"]
    assert run.steps["map"].is_placeholder
    assert run.steps["map"].branches["map.eu"].is_placeholder
    assert not run.steps["map"].branches["map.eu"].steps["map.eu.train"].is_placeholder


def test_an_orphan_step_deep_inside_a_known_branch_is_reported_and_not_put_into_that_branch() -> None:
    steps = [("map", "map"), ("inner", "map.eu.inner"), ("t", "map.eu.inner.1.t")]
    run, made = assembled(steps, ["map.eu"])
    assert shape(run) == {"map": {"map.eu": {"map.eu.inner": {"map.eu.inner.1": {"map.eu.inner.1.t": {}}}}}}
    assert made == ["map.eu.inner.1"]


def test_an_orphan_branch_stands_under_a_placeholder_that_is_reported() -> None:
    run, made = assembled([], ["map.eu", "alone"])
    assert shape(run) == {"map": {"map.eu": {}}, "alone": {"alone": {}}}
    assert sorted(made) == ["alone", "map"]


def test_parameters_go_to_their_scope_and_orphans_among_them_to_a_placeholder() -> None:
    parameters = [("", "a", 1), ("map.eu", "a", 2), ("map.1.5", "b", 3), ("gone.x", "c", 4)]
    run, made = assembled([("map", "map")], ["map.eu", "map.1.5"], parameters)
    branches = run.steps["map"].branches
    assert (run.parameters, branches["map.eu"].parameters, branches["map.1.5"].parameters) == (
        {"a": 1},
        {"a": 2},
        {"b": 3},
    )
    assert run.steps["gone"].branches["gone.x"].parameters == {"c": 4}
    assert made == ["gone.x", "gone"]


def test_an_empty_run_stays_empty() -> None:
    assert assembled([]) == (Run(), [])


def parts_of(
    steps: list[tuple[str, str]], branches: list[str], parameters: list[tuple[str, str, object]] | None = None
) -> Parts:
    return Parts({i: Step(n, i) for n, i in steps}, {name: Branch(name) for name in branches}, parameters or [])


@unhurried
@given(plain_trees)
def test_a_whole_run_misses_nothing_that_would_have_to_be_asked_for(tree: Tree) -> None:
    branches, _ = missing_parents(parts_of(*flattened(tree)))
    assert branches == set()


def test_asking_for_missing_parents_costs_nothing_where_values_have_dots() -> None:
    tree = {"map": {value: {"inner": {value: {"t": {}} for value in ("0.1", "a.b.c")}} for value in ("1.5", "x")}}
    assert missing_parents(parts_of(*flattened(tree))) == (set(), set())


def completed(parts: Parts, there: Parts) -> Parts:
    """The parts with all that they imply and that is there, asked for until nothing new is wanted; as a reader does."""
    asked: set[tuple[str, str]] = set()
    while True:
        branches, steps = missing_parents(parts)
        wanted = {("branch", name) for name in branches} | {("step", name) for name in steps}
        if not wanted - asked:
            return parts
        asked |= wanted
        parts.branches |= {name: there.branches[name] for name in branches if name in there.branches}
        parts.steps |= {name: there.steps[name] for name in steps if name in there.steps}


def test_a_missing_chain_of_parents_is_asked_for_level_by_level() -> None:
    tree = {"m": {"x": {"in": {"1.5": {"deep": {"y": {"t": {}}}}}}}}
    steps, branches = flattened(tree)
    for kept in ([steps[-1]], [steps[0], steps[-1]], [steps[0], steps[1], steps[-1]]):
        parts = completed(parts_of(kept, []), parts_of(steps, branches))
        assert (set(parts.steps), set(parts.branches)) == ({internal for _, internal in steps}, set(branches))


@unhurried
@given(
    st.lists(
        st.tuples(plain_names, st.lists(branch_names, min_size=1, max_size=2, unique=True)), min_size=1, max_size=4
    ),
    st.data(),
)
def test_a_listing_in_pages_beside_a_writer_ends_with_every_parent(
    levels: list[tuple[str, list[str]]], data: st.DataObject
) -> None:
    tree: Tree = {"t": {}}
    for name, values in levels:
        tree = {"before": {}, name: dict.fromkeys(values, tree), "z after": {}}
    steps, branches = flattened(tree)
    names = {internal: name for name, internal in steps}
    # Parents are written before their children, and an object store lists in the order of its keys.
    written = sorted([*names, *branches], key=lambda name: (len(name), name))
    listed = sorted([f"branch.{name}.json" for name in branches] + [f"step.{name}.json" for name in names])
    when = sorted(data.draw(st.lists(st.integers(0, len(written)), min_size=len(listed), max_size=len(listed))))
    seen_steps, seen_branches = [], []
    for key, time in zip(listed, when, strict=True):
        kind, _, name = key.removesuffix(".json").partition(".")
        if written.index(name) < time:
            (seen_steps if kind == "step" else seen_branches).append(name)
    parts = completed(parts_of([(names[name], name) for name in seen_steps], seen_branches), parts_of(steps, branches))
    run = Run()
    assert assemble(run, parts, Placeholders()) == []
    whole = expected(tree)
    for name in names_in(run):
        assert path_to(name, shape(run)) == path_to(name, whole)


def path_to(name: str, tree: Tree) -> list[str]:
    """The names of all that stands above a name in a tree, the outermost first."""
    for above, below in tree.items():
        if above == name:
            return [above]
        path = path_to(name, below)
        if path:
            return [above, *path]
    return []


@pytest.fixture(autouse=True)
def _collector_stays_as_it_was() -> Iterator[None]:
    assert gc.isenabled()
    yield
    gc.enable()


def test_the_collector_is_paused_inside_and_runs_again_afterwards() -> None:
    with collector_paused():
        assert not gc.isenabled()
        with collector_paused():
            assert not gc.isenabled()
        assert not gc.isenabled()
    assert gc.isenabled()


def test_the_collector_runs_again_after_an_error() -> None:
    with pytest.raises(KeyError), collector_paused():
        raise KeyError
    assert gc.isenabled()


def test_a_collector_that_the_user_switched_off_stays_off() -> None:
    gc.disable()
    with collector_paused():
        assert not gc.isenabled()
    assert not gc.isenabled()


def test_the_collector_stays_paused_until_the_last_thread_is_done() -> None:
    inside = threading.Barrier(8)

    def work(turn: int) -> bool:
        with collector_paused():
            inside.wait(60)
            paused = not gc.isenabled()
            inside.wait(60)
        return paused

    with ThreadPoolExecutor(8) as threads:
        assert all(threads.map(work, range(80)))
    assert gc.isenabled()
    assert _PAUSE._wanted == 0


def exit_code_of_child(work: Callable[[], bool]) -> int:
    child = os.fork()
    if child == 0:
        threading.Timer(30, os._exit, [2]).start()
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(3)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_another_thread_reads_has_a_running_collector_and_can_pause_it() -> None:
    def work() -> bool:
        running = gc.isenabled()
        with collector_paused():
            paused = not gc.isenabled()
        return running and paused and gc.isenabled()

    reading, forked = threading.Event(), threading.Event()

    def read() -> None:
        with collector_paused(), _PAUSE._lock:
            reading.set()
            forked.wait(60)

    thread = threading.Thread(target=read)
    thread.start()
    reading.wait(60)
    assert exit_code_of_child(work) == 0
    forked.set()
    thread.join()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_by_the_thread_that_reads_can_still_pause_its_collector() -> None:
    def work() -> bool:
        pause.__exit__(None, None, None)
        with collector_paused():
            paused = not gc.isenabled()
        return paused and gc.isenabled()

    pause = collector_paused()
    with pause:
        code = exit_code_of_child(work)
    assert code == 0
