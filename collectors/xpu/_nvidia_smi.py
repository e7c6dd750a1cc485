"""The command ``nvidia-smi``, which changes its columns with each driver: read by their names."""

import csv
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any
from xml.etree import ElementTree

from collectors.xpu._nvml import HIDDEN_BY_MIG, VENDOR, throttle_reasons
from collectors.xpu.base import (
    SLOW_LOOKS,
    Command,
    ParseError,
    StreamWay,
    Way,
    XpuError,
    merge,
    run,
)
from collectors.xpu.text import (
    mebibytes,
    number,
    pci_address,
    pcie_capacity,
    percent,
    reason,
    scaled,
    whole,
)
from schemas.records import MissingReason, XpuDevice, XpuProcess

PCI_VENDOR_ID = 0x10DE
# Column, field, and what makes the field of the column's text.
COLUMNS: tuple[tuple[str, str, Callable[[str], Any]], ...] = (
    ("utilization.gpu", "utilization_ratio", percent),
    ("utilization.memory", "memory_bandwidth_ratio", percent),
    ("memory.total", "memory_total_bytes", mebibytes),
    ("memory.used", "memory_used_bytes", mebibytes),
    ("memory.reserved", "memory_reserved_bytes", mebibytes),
    ("clocks.current.sm", "core_clock_hz", lambda text: scaled(text, 1e6)),
    ("clocks.max.sm", "core_clock_max_hz", lambda text: scaled(text, 1e6)),
    ("clocks.current.memory", "memory_clock_hz", lambda text: scaled(text, 1e6)),
    ("clocks.max.memory", "memory_clock_max_hz", lambda text: scaled(text, 1e6)),
    ("power.draw.instant", "power_watts", number),
    ("enforced.power.limit", "power_limit_watts", number),
    ("temperature.gpu", "temperature_celsius", number),
    ("temperature.memory", "memory_temperature_celsius", number),
    ("pcie.link.gen.current", "pcie_generation", whole),
    ("pcie.link.width.current", "pcie_width", whole),
    ("ecc.errors.corrected.volatile.total", "errors_corrected", whole),
    ("ecc.errors.uncorrected.volatile.total", "errors_uncorrected", whole),
)
IDENTITY_COLUMNS = (
    "count",
    "index",
    "uuid",
    "pci.bus_id",
    "pci.device_id",
    "name",
    "driver_version",
    "mig.mode.current",
    "power.draw",
)
ACTIVE_COLUMN = "clocks_event_reasons.active"
COUNTER_COLUMNS: dict[str, str] = {
    "clocks_event_reasons_counters.sw_power_cap": "sw_power_cap",
    "clocks_event_reasons_counters.sync_boost": "sync_boost",
    "clocks_event_reasons_counters.sw_thermal_slowdown": "sw_thermal",
    "clocks_event_reasons_counters.hw_thermal_slowdown": "hw_thermal",
    "clocks_event_reasons_counters.hw_power_brake_slowdown": "power_brake",
}
ALL_COLUMNS = (
    *IDENTITY_COLUMNS,
    *(column for column, _, _ in COLUMNS),
    ACTIVE_COLUMN,
    *COUNTER_COLUMNS,
)
# How drivers before 535 call a column.
OLDER_NAMES = {ACTIVE_COLUMN: "clocks_throttle_reasons.active"}
INVALID_FIELD = re.compile(r'Field "([^"]+)" is not a valid field')


def parse_query_gpu(text: str) -> list[XpuDevice]:
    """Read ``nvidia-smi --query-gpu=... --format=csv``, by the names of its columns."""
    return [_device_of(row) for row in _rows(text, "uuid", "pci.bus_id")]


def parse_compute_apps(text: str) -> list[XpuDevice]:
    """Read ``nvidia-smi --query-compute-apps=...``: each GPU that has processes, and those."""
    processes: dict[str, list[XpuProcess]] = {}
    for row in _rows(text, "pid"):
        pid = whole(row["pid"])
        device_id = _device_id(row)
        if pid is None or device_id is None:
            continue
        memory = mebibytes(row.get("used_gpu_memory", row.get("used_memory")))
        processes.setdefault(device_id, []).append(XpuProcess(pid=pid, memory_used_bytes=memory))
    return [
        XpuDevice(device_id=device_id, vendor=VENDOR, tool="nvidia-smi", processes=tuple(found))
        for device_id, found in processes.items()
    ]


def parse_query_xml(text: str) -> list[XpuDevice]:
    """Read ``nvidia-smi -q -x``: what the CSV lacks, PCIe throughput, and the MIG instances."""
    begin = text.find("<nvidia_smi_log")
    if begin < 0:
        raise ParseError("no <nvidia_smi_log> in the answer of 'nvidia-smi -q -x': run it by hand")
    try:
        root = ElementTree.fromstring(text[begin:])
    except ElementTree.ParseError as err:
        raise ParseError(f"'nvidia-smi -q -x' is no XML: {err}; run it by hand") from err
    return [device for gpu in root.iter("gpu") for device in _devices_of_xml(gpu)]


