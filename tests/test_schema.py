"""Model classes and chunks' JSON: what a client's class knows, and what it must not lose."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from chunkstore import codec, keys, models, values
from chunkstore.errors import FormatError, InvalidInputError
from chunkstore.keys import Kind
from chunkstore.schema import MAX_PARAMETER_DEPTH, OWN, ParameterForm, Schema
from chunkstore.values import Content, same

# A busy machine is slow, not wrong.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

KEY = "r/step.a.json"
clean_text = st.text(st.characters(exclude_categories=["Cs"]))
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None, categories=None))
json_values = st.recursive(
    leaves, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(clean_text, inside, max_size=3), max_leaves=8
)


class Narrow(BaseModel):
    """A client's step log that drops the fields it does not know."""

    name: str
    internal_name: str
    status: str = "CREATED"


NARROW = Schema(
    run_log=models.RunLog,
    step_log=Narrow,
    branch_log=models.BranchLog,
    job_log=models.JobLog,
    step_attempt=models.StepAttempt,
    code_identity=models.CodeIdentity,
    data_catalog=models.DataCatalog,
    parameter=ParameterForm(lambda fields: fields, lambda value: {"value": value}),
)


def fields_of(content: Content) -> dict[str, Any]:
    return values.decode(content)


def test_each_kind_has_its_class() -> None:
    assert [OWN.class_of(kind) for kind in (Kind.HEADER, Kind.JOB, Kind.STEP, Kind.BRANCH)] == [
        *(models.RunLog, models.JobLog, models.StepLog, models.BranchLog)
    ]


def test_a_chunk_holds_its_model_without_what_has_chunks_of_its_own() -> None:
    step = models.StepLog(name="a", internal_name="a")
    branch = models.BranchLog(internal_name="a.b", steps={"a.b.c": step}, parameters={"p": 1})
    run = models.RunLog(run_id="r", steps={"a": step}, parameters={"p": 1}, job=models.JobLog())
    step.branches["a.b"] = branch
    assert "branches" not in fields_of(OWN.write(Kind.STEP, step))
    assert {"steps", "parameters"}.isdisjoint(fields_of(OWN.write(Kind.BRANCH, branch)))
    assert {"steps", "parameters", "job", "created_at"}.isdisjoint(fields_of(OWN.write(Kind.HEADER, run)))


def test_a_status_is_stored_in_upper_case() -> None:
    step = models.StepLog(name="a", internal_name="a")
    step.status = "success"
    assert fields_of(OWN.write(Kind.STEP, step))["status"] == "SUCCESS"


@unhurried
@given(
    st.dictionaries(clean_text, json_values, max_size=3),
    st.dictionaries(clean_text.filter(str.isidentifier), json_values, max_size=3),
)
def test_a_step_log_comes_back_with_all_its_values_and_unknown_fields(
    metrics: dict[str, Any], extra: dict[str, Any]
) -> None:
    known = {"name": "a", "internal_name": "a", "user_defined_metrics": metrics}
    step = models.StepLog.model_validate({**{f"x_{name}": value for name, value in extra.items()}, **known})
    content = OWN.write(Kind.STEP, step)
    read = OWN.read(Kind.STEP, content, KEY)
    assert OWN.write(Kind.STEP, read) == content
    assert same(fields_of(content)["user_defined_metrics"], plain(step.user_defined_metrics))


def plain(value: Any) -> Any:
    """The JSON of a value in which a dict may have become a typed parameter."""
    if isinstance(value, BaseModel):
        return plain(value.model_dump())
    return {name: plain(item) for name, item in value.items()} if isinstance(value, dict) else value


def test_what_json_cannot_hold_comes_back_through_the_model() -> None:
    step = models.StepLog(
        name="a", internal_name="a", user_defined_metrics={"loss": math.nan, "n": 2**80, "t": "\ud800"}
    )
    read = OWN.read(Kind.STEP, OWN.write(Kind.STEP, step), KEY)
    assert isinstance(read, models.StepLog)
    assert same(dict(read.user_defined_metrics), {"loss": math.nan, "n": 2**80, "t": "\ud800"})  # type: ignore[arg-type]


