"""Several stores on one backend are like one nested dict: in memory, and on a disk."""

from __future__ import annotations

import itertools
import shutil
import tempfile

from chunkstore.backends.local import LocalBackend
from chunkstore.backends.memory import MemoryBackend
from chunkstore.testing.store_machine import store_machine

NAMES = (f"machine-{number}" for number in itertools.count())

TestStoresInMemory = store_machine(lambda: MemoryBackend(next(NAMES))).TestCase

TestStoresOnDisk = store_machine(
    lambda: LocalBackend(tempfile.mkdtemp(prefix="chunkstore-machine-")),
    remove=lambda backend: shutil.rmtree(backend.place),
    examples=20,
).TestCase
