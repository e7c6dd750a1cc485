"""Which vendor's tool there is on this machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from simulator.faults.accelerators.amd_smi import AmdSmi
from simulator.faults.accelerators.nvidia_smi import NvidiaSmi
from simulator.faults.accelerators.rocm_smi import RocmSmi
from simulator.faults.accelerators.tool import Tool
from simulator.injection.base import VENDOR_TOOLS, Machine, Vendor
from simulator.injection.steps import StepError

VENDORS: tuple[Vendor, ...] = ("nvidia", "amd")
TOOLS: dict[str, type[Tool]] = {one.name: one for one in (NvidiaSmi, AmdSmi, RocmSmi)}


def tool_of(machine: Machine) -> Tool:
    """Give the first tool that is installed.

    Raises:
        StepError: There is none.
    """
    names = [name for vendor in VENDORS for name in VENDOR_TOOLS[vendor]]
    for name in names:
        path = machine.which(name)
        if path is not None:
            return TOOLS[name](path)
    raise StepError(
        f"no {' or '.join(names)} here, so the device's present settings are not known: run it on "
        "a machine with such an accelerator"
    )


def obstacles_of(devices: Sequence[int], look: Callable[[int], object]) -> list[str]:
    """Look at each device, and say what went wrong; nothing if all is well."""
    found = [] if devices else ["it is aimed at an accelerator: name one with --device"]
    for device in devices:
        try:
            look(device)
        except StepError as err:
            found.append(str(err))
    return found
