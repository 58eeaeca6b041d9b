"""A PostgreSQL server: how it is connected to, what its table offers, how the table is made, and what it says in ways of its own."""

from __future__ import annotations

import hashlib
import math
import random
import select
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from types import SimpleNamespace
from typing import Any, Final

import sqlalchemy
from sqlalchemy import (
    ARRAY,
    Connection,
    Engine,
    FromClause,
    Text,
    bindparam,
    event,
    func,
    literal_column,
)
from sqlalchemy.dialects import postgresql
from sqlalchemy.sql.expression import ColumnElement, TableClause

from chunkstore.backends.contract import Guarantees
from chunkstore.backends.sqlfaults import LateError
from chunkstore.backends.sqlrow import COLUMNS, VERSION, Address
from chunkstore.backends.sqlsettings import SqlSettings
from chunkstore.backends.sqltable import Shape, is_ours
from chunkstore.errors import NotSupportedError

try:
    import psycopg
except ImportError as missing:
    raise NotSupportedError("for PostgreSQL psycopg 3 is needed: pip install 'chunkstore[postgres]'") from missing

PAUSES: Final = (0.05, 0.2, 0.8)
"""Seconds before the second, third and fourth try of one statement; each is jittered by half."""

_IDLE_SECONDS: Final = 10.0
"""A connection that was not used for so long is asked before it is trusted; any other only whether the server closed it."""
_PING_SECONDS: Final = 3.0
_PATIENCE: Final = 10
"""Seconds that a server has to accept a connection, however long a statement may take: `create_tables` gives it an hour."""
_TEXTS: Final = {"text", "character varying"}
_COLUMNS: Final = """
    SELECT a.attname, format_type(a.atttypid, NULL), pg_get_expr(d.adbin, d.adrelid), a.attidentity <> ''
    FROM pg_catalog.pg_attribute a
    LEFT JOIN pg_catalog.pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = to_regclass(:name) AND a.attnum > 0 AND NOT a.attisdropped
"""
_UNIQUE_KEYS: Final = """
    SELECT (SELECT array_agg(a.attname::text ORDER BY a.attname) FROM pg_catalog.pg_attribute a
            WHERE a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey::smallint[]))
    FROM pg_catalog.pg_index i
    WHERE i.indrelid = to_regclass(:name) AND i.indisunique AND i.indisvalid AND i.indnkeyatts = 2 AND i.indexprs IS NULL
      AND (i.indpred IS NULL OR pg_get_expr(i.indpred, i.indrelid) = '(version IS NOT NULL)')
"""
_PROCESS: Final = "SELECT pg_backend_pid()"
_IDLE_SESSIONS: Final = 140_000
"""The first version that ends sessions that idle outside of a transaction."""
_SETTINGS: Final = "SELECT current_setting('synchronous_commit'), current_setting('fsync')"


class _LateError(psycopg.OperationalError, LateError):
    """A statement was not answered before its deadline."""


