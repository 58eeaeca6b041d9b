"""The library broken on purpose, one promise at a time, for the whole-API machine to find."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Final

import pytest

from chunkstore import assembly, chunks, clock, codec, known, queries, reading, writing
from chunkstore.errors import BackendUnavailableError, ObjectNotFoundError

Break = Callable[[pytest.MonkeyPatch], None]


def nothing_is_merged(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(writing, "merge_objects", lambda base, mine, theirs: mine)


def the_merge_drops_a_key(patch: pytest.MonkeyPatch) -> None:
    real = writing.merge_objects

    def merge(base: Any, mine: Any, theirs: Any) -> Any:
        merged = real(base, mine, theirs)
        merged.pop("message", None)
        return merged

    patch.setattr(writing, "merge_objects", merge)


def the_merge_keeps_one_side_s_items(patch: pytest.MonkeyPatch) -> None:
    patch.setattr("chunkstore.merge._merge_lists", lambda base, mine, theirs: mine)


def the_cache_does_not_tell_upper_case_from_lower(patch: pytest.MonkeyPatch) -> None:
    for name in ("get", "_drop"):
        real = getattr(known.KnownChunks, name)
        patch.setattr(known.KnownChunks, name, lambda self, key, real=real: real(self, key.lower()))
    keep = known.KnownChunks._keep
    patch.setattr(known.KnownChunks, "_keep", lambda self, one: keep(self, one._replace(key=one.key.lower())))


def the_cache_is_believed(patch: pytest.MonkeyPatch) -> None:
    real = chunks.Chunks.scan
    before: dict[str, Any] = {}
    keep = known.KnownChunks._keep

    def remember(self: known.KnownChunks, one: known.Stored) -> None:
        before.setdefault(f"{id(self)}{one.key}", one)
        keep(self, one)

    def stale(self: chunks.Chunks, prefix: str, *seen: Any) -> chunks.Scan:
        found = real(self, prefix, *seen)
        old = [before.get(f"{id(self.known)}{one.key}", one) for one in found.chunks]
        return chunks.Scan(old, found.damaged)

    patch.setattr(known.KnownChunks, "_keep", remember)
    patch.setattr(chunks.Chunks, "scan", stale)


def delete_leaves_a_chunk(patch: pytest.MonkeyPatch) -> None:
    real = chunks.Chunks.delete_many
    patch.setattr(chunks.Chunks, "delete_many", lambda self, found: real(self, sorted(found)[1:]))


def delete_forgets_to_mark(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(chunks.Chunks, "mark_deleted", lambda self, chunk: self.read(chunk))


def the_order_is_by_name(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(reading, "age", lambda stored: stored.key)
    patch.setattr(queries._Search, "candidates", lambda _, found, *rest: sorted(found, key=lambda one: one.run_id))


def the_clock_ignores_what_was_read(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(clock.HybridClock, "saw", lambda self, stamp: None)


def a_rewrite_is_a_creation(patch: pytest.MonkeyPatch) -> None:
    real = chunks._signed
    stamps = (f"2026-01-01T00:00:00.{number:09d}Z" for number in range(1_000_000_000))

    def signed(envelope: Any, session: str, number: int, fences: Any) -> Any:
        made = real(envelope, session, number, fences)
        return made._replace(created_at=next(stamps)) if envelope.writers else made

    patch.setattr(chunks, "_signed", signed)


def one_parameter_of_many_is_lost(patch: pytest.MonkeyPatch) -> None:
    real = writing.Writer._parameter_changes

    def changes(self: Any, *arguments: Any) -> Any:
        made = real(self, *arguments)
        return made[:-1] if len(made) > 1 else made

    patch.setattr(writing.Writer, "_parameter_changes", changes)


def what_did_not_change_is_written_too(patch: pytest.MonkeyPatch) -> None:
    real = reading.Parameters.__init__
    patch.setattr(reading.Parameters, "__init__", lambda self, items=(), seen=None: real(self, items))
    patch.setattr(writing.Writer, "_last_seen", lambda self, chunk: None)


def an_orphan_is_dropped(patch: pytest.MonkeyPatch) -> None:
    real = reading.assemble

    def drop(run: Any, parts: assembly.Parts, placeholders: Any) -> list[str]:
        branches, steps = assembly.missing_parents(parts)
        parts.branches = {
            name: one for name, one in parts.branches.items() if assembly._step_of(name, parts) not in steps
        }
        parts.steps = {
            name: one for name, one in parts.steps.items() if assembly._branch_of(one, parts) not in branches
        }
        parts.parameters = [one for one in parts.parameters if not one[0] or one[0] in parts.branches]
        return real(run, parts, placeholders)

    patch.setattr(reading, "assemble", drop)


def a_branch_s_parameters_are_the_run_s(patch: pytest.MonkeyPatch) -> None:
    real = reading.Reader._add_parameters
    patch.setattr(
        reading.Reader, "_add_parameters", lambda self, parts, scoped, damaged: real(self, parts, [], damaged)
    )


def damage_is_not_reported(patch: pytest.MonkeyPatch) -> None:
    real = chunks.Chunks._settle

    def settle(self: Any, doubtful: Any, scan: chunks.Scan) -> None:
        real(self, doubtful, scan)
        scan.damaged.clear()

    patch.setattr(chunks.Chunks, "_settle", settle)


def nan_becomes_null(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(codec, "_exact", lambda facts: {})


def own_writes_are_not_recognised(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(chunks, "_signed", lambda envelope, session, number, fences: envelope)


def a_broken_listing_passes_for_a_whole_one(patch: pytest.MonkeyPatch) -> None:
    real = chunks.Chunks.scan

    class Half:
        def __init__(self, inner: Any) -> None:
            self.inner = inner

        def __getattr__(self, name: str) -> Any:
            return getattr(self.inner, name)

        def list(self, prefix: str) -> Any:
            try:
                yield from self.inner.list(prefix)
            except BackendUnavailableError:
                return

    def scan(self: Any, prefix: str, *seen: Any) -> Any:
        inner = self.backend
        self.backend = Half(inner)
        try:
            return real(self, prefix, *seen)
        finally:
            self.backend = inner

    patch.setattr(chunks.Chunks, "scan", scan)


def what_cannot_be_read_back_did_not_land(patch: pytest.MonkeyPatch) -> None:
    def read_back(self: Any, key: str, failure: Exception, condition: Any) -> Any:
        try:
            return self._read(key)
        except (ObjectNotFoundError, BackendUnavailableError):
            return None

    patch.setattr(chunks.Chunks, "_read_back", read_back)


def a_lost_reply_is_a_success(patch: pytest.MonkeyPatch) -> None:
    real = chunks.Chunks._put_as

    def put(self: Any, session: Any, chunk: Any, key: str, *more: Any) -> Any:
        try:
            return real(self, session, chunk, key, *more)
        except BackendUnavailableError:
            return chunks._Outcome(landed=True, stored=known.Stored(key, chunk, "unknown"))

    patch.setattr(chunks.Chunks, "_put_as", put)


FOUND_ANYWHERE: Final[Mapping[str, Break]] = {
    broken.__name__.replace("_", " "): broken
    for broken in (
        nothing_is_merged,
        the_merge_drops_a_key,
        the_merge_keeps_one_side_s_items,
        the_cache_does_not_tell_upper_case_from_lower,
        the_cache_is_believed,
        delete_leaves_a_chunk,
        the_order_is_by_name,
        the_clock_ignores_what_was_read,
        a_rewrite_is_a_creation,
        one_parameter_of_many_is_lost,
        what_did_not_change_is_written_too,
        an_orphan_is_dropped,
        a_branch_s_parameters_are_the_run_s,
        damage_is_not_reported,
        nan_becomes_null,
    )
}
"""What the machine finds without faults."""

FOUND_UNDER_FAULTS: Final[Mapping[str, Break]] = {
    broken.__name__.replace("_", " "): broken
    for broken in (
        delete_forgets_to_mark,
        own_writes_are_not_recognised,
        a_broken_listing_passes_for_a_whole_one,
        what_cannot_be_read_back_did_not_land,
        a_lost_reply_is_a_success,
    )
}
