"""The models keep what they are given, take both clients' JSON, and find steps whose names hold dots."""

from __future__ import annotations

import copy
import json
import math
import pickle
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter, ValidationError

from chunkstore.errors import BranchLogNotFoundError, InvalidInputError, StepLogNotFoundError
from chunkstore.models import (
    TERMINAL,
    BranchLog,
    CodeIdentity,
    DataCatalog,
    JobLog,
    JsonParameter,
    MetricParameter,
    ObjectParameter,
    Parameter,
    RunLog,
    Status,
    StepAttempt,
    StepLog,
)

# A busy machine is slow, not wrong.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

PARAMETERS: TypeAdapter[dict[str, Parameter]] = TypeAdapter(dict[str, Parameter])


def parameter(value: object) -> object:
    return PARAMETERS.validate_python({"p": value})["p"]


def step(internal_name: str, *branches: BranchLog, **fields: Any) -> StepLog:
    held = {branch.internal_name: branch for branch in branches}
    return StepLog(name=internal_name, internal_name=internal_name, branches=held, **fields)


def branch(internal_name: str, *steps: StepLog) -> BranchLog:
    return BranchLog(internal_name=internal_name, steps={held.internal_name: held for held in steps})


def run(*steps: StepLog, **fields: Any) -> RunLog:
    return RunLog(run_id="r", steps={held.internal_name: held for held in steps}, **fields)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(min_value=-(2**300), max_value=2**300)
    | st.floats()
    | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 0.0, 1.0, 1, True, 2**64, 5e-324, 1e16])
    | st.text()
)
json_values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=8
)
lookalikes = st.fixed_dictionaries(
    {"kind": st.sampled_from(["json", "metric", "object"]), "value": json_values, "unit": json_values}
)
typed = st.builds(JsonParameter, value=json_values) | st.builds(MetricParameter, value=json_values)
parameter_dicts: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.text(), json_values | lookalikes | typed | st.builds(ObjectParameter, value=st.text()), max_size=4
)
unknown: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    st.sampled_from(["future", "_cs", "a name"]), json_values, max_size=2
)


@st.composite
def step_logs(draw: st.DrawFn, depth: int = 2) -> StepLog:
    attempt = StepAttempt(
        parameters=draw(parameter_dicts),
        user_defined_metrics=draw(parameter_dicts),
        code_identities=[CodeIdentity(**draw(unknown))],
        **draw(unknown),
    )
    inner = draw(st.lists(step_logs(depth=depth - 1), max_size=2)) if depth else []
    branches = [BranchLog(internal_name=f"b{i}", steps={"s": s}, **draw(unknown)) for i, s in enumerate(inner)]
    catalog = [DataCatalog(name=draw(st.text()), **draw(unknown))]
    fields: dict[str, Any] = {**draw(unknown), "attempts": [attempt], "data_catalog": catalog}
    return step(draw(st.text()), *branches, status=draw(st.sampled_from(["SUCCESS", "NEW ONE"])), **fields)


def assert_same(left: BaseModel, right: BaseModel) -> None:
    # repr tells 1 from 1.0 and True, 0.0 from -0.0, and knows two NaNs for the same; == does none of that
    assert repr(left) == repr(right)
    assert repr(left.model_dump()) == repr(right.model_dump())


