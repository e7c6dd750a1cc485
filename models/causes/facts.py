"""What is known of an incident when its cause is asked for."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from schemas.records import ThrottleReason

Counters = dict[str, float]

# Pauses remembered of an incident.
MOST_PAUSES = 64


# A pause counts among the long ones that is at least half as long as they mostly are.
LONG_SHARE = 0.5


@dataclass(frozen=True, slots=True)
class Pause:
    """A batch that took far longer than it should.

    Attributes:
        excess_ns: The time that it took too long.

        is_new: Its shape was another than that of the batch before.

        phase: Where it spent most of that time.
    """

    excess_ns: int
    is_new: bool
    phase: str


@dataclass(slots=True, kw_only=True)
class Pauses:
    """Whether a few batches carry the slowdown, or all of them.

    Attributes:
        batches: Of the incident, looked at so far; likewise ``excess_ns`` the time that they took
            too long.

        changed: Batches of another shape than the one before.

        preempting: Batches after which fewer requests ran and more waited.

        newest: The last ones that were far above what they should take; ``count`` of them in all.
    """

    batches: int = 0
    excess_ns: int = 0
    changed: int = 0
    preempting: int = 0
    count: int = 0
    newest: list[Pause] = field(default_factory=list)

    def add(self, pause: Pause) -> None:
        """Take in a pause."""
        self.count += 1
        self.newest = [*self.newest, pause][-MOST_PAUSES:]

    @property
    def typical_ns(self) -> float:
        """How long pauses last, those counting most that cost most."""
        total = sum(one.excess_ns for one in self.newest)
        return sum(one.excess_ns**2 for one in self.newest) / total if total else 0.0

    @property
    def long(self) -> list[Pause]:
        """Those that matter, without what is long by chance."""
        return [one for one in self.newest if one.excess_ns >= LONG_SHARE * self.typical_ns]


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """An engine's normal, and what it is like in the incident.

    Attributes:
        before: Counters normally; ``during`` in the incident.

        phases_before_ns: Mean time of each phase per batch, normally; likewise
            ``phases_during_ns``.

        expected_ratio: Expected duration of the incident's batches over that of the normal ones,
            so that a heavier workload does not count as inflation.

        pauses: How the slowdown is spread over batches.

        by_gaps: Gaps between batches cost more than the batches.

        partial: The counters are of a time that began before the incident.
    """

    before: Counters = field(default_factory=dict)
    during: Counters = field(default_factory=dict)
    phases_before_ns: dict[str, float] = field(default_factory=dict)
    phases_during_ns: dict[str, float] = field(default_factory=dict)
    expected_ratio: float = 1.0
    pauses: Pauses = field(default_factory=Pauses)
    throttle_reasons: tuple[ThrottleReason, ...] = ()
    by_gaps: bool = False
    partial: bool = False

    @property
    def has_device(self) -> bool:
        """Whether counters of an accelerator are known."""
        return any(name.startswith("xpu_") for name in self.before)

    def rise(self, name: str) -> float | None:
        """Give how much a counter grew; None where it is not known at either time."""
        if name not in self.before or name not in self.during:
            return None
        return self.during[name] - self.before[name]

    def grew(self, name: str) -> float:
        """Give how much a counter grew; 0 where that is not known."""
        return self.rise(name) or 0.0

    def inflation(self, phase: str) -> float | None:
        """Give how many times as long as its work explains a phase takes."""
        expected_ns = self.phases_before_ns.get(phase, 0.0) * self.expected_ratio
        if expected_ns <= 0 or phase not in self.phases_during_ns:
            return None
        return self.phases_during_ns[phase] / expected_ns

    def inflations(self) -> dict[str, float]:
        """Give that of each phase that is known at both times."""
        found = {phase: self.inflation(phase) for phase in self.phases_during_ns}
        return {phase: ratio for phase, ratio in found.items() if ratio is not None}

    def added_ns(self) -> dict[str, float]:
        """Give the time that each phase takes beyond its work, where it is more."""
        if not self.phases_before_ns:
            return {}
        added = {
            phase: during_ns - self.phases_before_ns.get(phase, 0.0) * self.expected_ratio
            for phase, during_ns in self.phases_during_ns.items()
        }
        return {phase: value for phase, value in added.items() if value > 0}

    def slowness(self) -> float | None:
        """Give how many times as long as expected batches take, by their phases."""
        before_ns = sum(self.phases_before_ns.values()) * self.expected_ratio
        during_ns = sum(self.phases_during_ns.values())
        return during_ns / before_ns if before_ns > 0 and during_ns > 0 else None


Pressure = Callable[[Facts], float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """Something that may be the matter.

    Attributes:
        name: As of `schemas.causes`.

        pressure: How much of the resource's capacity is gone, or of the engine's time, from 0 to
            1; None where what it would be seen by is not known.

        gate: Pressure below this is noise.

        sentence: For the alert; ``{before}`` and ``{during}`` are filled with the counter's values.

        shows: The counter that makes the case; the one that is missing where pressure is None.

        scale: What the counter is multiplied by for a reader, and its unit.

        next_step: What a person on call should do first.

        phases: Those that it lengthens; empty for any.

        applies: Whether an engine can have it at all; else nothing is missing to know.

        tell: Writes the sentence where a counter alone cannot.
    """

    name: str
    pressure: Pressure
    gate: float
    sentence: str
    shows: str
    next_step: str
    scale: tuple[float, str] = (100, " %")
    phases: frozenset[str] = frozenset()
    applies: Callable[[Facts], bool] = lambda _: True
    tell: Callable[[Facts], str] | None = None

    def said(self, facts: Facts) -> str:
        """Give the sentence, with its numbers."""
        if self.tell is not None:
            return self.tell(facts)
        values: dict[str, Any] = {
            "before": self._shown(facts.before),
            "during": self._shown(facts.during),
        }
        return self.sentence.format(**values)

    def _shown(self, counters: Counters) -> str:
        factor, unit = self.scale
        value = counters.get(self.shows)
        return "unknown" if value is None else f"{value * factor:.3g}{unit}"


def headroom_taken(name: str) -> Pressure:
    """Give what is taken of what was free of a share."""

    def pressure(facts: Facts) -> float | None:
        rise = facts.rise(name)
        return None if rise is None else rise / max(1 - facts.before[name], 0.05)

    return pressure


def relative_loss(name: str) -> Pressure:
    """Give what share of itself a counter lost."""

    def pressure(facts: Facts) -> float | None:
        if not facts.before.get(name) or name not in facts.during:
            return None
        return 1 - facts.during[name] / facts.before[name]

    return pressure


def rise(name: str) -> Pressure:
    """Give how much a share grew."""
    return lambda facts: facts.rise(name)
