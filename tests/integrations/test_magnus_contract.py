"""What magnus asks of a run log store, call by call."""

from __future__ import annotations

import copy
import importlib.metadata
import inspect
import json
import math
import pickle
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from io import StringIO
from pathlib import Path
from typing import Any, cast

import pytest

pytest.importorskip("magnus")

from magnus import context, datastore, exceptions, integration
from magnus.catalog import DoNothingCatalog
from magnus.executor import BaseExecutor
from magnus.experiment_tracker import DoNothingTracker
from magnus.extensions.executor.argo.implementation import ArgoExecutor
from magnus.extensions.executor.local.implementation import LocalExecutor
from magnus.extensions.executor.local_container.implementation import LocalContainerExecutor
from magnus.extensions.secrets.dotenv.implementation import DotEnvSecrets
from magnus.extensions.secrets.env_secrets.implementation import EnvSecretsManager
from magnus.secrets import BaseSecrets, DoNothingSecretManager
from magnus.utils import get_provider_by_name_and_type
from pipeline_runs import outline
from rich.console import Console

import chunkstore
from chunkstore import ChunkedRunLogStore, InvalidInputError, NotSupportedError
from chunkstore.backends.local import LocalBackend
from chunkstore.integrations.magnus import MAGNUS, ChunkStoreRunLogStore
from chunkstore.testing import CountingBackend

SECRET = "open sesame"


@pytest.fixture
def plugin(tmp_path: Path) -> Iterator[ChunkStoreRunLogStore]:
    plugin = ChunkStoreRunLogStore(url=str(tmp_path / "runs"))
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
    """The store of magnus, and a count of its requests."""
    backend = CountingBackend(LocalBackend(plugin.url))
    store = ChunkedRunLogStore(backend, schema=MAGNUS)
    monkeypatch.setattr(ChunkStoreRunLogStore, "store", store)
    return plugin, backend


def add_step(plugin: ChunkStoreRunLogStore, name: str, run_id: str = "r", status: str = "SUCCESS") -> None:
    step = plugin.create_step_log(name.rpartition(".")[2], name)
    step.status = status
    plugin.add_step_log(step, run_id)


def add_branch(plugin: ChunkStoreRunLogStore, name: str, run_id: str = "r") -> None:
    branch = plugin.create_branch_log(name)
    branch.status = "PROCESSING"
    plugin.add_branch_log(branch, run_id)


def small_run(plugin: ChunkStoreRunLogStore, run_id: str = "r") -> str:
    """A run with a map of two branches, as magnus writes it; its outline."""
    plugin.create_run_log(run_id=run_id, tag="nightly", status="PROCESSING", dag_hash="abc")
    plugin.set_parameters(run_id=run_id, parameters={"xs": ["b", "a"]})
    plugin.set_run_config(run_id=run_id, run_config={"executor": {"service_name": "local"}})
    add_step(plugin, "give", run_id)
    add_step(plugin, "m", run_id, status="PROCESSING")
    for branch in ("m.b", "m.a"):
        add_branch(plugin, branch, run_id)
    for branch in ("m.b", "m.a"):
        add_step(plugin, f"{branch}.work", run_id)
    return outline(plugin.get_run_log_by_id(run_id, full=True).steps)


# Loading


@pytest.mark.parametrize("config", [{}, {"timeout_seconds": 5}])
def test_magnus_finds_the_store_by_its_name(tmp_path: Path, config: dict[str, object]) -> None:
    details: Any = {"type": "chunkstore", "config": {"url": str(tmp_path), **config}}
    store = get_provider_by_name_and_type("run_log_store", details)
    assert isinstance(store, datastore.BaseRunLogStore)
    assert isinstance(store, ChunkStoreRunLogStore)
    assert (store.service_name, store.service_type) == ("chunkstore", "run_log_store")
    assert store.store.settings.timeout_seconds == config.get("timeout_seconds", 30)


@pytest.mark.parametrize(
    ("type_", "config", "url"),
    [
        ("chunkstore-fs", {"log_folder": "/runs"}, "/runs"),
        ("chunkstore-s3", {"s3_bucket": "bucket", "prefix": "runs", "region": "us-east-1"}, "s3://bucket/runs"),
        ("chunkstore-minio", {"bucket": "bucket/runs"}, "s3://bucket/runs"),
    ],
)
def test_the_keys_of_the_stores_that_came_before_are_taken(type_: str, config: dict[str, str], url: str) -> None:
    store = get_provider_by_name_and_type("run_log_store", cast(Any, {"type": type_, "config": config}))
    assert isinstance(store, ChunkStoreRunLogStore)
    assert store.target().url == url
    assert integration.get_integration_handler(LocalExecutor(), store).service is store


