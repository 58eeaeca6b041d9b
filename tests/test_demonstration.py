"""The demo's runs."""

from __future__ import annotations

import pytest

from chunkstore import ChunkedRunLogStore, RunLogExistsError
from chunkstore.demonstration import write_demo
from chunkstore.outcomes import branches_of, failures_of, metrics_of
from places import memory


def test_one_run_succeeded_one_failed_and_one_is_going_on() -> None:
    store = ChunkedRunLogStore(memory())
    assert write_demo(store, "night") == ("night-1", "night-2", "night-3")
    done, failed, running = (store.get_run_log_by_id(f"night-{number}") for number in (1, 2, 3))
    assert [run.status for run in (done, failed, running)] == ["SUCCESS", "FAIL", "PROCESSING"]
    assert [branch.internal_name for branch in branches_of(done)] == [
        "check.columns",
        "check.rows",
        "train.eu",
        "train.us",
        "train.asia.south",
    ]
    assert [failure.name for failure in failures_of(failed)] == ["train.us.fit"]
    assert failures_of(failed)[0].attempts == 2
    assert len(metrics_of(done)) == 7
    assert [run.run_id for run in store.get_run_logs(tag="night")] == ["night-3", "night-2", "night-1"]


def test_it_overwrites_nothing() -> None:
    store = ChunkedRunLogStore(memory())
    store.create_run_log("nightly-1", tag="mine")
    with pytest.raises(RunLogExistsError):
        write_demo(store)
    assert [(run.run_id, run.tag) for run in store.get_run_logs()] == [("nightly-1", "mine")]
