"""What agents read of hosts, processes and accelerators, consistent with what the engines do.

Utilisation and CPU time are those of the iterations themselves; neighbours' CPU time is others'
to an engine. On top comes each counter's own noise, and what a fault does to it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

import numpy as np

from schemas.records import HostReading, ProcessReading, Record, XpuProcess, XpuReading
from simulator.fleet.draws import Floats, Ints, Words, keys_of, normals, uniforms
from simulator.fleet.effect import Change, Effect
from simulator.fleet.meters import Use
from simulator.fleet.places import Place
from simulator.fleet.setting import Device, Setting

PERIOD_NS = 1_000_000_000
# An agent's clock does not strike on the full second: the stamps of a look are a bit before.
SLACK_NS = 10_000_000
LOOK_NS = 3_000_000

# Of the time that the forward pass takes on an accelerator the host's thread burns so much.
WAITING_CPU_RATIO = 0.05
# The API server's CPU time for each token.
SERVER_TOKEN_SECONDS = 60e-6
WEIGHTS_RATIO = 0.9
NOISE_LANES = 12
# As agents do (collectors.host.reading).
LOCATED_SECONDS = 60
MOST_LOCATED_BYTES = 4 << 30

R = TypeVar("R", HostReading, ProcessReading, XpuReading)
_INTEGERS = {
    record: frozenset(one.name for one in fields(record) if one.type in (int, int | None))
    for record in (HostReading, ProcessReading, XpuReading)
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """A fault as the counters of some engines show it over an interval.

    Attributes:
        share: Of the interval that it covers.

        on_devices: Its own engines: a fault of a host reaches all, one of a device only these.
    """

    effect: Effect
    share: float


class Counters:
    """Make the readings of all engines.

    Args:
        places: Where they are.

        seed: Of the noise.
    """

    def __init__(self, places: list[Place], seed: int) -> None:
        self._places = places
        self._seed = seed
        hosts = sorted({place.host for place in places})
        self._locality: dict[tuple[str, int], float | None] = {}
        self._host_keys = dict(zip(hosts, keys_of(seed, hosts), strict=True))
        self._keys: Words = keys_of(seed, [f"{place.engine_id}/counters" for place in places])

    def stamp_ns(self, host: str, at_ns: int) -> int:
        """Give when the agent of a host takes the look that is due at a time."""
        key = np.array([self._host_keys[host]], np.uint64)
        second = np.array([at_ns // PERIOD_NS], np.int64)
        return at_ns - SLACK_NS + int(2e6 * uniforms(key, second, 1)[0, 0])

    def readings(
        self,
        rows: list[int],
        settings: list[Setting],
        use: Use,
        begin_ns: int,
        end_ns: int,
        shown: dict[int, list[Shown]],
    ) -> Iterable[tuple[int, Record]]:
        """Give the readings of the engines of one host, with when they can have been sent.

        Args:
            rows: Numbers of the engines.

            settings: Theirs.

            use: What each did.

            begin_ns: The look before; likewise ``end_ns`` this one.

            shown: By engine, the faults that its counters show.
        """
        host = self._places[rows[0]].host
        key = np.array([self._host_keys[host]], np.uint64)
        second = np.array([end_ns // PERIOD_NS], np.int64)
        noise = _noise(key, second)[0]
        own = self._cpu_seconds(settings, use)
        load = _Load(settings[0], own, use.seconds, noise)
        for position, row in enumerate(rows):
            found = load.reading(self._places[row], position, begin_ns, end_ns, use)
            yield (
                end_ns,
                _record(
                    HostReading, found, [(one.effect.host, one.share) for one in shown.get(row, ())]
                ),
            )
        counter = np.full(len(rows), end_ns // PERIOD_NS)
        engine_noise = _noise(self._keys[rows], counter)
        for position, row in enumerate(rows):
            for values in self._processes(
                row, settings[position], position, use, own, engine_noise
            ):
                values |= {"begin_ns": begin_ns, "end_ns": end_ns}
                changes = [
                    (one.effect.process, one.share)
                    for one in shown.get(row, ())
                    if one.effect.process_role in (None, values["role"])
                ]
                yield end_ns, self._located(_record(ProcessReading, values, changes))
        look_ns = end_ns + LOOK_NS
        for position, row in enumerate(rows):
            device = settings[position].device
            if device is not None:
                yield from self._devices(
                    row, settings[position], device, position, use, engine_noise, look_ns, shown
                )

    def _located(self, reading: ProcessReading) -> ProcessReading:
        """Tell where a process's memory lies as agents do: each is asked once a minute.

        Of a large process it is never known, for asking would hold it up.
        """
        if (reading.rss_bytes or 0) > MOST_LOCATED_BYTES:
            return replace(reading, numa_local_ratio=None)
        key = (reading.engine_id, reading.pid)
        is_due = reading.end_ns // PERIOD_NS % LOCATED_SECONDS == reading.pid % LOCATED_SECONDS
        if is_due or key not in self._locality:
            self._locality[key] = reading.numa_local_ratio
        return replace(reading, numa_local_ratio=self._locality[key])

    def _cpu_seconds(self, settings: list[Setting], use: Use) -> Floats:
        """Give the CPU time of each engine's processes: server, core and workers."""
        found = np.zeros((len(settings), 3))
        for position, setting in enumerate(settings):
            device = float(use.device_seconds[position])
            core = float(use.host_seconds[position])
            forward = device * (
                setting.cpu_threads if setting.device is None else WAITING_CPU_RATIO
            )
            apart = setting.ranks > 1 or setting.worker_apart
            found[position] = (
                SERVER_TOKEN_SECONDS * use.tokens[position] + 0.005 * use.seconds,
                core + (0.0 if apart else forward),
                forward * setting.ranks if apart else 0.0,
            )
        return found

    def _processes(
        self, row: int, setting: Setting, position: int, use: Use, own: Floats, noise: Floats
    ) -> Iterable[dict[str, Any]]:
        place = self._places[row]
        device_ids = place.device_ids(setting)
        server, core, workers = (float(value) for value in own[position])
        further = max(len(place.processes(setting)) - 2, 1)
        for index, (pid, role, rank) in enumerate(place.processes(setting)):
            cpu = (server, core, workers / further)[min(index, 2)]
            wobble = 1 + 0.02 * float(noise[position, index % NOISE_LANES])
            is_server = role == "api_server"
            yield {
                "engine_id": place.engine_id,
                "host": place.host,
                "pid": pid,
                "role": role,
                "cpu_seconds": round(cpu * wobble, 3),
                "run_queue_wait_seconds": round(0.004 * cpu * max(wobble, 0.0), 6),
                "voluntary_switches": int(4 * use.iterations[position] + 20 * abs(wobble)),
                "involuntary_switches": int(3 * abs(wobble)),
                "minor_faults": int(40 * abs(wobble)),
                "major_faults": 0,
                "rss_bytes": (1 if setting.device is None else 2 if is_server else 6) * 2**30,
                "threads": 40 if is_server else 90,
                "rank": rank,
                "cgroup_throttled_seconds": 0.0,
                "swap_bytes": 0,
                "numa_local_ratio": 1.0,
                "device_ids": None if is_server or not device_ids else device_ids,
            }

    def _devices(
        self,
        row: int,
        setting: Setting,
        device: Device,
        position: int,
        use: Use,
        noise: Floats,
        look_ns: int,
        shown: dict[int, list[Shown]],
    ) -> Iterable[tuple[int, Record]]:
        place = self._places[row]
        busy = min(float(use.device_seconds[position]) / use.seconds, 1.0)
        ids = place.device_ids(setting)
        for rank, device_id in enumerate(ids):
            hits = [
                one
                for one in shown.get(row, ())
                if not one.effect.one_rank or rank == setting.ranks - 1
            ]
            changes = [(one.effect.device, one.share) for one in hits]
            index = place.device_index(rank)
            values = _device_values(device, busy, noise[position], rank, setting, use, position)
            pid = place.core_pid + (
                rank + 1 if setting.ranks > 1 and setting.rank_role == "worker" else rank
            )
            values |= {
                "engine_id": place.engine_id,
                "host": place.host,
                "begin_ns": look_ns,
                "end_ns": look_ns + 1_500_000,
                "ranks": (rank,),
                "device_id": device_id,
                "device_index": index,
                "throttle_reasons": tuple(
                    dict.fromkeys(name for one in hits for name in one.effect.throttle_reasons)
                ),
                "pci_address": f"0000:{0x10 + index & 0xFF:02x}:00.0",
                "processes": (XpuProcess(pid=pid, memory_used_bytes=values["memory_used_bytes"]),),
            }
            yield look_ns + 1_500_000, _record(XpuReading, values, changes)


