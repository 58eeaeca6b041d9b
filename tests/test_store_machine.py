"""Several stores on one backend are like one nested dict: in memory, on a disk, and in a database."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from importlib.util import find_spec
from pathlib import Path

from chunkstore.backends.local import LocalBackend
from chunkstore.backends.memory import MemoryBackend
from chunkstore.testing.store_machine import store_machine
from places import in_file

NAMES = (f"machine-{number}" for number in itertools.count())

TestStoresInMemory = store_machine(lambda: MemoryBackend(next(NAMES))).TestCase

TestStoresOnDisk = store_machine(
    lambda: LocalBackend(tempfile.mkdtemp(prefix="chunkstore-machine-")),
    remove=lambda backend: shutil.rmtree(backend.place),
    examples=20,
).TestCase

if find_spec("sqlalchemy") is not None:
    TestStoresInADatabase = store_machine(
        lambda: in_file(Path(tempfile.mkdtemp(prefix="chunkstore-machine-"))),
        remove=lambda backend: (backend.close(), shutil.rmtree(Path(backend.place.removeprefix("sqlite:///")).parent)),
        examples=8,
    ).TestCase
