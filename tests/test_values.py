"""What JSON-like values go in come out as they were, in bytes that are strict JSON; all else is refused by its path."""

from __future__ import annotations

import base64
import collections
import decimal
import enum
import fractions
import json
import math
import numbers
import pathlib
import types
import uuid
from datetime import UTC, date, datetime, timedelta
from typing import Any, NoReturn

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chunkstore import values
from chunkstore.errors import FormatError, InvalidInputError
from chunkstore.values import Content, decode, encode, encode_strictly, same

# A busy machine is slow, not wrong.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

any_text = st.text(st.characters(codec=None, categories=None))  # lone surrogates too
clean_text = st.text(st.characters(exclude_categories=["Cs"]))
scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(2**200), 2**200)
    | st.floats()
    | st.sampled_from([math.nan, math.inf, -math.inf, -0.0, 0.0, 1e16, 1e22, 5e-324, 2**63, 2**64, -(2**63) - 1])
    | any_text
    | st.sampled_from(["NaN", "Infinity", "-Infinity", "null", "", "\n", "\u2028", "\ud800", "~1", "/", "\0", "\ufffd"])
)
object_keys = clean_text | st.sampled_from(["", "/", "~", "~0", "~1", "a/b", "0", "-1", "_chunkstore", "\n"])


def containers(inside: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inside, max_size=5) | st.dictionaries(object_keys, inside, max_size=5)


trees = st.dictionaries(object_keys, st.recursive(scalars, containers, max_leaves=20), max_size=6)


def there_and_back(value: Any) -> Any:
    return decode(encode({"v": value}))["v"]


def strict(body: bytes) -> Any:
    def refuse(constant: str) -> NoReturn:
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(body.decode("utf-8"), parse_constant=refuse)


def nested(levels: int, leaf: Any = 1) -> Any:
    value = leaf
    for level in range(levels):
        value = [value] if level % 2 else {"k": value}
    return value


@unhurried
@given(trees)
@example({"a": [math.nan, None, "NaN"], "": {"": {"/": -math.inf, "~": "\udfff"}}})
@example({"v": [1, 1.0, True, 0, 0.0, -0.0, False, None]})
@example({"v": [2**63, 2**64, -(2**63) - 1, 10**3999, -(10**3999)]})
@example({str(number): math.nan for number in range(300)})
def test_what_went_in_comes_out(tree: dict[str, Any]) -> None:
    assert same(decode(encode(tree)), tree)


@unhurried
@given(trees)
def test_the_bytes_are_strict_json_in_one_line(tree: dict[str, Any]) -> None:
    body = encode(tree).body
    assert isinstance(strict(body), dict)
    assert b"\n" not in body
    assert b"\r" not in body


@unhurried
@given(trees)
def test_where_json_can_hold_a_value_any_other_program_reads_it_too(tree: dict[str, Any]) -> None:
    content = encode(tree)
    if not content.exact:
        assert same(strict(content.body), tree)


@unhurried
@given(trees)
def test_the_quick_way_and_the_thorough_one_keep_the_same(tree: dict[str, Any]) -> None:
    assert same(decode(encode(tree)), decode(encode_strictly(tree)))


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf, -0.0, 0.0, 1.0, 1e16, 1e300, 5e-324, 0.1 + 0.2])
def test_a_float_comes_back_as_that_float(number: float) -> None:
    came_back = there_and_back(number)
    assert type(came_back) is float
    assert (repr(came_back), math.copysign(1, came_back)) == (repr(number), math.copysign(1, number))


@pytest.mark.parametrize(
    "number",
    [0, 1, -1, 2**53 + 1, 2**63 - 1, 2**63, 2**64 - 1, 2**64, -(2**63) - 1, 2**13_000, -(10**4000 - 1)],
    ids=lambda number: f"{number.bit_length()} bits",
)
def test_an_integer_comes_back_as_that_integer(number: int) -> None:
    came_back = there_and_back(number)
    assert type(came_back) is int
    assert came_back == number


@pytest.mark.parametrize("number", [10**4000, -(10**4000), 10**9000], ids=["4001", "-4001", "9001"])
def test_an_integer_that_no_parser_would_read_again_is_refused_by_its_path(number: int) -> None:
    with pytest.raises(InvalidInputError, match=r"'/v/1/deep' has more than 4,000 digits"):
        encode({"v": [0, {"deep": number}]})


@pytest.mark.parametrize(
    "text", ["NaN", "Infinity", "a -Infinity b", "null", '"', "\\", "\u2028", "\ud800", "\udfffx\ud800", "😀", "\0"]
)
@pytest.mark.parametrize("beside", [None, math.nan])
def test_any_text_comes_back_whatever_it_spells(text: str, beside: float | None) -> None:
    assert there_and_back([text, beside])[0] == text


def test_true_one_and_one_point_nought_stay_three_things() -> None:
    assert [type(item) for item in there_and_back([True, 1, 1.0])] == [bool, int, float]


