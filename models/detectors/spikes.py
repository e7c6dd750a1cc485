"""Find rare batches that are out of all proportion and come again and again."""

from __future__ import annotations

import math
from typing import Any

from models.detectors.base import Detector, Evidence

# A spike is this surprising (one in 1,100 healthy batches), and at least this much too long.
LEAST_SURPRISE = 7.0
LEAST_RESIDUAL = math.log(1.15)
# A fault is taken to hit at least one batch in twenty: that is the price of a spike ...
LOG_RATE = 3.0
# ... and of each batch without one.
PRICE = 0.05
# One spike is never enough, two great ones may be.
LARGEST_STEP = 0.55
# An alarm ends after so many spacings without a spike, within these limits in batches.
SPACINGS = 4.0
LEAST_CALM, MOST_CALM = 20, 60
SPACING_GAIN = 0.3


class Spikes(Detector):
    """Add up how surprising isolated spikes are, against the price of the batches between them.

    Batches between two spikes are as fast as ever, so they clear a chart of sustained slowdowns;
    here they only cost a little. Spikes that an engine always had are no surprise: they are part of
    its own residuals. Of a run of slow batches only the first counts: that is `Sustained`'s.

    >>> found = Spikes()
    >>> spike = Evidence(residual=1.8, scale=0.01, surprise=20.0, mixed=False, novelty=0)
    >>> calm = Evidence(residual=0.0, scale=0.01, surprise=0.7, mixed=False, novelty=0)
    >>> [found.score_one(one, 16.0) >= 1 for one in [spike, *9 * [calm], spike]][-2:]
    [False, True]
    """

    def __init__(self) -> None:
        self._sum = 0.0
        self._in_spike = False
        self._since = 0
        self._spacing = float(LEAST_CALM)
        self._alarm = False

    def score_one(self, evidence: Evidence, log_spacing: float) -> float:
        """Take the next batch and give the score."""
        spike = (
            evidence.surprise > LEAST_SURPRISE
            and evidence.residual > LEAST_RESIDUAL
            # Of prefill only what is well known counts: the first prompts of a kind come in bursts.
            and evidence.novelty < (1 if evidence.mixed else 2)
        )
        self._since += 1
        if spike and not self._in_spike:
            self._spacing += SPACING_GAIN * (min(self._since, MOST_CALM) - self._spacing)
            self._since = 0
            self._sum += min(evidence.surprise - LOG_RATE, LARGEST_STEP * log_spacing)
        self._in_spike = spike
        self._sum = min(max(self._sum - PRICE, 0.0), 2 * log_spacing)
        if self._alarm:
            calm = min(max(SPACINGS * self._spacing, LEAST_CALM), MOST_CALM)
            if self._since > calm:
                self.rest()
                return 0.0
            return 1.0
        self._alarm = self._sum >= log_spacing
        return self._sum / log_spacing

    def rest(self) -> None:
        """Forget what has built up."""
        self.restore(Spikes().to_state())

    def to_state(self) -> dict[str, Any]:
        """Give the state."""
        return {
            "sum": self._sum,
            "in_spike": self._in_spike,
            "since": self._since,
            "spacing": self._spacing,
            "alarm": self._alarm,
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take it back."""
        self._sum, self._in_spike = state["sum"], state["in_spike"]
        self._since, self._spacing = state["since"], state["spacing"]
        self._alarm = state["alarm"]
