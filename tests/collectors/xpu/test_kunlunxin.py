"""Kunlunxin: the outline of xpu-smi -q, its table, and Intel's tool of the same name."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.xpu import base, kunlunxin
from collectors.xpu.base import ParseError
from schemas.records import XpuProcess
from tests.collectors.xpu.outputs import GIB, MIB, Parse, a_bus, assert_only_parse_errors, sample

OUTLINE = """==============XPUSMI LOG==============

Driver Version          : 5.0.21.26
XPU-RT Version          : 10.2
Attached XPUs           : 1
XPU 00000000:52:00.0
    Product Name            : P800 OAM
    XPU UUID                : GPU-1
    PCI
        XPU Link Info
            PCIe Generation
                Max                     : 5
                Current                 : 5
            Link Width
                Max                     : 16x
                Current                 : 8x
    Memory Usage
        Total                   : 98304 MiB
        Used                    : 49152 MiB
    L3 Usage
        Total                   : 96 MiB
        Used                    : 48 MiB
    Utilization
        Xpu                     : 87 %
    ECC Errors
        Volatile
            DRAM Correctable        : 2
            DRAM Uncorrectable      : 1
        Aggregate
            DRAM Correctable        : 200
            DRAM Uncorrectable      : 100
    Temperature
        XPU Current Temp        : N/A
    Power Readings
        Power Draw              : 355.00 W
    Clocks
        Cluster                 : 1.45 GHz
    Processes
        Process ID              : 4711
            Type                : Compute
            Name                : python
            Used XPU Memory     : 48000 MiB
        Process ID              : 4712
            Name                : python
"""


def test_the_outline_of_a_p800() -> None:
    (device,) = kunlunxin.parse_outline(sample("kunlun_xpu-smi-q_p800_RETYPED.txt"))

    assert device.device_id == "GPU-420716f2-9928-5108-a5b2-e6b7cf36b37c"
    assert device.pci_address == "0000:01:00.0"
    assert device.model == "P800 PCIe"
    assert device.driver_version == "5.0.21.26"
    assert device.memory_total_bytes == 98304 * MIB  # not the 96 MiB of L3
    assert device.memory_used_bytes == 0
    assert device.temperature_celsius == 46.0
    assert device.power_watts == 76.0
    assert device.power_limit_watts == 350.0
    assert device.core_clock_hz == 1450e6
    assert (device.pcie_generation, device.pcie_width) == (3, 16)  # it could do 4
    assert (device.errors_corrected, device.errors_uncorrected) == (0, 0)
    assert device.processes == ()


def test_the_table_of_a_p800() -> None:
    first, second = kunlunxin.parse_table(sample("kunlun_xpu-smi_table_p800.txt"))

    assert first.device_id == "0000:52:00.0"
    assert (first.device_index, second.device_index) == (0, 1)
    assert first.model == "P800 OAM"
    assert first.temperature_celsius == 38.0
    assert (first.power_watts, first.power_limit_watts) == (85.0, 400.0)
    assert (second.power_watts, second.temperature_celsius) == (84.0, 40.0)
    assert first.memory_total_bytes == 98304 * MIB
    assert first.processes == ()


def test_a_loaded_card_with_processes_and_errors_since_the_driver_was_loaded() -> None:
    (device,) = kunlunxin.parse_outline(OUTLINE)

    assert device.utilization_ratio == 0.87
    assert device.memory_used_bytes == 48 * GIB
    assert (device.errors_corrected, device.errors_uncorrected) == (2, 1)
    assert device.core_clock_hz == 1450e6
    assert device.pcie_capacity_bytes_per_second == pytest.approx(31.5e9, rel=0.001)
    assert device.missing["temperature_celsius"] == "not_supported"
    assert device.missing["power_limit_watts"] == "not_supported"
    assert device.processes == (
        XpuProcess(pid=4711, memory_used_bytes=48000 * MIB),
        XpuProcess(pid=4712),
    )


def test_a_clock_and_a_limit_of_0_are_no_values() -> None:
    (device,) = kunlunxin.parse_outline(
        OUTLINE.replace("1.45 GHz", "0 MHz").replace(": N/A", ": 0 C")
    )

    assert device.core_clock_hz is None
    assert device.missing["core_clock_hz"] == "suspect"
    assert device.missing["temperature_celsius"] == "suspect"


def test_an_empty_value_gives_way_to_the_next_name_of_the_counter() -> None:
    text = OUTLINE.replace(
        "        Power Draw ",
        "        Enforced Power Limit    :\n"
        "        Power Limit             : 390 W\n"
        "        Power Draw ",
    )

    (device,) = kunlunxin.parse_outline(text)

    assert device.power_limit_watts == 390.0
    assert device.power_watts == 355.0


def test_the_index_comes_from_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    table = sample("kunlun_xpu-smi_table_p800.txt")
    monkeypatch.setattr(base, "run", lambda arguments: OUTLINE if "-q" in arguments else table)

    first, second = kunlunxin.Kunlunxin().ways()[0].read()

    assert (first.device_id, first.device_index) == ("GPU-1", 0)
    assert first.temperature_celsius is None
    assert second.device_id == "0000:55:00.0"


@pytest.mark.parametrize("parse", [kunlunxin.parse_outline, kunlunxin.parse_table])
def test_intels_tool_of_the_same_name_is_told_apart(parse: Parse) -> None:
    with pytest.raises(ParseError, match="Intel's"):
        parse("Intel XPU System Management Interface -- v1.2\nUsage: xpu-smi [Options]\n")


def test_another_layout_is_refused_with_what_to_do() -> None:
    with pytest.raises(ParseError, match="run it by hand"):
        kunlunxin.parse_outline("XPU-RT Version : 11\nCard 0\n")


def test_no_attached_card_is_no_error() -> None:
    assert kunlunxin.parse_outline("XPU-RT Version : 10.2\nAttached XPUs   : 0\n") == []


def test_whatever_it_reads_it_gives_sane_devices_or_an_error() -> None:
    assert_only_parse_errors(kunlunxin.parse_outline, OUTLINE)
    assert_only_parse_errors(
        kunlunxin.parse_table, sample("kunlun_xpu-smi_table_p800.txt"), rounds=100
    )


@pytest.mark.parametrize(("vendor", "device_class"), [("2057", "120000"), ("1d22", "078000")])
def test_it_is_found_under_both_of_its_pci_vendors(
    tmp_path: Path, vendor: str, device_class: str
) -> None:
    with a_bus(tmp_path, vendor, device_class) as bus:
        assert kunlunxin.Kunlunxin().is_here(bus)


def test_its_counters_are_called_experimental() -> None:
    assert kunlunxin.Kunlunxin.experimental is not None
