"""A pipeline by magnus's SDK; what `execute` returns is printed."""

import sys

from magnus import Catalog, Map, Parallel, Pipeline, Stub, Task


def branch(step: Task | Stub) -> Pipeline:
    return Pipeline(steps=[step], start_at=step)


def main(configuration: str, run_id: str) -> None:
    give = Task(name="give", command="functions.give", catalog=Catalog(put=["table.csv"]))
    double = branch(Task(name="double", command="functions.double", terminate_with_success=True))
    each = Map(name="each", branch=double, iterate_on="parts", iterate_as="part")
    sides = {name: branch(Stub(name="rest", terminate_with_success=True)) for name in ("left", "right one")}
    both = Parallel(name="both", branches=sides, terminate_with_success=True)
    give >> each >> both
    run_log = Pipeline(steps=[give, each, both], start_at=give).execute(
        configuration_file=configuration, run_id=run_id, tag="sdk"
    )
    print("RETURNED", run_log.status, run_log.parameters["doubled_us"])  # noqa: T201  the test reads it


if __name__ == "__main__":
    main(*sys.argv[1:])
