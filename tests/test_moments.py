"""How a person writes times."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from chunkstore.errors import InvalidInputError
from chunkstore.moments import moment, span

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7d", timedelta(days=7)),
        ("1h30m", timedelta(minutes=90)),
        (" 2W ", timedelta(weeks=2)),
        ("1.5d", timedelta(hours=36)),
        ("90 s", timedelta(seconds=90)),
        ("0d", timedelta()),
    ],
)
def test_a_span_is_numbers_with_units(text: str, expected: timedelta) -> None:
    assert span(text) == expected


@pytest.mark.parametrize("text", ["", "7", "d", "-7d", "7y", "3M", "7d!", "1e3d", "½d", "999999999w"])
def test_what_is_no_span_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInputError, match=r"span of time|longer than time") as refused:
        span(text)
    assert repr(text) in str(refused.value)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2026-11-20T18:30Z", datetime(2026, 11, 20, 18, 30, tzinfo=UTC)),
        ("2026-11-20T18:30:05+02:00", datetime(2026, 11, 20, 16, 30, 5, tzinfo=UTC)),
        ("7d", NOW - timedelta(days=7)),
    ],
)
def test_a_moment_is_an_iso_time_or_a_span_ago(text: str, expected: datetime) -> None:
    assert moment(text, NOW) == expected


def test_a_moment_without_a_time_zone_is_this_hosts() -> None:
    assert moment("2026-11-20") == datetime(2026, 11, 20).astimezone()
    assert moment("2026-11-20 18:30").tzinfo is not None


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "0001-01-01T00:00+23:59", "999999999d"])
def test_what_is_no_moment_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidInputError) as refused:
        moment(text, NOW)
    assert repr(text) in str(refused.value)
