"""Tell Prometheus how the agent itself is: ``/metrics``, and ``/healthz`` for a supervisor.

Nothing here knows the agent: it hands over a function that describes it as it is now.
"""

import contextlib
import logging
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from socketserver import TCPServer, ThreadingMixIn
from typing import Any
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from prometheus_client.registry import Collector

from collectors.host.files import read_text_or_none
from collectors.host.memory import PAGE_BYTES

log = logging.getLogger("latencyprism.health")

PROC = Path("/proc")
# A client that sends nothing for so long is hung up on, and so is one that lives longer: each
# connection has a thread.
CLIENT_SECONDS = 2.0
CONNECTION_SECONDS = 5.0
MOST_CONNECTIONS = 8
# How long a new client waits for the thread of the one that was hung up on for its sake.
MAKE_ROOM_SECONDS = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineHealth:
    """How one rank of an engine is watched; what is None is left out.

    Attributes:
        source: Rung of the batch clock.

        reader_cpu_seconds: CPU time of the threads that read this rank, since they began.

        self_check: Whether the reader agrees with py-spy on the engine's stacks.

        note: What the agent cannot read, and why.
    """

    engine_id: str
    framework: str
    rank: int = 0
    source: str | None = None
    iterations_seen: int | None = None
    iterations_missed: int | None = None
    poll_hz: int | None = None
    stack_hz: int | None = None
    reader_cpu_seconds: float | None = None
    self_check: bool | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PublisherHealth:
    """Records that wait, and those that were dropped or refused by the broker."""

    queued: int | None = None
    dropped: int | None = None
    errors: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class XpuHealth:
    """How a vendor's accelerators are read; ``state`` is ``ok`` or the reason that they are not."""

    vendor: str
    state: str
    devices: int | None = None
    timeouts: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentHealth:
    """The agent as it is now.

    Attributes:
        started_at: Its start in seconds since the epoch.

        engines: One for each rank that is watched.

        captures: Captures by their state since the start.

        tracing: None where kernel tracing is off, else whether it works.
    """

    version: str
    host: str
    started_at: float
    engines: tuple[EngineHealth, ...] = ()
    publisher: PublisherHealth = field(default_factory=PublisherHealth)
    xpus: tuple[XpuHealth, ...] = ()
    captures: dict[str, int] = field(default_factory=dict)
    tracing: bool | None = None


def resident_bytes(proc: Path = PROC) -> int | None:
    """Give the resident memory of this process; None where that may not be read."""
    fields = (read_text_or_none(f"{proc}/self/statm") or "").split()
    return int(fields[1]) * PAGE_BYTES if len(fields) > 1 else None


def parse_address(text: str) -> tuple[str, int]:
    """Read ``host:port``; an IPv6 address stands in brackets.

    Raises:
        ValueError: It is something else.
    """
    wrong = f"{text!r} is no address: give host:port, as 127.0.0.1:9464"
    try:
        parts = urlsplit(f"//{text}")
        host, port = parts.hostname, parts.port
    except ValueError as err:
        raise ValueError(wrong) from err
    if not host or port is None or parts.path or parts.username is not None:
        raise ValueError(wrong)
    return host, port


class AgentCollector(Collector):
    """Turn the agent's state into metrics at each scrape.

    Args:
        describe: Gives the agent's state.
    """

    def __init__(self, describe: Callable[[], AgentHealth]) -> None:
        self._describe = describe

    def describe(self) -> Iterator[Metric]:
        """Name no metric ahead: the agent may not be ready when this is registered."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Give all metrics."""
        agent = self._describe()
        yield from _agent_metrics(agent)
        yield from _engine_metrics(agent.engines)
        yield from _publisher_metrics(agent.publisher)
        yield from _xpu_metrics(agent.xpus)


