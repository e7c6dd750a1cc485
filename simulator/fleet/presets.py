"""Engines to start from."""

from __future__ import annotations

from simulator.fleet.setting import Cost, Device, Host, Noise, Setting, Tokens, Traffic, Work

A100 = Device(
    vendor="nvidia",
    model="NVIDIA A100-SXM4-80GB",
    tool="nvml",
    memory_bytes=80 * 2**30,
    core_clock_hz=1.41e9,
    idle_clock_hz=1.155e9,
    core_clock_max_hz=1.41e9,
    memory_clock_hz=1.593e9,
    power_limit_watts=400.0,
    idle_watts=65.0,
    pcie_bytes_per_second=31.5e9,
    fabric="nvlink",
    fabric_bytes_per_second=300e9,
)

# Fitted to 11,481 batches of a healthy vLLM 0.10 on one A100, prompts of 128 and 256 tokens, 1 to
# 256 clients, from the artifact of the paper:
#   python -m simulator.fleet.fit --half vllm_normal_batches.csv.gz
# prints Cost and Noise below; the jobs of the other half are what benchmarks/fleet.py
# compares with. Not from the data: the host's share of an iteration (see fit.py), the
# attention of long prompts, adapters, ranks, and the counters of device and host.
#
# No share of outliers: in these data every batch with no prefill that was 10 % off hid a prefill,
# of a request that came as another ended early.
A100_VLLM = Setting(
    framework="vllm",
    version="0.10.0",
    model="simulated-32b",
    cost=Cost(
        decode_ms=(
            (1, 28.49),
            (2, 29.85),
            (4, 30.43),
            (8, 30.86),
            (16, 32.28),
            (24, 35.15),
            (32, 36.21),
            (40, 34.42),
            (56, 34.84),
            (64, 35.78),
            (80, 41.61),
            (96, 41.06),
            (112, 42.72),
            (120, 43.74),
            (128, 43.13),
            (256, 67.62),
        ),
        kv_ms=24.02,
        mixed_tokens_ms=(
            (1, 33.3),
            (32, 33.2),
            (64, 32.9),
            (128, 52.7),
            (192, 56.2),
            (256, 65.3),
            (320, 77.4),
            (384, 81.5),
            (512, 130.1),
            (640, 137.6),
            (1024, 211.4),
            (1536, 285.1),
            (2048, 363.5),
        ),
        mixed_request_ms=0.0714,
        attention_ms=2.0,
        lora_ms=0.6,
        prepare=Work(fixed_us=500.0, request_us=5.0),
        dispatch=Work(fixed_us=250.0),
        sample=Work(fixed_us=150.0, request_us=1.0),
        gap=Work(fixed_us=211.0, request_us=12.23),
    ),
    noise=Noise(
        sigma=0.00245,
        drift_sigma=0.00221,
        correlation=0.7,
        clock_ratio=0.0106,
        clock_seconds=1.2,
        tail_share=0.0599,
        tail_sigma=0.0227,
        mixed_sigma=0.0143,
        gap_spread=0.123,
        engine_sigma=0.0043,
    ),
    device=A100,
    host=Host(cpu_count=128),
    traffic=Traffic(
        requests_per_second=1.5,
        prompt_tokens=Tokens(median=200, spread=0.6, most=1500),
        output_tokens=Tokens(median=220, spread=0.6, most=1000),
        cached_ratio=0.3,
    ),
    max_requests=128,
    kv_blocks=8000,
)