class TestParameters:
    @unhurried
    @given(json_values | lookalikes)
    def test_a_plain_value_is_the_very_object_that_was_given(self, value: object) -> None:
        assert parameter(value) is value

    @unhurried
    @given(json_values)
    def test_the_value_of_a_typed_parameter_is_the_very_object_that_was_given(self, value: Any) -> None:
        assert JsonParameter(value=value).get_value() is value
        assert MetricParameter(value=value).value is value
        read = parameter({"kind": "metric", "value": value})
        assert isinstance(read, MetricParameter)
        assert read.get_value() is value

    @pytest.mark.parametrize(
        ("given_value", "expected"),
        [
            ({"kind": "json", "value": 1}, JsonParameter(value=1)),
            ({"kind": "metric", "value": [1.5]}, MetricParameter(value=[1.5])),
            ({"kind": "object", "value": "model"}, ObjectParameter(value="model")),
            ({"value": None, "description": "old", "kind": "json"}, JsonParameter(value=None)),
            (
                {"kind": "json", "value": {"kind": "json", "value": 1}},
                JsonParameter(value={"kind": "json", "value": 1}),
            ),
        ],
    )
    def test_a_dict_of_kind_and_value_becomes_typed(self, given_value: object, expected: BaseModel) -> None:
        for read in (parameter(given_value), PARAMETERS.validate_json(json.dumps({"p": given_value}))["p"]):
            assert isinstance(read, type(expected))
            assert_same(read, expected)

    @pytest.mark.parametrize(
        "value",
        [
            {"kind": "json"},
            {"kind": "json", "value": 1, "unit": "s"},
            {"kind": "json", "value": 1, "description": "d", "unit": "s"},
            {"kind": "JSON", "value": 1},
            {"kind": "new kind", "value": 1},
            {"kind": ["json"], "value": 1},
            {"kind": None, "value": 1},
            {"kind": "object", "value": 3},
            {"kind": "object", "value": b"name"},
            {"value": 1},
            {},
        ],
    )
    def test_a_dict_that_only_looks_like_a_typed_parameter_stays_plain(self, value: object) -> None:
        assert parameter(value) is value

    @pytest.mark.parametrize("value", [JsonParameter(value=1), MetricParameter(value=1), ObjectParameter(value="x")])
    def test_a_typed_instance_stays_itself(self, value: object) -> None:
        assert parameter(value) is value

    def test_runnables_description_is_dropped_and_never_written(self) -> None:
        read = JsonParameter.model_validate({"kind": "json", "value": "long text", "description": "long..."})
        assert read == JsonParameter(value="long text")
        assert read.model_dump() == {"kind": "json", "value": "long text"}
        assert "description" not in repr(read)

    def test_a_typed_parameter_refuses_keys_that_it_would_lose(self) -> None:
        with pytest.raises(ValidationError, match="unit"):
            JsonParameter.model_validate({"kind": "json", "value": 1, "unit": "s"})

    def test_an_objects_value_is_its_name(self) -> None:
        assert ObjectParameter(value="model").get_value() == "model"


class TestRoundTrips:
    @unhurried
    @given(parameter_dicts, unknown)
    def test_parameters_survive_python_and_json(self, parameters: dict[str, Any], extra: dict[str, Any]) -> None:
        log = RunLog(run_id="r", parameters=parameters, run_config=extra, variables=extra)
        assert_same(RunLog.model_validate(log.model_dump()), log)
        assert_same(RunLog.model_validate_json(log.model_dump_json()), log)

    @unhurried
    @given(step_logs())
    def test_a_nested_step_survives_python_and_json_with_its_unknown_fields(self, log: StepLog) -> None:
        assert_same(StepLog.model_validate(log.model_dump()), log)
        assert_same(StepLog.model_validate_json(log.model_dump_json()), log)

    @unhurried
    @given(step_logs())
    def test_a_step_survives_pickling_and_copying(self, log: StepLog) -> None:
        assert_same(pickle.loads(pickle.dumps(log)), log)
        assert_same(copy.deepcopy(log), log)

    @unhurried
    @given(st.text(st.characters(categories=["Cs"]), min_size=1))
    def test_lone_surrogates_survive_python(self, text: str) -> None:
        log = step(text, message=text, user_defined_metrics={text: text, "o": ObjectParameter(value=text)})
        assert_same(StepLog.model_validate(log.model_dump()), log)

    def test_json_shows_nan_and_infinity_and_never_null_instead(self) -> None:
        metrics: dict[str, Parameter] = {"a": math.nan, "b": [-math.inf], "c": MetricParameter(value=math.nan)}
        log = StepAttempt.model_validate({"user_defined_metrics": metrics, "future": math.inf})
        written = json.loads(log.model_dump_json())
        assert repr(written["user_defined_metrics"]) == "{'a': nan, 'b': [-inf], 'c': {'kind': 'metric', 'value': nan}}"
        assert written["future"] == math.inf

    def test_steps_and_branches_keep_their_order(self) -> None:
        log = run(step("z", branch("z.b"), branch("z.a")), step("a"))
        read = RunLog.model_validate_json(log.model_dump_json())
        assert list(read.steps) == ["z", "a"]
        assert list(read.steps["z"].branches) == ["z.b", "z.a"]

    def test_two_logs_share_no_containers(self) -> None:
        first, second = RunLog(run_id="1"), RunLog(run_id="2")
        first.parameters["p"] = 1
        first.steps["s"] = step("s")
        assert (second.parameters, second.steps) == ({}, {})


