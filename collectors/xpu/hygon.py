"""Hygon DCU: `hy-smi`, a relative of AMD's `rocm-smi` whose JSON is not always JSON.

Some versions leave out the comma between the power's keys; all have an empty key. The units are
in the keys, and what a device is called in them went from DCU to HCU. The power of BW cards reads
8 W under full load, so a low power of a busy card is not believed.
"""

import re
from typing import Any

from collectors.xpu import text
from collectors.xpu._reading import (
    Raw,
    Reading,
    document,
    hertz,
    pci_address,
    pcie_generation,
    positive,
    scalar,
    table,
    word,
)
from collectors.xpu.base import Command, CommandWay, ParseError, Vendor, Way
from schemas.records import XpuDevice

NAME = "hygon"
ASKED = ("--showuse", "--showmemuse", "--showpower", "--showtemp", "--showmeminfo", "vram")
# A busy card that claims less is wrong.
BUSY_RATIO = 0.2
BUSY_WATTS = 10.0
# A text's end and the next key's begin with nothing between them.
LOST_COMMA = re.compile(r'(?<=[^\s:,{\\])"\s*"(?=[A-Za-z][^"]*"\s*:)')


class Hygon(Vendor):
    """Hygon DCU."""

    title = "Hygon DCU"
    pci_vendor_ids = frozenset({0x1D94})
    # "Co-processor" on newer cards; the same vendor's processors fill the bus with other classes.
    pci_class_prefixes = ("03", "0b40", "12")
    visible_variables = ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")
    experimental = (
        "the power of some cards is known to be wrong, and there was no captured JSON of a card "
        "under load"
    )

    def ways(self) -> list[Way]:
        """Give the tool's JSON with all fields, with few, by its other name, and its table."""
        return [
            CommandWay("hy-smi", [Command(("hy-smi", "-a", "--json"), parse_json)]),
            CommandWay("hy-smi", [Command(("hy-smi", *ASKED, "--json"), parse_json)]),
            CommandWay("rocm-smi", [Command(("rocm-smi", "-a", "--json"), parse_json)]),
            CommandWay("hy-smi", [Command(("hy-smi",), parse_table)]),
        ]


def parse_json(output: str) -> list[XpuDevice]:
    """Parse the JSON of ``hy-smi``, and mend its lost commas."""
    try:
        root = document(output, "hy-smi --json")
    except ParseError:
        root = document(LOST_COMMA.sub('","', output), "hy-smi --json")
    cards = {key: card for key, card in table(root).items() if re.fullmatch(r"card\d{1,4}", key)}
    if not cards:
        raise ParseError("hy-smi --json has no 'card0': load the DTK environment and try again")
    return [_card(int(key.removeprefix("card")), table(card)) for key, card in cards.items()]


def _card(index: int, raw: dict[str, Any]) -> XpuDevice:
    card = {key.strip().rstrip(":").lower(): scalar(value) for key, value in raw.items() if key}

    def find(*keys: str) -> Raw:
        found = [card.get(key.lower()) for key in keys]
        return next((one for one in found if text.number(one) is not None), found[0])

    heat = [f"Temperature (Sensor {sensor}) (C)" for sensor in ("junction", "core", "edge")]
    hot_memory = [f"Temperature (Sensor {sensor}) (C)" for sensor in ("mem", "memory")]
    reading = Reading()
    reading.read(
        "utilization_ratio", find("DCU use (%)", "HCU use (%)", "GPU use (%)"), text.percent
    )
    for field, middle in (("total", "Total"), ("used", "Total Used")):
        mebibytes = text.mebibytes(find(f"vram {middle} Memory (MiB)"))
        exact = text.whole(find(f"vram {middle} Memory (B)"))
        reading.put(f"memory_{field}_bytes", mebibytes if mebibytes is not None else exact)
    reading.read("power_watts", find("Average Graphics Package Power (W)"), text.number)
    reading.read("power_limit_watts", find("Max Graphics Package Power (W)"), positive)
    reading.read("temperature_celsius", find(*heat), positive)
    reading.read("memory_temperature_celsius", find(*hot_memory), positive)
    reading.read("core_clock_hz", find("sclk clock speed"), hertz)
    reading.read("memory_clock_hz", find("mclk clock speed"), hertz)
    link = re.search(
        r"([\d.]+)\s*GT/s\W*x(\d{1,3})",
        " ".join(str(card.get(f"pcie clock {key}")) for key in ("speed", "level")),
    )
    speed = text.number(link[1]) if link is not None else None
    reading.pcie(pcie_generation(speed), int(link[2]) if link is not None else None)
    address = pci_address(card.get("pci bus"))
    serial = word(card.get("unique id"))
    _doubt_power(reading)
    return reading.device(
        serial or address or f"{NAME}:{index}",
        NAME,
        device_index=index,
        model=word(card.get("card series")),
        pci_address=address,
        **_meanings(reading),
    )


def _doubt_power(reading: Reading) -> None:
    watts, load = (reading.values.get(name) for name in ("power_watts", "utilization_ratio"))
    if watts is not None and watts < BUSY_WATTS and load is not None and load > BUSY_RATIO:
        reading.drop("power_watts", "suspect")


def _meanings(reading: Reading) -> dict[str, Any]:
    known = reading.values
    return {
        "utilization_meaning": "busy_time" if "utilization_ratio" in known else None,
        "power_window": "average" if "power_watts" in known else None,
    }


def parse_table(output: str) -> list[XpuDevice]:
    """Parse the table of ``hy-smi`` without options, by its header line."""
    lines = [line.split() for line in output.splitlines()]
    header = next((line for line in lines if line[:2] in (["DCU", "Temp"], ["HCU", "Temp"])), None)
    if header is None:
        raise ParseError("hy-smi has no header line 'DCU Temp': report this version of hy-smi")
    rows = [dict(zip(header, line, strict=True)) for line in lines if len(line) == len(header)]
    devices = [
        _tabled(index, row, header[0])
        for row in rows
        if (index := text.whole(row[header[0]])) is not None
    ]
    if not devices:
        raise ParseError("hy-smi lists no card below its header: check that the driver is loaded")
    return devices


def _tabled(index: int, row: dict[str, str], name: str) -> XpuDevice:
    reading = Reading()
    reading.read("utilization_ratio", row.get(f"{name}%"), text.percent)
    reading.read("temperature_celsius", row.get("Temp"), positive)
    reading.read("power_watts", row.get("AvgPwr"), text.number)
    reading.read("power_limit_watts", row.get("PwrCap"), positive)
    _doubt_power(reading)
    return reading.device(f"{NAME}:{index}", NAME, device_index=index, **_meanings(reading))
