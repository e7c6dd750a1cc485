"""Which CPUs belong together, where a process may run, and how much CPU time it uses."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path

from simulator.injection.base import Machine

MEASURE_SECONDS = 0.5


def parse_cpus(text: str) -> tuple[int, ...]:
    """Give the numbers of a list of the kernel's.

    >>> parse_cpus("0-2,8")
    (0, 1, 2, 8)
    """
    found: set[int] = set()
    for part in text.strip().split(","):
        if part:
            first, _, last = part.partition("-")
            found.update(range(int(first), int(last or first) + 1))
    return tuple(sorted(found))


def allowed_cpus(pids: Iterable[int], machine: Machine) -> tuple[int, ...]:
    """Give the CPUs that one of these processes may use; the machine's where none is known."""
    found: set[int] = set()
    for pid in pids:
        for line in _read(machine.path(f"/proc/{pid}/status")).splitlines():
            if line.startswith("Cpus_allowed_list:"):
                found.update(parse_cpus(line.partition(":")[2]))
    return tuple(sorted(found)) or machine.cpus


def cores(cpus: Iterable[int], machine: Machine) -> list[tuple[int, ...]]:
    """Give the CPUs of each physical core that has one of these CPUs."""
    found = {_siblings(cpu, machine) for cpu in cpus}
    return sorted(found)


def nodes(machine: Machine) -> dict[int, tuple[int, ...]]:
    """Give the CPUs of each NUMA node that has any."""
    found = {}
    for folder in machine.path("/sys/devices/system/node").glob("node[0-9]*"):
        cpus = parse_cpus(_read(folder / "cpulist"))
        if cpus:
            found[int(folder.name.removeprefix("node"))] = cpus
    return dict(sorted(found.items()))


def home_node(pid: int, machine: Machine) -> int | None:
    """Give the NUMA node where most of a process's memory lies; None where that is hidden."""
    pages: dict[int, int] = {}
    for word in _read(machine.path(f"/proc/{pid}/numa_maps")).split():
        node, is_count, count = word.partition("=")
        if is_count and node[:1] == "N" and node[1:].isdigit() and count.isdigit():
            pages[int(node[1:])] = pages.get(int(node[1:]), 0) + int(count)
    return max(pages, key=lambda node: pages[node], default=None)


def used_cores(pids: Iterable[int], machine: Machine, seconds: float = MEASURE_SECONDS) -> float:
    """Measure for a moment how many cores these processes use."""
    pids = tuple(pids)
    before, began = _ticks(pids, machine), time.monotonic()
    time.sleep(seconds)
    ticks = _ticks(pids, machine) - before
    return ticks / os.sysconf("SC_CLK_TCK") / (time.monotonic() - began)


def _ticks(pids: tuple[int, ...], machine: Machine) -> int:
    stats = (_read(machine.path(f"/proc/{pid}/stat")) for pid in pids)
    fields = [text.rpartition(")")[2].split() for text in stats if text]
    return sum(int(one[11]) + int(one[12]) for one in fields)


def _siblings(cpu: int, machine: Machine) -> tuple[int, ...]:
    folder = machine.path(f"/sys/devices/system/cpu/cpu{cpu}/topology")
    return parse_cpus(_read(folder / "thread_siblings_list")) or (cpu,)


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
