"""The S3 backend passes the suite on three real servers, and keeps its word when a scripted server breaks its own."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import http.server
import importlib.util
import inspect
import itertools
import logging
import multiprocessing
import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from hashlib import md5
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

pytest.importorskip("s3fs")

import places
from chunkstore.backends import ANY, CREATE, FOUND, Backend, Blob, unchanged
from chunkstore.backends import s3faults as faults
from chunkstore.backends.probe import forget, recall, remember
from chunkstore.backends.s3 import S3Backend, S3Settings
from chunkstore.errors import (
    BackendUnavailableError,
    ConflictError,
    InvalidInputError,
    NotSupportedError,
    WriteStateUnknownError,
)
from chunkstore.testing import BackendSuite, Witness
from chunkstore.testing.proxy import CountingProxy
from servers import S3Server

KEY = "run/step.a.json"
needs_obstore = pytest.mark.skipif(importlib.util.find_spec("obstore") is None, reason="obstore is not installed")
SECRET = "the-secret-that-nobody-may-see"


# The shipped suite, on real servers.


def backend_on(server: S3Server, folder: Path, **settings: Any) -> S3Backend:
    """A backend on a bucket of its own, below a prefix."""
    settings = {"bucket": settings.pop("bucket", None) or server.new_bucket(), "prefix": "some/where"} | settings
    return S3Backend(
        endpoint_url=server.endpoint_url,
        key=server.key,
        secret=server.secret,
        region=server.region,
        lock_folder=folder / "locks",
        **settings,
    )


class BucketWitness:
    """A plain blocking client that knows neither s3fs nor us."""

    def __init__(self, server: S3Server, bucket: str, prefix: str) -> None:
        self._client = server.client()
        self._bucket = bucket
        self._under = f"{prefix}/" if prefix else ""

    def get(self, key: str) -> bytes | None:
        try:
            return bytes(self._client.get_object(Bucket=self._bucket, Key=self._under + key)["Body"].read())
        except self._client.exceptions.NoSuchKey:
            return None

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=self._under + key, Body=data)

    def keys(self) -> set[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(Bucket=self._bucket, Prefix=self._under)
        found = (entry["Key"] for page in pages for entry in page.get("Contents", ()))
        return {key.removeprefix(self._under) for key in found}

    def remove_folder(self, folder: str) -> None:
        raise NotImplementedError("a bucket has no folders")


class S3Suite(BackendSuite):
    secrets = (SECRET,)
    engine = "s3fs"
    # A round is many requests, each some milliseconds; a scale of 4 is what local disk has.
    rounds = 10

    @pytest.fixture
    def backend(self, server: S3Server, tmp_path: Path) -> Iterator[Backend]:
        backend = backend_on(server, tmp_path, engine=self.engine)
        yield backend
        backend.close()

    @pytest.fixture
    def elsewhere(self, server: S3Server, backend: S3Backend, tmp_path: Path) -> Iterator[Backend]:
        backend = backend_on(server, tmp_path / "other host", bucket=backend.settings.bucket, engine=self.engine)
        yield backend
        backend.close()

    @pytest.fixture
    def unreachable(self, tmp_path: Path) -> Iterator[Backend]:
        with contextlib.closing(nowhere(tmp_path, engine=self.engine)) as backend:
            yield backend

    @pytest.fixture
    def witness(self, server: S3Server, backend: S3Backend) -> Witness:
        return BucketWitness(server, backend.settings.bucket, backend.settings.prefix)


class MinioStandsForTheEngine(S3Suite):
    """What asks no server, and waits for nobody to answer, need not be tried beside each of them."""

    @pytest.fixture
    def unreachable(self) -> Backend:
        pytest.skip("no server is asked: the suite on MinIO shows it for each engine")


class TestS3OnMoto(MinioStandsForTheEngine):
    """moto looks at a condition and puts in two steps: it speaks S3, and cannot carry a race."""

    def _race(self, crew: str, racers: Sequence[Any], rounds: int) -> list[list[str]]:
        if len(racers) > 1:
            pytest.skip("moto checks a condition and puts in two steps, without a lock: MinIO carries the races")
        return super()._race(crew, racers, rounds)

    @pytest.mark.skipif(places.SCALE == 1, reason="at the full size only: MinIO and rclone page too, and moto is slow")
    def test_a_long_listing_is_complete(self, backend: Backend) -> None:
        super().test_a_long_listing_is_complete(backend)

    # It closes the first one's buffer before it has counted the digest for the reply.
    @pytest.mark.skip("moto answers 500 now and then where two puts of one key overlap: MinIO carries it")
    def test_where_it_is_asynchronous_calls_of_one_loop_never_wait_for_each_other_for_ever(
        self, backend: Backend
    ) -> None:
        super().test_where_it_is_asynchronous_calls_of_one_loop_never_wait_for_each_other_for_ever(backend)

    @pytest.fixture
    def server(self, moto_server: S3Server) -> S3Server:
        return moto_server


class TestS3OnMinio(S3Suite):
    @pytest.fixture
    def server(self, minio_server: S3Server) -> S3Server:
        return minio_server


class TestS3OnRclone(MinioStandsForTheEngine):
    """The server ignores conditions: all that is stated is held by locks of this host."""

    @pytest.fixture
    def server(self, rclone_server: S3Server) -> S3Server:
        return rclone_server


@needs_obstore
class TestObstoreOnMinio(TestS3OnMinio):
    engine = "obstore"


@needs_obstore
@pytest.mark.skipif(
    places.SCALE == 1,
    reason="at the full size only: MinIO stands for the engine, and the store's own tests use it on rclone",
)
class TestObstoreOnRclone(TestS3OnRclone):
    engine = "obstore"


@needs_obstore
@pytest.mark.skipif(places.SCALE == 1, reason="at the full size only: MinIO and rclone stand for it, and moto is slow")
class TestObstoreOnMoto(TestS3OnMoto):
    engine = "obstore"


def nowhere(folder: Path, **settings: Any) -> S3Backend:
    """A backend on a port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        port = taken.getsockname()[1]
    return S3Backend(
        bucket="bucket",
        endpoint_url=f"http://127.0.0.1:{port}",
        key="key",
        secret=SECRET,
        region="us-east-1",
        lock_folder=folder,
        **{"deadline": 3.0} | settings,
    )


