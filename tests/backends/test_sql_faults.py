"""The error border of databases: what PostgreSQL and SQLite say, and what it means for the caller."""

from __future__ import annotations

import sqlite3
from dataclasses import dataclass, field

import pytest

from chunkstore.backends import sqlfaults
from chunkstore.backends.sqlfaults import CLASSES, SQLITE_CODES, SQLSTATES, Fault, LateError, fault_of


@dataclass
class Said:
    """What a server's error says of itself, as psycopg shows it."""

    message_primary: str
    severity_nonlocalized: str = "ERROR"


class PostgresError(Exception):
    """As psycopg's: with a state, and what the server said."""

    def __init__(self, state: str, said: str = "said", severity: str = "ERROR") -> None:
        super().__init__(f"{said}\nDETAIL:  Key (run_id)=(hidden) exists.")
        self.sqlstate = state
        self.diag = Said(said, severity)


@dataclass
class SqliteError(Exception):
    """As sqlite3's: with the name of its code."""

    said: str
    sqlite_errorname: str = field(default="SQLITE_ERROR")

    def __str__(self) -> str:
        return self.said


FAULTS = {name: fault for name, fault in vars(sqlfaults).items() if isinstance(fault, Fault)}


@pytest.mark.parametrize("state", [*SQLSTATES, *(f"{start}ZZZ" for start in CLASSES), "XXXXX", "22P05"])
def test_each_state_has_a_meaning_that_names_the_next_step(state: str) -> None:
    fault, said = fault_of(PostgresError(state), sent=True)
    assert fault in FAULTS.values()
    assert said == f"said [{state}]"
    assert fault.advice.endswith(".")


@pytest.mark.parametrize(
    "code", sorted(name for name in vars(sqlite3) if name.startswith("SQLITE_IOERR") or name in SQLITE_CODES)
)
def test_each_code_of_sqlite_has_a_meaning(code: str) -> None:
    fault, _ = fault_of(SqliteError("said", code), sent=True)
    assert fault is SQLITE_CODES["_".join(code.split("_")[:2])]


def test_every_primary_code_of_sqlite_is_in_the_table() -> None:
    primary = {
        name
        for name, value in vars(sqlite3).items()
        if name.startswith("SQLITE_") and isinstance(value, int) and 0 < value < 27
    }
    errors = {name for name in primary if hasattr(sqlite3, name)} & _codes_of_sqlite()
    assert errors - {"SQLITE_NOTFOUND", "SQLITE_EMPTY"} <= set(SQLITE_CODES)


def _codes_of_sqlite() -> set[str]:
    """The names that sqlite3 gives to results; others, as `SQLITE_DENY`, are no errors."""
    return {
        *(
            "SQLITE_ERROR",
            "SQLITE_INTERNAL",
            "SQLITE_PERM",
            "SQLITE_ABORT",
            "SQLITE_BUSY",
            "SQLITE_LOCKED",
            "SQLITE_NOMEM",
        ),
        *("SQLITE_READONLY", "SQLITE_INTERRUPT", "SQLITE_IOERR", "SQLITE_CORRUPT", "SQLITE_NOTFOUND", "SQLITE_FULL"),
        *("SQLITE_CANTOPEN", "SQLITE_PROTOCOL", "SQLITE_EMPTY", "SQLITE_SCHEMA", "SQLITE_TOOBIG", "SQLITE_CONSTRAINT"),
        *(
            "SQLITE_MISMATCH",
            "SQLITE_MISUSE",
            "SQLITE_NOLFS",
            "SQLITE_AUTH",
            "SQLITE_FORMAT",
            "SQLITE_RANGE",
            "SQLITE_NOTADB",
        ),
    }


@pytest.mark.parametrize(
    ("state", "severity", "landed", "resend"),
    [
        ("40001", "ERROR", False, True),  # a serialization failure
        ("40P01", "ERROR", False, True),  # a deadlock
        ("57014", "ERROR", False, False),  # its time was up
        ("57P01", "FATAL", True, False),  # ended by an administrator, perhaps between the commit and its reply
        ("57P02", "FATAL", True, False),  # another process of the server crashed
        ("57P03", "FATAL", False, True),  # it is starting: no statement was taken
        ("53300", "FATAL", False, True),  # too many connections
        ("08006", "ERROR", True, False),
        ("40003", "ERROR", True, False),  # it says itself that nobody knows
        ("53100", "ERROR", False, False),  # the disk is full
        ("42501", "ERROR", False, False),
    ],
)
def test_a_write_is_sent_again_only_where_it_was_surely_not_done(
    state: str, severity: str, landed: bool, resend: bool
) -> None:
    fault, _ = fault_of(PostgresError(state, severity=severity), sent=True)
    assert (fault.landed, fault.resend) == (landed, resend)
    assert not (fault.landed and fault.resend)


def test_no_fault_is_both_surely_undone_and_perhaps_done() -> None:
    assert not [name for name, fault in FAULTS.items() if fault.landed and fault.resend]


@pytest.mark.parametrize(
    ("said", "fault"),
    [
        ('FATAL:  password authentication failed for user "me"', sqlfaults.REFUSED),
        ('FATAL:  role "me" does not exist', sqlfaults.REFUSED),
        ("fe_sendauth: no password supplied", sqlfaults.REFUSED),
        ('FATAL:  database "d" does not exist', sqlfaults.NO_DATABASE),
        ("FATAL:  sorry, too many clients already", sqlfaults.BUSY),
        ("FATAL:  the database system is starting up", sqlfaults.STARTING),
        ("connection failed: Connection refused", sqlfaults.UNREACHABLE),
        ("failed to resolve host 'nowhere': Name or service not known", sqlfaults.UNREACHABLE),
        ("SSL error: certificate verify failed", sqlfaults.CERTIFICATE),
        ('invalid connection option "sslmod"', sqlfaults.OPTION),
    ],
)
def test_what_comes_before_a_connection_goes_by_its_words_and_never_landed(said: str, fault: Fault) -> None:
    found, _ = fault_of(Exception(said), sent=False)
    assert found is fault
    assert not found.landed


def test_a_connection_that_broke_after_a_statement_was_sent_may_have_done_it() -> None:
    assert fault_of(Exception("server closed the connection unexpectedly"), sent=True)[0].landed
    assert fault_of(LateError("the server did not answer"), sent=True)[0].landed


@pytest.mark.parametrize(
    "said",
    ["cannot open postgresql://me:hidden@host/d", "bad conninfo: host=h password=hidden port=1", "x\nDETAIL: hidden"],
)
def test_no_secret_is_in_what_was_said(said: str) -> None:
    assert "hidden" not in fault_of(Exception(said), sent=False)[1]
