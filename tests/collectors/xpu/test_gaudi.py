"""`hl-smi`: a CSV of any fields, and the table that has processes and limits."""

from __future__ import annotations

import pytest

from collectors.xpu._reading import join
from collectors.xpu.base import ParseError
from collectors.xpu.gaudi import Gaudi, parse_query, parse_table
from schemas.records import XpuProcess
from tests.collectors.xpu.captured import assert_survives, sample

MEBIBYTE = 1024**2
QUERY = """\
index, uuid, bus_id, name, driver_version, temperature.aip [C], utilization.aip [%], \
memory.total [MiB], memory.used [MiB], power.draw [W], ecc.errors.corrected.volatile.total, \
ecc.errors.uncorrected.volatile.total, clocks.current.soc [MHz], clocks.max.soc [MHz], \
pcie.link.gen.current, pcie.link.width.current, pcie.link.speed.current
5, 01P4-HL2080A0-15-TNBS71-08-03-02, 0000:B3:00.0, HL-225, 1.22.0-97ec1a4, 41, 88 %, \
98304 MiB, 65536 MiB, 412 W, 0, 1, 1650, 1650 MHz, 4, x16, 16GT/s
"""
TABLE = """\
+-----------------------------------------------------------------------------+
| HL-SMI Version:                              hl-1.22.0-fw-53.1.1.1          |
|-------------------------------+----------------------+----------------------+
| AIP  Name        Persistence-M| Bus-Id        Disp.A | Volatile Uncor-Events|
| Fan  Temp  Perf  Pwr:Usage/Cap|         Memory-Usage | AIP-Util  Compute M. |
|===============================+======================+======================|
|   5  HL-225              N/A  | 0000:b3:00.0     N/A |                   1  |
| N/A   41C   N/A   455W / 600W |  65536MiB / 98304MiB |    88%           N/A |
|-------------------------------+----------------------+----------------------+
| Compute Processes:                                               AIP Memory |
|  AIP       PID   Type   Process name                             Usage      |
|=============================================================================|
|   5       4242   C      python3 with blanks                      64768MiB   |
+=============================================================================+
"""


def test_a_query_is_normalised() -> None:
    (device,) = parse_query(QUERY)

    assert device.device_id == "01P4-HL2080A0-15-TNBS71-08-03-02"
    assert (device.device_index, device.pci_address) == (5, "0000:b3:00.0")
    assert (device.model, device.driver_version) == ("HL-225", "1.22.0-97ec1a4")
    assert (device.utilization_ratio, device.utilization_meaning) == (0.88, "busy_time")
    assert device.memory_total_bytes == 98304 * MEBIBYTE
    assert device.memory_used_bytes == 65536 * MEBIBYTE
    assert (device.power_watts, device.temperature_celsius) == (412, 41)
    assert (device.core_clock_hz, device.core_clock_max_hz) == (1650e6, 1650e6)
    assert (device.errors_corrected, device.errors_uncorrected) == (0, 1)
    assert (device.pcie_generation, device.pcie_width) == (4, 16)
    assert device.pcie_capacity_bytes_per_second == pytest.approx(31.5e9, rel=0.001)
    assert device.missing == {}


def test_columns_are_found_wherever_they_are() -> None:
    (device,) = parse_query("power.draw [W], bus_id, index\n412, 0000:b3:00.0, 5\n")

    assert (device.device_id, device.power_watts) == ("0000:b3:00.0", 412)
    assert device.missing["utilization_ratio"] == "not_supported"


def test_the_table_adds_processes_and_the_limit() -> None:
    (device,) = join([parse_query(QUERY), parse_table(TABLE)])

    assert device.device_id == "01P4-HL2080A0-15-TNBS71-08-03-02"
    assert device.power_limit_watts == 600
    assert device.processes == (XpuProcess(pid=4242, memory_used_bytes=64768 * MEBIBYTE),)


def test_the_table_alone_is_enough() -> None:
    (device,) = parse_table(TABLE)

    assert (device.device_id, device.pci_address) == ("gaudi:5", "0000:b3:00.0")
    assert (device.utilization_ratio, device.power_watts) == (0.88, 455)
    assert device.memory_used_bytes == 65536 * MEBIBYTE
    assert (device.temperature_celsius, device.errors_uncorrected) == (41, 1)


def test_a_query_without_a_header_says_what_to_do() -> None:
    with pytest.raises(ParseError, match="noheader"):
        parse_query("HL-205, 00P1, 103\n")


def test_garbage_is_a_parse_error() -> None:
    assert_survives(parse_query, QUERY)
    assert_survives(parse_table, TABLE)


def test_older_builds_are_asked_for_less() -> None:
    newer, older = (way.commands[0].arguments[2] for way in Gaudi().ways())  # type: ignore[attr-defined]

    assert newer.startswith(older)
    assert "pcie.link" in newer
    assert "pcie.link" not in older


# Captured outputs.


def test_captured_query_of_eight_hl_205() -> None:
    devices = parse_query(sample("gaudi_hl-smi-Q_hl205.csv"))

    assert len(devices) == 8
    assert devices[2].device_id == "00P1-HL2000A1-14-P64X78-02-07-10"
    assert [one.power_watts for one in devices] == [103, 105, 96, 100, 103, 102, 103, 103]
    assert [one.temperature_celsius for one in devices] == [36, 34, 33, 32, 34, 30, 31, 38]
    assert (devices[2].utilization_ratio, devices[7].utilization_ratio) == (0.12, 0.14)
    assert {one.memory_used_bytes for one in devices} == {512 * MEBIBYTE}
    assert {one.memory_total_bytes for one in devices} == {32768 * MEBIBYTE}


def test_captured_table_of_hl_205() -> None:
    devices = parse_table(sample("gaudi_hl-smi_table_hl205_1.18.txt"))

    assert [one.pci_address for one in devices][:3] == [
        "0000:b3:00.0",
        "0000:b4:00.0",
        "0000:cd:00.0",
    ]
    assert [one.power_watts for one in devices] == [104, 102, 104, 103, 96, 105, 103, 100]
    assert {one.power_limit_watts for one in devices} == {350}
    assert devices[0].processes == (XpuProcess(pid=10, memory_used_bytes=1024 * MEBIBYTE),)
    assert devices[1].processes == ()
    assert devices[6].processes == (XpuProcess(pid=20, memory_used_bytes=2040 * MEBIBYTE),)


def test_captured_table_of_hl_225() -> None:
    first, second = parse_table(sample("gaudi_hl-smi_table_hl225_1.12.1.txt"))

    assert (first.model, first.power_watts, first.power_limit_watts) == ("HL-225", 84, 600)
    assert second.memory_total_bytes == 98304 * MEBIBYTE
    assert (second.utilization_ratio, second.temperature_celsius) == (0.0, 28)
