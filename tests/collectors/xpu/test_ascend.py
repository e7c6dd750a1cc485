"""`npu-smi`: tables and blocks that change from version to version, and cards of two chips."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from collectors.xpu.ascend import Ascend, NpuSmi, parse_block, parse_info, parse_map
from collectors.xpu.base import NotPermitted, ParseError, XpuError
from schemas.records import XpuProcess
from tests.collectors.xpu.captured import assert_survives, sample

MEBIBYTE = 1024**2
CARD = "| NPU  Name      | Health  | Power(W)  Temp(C)   Hugepages-Usage(page) |"
CHIP = "| Chip  Phy-ID   | Bus-Id  | AICore(%)  Memory-Usage(MB)  HBM-Usage(MB) |"
# Two chips of a card, in the tool's form: the second one's power is the first one's.
INFO = f"""\
+----------------------------------------------------------+
| npu-smi 25.2.3               Version: 25.2.3             |
{CARD}
{CHIP}
+================+=========+================================+
| 4    910C      | OK           | 240.1    51     0 / 0       |
| 0    8         | 0000:9D:00.0 | 61       0 / 0  50001/ 65536 |
| 4    910C      | Warning      | -        52     0 / 0       |
| 1    9         | 0000:9F:00.0 | NA       0 / 0  40000 / 65536 |
+================+=========+================================+
| NPU   Chip     | Process id | Process name | Process memory(MB) |
| 4     1        | 3328327    |              | 30119              |
| No running processes found in NPU 5                            |
"""
COMMON = """\
        NPU ID                         : 4
        Chip Count                     : 1

        Chip ID                        : 0
        Memory Usage Rate(%)           : 0
        HBM Usage Rate(%)              : 91
        Aicore Usage Rate(%)           : 60
        Aicore Freq(MHZ)               : 1800
        Aicore curFreq(MHZ)            : 900
        Temperature(C)                 : 46
        NPU Real-time Power(W)         : 130.4

        Chip Name                      : mcu
        Temperature(C)                 : 40
"""
USAGES = """\
        NPU ID                         : 4
        Chip Count                     : 1

        HBM Capacity(MB)               : 65536
        HBM Usage Rate(%)              : 5
        Aicore Usage Rate(%)           : 60
        HBM Bandwidth Usage Rate(%)    : 44
        Chip ID                        : 0
"""
ECC = """\
        NPU ID                                   : 4
        HBM Single Bit Error Count               : 3
        HBM Double Bit Error Count               : 0
        HBM Single Bit Aggregate Total Err Cnt   : 30
"""
ONE_CHIP = f"""\
{CARD}
{CHIP}
| 4    910B4     | OK           | 94.4     42     0 / 0       |
| 0    3         | 0000:66:00.0 | 7        0 / 0  3412/ 65536 |
"""
MAP = """\
    NPU ID              Chip ID             Chip Logic ID       Chip Name
    4                   0                   3                   Ascend 910B4
    4                   1                   -                   Mcu