@pytest.mark.parametrize("leaf", [1, math.nan, {}, "\ud800"])
def test_values_come_back_from_as_deep_as_is_allowed(leaf: Any) -> None:
    deepest = nested(values.MAX_DEPTH - 2 if leaf == {} else values.MAX_DEPTH - 1, leaf)
    assert same(there_and_back(deepest), deepest)


@pytest.mark.parametrize("levels", [values.MAX_DEPTH + 1, 250, 254, 255, 256, 1000, 100_000])
@pytest.mark.parametrize("leaf", [1, math.nan])
def test_what_is_nested_deeper_is_refused_by_its_path(levels: int, leaf: float) -> None:
    with pytest.raises(InvalidInputError, match=r"nested too deep.* at '/v/") as refused:
        encode({"v": nested(levels, leaf)})
    assert len(str(refused.value)) < 400


def test_a_limit_of_ones_own_holds_for_all_values() -> None:
    assert encode({"v": nested(9)}, max_depth=10)
    with pytest.raises(InvalidInputError, match="too deep"):
        encode({"v": nested(11)}, max_depth=10)


def test_wide_values_come_back() -> None:
    wide = {"list": [[index] for index in range(20_000)], "object": {str(index): {} for index in range(20_000)}}
    assert there_and_back(wide) == wide


@pytest.mark.parametrize("beside", [1, math.nan])
def test_a_value_within_itself_is_refused(beside: float) -> None:
    ring: list[Any] = [beside]
    ring.append({"again": ring})
    with pytest.raises(InvalidInputError, match="within itself"):
        encode({"ring": ring})
    tree: dict[str, Any] = {"beside": beside}
    tree["tree"] = tree
    with pytest.raises(InvalidInputError, match="within itself"):
        encode(tree)


def test_one_value_in_two_places_is_no_ring() -> None:
    twice = [math.nan]
    assert same(there_and_back({"a": twice, "b": [twice, twice]}), {"a": twice, "b": [twice, twice]})


class Plain:
    pass


NO_JSON = {
    "bytes": b"x",
    "bytearray": bytearray(b"x"),
    "set": {1},
    "frozenset": frozenset({1}),
    "datetime": datetime(2026, 11, 21, tzinfo=UTC),
    "date": date(2026, 11, 21),
    "timedelta": timedelta(1),
    "path": pathlib.PurePosixPath("a"),
    "decimal": decimal.Decimal("1.5"),
    "fraction": fractions.Fraction(1, 3),
    "complex": 1j,
    "object": Plain(),
    "class": Plain,
    "function": len,
    "generator": (number for number in [1]),
    "range": range(3),
    "deque": collections.deque([1]),
    "ellipsis": ...,
}


@pytest.mark.parametrize("beside", [1, math.nan])
@pytest.mark.parametrize("value", NO_JSON.values(), ids=NO_JSON.keys())
def test_what_json_cannot_keep_is_refused_with_its_type_and_path(value: object, beside: float) -> None:
    with pytest.raises(InvalidInputError) as refused:
        encode({"a": [beside, {"b/c": value}]})
    assert f"{type(value).__qualname__} at '/a/1/b~1c'" in str(refused.value)


def test_a_uuid_is_refused_with_its_path_where_each_value_is_looked_at() -> None:
    with pytest.raises(InvalidInputError, match="'/v'"):
        encode_strictly({"v": uuid.uuid4()})


@pytest.mark.parametrize("beside", [1, math.nan])
@pytest.mark.parametrize("key", [1, 1.5, True, None, ("a",), b"a", "\ud800"], ids=repr)
def test_a_key_that_is_no_text_is_refused_with_its_path(key: object, beside: float) -> None:
    with pytest.raises(InvalidInputError, match=r"key .* at '/a/1'"):
        encode({"a": [beside, {key: 1}]})


@pytest.mark.parametrize("key", [1, "\ud800"])
def test_a_key_at_the_top_is_refused_too(key: str) -> None:
    with pytest.raises(InvalidInputError, match="at the top"):
        encode({key: 1})


class Colour(enum.Enum):
    RED = "red"
    NONE = math.nan


class Word(str, enum.Enum):  # noqa: UP042  its str() is not its value, which is the point
    A = "a"


class Loud(str):
    __slots__ = ()

    def __str__(self) -> str:
        return "loud"


@pytest.mark.parametrize("beside", [1, math.nan])
def test_tuples_come_back_as_lists_and_enums_as_their_values(beside: float) -> None:
    pair = collections.namedtuple("pair", "x y")(1, 2)  # noqa: PYI024  the untyped one is met in the wild
    given_values = [(1, (2,)), pair, Colour.RED, Word.A, {Word.A: 1}, Loud("quiet"), {Loud("quiet"): beside}]
    expected = [[1, [2]], [1, 2], "red", "a", {"a": 1}, "quiet", {"quiet": beside}]
    assert same(there_and_back([*given_values, beside]), [*expected, beside])
    assert same(there_and_back([Colour.NONE]), [math.nan])


