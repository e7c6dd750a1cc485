"""The reader of public captures, and what is said of them."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from benchmarks.explain import calibration
from benchmarks.explain.__main__ import main
from benchmarks.explain.calibration import Answer, fit
from benchmarks.explain.captures import CaptureError, find_pairs, read_capture
from benchmarks.explain.doubles import MATERIAL, pairs_of
from benchmarks.explain.pairs import INJECTED, injected, judge_all
from models.causes.confidence import TABLE
from schemas.causes import CAUSES
from simulator import faults
from simulator.fleet import presets

GB = 10**9
USUAL: dict[str, list[float]] = {
    "host_cpu_usage": [6.0],
    "cpu_frequency": [3500.0, 3499.0, 3501.0],
    # Another tenant's, one that nobody uses, and the engine's own.
    "gpu_mem_used": [79 * GB, 1 * GB, 74 * GB],
    "gpu_usage": [60.0, 0.0, 50.0],
    "gpu_sm_frequency": [1410.0, 210.0, 1410.0],
    "process_gpu_mem_usage_4711": [73 * GB],
    # In an order of their own.
    "gpu_sm_util": [0.0, 0.5, 0.7],
    "gpu_pcie_transmit": [9e9, 1e6, 2e6],
    "gpu_link_transmit": [0.0, 0.0, 4e7],
    "gpu_link_receive": [0.0, 0.0, 5e7],
}


def write(
    folder: Path, changes: dict[str, list[float]] | None = None, *, zipped: bool = False
) -> None:
    folder.mkdir(parents=True)
    lines = ["counter_name,timestamp,value,hostname"]
    for second in range(6):
        for name, values in (USUAL | (changes or {})).items():
            for number, value in enumerate(values):
                microseconds = (1_700_000_000 + second) * 1e6 + 30_000 + number
                lines.append(f"{name},{microseconds:f},{value:f},")
    text = "\n".join(lines) + "\n"
    if zipped:
        with gzip.open(folder / "counters.csv.gz", "wt") as file:
            file.write(text)
    else:
        (folder / "counters.csv").write_text(text)


@pytest.mark.parametrize("zipped", [False, True])
def test_the_engines_own_device_is_found_by_its_memory(tmp_path: Path, zipped: bool) -> None:
    write(tmp_path / "normal", zipped=zipped)
    ticks = read_capture(tmp_path / "normal")
    assert len(ticks) == 6
    host, [xpu] = ticks[0].host, ticks[0].xpus
    assert (host.others_cpu_ratio, host.cpu_frequency_hz) == (0.06, 3.5e9)
    assert (xpu.core_clock_hz, xpu.utilization_ratio) == (1.41e9, 0.5)
    assert xpu.memory_used_bytes == 74 * GB
    assert xpu.others_memory_used_bytes == 0
    # Links of devices in use only, the busier way.
    assert xpu.pcie_sent_bytes_per_second == 2e6
    assert xpu.fabric_sent_bytes_per_second == 5e7


@pytest.mark.parametrize(
    ("name", "changes", "cause"),
    [
        ("cpu_compute_squeeze_out", {"host_cpu_usage": [56.0]}, "host_cpu_contention"),
        ("cpu_frequency_reduction", {"cpu_frequency": [900.0]}, "host_cpu_frequency"),
        ("gpu_instability", {"gpu_sm_frequency": [1410.0, 210.0, 210.0]}, "accelerator_clock"),
        ("gpu_NVLink", {"gpu_link_receive": [0.0, 0.0, 2e11]}, "fabric_contention"),
        ("gpu_PCIe", {"gpu_pcie_transmit": [9e9, 1e6, 7e9]}, "pcie_contention"),
        # The other tenant's clock is no business of ours.
        ("another", {"gpu_sm_frequency": [210.0, 1410.0, 1410.0]}, "unknown"),
    ],
)
def test_each_injected_fault_is_named_and_halves_without_one_accuse_nobody(
    tmp_path: Path, name: str, changes: dict[str, list[float]], cause: str
) -> None:
    write(tmp_path / "some" / name / "normal")
    write(tmp_path / "some" / name / "abnormal", changes)
    judged = list(judge_all(tmp_path))
    assert [one.found.cause for one in judged] == [cause, "unknown", "unknown"]
    assert judged[0].framework == "some"
    assert main(["--data", str(tmp_path), "--only", "pairs"]) == (injected(name) is None)


def test_a_file_that_is_no_capture_is_refused_with_what_to_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(tmp_path / "one" / "normal")
    (tmp_path / "one" / "abnormal").mkdir()
    assert find_pairs(tmp_path) == []
    assert main(["--data", str(tmp_path), "--only", "pairs"]) == 1
    assert "no pair of normal and abnormal" in capsys.readouterr().out
    (tmp_path / "one" / "abnormal" / "counters.csv").write_text("name,value\na,b\n")
    with pytest.raises(CaptureError, match="columns counter_name, timestamp and value"):
        read_capture(tmp_path / "one" / "abnormal")
    with pytest.raises(CaptureError, match="give a folder"):
        read_capture(tmp_path)


def test_without_captures_it_says_so_and_is_content(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--data", str(tmp_path / "none"), "--only", "pairs"]) == 0
    assert "skipped" in capsys.readouterr().out


def test_what_is_injected_is_a_published_cause() -> None:
    assert set(INJECTED.values()) <= CAUSES.keys()


def test_doubles_are_of_faults_with_different_right_answers() -> None:
    assert MATERIAL.keys() == set(presets.available())
    for preset, names in MATERIAL.items():
        assert set(names) <= set(faults.available())
        assert len(pairs_of(preset)) >= 20


def test_confidence_is_the_share_that_was_right_and_never_falls_with_the_margin() -> None:
    answers = [
        *[Answer("counter", 0.9, right=True)] * 40,
        *[Answer("counter", 0.75, right=False)] * 10,
        *[Answer("counter", 0.55, right=True)] * 10,
        *[Answer("phase", 0.9, right=False)] * 10,
    ]
    table, counts = fit(answers)
    assert counts[("counter", 3)] == [40, 40]
    assert table["counter"][3] > 0.9
    assert list(table["counter"]) == sorted(table["counter"])
    assert table["phase"][3] < 0.3
    assert table.keys() == TABLE.keys()
    assert calibration.LEAN > 0
