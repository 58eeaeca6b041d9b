"""The index of finished runs: their headers in immutable segments, a manifest that is swapped, notes of doubt. Never authoritative.

    .index/segment.9f….json.gz             the headers of up to 10,000 finished runs
    .index/manifest.json                   which segments there are; replaced by compare-and-swap
    .index/doubt.6fd05e3d3a43-7.nightly-1  write 7 of session 6fd05e3d3a43 is about to change the header of the finished run

What a run is stands in its header. The index may say it instead as long as nobody changed the header since, and this is known so:

* Who is about to replace the header of a run that stands finished puts a note of doubt first, after it learned the version that
  its write is conditional on. A run with a note is not believed: its header is read.
* A reader lists `.index/` first and gets the manifest then. A note that the listing did not show was either not yet there, or
  taken away by a reindex that had swapped the manifest before.
* Who reindexes lists the notes, gets the manifest, and reads the headers then. Where a note's write is not in the header, it may
  still be under way: the header is written again as it is, so that no write made of an older version can land. A writer who is
  refused learns the new version and puts a new note. The manifest is swapped, each time, and only then do exactly these notes go.

A note thus goes only when what it warned of is in the manifest, or can never happen; no clock is asked, and no writer has to come
back and say that it is done. Of two that reindex at once, one is refused by the manifest's version and begins anew.
"""

from __future__ import annotations

import hashlib
import logging
import secrets
import threading
import zlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Any, Final, Generic, NamedTuple, TypeVar

import orjson

from chunkstore import keys, values
from chunkstore.backends import Backend, Blob
from chunkstore.codec import Chunk, Envelope
from chunkstore.errors import BackendUnavailableError, FormatError, NewerFormatError, ObjectNotFoundError
from chunkstore.known import Stored
from chunkstore.models import TERMINAL, Status
from chunkstore.process import ProcessLocal
from chunkstore.values import Content

log = logging.getLogger(__name__)

T = TypeVar("T")

FORMAT: Final = 1
PREFIX: Final = ".index/"
MANIFEST: Final = ".index/manifest.json"
MAX_RUNS: Final = 10_000
"""Headers of one segment."""
MAX_BYTES: Final = 8 << 20
"""Of the headers in one segment, before compression."""
MAX_INLINE: Final = 16 << 10
"""A larger header is not in the segment, only what filters ask about: whoever wants the rest reads the header."""

NOTE: Final = b"{}\n"
"""What stands in a note of doubt: its name says it all."""

_SEGMENT: Final = ".index/segment."
_DOUBT: Final = ".index/doubt."
_CACHE_BYTES: Final = 64 << 20
_MAX_COLUMNS: Final = 64 << 20  # unpacked; ten thousand runs need a hundredth of it
_MANIFEST_START: Final = b'{"digest":"'
_REREADS: Final = 2


class Row(NamedTuple):
    """What the index knows of one run, and what filters ask about; `content` is None where the header is too large."""

    run_id: str
    created_at: str
    status: str
    tag: str
    content: Content | None


def row_of(stored: Stored) -> Row:
    """The row of a header. Raises `FormatError` where it holds no run."""
    envelope, content = stored.chunk.envelope, stored.chunk.content
    try:
        fields = values.decode(content)
    except FormatError as error:
        raise FormatError(f"{stored.key} holds no run: {error}", run_id=envelope.run, key=stored.key) from error
    status, tag = fields.get("status", Status.CREATED.value), fields.get("tag")
    if not isinstance(status, str):
        raise FormatError(f"{stored.key} holds no run: its status is no text", run_id=envelope.run, key=stored.key)
    return Row(envelope.run, envelope.created_at, status.upper(), tag if isinstance(tag, str) else "", content)


def is_indexable(row: Row) -> bool:
    """Whether a run may be in the index: it is finished, and its tag is text that JSON can hold."""
    try:
        row.tag.encode()
    except UnicodeEncodeError:  # a lone surrogate
        return False
    return row.status in TERMINAL


def header_of(row: Row) -> Stored:
    """The header as the index has it; what others wrote since then is known of no run without a note."""
    assert row.content is not None
    envelope = Envelope(row.run_id, keys.Kind.HEADER.value, "", "", row.created_at)
    return Stored(keys.key_of(keys.header(row.run_id)), Chunk(envelope, row.content), "")


# Notes of doubt.


class Note(NamedTuple):
    """A note of doubt: its key, the run, and the write that it stands for."""

    key: str
    run_id: str
    session: str
    number: int


