"""The peers that keep runs in a database or a tracking store: MLflow's file and sqlite stores, and sqlite alone."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import sqlite3
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import orjson
import sample
from floors import parsed
from harness import MEMORY, installed

import chunkstore
from chunkstore.assembly import collector_paused

HAS_MLFLOW: Final = installed("mlflow", "sqlalchemy", "alembic")


@functools.cache
def _mlflow() -> SimpleNamespace:
    """What is needed of it. Its import takes seconds: once, quietly, and only where it takes part."""
    os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # refused without it since 3.13
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    from mlflow.entities import RunStatus, RunTag
    from mlflow.store.tracking.file_store import FileStore
    from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

    for name in ("mlflow", "alembic"):
        logging.getLogger(name).setLevel(logging.ERROR)
    return SimpleNamespace(RunStatus=RunStatus, RunTag=RunTag, FileStore=FileStore, SqlAlchemyStore=SqlAlchemyStore)


_STATUS: Final = {"SUCCESS": "FINISHED", "FAIL": "FAILED", "PROCESSING": "RUNNING", "TRIGGERED": "SCHEDULED"}
_OURS: Final = ("step ", "branch ", "parameter ", "field ")


class Mlflow(ABC):
    """A run is a run, and all in it is a tag of it with the JSON as its text: one call each, the least that MLflow does.

    Its own parameters cannot be changed once they are set, and a nested run for each branch or step costs many times more.
    """

    requests = None
    conflicts = None
    name: str
    store: Any
    _ids: Path

    def create(self, run: str) -> None:
        made = self.store.create_run("0", "bench", int(time.time() * 1000), [], run)
        (self._ids / run).write_text(made.info.run_id)

    @abstractmethod
    def fill(self, run: str, names: list[str]) -> None:
        """Puts steps of these names into the run, past the store where that is quicker: only what comes afterwards is measured."""

    def step(self, fields: Mapping[str, Any]) -> chunkstore.StepLog:
        return chunkstore.StepLog.model_validate(fields)

    def parameters(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        return {name: chunkstore.JsonParameter(value=value) for name, value in values.items()}  # type: ignore[arg-type]

    def add_step(self, run: str, step: chunkstore.StepLog) -> None:
        self._tag(run, f"step {step.internal_name}", _text(step))

    def add_branch(self, run: str, name: str) -> None:
        self._tag(run, f"branch {name}", _text(chunkstore.BranchLog(internal_name=name, status="CREATED")))

    def set_parameters(self, run: str, parameters: Mapping[str, Any], branch: str = "") -> None:
        tags = [_mlflow().RunTag(f"parameter {branch}:{name}", _text(one)) for name, one in parameters.items()]
        self.store.log_batch(self._id(run), [], [], tags)

    def set_field(self, run: str, name: str, value: object) -> None:
        self._tag(run, f"field {name}", orjson.dumps(value).decode())

    def set_status(self, run: str, status: str) -> None:
        ended = int(time.time() * 1000) if status in chunkstore.TERMINAL else None
        self.store.update_run_info(self._id(run), _mlflow().RunStatus.from_string(_STATUS[status]), ended, None)

    def get_step(self, run: str, name: str) -> object:
        return chunkstore.StepLog.model_validate_json(self.read(run)[f"step {name}"])

    def read(self, run: str) -> dict[str, str]:
        """The tags as text; nothing in them is parsed."""
        tags: dict[str, str] = self.store.get_run(self._id(run)).data.tags
        return tags

    def names(self, what_was_read: Any) -> set[str]:
        return {name.replace(":", "@") for name in what_was_read if name.startswith(_OURS)}

    @abstractmethod
    def close(self) -> None:
        """Lets go of what is open."""

    def _tag(self, run: str, name: str, text: str) -> None:
        self.store.set_tag(self._id(run), _mlflow().RunTag(name, text))

    @functools.cache  # noqa: B019  it lives as long as the benchmark
    def _id(self, run: str) -> str:
        return (self._ids / run).read_text()


class MlflowFiles(Mlflow):
    name = "MLflow files"

    def __init__(self, folder: Path) -> None:
        self._ids = folder / "mlflow-files-ids"
        self._ids.mkdir(parents=True, exist_ok=True)
        self.store = _mlflow().FileStore(str(folder / "mlflow-files"), str(folder / "mlflow-artifacts"))

    def fill(self, run: str, names: list[str]) -> None:
        """A file for each tag, as the store writes them, without its checks before each."""
        folder = Path(self.store._get_tag_path("0", self._id(run), "x")).parent  # noqa: SLF001  no public way
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            (folder / f"step {name}").write_text(_text(self.step(sample.step(name))))

    def close(self) -> None:
        """Nothing is open."""


class MlflowSqlite(Mlflow):
    name = "MLflow sqlite"

    def __init__(self, folder: Path) -> None:
        self._ids = folder / "mlflow-sqlite-ids"
        self._ids.mkdir(parents=True, exist_ok=True)
        self._file = folder / "mlflow.db"
        if not self._file.exists():
            self._file.write_bytes(_mlflow_database())
        self.store = _mlflow().SqlAlchemyStore(f"sqlite:///{self._file}", str(folder / "mlflow-artifacts"))

    def fill(self, run: str, names: list[str]) -> None:
        """The rows that the store would insert, all at once."""
        rows = [(f"step {name}", _text(self.step(sample.step(name))), self._id(run)) for name in names]
        with contextlib.closing(sqlite3.connect(self._file)) as database, database:
            database.executemany("insert into tags (key, value, run_uuid) values (?, ?, ?)", rows)

    def close(self) -> None:
        """No open database may go into a forked child: closing it there gives up the child's locks."""
        self.store.engine.dispose()
        _mlflow().SqlAlchemyStore._engine_map.pop(self.store.db_uri, None)  # noqa: SLF001  kept by class, else


