"""The processes of SGLang, and the names on its /metrics page."""

from __future__ import annotations

from collections.abc import Callable

from simulator.profiles.machinery.base import Profile
from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.sglang.srt.managers.detokenizer_manager import (
    run_detokenizer_process,
)
from simulator.profiles.machinery.sglang.srt.managers.scheduler import Channel

LABELS = '{model_name="tiny",engine_type="unified",tp_rank="0",pp_rank="0"}'
METRICS = {
    f"sglang:num_running_reqs{LABELS}": "running_requests",
    f"sglang:num_queue_reqs{LABELS}": "waiting_requests",
    f"sglang:token_usage{LABELS}": "kv_ratio",
    'sglang:prompt_tokens_total{model_name="tiny"}': "prompt_tokens",
    'sglang:generation_tokens_total{model_name="tiny"}': "generated_tokens",
    'sglang:inter_token_latency_seconds_sum{model_name="tiny"}': "decode_ns",
    'sglang:inter_token_latency_seconds_count{model_name="tiny"}': "decode_tokens",
    'sglang:num_requests_total{model_name="tiny"}': "finished_requests",
}


class SglangProfile(Profile):
    """The server, the detokenizer, and a scheduler process per rank."""

    framework = "sglang"
    metrics = METRICS

    def run(self, host: Host) -> None:
        """Start the ranks and the detokenizer and become the server."""
        ranks = len(self.processes)
        channels = [Channel() for _ in range(ranks - 1)]
        for rank in range(ranks):
            suffix = f"_TP{rank}" if ranks > 1 else ""
            host.start(self.scheduler(host, rank, channels), f"sglang::scheduler{suffix}")
        host.start(run_detokenizer_process, "sglang::detokenizer")
        tensor_parallel = ("--tp", str(ranks))
        host.become(
            "python3", "-m", "sglang.launch_server", "--model-path", "tiny", *tensor_parallel
        )
        host.serve_metrics(self.metrics_path, self.metrics)

    def scheduler(self, host: Host, rank: int, channels: list[Channel]) -> Callable[[], None]:
        """Give the function that lives as one rank."""
        raise NotImplementedError
