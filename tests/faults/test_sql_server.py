"""PostgreSQL that is stopped, killed, hangs, refuses or is set otherwise: nothing acknowledged is lost, and errors say what to do."""

from __future__ import annotations

import pickle
import random
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from multiprocessing.connection import Connection
from typing import Any, Final

import pytest

from chunkstore import BackendUnavailableError, ChunkedRunLogStore, StepLog, WriteStateUnknownError
from chunkstore.backends import ANY, FOUND, Backend, unchanged
from chunkstore.store import StoreSettings
from databases import Postgres
from places import again, at_once, between, in_database
from rigs import Tally

Store = ChunkedRunLogStore
Act = Callable[[Store], Any]

ALL_OF_THEM: Final[dict[str, Act]] = {
    "create a run": lambda store: store.create_run_log("new"),
    "add a step": lambda store: store.add_step_log(StepLog(name="new", internal_name="new"), "r"),
    "add a known step": lambda store: store.add_step_log(StepLog(name="a", internal_name="a", message="new"), "r"),
    "set parameters": lambda store: store.set_parameters("r", {f"p{number}": number for number in range(5)}),
    "update the status": lambda store: store.update_run_log_status("r", "SUCCESS"),
    "delete a run": lambda store: store.delete_run_log("r"),
    "get a step": lambda store: store.get_step_log("a", "r"),
    "read in full": lambda store: store.get_run_log_by_id("r"),
    "list the runs": lambda store: store.list_run_ids(),
}
READS: Final = ("get a step", "read in full", "list the runs")


def filled(backend: Backend) -> Store:
    """A store that knows a run with a step."""
    store = Store(backend)
    store.create_run_log("r", tag="old")
    store.add_step_log(StepLog(name="a", internal_name="a", message="old"), "r")
    return store


@pytest.fixture
def mortal(mortal_postgres: Postgres) -> Iterator[Postgres]:
    """Alive again afterwards, whatever the test did."""
    yield mortal_postgres
    if mortal_postgres.process is not None:
        mortal_postgres.resume()
    if not mortal_postgres.answers():
        mortal_postgres.kill()
        mortal_postgres.start()


# Stopped and killed.


@pytest.mark.parametrize("how", ["fast", "immediate", "kill -9"])
def test_a_store_goes_on_after_its_server_was_restarted_as_if_nothing_had_been(mortal: Postgres, how: str) -> None:
    with closing(in_database(mortal.url(), table_name=mortal.new_table())) as backend:
        store = filled(backend)
        step = store.get_step_log("a", "r")
        if how == "kill -9":
            mortal.kill()
        else:
            mortal.stop(signal.SIGINT if how == "fast" else signal.SIGQUIT)
        mortal.start()
        backend.put("r/other.json", b"x", ANY)  # a put that meets the dead connection would be in doubt
        step.message = "after the restart"
        store.add_step_log(step, "r")
        assert store.get_run_log_by_id("r").steps["a"].message == "after the restart"


def write_until_killed(url: str, table: str, me: int, acks: Connection) -> None:
    """Tells each write that was acknowledged; waits where the server is gone, and goes on with the same store."""
    number, store = 0, Store(in_database(url, table_name=table, made=False, deadline=1.0))
    while True:
        number += 1
        name = f"{me} {number}"
        sure(store.add_step_log, StepLog(name=name, internal_name=name, message="x" * 500), "r")
        sure(store.set_parameters, "r", {f"p {name}": name, f"own {me}": number})
        sure(store.set_run_config, "r", {f"c {name}": number})
        acks.send(name)


def sure(act: Callable[..., object], *arguments: object) -> None:
    """Until it is acknowledged; only a transient failure is tried again."""
    while True:
        try:
            act(*arguments)
        except BackendUnavailableError as error:
            if not error.transient:
                raise
        else:
            return


@contextmanager
def writers(url: str, table: str, count: int) -> Iterator[list[Connection]]:
    """Processes that write for ever, and what they say."""
    import multiprocessing

    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe(duplex=False) for _ in range(count)]
    processes = [
        context.Process(target=write_until_killed, args=(url, table, me, theirs))
        for me, (_, theirs) in enumerate(pipes)
    ]
    for process in processes:
        process.start()
    for _, theirs in pipes:
        theirs.close()
    try:
        yield [ours for ours, _ in pipes]
        assert all(process.is_alive() for process in processes), "a writer met an error that it should not have"
    finally:
        for process in processes:
            process.kill()
            process.join()


