"""Writes `docs/reference/cli.md` and `docs/reference/json/` from the commands themselves: `python docs/make_reference.py`."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

from chunkstore.cli import app
from chunkstore.cli.documents import described, name_of
from chunkstore.configschema import json_schema
from chunkstore.configuration import TYPES

REFERENCE = Path(__file__).parent / "reference"

INTRODUCTION = """\
# The command line

Made from the commands themselves by `python docs/make_reference.py`; how to use them is told in [how to find out what happened](../how-to/cli.md).

`pip install "chunkstore[cli]"` brings the command `chunkstore`; `python -m chunkstore` is the same.

**Which store.** `--store`, else `CHUNKSTORE_URL`, else the key `store` of the configuration file: a folder, `s3://bucket/prefix`, or a name from that file. A relative folder in the file is
seen from the file's own folder. `--config FILE` (or `CHUNKSTORE_CONFIG`) names the file; otherwise it is the nearest `chunkstore.toml` from the working folder upwards, and behind that
`~/.config/chunkstore/config.toml` (`$XDG_CONFIG_HOME`). The settings of a store are [those of the library](settings.md). Beside `CHUNKSTORE_URL`, each is a variable `CHUNKSTORE_<SETTING>`. Credentials stand there or in the environment, never in a URL; `${name}` in the file is that variable of the environment, `$$` a dollar:

```toml
store = "prod"

[stores.prod]
url = "s3://bucket/runs"
endpoint_url = "http://127.0.0.1:9000"

[stores.here]
url = "runs/"
```

**Which run.** An id, the start of one that no other id has, `last`, `last~1` (the one before), `last:failed` (or any status), `tag:nightly`, `tag:nightly~1`. `id:NAME` is the id NAME and nothing else.

**Exit codes.**

| code | meaning |
|---|---|
| 0 | ok |
| 1 | the run failed, the two differ, or damage was found |
| 2 | the arguments, the configuration or a missing extra |
| 3 | no such run, folder, chunk or file |
| 4 | a conflict or a lease: somebody else was faster or holds it, or it exists already |
| 5 | the store did not answer as it should: network, server, disk, permissions |

70 is a fault of chunkstore itself, 124 a `--timeout` that was over, 130 Ctrl-C, 141 a reader of the output that went away.

**Output.** Results go to stdout, all else to stderr. On a terminal a table fits it; elsewhere nothing is cut. `NO_COLOR` is heeded. With `--json` a command prints one JSON document, in ASCII, whose first field
`schema` says which one and in which version: [json/](json/) has a JSON Schema of each, and so has `chunkstore schema`. NaN and the infinities, which JSON lacks, are the texts `"NaN"`, `"Infinity"`, `"-Infinity"`.
"""


def pages() -> dict[str, str]:
    """The files below `docs/reference`, by their names there."""
    made = {"cli.md": reference()}
    for document in app.documents().values():
        made[f"json/{name_of(document)}.json"] = json.dumps(described(document), indent=2, ensure_ascii=False) + "\n"
    for kind in TYPES:
        made[f"json/type-{kind}.json"] = json.dumps(json_schema(kind), indent=2, ensure_ascii=False) + "\n"
    return made


def reference() -> str:
    """The page of all commands."""
    parts = [INTRODUCTION]
    panel = ""
    for command in sorted(app.COMMANDS, key=lambda each: app.PANELS.index(each.panel)):
        if command.panel != panel:
            panel = command.panel
            parts.append(f"## {panel}\n")
        parts.append(section(command))
    return "\n".join(parts)


def section(command: app.Command) -> str:
    """One command: what it does, its arguments and options."""
    parameters = [each for each in parsed(command.name).params if each.name != "help"]
    arguments = [each for each in parameters if each.param_type_name == "argument"]
    words = [f"[{each.metavar}]" if not each.required else each.metavar for each in arguments]
    lines = [f"### chunkstore {command.name}\n", f"`{' '.join(['chunkstore', command.name, *words, '[OPTIONS]'])}`\n"]
    lines += [inspect.cleandoc(command.function.__doc__ or ""), ""]
    lines += ["| | default | |", "|---|---|---|"]
    lines += [row(each) for each in parameters]
    if command.document is not None:
        name = name_of(command.document)
        lines += ["", f"`--json`: [json/{name}.json](json/{name}.json)"]
    return "\n".join([*lines, ""])


def parsed(name: str) -> Any:
    """What typer made of a command."""
    found: Any = app.program()
    for word in name.split():
        found = found.commands[word]
    return found


def row(parameter: Any) -> str:
    """One argument or option."""
    if parameter.param_type_name == "argument":
        names = f"`{parameter.metavar}`"
    else:
        names = ", ".join(f"`{name}`" for name in [*parameter.opts, *parameter.secondary_opts])
        if not parameter.is_flag and parameter.metavar:
            names += f" {parameter.metavar}".replace("|", "\\|")
    default = parameter.default
    shown = "" if default in (None, "", False, (), []) else f"`{default}`"
    environment = f" `{parameter.envvar}` is the same." if parameter.envvar else ""
    return f"| {names} | {shown} | {(parameter.help or '').replace('|', chr(92) + '|')}{environment} |"


def main() -> None:
    """Writes the pages, and takes away those of commands that are gone."""
    made = pages()
    (REFERENCE / "json").mkdir(exist_ok=True)
    for old in (REFERENCE / "json").glob("*.json"):
        if f"json/{old.name}" not in made:
            old.unlink()
    for name, text in made.items():
        (REFERENCE / name).write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
