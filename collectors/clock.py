"""The batch clock: from raw observations of an engine to timed iterations.

Two clocks: `CounterClock` turns the events of the native sampler (the rungs ``counter`` and
``stack``) into single iterations, `MetricsClock` turns two scrapes of /metrics into the mean of an
interval. Both are pure: they are told the time and touch nothing.
"""

import struct
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace

from schemas.records import Iteration, Phase, PhaseTime, Role, Source, Workload

HEADER = struct.Struct("<BBHIQQQ")
BEGIN, BATCH, END, STACK, STATE = 1, 2, 3, 4, 5
INSIDE_STEP = 1
STATE_ATTACHED = 1
UNKNOWN = -(2**63)

# The rungs as the sampler numbers them when it has attached.
RUNGS: dict[int, Source] = {1: "counter", 2: "stack"}

# Iterations of the core that a worker's share may still belong to: the newest that had begun, and
# with overlapped scheduling the one before it.
RECENT = 8
IN_FLIGHT = 2

# A core whose steps are seen to end in more than this share of its iterations does not overlap
# them; one that overlaps is seen to end only where it falls idle.
ENDS_SHARE = 0.03
ENDS_WEIGHT = 0.02

# A worker may be seen to start this much before the core is seen to begin: both are polled.
ALIGN_SLACK_NS = 2_000_000

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
    """An iteration that began; ``end_ns`` only where its end was seen."""

    counter: int
    sequence: int
    begin_ns: int
    gap_ns: int
    missed: int
    workload: Workload = field(default_factory=Workload)
    samples: dict[Phase, int] = field(default_factory=dict)
    is_dummy: bool = False
    end_ns: int | None = None


