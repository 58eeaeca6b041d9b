"""When a chunk was created: a hybrid logical clock, later than anything that this process has read.

So causal order survives clock skew: whoever creates a step after having read another gives it the later stamp, however
wrong the hosts' clocks are (Kulkarni et al., "Logical Physical Clocks", 2014, with the counter in the nanoseconds).
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from typing import Final

from chunkstore.process import ProcessLocal

_BILLION: Final = 1_000_000_000
_SECOND: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}")
_FRACTION: Final = re.compile(r"\.[0-9]{9}Z")
_END: Final = "9999"
_FIRST: Final = "1970-01-01T00:00:00.000000000Z"


class HybridClock:
    """Stamps in UTC with nanoseconds, `2026-11-21T12:00:00.123456789Z`: their text order is their order in time."""

    def __init__(self, now: Callable[[], int] = time.time_ns) -> None:
        self._now = now
        self._lock = ProcessLocal(threading.Lock)  # another thread may hold it at the moment of a fork
        self._last = _FIRST

    def stamp(self) -> str:
        """A stamp that is later than each one given or seen before."""
        with self._lock.get():
            stamp = _text(self._now())
            if stamp <= self._last:
                stamp = _text(_nanoseconds(self._last) + 1)
            self._last = stamp
        return stamp

    def saw(self, stamp: str) -> None:
        """Takes note of a stamp that was read."""
        if self._last < stamp < _END:  # there is nothing later than the year 9999
            with self._lock.get():
                self._last = max(self._last, stamp)


def is_stamp(text: object) -> bool:
    """Whether this is a time as we write it."""
    return isinstance(text, str) and _is_second(text[:19]) and _FRACTION.fullmatch(text, 19) is not None


@lru_cache(maxsize=64)  # of the many chunks of a run, many were made in one second
def _is_second(text: str) -> bool:
    if not _SECOND.fullmatch(text):
        return False
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def as_datetime(stamp: str) -> datetime:
    """The time of a stamp, to the microsecond."""
    return datetime.fromisoformat(f"{stamp[:26]}+00:00")


def stamp_of(nanoseconds: int) -> str:
    """The stamp of a moment, in nanoseconds since 1970; the year is one of four digits."""
    return _text(nanoseconds)


def _text(nanoseconds: int) -> str:
    seconds, rest = divmod(nanoseconds, _BILLION)
    return f"{_text_of_second(seconds)}.{rest:09d}Z"


@lru_cache(maxsize=8)  # the calendar is the slow part, and many chunks are made in one second
def _text_of_second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def _nanoseconds(stamp: str) -> int:
    whole = datetime.fromisoformat(f"{stamp[:19]}+00:00")
    return int(whole.timestamp()) * _BILLION + int(stamp[20:29])
