"""The door for asyncio: complete, typed as the store is, and made of it, not beside it."""

from __future__ import annotations

import asyncio
import inspect
import pickle
import subprocess
import sys
import threading
import time
from collections.abc import AsyncGenerator, Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest

import chunkstore
from chunkstore import (
    AsyncChunkedRunLogStore,
    ChunkedRunLogStore,
    InvalidInputError,
    NotSupportedError,
    RunLogExistsError,
    waiting,
)
from chunkstore.asynchronous import _twin_of_iterator
from places import memory
from twins import Awaited, twins_on

PURE = {
    *("create_step_log", "create_branch_log", "create_job_log", "create_attempt_log"),
    *("create_code_identity", "create_data_catalog"),
}
"""Calls that send nothing."""

STORE = {name: thing for name, thing in vars(ChunkedRunLogStore).items() if not name.startswith("_")}
CALLS = {name: thing for name, thing in STORE.items() if inspect.isfunction(thing)}
needs_greenlet = pytest.mark.skipif(
    not __import__("importlib.util").util.find_spec("greenlet"), reason="greenlet is not installed"
)


def test_every_call_of_the_store_has_its_twin_and_nothing_else_is_there() -> None:
    ours = {name for name in vars(AsyncChunkedRunLogStore) if not name.startswith("_")}
    assert ours == set(STORE) | {"backend", "settings", "schema"}
    assert {name for name in CALLS if not _is_awaited(getattr(AsyncChunkedRunLogStore, name))} == PURE
    properties = {name for name, thing in STORE.items() if isinstance(thing, property | cached_property)}
    assert properties == {"supports_parallel_writes"}
    assert inspect.iscoroutinefunction(AsyncChunkedRunLogStore.supports_parallel_writes)


def _is_awaited(twin: object) -> bool:
    return inspect.iscoroutinefunction(twin) or inspect.isasyncgenfunction(twin)


@pytest.mark.parametrize("name", CALLS)
def test_a_twin_has_the_signature_of_its_call_and_names_it(name: str) -> None:
    call, twin = CALLS[name], getattr(AsyncChunkedRunLogStore, name)
    ours = list(inspect.signature(twin).parameters.values())[1:]
    assert ours == list(inspect.signature(call).parameters.values())[1:]
    returned = inspect.signature(call).return_annotation
    assert inspect.signature(twin).return_annotation == {"fenced": "AsyncChunkedRunLogStore"}.get(name, returned)
    assert twin.__qualname__ == f"AsyncChunkedRunLogStore.{name}"
    assert twin.__module__ == "chunkstore.asynchronous"
    if name != "close":
        assert twin.__doc__.startswith(call.__doc__.partition("\n")[0])
        assert f"`ChunkedRunLogStore.{name}`" in twin.__doc__


@needs_greenlet
def test_what_has_no_twin_sends_nothing() -> None:
    backend = Awaited()
    store = twins_on(backend)
    store.create_step_log("a", "a")
    store.create_branch_log("a.b", {"x": 1})
    store.create_job_log()
    store.create_attempt_log()
    store.create_code_identity()
    store.create_data_catalog("a")
    assert (repr(store), store.backend, store.settings.retention_days) == (
        f"AsyncChunkedRunLogStore({store.store!r})",
        backend,
        90,
    )
    assert store.schema is store.store.schema
    assert backend.requests == 0


