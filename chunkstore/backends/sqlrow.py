"""Which row of the table `db_log` an object is, and what stands in its columns. Pure; needs no SQLAlchemy.

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
from typing import Final, NamedTuple

from chunkstore.errors import FormatError

TABLE: Final = "db_log"
"""The seed's name of it."""
COLUMNS: Final = ("pk", "run_id", "attribute_key", "attribute_type", "attribute_value", "created_at")
"""The seed's."""
VERSION: Final = "version"
"""Ours."""
CODED: Final = "base64:"
_CODED: Final = CODED.encode()
OTHERS: Final = ("Job", "Pack", "Other")
NAMED: Final = {"step.": "Step", "branch.": "Branch", "parameter.": "Parameter", "parameter@": "Parameter"}
_OURS: Final = re.compile(r"(step\.|branch\.|parameter\.|parameter@).+\.json", re.DOTALL)


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
        return NAMED[found[1]]
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


def version_of(pk: object, value: object) -> str:
    """The version of a row in a table that has none: another one for each other text."""
    text = value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")
    return f"{pk}.{hashlib.blake2b(text, digest_size=16).hexdigest()}"


def is_ours(name: object, sort: object) -> bool:
    """Whether a row of this key and type is ours."""
    return isinstance(name, str) and sort == sort_of(name)
