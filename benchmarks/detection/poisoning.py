"""2,000 slow batches in a row: whether the last ones are called slow, and what is left of it."""

from __future__ import annotations

import random
import statistics
from collections.abc import Callable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.detection.data import load
from benchmarks.detection.report import Grid, Report, at_least, at_most, number, percent
from models.judge import Judge
from simulator.datasets import Sample
from simulator.score.data_report import slowdown
from simulator.score.disturb import disturbance
from simulator.score.prequential import shuffled

SLOW_BATCHES, AFTER_BATCHES = 2000, 3000
LAST_BATCHES = 100
FIRST_PLACE = 5000
ORDERS, PLACES = 2, 4
# Without a slowdown first: what is flagged then is flagged anyway.
UNTOUCHED = "1"
SLOWDOWNS = (UNTOUCHED, "1.1", "1.2", "1.5", "2", "ramp")
LEAST_FLAGGED, MOST_CLEARING, MOST_FALSE = 0.99, 5, 0


@dataclass(frozen=True, slots=True)
class Placement:
    """One stretch of slow batches.

    Attributes:
        flagged: Share of them that was called slow; likewise ``last_flagged`` of the last 100.

        clearing: Healthy batches after it until the first that is not called slow.

        false: Healthy batches after that one that are called slow, of 3,000.
    """

    order: int
    place: int
    slowdown: str
    flagged: float
    last_flagged: float
    clearing: int
    false: int


def play(path: Path, seeds: int) -> Report:
    """Play all slowdowns at all places."""
    samples = load(path).samples
    found = [
        one for order in range(1, ORDERS + 1) for one in in_order(shuffled(samples, order), order)
    ]
    return Report(
        (_grid(found),),
        msgspec.to_builtins(found),
        (f"Of {UNTOUCHED} nothing is slowed down: what is flagged there is so without a fault.",),
    )


def in_order(samples: Sequence[Sample], order: int) -> list[Placement]:
    """Play one order; what is learnt before each place is learnt once."""
    last = len(samples) - SLOW_BATCHES - AFTER_BATCHES
    places = sorted(random.Random(order).sample(range(FIRST_PLACE, last), PLACES))
    judge, found, at = Judge(), [], 0
    for place in places:
        flags_of(judge, samples[at:place])
        at = place
        for name in SLOWDOWNS:
            found.append(placement(deepcopy(judge), samples, order, place, name))
    return found


def placement(
    judge: Judge, samples: Sequence[Sample], order: int, place: int, name: str
) -> Placement:
    """Slow a stretch down, and go on after it."""
    end = place + SLOW_BATCHES
    slow = flags_of(judge, samples[place:end], disturbance(name))
    after = flags_of(judge, samples[end : end + AFTER_BATCHES])
    clearing = after.index(False) if False in after else len(after)
    return Placement(
        order=order,
        place=place,
        slowdown=name,
        flagged=statistics.fmean(slow),
        last_flagged=statistics.fmean(slow[-LAST_BATCHES:]),
        clearing=clearing,
        false=sum(after[clearing:]),
    )


def flags_of(
    judge: Judge,
    samples: Sequence[Sample],
    disturb: Callable[[Sequence[float]], list[float]] = list,
) -> list[bool]:
    """Judge batches that take as long as is made of their durations."""
    durations_ms = disturb([one.duration_ms for one in samples])
    return [
        judge.judge(one.workload, duration_ms, one.end_ns).verdict == "slow"
        for one, duration_ms in zip(samples, durations_ms, strict=True)
    ]


def _grid(found: Sequence[Placement]) -> Grid:
    return Grid(
        f"{SLOW_BATCHES:,} slow batches in a row, at {ORDERS * PLACES} places",
        (
            *("slowdown", "flagged", f"of the last {LAST_BATCHES}", "the least", ">= 99 %"),
            *("clears after, median", "the most", f"<= {MOST_CLEARING}"),
            *(f"false flags in {AFTER_BATCHES:,} after", "the most", "none"),
        ),
        [_row(name, [one for one in found if one.slowdown == name]) for name in SLOWDOWNS],
    )


def _row(name: str, found: Sequence[Placement]) -> list[str]:
    last = min(one.last_flagged for one in found)
    clearing = max(one.clearing for one in found)
    false = max(one.false for one in found)
    is_slow = name != UNTOUCHED
    return [
        slowdown(name),
        percent(statistics.fmean(one.flagged for one in found), 1),
        percent(statistics.fmean(one.last_flagged for one in found), 1),
        percent(last, 1),
        at_least(last, LEAST_FLAGGED) if is_slow else "",
        number(statistics.median(one.clearing for one in found), 1),
        str(clearing),
        at_most(clearing, MOST_CLEARING) if is_slow else "",
        str(sum(one.false for one in found)),
        str(false),
        at_most(false, MOST_FALSE),
    ]
