"""A chunk made to exhaust memory, stack or time is an error that names it, within bounds, and the rest of the run is read."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import resource
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from chunkstore import ChunkedRunLogStore, ChunkStoreError, StepLog
from chunkstore.backends.local import LocalBackend
from places import between, finish, start
from rigs import Tally

MIB: Final = 1 << 20
LARGE: Final = between(6, 60) * MIB
UNPACKED: Final = between(300, 1023) * MIB
MANY: Final = between(10_000, MIB)
MOST_MEMORY: Final = between(128, 1024) * MIB
"""Of address space, beyond what the process has when it begins to read."""
MOST_SECONDS: Final = 20.0


class Outcome(NamedTuple):
    """What became of a read, and what it took."""

    error: str
    text: str
    memory: int
    seconds: float


def forged(body: bytes, **facts: Any) -> bytes:
    """A step's chunk with a right digest."""
    line = {"format": 1, "run": "r", "kind": "step", "name": "bomb", "created_at": "2026-11-21T12:00:00.123456789Z"}
    rest = b'",' + json.dumps({**line, "writers": {"x": 1}, **facts}).encode()[1:] + b",\n" + body[1:]
    return b'{"_chunkstore":{"digest":"' + hashlib.blake2b(rest, digest_size=16).hexdigest().encode() + rest


