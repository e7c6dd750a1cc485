"""This package holds the engine core, its client, and the messages between them."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulator.replica.disturbances import Disturbances


@dataclass(slots=True)
class EngineCoreRequest:
    """What the API server asks of the engine core for one prompt."""

    request_id: str
    prompt_token_ids: list[int]
    max_tokens: int


@dataclass(slots=True)
class RequestTimes:
    """When things happened to a finished request, on the monotonic clock."""

    queued_at_seconds: float
    scheduled_at_seconds: float
    first_token_at_seconds: float
    finished_at_seconds: float


@dataclass(slots=True)
class EngineCoreOutput:
    """The new tokens of one request in one iteration."""

    request_id: str
    new_token_ids: list[int]
    finish_reason: str | None = None
    times: RequestTimes | None = None


@dataclass(slots=True)
class SchedulerStats:
    """The state of the scheduler at the end of one iteration, and what the iteration did."""

    num_running_reqs: int
    num_waiting_reqs: int
    kv_cache_usage_ratio: float
    iteration_tokens: int = 0
    num_preempted_reqs: int = 0


@dataclass(slots=True)
class EngineCoreOutputs:
    """Everything one iteration tells the API server, or the answer to one utility call."""

    outputs: list[EngineCoreOutput] = field(default_factory=list)
    # None when no iteration ran: an answer, or a change of the queue alone.
    scheduler_stats: SchedulerStats | None = None
    iteration_ran: bool = False
    utility_call_id: int | None = None
    utility_result: float | Disturbances | None = None


@dataclass(slots=True)
class EngineCoreReady:
    """The engine core's first message: it can serve."""

    core_pid: int
    worker_pid: int


@dataclass(slots=True)
class EngineCoreDead:
    """The engine core's last message when it cannot go on."""

    reason: str
