"""Objects in an S3 bucket, at AWS, MinIO or any server that speaks its language.

Create and update are S3's own conditional writes. On a server that ignores conditions, which a probe finds out, they are
made safe between the processes of one host by lock files, and the backend says so.
"""

from __future__ import annotations

import builtins
import hashlib
import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from chunkstore import waiting
from chunkstore.backends.contract import ANY, Blob, Condition, Entry, Guarantees
from chunkstore.backends.hostlock import HostLocks
from chunkstore.backends.probe import EXACT, Root, Verdict, probe, recall, remember
from chunkstore.backends.s3engine import require_engine
from chunkstore.backends.s3fsengine import version_of
from chunkstore.backends.s3server import Server, conflict
from chunkstore.backends.s3settings import ConditionalWrites, EngineName, S3Settings
from chunkstore.errors import BackendUnavailableError, NotSupportedError, WriteStateUnknownError
from chunkstore.process import ProcessLocal

__all__ = ["S3Backend", "S3Settings"]

log = logging.getLogger(__name__)


class S3Backend:
    """Keys are objects under the prefix of a bucket; versions are ETags without their quotes.

    The versions of equal bytes are equal. Reads and deletes are tried up to four times within the deadline; a
    write is sent again only where the server was busy or never heard of it. The HTTP client of s3fs itself repeats a
    request once when a kept connection turns out dead: the `ConflictError` of a put can be the echo of its own first try.

    Requests are sent by s3fs or obstore; see `s3engine`.
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
        max_connections: int = 20,
        conditional_writes: ConditionalWrites = "auto",
        lock_folder: str | os.PathLike[str] = "",
        engine: EngineName = "auto",
    ) -> None:
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
            engine=engine,
        )
        require_engine(settings)
        self._server = Server(settings)
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
    def engine(self) -> str:
        """What sends the requests of this process: `s3fs` or `obstore`."""
        return self._server.engine.name

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
                raise conflict(key, self.place)
            self._server.delete(key)

    def list(self, prefix: str) -> Iterator[Entry]:
        """The objects whose key starts with the prefix. One request per 1,000."""
        for page in self._server.pages(prefix, {}):
            for found in page.get("Contents", ()):
                key = found["Key"][len(self._server.under) :]
                # The marker that consoles make for an empty folder.
                if not key.endswith("/"):
                    yield Entry(key, version_of(found), found["Size"])

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
            raise conflict(key, self.place)


def _lock_folder(root: Root) -> str:
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    name = hashlib.blake2b("\0".join(root).encode(), digest_size=16).hexdigest()
    return str(Path(cache, "chunkstore", "locks", name))


def _unpickled(settings: S3Settings, verdict: Verdict | None) -> S3Backend:
    if verdict is not None:
        remember(settings.root, verdict)
    return S3Backend(**asdict(settings))
