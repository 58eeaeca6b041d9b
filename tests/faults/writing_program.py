"""The store's ways to write on a local disk, as a program of its own: one warmed process that forks a writer per command.

A writer prepares the place, says that it is ready, and waits for a signal; so whoever traces it sees nothing but the
store's own system calls, in the same order each time. What it was told (acknowledged, or an error) it appends to a
report outside the store, a whole line at a time, so that a kill takes nothing back.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from chunkstore import BranchLog, ChunkedRunLogStore, ChunkStoreError, NotFoundError, RunLog, StepLog, keys, packs
from chunkstore.backends.local import LocalBackend
from chunkstore.codec import decode
from chunkstore.values import Content

DURABILITIES: Final = ("process", "barrier", "power")
GATE: Final = signal.SIGUSR1
PATIENCE: Final = 60.0

Store = ChunkedRunLogStore
Chunks = Mapping[str, Content]
"""What stands in a place: each chunk's content by its key."""


Call = Callable[[], object]
"""One call of the store, which may be made again."""


@dataclass(frozen=True, slots=True)
class Scenario:
    """One way to write: what stands there before, and what the writer then calls."""

    calls: Callable[[Store], list[Call]]
    before: Callable[[Store], object] = lambda _store: None
    """By another store: the writer knows nothing of it unless it reads it in `calls`, before anybody looks."""
    meanwhile: Callable[[Store], object] | None = None
    """What another writer does once this one has read."""
    nameless: bool = True
    """Whether the file system has files without a name (`O_TMPFILE`); NFS has none."""
    litter: bool = False
    """Whether a writer that was killed earlier left its staging file."""
    barriers: frozenset[int] = frozenset()
    """The calls that, once acknowledged, make all that was written before survive power loss too."""


def _step(name: str, **fields: Any) -> StepLog:
    return StepLog(name=name.rpartition(".")[2], internal_name=name, **fields)


def _create(store: Store) -> list[Call]:
    return [lambda: store.create_run_log("r", tag="t")]


def _add_steps(store: Store) -> list[Call]:
    return [lambda: store.add_step_log(_step("a"), "r"), lambda: store.add_step_log(_step("b"), "r")]


def _add_a_step(store: Store) -> list[Call]:
    _read(store)
    return _add_steps(store)[:1]


def _read(store: Store) -> RunLog:
    with suppress(NotFoundError):  # after a kill it may be gone
        return store.get_run_log_by_id("r")
    return RunLog(run_id="r")


def _rewrite_step(store: Store) -> list[Call]:
    step = _read(store).steps.get("a") or _step("a")

    def rewrite(status: str) -> None:
        step.status = status
        store.add_step_log(step, "r")

    return [lambda: rewrite("PROCESSING"), lambda: rewrite("SUCCESS")]


def _rewrite_unread_step(store: Store) -> list[Call]:
    return [lambda: store.add_step_log(_step("a", status="SUCCESS", message="m"), "r")]


def _set_parameters(store: Store) -> list[Call]:
    _read(store)
    return [
        lambda: store.set_parameters("r", {"x": 2, "y": [1, 2], "z": "new"}),
        lambda: store.set_parameters("r", {"x": 3}, "m.eu"),
    ]


def _change_status(store: Store) -> list[Call]:
    _read(store)
    return [
        lambda: store.update_run_log_status("r", "PROCESSING"),
        lambda: store.update_run_log_status("r", "SUCCESS"),
    ]


def _configure(store: Store) -> list[Call]:
    _read(store)
    return [lambda: store.set_run_config("r", {"x": 1})]


def _branch() -> BranchLog:
    return BranchLog(internal_name="m.eu", parameters={"p": 1}, steps={"m.eu.s": _step("m.eu.s")})


def _add_branch(store: Store) -> list[Call]:
    branch = _branch()
    return [lambda: store.add_branch_log(branch, "r")]


def _add_job(store: Store) -> list[Call]:
    _read(store)
    job = store.create_job_log()
    job.status = "SUCCESS"
    return [lambda: store.add_job_log("r", job)]


def _put_run(store: Store) -> list[Call]:
    run_log = _read(store)
    run_log.status = "PROCESSING"
    run_log.steps.setdefault("a", _step("a")).status = "SUCCESS"
    run_log.steps["n"] = _step("n")
    run_log.parameters["x"] = 7
    return [lambda: store.put_run_log(run_log)]


def _put_ended_run(store: Store) -> list[Call]:
    run_log = _read(store)
    run_log.status = "FAIL"
    run_log.steps["n"] = _step("n")
    return [lambda: store.put_run_log(run_log)]


