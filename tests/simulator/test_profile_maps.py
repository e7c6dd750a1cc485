"""The map of each engine, tried on the profiles of its versions under each Python at hand.

What the agent counts and reads from outside is compared with what the profile says it did.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
from bisect import bisect_left
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import pytest

from collectors.clock import CounterClock, unpack
from collectors.discovery import Scanner
from collectors.engines import base
from collectors.stacks import NotServing, attach
from schemas.records import Iteration, Role
from simulator.profiles.__main__ import load
from simulator.profiles.process import ProfileProcess, available, interpreters
from simulator.replica.truth import TruthIteration

pytestmark = pytest.mark.process

PROFILES = Path(base.__file__).parents[2] / "simulator" / "profiles"
NO_PYTHON = {"llama_cpp"}
# Older ones are told apart by their profiles' tests; the sampler reads none of them.
OLDEST_READABLE_MINOR = 11
WATCHED_SECONDS = 1.5
PERIOD_MS = 15.0

# An overlapped engine launches its first two batches within less than a poll period; the batch of
# such an iteration can be lost, though not its count.
SHORTEST_READABLE_NS = 3_000_000

COUNTED_RATIO = 0.999
EXACT_RATIO = 0.98

PYTHONS_FOLDER = os.environ.get("LATENCYPRISM_PYTHONS")
PYTHONS = interpreters(Path(PYTHONS_FOLDER) if PYTHONS_FOLDER else None)
VERSIONS = [v for v in PYTHONS if int(v.partition(".")[2]) >= OLDEST_READABLE_MINOR]
CASES = [(name, v) for name in available() if name not in NO_PYTHON for v in VERSIONS]


def framework(name: str) -> base.Framework:
    """Give the framework that a profile belongs to; an in-house one brings its own map."""
    own = PROFILES / name / f"{load(name).framework}.toml"
    return base.load_file(own) if own.exists() else base.load(load(name).framework)


@dataclass
class Watched:
    """What was seen of one process, on the monotonic clock."""

    iterations: list[Iteration]
    stats: dict[str, int]


def watch(pid: int, families: list[base.Family], seconds: float) -> Watched:
    """Read a process with the first family whose functions run in it."""
    for family in families:
        try:
            sampler = attach(pid, family.spec, poll_hz=1000, stack_hz=50, realtime=True)
        except NotServing:
            continue
        try:
            return Watched(_read(sampler, family, seconds), sampler.stats())
        finally:
            sampler.stop()
    raise AssertionError(f"no family fits: {', '.join(family.name for family in families)}")


def _read(sampler: Any, family: base.Family, seconds: float) -> list[Iteration]:
    spec = family.spec
    names = [one["name"] for one in (*spec.get("batch", {}).get("fields", ()), *spec["gauges"])]
    clock = CounterClock(
        engine_id="profile",
        process_start_ns=0,
        fields=tuple(names),
        phases=tuple(one["phase"] for one in spec["phases"]),
        read_workload=family.workload,
        is_dummy=family.is_dummy,
        epoch_offset_ns=lambda: 0,
    )
    seen: list[Iteration] = []
    deadline_seconds = time.monotonic() + seconds
    while time.monotonic() < deadline_seconds:
        seen.extend(clock.feed(unpack(sampler.poll(0.05))))
    return seen


def is_readable(row: TruthIteration) -> bool:
    return row.duration_ns >= SHORTEST_READABLE_NS


def rows_of(seen: list[Iteration], truth: list[TruthIteration]) -> tuple[list[TruthIteration], int]:
    """Pair what was seen with the truth.

    A counter is counted on from where it agrees best with the times, because iterations may be
    shorter than the error of a time; calls are paired by their times. Also gives by how much the
    count differs from the truth between the first and the last iteration.
    """
    begins = [row.begin_monotonic_ns for row in truth]
    ordinals, nearest, ordinal = [], [], 0
    for one in seen:
        ordinal += 1 + one.missed
        ordinals.append(ordinal)
        after = min(bisect_left(begins, one.begin_ns), len(begins) - 1)
        around = range(max(after - 1, 0), after + 1)
        nearest.append(min(around, key=lambda i: abs(begins[i] - one.begin_ns)))
    shifts = [row - counted for row, counted in zip(nearest, ordinals, strict=True)]
    shift = statistics.mode(shifts)
    # Next to a short one, the nearest may be its neighbour.
    sure = [s for s, row in zip(shifts, nearest, strict=True) if is_readable(truth[row])]
    drift = sure[-1] - sure[0]
    if seen[0].source != "counter":
        return [truth[row] for row in nearest], drift
    return [truth[shift + counted] for counted in ordinals], drift


def agrees(one: Iteration, row: TruthIteration) -> bool:
    """Say whether at least one number of the batch is known and every known one is right."""
    known = {
        name: getattr(one.workload, name)
        for name in (field.name for field in fields(TruthIteration))
        if getattr(one.workload, name, None) is not None
    }
    return bool(known) and all(value == getattr(row, name) for name, value in known.items())


def check(watched: Watched, truth: list[TruthIteration]) -> None:
    seen = watched.iterations
    assert len(seen) > 20, watched.stats
    if seen[0].source != "counter":
        # A turn of the loop without a batch is counted by the engine, but calls nothing.
        truth = [row for row in truth if row.requests]
        # A stall of this machine hides calls; the record's uncertainty says that it may have.
        stalls = sum(2 * one.uncertainty_ns // int(PERIOD_MS * 1e6) for one in seen)
    else:
        stalls = 0
    sequences = [one.sequence for one in seen]
    assert all(after > before for before, after in itertools.pairwise(sequences))
    rows, drift = rows_of(seen, truth)
    assert abs(drift) <= (1 - COUNTED_RATIO) * len(seen) + stalls, watched.stats
    readable = [(one, row) for one, row in zip(seen, rows, strict=True) if is_readable(row)]
    wrong = [(one.workload, row) for one, row in readable if not agrees(one, row)]
    assert len(wrong) <= (1 - EXACT_RATIO) * len(readable), (wrong, len(readable), watched.stats)


def finish(running: ProfileProcess) -> None:
    """Let the batch that was seen last end, so that the truth has it, and stop."""
    time.sleep(10 * PERIOD_MS / 1000)
    running.stop()


@pytest.fixture(autouse=True)
def _native() -> None:
    pytest.importorskip("latencyprism_native", reason="no native sampler: make native")


@pytest.mark.parametrize(("name", "version"), CASES)
def test_the_map_counts_and_reads_the_core(name: str, version: str, tmp_path: Path) -> None:
    families = framework(name).families("engine_core")
    with ProfileProcess(
        name,
        python=PYTHONS[version],
        truth=tmp_path / "truth.csv",
        period_ms=PERIOD_MS,
    ) as running:
        watched = watch(running.core_pid, families, WATCHED_SECONDS)
        finish(running)
        check(watched, running.read_truth())


@pytest.mark.parametrize(
    ("name", "role"),
    [("vllm_workers", "worker"), ("sglang_0_5_5", "engine_core"), ("sglang_0_5_23", "engine_core")],
)
@pytest.mark.parametrize("version", VERSIONS)
def test_the_map_counts_and_reads_another_rank(
    name: str, role: Role, version: str, tmp_path: Path
) -> None:
    families = framework(name).families(role)
    with ProfileProcess(
        name,
        python=PYTHONS[version],
        truth=tmp_path / "truth.csv",
        period_ms=PERIOD_MS,
    ) as running:
        watched = watch(running.rank_pids[0], families, WATCHED_SECONDS)
        finish(running)
        check(watched, running.read_truth())


@pytest.mark.parametrize("name", available())
def test_the_map_finds_the_processes(name: str) -> None:
    with ProfileProcess(name, period_ms=PERIOD_MS) as running:
        engines = base.find_engines(Scanner().scan(), [framework(name)])
        mine = [engine for engine in engines if engine.core.pid == running.core_pid]
        assert len(mine) == 1
        ranks = {rank.process.pid for rank in mine[0].ranks}
        assert ranks == set(running.rank_pids)
        if load(name).metrics:
            assert mine[0].port == running.port
            assert mine[0].model in ("tiny", "tiny.gguf")
