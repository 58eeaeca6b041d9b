"""No call that changes a run takes away what another writer was promised: each call raced against itself, and all against all.

Which calls change something is found out by introspection and by counting puts, so a new one without a race fails here.
"""

from __future__ import annotations

import inspect
import multiprocessing
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import pytest

from chunkstore import (
    BranchLog,
    ChunkedRunLogStore,
    CodeIdentity,
    DataCatalog,
    JobLog,
    RunLog,
    RunLogExistsError,
    RunLogNotFoundError,
    StepAttempt,
    StepLog,
)
from chunkstore.testing import CountingBackend
from places import again, at_once, between, memory, place
from rigs import Tally

WRITERS: Final = 4
PLACES: Final = ("memory", "local", "minio", "sqlite", "postgres")
GIVEN: Final = {"first": 1, "shared": "first", **{f"own {me}": -1 for me in range(WRITERS)}}
"""The parameters of the run and of its branch at the start; each writer changes its own and hands back all."""


@dataclass(frozen=True)
class Race:
    """What each writer does to the run of the race's name, and what must stand there afterwards."""

    call: str
    act: Callable[[ChunkedRunLogStore, str, int, int], Any]
    kept: Callable[[ChunkedRunLogStore, str, int, list[Any]], None]


def prepared(store: ChunkedRunLogStore, run_id: str) -> None:
    """A run with one of everything."""
    store.create_run_log(run_id, tag="first", run_config={"first": 1})
    store.set_parameters(run_id, GIVEN)
    store.add_step_log(StepLog(name="a", internal_name="a", attempts=[StepAttempt(message="first")]), run_id)
    store.add_step_log(StepLog(name="m", internal_name="m", step_type="map"), run_id)
    store.add_branch_log(store.create_branch_log("m.x", GIVEN), run_id)
    store.add_job_log(run_id, JobLog(message="first", attempts=[StepAttempt(message="first")]))


def mine(me: int, count: int) -> set[str]:
    """The names that only this writer writes."""
    return {f"{me} {number}" for number in range(count)}


def everyones(count: int) -> set[str]:
    return {name for me in range(WRITERS) for name in mine(me, count)}


def extra(log: Any) -> dict[str, Any]:
    return log.model_extra or {}


def appended(attempts: list[StepAttempt]) -> list[str]:
    """The messages, sorted: each writer's in the order in which it appended them is asserted too."""
    messages = [attempt.message for attempt in attempts]
    for me in range(WRITERS):
        own = [message for message in messages if message.startswith(f"{me} ")]
        assert own == sorted(own, key=lambda message: int(message.split()[1]))
    return sorted(messages)


def complete(items: list[str], count: int) -> bool:
    return items == sorted(["first", *everyones(count)])


# add_step_log


def grow_step(step: StepLog, name: str, number: int) -> None:
    """A change in every part of it."""
    step.attempts.append(StepAttempt(attempt_number=number, message=name))
    step.code_identities.append(CodeIdentity(code_identifier=name))
    step.data_catalog.append(DataCatalog(name=name, data_hash=name))
    step.user_defined_metrics[name] = number
    setattr(step, f"field {name}", number)


def step_held(store: ChunkedRunLogStore, run_id: str, me: int, count: int) -> None:
    """One object, read once, never refreshed."""
    step = store.get_step_log("a", run_id)
    for number in range(count):
        grow_step(step, f"{me} {number}", number)
        store.add_step_log(step, run_id)


def step_read_anew(store: ChunkedRunLogStore, run_id: str, me: int, count: int) -> None:
    for number in range(count):
        step = store.get_step_log("a", run_id)
        grow_step(step, f"{me} {number}", number)
        store.add_step_log(step, run_id)


def step_kept(store: ChunkedRunLogStore, run_id: str, count: int, _: list[Any]) -> None:
    whole(store.get_step_log("a", run_id), count)


def whole(step: StepLog, count: int) -> None:
    assert complete(appended(step.attempts), count)
    names = everyones(count)
    assert sorted(one.code_identifier or "" for one in step.code_identities) == sorted(names)
    assert sorted(one.name for one in step.data_catalog) == sorted(names)
    assert all(one.name == one.data_hash for one in step.data_catalog)
    assert set(step.user_defined_metrics) == names
    assert set(extra(step)) == {f"field {name}" for name in names}


def step_created(store: ChunkedRunLogStore, run_id: str, me: int, count: int) -> None:
    """All store the same new steps first: one creates it, the others are merged into it."""
    for number in range(count):
        step = StepLog(name=f"new {number}", internal_name=f"new {number}")
        setattr(step, f"field {me}", me)
        step.attempts.append(StepAttempt(message=f"{me}"))
        store.add_step_log(step, run_id)


def step_created_kept(store: ChunkedRunLogStore, run_id: str, count: int, _: list[Any]) -> None:
    for number in range(count):
        step = store.get_step_log(f"new {number}", run_id)
        assert extra(step) == {f"field {me}": me for me in range(WRITERS)}
        assert sorted(attempt.message for attempt in step.attempts) == [f"{me}" for me in range(WRITERS)]


# add_branch_log


def branch_held(store: ChunkedRunLogStore, run_id: str, me: int, count: int) -> None:
    """With steps and parameters in it."""
    branch = store.get_run_log_by_id(run_id).steps["m"].branches["m.x"]
    for number in range(count):
        name = f"{me} {number}"
        setattr(branch, f"field {name}", number)
        branch.parameters[name] = number
        branch.steps[f"m.x.{name}"] = StepLog(name=name, internal_name=f"m.x.{name}")
        store.add_branch_log(branch, run_id)


def branch_kept(store: ChunkedRunLogStore, run_id: str, count: int, _: list[Any]) -> None:
    branch = store.get_run_log_by_id(run_id).steps["m"].branches["m.x"]
    names = everyones(count)
    assert set(extra(branch)) == {f"field {name}" for name in names}
    assert set(branch.parameters) == {*GIVEN, *names}
    assert set(branch.steps) == {f"m.x.{name}" for name in names}


# set_parameters


def parameters_handed_back(store: ChunkedRunLogStore, run_id: str, me: int, count: int) -> None:
    """All that was read once, with changes, for the run and for a branch; what the store has read since does not count."""
    for scope in ("", "m.x"):
        parameters = store.get_parameters(run_id, scope)
        for number in range(count):
            parameters[f"own {me}"] = number
            parameters[f"{me} {number}"] = number
            parameters["shared"] = f"{me} {number}"
            store.get_parameters(run_id, scope)
            store.set_parameters(run_id, parameters, scope)


def parameters_kept(store: ChunkedRunLogStore, run_id: str, count: int, _: list[Any]) -> None:
    for scope in ("", "m.x"):
        found = store.get_parameters(run_id, scope)
        assert found.pop("shared") in {f"{me} {count - 1}" for me in range(WRITERS)}
        assert found.pop("first") == 1
        assert [found.pop(f"own {me}") for me in range(WRITERS)] == [count - 1] * WRITERS
        assert set(found) == everyones(count)


def parameters_flat(store: ChunkedRunLogStore, run_id: str, me: int, count: int) -> None:
    """Many at once in a plain mapping; each writer has also something to say of everybody's."""
    for number in range(count):
        own = {f"{me} {number} {part}": number for part in range(3)}
        store.set_parameters(run_id, {**own, "shared": f"{me} {number}"})


def parameters_flat_kept(store: ChunkedRunLogStore, run_id: str, count: int, _: list[Any]) -> None:
    found = store.get_parameters(run_id)
    assert found["shared"] in {f"{me} {count - 1}" for me in range(WRITERS)}
    assert set(found) == {*GIVEN, *(f"{name} {part}" for name in everyones(count) for part in range(3))}


# set_run_config, update_run_log_status, add_job_log


def config(store: ChunkedRunLogStore, run_id: str, me: int, count: int) -> None:
    for number in range(count):
        store.set_run_config(run_id, {f"{me} {number}": number, f"own {me}": number})


def config_kept(store: ChunkedRunLogStore, run_id: str, count: int, _: list[Any]) -> None:
    found = store.get_run_config(run_id)
    assert [found.pop(f"own {me}") for me in range(WRITERS)] == [count - 1] * WRITERS
    assert set(found) == {"first", *everyones(count)}


def status(store: ChunkedRunLogStore, run_id: str, me: int, count: int) -> None:
    """Half of them set it; the others change what stands beside it."""
    for number in range(count):
        if me % 2:
            store.update_run_log_status(run_id, f"S{me}-{number}")
        else:
            store.set_run_config(run_id, {f"{me} {number}": number})


