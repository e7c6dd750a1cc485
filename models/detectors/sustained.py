"""Find a slowdown that lasts: giants at once, small ones within a handful of batches."""

from __future__ import annotations

from typing import Any

from models.detectors._chart import Chart
from models.detectors.base import Detector, Evidence

# A slowdown is taken to be no smaller than this, in ln units, when its end is looked for.
LEAST_SHIFT = 0.04
MOST_SHIFT = 1.5
SHIFT_GAIN = 0.05
# Evidence that it goes on, in scales of the residual: as much as this is kept, so much of it may
# one batch add or take. Three batches as fast as before end it where the noise is small.
MOST_HELD = 9.0
MOST_PER_BATCH = 3.0
# Halfway between the two stories the alarm stays: it ends below this share of the shift. Signed, so
# that the noise of an engine alone cannot keep an alarm up.
KEEP = 1 / 3
# Prefill strays more, and of unknown workloads less is known.
MOST_PER_MIXED_BATCH, MOST_PER_UNKNOWN_BATCH = 1.0, 2.0


class Sustained(Detector):
    """Add up evidence in a chart for pure decode and one for batches with prefill.

    The two have different tails and different memories, so each is calibrated on its own past.
    Once an alarm is on, each batch is held against two stories: as fast as expected, or slower by
    what the alarm's batches were. The alarm ends when the first explains clearly more.

    >>> found = Sustained()
    >>> giant = Evidence(residual=0.7, scale=0.01, surprise=15.0, mixed=False, novelty=0)
    >>> [found.score_one(giant, 16.0) >= 1 for _ in range(3)]
    [False, True, True]
    >>> calm = Evidence(residual=0.0, scale=0.01, surprise=0.7, mixed=False, novelty=0)
    >>> [found.score_one(calm, 16.0) >= 1 for _ in range(3)]
    [True, True, False]
    """

    def __init__(self) -> None:
        self._charts = {False: Chart(0.7, 0.9), True: Chart(0.5, 0.25)}
        self._held = 0.0
        # Of decode and of prefill: bursts of prompts would drown what decode tells so clearly.
        self._shifts = [0.0, 0.0]
        self._decodes = False

    @property
    def doubt(self) -> float:
        """The larger doubt of the two charts."""
        decode, mixed = self._charts[False], self._charts[True]
        if not decode.sum and not mixed.sum:
            return 0.0
        return max(decode.doubt, mixed.doubt)

    @property
    def shift(self) -> float:
        """By how much an alarm's batches are slower than expected; 0 without one."""
        return self._shifts[not self._decodes] if self._held else 0.0

    def false_alarms(self, log_spacing: float) -> float:
        """Give the false alarms per batch of both charts."""
        return sum(chart.false_alarms(log_spacing) for chart in self._charts.values())

    def threshold(self, log_spacing: float) -> float:
        """Give the threshold of the chart for pure decode."""
        return self._charts[False].threshold(log_spacing)

    @property
    def exponent(self) -> float:
        """Give the exponent of the chart for pure decode."""
        return self._charts[False].exponent

    def score_one(self, evidence: Evidence, log_spacing: float) -> float:
        """Take the next batch and give the score."""
        if self._held:
            return self._while_alarm(evidence)
        chart = self._charts[evidence.mixed]
        score = chart.add(evidence.surprise, log_spacing, known=evidence.novelty == 0)
        if score >= 1:
            self.presume(evidence.residual)
            self._decodes = not evidence.mixed
        return score

    def presume(self, shift: float) -> None:
        """Take an alarm for raised, by batches that are so much slower."""
        self._held, self._decodes = MOST_HELD, True
        self._shifts = [max(shift, LEAST_SHIFT)] * 2

    def rest(self) -> None:
        """Forget what has built up, not what the past was like."""
        self._held, self._shifts = 0.0, [0.0, 0.0]
        for chart in self._charts.values():
            chart.rest()

    def to_state(self) -> dict[str, Any]:
        """Give the charts and the alarm."""
        return {
            "held": self._held,
            "shifts": list(self._shifts),
            "decodes": self._decodes,
            "charts": [self._charts[mixed].to_state() for mixed in (False, True)],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Take them back."""
        self._held, self._shifts = state["held"], list(state["shifts"])
        self._decodes = state["decodes"]
        for mixed in (False, True):
            self._charts[mixed].restore(state["charts"][mixed])

    def _while_alarm(self, evidence: Evidence) -> float:
        residual = min(evidence.residual, MOST_SHIFT)
        most = MOST_PER_BATCH if evidence.novelty == 0 else MOST_PER_UNKNOWN_BATCH
        if evidence.mixed:
            most = MOST_PER_MIXED_BATCH
        shift = self._shifts[evidence.mixed]
        fit = (min(residual, shift) - KEEP * shift) / evidence.scale
        self._held = min(MOST_HELD, self._held + max(-most, min(most, fit)))
        self._shifts[evidence.mixed] = max(LEAST_SHIFT, shift + SHIFT_GAIN * (residual - shift))
        self._decodes = self._decodes or not evidence.mixed
        if self._held > 0:
            return 1.0
        self.rest()
        return 0.0
