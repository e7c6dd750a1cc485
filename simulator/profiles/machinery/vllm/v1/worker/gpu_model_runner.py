"""Model runner V1 since 0.12, with the locals that an observer may read."""

from __future__ import annotations

from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.settings import add_settings
from simulator.profiles.machinery.torch.cuda.streams import Event
from simulator.profiles.machinery.vllm.v1.worker.gpu_input_batch import InputBatch

PADDING_TOKENS = 8


class GPUModelRunner:
    """Run batches on the pretended device."""

    def __init__(self, host: Host, *, with_adapters: bool = False) -> None:
        add_settings(self)
        self.input_batch = InputBatch()
        self._with_adapters = with_adapters
        self.model = host.stream()
        self.execute_model_state: Any = None

    def execute_model(self, scheduler_output: Any) -> Any:
        """Forward; the tokens are asked for by another call."""
        num_scheduled_tokens = scheduler_output.total_num_scheduled_tokens
        self._update_states(scheduler_output)
        req_ids = list(scheduler_output.num_scheduled_tokens)
        num_reqs = len(req_ids)
        tokens = [scheduler_output.num_scheduled_tokens[i] for i in req_ids]
        max_num_scheduled_tokens = max(tokens, default=0)
        num_tokens_unpadded = num_scheduled_tokens
        num_tokens_padded = -(-num_tokens_unpadded // PADDING_TOKENS) * PADDING_TOKENS
        num_reqs_padded = num_reqs
        should_ubatch = use_spec_decode = False
        self._prepare_inputs(scheduler_output, tokens)
        hidden_states = self._model_forward(
            num_tokens_padded if max_num_scheduled_tokens > 1 else 0
        )
        self.execute_model_state = (
            req_ids,
            scheduler_output,
            hidden_states,
            num_reqs_padded,
            should_ubatch,
            use_spec_decode,
        )
        return None

    def _update_states(self, scheduler_output: Any) -> None:
        self.finished = scheduler_output.finished_req_ids
        if self._with_adapters:
            self.input_batch.update(scheduler_output.num_scheduled_tokens)

    def _prepare_inputs(self, scheduler_output: Any, num_scheduled_tokens: list[int]) -> None:
        total_num_scheduled_tokens = scheduler_output.total_num_scheduled_tokens
        assert total_num_scheduled_tokens == sum(num_scheduled_tokens)

    def _model_forward(self, prefill_tokens: int) -> Event:
        self.model.spend_launch()
        return self.model.launch(prefill_tokens)

    def sample_tokens(self, grammar_output: Any) -> list[str]:
        """Choose the tokens of the batch that was forwarded last."""
        del grammar_output
        req_ids, _, hidden_states = self.execute_model_state[:3]
        return self._bookkeeping_sync(self._sample(req_ids), hidden_states)

    def _sample(self, req_ids: list[str]) -> list[str]:
        return list(req_ids)

    def _bookkeeping_sync(self, req_ids: list[str], copy_event: Event) -> list[str]:
        # A forward pass is only launched; the copy of its tokens is what waits for it.
        copy_event.synchronize()
        self.execute_model_state = None
        return req_ids
