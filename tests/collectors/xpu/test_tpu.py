"""`tpu-info`: tables of which the numbers of chips and of device files need not agree."""

from __future__ import annotations

from pathlib import Path

import pytest

from collectors.xpu import tpu
from collectors.xpu.base import ParseError
from collectors.xpu.tpu import Tpu, TpuInfo, parse_tables
from schemas.records import XpuProcess
from tests.collectors.xpu.captured import assert_survives, sample

MEMORY = """\
TPU HBM Usage

| Device | HBM Usage (GiB)       |
|--------|-----------------------|
| 4      | 29.50 GiB / 31.25 GiB |
| 5      | N/A                   |
"""
DUTY = """\
TPU Duty Cycle

| Core ID | Duty Cycle (%) |
|---------|----------------|
| 4       | 62.50%         |
| 5       | N/A            |
"""
OWNERS = """\
TPU Process Info

| Chip        | PID    | Process Name |
|-------------|--------|--------------|
| /dev/vfio/4 | 4242   | python3      |
| /dev/vfio/5 | N/A    | N/A          |
"""


def test_the_tables_are_joined_by_the_devices_numbers() -> None:
    busy, idle = parse_tables(MEMORY + DUTY + OWNERS)

    assert (busy.device_id, busy.device_index) == ("tpu:4", 4)
    assert (busy.utilization_ratio, busy.utilization_meaning) == (0.625, "duty_cycle")
    assert busy.memory_used_bytes == round(29.5 * 1024**3)
    assert busy.memory_total_bytes == round(31.25 * 1024**3)
    assert busy.processes == (XpuProcess(pid=4242),)
    assert busy.missing == {}
    assert idle.missing == {
        "utilization_ratio": "no_workload",
        "memory_used_bytes": "no_workload",
        "memory_total_bytes": "no_workload",
    }
    assert idle.processes == ()


def test_the_tables_order_does_not_matter() -> None:
    assert parse_tables(OWNERS + DUTY + MEMORY) == parse_tables(MEMORY + DUTY + OWNERS)


def test_device_files_of_other_numbers_place_only_a_process_that_has_them_all() -> None:
    shifted = OWNERS.replace("vfio/4", "vfio/0").replace("vfio/5", "vfio/1")

    assert [one.processes for one in parse_tables(MEMORY + shifted)] == [None, None]

    alone = shifted.replace("N/A    | N/A ", "4242   | python3")
    owner = (XpuProcess(pid=4242),)
    assert [one.processes for one in parse_tables(MEMORY + alone)] == [owner, owner]


def test_a_chip_of_two_devices_has_one_duty_cycle() -> None:
    first, second = parse_tables(MEMORY + DUTY.replace("| 4  ", "| 2  ").replace("| 5  ", "| 9  "))
    assert first.utilization_ratio is second.utilization_ratio is None

    one_chip = DUTY.replace("| 4  ", "| 2  ").replace("| 5       | N/A            |\n", "")
    first, second = parse_tables(MEMORY + one_chip)
    assert first.utilization_ratio == second.utilization_ratio == 0.625


def test_both_commands_are_read_together(monkeypatch: pytest.MonkeyPatch) -> None:
    def run(arguments: tuple[str, ...]) -> str:
        return OWNERS if "--process" in arguments else MEMORY + DUTY

    monkeypatch.setattr(tpu, "run", run)

    assert TpuInfo().read() == parse_tables(MEMORY + DUTY + OWNERS)


def test_garbage_is_a_parse_error() -> None:
    assert_survives(parse_tables, MEMORY + DUTY + OWNERS)
    with pytest.raises(ParseError, match="HBM Usage"):
        parse_tables("╭─ WARNING ─╮\n│ Libtpu metrics unavailable. │\n")


@pytest.mark.parametrize(("pci_class", "here"), [("0xff0000", True), ("0x020000", False)])
def test_googles_network_cards_are_no_accelerators(
    tmp_path: Path, pci_class: str, here: bool
) -> None:
    device = tmp_path / "bus/pci/devices/0000:00:05.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x1ae0\n")
    (device / "class").write_text(f"{pci_class}\n")

    assert Tpu().is_here(tmp_path) is here


def test_the_vendor_says_why_it_is_not_proven() -> None:
    assert "gRPC" in (Tpu.experimental or "")


# Tables of the tool's own documentation.


def test_documented_metrics_of_a_v6e() -> None:
    devices = parse_tables(sample("tpu_tpu-info_v6e_metric.txt"))

    assert [one.device_index for one in devices] == list(range(8))
    assert {one.utilization_ratio for one in devices} == {1.0}
    assert devices[0].memory_used_bytes == round(29.5 * 1024**3)
    assert devices[7].memory_used_bytes == round(21.5 * 1024**3)


def test_documented_page_of_a_v6e() -> None:
    devices = parse_tables(sample("tpu_tpu-info_v6e_static.txt"))

    assert [one.memory_used_bytes for one in devices] == [
        round(used * 1024**3) for used in (18.45, 10.40, 10.40, 10.40)
    ]
    assert {one.model for one in devices} == {"TPU v6e chip"}
    assert {one.processes for one in devices} == {(XpuProcess(pid=1469584),)}


def test_documented_stream_has_other_numbers_than_device_files() -> None:
    devices = parse_tables(sample("tpu_tpu-info_v6e_streaming.txt"))

    assert [one.device_index for one in devices] == [8, 9, 12, 13]
    assert devices[0].memory_used_bytes == round(17.26 * 1024**3)
    assert {one.processes for one in devices} == {(XpuProcess(pid=1022),)}


def test_documented_processes() -> None:
    devices = parse_tables(sample("tpu_tpu-info_process.txt"))

    assert len(devices) == 8
    assert {one.processes for one in devices} == {(XpuProcess(pid=799657),)}


def test_documented_list_of_metrics_is_no_reading() -> None:
    with pytest.raises(ParseError):
        parse_tables(sample("tpu_tpu-info_list-metrics.txt"))
