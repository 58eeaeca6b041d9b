"""The table of the SQL backend, in an SQLite file: how it is made and completed, whose rows it shows, what its columns hold."""

from __future__ import annotations

import json
import logging
import os
import pickle
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("sqlalchemy", reason="the extra `sql` is not installed")

from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy import event
from test_sql import old_table

import chunkstore
from chunkstore.backends import ANY, CREATE, FOUND, Backend, unchanged
from chunkstore.backends.sql import SqlBackend, create_tables
from chunkstore.backends.sqlrow import bytes_of, is_ours, sort_of, text_of
from chunkstore.errors import (
    BackendUnavailableError,
    ConflictError,
    InvalidInputError,
    NotSupportedError,
    ObjectNotFoundError,
    StorageFullError,
)
from chunkstore.maintenance import examine, import_runs


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "runs.db"


@pytest.fixture
def backend(path: Path) -> Iterator[Backend]:
    made = SqlBackend(f"sqlite:///{path}")
    yield made
    made.close()


def ask(path: Path, statement: str, *given: object) -> list[Any]:
    with closing(sqlite3.connect(path)) as file, file:
        return file.execute(statement, given).fetchall()


@contextmanager
def statements_of(backend: SqlBackend) -> Iterator[list[str]]:
    """What the backend sends while the block runs."""
    sent: list[str] = []

    def note(_1: object, _2: object, statement: str, *_: object) -> None:
        sent.append(statement)

    engine = backend._database.side.engine
    event.listen(engine, "before_cursor_execute", note)
    try:
        yield sent
    finally:
        event.remove(engine, "before_cursor_execute", note)


# What the columns hold.


def test_a_row_is_what_the_seed_says(backend: SqlBackend, path: Path) -> None:
    backend.put("run 1/parameter.alpha.json", '{"a":"ü"}'.encode(), FOUND)
    ((pk, run, key, sort, value, created, version),) = ask(path, "SELECT * FROM db_log")
    assert (run, key, sort, value) == ("run 1", "parameter.alpha.json", "Parameter", '{"a":"ü"}')
    assert pk == 1
    assert created[:2] == "20"
    assert version == backend.get("run 1/parameter.alpha.json").version


@pytest.mark.parametrize(
    ("name", "sort"),
    [
        ("run.json", "RunLog"),
        ("job.json", "Job"),
        ("step.a.json", "Step"),
        ("branch.a.b.json", "Branch"),
        ("parameter.a.json", "Parameter"),
        ("parameter@a.b@c.json", "Parameter"),
        ("whole.pack", "Pack"),
        ("step.json", "Other"),
        ("manifest.json", "Other"),
    ],
)
def test_the_type_says_to_people_what_a_row_is(name: str, sort: str) -> None:
    assert sort_of(name) == sort


@given(st.binary() | st.text().map(str.encode) | st.binary().map(lambda data: b"base64:" + data))
def test_bytes_come_back_from_the_text_that_stands_for_them(data: bytes) -> None:
    text = text_of(data)
    assert bytes_of(text, "k") == data
    assert "\0" not in text
    assert bytes_of(text_of(data, ascii_only=True), "k") == data
    assert text_of(data, ascii_only=True).isascii()


@given(st.lists(st.binary() | st.text().map(str.encode), max_size=8, unique=True))
def test_no_two_bytes_have_one_text(several: list[bytes]) -> None:
    assert len({text_of(data) for data in several}) == len(several)


@pytest.mark.parametrize("data", [b"", b"base64:", b"base64:AA", b"\xff", b"a\0b", b"\0" * 7, "ü".encode()])
def test_the_database_counts_the_bytes_that_come_back(backend: SqlBackend, data: bytes) -> None:
    backend.put("run/x.json", data, FOUND)
    ((entry),) = backend.list("run/")
    assert entry.size == len(data)


# How the table comes to be.


def test_a_file_is_made_by_the_first_write_and_by_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "runs.db"
    backend = SqlBackend(f"sqlite:///{path}")
    assert list(backend.folders()) == list(backend.list("run/")) == list(backend.get_many(["run/run.json"])) == []
    with pytest.raises(ObjectNotFoundError):
        backend.get("run/run.json")
    backend.delete("run/run.json")
    assert not path.parent.exists()
    backend.put("run/run.json", b"x", FOUND)
    assert path.is_file()
    assert ask(path, "PRAGMA journal_mode") == [("wal",)]
    backend.close()


