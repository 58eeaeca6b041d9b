"""Both engines mean the same by a setting; `auto` chooses what is safe and able; what obstore says is understood."""

from __future__ import annotations

import contextlib
import dataclasses
import http.server
import importlib.util
import multiprocessing
import os
import pickle
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import textwrap
import threading
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("s3fs")

import chunkstore
from chunkstore.backends import ANY, CREATE, unchanged
from chunkstore.backends import s3faults as faults
from chunkstore.backends.probe import remember
from chunkstore.backends.s3 import S3Backend
from chunkstore.backends.s3listing import page_of
from chunkstore.errors import BackendUnavailableError, ConflictError, NotSupportedError, WriteStateUnknownError
from fault_server import FaultServer, Rule, fault_server
from places import in_bucket
from servers import S3Server

KEY = "run/step.a.json"
SECRET = "the-secret-that-nobody-may-see"
TOKEN = "the-token-that-nobody-may-see"
needs_obstore = pytest.mark.skipif(importlib.util.find_spec("obstore") is None, reason="obstore is not installed")
ENGINES = ["s3fs", pytest.param("obstore", marks=needs_obstore)]


@pytest.fixture(scope="module")
def faulty() -> Iterator[FaultServer]:
    with fault_server() as server:
        yield server


class Heard:
    """A server that takes everything for done, and keeps what it heard."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[tuple[str, str, dict[str, str]]] = []
        heard = self.requests

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20

            def answer(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                heard.append((self.command, self.path, {name.lower(): value for name, value in self.headers.items()}))
                self.send_response(200)
                self.send_header("ETag", '"v"')
                self.send_header("Last-Modified", "Sat, 21 Nov 2026 12:00:00 GMT")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_GET = do_PUT = do_HEAD = do_DELETE = answer  # noqa: N815 - the base class calls them so

            def log_message(self, format: str, *args: object) -> None:
                """Nobody listens."""

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            block_on_close = False

            def handle_error(self, request: Any, client_address: Any) -> None:
                """A client that does not trust us is no error."""

        self._http = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._http.socket = tls.wrap_socket(self._http.socket, server_side=True)
        self.port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def heard() -> Iterator[Heard]:
    with contextlib.closing(Heard()) as server:
        yield server


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No credentials and settings of the user's own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).touch()
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


def backend_at(url: str, folder: Path, **settings: Any) -> S3Backend:
    settings = {"bucket": "bucket", "deadline": 5.0, "conditional_writes": "auto"} | settings
    backend = S3Backend(endpoint_url=url, lock_folder=folder / "locks", **settings)
    remember(backend.settings.root, "cas")
    return backend


# Which engine.


@needs_obstore
def test_auto_takes_obstore_where_it_is_installed(tmp_path: Path) -> None:
    assert backend_at("http://127.0.0.1:9", tmp_path).engine == "obstore"
    assert backend_at("http://127.0.0.1:9", tmp_path, engine="s3fs").engine == "s3fs"
    assert chunkstore.open("s3://b/p", engine="s3fs").backend.engine == "s3fs"  # type: ignore[attr-defined]


def test_without_obstore_auto_is_s3fs_and_asking_for_it_says_what_to_install() -> None:
    code = """
        import sys
        sys.modules["obstore"] = None
        from chunkstore.backends.s3 import S3Backend
        from chunkstore.errors import NotSupportedError
        assert S3Backend(bucket="b").engine == "s3fs"
        try:
            S3Backend(bucket="b", engine="obstore")
        except NotSupportedError as error:
            assert "pip install 'chunkstore[fast]'" in str(error)
        else:
            sys.exit("accepted")
    """
    done = program(code)
    assert done.returncode == 0, done.stderr


@needs_obstore
def test_an_obstore_that_cannot_be_loaded_is_no_engine_and_auto_says_so_once_and_goes_on() -> None:
    code = """
        import importlib.abc, logging, sys

        class Broken(importlib.abc.MetaPathFinder):
            def find_spec(self, name, path, target=None):
                if name == "obstore._obstore":
                    raise ImportError("no such libc")
                return None

        sys.meta_path.insert(0, Broken())
        logging.basicConfig(stream=sys.stdout, level="WARNING")
        from chunkstore.backends.s3 import S3Backend
        from chunkstore.errors import NotSupportedError
        s3 = S3Backend(bucket="b")
        assert [s3.engine, s3.engine] == ["s3fs", "s3fs"]
        try:
            S3Backend(bucket="b", engine="obstore").engine
        except NotSupportedError as error:
            assert "no such libc" in str(error)
        else:
            sys.exit("accepted")
    """
    done = program(code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("no such libc") == 1


def test_an_engine_that_nobody_knows_is_an_error_that_names_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(chunkstore.InvalidInputError, match="obstore"):
        chunkstore.open("s3://b/p", engine="steam")


def program(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "ignore::DeprecationWarning", "-c", textwrap.dedent(code), *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=100,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )


FORKING = """
    import os, signal, sys, threading, time
    import obstore  # the user's own, before chunkstore
    from obstore.store import S3Store

    url, way = sys.argv[1:]
    store = S3Store("bucket", endpoint=url, access_key_id="k", secret_access_key="s", region="r",
                    client_options={"allow_http": True})
    if way != "unused":
        obstore.put(store, "mine", b"x")

    if way != "imported by the child":
        import chunkstore
        from chunkstore.backends.s3 import S3Backend
    if way == "used":
        S3Backend(bucket="bucket", endpoint_url=url, key="k", secret="s", region="r").get("mine")

    for engine in ("auto", "obstore"):
        child = os.fork()
        if child == 0:
            signal.alarm(20)
            from chunkstore.backends.s3 import S3Backend
            s3 = S3Backend(bucket="bucket", endpoint_url=url, key="k", secret="s", region="r", engine=engine)
            assert s3.engine == "s3fs", s3.engine
            assert s3.get("mine").data == b"x"
            grandchild = os.fork()
            if grandchild == 0:
                assert s3.engine == "s3fs", s3.engine
                assert s3.get("mine").data == b"x"
                os._exit(0)
            os._exit(os.waitstatus_to_exitcode(os.waitpid(grandchild, 0)[1]))
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        assert code == 0, f"{engine}: the child ended with {code}"
    from chunkstore.backends.s3 import S3Backend
    assert S3Backend(bucket="bucket", endpoint_url=url, key="k", secret="s", region="r").engine == "obstore"
