"""A server's certificate, the bucket in the host's name, and encryption at the server: on a MinIO with TLS and keys, for both engines."""

from __future__ import annotations

import base64
import contextlib
import importlib.util
import os
import secrets
import shutil
import subprocess
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("s3fs")

import servers
from chunkstore import ChunkedRunLogStore
from chunkstore.backends import ANY, CREATE, FOUND, unchanged
from chunkstore.backends.s3 import S3Backend
from chunkstore.errors import BackendUnavailableError, ConflictError, WriteStateUnknownError
from chunkstore.testing import CountingBackend
from servers import S3Server, ServerMissingError

KEY = "run/step.a.json"
MINE = base64.b64encode(secrets.token_bytes(32)).decode()
needs_obstore = pytest.mark.skipif(importlib.util.find_spec("obstore") is None, reason="obstore is not installed")
ENGINES = ["s3fs", pytest.param("obstore", marks=needs_obstore)]

HOSTED_BUCKET, HOSTED_DOMAIN = "127", "0.0.1"
"""The one bucket whose name before a host's gives a name that is loopback everywhere, without anybody to ask: 127.0.0.1."""


@dataclass(frozen=True)
class Secure:
    """A MinIO with TLS, a key for encryption, and buckets in the host's name."""

    port: int
    key: str
    secret: str
    authority: Path

    def backend(self, folder: Path, **settings: Any) -> S3Backend:
        given = {
            "bucket": "encrypted",
            "prefix": uuid.uuid4().hex,
            "endpoint_url": f"https://localhost:{self.port}",
            "key": self.key,
            "secret": self.secret,
            "region": servers.REGION,
            "ca_bundle": self.authority,
            "deadline": 20.0,
            "lock_folder": folder,
        }
        return S3Backend(**given | settings)

    def client(self) -> Any:
        import botocore.config

        return servers.botocore_session().create_client(
            "s3",
            endpoint_url=f"https://localhost:{self.port}",
            region_name=servers.REGION,
            aws_access_key_id=self.key,
            aws_secret_access_key=self.secret,
            verify=str(self.authority),
            config=botocore.config.Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
        )


def certificates(folder: Path) -> Path:
    """A certificate for loopback in the folder as MinIO wants it, and the authority's own."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make certificates with")
    authority, extra = folder / "ca.pem", folder / "extra"
    extra.write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nbasicConstraints=critical,CA:FALSE\n")
    (folder / "certs").mkdir()
    new = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-subj"]
    for command in (
        [*new, "/CN=authority", "-x509", "-days", "2", "-keyout", "ca.key", "-out", "ca.pem"],
        [*new, "/CN=localhost", "-keyout", "certs/private.key", "-out", "server.csr"],
        [*["openssl", "x509", "-req", "-in", "server.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2", "-extfile"], "extra",
         "-out", "certs/public.crt"],
    ):  # fmt: skip
        subprocess.run(command, cwd=folder, check=True, capture_output=True)
    return authority


@pytest.fixture(scope="module")
def secure(minio_server: S3Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secure]:
    folder = tmp_path_factory.mktemp("secure")
    authority = certificates(folder)
    (folder / "data" / HOSTED_BUCKET).mkdir(parents=True)
    (folder / "data" / "encrypted").mkdir()
    try:
        binary = servers.find_minio()
    except ServerMissingError as missing:
        servers.give_up(f"a MinIO of its own is missing: {missing}")
    key, secret = servers.new_credentials()
    environment = {
        "MINIO_ROOT_USER": key,
        "MINIO_ROOT_PASSWORD": secret,
        "MINIO_BROWSER": "off",
        "MINIO_UPDATE": "off",
        "MINIO_CI_CD": "on",
        "MINIO_DOMAIN": HOSTED_DOMAIN,
        "MINIO_KMS_SECRET_KEY": f"the-key:{base64.b64encode(secrets.token_bytes(32)).decode()}",
    }

    def command(port: int) -> list[str]:
        place = ["--certs-dir", str(folder / "certs"), "--address", f"127.0.0.1:{port}"]
        return [binary, "server", "--quiet", *place, str(folder / "data")]

    with servers.running(command, folder, environment=environment) as url:
        yield Secure(int(url.rpartition(":")[2]), key, secret, authority)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing of the user's own about certificates and proxies."""
    for name in ("AWS_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "HTTPS_PROXY", "https_proxy", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_server_of_an_own_authority_is_trusted_by_ca_bundle_and_refused_clearly_without(
    secure: Secure, engine: str, tmp_path: Path
) -> None:
    with contextlib.closing(secure.backend(tmp_path, engine=engine)) as backend:
        backend.put(KEY, b"x", CREATE)
        assert backend.get(KEY).data == b"x"
        assert backend.engine == engine
    with contextlib.closing(secure.backend(tmp_path, engine=engine, ca_bundle="")) as backend:
        with pytest.raises(BackendUnavailableError, match="the setting ca_bundle, or AWS_CA_BUNDLE, names") as caught:
            backend.put(KEY, b"x", ANY)
        assert not caught.value.transient
        assert not isinstance(caught.value, WriteStateUnknownError)
    (tmp_path / "no.pem").write_text("no certificate")
    with contextlib.closing(secure.backend(tmp_path, engine=engine, ca_bundle=tmp_path / "no.pem")) as backend:
        with pytest.raises(BackendUnavailableError, match="ca_bundle holds no certificates") as caught:
            backend.put(KEY, b"x", ANY)
        assert not caught.value.transient


