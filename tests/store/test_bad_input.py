"""Bad input and bad places: a typed error that names the thing and the next step, and nothing is lost."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import chunkstore
from chunkstore import (
    BackendUnavailableError,
    ChunkedRunLogStore,
    ChunkStoreError,
    InvalidInputError,
    RunLogNotFoundError,
    StepLog,
)
from chunkstore.backends.local import LocalBackend
from places import again, in_bucket, memory

BAD_IDS = {
    "../x": "../x",
    "a/b": "a/b",
    "back\\slash": "a\\b",
    "empty": "",
    "blank": "  ",
    "dot": ".",
    "dots": "..",
    "2,000 characters": "x" * 2_000,
    "long in unicode": "日" * 100,
    "line break": "a\nb",
    "zero": "a\0b",
    "delete": "a\x7f",
    "half a character": "a\ud800",
    "absolute": "/x",
    "no text": 5,
    "none": None,
}

CALLS: dict[str, Any] = {
    "create": lambda store, run_id: store.create_run_log(run_id),
    "read": lambda store, run_id: store.get_run_log_by_id(run_id),
    "read without steps": lambda store, run_id: store.get_run_log_by_id(run_id, full=False),
    "delete": lambda store, run_id: store.delete_run_log(run_id),
    "status": lambda store, run_id: store.update_run_log_status(run_id, "FAIL"),
    "set parameters": lambda store, run_id: store.set_parameters(run_id, {"a": 1}),
    "get parameters": lambda store, run_id: store.get_parameters(run_id),
    "add step": lambda store, run_id: store.add_step_log(StepLog(name="a", internal_name="a"), run_id),
    "get step": lambda store, run_id: store.get_step_log("a", run_id),
    "job": lambda store, run_id: store.add_job_log(run_id, store.create_job_log()),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS.keys())
@pytest.mark.parametrize("run_id", BAD_IDS.values(), ids=BAD_IDS.keys())
def test_a_run_id_that_cannot_be_a_folder_is_refused(tmp_path: Path, run_id: Any, call: Any) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "run.json").write_text("somebody else's")
    for store in (ChunkedRunLogStore(LocalBackend(tmp_path / "runs")), ChunkedRunLogStore(memory())):
        with pytest.raises(InvalidInputError, match=r"run id|run_id") as caught:
            call(store, run_id)
        assert isinstance(caught.value, ValueError)
        assert len(str(caught.value)) < 1_000
        assert store.list_run_ids() == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x"]
    assert (tmp_path / "x" / "run.json").read_text() == "somebody else's"


@pytest.mark.parametrize(
    "run_id",
    ["a b", "ü", "100%", ".hidden", "a.", "-rf", "x" * 200, "CON", "run.json", "🚀", "a:b", "*?[]", "~", "$HOME"],
)
def test_odd_run_ids_that_can_be_kept_are(tmp_path: Path, run_id: str) -> None:
    store = ChunkedRunLogStore(LocalBackend(tmp_path / "runs"))
    store.create_run_log(run_id)
    assert again(store).list_run_ids() == [run_id]
    assert again(store).get_run_log_by_id(run_id).run_id == run_id


@pytest.mark.parametrize("name", ["", None, 5, "a\ud800"])
def test_names_that_cannot_be_kept_are_refused(name: Any) -> None:
    store = ChunkedRunLogStore(memory())
    store.create_run_log("r")
    for call in (
        lambda: store.get_step_log(name, "r"),
        lambda: store.get_parameter("r", name),
        lambda: store.set_parameters("r", {name: 1}),
    ):
        with pytest.raises(InvalidInputError):
            call()
    assert store.get_run_log_by_id("r").parameters == {}


def test_a_value_that_is_too_large_is_refused_and_the_run_stays() -> None:
    store = ChunkedRunLogStore(memory(), settings=chunkstore.StoreSettings(compress_above=None))
    store.create_run_log("r")
    with pytest.raises(InvalidInputError, match=r"'big' is too large.*keep a reference"):
        store.set_parameters("r", {"big": "x" * (65 << 20)})
    assert again(store).get_run_log_by_id("r").parameters == {}


# Disks


def filled(store: ChunkedRunLogStore) -> ChunkedRunLogStore:
    store.create_run_log("r")
    store.set_parameters("r", {"a": 1})
    store.add_step_log(StepLog(name="s", internal_name="s"), "r")
    return store


WRITES: dict[str, Any] = {
    "create a run": lambda store: store.create_run_log("other"),
    "add a step": lambda store: store.add_step_log(StepLog(name="new", internal_name="new"), "r"),
    "change a step": lambda store: store.add_step_log(StepLog(name="s", internal_name="s", status="FAIL"), "r"),
    "set a parameter": lambda store: store.set_parameters("r", {"a": 2}),
    "set the status": lambda store: store.update_run_log_status("r", "SUCCESS"),
    "delete the run": lambda store: store.delete_run_log("r"),
}


def intact(store: ChunkedRunLogStore) -> None:
    found = again(store).get_run_log_by_id("r")
    assert (found.status, found.parameters, list(found.steps), found.steps["s"].status) == (
        "CREATED",
        {"a": 1},
        ["s"],
        "CREATED",
    )


@contextmanager
def mounted(folder: Path, *options: str) -> Iterator[None]:
    """A small file system in memory, mounted on the folder; skips where that is not allowed."""
    folder.mkdir(exist_ok=True)
    mount, umount = shutil.which("mount"), shutil.which("umount")
    if mount is None or umount is None or os.geteuid() != 0:
        pytest.skip("mounting a file system needs root and the mount command")
    done = subprocess.run(
        [mount, "-t", "tmpfs", *options, "chunkstore-test", str(folder)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        pytest.skip(f"this host does not let us mount a file system: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run([umount, "-l", str(folder)], check=True)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write to the folder's file system; as an ordinary user, to the folder."""
    if os.geteuid() == 0:
        subprocess.run([shutil.which("mount") or "mount", "-o", "remount,ro", str(folder)], check=True)
        yield
        subprocess.run([shutil.which("mount") or "mount", "-o", "remount,rw", str(folder)], check=True)
        return
    below = [folder, *filter(Path.is_dir, folder.rglob("*"))]
    for path in below:
        path.chmod(0o555)
    yield
    for path in below:
        path.chmod(0o755)