def _agent_metrics(agent: AgentHealth) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "latencyprism_agent_info", "Version of the agent.", labels=("version", "host")
    )
    info.add_metric((agent.version, agent.host), 1)
    yield info
    yield GaugeMetricFamily(
        "latencyprism_agent_start_time_seconds",
        "Start of the agent since the epoch.",
        value=agent.started_at,
    )
    yield GaugeMetricFamily(
        "latencyprism_agent_uptime_seconds",
        "Time since the start of the agent.",
        value=max(time.time() - agent.started_at, 0.0),
    )
    yield CounterMetricFamily(
        "latencyprism_agent_cpu_seconds",
        "CPU time of the agent, all threads.",
        value=time.process_time(),
    )
    memory_bytes = resident_bytes()
    if memory_bytes is not None:
        yield GaugeMetricFamily(
            "latencyprism_agent_resident_memory_bytes",
            "Resident memory of the agent.",
            value=memory_bytes,
        )
    if agent.tracing is not None:
        yield GaugeMetricFamily(
            "latencyprism_tracing_up", "Whether kernel tracing works.", value=agent.tracing
        )
    captures = CounterMetricFamily(
        "latencyprism_captures", "Captures by their last state.", labels=("state",)
    )
    for state, count in sorted(agent.captures.items()):
        captures.add_metric((state,), count)
    yield captures


# Attribute of EngineHealth, name of the metric, what it says, whether it only grows.
ENGINE_METRICS = (
    ("iterations_seen", "latencyprism_iterations_seen", "Iterations timed or counted.", True),
    ("iterations_missed", "latencyprism_iterations_missed", "Iterations nobody timed.", True),
    ("reader_cpu_seconds", "latencyprism_reader_cpu_seconds", "CPU time of reading it.", True),
    ("poll_hz", "latencyprism_poll_hz", "Counter reads per second now.", False),
    ("stack_hz", "latencyprism_stack_hz", "Stack samples per second now.", False),
    ("self_check", "latencyprism_self_check_passed", "Whether our stacks are py-spy's.", False),
)


def _engine_metrics(engines: tuple[EngineHealth, ...]) -> Iterator[Metric]:
    info = GaugeMetricFamily(
        "latencyprism_engine_info",
        "How an engine is watched: the rung of its clock, and what cannot be read.",
        labels=("engine_id", "rank", "framework", "source", "note"),
    )
    for engine in engines:
        labels = (engine.engine_id, str(engine.rank), engine.framework)
        info.add_metric((*labels, engine.source or "", engine.note or ""), 1)
    yield info
    for attribute, name, text, grows in ENGINE_METRICS:
        make: Any = CounterMetricFamily if grows else GaugeMetricFamily
        family = make(name, text, labels=("engine_id", "rank"))
        for engine in engines:
            value = getattr(engine, attribute)
            if value is not None:
                family.add_metric((engine.engine_id, str(engine.rank)), value)
        yield family


def _publisher_metrics(publisher: PublisherHealth) -> Iterator[Metric]:
    if publisher.queued is not None:
        yield GaugeMetricFamily(
            "latencyprism_records_queued", "Records that wait to be sent.", value=publisher.queued
        )
    for name, text, value in (
        ("latencyprism_records_dropped", "Records that were lost.", publisher.dropped),
        ("latencyprism_publish_errors", "Records that the broker refused.", publisher.errors),
    ):
        if value is not None:
            yield CounterMetricFamily(name, text, value=value)


def _xpu_metrics(xpus: tuple[XpuHealth, ...]) -> Iterator[Metric]:
    up = GaugeMetricFamily(
        "latencyprism_xpu_up",
        "Whether a vendor's accelerators can be read, and why not.",
        labels=("vendor", "state"),
    )
    devices = GaugeMetricFamily(
        "latencyprism_xpu_devices", "Accelerators that are read.", labels=("vendor",)
    )
    timeouts = CounterMetricFamily(
        "latencyprism_xpu_timeouts", "Readings that were killed.", labels=("vendor",)
    )
    for xpu in xpus:
        up.add_metric((xpu.vendor, xpu.state), xpu.state == "ok")
        if xpu.devices is not None:
            devices.add_metric((xpu.vendor,), xpu.devices)
        if xpu.timeouts is not None:
            timeouts.add_metric((xpu.vendor,), xpu.timeouts)
    yield from (up, devices, timeouts)


