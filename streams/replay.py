"""Play records through the analysis and keep what there is to tell."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from schemas.records import (
    Alert,
    Batch,
    Engine,
    HostReading,
    Iteration,
    ProcessReading,
    Record,
    XpuReading,
)
from streams.offline import Offline
from streams.outcome import Outcome


class Replay:
    """Plays records through the analysis and keeps what there is to tell.

    Args:
        recorded: Takes the batches and alerts of the input.

    Attributes:
        others: Engines with records, though without iterations.

        over_ns: When the last of what was analysed was seen.
    """

    def __init__(self, recorded: Callable[[Record], None] | None = None) -> None:
        self.outcome = Outcome()
        self.records = 0
        self.iterations = 0
        self.seconds = 0.0
        self.others: set[str] = set()
        self.over_ns = 0
        self._recorded = recorded

    def play(self, records: Iterable[Record], write: Callable[[Record], None] | None) -> None:
        """Feed all records; results go to ``write``, too."""
        offline = Offline()
        began_at_seconds = time.monotonic()
        for record in records:
            self._count(record)
            self._take(offline.feed(record), write)
        self.over_ns = offline.now_ns
        # Else an incident that is open at the end would stay so.
        self._take(offline.end(), write)
        self.seconds = time.monotonic() - began_at_seconds

    def _take(self, results: Iterable[Record], write: Callable[[Record], None] | None) -> None:
        for result in results:
            self.outcome.add(result)
            if write is not None:
                write(result)

    def _count(self, record: Record) -> None:
        self.records += 1
        if isinstance(record, Iteration):
            self.iterations += 1
        elif isinstance(record, Batch | Alert):
            if self._recorded is not None:
                self._recorded(record)
        elif isinstance(record, HostReading | ProcessReading | XpuReading | Engine):
            self.others.add(record.engine_id)
