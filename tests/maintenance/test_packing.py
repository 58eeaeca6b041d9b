"""Packing many runs."""

from __future__ import annotations

import pytest

from chunkstore import ChunkedRunLogStore, InvalidInputError, RunLogNotFoundError
from chunkstore.demonstration import write_demo
from chunkstore.maintenance import Progress, compact_runs, ended_runs, measure_runs
from places import again, memory


@pytest.fixture
def store() -> ChunkedRunLogStore:
    made = ChunkedRunLogStore(memory())
    write_demo(made)
    return made


def test_runs_that_have_ended_are_packed_one_after_the_other_and_read_the_same(store: ChunkedRunLogStore) -> None:
    before = [store.get_run_log_by_id(run_id) for run_id in ended_runs(store)]
    told: list[Progress] = []
    done = list(compact_runs(store, ended_runs(store), progress=told.append))
    assert [each.run_id for each in done] == ["nightly-1", "nightly-2"]
    assert [each.removed for each in done] == [14, 13]
    assert told == [Progress(0, 2, "nightly-1"), Progress(1, 2, "nightly-2"), Progress(2, 2)]
    assert [again(store).get_run_log_by_id(run_id) for run_id in ended_runs(store)] == before


def test_what_would_be_packed_is_measured_without_a_change(store: ChunkedRunLogStore) -> None:
    before = {entry.key: entry.version for entry in store.backend.list("nightly-1/")}
    (found,) = measure_runs(store, ["nightly-1"])
    assert (found.run_id, found.loose, found.packed) == ("nightly-1", 14, False)
    assert found.size == sum(entry.size for entry in store.backend.list("nightly-1/"))
    assert {entry.key: entry.version for entry in store.backend.list("nightly-1/")} == before
    store.compact("nightly-1")
    (found,) = measure_runs(store, ["nightly-1", "gone"])
    assert (found.loose, found.packed) == (0, True)


def test_a_run_that_is_deleted_meanwhile_is_left_out_and_one_that_is_asked_for_alone_is_an_error(
    store: ChunkedRunLogStore,
) -> None:
    run_ids = ended_runs(store)
    store.delete_run_log("nightly-1")
    assert [each.run_id for each in compact_runs(store, run_ids)] == ["nightly-2"]
    with pytest.raises(RunLogNotFoundError):
        list(compact_runs(store, ["nightly-1"]))


def test_a_run_that_has_not_ended_is_refused(store: ChunkedRunLogStore) -> None:
    with pytest.raises(InvalidInputError, match="has not ended"):
        list(compact_runs(store, ["nightly-3"]))