def test_a_missing_table_that_is_not_to_be_made_is_an_error_that_names_create_tables(path: Path) -> None:
    backend = SqlBackend(f"sqlite:///{path}", create_tables=False)
    for _ in range(2):
        for verb in (
            lambda: backend.put("run/run.json", b"x", FOUND),
            lambda: backend.get("run/run.json"),
            lambda: list(backend.folders()),
        ):
            with pytest.raises(BackendUnavailableError, match="create_tables"):
                verb()
        ask(path, "CREATE TABLE IF NOT EXISTS other (a)")  # now there is a file
    create_tables(f"sqlite:///{path}")
    backend.put("run/run.json", b"x", FOUND)
    backend.close()


def test_create_tables_may_be_called_again(path: Path) -> None:
    backend = SqlBackend(f"sqlite:///{path}")
    version = backend.put("run/run.json", b"x", FOUND)
    create_tables(f"sqlite:///{path}")
    backend.create_tables()
    assert backend.get("run/run.json") == (b"x", version)
    backend.close()


def test_tables_of_other_names_are_other_places(path: Path) -> None:
    one, two = SqlBackend(f"sqlite:///{path}"), SqlBackend(f"sqlite:///{path}", table_name="others")
    one.put("run/run.json", b"1", FOUND)
    two.put("run/run.json", b"2", FOUND)
    assert (one.get("run/run.json").data, two.get("run/run.json").data) == (b"1", b"2")
    assert one.place != two.place
    one.close()
    two.close()


def test_a_table_of_somebody_elses_columns_is_refused(path: Path) -> None:
    ask(path, "CREATE TABLE db_log (pk INTEGER PRIMARY KEY, said TEXT)")
    backend = SqlBackend(f"sqlite:///{path}")
    with pytest.raises(NotSupportedError, match="table_name"):
        backend.put("run/run.json", b"x", FOUND)
    with pytest.raises(NotSupportedError, match="table_name"):
        create_tables(f"sqlite:///{path}")
    backend.close()


# An old table.


