"""No operation outlives its deadline by more than a second, whatever the network does, and its error says what and where."""

from __future__ import annotations

import errno
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pytest

import chunkstore
from chunkstore import BackendUnavailableError, ChunkedRunLogStore, WriteStateUnknownError
from chunkstore.backends.probe import remember
from fault_server import FOREVER, FaultServer, Rule, fault_server
from places import between, engine
from rigs import Tally

pytest.importorskip("s3fs")

pytestmark = pytest.mark.usefixtures("engine")

DEADLINE: Final = 2.0
LATE: Final = DEADLINE + 1.0

Act = Callable[[ChunkedRunLogStore], Any]

READS: Final[dict[str, Act]] = {
    "get a step": lambda store: store.get_step_log("a", "r"),
    "read in full": lambda store: store.get_run_log_by_id("r"),
    "list the runs": lambda store: store.list_run_ids(),
}
WRITES: Final[dict[str, Act]] = {
    "create a run": lambda store: store.create_run_log("new"),
    "set parameters": lambda store: store.set_parameters("r", {f"p{number}": number for number in range(5)}),
    "update the status": lambda store: store.update_run_log_status("r", "SUCCESS"),
    "delete a run": lambda store: store.delete_run_log("r"),
}


@pytest.fixture(scope="module")
def faults() -> Iterator[FaultServer]:
    with fault_server() as server:
        yield server


def opened(url: str, bucket: str, *, probed: bool, folder: Path) -> ChunkedRunLogStore:
    """As users open it: the deadline is a setting."""
    store = chunkstore.open(
        f"s3://{bucket}/runs",
        endpoint_url=url,
        key="key",
        secret="secret",
        region="us-east-1",
        timeout_seconds=DEADLINE,
        lock_folder=str(folder),
        engine=engine(),
    )
    if probed:
        backend: Any = store.backend
        remember(backend.settings.root, "cas")
    return store


def warm(store: ChunkedRunLogStore) -> ChunkedRunLogStore:
    """With its client made, which takes time on a busy machine and none on the network."""
    server: Any = store.backend._server  # type: ignore[attr-defined]
    server._run(server.engine.opened())
    return store


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one operation ended, and when."""

    name: str
    place: str
    error: Exception | None
    seconds: float


def ended(store: ChunkedRunLogStore, name: str, act: Act) -> Outcome:
    began = time.monotonic()
    error: Exception | None = None
    try:
        act(store)
    except Exception as caught:  # noqa: BLE001 - it is judged
        error = caught
    return Outcome(name, store.backend.place, error, time.monotonic() - began)


def all_at_once(stores: Iterable[ChunkedRunLogStore], operations: Mapping[str, Act]) -> list[Outcome]:
    """The operations on each of the stores, side by side: what waits for a deadline waits together."""
    stores = list(stores)
    each = [(store, name, act) for store in stores for name, act in operations.items()]
    with ThreadPoolExecutor(len(each)) as pool:
        outcomes = list(pool.map(ended, *zip(*each, strict=True)))
    for store in stores:
        store.close()
    return outcomes


def judged(outcomes: list[Outcome], tally: Tally) -> None:
    """In time, of the right type, naming the thing and the place."""
    for outcome in outcomes:
        error = outcome.error
        assert isinstance(error, BackendUnavailableError), outcome
        assert error.transient, outcome
        assert outcome.place in str(error), outcome
        assert outcome.name == "list the runs" or error.key, outcome
        assert error.key in str(error), outcome
        assert outcome.name in WRITES or not isinstance(error, WriteStateUnknownError), outcome
        assert outcome.seconds <= LATE, outcome
    tally("operations that a deadline ended", len(outcomes))


@contextmanager
def refused() -> Iterator[str]:
    """A port that nobody listens on, and nobody else can take."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@contextmanager
