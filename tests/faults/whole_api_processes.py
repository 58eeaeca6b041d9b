"""Stores in other processes that do what they are told through a pipe: a forked child, or one that was started afresh."""

from __future__ import annotations

import itertools
import multiprocessing
import os
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from typing import Any, Final
from unittest.mock import patch

from pydantic import BaseModel

from chunkstore import ChunkedRunLogStore, ChunkStoreError, RunChange, StoreSettings
from chunkstore.backends import Backend
from chunkstore.clock import HybridClock

HANGS: Final = 60.0


class Skewed:
    """The time of a host whose clock is wrong."""

    def __init__(self, seconds: int = 0) -> None:
        self.seconds = seconds

    def __call__(self) -> int:
        return time.time_ns() + self.seconds * 1_000_000_000


@dataclass
class Home:
    """A store where it lives: its clock, and the objects that its callers elsewhere hold, by number."""

    store: ChunkedRunLogStore
    clock: Skewed
    kept: dict[int, BaseModel] = field(default_factory=dict)


class Peer:
    """Another process, and the pipe to it."""

    def __init__(self, method: str, stores: dict[int, Home]) -> None:
        context: Any = multiprocessing.get_context(method)
        self._pipe, theirs = context.Pipe()
        # A forked child inherits our end too, and would never see the pipe end if it kept it.
        ours = self._pipe if method == "fork" else None
        self.process = context.Process(target=serve, args=(theirs, ours, os.getpid(), stores))
        self.process.start()
        theirs.close()

    def tell(self, *message: object) -> Any:
        """The result of what it was told to do; or raises what it raised."""
        self._pipe.send(message)
        assert self._pipe.poll(HANGS), f"process {self.process.pid} hangs in {message}"
        done, result = self._pipe.recv()
        if not done:
            raise result
        return result

    def end(self) -> None:
        """Ends the process, by force where it does not listen."""
        try:
            self._pipe.send(("end",))
        except OSError:
            self.process.kill()
        self.process.join(HANGS)
        if self.process.is_alive():
            self.process.kill()
            self.process.join()
        self._pipe.close()


@contextmanager
def spawned() -> Iterator[Peer]:
    """A process that was started afresh and shares nothing with us."""
    peer = Peer("spawn", {})
    try:
        yield peer
    finally:
        peer.end()


class Away:
    """A store in another process, used like one in ours.

    Objects that travel are numbered: over there the very object that was read or written is changed and written again, as
    it would be if its holder lived there.
    """

    def __init__(self, peer: Peer, number: int, *, alone: bool) -> None:
        self._peer = peer
        self._alone = alone
        self._number = number
        self._numbered: dict[int, tuple[int, BaseModel]] = {}

    def holds(self, number: int, thing: BaseModel) -> None:
        """What we hold of an object that is kept over there under this number."""
        self._numbered[id(thing)] = (number, thing)

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: object, **keywords: object) -> Any:
            sent = [self._sent(one) for one in arguments]
            mine = next(NUMBERS)
            result = self._peer.tell("call", self._number, name, sent, keywords, mine)
            if isinstance(result, BaseModel):
                self._numbered[id(result)] = (mine, result)
            return result

        return call

    def follow(self, run_id: str) -> Iterator[RunChange]:
        """The first look alone: what comes later cannot travel."""
        return iter(self._peer.tell("follow", self._number, run_id))

    @property
    def supports_parallel_writes(self) -> bool:
        found: bool = self._peer.tell("property", self._number, "supports_parallel_writes")
        return found

    def drop(self) -> None:
        """Ends the store, and its process where that was made for it alone."""
        try:
            self._peer.tell("drop", self._number)
        finally:
            if self._alone:
                self._peer.end()

    def skew(self, seconds: int) -> None:
        """Sets its host's clock."""
        self._peer.tell("skew", self._number, seconds)

    def _sent(self, thing: object) -> object:
        if not isinstance(thing, BaseModel):
            return thing
        if id(thing) not in self._numbered:
            self._numbered[id(thing)] = (next(NUMBERS), thing)
        return Sent(self._numbered[id(thing)][0], thing)


NUMBERS: Final = itertools.count(1)
"""Of objects and stores; each is used once."""


class Sent:
    """An object on its way, with its number."""

    def __init__(self, number: int, thing: BaseModel) -> None:
        self.number = number
        self.thing = thing


def serve(pipe: Connection, not_ours: Connection | None, parent: int, homes: dict[int, Home]) -> None:
    """What the other process does: one call after the other, until it is told to end or nobody is left to tell it."""
    if not_ours is not None:
        not_ours.close()
    while True:
        if not pipe.poll(5):
            if os.getppid() != parent:
                return
            continue
        try:
            what, *arguments = pipe.recv()
        except EOFError:
            return
        if what == "end":
            return
        try:
            pipe.send((True, _done(what, arguments, homes)))
        except ChunkStoreError as error:
            pipe.send((False, error))
        except Exception:  # noqa: BLE001  whatever it is, the test must hear of it
            pipe.send((False, AssertionError(traceback.format_exc())))


def _done(what: str, arguments: list[Any], homes: dict[int, Home]) -> object:
    number, *arguments = arguments
    if what == "open":
        backend, settings, seconds = arguments
        clock = Skewed(seconds)
        homes[number] = Home(opened(backend, settings, clock), clock)
        return None
    home = homes[number]
    if what == "drop":
        home.store.close()
        del homes[number]
        return None
    if what == "skew":
        (home.clock.seconds,) = arguments
        return None
    if what == "property":
        return getattr(home.store, arguments[0])
    if what == "follow":
        return first_look(home.store, *arguments)
    name, sent, keywords, mine = arguments
    result = getattr(home.store, name)(*(_kept(one, home.kept) for one in sent), **keywords)
    if isinstance(result, BaseModel):
        home.kept[mine] = result
    return list(result) if isinstance(result, Iterator) else result


class _PausedError(Exception):
    """The first look is over."""


def first_look(store: ChunkedRunLogStore, run_id: str) -> list[RunChange]:
    """What a follower sees before it pauses."""
    seen = []
    with patch.object(store._chunks, "pause", side_effect=_PausedError), suppress(_PausedError):
        for change in store.follow(run_id):
            seen.append(change)  # noqa: PERF402  a list that is made at once is lost with the pause
    return seen


def opened(backend: Backend, settings: StoreSettings, now: Skewed) -> ChunkedRunLogStore:
    """A store of a process that knows nothing, on a host with this clock."""
    return ChunkedRunLogStore(backend, settings=settings, clock=HybridClock(now))


def _kept(sent: object, kept: dict[int, BaseModel]) -> object:
    """The object that is here already, as it was sent."""
    if not isinstance(sent, Sent):
        return sent
    if sent.number in kept:
        graft(kept[sent.number], sent.thing)
    else:
        kept[sent.number] = sent.thing
    return kept[sent.number]


def graft(ours: BaseModel, sent: BaseModel) -> None:
    """Makes our object and all in it equal to what was sent, without making new objects of those that are there."""
    for name in type(sent).model_fields:
        old, new = getattr(ours, name), getattr(sent, name)
        if name in ("steps", "branches"):
            for key, child in new.items():
                if key in old:
                    graft(old[key], child)
                else:
                    old[key] = child
        elif isinstance(old, BaseModel) and isinstance(new, BaseModel):
            graft(old, new)
        else:
            setattr(ours, name, new)