class _Load:
    """The CPU time of one host, shared among its engines and the others."""

    def __init__(self, setting: Setting, own: Floats, seconds: float, noise: Floats) -> None:
        self._host = setting.host
        self._noise = noise
        self._seconds = seconds
        capacity = setting.host.cpu_count * seconds
        self._own = own.sum(axis=1) / capacity
        base = setting.host.base_load_ratio * float(np.exp(0.15 * noise[0]))
        self._busy = float(min(base + self._own.sum(), 1.0))

    def reading(
        self, place: Place, position: int, begin_ns: int, end_ns: int, use: Use
    ) -> dict[str, Any]:
        """Give the host as one of its engines sees it."""
        host, noise = self._host, self._noise
        own = float(self._own[position])
        wait = 0.004 * own * host.cpu_count * float(np.exp(0.3 * noise[1]))
        crowd = max(self._busy - 0.7, 0.0)
        rate = float(use.tokens[position]) / self._seconds
        traffic = float(use.tokens.sum()) / self._seconds
        return {
            "engine_id": place.engine_id,
            "host": place.host,
            "begin_ns": begin_ns,
            "end_ns": end_ns,
            "cpu_count": host.cpu_count,
            "cpu_busy_ratio": round(self._busy, 5),
            "engine_cpu_ratio": round(own, 5),
            "others_cpu_ratio": round(max(self._busy - own, 0.0), 5),
            "cpu_steal_ratio": 0.0,
            "cpu_frequency_hz": round(host.cpu_frequency_hz * (1 + 0.004 * float(noise[2])), 0),
            "engine_run_queue_wait_ratio": round(wait + crowd, 6),
            "cpu_pressure_ratio": round(0.004 * float(np.exp(0.5 * noise[3])) + crowd, 6),
            "memory_pressure_ratio": 0.0,
            "io_pressure_ratio": round(0.002 * float(np.exp(noise[4])), 6),
            "memory_total_bytes": host.memory_bytes,
            "memory_available_bytes": int(host.memory_bytes * (0.7 + 0.002 * float(noise[5]))),
            "swap_in_bytes_per_second": 0.0,
            "swap_out_bytes_per_second": 0.0,
            "major_faults_per_second": 0.0,
            "disk_read_bytes_per_second": 0.0,
            "disk_written_bytes_per_second": round(2e5 * float(np.exp(noise[6])), 0),
            "network_received_bytes_per_second": round(2e4 + 6.0 * traffic, 0),
            "network_sent_bytes_per_second": round(2e4 + 200.0 * traffic, 0),
            "cpu_user_ratio": round(0.85 * self._busy, 5),
            "cpu_system_ratio": round(0.14 * self._busy, 5),
            "cpu_iowait_ratio": round(0.0005 * float(np.exp(noise[4])), 6),
            "cpu_irq_ratio": round(0.01 * self._busy, 6),
            "cpu_frequency_max_hz": host.cpu_frequency_hz,
            "context_switches_per_second": round(8000 * float(np.exp(0.1 * noise[7])) + rate, 0),
            "runnable_tasks": max(round(self._busy * host.cpu_count + float(noise[8])), 1),
            "memory_full_pressure_ratio": 0.0,
            "io_full_pressure_ratio": round(0.001 * float(np.exp(noise[4])), 6),
            "swap_total_bytes": 8 * 2**30,
            "swap_free_bytes": 8 * 2**30,
            "disk_busy_ratio": round(0.003 * float(np.exp(noise[9])), 6),
            "network_link_bytes_per_second": 12.5e9,
            "numa_foreign_per_second": 0.0,
        }


