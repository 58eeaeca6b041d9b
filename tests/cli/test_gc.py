"""gc, rm, trash and restore as a person calls them: nothing goes unasked, and what went comes back."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

from chunkstore import ChunkedRunLogStore, maintenance
from commands import Result, damage, run
from etags import Between
from places import again


def at(store: ChunkedRunLogStore, *arguments: str, answer: str = "", terminal: bool = False) -> Result:
    return run(*arguments, "-s", store.backend.place, answer=answer, terminal=terminal, width=120)


def ids(store: ChunkedRunLogStore) -> list[str]:
    return again(store).list_run_ids()


def interrupt() -> None:
    raise KeyboardInterrupt


ALL = ["nightly-1", "nightly-2", "nightly-3"]


class TestGc:
    def test_a_dry_run_shows_what_would_go_and_why_and_changes_nothing(self, nightly: ChunkedRunLogStore) -> None:
        found = at(nightly, "gc", "--keep-last", "1", "--dry-run")
        assert (found.code, ids(nightly)) == (0, ALL)
        assert [line.split()[0] for line in found.lines] == ["run", "nightly-2", "nightly-1"]
        assert "it is not one of the last 1" in found.lines[1]
        assert f"in {nightly.backend.place}" in found.err
        assert "2 runs" in found.err
        assert "nothing was changed" in found.err

    def test_without_a_terminal_it_wants_yes(self, nightly: ChunkedRunLogStore) -> None:
        found = at(nightly, "gc", "--keep-last", "1")
        assert (found.code, ids(nightly)) == (2, ALL)
        assert "--yes" in found.err

    def test_at_a_terminal_it_asks(self, nightly: ChunkedRunLogStore) -> None:
        assert at(nightly, "gc", "--keep-last", "1", answer="n\n", terminal=True).code == 0
        assert ids(nightly) == ALL
        assert at(nightly, "gc", "--keep-last", "1", answer="y\n", terminal=True).code == 0
        assert ids(nightly) == ["nightly-3"]

    def test_it_never_moves_a_run_that_has_not_ended(self, nightly: ChunkedRunLogStore) -> None:
        nightly.create_run_log("newest", status="SUCCESS")
        found = at(nightly, "gc", "--keep-last", "1", "--yes", "--json")
        assert found.code == 0
        assert {one["run_id"] for one in found.document["removed"]} == {"nightly-1", "nightly-2"}
        assert {one["run_id"]: one["reason"] for one in found.document["kept"]} == {
            "newest": "it is one of the last 1",
            "nightly-3": "it has not ended: PROCESSING",
        }
        assert ids(nightly) == ["newest", "nightly-3"]

    def test_tags_and_statuses_stay(self, nightly: ChunkedRunLogStore) -> None:
        kept = at(nightly, "gc", "--keep-last", "1", "--keep-status", "fail", "-y", "--json").document
        assert [one["run_id"] for one in kept["removed"]] == ["nightly-1"]
        found = at(nightly, "gc", "--keep-last", "1", "--keep-tag", "nightly", "--keep-tag", "prdo", "-y")
        assert "no run has the tag 'prdo'" in found.err
        assert ids(nightly) == ["nightly-2", "nightly-3"]

    @pytest.mark.parametrize(
        ("arguments", "says"),
        [
            ((), "does not say which runs go"),
            (("--older-than", "-1d"), "is no span of time"),
            (("--older-than", "soon"), "is no span of time"),
            (("--older-than", "3M"), "months or minutes"),
            (("--keep-last", "0"), "must be 1 or more"),
            (("--keep-last", "1", "--keep-status", "fial"), "did you mean 'FAIL'"),
            (("--older-than", "1d", "--by-settings"), "give one of them"),
        ],
    )
    def test_a_bad_rule_is_refused(self, nightly: ChunkedRunLogStore, arguments: tuple[str, ...], says: str) -> None:
        found = at(nightly, "gc", *arguments, "--yes")
        assert (found.code, ids(nightly)) == (2, ALL)
        assert says in found.err

    def test_an_empty_store_has_nothing_to_go(self, empty: ChunkedRunLogStore) -> None:
        assert at(empty, "gc", "--by-settings").code == 0
        assert at(empty, "trash").code == 0
        assert at(empty, "trash", "empty").code == 0
        assert at(empty, "restore", "r").code == 3
        assert at(empty, "rm", "r", "-y").code == 3

    def test_a_damaged_run_stays_is_named_and_makes_the_exit_code_1(self, nightly: ChunkedRunLogStore) -> None:
        step = next(entry.key for entry in nightly.backend.list("nightly-1/") if "/step." in entry.key)
        damage(nightly, step)
        damage(nightly, "nightly-2/run.json")
        found = at(nightly, "gc", "--keep-last", "1", "--yes")
        assert (found.code, ids(nightly)) == (1, ALL)
        assert "run 'nightly-1' stays" in found.err
        assert "run 'nightly-2' stays" in found.err

    def test_it_finishes_what_was_cut_short_and_asks_nothing_more(self, nightly: ChunkedRunLogStore) -> None:
        with pytest.raises(KeyboardInterrupt):
            maintenance.remove_runs(ChunkedRunLogStore(Between(nightly.backend, 40, interrupt)), ["nightly-1"])
        assert "nightly-1" not in [one.run_id for one in again(nightly).find_runs().runs]
        found = at(nightly, "gc", "--keep-last", "5", "--json")
        assert (found.code, found.document["finished"], ids(nightly)) == (0, ["nightly-1"], ["nightly-2", "nightly-3"])
        assert [one["complete"] for one in at(nightly, "trash", "--json").document["runs"]] == [True]


class TestRm:
    def test_it_moves_to_the_trash_and_restore_brings_back(self, nightly: ChunkedRunLogStore) -> None:
        before = again(nightly).get_run_log_by_id("nightly-2")
        found = at(nightly, "rm", "last:failed", "--yes", "--json")
        assert (found.document["removed"], ids(nightly)) == (["nightly-2"], ["nightly-1", "nightly-3"])
        listed = at(nightly, "trash", "--json").document["runs"]
        assert [(one["run_id"], one["complete"]) for one in listed] == [("nightly-2", True)]
        assert at(nightly, "restore", "nightly-2", "--dry-run").code == 0
        assert ids(nightly) == ["nightly-1", "nightly-3"]
        assert at(nightly, "restore", "nightly-2").code == 0
        assert again(nightly).get_run_log_by_id("nightly-2") == before
        assert at(nightly, "trash", "--json").document["runs"] == []

    def test_restoring_over_a_run_is_a_conflict(self, nightly: ChunkedRunLogStore) -> None:
        at(nightly, "rm", "nightly-1", "--yes")
        nightly.create_run_log("nightly-1")
        found = at(nightly, "restore", "nightly-1")
        assert found.code == 4
        assert "remove that one first" in found.err

    def test_one_that_is_being_written_is_refused_and_so_are_all_named_with_it(
        self, nightly: ChunkedRunLogStore
    ) -> None:
        found = at(nightly, "rm", "nightly-1", "nightly-3", "--yes")
        assert (found.code, ids(nightly)) == (4, ALL)
        assert "may be being written" in found.err

    def test_for_good_is_for_good(self, nightly: ChunkedRunLogStore) -> None:
        found = at(nightly, "rm", "nightly-1", "nightly-2", "--no-trash", "--yes")
        assert (found.code, ids(nightly)) == (0, ["nightly-3"])
        assert "delete for good: 2 runs" in found.err
        assert at(nightly, "trash", "--json").document["runs"] == []

    def test_names_are_shown_as_they_are(self, empty: ChunkedRunLogStore) -> None:
        empty.create_run_log("[red]x\u202e🎉", status="SUCCESS")
        found = at(empty, "rm", "[red]", "--dry-run")
        assert "[red]x\\u202e🎉" in found.err
        at(empty, "rm", "[red]", "--yes")
        assert at(empty, "trash").lines[1].startswith("[red]x\\u202e🎉 ")


class TestTrash:
    def test_what_is_young_stays_and_all_goes_where_that_is_asked_for(self, nightly: ChunkedRunLogStore) -> None:
        at(nightly, "rm", "nightly-1", "nightly-2", "--yes")
        assert "nothing to delete" in at(nightly, "trash", "empty").err
        assert len(at(nightly, "trash", "empty", "--older-than", "0d", "-n", "--json").document["emptied"]) == 2
        assert at(nightly, "trash", "empty", "--older-than", "0d").code == 2
        assert len(at(nightly, "trash", "--json").document["runs"]) == 2
        assert at(nightly, "trash", "empty", "--older-than", "0d", "--yes").code == 0
        assert at(nightly, "trash", "--json").document["runs"] == []
        assert at(nightly, "restore", "nightly-1").code == 3

    def test_it_tells_when_each_came(self, nightly: ChunkedRunLogStore) -> None:
        at(nightly, "rm", "nightly-1", "--yes")
        moved = datetime.fromisoformat(at(nightly, "trash", "--json").document["runs"][0]["moved_at"])
        assert abs(datetime.now(UTC) - moved) < timedelta(minutes=10)
