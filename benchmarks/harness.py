"""What the benchmarks share: facts about the machine, interleaved rounds, percentiles, tables, servers.

It decides nothing about what is measured, and knows no store.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, TypeVar

PACKAGES: Final = (
    "chunkstore",
    "pydantic",
    "orjson",
    "fsspec",
    "s3fs",
    "runnable",
    "cloudpathlib",
    "boto3",
    "optuna",
    "mlflow-skinny",
    "obstore",
    "sqlalchemy",
    "psycopg",
)
SIZES: Final = ("tiny", "small", "full")
MEMORY: Final = Path("/dev/shm")
_IN_MEMORY: Final = ("tmpfs", "ramfs")
_DEADLINE: Final = 900.0  # seconds that all workers of one round may take

Call = Callable[[], object]
Size = TypeVar("Size")


@dataclass(frozen=True, slots=True)
class Options:
    """What was asked for on the command line."""

    size: str
    folder: Path | None
    json: Path | None = None
    """Where the numbers go as JSON, for the charts and tables of the documentation."""


@dataclass(frozen=True, slots=True)
class Place:
    """A folder to work in, and what it is, for people."""

    name: str
    folder: Path


@dataclass(slots=True)
class Samples:
    """The seconds that calls took, round by round, and what was counted beside them."""

    rounds: list[list[float]] = field(default_factory=list)
    conflicts: int | None = None
    requests: str = "-"

    @property
    def all(self) -> list[float]:
        return [seconds for one in self.rounds for seconds in one]

    def numbers(self) -> dict[str, Any]:
        """For machines; times in milliseconds. None is what the contestant does not count."""
        times = sorted(self.all)
        found: dict[str, Any] = {"count": len(times), "conflicts": self.conflicts, "requests": _plain(self.requests)}
        if times:
            quantiles = (statistics.median(times), _at(times, 0.90), _at(times, 0.99), times[-1])
            found |= dict(
                zip(("median", "p90", "p99", "max"), (round(one * 1000, 5) for one in quantiles), strict=True)
            )
        return found

    def ratio_to(self, other: Samples) -> float | None:
        """The median, over the rounds that both took part in, of median / median."""
        pairs = zip(self.rounds, other.rounds, strict=False)
        ratios = [statistics.median(mine) / statistics.median(theirs) for mine, theirs in pairs if mine and theirs]
        return statistics.median(ratios) if ratios else None


def options(question: str, description: str) -> Options:
    """The command line that all benchmarks have."""
    parser = argparse.ArgumentParser(description=f"{question} {description}")
    parser.add_argument("--size", choices=SIZES, default="small", help="tiny: does it run; full: what is published")
    parser.add_argument(
        "--folder", type=Path, help="a folder on the disk to measure; default: the system's for temporary files"
    )
    parser.add_argument("--json", type=Path, help="a file for the same numbers as JSON; default: none is written")
    given = parser.parse_args()
    return Options(given.size, given.folder, given.json)


# What is printed first.


@dataclass(frozen=True, slots=True)
class Results:
    """What a benchmark found, for machines: facts about where and when, and rows of numbers."""

    facts: dict[str, Any]
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, **row: Any) -> None:
        self.rows.append(row)

    def table(self, title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
        """Prints a table, and keeps its rows as they are shown."""
        print_table(title, head, rows)
        for row in rows:
            self.add(table=title, **dict(zip(head, row, strict=True)))

    def save(self, given: Options) -> None:
        """Where the command line asked for it; one row a line, so that two runs can be compared by eye."""
        if given.json is None:
            return
        rows = ",\n".join(json.dumps(row, ensure_ascii=False) for row in self.rows)
        facts = json.dumps(self.facts, indent=1, ensure_ascii=False)
        given.json.write_text(f'{{"facts": {facts},\n"rows": [\n{rows}\n]}}\n', encoding="utf-8")


def print_facts(question: str, given: Options, places: Sequence[Place], servers: Sequence[str] = ()) -> Results:
    """Prints them, and gives the place for the numbers that belong to them."""
    print(f"$ python benchmarks/{Path(sys.argv[0]).name} --size {given.size}")
    print(question)
    print()
    print("versions    ", ", ".join([f"Python {platform.python_version()}", *_versions(), *servers]))
    print("platform    ", platform.platform())
    print("CPUs        ", f"{usable_cpus()} x {_cpu_name()}; load at the start {_load()}")
    for place in places:
        print("file system ", f"{place.name}: {file_system_of(place.folder)}")
    now = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    print("date        ", now)
    return Results(
        {
            "command": f"python benchmarks/{Path(sys.argv[0]).name} --size {given.size}",
            "question": question,
            "size": given.size,
            "versions": [f"Python {platform.python_version()}", *_versions(), *servers],
            "platform": platform.platform(),
            "cpus": f"{usable_cpus()} x {_cpu_name()}",
            "load": _load(),
            "file systems": {place.name: file_system_of(place.folder) for place in places},
            "date": now,
        }
    )


def on_disk_and_s3(
    question: str,
    sizes: Mapping[str, Size],
    on_disk: Callable[[Place, Size, Results], None],
    on_s3: Callable[[Any, Size, Results], None],
    notes: Iterable[tuple[str, str]],
) -> None:
    """A whole benchmark: each local place, then S3, where there is a server; else why there is none."""
    given = options(question, "Locally, and from S3 plain and with 20 ms of latency.")
    began, size = time.monotonic(), sizes[given.size]
    with contextlib.ExitStack() as stack:
        found = stack.enter_context(places(given))
        try:
            server, missing = stack.enter_context(s3_server()), ""
        except SystemExit as reason:
            server, missing = None, str(reason)
        results = print_facts(question, given, found, [server_version(server)] if server else [])
        for place in found:
            on_disk(place, size, results)
        if server:
            on_s3(server, size, results)
        else:
            print(f"\nS3: {missing}")
    print_notes("What is what", notes)
    print_end(began)
    results.save(given)


def print_end(began: float) -> None:
    print()
    print(f"took {time.monotonic() - began:.0f} s; load at the end {_load()}")


def installed(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


def usable_cpus() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def file_system_of(folder: Path) -> str:
    """The type of the file system that a folder is on, where Linux tells."""
    mounts = Path("/proc/self/mountinfo")
    if not mounts.exists():
        return "unknown"
    found = ("", "unknown")
    for line in mounts.read_text().splitlines():
        fields = line.split()
        point, kind = fields[4], fields[fields.index("-") + 1]
        if folder.resolve().is_relative_to(point) and len(point) >= len(found[0]):
            found = (point, kind)
    return found[1]


def _versions() -> Iterator[str]:
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            yield f"{name} {importlib.metadata.version(name)}"
            continue
        yield f"{name} (source tree)" if installed(name) else f"{name} not installed"


def _cpu_name() -> str:
    information = Path("/proc/cpuinfo")
    lines = information.read_text().splitlines() if information.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _load() -> str:
    return f"{os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else "unknown"


# Where it happens.


@contextlib.contextmanager
def places(given: Options) -> Iterator[list[Place]]:
    """A fresh folder on the disk, and one in memory where the system has one; gone afterwards."""
    disk = Path(tempfile.mkdtemp(prefix="chunkstore-bench-", dir=given.folder))
    made = [disk]
    found = [Place("memory" if file_system_of(disk) in _IN_MEMORY else "disk", disk)]
    try:
        if found[0].name == "disk" and MEMORY.is_dir() and os.access(MEMORY, os.W_OK):
            made.append(Path(tempfile.mkdtemp(prefix="chunkstore-bench-", dir=MEMORY)))
            found.append(Place("memory", made[-1]))
        yield found
    finally:
        for folder in made:
            shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def s3_server() -> Iterator[Any]:
    """A MinIO of our own on loopback, or rclone where MinIO is missing: a `servers.S3Server`.

    Raises `SystemExit` with the reason where there is neither.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    import servers

    if not installed("s3fs"):
        raise SystemExit("skipped: s3fs is not installed")
    # The peers' clients look here; a value of the user's would send them elsewhere.
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        del os.environ[name]
    os.environ["AWS_DEFAULT_REGION"] = servers.REGION
    with contextlib.ExitStack() as stack:
        folder = Path(
            stack.enter_context(tempfile.TemporaryDirectory(prefix="chunkstore-bench-", ignore_cleanup_errors=True))
        )
        reasons = []
        for launch in (servers.minio, servers.rclone):
            own = folder / launch.__name__
            own.mkdir()
            try:
                server = stack.enter_context(launch(own))
            except servers.ServerMissingError as missing:
                reasons.append(f"{launch.__name__}: {missing}")
                continue
            if reasons:
                print(f"no {'; '.join(reasons)}. Falling back to {server.name}, which ignores conditional writes.")
            yield server
            return
    raise SystemExit(f"skipped, no S3 server: {'; '.join(reasons)}")


