"""Every name is kept exactly as it is, on every place, or refused by name; no two ever meet."""

from __future__ import annotations

import itertools
import random
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from chunkstore import BranchLog, ChunkedRunLogStore, InvalidInputError, RunLog, StepLog, keys
from chunkstore.keys import ChunkId
from odd_names import ALPHABET, NAMES, NO_TEXT
from places import again, between, memory, place
from rigs import Tally

PLACES = ["memory", "local", "moto", "minio", "rclone", "sqlite", "postgres"]
ROLES: dict[str, Callable[[str], ChunkId]] = {
    "step": lambda name: keys.step("r", name),
    "branch": lambda name: keys.branch("r", name),
    "parameter": lambda name: keys.parameter("r", name),
    "parameter of a branch": lambda name: keys.parameter("r", name, "b"),
    "scope": lambda name: keys.parameter("r", "p", name),
}


def few(names: list[str], place: str) -> list[str]:
    """All of them where a request costs nothing; elsewhere some, others at each size."""
    number = len(names) if place in ("memory", "local") else between(24, len(names))
    return random.Random(number).sample(names, number)


def short_names() -> Iterator[str]:
    """All names of up to three characters of the alphabet."""
    letters = ALPHABET[: between(12, len(ALPHABET))]
    for length in (1, 2, 3):
        yield from map("".join, itertools.product(letters, repeat=length))


def without_case(text: str) -> str:
    """As a disk sees it that does not tell cases and forms of unicode apart."""
    return unicodedata.normalize("NFKC", text).casefold()


def ascii_lower(name: str) -> str:
    return "".join(letter.lower() if letter.isascii() else letter for letter in name)


@pytest.mark.parametrize("role", ROLES.values(), ids=ROLES.keys())
def test_all_short_names_come_back_and_meet_only_where_they_differ_in_case(
    role: Callable[[str], ChunkId], tally: Tally
) -> None:
    met: dict[str, set[str]] = {}
    tried = list(short_names())
    for name in tried:
        chunk = role(name)
        assert keys.parse(chunk.key) == chunk
        met.setdefault(without_case(chunk.key), set()).add(chunk.key)
        assert len(chunk.key) <= len("r/") + 255
    assert len(tried) == sum(map(len, met.values())), "two names share a key"
    for together in met.values():
        chunks = [chunk for chunk in map(keys.parse, together) if chunk is not None]
        assert len({ascii_lower(f"{chunk.scope}\0{chunk.name}") for chunk in chunks}) == 1
    tally("names, keys", len(tried))


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1) | st.text(ALPHABET, min_size=1, max_size=500)