def said(pipes: list[Connection]) -> list[str]:
    """What is to be heard by now."""
    names = []
    for pipe in pipes:
        try:
            while pipe.poll():
                names.append(pipe.recv())
        except EOFError:
            pass
    return names


def test_what_was_acknowledged_is_there_after_each_kill_of_the_whole_server_and_its_writers_go_on(
    mortal: Postgres, tally: Tally
) -> None:
    table, chance, rounds = mortal.new_table(), random.Random(6), between(3, 20)
    Store(in_database(mortal.url(), table_name=table)).create_run_log("r")
    acks: list[str] = []
    with writers(mortal.url(), table, 4) as pipes:
        for turn in range(rounds):
            first = [pipe.recv() for pipe in pipes]  # all of them are at it
            time.sleep(chance.random() * 0.05)  # anywhere in their writes
            if turn % 3 == 2:
                mortal.stop(signal.SIGQUIT)
            else:
                mortal.kill()
            acks += [*first, *said(pipes)]
            mortal.start()
            check(mortal.url(), table, acks)
    tally("writes acknowledged before PostgreSQL was killed", 3 * len(acks))
    tally("kills of PostgreSQL", rounds)


def check(url: str, table: str, acks: list[str]) -> None:
    with closing(in_database(url, table_name=table)) as backend:
        reading = Store(backend).read_run_log("r")
    assert reading.findings == ()
    found = reading.run_log
    for name in acks:
        assert found.steps[name].message == "x" * 500
        assert found.parameters[f"p {name}"] == name
        assert found.run_config[f"c {name}"] == int(name.split()[1])


def test_a_server_that_acknowledges_before_it_writes_is_noticed_by_the_test_above(mortal: Postgres) -> None:
    """The same with psycopg alone and without waiting for the log on disk: acknowledged rows are gone."""
    table = mortal.new_table()
    mortal.run(f"CREATE TABLE {table} (number int)")
    for _ in range(20):
        with mortal.connect(options="-c synchronous_commit=off") as connection:
            before = mortal.run(f"SELECT count(*) FROM {table}")[0][0]
            for number in range(50):
                connection.execute(f"INSERT INTO {table} VALUES (%s)", (number,))
            mortal.kill()
        mortal.start()
        if mortal.run(f"SELECT count(*) FROM {table}")[0][0] < before + 50:
            return
    pytest.fail("nothing was lost: a kill is no test of what was acknowledged")


# Hanging.

DEADLINE: Final = 4.0
TURN: Final = DEADLINE / 4
"""What one call of the backend may take, as `chunkstore.open` sets it."""
LATE: Final = DEADLINE + 1.0
CONNECTING: Final = 2 * 2.0
"""libpq gives each connection two seconds at least, however short the deadline; two may be tried for one call."""


def hasty(backend: Backend) -> Store:
    """A store with the deadline, whose backend has a quarter of it for each call."""
    return Store(backend, settings=StoreSettings(timeout_seconds=DEADLINE))


def warm(backend: Backend) -> None:
    """With a connection, and what the table offers known; a busy machine may need longer than the deadline for that."""
    sure(lambda: list(backend.folders()))


def ended(store: Store, act: Act) -> tuple[Exception | None, float]:
    began = time.monotonic()
    error: Exception | None = None
    try:
        act(store)
    except Exception as caught:  # noqa: BLE001  it is judged
        error = caught
    return error, time.monotonic() - began


def judged(name: str, backend: Backend, error: Exception | None, seconds: float) -> None:
    assert isinstance(error, BackendUnavailableError), (name, error)
    assert error.transient, (name, error)
    assert backend.place in str(error), (name, error)
    assert name not in READS or not isinstance(error, WriteStateUnknownError), (name, error)
    assert seconds <= LATE + (CONNECTING if "postgresql" in backend.place else 0), (name, seconds, error)


@pytest.mark.parametrize("pooled", [True, False], ids=["with a connection in the pool", "without"])
def test_a_server_that_hangs_is_given_up_in_time_and_used_again_when_it_comes_back(
    mortal: Postgres, tally: Tally, pooled: bool
) -> None:
    table = mortal.new_table()
    with closing(in_database(mortal.url(), table_name=table)) as plain:
        filled(plain)
    backends = [in_database(mortal.url(), table_name=table, made=False, deadline=TURN) for _ in ALL_OF_THEM]
    for backend in backends if pooled else []:
        warm(backend)
    with ThreadPoolExecutor(len(backends)) as pool:
        mortal.pause()
        try:
            outcomes = list(pool.map(ended, map(hasty, backends), ALL_OF_THEM.values(), timeout=10 * LATE))
        finally:
            mortal.resume()
    for (name, _), backend, outcome in zip(ALL_OF_THEM.items(), backends, outcomes, strict=True):
        judged(name, backend, *outcome)
    for backend in backends:
        sure(backend.put, "later/run.json", b"x", ANY)
        backend.close()
    tally("operations that a deadline ended", len(outcomes))


