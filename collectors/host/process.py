"""What one process used: CPU, waiting for a CPU, switches, faults, memory."""

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProcessTimes:
    """Totals since the process began, all threads that still live."""

    cpu_seconds: float
    minor_faults: int
    major_faults: int
    threads: int
    rss_bytes: int
    run_queue_wait_seconds: float | None = None
    voluntary_switches: int | None = None
    involuntary_switches: int | None = None


def parse_stat(text: str, page_bytes: int = PAGE_BYTES) -> ProcessTimes:
    """Read ``/proc/<pid>/stat``; fields count from the last ``)``."""
    fields = text.rpartition(")")[2].split()
    return ProcessTimes(
        cpu_seconds=(int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND,
        minor_faults=int(fields[7]),
        major_faults=int(fields[9]),
        threads=int(fields[17]),
        rss_bytes=int(fields[21]) * page_bytes,
    )


def parse_schedstat(text: str) -> tuple[float, float]:
    """Give seconds on a CPU and seconds runnable but waiting for one."""
    on_cpu_ns, waiting_ns, _ = text.split()
    return int(on_cpu_ns) / 1e9, int(waiting_ns) / 1e9


def parse_switches(text: str) -> tuple[int | None, int | None]:
    """Give voluntary and involuntary context switches from ``/proc/<pid>/status``."""
    found: dict[str, int] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        if name.endswith("ctxt_switches"):
            found[name] = int(value)
    return found.get("voluntary_ctxt_switches"), found.get("nonvoluntary_ctxt_switches")


def read_process_times(pid: int, proc: Path = PROC) -> ProcessTimes | None:
    """Read one process, or None where it is gone.

    Run-queue wait is summed over the threads: the process's own file has the main thread only.
    """
    folder = proc / str(pid)
    try:
        times = parse_stat((folder / "stat").read_text())
        voluntary, involuntary = parse_switches((folder / "status").read_text())
    except (OSError, ValueError, IndexError):
        return None
    waiting: float | None = None
    try:
        for task in os.listdir(folder / "task"):
            try:
                text = (folder / "task" / task / "schedstat").read_text()
            except OSError:
                continue
            waiting = (waiting or 0.0) + parse_schedstat(text)[1]
    except (OSError, ValueError):
        waiting = None
    return ProcessTimes(
        cpu_seconds=times.cpu_seconds,
        minor_faults=times.minor_faults,
        major_faults=times.major_faults,
        threads=times.threads,
        rss_bytes=times.rss_bytes,
        run_queue_wait_seconds=waiting,
        voluntary_switches=voluntary,
        involuntary_switches=involuntary,
    )