def test_one_entry_point_serves_both_tools() -> None:
    assert len(importlib.metadata.entry_points(group="run_log_store", name="chunkstore")) == 1


def test_a_missing_url_is_asked_for() -> None:
    for config in ({}, {"url": ""}, {"url": None}):
        with pytest.raises(InvalidInputError, match="run log store of type chunkstore: url: it"):
            ChunkStoreRunLogStore(**config)


def test_an_unknown_setting_is_refused_with_the_nearest_known_one(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"no setting 'durabilty'; did you mean 'durability'\?"):
        ChunkStoreRunLogStore(url=str(tmp_path), durabilty="power")


@pytest.mark.parametrize(
    "wrong", [{"url": 5}, {"timeout_seconds": "soon"}, {"durability": "some"}, {"service_name": 5}]
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


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda plugin: pickle.loads(pickle.dumps(plugin))])
def test_a_copy_is_the_same_store(
    plugin: ChunkStoreRunLogStore, copied: Callable[[ChunkStoreRunLogStore], ChunkStoreRunLogStore]
) -> None:
    before = small_run(plugin)
    assert outline(copied(plugin).get_run_log_by_id("r", full=True).steps) == before


# Secrets


def secretive(**more: object) -> ChunkStoreRunLogStore:
    return ChunkStoreRunLogStore(url="s3://bucket/runs", key="a key", secret=SECRET, token=SECRET, **more)


def context_of(plugin: ChunkStoreRunLogStore, secrets: BaseSecrets) -> context.Context:
    return context.Context(
        executor=LocalExecutor(),
        run_log_store=plugin,
        secrets_handler=secrets,
        catalog_handler=DoNothingCatalog(),
        experiment_tracker=DoNothingTracker(),
    )


def printed_by_rich(plugin: ChunkStoreRunLogStore) -> str:
    console = Console(file=StringIO(), width=200)
    console.print(context_of(plugin, DotEnvSecrets()))
    return cast(StringIO, console.file).getvalue()


@pytest.mark.parametrize(
    "show",
    [repr, str, printed_by_rich, lambda plugin: str(plugin.model_dump()), ChunkStoreRunLogStore.model_dump_json],
    ids=["repr", "str", "rich", "model_dump", "model_dump_json"],
)
def test_no_secret_is_shown(show: Callable[[ChunkStoreRunLogStore], str]) -> None:
    assert "bucket" in show(secretive())
    assert SECRET not in show(secretive())


@pytest.mark.parametrize("wrong", [{"timeout_seconds": "soon"}, {"secrets": SECRET}, {"region": [SECRET]}])
def test_no_secret_is_in_the_error_of_a_wrong_setting(wrong: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError) as caught:
        secretive(**wrong)
    error: BaseException | None = caught.value
    while error is not None:
        assert SECRET not in f"{error} {error!r}"
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def test_no_secret_of_any_service_is_recorded_with_the_whole_context(
    plugin: ChunkStoreRunLogStore, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text(f"password={SECRET}")
    handler = DotEnvSecrets(location=str(tmp_path / ".env"))
    assert handler.get("password") == SECRET
    dump = context_of(secretive(), handler).model_dump(by_alias=True)
    assert SECRET in str(dump)
    plugin.create_run_log("r")
    plugin.set_run_config("r", dump)
    kept = plugin.get_run_config("r")
    assert SECRET not in json.dumps(kept)
    assert kept["secrets_handler"] == {**dump["secrets_handler"], "secrets": {"password": "**********"}}
    assert kept["run_log_store"]["configuration"]["secret"] == "**********"
    assert handler.get("password") == SECRET


def test_a_placeholder_is_filled_by_magnuss_secrets_handler_which_tells_nobody_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / ".env").write_text(f"minio_secret={SECRET}\nother={SECRET}")
    handler = DotEnvSecrets(location=str(tmp_path / ".env"))
    plugin = ChunkStoreRunLogStore(url="s3://bucket/runs", key="${the_key}", secret="${minio_secret}")
    monkeypatch.setattr(context, "run_context", context_of(plugin, handler))
    monkeypatch.setenv("the_key", "from the environment")
    settings = cast(Any, plugin.settings)
    assert settings.secret.get_secret_value() == SECRET
    assert settings.key.get_secret_value() == "from the environment"
    assert SECRET not in str(context.run_context.model_dump())


