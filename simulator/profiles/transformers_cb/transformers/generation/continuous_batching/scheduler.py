"""The scheduler."""

from __future__ import annotations

from simulator.profiles.machinery.traffic import Batcher, Plan, Request
from simulator.profiles.transformers_cb.transformers.generation.continuous_batching.requests import (  # noqa: E501
    FutureRequestState,
)


class FIFOScheduler:
    """First come, first served."""

    def __init__(self) -> None:
        self.active_requests: dict[str, Request] = {}
        self.waiting_requests: dict[str, Request] = {}
        self._batcher = Batcher()

    def add_waiting_requests(self, requests: list[Request]) -> None:
        """Queue requests."""
        for request in requests:
            self.waiting_requests[request.request_id] = request
        self._batcher.waiting.extend(requests)

    def has_pending_requests(self) -> bool:
        """Say whether a request waits or runs."""
        return bool(self.active_requests or self.waiting_requests)

    def schedule_batch(self) -> tuple[list[FutureRequestState], int, int, Plan]:
        """Take the next batch."""
        plan = self._batcher.next_mixed()
        for request, _ in plan.entries:
            if self.waiting_requests.pop(request.request_id, None) is not None:
                self.active_requests[request.request_id] = request
        requests_in_batch = [
            FutureRequestState(request, not request.is_prefilling, tokens)
            for request, tokens in plan.entries
        ]
        max_kv_read = plan.kv_tokens - plan.scheduled_tokens
        return requests_in_batch, plan.scheduled_tokens, max_kv_read, plan

    def finish(self, plan: Plan) -> int:
        """Let go of finished requests; how many there were."""
        for request in plan.finished:
            del self.active_requests[request.request_id]
        return self._batcher.finish(plan)