@pytest.mark.parametrize("body", [b"{}", b"[]", b"", b'{"name":1,"internal_name":"a"}', b'{"name":"a"}', b"garbage"])
@pytest.mark.parametrize("exact", [{}, {"/name": "float:nan"}, {"/nowhere": "float:nan"}])
def test_json_that_does_not_fit_the_class_is_a_format_error_with_the_key(body: bytes, exact: dict[str, str]) -> None:
    with pytest.raises(FormatError, match=r"r/step\.a\.json does not fit StepLog") as found:
        OWN.read(Kind.STEP, Content(body, exact), KEY)
    assert found.value.key == KEY


@pytest.mark.parametrize("value", [b"x", {1}, object(), {1: 2}], ids=["bytes", "set", "object", "integer key"])
def test_a_model_with_a_value_that_json_cannot_keep_is_refused_with_its_path(value: Any) -> None:
    step = models.StepLog(name="a", internal_name="a")
    step.user_defined_metrics["m"] = value
    with pytest.raises(InvalidInputError, match="/user_defined_metrics/m"):
        OWN.write(Kind.STEP, step)


def test_a_model_with_a_value_within_itself_is_refused() -> None:
    ring: list[Any] = []
    ring.append(ring)
    step = models.StepLog(name="a", internal_name="a")
    step.user_defined_metrics["m"] = ring
    with pytest.raises(InvalidInputError, match="within itself"):
        OWN.write(Kind.STEP, step)
    with pytest.raises(InvalidInputError, match=r"parameter 'p' cannot be stored: .*within itself"):
        OWN.write_parameter("p", ring)
    with pytest.raises(InvalidInputError, match=r"parameter 'p' cannot be stored: .*within itself"):
        OWN.write_parameter("p", models.JsonParameter(value=ring))  # type: ignore[arg-type]


def test_a_class_that_keeps_unknown_fields_has_seen_the_whole_chunk() -> None:
    content = Content(b'{"name":"a","internal_name":"a","newer":1}')
    assert OWN.seen(Kind.STEP, content, KEY) is content


def test_a_class_that_drops_unknown_fields_has_not_seen_them() -> None:
    content = Content(b'{"name":"a","internal_name":"a","status":"SUCCESS","newer":1}')
    assert fields_of(NARROW.seen(Kind.STEP, content, KEY)) == {"name": "a", "internal_name": "a", "status": "SUCCESS"}


@unhurried
@given(json_values)
def test_a_parameter_comes_back_as_it_went_in(value: Any) -> None:
    assert same(OWN.read_parameter(OWN.write_parameter("p", value), KEY), value)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "value",
    [
        {"kind": "json", "value": 1},
        {"kind": "metric", "value": math.nan},
        {"kind": "newer", "value": 1, "unit": "m"},
        {"kind": ["odd"]},
        {"value": {"kind": "json"}},
        {"_chunkstore": 1},
    ],
    ids=str,
)
def test_a_plain_dict_that_looks_like_a_typed_parameter_stays_a_plain_dict(value: dict[str, Any]) -> None:
    read = OWN.read_parameter(OWN.write_parameter("p", value), KEY)
    assert type(read) is dict
    assert same(read, value)


@pytest.mark.parametrize(
    "value",
    [models.JsonParameter(value=[1, None]), models.MetricParameter(value=1.5), models.ObjectParameter(value="model")],
    ids=["json", "metric", "object"],
)
def test_a_typed_parameter_comes_back_as_that_type(value: BaseModel) -> None:
    read = OWN.read_parameter(OWN.write_parameter("p", value), KEY)
    assert type(read) is type(value)
    assert read == value


class Foreign(BaseModel):
    value: int = 1
    unit: str = "m"


