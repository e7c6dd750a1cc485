"""Join what was seen of one engine into the timeline of its batches.

A batch is one sequence number over all ranks. It is given out as soon as its last known rank has
reported, or when later ones are on their way and a grace has passed; a part that comes later
amends it with a higher revision. Workers' shares of a batch are not waited for: they tell how far
the ranks are apart.
"""

from collections import OrderedDict, deque
from dataclasses import dataclass

from schemas.records import Batch, HostReading, Iteration
from streams.xpus import Accelerators

# Event time that a missing rank is waited for.
GRACE_NS = 500_000_000
# Batches remembered so that late parts can amend them.
REMEMBERED = 256
READINGS = 120


@dataclass(slots=True)
class _Parts:
    ranks: dict[int, Iteration]
    revision: int = -1


class Timeline:
    """Collect the iterations of all ranks and the counters around them.

    Args:
        ranks: How many ranks report.
    """

    def __init__(self, ranks: int = 1) -> None:
        self.ranks = ranks
        self._parts: OrderedDict[tuple[int, int], _Parts] = OrderedDict()
        self._readings: deque[HostReading] = deque(maxlen=READINGS)
        self._shares: OrderedDict[tuple[int, int], dict[int, int]] = OrderedDict()
        self.accelerators = Accelerators()

    def add_host(self, reading: HostReading) -> None:
        """Take in a reading of the host."""
        self._readings.append(reading)

    def add_share(self, iteration: Iteration) -> None:
        """Take in a worker's share of a batch; one that comes after its batch is left out."""
        key = (iteration.process_start_ns, iteration.sequence)
        duration_ns = (iteration.end_ns or iteration.begin_ns) - iteration.begin_ns
        self._shares.setdefault(key, {})[iteration.rank] = duration_ns
        while len(self._shares) > REMEMBERED:
            self._shares.popitem(last=False)

    @property
    def newest_reading(self) -> HostReading | None:
        """The reading that came last."""
        return self._readings[-1] if self._readings else None

    def awaits(self, iteration: Iteration) -> bool:
        """Whether other ranks reported on this batch and this one did not yet."""
        parts = self._parts.get((iteration.process_start_ns, iteration.sequence))
        return parts is not None and iteration.rank not in parts.ranks

    def forget(self) -> None:
        """Forget all batches: their sequence numbers are about to be used again."""
        self._parts.clear()
        self._shares.clear()

    def add(self, iteration: Iteration) -> list[Batch]:
        """Take in one rank's closed iteration; give the batches that are complete by it."""
        key = (iteration.process_start_ns, iteration.sequence)
        parts = self._parts.setdefault(key, _Parts({}))
        parts.ranks[iteration.rank] = iteration
        ready: list[Batch] = []
        if self.ranks > 1:
            ready += self._overdue(iteration)
        if len(parts.ranks) >= self.ranks:
            ready.append(self._batch(parts))
        while len(self._parts) > REMEMBERED:
            _, oldest = self._parts.popitem(last=False)
            if oldest.revision < 0:
                ready.insert(0, self._batch(oldest))
        return ready

    def counters(self, begin_ns: int, end_ns: int) -> dict[str, float]:
        """Give the counters over a time: the host's reading that overlaps it most, or the latest.

        Readings come once a period, batches many times, so most batches share one. Those of the
        accelerators are of a moment: the latest before the end.
        """
        best = self.newest_reading
        best_overlap_ns = 0
        for reading in reversed(self._readings):
            overlap_ns = min(end_ns, reading.end_ns) - max(begin_ns, reading.begin_ns)
            if overlap_ns > best_overlap_ns:
                best, best_overlap_ns = reading, overlap_ns
            if reading.end_ns < begin_ns:
                break
        host = counters_of(best) if best is not None else {}
        return host | self.accelerators.counters(end_ns)

    def _overdue(self, newest: Iteration) -> list[Batch]:
        limit_ns = newest.begin_ns - GRACE_NS
        return [
            self._batch(parts)
            for parts in list(self._parts.values())
            if parts.revision < 0
            and parts.ranks
            and max(part.end_ns or 0 for part in parts.ranks.values()) < limit_ns
        ]

    def _batch(self, parts: _Parts) -> Batch:
        parts.revision += 1
        iterations = list(parts.ranks.values())
        first = min(iterations, key=lambda part: part.rank)
        slowest = max(iterations, key=lambda part: (part.end_ns or 0) - part.begin_ns)
        begin_ns = min(part.begin_ns for part in iterations)
        end_ns = max(part.end_ns or part.begin_ns for part in iterations)
        return Batch(
            engine_id=first.engine_id,
            process_start_ns=first.process_start_ns,
            sequence=first.sequence,
            revision=parts.revision,
            begin_ns=begin_ns,
            end_ns=end_ns,
            duration_ns=max(end_ns - begin_ns, 0),
            uncertainty_ns=max(part.uncertainty_ns for part in iterations),
            source=first.source,
            ranks=len(iterations),
            missed=first.missed,
            iterations=first.iterations,
            workload=first.workload,
            phases=slowest.phases,
            counters=self.counters(begin_ns, end_ns)
            | spread_of(self._shares.get((first.process_start_ns, first.sequence), {})),
        )


COUNTERS = (
    "others_cpu_ratio",
    "engine_cpu_ratio",
    "cpu_steal_ratio",
    "cpu_frequency_hz",
    "engine_run_queue_wait_ratio",
    "cpu_pressure_ratio",
    "memory_pressure_ratio",
    "io_pressure_ratio",
    "swap_in_bytes_per_second",
    "swap_out_bytes_per_second",
    "major_faults_per_second",
)


def spread_of(durations_ns: dict[int, int]) -> dict[str, float]:
    """Give how far the workers of a batch are apart, from their shares by rank.

    ``worker_spread_ratio`` is the part of the slowest one's time that the fastest did not need.
    """
    if len(durations_ns) < 2:
        return {}
    slowest = max(durations_ns, key=lambda rank: durations_ns[rank])
    most_ns, least_ns = durations_ns[slowest], min(durations_ns.values())
    if most_ns <= 0:
        return {}
    return {
        "worker_spread_ratio": (most_ns - least_ns) / most_ns,
        "slowest_worker_rank": float(slowest),
    }


def counters_of(reading: HostReading) -> dict[str, float]:
    """Give the known counters of a reading by name."""
    return {name: value for name in COUNTERS if (value := getattr(reading, name)) is not None}
