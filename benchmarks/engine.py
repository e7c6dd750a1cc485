"""How exactly and how cheaply a real vLLM is watched, against what its own core writes down.

Starts the engine that is named after ``--`` with a truth logger on its PYTHONPATH, loads it, and
watches it with `latencyprism collect`: iterations counted and timed one by one, error of begin and
end, equality of the workload, CPU and peak memory of the agent. Then its throughput in windows
without and with the agent, in turn. For the synchronous step of the V1 engine.

    python -m benchmarks.engine --port 18000 -- vllm serve MODEL --port 18000
"""

from __future__ import annotations

import argparse
import asyncio
import bisect
import contextlib
import multiprocessing
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.agent import (
    GENERATED_TOKENS,
    GROUPS,
    Look,
    Reader,
    Setting,
    agent,
    percentile,
    read_metric,
    read_threads,
    write_config,
)
from collectors.rank import epoch_offset_ns
from schemas.records import Iteration
from schemas.topics import TOPICS
from simulator.load import run_load
from simulator.replica.truth import TruthIteration, parse_truth
from simulator.workloads import Phase, Workload
from streams.embedded import EmbeddedBroker

TRUTH_FOLDER = Path(__file__).parent / "engine_truth"
START_SECONDS = 400.0
SETTLE_SECONDS = 5.0
FIELDS = ("requests", "scheduled_tokens", "prefill_tokens", "decode_requests", "kv_tokens")


@contextmanager
def engine(command: Sequence[str], truth: Path, base_url: str) -> Iterator[None]:
    """Run the engine for the length of the block; it writes its iterations to ``truth``."""
    environment = os.environ | {
        "PYTHONPATH": str(TRUTH_FOLDER),
        "LATENCYPRISM_TRUTH": str(truth),
    }
    process = subprocess.Popen(
        list(command),
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        deadline = time.monotonic() + START_SECONDS
        while not answers(base_url):
            if process.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(
                    f"the engine does not serve at {base_url} (status {process.poll()}): run "
                    f"{' '.join(command)!r} by hand to see why"
                )
            time.sleep(1.0)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(30)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)


def answers(base_url: str) -> bool:
    """Tell whether the engine serves."""
    try:
        with urllib.request.urlopen(f"{base_url}/health", timeout=5) as answer:
            return int(answer.status) == 200
    except (OSError, urllib.error.URLError):
        return False


def send(base_url: str, clients: int, seconds: float) -> None:
    """Be the clients; runs in a process of its own."""
    phase = Phase(
        duration_seconds=seconds,
        concurrency=clients,
        prompt_tokens=(32, 512),
        output_tokens=(16, 128),
    )
    workload = Workload(name="bench", summary="Clients.", phases=(phase,))
    asyncio.run(run_load(base_url, workload, seed=1))


@contextmanager
def loaded(base_url: str, clients: int, seconds: float) -> Iterator[None]:
    """Keep so many clients busy for the length of the block."""
    process = multiprocessing.get_context("spawn").Process(
        target=send, args=(base_url, clients, seconds)
    )
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