class CounterClock:
    """Time each iteration of one process from its own counter, or from the calls on its stack.

    A begin is a change of the counter, an end the moment its step function was left or, in a
    busy loop where that gap is too short to see, the next begin. An engine that launches a batch
    before it has the last one's result is timed from launch to launch.

    Args:
        engine_id: Goes onto every record, as do ``process_start_ns``, ``rank`` and ``role``.

        fields: Names of the integers of a batch event, in order.

        phases: Names of the phases that a stack event's index points into.

        read_workload: Turns named integers into a workload, or None where they contradict.

        epoch_offset_ns: Gives epoch time minus monotonic time.

        pointer_counters: Which choices of the counter are pointers. The sampler counts their
            changes, and the calls of the stack rung, from 0; so their sequence starts at the
            time of the attach in ms instead: it grows through every restart of the agent, as a
            row's identity must.

        is_dummy: Tells batches that only keep ranks in step; they are counted and not given.

        align: For a worker: gives the core's sequence of an iteration from its begin (monotonic)
            and workload, or None where the core has none; such an iteration is not given.
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
        rank: int = 0,
        role: Role = "engine_core",
        is_dummy: Callable[[dict[str, int]], bool] = lambda fields: False,
        align: Callable[[int, Workload], int | None] | None = None,
    ) -> None:
        self._engine_id = engine_id
        self._process_start_ns = process_start_ns
        self._rank = rank
        self._role: Role = role
        self._is_dummy = is_dummy
        self._align = align
        self._fields = fields
        self._phases = phases
        self._read_workload = read_workload
        self._epoch_offset_ns = epoch_offset_ns
        self._pointer_counters = pointer_counters
        self._first_sequence = 0
        self._last_counter: int | None = None
        self._running: _Running | None = None
        self._recent: deque[_Running] = deque(maxlen=RECENT)
        self._reported_open_ns = 0
        self._ends_share = 1.0
        self.source: Source = "counter"
        self.seen = 0
        self.missed = 0
        self.dummies = 0
        self.unaligned = 0
        self.workloads_refused = 0
        self.phase_samples: dict[Phase, int] = {}

    def feed(self, events: Iterator[Event]) -> Iterator[Iteration]:
        """Take events in order and give each iteration as soon as its end is known."""
        for event in events:
            if event.kind == BEGIN:
                yield from self._close(event.at_ns, event.gap_ns)
                self._begin(event)
            elif event.kind == END:
                if self._running is not None and self._running.counter == event.counter:
                    self._running.end_ns = event.at_ns
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
        open_iteration = self._iteration(running, running.sequence, None, running.gap_ns)
        return replace(open_iteration, running_ns=now_ns - running.begin_ns)

    def sequence_at(self, begin_ns: int, workload: Workload, after: int) -> int | None:
        """Give the iteration that a worker's call belongs to, from what the two have in common.

        Where the core does not overlap its iterations it is the newest that had begun by then;
        else, for a worker takes them in order, the first of the same size of those in flight that
        is later than ``after``. May be called from another thread.
        """
        limit_ns = begin_ns + ALIGN_SLACK_NS
        begun = [running for running in list(self._recent) if running.begin_ns <= limit_ns]
        in_flight = begun[-IN_FLIGHT:] if self._ends_share < ENDS_SHARE else begun[-1:]
        for running in in_flight:
            ended = running.end_ns is not None and running.end_ns <= begin_ns
            if not ended and running.sequence > after and _same_size(running.workload, workload):
                return running.sequence
        return None

    def lost(self) -> None:
        """Forget the running iteration: its end will not be seen."""
        self._running = None

    def _take_attached(self, event: Event) -> None:
        choice = event.payload[0] if event.payload else 0
        rung = event.payload[1] if len(event.payload) > 1 else 1
        self.source = RUNGS.get(rung, "counter")
        if self.source == "stack" or choice in self._pointer_counters:
            # Counted from this attach on: nothing before it is comparable.
            self._first_sequence = (event.at_ns + self._epoch_offset_ns()) // 1_000_000
            self._last_counter = None
        else:
            self._first_sequence = 0

    def _begin(self, event: Event) -> None:
        missed = event.code
        if self._last_counter is not None:
            # The engine's own count goes on while nobody looks, as after a counter that moved.
            missed = max(missed, event.counter - self._last_counter - 1)
        self._last_counter = event.counter
        self.missed += missed
        self._running = _Running(
            event.counter,
            event.counter + self._first_sequence,
            event.at_ns,
            event.gap_ns,
            missed,
        )
        self._recent.append(self._running)
        self._reported_open_ns = event.at_ns

    def _take_batch(self, event: Event) -> None:
        running = self._running
        if running is None or running.counter != event.counter:
            return
        read = {
            name: value
            for name, value in zip(self._fields, event.payload, strict=False)
            if value != UNKNOWN
        }
        running.is_dummy = self._is_dummy(read)
        workload = Workload() if running.is_dummy else self._read_workload(read)
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
        self._ends_share += ENDS_WEIGHT * ((running.end_ns is not None) - self._ends_share)
        if running.is_dummy:
            self.dummies += 1
            return
        sequence: int | None = running.sequence
        if self._align is not None:
            sequence = self._align(running.begin_ns, running.workload)
        if sequence is None:
            self.unaligned += 1
            return
        yield self._iteration(running, sequence, end_ns, max(gap_ns, running.gap_ns))

    def _iteration(
        self, running: _Running, sequence: int, end_ns: int | None, gap_ns: int
    ) -> Iteration:
        offset_ns = self._epoch_offset_ns()
        return Iteration(
            engine_id=self._engine_id,
            process_start_ns=self._process_start_ns,
            sequence=sequence,
            rank=self._rank,
            role=self._role,
            begin_ns=running.begin_ns + offset_ns,
            end_ns=None if end_ns is None else end_ns + offset_ns,
            uncertainty_ns=gap_ns // 2,
            source=self.source,
            missed=running.missed,
            workload=running.workload,
            phases=()
            if end_ns is None
            else phase_times(running.samples, max(end_ns - running.begin_ns, 0)),
        )


def _same_size(one: Workload, other: Workload) -> bool:
    pairs = ((one.requests, other.requests), (one.scheduled_tokens, other.scheduled_tokens))
    return all(mine is None or theirs is None or mine == theirs for mine, theirs in pairs)


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
            # Not the engine's count: a single iteration may have had that number.
            sequence=scrape.at_ns // 1_000_000,
            begin_ns=scrape.at_ns - mean_ns,
            end_ns=scrape.at_ns,
            uncertainty_ns=mean_ns,
            source="metrics",
            iterations=count,
            workload=workload,
        )


def _growth(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else max(now - before, 0)
