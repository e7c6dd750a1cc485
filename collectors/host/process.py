"""What one process used: CPU, waiting for a CPU, switches, faults, memory."""

import os
from dataclasses import dataclass, replace
from pathlib import Path

from collectors.host.files import read_text

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTimes:
    """Totals since the process began, all threads that still live.

    ``start_ticks`` tells it from a later process of the same pid; ``cpu`` is where its main
    thread ran last.
    """

    cpu_seconds: float
    minor_faults: int
    major_faults: int
    threads: int
    rss_bytes: int
    start_ticks: int = 0
    cpu: int | None = None
    run_queue_wait_seconds: float | None = None
    voluntary_switches: int | None = None
    involuntary_switches: int | None = None
    swap_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Status:
    """What is read of ``/proc/<pid>/status``."""

    voluntary_switches: int | None = None
    involuntary_switches: int | None = None
    swap_bytes: int | None = None


def parse_stat(text: str, page_bytes: int = PAGE_BYTES) -> ProcessTimes:
    """Read ``/proc/<pid>/stat``; fields count from the last ``)``."""
    fields = text.rpartition(")")[2].split()
    return ProcessTimes(
        cpu_seconds=(int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND,
        minor_faults=int(fields[7]),
        major_faults=int(fields[9]),
        threads=int(fields[17]),
        rss_bytes=int(fields[21]) * page_bytes,
        start_ticks=int(fields[19]),
        cpu=int(fields[36]) if len(fields) > 36 else None,
    )


def parse_schedstat(text: str) -> tuple[float, float]:
    """Give seconds on a CPU and seconds runnable but waiting for one."""
    on_cpu_ns, waiting_ns, _ = text.split()
    return int(on_cpu_ns) / 1e9, int(waiting_ns) / 1e9


def parse_status(text: str) -> Status:
    """Read context switches and swapped memory; None for each that the kernel does not tell."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        if line.startswith(("VmSwap:", "voluntary_ctxt", "nonvoluntary_ctxt")):
            name, _, value = line.partition(":")
            words = value.split()
            if words and words[0].isdigit():
                found[name] = int(words[0])
    swap_kilobytes = found.get("VmSwap")
    return Status(
        found.get("voluntary_ctxt_switches"),
        found.get("nonvoluntary_ctxt_switches"),
        None if swap_kilobytes is None else swap_kilobytes * 1024,
    )


def read_run_queue_wait_seconds(folder: str) -> float | None:
    """Add up how long the threads of a process waited for a CPU.

    The process's own file has the main thread only. None where the kernel does not count.
    """
    waiting: float | None = None
    try:
        for task in os.listdir(f"{folder}/task"):
            try:
                text = read_text(f"{folder}/task/{task}/schedstat")
            except OSError:
                continue
            waiting = (waiting or 0.0) + parse_schedstat(text)[1]
    except (OSError, ValueError):
        return None
    return waiting


def read_process_times(pid: int, proc: Path = PROC) -> ProcessTimes | None:
    """Read one process, or None where it is gone."""
    folder = f"{proc}/{pid}"
    try:
        times = parse_stat(read_text(f"{folder}/stat"))
        status = parse_status(read_text(f"{folder}/status"))
    except (OSError, ValueError, IndexError):
        return None
    return replace(
        times,
        run_queue_wait_seconds=read_run_queue_wait_seconds(folder),
        voluntary_switches=status.voluntary_switches,
        involuntary_switches=status.involuntary_switches,
        swap_bytes=status.swap_bytes,
    )
