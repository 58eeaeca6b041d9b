"""A value of one process is never shared with another."""

from __future__ import annotations

import gc
import os
import pickle
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import ClassVar

import pytest

from chunkstore.process import ProcessLocal

fork = pytest.mark.skipif(not hasattr(os, "fork"), reason="this platform cannot fork")


class Connection:
    """Notes when it is finalised."""

    finalised: ClassVar[list[int]] = []

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.itself = self

    def __del__(self) -> None:
        self.finalised.append(self.owner)


def in_a_child(check: object) -> bool:
    """Runs the check in a forked child; did it return True?"""
    child = os.fork()
    if child == 0:
        os._exit(0 if check() is True else 1)  # type: ignore[operator]
    return os.waitpid(child, 0)[1] == 0


def test_the_value_is_made_once_and_not_before_it_is_needed() -> None:
    made: list[object] = []
    local = ProcessLocal(lambda: made.append(object()) or made[-1])
    assert made == []
    assert local.get() is local.get()
    assert len(made) == 1


@fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_child_makes_its_own_and_never_finalises_what_it_inherited() -> None:
    local = ProcessLocal(Connection)
    inherited = id(local.get())
    parent = os.getpid()
    holder = [local]
    del local

    def check() -> bool:
        fresh = holder[0].get()
        anew = fresh.owner == os.getpid() and id(fresh) != inherited
        del fresh
        holder.clear()
        gc.collect()
        return anew and os.getpid() in Connection.finalised and parent not in Connection.finalised

    assert in_a_child(check)
    assert holder[0].get().owner == parent


@fork
@pytest.mark.filterwarnings("ignore:.*multi-threaded:DeprecationWarning")
def test_a_lock_that_a_thread_holds_at_the_fork_is_free_in_the_child() -> None:
    local = ProcessLocal(threading.Lock)
    with local.get():
        assert in_a_child(lambda: local.get().acquire(timeout=1))


def test_threads_that_ask_at_once_get_one_value() -> None:
    def slowly() -> object:
        time.sleep(0.01)  # so that all have found nothing before the first is done
        return object()

    local = ProcessLocal(slowly)
    with ThreadPoolExecutor(16) as threads:
        assert len({id(value) for value in threads.map(lambda _: local.get(), range(16))}) == 1


def test_it_pickles_as_its_maker() -> None:
    local = ProcessLocal(dict)
    local.get()["secret"] = 1
    assert pickle.loads(pickle.dumps(local)).get() == {}


def test_a_child_of_a_fork_that_ran_no_hook_makes_its_own_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """As an extension module forks: then the process's number alone tells."""
    local = ProcessLocal(object)
    ours = local.get()
    monkeypatch.setattr(os, "getpid", lambda: -1)
    assert local.get() is not ours