def status_kept(store: ChunkedRunLogStore, run_id: str, count: int, _: list[Any]) -> None:
    found = store.get_run_log_by_id(run_id, full=False)
    assert found.status in {f"S{me}-{count - 1}" for me in (1, 3)}
    assert set(found.run_config) == {"first", *mine(0, count), *mine(2, count)}
    assert found.tag == "first"


def job(store: ChunkedRunLogStore, run_id: str, me: int, count: int) -> None:
    held = store.get_job_log(run_id)
    for number in range(count):
        held.attempts.append(StepAttempt(attempt_number=number, message=f"{me} {number}"))
        held.data_catalog.append(DataCatalog(name=f"{me} {number}"))
        setattr(held, f"field {me}", number)
        held.status = f"S{me}-{number}"
        store.add_job_log(run_id, held)


def job_kept(store: ChunkedRunLogStore, run_id: str, count: int, _: list[Any]) -> None:
    found = store.get_job_log(run_id)
    assert complete(appended(found.attempts), count)
    assert sorted(one.name for one in found.data_catalog) == sorted(everyones(count))
    assert extra(found) == {f"field {me}": count - 1 for me in range(WRITERS)}
    assert found.status in {f"S{me}-{count - 1}" for me in range(WRITERS)}
    assert store.get_run_log_by_id(run_id, full=False).status in {f"S{me}-{count - 1}" for me in range(WRITERS)}


# put_run_log


def whole_run_held(store: ChunkedRunLogStore, run_id: str, me: int, count: int) -> None:
    """Each puts back the whole run, read once: ever more stale, with changes in every part."""
    held = store.get_run_log_by_id(run_id)
    assert held.job is not None
    for number in range(count):
        name = f"{me} {number}"
        setattr(held, f"field {name}", number)
        held.run_config[name] = number
        held.parameters[name] = number
        grow_step(held.steps["a"], name, number)
        held.job.attempts.append(StepAttempt(message=name))
        held.steps[name] = StepLog(name=name, internal_name=name)
        branch = held.steps["m"].branches["m.x"]
        branch.parameters[name] = number
        branch.steps[f"m.x.{name}"] = StepLog(name=name, internal_name=f"m.x.{name}")
        store.put_run_log(held)


def whole_run_kept(store: ChunkedRunLogStore, run_id: str, count: int, _: list[Any]) -> None:
    found, names = store.get_run_log_by_id(run_id), everyones(count)
    assert set(extra(found)) == {f"field {name}" for name in names}
    assert set(found.run_config) == {"first", *names}
    assert set(found.parameters) == {*GIVEN, *names}
    whole(found.steps["a"], count)
    assert found.job is not None
    assert complete(appended(found.job.attempts), count)
    assert set(found.steps) == {"a", "m", *names}
    branch = found.steps["m"].branches["m.x"]
    assert set(branch.parameters) == {*GIVEN, *names}
    assert set(branch.steps) == {f"m.x.{name}" for name in names}


def stale_against_all(store: ChunkedRunLogStore, run_id: str, me: int, count: int) -> None:
    """One puts back what it read long ago, the others use every other call meanwhile."""
    if me == 0:
        held = store.get_run_log_by_id(run_id)
        for number in range(count):
            held.tag = f"stale {number}"
            held.parameters["stale"] = number
            store.put_run_log(held)
    else:
        for act in (step_held, branch_held, parameters_handed_back, config, job):
            act(store, run_id, me, count)


def stale_against_all_kept(store: ChunkedRunLogStore, run_id: str, count: int, _: list[Any]) -> None:
    found = store.get_run_log_by_id(run_id)
    names = {name for me in range(1, WRITERS) for name in mine(me, count)}
    owns = {f"own {me}" for me in range(1, WRITERS)}
    assert (found.tag, found.parameters["stale"]) == (f"stale {count - 1}", count - 1)
    assert set(found.parameters) == {*GIVEN, "stale", *names}
    assert set(found.run_config) == {"first", *owns, *names}
    assert found.job is not None
    assert appended(found.job.attempts) == appended(found.steps["a"].attempts) == sorted(["first", *names])
    assert found.status in {f"S{me}-{count - 1}" for me in range(1, WRITERS)}
    branch = found.steps["m"].branches["m.x"]
    assert set(branch.steps) == {f"m.x.{name}" for name in names}
    assert set(branch.parameters) == {*GIVEN, *names}


