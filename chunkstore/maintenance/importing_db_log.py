"""Runs of magnus in a database: the table `db_log`, as the store of the package `magnus-extensions` writes it.

    pk, run_id, attribute_key, attribute_type, attribute_value, created_at

The type is RunLog, Parameter, StepLog or BranchLog; the package's own documents call the last two Step and Branch, and both words are
taken. The key is `run_log`, an internal name, or a parameter's name; the value is JSON; the time is UTC. An SQLite file needs the standard
library alone, any other database SQLAlchemy: the extra `sql`. Nothing is written, and no lock is held between two runs.
"""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from string import Template
from typing import Any, Final, NamedTuple, Protocol
from urllib.parse import quote

from chunkstore.backends.sqlfaults import fault_of
from chunkstore.backends.sqlrow import COLUMNS, TABLE, is_ours
from chunkstore.errors import BackendUnavailableError, FormatError, InvalidInputError, NotSupportedError
from chunkstore.maintenance.foreign import Fields, ForeignRun, Record, nanoseconds_of, read_json, read_object, the_same
from chunkstore.maintenance.importing_folders import shown
from chunkstore.maintenance.importing_magnus import Found, take_run

_SQLITE: Final = b"SQLite format 3\0"
_AT_ONCE: Final = 500
_URL: Final = re.compile(r"^[A-Za-z][A-Za-z0-9+]*://")
_ACCESS: Final = re.compile(r"://[^/]*@")
_STEPS: Final = ("StepLog", "Step")
_BRANCHES: Final = ("BranchLog", "Branch")
_RUN: Final = "RunLog"
_PARAMETER: Final = "Parameter"


class Row(NamedTuple):
    """One row of the table, without the run that it belongs to."""

    pk: Any
    key: str | None
    sort: str | None
    value: object
    created_at: object


class Database(Protocol):
    """The table, wherever it is. Each call asks anew, and holds nothing open afterwards."""

    @property
    def place(self) -> str:
        """The table, for people, without a password."""
        ...

    def runs(self) -> list[tuple[Any, str | None, str | None, str | None]]:
        """The primary key, the run id, the attribute key and the type of every row, by primary key."""
        ...

    def rows(self, pks: Sequence[Any]) -> list[Row]:
        """The rows of these primary keys, in any order."""
        ...


def recognises(source: str) -> bool:
    """Whether this is a database: a URL, or an SQLite file."""
    if _URL.match(source):
        return True
    path = Path(source)
    try:
        if not path.is_file() or not path.stat().st_size:
            return False
        # By SQLite itself: to close a file that a store of this process has open too would drop the store's locks on it.
        with closing(sqlite3.connect(_address_of(path), uri=True)) as connection:
            connection.execute("PRAGMA schema_version")
    except sqlite3.DatabaseError as error:
        # What SQLite cannot read, no store has open: it may be looked at, and a damaged database be named.
        return os.access(path, os.R_OK) and (error.sqlite_errorname != "SQLITE_NOTADB" or _begins_as_sqlite(path))
    except OSError:
        return False
    return True


def _begins_as_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SQLITE)) == _SQLITE


def _address_of(path: Path) -> str:
    return f"file:{quote(str(path.absolute()))}?mode=ro"


def runs_in(source: str) -> Iterator[ForeignRun]:
    """The runs that the table holds, in the order of their first rows.

    `source` is an SQLite file or a URL of SQLAlchemy, in which `${name}` is filled from the environment. Raises `InvalidInputError` where there is no such table or several,
    `NotSupportedError` without SQLAlchemy, `BackendUnavailableError` where the database does not answer.
    """
    database: Database = _Alchemy(source) if _URL.match(source) else _SqliteFile(Path(source))
    pks: dict[str, list[Any]] = {}
    for pk, run_id, name, sort in database.runs():
        if is_ours(name, sort):  # a store of chunkstore may be in the same table
            continue
        pks.setdefault(run_id if isinstance(run_id, str) else "", []).append(pk)
    for run_id, found in pks.items():
        yield ForeignRun(run_id, database.place, _Reading(database, run_id, found))