def test_a_placeholder_that_nobody_can_fill_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = ChunkStoreRunLogStore(url="s3://bucket/runs", secret="${nobody has it}")
    for handler in (EnvSecretsManager(), DoNothingSecretManager()):
        monkeypatch.setattr(context, "run_context", context_of(plugin, handler))
        with pytest.raises(InvalidInputError, match="'nobody has it' of secret is not known"):
            plugin.create_run_log("r")


# What is not there, and what is


def test_what_is_missing_is_reported_by_magnuss_own_classes(plugin: ChunkStoreRunLogStore) -> None:
    plugin.create_run_log(run_id="r")
    add_step(plugin, "m")
    with pytest.raises(exceptions.StepLogNotFoundError) as step:
        plugin.get_step_log("gone", "r")
    assert step.value.message == "Step log for gone is not found in the datastore for Run id: r"
    with pytest.raises(exceptions.StepLogNotFoundError):
        plugin.get_step_log("m.no branch.step", "r")
    with pytest.raises(exceptions.BranchLogNotFoundError):
        plugin.get_branch_log("m.gone", "r")
    with pytest.raises(exceptions.BranchLogNotFoundError):
        add_step(plugin, "m.gone.step")


@pytest.mark.parametrize(
    "call",
    [
        lambda plugin: plugin.get_run_log_by_id(run_id="gone", full=False),
        lambda plugin: plugin.get_run_log_by_id(run_id="gone", full=True),
        lambda plugin: plugin.get_parameters("gone"),
        lambda plugin: plugin.set_parameters(run_id="gone", parameters={}),
        lambda plugin: plugin.set_parameters(run_id="gone", parameters={"x": 1}),
        lambda plugin: plugin.set_run_config(run_id="gone", run_config={}),
        lambda plugin: plugin.get_run_config("gone"),
        lambda plugin: plugin.update_run_log_status("gone", "FAIL"),
        lambda plugin: plugin.get_step_log("s", "gone"),
        lambda plugin: add_step(plugin, "s", "gone"),
        lambda plugin: plugin.get_branch_log("", "gone"),
        lambda plugin: plugin.get_branch_log("m.a", "gone"),
        lambda plugin: add_branch(plugin, "m.a", "gone"),
    ],
)
def test_every_call_about_a_missing_run_says_that_the_run_is_missing(
    plugin: ChunkStoreRunLogStore, call: Callable[[ChunkStoreRunLogStore], object]
) -> None:
    with pytest.raises(exceptions.RunLogNotFoundError) as caught:
        call(plugin)
    assert caught.value.message == "Run id for gone is not found in the datastore"
    assert "run 'gone' is not in" in str(caught.value.__cause__)


def test_a_run_is_created_once_and_the_second_try_overwrites_nothing(plugin: ChunkStoreRunLogStore) -> None:
    before = small_run(plugin)
    with pytest.raises(exceptions.RunLogExistsError):
        plugin.create_run_log(run_id="r", tag="another", status="PROCESSING", dag_hash="def")
    run_log = plugin.get_run_log_by_id("r", full=True)
    assert (run_log.tag, run_log.dag_hash, outline(run_log.steps)) == ("nightly", "abc", before)


def test_every_method_takes_what_magnus_may_add_to_it(plugin: ChunkStoreRunLogStore) -> None:
    """Its own stores take any keyword in each method that its base class gives them."""
    public = {name for name, member in vars(datastore.BaseRunLogStore).items() if inspect.isfunction(member)}
    takes = {
        name
        for name in public
        if any(p.kind is p.VAR_KEYWORD for p in inspect.signature(getattr(plugin, name)).parameters.values())
    }
    assert {name for name in public if not name.startswith("_")} <= takes
    plugin.create_run_log("r", executor="any", use_cached=True, original_run_id="before")
    run_log = plugin.get_run_log_by_id("r", full=False, executor="any")
    assert (run_log.use_cached, run_log.original_run_id, run_log.status) == (True, "before", "CREATED")


# Reading