class HealthServer:
    """Serve ``/metrics`` and ``/healthz`` in a thread of its own.

    Args:
        listen: ``host:port``.

        describe: Gives the agent's state; called at each scrape.

        is_alive: Whether the agent's loop runs.
    """

    def __init__(
        self, listen: str, describe: Callable[[], AgentHealth], is_alive: Callable[[], bool]
    ) -> None:
        self._listen = listen
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(AgentCollector(describe))
        self._is_alive = is_alive
        self._server: _Server | None = None
        self._thread: threading.Thread | None = None
        self._said = ""

    @property
    def port(self) -> int | None:
        """Port that is served, where one is."""
        return None if self._server is None else int(self._server.server_address[1])

    def start(self) -> bool:
        """Begin to serve; where that is refused, say so and give False: watching goes on."""
        try:
            address = parse_address(self._listen)
            self._server = _make_server(address, self._answer)
        except (OSError, OverflowError, ValueError) as err:
            log.error(
                "The agent's own metrics are not served at %s (%s): choose another address in "
                "[collect] health_listen.",
                self._listen,
                err,
            )
            return False
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="health", daemon=True
        )
        self._thread.start()
        log.info("The agent's own metrics are at http://%s/metrics.", self._listen)
        return True

    def stop(self) -> None:
        """Stop serving; returns when the thread has ended. May be called twice."""
        server, self._server = self._server, None
        if server is None or self._thread is None:
            return
        server.shutdown()
        server.hang_up()
        self._thread.join(CLIENT_SECONDS * 2)
        server.server_close()

    def _answer(self, path: str) -> tuple[int, str, bytes]:
        if path == "/healthz":
            if self._is_alive():
                return 200, "text/plain; charset=utf-8", b"ok\n"
            return 503, "text/plain; charset=utf-8", b"the agent's loop stands still\n"
        if path != "/metrics":
            return 404, "text/plain; charset=utf-8", b"there are /metrics and /healthz\n"
        try:
            return 200, CONTENT_TYPE_LATEST, generate_latest(self._registry)
        except Exception as err:
            if str(err) != self._said:
                self._said = str(err)
                log.exception("The agent's own metrics could not be put together.")
            return 500, "text/plain; charset=utf-8", b"see the agent's log\n"


class _Server(ThreadingMixIn, HTTPServer):
    """Serve some clients at a time: one that is slow never keeps the others waiting.

    Where there are too many, the oldest one goes.
    """

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: type[BaseHTTPRequestHandler]) -> None:
        self.address_family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        self._slots = threading.BoundedSemaphore(MOST_CONNECTIONS)
        # Each connection's deadline, the oldest first.
        self._deadlines: dict[socket.socket, float] = {}
        super().__init__(address, handler)

    def server_bind(self) -> None:
        # That of HTTPServer asks the DNS for our name, which may take a minute.
        TCPServer.server_bind(self)

    def process_request(self, request: Any, client_address: Any) -> None:
        if not self._slots.acquire(blocking=False):
            for oldest in list(self._deadlines)[:1]:
                _hang_up_on(oldest)
            if not self._slots.acquire(timeout=MAKE_ROOM_SECONDS):
                self.shutdown_request(request)
                return
        self._deadlines[request] = time.monotonic() + CONNECTION_SECONDS
        try:
            super().process_request(request, client_address)
        except RuntimeError:
            # No thread could be started.
            self._forget(request)
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._forget(request)

    def service_actions(self) -> None:
        now = time.monotonic()
        for request, deadline in list(self._deadlines.items()):
            if now >= deadline:
                _hang_up_on(request)

    def hang_up(self) -> None:
        """End all connections."""
        for request in list(self._deadlines):
            _hang_up_on(request)

    def handle_error(self, request: Any, client_address: Any) -> None:
        log.debug("A client of the health endpoint went away.", exc_info=True)

    def _forget(self, request: Any) -> None:
        self._deadlines.pop(request, None)
        self._slots.release()


def _hang_up_on(request: socket.socket) -> None:
    # Its thread then reads the end and closes it.
    with contextlib.suppress(OSError):
        request.shutdown(socket.SHUT_RDWR)


def _make_server(
    address: tuple[str, int], answer: Callable[[str], tuple[int, str, bytes]]
) -> _Server:
    class Handler(BaseHTTPRequestHandler):
        timeout = CLIENT_SECONDS

        def do_GET(self) -> None:
            status, kind, body = answer(urlsplit(self.path).path)
            with contextlib.suppress(OSError):
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        def log_message(self, format: str, *arguments: Any) -> None:
            log.debug(format, *arguments)

    return _Server(address, Handler)
