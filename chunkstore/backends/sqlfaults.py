"""The error border of databases: one table from what PostgreSQL or SQLite said to what it means for us.

PostgreSQL's errors go by SQLSTATE, SQLite's by the name of their code. What comes before there is a connection has neither: libpq
hands on the server's text alone, so that goes by its words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

_CREDENTIALS: Final = re.compile(r"//[^/\s\"']*@|\bpassword\s*=\s*\S+", re.IGNORECASE)
_LANDED_ERRORS: Final = frozenset({"FATAL", "PANIC"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One way in which a statement can fail."""

    what: str
    """For people: what happened."""
    advice: str
    """For people: the next step."""
    transient: bool = False
    """May the same statement succeed later, without anybody changing anything?"""
    landed: bool = False
    """May a write have been done all the same?"""
    resend: bool = False
    """Was it surely not done, and is it worth sending again?"""


CONDITION: Final = Fault("somebody else wrote the row", "Read the object and decide again.")
NO_TABLE: Final = Fault(
    "there is no such table",
    "Make it by chunkstore.backends.sql.create_tables(connection_string), or set create_tables=True.",
)
OTHER_TABLE: Final = Fault(
    "the table has not the columns or the unique key that it had",
    "Complete it by chunkstore.backends.sql.create_tables(connection_string).",
)
NO_DATABASE: Final = Fault("there is no such database", "Create it, or correct its name.")
REFUSED: Final = Fault(
    "the server refused the login", "Check user and password, and what pg_hba.conf says of this host."
)
DENIED: Final = Fault("permission was denied", "Give this user SELECT, INSERT, UPDATE and DELETE on the table.")
READ_ONLY: Final = Fault(
    "the database is read-only", "Write to the primary server, or make file and folder writable for this user."
)
FULL: Final = Fault("there is no room left", "Free some space or raise the quota, then repeat the call.")
BUSY: Final = Fault(
    "the database is busy",
    "Try again later, or lower max_connections, or raise the deadline.",
    transient=True,
    resend=True,
)
RACE: Final = Fault("two transactions stood in each other's way", "Try again.", transient=True, resend=True)
STARTING: Final = Fault("the server is starting or stopping", "Try again.", transient=True, resend=True)
UNREACHABLE: Final = Fault(
    "the server cannot be reached", "Check that it runs and that its address is right.", transient=True, resend=True
)
CERTIFICATE: Final = Fault(
    "the TLS connection could not be trusted", "Check sslmode, sslrootcert and the server's certificate."
)
OPTION: Final = Fault("the URL has a parameter that libpq does not know", "Correct what stands behind its '?'.")
BROKEN: Final = Fault("the connection broke", "Try again.", transient=True, landed=True)
LATE: Final = Fault("there was no answer in time", "Try again, or raise the deadline.", transient=True, landed=True)
CANCELLED: Final = Fault(
    "the statement took too long and was stopped", "Try again, or raise the deadline.", transient=True
)
DISK: Final = Fault(
    "the disk failed", "Look at the disk and the system's log, then run `PRAGMA integrity_check`.", landed=True
)
DAMAGED: Final = Fault(
    "the file is no SQLite database, or damaged", "Restore it from a backup, or choose another file."
)
CANNOT_OPEN: Final = Fault(
    "the file cannot be opened", "Make the folder readable and writable for this user, or choose another one."
)
REJECTED: Final = Fault("the database did not accept the statement", "Check the table and the versions of both sides.")

SQLSTATES: Final[Mapping[str, Fault]] = {
    state: fault
    for fault, states in {
        CONDITION: "23505",
        NO_TABLE: "42P01 3F000",
        OTHER_TABLE: "42703 42P10 42804 42883",
        NO_DATABASE: "3D000",
        REFUSED: "28000 28P01 08004",
        DENIED: "42501",
        READ_ONLY: "25006",
        FULL: "53100",
        BUSY: "53000 53200 53300 53400 55P03 55006",
        RACE: "40001 40P01 40000 40002",
        STARTING: "57P03",
        BROKEN: "57P01 57P02 57P04 57P05 08000 08003 08006 08001 08007 08P01 40003",
        CANCELLED: "57014",
        DISK: "58030 XX001 XX002",
    }.items()
    for state in states.split()
}
"""SQLSTATEs of PostgreSQL. One that is not here goes by its class, the rest are REJECTED."""

