"""Settings and URLs are checked before anything happens; what is wrong is named, and a secret never is."""

from __future__ import annotations

import os
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import chunkstore
from chunkstore.backends import Backend
from chunkstore.config import checked_settings, has_scheme, open_backend
from chunkstore.errors import ChunkStoreError, InvalidInputError, NotSupportedError
from chunkstore.settings import LocalSettings, S3StoreSettings, Settings

SECRET = "AKIA/wJalr+XUtnFEMI=K7MDENG"  # looks like one, slash included


def place(url: str | os.PathLike[str], **settings: object) -> str:
    return open_backend(url, checked_settings(url, settings)).place


def s3() -> None:
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")


@pytest.fixture(autouse=True)
def _nothing_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


# Settings


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("endpoint", "endpoint_url"),
        ("durabilty", "durability"),
        ("timeout", "timeout_seconds"),
        ("compression_threshold", "compression_threshold_bytes"),
        ("conditional_write", "conditional_writes"),
        ("max_connection", "max_connections"),
    ],
)
def test_an_unknown_setting_is_refused_with_the_nearest_known_one(name: str, nearest: str) -> None:
    with pytest.raises(InvalidInputError, match=f"there is no setting '{name}'; did you mean '{nearest}'") as refused:
        chunkstore.open("runs", **{name: 1})
    assert refused.value.name == name


def test_an_unknown_setting_that_is_near_to_none_is_refused_with_all_known_ones() -> None:
    with pytest.raises(InvalidInputError, match="known are: ") as refused:
        chunkstore.open("runs", zzzzzz=1)
    assert all(name in str(refused.value) for name in LocalSettings.model_fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("timeout_seconds", wrong) for wrong in ("soon", 0, -1, None, float("nan"), float("inf"), [])),
        *(("max_connections", wrong) for wrong in (0, -1, 1.5, "many", None)),
        *(("retention_days", wrong) for wrong in (0, "90 days")),
        *(("compression_threshold_bytes", wrong) for wrong in (-1, "1 MB")),
        *(("cache_bytes", wrong) for wrong in (-1, None)),
        *(("enable_compression", wrong) for wrong in ("perhaps", None, 2)),
        *(("durability", wrong) for wrong in ("fsync", "", None, 1)),
        *(("require", wrong) for wrong in ("across-worlds", "", True)),
    ],
)
def test_a_setting_of_the_wrong_type_or_size_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=f"settings cannot be used: {name}: "):
        chunkstore.open("runs", **{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("conditional_writes", wrong) for wrong in ("always", True)),
        *(("session_duration_in_seconds", wrong) for wrong in (899, 43_201, "15 minutes", None)),
        *(("server_side_encryption", wrong) for wrong in ("aes256", "kms", True)),
        *(
            (name, wrong)
            for name in (
                "key",
                "secret",
                "token",
                "region",
                "endpoint_url",
                "lock_folder",
                "sse_customer_key",
                "profile",
            )
            for wrong in (1, None, [])
        ),
    ],
)
def test_a_setting_of_a_bucket_of_the_wrong_type_or_size_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(InvalidInputError, match=f"settings cannot be used: {name}: "):
        chunkstore.open("s3://bucket", **{name: value})


def test_all_wrong_settings_are_named_at_once() -> None:
    with pytest.raises(InvalidInputError, match=r"timeout_seconds: .*; durability: "):
        chunkstore.open("runs", timeout_seconds=-1, durability="x")


def test_the_defaults_are_those_that_are_documented() -> None:
    settings = LocalSettings()
    assert (settings.retention_days, settings.enable_compression, settings.compression_threshold_bytes) == (
        90,
        True,
        1_000_000,
    )
    assert (settings.timeout_seconds, settings.max_connections, settings.durability) == (30, 20, "barrier")
    assert S3StoreSettings().conditional_writes == "auto"
    assert settings.require is None


@pytest.mark.parametrize(("enabled", "above"), [(True, 5), (False, None)])
def test_the_threshold_counts_where_compression_is_on(enabled: bool, above: int | None) -> None:
    store = chunkstore.open("memory://x", enable_compression=enabled, compression_threshold_bytes=5)
    assert store.settings.compress_above == above


@pytest.mark.parametrize(
    ("url", "name", "whose"),
    [
        ("runs", "endpoint_url", "'endpoint_url' is a setting of s3://; a folder has none such"),
        ("memory://x", "secret", "'secret' is a setting of s3://; memory has none such"),
        ("memory://x", "durability", "'durability' is a setting of a folder; memory has none such"),
        ("s3://bucket", "durability", "'durability' is a setting of a folder; s3:// has none such"),
    ],
)
def test_a_setting_of_another_kind_of_place_is_refused_and_it_is_said_whose_it_is(
    url: str, name: str, whose: str
) -> None:
    with pytest.raises(InvalidInputError, match=f"^{whose}: leave it out$") as refused:
        chunkstore.open(url, **{name: "process"})
    assert refused.value.name == name


def test_settings_of_another_place_open_no_backend() -> None:
    with pytest.raises(InvalidInputError, match=r"memory: takes MemorySettings, not LocalSettings"):
        open_backend("memory://x", LocalSettings())


