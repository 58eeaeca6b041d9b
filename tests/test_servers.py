"""What the other tests rely on: the servers' rules, and a proxy that counts exactly."""

from __future__ import annotations

import asyncio
import http.server
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

import pytest

import servers
from chunkstore.testing.proxy import CountingProxy, WireRequest
from servers import S3Server


def error_code(call: Any, **arguments: Any) -> str:
    """The S3 error code that a call ends with; empty when it succeeds."""
    from botocore.exceptions import ClientError

    try:
        call(**arguments)
    except ClientError as error:
        return str(error.response["Error"]["Code"])
    return ""


class TestServers:
    def test_each_gives_back_the_bytes_that_were_put(self, s3_server: S3Server) -> None:
        client, bucket = s3_server.client(), s3_server.new_bucket()
        client.put_object(Bucket=bucket, Key="run/step.a.json", Body=b"{}")
        assert client.get_object(Bucket=bucket, Key="run/step.a.json")["Body"].read() == b"{}"

    def test_no_two_buckets_are_the_same(self, s3_server: S3Server) -> None:
        assert s3_server.new_bucket() != s3_server.new_bucket()

    def test_a_bucket_made_after_a_listing_can_be_used(self, s3_server: S3Server) -> None:
        client = s3_server.client()
        client.list_buckets()
        bucket = s3_server.new_bucket()
        client.put_object(Bucket=bucket, Key="a", Body=b"1")
        assert [entry["Key"] for entry in client.list_objects_v2(Bucket=bucket)["Contents"]] == ["a"]

    def test_moto_and_minio_refuse_a_second_create(self, conditional_s3_server: S3Server) -> None:
        client, bucket = conditional_s3_server.client(), conditional_s3_server.new_bucket()
        create = {"Bucket": bucket, "Key": "a", "IfNoneMatch": "*"}
        assert error_code(client.put_object, Body=b"first", **create) == ""
        assert error_code(client.put_object, Body=b"second", **create) == "PreconditionFailed"
        assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"first"

    def test_moto_and_minio_refuse_an_update_of_an_old_version(self, conditional_s3_server: S3Server) -> None:
        client, bucket = conditional_s3_server.client(), conditional_s3_server.new_bucket()
        old = client.put_object(Bucket=bucket, Key="a", Body=b"1")["ETag"]
        update = {"Bucket": bucket, "Key": "a", "IfMatch": old}
        assert error_code(client.put_object, Body=b"2", **update) == ""
        assert error_code(client.put_object, Body=b"3", **update) == "PreconditionFailed"

    def test_rclone_ignores_conditions(self, rclone_server: S3Server) -> None:
        client, bucket = rclone_server.client(), rclone_server.new_bucket()
        client.put_object(Bucket=bucket, Key="a", Body=b"first")
        client.put_object(Bucket=bucket, Key="a", Body=b"second", IfNoneMatch="*")
        client.put_object(Bucket=bucket, Key="a", Body=b"third", IfMatch='"0123456789abcdef0123456789abcdef"')
        assert client.get_object(Bucket=bucket, Key="a")["Body"].read() == b"third"

    def test_rclone_and_minio_refuse_wrong_credentials(self, request: pytest.FixtureRequest) -> None:
        for name in ("rclone_server", "minio_server"):
            server: S3Server = request.getfixturevalue(name)
            stranger = S3Server("stranger", server.endpoint_url, server.key, "wrong")
            assert error_code(stranger.client().list_buckets) == "SignatureDoesNotMatch"

    def test_the_secret_is_not_in_the_repr(self) -> None:
        assert "hush" not in repr(S3Server("any", "http://127.0.0.1:1", "key", "hush"))