CLASSES: Final[Mapping[str, Fault]] = {"08": BROKEN, "28": REFUSED, "40": RACE, "53": BUSY, "57": BROKEN, "58": BROKEN}

SQLITE_CODES: Final[Mapping[str, Fault]] = {
    code: fault
    for fault, codes in {
        CONDITION: "SQLITE_CONSTRAINT",
        DENIED: "SQLITE_PERM SQLITE_AUTH",
        READ_ONLY: "SQLITE_READONLY",
        FULL: "SQLITE_FULL",
        BUSY: "SQLITE_BUSY SQLITE_LOCKED SQLITE_PROTOCOL SQLITE_SCHEMA SQLITE_NOMEM",
        DISK: "SQLITE_IOERR",
        DAMAGED: "SQLITE_CORRUPT SQLITE_NOTADB SQLITE_FORMAT",
        CANNOT_OPEN: "SQLITE_CANTOPEN SQLITE_NOLFS",
        REJECTED: "SQLITE_ERROR SQLITE_TOOBIG SQLITE_MISMATCH SQLITE_RANGE SQLITE_MISUSE SQLITE_INTERNAL SQLITE_INTERRUPT SQLITE_ABORT",
    }.items()
    for code in codes.split()
}
"""Primary result codes of SQLite; an extended one begins with its primary one."""

WORDS: Final[tuple[tuple[str, Fault], ...]] = (
    (r"invalid (connection option|URI query parameter)", OPTION),  # first: its name may have words of the others
    (r"no such table", NO_TABLE),
    (r"no such column|has no column|ON CONFLICT clause does not match", OTHER_TABLE),
    (r"password|authentication|no pg_hba|role .* does not exist|not permitted to log in", REFUSED),
    (r"database .* does not exist", NO_DATABASE),
    (r"too many (clients|connections)|connection slots", BUSY),
    (r"starting up|shutting down|recovery", STARTING),
    (r"certificate|SSL|TLS", CERTIFICATE),
)
"""What the text of a failure says that has no code, in this order."""


class LateError(Exception):
    """A statement was not answered before its deadline; its connection is closed."""


def fault_of(error: BaseException, *, sent: bool) -> tuple[Fault, str]:
    """What an exception of psycopg or sqlite3 means, and what was said, for people."""
    if isinstance(error, LateError):
        return LATE, str(error)
    said = _said(error)
    state = getattr(error, "sqlstate", None)
    if isinstance(state, str):
        return _fault_of_state(state, error), f"{said} [{state}]"
    name = getattr(error, "sqlite_errorname", None)
    if isinstance(name, str):
        found = _fault_of_sqlite(name)
        return (_by_words(said, found) if found is REJECTED else found), f"{said} [{name}]"
    return (BROKEN if sent else _by_words(said, UNREACHABLE)), said


def _fault_of_state(state: str, error: BaseException) -> Fault:
    fault = SQLSTATES.get(state) or CLASSES.get(state[:2], REJECTED)
    severity = getattr(getattr(error, "diag", None), "severity_nonlocalized", None)
    # A transaction that an ERROR ends did nothing. What ends the connection may come when it was done already.
    return BROKEN if severity in _LANDED_ERRORS and not fault.resend and fault.transient else fault


def _fault_of_sqlite(name: str) -> Fault:
    primary = "_".join(name.split("_")[:2])
    return SQLITE_CODES.get(primary, REJECTED)


def _by_words(said: str, otherwise: Fault) -> Fault:
    return next((fault for words, fault in WORDS if re.search(words, said, re.IGNORECASE)), otherwise)


def _said(error: Any) -> str:
    """The first line of what was said, without what a connection string may hold; no details, which repeat values."""
    primary = getattr(getattr(error, "diag", None), "message_primary", None)
    text = str(primary or error).strip() or type(error).__name__
    line = " ".join(text.split("\nDETAIL:")[0].split())
    return _CREDENTIALS.sub("***", line)[:300]
