"""Name the cause of a slowdown: which resource is under pressure, and which phase got dearer.

Two judgements kept apart. *Pressure*: how much of a resource's capacity is gone compared with
this engine's own normal, from 0 to 1. *Inflation*: how much longer a phase takes than its share
of the expected duration. The cause is the largest pressure above its gate, of those whose phases
grew; where nothing is short, how the slowdown is spread over batches may tell; else the phase that
grew most is named and so is where to look.
"""

from dataclasses import dataclass, field

from models.causes import CAUSES, ENGINE, PHASES, RESOURCES, Cause, Facts, PhaseCause
from models.causes.accelerator import DEVICE_PHASES, clock_step
from models.causes.confidence import Basis, confidence_of
from models.causes.engine import computes_besides
from models.causes.host import by_elimination
from models.causes.rules import explained

UNKNOWN = "unknown"
STALL = "stall"
# Pressure of an unnamed rival in the margin: two pressures of this size are a toss-up.
DOUBT = 0.05
# A resource whose phases carry less of the time lost than this counts half.
SUPPORT = 0.3
# What carries so much of the time lost, and is not explained by the cause, is another one.
ANOTHER = 0.15
# ... where it grew so many times as much as the others, and so many batches tell it.
AHEAD = 1.5
LEAST_BATCHES = 20
# Of phases behind which nothing is known, the next one is listed from this share on.
FURTHER = 0.25
# The phase that carries less than this of the time lost is not named.
LEAST_SHARE = 0.4


@dataclass(frozen=True, slots=True, kw_only=True)
class Attribution:
    """The cause named first, how sure, and what else is above its gate.

    Attributes:
        basis: What it rests on; ``margin`` is how far the cause is ahead of its rivals.

        inflations: How many times as long as its work explains each phase takes.

        missing: By cause, the counter that would have decided whether it is one.
    """

    cause: str
    confidence: float
    sentence: str
    next_step: str
    others: tuple[str, ...] = ()
    pressures: dict[str, float] = field(default_factory=dict)
    basis: Basis = "none"
    margin: float = 0.0
    inflations: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def attribute(facts: Facts) -> Attribution:
    """Name the cause of an incident from what is known of it.

    >>> found = attribute(Facts(before={"others_cpu_ratio": 0.1}, during={"others_cpu_ratio": 0.8}))
    >>> found.cause, round(found.pressures["host_cpu_contention"], 2)
    ('host_cpu_contention', 0.78)
    """
    pressures, missing = _pressures(facts)
    ranked = _ranked(RESOURCES, facts, pressures)
    own = [one for one in _ranked(ENGINE, facts, pressures) if one not in ranked][:1]
    ranked += own
    waits = pressures.get("run_queue_delay", 0.0)
    if own == ["engine_pause"] and computes_besides(facts) and pressures[own[0]] > waits:
        # Seen by a counter, too, in CPUs as others' load is; who waits for a CPU takes none.
        ranked.sort(key=lambda name: -pressures[name])
    left = explained(ranked, facts, pressures)
    inflations = {phase: round(value, 4) for phase, value in facts.inflations().items()}
    if not left:
        return _by_phase(facts, pressures, inflations, missing)
    first = _cause_of(left[0], facts, pressures)
    is_resource = first in RESOURCES
    margin = _margin([pressures[name] for name in left])
    basis: Basis = "counter" if is_resource else "signature"
    if is_resource and facts.partial:
        basis = "partial"
    elif _is_guessed(first, facts):
        basis = "phase"
    return Attribution(
        cause=first.name,
        confidence=confidence_of(basis, margin),
        sentence=first.said(facts),
        next_step=_next_step(first, facts),
        others=(*left[1:], *_further_phases(first, facts)),
        pressures=pressures,
        basis=basis,
        margin=margin,
        inflations=inflations,
        missing={} if is_resource else missing,
    )


def _is_guessed(cause: Cause, facts: Facts) -> bool:
    """Tell whether a cause is named by gaps or by elimination: that says no more than a phase."""
    if cause.name == "engine_pause":
        return facts.by_gaps and not computes_besides(facts)
    return cause.name == "memory_bandwidth" and by_elimination(facts)


def _pressures(facts: Facts) -> tuple[dict[str, float], dict[str, str]]:
    """Give the pressure of each cause, and what is missing to know the others'."""
    found: dict[str, float] = {}
    missing: dict[str, str] = {}
    for cause in CAUSES:
        pressure = cause.pressure(facts)
        if pressure is not None:
            value = round(max(0.0, min(1.0, pressure)), 4)
            found[cause.name] = max(value, found.get(cause.name, 0.0))
        elif cause in RESOURCES and cause.applies(facts):
            missing[cause.name] = cause.shows
    return found, {name: shows for name, shows in missing.items() if not found.get(name)}


