"""Take a batch that is out of all proportion at once, without waiting for a second opinion."""

from typing import Any

from models.detectors.base import Detector

# In sigmas. With the floor of 1.2 % on sigma this is a batch at least 1.6 times too long, and
# the mark moves out where an engine's own tail is heavy.
LIMIT_SIGMA = 40.0
LIMIT_SIGMA_MIXED = 60.0
# How many giants in a row make the alarm: one may be a page fault or a garbage collection.
IN_A_ROW = 2


class Giant(Detector):
    """Alarm on the second giant residual in a row.

    >>> giant = Giant()
    >>> [giant.score_one(z, sigma=0.02, mixed=False) >= 1 for z in (1.0, 80.0, 80.0, 1.0)]
    [False, False, True, False]
    """

    def __init__(self) -> None:
        self._run = 0

    def score_one(self, z: float, *, sigma: float, mixed: bool) -> float:
        """Count giants in a row."""
        limit = LIMIT_SIGMA_MIXED if mixed else LIMIT_SIGMA
        self._run = min(self._run + 1, IN_A_ROW) if z > limit else 0
        return self._run / IN_A_ROW

    def rest(self) -> None:
        """Forget the run."""
        self._run = 0

    def to_state(self) -> dict[str, Any]:
        """Give the run."""
        return {"run": self._run}

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._run = int(state["run"])
