"""A runnable pipeline with a parallel and a map node, each branch in a process of its own; then its run log, read back whole.

python examples/01_parallel_map_pipeline.py                                  # run logs in runs/, which git ignores
python examples/01_parallel_map_pipeline.py examples/runnable-minio.yaml     # what that needs is said in the file
"""

# ruff: noqa: D103  the names of the tasks say it

import io
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from uuid import uuid4

import rich
from runnable import Map, Parallel, Pipeline, PythonTask, metric
from runnable.context import get_run_context

from chunkstore.show import tree


def find_regions() -> list[str]:
    return ["eu/west", "us", "asia.south"]


def train(region: str) -> tuple[float, int]:
    return len(region) / 10, os.getpid()


def profile() -> dict[str, int]:
    return {"rows": 1000, "columns": 7}


def validate() -> bool:
    return True


def main() -> Pipeline:
    checks = {
        "profile": PythonTask(name="profile", function=profile, returns=["profiled"]).as_pipeline(),
        "validate": PythonTask(name="validate", function=validate, returns=["valid"]).as_pipeline(),
    }
    training = PythonTask(name="train", function=train, returns=[metric("score"), "process"]).as_pipeline()
    pipeline = Pipeline(
        steps=[
            PythonTask(name="find", function=find_regions, returns=["regions"]),
            Parallel(name="check", branches=checks),
            Map(name="by_region", branch=training, iterate_on="regions", iterate_as="region"),
        ]
    )
    config = sys.argv[1] if len(sys.argv) > 1 else "examples/runnable-local.yaml"
    pipeline.execute(configuration_file=config, run_id=f"example-{uuid4().hex[:8]}", log_level="CRITICAL")
    return pipeline


if __name__ == "__main__":
    os.chdir(Path(__file__).parents[1])
    with redirect_stdout(io.StringIO()):  # runnable tells every step as it goes; here the run log shall speak
        main()
    context = get_run_context()
    store = context.run_log_store.store
    rich.print(tree(store.get_run_log_by_id(context.run_id)))
    chunks = [entry.key for entry in store.backend.list(f"{context.run_id}/")]
    print(f"\n{len(chunks)} chunks in {store.backend.place}, such as {max(chunks, key=len)}")

# example-…  SUCCESS  … s
# ├── regions = ['eu/west', 'us', 'asia.south']
# ├── profiled = {'rows': 1000, 'columns': 7}
# ├── valid = True
# ├── score = [0.7, 0.2, 1.0]
# ├── process = […]
# ├── find  SUCCESS  … s
# ├── check  SUCCESS  … s
# │   ├── profile  SUCCESS  … s
# │   │   ├── profiled = {'rows': 1000, 'columns': 7}
# │   │   ├── profile  SUCCESS  … s
# │   │   └── success  SUCCESS  … s
# │   └── validate  SUCCESS  … s
# │       ├── valid = True
# │       ├── validate  SUCCESS  … s
# │       └── success  SUCCESS  … s
# ├── by_region  SUCCESS  … s
# │   ├── eu/west  SUCCESS  … s
# │   │   ├── score = 0.7  metric
# │   │   ├── process = …
# │   │   ├── train  SUCCESS  … s
# │   │   └── success  SUCCESS  … s
# │   ├── us  SUCCESS  … s
# │   │   ├── score = 0.2  metric
# │   │   ├── process = …
# │   │   ├── train  SUCCESS  … s
# │   │   └── success  SUCCESS  … s
# │   └── asia.south  SUCCESS  … s
# │       ├── score = 1.0  metric
# │       ├── process = …
# │       ├── train  SUCCESS  … s
# │       └── success  SUCCESS  … s
# └── success  SUCCESS  … s
#
# 33 chunks in …/runs, such as example-…/parameter@by_region.asia.south@process.json
