"""The commands that look at runs and keep them, on a real S3 server: the same as on local disk."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

from commands import run
from servers import S3Server


def test_every_command_says_the_same_of_a_bucket(minio_server: S3Server) -> None:
    Path("chunkstore.toml").write_text(
        f'[stores.far]\nurl = "s3://{minio_server.new_bucket()}/runs"\nendpoint_url = "{minio_server.endpoint_url}"\n'
        f'key = "{minio_server.key}"\nsecret = "{minio_server.secret}"\nregion = "{minio_server.region}"\n'
        '[stores.near]\nurl = "near"\n'
    )
    near, far = "near", "far"
    assert run("ls", "-s", far).err.startswith("no run in s3://")
    for store in (near, far):
        assert run("demo", "-s", store).code == 0
        assert run("reindex", "-s", store, "--json").document["runs"] == 2
        assert run("compact", "nightly-1", "-s", store).code == 0
    for words in (
        ["ls", "--fields", "run,status,tag,duration"],
        ["ls", "--param", "learning_rate=0.2", "--fields", "run"],
        ["params", "last:failed"],
        ["metrics", "nightly-1"],
        ["show", "nope"],
    ):
        here, there = run(*words, "-s", near), run(*words, "-s", far)
        assert (here.code, here.out) == (there.code, there.out)
    shown = [run("show", "nightly-2", "-s", store).out.splitlines() for store in (near, far)]
    assert [line for line in shown[0] if "created" not in line] == [line for line in shown[1] if "created" not in line]
    assert run("cat", "nightly-1", "step", "load", "-s", far, "--json").document["chunk"]["body"]["name"] == "load"