def _ranked(causes: tuple[Cause, ...], facts: Facts, pressures: dict[str, float]) -> list[str]:
    """Give the causes above their gates, strongest first."""
    weights = {
        cause.name: pressures[cause.name] * (1.0 if _is_supported(cause, facts) else 0.5)
        for cause in causes
        if pressures.get(cause.name, 0.0) >= cause.gate
    }
    return sorted(weights, key=lambda name: -weights[name])


def _is_supported(cause: Cause, facts: Facts) -> bool:
    """Tell whether the phases that a cause lengthens carry time that was lost."""
    added = facts.added_ns()
    total = sum(added.values())
    if not cause.phases or total <= 0:
        return True
    return sum(added.get(phase, 0.0) for phase in cause.phases) >= SUPPORT * total


def _cause_of(name: str, facts: Facts, pressures: dict[str, float]) -> Cause:
    """Give the entry that makes the case, where one name has several."""
    named = [cause for cause in CAUSES if cause.name == name]
    strong = [cause for cause in named if (cause.pressure(facts) or 0.0) >= cause.gate]
    return max(strong or named, key=lambda cause: cause.pressure(facts) or 0.0)


def _margin(pressures: list[float]) -> float:
    rival = pressures[1] if len(pressures) > 1 else 0.0
    return pressures[0] / (pressures[0] + rival + DOUBT)


def _next_step(cause: Cause, facts: Facts) -> str:
    return (clock_step(facts) if cause.name == "accelerator_clock" else None) or cause.next_step


def _further_phases(first: Cause | PhaseCause, facts: Facts) -> tuple[str, ...]:
    """Name phases that lost much time which the cause does not explain.

    What is short slows the phases that need it about alike: one that is far ahead of all others
    has a cause of its own.
    """
    added = facts.added_ns()
    total = sum(added.values())
    if facts.pauses.batches < LEAST_BATCHES or total <= 0:
        return ()
    explains = frozenset(first.phases)
    if first.name == "engine_pause":
        explains = DEVICE_PHASES
    return tuple(
        one.name
        for one in PHASES
        if not explains & set(one.phases)
        and sum(added.get(phase, 0.0) for phase in one.phases) >= ANOTHER * total
        and _is_ahead(one, facts)
    )


def _is_ahead(one: PhaseCause, facts: Facts) -> bool:
    """Tell whether phases grew far more than all others together."""

    def growth(phases: set[str]) -> float:
        before_ns = sum(facts.phases_before_ns.get(name, 0.0) for name in phases)
        during_ns = sum(facts.phases_during_ns.get(name, 0.0) for name in phases)
        return during_ns / max(before_ns * facts.expected_ratio, 1.0)

    others = facts.phases_before_ns.keys() - set(one.phases)
    return growth(set(one.phases)) >= AHEAD * max(growth(others), 1.0)


def _by_phase(
    facts: Facts,
    pressures: dict[str, float],
    inflations: dict[str, float],
    missing: dict[str, str],
) -> Attribution:
    # What counts is the time that a phase added, not its own ratio: a tripled microsecond is
    # no cause.
    added = facts.added_ns()
    total = sum(added.values())
    shares = {
        one: sum(added.get(phase, 0.0) for phase in one.phases) / total if total else 0.0
        for one in PHASES
    }
    first = max(shares, key=lambda one: shares[one])
    if shares[first] < LEAST_SHARE:
        return Attribution(
            cause=UNKNOWN,
            confidence=0.0,
            sentence="no counter of the host and no phase explains it",
            next_step="take a capture of the engine's stacks while it lasts",
            pressures=pressures,
            inflations=inflations,
            missing=missing,
        )
    blind = facts.partial or not facts.during
    basis: Basis = "blind" if blind else "phase"
    grown = _grown(first.phases, facts)
    return Attribution(
        cause=first.name,
        confidence=confidence_of(basis, shares[first]),
        sentence=f"{grown}; the counters of this time are not in yet"
        if blind
        else f"{grown}, and no resource that is read is short",
        next_step="wait for the update of this alert, due within seconds"
        if blind
        else first.next_step,
        others=() if blind else _further_by_share(first, shares, facts),
        pressures=pressures,
        basis=basis,
        margin=shares[first],
        inflations=inflations,
        missing=missing,
    )


def _further_by_share(
    first: PhaseCause, shares: dict[PhaseCause, float], facts: Facts
) -> tuple[str, ...]:
    if facts.pauses.batches < LEAST_BATCHES:
        return ()
    further = [one for one in shares if one is not first and shares[one] >= FURTHER]
    return tuple(one.name for one in sorted(further, key=lambda one: -shares[one]))


def _grown(phases: tuple[str, ...], facts: Facts) -> str:
    before_ns = sum(facts.phases_before_ns.get(one, 0.0) for one in phases) * facts.expected_ratio
    during_ns = sum(facts.phases_during_ns.get(one, 0.0) for one in phases)
    name = phases[0]
    if before_ns <= 0:
        return f"the {name} phase takes {during_ns / 1e6:.1f} ms and took none before"
    return f"the {name} phase takes {during_ns / before_ns:.2f} times as long for its work"
