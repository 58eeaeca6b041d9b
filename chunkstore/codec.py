"""What the bytes of a chunk mean: envelope, digest, compression, format version. Knows no key and no backend.

    {"_chunkstore":{"digest":"…","format":1,"run":"r1","kind":"step","name":"train","created_at":"…","writers":{"…":2}},
    "name":"train","internal_name":"train","status":"SUCCESS",…}

The first line is ours, the rest is the model's own JSON. Together they are one JSON object, for `jq` and for any model that
ignores or keeps unknown fields. JSON text never has a raw line break inside a string, so the first one ends the envelope, and
the body can be handed to a parser as it stands. The digest covers every byte behind it.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import zlib
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import orjson

from chunkstore.clock import is_stamp
from chunkstore.errors import FormatError, InvalidInputError, NewerFormatError
from chunkstore.values import NOTHING_EXACT, Content

FORMAT: Final = 1
MAX_BODY_BYTES: Final = 256 << 20
MAX_CHUNK_BYTES: Final = 64 << 20
"""The largest object that is written: always one request, never a multi-part upload."""

_OPEN: Final = b'{"_chunkstore":'
_PREFIX: Final = _OPEN + b'{"digest":"'
_DIGEST_END: Final = len(_PREFIX) + 32
MAX_OBJECT_BYTES: Final = _DIGEST_END + MAX_CHUNK_BYTES

_BREAK: Final = b"\n"
_TEXTS: Final = frozenset({str})
_INTEGERS: Final = frozenset({int})
_TRUTHS: Final = frozenset({bool})


NO_WRITERS: Final[Mapping[str, int]] = {}
NO_FENCES: Final[Mapping[str, int]] = {}


class Envelope(NamedTuple):
    """Our own facts about a chunk.

    `created_at` is the time of its first write, the same for ever. `writers` has, for each session that wrote it, the number
    of that session's last write. `deleted` marks the header of a run that is being deleted. `founded` says to which run of this
    id a chunk belongs: the `created_at` of its header, as far as the chunk's first writer knew it. `packed` marks the header of a
    run that has a pack, or is about to get one. `fences` has, for each lease under which the chunk was written, its generation at the last such write.
    """

    run: str
    kind: str
    name: str
    scope: str
    created_at: str
    writers: Mapping[str, int] = NO_WRITERS
    deleted: bool = False
    founded: str = ""
    packed: bool = False
    fences: Mapping[str, int] = NO_FENCES


class Chunk(NamedTuple):
    """One chunk: the envelope and the model's JSON."""

    envelope: Envelope
    content: Content


def encode(chunk: Chunk, *, compress_above: int | None = None) -> bytes:
    """The chunk's bytes. A body of more than `compress_above` bytes is compressed.

    Raises `InvalidInputError` for a chunk over `MAX_CHUNK_BYTES`.
    """
    body = chunk.content.body
    if len(body) > MAX_BODY_BYTES:  # no reader would unpack it
        raise _too_large(chunk, len(body), MAX_BODY_BYTES)
    facts = _facts(chunk)
    if compress_above is not None and len(body) > compress_above:
        facts["gzip"] = len(body)
        body = b'{"body":"' + base64.b64encode(_compress(body)) + b'"}'
    line = orjson.dumps(facts)[1:]  # without its opening brace: the digest comes first
    rest = b'",' + line + (b",\n" if body != b"{}" else b"\n") + body[1:]
    digest = hashlib.blake2b(rest, digest_size=16).hexdigest().encode("ascii")
    if len(rest) > MAX_CHUNK_BYTES:
        raise _too_large(chunk, len(rest), MAX_CHUNK_BYTES)
    return _PREFIX + digest + rest


def decode(data: bytes, key: str) -> Chunk:
    """The chunk in these bytes. Raises `FormatError` with the key for anything but a whole chunk of a known format."""
    digest = hashlib.blake2b(memoryview(data)[_DIGEST_END:], digest_size=16).hexdigest().encode("ascii")
    if not data.startswith(_PREFIX) or data[len(_PREFIX) : _DIGEST_END] != digest:
        raise _damage(data, key)
    line, _, rest = data.partition(_BREAK)
    try:
        facts = orjson.loads(line[len(_OPEN) :].removesuffix(b","))
        if facts["format"] > FORMAT:
            raise _newer(key, facts["format"])
        body = b"{" + rest
        if "gzip" in facts:
            body = _decompress(body, facts["gzip"], key)
        return Chunk(_envelope(facts), Content(body, _exact(facts)))
    except (ValueError, KeyError, TypeError, AttributeError) as error:  # with the right digest: another program's bytes
        raise FormatError(
            f"{key} is no chunk of format {FORMAT}: its first line is not as it should be", key=key
        ) from error


