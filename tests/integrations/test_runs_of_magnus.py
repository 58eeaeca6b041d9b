"""A run that magnus wrote with the plug-in is read elsewhere: by the library, and by runnable, which shares no environment with magnus."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from pipeline_runs import outline, plain

import chunkstore
from chunkstore import ChunkedRunLogStore

RUN = Path(__file__).parents[1] / "data" / "by-magnus" / "nightly"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[ChunkedRunLogStore]:
    shutil.copytree(RUN, tmp_path / "runs" / "nightly")
    with closing(chunkstore.open(tmp_path / "runs")) as store:
        yield store


@pytest.fixture
def runnable(own: ChunkedRunLogStore, tmp_path: Path) -> Iterator[Any]:
    """The store of runnable on the same folder."""
    pytest.importorskip("runnable")
    from chunkstore.integrations.runnable import ChunkStoreRunLogStore

    plugin = ChunkStoreRunLogStore(url=str(tmp_path / "runs"))
    with closing(plugin.store):
        yield plugin


def test_the_library_reads_it_whole(own: ChunkedRunLogStore) -> None:
    reading = own.read_run_log("nightly")
    assert reading.findings == ()
    assert (reading.run_log.status, reading.run_log.tag) == ("SUCCESS", "nightly")
    assert reading.run_log.parameters["big"] == 2**70
    assert reading.run_log.steps["may fail"].attempts[0].message == "this step fails: [red]no[/red] <b>"
    assert len(outline(reading.run_log.steps).splitlines()) == 38


def test_runnable_reads_it_whole(own: ChunkedRunLogStore, runnable: Any) -> None:
    theirs = runnable.get_run_log_by_id("nightly", full=True)
    assert outline(theirs.steps) == outline(own.get_run_log_by_id("nightly").steps)
    parameters = plain(theirs.parameters)
    assert {kind for kind, _ in parameters.values()} == {"json"}
    assert parameters["nested"][1] == {"kind": "json", "value": [1, None, "ü 😀"]}


def test_what_only_magnus_knows_survives_what_runnable_writes(own: ChunkedRunLogStore, runnable: Any) -> None:
    before = own.get_step_log("measure", "nightly")
    step = runnable.get_step_log("measure", "nightly")
    step.message = "seen by runnable"
    runnable.add_step_log(step, "nightly")
    after = own.get_step_log("measure", "nightly")
    assert after.message == "seen by runnable"
    assert repr(after.user_defined_metrics) == repr(before.user_defined_metrics)
    assert [attempt.duration for attempt in after.attempts] == [attempt.duration for attempt in before.attempts]
