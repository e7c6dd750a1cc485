"""Swap thrash: a process whose memory limit is below what it touches all the time."""

from __future__ import annotations

import mmap
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

from simulator.faults import cgroups, disk, meminfo
from simulator.faults.disk import own_name
from simulator.fleet.effect import Effect, add, to
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Cgroup, Run, Scratch, Step, Work, Write

LIMIT_BYTES = 96 << 20
SWAP_FILE_BYTES = 512 << 20
# A swap that the host has already is good enough with this much left.
LEAST_FREE_BYTES = SWAP_FILE_BYTES
PAGE_BYTES = 4096
TOUCHES_PER_LOOK = 16
# Nothing is undone where the file is not in use: it never was, or no longer is.
SWAPOFF = 'if swapon --show=NAME --noheadings | grep -qxF -- "$0"; then exec swapoff -- "$0"; fi'


class SwapThrash(Injector):
    """Let one process of ours touch more memory than its control group lets it keep.

    It swaps all the time, so the disk and the kernel's reclaim are busy; the memory of the engine
    and of everybody else stays where it is. A host without swap gets a swap file meanwhile.
    """

    summary = (
        "a process with more memory than its control group lets it keep: it swaps all the time"
    )
    touches = "loads the disk; adds a swap file of 512 MiB where the host has no swap"
    causes = ("memory_pressure", "disk_pressure")
    unit = "times its limit of 96 MiB that the process touches"
    levels = Levels(light=1.2, medium=2.0, heavy=4.0)
    limits = (1.05, 5.0)
    needs = Needs(root=True, tools=("fallocate", "mkswap", "swapon", "swapoff"))

    def obstacles(self, target: Target, machine: Machine) -> list[str]:
        """Say so without a place for the control group or for the swap file."""
        found = super().obstacles(target, machine)
        blocked = [cgroups.obstacle("self", "memory", machine)]
        if not has_swap(machine):
            blocked.append(disk.obstacle(SWAP_FILE_BYTES, machine))
        return found + [text for text in blocked if text is not None]

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Make swap if there is none, then the group with its limit, then the process."""
        del target
        group = _parent(machine) / own_name("swap_thrash")
        version_1 = (group.parent / "memory.limit_in_bytes").exists()
        limit = "memory.limit_in_bytes" if version_1 else "memory.max"
        options: dict[str, float | str | list[int]] = {
            "cgroup": str(group),
            "bytes": round(LIMIT_BYTES * intensity),
        }
        return [
            *([] if has_swap(machine) else swap_steps(machine)),
            Cgroup(path=str(group)),
            Write(path=str(group / limit), text=str(LIMIT_BYTES)),
            Work(fault="swap_thrash", options=options),
        ]

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Enter the control group, then write to random pages for ever."""
        # Only the process itself is moved, so this ends with it.
        Path(options["cgroup"], "cgroup.procs").write_text("0", encoding="ascii")
        pages = int(options["bytes"]) // PAGE_BYTES
        generator = random.Random(0)
        with mmap.mmap(-1, pages * PAGE_BYTES, flags=mmap.MAP_PRIVATE) as memory:
            for page in range(pages):
                memory[page * PAGE_BYTES] = 1
                if page % TOUCHES_PER_LOOK == 0 and not running():
                    return
            while running():
                for _ in range(TOUCHES_PER_LOOK):
                    memory[generator.randrange(pages) * PAGE_BYTES] = 1

    def effect(self, intensity: float) -> Effect:
        """Follow the replica on 2 busy CPUs: 1.2 to 1.4 times, while the host thrashes."""
        missing = 1 - 1 / intensity
        return Effect(
            host_ratio=1 + 0.5 * missing,
            host={
                "memory_pressure_ratio": add(0.9 * missing),
                "io_pressure_ratio": add(0.9 * missing),
                "cpu_iowait_ratio": add(0.4 * missing),
                "disk_busy_ratio": add(0.8 * missing),
                "swap_in_bytes_per_second": add(40e6 * missing),
                "swap_out_bytes_per_second": add(40e6 * missing),
                "major_faults_per_second": add(8_000 * missing),
                "swap_total_bytes": to(SWAP_FILE_BYTES),
                "swap_free_bytes": to(SWAP_FILE_BYTES - LIMIT_BYTES * (intensity - 1)),
            },
        )


def has_swap(machine: Machine) -> bool:
    """Tell whether the host has enough swap of its own."""
    return (meminfo.read_bytes("SwapFree", machine) or 0) >= LEAST_FREE_BYTES


def swap_steps(machine: Machine) -> list[Step]:
    """Make a swap file; what swaps it off bears that it was never swapped on."""
    folder = machine.scratch.resolve() / own_name("swap")
    file = str(folder / "swap")
    return [
        Scratch(path=str(folder)),
        Run(argv=("fallocate", "--length", str(SWAP_FILE_BYTES), file)),
        Run(argv=("chmod", "600", file)),
        Run(argv=("mkswap", file)),
        Run(argv=("swapon", file), undo_argv=("sh", "-c", SWAPOFF, file)),
    ]


def _parent(machine: Machine) -> Path:
    """Find the nearest group, from ours up, that may have one with a memory limit below it."""
    own = cgroups.find_group("self", "memory", machine)
    if own is None:
        return machine.path("/sys/fs/cgroup")
    if own.version == 1:
        return own.folder
    # On version 2 a group with processes hands no memory on; one of those above does.
    above = [own.folder, *own.folder.parents]
    inside = [folder for folder in above if folder == own.top or own.top in folder.parents]
    fitting = (folder for folder in inside if "memory" in cgroups.controllers_below(folder))
    return next(fitting, own.folder)