def test_chance_finds_no_two_names_that_meet(tally: Tally) -> None:
    tried = 0

    @settings(
        max_examples=between(300, 20_000),
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(texts, texts, st.sampled_from(list(ROLES)), st.sampled_from(list(ROLES)))
    def check(name: str, other: str, role: str, its: str) -> None:
        nonlocal tried
        tried += 1
        one, two = ROLES[role](name), ROLES[its](other)
        assert (one.key == two.key) == (one == two)
        if one != two and without_case(one.key) == without_case(two.key):
            assert not keys.is_abbreviated(one.key)
            assert ascii_lower(f"{one.scope}\0{one.name}") == ascii_lower(f"{two.scope}\0{two.name}")
        assert keys.is_abbreviated(one.key) or keys.parse(one.key) == one
        assert keys.is_chunk(one.key)

    check()
    tally("names, keys", tried)


def nasty_run(names: list[str]) -> RunLog:
    """A run that has each name as a step, a branch, a parameter and a parameter's scope."""
    run_log = RunLog(run_id="names", parameters={name: f"of the run: {name}" for name in names})
    for name in names:
        run_log.steps[name] = StepLog(name=name, internal_name=name, message=name)
    composite = StepLog(name="within", internal_name="within")
    for name in names:
        branch = BranchLog(internal_name=f"within.{name}", parameters={name: f"of a branch: {name}"})
        composite.branches[branch.internal_name] = branch
    run_log.steps["within"] = composite
    return run_log


@pytest.fixture(params=PLACES)
def somewhere(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, ChunkedRunLogStore]:
    """A place's name, and an empty store there."""
    return request.param, ChunkedRunLogStore(place(request.param, request, tmp_path))


def test_every_odd_name_comes_back_exactly_and_is_listed_once(
    somewhere: tuple[str, ChunkedRunLogStore], tally: Tally
) -> None:
    where, store = somewhere
    names = few(NAMES, where)
    store.put_run_log(nasty_run(names))
    reading = again(store).read_run_log("names")
    found = reading.run_log
    assert reading.findings == ()
    assert found.parameters == {name: f"of the run: {name}" for name in names}
    assert {name: step.message for name, step in found.steps.items() if name != "within"} == {n: n for n in names}
    branches = {name: dict(branch.parameters) for name, branch in found.steps["within"].branches.items()}
    assert branches == {f"within.{name}": {name: f"of a branch: {name}"} for name in names}
    listed = [entry.key for entry in store.backend.list("names/")]
    assert len(listed) == len(set(listed)) == 4 * len(names) + 2
    assert all(map(keys.is_chunk, listed))
    tally(f"names, {where}", 4 * len(names))


def test_every_odd_name_is_found_alone_and_changed_in_its_place(
    somewhere: tuple[str, ChunkedRunLogStore], tally: Tally
) -> None:
    where, store = somewhere
    names = few(NAMES, where)
    store.put_run_log(nasty_run(names))
    store = again(store)
    for name in names if where in ("memory", "local") else names[:10]:
        step = store.get_step_log(name, "names")
        assert (step.name, step.internal_name, step.message) == (name, name, name)
        step.message = f"changed: {name}"
        store.add_step_log(step, "names")
        assert store.get_branch_log(f"within.{name}", "names").internal_name == f"within.{name}"
        assert store.get_parameter("names", name) == f"of the run: {name}"
        assert store.get_parameters("names", f"within.{name}") == {name: f"of a branch: {name}"}
        assert again(store).get_step_log(name, "names").message == f"changed: {name}"
        tally(f"names, {where}", 4)
    assert len(list(store.backend.list("names/"))) == 4 * len(names) + 2


def test_every_odd_run_id_is_kept_apart_or_refused_by_name(
    somewhere: tuple[str, ChunkedRunLogStore], tally: Tally
) -> None:
    where, store = somewhere
    kept = []
    names = few(NAMES, where)
    for name in names:
        try:
            store.create_run_log(name, tag=name)
        except InvalidInputError as refusal:
            assert refusal.run_id == name  # noqa: PT017  one of two outcomes that are right
            assert repr(name)[1:20].rstrip("'") in str(refusal) or "empty" in str(refusal)  # noqa: PT017
        else:
            kept.append(name)
    assert store.list_run_ids() == sorted(kept)
    assert {run_log.run_id: run_log.tag for run_log in again(store).get_run_logs()} == {name: name for name in kept}
    for name in kept[::2]:
        store.delete_run_log(name)
    assert again(store).list_run_ids() == sorted(kept[1::2])
    assert len(kept) > len(names) / 2
    tally(f"names, {where}", len(names))


@pytest.mark.parametrize("name", NO_TEXT, ids=ascii)
def test_half_a_character_is_refused_and_nothing_is_lost(
    somewhere: tuple[str, ChunkedRunLogStore], name: str, tally: Tally
) -> None:
    where, store = somewhere
    if where not in ("memory", "local") and name != NO_TEXT[0]:
        pytest.skip("refused before a place is asked; once on each server is enough")
    store.create_run_log("r")
    store.set_parameters("r", {"p": 1})
    attempts = [
        lambda: store.create_run_log(name),
        lambda: store.add_step_log(StepLog(name="s", internal_name=name), "r"),
        lambda: store.add_branch_log(BranchLog(internal_name=name), "r"),
        lambda: store.set_parameters("r", {"fine": 1, name: 2}),
        lambda: store.set_parameters("r", {"fine": 1}, name),
        lambda: store.get_step_log(name, "r"),
        lambda: store.get_branch_log(name, "r"),
        lambda: store.get_parameter("r", name),
        lambda: store.delete_run_log(name),
    ]
    for attempt in attempts:
        with pytest.raises(InvalidInputError, match="surrogates") as refused:
            attempt()
        assert repr(name)[1:-1] in str(refused.value)
    found = again(store).get_run_log_by_id("r")
    assert (found.parameters, found.steps) == ({"p": 1}, {})
    assert store.list_run_ids() == ["r"]
    tally(f"names, {where}", len(attempts))


@pytest.mark.parametrize("name", NO_TEXT, ids=ascii)
def test_half_a_character_is_no_scope_to_read(name: str) -> None:
    store = ChunkedRunLogStore(memory())
    store.create_run_log("r")
    with pytest.raises(InvalidInputError, match="surrogates"):
        store.get_parameters("r", name)
