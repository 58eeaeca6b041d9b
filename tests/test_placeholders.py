"""`${name}` stands for a secret and `$$` for a dollar; what is missing is named, and no value ever is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import SecretStr

import chunkstore
from chunkstore.errors import InvalidInputError
from chunkstore.settings.placeholders import (
    Secrets,
    filled,
    filled_url,
    finder,
    found_in,
    has_placeholder,
    in_environment,
    names_in,
)

SECRET = "wJalr+XUtnFEMI=K7MDENG"


def fill(text: str, secrets: Mapping[str, object] = {"a": "1", "two words": "2", "dir/b.c-d": "3"}) -> object:  # noqa: B006
    return filled(text, "setting", found_in(secrets))


@pytest.mark.parametrize(
    ("text", "made"),
    [
        ("", ""),
        ("plain", "plain"),
        ("${a}", "1"),
        ("x${a}y${a}", "x1y1"),
        ("${two words}/${dir/b.c-d}", "2/3"),
        ("$$", "$"),
        ("$$$$", "$$"),
        ("$${a}", "${a}"),
        ("$$${a}", "$1"),
        ("$a pa$word $ 5$", "$a pa$word $ 5$"),
    ],
)
def test_a_placeholder_is_filled_and_two_dollars_are_one(text: str, made: str) -> None:
    assert fill(text) == made


@given(st.text())
def test_what_is_escaped_comes_out_as_it_was(text: str) -> None:
    assert fill(text.replace("$", "$$")) == text


@given(st.text())
def test_what_a_secret_holds_is_not_looked_at_again(text: str) -> None:
    assert fill("<${x}>", {"x": text, "a": "wrong"}) == f"<{text}>"


@given(st.text(alphabet="${}ab"))
def test_a_text_without_placeholders_is_not_touched_and_any_other_is_filled_or_refused(text: str) -> None:
    try:
        made = fill(text, {"a": "", "b": "", "ab": "", "ba": ""})
    except InvalidInputError as error:
        assert error.name
    else:
        assert has_placeholder(text) or made == text


def test_what_is_no_text_stays_as_it_is() -> None:
    for value in (5, True, None, 1.5, ["${a}"]):
        assert filled(value, "setting", found_in({})) is value


def test_a_secret_text_is_filled_too_and_stays_one() -> None:
    made = filled(SecretStr("${a}"), "setting", found_in({"a": SECRET}))
    assert isinstance(made, SecretStr)
    assert made.get_secret_value() == SECRET


@pytest.mark.parametrize("text", ["${", "x${a", "${}", "${${a}}"])
def test_a_placeholder_without_a_name_or_an_end_is_refused(text: str) -> None:
    with pytest.raises(InvalidInputError, match="setting: a placeholder is written"):
        fill(text)


def test_a_missing_secret_is_named_with_its_setting_and_without_the_rest_of_the_text() -> None:
    with pytest.raises(InvalidInputError, match="the secret 'gone' of setting is not known") as refused:
        fill(f"{SECRET}${{gone}}")
    assert refused.value.name == "gone"
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("secrets", [{"a": SECRET}, {"a": SecretStr(SECRET)}, {"a": SECRET}.__getitem__, {"a": SECRET}.get])
def test_secrets_are_a_mapping_or_a_function_of_names(secrets: Secrets) -> None:
    find = found_in(secrets)
    assert find("a") == SECRET
    assert find("b") is None


def test_a_secret_that_is_no_text_is_refused_by_name() -> None:
    with pytest.raises(InvalidInputError, match="the secret 'a' must be text, not bytes") as refused:
        found_in(cast(Secrets, {"a": SECRET.encode()}))("a")
    assert SECRET not in str(refused.value)


def test_the_first_source_that_has_it_counts_and_an_empty_secret_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("b", "environment")
    monkeypatch.setenv("c", "environment")
    find = finder(found_in({"a": "first"}), found_in({"a": "second", "b": ""}), in_environment)
    assert [find(name) for name in "abcd"] == ["first", "", "environment", None]


def test_names_are_told_in_their_order() -> None:
    assert names_in("${b}$${c}${a}") == ("b", "a")
    assert names_in(5) == ()


# URLs


@pytest.mark.parametrize(
    ("url", "made"),
    [
        ("postgresql://u:${p}@host/${db}", "postgresql://u:tiger@host/a@b/c"),
        ("${url}", "postgresql://x:y@z/w"),
        ("s3://bucket/${p}", "s3://bucket/tiger"),
        ("runs/${db}", "runs/a@b/c"),
    ],
)
def test_a_url_is_filled(url: str, made: str) -> None:
    secrets = {"p": "tiger", "db": "a@b/c", "url": "postgresql://x:y@z/w"}
    assert filled_url(url, "url", found_in(secrets)) == made


@pytest.mark.parametrize("secret", ["a@b", "a/b", "a:b", "a?b", "a#b", "a b", "[a]"])
def test_a_password_that_would_mean_something_else_in_a_url_is_refused(secret: str) -> None:
    with pytest.raises(InvalidInputError, match="the secret 'p' of connection_string has a character") as refused:
        filled_url("postgresql://u:${p}@host/db", "connection_string", found_in({"p": secret}))
    assert secret not in str(refused.value).replace("'p' of", "")


# chunkstore.open


def test_keywords_are_taken_as_they_are_unless_secrets_are_given() -> None:
    pytest.importorskip("s3fs", reason="the extra s3 is not installed")
    plain: Mapping[str, object] = {"key": "${k}", "secret": "$${x}$$"}
    store = chunkstore.open("s3://bucket", **plain)
    assert (store.backend.settings.key, store.backend.settings.secret) == ("${k}", "$${x}$$")  # type: ignore[attr-defined]
    store = chunkstore.open("s3://bucket/${p}", secrets={"k": "K", "p": "prefix"}, **plain)
    assert (store.backend.settings.key, store.backend.settings.secret) == ("K", "${x}$")  # type: ignore[attr-defined]
    assert store.backend.place == "s3://bucket/prefix"


def test_the_environment_is_asked_behind_the_secrets_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NAME", "environment")
    assert chunkstore.open("memory://${NAME}", secrets={}).backend.place == "memory://environment"
    assert chunkstore.open("memory://${NAME}", secrets={"NAME": "given"}).backend.place == "memory://given"
    with pytest.raises(InvalidInputError, match="the secret 'GONE' of url is not known"):
        chunkstore.open("memory://${GONE}", secrets={})
