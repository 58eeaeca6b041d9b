"""The store machine with all that happens to stores in the world: other processes, wrong clocks, damage, faults, tiny caches."""

from __future__ import annotations

import copy
import json
import pickle
import random
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import ClassVar, Final, TypeVar, cast

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, multiple, rule
from pydantic import BaseModel

from chunkstore import (
    BackendUnavailableError,
    ChunkedRunLogStore,
    FormatError,
    RunLogExistsError,
    RunLogNotFoundError,
    StoreSettings,
    keys,
    packs,
)
from chunkstore.backends import ANY, FOUND, Backend
from chunkstore.errors import ObjectNotFoundError
from chunkstore.testing import Fault, FlakyBackend
from chunkstore.testing import store_machine as shipped
from chunkstore.testing.store_machine import (
    EDITS,
    LOST,
    NAMES,
    STORE,
    WHICH,
    Doubt,
    Edit,
    Held,
    Logged,
    Lost,
    Process,
    Put,
    StoreMachine,
    Tree,
    branches_of,
    new_job,
    new_run,
    picture,
    steps_of,
)
from whole_api_processes import NUMBERS, Away, Home, Peer, Skewed, opened

T = TypeVar("T")

Place = tuple[str, ...]
"""A chunk in the model: ("run",), ("job",), ("step", name), ("branch", name) or ("parameter", scope, name)."""

HOUR: Final = 3_600
FORKS: Final = 2
"""In one example: each takes some milliseconds."""
SETTINGS: Final = (
    StoreSettings(),
    StoreSettings(known_bytes=1, compress_above=0),
    StoreSettings(known_bytes=6_000, compress_above=40),
)
"""Of the three stores: as they are by default; all is forgotten at once and compressed; some of it is."""
RATES = st.sampled_from([0.0, 0.03, 0.15, 0.4])
FAULTS = st.lists(st.none() | st.sampled_from(list(Fault)), min_size=1, max_size=7)


HEADER: Final = ("tag", "dag_hash", "original_run_id", "status", "run_config")


class Script:
    """Faults to come: those that were ordered, then some at random."""

    def __init__(self, seed: int = 0, rate: float = 0.0) -> None:
        self.rest: list[Fault | None] = []
        self.rate = rate
        self.calm = False
        self._random = random.Random(seed)

    def __iter__(self) -> Iterator[Fault | None]:
        return self

    def __next__(self) -> Fault | None:
        if self.calm:
            return None
        if self.rest:
            return self.rest.pop(0)
        return self._random.choice(list(Fault)) if self._random.random() < self.rate else None


@dataclass
class Client(Process):
    """A process, its clock, what goes wrong for it, and whose creation it must be later than."""

    clock: Skewed | None = None
    script: Script | None = None
    failed: int = 0
    """How many faults it had met when a call failed last."""

    def __post_init__(self) -> None:
        self.later_than: dict[str, set[str]] = {}


def away(peer: Peer, number: int, *, alone: bool) -> ChunkedRunLogStore:
    """A store elsewhere, which is used like one here."""
    return cast(ChunkedRunLogStore, Away(peer, number, alone=alone))


