"""The SQL backend passes the suite on a real PostgreSQL: with its own table, and with the old one of magnus."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing

import pytest
from witnesses import TableWitness

from chunkstore.backends import Backend
from chunkstore.testing import BackendSuite, Witness
from databases import Postgres
from places import in_database

pytest.importorskip("sqlalchemy", reason="the extra `sql` is not installed")


class TestPostgres(BackendSuite):
    rounds = 6
    secrets = ("open sesame", "open%20sesame")

    @pytest.fixture
    def url(self, postgres_server: Postgres) -> str:
        return postgres_server.url()

    @pytest.fixture
    def table(self, postgres_server: Postgres) -> str:
        return postgres_server.new_table()

    @pytest.fixture
    def backend(self, url: str, table: str) -> Iterator[Backend]:
        with closing(in_database(url, table_name=table, max_connections=8)) as backend:
            yield backend

    @pytest.fixture
    def elsewhere(self, url: str, table: str) -> Iterator[Backend]:
        with closing(in_database(url, table_name=table, made=False, max_connections=8)) as backend:
            yield backend

    @pytest.fixture
    def witness(self, postgres_server: Postgres, table: str) -> Witness:
        return TableWitness(postgres_server.connect, "%s", table)

    @pytest.fixture
    def unreachable(self) -> Backend:
        with socket.socket() as taken:
            taken.bind(("127.0.0.1", 0))
            port = taken.getsockname()[1]
        return in_database(f"postgresql://someone:open%20sesame@127.0.0.1:{port}/runs", made=False, deadline=1.0)


OLD_TABLE = """
    CREATE TABLE {} (pk INTEGER NOT NULL PRIMARY KEY, run_id TEXT, attribute_key TEXT, attribute_type TEXT,
                     attribute_value TEXT, created_at TIMESTAMP WITHOUT TIME ZONE)
"""
OTHERS = [
    ("run", "run_log", "RunLog"),
    ("run", "run.json", "Parameter"),
    ("run", "run.json", "Parameter"),
    ("run", "step.a.json", "StepLog"),
    (None, None, None),
]
"""Rows of magnus, that look as much like ours as they can."""


@pytest.mark.slow
class TestPostgresWithAnOldTable(TestPostgres):
    """As magnus makes it: without version, unique key, or a default for the primary key."""

    rounds = 2

    @pytest.fixture
    def table(self, postgres_server: Postgres) -> str:
        table = postgres_server.new_table()
        postgres_server.run("CREATE SEQUENCE IF NOT EXISTS id_seq")
        postgres_server.run(OLD_TABLE.format(table))
        for row in OTHERS:
            postgres_server.run(f"INSERT INTO {table} VALUES (nextval('id_seq'), %s, %s, %s, '{{}}')", *row)
        return table

    @pytest.fixture
    def backend(self, url: str, table: str) -> Iterator[Backend]:
        with closing(in_database(url, table_name=table, made=False, max_connections=8)) as backend:
            yield backend

    @pytest.fixture
    def witness(self, postgres_server: Postgres, table: str) -> Witness:
        return TableWitness(postgres_server.connect, "%s", table, "nextval('id_seq')")
