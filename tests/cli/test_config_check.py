"""What `config check` says, and never says."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

from commands import run

SECRET = "wJalr+XUtnFEMI=K7MDENG"
FILE = f"""\
store = "prod"
[stores.prod]
url = "s3://bucket/runs"
key = "AKIA{SECRET}"
secret = "{SECRET}"
timeout_seconds = 5
[stores.here]
url = "runs"
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "work" / "chunkstore.toml"
    path.write_text(FILE)
    path.chmod(0o600)
    return path


def test_it_says_which_place_is_meant_where_settings_come_from_and_no_secret(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    monkeypatch.setenv("AWS_SESSION_TOKEN", SECRET)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    result = run("config", "check")
    assert result.code == 0
    assert f"meant is 'prod', s3://bucket/runs (from {file})" in result.out
    rows = {line.split()[0]: line.split()[1:] for line in result.lines if line}
    assert rows["timeout_seconds"] == ["5.0", str(file)]
    assert rows["retention_days"] == ["90", "default"]
    assert rows["secret"] == ["**********", str(file)]
    assert rows["token"] == ["**********", "AWS_SESSION_TOKEN"]
    assert rows["region"] == ["eu-west-1", "AWS_REGION"]
    document = run("config", "check", "--json").out
    assert SECRET not in result.out + result.err + document
    assert json.loads(document)["name"] == "prod"


def test_another_store_may_be_asked_about_and_another_file(file: Path, tmp_path: Path) -> None:
    assert f"meant is 'here', {file.parent / 'runs'} (from --store)" in run("config", "check", "-s", "here").out
    other = tmp_path / "other.toml"
    other.write_text('[stores.x]\nurl = "x"\n')
    result = run("config", "check", other)
    assert result.lines[0] == f"file  {other}"
    assert "no store is meant" in result.err


def test_a_secret_that_others_can_read_is_warned_of(file: Path) -> None:
    assert run("config", "check", "-s", "here").err == ""
    file.chmod(0o644)
    assert "stores.prod.key, stores.prod.secret: chmod 600" in run("config", "check", "-s", "here").err


@pytest.mark.parametrize("url", [f"postgresql://me:{SECRET}@h/d", f"postgresql://me@h/d?password={SECRET}"])
def test_a_password_in_the_url_of_a_database_is_not_shown_and_is_warned_of(file: Path, url: str) -> None:
    file.write_text(f'[stores.db]\nurl = "{url}"\n')
    file.chmod(0o644)
    for arguments in ((), ("--json",)):
        result = run("config", "check", *arguments)
        assert result.code == 0
        assert "db" in result.out
        assert SECRET not in result.out + result.err
    assert "holds stores.db.url: chmod 600" in run("config", "check").err


@pytest.mark.parametrize(
    "written",
    [
        'url = "postgresql://me:${PASSWORD}@h/d"',
        'url = "postgresql://me@h/d"\npassword = "${PASSWORD}"',
        'url = "postgresql://me@h:5432/d"',
    ],
)
def test_a_file_without_a_secret_of_its_own_may_be_read_by_others(file: Path, written: str) -> None:
    file.write_text(f"[stores.db]\n{written}\n")
    file.chmod(0o644)
    assert "chmod" not in run("config", "check").err


def test_what_is_wrong_is_an_error_with_file_and_key(file: Path) -> None:
    file.write_text(FILE.replace("timeout_seconds", "timeout"))
    result = run("config", "check")
    assert result.code == 2
    assert f"{file}: stores.prod.timeout: there is no setting 'timeout'; did you mean 'timeout_seconds'?" in result.err
    assert SECRET not in result.err


def test_without_any_file_that_is_said() -> None:
    result = run("config", "check")
    assert (result.code, result.out) == (0, "")
    assert "there is no configuration file" in result.err
