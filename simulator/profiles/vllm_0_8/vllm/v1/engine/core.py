"""A step of vLLM 0.8: the executor answers with the tokens at once."""

from __future__ import annotations

from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.vllm.v1.engine import core
from simulator.profiles.vllm_0_8.vllm.executor.uniproc_executor import UniProcExecutor


class EngineCore(core.EngineCore):
    """Schedule, execute, update."""

    def step(self) -> tuple[Any, bool]:
        """Run one iteration."""
        if not self.scheduler.has_requests():
            return None, False
        scheduler_output = self.scheduler.schedule()
        output = self.model_executor.execute_model(scheduler_output)
        engine_core_outputs = self.scheduler.update_from_output(scheduler_output, output)
        self.end_of(scheduler_output)
        return engine_core_outputs, scheduler_output.total_num_scheduled_tokens > 0


class EngineCoreProc(EngineCore, core.EngineCoreProc):
    """The engine core's process."""

    @staticmethod
    def run_engine_core(host: Host) -> None:
        """Live as the engine core."""
        executor = UniProcExecutor(host)
        engine_core = EngineCoreProc(host, executor, with_current_step=False)
        engine_core.run_busy_loop()