@pytest.fixture
def table(postgres_server: Postgres) -> str:
    return postgres_server.new_table()


@contextmanager
def locked(server: Postgres, table: str) -> Iterator[None]:
    """Another program's transaction holds the whole table."""
    with server.connect(autocommit=False) as connection:
        connection.execute(f'LOCK TABLE "{table}" IN ACCESS EXCLUSIVE MODE')
        yield
        connection.rollback()


def test_a_table_that_another_program_holds_is_given_up_in_time(
    postgres_server: Postgres, table: str, tally: Tally
) -> None:
    with closing(in_database(postgres_server.url(), table_name=table)) as plain:
        filled(plain)
    backends = [
        in_database(postgres_server.url(), table_name=table, made=False, deadline=DEADLINE) for _ in ALL_OF_THEM
    ]
    for backend in backends:
        warm(backend)
    with locked(postgres_server, table), ThreadPoolExecutor(len(backends)) as pool:
        outcomes = list(pool.map(ended, map(hasty, backends), ALL_OF_THEM.values()))
    for (name, _), backend, outcome in zip(ALL_OF_THEM.items(), backends, outcomes, strict=True):
        judged(name, backend, *outcome)
        backend.close()
    tally("operations that a deadline ended", len(outcomes))
    # What was given up does not go on: no statement is left in the server that would write later.
    left = postgres_server.run(
        "SELECT query FROM pg_stat_activity WHERE state = 'active' AND query LIKE %s", f"%{table}%"
    )
    assert [query for (query,) in left if "pg_stat_activity" not in query] == []


def test_a_write_whose_connection_is_ended_while_it_waits_for_a_lock_lands_once(
    postgres_server: Postgres, table: str
) -> None:
    user, password = postgres_server.new_role()
    url = postgres_server.url(user=user, password=password)
    with closing(in_database(url, table_name=table, deadline=30.0)) as backend, ThreadPoolExecutor(1) as pool:
        store = filled(backend)
        step = store.get_step_log("a", "r")
        step.attempts.append(store.create_attempt_log())
        with locked(postgres_server, table):
            writing = pool.submit(store.add_step_log, step, "r")
            wait_for(lambda: waiting(postgres_server, user))
            assert postgres_server.terminate_backends(user) > 0
        writing.result(30)
        assert len(again(store).get_step_log("a", "r").attempts) == 1


def waiting(server: Postgres, user: str) -> bool:
    """Whether a statement of the role waits for a lock."""
    query = "SELECT 1 FROM pg_stat_activity WHERE usename = %s AND wait_event_type = 'Lock'"
    return bool(server.run(query, user))


def wait_for(holds: Callable[[], bool]) -> None:
    until = time.monotonic() + 20
    while not holds():
        assert time.monotonic() < until
        time.sleep(0.005)  # between two questions


# Set otherwise.


def add_one(url: str, table: str, me: int, turns: int) -> None:
    """Increments a counter, as the suite does, and appends to a step."""
    with closing(in_database(url, table_name=table)) as backend:
        store = Store(backend)
        for turn in range(turns):
            step = store.get_step_log("a", "r")
            step.attempts.append(store.create_attempt_log())
            step.attempts[-1].message = f"{me} {turn}"
            store.add_step_log(step, "r")
            store.set_run_config("r", {f"{me} {turn}": turn})
            store.set_parameters("r", {"shared": f"{me} {turn}", f"{me} {turn}": turn})


@pytest.mark.parametrize("isolation", ["read committed", "repeatable read", "serializable"])
def test_eight_processes_lose_nothing_whatever_isolation_their_role_is_set_to(
    postgres_server: Postgres, table: str, tally: Tally, isolation: str
) -> None:
    """Where a write of another meanwhile is a serialization failure, it is tried again."""
    user, password = postgres_server.new_role(default_transaction_isolation=isolation)
    url, turns = postgres_server.url(user=user, password=password), between(5, 40)
    with closing(in_database(url, table_name=table)) as backend:
        filled(backend)
        at_once(add_one, [(url, table, me, turns) for me in range(8)])
        found = again(Store(backend)).get_run_log_by_id("r")
    wanted = {f"{me} {turn}" for me in range(8) for turn in range(turns)}
    assert sorted(attempt.message for attempt in found.steps["a"].attempts) == sorted(wanted)
    assert set(found.run_config) == wanted
    assert set(found.parameters) == {"shared", *wanted}
    tally(f"racing writes, PostgreSQL, {isolation}", 3 * 8 * turns)


