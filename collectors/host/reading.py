"""Turn two looks at the host into one reading for each engine on it."""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from collectors.discovery import EngineProcess
from collectors.host import numa
from collectors.host.cgroup import Groups, Quota, read_throttled_seconds
from collectors.host.cpu import (
    CpuTimes,
    frequency_files,
    read_cpu_times,
    read_frequency_hz,
    read_highest_frequency_hz,
)
from collectors.host.files import Seldom
from collectors.host.memory import Memory, read_memory
from collectors.host.pressure import Pressure, read_pressure
from collectors.host.process import TICKS_PER_SECOND, ProcessTimes, read_process_times
from collectors.host.traffic import (
    Devices,
    Traffic,
    find_devices,
    read_link_bytes_per_second,
    read_traffic,
)
from schemas.records import HostReading, ProcessReading, Role

PROC = Path("/proc")
SYS = Path("/sys")
PRESSURES = ("cpu", "memory", "io")
# Disks, links, nodes and clocks' limits come and go with an operator's hands.
HARDWARE_PERIOD_NS = 60 * 10**9
QUOTA_PERIOD_NS = 10 * 10**9
# Where a process's memory lies is dear to ask; one process a look, each once a minute.
NUMA_PERIOD_NS = 60 * 10**9


@dataclass(frozen=True, slots=True, kw_only=True)
class Traced:
    """What kernel tracing saw of one engine in the last second; all unknown without it."""

    run_queue_latency_p50_seconds: float | None = None
    run_queue_latency_p99_seconds: float | None = None
    calls: dict[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Hardware:
    devices: Devices
    frequency_files: list[str]
    frequency_max_hz: float | None
    link_bytes_per_second: float | None
    nodes: dict[int, set[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Look:
    at_ns: int
    hardware: _Hardware
    cpu: CpuTimes
    frequency_hz: float | None
    memory: Memory
    pressures: dict[str, Pressure]
    traffic: Traffic
    numa_foreign: int | None
    processes: dict[int, ProcessTimes]
    quotas: dict[int, Quota | None]
    throttled_seconds: dict[int, float | None]


class HostReader:
    """Read the host and the processes of its engines once a period.

    Args:
        host: The host's name on every record.

        proc: Root of the process file system.

        sys: Root of the kernel's objects: disks and clock frequencies.

        clock_ns: Epoch time.

        root: Folder that control groups are mounted below; a parameter for tests.
    """

    def __init__(
        self,
        host: str,
        proc: Path = PROC,
        sys: Path = SYS,
        clock_ns: Callable[[], int] = time.time_ns,
        root: Path = Path("/"),
    ) -> None:
        self._host = host
        self._proc = proc
        self._sys = sys
        self._clock_ns = clock_ns
        self._last: _Look | None = None
        self._hardware = Seldom(self._find_hardware, HARDWARE_PERIOD_NS)
        self._groups = Groups(proc, root)
        # By pid and start, so that a later process of the same pid has nothing of it.
        self._quotas: dict[tuple[int, int], Seldom[Quota | None]] = {}
        self._locality: dict[tuple[int, int], tuple[int, float | None]] = {}

    def read(
        self,
        engines: dict[str, EngineProcess],
        traced: Mapping[str, Traced] | None = None,
    ) -> tuple[list[HostReading], list[ProcessReading]]:
        """Give what happened since the last call, per engine; nothing the first time.

        Args:
            engines: The engines on this host by engine_id.

            traced: What kernel tracing saw of them, where it is on.
        """
        look = self._look({pid for engine in engines.values() for pid in engine.roles})
        last, self._last = self._last, look
        if last is None or look.at_ns <= last.at_ns:
            return [], []
        self._locate(look)
        hosts: list[HostReading] = []
        processes: list[ProcessReading] = []
        for engine_id, engine in engines.items():
            own = [
                self._process_reading(engine_id, pid, role, engine.rank_of.get(pid), last, look)
                for pid, role in engine.roles.items()
                if _is_same(last.processes.get(pid), look.processes.get(pid))
            ]
            processes += own
            tracing = (traced or {}).get(engine_id, Traced())
            hosts.append(self._host_reading(engine_id, own, last, look, tracing))
        return hosts, processes

    def _find_hardware(self) -> _Hardware:
        return _Hardware(
            devices=find_devices(self._sys),
            frequency_files=frequency_files(self._sys),
            frequency_max_hz=read_highest_frequency_hz(self._sys),
            link_bytes_per_second=read_link_bytes_per_second(self._sys),
            nodes=numa.read_nodes(self._sys),
        )

    def _look(self, pids: set[int]) -> _Look:
        now_ns = self._clock_ns()
        hardware = self._hardware.at(now_ns)
        read = {pid: read_process_times(pid, self._proc) for pid in pids}
        processes = {pid: found for pid, found in read.items() if found is not None}
        quotas = self._read_quotas(processes, now_ns)
        # The processes of an engine are mostly in one control group.
        throttled = {
            quota: read_throttled_seconds(quota) for quota in set(quotas.values()) if quota
        }
        return _Look(
            at_ns=self._clock_ns(),
            hardware=hardware,
            cpu=read_cpu_times(self._proc),
            frequency_hz=read_frequency_hz(self._sys, self._proc, hardware.frequency_files),
            memory=read_memory(self._proc),
            pressures={name: read_pressure(name, self._proc) for name in PRESSURES},
            traffic=read_traffic(self._proc, self._sys, hardware.devices),
            numa_foreign=numa.read_foreign(hardware.nodes, self._sys),
            processes=processes,
            quotas=quotas,
            throttled_seconds={
                pid: None if quota is None else throttled[quota] for pid, quota in quotas.items()
            },
        )

    def _read_quotas(
        self, processes: dict[int, ProcessTimes], now_ns: int
    ) -> dict[int, Quota | None]:
        known = self._quotas
        self._quotas = {}
        for pid, times in processes.items():
            key = (pid, times.start_ticks)
            self._quotas[key] = known.get(key) or Seldom(
                lambda pid=pid: self._groups.quota(pid),  # type: ignore[misc]
                QUOTA_PERIOD_NS,
            )
        return {pid: seldom.at(now_ns) for (pid, _), seldom in self._quotas.items()}

    def _locate(self, look: _Look) -> None:
        """Ask for one process where its memory lies, the one that was asked longest ago."""
        keys = {(pid, times.start_ticks): times for pid, times in look.processes.items()}
        self._locality = {key: self._locality[key] for key in keys if key in self._locality}
        if len(look.hardware.nodes) < 2 or not keys:
            return
        key = min(keys, key=lambda key: self._locality.get(key, (0, None))[0])
        asked_ns = self._locality.get(key, (0, None))[0]
        if look.at_ns - asked_ns >= NUMA_PERIOD_NS:
            ratio = self._read_locality(key[0], keys[key], look.hardware.nodes)
            self._locality[key] = (look.at_ns, ratio)

    def _read_locality(
        self, pid: int, times: ProcessTimes, nodes: dict[int, set[int]]
    ) -> float | None:
        here = [node for node, cpus in nodes.items() if times.cpu in cpus]
        if not here or times.rss_bytes > numa.MOST_RSS_BYTES:
            return None
        text = numa.read_numa_maps(pid, self._proc)
        return None if text is None else numa.local_ratio(numa.parse_numa_maps(text), here[0])

    def _local_ratio(self, pid: int, look: _Look) -> float | None:
        if len(look.hardware.nodes) == 1:
            return 1.0
        return self._locality.get((pid, look.processes[pid].start_ticks), (0, None))[1]

    def _process_reading(
        self,
        engine_id: str,
        pid: int,
        role: Role,
        rank: int | None,
        last: _Look,
        look: _Look,
    ) -> ProcessReading:
        before, now = last.processes[pid], look.processes[pid]
        quota = look.quotas[pid]
        # A group that it was moved to has another count.
        same = last.quotas[pid] == quota
        return ProcessReading(
            engine_id=engine_id,
            host=self._host,
            pid=pid,
            role=role,
            begin_ns=last.at_ns,
            end_ns=look.at_ns,
            rank=rank,
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
            cgroup_throttled_seconds=_growth(
                last.throttled_seconds[pid], look.throttled_seconds[pid]
            )
            if same
            else None,
            cgroup_cpu_limit_cores=None if quota is None else quota.limit_cores,
            swap_bytes=now.swap_bytes,
            numa_local_ratio=self._local_ratio(pid, look),
        )

    def _host_reading(
        self,
        engine_id: str,
        own: list[ProcessReading],
        last: _Look,
        look: _Look,
        traced: Traced,
    ) -> HostReading:
        between = _Between(last, look)
        own_seconds = sum(reading.cpu_seconds or 0.0 for reading in own)
        busy = between.cpu_share("busy_ticks")
        engine_ratio = _ratio(own_seconds, between.ticks / TICKS_PER_SECOND)
        waits = [
            reading.run_queue_wait_seconds
            for reading in own
            if reading.run_queue_wait_seconds is not None
        ]
        return HostReading(
            engine_id=engine_id,
            host=self._host,
            begin_ns=last.at_ns,
            end_ns=look.at_ns,
            cpu_count=look.cpu.cpu_count,
            cpu_busy_ratio=busy,
            cpu_user_ratio=between.cpu_share("user_ticks"),
            cpu_system_ratio=between.cpu_share("system_ticks"),
            cpu_iowait_ratio=between.cpu_share("iowait_ticks"),
            cpu_irq_ratio=between.cpu_share("irq_ticks"),
            engine_cpu_ratio=engine_ratio,
            others_cpu_ratio=max(busy - engine_ratio, 0.0)
            if busy is not None and engine_ratio is not None
            else None,
            cpu_steal_ratio=between.cpu_share("steal_ticks"),
            cpu_frequency_hz=look.frequency_hz,
            cpu_frequency_max_hz=look.hardware.frequency_max_hz,
            context_switches_per_second=between.rate(
                last.cpu.context_switches, look.cpu.context_switches
            ),
            runnable_tasks=look.cpu.runnable_tasks,
            engine_run_queue_wait_ratio=sum(waits) / between.seconds if waits else None,
            cpu_pressure_ratio=between.pressure("cpu", "some_us"),
            memory_pressure_ratio=between.pressure("memory", "some_us"),
            io_pressure_ratio=between.pressure("io", "some_us"),
            memory_full_pressure_ratio=between.pressure("memory", "full_us"),
            io_full_pressure_ratio=between.pressure("io", "full_us"),
            memory_total_bytes=look.memory.total_bytes,
            memory_available_bytes=look.memory.available_bytes,
            swap_total_bytes=look.memory.swap_total_bytes,
            swap_free_bytes=look.memory.swap_free_bytes,
            swap_in_bytes_per_second=between.rate(
                last.memory.swapped_in_bytes, look.memory.swapped_in_bytes
            ),
            swap_out_bytes_per_second=between.rate(
                last.memory.swapped_out_bytes, look.memory.swapped_out_bytes
            ),
            major_faults_per_second=between.rate(
                last.memory.major_faults, look.memory.major_faults
            ),
            disk_read_bytes_per_second=between.traffic("disk_read_bytes"),
            disk_written_bytes_per_second=between.traffic("disk_written_bytes"),
            disk_busy_ratio=_busiest(last.traffic, look.traffic, between.seconds),
            network_received_bytes_per_second=between.traffic("network_received_bytes"),
            network_sent_bytes_per_second=between.traffic("network_sent_bytes"),
            network_link_bytes_per_second=look.hardware.link_bytes_per_second,
            numa_foreign_per_second=between.rate(last.numa_foreign, look.numa_foreign),
            run_queue_latency_p50_seconds=traced.run_queue_latency_p50_seconds,
            run_queue_latency_p99_seconds=traced.run_queue_latency_p99_seconds,
            traced_calls=dict(traced.calls),
        )


class _Between:
    """What happened from one look to the next."""

    def __init__(self, last: _Look, look: _Look) -> None:
        self._last = last
        self._look = look
        self.seconds = (look.at_ns - last.at_ns) / 1e9
        self.ticks = look.cpu.total_ticks - last.cpu.total_ticks

    def rate(self, before: int | None, now: int | None) -> float | None:
        """Give the growth of a count per second."""
        count = _count(before, now)
        return None if count is None else count / self.seconds

    def cpu_share(self, state: str) -> float | None:
        """Give the share of all CPU time in a state."""
        spent = getattr(self._look.cpu, state) - getattr(self._last.cpu, state)
        return _ratio(spent, self.ticks)

    def pressure(self, resource: str, kind: str) -> float | None:
        """Give the share of the time in which tasks waited for a resource."""
        before, now = self._last.pressures[resource], self._look.pressures[resource]
        microseconds = self.rate(getattr(before, kind), getattr(now, kind))
        return None if microseconds is None else min(microseconds / 1e6, 1.0)

    def traffic(self, name: str) -> float | None:
        """Give bytes per second; what a disk that is new carried before is of no second."""
        if self._last.hardware.devices != self._look.hardware.devices:
            return None
        return self.rate(getattr(self._last.traffic, name), getattr(self._look.traffic, name))


def _is_same(before: ProcessTimes | None, now: ProcessTimes | None) -> bool:
    return before is not None and now is not None and before.start_ticks == now.start_ticks


def _busiest(last: Traffic, look: Traffic, seconds: float) -> float | None:
    shares = [
        # 32 bits in some kernels: what runs backwards is no time.
        max(now - last.disk_busy_ms[name], 0) / (seconds * 1e3)
        for name, now in look.disk_busy_ms.items()
        if name in last.disk_busy_ms
    ]
    return min(max(shares), 1.0) if shares else None


def _ratio(part: float, whole: float) -> float | None:
    # The kernel lets iowait and steal run backwards at times; a share stays a share.
    return min(max(part / whole, 0.0), 1.0) if whole > 0 else None


def _growth(before: float | None, now: float | None) -> float | None:
    return None if before is None or now is None else max(now - before, 0.0)


def _count(before: int | None, now: int | None) -> int | None:
    return None if before is None or now is None else max(now - before, 0)
