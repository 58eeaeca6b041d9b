"""Of two to sixteen processes that create one run at the same time exactly one wins, and the header is the winner's."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import pytest

from chunkstore import ChunkedRunLogStore, RunLog, RunLogExistsError
from chunkstore.backends.local import LocalBackend
from chunkstore.errors import ChunkStoreError
from fault_server import FaultServer, fault_server
from places import again, at_once, between, in_bucket, place
from rigs import Tally
from sabotage import create_by_looking_first

CROWDS: Final = (2, 3, 4, 8, 16)


class Staging(LocalBackend):
    """A disk without nameless files: what is created gets its name by a link from a staging file."""

    def _create_nameless(self, path: str, data: bytes) -> str | None:
        return None


class Tried(NamedTuple):
    """What one process met: the ids that it won, those that it was refused, and those of which it knows nothing."""

    won: set[int]
    refused: set[int]
    unknown: set[int]


def header_of(me: int, number: int) -> dict[str, Any]:
    """Different from every other's in every field, and in its size."""
    return {"tag": f"by {me}", "dag_hash": f"{me} {number}" * (1 + me), "status": f"BY {me}", "mine": [me] * 50 * me}


def create_all(
    store: ChunkedRunLogStore, me: int, count: int, gate: Any, breaking: Callable[[], None] | None, faulty: bool
) -> Tried:
    if breaking:
        breaking()
    tried = Tried(set(), set(), set())
    for number in range(count):
        gate.wait(60)
        try:
            made = store.create_run_log(f"id {number}", **header_of(me, number))
        except RunLogExistsError as error:
            assert error.run_id == f"id {number}"  # noqa: PT017  losing is no failure
            tried.refused.add(number)
        except ChunkStoreError:
            if not faulty:
                raise
            tried.unknown.add(number)
        else:
            assert made.tag == f"by {me}"
            tried.won.add(number)
    return tried


def race(
    store: ChunkedRunLogStore,
    processes: int,
    count: int,
    *,
    breaking: Callable[[], None] | None = None,
    faulty: bool = False,
) -> list[Tried]:
    """What each process met."""
    gate = multiprocessing.get_context("fork").Barrier(processes)
    return at_once(create_all, [(store, me, count, gate, breaking, faulty) for me in range(processes)])


def wrong_winners(tried: list[Tried], count: int) -> list[tuple[int, list[int]]]:
    """The ids that more than one process won, or none although nobody's fate is unknown."""
    winners = [(number, [me for me, one in enumerate(tried) if number in one.won]) for number in range(count)]
    doubtful = set().union(*(one.unknown for one in tried))
    return [(number, who) for number, who in winners if len(who) > 1 or (not who and number not in doubtful)]


def fields(run_log: RunLog) -> dict[str, Any]:
    extra = run_log.model_extra or {}
    return {"tag": run_log.tag, "dag_hash": run_log.dag_hash, "status": run_log.status, "mine": extra.get("mine")}


def strangers(store: ChunkedRunLogStore, tried: list[Tried], count: int) -> list[tuple[int, Any]]:
    """The ids whose header is not, to the last byte, the winner's, or one's whose fate is unknown where there is no winner."""
    found = {
        run_log.run_id: fields(run_log) for run_log in again(store).get_run_logs([f"id {n}" for n in range(count)])
    }
    wrong = []
    for number in range(count):
        sure = [me for me, one in enumerate(tried) if number in one.won]
        allowed = sure or [me for me, one in enumerate(tried) if number in one.unknown]
        header = found.get(f"id {number}")
        if header not in [header_of(me, number) for me in allowed]:
            wrong.append((number, header))
    return wrong


def prove(store: ChunkedRunLogStore, tried: list[Tried], count: int) -> None:
    assert wrong_winners(tried, count) == []
    assert strangers(store, tried, count) == []
    if count >= 50:
        assert sum(bool(one.won) for one in tried) > 1  # or it was no race


@pytest.mark.parametrize("processes", CROWDS)
def test_exactly_one_wins_on_disk(tmp_path: Path, tally: Tally, processes: int) -> None:
    count = between(100, 1_000)
    store = ChunkedRunLogStore(LocalBackend(tmp_path / "runs", durability="process"))
    prove(store, race(store, processes, count), count)
    tally("creates raced, local disk", count)


@pytest.mark.parametrize("durability", ["barrier", "power"])
def test_exactly_one_wins_where_each_create_is_synced(tmp_path: Path, tally: Tally, durability: Any) -> None:
    count = between(50, 500)
    store = ChunkedRunLogStore(LocalBackend(tmp_path / "runs", durability=durability))
    prove(store, race(store, 4, count), count)
    tally("creates raced, local disk", count)


