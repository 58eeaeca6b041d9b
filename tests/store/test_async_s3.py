"""The calls for asyncio on S3: many under way on one loop without a thread for each, through probe, locks, faults and cancellations."""

from __future__ import annotations

import asyncio
import json
import os
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from chunkstore import AsyncChunkedRunLogStore, ChunkedRunLogStore, StepLogNotFoundError
from chunkstore.backends.probe import forget
from chunkstore.chunks import Change
from chunkstore.keys import header, key_of
from chunkstore.values import Content, decode, encode
from fault_server import FOREVER, FaultServer, Rule, fault_server
from places import at_once, between, finish, in_bucket, start
from servers import S3Server
from twins import twins_on

pytest.importorskip("greenlet")
pytest.importorskip("s3fs")


@pytest.fixture(scope="module")
def faults(faults_server: S3Server) -> Iterator[FaultServer]:
    with fault_server() as server:
        yield server


@pytest.fixture(autouse=True)
def calm(faults: FaultServer) -> Iterator[None]:
    yield
    faults.calm()


def opened(faults: FaultServer, folder: Path, **settings: Any) -> AsyncChunkedRunLogStore:
    """A store with the run `r`, which holds the step `a`."""
    store = twins_on(in_bucket(faults.s3, folder, **settings))
    store.store.create_run_log("r")
    store.store.add_step_log(store.create_step_log("a", "a"), "r")
    return store


def our_threads() -> list[str]:
    return sorted(thread.name for thread in threading.enumerate() if thread.name.startswith(("chunkstore", "asyncio")))


def incremented(theirs: Content) -> Content:
    tree = decode(theirs)
    config = tree.get("run_config")
    config = dict(config) if isinstance(config, dict) else {}
    count = config.get("count", 0)
    assert isinstance(count, int)
    return encode({**tree, "run_config": {**config, "count": count + 1}})


INCREMENT = Change(header("r"), incremented, always=True)


async def increment(store: AsyncChunkedRunLogStore, times: int) -> int:
    for _ in range(times):
        await store._run(store.store._chunks.change, INCREMENT)
    return times


def increment_in_a_process(store: ChunkedRunLogStore, times: int) -> int:
    for _ in range(times):
        store._chunks.change(INCREMENT)
    return times


async def until(condition: Callable[[], bool]) -> None:
    """Waits for what the server sees."""
    while not await asyncio.to_thread(condition):  # noqa: ASYNC110 - nobody tells us what the server sees
        await asyncio.sleep(0.001)


class TestManyAtOnce:
    def test_two_hundred_calls_are_under_way_at_once_and_take_no_thread(
        self, faults: FaultServer, tmp_path: Path
    ) -> None:
        many = 200
        store = opened(faults, tmp_path, max_connections=many)

        async def main() -> tuple[list[str], list[str]]:
            await store.get_step_log("a", "r")
            before = our_threads()
            faults.together(many, verb="GET")
            faults.most_at_once()
            steps = await asyncio.gather(*(store.get_step_log("a", "r") for _ in range(many)))
            assert [step.name for step in steps] == ["a"] * many
            return before, our_threads()

        before, after = asyncio.run(main())
        assert faults.most_at_once() == many
        assert [name for name in after if name.startswith("chunkstore")] == [
            name for name in before if name.startswith("chunkstore")
        ]
        assert len(after) == len(before)

    def test_the_chunks_of_one_call_are_written_and_read_at_once_without_threads(
        self, faults: FaultServer, tmp_path: Path
    ) -> None:
        many = 32
        store = opened(faults, tmp_path, max_connections=many)
        parameters = {f"p{number}": number for number in range(many)}

        async def main() -> None:
            before = our_threads()
            faults.together(many, verb="PUT")
            await store.set_parameters("r", parameters)
            faults.together(many, verb="GET")
            assert await twins_on(store.backend).get_parameters("r") == parameters
            faults.together(many, verb="DELETE")
            await store.delete_run_log("r")
            assert our_threads() == before

        asyncio.run(main())

    def test_of_more_calls_than_connections_none_fails_for_having_waited(
        self, faults: FaultServer, tmp_path: Path
    ) -> None:
        store = opened(faults, tmp_path, max_connections=2, deadline=1.0)
        faults.plan([Rule("delay", verb="GET", seconds=0.05, times=FOREVER)])
        faults.most_at_once()

        async def main() -> None:  # 100 times 0.05 s in two rows: more than twice the deadline of one of them
            await asyncio.gather(*(store.get_step_log("a", "r") for _ in range(100)))

        asyncio.run(main())
        assert faults.most_at_once() == 2

    def test_one_store_serves_two_loops_in_two_threads(self, faults: FaultServer, tmp_path: Path) -> None:
        store = opened(faults, tmp_path)
        faults.together(16, verb="GET")

        async def main() -> list[str]:
            return [step.name for step in await asyncio.gather(*(store.get_step_log("a", "r") for _ in range(8)))]

        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(lambda _: asyncio.run(main()), range(2))) == [["a"] * 8] * 2

    def test_errors_come_through_as_they_are(self, faults: FaultServer, tmp_path: Path) -> None:
        store = opened(faults, tmp_path)
        with pytest.raises(StepLogNotFoundError) as ours:
            asyncio.run(store.get_step_log("b", "r"))
        with pytest.raises(StepLogNotFoundError) as theirs:
            store.store.get_step_log("b", "r")
        assert str(ours.value) == str(theirs.value)
        assert type(ours.value.__cause__) is type(theirs.value.__cause__)
        frames = [frame.name for frame in ours.traceback]
        assert frames[-2:] == [frame.name for frame in theirs.traceback][-2:] == ["get_step_log", "_read"]


