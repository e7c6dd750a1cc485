"""What one-sided CUSUM charts have in common: a sum that fires at a limit and clears below it."""

from typing import Any, ClassVar

from models.detectors.base import Detector


class Chart(Detector):
    """Add up steps above zero; the score is the sum over its limit.

    The score stays at 1 or above from the alarm until the sum is back at `clear` (hysteresis).

    References:
        Page, Continuous inspection schemes, Biometrika 41, 1954.
    """

    limit: ClassVar[float]
    """The sum that fires."""

    ceiling: ClassVar[float]
    """Evidence does not pile up beyond this, so that recovery is quick."""

    clear: ClassVar[float] = 0.0

    def __init__(self) -> None:
        self._sum = 0.0
        self._alarm = False

    def rest(self) -> None:
        """Start the sum anew."""
        self._sum, self._alarm = 0.0, False

    def to_state(self) -> dict[str, Any]:
        """Give the sum and whether it is an alarm."""
        return {"sum": self._sum, "alarm": self._alarm}

    def restore(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self._sum, self._alarm = float(state["sum"]), bool(state["alarm"])

    def _add(self, step: float) -> float:
        self._sum = min(max(0.0, self._sum + step), self.ceiling)
        self._alarm = self._sum > (self.clear if self._alarm else self.limit)
        score = self._sum / self.limit
        return max(score, 1.0) if self._alarm else min(score, 1.0 - 1e-9)
