"""`chunkstore watch`: a run is seen as another process writes it, until its end, and the exit code says how it ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

import chunkstore
from chunkstore import ChunkedRunLogStore
from chunkstore.backends import Backend
from chunkstore.backends.local import LocalBackend
from commands import damage, run
from places import again, finish, in_bucket, start

QUICK = ("--every", "0.02")


def write(store: ChunkedRunLogStore, status: str, steps: int = 3) -> None:
    """A run as a pipeline writes it, from its creation to its end."""
    store.create_run_log("r", status="PROCESSING")
    for number in range(steps):
        step = store.create_step_log(f"s{number}", f"s{number}")
        step.status = "PROCESSING"
        store.add_step_log(step, "r")
        step.status = status if number == steps - 1 else "SUCCESS"
        step.message = "" if step.status == "SUCCESS" else "[red]no room\nat all"
        store.add_step_log(step, "r")
        store.set_parameters("r", {f"p{number}": float("nan")})
    store.update_run_log_status("r", status)


@pytest.fixture
def watching() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts the command in a process of its own; ends it where the test did not."""
    started = []

    def begin(*arguments: str, **environment: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", "chunkstore", "watch", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def in_toml(backend: Backend, server: Any) -> None:
    """The configuration by which the command finds a store that a test has opened."""
    url = backend.place.partition(" at ")[0]
    settings = {"endpoint_url": server.endpoint_url, "key": server.key, "secret": server.secret} if server else {}
    lines = [f'{name} = "{value}"' for name, value in {"url": url, **settings}.items()]
    Path("chunkstore.toml").write_text("\n".join(['store = "it"', "[stores.it]", *lines, ""]))


@pytest.fixture(scope="session", params=["local", "minio"])
def server(request: pytest.FixtureRequest) -> Any:
    """A server, or None for local disk. Of the session: it is started before a test's home folder is an empty one."""
    return None if request.param == "local" else request.getfixturevalue(f"{request.param}_server")


@pytest.mark.parametrize(("status", "code"), [("SUCCESS", 0), ("FAIL", 1)])
def test_who_watches_sees_a_run_that_another_process_writes_and_how_it_ends(
    server: Any, status: str, code: int, tmp_path: Path
) -> None:
    backend: Backend = in_bucket(server, tmp_path) if server else LocalBackend(tmp_path / "runs")
    in_toml(backend, server)
    writer = start(write, (ChunkedRunLogStore(backend), status))
    result = run("watch", "--wait", "r", *QUICK)
    finish([writer])
    assert result.code == code, result.err
    assert result.err == f"run 'r' ended: {status}\n"
    changes = [line.split(maxsplit=3)[1:] for line in result.lines]
    assert ["new", "run", "PROCESSING"] in changes or changes[0] == ["new", "run", status]
    last = {change[2].split()[0]: change[2] for change in changes if change[1] == "step"}
    assert {name: told.split()[1] for name, told in last.items()} == {"s0": "SUCCESS", "s1": "SUCCESS", "s2": status}
    assert status == "SUCCESS" or last["s2"].endswith("[red]no room")
    assert {change[2] for change in changes if change[1] == "parameter"} == {f"p{number} = nan" for number in range(3)}


def test_with_json_each_change_is_a_line_of_its_own(tmp_path: Path) -> None:
    store = chunkstore.open(tmp_path / "runs")
    write(store, "FAIL")
    result = run("watch", "r", "-s", store.backend.place, "--json", *QUICK)
    assert result.code == 1
    documents = [json.loads(line) for line in result.lines]
    assert {document["schema"] for document in documents} == {"chunkstore/watch/1"}
    header = next(document for document in documents if document["kind"] == "run")
    assert (header["sort"], header["status"], header["value"]["run_id"]) == ("new", "FAIL", "r")
    assert "steps" not in header["value"]
    step = next(document for document in documents if document["name"] == "s2")
    assert (step["kind"], step["status"], step["value"]["message"]) == ("step", "FAIL", "[red]no room\nat all")
    assert {document["value"] for document in documents if document["kind"] == "parameter"} == {"NaN"}


def test_lines_come_as_the_changes_come_and_ctrl_c_ends_it_cleanly(
    tmp_path: Path, watching: Callable[..., subprocess.Popen[str]]
) -> None:
    store = chunkstore.open(tmp_path / "runs")
    store.create_run_log("r", status="PROCESSING")
    process = watching("r", "-s", store.backend.place, *QUICK)
    assert process.stdout is not None
    assert process.stdout.readline().split()[1:] == ["new", "run", "PROCESSING"]
    store.set_parameters("r", {"p": 1})
    assert process.stdout.readline().split()[1:] == ["new", "parameter", "p", "=", "1"]
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (130, "")
    assert "Traceback" not in err


def test_a_run_that_is_deleted_meanwhile_is_exit_code_3(
    tmp_path: Path, watching: Callable[..., subprocess.Popen[str]]
) -> None:
    store = chunkstore.open(tmp_path / "runs")
    store.create_run_log("r", status="PROCESSING")
    process = watching("r", "-s", store.backend.place, *QUICK)
    assert process.stdout is not None
    process.stdout.readline()
    store.delete_run_log("r")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 3
    assert err.startswith("error: run 'r'")


def test_on_a_terminal_a_chart_is_shown_and_the_last_one_stays(nightly: ChunkedRunLogStore) -> None:
    result = run("watch", "nightly-2", "-s", nightly.backend.place, *QUICK, terminal=True, width=90)
    assert result.code == 1
    last = result.out[result.out.rindex("nightly-2 in") :].splitlines()
    assert last[1] == "8 steps: 6 SUCCESS, 2 FAIL"
    assert any(line.split()[:2] == ["fit", "FAIL"] for line in last)
    assert len(last) <= 24


def test_names_cannot_command_the_terminal(empty: ChunkedRunLogStore) -> None:
    evil = "[red]a\x1b[2J\nb\u202e"
    empty.create_run_log("r", status="FAIL")
    step = empty.create_step_log(evil, evil)
    step.status, step.message = "FAIL", evil
    empty.add_step_log(step, "r")
    empty.set_parameters("r", {evil: evil})
    plain = run("watch", "r", "-s", empty.backend.place, *QUICK)
    assert "\x1b" not in plain.out
    assert len(plain.lines) == 3
    shown = run("watch", "r", "-s", empty.backend.place, *QUICK, terminal=True)
    assert "\x1b[2J" not in shown.out
    assert "\u202e" not in shown.out


def test_damage_is_told_and_does_not_end_the_watching(nightly: ChunkedRunLogStore) -> None:
    damage(nightly, "nightly-1/step.load.json")
    result = run("watch", "nightly-1", "-s", nightly.backend.place, *QUICK)
    assert result.code == 0
    assert any(line.split()[1:4] == ["damaged", "step", "load"] for line in result.lines)
    assert "load.json" in run("watch", "nightly-1", "-s", nightly.backend.place, *QUICK, terminal=True).out


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["nothing"], 3, "nothing"),
        (["--wait", "nothing", "--timeout", "0.1"], 124, "'nothing' was not there within 0.1 s"),
        (["nightly-3", "--timeout", "0"], 124, "'nightly-3' has not ended within 0 s"),
        (["--wait", "last"], 2, "cannot be waited for"),
        (["--wait", "../x"], 2, "'../x'"),
        (["nightly-1", "--every", "0"], 2, "poll_seconds"),
        (["nightly-1", "--timeout", "-1"], 2, "timeout"),
    ],
)
def test_what_cannot_be_watched_is_said(
    nightly: ChunkedRunLogStore, arguments: list[str], code: int, said: str
) -> None:
    result = run("watch", "-s", nightly.backend.place, "--every", "0.02", *arguments)
    assert result.code == code
    assert said in result.err


def test_who_waits_waits_for_that_very_id_and_for_its_folder_too(tmp_path: Path) -> None:
    store = chunkstore.open(tmp_path / "runs")
    writer = start(write, (again(store), "SUCCESS"))
    assert run("watch", "--wait", "id:r", "-s", tmp_path / "runs", *QUICK).code == 0
    finish([writer])
    assert run("watch", "--wait", "-s", tmp_path / "nowhere", "r", "--timeout", "0.05", *QUICK).code == 124
    store.create_run_log("longer")
    assert run("watch", "--wait", "long", "-s", tmp_path / "runs", "--timeout", "0.05", *QUICK).code == 124
