"""The local backend passes the suite, with each durability, and the machine."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import get_args

import pytest
from witnesses import FolderWitness

from chunkstore.backends import Backend
from chunkstore.backends.local import Durability, LocalBackend
from chunkstore.testing import BackendSuite, Witness
from chunkstore.testing.machine import backend_machine


class TestLocalBackend(BackendSuite):
    has_folders = True

    @pytest.fixture
    def root(self, tmp_path: Path) -> Path:
        return tmp_path / "runs"

    @pytest.fixture
    def backend(self, root: Path) -> Backend:
        return LocalBackend(root)

    @pytest.fixture
    def witness(self, root: Path) -> Witness:
        return FolderWitness(root)

    @pytest.fixture
    def unreachable(self, tmp_path: Path) -> Backend:
        (tmp_path / "file").write_text("a file stands where the root should be")
        return LocalBackend(tmp_path / "file")


@pytest.mark.parametrize("durability", get_args(Durability))
def test_durability_is_stated_as_it_was_set(tmp_path: Path, durability: Durability) -> None:
    assert LocalBackend(tmp_path, durability=durability).guarantees.durable is (durability == "power")


TestLocalMachine = backend_machine(
    lambda: LocalBackend(tempfile.mkdtemp(prefix="chunkstore-machine-")),
    folders=True,
    remove=lambda backend: shutil.rmtree(backend.place),
).TestCase
