"""What must hold of a place once a writer was killed or met an error there, and how a test chooses where to strike."""

from __future__ import annotations

import fcntl
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

from chunkstore import AlreadyExistsError, ChunkedRunLogStore, FormatError, RunLogNotFoundError, keys
from chunkstore.values import Content
from places import SCALE
from tracing import Outcome, Stage, SystemCall, points
from writing_program import SCENARIOS, Scenario, chunks, opened, prepared

T = TypeVar("T")
Chunks = Mapping[str, Content]


@dataclass(frozen=True)
class Plan:
    """One scenario: where it can be hit, and what stands there after each of its calls."""

    name: str
    durability: str
    stage: Stage

    @property
    def scenario(self) -> Scenario:
        """What is done."""
        return SCENARIOS[self.name]

    @cached_property
    def undisturbed(self) -> Outcome:
        """The scenario as it goes when nothing happens."""
        return self.stage.run(self.name, self.durability, self.stage.new_root())

    @cached_property
    def points(self) -> list[SystemCall]:
        """The system calls that touch the store."""
        return points(self.undisturbed)

    @cached_property
    def states(self) -> list[Chunks]:
        """What stands there before the first call, and after each."""
        root = self.stage.new_root()
        calls = prepared(self.scenario, root, self.durability)
        found = [chunks(root)]
        for call in calls:
            call()
            found.append(chunks(root))
        return found


def kinds_to_hit(plans: Mapping[tuple[str, str], Plan]) -> dict[tuple[str, str], set[str]]:
    """For each plan the names of the system calls that it must hit, so that together they hit all: it is the first that has them."""
    missed = {point.name for plan in plans.values() for point in plan.points}
    duties = {}
    for key, plan in plans.items():
        duties[key] = {point.name for point in plan.points} & missed
        missed -= duties[key]
    return duties


def sample(choices: Sequence[T], name_of: Mapping[T, str], few: int, seed: str, duty: set[str]) -> list[T]:
    """A few of them, of as many names as can be and of those that are its duty; others for each seed; all at the full size."""
    shuffled = list(choices)
    random.Random(seed).shuffle(shuffled)
    seen: Counter[str] = Counter()
    ranked = []
    for place, choice in enumerate(shuffled):
        name = name_of[choice]
        seen[name] += 1
        ranked.append((seen[name] > 1 or name not in duty, seen[name], place))
    number = round(few + (len(ranked) - few) * (SCALE - 1) / 9)
    return [shuffled[place] for *_, place in sorted(ranked)[: max(number, len(duty))]]


def half_written(stands: Chunks, before: Chunks, after: Chunks) -> list[str]:
    """The chunks that are neither as they were before the call nor as they are after it."""
    return [key for key in {*stands, *before, *after} if stands.get(key) not in (before.get(key), after.get(key))]


def odd_to_readers(store: ChunkedRunLogStore, stands: Chunks) -> list[str]:
    """What a reader who knows nothing finds odd: damage, orphans, runs that are none, names that are no chunks."""
    runs = sorted({key.partition("/")[0] for key in stands})
    listed = store.list_run_ids()
    odd = [f"the runs are {runs}, listed are {listed}"] if listed != runs else []
    for run_id in runs:
        known = {*stands, f"{run_id}/{keys.PACK}"}
        odd += [entry.key for entry in store.backend.list(f"{run_id}/") if entry.key not in known]
        with suppress(RunLogNotFoundError):  # its header is marked: it is being deleted
            odd += [finding.message for finding in store.read_run_log(run_id).findings]
    return odd


def locks_held(root: Path) -> list[str]:
    """The lock files that somebody still holds."""
    held = []
    for path in root.glob(".locks/*"):
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                held.append(path.name)
    return held


def repeat(plan: Plan, root: Path, done: int) -> None:
    """Another process makes the calls that were not acknowledged. One that had happened may say so."""
    for number, call in enumerate(plan.scenario.calls(opened(root, plan.durability))[done:], start=done + 1):
        try:
            call()
        except (AlreadyExistsError, RunLogNotFoundError):
            assert chunks(root) == plan.states[number]
    assert chunks(root) == plan.states[-1]


def left_after_deleting_all(root: Path) -> list[str]:
    """What stands in the place once all its runs are deleted; the run of the scenario is made first where it is none."""
    store = opened(root, "process")
    with suppress(AlreadyExistsError):
        store.create_run_log("r")
    for run_id in store.list_run_ids():
        store.delete_run_log(run_id)
    # Notes of doubt about finished runs stay until a reindex takes them.
    notes = [path.name for path in root.glob(".index/*") if not path.name.startswith("doubt.")]
    return notes + sorted(path.name for path in root.iterdir() if path.name not in {".locks", ".index"})


def readable(root: Path) -> Chunks:
    """The chunks of a place, none of them damaged."""
    try:
        return chunks(root)
    except FormatError as error:
        raise AssertionError(f"damaged: {error}") from error
