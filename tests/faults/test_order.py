"""The order of what was created: kept across hosts whose clocks are wrong, and by everybody for ever after."""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from chunkstore import ChunkedRunLogStore, FormatError, RunLogNotFoundError, codec, keys
from chunkstore.backends import ANY, Backend
from chunkstore.clock import HybridClock, as_datetime
from places import again, at_once, between, memory, place
from rigs import Tally

SECOND = 1_000_000_000
SKEWS = [-5 * SECOND, -3 * SECOND // 2, 0, 5 * SECOND]
FORK = multiprocessing.get_context("fork") if hasattr(os, "fork") else None
STEPS = {"local": between(25, 200), "minio": between(6, 80)}

pytestmark = [
    pytest.mark.skipif(FORK is None, reason="there is no fork on this system"),
    pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning"),
]


def on_host(backend: Backend, skew: int) -> ChunkedRunLogStore:
    """A store as a host has it whose clock is wrong by so many nanoseconds."""
    return ChunkedRunLogStore(backend, clock=HybridClock(lambda: time.time_ns() + skew))


def live(backend: Backend, me: int, count: int, gate: Any) -> None:
    """One host: reads a part of the run, then creates something that names all that it has read or made before.

    Each creation thus carries its causes, and whoever reads the run afterwards can check them.
    """
    store = on_host(backend, SKEWS[me])
    chance = random.Random(me)
    known: set[str] = set()
    gate.wait(60)
    for number in range(count):
        known |= look(store, chance, known)
        name = f"{me} {number}"
        kind = chance.choice(["step", "step", "branch", "parameter"])
        causes = json.dumps(sorted(known))
        if kind == "step":
            step = store.create_step_log(name, name)
            step.message = causes
            store.add_step_log(step, "r")
        elif kind == "branch":
            branch = store.create_branch_log(f"map.{name}")
            branch.causes = causes  # type: ignore[attr-defined]
            store.add_branch_log(branch, "r")
        else:
            store.set_parameters("r", {name: causes})
        known.add(f"{kind} map.{name}" if kind == "branch" else f"{kind} {name}")


def look(store: ChunkedRunLogStore, chance: random.Random, known: set[str]) -> set[str]:
    """Reads the run, or one chunk of another host, or the parameters; what it saw."""
    sort = chance.randrange(4)
    if sort == 0:
        return {f"parameter {name}" for name in store.get_parameters("r")}
    if sort == 1 and (steps := sorted(name for name in known if name.startswith("step "))):
        name = chance.choice(steps)
        # A chunk that it has not read itself, but whose name another one told, is read now.
        found = json.loads(store.get_step_log(name.removeprefix("step "), "r").message or "[]")
        if not found:
            return set()
        other = chance.choice(found)
        return {other} if read(store, other) else set()
    run = store.get_run_log_by_id("r")
    return {
        *(f"step {name}" for name in run.steps if name != "map"),
        *(f"branch {name}" for name in run.steps["map"].branches),
        *(f"parameter {name}" for name in run.parameters),
    }


def read(store: ChunkedRunLogStore, told: str) -> bool:
    kind, _, name = told.partition(" ")
    if kind == "step":
        store.get_step_log(name, "r")
    elif kind == "branch":
        store.get_branch_log(name, "r")
    else:
        store.get_parameter("r", name)
    return True


def stamps(store: ChunkedRunLogStore) -> dict[str, str]:
    """The creation time of every chunk, by its kind and name."""
    chunks = [one.chunk.envelope for one in again(store)._chunks.scan("r/").chunks]
    return {f"{one.kind} {one.name}": one.created_at for one in chunks}


def pairs(store: ChunkedRunLogStore) -> Iterator[tuple[str, str]]:
    """Cause and effect, as the effects tell."""
    run = again(store).get_run_log_by_id("r")
    told = {f"step {name}": step.message for name, step in run.steps.items() if name != "map"}
    told |= {f"branch {name}": (one.model_extra or {})["causes"] for name, one in run.steps["map"].branches.items()}
    told |= {f"parameter {name}": str(value) for name, value in run.parameters.items()}
    for effect, causes in told.items():
        for cause in json.loads(causes):
            yield cause, effect


def order(store: ChunkedRunLogStore) -> list[str]:
    """What a reader sees, kind by kind."""
    run = store.get_run_log_by_id("r")
    return [*run.steps, *run.steps["map"].branches, *run.parameters]


@pytest.mark.parametrize("name", STEPS)
def test_no_host_puts_an_effect_before_its_cause_and_the_order_stays(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    assert FORK is not None
    store = on_host(place(name, request, tmp_path), 0)
    store.create_run_log("r")
    store.add_step_log(store.create_step_log("map", "map"), "r")
    stale = store.get_run_log_by_id("r")
    gate = FORK.Barrier(len(SKEWS))
    at_once(live, [(store.backend, me, STEPS[name], gate) for me in range(len(SKEWS))])
    created = stamps(store)
    found = list(pairs(store))
    assert [(cause, effect) for cause, effect in found if created[cause] >= created[effect]] == []
    # Pairs over hosts, against the hosts' own clocks too, or nothing was tried.
    assert len({(cause.split()[1], effect.split()[1]) for cause, effect in found}) > len(SKEWS)
    tally(f"causal pairs, {name}", len(found))
    keeps_its_order(store, stale, created)


def keeps_its_order(store: ChunkedRunLogStore, stale: Any, created: dict[str, str]) -> None:
    """Whatever is done to the chunks, and whoever reads them."""
    before = order(store)
    steps = [f"step {name}" for name in store.get_run_log_by_id("r").steps]
    assert [created[name] for name in steps] == sorted(created[name] for name in steps)
    rewriters = [on_host(store.backend, skew) for skew in SKEWS]
    names = list(store.get_run_log_by_id("r").steps)
    random.Random(0).shuffle(names)
    for number, name in enumerate(names):
        rewriter = rewriters[number % len(SKEWS)]
        step = rewriter.get_step_log(name, "r")
        step.status = "SUCCESS"
        rewriter.add_step_log(step, "r")
    whole = rewriters[0].get_run_log_by_id("r")
    whole.steps = dict(reversed(whole.steps.items()))
    whole.parameters = dict(reversed(whole.parameters.items()))
    whole.tag = "put back upside down"
    rewriters[0].put_run_log(whole)
    stale.dag_hash = "stale"
    store.put_run_log(stale)
    run_log = again(store).get_run_log_by_id("r")
    assert (run_log.tag, run_log.dag_hash) == ("put back upside down", "stale")
    assert stamps(store) == created
    for reader in [store, again(store), *rewriters, *(on_host(store.backend, skew) for skew in SKEWS)]:
        assert order(reader) == before


class Still:
    """A clock that all hosts share and that stands still: every creation is at the same nanosecond."""

    def __call__(self) -> int:
        return 1_795_262_400 * SECOND


def create_at_once(backend: Backend, me: int, count: int) -> None:
    store = ChunkedRunLogStore(backend, clock=HybridClock(Still()))
    for number in range(count):
        name = f"{(me * 7 + number * 5) % 11} {me} {number}"
        store.add_step_log(store.create_step_log(name, name), "r")
        store.set_parameters("r", {name: number})


@pytest.mark.parametrize("name", ["local"])
def test_creations_of_the_same_nanosecond_have_one_order_for_all_readers(
    name: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    store = ChunkedRunLogStore(place(name, request, tmp_path), clock=HybridClock(Still()))
    store.create_run_log("r")
    store.add_step_log(store.create_step_log("map", "map"), "r")
    at_once(create_at_once, [(store.backend, me, between(6, 60)) for me in range(4)])
    first = order(again(store))
    assert len(stamps(store)) > len(set(stamps(store).values()))  # or no two were alike
    for _ in range(3):
        assert order(again(store)) == first
        assert order(store) == first


def take_turns(backend: Backend, me: int, rounds: int, turns: Any) -> int:
    """Each host in its turn sees the newest run, then creates one that is newer for everybody."""
    store = on_host(backend, SKEWS[me])
    wrong = 0
    for number in range(rounds):
        turns[me].acquire()
        known = store.get_run_logs()
        store.create_run_log(f"run {me} {number}", tag=known[0].run_id if known else "")
        wrong += store.get_run_logs()[0].run_id != f"run {me} {number}"
        turns[(me + 1) % len(SKEWS)].release()
    return wrong


@pytest.mark.parametrize("name", ["local"])
def test_the_newest_run_is_first_for_hosts_that_had_seen_the_others(
    name: str, request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    assert FORK is not None
    backend = place(name, request, tmp_path)
    rounds = between(5, 40)
    turns = [FORK.Semaphore(int(me == 0)) for me in range(len(SKEWS))]
    wrong = at_once(take_turns, [(backend, me, rounds, turns) for me in range(len(SKEWS))])
    assert wrong == [0] * len(SKEWS)
    found = ChunkedRunLogStore(backend).get_run_logs()
    assert [run.tag for run in found[:-1]] == [run.run_id for run in found[1:]]  # each names the one before it
    assert len(found) == len(SKEWS) * rounds
    tally("causal pairs, runs", len(found) - 1)


def with_stamp(stamp: object, key: str = "r/step.a.json") -> ChunkedRunLogStore:
    """A store that knows nothing yet of a run with a step, of which one chunk says that it was created then."""
    backend = memory()
    store = ChunkedRunLogStore(backend)
    store.create_run_log("r")
    store.add_step_log(store.create_step_log("a", "a"), "r")
    chunk = codec.decode(backend.get(key).data, key)
    envelope = chunk.envelope._replace(created_at=stamp)  # type: ignore[arg-type]
    backend.put(key, codec.encode(chunk._replace(envelope=envelope)), ANY)
    return ChunkedRunLogStore(backend)


ODD = [
    "2200-01-01T00:00:00.000000000Z",
    "2026-12-31T23:59:59.999999999Z",
    "9998-12-31T23:59:59.999999999Z",
    "1960-01-01T00:00:00.000000000Z",
    "0001-01-01T00:00:00.000000000Z",
]


@pytest.mark.parametrize("stamp", ODD)
@pytest.mark.parametrize("key", ["r/run.json", "r/step.a.json"])
def test_a_clock_that_was_far_off_is_followed_and_stamps_still_rise(stamp: str, key: str) -> None:
    store = with_stamp(stamp, key)
    found = store.get_run_log_by_id("r")
    if key == "r/run.json":
        assert found.created_at == as_datetime(stamp)
        assert found.created_at.tzinfo is UTC
    names = [f"s {number}" for number in range(20)]
    for name in names:
        store.add_step_log(store.create_step_log(name, name), "r")
    created = stamps(store)
    rising = [max(stamp, "1970"), *(created[f"step {name}"] for name in names)]
    assert all(before < after for before, after in pairwise(rising))
    assert list(again(store).get_run_log_by_id("r").steps)[-20:] == names
    assert again(store).get_run_logs()[0].created_at == store.get_run_logs()[0].created_at


@pytest.mark.parametrize("now", [-1, -5 * SECOND, -(10**18)])
def test_a_clock_before_1970_gives_stamps_that_rise(now: int) -> None:
    clock = HybridClock(lambda: now)
    found = [clock.stamp() for _ in range(50)]
    assert all(before < after for before, after in pairwise(found))
    assert all(as_datetime(stamp) >= datetime(1970, 1, 1, tzinfo=UTC) for stamp in found)


GARBLED: list[object] = [
    "zzz",
    "",
    "9999-99-99",
    "2026-13-41T00:00:00.000000000Z",
    "2200-01-01T00:00:00.5Z",
    "2200-01-01T00:00:00.00000000xZ",
    "\uff19999-01-01T00:00:00.000000000Z",
    "9999-12-31T23:59:59.999999999Z",
    5,
    None,
    ["2026"],
]

READS: dict[str, Callable[[ChunkedRunLogStore], object]] = {
    "full": lambda store: store.get_run_log_by_id("r"),
    "as far as it can be read": lambda store: store.read_run_log("r"),
    "without steps": lambda store: store.get_run_log_by_id("r", full=False),
    "one step": lambda store: store.get_step_log("a", "r"),
    "the runs": lambda store: store.get_run_logs(),
    "configuration": lambda store: store.get_run_config("r"),
}


@pytest.mark.parametrize("stamp", GARBLED, ids=repr)
def test_a_time_that_is_none_is_damage_of_its_chunk_and_of_nothing_else(stamp: object) -> None:
    wrong = []
    for key in ("r/run.json", "r/step.a.json"):
        for name, look_at in READS.items():
            store = with_stamp(stamp, key)
            try:
                look_at(store)
            except FormatError as error:
                if error.key != key:
                    wrong.append(f"{name} of {key}: names {error.key}")
            except Exception as error:  # noqa: BLE001  any other is the fault
                wrong.append(f"{name} of {key}: {error!r}")
            wrong += [f"after {name} of {key}: {one}" for one in writes_that_fail(store)]
    assert wrong == []


def writes_that_fail(store: ChunkedRunLogStore) -> list[str]:
    """What this process can't write any more, of runs that have nothing to do with it."""
    failed = []
    for number in range(3):
        try:
            created = store.create_run_log(f"other {number}").created_at
            store.add_step_log(store.create_step_log("b", "b"), f"other {number}")
            assert created is not None
            if not 2026 <= created.year < 9999:
                failed.append(f"created in {created.year}")
        except (ValueError, TypeError, RunLogNotFoundError) as error:
            failed.append(repr(error))
    shown = [run.run_id for run in again(store).get_run_logs([f"other {number}" for number in range(3)])]
    if not failed and shown != ["other 2", "other 1", "other 0"]:
        failed.append(f"order {shown}")
    return failed


def test_a_chunk_with_a_stamp_of_our_own_reads_well_so_the_garbled_ones_fail_for_their_stamp() -> None:
    store = with_stamp("2026-11-21T12:00:00.000000000Z")
    for look_at in READS.values():
        look_at(store)
    assert writes_that_fail(store) == []
    assert store._chunks.read(keys.step("r", "a")).chunk.envelope.created_at == "2026-11-21T12:00:00.000000000Z"
