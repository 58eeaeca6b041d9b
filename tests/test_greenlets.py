"""Blocking code on an event loop: it lets the loop run where it waits, ends where it is cancelled, and takes no thread."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import queue
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import pytest

pytest.importorskip("greenlet")

from greenlet import greenlet

from chunkstore import waiting
from chunkstore.greenlets import Calls

NAME: contextvars.ContextVar[str] = contextvars.ContextVar("name", default="")


@pytest.fixture
def calls() -> Iterator[Calls]:
    calls = Calls(8)
    yield calls
    calls.close()


@pytest.fixture
def noise(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What would be printed of errors that nobody sees."""
    heard: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", heard.append)
    return heard


async def turns(number: int = 5) -> None:
    for _ in range(number):
        await asyncio.sleep(0)


def test_a_call_returns_and_raises_what_its_code_does(calls: Calls) -> None:
    def failing() -> None:
        waiting.sleep(0)
        raise LookupError("there is none")

    async def main() -> None:
        assert await calls.run(lambda number, more: number + more, 3, more=4) == 7
        with pytest.raises(LookupError, match="there is none") as caught:
            await calls.run(failing)
        assert "raise LookupError" in "".join(traceback.format_exception(caught.value))

    asyncio.run(main())


def test_two_that_wait_for_each_other_meet(calls: Calls) -> None:
    here: Future[str] = Future()
    there: Future[str] = Future()

    def first() -> str:
        here.set_result("first")
        return waiting.result(there, 10)

    def second() -> str:
        there.set_result("second")
        return waiting.result(here, 10)

    async def main() -> list[str]:
        return await asyncio.gather(calls.run(first), calls.run(second))

    assert asyncio.run(main()) == ["second", "first"]


def test_a_wait_that_is_too_long_raises_as_everywhere(calls: Calls) -> None:
    future: Future[None] = Future()

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await calls.run(waiting.result, future, 0.01)
        future.set_exception(LookupError("late"))
        with pytest.raises(LookupError, match="late"):
            await calls.run(waiting.result, future, 0.01)

    with pytest.raises(TimeoutError):
        waiting.result(future, 0.01)
    asyncio.run(main())


def test_what_another_thread_cancels_is_not_taken_for_a_cancelled_task(calls: Calls) -> None:
    from concurrent.futures import CancelledError

    future: Future[None] = Future()
    future.cancel()

    async def main() -> None:
        with pytest.raises(CancelledError):
            await calls.run(waiting.result, future, 1)

    asyncio.run(main())
    assert not issubclass(CancelledError, asyncio.CancelledError)


def test_a_cancelled_call_ends_where_it_waits_and_puts_away_what_it_holds(calls: Calls, noise: list[Any]) -> None:
    lock = threading.Lock()
    put_away: list[str] = []

    def work() -> None:
        with waiting.holding(lock):
            try:
                waiting.result(Future())
            except asyncio.CancelledError:
                put_away.append("cancelled")
                raise
            finally:
                waiting.sleep(0)  # what ends may still wait
                put_away.append("ended")

    async def main() -> None:
        task = asyncio.ensure_future(calls.run(work))
        await turns()
        assert lock.locked()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert not lock.locked()
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await calls.run(work)

    asyncio.run(main())
    gc.collect()
    assert put_away == ["cancelled", "ended"] * 2
    assert noise == []


def test_a_call_whose_loop_is_gone_is_unwound_without_noise(calls: Calls, noise: list[Any]) -> None:
    put_away: list[str] = []

    def work() -> None:
        try:
            waiting.result(Future())
        finally:
            put_away.append("first")
            try:
                waiting.sleep(0)  # nobody can await it any more
            finally:
                put_away.append("second")

    running = calls.run(work)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(_started(running))
    loop.close()
    del running
    gc.collect()
    assert put_away == ["first", "second"]
    assert noise == []


async def _started(coroutine: Any) -> None:
    """Takes its first step; whoever holds it may leave it there."""
    coroutine.send(None)