# A small server that does as it is told.


class ScriptedServer:
    """S3 in memory with exact conditions. Each request takes the next word of the script, if there is one left:

    a status answers with it and does nothing; `after N` does the work and then answers N; `lost` does the work and hangs
    up; `hang` never answers; `slow` takes a while; `cut` sends half of the body.
    """

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.script: deque[str] = deque()
        self.requests: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.busy = self.most_busy = self.connections = 0
        self.lock = threading.Lock()
        self.over = threading.Event()
        handler = type("Handler", (_Handler,), {"told": self})
        self._http = _Listener(("127.0.0.1", 0), handler)
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._http.server_port}"

    def say(self, *words: str) -> None:
        self.script = deque(words)
        self.requests.clear()

    def close(self) -> None:
        self.over.set()
        self._http.shutdown()
        self._http.server_close()


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has given up is no error."""


class _Handler(http.server.BaseHTTPRequestHandler):
    told: ScriptedServer
    protocol_version = "HTTP/1.1"
    timeout = 30
    # A reply goes out once its request is counted as done: or the client's next one is there before.
    wbufsize = -1

    def setup(self) -> None:
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        with self.told.lock:
            self.told.connections += 1

    def handle_expect_100(self) -> bool:
        goes_on = super().handle_expect_100()
        self.wfile.flush()
        return goes_on

    def log_message(self, format: str, *args: object) -> None:
        """Nobody listens."""

    def serve(self) -> None:
        told = self.told
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        with told.lock:
            told.requests.append(self.command)
            told.headers.append(dict(self.headers))
            word = told.script.popleft() if told.script else ""
            told.busy += 1
            told.most_busy = max(told.most_busy, told.busy)
        try:
            self.play(word, body)
        finally:
            with told.lock:
                told.busy -= 1

    do_GET = do_PUT = do_HEAD = do_DELETE = serve  # noqa: N815 - the base class calls them so.

    def play(self, word: str, body: bytes) -> None:
        if word == "slow":
            self.told.over.wait(0.02)
            word = ""
        if word == "hang":
            self.told.over.wait(20)
            self.close_connection = True
            return
        if word and not word.startswith(("after", "lost", "cut")):
            status, _, code = word.partition(" ")
            self.reply(int(status), error(code))
            return
        with self.told.lock:
            status, headers, data = self.work(body)
        if word == "lost":
            self.close_connection = True
            self.connection.shutdown(socket.SHUT_RDWR)
        elif word.startswith("after"):
            self.reply(int(word.split()[1]), error("InternalError"))
        else:
            self.reply(status, data, headers, cut=word == "cut")

    def work(self, body: bytes) -> tuple[int, dict[str, str], bytes]:
        url = urlsplit(self.path)
        _, _bucket, *rest = unquote(url.path).split("/", 2)
        key = rest[0] if rest else ""
        objects = self.told.objects
        old = objects.get(key)
        if not key:
            return 200, {}, listing(objects, {name: values[0] for name, values in parse_qs(url.query).items()})
        if self.command == "PUT":
            return self.store(key, body)
        if self.command == "DELETE":
            objects.pop(key, None)
            return 204, {}, b""
        if old is None:
            return 404, {}, error("NoSuchKey")
        return 200, {"ETag": etag(old)}, old

    def store(self, key: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        old = self.told.objects.get(key)
        match = self.headers.get("If-Match")
        if match and old is None:
            return 404, {}, error("NoSuchKey")
        if old is not None and (self.headers.get("If-None-Match") or (match and match != etag(old))):
            return 412, {}, error("PreconditionFailed")
        self.told.objects[key] = body
        return 200, {"ETag": etag(body)}, b""

    def reply(self, status: int, data: bytes, headers: dict[str, str] | None = None, *, cut: bool = False) -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(data[: len(data) // 2] if cut else data)
        if cut:
            self.close_connection = True


def etag(data: bytes) -> str:
    return f'"{md5(data).hexdigest()}"'


def error(code: str) -> bytes:
    if not code:
        return b""
    return f"<Error><Code>{code}</Code><Message>as the script says</Message></Error>".encode()


def listing(objects: dict[str, bytes], query: dict[str, str]) -> bytes:
    found = sorted(key for key in objects if key.startswith(query.get("prefix", "")))
    start = int(query.get("continuation-token", "0"))
    page = found[start : start + 1000]
    more = start + 1000 < len(found)
    entries = "".join(
        f"<Contents><Key>{key}</Key><ETag>{etag(objects[key])}</ETag><Size>{len(objects[key])}</Size></Contents>"
        for key in page
    )
    token = f"<NextContinuationToken>{start + 1000}</NextContinuationToken>" if more else ""
    truncated = f"<IsTruncated>{str(more).lower()}</IsTruncated>"
    return f"<ListBucketResult>{truncated}{token}{entries}</ListBucketResult>".encode()


@pytest.fixture(scope="module")
def scripted() -> Iterator[ScriptedServer]:
    server = ScriptedServer()
    yield server
    server.close()


@pytest.fixture
def told(scripted: ScriptedServer) -> Iterator[ScriptedServer]:
    """The scripted server, with nothing to do yet."""
    scripted.objects.clear()
    scripted.headers.clear()
    scripted.connections = 0
    scripted.say()
    yield scripted
    scripted.say()


@pytest.fixture
def make(told: ScriptedServer, tmp_path: Path, engine: str) -> Iterator[Callable[..., S3Backend]]:
    """Makes backends on the scripted server whose probe is already answered."""
    made: list[S3Backend] = []

    def new(**settings: Any) -> S3Backend:
        settings = {"bucket": f"bucket-{uuid.uuid4().hex}", "deadline": 5.0, "engine": engine} | settings
        backend = S3Backend(
            endpoint_url=told.url, key="key", secret=SECRET, region="r", lock_folder=tmp_path / "locks", **settings
        )
        remember(backend.settings.root, "cas")
        made.append(backend)
        return backend

    yield new
    for backend in made:
        backend.close()


@pytest.fixture
def s3(make: Callable[..., S3Backend]) -> S3Backend:
    return make()


def test_each_verb_is_one_request(s3: S3Backend, told: ScriptedServer) -> None:
    version = s3.put(KEY, b"one", FOUND)
    version = s3.put(KEY, b"two", unchanged(version))
    assert s3.get(KEY) == Blob(b"two", version)
    assert [entry.version for entry in s3.list("run/")] == [version]
    s3.delete(KEY)
    s3.delete(KEY)
    assert told.requests == ["PUT", "PUT", "GET", "GET", "DELETE", "DELETE"]


def test_a_put_never_waits_for_a_go_ahead(s3: S3Backend, told: ScriptedServer) -> None:
    s3.put(KEY, b"one" * 300_000, ANY)
    assert "Expect" not in told.headers[0]


def test_many_gets_are_one_request_each_and_leave_out_what_is_missing(s3: S3Backend, told: ScriptedServer) -> None:
    keys = [f"run/step.{number}.json" for number in range(500)]
    told.objects.update({key: key.encode() for key in keys[::2]})
    found = dict(s3.get_many(iter(keys)))
    assert {key: blob.data for key, blob in found.items()} == {key: key.encode() for key in keys[::2]}
    assert told.requests == ["GET"] * 500


def test_no_more_requests_are_under_way_than_connections(make: Callable[..., S3Backend], told: ScriptedServer) -> None:
    s3 = make(max_connections=5)
    keys = [f"run/step.{number}.json" for number in range(200)]
    told.objects.update(dict.fromkeys(keys, b"x"))
    told.say(*["slow"] * 200)
    told.most_busy = 0
    assert len(dict(s3.get_many(keys))) == 200
    assert 1 < told.most_busy <= 5


def test_a_slow_reader_of_many_holds_up_the_requests(make: Callable[..., S3Backend], told: ScriptedServer) -> None:
    s3 = make(max_connections=5)
    keys = [f"run/step.{number}.json" for number in range(200)]
    told.objects.update(dict.fromkeys(keys, b"x"))
    arriving = s3.get_many(keys)
    next(arriving)
    until_still(lambda: len(told.requests))
    assert len(told.requests) <= 1 + 5 * 5
    assert sum(1 for _ in arriving) == 199


def test_a_reader_of_many_who_leaves_early_leaves_nothing_running(s3: S3Backend, told: ScriptedServer) -> None:
    told.objects.update({f"run/step.{number}.json": b"x" for number in range(2000)})
    arriving = s3.get_many(list(told.objects))
    next(arriving)
    arriving.close()
    until_still(lambda: len(told.requests))
    assert len(told.requests) < 2000
    assert s3.get("run/step.0.json").data == b"x"


def until_still(count: Callable[[], int]) -> None:
    """Waits until a count has not moved for a while."""
    last = -1
    while last != (last := count()):
        time.sleep(0.2)


@pytest.mark.parametrize("word", ["403 AccessDenied", "403", "500 InternalError"])
def test_a_failure_among_many_is_raised_and_never_taken_for_missing(
    s3: S3Backend, told: ScriptedServer, word: str
) -> None:
    told.objects.update({f"run/step.{number}.json": b"x" for number in range(50)})
    told.say(*[word] * 500)
    with pytest.raises(BackendUnavailableError):
        list(s3.get_many(list(told.objects)))


# Reads are tried again.


@pytest.mark.parametrize("word", ["500 InternalError", "503 SlowDown", "503", "502", "429", "lost", "cut"])
def test_a_read_that_fails_in_passing_is_tried_again(s3: S3Backend, told: ScriptedServer, word: str) -> None:
    told.objects[KEY] = b"some bytes that can be cut"
    told.say(word, word)
    assert s3.get(KEY).data == told.objects[KEY]
    told.say(word)
    assert [entry.key for entry in s3.list("run/")] == [KEY]
    told.say(word)
    assert dict(s3.get_many([KEY, "run/no.json"]))[KEY].data == told.objects[KEY]


def test_a_body_that_is_always_cut_is_an_error_and_never_half_an_object(s3: S3Backend, told: ScriptedServer) -> None:
    told.objects[KEY] = b"some bytes that can be cut"
    told.say(*["cut"] * 20)
    with pytest.raises(BackendUnavailableError) as caught:
        s3.get(KEY)
    assert caught.value.transient
    assert "4 tries" in str(caught.value)


def test_a_delete_that_fails_in_passing_is_tried_again(s3: S3Backend, told: ScriptedServer) -> None:
    told.objects[KEY] = b"x"
    told.say("500 InternalError", "lost")
    s3.delete(KEY)
    assert told.objects == {}


# Writes.


@pytest.mark.parametrize(
    "word", ["after 500", "after 502", "500 InternalError", "409 ConditionalRequestConflict", "409"]
)
@pytest.mark.parametrize("condition", [ANY, CREATE])
def test_a_write_whose_fate_is_open_says_so_and_is_sent_once(
    s3: S3Backend, told: ScriptedServer, word: str, condition: Any
) -> None:
    told.say(word)
    with pytest.raises(WriteStateUnknownError) as caught:
        s3.put(KEY, b"x", condition)
    assert caught.value.transient
    assert caught.value.key == KEY
    assert told.requests == ["PUT"]
    assert (KEY in told.objects) == word.startswith("after")


def test_the_http_client_of_s3fs_repeats_a_lost_put_and_its_echo_is_a_conflict(
    make: Callable[..., S3Backend], told: ScriptedServer
) -> None:
    # Not ours to prevent: callers read the object back and find their own write.
    s3 = make(engine="s3fs")
    told.objects["run/other.json"] = b"x"
    s3.get("run/other.json")
    told.say("lost")
    with pytest.raises(ConflictError):
        s3.put(KEY, b"x", CREATE)
    assert told.requests == ["PUT", "PUT"]
    assert told.objects[KEY] == b"x"


@needs_obstore
def test_the_http_client_of_obstore_sends_a_lost_put_once_and_says_that_nobody_knows(
    make: Callable[..., S3Backend], told: ScriptedServer
) -> None:
    s3 = make(engine="obstore")
    told.objects["run/other.json"] = b"x"
    s3.get("run/other.json")
    told.say("lost")
    with pytest.raises(WriteStateUnknownError):
        s3.put(KEY, b"x", CREATE)
    assert told.requests == ["PUT"]
    assert told.objects[KEY] == b"x"


def test_a_write_that_is_lost_twice_is_unknown(s3: S3Backend, told: ScriptedServer) -> None:
    told.say("lost", "lost", "lost")
    with pytest.raises(WriteStateUnknownError):
        s3.put(KEY, b"x", ANY)


@pytest.mark.parametrize("word", ["503 SlowDown", "429 TooManyRequests"])
def test_a_busy_server_is_asked_again_also_for_a_write(s3: S3Backend, told: ScriptedServer, word: str) -> None:
    told.say(word, word)
    version = s3.put(KEY, b"x", CREATE)
    assert s3.get(KEY).version == version


def test_a_server_that_stays_busy_is_a_transient_error(s3: S3Backend, told: ScriptedServer) -> None:
    told.say(*["503 SlowDown"] * 9)
    with pytest.raises(BackendUnavailableError) as caught:
        s3.put(KEY, b"x", CREATE)
    assert caught.value.transient
    assert len(told.requests) == 4


def test_an_update_of_a_missing_object_is_a_conflict(s3: S3Backend) -> None:
    with pytest.raises(ConflictError):
        s3.put(KEY, b"x", unchanged("0" * 32))


def test_a_condition_that_the_server_does_not_implement_is_not_supported(s3: S3Backend, told: ScriptedServer) -> None:
    told.say("501 NotImplemented")
    with pytest.raises(NotSupportedError):
        s3.put(KEY, b"x", CREATE)


def test_under_the_lock_of_this_host_a_write_may_be_sent_again(
    make: Callable[..., S3Backend], told: ScriptedServer
) -> None:
    s3 = make(conditional_writes="off")
    told.say("", "after 500")  # HEAD, then PUT
    version = s3.put(KEY, b"x", CREATE)
    assert told.requests == ["HEAD", "PUT", "PUT"]
    assert s3.get(KEY) == Blob(b"x", version)


# Errors name the thing, the place and the next step.


@pytest.mark.parametrize(
    ("word", "advice"),
    [
        ("403 AccessDenied", "access key"),
        ("403 InvalidAccessKeyId", "access key"),
        ("403 SignatureDoesNotMatch", "secret"),
        ("403", "access key"),
        ("404 NoSuchBucket", "Create the bucket"),
        ("400 AuthorizationHeaderMalformed", "region"),
        ("403 RequestTimeTooSkewed", "clock"),
    ],
)
def test_a_refusal_names_the_place_and_what_to_check(
    s3: S3Backend, told: ScriptedServer, word: str, advice: str
) -> None:
    verbs: dict[str, Callable[[], object]] = {
        "get": lambda: s3.get(KEY),
        "get_many": lambda: list(s3.get_many([KEY, "run/other.json"])),
        "put": lambda: s3.put(KEY, b"x", CREATE),
        "delete": lambda: s3.delete(KEY),
        "list": lambda: list(s3.list("run/")),
        "folders": lambda: list(s3.folders()),
    }
    for verb in verbs.values():
        told.say(*[word] * 9)
        with pytest.raises(BackendUnavailableError) as caught:
            verb()
        assert not caught.value.transient
        assert s3.settings.bucket in str(caught.value)
        assert told.url in str(caught.value)
        assert advice in str(caught.value)
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is not None
        assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_a_missing_bucket_is_named_by_every_server(s3_server: S3Server, tmp_path: Path) -> None:
    with contextlib.closing(backend_on(s3_server, tmp_path, bucket="no-such-bucket", conditional_writes="off")) as s3:
        for verb in (lambda: list(s3.list("run/")), lambda: s3.put(KEY, b"x", ANY), lambda: list(s3.folders())):
            with pytest.raises(BackendUnavailableError, match="no-such-bucket") as caught:
                verb()
            assert "Create the bucket" in str(caught.value)


def test_a_wrong_secret_is_a_refusal_that_does_not_show_it(
    conditional_s3_server: S3Server, minio_server: S3Server, tmp_path: Path
) -> None:
    settings = {"bucket": minio_server.new_bucket(), "endpoint_url": minio_server.endpoint_url, "region": "us-east-1"}
    s3 = S3Backend(key=minio_server.key, secret=SECRET, lock_folder=tmp_path, **settings)
    with contextlib.closing(s3):
        for verb in (lambda: s3.get(KEY), lambda: s3.put(KEY, b"x", CREATE), lambda: list(s3.list("run/"))):
            with pytest.raises(BackendUnavailableError, match="access was refused") as caught:
                verb()
            assert not caught.value.transient
            assert SECRET not in str(caught.value)


def test_no_credentials_at_all_says_where_to_put_them(
    told: ScriptedServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine: str
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE", "BOTO_CONFIG"):
        monkeypatch.setenv(name, os.devnull)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    s3 = S3Backend(bucket="bucket", endpoint_url=told.url, region="r", lock_folder=tmp_path, engine=engine)
    with contextlib.closing(s3), pytest.raises(BackendUnavailableError, match="no usable credentials") as caught:
        s3.get(KEY)
    assert not caught.value.transient


@pytest.mark.parametrize("verb", ["get", "put", "list"])
def test_a_server_that_hangs_is_given_up_within_the_deadline(
    make: Callable[..., S3Backend], told: ScriptedServer, verb: str
) -> None:
    s3 = make(deadline=1.0)
    told.say(*["hang"] * 50)
    call = {
        "get": lambda: s3.get(KEY),
        "put": lambda: s3.put(KEY, b"x", CREATE),
        "list": lambda: list(s3.list("run/")),
    }
    begin = time.monotonic()
    with pytest.raises(BackendUnavailableError) as caught:
        call[verb]()
    assert time.monotonic() - begin < 2.0
    assert caught.value.transient
    assert isinstance(caught.value, WriteStateUnknownError) == (verb == "put")
    assert "1 s" in str(caught.value)


def test_many_gets_of_a_server_that_hangs_end_within_the_deadline(
    make: Callable[..., S3Backend], told: ScriptedServer
) -> None:
    s3 = make(deadline=1.0)
    told.say(*["hang"] * 500)
    begin = time.monotonic()
    with pytest.raises(BackendUnavailableError):
        list(s3.get_many([f"run/step.{number}.json" for number in range(200)]))
    assert time.monotonic() - begin < 2.5


def test_a_refused_connection_is_transient_and_never_an_unknown_write(tmp_path: Path, engine: str) -> None:
    with contextlib.closing(nowhere(tmp_path, engine=engine)) as s3:
        begin = time.monotonic()
        with pytest.raises(BackendUnavailableError, match="cannot be reached") as caught:
            s3.put(KEY, b"x", CREATE)
        assert time.monotonic() - begin < 3.0
        assert caught.value.transient
        assert not isinstance(caught.value, WriteStateUnknownError)
        assert s3.settings.endpoint_url in str(caught.value)
        assert "4 tries" in str(caught.value)


def test_a_host_name_that_does_not_exist_ends_within_the_deadline(tmp_path: Path, engine: str) -> None:
    s3 = S3Backend(
        bucket="b",
        endpoint_url="http://nowhere.invalid:9",
        key="k",
        secret=SECRET,
        deadline=3,
        lock_folder=tmp_path,
        engine=engine,
    )
    begin = time.monotonic()
    with contextlib.closing(s3), pytest.raises(BackendUnavailableError) as caught:
        s3.get(KEY)
    assert time.monotonic() - begin < 4.0
    assert caught.value.transient


# The table.


def test_every_code_that_s3fs_knows_is_in_the_table_or_not_about_our_verbs() -> None:
    from s3fs.errors import ERROR_CODE_TO_EXCEPTION

    others = {
        "AmbiguousGrantByEmailAddress", "IllegalVersioningConfigurationException", "IncorrectNumberOfFilesInPostRequest",
        "MalformedACLError", "MalformedPOSTRequest", "MaxPostPreDataLengthExceededError", "MissingAttachment",
        "NoLoggingStatusForKey", "NoSuchBucketPolicy", "NoSuchLifecycleConfiguration", "NoSuchUpload",
        "RequestIsNotMultiPartContent", "RequestTorrentOfBucketError", "UnresolvableGrantByEmailAddress",
    }  # fmt: skip
    statuses = {code for code in ERROR_CODE_TO_EXCEPTION if code.isdecimal()}
    assert set(ERROR_CODE_TO_EXCEPTION) - others - statuses <= set(faults.CODES)
    assert others <= set(ERROR_CODE_TO_EXCEPTION), "the list is out of date"


def test_every_error_that_botocore_lists_for_our_requests_is_in_the_table() -> None:
    import botocore.session

    model = botocore.session.get_session().get_service_model("s3")
    for name in ("PutObject", "GetObject", "HeadObject", "ListObjectsV2", "DeleteObject"):
        for shape in model.operation_model(name).error_shapes:
            assert shape.name in faults.CODES, f"{name}: {shape.name}"


def test_every_throttling_code_of_botocore_is_transient() -> None:
    from botocore.retries.standard import ThrottledRetryableChecker, TransientRetryableChecker

    for code in ThrottledRetryableChecker._THROTTLED_ERROR_CODES:
        assert faults.CODES[code].transient, code
    for code in TransientRetryableChecker._TRANSIENT_ERROR_CODES:
        assert faults.CODES[code].transient, code
    for status in TransientRetryableChecker._TRANSIENT_STATUS_CODES:
        assert faults.fault_of(client_error("", status)).transient, status


@pytest.mark.parametrize("status", range(300, 600))
def test_every_status_has_a_meaning_without_a_code(status: int) -> None:
    fault = faults.fault_of(client_error("", status))
    assert fault is not None
    if status >= 500 and status != 501:
        assert fault.transient
        assert fault.landed


def test_every_exception_of_botocore_and_aiohttp_has_a_meaning() -> None:
    import aiohttp
    import botocore.exceptions

    kinds = [
        kind
        for module, base in [
            (botocore.exceptions, botocore.exceptions.BotoCoreError),
            (aiohttp, aiohttp.ClientError),
        ]
        for kind in vars(module).values()
        if inspect.isclass(kind) and issubclass(kind, base)
    ]
    assert len(kinds) > 80
    for kind in kinds:
        assert faults.fault_of(kind.__new__(kind)) is not None, kind


@pytest.mark.parametrize("error", [TypeError("x"), KeyError("x"), AttributeError("x"), RuntimeError("x")])
def test_a_programming_error_has_no_place_in_the_table(error: Exception) -> None:
    assert faults.fault_of(error) is None


@pytest.mark.parametrize("wrap", [FileExistsError, OSError, PermissionError, FileNotFoundError])
def test_the_response_decides_and_never_the_exception_that_s3fs_makes_of_it(wrap: type[OSError]) -> None:
    made = wrap(22, "whatever")
    made.__cause__ = client_error("PreconditionFailed", 412)
    assert faults.fault_of(made) is faults.CONDITION


def test_the_code_decides_over_the_status() -> None:
    assert faults.fault_of(client_error("NoSuchBucket", 404)) is faults.NO_BUCKET
    assert faults.fault_of(client_error("NoSuchKey", 404)) is faults.MISSING
    assert faults.fault_of(client_error("404", 404)) is faults.MISSING
    assert faults.fault_of(client_error("NeverHeardOf", 503)) is faults.BUSY


def client_error(code: str, status: int) -> Exception:
    from botocore.exceptions import ClientError

    response: Any = {"Error": {"Code": code} if code else {}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return ClientError(response, "PutObject")


# Settings.


@pytest.mark.parametrize(
    "wrong",
    [
        {"bucket": ""},
        {"bucket": "a/b"},
        {"endpoint_url": "127.0.0.1:9000"},
        {"key": "only"},
        {"deadline": 0},
        {"max_connections": 0},
        {"conditional_writes": "sometimes"},
        {"engine": "steam"},
    ],
)
def test_settings_that_cannot_work_are_refused_at_once(wrong: dict[str, Any]) -> None:
    with pytest.raises(InvalidInputError):
        S3Backend(**{"bucket": "bucket"} | wrong)


def test_no_secret_is_shown(make: Callable[..., S3Backend]) -> None:
    s3 = make(token="the-token")
    shown = f"{s3!r} {s3.settings!r} {s3.settings} {s3.place}"
    assert SECRET not in shown
    assert "the-token" not in shown


def test_a_password_in_the_endpoint_is_refused_and_not_shown() -> None:
    with pytest.raises(InvalidInputError, match="use key and secret") as refused:
        S3Backend(bucket="b", endpoint_url="http://user:hidden@127.0.0.1:9/")
    assert "hidden" not in str(refused.value)


def test_locks_are_in_the_users_cache_one_folder_for_each_root(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    one, other, again = (S3Backend(bucket="b", prefix=prefix) for prefix in ("p", "q", "p/"))
    assert one._locks.folder.parent == tmp_path / "chunkstore" / "locks"
    assert one._locks.folder == again._locks.folder != other._locks.folder


def test_without_s3fs_the_module_imports_and_the_backend_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(NotSupportedError, match=r"pip install 'chunkstore\[s3\]'"):
        S3Backend(bucket="b")


def test_importing_the_module_imports_no_engine() -> None:
    code = "import sys, chunkstore.backends.s3 as s3; s3.S3Backend(bucket='b'); sys.exit('s3fs' in sys.modules or 'obstore' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_an_empty_prefix_is_the_bucket_itself(minio_server: S3Server, tmp_path: Path) -> None:
    with contextlib.closing(backend_on(minio_server, tmp_path, prefix="")) as s3:
        s3.put(KEY, b"x", FOUND)
        assert [entry.key for entry in s3.list("run/")] == [KEY]
        assert list(s3.folders()) == ["run"]


def test_the_marker_that_consoles_make_for_an_empty_folder_is_no_object(s3: S3Backend, told: ScriptedServer) -> None:
    told.objects |= {"run/": b"", KEY: b"x"}
    assert [entry.key for entry in s3.list("run/")] == [KEY]


# Servers that ignore conditions.


def test_on_a_server_that_ignores_conditions_the_backend_warns_once_and_says_so(
    rclone_server: S3Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "chunkstore"), contextlib.closing(backend_on(rclone_server, tmp_path)) as s3:
        for number in range(3):
            s3.put(f"run/step.{number}.json", b"x", CREATE)
        with contextlib.closing(backend_on(rclone_server, tmp_path, bucket=s3.settings.bucket)) as other:
            other.put("run/step.9.json", b"x", CREATE)
        assert not s3.guarantees.across_hosts
        assert not s3.guarantees.atomic
    assert [record.name for record in caplog.records] == ["chunkstore.backends.s3"]
    assert s3.settings.bucket in caplog.text


def test_require_refuses_a_server_that_ignores_conditions(rclone_server: S3Server, tmp_path: Path) -> None:
    with contextlib.closing(backend_on(rclone_server, tmp_path, conditional_writes="require")) as s3:
        for call in (lambda: s3.put(KEY, b"x", CREATE), lambda: s3.put(KEY, b"x", ANY), lambda: s3.guarantees):
            with pytest.raises(NotSupportedError, match="require") as caught:
                call()
            assert rclone_server.endpoint_url in str(caught.value)


def test_require_is_content_with_a_server_that_honours_them(conditional_s3_server: S3Server, tmp_path: Path) -> None:
    with contextlib.closing(backend_on(conditional_s3_server, tmp_path, conditional_writes="require")) as s3:
        s3.put(KEY, b"x", CREATE)
        assert s3.guarantees.across_hosts


def test_off_never_asks_and_keeps_writers_apart_by_locks(s3_server: S3Server, tmp_path: Path) -> None:
    with (
        CountingProxy(s3_server.endpoint_url) as proxy,
        contextlib.closing(backend_on(s3_server.through(proxy.url), tmp_path, conditional_writes="off")) as s3,
    ):
        proxy.reset()
        assert not s3.guarantees.across_hosts
        assert proxy.requests == ()
        version = s3.put(KEY, b"x", CREATE)
        with pytest.raises(ConflictError):
            s3.put(KEY, b"y", CREATE)
        with pytest.raises(ConflictError):
            s3.put(KEY, b"y", unchanged("0" * 32))
        s3.put(KEY, b"y", unchanged(version))
        s3.delete(KEY)
        with pytest.raises(ConflictError):
            s3.put(KEY, b"z", unchanged(version))


def test_a_lock_folder_that_cannot_be_used_is_an_error_that_names_it(rclone_server: S3Server, tmp_path: Path) -> None:
    (tmp_path / "locks").write_text("a file stands where the folder should be")
    with contextlib.closing(backend_on(rclone_server, tmp_path)) as s3:
        with pytest.raises(BackendUnavailableError, match="locks") as caught:
            s3.put(KEY, b"x", CREATE)
        assert not caught.value.transient


def test_a_bucket_that_may_only_be_read_can_be_read_and_refuses_a_write_as_itself(
    s3: S3Backend, told: ScriptedServer
) -> None:
    forget(s3.settings.root)
    told.objects[KEY] = b"x"
    assert s3.get(KEY).data == b"x"
    assert [entry.key for entry in s3.list("run/")] == [KEY]
    assert told.requests == ["GET", "GET"], "a reader has no reason to ask"
    told.say(*["403 AccessDenied"] * 9)
    with pytest.raises(BackendUnavailableError, match="access was refused") as caught:
        s3.put(KEY, b"y", CREATE)
    assert not caught.value.transient
    assert recall(s3.settings.root) is None


# Processes, threads, loops.


def in_a_child(backend: S3Backend, number: int) -> bytes:
    """What a pool's worker does: all conditions, and a read of what the parent wrote."""
    version = backend.put(f"run/step.{number}.json", b"first", CREATE)
    backend.put(f"run/step.{number}.json", b"second", unchanged(version))
    return backend.get("run/run.json").data


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_a_pool_works_whose_parent_has_used_the_backend(s3_server: S3Server, tmp_path: Path, method: str) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot {method}")
    engine = "s3fs" if s3_server.name == "moto" else "auto"
    with contextlib.closing(backend_on(s3_server, tmp_path, engine=engine)) as s3:
        s3.put("run/run.json", b"parent", FOUND)
        list(s3.get_many(["run/run.json", "run/no.json"]))
        # Whoever is spawned starts a Python of its own: two show it.
        with multiprocessing.get_context(method).Pool(4 if method == "fork" else 2) as pool:
            jobs = [pool.apply_async(in_a_child, (s3, number)) for number in range(40)]
            assert [job.get(60) for job in jobs] == [b"parent"] * 40
        assert len(list(s3.list("run/"))) == 41


