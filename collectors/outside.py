"""Watch an engine without reading its memory: by what it says itself, else by its metrics page."""

import logging
import threading
import time
from collections.abc import Callable

from collectors.clock import MetricsClock, Scrape
from collectors.config import CollectSettings
from collectors.discovery import EngineProcess
from collectors.engines.base import Framework
from collectors.feeds import Listener
from collectors.publisher import Publisher
from collectors.rank import epoch_offset_ns
from collectors.scrape import ScrapeError, scrape
from collectors.standstill import Standstill

log = logging.getLogger("latencyprism.outside")

# As often as the reader of a rank hands over: each time the watcher may be told to stop.
LISTEN_SECONDS = 0.05


class Outside:
    """The rungs below memory, the upper one first.

    Args:
        engine: Its processes as they are now.

        framework: What it says, and the names on its metrics page.

        engine_id: Goes onto every record, as does ``process_start_ns``.

        publisher: Where iterations go.

        settings: Rates and periods.

        standstill: Is told what is seen of the engine's work.

        changed: Called when the rung may be another one.

        report: Called when the engine stands still.
    """

    def __init__(
        self,
        engine: EngineProcess,
        framework: Framework,
        *,
        engine_id: str,
        process_start_ns: int,
        publisher: Publisher,
        settings: CollectSettings,
        standstill: Standstill,
        changed: Callable[[], None],
        report: Callable[[], None],
    ) -> None:
        self.port = engine.port
        self.engine_iterations: int | None = None
        self.listener = Listener(
            framework.feed,
            engine,
            engine_id=engine_id,
            process_start_ns=process_start_ns,
            epoch_offset_ns=epoch_offset_ns,
        )
        self._engine_id = engine_id
        self._framework = framework
        self._publisher = publisher
        self._settings = settings
        self._standstill = standstill
        self._changed = changed
        self._report = report
        self._clock = MetricsClock(engine_id=engine_id, process_start_ns=process_start_ns)

    @property
    def seen(self) -> int:
        """Iterations that the engine told of, or that its page counted."""
        return self.listener.seen + self._clock.seen

    @property
    def instead(self) -> str:
        """How the engine is watched where its memory is not read."""
        if self.listener.speaks:
            return f"watched by {self.listener.name}"
        if self.port is None:
            return "not watched, its port is unknown"
        if not self._framework.metrics.iterations:
            return "not watched, for its metrics page has no count of iterations"
        return "watched by /metrics only"

    def give_way(self) -> None:
        """A better rung is there."""
        self.listener.close()
        self._clock.lost()

    def watch(self, seconds: float, stop: threading.Event, lives: Callable[[], bool]) -> None:
        """Publish iterations for so long; then the next attach is tried."""
        deadline, next_scrape = time.monotonic() + seconds, 0.0
        while time.monotonic() < deadline and not stop.is_set() and lives():
            self.listener.open()
            if time.monotonic() >= next_scrape:
                next_scrape = time.monotonic() + self._settings.metrics_period_seconds
                self._take_metrics()
            if self._standstill.is_due(time.time_ns()):
                self._report()
            left_seconds = min(deadline, next_scrape) - time.monotonic()
            if self.listener.is_open:
                self._listen(min(left_seconds, LISTEN_SECONDS))
            else:
                stop.wait(max(left_seconds, 0.0))

    def count(self, *, gauges: bool) -> None:
        """Ask the engine for its own count, and with ``gauges`` for what runs and waits."""
        found = self._scrape()
        if found is not None:
            self.engine_iterations = found.iterations
            if gauges:
                self._hold(found)

    def _listen(self, timeout_seconds: float) -> None:
        for iteration in self.listener.listen(max(timeout_seconds, 0.0)):
            self._publisher.publish(iteration)
            self._standstill.ended(iteration)
        self._changed()

    def _take_metrics(self) -> None:
        found = self._scrape()
        if found is None:
            return
        self.engine_iterations = found.iterations
        self.listener.hold_against(found)
        self._hold(found)
        self._changed()
        if self.listener.speaks:
            if not self.listener.is_behind:
                # What the engine says itself is not to be counted again.
                self._clock.lost()
                self._clock.feed(found)
            return
        iteration = self._clock.feed(found)
        if iteration is not None:
            self._publisher.publish(iteration)
            self._standstill.ended(iteration)

    def _hold(self, found: Scrape) -> None:
        """Hear what runs and waits; an iteration that has ended meanwhile puts it right."""
        self._standstill.holds(found.at_ns, found.running_requests, found.waiting_requests)

    def _scrape(self) -> Scrape | None:
        if self.port is None:
            return None
        try:
            return scrape(self._framework, self.port, self._settings.metrics_timeout_seconds)
        except ScrapeError as err:
            log.debug("%s: %s", self._engine_id, err)
            return None
