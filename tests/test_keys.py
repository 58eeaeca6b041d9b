"""Every name has a key of its own, every key of ours tells its name, and no key leaves its prefix."""

from __future__ import annotations

import re

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from chunkstore import keys
from chunkstore.errors import InvalidInputError
from chunkstore.keys import ChunkId, Kind

# A busy machine is slow, not wrong.
unhurried = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])

# Characters that mean something in a key, so that chance finds their meetings.
TRICKY = "ab.@%~/\\ A0-_25E"
any_text = st.text(alphabet=st.characters(exclude_categories=["Cs"]), min_size=1)
names = (
    any_text | st.text(TRICKY, min_size=1) | st.text(TRICKY, min_size=100, max_size=400) | st.text("é😀", min_size=30)
)
run_ids = st.text(
    alphabet=st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\"), min_size=1, max_size=20
).filter(lambda text: bool(text.strip()) and text not in {".", ".."} and len(keys._escape_all(text)) < 190)
chunk_ids = st.one_of(
    st.builds(keys.header, run_ids),
    st.builds(keys.job, run_ids),
    st.builds(keys.step, run_ids, names),
    st.builds(keys.branch, run_ids, names),
    st.builds(keys.parameter, run_ids, names),
    st.builds(keys.parameter, run_ids, names, names),
)

ODD_NAMES = [
    *(".", "..", "...", "a.json", ".json", "~", "%", "%~", "%41", "%2541", "%~0123456789abcdef0123456789abcdef"),
    *("@", "a@b", "@a", "a@", "/", "a/b", "\\", "a\\b", "..\\..", "../../x", "\0", "\n", "\t", "\x7f", " ", " a", "a "),
    *("A", "a", "Ä", "ä", "a\u0308", "é", "ü.json", "日本", "😀", "👩‍👩‍👧", "\u202e", "\ufeff", "\ufffd", "+", "a+b"),
    *("*", "?", "[a]", "{a}", "a:b", 'a"b', "a'b", "a|b", "a<b>", "a#b", "a&b", "a=b", "a;b", "$a", "a^b", "`a`", "!"),
    *("CON", "nul", "step", "run", "job", "parameter", "step.a", "run.json", "a%", "a%4", "a%zz", "1.5", "a.b/c.csv"),
]
BAD_RUN_IDS = [
    *("../x", "a/b", "", ".", "..", "x" * 2000, "a\0b", "a\nb", "\t", "a\x7f", "a\\b", "\\\\host\\share", "/", "/etc"),
    *(" ", "\u3000", "\ud800", "a\udfffb", "😀" * 20, "é" * 200, 3, None, b"run", 1.5),
]


def all_kinds(name: str) -> list[ChunkId]:
    return [keys.step("r", name), keys.branch("r", name), keys.parameter("r", name), keys.parameter("r", name, name)]


@unhurried
@given(chunk_ids)
def test_a_key_tells_the_chunk_that_it_was_made_for(chunk: ChunkId) -> None:
    key = keys.key_of(chunk)
    parsed = keys.parse(key)
    if keys.is_abbreviated(key):
        assert parsed is not None
        assert (parsed.run_id, parsed.kind, bool(parsed.scope)) == (chunk.run_id, chunk.kind, bool(chunk.scope))
    else:
        assert parsed == chunk


@pytest.mark.parametrize("name", ODD_NAMES)
def test_odd_names_come_back_from_their_keys(name: str) -> None:
    assert [keys.parse(keys.key_of(chunk)) for chunk in all_kinds(name)] == all_kinds(name)


@unhurried
@given(chunk_ids, chunk_ids)
@example(keys.parameter("r", "b@c", "a"), keys.parameter("r", "c", "a@b"))
@example(keys.parameter("r", "a@b"), keys.parameter("r", "b", "a"))
@example(keys.parameter("r", "a.b"), keys.parameter("r", "b", "a"))
@example(keys.step("r", "a%2F"), keys.step("r", "a/"))
@example(keys.step("r", "a"), keys.step("r", "A"))
@example(keys.step("r", "é"), keys.step("r", "e\u0301"))
@example(keys.step(".r", "a"), keys.step("%2Er", "a"))
def test_two_chunks_never_share_a_key(one: ChunkId, other: ChunkId) -> None:
    assert (keys.key_of(one) == keys.key_of(other)) == (one == other)


def test_all_odd_names_have_keys_of_their_own() -> None:
    made = [keys.key_of(chunk) for name in ODD_NAMES for chunk in all_kinds(name)]
    assert len(set(made)) == len(made)