def test_a_spawned_worker_does_not_ask_again(rclone_server: S3Server, tmp_path: Path) -> None:
    with (
        CountingProxy(rclone_server.endpoint_url) as proxy,
        contextlib.closing(backend_on(rclone_server.through(proxy.url), tmp_path)) as s3,
    ):
        s3.put("run/run.json", b"parent", FOUND)
        proxy.reset()
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            assert pool.apply(in_a_child, (s3, 0)) == b"parent"
        assert not [request for request in proxy.requests if ".probe-" in request.path]


EXITING = """
import gc, os, sys, time
from chunkstore.backends import ANY
from chunkstore.backends.s3 import S3Backend

url, bucket, key, secret, locks, way, engine, children = sys.argv[1:]
s3 = S3Backend(bucket=bucket, endpoint_url=url, key=key, secret=secret, region="us-east-1", lock_folder=locks,
               conditional_writes="off", deadline=5, engine=engine)
keys = [f"run/step.{number}.json" for number in range(20)]
s3.put(keys[0], b"x", ANY)
assert len(list(s3.get_many(keys))) == 1
if way == "closed":
    s3.close()
if way == "collected":
    del s3
for does in [] if "fork" not in way else ["nothing", "use", "drop", "use, close"]:
    for _ in range(int(children)):
        child = os.fork()
        if child == 0:
            if "use" in does:
                assert s3.get(keys[0]).data == b"x"
            if "close" in does:
                s3.close()
            if "drop" in does:
                # Finalised here, an inherited connection would take its socket out of the epoll set of both.
                del s3
                gc.collect()
            sys.exit(0)
        assert os.waitpid(child, 0)[1] == 0
        begin = time.monotonic()
        assert len(list(s3.get_many(keys))) == 1
        assert time.monotonic() - begin < 3, "a child's exit has hung up on its parent"
"""


