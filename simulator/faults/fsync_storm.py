"""Fsync storm: writers that want every small block on the disk at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulator.faults import disk
from simulator.faults.disk import own_name
from simulator.fleet.effect import Effect, add
from simulator.injection.base import Injector, Levels, Machine, Target
from simulator.injection.steps import Scratch, Step, Work

BLOCK = bytes(4096)
FILE_BLOCKS = 256


class FsyncStorm(Injector):
    """Write blocks of 4 KiB, each followed by `fsync`, in some processes."""

    summary = "writers of small blocks, each with an fsync"
    touches = "loads the disk of the scratch folder and its journal: every fsync there waits"
    causes = ("disk_pressure",)
    unit = "writers"
    levels = Levels(light=1, medium=4, heavy=16)
    limits = (1, 64)

    def obstacles(self, target: Target, machine: Machine) -> list[str]:
        """Say so where the disk is full."""
        blocked = disk.obstacle(0, machine)
        return super().obstacles(target, machine) + ([blocked] if blocked else [])

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Make a folder, and start the writers in it."""
        del target
        folder = str(machine.scratch / own_name("fsync_storm"))
        work = Work(fault="fsync_storm", count=round(intensity), options={"folder": folder})
        return [Scratch(path=folder), work]

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Write blocks round and round in a file of 1 MiB."""
        with Path(options["folder"], f"writer-{os.getpid()}").open("wb", buffering=0) as file:
            blocks = 0
            while running():
                file.seek(blocks % FILE_BLOCKS * len(BLOCK))
                file.write(BLOCK)
                os.fsync(file.fileno())
                blocks += 1

    def effect(self, intensity: float) -> Effect:
        """Follow the replica on 2 busy CPUs: 1.6, 2.4 and 5.2 times; a sync takes CPU time."""
        load = min(intensity / 16, 1.0) ** 0.25
        return Effect(
            host_ratio=1 + 4.2 * min(intensity / 16, 1.0) ** 0.7,
            host={
                "io_pressure_ratio": add(0.9 * load),
                "disk_busy_ratio": add(0.9 * load),
                "cpu_iowait_ratio": add(0.4 * load),
                "disk_written_bytes_per_second": add(20e6 * load),
            },
        )
