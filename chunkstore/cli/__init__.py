"""The command line, `chunkstore`. Needs the extra `cli`; what its commands do is in the library, and can be called without them."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Sequence

_MISSING = """\
chunkstore: the command line needs packages that are not installed here: {names}.
Install them with:  pip install "chunkstore[cli]"
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code; `arguments` are those of the process if not given. See `cli.exits`."""
    missing = [name for name in ("typer", "rich") if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(_MISSING.format(names=", ".join(missing)))
        return 2
    from chunkstore.cli.app import execute

    return execute(arguments)
