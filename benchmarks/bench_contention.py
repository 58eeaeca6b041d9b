"""How many writes do eight processes get through at once, and what is lost?"""

from __future__ import annotations

import multiprocessing
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final

import contestants
import harness
import sample
from contestants import Contestant, Maker, durability_of
from harness import Call, Place, Results, Samples

QUESTION: Final = "How many writes do eight processes get through at once, and what is lost?"


@dataclass(frozen=True, slots=True)
class Size:
    processes: int
    branches: int
    """In all, divided among the processes."""
    parameters: int
    """Root parameters per process."""
    fields: int
    """Updates of one header field per process."""
    rounds: int


SIZES: Final = {
    "tiny": Size(2, 4, 3, 3, 1),
    "small": Size(8, 160, 25, 10, 3),
    "full": Size(8, 1_000, 200, 50, 3),
}
_SLOW: Final = ("MLflow sqlite",)
"""Takes part in one round: it is the slowest by far."""


def makers() -> dict[str, Maker]:
    made = contestants.makers(("process", "power"))
    made.pop("runnable file-system", None)  # one writer only: it breaks at once
    return made


@dataclass(frozen=True, slots=True)
class Write:
    """One call, and the names of what is stored once it has returned."""

    call: Call
    names: tuple[str, ...]


@dataclass(slots=True)
class Report:
    """What one process did: when, how long each call took, what was acknowledged and what was refused."""

    began: float = 0.0
    ended: float = 0.0
    times: list[float] = field(default_factory=list)
    acknowledged: list[str] = field(default_factory=list)
    refused: int = 0
    conflicts: int | None = None
    requests: int | None = None


# What each process writes.


def branches(one: Contestant, run: str, worker: int, size: Size) -> Iterator[Write]:
    for number in range(worker, size.branches, size.processes):
        name = sample.branch(number)
        yield Write(partial(one.add_branch, run, name), (f"branch {name}",))
        for step in sample.steps_of(name):
            yield Write(partial(one.add_step, run, one.step(sample.step(step))), (f"step {step}",))
        values = sample.parameters_of(name)
        given = one.parameters(values)
        yield Write(partial(one.set_parameters, run, given, name), tuple(f"parameter {name}@{key}" for key in values))


def parameters(one: Contestant, run: str, worker: int, size: Size) -> Iterator[Write]:
    for number in range(size.parameters):
        name = f"p{worker}-{number}"
        yield Write(partial(one.set_parameters, run, one.parameters({name: number})), (f"parameter @{name}",))


def fields(one: Contestant, run: str, worker: int, size: Size) -> Iterator[Write]:
    """A key each time, so that every lost update can be told from the others."""
    for number in range(size.fields):
        name = f"f{worker}-{number}"
        yield Write(partial(one.set_field, run, name, number), (f"field {name}",))


Workload = Callable[[Contestant, str, int, Size], Iterator[Write]]


def workloads(size: Size) -> dict[str, Workload]:
    shown = size.processes, size.branches
    return {
        f"{shown[0]} processes, {shown[1]:,} branches x (3 steps + 2 parameters)": branches,
        f"{shown[0]} x {size.parameters} root parameters": parameters,
        f"{shown[0]} x {size.fields} updates of the run's configuration": fields,
    }


# The processes.


def write(
    start: Callable[[], object], name: str, folder: Path, run: str, work: Workload, worker: int, size: Size
) -> Report:
    one, report = makers()[name](folder), Report()
    writes = list(work(one, run, worker, size))
    start()
    report.began = time.monotonic()
    for each in writes:
        began = time.perf_counter()
        try:
            each.call()
        except Exception:  # noqa: BLE001  whatever a contestant raises: the write was not acknowledged
            report.refused += len(each.names)
            continue
        report.times.append(time.perf_counter() - began)
        report.acknowledged += each.names
    report.ended = time.monotonic()
    report.conflicts, report.requests = one.conflicts, one.requests
    return report


def read(start: Callable[[], object], name: str, folder: Path, run: str, finished: Any) -> tuple[int, int, list[float]]:
    """Reads the whole run again and again until the writers are done: how often it could, and could not."""
    one, ok, failed, times = makers()[name](folder), 0, 0, []
    start()
    while not finished.is_set():
        began = time.perf_counter()
        try:
            one.names(one.read(run))
        except Exception:  # noqa: BLE001  whatever a contestant raises: this reader got nothing
            failed += 1
        else:
            ok += 1
            times.append(time.perf_counter() - began)
    return ok, failed, times


