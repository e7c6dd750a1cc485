"""A step of vLLM 0.12: launch, wait, sample."""

from __future__ import annotations

from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.vllm.v1.engine import core
from simulator.profiles.vllm_0_12.vllm.v1.executor.uniproc_executor import UniProcExecutor


class EngineCore(core.EngineCore):
    """Schedule, execute, sample, update."""

    def step(self) -> tuple[Any, bool]:
        """Run one iteration."""
        if not self.scheduler.has_requests():
            return None, False
        scheduler_output = self.scheduler.schedule()
        future = self.model_executor.execute_model(scheduler_output, non_block=True)
        grammar_output = self.scheduler.get_grammar_bitmask(scheduler_output)
        model_output = future.result()
        if model_output is None:
            model_output = self.model_executor.sample_tokens(grammar_output)
        engine_core_outputs = self.scheduler.update_from_output(scheduler_output, model_output)
        self.end_of(scheduler_output)
        return engine_core_outputs, scheduler_output.total_num_scheduled_tokens > 0


class EngineCoreProc(EngineCore, core.EngineCoreProc):
    """The engine core's process."""

    @staticmethod
    def run_engine_core(host: Host) -> None:
        """Live as the engine core."""
        engine_core = EngineCoreProc(host, UniProcExecutor(host), with_current_step=False)
        engine_core.run_busy_loop()
