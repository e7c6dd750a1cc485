"""A profile's process as the sampler sees it, held against what the profile wrote down."""

from __future__ import annotations

import itertools
import os
import statistics
import time
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from collectors.clock import CounterClock, unpack
from collectors.engines import base
from collectors.stacks import NotServing, attach
from schemas.records import Iteration
from simulator.profiles.__main__ import load
from simulator.profiles.process import interpreters
from simulator.replica.truth import TruthIteration
from tests.pythons.interpreters import (
    VERSIONS,
    Interpreter,
    PythonUnavailableError,
    of_version,
)

PROFILES = Path(base.__file__).parents[2] / "simulator" / "profiles"
# Their iterations are no Python: there is a metrics page only.
NO_PYTHON = {"llama_cpp"}
POLL_HZ, STACK_HZ = 1000, 50

# An overlapped engine launches its first two batches within less than a poll period; the batch of
# such an iteration can be lost, though not its count.
SHORTEST_READABLE_NS = 3_000_000
# A reader that lost its CPU for so long may have read no batch; the record says that it did.
STALLED_NS = 2_000_000
# Neighbours that tell by how much the numbering of a record and of the truth differ.
NEIGHBOURS = 7


def pythons() -> dict[str, Interpreter]:
    """Give the interpreters that the sampler reads, as far as they can be had here."""
    folder = os.environ.get("LATENCYPRISM_PYTHONS")
    at_hand = interpreters(Path(folder) if folder else None)
    found: dict[str, Interpreter] = {}
    for version in VERSIONS:
        if version in at_hand:
            found[version] = Interpreter(version, at_hand[version][0])
            continue
        try:
            found[version] = of_version(version)
        except PythonUnavailableError:
            continue
    return found


def framework(name: str) -> base.Framework:
    """Give the framework that a profile belongs to; an in-house one brings its own map."""
    own = PROFILES / name / f"{load(name).framework}.toml"
    return base.load_file(own) if own.exists() else base.load(load(name).framework)


@dataclass(frozen=True)
class Watched:
    """What was seen of one process, on the monotonic clock."""

    iterations: list[Iteration]
    stats: dict[str, int]
    seconds: float

    @property
    def reader_cpu_ratio(self) -> float:
        """Share of a core that the sampler's thread took."""
        return self.stats["thread_cpu_ns"] / 1e9 / self.seconds


def watch(pid: int, families: list[base.Family], seconds: float, at_least: int = 0) -> Watched:
    """Read a process for so long with the first family whose functions run in it.

    On a machine that others keep busy it takes up to four times as long, until so many iterations
    were seen.
    """
    for family in families:
        try:
            sampler = attach(pid, family.spec, poll_hz=POLL_HZ, stack_hz=STACK_HZ, realtime=True)
        except NotServing:
            continue
        begun_seconds = time.monotonic()
        try:
            seen = _read(sampler, family, seconds, at_least)
            return Watched(seen, sampler.stats(), time.monotonic() - begun_seconds)
        finally:
            sampler.stop()
    raise AssertionError(f"no family fits: {', '.join(family.name for family in families)}")


def _read(sampler: Any, family: base.Family, seconds: float, at_least: int) -> list[Iteration]:
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
    begun_seconds = time.monotonic()
    deadline_seconds, last_seconds = begun_seconds + seconds, begun_seconds + 4 * seconds
    while (now_seconds := time.monotonic()) < deadline_seconds or (
        len(seen) < at_least and now_seconds < last_seconds
    ):
        seen.extend(clock.feed(unpack(sampler.poll(0.05))))
    return seen


def is_readable(row: TruthIteration) -> bool:
    """Say whether an iteration is long enough for its batch to be read for sure."""
    return row.duration_ns >= SHORTEST_READABLE_NS


@dataclass(frozen=True)
class Comparison:
    """Records and the truth of the same time.

    Attributes:
        pairs: Each record with the row of the truth that it is about.

        rows: The truth from the first record's to the last one's.

        counted: Iterations by the records, those that they count as missed among them.
    """

    pairs: list[tuple[Iteration, TruthIteration]]
    rows: list[TruthIteration]
    counted: int

    @property
    def drift(self) -> int:
        """By how much the count differs from the truth."""
        return self.counted - len(self.rows)

    @property
    def timed(self) -> list[TruthIteration]:
        """The rows that were timed one by one."""
        return list({row.sequence: row for _, row in self.pairs}.values())

    @property
    def readable(self) -> list[tuple[Iteration, TruthIteration]]:
        """The pairs whose batch could be read: no shorter than it takes, by no stalled reader."""
        return [
            (one, row)
            for one, row in self.pairs
            if is_readable(row) and one.uncertainty_ns < STALLED_NS
        ]

    @property
    def wrong(self) -> list[tuple[Iteration, TruthIteration]]:
        """The readable pairs whose workload is unknown or not the true one."""
        return [(one, row) for one, row in self.readable if not agrees(one, row)]


