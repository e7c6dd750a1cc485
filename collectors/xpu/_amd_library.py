"""The `amdsmi` Python package, which must fit the installed ROCm."""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from collectors.xpu import text
from collectors.xpu._amd import (
    SOCKET_POWER,
    VIOLATIONS,
    first,
    identity,
    meanings,
    unique_id,
    unwrapped,
)
from collectors.xpu._reading import (
    Reading,
    hertz,
    pci_address,
    pcie_generation,
    positive,
    scalar,
    table,
    word,
)
from collectors.xpu.base import NotPermitted, Way, XpuError
from schemas.records import XpuDevice, XpuProcess


class AmdSmiLibrary(Way):
    """The ``amdsmi`` Python package, which must fit the installed ROCm."""

    name = "amdsmi"

    def __init__(self) -> None:
        self.library: ModuleType | None = None

    def why_not(self) -> str | None:
        """Look for the package without loading it."""
        if find_spec("amdsmi") is None:
            return "the Python package amdsmi is missing: install the one of your ROCm version"
        return None

    def read(self) -> list[XpuDevice]:
        """Ask the library about each GPU."""
        if self.library is None:
            self.library = _load_library()
        return read_library(self.library)

    def close(self) -> None:
        """Shut the library down."""
        if self.library is not None:
            self.library.amdsmi_shut_down()
            self.library = None


def _load_library() -> ModuleType:
    try:
        library = import_module("amdsmi")
        library.amdsmi_init()
    except PermissionError as err:
        raise NotPermitted("amdsmi may not open the GPU: add the user to group render") from err
    except Exception as err:  # the package raises what its loader of the C library raises
        raise XpuError(
            f"amdsmi cannot start ({type(err).__name__}): install the package that came with this "
            "ROCm and add the user to group render"
        ) from err
    return library


def read_library(library: Any) -> list[XpuDevice]:
    """Read all GPUs through a loaded ``amdsmi`` module."""
    devices = []
    for index, handle in enumerate(library.amdsmi_get_processor_handles()):
        devices.append(_library_device(library, handle, index))
    return devices


def _library_device(library: Any, handle: Any, index: int) -> XpuDevice:
    def ask(function: str, *arguments: Any) -> Any:
        return _ask(library, function, handle, *arguments)

    usage, power = table(ask("amdsmi_get_gpu_activity")), table(ask("amdsmi_get_power_info"))
    memory, caps = table(ask("amdsmi_get_gpu_vram_usage")), table(ask("amdsmi_get_power_cap_info"))
    errors = table(ask("amdsmi_get_gpu_total_ecc_count"))
    asic, driver = table(ask("amdsmi_get_gpu_asic_info")), table(ask("amdsmi_get_gpu_driver_info"))
    place = table(ask("amdsmi_get_gpu_kfd_info")).get("current_partition_id")
    later_part = isinstance(place, int) and 0 < place < 64
    reading = Reading("partition_hides" if later_part else "not_supported")
    reading.read("utilization_ratio", scalar(usage.get("gfx_activity")), text.percent)
    reading.read("memory_bandwidth_ratio", scalar(usage.get("umc_activity")), text.percent)
    reading.read("power_watts", unwrapped(first(power, SOCKET_POWER)), text.number)
    reading.read("power_limit_watts", scalar(caps.get("power_cap")), _microwatts)
    reading.read("memory_total_bytes", scalar(memory.get("vram_total")), text.mebibytes)
    reading.read("memory_used_bytes", scalar(memory.get("vram_used")), text.mebibytes)
    reading.read("errors_corrected", scalar(errors.get("correctable_count")), text.whole)
    reading.read("errors_uncorrected", scalar(errors.get("uncorrectable_count")), text.whole)
    _read_library_sensors(reading, library, ask)
    _read_library_link(reading, table(table(ask("amdsmi_get_pcie_info")).get("pcie_metric")))
    states = table(ask("amdsmi_get_violation_status"))
    _read_library_throttle(reading, states)
    _read_energy(reading, table(ask("amdsmi_get_energy_count")))
    whole = unique_id(asic.get("asic_serial")) or word(ask("amdsmi_get_gpu_device_uuid"))
    address = pci_address(ask("amdsmi_get_gpu_device_bdf"))
    kind = word(ask("amdsmi_get_gpu_compute_partition"))
    return reading.device(
        **identity(index, whole, address, kind, place if later_part else 0),
        **meanings(reading),
        model=word(asic.get("market_name")),
        driver_version=word(driver.get("driver_version")),
        processes=_library_processes(ask("amdsmi_get_gpu_process_list")),
    )