class _Reading:
    """Reads the rows of one run."""

    def __init__(self, database: Database, run_id: str, pks: list[Any]) -> None:
        self._database = database
        self._run_id = run_id
        self._pks = pks

    def __call__(self) -> Record:
        place = self._database.place
        if not self._run_id:
            raise FormatError(f"{place} has {len(self._pks)} rows without a run_id, the first with pk {self._pks[0]}")
        rows = self._rows()
        unknown = next((row for row in rows if row.sort not in {_RUN, _PARAMETER, *_STEPS, *_BRANCHES}), None)
        if unknown is not None:
            raise FormatError(
                f"{self._of(unknown)} has the attribute_type {unknown.sort!r}, which magnus does not write"
            )
        record = Record(self._run_id, place, time.time_ns(), typed=False)
        header = self._header([row for row in rows if row.sort == _RUN])
        record.at = _time_of(header.created_at)
        parameters = (self._parameter(row) for row in rows if row.sort == _PARAMETER)
        take_run(
            record,
            self._object(header),
            self._of(header),
            self._logs(rows, _STEPS),
            self._logs(rows, _BRANCHES),
            parameters,
        )
        return record

    def _rows(self) -> list[Row]:
        """The oldest first; of one moment, as they were inserted."""
        found: list[Row] = []
        for start in range(0, len(self._pks), _AT_ONCE):
            found += self._database.rows(self._pks[start : start + _AT_ONCE])
        if len(found) != len(self._pks):
            raise FormatError(
                f"{self._database.place} had {len(self._pks)} rows of run {self._run_id!r} and then {len(found)}; pk is no key of it, or "
                "somebody deleted some: import again"
            )
        return sorted(found, key=lambda row: (_time_of(row.created_at) or 0, row.pk))

    def _header(self, headers: list[Row]) -> Row:
        """The row of the run log. Two writers may have inserted it twice, which is well as long as both say the same."""
        if not headers:
            raise FormatError(f"{self._database.place} has rows of run {self._run_id!r}, but none of type {_RUN}")
        for other in headers[1:]:
            what = f"the run log of {self._run_id!r} is in {self._of(headers[0])} and in {self._of(other)}"
            the_same(self._object(headers[0]), self._object(other), what)
        return headers[0]

    def _logs(self, rows: list[Row], sorts: tuple[str, ...]) -> list[Found]:
        return [
            Found(row.key or "", self._object(row), self._of(row), _time_of(row.created_at))
            for row in rows
            if row.sort in sorts
        ]

    def _parameter(self, row: Row) -> tuple[Fields, str]:
        return {row.key or "": read_json(_text(row.value), self._of(row))}, self._of(row)

    def _object(self, row: Row) -> Fields:
        return read_object(_text(row.value), self._of(row))

    def _of(self, row: Row) -> str:
        return f"{self._database.place}, pk {row.pk}"


def _text(value: object) -> str | bytes:
    """The JSON of a row, whatever type the database made of it."""
    return value if isinstance(value, str | bytes) else "" if value is None else str(value)


def _time_of(created_at: object) -> int | None:
    """Nanoseconds since 1970; magnus writes UTC, and no time zone."""
    try:
        found = datetime.fromisoformat(created_at) if isinstance(created_at, str) else created_at
    except ValueError:
        return None
    if not isinstance(found, datetime):
        return None
    return nanoseconds_of(found if found.tzinfo else found.replace(tzinfo=UTC))


def _chosen(columns: Mapping[str, Sequence[str]], place: str) -> str:
    """The table that has the columns; `db_log` of several."""
    fitting = sorted(name for name, found in columns.items() if set(COLUMNS) <= set(found))
    if TABLE in fitting or len(fitting) == 1:
        return TABLE if TABLE in fitting else fitting[0]
    has = f"several: {', '.join(fitting)}" if fitting else f"these: {', '.join(sorted(columns)) or 'none at all'}"
    raise InvalidInputError(f"{place} has no one table with the columns {', '.join(COLUMNS)}; it has {has}")