def _put_new_run(store: Store) -> list[Call]:
    run_log = RunLog(run_id="r", tag="t", parameters={"x": 1}, steps={"a": _step("a")})
    return [lambda: store.put_run_log(run_log)]


def _rewrite_step_once(store: Store) -> list[Call]:
    return _rewrite_step(store)[1:]


def _delete(store: Store) -> list[Call]:
    _read(store)
    return [lambda: store.delete_run_log("r")]


def _delete_unread(store: Store) -> list[Call]:
    return [lambda: store.delete_run_log("r")]


def _founded(store: Store) -> None:
    store.create_run_log("r")


def _filled(store: Store) -> None:
    store.create_run_log("r")
    store.add_step_log(_step("a"), "r")
    store.set_parameters("r", {"x": 1, "y": 1})


def _only_a_folder(store: Store) -> None:
    Path(store.backend.place, "r").mkdir(parents=True)


def _other_run(store: Store) -> None:
    store.create_run_log("other")


def _deep(store: Store) -> None:
    _filled(store)
    store.add_step_log(_step("m"), "r")
    store.add_branch_log(_branch(), "r")


def _ended(store: Store) -> None:
    _deep(store)
    store.update_run_log_status("r", "SUCCESS")


def _packed_and_changed(store: Store) -> None:
    _ended(store)
    store.compact("r")
    store.add_step_log(_step("a", message="late"), "r")
    store.add_step_log(_step("b"), "r")


def _pack(store: Store) -> list[Call]:
    return [lambda: store.compact("r")]


def _others_configuration(store: Store) -> None:
    store.set_run_config("r", {"theirs": 1})


def _others_step(store: Store) -> None:
    store.add_step_log(_step("a", status="PROCESSING", message="theirs"), "r")


def _their_new_step(store: Store) -> None:
    store.add_step_log(_step("a", message="theirs"), "r")


FIRST: Final = frozenset({0})

SCENARIOS: Final[Mapping[str, Scenario]] = {
    "create a run": Scenario(_create, _other_run, barriers=FIRST),
    "create the first run of a place": Scenario(_create, barriers=FIRST),
    "create a run whose folder a kill left": Scenario(_create, _only_a_folder, barriers=FIRST),
    "create a run without nameless files": Scenario(_create, _other_run, nameless=False, barriers=FIRST),
    "add steps": Scenario(_add_steps, _founded),
    "add steps without nameless files": Scenario(_add_steps, _founded, nameless=False),
    "add a step that another writer adds first": Scenario(_add_a_step, _founded, meanwhile=_their_new_step),
    "rewrite a step": Scenario(_rewrite_step, _filled),
    "rewrite a step that was not read": Scenario(_rewrite_unread_step, _filled),
    "rewrite a step after another writer": Scenario(_rewrite_step_once, _filled, meanwhile=_others_step),
    "set parameters": Scenario(_set_parameters, _deep),
    "change the status": Scenario(_change_status, _founded, barriers=frozenset({1})),
    "configure": Scenario(_configure, _founded),
    "configure after another writer": Scenario(_configure, _founded, meanwhile=_others_configuration),
    "add a branch": Scenario(_add_branch, lambda store: (_founded(store), store.add_step_log(_step("m"), "r"))),
    "add a job": Scenario(_add_job, _founded, barriers=FIRST),
    "put a run": Scenario(_put_run, _filled),
    "put an ended run": Scenario(_put_ended_run, _filled, barriers=FIRST),
    "put a new run": Scenario(_put_new_run, _other_run),
    "pack a run": Scenario(_pack, _ended, barriers=FIRST),
    "pack a run again": Scenario(_pack, _packed_and_changed, barriers=FIRST),
    "rewrite a packed step": Scenario(_rewrite_step, lambda store: (_ended(store), store.compact("r"))),
    "delete a packed run": Scenario(_delete, _packed_and_changed),
    "delete a run": Scenario(_delete, _filled, litter=True),
    "delete a deep run that was not read": Scenario(_delete_unread, _deep),
}


def opened(root: Path, durability: str) -> Store:
    """A store that knows nothing."""
    return ChunkedRunLogStore(LocalBackend(root, durability=durability))  # type: ignore[arg-type]


def prepared(scenario: Scenario, root: Path, durability: str) -> list[Call]:
    """What the writer will call, with everything ready for it."""
    scenario.before(opened(root, durability))
    calls = scenario.calls(opened(root, durability))
    if scenario.meanwhile:
        scenario.meanwhile(opened(root, durability))
    if scenario.litter:
        (root / "r" / ".t-0badcafe-1-1").write_bytes(b"half a chu")
    return calls


