"""The table `db_log` of the seeds: which row an object is, and what stands in its columns. Sends nothing.

    pk, run_id, attribute_key, attribute_type, attribute_value, created_at, version

`run_id` and `attribute_key` are the two parts of an object's key. The value is the object's text; bytes that are no UTF-8 text, or
hold what a database cannot keep, are `base64:…`. In the same table there may be rows of magnus: they have no version, and
no pair of type and key that is ours.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from enum import Enum
from typing import Any, Final, NamedTuple

from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    Text,
    and_,
    case,
    column,
    func,
    or_,
    table,
)
from sqlalchemy.sql.expression import TableClause

from chunkstore.errors import FormatError

COLUMNS: Final = ("pk", "run_id", "attribute_key", "attribute_type", "attribute_value", "created_at")
"""The seed's."""
VERSION: Final = "version"
"""Ours."""

CODED: Final = "base64:"
_CODED: Final = CODED.encode()
_OTHERS: Final = ("Job", "Pack", "Other")
_NAMED: Final = {"step.": "Step", "branch.": "Branch", "parameter.": "Parameter", "parameter@": "Parameter"}
_OURS: Final = re.compile(r"(step\.|branch\.|parameter\.|parameter@).+\.json", re.DOTALL)


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


class Address(NamedTuple):
    """Where an object's row is."""

    run: str
    name: str
    sort: str


def address_of(key: str) -> Address:
    """The row of a key."""
    run, _, name = key.partition("/")
    return Address(run, name, sort_of(name))


def sort_of(name: str) -> str:
    """The `attribute_type`, for people who ask the table. Never one that magnus gives a row of this key."""
    if name == "run.json":
        return "RunLog"  # magnus has the key `run_log` there
    if name == "job.json":
        return "Job"
    if (found := _OURS.fullmatch(name)) is not None:
        return _NAMED[found[1]]
    return "Pack" if name == "whole.pack" else "Other"


def text_of(data: bytes, *, ascii_only: bool = False) -> str:
    """The bytes as a text that a database can keep. No two bytes have the same."""
    if b"\0" not in data and not data.startswith(_CODED) and (not ascii_only or data.isascii()):
        try:
            return data.decode()
        except UnicodeDecodeError:
            pass
    return CODED + base64.b64encode(data).rstrip(b"=").decode("ascii")


def bytes_of(value: object, key: str) -> bytes:
    """The bytes that a value stands for. Raises `FormatError` for one that somebody else's program made."""
    if isinstance(value, bytes):
        return value
    if value is None:
        return b""
    if not isinstance(value, str):
        raise FormatError(f"{key} is no text in the database, but {type(value).__name__}; look at the row", key=key)
    if not value.startswith(CODED):
        return value.encode()
    coded = value[len(CODED) :]
    try:
        return base64.b64decode(coded + "=" * (-len(coded) % 4), validate=True)
    except (binascii.Error, ValueError) as error:
        raise FormatError(f"{key} begins with {CODED} and is not base64; look at the row", key=key) from error


def size_of(octets: ColumnElement[int], value: ColumnElement[str]) -> ColumnElement[int]:
    """How many bytes `bytes_of` would give, by the database."""
    coded = func.substr(value, 1, len(CODED)) == CODED
    return func.coalesce(case((coded, (octets - len(CODED)) * 3 // 4), else_=octets), 0)


def version_of(pk: object, value: object) -> str:
    """The version of a row in a table that has none: another one for each other text."""
    text = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return f"{pk}.{hashlib.blake2b(text, digest_size=16).hexdigest()}"


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
        for start, word in _NAMED.items()
    ]
    return or_(sort.in_(_OTHERS), and_(sort == "RunLog", name == "run.json"), *named)


def end_of(start: str) -> str:
    """The least text that is greater than every one that begins so. Keys are ASCII."""
    return start[:-1] + chr(ord(start[-1]) + 1)
