"""Intel Gaudi: `hl-smi`, by its CSV query and, for processes and limits, by its table."""

import csv
import re
from dataclasses import replace
from typing import Any

from collectors.xpu import text
from collectors.xpu._reading import (
    IndexedWay,
    Reading,
    hertz,
    pci_address,
    pcie_generation,
    positive,
    word,
)
from collectors.xpu.base import Command, ParseError, Vendor, Way
from schemas.records import XpuDevice, XpuProcess

NAME = "gaudi"
QUERY = (
    "index,uuid,bus_id,name,driver_version,temperature.aip,utilization.aip,memory.total,"
    "memory.used,power.draw,ecc.errors.corrected.volatile.total,"
    "ecc.errors.uncorrected.volatile.total"
)
# Builds before 1.16 or so refuse a query with names that they do not know.
NEWER_QUERY = (
    f"{QUERY},clocks.current.soc,clocks.max.soc,pcie.link.gen.current,pcie.link.width.current,"
    "pcie.link.speed.current"
)


class Gaudi(Vendor):
    """Intel Gaudi."""

    title = "Intel Gaudi"
    pci_vendor_ids = frozenset({0x1DA3})
    pci_class_prefixes = ("12",)
    visible_variables = ("HABANA_VISIBLE_DEVICES",)
    index_files = r"/dev/hl(\d+)"

    def ways(self) -> list[Way]:
        """Give the tool with all its fields, then with those of older builds."""
        return [
            IndexedWay(
                "hl-smi",
                [
                    Command(("hl-smi", "-Q", query, "-f", "csv"), parse_query),
                    Command(("hl-smi",), parse_table, slow=True),
                ],
            )
            for query in (NEWER_QUERY, QUERY)
        ]


def parse_query(output: str) -> list[XpuDevice]:
    """Parse ``hl-smi -Q FIELDS -f csv`` for any choice of fields, by its header."""
    lines = [line for line in output.splitlines() if line.strip()]
    begin = next((at for at, line in enumerate(lines) if _is_header(_names(line))), None)
    if begin is None:
        raise ParseError(
            "hl-smi -Q has no header with 'uuid', 'bus_id' or 'index': ask for one of them, and "
            "not with noheader"
        )
    names = _names(lines[begin])
    rows = [dict(zip(names, _split(line), strict=False)) for line in lines[begin + 1 :]]
    devices = [_queried(row) for row in rows if _identity(row) is not None]
    if not devices:
        raise ParseError("hl-smi -Q lists no device below its header: check the habanalabs driver")
    return devices


def _split(line: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader([line], skipinitialspace=True), [])]
    except csv.Error:
        return []


def _names(line: str) -> list[str]:
    return [cell.partition(" [")[0] for cell in _split(line)]


def _is_header(names: list[str]) -> bool:
    return not {"uuid", "bus_id", "index"}.isdisjoint(names)


def _identity(row: dict[str, str]) -> str | None:
    index = text.whole(row.get("index"))
    return (
        word(row.get("uuid"))
        or pci_address(row.get("bus_id"))
        or (f"{NAME}:{index}" if index is not None else None)
    )


def _queried(row: dict[str, str]) -> XpuDevice:
    reading = Reading()
    # A card at rest shows 12 to 16 %, 100 W and 512 or 768 MiB: that is how it is, not a mistake.
    reading.read("utilization_ratio", row.get("utilization.aip"), text.percent)
    reading.read("memory_total_bytes", row.get("memory.total"), text.mebibytes)
    reading.read("memory_used_bytes", row.get("memory.used"), text.mebibytes)
    reading.read("power_watts", row.get("power.draw"), text.number)
    reading.read("temperature_celsius", row.get("temperature.aip"), positive)
    reading.read("core_clock_hz", row.get("clocks.current.soc"), hertz)
    reading.read("core_clock_max_hz", row.get("clocks.max.soc"), hertz)
    for field, kind in (("errors_corrected", "corrected"), ("errors_uncorrected", "uncorrected")):
        reading.read(field, row.get(f"ecc.errors.{kind}.volatile.total"), text.whole)
    speed = text.number(row.get("pcie.link.speed.current"))
    generation = text.whole(row.get("pcie.link.gen.current")) or pcie_generation(speed)
    reading.pcie(generation, _width(row.get("pcie.link.width.current")))
    return reading.device(
        _identity(row) or "",
        NAME,
        device_index=text.whole(row.get("index")),
        model=word(row.get("name")),
        pci_address=pci_address(row.get("bus_id")),
        driver_version=word(row.get("driver_version")),
        **_meanings(reading),
    )


