"""The parts of the benchmark, and how they are run beside each other."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from benchmarks.detection import cold, healthy, poisoning, slowdowns, speed, zoo
from benchmarks.detection.report import Report

Play = Callable[[Path, int], Report]

PARTS: dict[str, tuple[Play, ...]] = {
    "healthy": (healthy.play,),
    "slowdowns": (
        partial(slowdowns.play, split="random"),
        partial(slowdowns.play, split="group"),
    ),
    "models": (zoo.play,),
    "poisoning": (poisoning.play,),
    "cold": (cold.play,),
    # Timed, so alone and after the others.
    "speed": (speed.play,),
}
ALONE = "speed"


def reports(
    path: Path, names: Sequence[str], seeds: int, processes: int
) -> Iterator[tuple[str, Report, float]]:
    """Play parts; give the name of each, what it found, and the seconds it took."""
    # A forked process would inherit the locks of threads that it lacks.
    with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
        running = [
            (name, pool.submit(_timed, play, path, seeds))
            for name in names
            if name != ALONE
            for play in PARTS[name]
        ]
        for name, future in running:
            yield (name, *future.result())
    if ALONE in names:
        for play in PARTS[ALONE]:
            yield (ALONE, *_timed(play, path, seeds))


def _timed(play: Play, path: Path, seeds: int) -> tuple[Report, float]:
    begin = time.perf_counter()
    return play(path, seeds), time.perf_counter() - begin