@pytest.mark.parametrize("beside", [1, math.nan])
def test_mappings_of_other_kinds_come_back_as_plain_objects(beside: float) -> None:
    given_values = [types.MappingProxyType({"a": 1}), collections.OrderedDict(a=1), collections.Counter("a"), beside]
    assert same(there_and_back(given_values), [{"a": 1}, {"a": 1}, {"a": 1}, beside])


class Whole(int):
    """An integer of another library's making, as numpy's are."""


def test_integers_of_other_libraries_come_back_as_integers() -> None:
    assert isinstance(Whole(3), numbers.Integral)
    assert type(there_and_back(Whole(3))) is int


def test_numpys_integers_and_doubles_come_back_as_pythons() -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    came_back = there_and_back([numpy.int64(3), numpy.uint64(2**64 - 1), numpy.float64(1.5), numpy.float64("nan")])
    assert same(came_back, [3, 2**64 - 1, 1.5, math.nan])


@pytest.mark.parametrize("make", ["float32", "bool_", "array", "datetime64"])
def test_other_things_of_numpys_are_refused(make: str) -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    with pytest.raises(InvalidInputError, match=r"numpy\.\w+ at '/v/m'"):
        there_and_back({"m": getattr(numpy, make)(1, "s") if make == "datetime64" else getattr(numpy, make)(1)})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{}x",
        b"[1]",
        b"1",
        b"null",
        b'"a"',
        b"\xff",
        b'{"a":NaN}',
        b'{"a":Infinity}',
        b"{'a':1}",
        b"garbage",
    ],
)
def test_bytes_that_are_no_json_object_are_a_format_error(body: bytes) -> None:
    with pytest.raises(FormatError):
        decode(Content(body))


@pytest.mark.parametrize(
    "body", [b'{"a":' * 5000, b'{"a":' + b"[" * 300 + b"]" * 300 + b"}", b'{"a":' + b"9" * 5000 + b"}"]
)
def test_bytes_that_no_writer_of_ours_makes_are_a_format_error(body: bytes) -> None:
    with pytest.raises(FormatError):
        decode(Content(body))


@pytest.mark.parametrize(
    "pointer", ["", "a", "/", "/b", "/a/11", "/a/-1", "/a/ 0", "/a/1_0", "/a/x", "/a/", "/a/0/0", "//a", "/a~1"]
)
def test_an_exact_value_without_its_place_is_a_format_error(pointer: str) -> None:
    with pytest.raises(FormatError, match="no place"):
        decode(Content(b'{"a":[0,1,2,3,4,5,6,7,8,9,10]}', {pointer: "float:nan"}))


@pytest.mark.parametrize(
    "exact", ["", "float", "float:", "float:1", "float:NaN", "int:1", "str:!", "str:/w==", "str:é", ":"]
)
def test_an_exact_value_of_an_unknown_form_is_a_format_error(exact: str) -> None:
    with pytest.raises(FormatError):
        decode(Content(b'{"a":null}', {"/a": exact}))


def test_exact_values_stand_beside_the_nearest_that_json_has() -> None:
    content = encode({"loss": math.nan, "note": "\ud800", "a/b~c": [math.inf]})
    assert strict(content.body) == {"loss": None, "note": "\ufffd\ufffd\ufffd", "a/b~c": [None]}
    text = "str:" + base64.b64encode(b"\xed\xa0\x80").decode()
    assert content.exact == {"/loss": "float:nan", "/note": text, "/a~1b~0c/0": "float:inf"}


def test_ordinary_values_have_no_exact_ones_beside_them() -> None:
    content = encode({"a": [1, None, "NaN", {"b": 1.5}]})
    assert content == Content(b'{"a":[1,null,"NaN",{"b":1.5}]}')


@unhurried
@given(trees)
@example({"a": 1e16, "b": -1e-7, "c": 5e-324})
def test_equal_values_have_equal_bytes_whatever_the_types_they_came_in(tree: dict[str, Any]) -> None:
    assert encode(types.MappingProxyType(tree)) == encode(tree) == encode(decode(encode(tree)))


@unhurried
@given(trees, trees)
def test_a_value_is_the_same_as_its_copy_and_no_other(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert same(one, decode(encode(one)))
    # The text of a scalar with its type tells 1, 1.0 and true apart, and 0.0 from -0.0.
    assert same(one, other) == (canonical(one) == canonical(other))


def canonical(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: canonical(item) for key, item in value.items()}
    if isinstance(value, list):
        return [canonical(item) for item in value]
    return (type(value).__name__, repr(value))


@pytest.mark.parametrize(
    ("left", "right"),
    [
        (1, 1.0),
        (1, True),
        (0, False),
        (0.0, -0.0),
        (None, math.nan),
        ("1", 1),
        ([], {}),
        ([1], [1, 1]),
        ({"a": 1}, {"a": 1.0}),
    ],
)
def test_values_that_python_calls_equal_may_be_different_json(left: Any, right: Any) -> None:
    assert not same(left, right)
    assert not same(right, left)


def test_the_order_of_an_objects_fields_does_not_matter() -> None:
    assert same({"a": math.nan, "b": [1]}, {"b": [1], "a": math.nan})
