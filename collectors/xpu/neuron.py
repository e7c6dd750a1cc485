"""AWS Inferentia and Trainium: `neuron-ls` for what is here, `neuron-monitor` for its use.

There is no power, clock or temperature on these chips. The monitor is one process that writes a
line of JSON each second; it is left running, because it needs a period to measure.
"""

import json
import os
import select
import subprocess
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from collectors.xpu import text
from collectors.xpu._reading import Reading, document, items, pci_address, scalar, table
from collectors.xpu.base import (
    SLOW_LOOKS,
    ParseError,
    Vendor,
    Way,
    XpuError,
    missing_program,
    plain,
    run,
)
from schemas.records import XpuDevice, XpuProcess

NAME = "neuron"
CHUNK_BYTES = 1 << 16
MONITOR_CONFIG = {
    "period": "1s",
    "neuron_runtimes": [
        {
            "tag_filter": ".*",
            "metrics": [{"type": "neuroncore_counters"}, {"type": "memory_used"}],
        }
    ],
    "system_metrics": [{"type": "neuron_hw_counters"}],
}


class Neuron(Vendor):
    """AWS Inferentia and Trainium."""

    title = "AWS Inferentia and Trainium"
    pci_vendor_ids = frozenset({0x1D0F})
    # "System peripheral"; the virtual machine's network, disks and console are this vendor's, too.
    pci_class_prefixes = ("0880", "12")
    index_files = r"/dev/neuron(\d+)"
    experimental = "one captured report of a trn1 under light load is all that it was tested with"

    def ways(self) -> list[Way]:
        """Give the pair of tools."""
        return [NeuronTools()]


class NeuronTools(Way):
    """``neuron-ls`` now and then, and a running ``neuron-monitor``."""

    name = "neuron-monitor"

    def __init__(self) -> None:
        self.monitor: subprocess.Popen[bytes] | None = None
        self.config: Path | None = None
        self.pending = b""
        self.listing: str | None = None
        self.looks = 0

    def why_not(self) -> str | None:
        """Look for both programs on the path."""
        programs = ("neuron-ls", "neuron-monitor")
        missing = next((name for name in programs if missing_program(name) is not None), None)
        return f"{missing} is not on the path: add /opt/aws/neuron/bin to it" if missing else None

    def read(self) -> list[XpuDevice]:
        """Wait for the monitor's next line."""
        if self.listing is None or self.looks % SLOW_LOOKS == 0:
            self.listing = run(("neuron-ls", "-j"))
        self.looks += 1
        if self.monitor is None:
            self._start()
        return parse_monitor(self._line(), self.listing)

    def close(self) -> None:
        """End the monitor."""
        if self.monitor is not None:
            self.monitor.kill()
            self.monitor.wait()
            if self.monitor.stdout is not None:
                self.monitor.stdout.close()
            self.monitor = None
        if self.config is not None:
            self.config.unlink(missing_ok=True)
            self.config = None
        self.pending = b""

    def _start(self) -> None:
        handle, name = tempfile.mkstemp(prefix="latencyprism-neuron-", suffix=".json")
        with os.fdopen(handle, "w") as file:
            json.dump(MONITOR_CONFIG, file)
        self.config = Path(name)
        try:
            self.monitor = subprocess.Popen(
                ["neuron-monitor", "-c", name],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
            )
        except OSError as err:
            self.close()
            raise XpuError(
                f"neuron-monitor cannot be started: {err.strerror}; check its installation"
            ) from err

    def _line(self) -> str:
        """Give the newest whole line, waiting for one where none has come since the last look."""
        assert self.monitor is not None
        assert self.monitor.stdout is not None
        pipe = self.monitor.stdout.fileno()
        while b"\n" not in self.pending or select.select([pipe], [], [], 0)[0]:
            chunk = os.read(pipe, CHUNK_BYTES)
            if not chunk:
                status = self.monitor.wait()
                self.close()
                raise XpuError(f"neuron-monitor ended with status {status}: run it by hand")
            self.pending += chunk
        *whole, self.pending = self.pending.split(b"\n")
        return plain(whole[-1].decode(errors="replace"))


def parse_list(output: str) -> list[XpuDevice]:
    """Parse ``neuron-ls -j``: the devices, their memory and who has them open."""
    return [_listed(one) for one in _list(output)]


def parse_monitor(output: str, listing: str | None = None) -> list[XpuDevice]:
    """Parse one document of ``neuron-monitor``, with the output of ``neuron-ls -j`` if there is.

    The monitor names cores only, and none on an idle host; the list says which device has which
    core and which devices nobody uses, so that those can be called idle.
    """
    report = table(document(output, "neuron-monitor"))
    if "neuron_runtime_data" not in report:
        raise ParseError("neuron-monitor has no 'neuron_runtime_data': report its version")
    listed = _list(listing) if listing is not None else _from_hardware(report)
    runtimes = [table(one) for one in items(report.get("neuron_runtime_data"))]
    errors = {
        one.get("neuron_device_index"): one
        for one in map(table, items(_system(report).get("neuron_devices")))
    }
    return [_monitored(one, runtimes, table(errors.get(one["neuron_device"]))) for one in listed]


