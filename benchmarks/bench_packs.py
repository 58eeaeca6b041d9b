"""What does a pack save: packing a run, reading it whole, and reading one of its steps?"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import harness
import s3contestants
import sample
from harness import Place, Results, Samples

import chunkstore
from chunkstore import ChunkedRunLogStore, RunLog
from chunkstore.testing.proxy import CountingProxy

QUESTION: Final = "What does a pack save: packing a run, reading it whole, and reading one of its steps?"
LATENCY: Final = 0.020
LOOSE, PACKED, KEPT = "loose", "packed", "packed, loose ones kept"


@dataclass(frozen=True, slots=True)
class Size:
    local: int
    """Root steps of the run that is read locally: one chunk each."""
    s3: int
    rounds: int
    s3_rounds: int


SIZES: Final = {"tiny": Size(20, 10, 1, 1), "small": Size(2_000, 500, 3, 2), "full": Size(10_000, 10_000, 7, 3)}

Opening = Callable[[], ChunkedRunLogStore]


def stored(store: ChunkedRunLogStore, steps: int) -> dict[str, chunkstore.Compaction | None]:
    """The same run three times: loose, packed, and packed with nothing removed."""
    names = [f"step{number:05d}" for number in range(steps)]
    run = {"status": "SUCCESS", "steps": {name: sample.step(name) for name in names}}
    done: dict[str, chunkstore.Compaction | None] = {}
    for name in (LOOSE, PACKED, KEPT):
        store.put_run_log(RunLog.model_validate({"run_id": name, **run}))
        # "always": the server may not be able to delete under a condition, and nobody else writes here.
        done[name] = None if name == LOOSE else store.compact(name, remove="always" if name == PACKED else "never")
    return done


def measured(opened: Opening, rounds: int, steps: int, requests: Callable[[], str]) -> Iterator[list[str]]:
    for action, ask in actions(steps).items():
        samples = harness.interleaved({name: lane(opened, name, ask) for name in (LOOSE, PACKED, KEPT)}, rounds)
        for name in samples:
            with contextlib.closing(opened()) as store:
                prepare, call = ask
                prepare(store, name)
                requests()
                call(store, name)
                samples[name].requests = requests()
        yield from rows_of(action, samples)


Ask = tuple[Callable[[ChunkedRunLogStore, str], object], Callable[[ChunkedRunLogStore, str], object]]


def actions(steps: int) -> dict[str, Ask]:
    """What is measured, and what each store does before it."""
    last = f"step{steps - 1:05d}"

    def read(store: ChunkedRunLogStore, run: str) -> None:
        if len(store.get_run_log_by_id(run).steps) != steps:
            raise SystemExit(f"{run} did not read back what was stored")

    return {
        "full read, cold": (lambda _store, _run: None, read),
        "full read, packed known": (lambda store, _run: store.get_run_logs(), read),
        "one step, cold": (lambda _store, _run: None, lambda store, run: store.get_step_log(last, run)),
        "one more step": (
            lambda store, run: store.get_step_log(last, run),
            lambda store, run: store.get_step_log("step00000", run),
        ),
    }


def lane(opened: Opening, run: str, ask: Ask) -> Callable[[int], list[float]]:
    prepare, call = ask

    def once(_round: int) -> list[float]:
        with contextlib.closing(opened()) as store:
            prepare(store, run)
            return harness.timed([lambda: call(store, run)])

    return once


def rows_of(action: str, samples: dict[str, Samples]) -> Iterator[list[str]]:
    for name, one in samples.items():
        yield [action, name, *harness.core(one), harness.ratio(samples[LOOSE].ratio_to(one))]


HEAD: Final = ["action", "contestant", *harness.HEAD, "faster than loose"]


def print_sizes(done: dict[str, chunkstore.Compaction | None], took: float) -> None:
    for name, report in done.items():
        if report is not None:
            print(f"{name}: {report.packed:,} chunks, {report.bytes_before:,} -> {report.bytes_after:,} bytes")
    print(f"writing the three runs and packing two of them took {took:.1f} s")


def bench_local(place: Place, size: Size, results: Results) -> None:
    def opened() -> ChunkedRunLogStore:
        return chunkstore.open(place.folder, durability="process")

    began = time.perf_counter()
    done = stored(opened(), size.local)
    print()
    print_sizes(done, time.perf_counter() - began)
    rows = list(measured(opened, size.rounds, size.local, lambda: "-"))
    results.table(f"{place.name}, run of {size.local:,} root steps, milliseconds", HEAD, rows)


def bench_s3(server: Any, size: Size, results: Results) -> None:
    bucket = server.new_bucket()
    began = time.perf_counter()
    done = stored(s3contestants.ChunkstoreS3(server, bucket).store, size.s3)
    print()
    print_sizes(done, time.perf_counter() - began)
    with CountingProxy(server.endpoint_url) as proxy:
        for latency in (0.0, LATENCY):
            proxy.set_latency(latency)

            def opened() -> ChunkedRunLogStore:
                return s3contestants.ChunkstoreS3(server.through(proxy.url), bucket).store

            def requests() -> str:
                seen = f"{len(proxy.requests):,}"
                proxy.reset()
                return seen

            rows = list(measured(opened, size.s3_rounds, size.s3, requests))
            link = f"+ {latency * 1000:.0f} ms" if latency else "plain"
            results.table(f"S3 by {server.name}, {link}, run of {size.s3:,} root steps, milliseconds", HEAD, rows)


NOTES: Final = (
    (LOOSE, "as it was written: one object a chunk"),
    (PACKED, "by compact(remove='always'): header, parameters and the pack are all that is left"),
    (KEPT, "by compact(remove='never'), and what a server gets that cannot delete under a condition"),
    ("cold", "a new store that knows no chunk, with its connections open; the disk's cache is warm"),
    ("packed known", "a new store that has listed the headers: it asks for the pack beside the listing"),
    ("one more step", "a store that has read one step of the run"),
    ("requests", "of one call, counted on the wire"),
)


def main() -> None:
    harness.on_disk_and_s3(QUESTION, SIZES, bench_local, bench_s3, NOTES)


if __name__ == "__main__":
    main()