def compare(
    seen: list[Iteration], truth: list[TruthIteration], *, by_sequence: bool = False
) -> Comparison:
    """Pair what was seen with the truth.

    Iterations may be shorter than the error of a time, and a busy machine may take the CPU from the
    engine between its count and its look at the clock. So a record is not paired with the nearest
    row but by its number, once the times of it and its neighbours have told the difference.

    With ``by_sequence`` both have the same numbers, as those of all ranks of an engine do; a rank
    has times of its own.
    """
    if seen[0].source != "counter":
        truth = list(_batches(truth))
    ordinals = list(_ordinals(seen))
    if by_sequence:
        place_of = {row.sequence: place for place, row in enumerate(truth)}
        shifts = [place_of[one.sequence] - o for one, o in zip(seen, ordinals, strict=True)]
    else:
        shifts = _shifts(seen, ordinals, truth)
    first, last = ordinals[0] + shifts[0], ordinals[-1] + shifts[-1]
    if seen[0].source == "counter" and not by_sequence:
        # Numbers of the engine's own: they cannot be off here and right there.
        shifts = [statistics.mode(shifts)] * len(shifts)
    places = [ordinal + shift for ordinal, shift in zip(ordinals, shifts, strict=True)]
    pairs = [
        (one, truth[place])
        for one, place in zip(seen, places, strict=True)
        if 0 <= place < len(truth)
    ]
    return Comparison(pairs, truth[first : last + 1], ordinals[-1] - ordinals[0] + 1)


def _batches(truth: list[TruthIteration]) -> Iterator[TruthIteration]:
    """Leave out the turns without a batch, which the engine counts, but in which it calls nothing.

    An overlapped engine waits in the first of them for the last batch, which runs on until then.
    """
    for row, following in itertools.pairwise([*truth, None]):
        assert row is not None
        if not row.requests:
            continue
        if (
            following is not None
            and not following.requests
            and following.begin_monotonic_ns == row.end_monotonic_ns
        ):
            row = replace(row, end_monotonic_ns=following.end_monotonic_ns)
        yield row


def _ordinals(seen: Sequence[Iteration]) -> Iterator[int]:
    ordinal = 0
    for one in seen:
        ordinal += 1 + one.missed
        yield ordinal


def _shifts(
    seen: Sequence[Iteration], ordinals: Sequence[int], truth: Sequence[TruthIteration]
) -> list[int]:
    """Give for each record what must be added to its number: what most around it agree on."""
    begins = [row.begin_monotonic_ns for row in truth]
    single: list[int | None] = []
    for one, ordinal in zip(seen, ordinals, strict=True):
        after = min(bisect_left(begins, one.begin_ns), len(begins) - 1)
        around = range(max(after - 1, 0), after + 1)
        nearest = min(around, key=lambda place: abs(begins[place] - one.begin_ns))
        # Next to a short one, the nearest may be its neighbour.
        sure = is_readable(truth[nearest]) and one.uncertainty_ns < STALLED_NS
        single.append(nearest - ordinal if sure else None)
    return [_settled(single, place) for place in range(len(single))]


def _settled(single: Sequence[int | None], place: int) -> int:
    """Give the difference of one record: its own if a neighbour shares it, else that of most."""
    mine = single[place]
    if mine is not None and mine in (*single[max(place - 1, 0) : place], *single[place + 1 :][:1]):
        return mine
    around = single[max(place - NEIGHBOURS, 0) : place + NEIGHBOURS + 1]
    known = [shift for shift in around if shift is not None]
    return statistics.mode(known or [shift for shift in single if shift is not None])


def agrees(one: Iteration, row: TruthIteration) -> bool:
    """Say whether at least one number of the batch is known and every known one is right."""
    known = {
        name: getattr(one.workload, name)
        for name in (field.name for field in fields(TruthIteration))
        if getattr(one.workload, name, None) is not None
    }
    drafts = row.scheduled_tokens - row.prefill_tokens - row.decode_requests
    return (
        bool(known)
        and one.workload.speculative_tokens in (None, drafts)
        and all(value == getattr(row, name) for name, value in known.items())
    )