def _list(output: str) -> list[dict[str, Any]]:
    root = document(output, "neuron-ls -j")
    if isinstance(root, dict):  # some versions wrap the list
        root = root.get("neuron_devices") or root.get("mlas")
    found = [one for one in map(table, items(root)) if isinstance(one.get("neuron_device"), int)]
    if not found:
        raise ParseError("neuron-ls -j has no 'neuron_device': check that the neuron driver runs")
    return _with_cores(found)


def _with_cores(devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Number the cores where an older tool does not: in the order of the devices."""
    cores: list[dict[str, Any]] = []
    for one in devices:
        count = one.get("nc_count")
        numbers = one.get("neuroncore_ids")
        if not isinstance(numbers, list) and isinstance(count, int) and 0 < count < 1024:
            numbers = [one["neuron_device"] * count + core for core in range(count)]
        cores.append(one | {"neuroncore_ids": items(numbers)})
    return cores


def _from_hardware(report: dict[str, Any]) -> list[dict[str, Any]]:
    hardware = table(report.get("neuron_hardware_info"))
    count, cores = (
        hardware.get(f"{name}_count") for name in ("neuron_device", "neuroncore_per_device")
    )
    if not isinstance(count, int) or not isinstance(cores, int) or not 0 < count < 1024:
        raise ParseError("neuron-monitor has no 'neuron_hardware_info': give it neuron-ls beside")
    return _with_cores([{"neuron_device": at, "nc_count": cores} for at in range(count)])


def _system(report: dict[str, Any]) -> dict[str, Any]:
    return table(table(report.get("system_data")).get("neuron_hw_counters"))


def _listed(one: dict[str, Any]) -> XpuDevice:
    index, address = one["neuron_device"], pci_address(one.get("bdf"))
    found = one.get("neuron_processes")
    return XpuDevice(
        device_id=address or f"{NAME}:{index}",
        vendor=NAME,
        device_index=index,
        pci_address=address,
        memory_total_bytes=text.whole(scalar(one.get("memory_size"))),
        processes=tuple(
            XpuProcess(pid=process["pid"])
            for process in map(table, items(found))
            if isinstance(process.get("pid"), int)
        )
        if isinstance(found, list)
        else None,
    )


def _monitored(
    one: dict[str, Any], runtimes: list[dict[str, Any]], errors: dict[str, Any]
) -> XpuDevice:
    device = _listed(one)
    cores = [str(core) for core in one["neuroncore_ids"]]
    seen = [found for runtime in runtimes if (found := _process(runtime, cores)) is not None]
    reading = Reading("no_workload")
    if seen:
        busy = [
            process.utilization_ratio for process in seen if process.utilization_ratio is not None
        ]
        used = [
            process.memory_used_bytes for process in seen if process.memory_used_bytes is not None
        ]
        reading.put("utilization_ratio", min(sum(busy), 1.0) if busy else None)
        reading.put("memory_used_bytes", sum(used) if used else None)
    elif device.processes == ():
        reading.put("utilization_ratio", 0.0)
        reading.put("memory_used_bytes", 0)
    else:
        reading.put("utilization_ratio", None)
        reading.put("memory_used_bytes", None)
    for field, kind in (("errors_corrected", "corrected"), ("errors_uncorrected", "uncorrected")):
        counts = [
            text.whole(scalar(errors.get(f"{place}_ecc_{kind}"))) for place in ("mem", "sram")
        ]
        known = [count for count in counts if count is not None]
        reading.put(field, sum(known) if known else None, "not_supported")
    listed = {process.pid: process for process in device.processes or ()}
    return replace(
        device,
        **reading.values,
        missing=reading.missing,
        utilization_meaning="core_mean" if "utilization_ratio" in reading.values else None,
        processes=tuple((listed | {process.pid: process for process in seen}).values())
        if seen or device.processes is not None
        else None,
    )


def _process(runtime: dict[str, Any], cores: list[str]) -> XpuProcess | None:
    """Give a runtime's share of the device with these cores; None where it has none of them."""
    report = table(runtime.get("report"))
    in_use = table(table(report.get("neuroncore_counters")).get("neuroncores_in_use"))
    bytes_used = table(table(report.get("memory_used")).get("neuron_runtime_used_bytes"))
    by_core = table(table(bytes_used.get("usage_breakdown")).get("neuroncore_memory_usage"))
    mine = [core for core in cores if core in in_use or core in by_core]
    if not mine or not isinstance(runtime.get("pid"), int):
        return None
    busy = [
        ratio
        for core in mine
        if (ratio := text.percent(scalar(table(in_use.get(core)).get("neuroncore_utilization"))))
        is not None
    ]
    parts = [
        text.whole(scalar(part)) or 0 for core in mine for part in table(by_core.get(core)).values()
    ]
    return XpuProcess(
        pid=runtime["pid"],
        memory_used_bytes=sum(parts) if parts else None,
        utilization_ratio=sum(busy) / len(cores) if busy else None,
    )
