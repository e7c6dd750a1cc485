"""MetaX: mx-smi's JSON with a banner, its logs of a C500 idle and under vLLM, sliced GPUs."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.xpu import base, metax
from collectors.xpu.base import ParseError, merge
from schemas.records import XpuProcess
from tests.collectors.xpu.outputs import GIB, MIB, Parse, a_bus, assert_only_parse_errors, sample

ADDRESS = "0000:37:00.0"
JSON = """mx-smi  version: 2.2.12
{
  "driver_version": "3.8.30", "attached_gpus": 2,
  "0000:37:00.0": {
    "device_id": 0, "unavailable_reason": "", "hotspot": "51.250", "utilization": 63,
    "clocks": {"XCORE": "1125", "MC": 1800},
    "board_power": {"power": {"Way0": "100.5", "Way1": 20, "Way2": "9.500"}},
    "sgpu_info": [{"sgpu_id": 1, "vram_quota": 8192, "vram_used": "512", "utilization": "12%"}]
  },
  "0000:38:00.0": {
    "device_id": 1, "unavailable_reason": "MetaX Sysfs File Unaccessible", "hotspot": "0",
    "utilization": 0, "clocks": {"XCORE": 0, "MC": 0}
  }
}
"""
LOG = """mx-smi  version: 2.2.12

Timestamp                                         : Wed Aug 12 13:10:33 2026

Attached GPUs                                     : 1
GPU#0  MXC500  0000:37:00.0
    Pcie Info
        Current Speed                             : 16 GT/s
        Current Width                             : x8
        Max Speed                                 : 32 GT/s
        Max Width                                 : x16
    Pcie Bandwidth
        RX                                        : 1200 MBytes/s
        TX                                        : Not Available(MetaX Sysfs File Unaccessible)
    Xcore Clocks Throttle Reason
        Idle                                      : Active
        Over Power                                : Active
        Hbm Over Temperature                      : Active
        VR Over Temperature                       : Active
        Didt                                      : Not Active
        Something New                             : Active
    ECC Errors
        SRAM Correctable                          : 3
        SRAM Uncorrectable                        : 0
        DRAM Correctable                          : 4
        DRAM Uncorrectable                        : 1

+-------------------------------------------------------+
| Process:                                              |
|  GPU        PID         Process Name      GPU Memory  |
|                                           Usage(MiB)  |
|=======================================================|
|  0          967305      python worker     53978       |
|  0          967306      python            102         |
+-------------------------------------------------------+