class TestProbe:
    def test_calls_that_start_together_ask_the_server_once(self, faults: FaultServer, tmp_path: Path) -> None:
        store = twins_on(in_bucket(faults.s3, tmp_path))
        faults.requests(forget=True)

        async def main() -> None:
            await asyncio.gather(*(store.create_run_log(f"run {number}") for number in range(20)))

        asyncio.run(asyncio.wait_for(main(), 60))
        probing = [seen for seen in faults.requests() if "/.probe-" in seen.key]
        assert 5 <= len(probing) <= 8
        assert len({seen.key.rpartition("/")[0] for seen in probing}) == 1

    def test_one_that_is_cancelled_while_it_asks_leaves_the_question_to_the_next(
        self, faults: FaultServer, tmp_path: Path
    ) -> None:
        store = twins_on(in_bucket(faults.s3, tmp_path))
        bucket = store.backend.settings.bucket
        faults.plan([Rule("hang", key=".probe-", times=1)])

        async def main() -> None:
            first = asyncio.ensure_future(store.create_run_log("first"))
            await until(lambda: any(".probe-" in seen.key for seen in faults.requests(bucket)))
            second = asyncio.ensure_future(store.create_run_log("second"))
            await asyncio.sleep(0)
            first.cancel()
            await asyncio.wait_for(second, 60)
            assert first.cancelled()
            assert await store.list_run_ids() == ["second"]

        asyncio.run(main())


class TestLocksOfThisHost:
    def test_no_update_of_twins_and_threads_is_lost(self, rclone_server: S3Server, tmp_path: Path) -> None:
        store = twins_on(in_bucket(rclone_server, tmp_path))
        store.store.create_run_log("r")
        times = between(5, 25)

        async def main() -> None:
            threads = [asyncio.to_thread(increment_in_a_process, store.store, times) for _ in range(2)]
            await asyncio.gather(*(increment(store, times) for _ in range(6)), *threads)

        asyncio.run(main())
        assert store.store.get_run_config("r") == {"count": 8 * times}

    def test_a_call_that_waits_for_a_lock_lets_the_loop_run(self, rclone_server: S3Server, tmp_path: Path) -> None:
        store = twins_on(in_bucket(rclone_server, tmp_path))
        store.store.create_run_log("r")
        other = in_bucket(rclone_server, tmp_path)  # of the same host: the same lock files, other locks of threads

        async def main() -> None:
            with other._locks.holding(key_of(header("r"))):
                waiting_call = asyncio.ensure_future(store.update_run_log_status("r", "FAIL"))
                cancelled = asyncio.ensure_future(store.update_run_log_status("r", "SUCCESS"))
                for _ in range(50):
                    await asyncio.sleep(0.001)
                assert not waiting_call.done()
                cancelled.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await cancelled
            await asyncio.wait_for(waiting_call, 60)
            assert (await store.get_run_log_by_id("r")).status == "FAIL"

        asyncio.run(main())
        with other._locks.holding(key_of(header("r"))):
            pass


class TestNothingIsLost:
    def test_a_counter_of_twins_on_one_loop_and_of_another_process_is_exact(
        self, minio_server: S3Server, tmp_path: Path
    ) -> None:
        store = twins_on(in_bucket(minio_server, tmp_path))
        store.store.create_run_log("r")
        times = between(10, 25)
        other = start(increment_in_a_process, (store.store, times))

        async def main() -> None:
            await asyncio.gather(*(increment(store, times) for _ in range(8)))

        asyncio.run(main())
        assert finish([other]) == [times]
        assert store.store.get_run_config("r") == {"count": 9 * times}

    @pytest.mark.parametrize("seed", range(between(2, 10)))
    def test_a_counter_is_exact_when_replies_are_lost(self, faults: FaultServer, tmp_path: Path, seed: int) -> None:
        store = opened(faults, tmp_path)
        kinds = ["lost_reply", "reset_reply", "412_echo", "503", "500_after"]
        faults.random(seed, 0.4, kinds)

        async def main() -> None:
            await asyncio.gather(*(increment(store, 8) for _ in range(4)))

        asyncio.run(main())
        faults.calm()
        assert store.store.get_run_config("r") == {"count": 32}