@dataclass(slots=True)
class Outcome:
    """One round of one contestant."""

    reports: list[Report]
    lost: int | None
    """Acknowledged, and not there afterwards; None where the run cannot be read any more."""
    reads: tuple[int, int] | None = None

    @property
    def rate(self) -> float:
        """Acknowledged writes per second."""
        return self.acknowledged / self.seconds

    @property
    def safe(self) -> bool:
        """Nothing refused, nothing lost, and the reader beside it always got its run."""
        refused = sum(report.refused for report in self.reports)
        return self.lost == 0 and not refused and (self.reads is None or self.reads[1] == 0)

    @property
    def acknowledged(self) -> int:
        return sum(len(report.acknowledged) for report in self.reports)

    @property
    def seconds(self) -> float:
        return max(report.ended for report in self.reports) - min(report.began for report in self.reports)


def once(name: str, folder: Path, work: Workload, size: Size, *, reader: bool, number: int) -> Outcome:
    run = f"{work.__name__}-{'reader' if reader else 'alone'}-{number}"
    setup = makers()[name](folder)
    setup.create(run)
    if work is branches:
        setup.add_step(run, setup.step(sample.map_step()))
    setup.close()
    jobs = [(name, folder, run, work, worker, size) for worker in range(size.processes)]
    if not reader:
        reports = harness.at_the_same_time(write, jobs)
        return Outcome(reports, _lost(name, folder, run, reports))
    finished = multiprocessing.get_context("fork").Event()
    left = multiprocessing.get_context("fork").Value("i", len(jobs))
    found = harness.at_the_same_time(
        _either,
        [*((finished, left, write, job) for job in jobs), (finished, left, read, (name, folder, run, finished))],
    )
    *reports, (ok, failed, _) = found
    return Outcome(reports, _lost(name, folder, run, reports), (ok, failed))


def _either(
    start: Callable[[], object], finished: Any, left: Any, work: Callable[..., Any], job: tuple[Any, ...]
) -> Any:
    """Writes, and says so to the reader when it was the last; or reads."""
    if work is read:
        return read(start, *job)
    try:
        return write(start, *job)
    finally:
        with left.get_lock():
            left.value -= 1
            if left.value == 0:
                finished.set()


def _lost(name: str, folder: Path, run: str, reports: list[Report]) -> int | None:
    fresh = makers()[name](folder)
    try:
        there = fresh.names(fresh.read(run))
    except Exception:  # noqa: BLE001  whatever it is, nothing of the run can be had
        return None
    finally:
        fresh.close()
    return len({one for report in reports for one in report.acknowledged} - there)


# The tables.


def bench(place: Place, size: Size, results: Results) -> None:
    for title, work in workloads(size).items():
        for reader in (False, True) if work is branches else (False,):
            outcomes: dict[str, list[Outcome]] = {name: [] for name in makers()}
            samples = harness.interleaved(
                {name: partial(_round, name, place.folder, work, size, reader, outcomes) for name in makers()},
                size.rounds,
            )
            beside = ", beside a reader" if reader else ""
            about = {"place": place.name, "action": f"{work.__name__}{beside}", "title": f"{title}{beside}"}
            rows = [_row(name, outcomes, samples[name], results, about) for name in outcomes]
            head = ["contestant", "writes/s", *harness.HEAD, "acknowledged", "refused", "lost"]
            head += ["reads ok", "reads failed"] if reader else []
            head += ["time per write to its floor"]
            harness.print_table(f"{place.name}: {title}{beside}; milliseconds", head, rows)
            print_against_peers(outcomes, results, about)


def _round(
    name: str,
    folder: Path,
    work: Workload,
    size: Size,
    reader: bool,
    outcomes: Mapping[str, list[Outcome]],
    number: int,
) -> list[float]:
    if number and name in _SLOW:
        return []
    outcome = once(name, folder, work, size, reader=reader, number=number)
    outcomes[name].append(outcome)
    return [seconds for report in outcome.reports for seconds in report.times]