@unhurried
@given(
    st.text(TRICKY + "é😀", max_size=300), st.integers(0, 20), st.sampled_from([keys.step, keys.branch, keys.parameter])
)
def test_long_names_that_differ_in_one_character_have_keys_of_their_own(
    head: str, place: int, of: type[ChunkId]
) -> None:
    long = head.ljust(300, "x")
    changed = f"{long[:-place]}#{long[len(long) - place + 1 :]}" if place else f"{long}#"
    assert keys.key_of(of("r", long)) != keys.key_of(of("r", changed))
    assert keys.is_abbreviated(keys.key_of(of("r", long)))


def test_no_name_spells_the_key_of_an_abbreviated_one() -> None:
    abbreviated = keys.key_of(keys.step("r", "x" * 300))
    spelled = abbreviated.removeprefix("r/step.").removesuffix(".json")
    assert keys.key_of(keys.step("r", spelled)) != abbreviated


@unhurried
@given(chunk_ids)
@example(keys.parameter("r" * 200, "😀" * 1000, "/" * 1000))
@example(keys.step("r", "x" * 245))
@example(keys.step("r", "x" * 246))
@example(keys.step("r", "%" * 82))
def test_a_key_is_two_parts_of_plain_ascii_that_every_file_system_takes(chunk: ChunkId) -> None:
    key = keys.key_of(chunk)
    folder, slash, file = key.partition("/")
    assert (key.isascii(), key.isprintable(), slash) == (True, True, "/")
    assert len(folder) <= 200
    assert len(file) <= 255
    assert not re.search(r'[/\\:*?"<>|]', file)
    assert not re.search(r'[/\\:*?"<>|]|^[. ]|[. ]$', folder)
    assert not file.startswith(".")


@pytest.mark.parametrize(("length", "is_short"), [(245, True), (246, False)])
def test_only_a_name_too_long_for_a_file_is_abbreviated(length: int, is_short: bool) -> None:
    key = keys.key_of(keys.step("r", "x" * length))
    assert keys.is_abbreviated(key) is not is_short
    assert len(key) == len("r/") + 255


@unhurried
@given(names.filter(lambda name: len(keys._escape_all(name)) > 245))
def test_an_abbreviated_key_keeps_a_readable_head(name: str) -> None:
    parsed = keys.parse(keys.key_of(keys.step("r", name)))
    assert parsed is not None
    head, mark, digest = parsed.name.rpartition("%~")
    assert (mark, len(digest)) == ("%~", 32)
    assert name.startswith(head.rstrip("\ufffd"))
    assert len(keys._escape_all(head.rstrip("\ufffd"))) > 190


