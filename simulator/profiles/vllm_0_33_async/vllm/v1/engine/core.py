"""A step of vLLM 0.33: launch a batch, then take the results of the one before it."""

from __future__ import annotations

from collections import deque
from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.vllm.v1.engine import core
from simulator.profiles.vllm_0_33_async.vllm.v1.executor.uniproc_executor import UniProcExecutor


class EngineCore(core.EngineCore):
    """Schedule and launch, then sample and update an older batch."""

    batch_queue_size = 2
    num_spec_tokens = 3

    def step_fn(self) -> tuple[Any, bool]:
        """Call the overlapped step."""
        return self.step_with_batch_queue()

    def step_with_batch_queue(self) -> tuple[Any, bool]:
        """Run one iteration; without results while the queue is not full."""
        batch_queue = self.batch_queue
        assert len(batch_queue) < self.batch_queue_size
        model_executed = False
        if self.scheduler.has_requests():
            scheduler_output = self.scheduler.schedule()
            exec_future = self.model_executor.execute_model(scheduler_output, non_block=True)
            model_executed = scheduler_output.total_num_scheduled_tokens > 0
            if model_executed:
                grammar_output = self.scheduler.get_grammar_bitmask(scheduler_output)
                future = self.model_executor.sample_tokens(grammar_output, non_block=True)
            else:
                future = exec_future
            batch_queue.appendleft((future, scheduler_output, exec_future))
            if len(batch_queue) < self.batch_queue_size:
                return None, model_executed
        elif not batch_queue:
            return None, False
        future, scheduler_output, exec_model_fut = batch_queue.pop()
        model_output = future.result()
        if model_output is None:
            exec_model_fut.result()
        engine_core_outputs = self.scheduler.update_from_output(scheduler_output, model_output)
        self.end_of(scheduler_output)
        return engine_core_outputs, model_executed


class EngineCoreProc(EngineCore, core.EngineCoreProc):
    """The engine core's process."""

    @staticmethod
    def run_engine_core(host: Host) -> None:
        """Live as the engine core."""
        engine_core = EngineCoreProc(host, UniProcExecutor(host))
        engine_core.batch_queue = deque(maxlen=engine_core.batch_queue_size)
        engine_core.run_busy_loop()
