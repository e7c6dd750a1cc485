"""Watch one engine on the best rung it allows, from its discovery to its end."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from typing import Any, get_args

from collectors.clock import (
    STATE,
    CounterClock,
    Event,
    MetricsClock,
    unpack,
)
from collectors.config import CollectSettings
from collectors.discovery import EngineProcess, is_running, start_ns
from collectors.engines.base import Framework
from collectors.governor import Governor, Rates
from collectors.publisher import Publisher
from collectors.scrape import ScrapeError, scrape
from collectors.stacks import (
    AttachRefused,
    NotServing,
    Sampler,
    SamplerUnavailable,
    attach,
)
from schemas.records import Engine, EngineState, Phase, Source

log = logging.getLogger("latencyprism.watcher")

STATE_GONE, STATE_DENIED, STATE_LOST = 2, 3, 4

# A sampler that hands over this often is fast enough for the alert and cheap enough for Python.
POLL_TIMEOUT_SECONDS = 0.05
RETRY_ATTACH_SECONDS = 5.0


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


class Watcher:
    """Follow one engine in a thread of its own until the engine ends or `stop` is called.

    Args:
        engine: Its processes.

        framework: How to read them.

        host: The host's name on every record.

        publisher: Where records go.

        settings: Rates and periods.

        agent_version: Goes into the inventory.

        attach_sampler: Makes the sampler; a parameter for tests.
    """

    def __init__(
        self,
        engine: EngineProcess,
        framework: Framework,
        host: str,
        publisher: Publisher,
        settings: CollectSettings,
        agent_version: str,
        attach_sampler: Callable[..., Sampler] = attach,
    ) -> None:
        self.engine = engine
        self.engine_id = f"{host}:{engine.name}"
        self.ended = threading.Event()
        self._framework = framework
        self._host = host
        self._publisher = publisher
        self._settings = settings
        self._agent_version = agent_version
        self._attach = attach_sampler
        self._process_start_ns = start_ns(engine.core)
        self._version = framework.version(engine)
        self._stop = threading.Event()
        self._source: Source | None = None
        self._note: str | None = None
        self._sampler: Sampler | None = None
        self._clock: CounterClock | None = None
        self._metrics_clock = MetricsClock(
            engine_id=self.engine_id, process_start_ns=self._process_start_ns
        )
        self._engine_iterations: int | None = None
        self._offset_ns = epoch_offset_ns()
        # CPU of the sampler's thread when it was last looked at, and when that was.
        self._governed = (0, 0)
        self._governor = Governor(
            Rates(settings.poll_hz, settings.stack_hz), settings.cpu_budget_ratio
        )
        self._thread = threading.Thread(target=self._run, name=f"watch {engine.name}", daemon=True)

    def start(self) -> None:
        """Begin watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; returns when the thread has ended."""
        self._stop.set()
        self._thread.join(5.0)

    def stats(self) -> dict[str, int]:
        """Give the counts of the sampler, where there is one."""
        return self._sampler.stats() if self._sampler is not None else {}

    @property
    def iterations_seen(self) -> int:
        """Iterations that were timed one by one, or counted through /metrics."""
        timed = self._clock.seen if self._clock is not None else 0
        return timed + self._metrics_clock.seen

    @property
    def iterations_missed(self) -> int:
        """Iterations that the counter proves and nobody timed."""
        return self._clock.missed if self._clock is not None else 0

    def report(self, state: EngineState = "running", cpu_ratio: float | None = None) -> None:
        """Publish the inventory record of this engine."""
        engine = self.engine
        self._publisher.publish(
            Engine(
                engine_id=self.engine_id,
                host=self._host,
                at_ns=time.time_ns(),
                state=state,
                framework=engine.framework,
                process_start_ns=self._process_start_ns,
                version=self._version,
                model=engine.model,
                port=engine.port,
                source=self._source,
                pids=tuple(engine.roles),
                ranks=1,
                agent_version=self._agent_version,
                iterations_seen=self.iterations_seen,
                iterations_missed=self.iterations_missed,
                engine_iterations=self._engine_iterations,
                agent_cpu_ratio=cpu_ratio,
                records_dropped=self._publisher.dropped,
                note=self._note,
            )
        )

    def govern(self) -> None:
        """Keep what reading this engine costs within the budget."""
        if self._sampler is None:
            return
        used_ns, now_ns = self._sampler.stats()["thread_cpu_ns"], time.monotonic_ns()
        last_used_ns, last_ns = self._governed
        self._governed = (used_ns, now_ns)
        if used_ns < last_used_ns or last_ns == 0:
            return
        cpu_ratio = (used_ns - last_used_ns) / max(now_ns - last_ns, 1)
        rates = self._governor.judge(cpu_ratio)
        if rates is not None:
            self._sampler.set_rates(rates.poll_hz, rates.stack_hz)
            dear = cpu_ratio > self._settings.cpu_budget_ratio
            log.log(
                logging.WARNING if dear else logging.INFO,
                "%s: reading it cost %.1f %% of a core; now %d counter reads and %d stacks a "
                "second.%s",
                self.engine_id,
                100 * cpu_ratio,
                rates.poll_hz,
                rates.stack_hz,
                " Raise [collect] cpu_budget_ratio to allow more." if dear else "",
            )

    def count_engine_iterations(self) -> None:
        """Ask the engine for its own count, to hold ours against it."""
        found = self._scrape()
        if found is not None:
            self._engine_iterations = found.iterations

    def _run(self) -> None:
        failure = ""
        try:
            self.report()
            while not self._stop.is_set() and is_running(self.engine.core):
                try:
                    self._watch()
                except Exception as err:
                    if str(err) != failure:
                        failure = str(err)
                        log.exception("%s: watching failed and is tried again.", self.engine_id)
                    self._stop.wait(RETRY_ATTACH_SECONDS)
        finally:
            if self._sampler is not None:
                self._sampler.stop()
            if not self._stop.is_set():
                log.info(
                    "%s: the engine ended after %d iterations.",
                    self.engine_id,
                    self.iterations_seen,
                )
                with contextlib.suppress(Exception):
                    self.report("gone")
            self.ended.set()

    def _watch(self) -> None:
        if self._try_attach():
            self._watch_counter()
            if self._source == "counter":
                # Nothing is wrong with reading it: the engine ended, or we are to stop.
                return
        self._watch_metrics(RETRY_ATTACH_SECONDS)

    def _try_attach(self) -> bool:
        rates = self._governor.rates
        try:
            self._sampler = self._attach(
                self.engine.core.pid,
                self._framework.sampler_spec(),
                poll_hz=rates.poll_hz,
                stack_hz=rates.stack_hz,
                realtime=self._settings.realtime,
            )
        except ProcessLookupError:
            return False
        except NotServing as err:
            # Usual while an engine loads its model: nothing that anybody has to act on.
            self._fall_to_metrics(str(err), logging.INFO)
            return False
        except (SamplerUnavailable, AttachRefused) as err:
            self._fall_to_metrics(str(err))
            return False
        self._source, self._note = "counter", None
        self._metrics_clock.lost()
        if self._clock is None:
            self._clock = self._make_clock()
        log.info(
            "%s: watching %s (pid %d) by its iteration counter.",
            self.engine_id,
            self.engine.framework,
            self.engine.core.pid,
        )
        self.report()
        return True

    def _make_clock(self) -> CounterClock:
        spec = self._framework.sampler_spec()
        names = [item["name"] for item in spec["batch"]["fields"] + spec["gauges"]]
        known: tuple[Phase, ...] = get_args(Phase)
        phases: list[Phase] = [item["phase"] for item in spec["phases"]]
        unknown = [phase for phase in phases if phase not in known]
        if unknown:
            raise ValueError(f"{self.engine.framework} names unknown phases {unknown}")
        return CounterClock(
            engine_id=self.engine_id,
            process_start_ns=self._process_start_ns,
            fields=tuple(names),
            phases=tuple(phases),
            read_workload=self._framework.workload,
            epoch_offset_ns=lambda: self._offset_ns,
            pointer_counters=tuple(
                index
                for index, counter in enumerate(spec["counter"])
                if counter["kind"] == "pointer"
            ),
        )

    def _watch_counter(self) -> None:
        sampler, clock = self._sampler, self._clock
        assert sampler is not None
        assert clock is not None
        period_ns = int(self._settings.open_iteration_seconds * 1e9)
        try:
            while not self._stop.is_set():
                packed = sampler.poll(POLL_TIMEOUT_SECONDS)
                # Once per hand-over: the system clock may be stepped while we run.
                self._offset_ns = epoch_offset_ns()
                events = list(unpack(packed))
                for iteration in clock.feed(iter(events)):
                    self._publisher.publish(iteration)
                still_open = clock.open_iteration(time.monotonic_ns(), period_ns)
                if still_open is not None:
                    self._publisher.publish(still_open)
                if self._sampler_ended(events, sampler):
                    return
                if not packed and not sampler.alive:
                    self._fall_to_metrics(f"reading stopped: {sampler.last_error()}")
                    return
        finally:
            sampler.stop()
            clock.lost()

    def _sampler_ended(self, events: list[Event], sampler: Sampler) -> bool:
        for event in events:
            if event.kind != STATE:
                continue
            if event.code == STATE_GONE:
                self._wait_for_the_end()
                return True
            if event.code == STATE_DENIED:
                self._fall_to_metrics(f"reading was refused: {sampler.last_error()}")
                return True
            if event.code == STATE_LOST:
                log.info("%s: its counter moved; looking for it again.", self.engine_id)
                if self._clock is not None:
                    # Its end will not be seen, and it is no batch that never ends.
                    self._clock.lost()
        return False

    def _wait_for_the_end(self) -> None:
        # A process that exits has no memory any more and is still in the table for a moment; an
        # attach would fail with a reason that is none.
        deadline = time.monotonic() + 2.0
        while time.monotonic() < deadline and is_running(self.engine.core):
            if self._stop.wait(0.02):
                return

    def _watch_metrics(self, seconds: float) -> None:
        """Stay on the lowest rung for so long; then the next attach is tried."""
        deadline = time.monotonic() + seconds
        while (
            time.monotonic() < deadline and not self._stop.is_set() and is_running(self.engine.core)
        ):
            found = self._scrape()
            if found is not None:
                self._engine_iterations = found.iterations
                iteration = self._metrics_clock.feed(found)
                if iteration is not None:
                    self._publisher.publish(iteration)
            self._stop.wait(self._settings.metrics_period_seconds)

    def _scrape(self) -> Any:
        if self.engine.port is None:
            return None
        try:
            return scrape(self._framework, self.engine.port, self._settings.metrics_timeout_seconds)
        except ScrapeError as err:
            log.debug("%s: %s", self.engine_id, err)
            return None

    def _fall_to_metrics(self, reason: str, level: int = logging.WARNING) -> None:
        """Say once why; the inventory carries it too."""
        self._source = "metrics"
        known = self.engine.port is not None
        note = f"{'watched by /metrics only' if known else 'not watched, its port is unknown'}"
        note += f": {reason}"
        if note != self._note:
            self._note = note
            log.log(level, "%s: %s", self.engine_id, note)
            self.report()