def doubt(replaced: Stored, by: Chunk, session: str, number: int) -> tuple[str, bytes] | None:
    """The note that must stand before a chunk is replaced; None where what the index says stays true."""
    old = replaced.chunk
    if old.envelope.kind != keys.Kind.HEADER or old.envelope.deleted:
        return None
    if old.content == by.content and not by.envelope.deleted:
        return None
    try:
        if row_of(replaced).status not in TERMINAL:
            return None
    except FormatError:
        pass  # nobody can say what stands there
    return doubt_about(old.envelope.run, session, number), NOTE


def doubt_about(run_id: str, session: str = "", number: int = 0) -> str:
    """The key of a note about a run; of a change that leaves no trace in its header where no session is given."""
    return f"{_DOUBT}{session or secrets.token_hex(6)}-{number}.{keys.folder_of(run_id)}"


def _note(key: str) -> Note | None:
    mark, _, folder = key.removeprefix(_DOUBT).partition(".")
    run_id = keys.run_id_of(folder)
    if run_id is None:
        return None
    session, _, number = mark.rpartition("-")
    return Note(key, run_id, session, int(number) if number.isascii() and number.isdecimal() else 0)


# Bytes.


def weight_of(runs: int, size: int) -> int:
    """How full a segment with so many runs and bytes of headers is, of `MAX_RUNS`."""
    return max(runs, size * MAX_RUNS // MAX_BYTES)


class Listed(NamedTuple):
    """A segment as the manifest lists it; the first `columns` bytes are the packed columns, the rest the packed headers."""

    key: str
    digest: str
    columns: int
    runs: int
    bytes: int

    @property
    def weight(self) -> int:
        """How full it is, of `MAX_RUNS`."""
        return weight_of(self.runs, self.bytes)


@dataclass(frozen=True, slots=True)
class Segment:
    """The decoded columns of one segment, all of one length, and its headers, still packed."""

    runs: list[str]
    created_at: list[str]
    status: list[str]
    tag: list[str]
    ends: array[int]
    too_large: frozenset[int]
    exact: Mapping[int, Mapping[str, str]]
    packed: bytes

    @property
    def size(self) -> int:
        """Bytes of memory, about."""
        return 250 * len(self.runs) + sum(map(len, self.runs)) + len(self.packed)

    def row(self, number: int, headers: bytes) -> Row:
        """One row, out of the unpacked headers."""
        content = None
        if number not in self.too_large:
            start = self.ends[number - 1] if number else 0
            exact = self.exact.get(number, values.NOTHING_EXACT)
            content = Content(headers[start : self.ends[number]].removesuffix(b"\n"), exact)
        return Row(self.runs[number], self.created_at[number], self.status[number], self.tag[number], content)


def encode_segment(rows: list[Row]) -> tuple[Listed, bytes]:
    """A segment of a name that no other will ever have, and its bytes: two gzip members, of columns and of headers."""
    statuses, tags = sorted({row.status for row in rows}), sorted({row.tag for row in rows})
    numbers = ({text: at for at, text in enumerate(statuses)}, {text: at for at, text in enumerate(tags)})
    bodies = [b"" if row.content is None else row.content.body + b"\n" for row in rows]
    columns = {
        "format": FORMAT,
        "run": [row.run_id for row in rows],
        "created_at": [row.created_at for row in rows],
        "statuses": statuses,
        "status": [numbers[0][row.status] for row in rows],
        "tags": tags,
        "tag": [numbers[1][row.tag] for row in rows],
        "length": [len(body) for body in bodies],
        "exact": {str(at): dict(row.content.exact) for at, row in enumerate(rows) if row.content and row.content.exact},
    }
    first, second = _pack(orjson.dumps(columns) + b"\n"), _pack(b"".join(bodies))
    data = first + second
    key = f"{_SEGMENT}{secrets.token_hex(12)}.json.gz"
    return Listed(key, _digest(data), len(first), len(rows), sum(map(len, bodies))), data


def decode_segment(listed: Listed, data: bytes) -> Segment:
    """The segment in these bytes. Raises `FormatError` with its key for anything but what the manifest lists."""
    if _digest(data) != listed.digest:
        raise FormatError(f"{listed.key} is damaged; the runs in it are read from their headers", key=listed.key)
    try:
        columns = orjson.loads(_unpack(data[: listed.columns], _MAX_COLUMNS))
        lengths = columns["length"]
        segment = Segment(
            columns["run"],
            columns["created_at"],
            [columns["statuses"][at] for at in columns["status"]],
            [columns["tags"][at] for at in columns["tag"]],
            array("Q", accumulate(lengths)),
            frozenset(at for at, length in enumerate(lengths) if not length),
            {int(at): exact for at, exact in columns["exact"].items()},
            data[listed.columns :],
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError, OverflowError, zlib.error) as error:
        raise FormatError(f"{listed.key} is no segment of format {FORMAT}: {error}", key=listed.key) from error
    texts = (segment.runs, segment.created_at, segment.status, segment.tag)
    if any(len(column) != listed.runs for column in texts) or len(segment.ends) != listed.runs:
        raise FormatError(f"{listed.key} is no segment: its columns differ in length", key=listed.key)
    return segment


def _unpacked_headers(listed: Listed, segment: Segment) -> bytes:
    try:
        return _unpack(segment.packed, listed.bytes)
    except (ValueError, zlib.error) as error:
        raise FormatError(f"{listed.key} is damaged: {error}", key=listed.key) from error


class Manifest(NamedTuple):
    """The segments that count, and the version that the next manifest replaces; None where there is no manifest."""

    segments: tuple[Listed, ...] = ()
    version: str | None = None
    is_damaged: bool = False


def encode_manifest(segments: Iterable[Listed]) -> bytes:
    """A manifest's bytes, never twice the same: who reads them knows whether they are its own."""
    facts = {"format": FORMAT, "token": secrets.token_hex(12), "segments": [one._asdict() for one in segments]}
    rest = b'",' + orjson.dumps(facts)[1:]
    return _MANIFEST_START + _digest(rest).encode("ascii") + rest


def decode_manifest(blob: Blob) -> Manifest:
    """The manifest in these bytes. Raises `FormatError`."""
    start = len(_MANIFEST_START)
    try:
        facts: dict[str, Any] = orjson.loads(blob.data)
        newer = facts["format"] > FORMAT
        if not newer and facts["digest"] == _digest(blob.data[start + 32 :]):
            segments = tuple(Listed(**one) for one in facts["segments"])
            return Manifest(segments, blob.version)
    except (ValueError, KeyError, TypeError) as error:
        raise FormatError(f"{MANIFEST} is damaged; reindex makes it anew", key=MANIFEST) from error
    if newer:
        raise NewerFormatError(
            f"{MANIFEST} has format {facts['format']}, this chunkstore reads up to {FORMAT}; upgrade chunkstore to use the index",
            key=MANIFEST,
        )
    raise FormatError(f"{MANIFEST} is damaged; reindex makes it anew", key=MANIFEST)


def _digest(data: bytes) -> str:
    return hashlib.blake2b(data, digest_size=16).hexdigest()


def _pack(data: bytes) -> bytes:
    packer = zlib.compressobj(level=6, wbits=31)
    return packer.compress(data) + packer.flush()


def _unpack(data: bytes, most: int) -> bytes:
    unpacker = zlib.decompressobj(wbits=31)
    plain = unpacker.decompress(data, most + 1)  # never more than was announced, whatever the bytes unpack to
    if len(plain) > most or not unpacker.eof:
        raise ValueError("it does not unpack to the size that it says")
    return plain


# Reading.


class Listing(NamedTuple):
    """What a listing of the index showed."""

    notes: list[Note]
    segments: list[str]
    has_manifest: bool


class Index:
    """The index in one backend, as this process sees it. Segments that were read stay decoded, bounded in bytes."""

    def __init__(self, backend: Backend, *, cache_bytes: int = _CACHE_BYTES) -> None:
        self._backend = backend
        self._decoded: _Bounded[Segment] = _Bounded(cache_bytes, lambda segment: segment.size)
        self._headers: _Bounded[bytes] = _Bounded(cache_bytes, len)

    def listing(self) -> Listing:
        """What is there. One request per 1,000 notes and segments."""
        found = Listing([], [], False)
        for entry in self._backend.list(PREFIX):
            if entry.key == MANIFEST:
                found = found._replace(has_manifest=True)
            elif entry.key.startswith(_SEGMENT):
                found.segments.append(entry.key)
            elif entry.key.startswith(_DOUBT) and (note := _note(entry.key)) is not None:
                found.notes.append(note)
        return found

    def manifest(self) -> Manifest:
        """The manifest; without segments where there is none, or it is damaged. Raises `NewerFormatError`. One request."""
        try:
            blob = self._backend.get(MANIFEST)
        except ObjectNotFoundError:
            return Manifest()
        try:
            return decode_manifest(blob)
        except NewerFormatError:
            raise
        except FormatError as error:
            log.warning("%s", error)
            return Manifest(version=blob.version, is_damaged=True)

    def look(self) -> View:
        """What may be believed at this moment. One listing and one request; segments are read as they are asked for.

        Who may not read the index does without: the headers tell.
        """
        try:
            listing = self.listing()  # before the manifest: see above
            manifest = self.manifest() if listing.has_manifest else Manifest()
        except NewerFormatError as error:
            log.warning("%s", error)
            return View(self, frozenset(), Manifest())
        except BackendUnavailableError as error:
            if error.transient:
                raise
            log.warning("the index of %s is not used: %s", self._backend.place, error)
            return View(self, frozenset(), Manifest())
        return View(self, frozenset(note.run_id for note in listing.notes), manifest)

    def segments(self, wanted: Iterable[Listed]) -> Iterator[tuple[Listed, Segment]]:
        """Those that are whole, in any order. One request for each that this process does not know, all at once."""
        missing: dict[str, Listed] = {}
        for listed in wanted:
            segment = self._decoded.get(listed.key)
            if segment is None:
                missing[listed.key] = listed
            else:
                yield listed, segment
        for key, blob in self._backend.get_many(list(missing)):
            segment = self._decode(missing[key], blob)
            if segment is not None:
                yield missing[key], segment

    def _decode(self, listed: Listed, blob: Blob) -> Segment | None:
        try:
            segment = decode_segment(listed, blob.data)
        except FormatError as error:
            log.warning("%s", error)
            return None
        self._decoded.put(listed.key, segment)
        return segment

    def rows(self, listed: Listed, numbers: Iterable[int]) -> Iterator[Row]:
        """Some rows of a segment; none where it is gone or damaged. One request where this process does not know it."""
        for _, segment in self.segments([listed]):
            headers = self._headers.get(listed.key)
            if headers is None:
                try:
                    headers = _unpacked_headers(listed, segment)
                except FormatError as error:
                    log.warning("%s", error)
                    return
                self._headers.put(listed.key, headers)
            for number in numbers:
                yield segment.row(number, headers)


class View:
    """The index at one moment: which runs are in doubt, and the segments that hold the others."""

    def __init__(self, index: Index, doubted: frozenset[str], manifest: Manifest) -> None:
        self._index = index
        self.doubted = doubted
        self._manifest = manifest

    def segments(self) -> Iterator[tuple[Listed, Segment]]:
        """All segments. Where a reindex took some away meanwhile, those that took their place: a run may come twice then."""
        done: set[str] = set()
        for again in range(_REREADS + 1):
            for listed, segment in self._index.segments(
                [one for one in self._manifest.segments if one.key not in done]
            ):
                done.add(listed.key)
                yield listed, segment
            missing = [one.key for one in self._manifest.segments if one.key not in done]
            if not missing:
                return
            if again == _REREADS or not self._is_replaced():
                log.warning("the index lists segments that cannot be used: %s; reindex repairs it", missing[:5])
                return

    def _is_replaced(self) -> bool:
        """Whether there is another manifest by now, which then counts."""
        try:
            before, self._manifest = self._manifest, self._index.manifest()
        except NewerFormatError:
            return False
        return before.version != self._manifest.version

    def rows(self, listed: Listed, numbers: Iterable[int]) -> Iterator[Row]:
        """Some rows of a segment, as `Index.rows`."""
        return self._index.rows(listed, numbers)


class _Bounded(Generic[T]):
    """Values by key, bounded in bytes; the longest unused goes first, and one always stays."""

    def __init__(self, max_bytes: int, size_of: Callable[[T], int]) -> None:
        self._max_bytes = max_bytes
        self._size_of = size_of
        self._bytes = 0
        self._values: dict[str, T] = {}
        self._lock = ProcessLocal(threading.Lock)

    def get(self, key: str) -> T | None:
        with self._lock.get():
            value = self._values.pop(key, None)
            if value is not None:
                self._values[key] = value
        return value

    def put(self, key: str, value: T) -> None:
        with self._lock.get():
            self._drop(key)
            self._values[key] = value
            self._bytes += self._size_of(value)
            while self._bytes > self._max_bytes and len(self._values) > 1:
                self._drop(next(iter(self._values)))

    def _drop(self, key: str) -> None:
        value = self._values.pop(key, None)
        if value is not None:
            self._bytes -= self._size_of(value)