def silent() -> Iterator[str]:
    """Every connection is accepted, and nothing is ever answered."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(1024)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@contextmanager
def unaccepting() -> Iterator[str]:
    """Connections are not even accepted: the queue of those that wait is full."""
    with socket.socket() as listening, ExitStack() as queue:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for _ in range(4):
            waiting = queue.enter_context(socket.socket())
            waiting.setblocking(False)
            assert waiting.connect_ex(listening.getsockname()) in {0, errno.EINPROGRESS}
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


def test_a_server_that_cannot_be_reached_or_never_answers_is_given_up_in_time(tmp_path: Path, tally: Tally) -> None:
    with refused() as one, silent() as two, unaccepting() as three, ThreadPoolExecutor(1) as beside:
        probed, not_probed = (
            [warm(opened(url, f"bucket-{probed}", probed=probed, folder=tmp_path)) for url in (one, two, three)]
            for probed in (True, False)
        )
        first = beside.submit(all_at_once, not_probed, {"create a run": WRITES["create a run"]})
        outcomes = all_at_once(probed, READS | WRITES)
        judged([*outcomes, *first.result()], tally)


STORMS: Final = ["503", "500", "hang", "lost_reply", "429", "504", "dropped", "reset"]


def test_a_storm_that_does_not_end_is_given_up_in_time(faults: FaultServer, tmp_path: Path, tally: Tally) -> None:
    storms = STORMS[: between(4, 8)]
    stores = [stormy(faults, tmp_path, [Rule(fault, times=FOREVER)]) for fault in storms]
    # One storm after the other: on a busy machine, many threads that wait for a processor would look late.
    chosen = dict([*READS.items(), *WRITES.items()][: between(4, 7)])
    for store in stores:
        judged(all_at_once([store], chosen), tally)


def stormy(faults: FaultServer, folder: Path, rules: list[Rule]) -> ChunkedRunLogStore:
    """A store that has made its run before the storm began."""
    bucket = faults.s3.new_bucket()
    store = warm(opened(faults.s3.endpoint_url, bucket, probed=True, folder=folder))
    store.create_run_log("r")
    faults.plan(rules, within=bucket)
    return store


def test_a_server_that_answers_reads_and_hangs_at_writes_is_given_up_in_time(
    faults: FaultServer, tmp_path: Path, tally: Tally
) -> None:
    store = stormy(faults, tmp_path, [Rule("hang", verb="PUT", times=FOREVER)])
    outcomes = all_at_once([store], WRITES)
    judged(outcomes, tally)
    assert all(isinstance(outcome.error, WriteStateUnknownError) for outcome in outcomes)


def test_a_storm_that_ends_in_silence_is_given_up_in_time(faults: FaultServer, tmp_path: Path, tally: Tally) -> None:
    """The worst mixture: writes fail at once for as long as there is time for another try, and the last one hangs."""
    store = stormy(faults, tmp_path, [Rule("500", verb="PUT", times=FOREVER)])
    backend: Any = store.backend
    bucket = backend.settings.bucket
    # First the writes; the reads while one of them hangs, so that it is not read back either.
    silence = [
        threading.Timer(DEADLINE - 0.4, faults.plan, [[Rule("hang", verb="PUT", times=FOREVER)]], {"within": bucket}),
        threading.Timer(DEADLINE + 0.2, faults.plan, [[Rule("hang", times=FOREVER)]], {"within": bucket}),
    ]
    for timer in silence:
        timer.start()
    outcomes = all_at_once([store], {"update the status": WRITES["update the status"]})
    for timer in silence:
        timer.join()
    judged(outcomes, tally)


@pytest.mark.parametrize("fault", ["refused", "503"])
def test_a_deadline_that_passes_while_one_waits_for_another_try_tells_what_failed(
    faults: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    monkeypatch.setattr("chunkstore.backends.s3server.PAUSES", (0.01, 60.0, 60.0))
    with refused() as nowhere:
        store = stormy(faults, tmp_path, [Rule("503", times=FOREVER)])
        if fault == "refused":
            store = opened(nowhere, "bucket", probed=True, folder=tmp_path)
        error = all_at_once([store], {"create a run": WRITES["create a run"]})[0].error
    assert isinstance(error, BackendUnavailableError)
    assert {"refused": "cannot be reached", "503": "is busy (503 SlowDown, 2 tries)"}[fault] in str(error)
    # What was refused at every try is no unknown write.
    assert isinstance(error, WriteStateUnknownError) == (fault == "503")


def test_a_probe_whose_reply_is_lost_leaves_nobody_in_doubt_about_the_write_after_it(
    faults: FaultServer, tmp_path: Path
) -> None:
    store = opened(faults.s3.endpoint_url, faults.s3.new_bucket(), probed=False, folder=tmp_path)
    backend: Any = store.backend
    faults.plan([Rule("500", times=FOREVER)], within=backend.settings.bucket)
    error = all_at_once([store], {"create a run": WRITES["create a run"]})[0].error
    assert isinstance(error, BackendUnavailableError)
    assert error.transient
    assert not isinstance(error, WriteStateUnknownError)
    faults.calm()
