"""Ways to slow recorded batches down, by the names that the command takes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

Disturb = Callable[[Sequence[float]], list[float]]
"""Makes slow durations, in ms, of healthy ones."""

SPIKE_MS = 200.0
SPIKE_EVERY = 10
RAMP_TO = 1.5


def disturbance(name: str) -> Disturb:
    """Give a way to slow batches down.

    Args:
        name: A factor (``1.2``), added time (``+20ms``), ``spikes`` (200 ms more in every tenth
            batch) or ``ramp`` (slowly from 1 to 1.5).

    Raises:
        ValueError: It is none of these; the text ends with what to write.

    >>> disturbance("1.5")([10.0, 20.0]), disturbance("+5ms")([10.0])
    ([15.0, 30.0], [15.0])
    """
    if name == "spikes":
        return _spikes
    if name == "ramp":
        return _ramp
    added = name.startswith("+") and name.endswith("ms")
    try:
        number = float(name[1:-2] if added else name)
    except ValueError:
        number = math.nan
    if not math.isfinite(number) or number <= 0:
        raise ValueError(
            f"{name!r} slows nothing down: write a factor as 1.2, added time as +20ms, 'spikes' or "
            "'ramp'"
        )
    return partial(_add, number) if added else partial(_multiply, number)


def _multiply(factor: float, durations_ms: Sequence[float]) -> list[float]:
    return [factor * one for one in durations_ms]


def _add(added_ms: float, durations_ms: Sequence[float]) -> list[float]:
    return [added_ms + one for one in durations_ms]


def _spikes(durations_ms: Sequence[float]) -> list[float]:
    return [
        one + SPIKE_MS * (place % SPIKE_EVERY == SPIKE_EVERY - 1)
        for place, one in enumerate(durations_ms)
    ]


def _ramp(durations_ms: Sequence[float]) -> list[float]:
    last = max(len(durations_ms) - 1, 1)
    return [one * (1 + (RAMP_TO - 1) * place / last) for place, one in enumerate(durations_ms)]
