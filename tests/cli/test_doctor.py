"""`chunkstore doctor`: what a place does, and what follows."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

from chunkstore import ChunkedRunLogStore
from commands import run
from servers import free_port


def test_a_disk_is_shown_as_a_matrix_with_what_follows(nightly: ChunkedRunLogStore) -> None:
    done = run("doctor", nightly.backend.place)
    assert (done.code, done.err) == (0, "")
    assert done.lines[0] == nightly.backend.place
    assert any("conditional create" in line and "yes" in line for line in done.lines)
    assert "So any number of processes of one host may write here at once." in done.lines


def test_the_store_may_be_an_option_and_need_not_be_there_yet(tmp_path: Path) -> None:
    done = run("doctor", "-s", tmp_path / "new", "--json")
    assert (done.code, done.document["schema"], done.document["writers"]) == (0, "chunkstore/doctor/1", "one host")
    assert not (tmp_path / "new").exists()


def test_a_store_where_nobody_answers_is_unreachable_and_no_secret_is_shown(tmp_path: Path) -> None:
    pytest.importorskip("s3fs")
    (tmp_path / "c.toml").write_text(
        f'[stores.far]\nurl = "s3://bucket/runs"\nendpoint_url = "http://127.0.0.1:{free_port()}"\n'
        'key = "thekey"\nsecret = "verysecret"\nregion = "us-east-1"\ntimeout_seconds = 8\n'
    )
    done = run("doctor", "far", "--config", tmp_path / "c.toml")
    assert done.code == 5
    assert "verysecret" not in done.out + done.err
    assert "thekey" not in done.out + done.err