@contextmanager
def own_disk(folder: Path) -> Iterator[Path]:
    """A folder that can be made read-only."""
    if os.geteuid() == 0:
        with mounted(folder, "-o", "size=4m"):
            yield folder
    else:
        folder.mkdir()
        yield folder


@pytest.mark.parametrize("knowing", [True, False], ids=["known", "not known"])
def test_a_read_only_folder_is_named_and_can_be_read(tmp_path: Path, knowing: bool) -> None:
    with own_disk(tmp_path / "disk") as disk:
        store = filled(ChunkedRunLogStore(LocalBackend(disk / "runs")))
        with read_only(disk):
            for name, write in WRITES.items():
                with pytest.raises(
                    BackendUnavailableError, match=r"read-only|permission denied|not permitted|writable"
                ) as caught:
                    write(store if knowing else again(store))
                assert not caught.value.transient, name
                assert str(disk) in str(caught.value), name
            intact(store)
        intact(store)
        WRITES["set the status"](store)


def fill(ballast: Path) -> None:
    """Takes all the space that is left."""
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        while file.write(b"x" * 512):
            pass


def test_a_full_disk_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    with mounted(tmp_path / "disk", "-o", "size=256k"):
        store = filled(ChunkedRunLogStore(LocalBackend(tmp_path / "disk" / "runs")))
        ballast = tmp_path / "disk" / "ballast"
        fill(ballast)
        for name, write in WRITES.items():
            if name == "delete the run":
                continue
            with pytest.raises(
                BackendUnavailableError, match="the disk is full; free some space and repeat the call"
            ) as caught:
                write(store)
            assert "disk/runs" in str(caught.value)
        intact(store)
        assert not list((tmp_path / "disk" / "runs").rglob(".t-*"))
        ballast.unlink()
        WRITES["set a parameter"](store)
        assert again(store).get_parameters("r") == {"a": 2}


def test_a_folder_whose_place_a_file_takes_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    store = ChunkedRunLogStore(LocalBackend(tmp_path / "file"))
    for call in (lambda: store.create_run_log("r"), lambda: store.get_run_log_by_id("r"), store.list_run_ids):
        with pytest.raises(BackendUnavailableError, match="file"):
            call()
    assert (tmp_path / "file").read_text() == "mine"


