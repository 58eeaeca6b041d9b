"""Chunks → one run log. Pure: it is given model objects and their places, and knows neither bytes nor a backend.

A step says its own last name and its full internal name, so its branch is what stands before; a name may hold dots, so
counting them tells nothing. Where that does not help, the parent is the longest known name that the child's starts with. A child whose
parent is not there gets a placeholder for it and is reported, never dropped.
"""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Collection, Iterable, Iterator, MutableMapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Protocol


class Step(Protocol):
    name: str
    internal_name: str

    @property
    def branches(self) -> MutableMapping[str, Branch]: ...


class Branch(Protocol):
    internal_name: str

    @property
    def steps(self) -> MutableMapping[str, Step]: ...
    @property
    def parameters(self) -> MutableMapping[str, object]: ...


class Run(Protocol):
    @property
    def steps(self) -> MutableMapping[str, Step]: ...
    @property
    def parameters(self) -> MutableMapping[str, object]: ...


class Placeholders(Protocol):
    """Makes the objects that stand where a chunk is missing."""

    def step(self, name: str, internal_name: str) -> Step: ...
    def branch(self, internal_name: str) -> Branch: ...


@dataclass(slots=True)
class Parts:
    """The objects of one run, each in the order of its creation."""

    steps: dict[str, Step] = field(default_factory=dict)
    branches: dict[str, Branch] = field(default_factory=dict)
    parameters: list[tuple[str, str, object]] = field(default_factory=list)
    """(scope, name, value); the scope is empty for the run's own."""
    damaged_steps: set[str] = field(default_factory=set)
    """The internal names of those that are stored and cannot be read: children are theirs, and not of what is further out."""
    damaged_branches: set[str] = field(default_factory=set)


def missing_parents(parts: Parts) -> tuple[set[str], set[str]]:
    """The internal names of branches and of steps that children imply and that are not among the parts.

    A listing of many pages is no snapshot: a child may be in it and its parent not, although the parent was there first.
    """
    branches = {branch for step in parts.steps.values() if (branch := _branch_of(step, parts))} | {
        scope for scope, _, _ in parts.parameters if scope
    }
    branches -= parts.branches.keys()
    steps: set[str] = set()
    for branch in branches:
        steps.update(start for start in _starts(branch) if start not in parts.steps)
    for branch in parts.branches:
        # Beyond the nearest parent that is there: what stands between it and the branch may be a step that is not.
        step = _longest_start(branch, parts.steps) or ""
        within = _longest_start(branch, parts.branches) or ""
        if not step or len(within) > len(step):
            steps.update(start for start in _starts(branch) if len(start) > len(within))
    return branches, steps


def assemble(run: Run, parts: Parts, placeholders: Placeholders) -> list[str]:
    """Puts the parts into the run, nested and in order; returns the internal names of the placeholders that it needed."""
    made = _fill_gaps(parts, placeholders)
    for step in parts.steps.values():
        holder = _branch_of(step, parts)
        (parts.branches[holder] if holder else run).steps[step.internal_name] = step
    for name, branch in parts.branches.items():
        parts.steps[_step_of(name, parts)].branches[name] = branch
    for scope, name, value in parts.parameters:
        (parts.branches[scope] if scope else run).parameters[name] = value
    return made


def possible_parents(parts: Parts) -> set[str]:
    """Every internal name that a parent of one of the parts can have."""
    scopes = (scope for scope, _, _ in parts.parameters if scope)
    names = {*parts.steps, *parts.branches, *scopes}
    return names.union(*map(_starts, names))


def _fill_gaps(parts: Parts, placeholders: Placeholders) -> list[str]:
    """Adds the parents that are missing, the outer ones first, so that the order of the parts does not matter."""
    made: list[str] = []
    complete = False
    while not complete:
        implied = {branch for step in parts.steps.values() if (branch := _branch_of(step, parts))}
        implied |= {scope for scope, _, _ in parts.parameters if scope}
        for name in _outer_first(implied - parts.branches.keys()):
            parts.branches[name] = placeholders.branch(name)
            made.append(name)
        complete = True
        for name in _outer_first(parts.branches):
            parent = _step_of(name, parts)
            if parent not in parts.steps:
                parts.steps[parent] = placeholders.step(parent, parent)
                made.append(parent)
                complete = False  # it may be in a branch that is damaged too
    return made


def _outer_first(names: Iterable[str]) -> list[str]:
    return sorted(names, key=lambda name: (len(name), name))


def _step_of(branch: str, parts: Parts) -> str:
    """The step that a branch belongs to, known or not."""
    return _longest_start(branch, parts.steps, parts.damaged_steps) or branch.rpartition(".")[0] or branch


def _branch_of(step: Step, parts: Parts) -> str:
    """The branch that a step belongs to, known or not; empty for a step of the run itself."""
    name = step.internal_name
    if "." not in name:
        return ""
    said = parent_branch(step.name, name)
    if said:
        return said
    known = _longest_start(name, parts.branches, parts.damaged_branches)
    if known is not None:
        return known
    if name == step.name:
        return ""  # one of the run's own: the dots are its name's
    composite = _longest_start(name, parts.steps, parts.damaged_steps)
    beyond = name.rpartition(".")[0]
    return beyond if composite is not None and len(beyond) > len(composite) else ""


def parent_branch(name: str, internal_name: str) -> str:
    """The branch that a step's two names tell; empty where the internal name does not end in the name."""
    return internal_name.removesuffix(f".{name}") if internal_name.endswith(f".{name}") else ""


def _longest_start(name: str, known: Collection[str], damaged: Collection[str] = ()) -> str | None:
    for start in _starts(name):
        if start in known or start in damaged:
            return start
    return None


def _starts(name: str) -> Iterator[str]:
    """Every start of the name that ends before a dot, the longest first."""
    end = name.rfind(".")
    while end > 0:
        yield name[:end]
        end = name.rfind(".", 0, end)


class _CollectorPause:
    """How many threads of this process want the garbage collector paused."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._wanted = 0
        self._was_enabled = False

    def enter(self) -> None:
        """One more thread wants it paused."""
        with self._lock:
            self._wanted += 1
            if self._wanted == 1:
                self._was_enabled = gc.isenabled()
                gc.disable()

    def leave(self) -> None:
        """One thread less; the last one starts it again."""
        with self._lock:
            self._wanted = max(0, self._wanted - 1)  # not below, where the pausing thread itself was forked
            if self._wanted == 0 and self._was_enabled:
                self._enable()

    @staticmethod
    def _enable() -> None:
        if gc.get_freeze_count() == 0:
            # Moves all that is new to the oldest generation; otherwise the next allocation walks every new model.
            gc.freeze()
            gc.unfreeze()
        gc.enable()

    def after_fork(self) -> None:
        """In a child that was forked while another thread read: that thread is not here to start the collector again."""
        if self._wanted and self._was_enabled:
            gc.enable()
        self._lock = threading.Lock()
        self._wanted = 0


_PAUSE = _CollectorPause()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_PAUSE.after_fork)


@contextmanager
def collector_paused() -> Iterator[None]:
    """Pauses the garbage collector while many models are made: it would look at each of them again and again, for nothing.

    Making 10,000 step logs takes a quarter of the time. The last thread to leave starts it again.
    """
    _PAUSE.enter()
    try:
        yield
    finally:
        _PAUSE.leave()
