"""Composite steps within composite steps, as deep as runnable itself can go."""

from runnable import Conditional, Loop, Parallel, Pipeline, PythonTask


def begin() -> tuple[str, int]:
    return "red", 0


def paint() -> str:
    return "painted"


def climb(height: int = 0) -> tuple[int, bool]:
    return height + 1, height + 1 >= 2


def main() -> Pipeline:
    painted = PythonTask(name="paint", function=paint, returns=["result"])
    climbing = PythonTask(name="climb", function=climb, returns=["height", "done"])
    choose = Conditional(name="choose", parameter="colour", branches={"red": painted.as_pipeline()})
    stairs = Loop(name="stairs", branch=climbing.as_pipeline(), max_iterations=5, break_on="done", index_as="INDEX")
    branches = {"chosen": Pipeline(steps=[choose]), "climbed": Pipeline(steps=[stairs])}
    both = Pipeline(steps=[Parallel(name="both", branches=branches)])
    outer = Conditional(name="outer", parameter="colour", branches={"red": both})
    pipeline = Pipeline(steps=[PythonTask(name="begin", function=begin, returns=["colour", "height"]), outer])
    pipeline.execute()
    return pipeline


if __name__ == "__main__":
    main()
