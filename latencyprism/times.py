"""Moments as a user writes them: ISO 8601, or seconds since the Unix epoch."""

from __future__ import annotations

import math
from datetime import datetime

from latencyprism.errors import CommandError


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


def shown(at_ns: int) -> str:
    """Show a moment in this machine's zone, to the second."""
    return datetime.fromtimestamp(at_ns / 1e9).astimezone().isoformat(timespec="seconds")


def _what_to_write(text: str, flag: str) -> str:
    return (
        f"{flag} is {text!r}: give a time as 2026-08-22T14:30:00Z, or seconds since the epoch "
        "as 1790000000"
    )
