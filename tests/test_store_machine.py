"""Several stores on one backend are like one nested dict: in memory, on a disk, and in a database."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

import pytest

from chunkstore.backends.local import LocalBackend
from chunkstore.backends.memory import MemoryBackend
from chunkstore.testing.store_machine import store_machine
from places import in_file, remove_file

NAMES = (f"machine-{number}" for number in itertools.count())

TestStoresInMemory = store_machine(lambda: MemoryBackend(next(NAMES))).TestCase

TestStoresOnDisk = store_machine(
    lambda: LocalBackend(tempfile.mkdtemp(prefix="chunkstore-machine-")),
    remove=lambda backend: shutil.rmtree(backend.place),
    examples=20,
).TestCase

TestStoresInAnSqliteFile = pytest.mark.skipif(find_spec("sqlalchemy") is None, reason="SQLAlchemy is not installed")(
    store_machine(
        lambda: in_file(Path(tempfile.mkdtemp(prefix="chunkstore-machine-"))), remove=remove_file, examples=3
    ).TestCase
)
