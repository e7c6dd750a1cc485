"""Engine swap: the engine's own memory is put out to swap, again and again."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from simulator.faults import disk
from simulator.faults.swap_thrash import SWAP_FILE_BYTES, has_swap, swap_steps
from simulator.fleet.effect import Effect, add
from simulator.injection.base import Injector, Levels, Machine, Needs, Target
from simulator.injection.steps import Step, Work

PAUSE_SECONDS = 0.17
PROCESS_MADVISE = 440
MADV_PAGEOUT = 21
# Of each process and round: what is put out has to fit into the swap file together.
MOST_BYTES = 64 << 20


class _Range(ctypes.Structure):
    _fields_ = (("begin", ctypes.c_void_p), ("bytes", ctypes.c_size_t))


class EngineSwap(Injector):
    """Advise the kernel (``process_madvise``) to page the engine's private memory out.

    Unlike a memory limit this kills nothing: a page that is wanted comes back from the swap, and
    what was not by then comes back when the swap is switched off. (From a swap that the host had
    already, it comes back when it is wanted.)
    """

    summary = "the engine's private memory is put out to swap again and again"
    touches = "slows the engine and loads the disk; adds a swap file of 512 MiB if there is no swap"
    causes = ("memory_pressure", "disk_pressure")
    unit = "rounds a second"
    levels = Levels(light=0.2, medium=1, heavy=5)
    limits = (0.05, 20)
    intermittent = True
    needs = Needs(root=True, tools=("fallocate", "mkswap", "swapon", "swapoff"), target=True)

    def obstacles(self, target: Target, machine: Machine) -> list[str]:
        """Say so without a place for the swap file, or with more processes than it can take."""
        found = super().obstacles(target, machine)
        if len(target.pids) * MOST_BYTES > SWAP_FILE_BYTES:
            found.append(
                f"{len(target.pids)} processes are too many: name up to "
                f"{SWAP_FILE_BYTES // MOST_BYTES}, the one that iterates first"
            )
        blocked = None if has_swap(machine) else disk.obstacle(SWAP_FILE_BYTES, machine)
        return found + ([blocked] if blocked else [])

    def plan(self, intensity: float, target: Target, machine: Machine) -> list[Step]:
        """Make swap if there is none, then start the process that advises."""
        options: dict[str, float | str | list[int]] = {
            "rounds_per_second": intensity,
            "pids": list(target.pids),
        }
        return [
            *([] if has_swap(machine) else swap_steps(machine)),
            Work(fault="engine_swap", options=options),
        ]

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Page out now and then; the pids cannot become others', as long as they are held."""
        period_seconds = 1 / float(options["rounds_per_second"])
        held = {pid: os.pidfd_open(pid) for pid in options["pids"]}
        next_seconds = time.monotonic()
        while running():
            if time.monotonic() < next_seconds:
                time.sleep(0.02)
                continue
            next_seconds = time.monotonic() + period_seconds
            for pid, handle in held.items():
                page_out(handle, private_ranges(_maps(pid), MOST_BYTES))

    def effect(self, intensity: float) -> Effect:
        """Pause for 170 ms a round, as the replica did on 2 busy CPUs."""
        at_work = max(0.1, 1 - intensity * PAUSE_SECONDS)
        return Effect(
            pauses_per_second=intensity / at_work,
            pause_ms=PAUSE_SECONDS * 1e3,
            process={"major_faults": add(2_000 * intensity), "swap_bytes": add(30e6)},
            host={
                "memory_pressure_ratio": add(min(0.8, 0.1 * intensity)),
                "io_pressure_ratio": add(min(0.8, 0.12 * intensity)),
                "swap_in_bytes_per_second": add(10e6 * intensity),
                "swap_out_bytes_per_second": add(10e6 * intensity),
                "major_faults_per_second": add(2_000 * intensity),
            },
        )


def private_ranges(maps: str, most_bytes: int) -> Iterator[tuple[int, int]]:
    """Give begin and length of private writable memory (``/proc/<pid>/maps``), up to a total."""
    left = most_bytes
    for line in maps.splitlines():
        words = line.split()
        if words[1] != "rw-p" or left <= 0:
            continue
        begin, end = (int(number, 16) for number in words[0].split("-"))
        yield begin, min(end - begin, left)
        left -= end - begin


def page_out(handle: int, ranges: Iterator[tuple[int, int]]) -> None:
    """Advise the kernel to put these parts of a process's memory out."""
    call = ctypes.CDLL(None, use_errno=True).syscall
    for begin, length in ranges:
        part = _Range(begin, length)
        done = call(PROCESS_MADVISE, handle, ctypes.byref(part), 1, MADV_PAGEOUT, 0)
        # Else it is gone meanwhile, or locked in memory.
        if done < 0 and ctypes.get_errno() in (errno.EPERM, errno.ENOSYS):
            said = os.strerror(ctypes.get_errno())
            raise OSError(f"process_madvise: {said}; run it as root, on Linux 5.10 or later")


def _maps(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
