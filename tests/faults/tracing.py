"""How a writer runs under strace: which system calls touch the store, and one of them killed or failing.

The writer is forked and warmed before strace attaches, so the calls that strace counts are the same in each run.
"""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import pytest

import chunkstore
import writing_program
from writing_program import DURABILITIES, GATE, Scenario

_CALL: Final = re.compile(r"^(\w+)\((.*?)(?:\) += (.*)| <unfinished \.\.\.>)?$")
_PATH: Final = re.compile(r'"((?:[^"\\]|\\.)*)"|<([^<>]*)>')
_OWN_NAME: Final = re.compile(r"\.t-[0-9a-f]+-\d+-\d+|#\d+|doubt\.[0-9a-f]+-\d+")
_REPORT: Final = "report"


@dataclass(frozen=True, slots=True)
class Injection:
    """What shall happen instead of one system call: of those with this name, the one with this number."""

    name: str
    number: int
    fault: str
    """`signal=KILL` or `error=EIO`, as strace writes it."""

    def __str__(self) -> str:
        return f"{self.name}:{self.fault}:when={self.number}"


@dataclass(frozen=True, slots=True)
class SystemCall:
    """One system call of a trace."""

    name: str
    number: int
    """Among those of its name, from 1."""
    arguments: str
    result: str
    root: str

    @property
    def paths(self) -> list[str]:
        """The paths and the open files that it names."""
        return [first or second for first, second in _PATH.findall(self.arguments)]

    @property
    def touches_the_store(self) -> bool:
        """Whether it names something in the place, or the place itself or a folder above it."""
        return any(path == self.root or path.startswith(self.root + "/") for path in self.paths)

    @property
    def done(self) -> bool:
        """Whether it succeeded."""
        return bool(self.result) and self.result[0] not in "-?"

    @property
    def injected(self) -> bool:
        """Whether strace made it fail."""
        return self.result.endswith("(INJECTED)")

    @property
    def told(self) -> str:
        """What it writes to the report; empty for any other."""
        paths = self.paths
        return paths[1] if self.name == "write" and paths[0].endswith("/" + _REPORT) else ""

    @property
    def signature(self) -> str:
        """What is the same in each run of the same scenario."""
        paths = [] if self.told else [path.replace(self.root, "PLACE") for path in self.paths if path[:1] == "/"]
        return f"{self.name} {' '.join(_OWN_NAME.sub('*', path) for path in paths)}".strip()


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a writer."""

    status: int
    calls: list[SystemCall]
    told: list[tuple[str, int, dict[str, Any]]] = field(default_factory=list)
    """Its report: what, of which call, with which facts."""

    @property
    def acknowledged(self) -> int:
        """How many calls were."""
        return sum(what == "acknowledged" for what, _, _ in self.told)

    def facts(self, what: str) -> list[dict[str, Any]]:
        """What the report says of this."""
        return [facts for said, _, facts in self.told if said == what]

    def store_calls(self) -> list[SystemCall]:
        """Those that touch the store, and those that acknowledge: at these everything is written and nothing told."""
        return [call for call in self.calls if call.touches_the_store or call.told.startswith("acknowledged")]


class Stage:
    """A warmed process that forks writers, and strace to attach to them."""

    def __init__(self, strace: str, program: subprocess.Popen[bytes], folder: Path) -> None:
        self._strace = strace
        self._program = program
        self._folder = folder
        self._numbers = iter(range(1 << 30))

    def new_root(self) -> Path:
        """Where a writer may found its place: two folders that are not there yet."""
        folder = self._folder / str(next(self._numbers))
        folder.mkdir()
        return folder / "new" / "runs"

    def run(self, scenario: str, durability: str, root: Path, injection: Injection | None = None) -> Outcome:
        """A writer from when it is ready to its end."""
        report = root.parent.parent / _REPORT
        command = {"scenario": scenario, "durability": durability, "root": str(root), "report": str(report)}
        writer = self._ready(command)
        trace = root.parent.parent / "trace"
        watched = self._watch(writer, trace, injection)
        status = self._line()
        errors = watched.communicate(timeout=60)[1].decode()
        assert watched.returncode in (0, abs(int(status))), errors
        return Outcome(int(status), list(_parsed(trace, str(root))), _told(report))

    def _ready(self, command: dict[str, str]) -> int:
        assert self._program.stdin is not None
        self._program.stdin.write(json.dumps(command).encode() + b"\n")
        self._program.stdin.flush()
        lines = {self._line(), self._line()}  # the parent's and the child's, in any order
        assert "ready" in lines, lines
        return int((lines - {"ready"}).pop())

    def _line(self) -> str:
        assert self._program.stdout is not None
        line = self._program.stdout.readline().decode().strip()
        assert line, "the writing program ended"
        return line

    def _watch(self, writer: int, trace: Path, injection: Injection | None) -> subprocess.Popen[bytes]:
        """Strace on the writer, which goes on only once it is watched."""
        options = ["-p", str(writer), "-y", "-s", "24", "-e", "trace=file,desc", "-e", "signal=none", "-o", str(trace)]
        if injection:
            options += ["-e", f"inject={injection}"]
        watcher = subprocess.Popen([self._strace, *options], stderr=subprocess.PIPE)
        assert watcher.stderr is not None
        said = watcher.stderr.readline().decode()
        if "attached" not in said:
            watcher.communicate()
            os.kill(writer, signal.SIGKILL)
            pytest.skip(f"strace may not attach to a process here: {said.strip()}")
        os.kill(writer, GATE)
        return watcher


@contextmanager
def stage(strace: str, folder: Path, *, package: Path | None = None) -> Iterator[Stage]:
    """A stage until the block ends; `package` holds another chunkstore than the one that is imported here."""
    paths = [str(package or Path(chunkstore.__path__[0]).parent), os.environ.get("PYTHONPATH", "")]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
        "PYTHONHASHSEED": "0",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    warm = folder / "warm"
    warm.mkdir()
    command = [sys.executable, writing_program.__file__, str(warm)]
    program = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment)
    with program:
        try:
            yield Stage(strace, program, folder)
        finally:
            assert program.stdin is not None
            program.stdin.close()
            try:
                program.wait(timeout=10)
            except subprocess.TimeoutExpired:
                program.kill()


def _parsed(trace: Path, root: str) -> Iterator[SystemCall]:
    numbers: Counter[str] = Counter()
    for line in trace.read_text(encoding="utf-8", errors="replace").splitlines():
        match = _CALL.match(line)
        if match:
            name, arguments, result = match.groups(default="")
            numbers[name] += 1
            yield SystemCall(name, numbers[name], arguments, result.strip(), root)


def _told(report: Path) -> list[tuple[str, int, dict[str, Any]]]:
    found = []
    for line in report.read_text(encoding="utf-8").splitlines():
        what, number, facts = re.fullmatch(r"(\D+) (\d+) (.*)", line).groups()  # type: ignore[union-attr]
        found.append((what, int(number), json.loads(facts)))
    return found


def differing(scenario: Scenario) -> list[str]:
    """The durabilities under which the scenario's system calls differ."""
    return [one for one in DURABILITIES if one != "barrier" or scenario.barriers]


