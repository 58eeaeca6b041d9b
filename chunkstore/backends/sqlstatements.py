"""The statements of each verb, for a table with versions and for an old one without. Knows no connection's life and no errors.

With a version every verb is one statement and its own transaction. On an old table a write is a transaction under a lock: reads
the row, compares, writes where the row is still as it was read.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from sqlalchemy import (
    Connection,
    Executable,
    FromClause,
    Insert,
    Select,
    bindparam,
    collate,
    delete,
    insert,
    select,
    update,
)
from sqlalchemy.sql.expression import ColumnElement, TableClause

from chunkstore.backends.contract import Condition
from chunkstore.backends.sqlrow import Address, sort_of, version_of
from chunkstore.backends.sqltable import end_of, is_ours, size_of

T = TypeVar("T")


class Found(NamedTuple):
    """A row's object: the parts of its key, its text, its version."""

    run: str
    name: str
    value: object
    version: str


class Listed(NamedTuple):
    """A line of a listing."""

    name: str
    version: str
    size: int


class Speech(Protocol):
    """What the two databases say in ways of their own."""

    collation: str
    """Compares byte by byte."""
    now: ColumnElement[Any]
    """UTC, by the clock of the database, as the seed's `created_at` is."""
    new_pk: ColumnElement[Any] | None
    """The next primary key, where the column has no default."""

    def insert(self, table: TableClause) -> Any:
        """An INSERT that knows ON CONFLICT."""
        ...

    def octets(self, value: ColumnElement[str]) -> ColumnElement[int]:
        """The length of a text in bytes."""
        ...

    def wanted(self) -> FromClause:
        """A relation of `run` and `name` that is given as parameters."""
        ...

    def given(self, wanted: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """The parameters of `wanted`."""
        ...

    def alone(self, connection: Connection, address: Address) -> AbstractContextManager[None]:
        """A transaction beside which no other writer of ours changes the row."""
        ...


class Statements(Protocol):
    """The verbs as statements."""

    def get(self, connection: Connection, address: Address) -> Found | None: ...
    def get_many(self, connection: Connection, wanted: Sequence[tuple[str, str]]) -> list[Found]: ...
    def put(
        self, connection: Connection, address: Address, value: str, condition: Condition, new: str
    ) -> str | None: ...
    def delete(self, connection: Connection, address: Address, version: str | None) -> bool: ...
    def listed(self, connection: Connection, run: str, start: str) -> list[Listed]: ...
    def folders(self, connection: Connection) -> list[str]: ...


class _Once(Generic[T]):
    """A property that is computed once. That of functools holds a lock in Python 3.11, for which a child that is forked meanwhile waits for ever."""

    def __init__(self, make: Callable[[Any], T]) -> None:
        self._make = make

    def __set_name__(self, _owner: type, name: str) -> None:
        self._name = name

    def __get__(self, instance: Any, _owner: type) -> T:
        made = instance.__dict__[self._name] = self._make(instance)
        return made


class _Common:
    """What both kinds of table share."""

    def __init__(self, table: TableClause, speech: Speech) -> None:
        self.table = table
        self.speech = speech

    def _exactly(self, of: ColumnElement[str]) -> ColumnElement[str]:
        return collate(of, self.speech.collation)

    @_Once
    def _run(self) -> ColumnElement[str]:
        return self._exactly(self.table.c.run_id)

    @_Once
    def _name(self) -> ColumnElement[str]:
        return self._exactly(self.table.c.attribute_key)

    def _at(self) -> ColumnElement[bool]:
        return (self._run == bindparam("run")) & (self._name == bindparam("name"))

    @_Once
    def _here(self) -> ColumnElement[bool]:
        return self._at()

    @_Once
    def _size(self) -> ColumnElement[int]:
        value = self.table.c.attribute_value
        return size_of(self.speech.octets(value), value)

    def _values(self) -> dict[str, Any]:
        values: dict[str, Any] = {
            "run_id": bindparam("run"),
            "attribute_key": bindparam("name"),
            "attribute_type": bindparam("sort"),
            "attribute_value": bindparam("value"),
            "created_at": self.speech.now,
        }
        if self.speech.new_pk is not None:
            values["pk"] = self.speech.new_pk
        return values

    def _within(self, statement: Select[Any], start: str) -> Select[Any]:
        """Only the names that begin so."""
        if not start:
            return statement
        return statement.where(self._name >= bindparam("start"), self._name < bindparam("end"))


class Versioned(_Common):
    """A table with versions and a unique key. One statement each; a conditional delete that removes nothing looks why."""

    @_Once
    def _is_ours(self) -> ColumnElement[bool]:
        return self.table.c.version.is_not(None)

    @_Once
    def _get(self) -> Executable:
        return select(self.table.c.attribute_value, self.table.c.version).where(self._here, self._is_ours)

    @_Once
    def _get_many(self) -> Executable:
        wanted, columns = self.speech.wanted(), self.table.c
        there = (self._run == wanted.c.run) & (self._name == wanted.c.name) & self._is_ours
        picked = select(wanted.c.run, wanted.c.name, columns.attribute_value, columns.version)
        return picked.select_from(wanted.join(self.table, there))

    @_Once
    def _create(self) -> Executable:
        made = self.speech.insert(self.table).values(**self._values(), version=bindparam("new"))
        made = made.on_conflict_do_nothing(index_elements=self._unique, index_where=self._is_ours)
        return _counted(made)

    @_Once
    def _replace(self) -> Executable:
        made = self.speech.insert(self.table).values(**self._values(), version=bindparam("new"))
        changed: dict[str, Any] = {"attribute_value": bindparam("value"), "version": bindparam("new")}
        made = made.on_conflict_do_update(index_elements=self._unique, index_where=self._is_ours, set_=changed)
        return _counted(made)

    @_Once
    def _update(self) -> Executable:
        values: dict[str, Any] = {"attribute_value": bindparam("value"), "version": bindparam("new")}
        return update(self.table).where(self._here, self.table.c.version == bindparam("old")).values(values)

    @property
    def _unique(self) -> list[Any]:
        return [self.table.c.run_id, self.table.c.attribute_key]

    def get(self, connection: Connection, address: Address) -> Found | None:
        row = connection.execute(self._get, {"run": address.run, "name": address.name}).one_or_none()
        return None if row is None else Found(address.run, address.name, row[0], row[1])

    def get_many(self, connection: Connection, wanted: Sequence[tuple[str, str]]) -> list[Found]:
        return [Found(*row) for row in connection.execute(self._get_many, self.speech.given(wanted))]

    def put(self, connection: Connection, address: Address, value: str, condition: Condition, new: str) -> str | None:
        """The version that stands there then; None where the condition does not hold."""
        given = {"run": address.run, "name": address.name, "value": value, "new": new}
        if condition.kind == "unchanged":
            done = connection.execute(self._update, {**given, "old": condition.version})
        else:
            statement = self._create if condition.kind == "absent" else self._replace
            done = connection.execute(statement, {**given, "sort": address.sort})
        return new if done.rowcount > 0 else None

    def delete(self, connection: Connection, address: Address, version: str | None) -> bool:
        """Whether nothing stands there in the end that the condition protects."""
        given = {"run": address.run, "name": address.name}
        gone = delete(self.table).where(self._here, self._is_ours)
        if version is None:
            connection.execute(gone, given)
            return True
        done = connection.execute(gone.where(self.table.c.version == bindparam("old")), {**given, "old": version})
        return bool(done.rowcount) or self.get(connection, address) is None

    def listed(self, connection: Connection, run: str, start: str) -> list[Listed]:
        columns = self.table.c
        found = select(columns.attribute_key, columns.version, self._size)
        found = self._within(found.where(self._run == bindparam("run"), self._is_ours), start)
        return [Listed(*row) for row in connection.execute(found, _span(run, start))]

    def folders(self, connection: Connection) -> list[str]:
        """Steps from one run to the next through the unique key: what a run has beside its first row is not looked at."""
        return [row[0] for row in connection.execute(self._folders)]

    @_Once
    def _folders(self) -> Executable:
        first = select(self._run.label("run")).where(self._is_ours).order_by(self._run).limit(1).subquery()
        runs = select(first.c.run).cte("runs", recursive=True)
        later = select(self._run).where(self._run > self._exactly(runs.c.run), self._is_ours)
        after = later.order_by(self._run).limit(1).correlate(runs).scalar_subquery()
        runs = runs.union_all(select(after).where(runs.c.run.is_not(None)))
        return select(runs.c.run).where(runs.c.run.is_not(None))


class Unversioned(_Common):
    """The seed's table as it is. The version of a row is its primary key and the digest of its text."""

    @_Once
    def _here(self) -> ColumnElement[bool]:
        return self._at() & (self.table.c.attribute_type == bindparam("sort"))

    @_Once
    def _get(self) -> Executable:
        columns = self.table.c
        return select(columns.pk, columns.attribute_value).where(self._here).order_by(columns.pk)

    def get(self, connection: Connection, address: Address) -> Found | None:
        row = connection.execute(self._get, address._asdict()).first()
        return None if row is None else Found(address.run, address.name, row[1], version_of(row[0], row[1]))

    def get_many(self, connection: Connection, wanted: Sequence[tuple[str, str]]) -> list[Found]:
        asked, columns = self.speech.wanted(), self.table.c
        there = (self._run == asked.c.run) & (self._name == asked.c.name)
        picked = select(asked.c.run, asked.c.name, columns.attribute_type, columns.attribute_value, columns.pk)
        picked = picked.select_from(asked.join(self.table, there)).order_by(columns.pk.desc())
        rows = connection.execute(picked, self.speech.given(wanted))
        # The first of several rows, as `get` does.
        found = {(run, name): (value, pk) for run, name, sort, value, pk in rows if sort == sort_of(name)}
        return [Found(run, name, value, version_of(pk, value)) for (run, name), (value, pk) in found.items()]

    def put(self, connection: Connection, address: Address, value: str, condition: Condition, new: str) -> str | None:
        """As of `Versioned`."""
        with self.speech.alone(connection, address):
            row = connection.execute(self._get, address._asdict()).first()
            seen = None if row is None else version_of(row[0], row[1])
            if condition.kind == "absent" and row is not None:
                return None
            if condition.kind == "unchanged" and seen != condition.version:
                return None
            if row is None:
                return self._inserted(connection, address, value)
            only = self._as_read if condition.kind == "unchanged" else self._of_row
            changed = only(update(self.table), row)
            done = connection.execute(changed.values(attribute_value=value))
            return version_of(row[0], value) if done.rowcount else None

    def _inserted(self, connection: Connection, address: Address, value: str) -> str | None:
        connection.execute(insert(self.table).values(**self._values()), {**address._asdict(), "value": value})
        found = self.get(connection, address)
        return None if found is None else found.version

    def delete(self, connection: Connection, address: Address, version: str | None) -> bool:
        """As of `Versioned`."""
        with self.speech.alone(connection, address):
            rows = connection.execute(self._get, address._asdict()).all()
            if version is None:
                for row in rows:
                    connection.execute(self._of_row(delete(self.table), row))
                return True
            if rows and version_of(*rows[0]) != version:
                return False
            return all(connection.execute(self._as_read(delete(self.table), row)).rowcount for row in rows)

    def _of_row(self, statement: Any, row: Any) -> Any:
        return statement.where(self.table.c.pk == row[0])

    def _as_read(self, statement: Any, row: Any) -> Any:
        """Only where the row is as it was read, also for programs that take no lock."""
        return self._of_row(statement, row).where(self.table.c.attribute_value == row[1])

    def listed(self, connection: Connection, run: str, start: str) -> list[Listed]:
        columns = self.table.c
        found = select(columns.attribute_key, columns.attribute_type, self._size).where(self._run == bindparam("run"))
        rows = connection.execute(self._within(found, start), _span(run, start))
        sizes = {name: size for name, sort, size in rows if name is not None and sort == sort_of(name)}
        return [Listed(name, "", size) for name, size in sizes.items()]

    def folders(self, connection: Connection) -> list[str]:
        runs = select(self.table.c.run_id).where(is_ours(self.table.c), self.table.c.run_id.is_not(None)).distinct()
        return [row[0] for row in connection.execute(runs)]


def _span(run: str, start: str) -> dict[str, str]:
    return {"run": run, "start": start, "end": end_of(start)} if start else {"run": run}


def _counted(statement: Insert) -> Insert:
    """Of an INSERT nobody tells otherwise how many rows it made."""
    return statement.execution_options(preserve_rowcount=True)
