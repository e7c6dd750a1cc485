"""What the scheduler hands to the executor."""

from __future__ import annotations

from typing import Any

from simulator.profiles.machinery.traffic import Plan


class NewRequestData:
    """A request that runs for the first time."""

    def __init__(self, req_id: str, num_computed_tokens: int) -> None:
        self.req_id = req_id
        self.num_computed_tokens = num_computed_tokens


class CachedRequestData:
    """The requests that the workers know: one list per attribute."""

    def __init__(self) -> None:
        self.req_ids: list[str] = []
        self.num_computed_tokens: list[int] = []


class SchedulerOutput:
    """One batch."""

    def __init__(self, plan: Plan, finished_req_ids: set[str]) -> None:
        self.scheduled_new_reqs: list[NewRequestData] = []
        self.scheduled_cached_reqs = CachedRequestData()
        self.num_scheduled_tokens: dict[str, int] = {}
        # What the drafter guessed; requests without a guess are not in it.
        self.scheduled_spec_decode_tokens: dict[str, list[int]] = {}
        self.total_num_scheduled_tokens = plan.scheduled_tokens
        self.finished_req_ids = finished_req_ids
        self.preempted_req_ids: set[str] = set()
        self.plan: Plan | None = plan
        for request, tokens in plan.entries:
            self.num_scheduled_tokens[request.request_id] = tokens
            computed = request.num_computed_tokens - tokens
            if computed >= request.num_prompt_tokens and tokens > 1:
                self.scheduled_spec_decode_tokens[request.request_id] = [-1] * (tokens - 1)
            if computed == 0:
                self.scheduled_new_reqs.append(NewRequestData(request.request_id, computed))
            else:
                self.scheduled_cached_reqs.req_ids.append(request.request_id)
                self.scheduled_cached_reqs.num_computed_tokens.append(computed)

    def __getstate__(self) -> dict[str, Any]:
        """Keep the truth in the core's process."""
        return {**self.__dict__, "plan": None}
