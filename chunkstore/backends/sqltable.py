"""The table `db_log` for statements: its columns, what it offers, which of its rows are ours. Sends nothing."""

from __future__ import annotations

from enum import Enum
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, DateTime, Text, and_, case, column, func, or_, table
from sqlalchemy.sql.expression import TableClause

from chunkstore.backends.sqlrow import CODED, COLUMNS, NAMED, OTHERS, VERSION


class Shape(Enum):
    """What the table offers."""

    MISSING = "there is none"
    OLD = "the seed's six columns"
    COMPLETE = "a version, and a unique key"
    FOREIGN = "not the seed's columns"
    HALF = "a version, but no unique key"

    @classmethod
    def of(cls, columns: set[str], *, unique: bool) -> Shape:
        """What a table with these columns offers."""
        if not columns.issuperset(COLUMNS):
            return cls.FOREIGN
        if VERSION not in columns:
            return cls.OLD
        return cls.COMPLETE if unique else cls.HALF


def size_of(octets: ColumnElement[int], value: ColumnElement[str]) -> ColumnElement[int]:
    """How many bytes `bytes_of` would give, by the database."""
    coded = func.substr(value, 1, len(CODED)) == CODED
    return func.coalesce(case((coded, (octets - len(CODED)) * 3 // 4), else_=octets), 0)


def table_of(name: str) -> TableClause:
    """The table, for statements."""
    schema, _, plain = name.rpartition(".")
    return table(
        plain,
        column("pk", BigInteger),
        column("run_id", Text),
        column("attribute_key", Text),
        column("attribute_type", Text),
        column("attribute_value", Text),
        column("created_at", DateTime),
        column(VERSION, Text),
        schema=schema or None,
    )


def is_ours(of: Any) -> ColumnElement[bool]:
    """Whether a row is ours, by its type and key. `of` has the columns."""
    name, sort = of.attribute_key, of.attribute_type
    named = [
        and_(
            sort == word,
            func.substr(name, 1, len(start)) == start,
            func.substr(name, func.length(name) - 4) == ".json",
            func.length(name) > len(start) + 5,
        )
        for start, word in NAMED.items()
    ]
    return or_(sort.in_(OTHERS), and_(sort == "RunLog", name == "run.json"), *named)


def end_of(start: str) -> str:
    """The least text that is greater than every one that begins so. Keys are ASCII."""
    return start[:-1] + chr(ord(start[-1]) + 1)
