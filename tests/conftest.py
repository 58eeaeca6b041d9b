"""Fixtures and rules that all tests share."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import hypothesis
import pytest

import chunkstore
import databases
import each_value_once
import servers
from databases import Postgres
from servers import S3Server, ServerMissingError, give_up, used_servers

Server = TypeVar("Server")

SERVERS_WANTED = os.environ.get("CHUNKSTORE_TEST_SERVERS", "1")
"""1 for all, 0 for none, or some by their names: `moto,minio`."""

# `--hypothesis-profile=fewer`, for all environments of tox but py311, which tries the usual hundred.
hypothesis.settings.register_profile("fewer", max_examples=25)


def pytest_addoption(parser: pytest.Parser) -> None:
    """For interpreters beside the first."""
    parser.addoption(
        "--each-value-once",
        action="store_true",
        help="of a test with several parameters, try each value of each, but not each with each",
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what `--each-value-once` leaves out."""
    if not config.getoption("--each-value-once"):
        return
    stay = set(each_value_once.kept(items, is_wanted))
    config.hook.pytest_deselected(items=[item for item in items if item not in stay])
    items[:] = [item for item in items if item in stay]


def is_wanted(server: str) -> bool:
    """Whether this environment runs tests on it."""
    return SERVERS_WANTED == "1" or server in SERVERS_WANTED.split(",")


def pytest_configure(config: pytest.Config) -> None:
    """Refuse to test the source tree where tox has built a wheel to be tested."""
    config.stash[used_servers] = set()
    environment = os.environ.get("TOX_ENV_DIR")
    if environment and not package_folder().is_relative_to(Path(environment).resolve()):
        raise pytest.UsageError(f"tox tests the built wheel, but chunkstore was imported from {package_folder()}")


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Tell the process that shared out the tests which servers took part here."""
    if (output := getattr(session.config, "workeroutput", None)) is not None:
        output["servers"] = sorted(session.config.stash[used_servers])


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take note of what a process has to tell that tests were shared out to."""
    node.config.stash[used_servers].update(getattr(node, "workeroutput", {}).get("servers", ()))


def pytest_report_header() -> str:
    """Say which chunkstore is tested."""
    return f"chunkstore: {package_folder()}"


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Append to the file that `CHUNKSTORE_TEST_REPORT` names: what happened, and which servers took part."""
    report = os.environ.get("CHUNKSTORE_TEST_REPORT")
    if not report or hasattr(config, "workerinput"):  # the process that shares out the tests tells of all
        return
    outcomes = [len(terminalreporter.getreports(name)) for name in ("passed", "failed", "error", "skipped")]
    line = [os.environ.get("TOX_ENV_NAME", "pytest"), *map(str, outcomes), *sorted(config.stash[used_servers])]
    with Path(report).open("a", encoding="utf-8") as lines:
        lines.write(" ".join(line) + "\n")


def package_folder() -> Path:
    """Where the chunkstore under test lies."""
    return Path(chunkstore.__path__[0]).resolve()


@pytest.fixture(scope="session")
def moto_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """AWS's rules in memory, by moto: honours conditional writes."""
    with started(servers.moto, request, tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 gateway over a local folder, by rclone: ignores conditions."""
    with started(servers.rclone, request, tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="session")
def minio_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """A real S3 server, by MinIO: honours conditional writes."""
    with started(servers.minio, request, tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="session")
def faults_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """The scripted fault server, without faults: strictly atomic, and there where MinIO is not."""
    with started(servers.faults, request, tmp_path_factory) as server:
        yield server


@pytest.fixture(scope="session")
def postgres_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A real PostgreSQL, shared by all tests: quick, and careless of power cuts."""
    with started(databases.postgres, request, tmp_path_factory, databases.CLIENTS) as server:
        yield server


@pytest.fixture(scope="session")
def mortal_postgres(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL of our own that syncs as it should, and that tests may stop and kill; they start it again."""
    with started(databases.mortal_postgres, request, tmp_path_factory, databases.CLIENTS) as server:
        yield server


@pytest.fixture(scope="session", params=["moto", "rclone", "minio"])
def s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Every S3 server, one after the other."""
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture(scope="session", params=["moto", "minio"])
def conditional_s3_server(request: pytest.FixtureRequest) -> S3Server:
    """Every S3 server that honours conditional writes."""
    server: S3Server = request.getfixturevalue(f"{request.param}_server")
    return server


@pytest.fixture(params=["s3fs", "obstore"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each S3 engine, one after the other, for all backends that `places` opens and for the processes that the test starts."""
    name: str = request.param
    if importlib.util.find_spec(name) is None:
        pytest.skip(f"{name} is not installed")
    monkeypatch.setenv("CHUNKSTORE_TEST_ENGINE", name)
    return name


@contextmanager
def started(
    launch: Callable[[Path], AbstractContextManager[Server]],
    request: pytest.FixtureRequest,
    folders: pytest.TempPathFactory,
    needs: Sequence[str] = ("s3fs",),
) -> Iterator[Server]:
    """Start a server for the session; where it, or what we speak with it, is missing: skip, or fail if it was required."""
    name = launch.__name__.removeprefix("mortal_")
    if not is_wanted(name):
        pytest.skip(f"this environment goes without {name} (CHUNKSTORE_TEST_SERVERS={SERVERS_WANTED})")
    with ExitStack() as stack:
        try:
            for module in needs:
                servers.require_module(module)
            server = stack.enter_context(launch(folders.mktemp(name)))
        except ServerMissingError as missing:
            give_up(f"the {name} server is missing: {missing}")
        request.config.stash[used_servers].add(name)
        yield server
