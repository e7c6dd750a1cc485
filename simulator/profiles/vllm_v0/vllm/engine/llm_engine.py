"""The V0 engine."""

from __future__ import annotations

import time
from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.settings import add_settings
from simulator.profiles.vllm_v0.vllm.core.scheduler import Scheduler, SchedulerOutputs
from simulator.profiles.vllm_v0.vllm.executor.gpu_executor import GPUExecutor


class LLMEngine:
    """Schedule, execute, process."""

    def __init__(self, host: Host) -> None:
        add_settings(self)
        self._truth = host.recorder()
        self._steps = 0
        self.scheduler = [Scheduler()]
        self.model_executor = GPUExecutor(host)

    def has_unfinished_requests(self) -> bool:
        """Say whether a request waits or runs."""
        return self.scheduler[0].has_unfinished_seqs()

    def step(self) -> int:
        """Run one iteration; the number of requests that it finished."""
        begin_ns = time.monotonic_ns()
        seq_group_metadata_list, scheduler_outputs, _ = self.scheduler[0].schedule()
        plan = scheduler_outputs.plan
        self._steps += 1
        plan.sequence, plan.begin_ns = self._steps, begin_ns
        self._truth.begun.append(plan)
        execute_model_req = ExecuteModelRequest(seq_group_metadata_list, scheduler_outputs)
        outputs = self.model_executor.execute_model(execute_model_req=execute_model_req)
        finished = self._process_model_outputs(scheduler_outputs, outputs)
        self._get_stats(scheduler_outputs)
        plan.end_ns = time.monotonic_ns()
        return finished

    def _process_model_outputs(self, scheduler_outputs: SchedulerOutputs, outputs: Any) -> int:
        del outputs
        return self.scheduler[0].batcher.finish(scheduler_outputs.plan)

    def _get_stats(self, scheduler_outputs: SchedulerOutputs) -> tuple[int, int]:
        num_running_sys = len(self.scheduler[0].batcher.running)
        num_waiting_sys = len(self.scheduler[0].waiting)
        num_prompt_tokens_iter = scheduler_outputs.num_batched_tokens
        return num_running_sys + num_waiting_sys, num_prompt_tokens_iter


class ExecuteModelRequest:
    """One batch on its way to the worker."""

    def __init__(
        self, seq_group_metadata_list: list[Any], scheduler_outputs: SchedulerOutputs
    ) -> None:
        self.seq_group_metadata_list = seq_group_metadata_list
        self.running_queue_size = scheduler_outputs.running_queue_size
        self.num_lookahead_slots = 0
        plan = scheduler_outputs.plan
        self.num_prefills = plan.prefill_requests
        self.num_prefill_tokens = plan.prefill_tokens
        self.num_decode_tokens = plan.decode_requests
        self.seq_lens = [request.num_computed_tokens for request, _ in plan.entries]
