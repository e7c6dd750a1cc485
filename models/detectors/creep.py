"""Find a slowdown that lasts but hides in the noise of an engine that shares its machine."""

import math
from typing import Any

from models.detectors.base import Detector

# Less than this is not worth a message where the noise is such that the finer chart is blind.
LEAST_SLOWDOWN = math.log(1.15)
SLACK = 0.75
LIMIT = 40.0
CEILING = 1.2 * LIMIT
# Clear at half the limit: with a step this small, going back to zero would take minutes.
CLEAR = LIMIT / 2
MOST_PER_BATCH = 3.0


class Creep(Detector):
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

    References:
        Page, Continuous inspection schemes, Biometrika 41, 1954.
    """

    def __init__(self) -> None:
        self._sum = 0.0
        self._alarm = False

    def score_one(self, z: float, *, sigma: float, mixed: bool) -> float:
        """Add the clipped residual beyond the least slowdown, less the slack."""
        beyond = z - LEAST_SLOWDOWN / sigma
        step = max(-MOST_PER_BATCH, min(MOST_PER_BATCH, beyond)) - SLACK
        self._sum = min(max(0.0, self._sum + step), CEILING)
        self._alarm = self._sum > CLEAR if self._alarm else self._sum > LIMIT
        score = self._sum / LIMIT
        return max(score, 1.0) if self._alarm else min(score, 1.0 - 1e-9)

    def rest(self) -> None:
        """Start the sum anew."""
        self._sum, self._alarm = 0.0, False

    def to_state(self) -> dict[str, Any]:
        """Give the sum and whether it is an alarm."""
        return {"sum": self._sum, "alarm": self._alarm}

    def restore(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self._sum, self._alarm = float(state["sum"]), bool(state["alarm"])
