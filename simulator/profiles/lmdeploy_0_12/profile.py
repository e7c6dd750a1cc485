"""LMDeploy 0.12 to 0.16, PyTorch engine: coroutines in a process of their own."""

from __future__ import annotations

from typing import ClassVar

from simulator.profiles.lmdeploy_0_12.lmdeploy.pytorch.engine.mp_engine.zmq_engine import (
    ZMQMPEngine,
)
from simulator.profiles.machinery.base import Profile
from simulator.profiles.machinery.host import Host

SPAWN = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=9, pipe_handle=19)"
LABELS = '{model_name="tiny",engine="0"}'


class Lmdeploy012(Profile):
    """The API server and an engine that multiprocessing spawned."""

    summary = "LMDeploy 0.12-0.16: coroutines, BaseModelAgent._async_step"
    framework = "lmdeploy"
    root = ("lmdeploy/pytorch/engine/mp_engine/zmq_engine.py", "ZMQMPEngine._mp_proc")
    phases = (("lmdeploy/pytorch/engine/model_agent/agent.py", "model_forward"),)
    metrics: ClassVar[dict[str, str]] = {
        f"lmdeploy:num_requests_running{LABELS}": "running_requests",
        f"lmdeploy:num_requests_waiting{LABELS}": "waiting_requests",
        f"lmdeploy:gpu_cache_usage_perc{LABELS}": "kv_ratio",
        f"lmdeploy:iteration_tokens_total_sum{LABELS}": "tokens",
        f"lmdeploy:iteration_tokens_total_count{LABELS}": "iterations",
        f"lmdeploy:time_per_output_token_seconds_sum{LABELS}": "decode_ns",
        f"lmdeploy:time_per_output_token_seconds_count{LABELS}": "decode_tokens",
        f"lmdeploy:request_success_total{LABELS}": "finished_requests",
    }

    def run(self, host: Host) -> None:
        """Start the engine and become the server."""
        core = ("/opt/py3/bin/python3", "-c", SPAWN, "--multiprocessing-fork")
        host.start(lambda: ZMQMPEngine._mp_proc(host), *core)
        host.become("python3", "/opt/py3/bin/lmdeploy", "serve", "api_server", "tiny")
        host.serve_metrics(self.metrics_path, self.metrics)


PROFILE = Lmdeploy012()