@pytest.mark.parametrize("run_id", BAD_RUN_IDS, ids=lambda value: repr(value)[:20])
def test_a_run_id_that_cannot_be_a_folder_is_refused_by_name(run_id: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        keys.key_of(keys.header(run_id))
    message = str(refused.value)
    assert "run id" in message
    assert repr(run_id)[1:20].rstrip("'") in message or "empty" in message
    assert len(message) < 600
    for other in (keys.prefix_of_run, keys.prefix_of_parameters, keys.folder_of):
        with pytest.raises(InvalidInputError):
            other(run_id)


@pytest.mark.parametrize(
    "run_id", [".hidden", "...", "a.", "a ", " a", "a..", "-x", "~", "run.json", "CON", "é", "2026-11-21T12:00"]
)
def test_an_odd_run_id_stays_one_folder_below_the_prefix(run_id: str) -> None:
    folder = keys.folder_of(run_id)
    assert "/" not in folder
    assert folder not in {".", ".."}
    assert (folder[0] in ". ", folder[-1] in ". ") == (False, False)
    assert keys.run_id_of(folder) == run_id


@unhurried
@given(st.lists(chunk_ids, max_size=8), run_ids, st.just("") | names)
def test_the_prefix_of_parameters_lists_exactly_those_of_its_scope(
    chunks: list[ChunkId], run_id: str, scope: str
) -> None:
    mine = [keys.parameter(run_id, name, scope) for name in ("a", "@", "a.b", "x" * 300)]
    neighbours = [keys.step(run_id, "a"), keys.branch(run_id, "parameter"), keys.parameter(run_id, "a", f"{scope}x")]
    neighbours += [
        keys.parameter(run_id, "a", f"{scope}@a"),
        keys.parameter(run_id, "a", "x" * 300),
        keys.header(run_id),
    ]
    prefix = keys.prefix_of_parameters(run_id, scope)
    for chunk in [*mine, *neighbours, *chunks]:
        is_one = (chunk.run_id, chunk.kind, chunk.scope) == (run_id, Kind.PARAMETER, scope)
        assert keys.key_of(chunk).startswith(prefix) == is_one


@unhurried
@given(st.lists(chunk_ids, max_size=8), run_ids)
def test_the_prefix_of_a_run_lists_exactly_its_chunks(chunks: list[ChunkId], run_id: str) -> None:
    for chunk in [keys.header(run_id), keys.header(f"{run_id}x"), *chunks]:
        assert keys.key_of(chunk).startswith(keys.prefix_of_run(run_id)) == (chunk.run_id == run_id)


@pytest.mark.parametrize(
    "key",
    [
        *("", "/", "r", "r/", "r/run", "r/run.json.gz", "r/other.json", "r/step.json", "r/step..json", "r/branch.json"),
        *("r/run.x.json", "r/job.x.json", "r/parameter.json", "r/parameter@.json", "r/parameter@@.json"),
        *(
            "r/parameter@a@.json",
            "r/parameter@@a.json",
            "r/parameter@a.json",
            "r/parameter@a@b@c.json",
            "r/step@a@b.json",
        ),
        *(
            "r/step.a/b.json",
            "r/step.a%2fb.json",
            "r/step.%zz.json",
            "r/step.%.json",
            "r/step.%41.json",
            "r/step.%FF.json",
        ),
        *(
            "r/step.a:b.json",
            "r/step.a@b.json",
            "r/step.é.json",
            f"r/step.{'x' * 246}.json",
            "r/STEP.a.json",
            "r/.t-1-a",
        ),
        *("../run.json", "./run.json", "/run.json", "a/b/run.json", "%2E/run.json", ".r/run.json", "r%41/run.json"),
        *("r/step.a%~.json", "r/step.a%~x.json", "r/step./b%~0123456789abcdef0123456789abcdef.json", "r/step.a~.JSON"),
        *(
            "r/step.%~0123456789ABCDEF0123456789ABCDEF.json",
            "r/parameter@a%~b@c.json",
            f"r/step.{'x' * 250}%~{'0' * 32}.json",
        ),
    ],
)
def test_a_foreign_key_is_no_chunk(key: str) -> None:
    assert keys.parse(key) is None


@unhurried
@given(st.text(TRICKY + "stepbranchparameterjson@", max_size=60) | st.text(max_size=30))
def test_parsing_never_fails_and_never_takes_another_key_for_a_chunks(text: str) -> None:
    for key in (text, f"r/{text}", f"r/step.{text}.json", f"r/parameter@{text}.json"):
        chunk = keys.parse(key)
        assert chunk is None or keys.is_abbreviated(key) or keys.key_of(chunk) == key


@pytest.mark.parametrize("name", ["", "a\ud800", "\udfff", 3, None, b"a", ["a"]])
@pytest.mark.parametrize("of", [keys.step, keys.branch, keys.parameter])
def test_a_name_that_cannot_be_kept_is_refused(of: type[ChunkId], name: str) -> None:
    with pytest.raises(InvalidInputError, match=r"the name of a (step|branch|parameter)"):
        of("r", name)


def test_the_branch_of_a_parameter_is_checked_as_a_branch() -> None:
    with pytest.raises(InvalidInputError, match="branch"):
        keys.parameter("r", "a", "\ud800")


def test_ordinary_names_stay_readable() -> None:
    assert keys.key_of(keys.header("2026-11-21 nightly")) == "2026-11-21 nightly/run.json"
    assert keys.key_of(keys.job("r")) == "r/job.json"
    assert keys.key_of(keys.step("r", "Parallel.Branch A.Child Step")) == "r/step.Parallel.Branch A.Child Step.json"
    assert keys.key_of(keys.branch("r", "map.0.1")) == "r/branch.map.0.1.json"
    assert keys.key_of(keys.parameter("r", "alpha")) == "r/parameter.alpha.json"
    assert keys.key_of(keys.parameter("r", "alpha", "map.eu/west")) == "r/parameter@map.eu%2Fwest@alpha.json"


def test_a_chunk_is_shown_as_what_it_is() -> None:
    assert str(keys.header("r")) == "run"
    assert str(keys.step("r", "a.b")) == "step 'a.b'"
    assert str(keys.parameter("r", "p", "a.b")) == "parameter 'p' of 'a.b'"