def test_context_variables_are_those_of_the_task(calls: Calls) -> None:
    def work() -> str:
        before = NAME.get()
        waiting.sleep(0)
        NAME.set(f"{before} after")
        return before

    async def one(name: str) -> tuple[str, str]:
        NAME.set(name)
        return await calls.run(work), NAME.get()

    async def main() -> list[tuple[str, str]]:
        return await asyncio.gather(one("a"), one("b"))

    assert asyncio.run(main()) == [("a", "a after"), ("b", "b after")]


def test_a_lock_that_is_held_across_a_wait_is_passed_on_within_one_thread(calls: Calls) -> None:
    lock = threading.Lock()
    inside = most = 0

    def work() -> None:
        nonlocal inside, most
        with waiting.holding(lock):
            inside += 1
            most = max(most, inside)
            waiting.sleep(0.001)
            inside -= 1

    async def main() -> None:
        await asyncio.wait_for(asyncio.gather(*(calls.run(work) for _ in range(20))), 30)

    asyncio.run(main())
    assert most == 1
    assert not lock.locked()


def test_a_lock_that_others_keep_is_given_up_in_time_and_stays_theirs(calls: Calls) -> None:
    lock = threading.Lock()
    taken: list[bool] = []
    with lock:
        asyncio.run(calls.run(waiting.take, lock, 0.01, taken))
        waiting.take(lock, 0.01, other := [])
    assert (taken, other) == ([False], [False])


def test_calls_and_threads_share_a_lock(calls: Calls) -> None:
    lock = threading.Lock()
    count = 0

    def work() -> None:
        nonlocal count
        for _ in range(20):
            with waiting.holding(lock):
                seen = count
                waiting.sleep(0)
                count = seen + 1

    async def main() -> None:
        await asyncio.gather(*(calls.run(work) for _ in range(4)))

    with ThreadPoolExecutor(2) as threads:
        running = [threads.submit(work) for _ in range(2)]
        asyncio.run(main())
        for one in running:
            one.result()
    assert count == 6 * 20


class TestPlaces:
    def test_no_more_calls_are_under_way_than_there_are_places(self) -> None:
        calls = Calls(3)
        now = most = 0

        def work() -> None:
            nonlocal now, most
            now += 1
            most = max(most, now)
            waiting.sleep(0.001)
            now -= 1

        async def main() -> None:
            await asyncio.gather(*(calls.run(work) for _ in range(30)))

        asyncio.run(main())
        assert most == 3

    def test_the_parts_of_a_call_share_them_with_all_others_and_none_starves(self) -> None:
        calls = Calls(2)
        now = most = 0

        def part(number: int) -> int:
            nonlocal now, most
            now += 1
            most = max(most, now)
            waiting.sleep(0.001)
            now -= 1
            return number

        def work() -> list[int]:
            return waiting.at_once(part, list(range(5)), no_threads)

        async def main() -> list[list[int]]:
            return await asyncio.wait_for(asyncio.gather(*(calls.run(work) for _ in range(10))), 30)

        assert asyncio.run(main()) == [[0, 1, 2, 3, 4]] * 10
        assert most == 2

    def test_one_that_sleeps_long_leaves_its_place_to_others(self) -> None:
        calls = Calls(1)
        order: list[str] = []

        def sleeper() -> None:
            waiting.sleep(0.6)
            order.append("sleeper")

        async def main() -> None:
            sleeping = asyncio.ensure_future(calls.run(sleeper))
            await turns()
            await calls.run(order.append, "other")
            await sleeping

        asyncio.run(main())
        assert order == ["other", "sleeper"]

    def test_those_that_are_cancelled_while_they_wait_for_one_leave_it_to_the_next(self) -> None:
        calls = Calls(1)
        gate: Future[None] = Future()

        async def main() -> None:
            first = asyncio.ensure_future(calls.run(waiting.result, gate, 10))
            await turns()
            waiting_ones = [asyncio.ensure_future(calls.run(waiting.sleep, 0)) for _ in range(5)]
            await turns()
            waiting_ones[0].cancel()  # while it waits
            gate.set_result(None)
            await first
            waiting_ones[1].cancel()  # in the moment in which it is given the place
            ended = await asyncio.gather(*waiting_ones, return_exceptions=True)
            assert [isinstance(one, asyncio.CancelledError) for one in ended] == [True, True, False, False, False]
            assert await asyncio.wait_for(calls.run(lambda: "free"), 10) == "free"

        asyncio.run(main())

    def test_each_loop_has_its_own(self, calls: Calls) -> None:
        both = threading.Barrier(2)

        async def main() -> int:
            await asyncio.to_thread(both.wait, 10)
            await asyncio.gather(*(calls.run(waiting.sleep, 0.001) for _ in range(50)))
            return 50

        with ThreadPoolExecutor(2) as threads:
            assert list(threads.map(lambda _: asyncio.run(main()), range(2))) == [50, 50]