class WholeApiMachine(StoreMachine):
    """Every rule of the shipped machine, and the world around; `whole_api` fills in the rest."""

    thrifty = True
    peer: ClassVar[Peer | None] = None
    """A process that was started afresh, for the stores of all examples that live elsewhere."""
    flaky: ClassVar[bool] = False
    counted: ClassVar[Counter[str]]

    def __init__(self) -> None:
        self.skews = [0] * shipped.STORES
        self.jumped = False
        self.forks = 0
        self.failures = 0
        self.weather = [(0, 0.0)] * shipped.STORES
        self.made_after: dict[tuple[str, str], frozenset[str]] = {}
        self.order: dict[str, dict[str, list[str]]] = {}
        self.handed_out: list[Held] = []
        super().__init__()

    # Other processes.

    @rule(number=STORE)
    def a_process_that_was_started_afresh_takes_over(self, number: int) -> None:
        if self.peer is None:
            return
        store = next(NUMBERS)
        self.peer.tell("open", store, self.backend, SETTINGS[number], self.skews[number])
        self.counted["processes started afresh"] += 1
        self._replace(number, Client(away(self.peer, store, alone=False), number > 0))

    @rule(target=StoreMachine.held, number=STORE, other=STORE)
    def a_child_is_forked_and_both_go_on(self, number: int, other: int) -> object:
        """The child knows all that its parent knew, and holds what it held."""
        process = self._client(self.processes[number])
        if number == other or isinstance(process.store, Away) or self.forks >= FORKS:
            return multiple()
        if self.flaky or not self.backend.guarantees.across_processes:  # nobody here could calm a child
            return multiple()
        self.forks += 1
        self.counted["forks"] += 1
        held = [one for one in self.handed_out[-5:] if one.store is process.store and self._is_alive(one)]
        numbers = [next(NUMBERS) for _ in held]
        kept: dict[int, BaseModel] = {number: one.thing for number, one in zip(numbers, held, strict=True)}
        peer = Peer("fork", {0: Home(process.store, process.clock or Skewed(), kept)})
        child = Client(away(peer, 0, alone=True), process.forgets, dict(process.saw))
        child.later_than = {run_id: set(names) for run_id, names in process.later_than.items()}
        self._replace(other, child)
        self.skews[other] = self.skews[number]
        return multiple(*(self._twin(child, number, one) for number, one in zip(numbers, held, strict=True)))

    @rule(number=STORE)
    def a_process_ends_and_another_begins(self, number: int) -> None:
        self._replace(number, self._new_process(number))

    @rule(number=STORE)
    def a_pickled_copy_goes_on(self, number: int) -> None:
        """Its host's clock is right: a clock does not travel."""
        before = self._client(self.processes[number])
        if not isinstance(before.store, Away):
            store = pickle.loads(pickle.dumps(before.store))
            script = store.backend._script if self.flaky else None
            self._replace(number, Client(store, before.forgets, {}, None, script))

    # Wrong clocks.

    @rule(
        target=StoreMachine.held,
        number=STORE,
        which=WHICH,
        seconds=st.sampled_from([-HOUR, -HOUR, HOUR, 0]),
        name=st.none() | NAMES,
        edit=EDITS,
    )
    def a_clock_jumps(self, number: int, which: int, seconds: int, name: str | None, edit: Edit) -> object:
        """Then its process may read a run and go on with it: what it makes comes after all that was there."""
        process = self._client(self.processes[number])
        self.jumped = True
        self.skews[number] = seconds
        self.counted["clock jumps"] += 1
        if isinstance(process.store, Away):
            process.store.skew(seconds)
        elif process.clock is not None:
            process.clock.seconds = seconds
        run_id = self._run(which)
        if name is None or self._read(process, run_id, ("run", "")) is LOST:
            return multiple()
        return self._add_step(process, run_id, 0, name, edit)

    # Faults.

    @initialize(seed=st.integers(0, 1 << 30), rates=st.tuples(RATES, RATES, RATES))
    def the_weather(self, seed: int, rates: tuple[float, float, float]) -> None:
        """How often calls of each process fail, all the time."""
        if self.flaky:
            self.weather = [(seed, rate) for rate in rates]
            for number in range(shipped.STORES):
                self._replace(number, self._new_process(number))

    @rule(number=STORE, faults=FAULTS)
    def faults_are_on_their_way(self, number: int, faults: list[Fault | None]) -> None:
        script = self._client(self.processes[number]).script
        if script is not None:
            script.rest += faults

    # Damage.

    @rule(number=STORE, which=WHICH, where=WHICH, at=WHICH, gone=st.booleans())
    def a_foreign_hand_damages_a_chunk_and_mends_it(
        self, number: int, which: int, where: int, at: int, gone: bool
    ) -> None:
        run_id = self._run(which)
        listed = sorted(entry.key for entry in self.backend.list(keys.prefix_of_run(run_id)))
        listed = [key for key in listed if not self._is_packed(run_id, key)]
        run = self.runs[run_id]
        parents = [keys.key_of(keys.step(run_id, name)) for name, step in steps_of(run) if step["branches"]]
        parents += [
            keys.key_of(keys.branch(run_id, name))
            for name, _ in branches_of(run)
            if has_children(run, ("branch", name))
        ]
        parents = [key for key in parents if key in listed]
        key = shipped.pick(parents if gone and parents else listed, where)
        data = self.backend.get(key).data
        damaged = data[: at % len(data)] + bytes([data[at % len(data)] ^ 1]) + data[at % len(data) + 1 :]
        if gone:
            self.backend.delete(key)
        else:
            self.backend.put(key, damaged, ANY)
        self.counted["chunks taken away" if gone else "chunks damaged"] += 1
        for process in (self._new_process(0), self.processes[number]):
            with self._calm(process):
                self._check_damage(process, run_id, key, place_of(data), gone)
        self.backend.put(key, data, FOUND if gone else ANY)
        self.touched.add(run_id)

    def _is_packed(self, run_id: str, key: str) -> bool:
        """Whether it is the pack, or a chunk that the pack would still show, as it was, were it taken away."""
        with suppress(ObjectNotFoundError):
            pack = packs.decode(self.backend.get(keys.pack(run_id)).data, keys.pack(run_id))
            return key == keys.pack(run_id) or (key in pack.members and not keys.stays_loose(key))
        return False

    def _check_damage(self, process: Process, run_id: str, key: str, lost: Place, gone: bool) -> None:
        """That chunk is reported and nothing else; all others are read."""
        self._may_have_seen_all(process, [run_id])
        if lost == ("run",) and gone:
            self._refused(process, RunLogNotFoundError, lambda: process.store.get_run_log_by_id(run_id))
            return
        reading = process.store.read_run_log(run_id)
        stored, found = flat(self.runs[run_id]), flat(picture(reading.run_log))
        assert [one.name for one in reading.findings if one.sort == "damaged"] == ([] if gone else [key])
        orphaned = {one.name for one in reading.findings if one.sort == "orphan"}
        placeholders = {
            place for place in found if place[0] in ("step", "branch") and place[1] in orphaned and place not in stored
        }
        if lost[0] in ("step", "branch"):
            placeholders |= {lost} & found.keys()
            if are_clear(self.runs[run_id]):
                missed = has_children(self.runs[run_id], lost) and not (gone and is_within(self.runs[run_id], lost))
                assert orphaned == ({lost[1]} if missed else set())
        assert orphaned == {place[1] for place in placeholders}
        expected = {place: value for place, value in stored.items() if place != lost}
        if lost == ("run",):
            expected[lost] = flat(new_run())[lost]
        assert {place: value for place, value in found.items() if place not in placeholders} == expected
        self._seen(
            process, run_id, {" ".join(place) for place in stored if place[0] in ("step", "branch")} - {" ".join(lost)}
        )
        if not gone:
            with pytest.raises(FormatError) as caught:
                process.store.get_run_log_by_id(run_id)
            assert caught.value.key == key

    # Every call, where something may go wrong.

    def _ask(self, process: Process, call: Callable[[], T]) -> T | Lost:
        try:
            return call()
        except BackendUnavailableError:
            self._went_wrong(process)
            self._may_have_seen_all(process, self.runs)
            return LOST

    def _refused(self, process: Process, error: type[Exception], call: Callable[[], object]) -> None:
        with pytest.raises((error, BackendUnavailableError)) as caught:
            call()
        if not issubclass(caught.type, error):
            self._went_wrong(process)
            self._may_have_seen_all(process, self.runs)

    def _write(
        self,
        process: Process,
        run_id: str,
        call: Callable[[], object],
        after: Tree,
        puts: Iterable[Put] = (),
        doubts: Iterable[Doubt] = (),
    ) -> bool:
        try:
            return super()._write(process, run_id, call, after, puts, doubts)
        except BackendUnavailableError:
            self._went_wrong(process)
        self._may_have_seen_all(process, [run_id])
        before = self.runs[run_id]
        self._resolve(process, run_id, before, after, doubts)
        for scope, name, value in parameters_in(after):
            process.may_have_seen(run_id, scope, name, value)
        if not self._is_repeated():
            return False
        with self._calm(process):
            return super()._write(process, run_id, call, after, puts, doubts)

    def _create(self, process: Process, run_id: str, call: Callable[[], object], after: Tree) -> bool:
        try:
            return super()._create(process, run_id, call, after)
        except BackendUnavailableError:
            self._went_wrong(process)
        for scope, name, value in parameters_in(after):
            process.may_have_seen(run_id, scope, name, value)
        self._resolve(process, run_id, None, after)
        if not self._is_repeated():
            return False
        try:
            with self._calm(process):
                call()
        except RunLogExistsError:  # the run is there by the first try, which nobody acknowledged
            assert self.runs[run_id] == after
            return False
        if run_id in self.runs:
            self._settle(process, run_id, after, [])
        else:
            self._began(run_id, after)
            self._made(process, run_id, self._names(after))
        return True

    def _delete(self, process: Process, run_id: str) -> None:
        """A call that was cut short left all, or a run that readers do not find and that the next call finishes."""
        script = self._client(process).script
        if self.flaky and script is not None:  # somewhere in its requests, of which it has one for each chunk
            script.rest = [None] * ((len(self.runs) + len(self.made_after)) % 6) + [Fault.REFUSED]
        try:
            super()._delete(process, run_id)
        except BackendUnavailableError:
            self._went_wrong(process)
        else:
            return
        self.touched.add(run_id)
        new = ChunkedRunLogStore(self.backend)
        try:
            new.get_run_log_by_id(run_id, full=False)
        except RunLogNotFoundError:
            with suppress(RunLogNotFoundError):
                new.delete_run_log(run_id)
            self._ended(run_id)

    def _resolve(
        self, process: Process, run_id: str, before: Tree | None, after: Tree, doubts: Iterable[Doubt] = ()
    ) -> None:
        """Each chunk is as it was or as it should be; a new process tells which, and no child is without its parents."""
        try:
            reading = ChunkedRunLogStore(self.backend).read_run_log(run_id)
        except RunLogNotFoundError:
            assert before is None
            return
        assert reading.findings == ()
        model = decided(before, after, flat(picture(reading.run_log)), doubts)
        if before is None:
            self._began(run_id, model)
        self.runs[run_id] = model
        self.touched.add(run_id)
        self._made(process, run_id, self._names(model) - self._names(before or new_run()))

    def _went_wrong(self, process: Process) -> None:
        """Only where we made it go wrong."""
        assert self.flaky
        backend = process.store.backend
        assert isinstance(backend, FlakyBackend)
        assert backend.faults[self._client(process).failed :], "nothing went wrong, and yet it failed"
        self._client(process).failed = len(backend.faults)
        self.failures += 1
        self.counted["calls that failed"] += 1

    def _is_repeated(self) -> bool:
        """Every other failed call is, undisturbed."""
        self.counted["failed calls repeated"] += self.failures % 2
        return self.failures % 2 == 1

    # Clocks and order.

    def _made(self, process: Process, run_id: str, names: Iterable[str]) -> None:
        earlier = self._client(process).later_than.setdefault(run_id, set())
        for name in names:
            self.made_after[run_id, name] = frozenset(earlier)
        earlier.update(names)

    def _seen(self, process: Process, run_id: str, names: Iterable[str]) -> None:
        earlier = self._client(process).later_than.setdefault(run_id, set())
        for name in names:
            earlier |= {name} | self.made_after.get((run_id, name), frozenset())

    def _check_order(self, run_id: str, found: Tree) -> None:
        """What was there keeps its order; and nobody's creation stands before what he had seen."""
        if not self.jumped:
            super()._check_order(run_id, found)
        now, before = siblings(found), self.order.get(run_id, {})
        for holder, names in now.items():
            old = before.get(holder, [])
            assert [name for name in names if name in set(old)] == old
            for place, name in enumerate(names):
                assert not self.made_after.get((run_id, name), frozenset()) & set(names[place + 1 :])
        self.order[run_id] = now

    def _check_found(self, wanted: list[str], found: list[str], limit: int | None) -> None:
        if not self.jumped:
            super()._check_found(wanted, found, limit)
        assert set(found) <= set(wanted)
        assert len(found) == len(set(found)) == min(len(wanted), len(wanted) if limit is None else limit)

    def _ended(self, run_id: str) -> None:
        super()._ended(run_id)
        self.order.pop(run_id, None)
        for process in self.processes:
            self._client(process).later_than.pop(run_id, None)
        self.made_after = {place: names for place, names in self.made_after.items() if place[0] != run_id}

    # Inside.

    @invariant()
    def a_new_process_reads_what_is_in_the_model(self) -> None:
        self.counted["steps"] += 1
        super().a_new_process_reads_what_is_in_the_model()

    def teardown(self) -> None:
        for process in self.processes:
            self._count_faults(process)
        try:
            super().teardown()
        finally:
            for process in self.processes:
                if isinstance(process.store, Away):
                    process.store.drop()

    def _new_process(self, number: int) -> Client:
        clock, script = Skewed(self.skews[number]), Script(*self.weather[number])
        backend: Backend = FlakyBackend(self.backend, script) if self.flaky else self.backend
        return Client(opened(backend, SETTINGS[number], clock), number > 0, {}, clock, script)

    def _count_faults(self, process: Process) -> None:
        if not isinstance(process.store, Away) and isinstance(process.store.backend, FlakyBackend):
            self.counted["faults"] += len(process.store.backend.faults)

    def _replace(self, number: int, process: Client) -> None:
        before = self.processes[number]
        self._count_faults(before)
        if isinstance(before.store, Away):
            before.store.drop()
        else:
            before.store.close()
        self.processes[number] = process

    def _held(self, process: Process, run_id: str, thing: Logged) -> Held:
        held = super()._held(process, run_id, thing)
        self.handed_out.append(held)
        return held

    def _twin(self, child: Client, number: int, held: Held) -> Held:
        """What we hold of an object that a forked child holds."""
        thing = copy.deepcopy(held.thing)
        cast(Away, child.store).holds(number, thing)
        fields, parameters = dict(held.fields), dict(held.parameters)
        return Held(child.store, held.run_id, held.life, thing, fields, parameters, [*held.tried])

    def _may_have_seen_all(self, process: Process, run_ids: Iterable[str]) -> None:
        """Or forgotten."""
        for run_id in run_ids:
            for scope, name, value in parameters_in(self.runs[run_id]):
                process.may_have_seen(run_id, scope, name, value)
                process.may_have_seen(run_id, scope, name, None)

    @contextmanager
    def _calm(self, process: Process) -> Iterator[None]:
        """Nothing goes wrong for the process within the block."""
        script = self._client(process).script or Script()
        script.calm = True
        try:
            yield
        finally:
            script.calm = False

    @staticmethod
    def _client(process: Process) -> Client:
        assert isinstance(process, Client)
        return process


