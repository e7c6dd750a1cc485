"""What the batches of a time cost, and what of that their work explains."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from schemas.incidents import Incident
from schemas.records import Batch

WORST = 5
# The end of what is not over.
OPEN_NS = sys.maxsize


@dataclass(slots=True, kw_only=True)
class Sums:
    """Batches of one engine, added up.

    One that stands for many counts as many.

    Attributes:
        judged: Those that something was expected of; the times are theirs.

        verdicts: How many had each.

        missed: Iterations that are known and were not timed.

        gaps_ns: What gaps before batches took too long, where they were called so.

        terms_ns: What the expected time is made of; adds up to ``expected_ns``.
    """

    batches: int = 0
    judged: int = 0
    missed: int = 0
    observed_ns: int = 0
    expected_ns: int = 0
    gaps_ns: int = 0
    verdicts: dict[str, int] = field(default_factory=dict)
    terms_ns: dict[str, int] = field(default_factory=dict)

    @property
    def lost_ns(self) -> int:
        """What batches took beyond what their work explains; below 0 where they were quicker."""
        return self.observed_ns - self.expected_ns

    def add(self, batch: Batch) -> None:
        """Take in a batch."""
        times = max(batch.iterations, 1)
        self.batches += times
        self.missed += batch.missed
        _add_to(self.verdicts, {batch.verdict: times})
        if "gap" in batch.slow_parts:
            self.gaps_ns += max((batch.gap_ns or 0) - (batch.expected_gap_ns or 0), 0)
        if batch.expected_ns is None:
            return
        self.judged += times
        self.observed_ns += batch.duration_ns * times
        self.expected_ns += batch.expected_ns * times
        _add_to(self.terms_ns, {name: value * times for name, value in batch.terms_ns.items()})

    def add_all(self, other: Sums) -> None:
        """Take in those of another time."""
        for name in ("batches", "judged", "missed", "observed_ns", "expected_ns", "gaps_ns"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        _add_to(self.verdicts, other.verdicts)
        _add_to(self.terms_ns, other.terms_ns)

    def made_of(self) -> dict[str, int]:
        """Give the terms of the expected time; where they lack something, it was learnt."""
        return complete_terms(self.terms_ns, self.expected_ns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Which time of which engine; without ``begin_ns`` the last ``last_ns`` of what there is."""

    engine_id: str
    begin_ns: int | None = None
    end_ns: int | None = None
    last_ns: int | None = None

    def bounds_ns(self, newest_ns: int) -> tuple[int, int]:
        """Give begin and end, from when the engine's newest batch was over."""
        # A batch that begins with the end is not in it any more.
        end_ns = newest_ns + 1 if self.end_ns is None else self.end_ns
        if self.begin_ns is not None:
            return self.begin_ns, end_ns
        return end_ns - (self.last_ns or 0), end_ns


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """What there was of one engine in a time: batches that began in it.

    Attributes:
        whole: All of them.

        outside: Those in no incident; ``during`` has those of each of ``incidents``.

        before: Those of the time just before, as long.

        worst: Those that lost most, worst first.
    """

    engine_id: str
    begin_ns: int
    end_ns: int
    incidents: tuple[Incident, ...]
    during: tuple[Sums, ...]
    outside: Sums
    before: Sums
    worst: tuple[Batch, ...]

    @property
    def whole(self) -> Sums:
        """All of them."""
        total = Sums()
        for one in (self.outside, *self.during):
            total.add_all(one)
        return total


class Spans(Protocol):
    """Where batches are kept that can be added up."""

    def span(self, asked: Asked) -> Span | None:
        """Add up a time; None where the engine has no batch in it."""
        ...


def overlapping(incidents: Iterable[Incident], begin_ns: int, end_ns: int) -> tuple[Incident, ...]:
    """Give the incidents that were there at some time of a span, in order."""
    there = [
        one for one in incidents if one.begin_ns < end_ns and (one.end_ns or OPEN_NS) > begin_ns
    ]
    return tuple(sorted(there, key=lambda one: one.begin_ns))


def place_of(batch_begin_ns: int, incidents: Sequence[Incident]) -> int | None:
    """Give which incident a batch is in, by its beginning: at most one is on at a time."""
    for number, one in enumerate(incidents):
        if one.begin_ns <= batch_begin_ns < (one.end_ns or OPEN_NS):
            return number
    return None


def lost_ns(batch: Batch) -> float:
    """Give by how much a batch missed what was expected; endlessly little where nothing was."""
    return float("-inf") if batch.expected_ns is None else batch.duration_ns - batch.expected_ns


def complete_terms(terms_ns: dict[str, int], expected_ns: int) -> dict[str, int]:
    """Give terms that add up to what was expected; what they lack was learnt.

    Earlier versions did not tell what memory adds to the physical terms.
    """
    if not terms_ns:
        return {}
    lacking_ns = expected_ns - sum(terms_ns.values())
    return terms_ns | {"memory": lacking_ns + terms_ns.get("memory", 0)}


def _add_to(sums: dict[str, int], more: dict[str, int]) -> None:
    for name, value in more.items():
        sums[name] = sums.get(name, 0) + value
