"""What does a database cost beside local disk and S3: a write, a read, and eight processes at once?"""

from __future__ import annotations

import contextlib
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import dbcontestants
import harness
import sample
from harness import Call, Place, Results, Samples

QUESTION: Final = "What does a database cost beside local disk and S3: a write, a read, and eight processes at once?"


@dataclass(frozen=True, slots=True)
class Size:
    rounds: int
    calls: int
    """Calls of each action per round."""
    steps: int
    """Root steps of the run that is read."""
    processes: int
    writes: int
    """Per process: a step and a parameter each."""


SIZES: Final = {
    "tiny": Size(1, 2, 10, 2, 3),
    "small": Size(5, 20, 1_000, 8, 50),
    "full": Size(15, 40, 5_000, 8, 400),
}


@dataclass(frozen=True, slots=True)
class Rig:
    """Where it happens, and with which servers; what a worker process needs to make its contestant."""

    folder: Path
    postgres: Any | None
    s3: Any | None
    bucket: str

    def makers(self) -> dict[str, Callable[[], Any]]:
        return dbcontestants.makers(self.folder, self.postgres, self.s3, self.bucket)


# One process.


def acts(one: Any, cold: Callable[[], Any], run: str, long: str, size: Size) -> Iterator[tuple[str, list[Call]]]:
    """What a pipeline does, each so many times. `long` is a run with many steps that is there already."""
    count = range(size.calls)
    yield "create a run", [partial(one.create, f"{run}-{number}") for number in count]
    one.create(run)
    added = [one.step(sample.step(f"s{number}")) for number in count]
    yield "add a step", [partial(one.add_step, run, step) for step in added]
    changed = [one.step(sample.step(f"s{number}", "FAIL")) for number in count]
    yield "update a known step", [partial(one.add_step, run, step) for step in changed]
    each = [one.parameters({f"p{number}": number}) for number in count]
    yield "set 1 parameter", [partial(one.set_parameters, run, values) for values in each]
    tens = [one.parameters({f"q{number}-{index}": index for index in range(10)}) for number in count]
    yield "set 10 parameters", [partial(one.set_parameters, run, values) for values in tens]
    states = [("PROCESSING", "TRIGGERED")[number % 2] for number in count]
    yield "set the status", [partial(one.set_status, run, status) for status in states]
    yield "get a step", [partial(one.get_step, run, f"s{number}") for number in count]
    reader = cold()
    yield "full read, cold", [partial(reader.read, long)]
    yield "full read again, unchanged", [partial(reader.read, long)]
    reader.close()


class Lane:
    """One contestant: its samples by action, round after round."""

    def __init__(self, make: Callable[[], Any], name: str, size: Size) -> None:
        self.make, self.size = make, size
        self.run = name.replace(" ", "-")
        self.samples: dict[str, Samples] = {}
        one = make()
        one.create(f"{self.run}-long")
        for number in range(size.steps):
            one.add_step(f"{self.run}-long", one.step(sample.step(f"step{number:05d}")))
        one.close()

    def round(self, number: int) -> list[float]:
        one = self.make()
        for action, calls in acts(one, self.make, f"{self.run}-{number}", f"{self.run}-long", self.size):
            found = self.samples.setdefault(action, Samples())
            before = asked(calls[0])
            found.rounds.append(harness.timed(calls))
            if before is not None:
                found.requests = harness.number((asked(calls[0]) - before) / len(calls)).rstrip("0").rstrip(".")  # type: ignore[operator]
        one.close()
        return [0.0]


def asked(call: Any) -> int | None:
    """What the contestant of this call has sent so far."""
    found: int | None = call.func.__self__.requests
    return found


def bench_one(rig: Rig, place: Place, size: Size, results: Results) -> None:
    lanes = {name: Lane(make, name, size) for name, make in rig.makers().items()}
    harness.interleaved({name: lane.round for name, lane in lanes.items()}, size.rounds)
    rows = []
    for action in next(iter(lanes.values())).samples:
        for name, lane in lanes.items():
            one, floor = lane.samples[action], lanes.get(dbcontestants.FLOORS.get(name, ""))
            to_floor = one.ratio_to(floor.samples[action]) if floor else None
            to_local = one.ratio_to(lanes["chunkstore local barrier"].samples[action])
            about = {"place": place.name, "action": action, "contestant": name}
            results.add(**about, **one.numbers(), to_floor=to_floor, to_local=to_local)
            rows.append([action, name, *harness.core(one), harness.ratio(to_floor), harness.ratio(to_local)])
    head = ["action", "contestant", *harness.HEAD, "to its floor", "to local barrier"]
    title = f"{place.name}: one process; full read of {size.steps:,} root steps; milliseconds"
    harness.print_table(title, head, rows)


