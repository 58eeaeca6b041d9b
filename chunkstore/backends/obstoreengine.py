"""Requests to S3 through obstore, one by one, at a fraction of the CPU; what obstore cannot do exactly goes through s3fs.

That is: listings (obstore takes a gateway's page for an empty one, lists by whole parts of a key only, and fails at foreign
keys), deletes under a condition, and keys that it would change or refuse; and all, once a bucket turns out to be in another region
or its certificate to be one that only OpenSSL takes.
"""

from __future__ import annotations

import asyncio
import functools
import logging
import os
import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar
from urllib.parse import urlsplit

from chunkstore.backends.contract import ANY, Blob, Condition
from chunkstore.backends.foreignthreads import outlast_them
from chunkstore.backends.s3credentials import Credentials
from chunkstore.backends.s3encryption import for_obstore
from chunkstore.backends.s3faults import (
    ElsewhereError,
    StrangeReplyError,
    UnfitReplyError,
    UnnamedVersionError,
    UntrustedError,
    obstore_said,
)
from chunkstore.backends.s3fsengine import CONNECT_TIMEOUT, READ_TIMEOUT, Answer, S3fsEngine
from chunkstore.backends.s3settings import S3Settings
from chunkstore.errors import NotSupportedError
from chunkstore.process import NO_FORK

if TYPE_CHECKING:
    from obstore.store import S3Store

T = TypeVar("T")

_ALTERED: Final = re.compile(r"(?:^|/)\.{0,2}(?:/|$)|[\x00-\x1f\x7f]")
"""Keys that obstore refuses or sends in another form: with an empty part, `.` or `..`, or a control character."""

_ONLY_OBSTORE: Final = re.compile(
    "AWS_(SERVER_SIDE_ENCRYPTION|SSE_.+|CHECKSUM_ALGORITHM|SKIP_SIGNATURE|REQUEST_PAYER|S3_EXPRESS)", re.IGNORECASE
)
"""Variables of the environment that obstore obeys and botocore does not: with them the two would write different objects."""

_IDLE: Final = (
    12.0  # seconds, as aiohttp: servers hang up on what is kept for longer, and the write that meets it is lost
)
_LONGEST: Final = 86_400.0

log = logging.getLogger(__name__)


class ObstoreEngine:
    """One process's connections, opened by the first request. Where the bucket is and who may use it, botocore says.

    A process that was forked off one in which obstore was loaded must never come here: its first request would hang for ever.
    """

    def __init__(self, settings: S3Settings) -> None:
        # As in the other engine: an import lock must not be inherited.
        with NO_FORK:
            import obstore

        outlast_them()
        self._obstore = obstore
        self._settings = settings
        self._s3fs = S3fsEngine(settings)
        self._opening = asyncio.Lock()
        self._room = asyncio.Semaphore(settings.max_connections)
        self._client: _Client | None = None
        self._unfit = ""

    @property
    def name(self) -> str:
        """`s3fs`, where the first request has shown that obstore cannot do what is set."""
        return "s3fs" if self._unfit else "obstore"

    @property
    def credentials(self) -> Credentials:
        """Those that s3fs signs with."""
        return self._s3fs.credentials

    async def opened(self) -> object:
        """The client, made by whoever asks first, and anew when the credentials have changed; None where s3fs does all."""
        client = self._client
        if client is None or await self.credentials.get_frozen_credentials() != client.frozen:
            async with self._opening:
                client = self._client = await self._made(self._client)
        return client.store if client is not None else None

    async def get(self, key: str) -> Blob:
        async def once(store: S3Store) -> Blob:
            answer = await self._obstore.get_async(store, key)
            data = bytes(await answer.bytes_async())
            if not (version := _unquoted(answer.meta["e_tag"])):
                raise StrangeReplyError(f"an object without a version, of {len(data)} bytes")
            return Blob(data, version)

        return await self._either(key, once, functools.partial(self._s3fs.get, key))

    async def version(self, key: str) -> str:
        async def once(store: S3Store) -> str:
            return _unquoted((await self._obstore.head_async(store, key))["e_tag"])

        return await self._either(key, once, functools.partial(self._s3fs.version, key))

    async def put(self, key: str, data: bytes, condition: Condition) -> str:
        async def once(store: S3Store) -> str:
            done = await self._obstore.put_async(store, key, data, mode=_mode(condition), use_multipart=False)
            return _unquoted(done["e_tag"])

        try:
            return await self._either(key, once, functools.partial(self._s3fs.put, key, data, condition))
        except UnnamedVersionError:
            return ""

    async def delete(self, key: str, condition: Condition) -> None:
        async def once(store: S3Store) -> None:
            await self._obstore.delete_async(store, key)

        if condition != ANY:
            await self._s3fs.delete(key, condition)
        else:
            await self._either(key, once, functools.partial(self._s3fs.delete, key, condition))

    async def page(self, query: Mapping[str, str]) -> Answer:
        return await self._s3fs.page(query)

    def close(self) -> None:
        self._client = None
        self._s3fs.close()

    async def _either(
        self, key: str, native: Callable[[S3Store], Awaitable[T]], otherwise: Callable[[], Awaitable[T]]
    ) -> T:
        """The request through obstore, or through s3fs where obstore is not fit for it."""
        if self._unfit or _ALTERED.search(key):
            return await otherwise()
        store: Any = await self.opened()
        if store is None:
            return await otherwise()
        # The pool of connections has no bound of its own.
        async with self._room:
            try:
                return await native(store)
            except StrangeReplyError:
                raise
            except Exception as error:
                said = obstore_said(error, key)
                if said is error:
                    raise
        # Out here, where it has no context: obstore's own text repeats the endpoint and the whole reply, secrets and all.
        if not isinstance(said, ElsewhereError | UntrustedError | UnfitReplyError):
            raise said
        # Nothing was written. botocore follows a bucket to its region, and takes certificates and replies that obstore does not.
        self._give_way(str(said))
        return await otherwise()

    async def _made(self, old: _Client | None) -> _Client | None:
        fs = await self._s3fs.opened()
        frozen = await self.credentials.get_frozen_credentials()
        if old is not None and old.frozen == frozen:
            return old
        where = await _where(fs, self._settings)
        if isinstance(where, str):
            if self._settings.engine == "obstore":
                raise NotSupportedError(
                    f"obstore cannot be the engine for {self._settings.place}: {where}. Set engine to auto or s3fs."
                )
            self._give_way(where)
            return None
        with NO_FORK:
            from obstore.store import S3Store

        store = S3Store(
            self._settings.bucket,
            config=_config(self._settings, where, frozen),
            client_options=_options(self._settings, where),
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=1)},
        )
        return _Client(store, frozen)

    def _give_way(self, reason: str) -> None:
        log.debug("s3fs takes over for %s: %s", self._settings.place, reason)
        self._unfit = reason


