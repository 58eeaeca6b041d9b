"""Draws `docs/screenshots/`: what commands print on a terminal, on the demo's runs. `python docs/make_screenshots.py`."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.text import Text

SCREENSHOTS: Final = Path(__file__).parent / "screenshots"
WIDTH: Final = 92
SHOWN: Final = {
    "ls": ["ls"],
    "show": ["show", "last:failed"],
    "timeline": ["timeline", "nightly-2"],
    "diff": ["diff", "nightly-1", "nightly-2"],
    "verify": ["verify"],
}
"""The pictures by their names, and the words of the commands."""
DAMAGED: Final = {"verify": "nightly-1/step.load.json"}
"""In which object a byte is flipped before a picture is drawn; so these come last."""


def drawn(words: list[str], store: str) -> str:
    """The picture of a command's output, as SVG."""
    printed = _on_a_terminal([sys.executable, "-m", "chunkstore", *words], store)
    console = Console(record=True, width=WIDTH, file=open(os.devnull, "w", encoding="utf-8"), highlight=False)  # noqa: SIM115, PTH123
    console.print(Text.assemble(("$ ", "bold green"), f"chunkstore {' '.join(words)}"))
    console.print(Text.from_ansi(printed))
    picture = console.export_svg(title="chunkstore", unique_id="chunkstore")
    # Fonts would be fetched from the network by whoever looks at the picture.
    return re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)


def _on_a_terminal(command: list[str], store: str) -> str:
    """What the command prints where stdout is a terminal."""
    ours, theirs = os.openpty()
    environment = {**os.environ, "CHUNKSTORE_URL": store, "COLUMNS": str(WIDTH), "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    with FileIO(ours) as terminal:
        # Not stderr: a bar that moves is no picture.
        process = subprocess.Popen(command, env=environment, stdout=theirs, stderr=subprocess.DEVNULL)
        os.close(theirs)
        printed = b"".join(_until_closed(terminal))
        process.wait()
    return printed.decode().replace("\r\n", "\n")


def _until_closed(terminal: FileIO) -> Iterator[bytes]:
    with suppress(OSError):  # Linux has no other word for the end of a terminal
        while data := terminal.read(65_536):
            yield data


def _flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def main() -> None:
    """Draws them all."""
    SCREENSHOTS.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        store = str(Path(folder) / "runs")
        subprocess.run([sys.executable, "-m", "chunkstore", "demo", "-s", store], capture_output=True, check=True)
        for name, words in SHOWN.items():
            if name in DAMAGED:
                _flip(Path(store) / DAMAGED[name])
            (SCREENSHOTS / f"{name}.svg").write_text(drawn(words, store), encoding="utf-8")


if __name__ == "__main__":
    main()
