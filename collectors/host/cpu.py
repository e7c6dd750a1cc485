"""How busy the host's CPUs are, and how fast they run."""

import os
from dataclasses import dataclass
from pathlib import Path

PROC = Path("/proc")
SYS = Path("/sys")


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuTimes:
    """Clock ticks since boot, over all CPUs."""

    busy_ticks: int
    idle_ticks: int
    steal_ticks: int
    cpu_count: int

    @property
    def total_ticks(self) -> int:
        """All ticks, idle ones too."""
        return self.busy_ticks + self.idle_ticks + self.steal_ticks


def parse_cpu_times(text: str) -> CpuTimes:
    """Read the first line of ``/proc/stat`` and count the CPUs.

    Time spent in guests is part of ``user`` already, so the last two columns are left out.
    """
    lines = text.splitlines()
    user, nice, system, idle, iowait, irq, softirq, steal = map(int, lines[0].split()[1:9])
    return CpuTimes(
        busy_ticks=user + nice + system + irq + softirq,
        idle_ticks=idle + iowait,
        steal_ticks=steal,
        cpu_count=sum(line.startswith("cpu") for line in lines) - 1,
    )


def read_cpu_times(proc: Path = PROC) -> CpuTimes:
    """Read the CPU times of the host."""
    return parse_cpu_times((proc / "stat").read_text())


# Reading every CPU of a large host costs milliseconds each time; these stand for all.
MOST_CPUS_READ = 16


def read_frequency_hz(sys: Path = SYS, proc: Path = PROC) -> float | None:
    """Give the mean current frequency of up to 16 CPUs, or None where the kernel does not tell."""
    paths = sorted((sys / "devices/system/cpu").glob("cpu[0-9]*/cpufreq/scaling_cur_freq"))
    readings: list[float] = []
    for path in paths[:: max(len(paths) // MOST_CPUS_READ, 1)]:
        try:
            readings.append(float(path.read_text()) * 1e3)
        except (OSError, ValueError):
            continue
    if not paths and (os.cpu_count() or 1) <= MOST_CPUS_READ:
        # What virtual machines have instead; on a large host the kernel takes too long over it.
        readings = parse_cpuinfo_hz((proc / "cpuinfo").read_text())
    return sum(readings) / len(readings) if readings else None


def parse_cpuinfo_hz(text: str) -> list[float]:
    """Give the ``cpu MHz`` lines of ``/proc/cpuinfo`` in Hz."""
    return [
        float(line.partition(":")[2]) * 1e6
        for line in text.splitlines()
        if line.startswith("cpu MHz")
    ]
