"""The door for asyncio: a twin of each call of `ChunkedRunLogStore`, made of it, which lets the event loop run on while it waits.

There is no second copy of any call. Where the backend waits for a network in a way that a loop can carry (S3), a call runs on the
loop and takes no thread; any other place (a disk, memory) gets a thread for each call.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import os
import threading
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterator
from typing import TYPE_CHECKING, Any, Concatenate, Final, Generic, ParamSpec, Self, TypeVar, cast

from chunkstore.backends import Backend
from chunkstore.config import open_store
from chunkstore.errors import NotSupportedError
from chunkstore.leases import Lease, WorkerLease
from chunkstore.process import ProcessLocal
from chunkstore.schema import OWN, Schema
from chunkstore.settings.placeholders import Secrets
from chunkstore.store import ChunkedRunLogStore, StoreSettings

if TYPE_CHECKING:
    from types import TracebackType

    from chunkstore.greenlets import Calls

P = ParamSpec("P")
T = TypeVar("T")

_END: Final = object()


def _twin(
    call: Callable[Concatenate[ChunkedRunLogStore, P], T],
) -> Callable[Concatenate[AsyncChunkedRunLogStore, P], Coroutine[Any, Any, T]]:
    """The coroutine function of a call."""

    @functools.wraps(call)
    async def twin(self: AsyncChunkedRunLogStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return await self._run(call, self.store, *args, **kwargs)

    return _named(twin, call, "Await it")


def _twin_of_iterator(
    call: Callable[Concatenate[ChunkedRunLogStore, P], Iterator[T]],
) -> Callable[Concatenate[AsyncChunkedRunLogStore, P], AsyncGenerator[T, None]]:
    """The async generator of a call that yields."""

    @functools.wraps(call)
    async def twin(self: AsyncChunkedRunLogStore, /, *args: P.args, **kwargs: P.kwargs) -> AsyncGenerator[T, None]:
        steps = _Steps(await self._run(call, self.store, *args, **kwargs))
        try:
            while (item := await self._run(steps.next)) is not _END:
                yield cast(T, item)
        finally:
            if steps.abandon():
                await self._run(steps.close)

    return _named(twin, call, "Use `async for`")


def _plain(
    call: Callable[Concatenate[ChunkedRunLogStore, P], T],
) -> Callable[Concatenate[AsyncChunkedRunLogStore, P], T]:
    """A call that sends nothing, as it is."""

    @functools.wraps(call)
    def plain(self: AsyncChunkedRunLogStore, /, *args: P.args, **kwargs: P.kwargs) -> T:
        return call(self.store, *args, **kwargs)

    return _named(plain, call, "Sends nothing, so there is nothing to await")


Made = TypeVar("Made", bound=Callable[..., Any])


def _named(made: Made, call: Callable[..., Any], use: str) -> Made:
    summary = (inspect.getdoc(call) or "").partition("\n")[0]
    made.__doc__ = f"{summary}\n\n{use}; all else is as `ChunkedRunLogStore.{call.__name__}` says."
    made.__module__ = __name__
    made.__qualname__ = f"AsyncChunkedRunLogStore.{call.__name__}"
    return made


def _supports_parallel_writes(store: ChunkedRunLogStore) -> bool:
    """Whether several processes may write at once. A property of the store, which may have to ask the server."""
    return store.supports_parallel_writes


_supports_parallel_writes.__name__ = "supports_parallel_writes"


class AsyncChunkedRunLogStore:
    """A store's calls for asyncio; `chunkstore.open_async(url)` makes one.

    Each does what the call of the same name does, with the same requests and the same errors. On a backend that is `asynchronous` as many
    calls run at once on one event loop as the backend has use for (`max_connections`), without a thread for each; more wait for their
    turn. On any other backend each call takes a thread of the loop's own executor.

    Cancelling a call (also by `asyncio.timeout`) ends it where it waits. A write that was cancelled may have landed, or may still land, as
    one whose reply was lost; repeating it does no harm. In a thread it goes on to its end, and nobody hears of it.

    It may be used on several loops and in several threads, after a fork, and beside the store that it is made of.
    Raises `NotSupportedError` where the backend is asynchronous and the extra `chunkstore[async]` is not installed.
    """

    service_name = ChunkedRunLogStore.service_name
    service_type = ChunkedRunLogStore.service_type

    def __init__(self, store: ChunkedRunLogStore) -> None:
        self.store = store
        self._calls = ProcessLocal(functools.partial(_calls, store.backend.concurrency))
        if store.backend.asynchronous and importlib.util.find_spec("greenlet") is None:
            raise NotSupportedError(
                f"greenlet is not installed, and calls of {store.backend.place} on an event loop need it: "
                "pip install 'chunkstore[async]'"
            )

    def __repr__(self) -> str:
        return f"AsyncChunkedRunLogStore({self.store!r})"

    def __reduce__(self) -> tuple[type[AsyncChunkedRunLogStore], tuple[ChunkedRunLogStore]]:
        return AsyncChunkedRunLogStore, (self.store,)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    @property
    def backend(self) -> Backend:
        """The place that holds the chunks."""
        return self.store.backend

    @property
    def settings(self) -> StoreSettings:
        """How the store works on it."""
        return self.store.settings

    @property
    def schema(self) -> Schema:
        """The model classes."""
        return self.store.schema

    async def close(self) -> None:
        """Lets threads and connections go. The store may be used again afterwards."""
        import asyncio

        await asyncio.to_thread(self._close)

    def _close(self) -> None:
        if self.backend.asynchronous:
            self._calls.get().close()
        self.store.close()

    async def _run(self, call: Callable[..., T], *args: Any, **kwargs: Any) -> T:
        if self.backend.asynchronous:
            return await self._calls.get().run(call, *args, **kwargs)
        import asyncio

        return await asyncio.to_thread(call, *args, **kwargs)

    supports_parallel_writes = _twin(_supports_parallel_writes)
    get_summary = _twin(ChunkedRunLogStore.get_summary)

    create_run_log = _twin(ChunkedRunLogStore.create_run_log)
    get_run_log_by_id = _twin(ChunkedRunLogStore.get_run_log_by_id)
    read_run_log = _twin(ChunkedRunLogStore.read_run_log)
    put_run_log = _twin(ChunkedRunLogStore.put_run_log)
    get_run_logs = _twin(ChunkedRunLogStore.get_run_logs)
    list_run_ids = _twin(ChunkedRunLogStore.list_run_ids)
    iter_run_ids = _twin_of_iterator(ChunkedRunLogStore.iter_run_ids)
    iter_run_logs = _twin_of_iterator(ChunkedRunLogStore.iter_run_logs)
    find_runs = _twin(ChunkedRunLogStore.find_runs)
    reindex = _twin(ChunkedRunLogStore.reindex)
    compact = _twin(ChunkedRunLogStore.compact)
    iter_chunks = _twin_of_iterator(ChunkedRunLogStore.iter_chunks)
    follow = _twin_of_iterator(ChunkedRunLogStore.follow)
    delete_run_log = _twin(ChunkedRunLogStore.delete_run_log)
    update_run_log_status = _twin(ChunkedRunLogStore.update_run_log_status)
    get_run_config = _twin(ChunkedRunLogStore.get_run_config)
    set_run_config = _twin(ChunkedRunLogStore.set_run_config)

    get_parameters = _twin(ChunkedRunLogStore.get_parameters)
    get_parameter = _twin(ChunkedRunLogStore.get_parameter)
    set_parameters = _twin(ChunkedRunLogStore.set_parameters)

    create_step_log = _plain(ChunkedRunLogStore.create_step_log)
    get_step_log = _twin(ChunkedRunLogStore.get_step_log)
    add_step_log = _twin(ChunkedRunLogStore.add_step_log)

    create_branch_log = _plain(ChunkedRunLogStore.create_branch_log)
    get_branch_log = _twin(ChunkedRunLogStore.get_branch_log)
    add_branch_log = _twin(ChunkedRunLogStore.add_branch_log)

    create_job_log = _plain(ChunkedRunLogStore.create_job_log)
    get_job_log = _twin(ChunkedRunLogStore.get_job_log)
    add_job_log = _twin(ChunkedRunLogStore.add_job_log)

    lease = _twin(ChunkedRunLogStore.lease)

    async def fenced(self, lease: Lease | WorkerLease) -> AsyncChunkedRunLogStore:
        """A store for the lease's run whose writes raise `LeaseLostError` once the lease is lost; `chunkstore.fencing` says exactly what is certain.

        Await it; all else is as `ChunkedRunLogStore.fenced` says.
        """
        return AsyncChunkedRunLogStore(await self._run(ChunkedRunLogStore.fenced, self.store, lease))

    create_attempt_log = _plain(ChunkedRunLogStore.create_attempt_log)
    create_code_identity = _plain(ChunkedRunLogStore.create_code_identity)
    create_data_catalog = _plain(ChunkedRunLogStore.create_data_catalog)


def _calls(at_once: int) -> Calls:
    from chunkstore.greenlets import Calls

    return Calls(at_once)


class _Steps(Generic[T]):
    """An iterator whose steps may be taken in a thread, which goes on when whoever awaits it is cancelled."""

    def __init__(self, iterator: Iterator[T]) -> None:
        self._iterator = iterator
        self._lock = threading.Lock()
        self._is_running = False
        self._abandoned = threading.Event()

    def next(self) -> T | object:
        """The next item, or `_END`."""
        with self._lock:
            if self._abandoned.is_set():
                return _END
            self._is_running = True
        try:
            return next(self._iterator, _END)
        finally:
            with self._lock:
                self._is_running = False
                is_abandoned = self._abandoned.is_set()
            if is_abandoned:
                self.close()

    def abandon(self) -> bool:
        """Takes no further step. Whether the iterator is to be closed now; else the thread that is in it does that."""
        with self._lock:
            self._abandoned.set()
            return not self._is_running

    def close(self) -> None:
        """Lets the iterator put away what it holds."""
        if isinstance(self._iterator, Generator):
            self._iterator.close()


class Opening:
    """A store that is being opened: `async with` or `await` it."""

    def __init__(self, start: Callable[[], ChunkedRunLogStore]) -> None:
        self._start = start
        self._opened: AsyncChunkedRunLogStore | None = None

    def __await__(self) -> Generator[Any, Any, AsyncChunkedRunLogStore]:
        return self._open().__await__()

    async def __aenter__(self) -> AsyncChunkedRunLogStore:
        self._opened = await self._open()
        return self._opened

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._opened is not None:
            await self._opened.close()

    async def _open(self) -> AsyncChunkedRunLogStore:
        import asyncio

        return AsyncChunkedRunLogStore(await asyncio.to_thread(self._start))


def open_async(
    url: str | os.PathLike[str], *, schema: Schema = OWN, secrets: Secrets | None = None, **settings: object
) -> Opening:
    """A store for asyncio: `async with chunkstore.open_async(url) as store:`, or `store = await chunkstore.open_async(url)`.

    Places, settings and errors are those of `chunkstore.open`; `NotSupportedError` also where the extra `async` is needed and not installed.
    """
    return Opening(functools.partial(open_store, url, schema=schema, secrets=secrets, **settings))
