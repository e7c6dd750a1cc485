"""What an engine did in a stretch of time: a replica by its truth file, others by their metrics."""

from __future__ import annotations

import socket
import statistics
import time
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import pairwise
from pathlib import Path
from typing import Protocol

from collectors.discovery import EngineProcess, Process
from collectors.host.reading import HostReader
from schemas.records import HostReading
from simulator.load import percentile
from simulator.replica.process import ReplicaProcess
from simulator.replica.truth import TruthIteration, read_truth

# The replica writes its truth once a second.
FLUSH_SECONDS = 1.2

Composition = tuple[int, bool]


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """What an engine did in a stretch of time.

    Attributes:
        durations_ns: Of its iterations by composition; empty where it does not tell them.

        mean_ms: Time over iterations; None where it does not count them.

        p99_ms: Of the iterations, or of the gaps between tokens.

        host: Counters of the host meanwhile.
    """

    durations_ns: Mapping[Composition, Sequence[int]] = field(default_factory=dict)
    tokens_per_second: float
    mean_ms: float | None
    p99_ms: float | None
    host: Mapping[str, float] = field(default_factory=dict)


class Engine(Protocol):
    """An engine under load, whose work can be looked at for a while."""

    base_url: str
    pids: tuple[int, ...]

    def watch(self, seconds: float) -> Window:
        """Wait so long and say what it did meanwhile."""
        ...


class Replica:
    """The engine replica, by its truth file."""

    def __init__(self, replica: ReplicaProcess, truth: Path) -> None:
        self.base_url = replica.base_url
        self.pids: tuple[int, ...] = (replica.core_pid, replica.worker_pid, replica.pid)
        self._truth = truth

    def watch(self, seconds: float) -> Window:
        """Take the iterations that ended meanwhile."""
        counters = Counters(self.pids)
        begin_ns = time.monotonic_ns()
        time.sleep(seconds)
        end_ns = time.monotonic_ns()
        host = counters.since()
        time.sleep(FLUSH_SECONDS)
        inside = [
            one for one in read_truth(self._truth) if begin_ns <= one.end_monotonic_ns < end_ns
        ]
        return window_of(inside, (end_ns - begin_ns) / 1e9, host)


class Served:
    """Any engine with vLLM's metrics."""

    def __init__(self, base_url: str, pids: Sequence[int]) -> None:
        self.base_url = base_url
        self.pids = tuple(pids)

    def watch(self, seconds: float) -> Window:
        """Subtract the metrics of the beginning from those of the end."""
        counters = Counters(self.pids)
        before, began = read_metrics(self.base_url), time.monotonic()
        time.sleep(seconds)
        after, elapsed_seconds = read_metrics(self.base_url), time.monotonic() - began
        return window_by_metrics(before, after, elapsed_seconds, counters.since())


class Counters:
    """The host's counters from here on, as our agent reads them."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._reader = HostReader(socket.gethostname())
        core, *others = (
            Process(pid=pid, parent_pid=0, start_ticks=0, arguments=()) for pid in pids
        )
        engine = EngineProcess(framework="", name="engine", core=core, others=tuple(others))
        self._engines = {"engine": engine}
        self._reader.read(self._engines)

    def since(self) -> dict[str, float]:
        """Give them."""
        hosts, processes = self._reader.read(self._engines)
        if not hosts:
            return {}
        found = {
            one.name: float(value)
            for one in fields(HostReading)
            if isinstance(value := getattr(hosts[0], one.name), (int, float))
            and not one.name.endswith("_ns")
        }
        throttled = [one.cgroup_throttled_seconds or 0.0 for one in processes]
        seconds = (hosts[0].end_ns - hosts[0].begin_ns) / 1e9
        return found | {"cgroup_throttled_ratio": max(throttled, default=0.0) / seconds}


def window_of(
    iterations: Sequence[TruthIteration], seconds: float, host: Mapping[str, float]
) -> Window:
    """Sum up the iterations of a window."""
    durations: dict[Composition, list[int]] = defaultdict(list)
    for one in iterations:
        durations[one.decode_requests, one.prefill_tokens > 0].append(one.duration_ns)
    every_ms = [one.duration_ns / 1e6 for one in iterations]
    return Window(
        durations_ns=durations,
        tokens_per_second=sum(one.decode_requests for one in iterations) / seconds,
        mean_ms=statistics.fmean(every_ms) if every_ms else None,
        p99_ms=percentile(every_ms, 99) if every_ms else None,
        host=host,
    )


def read_metrics(base_url: str) -> dict[str, float]:
    """Read the metrics page: values summed over labels, but for the bounds of histograms."""
    try:
        with urllib.request.urlopen(f"{base_url}/metrics", timeout=30) as answer:
            return parse_metrics(answer.read().decode())
    except (OSError, urllib.error.URLError) as err:
        raise SystemExit(f"no metrics at {base_url} ({err}): check --url") from err


def parse_metrics(text: str) -> dict[str, float]:
    """Sum a metrics page over its labels.

    >>> parse_metrics('vllm:tokens_total{model="a"} 2\\nvllm:tokens_total{model="b"} 3')
    {'vllm:tokens_total': 5.0}
    """
    found: dict[str, float] = defaultdict(float)
    for line in text.splitlines():
        if line and not line.startswith("#"):
            name, _, value = line.rpartition(" ")
            bare, _, labels = name.partition("{")
            bound = labels.partition('le="')[2].partition('"')[0]
            found[f"{bare} {bound}" if bound else bare] += float(value)
    return dict(found)


def window_by_metrics(
    before: Mapping[str, float],
    after: Mapping[str, float],
    seconds: float,
    host: Mapping[str, float],
) -> Window:
    """Tell from vLLM's metrics what happened between two looks at them."""
    grown = {name: value - before.get(name, 0.0) for name, value in after.items()}
    iterations = grown.get("vllm:iteration_tokens_total_count", 0.0)
    gaps = next(
        (
            name
            for name in ("vllm:inter_token_latency_seconds", "vllm:time_per_output_token_seconds")
            if grown.get(f"{name}_count")
        ),
        None,
    )
    return Window(
        tokens_per_second=grown.get("vllm:generation_tokens_total", 0.0) / seconds,
        mean_ms=seconds / iterations * 1e3 if iterations else None,
        p99_ms=None if gaps is None else histogram_percentile(grown, gaps, 99) * 1e3,
        host=host,
    )


def histogram_percentile(grown: Mapping[str, float], name: str, percent: float) -> float:
    """Give a percentile of a histogram, straight within the bucket that it falls into."""
    prefix = f"{name}_bucket "
    bounds = sorted(
        (float(key.removeprefix(prefix)), count)
        for key, count in grown.items()
        if key.startswith(prefix)
    )
    wanted = percent / 100 * bounds[-1][1]
    for (low, below), (high, count) in pairwise([(0.0, 0.0), *bounds]):
        if count >= wanted:
            inside = (wanted - below) / max(count - below, 1e-9)
            return low if high == float("inf") else low + (high - low) * inside
    return bounds[-1][0]
