"""The worker of one GPU."""

from __future__ import annotations

from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.vllm_0_33_async.vllm.v1.worker.gpu.model_runner import GPUModelRunner


class Worker:
    """Hold the model runner."""

    def __init__(self, host: Host) -> None:
        self.model_runner = GPUModelRunner(host)

    def execute_model(self, scheduler_output: Any) -> Any:
        """Launch the forward pass."""
        output = self.model_runner.execute_model(scheduler_output)
        return output

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Launch the sampling."""
        return self.model_runner.sample_tokens(grammar_output)
