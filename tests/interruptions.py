"""One small run on three kinds of place in memory, and chores on it that are cut short at any request."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from chunkstore import ChunkedRunLogStore, RunLogNotFoundError, StepLog, maintenance
from chunkstore.backends import Backend
from etags import Between, EtagMemory
from places import memory

Store = ChunkedRunLogStore
PLACES: Final[dict[str, Callable[[], Backend]]] = {
    "versions never come back": memory,
    "versions are digests": lambda: EtagMemory(deletes=True),
    "no conditional deletes": lambda: EtagMemory(deletes=False),
}
RULE: Final = maintenance.Retention(older_than=timedelta(days=1))
TOMORROW: Final = datetime.now(UTC) + timedelta(days=2)


class KilledError(BaseException):
    """The process is gone."""


def killed() -> None:
    raise KilledError


def filled(backend: Backend, *, packed: bool = False) -> Store:
    """A store with one run, `r`, that has ended."""
    store = Store(backend)
    store.create_run_log("r", tag="t")
    store.set_parameters("r", {"a": 1})
    for name in "xy":
        store.add_step_log(StepLog(name=name, internal_name=name), "r")
    store.update_run_log_status("r", "SUCCESS")
    if packed:
        store.compact("r")
    return store


def whole(store: Store) -> dict[str, Any]:
    """The run, read by somebody who knows nothing."""
    return Store(store.backend).get_run_log_by_id("r").model_dump()


def stands(store: Store) -> bool:
    """Whether somebody who knows nothing finds the run."""
    try:
        Store(store.backend).get_run_log_by_id("r")
    except RunLogNotFoundError:
        return False
    return True


def collect(store: Store) -> maintenance.Removed:
    """As `gc` the day after tomorrow."""
    return maintenance.remove_planned(store, maintenance.plan_gc(store, RULE, TOMORROW))


def restore(store: Store) -> object:
    return maintenance.restore_run(store, "r")


def requests_of(work: Callable[[Store], object], backend: Backend) -> int:
    """How many requests the work makes."""
    counting = Between(backend, 0, killed)
    work(Store(counting))
    return counting.requests
