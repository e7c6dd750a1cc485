"""Iluvatar: ixsmi's CSV by header in two generations, and its table."""

from __future__ import annotations

import pytest

from collectors.xpu import base, iluvatar
from collectors.xpu.base import ParseError
from schemas.records import XpuProcess
from tests.collectors.xpu.outputs import GIB, MIB, Parse, assert_only_parse_errors, sample

NEW = """index, name, uuid, pci.bus_id, memory.total [MiB], memory.used [MiB], \
utilization.gpu [%], temperature.gpu, temperature.memory, gpu.power.draw [W], \
gpu.current.power.limit [W], clocks.current.sm [MHz], clocks.current.memory [MHz], \
clocks.max.sm [MHz], pcie.link.gen.current, pcie.link.width.current
0, Iluvatar MR-V100, GPU-0, 00000000:15:00.0, 32768 MiB, 20480 MiB, 93 %, 61, 58, 120 W, \
150 W, 1500 MHz, 1600 MHz, 1600 MHz, 4, 16
1, Iluvatar MR-V100, GPU-1, 00000000:16:00.0, 32768 MiB, 64 MiB, [N/A], 40, N/A, N/A, \
N/A, 1500 MHz, 1600 MHz, 1600 MHz, 4, 16
"""
OLD = """WARNING: an old driver
power.draw, uuid, index, memory.used [GiB], pci.bus_id, power.limit
104, GPU-7, 3, 2, 00000000:13:00.0, 350
"""
TABLE = """+-----------------------------------------------------------------------------+
|  IX-ML: 4.3.8       Driver Version: 4.3.8       CUDA Version: 10.2          |
|-------------------------------+----------------------+----------------------|
| GPU  Name                     | Bus-Id               | Clock-SM  Clock-Mem  |
| Fan  Temp  Perf  Pwr:Usage/Cap|      Memory-Usage    | GPU-Util  Compute M. |
|===============================+======================+======================|
| 0    Iluvatar MR-V100         | 00000000:15:00.0     | 1500MHz   1600MHz    |
| N/A  61C   P0    120W / 150W  | 20480MiB / 32768MiB  | 93%       Default    |
+-------------------------------+----------------------+----------------------+

+-----------------------------------------------------------------------------+
| Processes:                                                       GPU Memory |
|  GPU        PID      Process name                                Usage(MiB) |
|=============================================================================|
|    0       4711      python3                                     20416      |
+-----------------------------------------------------------------------------+
"""


def test_the_table_of_a_board_with_two_chips() -> None:
    first, second = iluvatar.parse_table(sample("iluvatar_ixsmi_table_biv150_4.3.8.txt"))

    assert first.device_id == "0000:10:00.0"
    assert first.model == "Iluvatar BI-V150"
    assert first.driver_version == "4.3.8"
    assert first.memory_total_bytes == 32 * GIB
    assert first.memory_used_bytes == 64 * MIB
    assert first.core_clock_hz == 1500e6
    assert first.memory_clock_hz == 1600e6
    assert first.temperature_celsius == 40.0
    assert first.utilization_ratio == 0.0
    # The board's power is told with its second chip only, and never copied.
    assert first.power_watts is None
    assert first.missing["power_watts"] == "not_supported"
    assert (second.power_watts, second.power_limit_watts) == (104.0, 350.0)
    assert second.processes == ()


def test_the_csv_of_corex_4_by_its_header() -> None:
    first, second = iluvatar.parse_query(NEW)

    assert first.device_id == "GPU-0"
    assert first.pci_address == "0000:15:00.0"
    assert first.utilization_ratio == 0.93
    assert first.memory_used_bytes == 20 * GIB
    assert first.power_watts == 120.0
    assert first.power_limit_watts == 150.0
    assert first.memory_temperature_celsius == 58.0
    assert first.core_clock_max_hz == 1600e6
    assert first.pcie_capacity_bytes_per_second == pytest.approx(31.5e9, rel=0.001)
    assert second.utilization_ratio is None
    assert second.missing["utilization_ratio"] == "not_supported"
    assert second.missing["power_watts"] == "not_supported"


def test_older_columns_in_any_order_with_units_in_the_header_only() -> None:
    (device,) = iluvatar.parse_query(OLD)

    assert device.device_id == "GPU-7"
    assert device.device_index == 3
    assert device.power_watts == 104.0
    assert device.power_limit_watts == 350.0
    assert device.memory_used_bytes == 2 * GIB
    assert device.memory_total_bytes is None


def test_processes_come_from_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(base, "run", lambda arguments: NEW if len(arguments) > 1 else TABLE)

    first, second = iluvatar.Iluvatar().ways()[0].read()

    assert first.device_id == "GPU-0"
    assert first.processes == (XpuProcess(pid=4711, memory_used_bytes=20416 * MIB),)
    assert second.processes is None


def test_a_row_with_another_number_of_columns_is_refused() -> None:
    with pytest.raises(ParseError, match="row of 6 columns"):
        iluvatar.parse_query(OLD + "104, GPU-8, 4, 2048\n")


@pytest.mark.parametrize("parse", [iluvatar.parse_query, iluvatar.parse_table])
def test_another_tools_answer_is_refused_with_what_to_do(parse: Parse) -> None:
    with pytest.raises(ParseError, match="run it by hand"):
        parse('Field "gpu.power.draw" is not a valid field to query.\n')


def test_whatever_it_reads_it_gives_sane_devices_or_an_error() -> None:
    assert_only_parse_errors(iluvatar.parse_query, NEW)
    assert_only_parse_errors(iluvatar.parse_table, TABLE)


def test_its_counters_are_called_experimental() -> None:
    assert iluvatar.Iluvatar.experimental is not None
    assert iluvatar.Iluvatar.pci_vendor_ids == {0x1E3E}
