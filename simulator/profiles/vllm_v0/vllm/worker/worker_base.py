"""The worker: `start_time` is a new float in each call."""

from __future__ import annotations

import time
from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.vllm_v0.vllm.worker.model_runner import ModelInput, ModelRunner


class LocalOrDistributedWorkerBase:
    """Prepare the input and run the model."""

    model_runner: ModelRunner

    def execute_model(self, execute_model_req: Any = None) -> Any:
        """Run a batch."""
        start_time = time.perf_counter()
        inputs = self.prepare_input(execute_model_req)
        model_input, num_steps = inputs
        output = self.model_runner.execute_model(model_input, num_steps)
        model_execute_time = time.perf_counter() - start_time
        assert model_execute_time >= 0
        return output

    def prepare_input(self, execute_model_req: Any) -> tuple[ModelInput, int]:
        """Make the input of the model runner."""
        return self.model_runner.prepare_model_input(execute_model_req), 1


class Worker(LocalOrDistributedWorkerBase):
    """The worker of one GPU."""

    def __init__(self, host: Host) -> None:
        self.model_runner = ModelRunner(host)
