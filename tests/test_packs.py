"""The bytes of a pack: what went in comes out, every damage is found, and nothing is unpacked beyond what was announced."""

from __future__ import annotations

import sys
import zlib
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from chunkstore import FormatError, NewerFormatError, keys, packs
from chunkstore.packs import Packing, decode, encode

KEY = "r/whole.pack"
FOUNDED = "2026-11-21T12:00:00.123456789Z"

FILES = st.sampled_from(
    ["run.json", "job.json", "step.a.json", "step.a.b.json", "parameter.x.json", "branch.a%2Fb.json"]
)
PACKINGS = st.lists(
    st.builds(
        lambda file, version, data, stays: Packing(f"r/{file}", version, data, stays),
        FILES | st.integers(0, 99).map(lambda number: f"step.s{number}.json"),
        st.text(max_size=8),
        st.binary(min_size=1, max_size=300) | st.just(b"x" * 5_000),
        st.booleans(),
    ),
    unique_by=lambda one: one.key,
    max_size=12,
)


@pytest.fixture(params=["zstd", "gzip"])
def compression(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "zstd":
        pytest.importorskip("zstandard")
    else:
        monkeypatch.setitem(sys.modules, "zstandard", None)
    return str(request.param)


def some(count: int = 20) -> list[Packing]:
    return [
        Packing(f"r/step.s{number}.json", f"v{number}", b'{"some":"chunk %d"}\n' % number) for number in range(count)
    ]


def packed(found: list[Packing] | None = None) -> bytes:
    return encode("r", FOUNDED, "token", some() if found is None else found)


def facts_of(data: bytes) -> dict[str, Any]:
    facts: dict[str, Any] = orjson.loads(data.partition(b"\n")[0])["_chunkstore_pack"]
    return facts


def forged(data: bytes, **changes: object) -> bytes:
    """With other facts and the right digest: only somebody who means harm, or another program, writes that."""
    line, _, rest = data.partition(b"\n")
    facts = {**orjson.loads(line)["_chunkstore_pack"], **changes}
    del facts["digest"]
    behind = b'",' + orjson.dumps(facts)[1:] + b"}\n" + rest
    return packs._PREFIX + packs._digest(behind) + behind


@given(found=PACKINGS)
def test_what_is_packed_comes_out(found: list[Packing]) -> None:
    pack = decode(encode("r", FOUNDED, "token", found), KEY)
    assert (pack.run, pack.founded, pack.token) == ("r", FOUNDED, "token")
    members = [(one.key, one.version, pack.data_of(one.key), one.stays) for one in pack.members.values()]
    assert members == [tuple(one) for one in found]


def test_it_is_compressed_where_that_is_smaller(compression: str) -> None:
    data = packed()
    assert facts_of(data)["compression"] == compression
    assert decode(data, KEY).data_of("r/step.s7.json") == b'{"some":"chunk 7"}\n'
    assert facts_of(packed([Packing("r/step.a.json", "", b"\x17")]))["compression"] == "none"


def test_the_first_line_tells_a_person_what_it_is() -> None:
    facts = facts_of(packed())
    assert {name: facts[name] for name in ("format", "run", "founded", "chunks")} == {
        "format": 1,
        "run": "r",
        "founded": FOUNDED,
        "chunks": 20,
    }


def test_every_flipped_byte_is_a_format_error(compression: str) -> None:
    data = packed(some(4))
    for place in range(len(data)):
        for bit in (1, 128):
            damaged = data[:place] + bytes([data[place] ^ bit]) + data[place + 1 :]
            with pytest.raises(FormatError) as caught:
                decode(damaged, KEY)
            assert caught.value.key == KEY


def test_every_cut_and_every_tail_is_a_format_error(compression: str) -> None:
    data = packed(some(4))
    for end in range(len(data)):
        with pytest.raises(FormatError):
            decode(data[:end], KEY)
    with pytest.raises(FormatError):
        decode(data + b"x", KEY)


@given(data=st.binary(max_size=200) | st.binary(max_size=80).map(lambda tail: packs._PREFIX + tail))
def test_any_bytes_are_a_format_error(data: bytes) -> None:
    with pytest.raises(FormatError):
        decode(data, KEY)


@pytest.mark.parametrize(
    "changes",
    [
        {"format": "1"},
        {"run": 1},
        {"founded": "yesterday"},
        {"token": None},
        {"chunks": 19},
        {"chunks": -1},
        {"manifest": 3},
        {"manifest": "x"},
        {"bytes": 1},
        {"bytes": -1},
        {"bytes": True},
        {"bytes": 1 << 60},
        {"compression": "lzma"},
        {"compression": "none"},
        {"compression": 1},
    ],
    ids=str,
)
def test_facts_that_do_not_fit_are_a_format_error(changes: dict[str, object], compression: str) -> None:
    with pytest.raises(FormatError):
        decode(forged(packed(), **changes), KEY)


def test_a_newer_format_is_named() -> None:
    with pytest.raises(NewerFormatError, match="format 2"):
        decode(forged(packed(), format=2), KEY)
    with pytest.raises(NewerFormatError, match="format 2"):
        decode(packed().replace(b'"format":1', b'"format":2'), KEY)


@pytest.mark.parametrize(
    "manifest",
    [
        [],
        {},
        [["a.json", "v", 5], ["a.json", "v", 0]],
        [["a.json", "v", "5"]],
        [["a.json", 1, 5]],
        [["a.json", "v", -5]],
        [[]],
        1,
    ],
    ids=str,
)
def test_a_manifest_that_does_not_fit_is_a_format_error(manifest: object) -> None:
    line = orjson.dumps(manifest) + b"\n"
    plain = line + b"12345"
    facts = {"compression": "none", "manifest": len(line), "bytes": len(plain), "chunks": 1}
    data = forged(packed([Packing("r/a.json", "v", b"\x01")]), **facts)
    head = data[: data.index(b"\n") + 1] + plain
    behind = head[packs._DIGEST_END :]
    with pytest.raises(FormatError):
        decode(packs._PREFIX + packs._digest(behind) + behind, KEY)


def test_no_more_is_unpacked_than_was_announced(compression: str) -> None:
    bomb = b"\0" * (64 << 20)
    if compression == "zstd":
        import zstandard

        rest = zstandard.ZstdCompressor().compress(bomb)
    else:
        packer = zlib.compressobj(wbits=31)
        rest = packer.compress(bomb) + packer.flush()
    head = forged(packed([Packing("r/a.json", "v", b"\x01")]), compression=compression, bytes=1_000)
    behind = head[packs._DIGEST_END : head.index(b"\n") + 1] + rest
    import tracemalloc

    tracemalloc.start()
    with pytest.raises(FormatError, match="1000 bytes"):
        decode(packs._PREFIX + packs._digest(behind) + behind, KEY)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_a_pack_by_zstd_names_what_to_install_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("zstandard")
    data = packed()
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(FormatError, match=r"chunkstore\[fast\]"):
        decode(data, KEY)


def test_a_pack_is_no_chunk_and_sorts_behind_all_of_them() -> None:
    key = keys.pack("r")
    assert key == KEY
    assert keys.parse(key) is None
    assert not keys.is_chunk(key)
    names = ["a", "zzz", "~", "ÿ", "x" * 400]
    chunks = [keys.header("r"), keys.job("r")]
    chunks += [make("r", name) for name in names for make in (keys.step, keys.branch, keys.parameter)]
    chunks += [keys.parameter("r", name, "zzz") for name in names]
    assert all(keys.key_of(chunk) < key for chunk in chunks)


def test_header_and_parameters_stay_loose_and_nothing_else() -> None:
    loose = [keys.header("r"), keys.parameter("r", "a"), keys.parameter("r", "a", "m.x")]
    others = [keys.job("r"), keys.step("r", "run"), keys.step("r", "parameter"), keys.branch("r", "parameter.a")]
    assert [keys.stays_loose(keys.key_of(chunk)) for chunk in (*loose, *others)] == [True] * 3 + [False] * 4
