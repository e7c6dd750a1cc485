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


Key = tuple[int, int]
"""``process_start_ns`` and ``sequence``."""


@dataclass(slots=True)
class _Parts:
    ranks: dict[int, Iteration]
    revision: int = -1


@dataclass(slots=True)
class _Around:
    """The counters around the newest batch: the next one mostly has the same."""

    host: dict[str, float]
    accelerators: dict[str, float]
    all: dict[str, float]


class Timeline:
    """Collect the iterations of all ranks and the counters around them.

    Args:
        ranks: How many ranks report.
    """

    def __init__(self, ranks: int = 1) -> None:
        self.ranks = ranks
        self._parts: OrderedDict[Key, _Parts] = OrderedDict()
        # Those of them that were not given out yet.
        self._waiting: dict[Key, _Parts] = {}
        # Many batches fall into one reading: its counters are picked once.
        self._readings: deque[tuple[HostReading, dict[str, float]]] = deque(maxlen=READINGS)
        self._shares: OrderedDict[Key, dict[int, int]] = OrderedDict()
        self._around = _Around({}, {}, {})
        self.accelerators = Accelerators()

    def add_host(self, reading: HostReading) -> None:
        """Take in a reading of the host."""
        self._readings.append((reading, counters_of(reading)))

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
        return self._readings[-1][0] if self._readings else None

    def awaits(self, iteration: Iteration) -> bool:
        """Whether other ranks reported on this batch and this one did not yet."""
        parts = self._parts.get((iteration.process_start_ns, iteration.sequence))
        return parts is not None and iteration.rank not in parts.ranks

    def forget(self) -> None:
        """Forget all batches: their sequence numbers are about to be used again."""
        self._parts.clear()
        self._waiting.clear()
        self._shares.clear()

    def add(self, iteration: Iteration) -> list[Batch]:
        """Take in one rank's closed iteration; give the batches that are complete by it."""
        key = (iteration.process_start_ns, iteration.sequence)
        parts = self._parts.get(key)
        if parts is None:
            parts = self._parts[key] = self._waiting[key] = _Parts({})
        parts.ranks[iteration.rank] = iteration
        ready = self._overdue(iteration) if self.ranks > 1 else []
        if len(parts.ranks) >= self.ranks:
            ready.append(self._batch(key, parts))
        while len(self._parts) > REMEMBERED:
            oldest, parts = self._parts.popitem(last=False)
            if parts.revision < 0:
                ready.insert(0, self._batch(oldest, parts))
        return ready

    def counters(self, begin_ns: int, end_ns: int) -> dict[str, float]:
        """Give the counters over a time: the host's reading that overlaps it most, or the latest.

        Readings come once a period, batches many times, so most batches share one. Those of the
        accelerators are of a moment: the latest before the end. It is not to be changed.
        """
        host = self._host_counters(begin_ns, end_ns)
        accelerators = self.accelerators.counters(end_ns)
        around = self._around
        if around.host is not host or around.accelerators is not accelerators:
            around = self._around = _Around(host, accelerators, host | accelerators)
        return around.all

    def _host_counters(self, begin_ns: int, end_ns: int) -> dict[str, float]:
        best: dict[str, float] | None = None
        best_overlap_ns = 0
        for reading, counters in reversed(self._readings):
            if best is None:
                best = counters
            overlap_ns = min(end_ns, reading.end_ns) - max(begin_ns, reading.begin_ns)
            if overlap_ns > best_overlap_ns:
                best, best_overlap_ns = counters, overlap_ns
            if reading.end_ns < begin_ns:
                break
        return NO_COUNTERS if best is None else best

    def _overdue(self, newest: Iteration) -> list[Batch]:
        limit_ns = newest.begin_ns - GRACE_NS
        return [
            self._batch(key, parts)
            for key, parts in list(self._waiting.items())
            if max(part.end_ns or 0 for part in parts.ranks.values()) < limit_ns
        ]

    def _batch(self, key: Key, parts: _Parts) -> Batch:
        self._waiting.pop(key, None)
        parts.revision += 1
        iterations = list(parts.ranks.values())
        first = slowest = iterations[0]
        begin_ns, end_ns = first.begin_ns, first.end_ns or first.begin_ns
        uncertainty_ns = first.uncertainty_ns
        if len(iterations) > 1:
            first = min(iterations, key=lambda part: part.rank)
            slowest = max(iterations, key=lambda part: (part.end_ns or 0) - part.begin_ns)
            begin_ns = min(part.begin_ns for part in iterations)
            end_ns = max(part.end_ns or part.begin_ns for part in iterations)
            uncertainty_ns = max(part.uncertainty_ns for part in iterations)
        counters = self.counters(begin_ns, end_ns)
        shares = self._shares.get(key)
        return Batch(
            engine_id=first.engine_id,
            process_start_ns=first.process_start_ns,
            sequence=first.sequence,
            revision=parts.revision,
            begin_ns=begin_ns,
            end_ns=end_ns,
            duration_ns=max(end_ns - begin_ns, 0),
            uncertainty_ns=uncertainty_ns,
            source=first.source,
            ranks=len(iterations),
            missed=first.missed,
            iterations=first.iterations,
            workload=first.workload,
            phases=slowest.phases,
            counters=counters if shares is None else counters | spread_of(shares),
        )


# One for all, so that the same is known as the same.
NO_COUNTERS: dict[str, float] = {}

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
# Those that only the cause of an incident is judged by: batches do not carry them.
FURTHER = (
    "cpu_irq_ratio",
    "cpu_iowait_ratio",
    "disk_busy_ratio",
    "context_switches_per_second",
    "run_queue_latency_p99_seconds",
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


def all_counters_of(reading: HostReading) -> dict[str, float]:
    """Give all counters of a reading that a cause may be judged by.

    Some are made of several: CPU time that programs of others take (the kernel's is not theirs),
    waiting for a CPU as a share of the time that the engine's threads could run, what the network
    carries of what it can.
    """
    found = counters_of(reading)
    for name in FURTHER:
        value = getattr(reading, name)
        if value is not None:
            found[name] = value
    waited, own = reading.engine_run_queue_wait_ratio, reading.engine_cpu_ratio
    if waited is not None and own is not None:
        could_run = waited + own * reading.cpu_count
        found["engine_run_queue_share"] = waited / could_run if could_run > 0 else 0.0
    if reading.cpu_user_ratio is not None and own is not None:
        found["others_user_ratio"] = max(reading.cpu_user_ratio - own, 0.0)
    used = [reading.network_received_bytes_per_second, reading.network_sent_bytes_per_second]
    known = [one for one in used if one is not None]
    if known and reading.network_link_bytes_per_second:
        found["network_link_ratio"] = max(known) / reading.network_link_bytes_per_second
    total, available = reading.memory_total_bytes, reading.memory_available_bytes
    if total and available is not None:
        found["memory_available_ratio"] = available / total
    return found
