"""A container engine without images: it speaks the few endpoints of Docker's that runnable calls, and runs real commands.

A container is a process in a mount namespace of its own. It sees this machine's programs, a copy of the project as its image, and what was
mounted; neither the host's project folder nor its /tmp. Its environment is the image's and what it was created with. Its network is
the host's.
"""

from __future__ import annotations

import http.server
import itertools
import json
import os
import re
import shlex
import socketserver
import struct
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from servers import ServerMissingError

_HANGS: Final = 120.0

_CONTAINER: Final = """
set -e
mount -t tmpfs tmpfs /mnt
number=0
while read -r source target; do
    number=$((number + 1))
    mkdir /mnt/$number
    mount --bind "$source" /mnt/$number
done <"$MOUNTS"
exec 3<"$MOUNTS"
for hidden in $HIDDEN; do mount -t tmpfs tmpfs "$hidden"; done
number=0
while read -r source target; do
    number=$((number + 1))
    mkdir -p "$target"
    mount --bind /mnt/$number "$target"
done <&3
exec 3<&-
cd /mnt/image
exec env -i "$@"
"""
"""What is mounted is taken hold of before the folders are hidden that it may lie in."""


def unshared() -> list[str]:
    """The command that gives a process mounts of its own. Raises `ServerMissingError` where the machine does not allow it."""
    for command in (["unshare", "--mount"], ["unshare", "--mount", "--map-root-user"]):
        tried = subprocess.run([*command, "mount", "-t", "tmpfs", "tmpfs", "/mnt"], capture_output=True, check=False)
        if tried.returncode == 0:
            return command
    raise ServerMissingError(f"no mount namespace can be made here: {tried.stderr.decode(errors='replace').strip()}")


@dataclass
class Container:
    """What was asked for, and what came of it."""

    command: Sequence[str]
    environment: Mapping[str, str]
    binds: Mapping[str, str]
    """Folders inside by folders of the host."""
    process: subprocess.Popen[bytes] | None = None
    code: int = 0
    output: bytes = b""

    def wait(self) -> None:
        if self.process is not None:
            self.output += self.process.communicate(timeout=_HANGS)[0]
            self.code, self.process = self.process.returncode, None


@dataclass
class Engine:
    """The engine, and the containers that it was asked for, oldest first."""

    image: Path
    """The project: a container has a copy of it as its working folder."""
    hidden: Sequence[Path]
    socket: Path
    containers: dict[str, Container] = field(default_factory=dict)
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def create(self, asked: Mapping[str, Any]) -> str:
        binds = dict(bind.split(":")[:2] for bind in asked["HostConfig"].get("Binds") or [])
        environment = dict(pair.partition("=")[::2] for pair in asked.get("Env") or [])
        name = f"{next(self.numbers):064x}"
        self.containers[name] = Container(asked["Cmd"], environment, binds)
        return name

    def start(self, container: Container) -> None:
        folder = Path(tempfile.mkdtemp(dir=self.socket.parent))
        kept = [Path(path) for path in {sys.prefix, sys.base_prefix, *sys.path} if Path(path).is_dir()]
        mounts = [(str(self.image), "/mnt/image"), *((str(path), str(path)) for path in kept if self._hides(path))]
        (folder / "mounts").write_text("".join(f"{a} {b}\n" for a, b in [*mounts, *container.binds.items()]))
        inside = {**image_environment(), **container.environment}
        container.process = subprocess.Popen(
            [
                *unshared(),
                "sh",
                "-c",
                _CONTAINER,
                "sh",
                *(f"{name}={value}" for name, value in inside.items()),
                *container.command,
            ],
            env={
                "PATH": os.defpath,
                "MOUNTS": str(folder / "mounts"),
                "HIDDEN": shlex.join(str(path) for path in self.hidden),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )

    def _hides(self, path: Path) -> bool:
        return path not in self.hidden and any(path.is_relative_to(hidden) for hidden in self.hidden)


def image_environment() -> dict[str, str]:
    """What the image sets: where its programs are."""
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.defpath])
    return {"PATH": programs, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONUTF8": "1", "HOME": "/mnt"}


@contextmanager
def engine(project: Path) -> Iterator[Engine]:
    """Runs the engine until the block ends. The project must be finished: a container sees a copy of it as it is now."""
    unshared()
    with tempfile.TemporaryDirectory(prefix="engine-") as folder:  # the name of a socket must be short
        image = Path(folder, "image")
        subprocess.run(["cp", "-a", str(project), str(image)], check=True)
        running = Engine(image, (project, Path(tempfile.gettempdir())), Path(folder, "docker.sock"))
        server = _Server(str(running.socket), type("Handler", (_Handler,), {"engine": running}))
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            yield running
        finally:
            server.shutdown()
            thread.join()
            server.server_close()


def beside(running: Engine, command: Sequence[str]) -> list[str]:
    """The command, so that it finds the engine where Docker's is: runnable asks there whatever the environment says."""
    script = 'mount -t tmpfs tmpfs /run && : >/run/docker.sock && mount --bind "$0" /run/docker.sock && exec "$@"'
    return [*unshared(), "sh", "-c", script, str(running.socket), *command]


class _Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


class _Handler(http.server.BaseHTTPRequestHandler):
    engine: Engine
    protocol_version = "HTTP/1.1"

    def serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = re.sub(r"^/v1\.\d+", "", self.path.partition("?")[0])
        if path == "/version":
            return self.reply(200, {"ApiVersion": "1.44", "MinAPIVersion": "1.24", "Version": "25.0"})
        if path.startswith("/images/"):
            return self.reply(200, {"Id": "sha256:1", "RepoDigests": ["image@sha256:2"], "Config": {}})
        if path == "/containers/create":
            return self.reply(201, {"Id": self.engine.create(json.loads(body)), "Warnings": []})
        _, _, name, *verb = path.split("/")
        container = self.engine.containers[name]
        return self.of(container, name, verb[0] if verb else "")

    do_GET = do_POST = do_DELETE = serve  # noqa: N815 - the base class calls them so.

    def of(self, container: Container, name: str, verb: str) -> None:
        if verb == "start":
            self.engine.start(container)
            return self.reply(204)
        if verb == "logs":
            container.wait()
            frame = struct.pack(">BxxxL", 1, len(container.output)) + container.output
            return self.reply(200, frame)
        if verb == "json":
            state = {"ExitCode": container.code, "Running": container.process is not None}
            return self.reply(200, {"Id": name, "State": state, "Config": {"Tty": False}, "Image": "sha256:1"})
        return self.reply(204)  # removed

    def reply(self, status: int, said: object = b"") -> None:
        data = said if isinstance(said, bytes) else json.dumps(said).encode()
        self.send_response(status)
        self.send_header(
            "Content-Type", "application/json" if not isinstance(said, bytes) else "application/octet-stream"
        )
        if status != 204:
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data if status != 204 else b"")

    def log_message(self, format: str, *args: object) -> None:
        """Nobody listens."""
