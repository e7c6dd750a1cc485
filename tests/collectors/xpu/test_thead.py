"""T-Head: ppu-smi's CSV by header, its outline, its table, and NVIDIA's tool under its alias."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.xpu import base, thead
from collectors.xpu.base import ParseError
from schemas.records import XpuProcess
from tests.collectors.xpu.outputs import MIB, Parse, a_bus, assert_only_parse_errors, sample

QUERY = """index, name, uuid, pci.bus_id, driver_version, memory.total [MiB], \
memory.used [MiB], utilization.ppu [%], temperature.ppu, power.draw [W], power.limit [W]
0, PPU-ZW810E, GPU-0, 00000000:A8:00.0, 2.1.0, 98304 MiB, 91349 MiB, 97 %, 34, 393.00 W, 400.00 W
1, PPU-ZW810E, GPU-1, 00000000:A7:00.0, 2.1.0, 98304 MiB, 0 MiB, N/A, 35, [Not Supported], 400 W
"""
OUTLINE = """==============PPUSMI LOG==============

Driver Version                              : 2.1.0

Attached PPUs                               : 1
PPU 00000000:A8:00.0
    Product Name                            : PPU-ZW810E
    PPU UUID                                : GPU-0
    Minor Number                            : 1
    PCI
        PPU Link Info
            PCIe Generation
                Max                         : 5
                Current                     : 5
            Link Width
                Max                         : 16x
                Current                     : 16x
        Tx Throughput                       : 1000 KB/s
        Rx Throughput                       : 2000 KB/s
    Clocks Throttle Reasons
        Idle                                : Not Active
        SW Power Cap                        : Active
        HW Slowdown                         : Active
            HW Thermal Slowdown             : Active
            HW Power Brake Slowdown         : Not Active
    Memory Usage
        Total                               : 98304 MiB
        Used                                : 91349 MiB
    Utilization
        Ppu                                 : 97 %
        Memory                              : 55 %
    ECC Errors
        Volatile
            SRAM Correctable                : 1
            DRAM Correctable                : 2
            DRAM Uncorrectable              : 0
        Aggregate
            DRAM Correctable                : 9
    Temperature
        PPU Current Temp                    : 64 C
        PPU Shutdown Temp                   : 95 C
        Memory Current Temp                 : 62 C
    Power Readings
        Power Draw                          : 393.00 W
        Power Limit                         : 400.00 W
        Enforced Power Limit                : 350.00 W
    Clocks
        CU                                  : 1500 MHz
        Memory                              : 1800 MHz
    Max Clocks
        CU                                  : 1700 MHz
        Memory                              : 1800 MHz
    Processes
        Compute instance ID                 : N/A
        Process ID                          : 85637
            Type                            : Compute
            Name                            : serve
            Used PPU Memory                 : 91300 MiB
