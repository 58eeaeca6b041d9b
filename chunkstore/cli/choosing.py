"""Which runs a command is about: names, or the filters that `ls` has, or all."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, TypeAlias

import typer

from chunkstore.cli.completing import complete_run
from chunkstore.errors import InvalidInputError
from chunkstore.moments import moment, span
from chunkstore.naming import resolve, status_of
from chunkstore.queries import RunFilter
from chunkstore.store import ChunkedRunLogStore

RunsArgument: TypeAlias = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[RUN]...",
        show_default=False,
        autocompletion=complete_run,
        help="Ids or starts of them, last, last~1, last:failed, tag:NAME; without any, and without a filter, all runs.",
    ),
]
StatusOption: TypeAlias = Annotated[
    str, typer.Option("--status", help="Of this status: failed, succeeded, running, or as it is stored.")
]
TagOption: TypeAlias = Annotated[str, typer.Option("--tag", help="With this tag.")]
TextOption: TypeAlias = Annotated[str, typer.Option("--text", help="With this text in the id.")]
ParamOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--param",
        metavar="NAME=VALUE",
        help="Whose own parameter has this value, which is JSON or else text. Repeatable.",
    ),
]
SinceOption: TypeAlias = Annotated[
    str,
    typer.Option("--since", metavar="TIME", help="Created at or after: 2026-11-20, 2026-11-20T18:30, or 7d ago."),
]
UntilOption: TypeAlias = Annotated[str, typer.Option("--until", metavar="TIME", help="Created before.")]
LastOption: TypeAlias = Annotated[str, typer.Option("--last", metavar="SPAN", help="Created within: 7d, 12h, 1h30m.")]


@dataclass(frozen=True, slots=True)
class Choice:
    """What was asked for, as it was written."""

    names: Sequence[str]
    status: str
    tag: str
    text: str
    param: Sequence[str]
    since: str
    until: str
    last: str

    @property
    def has_filter(self) -> bool:
        """Whether anything but names was given."""
        return any((self.status, self.tag, self.text, self.param, self.since, self.until, self.last))

    def of(self, store: ChunkedRunLogStore) -> list[str] | RunFilter | None:
        """The ids, or the filter; None for all runs. Raises `InvalidInputError`, `RunLogNotFoundError`."""
        if not self.names:
            return self.filter() if self.has_filter else None
        if self.has_filter:
            raise InvalidInputError("give names of runs or filters, not both")
        return [resolve(store, name) for name in self.names]

    def filter(self) -> RunFilter:
        """What the filters say together. Raises `InvalidInputError`."""
        return RunFilter(
            status=status_of(self.status),
            tag=self.tag,
            text=self.text,
            parameters=_parameters(self.param),
            since=self._since(),
            until=moment(self.until) if self.until else None,
        )

    def _since(self) -> datetime | None:
        if self.since and self.last:
            raise InvalidInputError("--since and --last say the same thing; give one of them")
        if self.last:
            try:
                return datetime.now(UTC) - span(self.last)
            except OverflowError as error:
                raise InvalidInputError(f"{self.last!r} is longer than time goes back") from error
        return moment(self.since) if self.since else None


def _parameters(given: Sequence[str]) -> dict[str, object]:
    parameters: dict[str, object] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise InvalidInputError(f"--param {text!r} is not NAME=VALUE, such as alpha=0.5 or region=eu", name=text)
        if name in parameters:
            raise InvalidInputError(f"--param {name} is given twice; a run has one value of it", name=name)
        parameters[name] = _parsed(value)
    return parameters


def _parsed(value: str) -> object:
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value
