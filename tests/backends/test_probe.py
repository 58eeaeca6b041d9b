"""The probe tells servers that honour conditional writes from those that only say so."""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from chunkstore.backends import ANY, Condition
from chunkstore.backends.probe import EXACT, Root, forget, probe, recall, remember
from chunkstore.errors import BackendUnavailableError, ConflictError, NotSupportedError

MOST_REQUESTS = 8


class Server:
    """A server in memory that can be made to misbehave in one way."""

    def __init__(self, fault: str = "") -> None:
        self.fault = fault
        self.objects: dict[str, bytes] = {}
        self.requests = 0
        self.seen: set[str] = set()

    def put(self, key: str, data: bytes, condition: Condition) -> str:
        self.requests += 1
        self.seen.add(key)
        if self.fault == "read-only":
            raise BackendUnavailableError("403")
        if self.fault == f"no {condition.kind}":
            raise NotSupportedError("501")
        if not self.fault.startswith("ignores") and not self._holds(key, condition):
            raise ConflictError("412")
        if self.fault == "ignores unchanged" and condition.kind == "absent" and key in self.objects:
            raise ConflictError("412")
        self.objects[key] = data
        if self.fault == f"echoes {condition.kind}":
            self.fault = ""
            raise ConflictError("412 to our own second try")
        return hashlib.md5(b"" if self.fault == "constant versions" else data).hexdigest()

    def version(self, key: str) -> str:
        self.requests += 1
        if key not in self.objects:
            return ""
        if self.fault == "other versions":
            return "something else"
        return hashlib.md5(self.objects[key]).hexdigest()

    def delete(self, key: str, condition: Condition = ANY) -> None:
        self.requests += 1
        if self.fault == "no delete":
            raise BackendUnavailableError("403")
        if condition != ANY and self.fault == "no condition of deletes":
            raise NotSupportedError("501")
        if condition != ANY and self.fault != "deletes anyway" and not self._holds(key, condition):
            raise ConflictError("412")
        self.objects.pop(key, None)

    def _holds(self, key: str, condition: Condition) -> bool:
        old = self.objects.get(key)
        match condition.kind:
            case "any":
                return True
            case "absent":
                return old is None
            case "unchanged" if old is None:
                return self.fault == "resurrects"
            case "unchanged":
                return condition.version == hashlib.md5(old).hexdigest()


@pytest.mark.parametrize(
    ("fault", "verdict"),
    [
        ("", "all"),
        ("echoes absent", "all"),
        ("echoes unchanged", "cas"),
        ("ignores all", "none"),
        ("ignores unchanged", "create-only"),
        ("resurrects", "create-only"),
        ("no unchanged", "create-only"),
        ("no absent", "none"),
        ("constant versions", "create-only"),
        ("other versions", "create-only"),
        ("no delete", "cas"),
        ("deletes anyway", "cas"),
        ("no condition of deletes", "cas"),
    ],
)
def test_the_verdict_is_right_in_at_most_eight_requests(fault: str, verdict: str) -> None:
    server = Server(fault)
    assert probe(server) == verdict
    assert server.requests <= MOST_REQUESTS
    assert server.objects == {} or fault == "no delete"


def test_all_is_done_in_one_folder_that_no_listing_shows_and_that_is_new_each_time() -> None:
    folders = set()
    for _ in range(2):
        server = Server()
        probe(server)
        (folder,) = {key.partition("/")[0] for key in server.seen}
        assert folder.startswith(".probe-")
        folders.add(folder)
    assert len(folders) == 2


def test_where_nothing_may_be_written_nothing_is_concluded() -> None:
    server = Server("read-only")
    with pytest.raises(BackendUnavailableError):
        probe(server)
    assert server.requests == 1


@pytest.fixture
def root() -> Iterator[Root]:
    root = Root("http://test", "bucket", "memory of the probe")
    yield root
    forget(root)


def test_a_verdict_is_remembered_for_its_root_alone(root: Root) -> None:
    assert recall(root) is None
    assert remember(root, "none")
    assert not remember(root, "none")
    assert recall(root) == "none"
    assert recall(root._replace(prefix="other")) is None
    forget(root)
    assert recall(root) is None


@pytest.mark.parametrize(
    ("name", "verdict", "requests"), [("moto", "all", 8), ("minio", "cas", 7), ("rclone", "none", 5)]
)
def test_real_servers_are_told_apart(
    request: pytest.FixtureRequest, tmp_path: Path, name: str, verdict: str, requests: int
) -> None:
    pytest.importorskip("s3fs")
    from chunkstore.backends.s3 import S3Backend
    from chunkstore.testing.proxy import CountingProxy

    server = request.getfixturevalue(f"{name}_server")
    with CountingProxy(server.endpoint_url) as proxy:
        s3 = S3Backend(
            bucket=server.new_bucket(),
            endpoint_url=proxy.url,
            key=server.key,
            secret=server.secret,
            region=server.region,
            lock_folder=tmp_path,
        )
        with contextlib.closing(s3):
            proxy.reset()
            assert s3.guarantees.across_hosts == (verdict in EXACT)
            assert recall(s3.settings.root) == verdict
            assert len(proxy.requests) == requests
            assert list(s3.folders()) == []
            assert {seen.method for seen in proxy.requests[:-1]} >= {"PUT", "DELETE"}
