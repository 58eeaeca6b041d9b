"""The floors: the least that anyone must do for a file per chunk, bare, and with the same promise for each write as chunkstore."""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import gc
import itertools
import os
import time
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import orjson
import sample

import chunkstore
from chunkstore.backends.local import Durability


class Floor:
    """The least that anyone must do: dump the model, staging file, replace; for `power` also sync file and folder.

    It promises that no reader sees half a file, and nothing more: no digest, no conditions, no merge.
    """

    requests = None
    conflicts: int | None = None
    kind = "floor"
    _numbers: Final = itertools.count()

    def __init__(self, folder: Path, durability: Durability = "process") -> None:
        self.name = f"{self.kind} {durability}"
        self._root = str(folder / self.kind.replace(" ", "-") / durability)
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

    def parameters(self, values: Mapping[str, object]) -> Mapping[str, Any]:
        return {name: chunkstore.JsonParameter(value=value) for name, value in values.items()}  # type: ignore[arg-type]

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
        if status in chunkstore.TERMINAL:
            self.barrier()

    def barrier(self) -> None:
        """All that was written before is on the disk afterwards, where the durability is of that kind."""
        if self._syncfs is not None:
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
            return {name: parsed(name, _content(f"{self._root}/{run}/{name}")) for name in names}
        finally:
            gc.enable()

    def names(self, what_was_read: Any) -> set[str]:
        files = {name.removesuffix(".json") for name in what_was_read} - {"run"}
        return files | {f"field {name}" for name in what_was_read["run.json"]["run_config"]}

    def close(self) -> None:
        """Nothing is open."""

    def write(self, run: str, name: str, data: bytes, *, quick: bool = False) -> None:
        folder = f"{self._root}/{run}"
        staging = f"{folder}/.{os.getpid()}-{next(self._numbers)}"
        with self._opened(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            os.write(file, data)
            if self._durability == "power" and not quick:
                os.fsync(file)
        os.replace(staging, f"{folder}/{name}.json")  # noqa: PTH105  pathlib would cost the floor some microseconds
        if self._durability == "power" and not quick:
            self._sync_folder(folder)

    def _sync_folder(self, folder: str) -> None:
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


class ChangedError(Exception):
    """Somebody else wrote meanwhile."""


Stamp = tuple[int, int, int]


class ExclusiveFloor(Floor):
    """The least for what chunkstore promises of one write: a create never overwrites, an update replaces only what it knows.

    A nameless file and a link for a create; for an update a staging file with a stamp of its own, then lock, compare, replace. After a
    barrier, an update of what the barrier covered syncs its file first. No digest, no merge, and nothing is remembered but stamps.
    """

    kind = "floor exclusive"
    _LOCKS: Final = 64

    def __init__(self, folder: Path, durability: Durability = "process") -> None:
        super().__init__(folder, durability)
        self._known: dict[str, tuple[Stamp, int]] = {}
        self._barriers = 0
        self.conflicts = 0

    def create(self, run: str) -> None:
        Path(f"{self._root}/.locks").mkdir(parents=True, exist_ok=True)
        super().create(run)
        self.barrier()

    def set_field(self, run: str, name: str, value: object) -> None:
        """Read, change, replace if it is still what was read; again until it was."""
        path = f"{self._root}/{run}/run.json"
        while True:
            with self._opened(path, os.O_RDONLY) as file:
                status = os.fstat(file)
                header = orjson.loads(os.read(file, status.st_size))
            self._known[path] = _stamp(status), self._known.get(path, (None, 0))[1]
            header["run_config"][name] = value
            try:
                return self.write(run, "run", orjson.dumps(header))
            except ChangedError:
                self.conflicts = (self.conflicts or 0) + 1

    def barrier(self) -> None:
        super().barrier()
        self._barriers += self._syncfs is not None

    def write(self, run: str, name: str, data: bytes, *, quick: bool = False) -> None:
        folder = f"{self._root}/{run}"
        path = f"{folder}/{name}.json"
        known = self._known.get(path)
        power = self._durability == "power" and not quick
        stamp = (
            self._link(folder, path, data, sync=power) if known is None else self._swap(path, data, known, sync=power)
        )
        # What a barrier promised stays promised: every later update of it must sync, not the first alone.
        self._known[path] = stamp, self._barriers if known is None else known[1]
        if power:
            self._sync_folder(folder)

    def _link(self, folder: str, path: str, data: bytes, *, sync: bool) -> Stamp:
        with self._opened(folder, os.O_WRONLY | os.O_TMPFILE) as file:
            stamp = self._fill(file, data, sync=sync)
            # The descriptor of the folder makes Python call linkat, which alone can follow the link in /proc.
            os.link(f"/proc/self/fd/{file}", path, src_dir_fd=file, follow_symlinks=True)
        return stamp

    def _swap(self, path: str, data: bytes, known: tuple[Stamp, int], *, sync: bool) -> Stamp:
        expected, barriers = known
        staging = f"{os.path.dirname(path)}/.{os.getpid()}-{next(self._numbers)}"  # noqa: PTH120  see Floor.write
        with self._opened(staging, os.O_WRONLY | os.O_CREAT | os.O_EXCL) as file:
            stamp = self._fill(file, data, sync=sync or barriers < self._barriers)
        lock = f"{self._root}/.locks/{zlib.crc32(path.encode()) % self._LOCKS}"
        with self._opened(lock, os.O_RDWR | os.O_CREAT) as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            if _stamp(os.lstat(path)) != expected:
                os.unlink(staging)  # noqa: PTH108
                raise ChangedError(path)
            os.replace(staging, path)  # noqa: PTH105
        return stamp

    @staticmethod
    def _fill(file: int, data: bytes, *, sync: bool) -> Stamp:
        os.write(file, data)
        now = time.time_ns()
        os.utime(file, ns=(now, now))
        if sync:
            os.fsync(file)
        return _stamp(os.fstat(file))


def _stamp(status: os.stat_result) -> Stamp:
    return status.st_mtime_ns, status.st_ino, status.st_size


def _content(path: str) -> bytes:
    file = os.open(path, os.O_RDONLY)
    try:
        return os.read(file, os.fstat(file).st_size)
    finally:
        os.close(file)


def parsed(name: str, data: bytes) -> object:
    return chunkstore.StepLog.model_validate_json(data) if name.startswith("step ") else orjson.loads(data)