# The model as chunks.


def flat(run: Tree) -> dict[Place, object]:
    """What each chunk of the run holds."""
    chunks: dict[Place, object] = {("run",): {name: run[name] for name in HEADER}}
    if run["job"] is not None:
        chunks["job",] = run["job"]
    chunks |= {("step", name): {field: step[field] for field in ("name", *new_job())} for name, step in steps_of(run)}
    chunks |= {("branch", name): branch["status"] for name, branch in branches_of(run)}
    return chunks | {("parameter", scope, name): value for scope, name, value in parameters_in(run)}


def parameters_in(run: Tree) -> list[tuple[str, str, str]]:
    """(scope, name, value) of all parameters."""
    scopes = [("", run), *branches_of(run)]
    return [(scope, name, value) for scope, holder in scopes for name, value in holder["parameters"].items()]


def decided(before: Tree | None, after: Tree, found: dict[Place, object], doubts: Iterable[Doubt] = ()) -> Tree:
    """The run after a call that failed: the chunks that were found, in their places in `after`."""
    old, new = {} if before is None else flat(before), flat(after)
    assert found.keys() <= old.keys() | new.keys()
    possible = {place: [old.get(place), new.get(place)] for place in old.keys() | new.keys()}
    for sort, name, field in doubts:
        values = possible[(sort, name) if name else (sort,)]
        was = values[0]
        values += [{**one, field: was[field]} for one in values if isinstance(one, dict) and isinstance(was, dict)]
    for place, values in possible.items():
        assert found.get(place) in values, place
    header = cast(Tree, found["run",])
    job = found.get(("job",))
    return {**new_run(), **header, "job": job, **_decided(after, "", found)}