"""


@needs_obstore
@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork on this system")
@pytest.mark.parametrize("way", ["used", "used by others", "unused", "imported by the child"])
def test_a_forked_child_of_a_process_that_had_obstore_loaded_uses_s3fs(faulty: FaultServer, way: str) -> None:
    if way == "imported by the child" and not Path("/proc/self/stat").exists():
        pytest.skip("the system does not tell that a process was forked")
    faulty.fill("bucket", {"mine": b"x"})
    done = program(FORKING, faulty.s3.endpoint_url, way)
    assert done.returncode == 0, done.stderr


ENDING = """
    import asyncio, atexit, sys, threading, time
    from chunkstore.backends import foreignthreads
    from chunkstore.backends.s3 import S3Backend

    url, guarded = sys.argv[1:]
    s3 = S3Backend(bucket="bucket", endpoint_url=url, key="k", secret="s", region="r", engine="obstore")
    loop = asyncio.selector_events.BaseSelectorEventLoop
    wake = loop._write_to_self

    def slowly(self):
        "Between a reply's being handed over and the way back, a busy machine lets the whole rest of the program run."
        wake(self)
        if threading.get_ident() not in {thread.ident for thread in threading.enumerate()}:
            for _ in range(500):
                time.sleep(0.001)

    loop._write_to_self = slowly
    assert s3.get("mine").data == b"x"
    if guarded == "no":
        atexit.unregister(foreignthreads._wait_until_they_left)