def _width(raw: str | None) -> int | None:
    return text.whole((raw or "").strip().lstrip("xX") or None)


def _meanings(reading: Reading) -> dict[str, Any]:
    known = reading.values
    return {
        "utilization_meaning": "busy_time" if "utilization_ratio" in known else None,
        "power_window": "unknown" if "power_watts" in known else None,
    }


# The table: two header lines in three columns, two rows for each card, then the processes.


def parse_table(output: str) -> list[XpuDevice]:
    """Parse the table of ``hl-smi`` without options, by its header lines."""
    headers: list[list[str]] = []
    cards: list[list[list[str]]] = []
    processes: dict[int, list[XpuProcess]] = {}
    at_processes = False
    for line in output.splitlines():
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if "Compute Processes:" in line:
            at_processes = True
        elif at_processes:
            _read_process(cells[0].split(), processes)
        elif len(cells) == 3 and cells[0].startswith(("AIP ", "Fan ")):
            headers.append(cells)
        elif len(cells) == 3 and headers and not cells[0].startswith(("-", "=", "+")):
            if len(cards) and len(cards[-1]) < len(headers):
                cards[-1].append(cells)
            else:
                cards.append([cells])
    if len(headers) != 2:
        raise ParseError(
            "hl-smi has no header lines 'AIP Name' and 'Fan Temp': report this version of hl-smi"
        )
    found = [_tabled(headers, card) for card in cards if len(card) == len(headers)]
    return [
        one if not at_processes else _with(one, processes.get(one.device_index or 0, []))
        for one in found
        if one is not None
    ]


def _tabled(headers: list[list[str]], card: list[list[str]]) -> XpuDevice | None:
    first, second = (dict(zip(*pair, strict=True)) for pair in zip(headers, card, strict=True))
    name = _under(first, "AIP")
    index = text.whole(name.split()[0]) if name else None
    if index is None:
        return None
    reading = Reading()
    heat = re.search(r"(\d+)C\b", _under(second, "Fan"))
    power = re.search(r"(\d+)W\s*/\s*(\d+)W", _under(second, "Fan"))
    memory = re.search(r"(\d+)Mi?B\s*/\s*(\d+)Mi?B", _under(second, "Memory-Usage"), re.I)
    load = re.search(r"(\d+)%", _under(second, "AIP-Util"))
    reading.read("temperature_celsius", heat and heat[1], positive)
    reading.read("power_watts", power and power[1], text.number)
    reading.read("power_limit_watts", power and power[2], positive)
    reading.read("memory_used_bytes", memory and memory[1], text.mebibytes)
    reading.read("memory_total_bytes", memory and memory[2], text.mebibytes)
    reading.read("utilization_ratio", load and load[1], text.percent)
    errors = _under(first, "Volatile Unc")
    reading.read("errors_uncorrected", errors or None, text.whole)
    address = pci_address((_under(first, "Bus-Id").split() or [""])[0])
    return reading.device(
        f"{NAME}:{index}",
        NAME,
        device_index=index,
        model=name.split()[1] if len(name.split()) > 1 else None,
        pci_address=address,
        **_meanings(reading),
    )


def _under(row: dict[str, str], name: str) -> str:
    """Give the cell below the header that begins with a name."""
    return next((cell for header, cell in row.items() if header.startswith(name)), "")


def _read_process(words: list[str], into: dict[int, list[XpuProcess]]) -> None:
    """Read a row "AIP PID Type Process-name Usage", of which only the name may have blanks."""
    if len(words) < 5:
        return
    index, pid = text.whole(words[0]), text.whole(words[1])
    if index is not None and pid is not None:
        used = text.mebibytes(words[-1])
        into.setdefault(index, []).append(XpuProcess(pid=pid, memory_used_bytes=used))


def _with(device: XpuDevice, processes: list[XpuProcess]) -> XpuDevice:
    return replace(device, processes=tuple(processes))
