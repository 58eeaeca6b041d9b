"""The floors of the house: what is below knows nothing of what is above. Imports are read, not run."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import chunkstore

pytestmark = pytest.mark.slow

ROOT = Path(chunkstore.__path__[0])


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(part for part in parts if part != "__init__")


FILES = {name_of(file): file for file in sorted(ROOT.rglob("*.py"))}
FRAME = {
    "documents",
    "exits",
    "output",
    "asking",
    "configuration",
    "opening",
    "completing",
    "options",
    "choosing",
    "findings",
    "app",
}
"""Of the command line; every other file in `cli` is a command."""

COMMANDS = sorted(name for name in FILES if name.startswith("cli.") and name.removeprefix("cli.") not in FRAME)

FLOORS = [
    ["errors", "models"],
    [
        *("process", "waiting", "greenlets", "keys", "values", "clock", "codec", "packs"),
        *(
            "backends.contract",
            "backends",
            "backends.hostlock",
            "backends.localsync",
            "backends.probe",
            "backends.s3faults",
            "backends.s3settings",
            "backends.sharing",
            "backends.s3listing",
            "backends.s3credentials",
            "backends.s3encryption",
            "backends.s3fsengine",
            "backends.foreignthreads",
            "backends.obstoreengine",
            "backends.s3engine",
            "backends.s3server",
        ),
        *("backends.memory", "backends.local", "backends.localstrays", "backends.s3"),
        *(
            "backends.sqlrow",
            "backends.sqltable",
            "backends.sqlsettings",
            "backends.sqlfaults",
            "backends.sqlstatements",
        ),
        *("backends.sqlitefile", "backends.postgres", "backends.sqldatabase", "backends.sql"),
    ],
    ["merge", "marks", "known", "schema", "unpacking", "chunks", "index", "reindexing", "assembly", "leaserecords"],
    ["watching", "reading", "following", "writing", "queries", "compaction", "leases", "fencing", "store"],
    [
        *("timeline", "comparison", "live"),
        *("settings.general", "settings.local", "settings.memory", "settings.s3", "settings.database", "settings"),
        *("settings.placeholders", "settings.checking", "settings.configs"),
        *("config", "configuration", "configfile", "environment", "configschema", "asynchronous", ""),
    ],
    [
        *("integrations", "integrations.hosts", "integrations.configured"),
        *("integrations.magnus", "integrations.runnable"),
        *("naming", "moments", "outcomes", "objects", "demonstration", "show", "timeline_chart", "timeline_page"),
        *(
            "maintenance.progress",
            "maintenance.packing",
            "maintenance.deletion",
            "maintenance.transfer",
            "maintenance.copying",
        ),
        *("maintenance.documents", "maintenance.tabular", "maintenance.exporting"),
        *("maintenance.import_report", "maintenance.import_json"),
        *(
            "maintenance.foreign",
            "maintenance.conversion",
            "maintenance.importing_folders",
            "maintenance.importing_runnable",
            "maintenance.importing_magnus",
            "maintenance.importing_db_log",
            "maintenance.imports",
        ),
        "maintenance.leasekeeping",
        *("maintenance.moving", "maintenance.retention", "maintenance.removal", "maintenance.trash"),
        *("maintenance.findings", "maintenance.inspection", "maintenance.quarantine"),
        *("maintenance.verification", "maintenance.repair"),
        *(
            "maintenance.checks",
            "maintenance.localprobes",
            "maintenance.s3probes",
            "maintenance.sqlprobes",
            "maintenance.doctor",
        ),
        "maintenance",
    ],
    [
        *("cli.documents", "cli.exits", "cli.output", "cli.asking"),
        *("cli.configuration", "cli.opening", "cli.completing", "cli.options", "cli.choosing", "cli.findings"),
        *COMMANDS,
        *("cli.app", "cli", "__main__"),
    ],
]
"""From the ground up. Each module imports only from floors below, or from what stands before it on its own; "" is the face."""

IMPORTS_ONLY = {
    "errors": set(),
    "keys": {"errors"},
    "clock": {"process"},
    "process": set(),
    "waiting": {"process"},
    "greenlets": {"process", "waiting"},
    "values": {"errors"},
    "codec": {"clock", "errors", "values"},
    "packs": {"clock", "errors"},
    "merge": {"values"},
    "assembly": set(),
    "models": {"errors"},
    "timeline": {"errors", "models"},
    "comparison": {"errors", "models", "timeline", "values"},
    "moments": {"errors"},
    "outcomes": {"models"},
}
"""Rooms that are pure, or know one thing only."""

EXTRAS = {
    "backends.s3credentials": {"aiobotocore", "botocore"},
    "backends.s3fsengine": {"fsspec", "s3fs"},
    "backends.s3listing": {"aiobotocore"},
    "backends.obstoreengine": {"obstore"},
    "backends.s3server": {"fsspec"},
    "backends.s3faults": {"botocore", "aiohttp"},
    "backends.hostlock": {"filelock"},
    "backends.sql": {"sqlalchemy"},
    "backends.sqldatabase": {"sqlalchemy"},
    "backends.sqlitefile": {"sqlalchemy"},
    "backends.sqlsettings": {"sqlalchemy"},
    "backends.sqlstatements": {"sqlalchemy"},
    "backends.sqltable": {"sqlalchemy"},
    "backends.postgres": {"sqlalchemy", "psycopg"},
    "config": {"sqlalchemy"},
    "greenlets": {"greenlet"},
    "asynchronous": {"asyncio"},
    "packs": {"zstandard"},
    "maintenance.tabular": {"pyarrow"},
    "integrations.magnus": {"magnus"},
    "integrations.runnable": {"runnable"},
    "maintenance.importing_db_log": {"sqlalchemy"},
    "configfile": {"ruamel"},
    "show": {"rich"},
    "timeline_chart": {"rich"},
}
"""Who may import what not all users have, or what takes long to import."""

EXTRAS |= {name: {"typer", "rich"} for name in FILES if name.startswith("cli.")}

EVERYWHERE = {"orjson", "pydantic", "pydantic_core", "typing_extensions"}


@dataclass(frozen=True)
class Import:
    """One import statement: by whom, of what, and whether it runs only when a function is called."""

    importer: str
    imported: str
    inside_function: bool
    line: int


SHIPPED_TESTS = {name for name in FILES if name.startswith("testing")}


def statements(node: ast.AST, inside: bool = False) -> Iterator[tuple[ast.Import | ast.ImportFrom, bool]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.Import | ast.ImportFrom):
            yield child, inside
        elif isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        else:
            yield from statements(
                child, inside or isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            )


def imports_of(name: str) -> Iterator[Import]:
    for statement, inside in statements(ast.parse(FILES[name].read_text(encoding="utf-8"))):
        for imported in targets(statement):
            yield Import(name, imported, inside, statement.lineno)


def targets(statement: ast.Import | ast.ImportFrom) -> list[str]:
    """The modules that a statement imports, ours without the package's name."""
    if isinstance(statement, ast.Import):
        return [ours(alias.name) for alias in statement.names]
    assert statement.level == 0, f"a relative import in line {statement.lineno}"
    base = statement.module or ""
    submodules = [f"{base}.{alias.name}" for alias in statement.names]
    within = [
        ours(module)
        for module in submodules
        if module.startswith("chunkstore.") and ours(module).lstrip(".") in modules()
    ]
    return within or [ours(base)]