FIELDS: dict[type[BaseModel], str] = {
    RunLog: """run_id dag_hash use_cached tag original_run_id status steps parameters run_config variables job
        created_at""",
    StepLog: """name internal_name status step_type message mock code_identities attempts user_defined_metrics
        branches data_catalog""",
    StepAttempt: """attempt_number start_time end_time duration status message parameters input_parameters
        output_parameters user_defined_metrics retry_indicator code_identities""",
    BranchLog: "internal_name status steps parameters",
    JobLog: "status message mock code_identities attempts data_catalog",
    DataCatalog: "name stored_at catalog_relative_path catalog_handler_location data_hash stage",
    CodeIdentity: """code_identifier code_identifier_type code_identifier_dependable code_identifier_url
        code_identifier_message""",
}


class TestFields:
    @pytest.mark.parametrize("model", FIELDS)
    def test_the_fields_stand_in_the_promised_order(self, model: type[BaseModel]) -> None:
        assert list(model.model_fields) == FIELDS[model].split()

    @pytest.mark.parametrize("model", [StepAttempt, JobLog])
    def test_a_new_log_is_created(self, model: type[StepAttempt | JobLog]) -> None:
        assert model().status == "CREATED"

    @pytest.mark.parametrize("given_status", ["success", "Success", "SUCCESS", Status.SUCCESS])
    def test_a_status_is_kept_in_upper_case(self, given_status: str) -> None:
        for log in (step("s", status=given_status), run(status=given_status), JobLog(status=given_status)):
            assert log.status == "SUCCESS"
            assert type(log.status) is str

    def test_an_unknown_status_is_kept(self) -> None:
        assert StepAttempt(status="paused").status == "PAUSED"

    def test_only_success_and_fail_are_terminal(self) -> None:
        assert [status for status in Status if status in TERMINAL] == ["SUCCESS", "FAIL"]
        assert "FAIL" in TERMINAL

    def test_the_creation_time_needs_a_time_zone(self) -> None:
        moment = datetime(2024, 5, 6, tzinfo=UTC)
        assert RunLog.model_validate_json(run(created_at=moment).model_dump_json()).created_at == moment
        with pytest.raises(ValidationError, match="timezone"):
            run(created_at=moment.replace(tzinfo=None))

    def test_catalogs_are_equal_by_name(self) -> None:
        assert DataCatalog(name="a", data_hash="1") == DataCatalog(name="a", data_hash="2")
        assert DataCatalog(name="a") != DataCatalog(name="b")
        assert DataCatalog(name="a") != "a"
        assert len({DataCatalog(name="a", stage="get"), DataCatalog(name="a", stage="put")}) == 1

    @pytest.mark.parametrize(
        ("start", "end", "elapsed"),
        [
            ("2024-01-01 10:00:00.5", "2024-01-01 10:01:00", timedelta(seconds=59.5)),
            ("2024-01-01T10:00:00Z", "2024-01-01T12:00:00+01:00", timedelta(hours=1)),
            ("", "", None),
            ("2024-01-01 10:00:00", "", None),
            ("", "2024-01-01 10:00:00", None),
            ("2024-01-01 10:00:00", "2024-01-01T10:00:00Z", None),
            ("yesterday", "2024-01-01 10:00:00", None),
        ],
    )
    def test_the_elapsed_time_comes_from_start_and_end(self, start: str, end: str, elapsed: timedelta | None) -> None:
        assert StepAttempt(start_time=start, end_time=end).elapsed == elapsed