@pytest.mark.parametrize(
    "value", [b"x", {1, 2}, object(), Foreign(), [Foreign()], {"a": {3: 1}}], ids=lambda value: type(value).__name__
)
def test_a_parameter_that_could_not_come_back_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidInputError, match=r"parameter 'p' cannot be stored: .* at '/value") as refused:
        OWN.write_parameter("p", value)
    assert refused.value.name == "p"


@pytest.mark.parametrize("levels", [MAX_PARAMETER_DEPTH - 2, MAX_PARAMETER_DEPTH + 1])
def test_a_parameter_that_may_be_stored_also_fits_into_the_attempt_that_repeats_it(levels: int) -> None:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    if levels > MAX_PARAMETER_DEPTH:
        with pytest.raises(InvalidInputError, match=r"parameter 'p' .*too deep"):
            OWN.write_parameter("p", value)
        return
    assert OWN.read_parameter(OWN.write_parameter("p", value), KEY) == value
    typed = models.JsonParameter(value=value)
    attempt = models.StepAttempt(input_parameters={"p": typed}, output_parameters={"p": typed})
    step = models.StepLog(name="a", internal_name="a", attempts=[attempt])
    read = OWN.read(Kind.STEP, OWN.write(Kind.STEP, step), KEY)
    assert isinstance(read, models.StepLog)
    assert read.attempts[0].input_parameters["p"] == typed


@pytest.mark.parametrize("body", [b"{}", b'{"unit":1}', b"[]", b"", b'{"kind":"object","value":1}'])
def test_a_chunk_that_holds_no_parameter_is_a_format_error_with_the_key(body: bytes) -> None:
    with pytest.raises(FormatError, match="holds no parameter") as found:
        OWN.read_parameter(Content(body), "r/parameter.p.json")
    assert found.value.key == "r/parameter.p.json"


@pytest.mark.parametrize(
    "newer",
    [
        {"kind": "newer", "value": 1},
        {"kind": "json", "value": 1, "unit": "m"},
        {"kind": "metric"},
        {"kind": 3, "value": 1},
    ],
    ids=str,
)
def test_a_parameter_of_a_newer_kind_or_with_newer_fields_comes_back_as_the_dict_that_it_is(
    newer: dict[str, Any],
) -> None:
    assert OWN.read_parameter(Content(json.dumps(newer).encode()), KEY) == newer


def test_a_parameter_of_a_newer_kind_that_is_handed_back_is_no_change() -> None:
    content = Content(b'{"kind":"newer","value":1,"unit":"m"}')
    handed_back = OWN.write_parameter("p", OWN.read_parameter(content, KEY))
    assert OWN.seen_parameter(keys.parameter("r", "p"), content) == handed_back


@pytest.mark.parametrize("kind", list(Kind))
def test_the_described_schema_fits_the_bodies_that_are_stored(kind: Kind) -> None:
    jsonschema = pytest.importorskip("jsonschema", reason="jsonschema is not installed; moto brings it")
    from chunkstore import ChunkedRunLogStore, JobLog, StepAttempt
    from chunkstore.demonstration import write_demo
    from places import memory

    store = ChunkedRunLogStore(memory())
    write_demo(store)
    store.create_run_log("job")
    store.add_job_log(
        "job", JobLog(status="FAIL", attempts=[StepAttempt(message="x", user_defined_metrics={"a": [1]})])
    )
    described = OWN.described(kind)
    jsonschema.Draft202012Validator.check_schema(described)
    bodies = [
        values.decode(codec.decode(store.backend.get(entry.key).data, entry.key).content)
        for run_id in store.list_run_ids()
        for entry in store.backend.list(f"{run_id}/")
        if (chunk := keys.parse(entry.key)) is not None and chunk.kind is kind
    ]
    assert bodies
    for body in bodies:
        jsonschema.validate(body, described)
        if kind is not Kind.PARAMETER:
            assert set(body) == set(described["properties"])
