"""The memory backend passes the suite and the machine."""

from __future__ import annotations

import itertools

import pytest
from witnesses import MemoryWitness

from chunkstore.backends import Backend
from chunkstore.backends.memory import MemoryBackend
from chunkstore.testing import BackendSuite, Witness
from chunkstore.testing.machine import backend_machine

NAMES = (f"suite-{number}" for number in itertools.count())


class TestMemoryBackend(BackendSuite):
    @pytest.fixture
    def backend(self) -> Backend:
        return MemoryBackend(next(NAMES))

    @pytest.fixture
    def witness(self, backend: MemoryBackend) -> Witness:
        return MemoryWitness(backend.name)


TestMemoryMachine = backend_machine(lambda: MemoryBackend(next(NAMES))).TestCase
