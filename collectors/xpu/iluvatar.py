"""Iluvatar CoreX (天数智芯) GPUs, by ``ixsmi``.

The names of the CSV's columns are those that CoreX 4.4 lists (``ixsmi --help-query-gpu``) and
that CoreX 3 knew; no capture of the CSV was found, only of the table, on idle BI-V150 chips. The
first chip of a board with two prints no power: power belongs to the board and is not copied.
"""

from collectors.xpu._outline import (
    Field,
    JoinedWay,
    Table,
    count,
    csv_rows,
    device,
    hertz,
    pcie_generation,
    pcie_width,
    positive,
    program,
    read,
    size_bytes,
    unproven,
)
from collectors.xpu.base import Command, CommandWay, Vendor, Way, merge
from collectors.xpu.text import number, percent
from schemas.records import XpuDevice

TOOL = "ixsmi"

IDENTITY = "index,name,uuid,pci.bus_id"
BASIC = f"{IDENTITY},memory.total,memory.used,utilization.gpu,temperature.gpu"
CLOCKS = "clocks.current.sm,clocks.current.memory,clocks.max.sm,clocks.max.memory"
PCIE = "pcie.link.gen.current,pcie.link.width.current"
# A column that a generation does not know fails the whole command, so there are three.
QUERIES = (
    f"{BASIC},temperature.memory,gpu.power.draw,gpu.current.power.limit,{CLOCKS},{PCIE}",
    f"{BASIC},gpu.power.draw,gpu.power.limit",
    f"{BASIC},power.draw,power.limit",
)
FIELDS = (
    Field("utilization_ratio", percent, ("utilization.gpu",)),
    Field("memory_total_bytes", size_bytes, ("memory.total",)),
    Field("memory_used_bytes", size_bytes, ("memory.used",)),
    Field("temperature_celsius", positive, ("temperature.gpu",)),
    Field("power_watts", number, ("gpu.power.draw", "power.draw", "board.power.draw")),
    Field(
        "power_limit_watts",
        positive,
        ("gpu.current.power.limit", "gpu.power.limit", "power.limit", "board.power.limit"),
    ),
    Field("memory_temperature_celsius", positive, ("temperature.memory",)),
    Field("memory_bandwidth_ratio", unproven, ("utilization.memory",)),
    Field("core_clock_hz", hertz, ("clocks.current.sm", "clocks.sm")),
    Field("core_clock_max_hz", hertz, ("clocks.max.sm",)),
    Field("memory_clock_hz", hertz, ("clocks.current.memory", "clocks.mem")),
    Field("memory_clock_max_hz", hertz, ("clocks.max.memory", "clocks.max.mem")),
    Field("pcie_generation", pcie_generation, ("pcie.link.gen.current",)),
    Field("pcie_width", pcie_width, ("pcie.link.width.current",)),
)
TABLE = Table(
    vendor="iluvatar",
    tool=TOOL,
    first="GPU",
    lines=2,
    fields=(
        Field("utilization_ratio", percent, ("gpu-util",)),
        Field("memory_total_bytes", size_bytes, ("total",)),
        Field("memory_used_bytes", size_bytes, ("used",)),
        Field("temperature_celsius", positive, ("temp",)),
        Field("power_watts", number, ("power",)),
        Field("power_limit_watts", positive, ("power limit",)),
        Field("core_clock_hz", hertz, ("clock-sm",)),
        Field("memory_clock_hz", hertz, ("clock-mem",)),
    ),
)


def parse_query(text: str) -> list[XpuDevice]:
    """Read ``ixsmi --query-gpu=... --format=csv`` by its header."""
    rows = csv_rows(f"{TOOL} --query-gpu", text, needs=("uuid", "index"))
    return merge([[_row(row)] for row in rows])


def _row(row: dict[str, str]) -> XpuDevice:
    return device(
        "iluvatar",
        TOOL,
        read(FIELDS, row.get),
        uuid=row.get("uuid"),
        pci=row.get("pci.bus_id", row.get("gpu_bus_id")),
        index=count(row.get("index")),
        model=row.get("name"),
    )


def parse_table(text: str) -> list[XpuDevice]:
    """Read ``ixsmi`` without arguments; it alone lists processes."""
    return TABLE.read(text)


class Iluvatar(Vendor):
    """Iluvatar BI and MR series."""

    title = "Iluvatar CoreX"
    pci_vendor_ids = frozenset({0x1E3E})
    visible_variables = ("CUDA_VISIBLE_DEVICES", "ILUVATAR_COREX_VISIBLE_DEVICES")
    index_files = r"/dev/iluvatar(\d+)"
    experimental = (
        "no capture of ixsmi's CSV was found, only of its table on idle BI-V150 chips: no "
        "counter was seen under load."
    )

    def ways(self) -> list[Way]:
        """Give the CSV of each generation with the table, then the table alone."""
        tool = program(TOOL, "/usr/local/corex/bin/ixsmi")
        listed = Command((tool,), TABLE.only().read, slow=True)
        return [
            *(
                JoinedWay(
                    TOOL,
                    [Command((tool, f"--query-gpu={query}", "--format=csv"), parse_query), listed],
                )
                for query in QUERIES
            ),
            CommandWay(TOOL, [Command((tool,), parse_table)]),
        ]
