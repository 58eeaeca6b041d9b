"""A proxy before PostgreSQL that takes note of each statement on the wire, and can break connections at any of them.

    with SqlWire(server) as wire:
        backend = SqlBackend(wire.url(), ...)
        wire.statements                          # what was executed since `reset`, in order, of all connections
        wire.strike(3, "after")                  # the fourth from now is executed, its reply is lost with the connection
        wire.strike(0, "before", reset=True)     # the next one never arrives
        wire.strike(0, "hold")                   # it is executed, its reply never comes, the connection stays open
        wire.at_random(seed=1, rate=0.2)         # one of the first two, at so many of all statements
        wire.calm(); wire.struck                 # no more of it; how often it struck

With `pools=True` it tells its clients of a process that is none of the server's, as PgBouncer does.
It reads the frontend/backend protocol, version 3, without TLS: https://www.postgresql.org/docs/current/protocol.html.
"""

from __future__ import annotations

import contextlib
import io
import os
import random
import socket
import struct
import threading
from collections.abc import Iterator
from types import TracebackType
from typing import Final, Literal, Self

from databases import Postgres

When = Literal["before", "after", "hold"]

_ENCRYPTION: Final = (80877103, 80877104)
"""What a client asks first: whether the server speaks TLS, or GSSAPI. Ours says no to both."""

_CANCEL: Final = 80877102


class SqlWire:
    """Stands between clients and a server, in threads of its own."""

    def __init__(self, server: Postgres, *, pools: bool = False) -> None:
        self._server = server
        self.pools = pools
        self._listening = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listening.getsockname()[1]
        self._lock = threading.Lock()
        self._seen: list[str] = []
        self._strike: tuple[int, When, bool] | None = None
        self._chance: tuple[random.Random, float] | None = None
        self._open: set[socket.socket] = set()
        self._threads: list[threading.Thread] = []
        self.struck = 0
        self.connections = 0

    def url(self) -> str:
        """The server's connection string, by way of this proxy."""
        return self._server.url(port=self.port)

    @property
    def statements(self) -> tuple[str, ...]:
        """Each statement that clients sent since the last `reset`, its blanks made single."""
        with self._lock:
            return tuple(self._seen)

    def reset(self) -> None:
        """Forgets what passed."""
        with self._lock:
            self._seen.clear()

    def strike(self, at: int, when: When, *, reset: bool = False) -> None:
        """Breaks the connection that carries the statement behind so many; with a reset, or as if its end were gone."""
        with self._lock:
            self._strike = (at, when, reset)

    def at_random(self, seed: int, rate: float) -> None:
        """Breaks connections at such a share of all statements, before or after them."""
        with self._lock:
            self._chance = (random.Random(seed), rate)

    def calm(self) -> None:
        """Everything passes."""
        with self._lock:
            self._strike = self._chance = None

    def __enter__(self) -> Self:
        self._begin(self._accept)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        with self._lock:
            still = [*self._open]
        for end in still:
            _shut(end)
        for thread in self._threads:
            thread.join(30)

    def _begin(self, work: object, *arguments: object) -> None:
        thread = threading.Thread(target=work, args=arguments, daemon=True)  # type: ignore[arg-type]
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listening.accept()
                self._begin(self._connected, client)

    def _connected(self, client: socket.socket) -> None:
        with contextlib.suppress(OSError, EOFError), contextlib.ExitStack() as stack:
            stack.enter_context(self._watched(client))
            server = socket.create_connection((self._server.host, self._server.port), timeout=30)
            server.settimeout(None)
            stack.enter_context(self._watched(server))
            self.connections += 1
            _Connection(self, client, server).serve()

    @contextlib.contextmanager
    def _watched(self, end: socket.socket) -> Iterator[None]:
        """Closed at the latest when the proxy is left."""
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self._lock:
            self._open.add(end)
        try:
            yield
        finally:
            with self._lock:
                self._open.discard(end)
            end.close()

    def passes(self, statement: str) -> tuple[When, bool] | None:
        """Takes note of one; what shall happen to it."""
        with self._lock:
            self._seen.append(" ".join(statement.split()))
            found: tuple[When, bool] | None = None
            if self._strike is not None:
                left, when, reset = self._strike
                self._strike = (left - 1, when, reset) if left else None
                found = None if left else (when, reset)
            elif self._chance is not None:
                chance, rate = self._chance
                if chance.random() < rate:
                    found = ("before" if chance.random() < 0.3 else "after", chance.random() < 0.5)
            self.struck += found is not None
            return found


