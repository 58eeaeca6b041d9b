"""Stores that commands are tried on, and an environment that says nothing of its own about them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

import chunkstore
from chunkstore.demonstration import write_demo


@pytest.fixture(autouse=True)
def _no_configuration_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A person with a home and a working folder that are empty."""
    for name in [name for name in os.environ if name in ("CHUNKSTORE_URL", "CHUNKSTORE_CONFIG")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    monkeypatch.setenv("TZ", "UTC")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def nightly(tmp_path: Path) -> Iterator[chunkstore.ChunkedRunLogStore]:
    """The demo's three runs on local disk: `nightly-1` SUCCESS, `nightly-2` FAIL, `nightly-3` PROCESSING; all tagged `nightly`.

    With a parallel step `check`, a map step `train` over the regions eu, us and asia.south, parameters, metrics, data, attempts
    and the message of one that failed. Its folder is `nightly.backend.place`, in the working folder's parent.
    """
    store = chunkstore.open(tmp_path / "runs")
    write_demo(store)
    yield store
    store.close()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[chunkstore.ChunkedRunLogStore]:
    """A store without runs on local disk, whose folder is there."""
    (tmp_path / "empty").mkdir()
    store = chunkstore.open(tmp_path / "empty")
    yield store
    store.close()
