"""What runnable asks of a run log store, call by call."""

from __future__ import annotations

import asyncio
import copy
import importlib.metadata
import json
import math
import multiprocessing
import os
import pickle
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("runnable")

from pipeline_runs import Place, outline, plain
from rich.console import Console
from runnable import context, datastore, exceptions
from runnable.context import get_service_by_name

import chunkstore
from chunkstore import ChunkedRunLogStore, InvalidInputError
from chunkstore.backends.local import LocalBackend
from chunkstore.integrations.runnable import RUNNABLE, ChunkStoreRunLogStore
from chunkstore.settings import S3StoreSettings
from chunkstore.testing import CountingBackend

SECRET = "open sesame"


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[ChunkStoreRunLogStore]:
    plugin = ChunkStoreRunLogStore(url=str(tmp_path / "runs"))
    with closing(plugin.store):
        yield plugin


@pytest.fixture(params=["local", "memory", "minio"])
def anywhere(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[ChunkStoreRunLogStore]:
    """The store of runnable on each sort of place."""
    if request.param == "minio":
        place = Place.on(request.getfixturevalue("minio_server"))
    else:
        place = Place(f"memory://{uuid.uuid4()}" if request.param == "memory" else str(tmp_path / "runs"))
    plugin = ChunkStoreRunLogStore(url=place.url, **place.settings)
    with closing(plugin.store):
        yield plugin


@pytest.fixture
def own(plugin: ChunkStoreRunLogStore) -> Iterator[ChunkedRunLogStore]:
    """Another program on the same folder, with chunkstore's own models."""
    with closing(chunkstore.open(plugin.url)) as store:
        yield store


@pytest.fixture
def counted(
    plugin: ChunkStoreRunLogStore, monkeypatch: pytest.MonkeyPatch
) -> tuple[ChunkStoreRunLogStore, CountingBackend]:
    """The store of runnable, and a count of its requests."""
    backend = CountingBackend(LocalBackend(plugin.url))
    store = ChunkedRunLogStore(backend, schema=RUNNABLE)
    monkeypatch.setattr(ChunkStoreRunLogStore, "store", store)
    return plugin, backend


def json_parameter(value: Any) -> datastore.JsonParameter:
    return datastore.JsonParameter(kind="json", value=value)


def add_step(plugin: ChunkStoreRunLogStore, name: str, run_id: str = "r", status: str = "SUCCESS") -> datastore.StepLog:
    step: datastore.StepLog = plugin.create_step_log(name.rpartition(".")[2], name)
    step.status = status
    plugin.add_step_log(step, run_id)
    return step


def add_branch(plugin: ChunkStoreRunLogStore, name: str, run_id: str = "r") -> None:
    branch = plugin.create_branch_log(name)
    branch.status = "PROCESSING"
    plugin.add_branch_log(branch, run_id)


def small_run(plugin: ChunkStoreRunLogStore, run_id: str = "r") -> str:
    """A run with a map of two branches, as runnable writes it; its outline."""
    plugin.create_run_log(run_id=run_id, tag="nightly", status="PROCESSING", dag_hash="abc")
    plugin.set_parameters(run_id=run_id, parameters={"xs": json_parameter(["b", "a"])})
    plugin.set_run_config(run_id=run_id, run_config={"pipeline_definition_file": "pipe.main"})
    add_step(plugin, "give", run_id)
    add_step(plugin, "m", run_id, status="PROCESSING")
    for branch in ("m.b", "m.a"):
        add_branch(plugin, branch, run_id)
    for branch in ("m.b", "m.a"):
        add_step(plugin, f"{branch}.work", run_id)
        plugin.set_parameters(parameters={"y": json_parameter(branch)}, run_id=run_id, internal_branch_name=branch)
    return outline(plugin.get_run_log_by_id(run_id).steps)


# Loading


def test_runnable_finds_the_store_by_its_name() -> None:
    (entry_point,) = importlib.metadata.entry_points(group="run_log_store", name="chunkstore")
    assert type(entry_point.load()(url="runs")) is ChunkStoreRunLogStore


@pytest.mark.parametrize("keys", ["config", "beside the type"])
def test_the_keys_of_the_configuration_are_the_settings(tmp_path: Path, keys: str) -> None:
    settings = {"url": str(tmp_path), "timeout_seconds": 5}
    config = {"type": "chunkstore", **({"config": settings} if keys == "config" else settings)}
    store = get_service_by_name("run_log_store", config, None)
    assert isinstance(store, datastore.BaseRunLogStore)
    assert isinstance(store, ChunkStoreRunLogStore)
    assert (store.service_name, store.service_type) == ("chunkstore", "run_log_store")
    assert store.store.settings.timeout_seconds == 5


def test_parallel_branches_are_allowed_except_in_memory(tmp_path: Path) -> None:
    assert ChunkStoreRunLogStore(url=str(tmp_path)).supports_parallel_writes is True
    assert ChunkStoreRunLogStore(url="Memory://").supports_parallel_writes is False
    assert ChunkStoreRunLogStore(url=str(tmp_path), supports_parallel_writes=False).supports_parallel_writes is False
    assert ChunkStoreRunLogStore(url=str(tmp_path), supports_parallel_writes=False).store.supports_parallel_writes is False
    with pytest.raises(InvalidInputError, match="memory is one process's own"):
        ChunkStoreRunLogStore(url="memory://x", supports_parallel_writes=True)


def test_a_missing_url_is_asked_for() -> None:
    for config in ({}, {"url": ""}, {"url": None}):
        with pytest.raises(InvalidInputError, match=r"type chunkstore: url: it"):
            ChunkStoreRunLogStore(**config)


def test_an_unknown_setting_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no setting 'endpoint'; did you mean 'endpoint_url'\?"):
        ChunkStoreRunLogStore(url="s3://bucket", endpoint="http://127.0.0.1")
    with pytest.raises(InvalidInputError, match=r"no setting 'log_folder'"):
        ChunkStoreRunLogStore(url=str(tmp_path), log_folder="runs")


@pytest.mark.parametrize(
    "wrong", [{"url": 5}, {"timeout_seconds": "soon"}, {"durability": "some"}, {"supports_parallel_writes": "perhaps"}]
)
def test_a_setting_of_no_use_is_named(tmp_path: Path, wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError, match=next(iter(wrong))):
        ChunkStoreRunLogStore(**{"url": str(tmp_path), **wrong})


def test_a_relative_folder_stays_where_it_was_though_a_task_changes_folders(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path)
    plugin = ChunkStoreRunLogStore(url="runs")
    monkeypatch.chdir(tmp_path / "elsewhere")
    plugin.create_run_log("r")
    pickle.loads(pickle.dumps(plugin)).create_run_log("s")
    assert sorted(path.name for path in (tmp_path / "runs").iterdir() if path.name != ".locks") == ["r", "s"]
    assert list((tmp_path / "elsewhere").iterdir()) == []


# Secrets


def secretive(**more: object) -> ChunkStoreRunLogStore:
    return ChunkStoreRunLogStore(url="s3://bucket/runs", key="a key", secret=SECRET, token=SECRET, **more)


def printed_by_rich(plugin: ChunkStoreRunLogStore) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(plugin)
    return cast(StringIO, console.file).getvalue()


@pytest.mark.parametrize(
    "show",
    [
        repr,
        str,
        printed_by_rich,
        lambda plugin: str(plugin.model_dump()),
        lambda plugin: str(plugin.model_dump(mode="json")),
        ChunkStoreRunLogStore.model_dump_json,
        lambda plugin: repr(plugin.store),
    ],
    ids=["repr", "str", "rich", "model_dump", "model_dump as JSON", "model_dump_json", "the store within"],
)
def test_no_secret_is_shown(show: Callable[[ChunkStoreRunLogStore], str]) -> None:
    pytest.importorskip("s3fs")
    assert SECRET not in show(secretive())


@pytest.mark.parametrize(
    "wrong",
    [{"timeout_seconds": "soon"}, {"secrets": SECRET}, {"region": [SECRET]}, {"supports_parallel_writes": SECRET}],
)
def test_no_secret_is_in_the_error_of_a_wrong_setting(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        secretive(**wrong)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error} {error!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_no_secret_is_in_the_summary_that_runnable_prints(anywhere: ChunkStoreRunLogStore) -> None:
    summary = anywhere.get_summary()
    assert summary["Type"] == "chunkstore"
    assert summary["Location"]
    if isinstance(anywhere.settings, S3StoreSettings):
        assert anywhere.settings.secret.get_secret_value() not in str(summary)


def test_a_secret_still_reaches_the_server_after_a_pickle() -> None:
    again = pickle.loads(pickle.dumps(secretive()))
    assert again.settings.secret.get_secret_value() == SECRET


# What is not there, and what is


def test_what_is_missing_is_reported_by_runnables_own_classes(anywhere: ChunkStoreRunLogStore) -> None:
    anywhere.create_run_log(run_id="r")
    add_step(anywhere, "m")
    with pytest.raises(exceptions.StepLogNotFoundError) as step:
        anywhere.get_step_log("gone", "r")
    assert (step.value.run_id, step.value.step_name) == ("r", "gone")
    with pytest.raises(exceptions.StepLogNotFoundError):
        anywhere.get_step_log("m.no branch.step", "r")
    with pytest.raises(exceptions.BranchLogNotFoundError) as branch:
        anywhere.get_branch_log("m.gone", "r")
    assert (branch.value.run_id, branch.value.branch_name) == ("r", "m.gone")
    with pytest.raises(exceptions.BranchLogNotFoundError):
        anywhere.get_parameters("r", internal_branch_name="m.gone")
    with pytest.raises(exceptions.BranchLogNotFoundError):
        add_step(anywhere, "m.gone.step")
    with pytest.raises(exceptions.JobLogNotFoundError):
        anywhere.get_job_log(run_id="r")


@pytest.mark.parametrize(
    "call",
    [
        lambda plugin: plugin.get_run_log_by_id(run_id="gone", full=False),
        lambda plugin: plugin.get_run_log_by_id(run_id="gone", full=True),
        lambda plugin: plugin.get_run_log_by_id(run_id="gone"),
        lambda plugin: plugin.get_parameters("gone"),
        lambda plugin: plugin.get_parameters("gone", internal_branch_name="m.a"),
        lambda plugin: plugin.set_parameters(run_id="gone", parameters={}),
        lambda plugin: plugin.set_parameters(run_id="gone", parameters={"x": json_parameter(1)}),
        lambda plugin: plugin.set_run_config(run_id="gone", run_config={}),
        lambda plugin: plugin.get_run_config("gone"),
        lambda plugin: plugin.update_run_log_status("gone", "FAIL"),
        lambda plugin: plugin.get_step_log("s", "gone"),
        lambda plugin: add_step(plugin, "s", "gone"),
        lambda plugin: plugin.get_branch_log("", "gone"),
        lambda plugin: plugin.get_branch_log("m.a", "gone"),
        lambda plugin: add_branch(plugin, "m.a", "gone"),
        lambda plugin: plugin.get_job_log(run_id="gone"),
        lambda plugin: plugin.add_job_log(run_id="gone", job_log=plugin.create_job_log()),
    ],
)
def test_every_call_about_a_missing_run_says_that_the_run_is_missing(
    plugin: ChunkStoreRunLogStore, call: Callable[[ChunkStoreRunLogStore], object]
) -> None:
    with pytest.raises(exceptions.RunLogNotFoundError) as caught:
        call(plugin)
    assert caught.value.run_id == "gone"


def test_a_run_is_created_once_and_the_second_try_overwrites_nothing(anywhere: ChunkStoreRunLogStore) -> None:
    before = small_run(anywhere)
    with pytest.raises(exceptions.RunLogExistsError) as caught:
        anywhere.create_run_log(run_id="r", tag="another", status="PROCESSING", dag_hash="def")
    assert caught.value.run_id == "r"
    run_log = anywhere.get_run_log_by_id("r")
    assert (run_log.tag, run_log.dag_hash, outline(run_log.steps)) == ("nightly", "abc", before)


def test_a_tag_may_be_missing(plugin: ChunkStoreRunLogStore) -> None:
    plugin.create_run_log(run_id="r", tag=cast(str, None), status="PROCESSING")
    assert plugin.get_run_log_by_id("r", full=False).tag is None


# Where it is called from


def test_it_works_without_a_run_context_and_for_any_run_id(
    plugin: ChunkStoreRunLogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert context.get_run_context() is None
    first = small_run(plugin, "first")
    token = context._run_context_var.set(cast(Any, SimpleNamespace(run_id="first", run_log_store=plugin)))
    try:
        assert small_run(plugin, "second") == first
        plugin.update_run_log_status("second", "FAIL")
    finally:
        context._run_context_var.reset(token)
    assert plugin.get_run_log_by_id("first").status == "PROCESSING"
    assert plugin.get_run_log_by_id("second").status == "FAIL"


def test_it_works_inside_a_running_event_loop(anywhere: ChunkStoreRunLogStore) -> None:
    async def write_and_read() -> str:
        small_run(anywhere)
        await asyncio.sleep(0)
        return outline(anywhere.get_run_log_by_id("r", full=True).steps)

    assert "m.a.work SUCCESS" in asyncio.run(write_and_read())
    assert "m.a.work SUCCESS" in outline(anywhere.get_run_log_by_id("r").steps)


# Reading


def test_a_run_log_without_steps_has_all_else(anywhere: ChunkStoreRunLogStore) -> None:
    small_run(anywhere)
    job = anywhere.create_job_log()
    job.status = "SUCCESS"
    anywhere.add_job_log(run_id="r", job_log=job)
    run_log = anywhere.get_run_log_by_id(run_id="r", full=False)
    assert (run_log.status, run_log.tag, run_log.dag_hash) == ("SUCCESS", "nightly", "abc")
    assert run_log.run_config == {"pipeline_definition_file": "pipe.main"}
    assert run_log.job == job
    assert run_log.parameters == {"xs": json_parameter(["b", "a"])}


@pytest.mark.parametrize("how", [{}, {"full": True}], ids=["full left out", "full"])
def test_a_complete_run_log_nests_everything_in_first_write_order(
    anywhere: ChunkStoreRunLogStore, how: dict[str, bool]
) -> None:
    small_run(anywhere)
    run_log = anywhere.get_run_log_by_id(run_id="r", **how)
    assert isinstance(run_log, datastore.RunLog)
    assert outline(run_log.steps).splitlines() == [
        "give SUCCESS",
        "m PROCESSING",
        "  [m.b] PROCESSING",
        "    m.b.work SUCCESS",
        "  [m.a] PROCESSING",
        "    m.a.work SUCCESS",
    ]
    assert plain(run_log.steps["m"].branches["m.a"].parameters) == {"y": ("json", "m.a")}
    assert run_log.search_step_by_internal_name("m.a.work")[0].status == "SUCCESS"


def test_everything_that_is_read_is_of_runnables_own_classes(plugin: ChunkStoreRunLogStore) -> None:
    small_run(plugin)
    plugin.add_job_log(run_id="r", job_log=plugin.create_job_log())
    assert type(plugin.get_step_log("give", "r")) is datastore.StepLog
    assert type(plugin.get_branch_log("m.a", "r")) is datastore.BranchLog
    assert type(plugin.get_branch_log("", "r")) is datastore.RunLog
    assert type(plugin.get_branch_log(cast(str, None), "r")) is datastore.RunLog
    assert type(plugin.get_job_log("r")) is datastore.JobLog
    assert type(plugin.create_code_identity()) is datastore.CodeIdentity
    assert type(plugin.create_data_catalog("file")) is datastore.DataCatalog
    assert type(plugin.get_parameters("r")["xs"]) is datastore.JsonParameter


# Writing back


def test_a_run_log_read_without_steps_and_put_back_erases_nothing(anywhere: ChunkStoreRunLogStore) -> None:
    before = small_run(anywhere)
    run_log = anywhere.get_run_log_by_id(run_id="r", full=False)
    run_log.status = "FAIL"
    anywhere.put_run_log(run_log)
    after = anywhere.get_run_log_by_id("r")
    assert (after.status, outline(after.steps)) == ("FAIL", before)
    assert plain(after.steps["m"].branches["m.b"].parameters) == {"y": ("json", "m.b")}


@pytest.mark.parametrize("name", ["", None])
def test_the_run_log_that_stands_for_the_outermost_branch_can_be_written_back(
    plugin: ChunkStoreRunLogStore, name: str
) -> None:
    before = small_run(plugin)
    run_log = plugin.get_branch_log(name, "r")
    run_log.status = "SUCCESS"
    plugin.add_branch_log(run_log, "r")
    add_step(plugin, "success")
    after = plugin.get_run_log_by_id("r")
    assert after.status == "SUCCESS"
    assert outline(after.steps) == f"{before}\nsuccess SUCCESS"
    assert plain(after.parameters) == {"xs": ("json", ["b", "a"])}


def test_a_composite_step_and_a_branch_written_back_erase_nothing_and_keep_their_places(
    anywhere: ChunkStoreRunLogStore,
) -> None:
    before = small_run(anywhere)
    for name in ("m", "give"):
        step = anywhere.get_step_log(name, "r")
        assert step.branches == {}
        step.status = "SUCCESS"
        anywhere.add_step_log(step, "r")
    for name in ("m.a", "m.b"):
        branch = anywhere.get_branch_log(name, "r")
        branch.status = "SUCCESS"
        anywhere.add_branch_log(branch, "r")
    assert outline(anywhere.get_run_log_by_id("r").steps) == before.replace("PROCESSING", "SUCCESS")


def test_a_step_log_begun_anew_keeps_its_place(plugin: ChunkStoreRunLogStore) -> None:
    before = small_run(plugin)
    add_step(plugin, "give")
    assert outline(plugin.get_run_log_by_id("r").steps) == before


def test_a_complete_run_log_can_be_put_back(plugin: ChunkStoreRunLogStore) -> None:
    small_run(plugin)
    run_log = plugin.get_run_log_by_id("r", full=True)
    run_log.steps["m"].branches["m.a"].steps["m.a.work"].status = "FAIL"
    plugin.put_run_log(run_log)
    assert plugin.get_step_log("m.a.work", "r").status == "FAIL"


def test_a_step_log_of_one_run_can_be_stored_in_another(plugin: ChunkStoreRunLogStore) -> None:
    small_run(plugin)
    plugin.create_run_log("another")
    plugin.add_step_log(plugin.get_step_log("give", "r"), "another")
    assert plugin.get_step_log("give", "another").status == "SUCCESS"


def test_a_run_log_under_another_id_is_stored_whole(plugin: ChunkStoreRunLogStore) -> None:
    before = small_run(plugin)
    run_log = plugin.get_run_log_by_id("r", full=True)
    run_log.run_id = "copy"
    plugin.put_run_log(run_log)
    assert outline(plugin.get_run_log_by_id("copy").steps) == before
    assert plain(plugin.get_run_log_by_id("copy").parameters) == {"xs": ("json", ["b", "a"])}


def test_a_step_log_is_stored_again_in_a_run_that_was_deleted_and_created_anew(plugin: ChunkStoreRunLogStore) -> None:
    small_run(plugin)
    step = plugin.get_step_log("give", "r")
    plugin.store.delete_run_log("r")
    plugin.create_run_log("r")
    plugin.add_step_log(step, "r")
    assert plugin.get_step_log("give", "r") == step


# Parameters


def test_parameters_merge_by_name_and_keep_kind_and_exact_value(anywhere: ChunkStoreRunLogStore) -> None:
    anywhere.create_run_log(run_id="r")
    given = {
        "json": json_parameter({"deep": [1, 2**70, -0.0, None, "ü", {"a": True}]}),
        "metric": datastore.MetricParameter(kind="metric", value=0.1 + 0.2),
        "object": datastore.ObjectParameter(kind="object", value="found"),
        "looks typed": json_parameter({"kind": "metric", "value": 1}),
    }
    anywhere.set_parameters(run_id="r", parameters=given)
    anywhere.set_parameters(parameters={"json": json_parameter(1)}, run_id="r", internal_branch_name="")
    found = anywhere.get_parameters("r")
    assert {name: type(value) for name, value in found.items()} == {name: type(v) for name, v in given.items()}
    assert plain(found) == {**plain(given), "json": ("json", 1)}


def test_metrics_may_be_no_number_or_infinite(anywhere: ChunkStoreRunLogStore) -> None:
    anywhere.create_run_log(run_id="r")
    values = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
    metrics = {name: datastore.MetricParameter(kind="metric", value=value) for name, value in values.items()}
    anywhere.set_parameters("r", metrics)
    step = anywhere.create_step_log("s", "s")
    step.attempts.append(datastore.StepAttempt(user_defined_metrics=metrics))
    anywhere.add_step_log(step, "r")
    for found in (
        anywhere.get_parameters("r"),
        anywhere.get_step_log("s", "r").attempts[0].user_defined_metrics,
        anywhere.get_run_log_by_id("r").parameters,
    ):
        assert {name: str(metric.value) for name, metric in found.items()} == {name: name for name in values}


def test_an_empty_set_of_parameters_writes_nothing(counted: tuple[ChunkStoreRunLogStore, CountingBackend]) -> None:
    plugin, backend = counted
    plugin.create_run_log("r")
    backend.reset()
    plugin.set_parameters(parameters={}, run_id="r", internal_branch_name="")
    assert backend.requests == 0


def test_parameters_handed_back_unchanged_are_not_written(
    counted: tuple[ChunkStoreRunLogStore, CountingBackend],
) -> None:
    plugin, backend = counted
    plugin.create_run_log("r")
    plugin.set_parameters("r", {name: json_parameter(name) for name in "abc"})
    handed = plugin.get_parameters("r")
    handed["b"] = json_parameter("changed")
    backend.reset()
    plugin.set_parameters(parameters=handed, run_id="r", internal_branch_name="")
    assert backend.keys("put") == ["r/parameter.b.json"]
    plugin.set_parameters(parameters=handed.copy(), run_id="r", internal_branch_name="")
    assert len(backend.keys("put")) == 1


def test_parameters_handed_back_do_not_undo_what_another_process_set(
    plugin: ChunkStoreRunLogStore, own: ChunkedRunLogStore
) -> None:
    plugin.create_run_log("r")
    plugin.set_parameters("r", {"mine": json_parameter(1), "theirs": json_parameter(1)})
    handed = plugin.get_parameters("r")
    own.set_parameters("r", {"theirs": chunkstore.JsonParameter(value=2)})
    handed["mine"] = json_parameter(2)
    plugin.set_parameters("r", handed)
    assert plain(plugin.get_parameters("r")) == {"mine": ("json", 2), "theirs": ("json", 2)}


def test_parameters_of_one_scope_can_be_handed_to_another(anywhere: ChunkStoreRunLogStore) -> None:
    """As a loop does: from the run to the first round, from round to round, and back."""
    anywhere.create_run_log("r")
    anywhere.set_parameters("r", {"height": json_parameter(0)})
    add_step(anywhere, "stairs")
    add_branch(anywhere, "stairs.0")
    anywhere.set_parameters(parameters=anywhere.get_parameters("r"), run_id="r", internal_branch_name="stairs.0")
    assert plain(anywhere.get_parameters("r", internal_branch_name="stairs.0")) == {"height": ("json", 0)}
    anywhere.create_run_log("s")
    anywhere.set_parameters(parameters=anywhere.get_parameters("r"), run_id="s")
    assert plain(anywhere.get_parameters("s")) == {"height": ("json", 0)}


def test_callers_may_change_the_parameters_that_they_got(plugin: ChunkStoreRunLogStore) -> None:
    plugin.create_run_log("r")
    plugin.set_parameters("r", {"list": json_parameter([1])})
    handed = plugin.get_parameters("r")
    handed["list"].value.append(2)
    handed.update({"new": json_parameter(1)})
    assert plain(plugin.get_parameters("r")) == {"list": ("json", [1])}
    plugin.set_parameters("r", handed)
    assert plain(plugin.get_parameters("r")) == {"list": ("json", [1, 2]), "new": ("json", 1)}


def test_a_plain_value_of_another_program_is_a_json_parameter(
    plugin: ChunkStoreRunLogStore, own: ChunkedRunLogStore
) -> None:
    own.create_run_log("r")
    own.set_parameters("r", {"number": 1, "mapping": {"a": 1}, "newer": {"kind": "newer", "value": 1}})
    assert plugin.get_parameters("r") == {
        "number": json_parameter(1),
        "mapping": json_parameter({"a": 1}),
        "newer": json_parameter({"kind": "newer", "value": 1}),
    }


def test_plain_values_handed_back_stay_plain_and_undo_nothing(
    plugin: ChunkStoreRunLogStore, own: ChunkedRunLogStore
) -> None:
    own.create_run_log("r")
    own.set_parameters("r", {"number": 1, "other": 1})
    handed = plugin.get_parameters("r")
    own.set_parameters("r", {"other": 2})
    plugin.set_parameters("r", handed)
    assert own.get_parameters("r") == {"number": 1, "other": 2}


# Fields


def test_the_whole_context_is_kept_as_the_run_configuration(plugin: ChunkStoreRunLogStore) -> None:
    plugin.create_run_log("r")
    store = secretive().model_dump()
    config = {"path": Path("a/b"), "bytes": b"\xff", "store": store, "function": len, "nested": {"tuple": (1, 2)}}
    plugin.set_run_config(run_id="r", run_config=config)
    plugin.set_run_config(run_id="r", run_config={"more": 1})
    kept = plugin.get_run_config("r")
    assert kept["path"] == "a/b"
    assert kept["nested"] == {"tuple": [1, 2]}
    assert kept["more"] == 1
    assert SECRET not in json.dumps(kept)


def test_extra_fields_of_data_catalogs_and_code_identities_are_kept(anywhere: ChunkStoreRunLogStore) -> None:
    anywhere.create_run_log("r")
    step = anywhere.create_step_log("s", "s")
    catalog = anywhere.create_data_catalog("file.csv")
    catalog.data_hash = "1f"
    catalog.size_in_bytes = 2**40
    code = anywhere.create_code_identity()
    code.code_identifier = "abc"
    code.branch = "main"
    step.add_data_catalogs([catalog])
    step.attempts.append(datastore.StepAttempt(code_identities=[code]))
    anywhere.add_step_log(step, "r")
    found = anywhere.get_step_log("s", "r")
    assert found.data_catalog[0].model_dump() == catalog.model_dump()
    assert found.attempts[0].code_identities[0].model_dump() == code.model_dump()


def test_fields_that_runnable_does_not_know_survive_its_rewrites(
    plugin: ChunkStoreRunLogStore, own: ChunkedRunLogStore
) -> None:
    own.create_run_log("r", original_run_id="before", variables={"a": 1}, owner="me")
    step = chunkstore.StepLog(name="s", internal_name="s", status="PROCESSING", colour="red")
    step.user_defined_metrics = {"loss": 1}
    step.attempts.append(chunkstore.StepAttempt(duration="1 s", host="a"))
    own.add_step_log(step, "r")

    theirs = plugin.get_step_log("s", "r")
    theirs.status = "SUCCESS"
    theirs.attempts.append(datastore.StepAttempt(attempt_number=2))
    plugin.add_step_log(theirs, "r")
    run_log = plugin.get_run_log_by_id("r", full=True)
    run_log.status = "SUCCESS"
    plugin.put_run_log(run_log)

    kept = own.get_run_log_by_id("r")
    assert (kept.status, kept.original_run_id, kept.variables) == ("SUCCESS", "before", {"a": 1})
    assert kept.model_extra == {"owner": "me"}
    survivor = kept.steps["s"]
    assert (survivor.status, survivor.user_defined_metrics) == ("SUCCESS", {"loss": 1})
    assert survivor.model_extra == {"colour": "red"}
    assert [attempt.duration for attempt in survivor.attempts] == ["1 s", None]
    assert survivor.attempts[0].model_extra == {"host": "a"}


def test_a_job_sets_the_status_of_its_run(plugin: ChunkStoreRunLogStore) -> None:
    plugin.create_run_log(run_id="r", status="PROCESSING")
    plugin.add_job_log(run_id="r", job_log=plugin.create_job_log())
    assert plugin.get_run_log_by_id("r", full=False).status == "CREATED"
    job = plugin.get_job_log(run_id="r")
    job.status = "SUCCESS"
    job.attempts.append(datastore.StepAttempt(status="SUCCESS"))
    plugin.add_job_log(run_id="r", job_log=job)
    run_log = plugin.get_run_log_by_id("r", full=False)
    assert (run_log.status, run_log.job) == ("SUCCESS", job)


# Copies and processes


def work_in_a_branch(plugin: ChunkStoreRunLogStore, branch: str) -> int:
    """What a worker of runnable's pool does with the store that was pickled for it."""
    add_step(plugin, f"{branch}.work")
    plugin.set_parameters(parameters={"y": json_parameter(branch)}, run_id="r", internal_branch_name=branch)
    log = plugin.get_branch_log(branch, "r")
    log.status = "SUCCESS"
    plugin.add_branch_log(log, "r")
    return os.getpid()


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda plugin: pickle.loads(pickle.dumps(plugin))])
def test_a_copy_is_the_same_store(
    anywhere: ChunkStoreRunLogStore, copied: Callable[[ChunkStoreRunLogStore], ChunkStoreRunLogStore]
) -> None:
    before = small_run(anywhere)
    twin = copied(anywhere)
    assert twin == anywhere
    assert outline(twin.get_run_log_by_id("r").steps) == before


@pytest.mark.parametrize("place", ["local", "minio", "rclone"])
@pytest.mark.parametrize("method", ["fork", "spawn"])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
@pytest.mark.timeout(90)
def test_workers_go_on_with_a_store_that_the_parent_has_used(
    method: str, place: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    where = Place(str(tmp_path))
    if place != "local":
        where = Place.on(request.getfixturevalue(f"{place}_server"), lock_folder=str(tmp_path / "locks"))
    plugin = ChunkStoreRunLogStore(url=where.url, **where.settings)
    branches = [f"m.{number}" for number in range(6)]
    with closing(plugin.store):
        plugin.create_run_log("r")
        add_step(plugin, "m")
        for branch in branches:
            add_branch(plugin, branch)
        with multiprocessing.get_context(method).Pool(2) as pool:
            workers = pool.starmap(work_in_a_branch, [(plugin, branch) for branch in branches], chunksize=1)
        run_log = plugin.get_run_log_by_id("r")
    assert os.getpid() not in workers
    assert list(run_log.steps["m"].branches) == branches
    for name, branch in run_log.steps["m"].branches.items():
        assert (branch.status, list(branch.steps)) == ("SUCCESS", [f"{name}.work"])
        assert plain(branch.parameters) == {"y": ("json", name)}
