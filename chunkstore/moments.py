"""How a person writes a time: `2026-11-20`, `2026-11-20 18:30`, `7d` ago; and a span of it: `90d`, `12h`, `1h30m`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Final

from chunkstore.errors import InvalidInputError

_UNITS: Final = {"w": "weeks", "d": "days", "h": "hours", "m": "minutes", "s": "seconds"}
_SPAN: Final = re.compile(r"(?:(?:\d{1,9}(?:\.\d{1,9})?)[wdhms])+")
_PART: Final = re.compile(r"([\d.]+)([wdhms])")


def span(text: str) -> timedelta:
    """The span of time that is written so: numbers with `w`, `d`, `h`, `m` or `s`. Raises `InvalidInputError`.

    `3M` is refused: who means months by it would lose more runs than meant.
    """
    if "M" in text:
        raise InvalidInputError(f"{text!r} is no span of time: M may be months or minutes; write 90d or 3m")
    written = text.strip().lower().replace(" ", "")
    if not _SPAN.fullmatch(written):
        raise InvalidInputError(f"{text!r} is no span of time; write 7d, 12h, 1h30m, 2w or 90s")
    try:
        return sum((timedelta(**{_UNITS[unit]: float(number)}) for number, unit in _PART.findall(written)), timedelta())
    except OverflowError as error:
        raise InvalidInputError(f"{text!r} is longer than time goes back") from error


def moment(text: str, now: datetime | None = None) -> datetime:
    """The moment that is written so: an ISO date or time, in this host's time zone if it names none; or a span, so long ago.

    Raises `InvalidInputError`.
    """
    try:
        return datetime.fromisoformat(text.strip()).astimezone()
    except (ValueError, OverflowError, OSError):  # no time; one before or behind all that the host's calendar knows
        pass
    try:
        return (now or datetime.now(UTC)) - span(text)
    except (InvalidInputError, OverflowError) as error:
        raise InvalidInputError(
            f"{text!r} is no time; write 2026-11-20, 2026-11-20T18:30, 2026-11-20T18:30Z, or 7d for seven days ago"
        ) from error
