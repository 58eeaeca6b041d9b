"""Objects in an S3 bucket, at AWS, MinIO or any server that speaks its language, through s3fs.

Create and update are S3's own conditional writes. On a server that ignores conditions, which a probe finds out, they are
made safe between the processes of one host by lock files, and the backend says so.
"""

from __future__ import annotations

import asyncio
import builtins
import concurrent.futures
import contextlib
import functools
import hashlib
import importlib.util
import io
import logging
import os
import random
import threading
import weakref
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, NoReturn, TypeVar
from urllib.parse import urlsplit

import fsspec.asyn

from chunkstore import waiting
from chunkstore.backends import s3faults
from chunkstore.backends.contract import ANY, Blob, Condition, Entry, Guarantees
from chunkstore.backends.hostlock import HostLocks
from chunkstore.backends.probe import EXACT, Root, Verdict, probe, recall, remember
from chunkstore.backends.s3faults import Fault, StrangeReplyError, answer_of, fault_of
from chunkstore.errors import (
    BackendUnavailableError,
    ChunkStoreError,
    ConflictError,
    InvalidInputError,
    NotSupportedError,
    ObjectNotFoundError,
    StorageFullError,
    WriteStateUnknownError,
)
from chunkstore.process import NO_FORK, ProcessLocal

if TYPE_CHECKING:
    from s3fs import S3FileSystem

T = TypeVar("T")
Answer = dict[str, Any]
ConditionalWrites = Literal["auto", "require", "off"]

PAUSES: Final = (0.05, 0.2, 0.8)
"""Seconds before the second, third and fourth try of one request; each is jittered by half."""

CONNECT_TIMEOUT: Final = 5.0
READ_TIMEOUT: Final = 10.0
_GRACE: Final = 5.0
_SMALL: Final = 2**20
_CLOSING: Final = 2.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, slots=True)
class S3Settings:
    """Where the bucket is and how to talk to it. Empty texts mean: what botocore finds in its own configuration."""

    bucket: str
    prefix: str = ""
    endpoint_url: str = field(default="", repr=False)
    key: str = field(default="", repr=False)
    secret: str = field(default="", repr=False)
    token: str = field(default="", repr=False)
    region: str = ""
    profile: str = ""
    deadline: float = 30.0
    """Seconds that one operation may take, with all its tries."""
    max_connections: int = 64
    conditional_writes: ConditionalWrites = "auto"
    """`require` refuses a server that ignores conditions, `auto` falls back to locks of this host, `off` always does."""
    lock_folder: str = ""
    """Where these locks are; empty: in the user's cache folder, one folder for each root."""

    def __post_init__(self) -> None:
        """Refuses what cannot work, before anything is sent."""
        if not self.bucket or "/" in self.bucket:
            raise InvalidInputError(f"bucket must be the name of one bucket, not {self.bucket!r}")
        if self.endpoint_url and urlsplit(self.endpoint_url).scheme not in {"http", "https"}:
            raise InvalidInputError(f"endpoint_url must begin with http:// or https://: {masked(self.endpoint_url)!r}")
        if "@" in urlsplit(self.endpoint_url).netloc:
            raise InvalidInputError("endpoint_url holds credentials, which everybody would see: use key and secret")
        if bool(self.key) != bool(self.secret):
            raise InvalidInputError("key and secret come together: give both, or neither")
        if self.deadline <= 0 or self.max_connections < 1:
            raise InvalidInputError("deadline must be above 0 and max_connections at least 1")
        if self.conditional_writes not in {"auto", "require", "off"}:
            raise InvalidInputError(f"conditional_writes must be auto, require or off, not {self.conditional_writes!r}")

    @property
    def root(self) -> Root:
        """What tells this place from others."""
        return Root(masked(self.endpoint_url).rstrip("/").lower(), self.bucket, self.prefix.strip("/"))

    @property
    def place(self) -> str:
        """The place for people, without secrets."""
        url = f"s3://{self.root.bucket}/{self.root.prefix}".rstrip("/")
        return f"{url} at {masked(self.endpoint_url)}" if self.endpoint_url else url


@dataclass(frozen=True, slots=True)
class _Request:
    """What is asked for, for error messages and for the decision whether to repeat it."""

    verb: str
    key: str
    write: bool = False
    alone: bool = False
    """Can nobody else write the object meanwhile? Then a write can do no harm twice."""
    condition: Condition = ANY


