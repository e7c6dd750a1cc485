"""Huawei Ascend: `npu-smi`, which has no machine-readable output.

The table of ``npu-smi info`` has the exact memory and costs one process for all cards. Its key and
value blocks (``-t common``, ``usages``, ``ecc``) have more, at two processes for each card, so a
card's turn comes with every tenth look. Where the table's layout is not understood, the blocks
alone are read. Sizes in "MB" are MiB: a chip of 64 GiB says 65536.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from collectors.xpu import base, text
from collectors.xpu._reading import Raw, Reading, hertz, pci_address, positive, word
from collectors.xpu.base import NotPermitted, ParseError, Vendor, Way, XpuError
from schemas.records import XpuDevice, XpuProcess

NAME = "ascend"
# What the library says where another container, or nobody but root, has the device.
REFUSED = re.compile(r"ret is -80(05|20)\b")
DETAILS = ("common", "usages", "ecc")


class Ascend(Vendor):
    """Huawei Ascend."""

    title = "Huawei Ascend"
    pci_vendor_ids = frozenset({0x19E5})
    # Huawei's management controllers are display controllers (class 03) of the same vendor.
    pci_class_prefixes = ("12",)
    visible_variables = ("ASCEND_RT_VISIBLE_DEVICES", "ASCEND_VISIBLE_DEVICES")
    index_files = r"/dev/davinci(\d+)"

    def ways(self) -> list[Way]:
        """Give the one tool that comes with every driver."""
        return [NpuSmi()]


class NpuSmi(Way):
    """``npu-smi info``, and its blocks for the cards whose turn it is."""

    name = "npu-smi"

    def __init__(self, run: Callable[[Sequence[str]], str] = base.run) -> None:
        self.run = run
        self.looks = 0

    def why_not(self) -> str | None:
        """Look for the program on the path."""
        return base.missing_program("npu-smi")

    def read(self) -> list[XpuDevice]:
        """Read the table, then the blocks of some cards."""
        try:
            devices = parse_info(self._ask("info"))
            turn = self.looks % base.SLOW_LOOKS
        except ParseError:
            devices, turn = parse_map(self._ask("info", "-m")), None
        self.looks += 1
        cards = sorted({card for one in devices if (card := _card(one)) is not None})
        due = [card for card in cards if turn in (None, card % base.SLOW_LOOKS)]
        return base.merge([devices, *(self._details(card, devices) for card in due)])

    def _details(self, card: int, devices: list[XpuDevice]) -> list[XpuDevice]:
        known = {one.partition: one for one in devices if _card(one) == card}
        looks = []
        for kind in DETAILS:
            try:
                looks.append(parse_block(self._ask("info", "-t", kind, "-i", str(card))))
            except XpuError:
                continue  # an older tool, or a chip without this kind; the table has the rest
        found = [one for one in base.merge(looks) if one.partition in known]
        named = [replace(one, device_id=known[one.partition].device_id) for one in found]
        if len(known) == 1:
            return named
        # What a block of several chips calls power may be the card's.
        return [replace(one, power_watts=None, power_window=None) for one in named]

    def _ask(self, *arguments: str) -> str:
        try:
            output = self.run(("npu-smi", *arguments))
        except XpuError as err:
            refuse(str(err))
            raise
        refuse(output)
        return output


def refuse(output: str) -> None:
    """Raise where the tool says that this user or container may not ask.

    Raises:
        NotPermitted: It says so.
    """
    if REFUSED.search(output):
        raise NotPermitted(
            "npu-smi may not open the devices: run the agent on the host as root or as a member "
            "of the driver's group, and give its container all /dev/davinci* devices"
        )


# The table.


def parse_info(output: str) -> list[XpuDevice]:
    """Parse the table of ``npu-smi info`` by its two header lines.

    Each chip has two rows: the card's name, health, power and temperature, then the chip's
    address, load and memory.
    """
    refuse(output)
    rows = [_cells(line) for line in output.splitlines() if line.startswith("|")]
    end = next((at for at, cells in enumerate(rows) if "Process id" in cells), None)
    processes = _processes(rows[end:]) if end is not None else None
    driver = re.search(r"\bVersion:\s*(\S+)", output)
    devices = [
        replace(
            _chip(card, chip, position),
            processes=_of_chip(processes, card, chip),
            driver_version=driver[1] if driver is not None else None,
        )
        for position, (card, chip) in enumerate(_pairs(rows[:end]))
    ]
    if not devices:
        raise ParseError(
            "npu-smi info has no rows of chips below a header with 'NPU', 'Power(W)', 'Chip' and "
            "'Bus-Id': report this version of npu-smi"
        )
    return devices


def _pairs(rows: list[list[str]]) -> Iterator[tuple[dict[str, str], dict[str, str]]]:
    """Give each chip's two rows, under the names of the two header lines."""
    headers: dict[str, list[str]] = {}
    card: dict[str, str] = {}
    for cells in rows:
        words = " ".join(cells).split()
        if len(words) > 1 and words[0] in ("NPU", "Chip"):
            headers[words[0]] = words
        elif len(headers) == 2 and len(cells) == 3 and words and text.whole(words[0]) is not None:
            if pci_address(cells[1]) is None:
                card = _tokens(headers["NPU"], words)
            else:
                yield card, _tokens(headers["Chip"], words)
                card = {}


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip().strip("|").split("|")]


