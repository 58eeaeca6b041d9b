"""Checks a store: reads everything, changes nothing, and says what a person should know of.

Others may be writing. What looks wrong at the first look may be half of somebody's work, so it is looked at again after a pause, until two
looks agree; what keeps changing is somebody's work, and not reported.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Final

from chunkstore import index, keys, waiting
from chunkstore.assembly import collector_paused
from chunkstore.backends import Backend, Blob, Entry
from chunkstore.backends.local import LocalBackend
from chunkstore.backends.localstrays import Sort, Stray, strays, strays_in
from chunkstore.errors import (
    BackendUnavailableError,
    FormatError,
    InvalidInputError,
    NewerFormatError,
    ObjectNotFoundError,
    RunLogNotFoundError,
)
from chunkstore.maintenance import moving
from chunkstore.maintenance.findings import Finding, Kind, finding
from chunkstore.maintenance.inspection import Look, windows
from chunkstore.maintenance.progress import Progress, Watcher
from chunkstore.maintenance.quarantine import PREFIX, count_by_run, damaged_in
from chunkstore.marks import mark_of
from chunkstore.store import ChunkedRunLogStore

log = logging.getLogger(__name__)

_AT_ONCE: Final = 64  # runs that are looked at together, where the place answers slowly
_DOUBTFUL: Final = 256  # runs that are looked at again together, after one pause
_OBJECTS: Final = 1_000
_BYTES: Final = 64 << 20  # of objects that are asked for together
_ROUNDS: Final = 5
_STALE: Final = 60.0

_STRAYS: Final[Mapping[Sort, tuple[Kind, str]]] = {
    "staging file": (Kind.STAGING, "was left by a writer that was killed"),
    "empty folder": (
        Kind.EMPTY_FOLDER,
        "holds no object: a writer was killed before it put the first, or a delete before its end",
    ),
    "link": (Kind.FOREIGN, "is a symbolic link, which is never followed"),
    "folder": (Kind.FOREIGN, "is a folder where only objects are"),
    "special file": (Kind.FOREIGN, "is a pipe, socket or device"),
    "hidden file": (Kind.FOREIGN, "is a hidden file, and not ours"),
    "file": (Kind.FOREIGN, "is a file beside the runs"),
}


@dataclass(frozen=True, slots=True)
class Checked:
    """How much was looked at, and what was found."""

    runs: int = 0
    chunks: int = 0
    """Loose ones and those in packs."""
    bytes: int = 0
    damage: int = 0
    """Findings by their severity."""
    warnings: int = 0
    notices: int = 0

    @property
    def is_whole(self) -> bool:
        """Whether nothing is damaged."""
        return self.damage == 0


class Verification:
    """The findings, as they are made: to be iterated once. `checked` tells how much was looked at so far."""

    def __init__(self, findings: Callable[[Verification], Iterator[Finding]]) -> None:
        self.checked = Checked()
        self._findings = self._counted(findings(self))

    def __iter__(self) -> Iterator[Finding]:
        return self._findings

    def saw(self, look: Look) -> None:
        """Counts one run."""
        now = self.checked
        self.checked = Checked(
            now.runs + bool(look.run_id),
            now.chunks + look.chunks,
            now.bytes + look.bytes,
            now.damage,
            now.warnings,
            now.notices,
        )

    def _counted(self, findings: Iterator[Finding]) -> Iterator[Finding]:
        for one in findings:
            now = self.checked
            self.checked = Checked(
                now.runs,
                now.chunks,
                now.bytes,
                now.damage + (one.severity == "damage"),
                now.warnings + (one.severity == "warning"),
                now.notices + (one.severity == "notice"),
            )
            yield one


def verify(
    store: ChunkedRunLogStore,
    run_ids: Iterable[str] | None = None,
    *,
    progress: Watcher | None = None,
    settle_seconds: float = 1.0,
    stale_seconds: float = _STALE,
) -> Verification:
    """Reads all that is in the store, or in these runs, and tells what is wrong, finding by finding. Writes nothing.

    It looks at every chunk, loose or packed, its digest, its name and its body; at parents, headers and packs; and without `run_ids` at the
    index, the quarantine, the copies in the trash, and on a local disk at what no listing shows. Others may write meanwhile: what looks wrong is looked at
    again after `settle_seconds`. Staging files and empty folders younger than `stale_seconds` may be a writer's, and are left out.

    Costs for each run one listing (one request per 1,000 objects) and one request for each object; without `run_ids` one more per 1,000 runs
    to list them, and for index, quarantine and trash one listing each (two of a quarantine that is not empty), one for each object in them that is looked at. For a run where something is wrong twice that, or
    more while it changes. In memory are about 100 bytes for each run, 500 for each chunk of up to 64 runs, and 64 MiB of objects.

    Raises `RunLogNotFoundError` for a run of `run_ids` that is not there, `BackendUnavailableError` where the place does not answer. A single object
    that it refuses is a finding.
    """
    if settle_seconds < 0 or stale_seconds < 0:
        raise InvalidInputError("settle_seconds and stale_seconds must not be negative")
    given = None if run_ids is None else list(dict.fromkeys(run_ids))
    for run_id in given or ():
        keys.folder_of(run_id)
    work = _Work(store, progress, settle_seconds, stale_seconds)
    return Verification(lambda checked: work.findings(given, checked))


class _Work:
    """One check."""

    def __init__(
        self, store: ChunkedRunLogStore, progress: Watcher | None, settle_seconds: float, stale_seconds: float
    ) -> None:
        self._backend: Backend = store.backend
        self._schema = store.schema
        self._progress = progress or (lambda _: None)
        self._settle_seconds = settle_seconds
        self._stale_seconds = stale_seconds
        self._root = self._backend.root if isinstance(self._backend, LocalBackend) else None
        self._trashed: frozenset[str] | None = None
        self._rows: set[int] = set()
        """What the headers say, as the index would: only their hashes, as there may be 100,000."""

    def findings(self, run_ids: list[str] | None, checked: Verification) -> Iterator[Finding]:
        """All, as they are made."""
        folders = self._folders() if run_ids is None else map(keys.folder_of, run_ids)
        with ThreadPoolExecutor(max(1, min(_AT_ONCE, self._backend.concurrency)), "chunkstore") as workers:
            yield from self._runs(folders, None if run_ids is None else len(run_ids), checked, workers)
        if run_ids is None:
            yield from self._alike()
            yield from self._own(index.PREFIX, lambda: self._settled(self._index))
            yield from self._own(PREFIX, self._quarantine)
            yield from self._own(moving.PREFIX, lambda: self._settled(self._trash))
        yield from self._strays(run_ids)

    # Runs

    def _folders(self) -> Iterator[str]:
        self._seen: set[int] = set()
        self._twice: set[str] = set()
        for folder in self._backend.folders():
            folded = folder.casefold()
            if hash(folded) in self._seen:
                self._twice.add(folded)
            self._seen.add(hash(folded))
            yield folder

    def _runs(
        self, folders: Iterator[str], total: int | None, checked: Verification, workers: ThreadPoolExecutor
    ) -> Iterator[Finding]:
        doubtful: dict[str, list[Finding]] = {}
        done = 0
        size = 1 if self._backend.concurrency < 2 else _AT_ONCE
        while batch := list(itertools.islice(folders, size)):
            for look in self._looks(batch, workers):
                if total is not None and look.is_gone:
                    raise RunLogNotFoundError(
                        f"run {look.run_id!r} is not in {self._backend.place}", run_id=look.run_id
                    )
                checked.saw(look)
                found = self._found_in(look)
                self._note(look)
                if found:
                    doubtful[look.folder] = found
                done += 1
                self._progress(Progress(done, total, look.run_id))
            if len(doubtful) >= _DOUBTFUL:
                yield from self._confirmed(doubtful, workers)
                doubtful = {}
        yield from self._confirmed(doubtful, workers)

    def _confirmed(self, doubtful: dict[str, list[Finding]], workers: ThreadPoolExecutor) -> Iterator[Finding]:
        """What is still so when looked at again. What two looks see alike is so; what changes is somebody's work."""
        agreed = {folder: _Agreed(found) for folder, found in doubtful.items()}
        for _ in range(_ROUNDS):
            if not agreed:
                return
            waiting.sleep(self._settle_seconds)
            folders = iter(sorted(agreed))
            while batch := list(itertools.islice(folders, 1 if self._backend.concurrency < 2 else _AT_ONCE)):
                for look in self._looks(batch, workers):
                    self._note(look)
                    yield from agreed[look.folder].told(self._found_in(look))
            agreed = {folder: one for folder, one in agreed.items() if one.is_open}
        for folder in agreed:
            log.debug("%s in %s changes all the time", folder, self._backend.place)

    def _found_in(self, look: Look) -> list[Finding]:
        return [self._beside_trash(one, look) for one in look.findings()]

    def _beside_trash(self, found: Finding, look: Look) -> Finding:
        """The finding, with what the trash holds of its run. One request where it says that the run is moved or restored."""
        if found.kind in (Kind.MOVE_UNFINISHED, Kind.RESTORE_UNFINISHED) and look.header is not None:
            name = mark_of(look.header.chunk).name
            if not any(entry.key == moving.key_of(name) for entry in self._backend.list(moving.key_of(name))):
                advice = "look at its files: what is left is all there is; delete_run_log removes it"
                return replace(found, severity="damage", what=f"{found.what}. That copy is gone", next_step=advice)
        if found.kind is Kind.HEADERLESS and look.run_id in self._in_trash():
            advice = (
                f"bring it back, and these with it: chunkstore restore {look.run_id}; or delete them: delete_run_log"
            )
            return replace(found, what=f"{found.what}, written when it went to the trash", next_step=advice)
        return found

    def _in_trash(self) -> frozenset[str]:
        """The runs in the trash. One listing, where it is asked for first."""
        if self._trashed is None:
            self._trashed = frozenset(entry.run_id for entry in moving.entries_of(self._backend)[0])
        return self._trashed

    def _looks(self, folders: list[str], workers: ThreadPoolExecutor) -> list[Look]:
        """A look at each of these, all at once."""
        if len(folders) == 1:
            listed = [self._listed(folders[0])]
        else:
            listed = waiting.at_once(self._listed, folders, lambda: workers)
        looks = {folder: self._look(folder, found) for folder, found in zip(folders, listed, strict=True)}
        wanted = (look.listed[key] for look in looks.values() for key in look.wanted)
        with collector_paused():
            for some in windows(wanted, _OBJECTS, _BYTES):
                for key, blob in self._read(some, looks):
                    looks[key.partition("/")[0]].take(key, blob)
        return list(looks.values())

    def _look(self, folder: str, found: list[Entry] | BackendUnavailableError) -> Look:
        if not isinstance(found, BackendUnavailableError):
            return Look(folder, self._schema, found)
        look = Look(folder, self._schema, [])
        look.refused(f"{folder}/", found)
        return look

    def _listed(self, folder: str) -> list[Entry] | BackendUnavailableError:
        """What is in the folder; or why the place lists this one not, and others."""
        try:
            return list(self._backend.list(f"{folder}/"))
        except BackendUnavailableError as error:
            if error.transient:
                raise
            next(iter(self._backend.folders()), None)  # raises where it is the place that refuses
            return error

    def _read(self, some: list[str], looks: Mapping[str, Look]) -> Iterator[tuple[str, Blob]]:
        """The objects that are there; one that the place refuses is told to its look, and the others come all the same."""
        came: set[str] = set()
        try:
            for key, blob in self._backend.get_many(some):
                if key not in came:
                    came.add(key)
                    yield key, blob
        except BackendUnavailableError as error:
            if error.transient:
                raise
            yield from self._read_one_by_one([key for key in some if key not in came], looks)

    def _read_one_by_one(self, some: list[str], looks: Mapping[str, Look]) -> Iterator[tuple[str, Blob]]:
        for key in some:
            try:
                yield key, self._backend.get(key)
            except ObjectNotFoundError:
                continue
            except BackendUnavailableError as error:
                if error.transient:
                    raise
                folder = key.partition("/")[0]
                list(self._backend.list(f"{folder}/"))  # raises where it is the place that refuses, and not this object
                looks[folder].refused(key, error)

    def _note(self, look: Look) -> None:
        """Remembers what a header says, for the index."""
        if look.header is None:
            return
        try:
            row = index.row_of(look.header)
        except FormatError:
            return
        self._rows.add(hash((row.run_id, row.created_at, row.status, row.tag)))

    def _alike(self) -> Iterator[Finding]:
        """Runs that differ only in case. One more listing where there are some."""
        if not self._twice:
            return
        names: dict[str, list[str]] = {}
        for folder in self._backend.folders():
            if folder.casefold() in self._twice:
                names.setdefault(folder.casefold(), []).append(folder)
        for several in names.values():
            first, *others = sorted(several)
            if others:
                what = f"differs from {', '.join(others)} only in upper and lower case"
                advice = "do not copy the store to a disk of a Mac or Windows; give runs other ids"
                yield finding(Kind.CASE, f"{first}/", what, advice, run_id=keys.run_id_of(first) or "")

    # The index

    def _settled(self, look: Callable[[], list[Finding]]) -> Iterator[Finding]:
        """The findings on which two looks agree."""
        agreed = _Agreed(look())
        for _ in range(_ROUNDS):
            if not agreed.is_open:
                return
            waiting.sleep(self._settle_seconds)
            yield from agreed.told(look())

    def _index(self) -> list[Finding]:
        found: list[Finding] = []
        known = index.Index(self._backend, cache_bytes=0)
        listing = known.listing()  # before the manifest: see `index`
        manifest = self._manifest(found) if listing.has_manifest else index.Manifest()
        named = {listed.key for listed in manifest.segments}
        garbage = sorted(key for key in listing.segments if key not in named)
        if garbage:
            what = f"{len(garbage)} segments are no longer listed in the manifest: {', '.join(garbage[:3])}"
            found.append(finding(Kind.INDEX_LEFT_OVER, garbage[0], what, "reindex removes them: chunkstore reindex"))
        if listing.notes:
            runs = sorted({note.run_id for note in listing.notes})
            what = f"{len(listing.notes)} notes of doubt, about {len(runs)} runs; finding runs reads their headers"
            found.append(finding(Kind.DOUBT, f"{index.PREFIX}doubt", what, "reindex settles them: chunkstore reindex"))
        doubted = {note.run_id for note in listing.notes}
        for listed in manifest.segments:
            found += self._segment(listed, doubted)
        return found

    def _manifest(self, found: list[Finding]) -> index.Manifest:
        try:
            return index.decode_manifest(self._backend.get(index.MANIFEST))
        except ObjectNotFoundError:
            return index.Manifest()
        except NewerFormatError as error:
            found.append(finding(Kind.NEWER, index.MANIFEST, str(error), "upgrade chunkstore here"))
        except FormatError:
            advice = "make the index anew: chunkstore reindex"
            found.append(
                finding(Kind.INDEX_DAMAGED, index.MANIFEST, "is damaged; runs are found by their headers", advice)
            )
        return index.Manifest()

    def _segment(self, listed: index.Listed, doubted: set[str]) -> Iterator[Finding]:
        advice = "make the index anew: chunkstore reindex"
        try:
            segment = index.decode_segment(listed, self._backend.get(listed.key).data)
        except ObjectNotFoundError:
            yield finding(Kind.INDEX_DAMAGED, listed.key, "is listed in the manifest, and missing", advice)
            return
        except FormatError:
            yield finding(Kind.INDEX_DAMAGED, listed.key, "is damaged; its runs are found by their headers", advice)
            return
        columns = zip(segment.runs, segment.created_at, segment.status, segment.tag, strict=True)
        wrong = [row for row in columns if row[0] not in doubted and hash(row) not in self._rows]
        for run_id, *said in wrong:
            yield from self._row(run_id, tuple(said))

    def _row(self, run_id: str, said: tuple[str, ...]) -> Iterator[Finding]:
        """What the index says of a run, where its header says something else. Nothing for a run that is gone: nobody lists it."""
        key = keys.key_of(keys.header(run_id))
        look = Look(keys.folder_of(run_id), self._schema, [Entry(key, "", 0)])
        try:
            look.take(key, self._backend.get(key))
            if look.header is None or look.header.chunk.envelope.deleted:
                return
            row = index.row_of(look.header)
        except (ObjectNotFoundError, FormatError, BackendUnavailableError):
            return  # told with its run, or by the next request
        if (row.created_at, row.status, row.tag) != said:
            what = f"says status {row.status!r} and tag {row.tag!r}, and the index {said[1]!r} and {said[2]!r}: somebody changed it by hand"
            yield finding(Kind.INDEX_WRONG, key, what, "make the index anew: chunkstore reindex --full", run_id=run_id)

    # What belongs to no run

    def _own(self, prefix: str, findings: Callable[[], Iterator[Finding]]) -> Iterator[Finding]:
        """The findings about a folder of ours; one that the place refuses is a finding itself."""
        try:
            yield from findings()
        except BackendUnavailableError as error:
            if error.transient:
                raise
            yield finding(
                Kind.UNREADABLE, prefix, f"cannot be read: {error}", "see to it that it can be read, then verify again"
            )

    def _quarantine(self) -> Iterator[Finding]:
        inside = count_by_run(self._backend)
        for run_id, (count, size) in sorted(inside.items()):
            objects = "1 object" if count == 1 else f"{count:,} objects"
            of_run = f"of run {run_id!r}" if run_id else "of no run that is known"
            what = f"holds {objects} {of_run}, {size:,} bytes, that a repair isolated: the run is not whole"
            advice = "look at them with chunkstore repair --list, export them, and discard them when you are done"
            yield finding(Kind.QUARANTINED, PREFIX, what, advice, run_id=run_id, size=size)
        if inside:
            yield from self._settled(self._quarantine_damage)

    def _quarantine_damage(self) -> list[Finding]:
        advice = "restore it from a backup of the store, or discard it: chunkstore repair --discard"
        return [
            finding(Kind.QUARANTINE_DAMAGED, one.key_of_bytes, what, advice, run_id=one.run_id, size=one.size)
            for one, what in damaged_in(self._backend)
        ]

    def _trash(self) -> list[Finding]:
        """Copies that cannot be brought back. Each is read, one at a time: it may be large."""
        return [one for entry in moving.entries_of(self._backend)[0] for one in self._copy(entry)]

    def _copy(self, entry: moving.Trashed) -> Iterator[Finding]:
        try:
            copy = moving.decode_copy(entry.key, entry.run_id, self._backend.get(entry.key).data)
        except ObjectNotFoundError:
            return  # restored, or emptied
        except NewerFormatError as error:
            yield finding(Kind.NEWER, entry.key, str(error), "upgrade chunkstore here", run_id=entry.run_id)
            return
        except FormatError as error:
            what = str(error).removeprefix(f"{entry.key} ")
        except BackendUnavailableError as error:
            if error.transient:
                raise
            what = f"cannot be read: {error}"
        else:
            if keys.key_of(keys.header(entry.run_id)) in copy.members:
                return
            what = f"holds no header of run {entry.run_id!r}"
        advice = "restore it from a backup of the store: the run cannot be brought back from it"
        yield finding(Kind.TRASH_DAMAGED, entry.key, what, advice, run_id=entry.run_id, size=entry.bytes)

    def _strays(self, run_ids: list[str] | None) -> Iterator[Finding]:
        """What lies on a local disk and no listing shows."""
        if self._root is None:
            return
        if run_ids is None:
            found: Iterable[Stray] = strays(self._root)
        else:
            found = itertools.chain.from_iterable(strays_in(self._root, keys.folder_of(run_id)) for run_id in run_ids)
        now = time.time()
        for stray in found:
            one = stray_finding(stray, now)
            if one.kind is Kind.FOREIGN or (one.age_seconds or 0.0) >= self._stale_seconds:
                yield one


