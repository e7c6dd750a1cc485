"""AMD Instinct and Radeon: the amdsmi library, the kernel's own files, `amd-smi`, `rocm-smi`.

The tools are checked with captured outputs; the library, the kernel's files and partitions were
written after their documentation and never ran on a GPU.
"""

from collectors.xpu._amd_kernel import KernelFiles
from collectors.xpu._amd_library import AmdSmiLibrary
from collectors.xpu._amd_tools import parse_metric, parse_process, parse_rocm_smi, parse_static
from collectors.xpu._reading import IndexedWay
from collectors.xpu.base import Command, CommandWay, Vendor, Way


class Amd(Vendor):
    """AMD Instinct and Radeon."""

    title = "AMD Instinct and Radeon"
    pci_vendor_ids = frozenset({0x1002})
    visible_variables = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")

    def ways(self) -> list[Way]:
        """Give the library first, then what costs least."""
        return [
            AmdSmiLibrary(),
            KernelFiles(),
            IndexedWay(
                "amd-smi",
                [
                    Command(("amd-smi", "static", "--json"), parse_static, slow=True),
                    Command(("amd-smi", "metric", "--json"), parse_metric),
                    Command(("amd-smi", "process", "--json"), parse_process, slow=True),
                ],
            ),
            CommandWay("rocm-smi", [Command(("rocm-smi", "-a", "--json"), parse_rocm_smi)]),
        ]
