"""kill -9 at every system call by which the store writes on a local disk: nothing damaged, nothing acknowledged lost."""

from __future__ import annotations

import shutil
from collections.abc import Iterator

import pytest

from aftermath import (
    Plan,
    half_written,
    kinds_to_hit,
    left_after_deleting_all,
    locks_held,
    odd_to_readers,
    readable,
    repeat,
    sample,
)
from rigs import Tally
from tracing import Injection, Stage, SystemCall, differing, stage, was_hit
from writing_program import SCENARIOS, opened

FEW = 4
KILL = "signal=KILL"

Plans = dict[tuple[str, str], Plan]
Points = dict[tuple[str, str], list[SystemCall]]

all_plans = [(name, durability) for name, scenario in SCENARIOS.items() for durability in differing(scenario)]


@pytest.fixture(scope="module")
def plans(strace: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plans]:
    with stage(strace, tmp_path_factory.mktemp("kills")) as the_stage:
        yield {(name, durability): Plan(name, durability, the_stage) for name, durability in all_plans}


@pytest.fixture(scope="module")
def points(plans: Plans) -> Points:
    duties = kinds_to_hit(plans)
    return {key: chosen(plan, duties[key]) for key, plan in plans.items()}


def chosen(plan: Plan, duty: set[str]) -> list[SystemCall]:
    names = {point: point.name for point in plan.points}
    return sample(plan.points, names, FEW, f"{plan.name} {plan.durability}", duty)


def wrong_after_a_kill(plan: Plan, the_stage: Stage, point: SystemCall) -> list[str]:
    root = the_stage.new_root()
    outcome = the_stage.run(plan.name, plan.durability, root, Injection(point.name, point.number, KILL))
    assert outcome.status == -9, outcome.status
    assert was_hit(outcome, point, KILL), outcome.calls[-1]
    done = outcome.acknowledged
    stands = readable(root) if root.exists() else {}
    wrong = half_written(stands, plan.states[done], plan.states[done + 1])
    wrong += odd_to_readers(opened(root, plan.durability), stands)
    wrong += locks_held(root)
    repeat(plan, root, done)
    wrong += left_after_deleting_all(root)
    shutil.rmtree(root.parent.parent)
    return wrong


@pytest.mark.parametrize(("name", "durability"), all_plans)
def test_a_kill_at_any_system_call_loses_nothing_and_leaves_nothing_in_the_way(
    name: str, durability: str, plans: Plans, points: Points, tally: Tally
) -> None:
    plan = plans[name, durability]
    failures = []
    for point in points[name, durability]:
        wrong = wrong_after_a_kill(plan, plan.stage, point)
        failures += [f"killed at {point.signature} (number {point.number}): {one}" for one in wrong]
        tally("kill points, local disk", 1)
    assert failures == []


def test_the_kills_hit_every_kind_of_system_call(plans: Plans, points: Points) -> None:
    kinds = {point.name for plan in plans.values() for point in plan.points}
    assert {point.name for chosen in points.values() for point in chosen} == kinds
    assert {"openat", "write", "linkat", "rename", "flock", "unlink", "rmdir", "mkdir", "fsync", "syncfs"} <= kinds
