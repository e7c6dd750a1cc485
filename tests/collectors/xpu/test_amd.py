"""AMD's tools and files: each version's spelling of the same counters."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collectors.xpu._amd import unique_id
from collectors.xpu._amd_kernel import KernelFiles
from collectors.xpu._amd_library import AmdSmiLibrary, read_library
from collectors.xpu._amd_tools import parse_metric, parse_process, parse_rocm_smi, parse_static
from collectors.xpu._reading import join
from collectors.xpu.amd import Amd
from collectors.xpu.base import ParseError
from schemas.records import XpuProcess
from tests.collectors.xpu.captured import assert_survives, sample

GIBIBYTE = 1024**3


def in_units(value: object, unit: str) -> dict[str, object]:
    return {"value": value, "unit": unit}


def clock(now: object, most: object) -> dict[str, object]:
    return {"clk": now, "min_clk": "N/A", "max_clk": most, "clk_locked": "N/A"}


# In the tool's form, with the numbers of a busy MI300X as we imagine it.
METRIC: dict[str, Any] = {
    "gpu": 1,
    "usage": {"gfx_activity": in_units(87, "%"), "umc_activity": in_units(41, "%")},
    "power": {"socket_power": in_units(542, "W"), "throttle_status": "THROTTLED"},
    "clock": {
        "gfx_0": clock(in_units(2000, "MHz"), in_units(2100, "MHz")),
        "gfx_1": clock(in_units(1600, "MHz"), in_units(2100, "MHz")),
        "gfx_2": clock("N/A", "N/A"),
        "mem_0": clock(in_units(1300, "MHz"), in_units(0, "MHz")),
    },
    "temperature": {
        "edge": "N/A",
        "hotspot": in_units(71, "C"),
        "mem": in_units("N/A", "C"),
    },
    "pcie": {
        "width": 16,
        "speed": in_units(32, "GT/s"),
        "current_bandwidth_sent": in_units(80, "Mb/s"),
        "current_bandwidth_received": "N/A",
    },
    "ecc": {"total_correctable_count": 3, "total_uncorrectable_count": 0},
    "energy": {"total_energy_consumption": in_units(1234.5, "J")},
    "mem_usage": {"total_vram": in_units(196592, "MB"), "used_vram": in_units(121344, "MB")},
    "throttle": {
        "prochot_violation_status": "NOT ACTIVE",
        "ppt_violation_status": "ACTIVE",
        "hbm_thermal_violation_status": "N/A",
    },
}
STATIC: dict[str, Any] = {
    "gpu": 1,
    "asic": {"market_name": "AMD Instinct MI300X", "asic_serial": "0x5C88007D760374F3"},
    "bus": {"bdf": "0000:1B:00.0"},
    "limit": {"max_power": in_units(750, "W"), "socket_power": in_units(700, "W")},
    "driver": {"name": "amdgpu", "version": "6.12.12"},
    "partition": {"accelerator_partition": "SPX", "memory_partition": "NPS1", "partition_id": 0},
}


def test_a_metric_is_normalised() -> None:
    (device,) = parse_metric(json.dumps([METRIC]))

    assert (device.device_id, device.device_index) == ("amd:1", 1)
    assert (device.utilization_ratio, device.utilization_meaning) == (0.87, "busy_time")
    assert (device.memory_bandwidth_ratio, device.memory_bandwidth_meaning) == (0.41, "busy_time")
    assert device.memory_total_bytes == 196592 * 1024**2
    assert device.memory_used_bytes == 121344 * 1024**2
    assert device.power_watts == 542
    assert device.temperature_celsius == 71
    # The mean of the dies that tell, and the most that any can.
    assert (device.core_clock_hz, device.core_clock_max_hz) == (1.8e9, 2.1e9)
    assert device.memory_clock_hz == 1.3e9
    assert device.energy_joules == 1234.5
    assert (device.errors_corrected, device.errors_uncorrected) == (3, 0)
    assert (device.pcie_generation, device.pcie_width) == (5, 16)
    assert device.pcie_capacity_bytes_per_second == pytest.approx(63.0e9, rel=0.001)
    assert device.pcie_sent_bytes_per_second == 10e6
    assert device.throttle_reasons == ("sw_power_cap",)
    assert device.missing == {
        "memory_temperature_celsius": "not_supported",
        "memory_clock_max_hz": "not_supported",
        "pcie_received_bytes_per_second": "not_supported",
    }


def test_both_roots_of_the_json_and_a_banner_before_it_are_read() -> None:
    listed = parse_metric(json.dumps([METRIC]))

    assert parse_metric(json.dumps({"gpu_data": [METRIC]})) == listed
    assert parse_metric(f"WARNING: [user] is not in group render\n{json.dumps([METRIC])}") == listed


def test_throttled_without_any_reason_is_not_believed() -> None:
    """Some Radeons say it forever."""
    odd = METRIC | {"throttle": {"ppt_violation_status": "N/A"}}
    calm = odd | {"power": {"throttle_status": "UNTHROTTLED"}}

    (device,) = parse_metric(json.dumps([odd]))
    assert device.throttle_reasons is None
    assert device.missing["throttle_reasons"] == "suspect"
    (device,) = parse_metric(json.dumps([calm]))
    assert device.throttle_reasons == ()


def test_an_energy_of_zero_is_no_counter() -> None:
    flat = METRIC | {"energy": {"total_energy_consumption": in_units(0.0, "J")}}

    (device,) = parse_metric(json.dumps([flat]))

    assert device.energy_joules is None
    assert device.missing["energy_joules"] == "not_supported"


def test_who_a_device_is_joins_what_it_does() -> None:
    processes = [
        {
            "process_info": {
                "pid": 4242,
                "memory_usage": {"vram_mem": in_units(121344000000, "B")},
                "mem_usage": in_units(0, "B"),
            }
        },
        {"process_info": "No running processes detected"},
    ]
    (device,) = join(
        [
            parse_static(json.dumps([STATIC])),
            parse_metric(json.dumps([METRIC])),
            parse_process(json.dumps([{"gpu": 1, "process_list": processes}])),
        ]
    )

    assert device.device_id == "GPU-5c88007d760374f3"
    assert device.pci_address == "0000:1b:00.0"
    assert device.model == "AMD Instinct MI300X"
    assert device.driver_version == "6.12.12"
    assert device.power_limit_watts == 700
    assert device.utilization_ratio == 0.87
    assert device.processes == (XpuProcess(pid=4242, memory_used_bytes=121344000000),)


def test_partitions_are_devices_of_one_board() -> None:
    parts = [
        STATIC | {"gpu": n, "partition": {"accelerator_partition": "CPX", "partition_id": n}}
        for n in (0, 3)
    ]
    hidden = {"gpu": 3, "usage": "N/A", "power": "N/A", "mem_usage": METRIC["mem_usage"]}

    first, fourth = join(
        [parse_static(json.dumps(parts)), parse_metric(json.dumps([METRIC | {"gpu": 0}, hidden]))]
    )

    assert (first.device_id, first.partition) == ("GPU-5c88007d760374f3:0", "CPX/0")
    assert (fourth.device_id, fourth.partition) == ("GPU-5c88007d760374f3:3", "CPX/3")
    assert first.parent == fourth.parent == "GPU-5c88007d760374f3"
    assert first.power_watts == 542
    assert fourth.power_watts is None
    assert fourth.missing["power_watts"] == "partition_hides"
    assert fourth.memory_used_bytes == 121344 * 1024**2


def test_rocm_smi_is_read_under_its_old_and_new_names() -> None:
    old = {
        "Unique ID": "0x18f68e602b8a790f",
        "GPU use (%)": "31",
        "GPU memory use (%)": "12",
        "Average Graphics Package Power (W)": "41.0",
        "VRAM Total Memory (B)": "68702699520",
        "sclk clock speed:": "(0Mhz)",
        "pcie clock level": "0 (8.0GT/s x16)",
        "Card series": "Instinct MI210",
        "GFX Activity": "2248597662",
    }
    new = {
        "Unique ID": "N/A",
        "PCI Bus": "0000:07:00.0",
        "GPU Memory Allocated (VRAM%)": "99",
        "GPU Memory Read/Write Activity (%)": "12",
        "Current Socket Graphics Package Power (W)": "41.0",
        "Card Series": "Instinct MI300X",
    }
    both = {"card0": old, "card1": new, "system": {"Driver version": "6.3.6"}}

    first, second = parse_rocm_smi("WARNING: Unlocked monitor_devices lock\n" + json.dumps(both))

    assert first.device_id == "GPU-18f68e602b8a790f"
    assert second.device_id == "0000:07:00.0"
    assert first.memory_bandwidth_ratio == second.memory_bandwidth_ratio == 0.12
    assert first.power_watts == second.power_watts == 41
    assert first.utilization_ratio == 0.31
    assert first.pcie_capacity_bytes_per_second == pytest.approx(15.75e9, rel=0.001)
    assert (first.model, second.model) == ("Instinct MI210", "Instinct MI300X")
    assert first.driver_version == "6.3.6"
    assert (first.core_clock_hz, first.missing["core_clock_hz"]) == (None, "suspect")
    assert second.missing["utilization_ratio"] == "not_supported"


def kernel_tree(root: Path) -> Path:
    """Lay out what the amdgpu and KFD drivers show of one card."""
    device = root / "devices/pci0000:00/0000:1b:00.0"
    files = {
        "vendor": "0x1002",
        "gpu_busy_percent": "63",
        "mem_busy_percent": "21",
        "mem_info_vram_total": str(64 * GIBIBYTE),
        "mem_info_vram_used": str(48 * GIBIBYTE),
        "current_link_speed": "16.0 GT/s PCIe",
        "current_link_width": "16",
        "unique_id": "5c88007d760374f3",
        "current_compute_partition": "SPX",
        "ras/umc_err_count": "ue: 0\nce: 2\n",
        "hwmon/hwmon4/power1_average": "310000000",
        "hwmon/hwmon4/power1_cap": "500000000",
        "hwmon/hwmon4/temp1_label": "edge",
        "hwmon/hwmon4/temp1_input": "51000",
        "hwmon/hwmon4/temp2_label": "junction",
        "hwmon/hwmon4/temp2_input": "68000",
        "hwmon/hwmon4/freq1_input": "1700000000",
    }
    node = root / "class/kfd/kfd/topology/nodes/1"
    tree = {device / name: content for name, content in files.items()} | {
        node / "gpu_id": "51219",
        node / "properties": f"simd_count 416\nlocation_id {0x1B << 8}\ndomain 0\n",
        root / "class/kfd/kfd/topology/nodes/0/gpu_id": "0",
        root / "class/kfd/kfd/proc/4242/vram_51219": str(47 * GIBIBYTE),
        root / "class/kfd/kfd/proc/77/vram_51219": "0",
    }
    for path, content in tree.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")
    card = root / "class/drm/card1"
    card.mkdir(parents=True)
    (card / "device").symlink_to(device)
    return device


def test_the_kernels_files_need_no_tool(tmp_path: Path) -> None:
    kernel_tree(tmp_path)
    way = KernelFiles(tmp_path)

    assert way.why_not() is None
    (device,) = way.read()

    assert device.device_id == "GPU-5c88007d760374f3"
    assert device.pci_address == "0000:1b:00.0"
    assert (device.utilization_ratio, device.memory_bandwidth_ratio) == (0.63, 0.21)
    assert device.memory_total_bytes == 64 * GIBIBYTE
    assert (device.power_watts, device.power_limit_watts) == (310, 500)
    assert (device.temperature_celsius, device.power_window) == (68, "average")
    assert device.core_clock_hz == 1.7e9
    assert (device.pcie_generation, device.pcie_width) == (4, 16)
    assert (device.errors_corrected, device.errors_uncorrected) == (2, 0)
    assert device.processes == (XpuProcess(pid=4242, memory_used_bytes=47 * GIBIBYTE),)
    assert device.missing == {
        "memory_temperature_celsius": "not_supported",
        "memory_clock_hz": "not_supported",
    }


def test_without_kfd_nobody_knows_the_processes(tmp_path: Path) -> None:
    kernel_tree(tmp_path)
    (tmp_path / "class/kfd").rename(tmp_path / "class/elsewhere")

    assert KernelFiles(tmp_path).read()[0].processes is None


def test_a_host_without_a_card_says_what_to_do(tmp_path: Path) -> None:
    assert "load the amdgpu driver" in (KernelFiles(tmp_path).why_not() or "")


class FakeLibrary:
    """The part of the ``amdsmi`` 7.0 module that we call, with its units and its ways to say no."""

    class AmdSmiException(Exception):
        pass

    AmdSmiTemperatureType = SimpleNamespace(JUNCTION=1, EDGE=2, VRAM=3)
    AmdSmiTemperatureMetric = SimpleNamespace(CURRENT=0)
    AmdSmiClkType = SimpleNamespace(GFX=1, MEM=2)

    def __init__(self, partition: int = 0) -> None:
        self.partition = partition

    def amdsmi_get_processor_handles(self) -> list[str]:
        return ["handle"]

    def amdsmi_get_gpu_activity(self, handle: str) -> dict[str, object]:
        return {"gfx_activity": 55, "umc_activity": "N/A", "mm_activity": 0}

    def amdsmi_get_power_info(self, handle: str) -> dict[str, object]:
        power = {"socket_power": "N/A", "current_socket_power": 403}
        return power | {"average_socket_power": "N/A"}

    def amdsmi_get_power_cap_info(self, handle: str) -> dict[str, object]:
        return {"power_cap": 750_000_000}

    def amdsmi_get_gpu_vram_usage(self, handle: str) -> dict[str, object]:
        return {"vram_total": 196592, "vram_used": 283}

    def amdsmi_get_temp_metric(self, handle: str, sensor: int, metric: int) -> int:
        if sensor == 2:
            raise self.AmdSmiException("not supported")
        return {1: 62, 3: 44}[sensor]

    def amdsmi_get_clock_info(self, handle: str, kind: int) -> dict[str, object]:
        return {"clk": 1320 if kind == 1 else 900, "max_clk": "N/A"}

    def amdsmi_get_pcie_info(self, handle: str) -> dict[str, object]:
        return {"pcie_static": {}, "pcie_metric": {"pcie_width": 16, "pcie_speed": 32000}}

    def amdsmi_get_violation_status(self, handle: str) -> dict[str, object]:
        return {"active_ppt_pwr": True, "active_socket_thrm": False, "active_hbm_thrm": "N/A"}

    def amdsmi_get_energy_count(self, handle: str) -> dict[str, object]:
        return {"energy_accumulator": 1_000_000, "counter_resolution": 15.3, "timestamp": 1}

    def amdsmi_get_gpu_asic_info(self, handle: str) -> dict[str, object]:
        return {"market_name": "MI300X", "asic_serial": "0x5C88007D760374F3"}

    def amdsmi_get_gpu_driver_info(self, handle: str) -> dict[str, object]:
        return {"driver_version": "6.12.12"}

    def amdsmi_get_gpu_device_bdf(self, handle: str) -> str:
        return "0000:1b:00.0"

    def amdsmi_get_gpu_kfd_info(self, handle: str) -> dict[str, object]:
        return {"current_partition_id": self.partition}

    def amdsmi_get_gpu_compute_partition(self, handle: str) -> str:
        return "CPX" if self.partition else "SPX"

    def amdsmi_get_gpu_process_list(self, handle: str) -> list[dict[str, object]]:
        return [{"name": "N/A", "pid": 7, "mem": 9, "memory_usage": {"vram_mem": 5}}]


def test_the_librarys_units_are_normalised() -> None:
    (device,) = read_library(FakeLibrary())

    assert device.device_id == "GPU-5c88007d760374f3"
    assert device.utilization_ratio == 0.55
    assert (device.power_watts, device.power_limit_watts) == (403, 750)
    assert device.memory_total_bytes == 196592 * 1024**2
    assert (device.temperature_celsius, device.memory_temperature_celsius) == (62, 44)
    assert (device.core_clock_hz, device.memory_clock_hz) == (1.32e9, 0.9e9)
    assert (device.pcie_generation, device.pcie_width) == (5, 16)
    assert device.throttle_reasons == ("sw_power_cap",)
    assert device.energy_joules == pytest.approx(15.3)
    assert device.processes == (XpuProcess(pid=7, memory_used_bytes=5),)
    assert device.missing["memory_bandwidth_ratio"] == "not_supported"
    # Functions that this fake, and older libraries, lack.
    assert device.missing["errors_corrected"] == "not_supported"


def test_a_later_partition_hides_what_the_board_has() -> None:
    (device,) = read_library(FakeLibrary(partition=2))

    assert (device.device_id, device.partition) == ("GPU-5c88007d760374f3:2", "CPX/2")
    assert device.missing["memory_bandwidth_ratio"] == "partition_hides"


def test_a_missing_library_is_told_without_loading_anything() -> None:
    assert "install" in (AmdSmiLibrary().why_not() or "install")


@pytest.mark.parametrize(
    ("raw", "name"),
    [
        ("0x79ccd55167a2124a", "GPU-79ccd55167a2124a"),
        ("GPU-5c88007d760374f3", "GPU-5c88007d760374f3"),
        ("0x1F", "GPU-000000000000001f"),
        ("N/A", None),
        ("0x0", None),
        (None, None),
    ],
)
def test_all_spellings_of_a_serial_number_are_one_name(raw: str | None, name: str | None) -> None:
    assert unique_id(raw) == name


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ParseError, match="'gpu'"):
        parse_metric('{"gpu_data": [{"usage": {}}]}')
    with pytest.raises(ParseError, match="amdgpu is loaded"):
        parse_rocm_smi('{"system": {}}')


def test_garbage_is_a_parse_error() -> None:
    card = {"GPU use (%)": "31", "pcie clock level": "0 (8.0GT/s x16)"}
    for parse in (parse_metric, parse_static, parse_process):
        assert_survives(parse, json.dumps([METRIC | STATIC]))
    assert_survives(parse_rocm_smi, json.dumps({"card0": card}))


def test_detection_needs_a_gpu_of_this_vendor(tmp_path: Path) -> None:
    bridge = tmp_path / "bus/pci/devices/0000:00:01.0"
    bridge.mkdir(parents=True)
    (bridge / "vendor").write_text("0x1002\n")
    (bridge / "class").write_text("0x060400\n")
    assert not Amd().is_here(tmp_path)

    (bridge / "class").write_text("0x120000\n")
    assert Amd().is_here(tmp_path)


# Captured outputs.


def test_captured_metric_of_an_rx_6600() -> None:
    (device,) = parse_metric(sample("amd_amd-smi-metric_rx6600_list.json"))

    assert device.memory_total_bytes == 8176 * 1024**2
    assert device.memory_used_bytes == 202 * 1024**2
    assert (device.utilization_ratio, device.power_watts) == (0.01, 6)
    assert (device.core_clock_hz, device.core_clock_max_hz) == (800e6, 2750e6)
    assert (device.memory_clock_hz, device.memory_clock_max_hz) == (541e6, 875e6)
    assert (device.temperature_celsius, device.memory_temperature_celsius) == (37, 32)
    assert (device.pcie_generation, device.pcie_width) == (4, 8)
    assert device.throttle_reasons == ()
    assert device.missing == {
        "energy_joules": "not_supported",
        "pcie_sent_bytes_per_second": "not_supported",
        "pcie_received_bytes_per_second": "not_supported",
    }


def test_captured_metric_of_an_r9700_under_load() -> None:
    (device,) = parse_metric(sample("amd_amd-smi-metric_r9700_gpudata_ABRIDGED.json"))

    assert (device.utilization_ratio, device.memory_bandwidth_ratio) == (0.91, 0.66)
    assert device.memory_used_bytes == 20450 * 1024**2
    assert (device.core_clock_hz, device.core_clock_max_hz) == (2774e6, None)
    assert (device.temperature_celsius, device.memory_temperature_celsius) == (63, 70)
    assert device.pcie_capacity_bytes_per_second == 2e9
    assert device.missing["throttle_reasons"] == "suspect"
    assert device.missing["power_watts"] == "not_supported"


def test_captured_processes_of_an_r9700() -> None:
    (device,) = parse_process(sample("amd_amd-smi-process_r9700.json"))

    assert device.processes == (
        XpuProcess(pid=213534, memory_used_bytes=56000),
        XpuProcess(pid=213952, memory_used_bytes=21008920000),
    )


def test_captured_rocm_smi_of_an_mi100() -> None:
    (device,) = parse_rocm_smi(sample("amd_rocm-smi_mi100_rocm602.json"))

    assert device.device_id == "GPU-79ccd55167a2124a"
    assert device.pci_address == "0000:83:00.0"
    assert (device.memory_total_bytes, device.memory_used_bytes) == (34342961152, 6750208)
    assert (device.power_watts, device.power_limit_watts) == (36, 290)
    assert (device.core_clock_hz, device.memory_clock_hz) == (300e6, 1200e6)
    assert (device.temperature_celsius, device.memory_temperature_celsius) == (55, 53)
    assert (device.utilization_ratio, device.driver_version) == (0.0, "6.3.6")


def test_captured_rocm_smi_of_a_busy_rx_7800() -> None:
    (device,) = parse_rocm_smi(sample("amd_rocm-smi_navi32_rocm624.json"))

    assert device.device_id == "GPU-5c88007d760374f3"
    assert (device.utilization_ratio, device.power_watts) == (1.0, 53)
    assert device.memory_used_bytes == 11615076352
    assert device.missing["core_clock_hz"] == "not_supported"


def test_captured_rocm_smi_of_an_rx_6700() -> None:
    (device,) = parse_rocm_smi(sample("amd_rocm-smi_rx6700xt_rocm612.json"))

    assert device.device_id == "0000:07:00.0"
    assert (device.memory_clock_hz, device.missing["core_clock_hz"]) == (96e6, "suspect")
    assert (device.power_watts, device.power_limit_watts) == (6, 211)
    assert device.memory_bandwidth_ratio == 0.0
