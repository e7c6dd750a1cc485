"""The tensors of a batch."""

from __future__ import annotations

from typing import Any

from simulator.profiles.machinery.traffic import Plan


class ContinuousBatchingIOs:
    """Inputs and outputs of the batch that runs."""

    def __init__(self) -> None:
        self.num_q_tokens = 0
        self.max_kv_read = 0
        self.total_seqlen_q = 0
        self.num_request_in_batch = 0
        self.true_read_sizes = [0]
        self.true_write_sizes = [0]
        self.use_block_table = False
        self.requests_in_batch: list[Any] = []
        self.plan: Plan | None = None

    def prepare_batch_tensors(
        self, requests_in_batch: list[Any], num_q_tokens: int, max_kv_read: int, plan: Plan
    ) -> None:
        """Lay out a batch."""
        self.num_q_tokens = num_q_tokens
        self.max_kv_read = max_kv_read
        self.num_request_in_batch = len(requests_in_batch)
        self.requests_in_batch = []
        for future_state in requests_in_batch:
            self.requests_in_batch.append(future_state)
        self.total_seqlen_q = num_q_tokens
        self.true_read_sizes = [max_kv_read]
        self.true_write_sizes = [num_q_tokens]
        self.plan = plan

    def get_model_kwargs(self) -> int:
        """Give what the model needs: here only how long the prompts are."""
        assert self.plan is not None
        return self.plan.prefill_tokens

    def retrieve_device_outputs(self) -> int:
        """Copy the tokens."""
        return self.num_request_in_batch

    def prepare_batch_update(self) -> tuple[list[Any], Plan]:
        """Give the batch back."""
        assert self.plan is not None
        return self.requests_in_batch, self.plan
