"""The types of a configuration: the keys of the stores that came before, the general settings, and what is wrong said by name."""

from __future__ import annotations

import json
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import chunkstore
from chunkstore.configfile import read_configuration
from chunkstore.configschema import json_schema
from chunkstore.configuration import TYPES, configured, without_password
from chunkstore.errors import InvalidInputError, NotSupportedError
from chunkstore.settings import S3StoreSettings
from chunkstore.settings.configs import KEYS, MinioKeys, S3Keys

SECRET = "wJalr+XUtnFEMI=K7MDENG"
REQUIRED: Mapping[str, Mapping[str, object]] = {
    "chunkstore": {"url": "runs"},
    "chunkstore-fs": {},
    "chunkstore-s3": {"s3_bucket": "b"},
    "chunkstore-minio": {},
    "chunkstore-db": {"connection_string": "sqlite:///x.db"},
}


def refusal(kind: str, **keys: object) -> str:
    with pytest.raises(InvalidInputError) as refused:
        configured(kind, keys).target()
    assert SECRET not in str(refused.value)
    assert refused.value.__cause__ is None
    assert SECRET not in str(refused.value.__context__)
    return str(refused.value)


# The keys


def test_a_folder_is_the_ancestors_own_by_default() -> None:
    target = configured("chunkstore-fs", {}).target()
    assert target.url == ".run_log_store"
    assert configured("chunkstore-fs", {"log_folder": "logs", "durability": "power"}).target().url == "logs"


def test_the_keys_of_the_s3_seed_are_the_librarys_settings() -> None:
    keys = {
        "s3_bucket": "bucket",
        "prefix": "/logs/",
        "aws_profile": "me",
        "aws_credentials_file": "~/creds",
        "use_credentials": True,
        "role_arn": "arn:aws:iam::1:role/x",
        "aws_access_key_name": "A",
        "aws_secret_access_key_name": "B",
        "aws_session_key_name": "C",
        "session_duration_in_seconds": 1200,
    }
    target = configured("chunkstore-s3", keys).target()
    settings = target.settings
    assert isinstance(settings, S3StoreSettings)
    assert (target.url, settings.region, settings.profile) == ("s3://bucket/logs", "eu-west-1", "me")
    assert (settings.credentials_file, settings.use_credentials) == ("~/creds", True)
    assert (settings.role_arn, settings.session_duration_in_seconds) == ("arn:aws:iam::1:role/x", 1200)
    assert (settings.access_key_name, settings.secret_access_key_name, settings.session_token_name) == ("A", "B", "C")
    assert S3Keys(s3_bucket="b").session_duration_in_seconds == 900


def test_a_key_may_also_be_spelled_as_the_library_does_but_not_both() -> None:
    settings = configured("chunkstore-s3", {"s3_bucket": "b", "profile": "me"}).target().settings
    assert isinstance(settings, S3StoreSettings)
    assert settings.profile == "me"
    both = refusal("chunkstore-s3", s3_bucket="b", profile="me", aws_profile="you")
    assert both.endswith("profile: it says the same as aws_profile; give one of them")


def test_the_keys_of_runnables_minio_have_its_defaults() -> None:
    pytest.importorskip("runnable")
    from extensions.run_log_store.chunked_minio import ChunkedMinioRunLogStore

    theirs = ChunkedMinioRunLogStore.model_fields
    ours = MinioKeys()
    assert theirs["endpoint_url"].default == ours.endpoint_url
    assert theirs["bucket"].default == ours.bucket
    assert theirs["aws_access_key_id"].default == ours.key
    assert theirs["aws_secret_access_key"].default == ours.secret
    accepted = {"endpoint_url", "aws_access_key_id", "aws_secret_access_key", "bucket"}
    assert set(theirs) - {"service_name", "service_type", "supports_parallel_writes"} == accepted
    target = configured(
        "chunkstore-minio", {"bucket": "b/p/q", "aws_access_key_id": "k", "aws_secret_access_key": SECRET}
    ).target()
    assert isinstance(target.settings, S3StoreSettings)
    assert (target.url, target.settings.addressing_style) == ("s3://b/p/q", "path")
    assert target.settings.secret.get_secret_value() == SECRET


@pytest.mark.parametrize("kind", TYPES)
def test_each_type_takes_the_general_settings_and_a_key_without_a_value_counts_as_not_given(kind: str) -> None:
    keys = {**REQUIRED[kind], "retention_days": 7, "timeout_seconds": "5", "cache_bytes": None, "mock": True}
    settings = configured(kind, keys).target().settings
    assert (settings.retention_days, settings.timeout_seconds, settings.cache_bytes) == (7, 5, 64 << 20)


