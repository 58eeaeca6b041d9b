"""The checker against small histories whose verdict is plain, against trying every order, and in haste; then recorded histories."""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import Final

import pytest

import histories
import linearizable
import sabotage
from chunkstore import ChunkedRunLogStore
from chunkstore.backends.local import Durability, LocalBackend
from chunkstore.errors import BackendUnavailableError, ChunkStoreError, ConflictError
from fault_server import FaultServer, fault_server
from histories import Crowd, Histories, Work, Worker
from linearizable import NEVER, Kind, Operation, violation
from places import again, between, in_bucket, place
from rigs import Tally


def op(text: str) -> Operation:
    """`write 1 0-5` is a write of 1 that was called at 0 and returned at 5; `swap 1>2 0-` never returned."""
    words = text.split()
    span, value = words[-1], words[-2]
    kind = " ".join(words[:-2])
    start, _, end = span.partition("-")
    expected, _, made = value.rpartition(">")
    number = None if made == "?" else int(made)
    return Operation(kind, number, int(start), int(end) if end else NEVER, int(expected) if expected else None)  # type: ignore[arg-type]


GOOD = {
    "one after the other": ["write 1 0-1", "read 1 2-3", "write 2 4-5", "read 2 6-7"],
    "a read beside a write sees the old value": ["write 1 0-1", "write 2 2-9", "read 1 3-4"],
    "or the new one": ["write 1 0-1", "write 2 2-9", "read 2 3-4"],
    "two writes at once in either order": ["write 1 0-9", "write 2 0-9", "read 2 10-11"],
    "a killed write may have happened": ["write 1 0-1", "write 2 2-", "read 2 5-6"],
    "a killed write may have happened later": ["write 1 0-1", "write 2 2-", "read 1 5-6", "read 2 7-8"],
    "a killed write may never have happened": ["write 1 0-1", "write 2 2-", "read 1 5-6"],
    "one create wins": ["create 1 0-9", "refused create 2 0-9", "read 1 10-11"],
    "a create is refused because of one that was killed": ["create 1 0-", "refused create 2 5-6"],
    "a create after a refused one's call": ["create 1 3-4", "refused create 2 0-9"],
    "a swap of what was there": ["write 1 0-1", "swap 1>2 2-3", "read 2 4-5"],
    "a swap that is refused because another was faster": ["write 1 0-1", "swap 1>2 2-9", "refused swap 1>3 2-9"],
    "a killed write that only a killed swap saw": ["write 1 0-", "swap 1>2 1-", "read 2 5-6"],
    "additions": ["write 0 0-1", "add 1 2-9", "add 2 2-9", "add ? 2-9", "read 3 10-11"],
    "a killed addition": ["write 0 0-1", "add ? 2-", "add 2 3-4"],
}
BAD = {
    "a read of what nobody wrote": ["write 1 0-1", "read 3 2-3"],
    "a stale read": ["write 1 0-1", "write 2 2-3", "read 1 4-5"],
    "two reads that see the new value, then the old": ["write 1 0-1", "write 2 2-9", "read 2 3-4", "read 1 5-6"],
    "two readers that see two orders": [
        "write 1 0-9",
        "write 2 0-9",
        "read 1 10-11",
        "read 2 12-13",
    ],
    "a read before the write was called": ["write 1 0-1", "read 2 2-3", "write 2 4-5"],
    "a killed write that comes and goes": ["write 1 0-1", "write 2 2-", "read 2 5-6", "read 1 7-8"],
    "two winners of a create": ["create 1 0-9", "create 2 0-9"],
    "a create that nobody was faster than": ["refused create 1 0-1", "create 2 2-3"],
    "a winner that is not what stands there": ["create 1 0-9", "refused create 2 0-9", "read 2 10-11"],
    "two swaps of one value": ["write 1 0-1", "swap 1>2 2-9", "swap 1>3 2-9"],
    "a refused swap of what was there": ["write 1 0-1", "refused swap 1>2 2-3", "read 1 4-5"],
    "an addition that is lost": ["write 0 0-1", "add ? 2-9", "add ? 2-9", "read 1 10-11"],
    "an addition that counts twice": ["write 0 0-1", "add ? 2-9", "read 2 10-11"],
    "two additions that make the same": ["write 0 0-1", "add 1 2-9", "add 1 2-9"],
}


@pytest.mark.parametrize("history", GOOD.values(), ids=GOOD.keys())
def test_it_accepts(history: list[str]) -> None:
    assert violation(map(op, history)) is None


