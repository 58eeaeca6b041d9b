"""What a follower's changes add up to is what a full read gives, at each moment."""

from __future__ import annotations

import math

from chunkstore import ChunkedRunLogStore, RunChange
from chunkstore.backends import ANY
from chunkstore.chunks import Timing
from chunkstore.live import LiveRun
from places import again, memory


def add(store: ChunkedRunLogStore, name: str, internal_name: str, status: str = "PROCESSING") -> None:
    step = store.create_step_log(name, internal_name)
    step.status = status
    store.add_step_log(step, "r")


def write(store: ChunkedRunLogStore) -> None:
    """A run with a map whose branches have dots and slashes in their names."""
    store.create_run_log("r", tag="nightly", status="PROCESSING")
    store.set_parameters("r", {"p": math.nan})
    add(store, "map", "map")
    for value in ("1.5", "a.b/c"):
        store.add_branch_log(store.create_branch_log(f"map.{value}", {"value": value}), "r")
        add(store, "fit", f"map.{value}.fit", "SUCCESS")


def test_changes_add_up_to_what_a_full_read_gives_also_when_some_come_late() -> None:
    store = ChunkedRunLogStore(memory())
    write(store)
    turns = iter(
        [
            lambda: add(store, "fit", "map.1.5.fit", "FAIL"),
            lambda: store.backend.delete("r/parameter.p.json"),
            lambda: store.add_job_log("r", store.create_job_log()),
            lambda: store.update_run_log_status("r", "FAIL"),
        ]
    )
    follower = ChunkedRunLogStore(store.backend, timing=Timing(sleep=lambda _: next(turns, lambda: None)()))
    live = LiveRun("r")
    moments = 0
    for change in follower.follow("r"):
        live.take(change)
        live.run_log()  # asked for at each moment, which must not disturb the next
        moments += 1
    assert moments == 14
    assert live.run_log().model_dump() == again(store).get_run_log_by_id("r").model_dump()


def test_what_is_damaged_stays_as_it_was_and_its_children_are_kept() -> None:
    store = ChunkedRunLogStore(memory())
    write(store)
    live = LiveRun("r")
    for change in store.iter_chunks("r"):
        live.take(change)
    before = live.run_log().model_dump()
    live.take(RunChange("damaged", "step", "map", message="no JSON"))
    assert live.run_log().model_dump() == before
    store.backend.put("r/step.map.json", b"{", ANY)
    anew = LiveRun("r")
    for change in again(store).iter_chunks("r"):
        anew.take(change)
    assert list(anew.run_log().steps["map"].branches) == ["map.1.5", "map.a.b/c"]


def test_what_was_taken_away_is_in_no_later_run_log_and_what_was_told_is_not_touched() -> None:
    store = ChunkedRunLogStore(memory())
    write(store)
    live = LiveRun("r")
    changes = list(store.iter_chunks("r"))
    for change in changes:
        live.take(change)
    assert list(live.run_log().steps["map"].branches) == ["map.1.5", "map.a.b/c"]
    assert all(
        not getattr(change.value, "branches", {}) and not getattr(change.value, "steps", {}) for change in changes
    )
    for kind, name in (("branch", "map.1.5"), ("step", "map.1.5.fit")):
        live.take(RunChange("removed", kind, name))
    live.take(RunChange("removed", "parameter", "value", "map.1.5"))
    assert list(live.run_log().steps["map"].branches) == ["map.a.b/c"]


def test_a_run_of_which_nothing_was_told_yet_has_its_id() -> None:
    assert LiveRun("r").run_log().run_id == "r"
