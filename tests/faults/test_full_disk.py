"""A full disk refuses a write, and nothing else: what stood there stays whole, and the same call succeeds when there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from chunkstore import (
    BackendUnavailableError,
    BranchLog,
    ChunkedRunLogStore,
    JobLog,
    RunLog,
    RunLogNotFoundError,
    StepLog,
)
from chunkstore.backends.local import LocalBackend
from loop_disk import loop_disk
from places import again, between
from rigs import Tally, mounted

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="mounts as Linux does")

TEXT = "x" * 6_000  # two pages of tmpfs: the second may be the one that does not fit
Call = Callable[[ChunkedRunLogStore], Any]


class SmallDisk:
    """A mounted disk, of which all but a little can be used up."""

    def __init__(self, folder: Path, scarce: str) -> None:
        self.folder, self._scarce = folder, scarce
        self._filling = folder / "filling"
        self._filling.mkdir(exist_ok=True)

    def leave(self, few: int) -> None:
        """Uses up all but a few blocks, or inodes."""
        free = os.statvfs(self.folder)
        if self._scarce == "inodes":
            for number in range(free.f_favail - few):
                (self._filling / str(number)).touch()
        else:  # what statvfs says is free need not be: ext4 keeps some for itself
            with (self._filling / "file").open("wb", buffering=0) as file:
                with suppress(OSError):
                    while True:
                        file.write(bytes(free.f_frsize))
                file.truncate(max(0, file.tell() - few * free.f_frsize))
                os.fsync(file.fileno())

    def free(self) -> None:
        for file in self._filling.iterdir():
            file.unlink()


@pytest.fixture(params=["space", "inodes"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[SmallDisk]:
    with mounted(tmp_path / "small", "-t", "tmpfs", "-o", "size=512k,nr_inodes=150", "tmpfs") as folder:
        yield SmallDisk(folder, request.param)


@pytest.fixture(params=["process", "barrier", "power"])
def durability(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def filled(root: Path, durability: str) -> ChunkedRunLogStore:
    store = ChunkedRunLogStore(LocalBackend(root, durability=durability))  # type: ignore[arg-type]
    store.create_run_log("r", tag="old")
    store.set_parameters("r", {"p": "old", "q": "old"})
    store.add_step_log(StepLog(name="s", internal_name="s", message="old"), "r")
    store.set_run_config("r", {"old": 1})
    return store


def whole_run(store: ChunkedRunLogStore) -> None:
    steps = {name: StepLog(name=name, internal_name=name, message=TEXT) for name in "ab"}
    branch = BranchLog(internal_name="map.x", parameters={"p": "new"})
    steps["map"] = StepLog(name="map", internal_name="map", branches={"map.x": branch})
    store.put_run_log(RunLog(run_id="by hand", tag="new", steps=steps, parameters={"p": TEXT}))


WRITES: dict[str, Call] = {
    "new step": lambda store: store.add_step_log(StepLog(name="new", internal_name="new", message=TEXT), "r"),
    "known step": lambda store: store.add_step_log(StepLog(name="s", internal_name="s", message=TEXT), "r"),
    "branch": lambda store: store.add_branch_log(BranchLog(internal_name="s.x", parameters={"p": "new"}), "r"),
    "parameters": lambda store: store.set_parameters("r", {"p": TEXT, "q": "new", "n": "new"}),
    "status": lambda store: store.update_run_log_status("r", "RUNNING"),
    "last status": lambda store: store.update_run_log_status("r", "SUCCESS"),
    "configuration": lambda store: store.set_run_config("r", {"new": TEXT}),
    "job": lambda store: store.add_job_log("r", JobLog(status="RUNNING", message=TEXT)),
    "new run": lambda store: store.create_run_log("by hand", tag="new"),
    "whole run": whole_run,
}

WRITES_OF_ONE_CHUNK = [
    WRITES[name] for name in ("new step", "known step", "status", "last status", "configuration", "new run")
]


@pytest.fixture(params=WRITES)
def write(request: pytest.FixtureRequest) -> Call:
    return WRITES[request.param]


def everything(store: ChunkedRunLogStore) -> dict[str, Any]:
    """All that a new store reads, but for the times."""
    reader = again(store)
    logs = reader.get_run_logs()
    readings = {log.run_id: reader.read_run_log(log.run_id) for log in logs}
    assert all(reading.findings == () for reading in readings.values())
    return {run: reading.run_log.model_dump(exclude={"created_at"}) for run, reading in readings.items()}


def objects(root: Path) -> dict[str, bytes]:
    files = (path for path in root.rglob("*") if path.is_file() and ".locks" not in path.parts)
    return {str(path.relative_to(root)): path.read_bytes() for path in files}


@pytest.fixture
def wanted(tmp_path: Path, durability: str, write: Call) -> dict[str, Any]:
    """What the write comes to where there is room."""
    store = filled(tmp_path / "roomy", durability)
    write(store)
    return everything(store)


def test_a_write_that_does_not_fit_changes_nothing_and_succeeds_when_there_is_room(
    disk: SmallDisk, durability: str, write: Call, wanted: dict[str, Any], tally: Tally
) -> None:
    refused = []
    for few in range(between(4, 12)):
        store = filled(disk.folder / f"runs {few}", durability)
        refused.append(try_with(few, disk, store, write, wanted))
        shutil.rmtree(store.backend.place)
    assert refused[0]
    tally("writes on a full disk", len(refused))


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
def test_the_same_on_a_full_file_system_with_blocks_and_a_journal(tmp_path: Path, write: Call, tally: Tally) -> None:
    wanted = filled(tmp_path / "roomy", "power")
    write(wanted)
    with loop_disk(tmp_path, size="8M") as loop:
        disk = SmallDisk(loop.folder, "space")
        refused = []
        for few in range(3):
            store = filled(disk.folder / f"runs {few}", "power")
            refused.append(try_with(few, disk, store, write, everything(wanted)))
        assert refused[0]
        tally("writes on a full disk", len(refused))


def try_with(few: int, disk: SmallDisk, store: ChunkedRunLogStore, write: Call, wanted: dict[str, Any]) -> bool:
    """Writes while only so few blocks or inodes are free, and again when there is room. Returns whether it was refused."""
    root = Path(store.backend.place)
    before, files = everything(store), objects(root)
    disk.leave(few)
    try:
        refused = is_refused(store, write)
        assert [name for name in objects(root) if Path(name).name[0] == "."] == [], "a staging file stayed"
        if refused and write in WRITES_OF_ONE_CHUNK:
            assert objects(root) == files
        assert is_between(before, everything(store), wanted)
    finally:
        disk.free()
    if refused:
        write(store)
    assert everything(store) == wanted
    return refused


def is_refused(store: ChunkedRunLogStore, write: Call) -> bool:
    error = refusal(store, write)
    if error is None:
        return False
    assert store.backend.place in str(error)
    assert "No space left on device" in str(error)
    assert not error.transient
    assert isinstance(error.__cause__, OSError)
    return True


def refusal(store: ChunkedRunLogStore, write: Call) -> BackendUnavailableError | None:
    try:
        write(store)
    except BackendUnavailableError as error:
        return error
    return None


def is_between(before: Any, now: Any, wanted: Any) -> bool:
    """Whether each value is the old one or the new one: nothing is lost, and nothing was made up."""
    if not isinstance(now, dict):
        return now in (before, wanted)
    old, new = (value if isinstance(value, dict) else {} for value in (before, wanted))
    return old.keys() <= now.keys() <= old.keys() | new.keys() and all(
        is_between(old.get(name), value, new.get(name)) for name, value in now.items()
    )


SCARCE = [("space", 0), ("space", 1), ("inodes", 0), ("inodes", 1)]


@pytest.mark.parametrize(("disk", "few"), [*SCARCE, ("inodes", 2)], indirect=["disk"])
def test_the_error_of_a_full_disk_says_what_to_do(disk: SmallDisk, few: int) -> None:
    store = filled(disk.folder / "runs", "barrier")
    disk.leave(few)
    errors = [error for error in (refusal(store, write) for write in WRITES.values()) if error is not None]
    assert errors
    assert [str(error) for error in errors if "the disk is full; free some space" not in str(error)] == []


def test_a_run_can_be_deleted_to_make_room(disk: SmallDisk, durability: str) -> None:
    store = filled(disk.folder / "runs", durability)
    add_another_run(store)
    disk.leave(0)
    store.delete_run_log("another")
    with pytest.raises(RunLogNotFoundError):
        again(store).get_run_log_by_id("another")
    assert again(store).list_run_ids() == ["r"]
    store.set_run_config("r", {"new": 1})
    assert again(store).get_run_config("r") == {"old": 1, "new": 1}


def test_a_run_that_cannot_be_deleted_stays_whole(disk: SmallDisk, durability: str) -> None:
    store = filled(disk.folder / "runs", durability)
    add_another_run(store)
    before = everything(store)
    disk.leave(0)
    try:
        store.delete_run_log("another")
    except BackendUnavailableError:
        assert everything(store) == before
    disk.free()
    with suppress(RunLogNotFoundError):
        store.delete_run_log("another")
    assert again(store).list_run_ids() == ["r"]


def add_another_run(store: ChunkedRunLogStore) -> None:
    store.create_run_log("another")
    for name in "abc":
        store.add_step_log(StepLog(name=name, internal_name=name, message=TEXT), "another")


@pytest.mark.parametrize(("disk", "few"), [("space", 0), ("inodes", 1)], indirect=["disk"])
def test_a_run_that_could_not_be_created_is_not_listed(disk: SmallDisk, durability: str, few: int) -> None:
    store = filled(disk.folder / "runs", durability)
    disk.leave(few)
    with pytest.raises(BackendUnavailableError):
        store.create_run_log("new")
    assert again(store).list_run_ids() == ["r"]


# A file system that an error turned read-only, as ext4 does.


def test_where_the_disk_became_read_only_everything_can_be_read_and_nothing_written(
    tmp_path: Path, durability: str, tally: Tally
) -> None:
    with mounted(tmp_path / "disk", "-t", "tmpfs", "-o", "size=2m", "tmpfs") as folder:
        store = filled(folder / "runs", durability)
        before, files = everything(store), objects(folder)
        remount(folder, "ro")
        for write in (*WRITES.values(), lambda store: store.delete_run_log("r")):
            with pytest.raises(BackendUnavailableError, match=r"(?i)read-only file system.*writable") as refused:
                write(store)
            assert not refused.value.transient
            assert str(folder) in str(refused.value)
        assert (everything(store), objects(folder)) == (before, files)
        assert store.get_parameters("r") == {"p": "old", "q": "old"}
        assert store.get_step_log("s", "r").message == "old"
        remount(folder, "rw")
        for write in WRITES.values():
            write(store)
        assert everything(store).keys() == {"r", "by hand"}
        tally("writes on a read-only disk", len(WRITES) + 1)


def remount(folder: Path, mode: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{mode}", str(folder)], check=True)
