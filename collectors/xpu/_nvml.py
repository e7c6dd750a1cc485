"""NVIDIA's management library, NVML, through the Python package nvidia-ml-py.

Its handles are kept, so that a look is a few dozen calls of some microseconds each; what blocks
(PCIe throughput, some 20 ms for each direction and GPU) or holds the driver's lock (processes) is
asked in one of ten looks.
"""

import contextlib
import importlib
import importlib.util
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from collectors.xpu.base import SLOW_LOOKS, NotPermitted, Way, XpuError
from collectors.xpu.text import pci_address, pcie_capacity
from schemas.records import MissingReason, ThrottleReason, XpuDevice, XpuProcess

VENDOR = "nvidia"
INSTALL = "install nvidia-ml-py: pip install 'latencyprism[nvidia]'"
# What a MIG-enabled GPU no longer tells of itself.
HIDDEN_BY_MIG = ("utilization_ratio", "memory_bandwidth_ratio")
# Bits of the clocks' event reasons; 1 is idle, which holds nothing down.
IDLE_BIT = 0x1
THROTTLE_BITS: dict[int, ThrottleReason] = {
    0x2: "user_clock",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal",
    0x40: "hw_thermal",
    0x80: "power_brake",
}


def throttle_reasons(bits: int) -> tuple[ThrottleReason, ...]:
    """Name what holds the clock down; empty where nothing does.

    >>> throttle_reasons(0x1), throttle_reasons(0x44)
    ((), ('sw_power_cap', 'hw_thermal'))
    """
    known: list[ThrottleReason] = [name for bit, name in THROTTLE_BITS.items() if bits & bit]
    rest = bits & ~IDLE_BIT & ~sum(THROTTLE_BITS)
    if rest:
        known.append("other")
    return tuple(known)


@dataclass(slots=True)
class _Gpu:
    """One GPU's handle, what never changes about it, and the last slow answers."""

    handle: Any
    identity: dict[str, Any]
    slow: dict[str, Any] = field(default_factory=dict)
    slow_missing: dict[str, MissingReason] = field(default_factory=dict)
    mig: bool = False
    instances: list[tuple[Any, dict[str, Any]]] = field(default_factory=list)
    fabric_kib: tuple[int, int, int] | None = None


