"""How surprising a residual is, told from an engine's own residuals: no distribution is assumed."""

from __future__ import annotations

import math
from bisect import bisect_left
from typing import Any

# Bin k holds standardised residuals from FIRST * RATIO ** (k - 1) to FIRST * RATIO ** k.
FIRST, RATIO, BINS = 0.25, 1.12, 72
LOG_RATIO = math.log(RATIO)
EDGES = tuple(FIRST * RATIO**k for k in range(BINS))
# As many made-up residuals with a heavy tail stand in for those not seen yet.
PRIOR = 60.0
PRIOR_WIDTH, PRIOR_INDEX = 2.5, 4.0
MADE_UP = tuple(PRIOR * 0.5 * (1 + z / PRIOR_WIDTH) ** -PRIOR_INDEX for z in EDGES)
# The tail beyond what was seen falls off as a power, fitted to the largest of the residuals ...
TAIL_SHARE = 0.03
# ... and takes over where fewer than these are left.
FEW = 8
TAIL_PRIOR = 20.0
LEAST_INDEX, MOST_INDEX = 1.5, 8.0
# The table is made anew after so many residuals; sooner while there are few.
REFRESH, REFRESH_EARLY = 128, 8
# From here on the old count half: what an engine was like long ago fades.
MOST_SEEN = 50_000
# How quickly the scale is followed: 250 residuals move it by half at most.
SCALE_GAIN = 0.004
SETTLED = int(1.5 / SCALE_GAIN)
# Normal consistency of the median of |residual|.
MEDIAN_TO_SIGMA = 1.4826


class Surprise:
    """The scale of residuals, and the probability that one is larger than some value.

    The scale follows the median of |residual| by stochastic approximation. Residuals in its units
    are counted in bins; beyond those seen the tail goes on as a power law whose index is fitted to
    the largest ones. Learn residuals of healthy batches only.

    Args:
        scale: What to take for the scale before anything was learnt.

    References:
        Robbins and Monro, A stochastic approximation method, 1951 (the scale).
        Hill, A simple general approach to inference about the tail of a distribution, 1975.
    """

    def __init__(self, scale: float) -> None:
        self._log_scale = math.log(scale)
        self._seen = 0
        self._counts: dict[int, float] = {}
        self._total = 0.0
        self._since = 0
        self._index = PRIOR_INDEX
        self._table: list[float] = []
        self._refresh()

    @property
    def scale(self) -> float:
        """The standard deviation that the bulk of the residuals has, in ln units."""
        return math.exp(self._log_scale)

    def of(self, z: float) -> float:
        """Give -ln P(Z > z), in nats; 0 for what is well below the expectation."""
        table = self._table
        if z <= FIRST:
            return table[0] * (0.5 + 0.5 * z / FIRST) if z > -FIRST else 0.0
        place = math.log(z / FIRST) / LOG_RATIO
        k = int(place)
        if k >= BINS - 1:
            return table[-1] + self._index * (place - BINS + 1) * LOG_RATIO
        return table[k] + (place - k) * (table[k + 1] - table[k])

    def beyond(self, probability: float) -> float:
        """Give the z that is exceeded with that probability, up to a bin's width."""
        place = bisect_left(self._table, -math.log(probability))
        return EDGES[min(place, BINS - 1)]

    def learn(self, residual: float, z: float) -> None:
        """Learn the residual of a healthy batch, in ln units and in those of its scale."""
        self._seen += 1
        gain = SCALE_GAIN if self._seen > SETTLED else 1.5 / (self._seen + 3)
        above = abs(residual) * MEDIAN_TO_SIGMA > math.exp(self._log_scale)
        self._log_scale += gain if above else -gain
        k = 0 if z <= FIRST else min(int(math.log(z / FIRST) / LOG_RATIO) + 1, BINS - 1)
        self._counts[k] = self._counts.get(k, 0.0) + 1
        self._total += 1
        self._since += 1
        if self._total > MOST_SEEN:
            self._total /= 2
            self._counts = {place: count / 2 for place, count in self._counts.items()}
        if self._since >= (REFRESH if self._seen >= REFRESH else REFRESH_EARLY):
            self._refresh()

    def to_state(self) -> dict[str, Any]:
        """Give everything as plain data."""
        return {
            "log_scale": self._log_scale,
            "seen": self._seen,
            "counts": sorted([place, count] for place, count in self._counts.items()),
            "total": self._total,
            "since": self._since,
            "index": self._index,
            "table": self._table,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._log_scale, self._seen = state["log_scale"], state["seen"]
        self._counts = dict(state["counts"])
        self._total, self._since = state["total"], state["since"]
        self._index, self._table = state["index"], list(state["table"])

    def _refresh(self) -> None:
        self._since = 0
        self._index = self._tail_index()
        fall = RATIO**-self._index
        counts, total = self._counts, self._total + PRIOR
        above = self._total - counts.get(0, 0.0)
        survival = 0.0
        table = []
        for k, made_up in enumerate(MADE_UP, start=1):
            survival *= fall
            counted = (above + made_up) / total
            if above >= FEW or counted > survival:
                survival = counted
            table.append(-math.log(survival))
            above -= counts.get(k, 0.0)
        self._table = table

    def _tail_index(self) -> float:
        """Fit Hill's index to the largest residuals, shrunk towards the prior's."""
        taken = 0.0
        edge = BINS - 1
        while edge > 0 and taken + self._counts.get(edge, 0.0) <= TAIL_SHARE * self._total:
            taken += self._counts.get(edge, 0.0)
            edge -= 1
        logs = sum(
            self._counts.get(k, 0.0) * (k - edge - 0.5) * LOG_RATIO for k in range(edge + 1, BINS)
        )
        index = (taken + TAIL_PRIOR) / (logs + TAIL_PRIOR / PRIOR_INDEX)
        return min(MOST_INDEX, max(LEAST_INDEX, index))
