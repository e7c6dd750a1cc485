"""AMD's command line tools: `amd-smi`, and `rocm-smi` before it."""

import re
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
    Raw,
    Reading,
    document,
    hertz,
    items,
    pci_address,
    pcie_generation,
    positive,
    scalar,
    table,
    word,
)
from collectors.xpu.base import ParseError
from schemas.records import XpuDevice, XpuProcess

# Counters that only the first partition of a divided GPU has.
WHOLE_DEVICE_FIELDS = (
    "utilization_ratio",
    "memory_bandwidth_ratio",
    "power_watts",
    "temperature_celsius",
    "memory_temperature_celsius",
    "core_clock_hz",
    "memory_clock_hz",
)

# `amd-smi`: values are {"value", "unit"}, bare, or "N/A", at any depth.


def parse_static(output: str) -> list[XpuDevice]:
    """Parse ``amd-smi static --json``: who the devices are and their limits."""
    devices = []
    for gpu in _gpus(output, "amd-smi static --json"):
        asic, limit = table(gpu.get("asic")), table(gpu.get("limit"))
        partition = table(gpu.get("partition"))
        reading = Reading()
        capped = limit.get("current_power") or limit.get("socket_power") or limit.get("max_power")
        capped = capped or table(limit.get("ppt0")).get("socket_power_limit")
        reading.read("power_limit_watts", unwrapped(capped), positive)
        address = pci_address(table(gpu.get("bus")).get("bdf"))
        whole = unique_id(asic.get("asic_serial"))
        place = text.whole(scalar(partition.get("partition_id")))
        kind = word(partition.get("accelerator_partition") or partition.get("compute_partition"))
        if place:
            reading.missing |= dict.fromkeys(WHOLE_DEVICE_FIELDS, "partition_hides")
        devices.append(
            reading.device(
                **identity(gpu["gpu"], whole, address, kind, place),
                model=word(asic.get("market_name")),
                driver_version=word(table(gpu.get("driver")).get("version")),
            )
        )
    return devices


def parse_metric(output: str) -> list[XpuDevice]:
    """Parse ``amd-smi metric --json``, whose root is a list or an object with ``gpu_data``."""
    return [_metric(gpu) for gpu in _gpus(output, "amd-smi metric --json")]


def parse_process(output: str) -> list[XpuDevice]:
    """Parse ``amd-smi process --json``; the engines' time in it stays 0 under load, so no time."""
    devices = []
    for gpu in _gpus(output, "amd-smi process --json"):
        found = [table(table(one).get("process_info")) for one in items(gpu.get("process_list"))]
        processes = tuple(
            XpuProcess(pid=one["pid"], memory_used_bytes=_process_memory(one))
            for one in found
            if isinstance(one.get("pid"), int)
        )
        devices.append(Reading().device(**identity(gpu["gpu"]), processes=processes))
    return devices


def _gpus(output: str, tool: str) -> list[dict[str, Any]]:
    root = document(output, tool)
    if isinstance(root, dict):
        root = root.get("gpu_data")
    gpus = [gpu for gpu in items(root) if isinstance(table(gpu).get("gpu"), int)]
    if not gpus:
        raise ParseError(f"{tool} has no list of objects with a number under 'gpu': report it")
    return gpus


def _metric(gpu: dict[str, Any]) -> XpuDevice:
    usage, power = table(gpu.get("usage")), table(gpu.get("power"))
    heat, memory = table(gpu.get("temperature")), table(gpu.get("mem_usage"))
    errors, clocks = table(gpu.get("ecc")), table(gpu.get("clock"))
    reading = Reading()
    reading.read("utilization_ratio", unwrapped(usage.get("gfx_activity")), text.percent)
    reading.read("memory_bandwidth_ratio", unwrapped(usage.get("umc_activity")), text.percent)
    reading.read("power_watts", unwrapped(first(power, SOCKET_POWER)), text.number)
    hottest = first(heat, ("hotspot", "junction", "edge"))
    reading.read("temperature_celsius", unwrapped(hottest), positive)
    reading.read("memory_temperature_celsius", unwrapped(heat.get("mem")), positive)
    reading.read("memory_total_bytes", unwrapped(memory.get("total_vram")), text.mebibytes)
    reading.read("memory_used_bytes", unwrapped(memory.get("used_vram")), text.mebibytes)
    reading.read("errors_corrected", unwrapped(errors.get("total_correctable_count")), text.whole)
    uncorrected = unwrapped(errors.get("total_uncorrectable_count"))
    reading.read("errors_uncorrected", uncorrected, text.whole)
    energy = table(gpu.get("energy")).get("total_energy_consumption")
    reading.put("energy_joules", positive(unwrapped(energy)))  # 0.0 where there is no counter
    _read_clocks(reading, clocks)
    _read_link(reading, table(gpu.get("pcie")))
    _read_throttle(reading, word(power.get("throttle_status")), table(gpu.get("throttle")))
    return reading.device(**identity(gpu["gpu"]), **meanings(reading))


