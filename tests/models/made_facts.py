"""Facts of made-up incidents."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from models.causes import Facts, Pause, Pauses

MS = 1e6
BEFORE = {
    "others_cpu_ratio": 0.1,
    "others_user_ratio": 0.08,
    "cpu_steal_ratio": 0.0,
    "cpu_irq_ratio": 0.002,
    "cpu_frequency_hz": 3e9,
    "memory_pressure_ratio": 0.0,
    "io_pressure_ratio": 0.05,
    "swap_in_bytes_per_second": 0.0,
    "swap_out_bytes_per_second": 0.0,
    "major_faults_per_second": 1.0,
    "engine_run_queue_share": 0.02,
    "engine_throttled_ratio": 0.0,
    "engine_numa_local_ratio": 1.0,
    "network_link_ratio": 0.05,
    "server_cores": 0.2,
    "core_busy_cores": 0.3,
    "engine_busy_cores": 1.6,
    "waiting_requests": 2.0,
    "worker_spread_ratio": 0.02,
    "xpu_core_clock_ratio": 1.0,
    "xpu_utilization_ratio": 0.9,
    "xpu_power_ratio": 0.6,
    "xpu_others": 0.0,
    "xpu_others_memory_ratio": 0.0,
    "xpu_memory_used_ratio": 0.9,
    "xpu_pcie_ratio": 0.001,
    "xpu_fabric_ratio": 0.03,
}
PHASES_NS = {
    "forward": 10 * MS,
    "schedule": 1 * MS,
    "prepare": 1 * MS,
    "dispatch": 1 * MS,
    "postprocess": 1 * MS,
    "communication_wait": 1 * MS,
}
QUIET = Facts(before=BEFORE, during=BEFORE, phases_before_ns=PHASES_NS, phases_during_ns=PHASES_NS)


def during(**changes: float) -> Facts:
    """Give an engine of which some counters changed."""
    return replace(QUIET, during=BEFORE | changes)


def slower(**times: float) -> Facts:
    """Give one of which some phases take so many times as long."""
    grown = {phase: ns * times.get(phase, 1.0) for phase, ns in PHASES_NS.items()}
    return replace(QUIET, phases_during_ns=grown)


def paused(
    milliseconds: float,
    count: int = 8,
    batches: int = 200,
    changed: int = 40,
    is_new: Callable[[int], bool] = lambda number: number % 5 == 0,
    phase: str = "forward",
    preempting: int = 0,
) -> Facts:
    """Give one of which a few batches are held up."""
    excess_ns = round(milliseconds * MS)
    pauses = Pauses(
        batches=batches,
        excess_ns=count * excess_ns,
        changed=changed,
        preempting=preempting,
        count=count,
        newest=[Pause(excess_ns, is_new(number), phase) for number in range(count)],
    )
    return replace(QUIET, pauses=pauses)
