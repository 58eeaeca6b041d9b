"""A secret is in no message, no repr, no traceback and no log line, however it was given and whatever fails."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import logging
import os
import pickle
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final
from urllib.parse import quote, quote_plus
from xml.sax.saxutils import escape

import pytest

import chunkstore
from chunkstore import ChunkedRunLogStore, ChunkStoreError, S3StoreSettings
from places import in_bucket
from rigs import Tally
from servers import S3Server, free_port

SECRET: Final = "hush+Hush/hUsh=4711&é"
TOKEN: Final = "quiet+Quiet/qUiet=4712"


def forms(secret: str) -> set[str]:
    """The secret as it may be written."""
    raw = secret.encode()
    packed = base64.b64encode(raw).decode()
    parts = [part for part in secret.replace("+", "/").split("/") if len(part) > 3]
    return {
        secret,
        quote(secret),
        quote(secret, safe=""),
        quote_plus(secret),
        packed,
        packed.rstrip("="),
        raw.hex(),
        *parts,
    }


def links(error: BaseException) -> Iterator[BaseException]:
    """The exception and all that it came from, also what `from None` hides from people."""
    pending, seen = [error], set()
    while pending:
        link = pending.pop()
        if id(link) not in seen:
            seen.add(id(link))
            yield link
            pending += [one for one in (link.__cause__, link.__context__) if one is not None]


def said(error: BaseException) -> str:
    """All that a person, a log or another process gets to see of an exception."""
    texts = ["".join(traceback.format_exception(error))]
    if isinstance(error, ChunkStoreError):
        copy = pickle.loads(pickle.dumps(error))
        texts += [str(error), repr(error), str(vars(error)), repr(copy), str(vars(copy)), repr(pickle.dumps(error))]
    return "\n".join(texts)


def shown(thing: object) -> str:
    return f"{thing} {thing!r} {getattr(thing, '__dict__', '')}"


def leaks(text: str, *secrets: str) -> list[str]:
    return [form for secret in secrets for form in forms(secret) if form in text]


CALLS: dict[str, Callable[[ChunkedRunLogStore], object]] = {
    "create": lambda store: store.create_run_log("r"),
    "read": lambda store: store.get_run_log_by_id("r"),
    "list": lambda store: store.list_run_ids(),
    "parameters": lambda store: store.get_parameters("r"),
    "summary": lambda store: store.get_summary(),
    "guarantees": lambda store: store.backend.guarantees,
}


@pytest.fixture
def others_logs(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    """Ours say everything, others what they say unless asked for more."""
    caplog.set_level(logging.DEBUG, logger="chunkstore")
    return caplog


def everything_said(store: ChunkedRunLogStore, logs: pytest.LogCaptureFixture) -> str:
    """What the store, its parts and its failures show."""
    parts = [store, store.backend, store.backend.place, store.settings, getattr(store.backend, "settings", "")]
    texts = [shown(part) for part in parts]
    for call in CALLS.values():
        try:
            texts.append(str(call(store)))
        except Exception as error:  # noqa: BLE001  whatever it is, it must not tell
            texts.append(said(error))
    store.close()
    return "\n".join([*texts, logs.text, *(shown(record) for record in logs.records)])


def by_keyword(endpoint: str, bucket: str, folder: Path) -> ChunkedRunLogStore:
    return chunkstore.open(
        f"s3://{bucket}/runs",
        endpoint_url=endpoint,
        key="the-key",
        secret=SECRET,
        token=TOKEN,
        region="us-east-1",
        timeout_seconds=10,
        lock_folder=str(folder),
    )


def by_environment(endpoint: str, bucket: str, folder: Path) -> ChunkedRunLogStore:
    os.environ.update(AWS_ACCESS_KEY_ID="the-key", AWS_SECRET_ACCESS_KEY=SECRET, AWS_SESSION_TOKEN=TOKEN)
    return chunkstore.open(
        f"s3://{bucket}/runs", endpoint_url=endpoint, region="us-east-1", timeout_seconds=10, lock_folder=str(folder)
    )


def by_runnable(endpoint: str, bucket: str, folder: Path) -> ChunkedRunLogStore:
    runnable = pytest.importorskip("chunkstore.integrations.runnable")
    store: ChunkedRunLogStore = runnable.ChunkStoreRunLogStore(
        url=f"s3://{bucket}/runs",
        endpoint_url=endpoint,
        key="the-key",
        secret=SECRET,
        token=TOKEN,
        region="us-east-1",
        timeout_seconds=10,
        lock_folder=str(folder),
    ).store
    return store


def by_role(endpoint: str, bucket: str, folder: Path) -> ChunkedRunLogStore:
    """Whoever gives the role's credentials is reached as the bucket is."""
    return chunkstore.open(
        f"s3://{bucket}/runs",
        endpoint_url=endpoint,
        sts_endpoint_url=endpoint,
        role_arn="arn:aws:iam::123456789012:role/writer",
        external_id=TOKEN,
        key="the-key",
        secret=SECRET,
        region="us-east-1",
        timeout_seconds=60,
        lock_folder=str(folder),
    )


