"""How a stream of batches is judged: by the paper's charts over our baseline, or by our judge.

The charts look at the relative excess of a batch over its prediction, (observed - expected) /
observed, and at 0 where it was faster; the baseline is frozen after training. ``point`` and
``window`` (mean of the last ten) flag what is above 15 %; ``point3s`` and ``window3s`` what is
three standard deviations above the mean of the training's own excess, with a limit of at most 50 %.
``ours`` is the judge of the product, which goes on learning.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Literal, get_args

from models.baseline import Baseline
from models.features import features_of
from models.judge import Judge
from simulator.datasets import Sample

Strategy = Literal["point", "window", "point3s", "window3s", "ours"]
STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)

WINDOW = 10
FIXED_LIMIT = 0.15
SIGMAS = 3.0
MOST_LIMIT = 0.5
BEGIN_NS = 1_790_000_000_000_000_000


class Trained:
    """Everything learnt from the training rows, ready to judge streams.

    Args:
        training: Batches in the order in which they are learnt.

        strategies: Those that will be asked for.
    """

    def __init__(self, training: Sequence[Sample], strategies: Sequence[Strategy]) -> None:
        self._judge = Judge()
        durations_ms = [one.duration_ms for one in training]
        _, self._now_ns = _judge_all(self._judge, training, durations_ms, BEGIN_NS)
        self._baseline = Baseline.from_state(self._judge.to_state()["baseline"])
        self._limits = {"point": FIXED_LIMIT, "window": FIXED_LIMIT}
        if {"point3s", "window3s"} & set(strategies):
            excess = self.excess(training, durations_ms)
            self._limits["point3s"] = _three_sigma(excess)
            self._limits["window3s"] = _three_sigma(means_of_last(excess)[WINDOW - 1 :])

    def begin(self, normal: Sequence[Sample]) -> Stream:
        """Let a stream of healthy batches pass."""
        judge = deepcopy(self._judge)
        durations_ms = [one.duration_ms for one in normal]
        flags, now_ns = _judge_all(judge, normal, durations_ms, self._now_ns)
        return Stream(self, judge, now_ns, flags, self.excess(normal, durations_ms))

    def flags(self, strategy: Strategy, excess: Sequence[float]) -> list[bool]:
        """Give what one of the charts flags."""
        values = means_of_last(excess) if strategy.startswith("window") else excess
        return [value > self._limits[strategy] for value in values]

    def excess(self, samples: Sequence[Sample], durations_ms: Sequence[float]) -> list[float]:
        """Give by which share each batch is slower than predicted."""
        found = []
        for sample, observed_ms in zip(samples, durations_ms, strict=True):
            features = features_of(sample.workload)
            predicted = self._baseline.predict(features) if features is not None else None
            expected_ms = predicted.expected_ms if predicted is not None else observed_ms
            found.append(max(0.0, (observed_ms - expected_ms) / observed_ms))
        return found


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream so far; it can be continued in several ways."""

    trained: Trained
    judge: Judge
    now_ns: int
    flags: list[bool]
    excess: list[float]

    def continued(
        self, samples: Sequence[Sample], durations_ms: Sequence[float], strategy: Strategy
    ) -> list[bool]:
        """Give the flags of the whole stream, healthy batches and then these."""
        if strategy == "ours":
            judge = deepcopy(self.judge)
            return self.flags + _judge_all(judge, samples, durations_ms, self.now_ns)[0]
        excess = self.excess + self.trained.excess(samples, durations_ms)
        return self.trained.flags(strategy, excess)


def means_of_last(values: Sequence[float]) -> list[float]:
    """Give the mean of each value and the nine before it; 0 until there are ten.

    >>> means_of_last([1.0] * 11)[8:]
    [0, 1.0, 1.0]
    """
    return [
        sum(values[place + 1 - WINDOW : place + 1]) / WINDOW if place >= WINDOW - 1 else 0
        for place in range(len(values))
    ]


def _three_sigma(values: Sequence[float]) -> float:
    if len(values) < 2:
        return MOST_LIMIT
    return min(statistics.mean(values) + SIGMAS * statistics.pstdev(values), MOST_LIMIT)


def _judge_all(
    judge: Judge, samples: Sequence[Sample], durations_ms: Sequence[float], now_ns: int
) -> tuple[list[bool], int]:
    """Judge batches as if they ran one right after the other: shuffled ones have no other time."""
    flags = []
    for sample, duration_ms in zip(samples, durations_ms, strict=True):
        now_ns += int(duration_ms * 1e6)
        flags.append(judge.judge(sample.workload, duration_ms, now_ns).verdict == "slow")
    return flags, now_ns
