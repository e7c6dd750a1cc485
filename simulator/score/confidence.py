"""How sure a figure is: 95 % intervals for shares, rates and quantiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# The 97.5 % quantile of the normal distribution.
Z = 1.959963984540054
TAIL = 0.025
# Up to here the Poisson interval is exact; beyond, the cube root of Wilson and Hilferty is off by
# less than one in ten thousand.
EXACT_MOST = 1000
DRAWN_AT_ONCE = 1_000_000


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure with its 95 % interval.

    Attributes:
        value: None where there is nothing to compute it from.

        low: Lower end; None where too little is known for an interval. Likewise ``high``.

        n: How many observations it rests on.
    """

    value: float | None = None
    low: float | None = None
    high: float | None = None
    n: int = 0


def share(hits: int, n: int) -> Estimate:
    """Give a share with Wilson's interval.

    >>> found = share(8, 10)
    >>> round(found.low, 4), round(found.high, 4)
    (0.4902, 0.9433)

    References:
        Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    if n == 0:
        return Estimate()
    p, square = hits / n, Z * Z
    centre = (p + square / (2 * n)) / (1 + square / n)
    half = Z / (1 + square / n) * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    # At both ends the interval closes exactly; rounding would leave a trace.
    low = 0.0 if hits == 0 else centre - half
    high = 1.0 if hits == n else centre + half
    return Estimate(p, low, high, n)


def rate(events: int, exposure: float) -> Estimate:
    """Give events per unit of exposure with Garwood's exact Poisson interval.

    Its ends are quantiles of the gamma distribution, found by bisection on the Poisson sum; from
    1,000 events on by Wilson and Hilferty's cube root.

    >>> found = rate(3, 1.0)
    >>> round(found.low, 4), round(found.high, 4)
    (0.6187, 8.7673)

    References:
        Garwood, Fiducial limits for the Poisson distribution, 1936.
        Wilson and Hilferty, The distribution of chi-square, 1931.
    """
    if exposure <= 0:
        return Estimate(n=events)
    low, high = _poisson_limits(events)
    return Estimate(events / exposure, low / exposure, high / exposure, events)


def f1_of(hits: float, misses: float, false: float) -> float | None:
    """Give the harmonic mean of precision and recall; None where nothing was there or found."""
    total = 2 * hits + misses + false
    return 2 * hits / total if total else None


def bootstrap_f1(
    positives: Sequence[tuple[int, int]], false: Sequence[int], resamples: int, seed: int
) -> tuple[float | None, float | None]:
    """Give the interval of an F1, where whole units are drawn, for what is in one belongs together.

    Args:
        positives: Hits and misses of each fault.

        false: False positives of each engine.

        resamples: How often to draw.

        seed: Of the draws.

    Returns:
        Both ends, or twice None where there are fewer than two faults.
    """
    if len(positives) < 2:
        return None, None
    draw = np.random.default_rng(seed)
    table, wrong = np.asarray(positives, dtype=float), np.asarray(false, dtype=float)
    found = []
    for _ in range(resamples):
        hits, misses = table[draw.integers(0, len(table), len(table))].sum(axis=0)
        extra = wrong[draw.integers(0, len(wrong), len(wrong))].sum() if len(wrong) else 0.0
        value = f1_of(hits, misses, extra)
        if value is not None:
            found.append(value)
    return _ends(found)


def quantile(values: Sequence[float], q: float, resamples: int, seed: int) -> Estimate:
    """Give a quantile with its bootstrap interval; without one below two values."""
    if not values:
        return Estimate()
    data = np.asarray(values, dtype=float)
    value = float(np.quantile(data, q))
    if len(data) < 2:
        return Estimate(value, n=1)
    draw = np.random.default_rng(seed)
    found: list[float] = []
    # As many at once as fit into some ten megabytes.
    at_once = max(1, DRAWN_AT_ONCE // len(data))
    while len(found) < resamples:
        rows = min(at_once, resamples - len(found))
        drawn = data[draw.integers(0, len(data), (rows, len(data)))]
        found += np.quantile(drawn, q, axis=1).tolist()
    low, high = _ends(found)
    return Estimate(value, low, high, len(data))


def mean(values: Sequence[float], resamples: int, seed: int) -> Estimate:
    """Give a mean over trials with its bootstrap interval; without one below two values."""
    if not values:
        return Estimate()
    data = np.asarray(values, dtype=float)
    if len(data) < 2:
        return Estimate(float(data[0]), n=1)
    draw = np.random.default_rng(seed)
    found = data[draw.integers(0, len(data), (resamples, len(data)))].mean(axis=1)
    low, high = _ends([float(value) for value in found])
    return Estimate(float(data.mean()), low, high, len(data))


def _ends(values: Sequence[float]) -> tuple[float | None, float | None]:
    if not values:
        return None, None
    low, high = np.quantile(np.asarray(values), [TAIL, 1 - TAIL])
    return float(low), float(high)


def _poisson_limits(events: int) -> tuple[float, float]:
    if events > EXACT_MOST:
        return _wilson_hilferty(events, -Z), _wilson_hilferty(events + 1, Z)
    # The one mean under which so many events or more have 2.5 %, and the one for so many or fewer.
    low = 0.0 if events == 0 else _mean_where_at_most(events - 1, 1 - TAIL)
    return low, _mean_where_at_most(events, TAIL)


def _mean_where_at_most(events: int, probability: float) -> float:
    low, high = 0.0, events + 10 * math.sqrt(events + 1) + 10
    for _ in range(80):
        middle = (low + high) / 2
        if _at_most(events, middle) > probability:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def _at_most(events: int, expected: float) -> float:
    """Give the probability of so many events or fewer."""
    if expected <= 0:
        return 1.0
    log = math.log(expected)
    return math.fsum(math.exp(k * log - expected - math.lgamma(k + 1)) for k in range(events + 1))


def _wilson_hilferty(shape: float, z: float) -> float:
    return float(shape * (1 - 1 / (9 * shape) + z / (3 * math.sqrt(shape))) ** 3)
