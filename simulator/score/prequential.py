"""Predict and judge healthy recorded batches before they are learnt: every alarm is false."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean, median

from models.judge import WARM_BATCHES, Judge, Judgement
from simulator.datasets import Sample
from simulator.score.confidence import Estimate, mean, rate, share
from simulator.score.paper import ProtocolError, in_jobs

AFTER_BATCHES = (200, 1000, 5000)
NEAR = 0.1
# Shorter ones end outside the engine's own work, where relative errors say little.
LEAST_MS = 2.0
PER = 10_000
# Between two jobs in an order by chance; a real one waits longer, and from 5 s on suspicion rests.
JOB_GAP_NS = 60_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderScore:
    """One pass over all batches.

    Attributes:
        mean_error: Mean of |expected / observed - 1| after the warm-up; likewise ``median_error``.

        within: Share of the batches after the first 200, 1,000, 5,000 whose error is below 10 %.

        false_points: Batches called slow, per 10,000 judged.

        false_incidents: Times that an alarm began, per 10,000 judged.
    """

    name: str
    batches: int
    mean_error: float | None
    median_error: float | None
    within: Mapping[str, Estimate]
    false_points: Estimate
    false_incidents: Estimate


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
    slow = [judged.verdict == "slow" for judged in judgements]
    judged_batches = sum(judged.verdict != "unknown" for judged in judgements)
    return OrderScore(
        name=name,
        batches=len(samples),
        mean_error=fmean(known) if known else None,
        median_error=median(known) if known else None,
        within={str(after): _near(errors[after:]) for after in AFTER_BATCHES},
        false_points=_per_10_000(share(sum(slow), judged_batches)),
        false_incidents=rate(alarms(slow), judged_batches / PER),
    )


def alarms(slow: Sequence[bool]) -> int:
    """Count how often an alarm begins.

    >>> alarms([False, True, True, False, True])
    2
    """
    return sum(now and not before for before, now in zip([False, *slow], slow, strict=False))


def shuffled(samples: Sequence[Sample], seed: int) -> list[Sample]:
    """Give the batches with their jobs in another order, each job as it ran."""
    found: list[Sample] = []
    now_ns = min(sample.end_ns for sample in samples)
    for job in in_jobs(samples, random.Random(seed)):
        shift_ns = now_ns + JOB_GAP_NS - job[0].end_ns
        found += [replace(sample, end_ns=sample.end_ns + shift_ns) for sample in job]
        now_ns = found[-1].end_ns
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
        "false_points": rate(sum(_events(one.false_points) for one in orders), judged / PER),
        "false_incidents": rate(sum(one.false_incidents.n for one in orders), judged / PER),
    }