def _decided(holder: Tree, scope: str, found: dict[Place, object]) -> Tree:
    parameters = {
        name: found["parameter", scope, name] for name in holder["parameters"] if ("parameter", scope, name) in found
    }
    steps: Tree = {}
    for name, step in holder["steps"].items():
        if ("step", name) in found:
            branches = {
                inner: {"status": found["branch", inner], **_decided(branch, inner, found)}
                for inner, branch in step["branches"].items()
                if ("branch", inner) in found
            }
            steps[name] = {**cast(Tree, found["step", name]), "branches": branches}
    return {"parameters": parameters, "steps": steps}


def siblings(run: Tree) -> dict[str, list[str]]:
    """The names of what stands side by side, in order, by what holds it."""
    holders = [("", run), *branches_of(run)]
    steps = {f"branch {holder}": [f"step {name}" for name in one["steps"]] for holder, one in holders}
    return steps | {f"step {holder}": [f"branch {name}" for name in step["branches"]] for holder, step in steps_of(run)}


def are_clear(run: Tree) -> bool:
    """Whether no name has a dot of its own, so that a missing chunk's name can be told from its children's."""
    values = [name.removeprefix(f"{holder}.") for holder, step in steps_of(run) for name in step["branches"]]
    return not any("." in name for name in [*values, *(step["name"] for _, step in steps_of(run))])