class TestSearch:
    @pytest.mark.parametrize(
        "value", ["eu", "1.5", "a.b/c.csv", "Branch A", "..", ".", "", "ünï.cödé", "m.m", "branch", "1."]
    )
    def test_a_branch_and_its_step_are_found_whatever_the_value_holds(self, value: str) -> None:
        inner = step(f"m.{value}.train.er")
        held = branch(f"m.{value}", inner)
        log = run(step("m"), step("other"), steps_seen=1)
        log.steps["m"].branches = {"m.eu-west": branch("m.eu-west"), held.internal_name: held}
        assert log.search_step_by_internal_name(inner.internal_name) == (inner, held)
        found, parent = log.search_branch_by_internal_name(held.internal_name)
        assert found is held
        assert parent is log.steps["m"]

    def test_steps_of_the_run_are_found_and_have_no_branch(self) -> None:
        log = run(step("a"), step("a.b"), step("with.dots and spaces"))
        for name, held in log.steps.items():
            found, holder = log.search_step_by_internal_name(name)
            assert found is held
            assert holder is None

    def test_the_empty_branch_name_is_the_run_itself(self) -> None:
        log = run()
        assert log.search_branch_by_internal_name("") == (log, None)

    def test_a_search_turns_back_from_a_start_that_leads_nowhere(self) -> None:
        short = step("a.b.c.d")
        long = step("a.b.c.e")
        under_short = branch("a.b", step("a.b.c", branch("a.b.c.d", step("a.b.c.d.x"))), short)
        under_long = branch("a.b.c", long)
        log = run(step("a", under_short), step("a.b", under_long))
        assert log.search_step_by_internal_name("a.b.c.d") == (short, under_short)
        assert log.search_step_by_internal_name("a.b.c.e") == (long, under_long)
        assert log.search_step_by_internal_name("a.b.c.d.x")[0].name == "a.b.c.d.x"
        assert log.search_branch_by_internal_name("a.b")[1] is log.steps["a"]
        assert log.search_branch_by_internal_name("a.b.c")[1] is log.steps["a.b"]

    @unhurried
    @given(st.data())
    def test_every_step_and_branch_of_a_tree_is_found_under_its_own_parent(self, data: st.DataObject) -> None:
        log = run()
        steps: dict[str, tuple[StepLog, BranchLog | None]] = {}
        branches: dict[str, tuple[BranchLog, StepLog]] = {}
        part = st.sampled_from(["a", "a.a", "a.a.a", "b", ".", "a."])
        for _ in range(data.draw(st.integers(1, 12))):
            holders: list[RunLog | BranchLog] = [log, *(found for found, _ in branches.values())]
            holder = data.draw(st.sampled_from(holders))
            owner = holder.internal_name + "." if isinstance(holder, BranchLog) else ""
            name = owner + data.draw(part)
            if name in steps:
                continue
            steps[name] = (step(name), holder if isinstance(holder, BranchLog) else None)
            holder.steps[name] = steps[name][0]
            below = name + "." + data.draw(part)
            if below not in branches:
                branches[below] = (branch(below), steps[name][0])
                steps[name][0].branches[below] = branches[below][0]
        for name, (held, within) in steps.items():
            found, holder_found = log.search_step_by_internal_name(name)
            assert found is held
            assert holder_found is within
        for name, (held_branch, owner_step) in branches.items():
            found_branch, parent = log.search_branch_by_internal_name(name)
            assert found_branch is held_branch
            assert parent is owner_step

    def test_a_search_visits_each_branch_once_however_many_ways_lead_to_it(self) -> None:
        name = ".".join("a" * 24)
        starts = [name[:end] for end in range(1, len(name), 2)]
        holder = BranchLog(internal_name="end")
        for _ in range(30):  # 23 x 23 ways from each level to the next: walking them all would never end
            held = {start: step(start) for start in starts}
            for inner in held.values():
                inner.branches = dict.fromkeys(starts, holder)
            holder = BranchLog(internal_name="level", steps=held)
        with pytest.raises(StepLogNotFoundError):
            RunLog(run_id="r", steps=holder.steps).search_step_by_internal_name(name + ".missing")

    @pytest.mark.parametrize("name", ["b", "a.x", "a.b.c", "a.b", "a.", ".a", "A", ""])
    def test_a_missing_step_is_named_in_the_error(self, name: str) -> None:
        with pytest.raises(StepLogNotFoundError, match=r"run log 'r' has no step") as caught:
            run(step("a", branch("a.b", step("a.b.d")))).search_step_by_internal_name(name)
        assert (caught.value.run_id, caught.value.name) == ("r", name)

    @pytest.mark.parametrize("name", ["a", "b", "a.b.c", "a.b.d", "a.", "."])
    def test_a_missing_branch_is_named_in_the_error(self, name: str) -> None:
        with pytest.raises(BranchLogNotFoundError, match=r"run log 'r' has no branch") as caught:
            run(step("a", branch("a.b", step("a.b.d")))).search_branch_by_internal_name(name)
        assert (caught.value.run_id, caught.value.name) == ("r", name)


