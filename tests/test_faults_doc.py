"""The pages that name tests: every test that they name exists, and every failure that we expect is a known limit."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

pytestmark = pytest.mark.slow

TOP: Final = Path(__file__).parent.parent
PAGES: Final = [TOP / "docs" / name for name in ("faults.md", "concepts.md", "promises.md")]
NAMED: Final = re.compile(r"tests/[\w/.-]*\w(?:::\w+)*")
SHIPPED: Final = TOP / "chunkstore" / "testing" / "suite.py"
"""Where the classes stand that test classes inherit their tests from."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@functools.cache
def parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"))


@functools.cache
def in_file(file: Path) -> dict[str, ast.stmt]:
    """What a file defines, by name."""
    found: dict[str, ast.stmt] = {}
    for one in parsed(file).body:
        if isinstance(one, ast.ClassDef | Function):
            found[one.name] = one
        elif isinstance(one, ast.Assign):
            found |= {target.id: one for target in one.targets if isinstance(target, ast.Name)}
    return found


def methods(file: Path, name: str) -> Iterator[Function]:
    """Those of a class, with those that it inherits from a class beside it or from the shipped suite."""
    made = in_file(file).get(name)
    if isinstance(made, ast.ClassDef):
        yield from (one for one in made.body if isinstance(one, Function))
        for base in made.bases:
            if isinstance(base, ast.Name):
                yield from methods(file if base.id in in_file(file) else SHIPPED, base.id)


def exists(name: str) -> bool:
    """Whether a file or folder of the tests has this name, or holds this test."""
    path, *inside = name.split("::")
    file = TOP / path
    if not inside or not file.is_file():
        return file.exists() and not inside
    if len(inside) == 1:
        return inside[0] in in_file(file)
    return any(one.name == inside[1] for one in methods(file, inside[0])) and len(inside) == 2


def expected_to_fail() -> Iterator[str]:
    """The tests that stand under a mark xfail, or some of whose parameters do."""
    for file in sorted((TOP / "tests").rglob("test_*.py")):
        for one in in_file(file).values():
            inner = list(methods(file, one.name)) if isinstance(one, ast.ClassDef) else []
            for outer, function in [("", one), *((f"{getattr(one, 'name', '')}::", method) for method in inner)]:
                marks = getattr(function, "decorator_list", [])
                if any("mark.xfail" in ast.unparse(mark) for mark in marks):
                    yield f"{file.relative_to(TOP).as_posix()}::{outer}{getattr(function, 'name', '')}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_that_a_page_names_exists(page: Path) -> None:
    named = NAMED.findall(page.read_text(encoding="utf-8"))
    assert any("::" in name for name in named)
    assert [name for name in named if not exists(name)] == []


def test_every_failure_that_is_expected_is_a_known_limit() -> None:
    limits = (TOP / "docs" / "faults.md").read_text(encoding="utf-8").partition("## Known limits")[2]
    assert [name for name in expected_to_fail() if f"`{name}`" not in limits] == []


@pytest.mark.parametrize(
    "name",
    [
        "tests/test_nothing.py",
        "tests/test_docs.py::test_nothing",
        "tests/backends/test_local.py::TestNothing::test_what_was_put_is_read",
        "tests/backends/test_local.py::TestLocalBackend::test_nothing",
        "tests/backends/test_local.py::TestLocalBackend::test_what_was_put_is_read::test_nothing",
    ],
)
def test_a_test_that_does_not_exist_is_noticed(name: str) -> None:
    assert not exists(name)


@pytest.mark.parametrize(
    "name",
    [
        "tests/data",
        "tests/test_docs.py",
        "tests/backends/test_local.py::TestLocalBackend::test_what_was_put_is_read",
        "tests/backends/test_s3.py::TestS3OnMinio::test_what_was_put_is_read",
        "tests/backends/test_local.py::TestLocalMachine",
    ],
)
def test_a_test_that_exists_is_found_also_where_it_is_inherited(name: str) -> None:
    assert exists(name)
