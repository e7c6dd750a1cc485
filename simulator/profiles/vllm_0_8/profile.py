"""vLLM 0.8 and 0.9, V1 engine: no step counter, titles of multiprocessing, one process for all."""

from __future__ import annotations

from simulator.profiles.machinery.base import Profile
from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.vllm.metrics import V1_0_8
from simulator.profiles.vllm_0_8.vllm.v1.engine.core import EngineCoreProc

SPAWN = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=31, pipe_handle=41)"


class Vllm08(Profile):
    """The API server and an engine core that multiprocessing spawned."""

    summary = "vLLM 0.8-0.9 (V1): pointer of finished_req_ids, spawn_main title"
    framework = "vllm"
    root = ("vllm/v1/engine/core.py", "EngineCoreProc.run_busy_loop")
    phases = (("vllm/v1/worker/gpu_model_runner.py", "GPUModelRunner.execute_model"),)
    metrics = V1_0_8

    def run(self, host: Host) -> None:
        """Start the core and become the API server."""
        core = ("/usr/bin/python3", "-c", SPAWN, "--multiprocessing-fork")
        host.start(lambda: EngineCoreProc.run_engine_core(host), *core)
        host.become("/usr/bin/python3", "/usr/local/bin/vllm", "serve", "tiny")
        host.serve_metrics(self.metrics_path, self.metrics)


PROFILE = Vllm08()
