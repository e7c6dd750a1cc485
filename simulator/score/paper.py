"""The paper's protocol on recorded batches: 1,000 healthy ones, then 200 slow ones, many times."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from simulator.datasets import Sample
from simulator.score.confidence import Estimate, mean
from simulator.score.disturb import disturbance
from simulator.score.strategies import STRATEGIES, Stream, Train, Trained

Split = Literal["random", "group"]
ABNORMAL = "abnormal file"
NORMAL_BATCHES, SLOW_BATCHES = 1000, 200
# Fewer would leave the judge in its warm-up.
LEAST_TRAINING = 300


class ProtocolError(ValueError):
    """The protocol cannot be played with these batches; the text ends with what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """How the trials are made.

    Attributes:
        split: Rows are shuffled (``random``), or whole jobs are held out of the training and
            streamed as they ran (``group``).

        training: Rows that are learnt before each trial; fewer where there are not so many.
    """

    split: Split = "random"
    seeds: int = 20
    training: int = 10_000
    strategies: tuple[str, ...] = STRATEGIES
    disturbances: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Trial:
    """One trial of one strategy.

    Attributes:
        lag: Slow batches before the first that was flagged; None where none was.

        slowed_recall: Share of the flagged among those that did take longer: of spikes, not all do.
    """

    tp: int
    fp: int
    fn: int
    tn: int
    lag: int | None
    slowed_recall: float = 0.0

    @property
    def precision(self) -> float:
        """Share of the flags that are right; 0 where there are none, as the paper counts."""
        return self.tp / (self.tp + self.fp) if self.tp + self.fp else 0.0

    @property
    def recall(self) -> float:
        """Share of the slow batches that were flagged."""
        return self.tp / (self.tp + self.fn)

    @property
    def f1(self) -> float:
        """Harmonic mean of both."""
        return 2 * self.tp / (2 * self.tp + self.fp + self.fn)

    @property
    def false_positive_rate(self) -> float:
        """Share of the healthy batches that were flagged."""
        return self.fp / (self.fp + self.tn)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrialScore:
    """Means over the trials; ``lag`` over those in which anything was flagged."""

    precision: Estimate
    recall: Estimate
    f1: Estimate
    false_positive_rate: Estimate
    slowed_recall: Estimate
    lag: Estimate
    missed: int
    trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PaperScore:
    """What came out, by disturbance and strategy.

    Attributes:
        training: Rows that were learnt before each trial; the least, where trials differ.

        notes: What a reader has to know, in sentences.
    """

    protocol: Protocol
    batches: int
    jobs: int
    training: int
    scores: Mapping[str, Mapping[str, TrialScore]]
    notes: tuple[str, ...] = ()


def play(
    normal: Sequence[Sample],
    protocol: Protocol,
    abnormal: Sequence[Sample] = (),
    on_trial: Callable[[int], None] = lambda done: None,
    rivals: Mapping[str, Train] | None = None,
) -> PaperScore:
    """Play all trials.

    Args:
        normal: Batches of a healthy engine in the order of their time.

        protocol: How.

        abnormal: Batches of a slow one, drawn with replacement; empty for none.

        on_trial: Called after each trial with the number of those done.

        rivals: How models that are named in strategies are trained.

    Raises:
        ProtocolError: There are too few batches, or jobs to hold out.
        ValueError: A disturbance has no meaning.
    """
    names = (*protocol.disturbances, *((ABNORMAL,) if abnormal else ()))
    if not names:
        raise ProtocolError("nothing is slow: give --factors or --abnormal")
    for name in protocol.disturbances:
        disturbance(name)
    trials: dict[str, dict[str, list[Trial]]] = {
        name: {strategy: [] for strategy in protocol.strategies} for name in names
    }
    least = protocol.training
    for seed in range(protocol.seeds):
        draw = random.Random(seed)
        training, stream = deal(normal, protocol, draw)
        least = min(least, len(training))
        healthy, rest = stream[:NORMAL_BATCHES], stream[NORMAL_BATCHES:]
        begun = Trained(training, protocol.strategies, rivals).begin(healthy)
        for name in names:
            slow = draw.choices(abnormal, k=SLOW_BATCHES) if name == ABNORMAL else rest
            _try_all(trials[name], begun, slow, name)
        on_trial(seed + 1)
    return PaperScore(
        protocol=protocol,
        batches=len(normal),
        jobs=len({sample.job for sample in normal}),
        training=least,
        scores={
            name: {strategy: summary(found) for strategy, found in by_strategy.items()}
            for name, by_strategy in trials.items()
        },
    )


