"""A request as the scheduler sees it: how many tokens it has, and how many are computed."""

from __future__ import annotations

import enum

from simulator.replica.vllm.v1.engine import EngineCoreRequest


class RequestStatus(enum.IntEnum):
    """Where a request is in its life."""

    WAITING = 1
    RUNNING = 2
    PREEMPTED = 3
    FINISHED = 4


class Request:
    """A request from its arrival in the engine core to its last token."""

    def __init__(self, core_request: EngineCoreRequest, *, queued_at_seconds: float) -> None:
        self.request_id = core_request.request_id
        self.prompt_token_ids = core_request.prompt_token_ids
        self.max_tokens = core_request.max_tokens
        self.status = RequestStatus.WAITING
        self.num_prompt_tokens = len(core_request.prompt_token_ids)
        self.num_output_tokens = 0
        # Tokens whose KV exists, or will exist when the batch in flight returns.
        self.num_computed_tokens = 0
        self.num_preemptions = 0
        self.queued_at_seconds = queued_at_seconds
        self.scheduled_at_seconds = 0.0
        self.first_token_at_seconds = 0.0

    @property
    def num_tokens(self) -> int:
        """Count the prompt and what was generated so far."""
        return self.num_prompt_tokens + self.num_output_tokens