def _row(
    name: str,
    outcomes: Mapping[str, list[Outcome]],
    samples: Samples,
    results: Results,
    about: Mapping[str, Any],
) -> list[str]:
    mine = outcomes[name]
    reports = [report for outcome in mine for report in outcome.reports]
    if reports[0].requests is not None:
        samples.requests = f"{sum(report.requests or 0 for report in reports):,}"
        samples.conflicts = sum(report.conflicts or 0 for report in reports)
    floor = outcomes[f"floor {durability_of(name)}"]
    ratios = [_per_write(one) / _per_write(other) for one, other in zip(mine, floor, strict=False) if one.acknowledged]
    to_floor = statistics.median(ratios) if ratios else None
    unreadable = sum(1 for outcome in mine if outcome.lost is None)
    lost = sum(outcome.lost or 0 for outcome in mine)
    refused = sum(report.refused for report in reports)
    acknowledged = sum(one.acknowledged for one in mine)
    rate = statistics.median(one.rate for one in mine)
    row = [name, f"{rate:,.0f}", *harness.core(samples), f"{acknowledged:,}", f"{refused:,}"]
    row += [f"{lost:,}; {unreadable} of {len(mine)} runs unreadable" if unreadable else f"{lost:,}"]
    numbers: dict[str, Any] = {"writes_per_second": round(rate, 1), "acknowledged": acknowledged, "refused": refused}
    numbers |= {"lost": lost, "unreadable": unreadable, "runs": len(mine), "safe": _is_safe(name, mine)}
    if mine[0].reads is not None:
        reads = [outcome.reads for outcome in mine if outcome.reads is not None]
        numbers |= {"reads_ok": sum(ok for ok, _ in reads), "reads_failed": sum(failed for _, failed in reads)}
        row += [f"{numbers['reads_ok']:,}", f"{numbers['reads_failed']:,}"]
    results.add(**about, contestant=name, **samples.numbers(), **numbers, to_floor=to_floor)
    return [*row, harness.ratio(to_floor)]


def _per_write(outcome: Outcome) -> float:
    return outcome.seconds / max(1, outcome.acknowledged)


def print_against_peers(outcomes: Mapping[str, list[Outcome]], results: Results, about: Mapping[str, Any]) -> None:
    """Acknowledged writes per second to those of the best safe product that promises as much or more, and to sqlite alone."""
    print()
    for durability in ("process", "power"):
        ours = f"chunkstore {durability}"
        safe = [
            name for name in outcomes if _is_safe(name, outcomes[name]) and _promises(durability_of(name), durability)
        ]
        for kind, rivals in {
            "product": [name for name in safe if not name.startswith("sqlite")],
            "sqlite": [name for name in safe if name == f"sqlite {durability}"],
        }.items():
            if not rivals:
                print(f"{ours}: no {kind} that promises as much was safe here")
                continue
            best = max(rivals, key=lambda name: statistics.median(one.rate for one in outcomes[name]))
            pairs = zip(outcomes[ours], outcomes[best], strict=False)
            ratio = statistics.median(mine.rate / theirs.rate for mine, theirs in pairs)
            which = f"the best safe product, {best} ({durability_of(best)})" if kind == "product" else f"{best}, alone"
            print(f"{ours}: {harness.ratio(ratio)} the acknowledged writes per second of {which}")
            results.add(**about, contestant=ours, against=kind, best=best, ratio=ratio)


def _promises(found: str, wanted: str) -> bool:
    return found in {"power", wanted}


def _is_safe(name: str, mine: list[Outcome]) -> bool:
    """Whoever writes in place is not, even where nobody looked while a file was half written."""
    in_place = name.startswith("runnable") or name == "MLflow files"
    return not name.startswith(("floor", "chunkstore")) and not in_place and all(one.safe for one in mine)


NOTES: Final = (
    ("writes", "chunks or their like: a branch, a step, a parameter, an update. chunkstore makes one object of each"),
    (
        "runnable chunked-fs",
        "one file per branch, rewritten at each write; the root's parameters and configuration in one file",
    ),
    ("Optuna journal", "one file for the run, appended to; each process reads what the others appended"),
    ("MLflow", "one row or file for each tag; sqlite takes part in one round"),
    (
        "floor",
        "its configuration is read and replaced under flock, without which updates are lost; the rest has no conditions",
    ),
    ("lost", "acknowledged, and not there when the run is read back afterwards"),
    (
        "reads",
        "of the whole run, in a loop of one more process; for chunkstore an orphan or a damaged chunk is a failed read",
    ),
)


def main() -> None:
    given = harness.options(QUESTION, "Processes start at a barrier; each has its own store object.")
    began = time.monotonic()
    with harness.places(given) as places:
        results = harness.print_facts(QUESTION, given, places)
        for place in places:
            bench(place, SIZES[given.size], results)
    harness.print_notes("What is what", [*NOTES, *contestants.PROMISES, *contestants.missing()])
    harness.print_end(began)
    results.save(given)


if __name__ == "__main__":
    main()