class TestStarting:
    def test_a_server_that_ends_at_once_is_reported_with_its_output(self, tmp_path: Path) -> None:
        def command(port: int) -> list[str]:
            return [sys.executable, "-c", "raise SystemExit('no such thing')"]

        with pytest.raises(RuntimeError, match="no such thing"), servers.running(command, tmp_path):
            pytest.fail("it never ran")

    def test_a_server_has_ended_when_the_block_has(self, tmp_path: Path) -> None:
        def command(port: int) -> list[str]:
            return [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)]

        with servers.running(command, tmp_path) as url:
            port = int(url.rpartition(":")[2])
            assert servers.ask(port, "/") == 200
        with pytest.raises(ConnectionRefusedError):
            servers.ask(port, "/")

    def test_a_missing_minio_is_named_with_the_next_step(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.delenv("CHUNKSTORE_MINIO", raising=False)
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("PATH", str(tmp_path))
        with pytest.raises(servers.ServerMissingError, match="minio get"):
            servers.find_minio()


class Echo(http.server.BaseHTTPRequestHandler):
    """Answers with what it received, in every framing that HTTP/1.1 has."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True

    def do_GET(self) -> None:
        self.reply(self.headers["Host"].encode())

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", "12345")
        self.end_headers()

    def do_DELETE(self) -> None:
        self.send_response(204)
        self.end_headers()

    def do_PUT(self) -> None:
        self.reply(self.received())

    def do_POST(self) -> None:
        """Reply in chunks."""
        body = self.received()
        self.send_response(200)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for part in (body[:1000], body[1000:]):
            if part:
                self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
        self.wfile.write(b"0\r\nX-Trailer: yes\r\n\r\n")

    def do_PATCH(self) -> None:
        """Reply without a length: the end of the connection ends the body."""
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.received())
        self.close_connection = True

    def do_ABORT(self) -> None:
        """Hang up without a reply."""
        self.close_connection = True

    def received(self) -> bytes:
        if length := self.headers["Content-Length"]:
            return self.rfile.read(int(length))
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def reply(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class EchoServer(http.server.ThreadingHTTPServer):
    request_queue_size = 256
    daemon_threads = True


@pytest.fixture(scope="module")
def echo() -> Iterator[str]:
    """The address of a server that answers with what it received."""
    with EchoServer(("127.0.0.1", 0), Echo) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def running_proxy(echo: str) -> Iterator[CountingProxy]:
    with CountingProxy(echo) as proxy:
        yield proxy


@pytest.fixture
def proxy(running_proxy: CountingProxy) -> CountingProxy:
    """A proxy before the echo server that has seen nothing yet."""
    running_proxy.reset()
    running_proxy.set_latency(0)
    return running_proxy


def address(proxy: CountingProxy) -> str:
    return proxy.url.removeprefix("http://")


@pytest.fixture
def connection(proxy: CountingProxy) -> Iterator[HTTPConnection]:
    """One client's connection through the proxy."""
    connection = HTTPConnection(address(proxy), timeout=20)
    yield connection
    connection.close()


def exchange(connection: HTTPConnection, method: str, target: str, body: Any = None) -> bytes:
    connection.request(method, target, body=body, encode_chunked=body is not None and not isinstance(body, bytes))
    return connection.getresponse().read()


class TestProxy:
    def test_the_host_header_passes_unchanged(self, proxy: CountingProxy, connection: HTTPConnection) -> None:
        assert exchange(connection, "GET", "/") == address(proxy).encode()

    def test_a_request_is_recorded_before_its_reply_is_seen(
        self, proxy: CountingProxy, connection: HTTPConnection
    ) -> None:
        for number in range(1, 200):
            exchange(connection, "GET", f"/a%2Fb/{number}?list-type=2&prefix=x%20y")
            assert len(proxy.requests) == number
        assert proxy.requests[-1] == WireRequest("GET", "/a%2Fb/199", "list-type=2&prefix=x%20y", 200)

    def test_reset_forgets(self, proxy: CountingProxy, connection: HTTPConnection) -> None:
        exchange(connection, "GET", "/")
        proxy.reset()
        assert proxy.requests == ()

    @pytest.mark.parametrize("size", [0, 1, 1000, 3_000_000])
    @pytest.mark.parametrize("method", ["PUT", "POST", "PATCH"])
    @pytest.mark.parametrize("chunked", [False, True], ids=["length", "chunked"])
    def test_bodies_pass_in_every_framing(
        self, method: str, chunked: bool, size: int, proxy: CountingProxy, connection: HTTPConnection
    ) -> None:
        body = os.urandom(size)
        sent = iter([body[: size // 2], body[size // 2 :]]) if chunked else body
        assert exchange(connection, method, "/", sent) == body
        assert exchange(connection, "GET", "/again") == address(proxy).encode()
        assert [(seen.method, seen.path) for seen in proxy.requests] == [(method, "/"), ("GET", "/again")]

    def test_replies_without_a_body_leave_the_connection_usable(
        self, proxy: CountingProxy, connection: HTTPConnection
    ) -> None:
        for method in ("HEAD", "DELETE", "HEAD", "GET"):
            exchange(connection, method, "/")
        assert [seen.status for seen in proxy.requests] == [200, 204, 200, 200]

    def test_a_request_without_a_reply_has_status_zero(self, proxy: CountingProxy, connection: HTTPConnection) -> None:
        with pytest.raises(ConnectionError):
            exchange(connection, "ABORT", "/")
        assert proxy.requests == (WireRequest("ABORT", "/", "", 0),)

    def test_expect_100_continue_is_answered_before_the_body_is_sent(self, proxy: CountingProxy) -> None:
        host, port = address(proxy).split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(b"PUT /a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
            assert client.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
            client.sendall(b"hello")
            reply = b""
            while not reply.endswith(b"hello"):
                reply += client.recv(1000)
        assert proxy.requests == (WireRequest("PUT", "/a", "", 200),)

    def test_all_requests_of_many_connections_are_counted(self, proxy: CountingProxy) -> None:
        def ask_ten_times(client: int) -> None:
            connection = HTTPConnection(address(proxy), timeout=20)
            for number in range(10):
                exchange(connection, "GET", f"/{client}/{number}")
            connection.close()

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(ask_ten_times, range(32)))
        expected = {f"/{client}/{number}" for client in range(32) for number in range(10)}
        assert len(proxy.requests) == 320
        assert {seen.path for seen in proxy.requests} == expected

    def test_latency_is_paid_by_each_request(self, proxy: CountingProxy, connection: HTTPConnection) -> None:
        proxy.set_latency(0.05)
        began = time.perf_counter()
        for _ in range(5):
            exchange(connection, "GET", "/")
        assert time.perf_counter() - began >= 0.25

    def test_latency_is_paid_by_all_at_the_same_time(self, proxy: CountingProxy) -> None:
        proxy.set_latency(0.5)

        async def ask() -> bytes:
            host, port = address(proxy).split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            reply = await reader.read()
            writer.close()
            await writer.wait_closed()
            return reply

        async def ask_at_once() -> list[bytes]:
            return await asyncio.gather(*(ask() for _ in range(40)))

        began = time.perf_counter()
        replies = asyncio.run(ask_at_once())
        taken = time.perf_counter() - began
        assert all(reply.startswith(b"HTTP/1.1 200") for reply in replies)
        assert len(proxy.requests) == 40
        assert 0.5 <= taken < 5  # one after the other they would take 20

    def test_signatures_hold_through_it(self, s3_server: S3Server) -> None:
        bucket = s3_server.new_bucket()
        with CountingProxy(s3_server.endpoint_url) as proxy:
            client = s3_server.through(proxy.url).client()
            client.put_object(Bucket=bucket, Key="a b/ü%.json", Body=b"x" * 100_000)
            assert client.get_object(Bucket=bucket, Key="a b/ü%.json")["Body"].read() == b"x" * 100_000
            client.list_objects_v2(Bucket=bucket, Prefix="a b/")
            assert [(seen.method, seen.status) for seen in proxy.requests] == [("PUT", 200), ("GET", 200), ("GET", 200)]
            assert proxy.requests[0].path == f"/{bucket}/a%20b/%C3%BC%25.json"
            assert "list-type=2" in proxy.requests[2].query

    def test_it_serves_a_forked_child_and_ends_with_its_owner(self, echo: str) -> None:
        with CountingProxy(echo) as proxy:
            child = multiprocessing.get_context("fork").Process(
                target=exchange, args=(HTTPConnection(address(proxy)), "GET", "/child")
            )
            child.start()
            child.join()
            assert [seen.path for seen in proxy.requests] == ["/child"]
            port = int(proxy.url.rpartition(":")[2])
        with pytest.raises(ConnectionRefusedError):
            servers.ask(port, "/")

    def test_it_ends_when_its_owner_is_killed(self, echo: str) -> None:
        owner_code = (
            "import sys, time; from chunkstore.testing.proxy import CountingProxy\n"
            "with CountingProxy(sys.argv[1]) as proxy: print(proxy.url, flush=True); time.sleep(600)"
        )
        with subprocess.Popen([sys.executable, "-c", owner_code, echo], stdout=subprocess.PIPE, text=True) as owner:
            assert owner.stdout is not None
            port = int(owner.stdout.readline().rpartition(":")[2])
            assert servers.ask(port, "/") == 200
            owner.send_signal(signal.SIGKILL)
        wait_until_refused(port)

    @pytest.mark.parametrize("url", ["https://127.0.0.1:1", "http://127.0.0.1", "127.0.0.1:9000"])
    def test_an_address_it_cannot_stand_before_is_refused(self, url: str) -> None:
        with pytest.raises(ValueError, match="http://host:port"):
            CountingProxy(url)

    def test_it_says_so_when_it_is_not_running(self) -> None:
        with pytest.raises(RuntimeError, match="context manager"):
            CountingProxy("http://127.0.0.1:1").reset()


def wait_until_refused(port: int) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            servers.ask(port, "/")
        except OSError:
            return
    pytest.fail(f"somebody still listens on port {port}")
