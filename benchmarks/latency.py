"""Milliseconds from the end of a batch to the webhook, on a real Kafka; and throughput.

Engines send iterations in real time through the agent's publisher. One after the other is slow for
a while, and the first alert of each such incident is timed: from the end of the batch that gave it
away, which is the moment it was published, to its arrival at an HTTP receiver on this machine. On
its way the alert has the time at which it was made, so that the two workers are told apart. Lag is
what each worker had still to read when the last batch was sent.
Kafka (one node, a JVM), the workers analyze, store (chDB) and notify, the sender and the receiver
share the machine, so run it where nothing else is busy. CPU is in percent of one core.

The last line is the throughput of one analyze worker: it finds a backlog and is timed from the
first batch on batches.v1 to the last. Takes less than three minutes.
"""

from __future__ import annotations

import argparse
import heapq
import math
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

from confluent_kafka import Consumer, TopicPartition
from rich.console import Console
from rich.table import Table

from collectors.host.process import TICKS_PER_SECOND
from collectors.publisher import KafkaPublisher
from latencyprism.demo.receiver import Receiver
from schemas.records import Workload
from schemas.topics import ALERTS, BATCHES, ITERATIONS

# The Kafka server and the worker processes are those of the integration tests; only a path makes
# sure that 'tests' is ours.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from benchmarks.engine_feed import NS, EngineFeed
from tests.integration.deployment import (
    ROLES,
    Deployment,
    TopicReader,
    ends,
    settings_of,
    wait_until,
)
from tests.integration.kafka_server import (
    KafkaServer,
    KafkaUnavailableError,
)

# What each role has to keep up with here.
READ = {
    "analyze": (ITERATIONS.name,),
    "store": (BATCHES.name, ALERTS.name),
    "notify": (ALERTS.name,),
}
# Each engine is in trouble again and again, which is not to be damped here.
EVERY_ONE_IS_TOLD = "flap_count = 1_000_000\n"
WARM_BATCHES = 600
SLOW_BATCHES = 15
SLOW_FACTOR = 1.6
# An incident is over after 20 fine batches and 2 s.
CALM_SECONDS = 3.0
IDLE_SECONDS = 5.0


@dataclass(slots=True)
class Cpu:
    """CPU seconds of each worker process and of the broker at one moment."""

    at: float
    seconds: dict[str, float]

    @classmethod
    def now(cls, run: Deployment) -> Cpu:
        """Read /proc."""
        pids = {name: worker.pid for name, worker in run.workers.items()}
        if run.kafka.pid is not None:
            pids["kafka"] = run.kafka.pid
        return cls(time.monotonic(), {name: cpu_seconds(pid) for name, pid in pids.items()})

    def since(self, before: Cpu) -> dict[str, float]:
        """Give percent of a core for each worker."""
        span = self.at - before.at
        return {n: 100 * (s - before.seconds[n]) / span for n, s in self.seconds.items()}


