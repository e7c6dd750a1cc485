"""The agent: finds engines, watches each, reads the host, and keeps its own cost in view."""

import logging
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from collectors.capture import Target
from collectors.capture_files import engine_is_gone
from collectors.config import CollectSettings
from collectors.devices import Devices
from collectors.discovery import EngineProcess, Process, Scanner, is_running
from collectors.engines import available, find_engines, load
from collectors.engines.base import Framework, load_file
from collectors.host.reading import HostReader
from collectors.publisher import Publisher
from collectors.tracing import Tracer
from collectors.watcher import Watcher

log = logging.getLogger("latencyprism.agent")

REPORT_PERIOD_SECONDS = 10.0
# The loop turns several times a second; a look at a host with thousands of processes takes longer.
STALLED_SECONDS = 30.0
# Engines that ended; who asks for a capture of one is told so.
REMEMBERED_ENGINES = 256


def frameworks_of(settings: CollectSettings) -> list[Framework]:
    """Give the frameworks to look for: a user's own first, for they may describe a known one.

    Raises:
        LookupError: ``settings.engines`` names a framework that does not exist.
        ValueError: A file of the user's does not describe an engine; the text names file and key.
        OSError: It cannot be read.
    """
    own = [load_file(Path(path)) for path in settings.engine_files]
    ours = [load(name) for name in settings.engines or available()]
    by_name = {framework.name(): framework for framework in [*ours, *own]}
    # Own ones are asked first, and one of a known name takes that one's place.
    return sorted(by_name.values(), key=lambda framework: framework not in own)


