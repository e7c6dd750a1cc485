"""Times as a user writes them: moments in ISO 8601 or seconds since the Unix epoch, and spans."""

from __future__ import annotations

import math
from datetime import datetime

from latencyprism.errors import CommandError

UNITS_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def moment_ns(text: str, flag: str) -> int:
    """Give nanoseconds since the epoch; a time without a zone is this machine's.

    Raises:
        CommandError: It is neither.
    """
    try:
        seconds = float(text)
    except ValueError:
        try:
            seconds = datetime.fromisoformat(text).timestamp()
        except (ValueError, OverflowError) as err:
            raise CommandError(_what_to_write(text, flag)) from err
    if not (math.isfinite(seconds) and 0 <= seconds < 1e11):
        # Ten digits more would be milliseconds or nanoseconds.
        raise CommandError(_what_to_write(text, flag))
    return round(seconds * 1e9)


def span_ns(text: str, flag: str) -> int:
    """Give the nanoseconds of a length of time, as 30s, 5m, 2h or 1d.

    Raises:
        CommandError: It is none.
    """
    unit_seconds = UNITS_SECONDS.get(text[-1:])
    try:
        seconds = float(text[:-1]) * (unit_seconds or math.nan)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < 1e9:
        raise CommandError(f"{flag} is {text!r}: give a length of time as 30s, 5m, 2h or 1d")
    return round(seconds * 1e9)


def shown(at_ns: int, timespec: str = "seconds") -> str:
    """Show a moment in this machine's zone, to the second or as `datetime.isoformat` is asked."""
    return datetime.fromtimestamp(at_ns / 1e9).astimezone().isoformat(timespec=timespec)


def _what_to_write(text: str, flag: str) -> str:
    return (
        f"{flag} is {text!r}: give a time as 2026-08-22T14:30:00Z, or seconds since the epoch "
        "as 1790000000"
    )