@pytest.mark.parametrize(
    ("kind", "keys", "said"),
    [
        ("chunkstore", {}, "url: it is required, and missing"),
        ("chunkstore", {"url": 5}, "url: it must be text"),
        ("chunkstore", {"url": "runs", "endpoint_url": "x"}, "'endpoint_url' is a setting of s3://; a folder has none such"),
        ("chunkstore", {"url": "s33://b"}, "no store for s33:// URLs; did you mean 's3'?"),
        ("chunkstore", {"url": f"s3://k:{SECRET}@b"}, "credentials do not belong into the URL"),
        ("chunkstore-s3", {}, "s3_bucket: it is required, and missing"),
        ("chunkstore-s3", {"s3_bucket": ""}, "s3_bucket: "),
        ("chunkstore-s3", {"s3_bucket": "s3://b"}, "s3_bucket: it must be the name of a bucket"),
        ("chunkstore-s3", {"s3_bucket": "b", "bucket": "b"}, "there is no setting 'bucket'; did you mean 's3_bucket'?"),
        ("chunkstore-s3", {"s3_bucket": "b", "log_folder": "x"}, "there is no setting 'log_folder'"),
        ("chunkstore-s3", {"s3_bucket": "b", "secret": [SECRET]}, "secret: "),
        ("chunkstore-fs", {"log_folder": "s3://b"}, "log_folder: it must be a folder"),
        ("chunkstore-fs", {"timeout_seconds": SECRET}, "timeout_seconds: "),
        ("chunkstore-minio", {"endpoint_url": f"http://me:{SECRET}@h"}, "endpoint_url: credentials do not belong"),
        ("chunkstore-db", {}, "connection_string: it is required, and missing"),
        ("chunkstore-db", {"connection_string": ""}, "connection_string: it is empty"),
        ("chunkstore-db", {"connection_string": "runs.db"}, "connection_string: it must be a URL: sqlite:///runs.db, or postgresql://"),
        ("chunkstore-db", {"connection_string": f"mysql+pymysql://me:{SECRET}@h/d"}, "no store for mysql+pymysql:// URLs: chunkstore speaks SQLite"),
        ("chunkstore-db", {"connection_string": f"postgresql+psycopg2://me:{SECRET}@h/d"}, "no store for postgresql+psycopg2:// URLs"),
        ("chunkstore-db", {"connection_string": f"s3://{SECRET}"}, "take type chunkstore with the key url"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_by_type_and_key(kind: str, keys: Mapping[str, object], said: str) -> None:
    text = refusal(kind, **keys)
    assert text.startswith(f"run log store of type {kind}: ")
    assert said in text


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("chunkstore-s33", "did you mean 'chunkstore-s3'?"),
        ("elsewhere", "known are: chunkstore, chunkstore-fs"),
        ("chunked-fs", "type chunkstore-fs takes its keys"),
        ("chunked-minio", "type chunkstore-minio takes its keys"),
        ("db", "type chunkstore-db takes its keys"),
        ("buffered", "memory://"),
        (5, "there is no type 5"),
    ],
)
def test_an_unknown_type_is_refused_with_what_to_take_instead(kind: Any, said: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(said)):
        configured(kind, {})


# Secrets


def test_placeholders_are_filled_when_the_store_is_opened_and_not_before(monkeypatch: pytest.MonkeyPatch) -> None:
    keys = {"s3_bucket": "${BUCKET}", "key": "k", "secret": "${SECRET}", "max_connections": "${MANY}"}
    made = configured("chunkstore-s3", keys)
    with pytest.raises(InvalidInputError, match="the secret 'BUCKET' of s3_bucket is not known"):
        made.target()
    for name, value in (("BUCKET", "b"), ("SECRET", SECRET), ("MANY", "7")):
        monkeypatch.setenv(name, value)
    target = made.target()
    assert (target.url, target.settings.max_connections) == ("s3://b/", 7)
    assert isinstance(target.settings, S3StoreSettings)
    assert target.settings.secret.get_secret_value() == SECRET


def test_a_filled_value_is_checked_as_any_other_and_not_shown() -> None:
    made = configured("chunkstore-s3", {"s3_bucket": "b", "max_connections": "${many}", "timeout_seconds": "${t}"})
    with pytest.raises(InvalidInputError, match=r"timeout_seconds: .*; max_connections: ") as refused:
        made.target({"many": SECRET, "t": SECRET}.get)
    assert SECRET not in f"{refused.value} {refused.value.__context__}"


def test_with_a_placeholder_there_what_else_is_wrong_is_still_said_at_once() -> None:
    with pytest.raises(InvalidInputError, match="'s3_bucket'"):
        configured("chunkstore-s3", {"bucket": "${b}"})
    with pytest.raises(InvalidInputError, match="timeout_seconds"):
        configured("chunkstore-s3", {"s3_bucket": "${b}", "timeout_seconds": "soon"})


def test_a_url_that_is_a_secret_as_a_whole_is_checked_when_it_is_known() -> None:
    made = configured("chunkstore", {"url": "${url}", "durability": "power"})
    assert made.target({"url": "runs"}.get).url == "runs"
    with pytest.raises(InvalidInputError, match="'durability' is a setting of a folder; s3:// has none such"):
        made.target({"url": "s3://bucket"}.get)


def test_nothing_that_is_shown_or_pickled_has_a_filled_secret() -> None:
    made = configured(
        "chunkstore-s3", {"s3_bucket": "b", "key": "a key", "secret": "${SECRET}", "token": SECRET, "region": "r"}
    )
    target = made.target({"SECRET": "filled"}.get)
    assert made.shown == {
        "s3_bucket": "b",
        "key": "**********",
        "secret": "**********",
        "token": "**********",
        "region": "r",
    }
    for text in (repr(made), str(made), repr(target), str(target)):
        assert SECRET not in text
        assert "filled" not in text
    assert b"filled" not in pickle.dumps(made)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (f"postgresql://me:{SECRET}@h/d", "postgresql://**********@h/d"),
        (f"postgresql://me:{SECRET}/x?y#z@h/d", "postgresql://**********@h/d"),
        (f"postgresql://h/d?user=me&password={SECRET}&x=1", "postgresql://h/d?user=me&password=**********&x=1"),
        (f"postgresql://h/d?sslpassword={SECRET}", "postgresql://h/d?sslpassword=**********"),
        ("s3://bucket/prefix", "s3://bucket/prefix"),
        ("runs/a@b", "runs/a@b"),
    ],
)
def test_a_url_is_shown_without_what_is_secret_in_it(url: str, shown: str) -> None:
    assert without_password(url) == shown


