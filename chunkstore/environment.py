"""The store that the environment means: `CHUNKSTORE_URL`, and a variable for each setting."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from typing import Final

from chunkstore.config import open_store, settings_model, unknown_setting
from chunkstore.errors import InvalidInputError
from chunkstore.schema import OWN, Schema
from chunkstore.settings.checking import check_unfilled
from chunkstore.settings.placeholders import Secrets, has_placeholder
from chunkstore.store import ChunkedRunLogStore

_VARIABLE: Final = "CHUNKSTORE_"
_NO_SETTING: Final = re.compile(
    r"URL|CONFIG|COMPLETE|MINIO|REQUIRE_SERVERS|TEST_.*|SERVICE_(?:HOST|PORT).*|PORT(?:_.*)?"
)
"""Variables of the command line and of the tests, and what Kubernetes sets where a service is called chunkstore."""


def open_from_environment(*, schema: Schema = OWN, secrets: Secrets | None = None) -> ChunkedRunLogStore:
    """The store at `CHUNKSTORE_URL`, with each setting that a `CHUNKSTORE_<SETTING>` gives.

    Raises `InvalidInputError` that names the variable: where the URL is missing, and for one that is no setting of the place.
    """
    url = os.environ.get(f"{_VARIABLE}URL", "")
    if not url:
        raise InvalidInputError(
            "which store? Set CHUNKSTORE_URL to a folder, s3://bucket/prefix, or a database's URL",
            name="CHUNKSTORE_URL",
        )
    return open_store(url, schema=schema, secrets=secrets, **environment_settings(url))


def environment_settings(url: str, environment: Mapping[str, str] = os.environ) -> dict[str, object]:
    """The settings that the environment has for a place, each as `CHUNKSTORE_<SETTING>`; an empty one counts as not given.

    Raises `InvalidInputError` that names the variable that is no setting, or has a value of the wrong sort.
    """
    model = settings_model(url)
    given = dict(_given_by(environment))
    for name in given:
        if name not in model.model_fields:
            raise InvalidInputError(f"{_variable(name)}: {unknown_setting(name, model)}", name=_variable(name))
    check_unfilled(model, given, {name for name, value in given.items() if has_placeholder(value)}, called=_variable)
    return given


def _given_by(environment: Mapping[str, str]) -> Iterator[tuple[str, object]]:
    for variable, value in environment.items():
        name = variable.removeprefix(_VARIABLE)
        if variable.startswith(_VARIABLE) and value and not _NO_SETTING.fullmatch(name):
            yield name.lower(), value


def _variable(name: str) -> str:
    return f"{_VARIABLE}{name.upper()}"
