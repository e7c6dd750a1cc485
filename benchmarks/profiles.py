"""How exactly every map reads its engine: the profile of each version under each CPython.

The iterations that the sampler counts and times from outside are held against what the profile
itself wrote down. A row of the table is one profile under one Python. Iterations below a
millisecond, as an engine that overlaps them has where it falls idle, are shorter than the sampler
looks for: they are counted, and told apart from those that are timed. Takes five minutes; nothing
else should be busy. Python 3.14 is found where ``make pythons`` or LATENCYPRISM_PYTHONS put it.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from benchmarks.agent import percentile
from collectors.stacks import HOW_TO_GET_IT, native_version
from simulator.profiles.process import ProfileProcess, available

# The comparison is that of the tests; only a path makes sure that 'tests' is ours.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from tests.pythons.interpreters import Interpreter
from tests.simulator.watched_profile import (
    NO_PYTHON,
    POLL_HZ,
    STACK_HZ,
    Comparison,
    Watched,
    agrees,
    compare,
    framework,
    pythons,
    watch,
)

TIMED_FROM_NS = 1_000_000
COUNTED_RATIO = 0.999
TIMED_RATIO = 0.98
EQUAL_RATIO = 0.98
ERROR_P99_MS = 1.5


@dataclass(frozen=True)
class Result:
    """What one profile under one Python has shown; errors are in milliseconds."""

    profile: str
    version: str
    rung: str
    iterations: int
    short: int
    counted_ratio: float
    timed_ratio: float
    equal_ratio: float
    begin_errors_ms: list[float]
    duration_errors_ms: list[float]
    reader_cpu_ratio: float

    @property
    def misses(self) -> list[str]:
        """The bounds that it does not keep."""
        kept = {
            "counted": abs(1 - self.counted_ratio) <= 1 - COUNTED_RATIO,
            "timed": self.timed_ratio >= TIMED_RATIO,
            "equal": self.equal_ratio >= EQUAL_RATIO,
            "begin": percentile(self.begin_errors_ms, 0.99) <= ERROR_P99_MS,
            "duration": percentile(self.duration_errors_ms, 0.99) <= ERROR_P99_MS,
        }
        return [name for name, is_kept in kept.items() if not is_kept]

    def cells(self) -> list[str]:
        """Give the row of the table."""
        errors = (self.begin_errors_ms, self.duration_errors_ms)
        return [
            self.profile,
            self.version,
            self.rung,
            str(self.iterations),
            str(self.short),
            f"{100 * self.counted_ratio:.2f}",
            f"{100 * self.timed_ratio:.2f}",
            f"{100 * self.equal_ratio:.2f}",
            *(f"{percentile(one, ratio):.2f}" for one in errors for ratio in (0.5, 0.99)),
            f"{100 * self.reader_cpu_ratio:.2f}",
            ", ".join(self.misses) or "-",
        ]


def measure(name: str, version: str, python: Interpreter, given: argparse.Namespace) -> Result:
    """Run a profile, watch it, and compare."""
    with tempfile.TemporaryDirectory() as folder:
        with ProfileProcess(
            name,
            python=(python.command,),
            environment=python.environment,
            truth=Path(folder) / "truth.csv",
            period_ms=given.period_ms,
        ) as running:
            families = framework(name).families("engine_core")
            watched = watch(running.core_pid, families, given.seconds)
            # The truth has the batch that was seen last once that has ended.
            time.sleep(10 * given.period_ms / 1000)
            running.stop()
        truth = running.read_truth()
    return judge(name, version, watched, compare(watched.iterations, truth))


def judge(name: str, version: str, watched: Watched, found: Comparison) -> Result:
    """Turn pairs into ratios and errors."""
    long = [row for row in found.rows if row.duration_ns >= TIMED_FROM_NS]
    timed = [row for row in found.timed if row.duration_ns >= TIMED_FROM_NS]
    pairs = [(one, row) for one, row in found.pairs if row.duration_ns >= TIMED_FROM_NS]
    begins_ns = [one.begin_ns - row.begin_monotonic_ns for one, row in pairs]
    durations_ns = [
        one.end_ns - one.begin_ns - row.duration_ns for one, row in pairs if one.end_ns is not None
    ]
    return Result(
        profile=name,
        version=version,
        rung=watched.iterations[0].source,
        iterations=len(found.rows),
        short=len(found.rows) - len(long),
        counted_ratio=found.counted / len(found.rows),
        timed_ratio=len(timed) / len(long),
        equal_ratio=sum(agrees(one, row) for one, row in pairs) / len(pairs),
        begin_errors_ms=[abs(error_ns) / 1e6 for error_ns in begins_ns],
        duration_errors_ms=[abs(error_ns) / 1e6 for error_ns in durations_ns],
        reader_cpu_ratio=watched.reader_cpu_ratio,
    )


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("profiles", nargs="*", help="which profiles (all that run Python)")
    parser.add_argument("--seconds", type=float, default=5.0, help="per row (%(default)s)")
    parser.add_argument(
        "--period-ms", type=float, default=15.0, help="of a decode batch (%(default)s)"
    )
    given = parser.parse_args(arguments)
    readable = [name for name in available() if name not in NO_PYTHON]
    if wrong := set(given.profiles) - set(readable):
        parser.error(f"unknown profile {', '.join(sorted(wrong))}: take {', '.join(readable)}")
    given.profiles = given.profiles or readable
    return given


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure every profile under every Python and print the table."""
    given = parse(arguments)
    console = Console()
    if native_version() is None:
        console.print(f"There is nothing to measure without the native sampler: {HOW_TO_GET_IT}.")
        return 2
    table = Table(
        "profile", "Python", "rung", "iterations", "< 1 ms", "counted %", "timed singly %",
        "workload equal %", "begin error p50 ms", "p99 ms", "duration error p50 ms", "p99 ms",
        "reader CPU % of a core", "out of bounds",
        title=f"Every profile at {POLL_HZ} reads/s, {STACK_HZ} stacks/s, {os.cpu_count()} CPUs, "
        f"{given.seconds:.0f} s each",
    )  # fmt: skip
    missed = 0
    for name in given.profiles:
        for version, python in pythons().items():
            result = measure(name, version, python, given)
            missed += bool(result.misses)
            table.add_row(*result.cells())
    # Wide, because a table that is cut says nothing in a log file.
    (console if console.is_terminal else Console(width=200)).print(table)
    console.print(
        f"{missed} of {table.row_count} out of bounds. Bounds: counted {100 * COUNTED_RATIO:g} %, "
        f"timed {100 * TIMED_RATIO:g} %, workload {100 * EQUAL_RATIO:g} %, "
        f"errors p99 {ERROR_P99_MS} ms.",
        highlight=False,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
