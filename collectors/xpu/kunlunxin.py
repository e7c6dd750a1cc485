"""Kunlunxin (昆仑芯) XPUs, by ``xpu-smi`` or ``xpu_smi``.

Seen on idle P800 cards: the outline of ``-q`` (retyped by others) and the table. Intel's tool has
the same name; an answer without Kunlunxin's banner is refused.
"""

from collections.abc import Sequence

from collectors.xpu._outline import (
    Entry,
    Field,
    JoinedWay,
    Table,
    count,
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
    read,
    sections,
    size_bytes,
)
from collectors.xpu.base import Command, CommandWay, ParseError, Vendor, Way, merge
from collectors.xpu.text import number, percent
from schemas.records import XpuDevice

TOOL = "xpu-smi"
TOOLS = (TOOL, "xpu_smi")
HEADING = r"^XPU[ \t]+([0-9a-f]{4,8}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7])[ \t]*$"
BANNERS = ("xpu-rt", "kunlun")

FIELDS = (
    Field("utilization_ratio", percent, ("utilization/xpu",)),
    Field("memory_total_bytes", size_bytes, ("memory usage/total",)),
    Field("memory_used_bytes", size_bytes, ("memory usage/used",)),
    Field("memory_reserved_bytes", size_bytes, ("memory usage/reserved",)),
    Field("temperature_celsius", positive, ("temperature/xpu current temp",)),
    Field("power_watts", number, ("power readings/power draw",)),
    Field(
        "power_limit_watts",
        positive,
        ("power readings/enforced power limit", "power readings/power limit"),
    ),
    Field("core_clock_hz", hertz, ("clocks/cluster",)),
    Field("pcie_generation", pcie_generation, ("pcie generation/current",)),
    Field("pcie_width", pcie_width, ("link width/current",)),
)
TABLE = Table(
    vendor="kunlunxin",
    tool=TOOL,
    first="XPU",
    lines=3,
    fields=(
        Field("utilization_ratio", percent, ("xpu-util",)),
        Field("memory_total_bytes", size_bytes, ("total",)),
        Field("memory_used_bytes", size_bytes, ("used",)),
        Field("temperature_celsius", positive, ("temp",)),
        Field("power_watts", number, ("power",)),
        Field("power_limit_watts", positive, ("power limit",)),
        Field("errors_uncorrected", count, ("volatile uncorr. ecc",)),
    ),
)
COUNTED = ("processes", "errors_corrected", "errors_uncorrected")


def parse_outline(text: str) -> list[XpuDevice]:
    """Read ``xpu-smi -q``."""
    _check_banner(text)
    head, parts = sections(text, HEADING)
    if not parts and not none_attached(head):
        raise not_understood(f"{TOOL} -q", "heading such as XPU 00000000:01:00.0", text)
    driver = finder(outline(head))("driver version")
    return merge([[_card(match[1], outline(body), driver)] for match, body in parts])


def _check_banner(text: str) -> None:
    if not any(banner in text.lower() for banner in BANNERS):
        raise ParseError(
            f"this {TOOL} is not Kunlunxin's, perhaps Intel's, which has the same name: put the "
            "right one first on the path, or take kunlunxin out of xpus"
        )


def _card(address: str, entries: Sequence[Entry], driver: str | None) -> XpuDevice:
    find = finder(entries)
    found = read(FIELDS, find)
    found.add("processes", listed_processes(entries))
    found.add("errors_corrected", ecc_errors(entries, "correctable"))
    found.add("errors_uncorrected", ecc_errors(entries, "uncorrectable"))
    found.want(COUNTED)
    return device(
        "kunlunxin",
        TOOL,
        found,
        uuid=find("xpu uuid"),
        pci=address,
        model=find("product name"),
        driver_version=driver,
    )


def parse_table(text: str) -> list[XpuDevice]:
    """Read ``xpu-smi`` without arguments; it alone tells the index."""
    _check_banner(text)
    return TABLE.read(text)


def parse_listed(text: str) -> list[XpuDevice]:
    """Read of the table only what the outline does not tell: the index."""
    _check_banner(text)
    return TABLE.only().read(text)


class Kunlunxin(Vendor):
    """Kunlunxin K, R and P series; the oldest are communication controllers to the PCI bus."""

    title = "Kunlunxin"
    pci_vendor_ids = frozenset({0x2057, 0x1D22})
    visible_variables = ("XPU_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    pci_class_prefixes = ("03", "0780", "12")
    experimental = (
        "xpu-smi was only seen on idle P800 cards: utilisation, used memory and processes are "
        "unproven under load."
    )

    def ways(self) -> list[Way]:
        """Give the outline with the table, then the table alone, under either name."""
        return [way for tool in TOOLS for way in self._ways(tool)]

    def _ways(self, tool: str) -> list[Way]:
        listed = Command((tool,), parse_listed, slow=True)
        return [
            JoinedWay(TOOL, [Command((tool, "-q"), parse_outline), listed]),
            CommandWay(TOOL, [Command((tool,), parse_table)]),
        ]
