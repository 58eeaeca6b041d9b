"""The store's API and its data model, line by line as they are promised."""

from __future__ import annotations

import json
import pickle
import re
import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

import chunkstore
from chunkstore import (
    BranchLog,
    BranchLogNotFoundError,
    ChunkedRunLogStore,
    CodeIdentity,
    DataCatalog,
    InvalidInputError,
    JobLog,
    JobLogNotFoundError,
    JsonParameter,
    MetricParameter,
    ObjectParameter,
    ParameterNotFoundError,
    RunLog,
    RunLogExistsError,
    RunLogNotFoundError,
    StepAttempt,
    StepLog,
    StepLogNotFoundError,
)
from chunkstore.backends.local import LocalBackend
from chunkstore.clock import HybridClock
from places import again, memory, place, raw


@pytest.fixture(params=["memory", "local", "sqlite"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ChunkedRunLogStore:
    return ChunkedRunLogStore(place(request.param, request, tmp_path))


@pytest.fixture
def run(store: ChunkedRunLogStore) -> str:
    store.create_run_log("r")
    return "r"


@pytest.fixture
def other(store: ChunkedRunLogStore) -> ChunkedRunLogStore:
    """Another process's view of the same place."""
    return again(store)


def add(store: ChunkedRunLogStore, *names: str, run: str = "r") -> None:
    """Steps, each by its parent branch and its own name, told apart by a bar: `map.1.5|train`."""
    for name in names:
        parent, _, own = name.rpartition("|")
        store.add_step_log(store.create_step_log(own, f"{parent}.{own}" if parent else own), run)


def add_branch(store: ChunkedRunLogStore, *names: str, run: str = "r") -> None:
    for name in names:
        store.add_branch_log(store.create_branch_log(name), run)


class TestRuns:
    def test_a_created_run_is_stored_with_all_its_fields(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore
    ) -> None:
        made = store.create_run_log(
            "r", dag_hash="abc", use_cached=True, tag="t", original_run_id="o", status="triggered", variables={"x": 1}
        )
        found = other.get_run_log_by_id("r")
        for run_log in (made, found):
            assert (run_log.run_id, run_log.dag_hash, run_log.use_cached, run_log.tag) == ("r", "abc", True, "t")
            assert (run_log.original_run_id, run_log.status, run_log.variables) == ("o", "TRIGGERED", {"x": 1})
        assert made.created_at == found.created_at
        assert made.created_at is not None
        assert abs((datetime.now(UTC) - made.created_at).total_seconds()) < 60

    def test_the_defaults_are_the_seeds(self, store: ChunkedRunLogStore) -> None:
        made = store.create_run_log("r")
        assert (made.dag_hash, made.use_cached, made.tag, made.original_run_id) == ("", False, "", "")
        assert (made.status, made.steps, made.parameters, made.run_config, made.job) == ("CREATED", {}, {}, {}, None)

    def test_a_run_that_exists_is_not_created_again(self, other: ChunkedRunLogStore, store: ChunkedRunLogStore) -> None:
        store.create_run_log("r", tag="first")
        for creator in (store, other):
            with pytest.raises(RunLogExistsError, match=r"'r'.*exists.*choose another id") as caught:
                creator.create_run_log("r", tag="second")
            assert caught.value.run_id == "r"
        assert other.get_run_log_by_id("r").tag == "first"

    def test_a_missing_run_is_not_found_by_any_call(self, store: ChunkedRunLogStore) -> None:
        step = store.create_step_log("a", "a")
        calls = [
            lambda: store.get_run_log_by_id("x"),
            lambda: store.get_run_log_by_id("x", full=False),
            lambda: store.read_run_log("x"),
            lambda: store.update_run_log_status("x", "FAIL"),
            lambda: store.get_parameters("x"),
            lambda: store.get_parameters("x", "map.a"),
            lambda: store.get_parameter("x", "a"),
            lambda: store.set_parameters("x", {"a": 1}),
            lambda: store.get_run_config("x"),
            lambda: store.set_run_config("x", {"a": 1}),
            lambda: store.get_step_log("a", "x"),
            lambda: store.add_step_log(step, "x"),
            lambda: store.get_branch_log("map.a", "x"),
            lambda: store.get_branch_log("", "x"),
            lambda: store.add_branch_log(store.create_branch_log("map.a"), "x"),
            lambda: store.get_job_log("x"),
            lambda: store.add_job_log("x", store.create_job_log()),
            lambda: store.delete_run_log("x"),
        ]
        for number, call in enumerate(calls):
            with pytest.raises(RunLogNotFoundError, match="'x' is not in") as caught:
                call()
            assert caught.value.run_id == "x", number
        assert store.list_run_ids() == []

    def test_not_full_has_everything_but_steps(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        add(store, "a")
        store.set_parameters(run, {"x": 1})
        store.set_run_config(run, {"c": 2})
        store.add_job_log(run, JobLog(status="SUCCESS"))
        found = other.get_run_log_by_id(run, full=False)
        assert (found.steps, found.parameters, found.run_config, found.status) == ({}, {"x": 1}, {"c": 2}, "SUCCESS")
        assert found.job is not None
        assert found.job.status == "SUCCESS"

    def test_putting_a_run_back_stores_what_changed(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        add(store, "a")
        run_log = other.get_run_log_by_id(run)
        run_log.status = "fail"
        run_log.steps["a"].message = "changed"
        run_log.steps["b"] = StepLog(name="b", internal_name="b")
        run_log.parameters["x"] = 1
        run_log.run_config["c"] = 2
        other.put_run_log(run_log)
        found = store.get_run_log_by_id(run)
        assert found.status == "FAIL"
        assert {name: step.message for name, step in found.steps.items()} == {"a": "changed", "b": ""}
        assert (found.parameters, found.run_config) == ({"x": 1}, {"c": 2})

    def test_a_run_read_without_its_steps_erases_none(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        add(store, "a")
        store.set_parameters(run, {"x": 1})
        run_log = other.get_run_log_by_id(run, full=False)
        run_log.parameters.clear()
        run_log.status = "SUCCESS"
        other.put_run_log(run_log)
        found = store.get_run_log_by_id(run)
        assert (list(found.steps), found.parameters, found.status) == (["a"], {"x": 1}, "SUCCESS")

    def test_a_stale_put_undoes_nothing_that_others_wrote_meanwhile(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        store.set_parameters(run, {"kept": 0, "changed": 0})
        stale = other.get_run_log_by_id(run)
        add(store, "a")
        store.set_parameters(run, {"changed": 1, "new": 1})
        store.set_run_config(run, {"c": 1})
        store.update_run_log_status(run, "PROCESSING")
        stale.tag = "theirs"
        other.put_run_log(stale)
        found = again(store).get_run_log_by_id(run)
        assert (found.tag, found.status, found.run_config) == ("theirs", "PROCESSING", {"c": 1})
        assert (found.parameters, list(found.steps)) == ({"kept": 0, "changed": 1, "new": 1}, ["a"])

    def test_a_run_log_made_by_hand_makes_its_run(self, store: ChunkedRunLogStore, other: ChunkedRunLogStore) -> None:
        branch = BranchLog(internal_name="map.1.5", parameters={"y": 2})
        branch.steps["map.1.5.train"] = StepLog(name="train", internal_name="map.1.5.train")
        step = StepLog(name="map", internal_name="map", step_type="map", branches={"map.1.5": branch})
        store.put_run_log(RunLog(run_id="r", steps={"map": step}, parameters={"x": 1}, job=JobLog(status="SUCCESS")))
        found = other.get_run_log_by_id("r")
        assert found.parameters == {"x": 1}
        assert found.steps["map"].branches["map.1.5"].parameters == {"y": 2}
        assert found.search_step_by_internal_name("map.1.5.train")[0].name == "train"
        assert found.job is not None

    def test_runs_are_found_by_ids_tag_and_status_newest_first(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore
    ) -> None:
        for number, (tag, status) in enumerate([("a", "FAIL"), ("a", "SUCCESS"), ("b", "fail"), ("a", "fail")]):
            store.create_run_log(f"r{number}", tag=tag, status=status)

        def found(**query: Any) -> list[str]:
            return [run_log.run_id for run_log in other.get_run_logs(**query)]

        assert found() == ["r3", "r2", "r1", "r0"]
        assert found(tag="a") == ["r3", "r1", "r0"]
        assert found(status="Fail") == ["r3", "r2", "r0"]
        assert found(tag="a", status="FAIL", limit=1) == ["r3"]
        assert found(run_ids=["r1", "nowhere", "r0"]) == ["r1", "r0"]
        assert found(run_ids=[]) == []
        assert found(limit=0) == []

    def test_run_ids_are_listed_sorted_and_none_is_the_start_of_another(self, store: ChunkedRunLogStore) -> None:
        ids = ["run10", "run1", "run", "ü 1", "a.b", ".hidden", "100%", "run1 ", "RUN"]
        for run_id in ids:
            store.create_run_log(run_id)
            store.set_parameters(run_id, {"of": run_id})
        assert store.list_run_ids() == sorted(ids)
        for run_id in ids:
            assert again(store).get_run_log_by_id(run_id).parameters == {"of": run_id}
        store.delete_run_log("run1")
        assert store.list_run_ids() == sorted(set(ids) - {"run1"})
        assert store.get_parameters("run10") == {"of": "run10"}

    def test_a_deleted_run_is_gone_and_its_id_free(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        add(store, "a")
        store.set_parameters(run, {"x": 1})
        store.delete_run_log(run)
        assert store.list_run_ids() == []
        for reader in (store, other):
            with pytest.raises(RunLogNotFoundError):
                reader.get_run_log_by_id(run)
        other.create_run_log(run)
        found = store.get_run_log_by_id(run)
        assert (found.steps, found.parameters) == ({}, {})


class TestHeader:
    @pytest.mark.parametrize("given", ["success", "Success", "SUCCESS"])
    def test_a_status_in_any_case_is_stored_in_upper_case(
        self, store: ChunkedRunLogStore, run: str, given: str
    ) -> None:
        store.update_run_log_status(run, given)
        step = store.create_step_log("a", "a")
        step.status = given  # an assignment is not checked by the model
        store.add_step_log(step, run)
        branch = store.create_branch_log("a.b")
        branch.status = given
        store.add_branch_log(branch, run)
        for name in ("run.json", "step.a.json", "branch.a.b.json"):
            stored = json.loads(raw(store.backend, f"{run}/{name}") or b"")
            assert stored["status"] == "SUCCESS"
        found = again(store).get_run_log_by_id(run)
        assert {found.status, found.steps["a"].status, found.steps["a"].branches["a.b"].status} == {"SUCCESS"}

    def test_a_failed_step_does_not_fail_its_run(self, store: ChunkedRunLogStore, run: str) -> None:
        store.add_step_log(StepLog(name="a", internal_name="a", status="FAIL"), run)
        assert store.get_run_log_by_id(run).status == "CREATED"

    def test_a_status_of_a_newer_client_is_kept(self, store: ChunkedRunLogStore, run: str) -> None:
        store.update_run_log_status(run, "paused")
        assert again(store).get_run_log_by_id(run).status == "PAUSED"

    def test_run_config_is_merged(self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str) -> None:
        assert store.get_run_config(run) == {}
        store.set_run_config(run, {"a": {"deep": [1]}, "b": 1})
        other.set_run_config(run, {"b": 2, "ü/.": None})
        store.set_run_config(run, {"c": 3})
        assert other.get_run_config(run) == {"a": {"deep": [1]}, "b": 2, "ü/.": None, "c": 3}

    def test_a_job_sets_the_status_of_its_run(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        with pytest.raises(JobLogNotFoundError, match=r"'r'.*no job"):
            store.get_job_log(run)
        job = store.create_job_log()
        job.status = "fail"
        job.attempts.append(store.create_attempt_log())
        job.add_data_catalogs([DataCatalog(name="out", stage="put")])
        store.add_job_log(run, job)
        assert other.get_job_log(run).status == other.get_run_log_by_id(run).status == "FAIL"
        found = other.get_run_log_by_id(run).job
        assert found is not None
        assert [attempt.attempt_number for attempt in found.attempts] == [1]
        assert [catalog.name for catalog in found.data_catalog] == ["out"]


class TestParameters:
    def test_setting_some_keeps_the_others(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        store.set_parameters(run, {"a": 1, "b": 1})
        other.set_parameters(run, {"b": 2, "c": 2})
        assert store.get_parameters(run) == {"a": 1, "b": 2, "c": 2}

    def test_a_branch_has_its_own(self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str) -> None:
        scopes = ["", "map.1", "map.1.5", "map.a/b", "map.A B", "map.ü"]
        add_branch(store, *scopes[1:])
        for number, scope in enumerate(scopes):
            store.set_parameters(run, {"x": number}, scope)
        for number, scope in enumerate(scopes):
            assert other.get_parameters(run, scope) == {"x": number}
            assert other.get_parameter(run, "x", scope) == number
        add(store, "map")
        branches = other.get_run_log_by_id(run).steps["map"].branches
        assert {name: branch.parameters["x"] for name, branch in branches.items()} == {
            scope: number for number, scope in enumerate(scopes) if scope
        }

    def test_no_two_names_collide(self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str) -> None:
        long = "x" * 300
        names = [
            "a",
            "ab",
            "a.b",
            "a b",
            "a/b",
            "a%2Fb",
            "a@b",
            ".",
            "..",
            "json",
            ".json",
            "a.json",
            "ü",
            "u\u0308",
            long,
            long + "y",
        ]
        store.set_parameters(run, {name: number for number, name in enumerate(names)})
        assert other.get_parameters(run) == {name: number for number, name in enumerate(names)}

    def test_typed_ones_stay_typed(self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str) -> None:
        given = {
            "j": JsonParameter(value={"a": [1, None]}),
            "m": MetricParameter(value=0.5),
            "o": ObjectParameter(value="pickled"),
            "looks alike": {"kind": "json", "value": 1, "more": 2},
            "newer": {"kind": "tensor", "value": 1},
            "plain": {"value": 1},
            "none": None,
        }
        store.set_parameters(run, given)
        found = other.get_parameters(run)
        assert found == given
        assert type(found["m"]) is MetricParameter

    def test_handing_all_back_undoes_nothing(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        store.set_parameters(run, {"a": 1, "b": 1})
        mine = other.get_parameters(run)
        store.set_parameters(run, {"a": 2})
        mine["b"] = 3
        other.set_parameters(run, mine)
        assert again(store).get_parameters(run) == {"a": 2, "b": 3}

    def test_a_missing_one_is_named(self, store: ChunkedRunLogStore, run: str) -> None:
        with pytest.raises(ParameterNotFoundError, match=r"'r'.*no parameter 'x'"):
            store.get_parameter(run, "x")

    def test_a_branch_that_is_not_there_has_none(self, store: ChunkedRunLogStore, run: str) -> None:
        with pytest.raises(BranchLogNotFoundError, match=re.escape("map.x")):
            store.get_parameters(run, "map.x")
        add_branch(store, "map.x")
        assert store.get_parameters(run, "map.x") == {}

    def test_one_that_cannot_be_kept_is_refused_by_name_and_nothing_is_written(
        self, store: ChunkedRunLogStore, run: str
    ) -> None:
        with pytest.raises(InvalidInputError, match="'bad'"):
            store.set_parameters(run, {"good": 1, "bad": {1, 2}})
        assert store.get_parameters(run) == {}


class TestSteps:
    def test_making_one_stores_nothing(self, store: ChunkedRunLogStore, run: str) -> None:
        step = store.create_step_log("a", "map.x.a")
        assert (step.name, step.internal_name, step.status, step.step_type) == ("a", "map.x.a", "CREATED", "task")
        store.create_branch_log("map.x", {"p": 1})
        store.create_job_log()
        assert store.get_run_log_by_id(run) == again(store).get_run_log_by_id(run)
        with pytest.raises(StepLogNotFoundError, match=r"'r'.*no step 'map.x.a'"):
            store.get_step_log("map.x.a", run)

    def test_every_field_comes_back(self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str) -> None:
        step = store.create_step_log("a", "a")
        step.status, step.step_type, step.message, step.mock = "FAIL", "map", "it broke", True
        step.user_defined_metrics = {"loss": 0.25, "typed": MetricParameter(value=1)}
        for kind in ("git", "docker"):
            identity = store.create_code_identity()
            identity.code_identifier, identity.code_identifier_type = f"{kind}-1", kind
            identity.code_identifier_dependable, identity.code_identifier_url = True, "url"
            step.code_identities.append(CodeIdentity.model_validate({**identity.model_dump(), "extra": kind}))
        catalog = store.create_data_catalog("out.csv")
        catalog.stage, catalog.data_hash, catalog.stored_at = "put", "abc", "there"
        step.add_data_catalogs([catalog, DataCatalog.model_validate({"name": "in.csv", "stage": "get", "own": [1]})])
        step.attempts.append(
            StepAttempt(
                attempt_number=1, start_time="2026-11-21 10:00:00", end_time="2026-11-21 10:00:05", duration="0:00:05", status="fail",
                message="m", parameters={"a": 1}, input_parameters={"b": JsonParameter(value=2)}, output_parameters={"c": None},
                user_defined_metrics={"d": 1.5}, retry_indicator="1", code_identities=[CodeIdentity(code_identifier="x")],
            )
        )  # fmt: skip
        store.add_step_log(step, run)
        found = other.get_step_log("a", run)
        assert found.model_dump() == step.model_copy(update={"attempts": [step.attempts[0]]}).model_dump()
        assert found.code_identities[1].model_extra == {"extra": "docker"}
        assert [one.name for one in other.get_run_log_by_id(run).get_data_catalogs_by_stage("put")] == ["out.csv"]
        assert [one.name for one in found.get_data_catalogs_by_stage("get")] == ["in.csv"]

    def test_a_retry_adds_an_attempt_to_the_same_run(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        step = store.create_step_log("a", "a")
        step.attempts.append(StepAttempt(attempt_number=1, status="FAIL"))
        store.add_step_log(step, run)
        found = other.get_step_log("a", run)
        found.attempts.append(StepAttempt(attempt_number=2, status="SUCCESS"))
        other.add_step_log(found, run)
        assert [attempt.status for attempt in store.get_step_log("a", run).attempts] == ["FAIL", "SUCCESS"]

    def test_steps_keep_the_order_of_their_first_write(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        names = ["z", "a", "m", "ü", "B"]
        add(store, *names)
        for name in ["m", "z"]:
            step = other.get_step_log(name, run)
            step.status = "SUCCESS"
            other.add_step_log(step, run)
        assert list(again(store).get_run_log_by_id(run).steps) == names

    def test_order_survives_a_clock_that_runs_behind(self, store: ChunkedRunLogStore, run: str) -> None:
        behind = ChunkedRunLogStore(store.backend, clock=HybridClock(lambda: 1))
        add(store, "first")
        behind.get_step_log("first", run)
        add(behind, "second")
        ahead = again(store)
        ahead.get_step_log("second", run)
        add(ahead, "third")
        found = again(store).get_run_log_by_id(run)
        assert list(found.steps) == ["first", "second", "third"]

    def test_a_composite_step_without_its_branches_erases_none(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        add(store, "map")
        add_branch(store, "map.x")
        add(store, "map.x|t")
        step = other.get_step_log("map", run)
        assert step.branches == {}
        step.status = "SUCCESS"
        other.add_step_log(step, run)
        found = store.get_run_log_by_id(run).steps["map"]
        assert found.status == "SUCCESS"
        assert list(found.branches["map.x"].steps) == ["map.x.t"]

    def test_a_step_below_a_branch_that_was_looked_for_in_vain_is_refused(
        self, store: ChunkedRunLogStore, run: str
    ) -> None:
        with pytest.raises(BranchLogNotFoundError):
            store.get_branch_log("map.x", run)
        with pytest.raises(BranchLogNotFoundError, match=r"map.x"):
            add(store, "map.x|t")
        assert store.get_run_log_by_id(run).steps == {}

    def test_an_orphan_is_kept_under_a_placeholder_and_reported(self, store: ChunkedRunLogStore, run: str) -> None:
        add(store, "map.x|t")
        reading = again(store).read_run_log(run)
        assert reading.run_log.search_step_by_internal_name("map.x.t")[0].name == "t"
        assert {(finding.sort, finding.name) for finding in reading.findings} == {
            ("orphan", "map"),
            ("orphan", "map.x"),
        }

    def test_a_branch_that_is_not_there_is_named(self, store: ChunkedRunLogStore, run: str) -> None:
        with pytest.raises(BranchLogNotFoundError, match=r"'r'.*no branch 'map.x'"):
            store.get_branch_log("map.x", run)

    def test_an_empty_branch_name_is_the_run_itself(self, store: ChunkedRunLogStore, run: str) -> None:
        store.set_parameters(run, {"a": 1})
        found = store.get_branch_log("", run)
        assert isinstance(found, RunLog)
        assert found.parameters == {"a": 1}
        found.status = "SUCCESS"
        store.add_branch_log(found, run)
        assert again(store).get_run_log_by_id(run).status == "SUCCESS"

    def test_a_branch_brings_its_parameters_and_steps(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        add(store, "map")
        branch = store.create_branch_log("map.x", {"p": 1})
        branch.steps["map.x.t"] = StepLog(name="t", internal_name="map.x.t")
        store.add_branch_log(branch, run)
        found = other.get_run_log_by_id(run).steps["map"].branches["map.x"]
        assert (found.parameters, list(found.steps)) == ({"p": 1}, ["map.x.t"])


VALUES = [
    "0.1",
    "1.5",
    "2.5",
    "eu/west",
    "a b",
    "ü.json",
    "a.b",
    "a.b/c.csv",
    "m.geojson",
    "日本",
    "🚀",
    "%",
    "%2F",
    "-",
    "..",
    ".",
    "json",
    "x" * 300,
]


class TestDotPaths:
    def test_a_map_over_any_values_keeps_its_branches_in_order(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        add(store, "map")
        for value in VALUES:
            add_branch(store, f"map.{value}")
            store.set_parameters(run, {"x": value}, f"map.{value}")
            add(store, f"map.{value}|load", f"map.{value}|train")
        found = other.get_run_log_by_id(run)
        branches = found.steps["map"].branches
        assert list(branches) == [f"map.{value}" for value in VALUES]
        for value in VALUES:
            branch = branches[f"map.{value}"]
            assert branch.parameters == {"x": value}
            assert list(branch.steps) == [f"map.{value}.load", f"map.{value}.train"]
            assert found.search_branch_by_internal_name(f"map.{value}")[0] is branch
        assert other.read_run_log(run).findings == ()

    @pytest.mark.parametrize("value", ["1.5", "a.b/c.csv", "x" * 60, "ü ", "map", "branch"])
    def test_maps_inside_maps_five_levels_deep(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str, value: str
    ) -> None:
        scope = ""
        for level in range(5):
            add(store, f"{scope}|map{level}" if scope else f"map{level}")
            name = f"{scope}.map{level}" if scope else f"map{level}"
            scope = f"{name}.{value}"
            add_branch(store, scope)
        add(store, f"{scope}|leaf")
        holder: Any = other.get_run_log_by_id(run)
        for _ in range(5):
            (step,) = holder.steps.values()
            (holder,) = step.branches.values()
        assert list(holder.steps) == [f"{scope}.leaf"]

    def test_a_dag_step_has_a_branch_of_the_literal_name(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        add(store, "sub")
        add_branch(store, "sub.branch")
        add(store, "sub.branch|one step", "sub.branch|two")
        found = other.get_run_log_by_id(run)
        assert list(found.steps["sub"].branches["sub.branch"].steps) == ["sub.branch.one step", "sub.branch.two"]

    def test_a_name_that_starts_another_is_not_mixed_up_with_it(self, store: ChunkedRunLogStore, run: str) -> None:
        names = ["step-1", "step", "step-1.", "Step.A", "step 1"]
        add(store, *names)
        found = again(store).get_run_log_by_id(run)
        assert {name: step.internal_name for name, step in found.steps.items()} == {name: name for name in names}
        assert [store.get_step_log(name, run).name for name in names] == names

    def test_children_may_come_before_their_parents(self, store: ChunkedRunLogStore, run: str) -> None:
        store.set_parameters(run, {"x": 1}, "map.1.5")
        add(store, "map.1.5|t")
        add_branch(store, "map.1.5")
        add(store, "map")
        reading = again(store).read_run_log(run)
        assert reading.findings == ()
        branch = reading.run_log.steps["map"].branches["map.1.5"]
        assert (list(branch.steps), branch.parameters) == (["map.1.5.t"], {"x": 1})


class TestNewerVersions:
    def test_unknown_fields_survive_a_rewrite(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        newer = {"from_the_future": {"a": [1, {"b": None}]}}
        store.add_step_log(StepLog.model_validate({"name": "a", "internal_name": "a", **newer}), run)
        store.add_branch_log(BranchLog.model_validate({"internal_name": "a.b", **newer}), run)
        store.add_job_log(run, JobLog.model_validate(newer))
        store.create_run_log("n", **newer)
        step = other.get_step_log("a", run)
        step.message = "changed"
        other.add_step_log(step, run)
        branch = other.get_branch_log("a.b", run)
        branch.status = "FAIL"
        other.add_branch_log(branch, run)  # type: ignore[arg-type]
        other.add_job_log(run, other.get_job_log(run).model_copy(update={"status": "FAIL"}))
        other.update_run_log_status("n", "FAIL")
        found = again(store)
        for log in (
            found.get_step_log("a", run),
            found.get_branch_log("a.b", run),
            found.get_job_log(run),
            found.get_run_log_by_id("n"),
        ):
            assert log.model_extra == newer


class TestTheStoreItself:
    def test_its_attributes_are_what_clients_look_for(self, tmp_path: Path) -> None:
        local = ChunkedRunLogStore(LocalBackend(tmp_path))
        assert (local.service_name, local.service_type, local.supports_parallel_writes) == (
            "chunkstore",
            "run_log_store",
            True,
        )
        assert ChunkedRunLogStore(memory()).supports_parallel_writes is False  # one process's own

    def test_a_summary_tells_type_place_retention_compression_and_guarantees(self, store: ChunkedRunLogStore) -> None:
        summary = store.get_summary()
        assert summary["Type"] == "chunkstore"
        assert summary["Location"] == store.backend.place
        assert (summary["Retention"], summary["Compression"]) == ("90 days", "above 1,000,000 bytes")
        assert "conditional update" in str(summary["Guarantees"])

    def test_it_pickles_without_what_it_knows(self, store: ChunkedRunLogStore, run: str) -> None:
        store.set_parameters(run, {"a": 1})
        copy = pickle.loads(pickle.dumps(store))
        assert copy.get_parameters(run) == {"a": 1}
        copy.set_parameters(run, {"b": 2})
        assert store.get_parameters(run) == {"a": 1, "b": 2}

    def test_it_can_be_used_after_it_was_closed(self, store: ChunkedRunLogStore, run: str) -> None:
        store.close()
        store.close()
        store.set_parameters(run, {"a": 1, "b": 2})
        assert store.get_parameters(run) == {"a": 1, "b": 2}

    def test_large_chunks_are_compressed_and_read_alike(
        self, store: ChunkedRunLogStore, other: ChunkedRunLogStore, run: str
    ) -> None:
        store.set_parameters(run, {"large": "x" * 3_000_000, "small": "y"})
        assert other.get_parameters(run)["large"] == "x" * 3_000_000
        assert len(raw(store.backend, f"{run}/parameter.large.json") or b"") < 100_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    store = chunkstore.open(tmp_path / "runs")
    store.create_run_log("r", tag="t")
    store.add_step_log(store.create_step_log("Child Step", "Parallel.Branch A.Child Step"), "r")
    return tmp_path / "runs"


def test_a_person_reads_the_files_with_their_own_tools(folder: Path) -> None:
    path = folder / "r" / "step.Parallel.Branch A.Child Step.json"
    fields = json.loads(path.read_bytes())
    assert (fields["_chunkstore"]["name"], fields["name"]) == ("Parallel.Branch A.Child Step", "Child Step")
    assert StepLog.model_validate_json(path.read_bytes()).internal_name == "Parallel.Branch A.Child Step"
    if jq := shutil.which("jq"):
        said = subprocess.run([jq, "-r", ".status", str(path)], capture_output=True, text=True, check=True)
        assert said.stdout == "CREATED\n"
