"""kill -9 of an import before and after each of its writes: no run that is not whole, and the next import finishes."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import shutil
import signal
from pathlib import Path
from typing import Any, Final

import pytest
from typing_extensions import override

from chunkstore import ChunkedRunLogStore, RunLogExistsError, RunLogNotFoundError
from chunkstore.backends import ANY, Condition
from chunkstore.backends.local import LocalBackend
from chunkstore.maintenance import import_runs
from places import between, memory
from rigs import Tally

pytestmark = pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="there is no SIGKILL on this system")

FORK: Final = multiprocessing.get_context("fork")
MAGNUS: Final = Path(__file__).parent.parent / "data" / "magnus-0.5.1"
RUNS: Final = ("fails", "mended")


class Dying(LocalBackend):
    """A disk beside which its process is killed: at the write of this number, before it (even) or right after it (odd)."""

    moment = -1

    def _at(self) -> None:
        if self.moment == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.moment -= 1

    @override
    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        self._at()
        version = super().put(key, data, condition, barrier=barrier)
        self._at()
        return version

    @override
    def delete(self, key: str, condition: Condition = ANY) -> None:
        self._at()
        super().delete(key, condition)
        self._at()


@pytest.fixture
def source(tmp_path: Path) -> Path:
    shutil.copytree(MAGNUS / "chunked-fs", tmp_path / "source")
    shutil.rmtree(tmp_path / "source" / "nightly 1")
    return tmp_path / "source"


def killed_at(source: Path, folder: Path, moment: int, **options: Any) -> int:
    backend = Dying(folder)
    backend.moment = moment
    process = FORK.Process(target=import_runs, args=(ChunkedRunLogStore(backend), source), kwargs=options)
    process.start()
    process.join()
    return process.exitcode or 0


def moments(source: Path, folder: Path) -> int:
    """How many there are in an import that nobody disturbs."""
    backend = Dying(folder)
    import_runs(ChunkedRunLogStore(backend), source)
    return -1 - backend.moment


def described(store: ChunkedRunLogStore, run_id: str) -> str:
    return repr(store.get_run_log_by_id(run_id).model_dump())


def test_a_kill_at_any_write_leaves_no_half_run_and_the_next_import_finishes(
    tmp_path: Path, source: Path, tally: Tally
) -> None:
    whole = ChunkedRunLogStore(memory())
    import_runs(whole, source)
    count = moments(source, tmp_path / "undisturbed")
    assert count > 4 * len(RUNS)
    chosen = sorted({0, count - 1, *random.Random("import").sample(range(count), between(14, count))})
    for moment in chosen:
        folder = tmp_path / f"killed at {moment}"
        assert killed_at(source, folder, moment) == -signal.SIGKILL
        store = ChunkedRunLogStore(LocalBackend(folder))
        found = {run.run_id for run in store.find_runs().runs}
        for run_id in RUNS:
            if run_id in found:
                assert described(store, run_id) == described(whole, run_id)
            else:
                with pytest.raises(RunLogNotFoundError):
                    store.get_run_log_by_id(run_id)
        report = import_runs(ChunkedRunLogStore(LocalBackend(folder)), source)
        assert (set(report.skipped), {*report.skipped, *report.imported}, report.refused) == (found, set(RUNS), ())
        finished = ChunkedRunLogStore(LocalBackend(folder))
        assert [described(finished, run_id) for run_id in RUNS] == [described(whole, run_id) for run_id in RUNS]
        assert all(finished.read_run_log(run_id).findings == () for run_id in RUNS)
        shutil.rmtree(folder)
    tally("kills of an import, local disk", len(chosen))


def test_a_source_that_changed_after_the_kill_is_a_conflict_until_it_is_begun_anew(
    tmp_path: Path, source: Path, tally: Tally
) -> None:
    folder = tmp_path / "target"
    assert killed_at(source, folder, 5) == -signal.SIGKILL
    run_log = source / "fails" / "RunLog.json"
    run_log.write_text(json.dumps({**json.loads(run_log.read_text()), "tag": "changed"}))
    store = ChunkedRunLogStore(LocalBackend(folder))
    report = import_runs(store, source)
    assert (report.imported, [refusal.run_id for refusal in report.conflicts]) == (("mended",), ["fails"])
    with pytest.raises(RunLogNotFoundError):
        store.get_run_log_by_id("fails")
    with pytest.raises(RunLogExistsError):  # nobody else can take the id meanwhile
        store.create_run_log("fails")
    assert import_runs(store, source, restart=True).imported == ("fails",)
    assert store.get_run_log_by_id("fails").tag == "changed"
    tally("kills of an import, local disk", 1)