def test_a_run_log_is_read_without_its_steps_where_nobody_asks_for_them(plugin: ChunkStoreRunLogStore) -> None:
    small_run(plugin)
    run_log = plugin.get_run_log_by_id("r")
    assert (run_log.status, run_log.tag, run_log.dag_hash) == ("PROCESSING", "nightly", "abc")
    assert run_log.run_config == {"executor": {"service_name": "local"}}
    assert run_log.parameters == {"xs": ["b", "a"]}
    assert run_log.steps == {}


def test_a_complete_run_log_is_of_magnuss_own_classes_and_can_be_printed(plugin: ChunkStoreRunLogStore) -> None:
    before = small_run(plugin)
    run_log = plugin.get_run_log_by_id("r", full=True)
    assert type(run_log) is datastore.RunLog
    assert type(run_log.steps["m"]) is datastore.StepLog
    assert type(run_log.steps["m"].branches["m.a"]) is datastore.BranchLog
    assert run_log.search_step_by_internal_name("m.a.work")[0].status == "SUCCESS"
    printed = datastore.RunLog(**json.loads(json.dumps(run_log.model_dump())))
    assert outline(printed.steps) == before
    assert type(plugin.get_branch_log("m.a", "r")) is datastore.BranchLog
    assert type(plugin.get_branch_log("", "r")) is datastore.RunLog


# Writing back


def test_the_run_log_that_stands_for_the_outermost_branch_can_be_written_back(plugin: ChunkStoreRunLogStore) -> None:
    before = small_run(plugin)
    run_log = plugin.get_branch_log("", "r")
    run_log.status = "SUCCESS"
    plugin.add_branch_log(run_log, "r")
    add_step(plugin, "success")
    after = plugin.get_run_log_by_id("r", full=True)
    assert (after.status, outline(after.steps)) == ("SUCCESS", f"{before}\nsuccess SUCCESS")
    assert after.parameters == {"xs": ["b", "a"]}


def test_a_composite_step_and_a_branch_written_back_erase_nothing_and_keep_their_places(
    plugin: ChunkStoreRunLogStore,
) -> None:
    before = small_run(plugin)
    for name in ("m", "give"):
        step = plugin.get_step_log(name, "r")
        step.status = "SUCCESS"
        plugin.add_step_log(step, "r")
    for name in ("m.a", "m.b"):
        branch = plugin.get_branch_log(name, "r")
        branch.status = "SUCCESS"
        plugin.add_branch_log(branch, "r")
    assert outline(plugin.get_run_log_by_id("r", full=True).steps) == before.replace("PROCESSING", "SUCCESS")


def test_a_run_log_of_another_store_of_magnus_is_stored_whole(plugin: ChunkStoreRunLogStore) -> None:
    before = small_run(plugin)
    theirs = datastore.RunLog(**plugin.get_run_log_by_id("r", full=True).model_dump())
    theirs.run_id = "copy"
    plugin.put_run_log(theirs)
    found = plugin.get_run_log_by_id("copy", full=True)
    assert (outline(found.steps), found.parameters) == (before, theirs.parameters)


def test_the_status_of_a_job_is_set_alone(plugin: ChunkStoreRunLogStore) -> None:
    before = small_run(plugin)
    plugin.update_run_log_status(run_id="r", status="SUCCESS")
    after = plugin.get_run_log_by_id("r", full=True)
    assert (after.status, outline(after.steps)) == ("SUCCESS", before)


def test_map_values_may_have_any_name(plugin: ChunkStoreRunLogStore) -> None:
    plugin.create_run_log("r")
    add_step(plugin, "m")
    values = ["1.5", "eu/west", "a b.json", "ü 😀", "[red]", "x" * 300, "m.a"]
    for value in values:
        add_branch(plugin, f"m.{value}")
        add_step(plugin, f"m.{value}.work")
    branches = plugin.get_run_log_by_id("r", full=True).steps["m"].branches
    assert [(name, list(branch.steps)) for name, branch in branches.items()] == [
        (f"m.{value}", [f"m.{value}.work"]) for value in values
    ]


# Parameters


def test_parameters_merge_by_name_and_keep_their_exact_value(plugin: ChunkStoreRunLogStore) -> None:
    plugin.create_run_log(run_id="r")
    given = {
        "deep": {"deep": [1, 2**70, None, "ü", {"a": True}], "": ""},
        "looks typed": {"kind": "metric", "value": 1},
        "nan": math.nan,
        "small": -0.0,
        "none": None,
    }
    plugin.set_parameters("r", given)
    plugin.set_parameters("r", {"none": 1})
    assert repr(plugin.get_parameters("r")) == repr({**given, "none": 1})
    assert repr(plugin.get_run_log_by_id("r").parameters) == repr({**given, "none": 1})