class _SqliteFile:
    """An SQLite file, by the standard library, opened for reading only."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._address = _address_of(path)
        self._table = _chosen(self._columns(), shown(path))

    @property
    def place(self) -> str:
        """The file and the table."""
        return f"{shown(self._path)}, table {self._table}"

    def runs(self) -> list[tuple[Any, str | None, str | None, str | None]]:
        columns = "pk, run_id, attribute_key, attribute_type"
        return self._ask(f"SELECT {columns} FROM {_quoted(self._table)} ORDER BY pk")  # noqa: S608  the name is quoted

    def rows(self, pks: Sequence[Any]) -> list[Row]:
        columns = ", ".join(column for column in COLUMNS if column != "run_id")
        marks = ", ".join("?" * len(pks))
        asked = f"SELECT {columns} FROM {_quoted(self._table)} WHERE pk IN ({marks})"  # noqa: S608  quoted, and only marks
        return [Row(*row) for row in self._ask(asked, pks)]

    def _columns(self) -> dict[str, list[str]]:
        names = self._ask("SELECT name FROM sqlite_master WHERE type IN ('table', 'view')")
        return {name: [row[1] for row in self._ask(f"PRAGMA table_info({_quoted(name)})")] for (name,) in names}

    def _ask(self, question: str, given: Sequence[Any] = ()) -> list[Any]:
        try:
            with closing(sqlite3.connect(self._address, uri=True)) as connection:
                return connection.execute(question, given).fetchall()
        except sqlite3.DatabaseError as error:
            raise FormatError(f"{shown(self._path)} cannot be read by SQLite: {error}") from error


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def without_password(source: str) -> str:
    """A source for people: of a URL without who asks, and by which password."""
    return _ACCESS.sub("://***@", source) if _URL.match(source) else source


def _filled(url: str) -> str:
    """The URL with what the environment says for `${name}`, as magnus filled it from its secrets."""
    try:
        return Template(url).substitute(os.environ)
    except KeyError as error:
        raise InvalidInputError(
            f"the database's URL has ${{{error.args[0]}}}, which the environment does not"
        ) from None
    except ValueError:
        raise InvalidInputError("the database's URL has a $ that begins no ${name}; write $$ for it") from None


class _Alchemy:
    """Any database that SQLAlchemy knows."""

    def __init__(self, url: str) -> None:
        try:
            import sqlalchemy
        except ImportError as error:
            raise NotSupportedError(
                "for a database by its URL SQLAlchemy is needed: pip install 'chunkstore[sql]'"
            ) from error
        self._sql = sqlalchemy
        filled = _filled(url)
        from chunkstore.backends.sqlsettings import by_our_driver, shown_url

        try:
            parsed = by_our_driver(sqlalchemy.make_url(filled))
            self._url = shown_url(parsed)
            self._engine = sqlalchemy.create_engine(parsed, poolclass=sqlalchemy.NullPool, hide_parameters=True)
        except (sqlalchemy.exc.ArgumentError, ValueError, ImportError) as error:
            told = str(error) if isinstance(error, ImportError) else "its URL is none of SQLAlchemy"
            raise InvalidInputError(f"the database cannot be opened: {told}") from None  # the URL may hold a password
        self._name = _chosen(self._columns(), self._url)
        self._table = sqlalchemy.table(self._name, *map(sqlalchemy.column, COLUMNS))

    @property
    def place(self) -> str:
        """The URL and the table."""
        return f"{self._url}, table {self._name}"

    def runs(self) -> list[tuple[Any, str | None, str | None, str | None]]:
        columns = self._table.c
        asked = self._sql.select(columns.pk, columns.run_id, columns.attribute_key, columns.attribute_type)
        return [(pk, run_id, name, sort) for pk, run_id, name, sort in self._ask(asked.order_by(columns.pk))]

    def rows(self, pks: Sequence[Any]) -> list[Row]:
        columns = self._table.c
        wanted = [columns[name] for name in COLUMNS if name != "run_id"]
        return [Row(*row) for row in self._ask(self._sql.select(*wanted).where(columns.pk.in_(pks)))]

    def _columns(self) -> dict[str, list[str]]:
        try:
            found = self._sql.inspect(self._engine)
            names = [*found.get_table_names(), *found.get_view_names()]
            return {name: [column["name"] for column in found.get_columns(name)] for name in names}
        except self._sql.exc.SQLAlchemyError as error:
            silent = self._silent(error)
        raise silent

    def _ask(self, question: Any) -> list[Any]:
        try:
            with self._engine.connect() as connection:
                return list(connection.execute(question))
        except self._sql.exc.SQLAlchemyError as error:
            silent = self._silent(error)
        raise silent

    def _silent(self, error: Exception) -> BackendUnavailableError:
        """To be raised outside of `except`: what SQLAlchemy raises leads to the connection, and the password in it."""
        fault, said = fault_of(getattr(error, "orig", None) or error, sent=False)
        return BackendUnavailableError(f"{self._url}: {fault.what} ({said}). {fault.advice}", transient=fault.transient)
