"""The iterations of an engine that exists only as its records, at any rate."""

from __future__ import annotations

import random
from collections.abc import Iterator

from schemas.records import Engine, Iteration, PhaseTime, Workload

NS = 1_000_000_000


class EngineFeed:
    """The iterations of one engine; the mean batch takes ``period_seconds``."""

    def __init__(self, name: str, period_seconds: float, seed: int) -> None:
        self.engine_id = name
        self._period_ns = period_seconds * NS
        self._random = random.Random(seed)
        self._sequence = 0

    def engine(self, at_ns: int) -> Engine:
        """Give the inventory record."""
        return Engine(
            engine_id=self.engine_id,
            host=self.engine_id,
            at_ns=at_ns,
            state="running",
            framework="vllm",
            process_start_ns=1,
        )

    def duration_ns(self, factor: float) -> tuple[int, Workload]:
        """Draw the next batch: how long it takes, and its work."""
        requests = self._random.randint(4, 12)
        kv_tokens = requests * self._random.randint(200, 600)
        share = 0.7 + 0.02 * requests + kv_tokens / 22_000
        noise = self._random.lognormvariate(0, 0.02)
        return int(self._period_ns * share * factor * noise), Workload(
            requests=requests,
            scheduled_tokens=requests,
            prefill_tokens=0,
            decode_requests=requests,
            kv_tokens=kv_tokens,
        )

    def iteration(self, end_ns: int, duration_ns: int, workload: Workload) -> Iteration:
        """Write the record of a batch."""
        self._sequence += 1
        return Iteration(
            engine_id=self.engine_id,
            process_start_ns=1,
            sequence=self._sequence,
            begin_ns=end_ns - duration_ns,
            end_ns=end_ns,
            uncertainty_ns=1000,
            source="counter",
            workload=workload,
            phases=(PhaseTime(phase="forward", duration_ns=duration_ns * 9 // 10, samples=2),),
        )

    def past(self, count: int, until_ns: int) -> Iterator[Iteration]:
        """Give batches that were over by then."""
        drawn = [self.duration_ns(1.0) for _ in range(count)]
        end_ns = until_ns - sum(duration_ns for duration_ns, _ in drawn)
        for duration_ns, workload in drawn:
            end_ns += duration_ns
            yield self.iteration(end_ns, duration_ns, workload)