# Many at once.


@dataclass(slots=True)
class Report:
    """When one process began and ended, how long its calls took, and the names that were acknowledged."""

    began: float
    ended: float
    times: list[float]
    acknowledged: set[str]


def write(start: Callable[[], object], rig: Rig, name: str, run: str, worker: int, size: Size) -> Report:
    one = rig.makers()[name]()
    steps = [one.step(sample.step(f"s{worker}-{number}")) for number in range(size.writes)]
    values = [one.parameters({f"p{worker}-{number}": number}) for number in range(size.writes)]
    report = Report(0.0, 0.0, [], set())
    start()
    report.began = time.monotonic()
    for step, parameter in zip(steps, values, strict=True):
        report.times += harness.timed([partial(one.add_step, run, step), partial(one.set_parameters, run, parameter)])
        report.acknowledged |= {f"step {step.internal_name}", *(f"parameter @{key}" for key in parameter)}
    report.ended = time.monotonic()
    one.close()
    return report


def bench_many(rig: Rig, place: Place, size: Size, results: Results) -> None:
    reports: dict[str, list[list[Report]]] = {name: [] for name in rig.makers()}
    lost = dict.fromkeys(reports, 0)

    def once(name: str, number: int) -> list[float]:
        run = f"{name.replace(' ', '-')}-many-{number}"
        setup = rig.makers()[name]()
        setup.create(run)
        setup.close()
        found = harness.at_the_same_time(write, [(rig, name, run, worker, size) for worker in range(size.processes)])
        reports[name].append(found)
        reader = rig.makers()[name]()
        there = reader.names(reader.read(run))
        reader.close()
        lost[name] += len(set().union(*(one.acknowledged for one in found)) - there)
        return [seconds for one in found for seconds in one.times]

    samples = harness.interleaved({name: partial(once, name) for name in reports}, min(size.rounds, 3))
    rows = []
    for name, rounds in reports.items():
        rate = statistics.median(map(rate_of, rounds))
        about = {"place": place.name, "action": "many processes", "contestant": name}
        results.add(**about, **samples[name].numbers(), writes_per_second=round(rate, 1), lost=lost[name])
        rows.append([name, f"{rate:,.0f}", *harness.core(samples[name]), f"{lost[name]}"])
    head = ["contestant", "writes/s", *harness.HEAD, "lost"]
    title = f"{place.name}: {size.processes} processes x {2 * size.writes} writes, steps and parameters in turn; milliseconds"
    harness.print_table(title, head, rows)


def rate_of(reports: list[Report]) -> float:
    """Acknowledged writes per second."""
    seconds = max(one.ended for one in reports) - min(one.began for one in reports)
    return sum(len(one.acknowledged) for one in reports) / seconds


NOTES: Final[Mapping[str, str]] = {
    "requests": "statements of a database, counted by SQLAlchemy's event; objects on S3; of one call, in the last round",
    "floor": "the same statements by sqlite3 or psycopg, with the same durability: create under a unique key, replace by version",
    "sqlite": "one file in write-ahead mode; barrier (the default): a run's creation and end are synced; power: every write",
    "postgres": "a server of our own on the same disk and machine, set as it comes: every commit waits for its log on the disk",
    "S3": "a MinIO of our own on the same machine, without latency",
    "local": "a file per chunk; see bench_write for its own floors",
}


def main() -> None:
    given = harness.options(QUESTION, "SQLite, PostgreSQL and S3 beside local disk, and the floors of the databases.")
    began, size = time.monotonic(), SIZES[given.size]
    with contextlib.ExitStack() as stack:
        places = stack.enter_context(harness.places(given))
        postgres, no_postgres = entered(stack, partial(harness.postgres_server, given))
        s3, no_s3 = entered(stack, harness.s3_server)
        versions = [*([postgres.version()] if postgres else []), *([harness.server_version(s3)] if s3 else [])]
        results = harness.print_facts(QUESTION, given, places[:1], versions)
        rig = Rig(places[0].folder, postgres, s3, s3.new_bucket() if s3 else "")
        bench_one(rig, places[0], size, results)
        bench_many(rig, places[0], size, results)
    for reason in filter(None, (no_postgres, no_s3)):
        print(f"\n{reason}")
    harness.print_notes("What is what", NOTES.items())
    harness.print_end(began)
    results.save(given)


def entered(stack: contextlib.ExitStack, server: Callable[[], Any]) -> tuple[Any, str]:
    """The server, or why there is none."""
    try:
        return stack.enter_context(server()), ""
    except SystemExit as reason:
        return None, str(reason)


if __name__ == "__main__":
    main()