class S3Backend:
    """Keys are objects under the prefix of a bucket; versions are ETags without their quotes.

    The versions of equal bytes are equal. Reads and deletes are tried up to four times within the deadline; a
    write is sent again only where the server was busy or never heard of it. The HTTP client itself repeats a
    request once when a kept connection turns out dead: the `ConflictError` of a put can be the echo of its own first try.
    """

    def __init__(
        self,
        *,
        bucket: str,
        prefix: str = "",
        endpoint_url: str = "",
        key: str = "",
        secret: str = "",
        token: str = "",
        region: str = "",
        profile: str = "",
        deadline: float = 30.0,
        max_connections: int = 64,
        conditional_writes: ConditionalWrites = "auto",
        lock_folder: str | os.PathLike[str] = "",
    ) -> None:
        if importlib.util.find_spec("s3fs") is None:
            raise NotSupportedError("s3fs is not installed, and S3 needs it: pip install 'chunkstore[s3]'")
        self.settings = settings = S3Settings(
            bucket=bucket,
            prefix=prefix,
            endpoint_url=endpoint_url,
            key=key,
            secret=secret,
            token=token,
            region=region,
            profile=profile,
            deadline=deadline,
            max_connections=max_connections,
            conditional_writes=conditional_writes,
            lock_folder=os.fspath(lock_folder),
        )
        self._server = _Server(settings)
        self._asking = ProcessLocal(threading.Lock)
        self._locks = HostLocks(settings.lock_folder or _lock_folder(settings.root), timeout=settings.deadline)

    def __repr__(self) -> str:
        return f"S3Backend({self.place!r}, conditional_writes={self.settings.conditional_writes!r})"

    def __reduce__(self) -> tuple[Callable[..., S3Backend], tuple[S3Settings, Verdict | None]]:
        return _unpickled, (self.settings, recall(self.settings.root))

    @property
    def place(self) -> str:
        """`s3://bucket/prefix`, and the endpoint where one was set."""
        return self.settings.place

    @property
    def concurrency(self) -> int:
        """As many requests at once as there are connections."""
        return self.settings.max_connections

    @property
    def asynchronous(self) -> bool:
        """Yes: requests, the probe and the locks of this host let an event loop run on."""
        return True

    @property
    def guarantees(self) -> Guarantees:
        """All, where the server honours conditions. Else those of lock files: nothing beyond this host is kept apart.

        Raises `BackendUnavailableError` where the probe may not write, and `NotSupportedError` where conditional writes
        are required and the server ignores them.
        """
        exact = self._honours_conditions()
        return Guarantees(
            conditional_create=True,
            conditional_update=True,
            across_processes=True,
            across_hosts=exact,
            atomic=exact,
            durable=True,
            conditional_delete=not exact or recall(self.settings.root) == "all",
        )

    def get(self, key: str) -> Blob:
        """The object. Raises `ObjectNotFoundError`. One request."""
        return self._server.get(key)

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, Blob]]:
        """The objects that are there, as they arrive; at most `max_connections` requests are under way at once.

        Whoever reads slowly makes the requests wait: at most four objects for each connection are held.
        """
        wanted = builtins.list(dict.fromkeys(keys))
        return self._server.stream(wanted) if wanted else iter(())

    def put(self, key: str, data: bytes, condition: Condition, *, barrier: bool = False) -> str:
        """Writes the whole object. What S3 has acknowledged is durable, so `barrier` adds nothing."""
        del barrier
        if self._honours_conditions():
            return self._server.put(key, data, condition)
        with self._locks.holding(key):
            if condition != ANY:
                self._check(key, condition)
            return self._server.put(key, data, ANY, alone=True)

    def delete(self, key: str, condition: Condition = ANY) -> None:
        """Removes the object; nothing happens where there is none. One request."""
        if self._honours_conditions():
            if condition != ANY and recall(self.settings.root) != "all":
                raise NotSupportedError(f"{self.place} does not honour conditions of deletes; {key!r} stays", key=key)
            self._server.delete(key, condition)
            return
        with self._locks.holding(key):
            if condition != ANY and self._server.version(key) not in {condition.version, ""}:
                raise _conflict(key, self.place)
            self._server.delete(key)

    def list(self, prefix: str) -> Iterator[Entry]:
        """The objects whose key starts with the prefix. One request per 1,000."""
        for page in self._server.pages(prefix, {}):
            for found in page.get("Contents", ()):
                key = found["Key"][len(self._server.under) :]
                # The marker that consoles make for an empty folder.
                if not key.endswith("/"):
                    yield Entry(key, _version_of(found), found["Size"])

    def folders(self) -> Iterator[str]:
        """The first parts of all keys. One request per 1,000."""
        for page in self._server.pages("", {"Delimiter": "/"}):
            for found in page.get("CommonPrefixes", ()):
                name = found["Prefix"][len(self._server.under) :].rstrip("/")
                if name and not name.startswith("."):
                    yield name

    def close(self) -> None:
        """Lets this process's connections go. They are made anew when the backend is used again."""
        self._server.close()

    def _honours_conditions(self) -> bool:
        """Are conditional writes the server's business? Otherwise every write takes the host's lock."""
        if self.settings.conditional_writes == "off":
            return False
        verdict = recall(self.settings.root) or self._probe()
        if verdict in EXACT:
            return True
        if self.settings.conditional_writes == "require":
            raise NotSupportedError(
                f"{self.place} does not honour conditional writes ({verdict}), and conditional_writes='require' was set. "
                "Use a server that does, or set 'auto': writers are then kept apart on one host only."
            )
        return False

    def _probe(self) -> Verdict:
        # Sixty-four threads that start together ask once.
        with waiting.holding(self._asking.get()):
            if (known := recall(self.settings.root)) is not None:
                return known
            try:
                verdict = probe(self._server)
            except WriteStateUnknownError as error:
                # Unknown is what became of the probe's object. What the caller wanted to write was never sent.
                raise BackendUnavailableError(
                    f"{self.place} could not be asked whether it honours conditional writes: {error}",
                    transient=True,
                    key=error.key,
                ) from error
            if remember(self.settings.root, verdict) and verdict not in EXACT:
                log.warning(
                    "%s does not honour conditional writes (%s): writers are kept apart by locks in %s, on this host only. "
                    "Write from one host, or use a server that honours them.",
                    self.place,
                    verdict,
                    self._locks.folder,
                )
            return verdict

    def _check(self, key: str, condition: Condition) -> None:
        """Raises `ConflictError` unless the condition holds; only under the key's lock does it keep holding."""
        now = self._server.version(key)
        if now != (condition.version if condition.kind == "unchanged" else ""):
            raise _conflict(key, self.place)


