"""Predict and judge healthy recorded batches before they are learnt: every alarm is false."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from models.judge import WARM_BATCHES, Judge, Judgement
from simulator.datasets import Sample
from simulator.score.confidence import Estimate, mean, rate, share
from simulator.score.paper import ProtocolError, in_jobs

AFTER_BATCHES = (200, 1000, 5000)
# Of a job: what an engine never had to do before shows in the first of them.
FIRST_BATCHES = 5
# Rows that are told of a false incident.
ROWS_BEFORE, ROWS_AFTER = 5, 5
NEAR = 0.1
# Shorter ones end outside the engine's own work, where relative errors say little.
LEAST_MS = 2.0
PER = 10_000
# Between two jobs in an order by chance; a real one waits longer, and from 5 s on suspicion rests.
JOB_GAP_NS = 60_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class FalseIncident:
    """An alarm on healthy batches.

    Attributes:
        number: Of the row with which it began, in the order of time.

        batches: How many it lasted.

        around: Number of each row from a few before it to a few after it, and the ms expected.
    """

    job: str
    number: int
    batches: int
    reason: str
    around: tuple[tuple[int, float | None], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderScore:
    """One pass over all batches.

    Attributes:
        mean_error: Mean of |expected / observed - 1| after the warm-up; likewise ``median_error``.

        within: Share of the batches after the first 200, 1,000, 5,000 whose error is below 10 %.

        within_new: That share of the first five batches of each job.

        false_points: Batches called slow, per 10,000 judged.

        false_incidents: Times that an alarm began, per 10,000 judged.

        incidents: Each of them.
    """

    name: str
    batches: int
    mean_error: float | None
    median_error: float | None
    within: Mapping[str, Estimate]
    within_new: Estimate
    false_points: Estimate
    false_incidents: Estimate
    incidents: tuple[FalseIncident, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PrequentialScore:
    """All passes; ``mean_of_orders`` are means over those with shuffled jobs.

    False points and incidents are summed over these instead, with Poisson's interval: between a few
    orders they hardly differ, which says nothing about how rare they are.
    """

    batches: int
    jobs: int
    orders: tuple[OrderScore, ...]
    mean_of_orders: Mapping[str, Estimate]
    notes: tuple[str, ...] = ()


def play(
    samples: Sequence[Sample], orders: int, on_order: Callable[[int], None] = lambda done: None
) -> PrequentialScore:
    """Play the batches in the order of their time, and with their jobs shuffled.

    Args:
        samples: Batches of a healthy engine in the order of their time.

        orders: How many shuffled orders.

        on_order: Called after each pass with the number of those done.

    Raises:
        ProtocolError: There are too few batches to judge any.
    """
    if len(samples) <= WARM_BATCHES + 1:
        raise ProtocolError(
            f"{len(samples)} batches are too few: the first {WARM_BATCHES} are only learnt; "
            "record more"
        )
    found = [order_score("as they ran", samples)]
    on_order(1)
    for seed in range(1, orders + 1):
        found.append(order_score(f"shuffled {seed}", shuffled(samples, seed)))
        on_order(seed + 1)
    return PrequentialScore(
        batches=len(samples),
        jobs=len({sample.job for sample in samples}),
        orders=tuple(found),
        mean_of_orders=_means(found[1:]),
    )


def order_score(name: str, samples: Sequence[Sample]) -> OrderScore:
    """Judge the batches of one order from an empty memory."""
    judge = Judge()
    judgements = [judge.judge(one.workload, one.duration_ms, one.end_ns) for one in samples]
    errors = [_error(one, judged) for one, judged in zip(samples, judgements, strict=True)]
    known = [error for error in errors[WARM_BATCHES:] if error is not None]
    judged_batches = sum(judged.verdict != "unknown" for judged in judgements)
    incidents = tuple(_incidents(samples, judgements))
    return OrderScore(
        name=name,
        batches=len(samples),
        mean_error=fmean(known) if known else None,
        median_error=median(known) if known else None,
        within={str(after): _near(errors[after:]) for after in AFTER_BATCHES},
        within_new=_near([errors[place] for place in _first_of_jobs(samples)]),
        false_points=_per_10_000(
            share(sum(judged.verdict == "slow" for judged in judgements), judged_batches)
        ),
        false_incidents=rate(len(incidents), judged_batches / PER),
        incidents=incidents,
    )


def is_alarm(judged: Judgement) -> bool:
    """Tell whether an incident goes on: a lone batch may be slow without one."""
    return judged.verdict == "slow" and judged.score is not None and judged.score >= 1


def alarms(alarm: Sequence[bool]) -> list[tuple[int, int]]:
    """Give where each alarm begins and how many batches it lasts.

    >>> alarms([False, True, True, False, True])
    [(1, 2), (4, 1)]
    """
    found: list[tuple[int, int]] = []
    for place, is_on in enumerate(alarm):
        if is_on and place and alarm[place - 1]:
            found[-1] = (found[-1][0], found[-1][1] + 1)
        elif is_on:
            found.append((place, 1))
    return found


def shuffled(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Give the batches with their jobs in another order, each job as it ran."""
    found: list[Sample] = []
    now_ns = min(sample.end_ns for sample in samples)
    for job in in_jobs(samples, random.Random(seed)):
        shift_ns = now_ns + JOB_GAP_NS - job[0].end_ns
        found += [replace(sample, end_ns=sample.end_ns + shift_ns) for sample in job]
        now_ns = found[-1].end_ns
    return found