class _Link(psycopg.Connection[Any]):
    """A connection that waits for no answer beyond a moment: the server may be stopped, or the way to it cut without a word."""

    until: float = math.inf

    def wait(self, gen: Any, *arguments: Any, **options: Any) -> Any:
        return super().wait(self._in_time(gen), *arguments, **options)

    def _in_time(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        try:
            state = next(gen)
            while True:
                ready = yield state
                if not ready and time.monotonic() > self.until:
                    self.close()  # what comes later must answer no other statement
                    raise _LateError("the server did not answer")
                state = gen.send(ready)
        except StopIteration as end:
            return end.value


class Postgres:
    """The server of one backend, in one process."""

    collation = "C"
    now: ColumnElement[Any] = func.timezone("utc", func.clock_timestamp())
    new_pk: ColumnElement[Any] | None = None
    token = 0

    def __init__(self, settings: SqlSettings) -> None:
        self._settings = settings
        self.concurrency = settings.max_connections
        self.makes_table = self.completes_table = bool(settings.create_tables)
        self.ascii_only = False
        self._lasts = True
        self.engine: Engine = sqlalchemy.create_engine(
            "postgresql+psycopg://",
            creator=self._connect,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            pool_size=settings.max_connections,
            max_overflow=0,
            pool_timeout=settings.deadline,
            pool_recycle=int(settings.recycle_seconds),
            pool_use_lifo=True,
            use_native_hstore=False,
        )
        event.listen(self.engine, "checkout", _trusted)
        event.listen(self.engine, "checkin", _used)

    def guard(self) -> AbstractContextManager[object]:
        """Nothing: connections are their threads' own."""
        return nullcontext()

    def find(self, *, make: bool) -> bool:
        """Whether there is something to ask: the server answers that itself."""
        return True

    def limit(self, connection: Connection, until: float) -> None:
        """No answer is waited for after this moment."""
        _link_of(connection).until = until

    def pause(self, tries: int, *, busy: bool) -> float | None:
        """Seconds before the next try; None for no further one."""
        if tries > len(PAUSES) and not busy:
            return None
        return PAUSES[min(tries, len(PAUSES)) - 1] * random.uniform(0.5, 1.5)

    def _connect(self) -> _Link:
        patience = max(2, min(_PATIENCE, math.ceil(self._settings.deadline / 3)))
        _, given = self.engine.dialect.create_connect_args(self._settings.url)
        link = _Link.connect(
            **{
                "connect_timeout": patience,
                "tcp_user_timeout": int(self._settings.deadline * 1000),
                "fallback_application_name": "chunkstore",
                **given,
                "client_encoding": "utf8",
            },
            autocommit=True,
            prepare_threshold=None,  # a statement that is kept in one server process is missing in another, behind a pooler
        )
        try:
            link.until = time.monotonic() + patience
            link.execute(self._session())
        except BaseException:
            link.close()
            raise
        return link

    def _session(self) -> str:
        """What holds for a whole connection, in one request."""
        milliseconds = max(1, int(self._settings.deadline * 1000))
        said = [
            f"SET statement_timeout = {milliseconds}",
            "SET default_transaction_isolation = 'read committed'",
            "SET client_min_messages = warning",
        ]
        if self._settings.durability is not None:
            on = self._settings.durability == "power"
            said.append(f"SET synchronous_commit = {'on' if on else 'off'}")
        return "; ".join(said)

    def shape(self, connection: Connection, table: str) -> Shape:
        """What the table offers. Two requests."""
        named = {"name": _quoted(table)}
        columns = {row[0]: tuple(row) for row in connection.execute(sqlalchemy.text(_COLUMNS), named)}
        if not columns:
            return Shape.MISSING
        value = columns.get("attribute_value")
        if value is not None and value[1] not in _TEXTS:
            raise NotSupportedError(
                f"{self._settings.place}: attribute_value is {value[1]}, which keeps no text as it was; make it text"
            )
        if (pk := columns.get("pk")) is not None and not pk[2] and not pk[3]:
            # As magnus makes it: SQLAlchemy asked the sequence itself.
            self.new_pk = func.nextval(_beside(table, "id_seq"))
        self.ascii_only = _link_of(connection).info.parameter_status("server_encoding") != "UTF8"
        keys = [row[0] for row in connection.execute(sqlalchemy.text(_UNIQUE_KEYS), named)]
        return Shape.of(set(columns), unique=["attribute_key", "run_id"] in keys)

    def guarantees(self, connection: Connection | None) -> Guarantees:
        """What holds for the server. One request."""
        assert connection is not None
        commit, sync = connection.execute(sqlalchemy.text(_SETTINGS)).one()
        return Guarantees(
            conditional_create=True,
            conditional_update=True,
            across_processes=True,
            across_hosts=True,
            atomic=True,
            durable=commit != "off" and sync == "on",
            conditional_delete=True,
        )

    @contextmanager
    def lasting(self, connection: Connection, *, barrier: bool) -> Iterator[None]:
        """A write; with `barrier` one whose end finds all earlier ones on the server's disk: they are in one log."""
        if not barrier or self._settings.durability != "barrier":
            yield
            return
        connection.exec_driver_sql("SET synchronous_commit = on")
        try:
            yield
        finally:
            if not connection.invalidated:
                connection.exec_driver_sql("SET synchronous_commit = off")

    def is_direct(self, connection: Connection) -> bool:
        """Whether the session is the connection's own. A pooler says a number that is no process of the server. One request."""
        link = _link_of(connection)
        return bool(connection.execute(sqlalchemy.text(_PROCESS)).scalar_one() == link.info.backend_pid)

    def enter(self, connection: Connection, key: str, until: float, *, shared: bool) -> None:
        """Locks the key for the session. One request.

        The server ends the session, and the lock with it, where nothing is asked of it for a while: its process was stopped, or its host is gone.
        """
        wait = max(1, int((until - time.monotonic()) * 750))  # so that the server's answer comes before the deadline
        idle = max(1, int(self._settings.deadline * 1000 / 3))
        settings = _idle_settings(connection)
        said = [f"set_config('{name}', :idle, false)" for name in settings]
        lock = f"pg_advisory_lock{'_shared' if shared else ''}(:number)"
        connection.execute(
            sqlalchemy.text(f"SELECT set_config('lock_timeout', :wait, true), {', '.join(said)}, {lock}"),
            {"wait": f"{wait}ms", "idle": f"{idle}ms", "number": _number_of("excluding", key)},
        )

    def leave(self, connection: Connection, key: str, *, shared: bool) -> None:
        """Unlocks it. One request."""
        said = [f"set_config('{name}', NULL, false)" for name in _idle_settings(connection)]
        unlock = f"pg_advisory_unlock{'_shared' if shared else ''}(:number)"
        connection.execute(
            sqlalchemy.text(f"SELECT {unlock}, {', '.join(said)}"),
            {"number": _number_of("excluding", key)},
        )

    def insert(self, table: TableClause) -> Any:
        return postgresql.insert(table)

    def octets(self, value: ColumnElement[str]) -> ColumnElement[int]:
        return func.octet_length(value)

    def wanted(self) -> FromClause:
        runs, names = bindparam("runs", type_=ARRAY(Text)), bindparam("names", type_=ARRAY(Text))
        return func.unnest(runs, names).table_valued("run", "name", name="wanted").render_derived()

    def given(self, wanted: Sequence[tuple[str, str]]) -> dict[str, Any]:
        return {"runs": [run for run, _ in wanted], "names": [name for _, name in wanted]}

    @contextmanager
    def alone(self, connection: Connection, address: Address) -> Iterator[None]:
        """Programs of other kinds do not know the lock: the statements within also compare what they replace."""
        with _transaction(connection):
            _lock(connection, self._settings.table_name, address.run, address.name)
            yield

    def make(self, connection: Connection, table: str, shape: Shape) -> None:
        """The table, or what an old one lacks, in one transaction."""
        self.limit(connection, math.inf)
        with _transaction(connection):
            connection.exec_driver_sql("SET LOCAL statement_timeout = 0")
            _lock(connection, table)  # two that make one table at once: IF NOT EXISTS alone fails then
            for statement in self._steps(table):
                connection.exec_driver_sql(statement)

    def _steps(self, table: str) -> Iterator[str]:
        name, plain = _quoted(table), table.rpartition(".")[2]
        numbers, function = _beside(table, "id_seq"), _beside(table, f"{plain}_version")
        text = 'TEXT COLLATE "C"'
        yield (  # an identity: who writes needs no right on a sequence
            f"CREATE TABLE IF NOT EXISTS {name} (pk BIGINT GENERATED BY DEFAULT AS IDENTITY PRIMARY KEY, run_id {text}, "
            f"attribute_key {text}, attribute_type {text}, attribute_value TEXT, created_at TIMESTAMP, {VERSION} {text})"
        )
        yield f"ALTER TABLE {name} ADD COLUMN IF NOT EXISTS {VERSION} {text}"
        if self.new_pk is not None:
            yield f"CREATE SEQUENCE IF NOT EXISTS {numbers}"
            yield f"ALTER TABLE {name} ALTER COLUMN pk SET DEFAULT nextval('{numbers}')"
        ours = f"{VERSION} IS NULL AND ({self._ours('')})"
        yield f"UPDATE {name} SET {VERSION} = gen_random_uuid()::text WHERE {ours}"  # noqa: S608  the name is checked
        yield (
            f'CREATE UNIQUE INDEX IF NOT EXISTS "{plain}_chunk" ON {name} '
            f'(run_id COLLATE "C", attribute_key COLLATE "C") WHERE {VERSION} IS NOT NULL'
        )
        yield (
            f"CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS "
            f"$$ BEGIN NEW.{VERSION} := gen_random_uuid()::text; RETURN NEW; END $$"
        )
        for word, event_, when in (
            ("inserted", "INSERT", f"NEW.{VERSION} IS NULL AND ({self._ours('NEW.')})"),
            ("updated", "UPDATE", f"OLD.{VERSION} IS NOT NULL AND NEW.{VERSION} IS NOT DISTINCT FROM OLD.{VERSION}"),
        ):
            yield f'DROP TRIGGER IF EXISTS "{plain}_{word}" ON {name}'
            yield (
                f'CREATE TRIGGER "{plain}_{word}" BEFORE {event_} ON {name} FOR EACH ROW WHEN ({when}) '
                f"EXECUTE FUNCTION {function}()"
            )

    def _ours(self, before: str) -> str:
        of = SimpleNamespace(**{name: literal_column(before + name, Text) for name in COLUMNS})
        return str(is_ours(of).compile(dialect=self.engine.dialect, compile_kwargs={"literal_binds": True}))


def _quoted(table: str) -> str:
    return ".".join(f'"{part}"' for part in table.split("."))


def _beside(table: str, name: str) -> str:
    """Something in the schema of the table."""
    schema = table.rpartition(".")[0]
    return _quoted(f"{schema}.{name}" if schema else name)


def _lock(connection: Connection, *what: str) -> None:
    connection.execute(sqlalchemy.select(func.pg_advisory_xact_lock(_number_of(*what))))


def _number_of(*what: str) -> int:
    """What PostgreSQL calls a lock by; two things may share one."""
    digest = hashlib.blake2b("\0".join(what).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)


def _link_of(connection: Connection) -> _Link:
    link = connection.connection.driver_connection
    assert isinstance(link, _Link)
    return link


def _idle_settings(connection: Connection) -> tuple[str, ...]:
    """What ends a session that nothing is asked of."""
    in_transaction = "idle_in_transaction_session_timeout"
    return (
        (in_transaction, "idle_session_timeout")
        if _link_of(connection).info.server_version >= _IDLE_SESSIONS
        else (in_transaction,)
    )


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    connection.exec_driver_sql("BEGIN")
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        with suppress(sqlalchemy.exc.SQLAlchemyError):
            connection.exec_driver_sql("ROLLBACK")
        raise


def _used(_: object, record: Any) -> None:
    """A connection goes back into the pool."""
    record.info["used"] = time.monotonic()


def _trusted(link: Any, record: Any, _: object) -> None:
    """A connection comes out of the pool. Raises `DisconnectionError` for one that is dead: the pool makes another one.

    What the server closed can be read at once, without a request; what a firewall forgot shows only when it is asked.
    """
    used = record.info.get("used")
    if used is None:
        return
    try:
        silent = not _readable(link.fileno())
        if silent and time.monotonic() - used < _IDLE_SECONDS:
            return
        link.until = time.monotonic() + _PING_SECONDS
        link.execute("SELECT 1")
    except (psycopg.Error, OSError) as error:
        raise sqlalchemy.exc.DisconnectionError(type(error).__name__) from None


def _readable(number: int) -> bool:
    poll = select.poll()
    poll.register(number, select.POLLIN)
    return bool(poll.poll(0))
