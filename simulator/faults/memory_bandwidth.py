"""Memory bandwidth: processes that copy arrays far larger than the caches."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulator.faults import meminfo
from simulator.fleet.effect import Effect, add
from simulator.injection.base import Injector, Levels, Machine, Needs, Target, processes_for
from simulator.injection.steps import Step, Work

MOST_ARRAY_BYTES = 128 << 20
# All arrays together take no more than this share of the memory that we may have.
MOST_MEMORY_RATIO = 1 / 8
# A piece takes milliseconds, so the process hears soon that it is to end.
PIECE_BYTES = 16 << 20


class MemoryBandwidth(Injector):
    """Copy large arrays in some processes; they take CPU time from the engine as well.

    A fault of the memory only where CPUs are idle: with as many copying processes as CPUs, the
    engine waits for CPUs, too.
    """

    summary = "processes that copy arrays far larger than the caches"
    touches = "takes memory bandwidth, cache and CPU time from everybody, and up to 1/8 of memory"
    causes = ("memory_bandwidth", "host_cpu_contention")
    unit = "copying processes per CPU"
    levels = Levels(light=0.5, medium=1.0, heavy=2.0)
    limits = (0.01, 4.0)
    needs = Needs(modules=("numpy",))

    def obstacles(self, target: Target, machine: Machine) -> list[str]:
        """Say so where the arrays would take memory that others need."""
        found = super().obstacles(target, machine)
        available_bytes = meminfo.available_bytes(machine)
        most_bytes = int(meminfo.allowed_bytes(machine) * MOST_MEMORY_RATIO)
        if available_bytes is not None and available_bytes < 2 * most_bytes:
            found.append(
                f"{available_bytes >> 20} MiB of memory are available and it wants twice the "
                f"{most_bytes >> 20} MiB that it may take: free some, or choose another fault"
            )
        return found

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Start the processes, each with two arrays."""
        del target
        count = processes_for(intensity, len(machine.cpus))
        share_bytes = int(meminfo.allowed_bytes(machine) * MOST_MEMORY_RATIO / (2 * count))
        options: dict[str, float | str | list[int]] = {"bytes": min(MOST_ARRAY_BYTES, share_bytes)}
        return [Work(fault="memory_bandwidth", count=count, options=options)]

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Copy one array to the other, piece by piece."""
        import numpy as np

        count = int(options["bytes"]) // 8
        source, copy = np.empty(count), np.empty(count)
        piece = PIECE_BYTES // 8
        for begin in range(0, count, piece):
            # Not zeros: the kernel gives one page for all of those, and it stays in the cache.
            source[begin : begin + piece] = 1.0
            if not running():
                return
        while running():
            for begin in range(0, count, piece):
                np.copyto(copy[begin : begin + piece], source[begin : begin + piece])
                if not running():
                    return

    def effect(self, intensity: float) -> Effect:
        """Suppose as much as for arithmetic; not measured on a quiet machine."""
        load = min(intensity, 2.0)
        return Effect(
            host_ratio=1 + 1.0 * load,
            host={
                "others_cpu_ratio": add(min(0.5 * load, 0.9)),
                "cpu_busy_ratio": add(min(0.5 * load, 0.9)),
                "cpu_user_ratio": add(min(0.5 * load, 0.9)),
                "cpu_pressure_ratio": add(min(0.3 * load, 0.8)),
                "engine_run_queue_wait_ratio": add(0.5 * max(0.0, load - 0.5)),
            },
        )
