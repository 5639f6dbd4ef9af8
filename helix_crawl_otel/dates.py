"""Dates and times as they are written, ISO 8601 with their distance from UTC, and read again."""

from __future__ import annotations

from datetime import datetime, timezone

__all__ = ["local_clock", "local_time", "moment_of", "utc_time"]


def utc_time(moment: float) -> str:
    """A moment for programs, seconds since 1970 as `time.time` has them: such as `2026-11-28T20:10:11.123Z`."""
    return datetime.fromtimestamp(moment, timezone.utc).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def local_time(moment: float) -> str:
    """The same for people, with its distance from UTC: such as `2026-11-28T21:10:11+01:00`."""
    return datetime.fromtimestamp(moment, timezone.utc).astimezone().isoformat(timespec="seconds")


def local_clock(moment: float) -> str:
    """The same on a terminal, where everybody knows the day: such as `21:10:11`."""
    return f"{datetime.fromtimestamp(moment, timezone.utc).astimezone():%H:%M:%S}"


def moment_of(text: str) -> float | None:
    """The moment of a date that tells its distance from UTC; `None` where it is none, or none that this system can
    write as local time: on Windows what is before 1970 or after 3000.
    """
    try:
        read = datetime.fromisoformat(text.replace("Z", "+00:00"))
        if read.tzinfo is None:
            return None
        moment = read.timestamp()
        local_time(moment)
        return moment
    except (ValueError, OverflowError, OSError):
        return None
