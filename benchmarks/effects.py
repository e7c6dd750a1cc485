"""How much each real fault slows an engine, by severity, from what the engine itself wrote down.

Each injection stands between two quiet windows under the same steady load, and is compared with
both. Batches are compared with batches of the same composition only (decode requests, prefill or
not): the ratio of a fault is the median over compositions of the ratio of median durations; with
several rounds, the median over these. A replica writes its iterations to a
truth file, so our agent has no part in this; of any other engine (``--url`` and ``--pid``) the mean
iteration is time over iterations that its /metrics count, and the p99 is that of its token gaps.

    python -m benchmarks.effects --faults cpu_squeeze,cpu_quota --seconds 8
    python -m benchmarks.effects --url http://127.0.0.1:8000 --pid 4711 --json effects.json
"""

from __future__ import annotations

import argparse
import asyncio
import json
import multiprocessing
import signal
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import get_args

from rich.console import Console
from rich.table import Table

from benchmarks.engine_windows import (
    Engine,
    Replica,
    Served,
    Window,
    histogram_percentile,
    parse_metrics,
    window_by_metrics,
    window_of,
)
from schemas.records import FaultSeverity
from simulator.faults import Machine, Target, available, load
from simulator.injection.run import InjectionError, Refused, injected
from simulator.load import run_load
from simulator.replica.process import ReplicaProcess
from simulator.workloads import build

__all__ = [
    "LEAST_BATCHES",
    "Found",
    "Window",
    "histogram_percentile",
    "iteration_ratio",
    "median_of_rounds",
    "parse_metrics",
    "window_by_metrics",
    "window_of",
]

SEVERITIES: tuple[FaultSeverity, ...] = get_args(FaultSeverity)
WARM_UP_SECONDS = 5.0
# What a fault needs to take hold, and a machine to get over it.
SETTLE_SECONDS = 1.0
# A composition is compared where both windows have so many batches of it.
LEAST_BATCHES = 5
# The longest that one injection may take on top of its window.
SPARE_SECONDS = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """The effect of a fault at one severity: numbers of its window over those of quiet ones.

    Attributes:
        iteration_ratio: Over batches of equal composition where the engine tells them.

        recovery_ratio: The quiet window afterwards over the one before; 1 if all was undone.

        quiet_others_ratio: CPU share of all other processes in the quiet windows: how noisy it was.

        host: How much each counter of the host grew.

        note: Why there is no number.
    """

    fault: str
    severity: FaultSeverity
    intensity: float
    iteration_ratio: float | None = None
    tokens_ratio: float | None = None
    p99_ratio: float | None = None
    recovery_ratio: float | None = None
    quiet_others_ratio: float | None = None
    host: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


def iteration_ratio(quiet: Window, other: Window) -> float | None:
    """Compare batches of the same composition; means where the engine does not tell those."""
    ratios = [
        statistics.median(other.durations_ns[same]) / statistics.median(quiet.durations_ns[same])
        for same in quiet.durations_ns.keys() & other.durations_ns.keys()
        if min(len(quiet.durations_ns[same]), len(other.durations_ns[same])) >= LEAST_BATCHES
    ]
    if ratios:
        return statistics.median(ratios)
    return None if quiet.durations_ns else ratio(quiet.mean_ms, other.mean_ms)


def together(one: Window, other: Window) -> Window:
    """Put two windows of the same length together."""
    return Window(
        durations_ns={
            same: [*one.durations_ns.get(same, ()), *other.durations_ns.get(same, ())]
            for same in one.durations_ns.keys() | other.durations_ns.keys()
        },
        tokens_per_second=(one.tokens_per_second + other.tokens_per_second) / 2,
        mean_ms=mean_of((one.mean_ms, other.mean_ms)),
        p99_ms=mean_of((one.p99_ms, other.p99_ms)),
        host={
            name: (one.host[name] + other.host[name]) / 2
            for name in one.host.keys() & other.host.keys()
        },
    )


def median_of_rounds(found: Sequence[Found]) -> list[Found]:
    """Put the rounds of each fault and severity together; what failed once has failed."""
    rounds: dict[tuple[str, str], list[Found]] = defaultdict(list)
    for one in found:
        rounds[one.fault, one.severity].append(one)
    return [_median(same) for same in rounds.values()]


