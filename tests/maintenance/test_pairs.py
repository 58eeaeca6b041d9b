"""One chore beside another, or after one that was cut short at any request: nothing is lost, and what it is has its name and its next step."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest

from chunkstore import (
    ChunkStoreError,
    RunLogExistsError,
    StepLog,
    keys,
    maintenance,
)
from chunkstore.backends import ANY, Backend
from chunkstore.maintenance import Finding, verify
from chunkstore.marks import deleted, mark_of
from etags import Between
from interruptions import PLACES, KilledError, Store, collect, filled, killed, requests_of, restore, stands, whole
from places import between, in_bucket, memory

SAFE: Final = ("versions never come back", "versions are digests")


def found(store: Store) -> list[Finding]:
    return [one for one in verify(Store(store.backend), settle_seconds=0) if one.kind.value != "doubt"]


def repair(store: Store) -> maintenance.RepairReport:
    return maintenance.repair(Store(store.backend), settle_seconds=0, unconditional=True)


def finish(store: Store) -> maintenance.Removed:
    """A collector whose rule lets no run go: he only finishes what was cut short."""
    return maintenance.remove_planned(
        store, maintenance.plan_gc(store, maintenance.Retention(older_than=timedelta(days=3650)))
    )


def copy(source: Store, target: Store, **options: bool) -> maintenance.CopyReport:
    return maintenance.copy_runs(source, target, ["r"], **options)


def cut(work: Callable[[Store], object], backend: Backend, at: int) -> None:
    with pytest.raises(KilledError):
        work(Store(Between(backend, at, killed)))


def state(store: Store) -> str:
    blob = store.backend.get("r/run.json")
    return mark_of(Store(store.backend)._chunks._decoded("r/run.json", blob).chunk).state


def half(work: Callable[[Store], object], make: Callable[[], Store], wanted: str) -> Store:
    """A run on which this work was cut short in the middle of that state."""
    seen: list[Store] = []
    for at in range(1, requests_of(work, make().backend) + 1):
        store = make()
        cut(work, store.backend, at)
        with suppress(ChunkStoreError):
            if state(store) == wanted:
                seen.append(store)
    assert seen, wanted
    return seen[len(seen) // 2]


def copied_half(place: str) -> tuple[Store, Store]:
    source = filled(memory())
    return source, half(lambda target: copy(source, target), lambda: Store(PLACES[place]()), "copying")


def moved_half(place: str) -> Store:
    return half(collect, lambda: filled(PLACES[place]()), "moving")


def in_trash(place: str) -> Store:
    store = filled(PLACES[place]())
    collect(store)
    return store


def restored_half(place: str) -> Store:
    return half(restore, lambda: in_trash(place), "restoring")


@pytest.mark.parametrize("place", PLACES)
def test_a_copy_that_was_cut_short_is_named_and_neither_repair_nor_gc_takes_it_away(place: str) -> None:
    source = filled(memory())
    for at in range(1, requests_of(lambda target: copy(source, target), Store(PLACES[place]()).backend) + 1):
        target = Store(PLACES[place]())
        cut(lambda target: copy(source, target), target.backend, at)
        before = {entry.key: entry.version for entry in target.backend.list("r/")}
        for one in found(target):
            assert (one.kind.value, one.severity) == ("copy unfinished", "warning")
            assert "copy or import it again" in one.next_step
        assert {action.outcome for action in repair(target).actions} <= {"kept"}
        if not stands(target):
            assert collect(Store(target.backend)).finished == ()
            assert {entry.key: entry.version for entry in target.backend.list("r/")} == before
        assert copy(source, Store(target.backend)).is_complete
        assert whole(target) == whole(source)
        assert found(target) == []


@pytest.mark.parametrize("other", ["repair", "gc"])
@pytest.mark.parametrize("place", PLACES)
def test_a_copy_that_ends_between_two_requests_of_a_repair_or_gc_stands_whole(place: str, other: str) -> None:
    source, target = copied_half(place)
    objects = {entry.key: target.backend.get(entry.key).data for entry in target.backend.list("r/")}
    work = repair_through if other == "repair" else finish
    for at in range(1, requests_of(work, target.backend) + 1):
        store = Store(PLACES[place]())
        for key, data in objects.items():
            store.backend.put(key, data, ANY)
        with suppress(ChunkStoreError):
            work(Store(Between(store.backend, at, lambda store=store: copy(source, Store(store.backend)))))
        assert whole(store) == whole(source), at


def repair_through(store: Store) -> object:
    """Through this very store, so that others can come between its requests."""
    return maintenance.repair(store, settle_seconds=0, unconditional=True)


@pytest.mark.parametrize("place", PLACES)
def test_a_half_moved_run_is_named_and_repair_finishes_the_move_and_loses_no_late_write(place: str) -> None:
    for at in range(1, requests_of(collect, filled(PLACES[place]()).backend) + 1):
        store = filled(PLACES[place]())
        late = Store(store.backend)
        late.get_run_log_by_id("r")
        cut(collect, store.backend, at)
        acknowledged = False
        with suppress(ChunkStoreError):
            late.add_step_log(StepLog(name="late", internal_name="late"), "r")
            acknowledged = True
        for one in found(store):
            assert one.kind.value in ("move unfinished", "headerless"), at
            assert "chunkstore restore" in one.next_step or "restore brings it back" in one.next_step
        repair(store)
        if not stands(store):
            assert all(one.kind.value == "headerless" for one in found(store)), at
            restore(Store(store.backend))
        assert ("late" in whole(store)["steps"]) == acknowledged, at
        assert set(whole(store)["steps"]) >= {"x", "y"}


@pytest.mark.parametrize("place", PLACES)
def test_a_half_restored_run_is_named_and_repair_and_gc_leave_it_to_whoever_restores(place: str) -> None:
    for at in range(1, requests_of(restore, in_trash(place).backend) + 1):
        store = in_trash(place)
        cut(restore, store.backend, at)
        for one in found(store):
            assert one.kind.value == "restore unfinished"
            assert "restore it again to finish that: chunkstore restore 2" in one.next_step
        repair(store)
        collect(Store(store.backend)) if not stands(store) else None
        if not stands(store):
            restore(Store(store.backend))
        assert set(whole(store)["steps"]) == {"x", "y"}, at


@pytest.mark.parametrize("place", PLACES)
def test_a_restore_that_ends_between_two_requests_of_a_repair_stands_whole(place: str) -> None:
    example = restored_half(place)
    objects = {entry.key: example.backend.get(entry.key).data for entry in example.backend.list("")}
    for at in range(1, requests_of(repair_through, example.backend) + 1):
        store = Store(PLACES[place]())
        for key, data in objects.items():
            store.backend.put(key, data, ANY)
        with suppress(ChunkStoreError):
            repair_through(Store(Between(store.backend, at, lambda store=store: restore(Store(store.backend)))))
        assert set(whole(store)["steps"]) == {"x", "y"}, at


def half_deleted(place: str) -> Store:
    store = filled(PLACES[place]())
    store._chunks.mark_deleted(keys.header("r"))
    return Store(store.backend)


@pytest.mark.parametrize("place", SAFE)
def test_a_run_that_is_made_anew_while_gc_or_repair_finishes_a_deletion_keeps_what_it_has(place: str) -> None:
    def anew(backend: Backend) -> None:
        with suppress(ChunkStoreError):
            Store(backend).delete_run_log("r")
        filled(backend)

    for work in (finish, repair_through):
        for at in range(1, requests_of(work, half_deleted(place).backend) + 1):
            store = half_deleted(place)
            with suppress(ChunkStoreError):
                work(Store(Between(store.backend, at, lambda store=store: anew(store.backend))))
            assert set(whole(store)["steps"]) == {"x", "y"}, (work.__name__, at)


STATES: Final[dict[str, tuple[Callable[[], Store], str]]] = {
    "deleted": (lambda: half_deleted(SAFE[0]), "is being deleted; call delete_run_log again"),
    "copied": (lambda: copied_half(SAFE[0])[1], "is being copied there; copy or import it again"),
    "moved": (lambda: moved_half(SAFE[0]), "is being moved to the trash; chunkstore gc, or rm"),
    "restored": (lambda: restored_half(SAFE[0]), "is being restored from the trash; restore it again"),
}


@pytest.mark.parametrize("name", STATES)
def test_whoever_wants_the_id_is_told_what_goes_on_and_the_old_advice_loses_nothing_that_the_trash_has(
    name: str,
) -> None:
    make, message = STATES[name]
    store = make()
    with pytest.raises(RunLogExistsError, match=message):
        Store(store.backend).create_run_log("r")
    assert message in copy(filled(memory()), Store(store.backend)).runs[0].message or name == "copied"
    Store(store.backend).delete_run_log("r")  # what the message said of all of them before
    assert not stands(store)
    assert list(store.backend.list("r/")) == []
    if name in ("moved", "restored"):
        restore(Store(store.backend))
        assert set(whole(store)["steps"]) == {"x", "y"}


def test_rm_of_a_half_copied_run_takes_it_away_and_never_one_whose_copy_was_finished_meanwhile() -> None:
    source, target = copied_half(SAFE[0])
    plan = maintenance.plan_removal(Store(target.backend), ["r"])
    assert (plan.runs, plan.unfinished, plan.copies) == ((), (), ("r",))
    copy(source, Store(target.backend))
    assert [one.run_id for one in maintenance.remove_planned(Store(target.backend), plan).kept] == ["r"]
    assert whole(target) == whole(source)
    _, target = copied_half(SAFE[0])
    assert maintenance.remove_runs(Store(target.backend), ["r"]).finished == ("r",)
    assert list(target.backend.list("r/")) == []


def test_restart_never_takes_away_a_copy_that_was_finished_meanwhile() -> None:
    source, example = copied_half(SAFE[0])
    objects = {entry.key: example.backend.get(entry.key).data for entry in example.backend.list("r/")}
    other = filled(memory())
    other.set_parameters("r", {"other": True})
    for at in range(1, requests_of(lambda target: copy(other, target, restart=True), example.backend) + 1):
        target = Store(memory())
        for key, data in objects.items():
            target.backend.put(key, data, ANY)
        finished: list[bool] = []

        def end(target: Store = target, finished: list[bool] = finished) -> None:
            finished.append(copy(source, Store(target.backend)).is_complete)

        copy(other, Store(Between(target.backend, at, end)), restart=True)
        assert whole(target) == whole(source if finished == [True] else other), at


def test_a_restore_is_told_that_a_copy_of_the_run_is_under_way_and_the_other_way_round() -> None:
    source, target = copied_half(SAFE[0])
    gone = in_trash(SAFE[0])
    for entry in gone.backend.list(".trash/"):
        target.backend.put(entry.key, gone.backend.get(entry.key).data, ANY)
    with pytest.raises(RunLogExistsError, match="is being copied there, so the one in the trash is not restored"):
        restore(Store(target.backend))
    assert copy(source, Store(target.backend)).is_complete
    assert [entry.run_id for entry in maintenance.list_trash(target)] == ["r"]


def test_a_damaged_or_missing_copy_in_the_trash_is_a_finding_and_no_repair_deletes_what_is_left() -> None:
    store = in_trash(SAFE[0])
    (entry,) = maintenance.list_trash(store)
    assert found(store) == []
    store.backend.put(entry.key, store.backend.get(entry.key).data[:-1], ANY)
    assert [(one.kind.value, one.severity, one.key) for one in found(store)] == [("trash damaged", "damage", entry.key)]
    for half_way in (moved_half, restored_half):
        store = half_way(SAFE[0])
        (entry,) = maintenance.list_trash(store)
        store.backend.delete(entry.key)
        before = [one.key for one in store.backend.list("r/")]
        (one,) = found(store)
        assert one.severity == "damage"
        assert "That copy is gone" in one.what
        assert {action.outcome for action in repair(store).actions} == {"kept"}
        assert [one.key for one in store.backend.list("r/")] == before


def test_what_is_left_of_a_move_whose_copy_is_gone_is_deleted_by_name_and_without_the_trash_alone() -> None:
    store = moved_half(SAFE[0])
    store.backend.delete(maintenance.list_trash(store)[0].key)
    assert [one.damaged for one in collect(Store(store.backend)).kept] == [True]
    assert [one.damaged for one in maintenance.remove_runs(Store(store.backend), ["r"]).kept] == [True]
    assert maintenance.remove_runs(Store(store.backend), ["r"], trash=False).finished == ("r",)
    assert list(store.backend.list("r/")) == []


@pytest.mark.parametrize("how", ["changed", "missing"])
def test_what_was_isolated_and_is_not_there_as_it_was_is_a_finding(how: str) -> None:
    store = filled(memory())
    store.backend.put("r/step.x.json", b"half", ANY)
    repair(store)
    (bytes_of,) = [entry.key for entry in store.backend.list(".quarantine/") if entry.key.endswith(".bytes")]
    assert "quarantine damaged" not in {one.kind.value for one in found(store)}
    store.backend.put(bytes_of, b"others", ANY) if how == "changed" else store.backend.delete(bytes_of)
    assert [one.key for one in found(store) if one.kind.value == "quarantine damaged"] == [bytes_of]


def test_a_copy_of_a_whole_store_leaves_trash_quarantine_and_half_runs_where_they_are() -> None:
    store = moved_half(SAFE[0])
    store.backend.put(".quarantine/some.bytes", b"", ANY)
    store.backend.put(".doctor/some", b"", ANY)
    store.create_run_log("stays", status="SUCCESS")
    target = Store(memory())
    report = maintenance.copy_runs(Store(store.backend), target)
    assert [(run.run_id, run.outcome) for run in report.runs] == [("r", "missing"), ("stays", "copied")]
    assert "is being moved to the trash" in report.runs[0].message
    assert {entry.key.partition("/")[0] for entry in target.backend.list("")} == {"stays"}
    for ended in (store.reindex, lambda: store.find_runs().runs):
        ended()
    assert [run.run_id for run in Store(store.backend).find_runs().runs] == ["stays"]


def test_on_minio_a_half_moved_run_with_a_late_write_is_finished_by_repair_and_comes_back_whole(
    minio_server: Any, tmp_path: Path
) -> None:
    requests = requests_of(collect, filled(in_bucket(minio_server, tmp_path)).backend)
    done = 0
    for at in range(requests, 0, -between(4, 1)):
        store = filled(in_bucket(minio_server, tmp_path))
        late = Store(store.backend)
        late.get_run_log_by_id("r")
        cut(collect, store.backend, at)
        if stands(store):
            break
        acknowledged = False
        with suppress(ChunkStoreError):
            late.add_step_log(StepLog(name="late", internal_name="late"), "r")
            acknowledged = True
        repair(store)
        restore(Store(store.backend))
        assert ("late" in whole(store)["steps"]) == acknowledged
        assert set(whole(store)["steps"]) >= {"x", "y"}
        done += 1
    assert done


def test_the_mark_that_a_deletion_leaves_has_nothing_of_what_went_on_before() -> None:
    for make in (lambda: moved_half(SAFE[0]), lambda: restored_half(SAFE[0]), lambda: copied_half(SAFE[0])[1]):
        header = Store(make().backend)._chunks.read(keys.header("r")).chunk
        assert mark_of(header).state != "deleted"
        assert mark_of(deleted(header)) == ("deleted", "")
