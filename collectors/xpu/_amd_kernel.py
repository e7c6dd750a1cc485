"""What the `amdgpu` and KFD drivers write below ``/sys``.

No process is started, so this costs less than any tool.
"""

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from collectors.xpu import text
from collectors.xpu._amd import identity, meanings, unique_id
from collectors.xpu._reading import Raw, Reading, pci_address, pcie_generation, positive, word
from collectors.xpu.base import Way, XpuError
from schemas.records import XpuDevice, XpuProcess


class KernelFiles(Way):
    """The counters that the ``amdgpu`` driver writes below ``/sys``."""

    name = "amdgpu-sysfs"

    def __init__(self, sys: Path = Path("/sys")) -> None:
        self.sys = sys

    def why_not(self) -> str | None:
        """Look for a card of the ``amdgpu`` driver."""
        if not self._cards():
            return f"no card with gpu_busy_percent in {self.sys}/class/drm: load the amdgpu driver"
        return None

    def read(self) -> list[XpuDevice]:
        """Read the files of each card."""
        processes = _kfd_processes(self.sys)
        devices = [_card_files(card, index, self.sys) for index, card in enumerate(self._cards())]
        if not devices:
            raise XpuError("the amdgpu driver shows no card: check with dmesg")
        if processes is None:
            return devices
        return [
            replace(device, processes=processes.get(device.pci_address or "", ()))
            for device in devices
        ]

    def _cards(self) -> list[Path]:
        cards = [
            path / "device"
            for path in (self.sys / "class/drm").glob("card*")
            if re.fullmatch(r"card\d+", path.name) and _line(path / "device/vendor") == "0x1002"
        ]
        return sorted(
            (card for card in cards if (card / "mem_info_vram_total").exists()),
            key=lambda card: card.resolve().name,
        )


def _card_files(card: Path, index: int, sys: Path) -> XpuDevice:
    sensors = next(iter(sorted((card / "hwmon").glob("hwmon*"))), card / "hwmon")
    labels = {_line(path): path.name.removesuffix("_label") for path in sensors.glob("temp*_label")}
    reading = Reading()
    reading.read("utilization_ratio", _line(card / "gpu_busy_percent"), text.percent)
    reading.read("memory_bandwidth_ratio", _line(card / "mem_busy_percent"), text.percent)
    reading.read("memory_total_bytes", _line(card / "mem_info_vram_total"), text.whole)
    reading.read("memory_used_bytes", _line(card / "mem_info_vram_used"), text.whole)
    average = _line(sensors / "power1_average")
    watts = average if text.number(average) is not None else _line(sensors / "power1_input")
    reading.read("power_watts", watts, _micro)
    reading.read("power_limit_watts", _line(sensors / "power1_cap"), _micro)
    hottest = labels.get("junction") or labels.get("edge")
    reading.read("temperature_celsius", _line(sensors / f"{hottest}_input"), _milli)
    hot_memory = _line(sensors / f"{labels.get('mem')}_input")
    reading.read("memory_temperature_celsius", hot_memory, _milli)
    reading.read("core_clock_hz", _line(sensors / "freq1_input"), positive)
    reading.read("memory_clock_hz", _line(sensors / "freq2_input"), positive)
    speed = text.number((_line(card / "current_link_speed") or "").partition(" ")[0])
    reading.pcie(pcie_generation(speed), text.whole(_line(card / "current_link_width")))
    _read_memory_errors(reading, card)
    address = card.resolve().name
    kind = word(_line(card / "current_compute_partition"))
    window = "average" if average else "instant"
    fields: dict[str, Any] = {
        **identity(index, unique_id(_line(card / "unique_id")), pci_address(address), kind),
        **meanings(reading),
        "power_window": window if watts else None,
    }
    return reading.device(
        **fields,
        model=word(_line(card / "product_name")),
        driver_version=word(_line(sys / "module/amdgpu/version")),
    )


def _read_memory_errors(reading: Reading, card: Path) -> None:
    try:
        counts = (card / "ras/umc_err_count").read_text()
    except OSError:
        counts = ""
    for field, key in (("errors_corrected", "ce"), ("errors_uncorrected", "ue")):
        found = re.search(rf"^{key}:\s*(\d{{1,18}})", counts, re.MULTILINE)
        reading.put(field, int(found[1]) if found is not None else None)


def _kfd_processes(sys: Path) -> dict[str, tuple[XpuProcess, ...]] | None:
    """Give the processes with device memory by PCI address; None where KFD does not tell."""
    nodes = {
        number: address
        for node in (sys / "class/kfd/kfd/topology/nodes").glob("*")
        if (number := _line(node / "gpu_id")) not in (None, "0")
        and (address := _kfd_address(node / "properties")) is not None
    }
    folder = sys / "class/kfd/kfd/proc"
    if not nodes or not folder.is_dir():
        return None
    found: dict[str, tuple[XpuProcess, ...]] = {}
    for file in folder.glob("*/vram_*"):
        address = nodes.get(file.name.removeprefix("vram_"))
        used = text.whole(_line(file))
        if address is not None and used and file.parent.name.isdigit():
            process = XpuProcess(pid=int(file.parent.name), memory_used_bytes=used)
            found[address] = (*found.get(address, ()), process)
    return found


def _kfd_address(properties: Path) -> str | None:
    try:
        lines = [line.split() for line in properties.read_text().splitlines()]
        pairs = {line[0]: line[1] for line in lines if len(line) == 2}
        place, domain = int(pairs["location_id"]), int(pairs.get("domain", "0"))
    except (OSError, ValueError, KeyError):
        return None
    return f"{domain:04x}:{place >> 8 & 0xFF:02x}:{place >> 3 & 0x1F:02x}.{place & 7}"


def _line(path: Path) -> str | None:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return None


def _micro(raw: Raw) -> float | None:
    return text.scaled(raw, 1e-6)


def _milli(raw: Raw) -> float | None:
    return text.scaled(raw, 1e-3)
