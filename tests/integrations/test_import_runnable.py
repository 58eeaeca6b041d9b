"""Folders that real pipelines of runnable wrote with its own stores, imported: the same as runnable reads itself, and what it cannot read too."""

from __future__ import annotations

import json
import math
import shutil
import sys
from pathlib import Path
from typing import Any, Final

import pytest

pytest.importorskip("runnable")

from extensions.run_log_store.chunked_fs import ChunkedFileSystemRunLogStore
from extensions.run_log_store.file_system import FileSystemRunLogstore
from pipeline_runs import PIPELINES, outline, run

from chunkstore import ChunkedRunLogStore
from chunkstore.maintenance import import_runs
from places import memory

pytestmark = pytest.mark.slow

STORES: Final[dict[str, Any]] = {"file-system": FileSystemRunLogstore, "chunked-fs": ChunkedFileSystemRunLogStore}
RUNS: Final = {"file-system": ("choices", "single_job"), "chunked-fs": ("failing", "maps", "nested")}


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it, whose pipelines ran; the one that failed was mended and tried again."""
    folder = tmp_path_factory.mktemp("project")
    shutil.copytree(PIPELINES, folder, dirs_exist_ok=True)
    for store, names in RUNS.items():
        config = {"run-log-store": {"type": store, "config": {"log_folder": store}}}
        (folder / f"{store}.yaml").write_text(json.dumps(config))
        environment = {"RUNNABLE_CONFIGURATION_FILE": f"{store}.yaml"}
        for name in names:
            run([sys.executable, f"{name}.py"], folder, RUNNABLE_RUN_ID=name, **environment)
    (folder / "mended").touch()
    environment = {"RUNNABLE_CONFIGURATION_FILE": "chunked-fs.yaml", "RUNNABLE_RETRY_INDICATOR": "mended"}
    run([sys.executable, "failing.py"], folder, RUNNABLE_RETRY_RUN_ID="failing", **environment)
    return folder


@pytest.fixture
def store() -> ChunkedRunLogStore:
    return ChunkedRunLogStore(memory())


def not_kept(before: Any, after: Any, in_order: tuple[str, ...], path: str = "") -> list[str]:
    """Where a value that runnable reads is missing, or another one, or things are in another order that have one."""
    if isinstance(before, dict):
        computed = {"description"} if before.get("kind") in {"json", "metric", "object"} else set()
        missing = [f"{path}/{name} is missing" for name in before.keys() - computed - after.keys()]
        order = [f"order of {path}"] if path.endswith(in_order) and list(before) != list(after) else []
        both = before.keys() & after.keys()
        inner = (not_kept(before[name], after[name], in_order, f"{path}/{name}") for name in both)
        return [*missing, *order, *(one for some in inner for one in some)]
    if isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        pairs = zip(before, after, strict=True)
        inner = (not_kept(*pair, in_order, f"{path}/{index}") for index, pair in enumerate(pairs))
        return [one for some in inner for one in some]
    return [] if type(before) is type(after) and repr(before) == repr(after) else [f"{path}: {before!r} is {after!r}"]


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in RUNS.items() for name in names])
def test_a_run_is_read_as_runnable_reads_it(project: Path, store: ChunkedRunLogStore, kind: str, name: str) -> None:
    theirs = STORES[kind](log_folder=str(project / kind)).get_run_log_by_id(name, full=True)
    report = import_runs(store, project / kind)
    assert (sorted(report.imported), report.refused) == (sorted(RUNS[kind]), ())
    before, after = theirs.model_dump(), store.get_run_log_by_id(name).model_dump()
    if name == "maps":  # what runnable cannot read of it is another test's
        after["steps"]["by_number"]["branches"] = {}
    # runnable takes the files of branches as the disk lists them.
    in_order = ("/steps", "/parameters") if kind == "chunked-fs" else ("/steps", "/parameters", "/branches")
    assert not_kept(before, after, in_order) == []
    assert before["steps"] or before["job"]


def test_an_import_runs_again_and_again(project: Path, store: ChunkedRunLogStore) -> None:
    for kind, names in RUNS.items():
        assert sorted(import_runs(store, project / kind).imported) == sorted(names)
        assert sorted(import_runs(store, project / kind).skipped) == sorted(names)


def test_values_and_kinds_are_exact(project: Path, store: ChunkedRunLogStore) -> None:
    import_runs(store, project / "file-system")
    found: dict[str, Any] = store.get_parameters("choices")
    assert [found[name].kind for name in ("colour", "loss", "found")] == ["json", "metric", "object"]
    assert math.isnan(found["loss"].value)
    assert found["nested"].value == {"deep": [1, {"ü": 2**70}]}
    assert store.get_job_log("single_job").status == "SUCCESS"


def test_a_retry_has_its_attempts(project: Path, store: ChunkedRunLogStore) -> None:
    import_runs(store, project / "chunked-fs")
    run_log = store.get_run_log_by_id("failing")
    broken = run_log.steps["m"].branches["m.broken"].steps["m.broken.use"]
    assert [(one.attempt_number, one.status) for one in broken.attempts] == [(1, "FAIL"), (2, "SUCCESS")]
    assert run_log.status == "SUCCESS"
    assert list(run_log.steps["m"].branches) == ["m.whole", "m.broken"]


def test_what_runnable_wrote_and_drops_when_it_reads_is_there(project: Path, store: ChunkedRunLogStore) -> None:
    """Its reader takes the dot in 1.5 for that between two names, and so finds no parent for the branch."""
    theirs = STORES["chunked-fs"](log_folder=str(project / "chunked-fs")).get_run_log_by_id("maps", full=True)
    assert theirs.steps["by_number"].branches == {}
    import_runs(store, project / "chunked-fs")
    step = store.get_run_log_by_id("maps").steps["by_number"]
    found = outline({"by_number": step}).splitlines()
    assert [line.strip() for line in found[:4]] == [
        "by_number SUCCESS",
        "[by_number.0.1] SUCCESS",
        "by_number.0.1.double SUCCESS 1",
        "by_number.0.1.success SUCCESS 1",
    ]
    assert list(step.branches) == ["by_number.0.1", "by_number.1.5", "by_number.2.5"]
