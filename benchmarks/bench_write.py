"""What does the Nth write cost?"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import contestants
import harness
import sample
from contestants import Contestant, durability_of
from harness import Call, Place, Results, Samples

QUESTION: Final = "What does the Nth write cost?"


@dataclass(frozen=True, slots=True)
class Size:
    steps: tuple[int, ...]
    """N: which root step of its run is added."""
    rounds: int
    calls: int
    """Calls per round, for a contestant whose cost does not grow with N."""
    others_at: int
    """How many steps the run has for the other actions."""


SIZES: Final = {
    "tiny": Size((2, 5), 1, 2, 5),
    "small": Size((10, 100, 1_000, 10_000), 3, 20, 100),
    "full": Size((10, 100, 1_000, 10_000), 15, 20, 1_000),
}
_GROWING: Final = ("runnable chunked-fs", "runnable file-system")
_SLOW: Final = ("MLflow sqlite",)
"""A few calls of it must do."""
_FRESH_UP_TO: Final = 100
"""A run of so few steps is made anew for each round: the calls themselves would make it much longer."""
_ONCE_FROM: Final = 5_000
"""In a run of so many steps who grows takes seconds for a call, and takes part in one round."""


def floor_of(contestant: str) -> str:
    """The floor of the same durability."""
    return f"floor {durability_of(contestant)}"


def exclusive_floor_of(contestant: str) -> str:
    """The floor of the same durability that also promises what chunkstore promises of one write."""
    return f"floor exclusive {durability_of(contestant)}"


@dataclass(frozen=True, slots=True)
class Turn:
    """One contestant's turn in one round: its run, and how many calls it makes."""

    contestant: Contestant
    run: str
    round: int
    calls: int

    def add(self) -> Iterator[Call]:
        for call in range(self.calls):
            yield self._add(sample.step(f"new{self.round:03d}-{call:03d}"))

    def update(self) -> Iterator[Call]:
        """Of a step that was added after the last barrier: each creation of a run is one, in the other lanes too."""
        name = f"just-added-{self.round}"
        self._add(sample.step(name))()
        for call in range(self.calls):
            yield self._add(sample.step(name) | {"message": f"{self.round}-{call}"})

    def update_older(self) -> Iterator[Call]:
        """Of a step that is older than a barrier, and so promised to be on the disk."""
        self._add(sample.step("known") | {"message": f"before {self.round}"})()
        self.contestant.create(f"{self.run}-barrier-{self.round}")
        for call in range(self.calls):
            yield self._add(sample.step("known") | {"message": f"{self.round}-{call}"})

    def new_parameter(self) -> Iterator[Call]:
        for call in range(self.calls):
            yield self._set({f"p{self.round}-{call}": call})

    def change_parameter(self) -> Iterator[Call]:
        for call in range(self.calls):
            yield self._set({"known": 1 + self.round * self.calls + call})

    def status(self) -> Iterator[Call]:
        for call in range(self.calls):
            yield partial(self.contestant.set_status, self.run, ("PROCESSING", "TRIGGERED")[call % 2])

    def final_status(self) -> Iterator[Call]:
        """After some steps that wait to be synced."""
        for call in self.add():
            call()
        yield partial(self.contestant.set_status, self.run, ("SUCCESS", "FAIL")[self.round % 2])

    def _add(self, fields: Mapping[str, Any]) -> Call:
        return partial(self.contestant.add_step, self.run, self.contestant.step(fields))

    def _set(self, values: Mapping[str, object]) -> Call:
        return partial(self.contestant.set_parameters, self.run, self.contestant.parameters(values))


Action = Callable[[Turn], Iterator[Call]]
OTHER_ACTIONS: Final[Mapping[str, Action]] = {
    "update a known step": Turn.update,
    "update a step after a barrier": Turn.update_older,
    "set a new parameter": Turn.new_parameter,
    "change a parameter": Turn.change_parameter,
    "set the status": Turn.status,
    "set the final status": Turn.final_status,
}