def _device_values(
    device: Device,
    busy: float,
    noise: Floats,
    rank: int,
    setting: Setting,
    use: Use,
    position: int,
) -> dict[str, Any]:
    used = int(device.memory_bytes * WEIGHTS_RATIO)
    lane = float(noise[rank % NOISE_LANES])
    # Bursts of work: a device that is hardly used is mostly seen at its idle clock.
    is_idle = busy < 0.3 and lane > 3 * (busy - 0.15)
    clock = device.idle_clock_hz if is_idle else device.core_clock_hz
    span = device.power_limit_watts - device.idle_watts
    power = device.idle_watts + span * min(0.72 * busy * (1 + 0.03 * lane), 1.0)
    tokens = float(use.tokens[position]) / use.seconds
    fabric = None
    if device.fabric_bytes_per_second is not None:
        share = 0.04 * busy if setting.ranks > 1 else 0.0
        fabric = round(device.fabric_bytes_per_second * share * abs(1 + 0.05 * lane), 0)
    return {
        "vendor": device.vendor,
        "model": device.model,
        "tool": device.tool,
        "utilization_ratio": round(busy, 2),
        "utilization_meaning": "busy_time",
        "memory_total_bytes": device.memory_bytes,
        "memory_used_bytes": used,
        "engine_memory_used_bytes": used,
        "others_memory_used_bytes": 0,
        "others": 0,
        "memory_bandwidth_ratio": round(0.75 * busy, 2),
        "memory_bandwidth_meaning": "busy_time",
        "core_clock_hz": clock,
        "core_clock_max_hz": device.core_clock_max_hz,
        "memory_clock_hz": device.memory_clock_hz,
        "memory_clock_max_hz": device.memory_clock_hz,
        "power_watts": round(power, 1),
        "power_window": "average",
        "power_limit_watts": device.power_limit_watts,
        "temperature_celsius": round(34 + 30 * power / device.power_limit_watts + 0.5 * lane, 0),
        "pcie_received_bytes_per_second": round(1e6 + 400 * tokens, 0),
        "pcie_sent_bytes_per_second": round(1e6 + 200 * tokens, 0),
        "pcie_generation": 4,
        "pcie_width": 16,
        "pcie_capacity_bytes_per_second": device.pcie_bytes_per_second,
        "fabric": device.fabric,
        "fabric_received_bytes_per_second": fabric,
        "fabric_sent_bytes_per_second": fabric,
        "fabric_capacity_bytes_per_second": device.fabric_bytes_per_second,
    }


def _record(
    record: type[R], values: dict[str, Any], changes: list[tuple[dict[str, Change], float]]
) -> R:
    """Build a record with what the faults do to its fields."""
    for by_field, share in changes:
        for name, change in by_field.items():
            before = values.get(name)
            # A counter that is normally not there begins from nothing.
            start = 0.0 if before is None else float(before)
            value = start + share * (change.of(start) - start)
            if name.endswith("_ratio") and name != "engine_run_queue_wait_ratio":
                value = min(max(value, 0.0), 1.0)
            values[name] = round(value) if name in _INTEGERS[record] else round(value, 6)
    return record(**values)


def _noise(keys: Words, counters: Ints) -> Floats:
    drawn = uniforms(keys, counters, NOISE_LANES)
    half = NOISE_LANES // 2
    return np.concatenate(normals(drawn[:, :half], drawn[:, half:]), axis=1)
