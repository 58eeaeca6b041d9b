"""What does finding runs cost among many: listing them, filters with a limit, before and after reindex, and reindex itself?"""

from __future__ import annotations

import gc
import json
import os
import random
import tracemalloc
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final

import harness
from harness import Call, Place, Results, Samples

from chunkstore import ChunkedRunLogStore, RunLog, codec, keys
from chunkstore.backends import FOUND, Backend
from chunkstore.backends.local import LocalBackend
from chunkstore.codec import Chunk, Envelope
from chunkstore.keys import Kind
from chunkstore.schema import OWN
from chunkstore.testing import CountingBackend
from chunkstore.testing.proxy import CountingProxy

QUESTION: Final = "What does finding runs cost among many: listing, filters, before and after reindex?"
LATENCY: Final = 0.020
FIRST: Final = datetime(2026, 1, 1, tzinfo=UTC)
RUNNING: Final = 20
"""The newest runs, which are not finished: no index knows them."""
LIMIT: Final = 100
"""Of the filters; each asks for the newest."""


@dataclass(frozen=True, slots=True)
class Size:
    runs: int
    s3_runs: int
    rounds: int


SIZES: Final = {"tiny": Size(50, 20, 1), "small": Size(10_000, 1_000, 3), "full": Size(100_000, 10_000, 5)}


def header(number: int, runs: int) -> tuple[str, bytes]:
    """The object of a run's header: one run a minute, one in a hundred failed, forty tags."""
    run_id = f"nightly-{number:06d}"
    status = "PROCESSING" if number >= runs - RUNNING else "FAIL" if number % 100 == 7 else "SUCCESS"
    run_log = RunLog(run_id=run_id, dag_hash=f"{number:040x}", tag=f"team {number % 40}", status=status)
    run_log.run_config = {"executor": "local", "catalog": ".catalog", "seed": number}
    stamp = f"{(FIRST + timedelta(minutes=number)).replace(tzinfo=None).isoformat()}.000000000Z"
    envelope = Envelope(run_id, Kind.HEADER.value, "", "", stamp, {"0123456789ab": 2})
    return keys.header(run_id).key, codec.encode(Chunk(envelope, OWN.write(Kind.HEADER, run_log)))


def fill(backend: Backend, runs: int) -> None:
    with ThreadPoolExecutor(backend.concurrency) as threads:
        for _ in threads.map(lambda number: backend.put(*header(number, runs), FOUND), range(runs)):
            pass


