"""NVIDIA: the library against a stand-in of its module, the command against captured output.

No GPU was at hand: `fake_nvml` mimics nvidia-ml-py's names and structures, and a script mimics
``nvidia-smi``; the captured outputs lie beside the repository and are skipped where they do not.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from collectors.xpu._nvidia_smi import (
    NvidiaSmi,
    parse_compute_apps,
    parse_query_gpu,
    parse_query_xml,
)
from collectors.xpu._nvml import Nvml, throttle_reasons
from collectors.xpu.base import SLOW_LOOKS, NotPermitted, ParseError, XpuError
from collectors.xpu.nvidia import Nvidia
from schemas.records import XpuDevice
from tests.collectors.xpu import fake_nvml
from tests.collectors.xpu.fake_nvml import GIB

SAMPLES = Path(
    os.environ.get(
        "LATENCYPRISM_XPU_SAMPLES",
        Path(__file__).resolve().parents[4] / "shared/research/xpu-samples",
    )
)


def sample(name: str) -> str:
    path = SAMPLES / name
    if not path.is_file():
        pytest.skip(
            f"no {name}: it is not published with the project; set LATENCYPRISM_XPU_SAMPLES"
        )
    return path.read_text()


def look(library: fake_nvml.Nvml, looks: int = 1) -> list[XpuDevice]:
    way = Nvml(lambda: library)
    for _ in range(looks):
        devices = way.read()
    return devices


# NVML


def test_nvml_tells_everything_in_our_units() -> None:
    [device] = look(fake_nvml.Nvml())
    assert device == XpuDevice(
        device_id="GPU-00000000-0000",
        vendor="nvidia",
        device_index=0,
        model="NVIDIA H200",
        pci_address="0000:83:00.0",
        driver_version="590.48.01",
        tool="nvml",
        utilization_ratio=1.0,
        utilization_meaning="busy_time",
        memory_total_bytes=140 * GIB,
        memory_used_bytes=31 * GIB,
        memory_reserved_bytes=GIB // 2,
        memory_bandwidth_ratio=0.07,
        memory_bandwidth_meaning="busy_time",
        core_clock_hz=1.98e9,
        core_clock_max_hz=1.98e9,
        memory_clock_hz=3.201e9,
        memory_clock_max_hz=3.201e9,
        power_watts=625.24,
        power_window="instant",
        power_limit_watts=700.0,
        energy_joules=7000.5,
        temperature_celsius=52.0,
        memory_temperature_celsius=41.0,
        pcie_received_bytes_per_second=8.691e6,
        pcie_sent_bytes_per_second=4.217e6,
        pcie_generation=5,
        pcie_width=16,
        pcie_capacity_bytes_per_second=32e9 / 8 * 128 / 130 * 16,
        fabric="nvlink",
        fabric_links=17,
        fabric_capacity_bytes_per_second=17 * 26_562e6,
        throttle_reasons=("sw_power_cap",),
        throttled_seconds={"sw_power_cap": 5.0, "thermal": 0.0},
        errors_corrected=3,
        errors_uncorrected=0,
        processes=device.processes,
        missing={
            "fabric_received_bytes_per_second": "not_supported",
            "fabric_sent_bytes_per_second": "not_supported",
        },
    )
    assert device.processes is not None
    assert [(one.pid, one.memory_used_bytes) for one in device.processes] == [
        (100, 28 * GIB),
        (900, None),
    ]


def test_handles_are_kept_and_slow_values_are_asked_in_one_look_of_ten() -> None:
    library = fake_nvml.Nvml(gpus=2)
    way = Nvml(lambda: library)
    for _ in range(SLOW_LOOKS + 1):
        devices = way.read()
    assert library.asked["HandleByIndex"] == 2
    assert library.asked["UtilizationRates"] == 2 * (SLOW_LOOKS + 1)
    assert library.asked["ComputeRunningProcesses"] == 2 * 2
    assert library.asked["PcieThroughput"] == 2 * 2 * 2
    assert [device.device_id for device in devices] == ["GPU-00000000-0000", "GPU-00000001-0000"]
    assert all(device.errors_corrected == 3 for device in devices)


def test_nvlinks_traffic_is_the_growth_of_its_count() -> None:
    library = fake_nvml.Nvml()
    way = Nvml(lambda: library)
    way.read()
    library.fields[139, 0xFFFFFFFF] = 1_000_000
    [device] = way.read()
    assert device.fabric_received_bytes_per_second is not None
    assert device.fabric_received_bytes_per_second > 0
    assert device.fabric_sent_bytes_per_second == 0
    library.fields[139, 0xFFFFFFFF] = 5
    [device] = way.read()
    assert device.fabric_received_bytes_per_second is None
    assert device.missing["fabric_received_bytes_per_second"] == "not_supported"


@pytest.mark.parametrize(
    ("function", "error", "field", "why"),
    [
        (
            "UtilizationRates",
            fake_nvml.NVML_ERROR_NOT_SUPPORTED,
            "utilization_ratio",
            "not_supported",
        ),
        ("MemoryInfo", fake_nvml.NVML_ERROR_NOT_SUPPORTED, "memory_used_bytes", "not_supported"),
        ("TotalEccErrors", fake_nvml.NVML_ERROR_NOT_SUPPORTED, "errors_corrected", "not_supported"),
        (
            "ComputeRunningProcesses",
            fake_nvml.NVML_ERROR_NO_PERMISSION,
            "processes",
            "not_permitted",
        ),
        ("PcieThroughput", fake_nvml.NVML_ERROR_TIMEOUT, "pcie_sent_bytes_per_second", "timeout"),
        ("Temperature", fake_nvml.NVML_ERROR_GPU_IS_LOST, "temperature_celsius", "suspect"),
        ("ClockInfo", fake_nvml.NVML_ERROR_FUNCTION_NOT_FOUND, "core_clock_hz", "not_supported"),
    ],
)
def test_what_nvml_refuses_has_a_reason_and_no_value(
    function: str, error: int, field: str, why: str
) -> None:
    [device] = look(fake_nvml.Nvml(**{function: error}))
    assert getattr(device, field) is None
    assert device.missing[field] == why


def test_an_older_driver_is_asked_in_its_own_words() -> None:
    def memory(_: Any, version: int | None = None) -> Any:
        if version is not None:
            raise fake_nvml.NVMLError(fake_nvml.NVML_ERROR_FUNCTION_NOT_FOUND)
        return SimpleNamespace(total=16 * GIB, used=2 * GIB)

    library = fake_nvml.Nvml(
        MemoryInfo=memory,
        CurrentClocksEventReasons=fake_nvml.NVML_ERROR_FUNCTION_NOT_FOUND,
        CurrentClocksThrottleReasons=lambda _: 0x40,
    )
    library.fields[186] = None
    [device] = look(library)
    assert (device.memory_used_bytes, device.memory_reserved_bytes) == (2 * GIB, None)
    assert device.throttle_reasons == ("hw_thermal",)
    assert (device.power_watts, device.power_window) == (627.32, "unknown")
    assert not {"memory_used_bytes", "throttle_reasons", "power_watts"} & set(device.missing)


def test_a_gpu_in_parts_hides_its_load_and_shows_its_parts() -> None:
    parts = {0: 1000, 2: 1002}

    def part(_: Any, index: int) -> int:
        if index not in parts:
            raise fake_nvml.NVMLError(fake_nvml.NVML_ERROR_NOT_FOUND)
        return parts[index]

    library = fake_nvml.Nvml(
        UtilizationRates=fake_nvml.NVML_ERROR_NOT_SUPPORTED,
        MigMode=lambda _: [1, 1],
        MaxMigDeviceCount=lambda _: 7,
        MigDeviceHandleByIndex=part,
        UUID=lambda handle: f"MIG-{handle}" if handle >= 1000 else f"GPU-{handle:08d}-0000",
        Name=lambda handle: "NVIDIA H100 MIG 3g.40gb" if handle >= 1000 else "NVIDIA H100",
        GpuInstanceId=lambda handle: handle - 998,
        ComputeInstanceId=lambda _: 0,
        MemoryInfo=lambda handle, **_: SimpleNamespace(
            total=(handle + 1) * GIB, used=GIB, reserved=0
        ),
    )
    whole, *instances = look(library)
    assert whole.utilization_ratio is None
    assert whole.missing["utilization_ratio"] == "partition_hides"
    assert whole.missing["memory_bandwidth_ratio"] == "partition_hides"
    assert whole.power_watts is not None
    assert [(one.device_id, one.parent, one.partition, one.model) for one in instances] == [
        ("MIG-1000", "GPU-00000000-0000", "3g.40gb", "NVIDIA H100"),
        ("MIG-1002", "GPU-00000000-0000", "3g.40gb", "NVIDIA H100"),
    ]
    assert instances[0].memory_total_bytes == 1001 * GIB
    assert instances[0].processes is not None
    assert instances[0].missing["utilization_ratio"] == "partition_hides"


def test_after_the_driver_was_reloaded_nvml_is_opened_anew() -> None:
    library = fake_nvml.Nvml()
    way = Nvml(lambda: library)
    way.read()
    library.answers["UtilizationRates"] = fake_nvml.NVML_ERROR_UNINITIALIZED
    with pytest.raises(XpuError, match="nvidia-smi"):
        way.read()
    assert library.open == 0
    library.answers["UtilizationRates"] = lambda _: SimpleNamespace(gpu=1, memory=1)
    assert way.read()[0].errors_corrected == 3
    way.close()
    way.close()
    assert library.open == 0


def test_a_gpu_that_fell_off_the_bus_keeps_no_other_from_being_read() -> None:
    library = fake_nvml.Nvml(gpus=3)
    found = library.nvmlDeviceGetHandleByIndex

    def find(index: int) -> int:
        if index in lost:
            raise fake_nvml.NVMLError(fake_nvml.NVML_ERROR_GPU_IS_LOST)
        return found(index)

    library.nvmlDeviceGetHandleByIndex = find  # type: ignore[method-assign]
    lost = {1}
    assert [device.device_index for device in look(library)] == [0, 2]
    lost = {0, 1, 2}
    with pytest.raises(XpuError, match="error 15"):
        look(library)


def test_without_permission_the_text_says_what_to_do() -> None:
    library = fake_nvml.Nvml()

    def refuse() -> int:
        raise fake_nvml.NVMLError(fake_nvml.NVML_ERROR_NO_PERMISSION)

    library.nvmlDeviceGetCount = refuse  # type: ignore[method-assign]
    with pytest.raises(NotPermitted, match="run the agent as root"):
        look(library)


def test_without_the_package_it_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    assert "latencyprism[nvidia]" in (Nvml().why_not() or "")


def test_the_stand_in_has_the_names_and_numbers_of_the_real_module() -> None:
    pynvml = pytest.importorskip("pynvml", reason="no nvidia-ml-py: pip install nvidia-ml-py")
    for name, value in fake_nvml.NAMES.items():
        assert getattr(pynvml, name) == value, name
    for name in fake_nvml.Nvml().answers:
        assert hasattr(pynvml, f"nvmlDeviceGet{name}")


# nvidia-smi


def test_a_loaded_h200_is_read() -> None:
    [device] = parse_query_gpu(sample("nvidia_h200_query-gpu_load.csv"))
    assert (device.model, device.pci_address) == ("NVIDIA H200", "0000:83:00.0")
    assert (device.utilization_ratio, device.memory_bandwidth_ratio) == (1.0, 0.07)
    assert (device.power_watts, device.power_window, device.power_limit_watts) == (
        626.26,
        "instant",
        700.0,
    )
    assert device.memory_total_bytes == 143_771 * 1024**2
    assert (device.core_clock_hz, device.throttle_reasons) == (1.98e9, ())


def test_an_idle_clock_is_no_throttling() -> None:
    [device] = parse_query_gpu(sample("nvidia_h200_query-gpu_idle.csv"))
    assert (device.core_clock_hz, device.core_clock_max_hz) == (345e6, 1.98e9)
    assert device.throttle_reasons == ()
    assert device.utilization_ratio == 0.0


def test_every_spelling_of_no_value_is_a_reason() -> None:
    [device] = parse_query_gpu(sample("nvidia_rtx2080s_query-gpu_load_drv610.csv"))
    assert device.memory_temperature_celsius is None
    assert device.errors_corrected is None
    assert device.missing["errors_corrected"] == "not_supported"
    assert device.missing["memory_temperature_celsius"] == "not_supported"
    assert device.utilization_ratio == 0.08


def test_units_may_stand_in_the_header_only_and_columns_may_be_few() -> None:
    devices = parse_query_gpu(sample("nvidia_v100_query-gpu_noUnits.csv"))
    assert len(devices) == 16
    assert (devices[1].utilization_ratio, devices[1].power_watts) == (0.98, 383.55)
    assert devices[1].power_window == "unknown"
    assert devices[1].memory_total_bytes is None


def test_the_commands_view_of_a_gpu_in_parts() -> None:
    [device] = parse_query_gpu(sample("nvidia_h100mig_query-gpu_load.csv"))
    assert device.missing["utilization_ratio"] == "partition_hides"
    assert (device.power_watts, device.temperature_celsius) == (447.35, 53.0)


def test_processes_are_listed_by_gpu() -> None:
    [device] = parse_compute_apps(sample("nvidia_h200_query-compute-apps_load.csv"))
    assert device.processes is not None
    assert [(one.pid, one.memory_used_bytes) for one in device.processes] == [
        (10291, 2566 * 1024**2),
        (10293, 1542 * 1024**2),
        (10309, 28234 * 1024**2),
    ]


def test_the_xml_adds_pcie_traffic_and_the_parts() -> None:
    whole, part = parse_query_xml(sample("nvidia_a100mig_q-x_v12_ABRIDGED.xml"))
    assert (whole.pcie_received_bytes_per_second, whole.pcie_sent_bytes_per_second) == (0.0, 4e6)
    assert part.parent == whole.device_id
    assert part.device_id == f"MIG-{whole.device_id}/3/0"
    assert part.memory_total_bytes == 19_968 * 1024**2
    assert part.missing["utilization_ratio"] == "partition_hides"


def test_another_vendors_tool_under_this_name_is_refused() -> None:
    text = "index, uuid, pci.device_id\n0, GPU-1, 0x60001DED\n"
    with pytest.raises(ParseError, match="0x1DED"):
        parse_query_gpu(text)


def test_bits_beyond_those_known_are_other() -> None:
    assert throttle_reasons(0x1) == ()
    assert throttle_reasons(0x2 | 0x100) == ("user_clock", "other")
    assert throttle_reasons(0xFE) == (
        "user_clock",
        "sw_power_cap",
        "hw_slowdown",
        "sync_boost",
        "sw_thermal",
        "hw_thermal",
        "power_brake",
    )


# Prints what is asked for, column by column, for two GPUs, as often as it is let; counts its
# starts. It does not know one column, as an old driver.
SCRIPT = """#!{python}
import sys, time
values = {{
    "count": "2", "index": "{{0}}", "uuid": "GPU-0000000{{0}}",
    "pci.bus_id": "00000000:0{{0}}:00.0",
    "pci.device_id": "0x233510DE", "name": "Fake", "driver_version": "470.1",
    "utilization.gpu": "5{{0}} %", "memory.total": "1024 MiB", "memory.used": "10{{0}} MiB",
    "clocks_throttle_reasons.active": "0x0000000000000004", "power.draw": "100.5 W",
}}
open({starts!r}, "a").write(sys.argv[1].partition("=")[0] + "\\n")
if sys.argv[1] == "-q":
    print("<nvidia_smi_log><gpu id='00000000:00:00.0'><uuid>GPU-00000000</uuid>"
          "<pci><rx_util>5 KB/s</rx_util><tx_util>N/A</tx_util></pci></gpu></nvidia_smi_log>")