@dataclass(frozen=True, slots=True, repr=False)
class _Client:
    """What sends, and the credentials that it was made with."""

    store: S3Store
    frozen: Any


@dataclass(frozen=True, slots=True)
class _Where:
    """What botocore found out about the place, in obstore's terms."""

    endpoint: str
    region: str
    in_host: bool
    """Does the bucket stand in the name of the host?"""
    authority: bytes


async def _where(fs: Any, settings: S3Settings) -> _Where | str:
    """The endpoint, the region and the style of addressing as botocore has them; or why obstore cannot go there."""
    bucket = settings.bucket
    client = await fs.get_s3()
    special = client.meta.config.s3 or {}
    if ":" in bucket or bucket.endswith("--x-s3") or special.get("use_accelerate_endpoint"):
        return "access points, directory buckets and accelerated endpoints are botocore's alone"
    if strangers := sorted(name for name in os.environ if _ONLY_OBSTORE.fullmatch(name)):
        return f"{', '.join(strangers)} in the environment would change what obstore writes, and only obstore"
    endpoint = str(client.meta.endpoint_url).rstrip("/")
    host = urlsplit(endpoint)
    shown = urlsplit(await client.generate_presigned_url("get_object", Params={"Bucket": bucket, "Key": "k"}))
    in_host = shown.path == f"{host.path}/k" and shown.netloc.startswith(f"{bucket}.")
    if not in_host and not shown.path.endswith(f"/{bucket}/k"):
        return "botocore addresses the bucket in a way that obstore does not know"
    if in_host:
        endpoint = host._replace(netloc=f"{bucket}.{host.netloc}").geturl()
    region = client.meta.region_name
    if region in {None, "aws-global"}:
        region = "us-east-1"
    authority = settings.authority or fs.session.get_config_variable("ca_bundle")
    return _Where(endpoint, region, in_host, _authority(authority))


def _authority(path: str | None) -> bytes:
    # Where it is missing or damaged, s3fs has said so before: it was made with it.
    return Path(path).read_bytes() if path else b""


def _config(settings: S3Settings, where: _Where, frozen: Any) -> Any:
    """All that the environment could say as well: obstore looks there for what is not given."""
    return {
        "access_key_id": frozen.access_key,
        "secret_access_key": frozen.secret_key,
        **({"session_token": frozen.token} if frozen.token else {}),
        "endpoint": where.endpoint,
        "aws_endpoint_url_s3": where.endpoint,
        "region": where.region,
        "virtual_hosted_style_request": where.in_host,
        "conditional_put": "etag",
        # Its own request for one object: not every server knows the one for many, and it answers 200 for what was refused.
        "disable_bulk_delete": True,
        "unsigned_payload": False,
        **for_obstore(settings),
    }


def _options(settings: S3Settings, where: _Where) -> Any:
    """The HTTP client's. A request ends with the deadline, which `s3server` holds; these are for a server that says nothing."""
    deadline = min(settings.deadline, _LONGEST)
    return {
        "connect_timeout": timedelta(seconds=min(CONNECT_TIMEOUT, deadline)),
        "read_timeout": timedelta(seconds=min(READ_TIMEOUT, deadline)),
        "timeout": timedelta(seconds=deadline),
        "pool_idle_timeout": timedelta(seconds=_IDLE),
        "pool_max_idle_per_host": str(settings.max_connections),
        "allow_http": where.endpoint.startswith("http:"),
        **({"root_certificate": where.authority} if where.authority else {}),
    }


def _mode(condition: Condition) -> Any:
    if condition.kind == "absent":
        return "create"
    return {"e_tag": f'"{condition.version}"'} if condition.kind == "unchanged" else "overwrite"


def _unquoted(version: str | None) -> str:
    return (version or "").strip('"')