@pytest.mark.parametrize("engine", ENGINES)
def test_sts_is_trusted_by_the_same_authority(secure: Secure, engine: str, tmp_path: Path) -> None:
    sts = {"role_arn": "arn:aws:iam::123456789012:role/writer", "sts_endpoint_url": f"https://localhost:{secure.port}"}
    with contextlib.closing(secure.backend(tmp_path, engine=engine, **sts)) as backend:
        backend.put(KEY, b"x", CREATE)
        assert backend.signed_as.startswith("role arn:aws:iam::123456789012:role/writer, assumed with the settings key")
    with contextlib.closing(secure.backend(tmp_path, engine=engine, ca_bundle="", **sts)) as backend:
        with pytest.raises(BackendUnavailableError, match=r"could not be assumed .*SSL") as caught:
            backend.put(KEY, b"x", ANY)
        assert not caught.value.transient


@pytest.mark.parametrize("engine", ENGINES)
def test_the_bucket_stands_in_the_name_of_the_host_where_that_is_asked_for(
    secure: Secure, engine: str, tmp_path: Path
) -> None:
    url = f"https://{HOSTED_DOMAIN}:{secure.port}"
    settings = {"bucket": HOSTED_BUCKET, "endpoint_url": url, "engine": engine, "prefix": engine}
    with contextlib.closing(secure.backend(tmp_path, addressing_style="virtual", **settings)) as backend:
        version = backend.put(KEY, b"one", CREATE)
        version = backend.put(KEY, b"two", unchanged(version))
        assert backend.get(KEY) == (b"two", version)
        assert [entry.version for entry in backend.list("run/")] == [version]
        assert list(backend.folders()) == ["run"]
        assert backend.engine == engine
        path = secure.client().get_paginator("list_objects_v2").paginate(Bucket=HOSTED_BUCKET, Prefix=engine)
        assert [found["Key"] for page in path for found in page["Contents"]] == [f"{engine}/{KEY}"]
        backend.delete(KEY)