class Nvml(Way):
    """The driver's own library.

    Args:
        import_library: Gives the module ``pynvml``; a parameter for tests.
    """

    name = "nvml"

    def __init__(self, import_library: Callable[[], Any] | None = None) -> None:
        self._import_library = import_library
        self._nvml: Any = None
        self._gpus: list[_Gpu] = []
        self._looks = 0

    def why_not(self) -> str | None:
        """Look for the Python package; whether the driver answers is seen in the first look."""
        if self._import_library is None and importlib.util.find_spec("pynvml") is None:
            return f"the Python package for NVML is missing: {INSTALL}"
        return None

    def read(self) -> list[XpuDevice]:
        """Ask for everything that is quick, and one time in ten for what is slow."""
        if self._nvml is None:
            self._open()
        nvml: Any = self._nvml
        try:
            return [device for gpu in self._gpus for device in self._look(gpu)]
        except nvml.NVMLError as err:
            # The driver was reloaded or a GPU fell off the bus: begin anew.
            trouble = self._explained(err)
            self.close()
            raise trouble from err
        finally:
            self._looks += 1

    def close(self) -> None:
        """Give the library back."""
        nvml, self._nvml, self._gpus = self._nvml, None, []
        if nvml is not None:
            with contextlib.suppress(nvml.NVMLError):
                nvml.nvmlShutdown()

    def _open(self) -> None:
        nvml = (self._import_library or _import_pynvml)()
        try:
            nvml.nvmlInit()
            self._nvml = nvml
            driver = nvml.nvmlSystemGetDriverVersion()
            self._gpus = list(self._find(driver))
        except nvml.NVMLError as err:
            self._nvml = nvml
            trouble = self._explained(err)
            self.close()
            raise trouble from err
        self._looks = 0

    def _find(self, driver: str) -> Iterable[_Gpu]:
        nvml = self._nvml
        lost: Exception | None = None
        found = False
        for index in range(nvml.nvmlDeviceGetCount()):
            try:
                handle = nvml.nvmlDeviceGetHandleByIndex(index)
            except nvml.NVMLError as err:
                # One that fell off the bus keeps none of the others from being read.
                lost = err
                continue
            found = True
            yield _Gpu(handle, self._identity(handle, index, driver))
        if lost is not None and not found:
            raise lost

    def _explained(self, err: Exception) -> XpuError:
        code = getattr(err, "value", None)
        if code == self._nvml.NVML_ERROR_NO_PERMISSION:
            return NotPermitted(
                f"NVML: {err}; run the agent as root or in the group of /dev/nvidia*"
            )
        return XpuError(
            f"NVML: {err}; see whether 'nvidia-smi' works here, and in a container whether the "
            "devices are passed on"
        )

    def _identity(self, handle: Any, index: int, driver: str) -> dict[str, Any]:
        nvml = self._nvml
        asked = _Answers(nvml)
        asked.ask("uuid", nvml.nvmlDeviceGetUUID, handle)
        asked.ask("model", nvml.nvmlDeviceGetName, handle)
        pci = asked.call("pci", nvml.nvmlDeviceGetPciInfo, handle)
        address = pci_address(_text(pci.busId)) if pci is not None else None
        device_id = asked.values.get("uuid") or address or f"{VENDOR}:{index}"
        return {
            "device_id": device_id,
            "vendor": VENDOR,
            "device_index": index,
            "model": asked.values.get("model"),
            "pci_address": address,
            "driver_version": _text(driver),
            "tool": self.name,
        }

    def _look(self, gpu: _Gpu) -> list[XpuDevice]:
        if self._looks % SLOW_LOOKS == 0:
            self._look_slowly(gpu)
        asked = _Answers(self._nvml)
        self._ask_load(asked, gpu)
        self._ask_fields(asked, gpu)
        if gpu.mig:
            for name in HIDDEN_BY_MIG:
                asked.values.pop(name, None)
                asked.missing[name] = "partition_hides"
        if "utilization_ratio" in asked.values:
            asked.values["utilization_meaning"] = "busy_time"
            asked.values["memory_bandwidth_meaning"] = "busy_time"
        whole_device = XpuDevice(
            **gpu.identity | gpu.slow | asked.values, missing=gpu.slow_missing | asked.missing
        )
        return [whole_device, *(self._instance(gpu, *one) for one in gpu.instances)]

    def _ask_load(self, asked: "_Answers", gpu: _Gpu) -> None:
        nvml, handle = self._nvml, gpu.handle
        used = asked.call("utilization_ratio", nvml.nvmlDeviceGetUtilizationRates, handle)
        if used is not None:
            asked.values["utilization_ratio"] = used.gpu / 100
            asked.values["memory_bandwidth_ratio"] = used.memory / 100
        else:
            asked.missing["memory_bandwidth_ratio"] = asked.missing["utilization_ratio"]
        self._ask_memory(asked, handle)
        for name, clock in (
            ("core_clock_hz", nvml.NVML_CLOCK_SM),
            ("memory_clock_hz", nvml.NVML_CLOCK_MEM),
        ):
            asked.ask(name, nvml.nvmlDeviceGetClockInfo, handle, clock, scale=1e6)
        asked.ask(
            "temperature_celsius",
            nvml.nvmlDeviceGetTemperature,
            handle,
            nvml.NVML_TEMPERATURE_GPU,
            scale=1.0,
        )
        asked.ask("energy_joules", nvml.nvmlDeviceGetTotalEnergyConsumption, handle, scale=1e-3)
        reasons = getattr(
            nvml,
            "nvmlDeviceGetCurrentClocksEventReasons",
            nvml.nvmlDeviceGetCurrentClocksThrottleReasons,
        )
        bits = asked.call("throttle_reasons", reasons, handle)
        if bits is None:
            older = nvml.nvmlDeviceGetCurrentClocksThrottleReasons
            bits = asked.call("throttle_reasons", older, handle)
        if bits is not None:
            asked.values["throttle_reasons"] = throttle_reasons(bits)

    def _ask_memory(self, asked: "_Answers", handle: Any) -> None:
        nvml = self._nvml
        ask = nvml.nvmlDeviceGetMemoryInfo
        memory = asked.call("memory_used_bytes", ask, handle, version=nvml.nvmlMemory_v2)
        if memory is None:
            # Before driver 510; what the driver reserves is then counted as used.
            memory = asked.call("memory_used_bytes", ask, handle)
        if memory is None:
            asked.missing["memory_total_bytes"] = asked.missing["memory_used_bytes"]
            return
        asked.values["memory_total_bytes"] = memory.total
        asked.values["memory_used_bytes"] = memory.used
        reserved = getattr(memory, "reserved", None)
        if reserved is not None:
            asked.values["memory_reserved_bytes"] = reserved

    def _ask_fields(self, asked: "_Answers", gpu: _Gpu) -> None:
        nvml = self._nvml
        all_links = 0xFFFFFFFF
        wanted = [
            nvml.NVML_FI_DEV_POWER_INSTANT,
            nvml.NVML_FI_DEV_MEMORY_TEMP,
            (nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, all_links),
            (nvml.NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, all_links),
            nvml.NVML_FI_DEV_PERF_POLICY_POWER,
            nvml.NVML_FI_DEV_PERF_POLICY_THERMAL,
            nvml.NVML_FI_DEV_PERF_POLICY_SYNC_BOOST,
        ]
        answers = asked.call("power_watts", nvml.nvmlDeviceGetFieldValues, gpu.handle, wanted)
        power, memory_temperature, received, sent, *policies = (
            [_field_value(nvml, one) for one in answers]
            if answers is not None
            else [None] * len(wanted)
        )
        self._ask_power(asked, gpu.handle, power)
        # A memory without a sensor says 0.
        if memory_temperature:
            asked.values["memory_temperature_celsius"] = float(memory_temperature)
        else:
            asked.missing["memory_temperature_celsius"] = "not_supported"
        # The library renumbered the counters of the single thermal reasons with CUDA 13, so only
        # those that were always there can be trusted whatever the driver's version is.
        asked.values["throttled_seconds"] = {
            name: value / 1e9
            for name, value in zip(("sw_power_cap", "thermal", "sync_boost"), policies, strict=True)
            if value is not None
        }
        if gpu.slow.get("fabric"):
            self._note_fabric(asked, gpu, received, sent)

    def _ask_power(self, asked: "_Answers", handle: Any, instant_mw: float | None) -> None:
        asked.missing.pop("power_watts", None)
        if instant_mw:
            asked.values["power_watts"] = instant_mw / 1000
            asked.values["power_window"] = "instant"
            return
        asked.ask("power_watts", self._nvml.nvmlDeviceGetPowerUsage, handle, scale=1e-3)
        if "power_watts" in asked.values:
            # A mean over one second from Ampere on, the moment's value before.
            asked.values["power_window"] = "unknown"

    def _note_fabric(
        self, asked: "_Answers", gpu: _Gpu, received_kib: float | None, sent_kib: float | None
    ) -> None:
        now_ns = time.monotonic_ns()
        before = gpu.fabric_kib
        gpu.fabric_kib = None
        for name in ("fabric_received_bytes_per_second", "fabric_sent_bytes_per_second"):
            asked.missing[name] = "not_supported"
        if received_kib is None or sent_kib is None:
            return
        gpu.fabric_kib = (now_ns, int(received_kib), int(sent_kib))
        if before is None or now_ns <= before[0]:
            return
        seconds = (now_ns - before[0]) / 1e9
        for name, now, then in (
            ("fabric_received_bytes_per_second", received_kib, before[1]),
            ("fabric_sent_bytes_per_second", sent_kib, before[2]),
        ):
            # A count that went back was reset by someone.
            if now >= then:
                asked.values[name] = (now - then) * 1024 / seconds
                del asked.missing[name]

    def _look_slowly(self, gpu: _Gpu) -> None:
        nvml, handle = self._nvml, gpu.handle
        asked = _Answers(nvml)
        for name, clock in (
            ("core_clock_max_hz", nvml.NVML_CLOCK_SM),
            ("memory_clock_max_hz", nvml.NVML_CLOCK_MEM),
        ):
            asked.ask(name, nvml.nvmlDeviceGetMaxClockInfo, handle, clock, scale=1e6)
        asked.ask("power_limit_watts", nvml.nvmlDeviceGetEnforcedPowerLimit, handle, scale=1e-3)
        self._ask_pcie(asked, handle)
        for name, kind in (
            ("errors_corrected", nvml.NVML_MEMORY_ERROR_TYPE_CORRECTED),
            ("errors_uncorrected", nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED),
        ):
            asked.ask(name, nvml.nvmlDeviceGetTotalEccErrors, handle, kind, nvml.NVML_VOLATILE_ECC)
        asked.ask("processes", self._processes, handle)
        self._ask_nvlink(asked, handle)
        gpu.slow, gpu.slow_missing = asked.values, asked.missing
        mode = asked.call("", nvml.nvmlDeviceGetMigMode, handle)
        gpu.mig = mode is not None and mode[0] == 1
        asked.missing.pop("", None)
        gpu.instances = list(self._instances(gpu)) if gpu.mig else []

    def _ask_pcie(self, asked: "_Answers", handle: Any) -> None:
        nvml = self._nvml
        asked.ask("pcie_generation", nvml.nvmlDeviceGetCurrPcieLinkGeneration, handle)
        asked.ask("pcie_width", nvml.nvmlDeviceGetCurrPcieLinkWidth, handle)
        capacity = pcie_capacity(
            asked.values.get("pcie_generation"), asked.values.get("pcie_width")
        )
        if capacity is not None:
            asked.values["pcie_capacity_bytes_per_second"] = capacity
        # The driver also counts bytes, but says that those counts wrap and not how wide they are:
        # 32 bits would last a tenth of a second at full speed. So its mean over 20 ms is taken.
        for name, direction in (
            ("pcie_received_bytes_per_second", nvml.NVML_PCIE_UTIL_RX_BYTES),
            ("pcie_sent_bytes_per_second", nvml.NVML_PCIE_UTIL_TX_BYTES),
        ):
            asked.ask(name, nvml.nvmlDeviceGetPcieThroughput, handle, direction, scale=1000.0)

    def _ask_nvlink(self, asked: "_Answers", handle: Any) -> None:
        nvml = self._nvml
        wanted = [nvml.NVML_FI_DEV_NVLINK_LINK_COUNT, nvml.NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON]
        answers = asked.call("fabric", nvml.nvmlDeviceGetFieldValues, handle, wanted)
        links, speed = (
            (_field_value(nvml, one) for one in answers) if answers is not None else (None, None)
        )
        active = 0
        for link in range(int(links or 0)):
            asked_link = _Answers(nvml)
            active += asked_link.call("", nvml.nvmlDeviceGetNvLinkState, handle, link) == 1
        if not active:
            asked.missing["fabric"] = "not_supported"
            return
        asked.values |= {"fabric": "nvlink", "fabric_links": active}
        if speed:
            asked.values["fabric_capacity_bytes_per_second"] = active * speed * 1e6

    def _processes(self, handle: Any) -> tuple[XpuProcess, ...]:
        listed = self._nvml.nvmlDeviceGetComputeRunningProcesses(handle)
        return tuple(
            XpuProcess(pid=one.pid, memory_used_bytes=getattr(one, "usedGpuMemory", None))
            for one in listed
        )

    def _instances(self, gpu: _Gpu) -> Iterable[tuple[Any, dict[str, Any]]]:
        """Give the handle and identity of each MIG instance."""
        nvml = self._nvml
        for index in range(nvml.nvmlDeviceGetMaxMigDeviceCount(gpu.handle)):
            asked = _Answers(nvml)
            handle = asked.call("", nvml.nvmlDeviceGetMigDeviceHandleByIndex, gpu.handle, index)
            if handle is None:
                continue
            asked.ask("uuid", nvml.nvmlDeviceGetUUID, handle)
            asked.ask("model", nvml.nvmlDeviceGetName, handle)
            asked.ask("gi", nvml.nvmlDeviceGetGpuInstanceId, handle)
            asked.ask("ci", nvml.nvmlDeviceGetComputeInstanceId, handle)
            values = asked.values
            place = f"{values.get('gi', index)}/{values.get('ci', 0)}"
            model = values.get("model") or gpu.identity["model"] or ""
            parent = gpu.identity["device_id"]
            yield (
                handle,
                {
                    "device_id": values.get("uuid") or f"MIG-{parent}/{place}",
                    "vendor": VENDOR,
                    "model": model.partition(" MIG ")[0] or None,
                    "parent": parent,
                    "partition": model.partition(" MIG ")[2] or place,
                    "driver_version": gpu.identity["driver_version"],
                    "tool": self.name,
                },
            )

    def _instance(self, gpu: _Gpu, handle: Any, identity: dict[str, Any]) -> XpuDevice:
        asked = _Answers(self._nvml)
        self._ask_memory(asked, handle)
        if self._looks % SLOW_LOOKS == 0 or "processes" not in identity:
            listed = asked.call("processes", self._processes, handle)
            identity["processes"] = listed
        hidden: dict[str, MissingReason] = dict.fromkeys(
            (*HIDDEN_BY_MIG, "power_watts", "core_clock_hz"), "partition_hides"
        )
        return XpuDevice(**identity | asked.values, missing=hidden | asked.missing)


