"""Try a sink until it takes what it is given: exponential back-off with jitter."""

import asyncio
import logging
import random as random_module
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from schemas.records import Record
from streams.sinks.base import Rejected, Sink, SinkUnavailable

log = logging.getLogger("latencyprism.sink")


@dataclass(slots=True)
class Backoff:
    """Pauses that double, with up to half of each left to chance so that writers spread out.

    Args:
        first_seconds: The first pause.

        most_seconds: The longest.

        give_up_seconds: Total time after which `next_pause` gives None; infinite by default.

        random: Gives numbers from 0 to 1.
    """

    first_seconds: float
    most_seconds: float
    give_up_seconds: float = float("inf")
    random: random_module.Random = field(default_factory=random_module.Random)
    _failures: int = 0
    _spent_seconds: float = 0.0

    def next_pause(self, asked_seconds: float | None = None) -> float | None:
        """Give the next pause, at least what the destination asked for; None to give up."""
        pause = min(self.first_seconds * 2.0**self._failures, self.most_seconds)
        pause *= 1 - self.random.random() / 2
        # A destination may ask for patience, not for ever.
        pause = max(pause, min(asked_seconds or 0.0, 300.0))
        self._failures = min(self._failures + 1, 60)
        if self._spent_seconds + pause > self.give_up_seconds:
            return None
        self._spent_seconds += pause
        return pause


async def write_until_done(
    sink: Sink, records: Sequence[Record], backoff: Backoff
) -> list[Rejected]:
    """Write in a thread, again and again while the sink is unavailable.

    Says once that it waits, and once that it goes on.

    Raises:
        SinkUnavailable: The back-off gave up.
    """
    failed_at: float | None = None
    while True:
        try:
            rejected = await asyncio.to_thread(sink.write, records)
        except SinkUnavailable as err:
            pause = backoff.next_pause(err.retry_after_seconds)
            if pause is None:
                raise
            if failed_at is None:
                failed_at = time.monotonic()
                log.warning("%s. Kept and tried again.", err)
            await asyncio.sleep(pause)
            continue
        if failed_at is not None:
            log.info("Delivered after %.1f s of trying.", time.monotonic() - failed_at)
        return rejected
