"""vLLM 0.12 to 0.22: forward and sampling are two calls; one GPU, synchronous steps."""

from __future__ import annotations

from simulator.profiles.machinery.base import Profile
from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.vllm.metrics import V1
from simulator.profiles.vllm_0_12.vllm.v1.engine.core import EngineCoreProc


class Vllm012(Profile):
    """The API server and an engine core."""

    summary = (
        "vLLM 0.12-0.22: execute_model and sample_tokens, adapters, pointer of finished_req_ids"
    )
    framework = "vllm"
    root = ("vllm/v1/engine/core.py", "EngineCoreProc.run_busy_loop")
    phases = (
        ("vllm/v1/worker/gpu_model_runner.py", "GPUModelRunner._model_forward"),
        ("vllm/v1/worker/gpu_model_runner.py", "GPUModelRunner.sample_tokens"),
    )
    metrics = V1

    def run(self, host: Host) -> None:
        """Start the core and become the API server."""
        host.start(lambda: EngineCoreProc.run_engine_core(host), "VLLM::EngineCore")
        host.become("/usr/bin/python3", "/usr/local/bin/vllm", "serve", "tiny")
        host.serve_metrics(self.metrics_path, self.metrics)


PROFILE = Vllm012()