class TestDataCatalogs:
    @staticmethod
    def nested() -> RunLog:
        inner = step("m.eu.t", data_catalog=[DataCatalog(name="b", stage="put"), DataCatalog(name="in", stage="get")])
        outer = step("m", branch("m.eu", inner), data_catalog=[DataCatalog(name="a", stage="put", data_hash="first")])
        last = step("z", data_catalog=[DataCatalog(name="a", stage="put", data_hash="again")])
        job = JobLog(data_catalog=[DataCatalog(name="j", stage="put"), DataCatalog(name="b", stage="put")])
        return run(outer, last, job=job)

    def test_a_run_has_each_name_once_in_the_order_first_seen(self) -> None:
        put = self.nested().get_data_catalogs_by_stage("put")
        assert [(catalog.name, catalog.data_hash) for catalog in put] == [("a", "first"), ("b", ""), ("j", "")]
        assert [catalog.name for catalog in self.nested().get_data_catalogs_by_stage("get")] == ["in"]

    def test_a_step_has_its_own_then_its_branches(self) -> None:
        outer = self.nested().steps["m"]
        assert [catalog.name for catalog in outer.get_data_catalogs_by_stage("put")] == ["a", "b"]
        assert [catalog.name for catalog in outer.branches["m.eu"].get_data_catalogs_by_stage("get")] == ["in"]

    def test_the_stage_is_put_unless_said(self) -> None:
        log = self.nested()
        assert log.get_data_catalogs_by_stage() == log.get_data_catalogs_by_stage("put")

    @pytest.mark.parametrize("log", [RunLog(run_id="r"), BranchLog(internal_name="b"), step("s")])
    def test_another_stage_is_refused_even_where_there_is_nothing(self, log: RunLog | BranchLog | StepLog) -> None:
        with pytest.raises(InvalidInputError, match=r"'PUT'.*'get' or 'put'"):
            log.get_data_catalogs_by_stage("PUT")

    @pytest.mark.parametrize("log", [step("s"), JobLog()])
    def test_catalogs_are_appended(self, log: StepLog | JobLog) -> None:
        log.add_data_catalogs([DataCatalog(name="a")])
        log.add_data_catalogs(DataCatalog(name=name) for name in "ab")
        assert [catalog.name for catalog in log.data_catalog] == ["a", "a", "b"]


MAGNUS_RUN = {
    "run_id": "crisp-lamport-0623",
    "dag_hash": "ce0676d63e99c34848484f2df1744bab8d45e33a",
    "use_cached": False,
    "tag": "",
    "original_run_id": "",
    "status": "SUCCESS",
    "steps": {
        "first": {
            "name": "first",
            "internal_name": "first",
            "status": "SUCCESS",
            "step_type": "task",
            "message": "",
            "mock": False,
            "code_identities": [
                {
                    "code_identifier": "1486bd7fbe27d57ff4a9612e8dabe6a914bc4eb5",
                    "code_identifier_type": "git",
                    "code_identifier_dependable": True,
                    "code_identifier_url": "ssh://git@example.com/p.git",
                    "code_identifier_message": None,
                }
            ],
            "attempts": [
                {
                    "attempt_number": 0,
                    "start_time": "2024-01-05 04:10:11.083315",
                    "end_time": "2024-01-05 04:10:12.083315",
                    "duration": "0:00:01",
                    "status": "SUCCESS",
                    "message": "",
                    "parameters": {"x": 1, "y": [1.0, True, None], "nested": {"kind": "of", "value": "wine"}},
                }
            ],
            "user_defined_metrics": {"loss": 0.25, "incidents": {"mean_value": 2, "variance": 0.1}},
            "branches": {},
            "data_catalog": [
                {
                    "name": "x.csv",
                    "data_hash": "bff45e",
                    "catalog_relative_path": "crisp-lamport-0623/x.csv",
                    "catalog_handler_location": ".catalog",
                    "stage": "put",
                }
            ],
        }
    },
    "parameters": {"x": 1, "y": "text"},
    "run_config": {"executor": {"service_name": "local"}, "variables": {}},
}


def holds(written: object, read: object) -> bool:
    """Whether all that was written is in what was read back, which may say more."""
    if isinstance(written, dict) and isinstance(read, dict):
        return all(key in read and holds(value, read[key]) for key, value in written.items())
    if isinstance(written, list) and isinstance(read, list):
        return len(written) == len(read) and all(map(holds, written, read))
    return type(written) is type(read) and written == read


