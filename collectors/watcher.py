"""Watch one engine on the best rung it allows, from its discovery to its end."""

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from collectors.config import CollectSettings
from collectors.discovery import EngineProcess, Process, RankProcess, is_running, start_ns
from collectors.engines.base import Framework
from collectors.governor import Rates
from collectors.health import resident_bytes
from collectors.outside import Outside
from collectors.publisher import Publisher
from collectors.rank import RankReader
from collectors.rank_watch import Aligner, Governed, RankWatch
from collectors.setting import setting_of
from collectors.stacks import (
    AttachRefused,
    NotServing,
    Sampler,
    SamplerUnavailable,
    attach,
)
from collectors.standstill import Standstill
from schemas.records import Engine, EngineState, Role, Source

log = logging.getLogger("latencyprism.watcher")

RETRY_ATTACH_SECONDS = 5.0


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
        self.device_models: tuple[str, ...] = ()
        self.device_note: str | None = None
        self._framework = framework
        self._host = host
        self._publisher = publisher
        self._settings = settings
        self._agent_version = agent_version
        self._attach_sampler = attach_sampler
        self._process_start_ns = start_ns(engine.core)
        self._version = framework.version(engine)
        self._setting = setting_of(engine, framework.server, self._version)
        self._standstill = Standstill()
        self._stop = threading.Event()
        self._metrics_rung = False
        self._note: str | None = None
        self._core = Governed(
            self._reader(engine.core, 0, "engine_core", engine.candidates),
            Rates(settings.poll_hz, settings.stack_hz),
            settings.cpu_budget_ratio,
        )
        self._ranks: dict[Process, RankWatch] = {}
        self._outside = Outside(
            engine,
            framework,
            engine_id=self.engine_id,
            process_start_ns=self._process_start_ns,
            publisher=publisher,
            settings=settings,
            standstill=self._standstill,
            changed=lambda: self._fall(self._reason, self._level),
            report=self.report,
        )
        self._reason, self._level = "", logging.WARNING
        self._reporting = threading.Lock()
        self._is_over = False
        self._thread = threading.Thread(target=self._run, name=f"watch {engine.name}", daemon=True)

    def start(self) -> None:
        """Begin watching."""
        self._thread.start()

    def stop(self) -> None:
        """Stop watching; returns when the threads have ended."""
        self._stop.set()
        self._thread.join(5.0)
        for watch in list(self._ranks.values()):
            watch.stop()

    def stats(self) -> dict[str, int]:
        """Give the counts of the core's sampler, where there is one."""
        return self._core.reader.stats()

    @property
    def iterations_seen(self) -> int:
        """Iterations that were timed one by one, or counted through /metrics."""
        return self._core.reader.seen + self._outside.seen

    @property
    def iterations_missed(self) -> int:
        """Iterations that the counter proves and nobody timed."""
        return self._core.reader.missed + self._outside.listener.missed

    @property
    def source(self) -> Source | None:
        """The rung that the engine is watched on now."""
        if self._core.reader.source is not None or not self._metrics_rung:
            return self._core.reader.source
        if self._outside.listener.speaks:
            return "stream"
        return "metrics" if self._framework.metrics.iterations else None

    @property
    def note(self) -> str | None:
        """What the agent has to say about how it watches this engine."""
        if self._core.reader.is_stopped:
            return f"pid {self._process.pid} is stopped: continue it with SIGCONT"
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
        """Publish the inventory record of this engine; nothing after it was said to be gone."""
        with self._reporting:
            if not self._is_over:
                self._is_over = state == "gone"
                self._report(state, cpu_ratio)

    def _report(self, state: EngineState, cpu_ratio: float | None) -> None:
        engine, source = self.engine, self.source
        now_ns = time.time_ns()
        standing = self._standstill.at(now_ns)
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
                at_ns=now_ns,
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
                engine_iterations=self._outside.engine_iterations,
                agent_cpu_ratio=cpu_ratio,
                records_dropped=self._publisher.dropped,
                note=self.note,
                agent_memory_bytes=resident_bytes(),
                watched_ranks=tuple(sorted(watched)),
                sources=tuple(watched[rank] for rank in sorted(watched)),
                device_ids=self.device_ids,
                poll_hz=self.rates.poll_hz,
                stack_hz=self.rates.stack_hz,
                command_digest=self._setting.command_digest,
                device_models=self.device_models,
                cuda_graphs=self._setting.cuda_graphs,
                running_requests=standing.running_requests,
                waiting_requests=standing.waiting_requests,
                last_iteration_end_ns=standing.last_iteration_end_ns,
                still_since_ns=standing.still_since_ns,
            )
        )

    def govern(self) -> None:
        """Keep what reading each process of this engine costs within the budget."""
        for governed in (self._core, *(watch.governed for watch in list(self._ranks.values()))):
            governed.govern()

    def count_engine_iterations(self) -> None:
        """Ask the engine for its own count, to hold ours against it."""
        self._outside.count(gauges=not self._core.reader.reads_gauges)

    def adopt(self, engine: EngineProcess) -> None:
        """Take what discovery found of this engine now; the core is the process that is read."""
        read = self._process
        if read != engine.core and read in engine.candidates:
            others = [one for one in (engine.core, *engine.candidates) if one != read]
            engine = replace(engine, core=read, candidates=tuple(others))
        if engine.api_server != self.engine.api_server:
            self._setting = setting_of(engine, self._framework.server, self._version)
        self.engine = engine
        self._outside.port = engine.port

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
            known = self._ranks.get(rank.process)
            if known is not None and known.governed.reader.rank != rank.rank:
                # Another rank was found before it: two must not share a number.
                known.stop()
                known = None
            if known is None and not self._stop.is_set():
                watch = self._ranks[rank.process] = self._rank_watch(rank)
                watch.start()
        for process, watch in list(self._ranks.items()):
            if not watch.is_alive and not is_running(process):
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
            align=Aligner(lambda: self._core.reader) if rank > 0 else None,
            standstill=self._standstill if rank == 0 else None,
            report=self.report,
        )

    def _rank_watch(self, rank: RankProcess) -> RankWatch:
        settings = self._settings
        poll_hz = settings.poll_hz
        if rank.role == "worker":
            poll_hz = min(settings.worker_poll_hz, poll_hz)
        governed = Governed(
            self._reader(rank.process, rank.rank, rank.role),
            Rates(poll_hz, min(settings.stack_hz, poll_hz)),
            settings.cpu_budget_ratio,
        )
        return RankWatch(governed, self.report, RETRY_ATTACH_SECONDS)

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
            self._outside.listener.close()
            is_gone = not self._stop.is_set()
            # Workers may outlive their core, and nobody would ever end the reading of them.
            self._stop.set()
            for watch in list(self._ranks.values()):
                watch.let_go()
            if is_gone:
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
        self._outside.watch(RETRY_ATTACH_SECONDS, self._stop, lambda: is_running(self._process))

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
        self.adopt(self.engine)
        if self._version is None:
            # Its libraries may not have been mapped yet when it was found.
            self._version = self._framework.version(self.engine)
        self._setting = setting_of(self.engine, self._framework.server, self._version)
        self._outside.give_way()
        log.info(
            "%s: watching %s (pid %d) by its memory.",
            self.engine_id,
            self.engine.framework,
            self._process.pid,
        )
        self.report()
        return True

    def _fall(self, reason: str, level: int = logging.WARNING) -> None:
        """Say once why it is not read, and what is done instead; the inventory carries it too."""
        self._metrics_rung, self._reason, self._level = True, reason, level
        note = f"{self._outside.instead}: {reason}"
        if note != self._note:
            self._note = note
            log.log(level, "%s: %s", self.engine_id, note)
            self.report()
