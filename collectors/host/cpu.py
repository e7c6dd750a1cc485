"""How busy the host's CPUs are, and how fast they run."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from collectors.host.files import read_int, read_text, read_text_or_none

PROC = Path("/proc")
SYS = Path("/sys")


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTimes:
    """Clock ticks since boot, over all CPUs.

    Attributes:
        busy_ticks: Neither idle nor stolen; ``user_ticks`` (with nice), ``system_ticks`` and
            ``irq_ticks`` (hard and soft) are its parts.

        idle_ticks: With ``iowait_ticks``, which is idle time while a disk had to be waited for.

        context_switches: Since boot, over all CPUs.

        runnable_tasks: Threads that run or wait for a CPU now.
    """

    busy_ticks: int
    idle_ticks: int
    steal_ticks: int
    cpu_count: int
    user_ticks: int = 0
    system_ticks: int = 0
    iowait_ticks: int = 0
    irq_ticks: int = 0
    context_switches: int | None = None
    runnable_tasks: int | None = None

    @property
    def total_ticks(self) -> int:
        """All ticks, idle ones too."""
        return self.busy_ticks + self.idle_ticks + self.steal_ticks


def parse_cpu_times(text: str) -> CpuTimes:
    """Read ``/proc/stat``: its first line, the number of CPUs, switches and runnable threads.

    Time spent in guests is part of ``user`` already, so the last two columns are left out.

    Raises:
        ValueError: The first line does not have the eight columns of Linux 2.6.11 and later.
    """
    lines = text.splitlines()
    first = lines[0].split() if lines else []
    if len(first) < 9 or first[0] != "cpu":
        raise ValueError("/proc/stat does not begin with a line 'cpu' of eight columns or more")
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, first[1:9])
    return CpuTimes(
        busy_ticks=user + nice + system + irq + softirq,
        idle_ticks=idle + iowait,
        steal_ticks=steal,
        cpu_count=sum(line.startswith("cpu") for line in lines) - 1,
        user_ticks=user + nice,
        system_ticks=system,
        iowait_ticks=iowait,
        irq_ticks=irq + softirq,
        context_switches=_number_after("ctxt ", lines),
        runnable_tasks=_number_after("procs_running ", lines),
    )


def _number_after(name: str, lines: list[str]) -> int | None:
    # From the end: the line of interrupts before them is as long as all others together.
    for line in reversed(lines):
        if line.startswith(name):
            value = line[len(name) :].strip()
            return int(value) if value.isdigit() else None
    return None


def read_cpu_times(proc: Path = PROC) -> CpuTimes:
    """Read the CPU times of the host."""
    return parse_cpu_times(read_text(f"{proc}/stat"))


# Reading every CPU of a large host costs milliseconds each time; these stand for all.
MOST_CPUS_READ = 16


def frequency_files(sys: Path = SYS, name: str = "scaling_cur_freq") -> list[str]:
    """Give the files that hold the clocks of up to 16 CPUs, spread over all of them."""
    paths = sorted((sys / "devices/system/cpu").glob(f"cpu[0-9]*/cpufreq/{name}"))
    return [str(path) for path in paths[:: max(len(paths) // MOST_CPUS_READ, 1)]]


def read_frequency_hz(
    sys: Path = SYS, proc: Path = PROC, files: Sequence[str] | None = None
) -> float | None:
    """Give the mean current frequency of up to 16 CPUs, or None where the kernel does not tell.

    ``files`` is what `frequency_files` gave, for a caller that keeps it.
    """
    files = frequency_files(sys) if files is None else files
    kilohertz = [value for value in map(read_int, files) if value is not None]
    readings = [value * 1e3 for value in kilohertz]
    if not files and (os.cpu_count() or 1) <= MOST_CPUS_READ:
        # What virtual machines have instead; on a large host the kernel takes too long over it.
        readings = parse_cpuinfo_hz(read_text_or_none(f"{proc}/cpuinfo") or "")
    return sum(readings) / len(readings) if readings else None


def read_highest_frequency_hz(sys: Path = SYS) -> float | None:
    """Give the highest clock that the hardware can take, whatever the policy allows now."""
    kilohertz = [
        value
        for value in map(read_int, frequency_files(sys, "cpuinfo_max_freq"))
        if value is not None
    ]
    return max(kilohertz) * 1e3 if kilohertz else None


def parse_cpuinfo_hz(text: str) -> list[float]:
    """Give the ``cpu MHz`` lines of ``/proc/cpuinfo`` in Hz; lines without a number are skipped."""
    found: list[float] = []
    for line in text.splitlines():
        if line.startswith("cpu MHz"):
            try:
                found.append(float(line.partition(":")[2]) * 1e6)
            except ValueError:
                continue
    return found
