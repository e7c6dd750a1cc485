"""What the scheduler decided for one iteration."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass
class NewRequestData:
    """A request that the worker sees for the first time."""

    req_id: str
    prompt_token_ids: list[int]
    block_ids: list[int]
    num_computed_tokens: int


@dataclass
class CachedRequestData:
    """The requests that the worker knows already, as parallel lists."""

    req_ids: list[str] = field(default_factory=list)
    resumed_req_ids: set[str] = field(default_factory=set)
    new_block_ids: list[list[int]] = field(default_factory=list)
    num_computed_tokens: list[int] = field(default_factory=list)
    num_output_tokens: list[int] = field(default_factory=list)

    @property
    def num_reqs(self) -> int:
        """Count the requests."""
        return len(self.req_ids)


@dataclass
class SchedulerOutput:
    """The batch of one iteration; the sum of `num_scheduled_tokens` equals the total."""

    scheduled_new_reqs: list[NewRequestData]
    scheduled_cached_reqs: CachedRequestData
    num_scheduled_tokens: dict[str, int]
    total_num_scheduled_tokens: int
    # Finished between the previous iteration and this one: the worker forgets them.
    finished_req_ids: set[str]
    preempted_req_ids: set[str] = field(default_factory=set)