def run_log_as_branch(store: ChunkedRunLogStore, run_id: str, me: int, count: int) -> None:
    """As magnus stores the outermost branch: the run log without its steps."""
    held = store.get_branch_log("", run_id)
    for number in range(count):
        setattr(held, f"field {me} {number}", number)
        store.add_branch_log(held, run_id)


def run_log_as_branch_kept(store: ChunkedRunLogStore, run_id: str, count: int, _: list[Any]) -> None:
    found = store.get_run_log_by_id(run_id)
    assert set(extra(found)) == {f"field {name}" for name in everyones(count)}
    assert set(found.steps) == {"a", "m"}


# compact


def packing(store: ChunkedRunLogStore, run_id: str, me: int, count: int) -> None:
    """All change one step and make the same new ones, in turn held and by a process that knows the run alone; all pack."""
    store.update_run_log_status(run_id, "SUCCESS")
    held, late = store.get_step_log("a", run_id), again(store)
    late.get_run_config(run_id)
    for number in range(count):
        name = f"{me} {number}"
        grow_step(held, name, number)
        store.add_step_log(held, run_id)
        step = StepLog(name=f"new {number}", internal_name=f"new {number}", attempts=[StepAttempt(message=f"{me}")])
        setattr(step, f"field {me}", me)
        (late if number % 2 else store).add_step_log(step, run_id)
        store.add_step_log(StepLog(name=name, internal_name=f"m.x.{name}"), run_id)
        if number % WRITERS == me:
            store.compact(run_id)


def packing_kept(store: ChunkedRunLogStore, run_id: str, count: int, _: list[Any]) -> None:
    for _round in range(2):
        found = store.get_run_log_by_id(run_id)
        whole(found.steps["a"], count)
        for number in range(count):
            step = found.steps[f"new {number}"]
            assert extra(step) == {f"field {me}": me for me in range(WRITERS)}
            assert sorted(attempt.message for attempt in step.attempts) == [f"{me}" for me in range(WRITERS)]
        assert set(found.steps["m"].branches["m.x"].steps) == {f"m.x.{name}" for name in everyones(count)}
        store.compact(run_id)
        assert again(store).get_step_log("a", run_id) == found.steps["a"]
        step_created_kept(again(store), run_id, count, [])


# create_run_log, delete_run_log


def create(store: ChunkedRunLogStore, run_id: str, me: int, count: int) -> list[int]:
    """The winner writes on at once; the losers too, as into any run."""
    won = []
    for number in range(count):
        try:
            store.create_run_log(f"{run_id} {number}", tag=f"{me}")
            won.append(number)
        except RunLogExistsError:
            store.set_run_config(f"{run_id} {number}", {f"lost by {me}": me})
    return won


def create_kept(store: ChunkedRunLogStore, run_id: str, count: int, won: list[Any]) -> None:
    for number in range(count):
        winner, *others = [me for me in range(WRITERS) if number in won[me]]
        assert not others
        found = store.get_run_log_by_id(f"{run_id} {number}")
        assert found.tag == f"{winner}"
        assert found.run_config == {f"lost by {me}": me for me in range(WRITERS) if me != winner}


def delete(store: ChunkedRunLogStore, run_id: str, me: int, count: int) -> list[int]:
    """All delete the same runs. Each has a neighbour whose id begins alike, which one of them writes at that moment."""
    deleted = []
    for number in range(count):
        doomed = f"{run_id} {number}"
        try:
            store.create_run_log(doomed)
            store.set_parameters(doomed, {f"{part}": part for part in range(5)})
        except (RunLogExistsError, RunLogNotFoundError):  # another was faster, one way or the other
            pass
        store.create_run_log(f"{doomed}0 {me}")
        store.set_parameters(f"{doomed}0 {me}", {"x": number})
        try:
            store.delete_run_log(doomed)
            deleted.append(number)
        except RunLogNotFoundError:
            continue
    return deleted


def delete_kept(store: ChunkedRunLogStore, run_id: str, count: int, deleted: list[Any]) -> None:
    assert {number for one in deleted for number in one} == set(range(count))
    assert store.get_run_logs([f"{run_id} {number}" for number in range(count)]) == []
    for number in range(count):
        for me in range(WRITERS):
            assert store.get_parameters(f"{run_id} {number}0 {me}") == {"x": number}