def modules() -> set[str]:
    return {f"chunkstore.{name}".rstrip(".") for name in FILES} | set(FILES)


def ours(module: str) -> str:
    """`chunkstore.keys` as `keys`; a foreign module as `foreign:top`; the face as ``."""
    if module == "chunkstore":
        return ""
    if module.startswith("chunkstore."):
        return module.removeprefix("chunkstore.")
    return f"foreign:{module.split('.', maxsplit=1)[0]}"


ALL = [found for name in FILES for found in imports_of(name)]
OWN = [found for found in ALL if not found.imported.startswith("foreign:")]
FOREIGN = [found for found in ALL if found.imported.startswith("foreign:")]
ORDER = [module for floor in FLOORS for module in floor]


def test_every_module_stands_on_a_floor() -> None:
    assert set(FILES) - SHIPPED_TESTS == set(ORDER)


def test_imports_are_found_at_all() -> None:
    found = {(each.importer, each.imported, each.inside_function) for each in OWN}
    assert {
        ("store", "keys", False),
        ("config", "backends.local", True),
        ("backends", "backends.contract", False),
    } <= found
    assert len(OWN) > 60


@pytest.mark.parametrize("name", [name for name in FILES if name not in SHIPPED_TESTS])
def test_a_module_imports_only_from_below(name: str) -> None:
    above = [each for each in imports_of(name) if each in OWN and ORDER.index(each.imported) >= ORDER.index(name)]
    assert above == []


