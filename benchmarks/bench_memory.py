"""How much memory does it take to read a long run, and to list many runs?"""

from __future__ import annotations

import gc
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import contestants
import harness
from contestants import Chunkstore
from harness import Place, Results

QUESTION: Final = "How much memory does it take to read a long run, and to list many runs?"
RUN: Final = "long-run"
_DEADLINE: Final = 600.0


@dataclass(frozen=True, slots=True)
class Size:
    chunks: int
    """Root steps of the run that is read: one chunk each."""
    runs: int
    """Runs that are listed: a header each."""


SIZES: Final = {"tiny": Size(30, 30), "small": Size(10_000, 10_000), "full": Size(100_000, 100_000)}
_READERS: Final = ("floor process", "chunkstore process", "sqlite process", "runnable chunked-fs", "Optuna journal")


# What is measured, each in a process of its own.


def _consumed(found: Iterable[object]) -> int:
    """One after the other, and none kept."""
    return sum(1 for _ in found)


def _kept(found: Iterable[object]) -> int:
    """All at once, as a caller who keeps the list has them."""
    return len(found if isinstance(found, list) else [*found])


Listing = Callable[[Chunkstore], int]
_STREAM: Final = "full read, by iter_chunks"
LISTINGS: Final[dict[str, Listing]] = {
    "list_run_ids": lambda one: _kept(one.store.list_run_ids()),
    "iter_run_ids": lambda one: _consumed(one.store.iter_run_ids()),
    "get_run_logs": lambda one: _kept(one.store.get_run_logs()),
    "iter_run_logs": lambda one: _consumed(one.store.iter_run_logs()),
    "find_runs, 100 of them": lambda one: len(one.store.find_runs(limit=100).runs),
    _STREAM: lambda one: _consumed(one.store.iter_chunks(RUN)),
}
_INDEXED: Final = ("get_run_logs", "iter_run_logs", "find_runs, 100 of them")


def measure(folder: Path, what: str, name: str) -> None:
    """In the process of its own: prints the kilobytes that the call took beyond what was there, and its seconds."""
    one: Any = contestants.makers(("process",))[name](folder)
    call: Callable[[], object] = (lambda: one.read(RUN)) if what == "read" else (lambda: LISTINGS[what](one))
    gc.collect()
    before = _kilobytes("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    began = time.perf_counter()
    found = call()
    seconds = time.perf_counter() - began
    print(_kilobytes("VmHWM") - before, seconds)
    del found


def _kilobytes(which: str) -> int:
    """Of this process, by the kernel. `getrusage` would tell the parent's peak where that is higher."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith(f"{which}:")))


def _measured(folder: Path, what: str, name: str) -> tuple[int, float]:
    command = [sys.executable, __file__, "--measure", str(folder), what, name]
    done = subprocess.run(command, capture_output=True, text=True, timeout=_DEADLINE, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{name}, {what}: {done.stderr}")
    kilobytes, seconds = done.stdout.split()
    return int(kilobytes) * 1024, float(seconds)


# The tables.


def bench(place: Place, size: Size, results: Results) -> None:
    head = ["action", "contestant", "count", "peak MB", "bytes each", "seconds"]
    names = [f"step{number:06d}" for number in range(size.chunks)]
    rows = []
    made = contestants.makers(("process",))
    for name in [name for name in _READERS if name in made]:
        one = made[name](place.folder)
        one.create(RUN)
        one.fill(RUN, names)
        one.close()
        rows.append(_row(results, "full read", name, size.chunks, _measured(place.folder, "read", name)))
    ours = "chunkstore process"
    rows.append(_row(results, _STREAM, ours, size.chunks, _measured(place.folder, _STREAM, ours)))
    title = f"{place.name}, a run of {size.chunks:,} root steps of about 1.4 kB"
    harness.print_table(title, head, rows)

    inside = place.folder / "runs"
    runs = Chunkstore(inside)
    for number in range(size.runs):
        run = f"run{number:06d}"
        runs.create(run)
        runs.set_status(run, "SUCCESS")
    rows = [_listing(results, inside, what, size.runs, "") for what in LISTINGS if what != _STREAM]
    runs.store.reindex()
    rows += [_listing(results, inside, what, size.runs, ", indexed") for what in _INDEXED]
    harness.print_table(f"{place.name}, {size.runs:,} finished runs", head, rows)


def _listing(results: Results, folder: Path, what: str, count: int, how: str) -> list[str]:
    return _row(results, f"{what}{how}", "chunkstore process", count, _measured(folder, what, "chunkstore process"))


def _row(results: Results, action: str, name: str, count: int, found: tuple[int, float]) -> list[str]:
    peak, seconds = found
    results.add(action=action, contestant=name, count=count, peak_bytes=peak, bytes_each=peak / count, seconds=seconds)
    return [action, name, f"{count:,}", harness.number(peak / 1e6), f"{peak / count:,.0f}", harness.number(seconds)]


NOTES: Final = (
    (
        "peak MB",
        "the most that the process had during the call beyond what it had before, as the kernel counts (VmHWM)",
    ),
    (
        "bytes each",
        "the same divided by the chunks or runs; parsed models of a step of 1.4 kB take several times its JSON",
    ),
    ("full read", "the whole run as models, in a fresh process; the result is held when the peak is taken"),
    (_STREAM, "chunk by chunk, and the caller keeps none"),
    ("Optuna journal", "plain dicts, no models"),
    ("get_run_logs", "a list of headers as models; list_run_ids: a list of names"),
    ("iter_run_logs, iter_run_ids", "one after the other, and the caller keeps none"),
    ("indexed", "after `reindex`: the headers come from the index"),
)


def main() -> None:
    given = harness.options(QUESTION, "Each call in a process of its own, whose peak the kernel tells.")
    began = time.monotonic()
    if not Path("/proc/self/clear_refs").exists():
        raise SystemExit("skipped: only Linux tells the peak of a process")
    with harness.places(given) as places:
        place = places[-1]  # memory where there is one: what is measured does not depend on the disk
        results = harness.print_facts(QUESTION, given, [place])
        bench(place, SIZES[given.size], results)
    harness.print_notes("What is what", [*NOTES, *contestants.missing()])
    harness.print_end(began)
    results.save(given)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--measure"]:
        measure(Path(sys.argv[2]), sys.argv[3], sys.argv[4])
    else:
        main()
