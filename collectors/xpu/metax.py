"""MetaX (沐曦) GPUs, by ``mx-smi``.

Seen on a C500 with tool 2.2.12, idle and under vLLM. Utilisation, memory, memory throughput,
clocks, power and temperature were seen with values; PCIe traffic, throttling and memory errors
only as 0; a table with processes only in others' notes. "KB" is KiB (67108864 KB are 64 GiB);
whether "MBytes/s" is decimal is not known, it is read so. A sliced GPU (sGPU) is a device of its
own with its ``parent``.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from collectors.xpu._outline import (
    Entry,
    Field,
    Find,
    Found,
    count,
    device,
    ecc_errors,
    finder,
    hertz,
    known,
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
    table_processes,
    throttle_reasons,
)
from collectors.xpu.base import Command, CommandWay, Vendor, Way, merge, run
from collectors.xpu.text import number, pci_address, percent
from schemas.records import ThrottleReason, XpuDevice

TOOL = "mx-smi"
ADDRESS = r"[0-9a-fA-F]{4,8}:[0-9a-fA-F]{2}:[0-9a-fA-F]{2}\.[0-7]"
HEADING = rf"^GPU#([0-9]{{1,6}})[ \t]+(\S+)[ \t]+({ADDRESS})[ \t]*$"
# The hottest of several sensors, whose number changes: "hotspot(sensor5)".
SENSOR = re.compile(r"hotspot\(\w+\)")
LISTED = re.compile(rf"^\s*GPU#\d+\s+\S+\s+({ADDRESS}).*\(UUID: (\S+?)\)")
LISTED_SLICE = re.compile(r"^\s*SGPU#([0-9]{1,6})\s.*\(UUID: (\S+?)\)")

SUMMARY = (
    Field("utilization_ratio", percent, ("utilization",)),
    Field("temperature_celsius", positive, ("hotspot",)),
    Field("core_clock_hz", hertz, ("clocks/XCORE",)),
    Field("memory_clock_hz", hertz, ("clocks/MC",)),
)
# By the title under which ``mx-smi --show-...`` prints them.
LOGGED = {
    "utilization": (Field("utilization_ratio", percent, ("utilization/gpu",)),),
    "memory": (
        Field("memory_total_bytes", size_bytes, ("memory/vram total",)),
        Field("memory_used_bytes", size_bytes, ("memory/vram used",)),
    ),
    "hbm bandwidth": (Field("memory_io_bytes_per_second", rate, ("hbm bandwidth/throughput",)),),
    "board power": (
        Field("power_watts", number, ("board power/total",)),
        Field("power_limit_watts", positive, ("board power/limit",)),
    ),
    "chip temperature": (Field("temperature_celsius", positive, ("hotspot",)),),
    "clocks": (
        Field("core_clock_hz", hertz, ("xcore_clk",)),
        Field("memory_clock_hz", hertz, ("mc0_dficlk",)),
    ),
    "clock": (
        Field("core_clock_hz", hertz, ("clock/xcore",)),
        Field("memory_clock_hz", hertz, ("clock/mc",)),
    ),
    "pcie info": (
        Field("pcie_generation", pcie_generation, ("pcie info/current speed",)),
        Field("pcie_width", pcie_width, ("pcie info/current width",)),
    ),
    "pcie bandwidth": (
        Field("pcie_received_bytes_per_second", rate, ("pcie bandwidth/rx",)),
        Field("pcie_sent_bytes_per_second", rate, ("pcie bandwidth/tx",)),
    ),
}
# One call takes 0.6 s, so what may be shown together is.
SHOWN = ("--show-memory", "--show-hbm-bandwidth", "--show-pcie-bandwidth", "--show-clk-tr")
SHOWN_SLOWLY = ("--show-board-power", "--show-pcie", "--count-ecc", "--show-process")
ASKED = (
    "memory_total_bytes",
    "memory_used_bytes",
    "memory_io_bytes_per_second",
    "pcie_received_bytes_per_second",
    "pcie_sent_bytes_per_second",
    "throttle_reasons",
)
ASKED_SLOWLY = (
    "power_limit_watts",
    "pcie_generation",
    "pcie_width",
    "errors_corrected",
    "errors_uncorrected",
    "processes",
)
THROTTLED = "xcore clocks throttle reason"
REASONS: dict[str, ThrottleReason | None] = {
    "idle": None,
    "low usage": None,
    "applications limit": "user_clock",
    "over power": "sw_power_cap",
    "chip over temperature": "hw_thermal",
    "vr over temperature": "hw_thermal",
    "hbm over temperature": "hw_thermal",
    "thermal over temperature": "hw_thermal",
    "pcc": "hw_slowdown",
    "didt": "hw_slowdown",
    "power brake": "power_brake",
}


def parse_json(text: str) -> list[XpuDevice]:
    """Read ``mx-smi -j``, whose first line is not JSON; devices are keyed by PCI address."""
    answer = _json(text)
    devices: list[XpuDevice] = []
    for key, value in answer.items():
        address = pci_address(key)
        if address is not None and isinstance(value, dict):
            devices += _summary(address, value, answer.get("driver_version"))
    if not devices and answer.get("attached_gpus") != 0:
        raise not_understood(f"{TOOL} -j", "device by its PCI address", text)
    return devices


def _json(text: str) -> dict[str, Any]:
    try:
        answer = json.loads(text[text.index("{") :])
    except (ValueError, RecursionError) as err:
        raise not_understood(f"{TOOL} -j", "JSON", text) from err
    return answer if isinstance(answer, dict) else {}


def _summary(address: str, raw: dict[str, Any], driver: object) -> list[XpuDevice]:
    found = read(SUMMARY, _finder(raw))
    if raw.get("unavailable_reason"):
        found = Found(missing=dict.fromkeys([*found.values, *found.missing], "not_permitted"))
    else:
        _add_power(found, raw)
    whole = device(
        "metax",
        TOOL,
        found,
        pci=address,
        index=_index(raw.get("device_id")),
        utilization="core_mean",
        driver_version=str(driver) if driver else None,
    )
    slices = raw.get("sgpu_info")
    return [whole] + [
        _slice(whole, one)
        for one in (slices if isinstance(slices, list) else [])
        if isinstance(one, dict)
    ]


def _finder(raw: dict[str, Any]) -> Find:
    def find(key: str) -> str | None:
        value: object = raw
        for name in key.split("/"):
            value = value.get(name) if isinstance(value, dict) else None
        return str(value) if isinstance(value, str | int | float) else None

    return find


def _add_power(found: Found, raw: dict[str, Any]) -> None:
    """Add up the board's supply lines, ``Way0``, ``Way1``, ...; all of them or none."""
    board = raw.get("board_power")
    ways = board.get("power") if isinstance(board, dict) else None
    if not isinstance(ways, dict) or not ways:
        found.missing["power_watts"] = "not_supported"
        return
    fields = [Field(way, number, (way,)) for way in ways]
    lines = read(fields, _finder(ways))
    if lines.missing:
        found.missing["power_watts"] = next(iter(lines.missing.values()))
    else:
        found.add("power_watts", round(sum(lines.values.values()), 3))