# URLs


def test_a_path_is_a_folder(tmp_path: Path) -> None:
    assert place("runs/") == place("runs") == place("./runs") == str(tmp_path / "runs")
    assert place(tmp_path / "runs") == place(str(tmp_path / "runs")) == str(tmp_path / "runs")
    assert place("a b/ü#?%20") == str(tmp_path / "a b/ü#?%20")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("url", ["~/runs", "file:~/runs"])
def test_a_tilde_is_the_home_folder(url: str, tmp_path: Path) -> None:
    assert place(url) == str(tmp_path / "home" / "runs")


def test_the_home_folder_of_nobody_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="'~nobody-of-that-name/runs' begins with the home folder"):
        place("~nobody-of-that-name/runs")


@pytest.mark.parametrize(
    ("url", "folder"),
    [
        ("file:///data/runs", "/data/runs"),
        ("file://localhost/data/runs", "/data/runs"),
        ("FILE:///data/runs/", "/data/runs"),
        ("file:/data/runs", "/data/runs"),
        ("file:///data/a%20b%23c%3Fd%25", "/data/a b#c?d%"),
        ("file:///data/ü", "/data/ü"),
    ],
)
def test_a_file_url_is_a_folder(url: str, folder: str) -> None:
    assert place(url) == folder


def test_a_relative_file_url_is_relative_to_the_working_folder(tmp_path: Path) -> None:
    assert place("file:runs/x") == str(tmp_path / "runs" / "x")


def test_a_windows_drive_is_no_scheme() -> None:
    for path in (r"C:\runs", "c:/runs", "D:runs"):
        assert not has_scheme(path)
        assert place(path).endswith(path)
    assert all(map(has_scheme, ["s3://b", "file:x", "memory://", "S3://b", "s4:x"]))


@pytest.mark.parametrize(
    "url", ["", " ", "file:", "file://", "a\0b", "file:///a%00b", "file:///a#b", "file:///a?b", "memory:x", "s3:b"]
)
def test_a_url_that_names_nothing_certain_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match=r"URL|names no"):
        chunkstore.open(url)


@pytest.mark.parametrize("url", [None, 3, b"runs", ["runs"]])
def test_a_url_that_is_no_text_is_refused(url: Any) -> None:
    with pytest.raises(InvalidInputError, match="a URL must be text or a path, not "):
        chunkstore.open(url)


@pytest.mark.parametrize("url", ["file://host/runs", "file://~/runs", "file://runs"])
def test_a_file_url_with_a_host_is_refused(url: str) -> None:
    with pytest.raises(InvalidInputError, match="three slashes"):
        chunkstore.open(url)


@pytest.mark.parametrize(
    ("url", "answer"),
    [
        ("s33://b/p", "did you mean 's3'"),
        ("memry://x", "did you mean 'memory'"),
        ("gs://b", "known are: file, memory, s3"),
    ],
)
def test_an_unknown_scheme_is_refused_with_the_nearest_known_one(url: str, answer: str) -> None:
    with pytest.raises(InvalidInputError, match=answer):
        chunkstore.open(url)


def test_stores_in_memory_share_by_name() -> None:
    chunkstore.open("memory://one").create_run_log("r")
    assert chunkstore.open("memory://one/").list_run_ids() == ["r"]
    assert chunkstore.open("memory://two").list_run_ids() == []


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix"])
def test_a_missing_bucket_is_named(url: str) -> None:
    with pytest.raises(InvalidInputError, match="names no bucket; write s3://bucket/prefix"):
        chunkstore.open(url)


@pytest.mark.parametrize(
    "prefix", ["a//b", "../b", "a/..", "a/./b", "a*", "a?b", "[a]", "{a}", "a\\b", "a\nb", "x" * 601, "é" * 301]
)
def test_a_prefix_that_an_object_store_would_take_for_something_else_is_refused(prefix: str) -> None:
    with pytest.raises(InvalidInputError, match="prefix"):
        chunkstore.open(f"s3://bucket/{prefix}")


def test_an_s3_url_is_a_bucket_and_a_prefix() -> None:
    s3()
    assert place("s3://bucket") == place("s3://bucket/") == "s3://bucket"
    assert place("s3://bucket/a/b/") == place("S3://bucket/a/b") == "s3://bucket/a/b"


def test_an_access_point_is_a_bucket_too() -> None:
    s3()
    assert place("s3://arn:aws:s3:eu-west-1:1:accesspoint:x/p").startswith("s3://arn:aws:s3:eu-west-1:1:accesspoint:x")


# Promises


@pytest.mark.parametrize("require", ["across-hosts", "across-processes"])
@pytest.mark.parametrize("url", ["memory://x", "runs"])
def test_a_place_that_cannot_promise_what_is_required_is_refused(url: str, require: str, tmp_path: Path) -> None:
    if (url, require) == ("runs", "across-processes"):
        assert chunkstore.open(url, require=require)
        return
    with pytest.raises(
        NotSupportedError, match=f"cannot promise that .* {require.replace('-', ' ')}; choose another place"
    ):
        chunkstore.open(url, require=require)
    assert list(tmp_path.iterdir()) == []