def test_a_place_that_is_not_there_yet_is_empty(tmp_path: Path) -> None:
    store = ChunkedRunLogStore(LocalBackend(tmp_path / "not" / "yet"))
    assert store.list_run_ids() == []
    assert store.get_run_logs() == []
    with pytest.raises(RunLogNotFoundError):
        store.get_run_log_by_id("r")
    assert not (tmp_path / "not").exists()


# Servers


S3_CALLS: dict[str, Any] = {
    "create a run": lambda store: store.create_run_log("r"),
    "read a run": lambda store: store.get_run_log_by_id("r"),
    "list the runs": lambda store: store.list_run_ids(),
    "set a parameter": lambda store: store.set_parameters("r", {"a": 1}),
}


@pytest.mark.parametrize("call", S3_CALLS.values(), ids=S3_CALLS.keys())
def test_an_endpoint_that_nobody_serves_is_named_within_the_deadline(tmp_path: Path, call: Any) -> None:
    pytest.importorskip("s3fs")
    from servers import free_port

    endpoint = f"http://127.0.0.1:{free_port()}"
    store = chunkstore.open(
        "s3://bucket/runs",
        endpoint_url=endpoint,
        key="key",
        secret="hush-hush",
        region="us-east-1",
        timeout_seconds=4,
        lock_folder=str(tmp_path),
    )
    began = time.monotonic()
    with pytest.raises(BackendUnavailableError, match="cannot be reached") as caught:
        call(store)
    assert time.monotonic() - began < 4 + 5  # a busy machine is slow
    assert caught.value.transient
    assert endpoint in str(caught.value)
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize("call", S3_CALLS.values(), ids=S3_CALLS.keys())
def test_an_endpoint_that_never_answers_is_given_up_within_the_deadline(tmp_path: Path, call: Any) -> None:
    pytest.importorskip("s3fs")
    import socket

    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}"
        store = chunkstore.open(
            "s3://bucket/runs",
            endpoint_url=endpoint,
            key="k",
            secret="s",
            region="us-east-1",
            timeout_seconds=3,
            lock_folder=str(tmp_path),
        )
        began = time.monotonic()
        with pytest.raises(BackendUnavailableError) as caught:
            call(store)
        assert time.monotonic() - began < 3 + 4
        assert caught.value.transient


@pytest.mark.parametrize("call", S3_CALLS.values(), ids=S3_CALLS.keys())
def test_wrong_credentials_are_named_without_the_secret(
    request: pytest.FixtureRequest, tmp_path: Path, call: Any
) -> None:
    server = request.getfixturevalue("minio_server")
    store = chunkstore.open(
        f"s3://{server.new_bucket()}/runs",
        endpoint_url=server.endpoint_url,
        key=server.key,
        secret="hush-hush",
        region=server.region,
        lock_folder=str(tmp_path),
    )
    with pytest.raises(BackendUnavailableError, match=r"access was refused.*Check the access key") as caught:
        call(store)
    assert not caught.value.transient
    assert "hush" not in str(caught.value) + repr(caught.value) + repr(store)


@pytest.mark.parametrize("server", ["moto", "rclone", "minio"])
@pytest.mark.parametrize("call", S3_CALLS.values(), ids=S3_CALLS.keys())
def test_a_missing_bucket_is_named(request: pytest.FixtureRequest, tmp_path: Path, server: str, call: Any) -> None:
    store = ChunkedRunLogStore(
        in_bucket(request.getfixturevalue(f"{server}_server"), tmp_path, bucket="no-such-bucket")
    )
    with pytest.raises(
        BackendUnavailableError, match=r"no-such-bucket.*there is no such bucket.*Create the bucket"
    ) as caught:
        call(store)
    assert not caught.value.transient


@pytest.mark.parametrize(
    ("url", "settings", "says"),
    [
        ("ftp://host/runs", {}, "no store for ftp://"),
        ("s4://bucket", {}, "no store for s4://.*s3"),
        ("s3://", {}, "names no bucket"),
        ("", {}, "the URL is empty"),
        ("runs/", {"durabilty": "power"}, "did you mean 'durability'"),
        ("runs/", {"durability": "maybe"}, "durability"),
        ("runs/", {"timeout_seconds": 0}, "timeout_seconds"),
        ("memory://x", {"require": "across-hosts"}, "cannot promise"),
    ],
)
def test_what_cannot_be_opened_is_refused_with_the_next_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, settings: Any, says: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ChunkStoreError, match=says):
        chunkstore.open(url, **settings)
    assert list(tmp_path.iterdir()) == []
