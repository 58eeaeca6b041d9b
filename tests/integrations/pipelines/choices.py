"""One value of each kind, a file for the catalog, a conditional, a loop, and a step that only pretends."""

from pathlib import Path

from runnable import Catalog, Conditional, Loop, Pipeline, PythonTask, Stub, metric, pickled


def measure() -> tuple:
    Path("table.csv").write_text("a,b\n")
    return "red", {"deep": [1, {"ü": 2**70}]}, float("nan"), {1, 2}


def paint() -> str:
    return "painted"


def climb(height: int) -> tuple[int, bool]:
    return height + 1, height + 1 >= 3


def begin() -> int:
    return 0


def main() -> Pipeline:
    returns = ["colour", "nested", metric("loss"), pickled("found")]
    catalog = Catalog(put=["table.csv"])
    painted = PythonTask(name="paint", function=paint, returns=["result"])
    climbing = PythonTask(name="climb", function=climb, returns=["height", "done"])
    pipeline = Pipeline(
        steps=[
            PythonTask(name="measure", function=measure, returns=returns, catalog=catalog),
            PythonTask(name="begin", function=begin, returns=["height"]),
            Conditional(
                name="choose",
                parameter="colour",
                branches={"red": painted.as_pipeline(), "blue": Stub(name="skip").as_pipeline()},
            ),
            Loop(name="stairs", branch=climbing.as_pipeline(), max_iterations=9, break_on="done", index_as="INDEX"),
            Stub(name="pretend"),
        ]
    )
    pipeline.execute()
    return pipeline


if __name__ == "__main__":
    main()
