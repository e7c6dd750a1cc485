"""Describe the agent as its health endpoint shows it."""

import time
from collections.abc import Callable, Sequence

from collectors.agent import Agent
from collectors.capture_requests import CaptureRequests
from collectors.devices import Devices
from collectors.health import AgentHealth, EngineHealth, PublisherHealth, XpuHealth
from collectors.publisher import KafkaPublisher
from collectors.rank import RankReader
from collectors.watcher import Watcher

# As `Sampler.stats` numbers what came of comparing stacks with py-spy's.
SELF_CHECKS = {1: True, 2: False}


def describer(
    agent: Agent, version: str, kafka: KafkaPublisher | None, captures: CaptureRequests | None
) -> Callable[[], AgentHealth]:
    """Give the function that describes the agent at each scrape."""
    started_at = time.time()
    totals = Totals()

    def describe() -> AgentHealth:
        watchers = list(agent.watchers.values())
        totals.keep(watchers)
        return AgentHealth(
            version=version,
            host=agent.host,
            started_at=started_at,
            engines=tuple(one for watcher in watchers for one in engines_of(watcher, totals)),
            publisher=PublisherHealth()
            if kafka is None
            else PublisherHealth(queued=kafka.queued, dropped=kafka.dropped, errors=kafka.failed),
            xpus=xpus_of(agent.devices),
            captures={} if captures is None else {"done": captures.done, "failed": captures.failed},
            tracing=None if agent.tracer is None else agent.tracer.note is None,
        )

    return describe


class Totals:
    """CPU times of threads that come and go, as totals that only grow."""

    def __init__(self) -> None:
        # By reader and by whose time it is: what threads before took, and this one's so far.
        self._readers: dict[RankReader, dict[str, tuple[int, int]]] = {}

    def reader_cpu_ns(self, reader: RankReader) -> int:
        """Give what reading took since the reader was first seen, in its present thread or not."""
        parts = self._readers.setdefault(reader, {})
        found = {
            "sampler": reader.stats().get("thread_cpu_ns", 0),
            "python": reader.python_cpu_ns,
        }
        for name, now_ns in found.items():
            before_ns, last_ns = parts.get(name, (0, 0))
            # Each attach has new threads, and their clocks begin at 0.
            parts[name] = (before_ns + last_ns if now_ns < last_ns else before_ns, now_ns)
        return sum(before_ns + last_ns for before_ns, last_ns in parts.values())

    def keep(self, watchers: Sequence[Watcher]) -> None:
        """Forget readers that are none of these watchers' any more."""
        kept = {watched.reader for watcher in watchers for watched in watcher.watched}
        self._readers = {one: parts for one, parts in self._readers.items() if one in kept}


def engines_of(watcher: Watcher, totals: Totals) -> list[EngineHealth]:
    """Describe each rank of an engine that is read."""
    return [
        EngineHealth(
            engine_id=watcher.engine_id,
            framework=watcher.engine.framework,
            rank=watched.reader.rank,
            source=watcher.source if watched.reader.rank == 0 else watched.reader.source,
            iterations_seen=watcher.iterations_seen
            if watched.reader.rank == 0
            else watched.reader.seen,
            iterations_missed=watcher.iterations_missed
            if watched.reader.rank == 0
            else watched.reader.missed,
            poll_hz=watched.rates.poll_hz,
            stack_hz=watched.rates.stack_hz,
            reader_cpu_seconds=totals.reader_cpu_ns(watched.reader) / 1e9,
            self_check=SELF_CHECKS.get(watched.reader.stats().get("self_check", 0)),
            note=watcher.note,
        )
        for watched in watcher.watched
    ]


def xpus_of(devices: Devices) -> tuple[XpuHealth, ...]:
    """Describe how each vendor's accelerators are read."""
    return tuple(
        XpuHealth(
            vendor=status.vendor,
            state="ok" if status.state == "working" else status.state,
            devices=status.devices,
            timeouts=status.timeouts,
        )
        for status in devices.status()
    )