@pytest.mark.parametrize("processes", [2, 8])
def test_exactly_one_wins_where_a_staging_file_is_linked(tmp_path: Path, tally: Tally, processes: int) -> None:
    count = between(100, 1_000)
    store = ChunkedRunLogStore(Staging(tmp_path / "runs", durability="process"))
    prove(store, race(store, processes, count), count)
    tally("creates raced, local disk", count)
    assert not list(tmp_path.rglob(".t-*"))


# Not on moto: its own check and its write are two steps, and under load a plain client too sees two winners.
@pytest.mark.parametrize("processes", [2, 4, 16])
def test_exactly_one_wins_on_minio(
    request: pytest.FixtureRequest, tmp_path: Path, tally: Tally, processes: int
) -> None:
    count = between(12, 150)
    store = ChunkedRunLogStore(place("minio", request, tmp_path))
    prove(store, race(store, processes, count), count)
    tally("creates raced, minio", count)


@pytest.mark.parametrize("name", ["sqlite", "postgres"])
@pytest.mark.parametrize("processes", [2, 8])
def test_exactly_one_wins_in_a_database(
    request: pytest.FixtureRequest, tmp_path: Path, tally: Tally, name: str, processes: int
) -> None:
    count = between(50, 500)
    store = ChunkedRunLogStore(place(name, request, tmp_path))
    prove(store, race(store, processes, count), count)
    tally(f"creates raced, {name}", count)


@pytest.fixture(scope="module")
def faults() -> Iterator[FaultServer]:
    with fault_server() as server:
        yield server


@pytest.mark.parametrize("processes", [2, 4, 8])
def test_exactly_one_wins_while_replies_are_lost_and_requests_come_late(
    faults: FaultServer, tmp_path: Path, tally: Tally, processes: int
) -> None:
    count = between(10, 170)
    store = ChunkedRunLogStore(in_bucket(faults.s3, tmp_path))
    assert store.backend.guarantees.across_hosts
    kinds = [
        "lost_reply",
        "reset_reply",
        "500_after",
        "412_echo",
        "412_echo_bare",
        "dropped",
        "409",
        "zombie_cut",
        "delay",
    ]
    faults.random(seed=processes, rate=0.5, kinds=kinds)
    tried = race(store, processes, count, faulty=True)
    faults.calm()
    faults.release()
    prove(store, tried, count)
    tally("creates raced, fault server", count)
    assert sum(len(one.unknown) for one in tried) < count * processes / 4  # or hardly anybody learnt anything


def test_two_winners_are_noticed(tmp_path: Path) -> None:
    """The races above, with a create that looks first: almost every second id has two winners."""
    for number in range(20):
        store = ChunkedRunLogStore(LocalBackend(tmp_path / f"{number}", durability="process"))
        tried = race(store, 4, 50, breaking=create_by_looking_first)
        if wrong_winners(tried, 50):
            return
    pytest.fail("not noticed")


def test_a_header_that_is_not_the_winners_is_noticed(tmp_path: Path) -> None:
    store = ChunkedRunLogStore(LocalBackend(tmp_path / "runs"))
    store.create_run_log("id 0", **header_of(1, 0))
    assert strangers(store, [Tried({0}, set(), set()), Tried(set(), {0}, set())], 1)
    assert not strangers(store, [Tried(set(), {0}, set()), Tried({0}, set(), set())], 1)


def found_all(store: ChunkedRunLogStore, me: int, count: int, gate: Any) -> set[int]:
    """Half of them create; the others put a run log that was made by hand, which founds a run or is merged into one."""
    won = set()
    for number in range(count):
        gate.wait(60)
        if me % 2:
            made = RunLog(run_id=f"id {number}")
            setattr(made, f"put_by_{me}", number)
            store.put_run_log(made)
        else:
            try:
                store.create_run_log(f"id {number}", **{f"created_by_{me}": number})
            except RunLogExistsError:
                continue
            won.add(number)
    return won


@pytest.mark.parametrize("name", ["local", "minio", "sqlite", "postgres"])
def test_runs_put_by_hand_and_a_winner_of_the_create_all_keep_what_they_wrote(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    count = between(50, 500) if name == "local" else between(10, 100)
    store = ChunkedRunLogStore(place(name, request, tmp_path))
    gate = multiprocessing.get_context("fork").Barrier(4)
    won = at_once(found_all, [(store, me, count, gate) for me in range(4)])
    for number in range(count):
        winners = [me for me in (0, 2) if number in won[me]]
        assert len(winners) <= 1
        extra = again(store).get_run_log_by_id(f"id {number}").model_extra or {}
        assert sorted(extra) == sorted(["put_by_1", "put_by_3", *(f"created_by_{me}" for me in winners)])
    tally(f"creates raced, {'local disk' if name == 'local' else name}", count)
