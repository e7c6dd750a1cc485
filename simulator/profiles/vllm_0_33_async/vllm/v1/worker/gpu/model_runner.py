"""Model runner V2: everything is launched, nothing is waited for."""

from __future__ import annotations

from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.vllm_0_33_async.vllm.v1.worker.gpu.async_utils import AsyncOutput


class GPUModelRunner:
    """Launch batches on the pretended device."""

    def __init__(self, host: Host) -> None:
        self.main_stream = host.stream()
        self.execute_model_state: Any = None

    def execute_model(self, scheduler_output: Any, dummy_run: bool = False) -> Any:
        """Launch the forward pass."""
        num_toks = scheduler_output.total_num_scheduled_tokens
        if num_toks == 0:
            return []
        num_reqs = len(scheduler_output.num_scheduled_tokens)
        max_query_len = max(scheduler_output.num_scheduled_tokens.values())
        uniform_tok_count = 1 if num_toks == num_reqs else None
        input_batch = self.prepare_inputs(scheduler_output, num_toks)
        prefill_tokens = 0 if uniform_tok_count or max_query_len == 1 else num_toks
        assert not dummy_run
        self.execute_model_state = (input_batch, self.main_stream.launch(prefill_tokens))
        return None

    def prepare_inputs(self, scheduler_output: Any, num_tokens: int) -> list[str]:
        """Order the requests."""
        num_reqs = len(scheduler_output.num_scheduled_tokens)
        assert num_reqs <= num_tokens
        return list(scheduler_output.num_scheduled_tokens)

    def sample_tokens(self, grammar_output: Any) -> AsyncOutput:
        """Launch the sampling."""
        del grammar_output
        input_batch, event = self.execute_model_state
        self.execute_model_state = None
        return AsyncOutput(input_batch, event)
