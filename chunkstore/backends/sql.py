"""Objects as rows of one table, in an SQLite file or in PostgreSQL: the table `db_log` that magnus's database store has.

Create is an `INSERT … ON CONFLICT DO NOTHING`, compare-and-swap an `UPDATE … WHERE version`: one statement each, and its own
transaction. No version ever comes back. Needs SQLAlchemy, and psycopg 3 for PostgreSQL.
"""

from __future__ import annotations

import builtins
import itertools
import os
import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from typing import Final

from sqlalchemy import Connection

from chunkstore.backends.contract import ANY, Blob, Condition, Entry, Guarantees
from chunkstore.backends.hostlock import HostLocks
from chunkstore.backends.sqldatabase import Database, Request, conflict
from chunkstore.backends.sqlrow import TABLE, address_of, bytes_of, text_of
from chunkstore.backends.sqlsettings import Durability, SqlSettings
from chunkstore.backends.sqlstatements import Found, Listed, Statements, Versioned
from chunkstore.errors import ObjectNotFoundError
from chunkstore.process import ProcessLocal

__all__ = ["SqlBackend", "SqlSettings", "TableFacts", "create_tables"]

_AT_ONCE: Final = 2_000
"""Objects that one statement reads at the most."""
_FIRST: Final = 250
"""Objects that the first statement of a bulk read asks for, which knows nothing of their sizes."""
_BYTES_AT_ONCE: Final = 32 << 20
"""About so many bytes are held by one bulk read."""


@dataclass(frozen=True, slots=True)
class TableFacts:
    """What a table offers."""

    is_complete: bool
    """Whether it has versions and a unique key; else it is an old one, used as found."""
    journal: str = ""
    """Of an SQLite file: `wal`, or what it keeps instead."""


def create_tables(
    connection_string: str, table_name: str = TABLE, *, password: str = "", deadline: float = 3600.0
) -> None:
    """Makes the table; gives an old one a version and a unique key, in one transaction. Rows of magnus stay as they are.

    Calling it again does no harm. Raises `NotSupportedError`, and changes nothing, where a key of ours has several rows.
    """
    backend = SqlBackend(
        connection_string, table_name=table_name, password=password, deadline=deadline, create_tables=True
    )
    try:
        backend.create_tables()
    finally:
        backend.close()


