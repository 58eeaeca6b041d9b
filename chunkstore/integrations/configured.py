"""What the run log stores of all pipeline tools have alike: the keys of a configuration, the store that they open, the errors.

A tool's own models, methods and exceptions stand in a module of its own.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import lru_cache
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, PrivateAttr

from chunkstore.config import scheme_of
from chunkstore.configuration import BY_URL, Configuration, Target, configured, without_password
from chunkstore.errors import ChunkStoreError
from chunkstore.schema import OWN, Schema
from chunkstore.settings import Settings
from chunkstore.settings.placeholders import Find, finder, has_placeholder, in_environment
from chunkstore.store import ChunkedRunLogStore


@lru_cache(maxsize=32)
def _opened(target: Target, schema: Schema) -> ChunkedRunLogStore:
    """One store per process and configuration: a tool makes, unpickles or copies its own object for every branch."""
    return target.open(schema)


@dataclass
class _Opening:
    """A configuration, the folder that it was made in, and what they came to. In a pickle there are placeholders, not what they stand for."""

    configuration: Configuration
    folder: str
    target: Target | None = field(default=None, compare=False, repr=False)

    def __reduce__(self) -> tuple[type[_Opening], tuple[Configuration, str]]:
        return _Opening, (self.configuration, self.folder)

    def resolved(self, find: Find) -> Target:
        if self.target is None:
            self.target = self.configuration.target(find, folder=self.folder)
        return self.target


class Configured(BaseModel):
    """A store by its configuration, which a tool hands over as keywords.

    Nothing of a store is in it: tools print it, dump it and pickle it into worker processes. `url` and `configuration` are for people, and
    show no secret. What is wrong with the configuration is an `InvalidInputError` that names the key.

    Secrets are looked for when the store is used for the first time: before, a tool has no secrets manager.
    """

    model_config = ConfigDict(extra="forbid", frozen=False)

    type_name: ClassVar[str] = BY_URL
    """The type in the configuration, which says what the keys are."""
    schema_of_tool: ClassVar[Schema] = OWN

    service_name: str = "chunkstore"
    supports_parallel_writes: bool = True
    url: str
    """The place, as the configuration names it."""
    configuration: dict[str, Any]
    """Its keys."""

    _opening: _Opening = PrivateAttr()

    def __init__(self, **config: Any) -> None:
        checked = configured(self.type_name, config)
        # Tasks may change the folder that a process works in; the runs stay where they were begun.
        opening = _Opening(checked, os.getcwd())  # noqa: PTH109
        super().__init__(
            url=without_password(checked.where),
            configuration=checked.shown,
            supports_parallel_writes=checked.parallel_writes,
        )
        self._opening = opening

    @classmethod
    def find_secret(cls, _name: str) -> str | None:
        """What the tool's own secrets manager has under this name; None where it has none, or there is no run yet."""
        return None

    def target(self) -> Target:
        """The place and its settings, secrets filled. Raises `InvalidInputError` that names a secret which nobody has."""
        return self._opening.resolved(finder(self.find_secret, in_environment))

    @property
    def settings(self) -> Settings:
        """The settings of the store, secrets filled. Raises as `target` does."""
        return self.target().settings

    @property
    def scheme(self) -> str:
        """What sort of place it is: `file` for a folder, `memory`, `s3`; `memory` also for a trial with `mock`."""
        target = self.target()
        return "memory" if target.settings.mock else scheme_of(target.url)

    @property
    def store(self) -> ChunkedRunLogStore:
        """The store that all calls go to, with the tool's own models."""
        return _opened(self.target(), self.schema_of_tool)

    def move_to(self, where: str) -> None:
        """From now on the runs are there: another folder or URL, or what names the place for this type; the settings stay."""
        moved = self._opening.configuration.at(where)
        self._opening = replace(self._opening, configuration=moved, target=None)
        self.url = without_password(where)
        self.configuration = moved.shown


class InFolder(Configured):
    """A store of type `chunkstore-fs`. Executors of containers mount `log_folder`, and set it to where that is inside."""

    type_name: ClassVar[str] = "chunkstore-fs"

    # Runnable's executors mount the folder of a store with this name.
    service_name: str = "chunked-fs"

    @property
    def log_folder(self) -> str:
        """The folder of the runs, as it was given, or its placeholders filled; setting it moves the store there."""
        where = self._opening.configuration.where
        return self.target().url if has_placeholder(where) else where

    @log_folder.setter
    def log_folder(self, folder: str) -> None:
        self.move_to(folder)


@contextmanager
def raising(classes: Mapping[type[ChunkStoreError], Callable[[ChunkStoreError], Exception]]) -> Iterator[None]:
    """The border: a tool decides by its own exception classes whether a run, step or branch is new."""
    try:
        yield
    except tuple(classes) as error:
        raise classes[type(error)](error) from error