@contextlib.contextmanager
def postgres_server(given: Options) -> Iterator[Any]:
    """A PostgreSQL of our own on loopback, set as it comes, its data on the disk that is measured: a `databases.Postgres`.

    Raises `SystemExit` with the reason where there is none.
    """
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
    import databases
    import servers

    if not installed(*databases.CLIENTS):
        raise SystemExit("skipped: sqlalchemy or psycopg is not installed")
    try:
        with databases.own_postgres({}, within=given.folder) as server:
            yield server
    except servers.ServerMissingError as missing:
        raise SystemExit(f"skipped, no PostgreSQL: {missing}") from None


def server_version(server: Any) -> str:
    """The server's name and, for a MinIO that `.ci/minio` built, its version."""
    import servers

    if server.name != "minio":
        return str(server.name)
    try:
        return f"MinIO {Path(servers.find_minio()).name.removeprefix('minio').lstrip('-')}".strip()
    except servers.ServerMissingError:
        return "MinIO"


# Measuring.


def timed(calls: Iterable[Call]) -> list[float]:
    """The seconds that each call took."""
    clock = time.perf_counter
    took = []
    for call in calls:
        began = clock()
        call()
        took.append(clock() - began)
    return took


def alone_with_the_collector() -> None:
    """What others left behind must not cost the next contestant: all of it goes to the oldest generation.

    It does not stay frozen there. A contestant that freezes and unfreezes for itself, as a full read of chunkstore does, leaves
    that alone where others have frozen objects, and pays a collection that it never pays in a program.
    """
    gc.collect()
    gc.freeze()
    gc.unfreeze()


