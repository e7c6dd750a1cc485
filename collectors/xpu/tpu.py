"""Google TPU: the tables of `tpu-info`.

Values exist only while a workload's libtpu runs, which serves them by gRPC on localhost:8431. That
service is not asked here: no captured answer of it was to be had. Nothing that would initialise
libtpu is imported, because such a process takes the chips.
"""

import re
from collections.abc import Iterator

from collectors.xpu import text
from collectors.xpu._reading import Reading, word
from collectors.xpu.base import ParseError, Vendor, Way, missing_program, run
from schemas.records import XpuDevice, XpuProcess

NAME = "tpu"
GIBIBYTE = 1024**3


class Tpu(Vendor):
    """Google TPU."""

    title = "Google TPU"
    pci_vendor_ids = frozenset({0x1AE0})
    # Of no class that PCI has a name for; the same vendor's network cards are of class 02.
    pci_class_prefixes = ("ff", "12")
    visible_variables = ("TPU_VISIBLE_CHIPS", "TPU_VISIBLE_DEVICES")
    index_files = r"/dev/accel(\d+)"
    experimental = "tested with the tables of its README only, and the chips' gRPC is not read yet"

    def ways(self) -> list[Way]:
        """Give the one tool."""
        return [TpuInfo()]


class TpuInfo(Way):
    """``tpu-info``, once for the values and once for the processes."""

    name = "tpu-info"

    def why_not(self) -> str | None:
        """Look for the program on the path."""
        missing = missing_program("tpu-info")
        return "tpu-info is not on the path: pip install tpu-info" if missing else None

    def read(self) -> list[XpuDevice]:
        """Read the tables of both."""
        metrics = ("--metric", "hbm_usage", "--metric", "duty_cycle_percent")
        return parse_tables(
            "\n".join([run(("tpu-info", *metrics)), run(("tpu-info", "--process"))])
        )


def parse_tables(output: str) -> list[XpuDevice]:
    """Parse the tables that ``tpu-info`` prints, in any choice and order, by their headers."""
    memory: dict[int, str] = {}
    duty: dict[int, str] = {}
    owners: dict[int, str] = {}
    model = None
    for row in _rows(output):
        index = _number(row.get("Chip") or row.get("Device") or row.get("Core ID"))
        if index is None:
            continue
        if "HBM Usage (GiB)" in row:
            memory[index] = row["HBM Usage (GiB)"]
        known = row.get("Duty cycle") or row.get("Duty Cycle (%)")
        if known is not None:
            duty[index] = known
        if "PID" in row:
            owners[index] = row["PID"]
        model = row.get("Type") or model
    if not memory and not duty and not owners:
        raise ParseError(
            "tpu-info has no table with 'HBM Usage (GiB)', 'Duty cycle' or 'PID': report its "
            "version"
        )
    ids = sorted(memory or duty or owners)
    return [
        _device(index, memory.get(index), _of(index, ids, duty), _owners(index, ids, owners), model)
        for index in ids
    ]


def _rows(output: str) -> Iterator[dict[str, str]]:
    names: list[str] = []
    for line in output.splitlines():
        if not line.startswith("|"):
            names = []
            continue
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if not names:
            names = cells
        elif not re.fullmatch(r"[-:\s|]*", line):
            yield dict(zip(names, cells, strict=False))


def _number(name: str | None) -> int | None:
    """Give the number at the end of ``/dev/vfio/3`` or ``3``."""
    found = re.search(r"(\d{1,6})$", name or "")
    return int(found[1]) if found is not None else None


def _of(index: int, ids: list[int], values: dict[int, str]) -> str | None:
    """Give a device's duty cycle.

    Where a chip is two devices, the tool gives the duty cycle under half the device's number.
    Numbers that do not fit either way belong to something else.
    """
    if set(values) == set(ids):
        return values[index]
    if set(values) == {one // 2 for one in ids}:
        return values[index // 2]
    return None


def _owners(index: int, ids: list[int], owners: dict[int, str]) -> tuple[XpuProcess, ...] | None:
    """Give the processes on a device.

    They are listed under device files, whose numbers need not be the chips'. Where they are not,
    only a process that has all of them can be placed.
    """
    if set(owners) == set(ids):
        return _pids(owners[index])
    everywhere = set(owners.values())
    return _pids(everywhere.pop()) if len(everywhere) == 1 else None


def _pids(raw: str) -> tuple[XpuProcess, ...]:
    return tuple(XpuProcess(pid=int(pid)) for pid in re.findall(r"\b\d{1,9}\b", raw))


def _device(
    index: int,
    memory: str | None,
    duty: str | None,
    owners: tuple[XpuProcess, ...] | None,
    model: str | None,
) -> XpuDevice:
    reading = Reading("no_workload")
    reading.read("utilization_ratio", duty, text.percent)
    used, _, total = (memory or "").partition("/")
    reading.put("memory_used_bytes", _gibibytes(used))
    reading.put("memory_total_bytes", _gibibytes(total))
    return reading.device(
        f"{NAME}:{index}",
        NAME,
        device_index=index,
        model=word(model),
        utilization_meaning="duty_cycle" if "utilization_ratio" in reading.values else None,
        processes=owners,
    )


def _gibibytes(raw: str) -> int | None:
    value = text.scaled(raw, GIBIBYTE)
    return round(value) if value is not None and value >= 0 else None
