"""What the text tools of several vendors have in common: outlines, boxed tables, CSV by header.

Nothing here keeps a process's name or command line, though the tools print them.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from collectors.xpu.base import CommandWay, ParseError, merge
from collectors.xpu.text import number, pci_address, pcie_capacity, reason, unit
from schemas.records import (
    MissingReason,
    ThrottleReason,
    UtilizationMeaning,
    XpuDevice,
    XpuProcess,
)

Find = Callable[[str], str | None]

BYTES = {"b": 1, "kb": 1024, "kib": 1024, "mb": 1024**2, "mib": 1024**2, "": 1024**2}
BYTES |= {"gb": 1024**3, "gib": 1024**3}
# Where a tool gives a rate in KB or MB it is not known which it means; decimal is the smaller.
BYTES_PER_SECOND = {"kb/s": 1e3, "kib/s": 1024.0, "mb/s": 1e6, "mbytes/s": 1e6}
BYTES_PER_SECOND |= {"mib/s": 1024.0**2, "gb/s": 1e9, "gib/s": 1024.0**3}
HERTZ = {"": 1e6, "mhz": 1e6, "ghz": 1e9, "khz": 1e3}
# By transfers per second and lane, in GT/s.
PCIE_GENERATIONS = {2.5: 1, 5.0: 2, 8.0: 3, 16.0: 4, 32.0: 5, 64.0: 6}

# No counter of a device is as large; what is larger is not always a number to Python.
MOST = 1e30

_COUNT = re.compile(r"\d{1,18}", re.ASCII)
_RULE = re.compile(r"^[\s|+=-]*$")
# "61W / 350W", "N/A / N/A", "0 MiB/ 20638 MiB", "0MiB(81920MiB)".
_OF = re.compile(r"(N/A|[^/(]+)(?:/|\()\s*(N/A|[^/)]+)\)?")
_DRIVER = re.compile(r"Driver Ver(?:sion)?:?\s*v?(\S+)")
_GAP = re.compile(r"\s{2,}")


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of an outline: the keys above it and its own, in lower case, and its value."""

    path: tuple[str, ...]
    value: str


@dataclass(frozen=True, slots=True)
class Field:
    """A counter: its name in `XpuDevice`, how its text is read, and what the tool calls it."""

    name: str
    read: Callable[[str], object]
    keys: tuple[str, ...]


@dataclass(slots=True)
class Found:
    """What was read of one device, and why the rest was not."""

    values: dict[str, Any] = field(default_factory=dict)
    missing: dict[str, MissingReason] = field(default_factory=dict)

    def add(self, name: str, value: object) -> None:
        """Add a value that was computed from others; None adds nothing."""
        if value is not None:
            self.values[name] = value
            self.missing.pop(name, None)

    def want(self, names: Iterable[str]) -> None:
        """Give a reason for those of these that the tool did not print."""
        for name in names:
            if name not in self.values:
                self.missing.setdefault(name, "not_supported")


def not_understood(tool: str, expected: str, text: str) -> ParseError:
    """Make the error for an answer that is not what the tool was known to print."""
    begin = next((line.strip() for line in text.splitlines() if line.strip()), "")
    return ParseError(
        f"{tool} printed no {expected}, but {begin[:80]!r}: run it by hand; if its answer is "
        "sound, report it with the tool's version"
    )


def program(name: str, *places: str) -> str:
    """Give a tool's name, or where its vendor puts it when it is not on the path."""
    if shutil.which(name) is None:
        for place in places:
            if os.access(place, os.X_OK):
                return place
    return name


# Reading one value


def size_bytes(text: str) -> int | None:
    """Give a memory size in bytes; a bare number and "MB" are MiB, as for all these tools."""
    value = _scaled(text, BYTES)
    return None if value is None else round(value)


def rate(text: str) -> float | None:
    """Give a throughput in bytes per second."""
    return _scaled(text, BYTES_PER_SECOND)


def hertz(text: str) -> float | None:
    """Give a clock in Hz; a bare number is in MHz, and 0 is said by a clock that is not known."""
    return _scaled(text, HERTZ) or None


def positive(text: str) -> float | None:
    """Give a number above 0: a temperature or a limit of 0 was measured by nobody."""
    value = number(text)
    return value if value is not None and value > 0 else None


def _scaled(text: str, factors: Mapping[str, float]) -> float | None:
    """Give a number times the factor of its unit; None for an unknown unit or below 0."""
    value, factor = number(text), factors.get(unit(text).lower())
    if value is None or factor is None or not 0 <= value * factor < MOST:
        return None
    return value * factor


def count(text: str | None) -> int | None:
    """Give a whole number: of errors, of a process, of a device."""
    match = _COUNT.fullmatch((text or "").strip())
    return int(match[0]) if match is not None else None


