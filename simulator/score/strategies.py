"""How a stream of batches is judged: by the paper's charts over a model, or by our judge.

The charts look at the relative excess of a batch over its prediction, (observed - expected) /
observed, and at 0 where it was faster; the model is frozen after training. ``point`` and ``window``
(mean of the last ten) flag what is above 15 %; ``point3s`` and ``window3s`` what is three standard
deviations above the mean of the training's own excess, with a limit of at most 50 %. ``ours`` is
the judge of the product, which goes on learning.

The model is what the judge has learnt. Others, rivals, are named in front: ``boosting window``.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

from models.judge import Judge
from simulator.datasets import Sample

OURS = "ours"
CHARTS = ("point", "window", "point3s", "window3s")
STRATEGIES = (*CHARTS, OURS)

WINDOW = 10
FIXED_LIMIT = 0.15
SIGMAS = 3.0
MOST_LIMIT = 0.5
BEGIN_NS = 1_790_000_000_000_000_000

Expect = Callable[[Sequence[Sample]], Sequence[float | None]]
"""Tells how many ms each batch should take; None where the model cannot tell."""

Train = Callable[[Sequence[Sample]], Expect]
"""Makes a model of batches, in the order in which they are learnt."""


def frozen(judge: Judge) -> Expect:
    """Give what a judge expects, whatever it learns later."""
    predict = deepcopy(judge).predict
    return lambda samples: [predict(one.workload) for one in samples]


class Charts:
    """The paper's charts over a model that learns no more.

    Args:
        expect: The model.

        training: What it was trained on; its excess sets the limits.

        charts: Those that will be asked for.
    """

    def __init__(self, expect: Expect, training: Sequence[Sample], charts: Sequence[str]) -> None:
        self._expect = expect
        self._limits = {"point": FIXED_LIMIT, "window": FIXED_LIMIT}
        if {"point3s", "window3s"} & set(charts):
            excess = self.excess(training, [one.duration_ms for one in training])
            self._limits["point3s"] = _three_sigma(excess)
            self._limits["window3s"] = _three_sigma(means_of_last(excess)[WINDOW - 1 :])

    def flags(self, chart: str, excess: Sequence[float]) -> list[bool]:
        """Give what one of the charts flags."""
        values = means_of_last(excess) if chart.startswith("window") else excess
        return [value > self._limits[chart] for value in values]

    def excess(self, samples: Sequence[Sample], durations_ms: Sequence[float]) -> list[float]:
        """Give by which share each batch is slower than predicted."""
        return [
            0.0 if expected_ms is None else max(0.0, (observed_ms - expected_ms) / observed_ms)
            for expected_ms, observed_ms in zip(self._expect(samples), durations_ms, strict=True)
        ]


class Trained:
    """Everything learnt from the training rows, ready to judge streams.

    Args:
        training: Batches in the order in which they are learnt.

        strategies: Those that will be asked for.

        rivals: How each model that is named in front of a strategy is trained.
    """

    def __init__(
        self,
        training: Sequence[Sample],
        strategies: Sequence[str],
        rivals: Mapping[str, Train] | None = None,
    ) -> None:
        self._judge = Judge()
        durations_ms = [one.duration_ms for one in training]
        _, self._now_ns = _judge_all(self._judge, training, durations_ms, BEGIN_NS)
        trains = {"": lambda _: frozen(self._judge), **(rivals or {})}
        asked: dict[str, list[str]] = {}
        for strategy in strategies:
            if strategy != OURS:
                model, chart = _parts(strategy)
                asked.setdefault(model, []).append(chart)
        self.charts = {
            model: Charts(trains[model](training), training, charts)
            for model, charts in asked.items()
        }

    def begin(self, normal: Sequence[Sample]) -> Stream:
        """Let a stream of healthy batches pass."""
        judge = deepcopy(self._judge)
        durations_ms = [one.duration_ms for one in normal]
        flags, now_ns = _judge_all(judge, normal, durations_ms, self._now_ns)
        excess = {name: one.excess(normal, durations_ms) for name, one in self.charts.items()}
        return Stream(self.charts, judge, now_ns, flags, excess)


@dataclass(frozen=True, slots=True)
class Stream:
    """A stream so far; it can be continued in several ways.

    Attributes:
        flags: What the judge flagged.

        excess: Of each batch, by model.
    """

    charts: Mapping[str, Charts]
    judge: Judge
    now_ns: int
    flags: list[bool]
    excess: Mapping[str, list[float]]

    def continued(
        self, samples: Sequence[Sample], durations_ms: Sequence[float], strategy: str
    ) -> list[bool]:
        """Give the flags of the whole stream, healthy batches and then these."""
        if strategy == OURS:
            judge = deepcopy(self.judge)
            return self.flags + _judge_all(judge, samples, durations_ms, self.now_ns)[0]
        model, chart = _parts(strategy)
        charts = self.charts[model]
        return charts.flags(chart, self.excess[model] + charts.excess(samples, durations_ms))


def _parts(strategy: str) -> tuple[str, str]:
    model, _, chart = strategy.rpartition(" ")
    return model, chart


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
