"""An S3 server in memory, in a process of its own, whose requests fail as they are told to: by script or at random.

    with fault_server() as faults:
        backend = places.in_bucket(faults.s3, tmp_path)                  # faults.s3 is a servers.S3Server
        faults.plan([Rule("lost_reply", verb="PUT", key="step.a")])      # the first such request; skip=, times=, seconds=
        faults.random(seed=1, rate=0.5, kinds=["lost_reply", "503"])     # instead of a script; verbs=("PUT",) by default
        faults.calm()                                                    # no faults from now on; held PUTs stay held
        faults.requests()                                                # what came: verb, key, status, fault, landed
        faults.objects(bucket)                                           # what stands there: {key: bytes}; fill() sets it
        faults.release()                                                 # applies the held ("zombie") PUTs, as they were sent
        faults.together(8, verb="GET")                                  # holds such requests until eight of them are there
        faults.quirks("ignores_if_match")                                # how it is in general; see QUIRKS

`plan`, `calm`, `requests` and `release` take `within=bucket`, so that several tests can use one server at once. It is strictly atomic (one event loop), honours If-None-Match and If-Match, and checks no signature. All its faults are in
`FAULTS`. A handle may be used in any process; the server ends with the process that started it.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import dataclasses
import hashlib
import http.client
import json
import os
import random
import re
import socket
import struct
import subprocess
import sys
import urllib.parse
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from xml.sax.saxutils import escape

if TYPE_CHECKING:
    from servers import S3Server

FAULTS: Final = {
    "dropped": "closed before anything was done",
    "reset": "reset before anything was done",
    "500": "500 InternalError, nothing done",
    "502": "502 with a page of a gateway, nothing done",
    "503": "503 SlowDown, nothing done",
    "504": "504 without a body, nothing done",
    "429": "429 with a page of a gateway, nothing done",
    "409": "409 ConditionalRequestConflict, nothing done",
    "412_false": "412, although the condition holds; nothing done",
    "page_200_false": "200 with a page of a gateway, nothing done",
    "hang": "never answered, nothing done",
    "lost_reply": "done, then closed without a reply",
    "reset_reply": "done, then reset without a reply",
    "500_after": "done, then 500 InternalError",
    "504_after": "done, then 504 without a body",
    "412_echo": "done, then 412, as for a request that a gateway repeated",
    "412_echo_bare": "the same, and the 412 does not name the condition",
    "412_echo_empty": "the same, and the 412 has no body",
    "hang_after": "done, never answered",
    "cut_head": "done, half of the reply's head, then closed",
    "cut_body": "done, half of the reply's body, then closed",
    "bad_xml": "done, and the reply's XML is broken off, in a reply that is whole",
    "empty_200": "done, then 200 without a body and a version",
    "page_200": "done, then 200 with a page of a gateway",
    "slow": "done, and the reply comes in drops over so many seconds",
    "delay": "done after so many seconds",
    "zombie_cut": "a PUT that is held, its connection closed; applied later",
    "zombie_hang": "a PUT that is held and never answered; applied later",
}
"""What can happen to a request."""

QUIRKS: Final = {
    "ignores_if_none_match",
    "ignores_if_match",
    "ignores_if_match_of_deletes",
    "if_match_creates",
    "if_match_takes_any",
    "unquoted_lists",
    "unquoted",
    "bare_412",
    "empty_412",
    "small_pages",
}
"""What a server can be like in general.

