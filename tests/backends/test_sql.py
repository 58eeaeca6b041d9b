"""The SQL backend passes the suite and the machine in an SQLite file: with its own table, and with the old one of magnus."""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `sql` is not installed")

from witnesses import TableWitness

from chunkstore.backends import Backend
from chunkstore.backends.sql import SqlBackend, create_tables
from chunkstore.testing import BackendSuite, Witness
from chunkstore.testing.machine import backend_machine
from places import in_file, remove_file

OLD_TABLE = """
    CREATE TABLE db_log (pk INTEGER NOT NULL, run_id TEXT, attribute_key TEXT, attribute_type TEXT, attribute_value TEXT,
                         created_at DATETIME, PRIMARY KEY (pk))
"""


def old_table(path: Path) -> Path:
    """A file with the table as magnus's store makes it, and a run of it that looks as much like ours as it can."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        ("run", "run_log", "RunLog", '{"run_id": "run"}'),
        ("run", "step.a.json", "StepLog", '{"internal_name": "step.a.json"}'),
        ("run", "step.a.json", "Parameter", "3"),
        ("run", "run.json", "Parameter", '"magnus"'),
        ("run", "run.json", "Parameter", '"twice"'),
        ("theirs", "run_log", "RunLog", '{"run_id": "theirs"}'),
        (None, None, None, None),
    ]
    with closing(sqlite3.connect(path)) as file, file:
        file.execute(OLD_TABLE)
        file.executemany(
            "INSERT INTO db_log (run_id, attribute_key, attribute_type, attribute_value) VALUES (?, ?, ?, ?)", rows
        )
    return path


class TestSqliteBackend(BackendSuite):
    rounds = 12

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = tmp_path / "some folder" / "runs %41 #.db"
        create_tables(f"sqlite:///{tmp_path}/some folder/runs %2541 #.db")
        return path

    @pytest.fixture
    def backend(self, path: Path) -> Backend:
        return SqlBackend("sqlite:///" + str(path).replace("%", "%25"))

    @pytest.fixture
    def witness(self, path: Path) -> Witness:
        return TableWitness(lambda: sqlite3.connect(path, timeout=10))

    @pytest.fixture
    def unreachable(self, tmp_path: Path) -> Backend:
        (tmp_path / "file").write_text("a file stands where the folder should be")
        return SqlBackend(f"sqlite:///{tmp_path}/file/runs.db")


class TestSqliteWithAnOldTable(TestSqliteBackend):
    rounds = 4

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        return old_table(tmp_path / "old.db")


class TestSqliteWithACompletedTable(TestSqliteBackend):
    rounds = 2

    @pytest.fixture
    def path(self, tmp_path: Path) -> Path:
        path = old_table(tmp_path / "old.db")
        create_tables(f"sqlite:///{path}")
        return path


TestSqliteMachine = backend_machine(
    lambda: in_file(Path(tempfile.mkdtemp(prefix="chunkstore-machine-"))), remove=remove_file, examples=15
).TestCase
