"""An engine that was never seen: how soon a slowdown is found, and what is flagged wrongly."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path

import msgspec

from benchmarks.detection.data import load
from benchmarks.detection.report import Grid, Report, at_most, number
from models.judge import Judge, Judgement
from simulator.datasets import Sample
from simulator.score.data_report import slowdown
from simulator.score.prequential import alarms, is_alarm, shuffled

BEGINS = (200, 500, 1000, 2000)
FACTORS = (1.1, 1.5)
SLOW_BATCHES, FIRST_BATCHES = 200, 3000
MOST_UNKNOWN = 200


@dataclass(frozen=True, slots=True)
class Start:
    """The first batches of one order.

    Attributes:
        unknown: Batches before the first verdict that says something.

        false_incidents: Alarms in the first 3,000 batches, of which none is slow.

        lags: Slow batches before the alarm, by begin and factor; None where there was none.
    """

    unknown: int
    false_incidents: int
    lags: dict[str, int | None]


def play(path: Path, seeds: int) -> Report:
    """Start so many times, each time with the jobs in another order."""
    samples = load(path).samples
    starts = [start(shuffled(samples, seed)[:FIRST_BATCHES]) for seed in range(1, seeds + 1)]
    unknown = max(one.unknown for one in starts)
    false = sum(one.false_incidents for one in starts)
    return Report(
        (_found(starts),),
        msgspec.to_builtins(starts),
        (
            f"First verdict after {unknown} batches at the latest "
            f"(<= {MOST_UNKNOWN}: {at_most(unknown, MOST_UNKNOWN)}). False incidents in the first "
            f"{FIRST_BATCHES:,} healthy batches: {false} in {len(starts)} orders.",
        ),
    )


def start(samples: Sequence[Sample]) -> Start:
    """Judge healthy batches from an empty memory, and slow ones from several places."""
    judge, judgements = Judge(), list[Judgement]()
    lags: dict[str, int | None] = {}
    for place, sample in enumerate(samples):
        if place in BEGINS:
            slow = samples[place : place + SLOW_BATCHES]
            lags |= {key(place, factor): lag(judge, slow, factor) for factor in FACTORS}
        judgements.append(judge.judge(sample.workload, sample.duration_ms, sample.end_ns))
    said = [judged.verdict != "unknown" for judged in judgements]
    return Start(
        unknown=said.index(True) if True in said else len(said),
        false_incidents=len(alarms([is_alarm(judged) for judged in judgements])),
        lags=lags,
    )


def lag(judge: Judge, samples: Sequence[Sample], factor: float) -> int | None:
    """Give how many slow batches pass until there is an alarm."""
    fresh = deepcopy(judge)
    for place, one in enumerate(samples):
        judged = fresh.judge(one.workload, factor * one.duration_ms, one.end_ns)
        if is_alarm(judged):
            return place
    return None


def key(begin: int, factor: float) -> str:
    """Name one of the cases."""
    return f"x{factor:g} after {begin}"


def _found(starts: Sequence[Start]) -> Grid:
    rows = []
    for begin in BEGINS:
        for factor in FACTORS:
            lags = [lag for one in starts if (lag := one.lags[key(begin, factor)]) is not None]
            rows.append(
                [
                    f"{begin:,}",
                    slowdown(f"{factor:g}"),
                    f"{len(lags)} of {len(starts)}",
                    number(statistics.fmean(lags) if lags else None),
                    number(max(lags, default=None), 0),
                ]
            )
    return Grid(
        f"{SLOW_BATCHES} slow batches on an engine that was never seen before",
        ("begins after", "slowdown", "found", "lag, mean", "the most"),
        rows,
        words=2,
    )