def _median(rounds: Sequence[Found]) -> Found:
    failed = next((one for one in rounds if one.note), None)
    if failed is not None or len(rounds) == 1:
        return failed or rounds[0]

    def middle(values: Iterable[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return statistics.median(known) if known else None

    counters = {name for one in rounds for name in one.host}
    return replace(
        rounds[0],
        iteration_ratio=middle(one.iteration_ratio for one in rounds),
        tokens_ratio=middle(one.tokens_ratio for one in rounds),
        p99_ratio=middle(one.p99_ratio for one in rounds),
        recovery_ratio=middle(one.recovery_ratio for one in rounds),
        quiet_others_ratio=middle(one.quiet_others_ratio for one in rounds),
        host={
            name: value
            for name in sorted(counters)
            if (value := middle(one.host.get(name) for one in rounds)) is not None
        },
    )


def mean_of(values: Iterable[float | None]) -> float | None:
    """Give the mean of what is known."""
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def ratio(before: float | None, during: float | None) -> float | None:
    """Divide, where both are known."""
    return None if not before or during is None else during / before


def measure(
    engine: Engine, fault: str, severity: FaultSeverity, quiet: Window, seconds: float
) -> tuple[Found, Window]:
    """Make one fault; give its effect and the quiet window after it."""
    intensity = load(fault).levels.of(severity)
    target = Target(pids=engine.pids, url=engine.base_url)
    try:
        with injected(fault, severity=severity, seconds=seconds + SPARE_SECONDS, target=target):
            time.sleep(SETTLE_SECONDS)
            hit = engine.watch(seconds)
    except (InjectionError, Refused) as err:
        note = str(err)
        return Found(fault=fault, severity=severity, intensity=intensity, note=note), quiet
    time.sleep(SETTLE_SECONDS)
    after = engine.watch(seconds)
    quiet_twice = together(quiet, after)
    found = Found(
        fault=fault,
        severity=severity,
        intensity=intensity,
        iteration_ratio=iteration_ratio(quiet_twice, hit),
        tokens_ratio=ratio(quiet_twice.tokens_per_second, hit.tokens_per_second),
        p99_ratio=ratio(quiet_twice.p99_ms, hit.p99_ms),
        recovery_ratio=iteration_ratio(quiet, after),
        quiet_others_ratio=quiet_twice.host.get("others_cpu_ratio"),
        host={
            name: round(value - quiet_twice.host[name], 4)
            for name, value in hit.host.items()
            if name in quiet_twice.host
        },
    )
    return found, after


def measure_all(
    engine: Engine, wanted: Iterable[tuple[str, FaultSeverity]], seconds: float
) -> Iterator[Found]:
    """Make each fault at each severity; what ends one is the quiet window before the next."""
    time.sleep(WARM_UP_SECONDS)
    quiet = engine.watch(seconds)
    for fault, severity in wanted:
        found, quiet = measure(engine, fault, severity, quiet, seconds)
        yield found


@contextmanager
def loaded(base_url: str, workload: str, seconds: float) -> Iterator[None]:
    """Keep clients busy inside the block."""
    process = multiprocessing.get_context("spawn").Process(
        target=_send, args=(base_url, workload, seconds)
    )
    process.start()
    try:
        yield
    finally:
        process.terminate()
        process.join()


def _send(base_url: str, workload: str, seconds: float) -> None:
    asyncio.run(run_load(base_url, build(workload, duration_seconds=seconds), seed=1))


@contextmanager
def engine_of(given: argparse.Namespace) -> Iterator[Engine]:
    """Start a replica, or take the engine that is named."""
    if given.url is not None:
        yield Served(given.url.rstrip("/"), given.pid)
        return
    with tempfile.TemporaryDirectory(prefix="latencyprism-") as folder:
        truth = Path(folder) / "truth.csv"
        with ReplicaProcess(truth=truth, work_ratio=given.work_ratio) as replica:
            yield Replica(replica, truth)


def split_by_obstacles(
    faults: Sequence[str], target: Target
) -> tuple[list[str], dict[str, list[str]]]:
    """Tell what can be made here, and what stands against the rest."""
    machine = Machine()
    against = {name: load(name).obstacles(target, machine) for name in faults}
    return [name for name in faults if not against[name]], {
        name: reasons for name, reasons in against.items() if reasons
    }


def show(console: Console, found: Sequence[Found], against: Mapping[str, Sequence[str]]) -> None:
    """Print the tables."""
    table = Table("fault", "severity", "intensity", title="effect of real faults on the engine")
    for heading in ("iteration", "tokens/s", "p99", "afterwards", "others' CPU"):
        table.add_column(heading, justify="right")
    for one in found:
        numbers = (
            *(one.iteration_ratio, one.tokens_ratio, one.p99_ratio),
            *(one.recovery_ratio, one.quiet_others_ratio),
        )
        shown = ["-" if number is None else f"{number:.2f}" for number in numbers]
        unit = load(one.fault).unit
        table.add_row(one.fault, one.severity, f"{one.intensity:g} {unit}", *shown)
    console.print(table)
    console.print(
        "others' CPU: share of the host that was theirs in the quiet windows", style="dim"
    )
    for one in found:
        if one.note:
            console.print(f"{one.fault} {one.severity}: {one.note}")
    for name, reasons in against.items():
        console.print(f"not here: {name}: {'; '.join(reasons)}", style="dim")


def as_json(found: Sequence[Found], against: Mapping[str, Sequence[str]]) -> str:
    """Give all of it to a program."""
    rows = [asdict(one) | {"host": dict(one.host)} for one in found]
    return json.dumps({"effects": rows, "not_here": dict(against)}, indent=2)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.effects",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--faults", default=",".join(available()), help="names with commas")
    parser.add_argument("--severities", default=",".join(SEVERITIES), help="%(default)s")
    parser.add_argument("--seconds", type=float, default=8.0, help="a window (%(default)s)")
    parser.add_argument("--rounds", type=int, default=1, help="%(default)s; more against noise")
    parser.add_argument("--workload", default="steady", help="%(default)s")
    parser.add_argument("--work-ratio", type=float, default=1.0, help="replica's (%(default)s)")
    parser.add_argument("--url", help="measure this engine instead of a replica")
    parser.add_argument("--pid", type=int, nargs="+", help="its processes, the core first")
    parser.add_argument("--json", type=Path, help="write all numbers, counters too, to this file")
    given = parser.parse_args(arguments)
    given.faults = [name for name in given.faults.split(",") if name]
    given.severities = [name for name in given.severities.split(",") if name]
    for name in {*given.faults} - {*available()}:
        parser.error(f"no fault {name!r}: choose among {', '.join(available())}")
    for name in {*given.severities} - {*SEVERITIES}:
        parser.error(f"no severity {name!r}: choose among {', '.join(SEVERITIES)}")
    if given.url is not None and not given.pid:
        parser.error("--url needs --pid: give the engine's processes, the core first")
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, and print; what was found until it is stopped, too."""
    given = parse(arguments)
    console = Console(width=120)
    # Or the engine and its clients would outlive us.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    found: list[Found] = []
    against: dict[str, list[str]] = {}
    try:
        with engine_of(given) as engine:
            target = Target(pids=engine.pids, url=engine.base_url)
            faults, against = split_by_obstacles(given.faults, target)
            wanted = list(product(faults, given.severities)) * given.rounds
            most_seconds = (len(wanted) + 1) * 2 * (given.seconds + SPARE_SECONDS)
            with loaded(engine.base_url, given.workload, most_seconds):
                for one in measure_all(engine, wanted, given.seconds):
                    found.append(one)
                    progress = f"{len(found)}/{len(wanted)} {one.fault} {one.severity}"
                    console.print(progress, style="dim")
    except KeyboardInterrupt:
        console.print("stopped: this is what was found so far")
    found = median_of_rounds(found)
    show(console, found, against)
    if given.json is not None:
        given.json.write_text(as_json(found, against), encoding="utf-8")
    return 1 if any(one.note for one in found) else 0


if __name__ == "__main__":
    sys.exit(main())
