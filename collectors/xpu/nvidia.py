"""NVIDIA GPUs: NVML through nvidia-ml-py, else one long-lived ``nvidia-smi``."""

import re
from collections.abc import Iterable
from pathlib import Path

from collectors.xpu._nvidia_smi import NvidiaSmi
from collectors.xpu._nvml import Nvml
from collectors.xpu.base import Vendor, Way
from collectors.xpu.text import pci_address


class Nvidia(Vendor):
    """NVIDIA GPUs."""

    title = "NVIDIA"
    pci_vendor_ids = frozenset({0x10DE})
    visible_variables = ("CUDA_VISIBLE_DEVICES", "NVIDIA_VISIBLE_DEVICES")

    def ways(self) -> list[Way]:
        """Give the library, then the command."""
        return [Nvml(), NvidiaSmi()]

    def device_files(
        self, paths: Iterable[str], sys: Path = Path("/sys"), proc: Path = Path("/proc")
    ) -> set[str]:
        """Find the GPU of ``/dev/nvidia3``: 3 is its minor number, which the driver explains."""
        open_files = set(paths)
        found: set[str] = set()
        for gpu in (proc / "driver/nvidia/gpus").glob("*"):
            try:
                minor = re.search(r"Device Minor:\s*(\d+)", (gpu / "information").read_text())
            except OSError:
                continue
            address = pci_address(gpu.name)
            if minor is not None and address and f"/dev/nvidia{minor[1]}" in open_files:
                found.add(address)
        return found