`if_match_creates`: also where nothing is; `if_match_takes_any`: any version of what is there; `small_pages`: a listing
gives 3 objects at once.
"""

FOREVER: Final = 1 << 30


@dataclass(frozen=True, slots=True)
class Rule:
    """A fault for the requests that it fits: the verb and a part of the key; empty fits all."""

    fault: str
    verb: str = ""
    """GET, PUT, DELETE, HEAD or LIST; also several with a space between."""
    key: str = ""
    skip: int = 0
    """So many of them pass first."""
    times: int = 1
    seconds: float = 0.0
    """For slow, delay, and how long a zombie waits by itself (0: until `release`)."""

    def __post_init__(self) -> None:
        """A fault with a typing error would never happen, and its test never fail."""
        assert self.fault in FAULTS, self.fault


@dataclass(slots=True)
class Seen:
    """One request as it came, and what became of it."""

    verb: str
    bucket: str
    key: str
    condition: str
    """`If-None-Match`, `If-Match` or nothing."""
    status: int = 0
    """Of the reply; 0: there was none."""
    fault: str = ""
    landed: bool = False
    """A write that was done."""


class FaultServer:
    """The handle on a running fault server."""

    def __init__(self, port: int) -> None:
        self.port = port

    @property
    def s3(self) -> S3Server:
        """As the tests know their S3 servers."""
        from servers import S3Server

        return S3Server("faults", f"http://127.0.0.1:{self.port}", "test", "test")

    def plan(self, rules: Iterable[Rule], within: str = "") -> None:
        """These faults from now on, in one bucket or all; of rules that fit a request, the first not used up is taken."""
        self._ask("plan", {"rules": [dataclasses.asdict(rule) for rule in rules], "within": within})

    def random(
        self, seed: int, rate: float, kinds: Sequence[str], *, verbs: Sequence[str] = ("PUT",), seconds: float = 0.05
    ) -> None:
        """Random faults from now on; zombies and delays last up to so many seconds."""
        assert set(kinds) <= set(FAULTS), kinds
        self._ask("random", {"seed": seed, "rate": rate, "kinds": [*kinds], "verbs": [*verbs], "seconds": seconds})

    def calm(self, within: str = "") -> None:
        """No faults from now on, in one bucket or all."""
        self.plan([], within)

    def together(self, number: int, verb: str) -> None:
        """Holds requests of this verb until so many are under way at once, then answers them, and lets all later ones pass."""
        self._ask("together", {"number": number, "verb": verb})

    def most_at_once(self) -> int:
        """How many requests to objects were under way at once at most, since this was last asked."""
        most: int = self._ask("most_at_once", None)
        return most

    def quirks(self, *quirks: str) -> None:
        """What the server is like from now on."""
        assert set(quirks) <= QUIRKS, quirks
        self._ask("quirks", quirks)

    def requests(self, within: str = "", *, forget: bool = False) -> list[Seen]:
        """All requests to objects, in the order in which they came, since they were last forgotten."""
        return [Seen(*row) for row in self._ask("requests", {"within": within, "forget": forget})]

    def objects(self, bucket: str) -> dict[str, bytes]:
        """What stands in a bucket."""
        return {key: base64.b64decode(data) for key, data in self._ask("objects", bucket).items()}

    def fill(self, bucket: str, objects: Mapping[str, bytes]) -> None:
        """Makes these objects all that stands in a bucket."""
        coded = {key: base64.b64encode(data).decode() for key, data in objects.items()}
        self._ask("fill", {"bucket": bucket, "objects": coded})

    def release(self, within: str = "") -> list[int]:
        """Applies the PUTs that are held, under the conditions that they came with; their statuses."""
        statuses: list[int] = self._ask("release", within)
        return statuses

    def _ask(self, what: str, about: Any) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            connection.request("POST", f"/-/{what}", json.dumps(about))
            reply = connection.getresponse()
            answer = reply.read()
            assert reply.status == 200, answer
            return json.loads(answer)
        finally:
            connection.close()


@contextlib.contextmanager
def fault_server() -> Iterator[FaultServer]:
    """A fault server until the block ends."""
    command = [sys.executable, "-I", __file__, str(os.getpid())]
    process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    try:
        yield FaultServer(int(process.stdout.readline()))
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        process.stdout.close()


# From here on: what runs in the server's own process.


@dataclass(frozen=True, slots=True)
class _Request:
    verb: str
    bucket: str
    key: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def name(self) -> str:
        """What rules and people know it by: the key, of a listing its prefix."""
        return self.key or self.query.get("prefix", "")

    @property
    def condition(self) -> str:
        return next((name for name in ("If-None-Match", "If-Match") if name.lower() in self.headers), "")


@dataclass(frozen=True, slots=True)
class _Reply:
    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""
    landed: bool = False

    def encode(self, *, head_only: bool) -> tuple[bytes, bytes]:
        headers = {"Content-Length": str(len(self.body)), "x-amz-request-id": "0", **self.headers}
        if self.body.startswith(b"<?xml"):
            headers["Content-Type"] = "application/xml"
        if self.status in {204, 304}:
            del headers["Content-Length"]
        lines = [f"HTTP/1.1 {self.status} {http.client.responses.get(self.status, 'Status')}"]
        head = "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()
        return head, b"" if head_only else self.body


@dataclass(frozen=True, slots=True)
class _Struck:
    """The fault that a request is to have."""

    fault: str = ""
    seconds: float = 0.0


@dataclass(slots=True)
class _Armed:
    """A rule, and how many requests it has let pass or struck."""

    rule: dict[str, Any]
    passed: int = 0
    struck: int = 0

    def strike(self, request: _Request) -> bool:
        rule = self.rule
        if (
            (rule["verb"] and request.verb not in rule["verb"].split())
            or rule["key"] not in request.name
            or self.struck >= rule["times"]
        ):
            return False
        if self.passed < rule["skip"]:
            self.passed += 1
            return False
        self.struck += 1
        return True


class _Bad(Exception):  # noqa: N818 - a message, no failure of ours
    """What the client sent is not a request."""


class _Server:
    """The objects, and what is to happen to requests for them."""

    def __init__(self) -> None:
        self.buckets: dict[str, dict[str, bytes]] = {}
        self.armed: dict[str, list[_Armed]] = {}
        self.chance: dict[str, Any] | None = None
        self.dice = random.Random(0)
        self.quirks: set[str] = set()
        self.seen: list[Seen] = []
        self.held: list[_Request] = []
        self.now = self.most = 0
        self.meeting: tuple[str, asyncio.Barrier] | None = None

    # The control channel.

    def control(self, what: str, about: Any) -> Any:
        match what:
            case "plan":
                self.plan(**about)
            case "random":
                self.armed, self.chance, self.dice = {}, about, random.Random(about["seed"])
            case "together":
                self.meeting = (about["verb"], asyncio.Barrier(about["number"]))
            case "most_at_once":
                most, self.most = self.most, self.now
                return most
            case "quirks":
                self.quirks = set(about)
            case "requests":
                return self._rows(**about)
            case "objects":
                found = self.buckets[about]
                return {key: base64.b64encode(data).decode() for key, data in found.items()}
            case "fill":
                found = about["objects"].items()
                self.buckets[about["bucket"]] = {key: base64.b64decode(data) for key, data in found}
            case "release":
                held = [request for request in self.held if about in {"", request.bucket}]
                self.held = [request for request in self.held if about not in {"", request.bucket}]
                return [self.apply_late(request) for request in held]
            case _:
                raise _Bad(what)
        return None

    def plan(self, rules: list[dict[str, Any]], within: str) -> None:
        if not within:
            self.armed, self.chance, self.meeting = {}, None, None
        self.armed[within] = [_Armed(rule) for rule in rules]

    def _rows(self, within: str, forget: bool) -> list[tuple[Any, ...]]:
        rows = [dataclasses.astuple(seen) for seen in self.seen if within in {"", seen.bucket}]
        if forget:
            self.seen = [seen for seen in self.seen if within not in {"", seen.bucket}]
        return rows

    # Faults.

    def strike(self, request: _Request) -> _Struck:
        if self.chance is not None:
            return self._at_random(self.chance, request)
        for armed in [*self.armed.get(request.bucket, ()), *self.armed.get("", ())]:
            if armed.strike(request):
                return _Struck(armed.rule["fault"], armed.rule["seconds"])
        return _Struck()

    def _at_random(self, chance: dict[str, Any], request: _Request) -> _Struck:
        if request.verb not in chance["verbs"] or self.dice.random() >= chance["rate"]:
            return _Struck()
        return _Struck(self.dice.choice(chance["kinds"]), self.dice.uniform(0.2, 1.0) * chance["seconds"])

    def hold(self, request: _Request, seconds: float) -> None:
        self.held.append(request)
        if seconds:
            asyncio.get_running_loop().call_later(seconds, self.wake, request)

    def wake(self, request: _Request) -> None:
        if any(held is request for held in self.held):
            self.held = [held for held in self.held if held is not request]
            self.apply_late(request)

    def apply_late(self, request: _Request) -> int:
        reply = self.work(request)
        seen = Seen(request.verb, request.bucket, request.name, request.condition, reply.status, "zombie", reply.landed)
        self.seen.append(seen)
        return reply.status

    async def meet(self, request: _Request) -> None:
        """Waits until the others are there too, where there is to be a meeting."""
        if self.meeting is None or self.meeting[0] != request.verb:
            return
        await self.meeting[1].wait()
        self.meeting = None

    # S3.

    def work(self, request: _Request) -> _Reply:
        """Does what is asked for, at once."""
        if not request.key:
            return self._on_bucket(request)
        objects = self.buckets.get(request.bucket)
        if objects is None:
            return _error(404, "NoSuchBucket")
        if request.verb == "PUT":
            return self._put(objects, request)
        if request.verb == "DELETE":
            return self._delete(objects, request)
        data = objects.get(request.key)
        if data is None:
            return _error(404, "NoSuchKey")
        # A HEAD tells the length of what it leaves out; `encode` sees to that.
        return _Reply(200, {"ETag": self._tag(data)}, data)

    def _delete(self, objects: dict[str, bytes], request: _Request) -> _Reply:
        old = objects.get(request.key)
        if "if-match" in request.headers and "ignores_if_match_of_deletes" not in self.quirks:
            if old is None:
                return _error(404, "NoSuchKey")
            if request.headers["if-match"].strip('"') != _md5(old):
                return self._precondition_failed("If-Match")
        return _Reply(204, landed=objects.pop(request.key, None) is not None)

    def _put(self, objects: dict[str, bytes], request: _Request) -> _Reply:
        old = objects.get(request.key)
        headers = request.headers
        if "if-none-match" in headers and old is not None and "ignores_if_none_match" not in self.quirks:
            return self._precondition_failed("If-None-Match")
        if "if-match" in headers and "ignores_if_match" not in self.quirks:
            if old is None and "if_match_creates" not in self.quirks:
                return _error(404, "NoSuchKey")
            exact = "if_match_takes_any" not in self.quirks
            if exact and old is not None and headers["if-match"].strip('"') != _md5(old):
                return self._precondition_failed("If-Match")
        objects[request.key] = request.body
        return _Reply(200, {"ETag": self._tag(request.body)}, landed=True)

    def _precondition_failed(self, condition: str) -> _Reply:
        if "empty_412" in self.quirks:
            return _Reply(412)
        return _error(412, "PreconditionFailed", "" if "bare_412" in self.quirks else condition)

    def _tag(self, data: bytes) -> str:
        return _md5(data) if "unquoted" in self.quirks else f'"{_md5(data)}"'

    def _on_bucket(self, request: _Request) -> _Reply:
        if not request.bucket:
            names = "".join(f"<Bucket><Name>{name}</Name></Bucket>" for name in self.buckets)
            return _xml(f"<ListAllMyBucketsResult><Buckets>{names}</Buckets></ListAllMyBucketsResult>")
        if request.verb == "PUT":
            self.buckets.setdefault(request.bucket, {})
            return _Reply(200)
        objects = self.buckets.get(request.bucket)
        if objects is None:
            return _error(404, "NoSuchBucket")
        return self._list(objects, request.query) if request.verb == "LIST" else _Reply(200)

    def _list(self, objects: dict[str, bytes], query: dict[str, str]) -> _Reply:
        prefix, mark = query.get("prefix", ""), query.get("delimiter", "")
        most = min(int(query.get("max-keys", 1000)), 3 if "small_pages" in self.quirks else 1000)
        after = base64.b64decode(query.get("continuation-token", "")).decode()
        lines = _lines(sorted(key for key in objects if key.startswith(prefix)), prefix, mark)
        lines = [line for line in lines if line > after]
        page, more = lines[:most], len(lines) > most
        entries = "".join(self._line(line, objects, query) for line in page)
        token = base64.b64encode(page[-1].encode()).decode() if more else ""
        return _xml(
            f"<ListBucketResult><Prefix>{_name(prefix, query)}</Prefix><KeyCount>{len(page)}</KeyCount>"
            f"<EncodingType>{query.get('encoding-type', '')}</EncodingType><IsTruncated>{str(more).lower()}</IsTruncated>"
            f"{f'<NextContinuationToken>{token}</NextContinuationToken>' if more else ''}{entries}</ListBucketResult>"
        )

    def _line(self, line: str, objects: dict[str, bytes], query: dict[str, str]) -> str:
        name = _name(line, query)
        if line not in objects or (query.get("delimiter") and line.endswith(query["delimiter"])):
            return f"<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>"
        tag = _md5(objects[line]) if "unquoted_lists" in self.quirks else self._tag(objects[line])
        return (
            f"<Contents><Key>{name}</Key><LastModified>2026-01-01T00:00:00.000Z</LastModified>"
            f"<ETag>{escape(tag)}</ETag><Size>{len(objects[line])}</Size></Contents>"
        )


def _lines(keys: list[str], prefix: str, mark: str) -> list[str]:
    """The keys, those with the mark behind the prefix rolled up to it."""
    if not mark:
        return keys
    cut = (prefix + key[len(prefix) :].partition(mark)[0] + mark for key in keys if mark in key[len(prefix) :])
    return sorted({*cut, *(key for key in keys if mark not in key[len(prefix) :])})


def _name(name: str, query: dict[str, str]) -> str:
    return urllib.parse.quote(name) if query.get("encoding-type") == "url" else escape(name)


def _md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def _xml(text: str, status: int = 200) -> _Reply:
    return _Reply(status, {}, f'<?xml version="1.0" encoding="UTF-8"?>\n{text}'.encode())


def _error(status: int, code: str, condition: str = "") -> _Reply:
    detail = f"<Condition>{condition}</Condition>" if condition else ""
    return _xml(f"<Error><Code>{code}</Code><Message>as told</Message>{detail}</Error>", status)


def _page(status: int) -> _Reply:
    return _Reply(status, {"Content-Type": "text/html"}, f"<html><h1>{status}</h1>of a gateway</html>".encode())


_INSTEAD: Final = {
    "500": _error(500, "InternalError"),
    "502": _page(502),
    "503": _error(503, "SlowDown"),
    "504": _Reply(504),
    "429": _page(429),
    "409": _error(409, "ConditionalRequestConflict"),
    "412_false": _error(412, "PreconditionFailed"),
    "500_after": _error(500, "InternalError"),
    "504_after": _Reply(504),
    "412_echo_bare": _error(412, "PreconditionFailed"),
    "412_echo_empty": _Reply(412),
    "empty_200": _Reply(200),
    "page_200": _page(200),
    "page_200_false": _page(200),
}
"""Replies that say something else than what was done."""

_NOTHING_DONE: Final = {
    "dropped",
    "reset",
    "500",
    "502",
    "503",
    "504",
    "429",
    "409",
    "412_false",
    "page_200_false",
    "hang",
}


class _Wire:
    """One client's connection."""

    def __init__(self, server: _Server, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.server = server
        self.reader = reader
        self.writer = writer

    async def serve(self) -> None:
        try:
            while await self._one():
                await self.writer.drain()
        except (OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, _Bad, asyncio.CancelledError):
            pass
        finally:
            self.writer.close()

    async def _one(self) -> bool:
        """One request and its reply; True where the connection may carry another."""
        method, target, headers = await self._head()
        if headers.get("expect", "").lower() == "100-continue":
            self.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        if target.startswith("/-/"):
            self._say(_Reply(200, {}, json.dumps(self.server.control(target[3:], json.loads(body))).encode()), "POST")
            return True
        request = _request(method, target, headers, body)
        if not request.key and request.verb != "LIST":
            self._say(self.server.work(request), request.verb)
            return True
        self.server.now += 1
        self.server.most = max(self.server.most, self.server.now)
        try:
            await self.server.meet(request)
            return await self._suffer(request)
        finally:
            self.server.now -= 1

    async def _suffer(self, request: _Request) -> bool:
        struck = self.server.strike(request)
        seen = Seen(request.verb, request.bucket, request.name, request.condition, fault=struck.fault)
        self.server.seen.append(seen)
        fault = struck.fault
        if fault == "delay":
            await asyncio.sleep(struck.seconds)
        if fault.startswith("zombie"):
            self.server.hold(request, struck.seconds)
            return await self._vanish(hang=fault == "zombie_hang")
        reply = _Reply(0) if fault in _NOTHING_DONE else self.server.work(request)
        seen.landed = reply.landed
        if fault in {"hang", "hang_after"}:
            return await self._vanish(hang=True)
        if fault in {"dropped", "lost_reply"}:
            return False
        if fault in {"reset", "reset_reply"}:
            self._reset()
            return False
        if fault == "412_echo":
            reply = _error(412, "PreconditionFailed", request.condition)
        reply = _INSTEAD.get(fault, reply)
        seen.status = reply.status
        return await self._reply(reply, request.verb, struck)

    async def _reply(self, reply: _Reply, verb: str, struck: _Struck) -> bool:
        head, body = reply.encode(head_only=verb == "HEAD")
        match struck.fault:
            case "cut_head":
                self.writer.write(head[: len(head) // 2])
                return False
            case "cut_body":
                self.writer.write(head + body[: len(body) // 2])
                return False
            case "bad_xml":
                head, body = dataclasses.replace(reply, body=body[: len(body) // 2]).encode(head_only=verb == "HEAD")
            case "slow":
                await self._drip(head + body, struck.seconds)
                return True
        self.writer.write(head + body)
        return True

    async def _drip(self, data: bytes, seconds: float) -> None:
        drops = 10
        size = -(-len(data) // drops)
        for start in range(0, len(data), size):
            self.writer.write(data[start : start + size])
            await self.writer.drain()
            await asyncio.sleep(seconds / drops)

    async def _vanish(self, *, hang: bool) -> bool:
        if hang:
            await self.reader.read(1)  # until the client gives up
        return False

    def _reset(self) -> None:
        raw = self.writer.get_extra_info("socket")
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.writer.transport.abort()

    def _say(self, reply: _Reply, verb: str) -> None:
        head, body = reply.encode(head_only=verb == "HEAD")
        self.writer.write(head + body)

    async def _head(self) -> tuple[str, str, dict[str, str]]:
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *rest = head.split("\r\n")
        parts = line.split(" ")
        if len(parts) != 3:
            raise _Bad(line)
        pairs = (entry.partition(":") for entry in rest if entry)
        return parts[0], parts[1], {name.strip().lower(): value.strip() for name, _, value in pairs}


def _request(method: str, target: str, headers: dict[str, str], body: bytes) -> _Request:
    path, _, query = target.partition("?")
    bucket, _, key = path[1:].partition("/")
    asked = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
    verb = "LIST" if method == "GET" and not key and bucket and "location" not in asked else method
    if "x-amz-decoded-content-length" in headers:
        body = _unchunked(body)
    return _Request(verb, bucket, urllib.parse.unquote(key), asked, headers, body)


def _unchunked(body: bytes) -> bytes:
    """What a client wrapped in chunks that it signed one by one."""
    whole = b""
    while match := re.match(rb"([0-9a-fA-F]+)[^\r]*\r\n", body):
        size = int(match[1], 16)
        whole += body[match.end() : match.end() + size]
        body = body[match.end() + size + 2 :]
        if not size:
            break
    return whole


async def _end_with(parent: int) -> None:
    while os.getppid() == parent:  # noqa: ASYNC110 - nobody tells a process that its parent was killed
        await asyncio.sleep(0.5)


async def _run(parent: int) -> None:
    server = _Server()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _Wire(server, reader, writer).serve()

    listening = await asyncio.start_server(connected, "127.0.0.1", 0, limit=1 << 20, backlog=1024)
    sys.stdout.write(f"{listening.sockets[0].getsockname()[1]}\n")
    sys.stdout.flush()
    await _end_with(parent)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_run(int(sys.argv[1])))