def _envelope(facts: Mapping[str, Any]) -> Envelope:
    envelope = Envelope(
        facts["run"],
        facts["kind"],
        facts.get("name", ""),
        facts.get("scope", ""),
        facts["created_at"],
        facts["writers"],
        facts.get("deleted", False),
        facts.get("founded", ""),
        facts.get("packed", False),
        facts.get("fences", NO_FENCES),
    )
    run, kind, name, scope, created_at, writers, deleted, founded, packed, fences = envelope
    if {type(run), type(kind), type(name), type(scope), type(created_at), type(founded)} != _TEXTS:
        raise TypeError("names and times are texts")
    if set(map(type, writers.values())) - _INTEGERS:
        raise TypeError("writers are numbered")
    if fences is not NO_FENCES and set(map(type, fences.values())) - _INTEGERS:
        raise TypeError("generations are numbers")
    if {type(deleted), type(packed)} != _TRUTHS:
        raise TypeError("deleted and packed are truth values")
    if not is_stamp(envelope.created_at):
        raise ValueError(envelope.created_at)  # it orders chunks as text, and the clock goes on from there
    return envelope


def _exact(facts: Mapping[str, Any]) -> Mapping[str, str]:
    if "exact" not in facts:
        return NOTHING_EXACT
    exact: Mapping[str, str] = facts["exact"]
    if not all(isinstance(value, str) for value in exact.values()):
        raise TypeError("exact values are texts")
    return exact


def _facts(chunk: Chunk) -> dict[str, object]:
    envelope = chunk.envelope
    facts: dict[str, object] = {"format": FORMAT, "run": envelope.run, "kind": envelope.kind}
    if envelope.name:
        facts["name"] = envelope.name
    if envelope.scope:
        facts["scope"] = envelope.scope
    if envelope.founded:
        facts["founded"] = envelope.founded
    facts["created_at"] = envelope.created_at
    facts["writers"] = dict(envelope.writers)
    if envelope.deleted:
        facts["deleted"] = True
    if envelope.packed:
        facts["packed"] = True
    if envelope.fences:
        facts["fences"] = dict(envelope.fences)
    if chunk.content.exact:
        facts["exact"] = dict(chunk.content.exact)
    return facts


def _too_large(chunk: Chunk, size: int, most: int) -> InvalidInputError:
    return InvalidInputError(
        f"{chunk.envelope.kind} {chunk.envelope.name!r} is too large: {size:,} bytes, {most:,} at the most; "
        "store large data elsewhere and keep a reference to it here",
        run_id=chunk.envelope.run,
        name=chunk.envelope.name,
    )


def too_large_to_be_one(key: str, size: int) -> FormatError:
    """The error for an object that nobody should read to know that it is no chunk."""
    return FormatError(f"{key} has {size:,} bytes; no chunk of ours is as large: move it away", key=key)


def _damage(data: bytes, key: str) -> FormatError:
    """The error for bytes that are not a whole chunk, with what can still be said about them."""
    if not data:
        return FormatError(
            f"{key} is empty; it is no whole chunk: restore it, or delete it to go on without it", key=key
        )
    try:
        facts = json.loads(data.partition(_BREAK)[0].removesuffix(b",") + b"}")["_chunkstore"]
        newer = int(facts["format"])
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        newer = 0
    if newer > FORMAT:
        return _newer(key, newer)
    return FormatError(
        f"{key} is damaged: its {len(data)} bytes are no whole chunk; restore it, or delete it to go on without it",
        key=key,
    )


def _newer(key: str, version: int) -> NewerFormatError:
    return NewerFormatError(
        f"{key} has format {version}, this chunkstore reads up to {FORMAT}; upgrade chunkstore to read it", key=key
    )


def _compress(body: bytes) -> bytes:
    packer = zlib.compressobj(level=6, wbits=31)
    return packer.compress(body) + packer.flush()


def _decompress(body: bytes, size: int, key: str) -> bytes:
    if not 0 <= size <= MAX_BODY_BYTES:
        raise FormatError(f"{key} says that it holds {size} bytes; {MAX_BODY_BYTES} are the most", key=key)
    try:
        packed = base64.b64decode(orjson.loads(body)["body"], validate=True)
        unpacker = zlib.decompressobj(wbits=31)
        plain = unpacker.decompress(packed, size + 1)  # never more than was announced, whatever the bytes unpack to
    except (ValueError, KeyError, TypeError, binascii.Error, zlib.error) as error:
        raise FormatError(f"{key} cannot be decompressed: {error}", key=key) from error
    if len(plain) != size or not unpacker.eof:
        raise FormatError(f"{key} unpacks to another size than the {size} bytes that it says", key=key)
    return plain
