"""The run log that a follower's changes add up to, so that a live view needs no request of its own."""

from __future__ import annotations

from typing import Any, cast

from chunkstore.assembly import Parts, Run, assemble
from chunkstore.following import RunChange
from chunkstore.models import BranchLog, JobLog, RunLog, StepLog
from chunkstore.reading import Placeholders
from chunkstore.schema import OWN


class LiveRun:
    """A run as far as its changes were told: `take` each of them, and ask for the run log at any time."""

    def __init__(self, run_id: str) -> None:
        self._run = RunLog(run_id=run_id)
        self._job: JobLog | None = None
        self._steps: dict[str, StepLog] = {}
        self._branches: dict[str, BranchLog] = {}
        self._parameters: dict[tuple[str, str], object] = {}
        self._damaged: set[tuple[str, str]] = set()

    def take(self, change: RunChange) -> None:
        """Takes note of a change. What is damaged stays as it was last seen; where it never was, its children are kept."""
        if change.sort == "damaged":
            self._damaged.add((change.kind, change.name))
            return
        value: Any = change.value
        if change.kind == "run" and isinstance(value, RunLog):
            self._run = value
        elif change.kind == "job":
            self._job = value
        elif change.kind == "parameter":
            _put(self._parameters, (change.scope, change.name), change)
        elif change.kind in {"step", "branch"}:
            held: dict[str, Any] = self._steps if change.kind == "step" else self._branches
            _put(held, change.name, change)

    def run_log(self) -> RunLog:
        """The run log, put together as a full read of the store does it. Shares nothing with the changes that can be nested."""
        whole = self._run.model_copy(update={"steps": {}, "parameters": {}, "job": self._job})
        steps = {name: step.model_copy(update={"branches": {}}) for name, step in self._steps.items()}
        branches = {
            name: branch.model_copy(update={"steps": {}, "parameters": {}}) for name, branch in self._branches.items()
        }
        parameters = [(scope, name, value) for (scope, name), value in self._parameters.items()]
        parts = Parts(cast(Any, steps), cast(Any, branches), parameters)
        parts.damaged_steps = {name for kind, name in self._damaged if kind == "step"} - steps.keys()
        parts.damaged_branches = {name for kind, name in self._damaged if kind == "branch"} - branches.keys()
        assemble(cast(Run, whole), parts, Placeholders(OWN))
        return whole


def _put(held: dict[Any, Any], name: object, change: RunChange) -> None:
    if change.sort == "removed":
        held.pop(name, None)
    else:
        held[name] = change.value
