"""The configuration file: which stores there are by name, and which one is meant where none is given. Nothing is opened here.

store = "prod"                              # a name below, or a URL

[stores.prod]
url = "s3://bucket/runs"
endpoint_url = "http://127.0.0.1:9000"      # any setting of s3:// stores

[stores.here]
url = "runs/"                               # from the folder of this file
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from chunkstore.config import has_scheme
from chunkstore.configuration import BY_URL, check_keys
from chunkstore.environment import environment_settings
from chunkstore.errors import InvalidInputError, NotFoundError
from chunkstore.naming import nearest
from chunkstore.settings.placeholders import filled, filled_url, in_environment

FILE_NAME: Final = "chunkstore.toml"
_TOP: Final = ("store", "stores")
_PATHS: Final = ("lock_folder", "credentials_file", "ca_bundle")


@dataclass(frozen=True, slots=True)
class Place:
    """A store as it was named: where it is, its settings, and where the name came from."""

    url: str
    source: str
    """`--store`, `CHUNKSTORE_URL`, or the configuration file."""
    name: str = ""
    """Its name in the configuration file, if it was named so."""
    file: Path | None = None
    """The file that has the name."""
    settings: Mapping[str, object] = field(default_factory=dict, repr=False)
    """As they stand in the file. They may hold secrets."""


@dataclass(frozen=True, slots=True)
class ConfigFile:
    """One file, checked."""

    path: Path
    store: str
    stores: Mapping[str, Mapping[str, object]] = field(repr=False)


def find_files(given: Path | None, environment: Mapping[str, str] = os.environ) -> tuple[Path, ...]:
    """The files that count: the one given alone; else the nearest chunkstore.toml from here upwards, then the user's own."""
    if given is not None:
        if not given.is_file():
            raise NotFoundError(f"there is no configuration file {given}", name=str(given))
        return (given,)
    here = Path.cwd()
    near = next((file for folder in (here, *here.parents) if (file := folder / FILE_NAME).is_file()), None)
    return tuple(file for file in (near, _users_own(environment)) if file is not None and file.is_file())


def _users_own(environment: Mapping[str, str]) -> Path | None:
    folder = environment.get("XDG_CONFIG_HOME")
    try:
        return (Path(folder) if folder else Path.home() / ".config") / "chunkstore" / "config.toml"
    except RuntimeError:  # a user without a home
        return None


def read(path: Path) -> ConfigFile:
    """The file, all of it checked. Raises `InvalidInputError` that names file, key and the nearest known key, and no value."""
    tree = _parsed(path)
    for key in tree:
        if key not in _TOP:
            raise _wrong(path, key, f"there is no such key; {nearest(key, _TOP)}")
    store = tree.get("store", "")
    if not isinstance(store, str):
        raise _wrong(path, "store", "it must be text: a name of [stores.NAME], or a URL")
    stores = tree.get("stores", {})
    if not isinstance(stores, dict):
        raise _wrong(path, "stores", "it must be tables: [stores.NAME]")
    return ConfigFile(path, store, {name: _store(path, name, table) for name, table in stores.items()})


def _parsed(path: Path) -> dict[str, object]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}", name=str(path)) from error
    except UnicodeDecodeError:
        problem = "it is no UTF-8"
    except tomllib.TOMLDecodeError as error:
        problem = str(error)
    raise InvalidInputError(
        f"{path} is no TOML: {problem}", name=str(path)
    )  # without the context, which holds the text


def _store(path: Path, name: str, table: object) -> Mapping[str, object]:
    at = f"stores.{name}"
    if not isinstance(table, dict):
        raise _wrong(path, at, f"it must be a table: [{at}]")
    url = table.get("url")
    if not isinstance(url, str) or not url.strip():
        raise _wrong(path, f"{at}.url", "it is missing, or no text; give a folder or s3://bucket/prefix")
    problem = _problem(table)
    if problem:
        key, text = problem
        raise _wrong(path, f"{at}.{key}" if key else at, text)
    return table


def _problem(table: Mapping[str, object]) -> tuple[str, str] | None:
    """The key of what is wrong with a store, if it is one, and what; as text, since the error's context would hold the values."""
    try:
        check_keys(BY_URL, table)
    except InvalidInputError as error:
        return (error.name or "") if error.name in table else "", str(error)
    return None


def _wrong(path: Path, key: str, problem: str) -> InvalidInputError:
    return InvalidInputError(f"{path}: {key}: {problem}", name=key)


def place_of(store: str, files: Sequence[ConfigFile], source: str = "--store") -> Place:
    """The store that is meant: as given, else as the files say. Raises `InvalidInputError` where nobody says which."""
    if store:
        return _named(store, source, files) or Place(store, source, settings=_of_environment(store, source))
    for file in files:
        if file.store:
            found = _named(file.store, str(file.path), files)
            return found or Place(_from(file.path, file.store), str(file.path), file=file.path)
    raise InvalidInputError(
        "which store? Give --store (-s) with a folder, a URL (s3://bucket/prefix, sqlite:///runs.db) or a name, set CHUNKSTORE_URL, "
        f'or write  store = "…"  into {FILE_NAME}; `chunkstore demo` makes one to look at'
    )


def _of_environment(store: str, source: str) -> Mapping[str, object]:
    """The settings that stand beside `CHUNKSTORE_URL`; they are of the place that it names, and of no other."""
    return environment_settings(store) if source == "CHUNKSTORE_URL" else {}


def _named(store: str, source: str, files: Sequence[ConfigFile]) -> Place | None:
    for file in files:
        table = file.stores.get(store)
        if table is not None:
            url = _from(file.path, str(filled_url(table["url"], "url", in_environment)))
            settings = {key: _setting(file.path, key, value) for key, value in table.items() if key != "url"}
            return Place(url, source, store, file.path, settings)
    return None


def _setting(file: Path, key: str, given: object) -> object:
    value = filled(given, key, in_environment)
    return _from(file, value) if key in _PATHS and isinstance(value, str) and value else value


def _from(file: Path, url: str) -> str:
    """A path as seen from the folder of the file that has it, wherever the command runs."""
    if has_scheme(url) or url.startswith("~"):
        return url
    return str(file.resolve().parent / url)


def names(files: Sequence[ConfigFile]) -> Iterator[str]:
    """The names that stores have."""
    yield from dict.fromkeys(name for file in files for name in file.stores)