def files(root: Path) -> Iterator[Path]:
    """All files of a place but its locks, staging files among them."""
    return (path for path in sorted(root.rglob("*")) if path.is_file() and path.parent.name != ".locks")


def chunks(root: Path) -> Chunks:
    """All chunks of a place, read past the store, those in packs too; fails where one is damaged."""
    return contents(
        {path.relative_to(root).as_posix(): path.read_bytes() for path in files(root) if path.name[0] != "."}
    )


def contents(found: Mapping[str, bytes]) -> Chunks:
    """What these objects say: chunks, and packs for what is not loose."""
    of_runs = {key: data for key, data in found.items() if not key.startswith(".index/")}
    loose = {key: data for key, data in of_runs.items() if not key.endswith(f"/{keys.PACK}")}
    whole = [packs.decode(data, key) for key, data in of_runs.items() if key not in loose]
    packed = {key: pack.data_of(key) for pack in whole for key in pack.members if not keys.stays_loose(key)}
    return {key: decode(data, key).content for key, data in {**packed, **loose}.items()}


def staging(root: Path) -> list[str]:
    """The staging files of a place."""
    return [path.relative_to(root).as_posix() for path in files(root) if path.name[0] == "."]


def _copied(root: Path) -> dict[str, str]:
    return {path.relative_to(root).as_posix(): path.read_bytes().decode("latin-1") for path in files(root)}


def _descriptors() -> set[str]:
    """What is open. The one that lists them is closed again, and so it is no link any more."""
    links = list(Path("/proc/self/fd").iterdir())
    return {f"{link.name} -> {link.readlink()}" for link in links if link.is_symlink()}


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    """What a traceback shows of it."""
    if error is not None:
        yield error
        yield from _causes(error.__cause__)
        yield from _causes(error.__context__)


def _described(error: BaseException, root: Path) -> dict[str, Any]:
    return {
        "type": type(error).__name__,
        "ours": isinstance(error, ChunkStoreError),
        "message": str(error),
        "key": getattr(error, "key", ""),
        "transient": getattr(error, "transient", None),
        "errno": sorted({cause.errno for cause in _causes(error) if isinstance(cause, OSError) and cause.errno}),
        "traceback": "".join(traceback.format_exception(error)),
        "files": _copied(root),
    }


class _Report:
    """Where a writer says what it was told."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC)

    def add(self, what: str, number: int, **facts: Any) -> None:
        os.write(self._file, f"{what} {number} {json.dumps(facts)}\n".encode())


def _write(number: int, call: Call, report: _Report, root: Path) -> None:
    before = _descriptors()
    try:
        call()
    except Exception as error:  # noqa: BLE001  whatever it is, the report must have it
        report.add("failed", number, leaked=sorted(_descriptors() - before), **_described(error, root))
    else:
        report.add("acknowledged", number)
        leaked = sorted(_descriptors() - before)
        if leaked:
            report.add("leaked", number, leaked=leaked)
        return
    try:
        call()
    except Exception as error:  # noqa: BLE001  as above
        report.add("failed again", number, **_described(error, root))
    else:
        report.add("acknowledged", number)


def _writer(command: dict[str, str]) -> None:
    root = Path(command["root"])
    scenario = SCENARIOS[command["scenario"]]
    if not scenario.nameless and hasattr(os, "O_TMPFILE"):
        del os.O_TMPFILE
    calls = prepared(scenario, root, command["durability"])
    report = _Report(command["report"])
    signal.pthread_sigmask(signal.SIG_BLOCK, {GATE})
    os.write(1, b"ready\n")
    if signal.sigtimedwait({GATE}, PATIENCE) is None:
        return  # whoever should watch is gone, and nobody else would end this
    for number, call in enumerate(calls):
        _write(number, call, report, root)


def _forked(command: dict[str, str]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        _writer(command)
        status = 0
    except BaseException:  # noqa: BLE001  a child must never come back into the parent's loop
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)


def _warm(folder: Path) -> None:
    """Everything once, so that no writer imports or compiles anything while it is watched."""
    for number, scenario in enumerate(SCENARIOS.values()):
        for call in prepared(scenario, folder / str(number), "power"):
            call()
    _descriptors()


def main() -> None:
    """Forks a writer for each command on standard input; says its process, that it is ready, and how it ended."""
    _warm(Path(sys.argv[1]))
    for line in sys.stdin.buffer:
        child = _forked(json.loads(line))
        os.write(1, f"{child}\n".encode())
        os.write(1, f"{os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])}\n".encode())


if __name__ == "__main__":
    main()
