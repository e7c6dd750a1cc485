"""Read one process of an engine, iteration by iteration, for as long as it lets us."""

import logging
import threading
import time
from collections.abc import Callable
from typing import Any, Literal, get_args

from collectors.clock import BEGIN, RUNGS, STATE, UNKNOWN, CounterClock, Event, unpack
from collectors.config import CollectSettings
from collectors.discovery import Process, is_running, is_stopped
from collectors.engines.base import Family
from collectors.publisher import Publisher
from collectors.stacks import NotServing, Sampler
from collectors.standstill import Standstill
from schemas.records import Phase, Role, Source, Workload

log = logging.getLogger("latencyprism.rank")

# Beside the kinds of events that the clock takes: the gauges, while nothing begins or ends.
GAUGES = 6
STATE_GONE, STATE_DENIED, STATE_LOST, STATE_SELF_CHECK_FAILED = 2, 3, 4, 6

# A sampler that hands over this often is fast enough for the alert and cheap enough for Python.
POLL_TIMEOUT_SECONDS = 0.05

Outcome = Literal["gone", "stopped", "refused"]
Align = Callable[[int, Workload], int | None]


def epoch_offset_ns() -> int:
    """Give epoch time minus monotonic time, now.

    On a busy host this thread may lose its CPU between two clocks, so the closest of a few
    readings counts.
    """
    best_spread_ns, offset_ns = 1 << 62, 0
    for _ in range(3):
        before_ns, epoch_ns, after_ns = time.monotonic_ns(), time.time_ns(), time.monotonic_ns()
        if after_ns - before_ns < best_spread_ns:
            best_spread_ns = after_ns - before_ns
            offset_ns = epoch_ns - (before_ns + after_ns) // 2
        if best_spread_ns < 10_000:
            break
    return offset_ns


