"""The model runner turns the scheduler's decision into one forward pass and new tokens."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.replica.config import ReplicaConfig
from simulator.replica.disturbances import DisturbedForward, Forward
from simulator.replica.vllm.model_executor.models.synthetic import SyntheticForCausalLM
from simulator.replica.vllm.v1.core.sched.output import SchedulerOutput
from simulator.replica.vllm.v1.outputs import ModelRunnerOutput


def padded_tokens(num_tokens: int) -> int:
    """Round up to the batch sizes for which vLLM captures graphs: 1, 2, 4, then multiples of 8."""
    if num_tokens <= 2:
        return num_tokens
    if num_tokens <= 4:
        return 4
    return -(-num_tokens // 8) * 8


@dataclass(slots=True)
class CachedRequestState:
    """What the worker remembers of a request between batches."""

    num_prompt_tokens: int
    num_computed_tokens: int
    num_output_tokens: int


class GPUModelRunner:
    """Compute batches one by one: `execute_model`, then `sample_tokens`."""

    def __init__(self, config: ReplicaConfig) -> None:
        self.config = config
        self.model = SyntheticForCausalLM(
            max_tokens=padded_tokens(config.max_batched_tokens),
            max_requests=config.max_requests_in_batch,
            work_ratio=config.work_ratio,
        )
        self._forward: Forward = self.model.forward
        self.requests: dict[str, CachedRequestState] = {}
        self._last_positions = np.zeros(config.max_requests_in_batch, dtype=np.int64)
        self._kv_tokens = 0
        self._batch: SchedulerOutput | None = None

    def warm_up(self) -> None:
        """Touch every buffer once, so that the first batch costs what the later ones cost."""
        for _ in range(3):
            self.model.forward(num_tokens=self.config.max_batched_tokens, kv_tokens=4_096)
            self.model.forward(num_tokens=1, kv_tokens=1)
            self.model.sample(self.config.max_requests_in_batch)

    def disturb(self, *, compile_pause_ms: float, delay_ms: float) -> None:
        """Make the forward pass wait; with zeros it is as it was."""
        self._forward = self.model.forward
        if compile_pause_ms or delay_ms:
            self._forward = DisturbedForward(
                self.model.forward, compile_pause_ms=compile_pause_ms, delay_ms=delay_ms
            )

    def execute_model(self, scheduler_output: SchedulerOutput) -> None:
        """Compute a batch and keep it for `sample_tokens`."""
        num_scheduled_tokens = scheduler_output.total_num_scheduled_tokens
        self._update_states(scheduler_output)
        req_ids = list(scheduler_output.num_scheduled_tokens)
        tokens = list(scheduler_output.num_scheduled_tokens.values())
        num_reqs = len(req_ids)
        max_num_scheduled_tokens = max(tokens)
        num_tokens_unpadded = num_scheduled_tokens
        kv_tokens = self._prepare_inputs(req_ids, tokens)
        num_tokens_padded = padded_tokens(num_tokens_unpadded)
        # A decode batch has one token per request: both are padded alike.
        num_reqs_padded = padded_tokens(num_reqs) if max_num_scheduled_tokens == 1 else num_reqs
        self._model_forward(num_tokens_padded, kv_tokens)
        self._last_positions[num_reqs:num_reqs_padded] = 0
        self._batch = scheduler_output

    def _update_states(self, scheduler_output: SchedulerOutput) -> None:
        for req_id in scheduler_output.finished_req_ids:
            self.requests.pop(req_id, None)
        for new in scheduler_output.scheduled_new_reqs:
            self.requests[new.req_id] = CachedRequestState(
                num_prompt_tokens=len(new.prompt_token_ids),
                num_computed_tokens=new.num_computed_tokens,
                num_output_tokens=0,
            )
        cached = scheduler_output.scheduled_cached_reqs
        for req_id, num_computed_tokens, num_output_tokens in zip(
            cached.req_ids, cached.num_computed_tokens, cached.num_output_tokens, strict=True
        ):
            state = self.requests[req_id]
            state.num_computed_tokens = num_computed_tokens
            state.num_output_tokens = num_output_tokens

    def _prepare_inputs(self, req_ids: list[str], tokens: list[int]) -> int:
        """Find the last position of each request; their sum is the KV that attention reads."""
        kv_tokens = 0
        for index, (req_id, num_tokens) in enumerate(zip(req_ids, tokens, strict=True)):
            last_position = self.requests[req_id].num_computed_tokens + num_tokens
            self._last_positions[index] = last_position
            kv_tokens += last_position
        return kv_tokens

    def _model_forward(self, num_tokens_padded: int, kv_tokens: int) -> None:
        self._forward(num_tokens=num_tokens_padded, kv_tokens=kv_tokens)

    def sample_tokens(self) -> ModelRunnerOutput:
        """Draw one token for each request whose prompt is all computed."""
        scheduler_output = self._batch
        if scheduler_output is None:
            raise RuntimeError("sample_tokens came before execute_model: call execute_model first")
        self._batch = None
        req_ids = list(scheduler_output.num_scheduled_tokens)
        sampled = self._sample(len(req_ids))
        return self._bookkeeping_sync(req_ids, sampled)

    def _sample(self, num_reqs: int) -> npt.NDArray[np.int64]:
        return self.model.sample(num_reqs)

    def _bookkeeping_sync(
        self, req_ids: list[str], sampled: npt.NDArray[np.int64]
    ) -> ModelRunnerOutput:
        token_ids = sampled.tolist()
        sampled_token_ids: list[list[int]] = []
        for index, req_id in enumerate(req_ids):
            state = self.requests[req_id]
            num_tokens = state.num_prompt_tokens + state.num_output_tokens
            prompt_is_computed = int(self._last_positions[index]) >= num_tokens
            sampled_token_ids.append([token_ids[index]] if prompt_is_computed else [])
        return ModelRunnerOutput(req_ids=req_ids, sampled_token_ids=sampled_token_ids)