@pytest.mark.parametrize("way", ["plain", "closed", "collected", "fork"])
@pytest.mark.parametrize(
    ("name", "engine"), [("rclone", "s3fs"), pytest.param("minio", "obstore", marks=needs_obstore)]
)
def test_a_process_exits_without_a_word_and_its_parent_keeps_its_connections(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, way: str, engine: str
) -> None:
    if "fork" in way and not hasattr(os, "fork"):
        pytest.skip("this platform cannot fork")
    server: S3Server = request.getfixturevalue(f"{name}_server")
    arguments = [
        server.endpoint_url,
        server.new_bucket(),
        server.key,
        server.secret,
        str(tmp_path / "locks"),
        way,
        engine,
        str(places.between(3, 8)),
    ]
    command = [sys.executable, "-W", "always", "-W", "ignore:.*multi-threaded:DeprecationWarning", "-c", EXITING]
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=100, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_collected_backend_hangs_up_by_itself(told: ScriptedServer, tmp_path: Path) -> None:
    told.objects[KEY] = b"x"
    for _ in range(5):
        s3 = S3Backend(bucket="b", endpoint_url=told.url, key="k", secret=SECRET, region="r", lock_folder=tmp_path)
        s3.get(KEY)
        del s3
    gc.collect()  # an unclosed session would warn here, and warnings are errors


