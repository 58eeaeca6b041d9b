"""The local contestants behind one set of verbs: chunkstore, runnable's stores, Optuna's journal; others in `peers`, `floors`.

Every verb does what that contestant's users would call, and starts from the model object that its API takes.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Protocol
from unittest import mock

import peers
import sample
from floors import ExclusiveFloor, Floor
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
    def close(self) -> None: ...


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

    def close(self) -> None:
        self.store.close()


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

    def close(self) -> None:
        """Nothing is open."""


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
        """Without waiting for the disk: only what comes afterwards is measured."""
        with mock.patch("os.fsync"):
            for name in names:
                self.add_step(run, sample.step(name))

    def step(self, fields: Mapping[str, Any]) -> Mapping[str, Any]:
        return fields

    def parameters(self, values: Mapping[str, object]) -> Mapping[str, object]:
        return {name: sample.typed(value) for name, value in values.items()}

    def add_step(self, run: str, step: Mapping[str, Any]) -> None:
        name = step["internal_name"]
        storage, _ = self._open(run)
        # A trial's id may be 0.
        trial = self._trials.get((run, name), self._trials.get((run, name.rpartition(".")[0])))
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

    def close(self) -> None:
        """Nothing is open."""

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


Maker = Callable[[Path], Contestant]


def makers(durabilities: Iterable[Durability]) -> dict[str, Maker]:
    """All contestants that are installed: floors, chunkstore and sqlite for each durability asked for, and the peers."""
    kinds: dict[str, Callable[[Path, Durability], Contestant]] = {
        "floor": Floor,
        "floor exclusive": ExclusiveFloor,
        "chunkstore": Chunkstore,
        "sqlite": peers.Sqlite,
    }
    asked = [*durabilities]
    made: dict[str, Maker] = {
        f"{kind} {durability}": _with_durability(make, durability)
        for kind, make in kinds.items()
        for durability in asked
        if kind != "sqlite" or durability != "barrier"
    }
    if installed("runnable"):
        made |= {"runnable chunked-fs": RunnableChunkedFs, "runnable file-system": RunnableFileSystem}
    if installed("optuna"):
        made["Optuna journal"] = OptunaJournal
    if peers.HAS_MLFLOW:
        made |= {"MLflow files": peers.MlflowFiles, "MLflow sqlite": peers.MlflowSqlite}
    return made


def _with_durability(make: Callable[[Path, Durability], Contestant], durability: Durability) -> Maker:
    return lambda folder: make(folder, durability)


_SYNCING: Final = ("Optuna journal", "MLflow sqlite")


def durability_of(contestant: str) -> str:
    """What an acknowledged write survives. Optuna's journal and MLflow's sqlite sync at every write; the other peers never do."""
    kind = contestant.rpartition(" ")[2]
    if kind in {"process", "barrier", "power"}:
        return kind
    return "power" if contestant in _SYNCING else "process"


def missing() -> list[tuple[str, str]]:
    """The contestants that cannot take part, and why."""
    there = {"runnable": installed("runnable"), "optuna": installed("optuna"), "mlflow-skinny": peers.HAS_MLFLOW}
    return [(name, "not installed, left out") for name, found in there.items() if not found]


PROMISES: Final = (
    ("chunkstore process", "atomic, compare-and-swap, merges, digest; survives a kill, not a power cut"),
    (
        "chunkstore barrier",
        "the same; a run's creation and end sync all before them in the root (the default); updates of that cost an fsync each",
    ),
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
    ("MLflow files", "each chunk a tag of the run, written in place without a lock or sync; MLflow advises against it"),
    ("MLflow sqlite", "each chunk a tag of the run, a transaction each, synced (rollback journal, synchronous full)"),
    (
        "sqlite process",
        "one row per chunk, write-ahead log, synchronous normal: survives a kill; one file, one writer at a time",
    ),
    ("sqlite power", "the same, synchronous full: synced at every write. Neither merges, has digests or goes to S3"),
    (
        "floor",
        "dump the model, staging file, replace (power: sync file and folder); no conditions, no digest, no merge",
    ),
    (
        "floor exclusive",
        "chunkstore's promise of one write and no more: create by link, update by lock, compare, replace; no digest, no merge",
    ),
)