class TestCancelling:
    @pytest.mark.parametrize("seed", range(between(3, 20)))
    def test_a_cancelled_write_landed_or_not_and_harms_nobody(
        self, faults: FaultServer, tmp_path: Path, seed: int
    ) -> None:
        store = opened(faults, tmp_path)
        dice = random.Random(seed)
        faults.plan([Rule("delay", verb="PUT GET", seconds=0.01, times=FOREVER)])
        names = [f"field {number}" for number in range(24)]

        async def main() -> set[str]:
            tasks = {name: asyncio.ensure_future(store.set_run_config("r", {name: 1})) for name in names}
            for name in dice.sample(names, 12):
                await asyncio.sleep(dice.uniform(0, 0.02))
                tasks[name].cancel()
            ended = await asyncio.gather(*tasks.values(), return_exceptions=True)
            assert [one for one in ended if one is not None and not isinstance(one, asyncio.CancelledError)] == []
            for name in names:  # repeating it does no harm
                await store.set_run_config("r", {name: 1})
            return {name for name, task in tasks.items() if not task.cancelled()}

        asyncio.run(main())
        assert store.store.get_run_config("r") == dict.fromkeys(names, 1)

    def test_sessions_go_back_to_the_idle_ones(self, faults: FaultServer, tmp_path: Path) -> None:
        store = opened(faults, tmp_path)
        faults.together(8, verb="PUT")

        async def main() -> None:
            tasks = [asyncio.ensure_future(store.set_run_config("r", {str(number): 1})) for number in range(7)]
            await until(lambda: faults.most_at_once() == 7)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run(main())
        assert len(store.store._chunks._idle_sessions.get()) == 7

    def test_a_timeout_ends_a_call_that_a_server_never_answers(self, faults: FaultServer, tmp_path: Path) -> None:
        store = opened(faults, tmp_path)
        faults.plan([Rule("hang", verb="GET")])

        async def main() -> None:
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.2):
                    await store.get_step_log("a", "r")
            assert (await store.get_step_log("a", "r")).name == "a"

        asyncio.run(main())


def use(store: AsyncChunkedRunLogStore, name: str) -> list[str]:
    async def main() -> list[str]:
        await store.add_step_log(store.create_step_log(name, name), "r")
        steps = await asyncio.gather(*(store.get_step_log(name, "r") for _ in range(8)))
        return [step.name for step in steps]

    return asyncio.run(main())


class TestProcesses:
    def test_a_child_that_is_forked_beside_calls_under_way_has_its_own(
        self, faults: FaultServer, tmp_path: Path
    ) -> None:
        store = opened(faults, tmp_path)

        async def main() -> None:
            faults.plan([Rule("delay", verb="GET", key="step.a", seconds=0.3, times=16)])
            under_way = [asyncio.ensure_future(store.get_step_log("a", "r")) for _ in range(16)]
            await asyncio.sleep(0.05)
            child = start(use, (store, "child"))
            assert await asyncio.to_thread(finish, [child]) == [["child"] * 8]
            assert [step.name for step in await asyncio.gather(*under_way)] == ["a"] * 16
            assert (await store.get_step_log("child", "r")).name == "child"

        asyncio.run(main())

    def test_a_spawned_child_gets_it_by_pickle(self, faults: FaultServer, tmp_path: Path) -> None:
        store = opened(faults, tmp_path)
        assert use(store, "parent") == ["parent"] * 8
        assert at_once(use, [(store, "child")], "spawn") == [["child"] * 8]


FIRST_USE = """
import asyncio, json, os, sys, threading
import chunkstore

importers = []

class Noting:
    def find_spec(self, name, path=None, target=None):
        if name == "s3fs":
            importers.append(threading.current_thread().name)

sys.meta_path.insert(0, Noting())

async def main():
    settings = json.loads(os.environ["SETTINGS"])
    store = chunkstore.AsyncChunkedRunLogStore(chunkstore.open(settings.pop("url"), **settings))
    assert "s3fs" not in sys.modules
    importers.clear()
    await asyncio.gather(*(store.create_run_log(str(number)) for number in range(8)))
    print(json.dumps([importers, sorted(await store.list_run_ids())]))

asyncio.run(main())
"""


def test_the_first_call_imports_the_engine_beside_the_loop(faults: FaultServer, tmp_path: Path) -> None:
    server = faults.s3
    settings = {"url": f"s3://{server.new_bucket()}/runs", "endpoint_url": server.endpoint_url}
    settings |= {"key": server.key, "secret": server.secret, "lock_folder": str(tmp_path)}
    environment = {**os.environ, "SETTINGS": json.dumps(settings)}
    ran = subprocess.run(
        [sys.executable, "-c", FIRST_USE], env=environment, capture_output=True, text=True, check=True, timeout=60
    )
    importers, runs = json.loads(ran.stdout)
    assert runs == [str(number) for number in range(8)]
    assert importers != []
    assert all(name.startswith("chunkstore-apart") for name in importers)
    assert ran.stderr == ""


def test_a_probe_that_was_forgotten_is_asked_again_by_a_summary(faults: FaultServer, tmp_path: Path) -> None:
    store = opened(faults, tmp_path)
    forget(store.backend.settings.root)
    faults.requests(forget=True)
    assert "across hosts" in str(asyncio.run(store.get_summary())["Guarantees"])
    assert asyncio.run(store.supports_parallel_writes()) is True
    assert 5 <= len(faults.requests()) <= 8
