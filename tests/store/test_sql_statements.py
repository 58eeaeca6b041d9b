"""Statements are a contract as requests are: each verb of the backend is one, on PostgreSQL's wire and in SQLite's own trace."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing
from typing import Any

import pytest
from test_requests import TABLE, Row, Scene

from chunkstore import ChunkedRunLogStore, StepLog
from chunkstore.backends import ANY, Backend, Blob, Condition, Entry
from databases import Postgres
from places import in_database, in_file
from sql_wire import SqlWire

pytest.importorskip("sqlalchemy")

_RUNS = itertools.count(1)
_NONE = ("BEGIN", "COMMIT", "ROLLBACK", "SELECT 1", "SET ", "PRAGMA ")
"""What stands around statements: ends of transactions, the question whether an idle connection lives, what is set for a connection."""


class Verbs:
    """Counts calls of verbs: a bulk read is one, however many keys it asks for."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.calls = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.inner, name)

    def get(self, key: str) -> Blob:
        self.calls += 1
        return self.inner.get(key)

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        wanted = [*keys]
        self.calls += bool(wanted)
        yield from self.inner.get_many(wanted)

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        self.calls += 1
        return self.inner.put(key, data, condition, barrier=barrier)

    def delete(self, key: str, condition: Condition = ANY) -> None:
        self.calls += 1
        self.inner.delete(key, condition)

    def list(self, prefix: str) -> Iterator[Entry]:
        self.calls += 1
        return self.inner.list(prefix)

    def folders(self) -> Iterator[str]:
        self.calls += 1
        return self.inner.folders()


class Place:
    """A database, and the statements that it was given since the last question."""

    def __init__(self, backend: Backend, said: Callable[[], Iterable[str]], forget: Callable[[], object]) -> None:
        self.backend, self._said, self.forget = backend, said, forget

    def statements(self) -> list[str]:
        return [one for one in self._said() if not one.startswith(_NONE)]


@pytest.fixture(scope="module")
def on_wire(request: pytest.FixtureRequest) -> Iterator[Place]:
    server: Postgres = request.getfixturevalue("postgres_server")
    with SqlWire(server) as wire, closing(in_database(wire.url(), table_name=server.new_table())) as backend:
        _ = list(backend.folders()), backend.guarantees  # what the table offers and the server promises is asked once
        yield Place(backend, lambda: wire.statements, wire.reset)


@pytest.fixture(scope="module")
def in_trace(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    """By SQLAlchemy's events, of all engines of this process: nobody else uses one meanwhile."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    said: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(" ".join(statement.split()))

    with closing(in_file(tmp_path_factory.mktemp("traced"))) as backend:
        _ = list(backend.folders()), backend.guarantees
        event.listen(Engine, "before_cursor_execute", note)
        try:
            yield Place(backend, lambda: said, said.clear)
        finally:
            event.remove(Engine, "before_cursor_execute", note)


@pytest.fixture(params=["postgres", "sqlite"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue("on_wire" if request.param == "postgres" else "in_trace")
    return found


@pytest.mark.parametrize("row", TABLE, ids=lambda row: f"{row.method}: {row.when}")
def test_each_verb_that_a_call_needs_is_one_statement(row: Row, place: Place) -> None:
    verbs = Verbs(place.backend)
    run = f"run of statements {next(_RUNS)}"
    store, other = ChunkedRunLogStore(verbs), ChunkedRunLogStore(verbs)  # type: ignore[arg-type]
    store.create_run_log(run)
    scene = Scene(run, store, other)
    row.before(scene)
    verbs.calls = 0
    place.forget()
    if row.error is None:
        row.act(scene)
    else:
        with pytest.raises(row.error):
            row.act(scene)
    statements = place.statements()
    assert len(statements) == verbs.calls, statements
    # Never more than on S3, where each key of a bulk read is a request.
    assert len(statements) <= sum(row.cost.values())


def test_a_full_read_is_two_statements_and_the_writes_of_a_step_one_each(place: Place) -> None:
    store, run = ChunkedRunLogStore(place.backend), f"large {next(_RUNS)}"
    costs = {}

    def cost(name: str, act: Callable[[], object]) -> None:
        place.forget()
        act()
        costs[name] = len(place.statements())

    step = StepLog(name="a", internal_name="a")
    cost("create a run", lambda: store.create_run_log(run))
    cost("add a step", lambda: store.add_step_log(step, run))
    step.status = "SUCCESS"
    cost("add it again", lambda: store.add_step_log(step, run))
    cost("set five parameters", lambda: store.set_parameters(run, dict.fromkeys("abcde", 1)))
    cost("set the status", lambda: store.update_run_log_status(run, "SUCCESS"))
    for number in range(200):
        store.add_step_log(StepLog(name=f"{number}", internal_name=f"{number}"), run)
    reader = ChunkedRunLogStore(place.backend)
    cost("read 200 steps", lambda: reader.get_run_log_by_id(run))
    cost("read them again", lambda: reader.get_run_log_by_id(run))
    cost("get a step", lambda: reader.get_step_log("a", run))
    cost("get five parameters", lambda: ChunkedRunLogStore(place.backend).get_parameters(run))
    assert costs == {
        "create a run": 1,
        "add a step": 1,
        "add it again": 1,
        "set five parameters": 5,
        "set the status": 1,
        "read 200 steps": 2,
        "read them again": 1,
        "get a step": 1,
        "get five parameters": 2,
    }


def test_the_statements_are_seen_at_all(place: Place) -> None:
    place.forget()
    place.backend.put(f"seen {next(_RUNS)}/run.json", b"x", ANY)
    assert any("INSERT" in one.upper() for one in place.statements())