def _columns(cells: list[str]) -> list[str]:
    return [name for cell in cells for name in re.split(r"\s{2,}", cell)]


def _tokens(names: list[str], words: list[str]) -> dict[str, str]:
    """Give a row's words under its header's names.

    A pair such as ``53444/ 65536`` is two words or three; no value has other blanks.
    """
    values = re.sub(r"\s*/\s*", "/", " ".join(words)).split()
    if len(values) != len(names):
        raise ParseError(
            f"npu-smi info has a row of {len(values)} values below {len(names)} names: report "
            "this version of npu-smi"
        )
    return dict(zip(names, values, strict=True))


def _whole(row: dict[str, str], name: str) -> int:
    value = text.whole(row.get(name))
    if value is None:
        raise ParseError(f"npu-smi info has no number under {name!r}: report its version")
    return value


def _chip(card: dict[str, str], chip: dict[str, str], position: int) -> XpuDevice:
    npu, number = _whole(card, "NPU"), _whole(chip, "Chip")
    reading = Reading()
    reading.read("utilization_ratio", chip.get("AICore(%)"), text.percent)
    # A card of two chips says its power in the first chip's row only; it is not the chip's.
    reading.read("power_watts", card.get("Power(W)"), text.number)
    reading.read("temperature_celsius", card.get("Temp(C)"), positive)
    used, total = _memory(chip)
    reading.put("memory_used_bytes", used)
    reading.put("memory_total_bytes", total)
    address = pci_address(chip.get("Bus-Id"))
    index = text.whole(chip.get("Phy-ID") or chip.get("Device"))
    return reading.device(
        address or _by_place(npu, number),
        NAME,
        device_index=index if index is not None else position,
        model=word(card.get("Name")),
        pci_address=address,
        parent=f"{NAME}:{npu}",
        partition=f"chip {number}",
        utilization_meaning="core_mean" if "utilization_ratio" in reading.values else None,
        power_window="unknown" if "power_watts" in reading.values else None,
    )


def _by_place(npu: int, chip: int) -> str:
    return f"{NAME}:{npu}:{chip}"


def _card(device: XpuDevice) -> int | None:
    return text.whole((device.parent or "").removeprefix(f"{NAME}:"))


def _memory(chip: dict[str, str]) -> tuple[int | None, int | None]:
    """Give used and total of a chip's HBM, or of its DDR where it has no HBM."""
    for name in ("HBM-Usage(MB)", "Memory-Usage(MB)"):
        used, total = (text.mebibytes(part) for part in chip.get(name, "").partition("/")[::2])
        if total:
            return used, total
    return None, None


def _processes(rows: list[list[str]]) -> dict[tuple[int, int], tuple[XpuProcess, ...]]:
    names = [name for cell in rows[0] for name in re.split(r"\s{2,}", cell)]
    found: dict[tuple[int, int], tuple[XpuProcess, ...]] = {}
    for cells in rows[1:]:
        row = dict(zip(names, _values(cells), strict=False))
        npu, chip, pid = (text.whole(row.get(name)) for name in ("NPU", "Chip", "Process id"))
        if npu is None or chip is None or pid is None:
            continue  # "No running processes found in NPU 1"
        used = text.mebibytes(row.get("Process memory(MB)"))
        process = XpuProcess(pid=pid, memory_used_bytes=used)
        found[npu, chip] = (*found.get((npu, chip), ()), process)
    return found


def _of_chip(
    processes: dict[tuple[int, int], tuple[XpuProcess, ...]] | None,
    card: dict[str, str],
    chip: dict[str, str],
) -> tuple[XpuProcess, ...] | None:
    if processes is None:
        return None
    return processes.get((_whole(card, "NPU"), _whole(chip, "Chip")), ())