@pytest.mark.parametrize("history", BAD.values(), ids=BAD.keys())
def test_it_refuses(history: list[str]) -> None:
    assert violation(map(op, history)) is not None


def test_it_names_the_operation_that_has_no_place_and_those_that_stand_in_its_way() -> None:
    found = violation(map(op, BAD["a stale read"]))
    assert found is not None
    assert (found.operation, found.state, found.because) == (op("write 2 2-3"), 1, (op("read 1 4-5"),))


def linearizable_by_trial(history: Sequence[Operation], initial: Hashable) -> bool:
    """By trying every order of every choice of those that never returned."""
    done = [one for one in history if one.returned != NEVER]
    open_ones = [one for one in history if one.returned == NEVER and not one.kind.startswith(("read", "refused"))]
    choices = itertools.chain.from_iterable(
        itertools.combinations(open_ones, number) for number in range(len(open_ones) + 1)
    )
    return any(possible(order, initial) for choice in choices for order in itertools.permutations([*done, *choice]))


def possible(order: Sequence[Operation], state: Hashable) -> bool:
    latest = 0
    for one in order:
        if one.returned < latest or not meets(one, state):
            return False
        latest = max(latest, one.invoked)
        if one.kind in {"write", "create", "swap"}:
            state = one.value
        elif one.kind == "add":
            assert isinstance(state, int)
            state += 1
    return True


def meets(one: Operation, state: Hashable) -> bool:
    return {
        "read": state == one.value,
        "write": True,
        "create": state is None,
        "refused create": state is not None,
        "swap": state == one.expected,
        "refused swap": state != one.expected,
        "add": one.value is None or (isinstance(state, int) and state + 1 == one.value),
    }[one.kind]


def random_history(chance: random.Random) -> tuple[list[Operation], Hashable]:
    """Short, crowded, with few values: about half of them can have happened."""
    adding = chance.random() < 0.2
    kinds: list[Kind] = (
        ["read", "add"] if adding else ["read", "write", "create", "refused create", "swap", "refused swap"]
    )
    values = [1, 2, 3] if chance.random() < 0.5 else list(range(1, 9))
    history = []
    for _ in range(chance.randint(1, 6)):
        kind = chance.choice(kinds)
        invoked = chance.randint(0, 20)
        returned = NEVER if chance.random() < 0.15 else invoked + chance.randint(0, 12)
        value = None if kind == "add" and (returned == NEVER or chance.random() < 0.5) else chance.choice(values)
        history.append(Operation(kind, value, invoked, returned, chance.choice([None, *values])))
    return history, (0 if adding else chance.choice([None, 1]))


def test_it_agrees_with_trying_every_order() -> None:
    chance = random.Random(0)
    verdicts = []
    for _ in range(between(6_000, 50_000)):
        history, initial = random_history(chance)
        expected = linearizable_by_trial(history, initial)
        assert (violation(history, initial) is None) == expected, history
        verdicts.append(expected)
    assert 0.2 < sum(verdicts) / len(verdicts) < 0.8  # or one of the two was hardly tried


def simulated(chance: random.Random, count: int, processes: int = 8, killed: int = 4) -> Iterator[Operation]:
    """What so many processes do to a register that is right: each operation takes effect at some moment between call and return."""
    free = [0] * processes
    effects: list[tuple[int, int, int, int, bool]] = []
    for number in range(1, count + 1):
        process = min(range(processes), key=free.__getitem__)
        called = free[process] + chance.randrange(1, 20)
        # Now and then one is held up while the others do hundreds.
        returned = called + (chance.randrange(20_000) if chance.random() < 0.002 else chance.randrange(2, 400))
        effects.append((chance.randrange(called, returned), called, returned, number, chance.random() < 0.5))
        free[process] = returned
    lost = set(chance.sample(range(count), killed))
    state = 0
    for index, (_, called, returned, number, writes) in enumerate(sorted(effects)):
        if writes:
            state = number
        yield Operation("write" if writes else "read", state, called, NEVER if index in lost else returned)


def test_sixteen_thousand_operations_take_a_few_steps_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linearizable, "_PATIENCE", 4 * 16_000)  # a search that explodes goes beyond it, and raises
    assert violation(list(simulated(random.Random(1), 16_000)), 0) is None


@pytest.mark.parametrize("seed", range(5))
def test_one_stale_read_among_thousands_is_found(seed: int) -> None:
    chance = random.Random(seed)
    history = list(simulated(chance, 4_000))
    reads = [i for i, one in enumerate(history) if one.kind == "read" and one.returned != NEVER and i > 1_000]
    index = chance.choice(reads)
    old = next(one for one in reversed(history) if one.kind == "read" and one.returned < history[index - 500].invoked)
    history[index] = Operation("read", old.value, history[index].invoked, history[index].returned)
    found = violation(history, 0)
    assert found is not None