End of Log
"""


def test_the_json_of_an_idle_c500_is_read_behind_its_banner() -> None:
    whole, part = metax.parse_json(sample("metax_mx-smi-j_c500.json"))

    assert whole.device_id == whole.pci_address == ADDRESS
    assert whole.device_index == 0
    assert whole.driver_version == "3.8.30"
    assert whole.utilization_ratio == 0.0
    assert whole.utilization_meaning == "core_mean"
    assert whole.temperature_celsius == 38.5
    assert whole.core_clock_hz == 1125e6
    assert whole.memory_clock_hz == 1800e6
    assert whole.power_watts == pytest.approx(25.789 + 26.652 + 9.478)
    assert whole.memory_total_bytes is None  # the JSON does not tell it, mx-smi --show-memory does
    assert (part.device_id, part.parent, part.partition) == (
        f"{ADDRESS}/sgpu3",
        ADDRESS,
        "sGPU 3",
    )
    assert part.memory_total_bytes == 16000 * MIB
    assert part.memory_used_bytes == 0


def test_all_logs_of_an_idle_c500_make_one_device() -> None:
    (device,) = metax.parse_log(sample("metax_mx-smi_c500_detail.txt"))

    assert device.device_id == ADDRESS
    assert device.model == "MXC500"
    assert device.memory_total_bytes == 64 * GIB
    assert device.memory_used_bytes == 15518872 * 1024
    assert device.power_watts == 62.015
    assert device.power_limit_watts == 350.0
    assert device.temperature_celsius == 38.5
    assert device.memory_io_bytes_per_second == 1e6
    assert (device.pcie_generation, device.pcie_width) == (5, 16)
    assert device.pcie_capacity_bytes_per_second == pytest.approx(63.0e9, rel=0.001)
    assert device.pcie_received_bytes_per_second == 0.0
    assert device.throttle_reasons == ()
    assert (device.errors_corrected, device.errors_uncorrected) == (0, 0)
    assert device.processes == ()


def test_a_c500_under_vllm_is_28_percent_busy_and_moves_260_gigabytes_a_second() -> None:
    (usage,) = metax.parse_log(sample("metax_mx-smi_show-usage_load.txt"))
    (memory,) = metax.parse_log(sample("metax_mx-smi_show-hbm-bandwidth_load.txt"))

    assert usage.utilization_ratio == 0.28
    assert memory.memory_io_bytes_per_second == 259675e6
    assert usage.device_id == memory.device_id == ADDRESS


def test_uuids_come_from_the_list_and_unavailable_cards_stay_away() -> None:
    names = metax.parse_list(sample("metax_mx-smi_c500_detail.txt"))
    devices = metax.renamed(metax.parse_json(sample("metax_mx-smi-j_c500.json")), names)

    assert names.keys() == {ADDRESS, f"{ADDRESS}/sgpu3"}
    assert [device.device_id for device in devices] == [
        "GPU-df110ed1-56d2-e35b-d97b-e23bca667d75",
        "GPU-9989eeaf-e8b6-b0c7-a313-c2c978ea5031",
    ]
    assert devices[1].parent == devices[0].device_id


def test_the_supply_lines_add_up_and_strings_and_numbers_mix() -> None:
    device = metax.parse_json(JSON)[0]

    assert device.power_watts == 130.0
    assert device.utilization_ratio == 0.63
    assert device.core_clock_hz == 1125e6


def test_one_unknown_supply_line_makes_the_power_unknown() -> None:
    device = metax.parse_json(JSON.replace('"Way1": 20', '"Way1": "N/A"'))[0]

    assert device.power_watts is None
    assert device.missing["power_watts"] == "not_supported"


def test_a_card_that_the_container_may_not_see_has_no_zeros() -> None:
    device = metax.parse_json(JSON)[2]

    assert device.device_id == "0000:38:00.0"
    assert device.utilization_ratio is None
    assert device.missing["utilization_ratio"] == "not_permitted"
    assert device.missing["temperature_celsius"] == "not_permitted"


def test_a_slice_is_a_device_with_its_own_quota() -> None:
    part = metax.parse_json(JSON)[1]

    assert part.memory_total_bytes == 8192 * MIB
    assert part.memory_used_bytes == 512 * MIB
    assert part.utilization_ratio == 0.12
    assert part.power_watts is None


def test_present_speed_not_highest_and_every_reason_once() -> None:
    (device,) = metax.parse_shown_slowly(LOG)

    assert (device.pcie_generation, device.pcie_width) == (4, 8)
    assert device.pcie_received_bytes_per_second == 1.2e9
    assert device.missing["pcie_sent_bytes_per_second"] == "not_supported"
    assert device.throttle_reasons == ("sw_power_cap", "hw_thermal", "other")
    assert (device.errors_corrected, device.errors_uncorrected) == (7, 1)
    assert device.missing["power_limit_watts"] == "not_supported"
    assert device.processes == (
        XpuProcess(pid=967305, memory_used_bytes=53978 * MIB),
        XpuProcess(pid=967306, memory_used_bytes=102 * MIB),
    )


def test_json_and_logs_join_by_address() -> None:
    devices = merge([metax.parse_json(JSON), metax.parse_log(LOG)])

    assert len(devices) == 3
    assert devices[0].utilization_ratio == 0.63
    assert devices[0].pcie_width == 8


def test_the_list_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, ...]] = []

    def run(arguments: tuple[str, ...]) -> str:
        asked.append(arguments)
        if "-L" in arguments:
            return "GPU#0  MXC500  0000:37:00.0  Available (UUID: GPU-1)\n"
        return JSON if "-j" in arguments else LOG

    monkeypatch.setattr(metax, "run", run)
    monkeypatch.setattr(base, "run", run)
    way = metax.MxSmi("mx-smi")

    assert [device.device_id for device in way.read()] == [
        "GPU-1",
        "0000:37:00.0/sgpu1",
        "0000:38:00.0",
    ]
    way.read()
    assert sum("-L" in arguments for arguments in asked) == 1


def test_no_attached_gpus_is_no_error() -> None:
    assert metax.parse_json('mx-smi\n{"attached_gpus": 0}') == []
    assert metax.parse_log("Attached GPUs                 : 0\n\nEnd of Log\n") == []


@pytest.mark.parametrize("parse", [metax.parse_json, metax.parse_log])
def test_another_tools_answer_is_refused_with_what_to_do(parse: Parse) -> None:
    with pytest.raises(ParseError, match="run it by hand"):
        parse("USAGE:\n\n   mx-smi  [-hjLrsvy] [--count-ecc]\n")


def test_whatever_it_reads_it_gives_sane_devices_or_an_error() -> None:
    assert_only_parse_errors(metax.parse_json, JSON)
    assert_only_parse_errors(metax.parse_shown, LOG)
    assert_only_parse_errors(metax.parse_shown_slowly, LOG)


def test_it_is_found_by_its_pci_vendor_as_a_display_controller(tmp_path: Path) -> None:
    with a_bus(tmp_path, "9999", "038000") as bus:
        assert metax.MetaX().is_here(bus)
