"""How sure a figure is: 95 % intervals for shares, rates and quantiles."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Matrix = NDArray[np.float64]

# The 97.5 % quantile of the normal distribution.
Z = 1.959963984540054
TAIL = 0.025
# Up to here the Poisson interval is exact; beyond, the cube root of Wilson and Hilferty is off by
# less than one in ten thousand.
EXACT_MOST = 1000
DRAWN_AT_ONCE = 1_000_000
# Fewer units drawn again and again say nothing about those that were not seen.
LEAST_UNITS = 5


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


def share(hits: int, n: int, units: int | None = None) -> Estimate:
    """Give a share with Wilson's interval.

    Args:
        hits: How many.

        n: Of so many.

        units: How many of these are independent; the interval is that of so many (all).

    >>> found = share(8, 10)
    >>> round(found.low, 4), round(found.high, 4)
    (0.4902, 0.9433)

    References:
        Wilson, Probable inference, the law of succession, and statistical inference, 1927.
    """
    if n == 0:
        return Estimate()
    p, square = hits / n, Z * Z
    is_all, n = hits == n, n if units is None else min(units, n)
    centre = (p + square / (2 * n)) / (1 + square / n)
    half = Z / (1 + square / n) * math.sqrt(p * (1 - p) / n + square / (4 * n * n))
    # At both ends the interval closes exactly; rounding would leave a trace.
    low = 0.0 if hits == 0 else centre - half
    high = 1.0 if is_all else centre + half
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


def f1(
    positives: Sequence[tuple[float, float, float]],
    false: Sequence[int],
    resamples: int,
    seed: int,
) -> Estimate:
    """Give the harmonic mean of precision and recall with its bootstrap interval.

    Whole units are drawn, for what is in one belongs together.

    Args:
        positives: Of each fault its hits and misses, from which comes recall; and its answers,
            which are the hits of precision: one that answers two faults is half of each.

        false: False positives of each engine.

        resamples: How often to draw.

        seed: Of the draws.
    """
    if not positives:
        return Estimate()
    table, wrong = np.asarray(positives, dtype=float), np.asarray(false, dtype=float)
    units = len(table)
    sums = table.sum(axis=0)
    (value,) = _harmonic(sums[None, :], np.asarray([wrong.sum()]))
    if units < LEAST_UNITS:
        return Estimate(float(value), n=units)
    draw = np.random.default_rng(seed)
    drawn = np.concatenate(
        [_weights(draw, rows, units) @ table for rows in _pieces(resamples, units)]
    )
    if len(wrong) < LEAST_UNITS:
        # How much engines differ is unknown: as many as chance would give.
        extra = draw.poisson(wrong.sum(), resamples).astype(float)
    else:
        extra = _weights(draw, resamples, len(wrong)) @ wrong
    return Estimate(float(value), *_ends(_harmonic(drawn, extra)), units)


def quantile(
    values: Sequence[float],
    q: float,
    resamples: int,
    seed: int,
    units: Sequence[str] | None = None,
) -> Estimate:
    """Give a quantile with its bootstrap interval.

    Args:
        values: The observations.

        q: Which quantile.

        resamples: How often to draw.

        seed: Of the draws.

        units: What each value belongs to; those of one are drawn together (each on its own).
    """
    if not values:
        return Estimate()
    data = np.asarray(values, dtype=float)
    order = np.argsort(data, kind="stable")
    names, unit_of = np.unique(
        np.arange(len(data)) if units is None else np.asarray(units), return_inverse=True
    )
    value, n = float(np.quantile(data, q)), len(names)
    if n < LEAST_UNITS:
        return Estimate(value, n=n)
    draw = np.random.default_rng(seed)
    found = [
        _weighted_quantile(data[order], _weights(draw, rows, n)[:, unit_of[order]], q)
        for rows in _pieces(resamples, len(data))
    ]
    return Estimate(value, *_ends(np.concatenate(found)), n)


def mean(values: Sequence[float], resamples: int, seed: int) -> Estimate:
    """Give a mean over trials with its bootstrap interval."""
    if not values:
        return Estimate()
    data = np.asarray(values, dtype=float)
    if len(data) < LEAST_UNITS:
        return Estimate(float(data.mean()), n=len(data))
    draw = np.random.default_rng(seed)
    found = data[draw.integers(0, len(data), (resamples, len(data)))].mean(axis=1)
    return Estimate(float(data.mean()), *_ends(found), len(data))


def _harmonic(sums: Matrix, false: Matrix) -> Matrix:
    """Give F1 of rows of hits, misses and answers; 0 where nothing was hit."""
    hits, misses, answers = sums.T
    with np.errstate(divide="ignore", invalid="ignore"):
        precision, recall = answers / (answers + false), hits / (hits + misses)
        found = 2 * precision * recall / (precision + recall)
    return np.where((hits > 0) & (answers > 0), found, 0.0)


def _weights(draw: np.random.Generator, rows: int, units: int) -> Matrix:
    """Draw as many units as there are, with replacement; give how often each came."""
    return draw.multinomial(units, np.full(units, 1 / units), rows).astype(float)


def _pieces(resamples: int, columns: int) -> list[int]:
    """Split the draws into as many at once as fit into some ten megabytes."""
    at_once = max(1, DRAWN_AT_ONCE // max(columns, 1))
    return [min(at_once, resamples - done) for done in range(0, resamples, at_once)]


def _weighted_quantile(ordered: Matrix, weights: Matrix, q: float) -> Matrix:
    """Give for each row of weights the quantile as if each value were there so many times."""
    upto = weights.cumsum(axis=1)
    place = q * (upto[:, -1] - 1)
    below = np.floor(place)
    low = ordered[(upto <= below[:, None]).sum(axis=1)]
    last = np.minimum(below + 1, upto[:, -1] - 1)
    high = ordered[(upto <= last[:, None]).sum(axis=1)]
    return np.asarray(low + (place - below) * (high - low))


def _ends(values: Matrix) -> tuple[float | None, float | None]:
    """Give none where all draws agree: what was never seen is then not in them either."""
    if not len(values) or values.min() == values.max():
        return None, None
    low, high = np.quantile(values, [TAIL, 1 - TAIL])
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