def _rows(text: str, *needs_one_of: str) -> list[dict[str, str]]:
    lines = [line for line in text.splitlines() if line.strip()]
    try:
        table = list(csv.reader(lines, skipinitialspace=True))
    except csv.Error as err:
        raise ParseError(f"nvidia-smi's answer is no CSV: {err}; run it by hand") from err
    # The unit follows the name: "power.draw [W]".
    header = [name.partition(" [")[0].strip() for name in table[0]] if table else []
    if not set(needs_one_of) & set(header):
        raise ParseError(
            f"no column {' or '.join(needs_one_of)} in nvidia-smi's answer, which begins "
            f"{text[:200]!r}: run it by hand"
        )
    return [dict(zip(header, row, strict=True)) for row in table[1:] if len(row) == len(header)]


def _device_id(row: dict[str, str]) -> str | None:
    uuid = row.get("uuid", row.get("gpu_uuid", "")).strip()
    address = pci_address(row.get("pci.bus_id", row.get("gpu_bus_id")))
    if uuid and reason(uuid) is None and not uuid.isdigit():
        return uuid
    if address is not None:
        return address
    index = whole(row.get("index"))
    return None if index is None else f"{VENDOR}:{index}"


def _device_of(row: dict[str, str]) -> XpuDevice:
    _refuse_other_vendor(row.get("pci.device_id", ""))
    device_id = _device_id(row)
    if device_id is None:
        raise ParseError("a row of nvidia-smi has neither UUID nor PCI address: run it by hand")
    values: dict[str, Any] = {}
    missing: dict[str, MissingReason] = {}
    for column, name, read in COLUMNS:
        value = read(row[column]) if column in row else None
        if value is not None and value >= 0:
            values[name] = value
        else:
            missing[name] = reason(row.get(column, "")) or "suspect"
    _add_power(row, values, missing)
    if row.get("mig.mode.current", "").strip() == "Enabled":
        missing |= {name: "partition_hides" for name in HIDDEN_BY_MIG if name in missing}
    if "utilization_ratio" in values:
        values["utilization_meaning"] = "busy_time"
    if "memory_bandwidth_ratio" in values:
        values["memory_bandwidth_meaning"] = "busy_time"
    capacity = pcie_capacity(values.get("pcie_generation"), values.get("pcie_width"))
    _add_throttle(row, values, missing)
    return XpuDevice(
        device_id=device_id,
        vendor=VENDOR,
        device_index=whole(row.get("index")),
        model=_word(row.get("name")),
        pci_address=pci_address(row.get("pci.bus_id")),
        driver_version=_word(row.get("driver_version")),
        tool="nvidia-smi",
        pcie_capacity_bytes_per_second=capacity,
        **values,
        missing=missing,
    )


def _refuse_other_vendor(pci_device_id: str) -> None:
    """Refuse a tool that only bears this name; ids are written ``0x233510DE``."""
    match = re.fullmatch(r"0x[0-9A-Fa-f]{4}([0-9A-Fa-f]{4})", pci_device_id.strip())
    if match is not None and int(match[1], 16) != PCI_VENDOR_ID:
        raise ParseError(
            f"this nvidia-smi shows devices of PCI vendor 0x{match[1]}, not of NVIDIA: name that "
            "vendor in [collect] xpus"
        )


def _add_power(
    row: dict[str, str], values: dict[str, Any], missing: dict[str, MissingReason]
) -> None:
    if "power_watts" in values:
        values["power_window"] = "instant"
        return
    # A mean over one second from Ampere on, the moment's value before.
    power = number(row.get("power.draw"))
    if power is not None:
        values |= {"power_watts": power, "power_window": "unknown"}
        missing.pop("power_watts", None)


def _add_throttle(
    row: dict[str, str], values: dict[str, Any], missing: dict[str, MissingReason]
) -> None:
    active = row.get(ACTIVE_COLUMN, row.get(OLDER_NAMES[ACTIVE_COLUMN], "")).strip()
    if re.fullmatch(r"0x[0-9A-Fa-f]+", active):
        values["throttle_reasons"] = throttle_reasons(int(active, 16))
    else:
        missing["throttle_reasons"] = reason(active) or "suspect"
    seconds = {
        name: microseconds / 1e6
        for column, name in COUNTER_COLUMNS.items()
        if (microseconds := number(row.get(column))) is not None
    }
    if seconds:
        values["throttled_seconds"] = seconds


def _word(text: str | None) -> str | None:
    return text.strip() if text is not None and reason(text) is None else None


