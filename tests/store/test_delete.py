"""Deleting a run: gone for readers at once, finished by the next call, and nothing of it comes back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkstore import (
    BackendUnavailableError,
    BranchLogNotFoundError,
    ChunkedRunLogStore,
    ParameterNotFoundError,
    RunLogExistsError,
    RunLogNotFoundError,
    StepLog,
    StepLogNotFoundError,
)
from chunkstore.backends import ANY, Backend, Blob, Condition
from chunkstore.backends.local import LocalBackend
from chunkstore.backends.memory import MemoryBackend
from chunkstore.known import KnownChunks
from chunkstore.testing import CountingBackend
from places import again, place


@pytest.fixture(params=["memory", "local", "minio", "sqlite", "postgres"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Backend:
    return place(request.param, request, tmp_path)


def filled(backend: Backend) -> ChunkedRunLogStore:
    store = ChunkedRunLogStore(backend)
    store.create_run_log("r", tag="old")
    store.set_parameters("r", {"a": 1, "b": 2})
    for name in "xyz":
        store.add_step_log(StepLog(name=name, internal_name=name), "r")
    return store


class CutShort(CountingBackend):
    """Breaks off after so many deletes, as a killed process does."""

    def __init__(self, inner: Backend, deletes: int) -> None:
        super().__init__(inner)
        self.deletes = deletes

    @property
    def concurrency(self) -> int:
        return 1

    def delete(self, key: str, condition: Condition = ANY) -> None:
        self.deletes -= 1
        if self.deletes < 0:
            raise BackendUnavailableError("killed", transient=True, key=key)
        super().delete(key, condition)


@pytest.fixture(params=[0, 2, 5], ids="after {} deletes".format)
def half_deleted(request: pytest.FixtureRequest, backend: Backend) -> ChunkedRunLogStore:
    """A store that knew the run before somebody else's delete was cut short."""
    store = filled(backend)
    with pytest.raises(BackendUnavailableError):
        ChunkedRunLogStore(CutShort(backend, request.param)).delete_run_log("r")
    return store


READS: dict[str, Any] = {
    "full": lambda store: store.get_run_log_by_id("r"),
    "without steps": lambda store: store.get_run_log_by_id("r", full=False),
    "as far as it can be read": lambda store: store.read_run_log("r"),
    "configuration": lambda store: store.get_run_config("r"),
    "the run as a branch": lambda store: store.get_branch_log("", "r"),
}
WRITES: dict[str, Any] = {
    "status": lambda store: store.update_run_log_status("r", "SUCCESS"),
    "configuration": lambda store: store.set_run_config("r", {"a": 1}),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS.keys())
@pytest.mark.parametrize("knowing", [True, False], ids=["known", "not known"])
def test_readers_stop_finding_it_at_once(half_deleted: ChunkedRunLogStore, read: Any, knowing: bool) -> None:
    with pytest.raises(RunLogNotFoundError, match="'r' is not in"):
        read(half_deleted if knowing else again(half_deleted))
    assert half_deleted.get_run_logs(["r"]) == []


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES.keys())
@pytest.mark.parametrize("knowing", [True, False], ids=["known", "not known"])
def test_its_header_is_not_written_any_more(half_deleted: ChunkedRunLogStore, write: Any, knowing: bool) -> None:
    with pytest.raises(RunLogNotFoundError):
        write(half_deleted if knowing else again(half_deleted))
    with pytest.raises(RunLogNotFoundError):
        again(half_deleted).get_run_log_by_id("r")


def test_the_next_delete_finishes_it(half_deleted: ChunkedRunLogStore) -> None:
    half_deleted.delete_run_log("r")
    assert list(half_deleted.backend.list("r/")) == []
    assert half_deleted.list_run_ids() == []
    with pytest.raises(RunLogNotFoundError):
        half_deleted.delete_run_log("r")


