"""Turn two looks at the host into one reading for each engine on it."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from collectors.discovery import EngineProcess
from collectors.host.cpu import CpuTimes, read_cpu_times, read_frequency_hz
from collectors.host.memory import Memory, read_memory
from collectors.host.pressure import read_pressure_us
from collectors.host.process import TICKS_PER_SECOND, ProcessTimes, read_process_times
from collectors.host.traffic import Traffic, read_traffic
from schemas.records import HostReading, ProcessReading, Role

PROC = Path("/proc")
SYS = Path("/sys")
PRESSURES = ("cpu", "memory", "io")
TRAFFIC = (
    "disk_read_bytes",
    "disk_written_bytes",
    "network_received_bytes",
    "network_sent_bytes",
)


@dataclass(frozen=True, slots=True)
class _Look:
    at_ns: int
    cpu: CpuTimes
    frequency_hz: float | None
    memory: Memory
    pressures_us: dict[str, int | None]
    traffic: Traffic | None
    processes: dict[int, ProcessTimes]


class HostReader:
    """Read the host and the processes of its engines once a period.

    Args:
        host: The host's name on every record.

        proc: Root of the process file system.

        sys: Root of the kernel's objects: disks and clock frequencies.

        clock_ns: Epoch time.
    """

    def __init__(
        self,
        host: str,
        proc: Path = PROC,
        sys: Path = SYS,
        clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._host = host
        self._proc = proc
        self._sys = sys
        self._clock_ns = clock_ns
        self._last: _Look | None = None

    def read(
        self, engines: dict[str, EngineProcess]
    ) -> tuple[list[HostReading], list[ProcessReading]]:
        """Give what happened since the last call, per engine; nothing the first time.

        Args:
            engines: The engines on this host by engine_id.
        """
        look = self._look({pid for engine in engines.values() for pid in engine.roles})
        last, self._last = self._last, look
        if last is None or look.at_ns <= last.at_ns:
            return [], []
        hosts: list[HostReading] = []
        processes: list[ProcessReading] = []
        for engine_id, engine in engines.items():
            own = [
                self._process_reading(engine_id, pid, role, last, look)
                for pid, role in engine.roles.items()
                if pid in look.processes and pid in last.processes
            ]
            processes += own
            hosts.append(self._host_reading(engine_id, own, last, look))
        return hosts, processes

    def _look(self, pids: set[int]) -> _Look:
        times = {pid: read_process_times(pid, self._proc) for pid in pids}
        return _Look(
            at_ns=self._clock_ns(),
            cpu=read_cpu_times(self._proc),
            frequency_hz=read_frequency_hz(self._sys, self._proc),
            memory=read_memory(self._proc),
            pressures_us={name: read_pressure_us(name, self._proc) for name in PRESSURES},
            traffic=read_traffic(self._proc, self._sys),
            processes={pid: found for pid, found in times.items() if found is not None},
        )

    def _process_reading(
        self, engine_id: str, pid: int, role: Role, last: _Look, look: _Look
    ) -> ProcessReading:
        before, now = last.processes[pid], look.processes[pid]
        return ProcessReading(
            engine_id=engine_id,
            host=self._host,
            pid=pid,
            role=role,
            begin_ns=last.at_ns,
            end_ns=look.at_ns,
            cpu_seconds=_growth(before.cpu_seconds, now.cpu_seconds),
            # Threads that ended take their wait with them; a sum must not run backwards.
            run_queue_wait_seconds=_growth(
                before.run_queue_wait_seconds, now.run_queue_wait_seconds
            ),
            voluntary_switches=_count(before.voluntary_switches, now.voluntary_switches),
            involuntary_switches=_count(before.involuntary_switches, now.involuntary_switches),
            minor_faults=_count(before.minor_faults, now.minor_faults),
            major_faults=_count(before.major_faults, now.major_faults),
            rss_bytes=now.rss_bytes,
            threads=now.threads,
        )

    def _host_reading(
        self, engine_id: str, own: list[ProcessReading], last: _Look, look: _Look
    ) -> HostReading:
        seconds = (look.at_ns - last.at_ns) / 1e9
        ticks = look.cpu.total_ticks - last.cpu.total_ticks
        cpu_seconds = ticks / TICKS_PER_SECOND
        own_seconds = sum(reading.cpu_seconds or 0.0 for reading in own)
        busy = _ratio(look.cpu.busy_ticks - last.cpu.busy_ticks, ticks)
        engine_ratio = _ratio(own_seconds, cpu_seconds)
        waits = [
            reading.run_queue_wait_seconds
            for reading in own
            if reading.run_queue_wait_seconds is not None
        ]

        def rate(before: int | None, now: int | None) -> float | None:
            return None if before is None or now is None else max(now - before, 0) / seconds

        def pressure(name: str) -> float | None:
            microseconds = rate(last.pressures_us[name], look.pressures_us[name])
            return None if microseconds is None else min(microseconds / 1e6, 1.0)

        rates = {
            name: rate(getattr(last.traffic, name), getattr(look.traffic, name))
            for name in TRAFFIC
            if last.traffic is not None and look.traffic is not None
        }
        return HostReading(
            engine_id=engine_id,
            host=self._host,
            begin_ns=last.at_ns,
            end_ns=look.at_ns,
            cpu_count=look.cpu.cpu_count,
            cpu_busy_ratio=busy,
            engine_cpu_ratio=engine_ratio,
            others_cpu_ratio=max(busy - engine_ratio, 0.0)
            if busy is not None and engine_ratio is not None
            else None,
            cpu_steal_ratio=_ratio(look.cpu.steal_ticks - last.cpu.steal_ticks, ticks),
            cpu_frequency_hz=look.frequency_hz,
            engine_run_queue_wait_ratio=sum(waits) / seconds if waits else None,
            cpu_pressure_ratio=pressure("cpu"),
            memory_pressure_ratio=pressure("memory"),
            io_pressure_ratio=pressure("io"),
            memory_total_bytes=look.memory.total_bytes,
            memory_available_bytes=look.memory.available_bytes,
            swap_in_bytes_per_second=rate(
                last.memory.swapped_in_bytes, look.memory.swapped_in_bytes
            ),
            swap_out_bytes_per_second=rate(
                last.memory.swapped_out_bytes, look.memory.swapped_out_bytes
            ),
            major_faults_per_second=rate(last.memory.major_faults, look.memory.major_faults),
            disk_read_bytes_per_second=rates.get("disk_read_bytes"),
            disk_written_bytes_per_second=rates.get("disk_written_bytes"),
            network_received_bytes_per_second=rates.get("network_received_bytes"),
            network_sent_bytes_per_second=rates.get("network_sent_bytes"),
        )


def _ratio(part: float, whole: float) -> float | None:
    # The kernel lets iowait and steal run backwards at times; a share stays a share.
    return min(max(part / whole, 0.0), 1.0) if whole > 0 else None


def _growth(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else max(now - before, 0.0)


def _count(before: int | None, now: int | None) -> int | None:
    return None if before is None or now is None else max(now - before, 0)
