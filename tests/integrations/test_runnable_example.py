"""The example that runs a pipeline prints what its last lines show."""

from __future__ import annotations

import re
import shutil
import sys
from pathlib import Path

import pytest

pytest.importorskip("runnable")

from pipeline_runs import run

from servers import S3Server

EXAMPLES = Path(__file__).parents[2] / "examples"
EXAMPLE = "01_parallel_map_pipeline.py"


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A fresh clone, as far as the example knows."""
    shutil.copytree(EXAMPLES, tmp_path / "clone" / "examples", ignore=shutil.ignore_patterns("__pycache__"))
    return tmp_path / "clone"


def shown() -> str:
    """What the last lines of the example promise."""
    comments = (EXAMPLES / EXAMPLE).read_text(encoding="utf-8").partition("\n# example-…")[2]
    return re.sub(r"^# ?", "", f"# example-…{comments}", flags=re.MULTILINE).strip()


def stable(output: str) -> str:
    """The output from the tree on, without what differs from run to run."""
    tree = output[output.index("example-") :]
    for changing, instead in (
        (r"\d+\.\d{3} s", "… s"),
        (r"example-[0-9a-f]{8}", "example-…"),
        (r"process = \[.*\]", "process = […]"),
        (r"process = \d+", "process = …"),
        (r"chunks in \S*/runs", "chunks in …/runs"),
        (r"(chunks in …/runs) at \S+,", r"\1,"),
    ):
        tree = re.sub(changing, instead, tree)
    return "\n".join(line.rstrip() for line in tree.splitlines()).strip()


def test_the_pipeline_runs_from_a_clone_and_leaves_nothing_but_its_runs(clone: Path) -> None:
    outcome = run([sys.executable, "-B", f"examples/{EXAMPLE}"], clone)
    assert outcome.code == 0, outcome.output
    assert stable(outcome.output) == shown()
    assert names_in(clone) == ["examples", "runs"]
    assert names_in(clone / "examples") == [name for name in names_in(EXAMPLES) if name != "__pycache__"]


def test_it_runs_from_any_folder(clone: Path, tmp_path: Path) -> None:
    outcome = run([sys.executable, str(clone / "examples" / EXAMPLE)], tmp_path)
    assert outcome.code == 0, outcome.output
    assert stable(outcome.output) == shown()
    assert (clone / "runs").is_dir()


def test_the_same_pipeline_runs_on_minio(clone: Path, minio_server: S3Server) -> None:
    environment = {
        "RUNNABLE_VAR_url": f"s3://{minio_server.new_bucket()}/runs",
        "RUNNABLE_VAR_endpoint": minio_server.endpoint_url,
        "AWS_ACCESS_KEY_ID": minio_server.key,
        "AWS_SECRET_ACCESS_KEY": minio_server.secret,
    }
    outcome = run([sys.executable, f"examples/{EXAMPLE}", "examples/runnable-minio.yaml"], clone, **environment)
    assert outcome.code == 0, outcome.output
    assert stable(outcome.output) == shown()
    assert not (clone / "runs").exists()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())