class _Connection:
    """One client's connection and the one to the server that belongs to it."""

    def __init__(self, wire: SqlWire, client: socket.socket, server: socket.socket) -> None:
        self._wire, self._client, self._server = wire, client, server
        self._from_client, self._from_server = client.makefile("rb"), server.makefile("rb")
        self._texts: dict[bytes, str] = {}
        self._bound: dict[bytes, bytes] = {}
        self._swallow: When | None = None
        self._reset = False

    def serve(self) -> None:
        """Until one of the two is gone, or struck."""
        if not self._greeted():
            return
        replies = threading.Thread(target=self._replies, daemon=True)
        replies.start()
        try:
            while True:
                kind, body = self._frame(self._from_client)
                if self._struck(kind, body):
                    return
                self._server.sendall(kind + struct.pack("!i", len(body) + 4) + body)
        except (OSError, EOFError, ValueError):
            _shut(self._server)
        finally:
            if self._swallow is None:
                _shut(self._server)
            replies.join(30)

    def _greeted(self) -> bool:
        """Whether the client goes on after what comes before the protocol proper."""
        while True:
            (length,) = struct.unpack("!i", _exactly(self._from_client, 4))
            body = _exactly(self._from_client, length - 4)
            (code,) = struct.unpack("!i", body[:4])
            if code in _ENCRYPTION:
                self._client.sendall(b"N")
                continue
            self._server.sendall(struct.pack("!i", length) + body)
            return code != _CANCEL

    def _struck(self, kind: bytes, body: bytes) -> bool:
        statement = self._statement(kind, body)
        verdict = None if statement is None else self._wire.passes(statement)
        if verdict is None:
            return False
        when, self._reset = verdict
        if when == "before":
            self._break()
            return True
        self._swallow = when
        return False

    def _statement(self, kind: bytes, body: bytes) -> str | None:
        """The text of the statement that this message executes."""
        if kind == b"Q":
            return body.rstrip(b"\0").decode()
        if kind == b"P":
            name, text, _ = body.split(b"\0", 2)
            self._texts[name] = text.decode()
        elif kind == b"B":
            portal, name, _ = body.split(b"\0", 2)
            self._bound[portal] = name
        elif kind == b"E":
            return self._texts[self._bound[body.split(b"\0", 1)[0]]]
        return None

    def _replies(self) -> None:
        with contextlib.suppress(OSError, EOFError, ValueError):
            while True:
                kind, body = self._frame(self._from_server)
                if kind == b"K" and self._wire.pools:
                    body = os.urandom(4) + body[4:]
                if self._swallow is None:
                    self._client.sendall(kind + struct.pack("!i", len(body) + 4) + body)
                elif kind == b"Z" and self._swallow == "after":  # all of it happened, to the end of the transaction
                    self._break()
                    return
        _shut(self._client)

    def _frame(self, source: io.BufferedReader) -> tuple[bytes, bytes]:
        kind = _exactly(source, 1)
        (length,) = struct.unpack("!i", _exactly(source, 4))
        return kind, _exactly(source, length - 4)

    def _break(self) -> None:
        if self._reset:
            self._client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self._client.shutdown(socket.SHUT_RD)  # or whoever reads would keep it from being closed
            os.close(self._client.detach())
        _shut(self._client)
        _shut(self._server)


def _exactly(source: io.BufferedReader, size: int) -> bytes:
    found = source.read(size)
    if len(found) < size:
        raise EOFError
    return found


def _shut(end: socket.socket) -> None:
    with contextlib.suppress(OSError):
        end.shutdown(socket.SHUT_RDWR)
