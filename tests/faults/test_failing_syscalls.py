"""Each system call by which the store writes on a local disk fails: an error that says so, or a correct result."""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from aftermath import (
    Plan,
    half_written,
    kinds_to_hit,
    left_after_deleting_all,
    locks_held,
    odd_to_readers,
    readable,
    sample,
)
from chunkstore.values import Content
from rigs import Tally
from tracing import Injection, Outcome, Stage, SystemCall, differing, promises_broken, stage, was_hit
from writing_program import SCENARIOS, contents, opened, staging

FEW = 4
ERRORS = ("EIO", "ENOSPC", "EACCES", "EMFILE", "ENOMEM", "EINTR")
REMOVES = {"unlink", "unlinkat", "rmdir"}
LITTER = "r/.t-0badcafe-1-1"

Plans = dict[tuple[str, str], Plan]
Point = tuple[SystemCall, str]
Points = dict[tuple[str, str], list[Point]]

all_plans = [(name, durability) for name, scenario in SCENARIOS.items() for durability in differing(scenario)]
synced_plans = [(name, durability) for name, durability in all_plans if durability != "process"]


@pytest.fixture(scope="module")
def plans(strace: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plans]:
    with stage(strace, tmp_path_factory.mktemp("errors")) as the_stage:
        yield {(name, durability): Plan(name, durability, the_stage) for name, durability in all_plans}


def possible(plan: Plan) -> list[Point]:
    """Every system call with every error; the one that tells of an acknowledgement is not the store's."""
    return [(point, error) for point in plan.points if not point.told for error in ERRORS]


@pytest.fixture(scope="module")
def points(plans: Plans) -> Points:
    duties = kinds_to_hit(plans)
    return {key: chosen(plan, duties[key]) for key, plan in plans.items()}


def chosen(plan: Plan, duty: set[str]) -> list[Point]:
    found = possible(plan)
    return sample(found, {one: one[0].name for one in found}, FEW, f"{plan.name} {plan.durability}", duty)


def wrong_with_the_error(told: dict[str, Any], plan: Plan, point: SystemCall, error: str, root: str) -> list[str]:
    """What the caller was told in place of an acknowledgement."""
    if told["type"] not in {"BackendUnavailableError", "StorageFullError", "WriteStateUnknownError"}:
        return [f"it raised a {told['type']}: {told['message']}"]
    wrong = [] if root in told["message"] else [f"no place in {told['message']!r}"]
    wrong += [] if told["key"] and told["key"] in told["message"] else [f"no key in {told['message']!r}"]
    wrong += [] if getattr(errno, error) in told["errno"] else [f"the cause's errno is {told['errno']}"]
    return wrong


def wrong_at_the_error(told: dict[str, Any], plan: Plan, number: int, point: SystemCall) -> list[str]:
    """What stood there at that moment."""
    wrong = half_written(stood(told), plan.states[number], plan.states[number + 1])
    wrong += wrong_leftovers([key for key in told["files"] if "/." in key], point)
    return wrong + wrong_leaks(told["leaked"], point)


def stood(told: dict[str, Any]) -> dict[str, Content]:
    """The chunks at that moment, none of them damaged."""
    return contents({key: data.encode("latin-1") for key, data in told["files"].items() if "/." not in key})


def wrong_leftovers(names: list[str], point: SystemCall) -> list[str]:
    if point.name in REMOVES:
        return []
    return [f"left behind: {name}" for name in names if name != LITTER]


def wrong_leaks(leaked: list[str], point: SystemCall) -> list[str]:
    """strace makes a call fail by not making it: a close that fails so leaves its file open, as no real one does."""
    return [] if point.name == "close" else [f"still open: {one}" for one in leaked]


def wrong_when_repeated(told: dict[str, Any], plan: Plan, number: int) -> list[str]:
    """A call that had happened, although it was told to have failed, may say so."""
    stands = stood(told)
    if told["type"] in {"RunLogExistsError", "RunLogNotFoundError"} and stands == plan.states[number + 1]:
        return []
    return [f"made again it raised a {told['type']}: {told['message']}"]