RACES: Final[Mapping[str, Race]] = {
    "a step in hand": Race("add_step_log", step_held, step_kept),
    "a step read anew": Race("add_step_log", step_read_anew, step_kept),
    "a new step": Race("add_step_log", step_created, step_created_kept),
    "a branch in hand": Race("add_branch_log", branch_held, branch_kept),
    "a run log as a branch": Race("add_branch_log", run_log_as_branch, run_log_as_branch_kept),
    "parameters handed back": Race("set_parameters", parameters_handed_back, parameters_kept),
    "parameters by hand": Race("set_parameters", parameters_flat, parameters_flat_kept),
    "the configuration": Race("set_run_config", config, config_kept),
    "the status": Race("update_run_log_status", status, status_kept),
    "the job": Race("add_job_log", job, job_kept),
    "whole runs in hand": Race("put_run_log", whole_run_held, whole_run_kept),
    "a stale run log against all": Race("put_run_log", stale_against_all, stale_against_all_kept),
    "packing": Race("compact", packing, packing_kept),
    "creating": Race("create_run_log", create, create_kept),
    "deleting": Race("delete_run_log", delete, delete_kept),
}


def run_races(store: ChunkedRunLogStore, me: int, count: int, gate: Any) -> dict[str, tuple[bool, Any]]:
    """All races one after the other in the same processes, which all begin each at the same time."""
    results: dict[str, tuple[bool, Any]] = {}
    for name, race in RACES.items():
        gate.wait(120)
        try:
            results[name] = True, race.act(store, name, me, count)
        except Exception:  # noqa: BLE001  the other races go on; the test of this one fails with it
            results[name] = False, traceback.format_exc()
    return results


@dataclass(frozen=True)
class Raced:
    """A place after all races."""

    place: str
    store: ChunkedRunLogStore
    count: int
    results: list[dict[str, tuple[bool, Any]]]


@pytest.fixture(scope="module", params=PLACES)
def raced(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Raced]:
    name = request.param
    store = ChunkedRunLogStore(place(name, request, tmp_path_factory.mktemp("raced")))
    count = between(8, 60) if name in {"memory", "local"} else between(4, 25)
    for race in RACES:
        prepared(store, race)
    if store.backend.guarantees.across_processes:
        gate = multiprocessing.get_context("fork").Barrier(WRITERS)
        results = at_once(run_races, [(store, me, count, gate) for me in range(WRITERS)])
    else:
        threads = threading.Barrier(WRITERS)
        with ThreadPoolExecutor(WRITERS) as pool:
            results = list(pool.map(lambda me: run_races(again(store), me, count, threads), range(WRITERS)))
    yield Raced(name, store, count, results)
    store.close()


@pytest.mark.parametrize("name", RACES)
def test_every_writer_keeps_what_it_wrote(raced: Raced, name: str, tally: Tally) -> None:
    failures = [result for done, result in (one[name] for one in raced.results) if not done]
    assert not failures, "\n".join(failures)
    returned = [one[name][1] for one in raced.results]
    RACES[name].kept(again(raced.store), name, raced.count, returned)
    RACES[name].kept(raced.store, name, raced.count, returned)  # this one knows how it was before
    where = {"local": "local disk"}.get(raced.place, raced.place)
    tally(f"racing writes, {where}", WRITERS * raced.count)


# That no call is missing.

ARGUMENTS: Final[Mapping[str, tuple[Any, ...]]] = {
    "get_summary": (),
    "close": (),
    "get_run_log_by_id": ("r",),
    "read_run_log": ("r",),
    "follow": ("r",),
    "iter_chunks": ("r",),
    "get_run_logs": (),
    "list_run_ids": (),
    "iter_run_ids": (),
    "iter_run_logs": (),
    "find_runs": (),
    "get_run_config": ("r",),
    "get_parameters": ("r",),
    "get_parameter": ("r", "first"),
    "create_step_log": ("new", "new"),
    "get_step_log": ("a", "r"),
    "create_branch_log": ("m.y", {"p": 1}),
    "get_branch_log": ("m.x", "r"),
    "create_job_log": (),
    "get_job_log": ("r",),
    "create_attempt_log": (),
    "create_code_identity": (),
    "create_data_catalog": ("c",),
}
"""The calls that change nothing, and how to make them."""

