"""Two run logs compared: what changed is told once, in full, and what did not is not told."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Any

import pytest

from chunkstore import (
    BranchLog,
    ChunkedRunLogStore,
    CodeIdentity,
    DataCatalog,
    InvalidInputError,
    JobLog,
    JsonParameter,
    MetricParameter,
    ObjectParameter,
    RunLog,
    StepAttempt,
    StepLog,
)
from chunkstore.comparison import JOB, KINDS, Comparison, Difference, Tolerance, compare
from places import memory


def attempt(seconds: float, **fields: Any) -> StepAttempt:
    end = f"2026-01-01 12:{int(seconds // 60):02}:{seconds % 60:06.3f}"
    return StepAttempt(start_time="2026-01-01 12:00:00", end_time=end, status="SUCCESS", **fields)


def step(internal_name: str, *attempts: StepAttempt, **fields: Any) -> StepLog:
    name = internal_name.rpartition(".")[2]
    return StepLog(name=name, internal_name=internal_name, attempts=list(attempts), **{"status": "SUCCESS", **fields})


def run(*steps: StepLog, **fields: Any) -> RunLog:
    given = {"run_id": "r", "status": "SUCCESS", "steps": {each.internal_name: each for each in steps}, **fields}
    return RunLog(**given)


def told(comparison: Comparison) -> list[tuple[Any, ...]]:
    return [(each.kind, each.name, each.field, each.change, each.left, each.right) for each in comparison.differences]


def only(left: RunLog, right: RunLog, **settings: Any) -> Difference:
    """The single difference; the other way round it is the same one, mirrored."""
    (found,) = compare(left, right, **settings).differences
    (mirrored,) = compare(right, left, **settings).differences
    assert (mirrored.left, mirrored.right) == (found.right, found.left)
    assert (mirrored.kind, mirrored.name, mirrored.field) == (found.kind, found.name, found.field)
    return found


def map_of(*values: str, **branch: Any) -> StepLog:
    branches = {
        f"m.{value}": BranchLog(
            internal_name=f"m.{value}",
            status="SUCCESS",
            steps={f"m.{value}.fit": step(f"m.{value}.fit", attempt(2))},
            **branch,
        )
        for value in values
    }
    return step("m", branches=branches, step_type="map")


def test_a_run_does_not_differ_from_itself() -> None:
    whole = run(
        step("a", attempt(3)), map_of("eu", "us.west", parameters={"x": math.nan}), parameters={"p": {"n": math.nan}}
    )
    compared = compare(whole, whole.model_copy(deep=True))
    assert compared == Comparison("r", "r", ())
    assert compared.is_same


def test_what_the_run_itself_says_is_compared() -> None:
    left = run(tag="nightly", dag_hash="a1", status="SUCCESS", owner="me")
    right = run(tag="daily", dag_hash="a2", status="FAIL", owner="you")
    assert told(compare(left, right)) == [
        ("run", "", "tag", "changed", "nightly", "daily"),
        ("run", "", "dag_hash", "changed", "a1", "a2"),
        ("run", "", "owner", "changed", "me", "you"),
        ("status", "", "status", "changed", "SUCCESS", "FAIL"),
    ]


def test_nothing_and_an_empty_text_are_the_same_field() -> None:
    assert compare(run(tag=None, dag_hash=""), run(tag="", dag_hash=None)).is_same


def test_of_a_configuration_only_the_innermost_that_changed_is_told() -> None:
    left = run(
        run_config={"executor": {"kind": "local", "pods": [1, 2]}, "a/b": 1, "gone": {"x": 1}}, variables={"v": "1"}
    )
    right = run(run_config={"executor": {"kind": "argo", "pods": [1, 2]}, "a/b": 2, "new": None}, variables={"v": "2"})
    assert told(compare(left, right)) == [
        ("config", "", "/executor/kind", "changed", "local", "argo"),
        ("config", "", "/a~1b", "changed", 1, 2),
        ("config", "", "/gone", "only left", {"x": 1}, None),
        ("config", "", "/new", "only right", None, None),
        ("variable", "", "/v", "changed", "1", "2"),
    ]


@pytest.mark.parametrize(
    ("left", "right"),
    [(1, 1.0), (math.nan, math.nan), (-0.0, 0.0), (10**400, 10**400), ([{"a": math.inf}], [{"a": math.inf}])],
)
def test_values_that_are_equal_as_a_query_finds_them_do_not_differ(left: object, right: object) -> None:
    assert compare(run(parameters={"p": left}), run(parameters={"p": right})).is_same
    assert compare(run(parameters={"p": JsonParameter(value=left)}), run(parameters={"p": right})).is_same


@pytest.mark.parametrize(
    ("left", "right"),
    [(1, True), (0, False), (1, "1"), (None, 0), (math.nan, None), (10**400, math.nan), ([1], [1, 2])],
)
def test_values_that_are_not_the_same_json_differ(left: object, right: object) -> None:
    found = only(run(parameters={"p": left}), run(parameters={"p": right}))
    assert (found.kind, found.name, found.field, found.change) == ("parameter", "", "p", "changed")
    assert found.left is left
    assert found.right is right


def test_a_parameter_that_only_one_has_is_not_one_that_is_none() -> None:
    found = only(run(parameters={"p": None}), run())
    assert (found.change, found.left, found.right) == ("only left", None, None)
    assert only(run(), run(parameters={"p": None})).change == "only right"


def test_a_large_value_is_in_the_comparison_as_it_is() -> None:
    large = ["x" * 1000] * 1000
    found = only(run(parameters={"p": large}), run(parameters={"p": [*large, "y"]}))
    assert found.left is large


def test_a_parameter_that_changed_nothing_but_its_kind_is_told_with_the_kinds() -> None:
    found = only(run(parameters={"p": MetricParameter(value=1)}), run(parameters={"p": ObjectParameter(value="1")}))
    assert (found.left, found.right) == (1, "1")
    found = only(run(parameters={"p": MetricParameter(value=1)}), run(parameters={"p": 1}))
    assert (found.left, found.right) == ({"kind": "metric", "value": 1}, {"kind": "json", "value": 1})


def test_parameters_of_branches_are_compared_branch_by_branch() -> None:
    found = only(run(map_of("eu.west", parameters={"p": 1})), run(map_of("eu.west", parameters={"p": 2})))
    assert (found.kind, found.name, found.field) == ("parameter", "m.eu.west", "p")


def test_a_step_or_branch_that_only_one_has_is_told_without_what_is_below_it() -> None:
    left = run(step("a"), map_of("eu"), step("old", status="FAIL"))
    right = run(step("a"), map_of("eu", "us"), step("new"), map_of("x").model_copy(update={"internal_name": "m2"}))
    assert told(compare(left, right)) == [
        ("step", "old", "status", "only left", "FAIL", None),
        ("step", "new", "status", "only right", None, "SUCCESS"),
        ("step", "m2", "status", "only right", None, "SUCCESS"),
        ("branch", "m.us", "status", "only right", None, "SUCCESS"),
    ]


def test_a_step_that_became_another_thing_is_told_with_what_it_lost() -> None:
    assert told(compare(run(map_of("eu")), run(step("m", mock=True)))) == [
        ("step", "m", "step_type", "changed", "map", "task"),
        ("step", "m", "mock", "changed", False, True),
        ("branch", "m.eu", "status", "only left", "SUCCESS", None),
    ]


def test_statuses_and_attempts_of_steps_and_branches_are_compared() -> None:
    left, right = run(map_of("eu")), run(map_of("eu"))
    branch = right.steps["m"].branches["m.eu"]
    branch.status = "FAIL"
    branch.steps["m.eu.fit"].status = "FAIL"
    branch.steps["m.eu.fit"].attempts.append(attempt(2))
    assert told(compare(left, right)) == [
        ("status", "m.eu", "status", "changed", "SUCCESS", "FAIL"),
        ("status", "m.eu.fit", "status", "changed", "SUCCESS", "FAIL"),
        ("attempts", "m.eu.fit", "attempts", "changed", 1, 2),
    ]


def test_code_is_that_of_the_last_attempt_which_recorded_any_else_the_steps() -> None:
    def coded(*identifiers: str, of_step: str = "") -> RunLog:
        tries = [attempt(1, code_identities=[git(identifier)] if identifier else []) for identifier in identifiers]
        return run(step("a", *tries, code_identities=[git(of_step)] if of_step else []))

    def git(identifier: str) -> CodeIdentity:
        return CodeIdentity(code_identifier=identifier, code_identifier_type="git", code_identifier_dependable=True)

    assert compare(coded("0", "1"), coded("x", "1", of_step="2")).is_same
    assert compare(coded("1", ""), coded("0", "1")).is_same
    found = only(coded("1"), coded("", of_step="2"))
    assert (found.kind, found.name, found.field, found.left, found.right) == ("code", "a", "git identifier", "1", "2")
    assert only(coded("1"), coded("")).change == "only left"


def test_code_that_is_the_same_commit_but_not_clean_differs() -> None:
    def coded(**fields: Any) -> RunLog:
        docker = CodeIdentity(code_identifier="sha", code_identifier_type="docker")
        return run(step("a", code_identities=[docker, CodeIdentity(code_identifier_type="git", **fields)]))

    left = coded(code_identifier="1", code_identifier_dependable=True)
    right = coded(code_identifier="1", code_identifier_dependable=False, code_identifier_message="changed: a.py")
    assert told(compare(left, right)) == [
        ("code", "a", "git dependable", "changed", True, False),
        ("code", "a", "git message", "changed", "", "changed: a.py"),
    ]


def test_data_is_compared_by_its_hash_and_not_by_its_place() -> None:
    def with_data(*files: tuple[str, str, str]) -> RunLog:
        catalog = [
            DataCatalog(name=name, stage=stage, data_hash=data_hash, stored_at=f"elsewhere/{number}")
            for number, (stage, name, data_hash) in enumerate(files)
        ]
        return run(step("a", data_catalog=catalog))

    assert compare(
        with_data(("get", "x", "1"), ("put", "x", "2")), with_data(("put", "x", "2"), ("get", "x", "1"))
    ).is_same
    left = with_data(("get", "x", "1"), ("put", "x", "1"), ("put", "y", "1"), ("put", "y", "3"))
    right = with_data(("get", "x", "1"), ("put", "x", "2"), ("put", "y", "1"), ("put", "y", "4"), ("put", "z", "5"))
    assert told(compare(left, right)) == [
        ("data", "a", "put x", "changed", "1", "2"),
        ("data", "a", "put y #2", "changed", "3", "4"),
        ("data", "a", "put z", "only right", None, "5"),
    ]


def test_metrics_of_a_step_and_of_its_last_attempt_are_compared() -> None:
    left = run(step("a", attempt(1, user_defined_metrics={"loss": 1, "f1": MetricParameter(value=0.5)})))
    right = run(step("a", attempt(1, user_defined_metrics={"f1": 0.25}), user_defined_metrics={"loss": 2}))
    assert told(compare(left, right)) == [
        ("metric", "a", "loss", "changed", 1, 2),
        ("metric", "a", "f1", "changed", 0.5, 0.25),
    ]


def test_a_duration_differs_beyond_both_tolerances_only() -> None:
    def lasting(seconds: float) -> RunLog:
        return run(step("a", attempt(seconds)))

    tolerance = Tolerance(seconds=1, share=0.2)
    assert compare(lasting(0.1), lasting(1.1), tolerance=tolerance).is_same  # eleven times as long, by one second
    assert compare(lasting(100), lasting(120), tolerance=tolerance).is_same
    compared = compare(lasting(100), lasting(120.001), tolerance=tolerance)
    assert told(compared) == [
        ("duration", "", "seconds", "changed", 100.0, 120.001),
        ("duration", "a", "seconds", "changed", 100.0, 120.001),
    ]
    assert not compare(lasting(120.001), lasting(100), tolerance=tolerance).is_same
    assert compare(lasting(0), lasting(59), tolerance=Tolerance(seconds=60)).is_same
    assert not compare(lasting(1), lasting(1.001), tolerance=Tolerance(seconds=0, share=0)).is_same


@pytest.mark.parametrize("wrong", [{"seconds": -1}, {"share": -0.1}, {"seconds": math.nan}])
def test_a_tolerance_that_is_none_is_refused(wrong: Any) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        Tolerance(**wrong)


def test_a_tolerance_is_the_same_in_both_directions() -> None:
    ten, twelve = timedelta(seconds=10), timedelta(seconds=12)
    assert Tolerance(seconds=0, share=0.2).allows(ten, twelve)
    assert Tolerance(seconds=0, share=0.2).allows(twelve, ten)


def test_a_duration_that_is_not_known_or_not_ended_is_not_compared() -> None:
    running = run(step("a", StepAttempt(start_time="2026-01-01 12:00:00"), status="PROCESSING"), status="PROCESSING")
    assert compare(running, run(step("a", attempt(50)))).of("duration") == ()
    assert compare(run(step("a", StepAttempt())), run(step("a", attempt(50)))).of("duration") == ()


def test_jobs_are_compared_like_steps() -> None:
    left = run(job=JobLog(status="SUCCESS", attempts=[attempt(1)]))
    right = run(job=JobLog(status="FAIL", attempts=[attempt(1), attempt(50)], mock=True))
    assert [(each.kind, each.name, each.left, each.right) for each in compare(left, right).differences] == [
        ("status", JOB, "SUCCESS", "FAIL"),
        ("step", JOB, False, True),
        ("attempts", JOB, 1, 2),
        ("duration", "", 1.0, 50.0),
        ("duration", JOB, 1.0, 50.0),
    ]
    found = only(left, run())
    assert (found.kind, found.name, found.change, found.left, found.right) == (
        "step",
        JOB,
        "only left",
        "SUCCESS",
        None,
    )


def test_the_kinds_come_in_their_order() -> None:
    left = run(step("b", attempt(50)), tag="x", parameters={"p": 1}, run_config={"c": 1})
    right = run(step("b", attempt(1), status="FAIL"), tag="y", parameters={"p": 2}, run_config={"c": 2})
    kinds = [each.kind for each in compare(left, right).differences]
    assert kinds == ["run", "status", "parameter", "duration", "duration", "config"]
    assert kinds == sorted(kinds, key=KINDS.index)
    assert [each.field for each in compare(left, right).of("parameter")] == ["p"]


def test_runs_of_two_stores_are_compared_as_they_are_read() -> None:
    stores = [ChunkedRunLogStore(memory()), ChunkedRunLogStore(memory())]
    for number, store in enumerate(stores):
        store.create_run_log("r", tag="nightly")
        store.set_parameters("r", {"p": math.nan, "q": [1, {"deep": number}], "z": 1 if number else 1.0})
        store.add_step_log(step("a", attempt(1)), "r")
    left, right = (store.get_run_log_by_id("r") for store in stores)
    found = only(left, right)
    assert (found.field, found.left, found.right) == ("q", [1, {"deep": 0}], [1, {"deep": 1}])


def test_thousands_of_steps_are_compared_once_each() -> None:
    left = run(*(step(f"s{number}", attempt(1)) for number in range(2_000)))
    right = run(*(step(f"s{number}", attempt(1)) for number in reversed(range(2_001))))
    assert told(compare(left, right)) == [("step", "s2000", "status", "only right", None, "SUCCESS")]
