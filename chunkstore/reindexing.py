"""Bringing the index up to date, or making it anew from the headers. Why it is safe beside writers stands in `index`."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

from chunkstore import keys
from chunkstore.backends import FOUND, Condition, unchanged
from chunkstore.chunks import Chunks
from chunkstore.errors import BackendUnavailableError, ConflictError, FormatError, ObjectNotFoundError
from chunkstore.index import (
    MANIFEST,
    MAX_INLINE,
    MAX_RUNS,
    Index,
    Listed,
    Note,
    Row,
    encode_manifest,
    encode_segment,
    is_indexable,
    row_of,
    weight_of,
)
from chunkstore.known import Stored
from chunkstore.models import TERMINAL

log = logging.getLogger(__name__)

_TRIES: Final = 20
_AT_ONCE: Final = 1_000  # headers in memory


@dataclass(frozen=True, slots=True)
class ReindexReport:
    """What a reindex came to."""

    runs: int
    """Finished runs in the index now."""
    segments: int
    """Segments that hold them."""
    read: int
    """Headers that were read for it: of runs that were not in the index, or in doubt."""
    settled: int
    """Notes of doubt that are gone."""


class Reindexer:
    """Makes a new manifest until no other reindex was faster."""

    def __init__(self, chunks: Chunks, index: Index) -> None:
        self._chunks = chunks
        self._index = index

    def run(self, *, full: bool) -> ReindexReport:
        """Indexes what is finished and not in the index; with `full` everything, from the headers."""
        for _ in range(_TRIES):
            report = _Attempt(self._chunks, self._index, full=full).made()
            if report is not None:
                return report
        raise ConflictError(
            f"gave up reindexing {self._chunks.backend.place} after {_TRIES} tries, each one overtaken by another reindex; "
            "the index is as that one left it",
            key=MANIFEST,
        )


class _Attempt:
    """One try, made of one manifest."""

    def __init__(self, chunks: Chunks, index: Index, *, full: bool) -> None:
        self._chunks = chunks
        self._backend = chunks.backend
        self._index = index
        self._listing = index.listing()  # before the manifest, and both before any header
        self._before = index.manifest()
        self._runs = {run_id for run_id in map(keys.run_id_of, self._backend.folders()) if run_id is not None}
        self._noted: dict[str, list[Note]] = {}
        for note in self._listing.notes:
            self._noted.setdefault(note.run_id, []).append(note)
        self._read = 0
        self._pool = _Pool(chunks)
        self._kept = [] if full else self._sifted()

    def made(self) -> ReindexReport | None:
        """The report; None where another reindex was faster."""
        for run_ids in _batches(sorted(self._runs), _AT_ONCE):
            for stored in self._headers(run_ids):
                self._add(stored)
        self._absorb_small_ones()
        segments = sorted([*self._kept, *self._pool.flushed()], key=lambda listed: listed.key)
        gone = [note for notes in self._noted.values() for note in notes]
        named = {listed.key for listed in segments}
        garbage = [key for key in self._listing.segments if key not in named]
        changed = self._before.is_damaged or named != {listed.key for listed in self._before.segments}
        # Also where only notes or garbage go: whoever is at it beside us knows neither, and must begin anew.
        if (changed or gone or garbage) and not self._swap(segments):
            return None
        self._chunks.delete_many([*(note.key for note in gone), *garbage])
        return ReindexReport(sum(listed.runs for listed in segments), len(segments), self._read, len(gone))

    def _sifted(self) -> list[Listed]:
        """The segments that stay as they are; of the others, the rows that stay. What is indexed need not be read."""
        kept = []
        for listed, segment in self._index.segments(self._before.segments):
            stay = [at for at, run_id in enumerate(segment.runs) if run_id in self._runs and run_id not in self._noted]
            rows = None if len(stay) == len(segment.runs) else list(self._index.rows(listed, stay))
            if rows is None:
                kept.append(listed)
            elif len(rows) < len(stay):
                continue  # damaged: its runs are read
            else:
                self._pool.extend(rows)
            self._runs.difference_update([segment.runs[at] for at in stay])
        return kept

    def _headers(self, run_ids: list[str]) -> Iterator[Stored]:
        """The headers of runs that are not indexed. A note about one that nobody can read stays."""
        self._read += len(run_ids)
        scan = self._chunks.read_many(keys.header(run_id) for run_id in run_ids)
        for damage in scan.damaged:
            log.warning("%s", damage)
            chunk = keys.parse(damage.key)
            if chunk is not None:
                self._noted.pop(chunk.run_id, None)
        yield from scan.chunks

    def _add(self, stored: Stored) -> None:
        if not _is_finished(stored):
            return  # a write that a note stands for was made of a finished header: it cannot land any more
        fenced = self._fenced(stored)
        if fenced is None or not _is_finished(fenced):
            return
        row = row_of(fenced)
        if is_indexable(row):
            self._pool.add(row)

    def _fenced(self, stored: Stored) -> Stored | None:
        """A header that no write can change any more which a listed note stands for; None where the run is gone."""
        notes = self._noted.get(stored.chunk.envelope.run, ())
        writers = stored.chunk.envelope.writers
        if all(writers.get(note.session, 0) >= note.number > 0 for note in notes):
            return stored
        try:
            return self._chunks.rewrite(stored)
        except ObjectNotFoundError:
            return None

    def _absorb_small_ones(self) -> None:
        """Joins what is new with segments of its size or less, so that there is at most one of each power of two."""
        while small := [one for one in self._kept if _is_small(one) and _size_class(one) <= self._pool.size_class]:
            for listed in small:
                self._kept.remove(listed)
                self._pool.extend(self._index.rows(listed, range(listed.runs)))

    def _swap(self, segments: list[Listed]) -> bool:
        """Puts the manifest in the place of the one that this try was made of; whether it stands there now."""
        version = self._before.version
        data = encode_manifest(segments)
        condition: Condition = FOUND if version is None else unchanged(version)
        try:
            self._backend.put(MANIFEST, data, condition, barrier=True)
        except (ConflictError, ObjectNotFoundError, BackendUnavailableError) as error:
            if isinstance(error, BackendUnavailableError) and not error.transient:
                raise
            return self._stands(data)
        return True

    def _stands(self, data: bytes) -> bool:
        """Whether the manifest landed although its reply said otherwise."""
        try:
            return self._backend.get(MANIFEST).data == data
        except ObjectNotFoundError:
            return False


class _Pool:
    """Rows that are to be in new segments; full ones are written as soon as they are."""

    def __init__(self, chunks: Chunks) -> None:
        self._chunks = chunks
        self._rows: list[Row] = []
        self._bytes = 0
        self._written: list[Listed] = []

    @property
    def size_class(self) -> int:
        """That of the segment that would be written now; 0 for none."""
        return weight_of(len(self._rows), self._bytes).bit_length()

    def extend(self, rows: Iterable[Row]) -> None:
        for row in rows:
            self.add(row)

    def add(self, row: Row) -> None:
        size = 0 if row.content is None else len(row.content.body)
        if size > MAX_INLINE:
            row, size = row._replace(content=None), 0
        self._rows.append(row)
        self._bytes += size
        if weight_of(len(self._rows), self._bytes) >= MAX_RUNS:
            self._write()

    def flushed(self) -> list[Listed]:
        """All segments, the last one as full as it is."""
        if self._rows:
            self._write()
        return self._written

    def _write(self) -> None:
        listed, data = encode_segment(sorted(self._rows, key=lambda row: (row.created_at, row.run_id)))
        self._rows, self._bytes = [], 0
        # With a barrier: after a power cut the index must not know more of a run than its header.
        self._chunks.put_new(listed.key, data)
        self._written.append(listed)


def _is_finished(stored: Stored) -> bool:
    if stored.chunk.envelope.deleted:
        return False
    try:
        return row_of(stored).status in TERMINAL
    except FormatError as error:
        log.warning("%s", error)
        return False


def _is_small(listed: Listed) -> bool:
    return 2 * listed.weight <= MAX_RUNS


def _size_class(listed: Listed) -> int:
    return listed.weight.bit_length()


def _batches(run_ids: list[str], size: int) -> Iterator[list[str]]:
    each = iter(run_ids)
    while batch := list(islice(each, size)):
        yield batch