def no_threads() -> Any:
    raise AssertionError("threads are not asked for on a loop")


class TestAtOnce:
    def test_all_have_ended_when_the_first_error_is_raised(self, calls: Calls) -> None:
        ended: list[int] = []

        def part(number: int) -> int:
            waiting.sleep(0.001 * number)
            ended.append(number)
            if number in {1, 3}:
                raise LookupError(str(number))
            return number

        async def main() -> None:
            with pytest.raises(LookupError, match="1"):
                await calls.run(waiting.at_once, part, list(range(6)), no_threads)

        asyncio.run(main())
        assert sorted(ended) == [0, 1, 2, 3, 4, 5]
        with ThreadPoolExecutor(2) as threads, pytest.raises(LookupError, match="1"):
            waiting.at_once(part, list(range(6)), lambda: threads)

    def test_cancelling_ends_all_parts_and_leaves_none_behind(self, calls: Calls, noise: list[Any]) -> None:
        ended: list[int] = []

        def part(number: int) -> None:
            try:
                waiting.result(Future())
            finally:
                waiting.sleep(0.01)
                ended.append(number)

        async def main() -> None:
            running = asyncio.ensure_future(calls.run(waiting.at_once, part, list(range(5)), no_threads))
            await turns(10)
            running.cancel()
            await turns(2)
            running.cancel()  # impatient
            with pytest.raises(asyncio.CancelledError):
                await running
            assert sorted(ended) == [0, 1, 2, 3, 4]
            assert asyncio.all_tasks() == {asyncio.current_task()}
            assert await asyncio.wait_for(calls.run(lambda: "free"), 10) == "free"

        asyncio.run(main())
        gc.collect()
        assert noise == []


class TestApart:
    def test_what_blocks_runs_in_another_thread_and_the_loop_runs_on(self, calls: Calls) -> None:
        gate = threading.Event()

        def blocking() -> int:
            assert gate.wait(10)
            return threading.get_ident()

        async def main() -> int:
            running = asyncio.ensure_future(calls.run(waiting.apart, blocking))
            await turns()
            gate.set()  # by the loop, which would be blocked
            return await running

        assert asyncio.run(main()) != threading.get_ident()
        assert waiting.apart(threading.get_ident) == threading.get_ident()

    def test_what_was_begun_is_done_before_a_cancelled_call_puts_things_away(self, calls: Calls) -> None:
        gate = threading.Event()
        opened: list[str] = []
        seen: list[list[str]] = []

        def opening() -> None:
            assert gate.wait(10)
            opened.append("file")

        def work() -> None:
            try:
                waiting.apart(opening)
            finally:
                seen.append(list(opened))

        async def main() -> None:
            running = asyncio.ensure_future(calls.run(work))
            await turns()
            running.cancel()
            await turns()
            gate.set()
            with pytest.raises(asyncio.CancelledError):
                await running

        asyncio.run(main())
        assert seen == [["file"]]


