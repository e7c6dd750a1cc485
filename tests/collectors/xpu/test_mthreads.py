"""Moore Threads: JSON with blanks in keys and units glued to numbers, and the table."""

from __future__ import annotations

import pytest

from collectors.xpu import base, mthreads
from collectors.xpu.base import ParseError
from schemas.records import XpuProcess
from tests.collectors.xpu.outputs import GIB, MIB, Parse, assert_only_parse_errors, sample

JSON = """{
 "Driver Version ": "5.1.0-server", "Attached GPUs": "2",
 "GPU": [
  {"Index": "0", "Product Name": "MTT S5000", "GPU UUID": "uuid-0",
   "PCI": {"Bus ID": "00000000:2A:00.0"},
   "FB Memory Usage": {"Total": "81920MiB", "Used ": "40960MiB"},
   " Utilization": {"Gpu": "87%", "Memory": "12%"},
   "Temperature": {"GPU Current Temp": "71C"},
   "Power Readings": {"Power Draw ": "512.50W", "Current Power Limit": "N/A"}},
  {"Index": "1", "GPU UUID": "uuid-1", "FB Memory Usage": {"Total": "80GiB"}}
 ]
}
"""
TABLE = """Fri Jul 24 05:58:43 2026
---------------------------------------------------------------------
    mthreads-gmi:2.3.2           Driver Version:3.3.5-server
---------------------------------------------------------------------
ID   Name                 |PCIe                |%GPU  Mem
     Device Type   Perf   |Pcie Lane Width     |Temp  MPC Capable
+-------------------------------------------------------------------+
0    MTT S5000            |00000000:2a:00.0    |0%    0MiB(81920MiB)
     Physical      P0     |16x(16x)            |40C   YES
+-------------------------------------------------------------------+
1    MTT S5000            |00000000:3a:00.0    |75%   8192MiB(81920MiB)
     Physical      P0     |8x(16x)             |N/A   YES
---------------------------------------------------------------------

---------------------------------------------------------------------
Processes:
ID   PID           Process name                           GPU Memory
                                                               Usage
+-------------------------------------------------------------------+
1    4242          python serve.py                           2048MiB
---------------------------------------------------------------------
"""


def test_the_json_of_an_s5000_is_read_with_its_blanks() -> None:
    first, second = mthreads.parse_json(sample("mthreads_mthreads-gmi-q-json_s5000_EXCERPT.json"))

    assert first.device_id == "399282a8-ba01-1475-893c-2eeca9e302f5"
    assert first.pci_address == "0000:2a:00.0"
    assert first.model == "MTT S5000"
    assert first.driver_version == "3.3.5-server"
    assert first.memory_total_bytes == 80 * GIB
    assert first.memory_used_bytes == 0
    assert first.power_watts == 96.66
    assert first.power_limit_watts == 950.0
    assert first.temperature_celsius == 27.0
    assert second.device_index == 1
    assert second.power_watts == 97.09
    assert second.power_limit_watts is None
    assert second.missing["power_limit_watts"] == "not_supported"


def test_the_table_of_an_s5000_tells_width_and_that_nothing_runs() -> None:
    first, second = mthreads.parse_table(sample("mthreads_mthreads-gmi_table_s5000.txt"))

    assert first.device_id == "0000:18:00.0"
    assert second.device_id == "0000:3a:00.0"
    assert first.driver_version == "5.1.0-server"
    assert first.temperature_celsius == 48.0
    assert first.memory_total_bytes == 80 * GIB
    assert first.memory_used_bytes == 0
    assert first.pcie_width == 16
    assert first.processes == ()


def test_loaded_values_are_read_and_unproven_ones_are_not() -> None:
    first, second = mthreads.parse_json(JSON)

    assert first.utilization_ratio == 0.87
    assert first.memory_used_bytes == 40 * GIB
    assert first.power_watts == 512.5
    assert first.missing == {
        "power_limit_watts": "not_supported",
        "memory_bandwidth_ratio": "suspect",
    }
    assert second.memory_total_bytes == 80 * GIB
    assert second.missing["utilization_ratio"] == "not_supported"


def test_a_table_of_two_lines_and_a_process() -> None:
    first, second = mthreads.parse_table(TABLE)

    assert first.processes == ()
    assert second.processes == (XpuProcess(pid=4242, memory_used_bytes=2048 * MIB),)
    assert second.utilization_ratio == 0.75
    assert second.memory_used_bytes == 8 * GIB
    assert second.pcie_width == 8
    assert second.missing["temperature_celsius"] == "not_supported"


def test_processes_join_the_json_by_index_where_it_tells_no_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(base, "run", lambda arguments: JSON if "-q" in arguments else TABLE)

    first, second = mthreads.MooreThreads().ways()[0].read()

    assert (first.device_id, second.device_id) == ("uuid-0", "uuid-1")
    assert second.processes == (XpuProcess(pid=4242, memory_used_bytes=2048 * MIB),)
    assert second.pcie_width == 8
    # The table is asked seldom, so that it must not stand in for a counter.
    assert second.utilization_ratio is None


@pytest.mark.parametrize("parse", [mthreads.parse_json, mthreads.parse_table])
def test_another_tools_answer_is_refused_with_what_to_do(parse: Parse) -> None:
    with pytest.raises(ParseError, match="run it by hand"):
        parse('{"gpus": []}')


def test_whatever_it_reads_it_gives_sane_devices_or_an_error() -> None:
    assert_only_parse_errors(mthreads.parse_json, JSON)
    assert_only_parse_errors(mthreads.parse_table, TABLE)


def test_its_counters_are_called_experimental() -> None:
    assert mthreads.MooreThreads.experimental is not None
    assert mthreads.MooreThreads.pci_vendor_ids == {0x1ED5}
