"""A map whose second branch fails until somebody has mended it."""

from pathlib import Path

from runnable import Map, Pipeline, PythonTask


def give() -> list[str]:
    return ["whole", "broken"]


def use(part: str) -> int:
    if part == "broken" and not Path("mended").exists():
        raise RuntimeError("this part is broken")
    return len(part)


def finish(length: list) -> int:
    return sum(length)


def main() -> Pipeline:
    using = PythonTask(name="use", function=use, returns=["length"])
    pipeline = Pipeline(
        steps=[
            PythonTask(name="give", function=give, returns=["parts"]),
            Map(name="m", branch=using.as_pipeline(), iterate_on="parts", iterate_as="part"),
            PythonTask(name="after", function=finish, returns=["total"]),
        ]
    )
    pipeline.execute()
    return pipeline


if __name__ == "__main__":
    main()
