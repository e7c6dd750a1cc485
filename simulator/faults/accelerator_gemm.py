"""Accelerator tenant: another process multiplies matrices on the engine's device."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from simulator.faults.accelerators.tenant import MEBIBYTE, TENANT_BYTES, Tenant, buffer_bytes, wait
from simulator.fleet.effect import Effect, add

LARGEST_SIDE = 8192
MATRICES = 3
BYTES_PER_NUMBER = 2
PRODUCTS_PER_BURST = 4


class AcceleratorGemm(Tenant):
    """Keep the tensor cores busy with large products of half-precision matrices."""

    summary = "endless matrix products of another process on the accelerator"
    touches = (
        "takes the device's time from all who compute on it, up to half with two of them, and up "
        "to 1.5 GB of its memory, at most a half of what is free; nothing is changed"
    )
    causes = ("accelerator_contention", "slow_rank")

    def burst(self, torch: Any, options: dict[str, Any]) -> Callable[[], None]:
        """Give one that multiplies two matrices some times."""
        del options
        largest = LARGEST_SIDE**2 * BYTES_PER_NUMBER
        room = buffer_bytes(torch, 1, largest, least=2 * MEBIBYTE)
        side = math.isqrt(room // BYTES_PER_NUMBER) // 256 * 256
        first, second = (
            torch.rand((side, side), device="cuda:0", dtype=torch.float16) for _ in range(2)
        )
        product = torch.empty_like(first)
        stream = torch.cuda.current_stream(0)

        def multiply() -> None:
            for _ in range(PRODUCTS_PER_BURST):
                torch.matmul(first, second, out=product)
            wait(torch, [stream])

        return multiply

    def effect(self, intensity: float) -> Effect:
        """Estimate it: nothing was measured.

        Without MPS a device runs one process at a time, in slices: with the other one always
        ready, each gets a half.
        """
        return Effect(
            device_ratio=1 + intensity,
            one_rank=True,
            device={
                "others": add(1),
                "others_memory_used_bytes": add(TENANT_BYTES),
                "memory_used_bytes": add(TENANT_BYTES),
                "utilization_ratio": add(0.5 * intensity),
                "power_watts": add(100 * intensity),
            },
        )
