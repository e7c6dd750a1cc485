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

# Fitted to 26,682 batches of a healthy vLLM 0.10 on one A100, prompts of 128 and 256 tokens, 1 to
# 256 clients, from the artifact of the paper:
#   python -m simulator.fleet.fit vllm_normal_batches.csv.gz
# prints Cost and Noise below. Not from the data: the host's share of an iteration (see fit.py), the
# attention of long prompts, adapters, ranks, and the counters of device and host.
A100_VLLM = Setting(
    framework="vllm",
    version="0.10.0",
    model="simulated-32b",
    cost=Cost(
        decode_ms=(
            (1, 28.49),
            (2, 29.82),
            (4, 30.4),
            (8, 30.87),
            (16, 32.36),
            (24, 35.27),
            (32, 36.14),
            (40, 34.56),
            (56, 35.04),
            (64, 35.79),
            (72, 40.69),
            (80, 41.05),
            (96, 41.26),
            (104, 41.96),
            (112, 42.63),
            (120, 43.28),
            (128, 43.61),
            (256, 67.61),
        ),
        kv_ms=23.82,
        prefill_ms=167.3,
        mixed_ms=4.39,
        attention_ms=2.0,
        lora_ms=0.15,
        prepare=Work(fixed_us=500.0, request_us=5.0),
        dispatch=Work(fixed_us=250.0),
        sample=Work(fixed_us=150.0, request_us=1.0),
        gap=Work(fixed_us=228.5, request_us=11.91),
    ),
    noise=Noise(
        sigma=0.00236,
        drift_sigma=0.00366,
        correlation=0.7,
        clock_ratio=0.01012,
        clock_seconds=1.4,
        tail_share=0.0667,
        tail_sigma=0.0209,
        outlier_share=0.00106,
        outlier_ratio=0.1,
        outlier_exponent=0.59,
        outlier_most=1.05,
        mixed_sigma=0.0366,
        gap_spread=0.135,
        engine_sigma=0.0074,
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
