"""SMT noise: busy processes on the sibling threads of the cores where the engine runs."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from simulator.faults.topology import allowed_cpus, cores
from simulator.fleet.effect import Effect, add
from simulator.injection.base import Injector, Levels, Machine, Needs, Target, processes_for
from simulator.injection.steps import Pin, Step, Work


class SmtNoise(Injector):
    """Keep the engine on the first thread of each core, and arithmetic on the others.

    The engine has a CPU of its own all the time, and shares the core's units and caches: it runs
    slower although nothing waits. An engine that is pinned to less than whole cores stays so.
    """

    summary = "vector arithmetic on the SMT siblings of the engine's CPUs"
    touches = "pins the engine's threads to one thread per core; slows who runs on these cores"
    causes = ("host_cpu_contention",)
    unit = "share of the engine's cores whose sibling is busy"
    levels = Levels(light=0.25, medium=0.5, heavy=1.0)
    limits = (0.01, 1.0)
    needs = Needs(modules=("numpy",), target=True)

    def obstacles(self, target: Target, machine: Machine) -> list[str]:
        """Say so where the cores run one thread each."""
        found = super().obstacles(target, machine)
        if not found and not _siblings(target, machine)[1]:
            found.append(
                "the engine's cores run one thread each: run it on a machine with SMT "
                "(hyper-threading) switched on"
            )
        return found

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Pin the engine, and one process to each of so many siblings."""
        engine_cpus, siblings = _siblings(target, machine)
        noisy = siblings[: processes_for(intensity, len(siblings))]
        pins = [Pin(pid=pid, cpus=engine_cpus) for pid in target.pids]
        if not noisy:
            return [*pins]
        return [*pins, Work(fault="smt_noise", count=len(noisy), options={"cpus": list(noisy)})]

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Multiply small matrices on the siblings."""
        import numpy as np

        os.sched_setaffinity(0, options["cpus"])
        matrix = np.random.default_rng(0).random((64, 64), dtype=np.float32)
        product = np.empty_like(matrix)
        while running():
            for _ in range(500):
                np.matmul(matrix, matrix, out=product)

    def effect(self, intensity: float) -> Effect:
        """Suppose that a thread beside a busy one runs at 60 % of its speed; not measured here."""
        return Effect(
            host_ratio=1 + 0.65 * intensity,
            host={
                "others_cpu_ratio": add(0.5 * intensity),
                "cpu_busy_ratio": add(0.5 * intensity),
                "cpu_user_ratio": add(0.5 * intensity),
            },
        )


def _siblings(target: Target, machine: Machine) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Give the engine one CPU per core, and the other CPUs of these cores to the noise."""
    allowed = set(allowed_cpus(target.pids, machine))
    first = {core: next(cpu for cpu in core if cpu in allowed) for core in cores(allowed, machine)}
    others = [cpu for core, own in first.items() for cpu in core if cpu != own]
    return tuple(sorted(first.values())), tuple(sorted(set(others) & set(machine.cpus)))
