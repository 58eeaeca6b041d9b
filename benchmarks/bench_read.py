"""What does reading cost: a whole run, one step, and the same again?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import contestants
import harness
import s3contestants
from contestants import Contestant, Maker
from harness import Call, Place, Results, Samples, installed

import chunkstore
from chunkstore import keys
from chunkstore.testing.proxy import CountingProxy

QUESTION: Final = "What does reading cost: a whole run, one step, and the same again?"
RUN: Final = "run"
LATENCY: Final = 0.020


@dataclass(frozen=True, slots=True)
class Size:
    steps: tuple[int, ...]
    """Root steps of the runs that are read locally: one chunk each."""
    rounds: int
    single: int
    """Single steps read per round by a contestant that reads no more than it is asked for."""
    branches: tuple[int, ...]
    """Branches with three steps and two parameters each, of the runs that are read from S3."""
    bare: int
    """Branches without steps and parameters: one object each for chunkstore and for chunked-minio alike."""
    s3_rounds: int


SIZES: Final = {
    "tiny": Size((5, 20), 1, 5, (3,), 3, 1),
    "small": Size((100, 1_000, 10_000), 3, 50, (20,), 50, 3),
    "full": Size((10, 100, 1_000, 10_000), 9, 200, (166, 1_000), 998, 5),
}
_WHOLE: Final = ("runnable chunked-fs", "runnable file-system", "MLflow files", "MLflow sqlite")
"""Who reads the whole run for one step."""
_WRITES_ALIKE: Final = ("floor exclusive process", "sqlite power")
"""They differ from others only in how they write."""


def makers() -> dict[str, Maker]:
    """Durability makes no difference to a read."""
    made = contestants.makers(("process",))
    return {name.removesuffix(" process"): make for name, make in made.items() if name not in _WRITES_ALIKE}


# Local.

Lane = tuple[Callable[[int], list[float]], Callable[[], str]]


def bench_local(place: Place, size: Size, results: Results) -> None:
    for steps in size.steps:
        run, names = f"run-{steps}", [f"step{number:05d}" for number in range(steps)]
        for make in makers().values():
            _fill(make, place.folder, run, names)
        rows = []
        for action, lanes in _actions(place.folder, run, size, names).items():
            samples = harness.interleaved({name: once for name, (once, _) in lanes.items()}, size.rounds)
            for name, (_, requests) in lanes.items():
                samples[name].requests = requests()
            about = {"place": place.name, "action": action, "n": steps}
            rows += rows_of(action, samples, "floor", results, about)
        head = ["action", "contestant", *harness.HEAD, "to the floor"]
        harness.print_table(f"{place.name}, run of {steps:,} root steps, milliseconds", head, rows)


def _fill(make: Maker, folder: Path, run: str, names: list[str]) -> None:
    one = make(folder)
    one.create(run)
    one.fill(run, names)
    one.close()
    one = make(folder)
    if one.names(one.read(run)) != {f"step {name}" for name in names}:
        raise SystemExit(f"{one.name} did not read back what was stored")
    one.close()


def _actions(folder: Path, run: str, size: Size, names: list[str]) -> dict[str, dict[str, Lane]]:
    warm = {name: make(folder) for name, make in makers().items()}
    for one in warm.values():
        one.read(run)
    singles = {name: names[: 1 if name in _WHOLE else size.single] for name in warm if name != "Optuna journal"}
    read_all = _read_all(run)
    return {
        "full read": {name: _lane(lambda name=name: makers()[name](folder), read_all) for name in warm},
        "full read again, unchanged": {name: _lane(lambda one=one: one, read_all) for name, one in warm.items()},
        "one step": {
            name: _lane(lambda name=name: warm[name], _steps(run, wanted)) for name, wanted in singles.items()
        },
    }


def _lane(take: Callable[[], Contestant], calls: Callable[[Contestant], list[Call]]) -> Lane:
    """The measured round, and what its last call cost in requests where the contestant counts them."""
    counted = ["-"]

    def once(_round: int) -> list[float]:
        one = take()
        times = []
        for call in calls(one):
            before = one.requests or 0
            times += harness.timed([call])
            if one.requests is not None:
                counted[0] = f"{one.requests - before:,}"
        return times

    return once, lambda: counted[0]


def _read_all(run: str) -> Callable[[Contestant], list[Call]]:
    return lambda one: [partial(one.read, run)]


def _steps(run: str, names: list[str]) -> Callable[[Contestant], list[Call]]:
    return lambda one: [partial(one.get_step, run, name) for name in names]


def rows_of(
    action: str, samples: Mapping[str, Samples], floor: str, results: Results, about: Mapping[str, Any]
) -> list[list[str]]:
    """The cells, and for machines the same numbers with what is said `about` them."""
    rows = []
    for name, one in samples.items():
        ratio = one.ratio_to(samples[floor]) if floor in samples else None
        results.add(**about, contestant=name, **one.numbers(), to_floor=ratio)
        rows.append([action, name, *harness.core(one), harness.ratio(ratio)])
    return rows


# S3.


def bench_s3(server: Any, size: Size, results: Results) -> None:
    bucket = server.new_bucket()
    runs = {f"{n:,} branches x (3 steps + 2 parameters)": s3contestants.branches(n) for n in size.branches}
    runs[f"{size.bare:,} bare branches"] = s3contestants.branches(size.bare, bare=True)
    with CountingProxy(server.endpoint_url) as proxy:
        for title, fields in runs.items():
            run = title.replace(" ", "-").replace(",", "")
            _store(server, bucket, run, fields)
            rows, factors = [], []
            for latency in (0.0, LATENCY):
                proxy.set_latency(latency)
                link = f"+ {latency * 1000:.0f} ms" if latency else "plain"
                samples = S3Lanes(server.through(proxy.url), bucket, run, proxy).measured(_rounds(size, fields))
                about = {"place": "S3", "action": f"full read of {title}", "latency": latency * 1000}
                rows += rows_of(link, samples, "obstore, raw bytes", results, about)
                if rival := samples.get("runnable chunked-minio"):
                    factors.append(f"{link}: {harness.ratio(rival.ratio_to(samples['chunkstore, cold']))}")
            head = ["link", "contestant", *harness.HEAD, "to obstore"]
            harness.print_table(f"S3 by {server.name}, full read of {title}, milliseconds", head, rows)
            print(f"\nchunked-minio takes as long as chunkstore, cold, times: {', '.join(factors) or 'not installed'}")


def _rounds(size: Size, fields: Mapping[str, Any]) -> int:
    """Minutes for each read of a big run by chunked-minio: a few rounds must do."""
    stored = sum(1 + len(branch.get("steps", ())) for branch in fields["steps"]["map"]["branches"].values())
    return min(size.s3_rounds, 2) if stored > 1_000 else size.s3_rounds


def _store(server: Any, bucket: str, run: str, fields: Mapping[str, Any]) -> None:
    """Puts the run through each store, and checks that each reads back the same."""
    writers: list[Callable[[Any, str], Any]] = [s3contestants.ChunkstoreS3]
    if installed("runnable", "boto3"):
        writers.append(s3contestants.RunnableChunkedMinio)
    for make in writers:
        make(server, bucket).put(run, fields)
        found = contestants.names_of(make(server, bucket).read(run))
        missing = contestants.names_of(chunkstore.RunLog.model_validate({"run_id": run, **fields})) ^ found
        if missing:
            raise SystemExit(f"{make.name} did not read back what was stored: {sorted(missing)[:3]}")  # type: ignore[attr-defined]


class S3Lanes:
    """The contestants that read one run from S3, and how many requests the last read of each sent."""

    def __init__(self, server: Any, bucket: str, run: str, proxy: Any) -> None:
        self._server, self._bucket, self._run, self._proxy = server, bucket, run, proxy
        self._under = f"chunkstore/{keys.folder_of(run)}"
        self._requests: dict[str, str] = {}
        self._warm: Any = None
        self._last: dict[str, Any] = {}

    def measured(self, rounds: int) -> dict[str, Samples]:
        samples = harness.interleaved({name: partial(self._round, name, take) for name, take in self._takers()}, rounds)
        for name, one in samples.items():
            one.requests = self._requests[name]
        self._warm.close()
        for one in self._last.values():
            one.close()
        return samples

    def _round(self, name: str, take: Callable[[], Call], _number: int) -> list[float]:
        call = take()
        self._proxy.reset()
        times = harness.timed([call])
        self._requests[name] = f"{len(self._proxy.requests):,}"
        return times

    def _takers(self) -> Iterator[tuple[str, Callable[[], Call]]]:
        yield "chunkstore, cold", self._cold
        yield "chunkstore, again, unchanged", self._again
        if installed("obstore"):
            yield "chunkstore with s3fs, cold", partial(self._cold, engine="s3fs")
        if installed("runnable", "boto3"):
            yield "runnable chunked-minio", self._minio
        yield "s3fs as it comes, raw bytes", partial(self._s3fs, tuned=False)
        yield "s3fs tuned, raw bytes", partial(self._s3fs, tuned=True)
        if installed("obstore"):
            yield "obstore, raw bytes", self._obstore

    def _cold(self, engine: str = "auto") -> Call:
        if engine in self._last:
            self._last[engine].close()
        self._last[engine] = s3contestants.ChunkstoreS3(self._server, self._bucket, engine)
        return partial(self._last[engine].read, self._run)

    def _again(self) -> Call:
        if self._warm is None:
            self._warm = s3contestants.ChunkstoreS3(self._server, self._bucket)
            self._warm.read(self._run)
        return partial(self._warm.read, self._run)

    def _minio(self) -> Call:
        return partial(s3contestants.RunnableChunkedMinio(self._server, self._bucket).read, self._run)

    def _s3fs(self, *, tuned: bool) -> Call:
        one = s3contestants.RawS3fs(self._server, self._bucket, tuned=tuned)
        return partial(one.read_folder, f"{self._bucket}/{self._under}")

    def _obstore(self) -> Call:
        return partial(s3contestants.RawObstore(self._server, self._bucket).read_folder, self._under)


NOTES: Final = (
    ("floor", "scandir, read, model_validate_json with the collector paused; puts nothing together, checks no digest"),
    (
        "raw bytes",
        "list, then get chunkstore's own objects, 64 at once, and parse nothing (s3fs as it comes: its own defaults)",
    ),
    ("chunked-minio", "one object per branch with its steps inside, so fewer objects; one request after the other"),
    ("Optuna journal", "its log is read and replayed; plain dicts, no models"),
    ("chunkstore on S3", "with the engine that it takes by itself: obstore where it is installed, else s3fs"),
    ("sqlite", "one row per chunk; every row read and parsed as by the floor"),
    (
        "MLflow",
        "all in a run is a tag of it; they come back as text, and nothing in them is parsed; one step: the whole run",
    ),
    ("cold", "a new store that knows no chunk, with its connections open; the disk's cache is warm for everybody"),
    ("requests", "of one call, counted on the wire"),
)


def main() -> None:
    harness.on_disk_and_s3(QUESTION, SIZES, bench_local, bench_s3, [*NOTES, *contestants.missing()])


if __name__ == "__main__":
    main()
