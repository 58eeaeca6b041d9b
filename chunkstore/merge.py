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
        return mine  # somebody took items away: nobody can tell which item is which
    places = _places(base, mine, theirs)
    merged = list(theirs)
    for number, place in places.items():
        value = _merge(base[number], mine[number], theirs[place])
        merged[place] = None if isinstance(value, _Missing) else value
    settled = {*places.values(), *(at for at in range(common) if same(theirs[at], base[at]))}
    appended = [item for place, item in enumerate(theirs) if place not in settled]
    return [*merged, *(item for item in mine[common:] if not any(same(item, other) for other in appended))]


def _places(base: list[Json], mine: list[Json], theirs: list[Json]) -> dict[int, int]:
    """Where in `theirs` each item stands that I changed.

    At its own place, as a rule. But of items that two appended at once the one's stand before the other's, who goes on to change
    his own without having read the list again: then it stands, as I read it or as I changed it, at another place.
    """
    changed = [number for number in range(len(base)) if not same(base[number], mine[number])]
    places = {at: at for at in changed if same(theirs[at], base[at]) or same(theirs[at], mine[at])}
    free = [at for at in range(len(theirs)) if at not in places and not (at < len(base) and same(theirs[at], base[at]))]
    for number in reversed([at for at in changed if at not in places]):  # the last one was pushed back the furthest
        once = not any(same(base[number], item) for item in mine[len(base) :])  # or it may be the one that I appended
        open_to_it = [at for at in free if at == number or at in places or at not in changed]
        found = (at for at in open_to_it if same(theirs[at], mine[number]) or (once and same(theirs[at], base[number])))
        places[number] = next(found, number)
        free = [at for at in free if at != places[number]]
    return places


def _unchanged(before: Json | _Missing, after: Json | _Missing) -> bool:
    if isinstance(before, _Missing) or isinstance(after, _Missing):
        return before is after
    return same(before, after)