"""


@needs_obstore
@pytest.mark.parametrize("guarded", ["yes", "no"])
def test_a_process_ends_in_peace_while_a_thread_of_obstore_hands_over_its_reply(
    faulty: FaultServer, guarded: str
) -> None:
    if guarded == "no" and (sys.platform != "linux" or sys.version_info >= (3, 14)):
        pytest.skip("only CPython before 3.14 ends such a thread, and only on Linux is it known how that ends")
    faulty.fill("bucket", {"mine": b"x"})
    done = program(ENDING, faulty.s3.endpoint_url, guarded)
    assert done.returncode == (0 if guarded == "yes" else -signal.SIGABRT), done.stderr


def engine_of(backend: S3Backend) -> tuple[str, bytes]:
    data = backend.get(KEY).data
    return backend.engine, data


@needs_obstore
@pytest.mark.parametrize(("method", "engine"), [("fork", "s3fs"), ("spawn", "obstore"), ("forkserver", "obstore")])
@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_worker_uses_what_is_safe_where_it_was_started(
    faulty: FaultServer, tmp_path: Path, method: str, engine: str
) -> None:
    if method not in multiprocessing.get_all_start_methods():
        pytest.skip(f"this platform cannot {method}")
    with contextlib.closing(in_bucket(faulty.s3, tmp_path, bucket="workers")) as backend:
        faulty.fill("workers", {f"some/runs/{KEY}": b"x"})
        assert engine_of(backend) == ("obstore", b"x")  # type: ignore[arg-type]
        with multiprocessing.get_context(method).Pool(1) as pool:
            assert pool.apply_async(engine_of, (backend,)).get(60) == (engine, b"x")


@needs_obstore
@pytest.mark.parametrize("name", ["AWS_SERVER_SIDE_ENCRYPTION", "AWS_CHECKSUM_ALGORITHM"])
def test_what_only_obstore_would_obey_leaves_the_place_to_s3fs(
    heard: Heard, tmp_path: Path, alone: pytest.MonkeyPatch, name: str
) -> None:
    alone.setenv(name, "AES256")
    url = f"http://127.0.0.1:{heard.port}"
    with contextlib.closing(backend_at(url, tmp_path, key="k", secret=SECRET, region="r")) as s3:
        s3.put(KEY, b"x", ANY)
        assert s3.engine == "s3fs"
        assert "botocore" in heard.requests[0][2]["user-agent"].lower()
    s3 = backend_at(url, tmp_path, key="k", secret=SECRET, region="r", engine="obstore")
    with contextlib.closing(s3), pytest.raises(NotSupportedError, match=name):
        s3.put(KEY, b"x", ANY)


# Settings mean the same.


def told(request: tuple[str, str, dict[str, str]]) -> tuple[str, str, str, str | None]:
    """Method, path, who signed for which region, and the session's token."""
    method, path, headers = request
    scope = headers["authorization"].split("Credential=")[1].split(",")[0].split("/")
    return method, path.partition("?")[0], f"{scope[0]} {scope[2]}", headers.get("x-amz-security-token")


@pytest.mark.parametrize("engine", ENGINES)
def test_credentials_region_token_and_path_style_arrive_as_they_were_set(
    heard: Heard, tmp_path: Path, alone: pytest.MonkeyPatch, engine: str
) -> None:
    url = f"http://127.0.0.1:{heard.port}"
    settings = {
        "prefix": "some/where",
        "key": "mine",
        "secret": SECRET,
        "token": TOKEN,
        "region": "eu-x",
        "engine": engine,
    }
    with contextlib.closing(backend_at(url, tmp_path, **settings)) as s3:
        s3.put(KEY, b"x", CREATE)
        s3.put(KEY, b"x", unchanged("v"))
        s3.put("run/100%25 a.json", b"x", ANY)
        s3.get(KEY)
        s3.delete(KEY)
        assert s3.engine == engine
    first, second = heard.requests[:2]
    under = "/bucket/some/where/run"
    assert [told(one) for one in heard.requests] == [
        ("PUT", f"{under}/step.a.json", "mine eu-x", TOKEN),
        ("PUT", f"{under}/step.a.json", "mine eu-x", TOKEN),
        ("PUT", f"{under}/100%2525%20a.json", "mine eu-x", TOKEN),
        ("GET", f"{under}/step.a.json", "mine eu-x", TOKEN),
        ("DELETE", f"{under}/step.a.json", "mine eu-x", TOKEN),
    ]
    assert (first[2]["if-none-match"], second[2]["if-match"]) == ("*", '"v"')
    assert not any("expect" in headers for _, _, headers in heard.requests)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", ["environment", "file", "profile"])
