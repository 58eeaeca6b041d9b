"""A bucket as it is, without locks: requests are tried again where that helps, end in time, and their failures are translated.

The engine sends each request once; which one that is, `s3engine` knows.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import logging
import random
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from dataclasses import dataclass
from typing import Any, Final, NoReturn, TypeVar

import fsspec.asyn

from chunkstore import waiting
from chunkstore.backends import s3faults
from chunkstore.backends.contract import ANY, Blob, Condition
from chunkstore.backends.s3credentials import not_in_time, shown
from chunkstore.backends.s3engine import Engine, leave_engine, shared_engine
from chunkstore.backends.s3faults import Fault, UnsentError, answer_of, doubts_credentials, fault_of
from chunkstore.backends.s3fsengine import Answer, running_loop
from chunkstore.backends.s3settings import S3Settings
from chunkstore.errors import (
    BackendUnavailableError,
    ChunkStoreError,
    ConflictError,
    NotSupportedError,
    ObjectNotFoundError,
    StorageFullError,
    WriteStateUnknownError,
)
from chunkstore.process import NO_FORK, ProcessLocal

T = TypeVar("T")

PAUSES: Final = (0.05, 0.2, 0.8)
"""Seconds before the second, third and fourth try of one request; each is jittered by half."""

_GRACE: Final = 5.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, for error messages and for the decision whether to repeat it."""

    verb: str
    key: str
    write: bool = False
    alone: bool = False
    """Can nobody else write the object meanwhile? Then a write can do no harm twice."""
    condition: Condition = ANY


