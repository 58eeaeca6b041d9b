"""The end of a process in which threads that Python did not start call back into Python: obstore's, each time a request is done."""

from __future__ import annotations

import atexit
import sys
import threading
import time
from types import FrameType
from typing import Final

_PATIENCE: Final = 5.0  # seconds that the end of a process may take for it
_LOOK: Final = 0.001
_ENTRY: Final = "call_soon_threadsafe"
"""The one function of an event loop through which a foreign thread hands over what it has."""


def outlast_them() -> None:
    """Makes this process wait at its end until no foreign thread is inside an event loop. May be called any number of times.

    A thread that wants to go on in Python once the interpreter is being taken down is ended in its tracks by CPython before 3.14; where
    the frames below are Rust's, that aborts the process. It has done its work by then, but its caller sees SIGABRT.
    """
    atexit.unregister(_wait_until_they_left)
    atexit.register(_wait_until_they_left)


def _wait_until_they_left() -> None:
    until = time.monotonic() + _PATIENCE
    while _is_one_inside() and time.monotonic() < until:
        time.sleep(_LOOK)


def _is_one_inside() -> bool:
    ours = {thread.ident for thread in threading.enumerate()}
    return any(_hands_over(frame) for ident, frame in sys._current_frames().items() if ident not in ours)  # noqa: SLF001


def _hands_over(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_name == _ENTRY:
            return True
        frame = frame.f_back
    return False
