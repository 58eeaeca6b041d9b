"""A three-way merge keeps both sides' changes; of the same field the last writer's."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chunkstore.merge import merge_objects
from chunkstore.values import same

# A busy machine is slow, not wrong.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

NAMES = "abcd"
names = st.sampled_from(NAMES)
leaves = st.sampled_from([None, True, 0, 1, 1.0, math.nan, "x", "y"])
trees = st.dictionaries(
    names,
    st.recursive(
        leaves, lambda inside: st.lists(inside, max_size=3) | st.dictionaries(names, inside, max_size=3), max_leaves=8
    ),
    max_size=4,
)
edits = st.dictionaries(st.tuples(names, names, names), st.none() | leaves.map(lambda leaf: [leaf]), max_size=8)
"""By the path of a leaf: a new value, in a list; or None for its removal."""


def full_tree() -> dict[str, Any]:
    return {a: {b: {c: f"{a}{b}{c}" for c in NAMES} for b in NAMES} for a in NAMES}


def edited(tree: dict[str, Any], changes: dict[tuple[str, str, str], Any]) -> dict[str, Any]:
    tree = copy.deepcopy(tree)
    for (a, b, c), change in changes.items():
        if change is None:
            tree[a][b].pop(c, None)
        else:
            tree[a][b][c] = change[0]
    return tree


@unhurried
@given(edits, edits, st.sets(st.tuples(names, names, names)))
def test_changes_in_different_places_are_all_kept_whoever_comes_first(
    mine: dict[Any, Any], theirs: dict[Any, Any], absent: set[tuple[str, str, str]]
) -> None:
    theirs = {path: change for path, change in theirs.items() if path not in mine}
    base = edited(full_tree(), dict.fromkeys(absent))
    merged = merge_objects(base, edited(base, mine), edited(base, theirs))
    assert same(merged, edited(base, {**mine, **theirs}))
    assert same(merged, merge_objects(base, edited(base, theirs), edited(base, mine)))


@unhurried
@given(edits, edits)
def test_of_the_same_field_the_last_writers_value_stays(mine: dict[Any, Any], theirs: dict[Any, Any]) -> None:
    base = full_tree()
    merged = merge_objects(base, edited(base, mine), edited(base, theirs))
    said = {path: change for path, change in mine.items() if change != [base[path[0]][path[1]][path[2]]]}
    assert same(merged, edited(base, {**theirs, **said}))


@unhurried
@given(trees, trees)
def test_without_changes_of_theirs_mine_stands(base: dict[str, Any], mine: dict[str, Any]) -> None:
    assert same(merge_objects(base, mine, base), mine)


@unhurried
@given(trees, trees)
def test_without_changes_of_mine_theirs_stands(base: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert same(merge_objects(base, base, theirs), theirs)


@unhurried
@given(trees, trees, trees)
def test_a_change_that_landed_already_changes_nothing_when_it_is_made_again(
    base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]
) -> None:
    landed = merge_objects(base, mine, theirs)
    assert same(merge_objects(base, mine, landed), landed)


@unhurried
@given(trees, trees, trees)
def test_a_merge_changes_none_of_its_sides(base: dict[str, Any], mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    before = copy.deepcopy((base, mine, theirs))
    merge_objects(base, mine, theirs)
    assert all(map(same, before, (base, mine, theirs)))


@unhurried
@given(
    st.lists(leaves, max_size=3),
    st.lists(st.integers(0, 9), max_size=4, unique=True),
    st.lists(st.integers(5, 14), max_size=4, unique=True),
)
def test_items_that_either_side_appended_are_kept_and_the_same_one_once(
    base: list[Any], mine: list[Any], theirs: list[Any]
) -> None:
    merged = merge_objects({"a": base}, {"a": base + mine}, {"a": base + theirs})["a"]
    assert same(merged, base + theirs + [item for item in mine if item not in theirs])


@unhurried
@given(st.lists(st.sampled_from("xyz"), max_size=3))
def test_equal_items_that_one_side_appended_alone_are_all_kept(mine: list[str]) -> None:
    assert merge_objects({"a": []}, {"a": mine}, {"a": ["other"]})["a"] == ["other", *mine]


def test_lists_that_both_made_are_joined() -> None:
    assert merge_objects({}, {"a": [1, 2]}, {"a": [2, 3]}) == {"a": [2, 3, 1]}


def test_items_that_both_had_are_merged_field_by_field() -> None:
    base = {"attempts": [{"n": 1, "status": "RUNNING", "message": ""}]}
    mine = {"attempts": [{"n": 1, "status": "SUCCESS", "message": ""}, {"n": 3}]}
    theirs = {"attempts": [{"n": 1, "status": "RUNNING", "message": "warm"}, {"n": 2}]}
    merged = {"attempts": [{"n": 1, "status": "SUCCESS", "message": "warm"}, {"n": 2}, {"n": 3}]}
    assert merge_objects(base, mine, theirs) == merged


@pytest.mark.parametrize(("mine", "theirs"), [([1], [1, 2, 3]), ([1, 2, 3], [1]), ([], [1])])
def test_where_items_were_taken_away_the_last_writers_list_stays(mine: list[int], theirs: list[int]) -> None:
    assert merge_objects({"a": [1, 2]}, {"a": mine}, {"a": theirs}) == {"a": mine}


def test_my_change_wins_over_their_removal() -> None:
    assert merge_objects({"a": 1}, {"a": 2}, {}) == {"a": 2}


def test_my_removal_wins_over_their_change() -> None:
    assert merge_objects({"a": 1}, {}, {"a": 2}) == {}


def test_what_both_removed_is_gone() -> None:
    assert merge_objects({"a": 1, "b": 1}, {"b": 1}, {"b": 2}) == {"b": 2}


@pytest.mark.parametrize("value", [math.nan, math.inf, -0.0, [math.nan], {"n": math.nan}])
def test_an_unchanged_odd_number_is_no_change(value: object) -> None:
    assert same(merge_objects({"a": copy.deepcopy(value)}, {"a": copy.deepcopy(value)}, {"a": 1}), {"a": 1})


@pytest.mark.parametrize(("before", "after"), [(1, 1.0), (1, True), (0.0, -0.0), (None, math.nan)])
def test_a_change_of_type_alone_is_a_change(before: object, after: object) -> None:
    assert same(merge_objects({"a": before}, {"a": after}, {"a": before}), {"a": after})
    assert same(merge_objects({"a": before}, {"a": before}, {"a": after}), {"a": after})


@pytest.mark.parametrize(
    ("mine", "theirs"), [({"x": 1}, [1]), ([1], {"x": 1}), (1, {"x": 1}), ({"x": 1}, 1), (None, [1])]
)
def test_changes_to_different_kinds_of_value_are_not_mixed(mine: object, theirs: object) -> None:
    assert merge_objects({"a": "before"}, {"a": mine}, {"a": theirs}) == {"a": mine}


def test_their_order_of_fields_stays_and_my_new_ones_follow() -> None:
    assert list(merge_objects({"b": 1, "a": 1}, {"z": 1, "b": 1, "a": 2}, {"a": 1, "y": 1, "b": 1})) == [
        "a",
        "y",
        "b",
        "z",
    ]


A, B, C, D = ({"attempt": name, "status": "CREATED"} for name in "abcd")


def done(item: dict[str, str]) -> dict[str, str]:
    return {**item, "status": "SUCCESS"}


@pytest.mark.parametrize(
    ("base", "mine", "theirs", "merged"),
    [
        pytest.param([B], [done(B)], [A, B], [A, done(B)], id="pushed back by another's"),
        pytest.param([B], [done(B)], [A, done(B)], [A, done(B)], id="landed already"),
        pytest.param([B], [done(B), D], [A, B, C], [A, done(B), C, D], id="and another appended"),
        pytest.param([B, C], [done(B), done(C)], [A, B, C], [A, done(B), done(C)], id="two pushed back"),
        pytest.param([B, C], [done(B), done(C)], [A, done(B), done(C)], [A, done(B), done(C)], id="two landed already"),
        pytest.param([A, B], [A, done(B)], [done(A), C, B], [done(A), C, done(B)], id="the one before was changed"),
    ],
)
def test_an_item_is_changed_where_it_stands_now(base: Any, mine: Any, theirs: Any, merged: Any) -> None:
    assert merge_objects({"l": base}, {"l": mine}, {"l": theirs}) == {"l": merged}
