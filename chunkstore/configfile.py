"""A configuration as a pipeline tool has it, in a mapping or a file of YAML, TOML or JSON, and the store that it means."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final, cast

from chunkstore.configuration import TYPES, Configuration, configured
from chunkstore.errors import InvalidInputError, NotSupportedError
from chunkstore.schema import OWN, Schema
from chunkstore.settings.checking import nearest_of
from chunkstore.settings.placeholders import Find, Secrets, finder, found_in, in_environment
from chunkstore.store import ChunkedRunLogStore

SPELLINGS: Final = ("run-log-store", "run_log_store", "run_log")
"""Under which key a configuration of more than a store has the store's."""


def read_configuration(source: str | os.PathLike[str] | Mapping[str, object]) -> Configuration:
    """The configuration of a store in a mapping or a file, as runnable and magnus have it: a `type`, and its keys under `config` or beside it.

    It stands under `run-log-store`, `run_log_store` or `run_log`, beside what else a pipeline tool has there (also under `defaults`, as
    in magnus-config.yaml), or alone. A file is YAML (extra `yaml`), TOML or JSON, by its suffix; relative folders in it are those of the
    working folder, as for the pipeline tools.

    Raises `InvalidInputError` that names the file and the key, and `NotSupportedError` without the extra.
    """
    if isinstance(source, Mapping):
        return _read(source)
    path = Path(source)
    tree = _parsed(path)
    try:
        return _read(tree)
    except InvalidInputError as error:
        text, name = str(error), error.name
    raise InvalidInputError(f"{path}: {text}", name=name)


def open_config(
    source: str | os.PathLike[str] | Mapping[str, object], *, schema: Schema = OWN, secrets: Secrets | None = None
) -> ChunkedRunLogStore:
    """The store of a configuration: of a mapping, or of a file as pipeline tools have it. See `docs/how-to/settings.md`.

    Each `${name}` in it is filled from `secrets`, a mapping or a function from names to texts, or else from the environment; `$$` is a dollar.
    Raises as `read_configuration` and `chunkstore.open` do.
    """
    return read_configuration(source).target(_finder(secrets)).open(schema)


def _read(tree: Mapping[str, object]) -> Configuration:
    section = _section(tree)
    keys = dict(section)
    kind = keys.pop("type", None)
    if kind is None:
        raise InvalidInputError(
            f"the type of the run log store is missing; it is one of {', '.join(TYPES)}", name="type"
        )
    if "config" in keys:
        inner = keys.pop("config")
        if keys:
            raise InvalidInputError(
                f"there are keys both under config and beside it ({', '.join(keys)}); put all under config",
                name=next(iter(keys)),
            )
        keys = dict(_mapping(inner or {}, "config"))
    return configured(cast(str, kind), keys)


def _section(tree: Mapping[str, object]) -> Mapping[str, object]:
    """The store's part of a configuration."""
    if "type" in tree:
        return tree
    there = [name for name in SPELLINGS if name in tree]
    if len(there) > 1:
        raise InvalidInputError(f"the store is configured twice: {' and '.join(there)}; leave one", name=there[0])
    if there:
        return _mapping(tree[there[0]], there[0])
    if "defaults" in tree:
        return _section(_mapping(tree["defaults"], "defaults"))
    near = next((near for key in tree if (near := nearest_of(str(key), SPELLINGS))), "")
    raise InvalidInputError(
        f"there is no {SPELLINGS[0]} in the configuration; "
        + (f"did you mean {near!r}?" if near else "give it a type and its keys"),
        name=SPELLINGS[0],
    )


def _mapping(value: object, key: str) -> Mapping[str, object]:
    if isinstance(value, Mapping) and all(isinstance(name, str) for name in value):
        return value
    raise InvalidInputError(f"{key}: it must be keys and their values", name=key)


def _parsed(path: Path) -> Mapping[str, object]:
    """What a file says. What is wrong with it is told without its text, which may hold secrets."""
    parse = _PARSERS.get(path.suffix.lower())
    if parse is None:
        raise InvalidInputError(f"{path}: its name must end in {', '.join(_PARSERS)}", name=str(path))
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise InvalidInputError(f"{path} cannot be read: {error.strerror}", name=str(path)) from error
    except UnicodeDecodeError:
        problem: str | None = "it is no UTF-8"
    else:
        tree, problem = parse(text)
        if isinstance(tree, Mapping):
            return tree
    raise InvalidInputError(f"{path}: {problem or 'it must be keys and their values'}", name=str(path))


def _json(text: str) -> tuple[object, str | None]:
    try:
        return json.loads(text), None
    except json.JSONDecodeError as error:
        return None, f"it is no JSON: {error.msg} in line {error.lineno}"


def _toml(text: str) -> tuple[object, str | None]:
    try:
        return tomllib.loads(text), None
    except tomllib.TOMLDecodeError as error:
        return None, f"it is no TOML: {error}"


def _yaml(text: str) -> tuple[object, str | None]:
    """By the library that runnable and magnus read it with, so that it means the same."""
    try:
        from ruamel.yaml import YAML
        from ruamel.yaml.error import MarkedYAMLError, YAMLError
    except ImportError as error:
        raise NotSupportedError(
            'a YAML file needs the extra yaml: pip install "chunkstore[yaml]"; TOML and JSON need none'
        ) from error
    try:
        return YAML(typ="safe", pure=True).load(text), None
    except MarkedYAMLError as error:
        line = f" in line {error.problem_mark.line + 1}" if error.problem_mark else ""
        return None, f"it is no YAML{line}"
    except YAMLError:
        return None, "it is no YAML"


_PARSERS: Final[Mapping[str, Callable[[str], tuple[object, str | None]]]] = {
    ".yaml": _yaml,
    ".yml": _yaml,
    ".toml": _toml,
    ".json": _json,
}


def _finder(secrets: Secrets | None) -> Find:
    return in_environment if secrets is None else finder(found_in(secrets), in_environment)
