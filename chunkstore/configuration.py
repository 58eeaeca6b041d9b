"""A store as a configuration has it, by a type and its keys: checked at once, filled with secrets and opened at first use."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from pydantic import SecretStr, TypeAdapter, ValidationError

from chunkstore.config import (
    check_shown,
    has_scheme,
    open_checked,
    scheme_of,
    settings_model,
    unknown_setting,
)
from chunkstore.errors import InvalidInputError
from chunkstore.schema import OWN, Schema
from chunkstore.settings import MemorySettings, Settings
from chunkstore.settings.checking import accepted, check_unfilled, checked, hint, secret_names
from chunkstore.settings.configs import KEYS, PlaceKeys, UrlKeys, url_keys
from chunkstore.settings.placeholders import (
    Find,
    filled,
    filled_url,
    has_placeholder,
    in_environment,
)
from chunkstore.store import ChunkedRunLogStore

BY_URL: Final = "chunkstore"
"""The type that names its place by a `url`."""
TYPES: Final = (BY_URL, *KEYS)
"""The types that a configuration may have."""
_OTHERS: Final[Mapping[str, str]] = {
    "chunked-fs": "type chunkstore-fs takes its keys",
    "file-system": "type chunkstore-fs takes its keys",
    "chunked-minio": "type chunkstore-minio takes its keys",
    "minio": "type chunkstore-minio takes its keys",
    "s3": "type chunkstore-s3 takes its keys",
    "db": "type chunkstore-db takes its keys",
    "buffered": "take type chunkstore with the url memory://",
}
"""The stores of runnable and magnus, and what to take instead."""
_CREDENTIALS: Final = re.compile(r"(?<=://).*@")
_SECRET_ARGUMENT: Final = re.compile(r"([?&][^=&]*(?:pass|pwd|secret|token)[^=&]*=)([^&]*)", re.IGNORECASE)
_PASSWORD: Final = re.compile(r"://[^/@]*:[^@]+@")
_STARS: Final = "**********"
_FLAG: Final = TypeAdapter(bool)


@dataclass(frozen=True, slots=True)
class Target:
    """What is to be opened: every placeholder is filled. Equal where the same store is meant."""

    url: str = field(repr=False)
    settings: Settings

    def open(self, schema: Schema = OWN) -> ChunkedRunLogStore:
        """The store. Raises as `chunkstore.open` does."""
        return open_checked(self.url, self.settings, schema=schema)


@dataclass(frozen=True, slots=True)
class Configuration:
    """A store as a configuration has it, checked as far as that can be done before its placeholders are filled."""

    type: str
    keys: Mapping[str, object] = field(repr=False)
    """As they were given; those that are secret as `SecretStr`. Placeholders stand in them."""

    @property
    def where(self) -> str:
        """What the key says that names the place. There may be a password in it."""
        model = KEYS.get(self.type, UrlKeys)
        return _text(self.keys.get(model.where, model.model_fields[model.where].default))

    @property
    def shown(self) -> dict[str, object]:
        """The keys for people: a secret is stars, and so is what stands before the @ of a URL."""
        model = _model(self.type, self.keys)
        secret = secret_names(model) if model else frozenset()
        return {key: _shown(value, stars=key in secret) for key, value in self.keys.items()}

    @property
    def parallel_writes(self) -> bool:
        """Whether several processes may write at once, as far as the keys tell."""
        if self._flag("mock", default=False) or not self._flag("supports_parallel_writes", default=True):
            return False
        model = _model(self.type, self.keys)
        return model is None or not model.of_one_process

    def at(self, where: str) -> Configuration:
        """The same at another place: what the key says that names it."""
        return replace(self, keys={**self.keys, KEYS.get(self.type, UrlKeys).where: where})

    def target(self, find: Find = in_environment, *, folder: str = "") -> Target:
        """What is to be opened, with the secrets that `find` has; a relative folder is one of `folder`, if that is given.

        Raises `InvalidInputError` that names the secret that is missing and its key, or the key with a wrong value, and no value.
        """
        with _said_of(self.type):
            if _FLAG.validate_python(filled(self.keys.get("mock", False), "mock", find)):
                return Target(f"{self.type} {self.where}", self._mocked())
            settings = self._filled(find)
            url = settings.place_url()
            check_shown(url)
            if not isinstance(settings, settings_model(url)):
                raise InvalidInputError(
                    f"{settings.where}: a {scheme_of(url)} URL names no place of this type; take type {BY_URL} with the key url"
                )
            return Target(_anchored(url, folder), settings)

    def _filled(self, find: Find) -> PlaceKeys:
        """The keys with their secrets, as one checked value."""
        where = KEYS.get(self.type, UrlKeys).where
        given = {key: (filled_url if key == where else filled)(value, key, find) for key, value in self.keys.items()}
        model = _model(self.type, given)
        assert model is not None, "a URL that is filled has a scheme"
        _check_names(model, given)
        return checked(model, given)

    def _mocked(self) -> Settings:
        """The settings that count in memory too. Nothing is filled: in a trial, secrets may be missing."""
        general = {key: value for key, value in self.keys.items() if key in Settings.model_fields}
        known = {key: value for key, value in general.items() if not has_placeholder(value)}
        return checked(MemorySettings, {**known, "mock": True})

    def _flag(self, key: str, *, default: bool) -> bool:
        value = self.keys.get(key, default)
        return default if has_placeholder(value) else _FLAG.validate_python(value)


def configured(kind: str, keys: Mapping[str, object]) -> Configuration:
    """The configuration of a store by its type and keys; a key without a value (None) counts as not given.

    Raises `InvalidInputError` that names an unknown type or key and the nearest known one, a required key that is missing, and
    a value of the wrong sort. Values with placeholders are checked when these are filled. Nothing is opened.
    """
    require_type(kind)
    given = {key: value for key, value in keys.items() if value is not None}
    with _said_of(kind):
        model = check_keys(kind, given)
    secret = secret_names(model) if model else frozenset()
    return Configuration(kind, {key: _hidden(value) if key in secret else value for key, value in given.items()})


def check_keys(kind: str, given: Mapping[str, object]) -> type[PlaceKeys] | None:
    """What the keys of a type are; None where that hangs on a URL which is not filled yet. Raises as `configured` does."""
    model = _model(kind, given)
    if model is not None:
        _check_names(model, given)
        check_unfilled(model, given, {key for key, value in given.items() if has_placeholder(value)})
    if kind == BY_URL:
        check_shown(_text(given.get("url", "")).strip())
    return model


def _model(kind: str, keys: Mapping[str, object]) -> type[PlaceKeys] | None:
    """What checks the keys; None where that hangs on a URL which is not filled yet."""
    if kind != BY_URL:
        return KEYS[kind]
    url = keys.get("url", "runs/")
    if not isinstance(url, str) or not url:
        raise InvalidInputError(
            "url: it must be text: a folder such as 'runs/', 's3://bucket/prefix', or a database's URL", name="url"
        )
    return None if url.startswith("${") else url_keys(settings_model(url))


def _check_names(model: type[PlaceKeys], given: Mapping[str, object]) -> None:
    known = accepted(model)
    for key in given:
        if key not in known:
            raise InvalidInputError(unknown_setting(key, model, known), name=key)


def require_type(kind: object) -> None:
    """Raises `InvalidInputError` for what is no type of ours, with what to take instead."""
    if kind in TYPES:
        return
    if isinstance(kind, str) and kind in _OTHERS:
        text = f"type {kind!r} is a store of the pipeline tool's own; {_OTHERS[kind]}"
    else:
        text = f"there is no type {kind!r}; {hint(str(kind), TYPES)}"
    raise InvalidInputError(text, name=str(kind))


def _anchored(url: str, folder: str) -> str:
    """A relative folder as one of `folder`; so that it is the same wherever the process works by then."""
    if not folder:
        return url
    scheme, slashes, rest = url.partition(":///")
    if slashes and scheme.lower().startswith("sqlite") and rest and not rest.startswith(("/", ":", "file:")):
        return f"{scheme}:///{Path(folder, rest)}"
    return url if has_scheme(url) else os.path.normpath(Path(folder, os.path.expanduser(url)))  # noqa: PTH111  as `chunkstore.open` reads it


@contextmanager
def _said_of(kind: str) -> Iterator[None]:
    """What is wrong is said with the type whose keys these are."""
    try:
        yield
    except InvalidInputError as error:
        text, name = str(error), error.name
    except ValidationError:  # of a flag
        text, name = "mock: it must be true or false", "mock"
    else:
        return
    raise InvalidInputError(f"run log store of type {kind}: {text}", name=name)


def _text(value: object) -> str:
    return value.get_secret_value() if isinstance(value, SecretStr) else str(value)


def _hidden(value: object) -> object:
    return SecretStr(value) if isinstance(value, str) else value


def _shown(value: object, *, stars: bool) -> object:
    if stars or isinstance(value, SecretStr):
        return _STARS
    return without_password(value) if isinstance(value, str) else value


def without_password(url: str) -> str:
    """A URL without the user and password that may stand in it, or in its arguments."""
    return _SECRET_ARGUMENT.sub(rf"\1{_STARS}", _CREDENTIALS.sub(f"{_STARS}@", url))


def holds_password(url: str) -> bool:
    """Whether a password stands in a URL, or another secret in its arguments."""
    return _PASSWORD.search(url) is not None or any(found[2] for found in _SECRET_ARGUMENT.finditer(url))
