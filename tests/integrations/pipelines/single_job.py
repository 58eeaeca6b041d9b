"""A job: one task without a graph."""

from pathlib import Path

from runnable import Catalog, PythonJob, metric


def add() -> tuple[int, float]:
    Path("report.txt").write_text("three")
    return 3, 0.5


def main() -> PythonJob:
    job = PythonJob(function=add, returns=["sum", metric("share")], catalog=Catalog(put=["report.txt"]))
    job.execute()
    return job


if __name__ == "__main__":
    main()