def _ask(library: Any, function: str, *arguments: Any) -> Any:
    """Call the library; what it does not know, or not on this GPU, is None."""
    call = getattr(library, function, None)
    if call is None:
        return None
    try:
        return call(*arguments)
    except (library.AmdSmiException, AttributeError, ValueError):
        return None


def _read_library_sensors(reading: Reading, library: Any, ask: Callable[..., Any]) -> None:
    kinds, now = library.AmdSmiTemperatureType, library.AmdSmiTemperatureMetric.CURRENT
    heat = {
        name: scalar(ask("amdsmi_get_temp_metric", getattr(kinds, name), now))
        for name in ("JUNCTION", "EDGE", "VRAM")
    }
    hottest = heat["JUNCTION"] if heat["JUNCTION"] is not None else heat["EDGE"]
    reading.read("temperature_celsius", hottest, positive)
    reading.read("memory_temperature_celsius", heat["VRAM"], positive)
    for field, kind in (("core_clock", "GFX"), ("memory_clock", "MEM")):
        clock = table(ask("amdsmi_get_clock_info", getattr(library.AmdSmiClkType, kind)))
        reading.read(f"{field}_hz", scalar(clock.get("clk")), hertz)
        reading.read(f"{field}_max_hz", scalar(clock.get("max_clk")), hertz)


def _read_library_link(reading: Reading, link: dict[str, Any]) -> None:
    # The library gives the speed in MT/s.
    speed = text.scaled(scalar(link.get("pcie_speed")), 1e-3)
    reading.pcie(pcie_generation(speed), text.whole(scalar(link.get("pcie_width"))))


def _read_library_throttle(reading: Reading, states: dict[str, Any]) -> None:
    keys = {"prochot": "prochot_thrm", "ppt": "ppt_pwr", "socket_thermal": "socket_thrm"}
    keys |= {"vr_thermal": "vr_thrm", "hbm_thermal": "hbm_thrm"}
    known = {ours: states.get(f"active_{theirs}") for ours, theirs in keys.items()}
    active = {VIOLATIONS[key] for key, state in known.items() if state is True}
    told = any(isinstance(state, bool) for state in known.values())
    reading.put("throttle_reasons", tuple(sorted(active)) if told else None)


def _read_energy(reading: Reading, count: dict[str, Any]) -> None:
    ticks = text.number(scalar(count.get("energy_accumulator")))
    tick_microjoules = text.number(scalar(count.get("counter_resolution")))
    joules = ticks * tick_microjoules / 1e6 if ticks and tick_microjoules else None
    reading.put("energy_joules", joules)


def _library_processes(found: object) -> tuple[XpuProcess, ...] | None:
    if not isinstance(found, list):
        return None
    return tuple(
        XpuProcess(pid=one["pid"], memory_used_bytes=_library_memory(one))
        for one in map(table, found)
        if isinstance(one.get("pid"), int)
    )


def _library_memory(process: dict[str, Any]) -> int | None:
    inside = scalar(table(process.get("memory_usage")).get("vram_mem"))
    return text.whole(inside if inside is not None else scalar(process.get("mem")))


def _microwatts(raw: Any) -> float | None:
    return text.scaled(raw, 1e-6)
