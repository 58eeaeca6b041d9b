"""Decides whether what several processes did to one register can have happened one after the other: Wing and Gong's search.

With Lowe's memory of configurations that led nowhere (Wing and Gong, "Testing and Verifying Concurrent Objects", 1993; Lowe,
"Testing for linearizability", 2017), in Horn and Kroening's form, a linked list of calls and returns. How histories are recorded is
not here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import chain, pairwise
from typing import Final, Literal

Kind = Literal["read", "write", "create", "refused create", "swap", "refused swap", "add"]

NEVER: Final = 2**63
"""When a call returned that never did: its process was killed, or nobody can say whether it took effect."""

_PATIENCE: Final = 5_000_000
_SEES: Final = ("read", "refused create", "refused swap")
_IMPOSSIBLE: Final = object()


class UndecidedError(Exception):
    """The search took too many steps. Neither yes nor no."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One call on one register. Of a call that never returned, only what it would have done counts, and only perhaps.

    `value` is what was read or written; of an `add`, which adds one, what it made, None for not known. `expected` is what a
    swap was to replace. The empty register holds None.
    """

    kind: Kind
    value: Hashable
    invoked: int
    returned: int
    expected: Hashable = None
    who: str = ""

    def applied(self, state: Hashable) -> Hashable:
        """What stands there after it; `_IMPOSSIBLE` where it cannot have met this state."""
        match self.kind:
            case "read":
                holds, after = state == self.value, state
            case "write":
                holds, after = True, self.value
            case "create":
                holds, after = state is None, self.value
            case "refused create":
                holds, after = state is not None, state
            case "swap":
                holds, after = state == self.expected, self.value
            case "refused swap":
                holds, after = state != self.expected, state
            case "add":
                after = state + 1  # type: ignore[operator]
                holds = self.value in {None, after}
        return after if holds else _IMPOSSIBLE

    @property
    def needed(self) -> Hashable:
        """The one state that it can have met; `_IMPOSSIBLE` where there is more than one."""
        return {"read": self.value, "swap": self.expected}.get(self.kind, _IMPOSSIBLE)

    @property
    def made(self) -> Hashable:
        """The state that it leaves behind; `_IMPOSSIBLE` where it changes none, or that depends."""
        return self.value if self.kind in {"write", "create", "swap"} else _IMPOSSIBLE


@dataclass(frozen=True, slots=True)
class Violation:
    """Where the search came furthest: this operation cannot be next, nor can others come before it, and it is not allowed to wait.

    `because`: whoever has yet to meet the state that it would replace for ever.
    """

    operation: Operation
    state: Hashable
    placed: int
    because: tuple[Operation, ...] = ()


def violation(history: Iterable[Operation], initial: Hashable = None) -> Violation | None:
    """None where the operations can be put in an order in which each does what it said, and none precedes one that returned before.

    Raises `UndecidedError` rather than search for ever.
    """
    return _Search(_relevant(list(history), initial), initial).run()


def _relevant(history: Sequence[Operation], initial: Hashable) -> list[Operation]:
    """Without calls that never returned and left no trace; those that left one took effect before it was seen."""
    producers = _producers(history, initial)
    refused = any(one.kind.startswith("refused") for one in history)
    seen: dict[Hashable, int] = {}
    for one in history:
        if one.returned != NEVER and one.needed is not _IMPOSSIBLE:
            seen[one.needed] = min(one.returned, seen.get(one.needed, NEVER))
    wanted = {one.needed for one in history}
    kept = []
    for one in history:
        if one.returned != NEVER:
            kept.append(one)
        elif one.kind not in _SEES:
            assert one.kind != "add" or one.value is None, "nobody knows what it made"
            unique = one.made is not _IMPOSSIBLE and producers[one.made] == 1
            # Without a trace it matters only to what was refused because something else stood there, and to swaps of its value.
            if refused or not unique or one.made in wanted:
                kept.append(replace(one, returned=seen.get(one.made, NEVER) if unique else NEVER))
    return kept


def _producers(history: Iterable[Operation], initial: Hashable) -> Counter[Hashable]:
    return Counter(chain([initial], (one.made for one in history if one.made is not _IMPOSSIBLE)))


class _Search:
    """The calls and returns that are not placed yet, as a linked list in order of time, and the way that led here."""

    def __init__(self, operations: list[Operation], initial: Hashable) -> None:
        self.operations = sorted(operations, key=lambda one: (one.returned == NEVER, one.invoked))
        self.required = sum(one.returned != NEVER for one in operations)
        producers = _producers(operations, initial)
        self.unique = {value for value, number in producers.items() if number == 1}
        if any(one.kind == "add" for one in operations):
            self.unique.clear()
        # A number that only ever rises passes each value once: what one addition is known to have made, no other one made.
        self.rising = all(one.kind in {"read", "add"} for one in operations)
        done = self.operations[: self.required] if self.rising else []
        self.claimed = {one.value for one in done if one.kind == "add" and one.value is not None}
        # How many operations still need to meet a value: a unique one never comes back once it was replaced.
        self.waiting = Counter(one.needed for one in self.operations[: self.required])
        self.state = initial
        self._link()

    def _link(self) -> None:
        """Node 2i is the call of operation i, 2i + 1 its return; the last but one node is the head, the last the end."""
        calls = [(one.invoked, 0, 2 * i) for i, one in enumerate(self.operations)]
        returns = [(one.returned, 1, 2 * i + 1) for i, one in enumerate(self.operations[: self.required])]
        self.head = 2 * len(self.operations)
        self.end = self.head + 1
        order = [self.head, *(node for _, _, node in sorted(calls + returns)), self.end]
        self.next = [self.end] * (self.end + 1)
        self.before = [self.head] * (self.end + 1)
        for left, right in pairwise(order):
            self.next[left], self.before[right] = right, left

    def run(self) -> Violation | None:
        # A configuration is the state and who is placed: all required ones below `low`, those in `mask` above it, those in `loose`
        # of the ones that never returned. Small numbers, where one bit for each operation would be long ones.
        low = mask = loose = steps = 0
        seen: set[tuple[int, int, int, Hashable]] = set()
        way: list[tuple[int, Hashable, int, int, int]] = []
        furthest = (-1, 0, self.state, 0, 0)
        node = self.next[self.head]
        while low < self.required:
            steps += 1
            if steps > _PATIENCE:
                raise UndecidedError(f"{len(self.operations)} operations, {len(way)} placed after {steps} steps")
            if node & 1:  # a return, or the end: whoever is still to be placed comes too late
                if len(way) > furthest[0]:
                    furthest = (len(way), node // 2, self.state, low, mask)
                if not way:
                    return self._violation(*furthest)
                node, self.state, low, mask, loose = way.pop()
                self._unlift(node)
                node = self.next[node]
                continue
            number = node // 2
            after = self._after(number, loose)
            if after is not _IMPOSSIBLE:
                placed = _with(number, low, mask, loose, self.required)
                if (*placed, after) not in seen:
                    seen.add((*placed, after))
                    way.append((node, self.state, low, mask, loose))
                    low, mask, loose = placed
                    self.state = after
                    self._lift(node)
                    node = self.next[self.head]
                    continue
            node = self.next[node]
        return None

    def _after(self, number: int, loose: int) -> Hashable:
        """The state after the operation; `_IMPOSSIBLE` also where that leads nowhere, or nowhere that another one does not."""
        one, state = self.operations[number], self.state
        after = one.applied(state)
        if after is _IMPOSSIBLE or after == state:
            return after
        if state in self.unique:
            own = one.needed is not _IMPOSSIBLE and number < self.required
            return _IMPOSSIBLE if self.waiting[state] > own else after
        if one.kind == "add" and one.value is None:
            # Of additions that never returned, one is as good as another that could have been made as early.
            later = number >= self.required and ~loose & loose + 1 != 1 << (number - self.required)
            return _IMPOSSIBLE if after in self.claimed or (self.rising and later) else after
        return after

    def _violation(self, placed: int, number: int, state: Hashable, low: int, mask: int) -> Violation:
        open_ones = (one for i, one in enumerate(self.operations[low : self.required]) if not mask >> i & 1)
        because = (one for one in open_ones if state in self.unique and one.needed == state)
        return Violation(self.operations[number], state, placed, tuple(because))

    def _lift(self, call: int) -> None:
        number = call // 2
        self._unlink(call)
        if number < self.required:
            self._unlink(call + 1)
            self.waiting[self.operations[number].needed] -= 1

    def _unlift(self, call: int) -> None:
        number = call // 2
        if number < self.required:
            self._relink(call + 1)
            self.waiting[self.operations[number].needed] += 1
        self._relink(call)

    def _unlink(self, node: int) -> None:
        left, right = self.before[node], self.next[node]
        self.next[left], self.before[right] = right, left

    def _relink(self, node: int) -> None:
        self.next[self.before[node]] = self.before[self.next[node]] = node


def _with(number: int, low: int, mask: int, loose: int, required: int) -> tuple[int, int, int]:
    """The placed ones, with one more."""
    if number >= required:
        return low, mask, loose | 1 << (number - required)
    mask |= 1 << (number - low)
    while mask & 1:
        mask >>= 1
        low += 1
    return low, mask, loose
