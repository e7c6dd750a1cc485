"""Enflame: two generations of efsmi -q, the columns of --dmon, and the table."""

from __future__ import annotations

import pytest

from collectors.xpu import base, enflame
from collectors.xpu.base import ParseError
from tests.collectors.xpu.outputs import MIB, Parse, assert_only_parse_errors, sample

OLD = """--------- Enflame System Management Interface ----------

DEV ID 7
    Driver Info
        Ver                     : 1.2.4.12
    Device Info
        Dev Name                : S60
        Dev UUID                : N/A
    PCIe Info
        Domain                  : 0000
        Bus                     : b1
        Dev                     : 00
        Func                    : 0
        Link Info
        Max Link Speed          : Gen5
        Cur Link Speed          : Gen4
        Cur Link Width          : X16
        Tx Throughput           : 10 MiB/s
        Rx Throughput           : 20 MiB/s
    Power Info
        Cur Power               : 102 W
    Device Mem Info
        Mem Size                : 42976 MiB
        Mem Usage               : 1129 MiB
    Temperature Info
        GCU Temp                : 41 C
    Device Usage Info
        GCU Usage               : 58.5 %
    RMA Info
        Flags                   : False
        DBE                     : 2
"""
DMON = """*Dev DUsed  Mem    Pwr    RxPci   TxPci
*Idx %      MiB    W      MiB/s   MiB/s
0    58.5   42976  210    5       7
1    -      42976  96     0       0
"""


def test_the_outline_of_an_s60() -> None:
    (device,) = enflame.parse_outline(sample("enflame_efsmi-q_s60_RETYPED.txt"))

    assert device.device_id == "TR0000000000"
    assert device.device_index == 0
    assert device.pci_address == "0000:17:00.0"
    assert device.model == "S60"
    assert device.driver_version == "1.4.3.4"
    assert device.memory_total_bytes == 42976 * MIB
    assert device.memory_reserved_bytes == 1129 * MIB
    assert device.memory_used_bytes == 0
    assert device.temperature_celsius == 35.0  # printed with a degree sign of one character
    assert device.power_watts == 96.0
    assert device.power_limit_watts == 300.0
    assert device.memory_clock_hz == 7000e6
    assert (device.pcie_generation, device.pcie_width) == (3, 8)
    assert device.pcie_capacity_bytes_per_second == pytest.approx(7.88e9, rel=0.001)
    assert device.utilization_ratio == 0.0
    assert device.utilization_meaning is None
    assert device.errors_uncorrected == 0


def test_the_columns_of_seven_s60() -> None:
    devices = enflame.parse_dmon(sample("enflame_efsmi-dmon_s60.txt"))

    assert [device.device_id for device in devices] == [f"enflame:{index}" for index in range(7)]
    assert [device.power_watts for device in devices] == [101, 98, 101, 101, 101, 100, 100]
    assert devices[1].temperature_celsius == 37.0
    assert devices[0].memory_total_bytes == 42976 * MIB
    assert devices[0].memory_used_bytes == pytest.approx(0.841 * 42976 * MIB)
    assert devices[6].memory_used_bytes == pytest.approx(0.026 * 42976 * MIB)
    assert devices[0].memory_clock_hz == 7000e6


def test_the_table_of_an_l300_tells_no_used_memory() -> None:
    (device,) = enflame.parse_table(sample("enflame_efsmi_table_l300_1.7.2.14.txt"))

    assert device.device_id == "0000:2d:00.0"
    assert device.model == "Enflame L300"
    assert device.driver_version == "1.7.2.14"
    assert device.temperature_celsius == 35.0
    assert (device.power_watts, device.power_limit_watts) == (68.0, 300.0)
    assert device.memory_total_bytes == 147456 * MIB
    assert device.memory_used_bytes is None
    assert device.missing["memory_used_bytes"] == "not_supported"


def test_the_keys_of_an_older_driver() -> None:
    (device,) = enflame.parse_outline(OLD)

    assert device.device_id == device.pci_address == "0000:b1:00.0"
    assert device.device_index == 7
    assert device.memory_used_bytes == 1129 * MIB
    assert device.utilization_ratio == 0.585
    assert device.pcie_generation == 4
    assert device.pcie_received_bytes_per_second == 20 * MIB
    assert device.pcie_sent_bytes_per_second == 10 * MIB
    assert device.errors_uncorrected == 2
    assert device.missing["power_limit_watts"] == "not_supported"


def test_columns_are_found_by_their_names() -> None:
    first, second = enflame.parse_dmon(DMON)

    assert first.utilization_ratio == 0.585
    assert first.power_watts == 210.0
    assert first.pcie_sent_bytes_per_second == 7 * MIB
    assert first.missing["memory_used_bytes"] == "not_supported"
    assert second.utilization_ratio is None
    assert second.missing["utilization_ratio"] == "not_supported"


def test_table_and_columns_join_by_index(monkeypatch: pytest.MonkeyPatch) -> None:
    table = sample("enflame_efsmi_table_l300_1.7.2.14.txt")
    monkeypatch.setattr(base, "run", lambda arguments: DMON if len(arguments) > 1 else table)

    first, second = enflame.Enflame().ways()[1].read()

    assert first.device_id == "0000:2d:00.0"
    assert first.pcie_received_bytes_per_second == 5 * MIB
    assert second.device_id == "enflame:1"


@pytest.mark.parametrize("parse", [enflame.parse_outline, enflame.parse_dmon, enflame.parse_table])
def test_another_tools_answer_is_refused_with_what_to_do(parse: Parse) -> None:
    with pytest.raises(ParseError, match="run it by hand"):
        parse("efsmi: error while loading shared libraries\n")


def test_whatever_it_reads_it_gives_sane_devices_or_an_error() -> None:
    assert_only_parse_errors(enflame.parse_outline, OLD)
    assert_only_parse_errors(enflame.parse_dmon, DMON)
    assert_only_parse_errors(
        enflame.parse_table, sample("enflame_efsmi_table_l300_1.7.2.14.txt"), rounds=100
    )


def test_its_counters_are_called_experimental() -> None:
    assert enflame.Enflame.experimental is not None
    assert enflame.Enflame.pci_vendor_ids == {0x1E36}
