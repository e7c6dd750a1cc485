"""Names on vLLM's /metrics page."""

from __future__ import annotations

_LABELS = '{model_name="tiny",engine="0"}'

V1 = {
    f"vllm:num_requests_running{_LABELS}": "running_requests",
    f"vllm:num_requests_waiting{_LABELS}": "waiting_requests",
    f"vllm:kv_cache_usage_perc{_LABELS}": "kv_ratio",
    f"vllm:iteration_tokens_total_sum{_LABELS}": "tokens",
    f"vllm:iteration_tokens_total_count{_LABELS}": "iterations",
    f"vllm:prompt_tokens_total{_LABELS}": "prompt_tokens",
    f"vllm:generation_tokens_total{_LABELS}": "generated_tokens",
    f"vllm:inter_token_latency_seconds_sum{_LABELS}": "decode_ns",
    f"vllm:inter_token_latency_seconds_count{_LABELS}": "decode_tokens",
    'vllm:request_success_total{model_name="tiny",engine="0",finished_reason="length"}': (
        "finished_requests"
    ),
}
"""From 0.12 on."""

V1_0_8 = {
    name.replace("kv_cache_usage_perc", "gpu_cache_usage_perc")
    .replace("inter_token_latency", "time_per_output_token")
    .replace(',engine="0"', ""): key
    for name, key in V1.items()
}
"""0.8 to 0.9."""

V0 = V1_0_8
"""The V0 engine had the same names for what is counted here."""
