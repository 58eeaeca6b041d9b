"""Settings and keys as one checked value: what is wrong is named, with the nearest known name, and no value is."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any, TypeVar

from pydantic import AliasChoices, BaseModel, SecretStr, ValidationError
from pydantic.fields import FieldInfo

from chunkstore.errors import InvalidInputError

Model = TypeVar("Model", bound=BaseModel)


def checked(model: type[Model], given: Mapping[str, object], of: str = "") -> Model:
    """The model with these values. Raises `InvalidInputError` that names all that is wrong, and begins with `of`."""
    made, problems = _made(model, given)
    if made is None:
        raise _refused(of, problems)  # not within `except`: the context would hold the values
    return made


def check_unfilled(
    model: type[BaseModel],
    given: Mapping[str, object],
    unfilled: Collection[str],
    called: Callable[[str], str] = str,
) -> None:
    """As `checked`, where some values are not known yet: they count as given, and as right. `called` is how a key is named in an error."""
    _, problems = _made(model, given)
    certain = [(called(key), problem) for key, problem in problems if key not in unfilled and (key or not unfilled)]
    if certain:
        raise _refused("", certain)


def _made(model: type[Model], given: Mapping[str, object]) -> tuple[Model | None, list[tuple[str, str]]]:
    try:
        return model.model_validate(dict(given)), []
    except ValidationError as error:
        return None, [_problem(model, each) for each in error.errors(include_input=False, include_url=False)]


def _problem(model: type[BaseModel], error: Any) -> tuple[str, str]:
    key = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "missing":
        return key, "it is required, and missing"
    if error["type"] == "extra_forbidden":
        twin = next((names[0] for names in map(_names, _fields(model)) if key in names), "")
        return key, f"it says the same as {twin}; give one of them"
    if error["type"] in ("too_short", "string_too_short"):
        return key, "it is empty"  # pydantic would count the items of a secret
    return key, error["msg"].removeprefix("Value error, ")


def _refused(of: str, problems: Iterable[tuple[str, str]]) -> InvalidInputError:
    found = list(problems)
    text = "; ".join(f"{key}: {problem}" if key else problem for key, problem in found)
    return InvalidInputError(f"{of}: {text}" if of else text, name=found[0][0])


def accepted(model: type[BaseModel]) -> list[str]:
    """The names that settings may have, those that are documented first."""
    names = [_names(field) for field in _fields(model)]
    return [each[0] for each in names] + [other for each in names for other in each[1:]]


def secret_names(model: type[BaseModel]) -> frozenset[str]:
    """The names of settings whose values are never shown."""
    secret = [each for each in _fields(model) if each[1].annotation is SecretStr]
    return frozenset(name for each in secret for name in (each[0], *_names(each)))


def _fields(model: type[BaseModel]) -> Iterator[tuple[str, FieldInfo]]:
    yield from model.model_fields.items()


def _names(field: tuple[str, FieldInfo]) -> list[str]:
    name, info = field
    if isinstance(info.validation_alias, AliasChoices):
        return [str(choice) for choice in info.validation_alias.choices]
    return [name]


def nearest_of(name: str, known: Collection[str]) -> str:
    """The known name that is nearest; empty where none is near."""
    return next(iter(difflib.get_close_matches(name, known, n=1, cutoff=0.6)), "")


def hint(name: str, known: Collection[str]) -> str:
    """What to say behind a name that is unknown: the nearest, or all that are known."""
    near = nearest_of(name, known)
    return f"did you mean {near!r}?" if near else f"known are: {', '.join(known)}"
