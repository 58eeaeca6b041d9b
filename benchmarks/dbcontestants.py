"""The same store on every place, side by side: local disk, SQLite, PostgreSQL, S3; and the databases' own floors.

A database's floor sends the same statements by its plain driver, with the same durability: a row per chunk, created under a unique key,
replaced where it still has its version. It promises what chunkstore promises of one write; no digest, no merge, no tree.
"""

from __future__ import annotations

import contextlib
import functools
import os
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import sample
from contestants import names_of
from floors import ChangedError, parsed
from peers import collector_paused

import chunkstore
from chunkstore.backends import Backend
from chunkstore.backends.local import LocalBackend
from chunkstore.testing import CountingBackend

TABLE: Final = "db_log"
_COLUMNS: Final = "run_id, attribute_key, attribute_type, attribute_value, created_at, version"


class OnPlace:
    """chunkstore, on the backend that it is given."""

    def __init__(self, name: str, backend: Backend, requests: Callable[[], int] | None = None) -> None:
        self.name = name
        self._asked = requests
        self.store = chunkstore.ChunkedRunLogStore(backend)
        _ = backend.guarantees  # a server is asked once per process what it honours
        self.store.list_run_ids()

    @property
    def requests(self) -> int | None:
        """Statements, or requests, so far."""
        return None if self._asked is None else self._asked()

    def create(self, run: str) -> None:
        self.store.create_run_log(run)

    def step(self, fields: Mapping[str, Any]) -> chunkstore.StepLog:
        return chunkstore.StepLog.model_validate(fields)

    def parameters(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        return {name: chunkstore.JsonParameter(value=value) for name, value in values.items()}  # type: ignore[arg-type]

    def add_step(self, run: str, step: Any) -> None:
        self.store.add_step_log(step, run)

    def add_branch(self, run: str, name: str) -> None:
        self.store.add_branch_log(self.store.create_branch_log(name), run)

    def set_parameters(self, run: str, parameters: Mapping[str, Any], branch: str = "") -> None:
        self.store.set_parameters(run, parameters, branch)

    def set_field(self, run: str, name: str, value: object) -> None:
        self.store.set_run_config(run, {name: value})

    def set_status(self, run: str, status: str) -> None:
        self.store.update_run_log_status(run, status)

    def get_step(self, run: str, name: str) -> object:
        return self.store.get_step_log(name, run)

    def read(self, run: str) -> chunkstore.RunLog:
        """Raises where a chunk is damaged or has no parent: for a benchmark both are failed reads."""
        reading = self.store.read_run_log(run)
        if reading.findings:
            raise RuntimeError(reading.findings[0].message)
        return reading.run_log

    names = staticmethod(names_of)

    def close(self) -> None:
        self.store.close()


class Rows:
    """What the two floors share: the statements. `_mark` is how the driver writes a parameter."""

    name: str
    requests: int | None = 0
    conflicts = 0
    _mark: str
    _now: str

    def __init__(self) -> None:
        self.requests = 0
        self._versions: dict[tuple[str, str], str] = {}
        mark, key = self._mark, "run_id = {0} AND attribute_key = {0}"
        values = ", ".join([mark] * 4 + [self._now, mark])
        self._insert = f"INSERT INTO {TABLE} ({_COLUMNS}) VALUES ({values}) ON CONFLICT DO NOTHING"
        here = key.format(mark)
        self._update = (
            f"UPDATE {TABLE} SET attribute_value = {mark}, version = {mark} WHERE {here} AND version = {mark}"
        )
        self._one = f"SELECT attribute_value, version FROM {TABLE} WHERE {here} AND version IS NOT NULL"
        self._all = f"SELECT attribute_key, attribute_value FROM {TABLE} WHERE run_id = {mark} AND version IS NOT NULL"

    def run_one(self, statement: str, values: tuple[Any, ...]) -> Any:
        """The cursor of one statement that is a transaction of its own."""
        raise NotImplementedError

    def create(self, run: str) -> None:
        self.write(run, "run", orjson.dumps({"run_id": run, "status": "CREATED", "run_config": {}}))

    step = OnPlace.step
    parameters = OnPlace.parameters

    def add_step(self, run: str, step: Any) -> None:
        self.write(run, f"step {step.internal_name}", orjson.dumps(step.model_dump()))

    def add_branch(self, run: str, name: str) -> None:
        branch = chunkstore.BranchLog(internal_name=name, status="CREATED")
        self.write(run, f"branch {name}", orjson.dumps(branch.model_dump()))

    def set_parameters(self, run: str, parameters: Mapping[str, Any], branch: str = "") -> None:
        for name, parameter in parameters.items():
            self.write(run, f"parameter {branch}@{name}", orjson.dumps(parameter.model_dump()))

    def set_field(self, run: str, name: str, value: object) -> None:
        """Read, change, replace if it is still what was read; again until it was."""
        while True:
            body, version = self._row(run, "run")
            self._versions[run, "run"] = version
            header = orjson.loads(body)
            header["run_config"][name] = value
            with contextlib.suppress(ChangedError):
                return self.write(run, "run", orjson.dumps(header))

    def set_status(self, run: str, status: str) -> None:
        self.write(run, "run", orjson.dumps({"run_id": run, "status": status, "run_config": {}}))

    def get_step(self, run: str, name: str) -> object:
        return chunkstore.StepLog.model_validate_json(self._row(run, f"step {name}")[0])

    def read(self, run: str) -> dict[str, object]:
        """Every row, steps as models, with the collector paused; nothing is put together."""
        with collector_paused():
            return {name: parsed(name, body.encode()) for name, body in self._counted(self._all, (run,)).fetchall()}

    def names(self, what_was_read: Any) -> set[str]:
        return {*what_was_read} - {"run"} | {f"field {name}" for name in what_was_read["run"]["run_config"]}

    def write(self, run: str, name: str, body: bytes) -> None:
        new, old = os.urandom(12).hex(), self._versions.get((run, name))
        if old is None:
            done = self._counted(self._insert, (run, name, name.partition(" ")[0], body.decode(), new))
        else:
            done = self._counted(self._update, (body.decode(), new, run, name, old))
        if not done.rowcount:
            raise ChangedError(f"{run}/{name}")
        self._versions[run, name] = new

    def _row(self, run: str, name: str) -> tuple[str, str]:
        found: tuple[str, str] = self._counted(self._one, (run, name)).fetchone()
        return found

    def _counted(self, statement: str, values: tuple[Any, ...]) -> Any:
        self.requests = (self.requests or 0) + 1
        return self.run_one(statement, values)


class SqliteFloor(Rows):
    """Python's own driver, write-ahead log, synchronous as chunkstore sets it."""

    _mark, _now = "?", "strftime('%Y-%m-%d %H:%M:%f000', 'now')"

    def __init__(self, folder: Path, durability: str) -> None:
        self.name = f"floor sqlite {durability}"
        super().__init__()
        self._database = sqlite3.connect(folder / f"floor-{durability}.db", timeout=60.0, isolation_level=None)
        self._database.execute("PRAGMA journal_mode = WAL")
        self._database.execute(f"PRAGMA synchronous = {'EXTRA' if durability == 'power' else 'NORMAL'}")
        self._database.execute(f"CREATE TABLE IF NOT EXISTS {TABLE} (pk INTEGER PRIMARY KEY, {_columns('DATETIME')})")
        self._database.execute(f"CREATE UNIQUE INDEX IF NOT EXISTS chunk ON {TABLE} (run_id, attribute_key)")

    def run_one(self, statement: str, values: tuple[Any, ...]) -> Any:
        return self._database.execute(statement, values)

    def close(self) -> None:
        self._database.close()


class PostgresFloor(Rows):
    """psycopg, each statement a transaction of its own."""

    name = "floor postgres"
    _mark, _now = "%s", "(now() at time zone 'utc')"

    def __init__(self, server: Any) -> None:
        super().__init__()
        self._database = server.connect()
        made = f"CREATE TABLE IF NOT EXISTS {TABLE} (pk BIGSERIAL PRIMARY KEY, {_columns('TIMESTAMP')})"
        with contextlib.suppress(Exception):  # another process makes it at the same time
            self._database.execute(made.replace(TABLE, f"floor_{TABLE}"))
            self._database.execute(
                f"CREATE UNIQUE INDEX IF NOT EXISTS floor_chunk ON floor_{TABLE} (run_id, attribute_key)"
            )

    def run_one(self, statement: str, values: tuple[Any, ...]) -> Any:
        return self._database.execute(statement.replace(f" {TABLE} ", f" floor_{TABLE} "), values)

    def close(self) -> None:
        self._database.close()


def _columns(moment: str) -> str:
    return (
        f"run_id TEXT, attribute_key TEXT, attribute_type TEXT, attribute_value TEXT, created_at {moment}, version TEXT"
    )


Maker = Callable[[], Any]


def makers(folder: Path, postgres: Any | None, s3: Any | None, bucket: str) -> dict[str, Maker]:
    """Everyone who can take part here: a fresh store, as in a new process, at each call."""
    made: dict[str, Maker] = {
        "chunkstore local barrier": lambda: _local(folder, "barrier"),
        "chunkstore local power": lambda: _local(folder, "power"),
        "floor sqlite barrier": lambda: SqliteFloor(folder, "barrier"),
        "chunkstore sqlite barrier": lambda: _sqlite(folder, "barrier"),
        "floor sqlite power": lambda: SqliteFloor(folder, "power"),
        "chunkstore sqlite power": lambda: _sqlite(folder, "power"),
    }
    if postgres is not None:
        made["floor postgres"] = lambda: PostgresFloor(postgres)
        made["chunkstore postgres"] = lambda: _database("chunkstore postgres", postgres.url())
    if s3 is not None:
        made["chunkstore S3"] = lambda: _s3(s3, bucket)
    return made


FLOORS: Final = {
    "chunkstore sqlite barrier": "floor sqlite barrier",
    "chunkstore sqlite power": "floor sqlite power",
    "chunkstore postgres": "floor postgres",
}


def _local(folder: Path, durability: Any) -> OnPlace:
    return OnPlace(
        f"chunkstore local {durability}", LocalBackend(folder / f"local-{durability}", durability=durability)
    )


def _sqlite(folder: Path, durability: str) -> OnPlace:
    url = f"sqlite:///{folder / f'chunkstore-{durability}.db'}"
    return _database(f"chunkstore sqlite {durability}", url, durability=durability)


def _database(name: str, url: str, **settings: Any) -> OnPlace:
    from chunkstore.backends.sql import SqlBackend

    return OnPlace(name, SqlBackend(url, create_tables=True, **settings), statements())


def _s3(server: Any, bucket: str) -> OnPlace:
    from s3contestants import settings_of

    counting = CountingBackend(chunkstore.open(f"s3://{bucket}/chunkstore", **settings_of(server)).backend)
    return OnPlace("chunkstore S3", counting, lambda: len(counting.log))


@functools.cache
def statements() -> Callable[[], int]:
    """How many statements SQLAlchemy has sent in this process; one contestant works at a time. Settings of SQLite are none."""
    from sqlalchemy import event
    from sqlalchemy.engine import Engine

    seen = [0]

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen[0] += not statement.startswith("PRAGMA")

    event.listen(Engine, "before_cursor_execute", note)
    return lambda: seen[0]


def filled(one: Any, run: str, steps: int) -> None:
    """A run of so many root steps."""
    one.create(run)
    for number in range(steps):
        one.add_step(run, one.step(sample.step(f"step{number:05d}")))