def has_children(run: Tree, place: Place) -> bool:
    """Whether chunks are below this one."""
    if place[0] == "step":
        return bool(dict(steps_of(run))[place[1]]["branches"])
    branch = dict(branches_of(run))[place[1]]
    return bool(branch["steps"] or branch["parameters"])


def is_within(run: Tree, place: Place) -> bool:
    """Whether it is a step in a branch: without it, its branches look like those of the step further out, of values with dots."""
    return place[0] == "step" and place[1] not in run["steps"]


def place_of(data: bytes) -> Place:
    """Which chunk these bytes are, by their first line."""
    facts = json.loads(data.partition(b"\n")[0].removesuffix(b",") + b"}")["_chunkstore"]
    if facts["kind"] == "parameter":
        return ("parameter", facts.get("scope", ""), facts["name"])
    return (facts["kind"], facts["name"]) if "name" in facts else (facts["kind"],)


def whole_api(
    new_backend: Callable[[], Backend],
    *,
    remove: Callable[[Backend], object] = lambda backend: None,
    process: Peer | None = None,
    faults: bool = False,
    anew: bool = False,
) -> type[WholeApiMachine]:
    """The machine on backends that `new_backend` gives; counts in its `counted`."""

    class Machine(WholeApiMachine):
        peer = process
        flaky = faults
        ids_come_again = anew
        counted: ClassVar[Counter[str]] = Counter()

        def make(self) -> Backend:
            return new_backend()

        def clean_up(self) -> None:
            remove(self.backend)

    return Machine