class RankReader:
    """Attach to one process and publish its iterations; one thread at a time may use it.

    Args:
        engine_id: Goes onto every record, as do ``process_start_ns`` (of the engine's core),
            ``rank`` and ``role``.

        process: What is read.

        candidates: Processes that are read instead, where it is one of them that iterates.

        families: Ways to read it, likeliest first; the first whose loop runs there counts.

        publisher: Where iterations go.

        settings: Rates and periods.

        attach_sampler: Makes the sampler.

        align: For a rank beside the core: gives the core's sequence of an iteration.

        standstill: For the core: is told what is seen of the engine's work.

        report: Called when that stands still.
    """

    def __init__(
        self,
        *,
        engine_id: str,
        process_start_ns: int,
        process: Process,
        families: list[Family],
        publisher: Publisher,
        settings: CollectSettings,
        attach_sampler: Callable[..., Sampler],
        candidates: tuple[Process, ...] = (),
        rank: int = 0,
        role: Role = "engine_core",
        align: Align | None = None,
        standstill: Standstill | None = None,
        report: Callable[[], None] = lambda: None,
    ) -> None:
        self.process = process
        self.rank = rank
        self.role: Role = role
        self.failure: str | None = None
        self.clock: CounterClock | None = None
        self.sampler: Sampler | None = None
        self.attached = threading.Event()
        # By a signal; seen only where the gauges are read.
        self.is_stopped = False
        # CPU time of the thread in `run`, so that what Python costs can be governed, too.
        self.python_cpu_ns = 0
        self._engine_id = engine_id
        self._process_start_ns = process_start_ns
        self._candidates = candidates
        self._families = list(families)
        self._publisher = publisher
        self._settings = settings
        self._attach_sampler = attach_sampler
        self._align = align
        self._standstill = standstill or Standstill()
        self._report = report
        self._gauges: tuple[str, ...] = ()
        self._offset_ns = epoch_offset_ns()
        self._seen_before = 0
        self._missed_before = 0

    @property
    def seen(self) -> int:
        """Iterations that were timed one by one."""
        return self._seen_before + (self.clock.seen if self.clock is not None else 0)

    @property
    def missed(self) -> int:
        """Iterations that the counter proves and nobody timed."""
        return self._missed_before + (self.clock.missed if self.clock is not None else 0)

    @property
    def source(self) -> Source | None:
        """The rung that it is read on now; None while it is not read."""
        if self.clock is None or not self.attached.is_set():
            return None
        return self.clock.source

    @property
    def reads_gauges(self) -> bool:
        """Whether it sees for itself how many requests run and wait, also between iterations."""
        return self.source is not None and bool(self._gauges)

    @property
    def is_full_rank(self) -> bool:
        """Whether its iterations carry the engine's own numbers, as those of all ranks do."""
        return self.source is not None and self.clock is not None and not self.clock.is_aligned

    def stats(self) -> dict[str, int]:
        """Give the counts of the sampler, where there is one."""
        return self.sampler.stats() if self.sampler is not None else {}

    def attach(self, poll_hz: int, stack_hz: int) -> None:
        """Attach by the first family whose loop runs in the process.

        Raises:
            SamplerUnavailable: The native sampler is not installed.
            AttachRefused: The process cannot be read.
            NotServing: It runs none of the loops yet.
            ProcessLookupError: It ended.
        """
        failures: list[NotServing] = []
        processes = [self.process, *self._candidates]
        for process in [one for one in processes if is_running(one)] or processes[:1]:
            for family in self._families:
                try:
                    sampler = self._attach_sampler(
                        process.pid,
                        family.spec,
                        poll_hz=poll_hz,
                        stack_hz=stack_hz,
                        realtime=self._settings.realtime,
                    )
                except NotServing as err:
                    failures.append(err)
                    continue
                self._take(process, family, sampler)
                return
        raise (
            failures[0]
            if failures
            else NotServing("its framework has no single iterations to read")
        )

    def _take(self, process: Process, family: Family, sampler: Sampler) -> None:
        self.process, self.sampler, self.failure = process, sampler, None
        if family is not self._families[0] or self.clock is None:
            self._families.remove(family)
            self._families.insert(0, family)
            self._take_clock(family)
        assert self.clock is not None
        # Before its first event says so: the inventory is published at once.
        self.clock.source = RUNGS.get(sampler.stats().get("rung", 0), self.clock.source)
        self.attached.set()

    def run(self, stop: threading.Event) -> Outcome:
        """Publish iterations until the process ends, reading is refused, or ``stop`` is set.

        After ``refused``, `failure` says why.
        """
        sampler, clock = self.sampler, self.clock
        assert sampler is not None
        assert clock is not None
        period_ns = int(self._settings.open_iteration_seconds * 1e9)
        try:
            while not stop.is_set():
                packed = sampler.poll(POLL_TIMEOUT_SECONDS)
                # Once per hand-over: the system clock may be stepped while we run.
                self._offset_ns = epoch_offset_ns()
                events = list(unpack(packed))
                for iteration in clock.feed(iter(events)):
                    self._publisher.publish(iteration)
                    self._standstill.ended(iteration)
                if self._align is None:
                    still_open = clock.open_iteration(time.monotonic_ns(), period_ns)
                    if still_open is not None:
                        self._publisher.publish(still_open)
                        self._standstill.runs(still_open)
                self._watch_standstill(events)
                self.python_cpu_ns = time.thread_time_ns()
                outcome = self._ended(events, sampler, stop)
                if outcome is not None:
                    return outcome
                if not packed and not sampler.alive:
                    self.failure = f"reading stopped: {sampler.last_error()}"
                    return "refused"
            return "stopped"
        finally:
            self.attached.clear()
            sampler.stop()
            clock.lost()
            self.is_stopped = False
            self._standstill.forget()

    def _watch_standstill(self, events: list[Event]) -> None:
        was_stopped = self.is_stopped
        for event in events:
            if event.kind == GAUGES:
                self._take_gauges(event)
            elif event.kind == BEGIN:
                self.is_stopped = False
        if self._standstill.is_due(time.time_ns()) or self.is_stopped != was_stopped:
            self._report()

    def _take_gauges(self, event: Event) -> None:
        read = {
            name: None if value == UNKNOWN else value
            for name, value in zip(self._gauges, event.payload, strict=False)
        }
        running, waiting = read.get("running_requests"), read.get("waiting_requests")
        self.is_stopped = is_stopped(self.process)
        if self.is_stopped and not (running or waiting):
            # Nothing was there when it was stopped; what came since it has not taken in.
            running = waiting = None
        self._standstill.holds(event.at_ns + self._offset_ns, running, waiting)

    def _ended(
        self, events: list[Event], sampler: Sampler, stop: threading.Event
    ) -> Outcome | None:
        for event in events:
            if event.kind != STATE:
                continue
            if event.code == STATE_GONE:
                self._wait_for_the_end(stop)
                return "gone"
            if event.code == STATE_DENIED:
                self.failure = f"reading was refused: {sampler.last_error()}"
                return "refused"
            if event.code == STATE_LOST:
                log.info("%s: its counter moved; looking for it again.", self.name)
                if self.clock is not None:
                    # Its end will not be seen, and it is no batch that never ends.
                    self.clock.lost()
                self._standstill.forget()
            if event.code == STATE_SELF_CHECK_FAILED:
                log.warning("%s: %s", self.name, sampler.last_error())
        return None

    @property
    def name(self) -> str:
        """The engine's id, and the rank where it is not the first."""
        return self._engine_id if self.rank == 0 else f"{self._engine_id} rank {self.rank}"

    def _wait_for_the_end(self, stop: threading.Event) -> None:
        # A process that exits has no memory any more and is still in the table for a moment; an
        # attach would fail with a reason that is none.
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline and is_running(self.process):
            if stop.wait(0.02):
                return

    def _take_clock(self, family: Family) -> None:
        self._seen_before, self._missed_before = self.seen, self.missed
        self._gauges = tuple(gauge["name"] for gauge in family.spec.get("gauges", ()))
        self.clock = make_clock(
            family,
            engine_id=self._engine_id,
            process_start_ns=self._process_start_ns,
            rank=self.rank,
            role=self.role,
            align=self._align,
            epoch_offset_ns=lambda: self._offset_ns,
        )


def make_clock(family: Family, **more: Any) -> CounterClock:
    """Make the clock for what a family's spec makes the sampler say."""
    spec = family.spec
    fields = [*spec.get("batch", {}).get("fields", []), *spec.get("gauges", [])]
    known: tuple[Phase, ...] = get_args(Phase)
    phases: list[Phase] = [item["phase"] for item in spec.get("phases", [])]
    unknown = [phase for phase in phases if phase not in known]
    if unknown:
        raise ValueError(f"{family.name} names unknown phases {unknown}")
    return CounterClock(
        fields=tuple(item["name"] for item in fields),
        phases=tuple(phases),
        read_workload=family.workload,
        is_dummy=family.is_dummy,
        pointer_counters=tuple(
            index
            for index, counter in enumerate(spec.get("counter", []))
            if counter["kind"] == "pointer"
        ),
        **more,
    )
