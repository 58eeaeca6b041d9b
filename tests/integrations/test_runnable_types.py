"""The five types as runnable loads them: each by its keys, with secrets from runnable's own manager, and nothing secret shown."""

from __future__ import annotations

import importlib.metadata
import json
import pickle
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from io import StringIO
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, cast

import pytest

pytest.importorskip("runnable")

from pipeline_runs import outline, run
from pydantic import Field
from rich.console import Console
from runnable import context, datastore
from runnable.context import ServiceConfigurations, get_service_by_name
from runnable.secrets import BaseSecrets, DoNothingSecretManager, EnvSecretsManager

import chunkstore
from chunkstore.configuration import TYPES
from chunkstore.errors import InvalidInputError, NotSupportedError
from chunkstore.integrations import hosts
from chunkstore.integrations.runnable import (
    STORES,
    ChunkStoreRunLogStore,
    FolderRunLogStore,
    S3RunLogStore,
)
from chunkstore.settings import S3StoreSettings
from servers import S3Server

SECRET = "wJalr+XUtnFEMI=K7MDENG"
KEYS: Mapping[str, Mapping[str, object]] = {
    "chunkstore": {"url": "runs"},
    "chunkstore-fs": {"log_folder": "runs"},
    "chunkstore-s3": {"s3_bucket": "b", "secret": SECRET, "key": "k"},
    "chunkstore-minio": {"aws_secret_access_key": SECRET, "aws_access_key_id": "k"},
    "chunkstore-db": {"connection_string": f"postgresql://u:{SECRET}@h/d"},
}


class Vault(BaseSecrets):
    """A secrets manager of a team's own, which counts what it is asked."""

    service_name: str = "vault"
    secrets: dict[str, str] = Field(default_factory=dict)
    asked: list[str] = Field(default_factory=list)

    def get(self, name: str) -> str:
        self.asked.append(name)
        return cast(str, self.secrets.get(name))


@contextmanager
def running(manager: BaseSecrets | None) -> Iterator[None]:
    token = context._run_context_var.set(cast(Any, SimpleNamespace(run_id="r", secrets=manager)))
    try:
        yield
    finally:
        context._run_context_var.reset(token)


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


# Loading


@pytest.mark.parametrize("kind", TYPES)
def test_runnable_loads_every_type_by_its_name(kind: str) -> None:
    service = get_service_by_name("run_log_store", {"type": kind, "config": dict(KEYS[kind])}, None)
    assert type(service) is STORES[kind]
    assert isinstance(service, datastore.BaseRunLogStore)
    assert (service.service_type, service.supports_parallel_writes) == ("run_log_store", True)
    assert type(pickle.loads(pickle.dumps(service))) is STORES[kind]


def test_every_type_has_an_entry_point_and_no_other_is_there() -> None:
    found = importlib.metadata.entry_points(group="run_log_store")
    assert {each.name for each in found if each.value.startswith("chunkstore.")} == set(TYPES)


@pytest.mark.parametrize("theirs", ["chunked-fs", "file-system"])
def test_the_configuration_of_a_folder_switches_by_its_type_alone(theirs: str, tmp_path: Path) -> None:
    for config in ({}, {"log_folder": "logs"}, {"log_folder": str(tmp_path / "abs")}):
        before = get_service_by_name("run_log_store", {"type": theirs, "config": config}, None)
        after = get_service_by_name("run_log_store", {"type": "chunkstore-fs", "config": config}, None)
        assert after.log_folder == before.log_folder
        assert after.store.backend.place == str(Path(before.log_folder).resolve())
        assert after.service_name == "chunked-fs"


def test_a_log_folder_that_is_set_moves_the_store(tmp_path: Path) -> None:
    plugin = FolderRunLogStore(log_folder="here", timeout_seconds=5)
    plugin.create_run_log("r")
    plugin.log_folder = f"{tmp_path}/run_logs/"  # as an executor does inside a container
    plugin.create_run_log("s")
    assert (plugin.log_folder, plugin.store.settings.timeout_seconds) == (f"{tmp_path}/run_logs/", 5)
    assert (plugin.url, plugin.configuration["log_folder"]) == (f"{tmp_path}/run_logs/", f"{tmp_path}/run_logs/")
    assert chunkstore.open("here").list_run_ids() == ["r"]
    assert chunkstore.open("run_logs").list_run_ids() == ["s"]
    assert pickle.loads(pickle.dumps(plugin)).log_folder == f"{tmp_path}/run_logs/"