@pytest.mark.parametrize("url", ["runs", "memory://of twins"])
def test_a_place_that_blocks_gets_a_thread_for_each_call(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    threads: list[threading.Thread] = []
    original = ChunkedRunLogStore.read_run_log

    def noted(self: ChunkedRunLogStore, *args: Any, **kwargs: Any) -> Any:
        threads.append(threading.current_thread())
        return original(self, *args, **kwargs)

    monkeypatch.setattr(ChunkedRunLogStore, "read_run_log", noted)

    async def main() -> None:
        async with chunkstore.open_async(url) as store:
            await store.create_run_log("r", tag="t")
            await store.add_step_log(store.create_step_log("a", "a"), "r")
            assert list((await store.get_run_log_by_id("r")).steps) == ["a"]
            with pytest.raises(RunLogExistsError):
                await store.create_run_log("r")
            assert await store.supports_parallel_writes() == (url == "runs")
            assert (await store.get_summary())["Location"] == store.backend.place
            await store.delete_run_log("r")
            assert await store.list_run_ids() == []

    asyncio.run(main())
    assert threads != []
    assert threading.main_thread() not in threads


def test_it_is_opened_by_with_or_by_await_and_says_what_is_wrong() -> None:
    async def main() -> None:
        store = await chunkstore.open_async("memory://", retention_days=3)
        assert store.settings.retention_days == 3
        await store.close()
        async with chunkstore.open_async("memory://") as other:
            assert isinstance(other, AsyncChunkedRunLogStore)
        async with other as again:
            assert again is other
        with pytest.raises(InvalidInputError, match="retention_days"):
            await chunkstore.open_async("memory://", retention_day=3)
        with pytest.raises(NotSupportedError, match="across hosts"):
            async with chunkstore.open_async("memory://", require="across-hosts"):
                pass

    asyncio.run(main())


@needs_greenlet
@pytest.mark.parametrize("blocking", [True, False])
def test_it_pickles_as_its_store(blocking: bool) -> None:
    store = twins_on(memory() if blocking else Awaited(), retention_days=7)
    asyncio.run(store.create_run_log("r"))
    again = pickle.loads(pickle.dumps(store))
    assert again.settings == store.settings
    assert asyncio.run(again.get_run_log_by_id("r")).run_id == "r"


WITHOUT_GREENLET = """
import asyncio, sys
sys.modules["greenlet"] = None
import importlib.util
real = importlib.util.find_spec
importlib.util.find_spec = lambda name, *more: None if name == "greenlet" else real(name, *more)
import chunkstore

async def main():
    async with chunkstore.open_async(sys.argv[1]) as store:
        await store.create_run_log("r")
    try:
        await chunkstore.open_async("s3://bucket", endpoint_url="http://127.0.0.1:9", key="k", secret="s")
    except chunkstore.NotSupportedError as error:
        print(error)

asyncio.run(main())
"""


def test_without_greenlet_a_disk_works_and_the_others_name_the_extra(tmp_path: Path) -> None:
    pytest.importorskip("s3fs")
    ran = subprocess.run(
        [sys.executable, "-c", WITHOUT_GREENLET, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert "s3://bucket at http://127.0.0.1:9" in ran.stdout
    assert "pip install 'chunkstore[async]'" in ran.stdout


def test_importing_it_imports_neither_asyncio_nor_greenlet() -> None:
    code = (
        "import sys; before = set(sys.modules); import chunkstore; chunkstore.open_async('runs');"
        "print(*sorted(set(sys.modules) - before))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "chunkstore.asynchronous" in loaded
    assert {"asyncio", "greenlet", "chunkstore.greenlets"}.isdisjoint(loaded)


class Yielding(ChunkedRunLogStore):
    """A store with a call that yields, and notes what becomes of it."""

    ended: list[str]

    def numbers(self, many: int, *, pause: float = 0.0) -> Iterator[int]:
        """Counts."""
        try:
            for number in range(many):
                waiting.sleep(pause)
                if number == 3:
                    raise LookupError("three")
                yield number
        finally:
            waiting.sleep(0)
            self.ended.append("ended")


class YieldingTwins(AsyncChunkedRunLogStore):
    numbers = _twin_of_iterator(Yielding.numbers)  # type: ignore[arg-type]


@pytest.fixture(params=["on the loop", "in threads"])
def yielding(request: pytest.FixtureRequest) -> YieldingTwins:
    if request.param == "on the loop":
        pytest.importorskip("greenlet")
    store = Yielding(Awaited() if request.param == "on the loop" else memory())
    store.ended = []
    return YieldingTwins(store)


async def gather_into(seen: list[int], numbers: AsyncGenerator[int, None]) -> None:
    async for number in numbers:
        seen.append(number)  # noqa: PERF401 - what came before an error must be there


def ended(store: YieldingTwins) -> list[str]:
    return store.store.ended  # type: ignore[attr-defined, no-any-return]


class TestIterators:
    def test_a_call_that_yields_is_an_async_generator_of_the_same(self, yielding: YieldingTwins) -> None:
        async def main() -> None:
            assert [number async for number in yielding.numbers(3)] == [0, 1, 2]
            assert ended(yielding) == ["ended"]
            seen: list[int] = []
            with pytest.raises(LookupError, match="three"):
                await gather_into(seen, yielding.numbers(9))
            assert seen == [0, 1, 2]
            assert ended(yielding) == ["ended"] * 2

        asyncio.run(main())
        assert inspect.isasyncgenfunction(YieldingTwins.numbers)
        assert (YieldingTwins.numbers.__doc__ or "").startswith("Counts.\n\nUse `async for`")

    def test_one_that_is_left_early_puts_away_what_it_holds(self, yielding: YieldingTwins) -> None:
        async def main() -> None:
            numbers: AsyncGenerator[int, None] = yielding.numbers(3)
            assert await anext(numbers) == 0
            await numbers.aclose()
            assert ended(yielding) == ["ended"]

        asyncio.run(main())

    def test_one_that_is_cancelled_in_the_middle_of_a_step_ends(self, yielding: YieldingTwins) -> None:
        async def main() -> None:
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(gather_into([], yielding.numbers(3, pause=0.3)), 0.05)

        asyncio.run(main())
        until = time.monotonic() + 10  # in a thread the step goes on to its end
        while not ended(yielding) and time.monotonic() < until:
            time.sleep(0.01)
        assert ended(yielding) == ["ended"]