def test_keys_that_are_numbers_become_text_as_in_magnuss_own_stores(plugin: ChunkStoreRunLogStore) -> None:
    plugin.create_run_log("r")
    plugin.set_parameters("r", {"numbered": {1: "one", None: {2.5: []}}})
    step = plugin.create_step_log("s", "s")
    step.user_defined_metrics = {"loss": {0: 0.5, 1: math.nan}}
    plugin.add_step_log(step, "r")
    assert plugin.get_parameters("r") == {"numbered": {"1": "one", "null": {"2.5": []}}}
    assert repr(plugin.get_step_log("s", "r").user_defined_metrics) == "{'loss': {'0': 0.5, '1': nan}}"


def test_a_parameter_that_cannot_be_kept_is_named(plugin: ChunkStoreRunLogStore) -> None:
    plugin.create_run_log("r")
    with pytest.raises(InvalidInputError, match="parameter 'place' cannot be stored"):
        plugin.set_parameters("r", {"fine": 1, "place": Path("a")})


def given_back(parameters: dict[str, object]) -> dict[str, object]:
    """What magnus makes of them: they go through the environment of the process, as JSON."""
    return cast(dict[str, object], json.loads(json.dumps(parameters)))


def test_parameters_given_back_unchanged_are_not_written(
    counted: tuple[ChunkStoreRunLogStore, CountingBackend],
) -> None:
    plugin, backend = counted
    plugin.create_run_log("r")
    plugin.set_parameters("r", {"a": 1.0, "b": [1, {"x": None}], "nan": math.nan, "big": 2**70, "small": -0.0})
    again = given_back(plugin.get_parameters("r"))
    backend.reset()
    plugin.set_parameters("r", again)
    assert backend.requests == 0
    plugin.set_parameters("r", {**again, "b": 2})
    assert backend.keys("put") == ["r/parameter.b.json"]


@pytest.mark.parametrize("look", [False, True], ids=["", "and the task looked at the run log meanwhile"])
def test_parameters_given_back_do_not_undo_what_another_process_set(
    plugin: ChunkStoreRunLogStore, own: ChunkedRunLogStore, look: bool
) -> None:
    plugin.create_run_log("r")
    plugin.set_parameters("r", {"mine": 1, "theirs": 1})
    handed = plugin.get_parameters("r")
    own.set_parameters("r", {"theirs": 2})
    if look:
        assert plugin.get_run_log_by_id("r", full=True).parameters["theirs"] == 2
    plugin.set_parameters("r", {**given_back(handed), "mine": 2})
    assert plugin.get_parameters("r") == {"mine": 2, "theirs": 2}


def test_a_parameter_that_a_task_sets_wins_over_what_another_set_meanwhile(
    plugin: ChunkStoreRunLogStore, own: ChunkedRunLogStore
) -> None:
    plugin.create_run_log("r")
    plugin.set_parameters("r", {"x": 1})
    handed = plugin.get_parameters("r")
    own.set_parameters("r", {"x": 2})
    plugin.set_parameters("r", {**given_back(handed), "x": 3})
    assert plugin.get_parameters("r") == {"x": 3}


def test_what_was_read_of_one_run_says_nothing_of_another(plugin: ChunkStoreRunLogStore) -> None:
    """As a re-run begins: with the parameters of its original."""
    plugin.create_run_log("r")
    plugin.set_parameters("r", {"x": 1})
    plugin.create_run_log("s")
    plugin.set_parameters("s", given_back(plugin.get_parameters("r")))
    assert plugin.get_parameters("s") == {"x": 1}
    plugin.create_run_log("t")
    plugin.set_parameters("t", plugin.get_parameters("r"))
    assert plugin.get_parameters("t") == {"x": 1}


# Other clients


def test_the_typed_parameters_of_other_clients_are_plain_values_and_stay_typed(
    plugin: ChunkStoreRunLogStore, own: ChunkedRunLogStore
) -> None:
    own.create_run_log("r")
    typed = {
        "json": chunkstore.JsonParameter(value={"a": 1}),
        "metric": chunkstore.MetricParameter(value=0.5),
        "object": chunkstore.ObjectParameter(value="model"),
        "newer": {"kind": "newer", "value": 1, "unit": "s"},
    }
    own.set_parameters("r", typed)
    handed = plugin.get_parameters("r")
    assert handed == {"json": {"a": 1}, "metric": 0.5, "object": "model", "newer": typed["newer"]}
    plugin.set_parameters("r", given_back(handed))
    assert own.get_parameters("r") == typed