def test_a_log_folder_with_a_placeholder_is_given_to_executors_filled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FOLDER", "filled")
    assert FolderRunLogStore(log_folder="${FOLDER}/runs").log_folder == str(tmp_path / "filled" / "runs")


def test_with_mock_no_type_may_write_in_parallel() -> None:
    for kind, keys in KEYS.items():
        plugin = STORES[kind](**{**keys, "mock": True, "supports_parallel_writes": True})
        assert plugin.supports_parallel_writes is False
        assert plugin.scheme == "memory"
        plugin.create_run_log("r")
        plugin.store.delete_run_log("r")
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("kind", TYPES)
def test_nothing_that_runnable_shows_of_a_type_has_a_secret(kind: str) -> None:
    plugin = STORES[kind](**KEYS[kind])
    console = Console(file=StringIO(), width=300)
    console.print(plugin)
    shown = [cast(StringIO, console.file).getvalue(), repr(plugin), str(plugin.model_dump()), plugin.model_dump_json()]
    assert SECRET not in "".join(shown)


# Which tool asks


def test_without_any_tool_the_extras_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "runnable.datastore")
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    with pytest.raises(NotSupportedError, match=r'"chunkstore\[runnable\]" or "chunkstore\[magnus\]"'):
        hosts.chunkstore(url="runs")


def test_before_any_tool_is_imported_the_one_that_is_installed_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "runnable.datastore")
    assert hosts._asking() == "runnable"


def test_of_two_tools_that_are_imported_the_one_that_calls_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "magnus.datastore", ModuleType("magnus.datastore"))
    for tool in ("magnus", "runnable"):
        caller: dict[str, Any] = {"__name__": f"{tool}.utils", "hosts": hosts}
        exec("def load(): return hosts._asking()", caller)
        assert caller["load"]() == tool


# Secrets


def s3_plugin(**more: object) -> S3RunLogStore:
    return S3RunLogStore(s3_bucket="b", key="k", secret="${SECRET}", **more)


def secret_of(plugin: ChunkStoreRunLogStore) -> str:
    settings = plugin.settings
    assert isinstance(settings, S3StoreSettings)
    return settings.secret.get_secret_value()


def test_a_secret_comes_from_runnables_manager_at_first_use_and_once() -> None:
    plugin = s3_plugin()
    vault = Vault(secrets={"SECRET": SECRET})
    with running(vault):
        assert secret_of(plugin) == SECRET
        assert secret_of(plugin) == SECRET
    assert secret_of(plugin) == SECRET
    assert vault.asked == ["SECRET"]


def test_runnables_manager_comes_before_the_environment_and_one_that_has_nothing_counts_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SECRET", "environment")
    for manager, found in (
        (Vault(secrets={"SECRET": SECRET}), SECRET),
        (Vault(secrets={}), "environment"),
        (DoNothingSecretManager(), "environment"),
        (EnvSecretsManager(), "environment"),
        (None, "environment"),
    ):
        with running(manager):
            assert secret_of(s3_plugin()) == found
    assert secret_of(s3_plugin()) == "environment"  # as `runnable retry`, before there is a run


def test_a_secret_that_nobody_has_is_named_when_the_store_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = s3_plugin()
    for manager in (EnvSecretsManager(), DoNothingSecretManager(), None):
        with running(manager), pytest.raises(InvalidInputError, match="the secret 'SECRET' of secret is not known"):
            plugin.get_summary()


def test_a_pickle_has_placeholders_and_not_what_they_stand_for() -> None:
    plugin = s3_plugin()
    with running(Vault(secrets={"SECRET": SECRET})):
        assert secret_of(plugin) == SECRET
        sent = pickle.dumps(plugin)
        assert SECRET.encode() not in sent
        assert secret_of(pickle.loads(sent)) == SECRET


def configuration_of(path: Path, **variables: str) -> dict[str, Any]:
    """What runnable makes of a configuration file before a store gets it."""
    return cast(dict[str, Any], ServiceConfigurations(configuration_file=str(path), variables=variables).services)


