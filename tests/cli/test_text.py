"""Times and numbers as commands print them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from usersync_cli.cli.text import age_seconds, ago, iso, moment, plural, when

NOON = datetime(2026, 3, 1, 13, 0, 0, 123456, tzinfo=timezone(timedelta(hours=1)))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-5, "0 s ago"), (119, "119 s ago"), (120, "2 min ago"), (7199, "119 min ago"), (7200, "2 h ago"), (2 * 86400, "2 days ago")],
)
def test_ages(seconds: int, said: str) -> None:
    """
    An age is rounded down to one unit, and never negative.
    """
    assert said == ago(timedelta(seconds=seconds))


@pytest.mark.parametrize(("number", "said"), [(0, "0 runs"), (1, "1 run"), (2, "2 runs"), (12345, "12,345 runs")])
def test_numbers_with_their_noun(number: int, said: str) -> None:
    """
    One of something has no s, and thousands are set apart.
    """
    assert said == plural(number, "run")


def test_moments_are_in_utc() -> None:
    """
    For people to the second, for programs to the millisecond, whatever the zone that they came in.
    """
    assert "2026-03-01 12:00:00 UTC" == moment(NOON)
    assert "2026-03-01T12:00:00.123+00:00" == iso(NOON)
    assert iso(None) is None


def test_how_long_ago_a_moment_was() -> None:
    """
    The clock that is compared with may be a little behind: an age is never negative.
    """
    later = datetime(2026, 3, 1, 12, 10, tzinfo=UTC)

    assert "2026-03-01 12:00:00 UTC (9 min ago)" == when(NOON, later)
    assert (599.9, 0.0) == (age_seconds(NOON, later), age_seconds(later, NOON))
    assert age_seconds(None, later) is None
