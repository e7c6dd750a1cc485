"""Moore Threads (摩尔线程) GPUs, by ``mthreads-gmi``.

Seen on idle S5000 cards: JSON with memory, utilisation, temperature and power, and a table. Keys
of the JSON may end in blanks and units are glued to the numbers. The vendor's library
(``mthreads-ml-py``) is not needed and not used.
"""

import json
from typing import Any

from collectors.xpu._outline import (
    Field,
    Find,
    JoinedWay,
    Table,
    count,
    device,
    not_understood,
    pcie_width,
    positive,
    read,
    size_bytes,
    unproven,
)
from collectors.xpu.base import Command, CommandWay, Vendor, Way
from collectors.xpu.text import number, percent
from schemas.records import XpuDevice

TOOL = "mthreads-gmi"

FIELDS = (
    Field("utilization_ratio", percent, ("utilization/gpu",)),
    # Whether this is the bandwidth or the occupancy is told nowhere; it was only seen as 0.
    Field("memory_bandwidth_ratio", unproven, ("utilization/memory",)),
    Field("memory_total_bytes", size_bytes, ("fb memory usage/total",)),
    Field("memory_used_bytes", size_bytes, ("fb memory usage/used",)),
    Field("temperature_celsius", positive, ("temperature/gpu current temp",)),
    Field("power_watts", number, ("power readings/power draw",)),
    Field("power_limit_watts", positive, ("power readings/current power limit",)),
)
TABLE = Table(
    vendor="mthreads",
    tool=TOOL,
    first="ID",
    lines=2,
    pci="pcie",
    fields=(
        Field("utilization_ratio", percent, ("%gpu",)),
        Field("memory_total_bytes", size_bytes, ("total",)),
        Field("memory_used_bytes", size_bytes, ("used",)),
        Field("temperature_celsius", positive, ("temp",)),
        Field("pcie_width", pcie_width, ("pcie lane width",)),
    ),
)


def parse_json(text: str) -> list[XpuDevice]:
    """Read ``mthreads-gmi -q --json``."""
    try:
        answer = _stripped(json.loads(text[text.index("{") :]))
    except (ValueError, RecursionError) as err:
        raise not_understood(f"{TOOL} -q --json", "JSON", text) from err
    listed = answer.get("gpu")
    cards = [card for card in listed if isinstance(card, dict)] if isinstance(listed, list) else []
    if not cards and answer.get("attached gpus") not in ("0", 0):
        raise not_understood(f"{TOOL} -q --json", 'list "GPU"', text)
    driver = answer.get("driver version")
    return [_card(card, driver if isinstance(driver, str) else None) for card in cards]


def _stripped(raw: Any) -> Any:
    """Give JSON with its keys in lower case and without blanks around them."""
    if isinstance(raw, dict):
        return {key.strip().lower(): _stripped(value) for key, value in raw.items()}
    return [_stripped(one) for one in raw] if isinstance(raw, list) else raw


def _card(card: dict[str, Any], driver: str | None) -> XpuDevice:
    find = _finder(card)
    return device(
        "mthreads",
        TOOL,
        read(FIELDS, find),
        uuid=find("gpu uuid"),
        pci=find("pci/bus id"),
        index=count(find("index")),
        model=find("product name"),
        driver_version=driver,
    )


def _finder(card: dict[str, Any]) -> Find:
    def find(key: str) -> str | None:
        value: object = card
        for name in key.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        return str(value) if isinstance(value, str | int | float) else None

    return find


def parse_table(text: str) -> list[XpuDevice]:
    """Read ``mthreads-gmi`` without arguments; it alone tells processes and the PCIe width."""
    return TABLE.read(text)


class MooreThreads(Vendor):
    """Moore Threads MTT S series."""

    title = "Moore Threads"
    pci_vendor_ids = frozenset({0x1ED5})
    visible_variables = ("MUSA_VISIBLE_DEVICES", "MTHREADS_VISIBLE_DEVICES")
    index_files = r"/dev/mtgpu\.(\d+)"
    experimental = (
        "mthreads-gmi was only seen on idle S5000 cards: utilisation, used memory and processes "
        "are unproven under load."
    )

    def ways(self) -> list[Way]:
        """Give the JSON with the table, then the table alone."""
        listed = Command((TOOL,), TABLE.only("pcie_width").read, slow=True)
        return [
            JoinedWay(TOOL, [Command((TOOL, "-q", "--json"), parse_json), listed]),
            CommandWay(TOOL, [Command((TOOL,), parse_table)]),
        ]