def test_an_old_table_is_used_as_found_and_that_is_said_once(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old_table(path)
    backend = SqlBackend(f"sqlite:///{path}")
    with caplog.at_level(logging.WARNING):
        backend.put("run/run.json", b"x", FOUND)
        backend.get("run/run.json")
    assert ["create_tables" in record.getMessage() for record in caplog.records] == [True]
    assert "version" not in {row[1] for row in ask(path, "PRAGMA table_info(db_log)")}
    backend.close()


@pytest.mark.parametrize("completed", [False, True])
def test_rows_of_magnus_are_never_shown_and_never_changed(path: Path, completed: bool) -> None:
    old_table(path)
    columns = "pk, run_id, attribute_key, attribute_type, attribute_value, created_at"
    before = ask(path, f"SELECT {columns} FROM db_log ORDER BY pk")
    if completed:
        create_tables(f"sqlite:///{path}")
    backend = SqlBackend(f"sqlite:///{path}")
    assert list(backend.folders()) == []
    assert list(backend.list("run/")) == []
    names = ("run_log", "run.json", "step.a.json")
    assert list(backend.get_many([f"run/{name}" for name in names])) == []
    for name in names:
        backend.delete(f"run/{name}")
        version = backend.put(f"run/{name}", b"ours", CREATE)
        backend.put(f"run/{name}", b"again", unchanged(version))
        backend.put(f"run/{name}", b"and again", ANY)
        backend.delete(f"run/{name}")
    assert ask(path, f"SELECT {columns} FROM db_log ORDER BY pk") == before
    backend.close()


def test_magnus_goes_on_beside_us_in_a_completed_table(path: Path) -> None:
    """Select, then insert, without a unique key: two rows of one key are as well to it as ever."""
    old_table(path)
    create_tables(f"sqlite:///{path}")
    backend = SqlBackend(f"sqlite:///{path}")
    backend.put("run/step.a.json", b"ours", FOUND)
    for _ in range(2):
        ask(path, "INSERT INTO db_log (run_id, attribute_key, attribute_type) VALUES ('run', 'step.a.json', 'StepLog')")
    ask(path, "UPDATE db_log SET attribute_value = 'x' WHERE attribute_type = 'StepLog'")
    assert [entry.key for entry in backend.list("run/")] == ["run/step.a.json"]
    assert backend.get("run/step.a.json").data == b"ours"
    backend.close()


def test_what_was_written_to_an_old_table_is_there_when_it_is_completed(path: Path) -> None:
    old_table(path)
    late = SqlBackend(f"sqlite:///{path}")
    before = late.put("run/run.json", b"before", FOUND)
    create_tables(f"sqlite:///{path}")
    ours = SqlBackend(f"sqlite:///{path}")
    seen = ours.get("run/run.json")
    assert seen.data == b"before"
    # One that still takes the table for an old one: neither writes over what the other has read.
    late.put("run/run.json", b"by the late one", unchanged(before))
    with pytest.raises(ConflictError):
        ours.put("run/run.json", b"lost", unchanged(seen.version))
    late.put("run/step.a.json", b"created late", CREATE)
    assert ours.get("run/step.a.json").data == b"created late"
    with pytest.raises(ConflictError):
        ours.put("run/step.a.json", b"x", CREATE)
    ours.put("run/step.b.json", b"ours", CREATE)
    with pytest.raises(ConflictError):
        late.put("run/step.b.json", b"theirs", CREATE)
    late.close()
    ours.close()


def test_several_rows_of_one_key_of_ours_are_refused_and_named(path: Path) -> None:
    old_table(path)
    for number in range(3):
        ask(
            path,
            f"INSERT INTO db_log (run_id, attribute_key, attribute_type) VALUES ('r', 'step.{number // 2}.json', 'Step')",
        )
    before = ask(path, "SELECT * FROM db_log")
    with pytest.raises(NotSupportedError, match=r"1 pairs.*'r', attribute_key 'step\.0\.json': 2.*nothing was changed"):
        create_tables(f"sqlite:///{path}")
    assert ask(path, "SELECT * FROM db_log") == before
    ask(path, "DELETE FROM db_log WHERE pk = (SELECT max(pk) FROM db_log WHERE attribute_key = 'step.0.json')")
    create_tables(f"sqlite:///{path}")


def test_an_old_table_is_completed_by_the_first_write_where_the_settings_say_so(path: Path) -> None:
    old_table(path)
    backend = SqlBackend(f"sqlite:///{path}", create_tables=True)
    assert list(backend.folders()) == []
    assert "version" not in {row[1] for row in ask(path, "PRAGMA table_info(db_log)")}
    backend.put("run/run.json", b"x", FOUND)
    assert "version" in {row[1] for row in ask(path, "PRAGMA table_info(db_log)")}
    backend.close()


# What a verb costs.


def test_every_verb_is_one_statement(backend: SqlBackend) -> None:
    version = backend.put("run/run.json", b"x", FOUND)
    last = backend.put("run/step.1.json", b"x", CREATE)
    keys = [f"run/step.{number}.json" for number in range(200)]
    verbs = {
        "update": lambda: backend.put("run/run.json", b"y", unchanged(version)),
        "put": lambda: backend.put("run/run.json", b"y", ANY),
        "create": lambda: backend.put("run/step.0.json", b"y", CREATE),
        "get": lambda: backend.get("run/run.json"),
        "get_many": lambda: list(backend.get_many(keys)),
        "list": lambda: list(backend.list("run/step.")),
        "folders": lambda: list(backend.folders()),
        "delete": lambda: backend.delete("run/step.0.json"),
        "conditional delete": lambda: backend.delete("run/step.1.json", unchanged(last)),
    }
    for name, verb in verbs.items():
        with statements_of(backend) as sent:
            verb()
        assert len(sent) == 1, (name, sent)


def test_a_bulk_read_of_ten_thousand_is_a_few_statements(backend: SqlBackend, path: Path) -> None:
    backend.create_tables()
    with closing(sqlite3.connect(path)) as file, file:
        rows = ((f"step.{number}.json", str(number)) for number in range(10_000))
        file.executemany(
            "INSERT INTO db_log (run_id, attribute_key, attribute_value, version) VALUES ('r', ?, 'x', ?)", rows
        )
    backend.get("r/step.0.json")
    with statements_of(backend) as sent:
        assert len(list(backend.get_many(f"r/step.{number}.json" for number in range(10_000)))) == 10_000
    assert len(sent) == 6


def test_large_objects_are_read_a_few_at_once(backend: SqlBackend) -> None:
    keys = [f"run/step.{number:03}.json" for number in range(300)]
    for number, key in enumerate(keys):
        backend.put(key, b"x" * (400_000 if number < 250 else 1), FOUND)
    with statements_of(backend) as sent:
        assert len(list(backend.get_many(keys))) == 300
    assert len(sent) == 1 + 1, "the first 250 say how large they are: 80 of them fit, and 50 are left"


def test_every_statement_goes_through_the_unique_key(backend: SqlBackend, path: Path) -> None:
    version = backend.put("run/run.json", b"x", FOUND)
    with statements_of(backend) as sent:
        backend.get("run/run.json")
        list(backend.get_many(["run/run.json"]))
        list(backend.list("run/step."))
        list(backend.folders())
        backend.put("run/run.json", b"y", unchanged(version))
        backend.delete("run/run.json")
    with closing(sqlite3.connect(path)) as file:
        for statement in sent:
            # None for each parameter: the plan asks for none of them.
            plan = file.execute(f"EXPLAIN QUERY PLAN {statement}", [None] * statement.count("?")).fetchall()
            steps = [row[3] for row in plan if " db_log" in row[3]]
            assert steps
            assert all("USING INDEX db_log_chunk" in step or "COVERING INDEX" in step for step in steps), steps


# What may happen to the file.


@pytest.mark.parametrize("replaced", [False, True])
def test_nothing_is_written_to_a_file_that_has_lost_its_name(backend: SqlBackend, path: Path, replaced: bool) -> None:
    version = backend.put("run/run.json", b"x", FOUND)
    for file in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        file.unlink(missing_ok=True)
    if replaced:
        create_tables(f"sqlite:///{path}")
    with pytest.raises(ObjectNotFoundError):
        backend.get("run/run.json")
    with pytest.raises(ConflictError):
        backend.put("run/run.json", b"y", unchanged(version))
    backend.put("run/run.json", b"new", CREATE)
    assert ask(path, "SELECT attribute_value FROM db_log") == [("new",)]


def test_a_file_that_is_no_database_is_named_and_left_alone(path: Path) -> None:
    path.write_text("dear diary, " * 100)
    backend = SqlBackend(f"sqlite:///{path}")
    with pytest.raises(BackendUnavailableError, match="no SQLite database") as refused:
        backend.put("run/run.json", b"x", FOUND)
    assert not refused.value.transient
    assert path.read_text().startswith("dear diary")
    backend.close()


def test_a_full_disk_is_said_and_nothing_is_lost(backend: SqlBackend, path: Path) -> None:
    version = backend.put("run/run.json", b"x" * 10_000, FOUND)
    (count,) = ask(path, "PRAGMA page_count")[0]
    with backend._database.side.engine.connect() as connection:
        connection.exec_driver_sql(f"PRAGMA max_page_count = {count}")
    with pytest.raises(StorageFullError, match="no room left"):
        backend.put("run/step.a.json", b"y" * 100_000, CREATE)
    assert backend.get("run/run.json") == (b"x" * 10_000, version)
    assert [entry.key for entry in backend.list("run/")] == ["run/run.json"]
    backend.delete("run/run.json")


def test_a_writer_waits_for_another_program_and_says_so_after_its_deadline(path: Path) -> None:
    backend = SqlBackend(f"sqlite:///{path}", deadline=0.2)
    backend.put("run/run.json", b"x", FOUND)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        assert backend.get("run/run.json").data == b"x"  # readers wait for nobody
        with pytest.raises(BackendUnavailableError, match="busy") as late:
            backend.put("run/run.json", b"y", ANY)
        assert late.value.transient
        assert type(late.value) is BackendUnavailableError  # it was surely not written
        other.execute("COMMIT")
    backend.put("run/run.json", b"y", ANY)
    backend.close()


def test_a_child_lets_its_parents_connection_alone(backend: SqlBackend) -> None:
    """Closing a file drops all locks that the process has on it; and a connection that both use is no connection."""
    backend.put("run/run.json", b"x", FOUND)
    here = id(backend._database.side)
    child = os.fork() if hasattr(os, "fork") else pytest.skip("this platform cannot fork")
    if child == 0:
        code = 1
        try:
            backend.put("run/step.a.json", b"child", CREATE)
            code = 0 if id(backend._database.side) != here else 2
        finally:
            os._exit(code)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert backend.get("run/step.a.json").data == b"child"
    assert id(backend._database.side) == here


# What is said of it.


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite://", "three slashes"),
        ("sqlite:///:memory:", "memory://"),
        ("sqlite:///file:x?mode=memory", "names no file"),
        ("sqlite:///runs.db?timeout=3", "leave out"),
        ("sqlite://host/runs.db", "host"),
        ("sqlite+aiosqlite:///runs.db", "chunkstore speaks SQLite"),
        ("postgresql+psycopg2://u:hidden@h/d", "chunkstore speaks SQLite"),
        ("postgresql://u:hidden@h", "names no database"),
        ("mysql://u:hidden@h/d", "nothing is proven"),
        ("u:hidden@h", "chunkstore speaks SQLite"),
        ("", "empty"),
    ],
)
def test_a_url_that_cannot_be_used_is_refused_without_its_secret(url: str, said: str) -> None:
    with pytest.raises((InvalidInputError, NotSupportedError), match=said) as refused:
        SqlBackend(url)
    assert "hidden" not in str(refused.value)
    assert refused.value.__context__ is None


