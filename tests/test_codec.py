"""A chunk comes back whole from its bytes, or is a `FormatError` that names its key."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import tracemalloc
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chunkstore import codec, values
from chunkstore.codec import Chunk, Envelope
from chunkstore.errors import FormatError, InvalidInputError, NewerFormatError
from chunkstore.models import StepLog
from chunkstore.values import Content

# A busy machine is slow, not wrong.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

KEY = "r/step.map.eu.train.json"
STAMP = "2026-11-21T12:00:00.123456789Z"
clean_text = st.text(st.characters(exclude_categories=["Cs"]))
envelopes = st.builds(
    Envelope,
    run=clean_text.filter(bool),
    kind=st.sampled_from(["run", "job", "step", "branch", "parameter"]),
    name=clean_text,
    scope=clean_text,
    created_at=st.just("2026-11-21T12:00:00.123456789Z"),
    writers=st.dictionaries(st.text("0123456789abcdef", min_size=12, max_size=12), st.integers(1, 2**40), max_size=4),
    deleted=st.booleans(),
    founded=clean_text,
    fences=st.dictionaries(clean_text, st.integers(1, 2**40), max_size=2),
)
leaves = st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None, categories=None))
bodies = st.dictionaries(
    clean_text.filter("_chunkstore".__ne__), st.recursive(leaves, st.lists, max_leaves=5), max_size=5
)
chunks = st.builds(Chunk, envelopes, st.builds(values.encode, bodies))


def a_chunk(body: dict[str, Any] | None = None) -> Chunk:
    envelope = Envelope("r", "step", "map.eu.train", "", "2026-11-21T12:00:00.123456789Z", {"5e55101d0123": 2})
    fields = {"name": "train", "internal_name": "map.eu.train", "loss": float("nan")}
    return Chunk(envelope, values.encode(fields if body is None else body))


def signed(rest: bytes) -> bytes:
    """Bytes with a right digest, as only a program makes them that knows ours."""
    return b'{"_chunkstore":{"digest":"' + hashlib.blake2b(rest, digest_size=16).hexdigest().encode() + rest


def facts(**changed: Any) -> bytes:
    all_facts = {"format": 1, "run": "r", "kind": "step", "name": "s", "created_at": "x", "writers": {}} | changed
    kept = {name: value for name, value in all_facts.items() if value is not ...}
    return b'",' + json.dumps(kept).encode()[1:]


def packed(data: bytes, size: int | None = None) -> bytes:
    body = base64.b64encode(gzip.compress(data))
    return signed(facts(gzip=len(data) if size is None else size) + b',\n"body":"' + body + b'"}')


@unhurried
@given(chunks, st.sampled_from([None, 0, 1, 30, 1_000_000]))
def test_a_chunk_comes_back_from_its_bytes(chunk: Chunk, compress_above: int | None) -> None:
    assert codec.decode(codec.encode(chunk, compress_above=compress_above), KEY) == chunk


@unhurried
@given(chunks)
def test_the_bytes_are_two_lines_and_one_json_object(chunk: Chunk) -> None:
    data = codec.encode(chunk)
    assert data.count(b"\n") == 1
    whole = json.loads(data, parse_constant=lambda constant: pytest.fail(f"{constant} is no JSON"))
    assert list(whole) == ["_chunkstore", *json.loads(chunk.content.body)]
    del whole["_chunkstore"]
    assert whole == json.loads(chunk.content.body)


@unhurried
@given(chunks)
def test_the_envelope_says_for_people_what_the_chunk_is(chunk: Chunk) -> None:
    envelope = json.loads(codec.encode(chunk))["_chunkstore"]
    assert (envelope["format"], envelope["run"], envelope["kind"]) == (1, chunk.envelope.run, chunk.envelope.kind)
    assert (envelope.get("name", ""), envelope.get("scope", "")) == (chunk.envelope.name, chunk.envelope.scope)
    assert envelope.get("exact", {}) == chunk.content.exact


def test_a_small_chunk_looks_as_the_format_says() -> None:
    data = codec.encode(a_chunk({"name": "train"}))
    digest = data[26:58].decode()
    assert data.decode() == (
        '{"_chunkstore":{"digest":"' + digest + '","format":1,"run":"r","kind":"step","name":"map.eu.train",'
        '"created_at":"2026-11-21T12:00:00.123456789Z","writers":{"5e55101d0123":2}},\n"name":"train"}'
    )
    assert hashlib.blake2b(data[58:], digest_size=16).hexdigest() == digest


def test_a_chunk_without_a_body_is_json_too() -> None:
    data = codec.encode(a_chunk({}))
    assert list(json.loads(data)) == ["_chunkstore"]
    assert codec.decode(data, KEY) == a_chunk({})


def test_a_model_reads_the_whole_chunk() -> None:
    step = StepLog(name="train", internal_name="map.eu.train", status="SUCCESS")
    data = codec.encode(a_chunk(step.model_dump(exclude={"branches"})))
    read = StepLog.model_validate_json(data)
    assert (read.name, read.internal_name, read.status) == ("train", "map.eu.train", "SUCCESS")


@pytest.mark.parametrize("compress_above", [None, 0])
def test_every_flipped_byte_is_found(compress_above: int | None) -> None:
    data = codec.encode(a_chunk(), compress_above=compress_above)
    for place in range(len(data)):
        for flip in (1, 0x20, 0xFF):
            damaged = bytearray(data)
            damaged[place] ^= flip
            with pytest.raises(FormatError) as found:
                codec.decode(bytes(damaged), KEY)
            assert (found.value.key, KEY in str(found.value)) == (KEY, True)


@pytest.mark.parametrize("compress_above", [None, 0])
def test_every_truncation_is_found(compress_above: int | None) -> None:
    data = codec.encode(a_chunk(), compress_above=compress_above)
    for length in range(len(data)):
        for damaged in (
            data[:length],
            data[:length].ljust(len(data), b"\0"),
            data[length + 1 :],
            data + data[:length] + b"x",
        ):
            with pytest.raises(FormatError) as found:
                codec.decode(damaged, KEY)
            assert (found.value.key, KEY in str(found.value)) == (KEY, True)


@unhurried
@given(chunks, st.data(), st.sampled_from([None, 0]))
def test_any_damage_to_any_chunk_is_found(chunk: Chunk, data: st.DataObject, compress_above: int | None) -> None:
    whole = codec.encode(chunk, compress_above=compress_above)
    start = data.draw(st.integers(0, len(whole) - 1))
    end = data.draw(st.integers(start, len(whole)))
    damaged = whole[:start] + data.draw(st.binary(max_size=10)) + whole[end:]
    if damaged != whole:
        with pytest.raises(FormatError) as found:
            codec.decode(damaged, KEY)
        assert found.value.key == KEY


@unhurried
@given(st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_garbage_is_a_format_error(garbage: bytes) -> None:
    for data in (garbage, b'{"_chunkstore":' + garbage, b'{"_chunkstore":{"digest":"' + garbage):
        with pytest.raises(FormatError) as found:
            codec.decode(data, KEY)
        assert found.value.key == KEY


def test_an_empty_object_is_said_to_be_empty() -> None:
    with pytest.raises(FormatError, match=r"r/step\.map\.eu\.train\.json is empty.*restore it, or delete it"):
        codec.decode(b"", KEY)


@pytest.mark.parametrize(
    "change",
    [lambda data: data.replace(b"\n", b"\r\n"), lambda data: data + b"\n", lambda data: b"\xef\xbb\xbf" + data],
)
def test_what_editors_and_copies_do_to_line_ends_is_found(change: Any) -> None:
    with pytest.raises(FormatError, match="damaged"):
        codec.decode(change(codec.encode(a_chunk())), KEY)


@pytest.mark.parametrize("indent", [None, 2])
def test_a_chunk_that_was_edited_or_reformatted_by_hand_is_found(indent: int | None) -> None:
    tree = json.loads(codec.encode(a_chunk()))
    with pytest.raises(FormatError, match=f"{KEY} is damaged"):
        codec.decode(json.dumps(tree, indent=indent).encode(), KEY)


@pytest.mark.parametrize(
    "data",
    [
        codec.encode(a_chunk()).replace(b'"format":1', b'"format":2'),
        signed(facts(format=2) + b',\n"a":1}'),
        signed(facts(format=7, writers=..., created_at=..., exact=[1]) + b',\n"a":1}'),
        b'{"_chunkstore":{"format":2},\n"another":"shape"}',
    ],
    ids=["edited", "signed", "other facts", "another shape"],
)
def test_a_newer_format_is_named(data: bytes) -> None:
    with pytest.raises(NewerFormatError, match=r"has format \d, this chunkstore reads up to 1; upgrade") as found:
        codec.decode(data, KEY)
    assert found.value.key == KEY


@pytest.mark.parametrize("format_", [b"1e400", b"NaN", b"-1", b"null", b"[]", b'"x"', b"9" * 5000, b"[" * 5000])
def test_an_unreadable_format_is_damage(format_: bytes) -> None:
    with pytest.raises(FormatError) as found:
        codec.decode(b'{"_chunkstore":{"format":' + format_ + b"},\n}", KEY)
    assert type(found.value) is FormatError


@pytest.mark.parametrize(
    "rest",
    [
        *(b"", b'"', b'"}', b'"}}', b'"},\n}', b'",\n', b'","format":1}}', b"\xff\n", facts(format="1") + b",\n}"),
        *(
            facts(format=...) + b",\n}",
            facts(run=...) + b",\n}",
            facts(kind=...) + b",\n}",
            facts(writers=...) + b",\n}",
        ),
        *(
            facts(created_at=...) + b",\n}",
            facts(exact=[]) + b",\n}",
            *(
                facts(created_at=STAMP, fences=odd) + b",\n}"
                for odd in (None, "", [1], {"executor": "1"}, {"executor": True}, 1)
            ),
            facts(exact={"/a": 1}) + b",\n}",
            facts(exact="x") + b",\n}",
        ),
        *(facts(gzip="1") + b",\n}", facts(gzip=None) + b",\n}", facts(gzip=1.5) + b",\n}"),
    ],
)
def test_facts_of_another_shape_with_a_right_digest_are_a_format_error(rest: bytes) -> None:
    with pytest.raises(FormatError, match=r"format 1|decompressed") as found:
        codec.decode(signed(rest), KEY)
    assert found.value.key == KEY


def test_only_a_body_above_the_threshold_is_compressed() -> None:
    chunk = a_chunk({"text": "x" * 1000})
    size = len(chunk.content.body)
    assert codec.encode(chunk, compress_above=size) == codec.encode(chunk)
    small = codec.encode(chunk, compress_above=size - 1)
    assert len(small) < size / 2
    assert json.loads(small)["_chunkstore"]["gzip"] == size
    assert codec.decode(small, KEY) == chunk


def test_a_person_can_unpack_a_compressed_body() -> None:
    tree = json.loads(codec.encode(a_chunk(), compress_above=0))
    assert gzip.decompress(base64.b64decode(tree["body"])) == a_chunk().content.body


def test_equal_chunks_have_equal_bytes_however_late_they_are_packed() -> None:
    assert codec.encode(a_chunk(), compress_above=0) == codec.encode(a_chunk(), compress_above=0)


@pytest.mark.parametrize(
    ("size", "match"),
    [
        (0, "another size"),
        (1, "another size"),
        (999_999, "another size"),
        (1_000_001, "another size"),
        (-1, "holds -1"),
        (1 << 40, "are the most"),
    ],
)
def test_a_body_that_unpacks_to_another_size_than_it_says_is_found(size: int, match: str) -> None:
    with pytest.raises(FormatError, match=match) as found:
        codec.decode(packed(b"x" * 1_000_000, size), KEY)
    assert found.value.key == KEY


def test_a_body_that_says_little_and_unpacks_to_much_takes_no_memory() -> None:
    bomb = packed(b"0" * (64 << 20), size=1000)
    tracemalloc.start()
    try:
        with pytest.raises(FormatError, match="another size"):
            codec.decode(bomb, KEY)
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "body",
    [
        b'"body":"!!!"}',
        b'"body":"eA=="}',
        b'"body":"H4sI"}',
        b'"body":""}',
        b'"body":1}',
        b'"other":"x"}',
        b'"body":"\xff"}',
        b"}",
        b"",
    ],
)
def test_a_compressed_body_that_cannot_be_unpacked_is_a_format_error(body: bytes) -> None:
    with pytest.raises(FormatError) as found:
        codec.decode(signed(facts(gzip=3) + b",\n" + body), KEY)
    assert found.value.key == KEY


def test_a_chunk_that_is_too_large_is_refused_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_CHUNK_BYTES", 1000)
    with pytest.raises(
        InvalidInputError, match=r"step 'map\.eu\.train' is too large: 1,\d+ bytes, 1,000 at the most"
    ) as refused:
        codec.encode(a_chunk({"text": "x" * 1000}))
    assert (refused.value.run_id, refused.value.name) == ("r", "map.eu.train")
    assert codec.encode(a_chunk({"text": "x" * 10_000}), compress_above=0)


def test_a_body_that_no_reader_would_unpack_is_refused_before_it_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "MAX_BODY_BYTES", 1000)
    with pytest.raises(InvalidInputError, match="too large"):
        codec.encode(a_chunk({"text": "x" * 1000}), compress_above=0)


def test_the_limits_keep_a_chunk_in_one_request() -> None:
    assert codec.MAX_CHUNK_BYTES < 5 << 30  # what S3 takes in one put


def test_exact_values_travel_in_the_envelope() -> None:
    decoded = codec.decode(codec.encode(a_chunk()), KEY)
    assert decoded.content.exact == {"/loss": "float:nan"}
    assert repr(values.decode(decoded.content)["loss"]) == "nan"


def test_an_ordinary_chunk_says_nothing_about_exact_values_nor_deletion() -> None:
    envelope = json.loads(codec.encode(a_chunk({"a": 1})))["_chunkstore"]
    assert envelope.keys() == {"digest", "format", "run", "kind", "name", "created_at", "writers"}
    assert codec.decode(codec.encode(Chunk(a_chunk().envelope, Content(b"{}"))), KEY).envelope.deleted is False
