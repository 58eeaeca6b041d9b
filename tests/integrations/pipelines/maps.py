"""Two maps and a parallel node; every branch runs in a process of its own."""

import os

from runnable import Map, Parallel, Pipeline, PythonTask, metric


def give() -> tuple[list[float], list[str], int]:
    return [0.1, 1.5, 2.5], ["eu/west", "a b", "ü.json", "a.b"], os.getpid()


def double(number: float) -> tuple[float, int]:
    return number * 2, os.getpid()


def greet(region: str) -> str:
    return f"hello {region}"


def weigh() -> float:
    return 0.25


def count() -> dict[str, int | None]:
    return {"rows": 2**70, "none": None}


def main() -> Pipeline:
    numbers = PythonTask(name="double", function=double, returns=["doubled", "worker"])
    regions = PythonTask(name="greet", function=greet, returns=["greeting"])
    sides = {
        "left": PythonTask(name="weigh", function=weigh, returns=[metric("weight")]).as_pipeline(),
        "right one": PythonTask(name="count", function=count, returns=["counted"]).as_pipeline(),
    }
    pipeline = Pipeline(
        steps=[
            PythonTask(name="give", function=give, returns=["numbers", "regions", "parent"]),
            Map(name="by_number", branch=numbers.as_pipeline(), iterate_on="numbers", iterate_as="number"),
            Map(name="by_region", branch=regions.as_pipeline(), iterate_on="regions", iterate_as="region"),
            Parallel(name="sides", branches=sides),
        ]
    )
    pipeline.execute()
    return pipeline


if __name__ == "__main__":
    main()