def test_runnables_own_variables_are_filled_before_ours_and_take_one_of_two_dollars(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`docs/how-to/settings.md` says what follows."""
    config = {"s3_bucket": "${bucket}", "prefix": "$plain", "secret": "${SECRET}", "key": "a$$$$b", "token": "a$$b"}
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"run-log-store": {"type": "chunkstore-s3", "config": config}}))
    loaded = configuration_of(path, bucket="variable", plain="p")["run_log_store"]
    assert loaded["config"] == {**config, "s3_bucket": "variable", "prefix": "p", "key": "a$$b", "token": "a$b"}
    monkeypatch.setenv("SECRET", SECRET)
    plugin = get_service_by_name("run_log_store", loaded, None)
    settings = plugin.settings
    assert (plugin.target().url, settings.secret.get_secret_value()) == ("s3://variable/p", SECRET)
    assert (settings.key.get_secret_value(), settings.token.get_secret_value()) == ("a$b", "a$b")


# Real pipelines

DEFINITION = """\
from runnable import Map, Pipeline, PythonTask

def numbers():
    return ["a", "b"]

def note(letter):
    return f"{letter}!"

def main():
    worker = Pipeline(steps=[PythonTask(function=note, name="note", returns=["noted"])])
    steps = [PythonTask(function=numbers, name="give", returns=["letters"]),
             Map(name="each", branch=worker, iterate_on="letters", iterate_as="letter")]
    pipeline = Pipeline(steps=steps)
    pipeline.execute()
    return pipeline

if __name__ == "__main__":
    main()
"""
OUTLINE = """\
give SUCCESS 1
each SUCCESS
  [each.a] SUCCESS
    each.a.note SUCCESS 1
    each.a.success SUCCESS 1
  [each.b] SUCCESS
    each.b.note SUCCESS 1
    each.b.success SUCCESS 1
success SUCCESS 1"""


def executed(folder: Path, store: Mapping[str, object], **environment: str) -> str:
    """Runs a small map in branches of their own processes; what was printed."""
    folder.mkdir(exist_ok=True)
    (folder / "small.py").write_text(DEFINITION)
    secrets = {"type": "dotenv", "config": {"location": "secrets.env"}}
    executor = {"type": "local", "config": {"enable_parallel": True}}
    config = {"run-log-store": store, "secrets": secrets, "pipeline-executor": executor}
    (folder / "config.yaml").write_text(json.dumps(config))
    outcome = run(
        [sys.executable, "small.py"],
        folder,
        RUNNABLE_CONFIGURATION_FILE="config.yaml",
        RUNNABLE_RUN_ID="r",
        **environment,
    )
    assert outcome.code == 0, outcome.output[-3000:]
    return outcome.output


@pytest.mark.slow
def test_a_pipeline_in_a_folder_by_the_keys_of_chunked_fs(tmp_path: Path) -> None:
    executed(tmp_path / "p", {"type": "chunkstore-fs"})
    with closing(chunkstore.open(tmp_path / "p" / ".run_log_store")) as store:
        assert outline(store.get_run_log_by_id("r").steps) == OUTLINE


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["chunkstore-s3", "chunkstore-minio"])
def test_a_pipeline_in_a_bucket_whose_secrets_only_runnables_manager_has(
    kind: str, minio_server: S3Server, tmp_path: Path
) -> None:
    bucket = minio_server.new_bucket()
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "secrets.env").write_text(f"THE_KEY={minio_server.key}\nTHE_SECRET={minio_server.secret}\n")
    names = {"chunkstore-s3": ("s3_bucket", "key", "secret")}
    where, key, secret = names.get(kind, ("bucket", "aws_access_key_id", "aws_secret_access_key"))
    keys = {where: bucket, key: "${THE_KEY}", secret: "${THE_SECRET}", "endpoint_url": minio_server.endpoint_url}
    output = executed(tmp_path / "p", {"type": kind, "config": {**keys, "region": minio_server.region}})
    access = {"key": minio_server.key, "secret": minio_server.secret, "region": minio_server.region}
    with closing(chunkstore.open(f"s3://{bucket}", endpoint_url=minio_server.endpoint_url, **access)) as store:
        run_log = store.get_run_log_by_id("r")
    assert outline(run_log.steps) == OUTLINE
    assert minio_server.secret not in output + run_log.model_dump_json()


@pytest.mark.slow
def test_a_pipeline_tried_out_with_mock_leaves_nothing_and_sends_nothing(tmp_path: Path) -> None:
    keys = {"endpoint_url": "http://127.0.0.1:9", "aws_secret_access_key": "${NOBODY_HAS_IT}", "mock": True}
    output = executed(tmp_path / "p", {"type": "chunkstore-minio", "config": keys})
    assert "each.b.note" in output
    assert not (tmp_path / "p" / ".run_log_store").exists()