def questions(runs: int) -> dict[str, Callable[[ChunkedRunLogStore], object]]:
    """What is asked of a store."""
    late = FIRST + timedelta(minutes=runs - max(runs // 100, 1))
    return {
        "list the ids": lambda store: store.list_run_ids(),
        f"status FAIL, newest {LIMIT}": lambda store: store.find_runs(status="FAIL", limit=LIMIT),
        f"one tag of 40, newest {LIMIT}": lambda store: store.find_runs(tag="team 3", limit=LIMIT),
        f"the last hundredth, newest {LIMIT}": lambda store: store.find_runs(since=late, limit=LIMIT),
        "all, one by one": lambda store: sum(1 for _ in store.iter_run_logs()),
    }


def floor(root: Path) -> int:
    """The least without an index: every header read and parsed, nothing checked, no model made."""
    with os.scandir(root) as folders:
        files = [Path(folder.path, "run.json") for folder in folders if not folder.name.startswith(".")]
    found = [json.loads(file.read_bytes()) for file in files]
    found.sort(key=lambda fields: fields["_chunkstore"]["created_at"], reverse=True)
    return len([fields for fields in found if fields["status"] == "FAIL"][:LIMIT])


class Counted:
    """Rounds of one call, each with what `fresh` gives it, and the requests of the last."""

    def __init__(self, requests: Callable[[], int], forget: Callable[[], object]) -> None:
        self._requests = requests
        self._forget = forget

    def samples(self, rounds: int, fresh: Callable[[], Call]) -> Samples:
        samples = Samples()
        for _ in range(rounds):
            call = fresh()
            harness.alone_with_the_collector()
            self._forget()
            samples.rounds.append(harness.timed([call]))
            samples.requests = f"{self._requests():,}"
        gc.unfreeze()
        return samples


def bench(make: Callable[[], ChunkedRunLogStore], counted: Counted, size: Size, runs: int) -> Iterator[list[str]]:
    """The rows of one place: without an index, reindex, with it."""
    asked = questions(runs)
    slow = {name: ask for name, ask in asked.items() if name.startswith(("list", "status", "all"))}
    without = {name: counted.samples(1, lambda ask=ask: partial(ask, make())) for name, ask in slow.items()}
    built = counted.samples(1, lambda: partial(make().reindex))
    cold = {name: counted.samples(size.rounds, lambda ask=ask: partial(ask, make())) for name, ask in asked.items()}
    warm = make()
    warm.find_runs(limit=1)
    again = {name: counted.samples(size.rounds, lambda ask=ask: partial(ask, warm)) for name, ask in asked.items()}
    for name in asked:
        for contestant, one in (("no index", without), ("index, new store", cold), ("index, again", again)):
            if name in one:
                yield [name, contestant, *harness.core(one[name])]
    yield ["reindex", "all runs", *harness.core(built)]
    yield ["reindex", "nothing to do", *harness.core(counted.samples(size.rounds, lambda: partial(make().reindex)))]
    yield ["reindex", "after changes", *harness.core(counted.samples(1, lambda: changed(make(), runs)))]


def changed(store: ChunkedRunLogStore, runs: int) -> Call:
    """Changes one in a thousand finished runs, and gives the reindex that takes them in."""
    finished = range(0, max(1, runs - RUNNING), 10)
    for number in random.Random(1).sample(finished, max(1, runs // 1_000)):
        store.set_run_config(f"nightly-{number:06d}", {"note": "looked at"})
    return store.reindex


def bench_local(place: Place, size: Size, results: Results) -> None:
    root = place.folder / "runs"
    fill(LocalBackend(root, durability="process"), size.runs)
    backend = CountingBackend(LocalBackend(root, durability="process"))
    counted = Counted(lambda: backend.requests, backend.reset)
    rows = list(bench(lambda: ChunkedRunLogStore(backend), counted, size, size.runs))
    read = counted.samples(size.rounds, lambda: partial(floor, root))
    read.requests = "-"
    at = next(number for number, row in enumerate(rows) if row[0].startswith("status"))
    rows.insert(at, [rows[at][0], "floor, no index", *harness.core(read)])
    results.table(f"{place.name}, {size.runs:,} runs, milliseconds", ["action", "contestant", *harness.HEAD], rows)
    print_memory(place, root, size, results)


def print_memory(place: Place, root: Path, size: Size, results: Results) -> None:
    """The most that Python objects took while a store that knew nothing answered."""
    rows = []
    for name, ask in questions(size.runs).items():
        store = ChunkedRunLogStore(LocalBackend(root, durability="process"))
        gc.collect()
        tracemalloc.start()
        ask(store)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        rows.append([name, "index, new store", f"{peak / 1e6:,.1f}", f"{peak / size.runs:,.0f}"])
    head = ["action", "contestant", "peak MB", "bytes a run"]
    results.table(f"{place.name}, {size.runs:,} runs, memory", head, rows)


def bench_s3(server: Any, size: Size, results: Results) -> None:
    from chunkstore.backends.s3 import S3Backend

    def backend(endpoint: str) -> S3Backend:
        return S3Backend(
            bucket=bucket,
            prefix="runs",
            max_connections=64,
            endpoint_url=endpoint,
            key=server.key,
            secret=server.secret,
            region=server.region,
        )

    for latency in (0.0, LATENCY):
        bucket = server.new_bucket()
        direct = backend(server.endpoint_url)
        fill(direct, size.s3_runs)
        direct.close()
        with CountingProxy(server.endpoint_url) as proxy:
            wire = backend(proxy.url)
            list(wire.folders())
            proxy.set_latency(latency)
            counted = Counted(lambda proxy=proxy: len(proxy.requests), proxy.reset)
            rows = list(bench(lambda wire=wire: ChunkedRunLogStore(wire), counted, size, size.s3_runs))
            link = f"+ {latency * 1000:.0f} ms" if latency else "plain"
            head = ["action", "contestant", *harness.HEAD]
            results.table(f"S3 by {server.name}, {link}, {size.s3_runs:,} runs, milliseconds", head, rows)
            wire.close()


NOTES: Final = (
    ("no index", "every header is read: what `find_runs` does before the first `reindex`"),
    ("index, new store", "as a new process: listing, manifest and all segments are read and decoded"),
    (
        "index, again",
        "the same store: segments are known; listing, manifest, and the runs that are not finished are read",
    ),
    ("floor", "scandir, read and `json.loads` every header; checks nothing, makes no model"),
    ("all, one by one", "`iter_run_logs`: a model of each run, a thousand headers in memory at a time"),
    ("after changes", "one in a thousand finished runs was changed since: each is read, its segments are written anew"),
    ("requests", "of one call: of the backend on disk, on the wire for S3"),
)


def main() -> None:
    harness.on_disk_and_s3(QUESTION, SIZES, bench_local, bench_s3, NOTES)


if __name__ == "__main__":
    main()