def raising(server: Postgres, table: str, state: str, times: int) -> None:
    """From now on the first so many changes of the table fail with this SQLSTATE, by a trigger; a sequence counts also in what is rolled back."""
    server.run(f"DROP TRIGGER IF EXISTS raising ON {table}")
    server.run(f"DROP SEQUENCE IF EXISTS {table}_n")
    server.run(f"CREATE SEQUENCE {table}_n")
    server.run(
        f"CREATE OR REPLACE FUNCTION {table}_f() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN"
        f" IF nextval('{table}_n') <= {times} THEN RAISE EXCEPTION 'raised' USING ERRCODE = '{state}'; END IF;"
        " RETURN COALESCE(NEW, OLD); END $$"
    )
    server.run(
        f"CREATE TRIGGER raising BEFORE INSERT OR UPDATE OR DELETE ON {table} FOR EACH ROW EXECUTE FUNCTION {table}_f()"
    )


AGAIN: Final = {"40001": "serialization failure", "40P01": "deadlock detected", "55P03": "lock not available"}
"""Nothing happened, and the next try may succeed."""


@pytest.mark.parametrize("state", AGAIN, ids=AGAIN.values())
def test_what_may_succeed_at_the_next_try_is_tried_again(postgres_server: Postgres, table: str, state: str) -> None:
    with closing(in_database(postgres_server.url(), table_name=table)) as backend:
        store = filled(backend)
        for name, act in ALL_OF_THEM.items():
            if name not in READS:
                raising(postgres_server, table, state, 2)
                act(store)
        assert store.list_run_ids() == ["new"]
        # By the backend itself: nobody need read back what surely did not happen.
        raising(postgres_server, table, state, 2)
        version = backend.put("b/run.json", b"1", FOUND)
        raising(postgres_server, table, state, 2)
        backend.put("b/run.json", b"2", unchanged(version))
        raising(postgres_server, table, state, 2)
        backend.delete("b/run.json")
        assert list(backend.list("b/")) == []


REFUSALS: Final = {
    "42501": (False, "not allowed"),
    "25006": (False, "read-only"),
    "53100": (False, "disk full"),
    "53300": (True, "too many connections"),
    "57P01": (True, "admin shutdown"),
    "40001": (True, "a serialization failure that does not end"),
    "XX001": (False, "data corrupted"),
}
"""What does not go away by itself, or only after a while; whether the same call may succeed later."""


@pytest.mark.parametrize("state", REFUSALS, ids=[words for _, words in REFUSALS.values()])
def test_what_the_server_refuses_is_an_error_that_says_so_and_changes_nothing(
    postgres_server: Postgres, table: str, state: str
) -> None:
    transient, _ = REFUSALS[state]
    with closing(in_database(postgres_server.url(), table_name=table, deadline=DEADLINE)) as backend:
        version = backend.put("r/run.json", b"old", FOUND)
        raising(postgres_server, table, state, 1_000_000)
        for act in (
            lambda: backend.put("r/run.json", b"new", ANY),
            lambda: backend.put("r/run.json", b"new", unchanged(version)),
            lambda: backend.put("r/new.json", b"new", FOUND),
            lambda: backend.delete("r/run.json"),
        ):
            with pytest.raises(BackendUnavailableError) as refused:
                act()
            assert refused.value.transient is transient, refused.value
            assert backend.place in str(refused.value)
            assert "r/" in str(refused.value)
            assert postgres_server.password not in str(refused.value)
            copy = pickle.loads(pickle.dumps(refused.value))
            assert (str(copy), copy.transient) == (str(refused.value), transient)
        assert backend.get("r/run.json").data == b"old"
        assert [entry.key for entry in backend.list("r/")] == ["r/run.json"]


