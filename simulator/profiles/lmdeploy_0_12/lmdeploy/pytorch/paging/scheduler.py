"""The scheduler."""

from __future__ import annotations

from simulator.profiles.machinery.traffic import Batcher, Plan


class Scheduler:
    """Prefills first, and alone in their batch."""

    def __init__(self) -> None:
        self.batcher = Batcher()
        self.waiting = self.batcher.waiting

    def schedule(self) -> Plan | None:
        """Take the next batch."""
        return self.batcher.next_separate()