class _Server:
    """The bucket as it is, without locks: a request is tried again where that helps, and its failure is translated."""

    def __init__(self, settings: S3Settings) -> None:
        self.under = f"{settings.root.prefix}/" if settings.root.prefix else ""
        self._settings = settings
        self._session = ProcessLocal(functools.partial(_Session, settings))

    def get(self, key: str) -> Blob:
        return self._run(self._get(key))

    def put(self, key: str, data: bytes, condition: Condition, *, alone: bool = False) -> str:
        return self._run(self._put(_Request("write", key, write=True, alone=alone, condition=condition), data))

    def version(self, key: str) -> str:
        """The version of the object that is there, empty where there is none."""
        return self._run(self._version(key))

    def delete(self, key: str, condition: Condition = ANY) -> None:
        self._run(self._delete(_Request("delete", key, condition=condition)))

    def close(self) -> None:
        self._session.get().close()

    async def _get(self, key: str) -> Blob:
        async def once() -> Blob:
            answer = await self._call("get_object", Key=self.under + key)
            async with answer["Body"] as body:
                data = await body.read()
            if not (version := _version_of(answer)):
                raise StrangeReplyError(f"an object without a version, of {len(data)} bytes")
            return Blob(data, version)

        return await self._insist(_Request("read", key), once)

    async def _put(self, request: _Request, data: bytes) -> str:
        key, condition = request.key, request.condition
        headers = {"absent": {"IfNoneMatch": "*"}, "unchanged": {"IfMatch": f'"{condition.version}"'}, "any": {}}

        async def once() -> str:
            answer = await self._call("put_object", Key=self.under + key, Body=_body(data), **headers[condition.kind])
            return _version_of(answer)

        return await self._insist(request, once) or await self._found(key, data)

    async def _found(self, key: str, data: bytes) -> str:
        """The version of what was written, where the reply named none: a gateway may have said 200 and done nothing."""
        with contextlib.suppress(ObjectNotFoundError):
            found = await self._get(key)
            # Anything else is another writer's, whose version must not pass for ours: the next update would undo theirs.
            if found.data == data:
                return found.version
        raise WriteStateUnknownError(
            f"{self._settings.place} said that {key!r} was written, named no version, and holds something else. "
            "It may have been written: read it to know.",
            transient=True,
            key=key,
        )

    async def _version(self, key: str) -> str:
        async def once() -> str:
            return _version_of(await self._call("head_object", Key=self.under + key))

        try:
            return await self._insist(_Request("read", key), once)
        except ObjectNotFoundError:
            return ""

    async def _delete(self, request: _Request) -> None:
        key, condition = request.key, request.condition
        headers = {"IfMatch": f'"{condition.version}"'} if condition != ANY else {}

        async def once() -> None:
            await self._call("delete_object", Key=self.under + key, **headers)

        try:
            await self._insist(request, once)
        except ObjectNotFoundError:
            # Some servers say so; S3 does not.
            return

    def pages(self, prefix: str, query: dict[str, str]) -> Iterator[Answer]:
        query = {**query, "Prefix": self.under + prefix}
        while True:
            page = self._run(self._page(prefix, query))
            yield page
            if not page.get("IsTruncated"):
                return
            query = {**query, "ContinuationToken": page["NextContinuationToken"]}

    async def _page(self, prefix: str, query: dict[str, str]) -> Answer:
        async def once() -> Answer:
            answer = await self._call("list_objects_v2", **query)
            # A gateway's page, or an empty reply, is parsed to an empty listing: a run would seem to be gone.
            if "IsTruncated" not in answer:
                raise StrangeReplyError("no listing")
            return answer

        try:
            return await self._insist(_Request("list", prefix), once)
        except ObjectNotFoundError as error:
            # A listing has no key that could be missing: this server says 404 and means the bucket.
            raise self._failed(_Request("list", prefix), s3faults.NO_BUCKET, error, 1) from error

    def stream(self, keys: list[str]) -> Iterator[tuple[str, Blob]]:
        """The objects as they arrive. Its reader makes room for more."""
        at_once = min(self._settings.max_connections, len(keys))
        room = asyncio.Semaphore(4 * at_once)
        arrived: waiting.Arrivals[tuple[str, Blob | None] | Exception] = waiting.Arrivals()
        loop = self._ready_loop()
        running = asyncio.run_coroutine_threadsafe(self._fetch(keys, at_once, room, arrived), loop)

        def make_room(count: int) -> None:
            for _ in range(count):
                room.release()

        try:
            for number in range(1, len(keys) + 1):
                item = self._next(arrived)
                if number % at_once == 0:
                    loop.call_soon_threadsafe(make_room, at_once)
                key, blob = item
                if blob is not None:
                    yield key, blob
        finally:
            running.cancel()

    def _next(self, arrived: waiting.Arrivals[tuple[str, Blob | None] | Exception]) -> tuple[str, Blob | None]:
        try:
            item = arrived.get(self._settings.deadline + _GRACE)
        except TimeoutError:
            self._stuck()
        if isinstance(item, Exception):
            raise item
        return item

    async def _fetch(
        self,
        keys: list[str],
        at_once: int,
        room: asyncio.Semaphore,
        arrived: waiting.Arrivals[tuple[str, Blob | None] | Exception],
    ) -> None:
        todo = iter(keys)

        async def work() -> None:
            # All workers take from one iterator.
            for key in todo:
                await room.acquire()
                try:
                    arrived.put((key, await self._get(key)))
                except ObjectNotFoundError:
                    arrived.put((key, None))

        workers = [asyncio.ensure_future(work()) for _ in range(at_once)]
        try:
            await asyncio.gather(*workers)
        except Exception as error:  # noqa: BLE001 - it is raised where the objects are awaited.
            arrived.put(error)
        finally:
            for worker in workers:
                worker.cancel()

    async def _call(self, method: str, **arguments: Any) -> Answer:
        return await self._session.get().call(method, Bucket=self._settings.bucket, **arguments)

    async def _insist(self, request: _Request, once: Callable[[], Awaitable[T]]) -> T:
        """`once`, tried again where that can help and can do no harm, within the deadline."""
        log.debug("%s %r in %s", request.verb, request.key, self._settings.place)
        tries = 0
        last: Exception | None = None
        end = asyncio.get_running_loop().time() + self._settings.deadline
        try:
            async with asyncio.timeout(self._settings.deadline):
                while True:
                    tries += 1
                    try:
                        return await once()
                    except Exception as error:
                        fault = fault_of(error)
                        if fault is None:
                            raise
                        last = error
                        if tries > len(PAUSES) or not _may_repeat(request, fault):
                            raise self._failed(request, fault, error, tries) from error
                        pause = PAUSES[tries - 1] * random.uniform(0.5, 1.5)
                        # Waiting for the deadline would hide what failed behind "no answer in time".
                        if asyncio.get_running_loop().time() + pause >= end:
                            raise self._failed(request, fault, error, tries) from error
                    await asyncio.sleep(pause)
        except TimeoutError as error:
            raise self._failed(request, s3faults.LATE, last or error, tries) from (last or error)

    def _failed(self, request: _Request, fault: Fault, error: BaseException, tries: int) -> ChunkStoreError:
        """The table's fault as the contract's error."""
        key = request.key
        if fault is s3faults.CONDITION or (
            fault is s3faults.MISSING and request.write and request.condition.kind == "unchanged"
        ):
            return _conflict(key, self._settings.place)
        if fault is s3faults.MISSING:
            return ObjectNotFoundError(f"{self._settings.place} holds no object {key!r}. {fault.advice}", key=key)
        message = self._message(request, fault, error, tries)
        if fault is s3faults.UNSUPPORTED and request.condition != ANY:
            return NotSupportedError(message, key=key)
        if request.write and fault.landed:
            return WriteStateUnknownError(
                f"{message} It may have been written: read it to know.", transient=True, key=key
            )
        kind = StorageFullError if fault is s3faults.FULL else BackendUnavailableError
        return kind(message, transient=fault.transient, key=key)

    def _message(self, request: _Request, fault: Fault, error: BaseException, tries: int) -> str:
        said = f"after {self._settings.deadline:g} s" if fault is s3faults.LATE else answer_of(error)
        times = f", {tries} tries" if tries > 1 else ""
        return f"cannot {request.verb} {request.key!r} in {self._settings.place}: {fault.what} ({said}{times}). {fault.advice}"

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of the work on fsspec's loop, from whatever thread, also inside another running loop."""
        try:
            running = asyncio.run_coroutine_threadsafe(work, self._ready_loop())
        except BaseException:
            work.close()
            raise
        try:
            return waiting.result(running, self._settings.deadline + _GRACE)
        except concurrent.futures.TimeoutError:
            self._stuck()
        finally:
            # After Ctrl-C nobody waits for it.
            running.cancel()

    def _ready_loop(self) -> asyncio.AbstractEventLoop:
        waiting.value_of(self._session)
        return _loop()

    def _stuck(self) -> NoReturn:
        raise BackendUnavailableError(
            f"{self._settings.place} was not asked for {self._settings.deadline + _GRACE:g} s: something blocks fsspec's I/O thread. "
            "Look for blocking calls inside its coroutines.",
            transient=True,
        )


