"""How a person names a run."""

from __future__ import annotations

import pytest

import chunkstore
from chunkstore.backends.memory import MemoryBackend
from chunkstore.errors import InvalidInputError, RunLogNotFoundError
from chunkstore.naming import nearest, resolve, status_of
from chunkstore.testing.wrappers import CountingBackend
from places import memory


@pytest.fixture
def store() -> chunkstore.ChunkedRunLogStore:
    store = chunkstore.ChunkedRunLogStore(memory())
    for run_id, tag, status in [
        ("alpha-1", "nightly", "SUCCESS"),
        ("alpha-12", "nightly", "FAIL"),
        ("beta", "by/hand~1", "FAIL"),
        ("gamma", "", "PROCESSING"),
    ]:
        store.create_run_log(run_id, tag=tag, status=status)
    return store


@pytest.mark.parametrize(
    ("name", "run_id"),
    [
        ("beta", "beta"),
        ("b", "beta"),
        ("alpha-1", "alpha-1"),  # also the start of another
        ("id:alpha-1", "alpha-1"),
        ("last", "gamma"),
        ("last~0", "gamma"),
        ("last~1", "beta"),
        ("last~3", "alpha-1"),
        ("last:failed", "beta"),
        ("last:FAIL~1", "alpha-12"),
        ("last:running", "gamma"),
        ("last:success", "alpha-1"),
        ("tag:nightly", "alpha-12"),
        ("tag:nightly~1", "alpha-1"),
        ("tag:by/hand~1~0", "beta"),
    ],
)
def test_a_run_is_named_by_id_start_or_by_what_it_is(
    store: chunkstore.ChunkedRunLogStore, name: str, run_id: str
) -> None:
    assert resolve(store, name) == run_id


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("gama", "did you mean 'gamma'?"),
        ("zzz", "there are: 'alpha-1', 'alpha-12', 'beta', 'gamma'"),
        ("id:alpha", "run 'alpha' is not in"),
        ("last~4", "there are 4 such runs"),
        ("last:created", "there is no such run"),
        ("tag:weekly", "'tag:weekly' names no run"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(store: chunkstore.ChunkedRunLogStore, name: str, said: str) -> None:
    with pytest.raises(RunLogNotFoundError, match="run") as refused:
        resolve(store, name)
    assert said in str(refused.value)
    assert store.backend.place in str(refused.value)


@pytest.mark.parametrize(
    ("name", "said"), [("alpha", "2 runs.*'alpha-1', 'alpha-12'"), ("", "empty"), ("a/b", "cannot be a folder")]
)
def test_what_can_mean_several_or_nothing_is_refused(
    store: chunkstore.ChunkedRunLogStore, name: str, said: str
) -> None:
    with pytest.raises((InvalidInputError, RunLogNotFoundError), match=said if name != "a/b" else "no run"):
        resolve(store, name)


def test_a_run_that_is_called_like_a_word_is_not_taken_for_it(store: chunkstore.ChunkedRunLogStore) -> None:
    store.create_run_log("last")
    with pytest.raises(InvalidInputError, match="write 'id:last' for that run, or 'last~0'"):
        resolve(store, "last")
    assert resolve(store, "id:last") == "last"
    assert resolve(store, "last~1") == "gamma"


def test_many_candidates_are_counted_not_listed(store: chunkstore.ChunkedRunLogStore) -> None:
    for number in range(20):
        store.create_run_log(f"many-{number:02}")
    with pytest.raises(InvalidInputError, match=r"20 runs.*'many-04' and 15 more"):
        resolve(store, "many")


def test_an_empty_store_says_that_there_are_none() -> None:
    empty = chunkstore.ChunkedRunLogStore(memory())
    with pytest.raises(RunLogNotFoundError, match="there are none"):
        resolve(empty, "x")
    with pytest.raises(RunLogNotFoundError, match="there is no such run"):
        resolve(empty, "last")


def test_a_run_with_a_damaged_header_can_be_named(store: chunkstore.ChunkedRunLogStore) -> None:
    from chunkstore.backends import ANY

    store.backend.put("beta/run.json", b"{", ANY)
    fresh = chunkstore.ChunkedRunLogStore(store.backend)
    assert resolve(fresh, "beta") == "beta"


def test_an_id_costs_one_request_and_the_start_of_one_a_listing_more() -> None:
    counting = CountingBackend(MemoryBackend("naming-requests"))
    writer = chunkstore.ChunkedRunLogStore(counting)
    writer.create_run_log("some-run")
    for name, expected in (("some-run", 1), ("some", 2)):
        fresh = chunkstore.ChunkedRunLogStore(counting)
        counting.reset()
        assert resolve(fresh, name) == "some-run"
        assert counting.requests == expected


def test_words_for_statuses_and_the_nearest_name() -> None:
    assert [status_of(word) for word in ("failed", "Running", "created", "odd")] == [
        "FAIL",
        "PROCESSING",
        "CREATED",
        "ODD",
    ]
    assert nearest("stor", ["store", "x"]) == "did you mean 'store'?"