def by_file(endpoint: str, bucket: str, folder: Path) -> ChunkedRunLogStore:
    file = folder / "credentials"
    lines = [
        "[default]",
        "aws_access_key_id = the-key",
        f"aws_secret_access_key = {SECRET}",
        f"aws_session_token = {TOKEN}",
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    return chunkstore.open(
        f"s3://{bucket}/runs",
        endpoint_url=endpoint,
        credentials_file=str(file),
        region="us-east-1",
        timeout_seconds=10,
        lock_folder=str(folder),
    )


def by_renamed_variables(endpoint: str, bucket: str, folder: Path) -> ChunkedRunLogStore:
    os.environ.update(MY_KEY="the-key", MY_SECRET=SECRET, MY_TOKEN=TOKEN)
    return chunkstore.open(
        f"s3://{bucket}/runs",
        endpoint_url=endpoint,
        use_credentials=True,
        access_key_name="MY_KEY",
        secret_access_key_name="MY_SECRET",
        session_token_name="MY_TOKEN",
        region="us-east-1",
        timeout_seconds=10,
        lock_folder=str(folder),
    )


WAYS = {
    "keyword": by_keyword,
    "environment": by_environment,
    "runnable": by_runnable,
    "role": by_role,
    "file": by_file,
    "renamed variables": by_renamed_variables,
}


@pytest.fixture(autouse=True)
def own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a test sets is gone after it."""
    mine = ("MY_KEY", "MY_SECRET", "MY_TOKEN")
    for name in (
        *mine,
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "AWS_SESSION_TOKEN",
        "AWS_ENDPOINT_URL",
        "HTTP_PROXY",
    ):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    with contextlib.suppress(ImportError):
        monkeypatch.setattr(
            "chunkstore.backends.s3server.PAUSES", (0.001, 0.001, 0.001)
        )  # nobody comes back while we wait


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_a_refused_connection_tells_nothing(
    way: Callable[..., ChunkedRunLogStore], tmp_path: Path, others_logs: pytest.LogCaptureFixture, tally: Tally
) -> None:
    pytest.importorskip("s3fs")
    store = way(f"http://127.0.0.1:{free_port()}", "bucket", tmp_path)
    text = everything_said(store, others_logs)
    assert "cannot be reached" in text or "could not be assumed" in text
    assert leaks(text, SECRET, TOKEN) == []
    tally("secrets looked for", len(CALLS))


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS.keys())
def test_refused_credentials_tell_nothing(
    way: Callable[..., ChunkedRunLogStore],
    minio_server: S3Server,
    tmp_path: Path,
    others_logs: pytest.LogCaptureFixture,
    tally: Tally,
) -> None:
    store = way(minio_server.endpoint_url, minio_server.new_bucket(), tmp_path)
    text = everything_said(store, others_logs)
    assert "access was refused" in text or "could not be assumed" in text
    assert leaks(text, SECRET, TOKEN) == []
    tally("secrets looked for", len(CALLS))


def test_what_works_tells_nothing_either(
    minio_server: S3Server, tmp_path: Path, others_logs: pytest.LogCaptureFixture
) -> None:
    store = ChunkedRunLogStore(in_bucket(minio_server, tmp_path))
    store.create_run_log("before")
    text = everything_said(store, others_logs)
    assert "run_id='r'" in text
    assert leaks(text, minio_server.secret) == []


def test_a_pickled_backend_holds_the_secret_and_an_error_does_not(tmp_path: Path) -> None:
    """A worker needs it; so a pickled store is as secret as its settings."""
    pytest.importorskip("s3fs")
    store = by_keyword("http://127.0.0.1:9", "bucket", tmp_path)
    assert SECRET.encode() in pickle.dumps(store)
    with pytest.raises(ChunkStoreError) as caught:
        store.create_run_log("r")
    assert SECRET.encode() not in pickle.dumps(caught.value)
    store.close()


WRONG: dict[str, Callable[[], object]] = {
    "wrong type": lambda: chunkstore.open("s3://b", key="k", secret=[SECRET]),
    "wrong type of all": lambda: chunkstore.open("s3://b", key={"a": SECRET}, secret=5.5, token=(SECRET,)),
    "secret in another setting": lambda: chunkstore.open("s3://b", timeout_seconds=SECRET),
    "secret in a choice": lambda: chunkstore.open("s3://b", require=SECRET),
    "credentials in the URL": lambda: chunkstore.open(f"s3://key:{SECRET}@bucket/x"),
    "quoted credentials in the URL": lambda: chunkstore.open(f"s3://key:{quote(SECRET, safe='')}@bucket/x"),
    "credentials in the endpoint": lambda: chunkstore.open("s3://b", endpoint_url=f"https://key:{SECRET}@host"),
    "a customer's key of another length": lambda: chunkstore.open("s3://b", sse_customer_key=SECRET),
    "a customer's key over an open wire": lambda: chunkstore.open(
        "s3://b", sse_customer_key=base64.b64encode(SECRET.encode().ljust(32)[:32]).decode(), endpoint_url="http://h"
    ),
    "a customer's key of the wrong type": lambda: chunkstore.open("s3://b", sse_customer_key=[SECRET]),
    "credentials in the endpoint of STS": lambda: chunkstore.open(
        "s3://b",
        role_arn="arn:aws:iam::123456789012:role/w",
        sts_endpoint_url=f"https://key:{quote(SECRET, safe='')}@host",
    ),
    "a token without its key": lambda: chunkstore.open("s3://b", token=SECRET),
    "an external id without a role": lambda: chunkstore.open("s3://b", external_id=SECRET),
    "credentials in the lock folder": lambda: chunkstore.open("s3://b", lock_folder=5, secret=SECRET),
}
KNOWN_LEAKS: dict[str, Callable[[], object]] = {
    "query behind the prefix": lambda: chunkstore.open(f"s3://bucket/x?secret={SECRET}"),
    "blank before the URL": lambda: chunkstore.open(f" s3://key:{quote(SECRET, safe='')}@bucket/x").create_run_log(
        "\0"
    ),
}


@pytest.mark.parametrize("attempt", WRONG.values(), ids=WRONG.keys())
def test_a_setting_that_is_refused_is_not_shown(attempt: Callable[[], object], tally: Tally) -> None:
    with pytest.raises(ChunkStoreError) as refused:
        attempt()
    assert leaks(said(refused.value), SECRET) == []
    tally("secrets looked for", 1)


@pytest.mark.parametrize("attempt", KNOWN_LEAKS.values(), ids=KNOWN_LEAKS.keys())
def test_a_url_with_a_secret_in_it_is_refused_without_showing_it(attempt: Callable[[], object]) -> None:
    with pytest.raises(ChunkStoreError) as refused:
        attempt()
    assert "run id" not in str(refused.value)
    assert leaks(said(refused.value), SECRET) == []


def test_not_even_a_hidden_context_holds_the_value() -> None:
    """Error reporters walk it, whatever Python prints."""
    for attempt in (WRONG["wrong type"], WRONG["secret in another setting"]):
        with pytest.raises(ChunkStoreError) as refused:
            attempt()
        assert not [link for link in links(refused.value) if leaks(str(link), SECRET)]


def test_a_password_in_the_endpoint_of_a_backend_is_refused_and_not_shown(tmp_path: Path) -> None:
    pytest.importorskip("s3fs")
    from chunkstore.backends.s3 import S3Backend

    with pytest.raises(ChunkStoreError, match="use key and secret") as refused:
        S3Backend(bucket="b", endpoint_url=f"http://user:{quote(SECRET, safe='')}@127.0.0.1", lock_folder=tmp_path)
    assert not [link for link in links(refused.value) if leaks(str(link), SECRET)]


def test_a_password_in_the_endpoint_of_the_environment_is_masked_also_when_it_fails(
    tmp_path: Path, others_logs: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("s3fs")
    from chunkstore.backends.s3 import S3Backend

    os.environ["AWS_ENDPOINT_URL"] = f"http://user:{quote(SECRET, safe='')}@127.0.0.1:{free_port()}"
    backend = S3Backend(bucket="b", key="k", secret="s", region="us-east-1", deadline=5, lock_folder=str(tmp_path))
    text = everything_said(ChunkedRunLogStore(backend), others_logs)
    assert "cannot" in text
    assert leaks(text, SECRET) == []


def test_the_access_key_is_as_secret_as_the_settings_say(tmp_path: Path) -> None:
    pytest.importorskip("s3fs")
    store = by_keyword("http://127.0.0.1:9", "bucket", tmp_path)
    assert "the-key" not in shown(S3StoreSettings(key="the-key"))  # type: ignore[arg-type]
    assert "the-key" not in shown(store.backend.settings)  # type: ignore[attr-defined]


def test_credentials_in_runnables_url_are_refused_before_anything_prints_them() -> None:
    runnable = pytest.importorskip("chunkstore.integrations.runnable")
    with pytest.raises(ChunkStoreError) as refused:
        runnable.ChunkStoreRunLogStore(url=f"s3://key:{SECRET}@bucket/x")
    assert leaks(said(refused.value), SECRET) == []


def test_an_answer_that_repeats_the_token_is_not_repeated(
    tmp_path: Path, others_logs: pytest.LogCaptureFixture
) -> None:
    """AWS sends an expired token back, in an element of the error."""
    pytest.importorskip("s3fs")
    body = f"<?xml version='1.0'?><Error><Code>ExpiredToken</Code><Message>expired</Message><Token-0>{TOKEN}</Token-0></Error>"
    with answering(400, body.encode()) as endpoint:
        text = everything_said(by_keyword(endpoint, "bucket", tmp_path), others_logs)
    assert "ExpiredToken" in text
    assert leaks(text, SECRET, TOKEN) == []


@pytest.mark.parametrize(
    ("code", "written"),
    [
        ("403 ExpiredToken", escape),
        ("403 AccessDenied", escape),
        ("403 Strange", escape),
        ("ResponseParserError", str),  # `&` stands there as it is, and botocore shows what it could not read
    ],
)
def test_an_answer_of_sts_that_repeats_secrets_is_not_repeated(
    code: str, written: Callable[[str], str], tmp_path: Path, others_logs: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("s3fs")
    body = (
        f"<ErrorResponse><Error><Type>Sender</Type><Code>{code.rsplit(maxsplit=1)[-1]}</Code><Message>the secret {written(SECRET)} of "
        f"{TOKEN} is old</Message></Error><Token>{TOKEN}</Token></ErrorResponse>"
    )
    with answering(403, body.encode()) as endpoint:
        text = everything_said(by_role(endpoint, "bucket", tmp_path), others_logs)
    assert f"could not be assumed with the settings key and secret: {code}" in text
    assert leaks(text, SECRET, TOKEN) == []


def test_a_giver_of_credentials_that_says_them_to_everybody_is_not_repeated(
    tmp_path: Path, others_logs: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A container's endpoint, and a program that gives credentials; both may put into an error what they like."""
    pytest.importorskip("s3fs")
    from chunkstore.backends.s3 import S3Backend

    for name in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
    said = []
    with answering(500, f"{SECRET} {TOKEN}".encode()) as endpoint:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{endpoint}/creds")
        backend = S3Backend(bucket="b", endpoint_url="http://127.0.0.1:9", region="r", deadline=2, lock_folder=tmp_path)
        said.append(everything_said(ChunkedRunLogStore(backend), others_logs))
    (tmp_path / "program").write_text(f"#!/bin/sh\necho '{SECRET} {TOKEN}' >&2\nexit 3\n")
    (tmp_path / "program").chmod(0o700)
    (tmp_path / "AWS_CONFIG_FILE").write_text(f"[profile p]\ncredential_process = {tmp_path}/program\n")
    backend = S3Backend(
        bucket="b", endpoint_url="http://127.0.0.1:9", profile="p", region="r", deadline=2, lock_folder=tmp_path
    )
    said.append(everything_said(ChunkedRunLogStore(backend), others_logs))
    for text in said:
        assert "CredentialRetrievalError" in text
        assert leaks(text, SECRET, TOKEN) == []


def test_a_customers_key_is_shown_nowhere_also_when_it_is_refused(
    minio_server: S3Server, tmp_path: Path, others_logs: pytest.LogCaptureFixture
) -> None:
    key = base64.b64encode(SECRET.encode().ljust(32)[:32]).decode()
    backend = in_bucket(minio_server, tmp_path)
    settings = dataclasses.replace(backend.settings, endpoint_url="", sse_customer_key=key)  # type: ignore[attr-defined]
    assert leaks(f"{settings} {settings!r}", SECRET, key) == []
    refused = type(backend)(**dataclasses.asdict(settings))  # type: ignore[arg-type]
    os.environ["AWS_ENDPOINT_URL"] = minio_server.endpoint_url
    others_logs.set_level(logging.DEBUG, logger="s3fs")
    text = everything_said(ChunkedRunLogStore(refused), others_logs)
    assert "did not accept the request" in text, "MinIO takes no such key over an open wire"
    assert leaks(text, SECRET, key) == []


@contextlib.contextmanager
def answering(status: int, body: bytes) -> Iterator[str]:
    """A server that says the same to everything."""
    import threading
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_PUT = do_DELETE = do_HEAD = do_POST = do_GET  # noqa: N815  names of HTTP

        def log_message(self, format: str, *args: object) -> None:
            """Nobody reads it."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
