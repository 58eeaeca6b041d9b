"""Which engine sends the requests to S3, and what an engine must do.

s3fs is always there. obstore takes a fraction of the CPU, where it is installed, able to do what the settings say, and safe.
"""

from __future__ import annotations

import functools
import importlib.metadata
import importlib.util
import logging
import os
import re
from collections.abc import Mapping
from dataclasses import astuple, replace
from typing import Final, Protocol

from chunkstore.backends.contract import Blob, Condition
from chunkstore.backends.obstoreengine import ObstoreEngine
from chunkstore.backends.s3credentials import Credentials
from chunkstore.backends.s3fsengine import Answer, S3fsEngine
from chunkstore.backends.s3settings import S3Settings
from chunkstore.backends.sharing import Share, Sharing
from chunkstore.errors import NotSupportedError
from chunkstore.process import ProcessLocal, was_inherited

OLDEST_OBSTORE: Final = (0, 12)
"""Older ones delete by a request that not every server knows."""

log = logging.getLogger(__name__)


class Engine(Protocol):
    """One process's connections to a bucket; keys are whole. Each call is one request, which is sent once.

    What goes wrong comes as an exception that `s3faults.fault_of` knows. All calls are made on fsspec's loop.
    """

    @property
    def name(self) -> str:
        """What sends the requests."""
        ...

    @property
    def credentials(self) -> Credentials:
        """What signs the requests."""
        ...

    async def opened(self) -> object:
        """Makes the client, if there is none yet: that takes time, and no request but those that credentials need."""
        ...

    async def get(self, key: str) -> Blob:
        """The object, whole and with its version."""
        ...

    async def version(self, key: str) -> str:
        """The version of the object that is there."""
        ...

    async def put(self, key: str, data: bytes, condition: Condition) -> str:
        """Writes the object under the condition. Its version, empty where the reply named none."""
        ...

    async def delete(self, key: str, condition: Condition) -> None:
        """Removes the object under the condition."""
        ...

    async def page(self, query: Mapping[str, str]) -> Answer:
        """One page of a listing, as botocore has it."""
        ...

    def close(self) -> None:
        """Lets the connections go."""
        ...


def require_engine(settings: S3Settings) -> None:
    """Raises `NotSupportedError` where what the setting names is not installed."""
    if importlib.util.find_spec("s3fs") is None:
        raise NotSupportedError(
            "s3fs is not installed, and S3 needs it, whatever the engine: pip install 'chunkstore[s3]'"
        )
    if settings.engine == "obstore" and not _has_obstore():
        oldest = ".".join(map(str, OLDEST_OBSTORE))
        raise NotSupportedError(
            f"engine is obstore, and obstore {oldest} or newer is not installed: pip install 'chunkstore[fast]'"
        )


def engine_for(settings: S3Settings) -> Engine:
    """The engine of this process. Nothing is sent."""
    if not _takes_obstore(settings):
        return S3fsEngine(settings)
    try:
        return ObstoreEngine(settings)
    except ImportError as error:
        if settings.engine == "obstore":
            raise NotSupportedError(f"engine is obstore, which is installed and cannot be loaded: {error}") from error
        log.warning("s3fs takes over from obstore, which is installed and cannot be loaded: %s", error)
        return S3fsEngine(settings)


def shared_engine(settings: S3Settings) -> Share[Engine]:
    """A share in the engine of this process for these settings, where the environment and botocore's files say the same. Nothing is sent."""
    connection = replace(settings, prefix="", conditional_writes="auto", lock_folder="")  # the rest is the backend's
    return _ENGINES.get().join((connection, _surroundings(connection)), functools.partial(engine_for, connection))


def leave_engine(share: Share[Engine]) -> None:
    """Gives a share back; the last one closes the connections."""
    _ENGINES.get().leave(share)


_ENGINES: Final[ProcessLocal[Sharing[Engine]]] = ProcessLocal(Sharing)

_OBEYED: Final = re.compile(r"AWS_.+|BOTO_CONFIG|HOME|(HTTPS?|ALL|NO)_PROXY|SSL_CERT_.+|\w+_CA_BUNDLE", re.IGNORECASE)
"""Variables that decide where an engine connects to and as whom."""


def _surroundings(settings: S3Settings) -> tuple[object, ...]:
    """What an engine finds out for itself: a store that is opened after a new login must not get the old one's credentials."""
    obeyed = sorted((name, value) for name, value in os.environ.items() if _OBEYED.fullmatch(name))
    named = [
        os.environ.get(text) for text in astuple(settings) if isinstance(text, str)
    ]  # settings that name a variable
    usual = {"AWS_CONFIG_FILE": "~/.aws/config", "AWS_SHARED_CREDENTIALS_FILE": "~/.aws/credentials"}
    files = [os.environ.get(name) or path for name, path in usual.items()]
    return (
        *obeyed,
        *named,
        *(_state_of(path) for path in [*files, settings.credentials_file, settings.ca_bundle] if path),
    )


def _state_of(path: str) -> tuple[int, ...]:
    try:
        found = os.stat(os.path.expanduser(path))
    except (OSError, ValueError):
        return ()
    return found.st_ino, found.st_size, found.st_mtime_ns


def _takes_obstore(settings: S3Settings) -> bool:
    if settings.engine == "s3fs":
        return False
    if was_inherited("obstore"):
        # Its threads stayed with the parent: the first request of a forked child would wait for them for ever.
        log.debug("s3fs takes over from obstore, which a forked process must not use")
        return False
    return settings.engine == "obstore" or _has_obstore()


@functools.cache
def _has_obstore() -> bool:
    if importlib.util.find_spec("obstore") is None:
        return False
    found = tuple(int(part) for part in re.findall(r"\d+", importlib.metadata.version("obstore"))[:2])
    return found >= OLDEST_OBSTORE
