"""A chart that adds up evidence and knows from its own past when it would cry wolf."""

from __future__ import annotations

import math

# A slow batch is taken to be surprising as exp(-SHARPNESS * nats) is likely; the smaller, the more
# a single surprise weighs and the less many small ones do.
SHARPNESS = 0.2
LOG_SHARPNESS = math.log(SHARPNESS)
# A bet on it: the expected step of a healthy batch is below zero, that of e to its power is 1.
# Excursions of the sum above this are noted; they are what false alarms grow out of.
NOTABLE = 1.0
# Excursions and batches that stand in for those not seen yet; from MOST_NOTED on old ones fade.
PRIOR_EXCURSIONS, PRIOR_BATCHES = 20.0, 400.0
MOST_NOTED = 100.0
LEAST_EXPONENT, MOST_EXPONENT = 0.15, 1.2
# As much of the threshold may workloads that are not known make up.
MOST_UNKNOWN = 0.6


class Chart:
    """A one-sided CUSUM of log e-values with a threshold calibrated on its own excursions.

    Were the surprises of healthy batches independent and exactly calibrated, the sum would exceed
    ``h`` once in ``exp(h)`` batches. They never are; but how far the sum strays between two visits
    to zero is seen, and its tail is exponential: from the mean of the peaks follows the exponent,
    from that the threshold for any rate of false alarms.

    Args:
        exponent: What to take for the exponent before anything was seen.

        largest_step: The most that one batch may add, as a share of the threshold.

    References:
        Page, Continuous inspection schemes, Biometrika 41, 1954.
        Shin, Ramdas and Rinaldo, E-detectors, 2022 (sums of log e-values).
        Asmussen, Applied Probability and Queues, XIII.5 (peaks of such sums are exponential).
    """

    def __init__(self, exponent: float, largest_step: float) -> None:
        self._largest_step = largest_step
        self._excursions = PRIOR_EXCURSIONS
        self._height = PRIOR_EXCURSIONS / exponent
        self._batches = PRIOR_BATCHES
        self._peak = 0.0
        self.sum = 0.0

    @property
    def exponent(self) -> float:
        """1 where healthy batches are as independent as is wished for, less where not."""
        return min(MOST_EXPONENT, max(LEAST_EXPONENT, self._excursions / self._height))

    @property
    def doubt(self) -> float:
        """The sum as nats of a calibrated e-value."""
        return self.sum * self.exponent if self.sum else 0.0

    def threshold(self, log_spacing: float) -> float:
        """Give the sum that is exceeded once in exp(log_spacing) healthy batches."""
        log_share = math.log(self._excursions / self._batches)
        return max(NOTABLE + (log_spacing + log_share) / self.exponent, 2 * NOTABLE)

    def false_alarms(self, log_spacing: float) -> float:
        """Give the false alarms per batch that the excursions foretell at this threshold."""
        height = self.threshold(log_spacing) - NOTABLE
        return self._excursions / self._batches * math.exp(-height * self.exponent)

    def add(self, surprise: float, log_spacing: float, *, known: bool) -> float:
        """Add what a batch says; give the sum over the threshold.

        Where the workload is not known the sum comes close to the threshold, never beyond.
        """
        self._batches += 1
        step = LOG_SHARPNESS + (1 - SHARPNESS) * surprise
        if self.sum + step <= 0:
            self.sum = 0.0
            if self._peak:
                self._note()
            return 0.0
        threshold = self.threshold(log_spacing)
        sum_ = self.sum + min(step, self._largest_step * threshold)
        if step > 0 and not known:
            sum_ = min(sum_, max(self.sum, MOST_UNKNOWN * threshold))
        self.sum = sum_
        self._peak = max(self._peak, sum_)
        return sum_ / threshold

    def rest(self) -> None:
        """Start the sum anew; what it was is no excursion of a healthy engine."""
        self.sum = self._peak = 0.0

    def to_state(self) -> list[float]:
        """Give the sum and what is known of its past."""
        return [self.sum, self._peak, self._excursions, self._height, self._batches]

    def restore(self, state: list[float]) -> None:
        """Take it back."""
        self.sum, self._peak, self._excursions, self._height, self._batches = state

    def _note(self) -> None:
        if self._peak > NOTABLE:
            self._excursions += 1
            self._height += self._peak - NOTABLE
            if self._excursions > MOST_NOTED:
                self._excursions /= 2
                self._height /= 2
                self._batches /= 2
        self._peak = 0.0