class _Session:
    """One process's connections, opened by the first request."""

    def __init__(self, settings: S3Settings) -> None:
        # Here, in the caller's thread: the import takes longer than many requests and would hold up the loop.
        # A child that was forked during it would wait for ever for the import lock that it inherits.
        with NO_FORK:
            import s3fs

        self._file_system = s3fs.S3FileSystem
        self._settings = settings
        self._opening = asyncio.Lock()
        self._open: list[S3FileSystem] = []
        weakref.finalize(self, _hang_up, os.getpid(), self._open)

    async def call(self, method: str, **arguments: Any) -> Answer:
        fs = self._open[0] if self._open else await self._opened()
        answer: Answer = await fs._call_s3(method, **arguments)  # noqa: SLF001 - `call_s3` is its blocking form.
        return answer

    async def _opened(self) -> S3FileSystem:
        async with self._opening:
            if not self._open:
                fs = self._file_system(**_options(self._settings))
                # Tries, not repetitions: 0 makes s3fs raise a TypeError instead of the error.
                fs.retries = 1
                await fs.set_session()
                self._open.append(fs)
            return self._open[0]

    def close(self) -> None:
        _hang_up(os.getpid(), self._open)


def _options(settings: S3Settings) -> dict[str, Any]:
    """What s3fs is made with."""
    from aiobotocore.session import AioSession

    session = AioSession(profile=settings.profile or None)
    # It holds what botocore knows about S3, some 0.1 s of parsing that each forked worker would repeat.
    session.register_component("data_loader", _service_models())
    return {
        "key": settings.key or None,
        "secret": settings.secret or None,
        "token": settings.token or None,
        "endpoint_url": settings.endpoint_url or None,
        "session": session,
        # Leaves loop and closing to us: s3fs's own finaliser talks to inherited sockets in a forked child.
        "asynchronous": True,
        "skip_instance_cache": True,
        # It would hide what others write.
        "use_listings_cache": False,
        "max_concurrency": 1,
        "client_kwargs": {"region_name": settings.region} if settings.region else {},
        "config_kwargs": {
            "max_pool_connections": settings.max_connections,
            "connect_timeout": min(CONNECT_TIMEOUT, settings.deadline),
            "read_timeout": min(READ_TIMEOUT, settings.deadline),
            # We repeat by ourselves: only here is it known what may be repeated and how much time is left.
            "retries": {"mode": "standard", "total_max_attempts": 1},
            # Older servers refuse the checksums that botocore adds by default.
            "request_checksum_calculation": "when_required",
            "response_checksum_validation": "when_required",
            **({"s3": {"addressing_style": "path"}} if settings.endpoint_url else {}),
        },
    }