def test_nothing_imports_in_a_circle() -> None:
    graph = {name: {each.imported for each in imports_of(name) if each in OWN} for name in FILES}
    TopologicalSorter(graph).prepare()


@pytest.mark.parametrize("name", IMPORTS_ONLY)
def test_a_pure_room_knows_only_what_it_says(name: str) -> None:
    assert {each.imported for each in imports_of(name) if each in OWN} <= IMPORTS_ONLY[name]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_knows_no_other_command(name: str) -> None:
    assert {each.imported for each in imports_of(name) if each in OWN}.isdisjoint(COMMANDS)


def test_the_library_knows_no_command_line() -> None:
    below = [name for name in FILES if name.split(".")[0] not in ("cli", "__main__")]
    assert [each for name in below for each in imports_of(name) if each.imported.split(".")[0] == "cli"] == []


@pytest.mark.parametrize("name", [name for name in FILES if name.split(".")[0] == "backends"])
def test_a_backend_knows_no_run(name: str) -> None:
    known = {each.imported.split(".")[0] for each in imports_of(name) if each in OWN}
    assert known <= {"backends", "errors", "process", "waiting"}


def test_nothing_that_users_run_imports_the_shipped_tests() -> None:
    assert [
        each for each in OWN if each.imported.split(".")[0] == "testing" and each.importer not in SHIPPED_TESTS
    ] == []


def test_an_import_inside_a_function_is_of_an_extra_or_of_the_place_that_a_url_names() -> None:
    inside = [each for each in ALL if each.inside_function and each.importer not in SHIPPED_TESTS]
    assert inside, "config opens its backends so"
    for each in inside:
        if each in OWN:
            assert (each.importer, each.imported.split(".")[0]) in {
                ("config", "backends"),
                ("backends.sqldatabase", "backends"),
                ("maintenance.importing_db_log", "backends"),
                ("asynchronous", "greenlets"),
                ("cli", "cli"),
                ("maintenance.doctor", "maintenance"),
            }, each
        else:
            assert each.imported.removeprefix("foreign:") in EXTRAS[each.importer], each


@pytest.mark.parametrize("name", [name for name in FILES if name not in SHIPPED_TESTS])
def test_a_foreign_package_is_imported_only_where_it_is_used(name: str) -> None:
    foreign = {each.imported.removeprefix("foreign:") for each in imports_of(name) if each in FOREIGN}
    assert foreign - set(sys.stdlib_module_names) <= EVERYWHERE | EXTRAS.get(name, set())


@pytest.mark.parametrize("name", FILES)
def test_a_file_opens_with_a_sentence_that_says_what_lives_there(name: str) -> None:
    first = (ast.get_docstring(ast.parse(FILES[name].read_text(encoding="utf-8"))) or "").partition("\n\n")[0]
    assert len(first) > 30


def test_no_property_is_kept_under_a_lock_that_a_forked_child_would_inherit() -> None:
    """That of `functools.cached_property` in Python 3.11 is one for all objects of a class, and nobody renews it after a fork."""
    assert [name for name, file in FILES.items() if "import cached_property" in file.read_text(encoding="utf-8")] == []