@pytest.mark.parametrize("knowing", [True, False], ids=["known", "not known"])
def test_its_id_is_taken_until_the_delete_is_finished(half_deleted: ChunkedRunLogStore, knowing: bool) -> None:
    store = half_deleted if knowing else again(half_deleted)
    with pytest.raises(RunLogExistsError, match=r"'r' .* is being deleted; call delete_run_log again"):
        store.create_run_log("r")
    store.delete_run_log("r")
    store.create_run_log("r", tag="new")
    found = again(store).get_run_log_by_id("r")
    assert (found.tag, found.steps, found.parameters) == ("new", {}, {})


@pytest.mark.parametrize("knowing", [True, False], ids=["known", "not known"])
def test_a_run_made_anew_is_not_mixed_with_what_another_process_knew(backend: Backend, knowing: bool) -> None:
    store = filled(backend)
    old = store.get_run_log_by_id("r")
    other = again(store)
    other.delete_run_log("r")
    other.create_run_log("r", tag="new")
    reader = store if knowing else again(store)
    assert (reader.get_run_log_by_id("r").tag, reader.get_parameters("r")) == ("new", {})
    reader.set_parameters("r", {"a": 1})
    assert again(store).get_parameters("r") == {"a": 1}
    assert old.tag == "old"


LATE: dict[str, Any] = {
    "a known step": lambda store, held: store.add_step_log(held["step"], "r"),
    "a known parameter": lambda store, held: store.set_parameters("r", {"a": 9}),
    "the status": lambda store, held: store.update_run_log_status("r", "SUCCESS"),
    "the configuration": lambda store, held: store.set_run_config("r", {"a": 1}),
    "the run log": lambda store, held: store.put_run_log(held["run"]),
}


def hold(store: ChunkedRunLogStore) -> dict[str, Any]:
    """What a writer has in hand when somebody else deletes the run."""
    run, step = store.get_run_log_by_id("r"), store.get_step_log("x", "r")
    run.status = step.status = "SUCCESS"
    return {"run": run, "step": step}


@pytest.mark.parametrize("write", LATE.values(), ids=LATE.keys())
def test_a_late_writer_of_what_it_knows_is_told_and_brings_nothing_back(backend: Backend, write: Any) -> None:
    store = filled(backend)
    held = hold(store)
    again(store).delete_run_log("r")
    with pytest.raises(RunLogNotFoundError):
        write(store, held)
    assert store.list_run_ids() == []
    with pytest.raises(RunLogNotFoundError):
        store.get_run_log_by_id("r")


NEW: dict[str, Any] = {
    "a new step": lambda store: store.add_step_log(StepLog(name="new", internal_name="new"), "r"),
    "a new parameter": lambda store: store.set_parameters("r", {"new": 1}),
    "a new branch": lambda store: store.add_branch_log(store.create_branch_log("m.x"), "r"),
}


@pytest.mark.parametrize("write", NEW.values(), ids=NEW.keys())
def test_a_late_writer_of_something_new_is_told_where_a_folder_tells(tmp_path: Path, write: Any) -> None:
    store = filled(LocalBackend(tmp_path / "runs"))
    again(store).delete_run_log("r")
    with pytest.raises(RunLogNotFoundError):
        write(store)
    assert store.list_run_ids() == []
    assert not (tmp_path / "runs" / "r").exists()


@pytest.mark.parametrize("write", NEW.values(), ids=NEW.keys())
def test_a_late_writer_of_something_new_brings_no_run_back(backend: Backend, write: Any) -> None:
    """In a bucket one request cannot tell that the run is gone: the chunk lies there, but it is no run."""
    store = filled(backend)
    again(store).delete_run_log("r")
    try:
        write(store)
    except RunLogNotFoundError:
        return
    with pytest.raises(RunLogNotFoundError):
        again(store).get_run_log_by_id("r")
    assert again(store).get_run_logs() == []
    with pytest.raises(RunLogNotFoundError):
        write(again(store))
    again(store).delete_run_log("r")
    assert list(store.backend.list("r/")) == []