# Mock


@pytest.mark.parametrize("kind", TYPES)
def test_with_mock_nothing_of_the_place_is_opened_or_looked_for(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for opener in ("local.LocalBackend", "s3.S3Backend"):
        monkeypatch.setattr(f"chunkstore.backends.{opener}", lambda *_, **__: pytest.fail("the place is opened"))
    places = {
        "chunkstore": {"url": "s3://b/${GONE}"},
        "chunkstore-db": {"connection_string": "postgresql://u:${GONE}@h/d"},
    }
    keys = {**places.get(kind, REQUIRED[kind]), "mock": "yes"}
    store = chunkstore.open_config({"type": kind, **keys})
    store.create_run_log("r")
    assert store.backend.place.startswith("memory://mock-")
    assert not store.supports_parallel_writes
    assert not configured(kind, keys).parallel_writes
    assert chunkstore.open_config({"type": kind, **keys}).list_run_ids() == ["r"]
    store.delete_run_log("r")


def test_the_mocks_of_two_places_are_two() -> None:
    chunkstore.open("s3://one", mock=True).create_run_log("r")
    assert chunkstore.open("s3://two", mock=True).list_run_ids() == []
    assert chunkstore.open("s3://one", mock=True).list_run_ids() == ["r"]


def test_a_mock_promises_no_more_than_memory_does() -> None:
    with pytest.raises(NotSupportedError, match="across hosts"):
        chunkstore.open("s3://bucket", mock=True, require="across-hosts")
    assert not chunkstore.open("s3://bucket", mock=True, supports_parallel_writes=True).supports_parallel_writes


# What is refused, and why


def test_parallel_writes_may_be_forbidden_but_not_promised_where_they_are_lost() -> None:
    assert chunkstore.open("runs").supports_parallel_writes
    assert chunkstore.open("runs", supports_parallel_writes=True).supports_parallel_writes
    assert not chunkstore.open("runs", supports_parallel_writes=False).supports_parallel_writes
    assert not chunkstore.open("memory://x").supports_parallel_writes
    with pytest.raises(InvalidInputError, match="supports_parallel_writes: memory is one process's own"):
        chunkstore.open("memory://x", supports_parallel_writes=True)


def test_writes_that_would_be_acknowledged_before_they_are_stored_are_refused() -> None:
    assert chunkstore.open("runs", async_writes=False, batch_size=1)
    with pytest.raises(InvalidInputError, match=r"async_writes: a call returns when its write is stored.*open_async"):
        chunkstore.open("runs", async_writes=True)
    with pytest.raises(InvalidInputError, match=r"batch_size: .*raise max_connections"):
        chunkstore.open("runs", batch_size=100)


# JSON Schema


@pytest.mark.parametrize("kind", TYPES)
def test_the_schema_says_the_same_as_the_check(kind: str) -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema(kind)
    jsonschema.Draft202012Validator.check_schema(schema)
    right = [{}, {"retention_days": 5}, {"max_connections": "${many}"}, {"enable_compression": False, "mock": True}]
    wrong = [{"retention_days": 0}, {"retention_days": "many"}, {"no_such_key": 1}, {"require": "across-worlds"}]
    for more in right:
        jsonschema.validate({**REQUIRED[kind], **more}, schema)
        configured(kind, {**REQUIRED[kind], **more})
    for more in wrong:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate({**REQUIRED[kind], **more}, schema)
        with pytest.raises(InvalidInputError):
            configured(kind, {**REQUIRED[kind], **more})


@pytest.mark.parametrize("kind", KEYS)
def test_the_schema_says_what_every_key_means(kind: str) -> None:
    described = json_schema(kind)["properties"]
    assert [key for key, about in described.items() if not about.get("description")] == []


def test_the_schema_of_a_url_is_that_of_its_place() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json_schema("chunkstore")
    jsonschema.validate({"url": "s3://b", "endpoint_url": "http://h"}, schema)
    jsonschema.validate({"url": "runs/", "durability": "power"}, schema)
    for wrong in ({"url": "runs/", "endpoint_url": "http://h"}, {"url": "s3://b", "durability": "power"}, {}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


# Where it is read from


SECTION = {"type": "chunkstore", "config": {"url": "memory://read", "retention_days": 3}}


@pytest.mark.parametrize(
    "tree",
    [
        SECTION,
        {"type": "chunkstore", "url": "memory://read", "retention_days": 3},
        {"run-log-store": SECTION, "pipeline-executor": {"type": "local"}},
        {"run_log_store": SECTION},
        {"run_log": SECTION},
        {"defaults": {"run_log_store": SECTION}},
    ],
)
def test_a_store_is_found_under_every_spelling(tree: Mapping[str, object]) -> None:
    store = chunkstore.open_config(tree)
    assert (store.backend.place, store.settings.retention_days) == ("memory://read", 3)


@pytest.mark.parametrize(
    ("tree", "said"),
    [
        ({"runlogstore": SECTION}, "there is no run-log-store in the configuration; did you mean 'run_log_store'?"),
        ({}, "there is no run-log-store"),
        ({"run_log": SECTION, "run_log_store": SECTION}, "configured twice: run_log_store and run_log"),
        ({"run_log": "chunkstore"}, "run_log: it must be keys and their values"),
        ({"run_log": {"config": {}}}, "the type of the run log store is missing"),
        ({"run_log": {**SECTION, "timeout_seconds": 3}}, "both under config and beside it (timeout_seconds)"),
        ({"run_log": {"type": "chunkstore", "config": 5}}, "config: it must be keys and their values"),
        ({"run_log": {"type": "chunkstore", "config": None}}, "url: it is required"),
        ({"run_log": {"type": "chunkstore-fs", "config": {1: 2}}}, "config: it must be keys and their values"),
    ],
)
def test_what_is_wrong_with_a_configuration_is_said_by_key(tree: Mapping[str, object], said: str) -> None:
    with pytest.raises(InvalidInputError, match=re.escape(said)):
        read_configuration(tree)


FILES = {
    "c.yaml": "run-log-store:\n  type: chunkstore\n  config:\n    url: memory://${X}\n    key: no\n",
    "c.yml": "run_log:\n  type: chunkstore\n  url: memory://${X}\n",
    "c.toml": '[run_log_store]\ntype = "chunkstore"\n[run_log_store.config]\nurl = "memory://${X}"\n',
    "c.json": json.dumps({"run_log_store": {"type": "chunkstore", "config": {"url": "memory://${X}"}}}),
}


@pytest.mark.parametrize("name", FILES)
def test_a_file_is_read_by_its_suffix(name: str, tmp_path: Path) -> None:
    if name.endswith(("yaml", "yml")):
        pytest.importorskip("ruamel.yaml", reason="the extra yaml is not installed")
    path = tmp_path / name
    path.write_text(FILES[name].replace("    key: no\n", ""))
    assert chunkstore.open_config(path, secrets={"X": "filled"}).backend.place == "memory://filled"
    assert chunkstore.open_config(str(path), secrets={"X": "again"}.get).backend.place == "memory://again"


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("c.ini", "", "its name must end in .yaml, .yml, .toml, .json"),
        ("c.json", f'{{"key": "{SECRET}', "it is no JSON"),
        ("c.toml", f"key = '{SECRET}", "it is no TOML"),
        ("c.yaml", f"key: '{SECRET}", "it is no YAML in line"),
        ("c.yaml", f"- {SECRET}", "it must be keys and their values"),
        ("c.yaml", "", "it must be keys and their values"),
        ("c.json", '{"run_log": {"type": "chunkstore", "url": "runs", "secert": 1}}', "there is no setting 'secert'"),
    ],
)
def test_what_is_wrong_with_a_file_is_said_with_its_name_and_without_its_text(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    if name.endswith("yaml"):
        pytest.importorskip("ruamel.yaml", reason="the extra yaml is not installed")
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(InvalidInputError) as refused:
        chunkstore.open_config(path)
    assert str(refused.value).startswith(f"{path}: ")
    assert said in str(refused.value)
    assert SECRET not in f"{refused.value} {refused.value.__context__} {refused.value.__cause__}"


def test_a_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(InvalidInputError, match=r"gone\.json cannot be read: No such file"):
        chunkstore.open_config(tmp_path / "gone.json")
    (tmp_path / "c.json").write_bytes(b"\xff")
    with pytest.raises(InvalidInputError, match=r"c\.json: it is no UTF-8"):
        chunkstore.open_config(tmp_path / "c.json")


# The environment


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setenv("CHUNKSTORE_URL", "memory://environment")
    return monkeypatch


def test_the_environment_has_the_url_and_each_setting(url: pytest.MonkeyPatch) -> None:
    for name, value in (("RETENTION_DAYS", "3"), ("ENABLE_COMPRESSION", "false"), ("TIMEOUT_SECONDS", "")):
        url.setenv(f"CHUNKSTORE_{name}", value)
    store = chunkstore.open_from_environment()
    assert store.backend.place == "memory://environment"
    assert store.settings == chunkstore.open("memory://x", retention_days=3, enable_compression=False).settings


def test_placeholders_in_the_environment_are_filled_where_secrets_are_given(url: pytest.MonkeyPatch) -> None:
    url.setenv("CHUNKSTORE_URL", "memory://${NAME}")
    assert chunkstore.open_from_environment().backend.place == "memory://${NAME}"
    assert chunkstore.open_from_environment(secrets={"NAME": "filled"}).backend.place == "memory://filled"


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("TIMEOUT", "5", "CHUNKSTORE_TIMEOUT: there is no setting 'timeout'; did you mean 'timeout_seconds'?"),
        ("ENDPOINT_URL", "http://h", "CHUNKSTORE_ENDPOINT_URL: 'endpoint_url' is a setting of s3://; memory has none"),
        ("TIMEOUT_SECONDS", SECRET, "CHUNKSTORE_TIMEOUT_SECONDS: Input should be a valid number"),
    ],
)
def test_what_is_wrong_in_the_environment_is_said_by_variable(
    name: str, value: str, said: str, url: pytest.MonkeyPatch
) -> None:
    url.setenv(f"CHUNKSTORE_{name}", value)
    with pytest.raises(InvalidInputError, match=re.escape(said)) as refused:
        chunkstore.open_from_environment()
    assert SECRET not in str(refused.value)


def test_a_missing_url_is_asked_for_by_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CHUNKSTORE_URL", raising=False)
    with pytest.raises(InvalidInputError, match="Set CHUNKSTORE_URL"):
        chunkstore.open_from_environment()


def test_variables_that_others_set_are_no_settings(url: pytest.MonkeyPatch) -> None:
    for name in ("CONFIG", "TEST_SERVERS", "SERVICE_HOST", "SERVICE_PORT", "PORT", "PORT_80_TCP_ADDR"):
        url.setenv(f"CHUNKSTORE_{name}", "x")
    assert chunkstore.open_from_environment()
