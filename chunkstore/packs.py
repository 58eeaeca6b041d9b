"""The bytes of a pack: all chunks of a run in one object, behind a manifest of their keys and versions. Knows no backend.

    {"_chunkstore_pack":{"digest":"…","format":1,"run":"r1","founded":"…","token":"…","chunks":3,"manifest":210,"bytes":900,"compression":"zstd"}}
    [["step.a.json","<version>",412],…]
    {"_chunkstore":…}…

The first line is for people and `jq`; what is behind it is compressed as a whole: the manifest, one line of JSON, and then the chunks' own bytes
one after the other, in its order. So each chunk still has its own digest. The pack's digest covers every byte behind it.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, cast

import orjson

from chunkstore.clock import is_stamp
from chunkstore.errors import FormatError, NewerFormatError

FORMAT: Final = 1
MAX_PLAIN_BYTES: Final = 256 << 20
"""What a pack unpacks to at the most; a run that has more is not packed."""
MAX_PACK_BYTES: Final = 64 << 20
"""The largest pack: always one request, never a multi-part upload."""

_PREFIX: Final = b'{"_chunkstore_pack":{"digest":"'
_DIGEST_END: Final = len(_PREFIX) + 32
_LEVEL: Final = 6


class Member(NamedTuple):
    """One chunk of a pack: its key, the version that it had where it stood, and its bytes' place.

    `stays` says that it was written again after it had been packed once: such a chunk stays loose for ever, so that of what was packed and
    removed there is one content only, and whoever brings it back builds on that one.
    """

    key: str
    version: str
    offset: int
    size: int
    stays: bool


class Packing(NamedTuple):
    """A chunk to be packed."""

    key: str
    version: str
    data: bytes
    stays: bool = False


@dataclass(frozen=True, slots=True)
class Pack:
    """A pack as it was read: what is in it, and all of its chunks' bytes."""

    run: str
    founded: str
    """The `created_at` of the header of the run that was packed: an id may be used again."""
    token: str
    """By whom and when it was made: no other pack has it."""
    members: Mapping[str, Member]
    chunks: bytes

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return len(self.chunks) + 400 * len(self.members)

    def data_of(self, key: str) -> bytes:
        """The bytes of one of its chunks."""
        member = self.members[key]
        return self.chunks[member.offset : member.offset + member.size]


def encode(run: str, founded: str, token: str, found: Iterable[Packing]) -> bytes:
    """The bytes of a pack of these chunks: compressed by zstd where it is installed, or else gzip; plain where that is smaller."""
    found = list(found)
    lines = [[one.key.partition("/")[2], one.version, len(one.data), *([True] if one.stays else [])] for one in found]
    manifest = orjson.dumps(lines) + b"\n"
    plain = b"".join([manifest, *(one.data for one in found)])
    compression, rest = _compress(plain)
    facts = {"format": FORMAT, "run": run, "founded": founded, "token": token, "chunks": len(found)}
    facts |= {"manifest": len(manifest), "bytes": len(plain), "compression": compression}
    behind = b'",' + orjson.dumps(facts)[1:] + b"}\n" + rest
    return _PREFIX + _digest(behind) + behind


def decode(data: bytes, key: str) -> Pack:
    """The pack in these bytes. Raises `FormatError` with the key for anything but a whole pack of a known format.

    `NewerFormatError`, where it is whole and cannot be read here: also for one compressed by zstd where the package `zstandard` is missing.
    """
    view = memoryview(data)
    if not data.startswith(_PREFIX) or view[len(_PREFIX) : _DIGEST_END] != _digest(view[_DIGEST_END:]):
        raise _damage(data, key)
    line, _, _ = data.partition(b"\n")
    try:
        facts = orjson.loads(line)["_chunkstore_pack"]
        if facts["format"] > FORMAT:
            raise _newer(key, facts["format"])
        plain = _unpacked(view[len(line) + 1 :], facts["compression"], _bounded(facts["bytes"], key), key)
        end = facts["manifest"]
        members = _members(plain[:end], key.partition("/")[0], len(plain) - end, facts["chunks"])
        return Pack(_text(facts["run"]), _stamp(facts["founded"]), _text(facts["token"]), members, plain[end:])
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # with the right digest: another program's bytes
        raise FormatError(
            f"{key} is no pack of format {FORMAT}: its facts are not as they should be", key=key
        ) from error


def too_large_to_be_one(key: str, size: int) -> FormatError:
    """The error for an object that nobody should read to know that it is no pack."""
    return FormatError(f"{key} has {size:,} bytes; no pack of ours is as large: move it away", key=key)


