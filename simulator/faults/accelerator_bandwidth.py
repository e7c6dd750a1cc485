"""Accelerator memory bandwidth: another process copies within the device's memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulator.faults.accelerators.tenant import TENANT_BYTES, Tenant, buffer_bytes, wait
from simulator.fleet.effect import Effect, add

LARGEST_BYTES = 2**30
COPIES_PER_BURST = 4


class AcceleratorBandwidth(Tenant):
    """Copy large buffers from one place of the device's memory to another."""

    summary = "endless copies of another process within the accelerator's memory"
    touches = (
        "takes the device's time and memory bandwidth from all who compute on it, and up to 3 GB "
        "of its memory, at most a quarter of what is free; nothing is changed"
    )
    causes = ("accelerator_contention", "slow_rank")

    def burst(self, torch: Any, options: dict[str, Any]) -> Callable[[], None]:
        """Give one that copies a buffer some times."""
        del options
        size = buffer_bytes(torch, 1, LARGEST_BYTES)
        source, copy = (torch.empty(size, dtype=torch.uint8, device="cuda:0") for _ in range(2))
        stream = torch.cuda.current_stream(0)

        def copy_all() -> None:
            for _ in range(COPIES_PER_BURST):
                copy.copy_(source, non_blocking=True)
            wait(torch, [stream])

        return copy_all

    def effect(self, intensity: float) -> Effect:
        """Estimate it: nothing was measured. The device's time is sliced, as with products."""
        used = TENANT_BYTES + 2 * LARGEST_BYTES
        return Effect(
            device_ratio=1 + intensity,
            one_rank=True,
            device={
                "others": add(1),
                "others_memory_used_bytes": add(used),
                "memory_used_bytes": add(used),
                "utilization_ratio": add(0.5 * intensity),
                "memory_bandwidth_ratio": add(0.5 * intensity),
            },
        )
