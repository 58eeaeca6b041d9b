"""The errors are the tree that their module draws, and travel between processes whole."""

from __future__ import annotations

import copy
import pickle
import re

import pytest

import chunkstore
from chunkstore import errors
from chunkstore.errors import BackendUnavailableError, ChunkStoreError, InvalidInputError, NotFoundError

ALL = [thing for thing in vars(errors).values() if isinstance(thing, type) and issubclass(thing, Exception)]


def drawn() -> dict[str, str]:
    """Each error in the module's drawing, with the one it stands under."""
    parents: dict[str, str] = {}
    path: list[str] = []
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"    ([│ ]*)(?:[├└]── )?(\w+Error)\b", line)
        if found:
            depth = line.index(found[2]) // 4 - 1
            path[depth:] = [found[2]]
            parents[found[2]] = path[depth - 1] if depth else ""
    return parents


def test_the_drawing_is_the_tree() -> None:
    assert drawn() == {error.__name__: "" if error is ChunkStoreError else error.__mro__[1].__name__ for error in ALL}


def test_every_error_is_on_the_face_of_the_library() -> None:
    assert {error.__name__ for error in ALL} <= set(chunkstore.__all__)


def test_every_error_says_what_it_means() -> None:
    assert all(error.__doc__ and error.__doc__ != Exception.__doc__ for error in ALL)
    assert len({error.__doc__ for error in ALL}) == len(ALL)


@pytest.mark.parametrize("error", ALL)
@pytest.mark.parametrize(
    "travel", [lambda e: pickle.loads(pickle.dumps(e)), copy.copy, copy.deepcopy], ids=["pickle", "copy", "deepcopy"]
)
def test_an_error_travels_with_all_that_it_says(error: type[ChunkStoreError], travel: type) -> None:
    sent = error("what, where, what next", run_id="r", name="map.eu", key="r/branch.map.eu.json")
    arrived = travel(sent)
    assert type(arrived) is error
    assert str(arrived) == "what, where, what next"
    assert (arrived.run_id, arrived.name, arrived.key) == ("r", "map.eu", "r/branch.map.eu.json")
    assert vars(arrived) == vars(sent)


@pytest.mark.parametrize("error", [error for error in ALL if issubclass(error, BackendUnavailableError)])
@pytest.mark.parametrize("transient", [True, False])
def test_whether_it_is_worth_trying_again_travels_too(error: type[BackendUnavailableError], transient: bool) -> None:
    assert pickle.loads(pickle.dumps(error("x", transient=transient))).transient is transient
    assert error("x").transient is False


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_protocol_of_pickle_will_do(protocol: int) -> None:
    arrived = pickle.loads(pickle.dumps(BackendUnavailableError("x", transient=True, key="k"), protocol))
    assert (arrived.transient, arrived.key, str(arrived)) == (True, "k", "x")


@pytest.mark.parametrize("error", ALL)
def test_what_an_error_is_about_may_be_unknown(error: type[ChunkStoreError]) -> None:
    assert (error("x").run_id, error("x").name, error("x").key) == ("", "", "")


def test_callers_who_know_only_pythons_own_errors_catch_them_too() -> None:
    assert issubclass(InvalidInputError, ValueError)
    assert issubclass(NotFoundError, LookupError)
    assert not issubclass(NotFoundError, KeyError), "a KeyError shows its message in quotes"
