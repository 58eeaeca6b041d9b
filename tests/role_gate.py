"""Stands before an S3 server that also gives roles' credentials (MinIO, moto), in a process of its own, and lets them run out in seconds.

    with role_gate(minio_server.endpoint_url, life=2.0) as gate:
        S3Backend(endpoint_url=gate.url, sts_endpoint_url=gate.url, role_arn=ROLE, key=…, secret=…, bucket=…)
        gate.tell(sts="503")         # STS answers so from now on; "" for as it should, "hang" for not at all
        gate.tell(revoke=True)       # the credentials that were given are refused from now on, although they seem to hold
        gate.seen()                  # {"sts": 2, "s3": 40, "refused": 1, "lives": 2, "asked": [{…the form of each call…}]}

Real servers sell no sessions under 15 minutes. The gate passes every request on as it came, so that a server which checks signatures and
tokens does so. Into the reply of STS it writes an earlier end, and it refuses what it saw given and knows to be over, as AWS does:
400 ExpiredToken, the token in the body. Requests without a token that was given through it are refused as well.
"""

from __future__ import annotations

import contextlib
import http.client
import http.server
import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

ROLE: Final = "arn:aws:iam::123456789012:role/writer"


class Gate:
    """The handle on a running gate."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._port = port

    def tell(self, **what: Any) -> None:
        """Changes `life`, `sts`, `revoke`."""
        self._ask("POST", json.dumps(what))

    def seen(self) -> dict[str, Any]:
        """What came so far."""
        found: dict[str, Any] = json.loads(self._ask("GET"))
        return found

    def _ask(self, method: str, body: str = "") -> bytes:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        try:
            connection.request(method, "/-/", body)
            return connection.getresponse().read()
        finally:
            connection.close()


@contextlib.contextmanager
def role_gate(upstream: str, *, life: float) -> Iterator[Gate]:
    """A gate before this server until the block ends; a role's credentials live for so many seconds."""
    command = [sys.executable, "-I", __file__, upstream, str(life), str(os.getpid())]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield Gate(int(process.stdout.readline()))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


# From here on: what runs in the gate's own process.


class _State:
    def __init__(self, upstream: str, life: float) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.told: dict[str, Any] = {"life": life, "sts": ""}
        self.ends: dict[str, float] = {}
        self.asked: list[dict[str, str]] = []
        self.s3 = self.refused = 0
        self.used: set[str] = set()
        self.lock = threading.Lock()

    def tell(self, what: dict[str, Any]) -> None:
        with self.lock:
            if what.pop("revoke", False):
                self.ends = dict.fromkeys(self.ends, 0.0)
            self.told.update(what)

    def seen(self) -> dict[str, Any]:
        with self.lock:
            return {
                "sts": len(self.asked),
                "s3": self.s3,
                "refused": self.refused,
                "lives": len(self.used),
                "asked": self.asked,
            }

    def refusal(self, token: str) -> tuple[int, str] | None:
        """Why a request with this token is not let in; it is counted."""
        with self.lock:
            self.s3 += 1
            end = self.ends.get(token)
            if end is not None and time.time() < end:
                self.used.add(token)
                return None
            self.refused += 1
            return (403, "AccessDenied") if end is None else (400, "ExpiredToken")

    def shortened(self, reply: str) -> str:
        """The reply of STS with its end brought nearer."""
        token = re.search("<SessionToken>(.*?)</SessionToken>", reply, re.DOTALL)
        if token is None:
            return reply
        with self.lock:
            end = datetime.now(UTC) + timedelta(seconds=self.told["life"])
            self.ends[token[1].strip()] = end.timestamp()
        return re.sub("<Expiration>.*?</Expiration>", f"<Expiration>{end.isoformat()}</Expiration>", reply)


class _Handler(http.server.BaseHTTPRequestHandler):
    state: _State
    protocol_version = "HTTP/1.1"
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def log_message(self, format: str, *args: object) -> None:
        """Nobody listens."""

    def handle_expect_100(self) -> bool:
        goes_on = super().handle_expect_100()
        self.wfile.flush()
        return goes_on

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.path == "/-/":
            if self.command == "POST":
                self.state.tell(json.loads(body))
            self.reply(200, {}, json.dumps(self.state.seen()).encode())
        elif self.command == "POST" and b"Action=" in body:
            self.sts(body)
        else:
            self.s3(body)

    do_GET = do_PUT = do_HEAD = do_DELETE = do_POST = serve  # noqa: N815 - the base class calls them so

    def sts(self, body: bytes) -> None:
        with self.state.lock:
            self.state.asked.append(dict(parse_qsl(body.decode())))
            told = self.state.told["sts"]
        if told == "hang":
            self.close_connection = True
            self.connection.recv(1)  # until the client gives up
        elif told:
            status, _, code = told.partition(" ")
            error = f"<ErrorResponse><Error><Type>Sender</Type><Code>{code or 'InternalFailure'}</Code><Message>as told</Message></Error></ErrorResponse>"
            self.reply(int(status), {}, error.encode())
        else:
            status, headers, reply = self.passed_on(body)
            self.reply(status, headers, self.state.shortened(reply.decode()).encode())

    def s3(self, body: bytes) -> None:
        token = self.headers.get("x-amz-security-token", "")
        if (refused := self.state.refusal(token)) is None:
            self.reply(*self.passed_on(body))
            return
        status, code = refused
        error = f"<Error><Code>{code}</Code><Message>as told</Message><Token-0>{token}</Token-0></Error>"
        self.reply(status, {}, b"" if self.command == "HEAD" else error.encode())

    def passed_on(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        connection = http.client.HTTPConnection(self.state.upstream, timeout=60)
        try:
            connection.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                if name.lower() != "expect":
                    connection.putheader(name, value)
            connection.endheaders(body)
            reply = connection.getresponse()
            data = reply.read()
            drop = {"connection", "transfer-encoding", "date", "server"}
            return reply.status, {name: value for name, value in reply.getheaders() if name.lower() not in drop}, data
        finally:
            connection.close()

    def reply(self, status: int, headers: dict[str, str], data: bytes) -> None:
        self.send_response(status)
        length = next((value for name, value in headers.items() if name.lower() == "content-length"), "0")
        for name, value in headers.items():
            if name.lower() != "content-length":
                self.send_header(name, value)
        if status not in {204, 304}:
            self.send_header("Content-Length", length if self.command == "HEAD" else str(len(data)))
        self.end_headers()
        self.wfile.write(data)


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has given up is no error."""


def _run(upstream: str, life: float, parent: int) -> None:
    handler = type("Handler", (_Handler,), {"state": _State(upstream, life)})
    server = _Listener(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    sys.stdout.write(f"{server.server_port}\n")
    sys.stdout.flush()
    while os.getppid() == parent:  # nobody tells a process that its parent was killed
        time.sleep(0.5)


if __name__ == "__main__":
    _run(sys.argv[1], float(sys.argv[2]), int(sys.argv[3]))
