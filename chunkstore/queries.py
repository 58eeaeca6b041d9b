"""Runs by filter: which there are, in an order, page by page. What is indexed is filtered without reading its header."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from itertools import islice
from typing import Final, Literal, NamedTuple, TypedDict, cast

import orjson
from pydantic import BaseModel

from chunkstore import keys, values
from chunkstore.assembly import collector_paused
from chunkstore.chunks import Chunks
from chunkstore.clock import is_stamp
from chunkstore.errors import FormatError, InvalidInputError, RunLogNotFoundError
from chunkstore.index import Index, Listed, Row, View, header_of, row_of
from chunkstore.known import Stored
from chunkstore.models import RunLog
from chunkstore.reading import Reader
from chunkstore.schema import Schema
from chunkstore.values import Json

log = logging.getLogger(__name__)

Order = Literal["newest", "oldest"]

_WINDOW: Final = 1_000  # headers in memory at once
_HELD_BYTES: Final = 32 << 20  # of headers that are not indexed; the others are read again when their turn comes
_OVERHEAD: Final = 1_000  # of Python objects around one, about


class FilterKeywords(TypedDict, total=False):
    """The fields of a `RunFilter`, as keywords of a call."""

    tag: str
    status: str
    since: datetime | None
    until: datetime | None
    text: str
    parameters: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunFilter:
    """Which runs are wanted: those for which all that is given holds. Raises `InvalidInputError` for what cannot be asked.

    `since` and `until` compare the time of creation and need a time zone; `since` itself is wanted, `until` is not.
    `text` stands somewhere in the run id. `parameters` are the run's own, compared exactly, except that 1 and 1.0 are one number.
    """

    tag: str = ""
    status: str = ""
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""
    parameters: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in ("tag", "status", "text"):
            if not isinstance(getattr(self, name), str):
                raise InvalidInputError(f"a filter's {name} must be a string, not {getattr(self, name)!r}", name=name)
        for name in ("since", "until"):
            _check_time(name, getattr(self, name))
        if not isinstance(self.parameters, Mapping):
            raise InvalidInputError("a filter's parameters must be a mapping from names to values", name="parameters")


@dataclass(frozen=True, slots=True)
class RunPage:
    """Some runs, and the cursor that goes on behind them; empty behind the last."""

    runs: tuple[RunLog, ...]
    cursor: str


class _Candidate(NamedTuple):
    """A run that the filter lets through, but for its parameters: what orders it, and where its header is.

    That is a row of a segment (its number there, and that of the segment in the query's list); the header itself; or None:
    it is read when its turn comes. Light, since there may be 100,000.
    """

    created_at: str
    run_id: str
    place: int | Stored | None


class Queries:
    """Finds runs: in the index as far as it may be believed, otherwise by their headers."""

    def __init__(self, chunks: Chunks, reader: Reader, schema: Schema, index: Index) -> None:
        self._chunks = chunks
        self._reader = reader
        self._schema = schema
        self._index = index

    def run_ids(self) -> Iterator[str]:
        """All, in any order."""
        found = map(keys.run_id_of, self._chunks.backend.folders())
        return (run_id for run_id in found if run_id is not None)

    def page(self, wanted: RunFilter, order: Order, limit: int, cursor: str, *, full: bool) -> RunPage:
        """The runs behind the cursor, as many as the limit allows."""
        if limit < 1:
            raise InvalidInputError(f"the limit must be a number of runs, 1 or more, not {limit!r}", name="limit")
        search = _Search(self._chunks, self._schema, self._index, wanted)
        seal = search.seal(_checked(order))
        after = _read_cursor(cursor, seal) if cursor else None
        with collector_paused():
            found = search.candidates(search.all_runs(self.run_ids()), order, after)
            runs, last = [], None
            for number, stored in search.headers(found, min(limit, _WINDOW)):
                run_log = self._run_log(stored, full=full)
                if run_log is not None:
                    runs.append(run_log)
                    last = number
                if len(runs) == limit:
                    break
        is_more = len(runs) == limit and last is not None and last + 1 < len(found)
        return RunPage(tuple(runs), _write_cursor(found[last], seal) if is_more and last is not None else "")

    def runs(
        self,
        wanted: RunFilter,
        order: Order,
        *,
        full: bool = False,
        run_ids: Iterable[str] | None = None,
        limit: int = 0,
    ) -> Iterator[RunLog]:
        """All runs that match, or those of these ids, as they are asked for; the limit, if any, only says how many may be."""
        _checked(order)
        search = _Search(self._chunks, self._schema, self._index, wanted)
        with collector_paused():
            rows = search.all_runs(self.run_ids()) if run_ids is None else search.read(dict.fromkeys(run_ids))
            found = search.candidates(rows, order)
        headers = search.headers(found, min(limit, _WINDOW) or _WINDOW)
        logs = (self._run_log(stored, full=full) for _, stored in headers)
        return (run_log for run_log in logs if run_log is not None)

    def _run_log(self, stored: Stored, *, full: bool) -> RunLog | None:
        """The run log; None for one that cannot be read, or was deleted meanwhile."""
        if not full:
            return next(self._reader.headers([stored]), None)
        run_id = stored.chunk.envelope.run
        try:
            reading = self._reader.full(run_id)
        except RunLogNotFoundError:
            return None
        for finding in reading.findings:
            log.warning("run %r: %s", run_id, finding.message)
        return reading.run_log


class _Search:
    """One search, with what the index said when it began."""

    def __init__(self, chunks: Chunks, schema: Schema, index: Index, wanted: RunFilter) -> None:
        self._chunks = chunks
        self._schema = schema
        self._index = index
        self._tag = wanted.tag
        self._status = wanted.status.upper()
        self._since = "" if wanted.since is None else _stamp(wanted.since)
        self._until = "~" if wanted.until is None else _stamp(wanted.until)  # behind all digits
        self._text = wanted.text
        self._parameters = {name: _as_stored(schema, name, value) for name, value in wanted.parameters.items()}
        self._view: View | None = None
        self._segments: list[Listed] = []
        self._held = 0

    def seal(self, order: Order) -> str:
        """What a cursor must have of the query that it belongs to."""
        facts = [order, self._tag, self._status, self._since, self._until, self._text, self._parameters]
        return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=8).hexdigest()

    # Which runs match, but for their parameters.

    def all_runs(self, run_ids: Iterator[str]) -> Iterator[_Candidate]:
        """Those that match among all runs."""
        unread = set(run_ids)
        if not unread:
            return
        self._view = self._index.look()
        for listed, segment in self._view.segments():
            first = len(self._segments) << 32
            self._segments.append(listed)
            for at, run_id in enumerate(segment.runs):
                if run_id in unread and run_id not in self._view.doubted:
                    unread.remove(run_id)
                    created_at = segment.created_at[at]
                    if self._matches(run_id, created_at, segment.status[at], segment.tag[at]):
                        yield _Candidate(created_at, run_id, first + at)
        yield from self.read(sorted(unread))  # on a disk, neighbours by name are neighbours

    def read(self, run_ids: Iterable[str]) -> Iterator[_Candidate]:
        """Those that match among these runs, by their headers. One request each, a thousand at once."""
        for some in _windows(run_ids, _WINDOW):
            for stored in self._read_headers(some).values():
                envelope = stored.chunk.envelope
                self._held += len(stored.chunk.content.body) + _OVERHEAD
                yield _Candidate(envelope.created_at, envelope.run, stored if self._held < _HELD_BYTES else None)

    def _read_headers(self, run_ids: Iterable[str]) -> dict[str, Stored]:
        """The headers that match, of runs that are there; one that is damaged is logged."""
        scan = self._chunks.read_many(keys.header(run_id) for run_id in run_ids)
        for damage in scan.damaged:
            log.warning("%s", damage)
        return {stored.chunk.envelope.run: stored for stored in scan.chunks if self._is_wanted(stored)}

    def _is_wanted(self, stored: Stored) -> bool:
        if stored.chunk.envelope.deleted:
            return False
        try:
            row = row_of(stored)
        except FormatError as error:
            log.warning("%s", error)
            return False
        return self._matches(row.run_id, row.created_at, row.status, row.tag)

    def _matches(self, run_id: str, created_at: str, status: str, tag: str) -> bool:
        return (
            (not self._status or status == self._status)
            and (not self._tag or tag == self._tag)
            and self._since <= created_at < self._until
            and self._text in run_id
        )

    def candidates(
        self, found: Iterable[_Candidate], order: Order, after: tuple[str, str] | None = None
    ) -> list[_Candidate]:
        """In their order, from behind that key on."""
        newest = order == "newest"
        kept = [one for one in found if after is None or (one[:2] < after if newest else one[:2] > after)]
        kept.sort(reverse=newest)  # no two have the same time and id, so where a header is never counts
        if kept:
            self._chunks.saw(kept[0 if newest else -1].created_at)
        return kept

    # Their headers, and the last word.

    def headers(self, candidates: list[_Candidate], window: int) -> Iterator[tuple[int, Stored]]:
        """The headers of those that match, with their numbers among the candidates, as they are asked for."""
        if self._parameters:
            window = min(window, self._chunks.backend.concurrency)  # what is read in vain costs requests
        for start in range(0, len(candidates), window):
            some = candidates[start : start + window]
            found = self._headers_of(some)
            if self._parameters:
                found = self._with_parameters(found)
            for number, one in enumerate(some, start):
                stored = found.get(one.run_id)
                if stored is not None and stored.chunk.envelope.created_at == one.created_at:
                    yield number, stored

    def _headers_of(self, some: list[_Candidate]) -> dict[str, Stored]:
        found: dict[str, Stored] = {}
        in_segments: dict[int, list[int]] = {}
        for one in some:
            if isinstance(one.place, Stored):
                found[one.run_id] = one.place
            elif one.place is not None:
                in_segments.setdefault(one.place >> 32, []).append(one.place & 0xFFFFFFFF)
        for segment, numbers in in_segments.items():
            found |= {row.run_id: header_of(row) for row in self._rows(segment, numbers) if row.content is not None}
        # What is too large for the index, or was not held; or its segment is gone, and no longer known.
        missing = [one.run_id for one in some if one.run_id not in found]
        return found | self._read_headers(missing) if missing else found

    def _rows(self, segment: int, numbers: list[int]) -> Iterator[Row]:
        assert self._view is not None
        return self._view.rows(self._segments[segment], numbers)

    def _with_parameters(self, headers: Mapping[str, Stored]) -> dict[str, Stored]:
        """Those whose own parameters are as wanted. One request for each parameter of each run, all at once."""
        names = list(self._parameters)
        scan = self._chunks.read_many(keys.parameter(run_id, name) for run_id in headers for name in names)
        for damage in scan.damaged:
            log.warning("%s", damage)
        agreed: dict[str, int] = {}
        for stored in scan.chunks:
            envelope = stored.chunk.envelope
            if envelope.founded in ("", headers[envelope.run].chunk.envelope.created_at) and self._is_as_wanted(stored):
                agreed[envelope.run] = agreed.get(envelope.run, 0) + 1
        return {run_id: stored for run_id, stored in headers.items() if agreed.get(run_id) == len(names)}

    def _is_as_wanted(self, parameter: Stored) -> bool:
        try:
            fields = values.decode(parameter.chunk.content)
        except FormatError as error:
            log.warning("%s: %s", parameter.key, error)
            return False
        return "value" in fields and values.equal(fields["value"], self._parameters[parameter.chunk.envelope.name])


# Values.


def _as_stored(schema: Schema, name: str, value: object) -> Json:
    """A parameter's value as JSON; of a typed one, the value that it holds. Raises `InvalidInputError` for what is none."""
    keys.parameter("any", name)
    if isinstance(value, BaseModel):
        return values.decode(schema.write_parameter(name, value))["value"]
    try:
        return values.decode(values.encode_strictly({"value": value}))["value"]
    except InvalidInputError as error:
        raise InvalidInputError(f"parameter {name!r} cannot be compared: {error}", name=name) from error


def _check_time(name: str, time: object) -> None:
    if time is None:
        return
    if not isinstance(time, datetime):
        raise InvalidInputError(f"a filter's {name} must be a datetime, not {time!r}", name=name)
    if time.utcoffset() is None:
        raise InvalidInputError(f"a filter's {name} needs a time zone: {time}; for example tzinfo=UTC", name=name)
    try:
        _stamp(time)
    except OverflowError as error:
        raise InvalidInputError(f"a filter's {name} is no year that there is in UTC: {time}", name=name) from error


def _stamp(time: datetime) -> str:
    return f"{time.astimezone(UTC).replace(tzinfo=None).isoformat(timespec='microseconds')}000Z"


def _windows(run_ids: Iterable[str], size: int) -> Iterator[list[str]]:
    each = iter(run_ids)
    while some := list(islice(each, size)):
        yield some


# Cursors.


def _checked(order: Order) -> Order:
    if order not in ("newest", "oldest"):
        raise InvalidInputError(f"there is no order {order!r}; ask for 'newest' or 'oldest' first", name="order")
    return order


def _write_cursor(last: _Candidate, seal: str) -> str:
    body = orjson.dumps([seal, last.created_at, last.run_id])
    check = hashlib.blake2b(body, digest_size=8).digest()
    return base64.urlsafe_b64encode(check + body).decode("ascii").rstrip("=")


def _read_cursor(cursor: str, seal: str) -> tuple[str, str]:
    try:
        data = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        check, body = data[:8], data[8:]
        theirs, created_at, run_id = cast(tuple[str, str, str], tuple(orjson.loads(body)))
        whole = check == hashlib.blake2b(body, digest_size=8).digest() and is_stamp(created_at)
    except (ValueError, TypeError, binascii.Error):
        whole, theirs, created_at, run_id = False, "", "", ""
    if not whole:
        raise InvalidInputError(
            "the cursor is damaged; take it from RunPage.cursor as it is, or leave it out to begin anew"
        )
    if theirs != seal:
        raise InvalidInputError(
            "the cursor belongs to another filter or order; ask with those that it came from, or leave it out to begin anew"
        )
    return created_at, run_id
