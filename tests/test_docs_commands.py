"""Every command that the how-to pages and the README show is run, and prints what they say; the reference is what the commands are.

How a page is run: its ```console blocks in order, in a fresh working folder of its own, with the demo's store in `runs/` and
`CHUNKSTORE_URL=runs`, where no terminal is. In a block

* a line `$ chunkstore …` is run. Behind it `# exit 1` says its exit code, otherwise that is 0.
* The lines below, up to the next `$` or the end, are what it prints, stdout and stderr as they come; without any, that is not looked at. In
  them `…` is anything within a line, and a line that is `…` alone is any number of lines.
* What needs a shell (`|`, `>`, `<`, `&&`, `$(`), and any other command, is given to bash; except `pip`, `aws` and `mc`, which are not run.
* Blocks that open with ```console notest are not run; the page says why.

Python blocks are run by `test_docs`.
"""

from __future__ import annotations

import contextlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest import mock

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

import chunkstore
from chunkstore.cli import main
from chunkstore.demonstration import write_demo
from commands import NO_TERMINAL, Terminal

TOP = Path(__file__).parent.parent
PAGES = [TOP / "README.md", *sorted((TOP / "docs/how-to").glob("*.md"))]
BLOCK = re.compile(r"^```console( notest)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
NOT_RUN = ("pip", "aws", "mc")
SHELL = re.compile(r"[|<>]|&&|\$\(")
EXIT = re.compile(r"\s+# exit (\d+)$")


@dataclass
class Shown:
    """A command as a page shows it."""

    command: str
    code: int
    output: list[str] = field(default_factory=list)


def shown_on(page: Path) -> Iterator[Shown]:
    for notest, text in BLOCK.findall(page.read_text(encoding="utf-8")):
        if not notest:
            yield from (shown for shown in shown_in(text) if shown.command.split()[0] not in NOT_RUN)


def shown_in(text: str) -> Iterator[Shown]:
    shown: Shown | None = None
    for line in text.splitlines():
        if line.startswith("$ "):
            if shown is not None:
                yield shown
            code = EXIT.search(line)
            shown = Shown(EXIT.sub("", line[2:]), int(code[1]) if code else 0)
        elif shown is not None:
            shown.output.append(line)
    if shown is not None:
        yield shown


def done(command: str) -> tuple[int, str]:
    """The exit code, and what a person sees."""
    if SHELL.search(command) or not command.startswith("chunkstore "):
        return in_shell(command)
    both = Terminal(terminal=False)
    with (
        contextlib.redirect_stdout(both),
        contextlib.redirect_stderr(both),
        mock.patch.object(sys, "stdin", Terminal(terminal=False)),
    ):
        code = main(shlex.split(command)[1:])
    return code, both.getvalue()


def in_shell(command: str) -> tuple[int, str]:
    if shutil.which("bash") is None:
        pytest.skip("bash is not installed")
    script = f'set -o pipefail; chunkstore() {{ "{sys.executable}" -m chunkstore "$@"; }}\n{command}'
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "PYTHONIOENCODING": "utf-8"}
    found = subprocess.run(
        ["bash", "-c", script],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=environment,
        timeout=120,
        check=False,
    )
    return found.returncode, found.stdout.decode()


def agrees(printed: str, expected: list[str]) -> bool:
    """Whether what was printed is what the page shows, blanks at the ends of lines aside."""
    pattern = "".join(r"(?:.*\n)*" if line.strip() == "…" else pattern_of(line) + r"\n" for line in expected)
    lines = "".join(f"{line.rstrip()}\n" for line in printed.rstrip().splitlines())
    return re.fullmatch(pattern, lines) is not None


def pattern_of(line: str) -> str:
    return ".*".join(map(re.escape, line.rstrip().split("…")))


@pytest.fixture
def _in_a_folder_with_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    monkeypatch.chdir(folder)
    for name in (*NO_TERMINAL, "CHUNKSTORE_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "home" / ".config"))
    monkeypatch.setenv("CHUNKSTORE_URL", "runs")
    store = chunkstore.open("runs")
    write_demo(store)
    store.close()


@pytest.mark.slow
@pytest.mark.usefixtures("_in_a_folder_with_runs")
@pytest.mark.parametrize("page", [page for page in PAGES if any(shown_on(page))], ids=lambda page: page.name)
def test_the_commands_of_a_page_run_and_print_what_the_page_says(page: Path) -> None:
    for shown in shown_on(page):
        code, printed = done(shown.command)
        expected = "\n".join(shown.output)
        assert code == shown.code, f"$ {shown.command}\n{printed}"
        assert not expected.strip() or agrees(printed, shown.output), (
            f"$ {shown.command}\n{printed}\nis not\n{expected}"
        )


def test_a_page_that_shows_something_else_is_caught() -> None:
    assert agrees("a  b \nc\nd\n", ["a  b", "c", "d"])
    assert agrees("a 12 s\nc\nd\n", ["a … s", "…"])
    assert not agrees("a  b\nc\n", ["a  b"])
    assert not agrees("a  b\n", ["a  c"])
    assert not agrees("x\n", ["a … s"])


def test_commands_and_codes_are_found_in_a_block() -> None:
    text = "$ chunkstore show last  # exit 1\nout\n\nmore\n$ chunkstore ls\n$ pip install x\n"
    assert [(each.command, each.code, each.output) for each in shown_in(text)] == [
        ("chunkstore show last", 1, ["out", "", "more"]),
        ("chunkstore ls", 0, []),
        ("pip install x", 0, []),
    ]


@pytest.fixture(scope="module")
def made() -> dict[str, str]:
    """The pages of the reference by their names, as the commands are now; making them takes a second."""
    pages: dict[str, str] = runpy.run_path(str(TOP / "docs/make_reference.py"))["pages"]()
    return pages


def test_the_reference_is_made_from_the_commands(made: dict[str, str]) -> None:
    stands = {name: (TOP / "docs/reference" / name).read_text(encoding="utf-8") for name in sorted(made)}
    for name, text in made.items():
        assert stands[name] == text, f"{name}: run: python docs/make_reference.py"


def test_no_reference_is_left_of_a_command_that_is_gone(made: dict[str, str]) -> None:
    assert {f"json/{file.name}" for file in (TOP / "docs/reference/json").iterdir()} == {
        name for name in made if name.startswith("json/")
    }


def test_every_command_is_shown_in_a_how_to_page_too() -> None:
    from chunkstore.cli.app import COMMANDS

    shown = " ".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [command.name for command in COMMANDS if f"chunkstore {command.name}" not in shown] == []
