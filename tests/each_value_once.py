"""Which parameter sets of a test are enough for each value of each parameter to take part, though not each with each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import Any

SERVERS = ("faults", "minio", "moto", "rclone")


def kept(items: Iterable[Any], is_wanted: Callable[[str], bool]) -> list[Any]:
    """Of all collected tests those that stay, in their order; `is_wanted` says which servers are used here."""
    tests = defaultdict(list)
    for item in items:
        tests[item.nodeid.partition("[")[0]].append(item)
    return [item for sets in tests.values() for item in enough(sets, is_wanted)]


def enough(items: Sequence[Any], is_wanted: Callable[[str], bool]) -> list[Any]:
    """Of the parameter sets of one test; one that would only skip shows no value."""
    if len(items) == 1 or not all(hasattr(item, "callspec") for item in items):
        return list(items)
    values = {item: set(item.callspec.indices.items()) for item in items if not only_skips(item, is_wanted)}
    missing = set().union(*values.values())
    chosen = set()
    while missing:
        best = max(values, key=lambda item: len(values[item] & missing))
        missing -= values[best]
        chosen.add(best)
    return [item for item in items if item in chosen]


def only_skips(item: Any, is_wanted: Callable[[str], bool]) -> bool:
    """Whether one of its parameters is a server that this environment goes without."""
    named = [value for value in item.callspec.params.values() if isinstance(value, str) and value in SERVERS]
    return not all(map(is_wanted, named))