def test_opening_sends_and_writes_nothing(tmp_path: Path) -> None:
    chunkstore.open("runs")
    assert list(tmp_path.iterdir()) == []


# Secrets


def everything_about(error: BaseException) -> str:
    """All that a log, a person or another process gets to see of an error."""
    sent = pickle.loads(pickle.dumps(error))
    texts = [
        "".join(traceback.format_exception(error)),
        str(error),
        repr(error),
        str(vars(error)),
        str(sent),
        repr(vars(sent)),
    ]
    return "\n".join(texts)


WITH_SECRETS: dict[str, Callable[[], object]] = {
    "URL: key and secret": lambda: chunkstore.open(f"s3://key:{SECRET}@bucket/prefix"),
    "URL: secret without a slash": lambda: chunkstore.open(f"s3://key:{SECRET.replace('/', '')}@bucket/prefix"),
    "URL: secret alone": lambda: chunkstore.open(f"s3://:{SECRET}@bucket"),
    "URL: query": lambda: chunkstore.open(f"s3://bucket?secret={SECRET}"),
    "URL: unknown scheme": lambda: chunkstore.open(f"https://key:{SECRET}@host/bucket"),
    "URL: misspelt scheme": lambda: chunkstore.open(f"s33://key:{SECRET}@host/bucket"),
    "URL: no slashes": lambda: chunkstore.open(f"s3:key:{SECRET}@bucket"),
    "URL: file with a host": lambda: chunkstore.open(f"file://user:{SECRET}@host/x"),
    "endpoint": lambda: chunkstore.open("s3://bucket", endpoint_url=f"http://user:{SECRET}@host"),
    "endpoint of no scheme": lambda: chunkstore.open("s3://bucket", endpoint_url=f"user:{SECRET}@host"),
    "wrong type": lambda: chunkstore.open("s3://bucket", key="k", secret=[SECRET]),
    "wrong type beside": lambda: chunkstore.open("s3://bucket", key="k", secret=SECRET, timeout_seconds="x"),
    "in the wrong setting": lambda: chunkstore.open("s3://bucket", max_connections=SECRET),
    "in the wrong choice": lambda: chunkstore.open("s3://bucket", engine=SECRET),
    "of another place": lambda: chunkstore.open("runs", secret=SECRET),
    "unknown setting": lambda: chunkstore.open("s3://bucket", secret_key=SECRET),
    "secret without key": lambda: chunkstore.open("s3://bucket", secret=SECRET),
    "token alone": lambda: chunkstore.open("s3://bucket", token=SECRET, conditional_writes=SECRET),
    "required of a folder": lambda: chunkstore.open("runs", require="across-hosts"),
    "required of a folder, beside": lambda: chunkstore.open(
        "runs", secret=SECRET, token=SECRET, require="across-hosts"
    ),
}


@pytest.mark.parametrize("attempt", WITH_SECRETS.values(), ids=WITH_SECRETS.keys())
def test_no_error_shows_a_secret(attempt: Callable[[], object]) -> None:
    with pytest.raises(ChunkStoreError) as refused:
        attempt()
    shown = everything_about(refused.value)
    assert SECRET not in shown
    assert SECRET.replace("/", "") not in shown
    assert not [part for part in SECRET.split("/") if part in shown]


@pytest.mark.parametrize(
    "show",
    [
        str,
        repr,
        lambda settings: str(settings.model_dump()),
        Settings.model_dump_json,
        lambda settings: str(vars(settings)),
    ],
)
def test_settings_show_no_secret(show: Callable[[Settings], str]) -> None:
    settings = checked_settings(
        "s3://bucket", {"key": f"key-{SECRET}", "secret": SECRET, "token": SECRET, "endpoint_url": "http://host"}
    )
    assert SECRET not in show(settings)
    assert isinstance(settings, S3StoreSettings)
    assert settings.secret.get_secret_value() == SECRET


def test_a_store_shows_no_secret() -> None:
    s3()
    url = "s3://bucket/prefix"
    store = chunkstore.open(url, key="key", secret=SECRET, token=SECRET, conditional_writes="off", lock_folder="locks")
    backend: Backend = store.backend
    shown = [
        str(store),
        repr(store),
        str(vars(store)),
        str(backend),
        repr(backend),
        backend.place,
        repr(store.settings),
    ]
    assert not [text for text in shown if SECRET in text]
    assert SECRET not in str(store.get_summary())


def test_an_endpoint_that_cannot_be_reached_is_named_without_a_secret() -> None:
    s3()
    store = chunkstore.open(
        "s3://bucket/prefix",
        key="key",
        secret=SECRET,
        token=SECRET,
        endpoint_url="http://127.0.0.1:9",
        region="eu-west-1",
        timeout_seconds=1,
    )
    with pytest.raises(ChunkStoreError, match=r"127\.0\.0\.1:9") as refused:
        store.create_run_log("r")
    store.close()
    assert SECRET not in everything_about(refused.value)
