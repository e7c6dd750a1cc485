"""The simulated part: engines that exist only as their records, straight into the analysis."""

from __future__ import annotations

import math
import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from schemas.records import Engine, Fault, FaultSeverity, Record
from simulator import controls, faults
from simulator.fleet import presets
from simulator.fleet.episodes import SEVERITIES, Episode
from simulator.fleet.fleet import Fleet
from simulator.score import Observed, collect
from streams.offline import Offline

SEED = 20_261_120
# A judge is at its best after 2,000 batches; a preset makes 20 to 90 a second.
WARM_SECONDS = 90.0
FAULT_SECONDS = 12.0
CONTROL_SECONDS = 60.0
# Long enough for an incident to end.
REST_SECONDS = 15.0
# The cases of a preset are dealt out to so many engines.
ENGINES = 4

Case = tuple[str, FaultSeverity | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One engine on a host of its own, and what happens to it."""

    preset: str
    number: int
    episodes: tuple[Episode, ...]
    seconds: float


def play(names: Sequence[str], rounds: int) -> Iterator[Observed]:
    """Simulate and analyse; give what is to be scored, engine by engine.

    Args:
        names: Faults and controls; each preset meets every fault in every severity, and every
            control.

        rounds: How often.
    """
    jobs = list(jobs_of(names, rounds))
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(jobs))) as pool:
        yield from pool.map(analyse, jobs)


def jobs_of(names: Sequence[str], rounds: int) -> Iterator[Job]:
    """Deal the cases of each preset out to its engines, in an order by chance."""
    cases = [case for name in names for case in _cases(name)]
    engines = min(ENGINES, len(cases))
    for preset in presets.available():
        for turn in range(rounds):
            order = list(cases)
            random.Random(f"{SEED}/{preset}/{turn}").shuffle(order)
            for engine in range(engines):
                yield _job(preset, turn * engines + engine, order[engine::engines])


def analyse(job: Job) -> Observed:
    """Simulate one engine, let the analysis see it, and sort out what is to be scored."""
    fleet = Fleet(
        [replace(presets.load(job.preset), engines_per_host=1)],
        job.episodes,
        # Random numbers go by the number of the engine in its fleet.
        seed=SEED + 1000 * presets.available().index(job.preset) + job.number,
        host_prefix=f"{job.preset}-{job.number}-",
    )
    return collect(_judged(fleet, job.seconds))


def _judged(fleet: Fleet, seconds: float) -> Iterator[Record]:
    offline = Offline()
    for record in fleet.records(seconds):
        if isinstance(record, Fault | Engine):
            yield record
        if isinstance(record, Fault):
            continue
        yield from offline.feed(record)
    yield from offline.end()


def _cases(name: str) -> Iterator[Case]:
    if name in faults.available():
        yield from ((name, severity) for severity in SEVERITIES)
    elif name in controls.available():
        yield name, None


def _job(preset: str, number: int, cases: Sequence[Case]) -> Job:
    at = WARM_SECONDS
    episodes = []
    # Agents look on the second; what happens does not.
    chance = random.Random(f"{SEED}/{preset}/{number}")
    for name, severity in cases:
        at = math.ceil(at) + round(chance.random(), 3)
        end = at + (CONTROL_SECONDS if severity is None else FAULT_SECONDS)
        episodes.append(Episode(name=name, severity=severity, begin_seconds=at, end_seconds=end))
        at = end + REST_SECONDS
    return Job(preset=preset, number=number, episodes=tuple(episodes), seconds=at)