class TestArrivals:
    @pytest.mark.parametrize("putters", [1, 3])
    def test_all_that_other_threads_hand_over_arrives(self, calls: Calls, putters: int) -> None:
        arrivals: waiting.Arrivals[int] = waiting.Arrivals()
        number = 500

        def put() -> None:
            for item in range(number):
                arrivals.put(item)
                if item % 50 == 0:
                    time.sleep(0.0005)  # so that the reader waits now and then

        def read() -> list[int]:
            return [arrivals.get(10) for _ in range(number * putters)]

        with ThreadPoolExecutor(putters) as threads:
            for _ in range(putters):
                threads.submit(put)
            assert sorted(asyncio.run(calls.run(read))) == sorted(list(range(number)) * putters)
            for _ in range(putters):
                threads.submit(put)
            assert sorted(read()) == sorted(list(range(number)) * putters)

    def test_what_comes_while_the_reader_is_about_to_wait_is_not_waited_for(self, calls: Calls) -> None:
        arrivals: waiting.Arrivals[int] = waiting.Arrivals()

        class Late(queue.SimpleQueue[int]):
            """Empty at the first look; right after it something is put, and nobody has hung up a bell yet."""

            looks = 0

            def get_nowait(self) -> int:
                self.looks += 1
                if self.looks == 1:
                    arrivals.put(7)
                    raise queue.Empty
                return super().get_nowait()

        arrivals._items = Late()

        async def main() -> int:
            return await asyncio.wait_for(calls.run(arrivals.get, 60), 10)

        assert asyncio.run(main()) == 7

    def test_what_never_comes_is_given_up_in_time(self, calls: Calls) -> None:
        arrivals: waiting.Arrivals[int] = waiting.Arrivals()
        for get in (arrivals.get, lambda seconds: asyncio.run(calls.run(arrivals.get, seconds))):
            with pytest.raises(TimeoutError, match="nothing arrived"):
                get(0.01)

    def test_a_reader_for_whom_all_is_there_lets_others_run(self, calls: Calls) -> None:
        arrivals: waiting.Arrivals[int] = waiting.Arrivals()
        for item in range(100):
            arrivals.put(item)
        turns_of_others = 0

        async def others() -> None:
            nonlocal turns_of_others
            while True:
                await asyncio.sleep(0)
                turns_of_others += 1

        async def main() -> None:
            running = asyncio.ensure_future(others())
            await calls.run(lambda: [arrivals.get(1) for _ in range(100)])
            running.cancel()

        asyncio.run(main())
        assert turns_of_others >= 50


def test_a_thread_and_a_task_that_a_call_starts_are_not_carried_by_it(calls: Calls) -> None:
    def in_a_thread() -> None:
        waiting.sleep(0)
        waiting.result(_done())

    def work() -> None:
        with ThreadPoolExecutor(1) as threads:
            context = contextvars.copy_context()
            threads.submit(context.run, in_a_thread).result(10)

    asyncio.run(calls.run(work))


def _done() -> Future[None]:
    done: Future[None] = Future()
    done.set_result(None)
    return done


def test_a_greenlet_within_a_call_is_told_that_it_cannot_wait(calls: Calls) -> None:
    def work() -> None:
        greenlet(lambda: waiting.sleep(0)).switch()

    with pytest.raises(RuntimeError, match="use a thread"):
        asyncio.run(calls.run(work))


def test_a_call_without_a_loop_waits_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    waiting.sleep(1.5)
    assert slept == [1.5]


def test_ten_thousand_calls_take_no_thread_and_leave_nothing(calls: Calls) -> None:
    def work(number: int) -> int:
        waiting.sleep(0)
        return number

    async def main() -> int:
        return sum(await asyncio.gather(*(calls.run(work, number) for number in range(10_000))))

    before = threading.active_count(), living_calls()
    assert asyncio.run(main()) == sum(range(10_000))
    assert (threading.active_count(), living_calls()) == before


def living_calls() -> int:
    gc.collect()
    return len([thing for thing in gc.get_objects() if type(thing).__name__ == "_Call"])
