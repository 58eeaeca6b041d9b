"""Maps inside maps, deeper and with odder values than any client can go: every branch and step comes back in its place."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Final

import pytest

import chunkstore
from chunkstore import BranchLog, ChunkedRunLogStore, RunLog, StepLog

DEPTH: Final = 5
ODD_VALUES: Final = (
    "0.1",
    "a.b.c",
    ".",
    "..",
    "eu/west",
    "/",
    "back\\slash",
    "ü.json",
    "日本語/東京.市",
    "e\u0301",  # not the same as é
    "\u00e9",
    "100%",
    "%2F",
    "%~",
    "a@b",
    "@",
    "parameter@x@y",
    "Case",
    "case",
    " space ",
    "new\nline",
    "step",
    "x" * 300,
    "x" * 299 + "y",
    "é" * 300,
    "a.b/" * 75,
)


@pytest.fixture(params=["memory", "local", "minio"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ChunkedRunLogStore]:
    if request.param == "minio":
        server = request.getfixturevalue("minio_server")
        access = {"endpoint_url": server.endpoint_url, "key": server.key, "secret": server.secret}
        opened = chunkstore.open(f"s3://{server.new_bucket()}/runs", region=server.region, **access)
    else:
        opened = chunkstore.open(f"memory://{uuid.uuid4()}" if request.param == "memory" else tmp_path)
    with closing(opened):
        yield opened


def reopened(store: ChunkedRunLogStore) -> ChunkedRunLogStore:
    """Another process's view: it knows nothing of what this one wrote."""
    return ChunkedRunLogStore(store.backend, settings=store.settings)


def write_map(store: ChunkedRunLogStore, inside: str, depth: int, values: tuple[str, ...]) -> None:
    """A map step below a branch, call by call as a client makes them, with maps inside its branches."""
    name = f"{inside}.map" if inside else "map"
    add_step(store, name)
    for value in values:
        branch = f"{name}.{value}"
        store.add_branch_log(BranchLog(internal_name=branch, status="SUCCESS"), "r")
        store.set_parameters("r", {"value": value, "a.b@c/d": depth}, branch)
        if depth > 1:
            write_map(store, branch, depth - 1, values)
        add_step(store, f"{branch}.last")


def add_step(store: ChunkedRunLogStore, name: str) -> None:
    store.add_step_log(StepLog(name=name.rpartition(".")[2], internal_name=name, status="SUCCESS"), "r")


def expected_map(inside: str, depth: int, values: tuple[str, ...]) -> list[tuple[str, list[object]]]:
    """The same map as nested lists, made by no code of chunkstore's."""
    name = f"{inside}.map" if inside else "map"
    branches: list[object] = []
    for value in values:
        branch = f"{name}.{value}"
        below: list[object] = list(expected_map(branch, depth - 1, values)) if depth > 1 else []
        parameters = {"value": value, "a.b@c/d": depth}
        branches.append((branch, parameters, [*below, (f"{branch}.last", [])]))
    return [(name, branches)]


def nested(steps: dict[str, StepLog]) -> list[tuple[str, list[object]]]:
    """What was read, as nested lists."""
    return [
        (
            name,
            [
                (branch.internal_name, dict(branch.parameters), nested(branch.steps))
                for branch in step.branches.values()
            ],
        )
        for name, step in steps.items()
    ]


def read_whole(store: ChunkedRunLogStore) -> RunLog:
    reading = reopened(store).read_run_log("r")
    assert reading.findings == ()
    return reading.run_log


def test_maps_inside_maps_five_levels_deep_are_nested_in_first_write_order(store: ChunkedRunLogStore) -> None:
    values = ("0.1", "eu/west")
    store.create_run_log("r")
    write_map(store, "", DEPTH, values)
    assert nested(read_whole(store).steps) == expected_map("", DEPTH, values)


def test_maps_over_odd_and_very_long_values_are_nested_in_first_write_order(store: ChunkedRunLogStore) -> None:
    store.create_run_log("r")
    write_map(store, "", 1, ODD_VALUES)
    assert nested(read_whole(store).steps) == expected_map("", 1, ODD_VALUES)


def test_five_levels_of_very_long_values_are_nested_in_first_write_order(store: ChunkedRunLogStore) -> None:
    values = ("x" * 300,)
    store.create_run_log("r")
    write_map(store, "", DEPTH, values)
    assert nested(read_whole(store).steps) == expected_map("", DEPTH, values)


@pytest.mark.parametrize("value", ODD_VALUES)
def test_every_odd_value_nests_five_levels_deep(value: str, tmp_path: Path) -> None:
    with closing(chunkstore.open(tmp_path)) as store:
        store.create_run_log("r")
        write_map(store, "", DEPTH, (value,))
        assert nested(read_whole(store).steps) == expected_map("", DEPTH, (value,))


def test_a_deep_step_and_branch_are_found_by_their_names_alone(store: ChunkedRunLogStore) -> None:
    store.create_run_log("r")
    write_map(store, "", DEPTH, ("a.b/" * 75,))
    deepest = "map" + f".{'a.b/' * 75}.map" * (DEPTH - 1) + f".{'a.b/' * 75}"
    fresh = reopened(store)
    assert fresh.get_branch_log(deepest, "r").status == "SUCCESS"
    assert fresh.get_step_log(f"{deepest}.last", "r").name == "last"
    assert fresh.get_parameters("r", deepest) == {"value": "a.b/" * 75, "a.b@c/d": 1}
    step, branch = read_whole(store).search_step_by_internal_name(f"{deepest}.last")
    assert (step.internal_name, branch and branch.internal_name) == (f"{deepest}.last", deepest)


def test_a_run_log_put_whole_is_stored_as_deep_as_it_is(store: ChunkedRunLogStore) -> None:
    source = chunkstore.open("memory://a source")
    source.create_run_log("r")
    write_map(source, "", DEPTH, ("a.b", "x" * 300))
    whole = source.get_run_log_by_id("r")
    source.delete_run_log("r")
    store.put_run_log(whole)
    assert nested(read_whole(store).steps) == expected_map("", DEPTH, ("a.b", "x" * 300))
