"""Cambricon (寒武纪) MLUs, by ``cnmon``.

The outline of ``cnmon info`` is known from other programs that read it (v4.20 and v5.10); of the
table of ``cnmon`` there are captures of idle MLU370 cards. ``cnmon info -j`` is not used: it
writes a file where it stands.
"""

from collections.abc import Sequence

from collectors.xpu._outline import (
    Entry,
    Field,
    Find,
    Table,
    count,
    device,
    finder,
    listed_processes,
    not_understood,
    outline,
    pcie_generation,
    pcie_width,
    positive,
    read,
    sections,
    size_bytes,
)
from collectors.xpu.base import Command, CommandWay, Vendor, Way, merge
from collectors.xpu.text import number, percent
from schemas.records import XpuDevice

TOOL = "cnmon"
HEADING = r"^[ \t]*Card[ \t]*:?[ \t]*([0-9]{1,6})[ \t]*:?[ \t]*$"

FIELDS = (
    Field("utilization_ratio", percent, ("utilization/mlu average", "mlu average")),
    Field("memory_total_bytes", size_bytes, ("physical memory usage/total",)),
    Field("memory_used_bytes", size_bytes, ("physical memory usage/used",)),
    Field("temperature_celsius", positive, ("temperature/chip", "temperature/board")),
    Field("memory_temperature_celsius", positive, ("temperature/memory",)),
    Field("power_watts", number, ("power/usage",)),
    Field("power_limit_watts", positive, ("power/cap",)),
    Field("pcie_generation", pcie_generation, ("current speed",)),
    Field("pcie_width", pcie_width, ("current width",)),
)
TABLE = Table(
    vendor="cambricon",
    tool=TOOL,
    first="Card",
    lines=2,
    utilization="core_mean",
    fields=(
        Field("utilization_ratio", percent, ("util",)),
        Field("memory_total_bytes", size_bytes, ("total",)),
        Field("memory_used_bytes", size_bytes, ("used",)),
        Field("temperature_celsius", positive, ("temp",)),
        Field("power_watts", number, ("power",)),
        Field("power_limit_watts", positive, ("power limit",)),
        Field("errors_uncorrected", count, ("ecc-error",)),
    ),
)


def parse_info(text: str) -> list[XpuDevice]:
    """Read ``cnmon info``."""
    _, parts = sections(text, HEADING)
    if not parts:
        raise not_understood(f"{TOOL} info", "heading such as Card 0", text)
    return merge([[_card(int(match[1]), outline(body))] for match, body in parts])


def _card(index: int, entries: Sequence[Entry]) -> XpuDevice:
    find = finder(entries)
    found = read(FIELDS, find)
    found.add("processes", listed_processes(entries))
    found.want(("processes",))
    return device(
        "cambricon",
        TOOL,
        found,
        uuid=find("uuid"),
        pci=_address(find),
        index=index,
        utilization="core_mean",
        model=find("product name"),
        driver_version=_driver(entries),
    )


def _driver(entries: Sequence[Entry]) -> str | None:
    """Give the driver's version, not the ``Driver`` of the health report."""
    return next((one.value for one in entries if one.path == ("driver",) and one.value), None)


def _address(find: Find) -> str | None:
    parts = [find(f"pci/{name}") for name in ("domain id", "bus num", "device", "function")]
    domain, bus, slot, function = ((part or "?").removeprefix("0x") for part in parts)
    return f"{domain}:{bus}:{slot}.{function}"


def parse_table(text: str) -> list[XpuDevice]:
    """Read ``cnmon`` without arguments; its cells moved between versions."""
    return TABLE.read(text)


class Cambricon(Vendor):
    """Cambricon MLU."""

    title = "Cambricon"
    pci_vendor_ids = frozenset({0xCABC})
    visible_variables = ("MLU_VISIBLE_DEVICES", "CAMBRICON_VISIBLE_DEVICES")
    index_files = r"/dev/cambricon_dev(\d+)"
    experimental = (
        "the layout of cnmon info is known from other programs only, its table from idle MLU370 "
        "cards: no counter was seen under load."
    )

    def ways(self) -> list[Way]:
        """Give the outline, then the table."""
        return [
            CommandWay(TOOL, [Command((TOOL, "info"), parse_info)]),
            CommandWay(TOOL, [Command((TOOL,), parse_table)]),
        ]
