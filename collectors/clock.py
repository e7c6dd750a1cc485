"""The batch clock: from raw observations of an engine to timed iterations.

Two clocks, one for each rung that this version climbs: `CounterClock` turns the events of the
native sampler into single iterations, `MetricsClock` turns two scrapes of /metrics into the mean
of an interval. Both are pure: they are told the time and touch nothing.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from schemas.records import Iteration, Phase, PhaseTime, Workload

HEADER = struct.Struct("<BBHIQQQ")
BEGIN, BATCH, END, STACK, STATE = 1, 2, 3, 4, 5
INSIDE_STEP = 1
STATE_ATTACHED = 1
UNKNOWN = -(2**63)

# Below this many samples a share of the iteration says little about this very iteration.
MEASURED_SAMPLES = 8


@dataclass(frozen=True, slots=True)
class Event:
    """One observation of the native sampler; times are CLOCK_MONOTONIC nanoseconds."""

    kind: int
    flags: int
    code: int
    counter: int
    at_ns: int
    gap_ns: int
    payload: tuple[int, ...]


def unpack(packed: bytes) -> Iterator[Event]:
    """Read packed events one by one.

    Raises:
        ValueError: The bytes end within an event.
    """
    position = 0
    while position < len(packed):
        try:
            kind, flags, words, code, counter, at_ns, gap_ns = HEADER.unpack_from(packed, position)
            position += HEADER.size
            payload = struct.unpack_from(f"<{words}q", packed, position)
        except struct.error as err:
            raise ValueError(f"sampler events are cut off at byte {position}") from err
        position += 8 * words
        yield Event(kind, flags, code, counter, at_ns, gap_ns, payload)


@dataclass(slots=True)
class _Running:
    """The iteration that began and has not ended."""

    counter: int
    begin_ns: int
    gap_ns: int
    missed: int
    workload: Workload = field(default_factory=Workload)
    samples: dict[Phase, int] = field(default_factory=dict)


class CounterClock:
    """Time each iteration of one engine from its own counter.

    A begin is a change of the counter, an end the moment its step function was left or, in a
    busy loop where that gap is too short to see, the next begin.

    Args:
        engine_id: Goes onto every record, as does ``process_start_ns``.

        fields: Names of the integers of a batch event, in order.

        phases: Names of the phases that a stack event's index points into.

        read_workload: Turns named integers into a workload, or None where they contradict.

        epoch_offset_ns: Gives epoch time minus monotonic time.

        pointer_counters: Which choices of the counter are pointers. The sampler counts their
            changes from 0, so their sequence starts at the time of the attach in ms instead: it
            grows through every restart of the agent, as a row's identity must.
    """

    def __init__(
        self,
        *,
        engine_id: str,
        process_start_ns: int,
        fields: tuple[str, ...],
        phases: tuple[Phase, ...],
        read_workload: Callable[[dict[str, int]], Workload | None],
        epoch_offset_ns: Callable[[], int],
        pointer_counters: tuple[int, ...] = (),
    ) -> None:
        self._engine_id = engine_id
        self._process_start_ns = process_start_ns
        self._fields = fields
        self._phases = phases
        self._read_workload = read_workload
        self._epoch_offset_ns = epoch_offset_ns
        self._pointer_counters = pointer_counters
        self._first_sequence = 0
        self._running: _Running | None = None
        self._reported_open_ns = 0
        self.seen = 0
        self.missed = 0
        self.workloads_refused = 0
        self.phase_samples: dict[Phase, int] = {}

    def feed(self, events: Iterator[Event]) -> Iterator[Iteration]:
        """Take events in order and give each iteration as soon as its end is known."""
        for event in events:
            if event.kind == BEGIN:
                yield from self._close(event.at_ns, event.gap_ns)
                self.missed += event.code
                self._running = _Running(event.counter, event.at_ns, event.gap_ns, event.code)
                self._reported_open_ns = event.at_ns
            elif event.kind == END:
                if self._running is not None and self._running.counter == event.counter:
                    yield from self._close(event.at_ns, event.gap_ns)
            elif event.kind == BATCH:
                self._take_batch(event)
            elif event.kind == STACK:
                self._take_stack(event)
            elif event.kind == STATE and event.code == STATE_ATTACHED:
                self._take_attached(event)

    def open_iteration(self, now_ns: int, period_ns: int) -> Iteration | None:
        """Give the running iteration if it has run for a period since it was last reported.

        ``now_ns`` is monotonic. This is how a batch that never ends is seen.
        """
        running = self._running
        if running is None or now_ns - self._reported_open_ns < period_ns:
            return None
        self._reported_open_ns = now_ns
        open_iteration = self._iteration(running, None, running.gap_ns)
        return replace(open_iteration, running_ns=now_ns - running.begin_ns)

    def lost(self) -> None:
        """Forget the running iteration: its end will not be seen."""
        self._running = None

    def _take_attached(self, event: Event) -> None:
        choice = event.payload[0] if event.payload else 0
        at_ms = (event.at_ns + self._epoch_offset_ns()) // 1_000_000
        self._first_sequence = at_ms if choice in self._pointer_counters else 0

    def _take_batch(self, event: Event) -> None:
        running = self._running
        if running is None or running.counter != event.counter:
            return
        read = {
            name: value
            for name, value in zip(self._fields, event.payload, strict=False)
            if value != UNKNOWN
        }
        workload = self._read_workload(read)
        if workload is None:
            self.workloads_refused += 1
        else:
            running.workload = workload

    def _take_stack(self, event: Event) -> None:
        index = event.payload[0] if event.payload else -2
        if index < -1 or index >= len(self._phases):
            return
        phase: Phase = self._phases[index] if index >= 0 else "other"
        self.phase_samples[phase] = self.phase_samples.get(phase, 0) + 1
        if self._running is not None and event.flags & INSIDE_STEP:
            samples = self._running.samples
            samples[phase] = samples.get(phase, 0) + 1

    def _close(self, end_ns: int, gap_ns: int) -> Iterator[Iteration]:
        running, self._running = self._running, None
        if running is None:
            return
        self.seen += 1
        yield self._iteration(running, end_ns, max(gap_ns, running.gap_ns))

    def _iteration(self, running: _Running, end_ns: int | None, gap_ns: int) -> Iteration:
        offset_ns = self._epoch_offset_ns()
        return Iteration(
            engine_id=self._engine_id,
            process_start_ns=self._process_start_ns,
            sequence=running.counter + self._first_sequence,
            begin_ns=running.begin_ns + offset_ns,
            end_ns=None if end_ns is None else end_ns + offset_ns,
            uncertainty_ns=gap_ns // 2,
            source="counter",
            missed=running.missed,
            workload=running.workload,
            phases=()
            if end_ns is None
            else phase_times(running.samples, max(end_ns - running.begin_ns, 0)),
        )


def phase_times(samples: dict[Phase, int], duration_ns: int) -> tuple[PhaseTime, ...]:
    """Share a duration among phases by their stack samples, longest first."""
    total = sum(samples.values())
    return tuple(
        PhaseTime(
            phase=phase,
            duration_ns=duration_ns * count // total,
            samples=count,
            estimated=count < MEASURED_SAMPLES,
        )
        for phase, count in sorted(samples.items(), key=lambda item: -item[1])
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Scrape:
    """The counters of one look at /metrics; ``at_ns`` is epoch time."""

    at_ns: int
    iterations: int
    tokens: int | None = None
    waiting_requests: int | None = None
    running_requests: int | None = None
    token_latency_seconds: float | None = None
    token_latency_count: int | None = None


class MetricsClock:
    """Time iterations by interval means: the rung that needs no permission.

    A request gets one token from each iteration that decodes it, so the mean time between its
    tokens is the mean duration of those iterations, however long the engine was idle in between.
    Where the engine does not tell that time, the mean period of its iterations stands in, without
    a workload: nobody judges it, for nobody knows how much of it was idle.
    """

    def __init__(self, *, engine_id: str, process_start_ns: int) -> None:
        self._engine_id = engine_id
        self._process_start_ns = process_start_ns
        self._last: Scrape | None = None
        self.seen = 0

    def lost(self) -> None:
        """Forget the last scrape: what came after it was timed in another way."""
        self._last = None

    def feed(self, scrape: Scrape) -> Iteration | None:
        """Take a scrape and give the mean iteration since the last one, if there was any."""
        last, self._last = self._last, scrape
        # A counter that fell is a restarted engine: begin anew.
        if last is None or scrape.iterations <= last.iterations or scrape.at_ns <= last.at_ns:
            return None
        count = scrape.iterations - last.iterations
        self.seen += count
        mean_ns = (scrape.at_ns - last.at_ns) // count
        decoded = _growth(last.token_latency_count, scrape.token_latency_count)
        waited_seconds = _growth(last.token_latency_seconds, scrape.token_latency_seconds)
        timed = bool(decoded) and bool(waited_seconds)
        if decoded and waited_seconds:
            mean_ns = round(waited_seconds / decoded * 1e9)
        tokens = (
            (scrape.tokens - last.tokens) // count
            if scrape.tokens is not None and last.tokens is not None
            else None
        )
        workload = Workload(
            requests=round(decoded / count) if decoded else scrape.running_requests,
            scheduled_tokens=tokens if timed else None,
            waiting_requests=scrape.waiting_requests,
            running_requests=scrape.running_requests,
        )
        return Iteration(
            engine_id=self._engine_id,
            process_start_ns=self._process_start_ns,
            sequence=scrape.iterations,
            begin_ns=scrape.at_ns - mean_ns,
            end_ns=scrape.at_ns,
            uncertainty_ns=mean_ns,
            source="metrics",
            iterations=count,
            workload=workload,
        )


def _growth(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else max(now - before, 0)