def unproven(text: str) -> None:
    """Refuse a value whose meaning no source tells; its field is then ``suspect``."""


def pcie_generation(text: str) -> int | None:
    """Read ``4``, ``Gen4`` or ``16 GT/s``."""
    if "gt/s" in text.lower():
        return PCIE_GENERATIONS.get(number(text) or 0.0)
    match = re.fullmatch(r"(?:gen\s*)?(\d)", text.strip().lower())
    generation = int(match[1]) if match is not None else 0
    return generation if generation in PCIE_GENERATIONS.values() else None


def pcie_width(text: str) -> int | None:
    """Read ``16``, ``x16``, ``16x`` or ``16x(16x)``, of which the first is the present one."""
    match = re.match(r"x?(\d{1,2})x?\b", text.strip().lower())
    return int(match[1]) if match is not None and int(match[1]) > 0 else None


def known(text: str | None) -> str | None:
    """Give a name such as a UUID or a model, or None where the tool has none."""
    return None if text is None or reason(text) is not None else text.strip()


# Outlines: "key : value" by indentation


def sections(text: str, heading: str) -> tuple[str, list[tuple[re.Match[str], str]]]:
    """Split a tool's answer at its devices' headings: what precedes them, then each one."""
    matches = list(re.finditer(heading, text, re.MULTILINE | re.IGNORECASE))
    if not matches:
        return text, []
    ends = [match.start() for match in matches[1:]] + [len(text)]
    return text[: matches[0].start()], [
        (match, text[match.end() : end]) for match, end in zip(matches, ends, strict=True)
    ]


def none_attached(text: str) -> bool:
    """Tell whether a tool says that there is no device."""
    return re.search(r"^\s*attached \w+\s*:\s*0\s*$", text, re.IGNORECASE | re.M) is not None


def outline(text: str) -> list[Entry]:
    """Read indented ``key : value`` lines; a heading is an entry without a value."""
    entries: list[Entry] = []
    above: list[tuple[int, str]] = []
    for line in text.expandtabs(4).splitlines():
        if _RULE.match(line) or line.lstrip().startswith(("|", "+")):
            continue
        key, _, value = line.partition(":")
        indent = len(line) - len(line.lstrip())
        while above and above[-1][0] >= indent:
            above.pop()
        above.append((indent, " ".join(key.split()).lower()))
        entries.append(Entry(tuple(name for _, name in above), value.strip()))
    return entries


def finder(entries: Sequence[Entry]) -> Find:
    """Make a look-up by the last keys of a path, as ``memory usage/total``."""

    def find(key: str) -> str | None:
        wanted = tuple(key.split("/"))
        for entry in entries:
            if entry.value and entry.path[-len(wanted) :] == wanted:
                return entry.value
        return None

    return find


def ecc_errors(entries: Sequence[Entry], kind: str, above: str = "volatile") -> int | None:
    """Add up the errors of all memories, as ``sram correctable`` and ``dram correctable``."""
    counts = [
        count(entry.value)
        for entry in entries
        if above in entry.path[:-1] and entry.path[-1].split()[-1:] == [kind]
    ]
    numbers = [value for value in counts if value is not None]
    return sum(numbers) if numbers else None


def throttle_reasons(
    entries: Sequence[Entry], above: str, names: Mapping[str, ThrottleReason | None]
) -> tuple[ThrottleReason, ...] | None:
    """Give the reasons that are active; None where the tool lists none at all.

    ``names`` maps the tool's words; to None what holds no clock down, such as being idle. A word
    that is not there is ``other``.
    """
    listed = [entry for entry in entries if above in entry.path[:-1] and entry.value]
    if not listed:
        return None
    active: dict[ThrottleReason, None] = {}
    for entry in listed:
        reason = names.get(entry.path[-1], "other")
        if reason is not None and entry.value.lower() == "active":
            active[reason] = None
    return tuple(active)


def listed_processes(entries: Sequence[Entry]) -> tuple[XpuProcess, ...] | None:
    """Read the processes of a device's outline; None where it has no such part."""
    inside = [entry for entry in entries if "processes" in entry.path]
    if not inside:
        return None
    processes: list[XpuProcess] = []
    for entry in inside:
        key = entry.path[-1]
        pid = count(entry.value)
        if key in ("process id", "pid") and pid is not None:
            processes.append(XpuProcess(pid=pid))
        elif processes and key.startswith(("used", "mlu")) and "memory" in key:
            used = size_bytes(entry.value)
            processes[-1] = replace(processes[-1], memory_used_bytes=used)
    return tuple(processes)


# Tables


