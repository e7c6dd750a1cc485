"""TensorRT-LLM 1.x, PyTorch backend: a thread of an MPI worker overlaps batches."""

from __future__ import annotations

from typing import ClassVar

from simulator.profiles.machinery.base import Profile
from simulator.profiles.machinery.host import Host
from simulator.profiles.tensorrt_llm_1.tensorrt_llm._torch.pyexecutor.py_executor import (
    run_worker,
)

LABELS = '{model_name="tiny",engine_type="pytorch"}'


class TensorrtLlm1(Profile):
    """The server and one worker."""

    summary = "TensorRT-LLM 1.x: PyExecutor._executor_loop_overlap in a thread, iter_counter"
    framework = "tensorrt_llm"
    root = ("tensorrt_llm/_torch/pyexecutor/py_executor.py", "PyExecutor._executor_loop_overlap")
    phases = (("tensorrt_llm/_torch/pyexecutor/py_executor.py", "PyExecutor._update_requests"),)
    metrics_path = "/prometheus/metrics"
    metrics: ClassVar[dict[str, str]] = {
        f"trtllm_num_requests_running{LABELS}": "running_requests",
        f"trtllm_num_requests_waiting{LABELS}": "waiting_requests",
        f"trtllm_kv_cache_utilization{LABELS}": "kv_ratio",
        f"trtllm_iteration_latency_seconds_sum{LABELS}": "busy_ns",
        f"trtllm_iteration_latency_seconds_count{LABELS}": "iterations",
        f"trtllm_time_per_output_token_seconds_sum{LABELS}": "decode_ns",
        f"trtllm_time_per_output_token_seconds_count{LABELS}": "decode_tokens",
        f"trtllm_prompt_tokens_total{LABELS}": "prompt_tokens",
        f"trtllm_generation_tokens_total{LABELS}": "generated_tokens",
        f"trtllm_request_success_total{LABELS}": "finished_requests",
    }

    def run(self, host: Host) -> None:
        """Start the worker and become the server."""
        host.start(lambda: run_worker(host), "/usr/bin/python3", "-m", "mpi4py.futures.server")
        host.become("/usr/bin/python3", "/usr/local/bin/trtllm-serve", "tiny")
        host.serve_metrics(self.metrics_path, self.metrics)


PROFILE = TensorrtLlm1()
