"""The local contestants behind one set of verbs: chunkstore, runnable's stores, Optuna's journal, and the floor.

Every verb does what that contestant's users would call, and starts from the model object that its API takes.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import io
import itertools
import logging
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

import orjson
import sample
from harness import installed

import chunkstore
from chunkstore.backends import Blob, Condition, Entry
from chunkstore.backends.local import Durability, LocalBackend
from chunkstore.errors import ConflictError

# Imported once and quietly, before anything is timed or forked: runnable greets on standard output.
if installed("runnable"):
    with contextlib.redirect_stdout(io.StringIO()):
        from extensions.run_log_store.chunked_fs import ChunkedFileSystemRunLogStore
        from extensions.run_log_store.file_system import FileSystemRunLogstore
        from runnable import datastore
    logging.getLogger("runnable").setLevel(logging.ERROR)
if installed("optuna"):
    import optuna
    from optuna.storages.journal import JournalFileBackend, JournalStorage
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", module="optuna")


class Contestant(Protocol):
    """A run log store as the benchmarks see it. What `step` and `parameters` make is made outside the measured time."""

    name: str
    requests: int | None
    conflicts: int | None

    def create(self, run: str) -> None: ...
    def fill(self, run: str, names: list[str]) -> None: ...
    def step(self, fields: Mapping[str, Any]) -> Any: ...
    def parameters(self, values: Mapping[str, object]) -> Mapping[str, Any]: ...
    def add_step(self, run: str, step: Any) -> None: ...
    def add_branch(self, run: str, name: str) -> None: ...
    def set_parameters(self, run: str, parameters: Mapping[str, Any], branch: str = "") -> None: ...
    def set_field(self, run: str, name: str, value: object) -> None: ...
    def set_status(self, run: str, status: str) -> None: ...
    def get_step(self, run: str, name: str) -> object: ...
    def read(self, run: str) -> Any: ...
    def names(self, what_was_read: Any) -> set[str]: ...


def names_of(run_log: Any) -> set[str]:
    """What is in a run log of chunkstore or runnable: steps, branches, parameters, and fields of the header."""
    found = {f"field {name}" for name in run_log.run_config}
    found |= {f"parameter @{name}" for name in run_log.parameters}
    pending = [run_log]
    while pending:
        for step in pending.pop().steps.values():
            found.add(f"step {step.internal_name}")
            for branch in step.branches.values():
                found.add(f"branch {branch.internal_name}")
                found |= {f"parameter {branch.internal_name}@{name}" for name in branch.parameters}
                pending.append(branch)
    return found


class CountingLocalBackend(LocalBackend):
    """Counts with two integers, so that it costs next to nothing: requests, and puts whose condition no longer held."""

    def __init__(self, root: str | os.PathLike[str], *, durability: Durability) -> None:
        super().__init__(root, durability=durability)
        self.requests = 0
        self.conflicts = 0

    def get(self, key: str) -> Blob:
        self.requests += 1
        return super().get(key)

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        wanted = [*keys]
        before = self.requests
        yield from super().get_many(wanted)
        self.requests = before + len(wanted)  # however the backend gets them

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        self.requests += 1
        try:
            return super().put(key, data, condition, barrier=barrier)
        except ConflictError:
            self.conflicts += 1
            raise

    def list(self, prefix: str) -> Iterator[Entry]:
        self.requests += 1
        return super().list(prefix)


class Chunkstore:
    def __init__(self, folder: Path, durability: Durability = "process") -> None:
        self.name = f"chunkstore {durability}"
        self.backend = CountingLocalBackend(folder / "chunkstore" / durability, durability=durability)
        self.store = chunkstore.ChunkedRunLogStore(self.backend)

    @property
    def requests(self) -> int:
        return self.backend.requests

    @property
    def conflicts(self) -> int:
        return self.backend.conflicts

    def create(self, run: str) -> None:
        self.store.create_run_log(run)

    def fill(self, run: str, names: list[str]) -> None:
        """In bulk and without waiting for the disk: only what comes afterwards is measured."""
        quick = chunkstore.ChunkedRunLogStore(LocalBackend(self.backend.root, durability="process"))
        for name in names:
            quick.add_step_log(self.step(sample.step(name)), run)

    def step(self, fields: Mapping[str, Any]) -> chunkstore.StepLog:
        return chunkstore.StepLog.model_validate(fields)

    def parameters(self, values: Mapping[str, object]) -> Mapping[str, object]:
        return {name: chunkstore.JsonParameter(value=value) for name, value in values.items()}  # type: ignore[arg-type]

    def add_step(self, run: str, step: chunkstore.StepLog) -> None:
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


class Runnable:
    """What runnable's two local stores have in common."""

    requests = None
    conflicts = None
    name: str
    store: Any

    def create(self, run: str) -> None:
        self.store.create_run_log(run_id=run)

    def fill(self, run: str, names: list[str]) -> None:
        run_log = self.store.get_run_log_by_id(run_id=run)
        run_log.steps.update({name: self.step(sample.step(name)) for name in names})
        self.store.put_run_log(run_log)

    def step(self, fields: Mapping[str, Any]) -> Any:
        return datastore.StepLog.model_validate(fields)

    def parameters(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        return {name: datastore.JsonParameter(kind="json", value=value) for name, value in values.items()}

    def add_step(self, run: str, step: Any) -> None:
        self.store.add_step_log(step, run)

    def add_branch(self, run: str, name: str) -> None:
        self.store.add_branch_log(self.store.create_branch_log(name), run)

    def set_parameters(self, run: str, parameters: Mapping[str, Any], branch: str = "") -> None:
        self.store.set_parameters(run_id=run, parameters=parameters, internal_branch_name=branch)

    def set_field(self, run: str, name: str, value: object) -> None:
        self.store.set_run_config(run_id=run, run_config={name: value})

    def set_status(self, run: str, status: str) -> None:
        self.store.update_run_log_status(run_id=run, status=status)

    def get_step(self, run: str, name: str) -> object:
        return self.store.get_step_log(name, run)

    def read(self, run: str) -> Any:
        return self.store.get_run_log_by_id(run_id=run, full=True)

    names = staticmethod(names_of)


class RunnableChunkedFs(Runnable):
    name = "runnable chunked-fs"

    def __init__(self, folder: Path) -> None:
        self.store = ChunkedFileSystemRunLogStore(log_folder=str(folder / "chunked-fs"))


class RunnableFileSystem(Runnable):
    name = "runnable file-system"

    def __init__(self, folder: Path) -> None:
        self.store = FileSystemRunLogstore(log_folder=str(folder / "file-system"))


class OptunaJournal:
    """A study is a run; a trial is a root step or a branch; steps in branches and parameters are attributes.

    It is given plain dicts: it has no models that would have to be dumped first.
    """

    name = "Optuna journal"
    requests = None
    conflicts = None

    def __init__(self, folder: Path) -> None:
        (folder / "optuna").mkdir(parents=True, exist_ok=True)
        self._folder = folder / "optuna"
        self._runs: dict[str, tuple[Any, int]] = {}
        self._trials: dict[tuple[str, str], int] = {}

    def create(self, run: str) -> None:
        self._journal(run).create_new_study([optuna.study.StudyDirection.MINIMIZE], run)

    def fill(self, run: str, names: list[str]) -> None:
        for name in names:
            self.add_step(run, sample.step(name))

    def step(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        return fields

    def parameters(self, values: Mapping[str, object]) -> Mapping[str, object]:
        return {name: sample.typed(value) for name, value in values.items()}

    def add_step(self, run: str, step: Mapping[str, Any]) -> None:
        name = step["internal_name"]
        storage, _ = self._open(run)
        trial = self._trials.get((run, name)) or self._trials.get((run, name.rpartition(".")[0]))
        if trial is None:
            self._new_trial(run, name, {f"step {name}": step})
        else:
            storage.set_trial_user_attr(trial, f"step {name}", step)

    def add_branch(self, run: str, name: str) -> None:
        self._new_trial(run, name, {f"branch {name}": {"status": "CREATED"}})

    def set_parameters(self, run: str, parameters: Mapping[str, Any], branch: str = "") -> None:
        storage, study = self._open(run)
        for name, value in parameters.items():
            if branch:
                storage.set_trial_user_attr(self._trials[run, branch], f"parameter {branch}@{name}", value)
            else:
                storage.set_study_user_attr(study, f"parameter @{name}", value)

    def set_field(self, run: str, name: str, value: object) -> None:
        storage, study = self._open(run)
        storage.set_study_user_attr(study, f"field {name}", value)

    def set_status(self, run: str, status: str) -> None:
        storage, study = self._open(run)
        storage.set_study_user_attr(study, "status", status)

    def get_step(self, run: str, name: str) -> object:
        storage, _ = self._open(run)
        return storage.get_trial(self._trials[run, name]).user_attrs

    def read(self, run: str) -> Any:
        storage, study = self._open(run)
        return [storage.get_study_user_attrs(study), *(trial.user_attrs for trial in storage.get_all_trials(study))]

    def names(self, what_was_read: Any) -> set[str]:
        return {name for attributes in what_was_read for name in attributes if name != "status"}

    def _new_trial(self, run: str, name: str, attributes: dict[str, Any]) -> None:
        storage, study = self._open(run)
        template = create_trial(state=TrialState.RUNNING, user_attrs=attributes)
        self._trials[run, name] = storage.create_new_trial(study, template)

    def _journal(self, run: str) -> Any:
        return JournalStorage(JournalFileBackend(str(self._folder / f"{run}.log")))

    def _open(self, run: str) -> tuple[Any, int]:
        if run not in self._runs:
            journal = self._journal(run)
            self._runs[run] = journal, journal.get_study_id_from_name(run)
        return self._runs[run]


class Floor:
    """The least that anyone must do: dump the model, staging file, replace; for `power` also sync file and folder.

    It promises that no reader sees half a file, and nothing more: no digest, no conditions, no merge.
    """

    requests = None
    conflicts = None
    _numbers: Final = itertools.count()

    def __init__(self, folder: Path, durability: Durability = "process") -> None:
        self.name = f"floor {durability}"
        self._root = str(folder / "floor" / durability)
        self._durability = durability
        self._syncfs = ctypes.CDLL(None, use_errno=True).syncfs if durability == "barrier" else None

    def create(self, run: str) -> None:
        Path(f"{self._root}/{run}").mkdir(parents=True)
        self.write(run, "run", orjson.dumps({"run_id": run, "status": "CREATED", "run_config": {}}))

    def fill(self, run: str, names: list[str]) -> None:
        for name in names:
            self.write(run, f"step {name}", orjson.dumps(sample.step(name)), quick=True)

    def step(self, fields: Mapping[str, Any]) -> chunkstore.StepLog:
        return chunkstore.StepLog.model_validate(fields)

    parameters = Chunkstore.parameters

    def add_step(self, run: str, step: chunkstore.StepLog) -> None:
        self.write(run, f"step {step.internal_name}", orjson.dumps(step.model_dump()))

    def add_branch(self, run: str, name: str) -> None:
        branch = chunkstore.BranchLog(internal_name=name, status="CREATED")
        self.write(run, f"branch {name}", orjson.dumps(branch.model_dump()))

    def set_parameters(self, run: str, parameters: Mapping[str, Any], branch: str = "") -> None:
        for name, parameter in parameters.items():
            self.write(run, f"parameter {branch}@{name}", orjson.dumps(parameter.model_dump()))

    def set_field(self, run: str, name: str, value: object) -> None:
        """Read, change, replace; under a lock, without which updates are lost."""
        with self._locked(run):
            header = orjson.loads(_content(f"{self._root}/{run}/run.json"))
            header["run_config"][name] = value
            self.write(run, "run", orjson.dumps(header))

    def set_status(self, run: str, status: str) -> None:
        self.write(run, "run", orjson.dumps({"run_id": run, "status": status, "run_config": {}}))
        if self._syncfs is not None and status in chunkstore.TERMINAL:
            with self._opened(self._root, os.O_RDONLY) as folder:
                self._syncfs(folder)

    def get_step(self, run: str, name: str) -> object:
        return chunkstore.StepLog.model_validate_json(_content(f"{self._root}/{run}/step {name}.json"))

    def read(self, run: str) -> dict[str, object]:
        """Every file once, steps as models, with the collector paused; nothing is put together."""
        gc.disable()
        try:
            with os.scandir(f"{self._root}/{run}") as entries:
                names = [entry.name for entry in entries if entry.name.endswith(".json")]
            return {name: _parsed(name, _content(f"{self._root}/{run}/{name}")) for name in names}
        finally:
            gc.enable()

    def names(self, what_was_read: Any) -> set[str]:
        files = {name.removesuffix(".json") for name in what_was_read} - {"run"}
        return files | {f"field {name}" for name in what_was_read["run.json"]["run_config"]}

    def write(self, run: str, name: str, data: bytes, *, quick: bool = False) -> None:
        folder = f"{self._root}/{run}"
        staging = f"{folder}/.{os.getpid()}-{next(self._numbers)}"
        with self._opened(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            os.write(file, data)
            if self._durability == "power" and not quick:
                os.fsync(file)
        os.replace(staging, f"{folder}/{name}.json")  # noqa: PTH105  pathlib would cost the floor some microseconds
        if self._durability == "power" and not quick:
            with self._opened(folder, os.O_RDONLY) as opened:
                os.fsync(opened)

    @contextlib.contextmanager
    def _locked(self, run: str) -> Iterator[None]:
        with self._opened(f"{self._root}/{run}/.lock", os.O_RDWR | os.O_CREAT) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            yield

    @contextlib.contextmanager
    def _opened(self, path: str, flags: int) -> Iterator[int]:
        file = os.open(path, flags, 0o666)
        try:
            yield file
        finally:
            os.close(file)


def _content(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, os.fstat(file).st_size)
    finally:
        os.close(file)


def _parsed(name: str, data: bytes) -> object:
    return chunkstore.StepLog.model_validate_json(data) if name.startswith("step ") else orjson.loads(data)


def missing() -> list[tuple[str, str]]:
    """The contestants that cannot take part, and why."""
    return [(name, "not installed, left out") for name in ("runnable", "optuna") if not installed(name)]


PROMISES: Final = (
    ("chunkstore process", "atomic, compare-and-swap, merges, digest; survives a kill, not a power cut"),
    ("chunkstore barrier", "the same; at creation and at the final status all before it is synced (the default)"),
    ("chunkstore power", "the same; every acknowledged write is synced, file and folder"),
    (
        "runnable chunked-fs",
        "writes in place without a lock: a kill or a reader beside it meets half a file; parallel root writes are lost",
    ),
    ("runnable file-system", "the same, and the whole run is one file: one writer only"),
    (
        "Optuna journal",
        "appends under a lock and syncs the file at every write; parses no models; grows with every update",
    ),
    (
        "floor",
        "dump the model, staging file, replace (power: sync file and folder); no conditions, no digest, no merge",
    ),
)
