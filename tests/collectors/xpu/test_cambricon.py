"""Cambricon: the outline of cnmon info and two generations of cnmon's table."""

from __future__ import annotations

import pytest

from collectors.xpu import cambricon
from collectors.xpu.base import ParseError
from schemas.records import XpuProcess
from tests.collectors.xpu.outputs import MIB, Parse, assert_only_parse_errors, sample

INFO = """================CNMON v5.10.22================
Card 0
    Product Name                   : MLU370-X4
    UUID                           : 11112222-3333-0000-0000-000000000000
    Health State                   :
        Device                     : Good
        Driver                     : Running
    Driver                         : v5.10.22
    Utilization                    :
        MLU Average                : 66 %
        MLU 0-3                    : 90 %
    Temperature                    :
        Board                      : 64 C
        Chip                       : 78 C
        Memory                     : 63 C
    Physical Memory Usage          :
        Total                      : 23308 MiB
        Used                       : 17320 MiB
    Virtual Memory Usage           :
        Total                      : 1048576 MiB
        Used                       : 20480 MiB
    Power                          :
        Usage                      : 44 W
        Cap                        : 150 W
    PCI                            :
        Domain ID                  : 0000
        Bus num                    : 3D
        Device                     : 00
        Function                   : 0
        Current Speed              : 8 GT/s
        Max Speed                  : 16 GT/s
        Current Width              : x16
    Processes                      :
        Process                    : 0
            PID                    : 101934
            cmdline                : /usr/bin/python serve.py
            MLU Memory Usage       : 15829 MiB
Card 1
    Product Name                   : MLU370-X4
    Utilization                    :
        MLU Average                : N/A
    Processes                      :
"""


def test_the_table_of_an_mlu370_x8() -> None:
    first, second = cambricon.parse_table(sample("cambricon_cnmon_mlu370x8_5.10.22.txt"))

    assert first.device_id == "0000:13:00.0"
    assert first.model == "MLU370-X8"
    assert first.utilization_ratio == 0.0
    assert first.temperature_celsius == 28.0
    assert first.power_watts == 107.0
    assert first.power_limit_watts == 250.0
    assert first.memory_total_bytes == 20638 * MIB
    assert first.memory_used_bytes == 0
    assert first.errors_uncorrected == 0
    assert first.processes == ()
    assert second.device_id == "0000:16:00.0"
    assert second.temperature_celsius == 32.0


def test_the_older_table_has_other_cells_and_no_address() -> None:
    (device,) = cambricon.parse_table(sample("cambricon_cnmon_mlu370x4_4.20.11_ROWS.txt"))

    assert device.device_id == "cambricon:0"
    assert device.model == "MLU370-X4"
    assert device.temperature_celsius == 32.0
    assert device.power_watts == 30.0
    assert device.power_limit_watts == 150.0
    assert device.memory_total_bytes == 23308 * MIB  # not the virtual 1048576 MiB
    assert device.errors_uncorrected is None
    assert device.missing["errors_uncorrected"] == "not_supported"
    assert device.processes is None


def test_the_outline_tells_every_counter_by_its_key() -> None:
    first, second = cambricon.parse_info(INFO)

    assert first.device_id == "11112222-3333-0000-0000-000000000000"
    assert first.pci_address == "0000:3d:00.0"
    assert first.driver_version == "v5.10.22"
    assert first.utilization_ratio == 0.66
    assert first.utilization_meaning == "core_mean"
    assert first.memory_total_bytes == 23308 * MIB
    assert first.memory_used_bytes == 17320 * MIB
    assert first.temperature_celsius == 78.0
    assert first.memory_temperature_celsius == 63.0
    assert first.power_watts == 44.0
    assert first.power_limit_watts == 150.0
    assert (first.pcie_generation, first.pcie_width) == (3, 16)
    assert first.pcie_capacity_bytes_per_second == pytest.approx(15.75e9, rel=0.001)
    assert first.processes == (XpuProcess(pid=101934, memory_used_bytes=15829 * MIB),)
    assert second.device_id == "cambricon:1"
    assert second.utilization_ratio is None
    assert second.missing["utilization_ratio"] == "not_supported"
    assert second.missing["memory_used_bytes"] == "not_supported"
    assert second.processes == ()


@pytest.mark.parametrize("parse", [cambricon.parse_info, cambricon.parse_table])
def test_another_tools_answer_is_refused_with_what_to_do(parse: Parse) -> None:
    with pytest.raises(ParseError, match="run it by hand"):
        parse("There is no MLU device\n")


def test_whatever_it_reads_it_gives_sane_devices_or_an_error() -> None:
    assert_only_parse_errors(cambricon.parse_info, INFO)
    assert_only_parse_errors(
        cambricon.parse_table, sample("cambricon_cnmon_mlu370x8_5.10.22.txt"), rounds=100
    )


def test_its_counters_are_called_experimental() -> None:
    assert cambricon.Cambricon.experimental is not None
    assert cambricon.Cambricon.pci_vendor_ids == {0xCABC}
