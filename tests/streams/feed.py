"""What an agent would send about one engine whose law is known, and who listens to it."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import replace

from schemas.records import (
    Alert,
    Batch,
    Engine,
    HostReading,
    Iteration,
    PhaseTime,
    Workload,
)
from streams.analyze import Analysis, Result

ENGINE_ID = "host:8000"
BEGIN_NS = 1_790_000_000_000_000_000
SECOND_NS = 1_000_000_000
PAUSE_NS = 200_000


class Feed:
    """Make the records of one engine in the order in which they are sent.

    Args:
        seed: Of the workload and of the noise.

        process_start_ns: The engine's process.

        ranks: Ranks that report each batch, the first one first.

        engine_id: The engine's.
    """

    def __init__(
        self,
        seed: int = 1,
        process_start_ns: int = 1,
        ranks: int = 1,
        engine_id: str = ENGINE_ID,
    ) -> None:
        self.engine_id = engine_id
        self._random = random.Random(seed)
        self.process_start_ns = process_start_ns
        self.ranks = ranks
        self.sequence = 0
        self.now_ns = BEGIN_NS
        self._reading_begin_ns = BEGIN_NS

    def engine(self, **changes: object) -> Engine:
        """Give the inventory record."""
        engine = Engine(
            engine_id=self.engine_id,
            host="host",
            at_ns=self.now_ns,
            state="running",
            framework="vllm",
            process_start_ns=self.process_start_ns,
            model="a-model",
            ranks=self.ranks,
        )
        return replace(engine, **changes)  # type: ignore[arg-type]  # test shorthand

    def batches(
        self, count: int, *, factor: float = 1.0, others: float = 0.1
    ) -> Iterator[Iteration | HostReading]:
        """Give the iterations of so many batches, with a reading of the host every second.

        Args:
            count: How many batches.

            factor: How many times as long as it should the forward phase takes.

            others: Share of the host's CPUs that other processes use.
        """
        for _ in range(count):
            yield from self.batch(factor)
            if self.now_ns - self._reading_begin_ns >= SECOND_NS:
                yield self.reading(others=others)

    def batch(self, factor: float = 1.0) -> list[Iteration]:
        """Give the iterations of all ranks for the next batch."""
        self.sequence += 1
        requests = self._random.randint(4, 12)
        kv_tokens = requests * self._random.randint(200, 600)
        normal_ms = 5 + 0.05 * requests + kv_tokens / 20_000
        duration_ns = int(normal_ms * factor * self._random.lognormvariate(0, 0.02) * 1e6)
        begin_ns = self.now_ns + PAUSE_NS
        self.now_ns = begin_ns + duration_ns
        return [
            Iteration(
                engine_id=self.engine_id,
                process_start_ns=self.process_start_ns,
                rank=rank,
                sequence=self.sequence,
                begin_ns=begin_ns,
                end_ns=self.now_ns,
                uncertainty_ns=1000,
                source="counter",
                workload=Workload(
                    requests=requests,
                    scheduled_tokens=requests,
                    prefill_tokens=0,
                    decode_requests=requests,
                    kv_tokens=kv_tokens,
                ),
                phases=(
                    PhaseTime(phase="schedule", duration_ns=500_000, samples=1),
                    PhaseTime(phase="forward", duration_ns=duration_ns - 500_000, samples=5),
                ),
            )
            for rank in range(self.ranks)
        ]

    def reading(self, *, others: float | None = 0.1) -> HostReading:
        """Give the reading of the host since the last one."""
        begin_ns, self._reading_begin_ns = self._reading_begin_ns, self.now_ns
        return HostReading(
            engine_id=self.engine_id,
            host="host",
            begin_ns=begin_ns,
            end_ns=self.now_ns,
            cpu_count=8,
            others_cpu_ratio=others,
        )

    def open_iteration(self, seconds: float) -> Iteration:
        """Give the next batch while it is still running, after so many seconds."""
        running = replace(self.batch()[0], end_ns=None, phases=())
        self.sequence -= 1
        self.now_ns = running.begin_ns + int(seconds * 1e9)
        return replace(running, running_ns=int(seconds * 1e9))

    def pause(self, seconds: float) -> None:
        """Let time pass without a batch."""
        self.now_ns += int(seconds * 1e9)


class Listener:
    """An analysis and all that came out of it."""

    def __init__(self, analysis: Analysis | None = None) -> None:
        self.analysis = analysis or Analysis(ENGINE_ID, clock_ns=lambda: 42)
        self.results: list[Result] = []

    @property
    def alerts(self) -> list[Alert]:
        """The alerts so far."""
        return [one for one in self.results if isinstance(one, Alert)]

    @property
    def states(self) -> list[str]:
        """What the alerts so far told."""
        return [alert.state for alert in self.alerts]

    @property
    def batches(self) -> list[Batch]:
        """The batches so far."""
        return [one for one in self.results if isinstance(one, Batch)]

    def take(
        self,
        records: Iterator[Iteration | HostReading] | Sequence[Iteration | HostReading | Engine],
    ) -> list[Result]:
        """Take records in order; give what came out of these."""
        before = len(self.results)
        for record in records:
            if isinstance(record, Iteration):
                self.results += self.analysis.add_iteration(record)
            elif isinstance(record, HostReading):
                self.results += self.analysis.add_host(record)
            else:
                self.results += self.analysis.add_engine(record)
        return self.results[before:]
