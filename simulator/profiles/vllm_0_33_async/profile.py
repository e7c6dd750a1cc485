"""vLLM 0.33 as it comes: overlapped scheduling, model runner V2, one GPU in the core's process."""

from __future__ import annotations

from simulator.profiles.machinery.base import Profile
from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.vllm.metrics import V1
from simulator.profiles.vllm_0_33_async.vllm.v1.engine.core import EngineCoreProc


class Vllm033Async(Profile):
    """The API server and an engine core that keeps two batches in flight."""

    summary = "vLLM 0.25-0.33: step_with_batch_queue, current_step, model runner V2, drafts"
    framework = "vllm"
    root = ("vllm/v1/engine/core.py", "EngineCoreProc.run_busy_loop")
    phases = (("vllm/v1/executor/uniproc_executor.py", "AsyncOutputFuture.result"),)
    metrics = V1

    def run(self, host: Host) -> None:
        """Start the core and become the API server."""
        host.start(lambda: EngineCoreProc.run_engine_core(host), "VLLM::EngineCore")
        host.become("/usr/bin/python3", "/usr/local/bin/vllm", "serve", "tiny")
        host.serve_metrics(self.metrics_path, self.metrics)


PROFILE = Vllm033Async()