@pytest.mark.parametrize(
    "scheme", ["mysql", "mariadb+pymysql", "postgres", "oracle", "postgresql+psycopg2", "sqlite+aiosqlite"]
)
def test_open_names_the_databases_that_it_speaks(scheme: str) -> None:
    with pytest.raises(InvalidInputError, match="nothing is proven on other databases") as refused:
        chunkstore.open(f"{scheme}://user:hidden@host/d")
    assert "hidden" not in str(refused.value)


@pytest.mark.parametrize("name", ["", "a b", "a;drop", 'a"b', "x" * 51, "a.b.c", "ü"])
def test_a_table_name_that_would_need_quotes_is_refused(name: str) -> None:
    with pytest.raises(InvalidInputError, match="table_name"):
        SqlBackend("sqlite:///runs.db", table_name=name)


def test_a_relative_path_is_that_of_the_folder_where_it_was_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    backend = SqlBackend("sqlite:///runs.db")
    monkeypatch.chdir("/")
    backend.put("run/run.json", b"x", FOUND)
    assert (tmp_path / "runs.db").is_file()
    assert backend.place == f"sqlite:///{tmp_path}/runs.db"
    assert pickle.loads(pickle.dumps(backend)).get("run/run.json").data == b"x"
    backend.close()


@pytest.mark.parametrize("durability", ["process", "barrier", "power", None])
def test_durability_is_stated_and_set(path: Path, durability: Any) -> None:
    backend = SqlBackend(f"sqlite:///{path}", durability=durability)
    assert backend.guarantees.durable is (durability == "power")
    backend.put("run/run.json", b"x", FOUND)
    seen: list[int] = []
    with backend._database.side.engine.connect() as connection:
        seen.append(connection.exec_driver_sql("PRAGMA synchronous").scalar_one())
    with statements_of(backend) as sent:
        backend.put("run/run.json", b"y", ANY, barrier=True)
    synced = [int("EXTRA" in statement) for statement in sent if "synchronous" in statement]
    assert (seen, synced) == ([3 if durability == "power" else 1], [1, 0] if durability in ("barrier", None) else [])
    backend.close()


