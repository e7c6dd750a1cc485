"""What watching an engine costs: the agent's CPU by thread, and how exactly it counts.

An engine replica with a chat-like load is watched by `latencyprism collect`, which publishes to
the embedded broker, for each setting in turn. A row of the table is one setting; CPU is in percent
of one core per watched engine. With `--throughput` the engine's own speed is measured without the
agent, with it, and without it again. Takes a minute and a half; nothing else should be busy.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from rich.console import Console
from rich.table import Table

from collectors.stacks import HOW_TO_GET_IT, native_version
from latencyprism.demo.story import Load, phase_of
from schemas.codec import DecodeError, decode
from schemas.records import Iteration
from schemas.topics import ITERATIONS, TOPICS
from simulator.replica.process import ReplicaProcess
from simulator.workloads import Workload
from streams.embedded import PARTITIONS, EmbeddedBroker

SETTLE_SECONDS = 4.0
# What a thread's name begins with, by the part of the agent that it belongs to.
THREADS = {
    "sampler": "sampler",
    "watch ": "watcher",
    "publisher": "publisher",
    "rdk": "publisher",
}
GROUPS = ("sampler", "watcher", "publisher", "rest")
ITERATION_COUNT = "vllm:iteration_tokens_total_count"
GENERATED_TOKENS = "vllm:generation_tokens_total"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: how often the engine is read, and whether it has anything to do."""

    name: str
    poll_hz: int
    stack_hz: int
    busy: bool = True


SETTINGS = (
    Setting("1000 reads/s, 50 stacks/s", 1000, 50),
    Setting("500 reads/s, 25 stacks/s", 500, 25),
    Setting("1000 reads/s, 50 stacks/s, idle engine", 1000, 50, busy=False),
)


@dataclass(frozen=True, slots=True)
class Look:
    """Counters of one moment."""

    at_seconds: float
    at_ns: int
    iterations: float
    cpu_ns: dict[tuple[int, str], int]


def read_metric(base_url: str, name: str) -> float:
    """Sum a metric of the engine over its labels."""
    with urllib.request.urlopen(f"{base_url}/metrics", timeout=30) as answer:
        lines = answer.read().decode().splitlines()
    return sum(
        float(line.split()[-1]) for line in lines if line.startswith((f"{name}{{", f"{name} "))
    )


def thread_names(pid: int) -> dict[int, str]:
    """Give the names that Python gave its threads; before 3.14 the kernel does not know them."""
    import latencyprism_native

    threads = json.loads(latencyprism_native.dump_stacks(pid))
    return {one["os_thread_id"]: one["thread_name"] or "" for one in threads}


def read_threads(pid: int) -> dict[tuple[int, str], int]:
    """Give the nanoseconds on a CPU of each thread, with the part that it belongs to."""
    names = thread_names(pid)
    found: dict[tuple[int, str], int] = {}
    for task in Path(f"/proc/{pid}/task").iterdir():
        thread = int(task.name)
        try:
            name = names.get(thread) or (task / "comm").read_text().strip()
            on_cpu_ns = int((task / "schedstat").read_text().split()[0])
        except OSError:
            continue
        group = next((part for start, part in THREADS.items() if name.startswith(start)), "rest")
        found[thread, group] = on_cpu_ns
    return found


def read_rss_bytes(pid: int) -> int:
    """Give the resident memory of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Reader:
    """Read what the agent publishes, as a worker would."""

    def __init__(self, bootstrap: str) -> None:
        self._stop = threading.Event()
        self._consumer: Any = Consumer(
            {"bootstrap.servers": bootstrap, "group.id": "bench", "fetch.wait.max.ms": 100}
        )
        self._consumer.assign(
            [
                TopicPartition(ITERATIONS.name, partition, OFFSET_BEGINNING)
                for partition in range(PARTITIONS)
            ]
        )
        self.iterations: list[Iteration] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Stop reading."""
        self._stop.set()
        self._thread.join()
        self._consumer.close()

    def _run(self) -> None:
        while not self._stop.is_set():
            for message in self._consumer.consume(500, timeout=0.5):
                if message.error() is None:
                    try:
                        self.iterations.append(decode(Iteration, message.value()))
                    except DecodeError as err:
                        raise SystemExit(f"a record of the agent cannot be read: {err}") from err


