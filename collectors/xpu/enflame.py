"""Enflame (燧原) GCUs, by ``efsmi``.

The outline of ``efsmi -q`` is known from S60 cards with drivers 1.2.4 and 1.4.3, as others noted
it; its keys changed between them. Of the columns of ``efsmi --dmon`` and of the table there is
one example each. A reading of the old ``Mem Usage`` contains what the driver reserves.
"""

from collections.abc import Sequence

from collectors.xpu._outline import (
    Entry,
    Field,
    Find,
    JoinedWay,
    Table,
    count,
    device,
    finder,
    hertz,
    not_understood,
    outline,
    pcie_generation,
    pcie_width,
    positive,
    rate,
    read,
    sections,
    size_bytes,
    unproven,
)
from collectors.xpu.base import Command, CommandWay, Vendor, Way, merge
from collectors.xpu.text import number, percent
from schemas.records import XpuDevice

TOOL = "efsmi"
HEADING = r"^[ \t]*DEV ID[ \t]*:?[ \t]*([0-9]{1,6})[ \t]*$"

FIELDS = (
    Field("utilization_ratio", percent, ("gcu usage",)),
    Field("memory_total_bytes", size_bytes, ("total size", "mem size")),
    Field("memory_used_bytes", size_bytes, ("used size", "mem usage")),
    Field("memory_reserved_bytes", size_bytes, ("reserved size",)),
    Field("temperature_celsius", positive, ("gcu temp",)),
    Field("power_watts", number, ("cur power",)),
    Field("power_limit_watts", positive, ("power capa",)),
    Field("memory_clock_hz", hertz, ("mem clk",)),
    Field("pcie_generation", pcie_generation, ("cur link speed",)),
    Field("pcie_width", pcie_width, ("cur link width",)),
    Field("pcie_received_bytes_per_second", rate, ("rx throughput",)),
    Field("pcie_sent_bytes_per_second", rate, ("tx throughput",)),
    Field("errors_uncorrected", count, ("total dbe", "rma info/dbe")),
)
COLUMNS = (
    Field("utilization_ratio", percent, ("dused",)),
    Field("memory_total_bytes", size_bytes, ("mem",)),
    Field("temperature_celsius", positive, ("dtemp",)),
    Field("power_watts", number, ("pwr",)),
    Field("memory_clock_hz", hertz, ("mclk",)),
    Field("pcie_received_bytes_per_second", rate, ("rxpci",)),
    Field("pcie_sent_bytes_per_second", rate, ("txpci",)),
)
TABLE = Table(
    vendor="enflame",
    tool=TOOL,
    first="DEV",
    lines=2,
    processes=False,
    utilization=None,
    fields=(
        Field("utilization_ratio", percent, ("dused",)),
        # One number without a word: on an idle card it is the card's whole memory.
        Field("memory_total_bytes", size_bytes, ("mem",)),
        Field("memory_used_bytes", unproven, ()),
        Field("temperature_celsius", positive, ("temp",)),
        Field("power_watts", number, ("power",)),
        Field("power_limit_watts", positive, ("power limit",)),
    ),
)


def parse_outline(text: str) -> list[XpuDevice]:
    """Read ``efsmi -q``."""
    _, parts = sections(text, HEADING)
    if not parts:
        raise not_understood(f"{TOOL} -q", "heading such as DEV ID 0", text)
    return merge([[_card(int(match[1]), outline(body))] for match, body in parts])


def _card(index: int, entries: Sequence[Entry]) -> XpuDevice:
    find = finder(entries)
    return device(
        "enflame",
        TOOL,
        read(FIELDS, find),
        uuid=find("dev uuid"),
        pci=_address(find),
        index=index,
        utilization=None,
        model=find("dev name"),
        driver_version=find("driver info/ver"),
    )


def _address(find: Find) -> str | None:
    parts = [find(f"pcie info/{name}") or "?" for name in ("domain", "bus", "dev", "func")]
    return "{}:{}:{}.{}".format(*parts)


def parse_dmon(text: str) -> list[XpuDevice]:
    """Read ``efsmi --dmon -c 1``: a line of names, a line of units, a line for each device."""
    names: list[str] = []
    units: list[str] = []
    devices: list[XpuDevice] = []
    for line in text.splitlines():
        words = line.split()
        if words[:1] == ["*Dev"]:
            names = [word.lower() for word in words]
        elif words[:1] == ["*Idx"]:
            units = words
        elif names and len(words) == len(names) == len(units) and count(words[0]) is not None:
            cells = {
                name: value if unit in ("%", "L", "C") else f"{value} {unit}"
                for name, value, unit in zip(names, words, units, strict=True)
            }
            found = read(COLUMNS, cells.get)
            _add_used(found.values, cells.get("mused"))
            found.want(("memory_used_bytes",))
            index = count(words[0])
            devices.append(device("enflame", TOOL, found, index=index, utilization=None))
    if not devices:
        raise not_understood(f"{TOOL} --dmon", "columns that begin with *Dev", text)
    return merge([devices])


def _add_used(values: dict[str, object], share: str | None) -> None:
    """Compute the used memory, which is given in percent; not to the byte."""
    total, ratio = values.get("memory_total_bytes"), percent(share)
    if isinstance(total, int) and ratio is not None:
        values["memory_used_bytes"] = round(total * ratio)


def parse_table(text: str) -> list[XpuDevice]:
    """Read ``efsmi`` without arguments."""
    return TABLE.read(text)


class Enflame(Vendor):
    """Enflame S and L series."""

    title = "Enflame"
    pci_vendor_ids = frozenset({0x1E36})
    visible_variables = ("TOPS_VISIBLE_DEVICES", "ENFLAME_VISIBLE_DEVICES")
    index_files = r"/dev/gcu(\d+)"
    experimental = (
        "efsmi's answers are known as others noted them, from idle S60 and L300 cards: no "
        "counter was seen under load."
    )

    def ways(self) -> list[Way]:
        """Give the outline, then the table with the columns of ``--dmon``, then the table."""
        table = Command((TOOL,), parse_table)
        return [
            CommandWay(TOOL, [Command((TOOL, "-q"), parse_outline)]),
            JoinedWay(TOOL, [table, Command((TOOL, "--dmon", "-c", "1"), parse_dmon)]),
            CommandWay(TOOL, [table]),
        ]
