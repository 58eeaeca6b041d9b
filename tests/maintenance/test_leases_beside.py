"""Chores beside leases: none takes a record for something foreign or damaged, copies it, or disturbs who holds the lease; and generations rise over all of them."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import pytest

from chunkstore import ChunkedRunLogStore, LeaseHeldError, LeaseLostError, RunLogExistsError, maintenance
from chunkstore.backends import Backend
from chunkstore.backends.local import LocalBackend
from chunkstore.leases import LeaseClock, take
from chunkstore.maintenance import Retention
from places import again, in_file, memory

Store = ChunkedRunLogStore

DB_LOG: Final = Path(__file__).parent.parent / "data" / "magnus-db-log"
TOMORROW: Final = datetime.now(UTC) + timedelta(days=2)
RULE: Final = Retention(older_than=timedelta(days=1))


def gc(store: Store) -> object:
    return maintenance.remove_planned(store, maintenance.plan_gc(store, RULE, TOMORROW))


def to_the_trash_and_back(store: Store) -> None:
    assert gc(store)
    assert store.list_run_ids() == []
    maintenance.restore_run(store, "r")


def to_the_trash_for_ever(store: Store) -> None:
    gc(store)
    maintenance.empty_trash(store, timedelta(0))


def copied(store: Store) -> None:
    target = Store(memory())
    assert [one.run_id for one in maintenance.copy_runs(store, target).runs] == ["r"]
    assert [*target.backend.list(".leases/")] == []
    assert [*maintenance.verify(target)] == []


def exported(store: Store) -> None:
    written = io.BytesIO()
    assert maintenance.export(store, written, "json").runs
    assert b".leases" not in written.getvalue()


def verified(store: Store) -> None:
    found = [*maintenance.verify(store, settle_seconds=0, stale_seconds=0)]
    assert [one for one in found if one.severity != "notice" or ".leases" in repr(one)] == []


def repaired(store: Store) -> None:
    report = maintenance.repair(store, settle_seconds=0, remove_staging_after=0)
    assert (report.actions, [*maintenance.quarantined(store)]) == ((), [])


def reindexed(store: Store) -> None:
    store.reindex(full=True)
    assert [run.run_id for run in store.find_runs().runs] == ["r"]


CHORES: Final[dict[str, Callable[[Store], object]]] = {
    "verify": verified,
    "repair": repaired,
    "gc": gc,
    "gc and restore": to_the_trash_and_back,
    "gc for ever": to_the_trash_for_ever,
    "rm": lambda store: maintenance.remove_runs(store, ["r"]),
    "rm for ever": lambda store: maintenance.remove_runs(store, ["r"], trash=False),
    "cp": copied,
    "export": exported,
    "compact": lambda store: [*maintenance.compact_runs(store, maintenance.ended_runs(store))],
    "reindex": reindexed,
    "delete": lambda store: store.delete_run_log("r"),
}


@pytest.fixture(params=["local", "sqlite"])
def backend(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Backend]:
    made = LocalBackend(tmp_path / "runs") if request.param == "local" else in_file(tmp_path)
    yield made
    made.close()


class Time:
    at = 1000.0

    def on(self, seconds: float) -> None:
        self.at += seconds


def records(backend: Backend) -> dict[str, tuple[bytes, str]]:
    return {key: tuple(blob) for key, blob in backend.get_many([one.key for one in backend.list(".leases/")])}


@pytest.mark.parametrize("name", CHORES)
def test_none_disturbs_a_lease_that_is_held_or_was_left(backend: Backend, name: str) -> None:
    store, time = Store(backend), Time()
    clock = LeaseClock(lambda: time.at, time.on)
    take(backend, "gone", heartbeat=False).release()
    maintenance.sweep_leases(store)  # so there is a highest generation too
    left = take(backend, "r", "left", heartbeat=False, clock=clock)
    held = take(backend, "r", heartbeat=False, clock=clock)
    released = take(backend, "r", "released [red]", heartbeat=False, clock=clock)
    released.release()
    fenced = store.fenced(held)
    fenced.create_run_log("r")
    fenced.add_step_log(fenced.create_step_log("s", "s"), "r")
    fenced.update_run_log_status("r", "SUCCESS")
    before = records(backend)
    assert len(before) == 4

    CHORES[name](again(store))

    assert records(backend) == before
    verified(again(store))
    held.renew()
    time.on(31)
    with pytest.raises(LeaseLostError):
        fenced.set_parameters("r", {"late": 1})
    generations = [(one.name, one.generation) for one in maintenance.list_leases(store)]
    assert generations == [("executor", held.generation), ("left", left.generation), ("released [red]", 2)]
    assert take(backend, "r", heartbeat=False, wait=60, clock=clock).generation == held.generation + 1


@pytest.mark.parametrize("name", ["compact", "gc and restore", "cp"])
def test_what_was_written_under_which_generation_is_known_afterwards(backend: Backend, name: str) -> None:
    store = Store(backend)
    for step in "ab":
        with store.lease("r") as lease:
            fenced = store.fenced(lease)
            if step == "a":
                fenced.create_run_log("r")
            fenced.add_step_log(fenced.create_step_log(step, step), "r")
    store.update_run_log_status("r", "SUCCESS")
    expected = {"r/run.json": 2, "r/step.a.json": 1, "r/step.b.json": 2}
    assert maintenance.written_under(store, "r") == expected
    found = again(store)
    if name == "cp":
        found = Store(memory())
        maintenance.copy_runs(store, found)
    else:
        CHORES[name](found)
    assert maintenance.written_under(found, "r") == expected
    with found.lease("r") as lease:
        found.fenced(lease).update_run_log_status("r", "FAIL")
        assert lease.generation == 3


@pytest.mark.parametrize("name", ["delete", "gc for ever"])
def test_a_run_that_is_made_again_under_its_id_is_driven_under_higher_generations(backend: Backend, name: str) -> None:
    store, seen = Store(backend), []
    for _ in range(3):
        with store.lease("r") as lease:
            seen.append(lease.generation)
            fenced = store.fenced(lease)
            fenced.create_run_log("r")
            fenced.update_run_log_status("r", "SUCCESS")
        CHORES[name](again(store))
        maintenance.sweep_leases(store)
        assert maintenance.list_leases(store) == []
    assert seen == [1, 2, 3]


def test_a_run_that_is_restored_while_a_new_one_is_driven_is_refused_and_the_lease_stays(backend: Backend) -> None:
    store = Store(backend)
    store.create_run_log("r")
    store.update_run_log_status("r", "SUCCESS")
    gc(store)
    with store.lease("r") as lease:
        store.fenced(lease).create_run_log("r", tag="second")
        with pytest.raises(RunLogExistsError):
            maintenance.restore_run(store, "r")
        with pytest.raises(LeaseHeldError):
            again(store).lease("r")
        assert store.get_run_log_by_id("r").tag == "second"


def test_an_import_from_the_table_that_the_records_are_in_leaves_them(tmp_path: Path) -> None:
    shutil.copy(DB_LOG / "runs.db", tmp_path)
    store = Store(in_file(tmp_path))
    with store.lease("nightly 1") as lease:
        before = records(store.backend)
        report = maintenance.import_runs(store, f"sqlite:///{tmp_path / 'runs.db'}")
        assert "nightly 1" in report.imported
        assert ".leases" not in str(report)
        assert records(store.backend) == before
        lease.renew()
    store.close()
