"""The README and the docs: their code runs, their tables are complete, their links lead somewhere."""

import contextlib
import io
import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

import chunkstore
from chunkstore.settings.configs import KEYS

TOP = Path(__file__).parent.parent
PAGES = [TOP / "README.md", *sorted((TOP / "docs").rglob("*.md"))]
NEEDS = {"databases.md": "sqlalchemy"}
"""What the code of a page needs beyond the library itself."""
BLOCK = re.compile(r"^```(\w+)( notest)?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: Path) -> list[tuple[str, bool, str]]:
    return [(language, bool(notest), text) for language, notest, text in BLOCK.findall(page.read_text())]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_python_of_a_page_runs_and_prints_what_the_page_says(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if page.name in NEEDS:
        pytest.importorskip(NEEDS[page.name])
    monkeypatch.chdir(tmp_path)
    for (language, notest, code), following in itertools.pairwise([*blocks(page), ("", False, "")]):
        if language != "python" or notest:
            continue
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, str(page), "exec"), {})
        if following[0] == "text":
            assert printed.getvalue() == following[2]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_between_pages_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text()):
        assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_a_link_from_another_page_leads_to_every_page() -> None:
    linked = {
        (page.parent / target).resolve()
        for page in PAGES
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text())
        if (page.parent / target).resolve() != page
    }
    assert not [page.name for page in PAGES if page != TOP / "README.md" and page.resolve() not in linked]


MODELS = [
    chunkstore.Settings,
    chunkstore.LocalSettings,
    chunkstore.MemorySettings,
    chunkstore.S3StoreSettings,
    chunkstore.DatabaseSettings,
]


@pytest.mark.parametrize("model", MODELS)
def test_every_setting_is_documented_with_its_default_where_its_kind_of_place_is(
    model: type[chunkstore.Settings],
) -> None:
    page = (TOP / "docs/reference/settings.md").read_text()
    section = page.partition(f"`chunkstore.{model.__name__}`\n")[2].partition("\n## ")[0]
    rows = {
        name: row
        for row in section.splitlines()
        if row.startswith("| `")
        for name in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    general = {} if model is chunkstore.Settings else chunkstore.Settings.model_fields
    own = {name: field for name, field in model.model_fields.items() if name not in general}
    assert set(rows) == set(own)
    for name, field in own.items():
        if isinstance(field.default, int | float) and not isinstance(field.default, bool):
            assert f"| {field.default:.0f} |" in rows[name]
        elif isinstance(field.default, bool):
            assert f"| {str(field.default).lower()} |" in rows[name]
        elif isinstance(field.default, str) and field.default:
            assert f"| {field.default} |" in rows[name].replace("| `", "| ").replace("` |", " |")


def test_every_key_of_a_type_is_documented_with_its_default() -> None:
    page = (TOP / "docs/reference/settings.md").read_text()
    rows = dict(re.findall(r"^\| (`chunkstore[\w-]*` \| `\w+`) \| (.+?) \|", page, re.MULTILINE))
    assert rows == {"`chunkstore` | `url`": "required", **dict(_keys())}


def _keys() -> Iterator[tuple[str, str]]:
    """What a type has beside the settings of its place, or with another default."""
    for kind, model in KEYS.items():
        inherited = model.__mro__[2].model_fields
        for name, field in model.model_fields.items():
            choices = getattr(field.validation_alias, "choices", [name])
            if name not in inherited or (
                field is not inherited[name] and (field.default, choices) != (inherited[name].default, [name])
            ):
                secret = isinstance(field.default, SecretStr)
                default = f"`{field.default.get_secret_value()}`" if secret else str(field.default or "none")
                yield f"`{kind}` | `{choices[0]}`", "required" if field.is_required() else default


def test_every_error_is_documented() -> None:
    page = (TOP / "docs/reference/errors.md").read_text()
    public = {name for name in chunkstore.__all__ if name.endswith("Error")}
    inner = {"ChunkStoreError", "AlreadyExistsError", "NotFoundError", "ObjectNotFoundError"}
    assert public - inner <= set(re.findall(r"`(\w+Error)`", page))


def test_every_public_name_of_maintenance_has_one_line_in_the_reference_and_says_what_it_is() -> None:
    from chunkstore import maintenance

    page = (TOP / "docs/reference/maintenance.md").read_text()
    listed = [
        name for row in page.splitlines() if row.startswith("| `") for name in re.findall(r"`(\w+)`", row.split("|")[1])
    ]
    assert sorted(listed) == sorted(maintenance.__all__)
    named = [getattr(maintenance, name) for name in maintenance.__all__]
    assert [
        thing for thing in named if getattr(thing, "__module__", "").startswith("chunkstore.") and not thing.__doc__
    ] == []


def test_the_format_page_shows_a_key_as_the_store_makes_it() -> None:
    from chunkstore import keys

    page = (TOP / "docs/format.md").read_text()
    for chunk in (
        keys.header("r"),
        keys.job("r"),
        keys.step("r", "map.eu.train"),
        keys.branch("r", "map.eu"),
        keys.parameter("r", "alpha"),
        keys.parameter("r", "alpha", "map.eu"),
    ):
        assert f"`{keys.key_of(chunk).removeprefix('r/')}`" in page
