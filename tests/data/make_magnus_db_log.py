"""How `magnus-db-log/` was made: a `db_log` table that the real database store of magnus wrote, and what it reads itself.

    python -m venv venv && venv/bin/pip install "magnus==0.3.12" "sqlalchemy<2.1"
    venv/bin/pip install --no-deps "magnus-extensions==0.2.13"
    venv/bin/python tests/data/make_magnus_db_log.py

Made once, read for ever: `runs.db` is an SQLite file, and `read.json` is what `get_run_log_by_id(run_id, full=True)` of the same store
gives. The store is `magnus_extensions.datastore.db.implementation:DBStore`. The package ships it without an entry point, so one is made here, and
as it was before magnus 0.4, whose settings it cannot read: hence magnus 0.3.12. Nothing of either is changed. It needs magnus, and neither chunkstore nor the network.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent / "magnus-db-log"
RUNS = ("nightly 1", "fails")

FUNCTIONS = """
from magnus import track_this

def give():
    track_this(rows=2, loss={"value": 0.25})
    return {"parts": ["eu", "us"], "number": 1.5, "nested": {"kind": "json", "value": [1, None, "ü 😀"]}}

def double(part, number):
    return {"doubled_" + part: number * 2}

def fails():
    raise ValueError("this step fails: [red]no[/red] <b>")
"""

ENDS = {"success": {"type": "success"}, "fail": {"type": "fail"}}

READ = """
import json, sys
from magnus_extensions.datastore.db.implementation import DBStore
import sqlalchemy
from sqlalchemy.orm import sessionmaker
store = DBStore({"connection_string": "sqlite:///runs.db"})
store.engine = sqlalchemy.create_engine("sqlite:///runs.db")
store.session = sessionmaker(bind=store.engine)
print(json.dumps({run_id: store.get_run_log_by_id(run_id, full=True).dict() for run_id in sys.argv[1:]}))
"""

CREATE = """
from magnus_extensions.datastore.db.implementation import create_tables
create_tables("sqlite:///runs.db")
"""


def task(function: str, following: str, **more: Any) -> dict[str, Any]:
    return {"type": "task", "command": f"functions.{function}", "command_type": "python", "next": following, **more}


def graph(start: str, **steps: Any) -> dict[str, Any]:
    return {"start_at": start, "steps": {**steps, **ENDS}}


STUB = {"type": "as-is", "next": "success"}
NIGHTLY = graph(
    "give",
    give=task("give", "all parts"),
    **{
        "all parts": {
            "type": "map",
            "iterate_on": "parts",
            "iterate_as": "part",
            "next": "Parallel step",
            "branch": graph("double", double=task("double", "success")),
        },
        "Parallel step": {
            "type": "parallel",
            "next": "success",
            "branches": {
                "Branch A": graph("Child Step", **{"Child Step": STUB}),
                "Branch B": graph("second", second=STUB),
            },
        },
    },
)
FAILING = graph("begin", begin={"type": "as-is", "next": "broken"}, broken=task("fails", "success"))


def python(folder: Path, code: str, *arguments: str) -> str:
    """What a program prints that runs in the folder; a run that fails is as good as another."""
    environment = {**os.environ, "PYTHONPATH": str(folder)}
    command = [sys.executable, "-W", "ignore", "-c", code, *arguments]
    return subprocess.run(command, cwd=folder, env=environment, check=False, stdout=subprocess.PIPE, text=True).stdout


def prepare(folder: Path) -> None:
    (folder / "functions.py").write_text(FUNCTIONS)
    (folder / "nightly.yaml").write_text(json.dumps({"dag": NIGHTLY}))
    (folder / "failing.yaml").write_text(json.dumps({"dag": FAILING}))
    (folder / "given.yaml").write_text(json.dumps({"greek": 1, "text": "ab"}))
    store = {"type": "db", "config": {"connection_string": "sqlite:///runs.db"}}
    (folder / "config.yaml").write_text(json.dumps({"run_log_store": store, "run_log": store}))
    entry_point = folder / "registered-1.dist-info"
    entry_point.mkdir()
    (entry_point / "METADATA").write_text("Metadata-Version: 2.1\nName: registered\nVersion: 1\n")
    (entry_point / "entry_points.txt").write_text(
        "[magnus.datastore.BaseRunLogStore]\ndb = magnus_extensions.datastore.db.implementation:DBStore\n"
    )


def main() -> None:
    shutil.rmtree(HERE, ignore_errors=True)
    HERE.mkdir()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        prepare(folder)
        python(folder, CREATE)
        for run_id, definition in zip(RUNS, ("nightly", "failing"), strict=True):
            arguments = ("-f", f"{definition}.yaml", "-c", "config.yaml", "--run-id", run_id, "-p", "given.yaml")
            python(folder, "from magnus.cli import cli; cli()", "execute", *arguments, "--tag", definition)
        (HERE / "read.json").write_text(python(folder, READ, *RUNS).splitlines()[-1] + "\n")
        shutil.copy(folder / "runs.db", HERE / "runs.db")


if __name__ == "__main__":
    main()
