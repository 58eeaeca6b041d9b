"""Which store is meant: the option, the environment, the files; and what is wrong with a file is said by file, key and nearest key."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

import chunkstore
from chunkstore.cli.configuration import find_files, place_of, read
from chunkstore.cli.opening import open_store_of, place_meant
from chunkstore.errors import InvalidInputError, NotFoundError
from commands import run

SECRET = "wJalr+XUtnFEMI=K7MDENG"


def write(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def problem(tmp_path: Path, text: str) -> str:
    path = write(tmp_path / "some.toml", text)
    with pytest.raises(InvalidInputError) as refused:
        read(path)
    assert str(refused.value).startswith(str(path))
    assert SECRET not in str(refused.value)
    assert refused.value.__context__ is None
    return str(refused.value).removeprefix(f"{path}: ")


def test_the_option_wins_over_the_environment_and_that_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write(Path("chunkstore.toml"), 'store = "by-file"')
    assert place_meant("", None)[0].url == str(Path("by-file").absolute())
    monkeypatch.setenv("CHUNKSTORE_URL", "by-environment")
    assert place_meant("by-environment", None)[0].source == "CHUNKSTORE_URL"
    assert place_meant("by-option", None)[0].source == "--store"


def test_a_name_stands_for_its_url_and_settings() -> None:
    write(Path("chunkstore.toml"), 'store = "prod"\n[stores.prod]\nurl = "runs"\nretention_days = 7\n')
    for given in ("prod", ""):
        with open_store_of(given, None, new=True) as store:
            assert store.backend.place == str(Path("runs").absolute())
            assert store.settings.retention_days == 7


def test_the_nearest_file_upwards_counts_and_its_paths_start_at_its_own_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "chunkstore.toml", 'store = "../far"')
    near = write(
        tmp_path / "work" / "chunkstore.toml", 'store = "runs"\n[stores.locks]\nurl = "s3://b"\nlock_folder = "locks"'
    )
    folder = tmp_path / "work" / "a" / "b"
    folder.mkdir(parents=True)
    monkeypatch.chdir(folder)
    assert place_meant("", None)[0].url == str(near.parent / "runs")
    assert place_meant("locks", None)[0].settings == {"lock_folder": str(near.parent / "locks")}


def test_the_users_own_file_counts_behind_the_project_s(tmp_path: Path) -> None:
    own = write(
        tmp_path / "home/.config/chunkstore/config.toml",
        'store = "/mine"\n[stores.both]\nurl = "/mine"\n[stores.own]\nurl = "/own"\n',
    )
    assert place_meant("", None)[0].url == "/mine"
    near = write(Path("chunkstore.toml"), 'store = "/near"\n[stores.both]\nurl = "/near"\n').absolute()
    assert find_files(None) == (near, own)
    assert [place_meant(store, None)[0].url for store in ("", "both", "own")] == ["/near", "/near", "/own"]


def test_a_file_that_is_given_counts_alone_and_must_be_there(tmp_path: Path) -> None:
    write(Path("chunkstore.toml"), 'store = "/near"')
    other = write(tmp_path / "other.toml", 'store = "/other"')
    assert place_meant("", other)[0].url == "/other"
    with pytest.raises(NotFoundError, match="there is no configuration file"):
        place_meant("", tmp_path / "missing.toml")


def test_a_url_a_path_and_a_home_are_no_names() -> None:
    files = (read(write(Path("c.toml"), '[stores.prod]\nurl = "/runs"\n')),)
    assert [place_of(given, files).url for given in ("./prod", "s3://prod", "~/prod")] == [
        "./prod",
        "s3://prod",
        "~/prod",
    ]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("stroe = 'x'", "stroe: there is no such key; did you mean 'store'?"),
        ("store = 1", "store: it must be text"),
        ("stores = 1", "stores: it must be tables"),
        ("[stores]\nprod = 's3://b'", "stores.prod: it must be a table"),
        ("[stores.prod]\nurl = 'x'\nendpoint = 'y'", "stores.prod.endpoint: there is no setting 'endpoint'; did you mean 'endpoint_url'?"),
        ("[stores.prod]\nkey = 'y'", "stores.prod.url: it is missing"),
        ("[stores.prod]\nurl = ''", "stores.prod.url: it is missing"),
        ("[stores.prod]\nurl = 'x'\ntimeout_seconds = 'soon'", "timeout_seconds: "),
        (f"[stores.prod]\nurl = 's3://b'\nsecret = ['{SECRET}']", "secret: "),
        (f"[stores.prod]\nurl = 'x'\nsecret = '{SECRET}'", "stores.prod.secret: 'secret' is a setting of s3://"),
        (f"[stores.prod]\nurl = 's3://me:{SECRET}@b/p'", "credentials do not belong into the URL"),
        (f"[stores.prod]\nurl = 's3://b'\nendpoint_url = 'http://me:{SECRET}@host'", "credentials do not belong into the URL"),
        (f"[stores.prod]\nsecret = '{SECRET}\n", "is no TOML"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_said_by_file_and_key_and_never_by_a_secret(
    tmp_path: Path, text: str, expected: str
) -> None:
    assert expected in problem(tmp_path, text)


def test_a_file_that_is_no_utf_8_is_refused_without_its_text(tmp_path: Path) -> None:
    (tmp_path / "c.toml").write_bytes(b"secret = '\xff'")
    with pytest.raises(InvalidInputError, match="no UTF-8") as refused:
        read(tmp_path / "c.toml")
    assert refused.value.__context__ is None


def test_a_misspelt_name_is_answered_with_the_nearest() -> None:
    write(Path("chunkstore.toml"), '[stores.production]\nurl = "runs"\n')
    result = run("ls", "-s", "prodction")
    assert result.code == 3
    assert "did you mean 'production'?" in result.err


def test_the_store_is_closed_also_where_the_command_fails(
    nightly: chunkstore.ChunkedRunLogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed: list[str] = []
    monkeypatch.setattr(chunkstore.ChunkedRunLogStore, "close", lambda store: closed.append(store.backend.place))
    with pytest.raises(RuntimeError), open_store_of(nightly.backend.place):
        raise RuntimeError
    assert closed == [nightly.backend.place]
