"""Placeholders in the texts of a configuration: `${name}` stands for a secret, and `$$` for a dollar. Where secrets come from is not known here."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from typing import Final

from pydantic import SecretStr

from chunkstore.errors import InvalidInputError

Find = Callable[[str], "str | None"]
"""A secret by its name; None for one that is not there."""
Secrets = Mapping[str, object] | Callable[[str], object]
"""Secrets as a caller has them. A function may raise `LookupError` for one that is not there, or return None."""

_PLACEHOLDER: Final = re.compile(r"\$(?:(?P<dollar>\$)|\{(?P<name>[^{}$]*)\}|(?P<open>\{))")
_NOT_IN_CREDENTIALS: Final = re.compile(r"[@:/?#\[\]\s]")


def names_in(value: object) -> tuple[str, ...]:
    """The names of the placeholders in a setting, in their order."""
    return tuple(found["name"] for found in _PLACEHOLDER.finditer(_text(value)) if found["name"])


def has_placeholder(value: object) -> bool:
    """Whether anything in it is to be filled: `${name}`, `$$`, or a `${` that does not end."""
    return _PLACEHOLDER.search(_text(value)) is not None


def filled(value: object, setting: str, find: Find) -> object:
    """A setting with its placeholders filled; what is no text, and has none, as it is. What a secret holds is not looked at again.

    Raises `InvalidInputError` that names the placeholder and the setting, and no value.
    """
    if not has_placeholder(value):
        return value
    text = _filled(_text(value), setting, find)
    return SecretStr(text) if isinstance(value, SecretStr) else text


def filled_url(value: object, setting: str, find: Find) -> object:
    """As `filled`, for a URL: a secret in its user or password must be quoted as URLs want it, or would mean something else."""
    text = _text(value)
    before, at, after = text.partition("://")
    credentials, found, rest = after.rpartition("@")
    if not at or not found or "/" in credentials:
        return filled(value, setting, find)
    made = _filled(before, setting, find) + at + _filled(credentials, setting, _quoted(find, setting)) + found
    made += _filled(rest, setting, find)
    return SecretStr(made) if isinstance(value, SecretStr) else made


def _filled(text: str, setting: str, find: Find) -> str:
    return _PLACEHOLDER.sub(lambda found: _replacement(found, setting, find), text)


def _replacement(found: re.Match[str], setting: str, find: Find) -> str:
    if found["dollar"]:
        return "$"
    name = found["name"]
    if not name:
        raise InvalidInputError(
            f"{setting}: a placeholder is written ${{name}}; for a dollar before a brace write $$", name=setting
        )
    value = find(name)
    if value is None:
        raise InvalidInputError(
            f"the secret {name!r} of {setting} is not known: put it into the secrets of the pipeline tool, into secrets=, or into the "
            f"environment; where ${{{name}}} is meant as it stands, write $${{{name}}}",
            name=name,
        )
    return value


def _quoted(find: Find, setting: str) -> Find:
    def checked(name: str) -> str | None:
        value = find(name)
        if value is not None and _NOT_IN_CREDENTIALS.search(value):
            raise InvalidInputError(
                f"the secret {name!r} of {setting} has a character that means something else in a URL: quote it as URLs want it, or give "
                "it as the setting password",
                name=name,
            )
        return value

    return checked


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return value if isinstance(value, str) else ""


def finder(*sources: Find) -> Find:
    """The first of the sources that has it."""

    def find(name: str) -> str | None:
        return next((value for source in sources if (value := source(name)) is not None), None)

    return find


def found_in(secrets: Secrets) -> Find:
    """A caller's secrets. Raises `InvalidInputError` for one that is no text."""
    ask = secrets.get if isinstance(secrets, Mapping) else secrets

    def find(name: str) -> str | None:
        try:
            value = ask(name)
        except LookupError:
            return None
        if isinstance(value, SecretStr):
            return value.get_secret_value()
        if value is None or isinstance(value, str):
            return value
        raise InvalidInputError(f"the secret {name!r} must be text, not {type(value).__name__}", name=name)

    return find


def in_environment(name: str) -> str | None:
    """The variable of this name, as it is now."""
    return os.environ.get(name)
