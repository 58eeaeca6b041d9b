"""One value for all users with the same key, closed when it must be and never under somebody who uses it."""

from __future__ import annotations

import gc
import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from chunkstore.backends.sharing import Share, Sharing


class Line:
    """Something that can be closed, once."""

    def __init__(self) -> None:
        self.closed = 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def sharing() -> Sharing[Line]:
    return Sharing(idle=2)


def test_users_of_one_key_share_a_value_and_those_of_another_do_not(sharing: Sharing[Line]) -> None:
    one, two, other = (sharing.join(key, Line) for key in ("a", "a", "b"))
    assert one.value is two.value
    assert one.value is not other.value


def test_the_last_user_closes_and_nobody_before(sharing: Sharing[Line]) -> None:
    one, two = sharing.join("a", Line), sharing.join("a", Line)
    sharing.leave(one)
    sharing.leave(one)
    assert two.value.closed == 0
    sharing.leave(two)
    assert two.value.closed == 1


def test_who_joins_after_the_end_gets_a_new_value_that_an_old_share_cannot_close(sharing: Sharing[Line]) -> None:
    old = sharing.join("a", Line)
    sharing.leave(old)
    new = sharing.join("a", Line)
    assert new.value is not old.value
    sharing.leave(old)
    assert new.value.closed == 0


def test_the_value_of_a_collected_user_waits_for_the_next(sharing: Sharing[Line]) -> None:
    line = sharing.join("a", Line).value
    gc.collect()
    assert line.closed == 0
    assert sharing.join("a", Line).value is line


def test_a_collected_user_does_not_keep_the_last_one_from_closing(sharing: Sharing[Line]) -> None:
    last = sharing.join("a", Line)
    sharing.join("a", Line)
    gc.collect()
    sharing.leave(last)
    assert last.value.closed == 1


def test_of_the_unused_only_the_newest_stay_open_and_of_the_used_all(sharing: Sharing[Line]) -> None:
    used = [sharing.join(f"used {number}", Line) for number in range(4)]
    unused = [sharing.join(f"unused {number}", Line).value for number in range(4)]
    gc.collect()
    sharing.join("one more", Line)
    assert [line.closed for line in unused] == [1, 1, 0, 0]
    assert [share.value.closed for share in used] == [0, 0, 0, 0]


def test_a_finaliser_that_leaves_in_the_middle_of_a_join_does_not_wait_for_itself(sharing: Sharing[Line]) -> None:
    other = sharing.join("b", Line)

    class Key(str):
        __slots__ = ()

        def __hash__(self) -> int:
            sharing.leave(other)  # as the collector might, anywhere in there
            return hash(str(self))

    assert sharing.join(Key("a"), Line).value.closed == 0
    assert other.value.closed == 1


def test_of_threads_that_join_and_leave_none_ever_holds_a_closed_value(sharing: Sharing[Line]) -> None:
    made: list[Line] = []

    def make() -> Line:
        made.append(Line())
        return made[-1]

    def work(seed: int) -> int:
        choices, met = random.Random(seed), 0
        for _ in range(1_000):
            share: Share[Line] = sharing.join(choices.choice("abcd"), make)
            met += share.value.closed
            if choices.random() < 0.7:
                sharing.leave(share)
        return met

    with ThreadPoolExecutor(8) as threads:
        assert sum(threads.map(work, range(8))) == 0
    assert max(line.closed for line in made) == 1
