"""An SQLite file: how it is opened, what its table offers, how the table is made, and what SQLite says in ways of its own."""

from __future__ import annotations

import logging
import os
import random
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from json import dumps
from types import SimpleNamespace
from typing import Any, Final
from urllib.parse import quote

import sqlalchemy
from sqlalchemy import Connection, Engine, FromClause, QueuePool, bindparam, func, literal_column
from sqlalchemy.dialects import sqlite
from sqlalchemy.sql.expression import ColumnElement, TableClause

from chunkstore.backends.contract import Guarantees
from chunkstore.backends.sqlrow import COLUMNS, VERSION, Address
from chunkstore.backends.sqlsettings import SqlSettings
from chunkstore.backends.sqltable import Shape, is_ours
from chunkstore.process import NO_FORK

log = logging.getLogger(__name__)

_RANDOM: Final = "lower(hex(randomblob(12)))"


class SqliteFile:
    """The file of one backend, in one process.

    Every call holds `NO_FORK`: SQLite has locks of its own in the process, and a child that was forked while another thread held one
    would wait for it for ever. So no call ever waits in SQLite for another process: it comes back, and is made again.
    """

    collation = "BINARY"
    now: ColumnElement[Any] = func.strftime("%Y-%m-%d %H:%M:%f000", "now")
    new_pk: ColumnElement[Any] | None = None
    ascii_only = False
    concurrency = 1

    def __init__(self, settings: SqlSettings) -> None:
        self._path = settings.path
        self._durability = settings.durability or "barrier"
        self._seen: tuple[int, ...] | None = None
        self.token = 0
        self._making = False
        self.makes_table = settings.create_tables is not False
        self.completes_table = settings.create_tables is True
        self.engine: Engine = sqlalchemy.create_engine(
            "sqlite+pysqlite://",
            creator=self._connect,
            poolclass=QueuePool,
            pool_size=1,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
        )

    def guard(self) -> AbstractContextManager[object]:
        """What every use of the file holds."""
        return NO_FORK

    def find(self, *, make: bool) -> bool:
        """Whether the file is there; lets go of one that was removed or replaced since. Raises `OSError` where nobody can say."""
        now = self._state()
        if now != self._seen:
            # What is written to a file that has lost its name is lost; and one that is opened as unchanging is not looked at again.
            self.engine.dispose()
            self.token += 1
        self._making = make and now is None
        if self._making:
            os.makedirs(os.path.dirname(self._path), exist_ok=True)
        self._seen = now
        return now is not None or make

    def _state(self) -> tuple[int, ...] | None:
        """Which file it is, None for none; and of one that is opened as unchanging, whether it changed all the same."""
        try:
            status = os.stat(self._path)
            if self._is_unchanging():
                return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def _is_unchanging(self) -> bool:
        """Whether nobody can write there, and SQLite need not keep a log beside the file, which it could not.

        Where there is a log somebody writes: the disk is read-only here, in a container, and not where it comes from.
        """
        return bool(os.statvfs(self._path).f_flag & os.ST_RDONLY) and not os.path.exists(f"{self._path}-wal")

    def limit(self, connection: Connection, until: float) -> None:
        """Nothing to do: no statement waits."""

    def pause(self, tries: int, *, busy: bool) -> float | None:
        """Seconds before the next try; None for no further one."""
        if not busy:
            return None
        return random.uniform(0.0005, min(0.02, 0.001 * 2 ** min(tries, 6)))

    def _connect(self) -> sqlite3.Connection:
        address = f"file:{quote(self._path)}?{self._mode()}"
        made = sqlite3.connect(address, uri=True, timeout=0, isolation_level=None, check_same_thread=False)
        try:
            made.execute(f"PRAGMA synchronous={'EXTRA' if self._durability == 'power' else 'NORMAL'}")
            if self._seen is None:
                with suppress(OSError):
                    self._seen = self._state()
        except BaseException:
            made.close()
            raise
        return made

    def _mode(self) -> str:
        if self._making:
            return "mode=rwc"
        if self._is_unchanging():
            return "mode=ro&immutable=1"
        # As SQLite does it by itself where it may not write: it reads the log that is there.
        return "mode=rw"

    def shape(self, connection: Connection, table: str) -> Shape:
        """What the table offers."""
        columns = {row[1] for row in connection.exec_driver_sql(f'PRAGMA table_info("{table}")')}
        if not columns:
            return Shape.MISSING
        return Shape.of(columns, unique=any(self._unique_keys(connection, table)))

    def _unique_keys(self, connection: Connection, table: str) -> Iterator[bool]:
        """Of each unique index whether it is one of the two parts of a key."""
        for row in connection.exec_driver_sql(f'PRAGMA index_list("{table}")').all():
            if row[2]:
                parts = [part[2] for part in connection.exec_driver_sql(f'PRAGMA index_info("{row[1]}")')]
                yield sorted(filter(None, parts)) == ["attribute_key", "run_id"]

    def guarantees(self, connection: Connection | None) -> Guarantees:
        """What holds for the file."""
        return Guarantees(
            conditional_create=True,
            conditional_update=True,
            across_processes=True,
            across_hosts=False,
            atomic=True,
            durable=self._durability == "power",
            conditional_delete=True,
        )

    @contextmanager
    def lasting(self, connection: Connection, *, barrier: bool) -> Iterator[None]:
        """A write; with `barrier` one whose end finds all earlier ones of this file on the disk: they are in one log."""
        if not barrier or self._durability != "barrier":
            yield
            return
        connection.exec_driver_sql("PRAGMA synchronous=EXTRA")
        try:
            yield
        finally:
            connection.exec_driver_sql("PRAGMA synchronous=NORMAL")

    def insert(self, table: TableClause) -> Any:
        return sqlite.insert(table)

    def octets(self, value: ColumnElement[str]) -> ColumnElement[int]:
        return func.length(sqlalchemy.cast(value, sqlalchemy.LargeBinary))

    def wanted(self) -> FromClause:
        pairs = func.json_each(bindparam("wanted")).table_valued("value", name="pairs")
        run, name = func.json_extract(pairs.c.value, "$[0]"), func.json_extract(pairs.c.value, "$[1]")
        return sqlalchemy.select(run.label("run"), name.label("name")).select_from(pairs).subquery()

    def given(self, wanted: Sequence[tuple[str, str]]) -> dict[str, Any]:
        return {"wanted": dumps(wanted)}

    @contextmanager
    def alone(self, connection: Connection, address: Address) -> Iterator[None]:
        """Nobody else writes to the file meanwhile, whatever program it is."""
        with _transaction(connection):
            yield

    def make(self, connection: Connection, table: str, shape: Shape) -> None:
        """The table, or what an old one lacks, in one transaction."""
        mode = connection.exec_driver_sql("PRAGMA journal_mode=WAL").scalar_one()
        if mode != "wal":
            log.warning(
                "%s keeps no write-ahead log (it says %r): readers and writers wait for each other", self._path, mode
            )
        with _transaction(connection):
            for statement in self._steps(connection, table):
                connection.exec_driver_sql(statement)

    def _steps(self, connection: Connection, table: str) -> Iterator[str]:
        columns = "run_id TEXT, attribute_key TEXT, attribute_type TEXT, attribute_value TEXT, created_at DATETIME"
        yield f'CREATE TABLE IF NOT EXISTS "{table}" (pk INTEGER PRIMARY KEY, {columns}, {VERSION} TEXT)'
        if VERSION not in {row[1] for row in connection.exec_driver_sql(f'PRAGMA table_info("{table}")')}:
            yield f'ALTER TABLE "{table}" ADD COLUMN {VERSION} TEXT'
        ours = f"{VERSION} IS NULL AND ({self._ours('')})"
        yield f'UPDATE "{table}" SET {VERSION} = {_RANDOM} WHERE {ours}'  # noqa: S608  the name is checked
        yield (
            f'CREATE UNIQUE INDEX IF NOT EXISTS "{table}_chunk" ON "{table}" '
            f"(run_id COLLATE BINARY, attribute_key COLLATE BINARY) WHERE {VERSION} IS NOT NULL"
        )
        renewed = f'BEGIN UPDATE "{table}" SET {VERSION} = {_RANDOM} WHERE pk = NEW.pk; END'  # noqa: S608  the same
        yield (
            f'CREATE TRIGGER IF NOT EXISTS "{table}_inserted" AFTER INSERT ON "{table}" '
            f"WHEN NEW.{VERSION} IS NULL AND ({self._ours('NEW.')}) {renewed}"
        )
        yield (
            f'CREATE TRIGGER IF NOT EXISTS "{table}_updated" AFTER UPDATE ON "{table}" '
            f"WHEN OLD.{VERSION} IS NOT NULL AND NEW.{VERSION} IS OLD.{VERSION} {renewed}"
        )

    def _ours(self, before: str) -> str:
        of = SimpleNamespace(**{name: literal_column(before + name, sqlalchemy.Text) for name in COLUMNS})
        return str(is_ours(of).compile(dialect=self.engine.dialect, compile_kwargs={"literal_binds": True}))


@contextmanager
def _transaction(connection: Connection) -> Iterator[None]:
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        with suppress(sqlalchemy.exc.DBAPIError):  # SQLite may have rolled it back by itself
            connection.exec_driver_sql("ROLLBACK")
        raise