class SqlBackend:
    """Keys are rows: their first part is the `run_id`, the second the `attribute_key`.

    `connection_string` is `sqlite:///runs.db` or `postgresql://user@host/database`. An SQLite file is made by the first write, a
    table in PostgreSQL by `create_tables`.
    """

    asynchronous = False

    def __init__(
        self,
        connection_string: str,
        *,
        table_name: str = TABLE,
        password: str = "",
        deadline: float = 15.0,
        max_connections: int = 20,
        recycle_seconds: float = 1800.0,
        create_tables: bool | None = None,
        durability: Durability | None = None,
    ) -> None:
        settings = SqlSettings(
            connection_string=connection_string,
            table_name=table_name,
            password=password,
            deadline=deadline,
            max_connections=max_connections,
            recycle_seconds=recycle_seconds,
            create_tables=create_tables,
            durability=durability,
        )
        self.settings = settings.rooted()
        self._database = Database(self.settings)
        self._versions = ProcessLocal(_fresh_versions)
        self._stated: Guarantees | None = None
        self._excludes: bool | None = True if self.settings.is_sqlite else None
        # By the file that is meant, whatever it is called; beside it, as SQLite's own log is.
        folder = f"{os.path.realpath(self.settings.path)}-leases" if self.settings.is_sqlite else ""
        self._exclusions = HostLocks(folder, timeout=self.settings.deadline)
        if not self.settings.is_sqlite:
            self._database.side  # noqa: B018 - without psycopg it fails here, and not at the first write

    @property
    def place(self) -> str:
        """The URL without its password, and the table where it is not `db_log`."""
        return self.settings.place

    @property
    def concurrency(self) -> int:
        """As many statements at once as there are connections; one in an SQLite file, which has one writer."""
        return 1 if self.settings.is_sqlite else self.settings.max_connections

    @property
    def guarantees(self) -> Guarantees:
        """All, beyond one host only in PostgreSQL; power loss as the settings, or PostgreSQL's own, say."""
        if self._stated is None:
            self._stated = self._guaranteed()
        return self._stated

    def _guaranteed(self) -> Guarantees:
        side = self._database.side
        if self.settings.is_sqlite:
            return side.guarantees(None)
        return self._database.ask(side.guarantees)

    @property
    def file(self) -> str | None:
        """The SQLite file; None for a server."""
        return self.settings.path if self.settings.is_sqlite else None

    def facts(self) -> TableFacts:
        """What the table offers. Two statements. Raises `BackendUnavailableError` where there is none."""

        def work(connection: Connection, statements: Statements) -> TableFacts:
            journal = connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() if self.file else ""
            return TableFacts(isinstance(statements, Versioned), str(journal))

        return self._database.run(Request("look at the table of", ""), work, TableFacts(is_complete=False))

    def __repr__(self) -> str:
        return f"SqlBackend({self.place!r})"

    def __reduce__(self) -> tuple[Callable[..., SqlBackend], tuple[SqlSettings]]:
        return _unpickled, (self.settings,)

    def create_tables(self) -> None:
        """Makes the table, or gives an old one what it lacks."""
        settings = replace(self.settings, create_tables=True)
        database = Database(settings)
        try:
            database.make()
        finally:
            database.close()
        self._database.forget()

    def get(self, key: str) -> Blob:
        """The object. Raises `ObjectNotFoundError`. One statement."""
        address = address_of(key)

        def work(connection: Connection, statements: Statements) -> Found | None:
            return statements.get(connection, address)

        found = self._database.run(Request("read", key), work, None)
        if found is None:
            raise ObjectNotFoundError(f"{self.place} holds no object {key!r}", key=key)
        return _blob(key, found)

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        """The objects that are there. One statement for many: up to 2,000 objects, fewer where the first ones were large."""
        wanted = builtins.list(dict.fromkeys(keys))
        start, size = 0, _FIRST
        while start < len(wanted):
            part = wanted[start : start + size]
            start += size
            read = self._read(part)
            yield from read
            total = sum(len(blob.data) for _, blob in read)
            size = max(1, min(_AT_ONCE, _BYTES_AT_ONCE * len(part) // max(1, total)))

    def _read(self, keys: builtins.list[str]) -> builtins.list[tuple[str, Blob]]:
        pairs = [(run, name) for run, _, name in (key.partition("/") for key in keys)]

        def work(connection: Connection, statements: Statements) -> builtins.list[Found]:
            return statements.get_many(connection, pairs)

        nothing: builtins.list[Found] = []
        found = self._database.run(Request("read", keys[0]), work, nothing)
        return [(key, _blob(key, each)) for each in found for key in (f"{each.run}/{each.name}",)]

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        """Writes the whole object. One statement."""
        address, side = address_of(key), self._database.side
        new = self._new_version()

        def work(connection: Connection, statements: Statements) -> str | None:
            text = text_of(bytes(data), ascii_only=side.ascii_only)
            with side.lasting(connection, barrier=barrier):
                return statements.put(connection, address, text, condition, new)

        version = self._database.run(Request("write", key, write=True, makes=True), work, None)
        if version is None:
            raise conflict(key, self.place)
        return version

    def _new_version(self) -> str:
        token, numbers = self._versions.get()
        return f"{next(numbers)}-{token}"

    def delete(self, key: str, condition: Condition = ANY) -> None:
        """Removes the object; nothing happens where there is none. One statement."""
        address = address_of(key)
        version = None if condition == ANY else condition.version

        def work(connection: Connection, statements: Statements) -> bool:
            return statements.delete(connection, address, version)

        if not self._database.run(Request("delete", key), work, nothing=True):
            raise conflict(key, self.place)

    def list(self, prefix: str) -> Iterator[Entry]:
        """The objects whose key starts with the prefix, as they are at one moment. One statement."""
        run, _, start = prefix.partition("/")

        def work(connection: Connection, statements: Statements) -> builtins.list[Listed]:
            return statements.listed(connection, run, start)

        nothing: builtins.list[Listed] = []
        found = self._database.run(Request("list", prefix), work, nothing)
        return (Entry(f"{run}/{name}", version, size) for name, version, size in found)

    def folders(self) -> Iterator[str]:
        """The first parts of all keys. One statement."""

        def work(connection: Connection, statements: Statements) -> builtins.list[str]:
            return statements.folders(connection)

        nothing: builtins.list[str] = []
        found = self._database.run(Request("list", ""), work, nothing)
        return iter([run for run in found if not run.startswith(".")])

    def excludes(self) -> bool:
        """See `chunkstore.backends.Excluding`. Not behind a pooler, where a session of the server may be another one with each statement. One statement, once."""
        if self._excludes is None:
            self._excludes = self._database.knows_sessions()
        return self._excludes

    def excluding(self, key: str, *, shared: bool = False) -> AbstractContextManager[None]:
        """See `chunkstore.backends.Excluding`. In an SQLite file by lock files beside it, one at a time; in PostgreSQL by the session that the verbs inside use: two statements."""
        return (
            self._exclusions.holding(key) if self.settings.is_sqlite else self._database.excluding(key, shared=shared)
        )

    def close(self) -> None:
        """Lets this process's connections go. They are made anew when the backend is used again."""
        self._database.close()


def _blob(key: str, found: Found) -> Blob:
    return Blob(bytes_of(found.value, key), found.version)


def _fresh_versions() -> tuple[str, Iterator[int]]:
    """No two processes count under one token, so no version ever comes back."""
    return secrets.token_hex(8), itertools.count(1)


def _unpickled(settings: SqlSettings) -> SqlBackend:
    return SqlBackend(**asdict(settings))
