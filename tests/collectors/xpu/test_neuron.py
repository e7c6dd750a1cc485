"""AWS Neuron: a stream that names cores only, and a list that says whose they are."""

from __future__ import annotations

import json
import stat
from pathlib import Path
from typing import Any

import pytest

from collectors.xpu.base import ParseError, XpuError
from collectors.xpu.neuron import Neuron, NeuronTools, parse_list, parse_monitor
from schemas.records import XpuProcess
from tests.collectors.xpu.captured import assert_survives, sample

GIBIBYTE = 1024**3


def listed(index: int, *pids: int, **more: Any) -> dict[str, Any]:
    return {
        "neuron_device": index,
        "bdf": f"0000:e{index}:00.0",
        "nc_count": 2,
        "memory_size": 96 * GIBIBYTE,
        "neuron_processes": [
            {"pid": pid, "command": "", "neuron_runtime_version": "2"} for pid in pids
        ],
        **more,
    }


def runtime(pid: int, **cores: float) -> dict[str, Any]:
    in_use = {core.removeprefix("core"): busy for core, busy in cores.items()}
    parts = {"constants": 100, "model_code": 20, "tensors": 3}
    return {
        "pid": pid,
        "report": {
            "neuroncore_counters": {
                "neuroncores_in_use": {
                    core: {"neuroncore_utilization": busy} for core, busy in in_use.items()
                }
            },
            "memory_used": {
                "neuron_runtime_used_bytes": {
                    "neuron_device": 123,
                    "usage_breakdown": {"neuroncore_memory_usage": dict.fromkeys(in_use, parts)},
                }
            },
        },
    }


def report(*runtimes: dict[str, Any]) -> dict[str, Any]:
    counts = {"mem_ecc_corrected": 2, "sram_ecc_corrected": 1, "mem_ecc_uncorrected": 0}
    return {
        "neuron_runtime_data": list(runtimes),
        "system_data": {
            "neuron_hw_counters": {"neuron_devices": [{"neuron_device_index": 1, **counts}]}
        },
        "neuron_hardware_info": {"neuron_device_count": 2, "neuroncore_per_device_count": 2},
    }


def test_a_device_is_the_mean_of_its_cores() -> None:
    listing = json.dumps([listed(0), listed(1, 42)])

    idle, busy = parse_monitor(json.dumps(report(runtime(42, core2=80.0, core3=40.0))), listing)

    assert (busy.device_id, busy.device_index) == ("0000:e1:00.0", 1)
    assert busy.utilization_ratio == pytest.approx(0.6)
    assert busy.utilization_meaning == "core_mean"
    assert (busy.memory_used_bytes, busy.memory_total_bytes) == (246, 96 * GIBIBYTE)
    (process,) = busy.processes or ()
    assert (process.pid, process.memory_used_bytes) == (42, 246)
    assert process.utilization_ratio == pytest.approx(0.6)
    assert (busy.errors_corrected, busy.errors_uncorrected) == (3, 0)
    assert idle.missing["errors_corrected"] == "not_supported"


def test_the_lists_own_numbers_of_cores_count() -> None:
    listing = json.dumps([listed(0, 42, neuroncore_ids=[2, 3]), listed(1, neuroncore_ids=[0, 1])])

    first, second = parse_monitor(json.dumps(report(runtime(42, core3=50.0))), listing)

    assert first.utilization_ratio == 0.25
    assert second.utilization_ratio == 0.0


def test_two_runtimes_on_one_device_add_up() -> None:
    listing = json.dumps([listed(0, 1, 2)])

    (device,) = parse_monitor(
        json.dumps(report(runtime(1, core0=50.0), runtime(2, core1=30.0))), listing
    )

    assert device.utilization_ratio == pytest.approx(0.4)
    assert [one.utilization_ratio for one in device.processes or ()] == [0.25, 0.15]


