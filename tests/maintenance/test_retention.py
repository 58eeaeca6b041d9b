"""Which runs a rule lets go, and why the others stay; nothing that is being written, or cannot be read, ever goes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from chunkstore import ChunkedRunLogStore, InvalidInputError, RunLog, RunLogNotFoundError, StepLog, maintenance
from chunkstore.backends import ANY
from chunkstore.backends.local import LocalBackend
from chunkstore.errors import ConflictError, RunLogExistsError
from chunkstore.maintenance import Retention
from chunkstore.maintenance.retention import judge
from chunkstore.testing import CountingBackend
from etags import EtagMemory
from places import again, memory

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
DAY = timedelta(days=1)


def run(run_id: str, days: float, status: str = "SUCCESS", tag: str = "") -> RunLog:
    return RunLog(run_id=run_id, status=status, tag=tag, created_at=NOW - days * DAY)


RUNS = [
    run("new", 1),
    run("week", 7, tag="prod"),
    run("month", 30, "FAIL"),
    run("quarter", 91),
    run("running", 95, "PROCESSING"),
    run("year", 365, "FAIL", "prod"),
    run("ahead", -1),
]


def going(**rule: Any) -> set[str]:
    return {run_id for run_id, judged in judge(RUNS, Retention(**rule), NOW).items() if judged.goes}


@pytest.mark.parametrize(
    ("rule", "goes"),
    [
        ({"older_than": 90 * DAY}, {"quarter", "year"}),
        ({"older_than": 7 * DAY}, {"month", "quarter", "year"}),
        ({"keep_last": 3}, {"month", "quarter", "year"}),
        ({"keep_last": 5, "older_than": 10 * DAY}, {"year"}),
        ({"keep_last": 1, "keep_tags": {"prod"}, "keep_statuses": {"fail"}}, {"new", "quarter"}),
        ({"older_than": DAY, "keep_last": 100}, set()),
        ({"abandoned_after": DAY}, set()),
    ],
)
def test_what_goes(rule: dict[str, Any], goes: set[str]) -> None:
    assert going(**rule) == goes


def test_each_run_that_stays_says_why() -> None:
    rule = Retention(older_than=20 * DAY, keep_last=2, keep_tags=frozenset({"prod"}), keep_statuses=frozenset({"FAIL"}))
    reasons = {run_id: judged.reason for run_id, judged in judge(RUNS, rule, NOW).items() if not judged.goes}
    assert reasons == {
        "new": "it is one of the last 2",
        "week": "its tag is 'prod'",
        "month": "its status is FAIL",
        "running": "it has not ended: PROCESSING",
        "year": "its tag is 'prod'",
        "ahead": "it is one of the last 2",
    }


@pytest.mark.parametrize(
    ("rule", "says"),
    [
        ({}, "does not say which runs go; give"),
        ({"keep_tags": ["prod"]}, "does not say which runs go; give"),
        ({"older_than": -DAY}, "older_than must be more than nothing"),
        ({"older_than": 0 * DAY}, "older_than must be more than nothing"),
        ({"abandoned_after": -DAY}, "abandoned_after must be more than nothing"),
        ({"keep_last": 0}, "keep_last must be 1 or more"),
        ({"keep_last": 5, "keep_statuses": ["fial"]}, "did you mean 'FAIL'"),
        ({"keep_last": 5, "keep_statuses": ["zzz"]}, "there are CREATED"),
        ({"keep_last": 5, "keep_tags": "prod"}, "several texts, not one"),
        ({"keep_last": 5, "keep_tags": [""]}, "an empty text"),
    ],
)
def test_a_rule_that_cannot_be_meant_is_refused_with_the_next_step(rule: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        Retention(**rule)


def test_the_settings_name_a_rule_that_is_never_applied_by_itself() -> None:
    assert Retention.of_settings(ChunkedRunLogStore(memory()).settings) == Retention(older_than=90 * DAY)


def filled(store: ChunkedRunLogStore, *run_ids: str, status: str = "SUCCESS") -> ChunkedRunLogStore:
    for run_id in run_ids:
        store.create_run_log(run_id, tag="t")
        store.set_parameters(run_id, {"p": 1})
        store.add_step_log(StepLog(name="s", internal_name="s"), run_id)
        store.update_run_log_status(run_id, status)
    return store


def later(days: float) -> datetime:
    return datetime.now(UTC) + days * DAY


ALL = Retention(older_than=DAY)


class TestPlan:
    def test_an_empty_store_has_nothing_to_go(self) -> None:
        store = ChunkedRunLogStore(memory())
        plan = maintenance.plan_gc(store, ALL, later(2))
        assert (plan.runs, plan.kept, plan.bytes) == ((), (), 0)
        assert maintenance.remove_planned(store, plan) == maintenance.Removed((), 0, (), ())
        assert (maintenance.list_trash(store), maintenance.empty_trash(store).runs) == ([], ())

    def test_it_tells_sizes_and_tags_that_no_run_has(self) -> None:
        store = filled(ChunkedRunLogStore(memory()), "a", "b")
        plan = maintenance.plan_gc(store, Retention(older_than=DAY, keep_tags=frozenset({"prdo"})), later(2))
        assert {one.run_id for one in plan.runs} == {"a", "b"}
        assert plan.bytes == sum(entry.size for run_id in "ab" for entry in store.backend.list(f"{run_id}/"))
        assert {one.objects for one in plan.runs} == {3}
        assert plan.unknown_tags == ("prdo",)

    def test_what_it_costs(self) -> None:
        store = filled(ChunkedRunLogStore(CountingBackend(memory())), *"abcde")
        store.reindex()
        assert isinstance(store.backend, CountingBackend)
        store.backend.reset()
        fresh = again(store)
        plan = maintenance.plan_gc(fresh, ALL, later(2))
        # All runs: folders, index listing, manifest, one segment; the ids; and one listing for each run that goes.
        assert store.backend.by_verb == {"folders": 2, "list": 1 + 5, "get": 1, "get_many": 1}
        store.backend.reset()
        assert len(maintenance.remove_planned(fresh, plan).runs) == 5
        # For each of three objects: two listings; three gets; copy, doubt, mark, note; three deletes.
        assert store.backend.by_verb == {"list": 10, "get_many": 15, "put": 20, "delete": 15}

    def test_changing_nothing_it_leaves_every_object_as_it_is(self) -> None:
        store = filled(ChunkedRunLogStore(memory()), "a")
        before = {entry for folder in ("a/", ".index/", ".trash/") for entry in store.backend.list(folder)}
        maintenance.plan_gc(store, ALL, later(2))
        assert {entry for folder in ("a/", ".index/", ".trash/") for entry in store.backend.list(folder)} == before

    def test_a_run_that_has_not_ended_goes_only_when_it_is_abandoned(self) -> None:
        store = filled(ChunkedRunLogStore(memory()), "r", status="PROCESSING")
        rule = Retention(older_than=DAY, abandoned_after=5 * DAY)
        assert maintenance.plan_gc(store, ALL, later(100)).runs == ()
        assert maintenance.plan_gc(store, rule, later(4)).runs == ()
        plan = maintenance.plan_gc(store, rule, later(6))
        assert [one.reason for one in plan.runs] == ["it has not ended, and nothing was added to it for 5 days"]
        assert maintenance.remove_planned(store, plan).runs == ("r",)

    @pytest.mark.parametrize(("end_time", "goes"), [("+00:00", True), ("", False)])
    def test_an_attempt_in_an_old_run_shows_that_it_lives(self, end_time: str, goes: bool) -> None:
        """A time without a zone counts as the latest that it may be."""
        store = filled(ChunkedRunLogStore(memory()), "r", status="PROCESSING")
        step = store.get_step_log("s", "r")
        attempt = store.create_attempt_log()
        attempt.end_time = f"{later(10).replace(tzinfo=None).isoformat()}{end_time}"
        step.attempts.append(attempt)
        store.add_step_log(step, "r")
        rule = Retention(abandoned_after=5 * DAY)
        assert maintenance.plan_gc(store, rule, later(14.9)).runs == ()
        assert bool(maintenance.plan_gc(store, rule, later(15.2)).runs) == goes

    def test_a_run_that_was_taken_up_again_since_the_plan_is_left_alone(self) -> None:
        store = filled(ChunkedRunLogStore(memory()), *"abcd")
        plan = maintenance.plan_gc(store, ALL, later(2))
        other = again(store)
        other.update_run_log_status("a", "PROCESSING")
        other.set_parameters("b", {"p": 2})
        other.add_step_log(StepLog(name="new", internal_name="new"), "c")
        removed = maintenance.remove_planned(store, plan)
        assert removed.runs == ("d",)
        assert {one.run_id for one in removed.kept} == {"a", "b", "c"}
        assert all("changed since it was looked at, and is left alone" in one.reason for one in removed.kept)
        assert [entry.run_id for entry in maintenance.list_trash(store)] == ["d"]
        assert again(store).get_parameters("b") == {"p": 2}

    @pytest.mark.parametrize("trash", [True, False], ids=["into the trash", "for good"])
    def test_a_run_that_went_and_came_again_under_its_id_is_left_alone(self, trash: bool) -> None:
        store = filled(ChunkedRunLogStore(memory()), "a")
        plan = maintenance.plan_gc(store, ALL, later(2))
        again(store).delete_run_log("a")
        filled(again(store), "a")
        assert maintenance.remove_planned(store, plan, trash=trash).runs == ()
        assert again(store).get_run_log_by_id("a").steps


class TestDamage:
    def test_a_run_with_a_damaged_chunk_stays_and_is_named(self) -> None:
        store = filled(ChunkedRunLogStore(memory()), "a", "b")
        _damage(store, "a/step.s.json")
        removed = maintenance.remove_planned(store, maintenance.plan_gc(store, ALL, later(2)))
        assert removed.runs == ("b",)
        assert [(one.run_id, one.damaged) for one in removed.kept] == [("a", True)]
        assert "a/step.s.json is damaged" in removed.kept[0].reason

    def test_by_name_it_goes_to_the_trash_as_it_is_and_comes_back_as_it_was(self) -> None:
        store = filled(ChunkedRunLogStore(memory()), "a")
        _damage(store, "a/step.s.json")
        bytes_before = store.backend.get("a/step.s.json").data
        assert maintenance.remove_runs(store, ["a"]).runs == ("a",)
        maintenance.restore_run(store, "a")
        assert store.backend.get("a/step.s.json").data == bytes_before
        assert [finding.sort for finding in again(store).read_run_log("a").findings] == ["damaged"]

    def test_one_whose_header_is_damaged_goes_only_for_good(self) -> None:
        store = filled(ChunkedRunLogStore(memory()), "a")
        _damage(store, "a/run.json")
        plan = maintenance.plan_gc(again(store), ALL, later(2))
        assert (plan.runs, [(one.run_id, one.damaged) for one in plan.kept]) == ((), [("a", True)])
        removed = maintenance.remove_runs(again(store), ["a"])
        assert (removed.runs, [one.damaged for one in removed.kept]) == ((), [True])
        assert len(list(store.backend.list("a/"))) == 3
        assert maintenance.remove_runs(again(store), ["a"], trash=False).runs == ("a",)
        assert list(store.backend.list("a/")) == []


def _damage(store: ChunkedRunLogStore, key: str) -> None:
    data = bytearray(store.backend.get(key).data)
    data[-5] ^= 1
    store.backend.put(key, bytes(data), ANY)


class TestByName:
    def test_one_that_is_being_written_is_refused(self) -> None:
        store = filled(ChunkedRunLogStore(memory()), "a", status="TRIGGERED")
        with pytest.raises(ConflictError, match=r"'a' .* is TRIGGERED and may be being written"):
            maintenance.remove_runs(store, ["a"])
        with pytest.raises(RunLogNotFoundError, match="'b' is not in"):
            maintenance.remove_runs(store, ["b"])

    def test_none_is_removed_where_one_of_them_is_refused(self) -> None:
        store = filled(ChunkedRunLogStore(memory()), "a")
        with pytest.raises(RunLogNotFoundError):
            maintenance.remove_runs(store, ["a", "b"])
        assert store.list_run_ids() == ["a"]

    def test_the_trash_is_seen_by_nobody_else(self, tmp_path: Path) -> None:
        store = filled(ChunkedRunLogStore(LocalBackend(tmp_path / "runs")), "a", "b")
        store.reindex()
        assert maintenance.remove_runs(store, ["a"]).runs == ("a",)
        fresh = again(store)
        assert (fresh.list_run_ids(), [one.run_id for one in fresh.find_runs().runs]) == (["b"], ["b"])
        assert fresh.reindex(full=True).runs == 1
        assert [entry.run_id for entry in maintenance.list_trash(store)] == ["a"]
        maintenance.restore_run(store, "a")
        assert [one.run_id for one in again(store).find_runs(status="success").runs] == ["b", "a"]
        assert fresh.reindex().runs == 2

    def test_restoring_is_refused_where_a_run_of_that_id_is_there(self) -> None:
        store = filled(ChunkedRunLogStore(memory()), "a")
        maintenance.remove_runs(store, ["a"])
        filled(store, "a")
        with pytest.raises(RunLogExistsError, match="remove that one first"):
            maintenance.restore_run(store, "a")
        maintenance.remove_runs(store, ["a"])
        with pytest.raises(InvalidInputError, match="in the trash 2 times; name one of them"):
            maintenance.restore_run(store, "a")
        first = maintenance.list_trash(store)[0]
        assert maintenance.restore_run(store, first.name).run_id == "a"
        assert len(maintenance.list_trash(store)) == 1

    def test_a_start_of_the_id_is_enough_where_no_other_has_it(self) -> None:
        store = filled(ChunkedRunLogStore(memory()), "nightly-1", "nightly-2", "other")
        maintenance.remove_runs(store, ["nightly-1", "nightly-2", "other"])
        assert maintenance.restore_run(store, "o").run_id == "other"
        with pytest.raises(InvalidInputError, match="2 times"):
            maintenance.restore_run(store, "night")
        with pytest.raises(RunLogNotFoundError, match="not in the trash"):
            maintenance.restore_run(store, "")

    @pytest.mark.parametrize("run_id", ["a b", "moved.x", "ü🎉", ".hidden", "x" * 200, "[red]", "%2e"])
    def test_odd_ids_come_back(self, run_id: str, tmp_path: Path) -> None:
        store = filled(ChunkedRunLogStore(LocalBackend(tmp_path / "runs", durability="process")), run_id)
        before = again(store).get_run_log_by_id(run_id)
        maintenance.remove_runs(store, [run_id])
        assert [(entry.run_id, entry.complete) for entry in maintenance.list_trash(store)] == [(run_id, True)]
        maintenance.restore_run(store, run_id)
        assert again(store).get_run_log_by_id(run_id) == before

    def test_what_came_into_the_trash_lately_stays(self) -> None:
        store = filled(ChunkedRunLogStore(memory()), "a")
        maintenance.remove_runs(store, ["a"])
        assert maintenance.empty_trash(store, now=later(6)).runs == ()
        assert [one.run_id for one in maintenance.empty_trash(store, now=later(8), dry_run=True).runs] == ["a"]
        assert [one.run_id for one in maintenance.empty_trash(store, now=later(8)).runs] == ["a"]
        with pytest.raises(InvalidInputError, match="must not be negative"):
            maintenance.empty_trash(store, -DAY)

    def test_a_run_that_is_too_large_for_the_trash_stays_and_says_so(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("chunkstore.packs.MAX_PLAIN_BYTES", 100)
        store = filled(ChunkedRunLogStore(memory()), "a")
        removed = maintenance.remove_runs(store, ["a"])
        assert "too large for the trash" in removed.kept[0].reason
        assert maintenance.remove_runs(store, ["a"], trash=False).runs == ("a",)

    def test_what_is_not_ours_stays_in_the_folder(self, tmp_path: Path) -> None:
        store = filled(ChunkedRunLogStore(LocalBackend(tmp_path / "runs")), "a")
        (tmp_path / "runs" / "a" / "notes.txt").write_text("mine")
        maintenance.remove_runs(store, ["a"])
        assert [path.name for path in (tmp_path / "runs" / "a").iterdir()] == ["notes.txt"]
        maintenance.restore_run(store, "a")
        assert len(list((tmp_path / "runs" / "a").iterdir())) == 4

    def test_a_packed_run_comes_back_packed(self) -> None:
        for store in (ChunkedRunLogStore(memory()), ChunkedRunLogStore(EtagMemory(deletes=False))):
            filled(store, "a").compact("a")
            before = again(store).get_run_log_by_id("a")
            maintenance.remove_runs(store, ["a"])
            maintenance.restore_run(store, "a")
            assert again(store).get_run_log_by_id("a") == before
            assert sorted(entry.key for entry in store.backend.list("a/")) == [
                "a/parameter.p.json",
                "a/run.json",
                "a/whole.pack",
            ]


def test_progress_is_told_and_what_it_raises_ends_the_work_there() -> None:
    store = filled(ChunkedRunLogStore(memory()), *"abc")
    told: list[tuple[int, int | None]] = []
    plan = maintenance.plan_gc(store, ALL, later(2), progress=lambda one: told.append((one.done, one.total)))
    assert told == [(0, 3)]

    def stop(progress: maintenance.Progress) -> None:
        told.append((progress.done, progress.total))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        maintenance.remove_planned(store, plan, progress=stop)
    assert told[1:] == [(1, 3)]
    assert len(store.list_run_ids()) == 2
