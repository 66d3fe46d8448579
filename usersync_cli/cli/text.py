"""Times and numbers as commands print them: `12 min ago`, `2026-03-01 02:00:00 UTC`, `1 run`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta


def when(moment_: datetime, at: datetime) -> str:
    """A moment, and how long ago it was at another: `2026-03-01 02:00:00 UTC (3 h ago)`."""
    return f"{moment(moment_)} ({ago(at - moment_)})"


def moment(moment_: datetime) -> str:
    """A moment in UTC, to the second."""
    return moment_.astimezone(UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def ago(age: timedelta) -> str:
    """An age in its largest unit: `40 s ago`, `12 min ago`, `3 h ago`, `5 days ago`. Clocks differ: never negative."""
    passed = max(0, int(age.total_seconds()))
    for unit, length in (("days", 86400), ("h", 3600), ("min", 60)):
        if passed >= 2 * length:
            return f"{passed // length} {unit} ago"
    return f"{passed} s ago"


def lasting(time: timedelta) -> str:
    """A length of time that a setting gives, in its largest unit: `30 days`, `36 h`, `45 min`."""
    passed = round(time.total_seconds())
    for unit, length in (("days", 86400), ("h", 3600)):
        if passed >= 2 * length:
            return f"{passed // length} {unit}"
    return f"{passed // 60} min"


def age_seconds(moment_: datetime | None, at: datetime) -> float | None:
    """How old a moment is in seconds, as JSON has it; None where there is none."""
    return None if moment_ is None else round(max(0.0, (at - moment_).total_seconds()), 1)


def iso(moment_: datetime | None) -> str | None:
    """A moment in UTC, to the millisecond, as JSON has it; None where there is none."""
    return None if moment_ is None else moment_.astimezone(UTC).isoformat(timespec="milliseconds")


def plural(number: int, noun: str) -> str:
    """So many of a noun that takes an s: `1 run`, `1,200 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
