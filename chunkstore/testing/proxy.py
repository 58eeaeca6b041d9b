"""A reverse proxy on loopback that counts HTTP requests on the wire and adds latency, to stand before an S3 server.

It runs in a process of its own, so that it takes no time from the client that it measures and survives a client that
forks. It speaks plain HTTP/1.1 and needs nothing beyond the standard library.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import subprocess
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final, Self
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from asyncio import StreamReader, StreamWriter
    from types import TracebackType

_BLOCK: Final = 256 * 1024
_START_DEADLINE: Final = 30.0
_STOP_DEADLINE: Final = 10.0

_LENGTH: Final = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)
_CHUNKED: Final = re.compile(rb"\r\ntransfer-encoding:[^\r]*\bchunked\b", re.IGNORECASE)
_CLOSE: Final = re.compile(rb"\r\nconnection:[^\r]*\bclose\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class WireRequest:
    """One request as it went over the wire, with the status of its reply (0: there was none)."""

    method: str
    path: str
    """Still percent-encoded, without the query."""

    query: str
    """What stood after the `?`, still percent-encoded."""

    status: int


class CountingProxy:
    """Stands between an S3 client and a server: `with CountingProxy("http://127.0.0.1:9000", latency=0.02) as proxy:`.

    Point the client at `proxy.url`. Every byte passes unchanged, the `Host` header too, so that signatures hold.
    `latency` is in seconds and is added before each reply, for all requests at the same time; a client that sends
    `Expect: 100-continue` pays it twice, as on a real link. Opening a connection costs nothing extra.
    """

    def __init__(self, upstream_url: str, *, latency: float = 0.0) -> None:
        """Remember where to; nothing starts yet. Raises `ValueError` for anything but `http://host:port`."""
        upstream = urlsplit(upstream_url)
        if upstream.scheme != "http" or upstream.hostname is None or upstream.port is None:
            msg = f"CountingProxy speaks plain HTTP to a host and port, not {upstream_url!r}: give http://host:port"
            raise ValueError(msg)
        self._command = [sys.executable, "-I", __file__, upstream.hostname, str(upstream.port), str(latency)]
        self._process: subprocess.Popen[str] | None = None
        self._port = 0

    def __enter__(self) -> Self:
        """Start the process and wait until it listens."""
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        try:
            self._port = int(self._read_line())
        except ValueError:
            self._stop()
            msg = "the proxy's process ended before it listened; its standard error says why"
            raise RuntimeError(msg) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """End the process; the requests seen so far are gone."""
        self._stop()

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def requests(self) -> tuple[WireRequest, ...]:
        """All requests since the start or the last `reset`, in the order of their replies.

        A request stands here before its client sees the reply.
        """
        return tuple(WireRequest(**seen) for seen in json.loads(self._ask("requests")))

    def reset(self) -> None:
        """Forget the requests seen so far."""
        self._ask("reset")

    def set_latency(self, latency: float) -> None:
        """From now on, add this many seconds before each reply."""
        self._ask(f"latency {latency}")

    def _ask(self, command: str) -> str:
        process = self._running()
        if process.stdin is not None:
            process.stdin.write(command + "\n")
            process.stdin.flush()
        return self._read_line()

    def _read_line(self) -> str:
        process = self._running()
        return process.stdout.readline() if process.stdout is not None else ""

    def _running(self) -> subprocess.Popen[str]:
        if self._process is None:
            msg = "the proxy is not running: use it as a context manager"
            raise RuntimeError(msg)
        return self._process

    def _stop(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        # Said in words: a forked child may hold the pipe open, so that closing it here would tell the proxy nothing.
        # The end of the pipe is its second sign, so that it never outlives a process that was killed.
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.communicate("stop\n", timeout=_STOP_DEADLINE)
        if process.poll() is None:
            process.kill()
            process.communicate()


# From here on: what runs in the proxy's own process.


class _HangupError(Exception):
    """One side closed its connection, or said something that is not HTTP."""


@dataclass(slots=True)
class _Wire:
    """What the connections of one proxy share."""

    host: str
    port: int
    latency: float
    seen: list[WireRequest]


@dataclass(slots=True)
class _Link:
    """A client's connection and the server's connection that belongs to it, one to one."""

    client: StreamReader
    to_client: StreamWriter
    server: StreamReader
    to_server: StreamWriter
    side: _ServerSide

    def close(self) -> None:
        self.to_server.close()
        self.to_client.close()


class _ServerSide(asyncio.StreamReaderProtocol):
    """The server's connection: when it ends between two requests, the client's ends too."""

    def __init__(self, server: StreamReader, to_client: StreamWriter) -> None:
        super().__init__(server)
        self._to_client = to_client
        self.idle = True

    def eof_received(self) -> bool | None:
        if self.idle:
            self._to_client.close()
        return super().eof_received()


async def _serve_connection(wire: _Wire, client: StreamReader, to_client: StreamWriter) -> None:
    try:
        link = await _connect(wire, client, to_client)
    except OSError:
        to_client.close()
        return
    try:
        while await _pass_request(wire, link):
            pass
    except (_HangupError, OSError):
        pass
    finally:
        link.close()


async def _connect(wire: _Wire, client: StreamReader, to_client: StreamWriter) -> _Link:
    loop = asyncio.get_running_loop()
    server = asyncio.StreamReader(limit=_BLOCK)
    transport, side = await loop.create_connection(lambda: _ServerSide(server, to_client), wire.host, wire.port)
    return _Link(client, to_client, server, asyncio.StreamWriter(transport, side, server, loop), side)


async def _pass_request(wire: _Wire, link: _Link) -> bool:
    """Pass one request and its reply; True when the connection may carry another."""
    link.side.idle = True
    head = await _read_head(link.client)
    link.side.idle = False
    link.to_server.write(head)
    # Beside the reply, not before it: with `Expect: 100-continue` the body comes only after an interim reply.
    sending = asyncio.ensure_future(_pass_request_body(head, link)) if _has_body(head) else None
    try:
        reply = await _pass_reply(wire, link, *_request_line(head))
        if _CLOSE.search(reply):
            return False
        if sending is not None:
            await sending
    finally:
        if sending is not None:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)
    return not (_CLOSE.search(head) or link.server.at_eof())


async def _pass_request_body(head: bytes, link: _Link) -> None:
    try:
        await _pass_body(head, link.client, link.to_server)
    except (_HangupError, OSError):
        # The server would wait for the rest for ever, and so would whoever waits for its reply.
        link.to_server.close()
        raise


async def _pass_reply(wire: _Wire, link: _Link, method: str, target: str) -> bytes:
    """Pass the interim replies and the final one; its head."""
    path, _, query = target.partition("?")
    while True:
        try:
            head = await _read_head(link.server)
        except (_HangupError, OSError):
            wire.seen.append(WireRequest(method, path, query, 0))
            raise
        status = int(head[9:12])
        if wire.latency:
            await asyncio.sleep(wire.latency)
        if status >= 200:
            wire.seen.append(WireRequest(method, path, query, status))
            break
        link.to_client.write(head)
    link.to_client.write(head)
    if method != "HEAD" and status not in {204, 304}:
        await _pass_reply_body(head, link.server, link.to_client)
    await link.to_client.drain()
    return head


async def _pass_reply_body(head: bytes, source: StreamReader, target: StreamWriter) -> None:
    if _has_body(head):
        await _pass_body(head, source, target)
    elif not _LENGTH.search(head):
        # Neither a length nor chunks: the body ends where the connection does.
        while block := await source.read(_BLOCK):
            target.write(block)
            await target.drain()
        raise _HangupError


def _request_line(head: bytes) -> tuple[str, str]:
    parts = head[: head.index(b"\r\n")].decode("latin-1").split(" ")
    if len(parts) != 3:
        raise _HangupError
    return parts[0], parts[1]


def _has_body(head: bytes) -> bool:
    length = _LENGTH.search(head)
    return bool(_CHUNKED.search(head)) or (length is not None and int(length[1]) > 0)


async def _pass_body(head: bytes, source: StreamReader, target: StreamWriter) -> None:
    if _CHUNKED.search(head):
        await _pass_chunks(source, target)
    elif length := _LENGTH.search(head):
        await _pass_exactly(int(length[1]), source, target)


async def _pass_chunks(source: StreamReader, target: StreamWriter) -> None:
    while True:
        line = await _read_until(source, b"\r\n")
        target.write(line)
        size = int(line.split(b";")[0], 16)
        if size == 0:
            break
        await _pass_exactly(size + len(b"\r\n"), source, target)
    while line != b"\r\n":  # trailers, then an empty line
        line = await _read_until(source, b"\r\n")
        target.write(line)


async def _pass_exactly(count: int, source: StreamReader, target: StreamWriter) -> None:
    while count:
        block = await source.read(min(count, _BLOCK))
        if not block:
            raise _HangupError
        target.write(block)
        await target.drain()
        count -= len(block)


async def _read_head(source: StreamReader) -> bytes:
    return await _read_until(source, b"\r\n\r\n")


async def _read_until(source: StreamReader, mark: bytes) -> bytes:
    try:
        return await source.readuntil(mark)
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError):
        raise _HangupError from None


async def _obey(wire: _Wire, commands: StreamReader) -> None:
    """Answer the parent's commands, one line each, until it says anything else or closes the pipe."""
    while line := (await commands.readline()).decode().strip():
        match line.split():
            case ["requests"]:
                _say(json.dumps([asdict(request) for request in wire.seen]))
            case ["reset"]:
                wire.seen.clear()
                _say("ok")
            case ["latency", seconds]:
                wire.latency = float(seconds)
                _say("ok")
            case _:
                return


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def _run(host: str, port: int, latency: float) -> None:
    wire = _Wire(host, port, latency, [])
    commands = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)

    async def connected(client: StreamReader, to_client: StreamWriter) -> None:
        with contextlib.suppress(asyncio.CancelledError):  # the proxy was told to end, and asyncio would print it
            await _serve_connection(wire, client, to_client)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, limit=_BLOCK, backlog=1024)
    _say(str(server.sockets[0].getsockname()[1]))
    await _obey(wire, commands)
    server.close()


if __name__ == "__main__":
    asyncio.run(_run(sys.argv[1], int(sys.argv[2]), float(sys.argv[3])))
