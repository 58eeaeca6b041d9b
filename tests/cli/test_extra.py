"""The command line where its extra is not installed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from commands import run


@pytest.mark.parametrize("missing", ["typer", "rich"])
def test_without_the_extra_the_command_says_how_to_get_it(missing: str) -> None:
    code = f"import sys; sys.modules[{missing!r}] = None; from chunkstore.cli import main; sys.exit(main(['ls']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert missing in done.stderr
    assert 'pip install "chunkstore[cli]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_it_is_the_extra_that_says_so_and_nothing_else() -> None:
    pytest.importorskip("typer", reason="the extra cli is not installed")
    assert run("--version").code == 0
