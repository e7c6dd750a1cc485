"""Silences: which incidents people do not want to be told of for a while."""

import re
import uuid
from collections.abc import Mapping
from dataclasses import replace
from fnmatch import fnmatchcase
from typing import get_args

from schemas.records import Silence, SilenceReason

MATCHABLE = ("engine_id", "host", "model", "framework", "cause", "severity")
REASONS: tuple[SilenceReason, ...] = get_args(SilenceReason)
_REASONS: dict[str, SilenceReason] = {one: one for one in REASONS}
LONGEST_SECONDS = 30 * 86_400.0
LONGEST_PATTERN = 200
# A record holds no text of people: a name is short, and of one line.
NAME = re.compile(r"[\w.@+/ -]{1,80}")
# A silence is remembered for so long after its end: a record of it that comes late is then known
# to be an old one.
KEPT_NS = 3_600_000_000_000
MOST_SILENCES = 10_000


class Silences:
    """All silences that are in force or will be: the newest record of each counts."""

    def __init__(self) -> None:
        self._newest: dict[str, Silence] = {}

    def hear(self, silence: Silence) -> None:
        """Take in a record, in any order."""
        known = self._newest.get(silence.silence_id)
        if known is None or silence.at_ns >= known.at_ns:
            self._newest[silence.silence_id] = silence

    def in_force(self, now_ns: int) -> list[Silence]:
        """Give those that are not over, those that have yet to begin included."""
        return [one for one in self._newest.values() if one.end_ns > now_ns]

    def find(self, silence_id: str) -> Silence | None:
        """Give the newest record of a silence."""
        return self._newest.get(silence_id)

    def match(self, labels: Mapping[str, str | None], now_ns: int) -> str | None:
        """Give the id of a silence that is in force and matches, if there is one.

        What is not known of an engine matches no pattern: better told once too often.
        """
        for one in self._newest.values():
            if one.begin_ns <= now_ns < one.end_ns and matches(one, labels):
                return one.silence_id
        return None

    def forget(self, now_ns: int) -> None:
        """Drop those that are long over, and the oldest of too many."""
        for one in list(self._newest.values()):
            if one.end_ns + KEPT_NS < now_ns or len(self._newest) > MOST_SILENCES:
                del self._newest[one.silence_id]


def matches(silence: Silence, labels: Mapping[str, str | None]) -> bool:
    """Tell whether every matcher of a silence fits."""
    return bool(silence.matchers) and all(
        (value := labels.get(name)) is not None and fnmatchcase(value, pattern)
        for name, pattern in silence.matchers.items()
    )


def new_silence(
    matchers: Mapping[str, str], seconds: float, reason: str, by: str | None, now_ns: int
) -> Silence:
    """Make a silence that begins now.

    Raises:
        ValueError: It cannot be one; the text says what to do.
    """
    if not matchers:
        raise ValueError(f"no matcher: name one of {', '.join(MATCHABLE)} with a pattern")
    for name, pattern in matchers.items():
        if name not in MATCHABLE:
            raise ValueError(f"unknown matcher {name[:40]!r}: use one of {', '.join(MATCHABLE)}")
        if not 0 < len(pattern) <= LONGEST_PATTERN or not pattern.isprintable():
            raise ValueError(
                f"the pattern of {name} has {len(pattern)} characters or unprintable ones: give 1 "
                f"to {LONGEST_PATTERN}"
            )
    if not 0 < seconds <= LONGEST_SECONDS:
        raise ValueError(f"a silence of {seconds:g} s: give more than 0 s and at most 30 days")
    known = _REASONS.get(reason)
    if known is None:
        raise ValueError(f"unknown reason {reason[:40]!r}: use one of {', '.join(REASONS)}")
    return Silence(
        silence_id=uuid.uuid4().hex[:16],
        at_ns=now_ns,
        begin_ns=now_ns,
        end_ns=now_ns + round(seconds * 1e9),
        matchers=dict(matchers),
        reason=known,
        by=None if by is None else checked_name(by),
    )


def ended(silence: Silence, now_ns: int) -> Silence:
    """Give the record that ends a silence now."""
    return replace(silence, at_ns=now_ns, end_ns=min(silence.end_ns, now_ns))


def checked_name(by: str) -> str:
    """Give somebody's name as it was given.

    Raises:
        ValueError: It is no name.
    """
    if not NAME.fullmatch(by) or not by.strip():
        raise ValueError(
            "'by' is no name: give 1 to 80 letters, digits, blanks or any of . @ + / _ -"
        )
    return by