# Recorded histories.

PROCESSES: Final = 8


@pytest.fixture(scope="module")
def faults() -> Iterator[FaultServer]:
    with fault_server() as server:
        yield server


def settled(recorded: Histories, store: ChunkedRunLogStore) -> None:
    """Adds what stands there in the end: otherwise a lost last write would be nobody's stale read."""
    now = time.monotonic_ns()
    for register, value in histories.seen_in(again(store).get_run_log_by_id(histories.RUN)).items():
        recorded.operations[register].append(Operation("read", value, now, now + 1, who="the end"))
    for register, operations in recorded.operations.items():
        if register not in histories.REGISTERS:
            found = store.get_run_logs([register])
            tag = found[0].tag if found else None
            operations.append(Operation("read", tag, now, now + 1, who="the end"))


def check(recorded: Histories, tally: Tally, where: str) -> None:
    tally(f"operations in histories, {where}", recorded.calls)
    tally(f"processes killed, {where}", recorded.killed)
    assert recorded.killed
    assert recorded.damaged == []
    assert recorded.violations(histories.first_value) == []


def crowd_of_writers(store: ChunkedRunLogStore, folder: Path, calls: int, kills: int) -> Histories:
    """Eight processes, together about so many calls of the whole API of one run."""
    histories.found(store)
    recorded = Crowd(store, folder, histories.mixed, calls // PROCESSES).run(PROCESSES, kills)
    settled(recorded, store)
    return recorded


@pytest.mark.parametrize(
    ("durability", "small", "full"), [("process", 5_000, 80_000), ("barrier", 1_500, 12_000), ("power", 1_500, 12_000)]
)
def test_the_whole_api_is_linearizable_on_disk_field_by_field_while_writers_are_killed(
    tmp_path: Path, tally: Tally, durability: Durability, small: int, full: int
) -> None:
    store = ChunkedRunLogStore(LocalBackend(tmp_path / "runs", durability=durability))
    recorded = crowd_of_writers(store, tmp_path / "log", between(small, full), between(6, 60))
    check(recorded, tally, "local disk")
    assert not recorded.unknown
    assert recorded.calls >= between(small, full)


# Not on moto: its own check and its write are two steps; a plain botocore client saw two winners in 3 of 400 creates.
def test_the_whole_api_is_linearizable_on_minio_field_by_field_while_writers_are_killed(
    request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    store = ChunkedRunLogStore(place("minio", request, tmp_path))
    recorded = crowd_of_writers(store, tmp_path / "log", between(400, 8_000), between(3, 30))
    check(recorded, tally, "minio")
    assert not recorded.unknown


LOST: Final = ("lost_reply", "reset_reply", "500_after", "504_after", "412_echo", "cut_head")
REFUSED: Final = ("dropped", "reset", "500", "503", "409", "412_false")
LATE: Final = ("zombie_cut", "delay", "slow")


def test_the_whole_api_is_linearizable_while_requests_fail_and_writers_are_killed(
    faults: FaultServer, tmp_path: Path, tally: Tally
) -> None:
    store = ChunkedRunLogStore(in_bucket(faults.s3, tmp_path))
    histories.found(store)
    faults.random(seed=1, rate=0.15, kinds=[*LOST, *REFUSED, *LATE], verbs=("PUT", "GET", "LIST"))
    allowed = (ConflictError, BackendUnavailableError)
    calls = between(440, 8_000) // PROCESSES
    recorded = Crowd(store, tmp_path / "log", histories.mixed, calls, allowed).run(PROCESSES, between(3, 30))
    faults.calm()
    faults.release()
    settled(recorded, store)
    struck = [one for one in faults.requests(forget=True) if one.fault]
    tally("faults in histories, fault server", len(struck))
    check(recorded, tally, "fault server")
    assert len(struck) > recorded.calls // 20
    assert sum(recorded.unknown.values()) < recorded.calls // 10, recorded.unknown  # or most of it was never tried


@pytest.mark.parametrize("where", ["local", "minio", "faults", "sqlite", "postgres"])
def test_a_number_that_eight_processes_count_up_misses_none_and_counts_none_twice(
    where: str, request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    # Of more additions whose outcome nobody knows the checker cannot say in which order they came: so in several numbers.
    numbers = between(1, 3) if where == "faults" else 1
    calls = between(1_600, 16_000) if where == "local" else between(160, 2_400)
    for number in range(numbers):
        folder = tmp_path / str(number)
        folder.mkdir()
        count_one_number(where, request, folder, tally, calls // numbers)


def count_one_number(where: str, request: pytest.FixtureRequest, folder: Path, tally: Tally, calls: int) -> None:
    backend = (
        in_bucket(request.getfixturevalue("faults").s3, folder) if where == "faults" else place(where, request, folder)
    )
    store = ChunkedRunLogStore(backend)
    store.create_run_log(histories.RUN)
    histories.start_to_count(store)
    recorded = counted(store, folder / "log", calls, request if where == "faults" else None)
    check(recorded, tally, {"local": "local disk", "faults": "fault server"}.get(where, where))
    additions = [one for one in recorded.operations[histories.NUMBER] if one.kind == "add"]
    acknowledged = sum(one.returned != NEVER for one in additions)
    assert acknowledged <= histories.number_in(store) <= len(additions)
    assert where == "faults" or not recorded.unknown


def counted(store: ChunkedRunLogStore, folder: Path, calls: int, faulty: pytest.FixtureRequest | None) -> Histories:
    if faulty is None:
        work, allowed = histories.counting(exactly=True), ()
        return Crowd(store, folder, work, calls // PROCESSES, allowed).run(PROCESSES, between(4, 40))
    faults: FaultServer = faulty.getfixturevalue("faults")
    faults.random(seed=2, rate=0.25, kinds=[*LOST, *REFUSED, *LATE])
    allowed = (ConflictError, BackendUnavailableError)
    work = histories.counting(exactly=False)
    recorded = Crowd(store, folder, work, calls // PROCESSES, allowed).run(PROCESSES, between(2, 20))
    faults.calm()
    faults.release()
    return recorded


@pytest.mark.parametrize("where", ["local", "minio", "sqlite", "postgres"])
def test_objects_are_registers_with_create_and_swap_while_writers_are_killed(
    where: str, request: pytest.FixtureRequest, tmp_path: Path, tally: Tally
) -> None:
    store = ChunkedRunLogStore(place(where, request, tmp_path))
    store.create_run_log(histories.RUN)
    calls = between(2_400, 24_000) if where == "local" else between(240, 2_400)
    recorded = Crowd(store, tmp_path / "log", histories.raw, calls // PROCESSES).run(PROCESSES, between(4, 40))
    check(recorded, tally, "local disk" if where == "local" else where)
    kinds = {one.kind for history in recorded.operations.values() for one in history}
    assert kinds == {"read", "write", "create", "refused create", "swap", "refused swap"}


# The same with the library broken: each must be caught.


SABOTAGES: Final = {
    "a stale cache": (sabotage.stale_cache, histories.mixed),
    "a stale listing": (sabotage.stale_listing, histories.mixed),
    "a put without its condition": (sabotage.put_without_condition, histories.mixed),
    "a put without its condition, counting": (sabotage.put_without_condition, histories.counting(exactly=True)),
    "no locks": (sabotage.no_locks, histories.counting(exactly=True)),
    "no locks, object by object": (sabotage.no_locks, histories.raw),
    "writing in place": (sabotage.write_in_place, histories.mixed),
    "acknowledged and forgotten": (sabotage.forget_writes, histories.mixed),
    "overwritten as a whole": (sabotage.overwrite_as_a_whole, histories.mixed),
    "a create that looks first": (sabotage.create_by_looking_first, histories.raw),
}
TRIES: Final = 120


def sabotaged(breaking: Callable[[], None], work: Work) -> Work:
    """The work in a process whose library was broken first."""

    def broken(worker: Worker) -> None:
        breaking()
        work(worker)

    return broken


@pytest.mark.parametrize(("breaking", "work"), SABOTAGES.values(), ids=SABOTAGES.keys())
def test_the_histories_of_a_broken_library_are_refused(
    breaking: Callable[[], None], work: Work, tmp_path: Path, tally: Tally
) -> None:
    """Where it takes luck, more than once. On a machine with a core to spare 30 tries were enough; beside a busy process, once, not."""
    for number in range(TRIES):
        folder = tmp_path / f"{number}"
        folder.mkdir()
        store = ChunkedRunLogStore(LocalBackend(folder / "runs", durability="process"))
        histories.found(store)
        histories.start_to_count(store)
        recorded = Crowd(store, folder / "log", sabotaged(breaking, work), 60, (ChunkStoreError,)).run(PROCESSES, 0)
        tally("operations in histories of a broken library", recorded.calls)
        if recorded.damaged or recorded.violations(histories.first_value):
            return
    pytest.fail(f"not noticed in {TRIES} tries")
