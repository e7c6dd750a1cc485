"""`hy-smi`: JSON that is nearly JSON, and a power that cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from collectors.xpu.base import ParseError
from collectors.xpu.hygon import Hygon, parse_json, parse_table
from tests.collectors.xpu.captured import assert_survives, sample

# In the form of newer tools: no comma between the power's keys, and keys that are empty.
BROKEN = (
    '{"card3": {"Card Series": "BW", "Average Graphics Package Power (W)": "291.0"'
    '"Average GFX Core Power (W)": "20.0""Average Memory Power (W)": "38.0", '
    '"Temperature (Sensor edge) (C)": "54.0", "Temperature (Sensor junction) (C)": "57.0", '
    '"Temperature (Sensor mem) (C)": "51.0", "HCU use (%)": "63.5", "HCU memory use (%)": "98", '
    '"mclk clock level": "0", "mclk clock speed": "1800Mhz", "sclk clock speed": "1350Mhz", '
    '"": "", "": "", "pcie clock level": "2", "pcie clock speed": "32.0GT/s, x16 1100Mhz", '
    '"vram Total Memory (MiB)": "65520", "vram Total Used Memory (MiB)": "64169"}}'
)
TABLE = """\
================= System Management Interface ==================
HCU     Temp     AvgPwr     Perf     PwrCap     VRAM%      HCU%      Mode
0       67.0C    8.0W       auto     600.0W     87%        74.5%     Normal
1       40.0C    8.0W       auto     600.0W     0%         0%        Normal
2       66.0C    410.0W     auto     N/A        85%        31%       Normal
================================================================
"""


def test_json_with_lost_commas_is_mended() -> None:
    with pytest.raises(json.JSONDecodeError):
        json.loads(BROKEN)

    (device,) = parse_json(BROKEN)

    assert (device.device_id, device.device_index, device.model) == ("hygon:3", 3, "BW")
    assert (device.power_watts, device.power_window) == (291, "average")
    assert device.utilization_ratio == 0.635
    assert device.memory_total_bytes == 65520 * 1024**2
    assert device.memory_used_bytes == 64169 * 1024**2
    assert (device.temperature_celsius, device.memory_temperature_celsius) == (57, 51)
    assert (device.core_clock_hz, device.memory_clock_hz) == (1350e6, 1800e6)
    assert (device.pcie_generation, device.pcie_width) == (5, 16)


@pytest.mark.parametrize("name", ["DCU", "HCU"])
def test_both_names_of_the_device_are_known(name: str) -> None:
    (device,) = parse_json(json.dumps({"card0": {f"{name} use (%)": "7%"}}))

    assert device.utilization_ratio == 0.07


def test_little_power_under_load_is_suspect() -> None:
    def card(watts: str, load: str) -> str:
        power = {"Average Graphics Package Power (W)": watts}
        return json.dumps({"card0": {**power, "DCU use (%)": load}})

    (device,) = parse_json(card("8.0", "21"))
    assert device.power_watts is None
    assert device.missing["power_watts"] == "suspect"

    assert parse_json(card("8.0", "20"))[0].power_watts == 8
    assert parse_json(card("10.0", "90"))[0].power_watts == 10


def test_the_table_is_read_by_its_header() -> None:
    busy, idle, believed = parse_table(TABLE)

    assert (busy.utilization_ratio, busy.missing["power_watts"]) == (0.745, "suspect")
    assert (idle.utilization_ratio, idle.power_watts) == (0.0, 8)
    assert (believed.power_watts, believed.power_limit_watts) == (410, None)
    assert believed.missing == {"power_limit_watts": "not_supported"}
    assert (busy.temperature_celsius, busy.power_limit_watts) == (67, 600)


def test_garbage_is_a_parse_error() -> None:
    assert_survives(parse_json, BROKEN)
    assert_survives(parse_table, TABLE)
    with pytest.raises(ParseError, match="DTK"):
        parse_json('{"system": {}}')


@pytest.mark.parametrize(
    ("pci_class", "here"),
    [("0x038000", True), ("0x0b4000", True), ("0x060000", False), ("0x108000", False)],
)
def test_only_the_accelerators_among_hygons_devices_count(
    tmp_path: Path, pci_class: str, here: bool
) -> None:
    """Hygon's processors have the same vendor."""
    device = tmp_path / "bus/pci/devices/0000:07:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x1d94\n")
    (device / "class").write_text(f"{pci_class}\n")

    assert Hygon().is_here(tmp_path) is here


# Captured outputs.


def test_captured_json_of_dtk_2404() -> None:
    (device,) = parse_json(sample("hygon_rocm-smi_dtk2404.json"))

    assert device.device_id == "7100fa8866904061"
    assert device.model == "DCU xxxx"
    assert (device.power_watts, device.utilization_ratio) == (80, 0.0)
    assert (device.temperature_celsius, device.memory_temperature_celsius) == (39, 44)
    assert (device.memory_total_bytes, device.memory_used_bytes) == (65520 * 1024**2, 2 * 1024**2)


def test_captured_table_of_bw_cards_under_load() -> None:
    devices = parse_table(sample("hygon_hy-smi_table_bw_load.txt"))

    assert [one.utilization_ratio for one in devices] == [0.74, 0.29, 0.31, 0.28]
    assert [one.temperature_celsius for one in devices] == [67, 68, 69, 68]
    assert [one.missing["power_watts"] for one in devices] == ["suspect"] * 4
    assert [one.power_limit_watts for one in devices] == [600] * 4
