"""The objects of a run as bytes, loose, packed or damaged."""

from __future__ import annotations

import pytest

from chunkstore import ChunkedRunLogStore, FormatError, InvalidInputError, ObjectNotFoundError, keys
from chunkstore.backends import ANY
from chunkstore.objects import chunk_named, keys_of, raw_object
from places import memory


@pytest.fixture
def store() -> ChunkedRunLogStore:
    made = ChunkedRunLogStore(memory())
    made.create_run_log("r")
    made.add_step_log(made.create_step_log("a", "a"), "r")
    made.set_parameters("r", {"p": 1})
    made.create_run_log("r2")
    return made


def test_the_keys_of_a_run_are_its_own_by_name_also_what_is_not_ours(store: ChunkedRunLogStore) -> None:
    store.backend.put("r/notes.txt", b"x", ANY)
    assert [entry.key for entry in keys_of(store, "r")] == [
        "r/notes.txt",
        "r/parameter.p.json",
        "r/run.json",
        "r/step.a.json",
    ]


def test_an_object_is_its_bytes_by_either_form_of_its_key_damaged_too(store: ChunkedRunLogStore) -> None:
    assert raw_object(store, "r", "run.json") == raw_object(store, "r", "r/run.json")
    store.backend.put("r/step.a.json", b"\xff", ANY)
    assert raw_object(store, "r", "step.a.json").data == b"\xff"


def test_a_packed_chunk_is_found_in_the_pack_as_it_was(store: ChunkedRunLogStore) -> None:
    before = raw_object(store, "r", "step.a.json").data
    store.update_run_log_status("r", "SUCCESS")
    store.compact("r")
    found = raw_object(store, "r", "step.a.json")
    assert (found.data, found.packed) == (before, True)
    with pytest.raises(ObjectNotFoundError):
        raw_object(store, "r", "step.b.json")


def test_a_damaged_pack_is_told_and_not_taken_for_none(store: ChunkedRunLogStore) -> None:
    store.backend.put(keys.pack("r"), b"no pack", ANY)
    with pytest.raises(FormatError, match=r"whole\.pack"):
        raw_object(store, "r", "step.b.json")


def test_what_is_not_there_or_in_another_run_is_not_found(store: ChunkedRunLogStore) -> None:
    for key in ("job.json", "r2/run.json", "../r2/run.json"):
        with pytest.raises((ObjectNotFoundError, InvalidInputError)):
            raw_object(store, "r", key)


@pytest.mark.parametrize(
    ("words", "key"),
    [
        (("run",), "r/run.json"),
        (("header",), "r/run.json"),
        (("job",), "r/job.json"),
        (("step", "m.eu/x"), "r/step.m.eu%2Fx.json"),
        (("parameter", "alpha", "m.eu"), "r/parameter@m.eu@alpha.json"),
    ],
)
def test_a_chunk_is_named_by_kind_and_name(words: tuple[str, ...], key: str) -> None:
    assert keys.key_of(chunk_named("r", *words)) == key


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("chunk",), "no kind of chunk 'chunk'"),
        (("run", "x"), "has no name"),
        (("step",), "which step"),
        (("step", "a", "m.eu"), "only a parameter"),
    ],
)
def test_what_names_no_chunk_is_refused_with_what_is_wrong(words: tuple[str, ...], said: str) -> None:
    with pytest.raises(InvalidInputError, match=said):
        chunk_named("r", *words)
