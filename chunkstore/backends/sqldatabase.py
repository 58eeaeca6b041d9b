"""A database as it is: statements are tried again where that helps, end in time, and their failures are translated.

An engine belongs to one process. A child that was forked makes its own, and neither uses nor closes what it inherited.
"""

from __future__ import annotations

import functools
import logging
import os
import threading
import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Final, Protocol, TypeVar, runtime_checkable

import sqlalchemy
from sqlalchemy import Connection, Engine

from chunkstore import waiting
from chunkstore.backends import sqlfaults
from chunkstore.backends.contract import Guarantees
from chunkstore.backends.sqlfaults import Fault, fault_of
from chunkstore.backends.sqlsettings import SqlSettings
from chunkstore.backends.sqlstatements import Speech, Statements, Unversioned, Versioned
from chunkstore.backends.sqltable import Shape, is_ours, table_of
from chunkstore.errors import (
    BackendUnavailableError,
    ChunkStoreError,
    ConflictError,
    NotSupportedError,
    StorageFullError,
    WriteStateUnknownError,
)
from chunkstore.process import ProcessLocal

T = TypeVar("T")

log = logging.getLogger(__name__)

_SHOWN_KEYS: Final = 5
_LEAVING_SECONDS: Final = 3.0
"""How long the answer to an unlock is waited for, before the connection is closed instead."""


class Side(Speech, Protocol):
    """One of the two databases, in one process."""

    engine: Engine
    concurrency: int
    ascii_only: bool
    makes_table: bool
    completes_table: bool
    token: int
    """Another one for another file: what is known of the table holds as long as it stays."""

    def guard(self) -> AbstractContextManager[object]: ...
    def find(self, *, make: bool) -> bool: ...
    def limit(self, connection: Connection, until: float) -> None: ...
    def pause(self, tries: int, *, busy: bool) -> float | None: ...
    def shape(self, connection: Connection, table: str) -> Shape: ...
    def guarantees(self, connection: Connection | None) -> Guarantees: ...
    def lasting(self, connection: Connection, *, barrier: bool) -> AbstractContextManager[None]: ...
    def make(self, connection: Connection, table: str, shape: Shape) -> None: ...


@runtime_checkable
class Sessions(Protocol):
    """A database that locks by the session of a connection, and lets go when that ends."""

    def is_direct(self, connection: Connection) -> bool: ...
    def enter(self, connection: Connection, key: str, until: float, *, shared: bool) -> None: ...
    def leave(self, connection: Connection, key: str, *, shared: bool) -> None: ...


class _Within(threading.local):
    """The connection whose session keeps others out for this thread; all that the thread asks for goes by it."""

    connection: Connection | None = None


