"""How sure an answer is: the share of such answers that were right in the simulated fault gym.

Of 384 answers while a fault was at work, right or wrong by its truth. No share is above 95 %, for
a simulation is kinder than the world. ``python -m benchmarks.explain --calibrate`` counts them anew
and prints this table.
"""

from bisect import bisect_right
from typing import Literal

Basis = Literal["counter", "partial", "signature", "phase", "blind", "none"]
"""What an answer rests on: a ``counter`` of the incident's time; one of a time that began before it
(``partial``); how the slowdown is spread over batches (``signature``); a ``phase`` that grew while
the host's counters are quiet; or one of which they are not known yet (``blind``)."""

MOST = 0.95
# Of two rivals the stronger has this margin at least: strongest / (strongest + next + DOUBT).
STEPS = (0.0, 0.5, 0.7, 0.85)
# By basis, the share that was right from each step of the margin on.
TABLE: dict[Basis, tuple[float, float, float, float]] = {
    "counter": (0.92, 0.92, 0.92, 0.95),
    "partial": (0.71, 0.71, 0.71, 0.71),
    "signature": (0.95, 0.95, 0.95, 0.95),
    "phase": (0.52, 0.64, 0.66, 0.68),
    "blind": (0.1, 0.12, 0.12, 0.2),
    "none": (0.0, 0.0, 0.0, 0.0),
}


def confidence_of(basis: Basis, margin: float) -> float:
    """Give the share of answers like this that are right.

    >>> confidence_of("counter", 0.9) > confidence_of("phase", 0.9)
    True
    """
    return TABLE[basis][bisect_right(STEPS, margin) - 1]
