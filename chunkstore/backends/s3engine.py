"""Which engine sends the requests to S3, and what an engine must do.

s3fs is always there. obstore takes a fraction of the CPU, where it is installed, able to do what the settings say, and safe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from chunkstore.backends.contract import Blob, Condition
from chunkstore.backends.s3fsengine import S3fsEngine
from chunkstore.backends.s3settings import S3Settings

Answer = dict[str, Any]


class Engine(Protocol):
    """One process's connections to a bucket; keys are whole. Each call is one request, which is sent once.

    What goes wrong comes as an exception that `s3faults.fault_of` knows. All calls are made on fsspec's loop.
    """

    @property
    def name(self) -> str:
        """What sends the requests."""
        ...

    async def opened(self) -> object:
        """Makes the client, if there is none yet: that takes time, and no request."""
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


def engine_for(settings: S3Settings) -> Engine:
    """The engine of this process."""
    return S3fsEngine(settings)
