"""Accelerator memory: another process takes and gives back pieces of it, in random sizes."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable
from typing import Any

from simulator.faults.accelerators.tenant import MEBIBYTE, Tenant, free_bytes, keep_busy, open_torch
from simulator.fleet.effect import Effect, add
from simulator.injection.base import Levels

# Whoever else is on the device must still find some.
SPARED_BYTES = 512 * MEBIBYTE
PAUSE_SECONDS = 0.005
# Free memory of a device whose engine reserved nine tenths of 80 GB.
USUAL_FREE_BYTES = 8e9


class AcceleratorMemoryFragmentation(Tenant):
    """Allocate and free through the driver, up to a share of the memory that was free."""

    summary = "random allocations of another process in the accelerator's free memory"
    touches = (
        "an engine that still asks for device memory may run out of it and end; one that reserved "
        "all at its start, such as vLLM, hardly notices; 512 MiB stay free"
    )
    causes = ("accelerator_memory",)
    unit = "share of the free memory that is taken at most"
    levels = Levels(light=0.3, medium=0.6, heavy=0.9)
    limits = (0.05, 0.95)

    def work(self, options: dict[str, Any], running: Callable[[], bool]) -> None:
        """Take and give back until the end."""
        # Else PyTorch keeps what is given back, and the driver never hears of it.
        os.environ["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
        keep_busy(1.0, running, self.burst(open_torch(options["devices"]), options))

    def burst(self, torch: Any, options: dict[str, Any]) -> Callable[[], None]:
        """Give one that takes a piece, and gives others back where that is too much."""
        ceiling = int(options["share"] * free_bytes(torch))
        pieces: list[Any] = []
        sizes = random.Random()

        def change() -> None:
            time.sleep(PAUSE_SECONDS)
            size = min(int(MEBIBYTE * 2 ** sizes.uniform(0, 9)), ceiling)
            while pieces and sum(map(len, pieces)) + size > ceiling:
                pieces.pop(sizes.randrange(len(pieces)))
            if free_bytes(torch) - size < SPARED_BYTES:
                del pieces[: max(1, len(pieces) // 2)]
                return
            try:
                pieces.append(torch.empty(size, dtype=torch.uint8, device="cuda:0"))
            except RuntimeError:
                # Somebody took it in between, and needs it more.
                pieces.clear()

        return change

    def effect(self, intensity: float) -> Effect:
        """Estimate it: nothing was measured. The driver's locks cost little."""
        used = USUAL_FREE_BYTES * intensity
        return Effect(
            device_ratio=1 + 0.05 * intensity,
            host_ratio=1 + 0.05 * intensity,
            one_rank=True,
            device={
                "others": add(1),
                "others_memory_used_bytes": add(used),
                "memory_used_bytes": add(used),
            },
        )
