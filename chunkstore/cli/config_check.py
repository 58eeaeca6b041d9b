"""`chunkstore config check`: what the configuration says, where each setting came from, and what is wrong."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final, Literal

import typer
from pydantic import Field, SecretStr

from chunkstore.cli.configuration import ConfigFile, Place
from chunkstore.cli.documents import Document
from chunkstore.cli.opening import config_files, place_meant
from chunkstore.cli.options import JsonOption, StoreOption
from chunkstore.cli.output import Output
from chunkstore.config import checked_settings, open_backend, settings_model
from chunkstore.configuration import holds_password, without_password
from chunkstore.settings.checking import secret_names
from chunkstore.settings.placeholders import filled

_STARS: Final = "**********"
_OF_ENVIRONMENT: Final[Mapping[str, Sequence[str]]] = {
    "endpoint_url": ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"),
    "key": ("AWS_ACCESS_KEY_ID",),
    "secret": ("AWS_SECRET_ACCESS_KEY",),
    "token": ("AWS_SESSION_TOKEN",),
    "region": ("AWS_REGION", "AWS_DEFAULT_REGION"),
}
"""Where settings of S3 come from that are not given. An endpoint is shown as stars: it may have a password in it."""


class ShownSetting(Document):
    """One setting; a secret is stars, and null where there is none."""

    name: str
    value: Any
    source: str
    """`default`, or the file."""


class ShownStore(Document):
    """One named store."""

    name: str
    url: str
    """As the file has it; user and password are stars."""
    file: str


class Configuration(Document):
    """What `chunkstore config check --json` prints."""

    schema_id: Literal["chunkstore/config-check/1"] = Field(
        default="chunkstore/config-check/1", serialization_alias="schema"
    )
    files: list[str]
    """The configuration files that count, the nearest first."""
    stores: list[ShownStore]
    store: str
    """The place that is meant; empty where nothing says which."""
    name: str
    source: str
    """What says so: `--store`, `CHUNKSTORE_URL`, or the file."""
    settings: list[ShownSetting]
    warnings: list[str]


def check(
    file: Annotated[Path | None, typer.Argument(metavar="[FILE]", show_default=False, help="This file alone.")] = None,
    store: StoreOption = "",
    json: JsonOption = False,
) -> None:
    """Check the configuration: which files count, which store is meant and why, and where each setting came from.

    Nothing is sent to the store. Secrets are shown as stars.
    """
    output = Output(json=json)
    chosen = file or _from_environment()
    place, files = _meant(store, chosen)
    warnings = list(_warnings(files))
    settings = [] if place is None else list(_settings(place))
    found = Configuration(
        files=[str(each.path) for each in files],
        stores=list(_stores(files)),
        store="" if place is None else _location(place),
        name="" if place is None else place.name,
        source="" if place is None else place.source,
        settings=settings,
        warnings=warnings,
    )
    if json:
        output.document(found)
    else:
        _show(output, found)


def _from_environment() -> Path | None:
    given = os.environ.get("CHUNKSTORE_CONFIG")
    return Path(given) if given else None


def _meant(store: str, file: Path | None) -> tuple[Place | None, tuple[ConfigFile, ...]]:
    files = config_files(file)
    if not store and not any(each.store for each in files):
        return None, files
    return place_meant(store, file)[0], files


def _location(place: Place) -> str:
    """Where the place is. Raises `InvalidInputError` for one that cannot be opened; nothing is sent."""
    backend = open_backend(place.url, checked_settings(place.url, place.settings))
    try:
        return backend.place
    finally:
        backend.close()


def _settings(place: Place) -> Iterator[ShownSetting]:
    checked = checked_settings(place.url, place.settings)
    is_s3 = place.url.lower().startswith("s3:")
    for name in type(checked).model_fields:
        if name in place.settings:
            yield ShownSetting(name=name, value=_masked(getattr(checked, name)), source=_source(place, name))
        elif is_s3 and name in _OF_ENVIRONMENT:
            yield _of_environment(name)
        else:
            yield ShownSetting(name=name, value=_masked(getattr(checked, name)), source="default")


def _source(place: Place, name: str) -> str:
    return str(place.file) if place.file else f"CHUNKSTORE_{name.upper()}"


def _of_environment(name: str) -> ShownSetting:
    """What botocore finds where the setting is not given; there may be more in its profiles, which are not looked into."""
    for variable in _OF_ENVIRONMENT[name]:
        if os.environ.get(variable):
            value = os.environ[variable] if name == "region" else _STARS
            return ShownSetting(name=name, value=value, source=variable)
    return ShownSetting(name=name, value=None, source="default")


def _masked(value: object) -> object:
    if isinstance(value, SecretStr):
        return _STARS if value.get_secret_value() else None
    return value


def _stores(files: Iterable[ConfigFile]) -> Iterator[ShownStore]:
    for file in files:
        for name, table in file.stores.items():
            yield ShownStore(name=name, url=without_password(str(table["url"])), file=str(file.path))


def _warnings(files: Iterable[ConfigFile]) -> Iterator[str]:
    for file in files:
        secrets = [f"stores.{name}.{key}" for name, table in file.stores.items() for key in _secrets(table)]
        if secrets and os.name == "posix" and file.path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            yield f"{file.path} can be read by others and holds {', '.join(secrets)}: chmod 600 it"


def _secrets(table: Mapping[str, object]) -> Iterator[str]:
    secret = secret_names(settings_model(str(table["url"])))
    for key, value in table.items():
        written = filled(value, key, lambda _name: "")  # what a placeholder stands for is not in the file
        if holds_password(str(written)) if key == "url" else key in secret and written:
            yield key


def _show(output: Output, found: Configuration) -> None:
    for file in found.files:
        output.line(f"file  {file}")
    if not found.files:
        output.note("there is no configuration file; see `chunkstore config check --help`")
    if found.stores:
        output.line()
        output.table(("store", "url", "file"), [(each.name, each.url, each.file) for each in found.stores])
    if found.store:
        output.line()
        named = f" {found.name!r}," if found.name else ""
        output.line(f"meant is{named} {found.store} (from {found.source})")
        output.table(
            ("setting", "value", "from"), [(each.name, _text(each.value), each.source) for each in found.settings]
        )
    else:
        output.note('no store is meant: give --store, set CHUNKSTORE_URL, or write  store = "…"  into the file')
    for warning in found.warnings:
        output.warn(warning)


def _text(value: object) -> str:
    return "" if value is None else str(value)
