"""The store's API, line by line as it is promised, by its twins: on the loop, and in threads."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest
import test_api

from chunkstore import ChunkedRunLogStore
from places import again, place
from twins import Awaited, ByTwins

run = test_api.run


@pytest.fixture(params=["on the loop", "in threads"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> ChunkedRunLogStore:
    if request.param == "in threads":
        backend = place("local", request, tmp_path)
    else:
        pytest.importorskip("greenlet")
        backend = Awaited()
    return cast(ChunkedRunLogStore, ByTwins(ChunkedRunLogStore(backend)))


@pytest.fixture
def other(store: ChunkedRunLogStore) -> ChunkedRunLogStore:
    return cast(ChunkedRunLogStore, ByTwins(again(store)))


class TestRunsByTwins(test_api.TestRuns):
    pass


class TestHeaderByTwins(test_api.TestHeader):
    pass


class TestParametersByTwins(test_api.TestParameters):
    pass


class TestStepsByTwins(test_api.TestSteps):
    pass


class TestDotPathsByTwins(test_api.TestDotPaths):
    pass


class TestNewerVersionsByTwins(test_api.TestNewerVersions):
    pass


class TestTheStoreItselfByTwins(test_api.TestTheStoreItself):
    pass