def test_it_works_inside_a_running_loop_and_refuses_the_loop_that_it_needs_itself(s3: S3Backend) -> None:
    async def pipeline() -> Blob:
        s3.put(KEY, b"x", ANY)
        return s3.get(KEY)

    assert asyncio.run(pipeline()).data == b"x"

    import fsspec.asyn

    with pytest.raises(NotSupportedError, match="loop"):
        fsspec.asyn.sync(fsspec.asyn.get_loop(), pipeline)


def test_sixty_four_threads_that_begin_together_ask_once(minio_server: S3Server, tmp_path: Path) -> None:
    with (
        CountingProxy(minio_server.endpoint_url) as proxy,
        contextlib.closing(backend_on(minio_server.through(proxy.url), tmp_path)) as s3,
        ThreadPoolExecutor(64) as threads,
    ):
        proxy.reset()
        list(threads.map(lambda number: s3.put(f"run/step.{number}.json", b"x", CREATE), range(64)))
        probes = [request for request in proxy.requests if ".probe-" in request.path]
        assert len(probes) == 7
        assert len(proxy.requests) == 64 + 7


def test_close_really_closes_and_it_may_be_used_again(s3: S3Backend, told: ScriptedServer) -> None:
    told.objects[KEY] = b"x"
    for _ in itertools.repeat(None, 3):
        assert s3.get(KEY).data == b"x"
        s3.close()
        engine: Any = s3._server.engine
        assert getattr(engine, "_client", None) is None
        assert getattr(engine, "_s3fs", engine)._open == []
    s3.close()


