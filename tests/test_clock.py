"""Stamps rise whatever the clock does, and are later than all that was read, whoever's clock is wrong."""

from __future__ import annotations

import os
import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from chunkstore.clock import HybridClock, as_datetime

# A busy machine is slow, not wrong.
unhurried = settings(deadline=None)

NOON = 1_795_262_400_000_000_000  # 2026-11-21T12:00:00Z
HOUR = 3_600_000_000_000
SECOND = 1_000_000_000


class Hands:
    """A clock whose hands a test moves."""

    def __init__(self, now: int = NOON) -> None:
        self.now = now

    def __call__(self) -> int:
        return self.now


def rising(stamps: list[str]) -> bool:
    return all(before < after for before, after in pairwise(stamps))


def test_a_stamp_tells_the_time_in_utc_to_the_nanosecond() -> None:
    assert HybridClock(Hands(NOON + 123_456_789)).stamp() == "2026-11-21T12:00:00.123456789Z"
    assert HybridClock(Hands(NOON + 1)).stamp() == "2026-11-21T12:00:00.000000001Z"


def test_the_real_clock_gives_the_time_of_now() -> None:
    before = time.time()
    stamp = HybridClock().stamp()
    assert before - 0.001 <= as_datetime(stamp).timestamp() <= time.time() + 0.001


def test_stamps_rise_while_the_clock_stands_still() -> None:
    clock = HybridClock(Hands())
    assert rising([clock.stamp() for _ in range(5000)])


def test_stamps_rise_over_the_end_of_a_second() -> None:
    clock = HybridClock(Hands(NOON + SECOND - 2))
    assert [clock.stamp()[17:] for _ in range(4)] == [
        "00.999999998Z",
        "00.999999999Z",
        "01.000000000Z",
        "01.000000001Z",
    ]


def test_stamps_rise_when_the_clock_jumps_back_an_hour() -> None:
    hands = Hands()
    clock = HybridClock(hands)
    stamps = [clock.stamp()]
    hands.now -= HOUR
    stamps += [clock.stamp() for _ in range(100)]
    hands.now += 2 * HOUR
    stamps.append(clock.stamp())
    assert rising(stamps)
    assert stamps[-1] == "2026-11-21T13:00:00.000000000Z"


@unhurried
@given(st.lists(st.integers(-10 * HOUR, 10 * HOUR) | st.just(0) | st.just(1), max_size=50), st.data())
def test_stamps_rise_whatever_the_clock_does_and_whatever_is_seen(jumps: list[int], data: st.DataObject) -> None:
    hands = Hands()
    clock, other = HybridClock(hands), HybridClock(Hands(NOON))
    stamps: list[str] = []
    for jump in jumps:
        hands.now += jump
        if data.draw(st.booleans()):
            seen = other.stamp()
            clock.saw(seen)
            assert clock.stamp() > seen
        stamps.append(clock.stamp())
    assert rising(stamps)


def test_a_stamp_is_later_than_any_that_was_seen() -> None:
    clock = HybridClock(Hands())
    clock.saw("2027-01-01T00:00:00.999999999Z")
    clock.saw("2026-01-01T00:00:00.000000000Z")
    assert clock.stamp() == "2027-01-01T00:00:01.000000000Z"


def test_an_older_stamp_that_was_seen_changes_nothing() -> None:
    clock = HybridClock(Hands())
    clock.saw("2026-01-01T00:00:00.000000000Z")
    assert clock.stamp() == "2026-11-21T12:00:00.000000000Z"


@unhurried
@given(st.lists(st.integers(0, 2**62), min_size=2, max_size=20))
def test_the_order_of_the_texts_is_the_order_in_time(times: list[int]) -> None:
    assert sorted(HybridClock(Hands(now)).stamp() for now in times) == [
        HybridClock(Hands(now)).stamp() for now in sorted(times)
    ]


@unhurried
@given(st.integers(0, 2**62))
def test_a_stamp_comes_back_as_its_time_to_the_microsecond(now: int) -> None:
    expected = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now // 1000)
    assert abs(as_datetime(HybridClock(Hands(now)).stamp()) - expected) <= timedelta(microseconds=now == 0)


@unhurried
@given(st.integers(0, 2**32), st.lists(st.integers(-5 * SECOND, 5 * SECOND), min_size=4, max_size=4))
def test_hosts_with_wrong_clocks_keep_causes_before_effects(seed: int, skews: list[int]) -> None:
    chance = random.Random(seed)
    true_time = Hands()
    hosts = [HybridClock(lambda skew=skew: true_time.now + skew) for skew in skews]
    written: list[tuple[str, list[str]]] = []
    seen: list[list[str]] = [[] for _ in hosts]
    for _ in range(60):
        true_time.now += chance.randrange(SECOND // 10)
        host = chance.randrange(4)
        if written and chance.random() < 0.5:
            stamp, causes = chance.choice(written)
            hosts[host].saw(stamp)
            seen[host] += [stamp, *causes]
        else:
            stamp = hosts[host].stamp()
            assert all(cause < stamp for cause in seen[host])
            written.append((stamp, list(seen[host])))
            seen[host].append(stamp)


def test_many_threads_never_get_the_same_stamp() -> None:
    clock = HybridClock(Hands())
    with ThreadPoolExecutor(8) as threads:
        runs = list(threads.map(lambda _: [clock.stamp() for _ in range(500)], range(8)))
    assert all(map(rising, runs))
    assert len({stamp for stamps in runs for stamp in stamps}) == 8 * 500


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_child_forked_while_another_thread_takes_a_stamp_can_take_one_too() -> None:
    asked, forked = threading.Event(), threading.Event()
    parent = os.getpid()

    def slow_clock() -> int:
        if os.getpid() == parent:
            asked.set()
            forked.wait(60)
        return NOON

    clock = HybridClock(slow_clock)
    thread = threading.Thread(target=clock.stamp)
    thread.start()
    asked.wait(60)
    child = os.fork()
    if child == 0:
        threading.Timer(30, os._exit, [1]).start()
        clock.saw("2027-01-01T00:00:00.000000000Z")
        os._exit(0 if clock.stamp() > "2027" else 2)
    forked.set()
    thread.join()
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
