"""From counts and outcomes to figures with intervals, for the whole or for any part."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

from simulator.score.confidence import Estimate, f1, quantile, rate, share
from simulator.score.match import FalseIncident, Outcome
from simulator.score.options import Options
from simulator.score.points import Counts, Key

WEEK_NS = 7 * 86_400 * 1_000_000_000
MS = 1e6


@dataclass(frozen=True, slots=True, kw_only=True)
class PointScore:
    """How single batches were called.

    Attributes:
        coverage: Share of the labelled batches that anybody judged.

        unscored: Batches without a label: around the begin or end of a fault, and within one that
            is intermittent, has no effect, or has no end.
    """

    tp: int
    fp: int
    fn: int
    tn: int
    unknown: int
    unscored: int
    precision: Estimate
    recall: Estimate
    f1: Estimate
    false_positive_rate: Estimate
    coverage: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class IncidentScore:
    """How faults were answered.

    Attributes:
        expected: Faults times the engines that felt them; ``found`` counts so, too. Intervals are
            those of as many observations as there are faults.

        faults: How many different ones these are.

        covered: Missed because an earlier incident was still open.

        unscored: Faults that nobody could find, or that have no end; counted nowhere else.

        duplicates: Further incidents before the end of an answered fault; neither right nor false.

        incidents_per_found: Incidents per fault that was found, these included.

        late: Incidents that began within a fault or its grace, and fired after the grace; neither,
            too.

        drift_mistaken: False ones that fired within a control.

        engine_weeks: Time that engines were watched without a fault.
    """

    expected: int
    faults: int
    found: int
    covered: int
    unscored: int
    duplicates: int
    incidents_per_found: float | None
    late: int
    false: int
    drift_mistaken: int
    precision: Estimate
    recall: Estimate
    f1: Estimate
    engine_weeks: float
    false_per_engine_week: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class LagScore:
    """How long until an incident fired, over the faults that were found."""

    batches_p50: Estimate
    batches_p90: Estimate
    ms_p50: Estimate
    ms_p90: Estimate
    since_begin_ms_p50: Estimate
    delivery_ms_p50: Estimate
    delivery_ms_p99: Estimate


@dataclass(frozen=True, slots=True, kw_only=True)
class CauseScore:
    """How often the cause was right: over the faults found, and (``..._of_all``) over all.

    Attributes:
        right_first: By the last word before the incident was resolved. Where faults overlap, any
            cause of those at work is right in the whole, and only its own in the row of a fault.

        named: How often each cause was that last word.
    """

    right_first: Estimate
    right_at_firing: Estimate
    right_in_three: Estimate
    unknown: Estimate
    right_first_of_all: Estimate
    right_in_three_of_all: Estimate
    named: dict[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class EffectScore:
    """How many times as long batches took; medians over the faults."""

    measured: float | None
    true_ratio: float | None
    material: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """All figures of one part of the recording."""

    points: PointScore
    incidents: IncidentScore
    lag: LagScore
    causes: CauseScore
    effect: EffectScore


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """The whole result.

    Attributes:
        material: Faults with an effect that users feel; false incidents count in full.

        by_fault: By name. A false positive belongs to no fault, so neither precision nor F1 is
            given here; likewise ``by_severity``.

        by_control: By name; ``normal`` is the time without control or fault.

        notes: What is missing, or was decided on the way, in sentences.
    """

    options: Options
    begin_ns: int
    end_ns: int
    engines: int
    batches: int
    faults: int
    controls: int
    overall: Group
    material: Group
    by_fault: dict[str, Group]
    by_severity: dict[str, Group]
    by_fault_and_severity: dict[str, dict[str, Group]]
    by_workload: dict[str, Group]
    by_control: dict[str, Group]
    outcomes: tuple[Outcome, ...]
    false: tuple[FalseIncident, ...]
    control_spans: tuple[tuple[str, int, int], ...]
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """What one group is computed from."""

    tallies: Mapping[Key, Counts]
    outcomes: Sequence[Outcome] = ()
    false: Sequence[FalseIncident] = ()
    late: int = 0
    healthy_ns: int = 0
    own_causes: bool = False

    def tallied(self, keep: Callable[[Key], bool]) -> dict[Key, Counts]:
        """Give the counts under the keys to keep."""
        return {key: counts for key, counts in self.tallies.items() if keep(key)}

    def expected(self, keep: Callable[[Outcome], bool]) -> list[Outcome]:
        """Give the outcomes to keep."""
        return [outcome for outcome in self.outcomes if keep(outcome)]


def group(part: Part, options: Options) -> Group:
    """Compute all figures of a part."""
    return Group(
        points=point_score(part.tallies, options),
        incidents=incident_score(part, options),
        lag=lag_score([one for one in part.outcomes if one.found], options),
        causes=cause_score(part.outcomes, own=part.own_causes),
        effect=_effect_score(part.outcomes, options),
    )


def point_score(tallies: Mapping[Key, Counts], options: Options) -> PointScore:
    """Compute the figures of single batches."""
    all_of = Counts()
    faults: dict[tuple[str, ...], list[int]] = defaultdict(lambda: [0, 0])
    engines: Counter[str] = Counter()
    for key, counts in tallies.items():
        all_of.add(counts)
        if counts.tp + counts.fn:
            faults[key.faults[:1]][0] += counts.tp
            faults[key.faults[:1]][1] += counts.fn
        if counts.fp + counts.tn:
            engines[key.engine_id] += counts.fp
    negatives, positives = all_of.fp + all_of.tn, all_of.tp + all_of.fn
    both = bool(negatives and positives)
    units = [(hits, misses, hits) for hits, misses in faults.values()]
    return PointScore(
        tp=all_of.tp,
        fp=all_of.fp,
        fn=all_of.fn,
        tn=all_of.tn,
        unknown=all_of.unknown,
        unscored=all_of.unscored,
        precision=share(all_of.tp, all_of.tp + all_of.fp) if both else Estimate(),
        recall=share(all_of.tp, positives),
        f1=f1(units, [*engines.values()], options.resamples, options.seed) if both else Estimate(),
        false_positive_rate=share(all_of.fp, negatives),
        coverage=share(all_of.scored - all_of.unknown, all_of.scored),
    )


def incident_score(part: Part, options: Options) -> IncidentScore:
    """Compute the figures of incidents."""
    scored = [one for one in part.outcomes if one.scored]
    found = [one for one in scored if one.found]
    answers = {one.incident.incident_id for one in found if one.incident is not None}
    # Without any time free of faults nothing could be false.
    both = bool(scored) and (part.healthy_ns > 0 or bool(part.false))
    duplicates = sum(one.duplicates for one in part.outcomes)
    weeks = part.healthy_ns / WEEK_NS
    return IncidentScore(
        expected=len(scored),
        faults=_faults_of(scored),
        found=len(found),
        covered=sum(one.status == "covered" for one in scored),
        unscored=len(part.outcomes) - len(scored),
        duplicates=duplicates,
        incidents_per_found=(len(answers) + duplicates) / len(answers) if answers else None,
        late=part.late,
        false=len(part.false),
        drift_mistaken=sum(one.control is not None for one in part.false),
        precision=share(
            len(answers), len(answers) + len(part.false), _faults_of(found) + len(part.false)
        )
        if both
        else Estimate(),
        recall=share(len(found), len(scored), _faults_of(scored)),
        f1=_f1(scored, part.false, options) if both else Estimate(),
        engine_weeks=weeks,
        false_per_engine_week=rate(len(part.false), weeks),
    )


def lag_score(found: Sequence[Outcome], options: Options) -> LagScore:
    """Compute quantiles of how long it took."""

    names = [one.fault.fault_id for one in found]

    def of(values: Iterable[float | None], q: float) -> Estimate:
        known = [
            (value, name) for value, name in zip(values, names, strict=True) if value is not None
        ]
        units = [name for _, name in known]
        return quantile([value for value, _ in known], q, options.resamples, options.seed, units)

    batches = [one.lag_batches for one in found]
    lags = [_ms(one.lag_ns) for one in found]
    deliveries = [_ms(one.delivery_ns) for one in found]
    return LagScore(
        batches_p50=of(batches, 0.5),
        batches_p90=of(batches, 0.9),
        ms_p50=of(lags, 0.5),
        ms_p90=of(lags, 0.9),
        since_begin_ms_p50=of((_ms(one.since_begin_ns) for one in found), 0.5),
        delivery_ms_p50=of(deliveries, 0.5),
        delivery_ms_p99=of(deliveries, 0.99),
    )


def cause_score(outcomes: Sequence[Outcome], *, own: bool = False) -> CauseScore:
    """Compute how often the cause was right; a fault that names no cause is left out.

    Args:
        outcomes: Of the faults in question.

        own: Whether only a fault's own causes are right, not those of others at work.
    """
    asked = [one for one in outcomes if one.scored and one.fault.causes]
    found = [one for one in asked if one.found]
    last = sum(right_first(one, own=own) for one in found)
    three = sum(right_in_three(one, own=own) for one in found)
    many, all_of_them = _faults_of(found), _faults_of(asked)
    named = [one.incident.causes[0] for one in found if one.incident is not None]
    return CauseScore(
        right_first=share(last, len(found), many),
        right_at_firing=_right_at_firing(found, own=own),
        right_in_three=share(three, len(found), many),
        unknown=share(named.count("unknown"), len(found), many),
        right_first_of_all=share(last, len(asked), all_of_them),
        right_in_three_of_all=share(three, len(asked), all_of_them),
        named=dict(Counter(named).most_common()),
    )


def right_first(outcome: Outcome, *, own: bool = False) -> bool:
    """Tell whether the last word named a right cause."""
    incident = outcome.incident
    return incident is not None and incident.causes[0] in _right(outcome, own=own)


def right_in_three(outcome: Outcome, *, own: bool = False) -> bool:
    """Tell whether a right cause was among the first three of the last word."""
    incident = outcome.incident
    return incident is not None and not _right(outcome, own=own).isdisjoint(incident.causes[:3])


def _right(outcome: Outcome, *, own: bool) -> frozenset[str]:
    return frozenset(outcome.fault.causes) if own else outcome.causes


def _right_at_firing(found: Sequence[Outcome], *, own: bool) -> Estimate:
    """An incident that fired before the recording began told nobody here a cause."""
    told = [one for one in found if one.incident is not None and one.incident.causes_at_firing]
    right = sum(
        one.incident.causes_at_firing[0] in _right(one, own=own)
        for one in told
        if one.incident is not None
    )
    return share(right, len(told), _faults_of(told))


def _effect_score(outcomes: Sequence[Outcome], options: Options) -> EffectScore:
    effects = [one.effect for one in outcomes if one.effect is not None]
    ratios = [one.fault.true_ratio for one in outcomes if one.fault.true_ratio is not None]
    return EffectScore(
        measured=median(effects) if effects else None,
        true_ratio=median(ratios) if ratios else None,
        material=sum(one.scored and one.is_material(options.material_ratio) for one in outcomes),
    )


def _faults_of(outcomes: Iterable[Outcome]) -> int:
    """Count the faults: what one does to several engines is not independent."""
    return len({one.fault.fault_id for one in outcomes})


def _f1(scored: Sequence[Outcome], false: Sequence[FalseIncident], options: Options) -> Estimate:
    """F1 of precision over incidents and recall over faults: one incident may answer two."""
    answered = Counter(one.incident.incident_id for one in scored if one.found and one.incident)
    faults: dict[str, list[float]] = defaultdict(lambda: [0, 0, 0])
    for outcome in scored:
        unit = faults[outcome.fault.fault_id]
        unit[not outcome.found] += 1
        if outcome.found and outcome.incident is not None:
            unit[2] += 1 / answered[outcome.incident.incident_id]
    wrong = Counter({one.engine_id: 0 for one in scored})
    wrong.update(one.incident.engine_id for one in false)
    units = [(hits, misses, answers) for hits, misses, answers in faults.values()]
    return f1(units, [*wrong.values()], options.resamples, options.seed)


def _ms(ns: int | None) -> float | None:
    return None if ns is None else ns / MS