"""


def tool(**answers: str) -> NpuSmi:
    """Give a way whose tool answers by its last word, as ``common`` of ``-t common -i 4``."""

    def run(arguments: Sequence[str]) -> str:
        words = arguments[1:]
        key = words[2] if "-t" in words else "map" if "-m" in words else "info"
        if key not in answers:
            raise XpuError(f"npu-smi does not know {key}; run it by hand")
        return answers[key]

    return NpuSmi(run)


def test_each_chip_is_a_device() -> None:
    first, second = parse_info(INFO)

    assert (first.device_id, first.device_index) == ("0000:9d:00.0", 8)
    assert (second.device_id, second.device_index) == ("0000:9f:00.0", 9)
    assert (first.parent, first.partition) == ("ascend:4", "chip 0")
    assert (second.parent, second.partition) == ("ascend:4", "chip 1")
    assert first.memory_total_bytes == 64 * 1024**3
    assert first.memory_used_bytes == 50001 * MEBIBYTE
    assert (first.utilization_ratio, first.utilization_meaning) == (0.61, "core_mean")
    assert first.driver_version == "25.2.3"
    assert (first.temperature_celsius, second.temperature_celsius) == (51, 52)


def test_a_cards_power_is_not_copied_to_its_second_chip() -> None:
    first, second = parse_info(INFO)

    assert first.power_watts == 240.1
    assert second.power_watts is None
    assert second.missing == {"power_watts": "not_supported", "utilization_ratio": "not_supported"}


def test_processes_belong_to_their_chip() -> None:
    first, second = parse_info(INFO)

    assert first.processes == ()
    assert second.processes == (XpuProcess(pid=3328327, memory_used_bytes=30119 * MEBIBYTE),)
    assert parse_info(ONE_CHIP)[0].processes is None


def test_processes_are_found_by_their_columns_names() -> None:
    newer = INFO.replace(
        "| Process name | Process memory(MB) |",
        "| Process name | Process memory(MB) | Process id in container |",
    ).replace("|              | 30119              |", "| python3 | 30119 | 17 |")

    assert parse_info(newer)[1].processes == (
        XpuProcess(pid=3328327, memory_used_bytes=30119 * MEBIBYTE),
    )


def test_a_block_that_begins_with_the_chip_leaves_the_cards_controller_out() -> None:
    (device,) = parse_block(COMMON)

    assert (device.utilization_ratio, device.temperature_celsius) == (0.6, 46)
    assert (device.core_clock_hz, device.core_clock_max_hz) == (900e6, 1800e6)
    assert device.power_watts == 130.4
    # Whole percents of 64 GiB are steps of 655 MiB: that is for the table to say.
    assert device.memory_used_bytes is None


def test_a_block_that_ends_with_the_chip_is_that_chips() -> None:
    two = USAGES + USAGES.split("\n", 2)[2].replace("44", "9").replace(
        "Chip ID                        : 0", "Chip ID                        : 1"
    )
    first, second = parse_block(two)

    assert (first.partition, second.partition) == ("chip 0", "chip 1")
    assert (first.memory_bandwidth_ratio, second.memory_bandwidth_ratio) == (0.44, 0.09)
    assert first.memory_bandwidth_meaning == "of_peak"


def test_a_look_joins_the_table_with_the_blocks_of_the_cards_whose_turn_it_is() -> None:
    way = tool(info=ONE_CHIP, common=COMMON, usages=USAGES, ecc=ECC)

    looks = [way.read()[0] for _ in range(10)]

    assert [one.memory_bandwidth_ratio for one in looks] == [None] * 4 + [0.44] + [None] * 5
    assert looks[4].device_id == "0000:66:00.0"
    assert looks[4].core_clock_hz == 900e6
    assert (looks[4].errors_corrected, looks[4].errors_uncorrected) == (3, 0)
    # What both say is the table's.
    assert (looks[4].power_watts, looks[4].utilization_ratio) == (94.4, 0.07)
    assert looks[4].memory_used_bytes == 3412 * MEBIBYTE


def test_a_block_that_a_tool_lacks_is_left_out() -> None:
    way = tool(info=ONE_CHIP, usages=USAGES)

    assert [way.read()[0].memory_bandwidth_ratio for _ in range(5)][4] == 0.44


def test_the_blocks_alone_are_read_where_the_table_is_not_understood() -> None:
    way = tool(info="| NPU | and something new |", map=MAP, common=COMMON, usages=USAGES)

    (device,) = way.read()

    assert (device.device_id, device.device_index) == ("ascend:4:0", 3)
    assert device.model == "Ascend 910B4"
    assert (device.utilization_ratio, device.power_watts) == (0.6, 130.4)


def test_a_block_does_not_give_a_power_to_chips_that_share_a_card() -> None:
    chips = COMMON.partition("        Chip Name")[0]
    both = chips + "        Chip ID" + chips.partition("Chip ID")[2].replace(": 0\n", ": 1\n", 1)
    way = tool(info=INFO, common=both)

    first, second = [way.read() for _ in range(5)][4]

    assert second.core_clock_hz == 900e6
    assert (first.power_watts, second.power_watts) == (240.1, None)


def test_a_chip_without_its_cards_row_gets_no_other_cards() -> None:
    lines = INFO.splitlines()
    missing = "\n".join(line for line in lines if "Warning" not in line)

    with pytest.raises(ParseError, match="'NPU'"):
        parse_info(missing)


@pytest.mark.parametrize("code", [-8005, -8020])
def test_a_device_of_another_container_is_not_permitted(code: int) -> None:
    refusal = f"dcmi module initialize failed. ret is {code}\n"

    with pytest.raises(NotPermitted, match="davinci"):
        parse_info(refusal)
    with pytest.raises(NotPermitted):
        tool(info=refusal).read()


def test_another_failure_of_the_library_is_not_a_permission() -> None:
    with pytest.raises(ParseError):
        parse_info("dcmi module initialize failed. ret is -9005\n")


def test_a_row_that_does_not_fit_its_header_is_refused() -> None:
    with pytest.raises(ParseError, match="report this version"):
        parse_info(INFO.replace("| 240.1 ", "| 240.1 99"))


def test_garbage_is_a_parse_error() -> None:
    assert_survives(parse_info, INFO)
    assert_survives(parse_block, COMMON + USAGES)
    assert_survives(parse_map, MAP)


def test_a_management_controller_is_no_accelerator(tmp_path: Path) -> None:
    device = tmp_path / "bus/pci/devices/0000:02:00.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x19e5\n")
    (device / "class").write_text("0x030000\n")
    assert not Ascend().is_here(tmp_path)

    (device / "class").write_text("0x120000\n")
    assert Ascend().is_here(tmp_path)


# Captured outputs.


def test_captured_table_of_a_910b1() -> None:
    first, second = parse_info(sample("ascend_npu-smi-info_910b1_24.1.0.txt"))

    assert (first.device_id, first.model) == ("0000:c1:00.0", "910B1")
    assert (first.power_watts, first.temperature_celsius) == (89.1, 32)
    assert (first.memory_used_bytes, first.memory_total_bytes) == (
        3437 * MEBIBYTE,
        65536 * MEBIBYTE,
    )
    assert first.processes == (XpuProcess(pid=641248, memory_used_bytes=113 * MEBIBYTE),)
    assert (second.power_watts, second.processes) == (90.0, ())


def test_captured_table_of_a_910b2c() -> None:
    devices = parse_info(sample("ascend_npu-smi-info_910b2c_25.5.2.txt"))

    assert [one.device_id for one in devices] == ["0000:66:00.0", "0000:19:00.0", "0000:d0:00.0"]
    assert [one.parent for one in devices] == ["ascend:0", "ascend:1", "ascend:15"]
    assert [one.power_watts for one in devices] == [94.4, 96.6, 96.4]
    assert devices[2].memory_used_bytes == 3404 * MEBIBYTE


def test_captured_table_of_a_910c_under_load() -> None:
    devices = parse_info(sample("ascend_npu-smi-info_910c_25.2.3_load.txt"))

    assert [one.utilization_ratio for one in devices] == [0.17] * 4
    assert [one.power_watts for one in devices] == [232.5, None, 226.9, None]
    assert [one.device_index for one in devices] == [0, 1, 2, 3]
    assert [one.memory_used_bytes for one in devices] == [
        used * MEBIBYTE for used in (53444, 52948, 53200, 52940)
    ]
    assert [len(one.processes or ()) for one in devices] == [2, 1, 1, 1]
    assert (devices[3].processes or ())[0] == XpuProcess(
        pid=3333165, memory_used_bytes=50119 * MEBIBYTE
    )


def test_captured_rows_of_a_910b4_of_version_26() -> None:
    rows = sample("ascend_npu-smi-info_910b4_26.0.rc1_ROWS.txt").splitlines()
    chip = CHIP.replace("  Phy-ID", "")

    (device,) = parse_info("\n".join([rows[0], CARD, chip, *rows[1:]]))

    assert (device.model, device.driver_version) == ("910B4", "26.0.rc1")
    assert (device.power_watts, device.temperature_celsius) == (82.6, 32)
    assert (device.memory_used_bytes, device.memory_total_bytes) == (
        2871 * MEBIBYTE,
        32768 * MEBIBYTE,
    )


def test_captured_rows_of_a_310p_that_has_no_hbm() -> None:
    (device,) = parse_info(CARD + "\n" + sample("ascend_npu-smi-info_310p3_25.5.1_ROWS.txt"))

    assert (device.model, device.device_id) == ("310P3", "0000:01:00.0")
    assert (device.memory_used_bytes, device.memory_total_bytes) == (
        1448 * MEBIBYTE,
        44278 * MEBIBYTE,
    )
    assert (device.temperature_celsius, device.utilization_ratio) == (49, 0.0)
    assert device.missing == {"power_watts": "not_supported"}


def test_captured_table_of_the_manual() -> None:
    devices = parse_info(sample("ascend_npu-smi-info_DOC_atlas800_24.1.RC2.txt"))

    assert len(devices) == 8
    assert [one.power_watts for one in devices] == [
        70.5, 71.2, 69.0, 206.9, 70.2, 64.9, 69.4, 203.2,
    ]  # fmt: skip
    assert [len(one.processes or ()) for one in devices] == [4] * 8


def test_captured_blocks_of_a_910b() -> None:
    (usages,) = parse_block(sample("ascend_npu-smi-usages_910b_25.5.1.txt"))
    (power,) = parse_block(sample("ascend_npu-smi-power_910b_25.5.1.txt"))
    (temperature,) = parse_block(sample("ascend_npu-smi-temp_910b_25.5.1.txt"))
    (board,) = parse_block(sample("ascend_npu-smi-board_910b_25.5.1.txt"))

    assert (usages.memory_total_bytes, usages.memory_bandwidth_ratio) == (65536 * MEBIBYTE, 0.0)
    assert (power.power_watts, temperature.temperature_celsius) == (103.5, 39)
    assert (board.pci_address, board.driver_version) == ("0000:c1:00.0", "25.5.1")
