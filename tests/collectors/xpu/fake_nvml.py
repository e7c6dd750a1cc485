"""Stands in for the module ``pynvml`` of nvidia-ml-py: its names, its structures, no driver.

Written from nvidia-ml-py 13.615.71 and 12.560.30. It proves that the right functions are asked and
how their answers are read, not that a driver answers so.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

NVML_ERROR_UNINITIALIZED = 1
NVML_ERROR_INVALID_ARGUMENT = 2
NVML_ERROR_NOT_SUPPORTED = 3
NVML_ERROR_NO_PERMISSION = 4
NVML_ERROR_NOT_FOUND = 6
NVML_ERROR_DRIVER_NOT_LOADED = 9
NVML_ERROR_TIMEOUT = 10
NVML_ERROR_FUNCTION_NOT_FOUND = 13
NVML_ERROR_GPU_IS_LOST = 15

NAMES = {
    "NVML_CLOCK_SM": 1,
    "NVML_CLOCK_MEM": 2,
    "NVML_TEMPERATURE_GPU": 0,
    "NVML_MEMORY_ERROR_TYPE_CORRECTED": 0,
    "NVML_MEMORY_ERROR_TYPE_UNCORRECTED": 1,
    "NVML_VOLATILE_ECC": 0,
    "NVML_PCIE_UTIL_TX_BYTES": 0,
    "NVML_PCIE_UTIL_RX_BYTES": 1,
    "NVML_FI_DEV_POWER_INSTANT": 186,
    "NVML_FI_DEV_MEMORY_TEMP": 82,
    "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX": 138,
    "NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX": 139,
    "NVML_FI_DEV_NVLINK_LINK_COUNT": 91,
    "NVML_FI_DEV_NVLINK_SPEED_MBPS_COMMON": 90,
    "NVML_FI_DEV_PERF_POLICY_POWER": 74,
    "NVML_FI_DEV_PERF_POLICY_THERMAL": 75,
    "NVML_FI_DEV_PERF_POLICY_SYNC_BOOST": 76,
    "NVML_VALUE_TYPE_DOUBLE": 0,
    "NVML_VALUE_TYPE_UNSIGNED_INT": 1,
    "NVML_VALUE_TYPE_UNSIGNED_LONG": 2,
    "NVML_VALUE_TYPE_UNSIGNED_LONG_LONG": 3,
    "NVML_VALUE_TYPE_SIGNED_LONG_LONG": 4,
    "nvmlMemory_v2": 0x02000028,
} | {name: value for name, value in list(globals().items()) if name.startswith("NVML_ERROR")}

GIB = 1024**3


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


class Nvml:
    """The module; each function answers from `answers`, where a number n raises error n.

    ``asked`` counts the calls of each function.
    """

    NVMLError = NVMLError

    def __init__(self, gpus: int = 1, **changes: Any) -> None:
        self.gpus = gpus
        self.asked: dict[str, int] = {}
        self.open = 0
        self.fields: dict[Any, float | None] = {
            186: 625_240,
            82: 41,
            (138, 0xFFFFFFFF): 0,
            (139, 0xFFFFFFFF): 0,
            91: 18,
            90: 26_562,
            74: 5_000_000_000,
            75: 0,
            76: None,
        }
        self.answers: dict[str, Any] = {
            "UUID": lambda handle: f"GPU-{handle:08d}-0000",
            "Name": lambda _: "NVIDIA H200",
            "PciInfo": lambda handle: SimpleNamespace(busId=f"00000000:{0x83 + handle:02X}:00.0"),
            "UtilizationRates": lambda _: SimpleNamespace(gpu=100, memory=7),
            "MemoryInfo": lambda *_, **__: SimpleNamespace(
                total=140 * GIB, used=31 * GIB, reserved=GIB // 2, free=0
            ),
            "ClockInfo": lambda _, clock: {1: 1980, 2: 3201}[clock],
            "MaxClockInfo": lambda _, clock: {1: 1980, 2: 3201}[clock],
            "Temperature": lambda *_: 52,
            "TotalEnergyConsumption": lambda _: 7_000_500,
            "CurrentClocksEventReasons": lambda _: 0x5,
            "CurrentClocksThrottleReasons": lambda _: 0x0,
            "PowerUsage": lambda _: 627_320,
            "EnforcedPowerLimit": lambda _: 700_000,
            "CurrPcieLinkGeneration": lambda _: 5,
            "CurrPcieLinkWidth": lambda _: 16,
            "PcieThroughput": lambda _, way: {0: 4217, 1: 8691}[way],
            "TotalEccErrors": lambda _, kind, __: {0: 3, 1: 0}[kind],
            "ComputeRunningProcesses": lambda handle: [
                SimpleNamespace(pid=100 + handle, usedGpuMemory=28 * GIB),
                SimpleNamespace(pid=900, usedGpuMemory=None),
            ],
            "NvLinkState": lambda _, link: int(link < 17),
            "MigMode": NVML_ERROR_NOT_SUPPORTED,
        } | changes
        for name, value in NAMES.items():
            setattr(self, name, value)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        short = name.removeprefix("nvmlDeviceGet")
        if short == name or short not in self.answers:
            raise AttributeError(name)

        def ask(handle: Any, *given: Any, **named: Any) -> Any:
            self.asked[short] = self.asked.get(short, 0) + 1
            answer = self.answers[short]
            if isinstance(answer, int):
                raise NVMLError(answer)
            return answer(handle, *given, **named)

        return ask

    def nvmlInit(self) -> None:
        self.open += 1

    def nvmlShutdown(self) -> None:
        self.open -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "590.48.01"

    def nvmlDeviceGetCount(self) -> int:
        return self.gpus

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:
        self.asked["HandleByIndex"] = self.asked.get("HandleByIndex", 0) + 1
        return index

    def nvmlDeviceGetFieldValues(self, _: Any, wanted: list[Any]) -> list[Any]:
        return [
            SimpleNamespace(
                nvmlReturn=0 if self.fields.get(one) is not None else NVML_ERROR_NOT_SUPPORTED,
                valueType=3,
                value=SimpleNamespace(ullVal=self.fields.get(one) or 0),
            )
            for one in wanted
        ]
