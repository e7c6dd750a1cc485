"""Add up what simulated engines do between two looks of an agent."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from simulator.fleet.draws import Floats, Ints


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """What engines did between two readings; arrays along the engines.

    Attributes:
        host_seconds: Work on the CPU; likewise ``device_seconds`` on the accelerator.
    """

    seconds: float
    host_seconds: Floats
    device_seconds: Floats
    tokens: Floats
    iterations: Floats


class Meters:
    """Add up what engines do, and tell it as of any moment of the running iteration."""

    def __init__(self, count: int) -> None:
        self._done = np.zeros((count, 4))
        self._running = np.zeros((count, 4))
        self._begin_ns = np.zeros(count, np.int64)
        self._end_ns = np.ones(count, np.int64)
        self._last = np.zeros((count, 4))

    def add(self, rows: Ints, begin_ns: Ints, end_ns: Ints, values: Floats) -> None:
        """Take in the iterations that begin now: ms on host and device, and tokens."""
        self._done[rows] += self._running[rows]
        self._running[rows, :3] = values
        self._running[rows, 3] = 1.0
        self._begin_ns[rows], self._end_ns[rows] = begin_ns, end_ns

    def read(self, rows: Ints, at_ns: int) -> Floats:
        """Give what was done since the last call."""
        length_ns = np.maximum(self._end_ns[rows] - self._begin_ns[rows], 1)
        share = np.clip((at_ns - self._begin_ns[rows]) / length_ns, 0.0, 1.0)
        now = self._done[rows] + self._running[rows] * share[:, None]
        since: Floats = now - self._last[rows]
        self._last[rows] = now
        return since
