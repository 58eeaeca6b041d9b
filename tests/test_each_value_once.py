"""What `--each-value-once` leaves of a test's parameter sets."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from each_value_once import kept


@dataclass(frozen=True, eq=False)
class Item:
    """As pytest collects it."""

    nodeid: str
    callspec: Any


def items(**parameters: list[Any]) -> list[Item]:
    return [
        Item(
            f"test_it[{chosen}]",
            SimpleNamespace(
                params={name: value for name, (_, value) in zip(parameters, chosen, strict=True)},
                indices={name: index for name, (index, _) in zip(parameters, chosen, strict=True)},
            ),
        )
        for chosen in itertools.product(*map(enumerate, parameters.values()))
    ]


def values_of(found: list[Item], name: str) -> set[Any]:
    return {item.callspec.params[name] for item in found}


def test_each_value_takes_part_and_not_each_with_each() -> None:
    found = kept(items(limit=[1, 7, 60], name=[*"abcde"], sort=["old", "new"]), lambda _: True)
    assert len(found) == 5
    assert values_of(found, "limit") == {1, 7, 60}
    assert values_of(found, "name") == {*"abcde"}
    assert values_of(found, "sort") == {"old", "new"}


def test_a_value_is_not_shown_by_a_set_that_would_only_skip() -> None:
    found = kept(items(place=["moto", "local"], name=["a", "b"]), lambda server: False)
    assert values_of(found, "place") == {"local"}
    assert values_of(found, "name") == {"a", "b"}


def test_tests_with_one_parameter_or_none_stay_as_they_are() -> None:
    one, none = items(name=["a", "b", "c"]), [SimpleNamespace(nodeid="test_other")]
    assert kept([*one, *none], lambda _: False) == [*one, *none]