@pytest.fixture(params=["s3fs", pytest.param("obstore", marks=needs_obstore)])
def either(request: pytest.FixtureRequest, told: ScriptedServer, tmp_path: Path) -> Callable[..., S3Backend]:
    """Backends on the scripted server, with each engine."""
    usual = {"bucket": "b", "endpoint_url": told.url, "region": "r", "lock_folder": tmp_path, "engine": request.param}
    return lambda **settings: S3Backend(**{**usual, "key": "k", "secret": SECRET, **settings})


def test_all_that_a_process_unpickles_and_opens_alike_shares_one_connection(
    either: Callable[..., S3Backend], told: ScriptedServer
) -> None:
    told.objects[KEY] = told.objects[f"p/{KEY}"] = b"x"
    pickled = pickle.dumps(either())
    backends = [*(pickle.loads(pickled) for _ in range(40)), *(either() for _ in range(10)), either(prefix="p")]
    assert [backend.get(KEY).data for backend in backends] == [b"x"] * 51
    assert told.connections == 1
    for backend in backends:
        backend.close()


def test_tasks_that_drop_their_backend_leave_the_connection_to_the_next_task(
    either: Callable[..., S3Backend], told: ScriptedServer
) -> None:
    told.objects[KEY] = b"x"
    pickled = pickle.dumps(either())
    for _ in range(4):
        assert pickle.loads(pickled).get(KEY).data == b"x"
        gc.collect()
    assert told.connections == 1