def test_idle_is_zero_only_where_the_list_shows_nobody() -> None:
    listing = json.dumps([listed(0), listed(1, 42)])

    nobody, silent = parse_monitor(json.dumps(report()), listing)

    assert (nobody.utilization_ratio, nobody.memory_used_bytes) == (0.0, 0)
    assert silent.utilization_ratio is None
    assert silent.missing["utilization_ratio"] == "no_workload"
    assert silent.processes == (XpuProcess(pid=42),)


def test_without_a_list_nobody_knows_that_a_device_is_idle() -> None:
    first, second = parse_monitor(json.dumps(report(runtime(42, core0=50.0))))

    assert first.utilization_ratio == 0.25
    assert second.missing["utilization_ratio"] == "no_workload"


def test_the_list_alone_has_totals_and_processes() -> None:
    (device,) = parse_list(json.dumps({"neuron_devices": [listed(3, 7, bdf="cc:00.0")]}))

    assert (device.device_id, device.device_index) == ("0000:cc:00.0", 3)
    assert device.memory_total_bytes == 96 * GIBIBYTE
    assert device.processes == (XpuProcess(pid=7),)


def test_errors_say_what_was_expected() -> None:
    with pytest.raises(ParseError, match="neuron_runtime_data"):
        parse_monitor("{}")
    with pytest.raises(ParseError, match="driver"):
        parse_list("[]")


def test_garbage_is_a_parse_error() -> None:
    document = json.dumps(report(runtime(42, core0=50.0)))
    listing = json.dumps([listed(0, 42)])

    assert_survives(parse_monitor, document)
    assert_survives(parse_list, listing)
    assert_survives(lambda text: parse_monitor(document, text), listing)


def write_tool(path: Path, *lines: str) -> None:
    path.write_text("\n".join(["#!/bin/sh", *lines]) + "\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def test_the_monitor_runs_on_and_its_newest_line_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list").write_text(json.dumps([listed(0, 42)]))
    first, second = (json.dumps(report(runtime(42, core0=busy))) for busy in (20.0, 60.0))
    (tmp_path / "lines").write_text(f"{first}\n{second}\n")
    write_tool(tmp_path / "neuron-ls", f"cat {tmp_path}/list")
    write_tool(
        tmp_path / "neuron-monitor",
        f"cat {tmp_path}/lines",
        f"cp $2 {tmp_path}/config",
        "exec sleep 60",
    )
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    way = NeuronTools()
    try:
        assert way.why_not() is None
        (device,) = way.read()
        monitor = way.monitor
    finally:
        way.close()

    assert device.utilization_ratio == 0.3
    assert monitor is not None
    assert monitor.returncode is not None
    assert way.monitor is None


def test_a_monitor_that_ends_is_an_error_and_starts_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "list").write_text(json.dumps([listed(0)]))
    write_tool(tmp_path / "neuron-ls", f"cat {tmp_path}/list")
    write_tool(tmp_path / "neuron-monitor", "exit 3")
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    way = NeuronTools()

    for _ in range(2):
        with pytest.raises(XpuError, match="status 3"):
            way.read()

    assert way.config is None


@pytest.mark.parametrize(
    ("pci_class", "here"), [("0x088000", True), ("0x020000", False), ("0x030000", False)]
)
def test_amazons_network_and_console_are_no_accelerators(
    tmp_path: Path, pci_class: str, here: bool
) -> None:
    device = tmp_path / "bus/pci/devices/0000:00:1e.0"
    device.mkdir(parents=True)
    (device / "vendor").write_text("0x1d0f\n")
    (device / "class").write_text(f"{pci_class}\n")

    assert Neuron().is_here(tmp_path) is here


# Captured outputs.


def test_captured_report_of_a_trn1() -> None:
    text = sample("neuron_neuron-monitor_trn1_ABRIDGED.json")

    (device,) = parse_monitor(text)

    assert device.device_id == "neuron:0"
    assert device.utilization_ratio == pytest.approx(0.013631567613356375 / 2)
    # The parts of both cores add up to what the report calls the device's memory.
    assert device.memory_used_bytes == 102298328
    assert [one.pid for one in device.processes or ()] == [1337]
    assert (device.errors_corrected, device.errors_uncorrected) == (0, 0)