def cpu_seconds(pid: int) -> float:
    """Give the CPU time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND


@dataclass(slots=True)
class Outcome:
    """One row of the table."""

    rate: int
    engines: int
    sent_per_second: float = 0.0
    incidents: int = 0
    fired: int = 0
    latencies_ms: list[float] = field(default_factory=list)
    # From the batch's end until its alert is made, and from then until it arrives.
    made_ms: list[float] = field(default_factory=list)
    delivered_ms: list[float] = field(default_factory=list)
    lag: dict[str, int] = field(default_factory=dict)
    idle: dict[str, float] = field(default_factory=dict)
    busy: dict[str, float] = field(default_factory=dict)


class Stopwatch:
    """Count what is on a topic from here on."""

    def __init__(self, kafka: KafkaServer, topic: str) -> None:
        self._consumer = Consumer(
            {"bootstrap.servers": kafka.bootstrap, "group.id": "bench", "log_level": 0}
        )
        metadata = self._consumer.list_topics(timeout=10).topics[topic]
        self._places = [TopicPartition(topic, n) for n in metadata.partitions]
        self._before = 0
        self._before = self.count()

    def count(self) -> int:
        """Give the number of messages since this was made."""
        ends = [self._consumer.get_watermark_offsets(place, timeout=10) for place in self._places]
        return sum(end for _, end in ends) - self._before

    def close(self) -> None:
        """Leave the broker."""
        self._consumer.close()


def lag_of(run: Deployment, role: str, *topics: str) -> int:
    """Give how many messages of these topics a role has not committed."""
    consumer = Consumer(
        {
            "bootstrap.servers": run.kafka.bootstrap,
            "group.id": f"{run.application}-{role}",
            "log_level": 0,
        }
    )
    places = ends(consumer, topics)
    committed = consumer.committed(places, timeout=10)
    consumer.close()
    return sum(end.offset - at.offset for end, at in zip(places, committed, strict=True))


def emit(publisher: KafkaPublisher, feeds: list[EngineFeed], seconds: float) -> tuple[int, int]:
    """Send batches in real time, slow ones on each engine in turn; give batches and incidents."""
    begin_ns = time.time_ns()
    # The engines' troubles are spread evenly over the cycle of one.
    cycle_ns = int(CALM_SECONDS * NS) * 3 // 2
    calm_until_ns = [begin_ns + NS + cycle_ns * n // len(feeds) for n in range(len(feeds))]
    slow_left = [0] * len(feeds)
    sent = incidents = 0
    due: list[tuple[int, int, int, Workload]] = []

    def plan(number: int, now_ns: int) -> None:
        if slow_left[number] == 0 and now_ns >= calm_until_ns[number]:
            if now_ns - begin_ns < (seconds - 1.5 * CALM_SECONDS) * NS:
                slow_left[number] = SLOW_BATCHES
                nonlocal incidents
                incidents += 1
            calm_until_ns[number] = sys.maxsize
        factor = SLOW_FACTOR if slow_left[number] else 1.0
        duration_ns, workload = feeds[number].duration_ns(factor)
        heapq.heappush(due, (now_ns + duration_ns, number, duration_ns, workload))

    for number in range(len(feeds)):
        plan(number, begin_ns)
    while due[0][0] < begin_ns + seconds * NS:
        end_ns, number, duration_ns, workload = heapq.heappop(due)
        wait_ns = end_ns - time.time_ns()
        if wait_ns > 0:
            time.sleep(wait_ns / NS)
        publisher.publish(feeds[number].iteration(time.time_ns(), duration_ns, workload))
        sent += 1
        if slow_left[number]:
            slow_left[number] -= 1
            if slow_left[number] == 0:
                calm_until_ns[number] = end_ns + int(CALM_SECONDS * NS)
        plan(number, end_ns)
    return sent, incidents


def measure_alerts(
    kafka: KafkaServer,
    folder: Path,
    rate: int,
    engines: int,
    seconds: float,
    roles: tuple[str, ...],
) -> Outcome:
    """Measure one row."""
    outcome = Outcome(rate, engines)
    receiver = Receiver()
    receiver.start()
    feeds = [EngineFeed(f"r{rate}-{n}:8000", engines / rate, seed=n) for n in range(engines)]
    publisher = KafkaPublisher(settings_of(kafka), queue_records=100_000)
    name = f"bench-{rate}-{engines}"
    with Deployment(
        kafka, folder, name, receiver.url, checkpoint_batches=200, notify=EVERY_ONE_IS_TOLD
    ) as run:
        watch = Stopwatch(kafka, BATCHES.name)
        alerts = TopicReader(kafka, ALERTS.name)
        for role in roles:
            run.start(role)
        before = Cpu.now(run)
        time.sleep(IDLE_SECONDS)
        outcome.idle = Cpu.now(run).since(before)
        now_ns = time.time_ns()
        for feed in feeds:
            publisher.publish(feed.engine(now_ns))
            for iteration in feed.past(WARM_BATCHES, now_ns):
                publisher.publish(iteration)
        wait_until("warm engines", lambda: watch.count() >= WARM_BATCHES * engines)
        if "store" in roles:
            run.wait_until_done("store", BATCHES.name)
        before = Cpu.now(run)
        sent, outcome.incidents = emit(publisher, feeds, seconds)
        now = Cpu.now(run)
        outcome.lag = {role: lag_of(run, role, *READ[role]) for role in roles}
        # Offsets are committed twice a second: what is judged tells more.
        outcome.lag["analyze"] = WARM_BATCHES * engines + sent - watch.count()
        outcome.busy = now.since(before)
        outcome.sent_per_second = sent / (now.at - before.at)
        wait_until("judged batches", lambda: watch.count() >= WARM_BATCHES * engines + sent)
        time.sleep(1.0)
        made_ns = {
            one["incident_id"]: one["at_ns"] for one in alerts.values(ALERTS.name, revision=0)
        }
        outcome.fired = len(made_ns)
        watch.close()
        alerts.close()
    publisher.close()
    receiver.stop()
    for one in receiver.deliveries:
        if one.annotations["state"] != "firing":
            continue
        outcome.latencies_ms.append(one.latency_ms)
        delivered_ms = (one.received_ns - made_ns[one.incident_id]) / 1e6
        outcome.delivered_ms.append(delivered_ms)
        outcome.made_ms.append(one.latency_ms - delivered_ms)
    return outcome


def measure_throughput(kafka: KafkaServer, folder: Path, batches: int, engines: int) -> float:
    """Give the batches per second of one analyze worker that finds so many waiting."""
    publisher = KafkaPublisher(settings_of(kafka), queue_records=batches)
    feeds = [EngineFeed(f"backlog-{n}:8000", 0.005, seed=n) for n in range(engines)]
    with Deployment(kafka, folder, "bench-backlog", checkpoint_batches=200) as run:
        waiting = Stopwatch(kafka, ITERATIONS.name)
        done = Stopwatch(kafka, BATCHES.name)
        now_ns = time.time_ns()
        streams = [feed.past(batches // engines, now_ns) for feed in feeds]
        for iterations in zip(*streams, strict=True):
            for iteration in iterations:
                publisher.publish(iteration)
        wait_until("backlog", lambda: waiting.count() >= batches // engines * engines)
        publisher.close()
        total = waiting.count()
        run.start("analyze")
        wait_until("batches", lambda: done.count() > 0)
        first, first_at = done.count(), time.monotonic()
        wait_until("all batches", lambda: done.count() >= total, 300.0)
        per_second = (total - first) / (time.monotonic() - first_at)
        waiting.close()
        done.close()
    return per_second


def quantiles(values: list[float]) -> tuple[float, float]:
    """Give the median and the 99th percentile."""
    if len(values) < 2:
        return (values[0], values[0]) if values else (math.nan, math.nan)
    return statistics.median(values), statistics.quantiles(values, n=100, method="inclusive")[-1]


def show(outcomes: list[Outcome], backlog: tuple[int, float], console: Console) -> None:
    """Print the table."""
    table = Table(title="From a batch's end to the webhook", title_justify="left")
    for name in ("batches/s", "engines", "incidents", "fired", "told"):
        table.add_column(name, justify="right")
    for name in ("p50 ms", "p99 ms", "max ms", "made\np50 / p99 ms", "delivered\np50 / p99 ms"):
        table.add_column(name, justify="right")
    for role in ROLES:
        table.add_column(f"{role} CPU %\nidle / busy, lag", justify="right")
    table.add_column("Kafka CPU %\nidle / busy", justify="right")
    for one in outcomes:
        table.add_row(
            f"{one.sent_per_second:.0f}",
            str(one.engines),
            str(one.incidents),
            str(one.fired),
            str(len(one.latencies_ms)),
            *(
                f"{value:.1f}"
                for value in (*quantiles(one.latencies_ms), max(one.latencies_ms, default=math.nan))
            ),
            "{:.1f} / {:.1f}".format(*quantiles(one.made_ms)),
            "{:.1f} / {:.1f}".format(*quantiles(one.delivered_ms)),
            *(
                f"{one.idle[role]:.1f} / {one.busy[role]:.1f}, {one.lag[role]}"
                if role in one.idle
                else "-"
                for role in ROLES
            ),
            f"{one.idle['kafka']:.1f} / {one.busy['kafka']:.1f}",
        )
    console.print(table)
    if backlog[0]:
        console.print(f"One analyze worker, backlog of {backlog[0]} iterations: {backlog[1]:.0f}/s")


def main() -> int:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--rows",
        nargs="*",
        default=["100x5", "1000x50"],
        metavar="RATExENGINES",
        help="batches/s in total and engines (default: 100x5 1000x50)",
    )
    parser.add_argument("--incidents", type=int, default=60, help="least number of them in a row")
    parser.add_argument("--without-store", action="store_true", help="no database beside it")
    parser.add_argument(
        "--backlog", type=int, default=30_000, help="iterations of the last line, 0: none"
    )
    arguments = parser.parse_args()
    console = Console(width=max(Console().width, 150))
    roles = tuple(one for one in ROLES if one != "store" or not arguments.without_store)
    rows = [tuple(int(part) for part in row.split("x")) for row in arguments.rows]
    with tempfile.TemporaryDirectory(prefix="latencyprism-bench-") as folder:
        try:
            server = KafkaServer(Path(folder) / "kafka")
        except KafkaUnavailableError as err:
            console.print(f"benchmarks/latency.py: {err}")
            return 2
        with server as kafka:
            outcomes = []
            for rate, engines in rows:
                place = Path(folder) / f"{rate}x{engines}"
                place.mkdir()
                # A slow spell of one engine and the calm after it.
                cycle_seconds = SLOW_BATCHES * SLOW_FACTOR * engines / rate + CALM_SECONDS
                seconds = cycle_seconds * (math.ceil(arguments.incidents / engines) + 2)
                outcomes.append(measure_alerts(kafka, place, rate, engines, seconds, roles))
            place = Path(folder) / "backlog"
            place.mkdir()
            per_second = (
                measure_throughput(kafka, place, arguments.backlog, engines=10)
                if arguments.backlog
                else 0.0
            )
    show(outcomes, (arguments.backlog, per_second), console)
    return 0 if all(one.latencies_ms for one in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