def _read_clocks(reading: Reading, clocks: dict[str, Any]) -> None:
    for field, engine in (("core_clock", "gfx"), ("memory_clock", "mem")):
        parts = [table(node) for key, node in clocks.items() if re.fullmatch(rf"{engine}_\d+", key)]
        now = [found for part in parts if (found := hertz(unwrapped(part.get("clk")))) is not None]
        most = [found for part in parts if (found := hertz(unwrapped(part.get("max_clk"))))]
        # A GPU of several dies has a clock for each.
        reading.put(f"{field}_hz", sum(now) / len(now) if now else None)
        reading.put(f"{field}_max_hz", max(most, default=None))


def _read_link(reading: Reading, link: dict[str, Any]) -> None:
    speed = text.number(unwrapped(link.get("speed")))
    reading.pcie(pcie_generation(speed), text.whole(unwrapped(link.get("width"))))
    for field, key in (("sent", "sent"), ("received", "received")):
        rate = text.scaled(unwrapped(link.get(f"current_bandwidth_{key}")), 1e6 / 8)
        reading.put(f"pcie_{field}_bytes_per_second", rate)


def _read_throttle(reading: Reading, status: str | None, details: dict[str, Any]) -> None:
    """Read what holds the clock down.

    Some Radeons say THROTTLED forever, so that word counts only where the details bear it out.
    """
    states = {key: word(details.get(f"{key}_violation_status")) for key in VIOLATIONS}
    known = {key: state for key, state in states.items() if state is not None}
    if known:
        active = {VIOLATIONS[key] for key, state in known.items() if state == "ACTIVE"}
        reading.put("throttle_reasons", tuple(sorted(active)))
    elif status == "UNTHROTTLED":
        reading.put("throttle_reasons", ())
    else:
        reading.put("throttle_reasons", None, None if status is None else "suspect")


def _process_memory(process: dict[str, Any]) -> int | None:
    inside = unwrapped(table(process.get("memory_usage")).get("vram_mem"))
    return text.whole(inside if inside is not None else unwrapped(process.get("mem_usage")))


# `rocm-smi`: flat objects of texts, whose keys were renamed from version to version.

ROCM_POWER = (
    "Current Socket Graphics Package Power (W)",
    "Average Graphics Package Power (W)",
)


def parse_rocm_smi(output: str) -> list[XpuDevice]:
    """Parse ``rocm-smi -a --json`` of ROCm 5 to 7."""
    root = document(output, "rocm-smi -a --json")
    cards = {key: card for key, card in table(root).items() if re.fullmatch(r"card\d{1,4}", key)}
    if not cards:
        raise ParseError("rocm-smi -a --json has no 'card0': check that amdgpu is loaded")
    driver = word(table(table(root).get("system")).get("Driver version"))
    return [
        _rocm_card(int(key.removeprefix("card")), table(card), driver)
        for key, card in cards.items()
    ]


def _rocm_card(index: int, card: dict[str, Any], driver: str | None) -> XpuDevice:
    card = {key.strip().rstrip(":").lower(): scalar(value) for key, value in card.items()}

    def find(*keys: str) -> Raw:
        found = [card.get(key.lower()) for key in keys]
        return next((one for one in found if text.number(one) is not None), found[0])

    heat = [f"Temperature (Sensor {sensor}) (C)" for sensor in ("junction", "edge")]
    reading = Reading()
    reading.read("utilization_ratio", find("GPU use (%)"), text.percent)
    # "GPU memory use (%)" of older versions is the same counter as this, not the memory in use.
    busy = find("GPU Memory Read/Write Activity (%)", "GPU memory use (%)")
    reading.read("memory_bandwidth_ratio", busy, text.percent)
    reading.read("memory_total_bytes", find("VRAM Total Memory (B)"), text.whole)
    reading.read("memory_used_bytes", find("VRAM Total Used Memory (B)"), text.whole)
    reading.read("power_watts", find(*ROCM_POWER), text.number)
    reading.read("power_limit_watts", find("Max Graphics Package Power (W)"), positive)
    reading.read("temperature_celsius", find(*heat), positive)
    hot_memory = find("Temperature (Sensor memory) (C)")
    reading.read("memory_temperature_celsius", hot_memory, positive)
    reading.read("core_clock_hz", find("sclk clock speed"), hertz)
    reading.read("memory_clock_hz", find("mclk clock speed"), hertz)
    link = re.search(r"([\d.]+)\s*GT/s\s*x(\d{1,3})", str(card.get("pcie clock level")))
    speed = float(link[1]) if link is not None else None
    reading.pcie(pcie_generation(speed), int(link[2]) if link is not None else None)
    address = pci_address(card.get("pci bus"))
    return reading.device(
        **identity(index, unique_id(card.get("unique id")), address),
        **meanings(reading),
        model=word(card.get("card series")),
        driver_version=driver,
    )
