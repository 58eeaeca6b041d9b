"""Who follows a run sees each change of it once, for one listing a look and what changed, until the run has ended."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from chunkstore import ChunkedRunLogStore, InvalidInputError, RunChange, RunLogNotFoundError, StoreSettings
from chunkstore.backends import ANY, Condition
from chunkstore.chunks import Timing
from chunkstore.testing import CountingBackend
from places import again, meanwhile, memory, place, sized

Turn = Callable[[], object]


@pytest.fixture
def store() -> ChunkedRunLogStore:
    made = ChunkedRunLogStore(memory())
    made.create_run_log("r", tag="nightly")
    return made


def following(store: ChunkedRunLogStore, turns: Iterable[Turn], **settings: Any) -> ChunkedRunLogStore:
    """A store that knows nothing; whenever it pauses, somebody else takes the next turn. After the last one the run ends."""
    left = iter([*turns, lambda: store.update_run_log_status("r", "SUCCESS")])

    def sleep(_seconds: float) -> None:
        next(left, lambda: None)()

    timing = Timing(sleep=sleep)
    return ChunkedRunLogStore(CountingBackend(store.backend), settings=StoreSettings(**settings), timing=timing)


def told(changes: Iterator[RunChange]) -> list[tuple[str, str, str]]:
    return [(change.sort, change.kind, f"{change.scope}/{change.name}".strip("/")) for change in changes]


def add_step(store: ChunkedRunLogStore, name: str, message: str = "") -> None:
    step = store.create_step_log(name, name)
    step.message = message
    store.add_step_log(step, "r")


END = ("changed", "run", "")


def test_first_comes_all_that_is_there_then_what_is_new_until_the_end(store: ChunkedRunLogStore) -> None:
    add_step(store, "b")
    add_step(store, "a")
    store.set_parameters("r", {"p": 1})
    follower = following(store, [lambda: add_step(store, "c"), lambda: add_step(store, "b", "done")])
    assert told(follower.follow("r")) == [
        ("new", "run", ""),
        ("new", "step", "b"),
        ("new", "step", "a"),
        ("new", "parameter", "p"),
        ("new", "step", "c"),
        ("changed", "step", "b"),
        END,
    ]


def test_each_change_brings_the_value(store: ChunkedRunLogStore) -> None:
    store.set_parameters("r", {"p": [1, 2]})
    store.add_job_log("r", store.create_job_log())
    changes = {change.kind: change.value for change in following(store, []).follow("r")}
    assert changes["parameter"] == [1, 2]
    assert type(changes["job"]) is type(store.create_job_log())
    run_log: Any = changes["run"]
    assert (run_log.run_id, run_log.tag, run_log.status) == ("r", "nightly", "SUCCESS")


def test_parameters_of_a_branch_come_with_their_scope(store: ChunkedRunLogStore) -> None:
    store.add_branch_log(store.create_branch_log("m.x", {"p": 1}), "r")
    assert ("new", "parameter", "m.x/p") in told(following(store, []).follow("r"))


def test_what_comes_after_the_end_is_seen_too(store: ChunkedRunLogStore) -> None:
    store.update_run_log_status("r", "FAIL")
    seen = told(following(store, [lambda: add_step(store, "late"), lambda: add_step(store, "later")]).follow("r"))
    assert seen == [("new", "run", ""), ("new", "step", "late"), ("new", "step", "later"), END]


def test_a_look_costs_one_listing_and_what_changed(store: ChunkedRunLogStore) -> None:
    for number in range(20):
        add_step(store, f"s {number}")
    # Also where the process can remember nothing.
    follower = following(store, [lambda: add_step(store, "s 7", "done")], known_bytes=1)
    backend = follower.backend
    assert isinstance(backend, CountingBackend)
    assert len(list(follower.follow("r"))) == 23
    assert backend.by_verb == {"list": 4, "get_many": 21 + 1 + 1}


def test_chunks_that_are_taken_away_are_told(store: ChunkedRunLogStore) -> None:
    store.set_parameters("r", {"p": 1})
    follower = following(store, [lambda: store.backend.delete("r/parameter.p.json")])
    assert told(follower.follow("r")) == [
        ("new", "run", ""),
        ("new", "parameter", "p"),
        ("removed", "parameter", "p"),
        END,
    ]


def test_damage_is_told_once_and_so_is_its_repair(store: ChunkedRunLogStore) -> None:
    add_step(store, "a")
    whole = store.backend.get("r/step.a.json").data
    follower = following(
        store,
        [
            lambda: store.backend.put("r/step.a.json", whole[:-7], ANY),
            lambda: add_step(store, "b"),
            lambda: store.backend.put("r/step.a.json", whole, ANY),
        ],
    )
    changes = list(follower.follow("r"))
    assert told(iter(changes)) == [
        ("new", "run", ""),
        ("new", "step", "a"),
        ("damaged", "step", "a"),
        ("new", "step", "b"),
        ("changed", "step", "a"),
        END,
    ]
    assert "r/step.a.json" in changes[2].message


def test_a_run_that_is_not_there_cannot_be_followed(store: ChunkedRunLogStore) -> None:
    with pytest.raises(RunLogNotFoundError, match="'nowhere'"):
        list(store.follow("nowhere"))


@pytest.mark.parametrize("anew", [False, True], ids=["gone", "made anew"])
def test_a_run_that_is_deleted_meanwhile_is_reported(store: ChunkedRunLogStore, *, anew: bool) -> None:
    def delete() -> None:
        again(store).delete_run_log("r")
        if anew:
            again(store).create_run_log("r")

    changes = following(store, [delete]).follow("r")
    assert next(changes).kind == "run"
    with pytest.raises(RunLogNotFoundError):
        next(changes)


@pytest.mark.parametrize("seconds", [0, -1, float("nan")])
def test_a_pause_that_is_none_is_refused_at_once(store: ChunkedRunLogStore, seconds: float) -> None:
    with pytest.raises(InvalidInputError, match="poll_seconds must be above 0"):
        store.follow("r", poll_seconds=seconds)


def write(store: ChunkedRunLogStore, count: int) -> None:
    for number in range(count):
        add_step(store, f"s {number}", "begun")
        add_step(store, f"s {number}", "done")
    store.update_run_log_status("r", "SUCCESS")


@pytest.mark.parametrize("where", ["local", "minio", "faults"])
def test_beside_a_writing_process_every_step_is_seen_and_seen_done(
    where: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store = ChunkedRunLogStore(place(where, request, tmp_path))
    store.create_run_log("r")
    count = sized(200)
    last: dict[str, str] = {}
    news: list[str] = []
    with meanwhile(write, [(again(store), count)]):
        for change in again(store).follow("r", poll_seconds=0.01):
            if change.kind == "step":
                step: Any = change.value
                last[change.name] = step.message
                news += [change.name] if change.sort == "new" else []
    assert last == {f"s {number}": "done" for number in range(count)}
    assert len(news) == len(set(news)) == count


# Chunk by chunk.


def test_a_run_is_streamed_each_chunk_once_and_the_header_first(store: ChunkedRunLogStore) -> None:
    store.set_parameters("r", {"p": 1})
    for number in range(3):
        add_step(store, f"s {number}", "done")
    found = list(again(store).iter_chunks("r"))
    assert found[0].kind == "run"
    assert sorted(told(iter(found[1:]))) == [
        ("new", "parameter", "p"),
        *(("new", "step", f"s {number}") for number in range(3)),
    ]


def test_who_takes_the_first_chunks_of_a_stream_reads_a_thousand_and_no_more(store: ChunkedRunLogStore) -> None:
    store.set_parameters("r", {f"p {number}": number for number in range(2_500)})
    backend = CountingBackend(store.backend)
    stream = ChunkedRunLogStore(backend, settings=StoreSettings(known_bytes=1)).iter_chunks("r")
    assert [next(stream).kind for _ in range(3)] == ["run", "parameter", "parameter"]
    assert backend.by_verb == {"list": 3, "get_many": 1_000}
    assert len(list(stream)) == 2_501 - 3
    assert backend.by_verb == {"list": 3, "get_many": 2_501}


def test_a_packed_run_is_streamed_out_of_its_pack(store: ChunkedRunLogStore) -> None:
    add_step(store, "a", "packed")
    store.update_run_log_status("r", "SUCCESS")
    store.compact("r")
    add_step(again(store), "late")
    reader = ChunkedRunLogStore(CountingBackend(store.backend))
    assert sorted(told(reader.iter_chunks("r"))) == [("new", "run", ""), ("new", "step", "a"), ("new", "step", "late")]
    assert reader.backend.by_verb == {"list": 1, "get": 1, "get_many": 1}  # type: ignore[attr-defined]


def test_what_is_damaged_is_told_in_a_stream_and_a_run_that_is_not_there_is_none(store: ChunkedRunLogStore) -> None:
    add_step(store, "a")
    store.backend.put("r/step.a.json", b"{", ANY)
    assert ("damaged", "step", "a") in told(again(store).iter_chunks("r"))
    with pytest.raises(RunLogNotFoundError):
        list(store.iter_chunks("nowhere"))


def test_a_pack_that_goes_in_while_a_run_is_followed_changes_nothing_of_its_steps(store: ChunkedRunLogStore) -> None:
    add_step(store, "a")
    add_step(store, "b")

    def end_and_pack() -> None:
        store.update_run_log_status("r", "SUCCESS")
        store.compact("r")

    follower = following(store, [end_and_pack, lambda: add_step(again(store), "late")])
    seen = told(follower.follow("r"))
    assert [one for one in seen if one[1] == "step"] == [
        ("new", "step", "a"),
        ("new", "step", "b"),
        ("new", "step", "late"),
    ]


def test_a_damaged_pack_is_told(store: ChunkedRunLogStore) -> None:
    add_step(store, "a")
    store.update_run_log_status("r", "SUCCESS")
    store.compact("r", remove="never")
    store.backend.put("r/whole.pack", b"{", ANY)
    for changes in (again(store).iter_chunks("r"), following(store, []).follow("r")):
        seen = told(changes)
        assert ("damaged", "pack", "") in seen
        assert ("new", "step", "a") in seen


def test_who_waits_sees_a_run_that_comes_later_from_its_beginning(store: ChunkedRunLogStore) -> None:
    def create() -> None:
        store.create_run_log("later")
        store.set_parameters("later", {"p": 1})

    end = (lambda: None, lambda: None, create, lambda: store.update_run_log_status("later", "FAIL"))
    follower = following(store, end)
    assert told(follower.follow("later", wait=True)) == [("new", "run", ""), ("new", "parameter", "p"), END]
    backend = follower.backend
    assert isinstance(backend, CountingBackend)
    assert backend.by_verb == {"list": 6, "get_many": 3}  # a look in vain costs one listing


def test_who_waits_while_a_run_of_that_id_is_being_deleted_sees_the_next_one(store: ChunkedRunLogStore) -> None:
    store.update_run_log_status("r", "SUCCESS")
    header = store.backend.get("r/run.json").data

    def mark() -> None:
        gone = ChunkedRunLogStore(CutOff(store.backend))
        with pytest.raises(KeyboardInterrupt):
            gone.delete_run_log("r")

    mark()
    assert store.backend.get("r/run.json").data != header
    with pytest.raises(RunLogNotFoundError):
        list(again(store).follow("r"))

    def anew() -> None:
        again(store).delete_run_log("r")
        again(store).create_run_log("r", tag="second")

    seen = list(following(again(store), [lambda: None, anew]).follow("r", wait=True))
    assert [change.sort for change in seen] == ["new", "changed"]
    first: Any = seen[0].value
    assert first.tag == "second"


class CutOff(CountingBackend):
    """A place whose user is cut off when the first object is deleted."""

    def delete(self, key: str, condition: Condition = ANY) -> None:
        raise KeyboardInterrupt


def test_who_waited_for_a_run_that_is_deleted_later_is_told(store: ChunkedRunLogStore) -> None:
    turns = [lambda: store.create_run_log("later"), lambda: store.delete_run_log("later")]
    with pytest.raises(RunLogNotFoundError, match="later"):
        list(following(store, turns).follow("later", wait=True))


@pytest.mark.parametrize("run_id", ["r", "missing"])
def test_after_the_timeout_it_is_told_and_no_pause_goes_beyond(store: ChunkedRunLogStore, run_id: str) -> None:
    now, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    timing = Timing(now=lambda: now[0], sleep=sleep)
    follower = ChunkedRunLogStore(store.backend, timing=timing)
    with pytest.raises(TimeoutError, match=f"'{run_id}' (has not ended|was not there) within 2.5 s"):
        list(follower.follow(run_id, poll_seconds=1, wait=True, timeout=2.5))
    assert pauses == [1, 1, 0.5]


def test_a_run_that_has_ended_needs_no_time(store: ChunkedRunLogStore) -> None:
    store.update_run_log_status("r", "SUCCESS")
    assert told(again(store).follow("r", timeout=0.2, poll_seconds=0.001)) == [("new", "run", "")]


@pytest.mark.parametrize("timeout", [-1, float("nan")])
def test_a_timeout_that_is_none_is_refused(store: ChunkedRunLogStore, timeout: float) -> None:
    with pytest.raises(InvalidInputError, match="timeout"):
        store.follow("r", timeout=timeout)
