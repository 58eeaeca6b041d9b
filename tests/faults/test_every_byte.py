"""Any damage to any chunk is found, named and isolated: nothing else breaks, and nothing wrong passes for right."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkstore import BranchLog, ChunkedRunLogStore, ChunkStoreError, FormatError, RunLog, StepLog, StoreSettings
from chunkstore.backends import ANY, Backend
from chunkstore.backends.local import LocalBackend
from chunkstore.reading import Reading
from places import again, between, memory
from rigs import Tally

Part = tuple[str, str]

CHUNKS: dict[str, Part] = {
    "r/run.json": ("run", ""),
    "r/job.json": ("job", ""),
    "r/step.b.json": ("step", "b"),
    "r/branch.m.x.json": ("branch", "m.x"),
    "r/parameter.p.json": ("parameter", "p"),
    "r/parameter@m.x@q.json": ("parameter of m.x", "q"),
}

ALONE: dict[str, Callable[[ChunkedRunLogStore], object]] = {
    "r/run.json": lambda store: store.get_run_config("r"),
    "r/job.json": lambda store: store.get_job_log("r"),
    "r/step.b.json": lambda store: store.get_step_log("b", "r"),
    "r/branch.m.x.json": lambda store: store.get_branch_log("m.x", "r"),
    "r/parameter.p.json": lambda store: store.get_parameter("r", "p"),
    "r/parameter@m.x@q.json": lambda store: store.get_parameters("r", "m.x"),
}


def filled(backend: Backend, *, compressed: bool) -> ChunkedRunLogStore:
    """A store with a run that has a chunk of each kind."""
    store = ChunkedRunLogStore(backend, settings=StoreSettings(compress_above=0 if compressed else None))
    store.create_run_log("r", tag="t")
    store.set_parameters("r", {"p": [1, "two"], "other": 2})
    store.add_job_log("r", store.create_job_log())
    for name in "abc":
        store.add_step_log(StepLog(name=name, internal_name=name, message=name * 20), "r")
    branch = BranchLog(internal_name="m.x", status="SUCCESS", parameters={"q": {"deep": [None]}, "r": 2})
    branch.steps["m.x.t"] = StepLog(name="t", internal_name="m.x.t")
    store.add_step_log(StepLog(name="m", internal_name="m", branches={"m.x": branch}), "r")
    return store


def parts(run_log: RunLog) -> dict[Part, Any]:
    """What was stored as chunks of their own, by kind and name."""
    found: dict[Part, Any] = {
        ("run", ""): run_log.model_dump(exclude={"steps", "parameters", "job"}),
        ("job", ""): run_log.job,
        **{("parameter", name): value for name, value in run_log.parameters.items()},
    }
    steps = list(run_log.steps.values())
    while steps:
        step = steps.pop()
        found["step", step.internal_name] = step.model_dump(exclude={"branches"})
        for name, branch in step.branches.items():
            found["branch", name] = branch.model_dump(exclude={"steps", "parameters"})
            found |= {(f"parameter of {name}", one): value for one, value in branch.parameters.items()}
            steps += branch.steps.values()
    return found


def damages(data: bytes) -> Iterator[tuple[str, bytes]]:
    """The bytes, each time damaged in another way; all places are tried at the full size, some at the small one."""
    chance = random.Random(len(data))
    places = sorted(chance.sample(range(len(data)), between(12, len(data))))
    for place in places:
        for flip in (0x01, 0x80, chance.randrange(2, 128)):
            yield f"byte {place} ^ {flip}", data[:place] + bytes([data[place] ^ flip]) + data[place + 1 :]
        yield f"cut at {place}", data[:place]
        yield f"zeros from {place}", data[:place].ljust(len(data), b"\0")
        yield f"without byte {place}", data[:place] + data[place + 1 :]
        yield f"byte {place} twice", data[: place + 1] + data[place:]
    yield "doubled", data + data
    yield "zeros behind", data + bytes(512)
    yield "reversed", data[::-1]
    yield "only the first line", data.partition(b"\n")[0]
    yield "only the second line", data.partition(b"\n")[2]


def check_the_rest(reading: Reading, key: str, whole: dict[Part, Any], how: str) -> None:
    """One finding, which names the key; all else as it was."""
    (damaged,) = [finding for finding in reading.findings if finding.sort == "damaged"]
    assert damaged.name == key, how
    assert key in damaged.message, how
    found = parts(reading.run_log)
    lost = CHUNKS[key]
    assert {part: value for part, value in found.items() if part != lost} == {
        part: value for part, value in whole.items() if part != lost
    }, how
    assert found.get(lost) != whole[lost], how


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("key", CHUNKS)
def test_damage_at_any_place_is_named_and_hides_nothing_else(key: str, compressed: bool, tally: Tally) -> None:
    store = filled(memory(), compressed=compressed)
    backend = store.backend
    whole, data = parts(store.get_run_log_by_id("r")), backend.get(key).data
    tried = list(damages(data))
    for how, damaged in tried:
        backend.put(key, damaged, ANY)
        reader = again(store)
        check_the_rest(reader.read_run_log("r"), key, whole, how)
        with pytest.raises(FormatError) as caught:
            ALONE[key](reader)
        assert caught.value.key == key, how
        assert key in str(caught.value)
        assert len(str(caught.value)) < 1_000
    backend.put(key, data, ANY)
    assert parts(store.get_run_log_by_id("r")) == whole
    tally("damaged chunks read", len(tried))


@pytest.mark.parametrize("compressed", [False, True], ids=["plain", "compressed"])
@pytest.mark.parametrize("key", CHUNKS)
@pytest.mark.parametrize("in_place", [True, False], ids=["the same file", "another file"])
def test_a_store_that_knows_the_chunk_finds_the_damage_too(
    tmp_path: Path, key: str, compressed: bool, in_place: bool, tally: Tally
) -> None:
    store = filled(LocalBackend(tmp_path / "runs", durability="process"), compressed=compressed)
    file = tmp_path / "runs" / key
    data, whole = file.read_bytes(), parts(store.get_run_log_by_id("r"))
    tried = list(damages(data))
    chosen = random.Random(key).sample(tried, between(8, min(200, len(tried))))
    for how, damaged in chosen:
        if not in_place:
            file.unlink()
        file.write_bytes(damaged)
        check_the_rest(store.read_run_log("r"), key, whole, how)
        with pytest.raises(FormatError) as caught:
            ALONE[key](store)
        assert caught.value.key == key
    file.write_bytes(data)
    assert parts(store.get_run_log_by_id("r")) == whole
    tally("damaged chunks read", len(chosen))


# A chunk with the right digest that we would never write: from another program, or from somebody who wants us to fall


def signed(rest: bytes) -> bytes:
    return b'{"_chunkstore":{"digest":"' + hashlib.blake2b(rest, digest_size=16).hexdigest().encode() + rest


def forged(envelope: dict[str, Any], body: bytes) -> bytes:
    """A chunk whose digest is right, whatever it says; a fact that is `...` is left out."""
    facts = {"format": 1, "run": "r", "created_at": "2026-11-21T12:00:00.123456789Z", "writers": {"x": 1}} | envelope
    line = json.dumps({name: value for name, value in facts.items() if value is not ...}).encode()
    return signed(b'",' + line[1:] + b",\n" + body[1:])


BODIES = {
    "r/run.json": b'{"run_id":"r","status":"CREATED"}',
    "r/job.json": b'{"status":"CREATED"}',
    "r/step.b.json": b'{"name":"b","internal_name":"b"}',
    "r/parameter.p.json": b'{"value":1}',
}
ENVELOPES: dict[str, dict[str, Any]] = {
    "r/run.json": {"kind": "run"},
    "r/job.json": {"kind": "job"},
    "r/step.b.json": {"kind": "step", "name": "b"},
    "r/parameter.p.json": {"kind": "parameter", "name": "p"},
}
ODD_FACTS = [[], {}, 5, None, True, 1.5, [1], {"a": 1}, "", "..", "x" * 300, "zzzz", "9" * 30]
TIMES = [
    "2026-99-99T12:00:00.123456789Z",
    "2026-02-30T12:00:00.123456789Z",
    "2026-11-21T12:00:00",
    "²026-11-21T12:00:00.123456789Z",
]
FACTS = ["run", "kind", "name", "scope", "created_at", "writers", "deleted", "founded", "exact", "gzip", "format"]
ODD_BODIES = [
    *(b"{\xff}", b"{", b'{"a":NaN}', b'{"a":-Infinity}', b'{"a":}', b"{5", b'{"a":1,}', b'{"\\ud800":1}'),
    *(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", b'{"a":' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001),
    b'{"a":' + b"9" * 1_000_000 + b"}",
]
CALLS: dict[str, Callable[[ChunkedRunLogStore], object]] = {
    "read in full": lambda store: store.get_run_log_by_id("r"),
    "read what can be": lambda store: store.read_run_log("r"),
    "read without steps": lambda store: store.get_run_log_by_id("r", full=False),
    "read the step": lambda store: store.get_step_log("b", "r"),
    "read the job": lambda store: store.get_job_log("r"),
    "read the parameters": lambda store: store.get_parameters("r"),
    "read the configuration": lambda store: store.get_run_config("r"),
    "read the headers": lambda store: store.get_run_logs(),
    "add the step": lambda store: store.add_step_log(StepLog(name="b", internal_name="b", message="new"), "r"),
    "add a new step": lambda store: store.add_step_log(StepLog(name="new", internal_name="new"), "r"),
    "set the parameter": lambda store: store.set_parameters("r", {"p": 5}),
    "set the status": lambda store: store.update_run_log_status("r", "FAIL"),
    "set the configuration": lambda store: store.set_run_config("r", {"a": 1}),
    "add the job": lambda store: store.add_job_log("r", store.create_job_log()),
    "create it again": lambda store: store.create_run_log("r"),
    "hand it back": lambda store: store.put_run_log(store.get_run_log_by_id("r", strict=False)),
    "delete it": lambda store: store.delete_run_log("r"),
}


def complaints_about(store: ChunkedRunLogStore, key: str, data: bytes) -> list[str]:
    """What goes wrong in any call when these bytes stand under the key: anything but an error of ours, or one without the key."""
    objects = {entry.key: store.backend.get(entry.key).data for entry in store.backend.list("r/")}
    wrong = []
    for name, call in CALLS.items():
        backend = memory()
        for other, content in (objects | {key: data}).items():
            backend.put(other, content, ANY)
        try:
            call(ChunkedRunLogStore(backend, settings=StoreSettings(timeout_seconds=0.02)))
        except ChunkStoreError as error:
            if isinstance(error, FormatError) and key not in str(error):
                wrong.append(f"{name}: no key in {str(error)[:100]!r}")
            if len(str(error)) > 10_000:
                wrong.append(f"{name}: a message of {len(str(error)):,} characters")
            if "gave up" in str(error):
                wrong.append(f"{name}: tried without end")
        except Exception as error:  # noqa: BLE001  whatever it is, it is what we look for
            wrong.append(f"{name}: {type(error).__name__}: {str(error)[:80]}")
    return wrong


UNCHECKED = "codec._envelope takes the facts of a chunk with a right digest as they are"


@pytest.mark.parametrize("key", BODIES)
def test_an_envelope_of_another_shape_is_a_format_error_in_every_call(key: str, tally: Tally) -> None:
    store = filled(memory(), compressed=False)
    wrong, tried = [], 0
    for fact in FACTS:
        odd = ODD_FACTS + (TIMES if fact == "created_at" else [])
        for value in [*random.Random(fact).sample(odd, min(len(odd), between(8, 99))), ...]:
            data = forged(ENVELOPES[key] | {fact: value}, BODIES[key])
            wrong += [f"{fact}={value!r:.30}: {one}" for one in complaints_about(store, key, data)]
            tried += len(CALLS)
    tally("damaged chunks read", tried)
    assert not wrong, "\n".join(wrong[:40])


@pytest.mark.parametrize("key", [key for key in BODIES if "parameter" not in key])
def test_a_body_that_is_no_json_is_named_in_every_call(key: str, tally: Tally) -> None:
    store = filled(memory(), compressed=False)
    wrong = []
    for body in ODD_BODIES:
        wrong += [f"{body[:30]!r}: {one}" for one in complaints_about(store, key, forged(ENVELOPES[key], body))]
    tally("damaged chunks read", len(ODD_BODIES) * len(CALLS))
    assert not wrong, "\n".join(wrong[:40])


@pytest.mark.parametrize("key", BODIES)
def test_what_a_forged_chunk_unpacks_to_is_checked_too(key: str, tally: Tally) -> None:
    store = filled(memory(), compressed=False)
    packed = base64.b64encode(gzip.compress(BODIES[key] * 5))
    for size in (0, 1, len(BODIES[key]), 10**12, -1):
        data = forged(ENVELOPES[key] | {"gzip": size}, b'{"body":"' + packed + b'"}')
        assert complaints_about(store, key, data) == []
        tally("damaged chunks read", len(CALLS))
