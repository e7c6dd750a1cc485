"""Fabric copies: another process copies from device to device, over NVLink or xGMI."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from simulator.faults.accelerators.tenant import (
    MEBIBYTE,
    TENANT_BYTES,
    Tenant,
    buffer_bytes,
    wait,
)
from simulator.fleet.effect import Effect, add

LARGEST_BYTES = 256 * MEBIBYTE
COPIES_PER_BURST = 4
MEASURED_BYTES_PER_SECOND = 2.65e11


class FabricCopies(Tenant):
    """Copy around the ring of the devices: with two of them, both ways at the same time."""

    summary = "copies of another process from accelerator to accelerator"
    touches = (
        "takes the links between the devices from all who use them, and up to 1.5 GB of memory on "
        "each; nothing is changed"
    )
    causes = ("fabric_contention", "communication_slower")
    together = 2

    def burst(self, torch: Any, options: dict[str, Any]) -> Callable[[], None]:
        """Give one that copies from each device to the next."""
        devices = len(options["devices"])
        ring = [(source, (source + 1) % devices) for source in range(devices)]
        for source, target in ring:
            if not torch.cuda.can_device_access_peer(source, target):
                raise RuntimeError(
                    f"devices {source} and {target} of those cannot reach each other's memory: "
                    "name others with --device, or choose pcie_squeeze"
                )
        size = buffer_bytes(torch, devices, LARGEST_BYTES)
        links = [_Link(torch, size, source, target) for source, target in ring]

        def copy_around() -> None:
            for _ in range(COPIES_PER_BURST):
                for link in links:
                    link.copy()
            wait(torch, [link.sending for link in links])

        return copy_around

    def effect(self, intensity: float) -> Effect:
        """Follow the public captures, at full strength; half of it is taken for half the time.

        Measured on two ranks: 265 GB/s each way, kernels 1.15 and 1.51 times as long, the fastest
        all-reduce 2.04 times.
        """
        rate = add(MEASURED_BYTES_PER_SECOND * intensity)
        return Effect(
            device_ratio=1 + 0.33 * intensity,
            link_ratio=1 + 1.04 * intensity,
            device={
                "others": add(1),
                "others_memory_used_bytes": add(TENANT_BYTES),
                "memory_used_bytes": add(TENANT_BYTES),
                "utilization_ratio": add(0.4 * intensity),
                "fabric_received_bytes_per_second": rate,
                "fabric_sent_bytes_per_second": rate,
            },
        )


class _Link:
    """One direction between two devices, with streams of its own on both.

    On the usual streams, a copy would wait for the one that comes the other way.
    """

    def __init__(self, torch: Any, size: int, source: int, target: int) -> None:
        self._torch = torch
        self._from = torch.empty(size, dtype=torch.uint8, device=f"cuda:{source}")
        self._to = torch.empty(size, dtype=torch.uint8, device=f"cuda:{target}")
        self.sending = torch.cuda.Stream(device=source)
        self._receiving = torch.cuda.Stream(device=target)

    def copy(self) -> None:
        """Ask for one copy."""
        stream = self._torch.cuda.stream
        with stream(self._receiving), stream(self.sending):
            self._to.copy_(self._from, non_blocking=True)
