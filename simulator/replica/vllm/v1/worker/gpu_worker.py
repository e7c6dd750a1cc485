"""The worker holds one model runner and one clock."""

from __future__ import annotations

from simulator.replica.config import ReplicaConfig
from simulator.replica.vllm.v1.core.sched.output import SchedulerOutput
from simulator.replica.vllm.v1.outputs import ModelRunnerOutput
from simulator.replica.vllm.v1.worker.gpu_model_runner import GPUModelRunner


class Worker:
    """The methods that the engine core may call in the worker process."""

    def __init__(self, config: ReplicaConfig) -> None:
        self.model_runner = GPUModelRunner(config)
        self.model_runner.warm_up()

    def execute_model(self, scheduler_output: SchedulerOutput) -> None:
        """Compute the forward pass of a batch."""
        return self.model_runner.execute_model(scheduler_output)

    def sample_tokens(self) -> ModelRunnerOutput:
        """Draw the next tokens of the batch just computed."""
        return self.model_runner.sample_tokens()

    def set_clock_ratio(self, ratio: float) -> float:
        """Slow the model to this fraction of its full speed."""
        self.model_runner.model.clock_ratio = ratio
        return ratio

    def get_clock_ratio(self) -> float:
        """Say at which fraction of its full speed the model runs."""
        return self.model_runner.model.clock_ratio

    def disturb(self, compile_pause_ms: float, delay_ms: float) -> None:
        """Make the forward pass wait; with zeros it is as it was."""
        self.model_runner.disturb(compile_pause_ms=compile_pause_ms, delay_ms=delay_ms)