class Lane:
    """One contestant, doing one action in runs of one length, round after round."""

    def __init__(self, contestant: Contestant, title: str, action: Action, steps: int, calls: int) -> None:
        self.contestant = contestant
        self._title = title.replace(" ", "-")
        self._action = action
        self._steps = steps
        growing = contestant.name in _GROWING and steps >= _FRESH_UP_TO
        most = 1 if growing else calls // 4 if contestant.name in _SLOW else calls
        self._calls = max(1, min(most, steps // 2))
        self._made: set[str] = set()
        self.requests = 0
        self.conflicts = 0

    def round(self, number: int) -> list[float]:
        if number and self._steps >= _ONCE_FROM and self.contestant.name in _GROWING:
            return []
        run = self._run(number)
        turn = Turn(self.contestant, run, number, self._calls)
        calls = self._action(turn)
        times = []
        for call in calls:
            before = self.contestant.requests or 0, self.contestant.conflicts or 0
            times += harness.timed([call])
            self.requests += (self.contestant.requests or 0) - before[0]
            self.conflicts += (self.contestant.conflicts or 0) - before[1]
        return times

    def counts(self, samples: Samples) -> Samples:
        """The samples, with requests per call and conflicts where the contestant counts them."""
        if self.contestant.requests is not None:
            samples.requests = harness.number(self.requests / max(1, len(samples.all))).rstrip("0").rstrip(".")
            samples.conflicts = self.conflicts
        return samples

    def _run(self, number: int) -> str:
        fresh = f"-{number}" if self._steps <= _FRESH_UP_TO else ""
        run = f"{self._title}-{self._steps}{fresh}"
        if run not in self._made:
            self._made.add(run)
            one = self.contestant
            one.create(run)
            one.fill(run, [f"step{count:05d}" for count in range(self._steps - 2)])
            # The store's own first write in this run, which finds things out.
            one.add_step(run, one.step(sample.step("known")))
            one.set_parameters(run, one.parameters({"known": 0}))
        return run


def measured(lanes: Mapping[tuple[str, str], Lane], rounds: int) -> dict[tuple[str, str], Samples]:
    """The samples by (action, contestant)."""
    samples = harness.interleaved({" / ".join(key): lane.round for key, lane in lanes.items()}, rounds)
    return {key: lane.counts(samples[" / ".join(key)]) for key, lane in lanes.items()}


_BARRIERS: Final = (Turn.final_status, Turn.update_older)
"""Where the floors of barrier differ from those of process."""


def bench(place: Place, size: Size, results: Results) -> None:
    made = {name: make(place.folder) for name, make in contestants.makers(("process", "barrier", "power")).items()}
    lanes: dict[tuple[str, str], Lane] = {}
    for steps in size.steps:
        for name, one in _taking_part(made, Turn.add).items():
            lanes[_nth(steps), name] = Lane(one, "add", Turn.add, steps, size.calls)
    at = size.others_at
    for action, act in OTHER_ACTIONS.items():
        for name, one in _taking_part(made, act).items():
            lanes[f"{action}, N = {at:,}", name] = Lane(one, action, act, at, size.calls)
    samples = measured(lanes, size.rounds)
    head = ["action", "contestant", *harness.HEAD, "to its floor", "to floor exclusive"]
    rows = [_row(place, key, samples, results) for key in samples]
    harness.print_table(f"{place.name}, milliseconds", head, rows)
    print_growth(place, size, samples, results)
    for one in made.values():
        one.close()


def _taking_part(made: Mapping[str, Contestant], act: Action) -> dict[str, Contestant]:
    return {
        name: one
        for name, one in made.items()
        if act in _BARRIERS or not name.startswith("floor") or "barrier" not in name
    }


def _nth(steps: int) -> str:
    return f"add root step N = {steps:,}"


def _row(place: Place, key: tuple[str, str], samples: Mapping[tuple[str, str], Samples], results: Results) -> list[str]:
    action, name = key
    bare, exclusive = (
        samples[key].ratio_to(samples.get((action, of(name))) or samples[action, of("process")])
        for of in (floor_of, exclusive_floor_of)
    )
    results.add(
        place=place.name,
        action=action.partition(" N = ")[0].rstrip(","),
        n=int(action.rpartition("= ")[2].replace(",", "")),
        contestant=name,
        **samples[key].numbers(),
        to_floor=bare,
        to_exclusive_floor=exclusive,
    )
    return [action, name, *harness.core(samples[key]), harness.ratio(bare), harness.ratio(exclusive)]


def print_growth(place: Place, size: Size, samples: Mapping[tuple[str, str], Samples], results: Results) -> None:
    first, last = size.steps[0], size.steps[-1]
    names = [name for action, name in samples if action == _nth(first)]
    growth = {name: samples[_nth(last), name].ratio_to(samples[_nth(first), name]) for name in names}
    for name, value in growth.items():
        results.add(place=place.name, action="growth", n=last, n_first=first, contestant=name, ratio=value)
    rows = [[f"N = {last:,} to N = {first:,}", name, harness.ratio(value)] for name, value in growth.items()]
    harness.print_table(f"{place.name}: does the cost of adding a step grow?", ["cost of", "contestant", "ratio"], rows)


def main() -> None:
    given = harness.options(QUESTION, "Adds, updates and sets, in runs of growing length.")
    began = time.monotonic()
    with harness.places(given) as places:
        results = harness.print_facts(QUESTION, given, places)
        for place in places:
            bench(place, SIZES[given.size], results)
    harness.print_notes("What each promises", [*contestants.PROMISES, *contestants.missing()])
    print(
        "\nTo its floor: the median over the rounds of median / median, against the floor of the same durability"
        "\n(Optuna, MLflow sqlite: power; runnable, MLflow files: process). A step has about 1.4 kB; each call starts from the"
        "\nmodel object. After a barrier: another run was created in the same root since the step was written."
    )
    harness.print_end(began)
    results.save(given)


if __name__ == "__main__":
    main()
