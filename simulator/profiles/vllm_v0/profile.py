"""vLLM 0.6 to 0.10, V0 engine: one loop over LLMEngine.step, one GPU in its process."""

from __future__ import annotations

from simulator.profiles.machinery.base import Profile
from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.vllm.metrics import V0
from simulator.profiles.vllm_v0.vllm.engine.multiprocessing.engine import run_mp_engine

SPAWN = "from multiprocessing.spawn import spawn_main; spawn_main(tracker_fd=14, pipe_handle=22)"


class VllmV0(Profile):
    """The API server and an engine that multiprocessing spawned."""

    summary = "vLLM 0.6-0.10 (V0): MQLLMEngine, start_time of the worker's execute_model"
    framework = "vllm"
    root = ("vllm/engine/multiprocessing/engine.py", "MQLLMEngine.run_engine_loop")
    phases = (("vllm/worker/model_runner.py", "ModelRunner.execute_model"),)
    metrics = V0

    def run(self, host: Host) -> None:
        """Start the engine and become the API server."""
        core = ("/usr/bin/python3", "-c", SPAWN, "--multiprocessing-fork")
        host.start(lambda: run_mp_engine(host), *core)
        host.become("python3", "-m", "vllm.entrypoints.openai.api_server", "--model", "tiny")
        host.serve_metrics(self.metrics_path, self.metrics)


PROFILE = VllmV0()