class TestClients:
    def test_magnus_json_is_taken_and_nothing_of_it_is_lost(self) -> None:
        for log in (RunLog.model_validate(MAGNUS_RUN), RunLog.model_validate_json(json.dumps(MAGNUS_RUN))):
            assert holds(MAGNUS_RUN, json.loads(log.model_dump_json()))
            attempt = log.steps["first"].attempts[0]
            assert (attempt.duration, attempt.elapsed) == ("0:00:01", timedelta(seconds=1))
            assert log.search_step_by_internal_name("first") == (log.steps["first"], None)

    def test_the_seeds_own_examples_are_taken(self) -> None:
        assert StepAttempt.model_validate({"attempt_number": 0, "duration": None}).duration is None
        entry = {"name": "x.csv", "stored_at": "s3://b/x.csv", "data_hash": "1", "stage": "get"}
        assert holds(entry, DataCatalog.model_validate(entry).model_dump())
        assert RunLog.model_validate({"run_id": "r", "variables": {"v": 1}}).variables == {"v": 1}

    def test_runnable_json_is_taken_and_runnable_reads_it_back(self) -> None:
        theirs = pytest.importorskip("runnable.datastore", reason="runnable is not installed")
        written = runnable_run(theirs)
        for log in (RunLog.model_validate(written.model_dump()), RunLog.model_validate_json(written.model_dump_json())):
            assert log.parameters["y"] == JsonParameter(value={"deep": [1, 2.0, "text"]})
            assert log.steps["m"].branches["m.1.5"].parameters == {"z": JsonParameter(value=None)}
            assert "description" not in log.model_dump_json()
            for again in (theirs.RunLog.model_validate(log.model_dump()), runnable_reread(theirs, log)):
                assert holds(written.model_dump(), again.model_dump())

    def test_an_unknown_field_of_a_client_survives_a_rewrite(self) -> None:
        identity = {"code_identifier": "sha", "builder": {"host": "ci"}}
        job = {"status": "success", "code_identities": [identity], "data_catalog": [{"name": "f", "size": 3}]}
        read = RunLog.model_validate({"run_id": "r", "job": job, "owner": "me"}).model_dump()
        assert holds({"run_id": "r", "job": job | {"status": "SUCCESS"}, "owner": "me"}, read)


def runnable_reread(theirs: Any, log: RunLog) -> Any:
    return theirs.RunLog.model_validate_json(log.model_dump_json())


def runnable_run(theirs: Any) -> Any:
    """A run log made by runnable's own models: a map over 1.5, every kind of parameter, a job, extra fields."""
    parameters = {
        "y": theirs.JsonParameter(kind="json", value={"deep": [1, 2.0, "text"]}),
        "loss": theirs.MetricParameter(kind="metric", value=0.5),
        "model": theirs.ObjectParameter(kind="object", value="model"),
        "long": theirs.JsonParameter(kind="json", value="more than ten characters"),
    }
    attempt = theirs.StepAttempt(
        start_time="2024-01-05 04:10:11.083315",
        end_time="2024-01-05 04:10:12.083315",
        status="SUCCESS",
        input_parameters=parameters,
        output_parameters=parameters,
        user_defined_metrics=parameters,
        retry_indicator="2",
        code_identities=[theirs.CodeIdentity(code_identifier=None, extra="kept")],
    )
    catalog = theirs.DataCatalog(name="x.csv", data_hash="1", stage="put", extra="kept")
    inner = theirs.StepLog(name="t", internal_name="m.1.5.t", attempts=[attempt], data_catalog=[catalog])
    held = theirs.BranchLog(
        internal_name="m.1.5",
        status="SUCCESS",
        steps={"m.1.5.t": inner},
        parameters={"z": theirs.JsonParameter(kind="json", value=None)},
    )
    outer = theirs.StepLog(name="m", internal_name="m", step_type="map", branches={"m.1.5": held})
    job = theirs.JobLog(status="SUCCESS", attempts=[attempt], data_catalog=[catalog])
    return theirs.RunLog(
        run_id="r", tag=None, steps={"m": outer}, job=job, parameters=parameters, run_config={"pipeline": "p.yaml"}
    )