def test_a_reader_that_was_told_that_the_run_is_gone_does_not_forget_it(backend: Backend) -> None:
    store = filled(backend)
    again(store).delete_run_log("r")
    with pytest.raises(RunLogNotFoundError):
        store.get_run_log_by_id("r")
    with pytest.raises(RunLogNotFoundError):
        store.get_parameters("r")


class TestLeftOvers:
    """A late writer's new chunk outlives the delete in a bucket. It stays with the run that it was written to."""

    @pytest.fixture
    def late(self, backend: Backend) -> ChunkedRunLogStore:
        """A store that wrote to a deleted run, and to the one that was made under the same id."""
        store = filled(backend)
        again(store).delete_run_log("r")
        again(store).create_run_log("r", tag="new")
        store.add_step_log(StepLog(name="late", internal_name="late", status="FAIL"), "r")
        store.set_parameters("r", {"late": 1})
        store.add_branch_log(store.create_branch_log("late.b", {"late": 1}), "r")
        store.add_step_log(StepLog(name="late.b.c", internal_name="late.b.c"), "r")
        return store

    @pytest.mark.parametrize("knowing", [True, False], ids=["the late writer", "anyone"])
    def test_a_run_made_anew_does_not_adopt_them(self, late: ChunkedRunLogStore, knowing: bool) -> None:
        store = late if knowing else again(late)
        found = store.get_run_log_by_id("r")
        assert (found.tag, found.steps, found.parameters) == ("new", {}, {})
        assert store.get_run_log_by_id("r", full=False).parameters == {}
        assert store.get_parameters("r") == {}
        with pytest.raises(StepLogNotFoundError):
            store.get_step_log("late", "r")
        with pytest.raises(BranchLogNotFoundError):
            store.get_branch_log("late.b", "r")
        with pytest.raises(ParameterNotFoundError):
            store.get_parameter("r", "late")

    def test_they_are_reported(self, late: ChunkedRunLogStore) -> None:
        found = again(late).read_run_log("r").findings
        assert {finding.sort for finding in found} == {"left over"}
        assert sorted(finding.name for finding in found) == [
            "r/branch.late.b.json",
            "r/parameter.late.json",
            "r/parameter@late.b@late.json",
            "r/step.late.b.c.json",
            "r/step.late.json",
        ]
        assert "delete_run_log removes it" in found[0].message

    @pytest.mark.parametrize("knowing", [True, False], ids=["knows the new run", "knows nothing"])
    def test_a_write_of_the_same_name_begins_anew(self, late: ChunkedRunLogStore, knowing: bool) -> None:
        store = again(late)
        if knowing:
            store.get_run_log_by_id("r")
        store.add_step_log(StepLog(name="late", internal_name="late", message="new"), "r")
        store.set_parameters("r", {"late": 1})
        found = again(store).get_run_log_by_id("r")
        assert (found.steps["late"].status, found.steps["late"].message) == ("CREATED", "new")
        assert found.parameters == {"late": 1}

    def test_a_late_writer_that_learns_of_the_new_run_writes_to_that(self, late: ChunkedRunLogStore) -> None:
        assert late.get_run_log_by_id("r").tag == "new"
        late.set_parameters("r", {"late": 1, "a": 1})
        assert again(late).get_parameters("r") == {"late": 1, "a": 1}

    def test_a_late_writer_learns_of_the_new_run_from_any_chunk_of_it(self, late: ChunkedRunLogStore) -> None:
        again(late).set_parameters("r", {"b": 7})
        assert late.get_parameters("r") == {"b": 7}
        late.add_step_log(StepLog(name="more", internal_name="more"), "r")
        assert set(again(late).get_run_log_by_id("r").steps) == {"more"}

    def test_they_go_with_the_run(self, late: ChunkedRunLogStore) -> None:
        again(late).delete_run_log("r")
        assert list(late.backend.list("r/")) == []


