"""Runs commands of `chunkstore` as a person or a script would: in this process, in one of its own, or at a terminal."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import chunkstore
from chunkstore.backends import ANY
from chunkstore.cli import main

NO_TERMINAL = ("COLUMNS", "LINES", "FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE")
"""What a terminal may have put into the environment of the tests."""


@dataclass(frozen=True)
class Result:
    """What came of a command."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """The `--json` document."""
        return json.loads(self.out, parse_constant=_no_such_constant)

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


def _no_such_constant(name: str) -> None:
    raise AssertionError(f"{name} is no JSON")


class Terminal(io.StringIO):
    """A stream that says it is a terminal, or that it is none."""

    def __init__(self, text: str = "", *, terminal: bool) -> None:
        super().__init__(text)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def run(
    *arguments: str | os.PathLike[str],
    env: Mapping[str, str] | None = None,
    answer: str = "",
    terminal: bool = False,
    width: int = 80,
) -> Result:
    """The command in this process. With `terminal` stdin, stdout and stderr are one, so wide, without colours."""
    out, err = Terminal(terminal=terminal), Terminal(terminal=terminal)
    with (
        _environment(env, terminal=terminal, width=width),
        mock.patch.object(sys, "stdin", Terminal(answer, terminal=terminal)),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = main([os.fspath(argument) for argument in arguments])
    return Result(code, out.getvalue(), err.getvalue())


@contextlib.contextmanager
def _environment(env: Mapping[str, str] | None, *, terminal: bool, width: int) -> Iterator[None]:
    seen = {"COLUMNS": str(width), "LINES": "24", "TERM": "xterm", "NO_COLOR": "1"} if terminal else {}
    with mock.patch.dict(os.environ, {**seen, **(env or {})}):
        for name in NO_TERMINAL:
            if name not in seen and name not in (env or {}):
                os.environ.pop(name, None)
        yield


def run_process(
    *arguments: str | os.PathLike[str], env: Mapping[str, str] | None = None, cwd: Path | None = None, data: bytes = b""
) -> Result:
    """The command in a process of its own, without a terminal."""
    command = [sys.executable, "-m", "chunkstore", *map(os.fspath, arguments)]
    inherited = {name: value for name, value in os.environ.items() if name not in NO_TERMINAL}
    # On the path as here: the process may be elsewhere.
    inherited |= {
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
        "PYTHONIOENCODING": "utf-8",
        "PYTHONWARNINGS": "error",
    }
    done = subprocess.run(
        command, input=data, capture_output=True, cwd=cwd, env={**inherited, **(env or {})}, timeout=120, check=False
    )
    return Result(done.returncode, done.stdout.decode(), done.stderr.decode())


def damage(store: chunkstore.ChunkedRunLogStore, key: str) -> None:
    """Flips a byte in the middle of an object."""
    data = bytearray(store.backend.get(key).data)
    data[len(data) // 2] ^= 1
    store.backend.put(key, bytes(data), ANY)