def test_what_magnus_does_not_know_survives_its_rewrites(
    plugin: ChunkStoreRunLogStore, own: ChunkedRunLogStore
) -> None:
    own.create_run_log("r", status="PROCESSING", owner="me")
    own.add_job_log("r", chunkstore.JobLog(status="PROCESSING", message="a job"))
    step = chunkstore.StepLog(name="m", internal_name="m", colour="red")
    step.attempts.append(chunkstore.StepAttempt(duration="1 s", retry_indicator="again"))
    branch = chunkstore.BranchLog(internal_name="m.a", parameters={"y": 1}, shape="round")
    step.branches["m.a"] = branch
    own.add_step_log(step, "r")

    read = plugin.get_run_log_by_id("r", full=True)
    assert not hasattr(read, "job")
    read.status = "SUCCESS"
    read.steps["m"].branches["m.a"].status = "SUCCESS"
    plugin.put_run_log(read)
    theirs = plugin.get_step_log("m", "r")
    theirs.attempts.append(datastore.StepAttempt(attempt_number=2))
    plugin.add_step_log(theirs, "r")

    kept = own.get_run_log_by_id("r")
    assert (kept.status, kept.model_extra) == ("SUCCESS", {"owner": "me"})
    assert kept.job is not None
    assert kept.job.message == "a job"
    assert kept.steps["m"].model_extra == {"colour": "red"}
    assert [attempt.retry_indicator for attempt in kept.steps["m"].attempts] == ["again", ""]
    kept_branch = kept.steps["m"].branches["m.a"]
    assert (kept_branch.status, kept_branch.parameters, kept_branch.model_extra) == (
        "SUCCESS",
        {"y": 1},
        {"shape": "round"},
    )


# Executors


def memory() -> ChunkStoreRunLogStore:
    return ChunkStoreRunLogStore(url=f"memory://{uuid.uuid4()}")


@pytest.mark.parametrize(
    "executor",
    [LocalExecutor(enable_parallel=True), LocalContainerExecutor(docker_image="any"), ArgoExecutor(image="any")],
    ids=["parallel", "containers", "argo"],
)
def test_memory_is_refused_where_steps_run_in_other_processes(executor: BaseExecutor) -> None:
    with pytest.raises(NotSupportedError, match=r"memory of one process.*choose a folder, a bucket or a database"):
        integration.validate(executor, memory())


def test_memory_is_taken_where_all_steps_run_in_one_process() -> None:
    plugin = memory()
    integration.validate(LocalExecutor(), plugin)
    plugin.create_run_log("r")
    assert plugin.get_run_log_by_id("r").run_id == "r"


def test_the_folder_of_the_runs_is_mounted_into_containers_and_used_there(
    plugin: ChunkStoreRunLogStore, tmp_path: Path
) -> None:
    outside, inside = LocalContainerExecutor(docker_image="any"), LocalContainerExecutor(docker_image="any")
    integration.validate(outside, plugin)
    integration.configure_for_traversal(outside, plugin)
    assert outside._volumes == {plugin.url: {"bind": "/tmp/run_logs/", "mode": "rw"}}
    inside._container_log_location = str(tmp_path / "mounted")
    there = pickle.loads(pickle.dumps(plugin))
    integration.configure_for_execution(inside, there)
    there.create_run_log("r")
    assert (tmp_path / "mounted" / "r").is_dir()
    assert not (Path(plugin.url) / "r").exists()


def test_a_bucket_is_the_same_inside_a_container(tmp_path: Path) -> None:
    plugin, executor = secretive(), LocalContainerExecutor(docker_image="any")
    for configure in (integration.validate, integration.configure_for_traversal, integration.configure_for_execution):
        configure(executor, plugin)
    assert executor._volumes == {}
    assert plugin.url == "s3://bucket/runs"


def test_pods_need_a_volume_for_a_folder(plugin: ChunkStoreRunLogStore, caplog: pytest.LogCaptureFixture) -> None:
    integration.validate(ArgoExecutor(image="any"), plugin)
    assert f"{plugin.url} must be a volume that every pod of argo mounts there" in caplog.text
