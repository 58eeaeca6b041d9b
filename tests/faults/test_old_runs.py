"""Runs of format 1 are read by every path on every place; what a later version adds is tolerated, what it changes is named."""

from __future__ import annotations

import hashlib
import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from chunkstore import ChunkedRunLogStore, NewerFormatError, RunLog, codec, keys
from chunkstore.backends import ANY
from chunkstore.backends.local import LocalBackend
from chunkstore.keys import Kind
from places import again, memory, place
from rigs import Tally

FOLDER: Final = Path(__file__).parent.parent / "data" / "format-1"
CHUNKS: Final = {path.relative_to(FOLDER).as_posix(): path.read_bytes() for path in sorted(FOLDER.rglob("*.json"))}
RUNS: Final = sorted({chunk.run_id for chunk in map(keys.parse, CHUNKS) if chunk is not None} - {"gone"})


def pictures(store: ChunkedRunLogStore) -> dict[str, bytes]:
    """All runs, byte for byte, and their order."""
    return {run_id: pickle.dumps(store.get_run_log_by_id(run_id).model_dump()) for run_id in RUNS}


def stored(store: ChunkedRunLogStore, change: Callable[[bytes], bytes] = bytes) -> ChunkedRunLogStore:
    """The golden chunks on another place, each changed."""
    for key, data in CHUNKS.items():
        store.backend.put(key, change(data), ANY)
    return store


@pytest.fixture(scope="module")
def golden() -> ChunkedRunLogStore:
    return ChunkedRunLogStore(LocalBackend(FOLDER))


def signed_anew(data: bytes, **facts: Any) -> bytes:
    """The chunk as a version would write it that has further facts to tell."""
    line, _, rest = data.partition(b"\n")
    comma = b"," if line.endswith(b",") else b""
    envelope = json.loads(line.removesuffix(b",") + b"}")["_chunkstore"]
    del envelope["digest"]
    signed = b'",' + json.dumps(envelope | facts).encode()[1:] + comma + b"\n" + rest
    return b'{"_chunkstore":{"digest":"' + hashlib.blake2b(signed, digest_size=16).hexdigest().encode() + signed


@pytest.mark.parametrize("where", ["memory", "minio", "rclone"])
def test_they_are_the_same_on_every_place(
    golden: ChunkedRunLogStore, where: str, request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    moved = stored(ChunkedRunLogStore(place(where, request, tmp_path)))
    assert pictures(moved) == pictures(golden)
    assert pictures(pickle.loads(pickle.dumps(again(moved)))) == pictures(golden)
    assert moved.list_run_ids() == golden.list_run_ids()
    assert moved.get_run_logs() == golden.get_run_logs()
    tally("golden chunks read", len(CHUNKS))


def test_every_chunk_is_found_by_every_way_to_it(golden: ChunkedRunLogStore, tally: Tally) -> None:
    ways = 0
    for key, data in CHUNKS.items():
        envelope = codec.decode(data, key).envelope
        run_id, name, scope = envelope.run, envelope.name, envelope.scope
        if run_id not in RUNS:
            continue
        if envelope.kind == Kind.STEP:
            assert golden.get_step_log(name, run_id).internal_name == name
        elif envelope.kind == Kind.BRANCH:
            assert golden.get_branch_log(name, run_id).internal_name == name  # type: ignore[union-attr]
        elif envelope.kind == Kind.PARAMETER:
            alone = golden.get_parameter(run_id, name, scope)
            assert repr(alone) == repr(golden.get_parameters(run_id, scope)[name])
        elif envelope.kind == Kind.JOB:
            assert golden.get_job_log(run_id) == golden.get_run_log_by_id(run_id).job
        else:
            part, whole = golden.get_run_log_by_id(run_id, full=False), golden.get_run_log_by_id(run_id)
            assert repr(part.parameters) == repr(whole.parameters)
            assert (part.status, part.created_at, part.steps) == (whole.status, whole.created_at, {})
            assert golden.get_run_config(run_id) == whole.run_config
            assert isinstance(golden.get_branch_log("", run_id), RunLog)
        ways += 1
    tally("golden chunks read", ways)


LATER: dict[str, dict[str, Any]] = {
    "a text": {"compressed_by": "zstd"},
    "anything": {"x": None, "y": [1, {"z": 2.5}], "ünï": True, "": 0},
    "long": {"x": "y" * 100_000},
}


@pytest.mark.parametrize("facts", LATER.values(), ids=LATER.keys())
def test_facts_that_a_later_version_adds_are_tolerated(
    golden: ChunkedRunLogStore, facts: dict[str, Any], tally: Tally
) -> None:
    later = stored(ChunkedRunLogStore(memory()), lambda data: signed_anew(data, **facts))
    assert pictures(later) == pictures(golden)
    later.update_run_log_status(RUNS[0], "FAIL")
    assert again(later).get_run_log_by_id(RUNS[0]).status == "FAIL"
    tally("golden chunks read", len(CHUNKS))


def test_runs_that_do_not_say_when_they_were_founded_are_read_and_written_on(golden: ChunkedRunLogStore) -> None:
    assert not any(b'"founded"' in data for data in CHUNKS.values())
    old = stored(ChunkedRunLogStore(memory()))
    for run_id in RUNS:
        before = old.get_run_log_by_id(run_id)
        for number, step in enumerate(before.steps.values()):
            step.message = f"written on {number}"
        old.put_run_log(before)
        old.set_parameters(run_id, {"new": 1})
        old.add_step_log(old.create_step_log("new", "new"), run_id)
        after = again(old).read_run_log(run_id)
        assert after.findings == ()
        assert list(after.run_log.steps) == [*before.steps, "new"]
        assert after.run_log.parameters["new"] == 1
        assert [step.message for step in after.run_log.steps.values()][:-1] == [
            step.message for step in before.steps.values()
        ]


@pytest.mark.parametrize("format_", [2, 10**18])
def test_a_newer_format_is_refused_by_name_and_hides_nothing_else(format_: int, tally: Tally) -> None:
    for key, data in CHUNKS.items():
        chunk = keys.parse(key)
        assert chunk is not None
        with pytest.raises(NewerFormatError, match=f"format {format_}, .*upgrade") as caught:
            codec.decode(signed_anew(data, format=format_), key)
        assert caught.value.key == key
        tally("golden chunks read", 1)
    run_id = RUNS[-1]
    mixed = stored(ChunkedRunLogStore(memory()))
    newer = next(key for key in CHUNKS if key.startswith(keys.prefix_of_run(run_id)) and "/step." in key)
    mixed.backend.put(newer, signed_anew(CHUNKS[newer], format=format_), ANY)
    found = keys.parse(newer)
    assert found is not None
    reading = mixed.read_run_log(found.run_id)
    assert [finding.name for finding in reading.findings if finding.sort == "damaged"] == [newer]
    whole = ChunkedRunLogStore(LocalBackend(FOLDER)).get_run_log_by_id(found.run_id)
    assert repr(reading.run_log.parameters) == repr(whole.parameters)
