"""Watch one engine on the best rung it allows, from its discovery to its end."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from collectors.clock import MetricsClock
from collectors.config import CollectSettings
from collectors.discovery import EngineProcess, Process, RankProcess, is_running, start_ns
from collectors.engines.base import Framework
from collectors.feeds import Listener
from collectors.governor import Governor, Meter, Rates
from collectors.health import resident_bytes
from collectors.publisher import Publisher
from collectors.rank import RankReader, epoch_offset_ns
from collectors.scrape import ScrapeError, scrape
from collectors.stacks import (
    AttachRefused,
    NotServing,
    Sampler,
    SamplerUnavailable,
    attach,
)
from schemas.records import Engine, EngineState, Role, Source, Workload

log = logging.getLogger("latencyprism.watcher")

RETRY_ATTACH_SECONDS = 5.0

# As often as the reader of a rank hands over: each time the watcher may be told to stop.
LISTEN_SECONDS = 0.05


@dataclass(frozen=True, slots=True)
class Watched:
    """One process of an engine that is read."""

    reader: RankReader
    rates: Rates


class Watcher:
    """Follow one engine in threads of its own until the engine ends or `stop` is called.

    The core's thread decides how the engine is watched; each further rank has one of its own,
    which only adds to what the core's says.

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
        self.device_ids: tuple[str, ...] = ()
        self.device_note: str | None = None
        self._framework = framework
        self._host = host
        self._publisher = publisher
        self._settings = settings
        self._agent_version = agent_version
        self._attach_sampler = attach_sampler
        self._process_start_ns = start_ns(engine.core)
        self._version = framework.version(engine)
        self._stop = threading.Event()
        self._metrics_rung = False
        self._note: str | None = None
        self._core = _Governed(
            self._reader(engine.core, 0, "engine_core", engine.candidates),
            Rates(settings.poll_hz, settings.stack_hz),
            settings.cpu_budget_ratio,
        )
        self._ranks: dict[Process, _RankWatch] = {}
        self._metrics_clock = MetricsClock(
            engine_id=self.engine_id, process_start_ns=self._process_start_ns
        )
        self._listener = Listener(
            framework.feed,
            engine,
            engine_id=self.engine_id,
            process_start_ns=self._process_start_ns,
            epoch_offset_ns=epoch_offset_ns,
        )
        self._reason, self._level = "", logging.WARNING
        self._engine_iterations: int | None = None
        self._thread = threading.Thread(target=self._run, name=f"watch {engine.name}", daemon=True)

    def start(self) -> None:
        """Begin watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; returns when the threads have ended."""
        self._stop.set()
        self._thread.join(5.0)
        for watch in self._ranks.values():
            watch.thread.join(5.0)

    def stats(self) -> dict[str, int]:
        """Give the counts of the core's sampler, where there is one."""
        return self._core.reader.stats()

    @property
    def iterations_seen(self) -> int:
        """Iterations that were timed one by one, or counted through /metrics."""
        return self._core.reader.seen + self._listener.seen + self._metrics_clock.seen

    @property
    def iterations_missed(self) -> int:
        """Iterations that the counter proves and nobody timed."""
        return self._core.reader.missed + self._listener.missed

    @property
    def source(self) -> Source | None:
        """The rung that the engine is watched on now."""
        if self._core.reader.source is not None or not self._metrics_rung:
            return self._core.reader.source
        return "stream" if self._listener.speaks else "metrics"

    @property
    def note(self) -> str | None:
        """What the agent has to say about how it watches this engine."""
        return self._note or self.device_note

    @property
    def rates(self) -> Rates:
        """How often the core is read now."""
        return self._core.governor.rates

    @property
    def watched(self) -> list[Watched]:
        """Each process that is read, the core first, and how often."""
        governed = [self._core, *(watch.governed for watch in list(self._ranks.values()))]
        return [Watched(one.reader, one.governor.rates) for one in governed]

    def report(self, state: EngineState = "running", cpu_ratio: float | None = None) -> None:
        """Publish the inventory record of this engine."""
        engine, source = self.engine, self.source
        watched: dict[int, Source] = {} if source is None else {0: source}
        full_ranks = 1
        for watch in list(self._ranks.values()):
            reader = watch.governed.reader
            if reader.source is not None:
                watched[reader.rank] = reader.source
                full_ranks += reader.is_full_rank
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
                source=source,
                pids=tuple(engine.roles),
                ranks=full_ranks,
                agent_version=self._agent_version,
                iterations_seen=self.iterations_seen,
                iterations_missed=self.iterations_missed,
                engine_iterations=self._engine_iterations,
                agent_cpu_ratio=cpu_ratio,
                records_dropped=self._publisher.dropped,
                note=self.note,
                agent_memory_bytes=resident_bytes(),
                watched_ranks=tuple(sorted(watched)),
                sources=tuple(watched[rank] for rank in sorted(watched)),
                device_ids=self.device_ids,
                poll_hz=self.rates.poll_hz,
                stack_hz=self.rates.stack_hz,
            )
        )

    def govern(self) -> None:
        """Keep what reading each process of this engine costs within the budget."""
        for governed in (self._core, *(watch.governed for watch in list(self._ranks.values()))):
            governed.govern()

    def count_engine_iterations(self) -> None:
        """Ask the engine for its own count, to hold ours against it."""
        found = self._scrape()
        if found is not None:
            self._engine_iterations = found.iterations

    def watch_ranks(self) -> None:
        """Begin to watch ranks that appeared; those that ended let go by themselves.

        A worker alone is left in peace: the core's iteration is its own, and it is apart from no
        one.
        """
        if not self._settings.workers or self.source not in ("counter", "stack"):
            return
        if [rank.role for rank in self.engine.ranks] == ["worker"]:
            return
        for rank in self.engine.ranks:
            if rank.process not in self._ranks:
                watch = self._ranks[rank.process] = self._rank_watch(rank)
                watch.thread.start()
        for process, watch in list(self._ranks.items()):
            if not watch.thread.is_alive() and not is_running(process):
                del self._ranks[process]

    @property
    def _process(self) -> Process:
        """The process that iterates, as far as that is known."""
        return self._core.reader.process

    def _reader(
        self, process: Process, rank: int, role: Role, candidates: tuple[Process, ...] = ()
    ) -> RankReader:
        return RankReader(
            engine_id=self.engine_id,
            process_start_ns=self._process_start_ns,
            process=process,
            candidates=candidates,
            families=self._framework.families(role, self._version),
            publisher=self._publisher,
            settings=self._settings,
            attach_sampler=self._attach_sampler,
            rank=rank,
            role=role,
            align=_Aligner(lambda: self._core.reader) if rank > 0 else None,
        )

    def _rank_watch(self, rank: RankProcess) -> "_RankWatch":
        settings = self._settings
        poll_hz = settings.poll_hz
        if rank.role == "worker":
            poll_hz = min(settings.worker_poll_hz, poll_hz)
        governed = _Governed(
            self._reader(rank.process, rank.rank, rank.role),
            Rates(poll_hz, min(settings.stack_hz, poll_hz)),
            settings.cpu_budget_ratio,
        )
        thread = threading.Thread(
            target=self._run_rank,
            args=(governed,),
            name=f"watch {self.engine.name} rank {rank.rank}",
            daemon=True,
        )
        return _RankWatch(governed, thread)

    def _run_rank(self, governed: "_Governed") -> None:
        reader, told = governed.reader, ""
        while not self._stop.is_set() and is_running(reader.process):
            try:
                governed.attach()
                self.report()
                if reader.run(self._stop) == "gone":
                    return
                failure = reader.failure or ""
            except ProcessLookupError:
                return
            except Exception as err:
                failure = str(err)
            if failure != told:
                told = failure
                log.info("%s: rank %d is not watched: %s", self.engine_id, reader.rank, failure)
            self._stop.wait(RETRY_ATTACH_SECONDS)

    def _run(self) -> None:
        failure = ""
        try:
            self.report()
            while not self._stop.is_set() and is_running(self._process):
                try:
                    self._watch()
                except Exception as err:
                    if str(err) != failure:
                        failure = str(err)
                        log.exception("%s: watching failed and is tried again.", self.engine_id)
                    self._stop.wait(RETRY_ATTACH_SECONDS)
        finally:
            self._listener.close()
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
            outcome = self._core.reader.run(self._stop)
            if outcome != "refused":
                # Nothing is wrong with reading it: the engine ended, or we are to stop.
                return
            self._fall(self._core.reader.failure or "reading stopped")
        self._watch_from_outside(RETRY_ATTACH_SECONDS)

    def _try_attach(self) -> bool:
        try:
            self._core.attach()
        except ProcessLookupError:
            return False
        except NotServing as err:
            # Usual while an engine loads its model: nothing that anybody has to act on.
            self._fall(str(err), logging.INFO)
            return False
        except (SamplerUnavailable, AttachRefused) as err:
            self._fall(str(err))
            return False
        self._metrics_rung, self._note = False, None
        self._listener.close()
        self._metrics_clock.lost()
        log.info(
            "%s: watching %s (pid %d) by its memory.",
            self.engine_id,
            self.engine.framework,
            self._process.pid,
        )
        self.report()
        return True

    def _watch_from_outside(self, seconds: float) -> None:
        """Stay below the rungs that read memory for so long; then the next attach is tried."""
        deadline, next_scrape = time.monotonic() + seconds, 0.0
        while time.monotonic() < deadline and not self._stop.is_set() and is_running(self._process):
            self._listener.open()
            if time.monotonic() >= next_scrape:
                next_scrape = time.monotonic() + self._settings.metrics_period_seconds
                self._take_metrics()
            left_seconds = min(deadline, next_scrape) - time.monotonic()
            if self._listener.is_open:
                self._listen(min(left_seconds, LISTEN_SECONDS))
            else:
                self._stop.wait(max(left_seconds, 0.0))

    def _listen(self, timeout_seconds: float) -> None:
        """Publish what the engine says of itself: the rung above the metrics."""
        for iteration in self._listener.listen(max(timeout_seconds, 0.0)):
            self._publisher.publish(iteration)
        self._fall(self._reason, self._level)

    def _take_metrics(self) -> None:
        found = self._scrape()
        if found is None:
            return
        self._engine_iterations = found.iterations
        self._listener.hold_against(found)
        self._fall(self._reason, self._level)
        if self._listener.speaks:
            if not self._listener.is_behind:
                # What the engine says itself is not to be counted again.
                self._metrics_clock.lost()
                self._metrics_clock.feed(found)
            return
        iteration = self._metrics_clock.feed(found)
        if iteration is not None:
            self._publisher.publish(iteration)

    def _scrape(self) -> Any:
        if self.engine.port is None:
            return None
        try:
            return scrape(self._framework, self.engine.port, self._settings.metrics_timeout_seconds)
        except ScrapeError as err:
            log.debug("%s: %s", self.engine_id, err)
            return None

    def _fall(self, reason: str, level: int = logging.WARNING) -> None:
        """Say once why it is not read, and what is done instead; the inventory carries it too."""
        self._metrics_rung, self._reason, self._level = True, reason, level
        note = f"{self._instead()}: {reason}"
        if note != self._note:
            self._note = note
            log.log(level, "%s: %s", self.engine_id, note)
            self.report()

    def _instead(self) -> str:
        if self._listener.speaks:
            return f"watched by {self._listener.name}"
        known = self.engine.port is not None
        return "watched by /metrics only" if known else "not watched, its port is unknown"


class _Governed:
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


class _RankWatch:
    """A rank beside the core: its reader, and the thread that drives it."""

    def __init__(self, governed: _Governed, thread: threading.Thread) -> None:
        self.governed = governed
        self.thread = thread


class _Aligner:
    """Find the core's number of a worker's iterations, each later than the one before."""

    def __init__(self, core: Callable[[], RankReader]) -> None:
        self._core = core
        self._last = -1

    def __call__(self, begin_ns: int, workload: Workload) -> int | None:
        clock = self._core().clock
        if clock is None:
            return None
        found = clock.sequence_at(begin_ns, workload, self._last)
        if found is not None:
            self._last = found
        return found
