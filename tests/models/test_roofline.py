from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path
from statistics import fmean

import pytest

from models.roofline import (
    ACCELERATORS,
    MOST_DEVICES,
    MOST_KV_TOKENS,
    SURE_TIMES,
    SUSPICIOUS_TIMES,
    accelerator_of,
    model_size,
    roofline_of,
)
from schemas.records import NormCell
from simulator.datasets import read_dataset
from simulator.fleet import presets

A100 = "NVIDIA A100-SXM4-80GB"
FOLDER = Path(
    os.environ.get(
        "LATENCYPRISM_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"
    )
)
# What the recorded engines served, on one A100 each. The vLLM's is not sure, so the test takes all
# that it may have been.
RECORDED = (
    ("vllm_normal_batches.csv.gz", "Qwen3-32B"),
    ("vllm_normal_batches.csv.gz", "DeepSeek-R1-Distill-Llama-70B"),
    ("vllm_normal_batches.csv.gz", "Llama-3.1-8B"),
    ("sglang_abnormal_batches.csv.gz", "Qwen3-32B"),
)


def cell(
    milliseconds: float,
    *,
    requests: int = 8,
    context_tokens: int | None = 500,
    prefill_tokens: int = 0,
    visits: int = 20,
) -> NormCell:
    return NormCell(
        requests=requests,
        context_tokens=context_tokens,
        prefill_tokens=prefill_tokens,
        visits=visits,
        duration_ns=int(milliseconds * 1e6),
    )


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("meta-llama/Llama-3.1-70B-Instruct", (70e9, 2.0)),
        ("/models/Qwen2.5-0.5B", (0.5e9, 2.0)),
        ("qwen3-32b", (32e9, 2.0)),
        ("neuralmagic/Meta-Llama-3.1-8B-Instruct-FP8", (8e9, 1.0)),
        ("RedHatAI/Llama-3.3-70B-Instruct-quantized.w8a8", (70e9, 1.0)),
        ("Qwen2.5-72B-Instruct-AWQ", (72e9, 0.5)),
        ("TheBloke/Llama-2-13B-GPTQ", (13e9, 0.5)),
        ("nvidia/Llama-3.1-405B-Instruct-NVFP4", (405e9, 0.5)),
        ("models--Qwen--Qwen3-32B/snapshots/9216db5781bf21249d130ec9da846c4624c16137", (32e9, 2.0)),
    ],
)
def test_a_name_tells_parameters_and_bytes(name: str, size: tuple[float, float]) -> None:
    assert model_size(name) == size


@pytest.mark.parametrize(
    "name",
    [
        None,
        "",
        "my-model",
        "gpt2",
        "mistralai/Mixtral-8x7B-Instruct-v0.1",
        "Qwen/Qwen3-30B-A3B",
        "meta-llama/Llama-4-Scout-17B-16E-Instruct",
        "Qwen1.5-MoE-A2.7B",
        "openai/gpt-oss-20b",
        "Llama-3.1-8B-Instruct-Q4_K_M.gguf",
        "unsloth/llama-3-8b-bnb-4bit",
        "Llama-70B-draft-1B",
        "model-v7b2",
    ],
)
def test_a_name_that_does_not_tell_is_no_prior(name: str | None) -> None:
    assert model_size(name) is None


@pytest.mark.parametrize(
    ("name", "gigabytes_per_second"),
    [
        ("NVIDIA A100-SXM4-40GB", 1555),
        ("NVIDIA A100-PCIE-40GB", 1555),
        (A100, 2039),
        ("NVIDIA A100 80GB PCIe", 1935),
        ("NVIDIA H100 80GB HBM3", 3350),
        ("NVIDIA H100 PCIe", 2039),
        ("NVIDIA H100 NVL", 3938),
        ("NVIDIA H200", 4800),
        ("NVIDIA L4", 300),
        ("NVIDIA L40S", 864),
        ("Tesla V100-SXM3-32GB", 900),
        ("Tesla T4", 320),
        ("AMD Instinct MI300X", 5300),
        ("Instinct MI210", 1638),
        ("HL-225", 2450),
        ("TPU v6e chip", 1640),
    ],
)
def test_a_device_is_found_by_its_vendors_name(name: str, gigabytes_per_second: float) -> None:
    found = accelerator_of(name)
    assert found is not None
    assert found.bytes_per_second == gigabytes_per_second * 1e9


@pytest.mark.parametrize("name", ["", "NVIDIA A100", "NVIDIA GeForce RTX 2080 SUPER", "910B2"])
def test_a_device_that_is_not_known_has_no_data_sheet(name: str) -> None:
    assert accelerator_of(name) is None


def test_no_row_of_the_table_hides_behind_another() -> None:
    for row in ACCELERATORS:
        assert accelerator_of(" ".join(sorted(row.words))) is row


def test_a_decode_batch_reads_all_weights_and_its_context() -> None:
    roofline = roofline_of("Qwen2.5-7B", (A100,))
    assert roofline is not None
    alone = roofline.least_ms(requests=1, context_tokens=0, prefill_tokens=0)
    assert alone == pytest.approx(14e9 / 2039e9 * 1e3)
    more = roofline.least_ms(requests=64, context_tokens=2000, prefill_tokens=0)
    assert more == pytest.approx(alone + 7e9 * 5e-6 * 64 * 2000 / 2039e9 * 1e3)


