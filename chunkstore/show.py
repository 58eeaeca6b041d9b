"""A run log as a tree for the terminal: statuses, durations and parameters. Needs `rich`, the extra `show`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime, timedelta
from typing import Final

from rich.text import Text
from rich.tree import Tree

from chunkstore.models import BranchLog, JobLog, RunLog, StepAttempt, StepLog

_COLOURS: Final = {"SUCCESS": "green", "FAIL": "red"}
_LONGEST_VALUE: Final = 60  # characters


def tree(run_log: RunLog) -> Tree:
    """The run, its parameters, steps and branches in their order; of a run log that was read in full.

    A duration is the time from the first start to the last end of all attempts below. runnable's own models will do as well.
    """
    job = [] if run_log.job is None else run_log.job.attempts
    top = Tree(_line(run_log.run_id, run_log.status, [*_attempts(run_log.steps.values()), *job]))
    _add_parameters(top, run_log.parameters)
    if run_log.job is not None:
        _add_work(top, "job", run_log.job, job)
    _add_steps(top, run_log.steps.values())
    return top


def _add_steps(above: Tree, steps: Iterable[StepLog]) -> None:
    for step in steps:
        node = _add_work(above, step.name, step, list(_attempts([step])))
        for branch in step.branches.values():
            _add_branch(node, branch.internal_name.removeprefix(f"{step.internal_name}."), branch)


def _add_work(above: Tree, name: str, work: StepLog | JobLog, attempts: list[StepAttempt]) -> Tree:
    line = _line(name, work.status, attempts)
    if len(work.attempts) > 1:
        line.append(f"  {len(work.attempts)} attempts")
    message = next((attempt.message for attempt in reversed(work.attempts) if attempt.message), work.message)
    if message and work.status != "SUCCESS":
        line.append(f"  {_shown(message.strip())}", "red")
    return above.add(line)


def _add_branch(above: Tree, name: str, branch: BranchLog) -> None:
    node = above.add(_line(name, branch.status, list(_attempts(branch.steps.values())), "italic"))
    _add_parameters(node, branch.parameters)
    _add_steps(node, branch.steps.values())


def _add_parameters(above: Tree, parameters: Mapping[str, object]) -> None:
    for name, parameter in parameters.items():
        kind = getattr(parameter, "kind", "json")
        line = Text.assemble((printable(name), "cyan"), " = ", _shown(repr(getattr(parameter, "value", parameter))))
        above.add(line if kind == "json" else line.append(f"  {kind}", "dim"))


def _line(name: str, status: str, attempts: list[StepAttempt], style: str = "bold") -> Text:
    line = Text.assemble((printable(name), style), "  ", status_text(status))
    duration = _duration(attempts)
    return line if duration is None else line.append(f"  {duration.total_seconds():.3f} s", "dim")


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(printable(status), _COLOURS.get(status, "yellow"))


def _attempts(steps: Iterable[StepLog]) -> Iterator[StepAttempt]:
    """All attempts of the steps, and of what is below them."""
    for step in steps:
        yield from step.attempts
        for branch in step.branches.values():
            yield from _attempts(branch.steps.values())


def _duration(attempts: list[StepAttempt]) -> timedelta | None:
    try:
        starts = [datetime.fromisoformat(attempt.start_time) for attempt in attempts]
        return max(datetime.fromisoformat(attempt.end_time) for attempt in attempts) - min(starts)
    except (ValueError, TypeError):  # none; one that has not ended; or one with a time zone and one without
        return None


def _shown(text: str) -> str:
    short = text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
    return printable(short)


def printable(text: str) -> str:
    """The text without what a terminal would obey, as Python writes it: names and values come from anywhere."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
