"""A run log as a tree for the terminal: statuses, durations and parameters. Needs `rich`, the extra `show`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Final

from rich.text import Text
from rich.tree import Tree

from chunkstore.models import BranchLog, RunLog, StepAttempt, StepLog
from chunkstore.outcomes import Work, duration_of, kind_of, reason_of, span_of, value_of

_COLOURS: Final = {"SUCCESS": "green", "FAIL": "red"}
_LONGEST_VALUE: Final = 60  # characters


def tree(run_log: RunLog, *, attempts: bool = False, depth: int | None = None) -> Tree:
    """The run, its parameters, steps and branches in their order; of a run log that was read in full.

    A duration is the time from the first start to the last end of all attempts below. What failed says why: the first line of its message.
    With `attempts` each attempt of a step that has several, or failed, is a line of its own. Steps and branches deeper than `depth` are
    counted instead of drawn. runnable's own models will do as well.
    """
    top = Tree(_line(run_log.run_id, run_log.status, run_log))
    _add_parameters(top, run_log.parameters)
    drawing = _Drawing(attempts, depth)
    if run_log.job is not None:
        drawing.add_work(top, "job", run_log.job)
    drawing.add_steps(top, run_log.steps.values(), 1)
    return top


@dataclass(frozen=True, slots=True)
class _Drawing:
    """How a tree is drawn."""

    attempts: bool
    depth: int | None

    def add_steps(self, above: Tree, steps: Collection[StepLog], level: int) -> None:
        if self._is_too_deep(above, steps, level, "step"):
            return
        for step in steps:
            node = self.add_work(above, step.name, step)
            if not self._is_too_deep(node, step.branches, level + 1, "branch"):
                for branch in step.branches.values():
                    name = branch.internal_name.removeprefix(f"{step.internal_name}.")
                    self._add_branch(node, name, branch, level + 1)

    def _add_branch(self, above: Tree, name: str, branch: BranchLog, level: int) -> None:
        node = above.add(_line(name, branch.status, branch, "italic"))
        _add_parameters(node, branch.parameters)
        self.add_steps(node, branch.steps.values(), level + 1)

    def add_work(self, above: Tree, name: str, work: Work) -> Tree:
        line = _line(name, work.status, work)
        if len(work.attempts) > 1:
            line.append(f"  {len(work.attempts)} attempts")
        if self.attempts and work.attempts and (len(work.attempts) > 1 or work.status == "FAIL"):
            node = above.add(line)
            self._add_attempts(node, work)
            return node
        reason = reason_of(work)
        if reason and work.status != "SUCCESS":
            line.append(f"  {_shown(reason)}", "red")
        return above.add(line)

    @staticmethod
    def _add_attempts(above: Tree, work: Work) -> None:
        for attempt in work.attempts:
            line = _line(f"attempt {attempt.attempt_number}", attempt.status, _Alone([attempt]), "")
            reason = reason_of(attempt)
            above.add(line.append(f"  {_shown(reason)}", "red") if reason else line)

    def _is_too_deep(self, above: Tree, below: Collection[object], level: int, what: str) -> bool:
        if self.depth is None or level <= self.depth or not below:
            return False
        above.add(Text(f"{len(below):,} {what}{'' if len(below) == 1 else 'es' if what == 'branch' else 's'}", "dim"))
        return True


@dataclass(frozen=True, slots=True)
class _Alone:
    attempts: list[StepAttempt]


def _add_parameters(above: Tree, parameters: Mapping[str, object]) -> None:
    for name, parameter in parameters.items():
        line = Text.assemble((printable(name), "cyan"), " = ", _shown(repr(value_of(parameter))))
        kind = kind_of(parameter)
        above.add(line if kind == "json" else line.append(f"  {kind}", "dim"))


def _line(name: str, status: str, log: RunLog | BranchLog | Work | _Alone, style: str = "bold") -> Text:
    line = Text.assemble((printable(name), style), "  ", status_text(status))
    duration = span_of(log.attempts) if isinstance(log, _Alone) else duration_of(log)
    return line if duration is None else line.append(f"  {duration.total_seconds():.3f} s", "dim")


def status_text(status: str) -> Text:
    """A status in its colour."""
    return Text(printable(status), _COLOURS.get(status, "yellow"))


def _shown(text: str) -> str:
    short = text if len(text) <= _LONGEST_VALUE else f"{text[: _LONGEST_VALUE - 1]}…"
    return printable(short)


def printable(text: str) -> str:
    """The text without what a terminal would obey, as Python writes it: names and values come from anywhere."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
