"""The simulated part: engines that exist only as their records, straight into the analysis."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace

from schemas.records import Alert, Batch, Engine, Fault, Record
from simulator import controls, faults
from simulator.fleet import presets
from simulator.fleet.episodes import SEVERITIES, Episode
from simulator.fleet.fleet import simulate
from simulator.fleet.setting import Setting
from streams.offline import Offline

SEED = 20_261_120
# A judge is at its best after 2,000 batches; a preset makes some 25 a second.
WARM_SECONDS = 90.0
FAULT_SECONDS = 12.0
CONTROL_SECONDS = 60.0
# Long enough for an incident to end.
REST_SECONDS = 15.0


def play(names: Sequence[str], engines: int) -> Iterator[Record]:
    """Simulate, analyse, and give the truth with what was said of it.

    Each engine has a host of its own, and meets every fault in every severity and every control,
    in an order of its own. Processes share the engines; each simulates all and analyses its own.

    Args:
        names: Faults and controls.

        engines: How many of each preset.
    """
    settings = settings_of(engines)
    episodes, seconds = schedule(names, len(settings))
    parts = min(os.cpu_count() or 1, len(settings))
    with ProcessPoolExecutor(parts) as pool:
        jobs = [
            pool.submit(_analyse, settings, episodes, seconds, part, parts) for part in range(parts)
        ]
        for job in jobs:
            yield from job.result()


def settings_of(engines: int) -> list[Setting]:
    """Give so many engines of each preset, one to a host."""
    return [
        replace(presets.load(name), engines_per_host=1)
        for name in presets.available()
        for _ in range(engines)
    ]


def schedule(names: Sequence[str], engines: int) -> tuple[list[Episode], float]:
    """Let each engine meet everything once, in an order of its own; give the length, too."""
    cases = [
        (name, severity)
        for name in names
        for severity in (SEVERITIES if name in faults.available() else (None,))
        if name in faults.available() or name in controls.available()
    ]
    episodes: list[Episode] = []
    longest = 0.0
    for engine in range(engines):
        order = list(cases)
        random.Random(f"{SEED}/{engine}").shuffle(order)
        at = WARM_SECONDS
        for name, severity in order:
            length = CONTROL_SECONDS if severity is None else FAULT_SECONDS
            episodes.append(
                Episode(
                    name=name,
                    severity=severity,
                    begin_seconds=at,
                    end_seconds=at + length,
                    engines=(engine,),
                )
            )
            at += length + REST_SECONDS
        longest = max(longest, at)
    return episodes, longest


def _analyse(
    settings: list[Setting], episodes: list[Episode], seconds: float, part: int, parts: int
) -> list[Record]:
    """Analyse our share of the engines; the first process also gives the truth."""
    ours: set[str] = set()
    others: set[str] = set()
    offline = Offline()
    found: list[Record] = []
    newest_ns = 0
    for record in simulate(settings, episodes, seconds=seconds, seed=SEED):
        if isinstance(record, Fault):
            if part == 0:
                found.append(record)
            continue
        engine_id = str(getattr(record, "engine_id"))  # noqa: B009 - every other record has one
        if engine_id not in ours and engine_id not in others:
            mine = (len(ours) + len(others)) % parts == part
            (ours if mine else others).add(engine_id)
        if engine_id in others:
            continue
        if isinstance(record, Engine):
            found.append(record)
            newest_ns = max(newest_ns, record.at_ns)
        found.extend(_slim(result) for result in offline.feed(record))
    found.extend(offline.tick(newest_ns))
    return found


def _slim(result: Batch | Alert) -> Batch | Alert:
    """Leave out what is not scored: there are many."""
    if isinstance(result, Alert):
        return result
    return replace(result, phases=(), counters={}, terms_ns={}, reason=None)