def test_the_library_is_imported_without_sqlalchemy() -> None:
    program = "import chunkstore, sys, json; print(json.dumps([m for m in sys.modules if m.startswith(('sqlalchemy', 'psycopg'))]))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == []


def test_no_row_of_magnus_passes_for_ours() -> None:
    for name, sort in [("run_log", "RunLog"), ("a.b.c", "StepLog"), ("a.b", "BranchLog"), ("alpha", "Parameter")]:
        assert not is_ours(name, sort)


def test_doctor_says_what_the_table_and_the_file_are(path: Path) -> None:
    old_table(path)
    before = examine(f"sqlite:///{path}")
    assert (before.outcome("table"), before.outcome("write-ahead log")) == ("no", "no")
    assert any("create_tables" in advice for advice in before.advice)
    create_tables(f"sqlite:///{path}")
    after = examine(f"sqlite:///{path}")
    assert (after.outcome("table"), after.outcome("write-ahead log"), after.writers) == ("yes", "yes", "one host")
    assert {check.name for check in after.checks} >= {"file system", "create race", "update race"}


def test_a_misspelt_file_is_named_by_a_command_and_not_made(path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("typer")
    from chunkstore.cli import main

    assert main(["ls", "-s", f"sqlite:///{path}"]) != 0
    assert f"there is no file {path}" in capsys.readouterr().err
    assert not path.exists()


def test_magnus_runs_are_imported_out_of_the_table_that_we_store_in(tmp_path: Path) -> None:
    """Our own rows in it are no runs of magnus."""
    path = tmp_path / "runs.db"
    shutil.copy(Path(__file__).parent.parent / "data" / "magnus-db-log" / "runs.db", path)
    theirs = {run for (run,) in ask(path, "SELECT DISTINCT run_id FROM db_log")}
    with closing(chunkstore.open(f"sqlite:///{path}", create_tables=True)) as store:
        store.create_run_log("ours")
        store.set_parameters("ours", {"alpha": 1})
        for source in (str(path), f"sqlite:///{path}"):
            report = import_runs(store, source)
            assert not report.refused, report
        assert set(store.iter_run_ids()) == {"ours", *theirs}
        assert store.get_parameters("ours") == {"alpha": 1}