def _slice(whole: XpuDevice, raw: dict[str, Any]) -> XpuDevice:
    fields = (
        Field("utilization_ratio", percent, ("utilization",)),
        Field("memory_total_bytes", size_bytes, ("vram_quota",)),
        Field("memory_used_bytes", size_bytes, ("vram_used",)),
    )
    name = str(raw.get("sgpu_id"))
    made = device(
        "metax",
        TOOL,
        read(fields, _finder(raw)),
        pci=whole.pci_address,
        utilization="core_mean",
        driver_version=whole.driver_version,
        parent=whole.device_id,
        partition=f"sGPU {name}",
    )
    return replace(made, device_id=f"{whole.device_id}/sgpu{name}")


def _index(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def parse_shown(text: str) -> list[XpuDevice]:
    """Read the answer to all of `SHOWN`: what is not in it is not supported."""
    return parse_log(text, ASKED)


def parse_shown_slowly(text: str) -> list[XpuDevice]:
    """Read the answer to all of `SHOWN_SLOWLY`."""
    return parse_log(text, ASKED_SLOWLY)


def parse_log(text: str, asked: Sequence[str] = ()) -> list[XpuDevice]:
    """Read any of ``mx-smi --show-...`` and ``--summary``, or several at once."""
    _, parts = sections(text, HEADING)
    processes = table_processes(text)
    if not parts and processes is None and not none_attached(text):
        raise not_understood(TOOL, "heading such as GPU#0  MXC500  0000:37:00.0", text)
    looks = []
    for match, body in parts:
        index = count(match[1])
        found = _logged(outline(SENSOR.sub("hotspot", body)))
        if processes is not None:
            found.add("processes", processes.get(index or 0, ()))
        found.want(asked)
        looks.append(
            [
                device(
                    "metax",
                    TOOL,
                    found,
                    pci=match[3],
                    index=index,
                    model=match[2],
                    utilization="core_mean",
                )
            ]
        )
    return merge(looks)


def _logged(entries: list[Entry]) -> Found:
    titles = {name for entry in entries for name in entry.path[:-1]}
    fields = [one for title, group in LOGGED.items() if title in titles for one in group]
    found = read(fields, finder(entries))
    found.add("throttle_reasons", throttle_reasons(entries, THROTTLED, REASONS))
    found.add("errors_corrected", ecc_errors(entries, "correctable", "ecc errors"))
    found.add("errors_uncorrected", ecc_errors(entries, "uncorrectable", "ecc errors"))
    return found


def parse_list(text: str) -> dict[str, str]:
    """Read ``mx-smi -L``: the UUID of each GPU and slice, by the name it has elsewhere."""
    names: dict[str, str] = {}
    whole: str | None = None
    for line in text.splitlines():
        if (match := LISTED.match(line)) is not None:
            whole = pci_address(match[1])
            uuid = known(match[2])
            if whole is not None and uuid is not None:
                names[whole] = uuid
        elif line.lstrip().startswith("GPU#"):
            whole = None
        elif whole is not None and (match := LISTED_SLICE.match(line)) is not None:
            names[f"{whole}/sgpu{count(match[1])}"] = match[2]
    return names


def renamed(devices: list[XpuDevice], names: dict[str, str]) -> list[XpuDevice]:
    """Call the devices by their UUID where it is known."""
    return [
        replace(
            one,
            device_id=names.get(one.device_id, one.device_id),
            parent=names.get(one.parent, one.parent) if one.parent is not None else None,
        )
        for one in devices
    ]


class MxSmi(CommandWay):
    """``mx-smi``, which tells the UUIDs only in a list of its own; that is read once."""

    def __init__(self, tool: str) -> None:
        super().__init__(
            TOOL,
            [
                Command((tool, "-j"), parse_json),
                Command((tool, *SHOWN), parse_shown),
                Command((tool, *SHOWN_SLOWLY), parse_shown_slowly, slow=True),
            ],
        )
        self.tool = tool
        self.names: dict[str, str] | None = None

    def read(self) -> list[XpuDevice]:
        """Run both commands and join their answers."""
        if self.names is None:
            self.names = parse_list(run((self.tool, "-L")))
        return renamed(super().read(), self.names)


class MetaX(Vendor):
    """MetaX C and N series."""

    title = "MetaX"
    pci_vendor_ids = frozenset({0x9999})
    visible_variables = ("MACA_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES")

    def ways(self) -> list[Way]:
        """Give ``mx-smi``."""
        return [MxSmi(program(TOOL, "/opt/mxdriver/bin/mx-smi"))]