@functools.cache
def _mlflow_database() -> bytes:
    """An empty database with MLflow's tables: it makes them in dozens of steps, which take seconds on a disk."""
    memory = MEMORY if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="chunkstore-bench-", dir=memory) as folder:
        store = _mlflow().SqlAlchemyStore(f"sqlite:///{folder}/empty.db", f"{folder}/artifacts")
        store.engine.dispose()
        _mlflow().SqlAlchemyStore._engine_map.pop(store.db_uri, None)  # noqa: SLF001  kept by class, else
        return Path(f"{folder}/empty.db").read_bytes()


class Sqlite:
    """One table with a row for each chunk, write-ahead log. No digest, no merge: the last writer wins. One host only."""

    requests = None
    conflicts = None
    _WAIT: Final = 60.0  # seconds for the lock, of which there is one

    def __init__(self, folder: Path, durability: str = "process") -> None:
        self.name = f"sqlite {durability}"
        inside = folder / "sqlite" / durability
        inside.mkdir(parents=True, exist_ok=True)
        self._database = sqlite3.connect(inside / "runs.db", timeout=self._WAIT, isolation_level=None)
        self._database.execute("pragma journal_mode = wal")
        self._database.execute(f"pragma synchronous = {'full' if durability == 'power' else 'normal'}")
        self._database.execute(
            "create table if not exists chunks (run text, name text, body blob, primary key (run, name)) without rowid"
        )

    def create(self, run: str) -> None:
        self._database.execute("insert into chunks values (?, 'run', ?)", (run, _header(run, "CREATED")))

    def fill(self, run: str, names: list[str]) -> None:
        with self._transaction():
            for name in names:
                self.add_step(run, self.step(sample.step(name)))

    step = Mlflow.step
    parameters = Mlflow.parameters

    def add_step(self, run: str, step: chunkstore.StepLog) -> None:
        self._put(run, f"step {step.internal_name}", _dumped(step))

    def add_branch(self, run: str, name: str) -> None:
        self._put(run, f"branch {name}", _dumped(chunkstore.BranchLog(internal_name=name, status="CREATED")))

    def set_parameters(self, run: str, parameters: Mapping[str, Any], branch: str = "") -> None:
        with self._transaction() if len(parameters) > 1 else contextlib.nullcontext():
            for name, one in parameters.items():
                self._put(run, f"parameter {branch}@{name}", _dumped(one))

    def set_field(self, run: str, name: str, value: object) -> None:
        with self._transaction():
            (body,) = self._database.execute(
                "select body from chunks where run = ? and name = 'run'", (run,)
            ).fetchone()
            header = orjson.loads(body)
            header["run_config"][name] = value
            self._put(run, "run", orjson.dumps(header))

    def set_status(self, run: str, status: str) -> None:
        self._put(run, "run", _header(run, status))

    def get_step(self, run: str, name: str) -> object:
        found = self._database.execute("select body from chunks where run = ? and name = ?", (run, f"step {name}"))
        return chunkstore.StepLog.model_validate_json(found.fetchone()[0])

    def read(self, run: str) -> dict[str, object]:
        """Every row, steps as models, with the collector paused; nothing is put together."""
        with collector_paused():
            rows = self._database.execute("select name, body from chunks where run = ?", (run,))
            return {name: parsed(name, body) for name, body in rows}

    def names(self, what_was_read: Any) -> set[str]:
        return {*what_was_read} - {"run"} | {f"field {name}" for name in what_was_read["run"]["run_config"]}

    def close(self) -> None:
        """No open database may go into a forked child: closing it there gives up the child's locks."""
        self._database.close()

    def _put(self, run: str, name: str, body: bytes) -> None:
        self._database.execute(
            "insert into chunks values (?, ?, ?) on conflict (run, name) do update set body = excluded.body",
            (run, name, body),
        )

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._database.execute("begin immediate")
        try:
            yield
        except BaseException:
            self._database.execute("rollback")
            raise
        self._database.execute("commit")


def _header(run: str, status: str) -> bytes:
    return orjson.dumps({"run_id": run, "status": status, "run_config": {}})


def _dumped(model: Any) -> bytes:
    return orjson.dumps(model.model_dump())


def _text(model: Any) -> str:
    return _dumped(model).decode()
