"""Ray's workers write one run on MinIO: tasks, actors with threads, actors with an event loop, and a worker that dies."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import big_map
import chunkstore
from chunkstore import ChunkedRunLogStore
from places import between
from servers import S3Server

pytest.importorskip("ray", reason="Ray is not installed: group distributed, where it has wheels")

import ray

BRANCHES = between(400, 2_000)
WORKERS = 2


def processes_of(folder: Path) -> list[int]:
    """The processes on whose command line the folder of this cluster stands, or whose parent's is."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                said = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
            except OSError:
                continue
            if str(folder).encode() in said and int(process.name) != os.getpid():
                found.append(int(process.name))
    return found


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    # Not in pytest's own folder: the names of its sockets would be too long.
    folder = Path(tempfile.mkdtemp(prefix="ray-test-"))
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_USAGE_STATS_ENABLED", "0")
        environment.setenv("RAY_AUTH_MODE", "disabled")  # or it writes a token into the home folder
        environment.setenv("PYTHONPATH", os.pathsep.join(sys.path))  # its workers are programs of their own
        options: Any = {"include_dashboard": False, "log_to_driver": False, "logging_level": "ERROR"}
        options |= {"_temp_dir": str(folder), "_node_ip_address": "127.0.0.1"}
        ray.init(num_cpus=WORKERS, object_store_memory=80 << 20, **options)
        assert processes_of(folder)
        yield
        ray.shutdown()
    until = time.monotonic() + 30
    while (left := processes_of(folder)) and time.monotonic() < until:
        time.sleep(0.05)  # between two looks
    shutil.rmtree(folder, ignore_errors=True)
    assert not left


@pytest.fixture
def store(minio_server: S3Server) -> Iterator[ChunkedRunLogStore]:
    store = big_map.store_on(minio_server, "ray")
    big_map.begin(store)
    yield store
    store.close()


@pytest.mark.timeout(1_200)
@pytest.mark.usefixtures("cluster")
def test_a_map_by_all_workers_is_all_there(
    store: ChunkedRunLogStore, minio_server: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    @ray.remote
    def closed_over(number: int) -> tuple[int, int]:
        return os.getpid(), big_map.work(store, number)

    @ray.remote
    def given(store: ChunkedRunLogStore, number: int) -> tuple[int, int]:
        return os.getpid(), big_map.work(store, number)

    half = BRANCHES // 2
    tasks = [closed_over.remote(number) for number in range(half)]
    tasks += [given.remote(store, number) for number in range(half, BRANCHES)]
    done = ray.get(tasks)
    assert sorted(number for _, number in done) == list(range(BRANCHES))
    assert len({process for process, _ in done}) >= WORKERS
    assert big_map.found(store) == big_map.expected(BRANCHES)
    big_map.assert_verified(store, minio_server, monkeypatch, 2 + 5 * BRANCHES)


@pytest.mark.usefixtures("cluster")
def test_actors_with_threads_and_actors_with_an_event_loop(store: ChunkedRunLogStore) -> None:
    @ray.remote(max_concurrency=8)
    class Threads:
        def work(self, number: int) -> int:
            return big_map.work(store, number)

    @ray.remote
    class Loop:
        def __init__(self) -> None:
            self.logs = chunkstore.AsyncChunkedRunLogStore(store)

        async def work(self, number: int) -> None:
            await self.logs.set_parameters(big_map.RUN, {f"coroutine {number}": number})
            store.set_parameters(big_map.RUN, {f"blocking {number}": number})

    threads, loop = Threads.remote(), Loop.remote()
    ray.get([threads.work.remote(number) for number in range(60)] + [loop.work.remote(number) for number in range(20)])
    assert big_map.found(store) == big_map.expected(60)
    wanted = {f"{kind} {number}": number for kind in ("coroutine", "blocking") for number in range(20)}
    assert {name: getattr(value, "value", value) for name, value in store.get_parameters(big_map.RUN).items()} == wanted


@pytest.mark.usefixtures("cluster")
def test_a_worker_killed_in_the_middle_of_a_map_loses_and_doubles_nothing(
    store: ChunkedRunLogStore, tmp_path: Path
) -> None:
    tasks, deadly = 40, 25
    work = ray.remote(big_map.attempt)
    ray.get([work.remote(store, tmp_path, number, deadly) for number in range(tasks)])
    big_map.assert_attempts(store, tmp_path, tasks, deadly)