def _values(cells: list[str]) -> Iterator[str]:
    """Give a process row's values: the first cell holds two, the name's may be empty."""
    yield from cells[0].split()
    yield from cells[1:]


# Blocks of "key : value".


def parse_map(output: str) -> list[XpuDevice]:
    """Parse ``npu-smi info -m``: which chips there are, where nothing else is understood."""
    refuse(output)
    lines = [re.split(r"\s{2,}", line.strip()) for line in output.splitlines() if line.strip()]
    header = next((line for line in lines if line[:2] == ["NPU ID", "Chip ID"]), None)
    rows = [dict(zip(header, line, strict=False)) for line in lines] if header else []
    devices = [
        XpuDevice(
            device_id=_by_place(npu, chip),
            vendor=NAME,
            device_index=index,
            model=word(row.get("Chip Name")),
            parent=f"{NAME}:{npu}",
            partition=f"chip {chip}",
        )
        for row in rows
        if (npu := text.whole(row.get("NPU ID"))) is not None
        and (chip := text.whole(row.get("Chip ID"))) is not None
        and (index := text.whole(row.get("Chip Logic ID"))) is not None
    ]
    if not devices:
        raise ParseError(
            "npu-smi info -m has no rows below 'NPU ID' and 'Chip ID': report this version of "
            "npu-smi"
        )
    return devices


def parse_block(output: str) -> list[XpuDevice]:
    """Parse ``npu-smi info -t KIND -i N`` for any kind; each chip of the card is a device."""
    refuse(output)
    pairs = [
        (key.strip(), value.strip())
        for key, colon, value in (line.partition(" : ") for line in output.splitlines())
        if colon
    ]
    npu = text.whole(dict(pairs).get("NPU ID"))
    if npu is None:
        raise ParseError("npu-smi info -t gave no 'NPU ID : number': report its version")
    return [_block(npu, chip, values) for chip, values in _chips(pairs)]


def _chips(pairs: list[tuple[str, str]]) -> Iterator[tuple[int, dict[str, str]]]:
    """Split a card's block by its chips.

    ``common`` begins each part with "Chip ID", the others end it so; a part with a "Chip Name"
    is the card's own controller.
    """
    body = [pair for pair in pairs if pair[0] not in ("NPU ID", "Chip Count")]
    leading = bool(body) and body[0][0] == "Chip ID"
    part: dict[str, str] = {}
    number: int | None = 0 if not any(key == "Chip ID" for key, _ in body) else None
    for key, value in body:
        ends = key in ("Chip ID", "Chip Name")
        if ends and leading:
            if part and number is not None:
                yield number, part
            part, number = {}, text.whole(value) if key == "Chip ID" else None
        elif ends:
            if key == "Chip ID" and (place := text.whole(value)) is not None:
                yield place, part
            part = {}
        else:
            part[key] = value
    if part and number is not None:
        yield number, part


def _block(npu: int, chip: int, values: dict[str, str]) -> XpuDevice:
    reading = Reading()
    conversions: tuple[tuple[str, tuple[str, ...], Callable[[Raw], Any]], ...] = (
        ("utilization_ratio", ("Aicore Usage Rate(%)",), text.percent),
        ("memory_total_bytes", ("HBM Capacity(MB)",), text.mebibytes),
        ("memory_bandwidth_ratio", ("HBM Bandwidth Usage Rate(%)",), text.percent),
        ("core_clock_hz", ("Aicore curFreq(MHZ)",), hertz),
        ("core_clock_max_hz", ("Aicore Freq(MHZ)",), hertz),
        ("power_watts", ("NPU Real-time Power(W)", "Power Dissipation(W)"), text.number),
        ("temperature_celsius", ("NPU Temperature (C)", "Temperature(C)"), positive),
        ("errors_corrected", ("HBM Single Bit Error Count",), text.whole),
        ("errors_uncorrected", ("HBM Double Bit Error Count",), text.whole),
    )
    for field, keys, convert in conversions:
        known = next((values[key] for key in keys if key in values), None)
        if known is not None:  # each kind of block has some of the fields
            reading.read(field, known, convert)
    found = reading.values
    return reading.device(
        _by_place(npu, chip),
        NAME,
        partition=f"chip {chip}",
        pci_address=pci_address(values.get("PCIe Bus Info")),
        driver_version=word(values.get("Software Version")),
        utilization_meaning="core_mean" if "utilization_ratio" in found else None,
        memory_bandwidth_meaning="of_peak" if "memory_bandwidth_ratio" in found else None,
        power_window="unknown" if "power_watts" in found else None,
    )
