"""What the model gets."""

from __future__ import annotations

from simulator.profiles.machinery.traffic import Plan


class Tensor:
    """Numbers whose shape an observer can read, as little as of a real tensor."""

    def __init__(self, size: int) -> None:
        self._size = size

    def size(self) -> int:
        """Count the numbers."""
        return self._size


class ModelInputsDelta:
    """How a decode differs from the batch before."""

    def __init__(self, plan: Plan) -> None:
        self.max_q_seqlen = 1
        self.max_kv_seqlen = max(request.num_computed_tokens for request, _ in plan.entries)
        self.sum_kv_seqlen = plan.kv_tokens
        self.is_decoding = True
        self.plan = plan


class ModelInputs:
    """A batch."""

    def __init__(self, plan: Plan) -> None:
        self.input_ids = Tensor(plan.scheduled_tokens)
        self.seq_length = Tensor(plan.requests)
        self.is_decoding = plan.prefill_tokens == 0
        self.max_q_seqlen = max(tokens for _, tokens in plan.entries)
        self.max_kv_seqlen = max(request.num_computed_tokens for request, _ in plan.entries)
        self.sum_kv_seqlen = plan.kv_tokens
        self.is_dummy = False
        self.is_chunk = False
        self.is_first_chunk = False
        self.is_last_chunk = False
        self.model_metas = [None] * plan.requests
        self.plan = plan