# Sized like the engine replica of `simulator.replica` on two CPUs: the forward pass is work of the
# host, so a fault of the host's CPUs makes all of it longer. Assumed, not fitted: the noise is that
# of a host with nothing else to do, and a replica on a busy one shows ten times as much.
CPU_REPLICA = Setting(
    framework="vllm",
    version="0.32.0",
    model="replica",
    cost=Cost(
        decode_ms=((1, 6.0), (8, 13.0), (32, 45.0)),
        padding_requests=0,
        kv_ms=40.0,
        prefill_ms=60.0,
        attention_ms=4.0,
        schedule=Work(fixed_us=200.0, request_us=8.0),
        prepare=Work(fixed_us=150.0, request_us=5.0),
        dispatch=Work(fixed_us=300.0),
        sample=Work(fixed_us=120.0, request_us=6.0),
        postprocess=Work(fixed_us=250.0, request_us=15.0),
        gap=Work(fixed_us=150.0, request_us=2.0),
    ),
    noise=Noise(
        sigma=0.015,
        drift_sigma=0.01,
        correlation=0.3,
        tail_share=0.08,
        tail_sigma=0.08,
        outlier_share=0.003,
        outlier_ratio=0.15,
        outlier_exponent=1.5,
        outlier_most=3.0,
        mixed_sigma=0.06,
        gap_spread=0.4,
        engine_sigma=0.05,
    ),
    host=Host(cpu_count=4, cpu_frequency_hz=2.8e9, memory_bytes=16 * 2**30, base_load_ratio=0.06),
    traffic=Traffic(
        requests_per_second=3.0,
        prompt_tokens=Tokens(median=120, spread=0.5, most=1000),
        output_tokens=Tokens(median=80, spread=0.5, most=400),
    ),
    worker_apart=True,
    engines_per_host=1,
    max_requests=32,
    token_budget=512,
    kv_blocks=4096,
    cpu_threads=2,
)

# SGLang with overlapped scheduling on four devices of a host: the host's path runs beside the
# device's and shows only where it is the longer one. Coefficients scaled from the A100's by ranks
# and bandwidth; assumed, not fitted.
SGLANG_TP4 = Setting(
    framework="sglang",
    version="0.5.4",
    model="simulated-70b",
    cost=Cost(
        decode_ms=((1, 13.0), (8, 14.0), (16, 15.0), (64, 18.5), (128, 22.0), (256, 33.0)),
        kv_ms=4.0,
        prefill_ms=48.0,
        attention_ms=0.6,
        lora_ms=0.08,
        mixed_ms=1.0,
        schedule=Work(fixed_us=900.0, request_us=12.0),
        prepare=Work(fixed_us=1500.0, request_us=12.0),
        dispatch=Work(fixed_us=1200.0),
        sample=Work(fixed_us=500.0, request_us=4.0),
        postprocess=Work(fixed_us=700.0, request_us=18.0),
        link_ms=1.2,
        link_token_ms=2.5,
        gap=Work(fixed_us=30.0),
    ),
    noise=Noise(
        sigma=0.006,
        drift_sigma=0.006,
        correlation=0.6,
        clock_ratio=0.006,
        clock_seconds=1.5,
        tail_share=0.05,
        tail_sigma=0.025,
        outlier_share=0.001,
        outlier_exponent=1.5,
        outlier_most=1.5,
        mixed_sigma=0.04,
        rank_sigma=0.004,
    ),
    device=A100,
    host=Host(cpu_count=128),
    traffic=Traffic(
        requests_per_second=6.0,
        prompt_tokens=Tokens(median=400, spread=0.8, most=6000),
        output_tokens=Tokens(median=250, spread=0.6, most=1500),
        cached_ratio=0.3,
    ),
    ranks=4,
    rank_role="engine_core",
    engines_per_host=2,
    max_requests=256,
    token_budget=8192,
    kv_blocks=40_000,
    overlap=True,
)

_PRESETS = {"a100_vllm": A100_VLLM, "cpu_replica": CPU_REPLICA, "sglang_tp4": SGLANG_TP4}


def available() -> tuple[str, ...]:
    """List the presets."""
    return tuple(_PRESETS)


def load(name: str) -> Setting:
    """Give a preset by name.

    Raises:
        ValueError: There is none of that name; the text lists those that there are.
    """
    if name not in _PRESETS:
        raise ValueError(f"no preset {name!r}: choose one of {', '.join(_PRESETS)}")
    return _PRESETS[name]
