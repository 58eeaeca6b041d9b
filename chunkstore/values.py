"""Python values ⇄ JSON bytes, exactly: what went in comes out, or is refused by name.

JSON has no NaN, no infinities and no lone surrogates, and the fast encoders write null for them without a word. Here such a
value stands in the JSON as the nearest thing that JSON has (null, or the text with U+FFFD), and beside it, in `exact`, stands
what it really was, under its JSON pointer (RFC 6901):

    {"loss": null}      exact: {"/loss": "float:nan"}

Integers are JSON already, whatever their size; they are written as digits, up to as many as the parsers under us read.
Tuples come back as lists, members of an enum as their values.
"""

from __future__ import annotations

import base64
import enum
import json
import math
import numbers
from collections.abc import Mapping
from typing import Final, NamedTuple, TypeAlias

import orjson
from pydantic_core import PydanticSerializationError, from_json, to_json

from chunkstore.errors import FormatError, InvalidInputError

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

MAX_DEPTH: Final = 190
"""Levels of nesting that a chunk keeps. The parsers under us stop at 200 and more, each with an error of its own."""

_INTEGER_END: Final = (
    10**4000
)  # parsers stop at 4,300 characters, some of them with the sign: no chunk may be unreadable
_STRICT: Final = orjson.OPT_PASSTHROUGH_DATETIME | orjson.OPT_PASSTHROUGH_DATACLASS
_FLOATS: Final = {"float:nan": math.nan, "float:inf": math.inf, "float:-inf": -math.inf}


NOTHING_EXACT: Final[Mapping[str, str]] = {}
"""Shared by all contents that JSON can hold, which is nearly all."""


class Content(NamedTuple):
    """A JSON object as bytes, and the exact values of what JSON could not hold."""

    body: bytes
    exact: Mapping[str, str] = NOTHING_EXACT


def encode(value: Mapping[str, object], *, max_depth: int = MAX_DEPTH) -> Content:
    """The bytes of a JSON object. Raises `InvalidInputError` with the path of the first value that cannot be kept.

    The encoder takes a UUID for text, and a dataclass that a model has turned into a dict cannot be told from one.
    """
    try:
        body = orjson.dumps(value, option=_STRICT)  # refuses what would come back as another thing: keys, sets, dates
        nulls = body.count(b"null")
        doubtful = nulls > 0 and nulls != _plain_nulls(value) and _hides_a_float(value)
    except (TypeError, PydanticSerializationError):
        return encode_strictly(value, max_depth=max_depth)
    if doubtful or body.count(b"{") + body.count(b"[") > max_depth:
        return encode_strictly(value, max_depth=max_depth)
    return Content(body)


def _plain_nulls(value: Mapping[str, object]) -> int:
    """How many nulls are None itself, as far as a short look shows: at the top, and in the items of its lists.

    Where these are all the nulls of the body, none hides anything.
    """
    found = 0
    for item in value.values():
        if item is None:
            found += 1
        elif type(item) is list:
            for one in item:
                if type(one) is dict:
                    found += len([inner for inner in one.values() if inner is None])
    return found


def _hides_a_float(value: Mapping[str, object]) -> bool:
    """Whether a null may be a NaN or an infinity; or a string has that word, and nothing is wrong."""
    body = to_json(value, inf_nan_mode="constants")
    return b"NaN" in body or b"Infinity" in body


def decode(content: Content) -> dict[str, Json]:
    """The object that was encoded. Raises `FormatError` for bytes that are no JSON object."""
    try:
        value = from_json(content.body, allow_inf_nan=False)
    except ValueError as error:
        raise FormatError(f"not JSON: {error}") from error
    if not isinstance(value, dict):
        raise FormatError(f"a JSON object is expected, not {type(value).__name__}")
    for pointer, exact in content.exact.items():
        _restore(value, pointer, exact)
    return value


def same(left: Json, right: Json) -> bool:
    """Whether two values are the same JSON: 1, 1.0 and true are three things, and NaN equals itself."""
    if type(left) is not type(right):
        return False
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(same(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(same, left, right))
    if isinstance(left, float) and isinstance(right, float):
        return repr(left) == repr(right)
    return left == right


def equal(left: Json, right: Json) -> bool:
    """Whether two values are equal for people: as `same`, but 1 and 1.0 are one number, and so are 0.0 and -0.0."""
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal, left, right))
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, float) and isinstance(right, float):
        return left == right or (math.isnan(left) and math.isnan(right))
    return left == right


