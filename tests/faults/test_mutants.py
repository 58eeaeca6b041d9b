"""The mutants fit the package that is tested; whether each dies, `tox -e mutants` tells."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from mutants import MUTANTS, PACKAGE, TESTS, Mutant, mutate


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_mutant_still_has_what_it_takes_out_and_tests_that_should_miss_it(mutant: Mutant, tmp_path: Path) -> None:
    (tmp_path / mutant.file).parent.mkdir(exist_ok=True)
    copy = shutil.copy(PACKAGE / mutant.file, tmp_path / mutant.file)
    mutate(tmp_path, mutant)
    compile(Path(copy).read_text(encoding="utf-8"), mutant.file, "exec")
    assert all((TESTS / path).exists() for path in mutant.tests.partition(" -k ")[0].split())
