"""Every exit code, by an error that really happens."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

import chunkstore
from chunkstore import errors
from chunkstore.cli.exits import CODES, Code, code_of
from commands import run, run_process


def test_0_is_for_what_went_well(nightly: chunkstore.ChunkedRunLogStore) -> None:
    assert run("ls", "-s", nightly.backend.place).code == 0


def test_2_is_for_words_that_are_no_command() -> None:
    assert run("lx").code == 2


def test_2_is_for_options_that_there_are_not() -> None:
    assert run("ls", "--colour").code == 2


def test_2_is_for_a_place_that_cannot_be_one() -> None:
    result = run("ls", "-s", "ftp://example/runs")
    assert result.code == 2
    assert "no store for ftp:// URLs" in result.err


def test_2_is_for_no_store_at_all_and_the_message_says_how_to_give_one() -> None:
    result = run("ls")
    assert result.code == 2
    assert all(word in result.err for word in ("--store", "CHUNKSTORE_URL", "chunkstore.toml", "chunkstore demo"))


def test_2_is_for_nothing_but_the_name_which_shows_the_help() -> None:
    result = run()
    assert result.code == 2
    assert "Usage: chunkstore" in result.out + result.err


def test_3_is_for_a_folder_that_is_not_there(tmp_path: Path) -> None:
    result = run("ls", "-s", tmp_path / "rnus")
    assert result.code == 3
    assert f"there is no folder {tmp_path / 'rnus'}" in result.err
    assert not (tmp_path / "rnus").exists()


def test_4_is_for_what_exists_already(nightly: chunkstore.ChunkedRunLogStore) -> None:
    result = run("demo", "-s", nightly.backend.place)
    assert result.code == 4
    assert "'nightly-1' exists" in result.err


def test_5_is_for_a_server_that_is_not_there(tmp_path: Path) -> None:
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    (tmp_path / "c.toml").write_text(
        '[stores.gone]\nurl = "s3://bucket"\nendpoint_url = "http://127.0.0.1:1"\ntimeout_seconds = 1\n'
        'key = "some"\nsecret = "SeCrEt"\nregion = "us-east-1"\n'
    )
    result = run("ls", "-s", "gone", "--config", tmp_path / "c.toml")
    assert result.code == 5
    assert "s3://bucket" in result.err
    assert "SeCrEt" not in result.err


def test_5_is_for_a_place_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert run("demo", "-s", tmp_path / "file" / "runs").code == 5


def test_70_is_for_a_fault_of_ours_and_not_1(
    nightly: chunkstore.ChunkedRunLogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chunkstore.ChunkedRunLogStore, "find_runs", None)
    result = run("ls", "-s", nightly.backend.place)
    assert result.code == 70
    assert "Traceback" in result.err


@pytest.mark.parametrize("words", [["ls"], ["cat", "nightly-1", "run"]])
def test_141_is_for_a_pipe_whose_reader_went_away(nightly: chunkstore.ChunkedRunLogStore, words: list[str]) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [sys.executable, "-m", "chunkstore", *words, "-s", nightly.backend.place]
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (141, "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="this system has no disk that is always full")
def test_5_is_for_an_output_that_cannot_be_written(nightly: chunkstore.ChunkedRunLogStore) -> None:
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        command = [sys.executable, "-m", "chunkstore", "ls", "-s", nightly.backend.place]
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 5
    assert done.stderr.startswith("error: the output: No space left on device")


def test_every_error_has_a_code_of_its_own() -> None:
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.ChunkStoreError)
    ]
    assert {kind for kind in kinds if code_of(kind("")) is Code.BROKEN} == {errors.ChunkStoreError}
    assert {code_of(kind("")) for kind in kinds} >= {1, 2, 3, 4, 5}
    assert set(CODES.values()) == {1, 2, 3, 4, 5}


def test_a_process_of_its_own_ends_with_the_same_codes(nightly: chunkstore.ChunkedRunLogStore) -> None:
    result = run_process("ls", env={"CHUNKSTORE_URL": nightly.backend.place})
    assert (result.code, result.err) == (0, "")
    assert "nightly-2" in result.out
    assert run_process("ls", env={"CHUNKSTORE_URL": "nowhere"}).code == 3
