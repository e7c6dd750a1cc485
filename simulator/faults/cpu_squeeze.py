"""Arithmetic squeeze: vector arithmetic on many CPUs, beside the engine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulator.fleet.effect import Effect, add, times
from simulator.injection.base import Injector, Levels, Machine, Needs, Target, processes_for
from simulator.injection.steps import Step, Work


class CpuSqueeze(Injector):
    """Keep a share of the CPUs busy with matrix products, in AVX where the CPU has it."""

    summary = "vector arithmetic on many CPUs beside the engine"
    touches = "takes CPU time from every process on the host, by up to 512 processes"
    causes = ("host_cpu_contention",)
    unit = "busy processes per CPU"
    levels = Levels(light=0.5, medium=1.0, heavy=2.0)
    limits = (0.01, 8.0)
    needs = Needs(modules=("numpy",))

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Start the processes."""
        del target
        return [Work(fault="cpu_squeeze", count=processes_for(intensity, len(machine.cpus)))]

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Multiply matrices that fit into the cache: arithmetic, hardly any memory."""
        del options
        import numpy as np

        matrix = np.random.default_rng(0).random((192, 192), dtype=np.float32)
        product = np.empty_like(matrix)
        while running():
            for _ in range(50):
                np.matmul(matrix, matrix, out=product)

    def effect(self, intensity: float) -> Effect:
        """Follow the public captures: half the CPUs busy cost 2.2 times and 12 % of the clock."""
        load = min(intensity, 2.0)
        return Effect(
            host_ratio=1 + 1.2 * load,
            host={
                "others_cpu_ratio": add(min(0.5 * load, 0.9)),
                "cpu_busy_ratio": add(min(0.5 * load, 0.9)),
                "cpu_user_ratio": add(min(0.5 * load, 0.9)),
                "cpu_frequency_hz": times(1 - 0.12 * min(load, 1.0)),
                "cpu_pressure_ratio": add(min(0.3 * load, 0.8)),
            },
        )
