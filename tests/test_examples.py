"""The examples run, and print what their last lines say."""

import functools
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from chunkstore.backends import Blob
from chunkstore.testing import BackendSuite

EXAMPLES = Path(__file__).parent.parent / "examples"


def needing(package: str, example: str) -> Any:
    """An example that skips where its package is missing; `tox -e distributed` has them all."""
    missing = importlib.util.find_spec(package) is None
    return pytest.param(example, marks=pytest.mark.skipif(missing, reason=f"{package} is not installed"))


PLAIN = [
    *("02_library.py", "03_many_processes.py", "04_own_backend.py", "05_async.py", "06_one_executor.py"),
    needing("distributed", "07_dask.py"),
    needing("ray", "08_ray.py"),
]


def expected(example: Path) -> list[str]:
    lines = example.read_text().rstrip().splitlines()
    start = len(lines) - next(n for n, line in enumerate(reversed(lines)) if not line.startswith("# "))
    return [line.removeprefix("# ") for line in lines[start:]]


@functools.cache
def ran(name: str) -> tuple[subprocess.CompletedProcess[str], list[Path]]:
    """An example after its one run for all tests, and what it left where it ran."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, EXAMPLES / name]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
        return done, list(Path(folder).iterdir())


@pytest.mark.parametrize("name", PLAIN)
def test_an_example_prints_what_its_last_lines_say(name: str) -> None:
    done, _ = ran(name)
    assert done.stderr == ""
    assert done.stdout.splitlines() == expected(EXAMPLES / name)


@pytest.mark.parametrize("name", PLAIN)
def test_an_example_leaves_nothing_where_it_runs(name: str) -> None:
    done, left = ran(name)
    assert done.returncode == 0
    assert left == []


def own_backend() -> Any:
    spec = importlib.util.spec_from_file_location("own_backend", EXAMPLES / "04_own_backend.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["own_backend"] = module  # where pickle looks for its class
    spec.loader.exec_module(module)
    return module.DictBackend()


class Witness:
    """The example's dict, seen without its verbs."""

    def __init__(self, backend: Any) -> None:
        self.backend = backend

    def get(self, key: str) -> bytes | None:
        blob = self.backend.objects.get(key)
        return None if blob is None else blob.data

    def put(self, key: str, data: bytes) -> None:
        self.backend.objects[key] = Blob(data, f"foreign {len(self.backend.objects)} {hash(data)}")

    def keys(self) -> set[str]:
        return set(self.backend.objects)


class TestTheExampleOfAnOwnBackend(BackendSuite):
    @pytest.fixture
    def backend(self) -> Any:
        return own_backend()

    @pytest.fixture
    def witness(self, backend: Any) -> Witness:
        return Witness(backend)
