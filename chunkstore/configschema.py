"""The JSON Schema of the keys of each type of a configuration, with what their source says of them."""

from __future__ import annotations

import ast
import inspect
import itertools
import re
import textwrap
from collections.abc import Iterator
from typing import Any

from pydantic import AliasChoices

from chunkstore.config import schemes
from chunkstore.configuration import BY_URL, require_type
from chunkstore.settings import Settings
from chunkstore.settings.configs import KEYS, PlaceKeys, url_keys


def json_schema(kind: str) -> dict[str, Any]:
    """The JSON Schema of the keys of a type. Raises `InvalidInputError` for an unknown type."""
    require_type(kind)
    head = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": kind}
    if kind != BY_URL:
        return {**head, **_described(KEYS[kind])}
    ways: dict[type[Settings], list[str]] = {}
    for scheme, model in schemes().items():
        ways.setdefault(model, []).append(scheme)
    return {**head, "oneOf": [_described_by_url(model, names) for model, names in ways.items()]}


def _described_by_url(model: type[Settings], names: list[str]) -> dict[str, Any]:
    described = _described(url_keys(model))
    pattern = f"^({'|'.join(re.escape(name) for name in names)}):"
    described["properties"]["url"]["pattern"] = (
        f"{pattern}|^(?![A-Za-z][A-Za-z0-9+.-]+:)" if "file" in names else pattern
    )
    return described


def _described(model: type[PlaceKeys]) -> dict[str, Any]:
    made = model.model_json_schema()
    meanings = _meanings(model)
    for name, info in model.model_fields.items():
        key = info.validation_alias.choices[0] if isinstance(info.validation_alias, AliasChoices) else name
        about = {"description": meanings[name]} if name in meanings else {}
        made["properties"][key] = {**about, **_or_placeholder(made["properties"][key])}
    del made["title"]
    return made


def _or_placeholder(described: dict[str, Any]) -> dict[str, Any]:
    """Any value may be a placeholder, also that of a number."""
    described.pop("title", None)
    if described.get("type") == "string" and "enum" not in described:
        return described
    default = {"default": described.pop("default")} if "default" in described else {}
    return {**default, "anyOf": [*described.pop("anyOf", [described]), {"type": "string", "pattern": r"\$\{[^{}$]+\}"}]}


def _meanings(model: type[PlaceKeys]) -> dict[str, str]:
    """What stands below each field in the source; the nearest class that says it counts."""
    found: dict[str, str] = {}
    for each in reversed(model.__mro__):
        if (
            issubclass(each, Settings)
            and each.__module__.startswith("chunkstore.settings")
            and "AndUrl" not in each.__name__
        ):
            (body,) = ast.parse(textwrap.dedent(inspect.getsource(each))).body
            assert isinstance(body, ast.ClassDef)
            found.update(_documented(body))
    return found


def _documented(body: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field_, text in itertools.pairwise(body.body):
        if isinstance(field_, ast.AnnAssign) and isinstance(text, ast.Expr) and isinstance(text.value, ast.Constant):
            yield ast.unparse(field_.target), inspect.cleandoc(str(text.value.value))
