"""The model and its batches."""

from __future__ import annotations

import itertools
import time
from typing import Any

from simulator.profiles.machinery.host import Host
from simulator.profiles.machinery.traffic import Plan

_BATCH_IDS = itertools.count()


class FlashCausalLMBatch:
    """A batch that lives through many calls."""

    def __init__(self, requests: list[Any], input_lengths: list[int]) -> None:
        self.batch_id = next(_BATCH_IDS)
        self.requests = requests
        self.input_lengths = input_lengths
        self.cache_lengths = [0] * len(requests)
        self.prefilling = True
        self.max_input_length = max(input_lengths, default=0)
        self.max_current_length = self.max_input_length

    @classmethod
    def from_pb(cls, plan: Plan) -> FlashCausalLMBatch:
        """Make a batch of new requests."""
        requests = [request for request, _ in plan.entries]
        return cls(requests, [tokens for _, tokens in plan.entries])

    @classmethod
    def concatenate(cls, batches: list[Any]) -> FlashCausalLMBatch:
        """Make one batch of several."""
        batch = cls([], [])
        for other in batches:
            batch.requests = batch.requests + other.requests
            batch.input_lengths = batch.input_lengths + other.input_lengths
            batch.cache_lengths = batch.cache_lengths + other.cache_lengths
        batch.prefilling = False
        return batch

    def filter(self, plan: Plan) -> None:
        """Keep the requests that go on."""
        self.requests = [request for request, _ in plan.entries]
        self.input_lengths = [1] * len(self.requests)
        self.cache_lengths = [request.num_computed_tokens - 1 for request in self.requests]
        self.max_current_length = max(self.cache_lengths, default=0) + 1
        self.prefilling = False


class FlashCausalLM:
    """Run batches on the pretended device."""

    def __init__(self, host: Host) -> None:
        self.model = host.stream()

    def generate_token(
        self, batch: FlashCausalLMBatch
    ) -> tuple[list[int], FlashCausalLMBatch, tuple[int, int]]:
        """Forward and sample."""
        start = time.time_ns()
        prefill = batch.prefilling
        if prefill:
            self.prepare_for_prefill(batch)
        self.forward(batch)
        start_decode = time.time_ns()
        batch.prefilling = False
        generations = list(range(len(batch.requests)))
        return generations, batch, (start_decode - start, time.time_ns() - start_decode)

    def prepare_for_prefill(self, batch: FlashCausalLMBatch) -> None:
        """Lay out the prompts."""
        self.cu_seqlen_prefill = list(itertools.accumulate(batch.input_lengths))

    def forward(self, batch: FlashCausalLMBatch) -> None:
        """Compute."""
        bs = sum(batch.input_lengths)
        max_s = batch.max_current_length
        assert max_s
        self.model.launch(bs if batch.prefilling else 0).synchronize()
