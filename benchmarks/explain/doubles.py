"""Two simulated faults at once: are both listed?"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import combinations

from benchmarks.gym.simulated import FAULT_SECONDS, REST_SECONDS, WARM_SECONDS, Job, analyse
from schemas.records import FaultSeverity
from simulator import faults
from simulator.fleet.episodes import Episode
from simulator.score.match import Outcome, match
from simulator.score.options import Options

SEVERITY: FaultSeverity = "medium"
ENGINES = 2
# One for each cause that slows batches of this kind of engine by 1.05 or more, at medium severity.
MATERIAL: dict[str, tuple[str, ...]] = {
    "a100_vllm": (
        "accelerator_clock_lock",
        "accelerator_gemm",
        "fabric_copies",
        "pcie_squeeze",
        "core_theft",
        "cpu_quota",
        "engine_swap",
        "gil_hog",
        "network_delay",
        "replica_clock",
    ),
    "cpu_replica": (
        "cpu_squeeze",
        "cpu_frequency",
        "cpu_quota",
        "fsync_storm",
        "swap_thrash",
        "gil_hog",
        "network_delay",
        "numa_misplacement",
        "slow_worker",
    ),
    "sglang_tp4": (
        "accelerator_clock_lock",
        "accelerator_gemm",
        "fabric_copies",
        "pcie_squeeze",
        "core_theft",
        "cpu_quota",
        "engine_swap",
        "gil_hog",
        "network_delay",
    ),
}


@dataclass(frozen=True, slots=True)
class Double:
    """Two faults at once on one engine.

    Attributes:
        listed: Whether each is among the causes told.
    """

    preset: str
    names: tuple[str, str]
    found: bool
    told: tuple[str, ...]
    listed: tuple[bool, bool]


def play(presets: Sequence[str]) -> Iterator[Double]:
    """Make all pairs whose right answers differ."""
    jobs = [job for preset in presets for job in _jobs(preset)]
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(jobs))) as pool:
        for found in pool.map(_judged, jobs):
            yield from found


def pairs_of(preset: str) -> list[tuple[str, str]]:
    """List the pairs of faults whose right answers differ."""
    return [
        (one, other)
        for one, other in combinations(MATERIAL[preset], 2)
        if not set(faults.load(one).causes) & set(faults.load(other).causes)
    ]


def _jobs(preset: str) -> Iterator[Job]:
    pairs = pairs_of(preset)
    for engine in range(ENGINES):
        at = WARM_SECONDS
        episodes: list[Episode] = []
        for names in pairs[engine::ENGINES]:
            begin = at + 0.4
            episodes += [
                Episode(
                    name=name,
                    severity=SEVERITY,
                    begin_seconds=begin,
                    end_seconds=begin + FAULT_SECONDS,
                )
                for name in names
            ]
            at += FAULT_SECONDS + REST_SECONDS
        yield Job(preset=preset, number=100 + engine, episodes=tuple(episodes), seconds=at)


def _judged(job: Job) -> list[Double]:
    outcomes = match(analyse(job), Options()).outcomes
    by_begin: dict[int, list[Outcome]] = {}
    for one in outcomes:
        by_begin.setdefault(one.begin_ns, []).append(one)
    return [_double(job.preset, found) for found in by_begin.values()]


def _double(preset: str, outcomes: list[Outcome]) -> Double:
    first, second = sorted(outcomes, key=lambda one: one.fault.name)
    incident = first.incident
    told = () if incident is None else incident.causes
    right = [bool(set(one.fault.causes) & set(told)) for one in (first, second)]
    return Double(
        preset=preset,
        names=(first.fault.name, second.fault.name),
        found=incident is not None,
        told=told,
        listed=(right[0], right[1]),
    )
