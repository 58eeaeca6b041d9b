"""What all commands share: the message without the extra, what is shown where, the question before a deletion."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pytest

pytest.importorskip("typer", reason="the extra cli is not installed")

from rich.text import Text

import chunkstore
from chunkstore.cli.app import COMMANDS, documents
from chunkstore.cli.asking import confirm_deletion
from chunkstore.cli.documents import described, name_of
from chunkstore.cli.exits import Exit
from chunkstore.cli.output import Output, shown_bytes, shown_duration
from chunkstore.maintenance.progress import Progress
from commands import Terminal, run, run_process

NASTY = "a[red]b\x1b[31m</script>\x9b1m\u202e"
ESCAPED = "a[red]b\\x1b[31m</script>\\x9b1m\\u202e"


def terminal(
    monkeypatch: pytest.MonkeyPatch, *, is_one: bool, width: int = 80, typed: str = ""
) -> tuple[Terminal, Terminal]:
    out, err = Terminal(terminal=is_one), Terminal(terminal=is_one)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(sys, "stderr", err)
    monkeypatch.setattr(sys, "stdin", Terminal(typed, terminal=is_one))
    return out, err


def test_a_table_is_never_cut_where_no_terminal_is(monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = terminal(monkeypatch, is_one=False)
    long = "run-" + "x" * 300
    Output().table(("run", "message"), [(long, "y" * 300), ("b", NASTY)])
    head, first, second = out.getvalue().splitlines()
    assert head.split() == ["run", "message"]
    assert first == f"{long}  {'y' * 300}"
    assert second.split()[-1] == ESCAPED


def test_a_table_fits_the_terminal_and_ids_are_folded_not_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    out, _ = terminal(monkeypatch, is_one=True, width=60)
    run_id = "r" + "0123456789" * 7
    Output().table(("run", "message"), [(run_id, "y" * 300)])
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 60
    assert "".join(line.split()[0] for line in lines[1:]) == run_id


def test_foreign_text_cannot_speak_to_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    out, err = terminal(monkeypatch, is_one=True, width=200)
    output = Output()
    output.line(NASTY)
    output.note(NASTY)
    output.warn(NASTY)
    output.line(output.status(NASTY))
    output.table(("a",), [(NASTY,)])
    shown = out.getvalue() + err.getvalue()
    assert shown.count(ESCAPED) == 5
    assert not re.search("[\x1b\x9b\u202e]", shown)


def test_no_color_is_heeded_and_colours_are_there_without_it(nightly: chunkstore.ChunkedRunLogStore) -> None:
    place = nightly.backend.place
    assert "\x1b[" not in run("ls", "-s", place, terminal=True).out
    assert "\x1b[" in run("ls", "-s", place, terminal=True, env={"NO_COLOR": ""}).out
    assert "\x1b[" not in run("ls", "-s", place).out


def test_progress_is_shown_on_a_terminal_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    _, err = terminal(monkeypatch, is_one=False)
    with Output().progress("copying") as watch:
        assert watch is None
    assert err.getvalue() == ""
    out, err = terminal(monkeypatch, is_one=True)
    with Output().progress("copying") as watch:
        assert watch is not None
        watch(Progress(1, 3, NASTY))
    assert out.getvalue() == ""
    assert "copying" in err.getvalue()
    assert "\x1b[31m" not in err.getvalue()


def test_raw_bytes_come_out_as_they_are() -> None:
    code = "from chunkstore.cli.output import Output; Output().raw(bytes(range(256)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout == bytes(range(256))


def test_a_warning_of_the_library_is_an_escaped_note(
    nightly: chunkstore.ChunkedRunLogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def find_runs(store: chunkstore.ChunkedRunLogStore) -> chunkstore.RunPage:
        logging.getLogger("chunkstore.queries").warning("%s", NASTY)
        return chunkstore.RunPage((), "")

    monkeypatch.setattr(chunkstore.ChunkedRunLogStore, "find_runs", lambda store, *_, **__: find_runs(store))
    assert run("ls", "-s", nightly.backend.place).err.startswith(f"warning: {ESCAPED}\n")


def test_an_encoding_that_lacks_a_letter_is_no_error(tmp_path: Path) -> None:
    with chunkstore_in(tmp_path) as store:
        store.create_run_log("größe-🎉")
    result = run_process("ls", "-s", tmp_path / "r", env={"PYTHONIOENCODING": "ascii"})
    assert result.code == 0
    assert "gr\\xf6\\xdfe-\\U0001f389" in result.out


class chunkstore_in:  # noqa: N801  reads as what it is
    def __init__(self, folder: Path) -> None:
        self._store = chunkstore.open(folder / "r")

    def __enter__(self) -> chunkstore.ChunkedRunLogStore:
        return self._store

    def __exit__(self, *_: object) -> None:
        self._store.close()


# The question


def test_a_deletion_is_announced_with_place_number_and_size(
    nightly: chunkstore.ChunkedRunLogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, err = terminal(monkeypatch, is_one=True, typed="y\n", width=500)
    assert confirm_deletion(Output(), nightly, ["nightly-1", NASTY], 3 << 20, yes=False, dry_run=False)
    assert f"delete: 2 runs, 3.0 MiB, in {nightly.backend.place}" in err.getvalue()
    assert "nightly-1" in err.getvalue()
    assert ESCAPED in err.getvalue()
    assert "Really delete 2 runs? [y/N]" in err.getvalue()
    assert out.getvalue() == ""


@pytest.mark.parametrize("typed", ["", "\n", "n\n", "yess\n"])
def test_all_answers_but_yes_are_no(
    nightly: chunkstore.ChunkedRunLogStore, monkeypatch: pytest.MonkeyPatch, typed: str
) -> None:
    _, err = terminal(monkeypatch, is_one=True, typed=typed)
    assert not confirm_deletion(Output(), nightly, ["a"], 1, yes=False, dry_run=False)
    assert "nothing was changed" in err.getvalue()


def test_without_a_terminal_yes_is_needed(
    nightly: chunkstore.ChunkedRunLogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, err = terminal(monkeypatch, is_one=False, typed="y\n")
    with pytest.raises(Exit) as ended:
        confirm_deletion(Output(), nightly, ["a"], 1, yes=False, dry_run=False)
    assert ended.value.exit_code == 2
    assert "--yes" in err.getvalue()
    assert confirm_deletion(Output(), nightly, ["a"], 1, yes=True, dry_run=False)


def test_a_dry_run_asks_nobody_and_does_nothing_even_with_yes(
    nightly: chunkstore.ChunkedRunLogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, err = terminal(monkeypatch, is_one=False)
    assert not confirm_deletion(Output(), nightly, [f"r{number}" for number in range(12)], 5, yes=True, dry_run=True)
    assert "delete: 12 runs, 5 bytes" in err.getvalue()
    assert "and 2 more" in err.getvalue()
    assert "--dry-run" in err.getvalue()


def test_where_there_is_nothing_to_do_nobody_is_asked(
    nightly: chunkstore.ChunkedRunLogStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, err = terminal(monkeypatch, is_one=False)
    assert not confirm_deletion(Output(), nightly, [], 0, yes=False, dry_run=False, verb="pack")
    assert err.getvalue() == f"nothing to pack in {nightly.backend.place}\n"


# Documents


def test_a_document_is_json_that_every_reader_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    import json

    from chunkstore.cli.documents import Document, written

    class Some(Document):
        schema_id: str = "x"
        values: dict[str, object]

    given = {"a": [float("nan"), float("inf"), -float("inf")], "b": "\x9b", "c": 10**3000, "d": 1.5}
    text = written(Some(values=given))
    assert text.isascii()
    expected = {**given, "a": ["NaN", "Infinity", "-Infinity"]}
    assert json.loads(text, parse_constant=lambda _: pytest.fail("no JSON"))["values"] == expected


def test_each_document_is_named_as_its_command() -> None:
    for name, document in documents().items():
        assert name_of(document) == name.replace(" ", "-")
        assert described(document)["properties"]["schema"]["const"] == f"chunkstore/{name_of(document)}/1"
        assert next(iter(described(document)["properties"])) == "schema"


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)
def test_every_command_has_json_a_store_and_a_first_sentence(command: object) -> None:
    name = command.name  # type: ignore[attr-defined]
    shown = run(*name.split(), "--help")
    assert shown.code == 0
    assert Text.from_ansi(shown.out).plain.count("--json") >= (command.document is not None)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("count", "shown"),
    [(0, "0 bytes"), (1, "1 byte"), (1023, "1023 bytes"), (1536, "1.5 KiB"), (5 << 50, "5120.0 TiB")],
)
def test_sizes_are_shown_for_people(count: int, shown: str) -> None:
    assert shown_bytes(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0.25, "0.250 s"),
        (59.9994, "59.999 s"),
        (61, "1 min 01 s"),
        (3600, "1 h 00 min"),
        (172800 + 3600, "2 d 01 h"),
        (-1, "-1.000 s"),
    ],
)
def test_durations_are_shown_for_people(seconds: float, shown: str) -> None:
    assert shown_duration(timedelta(seconds=seconds)) == shown
    assert shown_duration(None) == ""


def test_the_shell_is_offered_runs_and_names_of_stores(nightly: chunkstore.ChunkedRunLogStore) -> None:
    Path("chunkstore.toml").write_text(f'[stores.prod]\nurl = "{nightly.backend.place}"\n')
    offered = run_process(
        env={"_CHUNKSTORE_COMPLETE": "complete_bash", "COMP_WORDS": "chunkstore ls -s p", "COMP_CWORD": "3"},
        cwd=Path.cwd(),
    )
    assert "prod" in offered.out.split()


def test_the_package_is_a_program() -> None:
    shown = run_process("--version")
    assert re.fullmatch(r"chunkstore (\d+\.\d+\.\d+|from a source tree.*)\n", shown.out), shown
