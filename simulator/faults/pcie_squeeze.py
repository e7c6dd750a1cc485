"""PCIe squeeze: another process copies between the host's memory and the device's, both ways."""

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

LARGEST_BYTES = 128 * MEBIBYTE
# Between the 7.4 and the 14.8 GB/s of the two public captures.
MEASURED_BYTES_PER_SECOND = 1.1e10


class PcieSqueeze(Tenant):
    """Copy through pinned memory, which the device reads and writes by itself."""

    summary = "copies of another process over the PCIe link, both ways"
    touches = (
        "takes the link of the device, and memory bandwidth of the host, from all who copy; pins "
        "256 MiB of the host's memory; nothing is changed"
    )
    causes = ("pcie_contention",)

    def burst(self, torch: Any, options: dict[str, Any]) -> Callable[[], None]:
        """Give one that copies up and down at the same time."""
        del options
        size = buffer_bytes(torch, 1, LARGEST_BYTES)
        ours = [torch.empty(size, dtype=torch.uint8, pin_memory=True) for _ in range(2)]
        its = [torch.empty(size, dtype=torch.uint8, device="cuda:0") for _ in range(2)]
        up, down = streams = [torch.cuda.Stream(device=0) for _ in range(2)]

        def copy_both_ways() -> None:
            with torch.cuda.stream(up):
                its[0].copy_(ours[0], non_blocking=True)
            with torch.cuda.stream(down):
                ours[1].copy_(its[1], non_blocking=True)
            wait(torch, streams)

        return copy_both_ways

    def effect(self, intensity: float) -> Effect:
        """Follow the public captures, at full strength; half of it is taken for half the time.

        Measured on two ranks whose copies went through pinned memory: kernels took 1.1 to 1.27
        times as long, the fastest all-reduce 2.1 times, iterations 0.91 and 1.26 times.
        """
        rate = add(MEASURED_BYTES_PER_SECOND * intensity)
        return Effect(
            device_ratio=1 + 0.2 * intensity,
            link_ratio=1 + 1.1 * intensity,
            device={
                "others": add(1),
                "others_memory_used_bytes": add(TENANT_BYTES),
                "memory_used_bytes": add(TENANT_BYTES),
                "pcie_received_bytes_per_second": rate,
                "pcie_sent_bytes_per_second": rate,
            },
        )