WAYS: dict[str, tuple[dict[str, str], dict[str, str]]] = {
    "AES256": ({"server_side_encryption": "AES256"}, {"ServerSideEncryption": "AES256"}),
    "kms": ({"server_side_encryption": "aws:kms"}, {"ServerSideEncryption": "aws:kms"}),
    "own key of kms": (
        {"server_side_encryption": "aws:kms", "sse_kms_key_id": "the-key"},
        {"ServerSideEncryption": "aws:kms", "SSEKMSKeyId": "arn:aws:kms:the-key"},
    ),
    "customer's key": ({"sse_customer_key": MINE}, {"SSECustomerAlgorithm": "AES256"}),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", WAYS)
def test_the_server_encrypts_every_object_and_conditions_hold_as_without(
    secure: Secure, way: str, engine: str, tmp_path: Path
) -> None:
    settings, told = WAYS[way]
    with contextlib.closing(secure.backend(tmp_path, engine=engine, **settings)) as backend:
        assert backend.guarantees.across_hosts
        first = backend.put(KEY, b"one", CREATE)
        with pytest.raises(ConflictError):
            backend.put(KEY, b"two", CREATE)
        second = backend.put(KEY, b"two", unchanged(first))
        with pytest.raises(ConflictError):
            backend.put(KEY, b"three", unchanged(first))
        third = backend.put("run/b.json", b"two" * 400_000, FOUND)
        assert backend.get(KEY) == (b"two", second)
        assert backend._server.version(KEY) == second
        assert dict(backend.get_many([KEY, "run/b.json"]))["run/b.json"] == (b"two" * 400_000, third)
        assert {entry.key: entry.version for entry in backend.list("run/")} == {KEY: second, "run/b.json": third}
        assert backend.engine == engine
        assert told.items() <= _raw_head(secure, backend, way).items()
        backend.delete(KEY)
        assert [entry.key for entry in backend.list("run/")] == ["run/b.json"]


def _raw_head(secure: Secure, backend: S3Backend, way: str) -> dict[str, Any]:
    key: dict[str, Any] = {}
    if way == "customer's key":
        key = {"SSECustomerAlgorithm": "AES256", "SSECustomerKey": base64.b64decode(MINE)}
        with pytest.raises(Exception, match="400"):
            secure.client().head_object(Bucket="encrypted", Key=f"{backend.settings.prefix}/{KEY}")
    head: dict[str, Any] = secure.client().head_object(
        Bucket="encrypted", Key=f"{backend.settings.prefix}/{KEY}", **key
    )
    return head


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("given", ["", base64.b64encode(secrets.token_bytes(32)).decode()], ids=["none", "another one"])
def test_who_lacks_the_customers_key_gets_an_error_and_not_the_object(
    secure: Secure, given: str, engine: str, tmp_path: Path
) -> None:
    with contextlib.closing(secure.backend(tmp_path, engine=engine, sse_customer_key=MINE)) as backend:
        backend.put(KEY, b"x", CREATE)
        other = secure.backend(tmp_path, engine=engine, prefix=backend.settings.prefix, sse_customer_key=given)
        with contextlib.closing(other), pytest.raises(BackendUnavailableError) as caught:
            other.get(KEY)
        assert not caught.value.transient


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", ["kms", "customer's key"])
def test_a_store_asks_no_more_often_where_versions_are_no_digests_of_the_bytes(
    secure: Secure, way: str, engine: str, tmp_path: Path
) -> None:
    with contextlib.closing(secure.backend(tmp_path, engine=engine, **WAYS[way][0])) as backend:
        assert backend.put(KEY, b"x", FOUND) != backend.put(KEY, b"x", ANY), "or nothing is shown here"
        counting = CountingBackend(backend)
        store = ChunkedRunLogStore(counting)
        store.create_run_log("r")
        steps = [store.create_step_log(name, name) for name in ("a", "b", "c")]
        for step in steps:
            store.add_step_log(step, "r")
        steps[0].status = "SUCCESS"
        store.add_step_log(steps[0], "r")
        store.set_parameters("r", {"x": 1})
        assert (counting.by_verb, counting.requests) == ({"put": 6}, 6)
        counting.reset()
        assert set(store.get_run_log_by_id("r").steps) == {"a", "b", "c"}
        assert counting.by_verb == {"list": 1}, "all is known, in the version that the listing tells"
        other = ChunkedRunLogStore(counting)
        counting.reset()
        assert other.get_run_log_by_id("r").steps["a"].status == "SUCCESS"
        assert counting.by_verb == {"list": 1, "get_many": 5}
        other.update_run_log_status("r", "SUCCESS")
        counting.reset()
        assert store.get_run_log_by_id("r").status == "SUCCESS"
        assert counting.by_verb == {"list": 1, "get_many": 1}


@pytest.mark.parametrize("engine", ENGINES)
def test_encryption_is_asked_for_by_writes_alone(engine: str, tmp_path: Path) -> None:
    """AWS refuses reads that ask for it."""
    from test_s3_engines import Heard, backend_at

    with contextlib.closing(Heard()) as heard:
        settings = {"key": "k", "secret": "s", "region": "r", "engine": engine}
        encryption = {"server_side_encryption": "aws:kms:dsse", "sse_kms_key_id": "its-key"}
        url = f"http://127.0.0.1:{heard.port}"
        with contextlib.closing(backend_at(url, tmp_path, **settings, **encryption)) as backend:
            backend.put(KEY, b"x", CREATE)
            backend.get(KEY)
            backend._server.version(KEY)
            backend.delete(KEY)
            assert backend.engine == engine
        asked = [
            {name: value for name, value in headers.items() if "server-side" in name}
            for _, _, headers in heard.requests
        ]
    name = "x-amz-server-side-encryption"
    assert asked == [{name: "aws:kms:dsse", f"{name}-aws-kms-key-id": "its-key"}, {}, {}, {}]


@needs_obstore
def test_what_the_environment_would_make_of_obstores_writes_alone_is_left_to_s3fs(
    secure: Secure, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SSE_BUCKET_KEY_ENABLED", "true")
    with contextlib.closing(secure.backend(tmp_path, server_side_encryption="aws:kms")) as backend:
        backend.put(KEY, b"x", CREATE)
        assert backend.engine == "s3fs"
    assert os.environ["AWS_SSE_BUCKET_KEY_ENABLED"] == "true"