class Offsets:
    """Epoch minus monotonic time, again and again: a virtual machine's clock may be stepped."""

    def __init__(self) -> None:
        self._found: list[tuple[int, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.wait(0.05):
            self._found.append((time.time_ns(), epoch_offset_ns()))

    def stop(self) -> None:
        """Stop looking."""
        self._stop.set()
        self._thread.join()

    def monotonic_ns(self, epoch_ns: int) -> int:
        """Undo the epoch as it was then."""
        place = min(bisect.bisect(self._found, (epoch_ns, 0)), len(self._found) - 1)
        return epoch_ns - self._found[place][1]


def peak_memory_mib(pid: int) -> float:
    """Give the highest resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    return float("nan")


def compare(
    iterations: list[Iteration], truth: list[TruthIteration], offsets: Offsets
) -> list[tuple[str, str]]:
    """Hold what the agent said against what the engine wrote down."""
    told = {
        one.sequence: one
        for one in iterations
        if one.end_ns is not None and one.role == "engine_core"
    }
    matched = [(told[one.sequence], one) for one in truth if one.sequence in told]
    missed = sum(told[one.sequence].missed for one in truth if one.sequence in told)
    begins = [
        abs(offsets.monotonic_ns(ours.begin_ns) - own.begin_monotonic_ns) / 1e6
        for ours, own in matched
    ]
    ends = [
        abs(offsets.monotonic_ns(ours.end_ns or 0) - own.end_monotonic_ns) / 1e6
        for ours, own in matched
    ]
    durations = [
        abs((ours.end_ns or 0) - ours.begin_ns - own.duration_ns) / 1e6 for ours, own in matched
    ]
    rows = [
        ("iterations by the engine's own log", f"{len(truth):,}"),
        ("counted", f"{100 * (len(matched) + missed) / max(len(truth), 1):.2f} %"),
        ("timed one by one", f"{100 * len(matched) / max(len(truth), 1):.2f} %"),
    ]
    for name, errors in (("begin", begins), ("end", ends), ("duration", durations)):
        rows.append(
            (
                f"error of the {name}, p50 / p99 / most",
                " / ".join(f"{percentile(errors, ratio):.2f}" for ratio in (0.5, 0.99, 1.0))
                + " ms",
            )
        )
    for name in FIELDS:
        equal = sum(getattr(ours.workload, name) == getattr(own, name) for ours, own in matched)
        rows.append((f"{name} equal", f"{100 * equal / max(len(matched), 1):.2f} %"))
    return rows


def watch(
    base_url: str, truth: Path, seconds: float, setting: Setting, folder: Path
) -> list[tuple[str, str]]:
    """Watch the loaded engine and give the rows of the table."""
    port = int(base_url.rpartition(":")[2])
    offsets = Offsets()
    with EmbeddedBroker() as broker:
        broker.create_topics(list(TOPICS))
        reader = Reader(broker.bootstrap)
        with agent(write_config(folder, broker.bootstrap, port, setting)) as process:
            time.sleep(SETTLE_SECONDS)
            before = Look(time.monotonic(), time.monotonic_ns(), 0.0, read_threads(process.pid))
            time.sleep(seconds)
            after = Look(time.monotonic(), time.monotonic_ns(), 0.0, read_threads(process.pid))
            memory_mib = peak_memory_mib(process.pid)
        time.sleep(2.0)
        reader.stop()
    offsets.stop()
    own = [
        one
        for one in parse_truth(truth.read_text())
        if before.at_ns <= one.begin_monotonic_ns and one.end_monotonic_ns < after.at_ns
    ]
    rows = compare(reader.iterations, own, offsets)
    elapsed_ns = after.at_ns - before.at_ns
    total = 0.0
    for group in GROUPS:
        used_ns = sum(
            used - before.cpu_ns.get(key, 0)
            for key, used in after.cpu_ns.items()
            if key[1] == group
        )
        total += used_ns / elapsed_ns
        rows.append((f"agent CPU: {group}", f"{100 * used_ns / elapsed_ns:.2f} % of a core"))
    rows.append(("agent CPU", f"{100 * total:.2f} % of a core"))
    rows.append(("agent memory, highest", f"{memory_mib:.0f} MiB"))
    return rows


def windows(base_url: str, setting: Setting, folder: Path, count: int, seconds: float) -> str:
    """Compare throughput with the agent against the windows before and after it."""
    port = int(base_url.rpartition(":")[2])

    def window() -> float:
        time.sleep(2.0)
        tokens, at = read_metric(base_url, GENERATED_TOKENS), time.monotonic()
        time.sleep(seconds)
        return (read_metric(base_url, GENERATED_TOKENS) - tokens) / (time.monotonic() - at)

    rates: list[tuple[bool, float]] = []
    with EmbeddedBroker() as broker:
        broker.create_topics(list(TOPICS))
        config = write_config(folder, broker.bootstrap, port, setting)
        for position in range(2 * count + 1):
            if position % 2 == 0:
                rates.append((False, window()))
            else:
                with agent(config):
                    rates.append((True, window()))
    changes = [
        100 * (rates[at][1] / statistics.mean((rates[at - 1][1], rates[at + 1][1])) - 1)
        for at in range(1, len(rates), 2)
    ]
    bare = [rate for watched, rate in rates if not watched]
    floor = [
        100 * (bare[at] / statistics.mean((bare[at - 1], bare[at + 1])) - 1)
        for at in range(1, len(bare) - 1)
    ]

    def shown(values: list[float]) -> str:
        return (
            f"median {statistics.median(values):+.1f} % (of {len(values)}: "
            + ", ".join(f"{value:+.1f}" for value in sorted(values))
            + ")"
        )

    return (
        f"Tokens/s with the agent against the windows around: {shown(changes)}\n"
        f"Noise: the same without any agent: {shown(floor)}"
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=18000, help="where it serves (%(default)s)")
    parser.add_argument("--seconds", type=float, default=60.0, help="watched (%(default)s)")
    parser.add_argument("--clients", type=int, default=8, help="(%(default)s)")
    parser.add_argument("--poll-hz", type=int, default=1000, help="counter reads (%(default)s)")
    parser.add_argument("--stack-hz", type=int, default=250, help="stack samples (%(default)s)")
    parser.add_argument("--windows", type=int, default=8, help="with the agent (%(default)s)")
    parser.add_argument("--window-seconds", type=float, default=8.0, help="each (%(default)s)")
    parser.add_argument("command", nargs="+", help="the engine, after --")
    given = parser.parse_args(arguments)
    base_url = f"http://127.0.0.1:{given.port}"
    setting = Setting("engine", given.poll_hz, given.stack_hz)
    with tempfile.TemporaryDirectory() as name:
        folder, truth = Path(name), Path(name) / "truth.csv"
        with engine(given.command, truth, base_url):
            needed = given.seconds + (2 * given.windows + 1) * (given.window_seconds + 6) + 60
            with loaded(base_url, given.clients, needed):
                time.sleep(SETTLE_SECONDS)
                rows = watch(base_url, truth, given.seconds, setting, folder)
                table = Table(
                    "what",
                    "measured",
                    title=f"{given.clients} clients, {given.seconds:.0f} s, "
                    f"{given.poll_hz} reads/s, {given.stack_hz} stacks/s, {os.cpu_count()} CPUs",
                )
                for row in rows:
                    table.add_row(*row)
                console = Console(width=100)
                console.print(table)
                if given.windows:
                    console.print(
                        windows(base_url, setting, folder, given.windows, given.window_seconds),
                        highlight=False,
                    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
