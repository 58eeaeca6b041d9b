"""Calls of blocking code on an event loop: each runs in a greenlet, and where it waits, the loop runs on.

Needs the extra `async`. The code that is called knows nothing of it: it waits by `chunkstore.waiting`, and is the same code
that threads run.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import weakref
from collections import deque
from collections.abc import Callable, Coroutine, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext, suppress
from typing import Any, Final, ParamSpec, TypeVar, cast

from greenlet import getcurrent, greenlet

from chunkstore import waiting
from chunkstore.process import ProcessLocal

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")
Wait = Callable[[], Coroutine[Any, Any, Any]]


_LONG: Final = 0.5
"""Seconds of sleep beyond which a call waits for something to happen, and others may be at work meanwhile."""


class Calls:
    """The calls of one store, on as many event loops as there are.

    At most `at_once` of them are under way on one loop, and the others have not begun: what begins its deadline and then stands
    in a queue for a connection fails on a server that is well.
    """

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._rooms: weakref.WeakKeyDictionary[asyncio.AbstractEventLoop, _Room] = weakref.WeakKeyDictionary()
        # One thread: what blocks is rare and short, and none of the application's own threads is taken for it.
        self._apart = ProcessLocal(_one_thread)

    async def run(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """What the blocking code returns or raises; cancelling ends it where it waits."""
        return await self.nested(lambda: work(*args, **kwargs), self._room())

    async def nested(self, work: Callable[[], T], room: _Room, *, inner: bool = False) -> T:
        """The same, as a part of a call that has begun, where `inner`: it goes before those that have not."""
        async with room.place(inner=inner):
            return cast(T, await _driven(_Call(work, self, room)))

    def in_thread(self, work: Callable[[], T]) -> Future[T]:
        """Work that blocks, in a thread of its own."""
        return self._apart.get().submit(work)

    def close(self) -> None:
        """Lets the thread go; it comes again when it is needed."""
        apart, self._apart = self._apart, ProcessLocal(_one_thread)
        apart.get().shutdown()

    def _room(self) -> _Room:
        loop = asyncio.get_running_loop()
        room = self._rooms.get(loop)
        if room is None:
            room = self._rooms[loop] = _Room(self._at_once)
        return room


def _one_thread() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(1, thread_name_prefix="chunkstore-apart")


class _Room:
    """The places for calls on one loop. Used in its thread only."""

    def __init__(self, places: int) -> None:
        self.places: Final = places
        self._free = places
        self._inner: deque[asyncio.Future[None]] = deque()
        self._outer: deque[asyncio.Future[None]] = deque()

    @contextmanager
    def left(self) -> Iterator[None]:
        """Gives the place to others for a while. It is had again at once, even beyond the number of places."""
        self.leave()
        try:
            yield
        finally:
            self._free -= 1

    def place(self, *, inner: bool) -> _Place:
        """A place, to be held by `async with`."""
        return _Place(self, self._inner if inner else self._outer)

    async def enter(self, queue: deque[asyncio.Future[None]]) -> None:
        """Waits for a place."""
        if self._free > 0 and not self._inner and not self._outer:
            self._free -= 1
            return
        turn = asyncio.get_running_loop().create_future()
        queue.append(turn)
        self._call_next()  # the first of those that wait may have given up
        try:
            await turn
        except BaseException:
            if turn.done() and not turn.cancelled():  # it was ours, in the very moment in which we gave up
                self.leave()
            turn.cancel()
            raise

    def leave(self) -> None:
        """Gives the place to the next one."""
        self._free += 1
        self._call_next()

    def _call_next(self) -> None:
        while self._free > 0 and (self._inner or self._outer):
            turn = (self._inner or self._outer).popleft()
            # Else it was given up, or the loop, and whoever waited on it, is no more.
            if not turn.done() and not turn.get_loop().is_closed():
                self._free -= 1
                turn.set_result(None)


class _Place:
    def __init__(self, room: _Room, queue: deque[asyncio.Future[None]]) -> None:
        self._room = room
        self._queue = queue

    async def __aenter__(self) -> None:
        await self._room.enter(self._queue)

    async def __aexit__(self, *_error: object) -> None:
        self._room.leave()


class _Call(greenlet):
    """One call: a `waiting.Carrier` for the code that runs in it.

    It switches to the loop with what is to be awaited, and is switched to with what came of it.
    """

    def __init__(self, work: Callable[[], object], calls: Calls, room: _Room) -> None:
        super().__init__(work, getcurrent())
        # The context of the task, as an ordinary await has it.
        self.gr_context = getcurrent().gr_context
        self._calls = calls
        self._room = room
        self._is_ending = False

    # Inside: called by the code that waits.

    def wait(self, future: Future[Any], timeout: float | None) -> None:
        self._await(lambda: _until_done(future, timeout))

    def sleep(self, seconds: float) -> None:
        # Between two tries the place is kept: who were let in instead would only make more of the contention.
        with self._room.left() if seconds >= _LONG else nullcontext():
            self._await(lambda: asyncio.sleep(seconds))

    def apart(self, work: Callable[[], T]) -> T:
        future = self._calls.in_thread(work)
        try:
            self._await(lambda: _to_its_end(future))
        except BaseException:
            # What it opens or takes is put away by who called, so it must not come later than that.
            concurrent.futures.wait([future])
            raise
        return future.result(0)

    def each(self, work: Callable[[T], R], items: Sequence[T]) -> Sequence[Future[R]]:
        todo = [(Future[R](), item) for item in items]
        waiting_for = iter(todo)

        def worker() -> None:
            for future, item in waiting_for:
                try:
                    future.set_result(work(item))
                except Exception as error:  # noqa: BLE001 - it is raised where the results are asked for
                    future.set_exception(error)

        # The place is given to the first of them: of calls that keep theirs while they wait for more, none would get any.
        with self._room.left():
            number = min(len(items), self._room.places)
            self._await(lambda: _all_of([self._calls.nested(worker, self._room, inner=True) for _ in range(number)]))
        return [future for future, _ in todo]

    def _await(self, wait: Wait) -> Any:
        if getcurrent() is not self:
            raise RuntimeError("a greenlet within a call of chunkstore on an event loop cannot wait: use a thread")
        if self._is_ending:
            raise GeneratorExit
        assert self.parent is not None
        return self.parent.switch(wait)

    # Outside: called by the loop.

    def step(self, switch: Callable[..., Any], *arguments: object) -> Any:
        """Lets it run to its next wait, or to its end."""
        self.parent = getcurrent()
        return waiting.carried(self, switch, *arguments)

    def end(self) -> None:
        """Unwinds it where nothing can be awaited any more: its loop is gone."""
        self._is_ending = True
        with suppress(GeneratorExit):
            self.step(self.throw, GeneratorExit())


async def _driven(call: _Call) -> Any:
    """What the call returns or raises; what it wants to wait for is awaited here."""
    found = call.step(call.switch)
    while not call.dead:
        try:
            value = await cast(Wait, found)()
        except GeneratorExit:
            call.end()
            raise
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where the call waits
            found = call.step(call.throw, error)
        else:
            found = call.step(call.switch, value)
    return found


async def _until_done(future: Future[Any], seconds: float | None) -> None:
    """Returns when the future of another thread is done, or the time is up; raises nothing of what it raises."""
    if future.done():
        await asyncio.sleep(0)
        return
    loop = asyncio.get_running_loop()
    woken = loop.create_future()

    def wake() -> None:
        if not woken.done():
            woken.set_result(None)

    def ring(_done: object) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(wake)

    late = None if seconds is None else loop.call_later(seconds, wake)
    future.add_done_callback(ring)
    try:
        await woken
    finally:
        if late is not None:
            late.cancel()


async def _to_its_end(future: Future[Any]) -> None:
    """Waits for what cannot be stopped; a cancellation is raised afterwards."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await _until_done(future, None)
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        raise cancelled


async def _all_of(parts: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Runs all as tasks; none is left behind when this ends, however it ends."""
    tasks = [asyncio.ensure_future(part) for part in parts]
    try:
        await asyncio.wait(tasks)
    except asyncio.CancelledError:
        for task in tasks:
            task.cancel()
        while any(not task.done() for task in tasks):
            with suppress(asyncio.CancelledError):  # once more: it is raised below
                await asyncio.wait(tasks)
        raise
    for task in tasks:
        task.result()
