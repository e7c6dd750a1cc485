"""What ``/proc`` says of a process: its state, its relatives and its threads."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from simulator.injection.steps.base import StepError

# Of include/linux/sched.h.
PF_KTHREAD = 0x00200000


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessState:
    """A line of ``/proc/PID/stat``, as far as it is of use here.

    Attributes:
        state: One letter; T for one that was stopped, Z for one that ended and was not asked
            after.

        is_of_kernel: It is a thread of the kernel.

        start_ticks: When it started, in clock ticks after boot. With the pid it names a process.
    """

    state: str
    parent_pid: int
    is_of_kernel: bool
    start_ticks: int


def state_of(pid: int, proc: Path = Path("/proc")) -> ProcessState | None:
    """Read the state of a process; None where there is none."""
    try:
        text = (proc / str(pid) / "stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return ProcessState(
        state=fields[0],
        parent_pid=int(fields[1]),
        is_of_kernel=bool(int(fields[6]) & PF_KTHREAD),
        start_ticks=int(fields[19]),
    )


def ancestors_of(pid: int) -> list[int]:
    """Give the processes above one, the nearest first."""
    found: list[int] = []
    state = state_of(pid)
    while state is not None and state.parent_pid not in (0, *found):
        found.append(state.parent_pid)
        state = state_of(state.parent_pid)
    return found


def start_ticks_of(pid: int) -> int | None:
    """Give when a process started, in clock ticks after boot; None where there is none."""
    found = state_of(pid)
    return None if found is None else found.start_ticks


def known_start_ticks(pid: int) -> int:
    """Give when a process started; refuse a pid that nobody has."""
    start_ticks = start_ticks_of(pid)
    if start_ticks is None:
        raise StepError(f"there is no process {pid}: give the --pid of one that runs")
    return start_ticks


def children_of(pid: int) -> set[int]:
    """Give the processes below one, whatever started them in between."""
    pids = (int(name) for name in os.listdir("/proc") if name.isdigit())
    return {one for one in pids if pid in ancestors_of(one)}


def threads_of(pid: int) -> list[int]:
    """Give the threads of a process; none where it is gone."""
    try:
        return [int(name) for name in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []
