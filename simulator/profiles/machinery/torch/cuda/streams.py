"""The device of a profile: batches run one after another, each for a set time."""

from __future__ import annotations

import time

# Of a decode: a few ms, as without CUDA graphs.
LAUNCH_RATIO = 0.2


class Event:
    """Stand for the end of a batch on the device."""

    def __init__(self, ready_seconds: float, busy: bool) -> None:
        self.ready_seconds = ready_seconds
        self.busy = busy

    def query(self) -> bool:
        """Say whether the batch is done."""
        return time.monotonic() >= self.ready_seconds

    def synchronize(self) -> None:
        """Wait until the batch is done, asleep or at work."""
        if self.busy:
            number = 1
            while time.monotonic() < self.ready_seconds:
                for _ in range(100):
                    number = (number * 1_103_515_245 + 12_345) % 2_147_483_648
            return
        while True:
            remaining_seconds = self.ready_seconds - time.monotonic()
            if remaining_seconds <= 0:
                return
            time.sleep(remaining_seconds)


class Stream:
    """Take batches in order; a batch starts when the one before it is done."""

    def __init__(self, *, period_seconds: float, busy: bool) -> None:
        self._period_seconds = period_seconds
        self._busy = busy
        self._free_seconds = 0.0

    def spend_launch(self) -> None:
        """Take the time that a processor needs to launch all kernels of a batch."""
        time.sleep(self._period_seconds * LAUNCH_RATIO)

    def launch(self, prefill_tokens: int) -> Event:
        """Queue a batch and return at once; a prefill takes longer than a decode."""
        begin_seconds = max(time.monotonic(), self._free_seconds)
        duration_seconds = self._period_seconds * (1.0 + prefill_tokens / 512)
        self._free_seconds = begin_seconds + duration_seconds
        return Event(self._free_seconds, self._busy)