def interleaved(contestants: Mapping[str, Callable[[int], list[float]]], rounds: int) -> dict[str, Samples]:
    """Lets the contestants take turns, in another order each round, so that noise hits all alike."""
    names = list(contestants)
    samples = {name: Samples() for name in names}
    for number in range(rounds):
        shift = number % len(names)
        for name in names[shift:] + names[:shift]:
            alone_with_the_collector()
            samples[name].rounds.append(contestants[name](number))
    return samples


def at_the_same_time(work: Callable[..., Any], jobs: Sequence[tuple[Any, ...]]) -> list[Any]:
    """Runs `work(start, *job)` in a process per job; `start()` is where they wait for each other. Their results."""
    processes = multiprocessing.get_context("fork" if "fork" in multiprocessing.get_all_start_methods() else "spawn")
    barrier, answers = processes.Barrier(len(jobs)), processes.Queue()
    workers = [
        processes.Process(target=_work, args=(work, barrier, answers, number, job)) for number, job in enumerate(jobs)
    ]
    for worker in workers:
        worker.start()
    try:
        found = dict(answers.get(timeout=_DEADLINE) for _ in workers)
    finally:
        for worker in workers:
            worker.join(timeout=10)
            if worker.is_alive():
                worker.kill()
    for result in found.values():
        if isinstance(result, BaseException):
            raise result
    return [found[number] for number in range(len(jobs))]


def _work(work: Callable[..., Any], barrier: Any, answers: Any, number: int, job: tuple[Any, ...]) -> None:
    gc.freeze()  # what the parent had is old, and not this worker's to collect soon
    gc.unfreeze()
    try:
        answers.put((number, work(barrier.wait, *job)))
    except BaseException as error:  # noqa: BLE001  the parent must hear of it, whatever it is
        barrier.abort()
        answers.put((number, RuntimeError(f"worker {number}: {type(error).__name__}: {error}")))


# Tables.

HEAD: Final = ("count", "conflicts", "requests", "median", "p90", "p99", "max")


def core(samples: Samples) -> list[str]:
    """The cells under `HEAD`; times in milliseconds."""
    times = sorted(samples.all)
    conflicts = "-" if samples.conflicts is None else str(samples.conflicts)
    if not times:
        return ["0", conflicts, samples.requests, "-", "-", "-", "-"]
    quantiles = (statistics.median(times), _at(times, 0.90), _at(times, 0.99), times[-1])
    return [str(len(times)), conflicts, samples.requests, *(milliseconds(seconds) for seconds in quantiles)]


def _plain(count: str) -> float | None:
    """The number in a cell; of a range, where rounds differed, its end."""
    last = count.replace(",", "").rpartition(" ")[2]
    return None if last == "-" else float(last)


def _at(times: list[float], share: float) -> float:
    return times[min(len(times) - 1, int(share * len(times)))]


def milliseconds(seconds: float) -> str:
    return number(seconds * 1000)


def number(value: float) -> str:
    """With three digits that mean something."""
    decimals = 0 if value >= 100 else 1 if value >= 10 else 2 if value >= 1 else 3
    return f"{value:,.{decimals}f}"


def ratio(value: float | None) -> str:
    return "-" if value is None else f"{number(value)} x"


def print_table(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Words to the left, numbers to the right; a blank line where the action, left of the contestant, changes."""
    lines = [list(head), *map(list, rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(head))]
    words = head.index("contestant") + 1
    print(f"\n{title}\n")
    for index, line in enumerate(lines):
        if index > 1 and words > 1 and line[0] != lines[index - 1][0]:
            print()
        cells = zip(line, widths, strict=True)
        print(
            "  ".join(
                cell.ljust(width) if column < words else cell.rjust(width) for column, (cell, width) in enumerate(cells)
            )
        )
        if index == 0:
            print("  ".join("-" * width for width in widths))


def print_notes(title: str, notes: Iterable[tuple[str, str]]) -> None:
    print()
    print(title)
    listed = list(notes)
    width = max((len(name) for name, _ in listed), default=0)
    for name, note in listed:
        print(f"  {name.ljust(width)}  {note}")
