"""vLLM 0.29 to 0.33 with two GPUs: an engine core and a worker process per rank."""

from __future__ import annotations

from simulator.profiles.machinery.base import Profile
from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.vllm.metrics import V1
from simulator.profiles.vllm_workers.vllm.v1.engine.core import EngineCoreProc


class VllmWorkers(Profile):
    """The API server, an engine core and its two workers."""

    summary = "vLLM 0.29-0.33, tensor parallel size 2: core and two worker processes"
    framework = "vllm"
    processes = ("core", "rank1", "rank2")
    root = ("vllm/v1/engine/core.py", "EngineCoreProc.run_busy_loop")
    phases = (("vllm/v1/executor/multiproc_executor.py", "FutureWrapper.result"),)
    metrics = V1

    def run(self, host: Host) -> None:
        """Start the core, which starts the workers, and become the API server."""
        host.start(lambda: EngineCoreProc.run_engine_core(host), "VLLM::EngineCore")
        tensor_parallel = ("--tensor-parallel-size", "2")
        host.become("/usr/bin/python3", "/usr/local/bin/vllm", "serve", "tiny", *tensor_parallel)
        host.serve_metrics(self.metrics_path, self.metrics)


PROFILE = VllmWorkers()