def test_prefill_is_bound_by_arithmetic() -> None:
    roofline = roofline_of("Qwen2.5-7B", (A100,))
    assert roofline is not None
    took = roofline.least_ms(requests=0, context_tokens=0, prefill_tokens=8192)
    assert took == pytest.approx(2 * 7e9 * 8192 / 312e12 * 1e3)


def test_devices_share_the_work_up_to_what_may_be_a_pipeline() -> None:
    took = []
    for devices in (1, 2, MOST_DEVICES, 8):
        roofline = roofline_of("Llama-70B", (A100,) * devices)
        assert roofline is not None
        took.append(roofline.least_ms(requests=1, context_tokens=0, prefill_tokens=0))
    assert took[0] == 2 * took[1] == MOST_DEVICES * took[2] == MOST_DEVICES * took[3]


@pytest.mark.parametrize(
    "devices", [(), ("NVIDIA H200", A100), ("NVIDIA H200", ""), ("unheard of",)]
)
def test_without_one_known_kind_of_device_there_is_no_prior(devices: tuple[str, ...]) -> None:
    assert roofline_of("Qwen2.5-7B", devices) is None


def test_the_best_cell_counts() -> None:
    roofline = roofline_of("Qwen2.5-7B", (A100,))
    assert roofline is not None
    one, other = roofline.times([cell(100.0)]), roofline.times([cell(200.0)])
    assert one is not None
    assert other is not None
    assert roofline.times([cell(200.0), cell(100.0)]) == one < other


@pytest.mark.parametrize(
    "useless",
    [
        cell(1e4, visits=9),
        cell(1e4, prefill_tokens=128),
        cell(1e4, context_tokens=None),
        cell(1e4, requests=64, context_tokens=MOST_KV_TOKENS // 64 + 1),
    ],
    ids=["hardly seen", "prefill", "context unknown", "much context"],
)
def test_cells_whose_bound_means_little_are_left_out(useless: NormCell) -> None:
    roofline = roofline_of("Qwen2.5-7B", (A100,))
    assert roofline is not None
    assert roofline.times([useless]) is None


@pytest.mark.parametrize(
    ("model", "devices", "milliseconds"),
    [
        ("Qwen2.5-0.5B", ("NVIDIA H100 80GB HBM3",), 12.0),
        ("Llama-3.1-8B", ("NVIDIA L4",), 75.0),
        ("Llama-3.1-8B", ("NVIDIA H100 80GB HBM3",), 25.0),
        ("Llama-3.1-70B", ("NVIDIA H100 80GB HBM3",) * 8, 16.0),
        # A pipeline of eight: each batch reads all weights, one device at a time.
        ("Llama-3.1-70B", ("NVIDIA A100-SXM4-80GB",) * 8, 1.5 * 140e9 / 2039e6),
        ("Llama-2-7B", (A100,), 3 * (14e9 + 25_000 * 524_288) / 2039e6),
    ],
    ids=["tiny", "small", "eager", "eight ranks", "pipeline", "large cache"],
)
def test_healthy_engines_of_all_sorts_are_no_suspects(
    model: str, devices: tuple[str, ...], milliseconds: float
) -> None:
    roofline = roofline_of(model, devices)
    assert roofline is not None
    times = roofline.times([cell(milliseconds)])
    assert times is not None
    assert times < (SURE_TIMES if len(devices) == 8 else SUSPICIOUS_TIMES)


def test_an_engine_at_a_fraction_of_its_clock_is_found() -> None:
    roofline = roofline_of("Llama-3.1-8B", (A100,))
    assert roofline is not None
    times = roofline.times([cell(11.0 * 15)])
    assert times is not None
    assert times > SURE_TIMES


@pytest.mark.parametrize("name", presets.available())
def test_no_simulated_preset_is_a_suspect(name: str) -> None:
    setting = presets.load(name)
    devices = (setting.device.model,) * setting.ranks if setting.device is not None else ()
    roofline = roofline_of(setting.model, devices)
    if setting.device is None:
        assert roofline is None
        return
    assert roofline is not None
    for requests, milliseconds in setting.cost.decode_ms:
        times = roofline.times([cell(milliseconds, requests=requests, context_tokens=64)])
        assert times is not None
        assert times < 2


@pytest.mark.parametrize(("file", "model"), RECORDED)
def test_no_recorded_engine_is_a_suspect(file: str, model: str) -> None:
    path = FOLDER / file
    if not path.is_file():
        pytest.skip(
            f"no {file}: it is not published with the project; set LATENCYPRISM_SHARED_DATA"
        )
    durations: dict[tuple[int, int], list[float]] = defaultdict(list)
    for one in read_dataset(path).samples:
        workload = one.workload
        if not workload.prefill_tokens and workload.requests and workload.kv_tokens:
            context = workload.kv_tokens // workload.requests // 64 * 64
            durations[workload.requests, context].append(one.duration_ms)
    cells = [
        cell(fmean(found), requests=requests, context_tokens=context, visits=len(found))
        for (requests, context), found in durations.items()
    ]
    roofline = roofline_of(model, (A100,))
    assert roofline is not None
    times = roofline.times(cells)
    assert times is not None
    assert times < SUSPICIOUS_TIMES
