"""What `import chunkstore` gives: complete, documented, light."""

from __future__ import annotations

import inspect
import json
import subprocess
import sys

import pytest

import chunkstore
from chunkstore import errors, models

HEAVY = [
    *(
        "s3fs",
        "aiobotocore",
        "botocore",
        "boto3",
        "aiohttp",
        "fsspec",
        "filelock",
        "runnable",
        "sqlalchemy",
        "rich",
        "typer",
        "greenlet",
    ),
    *("pytest", "_pytest", "hypothesis", "moto", "asyncio", "multiprocessing", "ssl", "numpy", "pandas", "yaml"),
]


def test_the_face_is_sorted_and_complete() -> None:
    names = chunkstore.__all__
    constants = [name for name in names if name.isupper()]
    classes = [name for name in names if name[0].isupper() and name not in constants]
    functions = [name for name in names if name.islower()]
    assert names == sorted(constants) + sorted(classes) + sorted(functions)
    assert len(set(names)) == len(names)
    public = {
        name for name, thing in vars(chunkstore).items() if not name.startswith("_") and not inspect.ismodule(thing)
    }
    assert public == set(names)


@pytest.mark.parametrize("module", [errors, models])
def test_every_public_class_of_a_ground_floor_module_is_on_the_face(module: object) -> None:
    public = {
        name
        for name, thing in vars(module).items()
        if inspect.isclass(thing) and thing.__module__ == module.__name__ and not name.startswith("_")  # type: ignore[attr-defined]
    }
    assert public <= set(chunkstore.__all__)


@pytest.mark.parametrize("name", chunkstore.__all__)
def test_everything_on_the_face_says_what_it_is(name: str) -> None:
    thing = getattr(chunkstore, name)
    if callable(thing):
        assert thing.__module__.startswith("chunkstore.")
        assert thing.__doc__
        assert thing.__doc__ not in {Exception.__doc__, dict.__doc__, object.__doc__}


@pytest.mark.parametrize("name", [name for name in chunkstore.__all__ if inspect.isclass(getattr(chunkstore, name))])
def test_every_public_method_on_the_face_says_what_it_gives(name: str) -> None:
    kind = getattr(chunkstore, name)
    own = [(each, thing) for each, thing in vars(kind).items() if not each.startswith("_")]
    methods = [each for each, thing in own if inspect.isfunction(thing) or isinstance(thing, property)]
    assert [each for each in methods if not inspect.getdoc(getattr(kind, each))] == []


def test_importing_it_imports_nothing_heavy() -> None:
    code = "import json, sys; before = set(sys.modules); import chunkstore; print(json.dumps(sorted(set(sys.modules) - before)))"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    imported = json.loads(output)
    assert "chunkstore.store" in imported
    assert [module for module in imported if module.split(".")[0] in HEAVY] == []
    assert [module for module in imported if module.startswith(("chunkstore.testing", "chunkstore.integrations"))] == []


def test_a_store_in_a_folder_needs_no_extra(tmp_path: object) -> None:
    code = (
        "import sys, chunkstore; store = chunkstore.open(sys.argv[1]); store.create_run_log('r'); store.get_run_log_by_id('r');"
        "print(*sorted({name.split('.')[0] for name in sys.modules}))"
    )
    output = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    ).stdout
    assert {"s3fs", "botocore", "fsspec", "runnable", "rich", "pytest", "hypothesis"}.isdisjoint(output.split())


def test_the_types_are_shipped() -> None:
    assert (inspect.getsourcefile(chunkstore) or "").endswith("__init__.py")
    assert __import__("importlib.resources").resources.files("chunkstore").joinpath("py.typed").is_file()
