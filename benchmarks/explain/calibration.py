"""How often answers are right, by what they rest on: where confidence comes from."""

from __future__ import annotations

import os
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from benchmarks.gym.simulated import SEED, Job, jobs_of
from models.causes.confidence import MOST, STEPS, TABLE, Basis
from schemas.records import Alert, Fault
from simulator.fleet import presets
from simulator.fleet.fleet import Fleet
from streams.offline import Offline

# After a fault, this long an alert may still be about it.
GRACE_NS = 2_000_000_000
# A cell with few answers leans on all of its basis with the weight of so many.
LEAN = 4.0

Cell = tuple[Basis, int]


@dataclass(frozen=True, slots=True)
class Answer:
    """One alert that named a cause while a fault was at work."""

    basis: Basis
    margin: float
    right: bool


def play(names: Sequence[str]) -> Iterator[Answer]:
    """Simulate the gym's faults and give all answers, firing and updated."""
    jobs = list(jobs_of(names, 1))
    with ProcessPoolExecutor(min(os.cpu_count() or 1, len(jobs))) as pool:
        for found in pool.map(answers_of, jobs):
            yield from found


def answers_of(job: Job) -> list[Answer]:
    """Simulate one engine; give what its alerts answered."""
    fleet = Fleet(
        [replace(presets.load(job.preset), engines_per_host=1)],
        job.episodes,
        seed=SEED + 1000 * presets.available().index(job.preset) + job.number,
        host_prefix=f"{job.preset}-{job.number}-",
    )
    offline, faults = Offline(), list[Fault]()
    found: list[Answer] = []
    for record in fleet.records(job.seconds):
        if isinstance(record, Fault):
            faults.append(record)
            continue
        for result in offline.feed(record):
            if isinstance(result, Alert) and result.state != "resolved":
                told = offline.analyses[result.engine_id].attribution
                causes = _causes_at(faults, result.batch_end_ns)
                if told is not None and told.cause == result.cause and causes:
                    found.append(Answer(told.basis, told.margin, told.cause in causes))
    return found


def fit(answers: Iterable[Answer]) -> tuple[dict[Basis, tuple[float, ...]], dict[Cell, list[int]]]:
    """Give the share of right answers by basis and margin, never falling with the margin.

    Also give how many there were, and how many right, in each cell.
    """
    counts: dict[Cell, list[int]] = {}
    for answer in answers:
        cell = (answer.basis, bisect_right(STEPS, answer.margin) - 1)
        seen = counts.setdefault(cell, [0, 0])
        seen[0] += 1
        seen[1] += answer.right
    table: dict[Basis, tuple[float, ...]] = {}
    for basis in TABLE:
        if basis == "none":
            # An answer that says nothing is never right.
            table[basis] = (0.0,) * len(STEPS)
            continue
        rows = [counts.get((basis, step), [0, 0]) for step in range(len(STEPS))]
        total, right = (sum(row[place] for row in rows) for place in (0, 1))
        usual = (right + 1) / (total + 2) if total else 0.0
        shares = [((ok + LEAN * usual) / (n + LEAN), n + LEAN) for n, ok in rows]
        table[basis] = tuple(round(min(share, MOST), 2) for share in _rising(shares))
    return table, counts


def _rising(shares: list[tuple[float, float]]) -> list[float]:
    """Pool neighbours that fall until nothing does."""
    pools: list[list[float]] = []
    for share, weight in shares:
        pools.append([share, weight, 1])
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            last, before = pools.pop(), pools.pop()
            both = before[1] + last[1]
            mean = (before[0] * before[1] + last[0] * last[1]) / both
            pools.append([mean, both, before[2] + last[2]])
    return [share for share, _, count in pools for _ in range(int(count))]


def _causes_at(faults: list[Fault], at_ns: int) -> set[str]:
    """Give the right answers of the faults that are at work, or were just now."""
    last: dict[str, Fault] = {one.fault_id: one for one in faults if one.kind == "fault"}
    told = Counter(
        cause
        for one in last.values()
        if one.end_ns is None or at_ns <= one.end_ns + GRACE_NS
        for cause in one.causes
    )
    return set(told)
