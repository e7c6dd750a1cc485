"""Intel data-centre GPUs: `xpu-smi`, whose numbers of metrics changed but not their headers."""

import csv
import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from collectors.xpu import text
from collectors.xpu._reading import (
    Raw,
    Reading,
    document,
    hertz,
    items,
    join,
    pci_address,
    positive,
    scalar,
    table,
    word,
)
from collectors.xpu.base import Command, CommandWay, ParseError, Vendor, Way, run
from schemas.records import MissingReason, XpuDevice

NAME = "intel"
# The same in version 1 and 2: load, power, clock, temperatures, energy, bandwidth, memory, PCIe,
# memory errors.
METRICS = "0,1,2,3,4,6,7,8,17,18,19,20,29,30"
FOR_ROOT = (
    "utilization_ratio",
    "memory_bandwidth_ratio",
    "temperature_celsius",
    "memory_temperature_celsius",
)
# Processors' own graphics are always here; a card is behind a bridge, on another bus.
PROCESSOR_GRAPHICS = "0000:00:02.0"


class Intel(Vendor):
    """Intel data-centre GPUs."""

    title = "Intel GPU"
    pci_vendor_ids = frozenset({0x8086})
    pci_class_prefixes = ("03",)
    visible_variables = ("ZE_AFFINITY_MASK",)
    experimental = "no captured output of a GPU under load, and none of xpu-smi 2, was to be had"

    def ways(self) -> list[Way]:
        """Give the tool with the options of version 1, then those of version 2."""
        return [
            XpuSmi(("-m", METRICS, "-i", "1", "-n", "1")),
            XpuSmi(("--metrics", METRICS, "--number", "1", "--format", "csv")),
        ]

    def is_here(self, sys: Path = Path("/sys")) -> bool:
        """Tell from the PCI bus whether there is a card, not just a processor with graphics."""
        for device in (sys / "bus/pci/devices").glob("*"):
            try:
                found = (device / "vendor").read_text().strip(), (device / "class").read_text()
            except (OSError, ValueError):
                continue
            display = found[1].strip().removeprefix("0x").startswith(self.pci_class_prefixes)
            if found[0] == "0x8086" and display and device.name != PROCESSOR_GRAPHICS:
                return True
        return False


class XpuSmi(CommandWay):
    """Who the devices are, asked once, then one line of counters for each."""

    def __init__(self, options: tuple[str, ...]) -> None:
        dump = Command(("xpu-smi", "dump", "-d", "-1", *options), parse_dump)
        super().__init__("xpu-smi", [dump])
        self.known: list[XpuDevice] | None = None

    def read(self) -> list[XpuDevice]:
        """Run the dump and add who the devices are."""
        if self.known is None:
            self.known = self._discover()
        devices = join([*self.answers(), self.known])
        return devices if os.geteuid() == 0 else [_refused(one) for one in devices]

    def _discover(self) -> list[XpuDevice]:
        ask = ("xpu-smi", "discovery")
        found = parse_discovery(run((*ask, "-j")))
        details = [parse_discovery(run((*ask, "-d", str(one.device_index), "-j"))) for one in found]
        return join([found, *details])


def parse_discovery(output: str) -> list[XpuDevice]:
    """Parse ``xpu-smi discovery -j``: all devices in short, or one (``-d N``) with its details."""
    root = table(document(output, "xpu-smi discovery -j"))
    found = [table(one) for one in items(root.get("device_list"))] or [root]
    devices = [_discovered(one) for one in found if isinstance(one.get("device_id"), int)]
    if not devices:
        raise ParseError(
            "xpu-smi discovery -j has no 'device_id': is this Intel's xpu-smi? Kunlunxin's has "
            "the same name"
        )
    return devices


def _discovered(one: dict[str, Any]) -> XpuDevice:
    address = pci_address(one.get("pci_bdf_address"))
    return XpuDevice(
        device_id=word(one.get("uuid")) or address or f"{NAME}:{one['device_id']}",
        vendor=NAME,
        device_index=one["device_id"],
        model=word(one.get("device_name")),
        pci_address=address,
        driver_version=word(one.get("driver_version")),
        memory_total_bytes=text.whole(scalar(one.get("memory_physical_size_byte"))),
    )


def _refused(device: XpuDevice) -> XpuDevice:
    """Give the likelier reason for what the tool leaves blank to users other than root."""
    refused: dict[str, MissingReason] = {
        name: "not_permitted" for name in FOR_ROOT if name in device.missing
    }
    return replace(device, missing=device.missing | refused)


