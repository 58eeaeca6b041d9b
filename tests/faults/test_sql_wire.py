"""PostgreSQL behind a wire that breaks at each statement of every operation: right, or a fitting error and then right.

The connection is lost before a statement arrives, or after the server has executed it, committed it and answered:
then the write landed and its reply did not.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass
from itertools import count
from typing import Any, Final

import pytest
from test_network import OPERATIONS, Operation, baseline, bodies, everything, plainly

from chunkstore import BackendUnavailableError, ChunkedRunLogStore, RunLogExistsError, WriteStateUnknownError
from chunkstore.backends import ANY, CREATE, FOUND, Backend, unchanged
from databases import Postgres
from places import again, at_once, between, in_database, meanwhile, memory
from rigs import Tally
from sql_wire import SqlWire, When

Store = ChunkedRunLogStore
WAYS: Final[tuple[tuple[When, bool], ...]] = (("before", False), ("after", False), ("before", True), ("after", True))


@pytest.fixture(scope="module")
def wire(postgres_server: Postgres) -> Iterator[SqlWire]:
    with SqlWire(postgres_server) as wire:
        yield wire


@pytest.fixture(autouse=True)
def calm(wire: SqlWire) -> Iterator[None]:
    yield
    wire.calm()


@dataclass(frozen=True, slots=True)
class Rig:
    """One table, by way of the wire and, for the witness, straight."""

    wire: SqlWire
    server: Postgres
    backend: Backend
    straight: Backend
    table: str
    before: Mapping[str, bytes]

    def ready(self) -> Store:
        """A store that knows nothing, on the baseline, with a connection in its pool."""
        self.wire.calm()
        self.server.run(f'TRUNCATE "{self.table}"')
        for key, data in self.before.items():
            self.straight.put(key, data, FOUND)
        list(self.backend.folders())
        return Store(self.backend)

    def found(self) -> dict[str, Any]:
        return bodies(everything(self.straight))


@pytest.fixture(scope="module")
def rig(wire: SqlWire, postgres_server: Postgres) -> Iterator[Rig]:
    table = postgres_server.new_table()
    straight = in_database(postgres_server.url(), table_name=table)
    backend = in_database(wire.url(), table_name=table, deadline=20.0)
    with closing(straight), closing(backend):
        yield Rig(wire, postgres_server, backend, straight, table, baseline())


@dataclass(frozen=True, slots=True)
class Expected:
    """What an operation returns and leaves where nothing fails, and its statements."""

    result: Any
    after: dict[str, Any]
    statements: tuple[str, ...]


def expected_of(rig: Rig, operation: Operation) -> Expected:
    """In memory and here alike."""
    plain = memory()
    for key, data in rig.before.items():
        plain.put(key, data, FOUND)
    store = Store(plain)
    result = plainly(operation.act(store, operation.before(store)))
    here = rig.ready()
    about = operation.before(here)
    rig.wire.reset()
    assert plainly(operation.act(here, about)) == result
    assert rig.found() == bodies(everything(plain))
    return Expected(result, rig.found(), rig.wire.statements)


def complaints(rig: Rig, operation: Operation, expected: Expected, at: int, when: When, reset: bool) -> Iterator[str]:
    """What is wrong with one case."""
    store = rig.ready()
    about = operation.before(store)
    rig.wire.reset()
    rig.wire.strike(at, when, reset=reset)
    try:
        result = plainly(operation.act(store, about))
    except Exception as error:  # noqa: BLE001  whatever comes is judged
        yield from misfits(operation, error)
        yield from halves(rig, expected, error)
        rig.wire.calm()
        yield from repeated(operation, expected, again(store) if operation.elsewhere else store, about)
    else:
        if result != expected.result:
            yield f"returned {result}"
    rig.wire.calm()
    if rig.found() != expected.after:
        yield f"in the end {rig.found()}"


def misfits(operation: Operation, error: Exception) -> Iterator[str]:
    if not (isinstance(error, BackendUnavailableError) and error.transient):
        yield f"raised {error!r}"
    if isinstance(error, WriteStateUnknownError) and not operation.writes:
        yield f"only reads, and raised {error!r}"


def halves(rig: Rig, expected: Expected, error: Exception) -> Iterator[str]:
    """Each object is as it was or as it should be."""
    before, now = bodies(rig.before), rig.found()
    for key in before.keys() | now.keys() | expected.after.keys():
        if now.get(key) not in (before.get(key), expected.after.get(key)):
            yield f"{key} is {now.get(key)} after {error!r}"


def repeated(operation: Operation, expected: Expected, store: Store, about: Any) -> Iterator[str]:
    try:
        result = plainly(operation.act(store, about))
    except operation.again:
        return
    except Exception as error:  # noqa: BLE001  whatever comes is judged
        yield f"repeated, raised {error!r}"
    else:
        if result != expected.result:
            yield f"repeated, returned {result}"


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_right_or_says_so_whichever_of_its_statements_loses_its_connection(
    rig: Rig, name: str, tally: Tally
) -> None:
    operation = OPERATIONS[name]
    expected = expected_of(rig, operation)
    wrong, tried = [], 0
    for when, reset in WAYS[: between(2, 4)]:
        for at in count():
            before = rig.wire.struck
            case = f"{name}, {when} statement {at}{', reset' if reset else ''}"
            wrong += [
                f"{case}: {one}\n  {rig.wire.statements}"
                for one in complaints(rig, operation, expected, at, when, reset)
            ]
            if rig.wire.struck == before:
                break  # it needs no more statements than that
            tried += 1
    assert tried >= len(expected.statements)  # connections that are made beside it vary
    tally("statements that lost their connection", tried)
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_write_whose_reply_was_lost_is_in_doubt_and_never_sent_again_by_itself(rig: Rig, when: When) -> None:
    """Another one may stand there by then, which a second sending of a plain put would undo."""
    rig.ready()
    version = rig.straight.put("r/known.json", b"old", FOUND)
    for key, condition in (("r/plain.json", ANY), ("r/known.json", unchanged(version)), ("r/new.json", CREATE)):
        rig.wire.reset()
        rig.wire.strike(0, when)
        with pytest.raises(WriteStateUnknownError) as doubt:
            rig.backend.put(key, b"mine", condition)
        assert doubt.value.transient
        sent = [one for one in rig.wire.statements if "attribute_value" in one]
        assert len(sent) == 1, sent
        rig.straight.put(key, b"theirs", ANY)
        assert rig.backend.get(key).data == b"theirs"


# Many at once.


def append(url: str, table: str, who: int, turns: int) -> tuple[list[str], list[str]]:
    """The attempts that one process appended to a step that all of them write, and those whose fate it does not know."""
    backend = in_database(url, table_name=table, made=False, deadline=20.0)
    sure: list[str] = []
    unknown: list[str] = []
    with closing(backend):
        store = Store(backend)
        for turn in range(turns):
            message = f"{who} {turn}"
            try:
                step = store.get_step_log("known", "r")
                step.attempts.append(store.create_attempt_log())
                step.attempts[-1].message = message
                store.add_step_log(step, "r")
            except BackendUnavailableError as error:
                assert error.transient, error  # noqa: PT017  it may fail
                unknown.append(message)
            else:
                sure.append(message)
    return sure, unknown


@pytest.mark.parametrize("seed", range(between(1, 10)))
def test_attempts_that_eight_processes_append_are_there_once_each_while_connections_break(
    rig: Rig, wire: SqlWire, tally: Tally, seed: int
) -> None:
    rig.ready()
    turns, before = between(6, 25), wire.struck
    wire.at_random(seed, 0.25)
    appended = at_once(append, [(wire.url(), rig.table, who, turns) for who in range(8)])
    wire.calm()
    sure = [message for one, _ in appended for message in one]
    unknown = {message for _, one in appended for message in one}
    found = [attempt.message for attempt in Store(rig.straight).get_step_log("known", "r").attempts]
    assert len(found) == len(set(found)), "an attempt was appended twice"
    assert set(sure) <= set(found) <= {"the first", *sure, *unknown}
    assert wire.struck - before > turns
    assert len(sure) > 4 * turns  # or hardly anybody learnt anything
    tally("attempts appended under broken connections", 8 * turns)


def create_all(url: str, table: str, who: int, ids: int) -> tuple[set[int], set[int]]:
    """The runs that one process created, and those of which it knows nothing."""
    won, unknown = set(), set()
    backend = in_database(url, table_name=table, made=False, deadline=20.0)
    with closing(backend):
        store = Store(backend)
        for number in range(ids):
            try:
                store.create_run_log(f"run {number}", tag=f"by {who}")
            except RunLogExistsError:
                continue
            except BackendUnavailableError as error:
                assert error.transient, error  # noqa: PT017  it may fail
                unknown.add(number)
            else:
                won.add(number)
    return won, unknown


def test_of_eight_that_create_a_run_while_connections_break_exactly_one_wins_and_it_is_its_run(
    rig: Rig, wire: SqlWire, tally: Tally
) -> None:
    rig.ready()
    ids = between(15, 150)
    wire.at_random(11, 0.25)
    tried = at_once(create_all, [(wire.url(), rig.table, who, ids) for who in range(8)])
    wire.calm()
    reader = Store(rig.straight)
    for number in range(ids):
        winners = [f"by {who}" for who, (won, _) in enumerate(tried) if number in won]
        doubtful = [f"by {who}" for who, (_, unknown) in enumerate(tried) if number in unknown]
        assert len(winners) == 1 or (not winners and doubtful), number
        assert reader.get_run_log_by_id(f"run {number}").tag in (winners or doubtful)
    tally("creates raced, broken connections", ids)


def test_a_role_that_an_administrator_disconnects_all_the_time_loses_and_doubles_nothing(
    rig: Rig, postgres_server: Postgres, tally: Tally
) -> None:
    rig.ready()
    turns = between(10, 60)
    user, password = postgres_server.new_role()
    url = postgres_server.url(user=user, password=password)
    ended = 0
    with meanwhile(append, [(url, rig.table, who, turns) for who in range(4)]) as busy:
        while busy():
            ended += postgres_server.terminate_backends(user)
    found = [attempt.message for attempt in Store(rig.straight).get_step_log("known", "r").attempts]
    assert len(found) == len(set(found))
    assert ended > 4
    tally("connections that an administrator ended", ended)
