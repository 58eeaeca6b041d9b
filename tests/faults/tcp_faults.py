"""A TCP proxy that cuts or holds up connections at any byte, before a real server; it knows no HTTP.

    with TcpFaults(server.endpoint_url) as tcp:
        backend = in_bucket(server.through(tcp.url), tmp_path)
        tcp.cut("reply", after=0)        # the next bytes that come from the server are swallowed, the connection is closed
        tcp.cut("request", after=700, reset=True)
        tcp.calm(); tcp.cuts             # no further cut; how many there were

It runs in a thread of its own. Positions count the bytes that pass, of all connections, from the moment they are set.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import weakref
from dataclasses import dataclass
from types import TracebackType
from typing import Final, Literal, Self
from urllib.parse import urlsplit

Way = Literal["request", "reply"]

_BLOCK: Final = 1 << 16


@dataclass(slots=True)
class _Cut:
    """Where the connection is to be cut that carries the byte."""

    way: Way
    after: int
    reset: bool
    times: int


class TcpFaults:
    """Stands between a client and `http://host:port`."""

    def __init__(self, upstream: str) -> None:
        parts = urlsplit(upstream)
        self._upstream = (parts.hostname, parts.port)
        self._cut: _Cut | None = None
        self._pause = 0.0
        self.cuts = 0
        self.port = 0
        self._loop = asyncio.new_event_loop()
        self._listening = threading.Event()
        self._ends: weakref.WeakSet[asyncio.StreamWriter] = weakref.WeakSet()
        self._thread = threading.Thread(target=self._run, daemon=True)

    @property
    def url(self) -> str:
        """Where clients connect to."""
        return f"http://127.0.0.1:{self.port}"

    def cut(self, way: Way, after: int, *, reset: bool = False, times: int = 1) -> None:
        """Cuts the connection that carries the byte behind so many; what comes before it passes. Then again, so many times."""
        self._cut = _Cut(way, after, reset, times)

    def delay(self, seconds: float) -> None:
        """Holds up each piece of every connection, both ways."""
        self._pause = seconds

    def calm(self) -> None:
        """Everything passes."""
        self._cut, self._pause = None, 0.0

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._listening.wait(30)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        server = self._loop.run_until_complete(asyncio.start_server(self._connected, "127.0.0.1", 0, backlog=256))
        self.port = server.sockets[0].getsockname()[1]
        self._listening.set()
        self._loop.run_forever()
        server.close()
        self._loop.run_until_complete(self._end())
        self._loop.close()

    async def _end(self) -> None:
        """Nothing is left open, wherever the connections stood: while they were made, or while they ended by themselves."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for end in self._ends:
            end.transport.abort()
        await asyncio.gather(*(end.wait_closed() for end in self._ends), return_exceptions=True)

    async def _connected(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        self._ends.add(to_client)
        server, to_server = await asyncio.open_connection(*self._upstream)
        self._ends.add(to_server)
        ends = (to_client, to_server)
        ways = [
            asyncio.ensure_future(self._pass("request", client, to_server, ends)),
            asyncio.ensure_future(self._pass("reply", server, to_client, ends)),
        ]
        with contextlib.suppress(asyncio.CancelledError):  # the test is over
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in ends:
            end.close()

    async def _pass(
        self,
        way: Way,
        source: asyncio.StreamReader,
        target: asyncio.StreamWriter,
        ends: tuple[asyncio.StreamWriter, ...],
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(_BLOCK):
                if self._pause:
                    await asyncio.sleep(self._pause)
                passing, reset = self._struck(way, data)
                target.write(data if passing is None else data[:passing])
                await target.drain()
                if passing is not None:
                    if reset:
                        _reset(ends)
                    return

    def _struck(self, way: Way, data: bytes) -> tuple[int | None, bool]:
        """How many of the bytes pass before the cut, None for all; and whether it is a reset."""
        cut = self._cut
        if cut is None or cut.way != way:
            return None, False
        if cut.after >= len(data):
            cut.after -= len(data)
            return None, False
        passing, cut.after = cut.after, 0
        self.cuts += 1
        cut.times -= 1
        if not cut.times:
            self._cut = None
        return passing, cut.reset


def _reset(ends: tuple[asyncio.StreamWriter, ...]) -> None:
    for end in ends:
        raw = end.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.transport.abort()