def packed(size: int, says: int, *, times: int = 1) -> bytes:
    """A body that unpacks to so many spaces within an object, made without holding them."""
    packer = zlib.compressobj(level=9, wbits=31)
    data = bytearray(packer.compress(b'{"name":"bomb","internal_name":"bomb"'))
    block = b" " * MIB
    for _ in range(size // MIB):
        data += packer.compress(block)
    data += packer.compress(b"}") + packer.flush()
    for _ in range(times - 1):
        data = bytearray(gzip.compress(bytes(data)))
    return forged(b'{"body":"' + base64.b64encode(data) + b'"}', gzip=says)


def field(value: bytes) -> bytes:
    return b'{"name":"bomb","internal_name":"bomb","message":' + value + b"}"


START: Final = b'{"_chunkstore":{"digest":"' + b"0" * 32 + b'"'
BOMBS: dict[str, Callable[[], bytes]] = {
    "unpacks to more than it says": lambda: packed(UNPACKED, 100),
    "says more than it unpacks to": lambda: packed(MIB, 1 << 30),
    "says more than may be": lambda: packed(MIB, 1 << 40),
    "packed twice": lambda: packed(UNPACKED, 40, times=2),
    "deep lists": lambda: forged(field(b"[" * (LARGE // 12) + b"]" * (LARGE // 12))),
    "deep objects": lambda: forged(field(b'{"a":' * (LARGE // 30) + b"1" + b"}" * (LARGE // 30))),
    "lists without an end": lambda: forged(field(b"[" * LARGE)),
    "deep first line": lambda: START + b',"format":' + b"[" * LARGE,
    "deep first line with a right digest": lambda: forged(b"{}", exact=[[]]).replace(
        b"[[]]", b"[" * 9_000 + b"]" * 9_000
    ),
    "first line without an end": lambda: START + b" " * LARGE,
    "long integer": lambda: forged(field(b"9" * LARGE)),
    "long integer in the first line": lambda: START + b',"format":' + b"9" * LARGE + b"},\n}",
    "long fraction": lambda: forged(field(b"0." + b"9" * LARGE + b"e999999999")),
    "no UTF-8": lambda: forged(field(b'"' + b"\xff" * LARGE + b'"')),
    "NaN": lambda: forged(field(b"[" + b"NaN," * MANY + b"1]")),
    "escapes without an end": lambda: forged(field(b'"' + b"\\" * (LARGE - 1))),
    "zeros": lambda: bytes(LARGE),
}
MESSAGES: dict[str, Callable[[], bytes]] = {
    "many wrong values": lambda: forged(b'{"name":"bomb","internal_name":"bomb","attempts":[' + b"5," * MANY + b"5]}"),
    "many missing values": lambda: forged(b'{"a":1,"data_catalog":[' + b"{}," * MANY + b"{}]}"),
    "a long place": lambda: forged(
        b'{"name":"bomb","internal_name":"bomb"}', exact={"/" + "a" * (LARGE // 3): "float:nan"}
    ),
}
HARMLESS: dict[str, Callable[[], bytes]] = {
    "a long key": lambda: forged(b'{"name":"bomb","internal_name":"bomb","' + b"k" * LARGE + b'":1}'),
    "a long text": lambda: forged(field(b'"' + b"t" * LARGE + b'"')),
    "the same key again and again": lambda: forged(
        b'{"name":"bomb","internal_name":"bomb"' + b',"message":"x"' * MANY + b"}"
    ),
}


def _memory() -> int:
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    return pages * resource.getpagesize()


def _read(root: str, alone: bool) -> Outcome:
    """Reads the bomb in a process that is given so much memory and no more."""
    store = ChunkedRunLogStore(LocalBackend(root, durability="process"))
    before, peak = _memory(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    resource.setrlimit(resource.RLIMIT_AS, (before + MOST_MEMORY, before + MOST_MEMORY))
    began, error, text = time.monotonic(), "", ""
    try:
        if alone:
            store.get_step_log("bomb", "r")
        else:
            reading = store.read_run_log("r")
            text = " ".join(finding.message for finding in reading.findings)
            assert "fine" in reading.run_log.steps
    except ChunkStoreError as caught:
        error, text = type(caught).__name__, str(caught)
    except BaseException as caught:  # noqa: BLE001  whatever it is, it is what we look for
        error, text = type(caught).__name__, repr(caught)[:500]
    seconds = time.monotonic() - began
    return Outcome(error, text, (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) * 1024, seconds)


@pytest.fixture
def plant(tmp_path: Path) -> Callable[[bytes], list[Outcome]]:
    """Puts a chunk into a run, and reads it in both ways."""
    store = ChunkedRunLogStore(LocalBackend(tmp_path / "runs", durability="process"))
    store.create_run_log("r")
    store.add_step_log(StepLog(name="fine", internal_name="fine"), "r")

    def read(data: bytes) -> list[Outcome]:
        (tmp_path / "runs" / "r" / "step.bomb.json").write_bytes(data)
        root = str(tmp_path / "runs")
        return [finish([start(_read, (root, alone))], 3 * MOST_SECONDS)[0] for alone in (True, False)]

    return read


def bounded(outcome: Outcome) -> None:
    assert outcome.seconds < MOST_SECONDS
    assert outcome.memory < MOST_MEMORY


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_bomb_is_named_within_bounds_and_hides_nothing_else(
    plant: Callable[[bytes], list[Outcome]], bomb: Callable[[], bytes], tally: Tally
) -> None:
    alone, full = plant(bomb())
    assert alone.error == "FormatError"
    assert full.error == ""
    for outcome in (alone, full):
        assert "r/step.bomb.json" in outcome.text
        assert len(outcome.text) < 5_000
        bounded(outcome)
    tally("bombs", 1)


@pytest.mark.parametrize("bomb", MESSAGES.values(), ids=MESSAGES.keys())
def test_a_message_stays_short_however_much_is_wrong(
    plant: Callable[[bytes], list[Outcome]], bomb: Callable[[], bytes]
) -> None:
    for outcome in plant(bomb()):
        assert outcome.error in ("FormatError", "")
        assert "r/step.bomb.json" in outcome.text
        assert len(outcome.text) < 5_000
        bounded(outcome)


@pytest.mark.parametrize("large", HARMLESS.values(), ids=HARMLESS.keys())
def test_what_is_only_large_is_read_within_bounds(
    plant: Callable[[bytes], list[Outcome]], large: Callable[[], bytes], tally: Tally
) -> None:
    for outcome in plant(large()):
        assert outcome.error == ""
        bounded(outcome)
    tally("bombs", 1)


def test_a_body_of_a_gigabyte_is_refused_by_name(plant: Callable[[bytes], list[Outcome]]) -> None:
    data = packed(UNPACKED, UNPACKED + len('{"name":"bomb","internal_name":"bomb"}'))
    assert len(data) < 2 * MIB
    alone, full = plant(data)
    assert (alone.error, full.error) == ("FormatError", "")
    assert "r/step.bomb.json" in full.text