class SaidError(Exception):
    """What the database said. In place of the driver's own error, which holds parameters, and the connection with its password."""


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for, for error messages and for the decision whether to repeat it."""

    verb: str
    key: str
    write: bool = False
    """Does it put something? Then it is made again only where it was surely not done."""
    makes: bool = False
    """Does it make what is missing: the file, the table?"""


Work = Callable[[Connection, Statements], T]


class _Here:
    """The database in this process: the engine, and what is known of the table."""

    def __init__(self, settings: SqlSettings) -> None:
        self.side = _side_of(settings)
        self.known: tuple[int, Statements] | None = None
        self.within = _Within()
        self._finalizer = weakref.finalize(self, _dispose, self.side.engine, os.getpid())

    def known_statements(self) -> Statements | None:
        """What was found out of the table, as long as it is the same file."""
        if self.known is None or self.known[0] != self.side.token:
            return None
        return self.known[1]


def _side_of(settings: SqlSettings) -> Side:
    if settings.is_sqlite:
        from chunkstore.backends.sqlitefile import SqliteFile

        return SqliteFile(settings)
    from chunkstore.backends.postgres import Postgres

    return Postgres(settings)


def _dispose(engine: Engine, process: int) -> None:
    # Not in a child: what it inherited is its parent's.
    if os.getpid() == process:
        engine.dispose()


def _sessions_of(here: _Here) -> Sessions:
    assert isinstance(here.side, Sessions)
    return here.side


def _end(connection: Connection) -> None:
    """Closes a connection for good, and with it what its session holds."""
    try:
        if not connection.invalidated:
            connection.invalidate()
    finally:
        connection.close()


class Database:
    """Runs work on a connection of this process."""

    def __init__(self, settings: SqlSettings) -> None:
        self.settings = settings
        self._here: ProcessLocal[_Here] = ProcessLocal(functools.partial(_Here, settings))

    @property
    def side(self) -> Side:
        """What the database says in ways of its own."""
        return self._here.get().side

    def run(self, request: Request, work: Work[T], nothing: T) -> T:
        """What the work gives; `nothing` where there is no table yet, and none is needed."""
        here = self._here.get()

        def once(until: float, sent: list[bool]) -> T:
            return self._once(here, request, work, nothing, until, sent)

        return self._insist(here, request, once)

    def ask(self, question: Callable[[Connection], T]) -> T:
        """What the question gives, which needs no table."""
        here = self._here.get()

        def once(until: float, _: list[bool]) -> T:
            with here.side.guard(), here.side.engine.connect() as connection:
                here.side.limit(connection, until)
                return question(connection)

        return self._insist(here, Request("ask", ""), once)

    def knows_sessions(self) -> bool:
        """Whether each connection has a session of the server to itself. One statement."""
        sessions = _sessions_of(self._here.get())
        return self.ask(sessions.is_direct)

    @contextmanager
    def excluding(self, key: str, *, shared: bool) -> Iterator[None]:
        """A block in which nobody else is in one of the same key, unless both are shared. What this thread does inside goes by the session that holds the lock.

        So nothing is done once that session has ended; and no thread waits for a second connection while others wait for the lock that it holds.
        """
        here, process = self._here.get(), os.getpid()
        held: list[Connection] = []
        before = here.within.connection

        def once(until: float, _: list[bool]) -> None:
            self._enter(here, key, until, held, shared=shared)

        try:
            self._insist(here, Request("lock", key), once)
            here.within.connection = held[0]
            yield
        finally:
            here.within.connection = before
            if held and os.getpid() == process:
                self._leave(here, key, held.pop(), shared=shared)

    def _enter(self, here: _Here, key: str, until: float, held: list[Connection], *, shared: bool) -> None:
        held[:] = [here.side.engine.connect()]
        here.side.limit(held[0], until)
        try:
            _sessions_of(here).enter(held[0], key, until, shared=shared)
            is_free = True
        except sqlalchemy.exc.DBAPIError as error:
            _end(held.pop())  # it may have got the lock after all
            is_free = fault_of(error.orig or error, sent=True)[0] is not sqlfaults.BUSY
            if is_free:
                raise
        if is_free:
            return
        # Outside of `except`, as all errors here.
        raise BackendUnavailableError(
            f"cannot lock {key!r}: others held its lock in {self.settings.place} for {self.settings.deadline:g} s. "
            "Try again; if it stays so, look for a process that hangs while it writes.",
            transient=True,
            key=key,
        )

    def _leave(self, here: _Here, key: str, connection: Connection, *, shared: bool) -> None:
        """Never raises for what the server says: what was done is done. A session that may still have the lock is ended."""
        is_left = False
        try:
            if not connection.invalidated:
                here.side.limit(connection, time.monotonic() + _LEAVING_SECONDS)
                _sessions_of(here).leave(connection, key, shared=shared)
                is_left = True
        except sqlalchemy.exc.DBAPIError as error:
            log.debug("the lock of %r in %s ended with its connection: %s", key, self.settings.place, type(error.orig))
        finally:
            if is_left:
                connection.close()
            else:
                _end(connection)

    def _insist(self, here: _Here, request: Request, once: Callable[[float, list[bool]], T]) -> T:
        """`once`, tried again where that can help and can do no harm, within the deadline."""
        log.debug("%s %r in %s", request.verb, request.key, self.settings.place)
        until = time.monotonic() + self.settings.deadline
        tries = 0
        while True:
            tries += 1
            sent: list[bool] = []
            try:
                return once(until, sent)
            except (sqlalchemy.exc.DBAPIError, sqlalchemy.exc.TimeoutError, OSError) as error:
                fault, said = _told(error, sent=bool(sent))
            # Outside of `except`: the context of what is raised would hold parameters, and a connection with its password.
            if fault in (sqlfaults.NO_TABLE, sqlfaults.OTHER_TABLE):
                here.known = None
            pause = here.side.pause(tries, busy=fault in (sqlfaults.BUSY, sqlfaults.RACE))
            if not _may_repeat(request, fault) or pause is None or time.monotonic() + pause >= until:
                raise self._failed(request, fault, said, tries) from SaidError(said)
            waiting.sleep(pause)

    def _once(self, here: _Here, request: Request, work: Work[T], nothing: T, until: float, sent: list[bool]) -> T:
        side = here.side
        if here.within.connection is not None:
            return self._within(here, here.within.connection, request, work, nothing, until, sent)
        with side.guard():
            if not side.find(make=request.makes and side.makes_table):
                if not side.makes_table:
                    raise self._no_table(request)
                return nothing
            with side.engine.connect() as connection:
                return self._worked(here, connection, request, work, nothing, until, sent)

    def _within(
        self,
        here: _Here,
        connection: Connection,
        request: Request,
        work: Work[T],
        nothing: T,
        until: float,
        sent: list[bool],
    ) -> T:
        # By no other connection: the lock has gone with this one, and others may be at it.
        if connection.invalidated:
            raise BackendUnavailableError(
                f"cannot {request.verb} {request.key!r} in {self.settings.place}: the session that kept others out has ended. Try again.",
                transient=True,
                key=request.key,
            )
        return self._worked(here, connection, request, work, nothing, until, sent)

    def _worked(
        self,
        here: _Here,
        connection: Connection,
        request: Request,
        work: Work[T],
        nothing: T,
        until: float,
        sent: list[bool],
    ) -> T:
        side = here.side
        side.limit(connection, until)
        statements = here.known_statements() or self._learn(here, connection, request)
        if statements is None:
            return nothing
        side.limit(connection, until)
        sent.append(True)
        return work(connection, statements)

    def _learn(self, here: _Here, connection: Connection, request: Request) -> Statements | None:
        """What the table offers; made or completed where the settings say so and the request writes."""
        side, name = here.side, self.settings.table_name
        shape = side.shape(connection, name)
        if request.makes and self._wants(side, shape):
            self._make(side, connection, shape)
            shape = side.shape(connection, name)
        if shape is Shape.MISSING:
            if side.makes_table:
                return None
            raise self._no_table(request)
        if shape in (Shape.FOREIGN, Shape.HALF):
            raise NotSupportedError(
                f"the table {name!r} of {self.settings.place} has {shape.value}; "
                "choose another table_name, or complete it by chunkstore.backends.sql.create_tables(connection_string)"
            )
        table = table_of(name)
        statements = Versioned(table, side) if shape is Shape.COMPLETE else Unversioned(table, side)
        if shape is Shape.OLD and here.known is None:
            self._warn()
        if shape is Shape.COMPLETE or not side.completes_table:
            here.known = (side.token, statements)
        return statements

    def _wants(self, side: Side, shape: Shape) -> bool:
        return (shape is Shape.MISSING and side.makes_table) or (
            shape in (Shape.OLD, Shape.HALF) and side.completes_table
        )

    def _warn(self) -> None:
        log.warning(
            "the table %r of %s is an old one, without version and unique key: it is used as found. Each write is a transaction under a "
            "lock, each read looks at every row, and versions of equal bytes are equal. Complete it: "
            "chunkstore.backends.sql.create_tables(connection_string)",
            self.settings.table_name,
            self.settings.place,
        )

    def make(self) -> None:
        """Makes the table, or completes an old one. What is complete stays as it is."""
        self.run(Request("make the table", self.settings.table_name, makes=True), lambda *_: None, None)

    def _make(self, side: Side, connection: Connection, shape: Shape) -> None:
        if shape in (Shape.OLD, Shape.HALF):
            self._refuse_twins(connection)
        side.make(connection, self.settings.table_name, shape)

    def _refuse_twins(self, connection: Connection) -> None:
        """Raises `NotSupportedError` where one of our keys has several rows. Rows of magnus may, and stay as they are."""
        table = table_of(self.settings.table_name).c
        count = sqlalchemy.func.count()
        twins = (
            sqlalchemy.select(table.run_id, table.attribute_key, count)
            .where(is_ours(table))
            .group_by(table.run_id, table.attribute_key)
            .having(count > 1)
            .order_by(table.run_id, table.attribute_key)
        )
        found = connection.execute(twins).all()
        if not found:
            return
        named = "; ".join(
            f"run_id {run!r}, attribute_key {name!r}: {times}" for run, name, times in found[:_SHOWN_KEYS]
        )
        more = f"; and {len(found) - _SHOWN_KEYS} more" if len(found) > _SHOWN_KEYS else ""
        raise NotSupportedError(
            f"the table {self.settings.table_name!r} of {self.settings.place} cannot get a unique key: {len(found)} pairs of "
            f"run_id and attribute_key have several rows ({named}{more}). Delete all but one row of each, then try again; "
            "nothing was changed"
        )

    def _no_table(self, request: Request) -> BackendUnavailableError:
        fault = sqlfaults.NO_TABLE
        return BackendUnavailableError(
            f"cannot {request.verb} {request.key!r} in {self.settings.place}: {fault.what} as {self.settings.table_name!r}. {fault.advice}",
            key=request.key,
        )

    def _failed(self, request: Request, fault: Fault, said: str, tries: int) -> ChunkStoreError:
        """The table's fault as the contract's error."""
        key, place = request.key, self.settings.place
        if fault is sqlfaults.CONDITION:
            return conflict(key, place)
        times = f", {tries} tries" if tries > 1 else ""
        shown = f" {key!r} in" if key else ""
        message = f"cannot {request.verb}{shown} {place}: {fault.what} ({said}{times}). {fault.advice}"
        if request.write and fault.landed:
            return WriteStateUnknownError(
                f"{message} It may have been written: read it to know.", transient=fault.transient, key=key
            )
        kind = StorageFullError if fault is sqlfaults.FULL else BackendUnavailableError
        return kind(message, transient=fault.transient, key=key)

    def forget(self) -> None:
        """What was known of the table: somebody changed it."""
        self._here.get().known = None

    def close(self) -> None:
        """Lets this process's connections go."""
        if self._here.is_made:
            here = self._here.get()
            with here.side.guard():
                here.side.engine.dispose()
                here.known = None


def conflict(key: str, place: str) -> ConflictError:
    """The condition did not hold."""
    return ConflictError(f"{key!r} in {place} is not as the condition says. {sqlfaults.CONDITION.advice}", key=key)


def _told(error: Exception, *, sent: bool) -> tuple[Fault, str]:
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        return fault_of(error.orig or error, sent=sent)
    if isinstance(error, OSError):
        return sqlfaults.CANNOT_OPEN, error.strerror or type(error).__name__
    return sqlfaults.BUSY, "all connections are in use"


def _may_repeat(request: Request, fault: Fault) -> bool:
    # Sent again blindly, a write could undo what somebody else wrote after it had landed.
    return fault.resend if request.write else fault.transient