def test_credentials_that_are_not_set_come_from_botocores_usual_places(
    heard: Heard, tmp_path: Path, alone: pytest.MonkeyPatch, engine: str, way: str
) -> None:
    fields = {"aws_access_key_id": way, "aws_secret_access_key": SECRET, "aws_session_token": TOKEN}
    if way == "environment":
        for name, value in fields.items():
            alone.setenv(name.upper(), value)
        alone.setenv("AWS_DEFAULT_REGION", "from-there")
        alone.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{heard.port}")
    else:
        section = "default" if way == "file" else "mine"
        lines = [f"[{section}]", *(f"{name} = {value}" for name, value in fields.items())]
        (tmp_path / "AWS_SHARED_CREDENTIALS_FILE").write_text("\n".join(lines))
        head = "default" if way == "file" else "profile mine"
        (tmp_path / "AWS_CONFIG_FILE").write_text(
            f"[{head}]\nregion = from-there\nendpoint_url = http://127.0.0.1:{heard.port}\n"
        )
    settings = {"profile": "mine"} if way == "profile" else {}
    with contextlib.closing(backend_at("", tmp_path, engine=engine, **settings)) as s3:
        s3.put(KEY, b"x", ANY)
        assert s3.engine == engine
    assert told(heard.requests[0]) == ("PUT", f"/bucket/{KEY}", f"{way} from-there", TOKEN)


@needs_obstore
def test_renewed_credentials_are_used_from_the_next_request_on(
    heard: Heard, tmp_path: Path, alone: pytest.MonkeyPatch
) -> None:
    alone.setenv("AWS_ACCESS_KEY_ID", "old")
    alone.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    with contextlib.closing(backend_at(f"http://127.0.0.1:{heard.port}", tmp_path, engine="obstore", region="r")) as s3:
        s3.get(KEY)
        alone.setenv("AWS_ACCESS_KEY_ID", "new")
        credentials = s3._server.engine.credentials
        assert credentials.held is not None
        credentials._held = dataclasses.replace(credentials.held, expires=time.time())
        s3.get(KEY)
    assert [told(one)[2] for one in heard.requests] == ["old r", "new r"]


@pytest.fixture(scope="module", params=["CA:FALSE", "CA:TRUE"])
def certificate(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A server's certificate for loopback that it signed itself; as an authority's, it is one that obstore's TLS never takes."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    made, key = folder / f"{request.param[3:]}.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1",
         "-addext", "subjectAltName=IP:127.0.0.1", "-addext", f"basicConstraints=critical,{request.param}",
         "-keyout", str(key), "-out", str(made)],
        check=True, capture_output=True,
    )  # fmt: skip
    return made


@pytest.fixture
def secure(certificate: Path) -> Iterator[Heard]:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    with contextlib.closing(Heard(context)) as server:
        yield server


@pytest.mark.parametrize("engine", ENGINES)
def test_a_certificate_that_nobody_knows_is_refused_and_the_users_authority_is_trusted(
    secure: Heard, certificate: Path, tmp_path: Path, alone: pytest.MonkeyPatch, engine: str
) -> None:
    url = f"https://127.0.0.1:{secure.port}"
    settings = {"key": "k", "secret": SECRET, "region": "r", "engine": engine, "deadline": 10.0}
    with contextlib.closing(backend_at(url, tmp_path, **settings)) as s3:
        with pytest.raises(BackendUnavailableError, match="AWS_CA_BUNDLE") as caught:
            s3.put(KEY, b"x", ANY)
        assert not caught.value.transient
        assert not isinstance(caught.value, WriteStateUnknownError)
    alone.setenv("AWS_CA_BUNDLE", str(certificate))
    with contextlib.closing(backend_at(url, tmp_path, **settings)) as s3:
        assert s3.put(KEY, b"x", ANY) == "v"
        assert s3.engine == ("s3fs" if certificate.stem == "TRUE" else engine)


# Faults.


