"""Whom running episodes hit: traffic, settings, iterations and counters."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from simulator.fleet.batching import Batching
from simulator.fleet.counters import Shown
from simulator.fleet.draws import Ints
from simulator.fleet.duration import Strain
from simulator.fleet.setting import Setting
from simulator.fleet.truth import Running
from simulator.fleet.windows import WINDOW_NS


def bend_traffic(batching: Batching, running: Sequence[Running], at_ns: int) -> None:
    """Let running episodes change how much arrives and what the cache holds."""
    batching.kv_ratio[:] = batching.arrivals_ratio[:] = 1.0
    for one in running:
        if one.told.effect is not None and one.begin_ns <= at_ns < one.end_ns:
            batching.kv_ratio[one.rows] *= one.told.effect.kv_ratio
            batching.arrivals_ratio[one.rows] *= one.told.effect.arrivals_ratio


def settings_of(
    running: Sequence[Running], base: Sequence[Setting], at_ns: int
) -> dict[int, Setting]:
    """Give what controls make of the settings of the engines that they are at."""
    wanted: dict[int, Setting] = {}
    for one in running:
        control = one.told.control
        if control is None or at_ns < one.begin_ns or at_ns >= one.end_ns + 2 * WINDOW_NS:
            continue
        progress = (at_ns - one.begin_ns) / (one.end_ns - one.begin_ns)
        for row in one.rows.tolist():
            before = wanted[row] if row in wanted else base[row]
            wanted[row] = before if progress >= 1 else control.at(progress, before)
    return wanted


def strains_of(running: Sequence[Running], rows: Ints, begin_ns: Ints) -> list[Strain]:
    """Give what running episodes do to iterations that begin now."""
    strains: list[Strain] = []
    for one in running:
        if one.state != "begun" or one.told.effect is None:
            continue
        is_on = one.hits[rows] & (one.begin_ns <= begin_ns) & (begin_ns < one.end_ns)
        hit = np.flatnonzero(is_on)
        if hit.size:
            strain = Strain(number=one.number, effect=one.told.effect, hit=hit, until_ns=one.end_ns)
            strains.append(strain)
    return strains


def shown_of(
    running: Sequence[Running], rows: list[int], begin_ns: int, end_ns: int
) -> dict[int, list[Shown]]:
    """Give what running episodes do to the counters of a stretch of time, by engine."""
    found: dict[int, list[Shown]] = {}
    for one in running:
        covered = min(one.end_ns, end_ns) - max(one.begin_ns, begin_ns)
        if one.told.effect is None or covered <= 0:
            continue
        shown = Shown(effect=one.told.effect, share=covered / (end_ns - begin_ns))
        for row in set(one.rows.tolist()).intersection(rows):
            found.setdefault(row, []).append(shown)
    return found