"""


def test_the_table_of_a_zw810e() -> None:
    first, second = thead.parse_table(sample("thead_ppu-smi_table_zw810e_1.28.txt"))

    assert first.device_id == "0000:08:00.0"
    assert second.device_id == "0000:7e:00.0"
    assert first.model == "PPU-ZW810E"
    assert first.driver_version == "2.1.0-dbda51"
    assert first.temperature_celsius == 24.0
    assert (first.power_watts, first.power_limit_watts) == (74.0, 400.0)
    assert first.memory_total_bytes == 98304 * MIB
    assert first.memory_used_bytes == 49 * MIB
    assert first.utilization_ratio == 0.04
    assert first.errors_uncorrected == 0
    assert first.processes is not None
    assert [process.pid for process in first.processes] == [525179, 525179]
    assert first.processes[0].memory_used_bytes == 48 * MIB
    assert second.processes == ()


def test_a_real_row_under_its_header() -> None:
    header = "pci.bus_id, utilization.ppu, temperature.ppu, power.draw, serial\n"

    (device,) = thead.parse_query(header + sample("thead_ppu-smi-query-ppu_zw810e_noheader.csv"))

    assert device.device_id == "0000:08:00.0"
    assert device.utilization_ratio == 0.0
    assert device.temperature_celsius == 27.0
    assert device.power_watts == 83.03


def test_the_manuals_example() -> None:
    first, second = thead.parse_query(sample("thead_ppu-smi-query-ppu_DOC.csv"))

    assert first.memory_total_bytes == 40960 * MIB
    assert first.memory_used_bytes == 606 * MIB
    assert second.memory_total_bytes == 24576 * MIB
    assert second.device_id == "thead:1"


def test_the_csv_by_its_header() -> None:
    first, second = thead.parse_query(QUERY)

    assert (first.device_id, first.device_index) == ("GPU-0", 0)
    assert first.pci_address == "0000:a8:00.0"
    assert first.memory_used_bytes == 91349 * MIB
    assert first.utilization_ratio == 0.97
    assert first.power_watts == 393.0
    assert second.utilization_ratio is None
    assert second.missing == {
        "utilization_ratio": "not_supported",
        "power_watts": "not_supported",
    }


def test_the_outline_tells_clocks_throttling_and_processes() -> None:
    (device,) = thead.parse_outline(OUTLINE)

    assert device.device_id == "GPU-0"
    assert device.device_index is None  # the minor number is none
    assert device.core_clock_hz == 1500e6
    assert device.core_clock_max_hz == 1700e6
    assert device.memory_clock_hz == 1800e6
    assert device.temperature_celsius == 64.0
    assert device.memory_temperature_celsius == 62.0
    assert device.power_limit_watts == 350.0
    assert device.pcie_received_bytes_per_second == 2e6
    assert device.pcie_sent_bytes_per_second == 1e6
    assert (device.pcie_generation, device.pcie_width) == (5, 16)
    assert device.throttle_reasons == ("sw_power_cap", "hw_slowdown", "hw_thermal")
    assert (device.errors_corrected, device.errors_uncorrected) == (3, 0)
    assert device.missing["memory_bandwidth_ratio"] == "suspect"
    assert device.processes == (XpuProcess(pid=85637, memory_used_bytes=91300 * MIB),)


def test_csv_and_outline_join(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "run", lambda arguments: OUTLINE if "-q" in arguments else QUERY)

    first, second = thead.THead().ways()[0].read()

    assert (first.device_id, first.device_index) == ("GPU-0", 0)
    assert first.throttle_reasons == ("sw_power_cap", "hw_slowdown", "hw_thermal")
    assert second.device_id == "GPU-1"


def test_nvidias_tool_under_the_alias_is_refused() -> None:
    with pytest.raises(ParseError, match="not T-Head's tool"):
        thead.parse_outline("==============NVSMI LOG==============\n\nAttached GPUs : 1\n")


@pytest.mark.parametrize("parse", [thead.parse_query, thead.parse_outline, thead.parse_table])
def test_another_layout_is_refused_with_what_to_do(parse: Parse) -> None:
    with pytest.raises(ParseError, match="run it by hand"):
        parse("PPU-SMI 9.0: nothing that we know\n")


def test_whatever_it_reads_it_gives_sane_devices_or_an_error() -> None:
    assert_only_parse_errors(thead.parse_query, QUERY)
    assert_only_parse_errors(thead.parse_outline, OUTLINE)
    assert_only_parse_errors(
        thead.parse_table, sample("thead_ppu-smi_table_zw810e_1.28.txt"), rounds=100
    )


def test_a_network_card_of_the_same_pci_vendor_is_none(tmp_path: Path) -> None:
    with a_bus(tmp_path / "ppu", "1ded", "120000") as bus:
        assert thead.THead().is_here(bus)
    with a_bus(tmp_path / "network", "1ded", "020000") as bus:
        assert not thead.THead().is_here(bus)


def test_its_counters_are_called_experimental() -> None:
    assert thead.THead.experimental is not None
