"""The V0 scheduler: prefills first, and alone in their batch."""

from __future__ import annotations

import time
from typing import Any

from simulator.profiles.machinery.traffic import Batcher, Plan


class SequenceGroupMetadata:
    """One request of a batch."""

    def __init__(self, request_id: str, is_prompt: bool, token_chunk_size: int) -> None:
        self.request_id = request_id
        self.is_prompt = is_prompt
        self.token_chunk_size = token_chunk_size


class SchedulerOutputs:
    """What was decided."""

    def __init__(self, plan: Plan, running_queue_size: int) -> None:
        self.scheduled_seq_groups = [request for request, _ in plan.entries]
        self.num_prefill_groups = plan.prefill_requests
        self.num_batched_tokens = plan.scheduled_tokens
        self.running_queue_size = running_queue_size
        self.plan = plan


class Scheduler:
    """Decide what runs in the next step."""

    def __init__(self) -> None:
        self.batcher = Batcher()
        self.waiting = self.batcher.waiting

    def has_unfinished_seqs(self) -> bool:
        """Say whether a request waits or runs."""
        return self.batcher.has_unfinished

    def schedule(self) -> tuple[list[Any], SchedulerOutputs, bool]:
        """Take the next batch."""
        scheduler_start_time = time.perf_counter()
        scheduler_outputs = self._schedule()
        seq_group_metadata_list = [
            SequenceGroupMetadata(request.request_id, tokens > 1, tokens)
            for request, tokens in scheduler_outputs.plan.entries
        ]
        assert scheduler_start_time
        return seq_group_metadata_list, scheduler_outputs, True

    def _schedule(self) -> SchedulerOutputs:
        plan = self.batcher.next_separate() or Plan([], 0)
        return SchedulerOutputs(plan, len(self.batcher.running))
