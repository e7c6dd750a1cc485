"""Core theft: the engine is left a few CPUs, and others run on them, too."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from simulator.faults.topology import allowed_cpus
from simulator.fleet.effect import Effect, add
from simulator.injection.base import Injector, Levels, Machine, Needs, Target, processes_for
from simulator.injection.steps import Pin, Step, Work

# Share of its CPUs that the engine is left with.
LEFT_RATIO = 0.5


class CoreTheft(Injector):
    """Pin the engine onto half of its CPUs, and so many busy processes to each of those."""

    summary = "the engine is pinned onto half of its CPUs together with busy processes"
    touches = (
        "pins the engine's threads; takes CPU time from who else runs there; 512 processes at most"
    )
    causes = ("run_queue_delay", "host_cpu_contention")
    unit = "busy processes on each CPU that the engine is left with"
    levels = Levels(light=1, medium=2, heavy=4)
    limits = (0.01, 16)
    needs = Needs(target=True)

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Pin the engine, then start the thieves."""
        cpus = allowed_cpus(target.pids, machine)
        left = cpus[: max(1, int(len(cpus) * LEFT_RATIO))]
        pins = [Pin(pid=pid, cpus=left) for pid in target.pids]
        count = processes_for(intensity, len(left))
        return [*pins, Work(fault="core_theft", count=count, options={"cpus": list(left)})]

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Count on the CPUs of the engine."""
        os.sched_setaffinity(0, options["cpus"])
        while running():
            sum(range(200_000))

    def effect(self, intensity: float) -> Effect:
        """Share each CPU fairly; it is less on a machine that is busy already."""
        return Effect(
            host_ratio=1 + intensity,
            host={
                "engine_run_queue_wait_ratio": add(intensity),
                "others_cpu_ratio": add(LEFT_RATIO * intensity / (1 + intensity)),
                "cpu_busy_ratio": add(LEFT_RATIO * intensity / (1 + intensity)),
                "cpu_user_ratio": add(LEFT_RATIO * intensity / (1 + intensity)),
                "cpu_pressure_ratio": add(min(0.9, 0.5 * intensity)),
            },
        )