class _Answers:
    """Ask NVML one thing after the other; keep what it says and why it does not."""

    def __init__(self, nvml: Any) -> None:
        self._nvml = nvml
        self._reasons: dict[int, MissingReason] = {
            nvml.NVML_ERROR_NO_PERMISSION: "not_permitted",
            nvml.NVML_ERROR_TIMEOUT: "timeout",
            nvml.NVML_ERROR_NOT_SUPPORTED: "not_supported",
            nvml.NVML_ERROR_FUNCTION_NOT_FOUND: "not_supported",
            nvml.NVML_ERROR_INVALID_ARGUMENT: "not_supported",
            nvml.NVML_ERROR_NOT_FOUND: "not_supported",
        }
        self.values: dict[str, Any] = {}
        self.missing: dict[str, MissingReason] = {}

    def call(self, name: str, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Give what it answers, or None and note why; what breaks NVML as a whole is raised."""
        try:
            answer = function(*given, **named)
        except self._nvml.NVMLError as err:
            code = getattr(err, "value", None)
            if code in (
                self._nvml.NVML_ERROR_UNINITIALIZED,
                self._nvml.NVML_ERROR_DRIVER_NOT_LOADED,
            ):
                raise
            # A GPU that fell off the bus answers everything so; the others go on.
            self.missing[name] = self._reasons.get(code or 0, "suspect")
            return None
        self.missing.pop(name, None)
        return answer

    def ask(
        self, name: str, function: Callable[..., Any], *given: Any, scale: float | None = None
    ) -> None:
        """Ask for the value of a field."""
        answer = self.call(name, function, *given)
        if isinstance(answer, bytes):
            self.values[name] = _text(answer)
        elif answer is not None:
            self.values[name] = answer if scale is None else answer * scale


def _import_pynvml() -> Any:
    try:
        return importlib.import_module("pynvml")
    except ImportError as err:
        raise XpuError(f"the Python package for NVML cannot be loaded: {INSTALL}") from err


def _text(value: str | bytes) -> str:
    return value.decode(errors="replace") if isinstance(value, bytes) else value


def _field_value(nvml: Any, answer: Any) -> float | None:
    if answer.nvmlReturn != 0:
        return None
    kinds = {
        nvml.NVML_VALUE_TYPE_DOUBLE: "dVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_INT: "uiVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_LONG: "ulVal",
        nvml.NVML_VALUE_TYPE_UNSIGNED_LONG_LONG: "ullVal",
        nvml.NVML_VALUE_TYPE_SIGNED_LONG_LONG: "sllVal",
    }
    kind = kinds.get(answer.valueType)
    return None if kind is None else float(getattr(answer.value, kind))
