"""A job: one task without a graph."""

from runnable import PythonJob


def add() -> int:
    return 3


def main() -> PythonJob:
    job = PythonJob(function=add, returns=["sum"])
    job.execute()
    return job


if __name__ == "__main__":
    main()