class Agent:
    """Watch all engines of this host.

    One engine that cannot be read never keeps another from being watched.

    Args:
        settings: Section ``[collect]``.

        publisher: Where records go.

        version: The agent's version, for the inventory.

        scanner: Gives the process table; a parameter for tests.

        make_watcher: Makes the watcher of an engine; a parameter for tests.

    Raises:
        LookupError: ``settings.engines`` names a framework that does not exist.
    """

    def __init__(
        self,
        settings: CollectSettings,
        publisher: Publisher,
        version: str,
        scanner: Scanner | None = None,
        make_watcher: Callable[..., Watcher] = Watcher,
    ) -> None:
        self._settings = settings
        self._publisher = publisher
        self._version = version
        self._scanner = scanner or Scanner()
        self._make_watcher = make_watcher
        self.host = settings.host or socket.gethostname()
        self._frameworks = frameworks_of(settings)
        self._host_reader = HostReader(self.host)
        self.devices = Devices(self.host, settings)
        self.tracer = Tracer() if settings.kernel_tracing else None
        self._stop = threading.Event()
        self._turned_at = time.monotonic()
        self._said_none = False
        self._failures: dict[str, str] = {}
        # Engines that ended, while the process table still shows them; and those left out.
        self._ended: set[Process] = set()
        self._left_out: set[Process] = set()
        self._gone: deque[str] = deque(maxlen=REMEMBERED_ENGINES)
        self.watchers: dict[str, Watcher] = {}

    def run(self, seconds: float | None = None) -> None:
        """Work until `stop` is called, or for so long."""
        deadline = None if seconds is None else time.monotonic() + seconds
        periods = {
            self._discover: self._settings.discovery_period_seconds,
            self._read_host: self._settings.reading_period_seconds,
            self._read_devices: min(self._settings.xpu_period_seconds, 1.0),
        }
        due = dict.fromkeys(periods, 0.0)
        reporter = threading.Thread(target=self._report_forever, name="report", daemon=True)
        reporter.start()
        if self.tracer is not None:
            self.tracer.start()
        try:
            while not self._stop.is_set():
                now = self._turned_at = time.monotonic()
                if deadline is not None and now >= deadline:
                    return
                for task, at in due.items():
                    if now >= at:
                        due[task] = now + periods[task]
                        self._guarded(task)
                pause = min(due.values()) - time.monotonic()
                if deadline is not None:
                    pause = min(pause, deadline - time.monotonic())
                self._stop.wait(max(pause, 0.01))
        finally:
            self._stop.set()
            self.devices.stop()
            if self.tracer is not None:
                self.tracer.stop()
            for watcher in list(self.watchers.values()):
                watcher.stop()
            reporter.join(5.0)

    def stop(self) -> None:
        """Make `run` return."""
        self._stop.set()

    @property
    def is_alive(self) -> bool:
        """Whether the loop turns: discovery and readings come and go."""
        return time.monotonic() - self._turned_at < STALLED_SECONDS

    def find_target(self, engine_id: str) -> Target | None:
        """Give the engine of that id as a capture wants it, where this agent watches it.

        Raises:
            CaptureError: It was watched, and ended.
        """
        watcher = self.watchers.get(engine_id)
        if engine_id in self._gone if watcher is None else watcher.ended.is_set():
            raise engine_is_gone(engine_id)
        if watcher is None:
            return None
        framework = self._framework_of(watcher.engine)
        return Target(engine_id, self.host, watcher.engine, framework)

    def _framework_of(self, engine: EngineProcess) -> Framework:
        return next(one for one in self._frameworks if one.name() == engine.framework)

    def _guarded(self, task: Callable[[], None], name: str = "") -> None:
        name = name or task.__name__.strip("_")
        try:
            task()
        except Exception as err:
            if self._failures.get(name) != str(err):
                self._failures[name] = str(err)
                log.error("%s failed and is tried again: %s", name, err)
        else:
            self._failures.pop(name, None)

    def _discover(self) -> None:
        for engine_id, watcher in list(self.watchers.items()):
            if watcher.ended.is_set():
                self._ended.add(watcher.engine.core)
                self._gone.append(engine_id)
                del self.watchers[engine_id]
        table = self._scanner.scan()
        self._ended &= set(table.by_pid.values())
        self._left_out &= set(table.by_pid.values())
        engines = [
            engine
            for engine in find_engines(table, self._frameworks)
            if not self._settings.ports or engine.port in self._settings.ports
        ]
        for engine in engines:
            if engine.core not in self._ended:
                self._watch(engine)
        for watcher in self.watchers.values():
            watcher.watch_ranks()
        if not engines and not self._said_none:
            self._said_none = True
            log.info(
                "No engine found yet on %s; looking every %g s for: %s.",
                self.host,
                self._settings.discovery_period_seconds,
                ", ".join(framework.name() for framework in self._frameworks),
            )

    def _watch(self, engine: EngineProcess) -> None:
        engine_id = f"{self.host}:{engine.name}"
        for other_id, other in list(self.watchers.items()):
            if other_id == engine_id or other.engine.core != engine.core:
                continue
            if other.iterations_seen:
                other.adopt(engine)
                return
            # A server listens on its port some time after its engine started: a better name.
            other.stop()
            other.report("gone")
            del self.watchers[other_id]
        known = self.watchers.get(engine_id)
        if known is not None:
            if known.engine.core in (engine.core, *engine.candidates):
                # Workers and server may appear after the core was found.
                known.adopt(engine)
                return
            if known.engine.guessed and known.source in (None, "stream", "metrics"):
                # The engine has started meanwhile, and shows which process it is.
                known.stop()
            elif is_running(known.engine.core):
                self._leave_out(engine, engine_id, known.engine)
                return
            # The old process is gone and its watcher is about to notice.
            elif not known.ended.wait(1.0):
                return
        watcher = self._make_watcher(
            engine,
            self._framework_of(engine),
            self.host,
            self._publisher,
            self._settings,
            self._version,
        )
        self.watchers[engine_id] = watcher
        watcher.start()

    def _leave_out(self, engine: EngineProcess, engine_id: str, other: EngineProcess) -> None:
        if engine.core not in self._left_out:
            self._left_out.add(engine.core)
            log.warning(
                "%s: pid %d is not watched, because pid %d serves under the same name. Give each "
                "engine of this host a port of its own.",
                engine_id,
                engine.core.pid,
                other.core.pid,
            )

    def _running(self) -> dict[str, EngineProcess]:
        return {
            engine_id: watcher.engine
            for engine_id, watcher in self.watchers.items()
            if not watcher.ended.is_set()
        }

    def _read_host(self) -> None:
        engines = self._running()
        traced = None
        if self.tracer is not None:
            self.tracer.follow(engines)
            traced = self.tracer.latest()
        hosts, processes = self._host_reader.read(engines, traced)
        for host_reading in hosts:
            self._publisher.publish(host_reading)
        for process_reading in processes:
            device_ids = self.devices.device_ids(process_reading.pid)
            self._publisher.publish(replace(process_reading, device_ids=device_ids))

    def _read_devices(self) -> None:
        for reading in self.devices.readings(self._running()):
            self._publisher.publish(reading)
        for engine_id, watcher in self.watchers.items():
            watcher.device_ids = self.devices.devices_of(engine_id)
            watcher.device_models = self.devices.models_of(watcher.device_ids)
            watcher.device_note = self.devices.note(engine_id)

    def _report_forever(self) -> None:
        # A thread of its own: an engine that does not answer must not delay the others' readings.
        # The first inventory is published by each watcher itself.
        self._cpu_seconds, self._cpu_at = time.process_time(), time.monotonic()
        while not self._stop.wait(REPORT_PERIOD_SECONDS):
            self._guarded(self._report)

    def _report(self) -> None:
        now, used = time.monotonic(), time.process_time()
        ratio = (used - self._cpu_seconds) / max(now - self._cpu_at, 1e-9)
        self._cpu_seconds, self._cpu_at = used, now
        share = ratio / max(len(self.watchers), 1)
        for engine_id, watcher in list(self.watchers.items()):
            if not watcher.ended.is_set():
                # What one engine answers must not keep the others from being told of.
                self._guarded(
                    lambda watcher=watcher: self._report_one(watcher, share),  # type: ignore[misc]
                    f"the report of {engine_id}",
                )

    def _report_one(self, watcher: Watcher, cpu_ratio: float) -> None:
        watcher.count_engine_iterations()
        watcher.report(cpu_ratio=cpu_ratio)
        watcher.govern()
