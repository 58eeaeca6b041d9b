"""Three-way merge of JSON: what I changed since what I had read, applied to what stands there now. Pure."""

from __future__ import annotations

from typing import Final

from chunkstore.values import Json, same


class _Missing:
    """A key that an object does not have."""


_MISSING: Final = _Missing()


def merge_objects(base: dict[str, Json], mine: dict[str, Json], theirs: dict[str, Json]) -> dict[str, Json]:
    """`theirs`, with my changes since `base`.

    Different fields: both changes are kept. The same field: mine, the last writer. Lists: items that either side appended are
    kept, theirs first, an item that both appended once; changes within the common part are merged item by item.
    """
    merged: dict[str, Json] = {}
    for key in [*theirs, *(key for key in mine if key not in theirs)]:
        value = _merge(base.get(key, _MISSING), mine.get(key, _MISSING), theirs.get(key, _MISSING))
        if not isinstance(value, _Missing):
            merged[key] = value
    return merged


def _merge(base: Json | _Missing, mine: Json | _Missing, theirs: Json | _Missing) -> Json | _Missing:
    if _unchanged(base, mine):
        return theirs
    if _unchanged(base, theirs):
        return mine
    if isinstance(mine, dict) and isinstance(theirs, dict):
        return merge_objects(base if isinstance(base, dict) else {}, mine, theirs)
    if isinstance(mine, list) and isinstance(theirs, list):
        return _merge_lists(base if isinstance(base, list) else [], mine, theirs)
    return mine


def _merge_lists(base: list[Json], mine: list[Json], theirs: list[Json]) -> list[Json]:
    common = len(base)
    if min(len(mine), len(theirs)) < common:
        return mine  # somebody took items away: positions no longer tell which item is which
    merged: list[Json] = []
    for items in zip(base, mine[:common], theirs[:common], strict=True):
        item = _merge(*items)
        merged.append(None if isinstance(item, _Missing) else item)
    appended = theirs[common:]
    return [*merged, *appended, *(item for item in mine[common:] if not any(same(item, other) for other in appended))]


def _unchanged(before: Json | _Missing, after: Json | _Missing) -> bool:
    if isinstance(before, _Missing) or isinstance(after, _Missing):
        return before is after
    return same(before, after)