def deal(
    samples: Sequence[Sample], protocol: Protocol, draw: random.Random
) -> tuple[list[Sample], list[Sample]]:
    """Give the training rows of a trial, and 1,200 others.

    Raises:
        ProtocolError: There are too few.
    """
    wanted = NORMAL_BATCHES + SLOW_BATCHES
    if len(samples) < wanted + LEAST_TRAINING:
        raise ProtocolError(
            f"{len(samples)} healthy batches are too few: the protocol needs "
            f"{wanted + LEAST_TRAINING}; record more"
        )
    if protocol.split == "random":
        rows = draw.sample(samples, len(samples))
        return rows[wanted : wanted + protocol.training], rows[:wanted]
    stream: list[Sample] = []
    training: list[Sample] = []
    for job in in_jobs(samples, draw):
        (stream if len(stream) < wanted else training).extend(job)
    if len(stream) < wanted or len(training) < LEAST_TRAINING:
        raise ProtocolError(
            "the jobs are too few to hold some out: use --split random, or record more jobs"
        )
    return training[: protocol.training], stream[:wanted]


def in_jobs(samples: Sequence[Sample], draw: random.Random) -> list[list[Sample]]:
    """Give the batches of each job, the jobs in an order by chance."""
    jobs: dict[str, list[Sample]] = {}
    for sample in samples:
        jobs.setdefault(sample.job, []).append(sample)
    return draw.sample(list(jobs.values()), len(jobs))


def trial_of(flags: Sequence[bool], slowed: Sequence[bool] | None = None) -> Trial:
    """Count a stream whose first 1,000 batches are healthy and whose others are slow.

    Args:
        flags: Of the whole stream.

        slowed: Which of the slow ones did take longer; None for all.

    >>> trial_of([True] + [False] * 999 + [False] * 2 + [True] * 198)
    Trial(tp=198, fp=1, fn=2, tn=999, lag=2, slowed_recall=0.99)
    """
    before, after = flags[:NORMAL_BATCHES], flags[NORMAL_BATCHES:]
    tp, fp = sum(after), sum(before)
    lag = list(after).index(True) if tp else None
    longer = [True] * len(after) if slowed is None else slowed
    found = sum(flag and is_slowed for flag, is_slowed in zip(after, longer, strict=True))
    return Trial(tp, fp, len(after) - tp, len(before) - fp, lag, found / max(sum(longer), 1))


def summary(trials: Sequence[Trial]) -> TrialScore:
    """Give the means over the trials."""

    def over(values: Sequence[float]) -> Estimate:
        return mean(values, resamples=1000, seed=1)

    return TrialScore(
        precision=over([one.precision for one in trials]),
        recall=over([one.recall for one in trials]),
        f1=over([one.f1 for one in trials]),
        false_positive_rate=over([one.false_positive_rate for one in trials]),
        slowed_recall=over([one.slowed_recall for one in trials]),
        lag=over([one.lag for one in trials if one.lag is not None]),
        missed=sum(one.lag is None for one in trials),
        trials=len(trials),
    )


def _try_all(
    trials: Mapping[str, list[Trial]], begun: Stream, slow: Sequence[Sample], name: str
) -> None:
    healthy_ms = [one.duration_ms for one in slow]
    durations_ms = healthy_ms if name == ABNORMAL else disturbance(name)(healthy_ms)
    slowed = None
    if name != ABNORMAL:
        slowed = [is_ms > was_ms for is_ms, was_ms in zip(durations_ms, healthy_ms, strict=True)]
    for strategy, found in trials.items():
        found.append(trial_of(begun.continued(slow, durations_ms, strategy), slowed))
