"""Intel's `xpu-smi`: headers that changed while the counters stayed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from collectors.xpu import intel
from collectors.xpu._reading import join
from collectors.xpu.base import ParseError
from collectors.xpu.intel import Intel, XpuSmi, parse_discovery, parse_dump
from tests.collectors.xpu.captured import assert_survives, sample

MEBIBYTE = 1024**2
FIRST = """\
Timestamp, DeviceId, GPU Utilization (%), GPU Power (W), GPU Frequency (MHz), \
GPU Core Temperature (Celsius Degree), GPU Memory Read (kB/s), GPU Memory Write (kB/s), \
GPU Energy Consumed (J), GPU Memory Bandwidth Utilization (%), GPU Memory Used (MiB), \
PCIe Read (kB/s), PCIe Write (kB/s), GPU Memory Errors Correctable
06:14:46.000,    1, 87.50, 412.25, 1550, 61.50, 2000, 1000, 9001.25, 44.00, 1024.00, 512, 256, 3
"""
# The fields' names of version 2, from its source; no captured output was to be had.
SECOND = """\
Timestamp, DeviceId, utilization.gpu (%), power.draw (W), clocks.current.graphics (MHz), \
temperature.gpu (C), memory.read.bandwidth (kB/s), memory.write.bandwidth (kB/s), \
energy.consumed (J), memory.bandwidth.utilization (%), memory.used (MiB), \
pcie.rx.throughput.kbs (kB/s), pcie.tx.throughput.kbs (kB/s), ras.non_compute.errors.correctable
06:14:46.000, 1, 87.50, 412.25, 1550, 61.50, 2000, 1000, 9001.25, 44.00, 1024.00, 512, 256, 3
"""
DISCOVERY = {
    "device_list": [
        {
            "device_id": 1,
            "device_name": "Intel(R) Data Center GPU Max 1550",
            "pci_bdf_address": "0000:9a:00.0",
            "uuid": "00000000-0000-009a-0000-002f0bd58086",
        }
    ]
}
DETAILS = {
    "device_id": 1,
    "driver_version": "I915_23",
    "memory_physical_size_byte": "137438953472",
    "uuid": "00000000-0000-009a-0000-002f0bd58086",
}


@pytest.mark.parametrize("output", [FIRST, SECOND])
def test_both_versions_columns_are_one_reading(output: str) -> None:
    (device,) = parse_dump(output)

    assert (device.device_id, device.device_index) == ("intel:1", 1)
    assert (device.utilization_ratio, device.power_watts) == (0.875, 412.25)
    assert (device.core_clock_hz, device.temperature_celsius) == (1.55e9, 61.5)
    assert device.memory_io_bytes_per_second == 3e6
    assert (device.memory_bandwidth_ratio, device.memory_bandwidth_meaning) == (0.44, "of_peak")
    assert device.memory_used_bytes == 1024 * MEBIBYTE
    assert device.pcie_received_bytes_per_second == 512e3
    assert device.pcie_sent_bytes_per_second == 256e3
    assert (device.energy_joules, device.errors_corrected) == (9001.25, 3)
    assert device.missing == {
        "memory_temperature_celsius": "not_supported",
        "errors_uncorrected": "not_supported",
    }


def test_columns_are_found_wherever_they_are() -> None:
    header, row, _ = FIRST.split("\n")
    names, values = header.split(", "), row.split(", ")
    turned = "\n".join([", ".join(names[:2] + names[:1:-1]), ", ".join(values[:2] + values[:1:-1])])

    assert parse_dump(turned) == parse_dump(FIRST)


def test_of_several_lines_the_last_one_counts() -> None:
    (device,) = parse_dump(FIRST + FIRST.split("\n")[1].replace("412.25", "99.5"))

    assert device.power_watts == 99.5


def test_one_direction_of_memory_traffic_is_not_all_of_it() -> None:
    (device,) = parse_dump(FIRST.replace(" 1000,", " N/A,"))

    assert device.memory_io_bytes_per_second is None
    assert device.missing["memory_io_bytes_per_second"] == "not_supported"


def test_the_index_is_joined_to_who_the_device_is() -> None:
    (device,) = join(
        [
            parse_dump(FIRST),
            parse_discovery(json.dumps(DISCOVERY)),
            parse_discovery(json.dumps(DETAILS)),
        ]
    )

    assert device.device_id == "00000000-0000-009a-0000-002f0bd58086"
    assert device.pci_address == "0000:9a:00.0"
    assert device.memory_total_bytes == 128 * 1024**3
    assert (device.power_watts, device.driver_version) == (412.25, "I915_23")


def test_a_way_asks_who_the_devices_are_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    def run(arguments: tuple[str, ...]) -> str:
        asked.append(" ".join(arguments))
        if arguments[1] == "dump":
            return FIRST.replace(" 61.50,", " ,")
        return json.dumps(DETAILS if "-d" in arguments else DISCOVERY)

    monkeypatch.setattr(intel, "run", run)
    monkeypatch.setattr("collectors.xpu.base.run", run)
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    way = XpuSmi(("-n", "1"))

    (device,) = way.read()
    assert way.read() == [device]

    assert device.device_id == "00000000-0000-009a-0000-002f0bd58086"
    assert device.missing["temperature_celsius"] == "not_permitted"
    assert [words for words in asked if "discovery" in words] == [
        "xpu-smi discovery -j",
        "xpu-smi discovery -d 1 -j",
    ]


def test_kunlunxins_tool_of_the_same_name_is_told_apart() -> None:
    other = "+------+\n| XPU-SMI    Driver Version: 5.0.21.26 |\n"

    for parse in (parse_dump, parse_discovery):
        with pytest.raises(ParseError, match="Kunlunxin"):
            parse(other if parse is parse_dump else '{"xpus": []}')


def test_a_processors_own_graphics_are_no_accelerator(tmp_path: Path) -> None:
    def add(address: str, vendor: str, pci_class: str) -> None:
        device = tmp_path / "bus/pci/devices" / address
        device.mkdir(parents=True)
        (device / "vendor").write_text(f"{vendor}\n")
        (device / "class").write_text(f"{pci_class}\n")

    add("0000:00:02.0", "0x8086", "0x030000")
    add("0000:6a:01.0", "0x8086", "0x088000")
    add("0000:05:00.0", "0x2057", "0x120000")
    assert not Intel().is_here(tmp_path)

    add("0000:9a:00.0", "0x8086", "0x038000")
    assert Intel().is_here(tmp_path)


def test_garbage_is_a_parse_error() -> None:
    assert_survives(parse_dump, FIRST)
    assert_survives(parse_discovery, json.dumps(DISCOVERY))


def test_the_vendor_says_why_it_is_not_proven() -> None:
    assert "under load" in (Intel.experimental or "")


# Captured outputs.


def test_captured_discovery_of_two_max_1100() -> None:
    both, details = json.loads(sample("intel_xpu-smi-discovery_max1100.json"))

    first, second = parse_discovery(json.dumps(both))
    assert first.device_id == "00000000-0000-0029-0000-002f0bda8086"
    assert (first.pci_address, second.pci_address) == ("0000:29:00.0", "0000:9a:00.0")
    assert first.model == "Intel(R) Data Center GPU Max 1100"

    (one,) = parse_discovery(json.dumps(details))
    assert one.memory_total_bytes == 51522830336
    assert one.driver_version == "I915_23.10.72_PSB_231129.76"


def test_captured_dump_of_two_max_1100() -> None:
    first, second = parse_dump(sample("intel_xpu-smi-dump_max1100.csv"))

    assert (first.power_watts, second.power_watts) == (118.87, 118.10)
    assert (first.core_clock_hz, first.utilization_ratio) == (1550e6, 0.0)
    assert first.memory_used_bytes == round(27.99 * MEBIBYTE)
    assert first.missing["temperature_celsius"] == "not_supported"


def test_captured_dump_of_a_max_1550_without_utilisation() -> None:
    (device,) = parse_dump(sample("intel_xpu-smi-dump_max1550_v1.2.39_aurora.csv"))

    assert (device.power_watts, device.temperature_celsius) == (409.54, 40.5)
    assert device.memory_temperature_celsius == 34.5
    assert device.missing["utilization_ratio"] == "not_supported"


def test_captured_dumps_with_and_without_rights() -> None:
    refused = parse_dump(sample("intel_xpu-smi-dump_pvc_v1.2.5_nonroot.csv"))
    allowed = parse_dump(sample("intel_xpu-smi-dump_pvc_v1.2.5_root.csv"))

    assert [one.power_watts for one in refused] == [265.02, 270.21]
    assert [one.temperature_celsius for one in refused] == [None, None]
    assert [one.temperature_celsius for one in allowed] == [43.5, 38]
    assert [one.memory_temperature_celsius for one in allowed] == [36, 31]


def test_captured_dump_of_the_guide() -> None:
    (device,) = parse_dump(sample("intel_xpu-smi-dump_v1_guide.csv"))

    assert (device.utilization_ratio, device.power_watts) == (0.0, 14.61)
    assert device.missing["core_clock_hz"] == "suspect"


def test_captured_table_of_kunlunxin_is_refused() -> None:
    with pytest.raises(ParseError, match="Kunlunxin"):
        parse_dump(sample("kunlun_xpu-smi_table_p800.txt"))