@pytest.mark.parametrize("engine", ENGINES)
def test_a_connection_that_is_never_made_is_not_an_unknown_write(tmp_path: Path, engine: str) -> None:
    with socket.socket() as deaf, contextlib.ExitStack() as waiting:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen(0)
        for _ in range(4):  # from here on nobody is let in, and nobody is told
            one = waiting.enter_context(socket.socket())
            one.setblocking(False)
            one.connect_ex(deaf.getsockname())
        url = f"http://127.0.0.1:{deaf.getsockname()[1]}"
        settings = {"key": "k", "secret": SECRET, "region": "r", "engine": engine, "deadline": 3.0}
        with contextlib.closing(backend_at(url, tmp_path, **settings)) as s3, pytest.raises(BackendUnavailableError):
            s3.put(KEY, b"x", CREATE)


SAID: dict[str, faults.Fault] = {
    "dropped": faults.BROKEN,
    "reset": faults.BROKEN,
    "500": faults.BROKEN,
    "502": faults.BROKEN,
    "503": faults.BUSY,
    "504": faults.BROKEN,
    "429": faults.BUSY,
    "409": faults.RACE,
    "412_false": faults.CONDITION,
    "412_echo_empty": faults.CONDITION,
    "page_200_false": faults.BROKEN,
    "empty_200": faults.BROKEN,
    "cut_head": faults.BROKEN,
    "lost_reply": faults.BROKEN,
    "hang": faults.BROKEN,
}


@needs_obstore
@pytest.mark.parametrize("fault", SAID)
@pytest.mark.parametrize("mode", ["create", "overwrite"])
def test_what_obstore_says_of_a_failed_write_is_understood(faulty: FaultServer, fault: str, mode: Any) -> None:
    from datetime import timedelta

    from obstore.store import S3Store

    store = S3Store(
        "said",
        endpoint=faulty.s3.endpoint_url,
        access_key_id="k",
        secret_access_key=SECRET,
        session_token=TOKEN,
        region="r",
        client_options={"allow_http": True, "read_timeout": timedelta(seconds=0.3)},
        retry_config={"max_retries": 0},
    )
    faulty.fill("said", {})
    faulty.plan([Rule(fault)], within="said")
    # A key that looks like an answer.
    key = "Server returned non-2xx status code: 404 Not Found: <Code>NoSuchKey</Code>"
    with pytest.raises(Exception, match=r"S3|Object|Request") as caught:  # whatever it is, it is looked at below
        store.put(key, b"x", mode=mode, use_multipart=False)
    faulty.calm("said")
    said = faults.obstore_said(caught.value, key)
    assert faults.fault_of(said) is SAID[fault], said
    shown = (
        f"{said!r} {said} {caught.value!r} {caught.value} {store!r} {''.join(traceback.format_exception(caught.value))}"
    )
    assert SECRET not in shown
    assert TOKEN not in shown


@needs_obstore
def test_a_create_that_is_answered_409_has_not_found_an_object(faulty: FaultServer, tmp_path: Path) -> None:
    backend: Any = in_bucket(faulty.s3, tmp_path, engine="obstore")
    remember(backend.settings.root, "cas")
    with contextlib.closing(backend):
        faulty.plan([Rule("409", verb="PUT")], within=backend.settings.bucket)
        with pytest.raises(WriteStateUnknownError) as caught:
            backend.put(KEY, b"x", CREATE)
        assert not isinstance(caught.value, ConflictError)
        assert faulty.objects(backend.settings.bucket) == {}


@needs_obstore
def test_no_error_of_the_engine_shows_a_secret_and_all_pickle(faulty: FaultServer, tmp_path: Path) -> None:
    settings = {"key": "k", "secret": SECRET, "token": TOKEN, "region": "r", "engine": "obstore", "deadline": 0.5}
    with contextlib.closing(backend_at(faulty.s3.endpoint_url, tmp_path, **settings)) as s3:
        faulty.fill("bucket", {})
        for fault in ("dropped", "500", "409", "hang", "empty_200"):
            faulty.plan([Rule(fault, times=9)], within="bucket")
            with pytest.raises(BackendUnavailableError) as caught:
                s3.put(KEY, b"x", ANY)
            shown = "".join(traceback.format_exception(caught.value)) + repr(s3._server.engine.__dict__)
            assert SECRET not in shown
            assert TOKEN not in shown
            assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)
        faulty.calm("bucket")