def test_a_role_may_read_where_it_must_not_write(postgres_server: Postgres, table: str) -> None:
    user, password = postgres_server.new_role(default_transaction_read_only="on")
    with closing(in_database(postgres_server.url(), table_name=table)) as backend:
        filled(backend)
    reading = in_database(postgres_server.url(user=user, password=password), table_name=table, made=False)
    with closing(reading):
        store = Store(reading)
        assert store.get_run_log_by_id("r").steps["a"].message == "old"
        for name, act in ALL_OF_THEM.items():
            if name in READS:
                act(store)
            else:
                with pytest.raises(BackendUnavailableError, match="read-only") as refused:
                    act(store)
                assert not refused.value.transient
        assert again(store).get_run_log_by_id("r").steps["a"].message == "old"


def test_a_role_with_four_rights_on_the_table_and_no_other_can_do_all(postgres_server: Postgres, table: str) -> None:
    """As an administrator would set it up: the table is there, the role may not make any."""
    with closing(in_database(postgres_server.url(), table_name=table)) as backend:
        list(backend.folders())
    user, password = postgres_server.new_role(plain=True)
    with postgres_server.connect() as connection:
        connection.execute(f'GRANT SELECT, INSERT, UPDATE, DELETE ON "{table}" TO "{user}"')
        connection.execute(f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO "{user}"')
    url = postgres_server.url(user=user, password=password)
    with closing(in_database(url, table_name=table, made=False)) as backend:
        store = filled(backend)
        for name in sorted(ALL_OF_THEM, key=["delete a run"].__contains__):  # that one last
            ALL_OF_THEM[name](store)
        assert store.list_run_ids() == ["new"]


def test_more_processes_than_the_role_may_have_connections_all_write_in_the_end(
    postgres_server: Postgres, table: str
) -> None:
    with closing(in_database(postgres_server.url(), table_name=table)) as backend:
        filled(backend)
        user, password = postgres_server.new_role(plain=True)
        postgres_server.run(f'GRANT SELECT, INSERT, UPDATE, DELETE ON "{table}" TO "{user}"')
        postgres_server.run(f'GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO "{user}"')
        postgres_server.run(f'ALTER ROLE "{user}" CONNECTION LIMIT 3')
        url = postgres_server.url(user=user, password=password)
        at_once(set_or_try_again, [(url, table, me) for me in range(6)])
        assert set(Store(backend).get_parameters("r")) == {f"{me} {n}" for me in range(6) for n in range(10)}


def set_or_try_again(url: str, table: str, me: int) -> None:
    with closing(in_database(url, table_name=table, made=False, deadline=10.0)) as backend:
        store = Store(backend)
        sure(store.set_parameters, "r", {f"{me} {n}": n for n in range(10)})


def test_a_wrong_password_and_a_missing_database_are_said_without_the_password(postgres_server: Postgres) -> None:
    wrong = in_database(postgres_server.url(password="open sesame"), table_name="t", made=False, deadline=5.0)
    missing = in_database(postgres_server.url() + "_not_there", table_name="t", made=False, deadline=5.0)
    for backend, words in ((wrong, "password"), (missing, "not_there")):
        with closing(backend), pytest.raises(BackendUnavailableError, match=words) as refused:
            backend.put("r/run.json", b"x", FOUND)
        link: BaseException | None = refused.value
        while link is not None:
            assert "sesame" not in str(link)
            assert postgres_server.password not in str(link)
            link = link.__cause__ or link.__context__
        assert not refused.value.transient


def test_a_missing_table_is_said_with_the_next_step(postgres_server: Postgres, table: str) -> None:
    with closing(in_database(postgres_server.url(), table_name=table, made=False)) as backend:
        with pytest.raises(BackendUnavailableError, match="create_tables") as refused:
            Store(backend).create_run_log("r")
        assert not refused.value.transient
        assert table in str(refused.value)


def test_a_store_that_threads_share_while_its_server_disconnects_them_loses_nothing(
    postgres_server: Postgres, table: str
) -> None:
    user, password = postgres_server.new_role()
    with closing(in_database(postgres_server.url(user=user, password=password), table_name=table)) as backend:
        store, stop = filled(backend), threading.Event()

        def disconnect() -> None:
            while not stop.wait(0.01):
                postgres_server.terminate_backends(user)

        breaking = threading.Thread(target=disconnect)
        breaking.start()
        try:
            with ThreadPoolExecutor(8) as pool:
                each = [pool.submit(sure, store.set_parameters, "r", {f"p{n}": n}) for n in range(between(60, 600))]
                for one in each:
                    one.result(60)
        finally:
            stop.set()
            breaking.join()
        assert len(again(store).get_parameters("r")) == len(each)
