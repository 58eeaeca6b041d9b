"""The SQL backend passes the suite and the machine, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

import socket
import tempfile
from pathlib import Path

import pytest
from witnesses import postgres_witness, sqlite_witness

from chunkstore.backends import Backend
from chunkstore.testing import BackendSuite, Witness
from chunkstore.testing.machine import backend_machine
from databases import Postgres
from places import in_database, in_file

pytest.importorskip("sqlalchemy")


class TestSqlite(BackendSuite):
    @pytest.fixture
    def backend(self, tmp_path: Path) -> Backend:
        return in_file(tmp_path)

    @pytest.fixture
    def witness(self, tmp_path: Path, backend: Backend) -> Witness:
        list(backend.folders())  # the table is there
        return sqlite_witness(tmp_path / "runs.db")

    @pytest.fixture
    def unreachable(self, tmp_path: Path) -> Backend:
        (tmp_path / "file").write_text("a file stands where the folder of the database should be")
        return in_file(tmp_path / "file")


class TestPostgres(BackendSuite):
    rounds = 20
    secrets = ("open sesame",)

    @pytest.fixture
    def table(self, postgres_server: Postgres) -> str:
        return postgres_server.new_table()

    @pytest.fixture
    def backend(self, postgres_server: Postgres, table: str) -> Backend:
        return in_database(postgres_server.url(), table_name=table)

    @pytest.fixture
    def elsewhere(self, postgres_server: Postgres, table: str) -> Backend:
        return in_database(postgres_server.url(), table_name=table)

    @pytest.fixture
    def witness(self, postgres_server: Postgres, table: str, backend: Backend) -> Witness:
        list(backend.folders())  # the table is there
        return postgres_witness(postgres_server, table)

    @pytest.fixture
    def unreachable(self) -> Backend:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
            return in_database(f"postgresql://someone:open%20sesame@127.0.0.1:{port}/runs", made=False, deadline=1.0)


TestSqliteMachine = backend_machine(lambda: in_file(Path(tempfile.mkdtemp(prefix="chunkstore-machine-")))).TestCase
