"""What drives the reading of one rank: its budget, its thread, and the core's numbers for it."""

import logging
import threading
import time
from collections.abc import Callable

from collectors.discovery import is_running
from collectors.governor import Governor, Meter, Rates
from collectors.rank import RankReader
from schemas.records import Source, Workload

log = logging.getLogger("latencyprism.rank")


class Governed:
    """A reader and what keeps its cost within the budget."""

    def __init__(self, reader: RankReader, wanted: Rates, budget_ratio: float) -> None:
        self.reader = reader
        self.governor = Governor(wanted, budget_ratio)
        self._meters = (Meter(), Meter())

    def attach(self) -> None:
        """Attach at the rates that the governor allows."""
        rates = self.governor.rates
        self.reader.attach(rates.poll_hz, rates.stack_hz)

    def govern(self) -> None:
        """Lower or raise the rates by what reading cost since the last call."""
        sampler = self.reader.sampler
        if sampler is None:
            return
        now_ns = time.monotonic_ns()
        reader_ratio = self._meters[0].ratio(sampler.stats()["thread_cpu_ns"], now_ns)
        watcher_ratio = self._meters[1].ratio(self.reader.python_cpu_ns, now_ns)
        if reader_ratio is None or watcher_ratio is None:
            return
        before, state = self.governor.rates, self.governor.state
        rates = self.governor.judge(reader_ratio, watcher_ratio)
        if rates is not None:
            sampler.set_rates(rates.poll_hz, rates.stack_hz)
            self._tell(raised=rates.poll_hz + rates.stack_hz > before.poll_hz + before.stack_hz)
        elif self.governor.state == "floor" and state != "floor":
            self._tell(raised=False)

    def _tell(self, *, raised: bool) -> None:
        rates = self.governor.rates
        log.log(
            logging.INFO if raised else logging.WARNING,
            "%s: %s; now %d counter reads and %d stacks a second.%s",
            self.reader.name,
            self.governor.reason,
            rates.poll_hz,
            rates.stack_hz,
            "" if raised else " Raise [collect] cpu_budget_ratio to allow more.",
        )


class RankWatch:
    """Read a rank beside the core in a thread of its own, for as long as its process lives.

    Args:
        governed: Its reader.

        report: Called when the inventory has changed.

        retry_seconds: Pause between two attempts to attach.
    """

    def __init__(
        self, governed: Governed, report: Callable[[], None], retry_seconds: float
    ) -> None:
        self.governed = governed
        self._report = report
        self._retry_seconds = retry_seconds
        self._stop = threading.Event()
        reader = governed.reader
        self._thread = threading.Thread(
            target=self._run, name=f"watch {reader.process.pid} rank {reader.rank}", daemon=True
        )

    def start(self) -> None:
        """Begin to read it."""
        self._thread.start()

    def let_go(self) -> None:
        """Have it end soon; does not wait."""
        self._stop.set()

    def stop(self) -> None:
        """Stop reading it; returns when the thread has ended."""
        self._stop.set()
        self._thread.join(5.0)

    @property
    def is_alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def _run(self) -> None:
        reader, told = self.governed.reader, ""
        while not self._stop.is_set() and is_running(reader.process):
            try:
                self.governed.attach()
                self._report()
                if reader.run(self._stop) == "gone":
                    return
                failure = reader.failure or ""
            except ProcessLookupError:
                return
            except Exception as err:
                failure = str(err)
            if failure and failure != told:
                told = failure
                log.info("%s is not watched: %s", reader.name, failure)
            self._stop.wait(self._retry_seconds)


class Aligner:
    """Find the core's number of a worker's iterations, each later than the one before.

    Args:
        core: Gives the core's reader.
    """

    def __init__(self, core: Callable[[], RankReader]) -> None:
        self._core = core
        self._numbered_by: tuple[int, Source] | None = None
        self._last = -1

    def __call__(self, begin_ns: int, workload: Workload) -> int | None:
        """Give the number of the iteration that began then (monotonic), or None."""
        clock = self._core().clock
        if clock is None:
            return None
        numbered_by = (id(clock), clock.source)
        if numbered_by != self._numbered_by:
            # Another rung numbers from another start.
            self._numbered_by, self._last = numbered_by, -1
        found = clock.sequence_at(begin_ns, workload, self._last)
        if found is not None:
            self._last = found
        return found
