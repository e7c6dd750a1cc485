"""Find a slowdown that lasts, however small, within a handful of batches."""

from typing import ClassVar

from models.detectors._chart import Chart

# A run of batches must average more than this many sigmas to count as slow at all.
SLACK = 2.5
LIMIT = 15.0
# One batch cannot fire on its own; prefill has the heavier tail and says less.
MOST_PER_BATCH = 5.0
MOST_PER_MIXED_BATCH = 4.0


class Cusum(Chart):
    """Add up how far residuals exceed the slack; clear only when all of it is gone again.

    >>> cusum = Cusum()
    >>> [round(cusum.score_one(6.0, sigma=0.02, mixed=False), 2) for _ in range(7)]
    [0.17, 0.33, 0.5, 0.67, 0.83, 1.0, 1.17]
    """

    limit: ClassVar[float] = LIMIT
    ceiling: ClassVar[float] = LIMIT + 4 * SLACK

    def score_one(self, z: float, *, sigma: float, mixed: bool) -> float:
        """Add the clipped residual less the slack."""
        most = MOST_PER_MIXED_BATCH if mixed else MOST_PER_BATCH
        step = max(-most, min(most, z)) - SLACK
        return self._add(step)
