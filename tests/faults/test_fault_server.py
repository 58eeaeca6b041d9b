"""The fault server is an exact S3 server, and each of its faults is what its name says."""

from __future__ import annotations

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from fault_server import FAULTS, FaultServer, Rule, fault_server

botocore_exceptions = pytest.importorskip("botocore.exceptions")

DONE = {"lost_reply", "reset_reply", "500_after", "504_after", "412_echo", "412_echo_bare", "412_echo_empty"}
DONE |= {"hang_after", "cut_head", "cut_body", "bad_xml", "empty_200", "page_200", "slow", "delay"}
HELD = {"zombie_cut", "zombie_hang"}


@pytest.fixture(scope="module")
def faults() -> Iterator[FaultServer]:
    with fault_server() as server:
        yield server


@pytest.fixture
def client(faults: FaultServer) -> Iterator[Any]:
    client = faults.s3.client()
    yield client
    client.close()
    faults.calm()
    faults.quirks()


def status(error: Any) -> int:
    found: int = error.value.response["ResponseMetadata"]["HTTPStatusCode"]
    return found


def test_it_honours_both_conditions_with_md5_versions(faults: FaultServer, client: Any) -> None:
    at = {"Bucket": faults.s3.new_bucket(), "Key": "a b/ü%&<.json"}
    first = client.put_object(**at, Body=b"1", IfNoneMatch="*")["ETag"]
    assert first == '"c4ca4238a0b923820dcc509a6f75849b"'
    for condition in ({"IfNoneMatch": "*"}, {"IfMatch": '"other"'}):
        with pytest.raises(botocore_exceptions.ClientError) as caught:
            client.put_object(**at, Body=b"2", **condition)
        assert status(caught) == 412
    client.put_object(**at, Body=b"2", IfMatch=first)
    assert client.get_object(**at)["Body"].read() == b"2"
    assert client.head_object(**at)["ContentLength"] == 1
    client.delete_object(**at)
    for absent in (client.get_object, client.head_object):
        with pytest.raises(botocore_exceptions.ClientError) as caught:
            absent(**at)
        assert status(caught) == 404
    with pytest.raises(botocore_exceptions.ClientError) as caught:
        client.put_object(**at, Body=b"3", IfMatch=first)
    assert status(caught) == 404


@pytest.mark.parametrize("quirks", [(), ("small_pages",), ("small_pages", "unquoted_lists")])
def test_its_listings_are_complete_whatever_the_page(faults: FaultServer, client: Any, quirks: tuple[str, ...]) -> None:
    bucket = faults.s3.new_bucket()
    names = sorted(f"{folder}/{number} ü&.json" for folder in "abcd" for number in range(3))
    faults.fill(bucket, dict.fromkeys([*names, "z"], b"1"))
    faults.quirks(*quirks)
    pages = list(client.get_paginator("list_objects_v2").paginate(Bucket=bucket))
    assert [found["Key"] for page in pages for found in page["Contents"]] == [*names, "z"]
    pages = list(client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Delimiter="/"))
    assert [found["Prefix"] for page in pages for found in page.get("CommonPrefixes", ())] == ["a/", "b/", "c/", "d/"]
    assert [found["Key"] for page in pages for found in page.get("Contents", ())] == ["z"]
    some = client.list_objects_v2(Bucket=bucket, Prefix="b/", MaxKeys=2)
    assert [found["Key"] for found in some["Contents"]] == names[3:5]
    assert some["IsTruncated"]


@pytest.mark.parametrize("fault", sorted(FAULTS))
def test_a_fault_does_the_write_or_not_as_its_name_says(faults: FaultServer, fault: str) -> None:
    bucket = faults.s3.new_bucket()
    faults.plan([Rule(fault, verb="PUT", key="struck", seconds=0.0)], within=bucket)
    faults.requests(forget=True)
    raw = socket.create_connection(("127.0.0.1", faults.port))
    with raw:
        raw.settimeout(0.2)
        raw.sendall(f"PUT /{bucket}/struck HTTP/1.1\r\nContent-Length: 1\r\n\r\n1".encode())
        said = reply_of(raw)
    assert ("struck" in faults.objects(bucket)) == (fault in DONE)
    seen = next(seen for seen in faults.requests(bucket) if seen.fault == fault)
    assert seen.landed == (fault in DONE)
    if fault.startswith(("hang", "zombie", "reset", "dropped", "lost")):
        assert said == b""
    elif fault != "cut_head":
        assert said.startswith(f"HTTP/1.1 {seen.status} ".encode())
    assert faults.release(bucket) == ([200] if fault in HELD else [])
    assert ("struck" in faults.objects(bucket)) == (fault in DONE | HELD)


def reply_of(raw: socket.socket) -> bytes:
    said = b""
    try:
        while b"\r\n\r\n" not in said and (more := raw.recv(4096)):
            said += more
    except (TimeoutError, ConnectionResetError):
        pass
    return said


def test_a_rule_strikes_as_often_and_as_late_as_it_says(faults: FaultServer) -> None:
    bucket = faults.s3.new_bucket()
    faults.plan([Rule("503", verb="GET", key="a", skip=1, times=2)], within=bucket)
    assert [get(faults, f"/{bucket}/{key}") for key in "aabaa"] == [404, 503, 404, 503, 404]
    faults.plan([Rule("503", times=9)], within="another-bucket")
    assert get(faults, f"/{bucket}/a") == 404


def test_random_faults_are_of_the_kinds_and_the_share_that_were_asked_for(faults: FaultServer) -> None:
    bucket = faults.s3.new_bucket()
    faults.random(1, 0.5, ["500", "429"], verbs=["GET"])
    said = [get(faults, f"/{bucket}/a") for _ in range(200)]
    faults.calm()
    assert set(said) == {404, 500, 429}
    assert 70 < said.count(404) < 130


def get(faults: FaultServer, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", faults.port, timeout=5)
    try:
        connection.request("GET", path)
        return connection.getresponse().status
    finally:
        connection.close()


def test_it_ends_with_the_process_that_started_it() -> None:
    here = Path(__file__).parent.parent
    source = (
        f"import sys, time; sys.path[:0] = [{str(here)!r}]\n"
        "from fault_server import fault_server\n"
        "with fault_server() as faults:\n"
        "    print(faults.port, flush=True); time.sleep(60)"
    )
    owner = subprocess.Popen([sys.executable, "-c", source], stdout=subprocess.PIPE, text=True)
    with owner:
        assert owner.stdout is not None
        port = int(owner.stdout.readline())
        with socket.create_connection(("127.0.0.1", port)) as listening:
            listening.settimeout(10)
            os.kill(owner.pid, signal.SIGKILL)
            assert listening.recv(1) == b""  # closed by the end of the server