class _Agreed:
    """What the last look at a thing found, and what two looks in turn have found alike."""

    def __init__(self, found: Iterable[Finding]) -> None:
        self._before = set(found)
        self._told: set[Finding] = set()

    @property
    def is_open(self) -> bool:
        """Whether the last look found something that no other has confirmed yet."""
        return bool(self._before - self._told)

    def told(self, found: Iterable[Finding]) -> list[Finding]:
        """Takes one more look; the findings that it confirms, each once, in the order of their keys."""
        now = set(found)
        confirmed = (now & self._before) - self._told
        self._told |= confirmed
        self._before = now
        return sorted(confirmed, key=lambda one: (one.key, one.kind, one.what))


def stray_finding(stray: Stray, now: float) -> Finding:
    """What lies on a local disk, as a finding."""
    kind, what = _STRAYS[stray.sort]
    folder, _, file = stray.path.partition("/")
    chunk = stray.sort in ("link", "folder", "special file") and (
        keys.is_chunk(stray.path) or (not file and keys.run_id_of(folder) is not None)
    )
    if chunk:
        what = f"{what}, and stands where {'a chunk' if file else 'a run'} would be: it cannot be read or written"
    if kind is Kind.FOREIGN:
        advice = "move it away" if chunk else "move it away, or leave it: nobody reads it"
        return finding(
            kind,
            stray.path,
            what,
            advice,
            run_id=keys.run_id_of(folder) or "",
            severity="warning" if chunk else None,
            size=stray.size,
        )
    return finding(
        kind,
        stray.path,
        what,
        "let repair remove it; it does no harm",
        run_id=keys.run_id_of(folder) or "",
        size=stray.size,
        age_seconds=max(0.0, now - stray.modified),
    )
