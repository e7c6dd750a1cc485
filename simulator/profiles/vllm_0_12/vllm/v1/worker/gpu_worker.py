"""The worker of one GPU."""

from __future__ import annotations

from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.vllm.v1.worker.gpu_model_runner import GPUModelRunner


class Worker:
    """Hold the model runner."""

    def __init__(self, host: Host) -> None:
        self.model_runner = GPUModelRunner(host, with_adapters=True)

    def execute_model(self, scheduler_output: Any) -> Any:
        """Forward a batch."""
        output = self.model_runner.execute_model(scheduler_output)
        return output

    def sample_tokens(self, grammar_output: Any) -> Any:
        """Choose its tokens."""
        return self.model_runner.sample_tokens(grammar_output)