# A column's name without its unit and case: version 1's texts, older ones, version 2's fields.
COLUMNS: dict[str, str] = {
    "gpu utilization": "utilization",
    "average % utilization of all gpu engines": "utilization",
    "utilization.gpu": "utilization",
    "gpu power": "power",
    "power.draw": "power",
    "gpu frequency": "clock",
    "clocks.current.graphics": "clock",
    "gpu core temperature": "temperature",
    "temperature.gpu": "temperature",
    "gpu memory temperature": "memory temperature",
    "temperature.memory": "memory temperature",
    "gpu memory read": "memory read",
    "memory.read.bandwidth": "memory read",
    "gpu memory write": "memory write",
    "memory.write.bandwidth": "memory write",
    "gpu energy consumed": "energy",
    "energy.consumed": "energy",
    "gpu memory bandwidth utilization": "bandwidth",
    "memory.bandwidth.utilization": "bandwidth",
    "gpu memory used": "memory used",
    "memory.used": "memory used",
    "pcie read": "pcie read",
    "pcie.rx.throughput.kbs": "pcie read",
    "pcie write": "pcie write",
    "pcie.tx.throughput.kbs": "pcie write",
    "gpu memory errors correctable": "corrected",
    "ras.non_compute.errors.correctable": "corrected",
    "gpu memory errors uncorrectable": "uncorrected",
    "ras.non_compute.errors.uncorrectable": "uncorrected",
}


def parse_dump(output: str) -> list[XpuDevice]:
    """Parse the lines of ``xpu-smi dump``; of several for one device the last counts."""
    lines = output.splitlines()
    begin = next((at for at, line in enumerate(lines) if line.startswith("Timestamp")), None)
    header = _split(lines[begin]) if begin is not None else []
    if begin is None or "DeviceId" not in header:
        raise ParseError(
            "xpu-smi dump has no header with 'Timestamp' and 'DeviceId': is this Intel's xpu-smi? "
            "Kunlunxin's has the same name"
        )
    names = [COLUMNS.get(re.sub(r"\s*\([^()]*\)$", "", name).lower(), name) for name in header]
    rows = [dict(zip(names, _split(line), strict=False)) for line in lines[begin + 1 :]]
    newest = {index: row for row in rows if (index := text.whole(row.get("DeviceId"))) is not None}
    if not newest:
        raise ParseError("xpu-smi dump has no line below its header: run it by hand to see why")
    return [_device(index, row) for index, row in newest.items()]


def _split(line: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True), [])]
    except csv.Error:
        return []


def _device(index: int, row: dict[str, str]) -> XpuDevice:
    reading = Reading()
    reading.read("utilization_ratio", row.get("utilization"), text.percent)
    reading.read("power_watts", row.get("power"), text.number)
    reading.read("core_clock_hz", row.get("clock"), hertz)
    reading.read("temperature_celsius", row.get("temperature"), positive)
    reading.read("memory_temperature_celsius", row.get("memory temperature"), positive)
    reading.read("energy_joules", row.get("energy"), positive)
    reading.read("memory_bandwidth_ratio", row.get("bandwidth"), text.percent)
    reading.read("memory_used_bytes", row.get("memory used"), text.mebibytes)
    reading.read("pcie_received_bytes_per_second", row.get("pcie read"), _kilobytes)
    reading.read("pcie_sent_bytes_per_second", row.get("pcie write"), _kilobytes)
    reading.read("errors_corrected", row.get("corrected"), text.whole)
    reading.read("errors_uncorrected", row.get("uncorrected"), text.whole)
    moved = [_kilobytes(row.get(name)) for name in ("memory read", "memory write")]
    known = [rate for rate in moved if rate is not None]
    both = len(known) == len(moved)
    reading.put("memory_io_bytes_per_second", sum(known) if both else None)
    return reading.device(f"{NAME}:{index}", NAME, device_index=index, **_meanings(reading))


def _kilobytes(raw: Raw) -> float | None:
    return text.scaled(raw, 1e3)


def _meanings(reading: Reading) -> dict[str, Any]:
    known = reading.values
    return {
        "utilization_meaning": "busy_time" if "utilization_ratio" in known else None,
        "memory_bandwidth_meaning": "of_peak" if "memory_bandwidth_ratio" in known else None,
        "power_window": "unknown" if "power_watts" in known else None,
    }
