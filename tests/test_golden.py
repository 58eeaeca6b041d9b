"""What was written in format 1 is read the same for ever, and written on in its place."""

from __future__ import annotations

import importlib.util
import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from chunkstore import codec, keys, values
from chunkstore.backends.local import LocalBackend
from chunkstore.errors import RunLogNotFoundError
from chunkstore.models import RunLog, StepLog
from chunkstore.store import ChunkedRunLogStore
from chunkstore.values import Content, same

DATA = Path(__file__).parent / "data"
FOLDER = DATA / "format-1"
EXPECTED: dict[str, dict[str, Any]] = json.loads((DATA / "format-1.json").read_text(encoding="ascii"))
CHUNKS = sorted(FOLDER.rglob("*.json"))


def load_maker() -> ModuleType:
    spec = importlib.util.spec_from_file_location("make_format_1", DATA / "make_format_1.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


maker = load_maker()


def opened(folder: Path = FOLDER) -> ChunkedRunLogStore:
    return ChunkedRunLogStore(LocalBackend(folder))


def exact(description: dict[str, Any]) -> dict[str, Any]:
    return values.decode(Content(json.dumps(description["run_log"]).encode(), description["exact"]))


def in_order(value: Any) -> Any:
    """The value with its objects as pairs, so that their order counts."""
    if isinstance(value, dict):
        return [[name, in_order(item)] for name, item in value.items()]
    return [in_order(item) for item in value] if isinstance(value, list) else value


def test_the_runs_are_there() -> None:
    assert opened().list_run_ids() == sorted([*EXPECTED, maker.GONE])


@pytest.mark.parametrize("run_id", EXPECTED)
def test_a_run_is_read_as_it_was_on_the_day_it_was_written(run_id: str) -> None:
    reading = opened().read_run_log(run_id)
    assert reading.findings == ()
    assert same(in_order(exact(maker.described(reading.run_log))), in_order(exact(EXPECTED[run_id])))


def test_odd_values_are_what_they_were() -> None:
    parameters = opened().get_parameters(maker.NIGHTLY)
    assert same({name: parameters[name] for name in maker.ODD_VALUES}, maker.ODD_VALUES)  # type: ignore[arg-type]


def test_single_chunks_are_found_by_their_names() -> None:
    store = opened()
    name = f"map.{maker.LONG}"
    assert store.get_step_log(f"{name}.train.v2", maker.NIGHTLY).name == "train.v2"
    assert store.get_branch_log(name, maker.NIGHTLY).status == "SUCCESS"
    assert store.get_parameters(maker.NIGHTLY, name)["value"] == maker.LONG
    assert store.get_parameter(maker.NIGHTLY, maker.LONG, name) == 3
    assert store.get_job_log(maker.JOB).message == "no"


def test_a_run_whose_deletion_began_stays_gone() -> None:
    with pytest.raises(RunLogNotFoundError):
        opened().get_run_log_by_id(maker.GONE)


def test_the_golden_chunks_show_all_that_the_format_has() -> None:
    envelopes = [json.loads(chunk.read_bytes())["_chunkstore"] for chunk in CHUNKS]
    assert {envelope["format"] for envelope in envelopes} == {1}
    assert {envelope["kind"] for envelope in envelopes} == {kind.value for kind in keys.Kind}
    assert all(any(fact in envelope for envelope in envelopes) for fact in ("gzip", "exact", "scope", "deleted"))
    assert any(keys.is_abbreviated(chunk.name) for chunk in CHUNKS)


@pytest.mark.parametrize("chunk", CHUNKS, ids=lambda chunk: chunk.name[:60])
def test_a_golden_chunk_decodes_and_its_key_is_still_the_one_of_its_name(chunk: Path) -> None:
    key = chunk.relative_to(FOLDER).as_posix()
    envelope = codec.decode(chunk.read_bytes(), key).envelope
    named = keys.ChunkId(envelope.run, keys.Kind(envelope.kind), envelope.name, envelope.scope)
    assert keys.key_of(named) == key
    assert keys.parse(key) is not None


def test_writing_on_changes_the_chunks_in_their_places(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "runs")
    store = opened(tmp_path / "runs")
    before = store.get_run_log_by_id(maker.NIGHTLY)
    names = [step.internal_name for step in all_steps(before)]
    for step in all_steps(before):
        step.message = "written on"
    store.put_run_log(before)
    after = opened(tmp_path / "runs").get_run_log_by_id(maker.NIGHTLY)
    assert [step.internal_name for step in all_steps(after)] == names
    assert {step.message for step in all_steps(after)} == {"written on"}
    assert (after.created_at, after.model_extra) == (before.created_at, before.model_extra)
    assert sorted(path.name for path in (tmp_path / "runs").rglob("*.json")) == sorted(path.name for path in CHUNKS)


def test_handing_back_what_was_read_writes_nothing(tmp_path: Path) -> None:
    shutil.copytree(FOLDER, tmp_path / "runs")
    store = opened(tmp_path / "runs")
    store.put_run_log(store.get_run_log_by_id(maker.NIGHTLY))
    store.set_parameters(maker.NIGHTLY, store.get_parameters(maker.NIGHTLY))
    for chunk in CHUNKS:
        assert (tmp_path / "runs" / chunk.relative_to(FOLDER)).read_bytes() == chunk.read_bytes()


def all_steps(run_log: RunLog) -> list[StepLog]:
    found: list[StepLog] = []
    pending = list(run_log.steps.values())
    while pending:
        step = pending.pop(0)
        found.append(step)
        pending += [inner for branch in step.branches.values() for inner in branch.steps.values()]
    return found