def _members(manifest: bytes, folder: str, room: int, count: int) -> dict[str, Member]:
    members: dict[str, Member] = {}
    offset = 0
    for file, version, size, *stays in orjson.loads(manifest):
        if not (isinstance(file, str) and isinstance(version, str) and type(size) is int and size > 0):
            raise TypeError("a line of the manifest has a name, a version and a size")
        key = f"{folder}/{file}"
        members[key] = Member(key, version, offset, size, stays == [True])
        offset += size
    if offset != room or len(members) != count:
        raise ValueError("the manifest does not fit the chunks")
    return members


def _text(given: object) -> str:
    if not isinstance(given, str):
        raise TypeError(given)
    return given


def _stamp(given: object) -> str:
    if not is_stamp(given):
        raise ValueError(given)
    return str(given)


def _digest(data: bytes | memoryview) -> bytes:
    return hashlib.blake2b(data, digest_size=16).hexdigest().encode("ascii")


def _bounded(size: object, key: str) -> int:
    if type(size) is not int or not 0 <= size <= MAX_PLAIN_BYTES:
        raise FormatError(f"{key} says that it holds {size} bytes; {MAX_PLAIN_BYTES} are the most", key=key)
    return size


def _compress(plain: bytes) -> tuple[str, bytes]:
    """The name of the compression and what it makes of the bytes; as they are where that is not larger."""
    zstd = _zstd()
    if zstd is None:
        packer = zlib.compressobj(level=_LEVEL, wbits=31)
        name, packed = "gzip", packer.compress(plain) + packer.flush()
    else:
        name, packed = "zstd", zstd.ZstdCompressor(level=_LEVEL).compress(plain)
    return (name, packed) if len(packed) < len(plain) else ("none", plain)


def _unpacked(packed: memoryview, compression: str, size: int, key: str) -> bytes:
    """Never more than was announced, whatever the bytes unpack to."""
    unpack = _UNPACKERS.get(compression)
    if unpack is None:
        raise NewerFormatError(
            f"{key} is compressed by {compression!r}, which this chunkstore does not know; upgrade it", key=key
        )
    plain = unpack(packed, size, key)
    if plain is None or len(plain) != size:
        raise FormatError(f"{key} does not unpack to the {size} bytes that it says", key=key)
    return plain


def _from_plain(packed: memoryview, _size: int, _key: str) -> bytes | None:
    return bytes(packed)


def _from_gzip(packed: memoryview, size: int, _key: str) -> bytes | None:
    unpacker = zlib.decompressobj(wbits=31)
    try:
        plain = unpacker.decompress(packed, size + 1)
    except zlib.error:
        return None
    return plain if unpacker.eof and not unpacker.unused_data else None


def _from_zstd(packed: memoryview, size: int, key: str) -> bytes | None:
    zstd = _zstd()
    if zstd is None:
        raise NewerFormatError(  # the pack is whole
            f"{key} is compressed by zstd, and the package zstandard is not installed here; pip install 'chunkstore[fast]'",
            key=key,
        )
    try:
        # A frame that announces its size is unpacked to that size, whatever limit is given.
        if zstd.frame_content_size(packed) != size:
            return None
        plain = zstd.ZstdDecompressor().decompress(packed, max_output_size=size, allow_extra_data=False)
    except zstd.ZstdError:
        return None
    return cast(bytes, plain)


_UNPACKERS: Final[Mapping[str, Callable[[memoryview, int, str], bytes | None]]] = {
    "none": _from_plain,
    "gzip": _from_gzip,
    "zstd": _from_zstd,
}


def _zstd() -> Any:
    """The package zstandard, None where it is not installed: it belongs to the extra `fast`."""
    try:
        import zstandard
    except ImportError:
        return None
    return zstandard


def _damage(data: bytes, key: str) -> FormatError:
    """The error for bytes that are not a whole pack, with what can still be said about them."""
    try:
        newer = int(orjson.loads(data.partition(b"\n")[0])["_chunkstore_pack"]["format"])
    except (ValueError, KeyError, TypeError, OverflowError):
        newer = 0
    if newer > FORMAT:
        return _newer(key, newer)
    return FormatError(
        f"{key} is damaged: its {len(data)} bytes are no whole pack. Chunks that are not loose are missing without it: restore it, "
        "or delete it to go on without them",
        key=key,
    )


def _newer(key: str, version: int) -> NewerFormatError:
    return NewerFormatError(
        f"{key} has format {version}, this chunkstore reads packs up to {FORMAT}; upgrade chunkstore to read it",
        key=key,
    )
