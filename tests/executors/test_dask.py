"""Dask's workers write one run on MinIO: processes of their own, threads in them, stores that come by cloudpickle."""

from __future__ import annotations

import asyncio
import functools
import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import big_map
import chunkstore
from chunkstore import ChunkedRunLogStore
from servers import S3Server

pytest.importorskip("distributed", reason="dask's distributed is not installed: pip group distributed")

from distributed import Client, LocalCluster, WorkerPlugin, get_worker

BRANCHES = 2_000
WORKERS, THREADS = 2, 4


@pytest.fixture(scope="module")
def client() -> Iterator[Client]:
    options: Any = {
        "n_workers": WORKERS,
        "threads_per_worker": THREADS,
        "processes": True,
        "dashboard_address": "127.0.0.1:0",
    }
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        yield client


@pytest.fixture
def store(minio_server: S3Server) -> Iterator[ChunkedRunLogStore]:
    store = big_map.store_on(minio_server, "dask")
    big_map.begin(store)
    yield store
    store.close()


def connections_to(port: int) -> int:
    """How many connections this process has to a port."""
    ours = {str(fd.readlink()) for fd in Path("/proc/self/fd").iterdir() if fd.is_symlink()}
    lines = Path("/proc/self/net/tcp").read_text().splitlines()[1:]
    return sum(line.split()[2].endswith(f":{port:04X}") and f"socket:[{line.split()[9]}]" in ours for line in lines)


@pytest.mark.timeout(1_200)
def test_two_thousand_branches_by_all_workers_are_all_there(
    client: Client, store: ChunkedRunLogStore, minio_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    # In a closure: each task unpickles a store of its own.
    done = client.gather(
        client.map(lambda number: (os.getpid(), big_map.work(store, number)), range(BRANCHES), pure=False)
    )
    assert sorted(number for _, number in done) == list(range(BRANCHES))
    assert len(Counter(process for process, _ in done)) == WORKERS
    port = int(minio_server.endpoint_url.rpartition(":")[2])
    assert max(client.run(connections_to, port).values()) <= store.backend.concurrency
    assert big_map.found(store) == big_map.expected(BRANCHES)
    big_map.assert_verified(store, minio_server, monkeypatch, 2 + 5 * BRANCHES)


class StorePlugin(WorkerPlugin):
    """One store for each worker, opened by what stands in the worker's own environment."""

    def __init__(self, url: str, environment: dict[str, str]) -> None:
        self.url = url
        self.environment = environment

    def setup(self, worker: Any) -> None:
        os.environ.update(self.environment)
        worker.run_logs = chunkstore.open(self.url)

    def teardown(self, worker: Any) -> None:
        worker.run_logs.close()


def test_one_store_for_each_worker_by_a_plugin(
    client: Client, store: ChunkedRunLogStore, minio_server: S3Server
) -> None:
    url = store.backend.place.partition(" at ")[0]
    client.register_plugin(StorePlugin(url, minio_server.environment()), name="run logs")
    tasks = client.map(lambda number: big_map.work(get_worker().run_logs, number), range(100), pure=False)
    client.gather(tasks)
    client.unregister_worker_plugin("run logs")
    assert big_map.found(store) == big_map.expected(100)


def test_coroutines_on_the_workers_own_loop(client: Client, store: ChunkedRunLogStore) -> None:
    async def task(number: int) -> int:
        asyncio.get_running_loop()
        async with chunkstore.AsyncChunkedRunLogStore(store) as logs:
            await logs.set_run_config(big_map.RUN, {f"coroutine {number}": "was here"})
        store.set_run_config(big_map.RUN, {f"blocking {number}": "was here"})
        return number

    client.gather(client.map(task, range(20), pure=False))
    names = {f"{kind} {number}" for kind in ("coroutine", "blocking") for number in range(20)}
    assert set(store.get_run_config(big_map.RUN)) == names


def test_a_worker_killed_in_the_middle_of_a_map_loses_and_doubles_nothing(
    client: Client, store: ChunkedRunLogStore, tmp_path: Path
) -> None:
    tasks, deadly = 80, 50
    work = functools.partial(big_map.attempt, store, tmp_path, deadly=deadly)
    client.gather(client.map(work, range(tasks), pure=False))
    big_map.assert_attempts(store, tmp_path, tasks, deadly)