def boxes(text: str, first: str, lines: int) -> list[dict[str, str]]:
    """Read a boxed table in which each device takes several lines, by the words of its header.

    The last resort: words and values are matched in order within a cell, and a cell in which
    their numbers differ is left out.

    Args:
        text: The tool's whole answer.

        first: The first word of the header.

        lines: How many lines the header and each device take.
    """
    table = _table(text, first)
    header, rows = table[:lines], table[lines:]
    devices: list[dict[str, str]] = []
    while len(rows) >= lines:
        if not rows[0][0].strip()[:1].isdigit():
            rows = rows[1:]
            continue
        devices.append(_by_header(header, rows[:lines]))
        rows = rows[lines:]
    return devices


def _table(text: str, first: str) -> list[list[str]]:
    """Give the cells of the lines from the header on, of those with as many cells as it has."""
    table: list[list[str]] = []
    for line in text.splitlines():
        cells = _cells(line)
        if not table:
            if len(cells) > 1 and cells[0].split()[:1] == [first]:
                table.append(cells)
        elif "process" in line.lower():
            break
        elif not _RULE.match(line) and len(cells) == len(table[0]):
            table.append(cells)
    return table


def _cells(line: str) -> list[str]:
    inner = line.strip()
    if inner.startswith("|") and inner.endswith("|") and len(inner) > 1:
        return inner[1:-1].split("|")
    return line.split("|")


def _by_header(header: list[list[str]], rows: list[list[str]]) -> dict[str, str]:
    found: dict[str, str] = {}
    for names_line, values_line in zip(header, rows, strict=True):
        for names_cell, values_cell in zip(names_line, values_line, strict=True):
            names = _GAP.split(names_cell.strip())
            values = _GAP.split(values_cell.strip())
            if len(names) != len(values):
                values = values_cell.split()
            if len(names) == len(values):
                found |= dict(zip((name.lower() for name in names), values, strict=True))
    return found


def _parted(cells: Mapping[str, str]) -> dict[str, str]:
    """Part ``61W / 350W`` and ``0MiB(81920MiB)`` into power and limit, used and total memory."""
    parts: dict[str, str] = {}
    for key, value in cells.items():
        names = ("power", "power limit") if key.startswith("pwr") else ("used", "total")
        match = _OF.fullmatch(value)
        if match is not None and (key.startswith("pwr") or key in ("memory-usage", "mem")):
            parts |= {names[0]: match[1].strip(), names[1]: match[2].strip()}
    return parts


def table_processes(text: str) -> dict[int, tuple[XpuProcess, ...]] | None:
    """Read the table of processes by device index; None where there is none or it is unclear."""
    lines = [line.strip().strip("|").split() for line in text.splitlines()]
    header = next((number for number, words in enumerate(lines) if "PID" in words), None)
    if header is None:
        return None
    column = lines[header].index("PID")
    found: dict[int, list[XpuProcess]] = {}
    for words in lines[header + 1 :]:
        index = count(words[0]) if words else None
        if index is None:
            continue
        pid = count(words[column]) if len(words) > column + 1 else None
        if pid is None:
            return None
        memory = " ".join(words[-2:]) if words[-1].lower() in ("mib", "mb") else words[-1]
        process = XpuProcess(pid=pid, memory_used_bytes=size_bytes(memory))
        found.setdefault(index, []).append(process)
    if not found and not re.search(r"no (running )?process", text, re.IGNORECASE):
        return None
    return {index: tuple(processes) for index, processes in found.items()}


def csv_rows(tool: str, text: str, needs: Sequence[str]) -> list[dict[str, str]]:
    """Read CSV by its header; units such as ``[MiB]`` in the header are put to the values.

    Args:
        tool: For the error.

        text: The tool's whole answer; lines before the header are skipped.

        needs: Columns of which the header has one at least.

    Raises:
        ParseError: There is no such header, or a row has more or fewer columns.
    """
    header: list[tuple[str, str]] = []
    rows: list[dict[str, str]] = []
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.split(",")]
        if not header:
            names = [_column(cell) for cell in cells]
            header = names if any(name in needs for name, _ in names) else []
        elif len(cells) == len(header):
            pairs = zip(header, cells, strict=True)
            rows.append({name: _with_unit(cell, of) for (name, of), cell in pairs})
        elif len(cells) > 1:
            raise not_understood(tool, f"row of {len(header)} columns", line)
    if not header:
        raise not_understood(tool, f"header with {' or '.join(needs)}", text)
    return rows


def _column(cell: str) -> tuple[str, str]:
    name, _, of = cell.strip().lower().partition("[")
    return name.strip(), of.rstrip("] ").strip()


def _with_unit(cell: str, of: str) -> str:
    return f"{cell} {of}" if of and number(cell) is not None and not unit(cell) else cell


# Devices


