"""What was decided for one iteration."""

from __future__ import annotations

from simulator.profiles.machinery.traffic import Plan, Request


class LlmRequest:
    """A request in a batch."""

    def __init__(self, request: Request, tokens: int) -> None:
        self.py_request_id = request.request_id
        self.context_chunk_size = tokens
        self.py_batch_idx: int | None = None


class ScheduledRequests:
    """The requests of a batch, by what is done with them."""

    def __init__(self, plan: Plan) -> None:
        self.context_requests = []
        self.generation_requests = []
        self.paused_requests: list[LlmRequest] = []
        for request, tokens in plan.entries:
            scheduled = LlmRequest(request, tokens)
            if tokens > 1:
                self.context_requests.append(scheduled)
            else:
                self.generation_requests.append(scheduled)
        self.plan = plan

    @property
    def batch_size(self) -> int:
        """Count the requests."""
        return len(self.context_requests) + len(self.generation_requests)
