"""Credentials are found where the settings say, renewed in time and after a refusal, for both engines; what is missing is named."""

from __future__ import annotations

import contextlib
import http.server
import importlib.util
import json
import os
import pickle
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("s3fs")

import chunkstore
import places
from chunkstore.backends import ANY, CREATE, FOUND, unchanged
from chunkstore.backends.probe import remember
from chunkstore.backends.s3 import S3Backend
from chunkstore.errors import BackendUnavailableError, InvalidInputError, WriteStateUnknownError
from role_gate import ROLE, Gate, role_gate
from servers import S3Server, free_port

KEY = "run/step.a.json"
SECRET = "the-secret-that-nobody-may-see"
needs_obstore = pytest.mark.skipif(importlib.util.find_spec("obstore") is None, reason="obstore is not installed")
ENGINES = ["s3fs", pytest.param("obstore", marks=needs_obstore)]
LIFE = 1.2


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> pytest.MonkeyPatch:
    """No credentials and settings of the user's own."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name in ("AWS_SHARED_CREDENTIALS_FILE", "AWS_CONFIG_FILE"):
        monkeypatch.setenv(name, str(tmp_path / name))
        (tmp_path / name).touch()
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    return monkeypatch


Make = Callable[..., S3Backend]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    """Backends whose probe is answered already."""
    with contextlib.ExitStack() as made:

        def new(**settings: Any) -> S3Backend:
            settings = {"bucket": "bucket", "region": "us-east-1", "deadline": 10.0} | settings
            backend = S3Backend(lock_folder=tmp_path / "locks", **settings)
            remember(backend.settings.root, "cas")
            made.callback(backend.close)
            return backend

        yield new


# A role, by real STS servers; the gate makes its credentials short-lived.


@pytest.fixture
def gate(minio_server: S3Server) -> Iterator[Gate]:
    with role_gate(minio_server.endpoint_url, life=LIFE) as gate:
        yield gate


def as_role(gate: Gate, server: S3Server, **settings: Any) -> dict[str, Any]:
    return {
        "bucket": server.new_bucket(),
        "endpoint_url": gate.url,
        "sts_endpoint_url": gate.url,
        "role_arn": ROLE,
        "key": server.key,
        "secret": server.secret,
    } | settings


def by_hand(gate: Gate, server: S3Server, **settings: Any) -> dict[str, Any]:
    """The same credentials, asked for once and then kept."""
    import botocore.session

    client = botocore.session.get_session().create_client(
        "sts",
        endpoint_url=gate.url,
        region_name="us-east-1",
        aws_access_key_id=server.key,
        aws_secret_access_key=server.secret,
    )
    got = client.assume_role(RoleArn=ROLE, RoleSessionName="by-hand")["Credentials"]
    given = {"key": got["AccessKeyId"], "secret": got["SecretAccessKey"], "token": got["SessionToken"]}
    return {"bucket": server.new_bucket(), "endpoint_url": gate.url, **given} | settings


def counted(backend: S3Backend, name: str, going_on: Callable[[], bool]) -> int:
    """Counts one object up for as long as it is told; how far it came."""
    key, count = f"run/{name}.json", 0
    version = backend.put(key, b"0", FOUND)
    while going_on():
        count += 1
        version = backend.put(key, str(count).encode(), unchanged(version))
    return count


@pytest.mark.parametrize(
    ("name", "engine"), [("minio", "s3fs"), ("moto", "s3fs"), pytest.param("minio", "obstore", marks=needs_obstore)]
)
def test_a_run_longer_than_the_roles_credentials_live_loses_nothing(
    name: str, engine: str, request: pytest.FixtureRequest, make: Make
) -> None:
    server: S3Server = request.getfixturevalue(f"{name}_server")
    with role_gate(server.endpoint_url, life=LIFE) as gate:
        backend = make(**as_role(gate, server, engine=engine))
        until = time.monotonic() + 60

        def going_on() -> bool:
            return bool(gate.seen()["lives"] < 3) and time.monotonic() < until

        with ThreadPoolExecutor(4) as pool:
            counts = list(pool.map(lambda number: counted(backend, str(number), going_on), range(4)))
        seen = gate.seen()
        assert [int(backend.get(f"run/{number}.json").data) for number in range(4)] == counts
    assert backend.engine == engine
    assert seen["lives"] == 3, "the run was longer than the life of two sessions"
    assert seen["sts"] <= seen["lives"] + 1, "all writers share one request for new credentials"
    assert seen["asked"][0]["DurationSeconds"] == "900"


@pytest.mark.parametrize("engine", ENGINES)
def test_without_renewal_the_same_run_ends_when_the_credentials_do(
    engine: str, gate: Gate, minio_server: S3Server, make: Make
) -> None:
    gate.tell(life=0.7)
    backend = make(**by_hand(gate, minio_server, engine=engine))
    until = time.monotonic() + 60
    with pytest.raises(BackendUnavailableError, match="the credentials have expired") as caught:
        counted(backend, "one", lambda: time.monotonic() < until)
    assert not isinstance(caught.value, WriteStateUnknownError)
    assert not caught.value.transient
    assert gate.seen()["refused"] == 1, "there are no others, so nothing is sent again"


@pytest.mark.parametrize("engine", ENGINES)
def test_sixty_four_writers_ask_once_for_credentials_at_the_start_and_once_after_they_were_refused(
    engine: str, gate: Gate, minio_server: S3Server, make: Make
) -> None:
    gate.tell(life=600)
    backend = make(**as_role(gate, minio_server, engine=engine, max_connections=64, deadline=30.0))
    together = threading.Barrier(64)

    def write(name: str) -> str:
        together.wait(60)
        return backend.put(f"run/{name}.json", name.encode(), CREATE)

    with ThreadPoolExecutor(64) as pool:
        assert all(pool.map(write, [f"first{number}" for number in range(64)]))
        assert {name: gate.seen()[name] for name in ("sts", "s3", "refused")} == {"sts": 1, "s3": 64, "refused": 0}
        gate.tell(revoke=True)
        assert all(pool.map(write, [f"second{number}" for number in range(64)]))
    seen = gate.seen()
    assert seen["sts"] == 2
    assert seen["s3"] == 128 + seen["refused"], "each write that was refused was sent once more, and landed once"
    gate.tell(revoke=True)
    assert backend._server.version("run/first1.json"), "a HEAD is refused without a reason"
    assert gate.seen()["sts"] == 3


@pytest.mark.parametrize(
    ("fails", "engine"), [("503 ServiceUnavailable", "s3fs"), pytest.param("hang", "obstore", marks=needs_obstore)]
)
def test_a_failing_sts_is_noticed_only_when_the_credentials_that_are_there_have_expired(
    fails: str, engine: str, gate: Gate, minio_server: S3Server, make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    backend = make(**as_role(gate, minio_server, engine=engine, deadline=0.9))
    backend.put(KEY, b"0", FOUND)
    held = backend._server.engine.credentials.held
    gate.tell(sts=fails)
    assert held is not None
    assert held.expires is not None
    with pytest.raises(
        BackendUnavailableError, match="could not be assumed with the settings key and secret"
    ) as caught:
        counted(backend, "one", lambda: True)
    assert time.time() >= held.expires
    assert caught.value.transient
    assert not isinstance(caught.value, WriteStateUnknownError)
    assert fails == "hang" or "Those that are there are used until they expire" in caplog.text
    assert gate.seen()["sts"] < 30, "it is left in peace between two tries"
    gate.tell(sts="")
    backend.put(KEY, b"1", ANY)


def test_settings_travel_to_other_processes_and_credentials_do_not(
    gate: Gate, minio_server: S3Server, make: Make
) -> None:
    gate.tell(life=600)
    backend = make(**as_role(gate, minio_server, external_id="their own", role_session_name="nightly"))
    backend.put(KEY, b"x", CREATE)
    held = backend._server.engine.credentials.held
    assert held is not None
    pickled = pickle.dumps(backend)
    assert held.frozen.token.encode() not in pickled
    with contextlib.closing(pickle.loads(pickled)) as copy:
        assert copy.get(KEY).data == b"x"
    assert places.at_once(_read_in_child, [(backend,)] * 2) == [b"x"] * 2
    seen = gate.seen()
    assert seen["sts"] == 3, "one for each process, whose copies share them"
    assert {(asked["ExternalId"], asked["RoleSessionName"]) for asked in seen["asked"]} == {("their own", "nightly")}


def _read_in_child(backend: S3Backend) -> bytes:
    return backend.get(KEY).data


# The usual places, by botocore's own chain.


class Giver:
    """Gives credentials as a container, an instance or STS does: one, two, three, each for `life` seconds. As an S3 server it takes
    all but expired ones for good, and keeps who asked.
    """

    def __init__(self) -> None:
        self.life = 3600.0
        self.over: list[str] = []
        self.given: dict[str, float] = {}
        self.signed: list[str] = []
        self.refused: set[str] = set()
        self.answers_sts = True
        giver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 20

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                status, headers, data = giver.answer(
                    self.command, self.path, self.headers.get("authorization", ""), body
                )
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(data))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(data)

            do_GET = do_PUT = do_POST = do_DELETE = answer  # noqa: N815 - the base class calls them so

            def log_message(self, format: str, *args: object) -> None:
                """Nobody listens."""

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads, self._http.block_on_close = True, False
        self.url = f"http://127.0.0.1:{self._http.server_port}"
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()

    def answer(self, verb: str, path: str, signature: str, body: bytes) -> tuple[int, dict[str, str], bytes]:
        if path == "/latest/api/token":
            return 200, {"x-aws-ec2-metadata-token-ttl-seconds": "600"}, b"metadata"
        if path == "/latest/meta-data/iam/security-credentials/":
            return 200, {}, b"the-role"
        if path.startswith(("/creds", "/latest/meta-data/iam/security-credentials/the-role")):
            return 200, {}, json.dumps(self.give()).encode()
        if verb == "POST":
            assert b"Action=AssumeRoleWithWebIdentity" in body
            assert b"WebIdentityToken=who-I-am" in body
            fields = "".join(f"<{name}>{value}</{name}>" for name, value in self.give().items()).replace(
                "Token>", "SessionToken>"
            )
            name = "AssumeRoleWithWebIdentity"
            return (
                200,
                {},
                f"<{name}Response><{name}Result><Credentials>{fields}</Credentials></{name}Result></{name}Response>".encode(),
            )
        key = signature.split("Credential=")[1].split("/", maxsplit=1)[0]
        self.signed.append(key)
        if key in self.refused or self.given.get(key, time.time() + 1) < time.time():
            self.over.append(key)
            return 400, {}, b"<Error><Code>ExpiredToken</Code><Message>as told</Message></Error>"
        return 200, {"ETag": '"v"', "Last-Modified": "Sat, 21 Nov 2026 12:00:00 GMT"}, b""

    def give(self) -> dict[str, str]:
        key = f"key{len(self.given) + 1}"
        end = datetime.now(UTC) + timedelta(seconds=self.life)
        self.given[key] = end.timestamp()
        return {
            "Code": "Success",
            "AccessKeyId": key,
            "SecretAccessKey": SECRET,
            "Token": "token",
            "Expiration": end.strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        }

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


@pytest.fixture
def giver() -> Iterator[Giver]:
    with contextlib.closing(Giver()) as giver:
        yield giver


def container(giver: Giver, alone: pytest.MonkeyPatch, _folder: Path) -> str:
    alone.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", f"{giver.url}/creds")
    return "the role of the container, until 20"


def instance(giver: Giver, alone: pytest.MonkeyPatch, _folder: Path) -> str:
    alone.delenv("AWS_EC2_METADATA_DISABLED")
    alone.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", giver.url)
    return "the role of the instance, until 20"


def web_identity(giver: Giver, alone: pytest.MonkeyPatch, folder: Path) -> str:
    (folder / "token").write_text("who-I-am")
    alone.setenv("AWS_WEB_IDENTITY_TOKEN_FILE", str(folder / "token"))
    alone.setenv("AWS_ROLE_ARN", ROLE)
    alone.setenv("AWS_ENDPOINT_URL_STS", giver.url)
    return "a role by its web identity token, until 20"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("way", [container, instance, web_identity])
def test_roles_that_the_surroundings_give_are_found_by_botocores_chain_and_renewed(
    way: Callable[..., str], engine: str, giver: Giver, make: Make, alone: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    source = way(giver, alone, tmp_path)
    backend = make(endpoint_url=giver.url, engine=engine)
    backend.put(KEY, b"x", ANY)
    assert backend.signed_as.startswith(source)
    backend.put(KEY, b"x", ANY)
    assert giver.signed == ["key1", "key1"]
    giver.refused.add("key1")
    backend.put(KEY, b"x", ANY)
    assert giver.signed == ["key1", "key1", "key1", "key2"]


def test_short_lived_credentials_of_a_container_are_renewed_before_they_expire(
    giver: Giver, make: Make, alone: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    giver.life = LIFE
    container(giver, alone, tmp_path)
    backend = make(endpoint_url=giver.url, engine="s3fs")
    until = time.monotonic() + 60
    while len(set(giver.signed)) < 3 and time.monotonic() < until:
        backend.put(KEY, b"x", ANY)
    assert len(set(giver.signed)) == 3
    assert giver.over == []


# The settings.


def profiles(file: Path, **keys: str) -> Path:
    lines = [
        f"[{name}]\naws_access_key_id = {key}\naws_secret_access_key = {SECRET}\naws_session_token = t\n"
        for name, key in keys.items()
    ]
    file.write_text("\n".join(lines))
    return file


def in_file(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    alone.setenv("AWS_ACCESS_KEY_ID", "of-the-environment")
    alone.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    file = profiles(folder / "mine.ini", default="mine", other="other")
    return {"credentials_file": file}, f"profile 'default' of {file}"


def of_profile_in_file(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    file = profiles(folder / "mine.ini", default="other", special="mine")
    return {"credentials_file": file, "profile": "special"}, f"profile 'special' of {file}"


def of_default_file(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    file = profiles(folder / "AWS_SHARED_CREDENTIALS_FILE", default="other", special="mine")
    return {"profile": "special"}, f"profile 'special' of {file}"


def in_environment(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    profiles(folder / "AWS_SHARED_CREDENTIALS_FILE", default="other")
    for name, value in {"AWS_ACCESS_KEY_ID": "mine", "AWS_SECRET_ACCESS_KEY": SECRET}.items():
        alone.setenv(name, value)
    return {"use_credentials": True}, "the environment's AWS_ACCESS_KEY_ID"


def with_the_usual_file(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    """As configurations of magnus may say all that they could."""
    settings, source = in_environment(alone, folder)
    return {**settings, "credentials_file": "~/.aws/credentials"}, source


def renamed(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    values = {"AWS_ACCESS_KEY_ID": "other", "AWS_SECRET_ACCESS_KEY": "other", "MY_KEY": "mine", "MY_SECRET": SECRET}
    for name, value in values.items():
        alone.setenv(name, value)
    names = {"access_key_name": "MY_KEY", "secret_access_key_name": "MY_SECRET", "session_token_name": "MY_TOKEN"}
    return {"use_credentials": True, **names}, "the environment's MY_KEY"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "way", [in_file, of_profile_in_file, of_default_file, in_environment, with_the_usual_file, renamed]
)
def test_credentials_come_from_where_the_settings_say(
    way: Callable[..., tuple[dict[str, Any], str]],
    engine: str,
    giver: Giver,
    make: Make,
    alone: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    settings, source = way(alone, tmp_path)
    backend = make(endpoint_url=giver.url, engine=engine, **settings)
    backend.put(KEY, b"x", ANY)
    assert giver.signed == ["mine"]
    assert backend.signed_as == source


def test_a_file_that_a_program_has_renewed_is_read_again_when_the_old_credentials_are_refused(
    giver: Giver, make: Make, tmp_path: Path
) -> None:
    file = profiles(tmp_path / "mine.ini", default="old")
    backend = make(endpoint_url=giver.url, credentials_file=file)
    backend.put(KEY, b"x", ANY)
    giver.refused.add("old")
    profiles(file, default="new")
    backend.put(KEY, b"x", CREATE)
    assert giver.signed == ["old", "old", "new"]


def test_the_door_passes_every_setting_of_a_bucket_on() -> None:
    given = {
        "endpoint_url": "https://127.0.0.1:9",
        "region": "r",
        "addressing_style": "virtual",
        "ca_bundle": "ca.pem",
        "key": "k",
        "secret": SECRET,
        "token": "t",
        "role_arn": ROLE,
        "role_session_name": "nightly",
        "external_id": "their own",
        "session_duration_in_seconds": 1800,
        "sts_endpoint_url": "https://127.0.0.1:8",
        "sse_customer_key": "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
        "conditional_writes": "require",
        "engine": "s3fs",
        "lock_folder": "locks",
    }
    made = chunkstore.open("s3://b/p", **given).backend.settings  # type: ignore[attr-defined]
    assert {name: getattr(made, name) for name in given} == given
    elsewhere = {"profile": "p", "credentials_file": "f", "server_side_encryption": "aws:kms", "sse_kms_key_id": "id"}
    made = chunkstore.open("s3://b/p", **elsewhere).backend.settings  # type: ignore[attr-defined]
    assert {name: getattr(made, name) for name in elsewhere} == elsewhere


# What is missing, or wrong.


def no_profile(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    profiles(folder / "AWS_SHARED_CREDENTIALS_FILE", production="x")
    return {"profile": "prodution"}, r"no profile 'prodution' in .*Set profile to one that is there: production\."


def no_profile_of_environment(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    alone.setenv("AWS_PROFILE", "[red]nobody")
    return {}, r"no profile '\[red\]nobody' in .*Make it: aws configure\."


def no_file(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    return {"credentials_file": folder / "none"}, r"credentials_file cannot be read: .*none\)\. Correct its name"


def damaged_file(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    (folder / "torn").write_text(f"aws_secret_access_key = {SECRET}\n[half")
    return {"credentials_file": folder / "torn"}, r"could not be taken from the usual places of AWS: ConfigParseError\)"


def half_a_profile(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    (folder / "half").write_text(f"[default]\naws_access_key_id = {SECRET}\n")
    return {"credentials_file": folder / "half"}, r"PartialCredentialsError\)"


def no_variable(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    alone.setenv("AWS_ACCESS_KEY_ID", "mine")
    wanted = r"use_credentials is set, and the environment has no AWS_SECRET_ACCESS_KEY\)\. Set it, or name other"
    return {"use_credentials": True}, wanted


def nothing_at_all(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    return {}, r"no usable credentials were found \(nothing in the environment, .*Give key and secret, or a profile"


def failing_program(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    program = folder / "program"
    program.write_text(f"#!/bin/sh\necho {SECRET} >&2\nexit 1\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    (folder / "AWS_CONFIG_FILE").write_text(f"[default]\ncredential_process = {program}\n")
    return {}, r"CredentialRetrievalError\)\. Look with `aws sts"


def no_authority(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    wanted = r"could not be trusted \(ca_bundle cannot be read: .*none\.pem\)\. Name a file"
    return {"key": "k", "secret": SECRET, "ca_bundle": folder / "none.pem"}, wanted


def nobody_at_sts(alone: pytest.MonkeyPatch, folder: Path) -> tuple[dict[str, Any], str]:
    settings = {"key": "k", "secret": SECRET, "role_arn": ROLE, "deadline": 1.0}
    url = f"http://127.0.0.1:{free_port()}"
    return {**settings, "sts_endpoint_url": url}, "could not be assumed .*Check that STS can be reached"


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "way",
    [
        no_profile,
        no_profile_of_environment,
        no_file,
        damaged_file,
        half_a_profile,
        no_variable,
        nothing_at_all,
        failing_program,
        no_authority,
        nobody_at_sts,
    ],
)
def test_what_is_missing_is_named_with_the_next_step_and_nothing_is_sent(
    way: Callable[..., tuple[dict[str, Any], str]],
    engine: str,
    giver: Giver,
    make: Make,
    alone: pytest.MonkeyPatch,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    settings, wanted = way(alone, tmp_path)
    backend = make(endpoint_url=giver.url, engine=engine, **settings)
    with pytest.raises(BackendUnavailableError, match=wanted) as caught:
        backend.put(KEY, b"x", ANY)
    assert not isinstance(caught.value, WriteStateUnknownError)
    assert caught.value.transient == (way is nobody_at_sts)
    assert giver.signed == []
    assert SECRET not in "".join(_all_that_is_said(caught.value)) + caplog.text


def _all_that_is_said(error: BaseException) -> Iterator[str]:
    link: BaseException | None = error
    while link is not None:
        yield f"{link} {link!r} {vars(link)}"
        link = link.__cause__ or link.__context__


@pytest.mark.parametrize(
    ("code", "wanted"),
    [
        ("403 AccessDenied", "The role's trust policy must name who assumes it"),
        ("403 InvalidClientTokenId", "sts_endpoint_url where the bucket is not at AWS"),
        ("403 SignatureDoesNotMatch", "Check the secret of the credentials that assume the role"),
        ("403 ExpiredToken", "Renew the credentials that assume the role"),
        ("400 ValidationError", "session_duration_in_seconds is not above what the role allows"),
    ],
)
def test_a_role_that_is_refused_is_named_with_who_asked_and_why(
    code: str, wanted: str, faults_server: S3Server, make: Make
) -> None:
    with role_gate(faults_server.endpoint_url, life=60) as gate:
        gate.tell(sts=code)
        backend = make(endpoint_url=gate.url, sts_endpoint_url=gate.url, role_arn=ROLE, key="k", secret=SECRET)
        named = f"role {ROLE} could not be assumed with the settings key and secret: {code}"
        with pytest.raises(BackendUnavailableError, match=named) as caught:
            backend.put(KEY, b"x", ANY)
        assert wanted in str(caught.value)
        assert not caught.value.transient
        assert gate.seen()["sts"] == 1


FIVE: dict[str, Any] = {"key": "k", "secret": SECRET}


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({"token": SECRET}, "token belongs to key and secret"),
        ({"use_credentials": True, "profile": "p"}, "leave one out"),
        ({"use_credentials": True, **FIVE}, "leave one out"),
        ({"credentials_file": "f", **FIVE}, "leave one out"),
        ({"access_key_name": "MY_KEY"}, "with use_credentials only: set it too"),
        ({"use_credentials": True, "session_token_name": ""}, "must have a name"),
        ({"external_id": SECRET}, "external_id is used with role_arn only"),
        ({"role_session_name": "nightly"}, "role_session_name is used with role_arn only"),
        ({"sts_endpoint_url": "http://h"}, "sts_endpoint_url is used with role_arn only"),
        ({"role_arn": "writer"}, "role_arn must be as arn:aws:iam::123456789012:role/name, not 'writer'"),
        ({"role_arn": ROLE, "role_session_name": "a b"}, "role_session_name must be 2 to 64 letters"),
        ({"role_arn": ROLE, "session_duration_in_seconds": 60}, "at least 900, not 60"),
        ({"role_arn": ROLE, "sts_endpoint_url": f"http://k:{SECRET}@h"}, "sts_endpoint_url holds credentials"),
        ({"role_arn": ROLE, "sts_endpoint_url": "sts.local"}, "sts_endpoint_url must begin with http"),
        ({"addressing_style": "host"}, "addressing_style must be auto, path or virtual, not 'host'"),
        ({"server_side_encryption": "rot13"}, "must be AES256, aws:kms or aws:kms:dsse, not 'rot13'"),
        ({"sse_kms_key_id": "id"}, "sse_kms_key_id needs server_side_encryption"),
        ({"sse_customer_key": SECRET}, "must be 32 bytes in base64"),
        ({"sse_customer_key": "A" * 44, "server_side_encryption": "AES256"}, "two ways to encrypt"),
        ({"sse_customer_key": "A" * 43 + "=", "endpoint_url": "http://h"}, "would be sent unencrypted"),
    ],
)
def test_settings_that_contradict_each_other_or_would_not_be_used_are_refused(
    settings: dict[str, Any], wanted: str
) -> None:
    with pytest.raises(InvalidInputError, match=wanted) as refused:
        S3Backend(bucket="b", **settings)
    assert SECRET not in "".join(_all_that_is_said(refused.value))


def test_no_secret_setting_is_shown() -> None:
    key = "A" * 43 + "="
    backend = S3Backend(
        bucket="b", key="k", secret=SECRET, token=SECRET, external_id=SECRET, role_arn=ROLE, sse_customer_key=key
    )
    shown = (
        f"{backend!r} {backend.settings!r} {backend.place} {backend._server.__dict__} {backend._server.engine.__dict__}"
    )
    assert SECRET not in shown
    assert key not in shown
    assert ROLE in shown, "that is no secret, and people look for it"


def test_the_program_ends_quietly_while_credentials_are_being_renewed(gate: Gate, minio_server: S3Server) -> None:
    import subprocess

    settings = as_role(gate, minio_server)
    gate.tell(life=600)
    program = f"""
import json, sys
from dataclasses import replace
import time
from chunkstore.backends import ANY
from chunkstore.backends.s3 import S3Backend
backend = S3Backend(region="us-east-1", **json.loads(sys.argv[1]))
backend.put("run/a.json", b"x", ANY)
credentials = backend._server.engine.credentials
credentials._held = replace(credentials.held, found=time.time() - 900, expires=time.time() + 60)
import urllib.request
urllib.request.urlopen({gate.url + "/-/"!r}, b'{{"sts": "hang"}}').read()
backend.put("run/a.json", b"x", ANY)
assert not credentials._renewing.done()
"""
    done = subprocess.run(
        [sys.executable, "-c", program, json.dumps(settings)], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