@contextmanager
def agent(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Run the agent for the length of the block."""
    command = [sys.executable, "-m", "latencyprism", "collect", "--config", str(config)]
    process = subprocess.Popen([*command, "--log-level", "warning"])
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def write_config(folder: Path, bootstrap: str, port: int, setting: Setting) -> Path:
    """Write the configuration of one setting; the budget never interferes."""
    path = folder / "latencyprism.toml"
    path.write_text(
        f'[kafka]\nbootstrap_servers = "{bootstrap}"\n'
        f"[collect]\nports = [{port}]\npoll_hz = {setting.poll_hz}\n"
        f"stack_hz = {setting.stack_hz}\ncpu_budget_ratio = 1.0\n"
    )
    return path


def percentile(values: Sequence[float], ratio: float) -> float:
    """Give the value below which this share lies; nan without values."""
    ordered = sorted(values)
    return ordered[min(int(ratio * len(ordered)), len(ordered) - 1)] if ordered else float("nan")


@contextmanager
def busy(base_url: str, seconds: float) -> Iterator[None]:
    """Send the engine chat-like requests for the length of the block, at most so long."""
    load = Load(base_url, Workload(name="chat", summary="", phases=(phase_of("chat", seconds),)), 1)
    load.start()
    yield
    load.join(30.0)


def measure(setting: Setting, seconds: float, folder: Path) -> list[str]:
    """Watch one engine and give its row of the table."""
    with EmbeddedBroker() as broker, ReplicaProcess() as replica:
        broker.create_topics(list(TOPICS))
        port = int(replica.base_url.rpartition(":")[2])
        reader = Reader(broker.bootstrap)

        def look(pid: int) -> Look:
            return Look(
                time.monotonic(),
                time.time_ns(),
                read_metric(replica.base_url, ITERATION_COUNT),
                read_threads(pid),
            )

        with agent(write_config(folder, broker.bootstrap, port, setting)) as process:
            if setting.busy:
                with busy(replica.base_url, seconds + SETTLE_SECONDS):
                    time.sleep(SETTLE_SECONDS)
                    before = look(process.pid)
                    time.sleep(seconds - 1.0)
                    after = look(process.pid)
            else:
                time.sleep(SETTLE_SECONDS)
                before = look(process.pid)
                time.sleep(seconds - 1.0)
                after = look(process.pid)
            rss_bytes = read_rss_bytes(process.pid)
        time.sleep(1.0)
        reader.stop()
    return row(setting, before, after, reader.iterations, rss_bytes)


def row(
    setting: Setting, before: Look, after: Look, iterations: list[Iteration], rss_bytes: int
) -> list[str]:
    """Turn two looks and the records between them into text."""
    elapsed = after.at_seconds - before.at_seconds
    # By their begin: the engine counts an iteration as it ends, one more or less at each edge.
    inside = [
        one
        for one in iterations
        if one.end_ns is not None and before.at_ns <= one.end_ns < after.at_ns
    ]
    counted = len(inside) + sum(one.missed for one in inside)
    own = after.iterations - before.iterations
    cpu_ns = dict.fromkeys(GROUPS, 0)
    for (thread, group), used_ns in after.cpu_ns.items():
        cpu_ns[group] += used_ns - before.cpu_ns.get((thread, group), 0)
    ratios = {group: used_ns / 1e9 / elapsed for group, used_ns in cpu_ns.items()}
    doubts_ms = [one.uncertainty_ns / 1e6 for one in inside]
    known = sum(one.workload.scheduled_tokens is not None for one in inside)
    return [
        setting.name,
        f"{own / elapsed:.1f}",
        f"{100 * counted / own:.2f}" if own else "-",
        f"{100 * len(inside) / own:.2f}" if own else "-",
        f"{100 * known / len(inside):.1f}" if inside else "-",
        *(f"{100 * ratios[group]:.2f}" for group in GROUPS),
        f"{100 * sum(ratios.values()):.2f}",
        f"{percentile(doubts_ms, 0.5):.2f}" if inside else "-",
        f"{percentile(doubts_ms, 0.99):.2f}" if inside else "-",
        f"{rss_bytes / 2**20:.0f}",
    ]


def throughput(console: Console, folder: Path, window_seconds: float = 5.0) -> None:
    """Print the engine's tokens per second: three windows each without, with, without the agent."""
    with EmbeddedBroker() as broker, ReplicaProcess() as replica:
        broker.create_topics(list(TOPICS))
        port = int(replica.base_url.rpartition(":")[2])
        config = write_config(folder, broker.bootstrap, port, SETTINGS[0])

        def windows() -> list[float]:
            time.sleep(SETTLE_SECONDS)
            found = []
            for _ in range(3):
                tokens, at = read_metric(replica.base_url, GENERATED_TOKENS), time.monotonic()
                time.sleep(window_seconds)
                tokens = read_metric(replica.base_url, GENERATED_TOKENS) - tokens
                found.append(tokens / (time.monotonic() - at))
            return found

        part = SETTLE_SECONDS + 3 * window_seconds
        with busy(replica.base_url, 3 * part + 5.0):
            without = windows()
            with agent(config):
                watched = windows()
            again = windows()
    for name, rates in (("without", without), ("with", watched), ("without", again)):
        console.print(
            f"Engine {name:7} the agent: {', '.join(f'{rate:.0f}' for rate in rates)} tokens/s",
            highlight=False,
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every setting and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="per setting (%(default)s)")
    parser.add_argument(
        "--throughput", action="store_true", help="measure the engine's speed as well (a minute)"
    )
    given = parser.parse_args(arguments)
    console = Console()
    if native_version() is None:
        console.print(f"There is nothing to measure without the native sampler: {HOW_TO_GET_IT}.")
        return 2
    table = Table(
        "setting", "iterations/s", "counted %", "seen singly %", "workload known %",
        *(f"{group} %" for group in GROUPS), "CPU % of a core",
        "uncertainty p50 ms", "p99 ms", "RSS MiB",
        title=f"Agent beside one engine, {os.cpu_count()} CPUs, {given.seconds:.0f} s each",
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        for setting in SETTINGS:
            table.add_row(*measure(setting, given.seconds, Path(folder)))
        # Wide, because a table that is cut says nothing in a log file.
        (console if console.is_terminal else Console(width=200)).print(table)
        if given.throughput:
            throughput(console, Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
