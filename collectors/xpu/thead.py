"""T-Head (平头哥) PPUs, by ``ppu-smi``.

Columns and outline are those of the vendor's manual; of real cards (ZW810E) there are a CSV row
and readings of the vendor's library, with loaded memory and idle cores. Some images call the tool
``nvidia-smi``; there an answer without the PPU's banner is refused. The index may change with a
reboot, and all PPUs of a board share one serial number: neither names a device.
"""

import re
from collections.abc import Sequence

from collectors.xpu._outline import (
    Entry,
    Field,
    JoinedWay,
    Table,
    count,
    csv_rows,
    device,
    ecc_errors,
    finder,
    hertz,
    listed_processes,
    none_attached,
    not_understood,
    outline,
    pcie_generation,
    pcie_width,
    positive,
    program,
    rate,
    read,
    sections,
    size_bytes,
    throttle_reasons,
    unproven,
)
from collectors.xpu.base import Command, CommandWay, ParseError, Vendor, Way, merge
from collectors.xpu.text import number, percent
from schemas.records import ThrottleReason, XpuDevice

TOOL = "ppu-smi"
ALIAS = "nvidia-smi"
HEADING = r"^PPU[ \t]+([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])[ \t]*$"
QUERY = (
    "index,name,uuid,pci.bus_id,driver_version,memory.total,memory.used,utilization.ppu,"
    "temperature.ppu,power.draw,power.limit"
)

FIELDS = (
    Field("utilization_ratio", percent, ("utilization.ppu",)),
    Field("memory_total_bytes", size_bytes, ("memory.total",)),
    Field("memory_used_bytes", size_bytes, ("memory.used",)),
    Field("temperature_celsius", positive, ("temperature.ppu",)),
    Field("power_watts", number, ("power.draw",)),
    Field("power_limit_watts", positive, ("power.limit",)),
)
OUTLINE = (
    Field("utilization_ratio", percent, ("utilization/ppu",)),
    Field("memory_bandwidth_ratio", unproven, ("utilization/memory",)),
    Field("memory_total_bytes", size_bytes, ("memory usage/total",)),
    Field("memory_used_bytes", size_bytes, ("memory usage/used",)),
    Field("temperature_celsius", positive, ("temperature/ppu current temp",)),
    Field("memory_temperature_celsius", positive, ("temperature/memory current temp",)),
    Field("power_watts", number, ("power readings/power draw",)),
    Field(
        "power_limit_watts",
        positive,
        ("power readings/enforced power limit", "power readings/power limit"),
    ),
    Field("core_clock_hz", hertz, ("clocks/cu",)),
    Field("core_clock_max_hz", hertz, ("max clocks/cu",)),
    Field("memory_clock_hz", hertz, ("clocks/memory",)),
    Field("memory_clock_max_hz", hertz, ("max clocks/memory",)),
    Field("pcie_generation", pcie_generation, ("pcie generation/current",)),
    Field("pcie_width", pcie_width, ("link width/current",)),
    Field("pcie_received_bytes_per_second", rate, ("rx throughput",)),
    Field("pcie_sent_bytes_per_second", rate, ("tx throughput",)),
)
COUNTED = ("processes", "throttle_reasons", "errors_corrected", "errors_uncorrected")
TABLE = Table(
    vendor="thead",
    tool=TOOL,
    first="PPU",
    lines=3,
    fields=(
        Field("utilization_ratio", percent, ("ppu-util",)),
        Field("memory_total_bytes", size_bytes, ("total",)),
        Field("memory_used_bytes", size_bytes, ("used",)),
        Field("temperature_celsius", positive, ("temp",)),
        Field("power_watts", number, ("power",)),
        Field("power_limit_watts", positive, ("power limit",)),
        Field("errors_uncorrected", count, ("volatile uncorr. ecc",)),
    ),
)
THROTTLED = "clocks throttle reasons"
REASONS: dict[str, ThrottleReason | None] = {
    "idle": None,
    "applications clocks setting": "user_clock",
    "sw power cap": "sw_power_cap",
    "hw slowdown": "hw_slowdown",
    "hw thermal slowdown": "hw_thermal",
    "hw power brake slowdown": "power_brake",
    "sync boost": "sync_boost",
    "sw thermal slowdown": "sw_thermal",
}


def parse_query(text: str) -> list[XpuDevice]:
    """Read ``ppu-smi --query-ppu=... --format=csv`` by its header."""
    rows = csv_rows(f"{TOOL} --query-ppu", text, needs=("pci.bus_id", "index"))
    return merge([[_row(row)] for row in rows])


def _row(row: dict[str, str]) -> XpuDevice:
    return device(
        "thead",
        TOOL,
        read(FIELDS, row.get),
        uuid=row.get("uuid"),
        pci=row.get("pci.bus_id"),
        index=count(row.get("index")),
        model=row.get("name"),
        driver_version=row.get("driver_version"),
    )


def parse_outline(text: str) -> list[XpuDevice]:
    """Read ``ppu-smi -q``."""
    _check_banner(text)
    head, parts = sections(text, HEADING)
    if not parts and not none_attached(head):
        raise not_understood(f"{TOOL} -q", "heading such as PPU 00000000:01:00.0", text)
    driver = finder(outline(head))("driver version")
    return merge([[_card(match[1], outline(body), driver)] for match, body in parts])


def _check_banner(text: str) -> None:
    if not re.search(r"ppu-?smi|attached ppus", text, re.IGNORECASE):
        raise ParseError(
            f"this is not T-Head's tool, which some images call {ALIAS}: install {TOOL}, or take "
            "thead out of xpus"
        )


def _card(address: str, entries: Sequence[Entry], driver: str | None) -> XpuDevice:
    find = finder(entries)
    found = read(OUTLINE, find)
    found.add("processes", listed_processes(entries))
    found.add("throttle_reasons", throttle_reasons(entries, THROTTLED, REASONS))
    found.add("errors_corrected", ecc_errors(entries, "correctable"))
    found.add("errors_uncorrected", ecc_errors(entries, "uncorrectable"))
    found.want(COUNTED)
    return device(
        "thead",
        TOOL,
        found,
        uuid=find("ppu uuid"),
        pci=address,
        model=find("product name"),
        driver_version=driver,
    )


def parse_table(text: str) -> list[XpuDevice]:
    """Read ``ppu-smi`` without arguments."""
    _check_banner(text)
    return TABLE.read(text)


class THead(Vendor):
    """T-Head PPU; Alibaba's vendor id, which other devices of its cloud share."""

    title = "T-Head"
    pci_vendor_ids = frozenset({0x1DED})
    visible_variables = ("CUDA_VISIBLE_DEVICES",)
    experimental = (
        "ppu-smi is known from its manual and one CSV row: utilisation, throttling and errors "
        "were not seen on a loaded card."
    )

    def ways(self) -> list[Way]:
        """Give CSV with outline, the outline alone, also under the other name, then the table."""
        tool = program(TOOL, "/usr/local/bin/ppu-smi", "/usr/local/PPU_SDK/ppu-smi/bin/ppu-smi")
        query = Command((tool, f"--query-ppu={QUERY}", "--format=csv"), parse_query)
        listed = Command((tool, "-q"), parse_outline)
        return [
            JoinedWay(TOOL, [query, listed]),
            CommandWay(TOOL, [listed]),
            CommandWay(TOOL, [Command((ALIAS, "-q"), parse_outline)]),
            CommandWay(TOOL, [Command((tool,), parse_table)]),
        ]