class Server:
    """The bucket as it is, without locks: a request is tried again where that helps, and its failure is translated."""

    def __init__(self, settings: S3Settings) -> None:
        self.under = f"{settings.root.prefix}/" if settings.root.prefix else ""
        self._settings = settings
        self._share = ProcessLocal(functools.partial(shared_engine, settings))

    @property
    def engine(self) -> Engine:
        """What sends the requests in this process, for all backends with equal settings."""
        return self._share.get().value

    def get(self, key: str) -> Blob:
        return self._run(self._get(key))

    def put(self, key: str, data: bytes, condition: Condition, *, alone: bool = False) -> str:
        return self._run(self._put(Request("write", key, write=True, alone=alone, condition=condition), data))

    def version(self, key: str) -> str:
        """The version of the object that is there, empty where there is none."""
        return self._run(self._version(key))

    def delete(self, key: str, condition: Condition = ANY) -> None:
        self._run(self._delete(Request("delete", key, condition=condition)))

    def close(self) -> None:
        """Lets the connections go that no other backend of this process uses."""
        if self._share.is_made:
            share, self._share = self._share.get(), ProcessLocal(functools.partial(shared_engine, self._settings))
            leave_engine(share)

    async def _get(self, key: str) -> Blob:
        return await self._insist(Request("read", key), functools.partial(self.engine.get, self.under + key))

    async def _put(self, request: Request, data: bytes) -> str:
        once = functools.partial(self.engine.put, self.under + request.key, data, request.condition)
        return await self._insist(request, once) or await self._found(request.key, data)

    async def _found(self, key: str, data: bytes) -> str:
        """The version of what was written, where the reply named none: a gateway may have said 200 and done nothing."""
        with contextlib.suppress(ObjectNotFoundError):
            found = await self._get(key)
            # Anything else is another writer's, whose version must not pass for ours: the next update would undo theirs.
            if found.data == data:
                return found.version
        raise WriteStateUnknownError(
            f"{self._settings.place} said that {key!r} was written, named no version, and holds something else. "
            "It may have been written: read it to know.",
            transient=True,
            key=key,
        )

    async def _version(self, key: str) -> str:
        try:
            return await self._insist(Request("read", key), functools.partial(self.engine.version, self.under + key))
        except ObjectNotFoundError:
            return ""

    async def _delete(self, request: Request) -> None:
        try:
            await self._insist(
                request, functools.partial(self.engine.delete, self.under + request.key, request.condition)
            )
        except ObjectNotFoundError:
            # Some servers say so; S3 does not.
            return

    def pages(self, prefix: str, query: dict[str, str]) -> Iterator[Answer]:
        query = {**query, "Prefix": self.under + prefix}
        while True:
            page = self._run(self._page(prefix, query))
            yield page
            if not page.get("IsTruncated"):
                return
            query = {**query, "ContinuationToken": page["NextContinuationToken"]}

    async def _page(self, prefix: str, query: dict[str, str]) -> Answer:
        try:
            return await self._insist(Request("list", prefix), functools.partial(self.engine.page, query))
        except ObjectNotFoundError as error:
            # A listing has no key that could be missing: this server says 404 and means the bucket.
            raise self._failed(Request("list", prefix), s3faults.NO_BUCKET, error, 1) from error

    def stream(self, keys: list[str]) -> Iterator[tuple[str, Blob]]:
        """The objects as they arrive. Its reader makes room for more."""
        at_once = min(self._settings.max_connections, len(keys))
        room = asyncio.Semaphore(4 * at_once)
        arrived: waiting.Arrivals[tuple[str, Blob | None] | Exception] = waiting.Arrivals()
        loop = self._ready_loop()
        running = asyncio.run_coroutine_threadsafe(self._fetch(keys, at_once, room, arrived), loop)

        def make_room(count: int) -> None:
            for _ in range(count):
                room.release()

        try:
            for number in range(1, len(keys) + 1):
                item = self._next(arrived)
                if number % at_once == 0:
                    loop.call_soon_threadsafe(make_room, at_once)
                key, blob = item
                if blob is not None:
                    yield key, blob
        finally:
            running.cancel()

    def _next(self, arrived: waiting.Arrivals[tuple[str, Blob | None] | Exception]) -> tuple[str, Blob | None]:
        try:
            item = arrived.get(self._settings.deadline + _GRACE)
        except TimeoutError:
            self._stuck()
        if isinstance(item, Exception):
            raise item
        return item

    async def _fetch(
        self,
        keys: list[str],
        at_once: int,
        room: asyncio.Semaphore,
        arrived: waiting.Arrivals[tuple[str, Blob | None] | Exception],
    ) -> None:
        todo = iter(keys)

        async def work() -> None:
            # All workers take from one iterator.
            for key in todo:
                await room.acquire()
                try:
                    arrived.put((key, await self._get(key)))
                except ObjectNotFoundError:
                    arrived.put((key, None))

        workers = [asyncio.ensure_future(work()) for _ in range(at_once)]
        try:
            await asyncio.gather(*workers)
        except Exception as error:  # noqa: BLE001 - it is raised where the objects are awaited.
            arrived.put(error)
        finally:
            for worker in workers:
                worker.cancel()

    async def _insist(self, request: Request, once: Callable[[], Awaitable[T]]) -> T:
        """`once`, tried again where that can help and can do no harm, within the deadline."""
        log.debug("%s %r in %s", request.verb, request.key, self._settings.place)
        tries = 0
        last: Exception | None = None
        perhaps_sent = sending = False
        end = asyncio.get_running_loop().time() + self._settings.deadline
        try:
            async with asyncio.timeout(self._settings.deadline):
                while True:
                    tries += 1
                    sending = False
                    try:
                        await self.engine.credentials.get_frozen_credentials()
                        sending = True
                        return await self._signed(once)
                    except Exception as error:
                        fault = fault_of(error)
                        if fault is None:
                            raise
                        last, perhaps_sent = error, perhaps_sent or fault.landed
                        if tries > len(PAUSES) or not _may_repeat(request, fault):
                            raise self._failed(request, fault, error, tries) from error
                        pause = PAUSES[tries - 1] * random.uniform(0.5, 1.5)
                        # Waiting for the deadline would hide what failed behind "no answer in time".
                        if asyncio.get_running_loop().time() + pause >= end:
                            raise self._failed(request, fault, error, tries) from error
                    await asyncio.sleep(pause)
        except TimeoutError as error:
            if not sending and not perhaps_sent:
                unsent = last if isinstance(last, UnsentError) else not_in_time(self._settings.deadline)
                raise self._failed(request, unsent.fault, unsent, tries) from last
            raise self._failed(request, s3faults.LATE, last or error, tries) from (last or error)

    async def _signed(self, once: Callable[[], Awaitable[T]]) -> T:
        """`once`, and once more where it was refused for credentials that have run out, and there are others now."""
        seen = self.engine.credentials.renewals
        try:
            return await once()
        except Exception as error:
            if not doubts_credentials(error) or not await self.engine.credentials.renew(seen):
                raise
        return await once()

    def _failed(self, request: Request, fault: Fault, error: BaseException, tries: int) -> ChunkStoreError:
        """The table's fault as the contract's error."""
        key = request.key
        if fault is s3faults.CONDITION or (
            fault is s3faults.MISSING and request.write and request.condition.kind == "unchanged"
        ):
            return conflict(key, self._settings.place)
        if fault is s3faults.MISSING:
            return ObjectNotFoundError(f"{self._settings.place} holds no object {key!r}. {fault.advice}", key=key)
        message = self._message(request, fault, error, tries)
        if fault is s3faults.UNSUPPORTED and request.condition != ANY:
            return NotSupportedError(message, key=key)
        if request.write and fault.landed:
            return WriteStateUnknownError(
                f"{message} It may have been written: read it to know.", transient=True, key=key
            )
        kind = StorageFullError if fault is s3faults.FULL else BackendUnavailableError
        return kind(message, transient=fault.transient, key=key)

    def _message(self, request: Request, fault: Fault, error: BaseException, tries: int) -> str:
        said = f"after {self._settings.deadline:g} s" if fault is s3faults.LATE else answer_of(error)
        held = self.engine.credentials.held
        if held is not None and fault in {s3faults.REFUSED, s3faults.EXPIRED}:
            said = f"{said}, asked as {shown(held)}"
        times = f", {tries} tries" if tries > 1 else ""
        return f"cannot {request.verb} {request.key!r} in {self._settings.place}: {fault.what} ({said}{times}). {fault.advice}"

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the work on fsspec's loop, from whatever thread, also inside another running loop."""
        try:
            running = asyncio.run_coroutine_threadsafe(work, self._ready_loop())
        except BaseException:
            work.close()
            raise
        try:
            return waiting.result(running, self._settings.deadline + _GRACE)
        except concurrent.futures.TimeoutError:
            self._stuck()
        finally:
            # After Ctrl-C nobody waits for it.
            running.cancel()

    def _ready_loop(self) -> asyncio.AbstractEventLoop:
        waiting.value_of(self._share)
        return _loop()

    def _stuck(self) -> NoReturn:
        raise BackendUnavailableError(
            f"{self._settings.place} was not asked for {self._settings.deadline + _GRACE:g} s: something blocks fsspec's I/O thread. "
            "Look for blocking calls inside its coroutines.",
            transient=True,
        )


def _loop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop | None = fsspec.asyn.loop[0]
    if loop is None:
        # fsspec makes it under a lock, which a child that was forked meanwhile would find taken for ever.
        with NO_FORK:
            loop = fsspec.asyn.get_loop()
    if running_loop() is loop:
        raise NotSupportedError(
            "chunkstore was called on fsspec's own I/O loop, which would wait for itself: use a thread"
        )
    return loop


def _may_repeat(request: Request, fault: Fault) -> bool:
    # Sent again blindly, a write could undo what somebody else wrote after it had landed.
    return fault.resend if request.write and not request.alone else fault.transient


def conflict(key: str, place: str) -> ConflictError:
    """The condition did not hold."""
    return ConflictError(f"{key!r} in {place} is not as the condition says. {s3faults.CONDITION.advice}", key=key)
