"""How far residuals usually stray, robustly: outliers do not widen it, a fault does not either."""

from typing import Any

from river import stats

WINDOW = 400
# Normal consistency of the median and of the 90th percentile of |residual|.
MEDIAN_TO_SIGMA = 1.4826
NINETIETH_TO_SIGMA = 1 / 1.6449


class RobustScale:
    """A running standard deviation from rolling quantiles of |residual|.

    The larger of two estimates counts: the median's, and the 90th percentile's, which sees the
    heavy tail of an engine that shares its machine.

    >>> scale = RobustScale()
    >>> for residual in [0.01, -0.01] * 50 + [5.0]:
    ...     scale.learn(residual)
    >>> round(scale.sigma(unknown=1.0), 4)
    0.0148
    """

    def __init__(self) -> None:
        self._recent: list[float] = []
        self._median: Any = stats.RollingQuantile(0.5, window_size=WINDOW)
        self._ninetieth: Any = stats.RollingQuantile(0.9, window_size=WINDOW)

    def learn(self, residual: float) -> None:
        """Take in one residual."""
        size = abs(residual)
        self._recent.append(size)
        if len(self._recent) > WINDOW:
            del self._recent[0]
        self._median.update(size)
        self._ninetieth.update(size)

    def sigma(self, unknown: float) -> float:
        """Give the scale, or ``unknown`` before the first residual."""
        median, ninetieth = self._median.get(), self._ninetieth.get()
        if median is None or ninetieth is None:
            return unknown
        return max(MEDIAN_TO_SIGMA * float(median), NINETIETH_TO_SIGMA * float(ninetieth))

    def to_state(self) -> list[float]:
        """Give the window as plain data."""
        return list(self._recent)

    @classmethod
    def from_state(cls, state: list[float]) -> "RobustScale":
        """Rebuild the scale from its window."""
        scale = cls()
        for size in state:
            scale.learn(size)
        return scale