def _devices_of_xml(gpu: ElementTree.Element) -> Iterable[XpuDevice]:
    uuid = _word(gpu.findtext("uuid"))
    address = pci_address(gpu.get("id"))
    device_id = uuid or address
    if device_id is None:
        return
    listed = [
        (whole(one.findtext("gpu_instance_id")), process)
        for one in gpu.iter("process_info")
        if (process := _process_of_xml(one)) is not None
    ]
    yield XpuDevice(
        device_id=device_id,
        vendor=VENDOR,
        pci_address=address,
        tool="nvidia-smi",
        # KB/s, with 1000: the driver divides bytes so.
        pcie_received_bytes_per_second=scaled(gpu.findtext("pci/rx_util"), 1000),
        pcie_sent_bytes_per_second=scaled(gpu.findtext("pci/tx_util"), 1000),
    )
    for one in gpu.iter("mig_device"):
        instance = whole(one.findtext("gpu_instance_id"))
        place = f"{instance}/{whole(one.findtext('compute_instance_id'))}"
        yield XpuDevice(
            device_id=f"MIG-{device_id}/{place}",
            vendor=VENDOR,
            parent=device_id,
            partition=place,
            tool="nvidia-smi",
            memory_total_bytes=mebibytes(one.findtext("fb_memory_usage/total")),
            memory_used_bytes=mebibytes(one.findtext("fb_memory_usage/used")),
            memory_reserved_bytes=mebibytes(one.findtext("fb_memory_usage/reserved")),
            processes=tuple(process for owner, process in listed if owner == instance),
            missing=dict.fromkeys(
                (*HIDDEN_BY_MIG, "power_watts", "core_clock_hz"), "partition_hides"
            ),
        )


def _process_of_xml(one: ElementTree.Element) -> XpuProcess | None:
    pid = whole(one.findtext("pid"))
    if pid is None:
        return None
    return XpuProcess(pid=pid, memory_used_bytes=mebibytes(one.findtext("used_memory")))


def _is_complete(header: str, lines: list[str]) -> bool:
    """Whether one turn of the stream is over: each row tells how many GPUs there are."""
    if INVALID_FIELD.search(header):
        return True
    names = [name.strip() for name in header.split(",")]
    if "count" not in names:
        return True
    row = lines[-1].split(",")
    count = whole(row[names.index("count")]) if len(row) == len(names) else None
    return count is None or len(lines) >= count


class NvidiaSmi(Way):
    """The command: one that keeps printing, and others now and then for the slow values.

    Args:
        program: The command; a parameter for tests.
    """

    name = "nvidia-smi"

    def __init__(self, program: str = "nvidia-smi") -> None:
        self._program = program
        self._columns = list(ALL_COLUMNS)
        self._stream = self._make_stream()
        self._looks = 0
        self._slow: Sequence[XpuDevice] = ()

    def why_not(self) -> str | None:
        """Look for the program on the path."""
        return self._stream.why_not()

    def read(self) -> list[XpuDevice]:
        """Take the newest turn of the stream."""
        devices = self._read_stream()
        if self._looks % SLOW_LOOKS == 0:
            self._slow = self._read_slowly(devices)
        self._looks += 1
        known = {device.device_id for device in devices}
        # An instance is of its parent, and gone when that is.
        slow = [one for one in self._slow if one.device_id in known or one.parent in known]
        return merge([devices, slow])

    def close(self) -> None:
        """Stop the stream."""
        self._stream.close()

    def _make_stream(self) -> StreamWay:
        return StreamWay(
            self.name,
            Command(
                (
                    self._program,
                    f"--query-gpu={','.join(self._columns)}",
                    "--format=csv",
                    "-lms",
                    "{period_ms}",
                ),
                parse_query_gpu,
            ),
            _is_complete,
        )

    def _read_stream(self) -> list[XpuDevice]:
        """Read the stream; leave out, one by one, the columns that this driver does not know."""
        for _ in ALL_COLUMNS:
            self._stream.period_seconds = self.period_seconds
            try:
                return self._stream.read()
            except XpuError as err:
                match = INVALID_FIELD.search(str(err))
                if match is None or match[1] not in self._columns:
                    raise
                place = self._columns.index(match[1])
                older = OLDER_NAMES.get(match[1])
                self._columns[place : place + 1] = [older] if older is not None else []
                self._stream.close()
                self._stream = self._make_stream()
        raise ParseError(f"{self._program} knows none of the columns: update the driver")

    def _read_slowly(self, devices: Sequence[XpuDevice]) -> list[XpuDevice]:
        apps = parse_compute_apps(
            run(
                (
                    self._program,
                    "--query-compute-apps=gpu_uuid,gpu_bus_id,pid,used_gpu_memory",
                    "--format=csv",
                )
            )
        )
        listed = {device.device_id for device in apps}
        # The list is of all GPUs, so one that is not on it has no processes.
        idle = [
            replace(device, processes=())
            for device in _bare(devices)
            if device.device_id not in listed
        ]
        return merge([apps, idle, parse_query_xml(run((self._program, "-q", "-x")))])


def _bare(devices: Sequence[XpuDevice]) -> list[XpuDevice]:
    return [XpuDevice(device_id=device.device_id, vendor=VENDOR) for device in devices]