def _incidents(
    samples: Sequence[Sample], judgements: Sequence[Judgement]
) -> Iterator[FalseIncident]:
    for place, batches in alarms([is_alarm(judged) for judged in judgements]):
        sample, judged = samples[place], judgements[place]
        yield FalseIncident(
            job=sample.job,
            number=sample.number,
            batches=batches,
            reason=judged.reason,
            around=tuple(
                (samples[near].number, judgements[near].expected_ms)
                for near in range(
                    max(0, place - ROWS_BEFORE), min(len(samples), place + ROWS_AFTER + 1)
                )
            ),
        )


def _first_of_jobs(samples: Sequence[Sample]) -> list[int]:
    """Give the places of the first batches of each job, after the warm-up."""
    seen: Counter[str] = Counter()
    found = []
    for place, sample in enumerate(samples):
        seen[sample.job] += 1
        if seen[sample.job] <= FIRST_BATCHES and place >= WARM_BATCHES:
            found.append(place)
    return found


def _error(sample: Sample, judged: Judgement) -> float | None:
    if judged.expected_ms is None or sample.duration_ms <= LEAST_MS:
        return None
    return abs(judged.expected_ms / sample.duration_ms - 1)


def _near(errors: Sequence[float | None]) -> Estimate:
    known = [error for error in errors if error is not None]
    return share(sum(error < NEAR for error in known), len(known))


def _per_10_000(of: Estimate) -> Estimate:
    value, low, high = (None if one is None else PER * one for one in (of.value, of.low, of.high))
    return Estimate(value, low, high, of.n)


def _events(per_10_000: Estimate) -> int:
    return round((per_10_000.value or 0.0) * per_10_000.n / PER)


def _means(orders: Sequence[OrderScore]) -> dict[str, Estimate]:
    def over(values: Sequence[float | None]) -> Estimate:
        return mean([value for value in values if value is not None], resamples=1000, seed=1)

    judged = sum(one.false_points.n for one in orders)
    return {
        "mean_error": over([one.mean_error for one in orders]),
        "median_error": over([one.median_error for one in orders]),
        **{
            f"within_after_{after}": over([one.within[str(after)].value for one in orders])
            for after in AFTER_BATCHES
        },
        "within_new": over([one.within_new.value for one in orders]),
        "false_points": rate(sum(_events(one.false_points) for one in orders), judged / PER),
        "false_incidents": rate(sum(one.false_incidents.n for one in orders), judged / PER),
    }
