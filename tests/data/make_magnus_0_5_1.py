"""How `magnus-0.5.1/` was made: runs that the real magnus 0.5.1 wrote, and what its own readers make of them.

    python -m venv venv && venv/bin/pip install "magnus==0.5.1" "rich<14"
    venv/bin/python tests/data/make_magnus_0_5_1.py

Made once, read for ever: `chunked-fs/` and `file-system/` are the folders as its two stores write them, and `read.json` is what
`get_run_log_by_id(run_id, full=True)` of the same store gives, for each run. It needs magnus, and neither chunkstore nor the network.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "magnus-0.5.1"
STORES = ("chunked-fs", "file-system")

FUNCTIONS = """
import os
from pathlib import Path
from magnus import track_this
from pydantic import BaseModel, ConfigDict

class Given(BaseModel):
    model_config = ConfigDict(extra="allow")

def give():
    Path("table.csv").write_text("a,b\\n1,2\\n")
    track_this(rows=2, loss={"value": 0.25, "step": 1})
    return Given(parts=["eu", "us"], number=1.5, nested={"kind": "json", "value": [1, None, "ü 😀"]})

def double(part: str, number: float):
    return Given(**{"doubled_" + part: number * 2})

def check(part: str):
    track_this(checked=part)

def fails():
    raise ValueError("this step fails: [red]no[/red] <b>")

def needs_a_file():
    if not Path("mended").exists():
        raise FileNotFoundError("mended is not there yet")
"""

ENDS = {"success": {"type": "success"}, "fail": {"type": "fail"}}


def task(function: str, following: str, **more: Any) -> dict[str, Any]:
    return {"type": "task", "command": f"functions.{function}", "command_type": "python", "next": following, **more}


def graph(start: str, **steps: Any) -> dict[str, Any]:
    return {"start_at": start, "steps": {**steps, **ENDS}}


INNER = graph("in dag", **{"in dag": {"type": "stub", "next": "success"}})
BRANCH_B = graph("second", second=task("check", "third"), third={"type": "stub", "next": "success"})
SIDES = {
    "left": graph("check", check=task("check", "success")),
    "right": graph("rest", rest={"type": "stub", "next": "success"}),
}
NIGHTLY = graph(
    "give",
    give=task("give", "all parts", catalog={"put": ["table.csv"]}),
    **{
        "all parts": {
            "type": "map",
            "iterate_on": "parts",
            "iterate_as": "part",
            "next": "Parallel step",
            "branch": graph(
                "double",
                double=task("double", "sides", catalog={"get": ["table.csv"]}),
                sides={"type": "parallel", "branches": SIDES, "next": "success"},
            ),
        },
        "Parallel step": {
            "type": "parallel",
            "next": "inner",
            "branches": {
                "Branch A": graph("Child Step", **{"Child Step": {"type": "stub", "next": "success"}}),
                "Branch B": graph("second", second={"type": "stub", "next": "success"}),
            },
        },
        "inner": {"type": "dag", "dag_definition": "inner.yaml", "next": "may fail"},
        "may fail": task("fails", "success", on_failure="tidy up"),
        "tidy up": {"type": "stub", "next": "success"},
    },
)
FAILING = graph("begin", begin={"type": "stub", "next": "broken"}, broken=task("needs_a_file", "success"))


def magnus(folder: Path, *arguments: str, **environment: str) -> None:
    """One command of magnus; a run that fails is as good as another."""
    command = [sys.executable, "-W", "ignore", "-c", "from magnus.cli import cli; cli()", *arguments]
    subprocess.run(command, cwd=folder, env={**os.environ, **environment}, check=False, stdout=subprocess.DEVNULL)


def run(folder: Path, config: str, definition: str, run_id: str, *more: str) -> None:
    """One pipeline."""
    magnus(folder, "execute", "-f", definition, "-c", config, "--run-id", run_id, *more)


def prepare(folder: Path) -> None:
    (folder / "functions.py").write_text(FUNCTIONS)
    (folder / "nightly.yaml").write_text(json.dumps({"dag": NIGHTLY}))
    (folder / "inner.yaml").write_text(json.dumps({"dag": INNER}))
    (folder / "failing.yaml").write_text(json.dumps({"dag": FAILING}))
    (folder / "given.yaml").write_text(json.dumps({"greek": 1, "text": "ab", "missing": None}))
    for store in STORES:
        config = {"run_log_store": {"type": store, "config": {"log_folder": store}}, "catalog": {"type": "file-system"}}
        (folder / f"{store}.yaml").write_text(json.dumps(config))


def read(store: str, run_id: str) -> dict[str, Any]:
    """What magnus reads of one run."""
    from magnus.extensions.run_log_store.chunked_file_system.implementation import ChunkedFileSystemRunLogStore
    from magnus.extensions.run_log_store.file_system.implementation import FileSystemRunLogstore

    kind = ChunkedFileSystemRunLogStore if store == "chunked-fs" else FileSystemRunLogstore
    found: dict[str, Any] = kind(log_folder=store).get_run_log_by_id(run_id, full=True).model_dump()
    return found


def main() -> None:
    shutil.rmtree(HERE, ignore_errors=True)
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(folder)
        for store in STORES:
            config = f"{store}.yaml"
            run(folder, config, "nightly.yaml", "nightly 1", "-p", "given.yaml", "--tag", "nightly")
            run(folder, config, "failing.yaml", "fails")
            (folder / "mended").touch()
            run(folder, config, "failing.yaml", "mended", "--use-cached", "fails")
            again = ("execute_single_node", "fails", "broken", "-f", "failing.yaml", "-c", config)
            magnus(folder, *again, MAGNUS_STEP_ATTEMPT="2")
            (folder / "mended").unlink()
        with contextlib.chdir(folder):
            found = {
                store: {run_id: read(store, run_id) for run_id in ("nightly 1", "fails", "mended")} for store in STORES
            }
        for store in STORES:
            shutil.copytree(folder / store, HERE / store)
    (HERE / "read.json").write_text(json.dumps(found) + "\n")


if __name__ == "__main__":
    main()
