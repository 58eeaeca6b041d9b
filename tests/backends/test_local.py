"""The local backend passes the suite, with each durability, and the machine."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import get_args

import pytest
from witnesses import FolderWitness

from chunkstore.backends import FOUND, Backend, unchanged
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


def test_no_two_writes_ever_have_the_same_version(tmp_path: Path) -> None:
    """Nor within one tick of the kernel's clock, where a freed inode is used again."""
    backend = LocalBackend(tmp_path, durability="process")
    versions = [backend.put("r/run.json", b"0000", FOUND)]
    for number in range(2_000):
        versions.append(backend.put("r/run.json", f"{number:04}".encode(), unchanged(versions[-1])))
    assert len(set(versions)) == len(versions)


def test_a_file_has_the_time_that_we_set_and_not_that_of_the_kernel(tmp_path: Path) -> None:
    """Whose steps may be milliseconds; ours are of 100 ns, and never whole microseconds."""
    backend = LocalBackend(tmp_path, durability="process")
    version, times = backend.put("r/run.json", b"0", FOUND), []
    for number in range(20):
        version = backend.put("r/run.json", f"{number}".encode(), unchanged(version))
        times.append((tmp_path / "r" / "run.json").stat().st_mtime_ns)
    assert all(time % 100 == 0 and time % 1000 != 0 for time in times)