def wrong_with_what_was_told(outcome: Outcome, plan: Plan, point: SystemCall, error: str, root: str) -> list[str]:
    wrong = []
    for what, number, facts in outcome.told:
        if what == "failed":
            wrong += wrong_with_the_error(facts, plan, point, error, root)
            wrong += wrong_at_the_error(facts, plan, number, point)
        elif what == "failed again":
            wrong += wrong_when_repeated(facts, plan, number)
        elif what == "leaked":
            wrong += wrong_leaks(facts["leaked"], point)
    return wrong


def wrong_after_an_error(plan: Plan, the_stage: Stage, point: SystemCall, error: str) -> list[str]:
    return failed(plan, the_stage, point, error)[1]


def failed(plan: Plan, the_stage: Stage, point: SystemCall, error: str) -> tuple[Outcome, list[str]]:
    """A run in which one system call fails, and what is wrong with how it went and with what it left."""
    root = the_stage.new_root()
    fault = f"error={error}"
    outcome = the_stage.run(plan.name, plan.durability, root, Injection(point.name, point.number, fault))
    assert outcome.status == 0, outcome.status
    assert was_hit(outcome, point, fault), [call for call in outcome.calls if call.injected]
    stands = readable(root)
    wrong = wrong_with_what_was_told(outcome, plan, point, error, str(root))
    wrong += promises_broken(outcome, plan.durability, plan.scenario.barriers)
    wrong += half_written(stands, plan.states[-1], plan.states[-1])
    wrong += wrong_leftovers(staging(root), point)
    wrong += odd_to_readers(opened(root, plan.durability), stands)
    wrong += locks_held(root)
    wrong += left_after_deleting_all(root)
    shutil.rmtree(root.parent.parent)
    return outcome, wrong


@pytest.mark.parametrize(("name", "durability"), all_plans)
def test_what_is_acknowledged_was_synced_as_the_durability_promises(name: str, durability: str, plans: Plans) -> None:
    plan = plans[name, durability]
    assert promises_broken(plan.undisturbed, durability, plan.scenario.barriers) == []
    assert plan.undisturbed.facts("leaked") == []


@pytest.mark.parametrize(("name", "durability"), all_plans)
def test_a_system_call_that_fails_is_an_error_that_says_so_or_does_no_harm(
    name: str, durability: str, plans: Plans, points: Points, tally: Tally
) -> None:
    plan = plans[name, durability]
    failures = []
    for point, error in points[name, durability]:
        wrong = wrong_after_an_error(plan, plan.stage, point, error)
        failures += [f"{error} of {point.signature} (number {point.number}): {one}" for one in wrong]
        tally("failing syscalls, local disk", 1)
    assert failures == []


@pytest.mark.parametrize(("name", "durability"), synced_plans)
def test_a_sync_that_fails_is_told_and_the_same_call_then_syncs(
    name: str, durability: str, plans: Plans, tally: Tally
) -> None:
    plan = plans[name, durability]
    syncs = [point for point in plan.points if point.name in {"fsync", "syncfs"}]
    failures = []
    for point in sample(syncs, {point: point.name for point in syncs}, 1, name, set()):
        outcome, wrong = failed(plan, plan.stage, point, "EIO")
        wrong += [] if outcome.facts("failed") else ["it was acknowledged"]
        failures += [f"EIO of {point.signature} (number {point.number}): {one}" for one in wrong]
        tally("failing syscalls, local disk", 1)
    assert failures == []


def test_every_kind_of_system_call_fails_and_with_every_error(plans: Plans, points: Points) -> None:
    hit = {(point.name, error) for chosen in points.values() for point, error in chosen}
    assert {name for name, _ in hit} == {point.name for plan in plans.values() for point, _ in possible(plan)}
    assert {error for _, error in hit} == set(ERRORS)