def points(plain: Outcome) -> list[SystemCall]:
    """Where a run of this scenario can be hit."""
    found = plain.store_calls()
    assert plain.status == 0
    assert not plain.facts("failed"), plain.facts("failed")
    assert len(found) >= 5, "the trace shows no work"
    return found


def was_hit(outcome: Outcome, point: SystemCall, fault: str) -> bool:
    """Whether the fault struck where it was meant to: at the same call, on the same object."""
    if fault == "signal=KILL":
        last = outcome.calls[-1]
        return last.signature == point.signature and last.number == point.number and last.result in ("", "?")
    hit = [call for call in outcome.calls if call.injected]
    return [(call.signature, call.number) for call in hit] == [(point.signature, point.number)]


def promises_broken(outcome: Outcome, durability: str, barriers: frozenset[int]) -> list[str]:
    """What was acknowledged before the disk had it, by what the trace shows."""
    if durability == "process":
        return []
    disk = _Disk()
    broken = []
    for call in outcome.calls:
        disk.see(call)
        if call.told.startswith("acknowledged"):
            number = int(call.told.split()[1])
            missing = disk.unsynced if durability == "power" or number in barriers else set()
            broken += [f"call {number} was acknowledged before {name} was synced" for name in sorted(missing)]
    return broken


class _Disk:
    """What a power cut would take: files whose bytes, and folders whose entries, are not on the disk yet."""

    def __init__(self) -> None:
        self.unsynced: set[str] = set()
        self._unsynced_before_their_name: set[str] = set()

    def see(self, call: SystemCall) -> None:
        """One more system call."""
        if not call.done or call.told or any("/.locks" in path for path in call.paths):
            return
        paths = call.paths
        if call.name == "syncfs":
            self.unsynced.clear()
        elif call.name in {"fsync", "fdatasync"}:
            self.unsynced.discard(paths[0])
            self._unsynced_before_their_name.discard(paths[0])
        elif call.name in {"write", "utimensat", "ftruncate"} and call.touches_the_store:
            self._unsynced_before_their_name.add(paths[0])
        elif call.name in {"mkdir", "mkdirat"}:
            self._entered(paths[-1])
        elif call.name.startswith(("link", "rename")):
            self._named([path for path in paths if not path.startswith("/proc/")])

    def _named(self, paths: Sequence[str]) -> None:
        if paths[0] in self._unsynced_before_their_name:
            self.unsynced.add(paths[-1])
        self._entered(paths[-1])

    def _entered(self, path: str) -> None:
        self.unsynced.add(path.rpartition("/")[0])