INDEXING: Final = {"reindex"}
"""Changes no run; it is raced in `test_index_interleavings` and `test_index_kills`."""
LEASING: Final = {"lease", "fenced"}
"""Raced in `test_leases` and `test_lease_faults`."""


def public_calls() -> set[str]:
    return {name for name, _ in inspect.getmembers(ChunkedRunLogStore, callable) if not name.startswith("_")}


def test_every_call_either_is_raced_or_changes_nothing() -> None:
    assert public_calls() == {race.call for race in RACES.values()} | set(ARGUMENTS) | INDEXING | LEASING


@pytest.mark.parametrize("call", ARGUMENTS)
@pytest.mark.parametrize("knowing", [True, False], ids=["known", "not known"])
def test_a_call_that_is_not_raced_changes_nothing(call: str, knowing: bool) -> None:
    backend = CountingBackend(memory())
    store = ChunkedRunLogStore(backend)
    prepared(store, "r")
    before = {entry.key: backend.get(entry.key) for entry in backend.list("r/")}
    backend.reset()
    called = getattr(store if knowing else again(store), call)(*ARGUMENTS[call])
    if isinstance(called, Iterator):
        next(called)
    assert not {"put", "delete"} & set(backend.by_verb)
    assert {entry.key: backend.get(entry.key) for entry in backend.list("")} == before


# Without any luck: two writers in turns.


def two(run_id: str = "r") -> tuple[ChunkedRunLogStore, ChunkedRunLogStore]:
    store = ChunkedRunLogStore(memory())
    prepared(store, run_id)
    return store, again(store)


def test_an_attempt_that_its_writer_finishes_is_the_one_that_is_finished() -> None:
    one, other = two()
    ours, theirs = one.get_step_log("a", "r"), other.get_step_log("a", "r")
    ours.attempts.append(StepAttempt(message="ours"))
    theirs.attempts.append(StepAttempt(message="theirs"))
    one.add_step_log(ours, "r")
    other.add_step_log(theirs, "r")
    theirs.attempts[-1].status = "SUCCESS"
    other.add_step_log(theirs, "r")
    found = again(one).get_step_log("a", "r").attempts
    assert [(attempt.message, attempt.status) for attempt in found] == [
        ("first", "CREATED"),
        ("ours", "CREATED"),
        ("theirs", "SUCCESS"),
    ]


def test_a_parameter_that_is_changed_and_changed_back_is_changed_back() -> None:
    store, other = two()
    parameters = store.get_parameters("r")
    for value in (2, 1):
        parameters["first"] = value
        store.set_parameters("r", parameters)
    assert other.get_parameter("r", "first") == 1


def test_a_parameter_of_a_run_log_that_is_changed_and_changed_back_is_changed_back() -> None:
    store, other = two()
    run_log = store.get_run_log_by_id("r")
    for value in (2, 1):
        run_log.parameters["first"] = value
        store.put_run_log(run_log)
    assert other.get_parameter("r", "first") == 1


@pytest.mark.parametrize("full", [True, False])
def test_a_run_log_read_long_ago_and_put_back_unchanged_changes_nothing(full: bool) -> None:
    store, other = two()
    old: RunLog = store.get_run_log_by_id("r", full=full)
    for act in (step_held, branch_held, parameters_handed_back, config, job, whole_run_held):
        act(other, "r", 0, 2)
    other.update_run_log_status("r", "SUCCESS")
    now = again(other).get_run_log_by_id("r")
    store.put_run_log(old)
    assert again(other).get_run_log_by_id("r") == now
    store.get_run_log_by_id("r")  # the store knows the new state; the object in hand still is the old one
    store.put_run_log(old)
    assert again(other).get_run_log_by_id("r") == now


def test_a_branch_made_by_hand_takes_no_steps_and_no_parameters_away() -> None:
    store, other = two()
    branch_held(other, "r", 0, 2)
    store.add_branch_log(BranchLog(internal_name="m.x", status="SUCCESS"), "r")
    branch = again(store).get_run_log_by_id("r").steps["m"].branches["m.x"]
    assert set(branch.parameters) == {*GIVEN, *mine(0, 2)}
    assert set(branch.steps) == {f"m.x.{name}" for name in mine(0, 2)}
    assert set(extra(branch)) == {f"field {name}" for name in mine(0, 2)}
