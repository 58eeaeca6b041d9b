"""A twin makes the requests of its call, and no other: the same table, on a counting backend and on MinIO's wire."""

from __future__ import annotations

import itertools
from collections import Counter
from typing import cast

import pytest
from test_requests import _VERBS, TABLE, Counted, Row, Scene, check_cost, proxy, wire

from chunkstore import ChunkedRunLogStore
from twins import Awaited, ByTwins

pytest.importorskip("greenlet")

__all__ = ["proxy", "wire"]  # fixtures


_RUNS = itertools.count(1)


def in_memory() -> Counted:
    counting = Awaited()

    def asked() -> Counter[str]:
        return Counter(_VERBS.get(request.verb, request.verb) for request in counting.log)

    return Counted(counting, asked, counting.reset)


@pytest.fixture(params=["memory", "minio"])
def counted(request: pytest.FixtureRequest) -> Counted:
    return in_memory() if request.param == "memory" else request.getfixturevalue("wire")


@pytest.fixture
def scene(counted: Counted) -> Scene:
    run = f"run of twins {next(_RUNS)}"
    store, other = (cast(ChunkedRunLogStore, ByTwins(ChunkedRunLogStore(counted.backend))) for _ in range(2))
    store.create_run_log(run)
    return Scene(run, store, other)


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.method}: {row.when}")
def test_each_twin_costs_what_its_call_costs(row: Row, scene: Scene, counted: Counted) -> None:
    check_cost(row, scene, counted)
