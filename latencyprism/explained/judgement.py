"""What an incident's alerts judged and by which numbers, best first, for words and for programs."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from latencyprism.explained.words import sure
from latencyprism.told import Told
from models.causes import CAUSES as KNOWN
from models.causes.rules import RULES
from schemas.causes import CAUSES
from schemas.records import Alert, Evidence

# A counter that moved by less of itself (a share: of the whole) did not change.
LEAST_CHANGE = 0.02
# Beside the phases, what whole batches should have taken.
EXPECTED = "expected"
LATER_VERSION = "a cause of a later version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rival:
    """A cause that was considered and is not the one that is named.

    Attributes:
        gate: Pressure below this is noise; None where this version does not know the cause.

        possible: Whether it was told as another possible cause.
    """

    cause: str
    pressure: float | None
    gate: float | None
    possible: bool
    why_not: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Moved:
    """A phase (ns per batch) or a counter, before the incident and during it.

    Attributes:
        inflation: How many times as long as its work explains a phase took.
    """

    name: str
    before: float | None
    during: float | None
    inflation: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The cause, and what it was judged by.

    Attributes:
        shown_by: The counter that makes the case, if a resource is named.

        rivals: Strongest first.

        phases: Those that added most time first; ``counters`` likewise by how far they moved.
    """

    cause: str
    meaning: str
    confidence: float
    confidence_in_words: str
    next_step: str
    pressure: float | None
    gate: float | None
    shown_by: str | None
    rivals: tuple[Rival, ...]
    phases: tuple[Moved, ...]
    counters: tuple[Moved, ...]

    def to_plain(self) -> dict[str, Any]:
        """Give it for JSON."""
        return asdict(self)


def judgement_of(told: Told) -> Judgement:
    """Say what was judged: the cause by the last word, the numbers by the best evidence of it."""
    word, evidence = told.last_word, evidence_of(told)
    return Judgement(
        cause=word.cause,
        meaning=CAUSES.get(word.cause, LATER_VERSION),
        confidence=word.confidence,
        confidence_in_words=sure(word.confidence),
        next_step=_next_step(told),
        pressure=evidence.pressures.get(word.cause),
        gate=_gate(word.cause),
        shown_by=_shown_by(word.cause, evidence),
        rivals=_rivals(word, evidence),
        phases=_phases(evidence),
        counters=_counters(evidence),
    )


def evidence_of(told: Told) -> Evidence:
    """Give the evidence of the last word; counters may have come in with the end only."""
    evidence = told.last_word.evidence
    return evidence if evidence.counters_during else told.newest.evidence


def _next_step(told: Told) -> str:
    # Where no counters were in yet, the last word was to wait for them.
    word = told.last_word
    return word.next_step if word.evidence.counters_during else told.newest.next_step


def _gate(cause: str) -> float | None:
    """Give the pressure below which a cause is noise; the least where it is seen in many ways."""
    return min((one.gate for one in KNOWN if one.name == cause), default=None)


def _shown_by(cause: str, evidence: Evidence) -> str | None:
    """Give the counter by which a cause is seen, of those that are known."""
    names = [one.shows for one in KNOWN if one.name == cause]
    return next((name for name in names if name in evidence.counters_during), None)


def _rivals(word: Alert, evidence: Evidence) -> tuple[Rival, ...]:
    names = {*evidence.pressures, *word.other_causes} - {word.cause}
    found = [
        Rival(
            cause=name,
            pressure=evidence.pressures.get(name),
            gate=_gate(name),
            possible=name in word.other_causes,
            why_not=_why_not(name, word, evidence),
        )
        for name in names
    ]
    return tuple(sorted(found, key=lambda one: (not one.possible, -(one.pressure or 0), one.cause)))


def _why_not(name: str, word: Alert, evidence: Evidence) -> str:
    pressure, gate = evidence.pressures.get(name), _gate(name)
    if name in word.other_causes:
        return f"possible, too; {word.cause} is the stronger one"
    if pressure is None or gate is None:
        return "this version knows no gate for it"
    if pressure < gate:
        return "below its gate"
    for rule in RULES:
        by = [one for one in (word.cause, *word.other_causes) if one in rule.by]
        if rule.away == name and by:
            return f"explained away by {by[0]}: {rule.why}"
    return f"above its gate, and {word.cause} was told by other evidence"


def _phases(evidence: Evidence) -> tuple[Moved, ...]:
    before, during = evidence.phases_before_ns, evidence.phases_during_ns
    found = [
        Moved(
            name=name,
            before=before.get(name),
            during=during.get(name),
            inflation=_inflation(name, evidence),
        )
        for name in {**before, **during, **evidence.inflations}
        if name != EXPECTED
    ]
    return tuple(sorted(found, key=lambda one: (one.before or 0) - (one.during or 0)))


def _inflation(phase: str, evidence: Evidence) -> float | None:
    """Give how many times as long as its work explains a phase took.

    Earlier versions did not tell it, but what was expected at either time.
    """
    told = evidence.inflations.get(phase)
    before, during = evidence.phases_before_ns, evidence.phases_during_ns
    if told is not None or not (before.get(phase) and before.get(EXPECTED) and phase in during):
        return told
    work = during.get(EXPECTED, before[EXPECTED]) / before[EXPECTED]
    return during[phase] / (before[phase] * work) if work > 0 else None


def _counters(evidence: Evidence) -> tuple[Moved, ...]:
    before, during = evidence.counters_before, evidence.counters_during
    found = [
        Moved(name=name, before=before.get(name), during=during.get(name))
        for name in {**before, **during}
    ]
    moved = [one for one in found if _moved_by(one) >= LEAST_CHANGE]
    return tuple(sorted(moved, key=lambda one: (-_moved_by(one), one.name)))


def _moved_by(one: Moved) -> float:
    """How far a counter moved: a share by its difference, all else by its part of the larger."""
    if one.before is None or one.during is None:
        return 0.0
    difference = abs(one.during - one.before)
    if one.name.endswith("_ratio"):
        return difference
    return difference / (max(abs(one.before), abs(one.during)) or 1.0)