def test_what_is_known_of_a_run_made_anew_since_is_no_base_for_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the process has met so many runs that it forgot which one it knew."""
    monkeypatch.setattr(KnownChunks, "_MAX_RUNS", 1)
    store = filled(LocalBackend(tmp_path / "runs"))
    step = store.get_step_log("x", "r")
    again(store).delete_run_log("r")
    again(store).create_run_log("r")
    store.create_run_log("another")
    store.get_run_config("r")
    store.set_parameters("r", {"a": 1})
    store.add_step_log(step, "r")
    found = again(store).get_run_log_by_id("r")
    assert (found.parameters, set(found.steps)) == ({"a": 1}, {"x"})


def test_a_run_that_is_made_anew_while_it_is_read_is_read_as_one_or_the_other(backend: Backend) -> None:
    class Between(CountingBackend):
        """The run is deleted and made anew between the listing and the reads."""

        def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
            header, *rest = sorted(keys, key=lambda key: key != "r/run.json")
            yield from super().get_many([header])
            if not made:
                other = again(store)
                other.delete_run_log("r")
                made.append(other.create_run_log("r", tag="new"))
                other.set_parameters("r", {"a": "new"})
            yield from super().get_many(rest)

    made: list[object] = []
    store = filled(backend)
    found = ChunkedRunLogStore(Between(backend)).get_run_log_by_id("r")
    assert (found.tag, found.parameters, found.steps) == ("new", {"a": "new"}, {})


class TestForeignThings:
    def test_they_stay_and_the_run_is_gone(self, tmp_path: Path) -> None:
        store = filled(LocalBackend(tmp_path / "runs"))
        folder = tmp_path / "runs" / "r"
        (folder / "notes.txt").write_text("mine")
        (folder / "plots").mkdir()
        (folder / "plots" / "loss.png").write_bytes(b"png")
        outside = tmp_path / "outside.json"
        outside.write_text("mine")
        (folder / "step.link.json").symlink_to(outside)
        store.delete_run_log("r")
        assert sorted(path.name for path in folder.iterdir()) == ["notes.txt", "plots", "step.link.json"]
        assert (folder / "plots" / "loss.png").read_bytes() == b"png"
        assert outside.read_text() == "mine"
        with pytest.raises(RunLogNotFoundError):
            store.get_run_log_by_id("r")
        assert store.get_run_logs() == []
        store.create_run_log("r", tag="new")
        assert again(store).get_run_log_by_id("r").steps == {}

    def test_other_runs_stay(self, backend: Backend) -> None:
        store = filled(backend)
        store.create_run_log("r2")
        store.create_run_log("R")
        store.delete_run_log("r")
        assert store.list_run_ids() == ["R", "r2"]


def test_a_run_whose_folder_vanished_is_not_made_anew(tmp_path: Path) -> None:
    store = filled(LocalBackend(tmp_path / "runs"))
    for path in (tmp_path / "runs" / "r").iterdir():
        path.unlink()
    (tmp_path / "runs" / "r").rmdir()
    for write in [
        *NEW.values(),
        *(lambda s, w=w: w(s, hold_nothing()) for w in (LATE["the status"], LATE["a known parameter"])),
    ]:
        with pytest.raises(RunLogNotFoundError, match="'r' is not in"):
            write(store)
    assert not (tmp_path / "runs" / "r").exists()


def hold_nothing() -> dict[str, Any]:
    return {}


def test_who_met_only_the_damaged_header_of_a_run_writes_nothing_for_the_next_of_its_id() -> None:
    backend = MemoryBackend("only the damaged header")
    store = ChunkedRunLogStore(backend)
    store.create_run_log("r", tag="old")
    header = backend.get("r/run.json").data
    backend.put("r/run.json", header[:-1], ANY)
    other = again(store)
    assert other.read_run_log("r").run_log.tag == ""
    backend.put("r/run.json", header, ANY)
    store.delete_run_log("r")
    with pytest.raises(RunLogNotFoundError):
        other.add_step_log(StepLog(name="late", internal_name="late"), "r")
    with pytest.raises(RunLogNotFoundError):
        other.set_parameters("r", {"late": 1})
    store.create_run_log("r", tag="new")
    reading = again(store).read_run_log("r")
    assert (reading.findings, reading.run_log.steps, reading.run_log.parameters) == ((), {}, {})
