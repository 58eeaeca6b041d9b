"""What is said about a database: its URL, the table, how to talk to it. Checked before anything is sent, and shown without secrets."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, replace
from typing import Final, Literal
from urllib.parse import unquote

import sqlalchemy
from sqlalchemy.engine import URL

from chunkstore.backends.sqlrow import TABLE
from chunkstore.errors import InvalidInputError, NotSupportedError

Durability = Literal["process", "barrier", "power"]

_NAME: Final = re.compile(r"(?:[A-Za-z_][A-Za-z0-9_]{0,62}\.)?[A-Za-z_][A-Za-z0-9_]{0,49}")
_SQLITE: Final = frozenset({"sqlite", "sqlite+pysqlite"})
_POSTGRESQL: Final = frozenset({"postgresql", "postgresql+psycopg"})
_HELP: Final = (
    "chunkstore speaks SQLite (sqlite:///runs.db) and PostgreSQL by psycopg 3 (postgresql://user@host/database)"
)


@dataclass(frozen=True, kw_only=True, slots=True)
class SqlSettings:
    """Where the table is and how to talk to its database."""

    connection_string: str = field(repr=False)
    table_name: str = TABLE
    password: str = field(default="", repr=False)
    deadline: float = 15.0
    """Seconds that one operation may take, with all its tries."""
    max_connections: int = 20
    """PostgreSQL: connections that one process may have open."""
    recycle_seconds: float = 1800.0
    """PostgreSQL: a connection older than this is made anew before it is used."""
    create_tables: bool | None = None
    """Make the table where it is missing, and complete an old one. None: make it in an SQLite file, touch no old one."""
    durability: Durability | None = None
    """Which acknowledged writes survive. None: `barrier` for SQLite, for PostgreSQL what its server is set to."""

    def __post_init__(self) -> None:
        """Refuses what cannot work, before anything is sent."""
        if not self.connection_string.strip():
            raise InvalidInputError(f"the connection string is empty; {_HELP}")
        if not _NAME.fullmatch(self.table_name):
            raise InvalidInputError(
                f"table_name must be letters, digits and underscores, 50 at the most (or schema.name), not {self.table_name!r}"
            )
        if self.deadline <= 0 or self.max_connections < 1 or self.recycle_seconds <= 0:
            raise InvalidInputError("deadline and recycle_seconds must be above 0, and max_connections at least 1")
        if self.durability not in {None, "process", "barrier", "power"}:
            raise InvalidInputError(f"durability must be process, barrier or power, not {self.durability!r}")
        if self.is_sqlite:
            _check_file(self.connection_string, self.password)
        else:
            _check_server(self.url)

    @property
    def is_sqlite(self) -> bool:
        """Whether this is a file; else a server."""
        return self._scheme in _SQLITE

    @property
    def _scheme(self) -> str:
        return self.connection_string.strip().partition(":")[0].lower()

    @property
    def path(self) -> str:
        """The SQLite file. A `%` and a `?` in its name are `%25` and `%3F` in the URL, for every version of SQLAlchemy."""
        return unquote(self.connection_string.strip().partition(":///")[2].partition("?")[0])

    @property
    def url(self) -> URL:
        """The URL of a server with the driver that is used, and the password."""
        url = _parsed(self.connection_string)
        if url.drivername.lower() not in _POSTGRESQL:
            raise _unknown(url.drivername)
        return by_our_driver(url).set(password=self.password or url.password)

    @property
    def place(self) -> str:
        """The place for people: no password, and nothing of what follows the `?`, where there may be another."""
        shown = _url_of(self.path) if self.is_sqlite else shown_url(self.url)
        return shown if self.table_name == TABLE else f"{shown}, table {self.table_name}"

    def rooted(self) -> SqlSettings:
        """The same with the absolute path of an SQLite file: a process may change its folder, and pickles travel."""
        if not self.is_sqlite:
            return self
        return replace(self, connection_string=_url_of(os.path.abspath(os.path.expanduser(self.path))))


def by_our_driver(url: URL) -> URL:
    """The URL with psycopg 3, where it names PostgreSQL and no driver."""
    return url.set(drivername="postgresql+psycopg") if url.drivername.lower() in _POSTGRESQL else url


def shown_url(url: URL) -> str:
    """A URL for people: no password, no driver of ours, and nothing of what follows the `?`, where there may be another secret."""
    plain = url.drivername.removesuffix("+psycopg")
    return url.set(drivername=plain, query={}).render_as_string(hide_password=True)


def _url_of(path: str) -> str:
    return "sqlite:///" + path.replace("%", "%25").replace("?", "%3F")


def _parsed(connection_string: str) -> URL:
    try:
        return sqlalchemy.make_url(connection_string.strip())
    except (sqlalchemy.exc.ArgumentError, ValueError):
        pass
    # Outside of `except`: the context would hold the string, and the password in it.
    raise InvalidInputError(f"the connection string is no URL of a database; {_HELP}")


def _unknown(name: str) -> NotSupportedError | InvalidInputError:
    shown = name if re.fullmatch(r"[A-Za-z0-9+_]{1,40}", name) else "of this kind"
    if name.lower().startswith(("postgres", "sqlite")):
        return InvalidInputError(f"no database by {shown}; {_HELP}")
    return NotSupportedError(f"no database by {shown}: {_HELP}; nothing is proven on others")


def _check_file(connection_string: str, password: str) -> None:
    named, _, query = connection_string.strip().partition("?")
    host, slashes, path = named.partition("://")[2].partition("/")
    if not slashes or host or path in ("", ":memory:") or path.startswith("file:"):
        raise InvalidInputError(
            "the SQLite URL names no file, or a host; write sqlite:///runs.db, with three slashes, or memory:// for what nobody needs "
            "afterwards"
        )
    if query or "\0" in unquote(path):
        raise InvalidInputError(
            "the SQLite URL has a ? or a null character; leave out what follows, and write %3F for a ?"
        )
    if password:
        raise InvalidInputError("an SQLite file has no password; leave it out")


def _check_server(url: URL) -> None:
    if not url.database and "service" not in url.query:
        raise InvalidInputError("the URL names no database; write postgresql://user@host/database")
