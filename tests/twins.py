"""What tests of the calls for asyncio share: a place in memory that lets a loop run, and a store whose every call is a twin's."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from chunkstore import AsyncChunkedRunLogStore, ChunkedRunLogStore, waiting
from chunkstore.backends import ANY, Backend, Blob, Condition, Entry
from chunkstore.store import StoreSettings
from chunkstore.testing import CountingBackend
from places import memory


class Awaited(CountingBackend):
    """Each request takes a turn of the event loop, and `pause` seconds."""

    asynchronous = True

    def __init__(self, inner: Backend | None = None, pause: float = 0.0, concurrency: int = 8) -> None:
        super().__init__(inner or memory())
        self.pause = pause
        self._concurrency = concurrency

    @property
    def concurrency(self) -> int:
        return self._concurrency

    def get(self, key: str) -> Blob:
        waiting.sleep(self.pause)
        return super().get(key)

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        for found in super().get_many(keys):
            waiting.sleep(self.pause)
            yield found

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        waiting.sleep(self.pause)
        return super().put(key, data, condition, barrier=barrier)

    def delete(self, key: str, condition: Condition = ANY) -> None:
        waiting.sleep(self.pause)
        super().delete(key, condition)

    def list(self, prefix: str) -> Iterator[Entry]:
        waiting.sleep(self.pause)
        return super().list(prefix)

    def folders(self) -> Iterator[str]:
        waiting.sleep(self.pause)
        return super().folders()


class ByTwins:
    """A store as all tests know it, each of whose calls runs on an event loop of its own."""

    def __init__(self, store: ChunkedRunLogStore) -> None:
        self.twins = AsyncChunkedRunLogStore(store)

    @property
    def supports_parallel_writes(self) -> bool:
        return asyncio.run(self.twins.supports_parallel_writes())

    def __reduce__(self) -> tuple[type[ByTwins], tuple[ChunkedRunLogStore]]:
        return ByTwins, (self.twins.store,)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = getattr(self.twins, name)
        if inspect.isasyncgenfunction(found):
            return _stepwise(found)
        return _blocking(found) if inspect.iscoroutinefunction(found) else found


def _blocking(twin: Callable[..., Any]) -> Callable[..., Any]:
    return lambda *args, **kwargs: asyncio.run(twin(*args, **kwargs))


def _stepwise(twin: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    def steps(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with asyncio.Runner() as runner:
            items = twin(*args, **kwargs)
            try:
                while True:
                    yield runner.run(_next_of(items))
            except StopAsyncIteration:
                return
            finally:
                runner.run(items.aclose())

    return steps


async def _next_of(items: Any) -> Any:
    return await anext(items)


def twins_on(backend: Backend, **settings: Any) -> AsyncChunkedRunLogStore:
    """A store for asyncio on a backend."""
    return AsyncChunkedRunLogStore(ChunkedRunLogStore(backend, settings=StoreSettings(**settings)))