@functools.cache
def _service_models() -> Any:
    from aiobotocore.session import AioSession

    return AioSession().get_component("data_loader")


def _hang_up(owner: int, open_now: list[S3FileSystem]) -> None:
    """Closes the connections, in the process that opened them."""
    if os.getpid() != owner or not open_now:
        return
    loop = fsspec.asyn.get_loop()
    closing = asyncio.run_coroutine_threadsafe(_close(open_now), loop)
    if _running_loop() is loop:
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


def _loop() -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop | None = fsspec.asyn.loop[0]
    if loop is None:
        # fsspec makes it under a lock, which a child that was forked meanwhile would find taken for ever.
        with NO_FORK:
            loop = fsspec.asyn.get_loop()
    if _running_loop() is loop:
        raise NotSupportedError(
            "chunkstore was called on fsspec's own I/O loop, which would wait for itself: use a thread"
        )
    return loop


def _running_loop() -> asyncio.AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _may_repeat(request: _Request, fault: Fault) -> bool:
    # Sent again blindly, a write could undo what somebody else wrote after it had landed.
    return fault.resend if request.write and not request.alone else fault.transient


def _conflict(key: str, place: str) -> ConflictError:
    return ConflictError(f"{key!r} in {place} is not as the condition says. {s3faults.CONDITION.advice}", key=key)


def _body(data: bytes) -> bytearray | io.BytesIO:
    # For bytes and files the client first asks whether it may send them (Expect: 100-continue), one round trip more.
    # Beyond a megabyte aiohttp warns of anything but a file.
    return bytearray(data) if len(data) <= _SMALL else io.BytesIO(data)


def _version_of(answer: Answer) -> str:
    # Servers differ in the quotes: rclone's listings have none.
    return str(answer.get("ETag", "")).strip('"')


def _lock_folder(root: Root) -> str:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.blake2b("\0".join(root).encode(), digest_size=16).hexdigest()
    return str(Path(cache, "chunkstore", "locks", name))


def masked(url: str) -> str:
    """A URL without the user and password that may stand in it."""
    parts = urlsplit(url)
    if "@" not in parts.netloc:
        return url
    return parts._replace(netloc=f"***@{parts.netloc.rpartition('@')[2]}").geturl()


def _unpickled(settings: S3Settings, verdict: Verdict | None) -> S3Backend:
    if verdict is not None:
        remember(settings.root, verdict)
    return S3Backend(**asdict(settings))
