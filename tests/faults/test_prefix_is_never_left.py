# ruff: noqa: RUF001 - characters that look like dots and slashes are what this is about.
"""Nothing is read, written or deleted outside of the prefix, whatever a run, step, branch or parameter is called."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from chunkstore import (
    BranchLog,
    ChunkedRunLogStore,
    InvalidInputError,
    NotFoundError,
    RunLog,
    RunLogExistsError,
    StepLog,
)
from chunkstore.backends.local import LocalBackend
from places import between, in_bucket
from rigs import Tally
from servers import S3Server

ESCAPES = [
    *(
        "..",
        ".",
        "../x",
        "../../x",
        "x/../..",
        "./../x",
        "..\\x",
        "..\\..\\x",
        "\\x",
        "C:\\x",
        "/x",
        "//x",
        "///etc/passwd",
    ),
    *(
        "%2e%2e",
        "%2E%2E",
        "%2e%2e%2f",
        "%2e%2e%2fx",
        "..%2fx",
        "..%5cx",
        "%252e%252e%252fx",
        "..%c0%afx",
        "%00",
        "..%00",
    ),
    *("..\0", "x\0/../y", "..\n", "..\r", " ..", ".. ", "...", "....//x", "..;/x", "．．/x", "‥/x", "..∕x", "..／x"),
    *(
        "~",
        "~root/x",
        "$HOME",
        "file:///x",
        "s3://x/y",
        "?versionId=x",
        "x?uploads",
        "x#y",
        "*",
        "",
        " ",
        ".locks",
        ".t-1",
    ),
    "x/run.json",
]

Call = Callable[[ChunkedRunLogStore, str], object]


def fenced(store: ChunkedRunLogStore, name: str) -> None:
    """Writes to a run under a lease."""
    with store.lease(name, heartbeat=False) as lease:
        store.fenced(lease).update_run_log_status(name, "FAIL")


OF_A_RUN: dict[str, Call] = {
    "create_run_log": lambda store, name: store.create_run_log(name),
    "put_run_log": lambda store, name: store.put_run_log(RunLog(run_id=name)),
    "get_run_log_by_id": lambda store, name: store.get_run_log_by_id(name),
    "get_run_log_by_id(full=False)": lambda store, name: store.get_run_log_by_id(name, full=False),
    "read_run_log": lambda store, name: store.read_run_log(name),
    "get_run_logs": lambda store, name: store.get_run_logs([name]),
    "update_run_log_status": lambda store, name: store.update_run_log_status(name, "FAIL"),
    "get_run_config": lambda store, name: store.get_run_config(name),
    "set_run_config": lambda store, name: store.set_run_config(name, {"a": 1}),
    "get_parameters": lambda store, name: store.get_parameters(name),
    "get_parameter": lambda store, name: store.get_parameter(name, "p"),
    "set_parameters": lambda store, name: store.set_parameters(name, {"p": 1}),
    "get_step_log": lambda store, name: store.get_step_log("s", name),
    "add_step_log": lambda store, name: store.add_step_log(StepLog(name="s", internal_name="s"), name),
    "get_branch_log": lambda store, name: store.get_branch_log("b", name),
    "add_branch_log": lambda store, name: store.add_branch_log(BranchLog(internal_name="b"), name),
    "get_job_log": lambda store, name: store.get_job_log(name),
    "add_job_log": lambda store, name: store.add_job_log(name, store.create_job_log()),
    "iter_chunks": lambda store, name: list(store.iter_chunks(name)),
    "follow": lambda store, name: next(store.follow(name)),
    "compact": lambda store, name: store.compact(name),
    "lease": lambda store, name: store.lease(name, heartbeat=False).release(),
    "fenced": fenced,
    "delete_run_log": lambda store, name: store.delete_run_log(name),
}

WITHIN_A_RUN: dict[str, Call] = {
    "get_step_log": lambda store, name: store.get_step_log(name, "r"),
    "add_step_log": lambda store, name: store.add_step_log(StepLog(name=name, internal_name=name), "r"),
    "get_branch_log": lambda store, name: store.get_branch_log(name, "r"),
    "add_branch_log": lambda store, name: store.add_branch_log(BranchLog(internal_name=f"s.{name}"), "r"),
    "get_parameter": lambda store, name: store.get_parameter("r", name),
    "get_parameter of a branch": lambda store, name: store.get_parameter("r", name, name),
    "get_parameters of a branch": lambda store, name: store.get_parameters("r", name),
    "set_parameters": lambda store, name: store.set_parameters("r", {name: 1}),
    "set_parameters of a branch": lambda store, name: store.set_parameters("r", {name: 1}, f"s.{name}"),
    "set_run_config": lambda store, name: store.set_run_config("r", {name: name}),
    "put_run_log": lambda store, name: store.put_run_log(RunLog(run_id="r", tag=name, parameters={name: name})),
    "lease": lambda store, name: store.lease("r", name, heartbeat=False).release(),
}


def test_every_call_that_takes_a_name_is_here() -> None:
    public = {name for name in vars(ChunkedRunLogStore) if not name.startswith("_")}
    others = {
        "backend",
        "service_name",
        "service_type",
        "supports_parallel_writes",
        "get_summary",
        "close",
        "list_run_ids",
        *("iter_run_ids", "iter_run_logs", "find_runs", "reindex"),
    }
    others |= {"create_step_log", "create_branch_log", "create_job_log"}
    others |= {"create_attempt_log", "create_code_identity", "create_data_catalog"}
    assert public - others == {name.partition("(")[0] for name in OF_A_RUN}


def ask_everything(store: ChunkedRunLogStore, names: list[str]) -> int:
    """Makes every call with every name; only errors of ours are taken for an answer. Returns how many calls were made."""
    for calls in (OF_A_RUN, WITHIN_A_RUN):
        for call in calls.values():
            for name in names:
                try:
                    call(store, name)
                except (InvalidInputError, NotFoundError, RunLogExistsError):
                    continue
    assert set(store.list_run_ids()) <= {*names, "r"}
    return len(names) * (len(OF_A_RUN) + len(WITHIN_A_RUN))


def everything_in(folder: Path) -> dict[str, str]:
    """Each path with what is in it."""
    return {
        str(path): hashlib.blake2b(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }


def bait(folder: Path) -> None:
    """What a name that leads out of the prefix would find."""
    for name in ("x", "y", "..x"):
        (folder / name).mkdir()
        for file in ("run.json", "step.s.json", "job.json"):
            (folder / name / file).write_text("somebody else's")
    (folder / "run.json").write_text("somebody else's")


def test_on_a_disk_nothing_beside_the_root_is_touched(tmp_path: Path, tally: Tally) -> None:
    bait(tmp_path)
    (tmp_path / "deep").mkdir()
    bait(tmp_path / "deep")
    root = tmp_path / "deep" / "runs"
    before = everything_in(tmp_path)
    store = ChunkedRunLogStore(LocalBackend(root, durability="process"))
    store.create_run_log("r")
    number = ask_everything(store, ESCAPES)
    after = {
        path: what
        for path, what in everything_in(tmp_path).items()
        if Path(path) != root and root not in Path(path).parents
    }
    assert after == before
    for path in root.rglob("*"):
        parts = path.relative_to(root).parts
        assert len(parts) <= 2 or parts[:2] == (".locks", "leases"), parts  # the locks of leases are ours
    tally("names, calls that could leave the prefix", number)


@pytest.mark.parametrize("prefix", ["deep/runs", ""])
def test_in_a_bucket_every_key_stays_under_the_prefix(
    moto_server: S3Server, tmp_path: Path, prefix: str, tally: Tally
) -> None:
    bucket, client = moto_server.new_bucket(), moto_server.client()
    store = ChunkedRunLogStore(in_bucket(moto_server, tmp_path, bucket=bucket, prefix=prefix))
    aside = (
        ["x/run.json", "deep/x/run.json", "deep/run.json", "run.json", "etc/passwd", "deep/runsx/run.json"]
        if prefix
        else []
    )
    for key in aside:
        client.put_object(Bucket=bucket, Key=key, Body=b"somebody else's")
    store.create_run_log("r")
    number = ask_everything(store, random.Random(5).sample(ESCAPES, between(4, len(ESCAPES))))
    found: list[dict[str, Any]] = client.list_objects_v2(Bucket=bucket)["Contents"]
    for one in found:
        key = one["Key"]
        if key in aside:
            assert client.get_object(Bucket=bucket, Key=key)["Body"].read() == b"somebody else's"
            continue
        assert key.startswith(f"{prefix}/" if prefix else "")
        parts = key.removeprefix(prefix).removeprefix("/").split("/")
        assert len(parts) == 2
        assert not {".", "..", ""} & set(parts)
    assert {one["Key"] for one in found} >= set(aside)
    tally("names, calls that could leave the prefix", number)