def test_whoever_closes_hangs_up_on_nobody_else(either: Callable[..., S3Backend], told: ScriptedServer) -> None:
    told.objects[KEY] = b"x"
    with contextlib.closing(either()) as stays, ThreadPoolExecutor(1) as other:
        assert stays.get(KEY).data == b"x"
        busy = threading.Event()
        reading = other.submit(lambda: [busy.set() or stays.get(KEY).data for _ in range(100)])
        busy.wait()
        for _ in range(10):
            leaves = either()
            assert leaves.get(KEY).data == b"x"
            leaves.close()
        assert reading.result() == [b"x"] * 100
    assert told.connections <= 3  # two at once, and one that the pool opened ahead


@pytest.mark.parametrize("change", ["environment", "file"])
def test_a_store_that_is_opened_after_a_new_login_takes_the_new_credentials(
    either: Callable[..., S3Backend],
    told: ScriptedServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: str,
) -> None:
    told.objects[KEY] = b"x"
    credentials = tmp_path / "credentials"
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))

    def log_in(name: str) -> None:
        if change == "environment":
            monkeypatch.setenv("AWS_ACCESS_KEY_ID", name)
            monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        else:
            credentials.write_text(f"[default]\naws_access_key_id = {name}\naws_secret_access_key = {SECRET}\n")

    for name in ("FIRST", "THESECOND"):
        log_in(name)
        with contextlib.closing(either(key="", secret="")) as backend:
            assert backend.get(KEY).data == b"x"
        assert f"Credential={name}/" in {key.lower(): value for key, value in told.headers[-1].items()}["authorization"]


def test_settings_are_values() -> None:
    assert S3Settings(bucket="b", prefix="p") == S3Settings(bucket="b", prefix="p")
    assert hash(S3Settings(bucket="b")) == hash(S3Settings(bucket="b"))
