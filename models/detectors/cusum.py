"""Find a slowdown that lasts, however small, within a handful of batches."""

from typing import Any

from models.detectors.base import Detector

# A run of batches must average more than this many sigmas to count as slow at all.
SLACK = 2.5
# Evidence needed to fire, and beyond which it does not pile up, so that recovery is quick.
LIMIT = 15.0
CEILING = LIMIT + 4 * SLACK
# One batch cannot fire on its own; prefill has the heavier tail and says less.
MOST_PER_BATCH = 5.0
MOST_PER_MIXED_BATCH = 4.0


class Cusum(Detector):
    """Add up how far residuals exceed the slack; clear only when all of it is gone again.

    The score is the sum over its limit. It stays at 1 or above from the alarm until the sum is
    back at zero (hysteresis).

    >>> cusum = Cusum()
    >>> [round(cusum.score_one(6.0, sigma=0.02, mixed=False), 2) for _ in range(7)]
    [0.17, 0.33, 0.5, 0.67, 0.83, 1.0, 1.17]

    References:
        Page, Continuous inspection schemes, Biometrika 41, 1954.
    """

    def __init__(self) -> None:
        self._sum = 0.0
        self._alarm = False

    def score_one(self, z: float, *, sigma: float, mixed: bool) -> float:
        """Add the clipped residual less the slack."""
        most = MOST_PER_MIXED_BATCH if mixed else MOST_PER_BATCH
        step = max(-most, min(most, z)) - SLACK
        self._sum = min(max(0.0, self._sum + step), CEILING)
        self._alarm = self._sum > 0 if self._alarm else self._sum > LIMIT
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
