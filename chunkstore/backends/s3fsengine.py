"""Requests to S3 through s3fs, one by one: each is sent once, and its failure comes as it is."""

from __future__ import annotations

import asyncio
import concurrent.futures
import io
import logging
import os
import weakref
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final

import fsspec.asyn

from chunkstore.backends.contract import Blob, Condition
from chunkstore.backends.s3credentials import Credentials, Provider, session_for
from chunkstore.backends.s3encryption import for_s3fs
from chunkstore.backends.s3faults import StrangeReplyError
from chunkstore.backends.s3listing import parsers
from chunkstore.backends.s3settings import S3Settings
from chunkstore.process import NO_FORK

if TYPE_CHECKING:
    from s3fs import S3FileSystem

Answer = dict[str, Any]

CONNECT_TIMEOUT: Final = 5.0
READ_TIMEOUT: Final = 10.0
_SMALL: Final = 2**20
_CLOSING: Final = 2.0

log = logging.getLogger(__name__)


class S3fsEngine:
    """One process's connections, opened by the first request."""

    name = "s3fs"

    def __init__(self, settings: S3Settings) -> None:
        # Here, in the caller's thread: the import takes longer than many requests and would hold up the loop.
        # A child that was forked during it would wait for ever for the import lock that it inherits.
        with NO_FORK:
            import s3fs

        self._file_system = s3fs.S3FileSystem
        self._settings = settings
        self.credentials = Credentials(settings)
        self._opening = asyncio.Lock()
        self._open: list[S3FileSystem] = []
        weakref.finalize(self, _hang_up, os.getpid(), self._open)

    async def opened(self) -> S3FileSystem:
        """The client, made by whoever asks first."""
        async with self._opening:
            if not self._open:
                # First of all, and by ourselves: here it is known what is missing, and why.
                await self.credentials.get_frozen_credentials()
                fs = self._file_system(**_options(self._settings, self.credentials))
                # Tries, not repetitions: 0 makes s3fs raise a TypeError instead of the error.
                fs.retries = 1
                await fs.set_session()
                self._open.append(fs)
            return self._open[0]

    async def get(self, key: str) -> Blob:
        answer = await self._call("get_object", Key=key)
        async with answer["Body"] as body:
            data = await body.read()
        if not (version := version_of(answer)):
            raise StrangeReplyError(f"an object without a version, of {len(data)} bytes")
        return Blob(data, version)

    async def version(self, key: str) -> str:
        return version_of(await self._call("head_object", Key=key))

    async def put(self, key: str, data: bytes, condition: Condition) -> str:
        return version_of(await self._call("put_object", Key=key, Body=_body(data), **_headers(condition)))

    async def delete(self, key: str, condition: Condition) -> None:
        await self._call("delete_object", Key=key, **_headers(condition))

    async def page(self, query: Mapping[str, str]) -> Answer:
        answer = await self._call("list_objects_v2", **query)
        # A gateway's page, or an empty reply, is parsed to an empty listing: a run would seem to be gone.
        if "IsTruncated" not in answer:
            raise StrangeReplyError("no listing")
        return answer

    def close(self) -> None:
        _hang_up(os.getpid(), self._open)

    async def _call(self, method: str, **arguments: Any) -> Answer:
        fs = self._open[0] if self._open else await self.opened()
        # `call_s3` is its blocking form.
        answer: Answer = await fs._call_s3(method, Bucket=self._settings.bucket, **arguments)  # noqa: SLF001
        return answer


def version_of(answer: Mapping[str, Any]) -> str:
    """The ETag of an answer, or of a line of a listing, without its quotes; empty where there is none."""
    # Servers differ in the quotes: rclone's listings have none.
    return str(answer.get("ETag", "")).strip('"')


def _headers(condition: Condition) -> dict[str, str]:
    if condition.kind == "absent":
        return {"IfNoneMatch": "*"}
    return {"IfMatch": f'"{condition.version}"'} if condition.kind == "unchanged" else {}


def _options(settings: S3Settings, credentials: Credentials) -> dict[str, Any]:
    """What s3fs is made with."""
    session = session_for(settings)
    session.register_component("credential_provider", Provider(credentials))
    session.register_component("response_parser_factory", parsers())
    return {
        "endpoint_url": settings.endpoint_url or None,
        "session": session,
        # Leaves loop and closing to us: s3fs's own finaliser talks to inherited sockets in a forked child.
        "asynchronous": True,
        "skip_instance_cache": True,
        # It would hide what others write.
        "use_listings_cache": False,
        "max_concurrency": 1,
        # Here and not at each call, which s3fs writes into its log, a customer's key included.
        "s3_additional_kwargs": for_s3fs(settings),
        "client_kwargs": {
            **({"region_name": settings.region} if settings.region else {}),
            **({"verify": settings.authority} if settings.authority else {}),
        },
        "config_kwargs": {
            "max_pool_connections": settings.max_connections,
            "connect_timeout": min(CONNECT_TIMEOUT, settings.deadline),
            "read_timeout": min(READ_TIMEOUT, settings.deadline),
            # We repeat by ourselves: only here is it known what may be repeated and how much time is left.
            "retries": {"mode": "standard", "total_max_attempts": 1},
            # Older servers refuse the checksums that botocore adds by default.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            **({"s3": {"addressing_style": style}} if (style := _style(settings)) else {}),
        },
    }


def _style(settings: S3Settings) -> str:
    """The `auto` of botocore would put the bucket before the name of any host: MinIO and its like know it by the path."""
    if settings.addressing_style == "auto":
        return "path" if settings.endpoint_url else ""
    return settings.addressing_style


def _hang_up(owner: int, open_now: list[S3FileSystem]) -> None:
    """Closes the connections, in the process that opened them."""
    if os.getpid() != owner or not open_now:
        return
    loop = fsspec.asyn.get_loop()
    closing = asyncio.run_coroutine_threadsafe(_close(open_now), loop)
    if running_loop() is loop:
        # The garbage collector may call from the loop's own thread, which cannot wait for itself.
        return
    try:
        closing.result(_CLOSING)
    except concurrent.futures.TimeoutError:
        log.warning("connections to S3 could not be closed within %g s", _CLOSING)


async def _close(open_now: list[S3FileSystem]) -> None:
    while open_now:
        client = await open_now.pop().get_s3()
        await client.close()


def _body(data: bytes) -> bytearray | io.BytesIO:
    # For bytes and files the client first asks whether it may send them (Expect: 100-continue), one round trip more.
    # Beyond a megabyte aiohttp warns of anything but a file.
    return bytearray(data) if len(data) <= _SMALL else io.BytesIO(data)


def running_loop() -> asyncio.AbstractEventLoop | None:
    """The loop that the caller runs on, if any."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None
