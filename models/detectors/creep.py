"""Find a slowdown that lasts but hides in the noise of an engine that shares its machine."""

import math
from typing import ClassVar

from models.detectors._chart import Chart

# Less than this is not worth a message where the noise is such that the finer chart is blind.
LEAST_SLOWDOWN = math.log(1.15)
SLACK = 0.75
LIMIT = 40.0
MOST_PER_BATCH = 3.0


class Creep(Chart):
    """Add up what residuals exceed the least slowdown by, with a small slack and a high limit.

    On a quiet engine `Cusum` is quicker in every case. Where a batch's own noise is a third of
    its duration, a doubled duration is two sigmas only, which that chart takes for normal; this
    one needs some hundred batches for it.

    >>> creep = Creep()
    >>> scores = [creep.score_one(1.7, sigma=0.4, mixed=False) for _ in range(100)]
    >>> scores[20] < 1 <= scores[99]
    True
    >>> tiny = Creep()
    >>> max(tiny.score_one(4.0, sigma=0.02, mixed=False) for _ in range(1000))
    0.0
    """

    limit: ClassVar[float] = LIMIT
    ceiling: ClassVar[float] = 1.2 * LIMIT
    # With a step this small, going back to zero would take minutes.
    clear: ClassVar[float] = LIMIT / 2

    def score_one(self, z: float, *, sigma: float, mixed: bool) -> float:
        """Add the clipped residual beyond the least slowdown, less the slack."""
        beyond = z - LEAST_SLOWDOWN / sigma
        step = max(-MOST_PER_BATCH, min(MOST_PER_BATCH, beyond)) - SLACK
        return self._add(step)