def read(fields: Sequence[Field], find: Find) -> Found:
    """Read the counters that a tool prints; what it does not print or know is a reason."""
    found = Found()
    for one in fields:
        texts = (find(key) for key in one.keys)
        text = next((found_text for found_text in texts if found_text is not None), None)
        if text is None:
            found.missing.setdefault(one.name, "not_supported")
            continue
        why = reason(text)
        value = _value(one, text) if why is None else None
        if value is not None:
            found.add(one.name, value)
        elif one.name not in found.values:
            found.missing[one.name] = why or ("suspect" if number(text) is not None else _BAD)
    return found


_BAD: MissingReason = "parse_error"


def _value(one: Field, text: str) -> object:
    try:
        value = one.read(text)
    except (ValueError, OverflowError):
        return None
    return None if isinstance(value, float) and not -MOST < value < MOST else value


def device(
    vendor: str,
    tool: str,
    found: Found,
    *,
    uuid: str | None = None,
    pci: str | None = None,
    index: int | None = None,
    utilization: UtilizationMeaning | None = "busy_time",
    **more: Any,
) -> XpuDevice:
    """Make the record: its name is the UUID, else the PCI address, else ``vendor:index``."""
    address = pci_address(pci)
    values = {name: value for name, value in more.items() if value is not None} | found.values
    if "power_watts" in values:
        values.setdefault("power_window", "unknown")
    if "utilization_ratio" in values:
        values["utilization_meaning"] = utilization
    capacity = pcie_capacity(values.get("pcie_generation"), values.get("pcie_width"))
    if capacity is not None:
        values["pcie_capacity_bytes_per_second"] = capacity
    return XpuDevice(
        device_id=known(uuid) or address or f"{vendor}:{'?' if index is None else index}",
        vendor=vendor,
        tool=tool,
        pci_address=address,
        device_index=index,
        missing=found.missing,
        **values,
    )


@dataclass(frozen=True, slots=True)
class Table:
    """How a vendor's boxed table is read.

    Attributes:
        vendor: The vendor's name.

        tool: Its tool.

        first: The first word of the header, under which the index stands.

        lines: How many lines a device takes.

        pci: The word over the PCI address.

        fields: The counters by the words of the header; memory and power are there as ``used``,
            ``total``, ``power`` and ``power limit``.

        processes: Whether a table of processes follows.

        utilization: What the utilisation means.
    """

    vendor: str
    tool: str
    first: str
    lines: int
    fields: tuple[Field, ...]
    pci: str = "bus-id"
    processes: bool = True
    utilization: UtilizationMeaning | None = "busy_time"

    def read(self, text: str) -> list[XpuDevice]:
        """Read a tool's answer.

        Raises:
            ParseError: There is no such table.
        """
        rows = boxes(text, self.first, self.lines)
        if not rows:
            raise not_understood(self.tool, f"table that begins with {self.first}", text)
        processes = table_processes(text) if self.processes else None
        driver = _DRIVER.search(text)
        return merge([[self._device(cells, processes, driver)] for cells in rows])

    def only(self, *names: str) -> "Table":
        """Give a table of these counters, names and processes, to complete another reading."""
        return replace(self, fields=tuple(one for one in self.fields if one.name in names))

    def _device(
        self,
        cells: dict[str, str],
        processes: dict[int, tuple[XpuProcess, ...]] | None,
        driver: re.Match[str] | None,
    ) -> XpuDevice:
        found = read(self.fields, (cells | _parted(cells)).get)
        index = count(cells.get(self.first.lower()))
        if processes is not None and index is not None:
            found.add("processes", processes.get(index, ()))
        found.want(("processes",) if self.processes else ())
        return device(
            self.vendor,
            self.tool,
            found,
            pci=cells.get(self.pci),
            index=index,
            utilization=self.utilization,
            model=cells.get("name"),
            driver_version=None if driver is None else driver[1],
        )


class JoinedWay(CommandWay):
    """Commands of which not all print the devices' names: joined by PCI address or index."""

    def read(self) -> list[XpuDevice]:
        """Run each command; the first one's names hold."""
        return joined(super().read())


def joined(devices: Sequence[XpuDevice]) -> list[XpuDevice]:
    """Join what is the same device under several names; the first one holds.

    The same is what has the same PCI address, or the same index where one has no address.
    """
    looks: list[list[XpuDevice]] = []
    first: list[XpuDevice] = []
    for one in devices:
        known_as = next((other for other in first if _is_same(one, other)), None)
        if known_as is None:
            first.append(one)
            looks.append([one])
        else:
            looks.append([replace(one, device_id=known_as.device_id)])
    return merge(looks)


def _is_same(one: XpuDevice, other: XpuDevice) -> bool:
    if one.pci_address is not None and other.pci_address is not None:
        return one.pci_address == other.pci_address
    return one.device_index is not None and one.device_index == other.device_index