def encode_strictly(value: Mapping[str, object], *, max_depth: int = MAX_DEPTH) -> Content:
    """As `encode`, after a look at each value, which takes about a microsecond for each: what is no JSON is refused."""
    exact: dict[str, str] = {}
    plain = _plain(value, "", exact, max_depth)
    try:
        body = orjson.dumps(plain)  # the two differ in "1e16" and "1e+16": equal values must not look changed
    except TypeError:  # an integer beyond 64 bits
        body = to_json(plain)
    return Content(body, exact)


def _plain(value: object, pointer: str, exact: dict[str, str], levels: int) -> Json:
    """The value in the types that JSON has; what JSON lacks is noted in `exact`."""
    if levels < 0:
        raise InvalidInputError(
            f"nested too deep, or within itself, at {_shown(pointer)}; flatten it or store a reference to it"
        )
    if isinstance(value, Mapping):
        return {
            _key(key, pointer): _plain(item, f"{pointer}/{_token(key)}", exact, levels - 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item, f"{pointer}/{index}", exact, levels - 1) for index, item in enumerate(value)]
    if isinstance(value, enum.Enum):
        return _plain(value.value, pointer, exact, levels)
    return _scalar(value, pointer, exact)


def _scalar(value: object, pointer: str, exact: dict[str, str]) -> Json:
    if isinstance(value, str):
        return _text(str.__str__(value), pointer, exact)  # str() of a subclass may say something else
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, numbers.Integral):
        return _integer(int(value), pointer)
    if isinstance(value, float):
        return _float(float(value), pointer, exact)
    raise InvalidInputError(
        f"{type(value).__module__}.{type(value).__qualname__} at {_shown(pointer)} is no JSON value and would not come back as it is; "
        f"convert it first (for example to str, float or list)"
    )


def _integer(number: int, pointer: str) -> int:
    if not -_INTEGER_END < number < _INTEGER_END:
        raise InvalidInputError(f"the integer at {_shown(pointer)} has more than 4,000 digits; store it as text (hex)")
    return number


def _float(number: float, pointer: str, exact: dict[str, str]) -> float | None:
    if math.isfinite(number):
        return number
    exact[pointer] = f"float:{number}"
    return None


def _text(text: str, pointer: str, exact: dict[str, str]) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        exact[pointer] = "str:" + base64.b64encode(text.encode("utf-8", "surrogatepass")).decode("ascii")
        return text.encode("utf-8", "surrogatepass").decode("utf-8", "replace")
    return text


def _key(key: object, pointer: str) -> str:
    if not isinstance(key, str):
        raise InvalidInputError(
            f"the key {key!r} at {_shown(pointer)} is a {type(key).__name__}; JSON has only strings as keys, use str(key)"
        )
    try:
        key.encode()
    except UnicodeEncodeError:
        raise InvalidInputError(f"the key {key!r} at {_shown(pointer)} is not valid unicode") from None
    return str.__str__(key)


def _token(key: str) -> str:
    return str.__str__(key).replace("~", "~0").replace("/", "~1")


def _shown(pointer: str) -> str:
    if len(pointer) > 200:
        pointer = f"{pointer[:200]}…"
    return repr(pointer) if pointer else "the top"


def _restore(value: Json, pointer: str, exact: str) -> None:
    try:
        *path, last = _tokens(pointer)
        for token in path:
            value = _child(value, token)
        _replace(value, last, _exact_value(exact))
    except (KeyError, IndexError, ValueError) as error:
        raise FormatError(f"exact value {json.dumps(exact)} has no place {json.dumps(pointer)}") from error


def _tokens(pointer: str) -> list[str]:
    start, *tokens = pointer.split("/")
    if start or not tokens:
        raise KeyError(pointer)
    return [token.replace("~1", "/").replace("~0", "~") for token in tokens]


def _replace(holder: Json, token: str, value: Json) -> None:
    if isinstance(holder, dict) and token in holder:
        holder[token] = value
    elif isinstance(holder, list):
        holder[_index(token)] = value
    else:
        raise KeyError(token)


def _child(value: Json, token: str) -> Json:
    if isinstance(value, dict):
        return value[token]
    if isinstance(value, list):
        return value[_index(token)]
    raise KeyError(token)


def _index(token: str) -> int:
    if not (token.isascii() and token.isdecimal()):  # int() would take "-1", " 1" and "1_0" too
        raise KeyError(token)
    return int(token)


def _exact_value(exact: str) -> Json:
    if exact in _FLOATS:
        return _FLOATS[exact]
    kind, _, text = exact.partition(":")
    if kind == "str":
        return base64.b64decode(text, validate=True).decode("utf-8", "surrogatepass")
    raise ValueError(exact)