elif sys.argv[1].startswith("--query-compute-apps"):
    print("gpu_uuid, gpu_bus_id, pid, used_gpu_memory [MiB]")
    print("GPU-00000001, 00000000:01:00.0, 77, 12 MiB")
else:
    columns = sys.argv[1].partition("=")[2].split(",")
    for column in columns:
        if column in {unknown!r}:
            sys.exit(f'Field "{{column}}" is not a valid field to query.')
    print(", ".join(f"{{column}} [MiB]" if "memory." in column else column for column in columns))
    while True:
        for gpu in range(2):
            row = [values.get(column, "[N/A]").format(gpu) for column in columns]
            print(", ".join(row), flush=True)
        time.sleep(int(sys.argv[sys.argv.index("-lms") + 1]) / 1000)
"""


@pytest.fixture
def smi(tmp_path: Path) -> Iterator[NvidiaSmi]:
    program = tmp_path / "nvidia-smi"
    unknown = ["power.draw.instant", "clocks_event_reasons.active", "memory.reserved"]
    program.write_text(
        SCRIPT.format(python=sys.executable, starts=str(tmp_path / "starts"), unknown=unknown)
    )
    program.chmod(0o755)
    way = NvidiaSmi(str(program))
    way.period_seconds = 0.02
    yield way
    way.close()


@pytest.mark.process
def test_one_command_is_read_again_and_again(smi: NvidiaSmi, tmp_path: Path) -> None:
    for _ in range(SLOW_LOOKS):
        devices = smi.read()
    assert [(one.device_id, one.utilization_ratio) for one in devices] == [
        ("GPU-00000000", 0.50),
        ("GPU-00000001", 0.51),
    ]
    assert all(one.age_ns is not None for one in devices)
    starts = (tmp_path / "starts").read_text().split()
    # Three times a column was refused; the slow commands ran once in ten looks.
    assert starts.count("--query-gpu") == 4
    assert (starts.count("--query-compute-apps"), starts.count("-q")) == (1, 1)


@pytest.mark.process
def test_columns_that_the_driver_does_not_know_are_left_out(smi: NvidiaSmi) -> None:
    first, second = smi.read()
    assert (first.power_watts, first.power_window) == (100.5, "unknown")
    assert first.throttle_reasons == ("sw_power_cap",)
    assert first.memory_reserved_bytes is None
    assert first.missing["memory_reserved_bytes"] == "not_supported"
    assert (first.processes, len(second.processes or ())) == ((), 1)
    assert first.pcie_received_bytes_per_second == 5000.0
    assert first.pcie_sent_bytes_per_second is None


@pytest.mark.process
def test_a_command_that_ends_is_started_again_at_the_next_look(smi: NvidiaSmi) -> None:
    smi.read()
    process = smi._stream._process
    assert process is not None
    process.kill()
    process.wait()
    # What it printed before may still be there.
    ends = False
    for _ in range(3):
        try:
            smi.read()
        except XpuError as err:
            ends = "run it by hand" in str(err)
            break
    assert ends
    assert len(smi.read()) == 2


def test_a_device_file_is_known_by_its_minor_number(tmp_path: Path) -> None:
    for address, minor in (("0000:83:00.0", 1), ("0000:84:00.0", 0)):
        folder = tmp_path / "driver/nvidia/gpus" / address
        folder.mkdir(parents=True)
        (folder / "information").write_text(f"Model: \t X\nDevice Minor: \t {minor}\n")
    files = ["/dev/nvidia0", "/dev/nvidiactl", "/dev/nvidia-uvm", "/dev/null"]
    assert Nvidia().device_files(files, tmp_path, tmp_path) == {"0000:84:00.0"}