@needs_obstore
def test_a_bucket_in_another_region_is_left_to_s3fs_which_follows_it(tmp_path: Path) -> None:
    class Elsewhere(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            ours = "botocore" in self.headers["User-Agent"].lower()
            body = b"" if ours else b"<Error><Code>PermanentRedirect</Code></Error>"
            self.send_response(200 if ours else 301)
            if ours:
                self.send_header("ETag", '"v"')
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Nobody listens."""

    settings = {"key": "k", "secret": SECRET, "region": "r", "engine": "obstore"}
    with listening(Elsewhere) as url, contextlib.closing(backend_at(url, tmp_path, **settings)) as s3:
        assert s3.engine == "obstore"
        assert s3.put(KEY, b"x", CREATE) == "v"
        assert s3.engine == "s3fs"


@needs_obstore
def test_a_reply_that_does_not_tell_its_length_is_left_to_s3fs(tmp_path: Path) -> None:
    class Chunked(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("ETag", '"v"')
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            self.wfile.write(b"4\r\nbody\r\n0\r\n\r\n")

        def log_message(self, format: str, *args: object) -> None:
            """Nobody listens."""

    with listening(Chunked) as url:
        settings = {"key": "k", "secret": SECRET, "region": "r", "engine": "obstore"}
        with contextlib.closing(backend_at(url, tmp_path, **settings)) as s3:
            assert s3.get(KEY) == (b"body", "v")


@contextlib.contextmanager
def listening(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads, server.block_on_close = True, False
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


# Keys.


@pytest.mark.parametrize("engine", ENGINES)
def test_keys_that_obstore_refuses_or_alters_are_met_and_listed_all_the_same(
    minio_server: S3Server, tmp_path: Path, engine: str
) -> None:
    backend: Any = in_bucket(minio_server, tmp_path, engine=engine)
    keys = [KEY, "run/100%25.json", "run/a b+c*?[]{}~!$&'(),;=:@#.json", "run/ü.json", "run/parameter.a.json"]
    foreign = ["run/x\x01y.json"]
    with contextlib.closing(backend):
        for key in [*keys, *foreign]:
            backend.put(key, key.encode(), ANY)
        assert {entry.key for entry in backend.list("run/")} == {*keys, *foreign}
        assert [entry.key for entry in backend.list("run/parameter.")] == ["run/parameter.a.json"]
        assert {key: blob.data.decode() for key, blob in backend.get_many([*keys, *foreign])} == {
            key: key for key in [*keys, *foreign]
        }
        for key in [*keys, *foreign]:
            assert backend.get(key).version
            backend.delete(key)
        assert list(backend.list("run/")) == []


# Listings.


def test_a_page_is_read_as_botocore_reads_it(minio_server: S3Server, tmp_path: Path) -> None:
    backend: Any = in_bucket(minio_server, tmp_path)
    with contextlib.closing(backend):
        for key in ("run/a&b <c>.json", "run/ü 100%.json", "other/x.json"):
            backend.put(key, b"x", ANY)
        client = minio_server.client()
        for asked in ({"MaxKeys": 2}, {"Delimiter": "/", "Prefix": "some/runs/"}, {"Prefix": "nothing"}):
            theirs = client.list_objects_v2(Bucket=backend.settings.bucket, **asked)
            ours = backend._server._run(backend._server.engine.page(asked))
            for name in ("IsTruncated", "CommonPrefixes", "NextContinuationToken"):
                assert ours.get(name) == theirs.get(name)
            wanted = [(one["Key"], one["ETag"], one["Size"]) for one in theirs.get("Contents", ())]
            assert [(one["Key"], one["ETag"], one["Size"]) for one in ours.get("Contents", ())] == wanted


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html><h1>200</h1>of a gateway</html>",
        b"<ListBucketResult><IsTruncated>false</IsTruncated><Contents>",
        b"<ListBucketResult><Contents><Key>k</Key><Size>many</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><ETag>e</ETag><Size>1</Size></Contents></ListBucketResult>",
        b"<ListBucketResult><Contents><Key>k</Key></Contents></ListBucketResult>",
    ],
)
def test_what_is_no_whole_page_is_left_to_botocore(body: bytes) -> None:
    assert page_of(body) is None


def test_a_page_without_an_end_is_no_listing() -> None:
    assert page_of(b"<ListBucketResult></ListBucketResult>") == {}
