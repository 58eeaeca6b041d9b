"""Two tasks, of which the second takes what the first gave."""

from runnable import Pipeline, PythonTask


def give() -> int:
    return 3


def double(number: int) -> int:
    return number * 2


def main() -> Pipeline:
    steps = [
        PythonTask(name="give", function=give, returns=["number"]),
        PythonTask(name="double", function=double, returns=["doubled"]),
    ]
    pipeline = Pipeline(steps=steps)
    pipeline.execute()
    return pipeline


if __name__ == "__main__":
    main()
