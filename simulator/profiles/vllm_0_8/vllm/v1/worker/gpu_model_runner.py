"""The model runner of vLLM 0.8: one function forwards and samples."""

from __future__ import annotations

from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.vllm_0_8.vllm.v1.sample.sampler import Sampler


class GPUModelRunner:
    """Run batches on the pretended device."""

    def __init__(self, host: Host) -> None:
        self.model = host.stream()
        self.sampler = Sampler()

    def execute_model(self, scheduler_output: Any) -> list[str]:
        """Forward and sample."""
        self._update_states(scheduler_output)
        max_num_scheduled_tokens = self._prepare_inputs(scheduler_output)
        num_scheduled_tokens = scheduler_output.total_num_scheduled_tokens
        num_input_tokens = -(-num_scheduled_tokens // 8) * 8
        prefill_tokens = num_input_tokens if max_num_scheduled_tokens > 1 else 0
        self.model.launch(prefill_tokens).synchronize()
        self.sampler.forward(num_scheduled_tokens)
        return list(scheduler_output.num_scheduled_tokens)

    def _update_states(self, scheduler_output: Any) -> None:
        self.finished = scheduler_output.finished_req_ids

    def _prepare_inputs(self, scheduler_output: Any) -> int:
        total_num_scheduled_tokens = scheduler_output.total_num_scheduled_tokens
        tokens = list(scheduler_output.num_scheduled_tokens.values())
        num_reqs = len(tokens)
        max_num_scheduled_tokens = max(tokens, default=0)
        assert num_reqs <= total_num_scheduled_tokens
        return max_num_scheduled_tokens
